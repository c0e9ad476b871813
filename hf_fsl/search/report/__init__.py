"""What a search says in the end: one JSON, one page, a few pictures, the same in the terminal."""

from hf_fsl.search.report.build import against_chance, build_report, compare_members, member_row
from hf_fsl.search.report.figures import figures
from hf_fsl.search.report.page import render_page, write_report
from hf_fsl.search.report.record import Chance, ComparisonRow, MemberRow, SearchReport, TrialRow
from hf_fsl.search.report.terminal import lines
from hf_fsl.search.report.verdict import judge

__all__ = [
    "Chance",
    "ComparisonRow",
    "MemberRow",
    "SearchReport",
    "TrialRow",
    "against_chance",
    "build_report",
    "compare_members",
    "figures",
    "judge",
    "lines",
    "member_row",
    "render_page",
    "write_report",
]
