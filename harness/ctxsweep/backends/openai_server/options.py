"""The settings of a series that runs on a server: its options, and what is known of its model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import InvalidSeries, Unsupported
from ctxsweep.models.config import ModelConfig
from ctxsweep.records import Series

OPTIONS = ("url", "served_model", "api_key_env", "timeout_s", "vocab_size")
TIMEOUT_S = 600.0
EXAMPLE = "the server's, as http://127.0.0.1:8000"


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ``InvalidSeries`` for a key that is unknown, missing or wrong."""
    for name in options:
        if name not in OPTIONS:
            near = get_close_matches(name, OPTIONS, n=1, cutoff=0.0)[0]
            raise InvalidSeries("options", f"'{name}' is unknown; nearest valid: {near}")
    url = options.get("url")
    if not isinstance(url, str):
        raise InvalidSeries("options.url", f"is missing; write {EXAMPLE}")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _port_is_valid(url):
        raise InvalidSeries("options.url", f"'{url}' is not one; write {EXAMPLE}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidSeries(
            "options.url",
            "is stored with the results, so it must not hold more than host, port and path; name "
            "the environment variable that holds the key in options.api_key_env",
        )
    for name in ("served_model", "api_key_env"):
        if name in options and not (isinstance(options[name], str) and options[name]):
            raise InvalidSeries(f"options.{name}", "must be a name")
    timeout_s = options.get("timeout_s", TIMEOUT_S)
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or timeout_s <= 0:
        raise InvalidSeries("options.timeout_s", f"{timeout_s} must be a number of seconds above 0")


def _port_is_valid(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def vocab_size(series: Series) -> int:
    """From the options or the model. Raises ``InvalidSeries``."""
    size = series.options.get("vocab_size")
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 2:
            raise InvalidSeries("options.vocab_size", f"{size} must be a number of tokens")
        return size
    config = checkpoints.known_config(series)
    if config is not None:
        return config.vocab_size
    raw = series.model
    if isinstance(raw, str):
        raw = json.loads((Path(raw) / "config.json").read_text(encoding="utf-8"))
    size = raw.get("vocab_size") or (raw.get("text_config") or {}).get("vocab_size")
    if not isinstance(size, int):
        raise InvalidSeries("model", "does not say its vocab_size; give options.vocab_size")
    return size


def known_config(series: Series) -> ModelConfig | None:
    """The model's configuration; None for one that only the server knows."""
    try:
        return checkpoints.known_config(series)
    except InvalidSeries:
        if "vocab_size" in series.options:
            return None
        raise


def api_key(variable: str | None) -> str | None:
    """The key in an environment variable. Raises ``Unsupported`` if it is not set."""
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise Unsupported(f"the environment variable {variable} is not set", f"export {variable}=…")
    return os.environ[variable]
