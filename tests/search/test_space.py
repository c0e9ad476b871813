"""The search space: strict, exact in its counts, and closed under its own operations."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hf_fsl.config import ConfigError
from hf_fsl.search.errors import SearchError
from hf_fsl.search.space import GROUPS, Architecture, SearchSpace, adapter_parameters, with_even_steps

ALL = ["lora", "rslora", "dora", "ia3", "ln_tuning", "vera", "head"]


def leaves(sites, group):
    return {site.name.rpartition(".")[2] for site in sites.sites if site.group == group}


@pytest.mark.parametrize(
    ("kind", "query_value", "key_output", "feed_forward"),
    [
        ("bert", {"query", "value"}, {"key", "dense"}, {"dense"}),
        ("roberta", {"query", "value"}, {"key", "dense"}, {"dense"}),
        ("distilbert", {"q_lin", "v_lin"}, {"k_lin", "out_lin"}, {"lin1", "lin2"}),
        ("modernbert", {"Wqkv"}, {"Wo"}, {"Wi", "Wo"}),
        ("vit", {"q_proj", "v_proj"}, {"k_proj", "o_proj"}, {"fc1", "fc2"}),
        ("dinov2", {"q_proj", "v_proj"}, {"k_proj", "o_proj"}, {"fc1", "fc2"}),
        ("clip", {"q_proj", "v_proj"}, {"k_proj", "out_proj"}, {"fc1", "fc2"}),
        ("convnext", set(), set(), {"pwconv1", "pwconv2"}),
        ("resnet", set(), set(), {"convolution"}),
    ],
)
def test_site_groups_are_found_in_any_encoder(kind, query_value, key_output, feed_forward, model_and_sites):
    _, sites = model_and_sites(kind)
    assert [leaves(sites, group) for group in GROUPS] == [query_value, key_output, feed_forward]
    if kind != "resnet":
        assert len(sites.layers) == 2
    assert not any(site.name.startswith(sites.head) or "pooler" in site.name for site in sites.sites)
    for site in sites.sites:
        assert site.name.startswith(sites.layers[site.layer] + ".")


def test_lists_of_unlike_modules_are_not_layers():
    import transformers as t

    from hf_fsl.search.space import find_sites

    config = t.T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, num_decoder_layers=1
    )  # fmt: skip
    sites = find_sites(t.T5EncoderModel(config), [])
    assert len(sites.layers) == 2
    assert [leaves(sites, group) for group in GROUPS] == [{"q", "v"}, {"k", "o"}, {"wi", "wo"}]


def test_every_problem_of_a_space_is_listed_at_once(model_and_sites):
    _, sites = model_and_sites("bert")
    values = {
        "methods": ["lora", "lorra"], "rank": [1], "ranks": [0], "steps": [], "dropout": [1.5], "scaling": [1, 1],
        "min_parameters": 9, "max_parameters": 5,
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        SearchSpace.from_dict(values, sites)
    text = "\n".join(caught.value.problems)
    for part in ("methods", "rank: unknown field; did you mean ranks?", "ranks: one above 0", "steps: at least one",
                 "dropout: from 0", "scaling: each choice once", "min_parameters: at most"):  # fmt: skip
        assert part in text
    assert len(caught.value.problems) == 7


def test_space_is_read_from_yaml_with_overrides(model_and_sites, tmp_path):
    _, sites = model_and_sites("bert")
    path = tmp_path / "space.yaml"
    path.write_text("methods: [lora, head]\nranks: [0, 4]\nsite_groups: [attention_qv]\nlayers: [1]\n")
    space = SearchSpace.from_yaml(path, sites, ["--learning_rate", "[0.1]", "--steps=[5]", "--dropout=[0]"])
    assert space.slots == ((1, "attention_qv"),)
    assert space.size() == 4 * 1 + 1
    assert {space.sample(np.random.default_rng(seed)) for seed in range(60)} == {
        Architecture("head", ((0,) * 3,) * 2, learning_rate=0.1, steps=5),
        *(Architecture("lora", ((0,) * 3, (4, 0, 0)), s, 0.0, 0.1, 5) for s in (0.5, 1.0, 2.0, 4.0)),
    }
    assert SearchSpace.from_dict(space.to_dict(), sites) == space


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("bert", {"max_parameters": 50}, r"max_parameters=50: no architecture meets it.*head has 99: lora from 227"),
        ("bert", {"min_parameters": 10**9}, "no architecture meets it"),
        ("bert", {"layers": [0, 7]}, r"layers 0 to 1, got \[7\]"),
        ("convnext", {"site_groups": ["attention_qv"]}, r"not in this model, which has \['feed_forward'\]"),
        ("resnet", {"methods": ["vera"]}, "vera: PEFT has VeRA for linear layers only"),
    ],
)
def test_space_that_nothing_meets_is_refused(kind, values, message, model_and_sites):
    _, sites = model_and_sites(kind)
    with pytest.raises(SearchError, match=f"(?s){message}"):
        SearchSpace.from_dict(values, sites)


def test_gap_between_the_constraints_is_an_error_not_a_loop(model_and_sites):
    _, sites = model_and_sites("bert")
    head = sites.head_parameters
    space = SearchSpace.from_dict(
        {"ranks": [0, 16], "min_parameters": head + 2100, "max_parameters": head + 2900}, sites
    )
    with pytest.raises(SearchError, match="No architecture found between"):
        space.sample(np.random.default_rng(0))


def test_equal_adapters_are_equal_architectures():
    assert Architecture("vera", ((4, 2, 0), (1, 0, 0))) == Architecture("vera", ((4, 4, 0), (4, 0, 0)), scaling=9)
    assert Architecture("ia3", ((4, 0, 0),)) == Architecture("ia3", ((1, 0, 0),), dropout=0.3)
    assert Architecture("ln_tuning", ((4, 0, 0),)) == Architecture("ln_tuning", ((0, 0, 1),))
    assert Architecture("lora", ((0, 0, 0),), scaling=2) == Architecture("head", ((3, 0, 0),))
    assert Architecture("lora", ((1, 0, 0),), scaling=1) == Architecture("lora", ((1, 0, 0),), scaling=1.0)
    assert len({Architecture("lora", ((1, 0, 0),), 2), Architecture("lora", ((1, 0, 0),), 2.0)}) == 1
    assert Architecture("lora", ((1, 0, 0),)) != Architecture("rslora", ((1, 0, 0),))


def test_scaling_falls_with_the_root_of_the_number_of_rank_one_parts(model_and_sites):
    _, sites = model_and_sites("bert")
    layers, scalings = len(sites.layers), [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
    found = {
        rank: with_even_steps(Architecture.uniform(rank, layers, scaling=3.0), sites, scalings) for rank in (2, 8, 32)
    }
    assert {rank: each.scaling for rank, each in found.items()} == {2: 2.0, 8: 1.0, 32: 0.5}
    assert found[8].replace(scaling=3.0) == Architecture.uniform(8, layers, scaling=3.0)
    small = Architecture("lora", ((1, 0, 0), *((0, 0, 0),) * (layers - 1)))
    assert with_even_steps(small, sites, scalings).scaling == 8.0  # two of twelve sites, rank 1
    none = Architecture.uniform(0, layers)
    assert with_even_steps(none, sites, scalings) == none


def test_architecture_survives_json():
    given = Architecture("dora", ((1, 0, 16), (0, 2, 0)), 0.5, 0.1, 3e-4, 70, "prototypical")
    again = Architecture.from_json(given.to_json())
    assert (again, again.key, hash(again)) == (given, given.key, hash(given))
    assert json.loads(given.to_json())["ranks"] == [[1, 0, 16], [0, 2, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "lorra"}, "method: one of"),
        ({"ranks": [[1, 2]]}, "ranks: 3 whole numbers"),
        ({"ranks": [[1, 2, -1]]}, "ranks: 3 whole numbers"),
        ({"steps": 0}, "steps: above 0"),
        ({"learning_rate": math.inf}, "learning_rate: above 0"),
        ({"scaling": "2"}, "scaling: above 0"),
        ({"dropout": 1.0}, "dropout: from 0"),
        ({"extra": 1}, "differing"),
        ({"ranks": 3}, "Not an architecture"),
    ],
)
def test_what_is_no_architecture_is_refused(change, message):
    values = Architecture("lora", ((1, 0, 0),)).to_dict() | change
    with pytest.raises(SearchError, match=message):
        Architecture.from_json(json.dumps(values))


@pytest.mark.parametrize("kind", ["bert", "modernbert", "convnext"])
def test_what_is_drawn_changed_or_mixed_stays_in_the_space(kind, model_and_sites):
    _, sites = model_and_sites(kind)
    methods = ALL
    space = SearchSpace.from_dict({"methods": methods, "max_parameters": sites.head_parameters + 1500}, sites)
    rng = np.random.default_rng(0)
    pool = [space.sample(rng) for _ in range(60)] + [space.sample_stratified(rng) for _ in range(60)]
    children = [space.mutate(a, rng) for a in pool]
    children += [space.cross_over(a, b, rng) for a, b in zip(pool, reversed(pool), strict=True)]
    for architecture in [*pool, *children]:
        assert space.violations(architecture) == []
    assert all(child != parent for child, parent in zip(children, pool, strict=False))
    assert {a.method for a in pool} == set(methods)


def test_same_generator_gives_the_same_architectures(model_and_sites):
    _, sites = model_and_sites("bert")
    space = SearchSpace.from_dict({"methods": ALL}, sites)

    def draw():
        rng = np.random.default_rng(7)
        return [space.mutate(space.sample_stratified(rng), rng) for _ in range(20)]

    assert draw() == draw()


def test_stratified_sampling_covers_sizes_evenly_in_the_logarithm(model_and_sites):
    _, sites = model_and_sites("bert")
    space = SearchSpace.from_dict({}, sites)
    rng = np.random.default_rng(0)
    sizes = [math.log(adapter_parameters(space.sample_stratified(rng), sites)) for _ in range(400)]
    low, high = math.log(64), math.log(16 * 2 * (4 * 64 + 2 * 96))
    counts, _ = np.histogram(sizes, bins=5, range=(low, high))
    assert counts.min() > 40
    uniform = [math.log(adapter_parameters(space.sample(rng), sites)) for _ in range(400)]
    assert np.histogram(uniform, bins=5, range=(low, high))[0][:3].sum() < 40


def test_architecture_outside_the_space_is_told_why(model_and_sites):
    _, sites = model_and_sites("bert")
    space = SearchSpace.from_dict({"layers": [1], "ranks": [0, 4], "max_parameters": 700}, sites)
    other = Architecture("dora", ((4, 0, 0), (2, 0, 0)), steps=7)
    text = " ".join(space.violations(other))
    for part in ("method dora", "steps 7", "layer 0, attention_qv", "rank 2", "above max_parameters"):
        assert part in text
    assert other not in space
    assert "layers does not fit" in space.violations(Architecture.uniform(4, 3))[0]


def test_optuna_suggests_every_choice(model_and_sites):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _, sites = model_and_sites("vit")
    space = SearchSpace.from_dict({"methods": ALL}, sites)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(40):
        assert space.violations(space.suggest(study.ask())) == []
    fixed = {f"rank.{layer}.{group}": 2 for layer, group in space.slots}
    tuning = {"scaling": 2.0, "dropout": 0.0, "learning_rate": 1e-3, "steps": 50, "loss": "cross_entropy"}
    trial = optuna.trial.FixedTrial({"method": "dora"} | tuning | fixed)
    assert space.suggest(trial) == Architecture.uniform(2, 2, "dora", **tuning)


def test_the_method_of_reports_until_0_2_is_read():
    architecture = Architecture("head", ((0, 0, 0),))
    assert Architecture.from_dict(architecture.to_dict() | {"method": "none"}) == architecture
