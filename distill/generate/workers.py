"""Threads that put requests to endpoints until each is answered, waiting where they must.

A request is put again after a refusal for now (429, 503), an error of the server's, an answer that is broken, or none
at all. An address that cannot be reached rests while the others go on. Two things end that: an answer that will be the
same every time (a wrong key, an unknown model), and `PATIENCE` without an answer from anybody. A request that alone
keeps failing, where others are answered or a probe is, is given up: it ends as an error of the engine.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from distill.errors import RunFailed
from distill.generate.endpoint import Busy, Endpoint, Line, Refused, Trouble, wait_before
from distill.generate.engine import Request
from distill.records import Completion, FinishReason

#: Seconds without an answer from any address after which the servers count as lost.
PATIENCE = 600.0
#: The same where all that comes is "not now" (429, 503): such a server lives, and what it works on may take long.
PATIENCE_WITH_THE_BUSY = 3600.0
#: Failures of one request after which it is given up, if nothing else fails.
ATTEMPTS = 12
_TOLD_EVERY = 30.0  # seconds

#: Puts one request to one address; raises Busy, Trouble or Refused where no answer comes.
Put = Callable[[Request, Endpoint, Line], Completion]
#: Whether an address answers a request that can do it no harm.
Healthy = Callable[[Endpoint, Line], bool]


class Workers:
    """``concurrency`` threads that share the requests.

    ``requests_per_minute`` begin at most. Each token of a prompt or an answer puts the next beginning off by its share
    of a minute: nobody knows how long an answer will be, so the first ``concurrency`` begin at once.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        put: Put,
        healthy: Healthy,
        requests: Sequence[Request],
        concurrency: int,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
    ) -> None:
        self._endpoints, self._put, self._healthy, self._count = endpoints, put, healthy, len(requests)
        self._concurrency = concurrency
        self._apart = (
            60 / requests_per_minute if requests_per_minute else 0.0
        )  # seconds between two beginnings
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._waiting = iter(requests)
        self._answers: queue.Queue[Completion | Exception] = queue.Queue(maxsize=concurrency)
        self._taking, self._counting = threading.Lock(), threading.Lock()
        self._stopped = threading.Event()
        self._troubles: Counter[str] = Counter()
        self._ever, self._answered = False, time.monotonic()  # whether and when an address last answered
        self._told = self._next_start = 0.0
        self._lines: list[Line] = []

    def completions(self) -> Iterator[Completion]:
        """One for each request, as they end.

        Raises:
            RunFailed: no address answers, or they refuse everything.
        """
        threads = [
            threading.Thread(target=self._labour, name=f"request-{number}", daemon=True)
            for number in range(min(self._concurrency, self._count))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(self._count):
                answer = self._answers.get()
                if isinstance(answer, Exception):
                    raise answer
                yield answer
        finally:
            self._stopped.set()
            for line in list(self._lines):
                line.close()  # also tells the servers to stop working for nobody
            if self._troubles:
                parts = ", ".join(f"{what} ({times:,})" for what, times in self._troubles.most_common(12))
                _say(f"{self._troubles.total():,} requests had to be put again: {parts}")

    def _labour(self) -> None:
        line = Line()
        self._lines.append(line)
        try:
            while not self._stopped.is_set():
                with self._taking:
                    request = next(self._waiting, None)
                if request is None:
                    return
                self._hand_over(self._complete(request, line))
        except _Stopped:
            pass
        except Exception as error:
            if not self._stopped.is_set():
                self._hand_over(error)
        finally:
            line.close()

    def _hand_over(self, answer: Completion | Exception) -> None:
        while not self._stopped.is_set():
            try:
                return self._answers.put(answer, timeout=0.5)
            except queue.Full:
                continue

    def _complete(self, request: Request, line: Line) -> Completion:
        """Put a request until it is answered.

        Raises:
            RunFailed: nobody answers, or all is refused.
        """
        failures, first = 0, 0.0
        endpoint: Endpoint | None = None
        while True:
            endpoint = self._choose(endpoint)
            try:
                self._pace()
                found = self._put(request, endpoint, line)
            except Refused as refused:
                if refused.everyone or not (self._ever or self._healthy(endpoint, line)):
                    raise _refusal(endpoint, refused) from None
                return _given_up(request, str(refused))
            except (Busy, Trouble) as failure:
                if self._stopped.is_set():
                    raise _Stopped from None  # our own hand has cut the line
                first = first or time.monotonic()
                alive = isinstance(failure, Busy) and failure.alive
                patience = PATIENCE_WITH_THE_BUSY if alive else PATIENCE
                self._look(endpoint, failure, time.monotonic() - max(first, self._answered) > patience)
                if isinstance(failure, Busy):
                    endpoint.busy(failure.seconds)
                    continue
                endpoint.troubled()
                failures += 1
                if failures >= ATTEMPTS and (endpoint.last_answer > first or self._healthy(endpoint, line)):
                    return _given_up(request, f"failed {failures} times, at last: {failure}")
                self._sleep(wait_before(failures))
            else:
                endpoint.answered()
                self._answered, self._ever = time.monotonic(), True
                self._put_off(self._per_token * (len(request.prompt_ids) + found.tokens))
                return found
            finally:
                with self._taking:
                    endpoint.flying -= 1

    def _choose(self, failed: Endpoint | None) -> Endpoint:
        """The address with the least to do, once one may be asked; where this request ``failed`` if there is no other.

        Without that an address that fails at once would have the least to do, always.
        """
        while True:
            with self._taking:
                now = time.monotonic()
                free = [one for one in self._endpoints if one.closed_until <= now]
                if free:
                    chosen = min(free, key=lambda one: (one is failed, one.flying))
                    chosen.flying += 1
                    return chosen
            self._sleep(min(one.closed_until for one in self._endpoints) - now)

    def _pace(self) -> None:
        """Wait for this request's turn."""
        if self._apart or self._per_token:
            self._sleep(self._put_off(self._apart) - time.monotonic())

    def _put_off(self, seconds: float) -> float:
        """When the next request may begin; the one after it so much later."""
        with self._taking:
            turn = max(self._next_start, time.monotonic())
            self._next_start = turn + seconds
        return turn

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(max(seconds, 0.001)):
            raise _Stopped

    def _look(self, endpoint: Endpoint, failure: Exception, lost: bool) -> None:
        """Count a failure, and tell it now and then.

        Raises:
            RunFailed: it has been too long.
        """
        with self._counting:
            self._troubles[str(failure).partition(":")[0]] += 1
            now = time.monotonic()
            tells = now - self._told > _TOLD_EVERY
            if tells:
                self._told = now
        if lost:
            remedy = "The same command goes on from there once it answers."
            raise RunFailed(f"{endpoint.url} is lost: {failure}", then=remedy)
        if tells and not self._stopped.is_set():
            _say(f"{endpoint.url}: {failure}; it is asked again")


class _Stopped(Exception):
    """Nobody waits for answers any more."""


def _refusal(endpoint: Endpoint, refused: Refused) -> RunFailed:
    return RunFailed(
        f"{endpoint.url} refuses what it is asked: {refused}",
        then="Remedy: correct urls, served, key, prompts or sampling of the engine; what was finished is kept.",
    )


def _given_up(request: Request, reason: str) -> Completion:
    return Completion(
        problem_id=request.problem_id,
        sample_index=request.sample_index,
        text="",
        prefill=request.prefill,
        tokens=0,
        finish_reason=FinishReason.ERROR,
        error=reason,
    )


def _say(text: str) -> None:
    print(f"server: {text}", file=sys.stderr, flush=True)
