# %% [markdown]
# # Exercises: scores
#
# You write the first half of attention: three projections, and three ways to measure how relevant a key is to a query.
# The lesson *Scores* has all the formulas.
#
# **May use:** matrix products, `torch.einsum`, `torch.tanh`, `F.linear`, and your own answers from the cells above.
# **May not:** a ready-made attention (`F.scaled_dot_product_attention`, `nn.MultiheadAttention`, …); in
# `bilinear_scores` also `F.bilinear` and `nn.Bilinear`.
#
# Shapes are `(..., length, width)`: whatever stands in front, a batch, heads or nothing, must not matter. Queries and
# keys may differ in number. Scores come back as they are: nothing divides them, and nothing turns them into weights
# yet. Results have the input's dtype and device, and inputs are never changed.
#
# Each answer has a cell of quick checks below it: they tell you when you are close. The marks come from the autograder,
# which tries more shapes, dtypes, devices and extremes. In a clone of the course, after `make course`:
# `.venv/bin/autograder check chapters/exercises/scores.ipynb`.

# %%
from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# %% [markdown]
# ## `project_qkv`
#
# One sequence, three roles: a query, a key and a value for each token. The weights are `(d_in, d_out)`, without bias.


# %% exercise="project_qkv"
def project_qkv(
    x: Float[Tensor, "... n d_model"],
    w_q: Float[Tensor, "d_model d_k"],
    w_k: Float[Tensor, "d_model d_k"],
    w_v: Float[Tensor, "d_model d_v"],
) -> tuple[Float[Tensor, "... n d_k"], Float[Tensor, "... n d_k"], Float[Tensor, "... n d_v"]]:
    """A query, a key and a value for each row of ``x``: x W_q, x W_k and x W_v (Vaswani et al. 2017, 3.2.2).

    Args:
        x: a row for each token.
        w_q, w_k, w_v: weights that stand on the right; ``nn.Linear`` stores their transposes.

    Returns:
        ``(q, k, v)``.
    """
    ### BEGIN SOLUTION
    return x @ w_q, x @ w_k, x @ w_v  # (..., n, d_k) twice, (..., n, d_v)
    ### END SOLUTION


# %% visible="project_qkv"
_x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
_w = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
_q, _k, _v = project_qkv(_x, _w, 2 * _w, _w[:, :1])
assert torch.equal(_q, torch.tensor([[1.0, 2.0], [3.0, 4.0], [4.0, 6.0]]))
assert torch.equal(_k, 2 * _q)
assert torch.equal(_v, _q[:, :1])
assert [part.shape for part in project_qkv(torch.ones(2, 3, 2), _w, _w, _w[:, :1])] == [(2, 3, 2), (2, 3, 2), (2, 3, 1)]

# %% exam="project_qkv" points=2

# %% [markdown]
# ## `dot_product_scores`
#
# One number for each pair: queries in the rows, keys in the columns. All pairs are one matrix product.


# %% exercise="dot_product_scores"
def dot_product_scores(
    q: Float[Tensor, "... queries d_k"],
    k: Float[Tensor, "... keys d_k"],
) -> Float[Tensor, "... queries keys"]:
    """q kᵀ: the dot product of every query with every key, not scaled (Luong et al. 2015, *dot*).

    Args:
        q, k: queries and keys of one width.

    Returns:
        A score for each pair.
    """
    ### BEGIN SOLUTION
    return q @ k.mT  # only the last two axes of k change places
    ### END SOLUTION


# %% visible="dot_product_scores"
_q = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
_k = torch.tensor([[1.0, 0.0], [1.0, -1.0], [2.0, -1.0]])
assert torch.equal(dot_product_scores(_q, _k), torch.tensor([[0.0, -1.0, -1.0], [1.0, 1.0, 2.0], [1.0, 0.0, 1.0]]))
assert dot_product_scores(torch.ones(2, 3, 4), torch.ones(2, 5, 4)).shape == (2, 3, 5)

# %% exam="dot_product_scores" points=3

# %% [markdown]
# ## `bilinear_scores`
#
# A matrix between query and key: it may compare any component of one with any component of the other, and the two
# need not have one width.


# %% exercise="bilinear_scores"
def bilinear_scores(
    q: Float[Tensor, "... queries d_q"],
    k: Float[Tensor, "... keys d_k"],
    w: Float[Tensor, "d_q d_k"],
) -> Float[Tensor, "... queries keys"]:
    """q w kᵀ: a bilinear form of every query with every key (Luong et al. 2015, *general*).

    Args:
        q, k: queries and keys; their widths may differ.
        w: how much component i of a query and component j of a key count together.

    Returns:
        A score for each pair.
    """
    ### BEGIN SOLUTION
    return dot_product_scores(q @ w, k)  # q w is (..., queries, d_k): the query in the keys' components
    ### END SOLUTION


# %% visible="bilinear_scores"
_w = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
assert torch.equal(bilinear_scores(_q, _k, torch.eye(2)), dot_product_scores(_q, _k))
assert torch.equal(bilinear_scores(_q[1:2], _k, _w), torch.tensor([[0.0, -1.0, -1.0]]))
assert bilinear_scores(torch.ones(2, 3, 4), torch.ones(2, 5, 6), torch.ones(4, 6)).shape == (2, 3, 5)

# %% exam="bilinear_scores" points=3

# %% [markdown]
# ## `additive_scores`
#
# A small network with one hidden layer, run on every pair. Its memory is the trap of this score: say to yourself which
# shape each step has.


# %% exercise="additive_scores"
def additive_scores(
    q: Float[Tensor, "... queries d_q"],
    k: Float[Tensor, "... keys d_k"],
    w_q: Float[Tensor, "d_q d_attention"],
    w_k: Float[Tensor, "d_k d_attention"],
    v: Float[Tensor, " d_attention"],
) -> Float[Tensor, "... queries keys"]:
    """v · tanh(q w_q + k w_k) for every query with every key (Bahdanau et al. 2014, appendix A.1.2).

    Args:
        q, k: queries and keys; their widths may differ.
        w_q, w_k: weights that bring both to the width of the hidden layer.
        v: the hidden layer's weights on the way out.

    Returns:
        A score for each pair.
    """
    ### BEGIN SOLUTION
    asked = q @ w_q  # (..., queries, d_attention), once for each query, not for each pair
    offered = k @ w_k  # (..., keys, d_attention)
    hidden = torch.tanh(asked[..., :, None, :] + offered[..., None, :, :])  # (..., queries, keys, d_attention)
    return hidden @ v  # (..., queries, keys)
    ### END SOLUTION


# %% visible="additive_scores"
_ones = torch.ones(2)
_pairs = additive_scores(_q, _k, torch.eye(2), torch.eye(2), _ones)
assert torch.allclose(_pairs[0], torch.tanh(_q[0] + _k).sum(-1))
assert torch.allclose(_pairs[1, 2], torch.tanh(torch.tensor([3.0, -1.0])).sum())
_w_q, _w_k, _v = torch.ones(4, 7), torch.ones(6, 7), torch.ones(7)
assert additive_scores(torch.ones(2, 3, 4), torch.ones(2, 5, 6), _w_q, _w_k, _v).shape == (2, 3, 5)

# %% exam="additive_scores" points=4
