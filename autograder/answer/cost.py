"""What a call costs, counted and not timed: FLOPs, the largest tensor, the peak of bytes that live at once."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from autograder.answer.toys import flat


def _of_fused_attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)  # type: ignore[no-any-return]


# What PyTorch's own FlopCounterMode counts with; it takes three times as long, as it tries to take every operator
# apart. It knows the fused attentions of GPUs only: on a CPU all pairs would cost nothing.
FLOPS = {**flop_registry, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _of_fused_attention}


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


class _Counter(TorchDispatchMode):
    """Counts every operator; follows every storage from the one that made it until it is freed. Views count once."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.live = self.peak = self.largest = self.made = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        given = {value.untyped_storage()._cdata for value in flat(args) + flat(kwargs)}
        result = func(*args, **kwargs)
        if func.overloadpacket in FLOPS:
            self.flops += FLOPS[func.overloadpacket](*args, **kwargs, out_val=result)
        for value in flat(result):
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


@cache
def _is_composite(func: Any) -> bool:
    """Whether an operator is made of others, and gets here whole all the same, as in ``torch.inference_mode``."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def there(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A call."""
    return function(*args, **kwargs)


def there_and_back(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A call, and the gradients of its results' sum by every float tensor among the arguments."""
    with torch.enable_grad():
        leaves = [
            value.detach().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value
            for value in args
        ]
        results = flat(function(*leaves, **kwargs))
        torch.autograd.backward(results, [torch.ones_like(value) for value in results])
    return results, leaves


def count(run: Callable[[], Any]) -> Cost:
    """The cost of ``run()``. Deterministic, but for some kilobytes of Python's own objects in ``peak``."""
    with _Counter() as counter:
        result = run()
    del result
    # NumPy reports its arrays to tracemalloc, which is how a detour through it is seen; in a run of its own, for what
    # the counter itself allocates takes it far longer than the answer.
    tracemalloc.start()
    try:
        result = run()
        arrays = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    del result
    return Cost(counter.flops, counter.largest, counter.peak + arrays, counter.made)
