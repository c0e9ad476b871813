"""One plain sentence: did the choice of architecture matter more than noise on this task?"""

from __future__ import annotations

from collections.abc import Sequence

from hf_fsl.records import goodness
from hf_fsl.search.report.record import AuditRow, Chance, ComparisonRow, MemberRow


def judge(
    members: Sequence[MemberRow],
    comparisons: Sequence[ComparisonRow],
    chance: Chance | None = None,
    audit: AuditRow | None = None,
) -> tuple[bool | None, str]:
    """Whether architecture mattered, and the words that say so.

    An audit compared architectures of one size over seeds, so where there is one its word comes first. Retrained
    architectures are of many sizes: they add whether anything was learnt, and which of them differ on test.

    Args:
        members: retrained architectures, the baselines among them.
        comparisons: of each pair of them, of one metric.
        chance: how the best on validation does against predicting class frequencies.
        audit: of a supernet's ranking, where there was one.
    """
    matters, sentence = _of_retrained(members, comparisons, chance)
    if audit is None:
        return matters, sentence
    if not members:
        return audit.architecture_matters, audit.verdict
    return bool(audit.architecture_matters and matters is not False), f"{audit.verdict} On test: {sentence}"


def _of_retrained(
    members: Sequence[MemberRow], comparisons: Sequence[ComparisonRow], chance: Chance | None
) -> tuple[bool | None, str]:
    """Where nothing was learnt the losses of large and small adapters differ by how much they overfit, which is no
    reason to prefer one: then they do not count."""
    if not members:
        return None, "Nothing was trained again yet, so noise cannot be told from architecture."
    if chance is not None and not chance.beaten:
        return False, (
            f"Architecture did not matter here, because nothing was learnt: the test log-loss of {chance.best}, the "
            f"best on validation, is {chance.best_loss:.3f}, not measurably below the {chance.loss:.3f} of always "
            f"predicting the class frequencies (p = {chance.p:.2g}). Differences between architectures are noise."
        )
    placed = [row for row in comparisons if row.measurable]
    count = f"{len(members)} retrained architectures"
    if not placed:
        return False, (
            f"Architecture did not matter more than noise: no two of the {count} differ measurably after Holm's "
            "correction, so take the smallest."
        )
    widest = max(placed, key=lambda row: abs(row.difference))
    better, worse = widest.first, widest.second
    if goodness(widest.metric, widest.difference) < 0:
        better, worse = worse, better
    sizes = {row.name: row.parameters for row in members}
    return True, (
        f"Architecture mattered: {len(placed)} of {len(comparisons)} pairs of the {count} differ measurably, most of "
        f"all {better} over {worse} ({widest.metric} {abs(widest.difference):.3f}, p = {widest.p_holm:.2g} after "
        f"Holm), with {sizes[better] / max(sizes[worse], 1):.2g} times its parameters."
    )
