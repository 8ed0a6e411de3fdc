"""What a value is, in words that a student reads, and whether two are the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Foreign:
    """Stands for a value that only its own process can hold; ``text`` says what it is, with its article."""

    def __init__(self, text: str) -> None:
        self.text = text


def described(value: Any) -> str:
    """``a tuple of 2``, ``an ndarray``, ``a sparse tensor``, ``None``."""
    if value is None:
        return "None"
    if isinstance(value, Foreign):
        return value.text
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if type(value) in (Tensor, nn.Parameter):
        if value.layout != torch.strided or value.is_nested:
            return "a sparse or nested tensor"
        if value.is_complex():
            return "a complex tensor"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def is_plain(value: Any) -> bool:
    """Whether it is an ordinary tensor of real numbers. A subclass may do anything when it is compared."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and not value.is_nested
        and not value.is_complex()
        and not value.is_quantized
    )


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers of one dtype, NaN where NaN is."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return (
        torch.equal(a.nan_to_num(nan=1.5e30), b.nan_to_num(nan=1.5e30)) if a.is_floating_point() else torch.equal(a, b)
    )
