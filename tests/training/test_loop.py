"""The loop against a bare PyTorch loop, against itself cut up, resumed, killed and out of memory."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import multiprocessing
import os
import resource
from contextlib import contextmanager, nullcontext
from pathlib import Path

import datasets
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import PrepareForLaunch, patch_environment
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hf_fsl.adapters import attach_adapter
from hf_fsl.config import AdapterConfig, TrainingConfig
from hf_fsl.errors import UserError
from hf_fsl.inputs import EncodedSplit
from hf_fsl.losses import ClassificationLoss
from hf_fsl.tasks import Task
from hf_fsl.training import (
    CheckpointError,
    JSONLTracker,
    list_checkpoints,
    predict_logits,
    read_log,
    start_accelerator,
    train,
)
from hf_fsl.training import checkpoints as checkpoints_module
from hf_fsl.training import update as update_module
from hf_fsl.training.checkpoints import TrainingDiverged

TASK = Task(modality="text", label_names=("a", "b", "c"))
BASE = TrainingConfig(
    learning_rate=1e-2, max_steps=8, per_device_train_batch_size=4, warmup_steps=2, logging_steps=1, weight_decay=0.01
)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    from conftest import WORDS, write_tokenizer

    generator = torch.Generator().manual_seed(5)
    texts = []
    for _ in range(18):
        picks = torch.randint(len(WORDS), (int(torch.randint(2, 12, (1,), generator=generator)),), generator=generator)
        texts.append(" ".join(WORDS[index] for index in picks))
    data = datasets.Dataset.from_dict({"text": texts, "label": [index % 3 for index in range(18)]})
    return EncodedSplit(data, TASK, write_tokenizer(tmp_path_factory.mktemp("tokenizer")), 32)


@pytest.fixture
def make(tiny_model):
    def build(dropout: float = 0.0):
        model = tiny_model("bert")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        torch.manual_seed(11)
        return attach_adapter(model, AdapterConfig(r=2), ["classifier"])

    return build


def run(model, split, folder, config=BASE, *, losses=None, evaluate=None, **options):
    rows = losses if losses is not None else []

    def log(values, step):
        if "train/loss" in values:
            rows.append((step, values["train/loss"]))

    torch.manual_seed(23)
    return train(
        model, split, config, Accelerator(cpu=True), options.pop("loss", ClassificationLoss()), seed=0, folder=folder,
        head=["classifier"], log=log, evaluate=evaluate, **options,
    )  # fmt: skip


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def assert_same(one, other, atol=0.0):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=atol, rtol=0.0 if atol == 0 else 1e-5)


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


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_run_continues_to_the_same_losses_and_weights(make, split, tmp_path, accumulation):
    config = dataclasses.replace(BASE, save_steps=3, save_total_limit=5, gradient_accumulation_steps=accumulation)
    whole, losses = make(dropout=0.2), []
    run(whole, split, tmp_path / "whole", config, losses=losses)
    folder, halved = tmp_path / "halved", []
    run(make(dropout=0.2), split, folder, config, losses=halved, evaluate=None)
    assert halved == losses
    for late in list_checkpoints(folder)[1:]:
        checkpoints_module.shutil.rmtree(late)
    resumed, rest = make(dropout=0.2), []
    torch.manual_seed(999)
    run(resumed, split, folder, dataclasses.replace(config, resume_from_checkpoint="auto"), losses=rest)
    assert rest == losses[3:]
    assert_same(weights(resumed), weights(whole))


def test_resume_of_a_finished_run_trains_no_further(make, split, tmp_path):
    first = make()
    run(first, split, tmp_path)
    again, losses = make(), []
    progress = run(again, split, tmp_path, dataclasses.replace(BASE, resume_from_checkpoint="auto"), losses=losses)
    assert (progress.step, losses) == (8, [])
    assert_same(weights(again), weights(first))


def test_checkpoints_are_pruned_and_free_of_pickle(make, split, tmp_path):
    run(make(), split, tmp_path, dataclasses.replace(BASE, save_steps=2, save_total_limit=2))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-8"]
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"model.safetensors", "optimizer.safetensors", "rng-0.safetensors", "state.json"}


def test_checkpoint_of_another_model_is_refused(make, split, tmp_path, tiny_model):
    run(make(), split, tmp_path)
    other = attach_adapter(tiny_model("bert"), AdapterConfig(r=4), ["classifier"])
    with pytest.raises(CheckpointError, match="of another model: .* tensors differ"):
        run(other, split, tmp_path, dataclasses.replace(BASE, resume_from_checkpoint="auto"))


def test_checkpoint_of_another_run_is_refused(make, split, tmp_path):
    run(make(), split, tmp_path, identity={"learning_rate": 1e-2})
    config = dataclasses.replace(BASE, resume_from_checkpoint="auto")
    with pytest.raises(CheckpointError, match=r"learning_rate: 0.01 there, 0.1 here"):
        run(make(), split, tmp_path, config, identity={"learning_rate": 0.1})


def test_broken_or_missing_checkpoint_is_a_clear_error(make, split, tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        run(make(), split, tmp_path, dataclasses.replace(BASE, resume_from_checkpoint="auto"))
    with pytest.raises(CheckpointError, match="there is no folder"):
        run(make(), split, tmp_path, dataclasses.replace(BASE, resume_from_checkpoint=str(tmp_path / "nowhere")))


@contextmanager
def no_file_longer_than(size):
    """What a full disk is to safetensors, without filling one: the system refuses to write on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_that_takes_no_more_leaves_the_previous_checkpoint_usable(make, split, tmp_path, monkeypatch):
    config = dataclasses.replace(BASE, save_steps=3)
    whole = make()
    run(whole, split, tmp_path / "whole", config)
    real = checkpoints_module.save_file

    def disk_fills_up(tensors, path):
        with no_file_longer_than(2000) if "checkpoint-6" in str(path) else nullcontext():
            real(tensors, path)

    monkeypatch.setattr(checkpoints_module, "save_file", disk_fills_up)
    folder = tmp_path / "full"
    with pytest.raises(CheckpointError, match="File too large .*resume_from_checkpoint auto") as caught:
        run(make(), split, folder, config)
    assert isinstance(caught.value.__cause__.__cause__, SafetensorError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert [path.name for path in folder.iterdir()] == ["checkpoint-3"]
    monkeypatch.setattr(checkpoints_module, "save_file", real)
    resumed = make()
    run(resumed, split, folder, dataclasses.replace(config, resume_from_checkpoint="auto"))
    assert_same(weights(resumed), weights(whole))


def test_full_disk_is_called_by_its_name(make, split, tmp_path, monkeypatch):
    with pytest.raises(SafetensorError) as caught, no_file_longer_than(2000):
        save_file({"a": torch.zeros(10_000)}, tmp_path / "a.safetensors")
    said = str(caught.value).replace("File too large (os error 27)", "No space left on device (os error 28)")
    assert "os error 28" in said

    def full(tensors, path):
        raise SafetensorError(said)

    monkeypatch.setattr(checkpoints_module, "save_file", full)
    with pytest.raises(CheckpointError, match="could not be written: the disk is full. Earlier"):
        run(make(), split, tmp_path / "run")


def _save_where_the_main_process_cannot(folder, answers):
    AcceleratorState._reset_state(reset_partial_state=True)  # that of the process this one was forked from
    model = torch.nn.Linear(2, 2)
    accelerator, optimizer = Accelerator(cpu=True), torch.optim.AdamW(model.parameters())
    if accelerator.is_main_process:
        folder.touch()  # so that no folder can be made there
    accelerator.wait_for_everyone()
    state = {"step": 1, "identity": {}}
    try:
        checkpoints_module.save_checkpoint(folder, accelerator, model, optimizer, state, None, 1)
    except CheckpointError as error:
        answers.put((accelerator.num_processes, str(error)))


def test_processes_hear_of_what_another_could_not_write(tmp_path):
    forking = multiprocessing.get_context("fork")
    answers = forking.Queue()
    with patch_environment(  # as accelerate's debug_launcher does, which would wait for ever
        world_size=2, master_addr="127.0.0.1", master_port="29500", accelerate_mixed_precision="no",
        accelerate_debug_rdv_file=str(tmp_path / "rendezvous"), accelerate_use_cpu="yes", gloo_socket_ifname="lo",
    ):  # fmt: skip
        launcher = PrepareForLaunch(_save_where_the_main_process_cannot, debug=True)
        processes = [
            forking.Process(target=launcher, args=(rank, tmp_path / "file", answers), daemon=True) for rank in range(2)
        ]
        for process in processes:
            process.start()
        try:
            said = {answers.get(timeout=30) for _ in processes}
        finally:
            for process in processes:
                process.kill()
    ((count, message),) = said
    assert count == 2 and "checkpoint-1 could not be written: [Errno 20] Not a directory" in message


def test_weights_that_are_no_numbers_never_take_the_place_of_good_ones(make, split, tmp_path):
    config, model = dataclasses.replace(BASE, save_steps=1, save_total_limit=1, logging_steps=100), make()
    inner, steps = model.get_base_model().forward, []

    def spoilt(*args, **inputs):
        steps.append(1)
        if len(steps) == 4:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad)[0, 0] = float("nan")
        return inner(*args, **inputs)

    model.get_base_model().forward = spoilt
    with pytest.raises(TrainingDiverged, match="training has diverged. Lower training.learning_rate"):
        run(model, split, tmp_path, config)
    (kept,) = list_checkpoints(tmp_path)
    assert all(value.isfinite().all() for value in load_file(kept / "model.safetensors").values())
    bare = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(bare.parameters())
    bare(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        bare.bias[0] = float("inf")
    state = {"step": 9, "identity": {}}
    with pytest.raises(TrainingDiverged, match="1 trained tensors are not finite at step 9, bias among them"):
        checkpoints_module.save_checkpoint(tmp_path, Accelerator(cpu=True), bare, optimizer, state, None, 1)
    assert list_checkpoints(tmp_path) == [kept]


def test_going_back_to_an_earlier_checkpoint_drops_the_later_ones_and_keeps_what_is_written(make, split, tmp_path):
    config = dataclasses.replace(BASE, save_steps=2, save_total_limit=4)
    run(make(), split, tmp_path, config)
    assert [path.name[11:] for path in list_checkpoints(tmp_path)] == ["2", "4", "6", "8"]
    back = dataclasses.replace(
        config, save_total_limit=1, resume_from_checkpoint=str(tmp_path / "checkpoint-2"), logging_steps=1
    )

    def interrupted(values, step):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            make(), split, back, Accelerator(cpu=True), ClassificationLoss(), seed=0, folder=tmp_path,
            head=["classifier"], log=interrupted,
        )  # fmt: skip
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-4"]


def test_checkpoint_is_on_the_disk_before_it_has_its_name(make, split, tmp_path, monkeypatch):
    events, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda number: events.append(Path(os.readlink(f"/proc/self/fd/{number}")).name))
    monkeypatch.setattr(os, "replace", lambda old, new: (events.append("replace"), replace(old, new)))
    run(make(), split, tmp_path)
    files = ["rng-0.safetensors", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert events == [*files, ".checkpoint-8.tmp", "replace", tmp_path.name]


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


def test_best_weights_survive_a_resume(make, split, tmp_path):
    scores = iter([0.9, 0.1, 0.2])
    config = dataclasses.replace(BASE, max_steps=6, eval_strategy="steps", eval_steps=2, save_steps=4)
    model, seen = make(), []

    def evaluate(current):
        seen.append(weights(model))
        return {"accuracy": next(scores)}

    run(model, split, tmp_path, config, evaluate=evaluate)
    checkpoints_module.shutil.rmtree(tmp_path / "checkpoint-6")
    again = make()
    config = dataclasses.replace(config, resume_from_checkpoint="auto")
    progress = run(again, split, tmp_path, config, evaluate=lambda _: {"accuracy": 0.2})
    assert progress.best_step == 2
    assert_same(weights(again), seen[0])


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
    train(
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


def test_state_file_is_plain_json(make, split, tmp_path):
    run(make(), split, tmp_path)
    state = json.loads((tmp_path / "checkpoint-8" / "state.json").read_text())
    assert state["progress"]["step"] == 8


def test_models_are_left_usable_without_accelerate(make, split, tmp_path):
    model = make()
    run(model, split, tmp_path, dataclasses.replace(BASE, mixed_precision="no"))
    copy.deepcopy(model)
