"""The JSON schema of a scenario file (draft 2020-12), for editors to complete and check with.

It is made from the same types that validate, bent where the file differs from what it is loaded
into: series are a mapping by name, ``defaults`` and the device profiles exist, and nothing is
required where a layer below may give it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ctxsweep.records import Series
from ctxsweep.scenario import DEVICES, NAME, Scenario

Schema = dict[str, Any]


def json_schema(models: Sequence[str] = (), backends: Sequence[str] = ()) -> Schema:
    """The schema of a file; ``models`` and ``backends`` are offered for completion."""
    whole = Scenario.model_json_schema()
    definitions: Schema = whole.pop("$defs", {})
    definitions["Series"] = _series(models, backends)
    properties: Schema = whole["properties"]
    del properties["device"]
    properties["defaults"] = {
        "$ref": "#/$defs/Series",
        "description": "Laid under every series.",
    }
    properties["series"] = {
        "description": "By name; what a series leaves out is taken from the defaults.",
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME}$"},
        "additionalProperties": {"anyOf": [{"$ref": "#/$defs/Series"}, {"type": "null"}]},
    }
    profile = {key: _nullable(value, definitions) for key, value in properties.items()}
    definitions["Profile"] = _mapping(profile, "Laid over the file on this device; null removes.")
    for device in DEVICES:
        properties[device] = {"anyOf": [{"$ref": "#/$defs/Profile"}, {"type": "null"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ctxsweep scenario",
        **_mapping(properties, "A sweep over context lengths."),
        "required": ["series"],
        "$defs": definitions,
    }


def _mapping(properties: Schema, description: str) -> Schema:
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _series(models: Sequence[str], backends: Sequence[str]) -> Schema:
    properties: Schema = Series.model_json_schema()["properties"]
    del properties["name"]
    if models:
        properties["model"]["anyOf"].insert(0, {"enum": sorted(models)})
    if backends:
        outside = {"type": "string", "pattern": r"^[\w.]+:\w+$"}
        properties["backend"]["anyOf"] = [{"enum": sorted(backends)}, outside]
    return _mapping(properties, "A model on an engine with its settings.")


def _nullable(schema: Schema, definitions: Schema) -> Schema:
    """The same with null allowed at every key, nested mappings written out."""
    if "$ref" in schema:
        kept = {key: value for key, value in schema.items() if key != "$ref"}
        return _nullable({**definitions[schema["$ref"].rsplit("/", 1)[1]], **kept}, definitions)
    plain = {key: value for key, value in schema.items() if key not in ("default", "required")}
    if "properties" in plain:
        inner = {key: _nullable(value, definitions) for key, value in plain["properties"].items()}
        plain["properties"] = inner
    if "anyOf" in plain:
        plain["anyOf"] = [_nullable(one, definitions) for one in plain["anyOf"]]
    if {"type": "null"} in plain.get("anyOf", ()) or plain.get("type") == "null":
        return plain
    return {"anyOf": [plain, {"type": "null"}]}
