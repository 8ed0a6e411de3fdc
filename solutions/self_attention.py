# %% [markdown]
# # Exercises: self-attention
#
# You put the pieces together: scores, scale, softmax and average, forwards and backwards, as a function and as a layer.
# At the end you write the test that tells right answers from wrong ones. The lesson *Self-attention* has the formulas.
#
# **May use:** `torch.softmax`, matrix products, `torch.einsum`, and your own answers from the cells above.
# **May not:** a ready-made attention (`F.scaled_dot_product_attention`, `nn.MultiheadAttention`, …); automatic
# differentiation in `attention_backward`. In `check_attention` everything is free.
#
# Shapes are `(..., length, width)`: whatever stands in front, a batch, heads or nothing, must not matter.
#
# A *word* is one row of the input, which the lesson calls a token. Each answer has a cell of quick checks below it.
# The marks come from the autograder. In a clone of the course, after `make course`:
# `.venv/bin/autograder check chapters/exercises/self_attention.ipynb`.

# %%
from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# %% [markdown]
# ## `attention`
#
# Scaled dot-product attention: every query weighs all keys, and takes the weighted average of their values.


# %% exercise="attention"
def attention(
    q: Float[Tensor, "... queries d_k"],
    k: Float[Tensor, "... keys d_k"],
    v: Float[Tensor, "... keys d_v"],
) -> Float[Tensor, "... queries d_v"]:
    """softmax(q kᵀ / √d_k) v, as ``F.scaled_dot_product_attention`` without a mask (Vaswani et al. 2017, eq. 1).

    Args:
        q, k, v: queries, keys and values.

    Returns:
        One output a query, a weighted average of the values.
    """
    ### BEGIN SOLUTION
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (..., queries, keys)
    weights = torch.softmax(scores, dim=-1)  # each query's weights over the keys sum to one
    return weights @ v  # (..., queries, d_v)
    ### END SOLUTION


# %% visible="attention"
assert attention(torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 6)).shape == (2, 3, 6)
assert torch.allclose(
    attention(torch.zeros(1, 2), torch.randn(3, 2), torch.tensor([[1.0], [2.0], [6.0]])), torch.tensor([[3.0]])
)
assert torch.allclose(
    attention(torch.eye(2), torch.eye(2), torch.eye(2)), torch.tensor([[0.6698, 0.3302], [0.3302, 0.6698]]), atol=1e-4
)

# %% exam="attention" points=5

# %% [markdown]
# ## `attention_backward`
#
# The whole backward pass by hand. Go back through the three steps in reverse: the average, the softmax, the scores.


# %% exercise="attention_backward"
def attention_backward(
    q: Float[Tensor, "... queries d_k"],
    k: Float[Tensor, "... keys d_k"],
    v: Float[Tensor, "... keys d_v"],
    grad_output: Float[Tensor, "... queries d_v"],
) -> tuple[Float[Tensor, "... queries d_k"], Float[Tensor, "... keys d_k"], Float[Tensor, "... keys d_v"]]:
    """The gradients of ``attention`` by its three inputs, without autograd.

    Args:
        q, k, v: what ``attention`` was given.
        grad_output: the loss's gradient by its output.

    Returns:
        ``(grad_q, grad_k, grad_v)``, of the shapes of q, k and v.
    """
    ### BEGIN SOLUTION
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(scale * q @ k.mT, dim=-1)  # (..., queries, keys)

    grad_v = weights.mT @ grad_output  # (..., keys, d_v): a value hears from every query that looked at it
    grad_weights = grad_output @ v.mT  # (..., queries, keys)

    mean = (weights * grad_weights).sum(-1, keepdim=True)  # (..., queries, 1)
    grad_scores = weights * (grad_weights - mean)  # (..., queries, keys): softmax's Jacobian, row by row

    return scale * grad_scores @ k, scale * grad_scores.mT @ q, grad_v
    ### END SOLUTION


# %% visible="attention_backward"
_q, _k, _v, _grad = (torch.randn(n, 4) for n in (3, 5, 5, 3))
_grads = attention_backward(_q, _k, _v, _grad)
assert [grad.shape for grad in _grads] == [(3, 4), (5, 4), (5, 4)]
assert torch.allclose(attention_backward(_q, _k[:1], _v[:1], _grad)[2], _grad.sum(0), atol=1e-5)

# %% exam="attention_backward" points=4

# %% [markdown]
# ## `SelfAttention`
#
# One sequence, three roles: project every word to a query, a key and a value, and let the words attend to each other.
# The projections are given; write `forward`.


# %% exercise="SelfAttention"
class SelfAttention(nn.Module):
    """One head of self-attention without an output projection (Vaswani et al. 2017, 3.2.1).

    Args:
        d_model: width of the input.
        d_k: width of queries and keys.
        d_v: width of values and output.
    """

    def __init__(self, d_model: int, d_k: int, d_v: int) -> None:
        super().__init__()
        self.w_q = nn.Linear(d_model, d_k, bias=False)
        self.w_k = nn.Linear(d_model, d_k, bias=False)
        self.w_v = nn.Linear(d_model, d_v, bias=False)

    def forward(self, x: Float[Tensor, "... n d_model"]) -> Float[Tensor, "... n d_v"]:
        """Each word's weighted average of all words' values."""
        ### BEGIN SOLUTION
        return attention(self.w_q(x), self.w_k(x), self.w_v(x))
        ### END SOLUTION


# %% visible="SelfAttention"
_layer, _x = SelfAttention(d_model=6, d_k=4, d_v=5), torch.randn(2, 3, 6)
assert _layer(_x).shape == (2, 3, 5)
assert torch.allclose(_layer(_x.flip(1)), _layer(_x).flip(1), atol=1e-5)

# %% exam="SelfAttention" points=3

# %% [markdown]
# ## Be the examiner: `check_attention`
#
# Write the test. It is run on right implementations of `attention` and on wrong ones; your mark is the share of the
# wrong ones that it rejects, by raising (an `assert` is enough) or by giving `False`. If it rejects a single right
# one, it gets nothing. Right answers may scale q first, or divide by the sum at the end: they differ in rounding.


# %% exercise="check_attention"
def check_attention(fn: Callable[..., Tensor]) -> None:
    """A test of attention implementations.

    Args:
        fn: called as ``fn(q, k, v)``.

    Raises:
        AssertionError: ``fn`` is wrong.
    """
    ### BEGIN SOLUTION
    reference = torch.nn.functional.scaled_dot_product_attention
    # A length of its own for every axis, then all alike, where a transposed product raises no error.
    for lead, queries, keys, d_k, d_v in [((2, 3), 4, 6, 8, 5), ((), 3, 5, 7, 2), ((3,), 3, 3, 3, 3)]:
        for size in (1.0, 100.0):  # 100² makes scores that overflow a bare exp
            q = size * torch.randn(*lead, queries, d_k, dtype=torch.float64)
            k = size * torch.randn(*lead, keys, d_k, dtype=torch.float64)
            v = torch.randn(*lead, keys, d_v, dtype=torch.float64)
            expected = reference(q, k, v)
            torch.testing.assert_close(fn(q, k, v), expected, rtol=1e-6, atol=1e-8)
            assert torch.equal(reference(q, k, v), expected), "fn changes its inputs"

    q, k, v = torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True).unbind()
    grads = torch.autograd.grad(fn(q, k, v).square().sum(), (q, k, v))
    torch.testing.assert_close(grads, torch.autograd.grad(reference(q, k, v).square().sum(), (q, k, v)))
    ### END SOLUTION


# %% visible="check_attention"
check_attention(torch.nn.functional.scaled_dot_product_attention)

# %% exam="check_attention" points=3
