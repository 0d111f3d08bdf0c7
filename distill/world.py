"""The built-in world: two families of problems with exact answers, a tokenizer, and traces with known flaws.

* chains: multi-step arithmetic. `17; a: +5; b: -3` is thought as `a: 17+5=22; b: 22-3=19;` and answered `\\boxed{19}`.
  Traces may have their steps in words, in English or Chinese or mixed: `a: at 17 add 5 = 22; b: 再 22 减 3 等于 19;`.
* functions: a small Python function from a description. `x; a: double; b: add 3` is thought as
  `a: double = x*2; b: add 3 = a+3;` and answered with the program, which unit tests then run.

Train and test are disjoint by a hash of the problem's text. The traces of `make_traces` are unreliable on purpose
(wrong steps, which the answer then follows, and missing tags): fine-tuned on them, a model knows the task but cannot be
trusted with it. That is our honest stand-in for pre-training, and it is labelled so wherever it is shown.

Invented for this project; nothing here measures anything about real models.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from distill.chat import ThoughtTags
from distill.errors import UserError
from distill.recipe_parts import Family, WorldLanguage, WorldProblems, WorldTraces
from distill.records import Problem, Trace, Verdict, row_id

TAGS = ThoughtTags()
Split = Literal["train", "test"]
_MISSES_IN_A_ROW = 5000  # stops at about 13,500 train and 1,500 test chains; functions are far more
_TEST_SHARE = 10  # one problem in ten belongs to the test split

# ---------------------------------------------------------------------------------------------- chains

_NAMES = "abc"
_SMALLEST, _LARGEST = 10, 29


def _chain(rng: random.Random) -> tuple[str, list[tuple[int, str, int]]]:
    """A problem text and its steps (value so far, operator, operand); every value stays two digits long."""
    value = rng.randint(_SMALLEST, _LARGEST)
    text, steps = str(value), []
    for name in _NAMES[: rng.randint(2, 3)]:
        operand = rng.randint(1, 5)
        fits = [
            op for op, new in (("+", value + operand), ("-", value - operand)) if _SMALLEST <= new <= _LARGEST
        ]
        op = rng.choice(fits)
        steps.append((value, op, operand))
        text += f"; {name}: {op}{operand}"
        value = value + operand if op == "+" else value - operand
    return text, steps


#: A step in words, two for each language as `distill.language` counts them (two Chinese signs are a word), and each
#: word one or two tokens of the world's tokenizer.
_WORDED: dict[WorldLanguage, dict[str, str]] = {
    "en": {"+": "at {} add {} = {};", "-": "at {} subtract {} = {};"},
    "zh": {"+": "再 {} 加 {} 等于 {};", "-": "再 {} 减 {} 等于 {};"},
}


def _chain_trace(
    steps: list[tuple[int, str, int]],
    rng: random.Random,
    wrong_steps: float,
    languages: dict[WorldLanguage, float] | None = None,
) -> tuple[str, str]:
    """Thought and answer; a wrong step has any other result, and what follows builds on it.

    Given ``languages``, each step is worded in one of them, drawn by its share, whatever the step before it is in.
    """
    value, thought = steps[0][0], []
    for name, (_, op, operand) in zip(_NAMES, steps, strict=False):
        result = value + operand if op == "+" else value - operand
        if rng.random() < wrong_steps:
            result = rng.choice([other for other in range(_SMALLEST, _LARGEST + 1) if other != result])
        if languages is None:
            thought.append(f"{name}: {value}{op}{operand}={result};")
        else:
            (language,) = rng.choices(list(languages), list(languages.values()))
            thought.append(f"{name}: {_WORDED[language][op].format(value, operand, result)}")
        value = result
    return " ".join(thought), f"\\boxed{{{value}}}"


# ---------------------------------------------------------------------------------------------- functions


@dataclass(frozen=True, slots=True)
class Operation:
    """One clause of a description: its wording, its expression and what it does.

    In both texts ``V`` stands for the value so far, ``K`` for the constant.
    """

    words: str
    expression: str
    apply: Callable[[int, int], int]


OPERATIONS = (
    Operation("add K", "V+K", lambda x, k: x + k),
    Operation("subtract K", "V-K", lambda x, k: x - k),
    Operation("multiply by K", "V*K", lambda x, k: x * k),
    Operation("double", "V*2", lambda x, k: x * 2),
    Operation("triple", "V*3", lambda x, k: x * 3),
    Operation("square", "V*V", lambda x, k: x * x),
    Operation("negate", "-V", lambda x, k: -x),
    Operation("absolute value", "abs(V)", lambda x, k: abs(x)),
    Operation("remainder by K", "V%K", lambda x, k: x % k),
    Operation("halve rounding down", "V//2", lambda x, k: x // 2),
    Operation("divide by K rounding down", "V//K", lambda x, k: x // k),
    Operation("at least K", "max(V,K)", lambda x, k: max(x, k)),
    Operation("at most K", "min(V,K)", lambda x, k: min(x, k)),
)
_INPUTS = (-13, -6, -1, 0, 2, 5, 7, 18)
Clause = tuple[Operation, int]


def _clause(rng: random.Random) -> Clause:
    return rng.choice(OPERATIONS), rng.randint(2, 9)


def _function(rng: random.Random) -> tuple[str, list[Clause]]:
    """A description and its clauses."""
    clauses = [_clause(rng) for _ in _NAMES]
    named = zip(_NAMES, clauses, strict=False)
    return "; ".join(["x", *(f"{name}: {_words(clause)}" for name, clause in named)]), clauses


def _words(clause: Clause) -> str:
    op, k = clause
    return op.words.replace("K", str(k))


def _result(clauses: list[Clause], x: int) -> int:
    for op, k in clauses:
        x = op.apply(x, k)
    return x


def _tests(clauses: list[Clause]) -> dict[str, str]:
    code = "\n".join(f"assert f({x}) == {_result(clauses, x)}" for x in _INPUTS)
    return {"type": "python", "code": code, "entry_point": "f"}


def _function_trace(clauses: list[Clause], rng: random.Random, wrong_steps: float) -> tuple[str, str]:
    """Thought and answer; a wrong step is another operation or another constant, and the program follows it."""
    value, steps = "x", []
    for name, clause in zip(_NAMES, clauses, strict=False):
        shown = _expression(clause, value)
        if rng.random() < wrong_steps:
            while shown == _expression(clause, value):
                shown = _expression(_clause(rng), value)
        steps.append((name, _words(clause), shown))
        value = name
    thought = " ".join(f"{name}: {words} = {shown};" for name, words, shown in steps)
    body = "".join(f"\t{name} = {shown}\n" for name, _, shown in steps)
    return thought, f"```python\ndef f(x):\n{body}\treturn {value}\n```"


def _expression(clause: Clause, value: str) -> str:
    op, k = clause
    return op.expression.replace("K", str(k)).replace("V", value)


# ---------------------------------------------------------------------------------------------- problems and traces


def _split_of(text: str) -> Split:
    digest = hashlib.sha256(text.encode()).digest()
    return "test" if digest[0] * 256 + digest[1] < 65536 // _TEST_SHARE else "train"


@dataclass(frozen=True, slots=True)
class _Drawn:
    problem: Problem
    trace: Callable[..., tuple[str, str]]


def _draw(family: Family, split: Split, seed: int) -> Iterator[_Drawn]:
    """Distinct problems of one family and split; the seed decides which.

    Raises:
        UserError: (nearly) all that there are have been drawn.
    """
    rng = random.Random(f"{family}/{split}/{seed}")
    seen: set[str] = set()
    misses = 0
    while misses < _MISSES_IN_A_ROW:
        if family == "chains":
            text, steps = _chain(rng)
        else:
            text, clauses = _function(rng)
        if text in seen or _split_of(text) != split:
            misses += 1
            continue
        seen.add(text)
        misses = 0
        source = f"world-{family}"
        shared = {"id": row_id(source, text), "problem": text, "source": source, "tags": {"family": family}}
        if family == "chains":
            value, op, operand = steps[-1]
            answer = value + operand if op == "+" else value - operand
            problem = Problem(kind="math", reference=str(answer), **shared)
            yield _Drawn(problem, partial(_chain_trace, steps))
        else:
            problem = Problem(kind="code", tests=_tests(clauses), **shared)
            yield _Drawn(problem, partial(_function_trace, clauses))
    raise UserError(
        "world.count",
        None,
        f"the {split} split of {family} has only about {len(seen)} problems",
        "ask for fewer",
    )


def make_problems(world: WorldProblems, seed: int) -> list[Problem]:
    """``count`` distinct problems of each family, the families in turn.

    The test split does not depend on the run's seed: every run is measured on the same problems.
    """
    drawn = [_draw(family, world.split, seed if world.split == "train" else 0) for family in world.families]
    return [next(family).problem for _ in range(world.count) for family in drawn]


def make_traces(world: WorldTraces, seed: int) -> list[Trace]:
    """``count`` unreliable traces, the families in turn, over training problems.

    Each reasoning step is wrong with probability ``wrong_steps`` (and the rest builds on it); a trace lacks both tags
    with probability ``missing_tags``. Nothing is verified: verdicts stay UNVERIFIED.
    """
    rng = random.Random(f"unreliable/{seed}")
    drawn = [_draw(family, "train", seed) for family in world.families]
    traces = []
    for index in range(world.count):
        item = next(drawn[index % len(drawn)])
        worded = {"languages": world.languages} if world.languages else {}  # of chains alone
        thought, answer = item.trace(rng, world.wrong_steps, **worded)
        tagged = rng.random() >= world.missing_tags
        completion = f"{TAGS.open}{thought}{TAGS.close}{answer}" if tagged else f"{thought}{answer}"
        traces.append(
            Trace.of(
                item.problem,
                0,
                completion=completion,
                tokens=0,
                finish_reason=None,
                teacher="world (unreliable on purpose)",
                verdict=Verdict.UNVERIFIED,
            )
        )
    return traces
