"""What a recipe's stages read, refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.chain import run_recipe
from distill.errors import UserError
from distill.inputs import Inputs
from distill.models import build_folder
from distill.world_tokenizer import TEMPLATE, build_tokenizer


def test_an_eos_that_the_template_does_not_write_is_refused_before_anything_is(
    tiny_recipe_module: Any, tmp_path: Path
) -> None:
    """Of a built model and of one that lies there, whose generation config may stop at the template's end."""
    recipe = tiny_recipe_module.tiny_recipe
    template = tmp_path / "chat.jinja"
    template.write_text(TEMPLATE.replace("<|end|>", "<|user|>"))
    given = [f"models.student-blank.chat_template={template}"]
    with pytest.raises(UserError, match=r"models.student-blank: .* ends an answer with <\|user\|>"):
        run_recipe(recipe(*given), tmp_path / "run")
    build_folder("m", recipe().models["student-blank"], tmp_path / "m", seed=0)
    given += ["models.student-blank.build=null", "models.student-blank.tokenizer=null"]
    given += [f"models.student-blank.path={tmp_path / 'm'}", "models.student-blank.max_length=192"]
    with pytest.raises(UserError, match="ends an answer with"):
        run_recipe(recipe(*given), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    settings = json.loads((tmp_path / "m" / "generation_config.json").read_text())
    user = build_tokenizer().convert_tokens_to_ids("<|user|>")
    settings["eos_token_id"].append(user)
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(settings))
    assert Inputs(recipe(*given)).fitted("distil").max_length == 192
