"""Kept traces given to a second model, to be written anew: DeepSeek-R1's cold start (arXiv 2501.12948v2, B.3).

There DeepSeek-V3 rewrote and translated the thoughts of R1-Zero that were right and readable. What the model writes is
a trace like any other: verified against the problem's own reference, filtered, and rejected with its reason.

A problem's rewritten traces are numbered through: number n is of its n // samples-th kept trace. Whose it is stands in
``measures.rewrite_of``, the sample number of that trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import overload

from distill.chat import ChatFormat
from distill.recipe import Rewrite
from distill.records import Problem, Trace

#: The measure of a rewritten trace that says which sample of its problem it was made of.
OF = "rewrite_of"


class Rewriting:
    """The traces that a stage writes anew, by problem.

    ``problems`` are those with a trace to rewrite, in their order; ``left_out`` counts the other traces by reason.

    Args:
        problems: that the traces may be of, by text; of several with one text the one that has the trace's id.
        room: tokens that a prompt may have.
    """

    def __init__(
        self,
        rewrite: Rewrite,
        traces: Iterable[Trace],
        problems: Sequence[Problem],
        chat: ChatFormat,
        room: int,
    ) -> None:
        self._prompt = rewrite.prompt
        self.left_out: Counter[str] = Counter()
        by_id = {problem.id: problem for problem in problems}
        by_text = {problem.problem: problem for problem in problems}
        self._traces: dict[str, list[Trace]] = {}
        for trace in traces:
            problem = by_id.get(trace.problem_id)
            if problem is None or problem.problem != trace.problem:  # the ids of a given set are its own
                problem = by_text.get(trace.problem)
            if problem is None:
                self.left_out["of a problem that is not among those of this stage"] += 1
            elif len(chat.prompt(self._words(problem, trace)).ids) > room:
                self.left_out[f"too long to be read: a prompt has room for {room:,} tokens"] += 1
            else:
                self._traces.setdefault(problem.id, []).append(trace)
        self.problems = [problem for problem in problems if problem.id in self._traces]

    def _words(self, problem: Problem, trace: Trace) -> str:
        """What the model is told; a problem that itself says ``{response}`` is not filled in."""
        parts = self._prompt.split("{response}")
        return trace.completion.join(part.replace("{problem}", problem.problem) for part in parts)

    @property
    def count(self) -> int:
        """Traces to rewrite."""
        return sum(map(len, self._traces.values()))

    def wanted(self, samples: int) -> Sequence[tuple[Problem, range]]:
        """For `Requests`: each trace with the numbers of its rewritten ones, its words in the place of the problem."""
        return _Wanted(self, samples)

    def of(self, problem_id: str, number: int, samples: int) -> int:
        """The sample number of the trace that a problem's rewritten trace of this number is made of."""
        return self._traces[problem_id][number // samples].sample_index

    def places(self) -> list[tuple[Problem, int]]:
        """Each trace as its problem and its place among that problem's."""
        return [(one, place) for one in self.problems for place in range(len(self._traces[one.id]))]

    def words(self, problem: Problem, place: int) -> str:
        """What the model is told of a problem's trace."""
        return self._words(problem, self._traces[problem.id][place])


class _Wanted(Sequence[tuple[Problem, range]]):
    """Words are put together when they are asked for: all traces are in memory once, not twice."""

    def __init__(self, rewriting: Rewriting, samples: int) -> None:
        self._rewriting, self._samples, self._places = rewriting, samples, rewriting.places()

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> tuple[Problem, range]: ...
    @overload
    def __getitem__(self, number: slice) -> list[tuple[Problem, range]]: ...
    def __getitem__(self, number: int | slice) -> tuple[Problem, range] | list[tuple[Problem, range]]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        problem, place = self._places[number]
        words = self._rewriting.words(problem, place)
        first = place * self._samples
        return problem.model_copy(update={"problem": words}), range(first, first + self._samples)
