"""The one table between the names of our parameters and PyTorch's, which stacks three projections in one tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# The order of the rows of ``in_proj_weight`` and of the numbers of ``in_proj_bias``.
STACKED = ("w_q", "w_k", "w_v")
# The parts of a Transformer, on the way to a parameter; the feed-forward network is no part of its own there.
PARTS = {"self_attention": "self_attn", "cross_attention": "multihead_attn", "feed_forward": "", "blocks": "layers"}


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``nn.MultiheadAttention`` and PyTorch's Transformer call the parameters in ``state``.

    Attentions may stand at any depth: ``blocks.0.self_attention.w_q.weight``, ``w_k`` and ``w_v`` beside it become
    ``layers.0.self_attn.in_proj_weight``, ``w_o.bias`` becomes ``out_proj.bias``, and ``feed_forward.linear1`` just
    ``linear1``. All other names stay as they are. Gradients pass through.

    Shapes: three of (d_model, d_model) → (3 · d_model, d_model); three of (d_model,) → (3 · d_model,).
    Raises: KeyError if w_k or w_v is missing beside w_q.
    """
    result = dict(state)
    for name in state:
        found = re.fullmatch(r"(?P<outer>(?:.+\.)?)(?P<ours>w_q|w_o)\.(?P<kind>weight|bias)", name)
        if found is None:
            continue
        outer, ours, kind = found.groups()
        if ours == "w_o":
            result[f"{outer}out_proj.{kind}"] = result.pop(name)
        else:
            result[f"{outer}in_proj_{kind}"] = torch.cat([result.pop(f"{outer}{part}.{kind}") for part in STACKED])
    return {_renamed(name): value for name, value in result.items()}


def _renamed(name: str) -> str:
    parts = (PARTS.get(part, part) for part in name.split("."))
    return ".".join(part for part in parts if part)
