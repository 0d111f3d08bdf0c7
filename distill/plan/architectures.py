"""The shapes of models and what follows from them: parameters, and the widths that costs are counted in.

The table holds the numbers of each model's config.json on the hub, so that a plan needs neither network nor torch.
`tests/test_plan.py` builds every entry from its transformers config on the meta device and counts its parameters.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill.errors import UserError
from distill.lengths import context_of
from distill.recipe_parts import Lora, ModelSource

Family = Literal["qwen2", "qwen3", "llama"]

#: Tokens of the built-in world's tokenizer; building it would load transformers.
WORLD_VOCABULARY = 438


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder of the Llama kind: RMS norms, rotary positions, grouped queries, gated MLP.

    ``tied``: the head is the embedding's matrix. ``qkv_bias`` is Qwen2's, ``qk_norm`` Qwen3's.
    """

    name: str
    family: Family
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    context: int
    licence: str | None = None

    @property
    def qkv_bias(self) -> bool:
        """Whether the projections to queries, keys and values have a bias."""
        return self.family == "qwen2"

    @property
    def qk_norm(self) -> bool:
        """Whether each head's queries and keys are normalised."""
        return self.family == "qwen3"

    @property
    def query_width(self) -> int:
        """Of all heads together; Qwen3's is not the hidden size."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Of all key heads together; the values' is the same."""
        return self.kv_heads * self.head_dim

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """In and out features of the linear layers of one layer, by transformers' names."""
        hidden, query, key = self.hidden, self.query_width, self.key_width
        return {
            "q_proj": (hidden, query),
            "k_proj": (hidden, key),
            "v_proj": (hidden, key),
            "o_proj": (query, hidden),
            "gate_proj": (hidden, self.intermediate),
            "up_proj": (hidden, self.intermediate),
            "down_proj": (self.intermediate, hidden),
        }

    @property
    def layer_matrices(self) -> int:
        """Weights of one layer that are multiplied: h(q + 2k) + qh + 3hf."""
        return sum(inner * outer for inner, outer in self.linear.values())

    @property
    def layer(self) -> int:
        """All weights of one layer: its matrices, biases and norms."""
        biases = self.query_width + 2 * self.key_width if self.qkv_bias else 0
        head_norms = 2 * self.head_dim if self.qk_norm else 0
        return self.layer_matrices + biases + head_norms + 2 * self.hidden

    @property
    def embedding(self) -> int:
        """Weights of the embedding; the head has as many."""
        return self.vocabulary * self.hidden

    @property
    def outer(self) -> int:
        """Weights outside the layers: the embedding, the head unless it is tied to it, the last norm."""
        return self.embedding * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All weights, tied ones once."""
        return self.layers * self.layer + self.outer

    @property
    def matrices(self) -> int:
        """Weights of the layers that are multiplied; neither embedding nor head."""
        return self.layers * self.layer_matrices

    @property
    def cache(self) -> int:
        """Numbers that one token leaves in the key-value cache: a key and a value a layer."""
        return 2 * self.layers * self.key_width


_APACHE, _LLAMA31, _LLAMA33, _MIT = "Apache-2.0", "Llama 3.1 Community", "Llama 3.3 Community", "MIT"
_R1 = "deepseek-ai/DeepSeek-R1-Distill-"

# fmt: off
#: hidden, layers, heads, kv heads, head dim, intermediate; R1's distillates have their bases' shapes
_BODIES: dict[str, tuple[int, int, int, int, int, int]] = {
    "qwen2-0.5b": (896, 24, 14, 2, 64, 4864),
    "qwen2-1.5b": (1536, 28, 12, 2, 128, 8960),
    "qwen2-7b": (3584, 28, 28, 4, 128, 18944),
    "qwen2-14b": (5120, 48, 40, 8, 128, 13824),
    "qwen2-32b": (5120, 64, 40, 8, 128, 27648),
    "llama-8b": (4096, 32, 32, 8, 128, 14336),
    "llama-70b": (8192, 80, 64, 8, 128, 28672),
    "qwen3-0.6b": (1024, 28, 16, 8, 128, 3072),
    "qwen3-1.7b": (2048, 28, 16, 8, 128, 6144),
    "qwen3-4b": (2560, 36, 32, 8, 128, 9728),
    "qwen3-8b": (4096, 36, 32, 8, 128, 12288),
    "qwen3-14b": (5120, 40, 40, 8, 128, 17408),
    "qwen3-32b": (5120, 64, 64, 8, 128, 25600),
}
#: name, body, vocabulary, tied, context, licence
_ROWS: tuple[tuple[str, str, int, bool, int, str], ...] = (
    ("Qwen/Qwen2.5-0.5B", "qwen2-0.5b", 151936, True, 32768, _APACHE),
    ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2-0.5b", 151936, True, 32768, _APACHE),
    ("Qwen/Qwen2.5-1.5B", "qwen2-1.5b", 151936, True, 131072, _APACHE),
    ("Qwen/Qwen2.5-1.5B-Instruct", "qwen2-1.5b", 151936, True, 32768, _APACHE),
    ("Qwen/Qwen2.5-Math-1.5B", "qwen2-1.5b", 151936, True, 4096, _APACHE),
    ("Qwen/Qwen2.5-7B", "qwen2-7b", 152064, False, 131072, _APACHE),
    ("Qwen/Qwen2.5-7B-Instruct", "qwen2-7b", 152064, False, 32768, _APACHE),
    ("Qwen/Qwen2.5-Math-7B", "qwen2-7b", 152064, False, 4096, _APACHE),
    ("Qwen/Qwen2.5-14B", "qwen2-14b", 152064, False, 131072, _APACHE),
    ("Qwen/Qwen2.5-32B", "qwen2-32b", 152064, False, 131072, _APACHE),
    ("Qwen/QwQ-32B", "qwen2-32b", 152064, False, 40960, _APACHE),
    ("meta-llama/Llama-3.1-8B", "llama-8b", 128256, False, 131072, _LLAMA31),
    ("meta-llama/Llama-3.3-70B-Instruct", "llama-70b", 128256, False, 131072, _LLAMA33),
    (f"{_R1}Qwen-1.5B", "qwen2-1.5b", 151936, False, 131072, _MIT),
    (f"{_R1}Qwen-7B", "qwen2-7b", 152064, False, 131072, _MIT),
    (f"{_R1}Qwen-14B", "qwen2-14b", 152064, False, 131072, _MIT),
    (f"{_R1}Qwen-32B", "qwen2-32b", 152064, False, 131072, _MIT),
    (f"{_R1}Llama-8B", "llama-8b", 128256, False, 131072, _MIT),
    (f"{_R1}Llama-70B", "llama-70b", 128256, False, 131072, _MIT),
    ("Qwen/Qwen3-0.6B", "qwen3-0.6b", 151936, True, 40960, _APACHE),
    ("Qwen/Qwen3-1.7B", "qwen3-1.7b", 151936, True, 40960, _APACHE),
    ("Qwen/Qwen3-4B", "qwen3-4b", 151936, True, 40960, _APACHE),
    ("Qwen/Qwen3-8B", "qwen3-8b", 151936, False, 40960, _APACHE),
    ("Qwen/Qwen3-14B", "qwen3-14b", 151936, False, 40960, _APACHE),
    ("Qwen/Qwen3-32B", "qwen3-32b", 151936, False, 40960, _APACHE),
)
# fmt: on


def _family(body: str) -> Family:
    return "qwen3" if body.startswith("qwen3") else "qwen2" if body.startswith("qwen2") else "llama"


KNOWN: dict[str, Shape] = {
    name: Shape(name, _family(body), *_BODIES[body], vocabulary, tied, context, licence)
    for name, body, vocabulary, tied, context, licence in _ROWS
}


def shape_of(name: str, source: ModelSource) -> Shape:
    """The shape of a recipe's model: of its ``build:``, of its folder's config.json, or of the table.

    Raises:
        UserError: it stands in no table and its config is not on this machine; nothing is fetched.
    """
    if source.build is not None:
        build = source.build
        kv_heads = build.kv_heads or build.heads
        family: Family = build.architecture
        head_dim, wide = build.hidden // build.heads, build.intermediate or 4 * build.hidden
        vocabulary = _vocabulary(name, source)
        return Shape(
            name, family, build.hidden, build.layers, build.heads, kv_heads, head_dim, wide, vocabulary, True,
            build.max_length,
        )  # fmt: skip
    assert source.path is not None, f"models.{name} has neither path nor build"
    if not Path(source.path).is_dir() and source.path in KNOWN:
        return KNOWN[source.path]
    return _from_config(name, source.path)


def check_lora(key: str, lora: Lora | None, shape: Shape) -> None:
    """Refuse adapters on what is no linear layer of a model, or too large; a run looks at the model's own modules.

    Raises:
        UserError: a target names none, or the rank is more than the model's width.
    """
    if lora is None:
        return
    lora.check_rank(f"{key}.rank", shape.hidden)
    if lora.targets == "all-linear":
        return
    known = [*shape.linear, *([] if shape.tied else ["lm_head"])]
    for target in lora.targets:
        name = target.rpartition(".")[2]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`? " if near else ""
            remedy = f"{hint}use some of {', '.join(known)}, or all-linear"
            raise UserError(f"{key}.targets", target, "names no linear layer of the model", remedy)


def _vocabulary(name: str, source: ModelSource) -> int:
    """Tokens of a built model's tokenizer: the world's, or those that a folder's tokenizer.json holds."""
    if source.tokenizer == "world":
        return WORLD_VOCABULARY
    file = Path(source.tokenizer or "", "tokenizer.json")
    if not file.is_file():
        reason = "has no tokenizer.json on this machine, so the vocabulary is not known"
        raise UserError(f"models.{name}.tokenizer", source.tokenizer, reason, "give a local folder")
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(file)).get_vocab_size(with_added_tokens=True))


def _from_config(name: str, path: str) -> Shape:
    """The shape that a local folder, or what the hub's cache holds of a name, tells."""
    from transformers import AutoConfig

    key = f"models.{name}.path"
    named = path
    if Path(path, "adapter_config.json").is_file():
        from distill.models import base_of_adapter

        named = base_of_adapter(key, path) or path
    if named in KNOWN and not Path(named).is_dir():
        return KNOWN[named]
    try:
        config = AutoConfig.from_pretrained(named, local_files_only=True)
    except Exception as error:  # values of a wrong type in it may raise anything
        if Path(named, "config.json").is_file():
            words = str(error).strip().split("\n")[0][:200]
            reason = f"its config.json cannot be used ({words})"
            raise UserError(key, path, reason, "give the config.json that the weights came with") from None
        remedy = f"give a folder that holds its config.json, or one of: {', '.join(KNOWN)}"
        reason = "is neither in the table of shapes nor on this machine, and a plan fetches nothing"
        raise UserError(key, path, reason, remedy) from None
    if config.model_type not in ("qwen2", "qwen3", "llama"):
        reason = f"is a {config.model_type} model, whose costs are not modelled"
        raise UserError(key, path, reason, "use a llama, qwen2 or qwen3 model")
    try:
        return _shape(path, config)
    except (TypeError, ValueError, ArithmeticError) as error:
        reason = f"its config.json describes no model ({error})"
        raise UserError(key, path, reason, "give the config.json that the weights came with") from None


def _shape(name: str, config: Any) -> Shape:
    return Shape(
        name=name,
        family=config.model_type,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        context=context_of(config),
    )
