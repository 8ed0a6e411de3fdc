# %% [markdown]
# # Exercises: attention by hashing
#
# You put vectors into buckets so that near ones mostly share one, let each token attend to its buckets' other tokens
# only, and at last do so without ever building an $n \times n$ matrix: sorted by bucket, chunk by chunk, as the
# Reformer does. On the way you find two neighbours that no bucket brings together. The lesson *Attention by hashing*
# has it all.
#
# **Shapes** are `(..., n, width)`: whatever stands in front, a batch, heads, both or nothing, must not matter.
# Buckets have one more axis in front, the rounds. Results have the input's device, and its dtype where they are no
# bucket numbers; inputs are never changed.
#
# **One tensor for queries and keys.** `qk` holds a vector for each token, which is its query. Its key is the same
# vector with length one. No vector is zero.
#
# **May use:** everything in PyTorch, `F.scaled_dot_product_attention` and its masks too, and your own answers from the
# cells above.
#
# Each answer has a cell of quick checks below it. The marks come from the autograder. In a clone of the course, after
# `make course`: `.venv/bin/autograder check chapters/exercises/hashing.ipynb`.

# %%
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

# %% [markdown]
# ## `lsh_buckets`
#
# Each round has a matrix $R$ of its own, `(d, n_buckets / 2)`. A vector's bucket in that round is the place of the
# largest number in $[xR;\, -xR]$: first the numbers of $xR$, then their opposites. In this order, so that bucket
# numbers can be compared with anybody's.
#
# The rounds stand in front of all other axes, also where `x` has a batch and heads. The same rotations serve every
# sentence and every head.


# %% exercise="lsh_buckets"
def lsh_buckets(x: Float[Tensor, "... n d"], rotations: Float[Tensor, "rounds d half"]) -> Int[Tensor, "rounds ... n"]:
    """Buckets of angular locality-sensitive hashing (Andoni et al. 2015; Kitaev et al. 2020, section 2).

    Args:
        x: one vector a row, of any length but zero.
        rotations: one matrix a round, with half as many columns as there are buckets.

    Returns:
        For each round the bucket of every vector, from 0 to 2 · half − 1, in int64.
    """
    ### BEGIN SOLUTION
    # Named, not `x @ rotations`: that would pair the rounds with the batch.
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations)  # (rounds, ..., n, half)
    return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)  # (rounds, ..., n)
    ### END SOLUTION


# %% visible="lsh_buckets"
_x = torch.tensor([[3.0, 1.0], [-1.0, 2.0], [-3.0, -1.0], [1.0, -2.0]])  # (n, d)
_rotations = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, -1.0]]])  # (rounds, d, half)
_buckets = lsh_buckets(_x, _rotations)
assert _buckets.tolist() == [[0, 1, 2, 3], [0, 3, 2, 1]], "[3, 1, −3, −1] is largest at 0, [−1, 2, 1, −2] at 1"
assert torch.equal(lsh_buckets(100 * _x, _rotations), _buckets), "length does not matter"
assert lsh_buckets(torch.randn(2, 3, 5, 4), torch.randn(7, 4, 8)).shape == (7, 2, 3, 5)
assert lsh_buckets(torch.randn(7, 5, 4), torch.randn(7, 4, 8)).shape == (7, 7, 5), "rounds and batch are two axes"

# %% exam="lsh_buckets" points=4

# %% [markdown]
# ## Find the counterexample: `find_missed_neighbour`
#
# Two rounds in three dimensions, six buckets each. Two vectors are *near* if their cosine is above 0.999: less than
# three degrees apart. One function counts each vector's near ones, the other only those that share a bucket with it,
# in one round at least. On random vectors they agree nearly always.


# %%
ROTATIONS = torch.tensor(
    [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 3.0]]]
)  # (rounds, d, half): xR is (x₀, x₁, x₂) in the first round, (x₀ + x₁, x₀ − x₁, 3 x₂) in the second


def near_ones(x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """How many vectors are near to each, itself counted."""
    directions = F.normalize(x, dim=-1)
    near = directions @ directions.mT > 0.999  # (n, n)
    return near.sum(-1).to(x.dtype)


def near_ones_in_a_bucket(x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """How many of them share a bucket with it, in the first round or in the second."""
    directions = F.normalize(x, dim=-1)
    rotated = x @ ROTATIONS.to(x)  # (rounds, n, 3)
    buckets = torch.cat([rotated, -rotated], dim=-1).argmax(-1)  # (rounds, n)
    together = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)  # (n, n)
    return ((directions @ directions.mT > 0.999) & together).sum(-1).to(x.dtype)


# %% [markdown]
# Give vectors `(n, 3)` on which the two differ, with as few numbers as there can be.


# %% exercise="find_missed_neighbour"
def find_missed_neighbour() -> Float[Tensor, "n 3"]:
    """Fewest vectors for which ``near_ones`` and ``near_ones_in_a_bucket`` differ."""
    ### BEGIN SOLUTION
    # (3, 3, 2) lies on a border in both rounds: 3 = 3 in the first, 6 = 6 in the second. Both are crossed here.
    return torch.tensor([[3.01, 3.0, 1.99], [3.0, 3.01, 2.01]])  # (n, 3)
    ### END SOLUTION


# %% visible="find_missed_neighbour"
_found = find_missed_neighbour()
assert isinstance(_found, torch.Tensor), "one tensor is asked for"
assert _found.ndim == 2, "vectors have two axes: n, 3"
assert _found.shape[1] == 3, "vectors have two axes: n, 3"
assert not torch.equal(near_ones(_found), near_ones_in_a_bucket(_found)), "on these the two agree"

# %% exam="find_missed_neighbour" points=2

# %% [markdown]
# ## `reformer_attention`
#
# Attention among tokens that share a bucket, in **any** of the rounds; a pair that shares one in several rounds counts
# once. The score is $q_i \cdot k_j / \sqrt{d_k}$, with $q_i$ the vector of token $i$ as it is, and $k_j$ the vector of
# token $j$ divided by its length.
#
# A token does **not** attend to itself, for it would always be its own nearest neighbour. If it has nobody else, it
# does: then its output is its own value. With `causal=True` a token sees nobody that comes later.
#
# Here you may build `(n, n)` matrices. It is what the fast version will be compared with.


# %% exercise="reformer_attention"
def reformer_attention(
    qk: Float[Tensor, "... n d_k"],
    v: Float[Tensor, "... n d_v"],
    buckets: Int[Tensor, "rounds ... n"],
    causal: bool = False,
) -> Float[Tensor, "... n d_v"]:
    """Shared-QK attention within buckets, a pair counted once (Kitaev et al. 2020, section 2), all pairs computed.

    Args:
        qk: the tokens' vectors, queries as they are and keys with length one.
        v: values.
        buckets: for each round the bucket of every token; any integers, which mean nothing from round to round.
        causal: whether a token sees only itself and those before it.

    Returns:
        One output a token; its own value for a token that sees nobody else.
    """
    ### BEGIN SOLUTION
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(dim=0)  # (..., n, n): one common bucket is enough
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)  # (n, n)
    others = seen & ~itself
    # Only now, behind the causal mask: in whatever bucket, the first token has nobody left.
    seen = others | (itself & ~others.any(dim=-1, keepdim=True))
    return F.scaled_dot_product_attention(qk, F.normalize(qk, dim=-1), v, attn_mask=seen)  # (..., n, d_v)
    ### END SOLUTION


# %% visible="reformer_attention"
_qk = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0], [4.0, 3.0]])  # (n, d_k)
_v = torch.tensor([[1.0], [10.0], [100.0], [1000.0]])  # (n, d_v)
_buckets = torch.tensor([[0, 0, 1, 2], [0, 0, 0, 3]])  # (rounds, n)
_output = reformer_attention(_qk, _v, _buckets)
assert torch.allclose(_output[3], _v[3]), "nobody shares a bucket with the last token: it attends to itself"
_weights = torch.softmax(torch.tensor([1.5, 0.0]), -1)  # token 2: (0, 3)·(1, 1)/√2 / √2 = 1.5 with 1, and 0 with 0
assert torch.allclose(_output[2], _weights @ _v[[1, 0]]), "token 2 meets both in the second round, itself it skips"
_weights = torch.softmax(torch.tensor([1.0, 0.0]), -1)  # token 0: (2, 0)·(1, 1)/√2 / √2 = 1 with 1, and 0 with 2
assert torch.allclose(_output[0], _weights @ _v[[1, 2]]), "token 0 meets token 1 twice, which counts once"
_past = reformer_attention(_qk, _v, _buckets, causal=True)
assert torch.allclose(_past[:2], _v[[0, 0]]), "the first token has itself only, the second one the first"

# %% exam="reformer_attention" points=6

# %% [markdown]
# ## Bonus: `chunked_reformer_attention`
#
# The same within **one** round, in time and memory that grow with $n$. Buckets are of all sizes, so they don't fit
# into a rectangle. The Reformer's way:
#
# 1. sort the tokens by bucket; those of one bucket stay in the order of the text;
# 2. cut the sorted row into chunks of `chunk_size`; the last one may be shorter;
# 3. a token sees the tokens **of its own bucket** in its own chunk and in the chunk before. The first chunk has none
#    before it. With `causal=True` it sees nobody that comes later in the text;
# 4. put the outputs back into the order of the text.
#
# Scores, keys, and whoever sees nobody else: as in `reformer_attention`. With `causal=True` and buckets of at most
# `chunk_size` tokens the two give the same. (Without `causal`, who stands at the end of a chunk misses those of its
# bucket that come in the next one.)
#
# **The cost counts.** The autograder counts FLOPs and bytes at several lengths, at one `chunk_size`. An
# `(n, n)` matrix loses those points, of booleans too. A loop over the chunks will do.


# %% exercise="chunked_reformer_attention"
def chunked_reformer_attention(
    qk: Float[Tensor, "... n d_k"],
    v: Float[Tensor, "... n d_v"],
    buckets: Int[Tensor, "... n"],
    chunk_size: int,
    causal: bool = False,
) -> Float[Tensor, "... n d_v"]:
    """One round of Reformer attention in chunks of the sorted tokens (Kitaev et al. 2020, figure 2).

    Args:
        qk: the tokens' vectors, queries as they are and keys with length one.
        v: values.
        buckets: the bucket of every token, from 0 on.
        chunk_size: how many sorted tokens make a chunk.
        causal: whether a token sees only itself and those before it in the text.

    Returns:
        One output a token; its own value for a token that sees nobody else.
    """
    ### BEGIN SOLUTION
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)  # (..., n, 1): the place in the text of the sorted ones

    def in_chunks(x: Tensor) -> Tensor:  # (..., n, d) → (..., chunks, chunk_size, d), sorted
        x = torch.take_along_dim(x, order, dim=-2)
        # −1 is no bucket and no place: what fills up the last chunk is seen by nobody.
        chunks: Tensor = F.pad(x, (0, 0, 0, -n % chunk_size), value=-1).unflatten(-2, (-1, chunk_size))
        return chunks

    def with_the_one_before(x: Tensor) -> Tensor:  # (..., chunks, chunk_size, d) → (..., chunks, 2 · chunk_size, d)
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=-1)[..., :-1, :, :], x], dim=-2)

    places = torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape)
    bucket, place = in_chunks(buckets.unsqueeze(-1)), in_chunks(places)  # (..., chunks, chunk_size, 1)
    key_bucket, key_place = with_the_one_before(bucket).mT, with_the_one_before(place).mT  # (…, chunks, 1, 2 · size)

    seen = bucket == key_bucket  # (..., chunks, chunk_size, 2 · chunk_size)
    if causal:
        seen = seen & (key_place <= place)
    itself = place == key_place
    others = seen & ~itself
    seen = others | (itself & ~others.any(dim=-1, keepdim=True))

    keys, values = (with_the_one_before(in_chunks(x)) for x in (F.normalize(qk, dim=-1), v))
    output = F.scaled_dot_product_attention(in_chunks(qk), keys, values, attn_mask=seen)
    output = output.flatten(-3, -2)[..., :n, :]  # (..., n, d_v), sorted
    return torch.take_along_dim(output, order.argsort(dim=-2), dim=-2)  # (..., n, d_v), as in the text
    ### END SOLUTION


# %% visible="chunked_reformer_attention"
_qk, _v = torch.randn(2, 10, 4), torch.randn(2, 10, 3)  # (batch, n, d)
_buckets = torch.tensor([[0, 1, 2, 0, 1, 3, 0, 1, 3, 4], [5, 4, 4, 3, 3, 3, 2, 2, 1, 0]])  # (batch, n)
_output = chunked_reformer_attention(_qk, _v, _buckets, 3, causal=True)
_dense = reformer_attention(_qk, _v, _buckets.unsqueeze(0), causal=True)
assert _output.shape == (2, 10, 3)
assert torch.allclose(_output, _dense, atol=1e-5), "no bucket has more than three tokens: nobody in the past is missed"
_one = torch.zeros(10, dtype=torch.long)  # one bucket for all: now chunks of 2 cut something off
_output = chunked_reformer_attention(_qk[0], _v[0], _one, 2)
_last = reformer_attention(_qk[0, 6:], _v[0, 6:], torch.zeros(1, 4, dtype=torch.long))[-1]
assert torch.allclose(_output[-1], _last, atol=1e-5), "the last token sees its own chunk and the one before"
_first = reformer_attention(_qk[0, :2], _v[0, :2], torch.zeros(1, 2, dtype=torch.long))[0]
assert torch.allclose(_output[0], _first, atol=1e-5), "the first chunk has none before it"

# %% exam="chunked_reformer_attention" points=5
