"""Pieces of the page: tables, figures, lists and folds as HTML, every word escaped."""

from __future__ import annotations

from html import escape

from distill.report.drawings import Figure
from distill.report.tables import Cell, Table


def table_html(table: Table) -> str:
    """A table that scrolls by itself where it is wider than the window."""
    words = [column.endswith("*") for column in table.columns]
    head = "".join(
        f"<th{_left(left)}>{escape(column.removesuffix('*'))}</th>"
        for column, left in zip(table.columns, words, strict=True)
    )
    lines = []
    for place, row in enumerate(table.rows):
        role = f' class="role-{escape(table.roles[place])}"' if table.roles else ""
        cells = "".join(f"<td{_left(left)}>{_cell(cell)}</td>" for cell, left in zip(row, words, strict=True))
        lines.append(f"<tr{role}>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _left(left: bool) -> str:
    return ' class="words"' if left else ""


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return escape(cell)
    return f"{escape(cell.main)}<small>{escape(cell.aside)}</small>" if cell.aside else escape(cell.main)


def figures_html(figures: list[Figure]) -> str:
    """Figures side by side, each under its title; nothing where there is none."""
    drawn = "".join(
        f"<figure><figcaption>{escape(figure.title)}</figcaption>{figure.svg}</figure>" for figure in figures
    )
    # Three stand side by side on a desk, where none of them would be left alone on the last line.
    style = "figures two" if len(figures) % 3 == 1 else "figures"
    return f'<div class="{style}">{drawn}</div>' if drawn else ""


def list_html(lines: list[str], style: str) -> str:
    """Lines as a list of that class; nothing where there is none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{style}">{items}</ul>' if items else ""


def fold(summary: str, body: str) -> str:
    """A body that is folded under its summary; nothing where it is empty."""
    return f'<details class="fold"><summary>{escape(summary)}</summary>{body}</details>' if body else ""
