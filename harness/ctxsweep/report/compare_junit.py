"""A comparison as JUnit XML, which every continuous integration shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ctxsweep.analysis.comparison import Change, Comparison, Kind, NotCompared, Side
from ctxsweep.report.compare_words import (
    headline,
    line,
    not_compared_line,
    of_outcome,
    remark,
    side_line,
)
from ctxsweep.report.units import TOKENS

KINDS: tuple[Kind, ...] = ("cell", "curve", "bench")
LEFT_OUT = "not compared"
CROSSOVER_SUFFIX = ".crossover"
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped."""


def junit(comparison: Comparison) -> str:
    """One suite per kind of line, one case per line; SLOW fails, AMBG and what was not compared are
    skipped. A comparison of nothing is one skipped case, so that it is seen."""
    root = Element("testsuites", name=_clean(f"ctxsweep compare {comparison.scenario}"))
    changes = of_outcome(comparison, "SLOW", "FAST", "AMBG", "SAME")
    for kind in KINDS:
        if lines := [change for change in changes if change.kind == kind]:
            suite = _suite(root, kind, comparison)
            for change in lines:
                _add_change(suite, change, comparison)
    if comparison.not_compared or not changes:
        suite = _suite(root, LEFT_OUT, comparison)
        for entry in comparison.not_compared:
            _add_left_out(suite, entry)
        if not comparison.not_compared:
            _skip(_case(suite, LEFT_OUT, "everything"), headline(comparison))
    suites = list(root)
    for suite in suites:
        _count(suite, [suite])
    _count(root, suites)
    indent(root)
    return f"{_HEAD}{tostring(root, encoding='unicode')}\n"


def _suite(root: Element, name: str, comparison: Comparison) -> Element:
    suite = SubElement(root, "testsuite", name=name)
    properties = SubElement(suite, "properties")
    for role, side in (("base", comparison.base), ("new", comparison.new)):
        for key, value in _about(side):
            SubElement(properties, "property", name=f"{role}.{key}", value=_clean(value))
    SubElement(properties, "property", name="headline", value=_clean(headline(comparison)))
    return suite


def _about(side: Side) -> list[tuple[str, str]]:
    texts = (("label", side.label), ("run_ids", " ".join(side.run_ids)), ("commit", side.commit))
    return [(key, text) for key, text in texts if text]


def _add_change(suite: Element, change: Change, comparison: Comparison) -> None:
    case = _case(suite, change.series, _name(change))
    if change.outcome == "SLOW":
        failure = SubElement(case, "failure", message=_clean(line(change)), type="SLOW")
        failure.text = _clean(_message(change, comparison))
    elif change.outcome == "AMBG":
        _skip(case, "; ".join(filter(None, ("AMBG", line(change), remark(change)))))


def _name(change: Change) -> str:
    """``itl_s @ 8K``, ``itl_s.slope``, ``itl_s @ 8K ×4``, ``itl_s.crossover: gqa and mamba2``."""
    if change.metric.endswith(CROSSOVER_SUFFIX):
        return f"{change.metric}: {change.subject}"
    at = "" if change.context_tokens is None else f" @ {TOKENS.text(change.context_tokens)}"
    return f"{change.metric}{at}{'' if change.batch_size == 1 else f' ×{change.batch_size}'}"


def _message(change: Change, comparison: Comparison) -> str:
    parts = [line(change)]
    if change.ratio is not None:
        parts.append(f"threshold: {change.threshold * 100:.3g}%")
    if change.p_value is not None:
        parts.append(f"p: {change.p_value:.2g}, one-sided, that it is not worse")
    if why := remark(change):
        parts.append(f"why: {why}")
    parts.append(f"base: {side_line(comparison.base)}")
    parts.append(f"new: {side_line(comparison.new)}")
    return "\n".join(parts)


def _add_left_out(suite: Element, entry: NotCompared) -> None:
    _skip(_case(suite, LEFT_OUT, entry.what), not_compared_line(entry))


def _case(suite: Element, classname: str, name: str) -> Element:
    return SubElement(suite, "testcase", classname=_clean(classname), name=_clean(name))


def _skip(case: Element, message: str) -> None:
    SubElement(case, "skipped", message=_clean(message))


def _count(element: Element, suites: Sequence[Element]) -> None:
    """The attributes that a reader sums up."""
    for name, path in (("tests", ""), ("failures", "/failure"), ("skipped", "/skipped")):
        found = sum(len(suite.findall(f"testcase{path}")) for suite in suites)
        element.set(name, str(found))
    element.set("errors", "0")


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
