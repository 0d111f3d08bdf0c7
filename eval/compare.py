"""Which model is better, and how surely: paired comparisons of the summaries that evaluations left.

Models are compared on the same problems asked in the same way, or not at all: a difference of protocol
is refused, with what differs, because no figure could show it afterwards.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from distill.errors import UserError
from distill.recipe_parts import Role
from eval.codeforces import rating_in_words
from eval.findings import findings, p_words, win_rate_words
from eval.pairs import compared_pair, paired_values
from eval.published import beside, pairs, published_as_lines
from eval.statistics import gap_closed

Summary = dict[str, Any]

#: What a summary file must have to be one; `eval.summary.summarise` writes more.
NEEDED = ("model", "role", "params", "suite", "n", "k", "protocol", "pass@1", "ci95", "problems")
_GIVE = "give what `distill eval` wrote: a run, results/MODEL, results/MODEL/SUITE or its summary.json"
#: What `eval.recorded` adds to a protocol: where the responses are from, and what is not known of them.
_OF_A_RECORDING = ("not_stated", "recorded")
#: What of a summary stands beside each model's suite in the comparison.
SHOWN = (
    "pass@1",
    "ci95",
    "ci95_bootstrap",
    "standard_error",
    "n",
    "k",
    "pass@k",
    "pass@k_curve",
    "cons@k",
    "cons@k_curve",
    "votes",
    "format",
    "truncated",
    "ungraded",
    "mean_tokens",
    "tokens_per_correct",
    "verdicts",
    "outcomes",
    "by",
    "solve_rates",
    "language",
    "thought_language",
    "thoughts",
    "rating",
    "win_rate",
    "protocol",
)


def read_results(paths: Sequence[Path]) -> list[Summary]:
    """The summaries at these places: ``summary.json`` files, folders of results at any depth, or run folders.

    Raises:
        UserError: a place holds no summary, or a file that is none.
    """
    return [_read_summary(file) for path in paths for file in _files(path)]


def read_named_apart(paths: Sequence[Path]) -> list[Summary]:
    """As `read_results`, of several runs: a model that two of them measured on one suite is called RUN/MODEL.

    A result given twice counts once. Each summary says under ``run`` which folder it is of.
    """
    files = dict.fromkeys(file.resolve() for path in paths for file in _files(path))
    summaries = [_read_summary(file) | {"run": str(_run_of(file))} for file in files]
    runs: dict[tuple[str, str], set[str]] = {}
    for summary in summaries:
        runs.setdefault((summary["model"], summary["suite"]), set()).add(summary["run"])
    shared = {model for (model, _), found in runs.items() if len(found) > 1}
    called = _short_names({summary["run"] for summary in summaries if summary["model"] in shared})
    return [
        summary | {"model": f"{called[summary['run']]}/{summary['model']}"}
        if summary["model"] in shared
        else summary
        for summary in summaries
    ]


def only_bases(summaries: Sequence[Summary]) -> dict[str, str | None]:
    """For each model of `read_named_apart` the base that its run measured, if that is one; else the only one of all."""
    bases = {summary["model"]: summary["run"] for summary in summaries if summary["role"] == "base"}
    found: dict[str, str | None] = {}
    for summary in summaries:
        own = [base for base, run in bases.items() if run == summary["run"]] or list(bases)
        found[summary["model"]] = own[0] if len(own) == 1 and summary["role"] != "base" else None
    return found


def _files(path: Path) -> list[Path]:
    results = path / "results" if (path / "results").is_dir() else path
    files = [path] if path.is_file() else sorted(results.rglob("summary.json"))
    if not files:
        reason = "holds no summary.json" if path.exists() else "there is no such file or folder"
        raise UserError("RESULT", str(path), reason, _GIVE)
    return files


def _run_of(file: Path) -> Path:
    """The run folder of RUN/results/MODEL/SUITE/summary.json; the folder itself where a result lies elsewhere."""
    return file.parents[3] if len(file.parents) > 3 and file.parents[2].name == "results" else file.parent


def _short_names(folders: set[str]) -> dict[str, str]:
    """Each folder's last name, or as many last parts of its path as tell all apart."""
    for length in range(1, max((len(Path(folder).parts) for folder in folders), default=0) + 1):
        names = {folder: "/".join(Path(folder).parts[-length:]) for folder in folders}
        if len(set(names.values())) == len(folders):
            return names
    return {}


def _read_summary(file: Path) -> Summary:
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError("RESULT", str(file), f"cannot be read: {error}", _GIVE) from error
    except ValueError as error:
        remedy = f"{_GIVE}; one that was spoilt is written anew by its evaluation"
        raise UserError("RESULT", str(file), f"cannot be read: is no JSON ({error})", remedy) from error
    lacking = [key for key in NEEDED if not isinstance(summary, dict) or key not in summary]
    if lacking:
        reason = f"is no result of an evaluation: it has no {', '.join(lacking)}"
        raise UserError("RESULT", str(file), reason, _GIVE)
    for key, fits in _FITS.items():
        if not fits(summary[key]):
            reason = f"its `{key}` is not what an evaluation writes there"
            raise UserError("RESULT", str(file), reason, "run the evaluation again")
    return dict(summary)


def _are_problems(found: object) -> bool:
    """Whether these are counts of samples, each problem once: a problem counted twice would weigh double."""
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        return False
    counts = [(row.get("correct"), row.get("samples")) for row in found]
    whole = all(
        type(correct) is type(samples) is int and 0 <= correct <= samples for correct, samples in counts
    )
    ids = [row.get("id") for row in found]
    return whole and all(isinstance(one, str) for one in ids) and len(set(ids)) == len(ids)


def _is_share(found: object) -> bool:
    return isinstance(found, int | float) and 0 <= found <= 1


_FITS: dict[str, Callable[[Any], bool]] = {
    "model": lambda found: isinstance(found, str),
    "role": lambda found: found in get_args(Role),
    "params": lambda found: found is None or type(found) is int,
    "suite": lambda found: isinstance(found, str),
    "n": lambda found: type(found) is int and found >= 0,
    "k": lambda found: type(found) is int and found >= 1,
    "protocol": lambda found: isinstance(found, dict),
    "pass@1": lambda found: found is None or _is_share(found),
    "ci95": lambda found: (
        found is None or (isinstance(found, list) and [*map(_is_share, found)] == [True] * 2)
    ),
    "problems": _are_problems,
}


def compare(
    summaries: Sequence[Summary],
    bases: Mapping[str, str | None],
    costs: Mapping[str, dict[str, Any]],
    roles: Mapping[str, Role],
    *,
    by_hand: bool = False,
    published: Sequence[str] | Mapping[str, str] = (),
    places: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Every model's figures, the paired differences that a reader asks for, and the gaps closed.

    Compared on each suite that both were asked: each made model with its base; students and baselines with
    each teacher; students with each baseline; a teacher with those before it (the stages of a pipeline); a model with
    its namesakes of other runs. Where this pairs none, each
    with each, in their order. Gaps closed are those of students and baselines, between their own base and each teacher.

    Args:
        summaries: of `read_results` or `eval.runner.evaluate`.
        bases: for each model the base it was made from, None for a model that was not made.
        costs: for each model what making it took, as it shall be shown; a model may be missing.
        roles: the role of each model.
        by_hand: somebody named these results, so that none may stay alone: one without a pair is compared with all.
        published, places: whose published figures stand beside which results; see `eval.published.pairs`.

    Returns:
        ``models``, ``comparisons`` (of `eval.pairs.compared_pair`), ``gap_closed`` (``value`` or ``ci95`` is None for
        the ``reason`` beside it), ``published`` (of `eval.published.beside`) and ``findings``, all of it in sentences.

    Raises:
        UserError: a model has two results on one suite, two models were not asked the same way, or nothing is published
            of a model named.
    """
    results = _by_suite(summaries)
    measured = list(dict.fromkeys(summary["model"] for summary in summaries))
    paired = pairs(published, measured, places or {}) if published else []
    for suite, by_model in results.items():
        _check_same_exam(suite, list(by_model.values()))
    models: dict[str, Any] = {}
    for summary in summaries:
        name = summary["model"]
        heading = {"role": roles[name], "params": summary["params"], "origin": bases.get(name)}
        entry = models.setdefault(name, heading | {"suites": {}, "cost": costs.get(name, {})})
        entry["suites"][summary["suite"]] = {key: summary.get(key) for key in SHOWN}
    comparisons, gaps = [], []
    for suite, by_model in results.items():
        for a, b in _pairs(list(by_model), bases, roles, by_hand):
            if row := compared_pair(suite, by_model[a], by_model[b]):
                comparisons.append(row | {"not_stated": _not_stated([by_model[a], by_model[b]])})
        for student, base, teacher in _gaps(list(by_model), bases, roles):
            gaps.append(_gap(suite, student, base, teacher, by_model))
    found = {
        "models": models,
        "comparisons": comparisons,
        "gap_closed": [row for row in gaps if row],
        "published": beside(summaries, paired),
    }
    return found | {"findings": findings(found, paired)}


# ------------------------------------------------------------------------------------ the same exam


def _by_suite(summaries: Sequence[Summary]) -> dict[str, dict[str, Summary]]:
    results: dict[str, dict[str, Summary]] = {}
    for summary in summaries:
        by_model = results.setdefault(summary["suite"], {})
        if summary["model"] in by_model:
            reason = f"has two results on {summary['suite']}"
            raise UserError(
                "RESULT", summary["model"], reason, "give one of them, or evaluate under another name"
            )
        by_model[summary["model"]] = summary
    return results


def _check_same_exam(suite: str, summaries: Sequence[Summary]) -> None:
    """The seed may differ (it draws the samples); the problems, the instruction, k and the sampling may not.

    What a recording does not state is not compared: `_comparison` names it beside the difference.
    """
    first = summaries[0]
    for other in summaries[1:]:
        key = f"{first['model']} and {other['model']} on {suite}"
        ids, others = ({problem["id"] for problem in summary["problems"]} for summary in (first, other))
        if ids != others:
            apart = f"{len(ids - others)} of the first alone, {len(others - ids)} of the second"
            remedy = "evaluate both on one set of problems (the built-in world: with one seed)"
            raise UserError(key, min(ids ^ others), f"were asked different problems: {apart}", remedy)
        # A window is one of the problems, whose fingerprints are held against each other.
        unknown = {*_not_stated([first, other]), *_OF_A_RECORDING, "window"}
        for name in sorted({*first["protocol"], *other["protocol"], "k"} - {"seed"} - unknown):
            one, two = ({**summary["protocol"], "k": summary["k"]}.get(name) for summary in (first, other))
            if one != two and name == "problems":
                reason = "problems of the same ids have another text, reference or tests"
                remedy = "evaluate both on one set of problems, recorded responses by one `--suite`"
                raise UserError(key, None, reason, remedy)
            if one != two:
                reason = f"measured with {name} = {one!r} and {two!r}"
                raise UserError(key, None, reason, "evaluate both with one protocol, or compare them apart")


def _not_stated(summaries: Sequence[Summary]) -> list[str]:
    """What of the protocol one of these results, scored from a recording, does not know."""
    return sorted({name for summary in summaries for name in summary["protocol"].get("not_stated", ())})


# ------------------------------------------------------------------------------------ what is compared


def _pairs(
    models: Sequence[str], bases: Mapping[str, str | None], roles: Mapping[str, Role], by_hand: bool
) -> list[tuple[str, str]]:
    each_with_each = list(itertools.combinations(models, 2))
    with_base = [
        (model, base) for model in models if (base := bases.get(model)) in models and base is not None
    ]
    learners = [model for model in models if roles[model] in ("student", "baseline")]
    with_teacher = [(a, b) for a in learners for b in models if roles[b] == "teacher"]
    rivals = [(a, b) for a in learners for b in learners if (roles[a], roles[b]) == ("student", "baseline")]
    stages = [(b, a) for a, b in each_with_each if roles[a] == roles[b] == "teacher"]
    namesakes = [(a, b) for a, b in each_with_each if a.rpartition("/")[2] == b.rpartition("/")[2]]
    told = list(dict.fromkeys([*with_base, *with_teacher, *rivals, *stages, *namesakes]))
    alone = {model for model in models if not any(model in pair for pair in told)}
    return told + [pair for pair in each_with_each if alone & set(pair) and (by_hand or not told)]


def _gaps(
    models: Sequence[str], bases: Mapping[str, str | None], roles: Mapping[str, Role]
) -> list[tuple[str, str, str]]:
    teachers = [model for model in models if roles[model] == "teacher"]
    learners = sorted(
        (m for m in models if roles[m] in ("student", "baseline")), key=lambda m: roles[m] != "student"
    )
    return [
        (model, base, teacher)
        for model in learners
        if (base := bases.get(model)) is not None and base in models
        for teacher in teachers
    ]


def _gap(
    suite: str, student: str, base: str, teacher: str, by_model: Mapping[str, Summary]
) -> dict[str, Any] | None:
    student_P, base_P, teacher_P = paired_values([by_model[name] for name in (student, base, teacher)])
    if not len(student_P):
        return None
    gap = gap_closed(student_P, base_P, teacher_P)
    return {
        "suite": suite,
        "student": student,
        "base": base,
        "teacher": teacher,
        "value": gap.value,
        "ci95": list(gap.interval) if gap.interval else None,
        "reason": gap.reason,
    }


def results_as_lines(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """A table of summaries, one line each, for the terminal; columns of names are as wide as their longest."""
    wide = max((20, *(len(row["model"]) for row in summaries)))
    suites = max((12, *(len(row["suite"]) for row in summaries)))
    heading = f"{'pass@1':>7} {'95% interval':>16} {'n x k':>9} {'format':>7} {'tokens':>7}"
    lines = [f"{'model':{wide}} {'suite':{suites}} {heading}"]
    for row in summaries:
        interval = f"[{row['ci95'][0]:.3f}, {row['ci95'][1]:.3f}]" if row["ci95"] else "-"
        tokens = "-" if row["mean_tokens"] is None else f"{row['mean_tokens']:.1f}"
        asked = f"{row['n']} x {row['k']}"
        score = "-" if row["pass@1"] is None else f"{row['pass@1']:.3f}"
        lines.append(
            f"{row['model']:{wide}} {row['suite']:{suites}} {score:>7} {interval:>16} "
            f"{asked:>9} {row['format']:7.3f} {tokens:>7}"
        )
        if row.get("rating"):
            lines.append(f"{'':{wide}} {rating_in_words(row['rating'])}")
        if row.get("win_rate"):
            lines.append(f"{'':{wide}} {win_rate_words(row['win_rate'])}")
    return lines


def comparisons_as_lines(comparison: Mapping[str, Any]) -> list[str]:
    """What `compare` found: in sentences, then the paired differences and the published figures, one line each."""
    lines = [
        f"{row['suite']}: {row['a']} - {row['b']} = {row['difference']:+.3f} "
        f"[{row['ci95'][0]:+.3f}, {row['ci95'][1]:+.3f}], {p_words(row['p'])}, {row['n']} problems x {row['k']}"
        f"{'' if row['distinguishable'] else '  (cannot be told apart)'}"
        f"{_unknown_as_words(row['not_stated'])}"
        for row in comparison["comparisons"]
    ]
    tables = [part for part in (lines, published_as_lines(comparison["published"])) if part]
    return [*comparison["findings"], *(line for part in tables for line in ("", *part))]


def _unknown_as_words(names: Sequence[str]) -> str:
    return f"  (not known to be asked alike: a recording does not state {', '.join(names)})" if names else ""
