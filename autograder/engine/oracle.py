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
from typing import Any

import torch
from torch import Tensor

from autograder.engine.devices import EXACT
from autograder.engine.exam import Case, Draw, Exam, Nudge
from autograder.engine.subject import Call, leaf, prepare

FORGIVEN = 8.0
SENSITIVITY = 4.0
FLOOR = 32.0
NUDGES = 6
# bfloat16 and float16 only look for gross errors: this share of the largest value.
GROSS = 0.1


@dataclass(frozen=True, eq=False)
class Expected:
    """The oracle's results in float64 on the CPU, and how far each may be missed."""

    tensors: tuple[Tensor, ...]
    allowed: tuple[float, ...]


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
        return Expected(oracle, (0.0,) * len(oracle))  # masks and counts are right or wrong
    naive = _run(exam.naive, rounded, back)
    plain = _run(exam.naive, exact, back)
    moved = []
    for seed in range(NUDGES):
        nudge = _nudge(unit, seed)
        arriving = None if back is None else tuple(nudge(grad) for grad in back)
        moved.append(_run(exam.naive, exact.map(nudge), arriving, nudge))
    allowed = []
    for place, value in enumerate(oracle):
        change = max(_distance(nudged[place], plain[place]) for nudged in moved)
        size = _distance(value, torch.zeros_like(value))
        limit = FORGIVEN * _distance(naive[place], value) + SENSITIVITY * change + FLOOR * unit * size
        allowed.append(limit if dtype in EXACT else limit + GROSS * size)
    return Expected(oracle, tuple(allowed))


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
    """The outputs of ``function``, or the gradients by every float input and parameter, in float64."""
    extra: dict[str, Any] = {} if nudge is None else {"nudge": nudge}
    with torch.set_grad_enabled(back is not None):
        leaves = call if back is None else call.map(leaf)
        if leaves.state is not None:
            extra |= {"state": leaves.state, "init": leaves.init}
        result = leaves.into(function, **extra)
        results: tuple[Tensor, ...] = result if isinstance(result, tuple) else (result,)
        if back is not None:
            wanted = [value for value in leaves.tensors().values() if value.requires_grad]
            grads = tuple(grad.to(value) for grad, value in zip(back, results, strict=True))
            results = torch.autograd.grad(results, wanted, grads)
    return tuple(value.detach().double() for value in results)


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference among the values that are finite in both; 0 if there is none."""
    both = a.isfinite() & b.isfinite()
    return float((a - b)[both].abs().max()) if bool(both.any()) else 0.0
