"""Our objective against TRL's on the same log-probabilities, for the settings that both have; skipped without TRL."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from test_losses import make_update

from distill.recipe_rl import Clip, Correction, Kl
from teacher.losses import Tokens, grpo_loss, token_weights

LIMIT = 11
CASES: list[dict[str, Any]] = [
    {"trl": {"loss_type": "grpo"}},
    {"trl": {"loss_type": "dapo", "epsilon_high": 0.28}, "aggregate": "token_mean", "clip": Clip(high=0.28)},
    {"trl": {"loss_type": "dr_grpo"}, "aggregate": "constant"},
    {"trl": {"loss_type": "grpo", "importance_sampling_level": "sequence"}, "ratio": "geometric"},
    {"trl": {"loss_type": "grpo", "beta": 0.04}, "kl": Kl(coefficient=0.04)},
    {"trl": {"loss_type": "grpo", "beta": 2.0, "bias": True}, "kl": Kl(coefficient=2.0, unbiased=True)},
    {
        "trl": {
            "loss_type": "cispo",
            "epsilon_high": 1.3,
        },  # TRL's is the bound itself, and there is none below
        "aggregate": "token_mean",
        "clip": Clip(kind="cispo", low=10, high=0.3),
    },
    {"trl": {"loss_type": "grpo", "vllm": True}, "correction": Correction(kind="truncate", limit=1.2)},
]


def theirs(
    settings: dict[str, Any], logprobs_BT: Any, old_BT: Any, reference_BT: Any, update: Any, mask_BT: Any
) -> Any:
    """TRL's loss of one whole batch; its trainer is made of what `_compute_loss` reads."""
    trl = pytest.importorskip("trl.trainer.grpo_trainer", reason="TRL is not installed")
    words = {
        "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2, "importance_sampling_level": "token", "bias": False,
        "vllm": False, **settings,
    }  # fmt: skip
    trainer = MagicMock()
    for name in ("beta", "epsilon_low", "epsilon_high", "importance_sampling_level", "loss_type"):
        setattr(trainer, name, words[name])
    trainer.configure_mock(
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=words["vllm"],
        vllm_importance_sampling_correction=True, max_completion_length=LIMIT, aux_loss_enabled=False,
        current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False, use_adaptive_entropy=False,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=words["bias"], steps_per_generation=1),
    )  # fmt: skip
    trainer.accelerator.num_processes = 1
    trainer.accelerator.gather.side_effect = lambda value: value
    trainer._get_per_token_logps_and_entropies.return_value = logprobs_BT, torch.zeros_like(logprobs_BT), None
    ratio_BT = torch.zeros_like(logprobs_BT)
    ratio_BT[mask_BT.bool()] = (update.old_N - update.sampler_N).exp().clamp(max=1.2)
    ids_BT = torch.zeros_like(mask_BT)
    inputs = {
        "prompt_ids": ids_BT[:, :1], "prompt_mask": ids_BT[:, :1] + 1, "completion_ids": ids_BT,
        "completion_mask": mask_BT, "advantages": update.advantages_B, "old_per_token_logps": old_BT,
        "ref_per_token_logps": reference_BT, "importance_sampling_ratio": ratio_BT,
        "num_items_in_batch": mask_BT.sum(),
    }  # fmt: skip
    return trl.GRPOTrainer._compute_loss(trainer, trainer.model, inputs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["trl"]))
def test_agrees_with_trl(case: dict[str, Any]) -> None:
    update = make_update(0.5)
    mask_BT = torch.zeros(len(update.lengths_B), int(update.lengths_B.max()), dtype=torch.long)
    for row, length in zip(mask_BT, update.lengths_B.tolist(), strict=True):
        row[:length] = 1

    def padded(values_N: torch.Tensor) -> torch.Tensor:
        found_BT = torch.zeros(mask_BT.shape, dtype=torch.float64)
        found_BT[mask_BT.bool()] = values_N
        return found_BT

    logprobs_BT = padded(update.logprobs_N).requires_grad_()
    told = theirs(case["trl"], logprobs_BT, padded(update.old_N), padded(update.reference_N), update, mask_BT)
    told.backward()
    logprobs_N = update.logprobs_N.clone().requires_grad_()
    kl = case.get("kl", Kl(coefficient=0))
    tokens = Tokens(
        logprobs_N, update.old_N, update.sampler_N, update.reference_N if kl.coefficient else None,
        update.advantages_B[update.owner_N],
        token_weights(update.lengths_B, case.get("aggregate", "sequence_mean"), LIMIT)[update.owner_N],
        update.owner_N,
    )  # fmt: skip
    terms = grpo_loss(
        tokens, ratio=case.get("ratio", "token"), clip=case.get("clip", Clip()), kl=kl,
        correction=case.get("correction"),
    )  # fmt: skip
    terms.loss.backward()
    assert float(terms.loss.detach()) == pytest.approx(float(told.detach()), rel=1e-12)
    torch.testing.assert_close(logprobs_N.grad, logprobs_BT.grad[mask_BT.bool()], rtol=1e-10, atol=1e-14)
