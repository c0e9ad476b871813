"""Pictures and captions as the towers take them, a caption and a change of the picture drawn each time."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from hf_fsl.config.contrastive import AugmentationConfig
from hf_fsl.contrastive.towers import DualEncoder, LoadedTowers
from hf_fsl.core.task import Task
from hf_fsl.data.encoding import EncodedSplit
from hf_fsl.data.pairs import PairSplit
from hf_fsl.training.prediction import predict_logits

_TEXTS_PER_BATCH = 256


class EncodedPairs(torch.utils.data.Dataset[dict[str, Any]]):
    """A training split. Item i: the pixels (or features) of picture i, the id of a caption, the ids of all of them.

    What is drawn depends on seed, epoch and example alone: not on batches, processes, workers, or a resume.

    Args:
        text_features: ``(T, D)`` of ``texts``, where the text tower is frozen; else texts are given as tokens.
        image_features: ``(N, D)``, where the image tower is frozen; else pictures are given as pixels.
    """

    lengths: list[int] | None = None

    def __init__(
        self,
        split: PairSplit,
        towers: LoadedTowers,
        augmentation: AugmentationConfig,
        seed: int,
        text_features: Tensor | None = None,
        image_features: Tensor | None = None,
    ) -> None:
        self.towers, self.augmentation, self.seed, self.epoch = towers, augmentation, seed, 0
        self.texts = distinct_captions(split)
        ids = {text: number for number, text in enumerate(self.texts)}
        self.captions = [[ids[text] for text in texts] for texts in split.captions]
        self.most = max(map(len, self.captions))
        self.pictures, self.image_features, self.text_features = encoded_pictures(split, towers), image_features, None
        if text_features is not None:
            self.text_features = text_features
        else:
            encoded = towers.tokenize(self.texts)
            self.tokens = [dict(zip(encoded, row, strict=True)) for row in zip(*encoded.values(), strict=True)]
        words = "|".join(map(re.escape, augmentation.flip_unless))
        never = re.compile(rf"\b({words})\b", re.IGNORECASE) if words else None
        self.may_flip = [never is None or not any(map(never.search, texts)) for texts in split.captions]
        processor = towers.image_processor
        normal = bool(getattr(processor, "do_normalize", False))
        self.mean = torch.tensor(processor.image_mean if normal else [0.0] * 3).view(1, 3, 1, 1)
        self.std = torch.tensor(processor.image_std if normal else [1.0] * 3).view(1, 3, 1, 1)

    def start_epoch(self, epoch: int) -> None:
        """Called by the loop before an epoch's batches are made."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(((self.seed * 1_000_003 + self.epoch) << 24) + index)
        draws, own = torch.rand(DRAWS + 1, generator=generator), self.captions[index]
        text = own[min(int(draws[0] * len(own)), len(own) - 1)]
        item = {"index": index, "text": text, "captions": own + [-1] * (self.most - len(own)), "draws": draws[1:]}
        if self.image_features is not None:
            return {**item, "image": self.image_features[index]}
        return {**item, "image": self.pictures[index]["pixel_values"]}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Items -> a batch; the pictures changed, the texts padded to the longest of it."""
        batch = {name: torch.tensor([item[name] for item in items]) for name in ("index", "text", "captions")}
        images = torch.stack([item["image"] for item in items])
        if self.image_features is not None:
            batch["image_features"] = images
        elif self.augmentation.active:
            draws = torch.stack([item["draws"] for item in items])
            may_flip = torch.tensor([self.may_flip[item["index"]] for item in items])
            changed = augment(images * self.std + self.mean, draws, self.augmentation, may_flip)
            batch["pixel_values"] = (changed - self.mean) / self.std
        else:
            batch["pixel_values"] = images
        if self.text_features is not None:
            return {**batch, "text_features": self.text_features[batch["text"]]}
        return {**batch, **_padded(self.towers, [self.tokens[item["text"]] for item in items])}


def distinct_captions(split: PairSplit) -> list[str]:
    """All captions of a split, each once."""
    return list(dict.fromkeys(text for texts in split.captions for text in texts))


def encoded_pictures(split: PairSplit, towers: LoadedTowers) -> EncodedSplit:
    """The pictures of a split as pixels, processed once."""
    return EncodedSplit(split.images, Task(modality="image", label_names=()), towers.image_processor)


class TextFeatures:
    """Pooled features of texts, those of a frozen tower computed once.

    Args:
        encoder: not wrapped.
    """

    def __init__(self, encoder: DualEncoder, towers: LoadedTowers) -> None:
        self.encoder, self.towers, self.known = encoder, towers, dict[str, Tensor]()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """``(N, D_text)``, before the projection, on the CPU."""
        if "text" not in self.encoder.frozen:
            self.known = {}
        new = sorted({text for text in texts if text not in self.known}, key=len)
        device = self.encoder.model.logit_scale.device
        training = self.encoder.training
        self.encoder.eval()
        with torch.no_grad():
            for start in range(0, len(new), _TEXTS_PER_BATCH):
                batch = new[start : start + _TEXTS_PER_BATCH]
                encoded = self.towers.tokenize(batch)
                rows = [dict(zip(encoded, row, strict=True)) for row in zip(*encoded.values(), strict=True)]
                tokens = {name: value.to(device) for name, value in _padded(self.towers, rows).items()}
                self.known.update(zip(batch, self.encoder.text_features(**tokens).float().cpu(), strict=True))
        self.encoder.train(training)
        return torch.stack([self.known[text] for text in texts])

    def embeddings(self, texts: Sequence[str]) -> Tensor:
        """``(N, D)``, of length 1, on the CPU."""
        with torch.no_grad():
            features = self(texts).to(self.encoder.model.logit_scale.device)
            return self.encoder.embed_texts(features).float().cpu()


def image_outputs(
    encoder: DualEncoder, pictures: EncodedSplit, accelerator: Accelerator, batch_size: int, features: bool = False
) -> Tensor:
    """Embeddings ``(N, D)`` of length 1 of all pictures, or their features, the same on every process."""
    return torch.from_numpy(predict_logits(_Images(encoder, features), pictures, accelerator, batch_size))


class _Images(nn.Module):
    """The image tower as something that gives ``.logits``."""

    def __init__(self, encoder: DualEncoder, features: bool) -> None:
        super().__init__()
        self.encoder, self.features = encoder, features

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        pooled = self.encoder.image_features(pixel_values)
        return SimpleNamespace(logits=pooled.float() if self.features else self.encoder.embed_images(pooled))


def _padded(towers: LoadedTowers, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Token inputs of several texts, padded to the longest."""
    return dict(towers.tokenizer.pad({name: [row[name] for row in rows] for name in rows[0]}, return_tensors="pt"))


DRAWS = 10
"""Numbers drawn for each picture."""
_LUMA = (0.299, 0.587, 0.114)


def augment(pixels: Tensor, draws: Tensor, config: AugmentationConfig, may_flip: Tensor) -> Tensor:
    """Pictures changed as ``config`` says.

    Args:
        pixels: ``(B, 3, H, W)``, from 0 to 1.
        draws: ``(B, DRAWS)``, uniform from 0 to 1.
        may_flip: ``(B,)``, whether mirroring is harmless.

    Returns:
        ``(B, 3, H, W)``, from 0 to 1; what is moved in from outside repeats the border.
    """
    signed = 2 * draws - 1
    moved = _move(pixels, signed[:, :4], draws[:, 4], config, may_flip)
    return _recolor(moved, signed[:, 5:9], draws[:, 9], config)


def _move(pixels: Tensor, signed: Tensor, flip: Tensor, config: AugmentationConfig, may_flip: Tensor) -> Tensor:
    if not any((config.shift, config.scale, config.rotation, config.flip)):
        return pixels
    angle = signed[:, 0] * math.radians(config.rotation)
    zoom = 1 / (1 + config.scale * signed[:, 1])
    mirrored = (flip < config.flip) & may_flip
    side = torch.where(mirrored, -1.0, 1.0)
    # affine_grid maps where a pixel goes to where it comes from, in units of half the picture
    theta = torch.stack(
        [
            torch.stack([zoom * angle.cos() * side, -zoom * angle.sin(), 2 * config.shift * signed[:, 2]], 1),
            torch.stack([zoom * angle.sin() * side, zoom * angle.cos(), 2 * config.shift * signed[:, 3]], 1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _recolor(pixels: Tensor, signed: Tensor, grey: Tensor, config: AugmentationConfig) -> Tensor:
    def each(values: Tensor) -> Tensor:
        return values[:, None, None, None]

    if config.brightness:
        pixels = pixels * each(1 + config.brightness * signed[:, 0])
    if config.contrast:
        middle = pixels.mean((1, 2, 3), keepdim=True)
        pixels = middle + (pixels - middle) * each(1 + config.contrast * signed[:, 1])
    luma = pixels.new_tensor(_LUMA)
    if config.hue:
        pixels = _turn_hue(pixels, signed[:, 3] * config.hue * 2 * math.pi)
    amount = 1 + config.saturation * signed[:, 2]
    amount = torch.where(grey < config.grayscale, torch.zeros_like(amount), amount)
    if config.saturation or config.grayscale:
        shade = (pixels * luma[None, :, None, None]).sum(1, keepdim=True)
        pixels = shade + (pixels - shade) * each(amount)
    return pixels.clamp(0, 1)


def _turn_hue(pixels: Tensor, angle: Tensor) -> Tensor:
    """Turns the chroma plane of YIQ; greys, white among them, stay as they are."""
    to_yiq = pixels.new_tensor([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    one, none = torch.ones_like(angle), torch.zeros_like(angle)
    turn = torch.stack([one, none, none, none, angle.cos(), -angle.sin(), none, angle.sin(), angle.cos()], dim=1).view(
        -1, 3, 3
    )
    whole = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("bij,bjhw->bihw", whole, pixels)
