"""A start from the gradient: the head against scikit-learn, the directions against the gradient by hand."""

from __future__ import annotations

import copy
import dataclasses

import datasets
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from transformers import BertConfig, BertForTokenClassification, ViTImageProcessor

from hf_fsl.config import AdapterConfig
from hf_fsl.core.errors import UserError
from hf_fsl.core.task import Task
from hf_fsl.data.encoding import EncodedSplit
from hf_fsl.models.adapters import attach_adapter
from hf_fsl.models.backbones.classification import head_modules
from hf_fsl.training import find_start
from hf_fsl.training import gradient_init as start_module
from hf_fsl.training.linear_probe import classification_layer, fit_linear
from hf_fsl.training.losses import ClassificationLoss
from tests.helpers.encoders import pictures
from tests.helpers.tiny_models import text_sizes

LOSS = ClassificationLoss()


@pytest.fixture(scope="module")
def images():
    data = datasets.Dataset.from_dict({"image": pictures(), "label": [i % 3 for i in range(12)]})
    data = data.cast_column("image", datasets.Image())
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    return EncodedSplit(data, Task(modality="image", label_names=("a", "b", "c")), processor)


@pytest.fixture
def examples(split, images):
    return lambda kind: images if kind in ("vit", "clip", "resnet", "convnext") else split


def whole(split):
    batch = split.collate([split[i] for i in range(len(split))])
    labels = batch.pop("labels")
    batch.pop("index")
    return batch, labels


def features_and_labels(count=30, classes=3, dimension=6, scale=40.0):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    means = torch.randn(classes, dimension, generator=generator)
    return scale * (means[labels] + torch.randn(count, dimension, generator=generator) + 5), labels


def test_head_is_the_logistic_regression_of_scikit_learn_whatever_the_scale():
    features, labels = features_and_labels()
    centred = (features - features.mean(0)).double()
    scale = centred.square().sum(1).mean().sqrt()
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit((centred / scale).numpy(), labels.numpy())
    expected = torch.as_tensor(reference.decision_function((centred / scale).numpy())).log_softmax(-1)
    for factor in (1.0, 1e-3, 1e3):
        weight, bias = fit_linear(factor * features, labels, 3, LOSS)
        found = factor * features.double() @ weight.T + bias
        torch.testing.assert_close(found.log_softmax(-1), expected, atol=1e-5, rtol=0)


def test_head_of_several_labels_is_one_regression_a_label():
    features, classes = features_and_labels()
    labels = torch.nn.functional.one_hot(classes, 3).float()
    labels[::4, 0] = 1
    weight, bias = fit_linear(features, labels, 3, ClassificationLoss(multi_label=True))
    centred = (features - features.mean(0)).double().numpy()
    scaled = centred / np.sqrt((centred**2).sum(1).mean())
    for number in range(3):
        reference = LogisticRegression(C=1.0, tol=1e-8).fit(scaled, labels[:, number].numpy())
        found = features.double() @ weight[number] + bias[number]
        np.testing.assert_allclose(found.numpy(), reference.decision_function(scaled), atol=1e-5)


def test_features_that_hardly_differ_get_a_head_that_float32_can_compute():
    features, labels = features_and_labels()
    features = 1e-4 * features + 100  # as small random encoders, and some trained ones, give them
    weight, bias = fit_linear(features, labels, 3, LOSS)
    exact = features.double() @ weight.T + bias
    torch.testing.assert_close(features @ weight.float().T + bias.float(), exact.float(), atol=1e-5, rtol=0)
    same = fit_linear(torch.zeros(6, 4), labels[:6], 3, LOSS)
    assert all(bool(part.isfinite().all()) for part in same)


def test_head_without_a_bias_has_none():
    features, labels = features_and_labels()
    weight, bias = fit_linear(features, labels, 3, LOSS, bias=False)
    scale = features.double().square().sum(1).mean().sqrt()
    reference = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-8)
    reference.fit((features.double() / scale).numpy(), labels.numpy())
    assert bias is None
    difference = (weight * scale).numpy() - reference.coef_
    np.testing.assert_allclose(difference, np.broadcast_to(difference.mean(0), difference.shape), atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("kind", ["bert", "modernbert", "vit", "clip", "resnet"])
def test_rows_of_a_are_directions_of_the_gradient_below_the_fitted_head(kind, method, tiny_model, examples):
    if kind == "resnet" and method == "dora":
        pytest.skip("DoRA of a convolution normalises by other axes")
    model, split = tiny_model(kind), examples(kind)
    plain = copy.deepcopy(model).eval()
    adapted = attach_adapter(model, AdapterConfig(method=method, r=2), head_modules(model, set()))
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    start = find_start(adapted, split, LOSS)
    for name, value in adapted.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)
    start.apply(adapted)
    inputs, labels = whole(split)
    layer = classification_layer(plain)
    with torch.no_grad():
        layer.weight.copy_(start.head[0])
        layer.bias.copy_(start.head[1])
    loss = torch.nn.functional.cross_entropy(plain(**inputs).logits, labels)
    loss.backward()
    adapted.eval()
    torch.testing.assert_close(adapted(**inputs).logits, plain(**inputs).logits, atol=1e-5, rtol=1e-5)
    turned = 0
    for name, module in adapted.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        rows, old = module.lora_A["default"].weight.flatten(1), before[f"{name}.lora_A.default.weight"].flatten(1)
        torch.testing.assert_close(rows.norm(dim=1), old.norm(dim=1))
        gradient = plain.get_submodule(name.removeprefix("base_model.model.")).weight.grad
        if gradient is None or not gradient.any():
            torch.testing.assert_close(rows, old, atol=0, rtol=0)
            continue
        gradient = gradient.flatten(1)
        captured = (gradient @ (rows / rows.norm(dim=1, keepdim=True)).T).norm()
        best = torch.linalg.svdvals(gradient)[:2].norm()
        torch.testing.assert_close(captured, best, atol=1e-7, rtol=1e-3)
        turned += 1
    assert turned >= 4


@pytest.mark.parametrize("method", ["ia3", "vera", "ln_tuning", "head", "full"])
def test_what_has_no_low_rank_matrices_starts_from_the_fitted_head(method, tiny_model, split):
    model = tiny_model("bert")
    plain = copy.deepcopy(model).eval()
    adapted = attach_adapter(model, AdapterConfig(method=method, r=2), ["classifier"])
    start = find_start(adapted, split, LOSS)
    start.apply(adapted)
    inputs, labels = whole(split)
    losses = [torch.nn.functional.cross_entropy(each.eval()(**inputs).logits, labels) for each in (adapted, plain)]
    assert start.gradients == {} and losses[0] < losses[1]


def test_a_head_that_was_trained_stays(tiny_model, split):
    adapted = attach_adapter(tiny_model("bert"), AdapterConfig(r=2), ["classifier"])
    before = copy.deepcopy(classification_layer(adapted).state_dict())
    start = find_start(adapted, split, LOSS, new_head=False)
    start.apply(adapted)
    assert start.head is None and start.gradients
    for name, value in classification_layer(adapted).state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)


def test_many_examples_are_drawn_from_and_random_numbers_left_alone(tiny_model, split, monkeypatch):
    monkeypatch.setattr(start_module, "EXAMPLES", 5)
    adapted = attach_adapter(tiny_model("bert"), AdapterConfig(r=2), ["classifier"])
    seen, state = {False: 0, True: 0}, torch.get_rng_state()

    def count(inputs, backward):
        seen[backward] += len(inputs["input_ids"])

    first, second = find_start(adapted, split, LOSS, on_pass=count), find_start(adapted, split, LOSS)
    assert seen == {False: 5, True: 5}
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(first.head, second.head, atol=0, rtol=0)


def test_smoothing_and_weights_of_classes_count_in_the_head(tiny_model, split):
    adapted = attach_adapter(tiny_model("bert"), AdapterConfig(r=2), ["classifier"])
    plain = find_start(adapted, split, LOSS)
    weighted = dataclasses.replace(LOSS, class_weights=torch.tensor([10.0, 1.0, 1.0]))
    start = find_start(adapted, split, weighted)
    inputs, _ = whole(split)
    shares = []
    for each in (plain, start):
        each.apply(adapted)
        shares.append(adapted.eval()(**inputs).logits.softmax(-1)[:, 0].mean().item())
    assert shares[1] > shares[0] + 0.1


def test_a_head_that_reads_every_token_is_refused(split):
    model = BertForTokenClassification(BertConfig(**text_sizes(), num_labels=3))
    with pytest.raises(UserError, match="a vector for each token.*initialization: random"):
        find_start(attach_adapter(model, AdapterConfig(r=2), ["classifier"]), split, LOSS)
