"""The gradient of the frozen model, the nested adapters that it names, and what a pass costs."""

from __future__ import annotations

import copy

import pytest
import torch

from hf_fsl.search.cost import Meter
from hf_fsl.search.errors import SearchError
from hf_fsl.search.gradient import gradient_family, gradient_pass, nested_adapters, rank_increments
from hf_fsl.search.space import Architecture, SearchSpace
from tests.helpers.model_splits import split_of

TRAINING = {"learning_rate": 1e-3, "steps": 50, "dropout": 0.0}


def meter_of(model, sites, split):
    return Meter.of(model, sites, {name: value[:1] for name, value in split.inputs.items()})


@pytest.mark.parametrize("kind", ["bert", "vit", "convnext"])
def test_gradients_are_those_of_the_weights(kind, model_and_sites):
    model, sites = model_and_sites(kind)
    split = split_of(kind, 10)
    found = gradient_pass(model, sites, split, 4, 3, meter_of(model, sites, split))
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    copied = copy.deepcopy(model)
    batch = split.collate([split[i] for i in range(10)])
    loss = torch.nn.functional.cross_entropy(
        copied(**{k: v for k, v in batch.items() if k not in ("labels", "index")}).logits, batch["labels"]
    )
    loss.backward()
    for site in sites.sites:
        gradient = copied.get_submodule(site.name).weight.grad.reshape(site.fan_out, site.fan_in)
        expected = torch.linalg.svdvals(gradient)[:4]
        torch.testing.assert_close(found[site.name].values, expected, atol=1e-6, rtol=1e-3)
        projected = gradient @ found[site.name].right.T
        torch.testing.assert_close(projected.norm(dim=0), expected, atol=1e-6, rtol=1e-3)


def test_adapters_are_nested_and_grow_in_the_order_of_the_scores(model_and_sites):
    model, sites = model_and_sites("bert")
    space = SearchSpace.from_dict({"ranks": [0, 1, 2, 4], "scaling": [2.0]}, sites)
    split = split_of("bert", 12)
    gradients = gradient_pass(model, sites, split, 4, 32, meter_of(model, sites, split))
    steps = rank_increments(gradients, space)
    assert [step[0] for step in steps] == sorted((step[0] for step in steps), reverse=True)
    assert len(steps) == 3 * 6
    site = max(sites.slots, key=lambda slot: next(s[0] for s in steps if (s[1], s[2]) == slot and s[3] == 1))
    assert steps[0][1:3] == site
    members = sites.slots[site]
    by_hand = sum(gradients[s.name].values[0] for s in members) / sum(s.fan_in + s.fan_out for s in members)
    assert steps[0][0] == pytest.approx(float(by_hand))
    family = nested_adapters(gradients, space, TRAINING)
    assert len(family) == len(steps)
    for smaller, larger in zip(family, family[1:], strict=False):
        assert all(a <= b for s, t in zip(smaller.ranks, larger.ranks, strict=True) for a, b in zip(s, t, strict=True))
    assert family[-1].ranks == ((4,) * 3,) * 2
    capped = SearchSpace.from_dict({"ranks": [0, 1, 2, 4], "scaling": [2.0], "max_parameters": 900}, sites)
    family = nested_adapters(gradients, capped, TRAINING)
    assert family and all(capped.parameters(member) <= 900 for member in family)


def test_a_family_takes_the_usual_choices_nearest_to_those_of_the_space(model_and_sites):
    model, sites = model_and_sites("bert")
    choices = {"dropout": [0.1, 0.2], "learning_rate": [3e-4, 2e-3], "steps": [20, 400], "scaling": [0.5, 4.0]}
    space = SearchSpace.from_dict({"ranks": [0, 2], **choices}, sites)
    split = split_of("bert", 9)
    family = gradient_family(model, space, split, 4, meter_of(model, sites, split))
    assert {(each.dropout, each.learning_rate, each.steps) for each in family} == {(0.1, 3e-4, 20)}
    assert {each.scaling for each in family} <= {0.5, 4.0}
    with pytest.raises(SearchError, match="lora, which is not among the methods"):
        methods = SearchSpace.from_dict({"methods": ["ia3"]}, sites)
        gradient_family(model, methods, split, 4, meter_of(model, sites, split))


def test_meter_counts_by_hand(model_and_sites):
    model, sites = model_and_sites("bert")
    split = split_of("bert", 5)
    meter = meter_of(model, sites, split)
    layers = [sum(p.numel() for p in model.get_submodule(name).parameters()) for name in sites.layers]
    batch, tokens = {"input_ids": torch.ones(3, 7, dtype=torch.long)}, 21
    upper = Architecture("lora", ((0, 0, 0), (2, 0, 0)))
    adapter = sum(2 * (site.fan_in + site.fan_out) for site in sites.slots[1, "attention_qv"])
    head = 3 * sites.head_parameters
    meter.forward(batch, upper, sites)
    assert meter.flops == 2 * (tokens * (sum(layers) + adapter) + head)
    meter.backward(batch, upper, sites)
    assert meter.backward_flops == 2 * (tokens * (layers[1] + adapter) + head) + 2 * (tokens * adapter + head)
    split_cost = meter_of(model, sites, split)
    gradient_pass(model, sites, split, 1, 2, split_cost)
    assert split_cost.gradient_steps == 1 and split_cost.backward_flops > split_cost.forward_flops > 0
