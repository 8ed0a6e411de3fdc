# %% [markdown]
# # Exercises: sparse attention
#
# You let each query see only some of the keys, and pay for those alone: a window that slides along the text, gaps in
# it, a few tokens that see everything, random blocks. On the way you find the text on which a block shows what the
# window would have hidden. The lesson *Sparse attention* has it all.
#
# **Shapes** are `(..., n, width)`: whatever stands in front, a batch, heads, both or nothing, must not matter. Queries
# and keys stand for the same `n` tokens here. Results have the input's dtype and device; inputs are never changed.
#
# **May use:** everything in PyTorch but FlexAttention, `F.scaled_dot_product_attention` included, and your own answers
# from the cells above. Scores are divided by $\sqrt{d_k}$, as always.
#
# **The cost counts.** For the attentions the autograder counts FLOPs and bytes at several lengths. An answer that
# computes all pairs and hides most of them is right, and loses those points. So does one whose mask alone has `n` times
# `n` entries. A loop is fine, over tokens or over blocks of up to 128 of them.
#
# Each answer has a cell of quick checks below it. The marks come from the autograder. In a clone of the course, after
# `make course`: `.venv/bin/autograder check chapters/exercises/sparse.ipynb`.

# %%
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

# %% [markdown]
# ## `dilated_window_mask`
#
# A window with gaps. Query $i$ sees itself and, on each side, `radius` keys that stand `dilation` apart: at the
# distances 0, `dilation`, 2 · `dilation`, …, `radius` · `dilation`. With `dilation=1` there are no gaps. Masks are
# boolean, and True means *may attend*.


# %% exercise="dilated_window_mask"
def dilated_window_mask(n: int, radius: int, dilation: int) -> Bool[Tensor, "n n"]:
    """Who sees whom in a window with gaps (Beltagy et al. 2020, 3.1).

    Args:
        n: how many tokens there are.
        radius: how many keys a query sees on each side.
        dilation: how far apart they stand, in tokens.

    Returns:
        True where the distance is one of 0, dilation, …, radius · dilation.
    """
    ### BEGIN SOLUTION
    position = torch.arange(n)
    distance = (position[:, None] - position).abs()  # (n, n)
    return (distance % dilation == 0) & (distance <= radius * dilation)
    ### END SOLUTION


# %% visible="dilated_window_mask"
_mask = dilated_window_mask(9, 2, 3)  # (n, n)
assert _mask.dtype == torch.bool
assert _mask[4].tolist() == [False, True, False, False, True, False, False, True, False], "distances 0 and 3"
assert _mask[0].nonzero().flatten().tolist() == [0, 3, 6], "two on the right; the window ends with the text"
assert torch.equal(dilated_window_mask(4, 1, 1), torch.ones(4, 4).tril(1).triu(-1).bool())

# %% exam="dilated_window_mask" points=2

# %% [markdown]
# ## `sliding_window_attention`
#
# Query $i$ sees the keys with $|i - j| \le$ `radius`. With `causal=True` it sees none that come later: the `radius`
# keys before it, and its own. At the ends of the text the window is cut off, and what is left of it shares the weight.
#
# Work and memory grow with `n` times `radius`. No `(n, n)` tensor, not even a mask.


# %% exercise="sliding_window_attention"
def sliding_window_attention(
    q: Float[Tensor, "... n d_k"],
    k: Float[Tensor, "... n d_k"],
    v: Float[Tensor, "... n d_v"],
    radius: int,
    causal: bool = False,
) -> Float[Tensor, "... n d_v"]:
    """Scaled dot-product attention to the keys at a distance of at most ``radius`` (Beltagy et al. 2020, 3.1).

    Args:
        q, k, v: queries, keys and values of the same n tokens.
        radius: how many keys a query sees on each side, besides its own.
        causal: whether it sees those on the left only.

    Returns:
        One output a query, in O(n · radius) operations and memory.
    """
    ### BEGIN SOLUTION
    n, ahead = q.shape[-2], 0 if causal else radius
    # All queries of a block share one slice of keys. In a longer block more of the pairs lie outside of the window; in
    # a shorter one more of the keys are read again for the next.
    size = max(radius, 128)
    position = torch.arange(n, device=q.device)
    outputs = []
    for block in position.split(size):
        start, stop = int(block[0]), int(block[-1]) + 1
        seen = slice(max(start - radius, 0), stop + ahead)
        past = block[:, None] - position[seen]  # (queries, keys): how far back each key stands
        mask = (past <= radius) & (past >= -ahead)
        part = F.scaled_dot_product_attention(q[..., start:stop, :], k[..., seen, :], v[..., seen, :], mask)
        outputs.append(part)  # (..., queries, d_v)
    return torch.cat(outputs, dim=-2)  # (..., n, d_v)
    ### END SOLUTION


# %% visible="sliding_window_attention"
_q, _k, _v = torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 5)  # (batch, heads, n, d)
_band = torch.ones(9, 9).tril(2).triu(-2).bool()  # (n, n), where n is small enough
_near, _past = sliding_window_attention(_q, _k, _v, 2), sliding_window_attention(_q, _k, _v, 2, causal=True)
assert _near.shape == _past.shape == (2, 3, 9, 5)
assert torch.allclose(_near, F.scaled_dot_product_attention(_q, _k, _v, _band), atol=1e-5)
assert torch.allclose(_past, F.scaled_dot_product_attention(_q, _k, _v, _band.tril()), atol=1e-5)
assert torch.allclose(sliding_window_attention(_q, _k, _v, 0), _v, atol=1e-5), "radius 0: itself alone"

# %% exam="sliding_window_attention" points=6

# %% [markdown]
# ## Find the counterexample: `find_leaky_window`
#
# Cutting the text into blocks is what makes a window fast. Here are two attentions of a text to itself: queries, keys
# and values are `x`. In the first one, each token sees those at a distance of at most 2. The second one cuts the text
# into blocks of two; each token sees its own block and the blocks on either side, and nobody looks more closely.


# %%
def window_of_two(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Each token attends to the tokens at a distance of at most 2."""
    position = torch.arange(len(x))
    near = (position[:, None] - position).abs() <= 2
    return torch.softmax((x @ x.mT).masked_fill(~near, -torch.inf), -1) @ x


def blocks_of_two(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Each token attends to its block of two tokens, and to the blocks beside it."""
    block = torch.arange(len(x)) // 2
    near = (block[:, None] - block).abs() <= 1
    return torch.softmax((x @ x.mT).masked_fill(~near, -torch.inf), -1) @ x


# %% [markdown]
# Give an `x` on which the two differ, with as few numbers as there can be.


# %% exercise="find_leaky_window"
def find_leaky_window() -> Float[Tensor, "n d"]:
    """Smallest text, counted in numbers, for which ``window_of_two`` and ``blocks_of_two`` differ."""
    ### BEGIN SOLUTION
    # Tokens 0 and 3 are the nearest pair that lies in neighbouring blocks and not in the window. One of the two has to
    # count for the other: it is not like the rest, and its score is not far below theirs.
    return torch.tensor([[0.0], [0.0], [0.0], [1.0]])  # (n, d) = (4, 1)
    ### END SOLUTION


# %% visible="find_leaky_window"
_found = find_leaky_window()
assert isinstance(_found, torch.Tensor), "one tensor is asked for"
assert _found.ndim == 2, "a text has two axes: n, d"
assert not torch.allclose(window_of_two(_found), blocks_of_two(_found), atol=1e-3), "on this the two agree"

# %% exam="find_leaky_window" points=2

# %% [markdown]
# ## `longformer_attention`
#
# A window, and a few *global* tokens, such as a classification token or the words of a question. Every token sees the
# global ones, and these see every token. Each key counts once, in one softmax, though a global one may well stand in
# the window too.
#
# `global_positions` is a 1-D tensor of distinct positions, in any order; there may be none. Work and memory grow with
# `n` times (`radius` + the number of global tokens). (The paper computes the global scores from projections of their
# own. Here all come from the same `q`, `k` and `v`.)


# %% exercise="longformer_attention"
def longformer_attention(
    q: Float[Tensor, "... n d_k"],
    k: Float[Tensor, "... n d_k"],
    v: Float[Tensor, "... n d_v"],
    radius: int,
    global_positions: Int[Tensor, " globals"],
) -> Float[Tensor, "... n d_v"]:
    """A sliding window, and tokens that see all and are seen by all (Beltagy et al. 2020, 3.1).

    Args:
        q, k, v: queries, keys and values of the same n tokens.
        radius: how many keys a query sees on each side, besides its own.
        global_positions: where the global tokens stand.

    Returns:
        One output a query, in O(n · (radius + globals)) operations and memory.
    """
    ### BEGIN SOLUTION
    n, size = q.shape[-2], max(radius, 128)
    position = torch.arange(n, device=q.device)
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    global_k, global_v = k[..., global_positions, :], v[..., global_positions, :]  # (..., globals, d)
    outputs = []
    for block in position.split(size):
        start, stop = int(block[0]), int(block[-1]) + 1
        seen = slice(max(start - radius, 0), stop + radius)
        near = (block[:, None] - position[seen]).abs() <= radius  # (queries, keys)
        # The global keys are put in front, for every query. In the window they would count a second time.
        mask = F.pad(near & ~is_global[seen], (len(global_positions), 0), value=True)  # (queries, globals + keys)
        keys = torch.cat([global_k, k[..., seen, :]], dim=-2)  # (..., globals + keys, d_k)
        values = torch.cat([global_v, v[..., seen, :]], dim=-2)
        outputs.append(F.scaled_dot_product_attention(q[..., start:stop, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)  # (..., globals, d_v)
    return torch.cat(outputs, dim=-2).index_copy(-2, global_positions, of_global)
    ### END SOLUTION


# %% visible="longformer_attention"
_where = torch.tensor([5, 0])
_seen = torch.ones(9, 9).tril(2).triu(-2).bool()  # (n, n)
_seen[_where], _seen[:, _where] = True, True
_output = longformer_attention(_q, _k, _v, 2, _where)
assert _output.shape == (2, 3, 9, 5)
assert torch.allclose(_output, F.scaled_dot_product_attention(_q, _k, _v, _seen), atol=1e-5)
_nowhere = torch.tensor([], dtype=torch.int64)
_window = F.scaled_dot_product_attention(_q, _k, _v, torch.ones(9, 9).tril(2).triu(-2).bool())
assert torch.allclose(longformer_attention(_q, _k, _v, 2, _nowhere), _window, atol=1e-5), "a window, and nothing else"

# %% exam="longformer_attention" points=5

# %% [markdown]
# ## `bigbird_mask`
#
# Window, global tokens, and chance: each block of tokens sees
#
# - a window of `n_window` blocks in all, an odd number, with itself in the middle;
# - the first `n_global` blocks, which also see all others;
# - `n_random` *other* blocks, drawn for each row anew, all equally likely. If fewer are left, it sees all of them.
#
# All chance comes from `generator`, or from PyTorch's own if it is `None`.


# %% exercise="bigbird_mask"
def bigbird_mask(
    n_blocks: int, n_window: int, n_global: int, n_random: int, generator: torch.Generator | None = None
) -> Bool[Tensor, "blocks blocks"]:
    """Which blocks see which: a window, global blocks and random ones (Zaheer et al. 2020, section 2).

    Args:
        n_blocks: how many blocks the text has.
        n_window: how many blocks the window has, with the row's own in the middle; odd.
        n_global: how many of the first blocks see all, and are seen by all.
        n_random: how many blocks more each row sees.
        generator: where the numbers come from; PyTorch's own generator if None.

    Returns:
        True where the block of the row sees the block of the column; on the CPU.
    """
    ### BEGIN SOLUTION
    block = torch.arange(n_blocks)
    mask = (block[:, None] - block).abs() <= n_window // 2  # (blocks, blocks)
    mask[:n_global] = True
    mask[:, :n_global] = True
    # The largest of as many random numbers are a fair draw of distinct blocks. What a row sees already comes last.
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    drawn = lots.topk(min(n_random, n_blocks), dim=-1).indices  # (blocks, random)
    return mask.scatter(-1, drawn, True)
    ### END SOLUTION


# %% visible="bigbird_mask"
_mask = bigbird_mask(12, 3, 1, 2, torch.Generator().manual_seed(1))  # (blocks, blocks)
assert _mask.shape == (12, 12)
assert _mask.dtype == torch.bool
assert _mask[0].all(), "the global block sees all"
assert _mask[:, 0].all(), "and all see it"
assert _mask[5, 4:7].all(), "a window of three"
assert _mask[2:11].sum(-1).tolist() == [1 + 3 + 2] * 9, "one global, three in the window, two by chance"
assert torch.equal(bigbird_mask(4, 3, 0, 0), torch.ones(4, 4).tril(1).triu(-1).bool())

# %% exam="bigbird_mask" points=3

# %% [markdown]
# ## `block_sparse_attention`
#
# Attention under any mask of blocks. `block_mask[a, b]` says whether the queries of block `a` see the keys of block
# `b`; within such a pair of blocks all see all. The mask is the same for the batch and for all heads. The last block is
# shorter if `block_size` does not divide `n`. Queries that see no key get zeros.
#
# Work grows with the number of blocks kept, wherever in the mask they stand: a single full row must not make all rows
# as dear as itself.


# %% exercise="block_sparse_attention"
def block_sparse_attention(
    q: Float[Tensor, "... n d_k"],
    k: Float[Tensor, "... n d_k"],
    v: Float[Tensor, "... n d_v"],
    block_mask: Bool[Tensor, "blocks blocks"],
    block_size: int,
) -> Float[Tensor, "... n d_v"]:
    """Scaled dot-product attention to the blocks of keys that ``block_mask`` keeps (Child et al. 2019, section 5).

    Args:
        q, k, v: queries, keys and values of the same n tokens.
        block_mask: True where the queries of the row's block see the keys of the column's block.
        block_size: how many tokens a block has; the last one may have fewer.

    Returns:
        One output a query, zero if it sees no key; work in proportion to the blocks that are kept.
    """
    ### BEGIN SOLUTION
    k_blocks, v_blocks = k.split(block_size, dim=-2), v.split(block_size, dim=-2)  # the last may be shorter
    outputs = []
    for q_block, row in zip(q.split(block_size, dim=-2), block_mask, strict=True):
        kept = row.nonzero().flatten().tolist()
        # With no key at the start, as there may be none: attention to nothing is zero.
        keys = torch.cat([k[..., :0, :], *(k_blocks[b] for b in kept)], dim=-2)  # (..., keys, d_k)
        values = torch.cat([v[..., :0, :], *(v_blocks[b] for b in kept)], dim=-2)  # (..., keys, d_v)
        outputs.append(F.scaled_dot_product_attention(q_block, keys, values))
    return torch.cat(outputs, dim=-2)  # (..., n, d_v)
    ### END SOLUTION


# %% visible="block_sparse_attention"
_block_mask = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0]]).bool()  # (blocks, blocks)
_blocks = torch.arange(9) // 4  # (n,): four tokens, four, and one
_output = block_sparse_attention(_q, _k, _v, _block_mask, 4)
assert _output.shape == (2, 3, 9, 5)
_dense = F.scaled_dot_product_attention(_q, _k, _v, _block_mask[_blocks][:, _blocks])
assert torch.allclose(_output, _dense, atol=1e-5)
assert (_output[..., 8, :] == 0).all(), "the last block sees nothing"

# %% exam="block_sparse_attention" points=4
