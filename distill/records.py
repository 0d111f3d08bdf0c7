"""The rows that pass between teacher, student and eval, and the append-only shards they are kept in.

A seam between two stages is always a file of these rows, so each stage can be run, resumed and replaced alone.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["math", "choice", "code", "instruction", "open"]


class FinishReason(StrEnum):
    """Why a completion ended: at its EOS, at the token limit, stopped by us, or the engine failed."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class Verdict(StrEnum):
    """What the verifier found. Which of these count as right is the caller's decision, never the enum's.

    A StrEnum is truthy in every state: compare with ``is Verdict.CORRECT``, never test it as a bool.
    """

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    ERROR = "error"
    BAD_REFERENCE = "bad_reference"
    UNVERIFIED = "unverified"


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(_Row):
    """One question with what decides its answer.

    ``reference`` is a string, or ``{"any": [...]}`` / ``{"all": [...]}``; ``choice`` problems carry the letter.
    ``tests`` belongs to kind ``code``: ``{"type": "python", "code": ..., "entry_point": ...}`` or
    ``{"type": "stdio", "cases": [{"input": ..., "output": ...}], "time_limit": ..., "memory_mb": ...}``; or to kind
    ``instruction``: ``{"type": "instructions", "instructions": [{"id": ..., ARGUMENT: ...}]}`` (`verify.instructions`).
    ``tags`` are labels to break results down by (subject, level, family).
    """

    id: str
    kind: Kind
    problem: str
    reference: str | dict[str, list[str]] | None = None
    tests: dict[str, Any] | None = None
    source: str = ""
    tags: dict[str, str] = {}


class Completion(_Row):
    """What an engine made of one request.

    ``text`` is the decoded generated ids with special tokens kept and the final EOS dropped; the text to judge is
    ``prefill + text``. ``tokens`` counts what was generated, EOS included. ``logprobs`` has one value for each of
    ``token_ids``: natural log, after temperature; both are empty where an engine does not tell them. ``error`` says
    why the engine could not complete the request (``finish_reason`` error).
    """

    problem_id: str
    sample_index: int
    text: str
    prefill: str = ""
    tokens: int
    token_ids: list[int] = []
    logprobs: list[float] = []
    finish_reason: FinishReason
    error: str = ""
    policy_version: int = 0


class Trace(_Row):
    """One teacher completion with its verdict, its measurements, and whether (and why not) it was kept.

    Rejected rows stay on disk with their reason, so that a changed threshold never needs the teacher again.
    ``completion`` is the model's own text, thought and prefilled opening tag included, template markers not.
    """

    id: str
    problem_id: str
    kind: Kind
    problem: str
    reference: str | dict[str, list[str]] | None = None
    tests: dict[str, Any] | None = None
    source: str = ""
    completion: str
    tokens: int
    finish_reason: FinishReason | None
    teacher: str
    policy_version: int = 0
    engine: str = ""
    sampling: dict[str, float | int] = {}
    seed: int = 0
    sample_index: int = 0
    verdict: Verdict = Verdict.UNVERIFIED
    extracted: str | None = None
    measures: dict[str, float] = {}
    kept: bool = True
    reason: str = ""

    @classmethod
    def of(cls, problem: Problem, sample_index: int, **about_the_completion: Any) -> Trace:
        """A trace of this problem: its columns are the problem's, the others are given; its id names both."""
        return cls(
            id=f"{problem.id}#{sample_index}",
            problem_id=problem.id,
            kind=problem.kind,
            problem=problem.problem,
            reference=problem.reference,
            tests=problem.tests,
            source=problem.source,
            sample_index=sample_index,
            **about_the_completion,
        )


def row_id(source: str, text: str) -> str:
    """The id of a row that brings none: its source and the first 16 hex digits of the SHA-256 of its text."""
    return f"{source}:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def in_shard(problem_id: str, shard: str) -> bool:
    """Whether a problem belongs to that part of all problems; ``3/16`` is the third of sixteen, by the id's hash."""
    number, of = map(int, shard.split("/"))
    digest = hashlib.sha256(problem_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % of == number - 1


def sample_seed(run_seed: int, problem_id: str, sample_index: int) -> int:
    """A 63-bit seed from the run, the problem and the sample's number alone: the order of work cannot matter."""
    text = f"{run_seed}\x1f{problem_id}\x1f{sample_index}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1
