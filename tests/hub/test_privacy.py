"""What is published names no path of this machine, and shows no examples of data that are not public."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModelForSequenceClassification

from hf_fsl.config import AdapterConfig, HubConfig
from hf_fsl.core.paths import portable_text
from hf_fsl.core.records import RunRecord
from hf_fsl.hub import privacy
from hf_fsl.hub.bundle import write_bundle
from hf_fsl.hub.cards import render_card
from hf_fsl.hub.privacy import LocalPathError, forget_sources, published, require_no_local_paths
from hf_fsl.hub.push import push_files
from hf_fsl.models.adapters import attach_adapter, merge_adapter
from tests.helpers.tiny_models import build_model, write_tokenizer

MakeRecord = Callable[..., RunRecord]
SECRET = "the patient was sent home"


@pytest.fixture
def local_record(make_record: MakeRecord, tmp_path: Path) -> RunRecord:
    """Of a run on files of this machine, from a model of this machine."""
    data, base = tmp_path / "clinic" / "notes.csv", tmp_path / "clinic" / "base"
    record = make_record(hub={"hub_model_id": None}, examples=[{"input": SECRET, "label": "film", "score": 0.9}])
    record.data.path, record.data.revision, record.data.public = str(data), None, None
    record.model.base_model, record.model.base_revision = str(base), None
    record.config |= {"output_dir": "outputs/things"}
    record.config["data"] = {"path": str(data), "data_files": {"train": [str(data)]}}
    record.command = (
        f"accelerate launch recipes/fine_tune.py --data.path={data} --storage sqlite:///{tmp_path}/study.db"
    )
    return record


def test_a_bundle_of_local_sources_says_nothing_of_them(local_record: RunRecord, tmp_path: Path) -> None:
    base = tmp_path / "clinic" / "base"
    build_model("bert").save_pretrained(base)
    write_tokenizer(base)
    adapted = attach_adapter(
        AutoModelForSequenceClassification.from_pretrained(base), AdapterConfig(r=2), ["classifier"]
    )
    adapted.save_pretrained(tmp_path / "adapter")
    assert str(base) in (tmp_path / "adapter" / "adapter_config.json").read_text()
    bundle = write_bundle(
        tmp_path / "out" / "bundle",
        model=merge_adapter(adapted),
        processor=write_tokenizer(tmp_path / "tokenizer"),
        record=local_record,
        adapter_dir=tmp_path / "adapter",
    )
    for path in bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(tmp_path).encode() not in content and SECRET.encode() not in content, path
    assert "base_model_name_or_path" not in json.loads((bundle / "adapter" / "adapter_config.json").read_text())
    card = ModelCard.load(bundle / "README.md")
    assert card.data.base_model is None and card.data.datasets is None and "widget" not in card.data
    assert 'print(classify("a text"))' in card.text and "not on the Hub" in card.text
    assert RunRecord.load(bundle / "run_record.json").command.endswith(
        "--data.path=notes.csv --storage sqlite:///study.db"
    )
    assert local_record.data.path in local_record.command, "the run's own record keeps them"


def test_examples_are_shown_where_their_owner_says_so(local_record: RunRecord) -> None:
    local_record.config["hub"]["share_examples"] = True
    card = render_card(published(local_record))
    assert SECRET in card and ModelCard(card).data.widget == [{"text": SECRET}]


@pytest.mark.parametrize(
    ("answer", "shown"),
    [({"private": False, "gated": False}, True), ({"private": False, "gated": "auto"}, False),
     ({"private": True, "gated": False}, False), (OSError("unreachable"), False)],
)  # fmt: skip
def test_examples_of_a_data_set_are_shown_where_anybody_may_read_it(
    answer: Any, shown: bool, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dataset_info(self: HfApi, repo: str, **_: Any) -> Any:
        assert repo == "someone/things"
        if isinstance(answer, Exception):
            raise answer
        return type("Info", (), answer)

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    record = make_record()
    record.data.public = None
    text = record.examples[0]["input"]
    assert text not in render_card(record), "of a record that was not published nobody knows"
    ours = published(record)
    assert ours.data.public is shown and bool(ours.examples) is shown
    assert (text in render_card(ours)) is shown
    assert published(ours) == ours


def test_text_keeps_what_is_no_path_of_this_machine() -> None:
    for text in ("/r/python", "and/or 1/2", "see https://example.org/home/a", "a/b/c", "/{} is it", "", "/"):
        assert portable_text(text) == text
    home = Path.home()
    assert portable_text(f"'{home}/a/b.csv', {home}/c d") == "'b.csv', c d"
    assert portable_text(f"file://{home}/a.csv") == "file://a.csv"
    assert portable_text("mysql://ada:secret@host/db") == "mysql://ada:***@host/db"


def test_labels_stay_what_the_models_config_says(make_record: MakeRecord) -> None:
    names = ["/tmp/a", "/etc", "film"]
    assert published(make_record(task={"label_names": names})).task["label_names"] == names


def test_configs_in_configs_forget_where_they_came_from(tmp_path: Path) -> None:
    made = {"encoder": {"_name_or_path": str(tmp_path)}, "_name_or_path": "user/name", "labels": [str(tmp_path)]}
    (tmp_path / "config.json").write_text(json.dumps(made))
    forget_sources(tmp_path)
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept == {"encoder": {}, "_name_or_path": "user/name", "labels": [str(tmp_path)]}


@pytest.mark.parametrize("name", ["README.md", "fine_tune.yaml", "few_shot/state.json"])
def test_a_push_refuses_files_that_name_a_folder_of_this_machine(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f'{{"at": "{tmp_path}/secret.csv"}}')
    for content in (str(tmp_path / "file"), f"see {Path.home()}/notes.txt".encode()):
        with pytest.raises(
            LocalPathError, match=rf"{re.escape(name)} holds /.*(secret\.csv|notes\.txt), a path of this"
        ):
            push_files({name: content}, HubConfig(hub_model_id="me/things"), "", "", folder=tmp_path)
    require_no_local_paths({name: b"/homework and https://x.org/root/a, /r/python", "weights.safetensors": b"/root/a"})


def test_an_unreadable_answer_of_the_hub_is_no_permission(
    make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: {}["private"])
    record = make_record()
    record.data.public = None
    assert privacy.published(record).examples == []
