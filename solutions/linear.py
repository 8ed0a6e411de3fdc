# %% [markdown]
# # Exercises: linear attention
#
# You replace the softmax by a product of features, move the brackets, and get attention whose cost grows with the
# length, not with its square. Then you carry it from token to token with a state that never grows, and approximate the
# softmax itself with random features. On the way you find the input on which a careless shift shows. The lesson
# *Linear attention* has it all.
#
# **Shapes** are `(..., length, width)`: whatever stands in front, a batch, heads, both or nothing, must not matter.
# Results have the input's dtype and device; inputs are never changed.
#
# **May use:** everything in PyTorch but ready-made attention (`F.scaled_dot_product_attention` and its like), and
# your own answers from the cells above.
#
# **The cost counts.** For the attentions the autograder counts FLOPs and bytes at several lengths and widths. A right
# answer that builds a `(queries, keys)` matrix, or keeps a matrix for every token, loses those points.
#
# Each answer has a cell of quick checks below it. The marks come from the autograder. In a clone of the course, after
# `make course`: `.venv/bin/autograder check chapters/exercises/linear.ipynb`.

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
# ## `linear_attention`
#
# The weight of key $j$ for query $i$ is $\phi(q_i)\cdot\phi(k_j)$ with $\phi(x) = \operatorname{elu}(x) + 1$, divided
# by the sum of the query's weights. No $\sqrt{d_k}$, and no small number added to the sum: the features are positive.
#
# With `causal=True` no query looks ahead; the last query stands beside the last key, as in *Masking*. A query that
# sees no key, because there are more queries than keys, gets zeros. Both forms take $O(n\,d^2)$ operations and memory
# that grows with $n\,d$: no `(queries, keys)` matrix, and no `(d_k, d_v)` matrix for every token. A loop over the
# tokens will do; a loop over chunks of up to 256 is faster.


# %% exercise="linear_attention"
def linear_attention(
    q: Float[Tensor, "... queries d_k"],
    k: Float[Tensor, "... keys d_k"],
    v: Float[Tensor, "... keys d_v"],
    causal: bool = False,
) -> Float[Tensor, "... queries d_v"]:
    """Attention with the weights φ(q)·φ(k), φ = elu + 1, normalised over the keys (Katharopoulos et al. 2020, 3.2).

    Args:
        q, k, v: queries, keys and values.
        causal: whether a query sees only the keys up to its own place, aligned at the bottom right.

    Returns:
        One output a query; zero for a query that sees no key.
    """
    ### BEGIN SOLUTION
    q, k = F.elu(q) + 1, F.elu(k) + 1  # (..., queries, d_k), (..., keys, d_k)
    # One more column, of ones: whatever sums up the values sums up the weights there. It is the denominator.
    v = F.pad(v, (0, 1), value=1.0)  # (..., keys, d_v + 1)
    if not causal:
        sums = q @ (k.mT @ v)  # (..., queries, d_v + 1)
        return sums[..., :-1] / sums[..., -1:]

    # The first `past` keys are seen by all queries, the first `blind` queries see no key. The others stand in pairs.
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]  # (..., d_k, d_v + 1): the sum over all keys so far
    # Within a chunk all pairs, quadratic; what came before it is in the state. Shorter chunks take more steps, longer
    # ones more work.
    chunks = [x.split(64, dim=-2) for x in (q[..., blind:, :], k[..., past:, :], v[..., past:, :])]
    outputs = []
    for q_chunk, k_chunk, v_chunk in zip(*chunks, strict=True):
        sums = q_chunk @ state + (q_chunk @ k_chunk.mT).tril() @ v_chunk  # (..., chunk, d_v + 1)
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + k_chunk.mT @ v_chunk
    return F.pad(torch.cat(outputs, dim=-2), (0, 0, blind, 0))  # (..., queries, d_v)
    ### END SOLUTION


# %% visible="linear_attention"
_q, _k, _v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 6)  # (batch, heads, n, d)
_weights = (F.elu(_q) + 1) @ (F.elu(_k) + 1).mT  # (batch, heads, queries, keys), where n is small enough
_all, _past = linear_attention(_q, _k, _v), linear_attention(_q, _k, _v, causal=True)
assert _all.shape == _past.shape == (2, 3, 5, 6)
assert torch.allclose(_all, _weights / _weights.sum(-1, keepdim=True) @ _v, atol=1e-5)
assert torch.allclose(_past[..., 0, :], _v[..., 0, :], atol=1e-5), "the first query sees the first key only"
assert torch.allclose(_past[..., -1, :], _all[..., -1, :], atol=1e-5), "the last query sees all keys"
_late = linear_attention(_q[..., -2:, :], _k, _v, causal=True)
assert torch.allclose(_late, _past[..., -2:, :], atol=1e-5), "two queries stand beside the last two keys"

# %% exam="linear_attention" points=6

# %% [markdown]
# ## `linear_attention_step`
#
# The same causal attention, one token after another, as a model generates. All that the coming tokens need to know of
# the past ones is their *state*.
#
# **The state is one tensor** `(..., d_k, d_v + 1)`. Its first `d_v` columns hold $\sum_j \phi(k_j)\,v_j^\top$ over all
# keys so far, its last column holds $\sum_j \phi(k_j)$. Before the first token it is `None`. The token's `q`, `k` and
# `v` keep their length axis, of length one. The query sees its own key too. The state that comes in stays as it is: a
# new one goes out.


# %% exercise="linear_attention_step"
def linear_attention_step(
    state: Float[Tensor, "... d_k d_v_and_one"] | None,
    q: Float[Tensor, "... 1 d_k"],
    k: Float[Tensor, "... 1 d_k"],
    v: Float[Tensor, "... 1 d_v"],
) -> tuple[Float[Tensor, "... d_k d_v_and_one"], Float[Tensor, "... 1 d_v"]]:
    """One token of causal ``linear_attention``, with the state of a recurrent net (Katharopoulos et al. 2020, 3.4).

    Args:
        state: Σ φ(k) vᵀ over the keys so far and, as its last column, Σ φ(k); None before the first.
        q, k, v: the new token's.

    Returns:
        The state with the new token in it, and the new token's output.
    """
    ### BEGIN SOLUTION
    q, k = F.elu(q) + 1, F.elu(k) + 1  # (..., 1, d_k)
    update = k.mT @ F.pad(v, (0, 1), value=1.0)  # (..., d_k, d_v + 1)
    # Not `+=`: a search over several continuations goes on from one state more than once.
    state = update if state is None else state + update
    sums = q @ state  # (..., 1, d_v + 1)
    return state, sums[..., :-1] / sums[..., -1:]
    ### END SOLUTION


# %% visible="linear_attention_step"
_state, _outputs = None, []
for _t in range(5):
    _token = slice(_t, _t + 1)
    _state, _output = linear_attention_step(_state, _q[..., _token, :], _k[..., _token, :], _v[..., _token, :])
    assert _state.shape == (2, 3, 4, 7)
    _outputs.append(_output)
assert _state is not None
assert torch.allclose(torch.cat(_outputs, dim=-2), _past, atol=1e-5)
assert torch.allclose(_state[..., -1], (F.elu(_k) + 1).sum(-2), atol=1e-5), "the last column sums up the features"

# %% exam="linear_attention_step" points=3

# %% [markdown]
# ## `positive_random_features`
#
# Features whose products are the softmax's own exponentials, on average: $\phi_r(x) = \exp(w_r\cdot x -
# \lVert x\rVert^2/2) / \sqrt m$ for the $m$ rows $w_r$ of `projection`. If these are normal, then
# $\mathbb E[\phi(x)\cdot\phi(y)] = e^{x\cdot y}$. No scaling of $x$ here, no shift, no small number added.


# %% exercise="positive_random_features"
def positive_random_features(x: Float[Tensor, "... n d"], projection: Float[Tensor, "m d"]) -> Float[Tensor, "... n m"]:
    """Features whose products are e^(x·y) on average over normal projections (Choromanski et al. 2021, lemma 1).

    Args:
        x: one vector a row.
        projection: one direction a row.

    Returns:
        exp(w·x − ‖x‖²/2) / √m for each row w of ``projection``.
    """
    ### BEGIN SOLUTION
    exponents = x @ projection.mT - x.square().sum(-1, keepdim=True) / 2  # (..., n, m)
    return exponents.exp() / math.sqrt(projection.shape[0])
    ### END SOLUTION


# %% visible="positive_random_features"
_x = torch.tensor([[0.0, 0.0], [2.0, 0.0]])  # (n, d)
_w = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, -1.0], [0.0, 0.0]])  # (m, d)
_expected = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -2.0, 2.0, -2.0]]).exp() / 2
assert torch.allclose(positive_random_features(_x, _w), _expected)
assert positive_random_features(torch.randn(2, 3, 5, 4), torch.randn(7, 4)).shape == (2, 3, 5, 7)

# %% exam="positive_random_features" points=3

# %% [markdown]
# ## `orthogonal_projection`
#
# Better rows than independent ones: each row for itself is as likely as a row of `torch.randn`, in direction and in
# length, but the first $d$ rows are orthogonal to one another, and so are the next $d$, and so on. The last block may
# be shorter. Blocks don't know of each other. What a QR decomposition gives is not yet equally likely in all
# directions: look at the signs.
#
# All chance comes from `generator`, or from PyTorch's own if it is `None`: whoever fixes a seed in here draws features
# that are the data of somebody who chose the same.


# %% exercise="orthogonal_projection"
def orthogonal_projection(m: int, d: int, generator: torch.Generator | None = None) -> Float[Tensor, "m d"]:
    """Rows that are N(0, I) each, and orthogonal in blocks of d (Yu et al. 2016; Mezzadri 2007 for the signs).

    Args:
        m: how many rows.
        d: how long they are, and how many of them are orthogonal.
        generator: where the numbers come from; PyTorch's own generator if None.

    Returns:
        The rows, on the CPU, in the default dtype.
    """
    ### BEGIN SOLUTION
    n_blocks = -(-m // d)
    q, r = torch.linalg.qr(torch.randn(n_blocks, d, d, generator=generator))  # (blocks, d, d)
    # LAPACK chooses the signs of r's diagonal for accuracy, which makes some directions likelier: undo that choice.
    directions = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)  # (blocks, d, d)
    # Columns were made orthogonal; of a square matrix the rows are, too.
    lengths = torch.randn(m, d, generator=generator).norm(dim=-1, keepdim=True)  # (m, 1): as long as normal rows are
    projection: Tensor = directions.flatten(0, 1)[:m] * lengths
    return projection
    ### END SOLUTION


# %% visible="orthogonal_projection"
_w = orthogonal_projection(10, 4, torch.Generator().manual_seed(1))  # (m, d): blocks of 4, 4 and 2 rows
assert _w.shape == (10, 4)
for _block in _w.split(4):
    _products = _block @ _block.mT
    assert torch.allclose(_products, torch.diag(_products.diagonal()), atol=1e-4), "rows of a block are orthogonal"
assert torch.equal(_w, orthogonal_projection(10, 4, torch.Generator().manual_seed(1)))
_mean = orthogonal_projection(4000, 4, torch.Generator().manual_seed(2)).square().sum(-1).mean()
assert 3.6 < _mean < 4.4, "squared lengths have the mean d"

# %% exam="orthogonal_projection" points=3

# %% [markdown]
# ## Find the counterexample: `find_harmful_shift`
#
# The exponents of the features can be shifted before `exp`, as in a softmax, so that nothing overflows. Here are the
# weights that keys get from a query all of whose features are 1. One version shifts by one number for all keys. The
# other shifts every key by its own largest exponent, which looks just as safe.


# %%
def shifted_together(exponents: Float[Tensor, "keys m"]) -> Float[Tensor, " keys"]:
    """The keys' weights, for a query whose features are all 1."""
    features = torch.exp(exponents - exponents.max())  # (keys, m)
    return features.sum(1) / features.sum()


def shifted_apart(exponents: Float[Tensor, "keys m"]) -> Float[Tensor, " keys"]:
    """The same, with a shift of its own for each key."""
    features = torch.exp(exponents - exponents.amax(1, keepdim=True))  # (keys, m)
    return features.sum(1) / features.sum()


# %% [markdown]
# Give exponents on which the two differ, with as few numbers as there can be.


# %% exercise="find_harmful_shift"
def find_harmful_shift() -> Float[Tensor, "keys m"]:
    """Smallest exponents, counted in numbers, for which ``shifted_together`` and ``shifted_apart`` differ."""
    ### BEGIN SOLUTION
    # One feature is enough: alone in its row it is shifted to zero, whatever it was.
    return torch.tensor([[0.0], [1.0]])  # (keys, m) = (2, 1)
    ### END SOLUTION


# %% visible="find_harmful_shift"
_found = find_harmful_shift()
assert isinstance(_found, torch.Tensor), "one tensor is asked for"
assert _found.ndim == 2, "exponents have two axes: keys, m"
assert not torch.allclose(shifted_together(_found), shifted_apart(_found), atol=1e-3), "on these the two agree"

# %% exam="find_harmful_shift" points=2

# %% [markdown]
# ## `performer_attention`
#
# Scaled dot-product attention with $e^{q\cdot k/\sqrt{d_k}}$ replaced by products of positive random features, in
# linear time. The scale is shared: $d_k^{-1/4}$ for the queries, and as much for the keys.
#
# Features of long vectors are too small for float32 ($e^{-\lVert x\rVert^2/2}$). Which factors may you take out of a
# query's features, and which out of the keys', so that the result stays what it is? That is for advice, not for points.


# %% exercise="performer_attention"
def performer_attention(
    q: Float[Tensor, "... queries d_k"],
    k: Float[Tensor, "... keys d_k"],
    v: Float[Tensor, "... keys d_v"],
    projection: Float[Tensor, "m d_k"],
) -> Float[Tensor, "... queries d_v"]:
    """Attention by positive random features (Choromanski et al. 2021, FAVOR+), not causal.

    Args:
        q, k, v: queries, keys and values.
        projection: one direction a row.

    Returns:
        One output a query; near to scaled dot-product attention if m is large and the vectors are short.
    """
    ### BEGIN SOLUTION
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    # ‖q‖²/2 and 1/√m would stand above the fraction and below it: they cancel, as does any factor that a query has for
    # itself. A factor of the keys cancels only if it is the same for all of them.
    q_exponents = q @ projection.mT  # (..., queries, m)
    k_exponents = k @ projection.mT - k.square().sum(-1, keepdim=True) / 2  # (..., keys, m)
    q_features = torch.exp(q_exponents - q_exponents.amax(-1, keepdim=True).detach())
    k_features = torch.exp(k_exponents - k_exponents.amax((-2, -1), keepdim=True).detach())
    sums = q_features @ (k_features.mT @ F.pad(v, (0, 1), value=1.0))  # (..., queries, d_v + 1)
    return sums[..., :-1] / sums[..., -1:]
    ### END SOLUTION


# %% visible="performer_attention"
_q, _k, _v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 7)
_w = torch.randn(4000, 4)  # (m, d)
_exact = F.scaled_dot_product_attention(_q / 2, _k / 2, _v)
assert (performer_attention(_q / 2, _k / 2, _v, _w) - _exact).abs().max() < 0.3
_same = torch.ones(2, 3, 6, 7)
assert torch.allclose(performer_attention(_q, _k, _same, _w), torch.ones(2, 3, 5, 7), atol=1e-4), "weights sum to one"

# %% exam="performer_attention" points=4
