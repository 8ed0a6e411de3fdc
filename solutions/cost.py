# %% [markdown]
# # Exercises: what attention costs
#
# First you count: operations and bytes. Then you build the cache that makes generation affordable, use it, and build
# two kinds of attention that make the cache small. The lesson *What attention costs* has the formulas.
#
# **May use:** all of PyTorch but a ready-made attention (`F.scaled_dot_product_attention`, `nn.MultiheadAttention`, …),
# the given `masked_softmax`, and your own answers from the cells above.
#
# Shapes are `(..., heads, length, width)`: whatever stands in front, a batch, more or nothing, must not matter. Results
# have the input's dtype and device, and inputs are never changed. Where an exercise says what may not be made, the
# autograder counts the bytes.
#
# Each answer has a cell of quick checks below it: they tell you when you are close. The marks come from the autograder.
# In a clone of the course, after `make course`: `.venv/bin/autograder check chapters/exercises/cost.ipynb`.

# %%
from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

# %% [markdown]
# ## `attention_flops`
#
# How many floating-point operations do the two matrix products of attention take? A multiplication with the addition
# that follows counts as 2. The exponentials are left out, and nothing is taken off for a causal mask.


# %% exercise="attention_flops"
def attention_flops(batch: int, n_heads: int, n_queries: int, n_keys: int, d_k: int, d_v: int) -> int:
    """Operations of the two products, scores and output; a multiply-add is 2 (Dao et al. 2022, 2.2)."""
    ### BEGIN SOLUTION
    # A score is d_k multiply-adds long; a weight is used in d_v of them.
    return 2 * batch * n_heads * n_queries * n_keys * (d_k + d_v)
    ### END SOLUTION


# %% visible="attention_flops"
assert attention_flops(1, 1, 1, 1, 3, 4) == 14
assert attention_flops(2, 3, 5, 7, 3, 4) == 2 * 3 * 35 * 14
assert isinstance(attention_flops(1, 1, 2, 2, 8, 8), int), "a count is a whole number"

# %% exam="attention_flops" points=2

# %% [markdown]
# ## `attention_bytes`
#
# How many bytes go between the processor and its main memory? At the least each number of q, k, v and the output once.
# If the scores and the weights are *materialised*, stored as tensors, each of the two is also written once and read
# once.


# %% exercise="attention_bytes"
def attention_bytes(
    batch: int,
    n_heads: int,
    n_queries: int,
    n_keys: int,
    d_k: int,
    d_v: int,
    itemsize: int = 2,
    materialised: bool = True,
) -> int:
    """Bytes read and written (Dao et al. 2022, 3.2), as if nothing that was stored stayed in a cache.

    Args:
        batch, n_heads: attentions side by side.
        n_queries, n_keys: rows of q and of k and v.
        d_k, d_v: their widths.
        itemsize: bytes a number, 2 in half precision.
        materialised: whether scores and weights are stored.
    """
    ### BEGIN SOLUTION
    numbers = n_queries * (d_k + d_v) + n_keys * (d_k + d_v)  # q and the output, k and v
    if materialised:
        numbers += 4 * n_queries * n_keys  # two tensors, each written and read
    return batch * n_heads * numbers * itemsize
    ### END SOLUTION


# %% visible="attention_bytes"
assert attention_bytes(1, 1, 1, 1, 1, 1, itemsize=1, materialised=False) == 4
assert attention_bytes(1, 1, 1, 1, 1, 1, itemsize=1) == 8
assert attention_bytes(1, 1, 2, 3, 4, 5, materialised=False) == 90

# %% exam="attention_bytes" points=2

# %% [markdown]
# ## `KVCache`
#
# Keys and values of the tokens so far, for one layer. All the memory is there from the start, for `max_len` tokens:
#
# - `update(k, v)` takes those of some new tokens in, and gives all so far, oldest first, *without copying them*;
# - `length` is how many tokens there are so far;
# - `nbytes` is how many bytes the cache takes, full or not.
#
# The caller may write over `k` and `v` afterwards. An update that does not fit raises a `ValueError` that names
# `max_len` and how many tokens it would have been, and changes nothing.


# %% exercise="KVCache"
class KVCache:
    """Keys and values of one layer in memory that is taken once (Pope et al. 2023, 2).

    Args:
        batch: texts side by side.
        n_kv_heads: heads of keys and values.
        max_len: tokens that there is room for.
        d_k: width of a key.
        d_v: width of a value; ``d_k`` if None.
        dtype, device: of the memory; PyTorch's defaults if None.

    Attributes:
        length: tokens so far.
        nbytes: bytes of all the memory.
    """

    def __init__(
        self,
        batch: int,
        n_kv_heads: int,
        max_len: int,
        d_k: int,
        d_v: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        ### BEGIN SOLUTION
        d_v = d_k if d_v is None else d_v
        self.k = torch.empty(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.empty(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.nbytes = self.k.nbytes + self.v.nbytes
        self.length = 0
        ### END SOLUTION

    def update(
        self, k: Float[Tensor, "batch n_kv_heads n d_k"], v: Float[Tensor, "batch n_kv_heads n d_v"]
    ) -> tuple[Float[Tensor, "batch n_kv_heads keys d_k"], Float[Tensor, "batch n_kv_heads keys d_v"]]:
        """Takes in the keys and values of n new tokens.

        Returns:
            All keys and all values so far.

        Raises:
            ValueError: they don't fit; the message names how many tokens it would be, and ``max_len``.
        """
        ### BEGIN SOLUTION
        end, max_len = self.length + k.shape[-2], self.k.shape[-2]
        if end > max_len:
            raise ValueError(f"{end} tokens don't fit into a cache for {max_len}")
        self.k[:, :, self.length : end] = k
        self.v[:, :, self.length : end] = v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]  # views of what is stored
        ### END SOLUTION


# %% visible="KVCache"
_k, _v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 6)  # (batch, n_kv_heads, n, width)
_cache = KVCache(batch=2, n_kv_heads=3, max_len=8, d_k=4, d_v=6)
assert (_cache.length, _cache.nbytes) == (0, 2 * 3 * 8 * (4 + 6) * 4)
_cache.update(_k[:, :, :3], _v[:, :, :3])
_all_k, _all_v = _cache.update(_k[:, :, 3:], _v[:, :, 3:])
assert torch.equal(_all_k, _k)
assert torch.equal(_all_v, _v)
assert (_cache.length, _cache.nbytes) == (5, 2 * 3 * 8 * (4 + 6) * 4)
_message = "no ValueError"
try:
    _cache.update(_k, _v)
except ValueError as _error:
    _message = str(_error)
assert "10" in _message, (
    f"5 + 5 tokens in a cache for 8: a ValueError that names 10 and 8 is asked for, not {_message!r}"
)
assert "8" in _message, (
    f"5 + 5 tokens in a cache for 8: a ValueError that names 10 and 8 is asked for, not {_message!r}"
)

# %% exam="KVCache" points=4

# %% [markdown]
# ## `cached_generate`
#
# Greedy generation with a cache: the same tokens as without one, for less work. Here is a small model that reads its
# past from caches. It has *no* opinion on what the new tokens may see, nor on where they stand: the caller says both.


# %%
class Decoder(nn.Module):
    """A small language model with a cache for each of its layers; ``n_layers`` says how many it needs."""

    def __init__(self, vocab_size: int, d_model: int, n_heads: int, n_layers: int, max_len: int) -> None:
        super().__init__()
        self.n_heads, self.n_layers = n_heads, n_layers
        self.tokens, self.places = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.w_qkv = nn.ModuleList(nn.Linear(d_model, 3 * d_model) for _ in range(n_layers))
        self.w_o = nn.ModuleList(nn.Linear(d_model, d_model) for _ in range(n_layers))
        self.out = nn.Linear(d_model, vocab_size)

    def forward(
        self,
        tokens: Int[Tensor, "batch n"],
        caches: list[Any],
        positions: Int[Tensor, " n"],
        mask: Bool[Tensor, "n keys"] | None = None,
    ) -> Float[Tensor, "batch n vocab_size"]:
        """The logits behind each of n new tokens. Each layer calls ``update`` of its own cache.

        Args:
            tokens: the new ones.
            caches: one a layer, with the keys and values of all tokens before.
            positions: where the new tokens stand in the text, from 0.
            mask: which new token may see which token, those in the cache first; None lets all see all.
        """
        x = self.tokens(tokens) + self.places(positions)  # (batch, n, d_model)
        for cache, w_qkv, w_o in zip(caches, self.w_qkv, self.w_o, strict=True):
            heads = w_qkv(x).unflatten(-1, (3, self.n_heads, -1))  # (batch, n, 3, heads, d_head)
            q, k, v = heads.permute(2, 0, 3, 1, 4)  # (batch, heads, n, d_head) each
            all_k, all_v = cache.update(k, v)  # (batch, heads, keys, d_head) each
            attended = F.scaled_dot_product_attention(q, all_k, all_v, attn_mask=mask)  # (batch, heads, n, d_head)
            x = x + w_o(attended.transpose(1, 2).flatten(2))  # (batch, n, d_model)
        logits: Tensor = self.out(x)
        return logits


# %% [markdown]
# `cache_factory(batch, max_len)` gives a new, empty cache for one layer, with room for so many tokens. Each token goes
# through the model once: first the prompt as a whole, then one new token at a time. Take the most likely one.


# %% exercise="cached_generate"
@torch.no_grad()
def cached_generate(
    model: Any, tokens: Int[Tensor, "batch n"], n_new: int, cache_factory: Callable[[int, int], Any]
) -> Int[Tensor, "batch longer"]:
    """The prompt and ``n_new`` more tokens, each the most likely, with keys and values kept (Pope et al. 2023, 2).

    Args:
        model: called as ``model(new_tokens, caches, positions, mask)``; needs ``model.n_layers`` caches.
        tokens: the prompt, of at least one token.
        n_new: how many tokens to append to each row.
        cache_factory: called as ``cache_factory(batch, max_len)``; makes an empty cache for one layer.
    """
    ### BEGIN SOLUTION
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0  # what the caches don't hold yet, and how many tokens they do hold
    for _ in range(n_new):
        n = new.shape[1]  # the prompt's length first, then 1
        positions = torch.arange(seen, seen + n, device=tokens.device)  # (n,)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)  # (n, keys), bottom-right
        logits = model(new, caches, positions, mask)[:, -1]  # (batch, vocab_size)
        seen += n
        new = logits.argmax(dim=-1, keepdim=True)  # (batch, 1)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens
    ### END SOLUTION


# %% visible="cached_generate"
class _Listens:
    """Stands in for a model with two layers: expects the number after the last, and writes down how it was called."""

    n_layers = 2

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, tokens: Tensor, caches: list[Any], positions: Tensor, mask: Tensor | None = None) -> Tensor:
        for cache in caches:
            cache.update(*torch.zeros(2, *tokens.shape, 1).unsqueeze(2))  # (batch, 1, n, 1) each
        self.calls.append((tokens.shape[1], positions.tolist(), caches[-1].length, len({id(it) for it in caches})))
        return F.one_hot((tokens + 1) % 10, 10).float()


_model = _Listens()
_text = cached_generate(_model, torch.tensor([[1, 2, 3], [7, 8, 9]]), 3, lambda batch, n: KVCache(batch, 1, n, 1))
assert _text.tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 1, 2]]
assert _model.calls[0][1:] == ([0, 1, 2], 3, 2), (
    "first the prompt, places 0 to 2, with a cache of its own for each layer"
)
assert _model.calls[1] == (1, [3], 4, 2), "then one token at place 3, behind the three in the caches"

# %% exam="cached_generate" points=5

# %% [markdown]
# ## Find the counterexample: `find_wrong_groups`
#
# Twelve query heads, four key-value heads: which query head belongs to which? Heads 0, 1, 2 to the first, heads 3, 4, 5
# to the second, and so on: `in_groups`. `in_turn` deals them out like cards. Give an input on which the two differ,
# with as few numbers in all as there can be.


# %%
def in_groups(
    q: Float[Tensor, "heads queries d_k"], k: Float[Tensor, "kv_heads keys d_k"], v: Float[Tensor, "kv_heads keys d_v"]
) -> Float[Tensor, "heads queries d_v"]:
    """Neighbouring query heads share a key-value head: 0 0 0 1 1 1 2 2 2 …"""
    group = q.shape[0] // k.shape[0]
    return F.scaled_dot_product_attention(q, k.repeat_interleave(group, dim=0), v.repeat_interleave(group, dim=0))


def in_turn(
    q: Float[Tensor, "heads queries d_k"], k: Float[Tensor, "kv_heads keys d_k"], v: Float[Tensor, "kv_heads keys d_v"]
) -> Float[Tensor, "heads queries d_v"]:
    """The same shape: 0 1 2 3 0 1 2 3 …"""
    group = q.shape[0] // k.shape[0]
    return F.scaled_dot_product_attention(q, k.repeat(group, 1, 1), v.repeat(group, 1, 1))


# %% exercise="find_wrong_groups"
def find_wrong_groups() -> tuple[
    Float[Tensor, "heads queries d_k"], Float[Tensor, "kv_heads keys d_k"], Float[Tensor, "kv_heads keys d_v"]
]:
    """q, k and v of one sentence, as few numbers as possible, for which ``in_groups`` and ``in_turn`` differ."""
    ### BEGIN SOLUTION
    # One key-value head, or one for each query head, can't be mixed up. With one key its value is what comes out.
    q = torch.zeros(4, 1, 1)  # (heads, queries, d_k)
    k = torch.zeros(2, 1, 1)  # (kv_heads, keys, d_k)
    v = torch.tensor([[[1.0]], [[2.0]]])  # (kv_heads, keys, d_v)
    return q, k, v
    ### END SOLUTION


# %% visible="find_wrong_groups"
_q, _k, _v = find_wrong_groups()
assert not torch.allclose(in_groups(_q, _k, _v), in_turn(_q, _k, _v)), "on this input the two agree"

# %% exam="find_wrong_groups" points=2

# %% [markdown]
# ## `grouped_query_attention`
#
# Several query heads share one head of keys and values: head h of q belongs to head h // group of k and v. With one
# head of keys and values for all it is *multi-query*, with one for each it is multi-head attention.
#
# The keys and the values must not be repeated in memory. Beware: a product of tensors whose leading axes are broadcast,
# such as `(4, 1, …) @ (4, 3, …)`, does repeat them before it begins.
#
# The masked softmax is given, from an earlier lesson. It also refuses masks that do not fit the scores.


# %%
def masked_softmax(
    scores: Float[Tensor, "... queries keys"], mask: Bool[Tensor, "..."] | None
) -> Float[Tensor, "... queries keys"]:
    """Weights under a mask, True where a query may attend; a query that may attend to nothing gets zeros.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the mask does not broadcast to the scores' shape.
    """
    if mask is None:
        return torch.softmax(scores, dim=-1)
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, not {mask.dtype}")
    try:
        mask = mask.expand_as(scores)
    except RuntimeError:
        raise ValueError(f"a mask of {tuple(mask.shape)} does not fit scores of {tuple(scores.shape)}") from None
    return torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1).masked_fill(~mask, 0.0)


# %% exercise="grouped_query_attention"
def grouped_query_attention(
    q: Float[Tensor, "... heads queries d_k"],
    k: Float[Tensor, "... kv_heads keys d_k"],
    v: Float[Tensor, "... kv_heads keys d_v"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "... heads queries d_v"]:
    """Scaled dot-product attention in which groups of query heads share keys and values (Ainslie et al. 2023, 2.2).

    Args:
        q: the queries of all heads.
        k, v: keys and values, of as many heads as there are groups; never repeated.
        mask: True where a query may attend to a key; it broadcasts to ``(..., heads, queries, keys)``.

    Raises:
        ValueError: ``heads`` is no multiple of ``kv_heads``, the message names both; or the mask does not fit.
        TypeError: the mask is not boolean.
    """
    ### BEGIN SOLUTION
    n_heads, n_kv_heads = q.shape[-3], k.shape[-3]
    if n_heads % n_kv_heads:
        raise ValueError(
            f"{n_heads} query heads can't be shared out evenly among {n_kv_heads} heads of keys and values"
        )
    grouped = q.unflatten(-3, (n_kv_heads, -1))  # (..., kv_heads, group, queries, d_k)
    # All queries of a group meet the same keys: to them they are so many more rows, which is how einsum takes them.
    scores = torch.einsum("...gqd,...kd->...gqk", grouped, k) / math.sqrt(q.shape[-1])
    weights = masked_softmax(scores.flatten(-4, -3), mask)  # (..., heads, queries, keys)
    output = torch.einsum("...gqk,...kd->...gqd", weights.unflatten(-3, (n_kv_heads, -1)), v)
    return output.flatten(-4, -3)  # (..., heads, queries, d_v)
    ### END SOLUTION


# %% visible="grouped_query_attention"
_q, _k, _v = torch.randn(2, 6, 3, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 7)
_repeated = (_k.repeat_interleave(2, dim=1), _v.repeat_interleave(2, dim=1))
assert torch.allclose(grouped_query_attention(_q, _k, _v), F.scaled_dot_product_attention(_q, *_repeated), atol=1e-6)
_mask = torch.ones(3, 5, dtype=torch.bool).tril(2)
_masked = F.scaled_dot_product_attention(_q, *_repeated, attn_mask=_mask)
assert torch.allclose(grouped_query_attention(_q, _k, _v, _mask), _masked, atol=1e-6)

# %% exam="grouped_query_attention" points=5

# %% [markdown]
# ## `latent_attention`
#
# One short vector for each token, its *latent*, stands for the keys and the values of all heads: head h would have the
# keys `latent @ w_uk[h]` and the values `latent @ w_uv[h]`. But (q · (c W)) = ((q Wᵀ) · c), so the keys need never be
# made: *absorb* the matrix into the queries, and the other one into the output.
#
# Neither keys nor values, `(heads, keys, d_k)` and `(heads, keys, d_v)`, may be in memory at any time, nor a copy of
# the latents for each head.


# %% exercise="latent_attention"
def latent_attention(
    q: Float[Tensor, "... heads queries d_k"],
    latent: Float[Tensor, "... keys d_latent"],
    w_uk: Float[Tensor, "heads d_latent d_k"],
    w_uv: Float[Tensor, "heads d_latent d_v"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "... heads queries d_v"]:
    """Attention to keys and values that are kept as latents, absorbed (DeepSeek-AI 2024, 2.1), without rotary keys.

    Args:
        q: the queries of all heads.
        latent: one row a token, for all heads.
        w_uk, w_uv: what makes each head's keys and values of a latent.
        mask: True where a query may attend to a key; it broadcasts to ``(..., heads, queries, keys)``.

    Raises:
        ValueError: the mask does not fit.
        TypeError: the mask is not boolean.
    """
    ### BEGIN SOLUTION
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)  # (..., heads, queries, d_latent)
    # A score is still the dot product of a query and a key, d_k terms long.
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    weights = masked_softmax(scores, mask)  # (..., heads, queries, keys)
    mixed = torch.einsum("...hqk,...kl->...hql", weights, latent)  # (..., heads, queries, d_latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uv)  # (..., heads, queries, d_v)
    ### END SOLUTION


# %% visible="latent_attention"
_q, _latent = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 8)  # (batch, heads, queries, d_k), (batch, keys, d_latent)
_w_uk, _w_uv = torch.randn(3, 8, 5) / 3, torch.randn(3, 8, 7) / 3  # (heads, d_latent, d_k), (heads, d_latent, d_v)
_k, _v = _latent.unsqueeze(1) @ _w_uk, _latent.unsqueeze(1) @ _w_uv  # (batch, heads, keys, d_k) and (…, d_v)
_unpacked = F.scaled_dot_product_attention(_q, _k, _v)
assert torch.allclose(latent_attention(_q, _latent, _w_uk, _w_uv), _unpacked, atol=1e-4)

# %% exam="latent_attention" points=5
