"""Comparisons: who is compared with whom, on what, and what is refused."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from eval.compare import compare, only_bases, read_named_apart, read_results

ROLES = {"base": "base", "small": "base", "teacher": "teacher", "student": "student", "alone": "baseline"}
BASES = {"base": None, "small": None, "teacher": "base", "student": "small", "alone": "small"}
SCORES = {"base": 1, "small": 0, "teacher": 4, "student": 3, "alone": 1}


def summary(model: str, correct: list[int], suite: str = "chains") -> dict[str, Any]:
    problems = [{"id": f"p{at}", "correct": count, "samples": 4} for at, count in enumerate(correct)]
    return {
        "model": model,
        "role": ROLES[model],
        "params": 1000,
        "suite": suite,
        "kind": "math",
        "n": len(correct),
        "k": 4,
        "protocol": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 160, "instruction": None, "seed": 0},
        "pass@1": sum(correct) / 4 / len(correct),
        "ci95": [0.0, 1.0],
        "problems": problems,
    }


def everyone(suite: str = "chains") -> list[dict[str, Any]]:
    """Each model has its own number of right samples on each of 40 problems, less one on every other problem."""
    return [
        summary(model, [max(count - at % 2, 0) for at in range(40)], suite) for model, count in SCORES.items()
    ]


def compared(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    return compare(summaries, BASES, {"student": {"generated_tokens": 5}}, ROLES)  # type: ignore[arg-type]


def test_each_model_is_compared_with_its_base_its_teacher_and_its_rival() -> None:
    pairs = [(row["a"], row["b"]) for row in compared(everyone())["comparisons"]]
    assert sorted(pairs) == [
        ("alone", "small"),
        ("alone", "teacher"),
        ("student", "alone"),
        ("student", "small"),
        ("student", "teacher"),
        ("teacher", "base"),
    ]


def test_differences_are_paired_and_signed() -> None:
    rows = {(row["a"], row["b"]): row for row in compared(everyone())["comparisons"]}
    student = rows["student", "teacher"]
    assert student["difference"] == pytest.approx(-0.25)
    assert student["ci95"][0] < -0.25 < student["ci95"][1] < 0
    assert student["distinguishable"] and (student["n"], student["k"]) == (40, 4)


def test_models_show_role_origin_cost_and_suites() -> None:
    models = compared([*everyone(), *everyone("functions")])["models"]
    assert models["student"]["role"] == "student" and models["student"]["origin"] == "small"
    assert models["student"]["cost"] == {"generated_tokens": 5} and models["base"]["cost"] == {}
    assert set(models["teacher"]["suites"]) == {"chains", "functions"}
    assert models["teacher"]["suites"]["chains"]["pass@1"] == pytest.approx(0.875)


def test_the_stages_of_a_pipeline_are_compared_each_with_those_before_it() -> None:
    names = ["base", "teacher", "student"]
    summaries = [row for row in everyone() if row["model"] in names and row["suite"] == "chains"]
    roles: Any = {"base": "base", "teacher": "teacher", "student": "teacher"}
    found = compare(summaries, {"base": None, "teacher": "base", "student": "base"}, {}, roles)
    pairs = [(row["a"], row["b"]) for row in found["comparisons"]]
    order = [row["model"] for row in summaries if row["model"] != "base"]
    assert sorted(pairs) == sorted([("teacher", "base"), ("student", "base"), (order[1], order[0])])
    assert found["gap_closed"] == []


def test_gap_closed_is_measured_from_the_own_base() -> None:
    gaps = {row["student"]: row for row in compared(everyone())["gap_closed"]}
    assert list(gaps) == ["student", "alone"]  # students first
    assert (gaps["student"]["base"], gaps["student"]["teacher"]) == ("small", "teacher")
    assert gaps["student"]["value"] == pytest.approx((0.625 - 0) / (0.875 - 0))
    low, high = gaps["student"]["ci95"]
    assert low < gaps["student"]["value"] < high


def test_a_model_that_was_not_asked_is_not_compared() -> None:
    summaries = [row for row in everyone() if row["model"] not in ("small", "teacher")]
    result = compared(summaries)
    assert [(row["a"], row["b"]) for row in result["comparisons"]] == [("student", "alone")]
    assert result["gap_closed"] == []


def test_problems_that_could_not_be_graded_leave_the_pair_and_n_says_so() -> None:
    summaries = everyone()
    teacher = next(row for row in summaries if row["model"] == "teacher")
    teacher["problems"][0] |= {"correct": 0, "samples": 0}
    rows = {(row["a"], row["b"]): row for row in compared(summaries)["comparisons"]}
    assert (rows["student", "teacher"]["n"], rows["student", "small"]["n"]) == (39, 40)


def test_the_order_of_problems_does_not_matter() -> None:
    shuffled = everyone()
    shuffled[2]["problems"].reverse()
    assert compared(shuffled)["comparisons"] == compared(everyone())["comparisons"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"protocol": {"max_tokens": 512}}, "max_tokens = 160 and 512"),
        ({"protocol": {"instruction": "Think: {problem}"}}, "instruction"),
        ({"k": 8}, "k = 4 and 8"),
    ],
)
def test_another_protocol_is_refused(change: dict[str, Any], named: str) -> None:
    summaries = everyone()
    for key, value in change.items():
        summaries[2][key] = {**summaries[2][key], **value} if isinstance(value, dict) else value
    with pytest.raises(UserError, match=named) as caught:
        compared(summaries)
    assert caught.value.key == "base and teacher on chains"


def test_another_seed_is_no_other_protocol() -> None:
    summaries = copy.deepcopy(everyone())
    summaries[2]["protocol"]["seed"] = 1
    assert compared(summaries)["comparisons"] == compared(everyone())["comparisons"]


def test_other_problems_are_refused_and_named() -> None:
    summaries = everyone()
    summaries[1]["problems"][3]["id"] = "q3"
    with pytest.raises(
        UserError, match="different problems: 1 of the first alone, 1 of the second"
    ) as caught:
        compared(summaries)
    assert caught.value.value == "p3" and "base and small on chains" in caught.value.key


def test_other_references_of_the_same_problems_are_told_without_fingerprints() -> None:
    summaries = everyone()
    for place, summary in enumerate(summaries):
        summary["protocol"]["problems"] = f"{place}"
    with pytest.raises(UserError, match="of the same ids have another text, reference or tests") as caught:
        compared(summaries)
    assert "recorded responses by one `--suite`" in str(caught.value)


def test_models_without_roles_are_compared_each_with_each_in_their_order() -> None:
    summaries = [row | {"role": "base"} for row in everyone()[:3]]
    nothing_told: Any = dict.fromkeys(("base", "small", "teacher"), "base")
    result = compare(summaries, {}, {}, nothing_told)
    pairs = [(row["a"], row["b"]) for row in result["comparisons"]]
    assert pairs == [("base", "small"), ("base", "teacher"), ("small", "teacher")]
    assert result["gap_closed"] == []


def test_by_hand_nobody_stays_alone() -> None:
    summaries = [row for row in everyone() if row["model"] not in ("small", "teacher")]
    roles: Any = ROLES
    pairs = [
        (row["a"], row["b"]) for row in compare(summaries, BASES, {}, roles, by_hand=True)["comparisons"]
    ]
    assert pairs == [("student", "alone"), ("base", "student"), ("base", "alone")]


def test_two_results_of_one_model_are_refused() -> None:
    with pytest.raises(UserError, match="two results on chains"):
        compared([*everyone(), everyone()[0]])


# ------------------------------------------------------------------------------------ reading results


def test_results_are_found_at_any_depth(tmp_path: Path) -> None:
    for row in everyone():
        folder = tmp_path / "run" / "results" / row["model"] / row["suite"]
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(row))
    (tmp_path / "run" / "report").mkdir()
    (tmp_path / "run" / "report" / "summary.json").write_text("{}")  # the report's, no result
    results = tmp_path / "run" / "results"
    assert len(read_results([tmp_path / "run"])) == 5
    assert len(read_results([results / "base", results / "teacher" / "chains" / "summary.json"])) == 2


def write(folder: Path, *models: str, suite: str = "chains") -> Path:
    for model in models:
        place = folder / "results" / model / suite
        place.mkdir(parents=True)
        (place / "summary.json").write_text(json.dumps(summary(model, [1, 2], suite)))
    return folder


def test_namesakes_of_two_runs_are_called_by_their_runs(tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / "a" / "q", "base", "teacher"),
        write(tmp_path / "b" / "q", "base", "student"),
    )
    found = read_named_apart([first, second, first / "results" / "base"])
    assert [row["model"] for row in found] == ["a/q/base", "teacher", "b/q/base", "student"], (
        "given twice, counted once"
    )
    assert only_bases(found) == {
        "a/q/base": None, "teacher": "a/q/base", "b/q/base": None, "student": "b/q/base",
    }  # fmt: skip
    other = write(tmp_path / "c", "base", suite="functions")
    assert [row["model"] for row in read_named_apart([other, first / "results" / "base"])] == ["base", "base"]


def test_the_only_base_given_is_everybodys(tmp_path: Path) -> None:
    found = read_named_apart([write(tmp_path / "a", "base"), write(tmp_path / "b", "student")])
    assert only_bases(found) == {"base": None, "student": "base"}
    found = read_named_apart([write(tmp_path / "c", "base", "small"), tmp_path / "b"])
    assert only_bases(found)["student"] is None, "nobody knows which"


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no summary\.json"):
        read_results([tmp_path])
    with pytest.raises(UserError, match="there is no such file or folder"):
        read_results([tmp_path / "nowhere"])
    for text, reason in (
        ("{", "cannot be read: is no JSON"),
        ("[]", "it has no model"),
        ('{"model": 1}', "it has no role"),
    ):
        (tmp_path / "summary.json").write_text(text)
        with pytest.raises(UserError, match=reason):
            read_results([tmp_path / "summary.json"])


@pytest.mark.parametrize(
    "spoilt",
    [
        {"role": None}, {"params": "7B"}, {"protocol": None}, {"model": ["a"]}, {"suite": 1}, {"k": "4"}, {"n": -1},
        {"pass@1": float("nan")}, {"pass@1": 9.0}, {"ci95": [0.1]}, {"problems": 5}, {"problems": [{"id": "p0"}]},
        {"problems": [{"id": "p0", "correct": 5, "samples": 4}]},
        {"problems": [{"id": "p0", "correct": 1, "samples": 4}] * 2},
    ],
)  # fmt: skip
def test_a_summary_that_no_evaluation_wrote_is_refused_by_the_key(
    spoilt: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(summary("base", [1, 2]) | spoilt))
    with pytest.raises(UserError, match=rf"its `{re.escape(next(iter(spoilt)))}` is not what"):
        read_results([tmp_path])
