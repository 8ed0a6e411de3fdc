"""Small models that an exam hands to an answer: built by name where the answer runs, with the weights they are given.

A model is neither a tensor nor a number, and code never travels; a name and a table of weights can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Toy(nn.Module):
    """A model of known code. ``init`` is what it was built with, to build another one like it."""

    def __init__(self, **init: int) -> None:
        super().__init__()
        self.init = init


class Recurrent(Toy):
    """h_t = tanh(x_t w + h_{t-1} u): each output depends on all inputs before it. (..., n, d_model) → the same."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model=d_model)
        self.w = nn.Parameter(torch.empty(d_model, d_model))
        self.u = nn.Parameter(torch.empty(d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        """One state after another."""
        first, *rest = (x @ self.w).unbind(-2)
        states = [torch.tanh(first)]
        for seen in rest:
            states.append(torch.tanh(seen + states[-1] @ self.u))
        return torch.stack(states, dim=-2)


class Mixer(Toy):
    """Every output depends on every input, by weights of the inputs' own. (..., n, d_model) → (..., n, d_out)."""

    def __init__(self, d_model: int, d_out: int) -> None:
        super().__init__(d_model=d_model, d_out=d_out)
        self.w = nn.Parameter(torch.empty(d_model, d_model))
        self.out = nn.Parameter(torch.empty(d_model, d_out))

    def forward(self, x: Tensor) -> Tensor:
        """An average of all vectors, another for each place."""
        weights = torch.softmax(x @ self.w @ x.mT, dim=-1)
        return torch.tanh(weights @ x @ self.out)


class Window(Toy):
    """Each output depends on its own input and the one before it alone. (..., n, d_model) → the same."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model=d_model)
        self.now = nn.Parameter(torch.empty(d_model, d_model))
        self.before = nn.Parameter(torch.empty(d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Two products, the second moved on by one place."""
        earlier = torch.cat([torch.zeros_like(x[..., :1, :]), x[..., :-1, :]], dim=-2)
        return torch.tanh(x @ self.now + earlier @ self.before)


class NextToken(Toy):
    """A language model: the logits at a place depend on all tokens up to it. (batch, n) → (batch, n, vocab_size)."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__(vocab_size=vocab_size, d_model=d_model)
        self.embedding = nn.Parameter(torch.empty(vocab_size, d_model))
        self.states = Recurrent(d_model)
        self.out = nn.Parameter(torch.empty(d_model, vocab_size))

    def forward(self, tokens: Tensor) -> Tensor:
        """Reads the tokens one after another."""
        states: Tensor = self.states(self.embedding[tokens])
        return states @ self.out


class DecoderLayer(nn.Module):
    """Multi-head attention among the tokens so far, added to what came in. (batch, n, d_model) → the same."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Parameter(torch.empty(d_model, d_model)) for _ in range(4))

    def forward(self, x: Tensor, cache: Any, mask: Tensor | None) -> Tensor:
        """The new tokens look at all that ``cache`` holds, and ``mask`` (n, keys) lets them see."""
        normed = x / x.square().mean(-1, keepdim=True).sqrt()
        new = (normed @ w for w in (self.w_q, self.w_k, self.w_v))  # (batch, n, d_model) each
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in new)  # (batch, heads, n, d_head)
        keys, values = cache.update(k, v)  # (batch, heads, keys, d_head)
        scores = q @ keys.mT / q.shape[-1] ** 0.5
        weights = torch.softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), dim=-1)
        attended: Tensor = (weights @ values).transpose(1, 2).flatten(2)  # (batch, n, d_model)
        return x + attended @ self.w_o


class Decoder(Toy):
    """A language model that reads its past from caches, one a layer; see ``forward``."""

    def __init__(self, vocab_size: int, d_model: int, n_heads: int, n_layers: int, max_len: int) -> None:
        super().__init__(vocab_size=vocab_size, d_model=d_model, n_heads=n_heads, n_layers=n_layers, max_len=max_len)
        self.n_layers = n_layers
        self.embedding = nn.Parameter(torch.empty(vocab_size, d_model))
        self.places = nn.Parameter(torch.empty(max_len, d_model))
        self.layers = nn.ModuleList(DecoderLayer(d_model, n_heads) for _ in range(n_layers))
        self.out = nn.Parameter(torch.empty(d_model, vocab_size))

    def forward(self, tokens: Tensor, caches: Any, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of new tokens, whose keys and values the caches take in. (batch, n) → (batch, n, vocab_size)."""
        if len(caches) != len(self.layers):
            raise ValueError(f"{len(caches)} caches for {len(self.layers)} layers")
        x = self.embedding[tokens] + self.places[positions]
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, cache, mask)
        return x @ self.out


class Record:
    """A key-value cache that keeps no memory ready: it joins what it is given."""

    def __init__(self, batch: int, max_len: int) -> None:
        self.batch, self.max_len, self.length = batch, max_len, 0
        self.kept: tuple[Tensor, Tensor] | None = None

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far."""
        if k.shape[0] != self.batch:
            raise ValueError(f"keys of {k.shape[0]} texts for a cache of {self.batch}")
        if self.length + k.shape[-2] > self.max_len:
            raise ValueError(f"{self.length} + {k.shape[-2]} tokens for a cache of {self.max_len}")
        self.length += k.shape[-2]
        old = self.kept
        self.kept = (k, v) if old is None else (torch.cat([old[0], k], -2), torch.cat([old[1], v], -2))
        return self.kept


class CacheFactory(Toy):
    """Makes an empty cache for one layer. (batch, max_len) → a cache with ``update`` and ``length``."""

    def forward(self, batch: int, max_len: int) -> Record:
        """A new one at each call."""
        return Record(batch, max_len)


TOYS: dict[str, type[Toy]] = {
    kind.__name__: kind for kind in (Recurrent, Mixer, Window, NextToken, Decoder, CacheFactory)
}


def build(name: str, init: Mapping[str, int], state: Mapping[str, Tensor] | None = None, training: bool = True) -> Toy:
    """The toy ``name``, with a copy of the weights in ``state``; without them its weights are shapes alone.

    Raises:
        KeyError: there is none of this name.
        RuntimeError: the weights are not those of such a model.
    """
    with torch.device("meta"):
        toy = TOYS[name](**init)
    if state is not None:
        toy.load_state_dict({name: value.detach().clone() for name, value in state.items()}, assign=True)
    return toy.train(training)


def packed(toy: Toy) -> dict[str, Any]:
    """What ``build`` takes to make another one like it."""
    return {
        "name": type(toy).__name__,
        "init": toy.init,
        "state": dict(toy.named_parameters()),
        "training": toy.training,
    }


def flat(value: Any) -> list[Tensor]:
    """The tensors in a value, from left to right; a model's are its weights."""
    if isinstance(value, Toy):
        return list(value.parameters())
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in flat(item)]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in flat(item)]
    return []
