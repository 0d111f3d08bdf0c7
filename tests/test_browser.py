"""The report in a real browser: whole at every width, keeping to itself, running no model's text, needing no mouse."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import report_run
from browser import Browser, find_chromium, opened

from distill.report import write_report
from distill.shards import append_rows

HOSTILE = [
    "</script><script>document.title = 'owned'</script>",
    "</textarea><img src=x onerror=\"document.title = 'owned'\"><svg onload=\"document.title = 'owned'\">",
    "]]> <!-- <iframe src=\"javascript:document.title='owned'\"></iframe> --> &lt;script&gt;",
    "$\\href{javascript:document.title='owned'}{x}$ $<img src=x onerror=\"document.title = 'owned'\">$ $\\constructor$",
    "\u2028\u2029\ud83d\0 \u202e backwards",
]
THOUGHT = "<think>" + "a < b and </details></script> $x_1$\n" * 100 + "</think>"
MEGABYTE = "a < b & c </script> $x_1$\n" * 40_000
READER = "document.querySelector('[data-kind=answers]')"
SIZES = {"phone": (390, 844), "desktop": (1280, 860)}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report on a made-up run, with hostile answers to the first problem of its first suite."""
    run = tmp_path_factory.mktemp("browser") / "run"
    comparison = report_run.make_run(run, traces=40, problems=12)
    for model in ("teacher", "student"):
        file = run / "results" / model / "chains" / "responses.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            if row["id"] == "chains-000":
                texts = [*HOSTILE, MEGABYTE]
                row["completion"] = texts[row["sample_index"] + (2 if model == "student" else 0)]
            if row["id"] == "chains-001":
                row["completion"] = THOUGHT + "So it is $4$."
            if row["id"] in ("chains-000", "chains-001"):
                row["prefill"] = ""
        file.unlink()
        append_rows(file, rows)
    return write_report(run, report_run.make_recipe(), comparison).resolve().as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all these tests."""
    program = find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed (the distribution's package is called chromium)")
    with opened(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def shown(chromium: Browser, page: str) -> Iterator[Browser]:
    """The report, opened anew on a desk in daylight. No test may leave a complaint or a request behind."""
    chromium.complaints.clear()
    chromium.requests.clear()
    chromium.show(*SIZES["desktop"], "light")
    chromium.open(page)
    yield chromium
    assert not chromium.complaints
    assert chromium.requests == [page]
    assert chromium.evaluate("document.title") == "quickstart"


# ---------------------------------------------------------------------------------------------- how it looks


#: Elements that reach beyond the window's right edge, but for what lies in something that scrolls by itself.
OVERFLOWING = """[...document.body.querySelectorAll('*')].filter((node) =>
  node.getBoundingClientRect().right > innerWidth + 1 && !node.closest('.wide, .display, .skip, .list button')
).map((node) => node.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("size", SIZES)
def test_it_fits_the_window_in_dark_and_in_light(shown: Browser, size: str) -> None:
    pictures, papers = {}, {}
    for scheme in ("light", "dark"):
        shown.show(*SIZES[size], scheme)
        pictures[scheme] = shown.screenshot()
        papers[scheme] = luminance(shown)
        assert struct.unpack(">II", pictures[scheme][16:24]) == SIZES[size]
        assert len(pictures[scheme]) > 10_000, "a picture of nothing compresses to less"
        assert shown.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
        assert shown.evaluate(OVERFLOWING) == []
    assert papers["dark"] < 0.2 and papers["light"] > 0.8 and pictures["dark"] != pictures["light"]


def test_the_first_screen_says_which_is_better_by_how_much_how_surely_at_what_cost(shown: Browser) -> None:
    first = shown.evaluate(
        "[...document.querySelectorAll('h1, .glance div')].filter((node) => "
        "node.getBoundingClientRect().bottom < innerHeight).map((node) => node.textContent)"
    )
    assert first[0].startswith("student solves more problems than rl-only on chains")
    assert "+0.180" in first[1] and "95%: 0.135 to 0.220\ntold apart" in first[1]
    assert first[3].startswith("student, tokens it took2.05 M") and len(first) == 5


def test_the_reader_chooses_light_or_dark_and_nothing_is_stored(shown: Browser) -> None:
    shown.press("Tab", "Tab", "Enter")
    assert shown.evaluate("document.activeElement.className") == "theme" and luminance(shown) < 0.2
    shown.press("Enter")
    assert luminance(shown) > 0.8
    assert shown.evaluate("document.cookie === '' && location.hash === ''")


def test_on_paper_it_is_light_and_whole_and_what_only_a_screen_can_do_is_gone(shown: Browser) -> None:
    shown.press("Tab", "Tab", "Enter")  # the reader had chosen dark
    shown.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert luminance(shown) > 0.8
    hidden = "['.browser', '.theme', 'nav'].every((name) => document.querySelector(name).offsetHeight === 0)"
    assert shown.evaluate(hidden) and shown.evaluate("document.querySelector('table').offsetHeight > 0")


def luminance(browser: Browser) -> float:
    """Of the page's paper, from 0 to 1."""
    colour = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / (3 * 255)


# ---------------------------------------------------------------------------------------------- what it keeps out


def test_hostile_answers_are_shown_as_they_are_and_make_no_element(shown: Browser) -> None:
    assert shown.evaluate("document.querySelectorAll('script').length") == 2
    shown.press("f")  # as written: a typeset formula's text is not its source
    texts = {"teacher": HOSTILE[:4], "student": [*HOSTILE[2:5], MEGABYTE]}
    for place in range(4):
        for column, model in enumerate(("teacher", "student")):
            columns = f"document.querySelectorAll('[data-kind=answers] .column')[{column}]"
            text = f"[...{columns}.querySelectorAll('.thought, .answer')].map((span) => span.textContent).join('')"
            assert shown.evaluate(text) == texts[model][place]
        shown.evaluate("document.querySelector('[data-kind=answers] .reader').focus()")
        shown.press("ArrowRight")
    strange = "img, svg:not(.figure), iframe, textarea, object, embed, link, [onerror], [onload], [href^=javascript]"
    assert shown.evaluate(f"document.querySelectorAll({strange!r}).length") == 0


def test_hostile_answers_are_harmless_too_where_formulas_are_typeset(shown: Browser) -> None:
    for _ in range(4):
        shown.evaluate("document.querySelector('[data-kind=answers] .reader').focus()")
        shown.press("ArrowRight")
        found = shown.evaluate(
            "[...document.querySelectorAll('.browser .text *')].map((node) => node.localName)"
        )
        assert {name for name in found if not name.startswith("m")} <= {"span"} and "mstyle" not in found
    assert shown.evaluate("document.querySelectorAll('.browser .text [href]').length") == 0


def test_a_long_thought_is_folded_before_its_answer_and_whole_when_opened(shown: Browser) -> None:
    shown.evaluate(f"{READER}.scrollIntoView()")
    shown.press("j", "f")
    column = f"{READER}.querySelector('.column')"
    assert shown.evaluate(f"{column}.querySelector('.answer').textContent") == "So it is $4$."
    assert shown.evaluate(f"{column}.querySelector('.thought').textContent") == ""
    shown.evaluate(f"{column}.querySelector('summary').focus()")
    shown.press("Enter")
    opened = f"{column}.querySelector('.thought').textContent !== ''"
    shown.evaluate(  # the text is put in when the browser says that it is open, which may take it a while
        f"await new Promise((done) => {{ const look = () => {opened} ? done() : setTimeout(look, 20); look(); }})"
    )
    assert shown.evaluate(f"{column}.querySelector('.thought').textContent") == THOUGHT


def test_the_policy_stops_what_the_page_never_writes(chromium: Browser, page: str) -> None:
    """A second wall: were markup to get in all the same, no script of it would run and nothing be fetched."""
    chromium.open(page)
    chromium.complaints.clear()
    chromium.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"http://127.0.0.1:9/x\">"
        '<p id=trap onclick="window.owned = 1">x</p><style>body { display: none }</style>\'); '
        "document.getElementById('trap').click(); "
        "document.body.append(Object.assign(document.createElement('script'), { text: 'window.owned = 2' }))"
    )
    assert chromium.evaluate("[window.owned === undefined, getComputedStyle(document.body).display]") == [
        True,
        "block",
    ]
    told = " ".join(chromium.complaints)
    assert all(f"{kind}-src" in told for kind in ("img", "script", "style"))
    chromium.complaints.clear()


# ---------------------------------------------------------------------------------------------- without a mouse


def focus(browser: Browser) -> str:
    """What has the focus, by its label, and whether one can see that."""
    outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    return str(
        browser.evaluate(
            "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
        )
    )


def test_the_first_stop_skips_to_the_results(shown: Browser) -> None:
    shown.press("Tab")
    assert focus(shown) == "Skip to the results"
    assert shown.evaluate("document.activeElement.getBoundingClientRect().left >= 0")


def test_filters_and_side_by_side_reader_work_by_keyboard_alone(shown: Browser) -> None:
    shown.evaluate(f"{READER}.scrollIntoView()")
    shown.press("/")
    assert focus(shown) == "search the text"
    back = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9, "modifiers": 8}
    for wanted in ("verdict", "who was right"):
        shown.call("Input.dispatchKeyEvent", type="rawKeyDown", **back)
        assert focus(shown) == wanted
    shown.press("ArrowDown")  # from "whoever was right" to "teacher right, student wrong"
    label = "document.activeElement.selectedOptions[0].textContent"
    assert shown.evaluate(label) == "teacher right, student wrong"
    listed = shown.evaluate(f"[...{READER}.querySelectorAll('.list .why')].map((node) => node.textContent)")
    data: dict[str, Any] = json.loads(shown.evaluate("document.getElementById('data').textContent"))
    wanted_rows = [
        row["counts"]
        for problems in data["answers"].values()
        for row in problems
        if row["counts"]["teacher"][0] > 2 >= row["counts"]["student"][0]
    ]
    assert 0 < len(wanted_rows) < 24
    assert listed == [f"teacher {c['teacher'][0]}/4, student {c['student'][0]}/4" for c in wanted_rows]
    shown.press("ArrowUp", "/", *"chains", "Enter")  # everything again, then only one suite's
    place = f"{READER}.querySelector('.place').textContent"
    assert shown.evaluate(place) == "1 of 12"
    assert shown.evaluate(f"{READER}.querySelector('.list').contains(document.activeElement)")
    shown.press("ArrowDown", "j")
    assert shown.evaluate(place).startswith("3 of ")
    shown.press("k", "ArrowUp")
    assert shown.evaluate(place).startswith("1 of ")
    pressed = f"[...{READER}.querySelectorAll('.column')].map((node) => [...node.querySelectorAll('.samples button')]"
    pressed += ".findIndex((button) => button.getAttribute('aria-pressed') === 'true'))"
    assert shown.evaluate(pressed) == [0, 0]
    shown.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert shown.evaluate(pressed) == [1, 1]


def test_one_stop_in_a_list_however_long_it_is(shown: Browser) -> None:
    stops = shown.evaluate(
        "[...document.querySelectorAll('.list')].map((l) => l.querySelectorAll('[tabindex=\"0\"]').length)"
    )
    assert stops == [1, 1]


# ---------------------------------------------------------------------------------------------- what is folded


def test_followed_problems_open_by_keyboard_and_fit_a_phone_with_hostile_texts(shown: Browser) -> None:
    shown.show(*SIZES["phone"], "dark")
    closed = "[...document.querySelectorAll('#training .fold, #training .followed')].filter((node) => node.open).length"
    assert shown.evaluate(closed) == 0
    for summary in ("#training .fold:has(.followed) > summary", "#training .followed > summary"):
        shown.evaluate(f"document.querySelector('{summary}').focus()")
        shown.press("Enter")
    assert shown.evaluate(closed) == 2
    text = shown.evaluate("document.querySelector('.followed .looks .text').textContent")
    assert text == report_run.HOSTILE.replace("\ud83d", "")
    shown.evaluate("document.querySelectorAll('#training details').forEach((node) => { node.open = true; })")
    assert shown.evaluate(OVERFLOWING) == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= SIZES["phone"][0]
    assert shown.evaluate("document.querySelectorAll('#training mark').length") > 0
