"""Models as the toolkit uses them: find or build, load, adapt, save as ordinary transformers folders.

`path` may be a folder or a hub name. A model that a stage makes is a folder of the run.
"""

from distill.lengths import context_of
from distill.models.classifiers import (
    Reader,
    Scorer,
    check_reads,
    check_scorer,
    from_causal,
    load_scorer,
)
from distill.models.folders import build_folder, save
from distill.models.loading import (
    ARCHITECTURES,
    LoadedModel,
    Preview,
    as_made,
    check_lora,
    count_parameters,
    load,
    preview,
    tags_of,
    take_over,
    width,
    with_lora,
)
from distill.models.vocabulary import base_of_adapter, load_tokenizer

__all__ = [
    "ARCHITECTURES",
    "LoadedModel",
    "Preview",
    "Reader",
    "Scorer",
    "as_made",
    "base_of_adapter",
    "build_folder",
    "check_lora",
    "check_reads",
    "check_scorer",
    "context_of",
    "count_parameters",
    "from_causal",
    "load",
    "load_scorer",
    "load_tokenizer",
    "preview",
    "save",
    "tags_of",
    "take_over",
    "width",
    "with_lora",
]
