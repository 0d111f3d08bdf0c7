r"""One spelling for the ways in which one answer is commonly typeset: unicode, spacing, sizes, wrappers, currencies.

Nothing here changes what an answer means, and every pattern is linear in a text that a model wrote.
"""

from __future__ import annotations

import re

from distill.verify.maths.symbols import UNICODE
from distill.verify.maths.tokens import known_beginning

_ONE_BY_ONE = str.maketrans(UNICODE)
_SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207a\u207f"
_SUBSCRIPTS = "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089"
_RAISED = dict(zip(_SUPERSCRIPTS, "0123456789-+n", strict=True))
_LOWERED = dict(zip(_SUBSCRIPTS, "0123456789", strict=True))
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_LOWERED_RUN = re.compile(f"[{''.join(_LOWERED)}]+")

# Marks of layout: sizes, spaces, phantom wrappers. What is dropped leaves a blank, so that words do not grow together.
_LAYOUT = re.compile(
    r"(?P<row>\\\\)|\\q?quad"
    r"|\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|thinspace"
    r"|enspace|hfill|newline|centering|rm|bf|it|sf|boldmath|large|Large|small|hline)(?![a-zA-Z])"
    r"|\\[!,;:> ]|\\hspace\*?\{[^{}]{0,20}\}|\\hskip\s*[\d.]+\s*(?:pt|em|cm)|(?<!\\)~"
    r"|\\[hv]?phantom(?:\s*\{[^{}]{0,20}\})?|\\null|&nbsp;"
)
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_CURRENCY = re.compile(
    r"\\\$|\\pounds|\\euro|[\u20ac\u00a3\u00a5\u20b9]|\bUSD\b"
    r"|\bRs\.?(?=\s*\d)|(?<=\d)\s*US\s*\\?\$"  # Rs. 5, 5 US$
)
_ENVIRONMENT = re.compile(r"\\begin\s*\{")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")  # a text that was escaped once too often
# "\ 5" or "\(5\)" after somebody dropped the blanks or the dollars
_STRAY_ESCAPE = re.compile(r"\\(?=[\d.+()-])")
# 10,\!000 and 10\,000 and 10{,}000
_GROUPED = re.compile(r"(?<=\d)\s*(?:,\\!\s*|\\[,;: ]\s*|~|\{,\s*\})(?=\d{3}(?!\d))")
_MODULES = re.compile(r"\b(?:np|numpy|math|sp|sympy)\.(?=[a-z])")  # copied from a program
_NEGATED = re.compile(r"\\not\s*(=|\\in(?![a-z]))")


# \\color{red}{5}, {\\color{red} 5}
_COLOUR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}")
_WRAPPERS = (re.compile(r"\*\*(.*)\*\*", re.DOTALL), re.compile(r'"([^"]*)"'), re.compile(r"`([^`]*)`"))
# 0.1\\overline{6}, 0.\\bar{3}, 0.\\dot{3}
_REPEATING = re.compile(
    r"(?<![\d.])(\d{0,20})\.(\d{0,20})\\(?:overline|bar|dot)\s*(?:\{\s*(\d{1,20})\s*\}|(\d))(?!\d)"
)
# 0.333..., 0.1666\\ldots: three times the same digit, or twice the same digits
_GOING_ON = re.compile(
    r"(?<![\d.])(\d{0,20})\.(\d{0,20}?)(?:(\d)\3{2,}|(\d{2,12}?)\4{1,})\s*(?:\.\.\.|\\[lc]?dots)(?!\s*[\d,])"
)
_EMPTY_SET = re.compile(r"\\varnothing(?![a-zA-Z])|\\\{\s*\\\}")


# \\textbf{(C)}\\ 12, (C) 12: the option and what it says
_OPTION = re.compile(
    r"\A(?:\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{\s*\(\s*[A-J]\s*\)\s*\}|\([A-J]\)(?=\\?\s))"
    r"(?:\\[ ,;:]|\\q?quad(?![a-z])|[\s~:])*(?=[-+$\d]|\\[dt]?frac|\\sqrt|\\pi)"
)


def _as_fraction(found: re.Match[str]) -> str:
    """A repeating decimal as the fraction that it is."""
    whole, before, *rest = (part or "" for part in found.groups())
    period = "".join(rest)
    below = 10 ** len(before) * (10 ** len(period) - 1)
    above = int(f"{whole}{before}{period}") - int(f"{whole}{before}" or 0)
    return rf"\frac{{{above}}}{{{below}}}"


def tidy(answer: str) -> str:
    """The answer without its typesetting: maths delimiters, unicode, spaces, sizes and currency signs."""
    text = answer.strip()
    for wrapper in _WRAPPERS:
        if found := wrapper.fullmatch(text):
            text = found[1].strip()
    if "\\\\" in text and not _ENVIRONMENT.search(text):
        text = _DOUBLED.sub(r"\\", text)
    text = text.replace("\\(", " ").replace("\\)", " ").replace("\\[", " ").replace("\\]", " ")
    text = _CURRENCY.sub(" ", text).replace("$", " ")
    if "color" in text:
        text = _COLOUR.sub(" ", text)
    if not text.isascii():
        text = _RAISED_RUN.sub(lambda run: "^{" + "".join(_RAISED[c] for c in run[0]) + "}", text)
        text = _LOWERED_RUN.sub(lambda run: "_{" + "".join(_LOWERED[c] for c in run[0]) + "}", text)
        text = text.translate(_ONE_BY_ONE)
    text = (
        _OPTION.sub("", _MODULES.sub("", text.lstrip()), count=1)
        if "(" in text[:16]
        else _MODULES.sub("", text)
    )
    text = _GROUPED.sub(",", text).replace("{,}", ",")
    if "\\" in text:
        text = _COMMAND.sub(_unglued, text)
        text = _FRACTIONS.sub(r"\\frac", text)
        text = _NEGATED.sub(lambda found: r"\ne " if found[1] == "=" else r"\notin ", text)
        text = text.replace("\\%", "%").replace("\\#", "#").replace("\\&", "&")
        text = _LAYOUT.sub(lambda found: found["row"] or " ", text)
        text = _REPEATING.sub(_as_fraction, text)
        text = _EMPTY_SET.sub(r"\\emptyset ", text)
        if not _ENVIRONMENT.search(text):
            text = _STRAY_ESCAPE.sub("", text)
    text = _GOING_ON.sub(_as_fraction, text)
    return text.strip().removesuffix("\\\\").rstrip().rstrip(".").rstrip()


_COMMAND = re.compile(r"\\([a-zA-Z]{3,})")


def _unglued(found: re.Match[str]) -> str:
    known = known_beginning(found[1])
    return found[0] if known is None or known == found[1] else f"\\{known} {found[1][len(known) :]}"


def squeezed(text: str) -> str:
    """Without any blank: for comparing two tidy texts letter by letter."""
    return "".join(text.split())


_TEXT_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|textnormal|mathrm|mathbf|mathit|mbox|hbox|emph)\s*\{([^{}]*)\}"
)
_WORD_MARKS = re.compile(r"[^\w+%'-]+")
_ARTICLES = re.compile(r"\b(?:the|an?)\b(?=.*\w)")


def words(text: str) -> str:
    """A text answer as words alone: no wrappers, case, punctuation or leading article."""
    bare = _TEXT_WRAPPER.sub(r" \1 ", text).replace("\\", " ")
    return _ARTICLES.sub(" ", " ".join(_WORD_MARKS.sub(" ", bare.lower()).split()), count=1).strip()
