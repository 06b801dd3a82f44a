"""A decision in the terminal, 80 columns wide: the answer first, then what it stands on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctxsweep.planning.advice.decision import Decision, EncoderAnswer, Ranked
from ctxsweep.planning.advice.decision_diff import DecisionChange, answer
from ctxsweep.planning.advice.needs import CRITERIA
from ctxsweep.report import advise_words as words
from ctxsweep.report.printer import Printer

MOST_ROWS = 10
MOST_EXCLUDED = 4
MOST_EVIDENCE = 2
HANGING = 2
HEADS = ("", "bits", "memory", "prefill", "token")


def print_decision(
    decision: Decision, console: Console | None = None, *, verbose: bool = False
) -> None:
    """Print the answer, why, and on what evidence; then table, rules and sensitivity."""
    console = console or Console()
    say = _Say(console)
    say.line(f"{decision.sentence}.", style="bold")
    say.line(f"{decision.because}.")
    say.line(f"Evidence: {decision.basis}.")
    say.line(f"Needs: {words.needs_line(decision)}.", style="dim")
    if decision.encoder is not None:
        _print_tree(say, decision.encoder)
    if decision.ranking:
        _print_ranking(say, console, decision, verbose)
    _print_suggestions(say, decision)
    _print_excluded(say, decision, verbose)
    _print_rules(say, decision, verbose)
    _print_sensitivity(say, decision, verbose)
    if verbose:
        _print_quality(say, decision)
    _print_end(say, decision, verbose)


def print_changes(
    old: Decision,
    new: Decision,
    changes: Sequence[DecisionChange],
    console: Console | None = None,
) -> None:
    """Print whether the answer stands, and all that is not as it was."""
    say = _Say(console or Console())
    was = f"on {old.made_at[:10]}"
    if answer(old) == answer(new):
        say.line(f"Still {answer(new)}, as {was}.", style="bold")
    else:
        say.line(f"{answer(new)} now, {was} it was {answer(old)}.", style="bold")
    say.line(f"{new.because}.")
    if not changes:
        say.line("Nothing else changed: needs, weights, figures and ranking are the same.")
    for kind in dict.fromkeys(change.kind for change in changes):
        say.head(kind.capitalize())
        say.items(change.text for change in changes if change.kind == kind)


class _Say(Printer):
    """Lines, headings and lists that keep their indent when they wrap."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._wide = console

    def head(self, text: str) -> None:
        """A heading, set apart."""
        self.line("")
        self.line(text, style="bold")

    def items(self, texts: Iterable[str], *, indent: int = 2, style: str = "") -> None:
        """``texts``, their further lines below the first."""
        for text in texts:
            lines = textwrap.wrap(
                self.text(text),
                width=self._wide.width,
                initial_indent=" " * indent,
                subsequent_indent=" " * (indent + HANGING),
                break_on_hyphens=False,
            )
            self.line("\n".join(lines), style=style)


def _print_ranking(say: _Say, console: Console, decision: Decision, verbose: bool) -> None:
    shown = [
        row
        for place, row in enumerate(decision.ranking)
        if verbose or place < MOST_ROWS or row.name == decision.take
    ]
    say.line("")
    table = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for head in (*HEADS, *(words.SHORT[name] for name in CRITERIA), "total"):
        table.add_column(head, justify="left" if head == "" else "right", no_wrap=head != "")
    for row in shown:
        style = "bold" if row.name == decision.take else ""
        cells = (say.text(text) for text in _cells(row, tied=row.name in decision.tie))
        table.add_row(*(Text(cell, style=style) for cell in cells))
    console.print(table)
    more = len(decision.ranking) - len(shown)
    if more:
        say.line(f"and {more} more (--verbose)", style="dim")
    if decision.tie:
        say.line(f"= {words.tie_line(decision)[0].lower()}{words.tie_line(decision)[1:]}")
    say.line(f"Compared: {decision.compared}.", style="dim")
    for line in words.size_lines(decision):
        say.items([line], indent=0, style="dim")
    for line in words.basis_lines(decision):
        say.line(line, style="dim")


def _cells(row: Ranked, *, tied: bool) -> tuple[str, ...]:
    figures = row.figures
    return (
        f"{'=' if tied else ''}{row.name}",
        words.bits(row),
        words.bytes_text(figures.memory_bytes.value),
        words.time_text(figures.prefill_s),
        words.time_text(figures.decode_s),
        *(words.score_text(row.scores[name]) for name in CRITERIA),
        words.total_text(row).replace(" ±0", "±"),
    )


def _print_tree(say: _Say, encoder: EncoderAnswer) -> None:
    say.head("The questions that led there")
    for step in encoder.steps:
        say.items([f"{step.question} {step.answer}. ({step.because})"])
    say.head("Otherwise")
    say.items(encoder.alternatives)
    if encoder.footprint:
        say.head("Footprint, by arithmetic")
        say.items(encoder.footprint)
    say.head("What this cannot know")
    say.items(encoder.caveats)


def _print_suggestions(say: _Say, decision: Decision) -> None:
    if decision.take is None and decision.suggestions:
        say.head("What would do, nearest first")
        say.items(f"{one.text}" for one in decision.suggestions)


def _print_excluded(say: _Say, decision: Decision, verbose: bool) -> None:
    if not decision.excluded:
        return
    say.head(f"Excluded: {words.excluded_counts(decision)}")
    # Of every need a few, so that the reasons are seen and not only the largest group.
    by_need: dict[str, list[str]] = {}
    for one in decision.excluded:
        by_need.setdefault(one.need, []).append(f"{one.name}: {one.reason}")
    each = max(1, MOST_EXCLUDED // len(by_need))
    shown = [line for lines in by_need.values() for line in (lines if verbose else lines[:each])]
    say.items(shown)
    more = len(decision.excluded) - len(shown)
    if more:
        say.items([f"and {more} more (--verbose)"], style="dim")


def _print_rules(say: _Say, decision: Decision, verbose: bool) -> None:
    if not decision.rules:
        return
    say.head("Rules, and what speaks for and against them")
    for rule in decision.rules:
        say.items([words.rule_line(rule)], style="" if rule.applies else "dim")
        ordered = sorted(rule.evidence, key=lambda e: not e.text.startswith("measured"))
        shown = ordered if verbose else ordered[:MOST_EVIDENCE]
        if not (rule.applies or verbose):
            shown = [one for one in shown[:1] if one.text.startswith("measured")]
        say.items(map(words.evidence_line, shown), indent=6, style="" if rule.applies else "dim")


def _print_sensitivity(say: _Say, decision: Decision, verbose: bool) -> None:
    lines = list(words.sensitivity_lines(decision))
    if not lines:
        return
    say.head(f"Weights: {words.weights_line(decision)}")
    say.items(lines if verbose else [line for line in lines if "no weight" not in line])


def _print_quality(say: _Say, decision: Decision) -> None:
    say.head("Quality: a proxy from facts, not a benchmark score")
    for row in decision.ranking:
        say.items([f"{row.name} ({row.family})"])
        say.items(words.parts_lines(row), indent=6)
        say.items([f"engines: {', '.join(row.engines) or 'none'}"], indent=6)
        say.items((*row.hopes, *row.remarks), indent=6)


def _print_end(say: _Say, decision: Decision, verbose: bool) -> None:
    if decision.would_change:
        say.head("What would change it")
        say.items(decision.would_change if verbose else decision.would_change[:4])
    say.line("")
    say.items((f"Assumed: {line}." for line in decision.assumptions), indent=0, style="dim")
