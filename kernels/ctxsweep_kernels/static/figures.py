"""What is read from a kernel's machine code, per unit of its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.static.case import Case, Work
from ctxsweep_kernels.static.compile import Compiled, CompileFailed, compile_launch
from ctxsweep_kernels.static.devices import limits_of
from ctxsweep_kernels.static.machine_code import Code, Listing, read

STEADY = "steady"
KIB = 1024
MUCH = 1.25  # times an iteration's work that is worth a remark
WHOLE = 0.15  # how far from a whole number a ratio may lie that is one


@dataclass(frozen=True)
class LoopFigures:
    """One innermost loop.

    per_unit: warp instructions for a unit of work, unrolling divided out; None: units unknown.
    unroll: iterations of the source that the loop makes at once.
    flops_per_unit, exponentials_per_unit: matrix FLOPs; lanes through the exponential unit.
    """

    name: str
    instructions: int
    unroll: int
    per_unit: float | None
    flops_per_unit: float
    exponentials_per_unit: float
    matrix_kind: str  # "bf16", "fp8", "tf32", or "" without matrix work
    mix: dict[str, int]
    load_widths: dict[int, int]


@dataclass(frozen=True)
class Figures:
    """One launch of a case on one architecture. With `error`, all other figures are zero.

    per_unit: warp instructions for a unit of work, averaged over a program, straight-line code
        included.
    wide_share: share of loaded bytes that comes 16 bytes a lane at a time or by TMA.
    """

    case: str
    kernel: str
    launch: int
    arch: str
    unit: str = ""
    num_warps: int = 0
    registers: int = 0
    spilled_bytes: int = 0
    shared_bytes: int = 0
    tensor_memory_columns: int = 0
    instructions: int = 0
    straight: int = 0
    per_unit: float | None = None
    wide_share: float | None = None
    loops: tuple[LoopFigures, ...] = ()
    notes: tuple[str, ...] = ()
    goal: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def key(self) -> str:
        """The case, with the launch's number where it is not the first."""
        return self.case if self.launch == 0 else f"{self.case}#{self.launch + 1}"

    @property
    def steady(self) -> LoopFigures | None:
        """The loop in which the time is spent; None for a kernel without loops."""
        return next((loop for loop in self.loops if loop.name == STEADY), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a file."""
        return asdict(self)


def judge(case: Case, arch: str) -> list[Figures]:
    """Figures of every launch of a case; whatever fails becomes a row that says why."""
    try:
        launches = case.plan(arch)
    except Exception as problem:  # a plan is somebody's code, and one kernel is never the end
        return [Figures(case.name, "", 0, arch, error=in_a_line(problem))]
    return [_judge_launch(case, place, launch, arch) for place, launch in enumerate(launches)]


def _judge_launch(case: Case, place: int, launch: Launch, arch: str) -> Figures:
    name = str(getattr(launch.kernel, "__name__", launch.kernel))
    try:
        built = compile_launch(launch, arch)
        work = case.work(launch) if place == 0 else None
        return measure(case, name, place, built, work)
    except Exception as problem:  # as above
        return Figures(case.name, name, place, arch, error=in_a_line(problem))


def in_a_line(problem: Exception) -> str:
    """The sentence of a message that says why: Triton puts it after the source that it quotes."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip(" ^")]
    kind = "" if isinstance(problem, CompileFailed) else f"{type(problem).__name__}: "
    return kind + (lines[-1][:300] if lines else "no message")


def measure(case: Case, kernel: str, place: int, built: Compiled, work: Work | None) -> Figures:
    """Figures of compiled code; `work` is known of a case's first launch."""
    listing = read(built.text, built.is_amd)
    named, notes = _named(listing, case.loops, built.num_warps) if work else ([], ())
    limits = limits_of(built.arch)
    lanes = limits.warp_size if limits else (64 if built.is_amd else 32)
    loops, remarks = [], list(notes)
    for name, code, index in named:
        assert work is not None
        units = work.per_iteration[index]
        unroll, remark = unrolled(code, built.num_warps, lanes, work, units)
        remarks += [f"{name}: {remark}"] if remark else []
        loops.append(_loop(name, code, unroll, units, built.num_warps, lanes))
    return Figures(
        case=case.name,
        kernel=kernel,
        launch=place,
        arch=built.arch,
        unit=work.unit if work else "",
        num_warps=built.num_warps,
        registers=built.registers,
        spilled_bytes=built.spilled_bytes,
        shared_bytes=built.shared_bytes,
        tensor_memory_columns=built.tensor_memory_columns,
        instructions=len(listing.whole),
        straight=listing.straight,
        per_unit=_average(listing, named, loops, built.num_warps, work) if work else None,
        wide_share=listing.whole.wide_share,
        loops=tuple(loops),
        notes=tuple(remarks),
        goal=dict(case.goal) if place == 0 else {},
    )


def unrolled(
    code: Code, num_warps: int, lanes: int, work: Work, units: float
) -> tuple[int, str | None]:
    """Iterations of the source in one of the loop, and a remark where work is done repeatedly.

    Unrolling multiplies everything: the matrix FLOPs, the bytes, the exponentials. What multiplies
    only some of them is work done more than once, such as by warps that share a tile, and must not
    make a kernel look cheap; so the least multiple decides.
    """
    threads = lanes * num_warps
    flops, moved = code.matrix_flops(num_warps), (code.moved_bytes or 0) * threads
    multiples: dict[str, float] = {}
    if work.flops_per_iteration and flops:
        multiples["matrix work"] = flops / work.flops_per_iteration
    if work.loaded_per_iteration and code.loaded_bytes:
        loaded = code.loaded_bytes * threads
        multiples["bytes loaded"] = loaded / work.loaded_per_iteration
    elif work.unit == "KiB" and units and moved:
        multiples["bytes moved"] = moved / (KIB * units)
    exponentials = code.mix.get("exponential", 0) * threads
    if work.unit == "score" and units and exponentials:
        multiples["exponentials"] = exponentials / units
    sure = "matrix work" in multiples or "bytes loaded" in multiples
    unroll = _whole(min(multiples.values())) if sure else 1
    repeated = [
        f"{name} {ratio / unroll:.2f}×"
        for name, ratio in multiples.items()
        if ratio > unroll * MUCH and name != "exponentials"
    ]
    return unroll, f"{', '.join(repeated)} that of an iteration" if repeated else None


def _whole(ratio: float) -> int:
    nearest = max(1, round(ratio))
    return nearest if abs(ratio - nearest) <= WHOLE * nearest else max(1, int(ratio))


def _named(
    listing: Listing, names: Sequence[str], num_warps: int
) -> tuple[list[tuple[str, Code, int]], tuple[str, ...]]:
    """The loops that do the work, by their names, and their places among the names.

    A compiler may unroll a short loop whole, which then counts as straight-line code, or make
    small loops of its own.
    """
    found = list(listing.loops)
    if len(found) > len(names):
        busy = [code for code in found if code.matrix_flops(num_warps) or code.load_widths]
        found = busy if len(busy) == len(names) else found
    if len(found) == len(names):
        return [
            (name, code, i) for i, (name, code) in enumerate(zip(names, found, strict=True))
        ], ()
    remark = f"{len(found)} loops where the source has {len(names)}"
    if not found or STEADY not in names:
        return [], (remark,)
    heaviest = max(found, key=lambda code: (code.matrix_flops(num_warps), len(code)))
    return [(STEADY, heaviest, list(names).index(STEADY))], (remark,)


def _loop(
    name: str, code: Code, unroll: int, units: float, num_warps: int, lanes: int
) -> LoopFigures:
    done = units * unroll
    exponentials = code.mix.get("exponential", 0) * num_warps * lanes
    return LoopFigures(
        name=name,
        instructions=len(code),
        unroll=unroll,
        per_unit=len(code) * num_warps / done if done else None,
        flops_per_unit=code.matrix_flops(num_warps) / done if done else 0.0,
        exponentials_per_unit=exponentials / done if done else 0.0,
        matrix_kind=_matrix_kind(code),
        mix=code.mix,
        load_widths=code.load_widths,
    )


def _matrix_kind(code: Code) -> str:
    opcodes = " ".join(i.opcode.upper() for i in code.instructions if i.kind == "tensor")
    if not opcodes:
        return ""
    if "E4M3" in opcodes or "E5M2" in opcodes or "FP8" in opcodes or "QMMA" in opcodes:
        return "fp8"
    return "tf32" if "TF32" in opcodes else "bf16"


def _average(
    listing: Listing,
    named: list[tuple[str, Code, int]],
    loops: list[LoopFigures],
    num_warps: int,
    work: Work,
) -> float | None:
    if not work.units:
        return None
    inside = sum(
        len(code) / loop.unroll * work.trips[index]
        for (_, code, index), loop in zip(named, loops, strict=True)
    )
    outside = len(listing.whole) - sum(len(code) for _, code, _ in named)
    return (outside + inside) * num_warps / work.units
