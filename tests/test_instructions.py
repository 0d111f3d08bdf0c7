"""IFEval's rules: each has texts that follow it and texts that do not; the ones that count agree with naive twins."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.grade import grade
from distill.records import FinishReason, Problem, Verdict
from distill.verify import check
from distill.verify.instructions import (
    BadInstructions,
    followed,
    followed_loosely,
    read_instructions,
    variants_of,
)
from distill.verify.rules import RULES, count_sentences
from distill.verify.told_language import is_in_language

#: rule, arguments, a text that follows it, texts that do not.
CASES = [
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "Go NOW to NASA.", ["Go now to NASA."]),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}, "Go now to NASA.", ["GO now to NASA."]),
    ("change_case:english_capital", {}, "THIS IS THE ANSWER TO YOUR QUESTION.", ["THIS IS the ANSWER.", "DAS IST NICHT DIE ANTWORT AUF DIE FRAGE UND WIR SIND HIER."]),
    ("change_case:english_lowercase", {}, "this is the answer to your question.", ["This is the answer.", "das ist nicht die antwort auf die frage und wir sind hier."]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a poem."}, "  write a POEM.\n\nRoses", ["Sure! Write a poem."]),
    ("combination:two_responses", {}, "One.\n******\nTwo.", ["One.", "One.\n******\nOne.", "One.\n******\nTwo.\n******\nThree.", "One.\n******\n******\nTwo."]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name], at [place]", ["Dear [name]", "Dear [na\nme], [x"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\n\nP. S. More", ["Bye.", "Bye.\nPS More"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S more", ["Bye.\nP.S. more"]),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", ["Maybe.", "My answer is perhaps."]),
    ("detectable_format:json_format", {}, '```json\n{"a": [1, 2]}\n```', ["{'a': 1}", 'Here: {"a": 1}', "[" * 100_000]),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}, "SECTION 1\na\nSECTION 2\nb", ["SECTION 1\na", "Section 1 Section 2"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n  - two\n**bold** is none", ["* one", "* one\n* two\n* three"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and **two**", ["*one* and ** **", "*one\ntwo* three*"]),
    ("detectable_format:title", {}, "<<A Song>>\nLa", ["A Song", "<< >>", "<<A\nSong>>"]),
    ("keywords:existence", {"keywords": ["cat", "dog"]}, "Cats and DOGS", ["cats alone"]),
    ("keywords:forbidden_words", {"forbidden_words": ["rock", "C++"]}, "shamrock, rocket, science in C", ["We Rock.", "I like C++ too"]),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "at least"}, "War, and more war.", ["One war."]),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "less than"}, "One war.", ["War, and toward."]),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": "at least"}, "Quite a quiz", ["Quite a fizz"]),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "less than"}, "# one", ["# one\n# two"]),
    ("language:response_language", {"language": "de"}, "Das ist nicht die Antwort auf die Frage, aber wir sind hier und es wird Zeit.", ["This is not the answer to the question, but we are here and it is time."]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"}, "A day.\n\n\"Weekend!\" he said.", ["A day.\n\nWeekends are.", "Weekend.\n\nNo.", "A.\n\nWeekend.\n\nB."]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One\n***\nTwo\n***\n", ["One", "One\n***\n\n***\nTwo"]),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}, "One. Two! Three?", ["Mr. Smith has 3.5 cats, e.g. Tom. He sings."]),
    ("length_constraints:number_words", {"num_words": 4, "relation": "less than"}, "It is here", ["It is here now"]),
    ("punctuation:no_comma", {}, "One and two", ["One, two"]),
    ("startend:end_checker", {"end_phrase": "That is all you need!"}, "So.\nthat is all you NEED!\"\n", ["That is all you need! Bye."]),
    ("startend:quotation", {}, ' "All of it." ', ['"All', "All of it.", '"']),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "right", "wrong"), CASES)
def test_each_rule_tells_right_from_wrong(name, arguments, right, wrong):
    instructions = read_instructions({"type": "instructions", "instructions": [{"id": name, **arguments}]})
    assert followed(right, instructions) == [True]
    for text in wrong:
        assert followed(text, instructions) == [False], text
    assert followed(" \n", instructions) == [False], "an empty answer follows nothing"


def test_every_rule_has_a_case():
    assert {name for name, *_ in CASES} == set(RULES)


def test_every_instruction_of_the_real_prompts_is_known(shared_data: Path) -> None:
    from distill.recipe_parts import SuiteSource
    from distill.suites import find_suite, load_suite

    path = str(shared_data / "chat" / "ifeval_prompts.jsonl")
    problems = load_suite(find_suite("ifeval", {"ifeval": SuiteSource(path=path)}), seed=0)
    assert len(problems) == 541
    used = {one["id"] for problem in problems for one in problem.tests["instructions"]}
    assert used == set(RULES)


# ------------------------------------------------------------------------------------ naive twins

TEXT = st.text(alphabet='ab *-\n[]<>,."A1', max_size=40)


def follows(name: str, text: str, **arguments: object) -> bool:
    return RULES[name].follows(text, **arguments)


@given(TEXT, st.integers(0, 3))
def test_placeholders_and_bullets_agree_with_the_obvious_expressions(text: str, number: int) -> None:
    found = re.findall(r"\[.*?\]", text)
    assert follows("detectable_content:number_placeholders", text, num_placeholders=number) == (
        len(found) >= number
    )
    bullets = re.findall(r"^ *(?:\*[^*\n]|-)", text, re.MULTILINE)
    assert follows("detectable_format:number_bullet_lists", text, num_bullets=number) == (
        len(bullets) == number
    )
    titles = [one for one in re.findall(r"<<(.*?)>>", text) if one.strip("<>").strip()]
    assert follows("detectable_format:title", text) == bool(titles)


@given(TEXT, st.integers(0, 6))
def test_counts_agree_with_loops_over_characters(text: str, number: int) -> None:
    words, inside = 0, False
    for letter in text:
        words += letter.isalnum() and not inside
        inside = letter.isalnum()
    assert follows("length_constraints:number_words", text, num_words=number, relation="less than") == (
        words < number
    )
    letters = sum(letter in "aA" for letter in text)
    told = {"letter": "A", "let_frequency": number}
    assert follows("keywords:letter_frequency", text, let_relation="at least", **told) == (letters >= number)
    assert follows("keywords:letter_frequency", text, let_relation="less than", **told) == (letters < number)
    assert follows("punctuation:no_comma", text) == all(letter != "," for letter in text)


@given(st.lists(st.sampled_from(["", "a", "b b", " "]), min_size=1, max_size=5))
def test_paragraphs_are_what_was_joined(parts: list[str]) -> None:
    text = "\n***\n".join(parts)
    bare = [part.strip() for part in parts]
    while len(bare) > 1 and not bare[0]:
        bare = bare[1:]
    while len(bare) > 1 and not bare[-1]:
        bare = bare[:-1]
    for number in range(6):
        wanted = all(bare) and len(bare) == number
        assert follows("length_constraints:number_paragraphs", text, num_paragraphs=number) == wanted


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("One. Two! Three?", 3),
        ("Dr. J. Smith came at 5 p.m. He left.", 2),
        ("See fig. 3, i.e. the curve. It costs 3.50 euros", 2),
        ("# Title\n\nA list:\n\n- one\n- two", 3),
        ("He said \"Stop!\" Then... silence.", 3),
        ("你好。再见！", 2),
        ("1. 2. 3.", 0),
    ],
)  # fmt: skip
def test_sentences(text: str, number: int) -> None:
    assert count_sentences(text) == number


@pytest.mark.parametrize(
    "piece", ["[", "<<", "*", "\n", "P.", ". ", "***", "- ", " ", "A.", '"', "A", "\u3002", "# "]
)
def test_no_text_takes_long(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    started = time.process_time()
    for name, arguments, _, _ in CASES:
        follows(name, text, **arguments)
    assert time.process_time() - started < 5, "a rule is not linear in its text"


# ------------------------------------------------------------------------------------ languages

TEXTS = {
    "en": "The house is on the hill, and we can see it from the road when there is no fog.",
    "de": "Das Haus ist auf dem Hügel, und wir sehen es von der Straße, wenn es nicht regnet.",
    "it": "La casa è sulla collina e non si vede dalla strada, ma noi abbiamo una mappa per questo.",
    "pt": "A casa não está na cidade, mas o homem que mora nela também tem uma loja com muito pão.",
    "vi": "Ngôi nhà này là của tôi và nó không có cửa sổ, nhưng những người khách đã được vào trong.",
    "fi": "Talo on mäellä ja se ei ole kaukana, mutta hän ei voi nähdä sitä kun on sumu.",
    "sw": "Nyumba ni ya rafiki yangu na iko katika mji, lakini kwa sasa hakuna maji hii wiki.",
    "ru": "Дом стоит на холме, и мы видим его с дороги, если это не туман.",
    "bg": "Къщата е на хълма и ние я виждаме от пътя, когато няма мъгла, защото са наблизо.",
    "uk": "Це дім, що стоїть на пагорбі, і ми бачимо його з дороги, якщо він є.",
    "hi": "यह घर पहाड़ी पर है और हम इसे सड़क से देख सकते हैं।",
    "mr": "हे घर टेकडीवर आहे आणि आम्ही ते रस्त्यावरून पाहू शकतो, पण पाऊस नाही.",
    "ne": "यो घर डाँडामा छ र हामी बाटोबाट देख्न सक्छौं, तर पानी पनि परेको छ।",
    "ar": "البيت على التل ونحن نراه من الطريق في الصباح، لأن هذا هو المكان الذي كان هنا.",
    "fa": "این خانه در شهر است و ما آن را از جاده می بینیم، اگر که باران نباشد.",
    "ur": "یہ گھر پہاڑی پر ہے اور ہم اسے سڑک سے دیکھ سکتے ہیں۔",
    "kn": "ಈ ಮನೆ ಬೆಟ್ಟದ ಮೇಲೆ ಇದೆ.", "pa": "ਇਹ ਘਰ ਪਹਾੜੀ ਉੱਤੇ ਹੈ।", "gu": "આ ઘર ટેકરી પર છે.",
    "te": "ఈ ఇల్లు కొండ మీద ఉంది.", "ta": "இந்த வீடு மலையில் உள்ளது.", "bn": "এই বাড়িটি পাহাড়ের উপর।",
    "ko": "이 집은 언덕 위에 있습니다.", "th": "บ้านหลังนี้อยู่บนเนินเขา",
}  # fmt: skip


@pytest.mark.parametrize("language", TEXTS)
def test_each_language_of_ifeval_is_told_from_all_others(language: str) -> None:
    told = {other for other, text in TEXTS.items() if is_in_language(text, language)}
    assert told == {language}


def test_a_text_without_words_is_in_no_language() -> None:
    assert not is_in_language("123 + 456", "en") and not is_in_language("", "kn")


# ------------------------------------------------------------------------------------ verdicts


def problem(*instructions: dict[str, object]) -> Problem:
    tests = {"type": "instructions", "instructions": list(instructions)}
    return Problem(id="p", kind="instruction", problem="?", tests=tests)


COMMA, QUOTED = {"id": "punctuation:no_comma"}, {"id": "startend:quotation"}


def test_all_instructions_must_be_followed_after_the_thought() -> None:
    both = problem(COMMA, QUOTED)
    right = check(both, '<think>\nYes, well.\n</think>\n\n"All of it."')
    assert (right.verdict, right.extracted, right.reason) == (Verdict.CORRECT, "strict 2/2, loose 2/2", "")
    half = check(both, '"All, of it."')
    assert (half.verdict, half.extracted) == (Verdict.WRONG, "strict 1/2, loose 1/2")
    assert half.reason == "not followed: punctuation:no_comma"
    loose = check(both, 'Sure, here it is:\n"All of it."')
    assert (loose.verdict, loose.extracted) == (Verdict.WRONG, "strict 0/2, loose 2/2")
    assert check(both, '"All of it."', finish_reason=FinishReason.LENGTH).verdict is Verdict.TRUNCATED
    assert check(both, "<think>\nOn and on", finish_reason=FinishReason.LENGTH).verdict is Verdict.TRUNCATED
    assert check(both, "<think>x</think>\n").verdict is Verdict.NO_ANSWER
    assert check(Problem(id="p", kind="instruction", problem="?"), "a").verdict is Verdict.BAD_REFERENCE
    assert check(problem({"id": "no:rule"}), "a").verdict is Verdict.BAD_REFERENCE


@given(st.text(alphabet="ab*\n,", max_size=12))
def test_loose_is_never_stricter(text: str) -> None:
    instructions = read_instructions(problem(COMMA, {"id": "detectable_format:title"}).tests)
    strict, loose = followed(text, instructions), followed_loosely(text, instructions)
    assert all(one <= other for one, other in zip(strict, loose, strict=True))
    assert text in variants_of(text) and len(variants_of(text)) <= 8


@pytest.mark.parametrize(
    "tests",
    [
        {}, {"type": "python", "code": "x"}, {"type": "instructions", "instructions": []},
        {"type": "instructions", "instructions": [{"id": "none:such"}]},
        {"type": "instructions", "instructions": [{"id": "punctuation:no_comma", "n": 1}]},
        {"type": "instructions", "instructions": [{"id": "keywords:existence", "keywords": "cat"}]},
        {"type": "instructions", "instructions": [{"id": "language:response_language", "language": "xx"}]},
        {"type": "instructions", "instructions": [{"id": "length_constraints:number_words", "num_words": 3, "relation": "about"}]},
        {"type": "instructions", "instructions": [{"id": "length_constraints:number_words", "num_words": float("nan"), "relation": "at least"}]},
        {"type": "instructions", "instructions": [{"id": "detectable_format:number_bullet_lists", "num_bullets": float("inf")}]},
    ],
)  # fmt: skip
def test_what_no_rule_can_use_is_refused(tests: dict[str, object]) -> None:
    with pytest.raises(BadInstructions):
        read_instructions(tests)


def test_distill_grade_takes_instructions() -> None:
    rows = [
        {"id": 1, "kind": "instruction", "tests": problem(COMMA).tests, "response": "One, two"},
        {"id": 2, "kind": "instruction", "tests": problem(COMMA).tests, "response": "One"},
        {"id": 3, "kind": "instruction", "tests": "no object", "response": "One"},
    ]
    written: list[dict[str, object]] = []

    class Kept(io.StringIO):
        def write(self, row: dict[str, object]) -> None:  # type: ignore[override]
            written.append(row)

    grade(enumerate((json.dumps(row).encode() for row in rows), start=1), Kept(), {}, None, ())  # type: ignore[arg-type]
    assert [row["verdict"] for row in written] == ["wrong", "correct", "error"]
