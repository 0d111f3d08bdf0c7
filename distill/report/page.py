"""The report as one HTML file that opens offline and cannot be talked into anything by a model's text.

Three walls: every word outside the data block is escaped; the data block is JSON without `<`, `>` and `&`, whose
contents the script only ever sets as `textContent`; and the page's own policy forbids all network and every script
and style but the two of this package, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from distill.report.breakdowns import (
    curve_figures,
    difficulty_figures,
    outcome_figures,
    tag_figures,
    trade_off_figures,
)
from distill.report.drawings import (
    difference_figures,
    funnel_figure,
    gap_figures,
    result_figures,
)
from distill.report.excerpts import PROBLEMS_SHOWN, SAMPLES_SHOWN, TRACES_SHOWN
from distill.report.gather import RunReport
from distill.report.pieces import figures_html, list_html, table_html
from distill.report.tables import (
    cost_table,
    details_table,
    differences_table,
    funnel_note,
    funnel_table,
    pipeline_table,
    published_table,
    results_table,
    stages_table,
)
from distill.report.training import training_section
from distill.report.words import (
    PIPELINE_WORDS,
    at_a_glance,
    caveats,
    cost_notes,
    duration,
    gap_sentences,
    key_findings,
    protocol_words,
    statements,
    title_line,
)

#: In this order one script: formulas, the browser of rows, what the rows are.
SCRIPTS = ("latex.js", "formulas.js", "reader.js", "page.js")


def render_page(run: RunReport) -> str:
    """The whole index.html."""
    style = _resource("figures.css") + _resource("page.css")
    script = "".join(map(_resource, SCRIPTS))
    sections = [
        ("results", "Results", _results(run)),
        ("published", "Published", _published(run)),
        ("differences", "Differences", _differences(run)),
        ("trade-offs", "Samples, tokens, size", _trade_offs(run)),
        ("groups", "Subjects and levels", figures_html(tag_figures(run))),
        ("difficulty", "Difficulty", _difficulty(run)),
        ("cost", "Cost", _cost(run)),
        ("training", "Training", training_section(run)),
        ("traces", "Traces", _traces(run)),
        ("answers", "Answers", _answers(run)),
        ("making", "Making", _making(run)),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    return Template(_resource("page.html")).substitute(
        title=escape(run.recipe.name),
        style=style,
        style_hash=_policy_hash(style),
        script=script,
        script_hash=_policy_hash(script),
        facts=escape(_facts(run)),
        headline=escape(title_line(run)),
        glance=_glance(run),
        findings=list_html(key_findings(run), "findings") + _all_findings(run),
        absent=_absent(run),
        links="".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in shown),
        sections="".join(
            f'<section id="{key}"><h2>{escape(title)}</h2>{body}</section>' for key, title, body in shown
        ),
        data=script_json(_data(run)),
    )


def script_json(data: Any) -> str:
    """JSON that may stand inside a script element whatever its strings hold: pure ASCII, no `<`, `>` or `&`.

    Pure ASCII also covers U+2028, U+2029 and lone surrogates, which are all legal in what a model may say.
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# ---------------------------------------------------------------------------------------------- sections


def _results(run: RunReport) -> str:
    if not run.models:
        return ""
    lead = (
        "<p>Share of held-out problems answered correctly (pass@1, the mean over all samples), "
        "with its 95% interval.</p>"
    )
    details = []
    for suite in run.suites:
        protocol = protocol_words(run.protocols[suite])
        note = f'<p class="note">Protocol: {escape(protocol)}</p>' if protocol else ""
        details.append(f"<h3>{escape(suite)}</h3>{table_html(details_table(run, suite))}{note}")
    notes = list_html(caveats(run), "note")
    outcomes = figures_html(outcome_figures(run))
    if outcomes:
        outcomes = f"<h3>What became of every sample</h3>{outcomes}"
    results = table_html(results_table(run)) + figures_html(result_figures(run))
    if (pipeline := pipeline_table(run)).rows:
        words = f"<h3>Stage by stage</h3><p>{escape(PIPELINE_WORDS)}</p>"
        results += words + table_html(pipeline)
    return lead + results + notes + outcomes + "".join(details)


def _published(run: RunReport) -> str:
    if not run.published:
        return ""
    lead = (
        "<p>What others published, beside what was measured here. Inside: the published value lies within the 95% "
        "interval of the measured one; above or below: the measured one lies there with all of its interval. "
        "Numbers of different protocols are not comparable, and are not compared.</p>"
    )
    return lead + table_html(published_table(run))


def _trade_offs(run: RunReport) -> str:
    parts = []
    if curves := curve_figures(run):
        lead = "<p>pass@k: at least one of k answers is right. cons@k: the answer that most of k give is right.</p>"
        parts.append(lead + figures_html(curves))
    if spots := trade_off_figures(run):
        parts.append(f"<h3>Accuracy against what it takes <small>pass@1</small></h3>{figures_html(spots)}")
    return "".join(parts)


def _difficulty(run: RunReport) -> str:
    drawn = difficulty_figures(run)
    if not drawn:
        return ""
    lead = (
        "<p>How hard the problems are to each model: many at one end mean that more of such problems would tell "
        "little. In the square, a circle above the diagonal holds problems that the student solves more often than "
        "its teacher.</p>"
    )
    return lead + figures_html(drawn)


def _differences(run: RunReport) -> str:
    if not run.comparisons:
        return ""
    lead = (
        "<p>Differences of pass@1 between two models on the same problems, with 95% intervals. "
        "A hollow mark means that the interval holds 0: these two cannot be told apart here.</p>"
    )
    gap = (
        "<h3>Gap closed</h3><p>(model \u2212 base) / (teacher \u2212 base): 0 is the base, 1 the teacher.</p>"
        + figures_html(gap_figures(run))
        + list_html(gap_sentences(run), "note")
        if run.gap_closed
        else ""
    )
    table = f"<details><summary>As a table</summary>{table_html(differences_table(run))}</details>"
    return lead + figures_html(difference_figures(run)) + table + list_html(statements(run), "note") + gap


def _cost(run: RunReport) -> str:
    table = cost_table(run)
    if not table.rows:
        return ""
    lead = (
        "<p>Tokens that each model took to make. With its teacher: the teacher's own training and the sampling of "
        "the traces counted in.</p>"
    )
    return lead + table_html(table) + list_html(cost_notes(run), "note")


def _traces(run: RunReport) -> str:
    parts = []
    for name in dict.fromkeys([*run.funnels, *run.traces]):
        parts.append(f"<h3>{escape(name)}</h3>")
        if name in run.funnels:
            parts.append(f'<div class="beside">{figures_html([funnel_figure(run, name)])}')
            parts.append(f"<div>{table_html(funnel_table(run, name))}</div></div>")
            parts.append(f'<p class="note">{escape(funnel_note(run, name))}</p>')
        if name in run.traces:
            excerpt = run.traces[name]
            balance = (
                ", balanced over kept ones and each reason of rejection"
                if excerpt.total > TRACES_SHOWN
                else ""
            )
            words = f"{len(excerpt.rows):,} of {excerpt.total:,} traces to read{balance}."
            parts.append(_browser("traces", name, words + _shortened(excerpt.shortened)))
    return "".join(parts)


def _answers(run: RunReport) -> str:
    lines = []
    for suite, excerpt in run.answers.items():
        if excerpt.problems:
            chosen = ", chosen by lot" if excerpt.total > PROBLEMS_SHOWN else ""
            words = f"{suite}: {len(excerpt.problems):,} of {excerpt.total:,} problems{chosen}."
            lines.append(words + _shortened(excerpt.shortened))
    if not lines:
        return ""
    lead = f"Of each model at most {SAMPLES_SHOWN} answers. A model is right on a problem when more than half are."
    return list_html(lines, "note") + _browser("answers", "", lead)


def _making(run: RunReport) -> str:
    versions = run.manifest.get("versions") or {}
    facts = [
        ("device", run.manifest.get("device")),
        ("precision", run.manifest.get("precision")),
        ("seed", run.recipe.seed),
        ("python", run.manifest.get("python")),
        *((name, versions.get(name)) for name in ("distill", "torch", "transformers", "vllm")),
    ]
    words = ", ".join(f"{name} {value}" for name, value in facts if value is not None)
    return f'{table_html(stages_table(run))}<p class="note">{escape(words)}.</p>'


# ---------------------------------------------------------------------------------------------- pieces


def _facts(run: RunReport) -> str:
    seconds = sum(stage.seconds or 0 for stage in run.stages)
    parts = [run.recipe.name, f"seed {run.recipe.seed}"]
    if device := run.manifest.get("device"):
        parts.append(f"{device}, {run.manifest.get('precision', 'unknown precision')}")
    return " \u00b7 ".join([*parts, duration(seconds)])


def _all_findings(run: RunReport) -> str:
    """The comparison's own sentences, of which there are many: one for each pair, suite and model."""
    if not run.findings:
        return ""
    summary = f"<summary>Every finding in a sentence ({len(run.findings)})</summary>"
    return f'<details class="absent">{summary}{list_html(run.findings, "note")}</details>'


def _absent(run: RunReport) -> str:
    if not run.absent:
        return ""
    summary = f"<summary>Not everything is there ({len(run.absent)})</summary>"
    return f'<details class="absent">{summary}{list_html(run.absent, "note")}</details>'


def _glance(run: RunReport) -> str:
    items = "".join(
        f'<div class="role-{escape(figure.role)}"><dt>{escape(figure.what)}</dt>'
        f"<dd>{escape(figure.value)}<small>{escape(figure.aside)}</small></dd></div>"
        for figure in at_a_glance(run)
    )
    return f'<dl class="glance">{items}</dl>' if items else ""


def _browser(kind: str, name: str, words: str) -> str:
    """The place where page.js builds a browser; without scripts only the words stand there."""
    return (
        f'<p class="note">{escape(words)}</p>'
        f'<div class="browser" data-kind="{kind}" data-name="{escape(name)}">'
        "<noscript>Reading them here needs JavaScript.</noscript></div>"
    )


def _shortened(rows: int) -> str:
    return f" The longest {rows:,} lost the middle of their text, and say so there." if rows else ""


def _data(run: RunReport) -> dict[str, Any]:
    """What page.js reads: chosen traces and answers. Models are listed with their roles, in the report's order."""
    return {
        "models": [{"name": model.name, "role": model.role} for model in run.models],
        "traces": {name: excerpt.rows for name, excerpt in run.traces.items()},
        "answers": {suite: excerpt.problems for suite, excerpt in run.answers.items()},
    }


def _policy_hash(text: str) -> str:
    """The source expression of a content security policy that allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _resource(name: str) -> str:
    return (files("distill.report") / name).read_text(encoding="utf-8")
