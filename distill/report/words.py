"""What the report says in words: numbers as text, and the sentences that tell which model is better and how surely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from distill.recipe import GrpoStage, Recipe, SftStage
from distill.report.gather import RunReport

#: Pairs of roles by what a reader asks first: does distilling beat RL alone, what did the student gain, ...
QUESTIONS = (("student", "baseline"), ("student", "base"), ("student", "teacher"), ("teacher", "base"))

PIPELINE_WORDS = (
    "In the order in which they were made. Format: thoughts that are whole. Language: the mean share of a thought's "
    "words that are in the question's language (English where it has no words of its own), of thoughts that hold words."
)

MINUS, TIMES, RANGE, DASH = "\u2212", "\u00d7", " to ", "\u2013"


def fraction(value: float | None) -> str:
    """`0.798`; a dash for nothing."""
    return DASH if value is None else f"{value:.3f}".replace("-", MINUS)


def rating(value: float | None) -> str:
    """`1,205`; a dash for an end that is open."""
    return DASH if value is None else f"{value:,.0f}".replace("-", MINUS)


def signed(value: float) -> str:
    """`+0.18`, with a true minus sign."""
    return f"{value:+.3f}".replace("-", MINUS)


def interval(bounds: Sequence[float] | None) -> str:
    """`0.71 to 0.83`; never a dash between numbers that may be negative."""
    if bounds is None:
        return DASH
    return RANGE.join(fraction(bound) for bound in bounds)


def count(value: float | None) -> str:
    """`1,234`, from a hundred thousand on `1.23 M`, from a billion on `2.10 B`; a dash for nothing."""
    if value is None:
        return DASH
    if value >= 1e9:
        return f"{value / 1e9:.2f} B"
    return f"{value / 1e6:.2f} M" if value >= 1e5 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """`42 s`, `3:05 min`, `2:01:39 h`; a dash for a stage that has not finished."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def told(run: RunReport) -> list[str]:
    """What programs read: the comparison's own findings where it has some, else the page's first sentences."""
    return run.findings or [headline(run), *key_findings(run)]


def key_findings(run: RunReport) -> list[str]:
    """What stands under the headline: the other comparisons, the students' gaps closed, what it cost."""
    sentences = [*findings(run)[1:], *gap_sentences(run, "student"), cost_sentence(run)]
    return [sentence for sentence in sentences if sentence]


def headline(run: RunReport) -> str:
    """One sentence: which model is better, by how much, how surely."""
    found = findings(run)
    if found:
        return found[0]
    if run.models:
        return "One model was measured; there is nothing to compare it with."
    return "This run has no results yet."


def title_line(run: RunReport) -> str:
    """The headline without its figures, for where `at_a_glance` stands below it."""
    pair = first_pair(run)
    rows = [row for row in run.comparisons if (row["a"], row["b"]) == pair]
    if pair is None or len(rows) > 3:
        return headline(run)
    a, b = pair
    named: dict[str, list[str]] = {"more": [], "fewer": [], "": []}
    for row in rows:
        apart = ("more" if row["difference"] > 0 else "fewer") if row["distinguishable"] else ""
        named[apart].append(row["suite"])
    clauses = []
    for how in ("more", "fewer"):
        if named[how]:
            start = "but" if clauses else f"{a} solves"
            clauses.append(f"{start} {how} problems than {b} on {_and(named[how])}")
    if named[""]:
        who = "the two" if clauses else f"{a} and {b}"
        clauses.append(f"{who} cannot be told apart on {_and(named[''])}")
    return f"{'; '.join(clauses)}."


def findings(run: RunReport) -> list[str]:
    """A sentence for each pair of models that answers one of `QUESTIONS`, the most asked first."""
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in run.comparisons:
        pairs.setdefault((row["a"], row["b"]), []).append(row)
    return [compared(*pair, pairs[pair]) for pair in _asked(run)]


def first_pair(run: RunReport) -> tuple[str, str] | None:
    """The two models that the headline compares."""
    return next(iter(_asked(run)), None)


def _asked(run: RunReport) -> list[tuple[str, str]]:
    """Of a pipeline's teachers, the one made last first: it is what the others led to."""
    pairs = list(dict.fromkeys((row["a"], row["b"]) for row in run.comparisons))
    made = [stage.makes for stage in run.recipe.stages if isinstance(stage, SftStage | GrpoStage)]
    asked = []
    for pair in pairs:
        roles = run.role(pair[0]), run.role(pair[1])
        if roles in QUESTIONS:
            late = -made.index(pair[0]) if roles[0] == "teacher" and pair[0] in made else 0
            asked.append((QUESTIONS.index(roles), late, pair))
    return [pair for *_, pair in sorted(asked, key=lambda item: item[:2])] or pairs


def compared(a: str, b: str, rows: Sequence[dict[str, Any]]) -> str:
    """How model `a` does against `b` over the suites of `rows` (as `eval.compare` gives them), in one sentence.

    A difference whose interval holds 0 is never told as a lead.
    """
    ahead = [row for row in rows if row["distinguishable"] and row["difference"] > 0]
    behind = [row for row in rows if row["distinguishable"] and row["difference"] < 0]
    unclear = [row for row in rows if row not in ahead and row not in behind]
    if len(rows) > 3:
        parts = [f"ahead on {len(ahead)} of {len(rows)} suites", f"behind on {len(behind)}"]
        return f"Against {b}, {a} is {', '.join(parts)}, and on {len(unclear)} the two cannot be told apart."
    clauses = []
    if ahead:
        clauses.append(f"{a} solves more problems than {b}, by a share of {_amounts(ahead)}")
    if behind and ahead:
        clauses.append(f"but fewer, by a share of {_amounts(behind)}")
    elif behind:
        clauses.append(f"{a} solves fewer problems than {b}, by a share of {_amounts(behind)}")
    if unclear:
        who = "the two" if clauses else f"{a} and {b}"
        clauses.append(f"{who} cannot be told apart on {_and([_unclear(row) for row in unclear])}")
    return f"{'; '.join(clauses)}."


def given_behind(recipe: Recipe, model: str) -> list[str]:
    """Trace sets and teachers that a model learnt from and that were given, so that nobody knows what they took."""
    found: list[str] = []
    maker = recipe.maker(model)
    while isinstance(maker, SftStage | GrpoStage) and recipe.role(maker.makes) != "base":
        for name in maker.traces if isinstance(maker, SftStage) else ():
            for harvest in recipe.harvests(name):
                found += given_behind(recipe, harvest.model)
                if recipe.role(harvest.model) != "base" and recipe.base(harvest.model) is None:
                    found.append(recipe.source_model(harvest.model))
            given = recipe.given_traces(name)
            if given is not None and recipe.traces[given].path is not None:
                found.append(given)
        maker = recipe.maker(maker.model)
    return list(dict.fromkeys(found))


def cost_notes(run: RunReport) -> list[str]:
    """What the figures of cost leave out."""
    trained = {stage.name: stage.trained_tokens for stage in run.stages}
    stand_ins = [
        f"{stage.makes} {count(trained[stage.name])}"
        for stage in run.recipe.stages
        if isinstance(stage, SftStage) and stage.role == "base"
    ]
    notes = ["Counted from each model's base on: what made a base is in no figure."]
    if stand_ins:
        notes.append(f"The stand-in for pre-training, not counted, trained tokens: {_and(stand_ins)}.")
    given = dict.fromkeys(name for model in run.models for name in given_behind(run.recipe, model.name))
    for name in given:
        what = "its making" if name in run.recipe.models else "their teacher and their sampling"
        notes.append(f"{name}, given: what {what} took is not known and not counted.")
    return notes


def cost_sentence(run: RunReport) -> str:
    """What the students cost beside the baselines, without and with their teacher; empty where it is not known."""
    # What was given took something elsewhere, not 0 tokens.
    made = [model for model in run.models if _tokens(model.cost)]
    told = [model for model in made if model.role in ("student", "baseline")]
    parts = []
    for model in told:
        own = _tokens(model.cost)
        with_teacher = _tokens(model.cost.get("with_teacher") or {})
        extra = f"{count(with_teacher)} with its teacher" if with_teacher > own else ""
        if given := given_behind(run.recipe, model.name):
            extra += f"{', and ' if extra else ''}not counting what made {_and(given)}"
        parts.append(f"{model.name} took {count(own)} tokens{f' ({extra})' if extra else ''}")
    return f"Cost, generated and trained: {_and(parts)}." if parts else ""


def gap_sentences(run: RunReport, role: str | None = None) -> list[str]:
    """How much of the way from base to teacher each model (of one role, if given) went, one sentence a model."""
    routes: dict[tuple[str, str, str], list[str]] = {}
    for row in run.gap_closed:
        if role is None or run.role(row["student"]) == role:
            routes.setdefault((row["student"], row["base"], row["teacher"]), []).append(_gap(row))
    return [
        f"Of the gap between {base} and {teacher}, {student} closes {_and(parts)}."
        for (student, base, teacher), parts in routes.items()
    ]


def _gap(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return f"nothing that can be told on {row['suite']} ({row['reason']})"
    low, high = row["ci95"] or (None, None)
    bounds = (
        f"no interval: {row['reason']}"
        if low is None
        else f"95% interval {low:.2f}{RANGE}{high:.2f}".replace("-", MINUS)
    )
    return f"{row['value']:.2f}".replace("-", MINUS) + f" on {row['suite']} ({bounds})"


def published_scores(run: RunReport, suite: str) -> dict[tuple[str, str], float]:
    """For each published model and version (and source, where two differ) its pass@1 on a suite, as a fraction."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in run.published:
        if row["suite"] == suite and row["metric"] == "pass@1" and row["value"] is not None:
            key = row["published_model"], row.get("version") or ""
            found.setdefault(key, {})[row.get("source") or ""] = as_published(row)
    return {
        (model, f"{version}, {source}" if len(set(values.values())) > 1 else version): value
        for (model, version), values in found.items()
        for source, value in values.items()
    }


def as_published(row: dict[str, Any]) -> float:
    """A published value as a fraction where it was published in percent, else as it is."""
    value = float(row["value"])
    return value / 100 if row.get("unit") == "percent" else value


def published_protocol(row: dict[str, Any]) -> str:
    """How a published number was measured, as far as its source says."""
    protocol = row.get("protocol") or {}
    if isinstance(protocol, str):
        return protocol
    k = protocol.get("k")
    parts = [f"k = {k}" if k is not None else "k not stated", protocol_words(protocol)]
    if window := protocol.get("window"):
        parts.append(f"problems of {RANGE.join(window)}")
    return ", ".join(part for part in [*parts, protocol.get("note") or ""] if part)


def statements(run: RunReport) -> list[str]:
    """What the data could not have told, of the pairs that cannot be told apart; each with its suite and models."""
    pairs: dict[tuple[str, str], list[str]] = {}
    for row in run.comparisons:
        if row.get("statement") and not row["distinguishable"]:
            pairs.setdefault((row["suite"], row["statement"]), []).append(f"{row['a']} and {row['b']}")
    return [
        f"On {suite}, {'; '.join(names)}: {words.rstrip('.')}." for (suite, words), names in pairs.items()
    ]


def p_value(value: float | None) -> str:
    """`0.034`; below a thousandth only that it is."""
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


class Glance(NamedTuple):
    """A figure that answers at a glance: ``what`` it is, its ``value``, what belongs to it, and whose colour it has."""

    what: str
    value: str
    aside: str
    role: str


def at_a_glance(run: RunReport) -> list[Glance]:
    """The first comparison's answer in figures, one for each suite, then what the two models cost.

    Nothing where nothing was compared, or where more suites were than fit one line of figures. A difference that may be
    nothing has nobody's colour.
    """
    pair = first_pair(run)
    rows = [row for row in run.comparisons if (row["a"], row["b"]) == pair]
    if pair is None or not 0 < len(rows) <= 3:
        return []
    shown = []
    for row in rows:
        apart = row["distinguishable"]
        role = run.role(row["a"] if row["difference"] > 0 else row["b"]) if apart else ""
        aside = f"95%: {interval(row['ci95'])}\n{'told apart' if apart else 'not told apart'}"
        what = f"{row['suite']}: {row['a']} {MINUS} {row['b']}"
        shown.append(Glance(what, signed(row["difference"]), aside, role))
    for name in pair:
        model = next((model for model in run.models if model.name == name), None)
        own = _tokens(model.cost) if model and model.role != "base" else 0
        if model and own:
            with_teacher = _tokens(model.cost.get("with_teacher") or {})
            whole = f"{count(with_teacher)} with its teacher" if with_teacher > own else ""
            aside = "\n".join(part for part in ("generated and trained", whole) if part)
            shown.append(Glance(f"{name}, tokens it took", count(own), aside, model.role))
    return shown


def caveats(run: RunReport) -> list[str]:
    """What the numbers do not show, for the reader who is about to believe them."""
    notes = []
    if run.comparisons:
        notes.append(
            f"One run, seed {run.recipe.seed}: the intervals are over problems (and the answers drawn for them), "
            "not over repeated training. Another seed can move a result by more than its interval."
        )
    if len(run.comparisons) > 1:
        notes.append(
            f"{len(run.comparisons)} differences are shown at 95% each, without correction for their number."
        )
    for suite in run.suites:
        for model in run.models:
            if ungraded := model.suites.get(suite, {}).get("ungraded"):
                notes.append(
                    f"{model.name} on {suite}: {ungraded:,} answers could not be graded "
                    "and count neither as right nor as wrong."
                )
    return notes


def protocol_words(protocol: dict[str, Any]) -> str:
    """How a suite was run, to stand beside its numbers."""
    names = (("temperature", "temperature"), ("top_p", "top-p"), ("max_tokens", "at most"), ("seed", "seed"))
    parts = [f"{words} {protocol[name]:,}" for name, words in names if protocol.get(name) is not None]
    parts = [f"{part} tokens" if part.startswith("at most") else part for part in parts]
    if protocol.get("instruction"):
        words = " ".join(protocol["instruction"].split())
        parts.append(f'prompt: "{words}"')
    return ", ".join(parts)


def _tokens(cost: dict[str, Any]) -> int:
    return int(cost.get("generated_tokens") or 0) + int(cost.get("trained_tokens") or 0)


def _amounts(rows: Sequence[dict[str, Any]]) -> str:
    return _and([_amount(row) for row in rows])


def _amount(row: dict[str, Any]) -> str:
    """`0.18 on chains (95% interval 0.14 to 0.22)`: the size of a lead, whoever has it."""
    turned = -1 if row["difference"] < 0 else 1
    low, high = sorted(turned * bound for bound in row["ci95"])
    places = _places(row)
    size = f"{turned * row['difference']:.{places}f}"
    return f"{size} on {row['suite']} (95% interval {low:.{places}f}{RANGE}{high:.{places}f})"


def _unclear(row: dict[str, Any]) -> str:
    """`functions (difference +0.010, 95% interval -0.035 to 0.050)`."""
    low, high = row["ci95"]
    places = _places(row)
    words = (
        f"(difference {row['difference']:+.{places}f}, 95% interval {low:.{places}f}{RANGE}{high:.{places}f})"
    )
    return f"{row['suite']} {words.replace('-', MINUS)}"


def _places(row: dict[str, Any]) -> int:
    return 2 if abs(row["difference"]) >= 0.05 else 3


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
