"""The look before a fine-tuning's first step: each check lets good rows through and catches what was broken on purpose.

That a resumed fine-tuning is the undisturbed one, bit for bit, is `test_sft.test_a_resumed_run_is_the_undisturbed_one`
and, with the look before it, `test_chain`. Masks and packed rows: `test_audit_rows.py`.
"""

from __future__ import annotations

import copy
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill.chat import ChatFormat, Example, ThoughtTags
from distill.errors import RunFailed, UserError
from distill.models import LoadedModel
from distill.recipe import SftStage
from distill.records import FinishReason, Trace
from distill.student import audit as looks
from distill.student.audit import (
    audit,
    check_context,
    check_packing,
    check_stops,
    check_trace,
    shown,
)
from distill.student.mixture import Mixture, Source, mix

TAGS = ThoughtTags()
REAL = ("llama3.1", "qwen2.5", "qwen3", "deepseek-r1-distill-qwen", "deepseek-r1-distill-llama")


def trace(number: int, completion: str | None = None, **changes: Any) -> Trace:
    steps = "".join(f"{number}+{step}={number + step};" for step in range(number % 7 + 1))
    text = f"<think>\n{steps}\n</think>\n\n\\boxed{{{number}}}" if completion is None else completion
    settings: dict[str, Any] = {"tokens": 0, "finish_reason": FinishReason.STOP, "teacher": "t", **changes}
    settings |= {"id": f"t{number}", "problem_id": f"p{number}", "kind": "math"}
    return Trace(problem=f"What is {number}+0?", completion=text, **settings)


def stage(**changes: Any) -> SftStage:
    settings = {"name": "distil", "kind": "sft", "model": "m", "traces": {"a": 1}, "makes": "s", **changes}
    return SftStage.model_validate({"max_length": 2000, **settings})


def mixed(chat: ChatFormat, traces: list[Trace], weight: float = 1) -> Mixture:
    return mix({"a": traces}, {"a": weight}, chat, epochs=1, max_length=2000, seed=0)


def audited(
    chat: ChatFormat, found: Mixture, *, context: int = 4096, stops: Any = None, show: bool = False
) -> dict[str, int]:
    config = SimpleNamespace(max_position_embeddings=context, rope_parameters=None)
    model = SimpleNamespace(config=config, generation_config=SimpleNamespace(eos_token_id=stops))
    return audit(stage(), LoadedModel("m", model, chat), found, key="models.m", show=show)


@functools.cache
def world_tokenizer() -> Any:
    from distill.world_tokenizer import build_tokenizer

    return build_tokenizer()


@functools.cache
def real_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def world() -> ChatFormat:
    return ChatFormat("m", copy.deepcopy(world_tokenizer()), TAGS)


@pytest.fixture
def vocabulary(shared_data: Path) -> Callable[[str], Any]:
    """A real tokenizer; whoever changes it copies it, which takes half a second."""
    return lambda name: real_tokenizer(shared_data / "tokenizers" / f"{name}-rebuilt")


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest, vocabulary: Callable[[str], Any]) -> ChatFormat:
    return ChatFormat(request.param, vocabulary(request.param), TAGS)


@pytest.fixture
def real_traces(shared_data: Path) -> list[Trace]:
    """A 32B model's, in another family's tags inside ours, and one in that family's alone."""
    with (shared_data / "outputs" / "qwen25_32b_prompted_long_cot.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(next(lines)) for _ in range(24)]
    made = [
        trace(number, f"<think>\n{row['response']}\n</think>\n\n\\boxed{{{row['gold']}}}")
        for number, row in enumerate(rows)
    ]
    theirs = [trace(number + 100, row["response"]) for number, row in enumerate(rows)]
    return made + [row for row in theirs if row.completion.startswith("<|begin_of_thought|>")]


# -------------------------------------------------------------------------------- all of it


def test_good_rows_pass_with_one_line(world: ChatFormat, capsys: pytest.CaptureFixture[str]) -> None:
    found = mixed(world, [trace(number) for number in range(600)])
    capsys.readouterr()
    told = audited(world, found)
    assert 128 < told["examples"] <= 257 and told["longest"] == max(len(row.ids) for row in found.examples)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"distil: {told['examples']} of 600 examples checked") and "<|end|>" in line


def test_real_traces_pass_under_real_vocabularies(real: ChatFormat, real_traces: list[Trace]) -> None:
    found = mixed(real, real_traces)
    assert len(found.examples) >= 24
    assert audited(real, found, stops=[real.eos_id])["examples"] == len(found.examples)


def test_256_rows_take_less_than_a_second(real: ChatFormat, real_traces: list[Trace]) -> None:
    found = mixed(real, (real_traces[:16] * 16)[:256])
    began = time.process_time()
    audited(real, found)
    assert time.process_time() - began < 1, f"{sum(len(row.ids) for row in found.examples)} tokens"


def test_what_is_never_seen_is_not_looked_at(world: ChatFormat) -> None:
    found = mixed(world, [trace(number) for number in range(10)], weight=0.5)
    assert audited(world, found)["examples"] == 5


# -------------------------------------------------------------------------------- the trace


class ThroughTheTemplate(ChatFormat):
    """What many trainers do: the whole conversation through the template, the prompt's length cut off."""

    def example(self, problem: str, completion: str, written_with: ThoughtTags | None = None) -> Example:
        messages = [{"role": "user", "content": problem}, {"role": "assistant", "content": completion}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        text = text[: text.rindex(self.token(self.eos_id))] + self.token(self.eos_id)
        return Example(self.encode(text), len(self.encode(self._bare_prompt(problem))))


@pytest.mark.parametrize("name", ["deepseek-r1-distill-qwen", "deepseek-r1-distill-llama"])
def test_a_thought_that_the_template_cuts_is_caught(vocabulary: Callable[[str], Any], name: str) -> None:
    """R1's template deletes everything before ``</think>`` from an answer."""
    chat = ThroughTheTemplate(name, vocabulary(name), TAGS)
    with pytest.raises(RunFailed, match=r"trace t0 does not survive.*<think>") as caught:
        audited(chat, mixed(chat, [trace(number) for number in range(4)]))
    assert "change the stage's traces" in caught.value.then


@pytest.mark.parametrize(
    "lose",
    [
        lambda text: text.replace("<think>", ""),
        lambda text: text.replace("</think>", ""),
        lambda text: text.replace("\n", " "),
        lambda text: text.replace("+", ""),
        lambda text: text + "\n",
        lambda text: text.upper(),
    ],
)
def test_whatever_is_lost_or_added_is_caught(world: ChatFormat, lose: Callable[[str], str]) -> None:
    row = trace(3)
    good = world.example(row.problem, row.completion)
    check_trace(world, good, Source(row, TAGS))
    bad = [*good.ids[: good.prompt_length], *world.encode(lose(row.completion)), world.eos_id]
    with pytest.raises(RunFailed, match="trace t3 does not survive"):
        check_trace(world, Example(bad, good.prompt_length), Source(row, TAGS))


def test_what_the_chat_format_itself_loses_is_caught(
    world: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against the trace as it was written, not only against what the same file says is taught."""
    real = ChatFormat.as_taught
    monkeypatch.setattr(ChatFormat, "as_taught", lambda *given: real(*given).replace("3+1=4;", ""))
    with pytest.raises(RunFailed, match="trace t3 does not survive"):
        audited(world, mixed(world, [trace(3)]))


def test_rewritten_tags_and_what_unicode_calls_equal_are_no_loss(vocabulary: Callable[[str], Any]) -> None:
    chat = ChatFormat("m", vocabulary("deepseek-r1-distill-qwen"), TAGS)
    rows = [
        trace(1, "<|begin_of_thought|>a <think> b</think> c<|end_of_thought|>d"),
        trace(2, "\n <think>  a</think>b"),
        trace(3, "<think>\ncafe\u0301</think>b"),  # this family's tokenizers compose it
    ]
    assert audited(chat, mixed(chat, rows))["examples"] == 3


def test_a_truncated_trace_that_got_through_is_caught(world: ChatFormat) -> None:
    found = mixed(world, [trace(number) for number in range(4)])
    cut = found.sources[2].trace.model_copy(update={"finish_reason": FinishReason.LENGTH})
    sources = [*found.sources[:2], Source(cut, TAGS), found.sources[3]]
    with pytest.raises(AssertionError, match="example 2 is a trace that ended by length"):
        audited(world, found._replace(sources=sources))
    endless = trace(5, "<think>1+1=", finish_reason=None)
    with pytest.raises(AssertionError, match="never ends its thought"):
        check_trace(world, world.example(endless.problem, endless.completion), Source(endless, TAGS))


def test_a_trace_that_spells_a_stop_token_is_left_out(real: ChatFormat) -> None:
    rows = [trace(1), trace(2, f"<think>\na</think>b{real.token(real.eos_id)}\nUser: more")]
    found = mixed(real, rows)
    assert found.left_out == {"that spell a token at which the model stops": 1} and len(found.examples) == 1


def test_a_blank_behind_the_opening_tag_is_no_loss(world: ChatFormat) -> None:
    """Tokenizers of the sentencepiece kind put one there when the rest is tokenized on its own."""
    row = trace(1)
    good = world.example(row.problem, row.completion)
    spaced = world.encode(row.completion.replace("<think>\n", "<think>\n "))
    check_trace(
        world,
        Example([*good.ids[: good.prompt_length], *spaced, world.eos_id], good.prompt_length),
        Source(row, TAGS),
    )


# -------------------------------------------------------------------------------- BOS


def with_template(chat: ChatFormat, change: Callable[[str], str]) -> ChatFormat:
    tokenizer = copy.copy(chat.tokenizer)
    tokenizer.chat_template = change(tokenizer.chat_template)
    return ChatFormat(chat.name, tokenizer, TAGS)


BRINGS_BOS = ("llama3.1", "deepseek-r1-distill-qwen", "deepseek-r1-distill-llama")


@pytest.mark.parametrize("name", BRINGS_BOS)
def test_a_template_with_two_bos_is_caught(vocabulary: Callable[[str], Any], name: str) -> None:
    chat = with_template(ChatFormat(name, vocabulary(name), TAGS), lambda text: "{{ bos_token }}" + text)
    with pytest.raises(UserError, match=r"second .* \(BOS\) stands in the prompt") as caught:
        audited(chat, mixed(chat, [trace(1)]))
    assert caught.value.key == "models.m" and "chat_template" in caught.value.remedy


@pytest.mark.parametrize("name", BRINGS_BOS)
def test_a_tokenizer_that_adds_its_own_bos_is_caught(vocabulary: Callable[[str], Any], name: str) -> None:
    class Adds(ChatFormat):
        def encode(self, text: str) -> list[int]:
            return list(self.tokenizer.encode(text))

    chat = Adds(name, vocabulary(name), TAGS)
    row = trace(1)
    with pytest.raises(UserError, match="stands in the prompt"):
        looks.check_bos("models.m", chat, chat.example(row.problem, row.completion), Source(row, TAGS))
    plain = ChatFormat(name, chat.tokenizer, TAGS)
    example = plain.example(row.problem, row.completion)
    looks.check_bos("models.m", plain, example, Source(row, TAGS))
    ids = example.ids[: example.prompt_length] + chat.encode(row.completion) + [chat.eos_id]
    with pytest.raises(UserError, match="stands in the response"):
        looks.check_bos("models.m", plain, Example(ids, example.prompt_length), Source(row, TAGS))


def test_a_bos_that_the_trace_spells_is_its_own(vocabulary: Callable[[str], Any]) -> None:
    chat = ChatFormat("m", vocabulary("llama3.1"), TAGS)
    row = trace(1, "<think>\nA text begins with <|begin_of_text|>.</think>yes")
    assert audited(chat, mixed(chat, [row]))["examples"] == 1


def test_one_token_for_bos_and_eos_is_no_second_bos(world: ChatFormat) -> None:
    world.tokenizer.bos_token = world.token(world.eos_id)
    assert audited(world, mixed(world, [trace(1)]))["examples"] == 1
    twice = with_template(world, lambda text: "{{ bos_token }}{{ bos_token }}" + text)
    with pytest.raises(UserError, match="stands in the prompt"):
        audited(twice, mixed(twice, [trace(1)]))


# -------------------------------------------------------------------------------- EOS


def test_real_vocabularies_agree_on_their_end(real: ChatFormat, capsys: pytest.CaptureFixture[str]) -> None:
    assert real.turn_end() == real.eos_id
    check_stops("models.m", real)
    looks.note_stops("models.m", real, SimpleNamespace(eos_token_id=[real.eos_id]))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "eos", "end"),
    [
        ("qwen2.5", "<|endoftext|>", "<|im_end|>"),  # as the base models' tokenizers say
        ("qwen3", "<|endoftext|>", "<|im_end|>"),
        ("llama3.1", "<|end_of_text|>", "<|eot_id|>"),
    ],
)
def test_a_base_tokenizer_under_a_chat_template_is_named(
    vocabulary: Callable[[str], Any], name: str, eos: str, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = copy.deepcopy(vocabulary(name))
    tokenizer.eos_token = eos
    base = ChatFormat("m", tokenizer, TAGS)
    with pytest.raises(UserError) as caught:
        audited(base, mixed(base, [trace(1)]), stops=base.eos_id)
    assert caught.value.key == "models.m"
    assert f"ends an answer with {end}" in caught.value.reason and f"is {eos}" in caught.value.reason
    assert f'"eos_token": "{end}"' in caught.value.remedy and "models.m.tokenizer" in caught.value.remedy

    both = ChatFormat("m", tokenizer, TAGS, stop_ids=(tokenizer.convert_tokens_to_ids(end),))
    check_stops("models.m", both)
    looks.note_stops("models.m", both, None)  # as Llama 3's first instruct models: generation stops at either
    assert f"ends an answer with {end}; {eos} is trained" in capsys.readouterr().err

    tokenizer = vocabulary(name)  # the tokenizer was set right, the base model's generation config was not
    other = tokenizer.convert_tokens_to_ids(eos)
    right = ChatFormat("m", tokenizer, TAGS, stop_ids=(other,))
    check_stops("models.m", right)
    looks.note_stops("models.m", right, SimpleNamespace(eos_token_id=other))
    assert f"generation config stops at {eos} and not at {end}" in capsys.readouterr().err


def test_a_template_that_ends_nothing_is_no_disagreement(world: ChatFormat) -> None:
    bare = with_template(world, lambda text: text.replace("<|end|>", ""))
    assert bare.turn_end() is None
    check_stops("models.m", bare)


def test_a_row_that_does_not_end_at_a_stop_is_caught(real: ChatFormat) -> None:
    row = trace(1)
    good = real.example(row.problem, row.completion)
    for ids in (good.ids[:-1], [*good.ids, real.encode("\n")[0]]):
        bad = Example(ids, good.prompt_length)
        with pytest.raises(AssertionError, match="does not end at a stop token"):
            check_trace(real, bad, Source(row, TAGS))
        with pytest.raises(AssertionError, match="is trained to end with"):
            check_packing([bad], [0], 2000, real.stop_ids)


# -------------------------------------------------------------------------------- context


def test_what_the_model_cannot_read_is_refused_with_both_ways_out() -> None:
    check_context(stage(max_length=4096), 4096, "models.base", 4096)
    for longest, limit in ((4097, 4096), (100, 4097)):
        with pytest.raises(UserError, match="reads 4096") as caught:
            check_context(stage(max_length=limit), longest, "models.base", 4096)
        assert caught.value.key == "stages.distil.max_length"
        assert "models.base.max_length" in caught.value.remedy
        assert "models.base.rope_theta" in caught.value.remedy


def test_the_longest_example_is_always_among_them(world: ChatFormat) -> None:
    rows = [trace(number) for number in range(600)]
    rows[101] = trace(101, "<think>\n" + "1+1=2;" * 150 + "</think>\\boxed{2}")
    found = mixed(world, rows)
    told = audited(world, found)
    assert told["longest"] == len(found.examples[101].ids) > 500
    assert told["examples"] == 201, "each third and, between two of them, the longest"
    with pytest.raises(UserError, match=f"the longest example has {told['longest']} tokens"):
        audited(world, found, context=400)


# -------------------------------------------------------------------------------- the row to look at


def test_the_row_shows_what_is_trained(real: ChatFormat) -> None:
    row = trace(2)
    example = real.example(row.problem, row.completion)
    eos = real.token(real.eos_id)
    plain = shown(real, example, coloured=False)
    spelt = row.completion.replace("\n", "\u23ce")
    assert plain.endswith(f"[[{spelt}{eos}]]") and plain.count("[[") == 1 and "\x1b" not in plain
    assert "What is 2+0?" in plain.partition("[[")[0]
    coloured = shown(real, example, coloured=True)
    assert coloured == f"\x1b[2m{plain.partition('[[')[0]}\x1b[0m\x1b[32m{spelt}{eos}\x1b[0m"


def test_a_long_row_is_cut_in_the_middle_and_steers_no_terminal(world: ChatFormat) -> None:
    long = trace(1, "<think>\n\x1b]0;title\x07" + "1+1=2;\n" * 2000 + "</think>\\boxed{2}")
    example = world.example("1+" * 1000, long.completion)
    for coloured in (False, True):
        text = shown(world, example, coloured=coloured)
        assert len(text) < 1400 and "characters" in text and "\n" not in text and "\x07" not in text
        assert text.count("\x1b") == (4 if coloured else 0)
        assert "\\boxed{2}<|end|>" in text and "<think>" in text and "<|user|>" in text


def test_the_row_is_shown_when_asked_for_and_not_when_quiet(
    world: ChatFormat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = mixed(world, [trace(1)])
    for quiet, show, lines in (("", True, 2), ("", False, 1), ("1", True, 1)):
        monkeypatch.setenv("DISTILL_QUIET", quiet)
        capsys.readouterr()
        audited(world, found, show=show)
        assert len(capsys.readouterr().err.splitlines()) == lines
