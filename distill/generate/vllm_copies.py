"""Copies of a model in vLLM, each in a process of its own: how they are started, given their GPUs, and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

_SECONDS_TO_END = 10


def gpus_here() -> list[str]:
    """GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = range(torch.cuda.device_count())
    return chosen.split(",")[: len(found)] if chosen else [str(number) for number in found]


@dataclass(slots=True, eq=False)
class Copy:
    """One process; ``rows`` are what it was given and has not ended."""

    process: subprocess.Popen[bytes]
    channel: Connection[Any, Any]
    log: Path
    places: int = 0
    rows: int = 0


def launch(environment: dict[str, str]) -> Copy:
    """Start a process, which waits for its settings. Its words go to a log of their own."""
    ours, theirs = socket.socketpair()
    handle, name = tempfile.mkstemp(prefix="distill-vllm-", suffix=".log")
    worker = Path(__file__).with_name("vllm_worker.py")
    with open(handle, "wb") as log, theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", str(worker), str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is this process's to hear, and those that split a copy end with it
        )
    return Copy(process, Connection(ours.detach()), Path(name))


def environment(gpus: list[str], copies: int) -> dict[str, str]:
    """Variables of a process with these GPUs (none: on the CPU), one of so many ``copies`` that share the cores."""
    home = str(Path(__file__).resolve().parents[2])
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # this process is one already
        # The sampler of the other model runner knows other processors, and runs on no CPU, where ours are tested.
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if gpus:
        settings["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    else:
        settings["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # else all copies would share one core
        settings["TORCHDYNAMO_DISABLE"] = "1"  # compiling would take longer than what a CPU is asked for
    threads = max(1, len(os.sched_getaffinity(0)) // copies)
    return {"OMP_NUM_THREADS": str(threads), "VLLM_LOGGING_LEVEL": "WARNING"} | os.environ | settings


def end(copies: list[Copy]) -> None:
    """End these processes and those that they started; they notice that their socket is closed, or are killed."""
    for copy in copies:
        copy.channel.close()
    for copy in copies:
        try:
            copy.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            os.killpg(copy.process.pid, signal.SIGKILL)
            copy.process.wait()
        copy.log.unlink(missing_ok=True)
    copies.clear()
