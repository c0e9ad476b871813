"""Cross-entropy with a metric loss beside it, against the two computed by hand on the whole batch."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from accelerate import Accelerator
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hf_fsl.config import TrainingConfig
from hf_fsl.core.errors import UserError
from hf_fsl.training import update as update_module
from hf_fsl.training.losses import ClassificationLoss, MetricLoss
from hf_fsl.training.metric_update import MetricUpdate, classification_layer, classification_update
from hf_fsl.training.update import Update
from tests.helpers.tiny_models import text_sizes

CONFIG = TrainingConfig(loss="supervised_contrastive", metric_loss_weight=0.3)


def model_of(kind=BertForSequenceClassification, config=BertConfig, **sizes):
    torch.manual_seed(3)
    return kind(config(**text_sizes() | sizes, num_labels=3)).eval()


def batch_of(labels, lengths=(3, 9, 5, 12, 4, 7)):
    mask = torch.zeros(len(labels), 12, dtype=torch.long)
    for row, length in enumerate(lengths[: len(labels)]):
        mask[row, :length] = 1
    ids = torch.randint(4, 20, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": torch.tensor(labels),
        "index": torch.arange(len(labels)),
    }


def gradients(model, config, batches):
    model = copy.deepcopy(model)
    step = classification_update(model, None, ClassificationLoss(), Accelerator(cpu=True), config)
    value = step.backward(batches)
    return value, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", ["supervised_contrastive", "prototypical"])
def test_the_gradient_is_that_of_both_losses_on_the_whole_batch(loss, monkeypatch):
    monkeypatch.setattr(update_module, "TOKENS_AT_ONCE", {"cpu": 16})  # in pieces, unlike the reference
    model, batch = model_of(), batch_of([0, 1, 1, 2, 0, 1])
    value, found = gradients(model, dataclasses.replace(CONFIG, loss=loss), [batch])
    pooled = model.bert(batch["input_ids"], batch["attention_mask"]).pooler_output
    cross = torch.nn.functional.cross_entropy(model.classifier(pooled), batch["labels"])
    expected = 0.7 * cross + 0.3 * MetricLoss(loss)(pooled, batch["labels"])
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    for name_, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name_], parameter.grad, atol=1e-6, rtol=1e-4)


def test_batches_of_a_group_count_alike_and_those_without_a_pair_have_nothing_to_compare():
    model, batches = model_of(), [batch_of([0, 1, 1, 2, 0, 1]), batch_of([0, 1, 2]), batch_of([1, 1])]
    value, _ = gradients(model, CONFIG, batches)
    cross, compared = 0.0, 0.0
    for number, batch in enumerate(batches):
        pooled = model.bert(batch["input_ids"], batch["attention_mask"]).pooler_output
        cross += torch.nn.functional.cross_entropy(model.classifier(pooled), batch["labels"], reduction="sum") / 11
        compared += MetricLoss("supervised_contrastive")(pooled, batch["labels"]) / 3 if number == 0 else 0
    assert value.item() == pytest.approx((0.7 * cross + 0.3 * compared).item(), rel=1e-5)


def test_the_last_layer_of_a_head_is_found_and_a_model_without_one_is_refused():
    roberta = model_of(RobertaForSequenceClassification, RobertaConfig, max_position_embeddings=40)
    assert classification_layer(roberta) is roberta.classifier.out_proj
    roberta.classifier.requires_grad_(False)
    with pytest.raises(UserError, match="no trained linear layer with 3 outputs"):
        classification_layer(roberta)
    tokens = model_of(BertForTokenClassification)
    with pytest.raises(UserError, match="a vector for each token"):
        gradients(tokens, CONFIG, [batch_of([0, 1, 1])])


def test_cross_entropy_alone_is_the_plain_step():
    model = model_of()
    plain = classification_update(model, None, ClassificationLoss(), Accelerator(cpu=True), TrainingConfig())
    assert type(plain) is Update and not isinstance(plain, MetricUpdate)
