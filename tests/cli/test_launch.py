"""``hf-fsl validate``."""

from __future__ import annotations

from hf_fsl.cli.main import main


def test_every_file_is_checked_whatever_the_others_are(tmp_path, capsys):
    for name, text in {"list": "recipe: [a]", "twice": "recipe: fine_tune\nrecipe: few_shot\n"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert main(["validate", "nothere.yaml", str(tmp_path / "list.yaml"), str(tmp_path / "twice.yaml")]) == 2
    said = capsys.readouterr().err
    assert "There is no config 'nothere.yaml'" in said
    assert "recipe: one of " in said and "got ['a']" in said
    assert "recipe: given twice, in lines 1 and 2" in said and "data.path: required" in said
    assert main(["validate", "nothere.yaml"]) == 1


def test_a_push_to_nobody_is_refused_before_anything_is_read(tmp_path, capsys):
    assert main(["push", str(tmp_path / "nowhere"), "--hub_model_id", "digits"]) == 1
    assert "--hub_model_id: user/name" in capsys.readouterr().err
