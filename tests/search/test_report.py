"""The report: its tests, its verdict, and that JSON, page and terminal say the same."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import stats
from search.study_worker import quality, tiny_space

from hf_fsl.errors import UserError
from hf_fsl.search.errors import SearchError
from hf_fsl.search.report import (
    AuditRow,
    SearchReport,
    against_chance,
    build_report,
    compare_members,
    judge,
    lines,
    member_row,
    write_report,
)
from hf_fsl.search.report.paired import paired_test
from hf_fsl.search.space import Architecture
from hf_fsl.search.study.trials import Tried

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


def compared(**skills):
    all_logits = {name: value if isinstance(value, np.ndarray) else logits(value) for name, value in skills.items()}
    rows = [
        member_row(name, Architecture.uniform(2**i, 2), 100 * 2**i, [0, 1, 2], [1.0, 1.1, 0.9], each, LABELS)
        for i, (name, each) in enumerate(all_logits.items())
    ]
    chance = against_chance(rows, all_logits, LABELS[:9], LABELS, "loss")
    return rows, compare_members(all_logits, LABELS), chance


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
    matters, sentence = judge(*compared(a=2.0, b=0.5), audit=None)
    assert matters and re.search(
        r"Architecture mattered: 1 of 1 pairs .* a over b .* 0.5 times its parameters", sentence
    )
    matters, sentence = judge(*compared(a=1.0, b=logits(1.0)), audit=None)
    assert matters is False and "no two of the 2 retrained architectures differ" in sentence
    matters, sentence = judge(*compared(a=-0.4, b=-2.0), audit=None)
    assert matters is False and "nothing was learnt" in sentence and "noise" in sentence
    assert judge([], [])[0] is None
    audit = AuditRow(
        anchors=6, tau_supernet=0.0, p_supernet=0.5, tau_parameters=0.1, tau_repeated=0.0, p_repeated=0.6,
        p_learned=0.4, architecture_matters=False, supernet_trusted=False, verdict="Noise: nothing was learned.",
    )  # fmt: skip
    matters, sentence = judge(*compared(a=2.0, b=0.5), audit=audit)
    assert matters is False and sentence.startswith("Noise: nothing was learned. On test: Architecture mattered")
    assert judge([], [], audit=audit) == (False, audit.verdict)


def whole_report():
    rows, space = tried()
    report = build_report(rows, space, ["loss", "parameters"], name="s", identity={"a": 1}, classes=CLASSES)
    members, report.comparisons, report.chance = compared(**{"front-1": 2.0, "uniform-r8": 0.5})
    members[1].baseline, members[0].chosen = True, True
    report.members, report.chosen, report.chosen_because = members, "front-1", "Best."
    report.matters, report.verdict = judge(members, report.comparisons, report.chance)
    report.peft_config = {"peft_type": "LORA", "target_modules": ["x.<y>"]}
    return report, rows


def test_json_page_and_terminal_say_the_same(tmp_path):
    report, rows = whole_report()
    json_file, page_file = write_report(report, tmp_path)
    assert SearchReport.load(json_file) == report
    page, text = page_file.read_text(), "\n".join(lines(report))
    assert "http:" not in page and "https:" not in page and page.count("data:image/png;base64,") == 3
    assert "x.&lt;y&gt;" in page
    for said in (report.verdict, "front-1", "uniform-r8", f"{len(rows)} of {report.space_size:,}"):
        assert said in text and said in page.replace("\n", " ")
    for row in report.front:
        assert row.description in text and row.description in page


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
