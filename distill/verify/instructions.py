"""Kind ``instruction``: whether an answer follows instructions that a program can check (IFEval, Zhou et al. 2023).

``tests`` of such a problem: ``{"type": "instructions", "instructions": [{"id": "punctuation:no_comma"}, ...]}``, each
with the arguments of its rule (`rules`). An answer is right when it follows all of them as it stands (the paper's
prompt-level strict accuracy). Loosely it is right when one of eight variants does: the answer without its first line,
its last, or both, each with and without its asterisks; that figure is told in the reason and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.records import Verdict
from distill.verify.rules import RULES, ArgumentMistake, Rule

Instruction = tuple[str, Rule, dict[str, Any]]


class BadInstructions(ValueError):
    """A problem's ``tests`` cannot decide anything; the message says why."""


def read_instructions(tests: Any) -> list[Instruction]:
    """Id, rule and arguments of each instruction.

    Raises:
        BadInstructions: it is not of the form above, or names a rule or argument that there is not.
    """
    given = (
        tests.get("instructions") if isinstance(tests, dict) and tests.get("type") == "instructions" else None
    )
    if not isinstance(given, list) or not given:
        raise BadInstructions("the tests list no instructions")
    found = []
    for one in given:
        name = one.get("id") if isinstance(one, dict) else None
        rule = RULES.get(name) if isinstance(name, str) else None
        if rule is None:
            raise BadInstructions(f"there is no instruction {name!r} (known: {', '.join(RULES)})")
        arguments = {key: value for key, value in one.items() if key != "id" and value is not None}
        if arguments.keys() != set(rule.arguments):
            raise BadInstructions(
                f"{name} takes {', '.join(rule.arguments) or 'no argument'}, not {', '.join(arguments) or 'none'}"
            )
        try:
            rule.follows("a text", **arguments)
        except ArgumentMistake as error:
            raise BadInstructions(f"{name}: {error}") from None
        found.append((str(name), rule, arguments))
    return found


def followed(answer: str, instructions: Sequence[Instruction]) -> list[bool]:
    """For each instruction whether the answer follows it, as it stands; an empty answer follows none."""
    return [bool(answer.strip()) and rule.follows(answer, **arguments) for _, rule, arguments in instructions]


def followed_loosely(answer: str, instructions: Sequence[Instruction]) -> list[bool]:
    """For each instruction whether one of the eight variants of the answer follows it."""
    variants = variants_of(answer)
    return [any(bools) for bools in zip(*(followed(one, instructions) for one in variants), strict=True)]


def variants_of(answer: str) -> list[str]:
    """The answer; without its first line, its last, both; and these four without asterisks (Zhou et al. 2023)."""
    lines = answer.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    whole = [answer, *cut]
    return list(dict.fromkeys([*whole, *(one.replace("*", "") for one in whole)]))


def judged(tests: dict[str, Any], answer: str) -> tuple[Verdict, str, str]:
    """Verdict, how many instructions were followed, and which were not.

    Raises:
        BadInstructions: as `read_instructions`.
    """
    instructions = read_instructions(tests)
    strict = followed(answer, instructions)
    told = f"strict {sum(strict)}/{len(strict)}"
    if all(strict):
        return Verdict.CORRECT, f"{told}, loose {len(strict)}/{len(strict)}", ""
    loose = followed_loosely(answer, instructions)
    names = [name for (name, _, _), follows in zip(instructions, strict, strict=True) if not follows]
    return Verdict.WRONG, f"{told}, loose {sum(loose)}/{len(loose)}", f"not followed: {', '.join(names)}"
