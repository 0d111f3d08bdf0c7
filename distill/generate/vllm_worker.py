"""One copy of a model in vLLM, in a process of its own: when the process ends, every byte of the GPU is free again.

Run as a script by `vllm_engine`, with the number of an open socket. It ends when the socket does, so a parent that was
killed leaves nothing behind. Messages are pickled tuples:

to it        settings of ``vllm.LLM``, first; then ("add", [(number, prompt ids, sampling)]) | ("drop", numbers)
             | ("take", (folder, names of each file in order)), where nothing is being generated
from it      ("ready", rows) | ("more", [(number, ids, logprobs, finish or None)]) | ("failed", what went wrong)
             | ("took", (names of what is not held as it was written, checksum of what is))

Weights are taken from a folder that `vllm_policy` wrote, by a copy that was loaded with random ones.
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

        if settings.get("load_format") == "dummy":
            plain_products()
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
    adapter = None
    while True:
        while not inbox.empty() or not engine.has_unfinished_requests():
            what, things = inbox.get()
            if what == "add":
                for number, prompt_ids, sampling in things:
                    add(engine, number, prompt_ids, sampling, adapter)
            elif what == "take":
                adapter, told = take(engine, *things)
                channel.send(("took", told))
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


def plain_products() -> None:
    """Have a CPU multiply as torch does, before a policy's sampler is loaded.

    Matrices for oneDNN are packed copies: they cannot be read back, and that of a head which shares the embedding's
    weights keeps the old ones when the embedding gets new ones (0.32.0). torch's own products do.
    """
    import torch
    import vllm._custom_ops as kernels

    if not torch.cuda.is_available():
        kernels._supports_onednn = False


def take(engine: Any, folder: str, names: dict[str, list[str]]) -> tuple[Any, tuple[list[str], int]]:
    """Load the weights of a folder, look for each in the engine's memory, and forget keys and values of older ones.

    Returns:
        the LoRA request of the adapters (None: there are none); what is not held as it lies in the folder, and the
        checksum of all that does.
    """
    from distill.generate.vllm_weights import checksum_of, compare, compare_adapters

    (model,) = engine.collective_rpc(lambda worker: worker.get_model())
    adapter, wrong, read = None, list[str](), list[Any]()
    if "base" in names:
        base = _read(folder, "base", names)
        engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(base.items())})
        wrong += compare(model, base.items()).wrong
        read += base.values()
    if "adapters" in names:
        from vllm.lora.request import LoRARequest

        adapters = _read(folder, "adapters", names)
        adapter = LoRARequest("policy", 1, f"{folder}/adapter", load_inplace=True)
        engine.add_lora(adapter)
        adapter = LoRARequest("policy", 1, f"{folder}/adapter")
        wrong += compare_adapters(model, adapters).wrong
        read += adapters.values()
    if not engine.reset_prefix_cache():
        wrong.append("keys and values of older weights")
    return adapter, (wrong, checksum_of(read))


def _read(folder: str, part: str, names: dict[str, list[str]]) -> dict[str, Any]:
    from safetensors.torch import load_file

    found = load_file(f"{folder}/{part}.safetensors")
    return {name: found[name] for name in names[part]}


if __name__ == "__main__":
    main()
