# %% [markdown]
# # Exercises: multi-head attention
#
# You let one layer look at several places at once: split the width among the heads, let each attend by itself, put the
# results side by side, and project. On the way you find the input on which the most common mistake shows.
# The lesson *Multi-head attention* has the formulas.
#
# **May use:** `torch.softmax`, matrix products, `torch.einsum`, and your own answers from the cells above.
# **May not:** a ready-made attention (`F.scaled_dot_product_attention`, `nn.MultiheadAttention`, …).
#
# Shapes are `(..., heads, length, width)`: whatever stands in front, a batch, more or nothing, must not matter.
#
# Each answer has a cell of quick checks below it. The marks come from the autograder. In a clone of the course, after
# `make course`: `.venv/bin/autograder check chapters/exercises/multi_head.ipynb`.

# %%
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# %% [markdown]
# ## `split_heads`
#
# Give each head its share of every token: head 0 the first `d_head` columns, head 1 the next, and so on. The heads
# become an axis of their own in front of the tokens, where attention takes them for one more leading axis.


# %% exercise="split_heads"
def split_heads(x: Float[Tensor, "... n d_model"], n_heads: int) -> Float[Tensor, "... heads n d_head"]:
    """Head h gets columns h · d_head to (h + 1) · d_head, with d_head = d_model / n_heads (Vaswani et al. 2017, 3.2.2).

    Args:
        x: one row a token.
        n_heads: the number of heads.

    Returns:
        The heads, on an axis in front of the tokens.

    Raises:
        ValueError: ``d_model`` is no multiple of ``n_heads``; the message names both.
    """
    ### BEGIN SOLUTION
    d_model = x.shape[-1]
    if d_model % n_heads:
        raise ValueError(f"d_model = {d_model} can't be shared out evenly among {n_heads} heads")
    # Only the last axis is cut; then heads and tokens change places.
    heads = x.reshape(*x.shape[:-1], n_heads, d_model // n_heads)  # (..., n, heads, d_head)
    return heads.transpose(-3, -2)  # (..., heads, n, d_head)
    ### END SOLUTION


# %% visible="split_heads"
_x = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=torch.float)  # two tokens, d_model = 4
assert torch.equal(split_heads(_x, 2), torch.tensor([[[1.0, 2.0], [5.0, 6.0]], [[3.0, 4.0], [7.0, 8.0]]]))
assert split_heads(torch.randn(2, 3, 5, 8), 4).shape == (2, 3, 4, 5, 2)
_message = "no ValueError"
try:
    split_heads(torch.randn(3, 50), 7)
except ValueError as _error:
    _message = str(_error)
assert "50" in _message, f"50 columns, 7 heads: a ValueError that names both is asked for, not {_message!r}"
assert "7" in _message, f"50 columns, 7 heads: a ValueError that names both is asked for, not {_message!r}"

# %% exam="split_heads" points=3

# %% [markdown]
# ## `merge_heads`
#
# The way back: side by side again, each token's results of head 0, of head 1, and so on.


# %% exercise="merge_heads"
def merge_heads(x: Float[Tensor, "... heads n d_head"]) -> Float[Tensor, "... n d_model"]:
    """The heads' results side by side, one row a token: what undoes ``split_heads`` (Vaswani et al. 2017, 3.2.2).

    Args:
        x: the heads, on an axis in front of the tokens.

    Returns:
        One row a token, with d_model = heads · d_head columns.
    """
    ### BEGIN SOLUTION
    # The numbers that become neighbours must be on neighbouring axes first.
    return x.transpose(-3, -2).flatten(-2)  # (..., n, heads, d_head) -> (..., n, d_model)
    ### END SOLUTION


# %% visible="merge_heads"
_heads = torch.tensor([[[1, 2], [5, 6]], [[3, 4], [7, 8]]])  # two heads, two tokens, d_head = 2
assert torch.equal(merge_heads(_heads), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]))
assert merge_heads(torch.randn(2, 3, 4, 5, 2)).shape == (2, 3, 5, 8)

# %% exam="merge_heads" points=2

# %% [markdown]
# ## Find the counterexample: `find_scrambled_merge`
#
# `concatenated` is what the formula says. `reshaped` gives the same shape with one operation less, and has been
# published more than once. Give an input on which the two differ, with as few numbers as there can be.


# %%
def concatenated(x: Float[Tensor, "heads n d_head"]) -> Float[Tensor, "n d_model"]:
    """The heads of one sentence side by side."""
    heads, _n, _d_head = x.shape
    return torch.cat([x[h] for h in range(heads)], dim=1)


def reshaped(x: Float[Tensor, "heads n d_head"]) -> Float[Tensor, "n d_model"]:
    """The same shape."""
    heads, n, d_head = x.shape
    return x.reshape(n, heads * d_head)


# %% exercise="find_scrambled_merge"
def find_scrambled_merge() -> Float[Tensor, "heads n d_head"]:
    """A smallest tensor, counted in numbers, for which ``concatenated`` and ``reshaped`` differ."""
    ### BEGIN SOLUTION
    # With one head, or with one token, there is only one order. Two of each, of width 1, are enough.
    return torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])  # (heads, n, d_head) = (2, 2, 1)
    ### END SOLUTION


# %% visible="find_scrambled_merge"
_found = find_scrambled_merge()
assert isinstance(_found, torch.Tensor), "one tensor is asked for"
assert _found.ndim == 3, "an input has three axes: heads, n, d_head"
assert not torch.equal(concatenated(_found), reshaped(_found)), "on this input the two agree"

# %% exam="find_scrambled_merge" points=2

# %% [markdown]
# ## `MultiHeadAttention`
#
# The layer: project, split, attend, merge, project. The four projections are given, each for all heads at once. Write
# `forward`. With the same weights it equals `nn.MultiheadAttention`, without masks and dropout.
#
# Without `key` the queries look at their own sequence. Without `value` the keys hand over themselves.


# %% exercise="MultiHeadAttention"
class MultiHeadAttention(nn.Module):
    """Several heads side by side (Vaswani et al. 2017, 3.2.2), as ``nn.MultiheadAttention`` with ``batch_first``.

    Args:
        d_model: width of the input and of the output.
        n_heads: the number of heads; each is d_model / n_heads wide.
        bias: whether the four projections have one.

    Raises:
        ValueError: ``d_model`` is no multiple of ``n_heads``; the message names both.
    """

    def __init__(self, d_model: int, n_heads: int, bias: bool = True) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model = {d_model} can't be shared out evenly among {n_heads} heads")
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
    ) -> Float[Tensor, "... queries d_model"]:
        """What each query's token gets from the tokens of ``key`` and ``value``.

        Args:
            query: the tokens that ask.
            key: the tokens that are asked; ``query`` if None.
            value: the tokens that hand over; ``key`` if None.
        """
        ### BEGIN SOLUTION
        key = query if key is None else key
        value = key if value is None else value
        q = split_heads(self.w_q(query), self.n_heads)  # (..., heads, queries, d_head)
        k = split_heads(self.w_k(key), self.n_heads)  # (..., heads, keys, d_head)
        v = split_heads(self.w_v(value), self.n_heads)  # (..., heads, keys, d_head)

        scores = q @ k.mT / math.sqrt(q.shape[-1])  # (..., heads, queries, keys): a dot product has d_head terms
        heads = torch.softmax(scores, dim=-1) @ v  # (..., heads, queries, d_head)
        output: Tensor = self.w_o(merge_heads(heads))  # (..., queries, d_model)
        return output
        ### END SOLUTION


# %% visible="MultiHeadAttention"
_layer, _x = MultiHeadAttention(d_model=8, n_heads=2), torch.randn(2, 5, 8)
assert _layer(_x).shape == (2, 5, 8)
assert _layer(_x[0, :3], _x[0]).shape == (3, 8)
assert torch.allclose(_layer(_x), _layer(_x, _x, _x), atol=1e-6)
assert torch.allclose(_layer(_x.flip(1)), _layer(_x).flip(1), atol=1e-5)

# %% exam="MultiHeadAttention" points=5
