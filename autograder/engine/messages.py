"""The words for what is wrong with a tensor: what was asked, what came, where it differs."""

from __future__ import annotations

import torch
from torch import Tensor

from autograder.engine.exam import Case, Seeded
from autograder.engine.subject import Call, Observation

SIX_DIGITS = "; it is right to some six digits: is a step of it in float32, or a constant cut short?"


def of_case(case: Case, call: Call, dtype: torch.dtype, device: str) -> str:
    """Names a case so that a student can build it: ``batch and heads: x (2, 3, 4, 5), dim=-1, float32 on cpu``."""
    parts = []
    for name, value in (*zip(call.names, call.args, strict=False), *call.kwargs.items(), *(call.init or {}).items()):
        parts.append(f"{name} {tuple(value.shape)}" if isinstance(value, Tensor) else f"{name}={_plain(value)}")
    layout = "" if case.layout == "contiguous" else f", {case.layout} in memory"
    where = f"{_name(dtype)} on {device}" if case.floating else f"on {device}"
    return f"{case.name} [{', '.join(parts)}{layout}; {where}]"


def _plain(value: object) -> str:
    return f"torch.Generator().manual_seed({value.seed})" if isinstance(value, Seeded) else repr(value)


def of_error(observation: Observation) -> str:
    """An exception that the answer raised, in one sentence."""
    if observation.wrong_kind:
        return observation.detail
    text = in_one_line(observation.detail)
    return f"it raises {observation.error}" + (f": {text}" if text else "")


def in_one_line(text: str) -> str:
    """The beginning of a message that may have many lines."""
    return " ".join(text.split())[:300]


def first_of(problems: list[str], shown: int, what: str) -> list[str]:
    """The first lines, and how many more of ``what`` there are."""
    rest = len(problems) - shown
    return problems[:shown] + ([f"… and {rest} more{what}"] if rest > 0 else [])


def apart(one: Tensor, other: Tensor) -> str | None:
    """For laws: how two results that should be equal differ, in ``yours differ by 0.25``; None if they do not."""
    if one.shape != other.shape:
        return "in shape"
    gap = float((one - other).abs().max())
    return None if gap < 1e-4 else f"by {gap:.3g}"


def of_difference(name: str, came: Tensor | None, asked: Tensor, allowed: float) -> str | None:
    """How ``came`` misses ``asked``; None if it is as close as ``allowed``."""
    if came is None:
        # A result without a graph has a zero gradient, and that may be what is asked for, but for roundoff.
        severed = f"{name} does not depend on it: no gradient arrives (detached, converted, or never used?)"
        return severed if bool((asked.abs() > allowed).any()) else None
    if came.shape != asked.shape:
        hint = ", the last two axes swapped" if came.ndim >= 2 and came.mT.shape == asked.shape else ""
        return f"{name} has shape {tuple(came.shape)}, not {tuple(asked.shape)}{hint}"
    wrong = _unequal(came, asked, allowed)
    if not bool(wrong.any()):
        return None
    for kind, test in (("NaN", torch.isnan), ("infinite", torch.isinf)):
        strange = test(came) & ~test(asked)
        if bool(strange.any()):
            place = _first(strange)
            return f"{name}{place} is {kind}, not {_value(asked, strange)}; {_share(strange)}"
    gap = torch.where(wrong, (came - asked).abs().nan_to_num(nan=torch.inf), -torch.inf)
    worst = gap == gap.max()
    limit = f", this one the most (up to {allowed:.0e} off is right)" if allowed else ""
    one, other = _told_apart(came[worst][0].item(), asked[worst][0].item())
    return f"{name}{_first(worst)} is {one}, not {other}; {_share(wrong)}{limit}{_digits(came, asked, allowed)}"


def agree(a: Tensor | None, b: Tensor | None, allowed: float) -> bool:
    """Whether two results are the same up to ``allowed``: shape, NaN, infinities and values."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and not bool(_unequal(a, b, allowed).any())


def _unequal(a: Tensor, b: Tensor, allowed: float) -> Tensor:
    finite = a.isfinite() & b.isfinite()
    same = (a == b) | (a.isnan() & b.isnan())
    return ~torch.where(finite, (a - b).abs() <= allowed, same)


def _told_apart(a: float, b: float) -> tuple[str, str]:
    """Both numbers with so many digits that they differ; whole ones with all."""
    if isinstance(a, int) and isinstance(b, int):
        return f"{a:,}", f"{b:,}"
    digits = next((digits for digits in (6, 9, 12) if f"{a:.{digits}g}" != f"{b:.{digits}g}"), 17)
    return f"{a:.{digits}g}", f"{b:.{digits}g}"


def _digits(came: Tensor, asked: Tensor, allowed: float) -> str:
    """A word on answers that have float32's digits where more are asked for."""
    finite = came.isfinite() & asked.isfinite()
    size = float(asked[finite].abs().max())
    if allowed < 1e-9 * size and float((came - asked)[finite].abs().max()) < 1e-5 * size:
        return SIX_DIGITS
    return ""


def _first(where: Tensor) -> str:
    if where.ndim == 0:
        return ""
    return f"[{', '.join(str(int(index)) for index in where.nonzero()[0])}]"


def _value(tensor: Tensor, where: Tensor) -> str:
    return f"{float(tensor[where][0]):.6g}"


def _share(where: Tensor) -> str:
    return f"{int(where.sum())} of {where.numel()} values are wrong"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
