"""A prediction as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ctxsweep.planning.answers import Predicted
from ctxsweep.report import predict_words as words


def markdown(found: Predicted) -> str:
    """What was assumed, a table per model, reaches, crossings and remarks."""
    parts = [f"# {words.headline(found)}\n"]
    parts += [f"{line}\n" for line in words.assumptions(found)]
    for model in found.models:
        lines = [words.weights_line(found, model), *words.reach_lines(found, model)]
        rows = [words.row(cell) for cell in found.cells_of(model.name)]
        body = table(("context", "batch", *words.HEADS), rows)
        parts.append(f"## {model.name}\n\n" + "\n\n".join([*lines, body]))
    if words.crossing_lines(found):
        listed = "".join(f"- {line}\n" for line in words.crossing_lines(found))
        parts.append(f"## Where one overtakes another (of these bounds, not measured)\n\n{listed}")
    parts.append("## To know\n\n" + "".join(f"- {note}\n" for note in words.notes(found)))
    return "\n".join(parts)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table: the first column left, the others right."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    escaped = ([text.replace("|", "\\|") for text in line] for line in (heads, rule, *rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)
