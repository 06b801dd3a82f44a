"""Where scenarios lie, and shell completion over them. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path


def scenario_folders() -> tuple[Path, ...]:
    """Folders that are searched for a scenario's name, nearest first: here, the source tree."""
    here, tree = Path("scenarios"), Path(__file__).parents[3] / "scenarios"
    installed = Path(__file__).parents[1] / "scenarios"
    found = [folder for folder in (here, tree, installed) if folder.is_dir()]
    return tuple({folder.resolve(): folder for folder in reversed(found)}.values())[::-1]


def scenario_files() -> dict[str, Path]:
    """Scenarios by name; of two with one name, the nearer."""
    files = (file for folder in reversed(scenario_folders()) for file in folder.glob("*.yaml"))
    return {file.stem: file for file in sorted(files, key=lambda file: file.stem)}


def scenarios(incomplete: str) -> list[str]:
    """Names that complete what was typed."""
    return [name for name in scenario_files() if name.startswith(incomplete)]
