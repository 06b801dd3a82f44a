"""Requests to an OpenAI-compatible server, with errors for people. Of the standard library alone.

``http.client`` has what is needed here: ``TCP_NODELAY``, chunked bodies that are read line by line
as they come, and a socket that another thread can shut.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

GET_TIMEOUT_S = 30.0
MOST_ERROR_BYTES = 65536
SHOWN_CHARACTERS = 400


class ServerError(RuntimeError):
    """The server cannot be reached, refuses a request, or breaks off."""


@dataclass(frozen=True)
class Server:
    """Where a server is and how to talk to it. ``url`` is without a trailing ``/v1``."""

    url: str
    timeout_s: float
    api_key: str | None = field(default=None, repr=False)

    def connect(self, timeout_s: float | None = None) -> HTTPConnection:
        """An open connection. Raises ``ServerError``."""
        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=timeout_s or self.timeout_s)
        try:
            connection.connect()
        except OSError as error:
            raise ServerError(
                f"no server answers at {self.url} ({error}); start it "
                f"(docs/engines.md has how) or correct options.url"
            ) from error
        return connection

    def path(self, path: str) -> str:
        """A path below the server's own."""
        return urlsplit(self.url).path + path

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        key = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        return {"Content-Type": "application/json", "Accept": "*/*", **key}

    def get(self, path: str) -> str:
        """The body of a page. Raises ``ServerError``, as for any status but 200."""
        connection = self.connect(min(self.timeout_s, GET_TIMEOUT_S))
        try:
            connection.request("GET", self.path(path), headers=self.headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            raise ServerError(f"{self.url}{path}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise refusal(f"{self.url}{path}", response.status, body)
        return body.decode(errors="replace")

    def find(self, path: str) -> str | None:
        """The body of a page that not every server has."""
        try:
            return self.get(path)
        except ServerError:
            return None

    def find_json(self, path: str) -> dict[str, Any]:
        """The object that a page is; empty where there is none."""
        try:
            found = json.loads(self.find(path) or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def refusal(where: str, status: int, body: bytes) -> ServerError:
    """An answer that is none: its status and what it says."""
    said = message_of(body.decode(errors="replace"))
    help_ = "; name a key's variable in options.api_key_env" if status in (401, 403) else ""
    return ServerError(f"{where} answers HTTP {status}: {said}{help_}")


def message_of(body: str) -> str:
    """The message in an error's body, whatever its form, in one line."""
    try:
        found: Any = json.loads(body)
    except ValueError:
        found = re.sub(r"<[^>]*>", " ", body)
    while isinstance(found, dict):
        inner = (found.get(key) for key in ("error", "message", "detail"))
        found = next((value for value in inner if value), str(found))
    return " ".join(str(found).split())[:SHOWN_CHARACTERS] or "(no message)"
