"""YAML text to plain values, with the place of every key kept for error messages.

Scalars follow the core schema of YAML 1.2 (yaml.org/spec/1.2.2, section 10.3): ``no`` and ``1:30``
are text. Explicit tags, duplicate keys and documents that unfold without end are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

MAX_FILE_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 32
MAX_NUMBER = 10**15

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}


class ScenarioError(ValueError):
    """A mistake in a scenario or in an option: one message that says where, what and what then."""

    def __init__(self, place: str, key: str, message: str) -> None:
        super().__init__(": ".join(part for part in (place, key, message) if part))
        self.place = place
        self.key = key
        self.message = message


@dataclass
class Document:
    """Plain values, and for every key path the place that set it (``file:line`` or an option)."""

    source: str
    data: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Where the key, or else the nearest part that holds it, was written."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, f"{self.source}:1")

    def error(self, path: KeyPath, message: str) -> ScenarioError:
        """An error about a key of this document."""
        return ScenarioError(self.place(path), dotted(path), message)

    def put(self, path: tuple[str, ...], value: Any, place: str) -> None:
        """Set a value from outside the file, with what it says as its place."""
        here = self.data
        for depth, key in enumerate(path[:-1], start=1):
            inner = here.get(key)
            if not isinstance(inner, dict):
                inner = here[key] = {}
                self.places[path[:depth]] = place
            here = inner
        for old in [known for known in self.places if known[: len(path)] == path]:
            del self.places[old]
        here[path[-1]] = value
        self.places[path] = place

    def overlay(self, target: KeyPath, source: KeyPath, *, under: bool = False) -> None:
        """Copy the places of ``source`` to ``target``; with ``under`` existing ones stay."""
        depth = len(source)
        for path, place in list(self.places.items()):
            if path[:depth] == source and len(path) > depth:
                moved = target + path[depth:]
                self.places[moved] = self.places.get(moved, place) if under else place


def dotted(path: KeyPath) -> str:
    """``procedure.sentinel.every``, as it is written after ``--set``."""
    return ".".join(str(part) for part in path)


def merge(base: Any, over: Any) -> Any:
    """Lay ``over`` on ``base``: mappings merge key by key, null removes, all else replaces."""
    if not isinstance(over, Mapping) or not isinstance(base, Mapping):
        return over
    result = dict(base)
    for key, value in over.items():
        if value is None and key in result:
            del result[key]
        else:
            result[key] = merge(result.get(key), value)
    return result


def read_document(path: Path) -> Document:
    """Read a scenario file. Raises ``ScenarioError``."""
    source = str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ScenarioError(source, "", error.strerror or "cannot be read") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ScenarioError(source, "", f"larger than {MAX_FILE_BYTES >> 10} KiB: not a scenario")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ScenarioError(f"{source}:{line}", "", "not UTF-8 text, so not a scenario") from None
    places: dict[KeyPath, str] = {}
    data = _parse(text, source, places)
    if data is None:
        raise ScenarioError(f"{source}:1", "", "empty; a scenario needs at least 'series:'")
    if not isinstance(data, dict):
        raise ScenarioError(f"{source}:1", "", "must be a mapping of keys such as 'contexts: 1k'")
    return Document(source, data, places)


def parse_value(text: str, place: str) -> Any:
    """The value of an option such as ``--set key=value``, read as YAML."""
    return _parse(text, place, None)


def _parse(text: str, source: str, places: dict[KeyPath, str] | None) -> Any:
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if places is not None and mark else ""
        raise ScenarioError(f"{source}{line}", "", f"not valid YAML: {_problem(error)}") from None
    except yaml.reader.ReaderError as error:
        line = f":{text.count(chr(10), 0, error.position) + 1}" if places is not None else ""
        what = f"character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise ScenarioError(f"{source}{line}", "", what) from None
    except RecursionError:
        raise ScenarioError(source, "", "nested too deeply for a scenario") from None
    return None if node is None else _Builder(source, places).value(node, ())


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "cannot be read"
    if "'\\t'" in problem:
        return "a tab begins a word; indent with spaces"
    return problem


class _Builder:
    """Builds values from nodes, counting so that aliases cannot unfold without end."""

    def __init__(self, source: str, places: dict[KeyPath, str] | None) -> None:
        self.source = source
        self.places = places
        self.nodes = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise self.error(node, path, "too large or nested too deeply; is an alias endless?")
        if node.tag not in _PLAIN_TAGS:
            raise self.error(node, path, f"tag '{node.tag}' is not supported; remove it")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self.scalar(node, path)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, path, "a key must be a single word")
            key = str(key_node.value)
            here = (*path, key)
            if key in result:
                raise self.error(key_node, here, "is given twice; remove one")
            if key == "<<":
                raise self.error(key_node, here, "merge keys are not supported; use 'defaults:'")
            if self.places is not None:
                self.places[here] = f"{self.source}:{key_node.start_mark.line + 1}"
            result[key] = self.value(value_node, here)
        return result

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text = str(node.value)
        if not all(char.isprintable() or char in "\n\t" for char in text):
            raise self.error(node, path, "holds a character that cannot be shown; remove it")
        if node.style is not None:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if not _FLOAT.fullmatch(text):
            return text
        number = float(text)
        if not math.isfinite(number) or abs(number) > MAX_NUMBER:
            raise self.error(node, path, "number too large; the largest is 10^15")
        return int(text) if _INT.fullmatch(text) else number

    def error(self, node: yaml.Node, path: KeyPath, message: str) -> ScenarioError:
        line = f":{node.start_mark.line + 1}" if self.places is not None else ""
        return ScenarioError(f"{self.source}{line}", dotted(path), message)
