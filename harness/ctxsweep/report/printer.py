"""Text for the terminal, in the characters that it can show."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


class Printer:
    """Prints text as it is, in the characters that the output can show."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ascii = console.options.ascii_only

    def text(self, text: str) -> str:
        """``text``, spelled in ASCII where need be."""
        if not self._ascii:
            return text
        spelled = {"²": "^2", "→": "->", "×": "x", "µ": "u", "–": "-", "−": "-", "·": "*", "✕": "x"}
        spelled |= {"Δ": "d", "±": "+-", "✓": "ok", "≤": "<=", "≥": ">="}
        for character, plain in spelled.items():
            text = text.replace(character, plain)
        return text.encode("ascii", "replace").decode()

    def line(self, text: str, style: str = "") -> None:
        """Print one line, wrapped at words."""
        self._console.print(Text(self.text(text), style=style))
