"""An OpenAI-compatible server in threads of this process: it adds two numbers, sometimes wrongly, and fails as told.

What it answers depends on prompt, seed and temperature alone. ``faults`` are taken one for each request that asks for a
completion, in the order in which requests come; None, and every request after the last, is answered.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from distill.chat import ChatFormat

FAULTS = ("429", "500", "garbage", "half", "nothing", "cut", "empty")


class FakeServer:
    """Use as a context; ``url`` is its address."""

    def __init__(
        self,
        chat: ChatFormat,
        faults: list[str | None] | None = None,
        *,
        gives_ids: bool = True,
        key: str | None = None,
        parts_thoughts: bool = False,
        hangs: float = 30.0,
        delay: float = 0.0,
        endless: bool = False,
    ) -> None:
        self.chat, self.faults, self.gives_ids, self.key = chat, list(faults or []), gives_ids, key
        self.parts_thoughts, self.hangs, self.delay, self.endless = parts_thoughts, hangs, delay, endless
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.starts: list[float] = []
        self.open = self.most_open = self.answers = self.hung_up = 0
        self.lock = threading.Lock()
        self.models = ["teacher"]

    def __enter__(self) -> FakeServer:
        class Handler(_Handler):
            fake = self

        self._server = _Listening(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault(self) -> str | None:
        with self.lock:
            return self.faults.pop(0) if self.faults else None

    def answer(self, text: str, seed: int) -> tuple[str, str]:
        """Thought and answer to the text of a prompt."""
        left, right = map(int, re.findall(r"\d+", text)[-2:])
        chance = hashlib.sha256(f"{left} {right} {seed}".encode()).digest()
        wrong = chance[0] < 100
        found = left + right + wrong * (1 + chance[1] % 3)
        thought = f"{left} + {right} = {found}." + " so " * (chance[2] % 20)
        return thought.rstrip(), f"The answer is \\boxed{{{found}}}."


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # connections that wait to be taken; else a busy machine refuses some

    def handle_error(self, *_: object) -> None:
        """Clients that are killed are nothing to tell of."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: FakeServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        with suppress(OSError):  # whoever asked may have gone
            if self._allowed():
                self._json(200, {"data": [{"id": name} for name in self.fake.models]})

    def do_POST(self) -> None:
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with suppress(OSError):
            if not self._allowed():
                return
        with fake.lock:
            fake.bodies.append(body)
            fake.paths.append(self.path)
            fake.starts.append(time.monotonic())
            fake.open += 1
            fake.most_open = max(fake.most_open, fake.open)
        try:
            self._post(body)
        except OSError:
            with fake.lock:
                fake.hung_up += 1
            self.close_connection = True
        finally:
            with fake.lock:
                fake.open -= 1

    def _post(self, body: dict[str, Any]) -> None:
        fault = self.fake.fault()
        if fault is None:
            time.sleep(self.fake.delay)
            with self.fake.lock:
                self.fake.answers += 1
            self._stream(body) if body.get("stream") else self._json(200, self._whole(body))
        elif fault == "429":
            self._json(429, {"error": {"message": "slow down"}}, {"Retry-After": "0"})
        elif fault.isdecimal():
            message = f"no, says the server to {self.headers.get('Authorization')}"
            self._json(int(fault), {"error": {"message": message}})
        elif fault == "garbage":
            self._send(200, b"<html>welcome to the proxy</html>")
        elif fault == "empty":
            self._json(200, {"choices": [], "usage": {"completion_tokens": 0}})
        elif fault == "half":
            whole = json.dumps(self._whole(body | {"stream": False})).encode()
            self._send(200, whole[: len(whole) // 2], length=len(whole))
            self.close_connection = True
        elif fault == "nothing":
            time.sleep(self.fake.hangs)
            self.close_connection = True
        else:
            assert fault == "cut", fault
            self.close_connection = True

    def _allowed(self) -> bool:
        if self.fake.key and self.headers.get("Authorization") != f"Bearer {self.fake.key}":
            self._json(401, {"error": {"message": f"wrong key: {self.headers.get('Authorization')}"}})
            return False
        return True

    # ------------------------------------------------------------------------------------------ answers

    def _pieces(self, body: dict[str, Any]) -> Iterator[list[int]]:
        """The ids of a completion, in pieces as a stream has them."""
        chat = self.fake.chat
        thought, answer = self.fake.answer(chat.decode(body["prompt"]), body["seed"])
        if self.fake.endless:
            for _ in range(body["max_tokens"] // 8):
                yield chat.encode("1 + 1 = 2 so ")[:8]
            return
        ids = [*chat.encode(f"<think>\n{thought}\n</think>\n\n{answer}"), chat.eos_id]
        for start in range(0, len(ids), 5):
            yield ids[start : start + 5]

    def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        chat = self.fake.chat
        if "messages" in body:
            thought, answer = self.fake.answer(body["messages"][0]["content"], body["seed"])
            message = {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n{answer}"}
            if self.fake.parts_thoughts:
                message = {
                    "role": "assistant",
                    "content": f"\n\n{answer}",
                    "reasoning_content": f"{thought}\n",
                }
            usage = {"completion_tokens": 1 + len(chat.encode(thought + answer))}
            return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
        ids = [one for piece in self._pieces(body) for one in piece][: body["max_tokens"]]
        finish = "stop" if ids[-1] == chat.eos_id else "length"
        choice = {"text": chat.decode(ids), "finish_reason": finish}
        if self.fake.gives_ids:
            choice["token_ids"] = ids
        return {"choices": [choice], "usage": {"completion_tokens": len(ids)}}

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pieces = list(self._pieces(body))
        for number, ids in enumerate(pieces):
            last = number + 1 == len(pieces)
            finish = ("length" if self.fake.endless else "stop") if last else None
            choice: dict[str, Any] = {"text": self.fake.chat.decode(ids), "finish_reason": finish}
            if self.fake.gives_ids:
                choice["token_ids"] = ids
            self._event({"choices": [choice]})
        self._event({"choices": [], "usage": {"completion_tokens": sum(map(len, pieces))}})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _json(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), headers)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
