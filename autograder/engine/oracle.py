"""What is right, and how far off a right answer may be.

An answer is right if |answer − oracle| is at most

    FORGIVEN · (the naive formula's own error in the tested dtype)
    + SENSITIVITY · (the oracle's change when inputs, scores and arriving gradients move by one unit of roundoff)
    + FLOOR units of roundoff of the largest value.

Without the middle term right answers fail, PyTorch's own among them: a sum in another order, or a scale applied to the
queries first, rounds elsewhere. ``tests/test_tolerance.py`` holds the rule to account over a thousand seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from autograder.engine.devices import EXACT
from autograder.engine.exam import Case, Draw, Exam, Nudge
from autograder.engine.subject import Call, leaf, prepare, widest

FORGIVEN = 8.0
SENSITIVITY = 4.0
FLOOR = 32.0
NUDGES = 6
# bfloat16 and float16 only look for gross errors: this share of the largest value.
GROSS = 0.1


@dataclass(eq=False)
class Expected:
    """The oracle's results on the CPU, in float64 or int64, and how far each may be missed.

    Most right answers are within ``floor`` already, which costs nothing to know: ``allowed``, all that is forgiven,
    takes eight runs of the naive formula and is worked out for the others alone.
    """

    tensors: tuple[Tensor, ...]
    floor: tuple[float, ...]
    forgive: Callable[[], tuple[float, ...]]

    @cached_property
    def allowed(self) -> tuple[float, ...]:
        """``floor`` and all the rest of the rule above."""
        return tuple(floor + more for floor, more in zip(self.floor, self.forgive(), strict=True))


def cotangents(exam: Exam, case: Case, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """Random gradients to be propagated back, one for each output, rounded to ``dtype``."""
    draw = Draw(seed)
    results = _run(exam.reference, _exact(prepare(exam.inputs, case, dtype, "cpu")), None)
    return tuple(draw.normal(*result.shape).to(dtype).double() for result in results)


def expect(exam: Exam, case: Case, dtype: torch.dtype, back: tuple[Tensor, ...] | None = None) -> Expected:
    """What ``case`` must give in ``dtype``: the outputs, or, with ``back``, the gradients of the inputs."""
    rounded = prepare(exam.inputs, case, dtype, "cpu")
    exact = _exact(rounded)
    unit = torch.finfo(dtype).eps / 2
    oracle = _run(exam.reference, exact, back)
    if any(kind is not None and not kind.is_floating_point for kind in exam.output_dtypes):
        none = (0.0,) * len(oracle)
        return Expected(oracle, none, lambda: none)  # masks and counts are right or wrong

    def forgive() -> tuple[float, ...]:
        naive, plain = _run(exam.naive, rounded, back), _run(exam.naive, exact, back)
        moved = [_moved(exam, exact, back, _nudge(unit, seed)) for seed in range(NUDGES)]
        return tuple(
            FORGIVEN * _distance(naive[place], value)
            + SENSITIVITY * max(_distance(nudged[place], plain[place]) for nudged in moved)
            for place, value in enumerate(oracle)
        )

    share = FLOOR * unit + (0.0 if dtype in EXACT else GROSS)
    return Expected(oracle, tuple(share * _distance(value, torch.zeros_like(value)) for value in oracle), forgive)


def _moved(exam: Exam, exact: Call, back: tuple[Tensor, ...] | None, nudge: Nudge) -> tuple[Tensor, ...]:
    arriving = None if back is None else tuple(nudge(grad) for grad in back)
    return _run(exam.naive, exact.map(nudge), arriving, nudge)


def _exact(call: Call) -> Call:
    """The same rounded values in float64."""
    return call.map(lambda value: value.double() if value.is_floating_point() else value)


def _nudge(unit: float, seed: int) -> Nudge:
    generator = torch.Generator().manual_seed(seed)
    # In float64 itself half a unit in the last place would round away; a whole one is the smallest step there is.
    step = max(unit, torch.finfo(torch.float64).eps)

    def nudge(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        signs = torch.randint(0, 2, value.shape, generator=generator, dtype=value.dtype) * 2 - 1
        return value * (1 + step * signs)

    return nudge


def _run(
    function: Callable[..., Any], call: Call, back: tuple[Tensor, ...] | None, nudge: Nudge | None = None
) -> tuple[Tensor, ...]:
    """The outputs of ``function``, or the gradients by every float input and parameter, in the widest dtype."""
    extra: dict[str, Any] = {} if nudge is None else {"nudge": nudge}
    with torch.set_grad_enabled(back is not None):
        leaves = call if back is None else call.map(leaf)
        if leaves.state is not None:
            extra |= {"state": leaves.state, "init": leaves.init}
        result = leaves.into(function, **extra)
        results: tuple[Tensor, ...] = result if isinstance(result, tuple) else (result,)
        if back is not None:
            wanted = [value for value in leaves.tensors.values() if value.requires_grad]
            grads = tuple(grad.to(value) for grad, value in zip(back, results, strict=True))
            results = torch.autograd.grad(results, wanted, grads)
    return tuple(widest(value) for value in results)


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference among the values that are finite in both; 0 if there is none."""
    both = a.isfinite() & b.isfinite()
    return float((a - b)[both].abs().max()) if bool(both.any()) else 0.0
