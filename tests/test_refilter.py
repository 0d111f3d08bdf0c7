"""A finished set decided anew from disk: same as deciding at once, nothing measured twice, and what-if."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.cli import main
from distill.errors import UserError
from distill.recipe_filters import Filters
from distill.records import Trace, Verdict
from distill.shards import read_parquet
from teacher import facts as facts_module
from teacher import reading
from teacher.contamination import Passage, Suites
from teacher.measures import measure
from teacher.refilter import refilter, settings_of, what_if
from teacher.trace_set import write_trace_set

THOUGHTS = [
    "We add the two numbers, and since there is nothing to carry, we are done with it here.",
    "Let me think about this again, as the sum was not what I wanted to see in the first place.",
    "First we look at both of them, one after the other, and see which of the two is larger than nine.",
    "我们需要计算这两个数的和。然后检查结果是否正确。",
    "I check it. " * 60,
]
EXAM = "A farmer has 17 hens and buys half as many ducks at the market, how many birds has he got now?"
SUITES = Suites([Passage("exam", "e1", "question", EXAM)])
STRICT = Filters.model_validate(
    {
        "language": True, "repetition": True, "readable": True, "near_duplicates": True, "decontaminate": ["exam"],
        "difficulty": {"max": 0.9, "first": 2}, "tokens": {"max": 2000},
    }
)  # fmt: skip


def traces(problems: int = 6) -> list[Trace]:
    rows = []
    for problem in range(problems):
        for sample, thought in enumerate(THOUGHTS):
            own = "" if problem > 3 else " and ".join(letter * (problem + 2) for letter in "bcdfghjklmnpqrst")
            text = f"<think>{thought} {own} {'x' * sample}</think>5"
            asked = EXAM if problem == 3 else f"What is {problem} + 2?"
            rows.append(
                Trace(
                    id=f"p{problem}#{sample}",
                    problem_id=f"p{problem}",
                    kind="math",
                    problem=asked,
                    completion=text,
                    tokens=len(text),
                    finish_reason="stop",
                    teacher="t",
                    sample_index=sample,
                    source="ab"[problem % 2],
                    verdict=Verdict.WRONG if sample == 0 and problem else Verdict.CORRECT,
                    measures=measure(text, None) | {"well_formed": 1.0},
                )
            )  # fmt: skip
    return rows


def write(
    folder: Path, filters: Filters, cap: int | None = None, suites: Suites | None = None
) -> dict[str, Any]:
    return write_trace_set(folder, traces(), filters, cap, {"teacher": "t"}, suites=suites)


def decisions(folder: Path) -> dict[str, str]:
    return {row.id: row.reason for row in read_parquet(folder / "traces.parquet")}


def test_filtering_anew_is_deciding_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "loose", Filters())
    at_once = write(tmp_path / "strict", STRICT, 2, SUITES)
    funnel = refilter(tmp_path / "loose", tmp_path / "anew", STRICT, 2, SUITES)
    names = {"traces.parquet", "funnel.json", "README.md", "contamination.jsonl", "signatures.u32"}
    for folder in ("strict", "anew"):
        assert {path.name for path in (tmp_path / folder).iterdir()} == names
    assert decisions(tmp_path / "anew") == decisions(tmp_path / "strict")
    assert list(read_parquet(tmp_path / "anew" / "traces.parquet")) == list(
        read_parquet(tmp_path / "strict" / "traces.parquet")
    )
    same = ("input", "steps", "kept", "verdicts", "sources", "examples", "suites", "settings")
    assert all(funnel[name] == at_once[name] for name in same)
    assert set(decisions(tmp_path / "strict").values()) >= {
        "", "language", "repetition", "decontaminate", "near_duplicates", "verified", "difficulty",
    }  # fmt: skip

    def read_again(*arguments: Any) -> None:
        raise AssertionError("texts are read again")

    monkeypatch.setattr(reading, "read", read_again)
    monkeypatch.setattr(facts_module, "measure", read_again)
    again = refilter(tmp_path / "anew", tmp_path / "third", STRICT, 2, SUITES)
    assert decisions(tmp_path / "third") == decisions(tmp_path / "strict")
    assert {path.name for path in (tmp_path / "third").iterdir()} == names
    assert again["kept"] == at_once["kept"]
    loosened = refilter(tmp_path / "anew", tmp_path / "fourth", Filters(), None, None)
    assert decisions(tmp_path / "fourth") == decisions(tmp_path / "loose") and loosened["suites"] == {}
    assert not (tmp_path / "fourth" / "contamination.jsonl").exists()


def test_the_ledger_tells_what_overlaps(tmp_path: Path) -> None:
    write(tmp_path / "set", STRICT, None, SUITES)
    ledger = [json.loads(line) for line in (tmp_path / "set" / "contamination.jsonl").open()]
    assert [row["trace"] for row in ledger] == [f"p3#{sample}" for sample in range(5)]
    assert ledger[0] | {"words": ""} == {
        "trace": "p3#0", "in": "problem", "suite": "exam", "problem_id": "e1", "part": "question", "words": "",
        "share": 1.0,
    }  # fmt: skip


def test_another_text_of_the_suite_is_compared_again(tmp_path: Path) -> None:
    write(tmp_path / "set", STRICT, None, SUITES)
    other = Suites([Passage("exam", "e1", "question", EXAM.replace("17", "19"))])
    funnel = refilter(tmp_path / "set", tmp_path / "anew", STRICT, None, other)
    step = next(step for step in funnel["steps"] if step["filter"] == "decontaminate")
    assert step["removed"] == 0 and not (tmp_path / "anew" / "contamination.jsonl").exists()


def test_without_out_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path / "set", Filters())
    before = {path: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    funnel = refilter(tmp_path / "set", None, STRICT, 1, SUITES, price=3.0)
    assert funnel["cost"]["price_per_million"] == 3.0
    assert {path: path.read_bytes() for path in (tmp_path / "set").iterdir()} == before


def test_the_settings_of_a_set_are_where_filtering_starts(tmp_path: Path) -> None:
    write(tmp_path / "set", STRICT, 2, SUITES)
    assert settings_of(tmp_path / "set") == (STRICT, 2)
    with pytest.raises(UserError, match=r"holds no traces\.parquet"):
        settings_of(tmp_path)


def test_what_if_is_what_filtering_would_keep(tmp_path: Path) -> None:
    write(tmp_path / "set", STRICT, 2, SUITES)
    told = what_if(tmp_path / "set", STRICT, 2, SUITES)
    assert told.keys() == {
        "tokens.max", "language.min", "repetition.max", "repetition.loop", "readable.paragraph", "difficulty.min",
        "difficulty.max", "near_duplicates.similarity", "keep_per_problem",
    }  # fmt: skip
    now = refilter(tmp_path / "set", None, STRICT, 2, SUITES)["kept"]["traces"]
    assert {kept[next(value for value in kept if "now" in value)] for kept in told.values()} == {now}
    changed = STRICT.model_copy(update={"language": STRICT.language.model_copy(update={"min": 0.5})})
    assert (
        told["language.min"]["0.5"] == refilter(tmp_path / "set", None, changed, 2, SUITES)["kept"]["traces"]
    )
    assert told["keep_per_problem"]["1"] < told["keep_per_problem"]["4"]


def test_many_traces_are_read_by_other_processes_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "alone", STRICT, 2, SUITES)
    monkeypatch.setattr(reading, "ALONE", 5)
    monkeypatch.setattr(reading, "_AT_ONCE", 2)
    write(tmp_path / "beside", STRICT, 2, SUITES)
    for name in ("signatures.u32", "contamination.jsonl", "funnel.json"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "beside" / name).read_bytes()
    assert decisions(tmp_path / "alone") == decisions(tmp_path / "beside")


# ------------------------------------------------------------------------------------ the command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "set", Filters())
    exam = tmp_path / "exam.jsonl"
    exam.write_text(json.dumps({"id": "e1", "problem": EXAM, "reference": "25"}) + "\n")
    suite = ["--set", f"suites.exam.path={exam}", "--set", "suites.exam.kind=math"]
    more = ["--set", "filters.decontaminate=[exam]", "--set", "filters.language=true", *suite]
    arguments = ["traces", "filter", str(tmp_path / "set"), "--out", str(tmp_path / "new"), *more]
    assert main([*arguments, "--set", "keep_per_problem=1", "--json"]) == 0
    funnel = json.loads(capsys.readouterr().out)
    assert [step["filter"] for step in funnel["steps"]][-3:] == [
        "decontaminate",
        "duplicates",
        "keep_per_problem",
    ]
    assert funnel["kept"]["traces"] == 5 and funnel["settings"]["keep_per_problem"] == 1
    assert main(["traces", "filter", str(tmp_path / "new"), *suite, "--what-if"]) == 0
    assert "language.min" in capsys.readouterr().out
    assert main(["traces", "filter", str(tmp_path / "set"), "--what-if"]) == 0
    assert "no filter with a threshold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "filters.repetition.maxx=1"], "did you mean `max`"),
        (["--set", "filters.language.target=xx"], "there is no language `xx`"),
        (["--set", "filters.tokens={min: 9, max: 3}"], "is above max=3"),
        (["--set", "filters.decontaminate=[aime42]"], "did you mean `aime25`"),
        (["--set", "filter.readable=true"], "did you mean `filters`"),
        (["--set", "filters.near_duplicates.similarity=0.2"], "at least 0.5"),
        (["--out", "OLD"], "holds other things"),
        (["--out", "NEW", "--what-if"], "--what-if writes nothing"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    write(tmp_path / "OLD", Filters())
    more = [str(tmp_path / word) if word in ("OLD", "NEW") else word for word in more]
    assert main(["traces", "filter", str(tmp_path / "OLD"), *more]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["OLD"]


def test_a_window_of_more_samples_than_are_drawn_is_a_mistake() -> None:
    from tiny_recipe import tiny_recipe

    with pytest.raises(UserError, match="a problem has only 2 samples"):
        tiny_recipe("stages.harvest.filters.difficulty.first=3")
