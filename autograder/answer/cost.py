"""What a call costs, counted and not timed: FLOPs, the largest tensor, the peak of bytes that live at once."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _of_fused_attention(q: torch.Size, k: torch.Size, v: torch.Size, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(q, k, v)  # type: ignore[no-any-return]


# PyTorch's table has the fused attentions of GPUs only: on a CPU all pairs would cost nothing.
FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _of_fused_attention}


@dataclass(frozen=True)
class Cost:
    """``flops``: of matrix products, a multiply-add is 2. ``largest``: bytes of the largest tensor made.

    ``peak``: bytes that lived at the same time, PyTorch's storages and NumPy's arrays together, inputs not counted.
    ``made``: bytes of all tensors made, one after another, whether they lived at the same time or not.
    """

    flops: int
    largest: int
    peak: int
    made: int


class _Live(TorchDispatchMode):
    """Follows every storage from the operator that made it until it is freed; views count once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.largest = self.made = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._follow(value.untyped_storage(), given)
        return result

    def _follow(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in given or key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.made += size
        self.peak, self.largest = max(self.peak, self.live), max(self.largest, size)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def there(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A call."""
    return function(*args, **kwargs)


def there_and_back(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A call, and the gradients of its results' sum by every float tensor among the arguments."""
    with torch.enable_grad():
        leaves = [
            value.detach().requires_grad_() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for value in args
        ]
        results = [value for value in tree_leaves(function(*leaves, **kwargs)) if isinstance(value, torch.Tensor)]
        torch.autograd.backward(results, [torch.ones_like(value) for value in results])
    return results, leaves


@cache
def _load() -> None:
    """Has PyTorch load what it loads when it first counts: tens of megabytes, and no cost of what is counted."""
    with FlopCounterMode(display=False), _Live():
        torch.ones(1, 1) @ torch.ones(1, 1)


def count(run: Callable[[], Any]) -> Cost:
    """The cost of ``run()``. Deterministic, but for some kilobytes of Python's own objects in ``peak``."""
    _load()
    # NumPy reports its arrays to tracemalloc, which is how a detour through it is seen.
    tracemalloc.start()
    try:
        with FlopCounterMode(display=False, custom_mapping=FUSED) as flops, _Live() as live:
            result = run()
        largest_array = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    del result
    return Cost(flops.get_total_flops(), live.largest, live.peak + largest_array, live.made)
