"""Where an answer stands in a text whose thought has been cut off: by the strongest mark in it.

There is no fallback to "the last number": what was not stated as an answer is none.
"""

from __future__ import annotations

import re
from collections import deque

from distill.verify.marks import find_boxes, last_tagged

BARE_CHARS = 120  # a text no longer than this, and all mathematics, is an answer without any mark

_HASH = re.compile(r"####+[ \t]*([^\s#][^\n]*)")
_SAID = re.compile(
    r"\banswer(?:\s+to\s+[^.\n:]{1,40}?)?(?:\s+(?:is|would\s+be|should\s+be|must\s+be)\b|\s*[:=]|(?=\s*(?:\\\[|\\\(|\$)))"
    r"(?:\s*:)?|^[*_]{0,2}A:|\u7b54\u6848(?:\u662f|\u4e3a)?[:\uff1a]?"
    r"|^[#>*_ \t]{0,8}(?:the\s+)?(?:final\s+)?answer[*_: \t]{0,6}$",  # a heading
    re.IGNORECASE | re.MULTILINE,
)
_MOST_STATEMENTS = 8  # looked at from the end
# "The answer is 5. This answer is correct.": said of an answer, and none itself
_REMARK = re.compile(
    r"(?:not|indeed|correct|right|wrong|incorrect|reasonable|rounded|valid|clear|consistent|verified|confirmed|plausible)\b",
    re.IGNORECASE,
)
_ADVERB = re.compile(
    r"(?:(?:therefore|thus|hence|clearly|simply|just|then|also|still|now)\b[, ]*)+", re.IGNORECASE
)
_REASON = re.compile(r",?\s+(?:because|since|which)\b.*$", re.DOTALL)
_END_TOKENS = re.compile(r"(?:<\|[a-z_]{1,30}\|>|</s>|<end_of_turn>|\s){1,99}$")
_PLACEHOLDER = re.compile(r"[.\s]*|\\l?dots|(?:your |final |the )*answer(?: here)?", re.IGNORECASE)
_SAID_LINE = re.compile(r"\s*(\S[^\n]*)")
_DISPLAY = re.compile(r"\s*(?:\\\[([^\]]{1,400})\\\]|\$\$([^$]{1,400})\$\$)")  # a formula on lines of its own
_UP_TO_IS = re.compile(r"^.*(?:\bis\b:?|\u662f)(?=\s*\S)")  # "Answer: the largest $n$ is 34"
_SENTENCE_END = re.compile(r"[.!?;\u3002](?=\s|$)")
_LINK = re.compile(
    r"(?:[\s$,;.*]|\\q?quad|\\[()\[\]]|\\text\s*\{[\s,]*(?:and|or)\s*\}|\b(?:and|or)\b|[a-zA-Z](?:_\{?\w\}?)?\s*=)*"
)
_LINKING = re.compile(r",|;|\b(?:and|or)\b")
_BARE = re.compile(r"[-+\d.,\s/%$^*()\[\]{}=<>|\\a-zA-Z_!:\u00b0\u2212\u221a\u03c0\u221e\u20ac\u00a3]+")
_LEADING = re.compile(r"(?:(?:so|therefore|thus|hence|finally|then|consequently)\b[,:]?\s+)+", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_COMMAND = re.compile(r"\\[a-zA-Z]+\s*(?:\{[a-zA-Z ]*\})?")
_PROSE = re.compile(r"[a-zA-Z]{2,}\s+[a-zA-Z]{2,}|[a-zA-Z]{3,}\s+[^\s\d]")


def extract_answer(text: str) -> str | None:
    """The final answer of a text without its thought; None where no mark stands.

    Marks, strongest first, the last of its kind counting: a box inside ``<answer>``, ``<answer>``, a box (with those
    that a comma or an "and" links to it), ``#### x``, "the answer is x" / "Answer: x" / "A: x" to the end of the
    sentence; and a text that is nothing but one short piece of mathematics.
    """
    if (end := _END_TOKENS.search(text, max(0, len(text) - 400))) is not None:
        text = text[: end.start()]
    tagged = last_tagged(text)
    if tagged is not None and tagged.strip():
        return _boxed(tagged) or _stated(tagged) or tagged.strip()
    boxed = _boxed(text)
    if boxed is not None:
        return boxed
    hashed = deque(_HASH.finditer(text), maxlen=1)
    stated = _stated(text)
    if hashed and (stated is None or not text[hashed[0].end() :].strip()):
        marked = hashed[0][1].strip()
        return _stated(marked) or marked.strip("*").strip() or None
    if stated is not None:
        return stated
    bare = _LEADING.sub("", text.strip())
    if len(bare) > BARE_CHARS or "\n" in bare or find_boxes(text):
        return None
    if not _BARE.fullmatch(bare) or bare.count("{") != bare.count("}"):
        return None
    if not (
        _DIGIT.search(bare) or bare.startswith(("$", "\\")) or len(bare) == 1
    ):  # a word is no mathematics
        return None
    return None if _PROSE.search(_COMMAND.sub(" ", bare)) else bare or None


def _boxed(text: str) -> str | None:
    """The last box, after those that are linked to it; None where there is none that holds anything."""
    found = [box for box in find_boxes(text) if not _PLACEHOLDER.fullmatch(box.content)]
    if not found:
        return None
    contents = [found[-1].content]
    for one, following in zip(found[-2::-1], found[:0:-1], strict=True):
        between = text[one.end : following.start]
        if len(between) > 60 or not _LINK.fullmatch(between) or not _LINKING.search(between):
            break
        contents.append(one.content)
    return ", ".join(dict.fromkeys(contents[::-1]))


def _stated(text: str) -> str | None:
    """What the last statement of an answer says, remarks on answers aside; None where there is none."""
    found = [
        said for mark in deque(_SAID.finditer(text), _MOST_STATEMENTS) if (said := _said(text, mark.end()))
    ]
    return next((said for said in reversed(found) if not _REMARK.match(said)), found[-1] if found else None)


def _said(text: str, start: int) -> str | None:
    if display := _DISPLAY.match(text, start):
        return str(display[1] or display[2]).strip() or None
    stated = _SAID_LINE.match(text, start)
    if stated is None:
        return None
    line = _REASON.sub("", _ADVERB.sub("", stated[1].strip().strip("*").strip(), count=1))
    end = _SENTENCE_END.search(line)
    sentence = line[: end.start()] if end else line
    return _UP_TO_IS.sub("", sentence).strip().strip("*") or None
