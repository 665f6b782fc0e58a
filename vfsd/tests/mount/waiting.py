"""What the scripts of these tests share."""

import time


def until(read, expected):
    """Waits until `read` gives `expected`; fails with what it gives instead."""
    deadline = time.monotonic() + 20
    while (value := read()) != expected:
        assert time.monotonic() < deadline, value
