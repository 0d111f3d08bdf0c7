"""Servers as an engine against a server that fails in every way: each request is answered once, and rightly."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from fake_server import FAULTS, FakeServer

from distill.chat import ChatFormat
from distill.errors import RunFailed, UserError
from distill.generate import endpoint, workers
from distill.generate.endpoint import parse_url
from distill.generate.engine import build_requests
from distill.generate.server import ServerEngine, check_server
from distill.loops import is_runaway
from distill.recipe_parts import Sampling
from distill.recipe_parts import ServerEngine as Settings
from distill.records import Completion, FinishReason, Problem, Verdict
from distill.verify import Response, check_many

SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=128)
PROBLEMS = [
    Problem(id=f"p{n}", kind="math", problem=f"What is {n} + {3 * n}?", reference=str(4 * n))
    for n in range(8)
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(endpoint, "LONGEST_WAIT", 0.1)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    from distill import models
    from distill.recipe_parts import Architecture, ModelSource

    source = ModelSource(build=Architecture(hidden=16, layers=1, heads=2), tokenizer="world")
    folder = tmp_path_factory.mktemp("served") / "m"
    models.build_folder("m", source, folder, seed=0)
    return models.preview("m", models.as_made(source, folder), ours=False).chat


def ask(
    chat: ChatFormat, urls: Any, runaway: Any = None, samples: int = 2, **settings: Any
) -> list[Completion]:
    engine = ServerEngine("m", chat, Settings(kind="server", urls=urls, **settings))
    requests = build_requests(PROBLEMS, samples, chat, 5, None)
    found = sorted(
        engine.generate(requests, SAMPLING, runaway), key=lambda one: (one.problem_id, one.sample_index)
    )
    assert [(one.problem_id, one.sample_index) for one in found] == [
        (problem.id, number) for problem in PROBLEMS for number in range(samples)
    ]
    return found


def test_ids_travel_and_come_back_with_everything_that_was_asked(chat: ChatFormat) -> None:
    with FakeServer(chat) as fake:
        found = ask(chat, fake.url)
        requests = list(build_requests(PROBLEMS, 2, chat, 5, None))
        assert {tuple(body["prompt"]) for body in fake.bodies} == {tuple(one.prompt_ids) for one in requests}
        assert {body["seed"] for body in fake.bodies} == {one.seed for one in requests}
        body = fake.bodies[0]
        assert set(fake.paths) == {"/v1/completions"} and body["model"] == "teacher"
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 128)
        assert body["stop_token_ids"] == sorted(chat.stop_ids) and body["top_k"] == -1
    for one in found:
        assert one.finish_reason is FinishReason.STOP and one.tokens == len(one.token_ids)
        assert one.token_ids[-1] == chat.eos_id and chat.encode(one.text) == one.token_ids[:-1]
    verdicts = check_many(
        [Response(PROBLEMS[0], one.text, one.finish_reason) for one in found[:2]], tags=(chat.tags,)
    )
    assert {one.verdict for one in verdicts} <= {Verdict.CORRECT, Verdict.WRONG}


def test_streamed_and_whole_answers_are_the_same(chat: ChatFormat) -> None:
    with FakeServer(chat) as fake:
        assert ask(chat, fake.url, is_runaway) == ask(chat, fake.url)
        assert [bool(body.get("stream")) for body in fake.bodies] == [True] * 16 + [False] * 16


@pytest.mark.parametrize("runaway", [None, is_runaway])
def test_every_kind_of_failure_is_asked_again_and_told(
    chat: ChatFormat, runaway: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeServer(chat) as fake:
        undisturbed = ask(chat, fake.url, runaway)
    faults = [*FAULTS, *FAULTS, *FAULTS]
    with FakeServer(chat, faults, hangs=2.0) as fake:
        assert ask(chat, fake.url, runaway, timeout=0.4, concurrency=4) == undisturbed
        assert not fake.faults
    told = capsys.readouterr().err
    assert "requests had to be put again" in told
    for words in ("HTTP 429 (3)", "HTTP 500 (3)", "silent for 0.4 s (3)", "broke off", "was cut"):
        assert words in told, told


def test_two_servers_share_the_work_and_one_that_dies_costs_nothing(chat: ChatFormat) -> None:
    with FakeServer(chat) as one, FakeServer(chat) as other:
        undisturbed = ask(chat, one.url)
        del one.bodies[:]
        assert ask(chat, [one.url, other.url], concurrency=4) == undisturbed
        assert one.bodies and other.bodies
    with FakeServer(chat) as one:
        gone = "http://127.0.0.1:9/v1"  # nobody listens there
        assert ask(chat, [gone, one.url], concurrency=4) == undisturbed


def test_no_more_than_so_many_are_open_and_no_more_begin_in_a_minute(chat: ChatFormat) -> None:
    with FakeServer(chat, delay=0.03) as fake:
        ask(chat, fake.url, concurrency=3)
        assert fake.most_open == 3
    with FakeServer(chat) as fake:
        ask(chat, fake.url, samples=1, requests_per_minute=1200)
        assert fake.starts[-1] - fake.starts[0] >= 7 * 0.05 - 0.02
    with FakeServer(chat) as fake:
        found = ask(chat, fake.url, samples=1, tokens_per_minute=60_000, concurrency=1)
        read = sum(len(body["prompt"]) for body in fake.bodies) + sum(one.tokens for one in found)
        assert fake.starts[-1] - fake.starts[0] >= read / 8 * 6 / 1000 - 0.02, read


def test_a_loop_is_ended_where_it_is_seen_and_the_server_hears_of_it(chat: ChatFormat) -> None:
    sampling = SAMPLING.model_copy(update={"max_tokens": 40_000})
    with FakeServer(chat, endless=True) as fake:
        engine = ServerEngine("m", chat, Settings(kind="server", urls=fake.url))
        found = list(engine.generate(build_requests(PROBLEMS[:1], 1, chat, 5, None), sampling, is_runaway))
        for _ in range(100):
            if fake.hung_up:
                break
            time.sleep(0.05)
        assert fake.hung_up == 1
    assert found[0].finish_reason is FinishReason.ABORT and found[0].tokens < 1000
    assert found[0].tokens % 256 == 0, "other engines ask at the same lengths"


def test_messages_and_thoughts_that_a_server_has_parted(
    chat: ChatFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeServer(chat) as whole, FakeServer(chat, parts_thoughts=True) as parted:
        plain = ask(chat, whole.url, is_runaway, prompts="messages")
        assert "loops run to their end" in capsys.readouterr().err
        again = ask(chat, parted.url, prompts="messages")
        assert set(whole.paths) == {"/v1/chat/completions"}
        assert whole.bodies[0]["messages"] == [
            {"role": "user", "content": whole.bodies[0]["messages"][0]["content"]}
        ]
        assert "top_k" not in whole.bodies[0], "hosted servers refuse what they do not know"
    by_ids = FakeServer(chat)
    with by_ids:
        assert [one.text for one in ask(chat, by_ids.url)] == [one.text for one in plain]
    assert [one.text for one in again] == [one.text for one in plain]
    assert all(one.tokens > 5 and not one.token_ids for one in plain)


@pytest.mark.parametrize(
    ("text", "finish", "judged"),
    [
        ("4", "stop", "4"),  # the server shows no thought, so none is opened
        ("2 and 2</think>4", "stop", "<think>\n2 and 2</think>4"),
        ("2 and", "length", "<think>\n2 and"),
        ("<think>2 and", "length", "<think>2 and"),
    ],
)
def test_a_message_gets_the_tag_that_its_template_has_written(
    chat: ChatFormat, text: str, finish: str, judged: str
) -> None:
    engine = ServerEngine("m", chat, Settings(kind="server", urls="http://x", prompts="messages"))
    request = replace(build_requests(PROBLEMS[:1], 1, chat, 5, None)[0], prefill="<think>\n")
    answer = {"choices": [{"message": {"content": text}, "finish_reason": finish}]}
    found = engine._of_message(request, answer)
    assert found.prefill + found.text == judged and found.tokens == len(chat.encode(text)) + (
        finish == "stop"
    )


def test_half_a_surrogate_pair_reaches_no_tokenizer_and_no_row(chat: ChatFormat) -> None:
    engine = ServerEngine("m", chat, Settings(kind="server", urls="http://x", prompts="messages"))
    request = build_requests(PROBLEMS[:1], 1, chat, 5, None)[0]
    message = {"content": "4 \ud83d", "reasoning_content": "\ude00 2 and 2"}
    answer = {"choices": [{"message": message, "finish_reason": "stop"}]}
    assert "\ufffd 2 and 2" in (found := engine._of_message(request, answer)).text
    assert found.text.endswith("4 \ufffd") and found.text.encode()
    assert (
        engine._of_ids(request, {"text": "\ud83d" + "\ude00", "finish_reason": "stop"}).text == "\U0001f600"
    )


@pytest.mark.parametrize("odd", [{"finish_reason": ["stop"]}, {"token_ids": 7}, {"text": ["4"]}])
def test_an_answer_with_parts_of_other_kinds_is_asked_for_again(
    chat: ChatFormat, odd: dict[str, Any]
) -> None:
    engine = ServerEngine("m", chat, Settings(kind="server", urls="http://x"))
    request = build_requests(PROBLEMS[:1], 1, chat, 5, None)[0]
    event = {"choices": [{"text": "4", "finish_reason": "stop", **odd}]}
    with pytest.raises(endpoint.Trouble, match="of another kind"):
        engine._streamed(request, is_runaway, (one for one in [event]))


def test_text_alone_is_counted_by_usage(chat: ChatFormat) -> None:
    with FakeServer(chat) as full, FakeServer(chat, gives_ids=False) as bare:
        ours, theirs = ask(chat, full.url), ask(chat, bare.url)
        assert [(one.text, one.tokens) for one in ours] == [(one.text, one.tokens) for one in theirs]


def test_a_key_comes_from_the_environment_and_is_never_shown(
    chat: ChatFormat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sesame-1234")
    with FakeServer(chat, ["500"] * 3, key="sesame-1234") as fake:
        ask(chat, fake.url, key="TEACHER_KEY")
    assert "sesame" not in capsys.readouterr().err
    monkeypatch.setenv("TEACHER_KEY", "sesame-5678")
    with FakeServer(chat, key="sesame-1234") as fake, pytest.raises(RunFailed, match="HTTP 401") as caught:
        ask(chat, fake.url, key="TEACHER_KEY")
    assert "sesame" not in str(caught.value) and "***" in str(caught.value)
    monkeypatch.setenv("TEACHER_KEY", "sesame\n-1234")
    with pytest.raises(UserError, match="cannot be a key") as refused:
        ask(chat, fake.url, key="TEACHER_KEY")
    assert "sesame" not in str(refused.value)
    monkeypatch.delenv("TEACHER_KEY")
    with pytest.raises(UserError, match="TEACHER_KEY"):
        ask(chat, fake.url, key="TEACHER_KEY")


@pytest.mark.parametrize("status", ["400", "404"])
def test_what_will_be_refused_every_time_ends_the_run_at_once(chat: ChatFormat, status: str) -> None:
    with FakeServer(chat, [status] * 50) as fake, pytest.raises(RunFailed, match=f"HTTP {status}"):
        ask(chat, fake.url)


def test_lines_that_are_cut_by_ourselves_are_no_trouble(
    chat: ChatFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeServer(chat, ["404"], delay=0.5) as fake, pytest.raises(RunFailed, match="HTTP 404"):
        ask(chat, fake.url)
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_one_request_that_is_refused_is_an_error_and_the_others_go_on(chat: ChatFormat) -> None:
    with FakeServer(chat, [None, None, "400"]) as fake:
        found = ask(chat, fake.url, concurrency=1)
    assert [one.finish_reason for one in found].count(FinishReason.ERROR) == 1
    assert "HTTP 400" in found[2].error and found[2].tokens == 0
    with FakeServer(
        chat, ["400"]
    ) as fake:  # the first, as after a restart: the address answers something else
        found = ask(chat, fake.url, concurrency=1)
    assert found[0].finish_reason is FinishReason.ERROR and len(fake.bodies) == 17
    assert [one.finish_reason for one in found].count(FinishReason.STOP) == 15


def test_an_address_that_stays_silent_is_left_alone(chat: ChatFormat) -> None:
    with FakeServer(chat) as fake:
        undisturbed = ask(chat, fake.url)
    with FakeServer(chat, ["nothing"] * 1000, hangs=2.0) as silent, FakeServer(chat, delay=0.05) as fake:
        assert ask(chat, [silent.url, fake.url], concurrency=2, timeout=0.5) == undisturbed
        assert len(silent.bodies) < len(fake.bodies)


def test_a_request_that_failed_at_one_address_goes_to_another(chat: ChatFormat) -> None:
    with FakeServer(chat, ["500"] * 1000) as failing, FakeServer(chat) as fake:
        found = ask(chat, [failing.url, fake.url], concurrency=1)
    assert {one.finish_reason for one in found} == {FinishReason.STOP}
    assert set(Counter(body["seed"] for body in failing.bodies).values()) == {1}


def test_one_request_that_always_fails_is_given_up_while_others_are_answered(
    chat: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "ATTEMPTS", 3)
    poison = chat.prompt(PROBLEMS[3].problem).ids
    with FakeServer(chat, delay=0.02) as fake:
        post = FakeServer.fault
        monkeypatch.setattr(
            FakeServer, "fault", lambda self: "500" if self.bodies[-1]["prompt"] == poison else post(self)
        )
        found = ask(chat, fake.url, concurrency=2)
    failed = [one for one in found if one.finish_reason is FinishReason.ERROR]
    assert {one.problem_id for one in failed} <= {"p3"} and failed and "failed 3 times" in failed[0].error


def test_a_server_that_never_answers_is_lost_and_what_it_answered_is_kept(
    chat: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.3)
    with FakeServer(chat, [None] * 3 + ["cut"] * 10_000) as fake:
        engine = ServerEngine("m", chat, Settings(kind="server", urls=fake.url, concurrency=2))
        found = []
        with pytest.raises(RunFailed, match="is lost: the connection was cut") as caught:
            for one in engine.generate(build_requests(PROBLEMS, 2, chat, 5, None), SAMPLING):
                found.append(one)
    assert len(found) == 3 and "goes on" in str(caught.value.then)
    with pytest.raises(RunFailed, match="cannot be reached"):
        ask(chat, "http://127.0.0.1:9/v1")


def test_several_models_have_to_be_told_apart(chat: ChatFormat) -> None:
    with FakeServer(chat) as fake:
        fake.models = ["one", "other"]
        with pytest.raises(RunFailed, match="one, other"):
            ask(chat, fake.url)
        ask(chat, fake.url, served="other")
        assert fake.bodies[-1]["model"] == "other"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://x", "ftp://x"),
        ("localhost:8000", "localhost:8000"),
        ("http://me:secret@x/v1", "x/v1"),
        ("http://x:y", "http://x:y"),
    ],
)
def test_addresses_that_are_none(url: str, shown: str) -> None:
    with pytest.raises(UserError) as caught:
        check_server("stages.s.engine", Settings(kind="server", urls=["http://fine", url]))
    assert caught.value.key == "stages.s.engine.urls" and caught.value.value == shown
    assert "secret" not in str(caught.value)


def test_an_address_without_a_path_gets_the_usual_one() -> None:
    assert parse_url("http://h:1/").path == "/v1" and parse_url("https://h/api/v3/").path == "/api/v3"


def test_a_date_to_retry_after_is_read() -> None:
    from email.utils import formatdate

    assert 8 <= (endpoint._seconds(formatdate(time.time() + 10)) or 0) <= 10
    assert endpoint._seconds("7") == 7 and endpoint._seconds("soon") is None


@pytest.mark.parametrize("said", ["0", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_server_that_says_at_once_is_not_asked_in_a_tight_loop(said: str) -> None:
    one = endpoint.Endpoint("http://x", None, 1.0)
    refused = one.refusal(429, b"", {"Retry-After": said})
    assert isinstance(refused, endpoint.Busy)
    for _ in range(3):
        one.closed_until = 0.0
        one.busy(refused.seconds)
    assert one.closed_until > time.monotonic()
