"""The add-on's timer by hand: no timer runs without a window."""

import time


def pump_until(current, condition, seconds=20.0):
    """Take in news of the add-on's session until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        current.pump()
        if time.monotonic() > end:
            raise AssertionError(f"{current.jobs.link}, {current.jobs.error}, {current.jobs.jobs}")
        time.sleep(0.005)
