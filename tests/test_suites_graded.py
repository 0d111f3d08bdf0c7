"""The code suites' own reference programs are right, and each of them changed to be wrong is not."""

import os
from pathlib import Path

import mutants
import pytest

from distill.records import Problem, Verdict
from distill.verify import Response, check_many

DATA = Path(os.environ.get("DISTILL_DATA", Path(__file__).parents[2] / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA} (set DISTILL_DATA)")

#: Changed programs that pass, because the suite's tests do not tell them from right ones.
SURVIVORS = {
    (
        "MBPP/82",
        "result changed",
    ): "its tests allow a thousandth, and one more than a volume of thousands is within that",
    (
        "MBPP/85",
        "result changed",
    ): "its tests allow a thousandth, and one more than a surface of thousands is within that",
    (
        "MBPP/101",
        "first condition negated",
    ): "the condition guards a statement without effect (`==` where a swap was meant)",
    ("MBPP/404", "returns its first argument"): "in all its tests the first of two numbers is the smaller",
}


def verdicts(programs: list[tuple[mutants.Reference, str]]) -> list[Verdict]:
    responses = []
    for one, program in programs:
        tests = {"type": "python", "code": one.code, "entry_point": one.entry_point}
        problem = Problem(id="p", kind="code", problem="?", tests=tests)
        responses.append(Response(problem, f"```python\n{program}\n```", None))
    return [judgement.verdict for judgement in check_many(responses)]


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_reference_programs_are_right(step):
    found = mutants.references(DATA)[::step]
    wrong = [
        one.name
        for one, verdict in zip(found, verdicts([(one, one.program) for one in found]), strict=True)
        if verdict is not Verdict.CORRECT
    ]
    assert not wrong


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_changed_programs_are_not(step):
    jobs = [
        (one, name, program)
        for one in mutants.references(DATA)[::step]
        for name, program in mutants.mutants(one).items()
    ]
    found = verdicts([(one, program) for one, _, program in jobs])
    passed = {
        (one.name, name)
        for (one, name, _), verdict in zip(jobs, found, strict=True)
        if verdict is Verdict.CORRECT
    }
    assert passed <= set(SURVIVORS), passed - set(SURVIVORS)
    assert step > 1 or passed == set(SURVIVORS)
    assert set(found) <= {Verdict.CORRECT, Verdict.WRONG, Verdict.TIMEOUT}
