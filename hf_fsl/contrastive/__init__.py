"""Image-text contrastive training: towers, augmentation, gradient caching, zero-shot evaluation, publishing."""
