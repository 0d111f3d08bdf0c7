"""Bytes on one GPU, part by part: what training keeps, and what generation keeps.

Legend: P parameters, G GPUs, T tokens of a packed row, h hidden size, q and k widths of queries and keys, H heads,
f intermediate size, r rank of adapters, V vocabulary, L layers.

The counts of saved activations are exact: `tests/test_plan.py` counts the bytes that autograd saves in a real layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from distill.plan.architectures import Shape
from distill.plan.hardware import GIB
from distill.recipe_parts import Lora

#: What the head works on at a time, as `distill.training.logprobs` has it (importing that would load torch).
CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 512 << 20}
#: Context of CUDA, its libraries' workspaces and the buffers of NCCL: an estimate, not measured here.
OVERHEAD = {"cpu": GIB // 2, "cuda": 2 * GIB}
#: Bits of a weight in NF4 with double quantisation (Dettmers et al. 2023): 4 + 8/64 + 32/(64 * 256).
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
#: Two moments of AdamW: float32, or a byte each and a float32 for each block of 256 (Dettmers et al. 2021).
MOMENT_BYTES = {"float32": 8.0, "8bit": 2 * (1 + 4 / 256)}
#: What drawing a token keeps for each entry of the vocabulary: `distill.generate.local.draw`, line by line.
DRAW_BYTES = 40

Parts = dict[str, float]


@dataclass(frozen=True, slots=True)
class Training:
    """What the memory of one update depends on. ``row`` is T; ``weights`` is of full fine-tuning only."""

    shape: Shape
    row: int
    gpus: int
    device: Literal["cpu", "cuda"] = "cuda"
    method: Literal["full", "lora", "qlora"] = "full"
    lora: Lora = field(default_factory=Lora)
    activations: Literal["keep", "recompute", "offload"] = "keep"
    weights: Literal["float32", "bfloat16"] = "float32"
    moments: Literal["float32", "8bit"] = "float32"

    @property
    def adapted(self) -> dict[str, tuple[int, int]]:
        """In and out features of the linear layers that have adapters."""
        targets = self.lora.targets
        chosen = targets if targets == "all-linear" else [name.rpartition(".")[2] for name in targets]
        return {
            name: sizes
            for name, sizes in self.shape.linear.items()
            if chosen == "all-linear" or name in chosen
        }

    @property
    def trainable(self) -> int:
        """Weights that are trained: all, or the adapters' L * sum of r (in + out)."""
        if self.method == "full":
            return self.shape.parameters
        return self.shape.layers * sum(self.lora.rank * sum(sizes) for sizes in self.adapted.values())

    @property
    def residual(self) -> int:
        """Bytes of a number between the layers: autocast leaves float32 where the weights are float32."""
        full32 = self.method == "full" and self.weights == "float32"
        return 4 if full32 or self.device == "cpu" else 2


def training_parts(training: Training) -> Parts:
    """Bytes of each part on each GPU; their sum is what an update needs.

    weights, gradients and moments are sharded over all GPUs (FSDP2, fully sharded): bytes a parameter / G. What is in
    NF4 cannot be cut by FSDP2, so with qlora every GPU holds all of them.
    """
    shape, gpus = training.shape, 1 if training.method == "qlora" else training.gpus
    full = training.method == "full"
    number = 4 if not full or training.weights == "float32" or training.device == "cpu" else 2
    parts = {
        "weights": (shape.parameters * number if full else _frozen(training) + 4 * training.trainable) / gpus,
        "gradients": training.trainable * number / gpus,
        "moments": training.trainable * MOMENT_BYTES[training.moments] / gpus,
        "copies": _copies(training),
        "activations": activation_bytes(training),
        "head": head_bytes(training),
        "overhead": float(OVERHEAD[training.device]),
    }
    return parts


def _frozen(training: Training) -> float:
    """Weights under adapters: bf16 (float32 on the CPU); of qlora the layers' matrices in NF4."""
    shape, plain = training.shape, 4 if training.device == "cpu" else 2
    if training.method == "lora":
        return shape.parameters * plain
    return shape.matrices * NF4_BITS / 8 + (shape.parameters - shape.matrices) * plain


def _copies(training: Training) -> float:
    """Copies of weights that products are taken with.

    NF4 is unpacked one matrix at a time. One GPU: autocast keeps a bf16 copy of the layers' float32 matrices (2 bytes
    each). Several: FSDP2 gathers two layers and the outer weights in bf16, and an outer weight's gradient is whole in
    bf16 and float32 before it is scattered: 2 (2 layer + outer) + 6 max(layer, outer). Frozen weights have no gradient.
    """
    shape = training.shape
    if training.device == "cpu":
        return 0.0
    unpacked = 2 * max(inner * outer for inner, outer in shape.linear.values())
    if training.method == "qlora":
        return unpacked
    if training.gpus == 1:
        return 2 * shape.matrices if training.method == "full" and training.weights == "float32" else 0.0
    if training.method == "full":
        return 2 * (2 * shape.layer + shape.outer) + 6 * max(shape.layer, shape.outer)
    return 2 * (2 * shape.layer + shape.outer)


def layer_bytes(training: Training) -> int:
    """Bytes a token that autograd saves in one layer, attention being flash attention (no T x T matrix).

    Common: the two norms' factors 8, attention 4q + 4k and its normaliser 4H, the MLP 6f. Besides these:
      float32 masters: norms 16h, the five inputs of products that autocast casts 10h, inputs of o 2q and down 2f;
      bfloat16 alone: norms 12h, their outputs 4h (shared by the products), inputs 2q and 2f;
      adapters: norms 8h, and 2 in + 2r for each adapted product (a frozen product saves no input).
    On the CPU all is float32: norms 16h (8h where they are frozen), their outputs 8h, and each of the rest twice; there
    adapted products of one input share it. Qwen3 adds its norms of queries and keys: their inputs in float32, their
    results unless the norm is frozen, and a factor for each head.
    """
    shape = training.shape
    h, q, k, f = shape.hidden, shape.query_width, shape.key_width, shape.intermediate
    heads_normed = shape.heads + shape.kv_heads
    if training.device == "cpu":
        frozen = training.method != "full"
        norms = (8 if frozen else 16) * h
        if shape.qk_norm:
            norms += (4 if frozen else 8) * (q + k) + 4 * heads_normed
        inputs = _adapters_on_cpu(training) if frozen else 8 * h + 4 * q + 4 * f
        return norms + inputs + 8 + 8 * q + 8 * k + 4 * shape.heads + 12 * f
    common = 8 + 4 * q + 4 * k + 4 * shape.heads + 6 * f
    if shape.qk_norm:
        common += (6 if training.method == "full" else 4) * (q + k) + 4 * heads_normed
    if training.method != "full":
        adapters = sum(2 * inner + 2 * training.lora.rank for inner, _ in training.adapted.values())
        return common + 8 * h + adapters
    return common + 2 * q + 2 * f + (26 * h if training.weights == "float32" else 16 * h)


def _adapters_on_cpu(training: Training) -> int:
    """Inputs of adapted products, each once, and what the first half of each adapter gives; float32."""
    shape, adapted = training.shape, training.adapted
    shared = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "mlp", "up_proj": "mlp"}
    inputs = {shared.get(name, name): shape.linear[name][0] for name in adapted}
    return 4 * sum(inputs.values()) + 4 * training.lora.rank * len(adapted)


def activation_bytes(training: Training) -> float:
    """T times: what the layers keep, the gradients of one layer's activations, and the ends of the model.

    keep: L layers. recompute: L inputs and one layer. offload: two inputs (one on its way) and one layer; the others
    lie on the host. One layer's gradients are taken as 6f + 16h, the ends (last norm, head's input and its gradient) as
    16h.
    """
    shape = training.shape
    layer, inputs = layer_bytes(training), training.residual * shape.hidden
    kept = {
        "keep": shape.layers * layer,
        "recompute": shape.layers * inputs + layer,
        "offload": 2 * inputs + layer,
    }[training.activations]
    gradients = 6 * shape.intermediate + 16 * shape.hidden
    return float(training.row * (kept + gradients + 16 * shape.hidden))


def host_bytes(training: Training) -> float:
    """What offloading lays on the host for each GPU: T * L inputs."""
    if training.activations != "offload":
        return 0.0
    return float(training.row * training.shape.layers * training.residual * training.shape.hidden)


def head_bytes(training: Training) -> float:
    """The head makes logits in chunks: float32 and bf16 logits of one, its weight in bf16 (2Vh), and where it is
    trained the float32 gradient of this row (4Vh). Beyond one chunk, none of it grows with T."""
    chunk = min(CHUNK_BYTES[training.device], 4 * training.row * training.shape.vocabulary)
    trained = 4 * training.shape.embedding if training.method == "full" else 0
    if training.device == "cpu":
        return float(2 * chunk + trained)
    return 1.5 * chunk + 2 * training.shape.embedding + trained


def generation_parts(
    shape: Shape, rows: int, length: int, split: int, device: Literal["cpu", "cuda"]
) -> Parts:
    """Bytes on each of the ``split`` GPUs that hold one copy of the model.

    cache: rows * length * 2 L k numbers, as if every row ran to its limit; drawing: 40 bytes * rows * V.
    """
    number = 4 if device == "cpu" else 2
    return {
        "weights": shape.parameters * number / split,
        "cache": rows * length * shape.cache * number / split,
        "drawing": float(DRAW_BYTES * rows * shape.vocabulary),
        "overhead": float(OVERHEAD[device]),
    }
