"""What can be known of a scenario's section ``quality`` before anything is measured."""

from __future__ import annotations

from ctxsweep.backends.base import Unsupported, resolve_backend
from ctxsweep.cli.errors import BadInput
from ctxsweep.models import catalog
from ctxsweep.records import Series
from ctxsweep.records_quality import TextSource
from ctxsweep.scenario import Scenario
from ctxsweep.scenario_quality import QualityPlan


def check_quality(scenario: Scenario, place: str) -> None:
    """Raise ``BadInput`` for what would make a run's losses mean nothing.

    That is an engine that shows no scores, a model without a tokenizer or with another one than
    the reference, a text that is too short, a task that does not fit, a reference beyond what its
    model was trained on, and stretching that stretches nothing. ``place`` is the scenario's file.
    """
    plan = scenario.quality
    if plan is None:
        return
    by_name = {series.name: series for series in scenario.series}
    reference = by_name[str(plan.reference.series)]
    for series in scenario.series:
        _check_scores(place, series)
    wanted = _read(scenario, place, plan, reference)
    _check_trained(scenario, place, plan, reference)
    for series in scenario.series:
        if series.model == reference.model:
            continue
        if _read(scenario, place, plan, series).tokens_sha256 != wanted.tokens_sha256:
            raise BadInput(
                f"{place}: series.{series.name}.model: it reads other tokens than "
                f"{reference.name}, the reference; losses a token can be compared only under one "
                "tokenizer. Take a scenario for each"
            )


def _read(scenario: Scenario, place: str, plan: QualityPlan, series: Series) -> TextSource:
    """The text as a model reads it, long enough for all that is asked of it."""
    from ctxsweep.quality.corpus import BadText, read_corpus
    from ctxsweep.quality.haystack import Haystack
    from ctxsweep.quality.tasks import ContextTooShort, task_prompts
    from ctxsweep.quality.tokenizer import NoTokenizer, tokenizer_of

    try:
        tokenizer = tokenizer_of(series.model)
        corpus = read_corpus(plan.text, tokenizer, plan.needed_tokens(scenario.contexts))
        haystack = Haystack.of(corpus, tokenizer) if plan.tasks else None
    except NoTokenizer as error:
        raise BadInput(f"{place}: series.{series.name}.model: {error}") from error
    except BadText as error:
        raise BadInput(f"{place}: quality.text: {error}") from error
    for task, asked in plan.tasks.items():
        shortest = min(set(asked.contexts or scenario.contexts) & set(scenario.contexts))
        try:
            task_prompts(task, asked, haystack, shortest, scenario.seed)
        except (ContextTooShort, BadText) as error:
            raise BadInput(f"{place}: quality.tasks.{task}: {error}") from error
    return corpus.source


def _check_trained(scenario: Scenario, place: str, plan: QualityPlan, reference: Series) -> None:
    trained = catalog.load_config(reference.model).trained_context
    if trained is None:
        return
    if plan.reference.context > trained:
        raise BadInput(
            f"{place}: quality.reference.context = {plan.reference.context} is beyond the "
            f"{trained} tokens that the model was trained on, so the reference would be broken "
            f"itself; nearest valid: {trained}"
        )
    ropes = [series.rope for series in scenario.series if series.rope is not None]
    aims = {rope.target_tokens or max(scenario.contexts) for rope in ropes if rope.factor == "auto"}
    if ropes and len(aims) > 0 and max(aims) <= trained and all(r.factor == "auto" for r in ropes):
        raise BadInput(
            f"{place}: contexts: the model was trained on {trained} tokens, so nothing is "
            f"stretched up to {max(aims)} by factor: auto; take contexts beyond {trained}, or "
            "numbers as factors"
        )


def _check_scores(place: str, series: Series) -> None:
    try:
        can = getattr(resolve_backend(series.backend), "capabilities", None)
    except Unsupported:
        return  # the run says why the engine is not there
    if can is None or not can.scores:
        raise BadInput(
            f"{place}: series.{series.name}.backend: {series.backend} does not show what "
            "it thinks of every token, so its quality cannot be measured; take native"
        )
    if series.prefill_chunk == "recurrent":
        raise BadInput(
            f"{place}: series.{series.name}.prefill_chunk: quality is scored chunk by "
            "chunk; set a number, such as 1024"
        )
