"""A call has a limit, though a byte comes now and then."""

import signal
import threading
import time

import pytest

from mae.time_limit import time_limit


def go_on_and_on():
    while True:
        time.sleep(0.01)


def test_a_block_that_goes_on_and_on_ends_at_its_limit():
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="the call did not end within 0 s"), time_limit(0.2, "the call"):
        go_on_and_on()
    assert time.monotonic() - began < 5


def test_an_inner_limit_leaves_the_outer_one_as_it_was():
    handler = signal.getsignal(signal.SIGALRM)

    def call():
        with time_limit(60, "inner"):
            time.sleep(0.01)
        go_on_and_on()

    with pytest.raises(TimeoutError, match="outer"), time_limit(0.5, "outer"):
        call()
    assert signal.getsignal(signal.SIGALRM) == handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_thread_other_than_the_first_has_no_limit():
    done = []

    def call():
        with time_limit(0.01, "the call"):
            time.sleep(0.1)
        done.append(True)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert done
