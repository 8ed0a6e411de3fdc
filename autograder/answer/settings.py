"""PyTorch's settings, and silence, while an answer is examined, on both sides of a boundary."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch


@contextmanager
def exam_settings() -> Iterator[None]:
    """Full float32 products and one thread, for the time of the block; PyTorch's other settings are put back as well.

    TF32's ten bits would hide an error of 0.1 %; threads cost more than they save on inputs this small, and a class
    that is graded in several processes has one for each core already.
    """
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    default, recording = torch.get_default_dtype(), torch.is_grad_enabled()
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)
        torch.set_default_dtype(default)
        torch.set_grad_enabled(recording)


@contextmanager
def silence() -> Iterator[None]:
    """A print or a warning in an answer would come once for every probe."""
    nowhere = io.StringIO()
    with redirect_stdout(nowhere), redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
