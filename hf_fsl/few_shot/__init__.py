"""What the few-shot recipe does: examples in pools, episodes answered by several methods, the record of it."""
