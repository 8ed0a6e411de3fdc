"""Work for processes of which any may be killed: nothing is lost, and only what kills its own process is given up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from typing import TypeVar

Job = TypeVar("Job")
Done = TypeVar("Done")

# A job that ended its process this often while no other one ran is to blame.
CHANCES = 2


def each(
    function: Callable[[Job], Done], jobs: Iterable[Job], start: Callable[[], Executor], at_once: int
) -> Iterator[tuple[Job, Done | None]]:
    """What ``function`` gives for every job, in the order in which they are done; None for one that ends its process.

    Args:
        function: raises nothing.
        jobs: taken as they are needed, so that there may be many.
        start: makes an executor, and another one when that is broken.
        at_once: how many jobs it is given at the same time.
    """
    waiting, suspects = iter(jobs), deque[Job]()
    blamed: dict[int, int] = {}
    executor = start()
    running: dict[Future[Done], Job] = {}
    try:
        while True:
            # Once a process has died, those that may have killed it run one at a time.
            room = 1 - len(running) if suspects else at_once - len(running)
            for _ in range(room):
                job = suspects.popleft() if suspects else next(waiting, None)
                if job is None:
                    break
                running[_submit(executor, function, job)] = job
            if not running:
                return
            lost: list[Job] = []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                try:
                    done = future.result()
                except BrokenExecutor:
                    lost.append(job)
                else:
                    yield job, done
            if lost:
                # All that it had begun is lost with it.
                lost += running.values()
                running.clear()
                executor.shutdown(cancel_futures=True)
                executor = start()
                if len(lost) == 1:
                    blamed[id(lost[0])] = blamed.get(id(lost[0]), 0) + 1
                    if blamed[id(lost[0])] == CHANCES:
                        yield lost.pop(), None
                suspects.extend(lost)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _submit(executor: Executor, function: Callable[[Job], Done], job: Job) -> Future[Done]:
    try:
        return executor.submit(function, job)
    except BrokenExecutor as error:
        future: Future[Done] = Future()
        future.set_exception(error)
        return future
