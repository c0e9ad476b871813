"""Bundles: what is in them, that they replace each other whole, and that a stranger gets the trained model."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import parse_eval_result_entries
from PIL import Image
from safetensors.numpy import load_file, save_file

from hf_fsl.core.errors import UserError
from hf_fsl.core.records import RunRecord
from hf_fsl.hub import verify
from hf_fsl.hub.bundle import write_bundle
from hf_fsl.hub.cards import render_card
from hf_fsl.hub.figures import confused_pairs_figure, confusion_figure
from hf_fsl.hub.verify import TOLERANCE, BundleMismatch, require_verified, verify_bundle
from hf_fsl.metrics import confusions
from tests.helpers.tiny_models import build_model


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def tiny() -> Any:
    return build_model("bert")


class Processor:
    """A processor that saves one file of a name of one's choice."""

    def __init__(self, name: str = "processor.json", content: str = "{}") -> None:
        self.name, self.content = name, content

    def save_pretrained(self, folder: Path) -> None:
        (folder / self.name).write_text(self.content)


def test_bundle_holds_what_a_repository_needs(text_case: Any, make_record: Callable[..., RunRecord]) -> None:
    assert set(files(text_case.folder)) == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "run_record.json",
        ".eval_results/someone--things.yaml",
        "figures/confusion_matrix.png",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    assert RunRecord.load(text_case.folder / "run_record.json") == make_record()
    settings = json.loads((text_case.folder / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "someone/tiny-bert"


def test_eval_results_parse_to_what_was_measured(text_case: Any, make_record: Callable[..., RunRecord]) -> None:
    text = (text_case.folder / ".eval_results" / "someone--things.yaml").read_text()
    entries = parse_eval_result_entries(yaml.safe_load(text))
    values = {entry.task_id.rpartition("/")[2]: entry.value for entry in entries}
    assert values == {name: value.value for name, value in make_record().metrics.items()}
    assert {(entry.dataset_id, entry.dataset_revision) for entry in entries} == {
        ("someone/things", make_record().data.revision)
    }


@pytest.mark.parametrize("kind", ["text_case", "image_case"])
def test_a_fresh_process_gets_the_adapted_models_logits(kind: str, request: pytest.FixtureRequest) -> None:
    case = request.getfixturevalue(kind)
    assert case.verification.examples == len(case.inputs)
    assert case.verification.largest_difference <= TOLERANCE * case.verification.scale
    assert require_verified(case.folder) == case.verification


def test_adapter_alone_gives_the_same_logits(text_case: Any) -> None:
    from peft import PeftModel
    from transformers import AutoTokenizer

    base = build_model("bert").eval()
    tokenizer = AutoTokenizer.from_pretrained(text_case.folder)
    inputs = tokenizer(text_case.inputs[1], return_tensors="pt")
    with torch.inference_mode():
        before = base(**inputs).logits[0].numpy()
        model = PeftModel.from_pretrained(base, text_case.folder, subfolder="adapter").eval()
        after = model(**inputs).logits[0].numpy()
    np.testing.assert_allclose(after, text_case.logits[1], atol=1e-5)
    assert np.abs(after - before).max() > 0.01


def test_other_weights_are_refused_and_stay_unverified(bundle: Path, text_case: Any) -> None:
    weights = load_file(bundle / "model.safetensors")
    weights["classifier.weight"] = weights["classifier.weight"] * np.float32(1.01)
    save_file(weights, bundle / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BundleMismatch, match=r"largest difference \d.*allowed is .*not pushed"):
        verify_bundle(bundle, text_case.inputs, text_case.logits)
    with pytest.raises(BundleMismatch, match="changed after it was verified"):
        require_verified(bundle)


def test_a_bundle_that_does_not_load_is_refused(bundle: Path, text_case: Any) -> None:
    (bundle / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(BundleMismatch, match=r"(?s)does not load in a fresh process:.*SafetensorError"):
        verify_bundle(bundle, text_case.inputs, text_case.logits)


NAMES = ["cat|dog", "film", "time of day"]


@pytest.mark.parametrize(
    ("trained", "loaded", "changes", "message"),
    [
        ([2, 1, np.nan], [2, 1, np.nan], {}, "largest difference nan"),
        ([2, 1, 0], [2, 1, 0.001], {}, r"largest difference 1\.00e-03"),
        ([2, 1, 0], [2, 1], {}, "largest difference inf"),
        ([1.000001, 1, 0], [1, 1.000001, 0], {}, "same argmax"),
        ([2, 1, 0], [2, 1, 0], {"names": ["LABEL_0", "LABEL_1", "LABEL_2"]}, "config.json names the classes"),
        ([2, 1, 0], [2, 1, 0], {"problem_type": "multi_label_classification"}, "problem_type"),
        ([2, 1, 0], [2, 1, 0], {"labels": ["film"]}, r"pipeline\(\) answers"),
        ([2, 1, 0], [2, 1, 0], {"foreign": ["peft"]}, "needs peft to load"),
        ([2, 1, 0], [2, 1, 0.00001], {}, None),
        ([2, 1.9, 0], [2, 1.9, 0], {"labels": ["film"]}, r"pipeline\(\) answers 'film', the trained model cat.dog\."),
        ([2, 1.9, 0], [2, 1.9, 0], {"labels": ["film"], "dtype": "bfloat16"}, None),
    ],
)
def test_every_disagreement_is_refused(
    trained: list[float],
    loaded: list[float],
    changes: dict[str, Any],
    message: str | None,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = {"labels": NAMES[:1], "names": NAMES, "problem_type": None, "foreign": []}
    answer |= {"dtype": "float32", "device": "cpu"} | changes

    def stranger(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        work = Path(command[-1])
        save_file({"logits": np.array([loaded], dtype=np.float32)}, work / "outputs.safetensors")
        (work / "answers.json").write_text(json.dumps(answer))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(verify.subprocess, "run", stranger)
    logits = np.array([trained], dtype=np.float32)
    if message is None:
        assert verify_bundle(bundle, ["a text"], logits).scale == 2
    else:
        with pytest.raises(BundleMismatch, match=message):
            verify_bundle(bundle, ["a text"], logits)


def test_verification_needs_inputs_with_logits(bundle: Path) -> None:
    with pytest.raises(ValueError, match="at least one input.*got 0 inputs and 0 rows"):
        verify_bundle(bundle, [], np.zeros((0, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="got 1 inputs and 2 rows"):
        verify_bundle(bundle, ["a"], np.zeros((2, 3), dtype=np.float32))


def test_only_what_was_verified_counts_as_verified(bundle: Path) -> None:
    (bundle / "README.md").write_text("edited")
    require_verified(bundle)
    note = bundle.with_name("bundle.verified.json")
    note.write_text("{}")
    with pytest.raises(BundleMismatch, match="never verified"):
        require_verified(bundle)
    note.unlink()
    with pytest.raises(BundleMismatch, match="never verified"):
        require_verified(bundle)
    shutil.rmtree(bundle)
    with pytest.raises(BundleMismatch, match="There is no bundle"):
        require_verified(bundle)


def test_new_bundle_replaces_the_old_one_whole(
    tiny: Any, make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    write_bundle(folder, model=tiny, processor=Processor("old.json"), record=make_record())
    write_bundle(folder, model=tiny, processor=Processor("new.json"), record=make_record(confusion_matrix=None))
    names = set(files(folder))
    assert "new.json" in names and not names & {"old.json", "figures/confusion_matrix.png"}
    assert not any(name.startswith("adapter/") for name in names)  # none was given
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["training_args.bin", "state.PT", "head.pkl"])
def test_pickle_is_refused_and_the_old_bundle_stays(
    name: str, tiny: Any, make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    write_bundle(folder, model=tiny, processor=Processor(), record=make_record())
    before = files(folder)
    with pytest.raises(UserError, match=f"no pickles.*{name}"):
        write_bundle(folder, model=tiny, processor=Processor(name), record=make_record())
    assert files(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_data_set_that_is_not_on_a_hub_has_no_eval_results(
    tiny: Any, make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    record = make_record()
    record.data.path = "data/things.csv"
    write_bundle(tmp_path / "bundle", model=tiny, processor=Processor(), record=record)
    assert not (tmp_path / "bundle" / ".eval_results").exists()


def test_of_many_classes_the_figure_shows_confused_pairs_and_the_record_keeps_what_occurs(
    tiny: Any, make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    names = [f"class {number}" for number in range(2000)]
    labels = np.repeat(np.arange(2000), 2)
    predictions = np.where(np.arange(4000) % 7 == 0, (labels + 1) % 2000, labels)
    kept = confusions(labels, predictions, 2000)
    record = make_record(task={"label_names": names}, **{"confusion_matrix": None, **kept})
    write_bundle(tmp_path / "many", model=tiny, processor=Processor(), record=record)
    assert [path.name for path in (tmp_path / "many" / "figures").iterdir()] == ["confused_pairs.png"]
    assert (tmp_path / "many" / "run_record.json").stat().st_size < 2**19
    again = RunRecord.load(tmp_path / "many" / "run_record.json")
    assert sum(count for *_, count in again.confusions) == 4000
    assert sum(count for *_, count in again.confused_pairs) == int((labels != predictions).sum())
    assert again.confused_pairs[0] == (0, 1, 1) and isinstance(again.confused_pairs[0], tuple)


def test_a_record_written_with_a_large_matrix_still_gives_its_pairs(make_record: Callable[..., RunRecord]) -> None:
    matrix = np.eye(60, dtype=int) * 5
    matrix[3, 7], matrix[9, 1] = 2, 4
    record = make_record(task={"label_names": list("ab") * 30}, confusion_matrix=matrix.tolist())
    again = RunRecord.from_json(record.to_json())
    assert again.shows_pairs and again.confused_pairs == [(9, 1, 4), (3, 7, 2)]
    assert "confused_pairs.png" in render_card(again)
    assert confusions(np.arange(3), np.array([0, 2, 2]), 3) == {"confusion_matrix": [[1, 0, 0], [0, 0, 1], [0, 0, 1]]}


@pytest.mark.parametrize("right", [True, False])
def test_confused_pairs_take_any_names(right: bool) -> None:
    names = ["from $_{ to $", "two\nlines", "a name of a class that goes on for far longer than any axis is wide"]
    picture = Image.open(io.BytesIO(confused_pairs_figure([] if right else [(0, 1, 3), (2, 0, 1)], names)))
    assert picture.format == "PNG" and min(picture.size) > 200


@pytest.mark.parametrize("size", [2, 24, 49])
def test_confusion_figure_takes_any_names_and_sizes(size: int) -> None:
    rare = ["from $_{ to $", "two\nlines", "a name of a class that goes on for far longer than any axis is wide"]
    names = [*rare, *(f"class {number}" for number in range(size))][:size]
    matrix = np.eye(size, dtype=int) * 9
    matrix[0] = 0  # a class without a single test example
    picture = Image.open(io.BytesIO(confusion_figure(matrix.tolist(), names)))
    assert picture.format == "PNG" and min(picture.size) > 250 and max(picture.size) < 3500
    assert np.asarray(picture.convert("L")).min() < 80  # something dark was drawn: text and full cells
