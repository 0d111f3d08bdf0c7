"""`distill student export`: a made model, or its adapters alone, as a folder that others can load, and on the hub.

Everything is copied beside the target first, published from there when that is asked, and moved into place last: after
a mistake or a refusal of the hub nothing has been written, and the same command can be given again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill.errors import UserError


def add_export(parent: Any, command: Any) -> None:
    """Add the command; ``command`` is the door's way of making one."""
    export = command(
        parent, "export", _export, "a made model as a folder for others, or on the hub", recipe=None
    )
    export.add_argument("run", metavar="RUN_OR_RECIPE", help="a run folder, or the recipe of one")
    export.add_argument("model", metavar="MODEL", help="what a sft or grpo stage of the run makes")
    export.add_argument("--out", metavar="DIR", help="the run folder of a recipe (default: runs/NAME)")
    export.add_argument("--to", required=True, metavar="DIR", help="the folder to write: a new or empty one")
    export.add_argument("--adapter-only", action="store_true", help="the LoRA adapters, without their base")
    export.add_argument("--push", metavar="USER/NAME", help="also upload it to this repository of the hub")
    export.add_argument("--private", action="store_true", help="a repository that --push makes is private")


def _export(options: argparse.Namespace) -> None:
    run_path = _run_folder(options.run, options.out)
    told = export_model(
        run_path,
        options.model,
        Path(options.to),
        adapter_only=options.adapter_only,
        push=options.push,
        private=options.private,
    )
    lines = [line for line in told.values() if line]
    print(json.dumps(told, indent=2, ensure_ascii=False) if options.json else "\n".join(lines))


def _run_folder(given: str, out: str | None) -> Path:
    """The run folder itself, or that of a recipe: where `distill run` would put it."""
    if os.path.isdir(given):
        if out:
            remedy = f"leave it out, or give a RECIPE instead of {given}"
            raise UserError("--out", out, "the run folder is given already", remedy)
        run_path = Path(given)
    else:
        from distill.recipe_file import find_recipe, load_recipe

        run_path = Path(out or Path("runs") / load_recipe(find_recipe(given)).name)
    if not (run_path / "recipe.yaml").is_file():
        remedy = "run the recipe first, or say where its run lies: --out DIR"
        raise UserError("RUN_OR_RECIPE", str(run_path), "is no run folder", remedy)
    return run_path


def export_model(
    run_path: Path,
    model: str,
    to: Path,
    *,
    adapter_only: bool = False,
    push: str | None = None,
    private: bool = False,
) -> dict[str, str | None]:
    """Write a made model with its card to ``to``, and to the hub repository ``push``.

    Returns:
        ``folder``, and ``hub``: the address of what was published.

    Raises:
        UserError: there is no such finished model, the target is not empty, the adapters have no base that others can
            load, a licence asks for another name, or the hub refuses. Nothing has been written here then.
    """
    from distill import card
    from distill.recipe_file import load_recipe

    recipe = load_recipe(run_path / "recipe.yaml")
    made = _made(run_path, recipe, model)
    base = _base_of_adapters(run_path, recipe, made.stage) if adapter_only else None
    _check_push(recipe, model, push, private, base)
    own = f"{card.ADAPTER}/{card.CARD}" if adapter_only else card.CARD
    file = run_path / "models" / model / own
    # A model that an older version made has no card yet.
    text = file.read_text(encoding="utf-8") if file.is_file() else card.cards(run_path, recipe, made)[own]
    to = Path(os.path.realpath(to))
    _check_apart(to, run_path)
    waiting = to.with_name(f".{to.name}.tmp")
    address = None
    with room(to):
        shutil.rmtree(waiting, ignore_errors=True)
        try:
            _copy(run_path / "models" / model, waiting, base)
            (waiting / card.CARD).write_text(card.published(text, push) if push else text, encoding="utf-8")
            if push:
                address = publish(waiting, push, private)
            waiting.replace(to)  # an empty folder gives way
        finally:
            shutil.rmtree(waiting, ignore_errors=True)
    return {"folder": str(to), "hub": address}


# -------------------------------------------------------------------------------- what is refused


def _made(run_path: Path, recipe: Any, model: str) -> Any:
    from distill.card import Made
    from distill.recipe import GrpoStage, SftStage
    from distill.runs import finished_stages, read_json

    stage = recipe.maker(model)
    if not isinstance(stage, SftStage | GrpoStage):
        known = [stage.makes for stage in recipe.stages if isinstance(stage, SftStage | GrpoStage)]
        raise UserError(
            "MODEL", model, "no stage of the run makes such a model", f"one of: {', '.join(known)}"
        )
    marker = finished_stages(run_path).get(stage.name)
    if marker is None or not (run_path / "models" / model / "config.json").is_file():
        raise UserError(
            "MODEL", model, f"stage `{stage.name}`, which makes it, is not finished", "run it first"
        )
    return Made(stage, marker["fingerprint"], marker["counts"], read_json(run_path / "manifest.json") or {})


def _base_of_adapters(run_path: Path, recipe: Any, stage: Any) -> str:
    """What the adapters of a stage adapt: a hub name, or where the model lies."""
    from distill.card import hub_name
    from distill.runs import ADAPTER

    if not (run_path / "models" / stage.makes / ADAPTER / "adapter_config.json").is_file():
        how = f"stage `{stage.name}` kept none; a sft stage of `method: lora` does"
        raise UserError("--adapter-only", stage.makes, f"has no adapters: {how}", "export it whole")
    source = recipe.models.get(stage.model)
    if source is None or source.path is None:
        return str((run_path / "models" / stage.model).absolute())
    if Path(source.path, "adapter_config.json").is_file():
        reason = f"its base `{stage.model}` is an adapter itself, and peft loads no adapter on top of another"
        raise UserError("--adapter-only", stage.makes, reason, "export it whole")
    return hub_name(source.path) or str(Path(source.path).absolute())


def _check_push(recipe: Any, model: str, push: str | None, private: bool, base: str | None) -> None:
    from distill.card import terms_of

    if push is None:
        if private:
            raise UserError("--private", None, "nothing is published", "give --push USER/NAME with it")
        return
    user, _, name = push.partition("/")
    check_repository(push)
    if (terms := terms_of(recipe, model)) and not name.startswith(terms.prefix):
        reason = f'the {terms.licence} asks for a name that begins with "{terms.prefix}"'
        raise UserError("--push", push, reason, f"--push {user}/{terms.prefix}-{name}")
    if base is not None and os.path.isabs(base):
        reason = "the adapters' base is a local folder, which nobody else could load"
        raise UserError("--push", push, reason, "publish the whole model: leave out --adapter-only")


def check_repository(push: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        UserError: it is none.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", push):
        raise UserError("--push", push, "is no name of a repository", "write USER/NAME")


def _check_apart(to: Path, run_path: Path) -> None:
    """Refuse a target that no export can be, or that would change the run."""
    run = Path(os.path.realpath(run_path))
    remedy = "give a new or empty folder outside of the run with --to"
    if to in (Path(to.anchor), Path(os.path.realpath(Path.home()))):
        raise UserError("--to", str(to), "is no folder for a model alone", remedy)
    if to == run or run in to.parents:
        reason = f"stands in the run itself ({run}), whose models would no longer be what it made"
        raise UserError("--to", str(to), reason, remedy)


@contextmanager
def room(to: Path) -> Iterator[None]:
    """Folders for ``to`` to stand in; those that were made go again when the block breaks."""
    from distill.places import check_place, new_folder

    remedy = "give a new or empty folder with --to"
    if to.is_dir() and any(to.iterdir()):
        raise UserError("--to", str(to), "holds other things", remedy)
    try:
        check_place(to)
        with new_folder(to.parent):
            yield
    except UserError as error:
        if error.key != "--out":
            raise
        raise UserError("--to", str(to), error.reason, remedy) from None


# -------------------------------------------------------------------------------- what is written


def _copy(folder: Path, waiting: Path, base: str | None) -> None:
    """The model without its card: whole, or (``base`` given) its adapters with all that the weights are not."""
    from distill.runs import ADAPTER, CARD_FILES

    if base is None:
        shutil.copytree(folder, waiting, ignore=shutil.ignore_patterns(ADAPTER, *CARD_FILES))
        return
    shutil.copytree(folder / ADAPTER, waiting, ignore=shutil.ignore_patterns(*CARD_FILES))
    for file in folder.iterdir():  # the tokenizer, the chat template, where to stop
        if (
            file.is_file()
            and ".safetensors" not in file.name
            and file.name not in ("config.json", *CARD_FILES)
        ):
            shutil.copy2(file, waiting)
    config = waiting / "adapter_config.json"
    told = json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
    config.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def publish(folder: Path, repository: str, private: bool, kind: str = "model") -> str:
    """Upload a folder; returns its address. The token is the environment's or that of the hub's own login.

    Args:
        kind: of the repository: ``model`` or ``dataset``.

    Raises:
        UserError: there is no token, the hub refuses, or the repository is public and must not be.
    """
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        remedy = "set HF_TOKEN, or log in: hf auth login"
        raise UserError("--push", repository, "no token of the hub is there", remedy)
    api = huggingface_hub.HfApi()
    try:
        address = str(api.create_repo(repository, repo_type=kind, private=private or None, exist_ok=True))
        public = private and not api.repo_info(repository, repo_type=kind).private
        if not public:
            words = f"A {kind} made by distill"
            api.upload_folder(repo_id=repository, repo_type=kind, folder_path=folder, commit_message=words)
    except (
        Exception
    ) as error:  # those of its HTTP library, which changes with its version, have no class in common
        words = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        reason = f"the hub refuses, or cannot be reached: {words}"
        remedy = "look at the name, the token's rights and the network; the same command tries again"
        raise UserError("--push", repository, reason, remedy) from error
    if public:
        remedy = "make it private on the hub, or give another name"
        raise UserError("--push", repository, "the repository is there already and is public", remedy)
    return address
