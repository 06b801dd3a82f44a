"""The page of a prediction with its plots, Markdown and JSON: needs no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import vl_convert
from markupsafe import Markup

from ctxsweep.planning.answers import Predicted
from ctxsweep.report import predict_words as words
from ctxsweep.report import theme
from ctxsweep.report.page import PNG_SCALE, STATIC_WIDTH, vegalite_version
from ctxsweep.report.predict_charts import CHARTS, charts
from ctxsweep.report.predict_markdown import markdown
from ctxsweep.report.rendering import render

Spec = dict[str, Any]


def write_prediction(found: Predicted, out: Path) -> list[Path]:
    """Write ``predict.html``, ``.md``, ``.json`` and ``plots/*.svg|png`` into ``out``; the paths.

    The same prediction gives the same bytes.
    """
    (out / "plots").mkdir(parents=True, exist_ok=True)
    built = charts(found)
    specs = {name: chart.to_dict() for name, (_, _, chart) in built.items()}
    texts = {
        "predict.html": _page(found, {name: entry[:2] for name, entry in built.items()}, specs),
        "predict.md": markdown(found),
        "predict.json": found.model_dump_json(indent=1) + "\n",
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    return [*(out / name for name in texts), *_plots(specs, out / "plots")]


def _plots(specs: dict[str, Spec], folder: Path) -> list[Path]:
    for name in CHARTS:  # those of an earlier prediction
        for kind in ("svg", "png"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    written = []
    config = theme.vega_config(theme.LIGHT, theme.STATIC_FONT)
    for name, spec in specs.items():
        fixed = spec | {"width": STATIC_WIDTH} if spec.get("width") == "container" else spec
        svg = vl_convert.vegalite_to_svg(
            fixed, vl_version=vegalite_version(), config=config, allowed_base_urls=[]
        )
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        (folder / f"{name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=PNG_SCALE))
        written += [folder / f"{name}.svg", folder / f"{name}.png"]
    return written


def _page(found: Predicted, titles: dict[str, tuple[str, str]], specs: dict[str, Spec]) -> str:
    untitled = {
        name: {key: value for key, value in spec.items() if key not in ("title", "$schema")}
        for name, spec in specs.items()
    }
    configs = {mode.name: theme.vega_config(mode) for mode in (theme.LIGHT, theme.DARK)}
    held = {"specs": untitled, "configs": configs}
    text = json.dumps(held, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return render(
        "predict.html.j2",
        headline=words.headline(found),
        answers=[
            f"{model.name}: {line}" if len(found.models) > 1 else line
            for model in found.models
            for line in words.reach_lines(found, model)
        ],
        assumptions=words.assumptions(found),
        charts=[(name, *title) for name, title in titles.items()],
        heads=("context", "batch", *words.HEADS),
        models=[
            (
                model.name,
                words.weights_line(found, model),
                [(words.row(cell), cell.fits) for cell in found.cells_of(model.name)],
            )
            for model in found.models
        ],
        crossings=words.crossing_lines(found),
        notes=words.notes(found),
        light=theme.LIGHT,
        dark=theme.DARK,
        data=Markup(text.replace("<", "\\u003c")),
        vega=Markup(vl_convert.javascript_bundle(vl_version=vegalite_version())),
    )
