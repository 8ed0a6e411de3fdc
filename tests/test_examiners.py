"""Tests of tests: one that asks for next to nothing earns next to nothing, since wrong answers differ in one thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from autograder import examine

Attend = Callable[..., Tensor]
PAST = torch.ones(4, 6, dtype=torch.bool).tril(2)  # (queries, keys)


def _inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(2, n, d, dtype=dtype) for n, d in ((4, 5), (6, 5), (6, 3)))  # type: ignore[return-value]


def _refuses(mask: Tensor, error: type[Exception], words: str = "") -> Callable[[Attend], bool]:
    def check(fn: Attend) -> bool:
        try:
            fn(*_inputs(), mask)
        except error as refusal:
            return words in str(refusal)
        return False

    return check


def _keeps_dtypes(fn: Attend) -> bool:
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    return all(fn(*_inputs(dtype), PAST).dtype == dtype for dtype in dtypes)


def _keeps_the_shape(fn: Attend) -> bool:
    return all(fn(*_inputs(), mask).shape == (2, 4, 3) for mask in (None, PAST, PAST[0], PAST[:, :1]))


def _takes_no_mask(fn: Attend) -> None:
    fn(*_inputs())


def _agrees_with_itself(fn: Attend) -> bool:
    inputs = _inputs()
    return torch.equal(fn(*inputs, PAST), fn(*inputs, PAST))


def _leaves_inputs_alone(fn: Attend) -> bool:
    inputs = (*_inputs(), PAST.clone())
    before = [value.clone() for value in inputs]
    fn(*inputs)
    return all(map(torch.equal, before, inputs))


def _takes_masks_of_fewer_axes(fn: Attend) -> None:
    for mask in (PAST[0], PAST[:, :1], torch.tensor(True), torch.tensor(False)):
        fn(*_inputs(), mask)


def _has_gradients(fn: Attend) -> None:
    fn(*(value.requires_grad_() for value in _inputs()), PAST).sum().backward()


TRIVIAL: dict[str, Callable[[Attend], Any]] = {
    "a mask of floats: TypeError": _refuses(PAST.double(), TypeError),
    "a mask of integers: TypeError": _refuses(PAST.long(), TypeError),
    "what the TypeError says": _refuses(PAST.double(), TypeError, "boolean"),
    "a larger mask: ValueError": _refuses(PAST[None, None], ValueError),
    "a mask that fits nowhere: ValueError": _refuses(PAST[:3], ValueError),
    "dtypes": _keeps_dtypes,
    "shapes": _keeps_the_shape,
    "no mask": _takes_no_mask,
    "called twice": _agrees_with_itself,
    "inputs": _leaves_inputs_alone,
    "masks of fewer axes": _takes_masks_of_fewer_axes,
    "gradients arrive": _has_gradients,
}


@pytest.mark.parametrize("asked", TRIVIAL)
def test_a_test_of_masked_attention_that_asks_for_little_earns_little(asked: str) -> None:
    verdict = examine("check_masked_attention", TRIVIAL[asked], points=1)
    assert 0 < verdict.points < 0.2, str(verdict)
