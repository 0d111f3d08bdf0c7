"""What samples from a policy in training: the model itself or a copy, or vLLM beside it with the same weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.device import Device
from distill.generate.frozen import FrozenCopy
from distill.generate.local import LocalEngine
from distill.models import LoadedModel
from distill.recipe import GrpoStage
from distill.recipe_parts import PolicyVllm
from distill.training.products import by_one_library
from distill.training.world import whole

if TYPE_CHECKING:
    from distill.generate.apart import ApartEngine
    from distill.generate.synced import SyncedEngine


@contextmanager
def policy_engine(
    stage: GrpoStage, loaded: LoadedModel, device: Device
) -> Iterator[LocalEngine | SyncedEngine | ApartEngine]:
    """The engine of a stage that trains ``loaded``; gone when the block ends.

    Raises:
        UserError: vLLM is not installed.
    """
    settings = stage.engine
    if not isinstance(settings, PolicyVllm):
        if stage.asynchronous:
            with by_one_library():
                yield FrozenCopy(loaded, device, settings.max_rows)
            return
        yield LocalEngine(loaded, device, settings.max_rows)
        return
    if settings.apart:
        with _apart(loaded, device, settings, stage.temperature) as apart:
            yield apart
        return
    from distill.generate.synced import SyncedEngine

    each = 8 if stage.memory.moments == "float32" else 2
    trained = sum(one.numel() for one in loaded.model.parameters() if one.requires_grad)
    engine = SyncedEngine(loaded, device, settings, stage.temperature, moments=each * trained)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def _apart(
    loaded: LoadedModel, device: Device, settings: PolicyVllm, temperature: float
) -> Iterator[ApartEngine]:
    from distill.generate.apart import ApartEngine

    with tempfile.TemporaryDirectory(prefix="distill-policy-") as folder:
        engine = ApartEngine(loaded, device, settings, temperature, Path(folder))
        try:
            yield engine
        finally:
            engine.close()


@contextmanager
def at_version(engine: LocalEngine | SyncedEngine | ApartEngine, version: int) -> Iterator[dict[str, Any]]:
    """Within the block the engine samples from the policy as it is after ``version`` updates; gives what that showed.

    Raises:
        RunFailed: a sampler beside the policy does not hold its weights.
    """
    if isinstance(engine, FrozenCopy):
        yield engine.sync(version)
        return
    if isinstance(engine, LocalEngine):
        engine.policy_version = version
        with whole(engine.loaded.model):
            yield {}
        return
    yield engine.sync(version)
    engine.rest()
