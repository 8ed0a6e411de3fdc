"""The devices and dtypes that an answer is run in."""

from __future__ import annotations

from collections.abc import Callable

import torch

from autograder.course import CourseError

Dtypes = tuple[torch.dtype, ...]

EXACT = (torch.float64, torch.float32)
KNOWN = ("cpu", "cuda", "mps")


def present(device: str) -> bool:
    """Whether this machine has ``device``."""
    return (
        device == "cpu"
        or (device == "cuda" and torch.cuda.is_available())
        or (device == "mps" and torch.backends.mps.is_available())
    )


def choose(devices: tuple[str, ...] | None) -> tuple[str, ...]:
    """The devices to run on: those asked for, or all that are present.

    Raises:
        CourseError: one that was asked for is not there.
    """
    if devices is None:
        return tuple(device for device in KNOWN if present(device))
    for device in devices:
        if device not in KNOWN:
            raise CourseError(f"There is no device called {device!r}; the devices are {', '.join(KNOWN)}.")
        if not present(device):
            raise CourseError(f"This machine has no {device} device that PyTorch can use.")
    return devices


def exact_dtypes(device: str) -> tuple[torch.dtype, ...]:
    """The dtypes in which right and wrong are decided."""
    return EXACT if device != "mps" else (torch.float32,)


def coarse_dtypes(device: str) -> tuple[torch.dtype, ...]:
    """The dtypes in which only dtype, finiteness and gross errors are looked at."""
    # float16 matmuls on a CPU are very slow, and seldom say what bfloat16 does not: where they do, a case asks for it.
    return (torch.bfloat16,) if device == "cpu" else (torch.bfloat16, torch.float16)


def describe(devices: tuple[str, ...], asked: Callable[[Dtypes], Dtypes]) -> tuple[str, ...]:
    """One line a device, so that one that was left out is never taken for one that passed, and the dtypes."""
    lines = []
    for device in KNOWN:
        if device in devices:
            dtypes = asked((*exact_dtypes(device), *coarse_dtypes(device)))
            lines.append(f"{device}: {', '.join(str(dtype).removeprefix('torch.') for dtype in dtypes)}")
        elif device != "mps":
            lines.append(f"{device}: {'not asked for' if present(device) else 'not present'}")
    return tuple(lines)
