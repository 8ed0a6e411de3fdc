# %% [markdown]
# # Exercises: masking
#
# You hide keys from queries: those that are padding, and those that lie in the future. You build the masks, join them,
# carry them through the softmax into attention with several heads, find an input on which a popular way of masking
# leaks, and at the end write the test that tells right answers from wrong ones. The lesson *Masking* has it all.
#
# **A mask** is boolean, `True` means *may attend*. It broadcasts to the scores `(..., queries, keys)` without enlarging
# them: one that would, or does not fit at all, raises a `ValueError`, one that is not boolean a `TypeError`. (The
# autograder takes either of the two errors for either.) A query that may attend to nothing has zero weights, a zero
# output, and sends back a zero gradient, or none, never NaN. Scores are finite. Whatever gives that result in float64,
# float32, bfloat16 and float16 is right, with any fill value.
#
# **May use:** `torch.softmax`, matrix products, and your own answers from the cells above. **May not:** a ready-made
# attention (`F.scaled_dot_product_attention`, `nn.MultiheadAttention`, …) or masked softmax. In the test and the
# counterexample everything is free.
#
# Each answer has a cell of quick checks below it. The marks come from the autograder. In a clone of the course, after
# `make course`: `.venv/bin/autograder check chapters/exercises/masking.ipynb`.

# %%
from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

# %% [markdown]
# ## `causal_mask`
#
# Nobody may look into the future. The last query is as recent as the last key, whatever their numbers are: the mask is
# aligned at the bottom right. With more queries than keys, the first queries see nothing.


# %% exercise="causal_mask"
def causal_mask(n_queries: int, n_keys: int, device: torch.device | str | None = None) -> Bool[Tensor, "queries keys"]:
    """Who may see whom if no query may look ahead; the last query sees every key (FlashAttention's alignment).

    Args:
        n_queries, n_keys: how many there are; the last of both stand at the same position.
        device: where the mask is made.

    Returns:
        True where the query may attend to the key.
    """
    ### BEGIN SOLUTION
    # Query i stands at the position of key i + (n_keys - n_queries), and sees the keys up to there.
    everything = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)  # (queries, keys)
    return everything.tril(n_keys - n_queries)
    ### END SOLUTION


# %% visible="causal_mask"
assert causal_mask(3, 3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
assert causal_mask(1, 4).tolist() == [[True, True, True, True]]
assert causal_mask(3, 2).tolist() == [[False, False], [True, False], [True, True]]

# %% exam="causal_mask" points=2

# %% [markdown]
# ## `padding_mask`
#
# Sentences of different lengths lie in one tensor, filled up at the end. Hide what was filled up, from every query and
# in every head: the two axes of length one stand for them.


# %% exercise="padding_mask"
def padding_mask(lengths: Int[Tensor, " batch"], n_keys: int) -> Bool[Tensor, "batch 1 1 keys"]:
    """Which keys are real, for scores ``(batch, heads, queries, keys)``.

    Args:
        lengths: how many keys of each sentence are real, from 0 to ``n_keys``; the real ones come first.
        n_keys: how many keys there are, the padding included.

    Returns:
        True for the real keys, on the device of ``lengths``.
    """
    ### BEGIN SOLUTION
    positions = torch.arange(n_keys, device=lengths.device)  # (keys,)
    real = positions < lengths[:, None]  # (batch, keys)
    return real[:, None, None, :]  # (batch, 1, 1, keys)
    ### END SOLUTION


# %% visible="padding_mask"
assert padding_mask(torch.tensor([2, 3]), 4).shape == (2, 1, 1, 4)
assert padding_mask(torch.tensor([2, 0]), 3).tolist() == [[[[True, True, False]]], [[[False, False, False]]]]

# %% exam="padding_mask" points=2

# %% [markdown]
# ## `combine_masks`
#
# A decoder has reasons of both kinds at once. A key may be seen if no mask hides it. `None` stands for a mask that
# hides nothing.


# %% exercise="combine_masks"
def combine_masks(*masks: Bool[Tensor, "..."] | None) -> Bool[Tensor, "..."] | None:
    """One mask that allows what all of ``masks`` allow.

    Args:
        masks: masks that broadcast against one another; those that are None are left out.

    Returns:
        The joint mask, of the shape that they broadcast to; None if there is no mask among them.
    """
    ### BEGIN SOLUTION
    joint = None
    for mask in masks:
        if mask is not None:
            joint = mask if joint is None else joint & mask
    return joint
    ### END SOLUTION


# %% visible="combine_masks"
_joint = combine_masks(torch.tensor([True, True, False]), None, torch.tensor([True, False, True]))
assert _joint is not None
assert _joint.tolist() == [True, False, False]
assert combine_masks(None, None) is None

# %% exam="combine_masks" points=2

# %% [markdown]
# ## `masked_softmax`
#
# Softmax over the keys that may be seen; the others get a weight of exactly zero, and send back no gradient. A row in
# which nothing may be seen is all zeros. Mind both errors, and `mask=None`, which hides nothing.


# %% exercise="masked_softmax"
def masked_softmax(
    scores: Float[Tensor, "..."], mask: Bool[Tensor, "..."] | None, dim: int = -1
) -> Float[Tensor, "..."]:
    """Softmax along ``dim`` over the positions where ``mask`` is True, zero elsewhere.

    Args:
        scores: finite scores of any shape.
        mask: True where a position counts; it broadcasts to the scores. None: all count.
        dim: the axis along which the weights sum to one, or to zero where nothing counts.

    Returns:
        Weights of the shape, dtype and device of ``scores``.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the mask does not broadcast to the scores' shape.
    """
    ### BEGIN SOLUTION
    if mask is None:
        return torch.softmax(scores, dim)
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, not {mask.dtype}")
    try:
        mask.expand(scores.shape)
    except RuntimeError:
        raise ValueError(f"a mask {tuple(mask.shape)} for scores {tuple(scores.shape)}") from None
    # The lowest finite number, and not −inf: a row that sees nothing is then uniform, never NaN, and is cleared below.
    lowest = torch.finfo(scores.dtype).min
    weights = torch.softmax(scores.masked_fill(~mask, lowest), dim)
    return weights.masked_fill(~mask, 0.0)
    ### END SOLUTION


# %% visible="masked_softmax"
_mask = torch.tensor([[True, True, False], [False, False, False]])
assert torch.allclose(masked_softmax(torch.zeros(2, 3), _mask), torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]))
assert torch.allclose(masked_softmax(torch.tensor([1.0, 2.0]), None), torch.softmax(torch.tensor([1.0, 2.0]), -1))
for _refused in (_mask.float(), _mask.expand(4, 2, 3), torch.ones(2, 5, dtype=torch.bool)):
    try:
        masked_softmax(torch.zeros(2, 3), _refused)
    except (TypeError, ValueError):
        continue
    raise AssertionError(f"a mask {_refused.dtype} {tuple(_refused.shape)} has to be refused")

# %% exam="masked_softmax" points=4

# %% [markdown]
# ## `masked_attention`
#
# Scaled dot-product attention in which a query averages only the values that it may see. Without a mask it is the
# attention that you know.


# %% exercise="masked_attention"
def masked_attention(
    q: Float[Tensor, "... queries d_k"],
    k: Float[Tensor, "... keys d_k"],
    v: Float[Tensor, "... keys d_v"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "... queries d_v"]:
    """Scaled dot-product attention under a mask, as ``F.scaled_dot_product_attention`` (Vaswani et al. 2017, 3.2.3).

    Args:
        q, k, v: queries, keys and values.
        mask: True where a query may attend to a key; it broadcasts to the scores. None: everywhere.

    Returns:
        One output a query; zero for a query that may attend to nothing.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the mask does not broadcast to the scores' shape.
    """
    ### BEGIN SOLUTION
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (..., queries, keys)
    weights = masked_softmax(scores, mask)  # (..., queries, keys)
    return weights @ v  # (..., queries, d_v)
    ### END SOLUTION


# %% visible="masked_attention"
_q, _k, _v = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 5)
_past = torch.ones(3, 3, dtype=torch.bool).tril()
assert torch.allclose(masked_attention(_q, _k, _v, _past)[:, 0], _v[:, 0], atol=1e-6)
assert torch.equal(masked_attention(_q, _k, _v, torch.zeros(3, 3, dtype=torch.bool)), torch.zeros(2, 3, 5))

# %% exam="masked_attention" points=5

# %% [markdown]
# ## `MaskedMultiHeadAttention`
#
# Multi-head attention under a mask. The projections are given; write `forward`. How to split and merge the heads you
# know from *Multi-head attention*: bring your `split_heads` and `merge_heads` along, or write the two lines again.
# A query that may attend to nothing gets zeros from every head, and so the bias of `w_o`.


# %% exercise="MaskedMultiHeadAttention"
class MaskedMultiHeadAttention(nn.Module):
    """Multi-head attention under a mask, as ``nn.MultiheadAttention`` (Vaswani et al. 2017, 3.2.2).

    Args:
        d_model: width of the input and the output, a multiple of ``n_heads``.
        n_heads: how many attentions run side by side, each ``d_model // n_heads`` wide.
        bias: whether the four projections have a bias.
    """

    def __init__(self, d_model: int, n_heads: int, bias: bool = True) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model = {d_model} is not a multiple of n_heads = {n_heads}")
        self.n_heads = n_heads
        self.w_q = nn.Linear(d_model, d_model, bias=bias)
        self.w_k = nn.Linear(d_model, d_model, bias=bias)
        self.w_v = nn.Linear(d_model, d_model, bias=bias)
        self.w_o = nn.Linear(d_model, d_model, bias=bias)

    def forward(
        self,
        query: Float[Tensor, "... queries d_model"],
        key: Float[Tensor, "... keys d_model"] | None = None,
        value: Float[Tensor, "... keys d_model"] | None = None,
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "... queries d_model"]:
        """Every head's masked attention, joined and projected.

        Args:
            query: what asks.
            key, value: what is asked; ``key`` is ``query`` and ``value`` is ``key`` unless given.
            mask: True where a query may attend to a key; it broadcasts to ``(..., heads, queries, keys)``.

        Raises:
            TypeError: the mask is not boolean.
            ValueError: the mask does not broadcast to the scores' shape.
        """
        ### BEGIN SOLUTION
        key = query if key is None else key
        value = key if value is None else value
        projected = (self.w_q(query), self.w_k(key), self.w_v(value))  # (..., n, d_model) each
        q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in projected)  # (..., heads, n, d_head)
        heads = masked_attention(q, k, v, mask)  # (..., heads, queries, d_head)
        output: Tensor = self.w_o(heads.transpose(-3, -2).flatten(-2))  # (..., queries, d_model)
        return output
        ### END SOLUTION


# %% visible="MaskedMultiHeadAttention"
_layer, _x = MaskedMultiHeadAttention(d_model=6, n_heads=2), torch.randn(2, 4, 6)
_past = torch.ones(4, 4, dtype=torch.bool).tril()
assert _layer(_x, mask=_past).shape == (2, 4, 6)
assert torch.allclose(_layer(_x, mask=_past)[:, :2], _layer(_x[:, :2], mask=_past[:2, :2]), atol=1e-6)
assert torch.allclose(_layer(_x, mask=torch.zeros(4, 4, dtype=torch.bool)), _layer.w_o.bias.expand(2, 4, 6))

# %% exam="MaskedMultiHeadAttention" points=4

# %% [markdown]
# ## Find the counterexample: `find_masking_leak`
#
# Two ways to let only the first key of each row be seen. One subtracts 20 from the scores of the others, as if that
# were minus infinity; the other replaces them. On random inputs no test will tell them apart.


# %%
def by_subtracting(scores: Float[Tensor, "... keys"]) -> Float[Tensor, "... keys"]:
    """Weights with all keys but the first of each row hidden, nearly."""
    hidden = torch.arange(scores.shape[-1]) > 0  # (keys,)
    return torch.softmax(scores - 20 * hidden, dim=-1)


def by_replacing(scores: Float[Tensor, "... keys"]) -> Float[Tensor, "... keys"]:
    """Weights with all keys but the first of each row hidden."""
    hidden = torch.arange(scores.shape[-1]) > 0  # (keys,)
    return torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)


# %% [markdown]
# Give finite scores for which the two differ by more than a thousandth, with as few numbers as you can. Two thirds of
# the points are for any that do, the last third for the smallest.


# %% exercise="find_masking_leak"
def find_masking_leak() -> Float[Tensor, "... keys"]:
    """Scores on which ``by_subtracting`` and ``by_replacing`` differ by more than 0.001.

    Returns:
        As few scores as possible.
    """
    ### BEGIN SOLUTION
    # Once 20 are subtracted the hidden score still lies 10 above the only one that may be seen.
    return torch.tensor([0.0, 30.0])  # (keys,)
    ### END SOLUTION


# %% visible="find_masking_leak"
_scores = find_masking_leak()
assert _scores.isfinite().all()
assert (by_subtracting(_scores) - by_replacing(_scores)).abs().max() > 1e-3

# %% exam="find_masking_leak" points=2

# %% [markdown]
# ## Be the examiner: `check_masked_attention`
#
# Write the test. It is run on right implementations of `masked_attention` and on wrong ones; your mark is the share of
# the wrong ones that it rejects, by raising (an `assert` is enough) or by giving `False`. If it rejects a single right
# one, it gets nothing. Right answers fill with −∞, or with any number that is low enough.


# %% exercise="check_masked_attention"
def check_masked_attention(fn: Callable[..., Tensor]) -> None:
    """A test of implementations of masked attention.

    Args:
        fn: called as ``fn(q, k, v)`` or ``fn(q, k, v, mask)``.

    Raises:
        AssertionError: ``fn`` is wrong.
    """
    ### BEGIN SOLUTION
    reference = torch.nn.functional.scaled_dot_product_attention
    past = torch.ones(4, 4, dtype=torch.bool).tril()  # (queries, keys)
    masks = {
        "no": None,
        "causal": past,
        "padding": (torch.arange(4) < torch.tensor([[3], [1]]))[:, None, None],  # (batch, 1, 1, keys)
        "one for each head": torch.rand(2, 3, 4, 4) > 0.5,  # (batch, heads, queries, keys)
        "leaving a query without a key": past.tril(-1),
        "all-hiding": torch.zeros(4, 4, dtype=torch.bool),
    }
    for name, mask in masks.items():
        for size in (1.0, 300.0):  # 300² makes scores against which no ordinary number is low
            q, k, v = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64).unbind()  # (batch, heads, n, d) each
            q, k, v = (leaf.requires_grad_() for leaf in (size * q, size * k, v))
            before = [leaf.detach().clone() for leaf in (q, k, v)]
            output, expected = fn(q, k, v, mask), reference(q, k, v, mask)
            torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-8, msg=f"wrong under {name} mask")
            assert all(map(torch.equal, before, (q, k, v))), "fn changes its inputs"
            grads = torch.autograd.grad(output.square().sum(), (q, k, v))
            right = torch.autograd.grad(expected.square().sum(), (q, k, v))
            torch.testing.assert_close(grads, right, rtol=1e-5, atol=1e-6)

    q, k, v = torch.randn(2, 3, 5), torch.randn(2, 4, 5), torch.randn(2, 4, 6)  # a length of its own for every axis
    mask = torch.rand(2, 3, 4) > 0.3
    torch.testing.assert_close(fn(q, k, v, mask), reference(q, k, v, mask), rtol=1e-4, atol=1e-5)
    for refused in (mask.float(), mask[:, None]):
        try:
            fn(q, k, v, refused)
        except (TypeError, ValueError):
            continue
        raise AssertionError(f"fn takes a mask {refused.dtype} {tuple(refused.shape)}")
    ### END SOLUTION


# %% visible="check_masked_attention"
check_masked_attention(masked_attention)

# %% exam="check_masked_attention" points=4
