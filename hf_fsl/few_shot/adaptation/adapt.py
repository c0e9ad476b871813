"""A backbone adapted to a few labelled examples: LoRA or in full, by a metric loss, in seconds."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from hf_fsl.config.adaptation import AdaptationConfig
from hf_fsl.config.sections import AdapterConfig, TrainingConfig
from hf_fsl.core.files import atomic_write
from hf_fsl.few_shot.adaptation.layers import LayerCut, StateStore, encoder_layers
from hf_fsl.few_shot.adaptation.sampling import AdaptationError, ClassBatches
from hf_fsl.models.adapters.attach import ParameterCount, attach_adapter, count_parameters, merge_adapter
from hf_fsl.models.adapters.gradients import low_rank_gradients, start_along
from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.backbones.inputs import read_inputs
from hf_fsl.models.backbones.texts import padded_length
from hf_fsl.training.losses import MetricLoss
from hf_fsl.training.precision import fast_attention, use_bf16
from hf_fsl.training.update import TOKENS_AT_ONCE, make_optimizer, make_scheduler


def gathered(embed: Callable[[Sequence[int]], Tensor], rows: Sequence[int], accelerator: Accelerator | None) -> Tensor:
    """Embeddings ``(B, D)`` of ``rows``, which are the same on every process; with gradients for the own share."""
    if accelerator is None or accelerator.num_processes == 1:
        return embed(rows)
    processes, index = accelerator.num_processes, accelerator.process_index
    size = -(-len(rows) // processes)
    # A process that has no row of its own still takes part, with one that is not counted.
    own = embed(rows[index::processes] or rows[:1])
    share = own.new_zeros(size, own.shape[1])
    share[: len(own)] = own.detach()
    everyone = accelerator.gather(share).view(processes, size, -1)
    whole = everyone.transpose(0, 1).flatten(0, 1)[: len(rows)]
    positions = torch.arange(index, len(rows), processes, device=whole.device)
    return whole.index_put((positions,), own[: len(positions)])


def summed_gradients(trained: Sequence[nn.Parameter], accelerator: Accelerator | None) -> None:
    """Adds up over the processes what each knows of the gradient."""
    if accelerator is None or accelerator.num_processes == 1:
        return
    for parameter in trained:
        own = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        parameter.grad = accelerator.reduce(own, "sum")


IMAGES_PER_BATCH = 32
TOKENISED_AT_ONCE = 1024

Run = Callable[[], Tensor]


class Tokens:
    """Token ids of texts, four bytes each: as Python's lists, or an array a text, they would take many times that."""

    def __init__(self, backbone: Backbone, texts: Sequence[str]) -> None:
        parts: list[np.ndarray] = []
        lengths: list[int] = []
        for start in range(0, len(texts), TOKENISED_AT_ONCE):
            ids = backbone.token_ids(texts[start : start + TOKENISED_AT_ONCE])
            parts.append(np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32))
            lengths += map(len, ids)
        self._ids = np.concatenate(parts)
        self._ends = np.cumsum([0, *lengths])

    def __getitem__(self, row: int) -> list[int]:
        return self._ids[self._ends[row] : self._ends[row + 1]].tolist()

    def length(self, row: int) -> int:
        """Tokens of a text."""
        return int(self._ends[row + 1] - self._ends[row])


class AdaptationInputs:
    """Texts or images, and how a backbone embeds some of them.

    Args:
        backbone: the copy that is adapted.
        inputs: texts or images, not mixed. Images of a data set's column are decoded when they are needed.
        cache_bytes: of memory for what is computed once: pixels, or states below the cut.

    Raises:
        BackboneError: see ``Backbone.encode``.
        AdaptationError: the backbone does not take such inputs.
    """

    def __init__(self, backbone: Backbone, inputs: Sequence[Any], cache_bytes: int) -> None:
        self.backbone, self.inputs = backbone, inputs
        self.text = isinstance(read_inputs([inputs[0]])[0], str)
        if (backbone.tokenizer if self.text else backbone.image_processor) is None:
            given, taken = ("texts", "images") if self.text else ("images", "texts")
            raise AdaptationError(f"{backbone.name} takes {taken}, and was given {given}. Choose another backbone.")
        self.store = StateStore(cache_bytes)
        self.cut: LayerCut | None = None
        self.pixel_shape: tuple[int, ...] = ()
        if self.text:
            self.tokens = Tokens(backbone, read_inputs(inputs))

    def cut_below(self, first: int) -> nn.ModuleList:
        """From now on the layers below a certain one are run once an example.

        Args:
            first: the layer, counted from 0, that is the first to be run each time.

        Returns:
            The layers from that one on.

        Raises:
            AdaptationError: the encoder has no such layer.
        """
        layers = encoder_layers(self.backbone.model, lambda: self.embed([0]))
        if first >= len(layers):
            raise AdaptationError(f"first_layer={first}: the encoder has layers 0 to {len(layers) - 1}. Lower it.")
        self.store.clear()
        self.cut = LayerCut(layers, first)
        return layers[first:]

    def embed(self, rows: Sequence[int]) -> Tensor:
        """Embeddings ``(B, D)`` of examples, float32, in the order of ``rows``."""
        if self.cut is not None:
            self._compute_below([row for row in rows if row not in self.store])
        order: list[int] = []
        embeddings: list[Tensor] = []
        for positions, run in self._batches(rows):
            if self.cut is None:
                embeddings.append(run())
            else:
                states = self.store.padded([rows[position] for position in positions])
                with self.cut.entered_with(states.to(self.backbone.device)):
                    embeddings.append(run())
            order += positions
        back = torch.tensor(order).argsort()
        return torch.cat([part.float() for part in embeddings])[back.to(embeddings[0].device)]

    def _compute_below(self, rows: Sequence[int]) -> None:
        assert self.cut is not None
        whole = not self.text or padded_length(self.backbone.model) is not None
        for positions, run in self._batches(rows):
            for position, states in zip(positions, self.cut.states_below(run), strict=True):
                row = rows[position]
                self.store.put(row, states if whole else states[: self.tokens.length(row)])

    def _batches(self, rows: Sequence[int]) -> Iterator[tuple[list[int], Run]]:
        """Positions in ``rows``, and what embeds the examples there."""
        backbone = self.backbone
        if self.text:
            ids = [self.tokens[row] for row in rows]
            for batch in backbone.text_batches(ids, TOKENS_AT_ONCE.get(backbone.device.type)):
                yield batch.rows, lambda batch=batch: backbone.embed_text_batch(batch)  # type: ignore[misc]
            return
        for start in range(0, len(rows), IMAGES_PER_BATCH):
            chunk = rows[start : start + IMAGES_PER_BATCH]
            pixels = self._pixels(chunk)
            yield (
                list(range(start, start + len(chunk))),
                lambda pixels=pixels: backbone.embed_pixels(pixels),  # type: ignore[misc]
            )

    def _pixels(self, rows: Sequence[int]) -> Tensor:
        """``(B, 3, H, W)``; of the right shape only where states below the cut stand for them."""
        if self.cut is not None and all(row in self.store for row in rows):
            return torch.zeros(len(rows), *self.pixel_shape)
        kept = self.cut is None
        found = {row: self.store.get(row) for row in rows if kept and row in self.store}
        missing = [row for row in rows if row not in found]
        if missing:
            computed = self.backbone.pixels(read_inputs([self.inputs[row] for row in missing]))
            self.pixel_shape = tuple(computed.shape[1:])
            found |= dict(zip(missing, computed, strict=True))
            for row in missing:
                if kept and found[row].nbytes <= self.store.left:
                    self.store.put(row, found[row])
        return torch.stack([found[row] for row in rows])


ADAPTER_RATE, FULL_RATE = 1e-3, 1e-4


@dataclass(frozen=True)
class Adapted:
    """What :func:`adapt` gives: the backbone with what was learned merged into its weights, and what it took."""

    backbone: Backbone
    losses: list[float]
    """Of each step."""
    seconds: float
    """Of all of it: preparing the examples, training, merging."""
    parameters: ParameterCount
    """Trained and all, adapter included."""
    peft_config: peft.PeftConfig | None
    adapter_state: dict[str, Tensor]
    """As PEFT stores it, on the CPU; empty where the backbone was trained in full."""
    on_original: bool = True
    """Whether the backbone given was as its name says. An adapter of one that was adapted before fits only that."""

    @property
    def publishable(self) -> bool:
        """Whether the backbone's name and the adapter alone make the same model again."""
        return self.peft_config is not None and self.on_original

    def save_adapter(self, folder: str | Path) -> Path:
        """Writes the adapter as PEFT does, for ``peft.PeftModel.from_pretrained`` on the original backbone's model.

        Raises:
            AdaptationError: the backbone was trained in full, without an adapter.
        """
        if self.peft_config is None:
            raise AdaptationError("There is no adapter to save: the backbone was trained in full. Save its model.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.peft_config.save_pretrained(str(folder))
        with atomic_write(folder / "adapter_model.safetensors") as temporary:
            save_file(self.adapter_state, temporary, metadata={"format": "pt"})
        return folder


def adapt(
    backbone: Backbone,
    inputs: Sequence[Any],
    labels: Sequence[int] | Tensor,
    config: AdaptationConfig | None = None,
    *,
    adapter: AdapterConfig | peft.PeftConfig | None = None,
    label_texts: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
    accelerator: Accelerator | None = None,
) -> Adapted:
    """Adapts a copy of a backbone, so that examples of a class lie together and apart from those of others.

    For few-shot classification ``inputs`` is the support set, and a head is fitted on the new embeddings; for one-shot
    classification of classes never seen, many examples of base classes.

    Args:
        backbone: left as it is.
        inputs: texts or images (PIL), see ``Backbone.read`` for those that files hold.
        labels: the class of each, integers.
        config: None: the defaults.
        adapter: what is trained: None is LoRA with its defaults on all linear layers, ``AdapterConfig(method="full")``
            everything but the embeddings of the tokens. With ``initialization="gradient"`` a LoRA starts along the
            gradient of its first batch, and needs half the steps.
        label_texts: one for each class 0, 1, …; each counts as one more example of its class. For texts.
        seed: of the adapter's initial weights, the batches, and dropout. The caller's random state is kept.
        progress: shows a progress bar.
        accelerator: of several processes: each embeds its share of a batch, the loss is that of the whole batch, and
            all end with the same weights.

    Returns:
        The adapted backbone, with what was learned merged into its weights, and what it took.

    Raises:
        AdaptationError: labels that do not fit the inputs, fewer than two classes, only one example of each class
            and no label texts, an adapter that cannot be merged, or a first_layer that the encoder does not have.
        AdapterError: the adapter does not fit the model.
        BackboneError: inputs that cannot be encoded.
    """
    started = time.perf_counter()
    config = config or AdaptationConfig()
    wrong = list(config.problems())
    if wrong:
        raise AdaptationError("adaptation: " + "; ".join(wrong))
    adapter = adapter if adapter is not None else AdapterConfig()
    inputs, numbers = _with_label_texts(inputs, _class_numbers(labels, len(inputs)), label_texts)
    batches = iter(ClassBatches(numbers, config.batch_size, config.examples_per_class, seed))
    adapted = copy.copy(backbone)
    adapted.model, adapted.modules = copy.deepcopy(backbone.model), copy.deepcopy(backbone.modules)
    for layer in adapted.modules.dense:
        layer.requires_grad_(False)
    with ExitStack() as stack:
        devices = [backbone.device] if backbone.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices))
        torch.manual_seed(seed)
        bf16 = use_bf16(config.mixed_precision, backbone.device)
        stack.enter_context(fast_attention(adapted.model, bf16, backbone.device))
        examples = AdaptationInputs(adapted, inputs, config.cache_bytes)
        stack.callback(examples.store.clear)
        above = examples.cut_below(config.first_layer) if config.first_layer else None
        tuned = _trainable(adapted.model, adapter, config.first_layer, above, examples.text)
        rate = config.learning_rate or (ADAPTER_RATE if isinstance(tuned, peft.PeftModel) else FULL_RATE)
        _set_dropout(tuned, above, config.dropout)
        settings = TrainingConfig(
            learning_rate=rate, weight_decay=config.weight_decay, warmup_steps=config.warmup_steps,
            lr_scheduler_type=config.lr_scheduler_type,
        )  # fmt: skip
        loss = MetricLoss(config.loss, config.temperature, config.margin)

        def batch_loss() -> Tensor:
            rows = next(batches)
            with torch.autocast(backbone.device.type, torch.bfloat16, enabled=bf16):
                embeddings = gathered(examples.embed, rows.tolist(), accelerator)
            return loss(embeddings, numbers[rows].to(embeddings.device))

        if isinstance(adapter, AdapterConfig) and adapter.initialization == "gradient":
            start_along(tuned, low_rank_gradients(tuned, (batch_loss() for _ in range(1)), accelerator))
        optimizer = make_optimizer(tuned, settings, ())
        scheduler = make_scheduler(optimizer, settings, config.steps)
        trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
        losses: list[float] = []
        with tqdm(total=config.steps, desc="adapting", unit="step", disable=not progress, leave=False) as bar:
            for _ in range(config.steps):
                value = batch_loss()
                value.backward()
                summed_gradients(trained, accelerator)
                if config.max_grad_norm is not None:
                    nn.utils.clip_grad_norm_(trained, config.max_grad_norm, error_if_nonfinite=False)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                scheduler.step()
                losses.append(_finite(value.item(), len(losses) + 1))
                bar.update()
                bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    count = count_parameters(tuned)
    state, peft_config = _adapter_of(tuned)
    adapted.model, adapted.original = merge_adapter(tuned).eval().requires_grad_(True), False
    return Adapted(adapted, losses, time.perf_counter() - started, count, peft_config, state, backbone.original)


def _class_numbers(labels: Sequence[int] | Tensor, count: int) -> Tensor:
    try:
        numbers = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise AdaptationError(f"labels: one integer for each input; they are no integers: {error}") from error
    if numbers.ndim != 1 or numbers.is_floating_point() or len(numbers) != count or count == 0:
        raise AdaptationError(
            f"labels: one integer for each input, got {str(numbers.dtype).removeprefix('torch.')} of shape "
            f"{tuple(numbers.shape)} for {count} inputs."
        )
    return numbers.long()


def _with_label_texts(
    inputs: Sequence[Any], labels: Tensor, label_texts: Sequence[str] | None
) -> tuple[Sequence[Any], Tensor]:
    if label_texts is None:
        return inputs, labels
    if int(labels.max()) >= len(label_texts) or int(labels.min()) < 0:
        raise AdaptationError(
            f"label_texts: one for each class; labels go from {int(labels.min())} to {int(labels.max())}, and there "
            f"are {len(label_texts)} texts."
        )
    if not isinstance(inputs[0], str):
        raise AdaptationError("label_texts count as examples of their class, and these examples are images.")
    classes = labels.unique()
    return [*inputs, *(label_texts[number] for number in classes.tolist())], torch.cat([labels, classes])


def _trainable(
    model: Any, adapter: AdapterConfig | peft.PeftConfig, first: int, above: nn.ModuleList | None, text: bool
) -> nn.Module:
    """The model with its adapter; only what is to be trained requires gradients.

    Raises:
        AdaptationError: the adapter cannot be merged, or trains what lies below the cut.
    """
    if isinstance(adapter, AdapterConfig):
        if adapter.method == "head":
            raise AdaptationError(
                "adapter.method: head trains no part of a backbone. Use lora, or full for all of it."
            )
        if above is not None and adapter.layers_to_transform is None and adapter.peft_config is None:
            adapter = replace(adapter, layers_to_transform=list(range(first, first + len(above))))
    else:
        adapter = copy.deepcopy(adapter)
        if above is not None and getattr(adapter, "layers_to_transform", ()) is None:
            adapter.layers_to_transform = list(range(first, first + len(above)))  # type: ignore[attr-defined]
    if getattr(adapter, "is_prompt_learning", False):
        raise AdaptationError(f"{type(adapter).__name__} cannot be merged into a backbone's weights. Use LoRA.")
    get_input_embeddings = model.get_input_embeddings
    tuned = attach_adapter(model, adapter)
    if tuned is model:
        tuned.requires_grad_(above is None)
        if above is not None:
            above.requires_grad_(True)
        if text:
            # Few of the tokens occur in the examples, and an update of them all takes longer than a step.
            tokens: Any = get_input_embeddings()
            tokens.requires_grad_(False)
    if above is not None:
        allowed = {id(parameter) for parameter in above.parameters()}
        below = [n for n, p in tuned.named_parameters() if p.requires_grad and id(p) not in allowed]
        if below:
            raise AdaptationError(
                f"first_layer={first}: the adapter also trains {below[0]} ({len(below)} such), which is computed only "
                "once. Narrow target_modules to the layers from there on."
            )
    return tuned


def _set_dropout(tuned: nn.Module, above: nn.ModuleList | None, on: bool) -> None:
    """Dropout of the adapter is as its config says; of the backbone only if asked for, and never below the cut."""
    tuned.eval()
    if on:
        (above if above is not None else tuned).train()
    for name, module in tuned.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
        elif name.rpartition(".")[2] in ("lora_dropout", "vera_dropout"):
            module.train()


def _adapter_of(tuned: nn.Module) -> tuple[dict[str, Tensor], peft.PeftConfig | None]:
    if not isinstance(tuned, peft.PeftModel):
        return {}, None
    config = copy.deepcopy(tuned.peft_config[tuned.active_adapter])
    config.inference_mode = True
    state = peft.get_peft_model_state_dict(tuned)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}, config


def _finite(loss: float, step: int) -> float:
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise AdaptationError(f"The loss is {loss} at step {step}: training has diverged. Lower learning_rate.")
    return loss
