"""Which traces a fine-tuning run sees, and in which order: decided before the first step, from the seed alone."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from distill.chat import KNOWN_TAGS, ChatFormat, Example, ThoughtState, ThoughtTags, split_thought, tags_in
from distill.errors import RunFailed
from distill.records import FinishReason, Trace

CHANGE_FIRST = (
    "The same command would end here again: change the stage's traces, weights or max_length first."
)


class Source(NamedTuple):
    """What an example was made from: the trace, and the thought tags that it is written with (None: with none)."""

    trace: Trace
    tags: ThoughtTags | None


class Mixture(NamedTuple):
    """The usable examples with their sources and, by number, the order in which the whole run sees them."""

    examples: list[Example]
    sources: list[Source]
    order: list[int]
    left_out: dict[str, int]


def mix(
    traces: Mapping[str, Sequence[Trace]],
    weights: Mapping[str, float],
    chat: ChatFormat,
    *,
    epochs: float,
    max_length: int,
    seed: int,
    written_with: Sequence[ThoughtTags] = (),
) -> Mixture:
    """Examples of all trace sets and their order over the run.

    Left out and counted: truncated traces (a model fine-tuned on them learns never to stop), thoughts without an
    end, those that spell a stop token in their midst (it would learn to stop there), those longer than
    ``max_length`` tokens, and, for a model whose prompt already opens the thought, those that do not open one: it is
    never asked without.

    Args:
        weights: how often an epoch sees each trace of a set: 1 once, 2 twice, 0.5 a random half (another each epoch).
        epochs: whole or broken; the last, broken epoch sees the first part of its shuffled order.
        written_with: the teachers' thought tags, besides those of the known families.

    Raises:
        RunFailed: nothing usable is left.
    """
    examples: list[Example] = []
    sources: list[Source] = []
    members: dict[str, list[int]] = {}
    left_out: Counter[str] = Counter()
    families = (chat.tags, *written_with, *KNOWN_TAGS)
    for name, rows in traces.items():
        members[name] = []
        for trace in rows:
            if trace.finish_reason in (FinishReason.LENGTH, FinishReason.ABORT, FinishReason.ERROR):
                left_out["truncated"] += 1
                continue
            if split_thought(trace.completion, families).state is ThoughtState.OPEN:
                left_out["whose thought never ends"] += (
                    1  # with an EOS behind it, it would teach to stop there
                )
                continue
            tags = tags_in(trace.completion, families)
            completion = trace.completion.lstrip() if chat.prefill else trace.completion
            if chat.prefill and not (tags and completion.startswith(tags.open)):
                left_out["without the opening tag that the model's prompt ends with"] += 1
                continue
            example = chat.example(trace.problem, completion, tags)
            if len(example.ids) > max_length:
                left_out[f"longer than max_length={max_length}"] += 1
                continue
            if not chat.stop_ids.isdisjoint(example.ids[example.prompt_length : -1]):
                left_out["that spell a token at which the model stops"] += 1
                continue
            members[name].append(len(examples))
            examples.append(example)
            sources.append(Source(trace, tags))
    for reason, count in left_out.items():
        print(f"left out: {count} traces {reason}", file=sys.stderr)
    if not examples:
        reason = f"no usable trace is left of {sum(map(len, traces.values()))}: {dict(left_out)}"
        raise RunFailed(reason, CHANGE_FIRST)
    order: list[int] = []
    remaining = epochs
    for epoch in range(int(epochs) + 1):
        if remaining <= 0:
            break
        rng = random.Random(f"{seed}/{epoch}")
        seen = [number for name in members for number in _share(members[name], weights[name], rng)]
        rng.shuffle(seen)
        order.extend(seen[: max(1, round(len(seen) * min(1.0, remaining)))])
        remaining -= 1
    if not order:
        raise RunFailed(f"the weights {dict(weights)} leave none of {len(examples)} traces", CHANGE_FIRST)
    return Mixture(examples, sources, order, dict(left_out))


def _share(numbers: Sequence[int], weight: float, rng: random.Random) -> list[int]:
    """Every number floor(weight) times, and the remaining fraction of them once more, chosen at random."""
    whole, fraction = int(weight), weight - int(weight)
    return [*list(numbers) * whole, *rng.sample(list(numbers), round(len(numbers) * fraction))]
