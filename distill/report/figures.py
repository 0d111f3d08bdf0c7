"""The report's figures as SVG text: intervals on an axis, training curves, funnel bars.

Each figure is drawn 340 units wide, so that on a phone it fills the width and its text stays readable, and on a desk
several stand side by side. Colours are classes only (`role-teacher`, ...): the page's style sheet gives them light and
dark values, and `standalone` adds the same sheet to a figure saved as a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

WIDTH = 340
MARGIN = 8  # left and right of an axis, so that marks and tick labels at its ends are not cut
ROW_HEIGHT = 42  # of a dot plot: words above, mark below
LABEL_LENGTH = 34  # characters of a row's label that fit beside its value
MOST_POINTS = 300  # a longer curve is drawn as means of equal stretches


@dataclass(frozen=True, slots=True)
class Interval:
    """One row of a dot plot: ``value`` with its interval, coloured by ``role``; hollow where nothing is shown by it."""

    label: str
    role: str
    value: float
    low: float
    high: float
    text: str
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart; ``style`` is a class of figures.css. Points that are None or not finite are left out."""

    label: str
    style: str
    xs: Sequence[float]
    ys: Sequence[float | None]


def dot_plot(
    title: str, rows: Sequence[Interval], domain: tuple[float, float], captions: tuple[str, str] = ("", "")
) -> str:
    """Values with their intervals, one under another, on a common axis.

    Args:
        title: read aloud by screen readers and shown on hover.
        rows: top to bottom.
        domain: the axis' ends; where it holds 0 inside, 0 is drawn as a strong line.
        captions: what lies to the left and to the right, in words, under the axis.
    """
    low, high = domain
    inner = WIDTH - 2 * MARGIN

    def x(value: float) -> float:
        return MARGIN + inner * (min(max(value, low), high) - low) / (high - low)

    bottom = ROW_HEIGHT * len(rows) + 2
    ticks = nice_ticks(low, high, 5)
    parts = [text_at(x(tick), bottom + 14, number(tick), "tick", anchor_at(x(tick))) for tick in ticks]
    for place, row in enumerate(rows):
        y = ROW_HEIGHT * place + 28
        parts += [  # grid lines stop below the row's words, which they would run through
            f'<path class="{"zero" if tick == 0 and low < 0 else "grid"}" d="M{x(tick):.1f} {y - 8}v16"/>'
            for tick in ticks
        ]
        parts.append(text_at(MARGIN, y - 13, shorten(row.label), "label"))
        parts.append(text_at(WIDTH - MARGIN, y - 13, row.text, "value", "end"))
        parts.append(
            f'<g class="role-{escape(row.role)}"><title>{escape(row.label)}: {escape(row.text)}</title>'
        )
        left, right = x(row.low), x(row.high)
        whisker = f"M{left:.1f} {y - 3}v6M{left:.1f} {y}H{right:.1f}M{right:.1f} {y - 3}v6"
        parts.append(
            f'<path class="interval" d="{whisker}"/>{mark(x(row.value), y, row.role, row.hollow)}</g>'
        )
    height = bottom + 20
    if any(captions):
        height += 14
        parts.append(text_at(MARGIN, height - 5, captions[0], "tick"))
        parts.append(text_at(WIDTH - MARGIN, height - 5, captions[1], "tick", "end"))
    return drawing(title, height, parts)


def line_chart(title: str, curves: Sequence[Curve], x_label: str) -> str:
    """Curves over steps: raw points behind, a light smoothing (mean of the neighbours) in front.

    The y axis starts at 0 unless something is negative, so that a small change never looks like a large one.
    """
    drawn = [(curve, *_thin(curve.xs, curve.ys)) for curve in curves]
    xs = [x for _, curve_xs, _ in drawn for x in curve_xs]
    ys = [y for _, _, curve_ys in drawn for y in curve_ys]
    if not ys:
        return drawing(title, 40, [text_at(MARGIN, 24, "nothing measured", "tick")])
    ticks = nice_ticks(min(0.0, *ys), max(ys), 4)
    low, high = min(0.0, *ys), max(*ys, ticks[-1])
    high = high if high > low else low + 1.0
    first, last = min(xs), max(xs)
    left = max(38, 12 + 7 * max(len(number(tick)) for tick in ticks))
    right, top, bottom = WIDTH - MARGIN, 8 if len(curves) == 1 else 24, 150

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) if last > first else 0.5
        return left + (right - left) * across, bottom - (bottom - top) * (y - low) / (high - low)

    parts = []
    for tick in ticks:
        y = place(first, tick)[1]
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(text_at(left - 6, y + 4, number(tick), "tick", "end"))
    parts.append(text_at(left, bottom + 16, number(first), "tick"))
    parts.append(text_at((left + right) / 2, bottom + 16, x_label, "tick", "middle"))
    if last > first:
        parts.append(text_at(right, bottom + 16, number(last), "tick", "end"))
    legend_x = float(left)
    for curve, curve_xs, curve_ys in drawn:
        points = [place(x, y) for x, y in zip(curve_xs, curve_ys, strict=True)]
        smooth = [place(x, y) for x, y in zip(curve_xs, smoothed(curve_ys), strict=True)]
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in smooth)
        parts.append(f'<g class="{escape(curve.style)}"><path class="raw" d="{dots}"/>')
        if len(smooth) > 1:
            parts.append(f'<path class="curve" d="M{line}"/>')
        if len(curves) > 1:
            parts.append(f'<line class="curve" x1="{legend_x:.1f}" y1="9" x2="{legend_x + 14:.1f}" y2="9"/>')
            parts.append(text_at(legend_x + 19, 13, curve.label, "tick"))
            legend_x += 33 + 6.2 * len(curve.label)
        parts.append("</g>")
    return drawing(title, bottom + 24, parts)


def funnel_bars(title: str, total: int, steps: Sequence[tuple[str, int, int]], kept: int) -> str:
    """What each filter removed, as bars on the scale of the whole input: kept + all removed parts = input.

    Args:
        steps: (filter, removed there, left after it), in order.
    """
    inner = WIDTH - 2 * MARGIN
    rows = [("sampled", 0, total), *steps, ("kept", 0, kept)]
    parts = []
    for place, (label, removed, left) in enumerate(rows):
        y = 36 * place + 17
        shown = f"{left:,}" if not removed else f"\u2212{removed:,} \u2192 {left:,}"
        style = "kept" if place == len(rows) - 1 else "left"
        parts.append(text_at(MARGIN, y - 5, shorten(label), "label"))
        parts.append(text_at(WIDTH - MARGIN, y - 5, shown, "value", "end"))
        parts.append(f'<rect class="track" x="{MARGIN}" y="{y}" width="{inner}" height="9" rx="2"/>')
        width = inner * left / total if total else 0
        gone = inner * removed / total if total else 0
        parts.append(f'<rect class="{style}" x="{MARGIN}" y="{y}" width="{width:.1f}" height="9" rx="2"/>')
        if removed:
            parts.append(
                f'<rect class="removed" x="{MARGIN + width:.1f}" y="{y}" width="{gone:.1f}" height="9" rx="2"/>'
            )
    return drawing(title, 36 * len(rows), parts)


def standalone(svg: str) -> str:
    """A figure as a file of its own: with its name space and its style sheet."""
    sheet = (files("distill.report") / "figures.css").read_text(encoding="utf-8")
    head, rest = svg.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{sheet}</style>{rest}\n'


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value replaced by the mean of those within a 30th of the length on either side.

    At the ends the window is cut off rather than narrowed: a curve must not end on the noise of its last point.
    """
    reach = len(values) // 30
    windows = [values[max(0, place - reach) : place + reach + 1] for place in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """At most ``most`` + 1 round values (1, 2, 2.5 or 5 times a power of ten) that lie within [low, high]."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * most >= span * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) + 0.0 for place in range(first, last + 1)]


def number(value: float) -> str:
    """A number for an axis: short, with a true minus sign."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("e-0", "e-").replace("-", "\u2212")


def _thin(xs: Sequence[float], ys: Sequence[float | None]) -> tuple[list[float], list[float]]:
    """The finite points, as means of equal stretches where there are too many of them to draw."""
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None and math.isfinite(y)]
    size = max(1, math.ceil(len(points) / MOST_POINTS))
    stretches = [points[at : at + size] for at in range(0, len(points), size)]
    return (
        [sum(x for x, _ in stretch) / len(stretch) for stretch in stretches],
        [sum(y for _, y in stretch) / len(stretch) for stretch in stretches],
    )


def mark(x: float, y: float, role: str, hollow: bool) -> str:
    """A shape for each role, so that colour is never the only difference."""
    style = "mark hollow" if hollow else "mark"
    match role:
        case "teacher":
            return f'<rect class="{style}" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
        case "baseline":
            return f'<path class="{style}" d="M{x:.1f} {y - 6:.1f}l6 10.5h-12z"/>'
        case "published":
            return f'<path class="interval" d="M{x:.1f} {y - 7:.1f}v14"/>'
        case "base":
            return f'<path class="{style}" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6-6z"/>'
        case _:
            return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def anchor_at(x: float) -> str:
    """How a tick's label is anchored, so that it stays inside the figure."""
    if x < MARGIN + 10:
        return "start"
    return "end" if x > WIDTH - MARGIN - 10 else "middle"


def text_at(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def shorten(label: str, length: int = LABEL_LENGTH) -> str:
    return label if len(label) <= length else f"{label[: length - 1]}\u2026"


def drawing(title: str, height: float, parts: list[str]) -> str:
    words = escape(title)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" class="figure" role="img" aria-label="{words}">'
        f"<title>{words}</title>{''.join(parts)}</svg>"
    )
