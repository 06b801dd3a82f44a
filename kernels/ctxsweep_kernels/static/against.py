"""Somebody else's Triton kernels, compiled by the same tool: from a small YAML to a case.

A file holds `kernels`, a list of entries:

    name: vllm/prefill-window      # unique
    kernel: package.module:function, or FILE.py:function beside the YAML
    beside: window_prefill/bf16-*  # glob of our cases that it stands beside
    unit: score                    # or KiB, or update
    loops: [{name: steady, per_iteration: 512, trips: 128}]
    flops_per_iteration: 262144    # matrix FLOPs of one iteration, where there are any
    loaded_per_iteration: 4096     # bytes, where there are none
    units_outside_loops: 1         # for a kernel without loops
    num_warps: 4
    num_stages: 3
    arguments: {q: "*bf16", n: 4096, BLOCK: 128, dtype: tl.float16}

Arguments are given as a call would: a pointer by its type, a number by a value that the call would
pass (Triton specialises on 1 and on multiples of 16). Values that the kernel's own
`@triton.heuristics` gives need not be given; what `@triton.autotune` would choose must be.

A library that cannot be imported without a GPU is helped by two keys of the file: `bare`, packages
whose `__init__` is not run, and `stand_ins`, modules that are replaced: `{module: {name: target}}`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.static.case import Case, Unit, Work
from ctxsweep_kernels.static.compile import POINTERS

FOLDER = Path(__file__).with_name("against")
ENTRY_KEYS = {
    "name", "kernel", "beside", "unit", "loops", "flops_per_iteration", "units_outside_loops",
    "loaded_per_iteration", "num_warps", "num_stages", "options", "arguments", "note",
}  # fmt: skip
NEEDED = ("name", "kernel", "beside", "unit", "arguments")
TENSORS = {"*" + name: dtype for dtype, name in POINTERS.items()}


class AgainstError(ValueError):
    """A file or a name of `--against` is wrong; the message is one line and says which."""


@dataclass(frozen=True)
class Rival:
    """One entry: a kernel of another library with its configuration."""

    name: str
    kernel: str
    beside: str
    source: Path
    entry: Mapping[str, Any]
    bare: tuple[str, ...] = ()
    stand_ins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def case(self) -> Case:
        """The kernel as a case; it is imported here.

        Raises:
            AgainstError: it cannot be imported, or its arguments do not fit.
        """
        kernel, given = unwrapped(self._imported(), dict(self.entry["arguments"]), self.name)
        launch = Launch(
            kernel,
            (1,),
            {name: self._value(name, value) for name, value in given.items()},
            int(self.entry.get("num_warps", 4)),
            int(self.entry.get("num_stages", 3)),
            dict(self.entry.get("options", {})),
        )
        loops = self.entry.get("loops", [])
        work = Work(
            self.entry["unit"],
            tuple(float(loop["per_iteration"]) for loop in loops),
            tuple(float(loop["trips"]) for loop in loops),
            float(self.entry.get("flops_per_iteration", 0.0)),
            float(self.entry.get("units_outside_loops", 0.0)),
            float(self.entry.get("loaded_per_iteration", 0.0)),
        )
        names = tuple(loop["name"] for loop in loops)
        return Case(self.name, lambda arch: [launch], names, lambda launch: work)

    def _imported(self) -> Any:
        module_name, _, function = self.kernel.rpartition(":")
        try:
            if module_name.endswith(".py"):
                module = _module_of_file(self.source.parent / module_name)
            else:
                _prepare(self.bare, self.stand_ins)
                module = importlib.import_module(module_name)
            return getattr(module, function)
        except Exception as problem:  # importing runs somebody else's code
            text = str(problem).splitlines()[0] if str(problem) else ""
            if isinstance(problem, ModuleNotFoundError):
                text += "; install the library that it is from"
            raise AgainstError(
                f"{self.name}: {self.kernel} cannot be imported ({type(problem).__name__}: {text})"
            ) from problem

    def _value(self, name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.startswith("*"):
            if value not in TENSORS:
                known = ", ".join(TENSORS)
                raise AgainstError(f"{self.name}: argument {name}: {value!r} is none of {known}")
            return torch.empty(16, dtype=TENSORS[value], device="meta")
        if value.startswith("tl."):
            import triton.language as tl

            return getattr(tl, value[3:])
        return value


def unwrapped(kernel: Any, arguments: dict[str, Any], name: str) -> tuple[Any, dict[str, Any]]:
    """The `@triton.jit` function under autotune and heuristics, with the values of heuristics.

    Raises:
        AgainstError: an argument is missing, or is none of the kernel's.
    """
    from triton.runtime.autotuner import Autotuner, Heuristics
    from triton.runtime.jit import JITFunction

    rules: dict[str, Any] = {}
    while isinstance(kernel, Autotuner | Heuristics):
        rules |= getattr(kernel, "values", {}) if isinstance(kernel, Heuristics) else {}
        kernel = kernel.fn
    if not isinstance(kernel, JITFunction):
        raise AgainstError(f"{name}: this is a {type(kernel).__name__}, not a @triton.jit function")
    for parameter, rule in reversed(list(rules.items())):
        if parameter not in arguments:
            arguments[parameter] = rule(arguments)
    known = {parameter.name for parameter in kernel.params}
    if extra := sorted(set(arguments) - known):
        raise AgainstError(f"{name}: the kernel takes no argument {', '.join(extra)}")
    missing = [p.name for p in kernel.params if not p.has_default and p.name not in arguments]
    if missing:
        raise AgainstError(f"{name}: the kernel's arguments {', '.join(missing)} are not given")
    return kernel, arguments


def read_file(path: Path) -> list[Rival]:
    """The entries of a YAML.

    Raises:
        AgainstError: it cannot be read, or an entry is wrong.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise AgainstError(f"{path}: cannot be read ({problem})") from None
    except yaml.YAMLError as problem:
        first = str(problem).replace("\n", " ")
        raise AgainstError(f"{path}: is not YAML ({first})") from None
    if not isinstance(data, dict) or not isinstance(data.get("kernels"), list):
        raise AgainstError(f"{path}: a mapping with a list of `kernels` is wanted")
    bare = tuple(data.get("bare", ()))
    stand_ins = data.get("stand_ins", {})
    rivals = []
    for place, entry in enumerate(data["kernels"]):
        _check(path, place, entry)
        rivals.append(
            Rival(entry["name"], entry["kernel"], entry["beside"], path, entry, bare, stand_ins)
        )
    return rivals


def find(wanted: Sequence[str]) -> list[Rival]:
    """What `--against` asks for: `all`, a YAML's path, `module:kernel`, `FILE.py:kernel` (with
    FILE.yaml beside it), or a glob of the names in `static/against/`.

    Raises:
        AgainstError: nothing is of that name, or a file is wrong.
    """
    known = [rival for path in sorted(FOLDER.glob("*.yaml")) for rival in read_file(path)]
    found: dict[tuple[Path, str], Rival] = {}
    for one in wanted:
        chosen = _chosen(one, known)
        if not chosen:
            names = ", ".join(rival.name for rival in known)
            raise AgainstError(f"nothing to compare with is named {one!r}; there are: all, {names}")
        found |= {(rival.source, rival.name): rival for rival in chosen}
    return list(found.values())


def _chosen(wanted: str, known: list[Rival]) -> list[Rival]:
    if wanted == "all":
        return known
    if wanted.endswith((".yaml", ".yml")):
        return read_file(Path(wanted))
    module, _, function = wanted.rpartition(":")
    if module.endswith(".py"):
        path = Path(module)
        sought = f"{path.name}:{function}"
        return [one for one in read_file(path.with_suffix(".yaml")) if one.kernel == sought]
    return [one for one in known if one.kernel == wanted or fnmatchcase(one.name, wanted)]


def _check(path: Path, place: int, entry: Any) -> None:
    where = f"{path}: kernel {place + 1}"
    if not isinstance(entry, dict):
        raise AgainstError(f"{where}: a mapping is wanted")
    where = f"{path}: {entry.get('name', f'kernel {place + 1}')}"
    if missing := [key for key in NEEDED if key not in entry]:
        raise AgainstError(f"{where}: {', '.join(missing)} is missing")
    if extra := sorted(set(entry) - ENTRY_KEYS):
        raise AgainstError(f"{where}: {', '.join(map(str, extra))} is no key of an entry")
    if entry["unit"] not in get_args(Unit):
        units = ", ".join(get_args(Unit))
        raise AgainstError(f"{where}: unit is one of {units}, not {entry['unit']!r}")
    if ":" not in str(entry["kernel"]):
        raise AgainstError(f"{where}: kernel is written module:function or FILE.py:function")
    if not isinstance(entry["arguments"], dict):
        raise AgainstError(f"{where}: arguments is a mapping of names to types and values")
    for loop in entry.get("loops", []):
        if not isinstance(loop, dict) or set(loop) != {"name", "per_iteration", "trips"}:
            raise AgainstError(f"{where}: a loop has name, per_iteration and trips")


def _module_of_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"against_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _prepare(bare: Sequence[str], stand_ins: Mapping[str, Mapping[str, str]]) -> None:
    for name in bare:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError(f"there is no package {name}")
        package = ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = package
    for name, attributes in stand_ins.items():
        module = ModuleType(name)
        for attribute, target in attributes.items():
            setattr(module, attribute, importlib.import_module(target))
        sys.modules[name] = module
