"""What a comparison says, in plain sentences: which model is better, by how much, how surely, and at what cost.

Every sentence is made of figures that stand in the comparison, and says no more than they do: two models whose interval
holds 0 are never told as one ahead of the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: Normal quantiles of a two-sided test at 5% and of a power of 0.8.
_SIZE, _POWER = 1.959964, 0.841621
#: Beyond so many problems a number says nothing that "no suite has so many" does not.
_MANY = 1_000_000

#: Pairs of roles by what a reader asks first: what did the student gain, what does it lack, what did the teacher gain.
_ASKED = (("student", "baseline"), ("student", "base"), ("student", "teacher"), ("teacher", "base"))

Row = Mapping[str, Any]


def findings(comparison: Mapping[str, Any], paired: Sequence[tuple[str, str]] = ()) -> list[str]:
    """Sentences on every pair that was compared, on gaps closed, costs, win rates and published figures, in that order.

    Args:
        comparison: of `eval.compare.compare`; ``published`` and each row's ``p`` and ``detectable`` may be missing.
        paired: measured models with the published ones that they were to stand beside.
    """
    models = comparison["models"]
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in comparison["comparisons"]:
        pairs.setdefault((row["a"], row["b"]), []).append(row)
    found: list[str] = []
    for (a, b), rows in sorted(pairs.items(), key=lambda item: _rank(item[0], models)):
        if len(rows) > 1:
            found.append(_over_suites(a, b, rows))
        found += [_difference(row, models) for row in rows]
    found += _alone(models, bool(pairs))
    found += [_gap(row) for row in comparison["gap_closed"]]
    found += [_cost(name, model) for name, model in models.items()]
    found += _win_rates(models)
    found += _published(comparison.get("published", ()), paired, models)
    return found


def _rank(pair: tuple[str, str], models: Mapping[str, Any]) -> int:
    roles = models[pair[0]]["role"], models[pair[1]]["role"]
    return _ASKED.index(roles) if roles in _ASKED else len(_ASKED)


# ------------------------------------------------------------------------------------ which, how much, how surely


def _over_suites(a: str, b: str, rows: Sequence[Row]) -> str:
    ahead = sum(row["distinguishable"] and row["difference"] > 0 for row in rows)
    behind = sum(row["distinguishable"] and row["difference"] < 0 for row in rows)
    unclear = len(rows) - ahead - behind
    return (
        f"Over {len(rows)} suites, {a} is better than {b} on {ahead} and worse on {behind}; "
        f"on {unclear} they cannot be told apart."
    )


def _difference(row: Row, models: Mapping[str, Any]) -> str:
    """The better model first, so that a lead is always a positive number."""
    a, b, suite = row["a"], row["b"], row["suite"]
    turned = row["distinguishable"] and row["difference"] < 0
    if turned:
        a, b = b, a
    low, high = sorted(-bound for bound in row["ci95"]) if turned else row["ci95"]
    size = -row["difference"] if turned else row["difference"]
    own = [models[name]["suites"][suite]["pass@1"] for name in (row["a"], row["b"])]
    scores = (row.get("scores") or own)[:: -1 if turned else 1]
    how = [f"95% interval {low:.3f} to {high:.3f}"]
    if (p := row.get("p")) is not None:
        how.append(p_words(p))
    left = f", {row['left_out']} more left out as not graded for both" if row.get("left_out") else ""
    surely = f"{', '.join(how)}; {row['n']} problems{left}, k = {row['k']}"
    against = f"pass@1 {scores[0]:.3f} against {scores[1]:.3f}"
    if row["distinguishable"]:
        return f"On {suite}, {a} is better than {b}: {against}, a lead of {size:.3f} ({surely}).{_not_known(row)}"
    sentence = f"On {suite}, {a} and {b} cannot be told apart: {against}, difference {size:+.3f} ({surely})."
    if (detectable := row.get("detectable")) is not None:
        sentence += (
            f" A true difference under {detectable:.3f} would be seen less than four times in five here."
        )
    return f"{sentence} {_more_problems(row)}{_not_known(row)}"


def _not_known(row: Row) -> str:
    names = row.get("not_stated")
    return f" Whether both were asked alike is not known: not stated {_are(names)}." if names else ""


def _are(names: Sequence[str]) -> str:
    *most, last = names
    return f"are {', '.join(most)} and {last}" if most else f"is {last}"


def p_words(p: float) -> str:
    """A p as it is printed: none is 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _more_problems(row: Row) -> str:
    """How many problems would tell the two apart, should the difference be what it looks like.

    The standard error falls with the root of the number of problems, so a difference d is seen with power 0.8 from
    n * ((1.96 + 0.84) * se / d)^2 problems on (se over the n that were asked: the interval's half width over 1.96).
    """
    if row["difference"] == 0:
        return "They scored the same, so no number of problems can be told that would separate them."
    error = (row["ci95"][1] - row["ci95"][0]) / 2 / _SIZE
    needed = row["n"] * ((_SIZE + _POWER) * error / row["difference"]) ** 2
    needed = max(needed, row["n"] + 1)  # of so few problems the root says too little
    if needed > _MANY:
        return "To tell apart a difference this small would need more than a million problems."
    digits = max(10 ** (len(str(int(needed))) - 2), 1)
    rounded = round(needed / digits) * digits
    return f"To tell apart a difference of this size would need about {rounded:,} problems."


def _alone(models: Mapping[str, Any], some_paired: bool) -> Iterator[str]:
    """Beside pairs, only what one model alone was asked: any other figure is in a sentence, or left out on purpose."""
    asked = Counter(suite for model in models.values() for suite in model["suites"])
    for name, model in models.items():
        for suite, figures in model["suites"].items():
            if some_paired and asked[suite] > 1:
                continue
            if figures["pass@1"] is not None and figures["ci95"]:
                low, high = figures["ci95"]
                yield (
                    f"On {suite}, {name} has pass@1 {figures['pass@1']:.3f} (95% interval {low:.3f} to {high:.3f}; "
                    f"{figures['n']} problems, k = {figures['k']}), with no other model to compare it with."
                )


def _gap(row: Row) -> str:
    base, teacher, student, suite = row["base"], row["teacher"], row["student"], row["suite"]
    gap = f"of the gap between {base} and {teacher}"
    if row["value"] is None:
        return f"On {suite}, what {student} closes {gap} cannot be told: {row['reason']}."
    how = f"no interval: {row['reason']}"
    if row["ci95"]:
        how = f"95% interval {row['ci95'][0]:.2f} to {row['ci95'][1]:.2f}"
    return f"On {suite}, {student} closes {row['value']:.2f} {gap} ({how})."


# ------------------------------------------------------------------------------------ at what cost


def _cost(name: str, model: Mapping[str, Any]) -> str:
    """Parameters, what answers take on each suite, and what making the model took."""
    size = model["params"]  # a recording does not tell it
    parts = [f"{amount(size)} parameters" if size is not None else "parameters not known"]
    for suite, figures in model["suites"].items():
        if (mean := figures.get("mean_tokens")) is not None:
            each_right = figures.get("tokens_per_correct")
            right = "" if each_right is None else f" ({amount(each_right)} for each right one)"
            parts.append(f"on {suite} {amount(mean)} tokens an answer{right}")
    cost = model.get("cost") or {}
    generated, trained = cost.get("generated_tokens", 0), cost.get("trained_tokens", 0)
    with_teacher = cost.get("with_teacher") or {}
    whole = with_teacher.get("generated_tokens", 0) + with_teacher.get("trained_tokens", 0)
    if generated + trained:
        making = f"making it took {amount(generated)} generated and {amount(trained)} trained tokens"
        teacher = f", {amount(whole)} with what its teacher took" if whole > generated + trained else ""
        parts.append(making + teacher)
    return f"Cost of {name}: {'; '.join(parts)}."


def amount(count: float) -> str:
    """A count as a reader says it: ``85``, ``3.2k``, ``1.5B``."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


# ------------------------------------------------------------------------------------ judged, published


def _win_rates(models: Mapping[str, Any]) -> Iterator[str]:
    for name, model in models.items():
        for suite, figures in model["suites"].items():
            if rate := figures.get("win_rate"):
                yield f"On {suite}, {name} {win_rate_words(rate)}"


def win_rate_words(rate: Row) -> str:
    """What `eval.win_rate.summarise_pairs` found, as a sentence without its subject."""
    note = f" {rate['note']}" if rate.get("note") else ""
    if rate["value"] is None:
        return f"has no win rate.{note}"
    low, high = rate["ci95"]
    controlled = rate.get("length_controlled")
    ours = "" if controlled is None else f"; {controlled:.3f} with our own length control"
    return (
        f"wins {rate['value']:.3f} of the comparisons that {rate['judge']} judged "
        f"(95% interval {low:.3f} to {high:.3f}{ours}; {rate['n']} problems).{note}"
    )


def _published(
    rows: Sequence[Row], paired: Sequence[tuple[str, str]], models: Mapping[str, Any]
) -> Iterator[str]:
    told: dict[tuple[str, str], dict[str, list[Row]]] = {pair: {} for pair in paired}
    for row in rows:
        pair = told.setdefault((row["measured_model"], row["published_model"]), {})
        pair.setdefault(row["verdict"], []).append(row)
    words = {
        "inside": "The published figures of {name} lie inside the intervals of {model}",
        "above": "{model} is above {name} as published",
        "below": "{model} is below {name} as published",
        "not comparable": "{model} and {name} as published cannot be compared",
    }
    for (model, name), verdicts in told.items():
        for verdict, said in words.items():
            if found := verdicts.get(verdict):
                parts = [_cell(row, why=verdict == "not comparable") for row in found]
                yield f"{said.format(model=model, name=name)}: {'; '.join(parts)}."
        if not verdicts and model in models:
            suites = ", ".join(models[model]["suites"])
            yield f"Nothing that could stand beside {model} on {suites} is published of {name}."


def _cell(row: Row, why: bool) -> str:
    rating = row["unit"] == "rating"
    value = f"{row['value']:g}{'' if rating else '%'}"
    if why:
        return f"{row['suite']}, {row['metric']} {value} in {row['version']} ({row['why']})"
    measured, low, high = (_figure(number, rating) for number in (row["measured"], *row["ci95"]))
    return (
        f"{row['suite']}, {row['metric']} {value} in {row['version']} (measured {measured}, {low} to {high})"
    )


def _figure(number: float | None, rating: bool) -> str:
    """A rating's interval may be open, where nothing or everything was solved."""
    return "open" if number is None else f"{number:.0f}" if rating else f"{number:.3f}"
