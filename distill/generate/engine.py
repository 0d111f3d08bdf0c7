"""What an engine is: requests of token ids in, completions out, each as it ends.

Prompts travel as token ids wherever an engine takes them, so none can add a second BOS. A request's seed comes from
(run seed, problem, sample index) alone: so a restart, at whatever moment, gives the same data.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Protocol, overload

from distill.chat import ChatFormat, Prompt
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
#: Those lengths: its multiples, of rows that go on.
ASK_EVERY = 256


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


#: What is said around a problem, one for all or by the problems' ids; ``{problem}`` is where its text goes.
Instruction = str | Mapping[str, str | None] | None


def in_order(requests: Sequence[Request], completions: Iterator[Completion]) -> list[Completion]:
    """The completions in the order of their requests; each request has exactly one."""
    found = {(one.problem_id, one.sample_index): one for one in completions}
    assert len(found) == len(requests), f"{len(found)} completions of {len(requests)} requests"
    return [found[request.problem_id, request.sample_index] for request in requests]


def wording(problem: Problem, instruction: Instruction) -> str:
    """What a model is told of a problem: ``instruction`` with the text for its ``{problem}``; None: the text alone."""
    if isinstance(instruction, Mapping):
        instruction = instruction[problem.id]
    return instruction.replace("{problem}", problem.problem) if instruction else problem.problem


class Requests(Sequence[Request]):
    """Samples of problems, each request made when it is read: 800,000 of them take the room of their problems alone."""

    def __init__(
        self,
        wanted: Sequence[tuple[Problem, range]],
        chat: ChatFormat,
        run_seed: int,
        instruction: Instruction,
    ) -> None:
        """Requests for these sample numbers of these problems, in this order."""
        self._wanted, self._chat, self._seed, self._instruction = wanted, chat, run_seed, instruction
        self._ends = list(accumulate(len(numbers) for _, numbers in wanted))
        self._prompt = lru_cache(maxsize=1)(self._read)  # the samples of a problem mostly follow one another

    def _read(self, place: int) -> tuple[str, Prompt]:
        question = wording(self._wanted[place][0], self._instruction)
        return question, self._chat.prompt(question)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, number: int) -> Request: ...
    @overload
    def __getitem__(self, number: slice) -> list[Request]: ...
    def __getitem__(self, number: int | slice) -> Request | list[Request]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        place = bisect_right(self._ends, number)
        problem, numbers = self._wanted[place]
        index = numbers[number - self._ends[place]]  # counted from the end of the problem's numbers
        question, prompt = self._prompt(place)
        seed = sample_seed(self._seed, problem.id, index)
        return Request(problem.id, index, prompt.ids, prompt.prefill, seed, question)


def build_requests(
    problems: Sequence[Problem],
    samples: int,
    chat: ChatFormat,
    run_seed: int,
    instruction: Instruction = None,
) -> Requests:
    """``samples`` requests for each problem, problem by problem."""
    wanted = []
    occurrences: Counter[str] = Counter()  # a problem that comes twice gets other samples the second time
    for problem in problems:
        first = occurrences[problem.id] * samples
        occurrences[problem.id] += 1
        wanted.append((problem, range(first, first + samples)))
    return Requests(wanted, chat, run_seed, instruction)
