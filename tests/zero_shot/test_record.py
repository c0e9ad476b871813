from __future__ import annotations

import numpy as np

from hf_fsl.zero_shot.record import mean_of_templates


def test_each_template_is_looked_at_once_and_several_are_averaged():
    seen = []

    def evidence(inputs, labels, templates):
        seen.append((list(inputs), tuple(labels), tuple(templates)))
        return np.full((len(inputs), len(labels)), float(len(templates[0])))

    scorer, first, second = mean_of_templates(evidence), ["x", "y"], ["x", "y"]
    assert scorer(first, ["a"], ["1"]).tolist() == [[1.0], [1.0]]
    assert scorer(first, ["a"], ["1", "333"]).tolist() == [[2.0], [2.0]]
    scorer(first, ["a", "b"], ["1"])
    scorer(second, ["a"], ["1"])
    assert [(labels, templates) for _, labels, templates in seen] == [
        (("a",), ("1",)), (("a",), ("333",)), (("a", "b"), ("1",)), (("a",), ("1",)),
    ]  # fmt: skip
