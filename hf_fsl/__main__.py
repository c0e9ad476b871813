"""``python -m hf_fsl`` is the ``hf-fsl`` command."""

from hf_fsl.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
