"""Cards: their metadata comes back, their snippet runs, and what is unknown or bad is said."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from hf_fsl.core.errors import UserError
from hf_fsl.core.measurement import Measurement, TruncationRecord
from hf_fsl.core.records import Comparison, CostRecord, RunRecord
from hf_fsl.hub.cards import is_hub_id, render_card

MakeRecord = Callable[..., RunRecord]


def without_config(card: str) -> str:
    """The card's text, its metadata and the configuration aside."""
    text: str = ModelCard(card).text
    return text.partition("<details><summary>Configuration")[0] + text.partition("## Limits")[2]


def run_snippet(card: str, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[str, str], list[Any]]:
    """Runs the card's first block of Python. Returns task and model of its pipeline, and what was put into it."""
    made: list[tuple[str, str]] = []
    given: list[Any] = []

    def pipeline(task: str, model: str) -> Callable[[Any], None]:
        made.append((task, model))
        return given.append

    monkeypatch.setattr("transformers.pipeline", pipeline)
    block = re.search(r"^```python\n(.*?)^```$", card, re.S | re.M)
    assert block is not None
    exec(compile(block[1], "card", "exec"), {})
    return made[0], given


def test_metadata_comes_back_as_it_was_measured(make_record: MakeRecord) -> None:
    record = make_record()
    data = ModelCard(render_card(record)).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    assert (data.base_model, data.base_model_relation) == ("someone/tiny-bert", "finetune")
    assert (data.license, data.language, data.datasets) == ("apache-2.0", "en", ["someone/things"])
    assert data.tags == ["hf_fsl", "peft", "lora", "few-shot"] and data.metrics == ["accuracy", "f1"]
    assert data.model_name == "things"
    results = {result.metric_name: result for result in data.eval_results}
    assert [result.metric_value for result in results.values()] == [value.value for value in record.metrics.values()]
    accuracy, macro_f1 = results["accuracy"], results["macro F1"]
    source = (accuracy.dataset_type, accuracy.dataset_config, accuracy.dataset_split, accuracy.dataset_revision)
    assert source == ("someone/things", "default", "test", record.data.revision)
    assert accuracy.metric_args == {"ci95": [0.675, 0.925], "n": 40}
    assert macro_f1.metric_type == "f1" and macro_f1.metric_args["average"] == "macro"
    assert results["Matthews correlation"].metric_type == "matthews_correlation"


def test_model_index_survives_the_hubs_own_helpers(make_record: MakeRecord) -> None:
    front = yaml.safe_load(render_card(make_record()).split("---\n")[1])
    name, results = model_index_to_eval_results(front["model-index"])
    assert eval_results_to_model_index(name, results) == front["model-index"]
    assert len(results) == 5


def test_snippet_runs_with_any_text(make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    record = make_record()
    task_and_model, given = run_snippet(render_card(record, repo_id="me/other"), monkeypatch)
    assert task_and_model == ("text-classification", "me/other")
    assert given == [row["input"] for row in record.examples[:2]]
    awkward = "two\nlines, a tab\t, ``` and \u2028 <b>&amp;</b> {{ x }} '''"
    record.examples = [{"input": awkward, "label": "a\nlabel", "score": 0.5}]
    assert run_snippet(render_card(record), monkeypatch)[1] == [awkward]


def test_snippet_prefers_short_texts(make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"input": text, "label": "film", "score": 0.5} for text in ("x" * 5000, "short")]
    assert run_snippet(render_card(make_record(examples=rows)), monkeypatch)[1] == ["short"]
    assert run_snippet(render_card(make_record(examples=rows[:1])), monkeypatch)[1] == ["x" * 5000]


def test_snippet_of_pairs_and_of_images(make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_record(
        task={"modality": "text-pair"}, examples=[{"input": ["a 'b'", "c"], "label": "film", "score": 0.5}]
    )
    assert run_snippet(render_card(pair), monkeypatch)[1] == [{"text": "a 'b'", "text_pair": "c"}]
    for examples in ([], [{"input": "picture.png", "label": "film", "score": 0.5}]):
        image = make_record(task={"modality": "image"}, examples=examples)
        task_and_model, given = run_snippet(render_card(image), monkeypatch)
        assert task_and_model == ("image-classification", "me/things") and given == ["picture.png"]


def test_without_a_repository_the_snippet_names_the_bundle(
    make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(hub={"hub_model_id": None})
    assert run_snippet(render_card(record), monkeypatch)[0][1] == "outputs/things/bundle"


def test_unknown_values_are_called_unknown(make_record: MakeRecord) -> None:
    record = make_record(
        metrics={"accuracy": Measurement(value=0.8)},
        comparisons=[],
        confusion_matrix=None,
        examples=[],
        cost=CostRecord(wall_seconds=1.0),
        environment={},
    )
    record.config["hub"] = {}
    record.data.revision = record.data.license = record.model.base_revision = record.model.base_license = None
    record.data.splits["train"].class_counts = {}
    card = render_card(record)
    text = without_config(card)
    for line in (
        "| accuracy | 0.8000 | unknown | unknown |",
        "| peak memory | unknown |",
        "| hardware | unknown |",
        "| train | train | 23 | unknown |",
        "revision unknown, licence unknown",
        "Licences: base model unknown, data unknown, this model unknown.",
        "off by an unknown amount on average",
        "- Language of the training data: unknown.",
    ):
        assert line in text
    assert "None" not in text and "figures/" not in text and "Recall of each class" not in text
    assert ModelCard(card).data.license is None


def test_known_values_are_shown(make_record: MakeRecord) -> None:
    text = without_config(render_card(make_record()))
    for line in (
        "| macro F1 | 0.7894 | [0.6412, 0.9143] | 40 |",
        "Lower is better for expected calibration error and log-loss.",
        "| train | train | 23 | 7 to 8 |",
        "| time of day | 10 | 0.70 |",
        "| trained parameters | 1,234 of 20,000 (6.17 %) |",
        "| peak memory | 1.20 GiB |",
        "paired over 40 examples",
        "off by 0.061 on average",
        "![Confusion matrix](figures/confusion_matrix.png)",
        "accelerate launch recipes/fine_tune.py --config example.yaml",
    ):
        assert line in text
    assert "does not" not in text and "worse" not in text


@pytest.mark.parametrize(
    ("metric", "difference", "ci95", "verdict"),
    [
        ("accuracy", 0.1, (0.02, 0.2), None),
        ("accuracy", 0.1, (-0.02, 0.2), "does not measurably beat that baseline"),
        ("accuracy", -0.1, (-0.2, 0.02), "does not measurably beat that baseline"),
        ("accuracy", -0.1, (-0.2, -0.02), "is worse than that baseline"),
        ("accuracy", 0.0, (0.0, 0.0), "does not measurably beat that baseline"),
        ("accuracy", -0.1, None, "is worse than that baseline"),
        ("accuracy", 0.1, None, None),
        ("ece", -0.1, (-0.2, -0.02), None),
        ("ece", 0.1, (0.02, 0.2), "is worse than that baseline"),
    ],
)
def test_card_admits_what_is_no_win(
    metric: str, difference: float, ci95: Any, verdict: str | None, make_record: MakeRecord
) -> None:
    row = Comparison(
        name="linear_probe",
        metric=metric,
        baseline=Measurement(value=0.7),
        difference=Measurement(value=difference, ci95=ci95, n=40),
    )
    text = without_config(render_card(make_record(comparisons=[row])))
    admitted = re.findall(r"\*\*This model (.*?)\.\*\*", text)
    assert admitted == ([verdict] if verdict else [])


def test_several_seeds_get_columns_of_their_own(make_record: MakeRecord) -> None:
    record = make_record()
    record.runs = [dataclasses.replace(record.runs[0], seed=seed) for seed in (3, 4)]
    record.published_seed = 4
    record.metrics_over_seeds = {"accuracy": Measurement(value=0.75, ci95=(0.7, 0.8), seeds=2)}
    text = without_config(render_card(record))
    assert "| metric | value | 95 % interval | n | mean of 2 seeds | 95 % interval |" in text
    assert "| accuracy | 0.8000 | [0.6750, 0.9250] | 40 | 0.7500 | [0.7000, 0.8000] |" in text
    assert re.search(r"\| macro F1 \|.*\| unknown \| unknown \|", text)
    assert "the published seed (4)" in text and "mean of" not in without_config(render_card(make_record()))


@pytest.mark.parametrize("seeds", [1, 2])
def test_no_name_breaks_a_table(seeds: int, make_record: MakeRecord) -> None:
    names = ["cat|dog", "a\nb", "`c` \\| **d**"]
    record = make_record(task={"label_names": names})
    if seeds == 2:
        record.metrics_over_seeds = dict(record.metrics)
    tables = re.findall(r"(?:^\|.*\n)+", without_config(render_card(record)), re.M)
    assert len(tables) == 4
    for table in tables:
        rows = table.splitlines()
        cells = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows}
        assert len(cells) == 1 and re.fullmatch(r"[|-]+", rows[1]), table


def test_local_sources_are_no_repositories(make_record: MakeRecord) -> None:
    record = make_record()
    record.data.path, record.model.base_model = "data/things.csv", "./checkpoints/base"
    card = render_card(record)
    data = ModelCard(card).data
    assert data.datasets is None and data.base_model is None and "base_model_relation" not in data
    assert "`data/things.csv`" in card and "huggingface.co/datasets" not in card
    assert not any(is_hub_id(name) for name in ("/a/b", "../a", "~/a", "a", "a/b/c", "a/b.jsonl", "tests/hub/"))
    assert is_hub_id("sentence-transformers/all-MiniLM-L6-v2")


def test_what_was_cut_off_is_said(make_record: MakeRecord) -> None:
    record = make_record()
    assert "Of a text it reads" not in render_card(record)
    record.model.truncation = TruncationRecord(limit=256, texts=50, cut_texts=20, tokens=10_000, cut_tokens=1_250)
    said = (
        "- Of a text it reads 256 tokens. 20 of the 50 texts here were longer, and 12.5 % of all tokens were cut off."
    )
    assert said in render_card(record).splitlines()
    record.model.truncation = TruncationRecord(limit=256, texts=50, cut_texts=0, tokens=10_000, cut_tokens=0)
    assert "- Of a text it reads 256 tokens. None of the 50 texts here was longer." in render_card(record).splitlines()


def test_overlap_policy_is_said(make_record: MakeRecord) -> None:
    record = make_record()
    assert "No example occurs in two splits" in render_card(record)
    record.data.overlap, record.data.on_overlap, record.data.dropped = {"train/test": 3}, "drop_train", 3
    assert "train/test 3. Policy `drop_train`: 3 examples were dropped" in render_card(record)
    record.data.on_overlap = "ignore"
    assert "**nothing was dropped, so the measurements include examples seen in training**" in render_card(record)


def test_multi_label_models_do_not_claim_one_class(make_record: MakeRecord) -> None:
    text = render_card(make_record(task={"problem_type": "multi_label_classification"}, confusion_matrix=None))
    assert "every input is put into one of them" not in text and "gets some of them, or none" in text


def test_many_classes_are_cut_short(make_record: MakeRecord) -> None:
    names = [f"class {number}" for number in range(77)]
    record = make_record(task={"label_names": names}, confusion_matrix=[[0] * 77 for _ in names])
    text = without_config(render_card(record))
    assert "class 29 and 47 more" in text and "Recall of each class" not in text
    assert "figures/confused_pairs.png" in text and "confusion_matrix.png" not in text


def test_number_that_is_none_stays_out_of_the_metadata(make_record: MakeRecord) -> None:
    record = make_record()
    record.metrics["loss"] = Measurement(value=math.nan, n=40)
    card = render_card(record)
    assert "loss" not in {result.metric_type for result in ModelCard(card).data.eval_results}
    assert "| log-loss | unknown | unknown | 40 |" in card


@pytest.mark.parametrize(
    ("adapter", "summary", "tags"),
    [
        ({"method": "full", "peft": {}}, "fine-tuned (all parameters)", ["hf_fsl", "few-shot"]),
        ({"method": "head", "peft": {}}, "fine-tuned (head only)", ["hf_fsl", "head", "few-shot"]),
        (
            {"method": "lora", "peft_config": "u/adapter", "peft": {"peft_type": "IA3"}},
            "fine-tuned (ia3, merged)",
            ["hf_fsl", "peft", "ia3", "few-shot"],
        ),
    ],
)
def test_method_is_what_was_done(
    adapter: dict[str, Any], summary: str, tags: list[str], make_record: MakeRecord
) -> None:
    record = make_record()
    record.model.adapter = adapter
    card = render_card(record)
    assert summary in card and ModelCard(card).data.tags == tags
    assert ("PeftModel" in card) == bool(adapter["peft"])


def test_record_of_an_unknown_recipe_is_refused(make_record: MakeRecord) -> None:
    with pytest.raises(UserError, match=r"no card template juggle\.md\.jinja.*fine_tune\.md\.jinja"):
        render_card(make_record(recipe="juggle"))
