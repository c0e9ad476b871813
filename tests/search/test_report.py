"""The report: its tests, its verdict, and that JSON, page and terminal say the same."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from scipy import stats

from hf_fsl.core.errors import UserError
from hf_fsl.search.errors import SearchError
from hf_fsl.search.report import (
    SearchReport,
    against_chance,
    build_report,
    compare_members,
    judge,
    lines,
    member_row,
    write_report,
)
from hf_fsl.search.report.paired import paired_p_value, paired_test
from hf_fsl.search.report.terminal import value
from hf_fsl.search.space import Architecture
from hf_fsl.search.study.trials import Tried
from tests.helpers.study_worker import quality, tiny_space

CLASSES, EXAMPLES = 3, 90
LABELS = np.arange(EXAMPLES) % CLASSES


def tried(count=24):
    space, rng = tiny_space(), np.random.default_rng(0)
    rows = []
    for number in range(count):
        architecture = space.sample_stratified(rng)
        size = space.parameters(architecture)
        rows.append(
            Tried(
                number=number, architecture=architecture, parameters=size, stopped=number % 4 == 3, token_flops=2.0,
                values={"loss": quality(architecture) - 1, "parameters": float(size)}, seconds=1.0,
                details={"interval": [0.1, 0.2]},
            )
        )  # fmt: skip
    return rows, space


def logits(skill, seeds=3, noise=0.1, wobble=0.0):
    """(S, N, C): right by ``skill``; examples differ by ``noise``, seeds by ``wobble``."""
    rng = np.random.default_rng(int(abs(skill) * 1000))
    values = rng.normal(0, 0.5, (1, EXAMPLES, CLASSES)) + rng.normal(0, noise, (seeds, EXAMPLES, CLASSES))
    values[:, np.arange(EXAMPLES), LABELS] += skill + rng.normal(0, wobble, (seeds, 1))
    return values


def compared(growth=1.25, **skills):
    """Each architecture has ``growth`` times the parameters of the one before."""
    all_logits = {name: value if isinstance(value, np.ndarray) else logits(value) for name, value in skills.items()}
    rows = [
        member_row(name, Architecture.uniform(2**i, 2), int(100 * growth**i), [0, 1, 2], [1.0, 1.1, 0.9], each, LABELS)
        for i, (name, each) in enumerate(all_logits.items())
    ]
    chance = against_chance(rows, all_logits, LABELS[:9], LABELS, "loss")
    return rows, compare_members(all_logits, LABELS), chance


def test_the_same_ranks_trained_in_another_way_are_no_other_architecture():
    rows, comparisons, chance = compared(growth=1.0, first=2.0, second=0.5)
    assert judge(rows, comparisons, chance)[0] is True
    for row in rows:
        row.architecture = Architecture.uniform(2, 2, scaling=1.0 if row.name == "first" else 4.0).to_dict()
    matters, sentence = judge(rows, comparisons, chance)
    assert matters is False and "no two of the 2 retrained" in sentence


def test_with_one_seed_the_paired_test_is_students():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.1, 1, (2, 1, 50))
    ours, theirs = paired_test(first, second), stats.ttest_rel(first[0], second[0])
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.ci95 == pytest.approx((theirs.confidence_interval().low, theirs.confidence_interval().high))


def test_seeds_that_differ_widen_the_interval_and_nothing_differs_from_itself():
    steady, shaky = (paired_test(logits(1.0, wobble=w)[..., 0], logits(0.2)[..., 0]) for w in (0.0, 2.0))
    assert steady.ci95[1] - steady.ci95[0] < (shaky.ci95[1] - shaky.ci95[0]) / 2
    same = paired_test(logits(1.0)[..., 0], logits(1.0)[..., 0])
    assert (same.difference, same.p) == (0.0, 1.0)
    with pytest.raises(SearchError, match="two equal"):
        paired_test(np.zeros((2, 5)), np.zeros((3, 5)))


def test_under_no_difference_few_pairs_are_called_different():
    rng, found = np.random.default_rng(1), 0
    for _ in range(400):
        seeds = rng.normal(0, 1, (2, 3, 1))
        first, second = seeds + rng.normal(0, 1, (2, 3, 40))
        found += paired_test(first, second).p < 0.05
    assert found / 400 < 0.08


def test_the_verdict_says_what_the_numbers_say():
    matters, sentence = judge(*compared(a=2.0, b=0.5))
    assert matters and re.search(
        r"Architecture mattered: 1 of 1 pairs of like size .* a over b .* 0.8 times its parameters", sentence
    )
    matters, sentence = judge(*compared(a=1.0, b=logits(1.0)))
    assert matters is False and "no two of the 2 retrained architectures differ" in sentence
    matters, sentence = judge(*compared(a=-0.4, b=-2.0))
    assert matters is False and "nothing was learnt" in sentence and "noise" in sentence
    assert judge([], [])[0] is None


def test_what_differs_by_its_size_is_called_size_not_architecture():
    matters, sentence = judge(*compared(growth=4, a=0.5, b=2.0))
    assert matters is None and re.match("Size mattered: 1 of 1 .* b over a .* 4 times its parameters", sentence)
    assert "No two are of like size" in sentence and "Architecture mattered" not in sentence
    rows, *rest = compared(growth=4, head=0.5, front=2.0, same=logits(2.0))
    rows[2].parameters = int(rows[1].parameters * 1.4)
    matters, sentence = judge(rows, *rest)
    assert matters is False and sentence.startswith("Size mattered: 2 of 3 pairs")
    assert "Architecture did not matter more than noise: of the 1 pairs of like size" in sentence
    rows[2].parameters = rows[0].parameters
    assert judge(rows, *rest)[1].startswith("Architecture mattered: 1 of 1 pairs of like size")


def whole_report():
    rows, space = tried()
    report = build_report(rows, space, ["loss", "parameters"], name="s", identity={"a": 1}, classes=CLASSES)
    members, report.comparisons, report.chance = compared(**{"front-1": 2.0, "uniform-r8": 0.5})
    members[1].baseline, members[0].chosen = True, True
    report.members, report.chosen, report.chosen_because = members, "front-1", "Best."
    report.matters, report.verdict = judge(members, report.comparisons, report.chance)
    report.peft_config = {"peft_type": "LORA", "target_modules": ["x.<y>"]}
    report.hypervolume["baselines"] = {"uniform-r8": 0.125}
    report.diverged = {"front-2": "loss is nan"}
    return report, rows


def test_json_page_and_terminal_say_the_same(tmp_path):
    report, rows = whole_report()
    json_file, page_file = write_report(report, tmp_path)
    assert SearchReport.load(json_file) == report
    page, text = page_file.read_text(), "\n".join(lines(report))
    assert "http:" not in page and "https:" not in page and page.count("data:image/png;base64,") == 3
    assert "x.&lt;y&gt;" in page and "- x.<y>" in text and "peft_type: LORA" in text
    assert f"Hypervolume {value(report.hypervolume['curve'][-1][1])} after" in text
    for said in ("uniform-r8 alone 0.125", "[0.1, 0.2]", "front-2 was left out", "loss is nan"):
        assert said in text and said in page, said
    for said in (report.verdict, "front-1", "uniform-r8", f"{len(rows)} of {report.space_size:,}"):
        assert said in text and said in page.replace("\n", " ")
    for row in report.front:
        assert row.description in text and row.description in page


def test_a_report_of_a_supernet_still_loads(tmp_path):
    report, _ = whole_report()
    values = json.loads(report.to_json()) | {"strategy": "supernet", "audit": {"anchors": 6, "verdict": "Noise."}}
    (tmp_path / "report.json").write_text(json.dumps(values))
    assert SearchReport.load(tmp_path / "report.json") == dataclasses.replace(report, strategy="supernet")


def test_paired_test_of_examples_is_scipys_and_knows_when_nothing_differs():
    rng = np.random.default_rng(0)
    a, b = rng.random(20), rng.random(20)
    assert paired_p_value(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert paired_p_value(a, a) == 1.0
    assert paired_p_value(a, a + 1, "less") == 0.0
    assert paired_p_value(a, a + 1, "greater") == 1.0


def test_front_and_hypervolume_are_of_what_was_trained_to_its_end():
    report, rows = whole_report()
    ended = {t.number: t for t in rows if not t.stopped}
    for row in report.trials:
        dominated = any(
            other.values["loss"] <= row.values["loss"] and other.parameters <= row.parameters
            and (other.values["loss"], other.parameters) != (row.values["loss"], row.parameters)
            for other in ended.values()
        )  # fmt: skip
        if row.on_front:
            assert row.number in ended and not dominated
        elif row.number in ended:
            assert dominated or any(r.on_front and r.values == row.values for r in report.trials)
    costs, volumes = zip(*report.hypervolume["curve"], strict=True)
    assert list(volumes) == sorted(volumes) and costs[-1] <= report.token_flops == 2.0 * len(rows)


def test_what_moves_the_loss_is_found_important():
    report, _ = whole_report()
    space, rng = tiny_space(), np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(150)]
    rows = [
        Tried(number=i, architecture=a, parameters=9, values={"loss": quality(a), "parameters": 9.0}, stopped=False,
              token_flops=0.0, seconds=0.0, details={})
        for i, a in enumerate(drawn)
    ]  # fmt: skip
    found = build_report(rows, space, ["loss", "parameters"], name="s", identity={}, classes=3).importances
    assert next(iter(found)) == "rank of attention_qv, layer 1"
    assert sum(found.values()) == pytest.approx(1)


def test_a_file_that_is_no_report_is_refused(tmp_path):
    (tmp_path / "report.json").write_text('{"schema_version": 99}')
    with pytest.raises(UserError, match="schema 1, got 99"):
        SearchReport.load(tmp_path / "report.json")
    with pytest.raises(UserError, match="is no report of a search"):
        SearchReport.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(("metric", "reference"), [("loss", np.log(CLASSES)), ("ece", 1.0), ("accuracy", 0.0)])
def test_each_objective_has_a_reference_that_what_was_learnt_is_better_than(metric, reference):
    rows, space = tried(4)
    rows = [dataclasses.replace(t, values={metric: 0.4, "parameters": float(t.parameters)}) for t in rows]
    report = build_report(
        rows, space, [metric, "parameters"], name="s", identity={}, classes=CLASSES, before=(1000.0, 60.0)
    )
    assert report.hypervolume["reference"][0] == pytest.approx(reference)
    assert all(volume > 0 for _, volume in report.hypervolume["curve"])
    assert report.hypervolume["curve"][0][0] == 1002.0 and report.token_flops == 1008.0 and report.seconds == 64.0
