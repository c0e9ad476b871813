"""Fine-tuning one seed in process: what it measures, and which checkpoints it goes on from."""

from __future__ import annotations

import dataclasses

import datasets
import numpy as np
import pytest

from hf_fsl.config import AdapterConfig, DataConfig, EvaluationConfig, FineTuneConfig, ModelConfig, TrainingConfig
from hf_fsl.core.records import DataRecord, SplitRecord
from hf_fsl.core.task import Task
from hf_fsl.data import Splits
from hf_fsl.models.backbones import BackboneError
from hf_fsl.training import CheckpointError, make_accelerator
from hf_fsl.training.fine_tune import fine_tune_seed, model_record
from tests.helpers.tiny_models import WORDS, build_model, write_tokenizer


def make_splits(multi_label: bool = False, repeat: int = 1) -> Splits:
    labels = [[i % 3, (i + 1) % 3] if multi_label else i % 3 for i in range(12)]
    texts = [" ".join(WORDS[i : i + 5] * repeat) for i in range(12)]
    data = datasets.Dataset.from_dict({"text": texts, "label": labels})
    problem_type = "multi_label_classification" if multi_label else "single_label_classification"
    record = DataRecord(path="tiny", splits={"test": SplitRecord(name="test", rows=12, class_counts={})})
    task = Task(modality="text", label_names=("a", "b", "c"), problem_type=problem_type)
    return Splits(data, data, data, task, record)


@pytest.fixture
def config(text_backbone, tmp_path):
    return FineTuneConfig(
        data=DataConfig(path="tiny", text_column="text"),
        model=ModelConfig(model_name_or_path=str(text_backbone)),
        adapter=AdapterConfig(r=2),
        training=TrainingConfig(max_steps=2, per_device_train_batch_size=4),
        evaluation=EvaluationConfig(bootstrap_resamples=100),
        output_dir=str(tmp_path),
    )


def run(config, splits=None):
    return fine_tune_seed(config, splits or make_splits(), make_accelerator(), 0)


def test_multi_label_task_is_measured_by_default(config):
    trained = run(config, make_splits(multi_label=True))
    assert trained.truncation.cut_tokens == 0
    assert set(trained.outcome.record.test) == {"accuracy", "macro_f1", "ece", "loss"}


def test_long_texts_are_cut_to_what_the_positions_allow_where_the_tokenizer_names_no_limit(config, tmp_path):
    build_model("roberta").roberta.save_pretrained(tmp_path / "roberta")
    tokenizer = write_tokenizer(tmp_path / "roberta")
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(tmp_path / "roberta")
    config = dataclasses.replace(config, model=ModelConfig(model_name_or_path=str(tmp_path / "roberta")))
    with pytest.warns(UserWarning, match="36 of 36 texts are longer than the 79 tokens that are read: 22.5% of all"):
        trained = run(config, make_splits(repeat=20))
    cut = model_record(config, trained).truncation
    assert (cut.limit, cut.texts, cut.cut_texts, cut.tokens, cut.cut_tokens) == (79, 36, 36, 36 * 102, 36 * 23)
    assert trained.processor.model_max_length == 79  # 80 positions, of which padding takes the first
    with pytest.raises(BackboneError, match="max_length=80: the backbone takes at most 79 tokens"):
        run(dataclasses.replace(config, model=dataclasses.replace(config.model, max_length=80)))


def test_resume_takes_only_the_run_that_it_belongs_to(config):
    first = run(config)
    changes = {
        "data": {
            "name": "other", "revision": "v2", "text_column": "body", "max_train_samples": 8, "split_seed": 1,
            "on_overlap": "ignore",
        },
        "model": {"revision": "v2", "max_length": 32, "dtype": "bfloat16"},
        "adapter": {"lora_alpha": 4.0, "rank_pattern": {"query": 4}},
        "training": {
            "lr_scheduler_type": "cosine", "warmup_steps": 1, "weight_decay": 0.1, "label_smoothing_factor": 0.1,
            "class_weights": "balanced", "train_sampling_strategy": "group_by_length", "head_learning_rate": 0.1,
            "max_grad_norm": None, "mixed_precision": "bf16", "metric_for_best_model": "loss",
        },
    }  # fmt: skip

    def resume(section, values, splits=None):
        settings = dataclasses.replace(config.training, resume_from_checkpoint="auto")
        resumed = dataclasses.replace(config, training=settings)
        changed = {section: dataclasses.replace(getattr(resumed, section), **values)}
        return run(dataclasses.replace(resumed, **changed), splits)

    for section, fields in changes.items():
        with pytest.raises(CheckpointError, match="belongs to another run") as caught:
            resume(section, fields)
        for name in fields:
            assert f"{section}.{name}" in str(caught.value)
    may = {
        "seeds": [0, 1], "per_device_eval_batch_size": 3, "logging_steps": 1, "save_steps": 1, "save_total_limit": 5,
        "dataloader_num_workers": 1, "log_with": ["tensorboard"], "gradient_checkpointing": True,
    }  # fmt: skip
    again = resume("training", may).outcome
    assert again.record.steps == 2
    np.testing.assert_allclose(again.logits, first.outcome.logits, atol=1e-6)
    newer = make_splits()
    newer.record.revision = "abc"
    with pytest.raises(CheckpointError, match=r"run \(data.commit: None there, 'abc' here\)"):
        resume("data", {}, newer)
