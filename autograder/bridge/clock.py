"""A limit on the time that a block may take, for either side of a boundary."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from autograder.bridge.peer import TimeLimit


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raises ``TimeLimit`` in the block after ``seconds``; None sets no limit, nor can a thread have one."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeLimit(f"longer than {seconds:.3g} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
