"""Which answers of a problem's samples are one answer: the equivalence classes that a majority vote counts.

Axis letter: G samples of one problem.

Most answers of a problem are the same text, so texts are counted first and only distinct ones are compared, by the
equality that the grader judges with. The reference has no part in it: a vote that knew the right answer would gather
its spellings better than those of the wrong ones. What that equality cannot settle by itself (`math-verify` would have
to be asked), and what lies beyond `MOST_COMPARED` or `MOST_CHARACTERS`, stays apart, for right and wrong answers
alike; it can split a vote, and is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from distill.records import Verdict
from distill.verify.maths.grader import Unsettled, not_now, same_answer

#: Kinds whose answers are programs or prose: no two are the same answer, so nothing is voted on.
VOTELESS = frozenset({"code", "instruction", "open"})
#: Comparisons of two texts that one problem may cost; 64 samples that all differ would take 2,016.
MOST_COMPARED = 400
#: Characters of all texts so compared: reading a paragraph that stands in a box takes a tenth of a second.
MOST_CHARACTERS = 20_000
_DIGITS = 30


class Classes(NamedTuple):
    """``labels_G``: the class of each sample's answer, from 0 in order of appearance, None for one without an answer.

    ``compared`` counts the comparisons of two texts; ``unsettled`` those without a result, or not made.
    """

    labels_G: list[int | None]
    compared: int
    unsettled: int


def classes_of(answers_G: Sequence[str | None], kind: str) -> Classes:
    """The equivalence classes of the answers to one problem; blank answers count as none.

    Maths answers (kind ``math``) are one where the grader takes one for the other as reference; a text joins the
    first class, of those with the most samples first, whose most frequent text it equals. Of other kinds answers are
    one when they are the same text, capitals and blanks aside.
    """
    assert kind not in VOTELESS, kind
    squeezed_G = [_squeezed(answer, kind) for answer in answers_G]
    numbers = Counter(text for text in squeezed_G if text)
    class_of: dict[str, int] = {}
    heads: list[str] = []
    compared = characters = unsettled = 0
    for text, _ in numbers.most_common():
        for at, head in enumerate(heads):
            if kind != "math" or _other_integers(head, text):
                continue
            longer = characters + len(head) + len(text)
            if compared == MOST_COMPARED or longer > MOST_CHARACTERS:
                unsettled += 1
                continue
            compared, characters = compared + 1, longer
            same = _same(head, text)
            unsettled += same is None
            if same:
                class_of[text] = at
                break
        else:
            class_of[text] = len(heads)
            heads.append(text)
    order: dict[int, int] = {}
    labels_G = [
        order.setdefault(class_of[text], len(order)) if text is not None else None for text in squeezed_G
    ]
    return Classes(labels_G, compared, unsettled)


def _squeezed(answer: str | None, kind: str) -> str | None:
    if answer is None or not answer.strip():
        return None
    # Blanks inside a maths answer can matter (3 1/2 is not 31/2), which the comparison knows.
    return answer.strip() if kind == "math" else "".join(answer.split()).upper()


def _other_integers(one: str, other: str) -> bool:
    """Whether both are plain integers, and not the same: nearly all wrong answers, told without a reading."""
    plain = all(
        text.removeprefix("-").isascii() and text.removeprefix("-").isdecimal() and len(text) <= _DIGITS
        for text in (one, other)
    )
    return plain and int(one) != int(other)


def _same(one: str, other: str) -> bool | None:
    """Whether two maths answers are one; None where that cannot be told here."""
    # "B" is an answer that "B) Paris" meets, but not the other way round.
    reference, answer = sorted((one, other), key=lambda text: (len(text), text))
    try:
        verdict, _ = same_answer(reference, answer, not_now)
    except Unsettled:
        return None
    except Exception:  # the grader's own fault on a model's text, as `distill.verify.judge` treats it
        return None
    return {Verdict.CORRECT: True, Verdict.WRONG: False}.get(verdict)
