# %% [markdown]
# # Exercises: cross-attention
#
# Queries come from one sequence, keys and values from another, the *memory*. You write the layer that a Transformer's
# decoder uses, the window that Luong laid over the memory, and one step of the decoder that attention was invented for.
# The lesson *Cross-attention* has the formulas.
#
# **A memory mask** is boolean, `(..., keys)`, `True` for what may be read. It is the same for every query. One that
# would enlarge the scores raises a `ValueError`, one that is not boolean a `TypeError`. (The autograder takes either of
# the two errors for either.) Where nothing may be read the weights are zero, the context is zero, and so is the
# gradient.
#
# Shapes have any leading dimensions: a batch, sentences and beams, or nothing. Results have the input's dtype and
# device, and inputs are never changed.
#
# **May use:** `torch.softmax`, `F.scaled_dot_product_attention`, `masked_softmax` below, and your own answers from the
# cells above. **May not:** a ready-made layer (`nn.MultiheadAttention`, `nn.TransformerDecoderLayer`, …).
#
# Each answer has a cell of quick checks below it. The marks come from the autograder. In a clone of the course, after
# `make course`: `.venv/bin/autograder check chapters/exercises/cross_attention.ipynb`.

# %%
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

# %% [markdown]
# You know this one from *Masking*. It is given, so that you needn't bring yours along.


# %%
def masked_softmax(scores: Float[Tensor, "..."], mask: Bool[Tensor, "..."] | None) -> Float[Tensor, "..."]:
    """Softmax along the last axis over the positions where ``mask`` is True; zero elsewhere, and in rows without any.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the mask does not broadcast to the scores' shape.
    """
    if mask is None:
        return torch.softmax(scores, dim=-1)
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, not {mask.dtype}")
    if torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
        raise ValueError(f"a mask {tuple(mask.shape)} would enlarge scores {tuple(scores.shape)}")
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1)
    return weights.masked_fill(~mask, 0.0)


# %% [markdown]
# ## `cross_attention`
#
# One head of the attention between decoder and encoder. The rows of `x` ask, the rows of `memory` are asked and hand
# over. Scores are scaled. `memory_mask` has one axis less than the scores: it says nothing about queries.


# %% exercise="cross_attention"
def cross_attention(
    x: Float[Tensor, "... queries d_model"],
    memory: Float[Tensor, "... keys d_memory"],
    w_q: Float[Tensor, "d_model d_k"],
    w_k: Float[Tensor, "d_memory d_k"],
    w_v: Float[Tensor, "d_memory d_v"],
    memory_mask: Bool[Tensor, "... keys"] | None = None,
) -> Float[Tensor, "... queries d_v"]:
    """Scaled dot-product attention of one sequence to another (Vaswani et al. 2017, 3.2.3), one head.

    Args:
        x: what asks.
        memory: what is asked; its leading axes broadcast against those of ``x``.
        w_q, w_k, w_v: the projections, applied as ``x @ w_q``.
        memory_mask: True where the memory may be read, by whichever query. None: everywhere.

    Returns:
        One output a query; zero where nothing may be read.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the mask does not fit the memory.
    """
    ### BEGIN SOLUTION
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v  # (..., queries, d_k), (..., keys, d_k), (..., keys, d_v)
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (..., queries, keys)
    # One row for all queries; without this axis the batch would meet the queries.
    mask = None if memory_mask is None else memory_mask.unsqueeze(-2)  # (..., 1, keys)
    return masked_softmax(scores, mask) @ v  # (..., queries, d_v)
    ### END SOLUTION


# %% visible="cross_attention"
_x, _memory = torch.randn(2, 3, 4), torch.randn(2, 5, 6)  # (batch, queries, d_model), (batch, keys, d_memory)
_w_q, _w_k, _w_v = torch.randn(4, 8), torch.randn(6, 8), torch.randn(6, 7)
_mask = torch.tensor([[True, True, False, False, False], [False] * 5])  # (batch, keys)
_output = cross_attention(_x, _memory, _w_q, _w_k, _w_v, _mask)
assert _output.shape == (2, 3, 7)
assert torch.allclose(_output[0], cross_attention(_x[0], _memory[0, :2], _w_q, _w_k, _w_v), atol=1e-5)
assert torch.equal(_output[1], torch.zeros(3, 7))
assert torch.allclose(_output[0], cross_attention(_x[0], _memory[0], _w_q, _w_k, _w_v, _mask[0]), atol=1e-5)

# %% exam="cross_attention" points=4

# %% [markdown]
# ## `local_window`
#
# Luong's local attention looks at a few positions around a place $p$ that the decoder predicts, $p$ being any real
# number. The window is a bell, cut off at the radius. The weights are multiplied by it, and the prediction learns
# through it.


# %% exercise="local_window"
def local_window(center: Float[Tensor, "..."], n_keys: int, radius: float) -> Float[Tensor, "... keys"]:
    """Gaussian around ``center`` with σ = radius / 2, zero farther than ``radius`` away (Luong et al. 2015, 3.2).

    Args:
        center: the places that are looked at, counted from 0, not necessarily whole.
        n_keys: the positions are 0 to n_keys − 1.
        radius: the farthest that is still seen; positive.

    Returns:
        exp(−(j − p)² / 2σ²) for position j and center p; differentiable in ``center``, and not renormalised.
    """
    ### BEGIN SOLUTION
    positions = torch.arange(n_keys, dtype=center.dtype, device=center.device)  # (keys,)
    distance = positions - center.unsqueeze(-1)  # (..., keys)
    sigma = radius / 2
    bell = torch.exp(-(distance**2) / (2 * sigma**2))  # (..., keys)
    return bell.masked_fill(distance.abs() > radius, 0.0)
    ### END SOLUTION


# %% visible="local_window"
_window = local_window(torch.tensor([2.0, 0.5]), n_keys=5, radius=1)  # (2, keys)
assert _window.shape == (2, 5)
assert torch.allclose(_window[0], torch.tensor([0.0, math.exp(-2), 1.0, math.exp(-2), 0.0]))
assert torch.allclose(_window[1], torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]) * math.exp(-0.5))
_center = torch.tensor(1.2, requires_grad=True)
assert torch.autograd.grad(local_window(_center, n_keys=5, radius=2).sum(), _center)[0] != 0

# %% exam="local_window" points=3

# %% [markdown]
# ## `BahdanauDecoderStep`
#
# One step of the decoder: score every row of the memory with the state *before* the step, read the average, and let the
# recurrent cell make the new state from it. The layers are given; write `forward`.
# (The decoder of the paper reads the last word as well. Here the cell reads the context alone.)


# %% exercise="BahdanauDecoderStep"
class BahdanauDecoderStep(nn.Module):
    """One step of a recurrent decoder that attends before it moves (Bahdanau et al. 2015, 3.1 and A.1.2).

    Args:
        d_hidden: width of the decoder's state.
        d_memory: width of a row of the memory.
        d_attention: width of the hidden layer that scores.
    """

    def __init__(self, d_hidden: int, d_memory: int, d_attention: int) -> None:
        super().__init__()
        self.w_s = nn.Linear(d_hidden, d_attention, bias=False)
        self.w_h = nn.Linear(d_memory, d_attention, bias=False)
        self.v = nn.Linear(d_attention, 1, bias=False)
        self.gru = nn.GRUCell(d_memory, d_hidden)

    def forward(
        self,
        state: Float[Tensor, "... d_hidden"],
        memory: Float[Tensor, "... keys d_memory"],
        memory_mask: Bool[Tensor, "... keys"] | None = None,
    ) -> tuple[Float[Tensor, "... d_hidden"], Float[Tensor, "... d_memory"], Float[Tensor, "... keys"]]:
        """The next state, what was read for it, and from where.

        Args:
            state: the state before the step.
            memory: the encoder's rows.
            memory_mask: True where the memory may be read. None: everywhere.

        Returns:
            The new state; the context, zero where nothing may be read; the weights.

        Raises:
            TypeError: the mask is not boolean.
            ValueError: the mask does not fit the memory.
        """
        ### BEGIN SOLUTION
        hidden = torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))  # (..., keys, d_attention)
        weights = masked_softmax(self.v(hidden).squeeze(-1), memory_mask)  # (..., keys)
        context = (weights.unsqueeze(-2) @ memory).squeeze(-2)  # (..., d_memory)
        # A GRUCell takes one leading axis.
        new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
        return new_state.reshape(state.shape), context, weights
        ### END SOLUTION


# %% visible="BahdanauDecoderStep"
_step = BahdanauDecoderStep(d_hidden=4, d_memory=6, d_attention=5)
_state, _memory = torch.randn(2, 4), torch.randn(2, 3, 6)
_new_state, _context, _weights = _step(_state, _memory, torch.tensor([[True, True, False], [False] * 3]))
assert (_new_state.shape, _context.shape, _weights.shape) == ((2, 4), (2, 6), (2, 3))
assert torch.allclose(_weights.sum(dim=-1), torch.tensor([1.0, 0.0]))
assert torch.allclose(_new_state, _step.gru(_context, _state), atol=1e-6)
assert torch.allclose(_step(_state[0], _memory[0, :2])[2], _weights[0, :2], atol=1e-6)
_one = _step(_state[None, :1], _memory[None, :1])  # two leading axes, of length one
assert [part.shape for part in _one] == [(1, 1, 4), (1, 1, 6), (1, 1, 3)]

# %% exam="BahdanauDecoderStep" points=5
