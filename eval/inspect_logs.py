"""Logs of inspect_ai: `eval.logs` says what is read of them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.conversations import turns
from distill.errors import UserError
from distill.problems import Row

_ATTACHMENT = "attachment://"


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a log tells; None or empty where it does not."""

    task: str | None
    model: str | None
    said: dict[str, Any]


def inspect_head(path: Path) -> Head:
    """The head of an ``.eval`` or ``.json`` log.

    Raises:
        UserError: the file is no such log.
    """
    if _is_zip(path):
        with _opened(path) as archive:
            names = set(archive.namelist())
            name = next((n for n in ("header.json", "_journal/start.json") if n in names), None)
            if name is None:
                raise _no_log(path, "the zip holds neither header.json nor _journal/start.json")
            head = _member(path, archive, archive.getinfo(name))
    else:
        head = _whole(path)
    about, plan = head.get("eval"), head.get("plan")
    if not isinstance(about, dict):
        raise _no_log(path, "it has no `eval`")
    config = about.get("model_generate_config") or {}
    config |= {name: value for name, value in ((plan or {}).get("config") or {}).items() if value is not None}
    said = {name: config.get(name) for name in ("temperature", "top_p", "max_tokens")}
    return Head(about.get("task"), about.get("model"), said)


def inspect_rows(path: Path) -> Iterator[Row]:
    """The samples of a log, one row for each choice that a sample's model gave: nearly always one.

    Raises:
        UserError: a member of the zip cannot be read, or a sample is none.
    """
    if not _is_zip(path):
        for sample in _whole(path).get("samples") or ():
            yield from _rows(path, sample)
        return
    with _opened(path) as archive:
        # A sample that was written again (a retry) is there twice by one name: the last counts.
        members = {info.filename: info for info in archive.infolist() if _is_sample(info.filename)}
        for info in members.values():
            yield from _rows(path, _member(path, archive, info))


def _is_sample(name: str) -> bool:
    return name.startswith("samples/") and name.endswith(".json")


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise _no_log(path, f"is a damaged zip: {error}") from None


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Row:
    try:
        found = json.loads(archive.read(info))
    except NotImplementedError:
        reason = f"{info.filename} is compressed in a way that Python's zip does not know (zstd)"
        remedy = "inspect log convert --to json --output-dir DIR FILE"
        raise UserError("--responses", str(path), reason, remedy) from None
    except (ValueError, zipfile.BadZipFile) as error:
        raise _no_log(path, f"{info.filename} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise _no_log(path, f"{info.filename} holds no object")
    return found


def _whole(path: Path) -> Row:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise _no_log(path, f"is neither a zip nor one JSON object: {error}") from None
    if not isinstance(found, dict):
        raise _no_log(path, "is JSON, but no object")
    return found


def _no_log(path: Path, reason: str) -> UserError:
    return UserError(
        "--responses", str(path), f"is no log of inspect_ai: {reason}", "give a .eval or .json log"
    )


def _rows(path: Path, sample: object) -> Iterator[Row]:
    if not isinstance(sample, dict) or not {"id", "epoch", "input", "target"} <= sample.keys():
        raise _no_log(path, "a sample has no id, epoch, input and target")
    choices = (sample.get("output") or {}).get("choices") or [{}]
    for place, choice in enumerate(choices):
        row = _row(sample, choice)
        if len(choices) > 1:  # the sample has one score and one count of tokens
            number = row["sample_index"] * len(choices) + place
            row |= {"sample_index": number, "labels": {}, "tokens": None}
        yield row


def _row(sample: Row, choice: Row) -> Row:
    output = sample.get("output") or {}
    text = _text((choice.get("message") or {}).get("content"), sample.get("attachments") or {})
    error = (sample.get("error") or {}).get("message")
    stopped = choice.get("stop_reason")
    row = {
        "problem_id": sample["id"],
        "sample_index": sample["epoch"] - 1,
        "problem": _question(sample["input"], sample.get("attachments") or {}),
        "reference": _reference(sample["target"]),
        "response": None if error else text,
        "finish_reason": "abort" if sample.get("limit") and not stopped else stopped,
        "tokens": (output.get("usage") or {}).get("output_tokens"),
        "labels": {name: score.get("value") for name, score in (sample.get("scores") or {}).items()},
    }
    about = sample.get("metadata") or {}
    row |= {name: about[name] for name in ("subject", "level", "rating") if name in about}
    if error:
        row["fault"] = f"the tool failed: {error}"[:300]
    if sample.get("choices"):
        row |= {"kind": "choice", "choices": sample["choices"]}
    return row


def _reference(target: object) -> Any:
    if isinstance(target, list):
        return target[0] if len(target) == 1 else {"any": target}
    return target


def _question(asked: object, attachments: dict[str, str]) -> Any:
    """The text, or what the user says last of a conversation (examples may stand before it)."""
    if isinstance(asked, str):
        return _resolved(asked, attachments)
    said = [content for speaker, content in turns(asked) if speaker == "user"]
    return _text(said[-1], attachments) if said else None


def _text(content: object, attachments: dict[str, str]) -> str | None:
    """A message's text; a thought that the provider gave apart stands before it, in tags, closed where text follows."""
    if isinstance(content, str):
        return _resolved(content, attachments)
    if not isinstance(content, list):
        return None
    thoughts: list[str] = []
    texts: list[str] = []
    for part in (part for part in content if isinstance(part, dict)):
        if part.get("type") == "reasoning" and not part.get("redacted"):
            thoughts.append(_resolved(str(part.get("reasoning") or ""), attachments))
        elif part.get("type") == "text":
            texts.append(_resolved(str(part.get("text") or ""), attachments))
    answer = "".join(texts)
    if not any(thoughts):
        return answer
    thought = "\n".join(thoughts)
    return f"<think>\n{thought}\n</think>\n\n{answer}" if answer.strip() else f"<think>\n{thought}"


def _resolved(text: str, attachments: dict[str, str]) -> str:
    """What the log keeps apart because it stands in several places."""
    return attachments.get(text.removeprefix(_ATTACHMENT), text) if text.startswith(_ATTACHMENT) else text
