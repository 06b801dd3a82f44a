"""Models that a scenario writes out itself: whole, or as a variation of one of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.scaling_down import tiny
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

    With ``scale: tiny`` they are those of its twin (``scaling_down``). Without ``like`` the body is
    a whole configuration. ``load`` finds a model by name; what it raises is passed on. Raises
    ``BadInlineModel``.
    """
    fields = dict(body)
    like, scale = fields.pop("like", None), fields.pop("scale", None)
    if scale is not None and like is None:
        raise BadInlineModel("scale", "is for a model that is like another; set like, or remove it")
    if scale not in (None, "tiny"):
        raise BadInlineModel("scale", f"is {scale!r}; valid: tiny")
    base: dict[str, Any] = {"name": "inline"}
    if like is not None:
        if not isinstance(like, str):
            raise BadInlineModel("like", "must be the name of a model")
        model = load(like) if scale is None else tiny(load(like))
        base = model.model_dump(exclude_unset=True, exclude={"published"})
        if scale is None:
            base |= {"name": f"{like} varied", "source": f"varies {like}"}
    try:
        return ModelConfig.model_validate(merge(base, fields), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in details["loc"])
        raise BadInlineModel(key, describe(details, ModelConfig)) from None
