"""The one grader: reward, rejection filter and evaluation all ask here."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from distill.chat import KNOWN_TAGS, ThoughtTags, split_thought
from distill.records import FinishReason, Problem, Verdict
from distill.verify import choice, instructions, programs
from distill.verify.judgement import Judgement
from distill.verify.maths import external, grader
from distill.verify.maths.extraction import extract_answer
from distill.verify.sandbox import SandboxDied, Verdicted

AHEAD = 2048  # texts that a stream holds, so that programs and math-verify have something to do

_CUT = (FinishReason.LENGTH, FinishReason.ABORT)


class Response(NamedTuple):
    """One text to judge: prefill + completion, and why it ended (None: nobody knows)."""

    problem: Problem
    text: str
    finish_reason: FinishReason | None


def check(
    problem: Problem,
    text: str,
    *,
    finish_reason: FinishReason | None = None,
    tags: tuple[ThoughtTags, ...] = KNOWN_TAGS,
) -> Judgement:
    """Judge one text (prefill + completion) against its problem.

    Only what follows the thought counts. A thought that never ends, or an answer that was cut before
    anything could be extracted, is TRUNCATED (NO_ANSWER where the model stopped by itself); what can be
    extracted is judged, cut or not. No text makes this raise.

    Raises:
        UserError: a program is to be run and this machine cannot isolate it (see `sandbox`).
    """
    return check_many([Response(problem, text, finish_reason)], tags=tags)[0]


def check_many(
    responses: Sequence[Response],
    *,
    tags: tuple[ThoughtTags, ...] = KNOWN_TAGS,
    on_done: Callable[[int], None] | None = None,
) -> list[Judgement]:
    """Judge many texts; the judgements come in the order of the texts.

    ``on_done`` is called with the number of texts judged so far.

    Raises:
        UserError: as `check`.
    """
    done: list[Judgement] = []
    for judgement in check_stream(responses, tags=tags):
        done.append(judgement)
        if on_done is not None:
            on_done(len(done))
    return done


def check_stream(
    responses: Iterable[Response | Judgement], *, tags: tuple[ThoughtTags, ...] = KNOWN_TAGS
) -> Iterator[Judgement]:
    """Judge texts as they come, in their order, holding AHEAD of them at the most; a judgement among them is passed on.

    Programs run side by side, one for each core, and equal programs with equal tests that are held together only once;
    comparisons that only math-verify can settle run beside them.

    Raises:
        UserError: as `check`.
    """
    flying: dict[str, Future[Verdicted]] = {}
    held: deque[Judgement | Callable[[], Judgement]] = deque()
    threads = ThreadPoolExecutor(external.WORKERS, "math-verify")
    try:
        for response in responses:
            held.append(
                response if isinstance(response, Judgement) else _begin(response, tags, flying, threads)
            )
            if len(held) == AHEAD:
                yield _waited(held.popleft())
                if len(flying) > 2 * AHEAD:  # not each time: it costs as much as a program
                    flying = {key: future for key, future in flying.items() if not future.done()}
        while held:
            yield _waited(held.popleft())
    except (
        BaseException
    ) as error:  # Ctrl-C, or a reader that is gone: what is still queued would take seconds each
        threads.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, KeyboardInterrupt):
            external.stop()
        raise
    threads.shutdown()


def _waited(begun: Judgement | Callable[[], Judgement]) -> Judgement:
    return begun if isinstance(begun, Judgement) else begun()


def _begin(
    response: Response,
    tags: tuple[ThoughtTags, ...],
    flying: dict[str, Future[Verdicted]],
    threads: ThreadPoolExecutor,
) -> Judgement | Callable[[], Judgement]:
    """Judge a text; where that takes a program or math-verify, start it and return what waits for the judgement."""
    problem, text, finish_reason = response
    if problem.kind == "open":
        return Judgement(Verdict.UNVERIFIED, None, "open problems are judged by models, not by us", 0.0)
    missing = "tests" if problem.kind in ("code", "instruction") else "reference"
    if not getattr(problem, missing):
        return Judgement(Verdict.BAD_REFERENCE, None, f"the problem has no {missing}", 0.0)
    answer = split_thought(text, tags).answer
    if answer is None:
        unfinished = finish_reason is None or finish_reason in _CUT
        return _without_answer(unfinished, "the thought never ends")
    cut = finish_reason in _CUT
    if problem.kind == "code":
        return _begin_program(problem, answer, cut, flying)
    if problem.kind == "instruction":
        return _instructed(problem, answer, cut)
    extract = choice.extract_choice if problem.kind == "choice" else extract_answer
    extracted = extract(answer)
    if extracted is None:
        return _without_answer(cut, "no answer found")
    try:
        return _judged(problem, extracted, answer, grader.not_now)
    except grader.Unsettled:
        return threads.submit(_judged, problem, extracted, answer, external.compare).result


def _instructed(problem: Problem, answer: str, cut: bool) -> Judgement:
    """A cut answer is none: how it goes on decides what it ends with, and how long it is."""
    if cut or not answer.strip():
        return _without_answer(cut, "the answer is cut" if cut else "no answer found")
    assert problem.tests is not None
    started = time.perf_counter()
    try:
        verdict, extracted, reason = instructions.judged(problem.tests, answer)
    except instructions.BadInstructions as error:
        return Judgement(Verdict.BAD_REFERENCE, None, str(error), 0.0)
    return Judgement(verdict, extracted, reason, time.perf_counter() - started)


def _judged(problem: Problem, extracted: str, answer: str, ask: grader.Ask) -> Judgement:
    started = time.perf_counter()
    try:
        verdict, reason = _compared(problem, extracted, answer, ask)
    except grader.Unsettled:
        raise
    except Exception as error:
        # Ours, whatever the text: told apart from wrong answers, never hidden among them.
        verdict, reason = Verdict.ERROR, f"the grader failed: {type(error).__name__}: {error}"
    return Judgement(verdict, extracted, reason, time.perf_counter() - started)


def _compared(problem: Problem, extracted: str, answer: str, ask: grader.Ask) -> tuple[Verdict, str]:
    assert problem.reference is not None
    if problem.kind == "math":
        return grader.matches(problem.reference, extracted, answer, ask)
    if not isinstance(problem.reference, str):
        return Verdict.BAD_REFERENCE, "a choice has one letter as its reference"
    letter = problem.reference.strip().strip("().:").upper()
    if len(letter) != 1 or not letter.isalpha():
        return Verdict.BAD_REFERENCE, f"{problem.reference!r} is not a letter"
    return (Verdict.CORRECT, "") if extracted == letter else (Verdict.WRONG, "another choice")


def _begin_program(
    problem: Problem, answer: str, cut: bool, flying: dict[str, Future[Verdicted]]
) -> Judgement | Callable[[], Judgement]:
    assert problem.tests is not None
    program, complete = programs.extract_program(answer)
    if program is None or (cut and not complete):
        return _without_answer(cut, "no program found")
    try:
        key = json.dumps([program, problem.tests], sort_keys=True)
        if key not in flying:
            flying[key] = programs.submit(program, problem.tests)
    except (programs.BadTests, TypeError) as error:  # TypeError: tests that hold what JSON cannot
        return Judgement(Verdict.BAD_REFERENCE, program, str(error), 0.0)
    except SandboxDied:
        return Judgement(Verdict.ERROR, program, "the sandbox does not start", 0.0)
    return partial(programs.judgement_of, program, flying[key])


def _without_answer(cut: bool, reason: str) -> Judgement:
    return Judgement(Verdict.TRUNCATED if cut else Verdict.NO_ANSWER, None, reason, 0.0)
