# %% [markdown]
# # Exercises: flash attention
#
# The same function as ever, exact, with memory that grows with n and not with n². You keep a softmax up to date while
# its numbers arrive, carry that through attention tile by tile, forwards and backwards, write the test that tells right
# answers from wrong ones, and at the end move the forward pass into one kernel. *Flash attention* is the lesson.
#
# Shapes are `(..., length, width)`: whatever stands in front, a batch, heads or nothing, must not matter. Queries and
# keys may differ in number. `causal=True` is the mask of the lesson *Masking*: the last query sees every key, and a
# query that sees none gets an output of zeros. `block_size` is the number of queries, and of keys, in a tile. It need
# not divide the lengths, and may be larger than they are. Scores are finite.
#
# **May use:** everything but a ready-made attention (`F.scaled_dot_product_attention`, …). **Memory counts:** part of
# the marks is for never holding anything with one number for each pair of a query and a key. In the test everything is
# free.
#
# Each answer has a cell of quick checks below it. The marks come from the autograder. In a clone of the course, after
# `make course`: `.venv/bin/autograder check chapters/exercises/flash.ipynb`.

# %%
from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

# For the last exercise: Triton asks when it is imported whether there is a GPU to compile for.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# %% [markdown]
# ## `online_softmax`
#
# Numbers arrive one after the other. After each you know the largest so far, and the sum of exponentials so far,
# taken relative to that largest one: Σ exp(xᵢ − max). Memory for two numbers is enough to go on.


# %% exercise="online_softmax"
def online_softmax(x: Float[Tensor, "... n"]) -> tuple[Float[Tensor, "... n"], Float[Tensor, "... n"]]:
    """A softmax's maximum and sum after every element (Milakov and Gimelshein 2018, algorithm 3).

    Args:
        x: finite numbers; each row by itself.

    Returns:
        ``(running_max, running_sum)``: at place i the largest of x₀ … xᵢ, and Σ exp(xⱼ − that) over j ≤ i.
    """
    ### BEGIN SOLUTION
    running_max, running_sum = torch.empty_like(x), torch.empty_like(x)
    top = torch.full_like(x[..., 0], -math.inf)  # (...)
    total = torch.zeros_like(top)
    for i, number in enumerate(x.unbind(-1)):
        new_top = torch.maximum(top, number)
        # What was summed relative to the old maximum is carried over to the new one; nothing is looked at again.
        total = total * torch.exp(top - new_top) + torch.exp(number - new_top)
        top = new_top
        running_max[..., i], running_sum[..., i] = top, total
    return running_max, running_sum
    ### END SOLUTION


# %% visible="online_softmax"
_max, _sum = online_softmax(torch.tensor([0.0, 0.0, math.log(2), 0.0]))
assert torch.allclose(_max, torch.tensor([0.0, 0.0, math.log(2), math.log(2)]))
assert torch.allclose(_sum, torch.tensor([1.0, 2.0, 2.0, 2.5]))
assert torch.equal(online_softmax(torch.full((2, 3), 1e4))[1], torch.tensor([[1.0, 2.0, 3.0]]).expand(2, 3))

# %% exam="online_softmax" points=2

# %% [markdown]
# ## `flash_attention_forward`
#
# Attention, one tile of `block_size` queries and `block_size` keys at a time. A query carries its running maximum, its
# running sum, and its output so far. The logarithm of the sum of its exponentials, `lse`, is all that the way back will
# need to find the weights again: lse = log Σ exp(score), natural, of the scaled scores.
#
# bfloat16 has eight bits: sums are kept in float32 at least, whatever comes in. The output has the input's dtype; `lse`
# is float32.


# %% exercise="flash_attention_forward"
def flash_attention_forward(
    q: Float[Tensor, "... queries d_k"],
    k: Float[Tensor, "... keys d_k"],
    v: Float[Tensor, "... keys d_v"],
    block_size: int,
    causal: bool = False,
) -> tuple[Float[Tensor, "... queries d_v"], Float[Tensor, "... queries"]]:
    """Scaled dot-product attention in O(n) memory (Dao 2023, algorithm 1).

    Args:
        q, k, v: queries, keys and values.
        block_size: queries, and keys, in a tile; the last one may be smaller.
        causal: whether a query sees no later key; the last query and the last key stand at the same position.

    Returns:
        ``(output, lse)``: the output in q's dtype, and in float32 log Σ exp(score) over the keys that each query sees.
        A query that sees none has an output of zeros and an lse of −∞.
    """
    ### BEGIN SOLUTION
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    ahead = n_keys - n_queries  # query i stands at the position of key i + ahead
    output = q.new_empty(*q.shape[:-1], v.shape[-1])
    lse = q.new_empty(q.shape[:-1], dtype=torch.float32)
    wide = torch.promote_types(q.dtype, torch.float32)
    # Scaled once, not in every tile; and by log₂ e, for a CPU takes 2 to the power faster than e to the power.
    q, k, v = q.to(wide) * (math.log2(math.e) / math.sqrt(q.shape[-1])), k.to(wide), v.to(wide)

    for first in range(0, n_queries, block_size):
        rows = slice(first, min(first + block_size, n_queries))
        # The lowest number, and not −∞: a row that has seen no key yet then never meets −∞ − (−∞).
        top = q.new_full((*q.shape[:-2], rows.stop - first, 1), torch.finfo(wide).min)  # (..., rows, 1)
        total = torch.zeros_like(top)  # (..., rows, 1)
        sums = q.new_zeros(*top.shape[:-1], v.shape[-1])  # (..., rows, d_v)
        seen = min(n_keys, rows.stop + ahead) if causal else n_keys
        for start in range(0, seen, block_size):
            columns = slice(start, min(start + block_size, seen))
            scores = q[..., rows, :] @ k[..., columns, :].mT  # (..., rows, columns)
            if causal and columns.stop > first + ahead + 1:  # the diagonal runs through this tile
                mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(first + ahead - start)
                scores.masked_fill_(~mask, -math.inf)
            new_top = torch.maximum(top, scores.amax(-1, keepdim=True))
            carried = torch.exp2(top - new_top)  # (..., rows, 1): from the old maximum to the new one
            weights = scores.sub_(new_top).exp2_()  # (..., rows, columns), not divided by their sum yet
            total.mul_(carried).add_(weights.sum(-1, keepdim=True))
            sums.mul_(carried).add_(weights @ v[..., columns, :])
            top = new_top
        # Once a key was seen the largest power is 2⁰, and the sum is 1 at least.
        output[..., rows, :] = sums / total.clamp(min=1)
        lse[..., rows] = (top + total.log2()).squeeze(-1) * math.log(2)  # −∞ where the sum is 0
    return output, lse
    ### END SOLUTION


# %% visible="flash_attention_forward"
_q, _k, _v = torch.randn(2, 5, 4), torch.randn(2, 7, 4), torch.randn(2, 7, 3)
_scores = _q @ _k.mT / 2  # (2, 5, 7)
for _block_size in (1, 3, 7, 100):
    _output, _lse = flash_attention_forward(_q, _k, _v, _block_size)
    assert torch.allclose(_output, torch.softmax(_scores, -1) @ _v, atol=1e-5), f"blocks of {_block_size}"
    assert torch.allclose(_lse, torch.logsumexp(_scores, -1), atol=1e-5), f"lse, blocks of {_block_size}"
_output, _lse = flash_attention_forward(_q, _k[:, :4], _v[:, :4], 2, causal=True)
assert torch.equal(_output[:, 0], torch.zeros(2, 3)), "five queries, four keys: the first query sees none"
assert torch.allclose(_output[:, 1], _v[:, 0], atol=1e-6), "the second sees the first key only"
assert _lse[0, 0] == -math.inf

# %% exam="flash_attention_forward" points=6

# %% [markdown]
# ## `flash_attention_backward`
#
# The gradients, by hand and tile by tile. The weights were never kept, and need not be: with `lse` any tile of them is
# one exponential away. What the softmax's backward pass needs besides, one number for each query, follows from the
# output and its gradient. Sums are kept in float32 at least, as on the way forward.


# %% exercise="flash_attention_backward"
def flash_attention_backward(
    q: Float[Tensor, "... queries d_k"],
    k: Float[Tensor, "... keys d_k"],
    v: Float[Tensor, "... keys d_v"],
    output: Float[Tensor, "... queries d_v"],
    lse: Float[Tensor, "... queries"],
    grad_output: Float[Tensor, "... queries d_v"],
    block_size: int,
    causal: bool = False,
) -> tuple[Float[Tensor, "... queries d_k"], Float[Tensor, "... keys d_k"], Float[Tensor, "... keys d_v"]]:
    """The gradients of ``flash_attention_forward`` by q, k and v in O(n) memory (Dao 2023, algorithm 2), no autograd.

    Args:
        q, k, v, block_size, causal: what the forward pass was given.
        output, lse: what it gave.
        grad_output: the loss's gradient by the output.

    Returns:
        ``(grad_q, grad_k, grad_v)``, of the shapes and dtypes of q, k and v.
    """
    ### BEGIN SOLUTION
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    ahead = n_keys - n_queries
    scale = 1 / math.sqrt(q.shape[-1])
    dtypes = q.dtype, k.dtype, v.dtype
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k, v, output, grad_output = (each.to(wide) for each in (q, k, v, output, grad_output))
    q = q * scale  # once, not in every tile
    # A row's mean of the gradients by its weights, weighted by them, is the output times its gradient.
    mean = (grad_output * output).sum(-1, keepdim=True)  # (..., queries, 1)
    lse = lse.to(wide).unsqueeze(-1).clamp(min=torch.finfo(wide).min)  # (..., queries, 1): no −∞ − (−∞)
    grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)

    for start in range(0, n_keys, block_size):
        columns = slice(start, min(start + block_size, n_keys))
        earliest = max(0, start - ahead) if causal else 0  # the first query that sees a key of these
        for first in range(earliest, n_queries, block_size):
            rows = slice(first, min(first + block_size, n_queries))
            scores = q[..., rows, :] @ k[..., columns, :].mT  # (..., rows, columns)
            if causal and columns.stop > first + ahead + 1:
                mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(first + ahead - start)
                scores.masked_fill_(~mask, -math.inf)
            weights = scores.sub_(lse[..., rows, :]).exp_()  # (..., rows, columns), as in the forward pass
            grad_v[..., columns, :].add_(weights.mT @ grad_output[..., rows, :])
            grad_scores = grad_output[..., rows, :] @ v[..., columns, :].mT  # (..., rows, columns), by the weights
            grad_scores.sub_(mean[..., rows, :]).mul_(weights)
            grad_q[..., rows, :].add_(grad_scores @ k[..., columns, :])
            grad_k[..., columns, :].add_(grad_scores.mT @ q[..., rows, :])  # q is scaled, so this is, too
    return grad_q.mul_(scale).to(dtypes[0]), grad_k.to(dtypes[1]), grad_v.to(dtypes[2])
    ### END SOLUTION


# %% visible="flash_attention_backward"
_q, _k, _v = (torch.randn(n, 4, requires_grad=True) for n in (5, 7, 7))
_output = torch.softmax(_q @ _k.T / 2, -1) @ _v  # (5, 4)
_lse = torch.logsumexp(_q @ _k.T / 2, -1)  # (5,)
_grad = torch.randn(5, 4)
_right = torch.autograd.grad(_output, (_q, _k, _v), _grad)
with torch.no_grad():
    _found = flash_attention_backward(_q, _k, _v, _output, _lse, _grad, 3)
assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(_found, _right, strict=True))

# %% exam="flash_attention_backward" points=5

# %% [markdown]
# ## `FlashAttention`
#
# The two as one operator that autograd can use: `FlashAttention.apply(q, k, v, block_size, causal)` gives the output.
# Between forward and backward, keep what grows with n only.


# %% exercise="FlashAttention"
class FlashAttention(torch.autograd.Function):
    """``flash_attention_forward``'s output, with ``flash_attention_backward`` for its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Float[Tensor, "... queries d_k"],
        k: Float[Tensor, "... keys d_k"],
        v: Float[Tensor, "... keys d_v"],
        block_size: int,
        causal: bool,
    ) -> Float[Tensor, "... queries d_v"]:
        """The output, and in ``ctx`` what the way back needs."""
        ### BEGIN SOLUTION
        output, lse = flash_attention_forward(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.block_size, ctx.causal = block_size, causal
        return output
        ### END SOLUTION

    @staticmethod
    def backward(ctx: Any, grad_output: Float[Tensor, "... queries d_v"]) -> tuple[Tensor | None, ...]:
        """The gradients by q, k and v; None for what has none."""
        ### BEGIN SOLUTION
        q, k, v, output, lse = ctx.saved_tensors
        grads = flash_attention_backward(q, k, v, output, lse, grad_output, ctx.block_size, ctx.causal)
        return *grads, None, None
        ### END SOLUTION


# %% visible="FlashAttention"
_leaves = [torch.randn(2, 6, 4, requires_grad=True) for _ in range(3)]
_output = FlashAttention.apply(*_leaves, 4, False)
assert _output.shape == (2, 6, 4)
assert [grad.shape for grad in torch.autograd.grad(_output.sum(), _leaves)] == [(2, 6, 4)] * 3

# %% exam="FlashAttention" points=3

# %% [markdown]
# ## Be the examiner: `check_flash`
#
# Write the test. It is run on right implementations of `flash_attention_forward` and on wrong ones; your mark is the
# share of the wrong ones that it rejects, by raising (an `assert` is enough) or by giving `False`. If it rejects a
# single right one, it gets nothing. All of them are tiled: memory is not what you look at here.


# %% exercise="check_flash"
def check_flash(fn: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """A test of tiled attention.

    Args:
        fn: called as ``fn(q, k, v, block_size)`` or ``fn(q, k, v, block_size, causal=True)``.

    Raises:
        AssertionError: ``fn`` is wrong.
    """
    ### BEGIN SOLUTION
    # Ragged tiles, tiles larger than all, of one; as many queries as keys, fewer, more; small scores and large ones.
    for lead, queries, keys, block_size in [
        ((2, 3), 5, 7, 3),
        ((), 6, 6, 2),
        ((2,), 7, 4, 3),
        ((), 3, 9, 1),
        ((), 4, 4, 9),
    ]:
        for causal in (False, True):
            for size in (1.0, 30.0):
                # In memory the heads come after the tokens, as when they were split off: no `view` joins them.
                q = size * torch.randn(*lead[:1], queries, *lead[1:], 8).movedim(len(lead[:1]), -2)
                k = size * torch.randn(*lead[:1], keys, *lead[1:], 8).movedim(len(lead[:1]), -2)
                v = torch.randn(*lead[:1], keys, *lead[1:], 5).movedim(len(lead[:1]), -2)
                before = [each.clone() for each in (q, k, v)]
                output, lse = fn(q, k, v, block_size, causal=causal) if causal else fn(q, k, v, block_size)
                assert all(map(torch.equal, before, (q, k, v))), "fn changes its inputs"

                scores = q @ k.mT / math.sqrt(8)  # (..., queries, keys)
                future = torch.ones(queries, keys, dtype=torch.bool).triu(1 + keys - queries)
                scores = scores.masked_fill(future & causal, -math.inf)
                weights = torch.softmax(scores, -1).nan_to_num(0.0)  # rows without a key: 0/0
                torch.testing.assert_close(output, weights @ v, rtol=1e-3, atol=1e-3)
                torch.testing.assert_close(lse, torch.logsumexp(scores, -1), rtol=1e-3, atol=1e-3)

    # 400 equal keys, one by one: in bfloat16 a sum of ones stops at 256.
    q, k, v = torch.zeros(1, 4), torch.zeros(400, 4), torch.arange(400)[:, None] // 300
    output, lse = fn(*(each.bfloat16() for each in (q, k, v)), 1)
    assert output.dtype == torch.bfloat16
    assert lse.dtype == torch.float32
    assert abs(lse.item() - math.log(400)) < 1e-3
    assert abs(output.item() - 0.25) < 0.01
    ### END SOLUTION


# %% visible="check_flash"
check_flash(flash_attention_forward)

# %% exam="check_flash" points=3

# %% [markdown]
# ## For those who want to go on: `flash_attention_triton`
#
# The forward pass as one kernel in Triton. A program is one tile of queries of one head: it walks past the keys, and
# everything in between stays on the chip. Queries, keys and values come as pointers; a tile is loaded by an array of
# addresses, with a mask where the tile is larger than what there is.
#
# Without a GPU the kernel runs in Triton's interpreter, one tile after the other: slowly, but all checks run. Every
# tile costs it milliseconds, whatever its size, so take tiles of 64 × 64. Inputs are float32 or float16; on a GPU
# bfloat16 as well (the interpreter computes wrongly in it, without a word). Products of float32 ask for
# `input_precision="ieee"`: a GPU rounds them to ten bits otherwise. The width of a tile is a power of two, 16 at least.
#
# **May not:** a matrix product, a softmax or an attention of PyTorch. Triton exists for Linux; on another system leave
# this one out. The wrapper is given in part: the kernel and its launch are yours, the names too.

# %%
try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None
    print("flash_attention_triton needs Triton, which exists for Linux only. All other exercises do without.")

jit = triton.jit if triton else lambda kernel: kernel


@functools.cache
def tuned(kernel: Any) -> Any:
    """``kernel`` with the tiles that are the fastest on this GPU, found by trying once for each kind of input."""
    sizes = [
        (128, 128, 8, 3),
        (128, 64, 8, 3),
        (128, 64, 4, 4),
        (128, 64, 4, 3),
        (128, 32, 4, 4),
        (64, 64, 4, 3),
        (64, 32, 4, 3),
    ]
    tiles = [triton.Config({"ROWS": r, "COLUMNS": c}, num_warps=w, num_stages=s) for r, c, w, s in sizes]
    return triton.autotune(tiles, key=["causal", "d_k", "d_v"])(kernel)


# %% exercise="flash_attention_triton"
@jit
def flash_forward_kernel(
    q,
    k,
    v,
    output,
    n_queries,
    n_keys,
    scale,
    causal: tl.constexpr,
    d_k: tl.constexpr,
    d_v: tl.constexpr,
    WIDTH_K: tl.constexpr,
    WIDTH_V: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One tile of ``ROWS`` queries of one head, past all its keys; rows lie one after another in memory."""
    ### BEGIN SOLUTION
    head, first = tl.program_id(1).to(tl.int64), tl.program_id(0) * ROWS
    rows, wide_k, wide_v = first + tl.arange(0, ROWS), tl.arange(0, WIDTH_K), tl.arange(0, WIDTH_V)
    q += head * n_queries * d_k + rows[:, None] * d_k + wide_k[None, :]  # (ROWS, WIDTH_K) addresses
    k += head * n_keys * d_k + wide_k[None, :]
    v += head * n_keys * d_v + wide_v[None, :]
    in_k, in_v = (wide_k < d_k)[None, :], (wide_v < d_v)[None, :]
    padded: tl.constexpr = d_k != WIDTH_K or d_v != WIDTH_V
    q_tile = tl.load(q, mask=(rows < n_queries)[:, None] & in_k, other=0.0)

    ahead = n_keys - n_queries
    seen_by_all, seen = n_keys, n_keys
    if causal:
        seen_by_all, seen = tl.minimum(first + ahead + 1, n_keys), tl.minimum(first + ROWS + ahead, n_keys)
    whole = tl.maximum(seen_by_all, 0) // COLUMNS * COLUMNS
    top = tl.full([ROWS], -3e38, tl.float32)  # nearly the lowest number, and not −∞, as in PyTorch
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, WIDTH_V], tl.float32)
    # First the tiles that every row sees whole. Only those that follow, on the diagonal and at the end, need a mask.
    for masked in tl.static_range(2):
        for start in range(whole if masked else 0, seen if masked else whole, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            k_at, v_at = k + columns[:, None] * d_k, v + columns[:, None] * d_v
            if masked or padded:
                there = (columns < n_keys)[:, None]
                k_tile = tl.load(k_at, mask=there & in_k, other=0.0)  # (COLUMNS, WIDTH_K)
                v_tile = tl.load(v_at, mask=there & in_v, other=0.0)  # (COLUMNS, WIDTH_V)
            else:
                k_tile, v_tile = tl.load(k_at), tl.load(v_at)
            scores = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")  # (ROWS, COLUMNS), not scaled yet
            if masked:
                sees = (columns < n_keys)[None, :]
                if causal:
                    sees = sees & (columns[None, :] <= rows[:, None] + ahead)
                scores = tl.where(sees, scores, -float("inf"))
            # The scale holds log₂ e, for 2 to the power is one instruction, and e to the power is two.
            new_top = tl.maximum(top, tl.max(scores, 1) * scale)
            weights = tl.exp2(scores * scale - new_top[:, None])
            carried = tl.exp2(top - new_top)
            total = total * carried + tl.sum(weights, 1)
            sums = tl.dot(weights.to(v_tile.dtype), v_tile, sums * carried[:, None], input_precision="ieee")
            top = new_top
    output += head * n_queries * d_v + rows[:, None] * d_v + wide_v[None, :]
    result = (sums / tl.maximum(total, 1.0)[:, None]).to(output.dtype.element_ty)
    tl.store(output, result, mask=(rows < n_queries)[:, None] & in_v)
    ### END SOLUTION


def flash_attention_triton(
    q: Float[Tensor, "... queries d_k"],
    k: Float[Tensor, "... keys d_k"],
    v: Float[Tensor, "... keys d_v"],
    causal: bool = False,
) -> Float[Tensor, "... queries d_v"]:
    """Scaled dot-product attention in one Triton kernel (Dao 2023, algorithm 1), without gradients.

    Args:
        q, k, v: queries, keys and values in float32 or float16; on a GPU bfloat16 as well.
        causal: as in ``flash_attention_forward``.

    Returns:
        One output a query, in the inputs' dtype; zeros for a query that sees no key.

    Raises:
        RuntimeError: Triton is not installed.
    """
    if triton is None:
        raise RuntimeError("flash_attention_triton needs Triton, which exists for Linux only")
    ### BEGIN SOLUTION
    q, k, v = (each.contiguous() for each in (q, k, v))
    n_queries, n_keys, d_k, d_v = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    output = q.new_empty(*q.shape[:-1], d_v)
    widths = (max(16, triton.next_power_of_2(width)) for width in (d_k, d_v))

    def grid(tile: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(n_queries, tile["ROWS"]), math.prod(q.shape[:-2])

    scale = math.log2(math.e) / math.sqrt(d_k)
    arguments = (q, k, v, output, n_queries, n_keys, scale, causal, d_k, d_v, *widths)
    if q.is_cuda and n_keys >= 1024:
        tuned(flash_forward_kernel)[grid](*arguments)
    else:
        flash_forward_kernel[grid](*arguments, ROWS=64, COLUMNS=64, num_stages=1)
    return output
    ### END SOLUTION


# %% visible="flash_attention_triton"
if triton is not None:
    _device = "cuda" if torch.cuda.is_available() else "cpu"
    _q, _k, _v = (torch.randn(2, n, 16, device=_device) for n in (70, 100, 100))
    _expected = torch.softmax(_q @ _k.mT / 4, -1) @ _v
    assert torch.allclose(flash_attention_triton(_q, _k, _v), _expected, atol=1e-4)
    assert torch.allclose(flash_attention_triton(_q, _k[:, :70], _v[:, :70], True)[:, 0], _v[:, 0], atol=1e-5)

# %% exam="flash_attention_triton" points=1
