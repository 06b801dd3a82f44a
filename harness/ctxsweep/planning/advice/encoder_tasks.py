"""Classification, similarity, reranking: a decision tree in place of a ranking.

No figures of quality: which one wins is known after both were tried on the task's own data. Bounds
between "few" and "enough" are conventions. Whether a generating model answers in time is worked
out, from the same bounds or measurements as anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ctxsweep.analysis.wording import quantity
from ctxsweep.models.catalog import encoder_names, load_encoder
from ctxsweep.models.encoder import memory, parameters
from ctxsweep.planning.advice.assess import assess
from ctxsweep.planning.advice.candidates import Candidate
from ctxsweep.planning.advice.decision import EncoderAnswer, Figure, Step
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.limits import FOLLOWS_FROM, figure_words
from ctxsweep.planning.advice.needs import Needs

FEW, ENOUGH = 8, 500  # labelled examples of each label
ENCODER_TOKENS = 512  # learned positions of BERT (arXiv 1810.04805)
LONG_ENCODER_TOKENS = 8192  # ModernBERT (arXiv 2412.13663)

BERT = "BERT (arXiv 1810.04805)"
LONG = "ModernBERT, 8192 tokens (arXiv 2412.13663)"
MANY = "XLM-R for many languages (arXiv 1911.02116)"
SBERT = "Sentence-BERT (arXiv 1908.10084)"
SETFIT = "SetFit (arXiv 2209.11055)"
CROSS = "a cross-encoder (arXiv 1901.04085)"
LISTWISE = "listwise by an LLM (RankGPT, arXiv 2304.09542)"

FINE_TUNE = "fine-tune an encoder"
FEW_SHOT = "sentence embeddings and a small head, trained on the few examples"
ZERO_SHOT = "an LLM, asked directly"
EMBED = "a sentence encoder"
RERANK = "a cross-encoder over the passages that a sentence encoder found"


@dataclass(frozen=True)
class Quickest:
    """The decoder that would read a text soonest, of those that fit, and its prefill."""

    name: str
    prefill_s: Figure


def quickest_decoder(
    candidates: Sequence[Candidate], needs: Needs, grounds: Grounds
) -> Quickest | None:
    """Of the candidates that are large enough to be asked directly; None: none meets the needs,
    limits on time apart."""
    patient = needs.model_copy(update={"prefill": None, "decode": None})
    asked = [one for one in candidates if one.parameters >= FOLLOWS_FROM]
    found = [assess(one, patient, grounds) for one in asked]
    times = [
        Quickest(one.candidate.name, one.figures.prefill_s)
        for one in found
        if one.passes and one.figures is not None
    ]
    return min(times, key=lambda one: one.prefill_s.value, default=None)


def encoder_answer(needs: Needs, quickest: Quickest | None) -> EncoderAnswer:
    """What the tree ends in for a task of encoders, with every question on the way."""
    answer = TREES[needs.task](needs, quickest)
    return answer.model_copy(
        update={
            "steps": (*answer.steps, _time_step(needs, quickest)),
            "footprint": tuple(_footprints(needs)),
            "asks_decoder": answer.approach == ZERO_SHOT,
        }
    )


def _too_slow(needs: Needs, quickest: Quickest | None) -> bool:
    """Whether not even the quickest decoder reads a text within the limit."""
    if quickest is None or needs.prefill is None:
        return False
    return quickest.prefill_s.value > needs.prefill


def _time_step(needs: Needs, quickest: Quickest | None) -> Step:
    limit = "no limit on the answer given (--prefill)"
    if needs.prefill is not None:
        limit = f"the limit is {quantity(needs.prefill, 's')}"
    if quickest is None:
        reads = f"no decoder of {FOLLOWS_FROM / 1e9:g}B or more meets the other needs"
    else:
        reads = f"{quickest.name} reads a text in {figure_words(quickest.prefill_s)}"
    return Step(
        question="Would an LLM answer in time?",
        answer=f"{reads}; {limit}",
        because=f"the quickest of {FOLLOWS_FROM / 1e9:g}B or more that fits; a label can be read "
        "off its prefill, longer answers take a step a token",
    )


def _footprints(needs: Needs) -> Iterator[str]:
    """What the encoders of the catalogue hold for the batch, by arithmetic."""
    for name in encoder_names():
        config = load_encoder(name)
        if config.decoder_layers:
            continue
        longest = config.longest_input()
        tokens = min(needs.context, longest or needs.context)
        held = memory(config, tokens, batch_size=needs.batch).total_bytes
        count = sum(parameters(config).values())
        yield (
            f"{name}: {count / 1e6:.3g}M parameters, {quantity(held, 'bytes')} in 16 bits with "
            f"{needs.batch} text{'s' * (needs.batch > 1)} of {tokens} tokens"
        )


def _classification(needs: Needs, quickest: Quickest | None) -> EncoderAnswer:
    each = (needs.examples or 0) / needs.labels
    steps = (_examples_step(needs), *_shared_steps(needs))
    if each < FEW:
        return _unlabelled(needs, quickest, steps)
    if each < ENOUGH:
        return EncoderAnswer(
            approach=FEW_SHOT,
            reason=f"{SETFIT} was made for a handful of examples a label",
            steps=steps,
            alternatives=(f"{ZERO_SHOT}, if accuracy counts more than latency and cost",),
            caveats=_caveats(needs),
        )
    return EncoderAnswer(
        approach=FINE_TUNE,
        reason=f"there is data enough, and one pass of {_encoder(needs)} costs a fraction of "
        "generating",
        steps=steps,
        alternatives=(f"{ZERO_SHOT}, if labels change faster than a model can be trained",),
        caveats=_caveats(needs),
    )


def _unlabelled(needs: Needs, quickest: Quickest | None, steps: tuple[Step, ...]) -> EncoderAnswer:
    """Too few examples to train anything: a decoder is asked, unless none can be."""
    label = f"label {FEW} examples of each label first"
    reason = ""
    if needs.training == "scratch":
        reason = f"nothing that is trained from scratch can be asked directly; {label}"
    elif quickest is None:
        reason = f"no decoder of {FOLLOWS_FROM / 1e9:g}B or more meets the other needs; {label}"
    elif _too_slow(needs, quickest) and needs.prefill is not None:
        reason = (
            f"the quickest decoder, {quickest.name}, reads a text in "
            f"{figure_words(quickest.prefill_s)}, the limit is {quantity(needs.prefill, 's')}; "
            f"{label}"
        )
    if reason:
        return EncoderAnswer(
            approach=FEW_SHOT,
            reason=reason,
            steps=steps,
            alternatives=(f"{ZERO_SHOT}, if needs can be changed so that one meets them",),
            caveats=_caveats(needs),
        )
    return EncoderAnswer(
        approach=ZERO_SHOT,
        reason="without examples there is nothing to train; its labels can become the "
        "training data of an encoder later",
        steps=steps,
        alternatives=(f"{FEW_SHOT}: {SETFIT}, once there are {FEW} examples a label",),
        caveats=_caveats(needs),
    )


def _examples_step(needs: Needs) -> Step:
    count = "not said: taken as none" if needs.examples is None else str(needs.examples)
    each = (needs.examples or 0) / needs.labels
    return Step(
        question="Labelled examples?",
        answer=f"{count}, {each:.3g} for each of {needs.labels} labels",
        because=f"below {FEW} a label nothing can be trained; from about {ENOUGH} a label "
        "fine-tuning is safe (conventions)",
    )


def _similarity(needs: Needs, quickest: Quickest | None) -> EncoderAnswer:
    return EncoderAnswer(
        approach=EMBED,
        reason=f"each text is encoded once and compared by a dot product ({SBERT}); an LLM would "
        "have to read every pair",
        steps=_shared_steps(needs),
        alternatives=("embeddings of a decoder, if texts are longer than any encoder reads",),
        caveats=_caveats(needs),
    )


def _reranking(needs: Needs, quickest: Quickest | None) -> EncoderAnswer:
    possible = quickest is not None and not _too_slow(needs, quickest)
    few = (needs.examples or 0) / needs.labels < ENOUGH
    if possible and few and needs.quality == "high":
        return EncoderAnswer(
            approach=ZERO_SHOT,
            reason=f"quality before cost, and little data to train on: {LISTWISE}",
            steps=_shared_steps(needs),
            alternatives=(f"{RERANK}: {CROSS}, once latency or cost counts",),
            caveats=_caveats(needs),
        )
    return EncoderAnswer(
        approach=RERANK,
        reason=f"{CROSS} reads question and passage together, one pass each",
        steps=_shared_steps(needs),
        alternatives=(f"{LISTWISE}, if time is no matter",),
        caveats=_caveats(needs),
    )


TREES: dict[str, Callable[[Needs, Quickest | None], EncoderAnswer]] = {
    "classification": _classification,
    "similarity": _similarity,
    "reranking": _reranking,
}


def _shared_steps(needs: Needs) -> tuple[Step, ...]:
    length = f"{needs.context} tokens: {_encoder(needs)}"
    many = needs.languages == "many"
    return (
        Step(
            question=f"Longer than {ENCODER_TOKENS} tokens?",
            answer=length,
            because=f"BERT's positions end at {ENCODER_TOKENS}; beyond {LONG_ENCODER_TOKENS} a "
            "text is cut into pieces and their answers are put together",
        ),
        Step(
            question="Languages?",
            answer=f"many: {MANY}" if many else "one",
            because="an encoder knows the languages that it was trained on",
        ),
    )


def _encoder(needs: Needs) -> str:
    if needs.languages == "many":
        return MANY if needs.context <= ENCODER_TOKENS else f"{MANY}, in pieces"
    if needs.context <= ENCODER_TOKENS:
        return BERT
    return LONG if needs.context <= LONG_ENCODER_TOKENS else f"{LONG}, in pieces"


def _caveats(needs: Needs) -> tuple[str, ...]:
    caveats = [
        "ctxsweep runs no encoders and measured none of this: it knows shapes, costs, papers",
        "which is more accurate on your data is known after both were tried on it",
    ]
    if needs.examples is None and needs.task == "classification":
        caveats.append("how much labelled data there is was not said (--examples)")
    return tuple(caveats)
