"""When a rollout is sampled: in turn with the updates, or one ahead of them while they are made.

    in turn    rollout k is sampled by the policy after kS updates, and nothing else happens meanwhile
    ahead      rollout k + 1 is sampled by the policy after kS updates, while those of rollout k are made

with S updates a rollout. So ahead of them a rollout is S updates old when it is learnt from, but for the first, before
which there is none. The stage's `correction` weighs that: the policy as it is then over the policy that sampled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

from distill.chat import Example
from distill.generate.policy import at_version
from distill.recipe import GrpoStage
from distill.records import Completion
from teacher.rewards import Scores
from teacher.rollout import Deck, Rollout, Sampler

Look = Callable[[int], None]


class Beside(Protocol):
    """A sampler that has its own weights."""

    def sync(self, version: int) -> dict[str, Any]:
        """Take the policy's weights and prove it; tells what was measured."""
        ...

    def stop(self) -> None:
        """End what is being generated; it fails there."""
        ...


class Rollouts(Protocol):
    """The rollouts of one stage, in order."""

    def take(self, version: int) -> tuple[Rollout, dict[str, Any]]:
        """The rollout to learn from after ``version`` updates, and what bringing the sampler up to date showed."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs between two rollouts."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Back to `state`."""
        ...


@contextmanager
def rollouts_of(
    stage: GrpoStage, engine: Any, sampler: Sampler, deck: Deck, look: Look
) -> Iterator[Rollouts]:
    """The rollouts of a stage, made when it says; nothing goes on being sampled when the block ends.

    Args:
        look: called with the engine's version, once a rollout was sampled by it and before it gets other weights.
    """
    if not stage.asynchronous:
        yield InTurn(stage, engine, sampler, deck, look)
        return
    ahead = Ahead(stage, engine, sampler, deck, look)
    try:
        yield ahead
    finally:
        ahead.close()


class InTurn:
    """Each rollout is sampled when it is asked for, by the policy as it is then."""

    def __init__(self, stage: GrpoStage, engine: Any, sampler: Sampler, deck: Deck, look: Look) -> None:
        self._stage, self._engine, self._sampler, self._deck, self._look = stage, engine, sampler, deck, look

    def take(self, version: int) -> tuple[Rollout, dict[str, Any]]:
        """See `Rollouts`."""
        with at_version(self._engine, version) as told:
            rollout = self._sampler.roll_out(self._deck, version // self._stage.steps_per_rollout)
            self._look(version)
            return rollout, told

    def state(self) -> dict[str, Any]:
        """See `Rollouts`."""
        return {"position": self._deck.position}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Rollouts`."""
        self._deck.position = state["position"]


class Ahead:
    """While a rollout is learnt from, a thread samples, verifies and rewards the next.

    The rollout under way is whole in each checkpoint, so that a resumed run learns from the very same samples.
    """

    def __init__(self, stage: GrpoStage, engine: Beside, sampler: Sampler, deck: Deck, look: Look) -> None:
        self._stage, self._engine, self._sampler, self._deck, self._look = stage, engine, sampler, deck, look
        # One thread for all of the stage: what verification starts may not outlive the thread that started it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollout")
        self._next: Future[tuple[Rollout, dict[str, Any]]] | None = None

    def take(self, version: int) -> tuple[Rollout, dict[str, Any]]:
        """See `Rollouts`; ``seconds_wait`` is the time for which the trainer had nothing to do."""
        began = time.monotonic()
        number = version // self._stage.steps_per_rollout
        if self._next is None:  # nothing came before it
            self._begin(number, version)
        rollout, told = self._result()
        waited = time.monotonic() - began
        self._next = None
        if (number + 1) * self._stage.steps_per_rollout < self._stage.steps:
            self._begin(number + 1, version)
        return rollout, told | {"seconds_wait": waited}

    def _begin(self, number: int, version: int) -> None:
        told = self._engine.sync(version)  # here, where no update is being made
        self._next = self._thread.submit(self._sampled, number, version, told)

    def _sampled(self, number: int, version: int, told: dict[str, Any]) -> tuple[Rollout, dict[str, Any]]:
        rollout = self._sampler.roll_out(self._deck, number)
        self._look(version)
        return rollout, told

    def _result(self) -> tuple[Rollout, dict[str, Any]]:
        assert self._next is not None
        return self._next.result()

    def state(self) -> dict[str, Any]:
        """See `Rollouts`; waits until the next rollout is there."""
        waiting = None
        if self._next is not None:
            rollout, told = self._result()
            waiting = {"rollout": packed(rollout), "told": told}
        return {"position": self._deck.position, "ahead": waiting}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Rollouts`."""
        self._deck.position = state["position"]
        if kept := state["ahead"]:
            self._next = Future()
            self._next.set_result((unpacked(kept["rollout"]), kept["told"]))

    def close(self) -> None:
        """Leave what is under way; returns once it has ended."""
        self._engine.stop()
        self._thread.shutdown(cancel_futures=True)


def packed(rollout: Rollout) -> dict[str, Any]:
    """A rollout of tensors and plain values alone, as a checkpoint may hold it."""
    return rollout._asdict() | {
        "examples": [[one.ids, one.prompt_length] for one in rollout.examples],
        "sampled": [one.model_dump(mode="json") for one in rollout.sampled],
        "scores": list(rollout.scores),
    }


def unpacked(kept: dict[str, Any]) -> Rollout:
    """The rollout that `packed` was given."""
    parts = {
        "examples": [Example(*one) for one in kept["examples"]],
        "sampled": [Completion.model_validate(one) for one in kept["sampled"]],
        "scores": Scores(*kept["scores"]),
    }
    return Rollout(**(kept | parts))
