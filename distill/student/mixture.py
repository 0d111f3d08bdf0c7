"""Which traces a fine-tuning run sees, and in which order: decided before the first step, from the seed alone.

Sets are mixed by how often an epoch sees each of their traces, or by how many of them it sees (`Portion`). A text that
stands in them twice, in one set or in two, is seen as the first set's only.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from distill.chat import KNOWN_TAGS, ChatFormat, Example, ThoughtState, ThoughtTags, split_thought, tags_in
from distill.errors import RunFailed
from distill.recipe_parts import Portion
from distill.records import FinishReason, Trace

CHANGE_FIRST = (
    "The same command would end here again: change the stage's traces, weights or max_length first."
)
TWICE = "that say the same as an earlier one"


class Source(NamedTuple):
    """What an example was made from: the trace, and the thought tags that it is written with (None: with none)."""

    trace: Trace
    tags: ThoughtTags | None


class Mixture(NamedTuple):
    """The usable examples with their sources and, by number, the order in which the whole run sees them.

    ``parts`` tells of each set how many traces were ``read``, are ``usable``, were ``duplicates`` of earlier ones, and
    how many an epoch sees (``each_epoch``); where it asks for a number, that one (``wanted``) and how many of them are
    seen again (``repeated``).
    """

    examples: list[Example]
    sources: list[Source]
    order: list[int]
    left_out: dict[str, int]
    parts: dict[str, dict[str, int]] = {}  # noqa: RUF012  never changed


def mix(
    traces: Mapping[str, Sequence[Trace]],
    weights: Mapping[str, float | Portion],
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
    ``max_length`` tokens, for a model whose prompt already opens the thought those that do not open one (it is
    never asked without), and those whose problem and text, but for case, white space and the kind of thought tags, an
    earlier usable trace has.

    Args:
        weights: how often an epoch sees each trace of a set: 1 once, 2 twice, 0.5 a random half (another each epoch).
            Or a `Portion`: so many traces, the same in each epoch.
        epochs: whole or broken; the last, broken epoch sees the first part of its shuffled order.
        written_with: the teachers' thought tags, besides those of the known families.

    Raises:
        RunFailed: nothing usable is left.
    """
    examples: list[Example] = []
    sources: list[Source] = []
    members: dict[str, list[int]] = {}
    left_out: Counter[str] = Counter()
    seen: set[bytes] = set()
    parts: dict[str, dict[str, int]] = {}
    families = (chat.tags, *written_with, *KNOWN_TAGS)
    for name, rows in traces.items():
        members[name] = []
        parts[name] = {"read": len(rows), "usable": 0, "duplicates": 0, "each_epoch": 0}
        for trace in rows:
            tags = tags_in(trace.completion, families)
            example = _example(trace, tags, families, chat, max_length)
            if isinstance(example, Example):
                said = _same(trace.problem, chat.as_taught(trace.completion, tags))
                if said not in seen:
                    seen.add(said)
                    members[name].append(len(examples))
                    examples.append(example)
                    sources.append(Source(trace, tags))
                    continue
                parts[name]["duplicates"] += 1
                example = TWICE
            left_out[example] += 1
        parts[name]["usable"] = len(members[name])
    for reason, count in left_out.items():
        print(f"left out: {count} traces {reason}", file=sys.stderr)
    if not examples:
        reason = f"no usable trace is left of {sum(map(len, traces.values()))}: {dict(left_out)}"
        raise RunFailed(reason, CHANGE_FIRST)
    for name, weight in weights.items():
        if isinstance(weight, Portion):
            members[name] = _portion(name, members[name], weight, seed, parts[name])
    order: list[int] = []
    remaining = epochs
    for epoch in range(int(epochs) + 1):
        if remaining <= 0:
            break
        rng = random.Random(f"{seed}/{epoch}")
        now: list[int] = []
        for name, numbers in members.items():
            weight = weights[name]
            chosen = numbers if isinstance(weight, Portion) else _share(numbers, weight, rng)
            parts[name]["each_epoch"] = len(chosen)
            now.extend(chosen)
        rng.shuffle(now)
        order.extend(now[: max(1, round(len(now) * min(1.0, remaining)))])
        remaining -= 1
    if not order:
        raise RunFailed(f"the weights {dict(weights)} leave none of {len(examples)} traces", CHANGE_FIRST)
    return Mixture(examples, sources, order, dict(left_out), parts)


def _example(
    trace: Trace,
    tags: ThoughtTags | None,
    families: tuple[ThoughtTags, ...],
    chat: ChatFormat,
    max_length: int,
) -> Example | str:
    """What a trace teaches, or why it must not."""
    if trace.finish_reason in (FinishReason.LENGTH, FinishReason.ABORT, FinishReason.ERROR):
        return "truncated"
    if split_thought(trace.completion, families).state is ThoughtState.OPEN:
        return "whose thought never ends"  # with an EOS behind it, it would teach to stop there
    completion = trace.completion.lstrip() if chat.prefill else trace.completion
    if chat.prefill and not (tags and completion.startswith(tags.open)):
        return "without the opening tag that the model's prompt ends with"
    example = chat.example(trace.problem, completion, tags)
    if len(example.ids) > max_length:
        return f"longer than max_length={max_length}"
    if not chat.stop_ids.isdisjoint(example.ids[example.prompt_length : -1]):
        return "that spell a token at which the model stops"
    return example


def _same(problem: str, completion: str) -> bytes:
    """Equal for traces that say the same."""
    text = "\x1f".join("".join(part.lower().split()) for part in (problem, completion))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _portion(name: str, numbers: list[int], portion: Portion, seed: int, told: dict[str, int]) -> list[int]:
    """So many of a set's traces as its portion says, drawn by the seed and the set's name; fewer where it has fewer."""
    wanted, here = portion.count, len(numbers)
    drawn = min(wanted, here) if not portion.repeat or not here else wanted
    told |= {"wanted": wanted, "repeated": max(0, drawn - here)}
    if here < wanted:
        how = f"{told['repeated']:,} are repeated" if told["repeated"] else "that is what an epoch sees"
        print(f"{name}: {here:,} usable traces of the {wanted:,} wanted; {how}", file=sys.stderr)
    rng = random.Random(f"{seed}/{name}")
    return [*numbers * (drawn // here), *rng.sample(numbers, drawn % here)] if here else []


def _share(numbers: Sequence[int], weight: float, rng: random.Random) -> list[int]:
    """Every number floor(weight) times, and the remaining fraction of them once more, chosen at random."""
    whole, fraction = int(weight), weight - int(weight)
    return [*list(numbers) * whole, *rng.sample(list(numbers), round(len(numbers) * fraction))]
