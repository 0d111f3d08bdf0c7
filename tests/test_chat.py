"""Thoughts and templates: where a thought ends, what is well formed, and what the loss may count."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from distill.chat import KNOWN_TAGS, ChatFormat, ThoughtState, ThoughtTags, is_well_formed, split_thought
from distill.errors import UserError

TAGS = ThoughtTags()
OTHER = ThoughtTags("<|begin_of_thought|>", "<|end_of_thought|>")
CLOSED, OPEN, NONE = ThoughtState.CLOSED, ThoughtState.OPEN, ThoughtState.NONE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think>b", (CLOSED, "a", "b")),
        ("<think>a</think>", (CLOSED, "a", "")),
        ("<think></think>b", (CLOSED, "", "b")),
        ("<think>a", (OPEN, "<think>a", None)),
        ("", (NONE, None, "")),
        ("no tags, 4 < 5", (NONE, None, "no tags, 4 < 5")),
        ("a</think>b", (CLOSED, "a", "b")),  # a template prefilled the opening tag, and the caller lost it
        ("\n <think>a</think>b", (CLOSED, "a", "b")),  # blanks before the tag are free
        ("<think>a</think>b</think>c", (CLOSED, "a</think>b", "c")),  # the last closing tag counts
        ("<think>a</think>b<think>c", (OPEN, "<think>c", None)),  # a second thought that never ends
        ("<think>a</think>b<think>c</think>d", (CLOSED, "a</think>b<think>c", "d")),
        ("<|begin_of_thought|>a<|end_of_thought|>b", (CLOSED, "a", "b")),
        ("[THINK]a[/THINK]b", (CLOSED, "a", "b")),
        ("<thinking>a</thinking>b", (CLOSED, "a", "b")),  # not a <think> with a tail
        ("<think>a</think>b<thought>c", (OPEN, "<thought>c", None)),  # another family's tag opens too
        ("<THINK>a</THINK>b", (NONE, None, "<THINK>a</THINK>b")),
    ],
)
def test_split_thought(text: str, expected: tuple[Any, ...]) -> None:
    found = split_thought(text)
    assert (found.state, found.thought, found.answer) == expected
    assert (found.answer is None) is (found.state is OPEN)


def test_only_the_given_tags_count() -> None:
    assert split_thought("<think>a</think>b", (OTHER,)).state is NONE
    assert split_thought("{x}a{/x}b", (ThoughtTags("{x}", "{/x}"),)).answer == "b"
    assert all(split_thought(f"{tags.open}a{tags.close}b").answer == "b" for tags in KNOWN_TAGS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think>b", True),
        ("<think>\na\n</think>\n\nb", True),
        (" \n<think>a</think>b", True),
        ("<think></think>b", False),
        ("<think> \n</think>b", False),
        ("<think>a</think>", False),
        ("<think>a</think> \n", False),
        ("<think>a", False),
        ("a</think>b", False),
        ("b", False),
        ("", False),
        ("</think>a<think>b", False),
        ("Sure! <think>a</think>b", False),
        ("<think>a</think>b</think>", False),
        ("<think>a<think>b</think>c", False),
        ("<think>a</think>the tag <think> opens a thought", False),
        ("<think>a</think>b<think>c</think>d", False),
        ("<think><think>a</think></think>b", False),
        ("<THINK>a</THINK>b", False),
        ("<|begin_of_thought|>a<|end_of_thought|>b", False),
    ],
)
def test_is_well_formed(text: str, expected: bool) -> None:
    assert is_well_formed(text, TAGS) is expected


# ---------------------------------------------------------------------------------------------- templates

BARE = (
    "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def opening(text: str) -> str:
    """As an expression, for Jinja drops a newline at a template's end."""
    return "{% if add_generation_prompt %}{{ " + json.dumps(text) + " }}{% endif %}"


@functools.cache
def world_tokenizer() -> Any:
    from distill.world_tokenizer import build_tokenizer

    return build_tokenizer()


def with_template(template: str | None) -> Any:
    import copy

    tokenizer = copy.deepcopy(world_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


def test_prompt_and_example_share_their_ids() -> None:
    chat = ChatFormat("m", world_tokenizer(), TAGS)
    prompt = chat.prompt("17+5-8")
    example = chat.example("17+5-8", "<think>17+5=22;</think>\\boxed{22}")
    assert example.ids[: example.prompt_length] == prompt.ids and prompt.prefill == chat.prefill == ""
    assert chat.decode(example.ids[example.prompt_length :]) == "<think>17+5=22;</think>\\boxed{22}"
    assert example.ids[-1] == chat.eos_id and example.ids.count(chat.eos_id) == 1


@pytest.mark.parametrize("blanks", ["", "\n", "\n\n", " "])
def test_a_prefill_of_the_template_is_found_and_trained(blanks: str) -> None:
    chat = ChatFormat("m", with_template(BARE + opening("<think>" + blanks)), TAGS)
    assert chat.prefill == "<think>" + blanks
    completion = f"<think>{blanks}a</think>b"
    prompt, example = chat.prompt("1+2"), chat.example("1+2", completion)
    assert chat.tokenizer.decode(prompt.ids) == "<|user|>1+2<|assistant|>" + chat.prefill
    assert example.ids[: len(prompt.ids)] == prompt.ids, "what is trained goes on where a prompt ends"
    assert example.prompt_length == len(prompt.ids) - len(chat.encode(chat.prefill)), (
        "the opening tag is trained"
    )
    assert chat.decode(example.ids[example.prompt_length :]) == completion


def test_a_prefill_of_the_recipe_does_the_same() -> None:
    chat = ChatFormat("m", world_tokenizer(), TAGS, prefill=True)
    assert chat.prefill == "<think>\n"
    assert chat.tokenizer.decode(chat.prompt("1").ids).endswith("<|assistant|><think>\n")
    already = ChatFormat("m", with_template(BARE + opening("<think>")), TAGS, prefill=True)
    assert already.prefill == "<think>", "a template that opens the thought is not made to open it twice"


def test_a_tag_in_the_problem_is_no_prefill() -> None:
    chat = ChatFormat("m", with_template(BARE + opening("<think>\n")), TAGS)
    assert chat.tokenizer.decode(chat.prompt("what is <think>\n").ids).count("<think>") == 2
    example = chat.example("what is <think>\n", "<think>\na</think>b")
    assert (
        chat.tokenizer.decode(example.ids[: example.prompt_length])
        == "<|user|>what is <think>\n<|assistant|>"
    )


@pytest.mark.parametrize("opening", ["<think>", "<think>\n", "<think>\n\n"])
def test_a_thought_that_opens_otherwise_is_trained_as_the_prompt_opens_it(opening: str) -> None:
    """The student is always asked with its prefill: a row that opens differently would train what is never asked."""
    chat = ChatFormat("m", world_tokenizer(), TAGS, prefill=True)
    prompt, example = chat.prompt("1+2"), chat.example("1+2", f"{opening}a</think>b")
    assert example.ids[: len(prompt.ids)] == prompt.ids
    assert chat.decode(example.ids).endswith("a</think>b")


def test_the_teachers_tags_become_the_students() -> None:
    chat = ChatFormat("m", world_tokenizer(), TAGS)
    theirs = f"{OTHER.open}a{OTHER.close}b"
    example = chat.example("1", theirs, written_with=OTHER)
    assert chat.decode(example.ids[example.prompt_length :]) == "<think>a</think>b"
    twice = chat.example("1", f"{OTHER.open}a{OTHER.close}b{OTHER.close}c", written_with=OTHER)
    assert split_thought(chat.decode(twice.ids[twice.prompt_length :]), (TAGS,)).answer == "c"
    plain = chat.example("1", "no thought", written_with=OTHER)
    assert chat.decode(plain.ids[plain.prompt_length :]) == "no thought"


def test_decode_drops_one_final_stop_and_nothing_else() -> None:
    tokenizer = world_tokenizer()
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    chat = ChatFormat("m", tokenizer, TAGS, stop_ids=(user,))
    text = chat.encode("a  b , c")
    for stop in (chat.eos_id, user):
        assert chat.decode([*text, stop]) == "a  b , c"
    assert chat.decode([*text, chat.eos_id, chat.eos_id]) == "a  b , c<|end|>"
    assert chat.decode([]) == chat.decode([chat.eos_id]) == ""


def test_a_tokenizer_that_cannot_serve_is_refused() -> None:
    import copy

    with pytest.raises(UserError, match="no chat template"):
        ChatFormat("m", with_template(None), TAGS)
    endless = copy.deepcopy(world_tokenizer())
    endless.eos_token = None
    with pytest.raises(UserError, match="no EOS"):
        ChatFormat("m", endless, TAGS)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if %}", "cannot write a prompt"),
        ("{{ nope.x.y }}", "cannot write a prompt .*nope"),
        ("{{ raise_exception('system first') }}", "cannot write a prompt .system first"),
        ("{{ messages[5].content }}", "cannot write a prompt"),
        ("{{ 1 // 0 }}", "cannot write a prompt"),
        ("Solve the problem.<|assistant|>", "leaves the problem out"),
        (
            "{% for m in messages %}{% if m.role == 'human' %}{{ m.content }}{% endif %}{% endfor %}",
            "leaves the problem",
        ),
    ],
)
def test_a_template_that_breaks_or_drops_the_problem_is_refused(template: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        ChatFormat("m", with_template(template), TAGS)
    assert caught.value.key == "models.m.chat_template"


def test_a_template_that_takes_no_answer_has_no_end_of_one() -> None:
    template = "{% if messages[-1].role == 'assistant' %}{{ raise_exception('no') }}{% endif %}" + BARE
    assert ChatFormat("m", with_template(template), TAGS).turn_end() is None


# ---------------------------------------------------------------------------------------------- real vocabularies

REAL = ("llama3.1", "qwen2.5", "qwen3", "deepseek-r1-distill-qwen", "deepseek-r1-distill-llama")


@functools.cache
def real_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest, shared_data: Path) -> ChatFormat:
    tokenizer = real_tokenizer(shared_data / "tokenizers" / f"{request.param}-rebuilt")
    return ChatFormat(request.param, tokenizer, TAGS)


def test_real_templates_prompt_as_transformers_does(real: ChatFormat) -> None:
    messages = [{"role": "user", "content": "What is 2 + 2?"}]
    expected = real.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert real.prompt("What is 2 + 2?").ids == list(expected)
    assert real.prefill == ("<think>\n" if real.tokenizer.name_or_path.count("deepseek") else "")


def test_real_templates_bring_one_bos_at_most(real: ChatFormat) -> None:
    ids = real.example("What is 2 + 2?", "<think>\nEasy.\n</think>\n\n4").ids
    bos = real.tokenizer.bos_token_id
    assert ids.count(bos) == (0 if "qwen" in real.tokenizer.name_or_path.replace("distill-qwen", "") else 1)
    assert bos is None or bos not in ids[1:]


def test_real_traces_survive_templating(real: ChatFormat, shared_data: Path) -> None:
    """Thought, answer and EOS are all in the loss, as written (R1's template would cut the thought of a message)."""
    with (shared_data / "outputs" / "qwen25_32b_prompted_long_cot.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(next(lines)) for _ in range(12)]
    for row in rows:
        completion = f"<think>\n{row['response']}\n</think>\n\n\\boxed{{{row['gold']}}}"
        prompt, example = real.prompt(row["question"]), real.example(row["question"], completion)
        assert example.ids[: len(prompt.ids)] == prompt.ids or not real.prefill
        assert example.ids[: example.prompt_length] == prompt.ids[: example.prompt_length]
        response = example.ids[example.prompt_length :]
        assert response[-1] == real.eos_id and response.count(real.eos_id) == 1
        assert real.decode(response) == completion


def test_real_thought_tags_are_single_tokens_where_the_family_has_them(real: ChatFormat) -> None:
    tag = real.encode("<think>")
    known = any(family in real.tokenizer.name_or_path for family in ("qwen3", "r1-distill"))
    assert (len(tag) == 1) is known
