"""A whole run in this process: frozen towers computed once, the same as computed every time."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers
from accelerate import Accelerator

from hf_fsl.config import ContrastiveConfig, DualEncoderConfig, PairsConfig, TowerConfig, TrainingConfig
from hf_fsl.contrastive.training import train_towers
from hf_fsl.data import load_pairs
from hf_fsl.training import CheckpointError
from tests.helpers import tiny_pairs as tiny


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Folders with a tiny ViT and a tiny BERT, poolers included."""
    from tests.helpers.tiny_models import build_model, image_sizes, write_tokenizer

    torch.manual_seed(1)
    image, text = tmp_path_factory.mktemp("vit"), tmp_path_factory.mktemp("bert")
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    transformers.ViTModel(transformers.ViTConfig(**image_sizes(), **no_dropout)).save_pretrained(image)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(image)
    transformers.BertModel(build_model("bert").config).save_pretrained(text)
    write_tokenizer(text)
    return str(image), str(text)


def run(backbones, folder, output, method, **training):
    image, text = backbones
    settings = {"learning_rate": 1e-2, "max_steps": 6, "per_device_train_batch_size": 6, "logging_steps": 1}
    config = ContrastiveConfig(
        data=PairsConfig(path=str(folder), captions=["{name}", "{kind}"], class_column="kind"),
        model=DualEncoderConfig(
            image=TowerConfig(model_name_or_path=image, method=method),
            text=TowerConfig(model_name_or_path=text, method=method), projection_dim=16,
        ),
        training=TrainingConfig(**settings | training), output_dir=str(output),
    )  # fmt: skip
    losses = []

    def log(values, step):
        losses.extend(value for name, value in values.items() if name == "train/loss")

    return train_towers(config, load_pairs(config.data), Accelerator(cpu=True), log), losses


def test_frozen_towers_computed_once_train_as_if_computed_every_time(backbones, tmp_path):
    tiny.write_pairs(tmp_path)
    # LoRA starts as the tower itself: with a learning rate for the projections alone nothing else is trained
    slow = {"learning_rate": 1e-12, "head_learning_rate": 1e-2, "weight_decay": 0.0, "max_grad_norm": None}
    frozen, cached = run(backbones, tmp_path, tmp_path / "frozen", "frozen", **slow)
    _, computed = run(backbones, tmp_path, tmp_path / "lora", "lora", **slow)
    assert cached == pytest.approx(computed, rel=1e-4)
    assert cached[-1] < cached[0]
    source = transformers.AutoModel.from_pretrained(backbones[0]).state_dict()
    tower = frozen.towers.encoder.image_tower.state_dict()
    assert all(torch.equal(value, source[name]) for name, value in tower.items())
    assert frozen.image.trainable_parameters == 0
    assert set(frozen.tests["test"]) == {"accuracy", "balanced_accuracy", "retrieval_at_1", "retrieval_at_5"}
    assert dataclasses.asdict(frozen.progress)["step"] == 6


def test_resume_takes_only_the_run_that_it_belongs_to(backbones, tmp_path):
    tiny.write_pairs(tmp_path)
    run(backbones, tmp_path, tmp_path / "out", "frozen", max_steps=1)
    again = {"max_steps": 1, "resume_from_checkpoint": "auto"}
    assert run(backbones, tmp_path, tmp_path / "out", "frozen", **again, logging_steps=2)[0].progress.step == 1
    with pytest.raises(CheckpointError, match=r"another run \(training.weight_decay: 0.0 there, 0.1 here\)"):
        run(backbones, tmp_path, tmp_path / "out", "frozen", **again, weight_decay=0.1)
