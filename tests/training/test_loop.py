"""The loop against a bare PyTorch loop, against itself cut up, resumed, killed and out of memory."""

from __future__ import annotations

import copy
import dataclasses
import json

import datasets
import pytest
import torch
from accelerate import Accelerator

from hf_fsl.config import AdapterConfig, TrainingConfig
from hf_fsl.core.errors import UserError
from hf_fsl.core.task import Task
from hf_fsl.data.encoding import EncodedSplit
from hf_fsl.models.adapters import attach_adapter
from hf_fsl.training import (
    JSONLTracker,
    predict_logits,
    read_log,
    start_accelerator,
    training_loop,
)
from hf_fsl.training import update as update_module
from hf_fsl.training.losses import ClassificationLoss
from tests.helpers.tiny_runs import BASE, assert_same, run, weights


def test_equals_a_bare_pytorch_loop(make, split, tmp_path):
    from transformers import get_linear_schedule_with_warmup

    from hf_fsl.training.batches import TrainingBatches

    ours, theirs = make(), make()
    losses: list[tuple[int, float]] = []
    run(ours, split, tmp_path, losses=losses)
    plain = [p for n, p in theirs.named_parameters() if p.requires_grad and "bias" not in n]
    biases = [p for n, p in theirs.named_parameters() if p.requires_grad and "bias" in n]
    optimizer = torch.optim.AdamW(
        [{"params": plain, "weight_decay": 0.01}, {"params": biases, "weight_decay": 0.0}], lr=1e-2
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 2, 8)
    order, reference = TrainingBatches(18, 4, 0), []
    theirs.train()
    for epoch in range(2):
        order.start_epoch(epoch)
        for indices in order:
            if len(reference) == 8:
                break
            batch = split.collate([split[index] for index in indices])
            batch.pop("index")
            loss = theirs(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step(), schedule.step(), optimizer.zero_grad()
            reference.append(loss.item())
    torch.testing.assert_close(torch.tensor([v for _, v in losses]), torch.tensor(reference), atol=1e-5, rtol=0)
    assert_same(weights(ours), weights(theirs), atol=1e-5)


def test_accumulated_batches_equal_one_large_batch(make, split, tmp_path):
    large, small = make(), make()
    run(large, split, tmp_path / "large", dataclasses.replace(BASE, per_device_train_batch_size=8, max_steps=3))
    accumulate = dataclasses.replace(BASE, per_device_train_batch_size=1, gradient_accumulation_steps=8, max_steps=3)
    run(small, split, tmp_path / "small", accumulate)
    assert_same(weights(large), weights(small), atol=1e-5)


def test_out_of_memory_cuts_batches_and_keeps_the_gradients(make, split, tmp_path):
    reference, squeezed = make(), make()
    run(reference, split, tmp_path / "reference")
    base, forward = squeezed.get_base_model(), squeezed.get_base_model().forward

    def small_memory(*args, **inputs):
        if len(inputs["input_ids"]) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(*args, **inputs)

    base.forward = small_memory
    run(squeezed, split, tmp_path / "squeezed")
    base.forward = forward
    assert_same(weights(squeezed), weights(reference), atol=1e-5)
    base.forward = small_memory
    with pytest.raises(RuntimeError, match="allocate memory"):
        run(squeezed, split, tmp_path / "no", dataclasses.replace(BASE, auto_find_batch_size=False))


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_go_through_a_cpu_by_length_with_the_gradient_of_the_whole(split, make, side, monkeypatch):
    monkeypatch.setattr(update_module, "TOKENS_AT_ONCE", {"cpu": 24})
    monkeypatch.setattr(split.processor, "padding_side", side)
    batch = split.collate([split[index] for index in range(18)])
    hot = torch.nn.functional.one_hot(batch["labels"], batch["input_ids"].shape[1]).float()
    pieces = list(update_module.by_length({**batch, "labels": hot}))  # as many classes as tokens: labels stay whole
    rows = torch.cat([piece["index"] for piece in pieces]).tolist()
    assert sorted(rows) == list(range(18)) and all(piece["input_ids"].numel() <= 24 for piece in pieces)
    for piece in pieces:
        for line, index in enumerate(piece["index"].tolist()):
            seen = piece["input_ids"][line][piece["attention_mask"][line].bool()]
            assert seen.tolist() == split[index]["input_ids"]
        assert torch.equal(piece["labels"], hot[piece["index"]])
    padded = sum(piece["input_ids"].numel() for piece in pieces)
    assert padded < 0.75 * batch["input_ids"].numel()

    whole, cut = make().eval(), make().eval()
    config = dataclasses.replace(BASE, max_grad_norm=None)
    loss = ClassificationLoss(False, None, 0.1)
    for model, limit in ((whole, {}), (cut, {"cpu": 24})):
        monkeypatch.setattr(update_module, "TOKENS_AT_ONCE", limit)
        update_module.Update(model, None, loss, Accelerator(cpu=True), config).backward([batch])
    if side == "right":  # BERT counts positions from the first token: on the left they depend on the padding
        for expected, found in zip(whole.parameters(), cut.parameters(), strict=True):
            if expected.requires_grad:
                assert found.grad is not None and torch.allclose(expected.grad, found.grad, atol=1e-6)


def test_best_weights_on_validation_come_back_and_patience_stops(make, split, tmp_path):
    model, seen = make(), []
    scores = iter([0.5, 0.9, 0.4, 0.3, 0.8])

    def evaluate(current):
        seen.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})
        return {"accuracy": next(scores)}

    config = dataclasses.replace(
        BASE, max_steps=20, eval_strategy="steps", eval_steps=2, early_stopping_patience=2, num_train_epochs=9
    )
    progress = run(model, split, tmp_path, config, evaluate=evaluate)
    assert (progress.step, progress.best_step, progress.evaluation) == (8, 4, {"accuracy": 0.9})
    assert_same(weights(model), seen[1])


def test_head_learning_rate_moves_only_the_head_when_the_rest_stands_still(make, split, tmp_path):
    model = make()
    before = weights(model)
    run(
        model, split, tmp_path, dataclasses.replace(BASE, learning_rate=1e-12, head_learning_rate=1e-2, warmup_steps=0)
    )
    for name, value in weights(model).items():
        moved = (value - before[name]).abs().max() > 1e-4
        assert moved == ("classifier" in name)


def test_divergence_is_reported(make, split, tmp_path):
    model = make()
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="Lower training.learning_rate"):
        run(model, split, tmp_path)


def test_group_by_length_covers_each_epoch_and_saves_padding(split):
    from hf_fsl.training.batches import TrainingBatches

    def padded(batches):
        return sum(len(batch) * max(split.lengths[i] for i in batch) for batch in batches)

    grouped, shuffled = TrainingBatches(18, 3, 0, split.lengths), TrainingBatches(18, 3, 0)
    assert sorted(index for batch in grouped for index in batch) == list(range(18))
    assert padded(list(grouped)) < padded(list(shuffled))
    first = list(grouped)
    grouped.start_epoch(1)
    assert list(grouped) != first


def test_prediction_keeps_the_order_of_the_split(make, split):
    model = make().eval()
    logits = predict_logits(model, split, Accelerator(cpu=True), batch_size=5)
    with torch.inference_mode():
        for index in range(len(split)):
            batch = split.collate([split[index]])
            alone = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0]
            torch.testing.assert_close(torch.tensor(logits[index]), alone, atol=1e-5, rtol=1e-4)


def test_frozen_batch_norms_keep_their_statistics_through_training_and_validation(tiny_model, tmp_path):
    import numpy as np
    from PIL import Image
    from transformers import ConvNextImageProcessor

    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(12)]
    data = datasets.Dataset.from_dict({"image": pictures, "label": [i % 3 for i in range(12)]})
    task = Task(modality="image", label_names=("a", "b", "c"))
    processor = ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0)
    images = EncodedSplit(data.cast_column("image", datasets.Image()), task, processor)
    model = attach_adapter(tiny_model("resnet"), AdapterConfig(r=2), ["classifier"])
    before = {name: value.clone() for name, value in model.named_buffers()}
    accelerator = Accelerator(cpu=True)

    def evaluate(current):
        predict_logits(current, images, accelerator)
        return {"accuracy": 0.5}

    config = dataclasses.replace(BASE, max_steps=4, eval_strategy="steps", eval_steps=1)
    run(model, images, tmp_path, config, evaluate=evaluate)
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name]), name


def test_log_is_strict_json_where_nothing_is_clipped(make, split, tmp_path):
    rows = []
    config = dataclasses.replace(BASE, max_grad_norm=None, max_steps=2)
    training_loop(
        make(), split, config, Accelerator(cpu=True), ClassificationLoss(), seed=0, folder=tmp_path,
        log=lambda values, step: rows.append(values),
    )  # fmt: skip
    assert len(rows) == 2 and all("train/grad_norm" not in row and json.dumps(row, allow_nan=False) for row in rows)


def test_jsonl_tracker_appends_flushed_rows(tmp_path):
    accelerator = Accelerator(cpu=True, log_with=JSONLTracker(tmp_path / "metrics.jsonl"))
    accelerator.init_trackers("test", config={"a": 1})
    accelerator.log({"train/loss": 0.5}, step=3)
    rows = read_log(tmp_path / "metrics.jsonl")
    accelerator.end_training()
    assert rows[0]["config"] == {"a": 1}
    assert (rows[1]["step"], rows[1]["train/loss"]) == (3, 0.5)


def test_trackers_by_name_and_a_clear_error_for_those_that_are_missing(tmp_path, monkeypatch):
    accelerator = start_accelerator(TrainingConfig(log_with=["tensorboard"]), tmp_path, "project", {"a": {"b": [1]}})
    accelerator.log({"train/loss": 0.5}, step=1)
    accelerator.end_training()
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    assert read_log(tmp_path / "metrics.jsonl")[0]["config"] == {"a.b": "[1]"}
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(UserError, match=r"wandb cannot be imported.*hf_fsl\[tracking\]"):
        start_accelerator(TrainingConfig(log_with=["wandb"]), tmp_path, "project", {})


def test_models_are_left_usable_without_accelerate(make, split, tmp_path):
    model = make()
    run(model, split, tmp_path, dataclasses.replace(BASE, mixed_precision="no"))
    copy.deepcopy(model)
