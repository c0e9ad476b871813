"""Whatever labels, names, licenses and paths hold, a card keeps its structure and shows them as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hf_fsl.core.records import load_record
from hf_fsl.hub import cards
from hf_fsl.hub.cards import card_template, render_card, render_classifier_card

HOSTILE = (
    "</details>\r\n# big\n[click](javascript:x) ![i](//e) <script>x</script>|`x` ```\n```\n\x1b[2J\x07 \ud83d \u202e"
    "&lt; https://evil.example www.evil.example __b__ **zz** ~~d~~ $$e$$ \\| {{ f }} --- \"'"
)
RECORDS = sorted((Path(__file__).parents[2] / "model_cards").glob("*/run_record.json"))
NAMES = ("name", "license", "base_license", "hardware", "language", "support", "query", "reason", "method",
         "published_as", "of", "verdict", "chosen_because", "description", "torch", "tags", "template")  # fmt: skip


def spoil(value: Any, label: dict[str, str]) -> Any:
    """What others may have written, made hostile: labels everywhere, values under the keys above."""
    if isinstance(value, str):
        return label.get(value, value)
    if isinstance(value, list):
        return [spoil(item, label) for item in value]
    if isinstance(value, dict):
        return {
            label.get(key, key): HOSTILE
            if key in NAMES and isinstance(item, (str, type(None)))
            else spoil(item, label)
            for key, item in value.items()
        }
    if hasattr(value, "__dataclass_fields__"):
        for key, item in vars(value).items():
            setattr(value, key, spoil({key: item}, label)[key])
    return value


def outside_code(card: str) -> list[str]:
    """The lines of a card's text that are in no block of code."""
    lines, fence = [], ""
    for line in ModelCard(card).text.splitlines():
        found = re.match(r"`{3,}", line)
        if fence and line == fence:
            fence = ""
        elif found and not fence:
            fence = found[0]
        elif not fence:
            lines.append(line)
    assert not fence
    return lines


def structure(lines: list[str]) -> tuple[list[str], list[str], list[int]]:
    """Headings (without what they say), HTML, and the number of cells of each row."""
    plain = [re.sub(r"(?<!\\)`[^`]+`", "", line) for line in lines]
    html = [tag for line in plain for tag in re.findall(r"(?<!\\)</?[A-Za-z!][^>]*>", line)]
    cells = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in plain if line.startswith("|")]
    return [line.split()[0] for line in plain if re.match("#+ ", line)], html, cells


def check(card: str, benign: str) -> None:
    card.encode()  # no halves of surrogate pairs
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", ModelCard(card).text)
    lines = outside_code(card)
    assert structure(lines) == structure(outside_code(benign))
    text = re.sub(r"(?<!\\)`[^`]+`", "", "\n".join(lines))
    assert not re.search(r"(?<!\\)(?:\]\(javascript|:(?=//evil)|&lt;)", text)
    assert not re.search(r"(?<!\\)(?:\*\*zz|__b|~~d|\$\$e|www\.evil)", text)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_hostile_names_leave_a_card_as_it_is(path: Path) -> None:
    record, benign = load_record(path), load_record(path)
    benign.data.revision = None
    classes = record.data.splits["test"].class_counts
    label = {name: f"{number}{HOSTILE}" for number, name in enumerate(classes)}
    spoil(record, label)
    record.data.revision, record.data.path = None, f"data/{HOSTILE}"
    record.config["hub"] |= {"license": HOSTILE, "language": HOSTILE, "tags": [HOSTILE], "hub_model_id": None}
    benign.config["hub"] |= {"license": "x", "language": "x", "tags": ["x"], "hub_model_id": None}
    record.config["output_dir"] = f"outputs/{HOSTILE}"
    record.command = f"accelerate launch x '{HOSTILE}'"
    card = render_card(record)
    check(card, render_card(benign))
    data = ModelCard(card).data
    assert data.license == HOSTILE and HOSTILE in data.tags
    assert type(record).from_json(record.to_json()) == record, "and the record can be written"


def test_a_classifiers_own_card_too() -> None:
    values: dict[str, Any] = {
        "title": "x", "repo": "x", "base": "x", "adapted": False, "modality": "text", "names": ["x"],
        "examples": ["x"], "shots": {"x": 1}, "published_as": "x", "stock": True, "reason": "x", "version": "1",
        "prompt": "x", "limit": 5,
    }  # fmt: skip
    hostile = {name: HOSTILE if value == "x" else value for name, value in values.items()}
    hostile |= {"names": [HOSTILE], "shots": {HOSTILE: 1}, "examples": [HOSTILE]}
    check(render_classifier_card(hostile, {}), render_classifier_card(values, {}))


def test_every_template_was_rendered_and_a_new_one_escapes_unasked() -> None:
    made = {load_record(path).recipe for path in RECORDS} | {"few_shot_classifier"}
    assert made == {
        path.name.partition(".")[0] for path in (Path(cards.__file__).parent / "templates").glob("[!_]*.jinja")
    }
    new = card_template("fine_tune").environment.from_string(
        "{{ name }}|{{ ', ' }}|{{ 1.5 }}|{{ '# a' }}|{{ '1. b' }}"
    )
    assert new.render(name="<b>*x*</b>_y a_b") == r"\<b>\*x\*\</b>\_y a_b|, |1.5|\# a|1\. b"
