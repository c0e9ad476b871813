"""A report as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2
import yaml

from hf_fsl.core.files import write_text
from hf_fsl.search.report.figures import figures
from hf_fsl.search.report.record import SearchReport
from hf_fsl.search.report.terminal import interval, measured, value

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


def render_page(report: SearchReport) -> str:
    """The page: verdict, front, hypervolume, importances, retrained table, tests, chosen config, every trial."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.filters |= {"value": value, "measured": measured, "interval": interval}
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    pictures = {name: base64.b64encode(png).decode() for name, png in figures(report).items()}
    return template.render(
        report=report,
        pictures=pictures,
        config=yaml.safe_dump(report.peft_config, sort_keys=True) if report.peft_config else "",
    )


def write_report(report: SearchReport, folder: str | Path) -> tuple[Path, Path]:
    """``report.json`` and ``report.html`` in a folder."""
    folder = Path(folder)
    return report.save(folder / "report.json"), write_text(folder / "report.html", render_page(report))
