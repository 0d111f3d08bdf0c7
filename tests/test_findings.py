"""The sentences that a comparison is told in: each branch, and that none says more than the figures."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from eval.findings import amount, findings
from eval.published import beside, pairs


def model(params: int, suites: dict[str, float | None], tokens: float = 100.0, **more: Any) -> dict[str, Any]:
    figures = {
        suite: {
            "pass@1": score,
            "ci95": [score - 0.1, score + 0.1] if score is not None else None,
            "n": 200,
            "k": 4,
            "mean_tokens": tokens,
            "tokens_per_correct": tokens / score if score else None,
        }
        for suite, score in suites.items()
    }
    return {"role": "student", "params": params, "origin": None, "cost": {}, "suites": figures, **more}


def row(difference: float, half: float = 0.05, suite: str = "chains", **more: Any) -> dict[str, Any]:
    low, high = difference - half, difference + half
    return {
        "suite": suite, "a": "student", "b": "base", "difference": difference, "ci95": [low, high],
        "distinguishable": low > 0 or high < 0, "n": 200, "k": 4, **more,
    }  # fmt: skip


def told(*rows: dict[str, Any], gaps: tuple[Any, ...] = (), **student: Any) -> list[str]:
    suites = {one["suite"]: 0.5 for one in rows} or {"chains": 0.5}
    scores = {
        suite: 0.5 + sum(one["difference"] for one in rows if one["suite"] == suite) for suite in suites
    }
    models = {
        "student": model(1_500_000, dict(scores), 120.0, **student),
        "base": model(7_000_000_000, dict(suites), 85.0),
    }
    return findings({"models": models, "comparisons": list(rows), "gap_closed": list(gaps)})


def test_the_better_model_its_lead_how_surely_and_the_cost() -> None:
    assert told(row(0.18, p=0.0002)) == [
        "On chains, student is better than base: pass@1 0.680 against 0.500, a lead of 0.180 "
        "(95% interval 0.130 to 0.230, p < 0.001; 200 problems, k = 4).",
        "Cost of student: 1.5M parameters; on chains 120 tokens an answer (176 for each right one).",
        "Cost of base: 7B parameters; on chains 85 tokens an answer (170 for each right one).",
    ]


def test_a_lead_of_the_second_is_told_as_its_lead() -> None:
    sentence = told(row(-0.18, p=0.012))[0]
    assert sentence.startswith(
        "On chains, base is better than student: pass@1 0.500 against 0.320, a lead of 0.180"
    )
    assert "95% interval 0.130 to 0.230, p = 0.012" in sentence


def test_what_cannot_be_told_apart_is_no_lead_and_says_what_it_would_need() -> None:
    sentence = told(row(0.02, p=0.43, detectable=0.07))[0]
    assert sentence == (
        "On chains, student and base cannot be told apart: pass@1 0.520 against 0.500, difference +0.020 "
        "(95% interval -0.030 to 0.070, p = 0.430; 200 problems, k = 4). "
        "A true difference under 0.070 would be seen less than four times in five here. "
        "To tell apart a difference of this size would need about 2,600 problems."
    )


@pytest.mark.parametrize("difference", [0.01, -0.02, 0.03, 0.049])
def test_the_problems_needed_are_those_at_which_the_test_has_a_power_of_four_fifths(
    difference: float,
) -> None:
    """Against a slow twin: more problems until power reaches 0.8 of a normal test at 5%."""
    found = re.search(r"about ([\d,]+) problems", told(row(difference))[0])
    assert found
    needed = int(found[1].replace(",", ""))
    spread = 0.05 / 1.959964 * math.sqrt(200)  # of one problem

    def power(problems: int) -> float:
        z = abs(difference) / (spread / math.sqrt(problems))
        return 0.5 * math.erfc((1.959964 - z) / math.sqrt(2))

    problems = 200
    while power(problems) < 0.8:
        problems += 1
    assert needed == pytest.approx(problems, rel=0.06)  # told in two digits


def test_no_number_of_problems_is_made_up_for_no_difference() -> None:
    assert told(row(0.0))[0].endswith("no number of problems can be told that would separate them.")
    assert told(row(0.0001))[0].endswith("would need more than a million problems.")


def test_a_row_without_p_says_nothing_of_it() -> None:
    assert " p " not in told(row(0.18))[0]


def test_several_suites_are_counted_first() -> None:
    found = told(row(0.18), row(-0.1, suite="functions"), row(0.01, suite="gsm8k"))
    assert found[0] == (
        "Over 3 suites, student is better than base on 1 and worse on 1; on 1 they cannot be told apart."
    )
    assert [sentence.split(",")[0] for sentence in found[1:4]] == ["On chains", "On functions", "On gsm8k"]


def test_a_model_alone_is_told_with_its_interval() -> None:
    models = {"student": model(10, {"chains": 0.5, "writing": None})}
    assert findings({"models": models, "comparisons": [], "gap_closed": []})[:1] == [
        "On chains, student has pass@1 0.500 (95% interval 0.400 to 0.600; 200 problems, k = 4), "
        "with no other model to compare it with."
    ]


def test_what_one_model_alone_was_asked_is_told_beside_pairs() -> None:
    models = {
        "student": model(10, {"chains": 0.68, "gsm8k": 0.5}),
        "base": model(10, {"chains": 0.5}),
        "teacher": model(10, {"chains": 0.6}),
    }
    found = findings({"models": models, "comparisons": [row(0.18)], "gap_closed": []})
    assert [sentence for sentence in found if "no other model" in sentence] == [
        "On gsm8k, student has pass@1 0.500 (95% interval 0.400 to 0.600; 200 problems, k = 4), "
        "with no other model to compare it with."
    ]


def test_what_a_recording_does_not_state_is_told_of_leads_and_of_ties() -> None:
    for difference in (0.18, 0.01):
        [sentence, *_] = told(row(difference, not_stated=["top_p"]))
        assert sentence.endswith(". Whether both were asked alike is not known: not stated is top_p.")
    assert "asked alike" not in " ".join(told(row(0.18, not_stated=[])))


@pytest.mark.parametrize(
    ("value", "interval", "reason", "sentence"),
    [
        (
            0.8,
            [0.7, 1.05],
            "",
            "student closes 0.80 of the gap between base and teacher (95% interval 0.70 to 1.05).",
        ),
        (
            0.8,
            None,
            "not sure",
            "student closes 0.80 of the gap between base and teacher (no interval: not sure).",
        ),
        (
            None,
            None,
            "no lead",
            "what student closes of the gap between base and teacher cannot be told: no lead.",
        ),
    ],
)
def test_gaps_closed(value: Any, interval: Any, reason: str, sentence: str) -> None:
    gap = {"suite": "chains", "student": "student", "base": "base", "teacher": "teacher"}
    found = told(row(0.2), gaps=(gap | {"value": value, "ci95": interval, "reason": reason},))
    assert f"On chains, {sentence}" in found


def test_what_making_a_model_took() -> None:
    cost = {"generated_tokens": 0, "trained_tokens": 1_200_000}
    making = "making it took 0 generated and 1.2M trained tokens"
    assert told(row(0.2), cost=cost)[1].endswith(f"; {making}.")
    cost |= {"with_teacher": {"generated_tokens": 5_000_000, "trained_tokens": 4_000_000}}  # type: ignore[dict-item]
    assert told(row(0.2), cost=cost)[1].endswith(f"; {making}, 9M with what its teacher took.")


def test_what_a_reader_asks_first_is_told_first() -> None:
    roles = {"student": "student", "base": "base", "teacher": "teacher"}
    models = {name: model(10, {"chains": 0.5}) | {"role": role} for name, role in roles.items()}
    pairs = [("teacher", "base"), ("base", "teacher"), ("student", "teacher"), ("student", "base")]
    rows = [row(0.2) | {"a": a, "b": b} for a, b in pairs]
    found = findings({"models": models, "comparisons": rows, "gap_closed": []})
    assert [re.findall(r"(\w+) is better than (\w+)", sentence)[0] for sentence in found[:4]] == [
        ("student", "base"), ("student", "teacher"), ("teacher", "base"), ("base", "teacher"),
    ]  # fmt: skip


def test_a_win_rate_is_told_with_judge_interval_and_whose_length_control() -> None:
    models = {"student": model(10, {"alpaca_eval2": None})}
    rate = {"value": 0.4, "ci95": [0.35, 0.45], "length_controlled": 0.38, "judge": "llama", "note": "Told."}
    rate |= {"n": 805}
    models["student"]["suites"]["alpaca_eval2"]["win_rate"] = rate
    assert findings({"models": models, "comparisons": [], "gap_closed": []})[1:] == [
        "On alpaca_eval2, student wins 0.400 of the comparisons that llama judged "
        "(95% interval 0.350 to 0.450; 0.380 with our own length control; 805 problems). Told."
    ]


def test_published_figures_are_told_by_verdict_and_their_lack_too() -> None:
    protocol = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 32768}
    problems = [{"id": f"p{at}", "samples": 8} for at in range(30)]
    summary = {
        "model": "student", "suite": "aime24", "k": 8, "pass@1": 0.3, "ci95": [0.295, 0.4], "problems": problems,
        "protocol": protocol,
    }  # fmt: skip
    other = "DeepSeek-R1-Dev1"
    named = ["DeepSeek-R1-Distill-Qwen-1.5B", other]
    paired = pairs(named, ["student"], {})
    models = {"student": model(10, {"aime24": 0.3})}
    compared = {"models": models, "comparisons": [], "gap_closed": [], "published": beside([summary], paired)}
    own, above, apart, below = findings(compared, paired)[2:]
    name = named[0]
    assert own == (
        f"The published figures of {name} lie inside the intervals of student: aime24, pass@1 30.7% in replication "
        "(measured 0.300, 0.295 to 0.400)."
    )
    assert above.startswith(
        f"student is above {name} as published: aime24, pass@1 28.9% in v1 (measured 0.300"
    )
    assert apart == (
        f"student and {name} as published cannot be compared: aime24, cons@64 52.7% in v1 "
        "(cons@64 needs 64 samples of each problem, here are 8)."
    )
    assert below.startswith(f"student is below {other} as published: aime24, pass@1 59% in v2")
    nothing = findings(compared | {"published": []}, [("student", "DeepSeek-V3")])
    assert nothing[-1] == "Nothing that could stand beside student on aime24 is published of DeepSeek-V3."


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (85.25, "85.2"), (999.7, "1k"), (1000, "1k"), (340_000, "340k"), (2.5e12, "2.5T")],
)
def test_amounts(count: float, text: str) -> None:
    assert amount(count) == text


def test_scores_and_lead_are_of_the_same_problems() -> None:
    """A model's own pass@1 may be over more of them: the teacher could be graded on others than the student."""
    first = told(row(0.18, p=0.0002, scores=[0.31, 0.13]))[0]
    assert "pass@1 0.310 against 0.130, a lead of 0.180" in first
    assert "10 more left out as not graded for both" in told(row(0.18, left_out=10))[0]
    turned = told(row(-0.18, p=0.0002, scores=[0.13, 0.31]))[0]
    assert "base is better than student: pass@1 0.310 against 0.130, a lead of 0.180" in turned


def test_more_problems_than_were_asked_are_needed_where_they_told_nothing() -> None:
    [sentence, *_] = told(row(1.0, half=1.2, n=2) | {"ci95": [-0.1, 1.0]})
    assert "would need about 3 problems" in sentence
