"""The classifier of a backbone, and where it was loaded from."""

from __future__ import annotations

import shutil

import pytest
from transformers import AutoModel, AutoTokenizer

from hf_fsl.config import ModelConfig
from hf_fsl.core.task import Task
from hf_fsl.models.backbones import Backbone, BackboneError
from hf_fsl.models.backbones.classification import load_classifier

TASK = Task(modality="text", label_names=("a", "b"))


def test_the_commit_is_known_from_the_cache_and_a_folder_has_none(text_backbone, tmp_path, monkeypatch):
    from transformers.utils import hub

    assert load_classifier(ModelConfig(model_name_or_path=str(text_backbone)), TASK).commit is None
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--me--tiny"
    shutil.copytree(text_backbone, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    assert load_classifier(ModelConfig(model_name_or_path="me/tiny"), TASK).commit == commit
    assert Backbone.from_pretrained("me/tiny").name == f"me/tiny@{commit}"
    snapshot = str(repo / "snapshots" / commit)
    assert load_classifier(ModelConfig(model_name_or_path=snapshot), TASK).commit == commit


def test_a_head_is_new_unless_the_checkpoint_has_it(text_backbone, tmp_path):
    fresh = load_classifier(ModelConfig(model_name_or_path=str(text_backbone)), TASK)
    assert fresh.new_head
    fresh.model.save_pretrained(tmp_path)
    fresh.processor.save_pretrained(tmp_path)
    assert not load_classifier(ModelConfig(model_name_or_path=str(tmp_path)), TASK).new_head
    other = Task(modality="text", label_names=("a", "b", "c"))
    assert load_classifier(ModelConfig(model_name_or_path=str(tmp_path)), other).new_head
    assert load_classifier(ModelConfig(model_name_or_path=str(tmp_path), from_config=True), TASK).new_head


def test_a_repository_of_texts_without_its_tokenizer_is_refused(text_backbone, tmp_path):
    shutil.copytree(text_backbone, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    made_up = AutoTokenizer.from_pretrained(tmp_path)  # transformers does not refuse: every word is unknown
    assert set(made_up("the cat")["input_ids"]) <= set(made_up.all_special_ids)
    message = "it has no tokenizer, or one without words. Save the model's tokenizer"
    with pytest.raises(BackboneError, match=message):
        Backbone.from_pretrained(str(tmp_path))
    with pytest.raises(BackboneError, match=message):
        Backbone.of_model(AutoModel.from_pretrained(tmp_path), made_up)
    with pytest.raises(BackboneError, match=message):
        load_classifier(ModelConfig(model_name_or_path=str(tmp_path)), TASK)
