"""A finished trace set on disk: ``traces.parquet`` (kept and rejected), ``funnel.json`` and ``README.md``, its card.

Harvested and imported sets look the same, so whatever reads one reads the other. Where suites were to be kept out,
``contamination.jsonl`` tells what overlapped with what; where near duplicates were looked for, ``signatures.u32`` holds
the rows' signatures, so that they need not be made again. ``problems.jsonl`` of an adaptive harvest, or of one part of
the problems, holds each problem's place, and what became of it.

A set is decided in two passes over a file, so that memory holds some 600 bytes a trace and never the texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distill.recipe_filters import Filters
from distill.records import Trace
from distill.runs import write_json_atomic, write_text_atomic
from distill.shards import open_parquet, replacing, write_parquet
from teacher.contamination import Suites
from teacher.facts import Facts
from teacher.filters import Decisions, changed, decide_facts
from teacher.funnel import Examples, as_lines, make_funnel

TRACES = "traces.parquet"
FUNNEL = "funnel.json"
CARD = "README.md"
LEDGER = "contamination.jsonl"
SIGNATURES = "signatures.u32"
PROBLEMS = "problems.jsonl"
_UNDECIDED = ".undecided.parquet"
_ROWS = 500  # held at a time while decisions are written: 500 traces of 32k tokens are 50 MB


def write_trace_set(
    folder: Path,
    traces: Iterable[Trace],
    filters: Filters,
    keep_per_problem: int | None,
    facts: Mapping[str, object],
    *,
    suites: Suites | None = None,
    price: float | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Decide on every trace, write the files (each whole or not at all), and return the funnel.

    Args:
        traces: in any order; read once and not held.
        facts: where the traces come from, for the card.
        suites: the passages of the suites that ``filters.decontaminate`` names.
        price: money for a million generated tokens.
        more: further keys of the funnel.
    """
    for stale in (LEDGER, SIGNATURES, Path(SIGNATURES).with_suffix(".tmp").name):  # of a killed writer
        (folder / stale).unlink(missing_ok=True)
    columns = Facts(filters, suites, signatures=folder / SIGNATURES, ledger=folder / LEDGER)
    undecided = folder / _UNDECIDED
    try:
        write_parquet(undecided, columns.gathering(traces))
        identity = suites.identity if suites else {}
        return write_decided(
            folder, undecided, columns, filters, keep_per_problem, facts, identity=identity, price=price,
            more=more,
        )  # fmt: skip
    finally:
        undecided.unlink(missing_ok=True)


def write_decided(
    folder: Path,
    undecided: Path,
    columns: Facts,
    filters: Filters,
    keep_per_problem: int | None,
    facts: Mapping[str, object],
    *,
    identity: Mapping[str, str],
    price: float | None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The second pass: decide from the columns, and write the set from the file that they were gathered from.

    Args:
        identity: of the suites that were compared with, see `Suites`.
    """
    decisions = decide_facts(columns, filters, keep_per_problem)
    examples = _rewrite(undecided, folder / TRACES, columns, decisions)
    settings = {"filters": filters.model_dump(mode="json"), "keep_per_problem": keep_per_problem}
    told = {"settings": settings, "suites": dict(identity), "facts": dict(facts), "examples": examples.found}
    funnel = make_funnel(columns, decisions, price) | told | dict(more or {})
    write_json_atomic(folder / FUNNEL, funnel)
    limits = {
        "filters": filters.model_dump_json(exclude_none=True),
        "kept per problem": keep_per_problem or "all that pass",
    }
    write_text_atomic(folder / CARD, _card(folder.name, {**facts, **limits}, funnel))
    return funnel


def _rewrite(undecided: Path, path: Path, columns: Facts, decisions: Decisions) -> Examples:
    """The same rows with their decisions; batches of Arrow, as making a row of each would take ten times as long."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    examples, done, problem_B = Examples(), 0, columns["problem"]
    with open_parquet(undecided) as file, replacing(path) as temporary:
        schema = file.schema_arrow
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch in file.iter_batches(batch_size=_ROWS):
                table = pa.Table.from_batches([batch])
                rows = []
                for place, measured in enumerate(table.column("measures").to_pylist(), start=done):
                    rows.append(changed(decisions, place, problem_B[place], json.loads(measured)))
                _see(examples, table, rows)
                measures = [json.dumps(row["measures"], allow_nan=False) for row in rows]
                values = {
                    "measures": measures,
                    **{name: [row[name] for row in rows] for name in ("kept", "reason")},
                }
                for name, column in values.items():
                    at = schema.get_field_index(name)
                    table = table.set_column(at, schema.field(at), pa.array(column, schema.field(at).type))
                writer.write_table(table)
                done += len(rows)
    return examples


def _see(examples: Examples, table: Any, rows: list[dict[str, Any]]) -> None:
    for place, row in enumerate(rows):
        if row["reason"] and len(examples.found.get(row["reason"], [])) < Examples.EACH:
            told = {
                name: table.column(name)[place].as_py() for name in ("id", "verdict", "tokens", "completion")
            }
            examples.see(told | {"reason": row["reason"]}, row["measures"])


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
that it failed. `measures` holds what each filter looked at.

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
