"""``hf-fsl card`` and ``hf-fsl push``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_fsl.config.sections import HubConfig, repo_id_problem
from hf_fsl.core.errors import UserError
from hf_fsl.core.terminal import printable


def add_commands(commands: Any) -> None:
    card = commands.add_parser("card", help="render the model card of a run record")
    card.add_argument("record", metavar="RECORD", help="run_record.json, or a folder that holds one")
    card.add_argument("--hub-model-id", help="repository named in the card's snippet")
    card.add_argument("--output", help="file to write; default: the standard output")
    card.set_defaults(run=_card)

    push = commands.add_parser("push", help="verify a bundle and push it to the Hub")
    push.add_argument("bundle", metavar="BUNDLE", help="the bundle/ folder of a run")
    push.add_argument("--hub-model-id", required=True, metavar="USER/NAME", help="the repository")
    push.add_argument("--private", action="store_true", help="where the repository is made by this push")
    push.add_argument("--revision", help="branch to push to; created where it does not exist")
    push.add_argument("--create-pr", action="store_true", help="as a pull request")
    push.add_argument("--message", help="of the commit")
    push.add_argument(
        "--push-anyway", action="store_true", help="even if it is not measurably better than the most frequent class"
    )
    push.set_defaults(run=_push)


def _card(options: argparse.Namespace) -> int:
    from hf_fsl.core.files import write_text
    from hf_fsl.core.records import load_record
    from hf_fsl.hub.cards import render_card

    path = Path(options.record)
    path = path / "run_record.json" if path.is_dir() else path
    try:
        record = load_record(path)
    except FileNotFoundError:
        raise UserError(f"There is no run record at {path}. A run writes run_record.json to its output_dir.") from None
    text = render_card(record, repo_id=options.hub_model_id)
    if options.output:
        write_text(options.output, text)
    else:
        print(text)
    return 0


def _push(options: argparse.Namespace) -> int:
    from hf_fsl.hub.push import push_bundle

    if (problem := repo_id_problem(options.hub_model_id)) is not None:
        raise UserError(f"--hub_model_id: {problem}.")
    hub = HubConfig(
        push_to_hub=True,
        hub_model_id=options.hub_model_id,
        hub_private_repo=options.private,
        revision=options.revision,
        create_pr=options.create_pr,
        commit_message=options.message,
        push_anyway=options.push_anyway,
    )
    result = push_bundle(Path(options.bundle), hub)
    print(printable(result))
    return 0
