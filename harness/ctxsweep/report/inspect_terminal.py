"""What a model is, in a terminal of 80 columns: the answer first, then the tables behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctxsweep.planning.inspection.inspected import (
    EncoderInspection,
    Inspection,
    Part,
    PublishedCount,
    RuleOfThumb,
)
from ctxsweep.report.printer import Printer
from ctxsweep.report.units import BYTES, PLAIN, TOKENS, Unit

COUNT = Unit("parameters", ((1.0, ""), (1e3, " k"), (1e6, " M"), (1e9, " B"), (1e12, " T")))
FLOP = Unit("FLOP", tuple((1e3**i, f" {step}FLOP") for i, step in enumerate(("", *"kMGTPEZ"))))
SMALL = 0.001
"""Steps of the rule of thumb below this share of the parameters stand in one line together."""


def print_inspection(found: Inspection, console: Console | None = None) -> None:
    """Print the answer, parameters, cache, FLOPs and what changes with context and size."""
    page = _Page(console or Console())
    model = f"{found.parameters:,}" if found.parameters < 1e6 else COUNT.text(found.parameters)
    shape = found.shape
    if page.console.options.ascii_only:
        shape = shape.replace("θ=", "base ")
    page.say.line(f"{found.name}: {shape}; {model} parameters{_beside(found)}", "bold")
    page.parts(found.parts, found.parameters, found.weights_bytes, found.dtype)
    page.rule(found.rule)
    _print_cache(page, found)
    _print_lengths(page, found)
    _print_growth(page, found)
    _print_sizes(page, found)
    page.remarks((*found.remarks, _source(found.source)))


def print_encoder(found: EncoderInspection, console: Console | None = None) -> None:
    """Print the answer, the parameters, and what inputs ask for."""
    page = _Page(console or Console())
    said = _published(found.published, found.parameters)
    counted = f"{COUNT.text(found.parameters)} parameters{f' ({said})' if said else ''}"
    page.say.line(f"{found.name}: {found.shape}; {counted}", "bold")
    page.parts(found.parts, found.parameters, found.weights_bytes, found.dtype)
    page.rule(found.rule)
    writes = found.token_bytes > 0
    page.title(f"Inputs{_batch(found.batch_size)}")
    heads = ["input", "activations", "FLOPs to read"] + (
        ["cross-attention cache"] if writes else []
    )
    rows = []
    for row in found.rows:
        cells = [TOKENS.text(row.input_tokens), BYTES.text(row.activations_bytes)]
        cells.append(FLOP.text(row.encode_flops))
        rows.append(cells + ([BYTES.text(row.cross_cache_bytes)] if writes else []))
    page.table(heads, rows)
    if writes:
        page.say.line(
            f"Each written token: {BYTES.text(found.token_bytes)} of cache, "
            f"{FLOP.text(found.token_flops)} and what it reads of the input."
        )
    remarks = ["It has no decode over a growing context: its footprint is known, it is not swept."]
    if found.inputs_left_out and found.longest_input is not None:
        remarks.append(f"The table of positions ends at {found.longest_input:,} tokens.")
    page.remarks((*remarks, *found.remarks, _source(found.source)))


class _Page:
    """Titles, tables and remarks of one look."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.say = Printer(console)

    def title(self, text: str) -> None:
        self.say.line("")
        self.say.line(text, "bold")

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
        """Text to the left in the first ``left`` columns, figures to the right."""
        table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
        table.add_column("")
        for i, head in enumerate(heads):
            table.add_column(self.say.text(head), justify="left" if i < left else "right")
        for row in rows:
            table.add_row("", *(Text(self.say.text(cell)) for cell in row))
        table.show_header = any(heads)
        self.console.print(table)

    def parts(self, parts: Sequence[Part], total: int, size: int, dtype: str) -> None:
        self.title(f"Parameters: {BYTES.text(size)} in {dtype}")
        shown = [p for p in parts if p.parameters]
        rows = [(p.name, f"{p.parameters:,}", _percent(p.parameters / total)) for p in shown]
        if any(p.name == "head" and not p.parameters for p in parts):
            rows.append(("head", "the embedding", ""))
        self.table(("", "", ""), [*rows, ("total", f"{total:,}", "")])

    def rule(self, rule: RuleOfThumb) -> None:
        side = "above" if rule.error > 0 else "below"
        words = f"is {_percent(abs(rule.error))} {side} the exact count"
        if not rule.steps:
            words = "is the exact count"
        self.title(f"Rule of thumb: 12·L·d² = {COUNT.text(rule.estimate)} {words}")
        large = [s for s in rule.steps if abs(s.parameters) >= SMALL * rule.exact]
        small = [s for s in rule.steps if s not in large]
        rows = [(_signed(s.parameters), s.name) for s in large]
        if small:
            names = "; ".join(s.name for s in small)
            rows.append((_signed(sum(s.parameters for s in small)), names))
        table = Table(box=None, pad_edge=False, collapse_padding=True, show_header=False)
        table.add_column("")
        table.add_column(justify="right", no_wrap=True)
        table.add_column()
        for count, name in rows:
            table.add_row("", Text(self.say.text(count)), Text(self.say.text(name)))
        self.console.print(table)

    def remarks(self, remarks: Iterable[str]) -> None:
        self.say.line("")
        for remark in remarks:
            if remark:
                self.say.line(remark, "dim")


def _beside(found: Inspection) -> str:
    notes = []
    if found.active_parameters < found.parameters:
        notes.append(f"{COUNT.text(found.active_parameters)} active")
    if found.active_parameters > found.parameters:
        notes.append(f"{COUNT.text(found.active_parameters)} with shared weights as often as used")
    if said := _published(found.published, found.parameters):
        notes.append(said)
    return f" ({'; '.join(notes)})" if notes else ""


def _published(said: PublishedCount | None, counted: int) -> str:
    if said is None:
        return ""
    figure, agrees = f"{said.parameters:,}", "equal"
    if said.rounded_to > 1:
        figure, agrees = f"about {COUNT.text(said.parameters)}", "agrees"
    if said.equal:
        return f"published {figure}: {agrees}"
    if said.head_apart:
        return f"published {figure}: equal with the tied head counted apart"
    off = counted / said.parameters - 1
    return f"published {figure}: {_percent(abs(off))} {'more' if off > 0 else 'fewer'}"


def _print_cache(page: _Page, found: Inspection) -> None:
    first = found.cache[0]
    grows = first.bytes_per_token > 0
    what = f"Cache: {BYTES.text(first.bytes_per_token)} a token" if grows else "State"
    if first.fixed_bytes:
        held = BYTES.text(first.fixed_bytes)
        what += f", and {held} of state" if grows else f": {held}, the same at every length"
    if grows and first.most_bytes is not None:
        what += f", {BYTES.text(first.most_bytes)} at most (window {found.window:,})"
    page.title(what + _batch(found.batch_size))
    if not grows:
        return
    rows = []
    for row in found.cache:
        kind = found.dtype if row.kv_dtype == "auto" else row.kv_dtype
        rows.append((kind, BYTES.text(row.bytes_per_token), *map(BYTES.text, row.at_bytes)))
    page.table(("", "a token", *map(TOKENS.text, found.contexts)), rows)


def _print_lengths(page: _Page, found: Inspection) -> None:
    token = found.token
    more = ""
    if token.flops_per_context_token:
        seen = "in its window" if found.window else "before it"
        more = f" + {FLOP.text(token.flops_per_context_token)} for each token {seen}"
    batch = _batch(found.batch_size)
    page.title(f"Arithmetic{batch}: a token takes {FLOP.text(token.forward_flops)}{more}")
    rows = [
        (
            TOKENS.text(row.context_tokens),
            FLOP.text(row.prefill_flops),
            _percent(row.attention_share),
            FLOP.text(row.decode_flops),
            BYTES.text(row.decode_bytes),
            PLAIN.text(row.decode_intensity),
        )
        for row in found.lengths
    ]
    heads = ("context", "prefill", "attention", "decode step", "decode bytes", "FLOP/byte")
    page.table(heads, rows)
    off = token.training_rule_flops / token.training_flops - 1
    chosen = " (N active)" if found.active_parameters < found.parameters else ""
    page.say.line(
        f"Training, a token: 6·N = {FLOP.text(token.training_rule_flops)}{chosen}; exactly "
        f"{FLOP.text(token.training_flops)} at {TOKENS.text(token.training_context)} "
        f"(the rule is {_percent(abs(off))} {'high' if off > 0 else 'low'})."
    )


def _print_growth(page: _Page, found: Inspection) -> None:
    page.title(f"What a longer context changes, from {TOKENS.text(found.base_context)}")
    rows = []
    for row in found.growth:
        unit = FLOP if row.unit == "FLOPs" else BYTES
        name = "FLOPs of a prefill" if row.what == "prefill" else row.what
        rows.append((name, unit.text(row.base), *(_times(f) for f in row.factors.values())))
    factors = [f"{factor}× the context" for factor in found.growth[0].factors]
    page.table(("", TOKENS.text(found.base_context), *factors), rows)


def _print_sizes(page: _Page, found: Inspection) -> None:
    page.title(
        f"What a larger model of the same make changes, at {TOKENS.text(found.base_context)}"
    )
    first = found.sizes[0]
    rows = []
    for row in found.sizes:
        one = row.factor == 1
        name = "this" if one else f"{row.factor:g}×"
        figures = [
            (row.cache_bytes, first.cache_bytes, BYTES),
            (row.decode_bytes, first.decode_bytes, BYTES),
            (row.prefill_flops, first.prefill_flops, FLOP),
        ]
        cells = [unit.text(now) if one else _times(now / base) for now, base, unit in figures]
        rows.append((name, row.shape, COUNT.text(row.parameters), *cells))
    page.table(("", "layers × width", "parameters", "cache", "decode", "prefill"), rows, left=2)
    if len(found.sizes) < 3:
        page.say.line("No larger size keeps these ratios and comes near.", "dim")


def _source(source: str) -> str:
    return f"Shape from: {source}" if source else ""


def _batch(size: int) -> str:
    return f" (batch {size})" if size > 1 else ""


def _percent(share: float) -> str:
    return "< 0.1%" if 0 < share < 1e-3 else f"{share:.1%}"


def _times(factor: float) -> str:
    return f"×{PLAIN.text(factor)}"


def _signed(count: int) -> str:
    return f"{'+' if count > 0 else '−'}{COUNT.text(abs(count))}"
