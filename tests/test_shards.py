"""Rows survive a kill at any byte, and nothing broken is read past."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distill.shards
from distill.errors import RunFailed, UserError
from distill.problems import read_rows as problem_rows
from distill.records import FinishReason, Trace, Verdict
from distill.shards import append_rows, read_parquet, read_rows, repair, replacing, write_parquet, write_rows

ROWS = [{"id": f"p:{number}", "text": "line\nbreak \u2028 \u4e2d", "n": number} for number in range(4)]


def trace(**values: object) -> Trace:
    plain = {"id": "a", "problem_id": "p", "kind": "math", "problem": "1+1?", "completion": "2", "tokens": 3}
    return Trace.model_validate({**plain, "finish_reason": "stop", "teacher": "t", **values})


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    shard = tmp_path / "new" / "shard.jsonl"
    append_rows(shard, ROWS[:3])
    append_rows(shard, [])
    append_rows(shard, ROWS[3:])
    assert list(read_rows(shard)) == ROWS
    assert len(shard.read_bytes().splitlines()) == 4


def test_a_row_of_ours_and_a_lone_surrogate_can_be_written(tmp_path: Path) -> None:
    shard = tmp_path / "shard.jsonl"
    append_rows(shard, [trace(), {"text": "\ud800"}])
    first, second = read_rows(shard)
    assert Trace.model_validate(first) == trace()
    assert second == {"text": "\ud800"}


def test_tests_of_programs_with_a_lone_surrogate_go_through_parquet(tmp_path: Path) -> None:
    tests = {"type": "stdio", "cases": [{"input": "\ud800", "output": "\u00e9"}]}
    write_parquet(tmp_path / "t.parquet", [trace().model_copy(update={"tests": tests})])
    [found] = read_parquet(tmp_path / "t.parquet")
    assert found.tests == tests


def test_a_number_that_json_cannot_say_is_refused_and_nothing_written(tmp_path: Path) -> None:
    shard = tmp_path / "shard.jsonl"
    with pytest.raises(ValueError, match="JSON"):
        append_rows(shard, [ROWS[0], {"reward": float("nan")}])
    assert not shard.exists()


def test_a_shard_cut_at_any_byte_keeps_its_whole_rows(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    append_rows(whole, ROWS)
    data = whole.read_bytes()
    ends = [0] + [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    for size in range(len(data) + 1):
        shard = tmp_path / "cut.jsonl"
        shard.write_bytes(data[:size])
        rows = sum(end <= size for end in ends) - 1
        assert repair(shard) == size - ends[rows]
        assert list(read_rows(shard)) == ROWS[:rows]
        assert repair(shard) == 0


@pytest.mark.parametrize("tail", [b"{\n", b"\0\0\0\n", b"\0\0", b'"text"\n', b"\xff\n", b"\n"])
def test_a_last_line_that_is_no_object_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    shard = tmp_path / "shard.jsonl"
    append_rows(shard, ROWS[:1])
    with shard.open("ab") as file:
        file.write(tail)
    assert repair(shard) == len(tail)
    assert list(read_rows(shard)) == ROWS[:1]


def test_repair_of_nothing_drops_nothing(tmp_path: Path) -> None:
    assert repair(tmp_path / "none.jsonl") == 0
    assert not (tmp_path / "none.jsonl").exists()
    (tmp_path / "empty.jsonl").touch()
    assert repair(tmp_path / "empty.jsonl") == 0


def test_a_broken_line_in_the_middle_ends_the_run_with_its_place(tmp_path: Path) -> None:
    shard = tmp_path / "shard.jsonl"
    append_rows(shard, ROWS[:1])
    with shard.open("ab") as file:
        file.write(b"{broken\n")
    append_rows(shard, ROWS[1:])
    assert repair(shard) == 0
    with pytest.raises(RunFailed, match=r"shard\.jsonl, line 2: .*broken"):
        list(read_rows(shard))


def test_a_torn_line_is_not_read_past_either(tmp_path: Path) -> None:
    shard = tmp_path / "shard.jsonl"
    shard.write_bytes(b'{"a": 1}\n{"a": 2}')
    with pytest.raises(RunFailed, match="line 2"):
        list(read_rows(shard))


def test_a_finished_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "rows.jsonl"
    write_rows(file, iter(ROWS))
    assert list(read_rows(file)) == ROWS

    def fails() -> Iterator[dict[str, object]]:
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(file, fails())
    assert list(read_rows(file)) == ROWS and os.listdir(file.parent) == ["rows.jsonl"]


def test_replacing_leaves_old_or_new_and_no_litter(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "a.txt"
    with replacing(file) as temporary:
        temporary.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(file) as temporary:
        temporary.write_text("half of the n")
        assert file.read_text() == "old"
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    assert os.listdir(file.parent) == ["a.txt"]


def test_traces_come_back_from_parquet(tmp_path: Path) -> None:
    traces = [
        trace(),
        trace(
            reference="{1, 2}",
            measures={"repetition": 0.25, "tokens": 3.0},
            sampling={"top_p": 0.95, "max_tokens": 8},
        ),
        trace(
            reference={"any": ["1", '"2"']},
            verdict=Verdict.CORRECT,
            extracted="1",
            seed=2**63 - 1,
            kept=False,
        ),
        trace(reference='{"any": broken', finish_reason=None, reason="repetition 0.25 > 0.2"),
        trace(
            kind="code",
            tests={"type": "stdio", "cases": [{"input": "1\n", "output": "2\n"}], "time_limit": 2.0},
        ),
        trace(finish_reason=FinishReason.LENGTH, problem="\u4e2d\n\u2028", completion="\x00"),
    ]
    file = tmp_path / "new" / "traces.parquet"
    assert write_parquet(file, iter(traces)) == len(traces)
    assert list(read_parquet(file)) == traces
    assert pq.read_table(file, columns=["reference"]).to_pylist()[1] == {"reference": "{1, 2}"}


ALTERNATIVES = st.dictionaries(st.sampled_from(["any", "all"]), st.lists(st.text()), min_size=1, max_size=1)


@settings(max_examples=50, deadline=None)
@given(reference=st.none() | st.text() | ALTERNATIVES)
def test_any_reference_survives_parquet(tmp_path_factory: pytest.TempPathFactory, reference: object) -> None:
    file = tmp_path_factory.getbasetemp() / "reference.parquet"
    write_parquet(file, [trace(reference=reference)])
    assert [found.reference for found in read_parquet(file)] == [reference]


def test_parquet_is_written_in_groups_and_an_empty_set_keeps_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill.shards, "ROWS_PER_GROUP", 2)
    file = tmp_path / "traces.parquet"
    write_parquet(file, [trace(sample_index=number) for number in range(5)])
    assert pq.ParquetFile(file).num_row_groups == 3
    assert [row.sample_index for row in read_parquet(file)] == [0, 1, 2, 3, 4]
    write_parquet(file, [])
    assert list(read_parquet(file)) == []
    assert pq.read_schema(file).names == list(Trace.model_fields)


def test_what_is_no_parquet_file_of_traces_is_told(tmp_path: Path) -> None:
    file = tmp_path / "traces.parquet"
    file.write_text("id,problem\n")
    with pytest.raises(RunFailed, match=r"traces\.parquet: no Parquet file of traces"):
        list(read_parquet(file))


def test_a_long_file_is_never_held(tmp_path: Path) -> None:
    """Arrow holds what one group of 15 takes, not what was read before."""
    lots = random.Random(0)
    rows = (trace(id=str(number), completion=lots.randbytes(1000).hex()) for number in range(15_000))
    write_parquet(tmp_path / "t.parquet", rows)
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_parquet(tmp_path / "t.parquet")]
    assert max(held) < (tmp_path / "t.parquet").stat().st_size / 2


def test_a_spoilt_page_is_named(tmp_path: Path) -> None:
    """Whose foot is whole: pyarrow tells of it by an OSError that has no number."""
    file = tmp_path / "traces.parquet"
    write_parquet(file, [trace(problem=f"{number} + 1 = ?") for number in range(50)])
    whole = file.read_bytes()
    told = 0
    for at in range(4, len(whole) // 2, max(1, len(whole) // 60)):
        file.write_bytes(whole[:at] + bytes(byte ^ 0xFF for byte in whole[at : at + 9]) + whole[at + 9 :])
        try:
            list(read_parquet(file))
        except RunFailed as error:
            told += "no Parquet file of traces" in str(error)
        try:
            list(problem_rows(str(file), "train", "problems.p.path"))
        except UserError as error:
            told += "is no readable Parquet" in str(error)
    assert told > 20
