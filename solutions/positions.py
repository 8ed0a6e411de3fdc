# %% [markdown]
# # Exercises: positions
#
# Attention by itself can't tell first from last. You write five ways to tell it where the tokens stand: waves and a
# learned table, which are added to the tokens; slopes and buckets, which are added to the scores; and rotations of
# queries and keys. At the end you write the test that tells right rotations from wrong ones. The lesson *Positions* has
# the formulas.
#
# **May use:** every operator of PyTorch, `F.scaled_dot_product_attention` too, and your own answers from the cells
# above.
#
# Positions count from 0. Shapes are `(..., length, width)`: whatever stands in front must not matter.
#
# Each answer has a cell of quick checks below it. The marks come from the autograder. In a clone of the course, after
# `make course`: `.venv/bin/autograder check chapters/exercises/positions.ipynb`.

# %%
from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

# %% [markdown]
# ## `sinusoidal_encoding`
#
# A row of waves for each position: column $2i$ is a sine and column $2i+1$ the cosine of the same angle. The first
# angle grows by 1 with each position, the others more and more slowly. If the width is odd, the last cosine is left
# out. The result is float32.


# %% exercise="sinusoidal_encoding"
def sinusoidal_encoding(n: int, d_model: int, base: float = 10000.0) -> Float[Tensor, "n d_model"]:
    """The sine and cosine of position / base^(2i / d_model) in columns 2i and 2i + 1 (Vaswani et al. 2017, 3.5).

    Args:
        n: the number of positions, which count from 0.
        d_model: the number of columns; if it is odd, the last sine has no cosine.
        base: how slow the waves become, from left to right.

    Returns:
        One row a position, in float32.
    """
    ### BEGIN SOLUTION
    frequencies = base ** (-torch.arange(0, d_model, 2) / d_model)  # (⌈d_model / 2⌉,)
    angles = torch.arange(n)[:, None] * frequencies  # (n, ⌈d_model / 2⌉)
    pairs = torch.stack([angles.sin(), angles.cos()], dim=-1)  # (n, ⌈d_model / 2⌉, 2)
    return pairs.flatten(-2)[:, :d_model]  # (n, d_model)
    ### END SOLUTION


# %% visible="sinusoidal_encoding"
_angles = torch.tensor([[0.0, 0.0], [1.0, 0.1], [2.0, 0.2]])  # three positions, base 100
_waves = torch.stack([_angles.sin(), _angles.cos()], dim=-1).flatten(1)
assert torch.allclose(sinusoidal_encoding(3, 4, base=100.0), _waves, atol=1e-6)
assert sinusoidal_encoding(6, 5).shape == (6, 5)

# %% exam="sinusoidal_encoding" points=3

# %% [markdown]
# ## `LearnedPositions`
#
# A table with a row for each position, learned like every other weight. Row 0 is added to the first token of every
# sentence, row 1 to the second. A sentence may be shorter than the table. If it is longer, there is nothing to add:
# raise a `ValueError` that names both numbers.


# %% exercise="LearnedPositions"
class LearnedPositions(nn.Module):
    """Adds a learned vector to each token, by its position (Gehring et al. 2017).

    Args:
        max_len: the number of positions that are learned.
        d_model: width of the tokens.
    """

    def __init__(self, max_len: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(max_len, d_model))

    def forward(self, x: Float[Tensor, "... n d_model"]) -> Float[Tensor, "... n d_model"]:
        """The tokens with their positions added.

        Args:
            x: one row a token, ``n`` of them.

        Raises:
            ValueError: ``n`` is larger than ``max_len``; the message names both.
        """
        ### BEGIN SOLUTION
        n, max_len = x.shape[-2], self.weight.shape[0]
        if n > max_len:
            raise ValueError(f"{n} tokens, but only {max_len} positions are learned")
        return x + self.weight[:n]  # (n, d_model) broadcasts to (..., n, d_model)
        ### END SOLUTION


# %% visible="LearnedPositions"
_layer, _x = LearnedPositions(max_len=6, d_model=4), torch.zeros(2, 3, 4)
assert torch.equal(_layer(_x)[0], _layer.weight[:3])
assert torch.equal(_layer(_x)[0], _layer(_x)[1])
_said = ""
try:
    _layer(torch.zeros(7, 4))
except ValueError as _error:
    _said = str(_error)
assert "7" in _said, "7 tokens are too many for 6 positions"
assert "6" in _said, "7 tokens are too many for 6 positions"

# %% exam="LearnedPositions" points=2

# %% [markdown]
# ## `alibi_bias`
#
# Nothing is learned: each head takes something off a score for each step between query and key. The amount $m$ differs
# from head to head. With $n$ heads, $n$ a power of two, head $h = 1, 2, …, n$ has the slope $m = 2^{-8h/n}$.
#
# For any other number, take the largest power of two $p$ below it. The first $p$ heads have the slopes of $p$ heads.
# Those that are left take every second slope of $2p$ heads: the first, the third, the fifth, …
#
# The last query stands where the last key does. Nothing is masked.


# %% exercise="alibi_bias"
def alibi_bias(n_heads: int, n_queries: int, n_keys: int) -> Float[Tensor, "heads queries keys"]:
    """What is added to the scores: minus a head's slope times the distance (Press et al. 2022, and their code).

    Args:
        n_heads: the number of heads.
        n_queries, n_keys: how many there are; the last of both stand at the same position.

    Returns:
        The bias, unmasked, in float32.
    """
    ### BEGIN SOLUTION
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]  # every second one of 2 · power heads

    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]  # (queries, 1)
    distance = (queries - torch.arange(n_keys)).abs()  # (queries, keys)
    return -torch.tensor(slopes)[:, None, None] * distance  # (heads, queries, keys)
    ### END SOLUTION


# %% visible="alibi_bias"
assert alibi_bias(2, 1, 4)[0].tolist() == [[-3 / 16, -2 / 16, -1 / 16, 0.0]]
assert alibi_bias(8, 3, 3)[0].tolist() == [[0.0, -0.5, -1.0], [-0.5, 0.0, -0.5], [-1.0, -0.5, 0.0]]
_three = alibi_bias(3, 1, 2)[:, 0, 0]
assert torch.allclose(_three, torch.tensor([-1 / 16, -1 / 256, -1 / 4]))  # the slopes of two heads, and one of four
assert alibi_bias(12, 2, 5).shape == (12, 2, 5)

# %% exam="alibi_bias" points=3

# %% [markdown]
# ## `rotary`
#
# Columns $2i$ and $2i+1$ are the two coordinates of a point. Turn it counter-clockwise by the angle
# position / base$^{2i/d}$, the same angles as in `sinusoidal_encoding`. Compute the angles in float32 at least,
# whatever `x` is: half precision can't tell position 1000 from 1001. The result has the dtype of `x`.


# %% exercise="rotary"
def rotary(
    x: Float[Tensor, "... n d"], positions: Int[Tensor, "..."], base: float = 10000.0
) -> Float[Tensor, "... n d"]:
    """Each pair of columns (2i, 2i + 1) turned by position / base^(2i / d) (Su et al. 2021).

    Args:
        x: queries or keys.
        positions: where they stand; it broadcasts to ``x.shape[:-1]``.
        base: how slowly the last pairs turn.

    Raises:
        ValueError: ``d`` is odd; the message names it.
    """
    ### BEGIN SOLUTION
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"rotary turns pairs of columns, and d = {d} is odd")
    precise = torch.promote_types(x.dtype, torch.float32)
    frequencies = base ** (-torch.arange(0, d, 2, dtype=precise, device=x.device) / d)  # (d / 2,)
    angles = positions[..., None] * frequencies  # (..., n, d / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    first, second = x[..., 0::2], x[..., 1::2]  # (..., n, d / 2) each
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)  # (..., n, d / 2, 2)
    return turned.flatten(-2)  # (..., n, d)
    ### END SOLUTION


# %% visible="rotary"
_x, _positions = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
assert torch.allclose(rotary(_x, _positions), torch.tensor([[1.0, 0.0], [math.cos(1), math.sin(1)]]))
_q, _k = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
_early, _late = (rotary(_q, _p) @ rotary(_k, _p).mT for _p in (torch.arange(5), torch.arange(40, 45)))
assert torch.allclose(_early, _late, atol=1e-4)
_x = torch.tensor([[0.0, 0.0, 1.0, 0.0]])  # an arrow in the second pair, which is ten times slower for base 100
assert torch.allclose(rotary(_x, torch.tensor([1]), 100.0), torch.tensor([[0.0, 0.0, math.cos(0.1), math.sin(0.1)]]))

# %% exam="rotary" points=5

# %% [markdown]
# ## `rotary_attention`
#
# Scaled dot-product attention whose scores know how far query and key are apart. There may be fewer queries than keys:
# when text is generated, the keys of the past are kept, and only the newest token asks. The last query stands where the
# last key does. Every query sees every key.


# %% exercise="rotary_attention"
def rotary_attention(
    q: Float[Tensor, "... queries d_k"],
    k: Float[Tensor, "... keys d_k"],
    v: Float[Tensor, "... keys d_v"],
    base: float = 10000.0,
) -> Float[Tensor, "... queries d_v"]:
    """Scaled dot-product attention with rotary positions (Su et al. 2021).

    Args:
        q, k, v: queries, keys and values, not rotated; the last query stands at the last key's position.
        base: that of the rotations.

    Raises:
        ValueError: ``d_k`` is odd; the message names it.
    """
    ### BEGIN SOLUTION
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    q = rotary(q, torch.arange(n_keys - n_queries, n_keys, device=q.device), base)  # (..., queries, d_k)
    k = rotary(k, torch.arange(n_keys, device=k.device), base)  # (..., keys, d_k)
    # The values say what a token is, not where: they are not turned.
    return F.scaled_dot_product_attention(q, k, v)  # (..., queries, d_v)
    ### END SOLUTION


# %% visible="rotary_attention"
_q, _k, _v = torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 3)
assert torch.allclose(rotary_attention(_q, _k, _v)[:, -1:], rotary_attention(_q[:, -1:], _k, _v), atol=1e-5)
assert torch.allclose(rotary_attention(_q, _k, torch.ones(2, 5, 3)), torch.ones(2, 5, 3))
_same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # two tokens that differ by their positions alone
_scores = torch.tensor([[1.0, math.cos(1)], [math.cos(1), 1.0]]) / math.sqrt(2)
assert torch.allclose(rotary_attention(_same, _same, torch.eye(2)), _scores.softmax(dim=-1))

# %% exam="rotary_attention" points=3

# %% [markdown]
# ## `relative_position_bucket`
#
# T5 learns one number for each head and each *bucket* of distances. Near tokens have a bucket of their own, far ones
# share. Each direction has $2e$ buckets. The first $e$ hold one distance each: 0, 1, 2, … Those after them grow by a
# constant *factor*: with $D$ for `max_distance`, bucket $e + k$ begins at the distance $e\,(D/e)^{k/e}$, which need not
# be whole. The last one also takes whatever is farther than $D$.
#
# With `bidirectional`, the first half of all buckets is for keys at or before the query, the second half, numbered on,
# for keys after it. Without, all buckets are for keys at or before the query, and keys after it are put into bucket 0.


# %% exercise="relative_position_bucket"
def relative_position_bucket(
    relative_position: Int[Tensor, "..."],
    n_buckets: int = 32,
    max_distance: int = 128,
    bidirectional: bool = True,
) -> Int[Tensor, "..."]:
    """The number of the bucket of each distance (Raffel et al. 2020, 2.1).

    Args:
        relative_position: the position of the key minus that of the query, in int64.
        n_buckets: how many buckets there are in all, a multiple of 4.
        max_distance: from here on all distances share the last bucket; larger than ``n_buckets / 2``.
        bidirectional: whether keys after the query have buckets, too.

    Returns:
        Numbers from 0 to ``n_buckets - 1``, in int64.
    """
    ### BEGIN SOLUTION
    if bidirectional:
        n_buckets //= 2  # for each direction
        first = n_buckets * (relative_position > 0)
        distance = relative_position.abs()
    else:
        first = torch.zeros_like(relative_position)
        distance = (-relative_position).clamp(min=0)

    n_exact = n_buckets // 2
    # From 0 where the exact buckets end to 1 at max_distance. Distances that are exact are only kept out of log(0).
    share = torch.log(distance.clamp(min=n_exact) / n_exact) / math.log(max_distance / n_exact)
    far = n_exact + (share * (n_buckets - n_exact)).long()
    return first + torch.where(distance < n_exact, distance, far.clamp(max=n_buckets - 1))
    ### END SOLUTION


# %% visible="relative_position_bucket"
_distances = torch.tensor([0, -1, -7, -8, -15, -20, -100, -500, 1, 20])
assert relative_position_bucket(_distances).tolist() == [0, 1, 7, 8, 9, 10, 15, 15, 17, 26]
assert relative_position_bucket(_distances, bidirectional=False).tolist() == [0, 1, 7, 8, 15, 17, 30, 31, 0, 0]

# %% exam="relative_position_bucket" points=4

# %% [markdown]
# ## Be the examiner: `check_rotary`
#
# Write the test. It is run on right implementations of `rotary` and on wrong ones; your mark is the share of the wrong
# ones that it rejects, by raising (an `assert` is enough) or by giving `False`. If it rejects a single right one, it
# gets nothing. Right answers may compute their angles in float32 even if `x` is float64: up to position 100, don't ask
# for more than four digits.


# %% exercise="check_rotary"
def check_rotary(fn: Callable[..., Tensor]) -> None:
    """A test of implementations of rotary positions.

    Args:
        fn: called as ``fn(x, positions)`` or ``fn(x, positions, base)``.

    Raises:
        AssertionError: ``fn`` is wrong.
    """

    ### BEGIN SOLUTION
    def turned(x: Tensor, positions: Tensor, base: float) -> Tensor:
        """What is right: a product of complex numbers, one for each pair."""
        frequencies = torch.tensor([base ** (-i / x.shape[-1]) for i in range(0, x.shape[-1], 2)], dtype=torch.float64)
        angles = positions[..., None] * frequencies
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    one_sentence, each_its_own = torch.tensor([3, 0, 41, 7]), torch.randint(100, (3, 1, 4))
    for shape in ((4, 2), (4, 6), (3, 5, 4, 8), (4, 4, 4, 4)):
        for positions in (one_sentence, each_its_own) if shape[0] == 3 else (one_sentence,):
            for base in (10000.0, 50.0):
                x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
                before = x.detach().clone()
                result = fn(x, positions) if base == 10000.0 else fn(x, positions, base)
                torch.testing.assert_close(result, turned(x, positions, base), rtol=0, atol=1e-3)
                assert torch.equal(x, before), "fn changes its input"
                (gradient,) = torch.autograd.grad((result * before).sum(), x)
                torch.testing.assert_close(gradient, turned(before, -positions, base), rtol=0, atol=1e-3)

    x = torch.randn(300, 8).bfloat16()  # more positions than bfloat16 has whole numbers
    result = fn(x, torch.arange(700, 1000))
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), turned(x, torch.arange(700, 1000), 10000.0), rtol=0.05, atol=0.05)

    said = ""
    try:
        fn(torch.randn(4, 5), torch.arange(4))
    except ValueError as error:
        said = str(error)
    assert "5" in said, "fn takes an odd d, or its error does not name it"
    ### END SOLUTION


# %% visible="check_rotary"
check_rotary(rotary)

# %% exam="check_rotary" points=3
