"""One plain sentence: did the choice of architecture matter more than noise on this task?"""

from __future__ import annotations

from collections.abc import Sequence

from hf_fsl.core.measurement import maximized
from hf_fsl.search.report.record import Chance, ComparisonRow, MemberRow

LIKE_SIZE = 1.5
"""Times the parameters that one of two architectures may have more for them to count as of like size."""


def judge(
    members: Sequence[MemberRow], comparisons: Sequence[ComparisonRow], chance: Chance | None = None
) -> tuple[bool | None, str]:
    """Whether architecture mattered, and the words that say so.

    Architectures of different size differ by their size: only pairs of like size tell whether anything else matters.
    Pairs of the same ranks at the same places, trained with another scaling or learning rate, do not count. Where
    nothing was learnt the losses of large and small adapters differ by how much they overfit, which is no reason to
    prefer one: then they do not count.

    Args:
        members: retrained architectures, the baselines among them.
        comparisons: of each pair of them, of one metric.
        chance: how the best on validation does against predicting class frequencies.
    """
    if not members:
        return None, "Nothing was trained again yet, so noise cannot be told from architecture."
    if chance is not None and not chance.beaten:
        return False, (
            f"Architecture did not matter here, because nothing was learnt: the test log-loss of {chance.best}, the "
            f"best on validation, is {chance.best_loss:.3f}, not measurably below the {chance.loss:.3f} of always "
            f"predicting the class frequencies (p = {chance.p:.2g}). Differences between architectures are noise."
        )
    comparisons = _placed_differently(members, comparisons)
    placed = [row for row in comparisons if row.measurable]
    count = f"{len(members)} retrained architectures"
    if not placed:
        return False, (
            f"Architecture did not matter more than noise: no two of the {count} differ measurably after Holm's "
            "correction, so take the smallest."
        )
    sizes = {row.name: row.parameters for row in members}
    like = [row for row in comparisons if _of_like_size(row, sizes)]
    if any(row.measurable for row in like):
        placed = [row for row in like if row.measurable]
        return True, (
            f"Architecture mattered: {len(placed)} of {len(like)} pairs of like size (within {LIKE_SIZE:g} times the "
            f"parameters) of the {count} differ measurably, most of all {_widest(placed, sizes)}."
        )
    of_size = (
        f"Size mattered: {len(placed)} of {len(comparisons)} pairs of the {count} differ measurably, all of them of "
        f"different size, most of all {_widest(placed, sizes)}."
    )
    if not like:
        return None, f"{of_size} No two are of like size, so whether anything but size mattered was not seen."
    return False, (
        f"{of_size} Architecture did not matter more than noise: of the {len(like)} pairs of like size (within "
        f"{LIKE_SIZE:g} times the parameters) none differs measurably."
    )


def _placed_differently(members: Sequence[MemberRow], comparisons: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    places = {row.name: (row.architecture["method"], row.architecture["ranks"]) for row in members}
    return [row for row in comparisons if places[row.first] != places[row.second]]


def _of_like_size(row: ComparisonRow, sizes: dict[str, int]) -> bool:
    first, second = max(sizes[row.first], 1), max(sizes[row.second], 1)
    return max(first, second) <= LIKE_SIZE * min(first, second)


def _widest(rows: Sequence[ComparisonRow], sizes: dict[str, int]) -> str:
    row = max(rows, key=lambda row: abs(row.difference))
    better, worse = row.first, row.second
    if maximized(row.metric, row.difference) < 0:
        better, worse = worse, better
    return (
        f"{better} over {worse} ({row.metric} {abs(row.difference):.3f}, p = {row.p_holm:.2g} after Holm), with "
        f"{sizes[better] / max(sizes[worse], 1):.2g} times its parameters"
    )
