"""The registry of published figures: that it says what its sources say, who stands beside whom, and the verdicts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.cli import main
from distill.errors import UserError
from eval.published import beside, cells, check_names, pairs, published_as_lines, registry

R1_QWEN = "DeepSeek-R1-Distill-Qwen-1.5B"

Told = set[tuple[str, str, str, str, float]]  # model, suite, metric, version, value

# ------------------------------------------------------------------------------------ against the notes


@pytest.fixture
def facts(shared_data: Path) -> str:
    notes = shared_data.parent / "facts" / "r1.md"
    if not notes.is_file():
        pytest.skip(f"the notes on the paper's tables are not here: {notes}")
    return notes.read_text(encoding="utf-8")


def written() -> Told:
    return {
        (model, cell.suite, cell.metric, cell.version, cell.value)
        for model, found in registry().models.items()
        for cell in found
    }


def full_name(short: str) -> str:
    """As the registry calls a model of the table of results."""
    if re.match(r"(Qwen|Llama)-", short):
        return f"DeepSeek-R1-Distill-{short}"
    return {"o1-mini": "OpenAI-o1-mini", "o1-1217": "OpenAI-o1-1217"}.get(
        short, f"DeepSeek-R1-{short}" if short.startswith("Zero-") else short
    )


COLUMNS = (
    ("AIME 2024", "pass@1"),
    ("AIME 2024", "cons@64"),
    ("MATH-500", "pass@1"),
    ("GPQA-Diamond", "pass@1"),
    ("LiveCodeBench", "pass@1"),
    ("Codeforces", "rating"),
)


def of_results(facts: str) -> Told:
    """Section B6: `50.0 [PDF] / 44.0 [README]` is two cells, `2029 (96.3 pct)` a rating with its percentile."""
    section = facts.partition("### B6")[2]
    told: Told = set()
    for line in section.splitlines():
        parts = [part.strip() for part in line.strip("|").split("|")]
        if not line.startswith("|") or len(parts) != 7 or parts[0] in ("Model", "---"):
            continue
        model = full_name(re.sub(r" \(.*\)", "", parts[0]))
        for (suite, metric), text in zip(COLUMNS, parts[1:], strict=True):
            for piece in text.split("/"):
                version = "readme" if "[README]" in piece else "v1"
                if number := re.match(r"\s*([\d.]+)", piece):
                    told.add((model, suite, metric, version, float(number[1])))
                if percentile := re.search(r"\(([\d.]+)", piece):
                    told.add((model, suite, "percentile", version, float(percentile[1])))
    two = re.search(r"README main table prints LCB ([\d.]+)/([\d.]+) .*? print ([\d.]+)/(\d+\.\d)", section)
    assert two
    for model, in_main, in_own in (
        ("Claude-3.5-Sonnet-1022", two[1], two[3]),
        ("GPT-4o-0513", two[2], two[4]),
    ):
        told |= {(model, "LiveCodeBench", "pass@1", "readme", float(value)) for value in (in_main, in_own)}
    return told


def of_other_suites(facts: str) -> Told:
    line = next(line for line in facts.splitlines() if line.startswith("R1 others [PDF]"))
    names = {
        "MMLU": ("MMLU", "pass@1"),
        "MMLU-Pro": ("MMLU-Pro", "pass@1"),
        "AlpacaEval2 LC": ("AlpacaEval 2", "lc_win_rate"),
        "ArenaHard": ("ArenaHard", "win_rate"),
        "SWE-V": ("SWE-bench Verified", "resolved"),
        "IF-Eval": ("IF-Eval", "pass@1"),
    }
    found = re.findall(r"([A-Z][\w -]*?) ([\d.]+\d)[,.]", line.partition(":")[2])
    return {("DeepSeek-R1", *names[name], "v1", float(value)) for name, value in found}


def of_stages(facts: str) -> Told:
    line = next(line for line in facts.splitlines() if line.startswith("Stage results"))
    names = {
        "AIME24": ("AIME 2024", "pass@1"),
        "MATH-500": ("MATH-500", "pass@1"),
        "GPQA-D": ("GPQA-Diamond", "pass@1"),
        "LCB": ("LiveCodeBench", "pass@1"),
        "CF rating": ("Codeforces", "rating"),
        "CF pct": ("Codeforces", "percentile"),
        "IF-Eval": ("IF-Eval", "pass@1"),
        "AlpacaEval2 LC": ("AlpacaEval 2", "lc_win_rate"),
        "ArenaHard": ("ArenaHard", "win_rate"),
        "MMLU": ("MMLU", "pass@1"),
    }
    stages = [f"DeepSeek-R1{end}" for end in ("-Zero", "-Dev1", "-Dev2", "-Dev3", "")]
    told: Told = set()
    for part in line.partition("]: ")[2].rstrip(".").split(";"):
        name, values = part.strip().rsplit(" ", 1)
        figures = [float(value) for value in values.split("/")]
        told |= {(model, *names[name], "v2", value) for model, value in zip(stages, figures, strict=True)}
    return told


def of_zero(facts: str) -> Told:
    line = next(line for line in facts.splitlines() if line.startswith("Version trap"))
    pattern = (
        r"AIME ([\d.]+) pass@1, ([\d.]+) cons@64, LCB ([\d.]+), GPQA ([\d.]+), CF (\d+) .*\((.*) self-consist"
    )
    found = re.search(pattern, line)
    assert found
    one, vote, code, science, rating, consistent = map(float, found.groups())
    zero = "DeepSeek-R1-Zero"
    return {
        (zero, "AIME 2024", "pass@1", "v1", one),
        (zero, "AIME 2024", "cons@64", "v1", vote),
        (zero, "LiveCodeBench", "pass@1", "v1", code),
        (zero, "GPQA-Diamond", "pass@1", "v1", science),
        (zero, "Codeforces", "rating", "v1", rating),
        (zero, "AIME 2024", "self_consistency", "v2", consistent),
    }


def of_replication(facts: str) -> Told:
    line = next(line for line in facts.splitlines() if line.startswith("Replication by lighteval"))
    models = [full_name(short) for short in ("Qwen-1.5B", "Qwen-7B", "Qwen-14B", "Qwen-32B")]
    models += [full_name("Llama-8B"), full_name("Llama-70B")]
    names = {"AIME": "AIME 2024", "MATH-500": "MATH-500", "LCB": "LiveCodeBench"}
    told: Told = set()
    for name, values in re.findall(r"(AIME|MATH-500|LCB) ((?:[\d.]+/){5}[\d.]+\d)", line):
        figures = [float(value) for value in values.split("/")]
        told |= {
            (model, names[name], "pass@1", "replication", value)
            for model, value in zip(models, figures, strict=True)
        }
    return told


def test_the_registry_is_what_the_notes_say_and_nothing_else(facts: str) -> None:
    parts = [of(facts) for of in (of_results, of_other_suites, of_stages, of_zero, of_replication)]
    assert [len(part) for part in parts] == [88, 6, 50, 6, 18], "a table was not read whole"
    told = set().union(*parts)
    assert written() - told == set(), "cells that no note has"
    assert told - written() == set(), "notes without a cell"


def test_every_cell_has_a_source_that_is_spelled_out() -> None:
    known = registry()
    for found in known.models.values():
        for cell in found:
            assert known.sources[cell.source] and cell.version
            assert 0 <= cell.value <= 100 if cell.unit == "percent" else 500 < cell.value < 4000


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("source", None, "source"),
        ("source", "hearsay", "hearsay"),
        ("protocol", "nobody's", "nobody's"),
        ("unit", "fraction", "unit"),
        ("rank", 1, "rank"),
    ],
)
def test_a_cell_that_is_wrong_is_refused(tmp_path: Path, key: str, value: Any, reason: str) -> None:
    raw = yaml.safe_load(Path("eval/published.yaml").read_text(encoding="utf-8"))
    cell = raw["models"]["DeepSeek-R1"][0]
    cell[key] = value
    if value is None:
        del cell[key]
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        registry(file)


def test_versions_that_disagree_are_kept_apart() -> None:
    zero = {
        cell.version: cell.value for cell in cells("DeepSeek-R1-Zero", "aime24") if cell.metric == "pass@1"
    }
    assert zero == {"v1": 71.0, "v2": 77.9}
    code = [cell for cell in cells("GPT-4o-0513", "livecodebench") if cell.version == "readme"]
    assert sorted(cell.value for cell in code) == [32.9, 34.2]  # the README's two tables


# ------------------------------------------------------------------------------------ who beside whom


def test_an_unknown_model_is_refused_with_near_names() -> None:
    with pytest.raises(UserError, match=f"did you mean .*{R1_QWEN}"):
        check_names("stages.report.published", ["DeepSeek-R1-Distil-Qwen-1.5B"])
    check_names("stages.report.published", [R1_QWEN])


def test_a_model_stands_beside_its_own_figures_and_any_other_beside_each() -> None:
    named = ["DeepSeek-R1", R1_QWEN]
    places = {"teacher": "deepseek-ai/DeepSeek-R1@0123456789abcdef", "student": "runs/x/models/student"}
    assert pairs(named, ["teacher", "student", f"run1/{R1_QWEN}"], places) == [
        ("teacher", "DeepSeek-R1"),
        ("student", "DeepSeek-R1"),
        ("student", R1_QWEN),
        (f"run1/{R1_QWEN}", R1_QWEN),
    ]


def test_explicit_pairs_stand_alone_and_name_what_was_measured() -> None:
    assert pairs({"student": R1_QWEN}, ["base", "student"], {}) == [("student", R1_QWEN)]
    with pytest.raises(UserError, match="was not measured; measured are base"):
        pairs({"student": R1_QWEN}, ["base"], {})


# ------------------------------------------------------------------------------------ verdicts


def summary(**changed: Any) -> dict[str, Any]:
    protocol = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 32768, "instruction": None, "seed": 0}
    protocol |= changed.pop("protocol", {})
    problems = [{"id": f"p{at}", "correct": 0, "samples": 64} for at in range(changed.pop("problems", 30))]
    return {
        "model": "student", "suite": "aime24", "k": 64, "pass@1": 0.30, "ci95": [0.20, 0.40], "truncated": 0.1,
        "protocol": protocol, "problems": problems, **changed,
    }  # fmt: skip


def verdict(
    name: str = R1_QWEN, metric: str = "pass@1", version: str = "v1", **changed: Any
) -> tuple[str, str]:
    rows = beside([summary(**changed)], [("student", name)])
    row = next(row for row in rows if (row["metric"], row["version"]) == (metric, version))
    return row["verdict"], row["why"]


@pytest.mark.parametrize(
    ("interval", "found"),
    [
        ([0.2, 0.4], "inside"),
        ([0.289, 0.4], "inside"),
        ([0.2, 0.289], "inside"),
        ([0.29, 0.4], "above"),
        ([0.1, 0.28], "below"),
    ],
)
def test_the_verdict_says_where_the_measured_interval_lies(interval: list[float], found: str) -> None:
    assert verdict(ci95=interval)[0] == found  # 28.9 percent is published


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"protocol": {"temperature": 1.0}}, "temperature 1 here, 0.6 there"),
        ({"protocol": {"temperature": None}}, "temperature is not known here, 0.6 there"),
        ({"protocol": {"top_p": 1.0}}, "top_p 1 here, 0.95 there"),
        ({"protocol": {"max_tokens": 4096}}, "max_tokens 4096 here, 32768 there"),
        ({"protocol": {"max_tokens": 65536}}, "max_tokens 65536 here, 32768 there"),
        ({"problems": 10}, "10 problems here, all 30 there"),
        ({"pass@1": None, "ci95": None}, "no pass@1 was measured"),
    ],
)
def test_what_was_measured_otherwise_is_not_compared(changed: dict[str, Any], why: str) -> None:
    found, told = verdict(**changed)
    assert found == "not comparable" and why in told


def test_knowing_less_gives_no_firmer_verdict() -> None:
    """A recording that states nothing is not comparable with a figure that states nothing either."""
    unknown = {"temperature": None, "top_p": None, "max_tokens": None}
    for version in ("v1", "replication"):
        found, told = verdict(version=version, protocol=unknown)
        assert found == "not comparable" and "temperature is not known here" in told
    assert verdict(version="replication")[0] == "inside"  # known here, not stated there: told and lived with


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            {"protocol": {"max_tokens": 32000}},
            "max_tokens 32000 here",
        ),  # the prompt took the rest of the context
        ({"protocol": {"max_tokens": 4096}, "truncated": 0.0}, "max_tokens 4096 here"),  # and nothing was cut
    ],
)
def test_a_token_limit_that_cut_nothing_is_told_and_lived_with(changed: dict[str, Any], why: str) -> None:
    found, told = verdict(**changed)
    assert found == "inside" and why in told


def test_another_k_leaves_pass_at_1_but_not_a_vote_comparable() -> None:
    assert verdict("DeepSeek-R1", version="v2", k=8, ci95=[0.7, 0.9]) == ("inside", "k = 8 here, 64 there")
    found, told = verdict(metric="cons@64", k=8)
    assert found == "not comparable" and "cons@64 needs 64 samples" in told
    assert verdict(metric="cons@64", **{"cons@k": 0.5}) == (
        "not comparable",
        "the measured cons@64 has no interval",
    )
    assert verdict(metric="cons@64", **{"cons@k": 0.5, "cons@k_ci95": [0.4, 0.6]})[0] == "inside"


def test_problems_of_another_window_are_not_the_same() -> None:
    suite: dict[str, Any] = {"suite": "livecodebench", "pass@1": 0.17}
    assert "window is not known here" in verdict(**suite)[1]
    other = verdict(**suite, protocol={"window": ["2024-08", "2025-05"]})
    assert other == ("not comparable", "window 2024-08 to 2025-05 here, 2024-08 to 2025-01 there")
    assert verdict(**suite, ci95=[0.1, 0.2], protocol={"window": ["2024-08-01", "2025-01-31"]})[0] == "inside"


def test_a_rating_on_other_problems_is_not_held_against_a_published_one() -> None:
    """The paper's contests are not named, so that no suite of ours can be known to have its problems."""
    rating = {"value": 1000, "ci95": [900, 1100]}
    found = verdict(suite="codeforces", metric="rating", rating=rating)
    assert found == ("not comparable", "which problems were asked there is not known")


def test_problems_without_a_graded_sample_are_not_the_published_problems() -> None:
    ungraded = summary()
    for row in ungraded["problems"][:3]:
        row["samples"] = 0
    [first, *_] = beside([ungraded], [("student", R1_QWEN)])
    assert (first["verdict"], first["why"]) == (
        "not comparable", "3 of the 30 problems could not be graded here"
    )  # fmt: skip


def test_ratings_are_held_against_ratings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.published._problems_apart", lambda *_: [])
    suite: dict[str, Any] = {"suite": "codeforces", "metric": "rating"}
    assert verdict(**suite, rating={"value": 1000, "ci95": [900, 1100]})[0] == "inside"  # 954 is published
    assert verdict(**suite, rating={"value": None, "ci95": [None, 900]})[0] == "not comparable"
    assert verdict(**suite, rating={"value": 2500, "ci95": [2000, None]})[0] == "above"
    assert verdict(**suite, rating={"value": 800, "ci95": [None, 1000]})[0] == "inside"
    assert verdict(**suite) == ("not comparable", "no rating was measured")
    rated = summary(suite="codeforces", rating={"value": 2500, "ci95": [2000, None]})
    (line,) = published_as_lines(beside([rated], [("student", R1_QWEN)]))
    assert line.startswith(f"codeforces rating: student 2500 [2000, open]; {R1_QWEN} 954 (v1): above")


def test_a_judged_suite_never_stands_beside_the_published_win_rate() -> None:
    judged = summary(
        suite="alpaca_eval2", win_rate={"value": 0.5, "ci95": [0.4, 0.6], "length_controlled": 0.4}
    )
    assert cells("DeepSeek-R1", "alpaca_eval2")
    assert beside([judged], [("student", "DeepSeek-R1")]) == []


def test_lines_say_value_interval_version_and_verdict() -> None:
    lines = published_as_lines(beside([summary()], [("student", R1_QWEN)]))
    assert lines[0].startswith(
        f"aime24 pass@1: student 0.300 [0.200, 0.400]; {R1_QWEN} 28.9% (v1): inside (k is said"
    )
    assert "30.7% (replication): inside" in lines[2]


# ------------------------------------------------------------------------------------ the command


@pytest.fixture
def results(tmp_path: Path) -> str:
    """A student and its base on AIME 2024 as evaluations leave them, the student's scores near the published ones."""
    for name, role, right in (("student", "student", 20), ("base", "base", 5)):
        problems = [{"id": f"p{at}", "correct": right * (at % 2), "samples": 64} for at in range(30)]
        score = right / 2 / 64
        whole = summary(model=name, ci95=[max(score - 0.1, 0.0), score + 0.1], **{"pass@1": score}) | {
            "role": role,
            "params": 1_777_088_000,
            "kind": "math",
            "n": 30,
            "problems": problems,
            "mean_tokens": 9000.0,
            "tokens_per_correct": 9000 / score,
        }
        folder = tmp_path / "run" / "results" / name / "aime24"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(whole))
    return str(tmp_path / "run")


def test_compare_prints_findings_first_and_published_figures_last(
    results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", results, "--published", f"student={R1_QWEN}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "On aime24, student is better than base: pass@1 0.156 against 0.039, a lead of 0.117"
    )
    assert lines[1].startswith(
        "Cost of base: 1.78B parameters; on aime24 9k tokens an answer (230k for each right"
    )
    assert lines[3].startswith(f"student is below {R1_QWEN} as published: aime24, pass@1 28.9% in v1")
    assert lines[-1].startswith(
        f"aime24 pass@1: student 0.156 [0.056, 0.256]; {R1_QWEN} 30.7% (replication): below"
    )


def test_compare_takes_several_published_models_and_tells_both_in_json(
    results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", results, "--published", f"DeepSeek-R1,{R1_QWEN}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    beside_whom = {(row["measured_model"], row["published_model"]) for row in told["published"]}
    assert beside_whom == {(m, p) for m in ("student", "base") for p in ("DeepSeek-R1", R1_QWEN)}
    assert any(f"below {R1_QWEN} as published" in sentence for sentence in told["findings"])
    assert main(["compare", results, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["published"] == []


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("DeepSeek-R2", "did you mean"),
        (f"teacher={R1_QWEN}", "was not measured"),
        (f"student={R1_QWEN},DeepSeek-R1", "some models alone and some in pairs"),
        (f"student={R1_QWEN},student=DeepSeek-R1", "or one twice"),
    ],
)
def test_compare_refuses_what_it_cannot_place(
    given: str, reason: str, results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", results, "--published", given]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_recipe_with_an_unknown_published_model_is_refused_at_once(
    command: str, tiny_recipe_module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, reason in (
        ("[DeepSeek-R2]", "no figures of a model of that name"),
        ("{nobody: DeepSeek-R1}", "is not measured by stage `exam`"),
    ):
        file = tiny_recipe_module.write_recipe(tmp_path / "r.yaml", f"stages.report.published={given}")
        out = [] if command == "plan" else ["--out", str(tmp_path / "run")]
        assert main([command, str(file), *out]) == 2
        assert reason in capsys.readouterr().err and not (tmp_path / "run").exists()
