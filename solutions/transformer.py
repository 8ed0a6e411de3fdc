# %% [markdown]
# # Exercises: the Transformer
#
# You build the machine around attention: layer normalisation, the feed-forward network, the encoder's block, the
# decoder's block, and a language model made of them. `__init__` is given everywhere; you write `forward`.
# The lesson *The Transformer* has the formulas.
#
# **May use:** everything in PyTorch but what would hand the answer over: no ready-made normalisation (`nn.LayerNorm`,
# `F.layer_norm`, …) in the first exercise, no ready-made block (`nn.TransformerEncoderLayer`, …) in the last three.
#
# Shapes are `(..., n, d_model)`: whatever stands in front, a batch, more or nothing, must not matter. With the same
# weights each module equals PyTorch's, in outputs and in gradients. There is no dropout.
#
# Each answer has a cell of quick checks below it. The marks come from the autograder. In a clone of the course, after
# `make course`: `.venv/bin/autograder check chapters/exercises/transformer.ipynb`.

# %%
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

# %% [markdown]
# ## `LayerNorm`
#
# Bring every token's numbers to mean 0 and variance 1, then stretch and shift each column as the model has learned.
# The variance is the mean of the squared deviations, and `eps` is added to it before the root is taken.
#
# Two kinds of rows show whether the formula was turned into code with care: those whose numbers are all the same, and
# those whose mean is large against their spread. Both must come out right, and so must the gradients of the first.


# %% exercise="LayerNorm"
class LayerNorm(nn.Module):
    """Normalises each token by itself (Ba et al. 2016), as ``nn.LayerNorm``.

    Args:
        d_model: width of a token.
        eps: what is added to the variance.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Each row with mean 0 and variance 1, times ``weight``, plus ``bias``."""
        ### BEGIN SOLUTION
        # Deviations first: in E[x²] − E[x]² a large mean swallows the variance.
        centred = x - x.mean(dim=-1, keepdim=True)  # (..., d_model)
        variance = centred.square().mean(dim=-1, keepdim=True)  # (..., 1)
        # Inside the root eps also keeps its gradient finite where the variance is 0.
        return centred / torch.sqrt(variance + self.eps) * self.weight + self.bias
        ### END SOLUTION


# %% visible="LayerNorm"
_x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 10.0, 30.0, 30.0]])
_normalised = LayerNorm(4, eps=0.0)(_x)
assert torch.allclose(_normalised.mean(dim=-1), torch.zeros(2), atol=1e-6)
assert torch.allclose(_normalised.square().mean(dim=-1), torch.ones(2))
assert torch.allclose(LayerNorm(4, eps=300.0)(_x)[1], torch.tensor([-0.5, -0.5, 0.5, 0.5]))

# %% exam="LayerNorm" points=3

# %% [markdown]
# ## `FeedForward`
#
# Two linear layers with a ReLU between them, for each token by itself: wider, through the kink, back again.


# %% exercise="FeedForward"
class FeedForward(nn.Module):
    """The position-wise feed-forward network (Vaswani et al. 2017, 3.3).

    Args:
        d_model: width of the input and of the output.
        d_ff: width in between.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The same network applied to every token."""
        ### BEGIN SOLUTION
        hidden = F.relu(self.linear1(x))  # (..., d_ff)
        output: Tensor = self.linear2(hidden)  # (..., d_model)
        return output
        ### END SOLUTION


# %% visible="FeedForward"
_layer, _x = FeedForward(d_model=4, d_ff=9), torch.randn(2, 3, 4)
assert _layer(_x).shape == (2, 3, 4)
assert torch.allclose(_layer(_x)[0, 1], _layer(_x[0, 1]), atol=1e-6)
nn.init.constant_(_layer.linear1.bias, -100.0)  # nothing gets past the kink
assert torch.allclose(_layer(_x), _layer.linear2.bias.expand(2, 3, 4))

# %% exam="FeedForward" points=2

# %% [markdown]
# ## `EncoderBlock`
#
# The attention of *Masking* stands ready, with PyTorch's operator inside. From here on it is a part like any other.


# %%
class MaskedMultiHeadAttention(nn.Module):
    """Multi-head attention under a mask, as in *Masking*; True in ``mask`` means *may attend*."""

    def __init__(self, d_model: int, n_heads: int, bias: bool = True) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model = {d_model} is not a multiple of n_heads = {n_heads}")
        self.n_heads = n_heads
        self.w_q = nn.Linear(d_model, d_model, bias=bias)
        self.w_k = nn.Linear(d_model, d_model, bias=bias)
        self.w_v = nn.Linear(d_model, d_model, bias=bias)
        self.w_o = nn.Linear(d_model, d_model, bias=bias)

    def forward(
        self,
        query: Float[Tensor, "... queries d_model"],
        key: Float[Tensor, "... keys d_model"] | None = None,
        value: Float[Tensor, "... keys d_model"] | None = None,
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "... queries d_model"]:
        """``key`` is ``query`` and ``value`` is ``key`` unless given; the mask broadcasts to (..., heads, n, keys)."""
        key = query if key is None else key
        value = key if value is None else value
        if key.shape[-2] != value.shape[-2]:  # PyTorch's operator would read on behind the end
            raise ValueError(f"{key.shape[-2]} keys, but {value.shape[-2]} values")
        projected = (self.w_q(query), self.w_k(key), self.w_v(value))  # (..., n, d_model) each
        q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in projected)  # (..., heads, n, d_head)
        if mask is not None:  # a mask never enlarges the scores
            mask = mask.expand(*q.shape[:-1], k.shape[-2])  # (..., heads, queries, keys)
        heads = F.scaled_dot_product_attention(q, k, v, mask)  # (..., heads, queries, d_head)
        output: Tensor = self.w_o(heads.transpose(-3, -2).flatten(-2))  # (..., queries, d_model)
        return output


# %% [markdown]
# One block of the encoder: the tokens look at each other, then each thinks by itself. Both times the result is *added*
# to what went in. `norm_first` says where the normalisation stands: at the entrance of each sublayer (True), or behind
# each sum (False). `norm1` is the attention's, `norm2` the feed-forward network's. Nothing is masked unless a mask is
# given.


# %% exercise="EncoderBlock"
class EncoderBlock(nn.Module):
    """Self-attention and a feed-forward network with residuals, as ``nn.TransformerEncoderLayer``.

    Args:
        d_model: width of a token.
        n_heads: the number of heads.
        d_ff: width inside the feed-forward network.
        norm_first: pre-norm (Xiong et al. 2020), else post-norm (Vaswani et al. 2017, 3.1).
    """

    def __init__(self, d_model: int, n_heads: int, d_ff: int, norm_first: bool = True) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attention = MaskedMultiHeadAttention(d_model, n_heads)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.norm1 = LayerNorm(d_model)
        self.norm2 = LayerNorm(d_model)

    def forward(
        self, x: Float[Tensor, "... n d_model"], mask: Bool[Tensor, "..."] | None = None
    ) -> Float[Tensor, "... n d_model"]:
        """The tokens after one block.

        Args:
            x: one row a token.
            mask: True where a token may attend to another; it broadcasts to (..., heads, n, n). None: everywhere.
        """
        ### BEGIN SOLUTION
        if self.norm_first:  # x itself is never normalised: a straight way through all blocks
            x = x + self.self_attention(self.norm1(x), mask=mask)  # (..., n, d_model)
            x = x + self.feed_forward(self.norm2(x))  # (..., n, d_model)
        else:
            x = self.norm1(x + self.self_attention(x, mask=mask))  # (..., n, d_model)
            x = self.norm2(x + self.feed_forward(x))  # (..., n, d_model)
        return x
        ### END SOLUTION


# %% visible="EncoderBlock"
_x, _past = torch.randn(2, 4, 6), torch.ones(4, 4, dtype=torch.bool).tril()
_pre, _post = EncoderBlock(6, 2, 10), EncoderBlock(6, 2, 10, norm_first=False)
assert torch.allclose(_pre(_x, _past)[:, :2], _pre(_x[:, :2], _past[:2, :2]), atol=1e-5)
assert torch.allclose(_post(_x).mean(dim=-1), torch.zeros(2, 4), atol=1e-5)  # the last thing it does is to normalise
for _block in (_pre, _post):
    for _last in (_block.self_attention.w_o, _block.feed_forward.linear2):
        nn.init.zeros_(_last.weight)
        nn.init.zeros_(_last.bias)
assert torch.equal(_pre(_x), _x)  # sublayers that add nothing leave x as it was
assert torch.allclose(_post(_x), F.layer_norm(_x, (6,)), atol=1e-3)

# %% exam="EncoderBlock" points=4

# %% [markdown]
# ## `DecoderBlock`
#
# Between the two sublayers stands a third: the tokens ask another sequence, the encoder's output, called `memory`. The
# memory is taken as it comes; the encoder has normalised it if anybody has. `mask` belongs to the tokens among
# themselves, `memory_mask` to what they may see of the memory. Nothing is masked unless given: this block is no more
# causal than the mask that it gets. The norms are numbered in the order of the sublayers.


# %% exercise="DecoderBlock"
class DecoderBlock(nn.Module):
    """Self-attention, attention to a memory, a feed-forward network, as ``nn.TransformerDecoderLayer``.

    Args:
        d_model: width of a token.
        n_heads: the number of heads of either attention.
        d_ff: width inside the feed-forward network.
        norm_first: pre-norm (Xiong et al. 2020), else post-norm (Vaswani et al. 2017, 3.1).
    """

    def __init__(self, d_model: int, n_heads: int, d_ff: int, norm_first: bool = True) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attention = MaskedMultiHeadAttention(d_model, n_heads)
        self.cross_attention = MaskedMultiHeadAttention(d_model, n_heads)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.norm1 = LayerNorm(d_model)
        self.norm2 = LayerNorm(d_model)
        self.norm3 = LayerNorm(d_model)

    def forward(
        self,
        x: Float[Tensor, "... n d_model"],
        memory: Float[Tensor, "... keys d_model"],
        mask: Bool[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "... n d_model"]:
        """The tokens after one block.

        Args:
            x: one row a token.
            memory: one row for each token of the other sequence.
            mask: who may see whom among the tokens; it broadcasts to (..., heads, n, n).
            memory_mask: which token may see what of the memory; it broadcasts to (..., heads, n, keys).
        """
        ### BEGIN SOLUTION
        if self.norm_first:
            x = x + self.self_attention(self.norm1(x), mask=mask)  # (..., n, d_model)
            x = x + self.cross_attention(self.norm2(x), memory, mask=memory_mask)  # (..., n, d_model)
            x = x + self.feed_forward(self.norm3(x))  # (..., n, d_model)
        else:
            x = self.norm1(x + self.self_attention(x, mask=mask))  # (..., n, d_model)
            x = self.norm2(x + self.cross_attention(x, memory, mask=memory_mask))  # (..., n, d_model)
            x = self.norm3(x + self.feed_forward(x))  # (..., n, d_model)
        return x
        ### END SOLUTION


# %% visible="DecoderBlock"
_decoder, _x, _memory = DecoderBlock(6, 2, 10), torch.randn(2, 3, 6), torch.randn(2, 5, 6)
assert _decoder(_x, _memory).shape == (2, 3, 6)
_seen = torch.arange(5) < 2
assert torch.allclose(_decoder(_x, _memory, memory_mask=_seen), _decoder(_x, _memory[:, :2]), atol=1e-5)
_past = torch.ones(3, 3, dtype=torch.bool).tril()
assert torch.allclose(_decoder(_x, _memory, _past)[:, :2], _decoder(_x[:, :2], _memory, _past[:2, :2]), atol=1e-5)
assert not torch.allclose(_decoder(_x, _memory), _decoder(_x, 3 * _memory))  # the memory is taken as it comes
for _last in (_decoder.self_attention.w_o, _decoder.cross_attention.w_o, _decoder.feed_forward.linear2):
    nn.init.zeros_(_last.weight)
    nn.init.zeros_(_last.bias)
assert torch.equal(_decoder(_x, _memory), _x)  # sublayers that add nothing leave x as it was

# %% exam="DecoderBlock" points=4

# %% [markdown]
# ## `TransformerLM`
#
# A language model: what comes after each token, given that token and those before it? A token's row of the embedding
# table plus its position's row go through the blocks, in order, each causal, and through a last normalisation. The same
# table then turns rows into logits: one for each word, its dot product with that word's embedding.
#
# Logits at place i speak of token i + 1. The shift is not the model's business: whoever computes the loss compares
# `logits[..., :-1, :]` with `tokens[..., 1:]`.


# %% exercise="TransformerLM"
class TransformerLM(nn.Module):
    """A causal language model: learned positions, pre-norm blocks, tied embeddings (Radford et al. 2019).

    Args:
        vocab_size: the number of different tokens.
        d_model: width of a token.
        n_heads: the number of heads in each block.
        n_layers: the number of blocks.
        d_ff: width inside the feed-forward networks.
        max_len: the number of positions.
    """

    def __init__(self, vocab_size: int, d_model: int, n_heads: int, n_layers: int, d_ff: int, max_len: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(EncoderBlock(d_model, n_heads, d_ff) for _ in range(n_layers))
        self.norm = LayerNorm(d_model)
        # As the output layer a table of N(0, 1) would begin with logits of size √d_model: sure of itself, and wrong.
        for table in (self.token_embedding, self.position_embedding):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Int[Tensor, "... n"]) -> Float[Tensor, "... n vocab"]:
        """For each token the logits of the one that comes next.

        Args:
            tokens: numbers from 0 to vocab_size − 1.

        Raises:
            ValueError: there are more tokens than positions; the message names both numbers.
        """
        ### BEGIN SOLUTION
        n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
        if n > max_len:
            raise ValueError(f"{n} tokens are more than the {max_len} positions that this model has learned")
        positions = torch.arange(n, device=tokens.device)  # (n,)
        x = self.token_embedding(tokens) + self.position_embedding(positions)  # (..., n, d_model)

        past = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()  # (queries, keys)
        for block in self.blocks:
            x = block(x, past)  # (..., n, d_model)
        output: Tensor = self.norm(x) @ self.token_embedding.weight.T  # (..., n, vocab)
        return output
        ### END SOLUTION


# %% visible="TransformerLM"
_model, _tokens = TransformerLM(11, 8, 2, 2, 16, max_len=6), torch.randint(11, (2, 6))
assert _model(_tokens).shape == (2, 6, 11)
assert torch.allclose(_model(_tokens)[:, :4], _model(_tokens[:, :4]), atol=1e-5)  # the future changes nothing
assert torch.allclose(_model(_tokens)[0], _model(_tokens[0]), atol=1e-5)
_said = ""
try:
    _model(torch.zeros(7, dtype=torch.long))
except ValueError as _error:
    _said = str(_error)
assert "7" in _said, "7 tokens are too many for 6 positions"
assert "6" in _said, "7 tokens are too many for 6 positions"

# %% exam="TransformerLM" points=5
