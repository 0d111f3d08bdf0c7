"""Logs of other evaluation tools as rows of one response each, with our names of fields.

* ``lm-eval``: lm-evaluation-harness writes ``MODEL/samples_TASK_DATE.jsonl`` with ``--log_samples``: a row for each
  problem and filter (``doc``, ``target``, ``arguments``, ``resps``, ``filtered_resps``, metrics). The raw ``resps``
  are judged; the rows of further filters repeat them.
* ``lighteval``: ``details/MODEL/DATE/details_TASK_DATE.parquet``, written with ``--save-details``: a row for each
  problem, as ``doc``, ``model_response``, ``metric`` since 0.10, before as ``example``, ``predictions``, ``gold``.
  What was sampled how stands in ``results/MODEL/results_DATE.json``, which is read where it lies there.
* ``inspect``: inspect_ai's ``.eval`` (a zip with ``header.json`` and ``samples/ID_epoch_N.json``) or ``.json`` (one
  object, which has to be read whole).

Rows have ``problem_id``, ``problem``, ``reference``, ``response`` and, where the log tells, ``choices``, ``kind``,
``tokens``, ``finish_reason``, ``sample_index``, what was sampled how, and ``labels``: the tool's own scores by name.
A score of several samples together labels none of them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from distill.errors import UserError
from distill.problems import Row, after_hashes, read_rows
from distill.runs import fingerprint
from distill.verify.marks import last_boxed
from eval.inspect_logs import inspect_head, inspect_rows

_DATED = re.compile(r"(?:samples|details)_(?P<task>.+?)_\d{4}-\d\d-\d\dT.*$")
#: Where a problem of lm-evaluation-harness has its text, in the order in which they are looked for.
_QUESTIONS = ("problem", "question", "query", "prompt", "input", "text")
_OF_CODE = {"entry_point", "test_list"}  # columns of HumanEval and MBPP
_LM_EVAL = ("doc_id", "doc", "target", "arguments", "resps")
_NO_METRICS = {*_LM_EVAL, "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash", "target_hash"}


@dataclass(frozen=True, slots=True)
class Log:
    """One log; ``said`` is what its head tells of the protocol, ``rows`` reads it from the start."""

    format: str
    model: str
    suite: str
    said: dict[str, Any]
    rows: Callable[[], Iterator[Row]]


def open_log(path: Path, format: str) -> Log:
    """A log of the format ``lm-eval``, ``lighteval`` or ``inspect``.

    Raises:
        UserError: the file is none of that format. Its rows, when they are read, may raise it too.
    """
    with _spoilt(path, format, "its head"):
        log = _opened(path, format)
        for name in (log.model, log.suite):  # which is shown in terminals, and names a folder
            if not isinstance(name, str) or not name.isprintable():
                raise ValueError(f"{name!a} names no model and no task")
    return replace(log, rows=lambda: _row_by_row(path, format, log.rows()))


def _row_by_row(path: Path, format: str, rows: Iterator[Row]) -> Iterator[Row]:
    for number in itertools.count(1):
        with _spoilt(path, format, f"response {number}"):
            row = next(rows, None)
        if row is None:
            return
        yield row


@contextmanager
def _spoilt(path: Path, format: str, place: str) -> Iterator[None]:
    """What no log of a tool holds, a number for a list or a spoilt zip, is the file's mistake, whatever it raises."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        reason = f"{place} is not as {format} writes it: {type(error).__name__}: {error}"[:300]
        raise UserError("--responses", str(path), reason, "is it another tool's, or damaged?") from error


def _opened(path: Path, format: str) -> Log:
    dated = _DATED.match(path.stem)
    task = dated["task"] if dated else path.stem
    if format == "lm-eval":
        model = path.resolve().parent.name if dated else path.stem
        return Log(format, model, task, {}, lambda: _lm_eval_rows(path))
    if format == "lighteval":
        named, said = _lighteval_head(path)
        return Log(format, named or path.stem, task, said, lambda: _lighteval_rows(path))
    assert format == "inspect", format
    head = inspect_head(path)
    return Log(format, head.model or path.stem, head.task or path.stem, head.said, lambda: inspect_rows(path))


def _refuse(path: Path, number: int, reason: str, remedy: str) -> NoReturn:
    raise UserError("--responses", str(path), f"row {number}: {reason}", remedy)


# ------------------------------------------------------------------------------------ lm-evaluation-harness


def _lm_eval_rows(path: Path) -> Iterator[Row]:
    first: dict[
        str, tuple[Any, str]
    ] = {}  # of each problem, the filter and responses of the row that was read
    for number, row in enumerate(read_rows(str(path), "train", "--responses"), start=1):
        if lacking := [name for name in _LM_EVAL if name not in row]:
            reason = f"has no {', '.join(lacking)}: no row of lm-eval's samples_*.jsonl"
            _refuse(path, number, reason, "write it with --log_samples, or leave --format out and use --map")
        if isinstance(row["doc"], dict) and _OF_CODE & row["doc"].keys():
            reason = "is of a code task, whose responses go on where the prompt stops and are no programs"
            _refuse(path, number, reason, "score code by a run: distill eval --model M --suite humaneval")
        problem_id = str(row["doc_id"])
        told = (row.get("filter"), fingerprint(row["resps"]))
        if (earlier := first.setdefault(problem_id, told)) is not told:
            if earlier[1] != told[1] or (earlier[0] == told[0] and told[0] is not None):
                reason = f"doc_id {problem_id} comes twice: is it the log of two runs?"
                _refuse(path, number, reason, "keep the rows of one run")
            continue  # the same responses through another filter, which older logs do not name
        texts = _lm_eval_responses(path, number, row)
        scores = {name: value for name, value in row.items() if name not in _NO_METRICS}
        asked = _generation_arguments(row["arguments"])
        for text in texts or [None]:
            yield _tags(row["doc"]) | {
                "problem_id": problem_id,
                "problem": _question(row),
                "reference": _answer_in(row["target"]),
                "response": text,
                "labels": scores if len(texts) == 1 else {},
                "temperature": 0.0 if asked.get("do_sample") is False else asked.get("temperature"),
                "top_p": asked.get("top_p"),
                "max_tokens": asked.get("max_gen_toks", asked.get("max_new_tokens")),
            }


def _lm_eval_responses(path: Path, number: int, row: Row) -> list[str | None]:
    """The texts of all repeats: ``resps`` has a list of them for each request."""
    requests = list(_requests(row["arguments"]))
    if any(len(request) > 1 and not isinstance(request[1], dict) for request in requests):
        remedy = "a task of output_type generate_until has texts"
        _refuse(path, number, "holds log-likelihoods of given choices, no text that could be judged", remedy)
    if not isinstance(row["resps"], list):
        _refuse(path, number, "its `resps` are no list", "write the log again with --log_samples")
    texts = [text for each in row["resps"] for text in (each if isinstance(each, list) else [each])]
    return [None if text is None else str(text) for text in texts]


def _requests(arguments: object) -> Iterator[list[Any]]:
    """Each request's arguments: ``{"gen_args_0": {"arg_0": ..., "arg_1": ...}}``, or lists in logs before 0.4.3."""
    for request in arguments.values() if isinstance(arguments, dict) else arguments or []:  # type: ignore[attr-defined]
        yield list(request.values()) if isinstance(request, dict) else list(request)


def _generation_arguments(arguments: object) -> dict[str, Any]:
    request = next(_requests(arguments), [])
    return request[1] if len(request) > 1 and isinstance(request[1], dict) else {}


def _question(row: Row) -> Any:
    """The problem's own text, else all that the model was told."""
    doc = row["doc"] if isinstance(row["doc"], dict) else {}
    found = next((doc[name] for name in _QUESTIONS if isinstance(doc.get(name), str)), None)
    return found if found is not None else next(_requests(row["arguments"]), [None])[0]


def _tags(about: object) -> Row:
    """What results are broken down by."""
    found = about if isinstance(about, dict) else {}
    return {name: found[name] for name in ("subject", "level", "rating") if name in found}


def _answer_in(target: object) -> object:
    """The answer of a worked solution, which tasks such as gsm8k have as their target; else the target itself."""
    if isinstance(target, str):
        return after_hashes(target) or last_boxed(target) or target.strip()
    return target


# ------------------------------------------------------------------------------------ lighteval


def _lighteval_head(path: Path) -> tuple[str | None, dict[str, Any]]:
    """The model's name and what was sampled how, by the places that lighteval gives its files."""
    parts = path.resolve().parts
    if "details" not in parts[:-2]:
        return None, {}
    at = len(parts) - 1 - parts[::-1].index("details")
    model = "/".join(parts[at + 1 : -2])
    results = Path(*parts[:at], "results", *parts[at + 1 : -2], f"results_{parts[-2]}.json")
    if not results.is_file():
        return model or None, {}
    try:
        general = json.loads(results.read_text(encoding="utf-8"))["config_general"]
        config = general.get("model_config") or {}
        asked = general.get("generation_parameters") or config.get("generation_parameters") or {}
        model = general.get("model_name") or config.get("model_name") or model
    except (ValueError, KeyError, AttributeError) as error:
        reason = f"cannot be read: {error!r}"
        raise UserError(
            "--responses", str(results), reason, "mend it, or move the details elsewhere"
        ) from None
    said = {"temperature": asked.get("temperature"), "top_p": asked.get("top_p")}
    return model, said | {"max_tokens": asked.get("max_new_tokens")}


def _lighteval_rows(path: Path) -> Iterator[Row]:
    for number, row in enumerate(read_rows(str(path), "train", "--responses"), start=1):
        doc, answer = row.get("doc"), row.get("model_response")
        if isinstance(doc, dict) and isinstance(answer, dict):
            made = _lighteval_new(doc, answer, row.get("metric"))
        elif "predictions" in row and ("gold" in row or "gold_index" in row):
            made = _lighteval_old(row)
        else:
            reason = f"is no row of lighteval's details: it has {', '.join(row)}"
            _refuse(path, number, reason, "give details_TASK_DATE.parquet of --save-details")
        head, texts, tokens, scores = made
        for place, text in enumerate(texts or [None]):
            yield head | {
                "response": text,
                "tokens": tokens[place] if place < len(tokens) else None,
                "labels": scores if len(texts) == 1 else {},
            }


_Made = tuple[Row, list[Any], list[int], dict[str, Any]]  # of the problem; texts, tokens and scores


def _lighteval_new(doc: Row, answer: Row, metric: object) -> _Made:
    texts = _as_list(answer.get("text"))
    if not texts and answer.get("logprobs"):
        texts = [None]
    counts = [len(ids) for ids in _as_list(answer.get("output_tokens")) if isinstance(ids, list)]
    choices, places = _as_list(doc.get("choices")), _as_list(doc.get("gold_index"))
    gold = [choices[place] for place in places if isinstance(place, int) and place < len(choices)]
    head = {"problem_id": doc.get("id") or None, "problem": doc.get("query"), "reference": _gold(gold)}
    return head, texts, counts, _scores(metric)


def _lighteval_old(row: Row) -> _Made:
    predicted = (each if isinstance(each, list) else [each] for each in _as_list(row["predictions"]))
    texts = [text for each in predicted for text in each]
    counts = [len(ids) for ids in _as_list(row.get("cont_tokens")) if isinstance(ids, list)]
    problem = row.get("example") or row.get("full_prompt")
    head = {"problem": problem, "reference": _gold(_as_list(row.get("gold")))}
    return head, texts, counts, _scores(row.get("metrics"))


def _gold(references: list[Any]) -> Any:
    found = [_answer_in(str(one)) for one in references if one is not None]
    return found[0] if len(found) == 1 else {"any": found} if found else None


def _scores(metric: object) -> dict[str, Any]:
    """Parquet gives every row the metrics of all; those that are not a row's own are None."""
    return {k: v for k, v in metric.items() if v is not None} if isinstance(metric, dict) else {}


def _as_list(value: object) -> list[Any]:
    """A list, also where it was written as its Python text, as some versions did."""
    if isinstance(value, str) and value[:1] == "[":
        import ast

        try:
            found = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [value]
        return found if isinstance(found, list) else [value]
    return value if isinstance(value, list) else [] if value is None else [value]
