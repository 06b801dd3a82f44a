"""What a parent knows of a cell whose time is over."""

from __future__ import annotations

from ctxsweep.execute.following import Follower


def reached(ticks: list[tuple[float, int, float | None]], now_s: float) -> tuple[object, ...]:
    follower = Follower(4096, begun_s=100.0)
    for at_s, position, step_s in ticks:
        follower.tick(position, step_s, 100.0 + at_s)
    found = follower.reached(100.0 + now_s)
    return found.position, found.prefill_s, found.decode_s


def test_nothing_was_heard_so_the_first_prefill_runs() -> None:
    assert reached([], 9.0) == (0, 9.0, None)


def test_a_prefill_under_way_counts_so_far() -> None:
    assert reached([(1.0, 512, None), (2.0, 1024, None)], 9.0) == (1024, 9.0, None)


def test_a_prefill_that_has_arrived_is_no_longer_blamed() -> None:
    assert reached([(2.0, 4096, None)], 9.0) == (4096, 2.0, None)
    assert reached([(2.0, 4096, None), (4.0, 4097, 1.5)], 9.0) == (4097, 2.0, 1.5)


def test_a_later_prefill_counts_from_its_first_word() -> None:
    ticks = [(2.0, 4096, None), (3.0, 4100, 0.1), (5.0, 512, None)]
    assert reached(ticks, 6.0) == (512, 2.0, 0.1)
    assert reached(ticks, 9.0) == (512, 4.0, 0.1)
    assert reached([*ticks, (8.0, 4096, None)], 99.0) == (4096, 3.0, 0.1)
