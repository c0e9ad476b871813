"""``hf-fsl search show``: what an adapter search found, or has found so far."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_fsl.core.errors import UserError
from hf_fsl.core.terminal import printable


def add_commands(commands: Any) -> None:
    search = commands.add_parser("search", help="look at an adapter search")
    actions = search.add_subparsers(metavar="ACTION", required=True)
    show = actions.add_parser(
        "show",
        help="print the front, the comparison and the verdict of a search",
        description="Prints a finished search's report, or what a running one has found so far.",
    )
    show.add_argument(
        "study", metavar="STUDY", help="output_dir of a search, its report.json, or the URL of a study's storage"
    )
    show.add_argument("--name", help="of the study, where the storage has several")
    show.add_argument("--live", action="store_true", help="read the study itself, even where there is a report")
    show.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    from hf_fsl.search.report.live import read_study
    from hf_fsl.search.report.record import SearchReport
    from hf_fsl.search.report.terminal import lines

    path = Path(options.study)
    report_file = path / "report.json" if path.is_dir() else path
    if "://" in options.study:
        report = read_study(options.study, options.name)
    elif report_file.is_file() and not options.live:
        report = SearchReport.load(report_file)
    elif (path / "study.db").is_file():
        report = read_study(f"sqlite:///{(path / 'study.db').absolute()}", options.name)
    else:
        raise UserError(
            f"There is no search at {options.study}: neither report.json nor study.db. Give the output_dir of "
            "search_adapters, or the URL of the storage that its search.storage names."
        )
    for line in lines(report):
        print(printable(line))
    return 0
