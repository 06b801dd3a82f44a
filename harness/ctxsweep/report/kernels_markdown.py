"""The kernels' bench as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ctxsweep.report.kernels_beside import RATIO_TITLES, RIVAL_TITLES, ratio_rows, rival_rows
from ctxsweep.report.kernels_goals import architectures, goals
from ctxsweep.report.kernels_table import Cell, Data, columns_of, rows_of


def markdown(data: Data, devices: Sequence[tuple[str, str]]) -> str:
    """All tables as Markdown; devices by name and architecture."""
    parts = [f"Compiled with Triton {data['triton']}; wi = warp instructions.\n"]
    if held := goals(data):
        rows = [
            (goal.case, f"{goal.what} ≤ {goal.most:g}", *(cell.text for cell in goal.found))
            for goal in held
        ]
        titles = ("kernel", "goal", *architectures(data))
        parts.append(f"## Goals\n\n{_markdown(titles, rows)}")
    for device, arch in devices:
        rows = rows_of(data, device, arch)
        columns = columns_of(rows)
        titles = ("kernel", *(column.title for column in columns), *([] if columns else ["error"]))
        body = []
        for row in rows:
            if row.error:
                body.append((row.case, f"does not compile: {row.error}", *[""] * (len(titles) - 2)))
                continue
            cells = (row.cells[column.name] for column in columns)
            body.append((row.case, *(_with_note(cell) for cell in cells)))
        parts.append(f"## {f'{device} ({arch})' if device else arch}\n\n{_markdown(titles, body)}")
    if ratios := ratio_rows(data):
        parts.append(f"## Beside other libraries\n\n{_markdown(RATIO_TITLES, ratios)}")
    if rivals := rival_rows(data):
        parts.append(f"## Other libraries' kernels\n\n{_markdown(RIVAL_TITLES, rivals)}")
    if data["problems"]:
        problems = list(data["problems"].items())
        parts.append(f"## Not judged\n\n{_markdown(('what', 'why'), problems)}")
    return "\n".join(parts)


def _with_note(cell: Cell) -> str:
    return f"{cell.text} ({cell.note})" if cell.note else cell.text


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    escaped = ([text.replace("|", "\\|") for text in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)
