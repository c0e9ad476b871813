"""What a search says in the end: one JSON, one page, a few pictures, the same in the terminal."""

from hf_fsl.search.report.build import build_report, chance_loss, compare_members, member_row
from hf_fsl.search.report.figures import figures
from hf_fsl.search.report.page import render_page, write_report
from hf_fsl.search.report.record import AuditRow, ComparisonRow, MemberRow, SearchReport, TrialRow
from hf_fsl.search.report.terminal import lines
from hf_fsl.search.report.verdict import judge

__all__ = [
    "AuditRow",
    "ComparisonRow",
    "MemberRow",
    "SearchReport",
    "TrialRow",
    "build_report",
    "chance_loss",
    "compare_members",
    "figures",
    "judge",
    "lines",
    "member_row",
    "render_page",
    "write_report",
]
