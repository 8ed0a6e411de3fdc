"""Work for processes of which any may be killed: nothing is lost, and only what kills its own process is given up.

Each worker is an executor of its own, with one process: those of a common one share a queue, and a process that is
killed while it holds the queue's lock would leave the others waiting for ever.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from typing import TypeVar

Job = TypeVar("Job")
Done = TypeVar("Done")

# A job whose process ended this often is given up.
CHANCES = 3


def each(
    function: Callable[[Job], Done], jobs: Iterable[Job], start: Callable[[int], Executor], workers: int
) -> Iterator[tuple[Job, Done | None]]:
    """What ``function`` gives for every job, in the order in which they are done; None for one that is given up.

    Args:
        function: raises nothing.
        jobs: taken as they are needed, so that there may be many.
        start: makes the worker of this number, from 0 on; one that was killed is followed by another of its number.
        workers: how many there are at most.
    """
    waiting, lost = iter(jobs), deque[Job]()
    blamed = Counter[int]()
    # The last one that worked is the next to work: none is started before it is needed.
    free = list(reversed(range(workers)))
    started: dict[int, Executor] = {}
    running: dict[Future[Done], tuple[int, Job]] = {}
    ready: list[tuple[Job, Done | None]] = []
    try:
        while True:
            while free:
                job = lost.popleft() if lost else next(waiting, None)
                if job is None:
                    break
                number = free.pop()
                if number not in started:
                    started[number] = start(number)
                running[_submit(started[number], function, job)] = number, job
            # Only now, when everybody is at work again: what is done with a result takes its time.
            yield from ready
            ready.clear()
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, job = running.pop(future)
                free.append(number)
                try:
                    ready.append((job, future.result()))
                except BrokenExecutor:
                    started.pop(number).shutdown(wait=False)
                    blamed[id(job)] += 1
                    if blamed[id(job)] < CHANCES:
                        lost.append(job)
                    else:
                        ready.append((job, None))
    finally:
        for worker in started.values():
            # Waited for where that takes no time: Python's own end would stumble over one that is about to go.
            worker.shutdown(wait=not running, cancel_futures=True)


def _submit(worker: Executor, function: Callable[[Job], Done], job: Job) -> Future[Done]:
    try:
        return worker.submit(function, job)
    except BrokenExecutor as error:
        future: Future[Done] = Future()
        future.set_exception(error)
        return future
