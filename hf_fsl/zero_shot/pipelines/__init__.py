"""Pipelines of transformers' interface, for what its own cost too much or lack."""
