"""The one table between the parameters of our attention and PyTorch's, which stacks three projections in one tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# The order of the rows of ``in_proj_weight`` and of the numbers of ``in_proj_bias``.
STACKED = ("w_q", "w_k", "w_v")


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``nn.MultiheadAttention`` calls the attention parameters in ``state``; all others stay as they are.

    Attentions may stand at any depth: ``layers.0.w_q.weight``, ``w_k`` and ``w_v`` beside it become
    ``layers.0.in_proj_weight``, ``layers.0.w_o.bias`` becomes ``layers.0.out_proj.bias``. Gradients pass through.

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
    return result
