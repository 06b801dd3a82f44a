"""The table of devices: sources, sense, and agreement with the kernels' table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxsweep.planning.devices import UnknownDevice, device, device_names, this_machine
from ctxsweep.records import Ceilings
from ctxsweep_kernels.static.devices import devices as kernels_devices


@pytest.mark.parametrize("name", device_names())
def test_every_device_is_sensible_and_has_a_source(name):
    held = device(name)
    assert held.name == name and held.source and not held.measured
    assert 8e9 <= held.memory_bytes <= 1e12
    assert 1e11 <= held.read_bytes_per_s <= 2e13
    rates = held.flops_per_s
    assert set(rates) <= {"float32", "bfloat16", "float16", "fp8", "int8"}
    assert rates["float32"] < rates["float16"]
    assert rates.get("bfloat16", rates["float16"]) == rates["float16"]
    # 8-bit units are twice as fast as 16-bit ones, four times on consumer cards and their kin.
    for narrow in ("fp8", "int8"):
        ratio = rates.get(narrow, 2 * rates["float16"]) / rates["float16"]
        assert 1.99 < ratio < 4.01
    assert held.board_power_w is None or 50 < held.board_power_w < 2000
    assert held.link_bytes_per_s is None or held.link_bytes_per_s < held.read_bytes_per_s


def test_it_agrees_with_the_kernels_table_where_both_have_a_figure():
    compared = 0
    for name, kernel in kernels_devices().items():
        if name not in device_names():
            continue
        held = device(name)
        pairs = (
            (kernel.memory_bytes_per_s, held.read_bytes_per_s),
            (kernel.bf16_flops_per_s, held.flops_per_s.get("bfloat16")),
            (kernel.fp8_flops_per_s, held.flops_per_s.get("fp8")),
        )
        for theirs, ours in pairs:
            assert theirs == ours, name
            compared += theirs is not None
    assert compared >= 20


@pytest.mark.parametrize("spelt", ["h100", "H100-SXM", "h100 sxm", "H100_80GB"])
def test_names_are_found_however_they_are_spelt(spelt):
    assert device(spelt).name == "H100"


def test_every_alias_belongs_to_one_device():
    assert device("rtx 4090") is device("GeForce RTX 4090") is device("RTX-4090")
    assert device("A100-40GB").memory_bytes < device("A100-80GB").memory_bytes


def test_an_unknown_device_is_told_the_nearest():
    with pytest.raises(UnknownDevice, match=r"no device is named 'H10O'; did you mean 'H100'\?"):
        device("H10O")


@given(st.text(max_size=20))
def test_any_name_is_a_device_or_a_message_of_one_line(name):
    try:
        assert device(name).name in device_names()
    except UnknownDevice as error:
        assert "There are: " in str(error)


def test_this_machine_has_its_measured_ceilings():
    ceilings = Ceilings(
        device="cpu",
        threads=2,
        matmul_flops_per_s={"float32": 1e11, "bfloat16": 6e11, "float16": 5e10},
        read_bytes_per_s=7e9,
    )
    held = this_machine(ceilings, 1 << 34)
    assert held.measured and held.board_power_w is None
    assert held.memory_bytes == 1 << 34 and held.read_bytes_per_s == 7e9
    assert held.flops_per_s["bfloat16"] == 6e11 and "2 threads" in held.source
