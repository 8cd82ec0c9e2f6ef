from search.rung_clock import LEAST_SECONDS, PATIENCE, RungClock


class Time:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_nothing_is_overdue_before_a_peer_reached_a_rung() -> None:
    time = Time()
    clock = RungClock([4, 12, 36], None, time)
    clock.start("a")
    time.seconds = 1e9
    assert clock.overdue_seconds("a") is None
    assert clock.overdue_seconds("unknown") is None


def test_the_limit_follows_the_median_time_per_example_and_the_way_to_the_next_rung() -> None:
    time = Time()
    clock = RungClock([4, 12, 36], None, time)
    for trial_id, per_example in (("a", 10.0), ("b", 20.0), ("c", 1000.0)):
        clock.start(trial_id)
        time.seconds += 4 * per_example
        clock.reach(trial_id, 4)
    assert clock.limit_seconds("c") == PATIENCE * 20 * 8  # examples 5 to 12
    clock.reach("c", 12)  # at once: the median is 15 now
    assert clock.limit_seconds("c") == PATIENCE * 15 * 24
    clock.start("d")  # from wherever
    assert clock.limit_seconds("d") == PATIENCE * 15 * 24
    time.seconds += PATIENCE * 15 * 24
    assert clock.overdue_seconds("d") is None
    time.seconds += 1
    assert clock.overdue_seconds("d") == PATIENCE * 15 * 24 + 1


def test_quick_rungs_get_minutes() -> None:
    time = Time()
    clock = RungClock([4], None, time)
    clock.start("a")
    time.seconds = 0.1
    clock.reach("a", 4)
    assert clock.limit_seconds("a") == LEAST_SECONDS


def test_a_given_limit_holds_from_the_start_and_ends_with_the_trial() -> None:
    time = Time()
    clock = RungClock([4], 5.0, time)
    clock.start("a")
    time.seconds = 6
    assert clock.overdue_seconds("a") == 6
    clock.stop("a")
    assert clock.overdue_seconds("a") is None
