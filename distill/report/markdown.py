"""The report as Markdown: the same sentences, tables and figures as the page, for where no page can be opened."""

from __future__ import annotations

from html import escape

from distill.report.breakdowns import (
    curve_figures,
    difficulty_figures,
    outcome_figures,
    tag_figures,
    trade_off_figures,
)
from distill.report.course import training_figures
from distill.report.drawings import (
    Figure,
    difference_figures,
    funnel_figure,
    gap_figures,
    result_figures,
)
from distill.report.gather import RunReport
from distill.report.tables import (
    Cell,
    Table,
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
from distill.report.words import (
    PIPELINE_WORDS,
    caveats,
    cost_notes,
    gap_sentences,
    headline,
    key_findings,
    protocol_words,
    statements,
)


def render_markdown(run: RunReport) -> str:
    """The whole report.md."""
    parts = [f"# {_plain(run.recipe.name)}", f"**{_plain(headline(run))}**"]
    parts.append(_list(key_findings(run)))
    parts += ["## Findings", _list(run.findings)] if run.findings else []
    if run.models:
        parts += ["## Results", "pass@1 with 95% intervals over problems.", _table(results_table(run))]
        parts.append(_list(caveats(run)))
        if (pipeline := pipeline_table(run)).rows:
            parts += ["### Stage by stage", PIPELINE_WORDS, _table(pipeline)]
        for suite in run.suites:
            parts += [f"### {_plain(suite)}", _table(details_table(run, suite))]
            parts.append(
                _plain(f"Protocol: {protocol_words(run.protocols[suite])}") if run.protocols[suite] else ""
            )
        parts.append(_figures([*result_figures(run), *outcome_figures(run)]))
    if run.published:
        parts += ["## Published", _table(published_table(run))]
    if run.comparisons:
        parts += [
            "## Differences, paired by problem",
            _table(differences_table(run)),
            _list(statements(run)),
            _figures(difference_figures(run)),
        ]
    for title, drawn in (
        ("Samples, tokens, size", [*curve_figures(run), *trade_off_figures(run)]),
        ("Subjects and levels", tag_figures(run)),
        ("Difficulty", difficulty_figures(run)),
    ):
        parts += [f"## {title}", _figures(drawn)] if drawn else []
    if run.gap_closed:
        parts += ["## Gap closed", _list(gap_sentences(run)), _figures(gap_figures(run))]
    if any(model.cost for model in run.models):
        parts += ["## Cost in tokens", _table(cost_table(run)), _list(cost_notes(run))]
    for stage in run.stages:
        if drawn := training_figures(run, stage):
            parts += [f"## Training: {_plain(stage.name)} ({stage.kind})", _figures(drawn)]
    for name in run.funnels:
        parts += [
            f"## Traces: {_plain(name)}",
            _table(funnel_table(run, name)),
            _plain(funnel_note(run, name)),
        ]
        parts.append(_figures([funnel_figure(run, name)]))
    parts += ["## Stages", _table(stages_table(run))]
    if run.absent:
        parts += ["## Not there", _list(run.absent)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(table: Table) -> str:
    names = [_plain(column.removesuffix("*")) for column in table.columns]
    rules = [":--" if column.endswith("*") else "--:" for column in table.columns]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (names, rules, *rows))


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return _plain(cell)
    return _plain(f"{cell.main} ({cell.aside})" if cell.aside else cell.main)


def _figures(figures: list[Figure]) -> str:
    return "\n".join(f"![{_plain(figure.title)}](figures/{figure.file}.svg)" for figure in figures)


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no cell ends, no emphasis, one line."""
    for special in "\\`*_|[]":
        text = text.replace(special, f"\\{special}")
    return " ".join(escape(text, quote=False).split())
