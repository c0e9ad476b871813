"""``hf-fsl hub serve`` and ``hf-fsl hub seed``: a Hub of one's own on loopback."""

from __future__ import annotations

import argparse
import os
from typing import Any

from hf_fsl.core.paths import recipes_folder


def add_commands(commands: Any) -> None:
    hub = commands.add_parser("hub", help="a local Hub: serve it, put models and data sets into it")
    actions = hub.add_subparsers(metavar="ACTION", required=True)

    serve = actions.add_parser(
        "serve",
        help="serve a folder as a Hub",
        description="Clients reach it with HF_ENDPOINT=http://HOST:PORT and HF_HUB_DISABLE_XET=1. "
        "With HF_FSL_HUB_TOKEN set, they must give that token.",
    )
    serve.add_argument("--root", required=True, help="folder that holds the repositories")
    serve.add_argument("--host", default="127.0.0.1", help="default: loopback only")
    serve.add_argument("--port", type=int, default=8000)
    serve.set_defaults(run=_serve)

    seed = actions.add_parser("seed", help="put MiniLM and the data sets of hf_fsl into a Hub")
    seed.add_argument("--endpoint", default=os.environ.get("HF_ENDPOINT"), help="default: HF_ENDPOINT")
    seed.set_defaults(run=_seed)


def _serve(options: argparse.Namespace) -> int:
    from hf_fsl.hub.local import serve

    serve(options.root, host=options.host, port=options.port, token=os.environ.get("HF_FSL_HUB_TOKEN"))
    return 0


def _seed(options: argparse.Namespace) -> int:
    from hf_fsl.hub.seed import seed

    if not options.endpoint:
        print("Which Hub? Set HF_ENDPOINT or give --endpoint, for example http://127.0.0.1:8000.")
        return 2
    seed(options.endpoint, token=os.environ.get("HF_TOKEN"), recipes=recipes_folder())
    return 0
