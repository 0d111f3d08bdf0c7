"""Servers as an engine: OpenAI-compatible endpoints that hold the model; each request stands alone (see `workers`).

Prompts travel as token ids to servers that take them (vLLM), which are then asked for ids, too. Of messages nobody
knows the tokens: they are counted as the server says, and loops cannot be seen while they are generated.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from distill.chat import ChatFormat
from distill.errors import UserError
from distill.generate.endpoint import Busy, Endpoint, Line, Refused, Trouble, parse_url
from distill.generate.engine import ASK_EVERY, Request, Runaway
from distill.generate.workers import Workers
from distill.recipe_parts import Sampling
from distill.recipe_parts import ServerEngine as Settings
from distill.records import Completion, FinishReason

_FINISH = {"stop": FinishReason.STOP, "eos": FinishReason.STOP, "length": FinishReason.LENGTH}
#: Settings that vLLM would else take from the model's generation_config; other engines here have none of them.
_PLAIN = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_PROBE = "What is 1 + 1?"


def check_server(key: str, settings: Settings) -> None:
    """Refuse, before anything is written, addresses that are none and a key that is not set.

    Args:
        key: where the engine stands in the recipe.

    Raises:
        UserError.
    """
    for url in _urls(settings):
        try:
            parse_url(url)
        except ValueError as error:
            shown = url.rpartition("@")[2]  # never what may be a password
            raise UserError(f"{key}.urls", shown, str(error), "write http://HOST:PORT/v1") from None
    if settings.key and not os.environ.get(settings.key):
        reason = "is the name of an environment variable, and no such variable is set"
        raise UserError(f"{key}.key", settings.key, reason, f"export {settings.key}=...")
    if settings.key and not re.fullmatch(r"[!-~]+", os.environ[settings.key].strip()):
        reason = "what this environment variable holds cannot be a key: blanks, line ends or other alphabets are in it"
        raise UserError(f"{key}.key", settings.key, reason, "export it again, the key alone")


def _urls(settings: Settings) -> list[str]:
    return [settings.urls] if isinstance(settings.urls, str) else settings.urls


class ServerEngine:
    """Generates with servers.

    Args:
        name: what the recipe calls the model.
        chat: its chat format, whose stop tokens end a completion.
        settings: addresses and limits.

    Raises:
        UserError: see `check_server`.
    """

    name = "server"
    together = None

    def __init__(self, name: str, chat: ChatFormat, settings: Settings) -> None:
        check_server("engine", settings)
        self.model, self.chat, self.settings = name, chat, settings
        secret = os.environ[settings.key].strip() if settings.key else None
        self.endpoints = [Endpoint(url, secret, settings.timeout) for url in _urls(settings)]
        self._served = settings.served

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        """One completion for each request, as they end.

        Raises:
            RunFailed: no address answers, or they refuse everything.
        """
        if runaway is not None and self.settings.prompts == "messages":
            told = "answers to messages come without token ids, so loops run to their end"
            print(f"server: {told}", file=sys.stderr, flush=True)

        def put(request: Request, endpoint: Endpoint, line: Line) -> Completion:
            return self.complete(request, sampling, runaway, endpoint, line)

        def healthy(endpoint: Endpoint, line: Line) -> bool:
            return self.healthy(sampling, endpoint, line)

        settings = self.settings
        limits = settings.concurrency, settings.requests_per_minute, settings.tokens_per_minute
        yield from Workers(self.endpoints, put, healthy, requests, *limits).completions()

    # ------------------------------------------------------------------------------------------ one request

    def served(self, endpoint: Endpoint, line: Line) -> str:
        """The name under which the model is served.

        Raises:
            Busy, Trouble, Refused: the list of models cannot be had, or does not tell.
        """
        if self._served is None:
            listed = endpoint.ask(line, "/models", None).get("data")
            names = (
                [str(one.get("id")) for one in listed if isinstance(one, dict)]
                if isinstance(listed, list)
                else []
            )
            if len(names) != 1:
                told = f"it serves {', '.join(names) or 'nothing'}; name one in engine.served"
                raise Refused(told[:300], everyone=True)
            self._served = names[0]
        return self._served

    def complete(
        self, request: Request, sampling: Sampling, runaway: Runaway | None, endpoint: Endpoint, line: Line
    ) -> Completion:
        """Put one request to one address.

        Raises:
            Busy, Trouble, Refused: there is no answer.
        """
        path, body = self._body(request, sampling, endpoint, line)
        if self.settings.prompts == "messages":
            return self._of_message(request, endpoint.ask(line, path, body))
        if runaway is None:
            return self._of_ids(request, _only_choice(endpoint.ask(line, path, body)))
        events = endpoint.stream(line, path, body | {"stream_options": {"include_usage": True}})
        return self._streamed(request, runaway, events)

    def healthy(self, sampling: Sampling, endpoint: Endpoint, line: Line) -> bool:
        """Whether an address begins to answer a short question, drawn as all are; it need not end."""
        prompt = self.chat.prompt(_PROBE)
        probe = Request("", 0, prompt.ids, prompt.prefill, 0, _PROBE)
        try:
            events = endpoint.stream(line, *self._body(probe, sampling, endpoint, line))
            next(events, None)
            events.close()
        except (Busy, Trouble, Refused):
            return False
        return True

    def _body(
        self, request: Request, sampling: Sampling, endpoint: Endpoint, line: Line
    ) -> tuple[str, dict[str, Any]]:
        """Where a request goes, and what it says."""
        body: dict[str, Any] = {
            "model": self.served(endpoint, line),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed,
        }
        if self.settings.prompts == "messages":
            return "/chat/completions", body | {"messages": [{"role": "user", "content": request.question}]}
        ids = {
            "prompt": request.prompt_ids,
            "stop_token_ids": sorted(self.chat.stop_ids),
            "skip_special_tokens": False,
            "return_token_ids": True,
        }
        return "/completions", body | ids | _PLAIN

    def _streamed(self, request: Request, runaway: Runaway, events: Generator[dict[str, Any]]) -> Completion:
        """As it is generated, and no further than it is worth it."""
        whole: dict[str, Any] = {"text": "", "token_ids": [], "finish_reason": None}
        asked = 0
        try:
            for event in events:
                if event.get("usage"):
                    whole["usage"] = event["usage"]
                if not event.get("choices"):
                    continue
                choice = _only_choice(event)
                ids = choice.get("token_ids") or []
                whole["text"] += choice.get("text") or ""
                whole["token_ids"] += ids
                whole["finish_reason"] = choice.get("finish_reason") or whole["finish_reason"]
                ended = whole["finish_reason"] is not None
                while asked + ASK_EVERY < len(whole["token_ids"]) + (not ended):
                    asked += ASK_EVERY
                    if runaway(whole["token_ids"][:asked]):
                        return self._completion(request, whole["token_ids"][:asked], FinishReason.ABORT)
        finally:
            events.close()
        return self._of_ids(request, whole)

    def _of_ids(self, request: Request, choice: dict[str, Any]) -> Completion:
        """An answer to a prompt of ids: by its ids where the server tells them, else by its text."""
        finish, why = _finish(choice)
        ids = choice.get("token_ids") or []
        if not all(isinstance(one, int) for one in ids):
            raise Trouble("token ids that are no numbers")
        if ids:
            return self._completion(request, ids, finish, why)
        text = choice.get("text")
        if not isinstance(text, str):
            raise Trouble("an answer without a text")
        text = _paired(text)
        return self._completion(request, [], finish, why, text, self._tokens(choice, text, finish))

    def _of_message(self, request: Request, answer: dict[str, Any]) -> Completion:
        """An answer to messages; a thought that the server has parted from its answer is put back before it."""
        choice = _only_choice(answer)
        finish, why = _finish(choice)
        message = choice.get("message")
        if not isinstance(message, dict):
            raise Trouble("an answer without a message")
        text = message.get("content") or ""
        thought = message.get("reasoning_content") or message.get("reasoning") or ""
        if not isinstance(text, str) or not isinstance(thought, str):
            raise Trouble("an answer that is no text")
        text, thought, tags = _paired(text), _paired(thought), self.chat.tags
        if thought:
            closed = bool(text) or finish is FinishReason.STOP
            text = f"{tags.open}\n{thought.strip()}\n" + (
                f"{tags.close}\n\n{text.lstrip()}" if closed else ""
            )
        tokens = self._tokens(choice, text, finish)
        # A template has opened the thought where a text closes one, or was cut in it; else the server shows none.
        opened = tags.close in text or finish is not FinishReason.STOP
        prefill = request.prefill if opened and not text.lstrip().startswith(tags.open) else ""
        return self._completion(request, [], finish, why, text, tokens, prefill)

    def _tokens(self, choice: dict[str, Any], text: str, finish: FinishReason) -> int:
        """Generated tokens as the server counts them, else as our tokenizer does."""
        usage = choice.get("usage")
        told = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if isinstance(told, int):
            if told == 0 and finish is FinishReason.STOP:
                raise Trouble("an answer of no token")
            return told
        return len(self.chat.encode(text)) + (finish is FinishReason.STOP)

    def _completion(
        self,
        request: Request,
        ids: list[int],
        finish: FinishReason,
        error: str = "",
        text: str = "",
        tokens: int = 0,
        prefill: str | None = None,
    ) -> Completion:
        return Completion(
            problem_id=request.problem_id,
            sample_index=request.sample_index,
            text=self.chat.decode(ids) if ids else text,
            prefill=request.prefill if prefill is None else prefill,
            tokens=len(ids) or tokens,
            token_ids=ids,
            finish_reason=finish,
            error=error,
        )


def _only_choice(answer: dict[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Trouble("an answer without its one choice")
    for name, kind in (("finish_reason", str), ("token_ids", list), ("text", str)):
        if not isinstance(choices[0].get(name), kind | None):
            raise Trouble(f"an answer whose {name} is of another kind")
    return choices[0] | ({"usage": answer["usage"]} if answer.get("usage") else {})


def _paired(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can say and neither a tokenizer nor Parquet can take.

    Halves that meet, as those of two events of a stream, become one character; any other becomes U+FFFD.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _finish(choice: dict[str, Any]) -> tuple[FinishReason, str]:
    """Why a completion ended; with words where the server kept it from its end."""
    told = choice.get("finish_reason")
    if told in _FINISH:
        return _FINISH[told], ""
    if told is None or told == "abort":  # a server that is shut down aborts what it works on
        raise Trouble(f"an answer that has not ended ({told})")
    return FinishReason.ERROR, f"the server ended it: {str(told)[:100]}"
