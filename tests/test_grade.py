"""`distill grade`: a verdict for each row, in order, whatever the rows hold; whole lines; agreement with real labels."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from distill.cli import main
from distill.records import Verdict
from distill.verify.programs import job_of

CASES = Path(__file__).parent / "cases"
ROWS = [
    {"id": 1, "kind": "math", "reference": "5", "response": r"<think>\boxed{6}</think>\boxed{5}"},
    {"id": "b", "kind": "math", "reference": 5, "response": r"\boxed{6}", "problem_id": "p", "sample_index": 3},
    {"id": 3, "kind": "choice", "reference": "C", "response": "The answer is (C)."},
    {"id": 4, "kind": "code", "tests": {"type": "python", "code": "assert f(1) == 2"}, "response": "```python\ndef f(x): return x + 1\n```"},
    {"id": 5, "kind": "code", "tests": {"type": "stdio", "cases": [{"input": "3", "output": "0.3333333"}]},
     "response": "```python\nprint(1 / int(input()))\n```"},
    {"id": 6, "kind": "open", "response": "A poem."},
    {"id": 7, "kind": "math", "reference": "5", "prefill": "<think>", "response": "so far", "finish_reason": "length"},
    {"id": 8, "kind": "math", "reference": "5", "response": "nothing"},
    {"id": 9, "kind": "math", "reference": ["5", "6"], "response": r"\boxed{6}"},
    {"id": 10, "kind": "math", "reference": "", "response": r"\boxed{6}"},
]  # fmt: skip
WANTED = [
    "correct",
    "wrong",
    "correct",
    "correct",
    "correct",
    "unverified",
    "truncated",
    "no_answer",
    "correct",
    "bad_reference",
]
BAD = [
    b"not json", b"[1, 2]", b'"text"', b"{}", b'{"id": 11}', b'{"id": 12, "kind": "maths", "response": "x"}', b'{"id": 13, "kind": "math", "response": 5}',
    b'{"id": 14, "kind": "math", "reference": "5", "response": "x", "finish_reason": "eos"}', b'{"id": 15, "kind": "math", "reference": {"any": 5}, "response": "x"}',
    b'{"id": 16, "kind": "code", "tests": [], "response": "x"}', b"\xff\xfe", b'{"id": ' + b"[" * 100_000, b'{"id": 1e999, "kind": null}', b'{"a": ' + b"9" * 10_000 + b"}",
]  # fmt: skip


def grade(path: Path, capsys, *options: str) -> list[dict]:
    out = path.with_suffix(".out")
    assert main(["grade", str(path), "--out", str(out), *options]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_every_kind_of_row_in_order(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    told = grade(file, capsys)
    assert [row["verdict"] for row in told] == WANTED
    assert [row["id"] for row in told] == [row["id"] for row in ROWS]
    assert told[1]["problem_id"] == "p" and told[1]["sample_index"] == 3
    assert (
        told[0].keys() == {"id", "verdict", "extracted", "reason", "seconds"} and told[0]["extracted"] == "5"
    )
    assert "10 rows: 5 correct" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


def test_malformed_rows_are_errors_with_their_reason_and_never_fewer(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    lines = [line for bad in BAD for line in (json.dumps(ROWS[0]).encode(), bad)]
    file.write_bytes(b"\n".join(lines))
    told = grade(file, capsys)
    assert [row["verdict"] for row in told] == ["correct", "error"] * len(BAD)
    for number, row in enumerate(told[1::2], 1):
        assert row["reason"].startswith(f"malformed row (line {2 * number}): "), row


def test_fields_and_tags_may_have_other_names(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"id": 1, "kind": "math", "gold": "5", "output": r"\boxed{6}[done]\boxed{5}"}))
    told = grade(file, capsys, "--map", "reference=gold,response=output", "--think-close", "[done]")
    assert told[0]["verdict"] == "correct"


def test_wrong_use_is_one_error(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text("{}")
    for options in (
        [str(tmp_path / "none")], [str(file), "--out", str(tmp_path)], [str(file), "--out", str(file)], [str(file), "--map", "answer=x"],
        [str(file), "--out", "/dev/null/x"],
    ):  # fmt: skip
        assert main(["grade", *options]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert file.read_text() == "{}"


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"PAR1\x15", "a Parquet file"), (b"\x1f\x8b\x08", "compressed"), (b'[{"id": 1}, {"id": 2}]', "one JSON list")],
)  # fmt: skip
def test_files_that_are_no_jsonl_are_refused(data, reason, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(data)
    assert main(["grade", str(file)]) == 2
    assert reason in capsys.readouterr().err


def test_what_is_not_ours_is_not_overwritten(tmp_path, capsys):
    file, out, link = tmp_path / "rows.jsonl", tmp_path / "out", tmp_path / "link"
    file.write_text(json.dumps(ROWS[0]))
    out.write_text("precious")
    os.link(file, link)
    for place in (out, link):
        assert main(["grade", str(file), "--out", str(place)]) == 2
    assert out.read_text() == "precious" and json.loads(file.read_text()) == ROWS[0]
    out.unlink()
    for _ in range(2):  # verdicts of another time may be replaced
        assert main(["grade", str(file), "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 1


def test_a_kind_for_all_rows_and_a_field_that_no_row_has(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": 1, "reference": [5, 6], "response": "#### 6"}')
    assert grade(file, capsys, "--kind", "math", "--map", "prefill=start")[0]["verdict"] == "correct"
    assert "no row has the field 'start'" in capsys.readouterr().err


def test_streams_in_and_out(tmp_path):
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
    command = [sys.executable, "-m", "distill.cli", "grade", "-"]
    done = subprocess.run(command, input=lines, capture_output=True, cwd=CASES.parents[1])
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(ROWS)
    many = lines * 2000
    told = subprocess.run(
        f"{' '.join(command)} | head -1", input=many, shell=True, capture_output=True, cwd=CASES.parents[1]
    )
    assert json.loads(told.stdout)["id"] == 1 and b"Traceback" not in told.stderr
    assert b"nobody reads" in told.stderr


def test_the_summary_as_json(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    assert main(["grade", str(file), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 10, "verdicts": dict(Counter(WANTED))}


def test_an_interrupted_run_leaves_whole_lines_and_goes_on(tmp_path, capsys):
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    tests = {"type": "python", "code": "assert f(1) == 2"}
    with file.open("w") as stream:
        for n in range(8000):
            program = f"```python\nn = {n}\ndef f(x): return x + 1\n```"
            stream.write(json.dumps({"id": n, "kind": "code", "tests": tests, "response": program}) + "\n")
    command = [sys.executable, "-m", "distill.cli", "grade", str(file), "--out", str(out)]
    process = subprocess.Popen(command, cwd=CASES.parents[1], stderr=subprocess.PIPE)
    while not out.exists() or out.stat().st_size < 5000:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    lines = out.read_bytes().splitlines(keepends=True)
    assert lines[-1].endswith(b"\n") and [json.loads(line)["id"] for line in lines] == list(range(len(lines)))
    assert len(lines) < 8000

    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(ROWS[0]))
    assert main(["grade", str(other), "--out", str(out)]) == 2
    assert "part of the verdicts of another command" in capsys.readouterr().err
    with out.open("ab") as stream:
        stream.write(b'{"id": 99999, "verd')  # a half line, as a power cut leaves it
    assert main(["grade", str(file), "--out", str(out)]) == 0
    told = out.read_bytes().splitlines(keepends=True)
    assert told[: len(lines)] == lines and [json.loads(line)["id"] for line in told] == list(range(8000))
    assert "8,000 rows: 8,000 correct" in capsys.readouterr().err


def test_ctrl_c_does_not_wait_for_what_math_verify_has_still_to_do(tmp_path):
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    slow = {"kind": "math", "reference": "5", "response": r"\boxed{\prod_{k=1}^{1000000} (k+\sqrt{k})}"}
    quick = {"kind": "math", "reference": "5", "response": r"\boxed{5}"}
    file.write_text("\n".join(json.dumps({"id": n} | (slow if n else quick)) for n in range(40)))
    command = [sys.executable, "-m", "distill.cli", "grade", str(file), "--out", str(out)]
    process = subprocess.Popen(command, cwd=CASES.parents[1], stderr=subprocess.PIPE)
    while not out.exists():
        time.sleep(0.02)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


def test_the_examples_of_the_documentation(tmp_path, capsys):
    text = (CASES.parents[1] / "docs" / "grading.md").read_text()
    rows, tests = (part.split("\n```\n")[0] for part in text.split("```jsonl\n")[1:])
    file = tmp_path / "rows.jsonl"
    file.write_text(rows)
    assert [row["verdict"] for row in grade(file, capsys)] == ["correct"] * 5 + ["truncated"]
    assert [job_of("x", json.loads(line))["type"] for line in tests.splitlines()] == ["python", "stdio"]
    told = subprocess.run(
        [sys.executable, "-c", text.split("```python\n")[-1].split("```")[0]],
        capture_output=True,
        text=True,
        cwd=CASES.parents[1],
    )
    assert told.stdout == "correct 0.5\n['correct', 'no_answer']\n"
    for verdict in Verdict:
        assert f"`{verdict}`" in text


DATA = Path(os.environ.get("DISTILL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA} (set DISTILL_DATA)")
@pytest.mark.parametrize(
    "name",
    [
        "gsm8k_openai_6b_175b",
        "math_cot_100x8_qwen25math",
        "qwen25_32b_prompted_long_cot",
        "sky_t1_14b_long_cot_aime_amc",
    ],
)
def test_real_responses_agree_with_their_labels_but_for_those_explained(name, tmp_path, capsys):
    """Each disagreement stands in `cases/output_disagreements.jsonl` with who is right and why, and no other does."""
    file = tmp_path / "rows.jsonl"
    rows = [json.loads(line) for line in (DATA / "outputs" / f"{name}.jsonl").read_text().splitlines()]
    whole = [(n, row) for n, row in enumerate(rows) if not row.get("cut_here")]
    file.write_text(
        "\n".join(
            json.dumps({"id": n, "kind": "math", "reference": str(row["gold"]), "response": row["response"]})
            for n, row in whole
        )
    )
    told = grade(file, capsys)
    assert not [row for row in told if row["verdict"] in (Verdict.ERROR, Verdict.TIMEOUT)]
    differing = {
        n
        for (n, row), found in zip(whole, told, strict=True)
        if (found["verdict"] == "correct") != row["label"]
    }
    table = [json.loads(line) for line in (CASES / "output_disagreements.jsonl").read_text().splitlines()]
    explained = {row["row"] for row in table if row["file"] == name}
    print(
        name,
        len(rows) - len(whole),
        "cut;",
        Counter(row["verdict"] for row in told),
        f"agreement {1 - len(differing) / len(whole):.4f}",
    )
    assert differing == explained
