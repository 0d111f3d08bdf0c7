"""Responses that were recorded elsewhere, judged as our own are: a result folder for each model and suite in a file.

The file is read twice: `eval.recorded_rows.survey` finds what is wrong with it before anything is written, then rows
are judged as a stream and each written down as soon as it is judged. A killed command judges the rows that are
missing. What the file does not say of its protocol is None there and listed as ``not_stated``: unknown, not equal.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.chat import KNOWN_TAGS, ThoughtTags, is_well_formed, tags_in
from distill.errors import UserError
from distill.generate.stream import Shard
from distill.problems import Row, read_rows
from distill.recipe_parts import Role
from distill.records import FinishReason, Verdict
from distill.runs import Progress, fingerprint, hash_path, write_json_atomic
from distill.shards import read_rows as read_shard
from distill.shards import write_rows
from distill.verify import Judgement, Response, check_stream
from eval.disagreements import Disagreements
from eval.logs import Log, open_log
from eval.recorded_rows import SAID, Group, Key, Reading, Recorded, survey
from eval.summary import summarise

_SHARD = "shard-000.jsonl"
_ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Source:
    """The file: a table with a map, or another tool's ``log``. ``digest`` is the SHA-256 of its bytes."""

    path: Path
    digest: str
    log: Log | None

    @classmethod
    def of(cls, path: Path, format: str | None) -> Source:
        """A table, or a log of one of `eval.logs`' formats.

        Raises:
            UserError: there is no such file, or it is no such log.
        """
        if not path.is_file():
            reason = "is a folder" if path.is_dir() else "there is no such file"
            raise UserError(
                "--responses", str(path), reason, "give a JSONL or Parquet file, or a log with --format"
            )
        return cls(path, hash_path(path), open_log(path, format) if format else None)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """The rows from the start, numbered from 1 (of a log: its samples)."""
        found = self.log.rows() if self.log else read_rows(str(self.path), "train", "--responses")
        return enumerate(found, start=1)


def score(
    source: Source, reading: Reading, out: Path, role: Role, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Judge every response of a file; the summaries, in the order in which their models and suites first come.

    Leaves ``OUT/results/MODEL/SUITE/{protocol.json,responses.jsonl,summary.json}`` and, where rows hold a stored
    verdict, ``OUT/disagreements.md``.

    Args:
        role: of the models, which the file does not tell.
        settings: what else decides about the judging (the map): another one there means another result.

    Raises:
        UserError: as `survey`; or a result folder holds what another file or evaluation left.
        RunFailed: a response file is broken in its middle.
    """
    groups = survey(source.rows(), reading, str(source.path))
    for line in _notes(groups, source):
        print(line, file=sys.stderr)
    folders = _folders(out, groups)
    results = {
        key: _Result(key, group, folders[key], _protocol(key, group, source, reading, settings))
        for key, group in groups.items()
    }
    for result in results.values():  # all of them before any is touched
        result.check()
    for result in results.values():
        result.open()
    _judge(source, reading, results)
    disagreements = Disagreements(reading.label) if reading.label else None
    summaries = [result.finish(role, disagreements) for result in results.values()]
    if disagreements is not None:
        disagreements.write(out / "disagreements.md")
    return summaries


def _judge(source: Source, reading: Reading, results: dict[Key, _Result]) -> None:
    """Judge and write down the rows that the results do not hold yet."""
    total = sum(result.group.rows for result in results.values())
    held = sum(result.held for result in results.values())
    if held == total:
        return
    waiting: deque[tuple[_Result, Recorded, int]] = deque()

    def responses() -> Iterator[Response | Judgement]:
        for one in reading.samples(source.rows()):
            result = results[one.key]
            index = result.next_index(one.problem.id)
            if result.holds(one.problem.id, index):
                continue
            waiting.append((result, one, index))
            if one.response is None:
                yield Judgement(Verdict.ERROR, None, one.fault, 0.0)
            else:
                yield Response(one.problem, one.prefill + one.response, one.finish_reason)

    with Progress(f"judging {source.path.name}", total=total, unit="row") as progress:
        progress.skip(held)
        for judgement in check_stream(responses()):
            result, one, index = waiting.popleft()
            result.add(_row(one, index, judgement))
            progress.advance(1)
        for result in results.values():
            result.flush()


def _row(one: Recorded, index: int, judgement: Judgement) -> Row:
    """As `eval.runner` writes it, but that ``tokens`` and ``finish_reason`` are None where the file tells none."""
    text = one.prefill + (one.response or "")
    failed = one.finish_reason is FinishReason.ERROR
    row = {
        "id": one.problem.id,
        "sample_index": index,
        "problem": one.problem.problem,
        "reference": one.problem.reference,
        "kind": one.problem.kind,
        "tags": one.problem.tags,
        "prefill": one.prefill,
        "completion": one.response or "",
        "tokens": one.tokens,
        "finish_reason": one.finish_reason,
        "verdict": Verdict.ERROR if failed else judgement.verdict,
        "extracted": judgement.extracted,
        "reason": "the recording says that the engine failed" if failed else judgement.reason,
        "well_formed": is_well_formed(text, tags_in(text, KNOWN_TAGS) or ThoughtTags()),
        "row": one.number,
    }
    told = {"label": one.label, "cut": one.cut or None}
    return row | {name: value for name, value in told.items() if value is not None}


# ------------------------------------------------------------------------------------ one result


@dataclass(slots=True)
class _Result:
    """The folder of one model on one suite."""

    key: Key
    group: Group
    folder: Path
    protocol: dict[str, Any]
    _shard: Shard | None = None
    _waiting: list[Row] = field(default_factory=list)
    _next: Counter[str] = field(default_factory=Counter)

    @property
    def _responses(self) -> Path:
        return self.folder / "responses.jsonl"

    def check(self) -> None:
        """Raises: UserError: the folder holds results of another file, or such as an engine was run for."""
        path = self.folder / "protocol.json"
        there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if there is None and not self._responses.exists():
            return
        if (there or {}).get("recorded", {}).get("sha256") != self.protocol["recorded"]["sha256"]:
            what = "another file" if there and "recorded" in there else "an evaluation that was run"
            reason = f"holds results of {what} for {self.key[0]} on {self.key[1]}"
            raise UserError("--out", str(self.folder), reason, "give another --out, or remove that folder")

    def open(self) -> None:
        """Go on with what is there, or, where this file was read otherwise, begin again.

        Raises:
            UserError: the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            reason = f"cannot be written: {error}"
            raise UserError("--out", str(self.folder), reason, "give another folder") from None
        path = self.folder / "protocol.json"
        there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if there != self.protocol:
            for name in ("summary.json", "responses.jsonl", _SHARD):
                if (old := self.folder / name).exists():
                    print(f"{old}: the file was read in another way; judging anew", file=sys.stderr)
                    old.unlink()
            write_json_atomic(path, self.protocol)
        if not self._responses.exists():
            self._shard = Shard(self.folder / _SHARD, self.group.problems, problem_key="id")

    @property
    def held(self) -> int:
        """How many rows are judged already."""
        return self.group.rows if self._shard is None else self._shard.held

    def next_index(self, problem_id: str) -> int:
        """The number of this problem's next sample: they are counted as they come."""
        self._next[problem_id] += 1
        return self._next[problem_id] - 1

    def holds(self, problem_id: str, index: int) -> bool:
        return self._shard is None or self._shard.holds(problem_id, index)

    def add(self, row: Row) -> None:
        self._waiting.append(row)
        if len(self._waiting) == _ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        if self._waiting and self._shard is not None:
            self._shard.append(self._waiting)
            self._waiting = []

    def finish(self, role: Role, disagreements: Disagreements | None) -> dict[str, Any]:
        """Put the rows together by problem, and write the summary."""
        if self._shard is not None:
            write_rows(self._responses, self._shard.rows())
            self._shard.remove()
        model, suite = self.key
        least, most = self.group.samples
        known = ({**row, "tokens": row["tokens"] or 0} for row in read_shard(self._responses))
        found = summarise(known, least)
        _leave_out_unknown(found, self.group)
        if most > least:
            found["cons@k"] = None  # a vote among more than k samples is no cons@k
        first = next(read_shard(self._responses))
        summary = {"model": model, "role": role, "params": None, "suite": suite, "kind": first["kind"]}
        summary |= {"protocol": _asked(self.protocol)} | found
        if disagreements is not None:
            summary["agreement"] = disagreements.count(model, suite, read_shard(self._responses))
        write_json_atomic(self.folder / "summary.json", summary)
        unanswered = summary["verdicts"].get(Verdict.NO_ANSWER, 0)
        if unanswered > self.group.rows / 2:
            doubt = "is that their kind (--kind, --map kind=...), and their whole text?"
            print(
                f"{model}: {suite}: {unanswered} of {self.group.rows} responses have no answer: {doubt}",
                file=sys.stderr,
            )
        if summary["ungraded"]:
            left_out = f"{summary['ungraded']} samples could not be graded and are left out"
            print(f"{model}: {suite}: {left_out}; see {self._responses}", file=sys.stderr)
        return summary


def _leave_out_unknown(found: dict[str, Any], group: Group) -> None:
    """None for figures that rest on what not every row states."""
    if group.with_tokens < group.rows:
        for name in ("tokens", "mean_tokens", "tokens_per_correct"):
            found[name] = None
        for problem in found["problems"]:
            if "tokens" in problem:
                problem["tokens"] = None
    if group.with_finish < group.rows:
        found["truncated"] = None


def _folders(out: Path, groups: dict[Key, Group]) -> dict[Key, Path]:
    """``OUT/results/MODEL/SUITE`` of each, with names that any file system takes."""
    folders: dict[Key, Path] = {}
    for key in groups:
        model, suite = map(_folder_name, key)
        folder = out / "results" / model / suite
        if folder in folders.values():
            other = next(other for other, place in folders.items() if place == folder)
            reason = f"shares its folder {folder} with {' on '.join(other)}"
            raise UserError(
                "--responses", " on ".join(key), reason, "score them apart, with --model and --out"
            )
        folders[key] = folder
    return folders


def _folder_name(name: str) -> str:
    plain = re.sub(r"[^\w.+=-]+", "-", name).strip("-.")
    return plain.encode()[:100].decode(errors="ignore") or "unnamed"  # file systems count bytes


# ------------------------------------------------------------------------------------ the protocol, as far as told


def _protocol(
    key: Key, group: Group, source: Source, reading: Reading, settings: dict[str, Any]
) -> dict[str, Any]:
    said = _said(group, source)
    least, most = group.samples
    return {
        "suite": key[1],
        "problems": _problems(group, reading),
        "instruction": said.pop("instruction"),
        "samples": least,
        "most_samples": most,
        "sampling": said,
        "seed": None,
        "model": key[0],
        "engine": "recorded",
        "recorded": {
            "file": source.path.name,
            "sha256": source.digest,
            "format": source.log.format if source.log else "rows",
            "settings": settings,
        },
    }


def _said(group: Group, source: Source) -> dict[str, Any]:
    """What the rows, or a log's head, say of the protocol; None where neither does."""
    head = source.log.said if source.log is not None else {}
    head = {name: said for name, said in head.items() if type(said) in (int, float) and math.isfinite(said)}
    return {
        name: head.get(name) if value is None else value for name, value in zip(SAID, group.said, strict=True)
    }


def _problems(group: Group, reading: Reading) -> str:
    """A fingerprint as `eval.runner` makes it of a suite's problems, so that both may be compared."""
    if reading.bank is not None:
        asked = [problem for problem in reading.bank.problems if problem.id in group.problems]
        return fingerprint([problem.model_dump(mode="json") for problem in asked])
    return fingerprint(sorted(group.problems.items()))


def _asked(protocol: dict[str, Any]) -> dict[str, Any]:
    """The summary's view of it; ``not_stated`` names what the recording does not tell."""
    asked = {**protocol["sampling"], "instruction": protocol["instruction"], "seed": None}
    asked |= {"problems": protocol["problems"], "not_stated": [name for name in SAID if asked[name] is None]}
    return asked | {"recorded": {name: protocol["recorded"][name] for name in ("file", "sha256", "format")}}


def _notes(groups: dict[Key, Group], source: Source) -> Iterator[str]:
    """What a reader of the figures must know of the file."""
    for (model, suite), group in groups.items():
        least, most = group.samples
        told = f"{model}: {suite}: "
        if most > least:
            yield (
                f"{told}problems have {least} to {most} responses: k = {least}; all count in pass@1 and, unbiased, "
                "in pass@k; there is no cons@k"
            )
        if group.repeated:
            yield f"{told}{group.repeated} responses repeat another of the same problem word for word; all count"
        if group.cut:
            yield f"{told}{group.cut} responses were cut when the file was made; what is left of them is judged"
        if group.two_ids:
            yield (
                f"{told}{group.two_ids} rows hold a problem's text under another id, and count as another problem; "
                "--map problem_id=problem groups by the text"
            )
        if group.mended:
            yield f"{told}{group.mended} responses held half a surrogate pair, which is U+FFFD now"
        said = _said(group, source)
        if missing := [name for name in SAID if said[name] is None]:
            yield f"{told}the file does not state {', '.join(missing)}"
