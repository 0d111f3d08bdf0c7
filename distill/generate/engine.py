"""What an engine is: requests of token ids in, completions out, in the same order.

Prompts travel as token ids, so no engine can add a second BOS. A request's seed comes from (run seed, problem, sample
index) alone, and work is cut into fixed chunks at whose ends it is written down: so a restart, at whatever moment,
gives the same data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from distill.chat import ChatFormat
from distill.recipe_parts import Sampling
from distill.records import Completion, Problem, sample_seed


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to draw. ``prefill`` is the opening thought tag when the prompt's last ids already spell it."""

    problem_id: str
    sample_index: int
    prompt_ids: list[int]
    prefill: str
    seed: int


class Engine(Protocol):
    """Anything that completes prompts."""

    name: str

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_done: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """One completion for each request, in their order; ``on_done`` is told how many more are finished."""
        ...


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
        prompt = chat.prompt(wording(problem, instruction))
        first = occurrences[problem.id] * samples
        occurrences[problem.id] += 1
        for index in range(first, first + samples):
            seed = sample_seed(run_seed, problem.id, index)
            requests.append(Request(problem.id, index, prompt.ids, prompt.prefill, seed))
    return requests
