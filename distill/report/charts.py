"""Charts of several models at once, as SVG text: curves over k, trade-offs, groups, histograms, outcomes.

They share width, classes and pieces with `figures`. Every mark has its name beside it or in a legend: with five
models colour alone would not tell them apart, and two bases have one colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from distill.report.figures import (
    MARGIN,
    WIDTH,
    Interval,
    anchor_at,
    drawing,
    mark,
    nice_ticks,
    number,
    shorten,
    text_at,
)

LINE = 13  # between two labels, at least
NAME_WIDTH = 96  # right of a chart, for the names of its lines
NAME_LENGTH = 15  # characters that fit there
MOST_BARS = 75  # of a chart over time: more are drawn as means of equal stretches
#: Of problems solved in none of their answers, in a share of each quarter of (0, 1), and in all.
SOLVED = ("never", "<\u00bc", "<\u00bd", "<\u00be", "<1", "always")
OUTCOMES = ("correct", "wrong", "no_answer", "truncated", "timeout", "ungraded")


@dataclass(frozen=True, slots=True)
class Line:
    """A model's curve: ``points`` of (k, share); dashed for the second model of a role."""

    label: str
    role: str
    points: Sequence[tuple[int, float]]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Spot:
    """A model in a trade-off: its cost ``x`` (> 0) and its pass@1 with the interval."""

    label: str
    role: str
    x: float
    value: float
    low: float
    high: float


def curves_over_k(title: str, lines: Sequence[Line]) -> str:
    """Shares from 0 to 1 over k on a scale of powers of two, each line's name at its end."""
    left, right, top, bottom = 34, WIDTH - NAME_WIDTH, 10, 170
    sizes = sorted({k for line in lines for k, _ in line.points})
    reach = math.log2(sizes[-1]) - math.log2(sizes[0]) or 1.0

    def place(k: int, share: float) -> tuple[float, float]:
        across = (math.log2(k) - math.log2(sizes[0])) / reach
        return left + (right - left) * across, bottom - (bottom - top) * share

    parts = _share_axis(left, right, top, bottom)
    shown = sizes if len(sizes) <= 7 else [k for k in sizes if k & (k - 1) == 0][:: math.ceil(len(sizes) / 7)]
    parts += [text_at(place(k, 0)[0], bottom + 16, number(k), "tick", "middle") for k in shown]
    parts.append(text_at(right + 14, bottom + 16, "k", "tick"))
    ends = []
    for line in lines:
        spots = [place(k, share) for k, share in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        style = "curve dashed" if line.dashed else "curve"
        parts.append(f'<g class="role-{escape(line.role)}"><path class="{style}" d="M{path}"/>')
        parts += [mark(x, y, line.role, False) for x, y in spots[-1:]]
        parts.append("</g>")
        ends.append(spots[-1])
    heights = spread([y for _, y in ends], LINE)
    for line, (x, _), y in zip(lines, ends, heights, strict=True):
        parts.append(text_at(x + 10, y + 4, shorten(line.label, NAME_LENGTH), "label"))
    return drawing(title, max(bottom + 22, *heights), parts)


def trade_off(title: str, spots: Sequence[Spot], x_label: str) -> str:
    """pass@1 with its interval over a cost; the axis is logarithmic where costs differ by more than five times."""
    left, right, top, bottom = 34, WIDTH - NAME_WIDTH, 10, 170
    low, high = min(spot.x for spot in spots), max(spot.x for spot in spots)
    logarithmic = high > 5 * low
    scale = math.log10 if logarithmic else float
    first, last = scale(low), scale(high)
    room = 0.08 * (last - first) or 0.5 * abs(last) or 0.5
    first, last = first - room, last + room

    def across(value: float) -> float:
        return left + (right - left) * (scale(value) - first) / (last - first)

    parts = _share_axis(left, right, top, bottom)
    ticks = _powers(first, last) if logarithmic else nice_ticks(first, last, 3)
    parts += [text_at(across(tick), bottom + 16, _short(tick), "tick", "middle") for tick in ticks]
    parts += [f'<path class="grid" d="M{across(tick):.1f} {bottom}v4"/>' for tick in ticks]
    parts.append(text_at((left + right) / 2, bottom + 31, x_label, "tick", "middle"))
    heights = spread([bottom - (bottom - top) * spot.value for spot in spots], LINE)
    for spot, label_y in zip(spots, heights, strict=True):
        x = across(spot.x)
        y, y_low, y_high = (bottom - (bottom - top) * v for v in (spot.value, spot.low, spot.high))
        words = f"{spot.label}: {spot.value:.3f}, {number(spot.x)} {x_label}"
        parts.append(f'<g class="role-{escape(spot.role)}"><title>{escape(words)}</title>')
        parts.append(f'<path class="interval" d="M{x:.1f} {y_low:.1f}V{y_high:.1f}"/>')
        parts.append(f'{mark(x, y, spot.role, False)}<path class="leader" d="M{x + 7:.1f} {y:.1f}')
        parts.append(f'L{right + 4} {label_y:.1f}"/></g>')
        parts.append(text_at(right + 8, label_y + 4, shorten(spot.label, NAME_LENGTH), "label"))
    return drawing(title, max(bottom + 36, *heights), parts)


def grouped_plot(title: str, groups: Sequence[tuple[str, int, Sequence[Interval]]]) -> str:
    """For each group (name, problems in it) the models' shares with their intervals, one thin line a model."""
    inner = WIDTH - 2 * MARGIN
    models = list({row.label: row for _, _, rows in groups for row in rows}.values())
    places = _legend_places([row.label for row in models])
    parts = _legend(models, places)
    y = places[-1][1] + 24
    ticks = nice_ticks(0.0, 1.0, 5)
    for name, problems, rows in groups:
        parts.append(text_at(MARGIN, y + 12, shorten(name), "label"))
        told = f"{problems:,} problem{'' if problems == 1 else 's'}"
        parts.append(text_at(WIDTH - MARGIN, y + 12, told, "tick", "end"))
        top, bottom = y + 18, y + 20 + 11 * len(rows)
        parts += [
            f'<path class="grid" d="M{MARGIN + inner * tick:.1f} {top:.1f}V{bottom:.1f}"/>' for tick in ticks
        ]
        for place, row in enumerate(rows):
            at = top + 7 + 11 * place
            left, right, x = (MARGIN + inner * min(max(v, 0.0), 1.0) for v in (row.low, row.high, row.value))
            words = f"{row.label}, {name}: {row.text}"
            parts.append(f'<g class="role-{escape(row.role)}"><title>{escape(words)}</title>')
            parts.append(f'<path class="interval thin" d="M{left:.1f} {at:.1f}H{right:.1f}"/>')
            parts.append(f"{mark(x, at, row.role, row.hollow)}</g>")
        y = bottom + 8
    parts += [
        text_at(MARGIN + inner * t, y + 10, number(t), "tick", anchor_at(MARGIN + inner * t)) for t in ticks
    ]
    return drawing(title, y + 16, parts)


def histograms(title: str, rows: Sequence[tuple[str, str, Sequence[int]]]) -> str:
    """For each model (name, role, problems in each of ten equal bins of the share right) a row of bars.

    All rows have one scale, so that their heights can be compared.
    """
    inner, height = WIDTH - 2 * MARGIN, 34
    tallest = max((max(counts, default=0) for _, _, counts in rows), default=0) or 1
    parts = []
    for place, (label, role, counts) in enumerate(rows):
        base = (height + 30) * place + height + 18
        width = inner / max(1, len(counts))
        parts.append(text_at(MARGIN, base - height - 5, shorten(label), "label"))
        never, always = counts[0], counts[-1]
        told = f"{never:,} under 0.1, {always:,} over 0.9, of {sum(counts):,}"
        parts.append(text_at(WIDTH - MARGIN, base - height - 5, told, "tick", "end"))
        parts.append(f'<g class="role-{escape(role)}">')
        for index, problems in enumerate(counts):
            tall = height * problems / tallest
            words = f"{label}: {problems:,} problems solved in {index / 10:.1f} to {(index + 1) / 10:.1f} of samples"
            parts.append(
                f'<rect class="bar" x="{MARGIN + width * index + 1:.1f}" y="{base - tall:.1f}" '
                f'width="{width - 2:.1f}" height="{tall:.1f}"><title>{escape(words)}</title></rect>'
            )
        parts.append(f'<path class="zero" d="M{MARGIN} {base}h{inner}"/></g>')
    bottom = (height + 30) * len(rows) + 2
    parts.append(text_at(MARGIN, bottom, "never right", "tick"))
    parts.append(text_at(WIDTH - MARGIN, bottom, "always right", "tick", "end"))
    return drawing(title, bottom + 8, parts)


def rate_against_rate(
    title: str, cells: Mapping[tuple[float, float], int], across: tuple[str, str], upwards: tuple[str, str]
) -> str:
    """How many problems two models solve at which rates: circles of as much area as problems, and the diagonal.

    Args:
        title: as of all figures.
        cells: problems by (rate of the model on the x axis, rate of the other).
        across: name and role of the model on the x axis.
        upwards: of the other, whose colour the circles have.
    """
    left, right, top, bottom = 44, WIDTH - 24, 20, 276
    most = max(cells.values())
    rates = len({rate for cell in cells for rate in cell})
    widest = min(17.0, 0.5 * (right - left) / max(2, rates - 1))

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x, bottom - (bottom - top) * y

    parts = _share_axis(left, right, top, bottom)
    parts.append(f'<path class="zero" d="M{left} {bottom}L{right} {top}"/>')
    parts += [
        text_at(place(tick, 0)[0], bottom + 22, number(tick), "tick", "middle")
        for tick in nice_ticks(0, 1, 5)
    ]
    parts.append(f'<g class="role-{escape(upwards[1])}">')
    for (x_rate, y_rate), problems in sorted(cells.items()):
        x, y = place(x_rate, y_rate)
        radius = max(1.6, widest * math.sqrt(problems / most))
        words = f"{problems:,} problems: {across[0]} {x_rate:.2f}, {upwards[0]} {y_rate:.2f}"
        parts.append(
            f'<circle class="bubble" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{escape(words)}</title></circle>'
        )
        if radius > 9:
            parts.append(text_at(x, y + 4, number(problems), "inside", "middle"))
    parts.append("</g>")
    parts.append(text_at((left + right) / 2, bottom + 38, f"share right: {across[0]}", "tick", "middle"))
    middle = (top + bottom) / 2
    parts.append(
        f'<text class="tick" text-anchor="middle" transform="translate(11 {middle}) rotate(-90)">'
        f"share right: {escape(upwards[0])}</text>"
    )
    return drawing(title, bottom + 44, parts)


def outcome_bars(title: str, rows: Sequence[tuple[str, Mapping[str, int]]]) -> str:
    """What became of each model's samples, as parts of one bar; what is not there is not in the legend."""
    inner = WIDTH - 2 * MARGIN
    kinds = [kind for kind in OUTCOMES if any(counts.get(kind) for _, counts in rows)]
    parts, x = [], float(MARGIN)
    y = 0.0
    for kind in kinds:
        words = kind.replace("_", " ")
        wide = 24 + 6.3 * len(words)
        if x + wide > WIDTH and x > MARGIN:
            x, y = float(MARGIN), y + 17
        parts.append(
            f'<rect class="outcome-{kind}" x="{x:.1f}" y="{y + 2:.1f}" width="10" height="10" rx="2"/>'
        )
        parts.append(text_at(x + 14, y + 11, words, "tick"))
        x += wide
    y += 24
    for label, counts in rows:
        total = sum(counts.values())
        parts.append(text_at(MARGIN, y + 12, shorten(label), "label"))
        parts.append(text_at(WIDTH - MARGIN, y + 12, f"{total:,} samples", "tick", "end"))
        x = float(MARGIN)
        for kind in kinds:
            wide = inner * counts.get(kind, 0) / total if total else 0.0
            if wide:
                words = f"{label}: {counts[kind]:,} {kind.replace('_', ' ')} ({counts[kind] / total:.3f})"
                parts.append(
                    f'<rect class="outcome-{kind}" x="{x:.1f}" y="{y + 18:.1f}" width="{wide:.1f}" height="10">'
                    f"<title>{escape(words)}</title></rect>"
                )
            x += wide
        y += 38
    return drawing(title, y, parts)


def shares_over_time(
    title: str, steps: Sequence[int], counts: Sequence[Sequence[int]], role: str, x_label: str
) -> str:
    """A histogram at each step, as parts of one column: from `SOLVED`'s last at the bottom to its first at the top.

    Args:
        title: as of all figures.
        steps: in ascending order.
        counts: at each of them how many there are of each of `SOLVED`; none may be empty.
        role: gives the colour of what is solved in part.
    """
    left, right, top, bottom = 34, WIDTH - MARGIN, 24, 150
    size = math.ceil(len(counts) / MOST_BARS)
    stretches = [counts[at : at + size] for at in range(0, len(counts), size)]
    wide = (right - left) / len(stretches)
    parts = [f'<g class="role-{escape(role)}">']
    paths = [""] * len(SOLVED)
    for place, stretch in enumerate(stretches):
        sums = [sum(column) for column in zip(*stretch, strict=True)]
        y = float(bottom)
        for kind in reversed(range(len(SOLVED))):
            tall = (bottom - top) * sums[kind] / sum(sums)
            y -= tall
            if tall:
                paths[kind] += f"M{left + wide * place:.2f} {y:.2f}h{wide:.2f}v{tall:.2f}h{-wide:.2f}z"
    legend_x = float(left)
    for kind, name in enumerate(SOLVED):
        first, last = counts[0], counts[-1]
        told = f"{first[kind]:,} of {sum(first):,} at first, {last[kind]:,} of {sum(last):,} at last"
        words = f"solved {_in_words(kind)}: {told}"
        parts.append(f'<path class="solved-{kind}" d="{paths[kind]}"><title>{escape(words)}</title></path>')
        parts.append(f'<rect class="solved-{kind}" x="{legend_x:.1f}" y="3" width="10" height="10" rx="2"/>')
        parts.append(text_at(legend_x + 14, 12, name, "tick"))
        legend_x += 26 + 6.3 * len(name)
    parts.append("</g>")
    for share in (0, 0.5, 1):
        parts.append(text_at(left - 6, bottom - (bottom - top) * share + 4, number(share), "tick", "end"))
    parts.append(text_at(left, bottom + 16, number(steps[0]), "tick"))
    parts.append(text_at((left + right) / 2, bottom + 16, x_label, "tick", "middle"))
    if len(steps) > 1:
        parts.append(text_at(right, bottom + 16, number(steps[-1]), "tick", "end"))
    return drawing(title, bottom + 24, parts)


def spread(heights: Sequence[float], apart: float) -> list[float]:
    """The same heights moved downwards as little as needed for each to be ``apart`` from the one above it."""
    moved = list(heights)
    last = -math.inf
    for place in sorted(range(len(heights)), key=heights.__getitem__):
        moved[place] = last = max(heights[place], last + apart)
    return moved


def _in_words(kind: int) -> str:
    if kind in (0, len(SOLVED) - 1):
        return SOLVED[kind]
    quarters = len(SOLVED) - 2
    return f"in {(kind - 1) / quarters:g} to {kind / quarters:g} of its answers"


def _share_axis(left: float, right: float, top: float, bottom: float) -> list[str]:
    parts = []
    for tick in nice_ticks(0.0, 1.0, 5):
        y = bottom - (bottom - top) * tick
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(text_at(left - 6, y + 4, number(tick), "tick", "end"))
    return parts


def _powers(first: float, last: float) -> list[float]:
    """Powers of ten within the exponents [first, last]; 1, 2 and 5 times each where those are fewer than two."""
    tens = [10.0**power for power in range(math.ceil(first), math.floor(last) + 1)]
    if len(tens) >= 2:
        return tens
    steps = [
        factor * 10.0**power
        for power in range(math.floor(first), math.ceil(last) + 1)
        for factor in (1, 2, 5)
    ]
    return [step for step in steps if first <= math.log10(step) <= last]


def _short(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"


def _legend(models: Sequence[Interval], places: Sequence[tuple[float, float]]) -> list[str]:
    parts = []
    for model, (x, y) in zip(models, places, strict=True):
        parts.append(f'<g class="role-{escape(model.role)}">{mark(x + 6, y + 8, model.role, False)}</g>')
        parts.append(text_at(x + 16, y + 12, shorten(model.label, NAME_LENGTH), "tick"))
    return parts


def _legend_places(labels: Sequence[str]) -> list[tuple[float, float]]:
    places, x, y = [], float(MARGIN), 0.0
    for label in labels:
        wide = 30 + 6.2 * min(len(label), NAME_LENGTH)
        if x + wide > WIDTH and x > MARGIN:
            x, y = float(MARGIN), y + 18
        places.append((x, y))
        x += wide
    return places
