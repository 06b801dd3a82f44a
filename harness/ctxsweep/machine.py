"""What a machine's folder is called: baselines and histories of equal machines lie together."""

from __future__ import annotations

import re

from ctxsweep.records import Environment

# What every maker writes into the name and nobody needs: marks, cores said twice.
_NOISE = re.compile(r"\((?:r|tm|c)\)|®|™|\b\d+-core\b|\b(?:processor|cpu|nvidia)\b", re.IGNORECASE)
_GRAPHICS = re.compile(r"\bwith\s.+$", re.IGNORECASE)


def machine_slug(environment: Environment) -> str:
    """``2-core-amd-epyc``, of a GPU ``h100-80gb-hbm3``: lower case letters, digits and dashes.

    The cores are those that the process may use. Threads, driver and versions are not in it: they
    change on one machine, and a comparison looks at them itself.
    """
    if environment.gpu:
        return _slug(environment.gpu) or "gpu"
    return f"{environment.physical_cores}-core-{_cpu_slug(environment.cpu_model) or 'cpu'}"


def _cpu_slug(name: str) -> str:
    """Without the graphics; the clock only where no model's number tells the machine apart."""
    model, _, clock = name.partition("@")
    slug = _slug(_GRAPHICS.sub(" ", model))
    if re.search("[0-9]", slug):
        return slug
    return _slug(f"{slug} {_GRAPHICS.sub(' ', clock)}")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", _NOISE.sub(" ", name).lower()).strip("-")
