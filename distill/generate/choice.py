"""Which engine generates with a model. Only the local one loads the model's weights into this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distill import models
from distill.chat import ChatFormat
from distill.device import Device
from distill.generate.engine import Engine
from distill.models import LoadedModel
from distill.recipe_parts import Engine as Settings
from distill.recipe_parts import LocalEngine, ModelSource, ServerEngine


def choose(
    name: str,
    settings: Settings,
    source: ModelSource,
    place: str | Path,
    load: Callable[[], tuple[LoadedModel, Device]],
) -> tuple[Engine, ChatFormat]:
    """The engine that ``settings`` ask for, and the model's chat format.

    Args:
        name: what the recipe calls the model.
        source: the model's section, or that of the model it was made from.
        place: folder or hub name.
        load: loads the weights and tells the device.

    Raises:
        UserError: what the engine needs is not here.
    """
    if isinstance(settings, LocalEngine):
        from distill.generate import local

        loaded, device = load()
        return local.LocalEngine(loaded, device, settings.max_rows), loaded.chat
    known = models.preview(name, models.as_made(source, place), ours=False)
    if isinstance(settings, ServerEngine):
        from distill.generate import server

        return server.ServerEngine(name, known.chat, settings), known.chat
    from distill.generate import vllm_engine

    limits = {"context": known.context, "rope_theta": source.rope_theta}
    return vllm_engine.VllmEngine(name, str(place), known.chat, settings, **limits), known.chat
