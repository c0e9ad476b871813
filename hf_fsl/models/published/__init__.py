"""What is published beside a few-shot model's weights, for those who load it without hf_fsl.

These files import torch, transformers and each other only, by relative imports: transformers copies them.
"""
