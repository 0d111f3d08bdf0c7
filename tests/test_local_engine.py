"""The local engine against transformers' own `generate`, against the trainer, and against itself in other company.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
import torch

from distill.chat import ChatFormat, Example
from distill.device import Device
from distill.errors import RunFailed
from distill.generate.batch import Batch, read_ahead
from distill.generate.engine import Request, build_requests, in_order
from distill.generate.local import LocalEngine, draw
from distill.recipe_parts import Sampling
from distill.records import Completion, FinishReason, Problem
from distill.training.logprobs import token_logprobs
from distill.training.packing import pack_row

CPU = Device("cpu", "cpu", False)
PROBLEMS = [
    Problem(id=f"p{number}", kind="math", problem=text)
    for number, text in enumerate(
        ["9", "17+5-8", "a: double; b: at least 3; c: remainder by 7", "1+2", "12-3+4-5+6-7"]
    )
]
PLAIN = Sampling(temperature=1.0, top_p=1.0, max_tokens=40)


def stopping_chat(tiny: Any, share: int = 30) -> ChatFormat:
    """One token in ``share`` ends a completion, so rows of random text end at all sorts of moments."""
    chat = tiny.loaded.chat
    return ChatFormat("tiny", chat.tokenizer, chat.tags, stop_ids=tuple(range(0, len(chat.tokenizer), share)))


def make_engine(tiny: Any, max_rows: int = 100, share: int | None = 30) -> LocalEngine:
    chat = stopping_chat(tiny, share) if share else tiny.loaded.chat
    return LocalEngine(dataclasses.replace(tiny.loaded, chat=chat), CPU, max_rows)


def make_requests(tiny: Any, samples: int = 4) -> list[Request]:
    return build_requests(PROBLEMS, samples, tiny.loaded.chat, run_seed=0)


def complete(engine: LocalEngine, requests: list[Request], sampling: Sampling) -> list[Completion]:
    return in_order(requests, engine.generate(requests, sampling))


def same(left: list[Completion], right: list[Completion]) -> bool:
    """Equal to the token; log-probabilities to float32 rounding."""
    drop = {"logprobs"}
    return all(
        a.model_dump(exclude=drop) == b.model_dump(exclude=drop)
        and a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
        for a, b in zip(left, right, strict=True)
    )


def test_greedy_equals_transformers_generate(tiny: Any) -> None:
    engine, requests = make_engine(tiny, share=12), make_requests(tiny, samples=1)
    found = in_order(requests, engine.generate(requests, Sampling(temperature=0, top_p=1, max_tokens=24)))
    lengths = set()
    for request, completion in zip(requests, found, strict=True):
        ids = torch.tensor([request.prompt_ids])
        out = tiny.twin.generate(
            ids, max_new_tokens=24, do_sample=False, eos_token_id=sorted(engine.loaded.chat.stop_ids), pad_token_id=0,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        assert completion.token_ids == out.sequences[0, ids.shape[1] :].tolist()
        logits_TV = torch.cat(out.logits).log_softmax(-1)
        expected = [float(row_V[token]) for row_V, token in zip(logits_TV, completion.token_ids, strict=True)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)
        lengths.add(len(completion.token_ids))
    assert len(lengths) > 1, "rows of one length would prove little"


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_equal_the_trainers(tiny: Any, temperature: float) -> None:
    requests = make_requests(tiny)
    sampling = Sampling(temperature=temperature, top_p=1, max_tokens=40)
    found = complete(make_engine(tiny), requests, sampling)
    pairs = zip(requests, found, strict=True)
    examples = [Example(r.prompt_ids + c.token_ids, len(r.prompt_ids)) for r, c in pairs]
    row = pack_row(examples, range(len(examples)))
    with torch.no_grad():
        trained_N = token_logprobs(tiny.loaded.model, row, temperature)
    for number, completion in enumerate(found):
        assert completion.logprobs == pytest.approx(trained_N[row.example_N == number].tolist(), abs=1e-5)


def test_company_changes_nothing(tiny: Any) -> None:
    requests = make_requests(tiny)
    together = complete(make_engine(tiny, 100), requests, PLAIN)
    lengths = sorted(len(completion.token_ids) for completion in together)
    assert lengths[0] < 8 and lengths[-1] == 40, (
        "rows must leave at different moments for this to mean anything"
    )
    assert same(complete(make_engine(tiny, 1), requests[4:9], PLAIN), together[4:9])
    assert same(complete(make_engine(tiny, 4), requests, PLAIN), together)
    assert same(complete(make_engine(tiny, 7), requests[::-1], PLAIN)[::-1], together)


def test_each_request_has_one_completion(tiny_qwen2: Any) -> None:
    requests = make_requests(tiny_qwen2)
    found = make_engine(tiny_qwen2, 3).generate(requests, PLAIN)
    asked = [(request.problem_id, request.sample_index) for request in requests]
    assert sorted((completion.problem_id, completion.sample_index) for completion in found) == asked
    assert complete(make_engine(tiny_qwen2), [], PLAIN) == []


def test_a_request_decides_its_text_and_another_seed_another(tiny_qwen2: Any) -> None:
    engine = make_engine(tiny_qwen2)
    request = make_requests(tiny_qwen2)[0]
    twice = list(engine.generate([request, request], PLAIN))
    assert twice[0] == twice[1]
    others = engine.generate([dataclasses.replace(request, seed=seed) for seed in range(8)], PLAIN)
    assert len({completion.text for completion in others}) == 8


def test_a_completion_past_one_draw_of_uniform_numbers(tiny_qwen2: Any) -> None:
    """More tokens than are drawn at once, and than the cache first holds: still the same alone and in company."""
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=150)
    requests = make_requests(tiny_qwen2, samples=1)
    together = complete(make_engine(tiny_qwen2, share=150), requests, sampling)
    assert max(len(completion.token_ids) for completion in together) > 100
    assert same(complete(make_engine(tiny_qwen2, 1, share=150), requests, sampling), together)
    longest = max((completion.token_ids for completion in together), key=len)
    assert longest[:64] != longest[64:128], "draws do not repeat"


def test_why_it_ended(tiny_qwen2: Any) -> None:
    engine = make_engine(tiny_qwen2)
    for completion in engine.generate(make_requests(tiny_qwen2), PLAIN):
        stops = [token in engine.loaded.chat.stop_ids for token in completion.token_ids]
        assert not any(stops[:-1]), "nothing comes after a stop token"
        assert completion.finish_reason is (FinishReason.STOP if stops[-1] else FinishReason.LENGTH)
        assert stops[-1] or len(completion.token_ids) == PLAIN.max_tokens
        assert len(completion.logprobs) == len(completion.token_ids)
        kept = completion.token_ids[:-1] if stops[-1] else completion.token_ids
        assert completion.text == engine.loaded.chat.tokenizer.decode(kept)
    one = engine.generate(make_requests(tiny_qwen2), Sampling(temperature=1, top_p=1, max_tokens=1))
    assert all(len(completion.token_ids) == 1 for completion in one)


def test_rows_take_the_places_of_those_that_ended_and_the_cache_makes_room(tiny_qwen2: Any) -> None:
    """Short rows beside long ones: columns of the ended are squeezed out, and added where that is not enough."""
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=400)
    requests = make_requests(tiny_qwen2, samples=10)
    moves: list[tuple[int, int]] = []
    original = Batch._make_room

    def watched(batch: Batch) -> None:
        before = batch.end
        original(batch)
        moves.append((before - batch.end, batch.capacity))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "_make_room", watched)
        found = complete(make_engine(tiny_qwen2, 3, share=100), requests, sampling)
    assert min(moves)[0] == 0 and max(moves)[0] > 0, "columns were added alone, and were squeezed out"
    assert len({capacity for _, capacity in moves}) > 1
    lengths = sorted(completion.tokens for completion in found)
    assert lengths[0] < 20 and lengths[-1] > 200
    assert same(complete(make_engine(tiny_qwen2, 1, share=100), requests[:6], sampling), found[:6])


def test_completions_come_as_they_end(tiny_qwen2: Any) -> None:
    """A row that runs to its limit keeps nobody waiting."""
    requests = make_requests(tiny_qwen2, samples=10)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=400)
    came = [one.tokens for one in make_engine(tiny_qwen2, 3, share=100).generate(requests, sampling)]
    assert len(came) == 50 and came.index(max(came)) > 0
    assert max(came) not in came[:3] and came != sorted(came)


def test_a_runaway_is_asked_about_at_the_same_lengths_whatever_the_company(tiny_qwen2: Any) -> None:
    requests = make_requests(tiny_qwen2, samples=1)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=600)
    asked: list[int] = []

    def runaway(ids: Sequence[int]) -> bool:
        asked.append(len(ids))
        return len(ids) >= 256 and ids[0] % 2 == 0

    free = complete(make_engine(tiny_qwen2, share=None), requests, sampling)
    for max_rows in (1, 2, 100):
        asked.clear()
        engine = make_engine(tiny_qwen2, max_rows, share=None)
        found = in_order(requests, engine.generate(requests, sampling, runaway))
        assert set(asked) <= {256, 512} and asked
        for whole, cut in zip(free, found, strict=True):
            runs_away = whole.tokens > 256 and whole.token_ids[0] % 2 == 0
            assert cut.finish_reason is (FinishReason.ABORT if runs_away else whole.finish_reason)
            assert cut.token_ids == whole.token_ids[: 256 if runs_away else None]
            assert len(cut.logprobs) == cut.tokens == len(cut.token_ids)
    assert {one.finish_reason for one in found} > {FinishReason.ABORT}


def test_a_group_done_again_is_the_same_to_the_last_bit(tiny_qwen2: Any) -> None:
    requests = make_requests(tiny_qwen2)
    engine = make_engine(tiny_qwen2, 5)
    assert engine.together == 20
    assert complete(engine, requests, PLAIN) == complete(make_engine(tiny_qwen2, 5), requests, PLAIN)


def test_prompts_are_read_some_at_a_time_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.generate.batch._PROMPTS_AT_ONCE", 3)
    monkeypatch.setattr("distill.generate.batch._TOKENS_AT_ONCE", 14)
    lengths = [1, 1, 2, 2, 3, 3, 3, 6, 6, 7, 15, 15]
    requests = [Request(f"p{n}", 0, [n // 2 * 2] * length, "", n) for n, length in enumerate(lengths)]
    lots: list[list[int]] = []

    def read(prompts: list[tuple[int, ...]]) -> Any:
        lots.append([len(prompt) for prompt in prompts])
        return None, torch.arange(len(prompts))

    came = list(read_ahead(requests[::-1], read))
    assert lots == [[1, 2, 3], [3, 6], [6, 7], [15]]
    assert sorted(one.request.seed for one in came) == list(range(12))
    assert all(int(one.logits_V) == one.number for one in came)


def test_a_model_in_training_is_left_in_training(tiny_qwen2: Any) -> None:
    engine = make_engine(tiny_qwen2)
    model = engine.loaded.model
    for training in (True, False):
        model.train(training)
        complete(engine, make_requests(tiny_qwen2, 1), Sampling(temperature=1, top_p=1, max_tokens=2))
        assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------- draw


def random_logits_BV(rows: int = 60, vocabulary: int = 50) -> torch.Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.95, 1.0])
def test_draw_equals_a_walk_along_the_distribution(
    naive: ModuleType, temperature: float, top_p: float
) -> None:
    logits_BV = random_logits_BV()
    uniform_B = torch.rand(len(logits_BV), generator=torch.Generator().manual_seed(1))
    token_B, logprob_B = draw(
        logits_BV, uniform_B, Sampling(temperature=temperature, top_p=top_p, max_tokens=1)
    )
    for logits_V, uniform, token in zip(
        logits_BV.tolist(), uniform_B.tolist(), token_B.tolist(), strict=True
    ):
        assert token == naive.draw(logits_V, uniform, temperature, top_p)
    whole_BV = (logits_BV.double() / (temperature or 1)).log_softmax(-1)
    expected_B = whole_BV.gather(-1, token_B[:, None])[:, 0]
    torch.testing.assert_close(logprob_B.double(), expected_B, atol=1e-5, rtol=0)


def test_draw_has_the_right_frequencies() -> None:
    logits_V = torch.tensor([0.5, -1.0, 2.0, 0.0, float("-inf"), 1.0])
    count = 20_000
    uniform_B = (torch.arange(count) + 0.5) / count
    token_B, _ = draw(
        logits_V.expand(count, -1), uniform_B, Sampling(temperature=2.0, top_p=1.0, max_tokens=1)
    )
    shares_V = torch.bincount(token_B, minlength=6) / count
    torch.testing.assert_close(shares_V, (logits_V / 2).softmax(-1), atol=2 / count, rtol=0)


@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_draw_never_takes_what_has_no_chance(top_p: float) -> None:
    """At the ends of the unit interval too, first and last of the vocabulary included."""
    logits_BV = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.1, float("-inf")]] * 3)
    uniform_B = torch.tensor([0.0, 0.25, 1 - 2**-24])
    token_B, logprob_B = draw(logits_BV, uniform_B, Sampling(temperature=1.0, top_p=top_p, max_tokens=1))
    assert token_B.tolist() == ([1, 1, 3] if top_p == 1 else [3, 3, 3])
    assert torch.isfinite(logprob_B).all()


def test_a_problem_that_comes_twice_gets_other_samples(tiny_qwen2: Any) -> None:
    requests = build_requests([PROBLEMS[0], PROBLEMS[1], PROBLEMS[0]], 2, tiny_qwen2.loaded.chat, 0)
    assert len({request.seed for request in requests}) == 6
    assert [request.sample_index for request in requests] == [0, 1, 0, 1, 2, 3]


def test_weights_that_are_no_numbers_are_told(tiny_qwen2: Any) -> None:
    engine = make_engine(tiny_qwen2)
    head = next(engine.loaded.model.parameters())
    before = head.data.clone()
    try:
        head.data.fill_(float("nan"))
        with pytest.raises(RunFailed, match="no numbers"):
            complete(engine, build_requests(PROBLEMS[:1], 1, engine.loaded.chat, 0), PLAIN)
    finally:
        head.data.copy_(before)
