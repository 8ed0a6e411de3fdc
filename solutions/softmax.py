# %% [markdown]
# # Exercises: softmax
#
# You write softmax and what belongs to it: its logarithm, its temperature, its backward pass, another normaliser, and
# at the end a test that tells right answers from wrong ones. The lesson *Softmax* has all the formulas.
#
# **May use:** `torch.exp`, `torch.log`, `amax`, `sum`, `torch.logsumexp`, matrix products, and your own answers from
# the cells above. **May not:** any ready-made softmax (`torch.softmax`, `F.log_softmax`, `nn.Softmax`, …); automatic
# differentiation in `softmax_backward`. In `check_softmax` everything is free.
#
# Each answer has a cell of quick checks below it: they tell you when you are close. The marks come from the autograder,
# which tries more shapes, dtypes, devices and extremes. In a clone of the course, after `make course`:
# `.venv/bin/autograder check chapters/exercises/softmax.ipynb`.

# %%
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# %% [markdown]
# ## `softmax`
#
# Turn scores into weights along `dim`: positive, summing to one, and right for scores of any size.
# A row that is −∞ everywhere has no weights; it gives NaN, as PyTorch's does.


# %% exercise="softmax"
def softmax(x: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """Softmax along ``dim``, as ``torch.softmax``: exp(x) over its sum, finite for scores of any size.

    Args:
        x: scores of any shape.
        dim: the axis along which the weights sum to one.

    Returns:
        Weights of the shape, dtype and device of ``x``.
    """
    ### BEGIN SOLUTION
    # Shifting a row by its maximum changes no weight, and leaves no exponent above zero.
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))  # the shape of x
    return exponentials / exponentials.sum(dim, keepdim=True)
    ### END SOLUTION


# %% visible="softmax"
assert torch.allclose(softmax(torch.tensor([0.0, 0.0])), torch.tensor([0.5, 0.5]))
assert torch.allclose(softmax(torch.randn(2, 3, 4), dim=1).sum(1), torch.ones(2, 4))
assert torch.allclose(softmax(torch.tensor([1000.0, 0.0])), torch.tensor([1.0, 0.0]))

# %% exam="softmax" points=5

# %% [markdown]
# ## `log_softmax`
#
# The logarithm of the weights. Losses are made of it, so it must stay finite where a weight rounds to zero.


# %% exercise="log_softmax"
def log_softmax(x: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """The logarithm of softmax along ``dim``, as ``torch.log_softmax``: finite wherever ``x`` is.

    Args:
        x: scores of any shape.
        dim: the axis along which the weights sum to one.

    Returns:
        Log-weights of the shape, dtype and device of ``x``.
    """
    ### BEGIN SOLUTION
    shifted = x - x.amax(dim, keepdim=True)  # the shape of x
    # log(exp(a) / Σ exp) = a − log Σ exp: no log of a quotient that may have rounded to zero.
    return shifted - shifted.exp().sum(dim, keepdim=True).log()
    ### END SOLUTION


# %% visible="log_softmax"
assert torch.allclose(log_softmax(torch.tensor([0.0, 0.0])).exp(), torch.tensor([0.5, 0.5]))
assert torch.allclose(log_softmax(torch.tensor([0.0, 500.0])), torch.tensor([-500.0, 0.0]))

# %% exam="log_softmax" points=4

# %% [markdown]
# ## `softmax_with_temperature`
#
# A temperature divides the scores: near zero the largest takes all, far above one all weights become alike.
# Shift first, then divide: a score divided by a tiny temperature overflows, a difference to the maximum does no harm.


# %% exercise="softmax_with_temperature"
def softmax_with_temperature(x: Float[Tensor, "..."], temperature: float, dim: int = -1) -> Float[Tensor, "..."]:
    """Softmax of x / temperature along ``dim``, shifted before it is divided.

    Args:
        x: scores of any shape.
        temperature: above zero.
        dim: the axis along which the weights sum to one.

    Returns:
        Weights of the shape, dtype and device of ``x``.

    Raises:
        ValueError: ``temperature`` is zero or below; the message names it.
    """
    ### BEGIN SOLUTION
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    return softmax((x - x.amax(dim, keepdim=True)) / temperature, dim)
    ### END SOLUTION


# %% visible="softmax_with_temperature"
assert torch.allclose(softmax_with_temperature(torch.tensor([2.0, 4.0]), 2.0), softmax(torch.tensor([1.0, 2.0])))
assert torch.allclose(softmax_with_temperature(torch.tensor([1.0, 2.0]), 1e-3), torch.tensor([0.0, 1.0]))

# %% exam="softmax_with_temperature" points=3

# %% [markdown]
# ## `softmax_backward`
#
# The gradient by the weights arrives; give back the gradient by the scores. Write it by hand, without building the
# Jacobian if you can: the product with it needs no more memory than the row itself.


# %% exercise="softmax_backward"
def softmax_backward(
    weights: Float[Tensor, "..."], grad_weights: Float[Tensor, "..."], dim: int = -1
) -> Float[Tensor, "..."]:
    """The backward pass of softmax: the Jacobian diag(w) − w wᵀ of each row times the gradient that arrives.

    Args:
        weights: what softmax gave, along ``dim``.
        grad_weights: the loss's gradient by the weights, of the same shape.
        dim: the axis of the softmax.

    Returns:
        The loss's gradient by the scores, of the same shape.
    """
    ### BEGIN SOLUTION
    mean = (weights * grad_weights).sum(dim, keepdim=True)  # the gradient's mean under the weights
    return weights * (grad_weights - mean)
    ### END SOLUTION


# %% visible="softmax_backward"
assert torch.allclose(softmax_backward(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])), torch.tensor([0.25, -0.25]))
assert torch.allclose(softmax_backward(torch.tensor([0.2, 0.8]), torch.tensor([3.0, 3.0])), torch.zeros(2))

# %% exam="softmax_backward" points=3

# %% [markdown]
# ## `softmax_jacobian_norm`
#
# How much do the weights still move when the scores do? One number a row: the Frobenius norm of diag(w) − w wᵀ.


# %% exercise="softmax_jacobian_norm"
def softmax_jacobian_norm(scores: Float[Tensor, "... keys"]) -> Float[Tensor, "..."]:
    """The Frobenius norm of softmax's Jacobian, for each row of ``scores``.

    Args:
        scores: rows along the last axis.

    Returns:
        One norm a row, of shape ``scores.shape[:-1]``.
    """
    ### BEGIN SOLUTION
    weights = softmax(scores)  # (..., keys)
    jacobian = torch.diag_embed(weights) - weights[..., :, None] * weights[..., None, :]  # (..., keys, keys)
    return jacobian.square().sum((-2, -1)).sqrt()  # (...)
    ### END SOLUTION


# %% visible="softmax_jacobian_norm"
assert torch.allclose(softmax_jacobian_norm(torch.zeros(3, 2)), torch.full((3,), 0.5))
assert torch.allclose(softmax_jacobian_norm(torch.tensor([[200.0, 0.0]])), torch.zeros(1))

# %% exam="softmax_jacobian_norm" points=2

# %% [markdown]
# ## `relu_attention_weights`
#
# Another way from scores to weights: ReLU, then divide by the sum plus `eps`. Negative scores get exactly nothing, and
# a row without a positive score gets no weights at all.


# %% exercise="relu_attention_weights"
def relu_attention_weights(scores: Float[Tensor, "... keys"], eps: float = 1e-6) -> Float[Tensor, "... keys"]:
    """relu(s) / (Σ relu(s) + eps) along the last axis: weights with exact zeros, without exp.

    Args:
        scores: rows along the last axis.
        eps: added to each row's sum.

    Returns:
        Weights of the shape, dtype and device of ``scores``.
    """
    ### BEGIN SOLUTION
    positive = torch.relu(scores)  # (..., keys)
    return positive / (positive.sum(-1, keepdim=True) + eps)
    ### END SOLUTION


# %% visible="relu_attention_weights"
assert torch.allclose(relu_attention_weights(torch.tensor([3.0, -1.0, 1.0])), torch.tensor([0.75, 0.0, 0.25]))
assert torch.equal(relu_attention_weights(torch.tensor([-3.0, -1.0])), torch.zeros(2))

# %% exam="relu_attention_weights" points=2

# %% [markdown]
# ## Be the examiner: `check_softmax`
#
# Write the test. It is run on right implementations of `softmax` and on wrong ones, and your mark is the share of the
# wrong ones that it rejects, by raising (an `assert` is enough) or by giving `False`. If it rejects a single right
# one, it gets nothing: right answers differ from each other in their last digits, the more so for large scores.
#
# Compare with `torch.softmax` if you like. Think of all that the exam above looked at. Give `fn` tensors of at least
# one axis and one number, without +∞: what happens beyond is nowhere promised.


# %% exercise="check_softmax"
def check_softmax(fn: Callable[..., Tensor]) -> None:
    """A test of softmax implementations.

    Args:
        fn: called as ``fn(x)`` or ``fn(x, dim=…)``.

    Raises:
        AssertionError: ``fn`` is wrong.
    """
    ### BEGIN SOLUTION
    # In float64 right answers agree to ten digits, even where large scores have cost them six.
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)  # no two axes of one length
    rows = torch.tensor([-1e4, 0.0, 1e4], dtype=torch.float64).reshape(3, 1, 1)
    square = torch.randn(4, 4, dtype=torch.float64)  # here a forgotten keepdim raises nothing
    spread = torch.tensor([[-2e4, 0.0, 60.0, 61.0]], dtype=torch.float64)
    empty = torch.full((1, 3), -torch.inf, dtype=torch.float64)
    for scores in (x, x + rows, square, spread, empty, x[0, 0, 0]):
        for dim in range(-scores.ndim, scores.ndim):
            before = scores.clone()
            weights = fn(scores, dim=dim)
            assert torch.equal(scores, before), "fn changes its input"
            expected = torch.softmax(scores, dim)
            torch.testing.assert_close(weights, expected, rtol=1e-8, atol=1e-10, equal_nan=True)

    leaf = square.requires_grad_()
    (grad,) = torch.autograd.grad(fn(leaf).square().sum(), leaf)
    (expected,) = torch.autograd.grad(torch.softmax(leaf, -1).square().sum(), leaf)
    torch.testing.assert_close(grad, expected)
    ### END SOLUTION


# %% visible="check_softmax"
check_softmax(lambda x, dim=-1: torch.softmax(x, dim))

# %% exam="check_softmax" points=3
