"""One OpenAI-compatible address: how a request is put to it, and what can go wrong, sorted by what helps.

Not protected from: a server that answers well-formed text of another model than it claims, or ignores a seed.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any
from urllib.parse import SplitResult, urlsplit

#: Seconds before a failed request is put again: doubled from the first to the longest, times 0.5 to 1.
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
_FAILURES_BEFORE_REST = 4
_LONGEST_LINE = 1 << 24
_SHOWN = 300  # characters of an error's body


class Busy(Exception):
    """The address takes nothing for now, from anybody; ``alive``: as it says itself, perhaps with ``seconds``."""

    def __init__(self, reason: str, alive: bool, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.alive, self.seconds = alive, seconds


class Trouble(Exception):
    """This request failed, and may well succeed the next time."""


class _Cut(Trouble):
    """The connection ended before an answer began."""


class Refused(Exception):
    """The server will not answer this request, however often it is put; ``everyone``: nor any other."""

    def __init__(self, reason: str, everyone: bool) -> None:
        super().__init__(reason)
        self.everyone = everyone


def wait_before(attempt: int) -> float:
    """Seconds before the attempt after the ``attempt``-th failure, drawn so that not all come back at once."""
    return float(min(FIRST_WAIT * 2.0 ** min(attempt - 1, 30), LONGEST_WAIT) * random.uniform(0.5, 1))


def parse_url(url: str) -> SplitResult:
    """An address with its path, ``/v1`` where it has none.

    Raises:
        ValueError: it is no http address, or holds a password.
    """
    parts = urlsplit(url.rstrip("/"))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("is no http address, such as http://host:8000/v1")
    if parts.username or parts.password:
        raise ValueError("holds a password, and recipes are copied into runs: name a variable in `key`")
    _ = parts.port  # raises where it is no number
    return parts._replace(path=parts.path or "/v1")


@dataclass(eq=False)
class Endpoint:
    """An address and how it has been doing. ``secret`` is the API key's value, which no message may show."""

    url: str
    secret: str | None = field(repr=False)
    silence: float  # seconds that it may say nothing
    flying: int = 0
    failures: int = 0  # in a row
    closed_until: float = 0.0
    last_answer: float = 0.0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def answered(self) -> None:
        """It works."""
        with self._lock:
            self.failures, self.last_answer = 0, time.monotonic()

    def busy(self, seconds: float | None) -> None:
        """Ask nothing for so many seconds, or for longer with every failure in a row."""
        with self._lock:
            now = time.monotonic()
            if seconds is None and now < self.closed_until:
                return  # one of many that were under way when it failed
            self.failures += 1
            pause = wait_before(self.failures) if seconds is None else min(seconds, 10 * LONGEST_WAIT)
            self.closed_until = max(self.closed_until, now + pause)

    def troubled(self) -> None:
        """A request failed here; after some in a row without an answer others are asked first."""
        with self._lock:
            self.failures += 1
            if self.failures >= _FAILURES_BEFORE_REST:
                pause = wait_before(self.failures - _FAILURES_BEFORE_REST + 1)
                self.closed_until = max(self.closed_until, time.monotonic() + pause)

    def ask(self, line: Line, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """The answer to one request as an object.

        Raises:
            Busy, Trouble, Refused: there is none.
        """
        with line.open(self, path, body) as response:
            return self._parse(self._read(response.read))

    def stream(self, line: Line, path: str, body: dict[str, Any]) -> Generator[dict[str, Any]]:
        """The events of a streamed answer to ``body`` up to its end mark; closing this early tells the server to stop.

        Raises:
            Busy, Trouble, Refused: it fails, or breaks off.
        """
        with line.open(self, path, body | {"stream": True}) as response:
            while True:
                text = self._read(lambda: response.readline(_LONGEST_LINE))
                if not text:
                    raise Trouble("a stream broke off")
                if not text.startswith(b"data:"):
                    continue  # blank lines, comments that keep the line open
                data = text[5:].strip()
                if data == b"[DONE]":
                    self._read(response.read)  # the end of the body, so that the line can be used again
                    return
                yield self._parse(data)

    def _read(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except TimeoutError:
            raise Trouble(f"silent for {self.silence:g} s") from None
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise Trouble(f"an answer broke off ({type(error).__name__})") from None

    def _parse(self, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data)
        except ValueError:
            raise Trouble("an answer is no JSON") from None
        if not isinstance(found, dict):
            raise Trouble("an answer is no JSON object")
        if error := found.get("error"):  # as some put it into a stream that began with 200
            raise Trouble(f"an error in the answer: {self.hide(str(error))[:_SHOWN]}")
        return found

    def hide(self, text: str) -> str:
        """``text`` without the key, whoever wrote it there."""
        return text.replace(self.secret, "***") if self.secret else text

    def refusal(self, status: int, body: bytes, headers: Any) -> Exception:
        """What an answer other than 200 means."""
        told = " ".join(self.hide(body.decode("utf-8", "replace")).split())[:_SHOWN]
        reason = f"HTTP {status}" + (f": {told}" if told else "")
        if status in (429, 503, 529):
            return Busy(reason, True, _seconds(headers.get("Retry-After")))
        if status in (408, 409, 425) or status >= 500:
            return Trouble(reason)
        return Refused(reason, everyone=status not in (400, 413, 422))


class Line:
    """A worker's connection to each address, kept open from one request to the next."""

    def __init__(self) -> None:
        self._open: dict[Endpoint, http.client.HTTPConnection] = {}
        self._response: http.client.HTTPResponse | None = None
        self._endpoint: Endpoint | None = None

    def open(self, endpoint: Endpoint, path: str, body: dict[str, Any] | None) -> Line:
        """Send a request; as a context it gives the response, and closes the connection unless all of it was read."""
        self._endpoint, kept = endpoint, endpoint in self._open
        try:
            self._response = self._send(endpoint, path, body)
        except _Cut:
            if not kept:
                raise
            # The server closes what was idle for long, and that shows only now.
            self._response = self._send(endpoint, path, body)
        return self

    def __enter__(self) -> http.client.HTTPResponse:
        assert self._response is not None and self._endpoint is not None
        response, endpoint = self._response, self._endpoint
        if response.status == 200:
            return response
        try:
            body = response.read(1 << 16)
        except (http.client.HTTPException, OSError):
            body = b""
        self.close(endpoint)
        raise endpoint.refusal(response.status, body, response.headers)

    def __exit__(self, *_: object) -> None:
        assert self._response is not None and self._endpoint is not None
        if not self._response.isclosed():
            self.close(self._endpoint)

    def close(self, endpoint: Endpoint | None = None) -> None:
        """End the connection to one address, or all."""
        for one in [endpoint] if endpoint else list(self._open):
            if connection := self._open.pop(one, None):
                if connection.sock is not None:
                    with suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for it
                connection.close()

    def _send(self, endpoint: Endpoint, path: str, body: dict[str, Any] | None) -> http.client.HTTPResponse:
        connection = self._open.get(endpoint) or _connect(endpoint)
        parts = parse_url(endpoint.url)
        headers = {"Accept": "application/json", "User-Agent": "distill"}
        if endpoint.secret:
            headers["Authorization"] = f"Bearer {endpoint.secret}"
        try:
            if connection.sock is None:
                connection.connect()
        except (OSError, http.client.HTTPException) as error:
            raise Busy(f"cannot be reached ({error})", False) from None
        self._open[endpoint] = connection
        try:
            if body is None:
                connection.request("GET", parts.path + path, headers=headers)
            else:
                headers["Content-Type"] = "application/json"
                connection.request("POST", parts.path + path, json.dumps(body).encode(), headers)
            return connection.getresponse()
        except TimeoutError:
            self.close(endpoint)
            raise Trouble(f"silent for {endpoint.silence:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            self.close(endpoint)
            raise _Cut(f"the connection was cut ({type(error).__name__})") from None


def _connect(endpoint: Endpoint) -> http.client.HTTPConnection:
    """A connection not yet made; through the proxy that the environment names for https."""
    parts = parse_url(endpoint.url)
    assert parts.hostname is not None
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=endpoint.silence)
    context = ssl.create_default_context()
    proxy = urllib.request.getproxies().get("https")
    if not proxy or urllib.request.proxy_bypass(parts.hostname):
        return http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=endpoint.silence, context=context
        )
    way = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    connection = http.client.HTTPSConnection(
        way.hostname or "", way.port, timeout=endpoint.silence, context=context
    )
    connection.set_tunnel(parts.hostname, parts.port)
    return connection


def _seconds(retry_after: str | None) -> float | None:
    """What Retry-After says: seconds, or a date. "At once" (0, or a date that our clock has passed) says nothing."""
    if not retry_after:
        return None
    try:
        if retry_after.strip().isdecimal():
            return float(retry_after) or None
        left = parsedate_to_datetime(retry_after).timestamp() - time.time()
        return left if left > 0 else None
    except ValueError:
        return None
