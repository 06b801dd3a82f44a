"""What fits into a memory: order and limits."""

from __future__ import annotations

from ctxsweep.cli.fitting import ALL, models
from ctxsweep.models.catalog import load_config
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import device
from ctxsweep.planning.fitting import fit_table
from ctxsweep.planning.footprint import footprint, longest_context
from ctxsweep.report.predict_fit import headline, markdown, most_sequences

GB = 10**9


def table(*names: str, memory: int = 24 * GB, context: int = 8192, **deployment):
    configs = [load_config(name) for name in names]
    return fit_table(configs, memory, Deployment(**deployment), ALL, context)


def test_the_largest_models_come_first():
    found = table("mamba-130m", "llama-3-8b", "falcon-7b")
    assert [row.model for row in found.rows] == ["llama-3-8b", "falcon-7b", "mamba-130m"]


def test_fewer_bits_never_fit_less():
    for row in table("llama-3-8b", "llama-2-7b", "gemma-7b", "phi-2").rows:
        lengths = [fit.longest_context or 0 for fit in row.fits]
        batches = [fit.largest_batch for fit in row.fits]
        assert lengths == sorted(lengths) and batches == sorted(batches)


def test_the_figures_are_those_of_the_footprint():
    (row,) = table("llama-3-8b").rows
    for fit in row.fits:
        deployment = Deployment(weight_dtype=fit.weight_dtype)
        longest = longest_context(load_config("llama-3-8b"), deployment, 24 * GB)
        assert fit.longest_context == longest
        wide = deployment.model_copy(update={"batch_size": fit.largest_batch})
        held = footprint(load_config("llama-3-8b"), wide, 8192).total_bytes
        assert held <= 24 * GB * 0.9 < held + 8192 * 128 * 1024


def test_a_state_takes_any_context():
    (row,) = table("mamba-2.8b").rows
    assert [fit.longest_context for fit in row.fits] == [None] * 3


def test_what_does_not_fit_says_0_and_what_cannot_be_split_says_why():
    big, odd = table("falcon-180b", "falcon-7b", memory=80 * GB, tensor_parallel=8).rows
    assert [fit.longest_context == 0 for fit in big.fits] == [False] * 3
    assert odd.fits == () and "71 heads" in odd.problem
    (alone,) = table("falcon-180b", memory=80 * GB).rows
    assert [(fit.longest_context, fit.largest_batch) for fit in alone.fits] == [(0, 0)] * 3


def test_a_device_adds_the_least_time_where_it_fits():
    configs = [load_config("llama-3-8b")]
    found = fit_table(configs, 24 * GB, Deployment(), ALL, 65536, device("RTX-4090"))
    wide, *narrow = found.rows[0].fits
    assert wide.decode_s is None  # in 16 bits 64K tokens do not fit
    assert all(fit.decode_s for fit in narrow)
    assert narrow[1].decode_s < narrow[0].decode_s  # type: ignore[operator]


def test_all_published_shapes_are_listed_and_no_twins():
    assert "llama-3-8b" in models() and "rwkv7-2.9b" in models()
    assert not any(name.startswith("tiny-") or name.endswith("-like") for name in models())


def test_the_answer_is_of_models_that_were_trained_for_it():
    found = table("llama-3-8b", "llama-3.1-8b", "rwkv6-14b", context=32768)
    said = headline(found, found.rows)
    assert said.startswith("Into 24 GB fit, with 32K tokens, up to llama-3.1-8b in bf16.")
    assert "Trained for less: rwkv6-14b in int8." in said
    lone = table("llama-3-8b", context=32768)
    assert headline(lone, lone.rows).endswith("up to llama-3-8b in bf16: trained for less.")


def test_the_most_that_is_sought_is_not_printed_as_a_count():
    (row,) = table("mamba-130m", memory=2000 * GB).rows
    assert [most_sequences(fit) for fit in row.fits] == ["≥65,536"] * 3
    (row,) = table("llama-3-8b").rows
    assert [most_sequences(fit) for fit in row.fits] == ["4", "11", "14"]


def test_several_memories_keep_every_row_and_say_what_their_cells_are():
    tables = [table("falcon-180b", "llama-3-8b", memory=n * GB) for n in (24, 80)]
    text = markdown(tables)
    assert "in brackets how many sequences of 8K tokens fit at once" in text
    assert text.count("| falcon-180b | 179B | – | – |") == 3
    assert "states (float32)" in text
