"""An executor that has no processes: the work is done here, where a test can look at it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class Inline(Executor):
    """Does each job as soon as it is given; the number that it has among workers makes no difference."""

    def __init__(self, number: int = 0) -> None:
        """See above."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Its result, which is there already."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
