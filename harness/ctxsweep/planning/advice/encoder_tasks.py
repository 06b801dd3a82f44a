"""Classification, similarity, reranking: a decision tree in place of a ranking.

No figures of quality: which one wins is known after both were tried on the task's own data. Bounds
between "few" and "enough" are conventions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ctxsweep.analysis.wording import quantity
from ctxsweep.models.catalog import encoder_names, load_encoder
from ctxsweep.models.encoder import memory, parameters
from ctxsweep.planning.advice.decision import EncoderAnswer, Step
from ctxsweep.planning.advice.needs import Needs

FEW, ENOUGH = 8, 1000
ENCODER_TOKENS = 512  # learned positions of BERT (arXiv 1810.04805)
LONG_ENCODER_TOKENS = 8192  # ModernBERT (arXiv 2412.13663)
TIGHT_S = 0.1

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


def encoder_answer(needs: Needs) -> EncoderAnswer:
    """What the tree ends in for a task of encoders, with every question on the way."""
    answer = TREES[needs.task](needs)
    return answer.model_copy(update={"footprint": tuple(_footprints(needs))})


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


def wants_decoder(answer: EncoderAnswer) -> bool:
    """Whether the answer is a generating model, so that the ranking of those is wanted too."""
    return answer.approach == ZERO_SHOT


def _classification(needs: Needs) -> EncoderAnswer:
    examples, steps = needs.examples, _shared_steps(needs)
    count = "not said" if examples is None else str(examples)
    known = examples or 0
    tight = _is_tight(needs)
    answer = f"{count}" + (": taken as none" if examples is None else "")
    because = f"below {FEW} a label nothing can be trained; from about {ENOUGH} fine-tuning is safe"
    steps = (Step(question="Labelled examples?", answer=answer, because=because), *steps)
    if known < FEW and not (tight or needs.training == "scratch"):
        return EncoderAnswer(
            approach=ZERO_SHOT,
            reason="without examples there is nothing to train; its labels can become the "
            "training data of an encoder later",
            steps=steps,
            alternatives=(f"{FEW_SHOT}: {SETFIT}, once there are {FEW} examples a label",),
            caveats=_caveats(needs),
        )
    if known < ENOUGH:
        reason = f"{SETFIT} was made for a handful of examples a label"
        if known < FEW:
            reason = f"an LLM's answer does not fit into the time; label {FEW} a class first"
        return EncoderAnswer(
            approach=FEW_SHOT,
            reason=reason,
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


def _similarity(needs: Needs) -> EncoderAnswer:
    return EncoderAnswer(
        approach=EMBED,
        reason=f"each text is encoded once and compared by a dot product ({SBERT}); an LLM would "
        "have to read every pair",
        steps=_shared_steps(needs),
        alternatives=("embeddings of a decoder, if texts are longer than any encoder reads",),
        caveats=_caveats(needs),
    )


def _reranking(needs: Needs) -> EncoderAnswer:
    loose = not _is_tight(needs) and needs.prefill is None and needs.quality == "high"
    if loose and not (needs.examples or 0) >= ENOUGH:
        return EncoderAnswer(
            approach=ZERO_SHOT,
            reason=f"quality before time, and no data to train on: {LISTWISE}",
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


TREES: dict[str, Callable[[Needs], EncoderAnswer]] = {
    "classification": _classification,
    "similarity": _similarity,
    "reranking": _reranking,
}


def _shared_steps(needs: Needs) -> tuple[Step, ...]:
    length = f"{needs.context} tokens: {_encoder(needs)}"
    many = needs.languages == "many"
    tight = _is_tight(needs)
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
        Step(
            question=f"Answer within {TIGHT_S * 1000:.0f} ms?",
            answer="yes" if tight else "not asked for",
            because="generating means a decode step for every token of the answer",
        ),
    )


def _encoder(needs: Needs) -> str:
    if needs.languages == "many":
        return MANY if needs.context <= ENCODER_TOKENS else f"{MANY}, in pieces"
    if needs.context <= ENCODER_TOKENS:
        return BERT
    return LONG if needs.context <= LONG_ENCODER_TOKENS else f"{LONG}, in pieces"


def _is_tight(needs: Needs) -> bool:
    limits = [limit for limit in (needs.prefill, needs.decode) if limit is not None]
    return any(limit <= TIGHT_S for limit in limits)


def _caveats(needs: Needs) -> tuple[str, ...]:
    caveats = [
        "ctxsweep runs no encoders and measured none of this: it knows shapes, costs, papers",
        "which is more accurate on your data is known after both were tried on it",
    ]
    if needs.examples is None and needs.task == "classification":
        caveats.append("how much labelled data there is was not said (--examples)")
    return tuple(caveats)
