"""What a full training takes: FLOPs, and bytes of each device.

Mixed precision with Adam holds 16 bytes a parameter: weights and gradients in 16 bits, and in
float32 a copy of the weights and two moments (ZeRO, arXiv 1910.02054, section 3.1); in float32
alone it is 16 too. They are taken as shared out over the devices (its stage 3). LoRA and QLoRA,
which hold far less, are not planned for.
"""

from __future__ import annotations

from ctxsweep.planning.advice.candidates import Candidate
from ctxsweep.planning.advice.needs import Needs
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.footprint import activations_bytes

BYTES_A_PARAMETER = 16
BACKWARD = 3.0  # a step of training costs a forward pass and twice that backward
TOKENS_PER_PARAMETER = 20.0  # of a training from scratch: Chinchilla, arXiv 2203.15556
REFERENCE_PARAMETERS = 7e9
"""Without a budget, training a dense model of so many parameters scores 0.5: a convention."""


def training_bytes(candidate: Candidate, deployment: Deployment, context_tokens: int) -> int:
    """Bytes of each device while one sequence of the context is trained on.

    Of activations the inputs of all layers are kept and the rest is worked out again (arXiv
    1604.06174), which leaves one layer's at a time, twice for its gradients: an estimate.
    """
    config, ways = candidate.config, deployment.tensor_parallel
    states = BYTES_A_PARAMETER * candidate.parameters
    inputs = context_tokens * config.num_layers * config.hidden_size * deployment.plain_bytes
    whole = deployment.model_copy(update={"prefill_chunk": context_tokens, "batch_size": 1})
    return round((states + inputs) / ways) + 2 * activations_bytes(config, whole)


def training_flops(candidate: Candidate, needs: Needs, flops_per_token: float) -> float | None:
    """FLOPs of the training asked for, of one token where nobody said how many; None: no training.

    ``flops_per_token``: of a forward pass at the context.
    """
    if needs.training == "none":
        return None
    return BACKWARD * flops_per_token * tokens_of(needs, candidate.parameters)


def tokens_of(needs: Needs, parameters: float) -> float:
    """Tokens to train a model of so many parameters on; 1 where it is not known."""
    if needs.training_tokens is not None:
        return needs.training_tokens
    return TOKENS_PER_PARAMETER * parameters if needs.training == "scratch" else 1.0


def reference_flops(needs: Needs) -> float:
    """FLOPs that score 0.5: the budget, else those of a model of ``REFERENCE_PARAMETERS``."""
    if needs.training_budget is not None:
        return needs.training_budget
    forward = 2 * REFERENCE_PARAMETERS
    return BACKWARD * forward * tokens_of(needs, REFERENCE_PARAMETERS)
