"""The laws of every answer that draws from a ``generator``: it decides what is drawn, and it alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autograder.answer.words import same
from autograder.engine.exam import Seeded
from autograder.engine.subject import Call


def seeded(call: Call, more: int = 0) -> Seeded:
    """The case's generator, or one ``more`` seeds on; on the CPU, as the exercise says, whatever device is examined."""
    return Seeded(call.kwargs["generator"].seed + more)


def _generator_decides(answer: Callable[..., Tensor], call: Call) -> str | None:
    first, again = (answer(*call.args, generator=seeded(call)) for _ in range(2))
    return None if same(first, again) else "two generators of one seed give two results"


def _generator_moves_on(answer: Callable[..., Tensor], call: Call) -> str | None:
    generator = torch.Generator().manual_seed(seeded(call).seed)
    first, second = (answer(*call.args, generator=generator) for _ in range(2))
    return "two calls with one generator give the same: nothing was drawn from it" if same(first, second) else None


# The answer may live in a process of its own, with a generator of its own: that one is known only by what is drawn.


def _draws_anew_without_a_generator(answer: Callable[..., Tensor], call: Call) -> str | None:
    with torch.random.fork_rng(devices=[]):
        first, second = (answer(*call.args) for _ in range(2))
    return "without a generator each call gives the same" if same(first, second) else None


def _does_not_reseed_pytorchs_own_generator(answer: Callable[..., Tensor], call: Call) -> str | None:
    def without_after_with() -> Tensor:
        answer(*call.args, generator=seeded(call))
        return answer(*call.args)

    with torch.random.fork_rng(devices=[]):
        first, second = without_after_with(), without_after_with()
    return "a call without a generator repeats itself: PyTorch's own is seeded inside" if same(first, second) else None


# For ``Properties``: on a case that gives its generator by name.
OF_GENERATORS = (
    _generator_decides,
    _generator_moves_on,
    _draws_anew_without_a_generator,
    _does_not_reseed_pytorchs_own_generator,
)
