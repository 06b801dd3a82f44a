"""What a task asks of a model, as far as cost and architecture can tell tasks apart.

``generate_tokens`` and ``retrieval`` are where a person starts who has said nothing: assumptions,
printed with every answer, not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Tokens of an answer, whether it hangs on exact words of the context, and what it is."""

    generate_tokens: int
    retrieval: bool
    about: str
    encoder: bool = False


TASKS: dict[str, Task] = {
    "chat": Task(256, False, "answers in a conversation"),
    "rag": Task(256, True, "answers from passages that were put into the context"),
    "qa": Task(64, True, "short answers from a long document"),
    "extraction": Task(256, True, "fields copied out of a document"),
    "code": Task(512, True, "code that continues a repository"),
    "agent": Task(1024, True, "tools called over a long history"),
    "summary": Task(512, False, "a long text made short"),
    "stream": Task(4096, False, "endless input or output with a memory that must not grow"),
    "classification": Task(1, False, "a label for a text", encoder=True),
    "similarity": Task(1, False, "how alike two texts are", encoder=True),
    "reranking": Task(1, False, "passages ordered by their worth for a question", encoder=True),
}
