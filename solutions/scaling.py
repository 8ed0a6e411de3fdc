# %% [markdown]
# # Exercises: scaling
#
# How large is a dot product, and what do you divide it by? You measure its variance, scale the scores, try scores that
# need no root at all, and catch a well-known bug with a handful of numbers. The lesson *Scaling* has the formulas.
#
# **May use:** matrix products, `torch.einsum`, norms, `F.normalize`, and your own answers from the cells above.
# **May not:** `F.cosine_similarity` and its relatives, in `cosine_scores`.
#
# Shapes are `(..., length, width)`: whatever stands in front, a batch, heads or nothing, must not matter. Results have
# the input's dtype and device, and inputs are never changed.
#
# Each answer has a cell of quick checks below it: they tell you when you are close. The marks come from the autograder.
# In a clone of the course, after `make course`: `.venv/bin/autograder check chapters/exercises/scaling.ipynb`.

# %%
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# %% [markdown]
# ## `score_variance`
#
# Measure it before you believe it. Draw `n_samples` queries and `n_samples` keys, all components independent and
# N(0, 1). Query i meets key i and no other. Give the variance of these `n_samples` dot products, unscaled.
#
# *Population* variance: the mean of the squared distances from the mean, divided by `n_samples` itself.
# All random numbers come from `generator`, a generator on the CPU; with `None` they come from PyTorch's own.


# %% exercise="score_variance"
def score_variance(d_k: int, n_samples: int, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
    """The population variance of q·k over random pairs, unscaled (Vaswani et al. 2017, footnote 4).

    Args:
        d_k: components of each query and each key, independent and N(0, 1).
        n_samples: pairs of one query and one key.
        generator: where all random numbers come from; PyTorch's own if None.

    Returns:
        One number, a float tensor without axes.
    """
    ### BEGIN SOLUTION
    q = torch.randn(n_samples, d_k, generator=generator)  # (n_samples, d_k)
    k = torch.randn(n_samples, d_k, generator=generator)  # (n_samples, d_k)
    scores = (q * k).sum(-1)  # (n_samples,): pair by pair, not all queries with all keys
    return scores.var(correction=0)  # PyTorch divides by n_samples − 1 unless told otherwise
    ### END SOLUTION


# %% visible="score_variance"
_measured = score_variance(16, 20_000, torch.Generator().manual_seed(0))
assert _measured.shape == ()
assert 14.5 < _measured < 17.5
assert score_variance(16, 1) == 0
_generator = torch.Generator().manual_seed(1)
_first, _second = score_variance(4, 5, _generator), score_variance(4, 5, _generator)
assert _first != _second, "the second call goes on where the first one stopped"
assert score_variance(4, 5, torch.Generator().manual_seed(1)) == _first, "the same seed, the same numbers"
assert score_variance(4, 5) != score_variance(4, 5), "without a generator each call draws anew"

# %% exam="score_variance" points=3

# %% [markdown]
# ## `scaled_dot_product_scores`
#
# The scores of attention: each query against each key, divided so that their spread no longer depends on the width.


# %% exercise="scaled_dot_product_scores"
def scaled_dot_product_scores(
    q: Float[Tensor, "... queries d_k"], k: Float[Tensor, "... keys d_k"]
) -> Float[Tensor, "... queries keys"]:
    """q kᵀ / √d_k, the scores inside ``F.scaled_dot_product_attention`` (Vaswani et al. 2017, eq. 1).

    Args:
        q, k: queries and keys of one width.

    Returns:
        One score for each pair, before any softmax.
    """
    ### BEGIN SOLUTION
    return q @ k.mT / math.sqrt(q.shape[-1])  # (..., queries, keys)
    ### END SOLUTION


# %% visible="scaled_dot_product_scores"
assert torch.allclose(
    scaled_dot_product_scores(torch.ones(1, 9), torch.tensor([[2.0], [4.0]]).expand(2, 9)), torch.tensor([[6.0, 12.0]])
)
assert scaled_dot_product_scores(torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8)).shape == (2, 3, 4, 5)

# %% exam="scaled_dot_product_scores" points=3

# %% [markdown]
# ## `cosine_scores`
#
# Take the lengths out altogether: score each pair by the cosine of its angle, times `scale`. Each vector is divided by
# max(its norm, `eps`), so that a zero vector scores 0 with everybody and its gradient stays finite.


# %% exercise="cosine_scores"
def cosine_scores(
    q: Float[Tensor, "... queries d_k"], k: Float[Tensor, "... keys d_k"], scale: float = 1.0, eps: float = 1e-8
) -> Float[Tensor, "... queries keys"]:
    """The cosine of every query with every key, as ``F.cosine_similarity``, times ``scale`` (Henry et al. 2020).

    Args:
        q, k: queries and keys of one width.
        scale: multiplies the cosines, once.
        eps: a norm below it counts as ``eps``; above zero.

    Returns:
        One score for each pair, between −scale and scale.
    """
    ### BEGIN SOLUTION
    q, k = F.normalize(q, dim=-1, eps=eps), F.normalize(k, dim=-1, eps=eps)  # the same shapes, norms at most 1
    return scale * q @ k.mT  # (..., queries, keys)
    ### END SOLUTION


# %% visible="cosine_scores"
assert torch.allclose(
    cosine_scores(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0], [-4.0, 3.0]])), torch.tensor([[1.0, 0.0]])
)
assert torch.allclose(cosine_scores(torch.tensor([[5.0]]), torch.tensor([[-2.0]]), scale=10.0), torch.tensor([[-10.0]]))
assert torch.equal(cosine_scores(torch.zeros(1, 2), torch.ones(1, 2)), torch.zeros(1, 1))

# %% exam="cosine_scores" points=4

# %% [markdown]
# ## Find the counterexample: `find_wrong_root`
#
# Two layers compute the scores of one head. One divides by the root of d_k. The other divides by the root of d_model,
# a bug that many repositories have had. On the usual example, where all sizes are alike, nobody sees it.
#
# Give tokens and weights on which the two differ, in as few numbers as possible: two thirds of the points are for a
# difference, one third for a smallest input. Every size is at least 1, and the scores are of ordinary size.


# %%
def scores_of_layer(x: Tensor, w_q: Tensor, w_k: Tensor) -> Tensor:
    """The right layer: x (..., n, d_model), w_q and w_k (d_model, d_k) → (..., n, n)."""
    return scaled_dot_product_scores(x @ w_q, x @ w_k)


def scores_of_buggy_layer(x: Tensor, w_q: Tensor, w_k: Tensor) -> Tensor:
    """The same, but for the width that it takes the root of: the tokens'."""
    scale: float = x.shape[-1] ** -0.5
    return (x @ w_q) @ (x @ w_k).mT * scale


# %% exercise="find_wrong_root"
def find_wrong_root() -> tuple[Float[Tensor, "n d_model"], Float[Tensor, "d_model d_k"], Float[Tensor, "d_model d_k"]]:
    """A smallest input on which ``scores_of_layer`` and ``scores_of_buggy_layer`` differ.

    Returns:
        ``(x, w_q, w_k)``, float tensors.
    """
    ### BEGIN SOLUTION
    # The roots differ when d_k ≠ d_model. d_model counts in all three tensors, so it is the one to be 1.
    return torch.ones(1, 1), torch.ones(1, 2), torch.ones(1, 2)  # scores 2/√2 and 2/√1
    ### END SOLUTION


# %% visible="find_wrong_root"
_found = find_wrong_root()
assert len(_found) == 3, "three tensors are asked for: x, w_q, w_k"
assert all(isinstance(_part, torch.Tensor) for _part in _found), "tensors are asked for"
assert not torch.allclose(scores_of_layer(*_found), scores_of_buggy_layer(*_found)), "on this input the two agree"

# %% exam="find_wrong_root" points=2
