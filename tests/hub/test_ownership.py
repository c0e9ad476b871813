"""What others put into a repository stays there, and so do their edits of the card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard

from hf_fsl.hub.ownership import merged_card, merged_values
from tests.helpers.pushing import REPO, TOKEN, content, push, titles

CARD = """---
license: mit
tags:
- hf_fsl
---
# things

It does.

| accuracy |
|---|
| {} |

## Limits

Many.
"""


@pytest.fixture
def token() -> str:
    return TOKEN


def put(api: HfApi, name: str, text: str) -> None:
    api.upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id=REPO)


def test_second_push_keeps_what_others_put_there(bundle: Path, endpoint: str, api: HfApi, tmp_path: Path) -> None:
    push(bundle, endpoint)
    put(api, "LICENSE", "theirs")
    put(api, "notes/README.md", "theirs")
    assert not push(bundle, endpoint).changed
    listed = json.loads(content(api, ".hf_fsl/pushed.json", tmp_path / "c"))["files"]
    assert {"config.json", "README.md"} <= set(listed) and "LICENSE" not in listed
    # Of an earlier push a file is left that this bundle does not have.
    put(api, "old.json", "{}")
    put(api, ".hf_fsl/pushed.json", json.dumps({"files": [*listed, "old.json", "gone.json"]}))
    assert push(bundle, endpoint).changed
    files = set(api.list_repo_files(REPO))
    assert {"LICENSE", "notes/README.md"} <= files and "old.json" not in files
    put(api, ".hf_fsl/pushed.json", "<html>")
    assert push(bundle, endpoint).changed and files == set(api.list_repo_files(REPO))


def test_edits_of_the_card_survive_the_next_push(bundle: Path, endpoint: str, api: HfApi, tmp_path: Path) -> None:
    push(bundle, endpoint)
    card = content(api, "README.md", tmp_path / "c").decode()
    edited = card.replace("license: apache-2.0", "license: mit\nextra: 1").replace(
        "## Limits", "Ask Ada.\n\n## Limits"
    )
    put(api, "README.md", edited)
    again = push(bundle, endpoint)
    assert not again.changed and again.note == ""
    # The same model under other words: the metrics are the new ones, the edits are there.
    readme = bundle / "README.md"
    readme.write_text(readme.read_text().replace("| accuracy | 0.8000 |", "| accuracy | 0.9000 |"))
    result = push(bundle, endpoint)
    assert result.changed and "README.md had been edited there; the edits are kept." in str(result)
    merged = ModelCard(content(api, "README.md", tmp_path / "c").decode())
    assert merged.data.license == "mit" and merged.data.extra == 1 and merged.data.model_name == "things"
    assert "Ask Ada." in merged.text and "| accuracy | 0.9000 |" in merged.text
    assert len(titles(api)) == 4 and not push(bundle, endpoint).changed


def test_a_card_that_was_there_first_comes_before_ours(
    bundle: Path, endpoint: str, api: HfApi, tmp_path: Path
) -> None:
    api.create_repo(REPO)
    put(api, "README.md", "---\nlicense: mit\n---\n# Ours\n")
    assert push(bundle, endpoint).changed
    card = ModelCard(content(api, "README.md", tmp_path / "c").decode())
    assert card.data.license == "mit" and card.data.pipeline_tag == "text-classification"
    assert card.text.index("# Ours") < card.text.index("# things")
    assert not push(bundle, endpoint).changed


def test_a_card_is_merged_by_passages() -> None:
    before, new = CARD.format("0.8"), CARD.format("0.9")
    assert merged_card("", new, None) == (new, "")
    assert merged_card(before, new, before) == (new, "")
    theirs = before.replace("Many.", "Few.").replace("mit", "apache-2.0").replace("- hf_fsl", "- hf_fsl\n- ours")
    card, note = merged_card(theirs, new, before)
    assert card == theirs.replace("0.8", "0.9") and note.endswith("are kept.")
    clashing, note = merged_card(before.replace("0.8", "0.85"), new, before)
    assert "0.85" not in clashing and "0.9" in clashing and "but for 1 passages that the new card writes anew" in note
    assert merged_card(theirs, new, card)[0] != "" and merged_card(new, new, None) == (new, "")
    earlier = before + "Made with [hf_fsl](https://pypi.org/project/hf-fsl/) once.\n"
    assert merged_card(earlier, new, None)[0] == new and "earlier hf_fsl" in merged_card(earlier, new, None)[1]
    broken = "---\na: [\n---\n# theirs\n"
    assert "# theirs" in merged_card(broken, new, None)[0]
    assert yaml.safe_load(merged_card(broken, new, None)[0].split("---\n")[1])["license"] == "mit"


def test_metadata_is_merged_by_values() -> None:
    before = {"license": "mit", "tags": ["a", "b"], "gone": 1, "kept": {"x": 1, "y": 1}}
    ours = {"license": "mit", "tags": ["a", "b", "new"], "gone": 2, "kept": {"x": 2, "y": 1}}
    theirs = {"license": "other", "tags": ["b", "theirs"], "kept": {"x": 1, "y": 3}, "own": True}
    assert merged_values(theirs, ours, before) == {
        "license": "other", "tags": ["b", "new", "theirs"], "kept": {"x": 2, "y": 3}, "own": True,
    }  # fmt: skip
