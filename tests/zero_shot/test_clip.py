from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from hf_fsl.models.backbones import BackboneError
from hf_fsl.models.templates import ZeroShotError
from hf_fsl.zero_shot.clip import ImageTextScorer
from hf_fsl.zero_shot.label_cache import RecentTensors, weights_state
from tests.helpers.image_text import KINDS, count_calls, image_text_model, images, label_names, processors

LABELS = ["cat", "big red house", "the river"]


@pytest.fixture
def scorer_of(tmp_path):
    def build(kind, seed=0, **options):
        return ImageTextScorer(image_text_model(kind, seed), **processors(kind, tmp_path / kind), **options)

    return build


def model_logits(scorer, pictures, texts):
    """One forward of the whole model, as the model's card does it."""
    padding = {"padding": "max_length", "max_length": 64} if scorer.is_siglip else {"padding": True}
    tokens = scorer.tokenizer(texts, return_tensors="pt", **padding)
    pixels = scorer.image_processor(images=pictures, return_tensors="pt")
    with torch.no_grad():
        return scorer.model(**tokens, **pixels).logits_per_image


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_model(kind, scorer_of):
    scorer, pictures = scorer_of(kind), images(5)
    expected = model_logits(scorer, pictures, [f"This is a photo of {label}." for label in LABELS])
    logits = scorer.logits(pictures, LABELS, batch_size=2)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert logits.std() > 0.01  # the labels are told apart: a wrong one would show
    scores = scorer.scores(logits)
    torch.testing.assert_close(scores, expected.sigmoid() if "siglip" in kind else expected.softmax(1))


@pytest.mark.parametrize("kind", KINDS)
def test_many_labels_are_encoded_in_chunks_of_a_token_budget(kind, scorer_of, monkeypatch):
    scorer, names = scorer_of(kind), label_names(300)
    calls = count_calls(monkeypatch, scorer.model, "get_text_features")
    embeddings = scorer.label_embeddings(names, "the {}")
    assert sum(calls) == 300
    assert max(calls) * (64 if "siglip" in kind else 3) <= 1024
    expected = model_logits(scorer, images(1), [f"the {name}" for name in names])
    logits = scorer.compare(scorer.image_embeddings(images(1)), embeddings)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_an_ensemble_is_the_normalised_mean_of_normalised_embeddings(scorer_of):
    scorer, templates = scorer_of("clip"), ["the {}", "a very {} and", "{}", "the {}"]
    embeddings = scorer.label_embeddings(LABELS, templates, label_texts={"cat": "small bird"})
    reference = np.zeros((3, 16))
    for row, words in enumerate(["small bird", "big red house", "the river"]):
        for template in templates:
            tokens = scorer.tokenizer([template.format(words)], return_tensors="pt")
            with torch.no_grad():
                vector = scorer.model.get_text_features(**tokens).pooler_output[0].double().numpy()
            reference[row] += vector / np.linalg.norm(vector) / len(templates)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings.numpy(), reference, atol=1e-6)
    assert embeddings.dtype == torch.float32 and not embeddings.requires_grad


def test_an_ensemble_takes_the_memory_of_its_labels_not_of_its_texts(scorer_of, monkeypatch):
    scorer, templates = scorer_of("clip"), [f"the {{}} {word}" for word in ("is", "a", "was", "and", "not")]
    made, alive, normalize = [], [], torch.nn.functional.normalize

    def watched(vectors, dim):
        alive.append(sum(len(vector()) for vector in made if vector() is not None))
        result = normalize(vectors, dim=dim)
        made.append(weakref.ref(result))
        return result

    monkeypatch.setattr("hf_fsl.zero_shot.clip.normalize", watched)
    calls = count_calls(monkeypatch, scorer.model, "get_text_features")
    scorer.label_embeddings(label_names(300), templates)
    assert sum(calls) == 5 * 300
    assert max(alive) <= 2 * max(calls) < 5 * 300 / 2


def test_label_texts_go_through_the_text_tower_once(scorer_of, monkeypatch):
    scorer = scorer_of("clip")
    calls = count_calls(monkeypatch, scorer.model, "get_text_features")
    first = scorer.label_embeddings(LABELS)
    first.zero_()  # what a caller does with it is not seen by the next one
    assert scorer.label_embeddings(LABELS).norm(dim=1) == pytest.approx(1)
    assert scorer.label_embeddings(", ".join(LABELS)).shape == (3, 16)
    scorer.logits(images(2), LABELS)
    assert sum(calls) == 3
    for changed in (
        {"labels": LABELS[::-1]},
        {"templates": "the {}"},
        {"label_texts": {"cat": "dog"}},
        {"tokenizer_kwargs": {"truncation": True, "max_length": 4}},
    ):
        before = sum(calls)
        scorer.label_embeddings(**{"labels": LABELS, **changed})
        assert sum(calls) == before + 3, changed


@pytest.mark.parametrize("change", ["step", "data", "load"])
def test_other_weights_give_new_embeddings(change, scorer_of):
    scorer = scorer_of("clip")
    model, before = scorer.model, scorer.label_embeddings(LABELS)
    if change == "step":
        scorer.label_embeddings(LABELS)
        model.get_text_features(**scorer.tokenizer(["cat"], return_tensors="pt")).pooler_output.sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    elif change == "data":  # as PEFT merges an adapter
        model.text_projection.weight.data += torch.randn_like(model.text_projection.weight)
    else:
        model.load_state_dict(image_text_model("clip", seed=1).state_dict())
    after = scorer.label_embeddings(LABELS)
    assert (after - before).abs().max() > 1e-3
    scorer.labels_in_memory.clear()
    assert torch.equal(scorer.label_embeddings(LABELS), after)
    assert weights_state(model) == weights_state(model)


def test_label_embeddings_are_kept_on_disk_for_other_processes(scorer_of, tmp_path, monkeypatch):
    folder = tmp_path / "labels"
    embeddings = scorer_of("clip", label_folder=folder).label_embeddings(LABELS)
    again = scorer_of("clip", label_folder=folder)
    calls = count_calls(monkeypatch, again.model, "get_text_features")
    assert torch.equal(again.label_embeddings(LABELS), embeddings)
    assert not calls
    again.label_embeddings(LABELS, "the {}")
    again.label_embeddings(LABELS, tokenizer_kwargs={"truncation": True, "max_length": 4})
    other = scorer_of("clip", seed=1, label_folder=folder)
    assert not torch.allclose(other.label_embeddings(LABELS), embeddings)
    files = list(folder.iterdir())
    assert len(files) == 4 and all(file.suffix == ".safetensors" for file in files)
    for file in files:
        file.write_bytes(b"damaged")
    assert torch.equal(scorer_of("clip", label_folder=folder).label_embeddings(LABELS), embeddings)


def test_the_least_recently_used_labels_are_dropped_when_memory_is_full():
    kept, made = RecentTensors(max_bytes=80), []

    def get(key, size=10):
        kept.get(key, lambda: made.append(key) or torch.zeros(size))

    for key in ("a", "b", "a", "c", "a", "b"):
        get(key)
    assert made == ["a", "b", "c", "b"]
    get("large", 1000)
    get("large", 1000)
    assert made[-1] == "large" and made.count("large") == 1 and len(kept) == 1


def test_a_model_saved_and_loaded_gives_the_same_logits(scorer_of, tmp_path):
    scorer, folder = scorer_of("siglip"), tmp_path / "model"
    for part in (scorer.model, scorer.tokenizer, scorer.image_processor):
        part.save_pretrained(folder)
    loaded = ImageTextScorer.from_pretrained(str(folder))
    torch.testing.assert_close(loaded.logits(images(2), LABELS), scorer.logits(images(2), LABELS))


def test_images_of_differing_input_shapes_are_encoded_one_by_one(scorer_of):
    scorer = scorer_of("clip")
    inputs = [{"pixel_values": torch.randn(1, 3, 16, 16)}, {"pixel_values": torch.randn(1, 3, 16, 24)}]
    shapes = []
    scorer.model.get_image_features = lambda pixel_values: (
        shapes.append(pixel_values.shape) or (type("Output", (), {"pooler_output": pixel_values.mean((2, 3))}))
    )
    assert scorer.embed_images(inputs).shape == (2, 3)
    assert len(shapes) == 2


def test_what_cannot_be_scored_is_refused(scorer_of, tmp_path):
    import transformers as t

    from tests.helpers.tiny_models import text_sizes

    parts = processors("clip", tmp_path)
    with pytest.raises(ZeroShotError, match="BertModel has no get_text_features, get_image_features, logit_scale"):
        ImageTextScorer(t.BertModel(t.BertConfig(**text_sizes())), **parts)
    with pytest.raises(ZeroShotError, match="tokenizer is None"):
        ImageTextScorer(image_text_model("clip"), None, parts["image_processor"])
    with pytest.raises(ZeroShotError, match="does not load"):
        ImageTextScorer.from_pretrained(str(tmp_path / "nothing"))
    scorer = scorer_of("clip")
    for labels, rule in (([], "at least one"), (["a", "b", "a"], "must differ"), (["a", " "], "not empty")):
        with pytest.raises(ZeroShotError, match=rule):
            scorer.label_embeddings(labels)
    with pytest.raises(ZeroShotError, match="one place"):
        scorer.label_embeddings(LABELS, "a photo")
    with pytest.raises(ZeroShotError, match="may have 64 tokens in this model, got 74: 'This is a photo of cat cat"):
        scorer.label_embeddings(["dog", " ".join(["cat"] * 66)])
    short = {"truncation": True, "max_length": 64}
    assert scorer.label_embeddings([" ".join(["cat"] * 66)], tokenizer_kwargs=short).shape == (1, 16)


def test_no_images_give_no_rows(scorer_of):
    assert scorer_of("clip").logits([], LABELS).shape == (0, 3)
    assert scorer_of("siglip").image_embeddings([]).shape == (0, 32)


def test_images_are_read_like_everywhere(scorer_of, tmp_path):
    scorer, pictures = scorer_of("clip"), images(2)
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    expected = scorer.image_embeddings(pictures)
    assert torch.equal(scorer.image_embeddings(paths), expected)
    torch.testing.assert_close(scorer.image_embeddings(str(paths[0])), expected[:1])
    assert torch.equal(scorer.logits(pictures[0], LABELS), scorer.logits(pictures[:1], LABELS))
    with pytest.raises(BackboneError, match="Input 1: 'a cat' cannot be read as an image"):
        scorer.image_embeddings([pictures[0], "a cat"])
