"""Generation of responses of skewed length: ours beside transformers' `generate`, the same rows side by side.

    python tests/benchmarks/generate.py [--quick] [--json] [--work small|wide]

The model is random, but for its next token: the last token of a prompt is a length, and each token that follows is one
less, down to 0, which ends the row. So both sides write the same tokens at whatever cost the model has, whose logits
are drawn from as they are but for a large number added to that token's. Lengths are log-normal, as those of reasoning
are; prompts are sorted by length for both sides, so neither reads much padding.

The peer is called on `ROWS` prompts after `ROWS` prompts, as its `generate` takes a batch and returns when the longest
row has ended. Tokens count without padding.
"""

from __future__ import annotations

import functools
import importlib.metadata
import random
import statistics
from typing import Any, NamedTuple

from beside import imports_are_done, main, timed

ROWS, THREADS = 32, 1
LONGEST, MEDIAN, SIGMA = 400, 60, 0.9
MODELS = {"small": (128, 4, 4), "wide": (512, 6, 8)}  # hidden, layers, heads; two heads share a key head


class Task(NamedTuple):
    """A model that counts down, and prompts that say from where."""

    model: Any
    prompts: list[list[int]]
    lengths: list[int]


def task(work: str, quick: bool) -> Task:
    """The same on both sides: drawn from one seed."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    import distill.training.attention  # noqa: F401  ours is chosen by name; it counts as import on both sides

    torch.set_num_threads(THREADS)
    hidden, layers, heads = MODELS[work]
    rng, count = random.Random(0), (2 if quick else 6) * ROWS
    lengths = [min(LONGEST, max(4, round(rng.lognormvariate(0, SIGMA) * MEDIAN))) for _ in range(count)]
    prompts = [[*rng.choices(range(LONGEST), k=rng.randrange(20, 60)), length] for length in lengths]
    order = sorted(range(count), key=lambda number: len(prompts[number]))
    config = Qwen2Config(
        vocab_size=LONGEST + 24, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads // 2, intermediate_size=4 * hidden, max_position_embeddings=2048, eos_token_id=0,
        bos_token_id=None, pad_token_id=LONGEST + 1, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    forward = model.forward

    @functools.wraps(forward)  # `generate` reads its signature to see what it may hand over
    def counts_down(input_ids: Any, **arguments: Any) -> Any:
        out = forward(input_ids=input_ids, **arguments)
        following = (input_ids[:, -1:] - 1).clamp(min=0)
        out.logits[:, -1].scatter_add_(1, following, torch.full(following.shape, 1e4))
        return out

    model.forward = counts_down
    imports_are_done()
    return Task(model, [prompts[number] for number in order], [lengths[number] for number in order])


def report(given: Task, rows: list[list[int]], seconds: float) -> dict[str, Any]:
    """What was written, which the lengths foretell."""
    assert rows == [list(range(length - 1, -1, -1)) for length in given.lengths], (
        "a row counts down from its length"
    )
    told = sorted(given.lengths)
    spread = [told[0], round(statistics.median(told)), round(statistics.fmean(told)), told[-1]]
    return {"count": sum(told), "seconds": seconds, "same": [len(row) for row in rows], "lengths": spread}


def ours(quick: bool, work: str) -> dict[str, Any]:
    """The local engine with `ROWS` rows, as a harvest calls it: so many requests at a time as it takes together."""
    from types import SimpleNamespace

    import torch

    from distill.device import Device
    from distill.generate.engine import Request, in_order
    from distill.generate.local import LocalEngine
    from distill.recipe_parts import Sampling

    given = task(work, quick)
    given.model.config._attn_implementation = "distill"
    chat = SimpleNamespace(stop_ids=(0,), eos_id=0, decode=lambda ids: "")
    loaded: Any = SimpleNamespace(name="counting", model=given.model, chat=chat)
    engine = LocalEngine(loaded, Device("cpu", "cpu", False), ROWS)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=LONGEST)
    requests = [Request(f"p{number}", 0, prompt, "", number) for number, prompt in enumerate(given.prompts)]
    list(engine.generate([Request("warm", 0, [1, 2, 3], "", 0)], sampling))

    def work_through() -> list[list[int]]:
        rows = []
        for start in range(0, len(requests), engine.together):
            group = requests[start : start + engine.together]
            rows += [one.token_ids for one in in_order(group, engine.generate(group, sampling))]
        return rows

    rows, seconds = timed(work_through)
    assert torch.get_num_threads() == THREADS
    return report(given, rows, seconds)


def peer(quick: bool, work: str, *, attention: str, cache: dict[str, Any]) -> dict[str, Any]:
    """`model.generate`, sampling, a batch of `ROWS` at a time, padded on the left."""
    import torch

    given = task(work, quick)
    given.model.set_attn_implementation(attention)
    pad = given.model.config.pad_token_id
    options = {
        "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": LONGEST,
        "eos_token_id": 0, "pad_token_id": pad, **cache,
    }  # fmt: skip

    def generate(prompts: list[list[int]]) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
        out = given.model.generate(input_ids=ids, attention_mask=(ids != pad).long(), **options)
        return [[token for token in row if token != pad] for row in out[:, longest:].tolist()]

    generate([[1, 2, 3]])

    def work_through() -> list[list[int]]:
        batches = [given.prompts[start : start + ROWS] for start in range(0, len(given.prompts), ROWS)]
        return [row for batch in batches for row in generate(batch)]

    rows, seconds = timed(work_through)
    return report(given, rows, seconds)


def agree(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Both wrote the same rows; each has checked that they are the right ones."""
    assert left["same"] == right["same"], "rows of other lengths"


def tell(left: dict[str, Any], right: dict[str, Any]) -> None:
    """The work."""
    shortest, middle, mean, longest = left["lengths"]
    spread = f"{shortest} to {longest} tokens, median {middle}, mean {mean}"
    print(f"{len(left['same'])} responses of {spread}; {ROWS} side by side")


if __name__ == "__main__":
    # Compiled, a static cache takes longer to compile than all of this takes to run.
    static = {"cache_implementation": "static", "disable_compile": True}
    settings = {
        "sdpa": functools.partial(peer, attention="sdpa", cache={}),
        "eager": functools.partial(peer, attention="eager", cache={}),
        "sdpa, static cache": functools.partial(peer, attention="sdpa", cache=static),
    }
    version = importlib.metadata.version("transformers")
    main(
        "generate", ours, settings, f"transformers {version}", "tokens/s", agree=agree, threads=THREADS, tell=tell,
        works=tuple(MODELS),
    )  # fmt: skip
