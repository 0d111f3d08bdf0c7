"""A trace set to look at: samples of what was kept and of what each filter rejected, on one page that opens offline.

The page has no script, asks for nothing (its policy forbids all requests), and every text is escaped, so that nothing
a model wrote can do anything. What is shown is drawn by the hashes of the traces' ids: the same every time.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from distill.chat import split_thought

CHARACTERS = 20_000  # of one text; a longer one loses its middle
KEPT = "kept"


class Samples:
    """The rows to show, chosen while all of them pass: as many of each reason as of any other, as far as there are.

    Args:
        shown: how many in all; memory holds so many of each reason.
    """

    def __init__(self, shown: int) -> None:
        self.shown = shown
        self.seen: dict[str, int] = {}
        self._heaps: dict[str, list[tuple[int, str, dict[str, Any]]]] = {}

    def see(self, trace_id: str, reason: str, row: Mapping[str, Any]) -> None:
        """Note a decided row (its ``reason``, or `KEPT`)."""
        self.seen[reason] = self.seen.get(reason, 0) + 1
        heap = self._heaps.setdefault(reason, [])
        digest = hashlib.sha256(trace_id.encode("utf-8", "surrogatepass")).digest()
        lot = -int.from_bytes(digest[:8], "big")
        if len(heap) < self.shown:
            heapq.heappush(heap, (lot, trace_id, dict(row)))
        elif lot > heap[0][0]:
            heapq.heapreplace(heap, (lot, trace_id, dict(row)))

    def chosen(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each reason, those of kept traces first."""
        groups = {reason: sorted(heap, reverse=True) for reason, heap in sorted(self._heaps.items())}
        groups = {reason: groups[reason] for reason in sorted(groups, key=lambda reason: reason != KEPT)}
        left, shares = self.shown, {}
        smallest_first = sorted(groups, key=lambda reason: len(groups[reason]))
        for waiting, reason in enumerate(smallest_first):
            shares[reason] = min(len(groups[reason]), -(-left // (len(groups) - waiting)))
            left -= shares[reason]
        return {
            reason: [row for _, _, row in group[: shares[reason]]]
            for reason, group in groups.items()
            if shares[reason]
        }


def samples_page(name: str, samples: Samples) -> str:
    """The whole page. Rows are those of a trace set's file: maps are JSON text."""
    style = (files("teacher") / "samples.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    chosen = samples.chosen()
    links = [f'<a href="#{escape(reason, quote=True)}">{escape(_title(reason))}</a>' for reason in chosen]
    sections = [
        f'<h2 id="{escape(reason, quote=True)}">{escape(_title(reason))} '
        f'<span class="quiet">{len(rows):,} of {samples.seen[reason]:,}</span></h2>\n'
        + "\n".join(map(_trace, rows))
        for reason, rows in chosen.items()
    ]
    about = f"{sum(map(len, chosen.values())):,} of {sum(samples.seen.values()):,} traces, drawn by lot."
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{digest}'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}: samples</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<h1>{escape(name)}</h1>\n<p class="quiet">{about}</p>\n<nav>{"".join(links)}</nav>\n'
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _title(reason: str) -> str:
    return reason if reason == KEPT else f"rejected: {reason}"


def _trace(row: Mapping[str, Any]) -> str:
    verdict = str(row["verdict"])
    state = KEPT if row["kept"] else f"rejected: {row['reason']}"
    tokens = f"{row['tokens']:,} tokens" if row["tokens"] else f"{len(row['completion']):,} characters"
    split = split_thought(row["completion"])
    answer = "" if split.answer is None else split.answer
    thought = row["completion"][: len(row["completion"]) - len(answer)]
    ends = "" if split.answer is not None else " (it never ends, so there is no answer)"
    folded = (
        f'<details class="thought"><summary>thought, {len(thought):,} characters{ends}</summary>'
        f"{_text(thought)}</details>"
        if thought
        else ""
    )
    facts = {
        "trace": row["id"],
        "source": row["source"],
        "teacher": row["teacher"],
        "reference": row["reference"],
        "tests": _cut(row["tests"] or "", 2000),
        "extracted": row["extracted"],
        "ended by": row["finish_reason"],
        **{name: f"{value:.4g}" for name, value in sorted(json.loads(row["measures"] or "{}").items())},
    }
    cells = "".join(
        f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>"
        for name, value in facts.items()
        if value not in (None, "")
    )
    return (
        f'<details class="trace"><summary><b>{escape(" ".join(row["problem"].split())[:160])}</b>'
        f'<span class="{escape(verdict, quote=True)}">{escape(verdict)}</span><span>{escape(state)}</span>'
        f"<span>{tokens}</span></summary>\n{_text(row['problem'], 'text problem')}{folded}{_text(answer)}"
        f"<table>{cells}</table></details>"
    )


def _text(text: str, kind: str = "text") -> str:
    return f'<div class="{kind}">{escape(_cut(text, CHARACTERS))}</div>' if text.strip() else ""


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    left_out = f"\n[{len(text) - most:,} characters left out]\n"
    return text[: most // 2] + left_out + text[len(text) - most // 2 :]
