"""What a decision over a whole trace set needs to know, in columns: some 100 bytes a trace, 600 with signatures.

So a set of any length is decided in two passes over its file: one gathers this, the other writes what was decided.

Legend: B traces of a set, P problems, K places of a signature.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.chat import tags_in
from distill.language import share_of
from distill.recipe_filters import Filters
from distill.records import FinishReason, Trace, Verdict
from distill.shards import append_rows
from teacher.contamination import Suites
from teacher.measures import LANGUAGE, is_measured, measure
from teacher.minhash import PLACES, Signatures
from teacher.reading import Reading, read_all

#: Added to a suite's name: the share of words that a trace has in common with a text of the suite, 0 where it is clean.
OVERLAP = "overlap."
VERDICTS = list(Verdict)
#: 1 where a person kept a trace, 0 where one dropped it; not there where nobody decided.
REVIEWED = "reviewed"

_TYPES = {
    "problem": "i", "source": "i", "sample": "q", "tokens": "q", "verdict": "b", "finished": "b", "verified": "b",
    "well_formed": "b", "language": "f", "repetition": "f", "loop": "f", "paragraph": "i", "code": "b",
    "overlap": "f", "reviewed": "b", "text": "Q",
}  # fmt: skip


class Facts:
    """Columns that grow while traces pass, and the names that their numbers stand for.

    Args:
        filters: say which language and which suites are asked about, and whether signatures are needed.
        suites: the passages to compare with; None where nothing is to be kept out, or the rows bring their overlaps.
        signatures: a file that holds the rows' signatures, or is to hold them; None: they are kept in memory.
        ledger: the file that every overlap is told to.
    """

    def __init__(
        self,
        filters: Filters,
        suites: Suites | None = None,
        *,
        signatures: Path | None = None,
        ledger: Path | None = None,
    ) -> None:
        self._target = filters.language.target if filters.language else None
        self._decontaminate = filters.decontaminate
        self._suites = suites
        self._ledger = ledger
        self._columns = {name: array(kind) for name, kind in _TYPES.items()}
        self.problems: dict[str, int] = {}
        self.sources: dict[str, int] = {}
        self.needs_signatures = filters.near_duplicates is not None or filters.diverse
        self._signature_file, self._signatures = signatures, array("I")
        self._told: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._columns["tokens"])

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        """One column [B]."""
        return np.frombuffer(self._columns[column], self._columns[column].typecode)

    def gathering(self, traces: Iterable[Trace]) -> Iterator[Trace]:
        """The same traces, counted, each with the measures that it lacked."""
        at_hand = self._signature_file is not None and self._signature_file.exists()
        sign = self.needs_signatures and not at_hand
        for trace, reading in read_all(traces, self._suites, sign):
            measures = trace.measures
            if not is_measured(measures):
                measures = measure(trace.completion, tags_in(trace.completion)) | measures
            if reading is not None:
                self._signatures.frombytes(reading.signature)
                if self._suites is not None:
                    measures = {**measures, **self._overlaps(trace, reading)}
            self._add(trace, measures)
            if len(self) % 1000 == 0:
                self._write()
            yield trace if measures is trace.measures else trace.model_copy(update={"measures": measures})
        self._write()
        if sign and self._signature_file is not None:
            self._signature_file.with_suffix(".tmp").replace(self._signature_file)

    def _write(self) -> None:
        if self._told and self._ledger is not None:
            append_rows(self._ledger, self._told)
        self._told = []
        if self._signatures and self._signature_file is not None:
            with self._signature_file.with_suffix(".tmp").open("ab") as file:
                self._signatures.tofile(file)
            self._signatures = array("I")

    def _add(self, trace: Trace, measures: dict[str, float]) -> None:
        shares = {
            name.removeprefix(LANGUAGE): value
            for name, value in measures.items()
            if name.startswith(LANGUAGE)
        }
        row = {
            "problem": self.problems.setdefault(trace.problem_id, len(self.problems)),
            "source": self.sources.setdefault(trace.source, len(self.sources)),
            "sample": trace.sample_index,
            "tokens": trace.tokens,
            "verdict": VERDICTS.index(trace.verdict),
            "finished": _finished(trace, measures),
            "verified": trace.verdict is Verdict.CORRECT
            or (trace.kind == "open" and trace.verdict is Verdict.UNVERIFIED),
            "well_formed": measures["well_formed"] == 1,
            "language": share_of(shares, self._target) if self._target else 1.0,
            "repetition": measures["repetition"],
            "loop": measures["loop"],
            "paragraph": int(measures["longest_paragraph"]),
            "code": trace.kind != "code" and measures["code_blocks"] > 0,
            "overlap": max((measures[OVERLAP + suite] for suite in self._decontaminate), default=0.0),
            "reviewed": measures.get(REVIEWED) == 1,
            "text": int.from_bytes(
                hashlib.sha256(trace.completion.encode("utf-8", "surrogatepass")).digest()[:8], "big"
            ),
        }
        for name, value in row.items():
            self._columns[name].append(value)

    def _overlaps(self, trace: Trace, reading: Reading) -> dict[str, float]:
        """How much a trace, question or completion, has in common with each suite; all of it is for the ledger."""
        assert self._suites is not None
        shares = {OVERLAP + suite: 0.0 for suite in self._suites.identity}
        for where, matches in (("problem", reading.question), ("completion", reading.completion)):
            for match in matches:
                shares[OVERLAP + match.suite] = max(shares[OVERLAP + match.suite], match.share)
                self._told.append({"trace": trace.id, "in": where, **match._asdict()})
        return shares

    def signatures(self) -> Signatures:
        """Of each trace [B, K]; empty where no filter needs them."""
        if not self.needs_signatures:
            return np.empty((0, PLACES), np.uint32)
        if self._signature_file is None:
            return np.frombuffer(self._signatures, np.uint32).reshape(-1, PLACES)
        return np.fromfile(self._signature_file, np.uint32).reshape(-1, PLACES)


def _finished(trace: Trace, measures: dict[str, float]) -> bool:
    if trace.finish_reason is None:  # nobody knows why it ended, but a thought without end was cut off
        return not measures["unclosed_thought"]
    return trace.finish_reason is FinishReason.STOP
