"""An answer that lives in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import torch

from autograder.answer.cost import Cost, count, there, there_and_back
from autograder.answer.guard import Operators, forbidden_in_code, forbidden_in_run, functions_used, unwrapped
from autograder.answer.settings import exam_settings, silence
from autograder.answer.uses import USES
from autograder.answer.words import described


class LocalAnswer:
    """``Answer`` for an object at hand; see there for what each method does."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.is_callable = callable(target)
        self.is_class = isinstance(target, type)
        self.described = described(target)

    @contextmanager
    def session(self) -> Iterator[None]:
        with exam_settings(), silence():
            yield

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield

    def used(self, use: str) -> Callable[..., Any]:
        return partial(USES[use], self.target)

    def default_dtype(self) -> str:
        return str(torch.get_default_dtype())

    def named_in_code(self, operators: tuple[Operators, ...]) -> dict[str, str]:
        return forbidden_in_code(self.target, operators)

    def named_in_run(
        self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], operators: tuple[Operators, ...]
    ) -> dict[str, str]:
        return forbidden_in_run(lambda: function(*args, **kwargs), operators)

    def cost(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], backward: bool = False) -> Cost:
        run = there_and_back if backward else there
        return count(lambda: run(function, args, kwargs))

    def helpers(self, names: set[str]) -> set[str]:
        return names & functions_used(self.target)

    @contextmanager
    def rebound(self, helpers: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
        namespace = self._namespace()
        # A helper that the answer reaches in another way, by a closure or from a module, stays as it is.
        before = {name: namespace[name] for name in helpers if name in namespace}
        namespace.update({name: helpers[name] for name in before})
        try:
            yield
        finally:
            namespace.update(before)

    @contextmanager
    def lent(self, function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
        yield nameless(function)

    def _namespace(self) -> dict[str, Any]:
        """The globals of the function, or of the class's ``forward``."""
        code = unwrapped(getattr(self.target, "forward", self.target))
        return getattr(code, "__globals__", {})


def nameless(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as ``fn``, in its errors too: a name like ``divides_by_the_total`` would tell what it is."""
    assert isinstance(function, FunctionType)
    code = function.__code__.replace(co_name="fn", co_qualname="fn")
    other = FunctionType(code, function.__globals__, "fn", function.__defaults__, function.__closure__)
    other.__kwdefaults__ = function.__kwdefaults__
    return other
