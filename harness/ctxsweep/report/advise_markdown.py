"""A decision record: Markdown to be read in a pull request, the whole decision at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ctxsweep.planning.advice.decision import Decision, EncoderAnswer, to_block
from ctxsweep.planning.advice.needs import CRITERIA
from ctxsweep.report import advise_words as words


def record_text(decision: Decision) -> str:
    """The record; ``decision.from_record`` reads its last block back."""
    sections = (
        _head(decision),
        *((_tree(decision.encoder),) if decision.encoder else ()),
        *((_ranking(decision), _alternatives(decision)) if decision.ranking else ()),
        _suggestions(decision),
        _excluded(decision),
        _rules(decision),
        _sensitivity(decision),
        _list("What would change the decision", decision.would_change),
        _list("Assumptions", (*decision.assumptions, *_conventions())),
        _made(decision),
        f"## For `ctxsweep advise --diff`\n\n{_folded('the whole decision', to_block(decision))}",
    )
    return "\n".join(section for section in sections if section)


def _head(decision: Decision) -> str:
    return (
        f"# {_plain(decision.sentence)}\n\n{_plain(decision.because)}.\n\n"
        f"**Evidence:** {_plain(decision.basis)}.\n\n"
        f"**Needs:** {_plain(words.needs_line(decision))}.\n"
    )


def _tree(encoder: EncoderAnswer) -> str:
    rows = [(step.question, step.answer, step.because) for step in encoder.steps]
    return (
        f"## The questions that led there\n\n{_table(('Question', 'Here', 'Why'), rows)}"
        f"\n{_list('Otherwise', encoder.alternatives)}"
        f"\n{_list('Footprint, by arithmetic', encoder.footprint)}"
        f"\n{_list('What this cannot know', encoder.caveats)}"
    )


def _ranking(decision: Decision) -> str:
    costs = ("architecture", "precision", "memory", "prefill", "a token", "request")
    weighted = (f"{name} ({decision.weights[name]:.2f})" for name in CRITERIA)
    heads = ("", *costs, *weighted, "total")
    rows = [
        (
            f"**{row.name}**" if row.name == decision.take else row.name,
            row.family,
            row.precision,
            words.bytes_text(row.figures.memory_bytes.value),
            words.time_text(row.figures.prefill_s),
            words.time_text(row.figures.decode_s),
            words.time_text(row.figures.request_s),
            *(f"{row.scores[name]:.2f}" for name in CRITERIA),
            words.total_text(row),
        )
        for row in decision.ranking
    ]
    tie = words.tie_line(decision)
    notes = [f"Compared: {decision.compared}.", *words.size_lines(decision)]
    notes += words.basis_lines(decision)
    text = "\n".join(f"- {_plain(note)}" for note in ([tie] if tie else []) + notes)
    return f"## Ranking\n\n{_table(heads, rows)}\n{text}\n"


def _alternatives(decision: Decision) -> str:
    lines = []
    for row in decision.ranking:
        figures = row.figures
        lines.append(f"- **{row.name}** ({_plain(row.family)}, {row.parameters / 1e9:.3g}B)")
        lines.append(f"  - prefill: {_plain(figures.prefill_s.source)}")
        lines.append(f"  - decode: {_plain(figures.decode_s.source)}")
        lines += [f"  - quality proxy, {_plain(line)}" for line in words.parts_lines(row)]
        lines.append(f"  - engines: {', '.join(row.engines) or 'none'}")
        lines += [f"  - {_plain(line)}" for line in (*row.hopes, *row.remarks)]
    body = "\n".join(lines) + "\n"
    return f"## Alternatives, and where each figure comes from\n\n{_folded('all of them', body)}"


def _suggestions(decision: Decision) -> str:
    return _list("What would do, nearest first", (one.text for one in decision.suggestions))


def _excluded(decision: Decision) -> str:
    if not decision.excluded:
        return ""
    rows = [(one.name, one.need, one.reason, words.rests_words(one)) for one in decision.excluded]
    table = _table(("", "fails", "figure and limit", "rests on"), rows)
    count = f"{len(rows)}: {words.excluded_counts(decision)}"
    return f"## Excluded\n\n{_folded(count, table)}"


def _rules(decision: Decision) -> str:
    lines = []
    for rule in decision.rules:
        lines.append(f"- {_plain(words.rule_line(rule))}")
        lines += [f"  - {_plain(words.evidence_line(evidence))}" for evidence in rule.evidence]
    return "## Rules\n\n" + "\n".join(lines) + "\n" if lines else ""


def _sensitivity(decision: Decision) -> str:
    lines = [f"weights: {words.weights_line(decision)}", *words.sensitivity_lines(decision)]
    return _list("Sensitivity to the weights", lines) if decision.sensitivity else ""


def _made(decision: Decision) -> str:
    commit = f", commit {decision.commit}" if decision.commit else ""
    runs = f"\nRuns: {', '.join(decision.runs)}.\n" if decision.runs else ""
    return (
        f"## How it was made\n\nOn {decision.made_at} by ctxsweep {decision.version}{commit}; "
        f"device: {_plain(decision.device.name)} ({_plain(decision.device.source)}).\n{runs}"
        f"\n```\n{decision.command}\n```\n"
    )


def _conventions() -> Iterator[str]:
    yield "scores and what they may err by are explained in docs/decide.md"
    yield "quality is a proxy from size, trained context, recall and precision: no benchmark score"


def _list(title: str, entries: Iterable[str]) -> str:
    body = "".join(f"- {_plain(entry)}\n" for entry in entries)
    return f"## {title}\n\n{body}" if body else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(_cell(c) for c in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text if text.startswith("**") or text == "---" else _plain(text)


def _folded(title: str, body: str) -> str:
    # The empty line is what makes Markdown of the body.
    return f"<details><summary>{title}</summary>\n\n{body}\n</details>\n"


def _plain(text: str) -> str:
    """Text that ends no cell, makes no tag and calls nobody."""
    one_line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return one_line.replace("|", "\\|").replace("@", "@&#8203;")
