"""What an engine is: requests of token ids in, completions out, each as it ends.

Prompts travel as token ids wherever an engine takes them, so none can add a second BOS. A request's seed comes from
(run seed, problem, sample index) alone: so a restart, at whatever moment, gives the same data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from distill.chat import ChatFormat
from distill.recipe_parts import Sampling
from distill.records import Completion, Problem, sample_seed


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to draw. ``prefill`` is the opening thought tag when the prompt's last ids already spell it.

    ``question`` is the text of the user's message, for endpoints that take no token ids.
    """

    problem_id: str
    sample_index: int
    prompt_ids: list[int]
    prefill: str
    seed: int
    question: str = ""


#: Told the ids that a row has so far, now and then; True ends the row there (``abort``). It must be a function of the
#: ids alone, and engines must ask at the same lengths always, or a restart would cut elsewhere.
Runaway = Callable[[Sequence[int]], bool]


class Engine(Protocol):
    """Anything that completes prompts.

    ``together`` says how many requests have to go in as one call, in their order, and be done again as one, because
    who shares a batch decides their rounding; None: each request stands alone.
    """

    name: str
    together: int | None

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        """One completion for each request, as they end, in any order.

        Raises:
            RunFailed: the engine is lost. What it yielded before is whole; the other requests can be made again.
        """
        ...


def in_order(requests: Sequence[Request], completions: Iterator[Completion]) -> list[Completion]:
    """The completions in the order of their requests; each request has exactly one."""
    found = {(one.problem_id, one.sample_index): one for one in completions}
    assert len(found) == len(requests), f"{len(found)} completions of {len(requests)} requests"
    return [found[request.problem_id, request.sample_index] for request in requests]


def wording(problem: Problem, instruction: str | None) -> str:
    """What a model is told of a problem: ``instruction`` with the text for its ``{problem}``; None: the text alone."""
    return instruction.replace("{problem}", problem.problem) if instruction else problem.problem


def build_requests(
    problems: Sequence[Problem],
    samples: int,
    chat: ChatFormat,
    run_seed: int,
    instruction: str | None = None,
) -> list[Request]:
    """``samples`` requests for each problem, problem by problem."""
    requests = []
    occurrences: Counter[str] = Counter()  # a problem that comes twice gets other samples the second time
    for problem in problems:
        question = wording(problem, instruction)
        prompt = chat.prompt(question)
        first = occurrences[problem.id] * samples
        occurrences[problem.id] += 1
        for index in range(first, first + samples):
            seed = sample_seed(run_seed, problem.id, index)
            requests.append(Request(problem.id, index, prompt.ids, prompt.prefill, seed, question))
    return requests
