"""What can be known of a scenario's section ``quality`` before anything is measured."""

from __future__ import annotations

from ctxsweep.backends.base import Unsupported, resolve_backend
from ctxsweep.cli.errors import BadInput
from ctxsweep.records import Series
from ctxsweep.scenario import Scenario


def check_quality(scenario: Scenario) -> None:
    """Raise ``BadInput`` if a series has no tokenizer or no scores, or the text is too short."""
    plan = scenario.quality
    if plan is None:
        return
    from ctxsweep.quality.corpus import BadText, read_corpus
    from ctxsweep.quality.tokenizer import NoTokenizer, tokenizer_of

    read: set[str] = set()
    for series in scenario.series:
        _check_scores(scenario, series)
        try:
            tokenizer = tokenizer_of(series.model)
            if tokenizer.name not in read:
                read_corpus(plan.text, tokenizer, plan.needed_tokens(scenario.contexts))
                read.add(tokenizer.name)
        except NoTokenizer as error:
            raise BadInput(f"{scenario.name}: series.{series.name}.model: {error}") from error
        except BadText as error:
            raise BadInput(f"{scenario.name}: quality.text: {error}") from error


def _check_scores(scenario: Scenario, series: Series) -> None:
    try:
        can = resolve_backend(series.backend).capabilities
    except Unsupported:
        return  # the run says why the engine is not there
    if not can.scores:
        raise BadInput(
            f"{scenario.name}: series.{series.name}.backend: {series.backend} does not show what "
            "it thinks of every token, so its quality cannot be measured; take native"
        )
    if series.prefill_chunk == "recurrent":
        raise BadInput(
            f"{scenario.name}: series.{series.name}.prefill_chunk: quality is scored chunk by "
            "chunk; set a number, such as 1024"
        )
