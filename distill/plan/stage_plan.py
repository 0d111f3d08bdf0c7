"""What a stage needs of a machine, as a plan tells it."""

from __future__ import annotations

from dataclasses import dataclass, field

from distill.plan.fit import Settings
from distill.plan.memory import Parts

LONGEST_ROW = 1 << 22  # no row is tried beyond
FEW_TRACES = 4  # of a GPU in an update: fewer cannot be spread evenly


@dataclass(slots=True)
class StagePlan:
    """One stage's needs. Bytes are of the fullest GPU; ``usable`` is what of its memory may be planned for.

    ``nearest``: the change of settings after which it fits; None where it does already, or where no such change is
    known. Where it asks for more GPUs, ``on_this_machine`` is the nearest that does not. ``largest``: the largest value
    of a setting that fits, 0 for none.
    """

    name: str
    kind: str
    about: str
    parameters: int = 0
    trainable: int = 0
    memory: Parts = field(default_factory=dict)
    needs: float = 0.0
    usable: float = 0.0
    host: float = 0.0
    nearest: Settings | None = None
    on_this_machine: Settings | None = None
    largest: dict[str, int] = field(default_factory=dict)
    generated_tokens: float = 0.0
    trained_tokens: float = 0.0
    flops: float = 0.0
    hours: float = 0.0
    money: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether what is needed is there."""
        return self.needs <= self.usable
