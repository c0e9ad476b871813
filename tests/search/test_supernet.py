"""A supernet's members are adapters: exported, merged and reloaded they give the member's own logits."""

from __future__ import annotations

import copy

import numpy as np
import peft
import pytest
import torch
from conftest import model_inputs
from model_splits import split_of

from hf_fsl.adapters import merge_adapter
from hf_fsl.search.data import SearchData
from hf_fsl.search.errors import SearchError
from hf_fsl.search.meter import Meter
from hf_fsl.search.space import Architecture, SearchSpace, adapter_parameters
from hf_fsl.search.supernet import (
    MemberEvaluator,
    PrefixCache,
    Supernet,
    SupernetConfig,
    gradient_pass,
    nested_seeds,
    reorder,
    seed_increments,
    train_supernet,
)
from hf_fsl.search.supernet.gradients import initialize_from
from hf_fsl.search.supernet.reorder import low_rank_svd

MEMBER = ((1, 0, 8), (0, 4, 2))


def perturbed(supernet, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in supernet.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    supernet.model.eval()
    return supernet


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "vit", "clip", "convnext", "resnet"])
def test_exported_member_equals_the_member(kind, model_and_sites, tiny_inputs, tmp_path):
    model, sites = model_and_sites(kind)
    rng = np.random.default_rng(0)
    space = SearchSpace.from_dict({"ranks": [0, 1, 2, 4, 8], "scaling": [2.0]}, sites)
    supernet = perturbed(Supernet(model, sites, Architecture("lora", space.sample(rng).ranks, 2.0)))
    supernet = perturbed(Supernet(model, sites, corner_of(space)))
    inputs = tiny_inputs(kind)
    members = [space.sample_stratified(rng) for _ in range(3)]
    if kind in ("bert", "vit", "clip", "modernbert"):
        members.append(Architecture("lora", MEMBER, 2.0))
    for number, member in enumerate(members):
        with torch.inference_mode():
            expected = supernet.logits(member, inputs)
            exported = supernet.export(member, copy.deepcopy(model))
            torch.testing.assert_close(exported(**inputs).logits, expected, atol=1e-5, rtol=0)
            exported.save_pretrained(tmp_path / str(number))
            alone = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / str(number)).eval()
            torch.testing.assert_close(alone(**inputs).logits, expected, atol=1e-5, rtol=0)
            merged = merge_adapter(alone).eval()
            assert type(merged) is type(model)
            torch.testing.assert_close(merged(**inputs).logits, expected, atol=1e-5, rtol=0)
            assert not torch.allclose(expected, model(**inputs).logits, atol=1e-2)


def corner_of(space):
    from hf_fsl.search.supernet import corner

    return corner(space, max)


def test_member_is_a_product_of_slices(model_and_sites):
    model, sites = model_and_sites("bert")
    supernet = perturbed(Supernet(model, sites, Architecture.uniform(8, 2, scaling=2.0)))
    name = sites.sites[0].name
    site = supernet.nested[name]
    x = torch.randn(4, site.base.in_features)
    for rank in (0, 1, 5, 8):
        site.rank = rank
        expected = site.base(x) + 2.0 * x @ (site.lora_B[:, :rank] @ site.lora_A[:rank]).T
        torch.testing.assert_close(site(x), expected, atol=1e-5, rtol=1e-5)


def test_what_is_no_member_is_refused(model_and_sites):
    model, sites = model_and_sites("bert")
    supernet = Supernet(model, sites, Architecture.uniform(4, 2, scaling=2.0))
    for other, message in [
        (Architecture.uniform(8, 2, scaling=2.0), "Ranks above those of the supernet"),
        (Architecture.uniform(4, 2, scaling=1.0), "trained with scaling 2.0"),
        (Architecture.uniform(4, 2, "dora", scaling=2.0), "no member of a supernet"),
        (Architecture.uniform(4, 3, scaling=2.0), "does not fit a model of 2"),
    ]:
        with pytest.raises(SearchError, match=message):
            supernet.activate(other)
    with pytest.raises(SearchError, match="Only lora can be nested"):
        Supernet(model, sites, Architecture.uniform(4, 2, "ia3"))


@pytest.mark.parametrize("kind", ["bert", "convnext", "resnet"])
def test_reordering_keeps_the_update_and_makes_each_prefix_the_best_of_its_rank(kind, model_and_sites):
    model, sites = model_and_sites(kind)
    space = SearchSpace.from_dict({"ranks": [0, 8], "scaling": [2.0]}, sites)
    supernet = perturbed(Supernet(model, sites, corner_of(space)))
    before = {name: (site.lora_B @ site.lora_A).detach() for name, site in supernet.nested.items()}
    values = reorder(supernet)
    for name, site in supernet.nested.items():
        torch.testing.assert_close((site.lora_B @ site.lora_A).detach(), before[name], atol=1e-6, rtol=1e-5)
        spectrum = torch.linalg.svdvals(before[name].double())
        torch.testing.assert_close(values[name], spectrum[:8], atol=1e-5, rtol=1e-4)
        for rank in range(9):
            slice_ = site.lora_B[:, :rank] @ site.lora_A[:rank]
            error = (before[name] - slice_).double().square().sum()
            torch.testing.assert_close(error, spectrum[rank:].square().sum(), atol=1e-5, rtol=1e-4)


def test_singular_values_of_a_product_wider_than_its_rank():
    up, down = torch.randn(3, 5, dtype=torch.double), torch.randn(5, 9, dtype=torch.double)
    left, values, right = low_rank_svd(up, down)
    assert left.shape == (3, 5) and right.shape == (5, 9)
    torch.testing.assert_close(left * values @ right, up @ down)


@pytest.mark.parametrize("kind", ["bert", "vit", "convnext"])
def test_gradients_are_those_of_the_weights(kind, model_and_sites):
    model, sites = model_and_sites(kind)
    split = split_of(kind, 10)
    found = gradient_pass(model, sites, split, rank=4, batch_size=3)
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


def test_seeds_are_nested_and_in_the_order_of_their_scores(model_and_sites):
    model, sites = model_and_sites("bert")
    space = SearchSpace.from_dict({"ranks": [0, 1, 2, 4], "scaling": [2.0]}, sites)
    gradients = gradient_pass(model, sites, split_of("bert", 12), rank=4)
    steps = seed_increments(gradients, space)
    assert [step[0] for step in steps] == sorted((step[0] for step in steps), reverse=True)
    assert len(steps) == 3 * 6
    site = max(sites.slots, key=lambda slot: next(s[0] for s in steps if (s[1], s[2]) == slot and s[3] == 1))
    assert steps[0][1:3] == site
    members = sites.slots[site]
    by_hand = sum(gradients[s.name].values[0] for s in members) / sum(s.fan_in + s.fan_out for s in members)
    assert steps[0][0] == pytest.approx(float(by_hand))
    family = nested_seeds(gradients, space, Architecture.uniform(1, 2, scaling=2.0, steps=50))
    assert len(family) == len(steps)
    for smaller, larger in zip(family, family[1:], strict=False):
        assert all(a <= b for s, t in zip(smaller.ranks, larger.ranks, strict=True) for a, b in zip(s, t, strict=True))
    assert family[-1].ranks == ((4,) * 3,) * 2
    capped = SearchSpace.from_dict({"ranks": [0, 1, 2, 4], "scaling": [2.0], "max_parameters": 900}, sites)
    family = nested_seeds(gradients, capped, Architecture.uniform(1, 2, scaling=2.0, steps=50))
    assert family and all(capped.parameters(seed) <= 900 for seed in family)


def test_rows_start_as_directions_of_the_gradient_as_far_as_it_has_any():
    from planted import PlantedModel, planted_split

    from hf_fsl.search.space import find_sites

    model = PlantedModel()  # two classes: gradients of rank one, at one site
    sites = find_sites(model, ["classifier"])
    supernet = Supernet(model, sites, Architecture.uniform(2, 4).replace(ranks=((2, 2, 2),) * 4))
    before = {name: site.lora_A.detach().clone() for name, site in supernet.nested.items()}
    gradients = gradient_pass(model, sites, planted_split(40, 1), rank=2)
    initialize_from(supernet, gradients)
    for name, site in supernet.nested.items():
        first, second = site.lora_A.detach()
        torch.testing.assert_close(second, before[name][1], atol=0, rtol=0)
        if name == "layers.2.fc1":
            direction = first / first.norm()
            torch.testing.assert_close(direction, gradients[name].right[0])
            assert float(first.norm()) == pytest.approx(float(before[name][0].norm()), rel=1e-5)
            assert float(direction[0].abs()) > 0.7  # what the labels depend on
        else:
            torch.testing.assert_close(first, before[name][0], atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "vit", "clip", "convnext"])
def test_cached_prefix_changes_nothing(kind, model_and_sites):
    model, sites = model_and_sites(kind)
    space = SearchSpace.from_dict({"ranks": [0, 4], "scaling": [2.0], "methods": ["lora", "none"]}, sites)
    supernet, split = perturbed(Supernet(model, sites, corner_of(space))), split_of(kind, 21)
    cache = PrefixCache(supernet.model, sites)
    plain = MemberEvaluator(supernet, split, 8, chunks=(10,))
    cached = MemberEvaluator(supernet, split, 8, chunks=(10,), cache=cache)
    there = (0, 0, 4) if kind == "convnext" else (4, 4, 4)
    members = [
        Architecture("lora", ((0, 0, 0), there), 2.0),
        Architecture.uniform(0, 2),
        Architecture("lora", (there, (0, 0, 0)), 2.0),
        Architecture("lora", ((0, 0, 0), (0, 0, 4)), 2.0),
    ]
    for _ in range(2):
        for member in members:
            np.testing.assert_array_equal(cached.losses(member), plain.losses(member))
    if kind == "convnext":
        assert not cache.usable and cache.hits == 0
    else:
        assert cache.misses == 2 * 4 and cache.hits == 4 * 4


def test_cache_that_is_full_computes(model_and_sites):
    model, sites = model_and_sites("bert")
    supernet, split = Supernet(model.eval(), sites, Architecture.uniform(4, 2, scaling=2.0)), split_of("bert", 20)
    cache = PrefixCache(supernet.model, sites, max_bytes=1)
    evaluator = MemberEvaluator(supernet, split, 8, cache=cache)
    first = evaluator.losses(Architecture.uniform(0, 2))
    np.testing.assert_array_equal(evaluator.losses(Architecture.uniform(0, 2)), first)
    assert cache.hits == 0 and cache.bytes == 0


def test_chunks_are_the_whole_split_in_one_order(model_and_sites):
    model, sites = model_and_sites("bert")
    supernet, split = Supernet(model.eval(), sites, Architecture.uniform(4, 2, scaling=2.0)), split_of("bert", 50)
    evaluator = MemberEvaluator(supernet, split, 8, chunks=(16, 32, 256))
    assert [(c.start, c.stop) for c in evaluator.chunks] == [(0, 16), (16, 32), (32, 50)]
    none = Architecture.uniform(0, 2)
    batch = split.collate([split[int(i)] for i in evaluator.order])
    logits = model(**{k: v for k, v in batch.items() if k not in ("labels", "index")}).logits
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
    np.testing.assert_allclose(evaluator.losses(none), expected.detach().numpy(), atol=1e-5)


def test_meter_counts_by_hand(model_and_sites):
    model, sites = model_and_sites("bert")
    batch = model_inputs("bert", 6)
    meter = Meter.of(model, sites, batch)
    layer = sum(p.numel() for p in model.bert.encoder.layer[0].parameters())
    assert meter.layer_parameters == (layer, layer)
    upper = Architecture("lora", ((0, 0, 0), (4, 0, 0)))
    extra, tokens = adapter_parameters(upper, sites), batch["input_ids"].numel()
    whole = 2 * ((2 * layer + extra) * tokens + sites.head_parameters * 6)
    meter.forward(batch, upper, sites)
    assert meter.flops == whole
    half = 2 * ((layer + extra) * tokens + sites.head_parameters * 6)
    meter.forward(batch, upper, sites, cached_layers=1)
    assert meter.flops == whole + half
    meter.phase = "audit"
    meter.backward(batch, upper, sites)
    trained = 2 * (extra * tokens + sites.head_parameters * 6)
    assert meter.backward_flops == half + trained
    assert meter.by_phase == {"search": whole + half, "audit": half + trained}
    meter.backward(batch, upper, sites, weights=True)
    assert meter.backward_flops == half + trained + 2 * half
    images, convnext = model_and_sites("convnext"), model_inputs("convnext", 2)
    assert Meter.of(images[0], images[1], convnext).image_tokens == (64.0, 16.0)


def test_space_without_lora_has_no_supernet(model_and_sites):
    model, sites = model_and_sites("bert")
    data = SearchData(split_of("bert", 6), split_of("bert", 6))
    with pytest.raises(SearchError, match="holds lora"):
        train_supernet(model, data, SearchSpace.from_dict({"methods": ["dora"]}, sites), SupernetConfig())
