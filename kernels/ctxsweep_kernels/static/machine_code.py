"""Reading machine code: instructions by kind, loops, load widths (NVIDIA SASS, AMD GCN).

A loop is the stretch from a label to a branch back to it; only innermost loops are kept, since the
time of a kernel is spent there. ptxas unrolls loops, so what an iteration of the source costs is
found by dividing by the matrix FLOPs, or the bytes, that the loop holds.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
SASS_LABEL = re.compile(r"^(\.L_x?_?\w+):")
GCN = re.compile(r"^\t((?:v|s|ds|global|flat|buffer|scratch)_\w+)\s*(.*)$")
GCN_LABEL = re.compile(r"^(\.LBB\w+):")

# The first kind whose pattern matches the opcode's beginning.
SASS_KINDS = {
    "tensor": r"HGMMA|HMMA|IMMA|QGMMA|QMMA|IGMMA|BGMMA|DMMA|OMMA|UTC\w*MMA",
    "exponential": r"MUFU",
    "convert": r"F2F|F2I|I2F|FRND|F2FP|I2FP|F2IP",
    "float": r"FFMA|FADD|FMUL|FMNMX|FSEL|FSET|FSWZ|HADD|HMUL|HFMA|HMNMX|HSET|DADD|DMUL|DFMA",
    "global load": r"LDG|UTMALDG|UBLKCP|LD\.",
    "global store": r"STG|UTMASTG|RED|UTMARED|ATOMG|ATOM|ST\.",
    "local (spill)": r"LDL|STL",
    "shared": r"LDS|STS|LDSM|STSM|ATOMS",
    "tensor memory": r"LDTM|STTM|UTCCP|UTCBAR|UTCATOMSWS",
    "shuffle": r"SHFL|REDUX|VOTE|MATCH|MOVM|PRMT",
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
    "shuffle": r"ds_(bpermute|permute|swizzle)|v_perm|v_(read|write)lane|v_readfirstlane|v_mov.*dpp",
    "synchronise": r"s_(waitcnt|barrier|nop|sleep|setprio)",
    "control": r"s_(branch|cbranch|endpgm|setpc|call|swappc)",
    "move": r"v_mov|s_mov|v_accvgpr|v_cndmask|s_cselect|s_load",
    "integer": r".",
}


@dataclass(frozen=True)
class Instruction:
    """An opcode with its modifiers, such as `LDG.E.128`, and its operands."""

    opcode: str
    operands: str
    kind: str

    @property
    def load_bytes(self) -> int:
        """Bytes that each lane moves from or to global or shared memory; 0 for a TMA transfer."""
        if self.opcode.startswith(("UTMA", "UBLKCP")):
            return 0
        if match := re.search(r"dwordx(\d)", self.opcode):
            return 4 * int(match[1])
        if self.opcode[0].islower():
            return {"dword": 4, "ushort": 2, "short": 2, "ubyte": 1, "sbyte": 1, "byte": 1}.get(
                re.split(r"_d16|_hi", self.opcode.split("_")[-1] if "d16" not in self.opcode
                         else self.opcode.split("_")[2])[0], 4
            )  # fmt: skip
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
    def matrix_flops(self) -> float:
        """FLOPs that one warp's issue of a matrix instruction stands for; 0 where unknown."""
        if match := re.match(r"[HQ]GMMA\.(?:SP\.)?(\d+)x(\d+)x(\d+)", self.opcode):
            m, n, k = map(int, match.groups())
            return 2 * m * n * k / 4  # four warps issue one each
        if match := re.match(r"H?Q?I?MMA\.(?:SP\.)?(16)(8)(\d+)", self.opcode):
            m, n, k = map(int, match.groups())
            return 2.0 * m * n * k
        if match := re.match(r"v_mfma_f32_(\d+)x(\d+)x(\d+)", self.opcode):
            m, n, k = map(int, match.groups())
            return 2.0 * m * n * k
        return 0.0


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
        """Bytes per lane that the loop's global loads bring, TMA not counted."""
        return sum(width * count for width, count in self.load_widths.items())

    @property
    def matrix_flops(self) -> float:
        return sum(i.matrix_flops for i in self.instructions)


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
    labels: dict[str, int] = {}
    for row in text.splitlines():
        if found := label.match(row):
            labels[found[1]] = len(instructions)
        elif found := line.match(row):
            opcode, operands = found[1], found[2]
            instructions.append(Instruction(opcode, operands, _kind(opcode, kinds)))
    return Listing(
        Code(tuple(instructions)),
        tuple(Code(tuple(instructions[a:b])) for a, b in _loops(instructions, labels)),
    )


def _kind(opcode: str, kinds: dict[str, str]) -> str:
    return next(kind for kind, pattern in kinds.items() if re.match(pattern, opcode))


def _loops(instructions: list[Instruction], labels: dict[str, int]) -> list[tuple[int, int]]:
    spans: dict[int, int] = {}
    for index, instruction in enumerate(instructions):
        if not instruction.opcode.startswith(("BRA", "s_branch", "s_cbranch")):
            continue
        target = re.search(r"\.L\w+", instruction.operands)
        start = labels.get(target[0]) if target else None
        # A branch to itself is the padding after EXIT; a few instructions wait on a barrier.
        if start is not None and start < index:
            spans[start] = max(spans.get(start, 0), index + 1)
    return sorted(
        (a, b)
        for a, b in spans.items()
        if b - a >= SHORTEST_LOOP
        and not any((a, b) != (c, d) and a <= c and d <= b and d - c >= SHORTEST_LOOP
                    for c, d in spans.items())
    )  # fmt: skip


SHORTEST_LOOP = 12  # shorter ones spin on a barrier
