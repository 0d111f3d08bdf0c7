"""Formulas of model text as MathML, in a real browser: what is read, what stays source, and that no text is lost."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator

import pytest
from browser import Browser, find_chromium, opened

from distill.report.page import _resource

#: A formula as `tag(children)`, without mrow, which only groups.
OUTLINE = """(node) => {
  const inner = [...node.childNodes].map((child) => child.nodeType === 3 ? child.data : outline(child)).join(' ');
  return ['mrow', 'math'].includes(node.localName) ? inner : `${node.localName}(${inner})`;
}"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """An empty page with the two scripts that read formulas."""
    program = find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed (the distribution's package is called chromium)")
    with opened(program, tmp_path_factory.mktemp("profile")) as browser:
        browser.evaluate(_resource("latex.js") + _resource("formulas.js"))
        browser.evaluate(f"const outline = {OUTLINE}; 0")
        yield browser


def read(browser: Browser, source: str) -> str | None:
    """The outline of a typeset formula; None where it stays source."""
    found = browser.evaluate(
        f"(() => {{ const node = typeset({json.dumps(source)}, false); return node && outline(node); }})()"
    )
    return None if found is None else " ".join(found.split(" "))


CASES = [
    ("x", "mi(x)"),
    ("x_1^2", "msubsup(mi(x) mn(1) mn(2))"),
    ("x^10", "msup(mi(x) mn(1)) mn(0)"),
    ("x^{10}", "msup(mi(x) mn(10))"),
    ("f'(x)", "msup(mi(f) mo(\u2032)) mo(() mi(x) mo())"),
    ("\\frac12", "mfrac(mn(1) mn(2))"),
    ("\\dfrac{a+b}{c}", "mfrac(mi(a) mo(+) mi(b) mi(c))"),
    ("\\sqrt[3]{8}=2", "mroot(mn(8) mn(3)) mo(=) mn(2)"),
    ("1,234.5", "mn(1,234) mo(.) mn(5)"),
    ("3.14", "mn(3.14)"),
    ("\\sum_{i=1}^n i", "munderover(mo(\u2211) mi(i) mo(=) mn(1) mi(n)) mi(i)"),
    ("\\int_0^1", "msubsup(mo(\u222b) mn(0) mn(1))"),
    ("\\boxed{\\text{(C) }7}", "mtext((C)\u00a0) mn(7)"),
    ("\\left(\\frac{1}{2}\\right]", "mo(() mfrac(mn(1) mn(2)) mo(])"),
    ("\\left.x\\right|_0", "msub(mo() mi(x) mo(|) mn(0))"),
    ("\\mathbb{R}", "mi(\u211d)"),
    ("\\mathbf{v}", "mi(\U0001d42f)"),
    ("\\sin x", "mi(sin) mspace() mi(x)"),
    ("\\lim_{x\\to0}", "munder(mi(lim) mi(x) mo(\u2192) mn(0))"),
    ("a\\equiv b\\pmod{7}", "mi(a) mo(\u2261) mi(b) mspace() mo(() mi(mod) mspace() mn(7) mo())"),
    ("\\binom{n}{k}", "mo(() mfrac(mi(n) mi(k)) mo())"),
    (
        "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
        "mo(() mtable(mtr(mtd(mn(1)) mtd(mn(2))) mtr(mtd(mn(3)) mtd(mn(4)))) mo())",
    ),
    ("a&=b\\\\&=c", "mtable(mtr(mtd(mi(a)) mtd(mo(=) mi(b))) mtr(mtd() mtd(mo(=) mi(c))))"),
    ("\\overline{AB}", "mover(mi(A) mi(B) mo(\u203e))"),
    ("{1+2 \\over 3}x", "mfrac(mn(1) mo(+) mn(2) mn(3)) mi(x)"),
    ("\\phantom{0}1", "mphantom(mn(0)) mn(1)"),
    ("\\$5", "mo($) mn(5)"),
    ("5\\%", "mn(5) mo(%)"),
    ("\\foo{x}+1", "mtext(\\foo) mi(x) mo(+) mn(1)"),
    ("\\constructor", "mtext(\\constructor)"),
    ("\u4e2d", "mi(\u4e2d)"),
]


@pytest.mark.parametrize(("source", "outline"), CASES)
def test_a_formula_is_read(scripts: Browser, source: str, outline: str) -> None:
    found = read(scripts, source)
    assert found is not None and found.replace("( ", "(").replace(" )", ")") == outline


BROKEN = [
    "\\frac{1}",
    "{x",
    "x}",
    "x^",
    "x^2^3",
    "\\left( x",
    "\\begin{foo}x\\end{foo}",
    "\\right)",
    "{" * 5000,
    "x" * 4001,
]


@pytest.mark.parametrize("source", BROKEN, ids=lambda source: source[:12])
def test_what_cannot_be_read_stays_as_it_was_written(scripts: Browser, source: str) -> None:
    assert read(scripts, source) is None


SPLITS = [
    ("It is $x$.", ["x"]),
    ("\\(a\\) and \\[b\\] and $$c$$", ["a", "b", "c"]),
    ("from $5 to $10", []),
    ("$5 and $6 are prices", []),
    ("costs $5, so $x = 5$ holds", ["x = 5"]),
    ("```\nx = '$a$'\n``` then $b$", ["b"]),
    ("$a$ ```\nnever closed $b$", ["a"]),
    ("so \\boxed{\\frac{1}{2}}", ["\\boxed{\\frac{1}{2}}"]),
    ("escaped \\$x\\$ not", []),
    ("$a$\n\n$b$", ["a", "b"]),
    ("open $$ and never closed", []),
    ("\\begin{align}a&=b\\end{align}", ["\\begin{align}a&=b\\end{align}"]),
]


@pytest.mark.parametrize(("text", "inner"), SPLITS)
def test_formulas_are_found_in_a_text(scripts: Browser, text: str, inner: list[str]) -> None:
    found = scripts.evaluate(
        f"splitMath({json.dumps(text)}).filter((part) => part.inner !== undefined).map((part) => part.inner)"
    )
    assert found == inner


def test_no_text_is_lost_and_no_foreign_element_made_whatever_it_holds(scripts: Browser) -> None:
    lots = random.Random(0)
    pieces = [
        *"${}^_&7x ('\\]\n\u20ac",
        "$$",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
        "\\boxed{",
        "\\frac",
        "\\\\",
        "\\$",
        "```",
    ]
    pieces += ["\\begin{cases}", "\\end{cases}", "<b>", "\\left", "\\right", "\\text{", "\\sqrt["]
    texts = ["".join(lots.choices(pieces, k=lots.randint(1, 40))) for _ in range(3000)]
    wrong = scripts.evaluate(
        f"{json.dumps(texts)}.filter((text) => {{"
        "  const joined = splitMath(text).map((part) => part.source ?? part).join('');"
        "  const node = fillText(document.createElement('div'), text, true);"
        "  const names = [...node.querySelectorAll('*')].map((inner) => inner.localName);"
        "  const sources = [...node.childNodes].map((child) => child.title || child.textContent).join('');"
        "  return joined !== text || sources !== text || names.some((name) => !/^(span|m[a-z]+)$/.test(name));"
        "})"
    )
    assert wrong == []


@pytest.mark.parametrize(
    "piece", ["$", "\\(", "\\[ ", "$x", "\\boxed{", "$a\\", "\\begin{align}", "```", "$x$ ", "{"]
)
def test_a_megabyte_of_one_piece_is_read_in_a_moment(scripts: Browser, piece: str) -> None:
    begun = time.monotonic()
    scripts.evaluate(f"splitMath({json.dumps(piece)}.repeat({1_000_000 // len(piece)})).length")
    assert time.monotonic() - begun < 10
