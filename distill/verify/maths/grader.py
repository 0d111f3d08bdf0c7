"""Whether an answer is what a reference says: from cheap to dear.

Equality of the tidy texts; our own reading of both sides and exact or numeric comparison (`equality`); and where a side
is written in what we do not read (sums, integrals, set-builders), math-verify in a process of its own (`external`).
Texts are a model's: nothing here evaluates them, and lengths are bounded before anything that could grow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from distill.records import Verdict
from distill.verify.marks import find_boxes
from distill.verify.maths import external
from distill.verify.maths.equality import Undecided, same
from distill.verify.maths.reading import Answer, Value, Words, read, split_list
from distill.verify.maths.spelling import squeezed, tidy
from distill.verify.maths.tokens import NotRead, Unsupported

ANSWER_CHARS = 2000  # a longer "answer" is a runaway; the longest reference in the common sets has under 200

Found = tuple[Verdict, str]
Ask = Callable[[str, str], Found]

_RIGHT: Found = (Verdict.CORRECT, "")
_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?")
_WORD = re.compile(r"(?:\\text\s*\{\s*)?([A-Z]{3,}|[A-Z][a-z]{2,}|[Yy]es|[Nn]o|YES|NO|[a-z]{3,})\s*\}?")
_CHOSEN = re.compile(r"\(([A-Z])\)|([A-Z])(?:[.):]|\s|$)")
_MATHEMATICAL = re.compile(r"[\d\\^_=+]")


class Unsettled(Exception):
    """Only math-verify can tell, and it was not to be asked."""


def not_now(reference: str, answer: str) -> Found:
    """Stands for math-verify where the caller wants the fast part alone: raises Unsettled."""
    raise Unsettled


def matches(
    reference: str | dict[str, list[str]], extracted: str, answer: str, ask: Ask = external.compare
) -> Found:
    """Whether an extracted answer meets a reference; of several, ``any`` wants one, ``all`` wants each once.

    Args:
        answer: the text it was taken from: several values may stand in as many boxes.
        ask: who settles what we cannot read.

    Returns:
        CORRECT or WRONG; TIMEOUT and ERROR where nobody could tell; BAD_REFERENCE; each with its reason.
    """
    if isinstance(reference, str):
        return same_answer(reference, extracted, ask)
    wanted = [one for one in reference.get("any", reference.get("all", [])) if one.strip()]
    if len(reference) != 1 or not wanted:
        return Verdict.BAD_REFERENCE, "the reference is not a text, {any: [texts]} or {all: [texts]}"
    ask = _until_a_timeout(ask)
    if "any" in reference or len(wanted) == 1:
        return _best(same_answer(one, extracted, ask) for one in wanted)
    given = split_list(tidy(extracted[:ANSWER_CHARS]))
    if len(given) != len(wanted):
        boxed = list(dict.fromkeys(box.content for box in find_boxes(answer)))
        given = boxed[-len(wanted) :] if len(boxed) >= len(wanted) else given
    if len(given) != len(wanted):
        return same_answer(", ".join(wanted), extracted, ask)  # `1 \pm \sqrt{2}` is two values
    for one in wanted:
        verdicts = [same_answer(one, value, ask) for value in given]
        best = _best(iter(verdicts))
        if best[0] is not Verdict.CORRECT:
            return best
        given.pop(verdicts.index(best))
    return _RIGHT


def _until_a_timeout(ask: Ask) -> Ask:
    """Ask until a question took too long: one check costs one time limit."""
    late: list[Found] = []

    def asked(reference: str, answer: str) -> Found:
        if late:
            return late[0]
        found = ask(reference, answer)
        if found[0] is Verdict.TIMEOUT:
            late.append(found)
        return found

    return asked


def same_answer(reference: str, answer: str, ask: Ask = external.compare) -> Found:
    """Whether an answer equals a reference, with the reason where it does not; see `matches`."""
    if len(answer) > ANSWER_CHARS:
        return Verdict.WRONG, f"an answer of more than {ANSWER_CHARS} characters"
    if len(reference) > ANSWER_CHARS:
        return Verdict.BAD_REFERENCE, f"a reference of more than {ANSWER_CHARS} characters"
    ours, theirs = tidy(reference), tidy(answer)
    if not ours:
        return Verdict.BAD_REFERENCE, "the reference is empty"
    if _as_one(ours) == _as_one(theirs):
        return _RIGHT
    word, other = _WORD.fullmatch(ours), _WORD.fullmatch(theirs)
    if word and other:
        if word[1].lower() == other[1].lower():
            return _RIGHT
        if word[1].isupper() and other[1].isupper():  # HHT: capitals in a row are no product
            return Verdict.WRONG, "another answer"
    if letter := _LETTER.fullmatch(ours):  # a choice among a question's options, with or without its text
        chosen = _CHOSEN.match(theirs)
        if chosen is not None and letter[1] == (chosen[1] or chosen[2]):
            return _RIGHT
    try:
        wanted, given = _readings(ours), _readings(theirs)
        if any(same(one, other) for one in wanted for other in given):
            return _RIGHT
        return Verdict.WRONG, "another answer"
    except Unsupported:
        pass
    except NotRead as error:
        if not _is_read(theirs):
            return Verdict.WRONG, f"not read as an answer: {error}"
    except Undecided as error:
        return Verdict.ERROR, str(error)
    except _FAULTS as error:
        if _fails_by_itself(ours):
            return Verdict.ERROR, f"the grader failed on the reference: {type(error).__name__}"
        # Nothing that a model writes may buy it an ERROR, which is not counted as wrong.
        return Verdict.WRONG, f"not read as an answer: {type(error).__name__}"
    if not _MATHEMATICAL.search(theirs) or not _MATHEMATICAL.search(ours):
        return Verdict.WRONG, "another answer"
    return ask(ours, theirs)


_THOUSANDS = re.compile(r"(?<![\d.,/] )(?<![\d.,/])[1-9]\d{0,2}(?: \d{3})+(?![\d/])")  # 1 000
_BETWEEN_DIGITS = re.compile(r"(?<=\d)\s+(?=\d)")


def _as_one(text: str) -> str:
    """Without blanks, but for those that part two numbers: 3 1/2 is not 31/2."""
    return squeezed(_BETWEEN_DIGITS.sub("\x00", _THOUSANDS.sub(lambda found: squeezed(found[0]), text)))


_ONE = Value(("num", Fraction(1), 0))
_FAULTS = (RecursionError, OverflowError, ValueError)


def _fails_by_itself(reference: str) -> bool:
    """Whether a reference cannot even be compared with 1."""
    try:
        for one in _readings(reference):
            same(one, _ONE)
    except (NotRead, Undecided):
        return False
    except _FAULTS:
        return True
    return False


def _readings(text: str) -> Sequence[Answer]:
    return list(read(text))


def _is_read(text: str) -> bool:
    """Whether we can read a text as more than words."""
    try:
        return not isinstance(next(iter(read(text))), Words)
    except NotRead:
        return False


def _best(found: Iterator[Found]) -> Found:
    """CORRECT if any is; else what could not be told (TIMEOUT, ERROR) before WRONG."""
    seen: list[Found] = []
    for verdict, reason in found:
        seen.append((verdict, reason))
        if verdict is Verdict.CORRECT:
            return verdict, reason
    return next((one for one in seen if one[0] is not Verdict.WRONG), seen[-1])
