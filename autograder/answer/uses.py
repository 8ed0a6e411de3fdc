"""What is done with an answer that is not simply called: known code, found by name where the answer lives.

An exam compares tensors. A count is none, an object that keeps a state has to be made, and asked more than once, and
an ``autograd.Function`` is applied.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from autograder.answer.words import described


def count(answer: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
    """The whole number that a function gives, as a tensor.

    Raises:
        TypeError: it gives no int.
        OverflowError: it gives one that no int64 can hold.
    """
    number = answer(*args, **kwargs)
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"it gives {described(number)}; a whole number, an int, is asked for")
    if abs(number) >= 2**63:
        raise OverflowError("it gives a number of more than 18 digits")
    return torch.tensor(number)


def apply(function: Any, *args: Any, **kwargs: Any) -> Any:
    """What an ``autograd.Function`` gives.

    Raises:
        TypeError: it is none.
    """
    if not (isinstance(function, type) and issubclass(function, torch.autograd.Function)):
        raise TypeError(f"it is {described(function)}; a class that is a torch.autograd.Function is asked for")
    return function.apply(*args, **kwargs)


def fill(
    cache_class: Callable[..., Any],
    keys: Tensor,
    values: Tensor,
    steps: tuple[int, ...],
    max_len: int,
    too_many: int = 0,
    plain: bool = False,
    every: bool = True,
) -> tuple[Tensor, ...]:
    """A key-value cache that is given ``keys`` and ``values``, of so many tokens at each of the ``steps``.

    Args:
        cache_class: what makes the cache, with its sizes, its dtype and its device.
        keys: (batch, n_kv_heads, n, d_k).
        values: (batch, n_kv_heads, n, d_v).
        steps: how many tokens come with each update.
        max_len: how many the cache has room for.
        too_many: so many tokens are tried before the last step, and are to be refused.
        plain: the cache is not told its dtype and device.
        every: what all updates gave counts, not only what the last one did.

    Returns:
        The keys and the values that the updates gave, end to end; the lengths before the first and after each; and
        how many numbers ``nbytes`` would hold, before the first and after the last.
    """
    (batch, n_kv_heads, _, d_k), d_v = keys.shape, values.shape[-1]
    told = {} if plain else {"dtype": keys.dtype, "device": keys.device}
    dtype = torch.get_default_dtype() if plain else keys.dtype
    cache = cache_class(batch, n_kv_heads, max_len, d_k, *(() if d_v == d_k else (d_v,)), **told)
    # One of the same sizes, all said by name, is given other numbers: two caches have nothing in common.
    sizes_by_name = {"batch": batch, "n_kv_heads": n_kv_heads, "max_len": max_len, "d_k": d_k}
    other = cache_class(**sizes_by_name, d_v=None if d_v == d_k else d_v, **told)
    lengths, sizes, start = [cache.length], [cache.nbytes / dtype.itemsize], 0
    given: list[tuple[Tensor, Tensor]] = []
    for number, step in enumerate(steps, start=1):
        if number == len(steps) and too_many:
            with suppress(ValueError):
                cache.update(*(part.new_zeros(*part.shape[:2], too_many, part.shape[-1]) for part in (keys, values)))
        new = [part[:, :, start : start + step].to(dtype, copy=True) for part in (keys, values)]
        all_keys, all_values = cache.update(*new)
        other.update(*(-part for part in new))
        given = [*(given if every else []), (all_keys, all_values)]
        lengths.append(cache.length)
        start += step
        for part in new:
            part.zero_()  # whoever gave them may use their memory again
    sizes.append(cache.nbytes / dtype.itemsize)
    came = (torch.cat(parts, dim=-2) for parts in zip(*given, strict=True))
    return (*came, *(keys.new_tensor(numbers) for numbers in (lengths, sizes)))


USES: dict[str, Callable[..., Any]] = {use.__name__: use for use in (count, apply, fill)}
