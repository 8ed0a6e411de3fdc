"""The objects of this side that the other one may use, by number: called, built, asked for what they hold."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autograder.answer.toys import Toy, flat
from autograder.answer.words import described, same
from autograder.bridge.codec import Json, WireError


class Objects:
    """Objects and the graphs of their results, until the other side forgets them.

    ``most`` bounds how many there are at once.
    """

    def __init__(self, most: int = 100_000) -> None:
        self.most = most
        self.held: dict[int, Any] = {}
        self.numbers = itertools.count(1)

    def hold(self, value: Any) -> int:
        """A number for ``value``."""
        if len(self.held) >= self.most:
            raise RuntimeError(f"more than {self.most:,} results are held at once")
        number = next(self.numbers)
        self.held[number] = value
        return number

    def find(self, number: int) -> Any:
        """What was given ``number``.

        Raises:
            LookupError: nothing was, or it was not lent for so long.
        """
        if number not in self.held:
            raise LookupError("what was lent is no longer yours to use")
        return self.held[number]

    def forget(self, numbers: list[Json]) -> None:
        """Lets objects go."""
        for number in numbers:
            if type(number) is int:
                self.held.pop(number, None)

    @contextmanager
    def lent(self, value: Any) -> Iterator[int]:
        """The number of ``value`` for the time of the block, and not a moment longer."""
        number = self.hold(value)
        try:
            yield number
        finally:
            self.forget([number])

    def call(
        self,
        target: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        parameters: dict[str, Tensor] | None,
        recording: bool,
        random: Tensor | None,
    ) -> Any:
        """Calls the function, method or module ``target``.

        Args:
            target: its number.
            args: its arguments, with those that are leaves of a graph marked as such.
            kwargs: more of them.
            parameters: what a module's parameters are for this call; None for what has none.
            recording: whether gradients are wanted.
            random: the state of the global generator to start from; None to go on.

        Returns:
            Its ``value``, which ``changed`` arguments are how, the number of the results' ``graph``, the states of the
            ``generators`` and the modes of the models among the arguments (whether they are ``training``), and the
            state of the global generator if it moved (``random``).
        """
        if random is not None:
            torch.set_rng_state(random)
        start = torch.get_rng_state()
        given = inputs_of(args, kwargs, parameters)
        before = [value.detach().clone() for value in given]
        marked = [value.requires_grad for value in given]
        with torch.set_grad_enabled(recording):
            value = self._called(self.find(target), args, kwargs, parameters)
        results = [result for result in flat(value) if result.requires_grad]
        graph = self.hold((results, given)) if recording and results else None
        changed = [
            {"place": place, "now": now.detach(), "grad": now.requires_grad, "left": now.grad if now.is_leaf else None}
            for place, (now, old, was) in enumerate(zip(given, before, marked, strict=True))
            if now.requires_grad != was or (now.is_leaf and now.grad is not None) or not same(now.detach(), old)
        ]
        generators = [item.get_state() for item in (*args, *kwargs.values()) if isinstance(item, torch.Generator)]
        training = [item.training for item in (*args, *kwargs.values()) if isinstance(item, Toy)]
        moved = None if torch.equal(start, torch.get_rng_state()) else torch.get_rng_state()
        done = {"changed": changed, "generators": generators, "training": training, "random": moved}
        return {"value": value, "graph": graph, **done}

    def _called(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], parameters: dict[str, Tensor] | None
    ) -> Any:
        if parameters is None:
            return function(*args, **kwargs)
        if not isinstance(function, nn.Module):
            raise WireError("parameters for what is no module")
        for value in list(parameters.values())[:1]:
            function.to(value.device)
        return torch.func.functional_call(function, parameters, args, kwargs)

    def backward(self, graph: int, gradients: list[Tensor | None]) -> list[Tensor | None]:
        """The gradients by every float input of the call that ``graph`` stands for; None where nothing arrives."""
        results, given = self.find(graph)
        if len(gradients) != len(results):
            raise WireError("gradients that do not fit their results")
        pairs = [(result, grad) for result, grad in zip(results, gradients, strict=True) if grad is not None]
        if not pairs:
            return [None] * len(given)
        wanted = [value for value in given if value.requires_grad and value.is_leaf]
        found = iter(
            torch.autograd.grad(
                [result for result, _ in pairs],
                wanted,
                [grad for _, grad in pairs],
                allow_unused=True,
                retain_graph=True,
            )
        )
        return [next(found) if value.requires_grad and value.is_leaf else None for value in given]

    def construct(self, target: int, args: tuple[Any, ...], kwargs: dict[str, Any], known: bool) -> Any:
        """Makes an object of the class ``target``, and describes it; parameters that are ``known`` are left out."""
        made = self.find(target)(*args, **kwargs)
        module = isinstance(made, nn.Module)
        named = made.named_parameters() if module and not known else ()
        parameters = {name: value.detach() for name, value in named}
        return {"number": self.hold(made), "module": module, "what": described(made), "parameters": parameters}

    def attribute(self, target: int, name: str) -> Any:
        """What an object holds under ``name``: a value, or the number of something to be called."""
        value = getattr(self.find(target), name)
        return {"function": self.hold(value)} if callable(value) else {"value": value}


def inputs_of(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], parameters: Mapping[str, Tensor] | None
) -> list[Tensor]:
    """Every distinct tensor among the inputs of a call, in the order that both sides give them."""
    found = {id(value): value for value in flat([args, dict(kwargs), dict(parameters or {})])}
    return list(found.values())
