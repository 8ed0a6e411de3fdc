# %% [markdown]
# # Exercises: why attention?
#
# Three short functions. You average over a window, as a layer with a fixed reach does. You look something up in a
# dictionary that never fails to find: that is attention, with one query. And you measure how far any model reaches
# back. The lesson *Why attention?* has the formulas.
#
# **May use:** everything in PyTorch, `torch.softmax` too (you will build it in a later lesson). **May not:** a
# ready-made pooling (`F.avg_pool1d`, …), which would be the first answer, or a ready-made attention
# (`F.scaled_dot_product_attention`, …), which would be the second.
#
# Shapes are `(..., n, d)`, a row for each token: whatever stands in front, a batch, more or nothing, must not matter.
# Results have the input's dtype and device, and inputs are never changed.
#
# Each answer has a cell of quick checks below it. The marks come from the autograder. In a clone of the course, after
# `make course`: `.venv/bin/autograder check chapters/exercises/motivation.ipynb`.

# %%
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# %% [markdown]
# ## `window_average`
#
# The simplest way to let tokens know of each other: replace each one by the mean of its neighbourhood. At the two ends
# of the sequence there are fewer neighbours. The mean is taken over those that exist.


# %% exercise="window_average"
def window_average(x: Float[Tensor, "... n d"], radius: int) -> Float[Tensor, "... n d"]:
    """Mean over the existing positions at distance ≤ ``radius`` (``F.avg_pool1d`` with ``count_include_pad=False``).

    Args:
        x: one row a token, of any length.
        radius: how far a token looks to either side; 0 leaves it alone.

    Returns:
        As many rows as came in.
    """
    ### BEGIN SOLUTION
    positions = torch.arange(x.shape[-2], device=x.device)  # (n,)
    near = (positions[:, None] - positions).abs() <= radius  # (n, n)
    # An average is a product with weights whose rows sum to one. These depend on positions, not on what x holds.
    weights = near.to(x.dtype) / near.sum(dim=-1, keepdim=True)  # (n, n)
    return weights @ x  # (..., n, d)
    ### END SOLUTION


# %% visible="window_average"
_x = torch.tensor([[6.0], [2.0], [4.0], [8.0]])  # four tokens of width 1
assert torch.allclose(window_average(_x, 1), torch.tensor([[4.0], [4.0], [14 / 3], [6.0]]))
assert torch.allclose(window_average(_x, 0), _x)
assert window_average(torch.randn(2, 3, 5, 8), 9).shape == (2, 3, 5, 8)
assert window_average(_x.double(), 1).dtype == torch.float64

# %% exam="window_average" points=3

# %% [markdown]
# ## `soft_lookup`
#
# A dictionary finds a key or fails. A soft one compares the query with *every* key, gives each a share, and mixes the
# values in these shares. The score is the bare dot product, divided by the temperature and by nothing else.


# %% exercise="soft_lookup"
def soft_lookup(
    query: Float[Tensor, "... d_k"],
    keys: Float[Tensor, "... keys d_k"],
    values: Float[Tensor, "... keys d_v"],
    temperature: float = 1.0,
) -> Float[Tensor, "... d_v"]:
    """The values, mixed by softmax(q · k / temperature) over the keys (Bahdanau et al. 2014, with a dot product).

    Args:
        query: what is looked for, one for each dictionary.
        keys: what it is compared with.
        values: what is handed over, one for each key.
        temperature: near 0 the best key takes all, far above the scores all keys share alike.

    Returns:
        One mixed value for each query.

    Raises:
        ValueError: ``temperature`` is not positive; the message names it.
    """
    ### BEGIN SOLUTION
    if temperature <= 0:
        raise ValueError(f"a temperature must be positive, not {temperature}")
    scores = (keys @ query.unsqueeze(-1)).squeeze(-1)  # (..., keys)
    weights = torch.softmax(scores / temperature, dim=-1)  # (..., keys)
    return (weights.unsqueeze(-2) @ values).squeeze(-2)  # (..., d_v)
    ### END SOLUTION


# %% visible="soft_lookup"
_keys, _values = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[10.0], [20.0]])
_two = soft_lookup(torch.full((2, 2), 3.0), _keys.expand(2, 2, 2), _values.expand(2, 2, 1))
assert torch.allclose(_two, torch.full((2, 1), 15.0))
assert torch.allclose(soft_lookup(torch.tensor([9.0, 0.0]), _keys, _values, 0.1), torch.tensor([10.0]))
assert torch.allclose(soft_lookup(torch.tensor([16.0, 1.0]).log(), _keys, _values, 2.0), torch.tensor([12.0]))
assert soft_lookup(torch.randn(2, 3, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 7)).shape == (2, 3, 7)

# %% exam="soft_lookup" points=4

# %% [markdown]
# ## `gradient_reach`
#
# How far back does a model reach? Move token t a little, and see how much the *last* output moves: that is the block
# ∂y[…, −1, :] / ∂x_t of the Jacobian, and its size is its Frobenius norm. You get a finished model, and must leave no
# trace: not in `x`, and not in the model, whose `.grad` belong to whoever trains it.


# %% exercise="gradient_reach"
def gradient_reach(
    model: Callable[[Float[Tensor, "... n d_model"]], Float[Tensor, "... n d_out"]], x: Float[Tensor, "... n d_model"]
) -> Float[Tensor, "... n"]:
    """How strongly the last output depends on each token: the Frobenius norm of its block of the Jacobian.

    Args:
        model: any module from sequences to sequences; the members of a batch don't meet in it.
        x: where the dependence is measured.

    Returns:
        One number a token, detached. Nothing is left in ``x`` or in the model's ``.grad``.
    """
    ### BEGIN SOLUTION
    given = x.detach().requires_grad_()  # a leaf of our own: x stays as it is
    last = model(given)[..., -1, :]  # (..., d_out)
    # One component after another; summed over the batch, whose members don't meet. grad() stores nothing, as backward()
    # would, in the weights.
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    jacobian = torch.stack(rows)  # (d_out, ..., n, d_model)
    return jacobian.square().sum(dim=(0, -1)).sqrt()  # (..., n)
    ### END SOLUTION


# %% visible="gradient_reach"
_model, _x = nn.Linear(3, 2), torch.randn(4, 5, 3)  # sees each token by itself
_reach = gradient_reach(_model, _x)
assert _reach.shape == (4, 5)
assert torch.equal(_reach[:, :-1], torch.zeros(4, 4))
assert torch.allclose(_reach[:, -1], _model.weight.norm().expand(4))
assert not _reach.requires_grad
assert _model.weight.grad is None
assert not _x.requires_grad
assert torch.allclose(gradient_reach(_model, _x[0]), _reach[0])

# %% exam="gradient_reach" points=4
