"""Where a cell is, from what its child says of it: so that a timeout can say what took the time."""

from __future__ import annotations

from ctxsweep.records import Reached


class Follower:
    """Follows one cell; all times in seconds of one clock.

    A child says where it is about once a second, and always when a prefill has reached the cell's
    context. A later prefill counts from its first word, so it is never taken for longer than it is.
    """

    def __init__(self, context_tokens: int, begun_s: float) -> None:
        self._context_tokens = context_tokens
        self._since_s: float | None = begun_s
        self._longest_s: float | None = None
        self._position = 0
        self._decode_s: float | None = None

    def tick(self, position: int, last_decode_s: float | None, now_s: float) -> None:
        """What the child says."""
        self._position = position
        if last_decode_s is not None:
            self._decode_s, self._since_s = last_decode_s, None
        elif position >= self._context_tokens:
            self._longest_s, self._since_s = self._longest(now_s), None
        elif self._since_s is None:
            self._since_s = now_s

    def reached(self, now_s: float) -> Reached:
        """How far it has come by now."""
        return Reached(
            position=self._position, prefill_s=self._longest(now_s), decode_s=self._decode_s
        )

    def _longest(self, now_s: float) -> float | None:
        known = [self._longest_s] if self._longest_s is not None else []
        running = [now_s - self._since_s] if self._since_s is not None else []
        return max(known + running, default=None)
