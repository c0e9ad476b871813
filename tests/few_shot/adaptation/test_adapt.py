"""Adaptation from end to end, on tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    ConvNextConfig,
    ConvNextImageProcessor,
    ConvNextModel,
    VisionTextDualEncoderModel,
)

from hf_fsl import Backbone
from hf_fsl.config import AdaptationConfig, AdapterConfig
from hf_fsl.few_shot.adaptation import AdaptationError, adapt
from hf_fsl.few_shot.adaptation.adapt import AdaptationInputs
from hf_fsl.models.backbones.cache import weights_fingerprint
from hf_fsl.training.losses import MetricLoss
from tests.helpers.tiny_models import text_sizes, write_tokenizer

TOPICS = [["cat", "dog", "bird", "fish"], ["house", "river", "tree", "rain"], ["car", "train", "film", "sun"]]
TEXTS = [f"the {adjective} {noun}" for nouns in TOPICS for noun in nouns for adjective in ("big", "small", "red")]
LABELS = [number for number, nouns in enumerate(TOPICS) for _ in nouns for _ in range(3)]
CONFIG = AdaptationConfig(steps=6, batch_size=12, examples_per_class=4, learning_rate=5e-3, mixed_precision="no")
LORA = AdapterConfig(r=4)
ALONG = AdapterConfig(r=4, initialization="gradient")
FULL = AdapterConfig(method="full")


@pytest.fixture
def backbone(text_backbone: Path) -> Backbone:
    return Backbone.from_pretrained(str(text_backbone))


def separation(backbone: Backbone, texts=TEXTS, labels=LABELS) -> float:
    """Mean cosine distance between classes over that within them."""
    z = normalize(backbone.encode(texts).double(), dim=-1)
    same = torch.tensor(labels)[:, None] == torch.tensor(labels)
    within, distances = same & ~torch.eye(len(labels), dtype=torch.bool), 1 - z @ z.T
    return float(distances[~same].mean() / distances[within].mean())


@pytest.mark.parametrize(
    ("adapter", "rate"),
    [(LORA, 1e-2), (FULL, 5e-3), (peft.LoraConfig(r=2, target_modules=["query", "value"]), 5e-2)],
)
@pytest.mark.parametrize("loss", ["supervised_contrastive", "prototypical", "triplet"])
def test_classes_come_together_and_the_backbone_given_stays_as_it_was(backbone, adapter, rate, loss):
    for parameter in backbone.model.parameters():
        parameter.data *= 4 if parameter.ndim == 2 else 1  # at BERT's initial scale it is next to linear
    before, state = weights_fingerprint(backbone.model), [p.requires_grad for p in backbone.model.parameters()]
    config = replace(CONFIG, loss=loss, steps=15, learning_rate=rate)
    adapted = adapt(backbone, TEXTS, LABELS, config, adapter=adapter)
    assert separation(adapted.backbone) > 1.3 * separation(backbone)
    assert weights_fingerprint(backbone.model) == before
    assert [p.requires_grad for p in backbone.model.parameters()] == state
    assert not any("lora" in name for name, _ in adapted.backbone.model.named_modules())
    assert len(adapted.losses) == 15 and adapted.losses[-1] < adapted.losses[0]
    assert 0 < adapted.parameters.trainable < adapted.parameters.total and adapted.seconds > 0


def test_the_seed_decides_everything_and_the_callers_random_state_is_kept(backbone):
    config = replace(CONFIG, dropout=True)
    backbone.model.config.hidden_dropout_prob = 0.1
    for module in backbone.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = adapt(backbone, TEXTS, LABELS, config, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    two, other = (adapt(backbone, TEXTS, torch.tensor(LABELS), config, seed=seed) for seed in (1, 2))
    assert one.losses == two.losses != other.losses
    assert torch.equal(one.backbone.encode(TEXTS), two.backbone.encode(TEXTS))


def test_the_saved_adapter_on_the_original_model_is_the_merged_backbone(backbone, text_backbone, tmp_path):
    adapted = adapt(backbone, TEXTS, LABELS, CONFIG, adapter=LORA)
    folder = adapted.save_adapter(tmp_path / "adapter")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(text_backbone)
    loaded = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(text_backbone), str(folder))
    fresh = Backbone(loaded, backbone.tokenizer, modules=backbone.modules)
    assert torch.allclose(fresh.encode(TEXTS), adapted.backbone.encode(TEXTS), atol=1e-5)
    with pytest.raises(AdaptationError, match="trained in full"):
        adapt(backbone, TEXTS, LABELS, CONFIG, adapter=FULL).save_adapter(tmp_path)


@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
@pytest.mark.parametrize(
    ("upper", "plain"),
    [
        (LORA, replace(LORA, layers_to_transform=[1])),
        (ALONG, replace(ALONG, layers_to_transform=[1])),
        (
            peft.LoraConfig(r=4, target_modules=["query"]),
            peft.LoraConfig(r=4, target_modules=["query"], layers_to_transform=[1]),
        ),
    ],
)
def test_upper_layers_with_everything_below_computed_once_are_what_they_are_without(
    backbone, upper, plain, cache_bytes
):
    cached = adapt(backbone, TEXTS, LABELS, replace(CONFIG, first_layer=1, cache_bytes=cache_bytes), adapter=upper)
    expected = adapt(backbone, TEXTS, LABELS, CONFIG, adapter=plain)
    assert cached.parameters == expected.parameters
    assert cached.losses == pytest.approx(expected.losses, rel=1e-4)
    assert torch.allclose(cached.backbone.encode(TEXTS), expected.backbone.encode(TEXTS), atol=1e-4)


def test_a_lora_starts_along_the_gradient_of_its_first_batch(backbone):
    config = replace(CONFIG, batch_size=36, examples_per_class=12, steps=1, learning_rate=1e-12)  # all in a batch
    adapted = adapt(backbone, TEXTS, LABELS, config, adapter=replace(ALONG, r=2))
    examples = AdaptationInputs(backbone, TEXTS, 0)
    MetricLoss("supervised_contrastive", config.temperature)(
        examples.embed(range(36)), torch.tensor(LABELS)
    ).backward()
    for name, module in backbone.model.named_modules():
        if isinstance(module, torch.nn.Linear) and module.weight.grad is not None:
            rows = adapted.adapter_state[f"base_model.model.{name}.lora_A.weight"]
            captured = (module.weight.grad @ (rows / rows.norm(dim=1, keepdim=True)).T).norm()
            best = torch.linalg.svdvals(module.weight.grad)[:2].norm()
            torch.testing.assert_close(captured, best, atol=1e-7, rtol=1e-3)
    assert adapted.losses == pytest.approx(adapt(backbone, TEXTS, LABELS, config, adapter=LORA).losses, rel=1e-5)


def test_upper_layers_in_full_leave_the_lower_ones_alone(backbone):
    adapted = adapt(backbone, TEXTS, LABELS, replace(CONFIG, first_layer=1), adapter=FULL)
    layers, before = adapted.backbone.model.encoder.layer, backbone.model.encoder.layer
    assert weights_fingerprint(layers[0]) == weights_fingerprint(before[0])
    assert weights_fingerprint(layers[1]) != weights_fingerprint(before[1])


def test_label_texts_are_examples_of_their_class(backbone):
    once = AdaptationConfig(steps=10, batch_size=6, examples_per_class=2, learning_rate=2e-2, mixed_precision="no")
    texts, labels, names = ["the cat runs", "the river", "a car"], [0, 1, 2], ["dog", "tree", "train"]
    adapted = adapt(backbone, texts, labels, once, label_texts=names)
    both, twice = [*texts, *names], [*labels, *labels]
    assert separation(adapted.backbone, both, twice) > 1.3 * separation(backbone, both, twice)
    assert adapted.losses == adapt(backbone, both, twice, once).losses
    with pytest.raises(AdaptationError, match="each of the 3 classes has one. Give label_texts"):
        adapt(backbone, texts, labels, once)


def test_images_with_and_without_what_lies_below_computed_once(image_backbone):
    backbone = Backbone.from_pretrained(str(image_backbone))
    generator = torch.Generator().manual_seed(0)
    shades = [Image.new("RGB", (16, 16), (40 + 90 * c, 90, 200 - 90 * c)) for c in range(3) for _ in range(5)]
    for image in shades:
        for x, y in torch.randint(16, (40, 2), generator=generator).tolist():
            image.putpixel((x, y), (x * 16, y * 16, 0))
    labels = [c for c in range(3) for _ in range(5)]
    whole = adapt(backbone, shades, labels, replace(CONFIG, steps=10), adapter=replace(LORA, layers_to_transform=[1]))
    assert separation(whole.backbone, shades, labels) > separation(backbone, shades, labels)
    upper = adapt(backbone, shades, labels, replace(CONFIG, steps=10, first_layer=1), adapter=LORA)
    assert upper.losses == pytest.approx(whole.losses, rel=1e-3)
    with pytest.raises(AdaptationError, match="these examples are images"):
        adapt(backbone, shades, labels, CONFIG, label_texts=["a", "b", "c"])
    with pytest.raises(AdaptationError, match="takes images, and was given texts"):
        adapt(backbone, TEXTS, LABELS, CONFIG)


def test_bf16_computes_nearly_the_same_and_leaves_weights_and_attention_as_they_were(backbone):
    exact = adapt(backbone, TEXTS, LABELS, CONFIG)
    fast = adapt(backbone, TEXTS, LABELS, replace(CONFIG, mixed_precision="bf16"))
    assert fast.losses == pytest.approx(exact.losses, rel=0.05)
    assert fast.losses != exact.losses
    assert {p.dtype for p in fast.backbone.model.parameters()} == {torch.float32}
    assert fast.backbone.model.config._attn_implementation == backbone.model.config._attn_implementation


def test_bf16_leaves_towers_the_attention_that_each_has(tmp_path):
    """A convolutional tower has no fused attention, and refuses to be told of any."""
    vision = ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], image_size=16)
    vision.hidden_size = 16
    model = VisionTextDualEncoderModel(
        vision_model=ConvNextModel(vision), text_model=BertModel(BertConfig(**text_sizes()))
    )
    backbone = Backbone.of_model(model, write_tokenizer(tmp_path), ConvNextImageProcessor(size={"shortest_edge": 16}))
    towers = (model.vision_model.config, model.text_model.config)
    before = [config._attn_implementation for config in towers]
    assert "sdpa" in before and set(before) != {"sdpa"}
    shades = [Image.new("RGB", (16, 16), (60 * c, 20 * number, 90)) for c in range(3) for number in range(4)]
    labels = [c for c in range(3) for _ in range(4)]
    for items in (shades, TEXTS[:12]):
        fast = adapt(backbone, items, labels, replace(CONFIG, mixed_precision="bf16")).backbone.model
        after = (fast.vision_model.config, fast.text_model.config)
        assert [config._attn_implementation for config in after] == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0] * len(TEXTS)}, "all labels are the same"),
        ({"labels": LABELS[:-1]}, "one integer for each input"),
        ({"labels": [0.5] * len(TEXTS)}, "one integer for each input, got float32"),
        ({"labels": ["cat"] * len(TEXTS)}, "they are no integers"),
        ({"label_texts": ["a", "b"]}, "labels go from 0 to 2, and there are 2 texts"),
        ({"config": replace(CONFIG, batch_size=4)}, "batch_size: at least 2 classes"),
        ({"adapter": AdapterConfig(method="head")}, "trains no part of a backbone"),
        ({"adapter": peft.PromptTuningConfig(num_virtual_tokens=2)}, "cannot be merged"),
        (
            {"config": replace(CONFIG, first_layer=1), "adapter": AdapterConfig(layers_to_transform=[0])},
            "the adapter also trains",
        ),
        ({"config": replace(CONFIG, learning_rate=1e30, max_grad_norm=None)}, "training has diverged"),
    ],
)
def test_what_cannot_be_adapted_is_refused(backbone, change, message):
    given = {"labels": LABELS, "config": CONFIG, **change}
    with pytest.raises(AdaptationError, match=message):
        adapt(backbone, TEXTS, given.pop("labels"), given.pop("config"), **given)


def test_two_processes_compute_what_one_does(backbone, text_backbone, tmp_path):
    expected = adapt(backbone, TEXTS, LABELS, replace(CONFIG, batch_size=9, examples_per_class=3), adapter=ALONG)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0",
               "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]  # fmt: skip
    _run([*command, __file__, str(text_backbone), str(tmp_path)])
    results = [torch.load(tmp_path / f"{index}.pt", weights_only=True) for index in range(2)]
    assert torch.equal(results[0]["embeddings"], results[1]["embeddings"])
    assert results[0]["losses"] == pytest.approx(expected.losses, rel=1e-4)
    assert torch.allclose(results[0]["embeddings"], expected.backbone.encode(TEXTS), atol=1e-4)


def _run(command: list[str]) -> str:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _in_a_process(folder: str, *rest: str) -> None:
    from accelerate import Accelerator

    backbone = Backbone.from_pretrained(folder)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    config = replace(CONFIG, batch_size=9, examples_per_class=3)
    adapted = adapt(backbone, TEXTS, LABELS, config, adapter=ALONG, accelerator=accelerator)
    values = {"losses": adapted.losses, "embeddings": adapted.backbone.encode(TEXTS)}
    torch.save(values, Path(rest[0]) / f"{accelerator.process_index}.pt")


if __name__ == "__main__":
    _in_a_process(*sys.argv[1:])
