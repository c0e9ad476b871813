"""Linear layers made fit for int8: the same products, and less lost of them."""

from __future__ import annotations

import onnx
import onnxruntime
import onnxruntime.quantization
import pytest
import torch
import transformers as t
from torch import nn

from hf_fsl.zero_shot import onnx_runtime
from hf_fsl.zero_shot.onnx_runtime import OUTLIERS, PAIRS, OnnxClassifier, fit_for_int8, largest_inputs, random_pairs
from tests.helpers.tiny_models import text_sizes


@pytest.fixture
def model():
    """A classifier with a feed-forward block wide enough for outliers, and a channel far larger than the others."""
    torch.manual_seed(0)
    sizes = text_sizes() | {"intermediate_size": 256, "num_labels": 3, "initializer_range": 0.2}
    model = t.BertForSequenceClassification(t.BertConfig(**sizes)).eval()
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.output.LayerNorm.weight[3] = 40
            layer.intermediate.dense.weight[:, 3] /= 40
            layer.intermediate.dense.bias[5] = 30
            layer.output.dense.weight[:, 5] /= 30
    return model


def linear_layers(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def test_layers_compute_what_they_did(model, tokenizer):
    layers = linear_layers(model)
    given = [torch.randn(2, 3, layer.in_features) for layer in layers]
    for inputs in given:
        inputs[0, 0], inputs[0, 1] = 0, 1000 * inputs[0, 1]  # padding, and a token of far larger values
    expected = [layer(inputs) for layer, inputs in zip(layers, given, strict=True)]
    fitted = linear_layers(fit_for_int8(model, tokenizer))
    assert all("forward" in vars(layer) for layer in fitted)
    got = [layer(inputs) for layer, inputs in zip(fitted, given, strict=True)]
    seen = [layer.forward.__func__.in_one_range(inputs)[0] for layer, inputs in zip(fitted, given, strict=True)]
    largest = torch.ones(2, 3)
    largest[0, 0] = 0
    assert len(layers) == len(seen) > 8
    for tokens in seen:  # one scale for the whole batch would leave most of them a few of its 256 steps
        torch.testing.assert_close(tokens.abs().amax(-1), largest)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in model.modules())


def test_channels_are_judged_by_what_the_model_gives_them(model, tokenizer):
    layers = linear_layers(model)
    largest = largest_inputs(model, layers, random_pairs(tokenizer))
    assert largest.keys() == set(layers)
    first = model.bert.encoder.layer[0]
    assert largest[first.intermediate.dense].argmax() == 3 and largest[first.output.dense].argmax() == 5
    again = largest_inputs(model, layers, random_pairs(tokenizer))
    assert all(torch.equal(largest[layer], again[layer]) for layer in layers)


def test_a_model_that_was_told_of_no_padding_is_judged_by_one_pair(model, tokenizer):
    assert len(random_pairs(tokenizer)["input_ids"]) == PAIRS
    rows = []
    model.register_forward_pre_hook(lambda _, __, given: rows.append(len(given["input_ids"])), with_kwargs=True)
    model.config.pad_token_id = None
    fit_for_int8(model, tokenizer)
    assert rows == [1]


def test_less_is_lost_than_by_dynamic_quantization_alone(model, tokenizer, monkeypatch):
    graphs, quantize = [], onnxruntime.quantization.quantize_dynamic

    def watched(source, target, *arguments, **options):
        quantize(source, target, *arguments, **options)
        graphs.append(onnx.load(target).graph)

    monkeypatch.setattr(onnxruntime.quantization, "quantize_dynamic", watched)
    inputs = random_pairs(tokenizer)
    with torch.inference_mode():
        exact = model(**inputs).logits
    ours = OnnxClassifier(model, tokenizer, "int8")
    monkeypatch.setattr(onnx_runtime, "fit_for_int8", lambda model, *_: model)
    plain = OnnxClassifier(model, tokenizer, "int8")
    ours_lost, plain_lost = (float((run(inputs) - exact).abs().mean()) for run in (ours, plain))
    assert 0 < ours_lost < plain_lost / 3

    values = {tensor.name: tensor for tensor in graphs[0].initializer}
    products = [values[node.input[1]].dims[0] for node in graphs[0].node if node.op_type == "MatMul" and
                node.input[1] in values]  # fmt: skip
    assert products == [OUTLIERS] * model.config.num_hidden_layers
    assert sum(node.op_type == "MatMulInteger" for node in graphs[0].node) == len(linear_layers(model))
    assert values["bert.embeddings.word_embeddings.weight"].data_type == onnx.TensorProto.FLOAT
