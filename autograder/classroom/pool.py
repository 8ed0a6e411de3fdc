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
    function: Callable[[Job], Done], jobs: Iterable[Job], start: Callable[[], Executor], workers: int
) -> Iterator[tuple[Job, Done | None]]:
    """What ``function`` gives for every job, in the order in which they are done; None for one that is given up.

    Args:
        function: raises nothing.
        jobs: taken as they are needed, so that there may be many.
        start: makes a worker.
        workers: how many there are at most.
    """
    waiting, lost = iter(jobs), deque[Job]()
    blamed = Counter[int]()
    idle: list[Executor] = []
    running: dict[Future[Done], tuple[Executor, Job]] = {}
    try:
        while True:
            while len(running) < workers:
                job = lost.popleft() if lost else next(waiting, None)
                if job is None:
                    break
                worker = idle.pop() if idle else start()
                running[_submit(worker, function, job)] = worker, job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, job = running.pop(future)
                try:
                    done = future.result()
                except BrokenExecutor:
                    worker.shutdown(wait=False)
                    blamed[id(job)] += 1
                    if blamed[id(job)] < CHANCES:
                        lost.append(job)
                    else:
                        yield job, None
                else:
                    idle.append(worker)
                    yield job, done
    finally:
        for worker in (*idle, *(worker for worker, _ in running.values())):
            worker.shutdown(wait=False, cancel_futures=True)


def _submit(worker: Executor, function: Callable[[Job], Done], job: Job) -> Future[Done]:
    try:
        return worker.submit(function, job)
    except BrokenExecutor as error:
        future: Future[Done] = Future()
        future.set_exception(error)
        return future
