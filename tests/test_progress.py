import pytest

from mae import progress


@pytest.fixture
def now(monkeypatch):
    at = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: at[0])
    return at


def test_a_line_every_few_seconds_tells_count_rate_and_time_left(now):
    lines: list[str] = []
    counter = progress.Progress(5000, lines.append, verb="sharded")
    for _ in range(10):
        now[0] += 1
        counter.add(120)
    assert lines == [
        "sharded 600 of 5,000 images, 120 images/s, 0:00:37 left",
        "sharded 1,200 of 5,000 images, 120 images/s, 0:00:32 left",
    ]


def test_what_an_earlier_run_finished_counts_but_not_for_the_rate(now):
    lines: list[str] = []
    counter = progress.Progress(5000, lines.append, verb="fitted", unit="batches", done=4000)
    now[0] += 10
    counter.add(50)
    assert lines == ["fitted 4,050 of 5,000 batches, 5.0 batches/s, 0:03:10 left"]


def test_no_rate_is_no_error(now):
    lines: list[str] = []
    counter = progress.Progress(10, lines.append, verb="evaluated")
    now[0] += 10
    counter.add(0)
    assert lines == ["evaluated 0 of 10 images, 0.0 images/s, unknown time left"]


def test_a_duration_is_spelt_in_hours_minutes_and_seconds():
    assert progress.clock(3 * 3600 + 4 * 60 + 5.4) == "3:04:05"
    assert progress.clock(-1) == "0:00:00"
