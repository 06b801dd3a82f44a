"""Reading machine code: instructions by kind, loops, load widths (NVIDIA SASS, AMD GCN).

Only innermost loops are kept, since the time of a kernel is spent there. ptxas unrolls loops, so
what an iteration of the source costs is found by dividing by the matrix FLOPs, or the bytes, that
the loop holds (`figures.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from ctxsweep_kernels.static.loops import Flow, innermost, reachable

SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
SASS_LABEL = re.compile(r"^(\.L_x?_?\w+):")
UNIFORM_CONSTANT = re.compile(r"(UR\d+), 0x([0-9a-f]+)$")
TARGET = re.compile(r"\.L\w+")
DESCRIPTOR = re.compile(r"idesc\[(UR\d+)\]")
GCN = re.compile(r"^\t()((?:v|s|ds|global|flat|buffer|scratch)_\w+)\s*(.*)$")
GCN_LABEL = re.compile(r"^(\.LBB\w+):")

WIDE = 16  # bytes a lane
TMA_STANDS_FOR = 64 * WIDE

# The first kind whose pattern matches the opcode's beginning.
SASS_KINDS = {
    "tensor": r"HGMMA|HMMA|IMMA|QGMMA|QMMA|IGMMA|BGMMA|DMMA|OMMA|UTC\w*MMA",
    "exponential": r"MUFU",
    "convert": r"F2F|F2I|I2F|FRND|F2FP|I2FP|F2IP",
    "float": r"FFMA|FADD|FMUL|FMNMX|FSEL|FSET|FSWZ|HADD|HMUL|HFMA|HMNMX|HSET|DADD|DMUL|DFMA",
    "global load": r"LDG(?!DEPBAR)|UTMALDG|UBLKCP|LD\.",
    "global store": r"STG|UTMASTG|RED(?!UX)|UTMARED|ATOMG|ATOM|ST\.",
    "local (spill)": r"LDL|STL",
    "shared": r"LDS|STS|LDSM|STSM|ATOMS",
    "tensor memory": r"LDTM|STTM|UTCCP|UTCBAR|UTCATOMSWS",
    "shuffle": r"SHFL|REDUX|VOTE|MATCH|MOVM",
    "synchronise": r"BAR|SYNCS|DEPBAR|WARPSYNC|MEMBAR|FENCE|LDGDEPBAR|WARPGROUP|ARRIVES|ERRBAR"
    r"|CCTL|BSYNC|BSSY|NANOSLEEP|ELECT|WGM|USETMAXREG|UCGABAR|ACQBULK",
    "control": r"BRA|EXIT|CALL|RET|BRX|JMP|NOP|YIELD|BMOV|BREAK",
    "move": r"MOV|UMOV|CS2R|S2R|S2UR|R2UR|SEL|USEL|LDC|ULDC|LDCU|CS2UR|P2R|R2P|UP2UR|UR2UP|R2B",
    "integer": r".",
}
GCN_KINDS = {
    "tensor": r"v_mfma|v_smfmac",
    "exponential": r"v_(exp|log|rcp|rsq|sqrt|sin|cos)_",
    "convert": r"v_(pk_)?cvt",
    "float": r"v_(pk_)?(fma|mul|add|sub|max|min|max3|min3|mac|fmac|dot2)\w*_(f|bf)\d|v_dot2",
    "global load": r"(global|buffer|flat)_load",
    "global store": r"(global|buffer|flat)_(store|atomic)",
    "local (spill)": r"scratch_",
    "shared": r"ds_(read|write|load|store)",
    "shuffle": r"ds_(bpermute|permute|swizzle)|v_(read|write)lane|v_readfirstlane|v_mov.*dpp",
    "synchronise": r"s_(waitcnt|barrier|nop|sleep|setprio)",
    "control": r"s_(branch|cbranch|endpgm|setpc|call|swappc)",
    "move": r"v_mov|s_mov|v_accvgpr|v_cndmask|s_cselect|s_load",
    "integer": r".",
}


@dataclass(frozen=True)
class Instruction:
    """An opcode with its modifiers, such as `LDG.E.128`, and its operands.

    descriptor: of a tcgen05 matrix instruction, whose opcode does not tell its shape; 0 if unseen.
    """

    opcode: str
    operands: str
    kind: str
    descriptor: int = 0

    @property
    def load_bytes(self) -> int:
        """Bytes that each lane moves from or to global or shared memory; 0 for a TMA transfer."""
        if self.opcode.startswith(("UTMA", "UBLKCP")):
            return 0
        if self.opcode[0].islower():
            width = re.search(r"_(?:dword(?:x(\d))?|([us]?short)|([us]?byte))", self.opcode)
            if width is None:
                return 4
            return 2 if width[2] else 1 if width[3] else 4 * int(width[1] or 1)
        for suffix in self.opcode.split("."):
            if suffix in ("128", "64", "256"):
                return int(suffix) // 8
            if suffix in ("U16", "S16", "16"):
                return 2
            if suffix in ("U8", "S8", "8"):
                return 1
        return 4

    @property
    def is_global_load(self) -> bool:
        return self.kind == "global load"

    @property
    def is_tma(self) -> bool:
        return self.is_global_load and self.load_bytes == 0

    def matrix_flops(self, num_warps: int) -> float:
        """FLOPs of a matrix instruction, when all warps of the block have come to it.

        0 where its shape cannot be read.
        """
        if match := re.match(r"[HQI]GMMA\.(?:SP\.)?(\d+)x(\d+)x(\d+)", self.opcode):
            return _flops(match) * num_warps / 4  # four warps together make one
        if match := re.match(r"[HQI]MMA\.(?:SP\.)?(16)(8)(\d+)", self.opcode):
            return _flops(match) * num_warps
        if match := re.match(r"v_mfma_\w+?_(\d+)x(\d+)x(\d+)", self.opcode):
            return _flops(match) * num_warps
        if self.opcode.startswith(("UTCHMMA", "UTCQMMA")):  # one thread issues it for the block
            rows, columns = (self.descriptor >> 24 & 31) * 16, (self.descriptor >> 17 & 63) * 8
            return 2.0 * rows * columns * (16 if self.opcode.startswith("UTCH") else 32)
        return 0.0


def _flops(shape: re.Match[str]) -> float:
    return 2.0 * int(shape[1]) * int(shape[2]) * int(shape[3])


@dataclass(frozen=True)
class Code:
    """A stretch of machine code."""

    instructions: tuple[Instruction, ...]

    def __len__(self) -> int:
        return len(self.instructions)

    @cached_property
    def mix(self) -> dict[str, int]:
        """Instructions by kind, most frequent first."""
        return dict(Counter(i.kind for i in self.instructions).most_common())

    @cached_property
    def opcodes(self) -> dict[str, int]:
        """Instructions by the first part of their opcode, most frequent first."""
        return dict(Counter(i.opcode.split(".")[0] for i in self.instructions).most_common())

    @cached_property
    def load_widths(self) -> dict[int, int]:
        """Global loads by bytes per lane; 0 counts TMA transfers."""
        loads = [i.load_bytes for i in self.instructions if i.is_global_load]
        return dict(sorted(Counter(loads).items(), reverse=True))

    @property
    def loaded_bytes(self) -> int:
        """Bytes per lane that the global loads bring, TMA not counted."""
        return sum(width * count for width, count in self.load_widths.items())

    @property
    def moved_bytes(self) -> int | None:
        """Bytes per lane that global loads and stores move; None with TMA, which does not tell."""
        moves = [i for i in self.instructions if i.kind in ("global load", "global store")]
        sizes = [i.load_bytes for i in moves]
        return None if 0 in sizes else sum(sizes)

    def matrix_flops(self, num_warps: int) -> float:
        """FLOPs of the matrix instructions, all warps of a block together."""
        return sum(i.matrix_flops(num_warps) for i in self.instructions)

    @property
    def wide_share(self) -> float | None:
        """Share of the loaded bytes that comes 16 bytes a lane at a time, or by TMA.

        A TMA transfer brings a tile: it counts as much as 64 loads of 16 bytes. None: no loads.
        """
        loads = [
            TMA_STANDS_FOR if i.is_tma else i.load_bytes
            for i in self.instructions
            if i.is_global_load
        ]
        return sum(size for size in loads if size >= WIDE) / sum(loads) if loads else None


@dataclass(frozen=True)
class Listing:
    """All of a kernel's machine code, and its innermost loops in the order of their addresses."""

    whole: Code
    loops: tuple[Code, ...]

    @property
    def straight(self) -> int:
        """Instructions outside innermost loops."""
        return len(self.whole) - sum(map(len, self.loops))


def read(text: str, amd: bool) -> Listing:
    """Parse what `nvdisasm -c` or the AMD assembler wrote."""
    line, label, kinds = (GCN, GCN_LABEL, GCN_KINDS) if amd else (SASS, SASS_LABEL, SASS_KINDS)
    instructions: list[Instruction] = []
    predicated: list[bool] = []
    labels: dict[str, int] = {}
    constants: dict[str, int] = {}  # the last that each uniform register was given
    for row in text.splitlines():
        if found := label.match(row):
            labels[found[1]] = len(instructions)
        elif found := line.match(row):
            opcode, operands = found[2], found[3]
            descriptor = 0
            if opcode.startswith("UMOV") and (value := UNIFORM_CONSTANT.match(operands)):
                constants[value[1]] = int(value[2], 16)
            elif opcode.startswith("UTC") and (register := DESCRIPTOR.search(operands)):
                descriptor = constants.get(register[1], 0)
            instructions.append(Instruction(opcode, operands, _kind(opcode, kinds), descriptor))
            predicated.append(bool(found[1]))
    if not instructions:
        raise ValueError("there is no machine code in the listing")
    indirect = _indirect(instructions, labels)
    flows = [
        _flow(one, has_predicate, labels, indirect)
        for one, has_predicate in zip(instructions, predicated, strict=True)
    ]
    whole, *loops = (
        Code(tuple(instructions[i] for i in places))
        for places in (reachable(flows), *innermost(flows))
    )
    return Listing(whole, tuple(loops))


def _indirect(instructions: list[Instruction], labels: dict[str, int]) -> tuple[int, ...]:
    """Where jumps through a table may lead: labels that no branch names."""
    named = {label[0] for i in instructions if (label := TARGET.search(i.operands))}
    return tuple(place for label, place in labels.items() if label not in named)


def _flow(
    instruction: Instruction, predicated: bool, labels: dict[str, int], indirect: tuple[int, ...]
) -> Flow:
    opcode = instruction.opcode
    if opcode.startswith(("BRX", "JMX")):
        return Flow(indirect, predicated)
    if opcode.startswith(("EXIT", "RET", "s_endpgm", "s_setpc")):
        return Flow((), predicated)
    if not opcode.startswith(("BRA", "s_branch", "s_cbranch")):
        return Flow()  # a call comes back
    target = TARGET.search(instruction.operands)
    conditional = predicated or "," in instruction.operands or opcode.startswith("s_cbranch")
    place = labels.get(target[0]) if target else None
    return Flow(() if place is None else (place,), conditional)


def _kind(opcode: str, kinds: dict[str, str]) -> str:
    return next(kind for kind, pattern in kinds.items() if re.match(pattern, opcode))
