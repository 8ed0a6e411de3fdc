"""Our Triton kernel on a GPU against FlashAttention-2 and cuDNN, each pinned: TFLOP/s and ratios, as a Markdown table.

python -m tests.benchmarks.attention_gpu > attention_gpu.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from solutions.flash import flash_attention_triton

TOKENS, WIDTH = 16_384, 2048  # a batch holds so many tokens, and heads · d is this, as in the papers
Attend = Callable[[Tensor, Tensor, Tensor, bool], Tensor]


def pinned(backend: SDPBackend) -> Attend:
    """PyTorch's operator with one backend: left to itself it takes another on another GPU."""

    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return attend


CONTENDERS: dict[str, Attend] = {
    "ours": flash_attention_triton,
    "FlashAttention-2": pinned(SDPBackend.FLASH_ATTENTION),
    "cuDNN": pinned(SDPBackend.CUDNN_ATTENTION),
}


def flops(batch: int, heads: int, n: int, d: int, causal: bool) -> float:
    """The two products, a multiply-add is 2; half of them with a causal mask, as the papers count."""
    return 4 * batch * heads * n * n * d * (0.5 if causal else 1)


def error(attend: Attend, d: int, causal: bool, dtype: torch.dtype) -> float:
    """The largest difference to float64 at a ragged length."""
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(2, 3, 1037, d, device="cuda", dtype=dtype, generator=generator) for _ in range(3))
    with sdpa_kernel(SDPBackend.MATH):
        right = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=causal)
    return float((attend(q, k, v, causal) - right).abs().max())


def milliseconds(attend: Attend, given: tuple[Tensor, Tensor, Tensor], causal: bool) -> float:
    """The median time of a call, caches emptied in between."""
    found: float = triton.testing.do_bench(lambda: attend(*given, causal), warmup=100, rep=400, return_mode="median")
    return found


def main() -> None:
    """Prints the machine, then a row for each width, mask and length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 8192, 16384])
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("This measures a GPU, and PyTorch sees none here.")

    dtype = getattr(torch, options.dtype)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, {options.dtype}.")
    print(f"Command: `python -m tests.benchmarks.attention_gpu {' '.join(sys.argv[1:])}`. TFLOP/s, forward.\n")
    print("| d | causal | n | " + " | ".join(CONTENDERS) + " | to FlashAttention-2 | to cuDNN | off by |")
    print("|" + "---|" * (len(CONTENDERS) + 6))
    for d in (64, 128):
        for causal in (False, True):
            off = error(flash_attention_triton, d, causal, dtype)
            for n in options.lengths:
                batch, heads = TOKENS // n, WIDTH // d
                shape = (batch, heads, n, d)
                given = tuple(torch.randn(shape, device="cuda", dtype=dtype) for _ in range(3))
                speed = {
                    name: flops(*shape, causal) / milliseconds(attend, given, causal) / 1e9  # type: ignore[arg-type]
                    for name, attend in CONTENDERS.items()
                }
                ours, flash, cudnn = speed.values()
                row = [d, "yes" if causal else "no", n, *(f"{each:.0f}" for each in speed.values())]
                print(
                    "| "
                    + " | ".join(map(str, [*row, f"{ours / flash:.2f}", f"{ours / cudnn:.2f}", f"{off:.0e}"]))
                    + " |"
                )


if __name__ == "__main__":
    main()
