"""Our parameters under PyTorch's names: the same layer, at any depth, with gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from autograder.engine.packed_weights import packed


def parameters(d_model: int, bias: bool = True, outer: str = "") -> dict[str, Tensor]:
    kinds = {"weight": (d_model, d_model)} | ({"bias": (d_model,)} if bias else {})
    names = ("w_q", "w_k", "w_v", "w_o")
    return {
        f"{outer}{name}.{kind}": torch.randn(shape, dtype=torch.float64)
        for name in names
        for kind, shape in kinds.items()
    }


@pytest.mark.parametrize("bias", [True, False])
def test_one_head_is_the_formula_with_our_weights(bias: bool) -> None:
    state, x = parameters(4, bias), torch.randn(3, 4, dtype=torch.float64)
    layer = nn.MultiheadAttention(4, 1, bias=bias, dtype=torch.float64)
    layer.load_state_dict(packed(state))  # strict: no name is missing, none is left over
    q, k, v = (x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0) for name in ("w_q", "w_k", "w_v"))
    ours = torch.softmax(q @ k.T / 2, -1) @ v @ state["w_o.weight"].T + state.get("w_o.bias", 0)
    torch.testing.assert_close(layer(x, x, x)[0], ours)


def test_attentions_are_found_at_any_depth_and_all_else_stays() -> None:
    inner, outer = parameters(4, outer="layers.0.attention."), parameters(2, False)
    others = {"layers.0.norm.weight": torch.ones(4), "new_q.weight": torch.ones(1), "weight": torch.ones(1)}
    names = set(packed(inner | outer | others))
    assert names == {
        *(f"layers.0.attention.{name}" for name in packed(parameters(4))),
        *("in_proj_weight", "out_proj.weight"),
        *others,
    }


def test_gradients_reach_our_parameters() -> None:
    state = {name: value.requires_grad_() for name, value in parameters(4).items()}
    layer, x = nn.MultiheadAttention(4, 2, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    functional_call(layer, packed(state), (x, x, x))[0].square().sum().backward()
    for name, value in state.items():
        assert value.grad is not None, name
        # A constant added to all keys changes no weight.
        assert bool(value.grad.abs().max() > 1e-9) == (name != "w_k.bias"), name


def test_a_missing_projection_is_named() -> None:
    state = parameters(4)
    del state["w_v.bias"]
    with pytest.raises(KeyError, match=r"w_v\.bias"):
        packed(state)


def test_the_parts_of_a_transformer_bear_its_names() -> None:
    state = {
        **parameters(4, outer="blocks.1.self_attention."),
        **parameters(4, outer="blocks.1.cross_attention."),
        "blocks.1.feed_forward.linear1.weight": torch.ones(6, 4),
        "blocks.1.norm3.bias": torch.ones(4),
        "norm.weight": torch.ones(4),
    }
    attention = packed(parameters(4))
    assert set(packed(state)) == {
        *(f"layers.1.self_attn.{name}" for name in attention),
        *(f"layers.1.multihead_attn.{name}" for name in attention),
        *("layers.1.linear1.weight", "layers.1.norm3.bias", "norm.weight"),
    }
