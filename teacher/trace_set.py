"""A finished trace set on disk: ``traces.parquet`` (kept and rejected), ``funnel.json`` and ``README.md``, its card.

Harvested and imported sets look the same, so whatever reads one reads the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distill.recipe_parts import Filters
from distill.records import Trace
from distill.runs import write_json_atomic, write_text_atomic
from distill.shards import write_parquet
from teacher import filters as rules
from teacher.funnel import Tally, as_lines

TRACES = "traces.parquet"
FUNNEL = "funnel.json"
CARD = "README.md"


def write_trace_set(
    folder: Path,
    traces: Iterable[Trace],
    filters: Filters,
    keep_per_problem: int | None,
    facts: Mapping[str, object],
) -> dict[str, Any]:
    """Decide on every trace, write the three files (each whole or not at all), and return the funnel.

    Args:
        traces: as `filters.decide` needs them; read once and not held.
        facts: where the traces come from, for the card.
    """
    tally = Tally(rules.steps(filters, keep_per_problem))
    decided = tally.passing(rules.decide(traces, filters, keep_per_problem))
    write_parquet(folder / TRACES, decided)
    funnel = tally.funnel()
    write_json_atomic(folder / FUNNEL, funnel)
    limits = {"filters": filters.model_dump_json(), "kept per problem": keep_per_problem or "all that pass"}
    write_text_atomic(folder / CARD, _card(folder.name, {**facts, **limits}, funnel))
    return funnel


def read_funnel(folder: Path) -> dict[str, Any]:
    """The funnel of a finished trace set."""
    funnel: dict[str, Any] = json.loads((folder / FUNNEL).read_text(encoding="utf-8"))
    return funnel


def _card(name: str, facts: Mapping[str, object], funnel: dict[str, Any]) -> str:
    # A pipe or a line break would end the table's cell: instructions hold both.
    cells = {fact: str(value).replace("|", "\\|").replace("\n", "<br>") for fact, value in facts.items()}
    table = "\n".join(f"| {fact} | {value} |" for fact, value in cells.items())
    lines = "\n".join(as_lines(funnel))
    return f"""---
configs:
- config_name: default
  data_files: {TRACES}
---
# Traces: {name}

| | |
|---|---|
{table}

## Funnel

Every trace that was read is in the file: a rejected one has `kept = false`, and `reason` names the first filter
that it failed.

```
{lines}
```

## Loading

```python
from datasets import load_dataset

traces = load_dataset("parquet", data_files="{TRACES}", split="train")
kept = traces.filter(lambda row: row["kept"])
```

`completion` is the teacher's own text, thought included. `tests`, `sampling` and `measures` are JSON text.
"""
