"""Problems without a reference: the answer that most of their first samples agree on stands for one.

Majority voting (Wang et al. 2022, self-consistency) as a filter. The answer is elected among the first samples alone,
which every problem has, so that sampling on, or stopping, changes no election; later samples are judged by it like by
any reference, by the one grader. Where no answer is given by more than the asked share, nothing of the problem is kept:
its verdicts stay ``bad_reference``. Traces judged this way are marked: ``reference`` stays empty, and
``measures.agreement`` is the share of the first samples that gave the answer. Agreement is no proof: where a teacher
errs alike again and again, it elects the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from distill.chat import ThoughtTags
from distill.records import FinishReason, Problem, Trace, Verdict
from distill.shards import Row
from distill.verify import Response, check_many

_ANY = "0"  # a reference that lets the grader extract what stands in a text


class Agreement:
    """The answers elected so far.

    Args:
        share: more than this share of the first samples must agree; None: no problem lacks a reference.
        first: how many samples elect.
        tags: of thoughts.
    """

    def __init__(self, share: float | None, first: int, tags: tuple[ThoughtTags, ...]) -> None:
        self._share, self._first, self._tags = share, first, tags
        self._elected: dict[str, tuple[str, float] | None] = {}

    def judged(self, rows: Iterable[Row]) -> Iterator[Trace]:
        """The rows as traces, those of problems without a reference judged by the answer elected for it.

        Args:
            rows: those of a problem together, its first samples before or with its later ones.
        """
        traces = map(Trace.model_validate, rows)
        if self._share is None:
            yield from traces
            return
        for name, group in groupby(traces, key=attrgetter("problem_id")):
            own = list(group)
            if own[0].reference is not None or own[0].kind != "math":
                yield from own
                continue
            if name not in self._elected:
                self._elected[name] = self._elect([one for one in own if one.sample_index < self._first])
            chosen = self._elected[name]
            yield from own if chosen is None else self._judge(own, *chosen)

    def _elect(self, traces: Sequence[Trace]) -> tuple[str, float] | None:
        """The answer of most of these traces, and their share; of equals the one given first."""
        assert self._share is not None
        drawn = [trace for trace in traces if trace.finish_reason is not FinishReason.ERROR]
        answers = [one.extracted for one in check_many(self._responses(drawn, _ANY), tags=self._tags)]
        best: tuple[str, float] | None = None
        for answer in dict.fromkeys(answer for answer in answers if answer):
            verdicts = [one.verdict for one in check_many(self._responses(drawn, answer), tags=self._tags)]
            share = verdicts.count(Verdict.CORRECT) / len(drawn)
            if share > (best[1] if best else self._share):
                best = answer, share
        return best

    def _judge(self, traces: Sequence[Trace], answer: str, share: float) -> Iterator[Trace]:
        for trace, found in zip(
            traces, check_many(self._responses(traces, answer), tags=self._tags), strict=True
        ):
            engine_failed = trace.finish_reason is FinishReason.ERROR
            yield trace.model_copy(
                update={
                    "verdict": trace.verdict if engine_failed else found.verdict,
                    "extracted": found.extracted,
                    "measures": trace.measures | {"agreement": round(share, 4)},
                }
            )

    @staticmethod
    def _responses(traces: Sequence[Trace], reference: str) -> list[Response]:
        return [
            Response(
                Problem(id=trace.problem_id, kind=trace.kind, problem=trace.problem, reference=reference),
                trace.completion,
                trace.finish_reason,
            )
            for trace in traces
        ]
