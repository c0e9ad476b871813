"""The ``hf-fsl`` command. Each sub-command imports what it needs when it runs."""

from hf_fsl.cli.main import main

__all__ = ["main"]
