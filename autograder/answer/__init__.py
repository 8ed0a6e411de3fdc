"""An answer under examination: what can be done with it only in the process where it lives.

Exams run against the ``Answer`` protocol. ``LocalAnswer`` is an object of this process; ``autograder.bridge`` has the
other one, whose object lives in a student process. Nothing in this package decides what is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from autograder.answer import interpreter  # noqa: F401  # the first, before what imports Triton
from autograder.answer.cost import Cost
from autograder.answer.guard import Operators


class Answer(Protocol):
    """A function or a class, as an exam meets it."""

    @property
    def target(self) -> Any:
        """What can be called as the answer itself: tensors in, tensors out, gradients included."""

    @property
    def is_callable(self) -> bool:
        """Whether it can be called at all."""

    @property
    def is_class(self) -> bool:
        """Whether it is a class."""

    @property
    def described(self) -> str:
        """What it is, with its article: ``a function``, ``a list of 2``, ``None``."""

    def session(self) -> AbstractContextManager[None]:
        """PyTorch's settings for an exam, and silence, where the answer runs."""

    def seeded(self, seed: int) -> AbstractContextManager[None]:
        """The global generator of where the answer runs, started with ``seed``."""

    def used(self, use: str) -> Callable[..., Any]:
        """A function that does with the target what ``uses.USES`` knows as ``use``: tensors in, tensors out."""

    def default_dtype(self) -> str:
        """PyTorch's default dtype where the answer runs."""

    def named_in_code(self, operators: tuple[Operators, ...]) -> dict[str, str]:
        """The labels of the ``operators`` that its code names, its own helpers' included, each with one name."""

    def named_in_run(
        self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], operators: tuple[Operators, ...]
    ) -> dict[str, str]:
        """The labels of the ``operators`` that run when ``function``, the target or a module of it, is called."""

    def cost(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], backward: bool = False) -> Cost:
        """What a call of ``function``, the target or a module of it, costs; with ``backward`` there and back."""

    def helpers(self, names: set[str]) -> set[str]:
        """Which of ``names`` its code uses from its own notebook, directly or through other functions."""

    def rebound(self, helpers: Mapping[str, Callable[..., Any]]) -> AbstractContextManager[None]:
        """For the time of the block the notebook's ``helpers`` are replaced, in the namespace that the answer sees."""

    def lent(self, function: Callable[..., Any]) -> AbstractContextManager[Any]:
        """What the answer gets for ``function``, under a name that does not give away what it is."""
