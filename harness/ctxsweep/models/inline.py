"""Models that a scenario writes out itself: whole, or as a variation of one of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from ctxsweep.models.config import ModelConfig
from ctxsweep.scenario_messages import describe
from ctxsweep.scenario_yaml import merge


class BadInlineModel(ValueError):
    """A model written out cannot be; ``key`` is the path within it (empty for the whole)."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key
        self.message = message


def inline_config(body: Mapping[str, Any], load: Callable[[str], ModelConfig]) -> ModelConfig:
    """``{like: tiny-gqa, attention: {kv_heads: 1}}``: the fields of ``like``, laid over.

    Without ``like`` the body is a whole configuration. ``load`` finds a model by name; what it
    raises is passed on. Raises ``BadInlineModel``.
    """
    fields = dict(body)
    like = fields.pop("like", None)
    base: dict[str, Any] = {"name": "inline"}
    if like is not None:
        if not isinstance(like, str):
            raise BadInlineModel("like", "must be the name of a model")
        base = load(like).model_dump(exclude_unset=True)
        base |= {"name": f"{like} varied", "source": f"varies {like}"}
    try:
        return ModelConfig.model_validate(merge(base, fields), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in details["loc"])
        raise BadInlineModel(key, describe(details, ModelConfig)) from None
