"""What an engine of a recipe takes of a machine: GPUs for one copy of a model, copies, rows side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distill.plan.architectures import Shape
from distill.plan.fit import largest
from distill.plan.hardware import Gpu
from distill.plan.memory import Parts, generation_parts
from distill.plan.work import PROMPT
from distill.recipe_parts import LocalEngine, VllmEngine

MOST_GPUS = 1024
#: vLLM's own bound on rows side by side in one copy (`max_num_seqs`) on large GPUs.
MOST_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Generating:
    """A model that generates on a machine.

    ``room`` counts the tokens of an answer, ``usable`` the bytes of a GPU that may be planned for.
    """

    shape: Shape
    engine: LocalEngine | VllmEngine
    room: int
    gpu: Gpu
    gpus: int
    usable: float

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the machine computes."""
        return "cuda" if self.gpu.cuda else "cpu"

    def parts(self, rows: int, split: int) -> Parts:
        """Bytes on each of the ``split`` GPUs of a copy, for so many rows."""
        return generation_parts(self.shape, rows, PROMPT + self.room, split, self.device)

    @property
    def limit(self) -> float:
        """Bytes of a GPU that the engine may take."""
        if isinstance(self.engine, VllmEngine):
            return min(self.usable, self.engine.memory * self.gpu.memory)
        return self.usable

    @property
    def narrowest(self) -> int:
        """The fewest GPUs (a power of 2) that hold a copy with one row."""
        split = 1
        while split < MOST_GPUS and sum(self.parts(1, split).values()) > self.limit:
            split *= 2
        return split

    @property
    def split(self) -> int:
        """GPUs of one copy: as set, or the fewest that hold it."""
        return self.engine.tensor_parallel if isinstance(self.engine, VllmEngine) else self.narrowest

    @property
    def copies(self) -> int:
        """Copies of the model that generate at once."""
        if isinstance(self.engine, VllmEngine):
            return self.engine.data_parallel
        return self.gpus // min(self.split, self.gpus)

    @property
    def rows(self) -> int:
        """Rows side by side in one copy: as set, or as many as vLLM's share of the memory has room for."""
        return (
            self.engine.max_rows
            if isinstance(self.engine, LocalEngine)
            else max(1, self.most_rows(MOST_ROWS))
        )

    def most_rows(self, bound: int) -> int:
        """The most rows that fit into one copy; 0 if not even one does."""
        return largest(lambda rows: sum(self.parts(rows, self.split).values()) <= self.limit, bound)
