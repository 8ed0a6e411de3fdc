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
        states = [torch.tanh(x[..., 0, :] @ self.w)]
        for t in range(1, x.shape[-2]):
            states.append(torch.tanh(x[..., t, :] @ self.w + states[-1] @ self.u))
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


TOYS: dict[str, type[Toy]] = {kind.__name__: kind for kind in (Recurrent, Mixer, Window, NextToken)}


def build(name: str, init: Mapping[str, int], state: Mapping[str, Tensor] | None = None) -> Toy:
    """The toy ``name``, with a copy of the weights in ``state``; without them its weights are shapes alone.

    Raises:
        KeyError: there is none of this name.
        RuntimeError: the weights are not those of such a model.
    """
    with torch.device("meta"):
        toy = TOYS[name](**init)
    if state is not None:
        toy.load_state_dict({name: value.detach().clone() for name, value in state.items()}, assign=True)
    return toy


def packed(toy: Toy) -> dict[str, Any]:
    """What ``build`` takes to make another one like it."""
    return {"name": type(toy).__name__, "init": toy.init, "state": dict(toy.named_parameters())}
