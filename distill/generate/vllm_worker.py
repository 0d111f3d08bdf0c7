"""One copy of a model in vLLM, in a process of its own: when the process ends, every byte of the GPU is free again.

Run as a script by `vllm_engine`, with the number of an open socket. It ends when the socket does, so a parent that was
killed leaves nothing behind. Messages are pickled tuples:

to it        settings of ``vllm.LLM``, first; then ("add", [(number, prompt ids, sampling)]) | ("drop", numbers)
from it      ("ready", rows) | ("more", [(number, ids, logprobs, finish or None)]) | ("failed", what went wrong)
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any


def main() -> None:
    """Load, then serve until the other side closes."""
    channel: Connection[Any, Any] = Connection(int(sys.argv[1]))
    inbox: SimpleQueue[Any] = SimpleQueue()
    settings = channel.recv()
    threading.Thread(target=_listen, args=(channel, inbox), daemon=True).start()
    try:
        from vllm import LLM

        engine = LLM(**settings).llm_engine
        channel.send(("ready", engine.vllm_config.scheduler_config.max_num_seqs))
        _serve(engine, channel, inbox)
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        channel.send(("failed", f"{type(error).__name__}: {error}"))
        os._exit(1)


def _listen(channel: Connection[Any, Any], inbox: SimpleQueue[Any]) -> None:
    """Always ready to read, or two processes that both write would wait for each other for ever."""
    while True:
        try:
            inbox.put(channel.recv())
        except (EOFError, OSError):
            os._exit(0)


def _serve(engine: Any, channel: Connection[Any, Any], inbox: SimpleQueue[Any]) -> None:
    while True:
        while not inbox.empty() or not engine.has_unfinished_requests():
            what, things = inbox.get()
            if what == "add":
                for number, prompt_ids, sampling in things:
                    add(engine, number, prompt_ids, sampling)
            else:
                engine.abort_request([str(number) for number in things])
        told = []
        for output in engine.step():
            (one,) = output.outputs
            finish = one.finish_reason if output.finished else None
            told.append((int(output.request_id), list(one.token_ids), list(one.logprobs.logprobs), finish))
        if told:
            channel.send(("more", told))


def add(
    engine: Any, number: int, prompt_ids: list[int], sampling: dict[str, Any], adapter: Any = None
) -> None:
    """Hand a request to an engine; ``adapter``: the LoRA request that it is to be answered with."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        **sampling,
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        detokenize=False,
        ignore_eos=True,  # what ends a completion stands in stop_token_ids, and nothing else
        output_kind=RequestOutputKind.DELTA,
    )
    engine.add_request(str(number), TokensPrompt(prompt_token_ids=prompt_ids), params, lora_request=adapter)


if __name__ == "__main__":
    main()
