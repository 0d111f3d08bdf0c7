"""Code problems: which part of an answer is the program, and what its tests say about it."""

from __future__ import annotations

import re
from concurrent.futures import Future
from typing import Any

from distill.records import Verdict
from distill.verify.judgement import Judgement
from distill.verify.marks import last_tagged
from distill.verify.sandbox import SandboxDied, Verdicted, sandbox

TIME_LIMIT = 10.0  # seconds of CPU time, for each case; MBPP's own slowest solution takes 3 to 4
MEMORY_MB = 512

_OPENING_FENCE = re.compile(r"^[ \t]*(```+|~~~+)([^`\n]*)$", re.MULTILINE)
_PYTHON = re.compile(r"\s*\{?\.?(?:python[\d.]*|py\d?)\b", re.IGNORECASE)


_KEYS = {
    "python": {"type", "time_limit", "memory_mb", "prelude", "code", "entry_point"},
    "stdio": {"type", "time_limit", "memory_mb", "prelude", "cases"},
}


class BadTests(ValueError):
    """The problem's ``tests`` cannot decide anything; the message says why."""


def extract_program(answer: str) -> tuple[str | None, bool]:
    """The program in an answer, and whether it is surely all there (a cut answer may end anywhere).

    It is the last fenced code block of the ``<answer>``, else of the answer; without a block, the whole of
    it. Where blocks are labelled as Python, what others hold (output, commands) is no program. A fence that
    never closes holds the rest. None where nothing but blanks is left.
    """
    program, complete = answer, False
    tagged = last_tagged(answer)
    if tagged is not None:
        program, complete = tagged, True
    block = _last_block(program)
    if block is not None:
        program, closed = block
        complete = complete or closed
    return (program if program.strip() else None), complete


def _last_block(text: str) -> tuple[str, bool] | None:
    found: dict[bool, tuple[str, bool]] = {}  # by whether it says that it is Python
    at = 0
    while (opening := _OPENING_FENCE.search(text, at)) is not None:
        start = opening.end() + 1
        closing = re.compile(rf"^[ \t]*{opening[1]}[ \t]*$", re.MULTILINE).search(text, start)
        end = len(text) if closing is None else closing.start()
        indent = len(opening[0]) - len(opening[0].lstrip(" \t"))
        inside = _without_indent(text[start:end], indent) if indent else text[start:end]
        found[_PYTHON.match(opening[2]) is not None] = (inside, closing is not None)
        if closing is None:
            break
        at = closing.end()
    return found.get(True, found.get(False))


def _without_indent(text: str, most: int) -> str:
    """A block in a list item stands as far in as its fence does, as Markdown has it; no line loses more than it has."""
    return re.sub(rf"^[ \t]{{1,{most}}}", "", text, flags=re.MULTILINE)


def job_of(program: str, tests: dict[str, Any]) -> dict[str, Any]:
    """What the sandbox server runs.

    Raises:
        BadTests: ``tests`` is not one of the two forms of DESIGN section 4.
    """
    kind = tests.get("type")
    if kind in _KEYS and (unknown := sorted(tests.keys() - _KEYS[kind])):
        raise BadTests(f"tests.{unknown[0]} means nothing here (known: {', '.join(sorted(_KEYS[kind]))})")
    prelude = tests.get("prelude", "")
    if not isinstance(prelude, str):
        raise BadTests("tests.prelude is no text")
    if prelude and "from __future__" not in program:  # which must stand first
        program = f"{prelude}\n{program}"
    job: dict[str, Any] = {"type": kind, "program": program}
    if kind == "python":
        job["code"], job["entry_point"] = tests.get("code"), tests.get("entry_point")
        if not isinstance(job["code"], str) or not job["code"].strip():
            raise BadTests("tests.code is empty")
        if not isinstance(job["entry_point"], str | None):
            raise BadTests("tests.entry_point is not a name")
    elif kind == "stdio":
        job["cases"] = tests.get("cases")
        if not isinstance(job["cases"], list) or not job["cases"]:
            raise BadTests("tests.cases is empty")
        for case in job["cases"]:
            if not isinstance(case, dict) or not all(
                isinstance(case.get(key), str) for key in ("input", "output")
            ):
                raise BadTests("a case is not {input: text, output: text}")
    else:
        raise BadTests(f"tests.type is {kind!r}, not python or stdio")
    for key, default in (("time_limit", TIME_LIMIT), ("memory_mb", MEMORY_MB)):
        value = tests.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e5:
            raise BadTests(f"tests.{key} = {value!r} is not a positive number")
        job[key] = value
    job["memory_mb"] = int(job["memory_mb"])
    return job


def judgement_of(program: str, answer: Future[Verdicted]) -> Judgement:
    """Wait for the sandbox's answer about a program."""
    try:
        told = answer.result()
    except SandboxDied:
        return Judgement(Verdict.ERROR, program, "the sandbox ended while it judged this", 0.0)
    return Judgement(Verdict(told.verdict), program, told.reason, told.seconds)


def submit(program: str, tests: dict[str, Any]) -> Future[Verdicted]:
    """Start judging a program; several may be in flight. Raises BadTests, UserError (see `sandbox`)."""
    job = job_of(program, tests)
    return sandbox().submit(job)
