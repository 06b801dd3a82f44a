"""Where each command stands in the help: twenty in one list are too many to choose from."""

from __future__ import annotations

import typer

PANELS = {
    "Measure": ("run", "rope", "report", "export", "query"),
    "Decide": ("inspect", "predict", "fit", "calibrate", "advise"),
    "Has it become slower": ("compare", "nightly", "selftest", "baseline", "history"),
    "Look up and prepare": ("check", "list", "doctor", "checkpoint", "fetch", "kernels", "schema"),
}


def arrange(app: typer.Typer) -> None:
    """Give every registered command its panel; a command without one is a ``KeyError``."""
    panel_of = {name: panel for panel, names in PANELS.items() for name in names}
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "")
        command.rich_help_panel = panel_of[name]
    for group in app.registered_groups:
        group.rich_help_panel = panel_of[str(group.name)]
