"""One contract for every adapter method on every kind of encoder."""

from __future__ import annotations

import copy
from typing import get_args, get_type_hints

import peft
import pytest
import torch

from hf_fsl.config import AdapterConfig
from hf_fsl.models.adapters import METHODS, AdapterError, attach_adapter, count_parameters, merge_adapter, peft_config
from hf_fsl.models.backbones.classification import head_modules

KINDS = ("bert", "roberta", "distilbert", "modernbert", "vit", "dinov2", "clip", "convnext", "resnet")
CONVOLUTIONS_LACK = ("vera", "ln_tuning", "ia3")
"""PEFT has no VeRA for convolutions, IA3 finds no keys and values, and batch norm is not tuned here."""
EVERY_METHOD = (*METHODS, "head", "full")


def perturb(model):
    """Stands in for training: every trainable parameter moves."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def loaded_again(pristine, adapted, folder):
    adapted.save_pretrained(folder)
    if isinstance(adapted, peft.PeftModel):
        return peft.PeftModel.from_pretrained(copy.deepcopy(pristine), folder).eval()
    return type(pristine).from_pretrained(folder).eval()


def test_every_method_of_the_config_is_registered_and_the_other_way_round():
    assert set(get_args(get_type_hints(AdapterConfig)["method"])) == set(EVERY_METHOD)


@pytest.mark.parametrize("method", EVERY_METHOD)
@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind, method, tiny_model, tiny_inputs, tmp_path):
    if kind == "resnet" and method in CONVOLUTIONS_LACK:
        pytest.skip("convolutions only")
    model = tiny_model(kind).eval()
    pristine, inputs = copy.deepcopy(model), tiny_inputs(kind)
    head = head_modules(model, set())
    adapted = attach_adapter(model, AdapterConfig(method=method, r=4), head).eval()
    trainable = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}

    # What is trained: the head, and what the method adds or says; the count is theirs.
    count = count_parameters(adapted)
    assert count.trainable == sum(parameter.numel() for parameter in trainable.values()) > 0
    assert count.total == sum(parameter.numel() for parameter in adapted.parameters())
    assert all(any(f".{part}." in f".{name}" for name in trainable) for part in head)
    beside_head = {name for name in trainable if not any(f".{part}." in f".{name}" for part in head)}
    if method == "full":
        assert count.trainable == count.total
    elif method == "head":
        assert not beside_head
    else:
        assert beside_head and all(adapted.prefix in name for name in beside_head)

    # It starts as the model that it is attached to, but for VeRA, whose vectors start at 0.1.
    with torch.inference_mode():
        before = pristine(**inputs).logits
        assert torch.allclose(adapted(**inputs).logits, before, atol=1e-5) or method == "vera"
    perturb(adapted)
    with torch.inference_mode():
        trained = adapted(**inputs).logits
        assert not torch.allclose(trained, before, atol=1e-3)

        # Saved and merged, it gives the same logits.
        again = loaded_again(pristine, adapted, tmp_path)
        torch.testing.assert_close(again(**inputs).logits, trained, atol=1e-6, rtol=1e-5)
        merged = merge_adapter(adapted).eval()
        assert type(merged) is type(pristine)
        assert {name for name, _ in merged.named_parameters()} == {name for name, _ in pristine.named_parameters()}
        torch.testing.assert_close(merged(**inputs).logits, trained, atol=1e-5, rtol=1e-4)


def test_the_old_name_of_full_fine_tuning_is_refused_with_the_new_one(tiny_model):
    with pytest.raises(AdapterError, match="none is now called full"):
        attach_adapter(tiny_model("bert"), AdapterConfig(method="none"), ["classifier"])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bert", {"query", "key", "value", "dense"}),
        ("vit", {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"}),
        ("modernbert", {"Wqkv", "Wo", "Wi"}),
    ],
)
def test_targets_are_found_from_the_module_tree(kind, expected, tiny_model):
    model = tiny_model(kind)
    assert set(peft_config(model, AdapterConfig(), head_modules(model, set())).target_modules) == expected


def test_rank_pattern_and_layers_give_the_ranks_asked_for(tiny_model):
    config = AdapterConfig(
        r=2, target_modules=["query", "value"], layers_to_transform=[1], rank_pattern={"attention.self.query": 6}
    )
    adapted = attach_adapter(tiny_model("bert"), config, ["classifier"])
    ranks = {n.split(".lora_A")[0]: p.shape[0] for n, p in adapted.named_parameters() if ".lora_A." in n}
    prefix = "base_model.model.bert.encoder.layer.1.attention.self"
    assert ranks == {f"{prefix}.query": 6, f"{prefix}.value": 2}


def test_peft_config_is_taken_as_it_is(tiny_model):
    given = peft.LoraConfig(r=3, target_modules=["query"], lora_alpha=7, modules_to_save=["classifier"])
    adapted = attach_adapter(tiny_model("bert"), given)
    active = adapted.active_peft_config
    assert (active.r, active.lora_alpha, set(active.target_modules)) == (3, 7, {"query"})


def test_peft_config_from_a_folder(tiny_model, tmp_path):
    peft.LoraConfig(r=3, target_modules=["query"]).save_pretrained(tmp_path)
    adapted = attach_adapter(tiny_model("bert"), AdapterConfig(peft_config=str(tmp_path)), ["classifier"])
    assert adapted.active_peft_config.r == 3
    assert adapted.active_peft_config.modules_to_save == ["classifier"]


@pytest.mark.parametrize("given", ["lora", "head", "object", "folder"])
def test_modules_to_save_are_trained_beside_the_head(given, tiny_model, tmp_path):
    theirs = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["bert.pooler"])
    theirs.save_pretrained(tmp_path)
    adapter = {
        "object": theirs,
        "folder": AdapterConfig(peft_config=str(tmp_path)),
    }.get(given, AdapterConfig(method=given if given == "head" else "lora", r=2, modules_to_save=["bert.pooler"]))
    adapted = attach_adapter(tiny_model("bert"), adapter, ["classifier"])
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    for part in ("classifier", "bert.pooler"):
        assert any(f"{part}." in name and name.endswith("weight") for name in trained), (part, trained)


@pytest.mark.parametrize("named", [["classifier"], ["out_proj"], ["classifier.dense", "classifier"]])
def test_modules_to_save_that_are_of_the_head_are_named_once(named, tiny_model):
    adapted = attach_adapter(tiny_model("roberta"), AdapterConfig(r=2, modules_to_save=named), ["classifier"])
    assert adapted.active_peft_config.modules_to_save == ["classifier"]
    assert attach_adapter(
        tiny_model("roberta"), AdapterConfig(r=2, modules_to_save=["classifier"]), ["classifier.out_proj"]
    ).active_peft_config.modules_to_save == ["classifier"]  # fmt: skip


def test_peft_config_that_is_not_there_is_refused(tiny_model, tmp_path):
    adapter = AdapterConfig(peft_config=str(tmp_path / "nowhere"))
    with pytest.raises(AdapterError, match="adapter.peft_config: .*nowhere' is no folder or Hub repository"):
        attach_adapter(tiny_model("bert"), adapter, ["classifier"])


@pytest.mark.parametrize("adapter", [{"target_modules": "(query"}, {"rank_pattern": {"*query": 4}}])
def test_text_that_is_no_regular_expression_is_refused(adapter, tiny_model):
    with pytest.raises(AdapterError, match="is no regular expression"):
        attach_adapter(tiny_model("bert"), AdapterConfig(**adapter), ["classifier"])


def test_target_that_matches_nothing_names_what_there_is(tiny_model):
    with pytest.raises(AdapterError, match=r"'q_proj' matches no module.*key, query, value"):
        attach_adapter(tiny_model("bert"), AdapterConfig(target_modules=["query", "q_proj"]), ["classifier"])


def test_layer_that_does_not_exist_is_refused(tiny_model):
    with pytest.raises(AdapterError, match=r"matches no layer; the encoder has \[0, 1\]"):
        attach_adapter(tiny_model("bert"), AdapterConfig(layers_to_transform=[7]), ["classifier"])


def test_rank_pattern_of_a_method_without_ranks_is_refused(tiny_model):
    with pytest.raises(AdapterError, match="rank_pattern"):
        attach_adapter(tiny_model("bert"), AdapterConfig(method="ia3", rank_pattern={"query": 4}), ["classifier"])


def test_rank_pattern_that_matches_nothing_is_refused(tiny_model):
    with pytest.raises(AdapterError, match="matches no module"):
        attach_adapter(tiny_model("bert"), AdapterConfig(rank_pattern={"qery": 4}), ["classifier"])


def test_the_config_of_the_caller_stays_as_it_is(tiny_model):
    given = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["pooler.dense"])
    before = copy.deepcopy(given)
    first = attach_adapter(tiny_model("bert"), given, ["classifier"])
    assert given == before
    second = attach_adapter(tiny_model("bert"), given, ["classifier"])
    for model in (first, second):
        assert set(model.active_peft_config.modules_to_save) == {"classifier", "pooler.dense"}
