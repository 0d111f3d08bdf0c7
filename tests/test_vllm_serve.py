"""Our side of a server against vLLM's own: the same ids as the local engine, whole and streamed, and loops cut."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch

from distill.device import Device
from distill.generate.endpoint import Busy, Endpoint, Line
from distill.generate.engine import build_requests, in_order
from distill.generate.local import LocalEngine
from distill.generate.server import ServerEngine
from distill.models import LoadedModel, build_folder, load, save
from distill.recipe_parts import Architecture, ModelSource, Sampling
from distill.recipe_parts import ServerEngine as Settings
from distill.records import FinishReason, Problem

pytestmark = pytest.mark.vllm
CPU = Device("cpu", "cpu", False)
PROBLEMS = [
    Problem(id=f"p{n}", kind="math", problem=text) for n, text in enumerate(["9", "17+5-8", "1+2", "12-3+4"])
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    source = ModelSource(
        build=Architecture(hidden=64, layers=2, heads=2, kv_heads=1, max_length=700), tokenizer="world"
    )
    build_folder("tiny", source, folder, seed=0)
    loaded = load("tiny", folder, source, CPU)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save(loaded, folder)
    return load("tiny", folder, ModelSource(path=str(folder)), CPU)


@pytest.fixture(scope="module")
def url(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("logs") / "serve.log"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(loaded.model.name_or_path),
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "700",
        "--generation-config", "vllm",
    ]  # fmt: skip
    settings = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "TORCHDYNAMO_DISABLE": "1",
    }
    with log.open("wb") as words:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=words, stderr=words)
    address = Endpoint(f"http://127.0.0.1:{port}/v1", None, 5.0)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-4000:]
            try:
                address.ask(Line(), "/models", None)
                break
            except Busy:
                time.sleep(0.3)
        yield address.url
    finally:
        process.terminate()
        process.wait(30)


def test_greedy_ids_equal_the_local_engines_whole_and_streamed(url: str, loaded: LoadedModel) -> None:
    requests = list(build_requests(PROBLEMS, 1, loaded.chat, 0))
    greedy = Sampling(temperature=0, max_tokens=80)
    engine = ServerEngine("tiny", loaded.chat, Settings(kind="server", urls=url))
    local = in_order(requests, LocalEngine(loaded, CPU, 8).generate(requests, greedy))
    for runaway in (None, lambda ids: False):
        found = in_order(requests, engine.generate(requests, greedy, runaway))
        for ours, theirs in zip(local, found, strict=True):
            drop = {"logprobs"}
            assert ours.model_dump(exclude=drop) == theirs.model_dump(exclude=drop)


def test_seeds_decide_and_a_loop_is_cut(url: str, loaded: LoadedModel) -> None:
    requests = list(build_requests(PROBLEMS, 3, loaded.chat, 0))
    engine = ServerEngine("tiny", loaded.chat, Settings(kind="server", urls=url))
    drawn = Sampling(temperature=1.0, top_p=1.0, max_tokens=40)
    first = in_order(requests, engine.generate(requests, drawn))
    assert [one.token_ids for one in first] == [
        one.token_ids for one in in_order(requests, engine.generate(requests, drawn))
    ]
    assert len({one.text for one in first}) > len(first) / 2
    long = Sampling(temperature=1.0, top_p=1.0, max_tokens=600)
    cut = in_order(requests, engine.generate(requests, long, lambda ids: True))
    assert {one.finish_reason for one in cut} == {FinishReason.ABORT, FinishReason.STOP} or {
        one.finish_reason for one in cut
    } == {FinishReason.ABORT}
    assert all(one.tokens == 256 for one in cut if one.finish_reason is FinishReason.ABORT)


def test_messages_are_put_into_the_servers_template(url: str, loaded: LoadedModel) -> None:
    requests = list(build_requests(PROBLEMS, 1, loaded.chat, 0))
    greedy = Sampling(temperature=0, max_tokens=30)
    by_ids = ServerEngine("tiny", loaded.chat, Settings(kind="server", urls=url))
    by_messages = ServerEngine("tiny", loaded.chat, Settings(kind="server", urls=url, prompts="messages"))
    ids, messages = (
        in_order(requests, engine.generate(requests, greedy)) for engine in (by_ids, by_messages)
    )
    assert [one.tokens for one in ids] == [one.tokens for one in messages]
