"""What the verifier says about one response."""

from __future__ import annotations

from typing import NamedTuple

from distill.records import Verdict


class Judgement(NamedTuple):
    """A verdict with what it rests on.

    ``extracted`` is the final answer (or the program) that was judged, None where there was none; ``reason``
    says why in a few words, and is empty for CORRECT; ``seconds`` is the wall time that the judging itself
    took.
    """

    verdict: Verdict
    extracted: str | None
    reason: str
    seconds: float
