"""What a task asks of a model, as far as cost and architecture can tell tasks apart.

All of it is where a person starts who has said nothing: assumptions, printed with every answer, not
measurements.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Tokens of an answer, whether it hangs on exact words of the context, and what it is.

    ``prefill_s`` and ``token_s``: times at which a person who waits is half content; the speed
    score is 0.5 there. Longer where nobody waits.
    """

    generate_tokens: int
    retrieval: bool
    about: str
    encoder: bool = False
    prefill_s: float = 10.0
    token_s: float = 0.05


TASKS: dict[str, Task] = {
    "chat": Task(256, False, "answers in a conversation"),
    "rag": Task(256, True, "answers from passages that were put into the context"),
    "qa": Task(64, True, "short answers from a long document"),
    "extraction": Task(256, True, "fields copied out of a document", prefill_s=60.0, token_s=0.2),
    "code": Task(512, True, "code that continues a repository"),
    "agent": Task(1024, True, "tools called over a long history"),
    "summary": Task(512, False, "a long text made short", prefill_s=60.0, token_s=0.2),
    "stream": Task(
        4096,
        False,
        "endless input or output with a memory that must not grow",
        prefill_s=600.0,
        token_s=0.2,
    ),
    "classification": Task(1, False, "a label for a text", encoder=True),
    "similarity": Task(1, False, "how alike two texts are", encoder=True),
    "reranking": Task(1, False, "passages ordered by their worth for a question", encoder=True),
}
