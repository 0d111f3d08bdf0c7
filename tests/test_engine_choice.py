"""Which engine a stage gets: chosen by its kind, told to the plan, and what of it makes a stage due again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from distill.chain import run_recipe
from distill.fingerprints import fingerprints
from distill.generate.engine import Request, Runaway
from distill.inputs import Inputs
from distill.models import build_folder
from distill.plan import make_plan
from distill.plan.sizes import Assumptions
from distill.recipe_file import find_recipe, load_recipe
from distill.recipe_parts import LocalEngine, Sampling, ServerEngine, VllmEngine
from distill.records import Completion, FinishReason

SERVER = "stages.harvest.engine={kind: server, urls: http://here}"


def test_without_a_kind_the_engine_is_local(tiny_recipe_module: Any) -> None:
    recipe = tiny_recipe_module.tiny_recipe
    assert recipe().stage("harvest").engine == LocalEngine(max_rows=2)
    vllm = recipe("stages.harvest.engine={kind: vllm, tensor_parallel: 2}").stage("harvest").engine
    assert vllm == VllmEngine(kind="vllm", tensor_parallel=2)
    server = recipe(SERVER, "stages.harvest.engine.timeout=1e2").stage("harvest").engine
    assert server == ServerEngine(kind="server", urls="http://here", timeout=100.0)


def test_where_a_server_is_makes_nothing_due_again_and_what_it_serves_does(tiny_recipe_module: Any) -> None:
    def print_of(*changes: str) -> str:
        return fingerprints(tiny_recipe_module.tiny_recipe(SERVER, *changes))["harvest"]

    at = "stages.harvest.engine"
    reached = [
        "urls=[http://a, http://b]",
        "concurrency=2",
        "requests_per_minute=9",
        "tokens_per_minute=9",
        "timeout=1",
        "key=KEY",
    ]
    assert {print_of(f"{at}.{change}") for change in reached} == {print_of()}
    assert (
        len({print_of(f"{at}.{change}") for change in ("served=x", "prompts=messages")} | {print_of()}) == 3
    )


class Scripted:
    """Answers every request with the same line."""

    together = None

    def __init__(self, *told: Any, **named: Any) -> None:
        self.name, self.told, self.named = "scripted", told, named
        Scripted.last = self

    last: Any = None

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        for request in requests:
            assert request.question and request.prompt_ids
            yield Completion(
                problem_id=request.problem_id, sample_index=request.sample_index, text="no idea", tokens=2,
                finish_reason=FinishReason.STOP,
            )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "module", "name", "extra"),
    [("server", "server", "ServerEngine", "urls: http://x, "), ("vllm", "vllm_engine", "VllmEngine", "")],
)
def test_an_engine_elsewhere_gets_the_model_and_no_weights_are_loaded(
    tiny_recipe_module: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    module: str,
    name: str,
    extra: str,
) -> None:
    fake = ModuleType(f"distill.generate.{module}")
    setattr(fake, name, Scripted)
    fake.check_vllm = fake.check_server = lambda *_: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(f"distill.generate.{module}", fake, raising=False)
    monkeypatch.setattr("distill.models.load", None)
    build_folder("m", tiny_recipe_module.tiny_recipe().models["student-blank"], tmp_path / "m", seed=0)
    recipe = tiny_recipe_module.tiny_recipe(
        f"models.m={{path: {tmp_path / 'm'}}}",
        "stages.harvest.model=m",
        f"stages.harvest.engine={{kind: {kind}, {extra}}}",
    )
    assert recipe.engines("m") == {kind}
    run_recipe(recipe, tmp_path / "run", [recipe.stage("harvest")])
    told, named = Scripted.last.told, Scripted.last.named
    if kind == "server":
        assert (told[0], named) == ("m", {}) and told[2].urls == "http://x"
        chat = told[1]
    else:
        assert told[:2] == ("m", str(tmp_path / "m")) and told[3] == recipe.stage("harvest").engine
        assert named == {"context": 192, "rope_theta": None}
        chat = told[2]
    assert chat.decode(chat.prompt("1+1").ids) and chat.tags.open == "<think>"


def test_a_short_vllm_bounds_the_completions(tiny_recipe_module: Any) -> None:
    recipe = tiny_recipe_module.tiny_recipe
    whole = Inputs(recipe("stages.exam.engine={kind: vllm}", "stages.exam.sampling=null"))
    cut = Inputs(recipe("stages.exam.engine={kind: vllm, max_length: 100}", "stages.exam.sampling=null"))
    suite = whole.recipe.stage("exam").suites[0]
    longer, shorter = (one.exam("exam", suite).sampling.max_tokens for one in (whole, cut))
    assert shorter < 100 < longer


def test_a_plan_leaves_a_servers_model_out_and_counts_its_tokens() -> None:
    def planned(*changes: str) -> dict[str, Any]:
        return make_plan(load_recipe(find_recipe("r1-distill-qwen-7b"), list(changes)), Assumptions())

    local = planned()
    server = planned("stages.exam.engine={kind: server, urls: http://x}", "models.base.max_length=null")
    assert server["stages"][1]["generated_tokens"] >= local["stages"][1]["generated_tokens"] > 0
    assert "server" in server["stages"][1]["notes"][0] and not server["stages"][1]["memory"]
    one = planned("stages.exam.engine={kind: vllm, memory: 0.9}")["stages"][1]
    many = planned("stages.exam.engine={kind: vllm, memory: 0.9, data_parallel: 8}")["stages"][1]
    assert one["fits"] and many["hours"] < one["hours"] and "rows side by side" in one["notes"][-1]
    small = planned("stages.exam.engine={kind: vllm, memory: 0.1}")["stages"][1]
    assert not small["fits"] and small["nearest"]["engine.tensor_parallel"] > 1
    wide = planned("stages.exam.engine={kind: vllm, tensor_parallel: 16}")["stages"][1]
    assert "16 GPUs" in wide["notes"][-2]
