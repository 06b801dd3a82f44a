"""Reading machine code, occupancy and bounds: short listings as nvdisasm and LLVM write them."""

from __future__ import annotations

import dataclasses

import pytest

from ctxsweep_kernels.static.bound import bound
from ctxsweep_kernels.static.case import Case, Work
from ctxsweep_kernels.static.compile import Compiled
from ctxsweep_kernels.static.devices import architectures, devices, limits_of
from ctxsweep_kernels.static.figures import Figures, measure, unrolled
from ctxsweep_kernels.static.machine_code import Code, read
from ctxsweep_kernels.static.occupancy import occupancy

# A loop that waits for a TMA transfer: the spin lies behind the exit and jumps back into the loop.
SASS = """
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   UMOV UR29, 0x8100490 ;
.L_x_0:
        /*0020*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR9+0x18200], R3 ;
        /*0030*/              @!P0 BRA `(.L_x_3) ;
.L_x_1:
        /*0040*/                   HGMMA.64x128x16.F32.BF16 R88, gdesc[UR12], R88 ;
        /*0050*/                   HGMMA.64x128x16.F32.BF16 R88, gdesc[UR12], R88 ;
        /*0060*/                   UTCHMMA gdesc[UR4], gdesc[UR6], tmem[UR12], tmem[UR28], idesc[UR29], UPT ;
        /*0070*/                   UTMALDG.2D [UR8], [UR4], desc[UR6] ;
        /*0080*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0090*/                   LDG.E R8, desc[UR4][R2.64+0x200] ;
        /*00a0*/                   LDGSTS.E.BYPASS.LTC128B.128 [R9], desc[UR4][R2.64] ;
        /*00b0*/                   LDGDEPBAR ;
        /*00c0*/                   MUFU.EX2 R8, R8 ;
        /*00d0*/                   F2FP.BF16.F32.PACK_AB R8, R9, R8 ;
        /*00e0*/                   REDUX.MAX UR5, R8 ;
        /*00f0*/                   FADD R8, R8, R8 ;
        /*0100*/                   ISETP.GE.AND P1, PT, R8, R9, PT ;
        /*0110*/              @!P1 BRA `(.L_x_0) ;
        /*0120*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*0130*/                   EXIT ;
.L_x_3:
        /*0140*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR9+0x18200], R3 ;
        /*0150*/              @!P0 BRA `(.L_x_3) ;
        /*0160*/                   BRA `(.L_x_1) ;
.L_x_4:
        /*0170*/                   BRA `(.L_x_4);
        /*0180*/                   NOP;
        /*0190*/                   NOP;
"""  # noqa: E501
GCN = """
	s_load_dwordx8 s[4:11], s[0:1], 0x8
	s_waitcnt lgkmcnt(0)
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
	v_lshl_add_u64 v[2:3], s[2:3], 0, v[0:1]
	global_load_dwordx4 v[2:5], v[2:3], off
	buffer_load_dword v6, v7, s[4:7], 0 offen
	global_load_ushort v8, v[2:3], off
	global_load_short_d16_hi v8, v[2:3], off
	ds_write_b128 v9, v[2:5]
	v_mfma_f32_32x32x8_bf16 v[32:47], v[48:49], v[92:93], 0
	v_exp_f32_e32 v9, v9
	v_cvt_pk_bf16_f32 v9, v9, v9
	v_pk_mul_f32 v[2:3], v[2:3], v[4:5]
	s_add_i32 s0, s0, 1
	s_cmp_lt_i32 s0, s6
	s_cbranch_scc1 .LBB0_1
; %bb.2:
	global_store_dwordx4 v[0:1], v[2:5], off
	s_endpgm
"""


def test_a_sass_listing_is_read():
    listing = read(SASS, amd=False)
    (loop,) = listing.loops
    # The loop with its spin, and neither the padding nor the branch to itself.
    assert len(loop) == 19 and len(listing.whole) == 23 and listing.straight == 4
    assert loop.mix == {
        "control": 4, "global load": 4, "tensor": 3, "synchronise": 3, "exponential": 1,
        "convert": 1, "shuffle": 1, "float": 1, "integer": 1,
    }  # fmt: skip
    assert loop.load_widths == {16: 2, 4: 1, 0: 1}
    assert loop.loaded_bytes == 36
    assert loop.wide_share == (2 * 16 + 1024) / (2 * 16 + 4 + 1024)
    # Two HGMMA by two warpgroups; one tcgen05 of 128 x 64 x 16, whose shape its descriptor holds.
    assert loop.matrix_flops(num_warps=8) == 2 * 2 * (2 * 64 * 128 * 16) + 2 * 128 * 64 * 16


def test_a_gcn_listing_is_read():
    (loop,) = read(GCN, amd=True).loops
    assert len(loop) == 13
    assert loop.mix["tensor"] == loop.mix["exponential"] == loop.mix["convert"] == 1
    assert loop.mix["float"] == loop.mix["shared"] == loop.mix["control"] == 1
    assert loop.load_widths == {16: 1, 4: 1, 2: 2}
    assert loop.matrix_flops(num_warps=4) == 4 * 2 * 32 * 32 * 8


def test_a_listing_without_code_says_so():
    with pytest.raises(ValueError, match="no machine code"):
        read("nvdisasm fatal : nothing", amd=False)


def loop_of(*opcodes: str) -> Code:
    rows = "".join(f"        /*{i:04x}*/   {opcode} ;\n" for i, opcode in enumerate(opcodes))
    end = f"        /*{len(opcodes):04x}*/   @P0 BRA `(.L_x_0) ;\n        /*ffff*/   EXIT ;\n"
    (loop,) = read(".L_x_0:\n" + rows + end, amd=False).loops
    return loop


def test_unrolling_is_seen_in_matrix_work():
    loop = loop_of(*["HMMA.16816.F32.BF16 R1, R2, R3, R1"] * 48)
    flops = 2 * 16 * 8 * 16 * 12 * 4  # of an iteration with 12 instructions in each of 4 warps
    work = Work("score", (64.0,), (8.0,), flops)
    assert unrolled(loop, 4, 32, work, 64.0) == (4, None)
    twice = dataclasses.replace(work, flops_per_iteration=flops * 4 / 1.5)
    assert unrolled(loop, 4, 32, twice, 64.0) == (
        1,
        "matrix work 1.50× that of an iteration",
    )


def test_matrix_work_that_bytes_do_not_share_is_done_repeatedly():
    opcodes = ["HMMA.1688.F32.TF32 R1, R2, R3, R1"] * 12 + ["LDG.E.128 R4, desc[UR4][R2.64]"]
    flops = 2 * 16 * 8 * 8 * 4 * 4  # as where a product of float32 is three of TF32
    loop, work = loop_of(*opcodes), Work("KiB", (2.0,), (8.0,), flops)
    assert unrolled(loop, 4, 32, work, 2.0) == (1, "matrix work 3.00× that of an iteration")


def test_unrolling_is_seen_in_loaded_bytes_where_no_matrix_work_is():
    loop = loop_of(*["LDG.E.128 R4, desc[UR4][R2.64]"] * 12)  # 2 KiB each in 4 warps
    given = Work("KiB", (2.0,), (8.0,), loaded_per_iteration=2 * 3 * 1024)
    assert unrolled(loop, 4, 32, given, 2.0) == (4, None)
    # Not given: what is loaded many times must not look cheap.
    factor, remark = unrolled(loop, 4, 32, Work("KiB", (2.0,), (8.0,)), 2.0)
    assert factor == 1
    assert remark == "bytes moved 12.00× that of an iteration"


def compiled(text: str, arch: str = "sm_90") -> Compiled:
    return Compiled(arch, text, "", 100, 0, 0, 0, 8)


def test_figures_are_per_unit_of_work():
    flops = 2 * 2 * (2 * 64 * 128 * 16) + 2 * 128 * 64 * 16
    # The listing's loop is two iterations: twice the matrix work, and 8 x 32 exponentials.
    work = Work("score", (128.0,), (10.0,), flops / 2)
    case = Case("x", lambda arch: [], ("steady",), lambda launch: work)
    figures = measure(case, "kernel", 0, compiled(SASS), work)
    assert figures.steady and figures.steady.unroll == 2
    assert figures.steady.per_unit == 19 * 8 / 256
    assert figures.steady.exponentials_per_unit == 1.0
    assert figures.per_unit == pytest.approx((4 + 19 / 2 * 10) * 8 / 1280)


def test_a_loop_that_the_compiler_unrolled_whole_is_remarked():
    work = Work("score", (1000.0, 1000.0), (10.0, 1.0))
    case = Case("x", lambda arch: [], ("steady", "diagonal"), lambda launch: work)
    figures = measure(case, "kernel", 0, compiled(SASS), work)
    assert [loop.name for loop in figures.loops] == ["steady"]
    assert figures.notes == ("1 loops where the source has 2",)


# Limits as the CUDA occupancy calculator gives them for the same figures.
@pytest.mark.parametrize(
    ("arch", "warps", "registers", "shared", "blocks", "limiter"),
    [
        ("sm_90", 4, 32, 0, 16, "warps"),
        ("sm_90", 8, 168, 0, 1, "registers"),
        ("sm_90", 4, 128, 0, 4, "registers"),
        ("sm_80", 4, 40, 48 * 1024, 3, "shared memory"),
        ("sm_80", 1, 32, 0, 32, "blocks"),
        ("sm_89", 8, 32, 0, 6, "warps"),
        ("sm_90", 8, 128, 227 * 1024, 1, "shared memory"),
        ("sm_90", 8, 128, 228 * 1024, 0, "shared memory"),
        ("gfx942", 4, 104, 0, 4, "registers"),
        ("gfx942", 4, 64, 33 * 1024, 1, "shared memory"),
    ],
)
def test_occupancy(arch, warps, registers, shared, blocks, limiter):
    limits = limits_of(arch)
    assert limits is not None
    held = occupancy(limits, warps, registers, shared)
    assert (held.blocks, held.limiter) == (blocks, limiter)
    assert held.warps == blocks * warps and held.share == held.warps / limits.warps


def test_every_device_is_whole_and_unknowns_stay_unknown():
    assert len(devices()) == 9
    assert architectures() == ("sm_80", "sm_90", "sm_100", "sm_89", "sm_120", "gfx942")
    assert devices()["A100"].fp8_flops_per_s is None
    for device in devices().values():
        assert device.clock_hz and isinstance(device.clock_hz, float), device.name


def steady(unit: str, per_unit: float, **fields: object) -> Figures:
    work = Work(unit, (1.0,), (1.0,))
    case = Case("x", lambda arch: [], ("steady",), lambda launch: work)
    figures = measure(case, "kernel", 0, compiled(SASS), work)
    loop = dataclasses.replace(figures.loops[0], per_unit=per_unit, **fields)
    return dataclasses.replace(figures, loops=(loop,))


def test_the_bound_names_the_busiest_pipe():
    h100 = devices()["H100"]
    tensor = bound(steady("score", 0.25, flops_per_unit=512.0, exponentials_per_unit=1.0), h100)
    assert tensor and tensor.bottleneck == "tensor"
    assert tensor.units_per_s == pytest.approx(989.4e12 / 512)
    assert tensor.share("issue") == pytest.approx(0.25 / 4 / (512 / 4096), rel=1e-3)
    issue = bound(steady("score", 1.0, flops_per_unit=512.0, exponentials_per_unit=1.0), h100)
    assert issue and issue.bottleneck == "issue"
    memory = bound(steady("KiB", 40.0, flops_per_unit=0.0, exponentials_per_unit=0.0), h100)
    assert memory and memory.bottleneck == "bytes"
    assert memory.units_per_s * 1024 == pytest.approx(3.35e12)


def test_a_pipe_of_unknown_rate_is_unknown():
    limit = bound(
        steady("score", 0.5, flops_per_unit=512.0, exponentials_per_unit=1.0), devices()["MI300X"]
    )
    assert limit and limit.clocks["issue"] is None and limit.clocks["exponential"] is None
    assert limit.bottleneck == "tensor" and limit.share("issue") is None
