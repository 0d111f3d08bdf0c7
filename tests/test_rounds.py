"""Adaptive harvests with a scripted engine: rounds, budgets, what is told; a kill at any moment changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.errors import RunFailed
from distill.generate.engine import Request, Runaway
from distill.recipe import SampleStage
from distill.recipe_filters import Difficulty, Filters
from distill.recipe_parts import AdaptiveCollect, FixedCollect, Sampling
from distill.records import Completion, FinishReason, Problem, Trace, sample_seed
from distill.shards import read_parquet
from teacher.harvest import harvest
from teacher.rounds import PROBE
from tests.test_harvest import FakeChat

PROBLEMS = [Problem(id=f"s{n}", kind="math", problem=f"{n}+1", reference=str(n + 1)) for n in range(40)]
ADAPTIVE = AdaptiveCollect(strategy="adaptive", first=2, most=8, keep_per_problem=2, needed=0.6)
STAGE = SampleStage(
    name="harvest", kind="sample", model="teacher", problems="sums", makes="traces",
    sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=40), collect=ADAPTIVE,
)  # fmt: skip


def chance(problem_id: str) -> float:
    """Of a right answer: a third of the problems never, a third half the time, a third always."""
    return (0.0, 0.5, 1.0)[int(problem_id[1:]) % 3]


class Teacher:
    """Right by chance, as the seed of the request has it; ends the process at one request if told.

    ``backwards``: the requests end in the opposite order. ``error``: it is raised, so that what was completed is kept.
    """

    name = "scripted"

    def __init__(
        self,
        dies_at: int = -1,
        together: int | None = None,
        backwards: bool = False,
        error: type[Exception] | None = None,
    ) -> None:
        self.dies_at, self.together, self.backwards, self.error = dies_at, together, backwards, error
        self.answered = 0

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        for request in reversed(list(requests)) if self.backwards else requests:
            if self.answered == self.dies_at:
                raise self.error("the engine is lost") if self.error else KeyboardInterrupt
            self.answered += 1
            right = (request.seed % 1000) / 1000 < chance(request.problem_id)
            answer = int(request.problem_id[1:]) + 1 if right else 999
            text = f"way {request.sample_index}{' hm' * (request.seed % 7)}</think>\\boxed{{{answer}}}"
            yield Completion(
                problem_id=request.problem_id, sample_index=request.sample_index, text=text,
                prefill=request.prefill, tokens=len(text), finish_reason=FinishReason.STOP,
            )  # fmt: skip


def run(folder: Path, teacher: Teacher | None = None, **changes: Any) -> dict[str, int]:
    arguments: dict[str, Any] = {
        "stage": STAGE, "engine": teacher or Teacher(), "chat": FakeChat(), "problems": PROBLEMS,
        "instruction": None, "teacher_name": "adder", "folder": folder, "seed": 7,
    }  # fmt: skip
    return harvest(**arguments | changes)


def collecting(**settings: Any) -> SampleStage:
    return STAGE.model_copy(update={"collect": ADAPTIVE.model_copy(update=settings)})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def traces(folder: Path) -> list[Trace]:
    return list(read_parquet(folder / "traces.parquet"))


def ended(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in map(json.loads, (folder / "problems.jsonl").read_text().splitlines())}


def test_easy_problems_stop_early_and_each_problem_is_told(tmp_path: Path) -> None:
    counts = run(tmp_path / "traces")
    told = ended(tmp_path / "traces")
    assert list(told) == [problem.id for problem in PROBLEMS]
    rows = traces(tmp_path / "traces")
    for name, row in told.items():
        own = [trace for trace in rows if trace.problem_id == name]
        assert [trace.sample_index for trace in own] == list(range(row["samples"]))  # no gap, none twice
        assert (row["kept"], row["tokens"]) == (sum(t.kept for t in own), sum(t.tokens for t in own))
        rate = sum(trace.verdict == "correct" for trace in own[:2]) / 2
        assert row["first_pass_rate"] == rate and all(t.measures["first_pass_rate"] == rate for t in own)
        if chance(name) == 1:
            assert (row["samples"], row["ended"]) == (2, "enough")
        if chance(name) == 0:
            assert row["kept"] == 0 and row["ended"] in ("most", "given up")
    assert counts["traces"] < 8 * len(PROBLEMS) and counts["kept"] == sum(
        row["kept"] for row in told.values()
    )
    funnel = json.loads((tmp_path / "traces" / "funnel.json").read_text())
    summary = funnel["collection"]
    assert sum(summary["problems"].values()) == sum(summary["samples_per_problem"].values()) == len(PROBLEMS)
    assert summary["tokens"] == counts["generated_tokens"] == funnel["input"]["tokens"]
    assert summary["tokens_saved"] == summary["tokens_of_most"] - summary["tokens"] > 0
    assert summary["rounds"] > 2
    assert "| samples per problem | adaptive: 2 to 8, " in (tmp_path / "traces" / "README.md").read_text()
    assert sorted(files(tmp_path / "traces")) == [
        "README.md", "funnel.json", "problems.jsonl", "traces.parquet",
    ]  # fmt: skip


def test_the_samples_are_those_that_a_fixed_harvest_would_draw_first(tmp_path: Path) -> None:
    run(tmp_path)
    for trace in traces(tmp_path):
        assert trace.seed == sample_seed(7, trace.problem_id, trace.sample_index)


@pytest.mark.parametrize("together", [None, 7])
def test_a_kill_at_any_request_of_any_round_changes_nothing(tmp_path: Path, together: int | None) -> None:
    teacher = Teacher(together=together)
    counts = run(tmp_path / "whole" / "traces", teacher)
    whole = files(tmp_path / "whole" / "traces")
    for dies_at in range(0, teacher.answered, 9):  # some in each round
        killed = tmp_path / str(dies_at) / "traces"
        with pytest.raises(KeyboardInterrupt):
            run(killed, Teacher(dies_at, together))
        assert run(killed, Teacher(together=together)) == counts
        assert files(killed) == whole


def test_killed_again_and_again_and_in_the_opposite_order_it_is_the_same_set(tmp_path: Path) -> None:
    run(tmp_path / "whole" / "traces")
    killed = tmp_path / "killed" / "traces"
    for attempt in range(100):
        try:
            run(killed, Teacher(dies_at=5, backwards=attempt % 2 == 0, error=RunFailed))
            break
        except RunFailed:
            continue
    assert attempt > 10
    assert files(killed) == files(tmp_path / "whole" / "traces")


def test_rows_of_a_later_round_are_not_looked_at_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill before the set is written leaves all rows of all rounds: each round still sees its own alone."""
    told: list[str] = []
    monkeypatch.setattr("teacher.rounds._tell", lambda *given: told.append(repr(given)))

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("teacher.harvest._write", die)
        run(tmp_path)
    first, told[:] = list(told), []
    run(tmp_path, Teacher(dies_at=0))  # nothing is left to draw
    assert told == first and len(told) > 2


@pytest.mark.parametrize(
    "settings", [{"budget_tokens": 2000}, {"budget_cost": 0.02, "price": 10.0}]
)  # 2,000 tokens either way
def test_a_budget_of_tokens_is_honoured(tmp_path: Path, settings: dict[str, float]) -> None:
    many = [Problem(id=f"s{n}", kind="math", problem=f"{n}+1", reference=str(n + 1)) for n in range(200)]
    few = {"problems": many, "stage": collecting(first=1, **settings)}
    counts = run(tmp_path / "some", **few)
    assert 1700 < counts["generated_tokens"] < 2200  # of a round, only the mean is known
    assert any(row["ended"] == "budget" and row["samples"] == 0 for row in ended(tmp_path / "some").values())
    killed = tmp_path / "killed" / "some"
    with pytest.raises(KeyboardInterrupt):
        run(killed, Teacher(dies_at=40), **few)
    run(killed, **few)
    assert files(killed) == files(tmp_path / "some")


@pytest.mark.parametrize(("budget", "begun"), [(1, 1), (5 * 2 * 64, 5), (10**9, PROBE)])
def test_the_first_round_asks_no_more_than_surely_fits(tmp_path: Path, budget: int, begun: int) -> None:
    many = [Problem(id=f"s{n}", kind="math", problem=f"{n}+1", reference=str(n + 1)) for n in range(200)]
    stage = collecting(first=2, budget_tokens=budget)
    stage = stage.model_copy(update={"sampling": stage.sampling.model_copy(update={"max_tokens": 64})})
    asked: list[str] = []

    class Watched(Teacher):
        def generate(self, requests: Sequence[Request], *more: Any) -> Iterator[Completion]:
            asked.extend(request.problem_id for request in requests)
            raise RunFailed("the first round is enough")

    with pytest.raises(RunFailed, match="enough"):
        run(tmp_path, Watched(), problems=many, stage=stage)
    assert len(asked) == 2 * begun == 2 * len(set(asked))


def test_a_budget_of_hours_is_read_again_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 100))  # every look at the clock takes 100 s
    monkeypatch.setattr("teacher.rounds.monotonic", lambda: float(next(clock)))
    stage = collecting(budget_hours=250 / 3600)
    counts = run(tmp_path / "traces", stage=stage)
    summary = json.loads((tmp_path / "traces" / "funnel.json").read_text())["collection"]
    assert summary["rounds"] == 3 and summary["problems"]["budget"] > 0
    killed = tmp_path / "killed" / "traces"
    with pytest.raises(KeyboardInterrupt):
        run(killed, Teacher(dies_at=85), stage=stage)
    assert [json.loads(line)["round"] for line in (killed / "clock.jsonl").read_text().splitlines()] == [1]
    assert run(killed, stage=stage) == counts
    assert files(killed) == files(tmp_path / "traces")


def test_nothing_more_is_drawn_where_nothing_could_be_kept(tmp_path: Path) -> None:
    hard = STAGE.model_copy(update={"filters": Filters(difficulty=Difficulty(min=0.2, max=0.9, first=2))})
    unread = Problem(id="s1", kind="math", problem="1+1", reference="")
    run(tmp_path, stage=hard, problems=[*PROBLEMS[2:30], PROBLEMS[0], unread])
    told = ended(tmp_path)
    for name, row in told.items():
        if row["first_pass_rate"] != 0.5:
            assert (row["samples"], row["ended"]) == (2, "closed"), name


# ------------------------------------------------------------------------------------- without a reference

BARE = [problem.model_copy(update={"reference": None}) for problem in PROBLEMS]


def test_what_the_first_samples_agree_on_stands_for_a_reference(tmp_path: Path) -> None:
    """A third of the problems get one wrong answer always, a third the right one; a third both, by turns."""
    run(tmp_path, problems=BARE, agreement=0.6, stage=collecting(first=3))
    told, by_name = ended(tmp_path), {}
    for trace in traces(tmp_path):
        assert trace.reference is None
        by_name.setdefault(trace.problem_id, []).append(trace)
    for name, own in by_name.items():
        first = [trace.completion.partition("boxed")[2] for trace in own[:3]]
        elected = max(first, key=first.count)
        share = first.count(elected) / 3
        assert all(trace.measures["agreement"] == round(share, 4) for trace in own)
        for trace in own:
            agrees = trace.completion.endswith(elected)
            assert trace.verdict == ("correct" if agrees else "wrong") and trace.kept <= agrees
        assert told[name]["first_pass_rate"] == pytest.approx(share, abs=1e-4)


def test_where_too_few_agree_nothing_is_kept_or_drawn_on(tmp_path: Path) -> None:
    counts = run(tmp_path, problems=BARE, agreement=0.99, stage=collecting(first=2))
    assert counts["kept"] > 0  # some are always of one mind
    split = {one.problem_id for one in traces(tmp_path) if one.verdict == "bad_reference"}
    assert split and all("agreement" not in t.measures for t in traces(tmp_path) if t.problem_id in split)
    assert all(
        (ended(tmp_path)[name]["samples"], ended(tmp_path)[name]["ended"]) == (2, "closed") for name in split
    )


@pytest.mark.parametrize("fixed", [False, True])
def test_agreement_survives_kills(tmp_path: Path, fixed: bool) -> None:
    stage = STAGE.model_copy(update={"collect": FixedCollect(samples=4)}) if fixed else STAGE
    settings = {"problems": BARE, "agreement": 0.5, "stage": stage}
    run(tmp_path / "whole" / "traces", **settings)
    killed = tmp_path / "killed" / "traces"
    for dies_at in (50, 20):
        with pytest.raises(RunFailed):
            run(killed, Teacher(dies_at, error=RunFailed), **settings)
    run(killed, **settings)
    assert files(killed) == files(tmp_path / "whole" / "traces")


def test_problems_with_a_reference_are_judged_by_it(tmp_path: Path) -> None:
    run(tmp_path / "a" / "traces", agreement=0.5)
    run(tmp_path / "b" / "traces")
    assert files(tmp_path / "a" / "traces") == files(tmp_path / "b" / "traces")


def test_progress_tells_of_each_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("harvest: round") and "problems:" in line
    ]
    assert "goes on" in lines[0] and "tokens to come; next:" in lines[0] and lines[-1].endswith("; done")
