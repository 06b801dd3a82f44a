"""Pages from their templates."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """A page as text; ``values`` are escaped, and each that the template names must be there."""
    jinja = Environment(
        loader=PackageLoader("ctxsweep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return jinja.get_template(template).render(**values)
