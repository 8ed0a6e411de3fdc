"""Our attention on a CPU against PyTorch's, one thread: the least of several times in turns, and memory.

python -m tests.benchmarks.attention --lengths 512 4096 16384
python -m tests.benchmarks.attention --profile 4096
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler is silent; it asks when it is loaded

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from solutions.flash import FlashAttention, flash_attention_forward
from solutions.linear import linear_attention
from solutions.sparse import sliding_window_attention

Run = Callable[[Tensor, Tensor, Tensor], object]
HEADS, D = 8, 64
RADIUS = 127


@dataclass(frozen=True)
class Contender:
    """A way to compute attention, and the one that it is measured against, in the same breath.

    ``longest`` is the largest length at which it is run: what grows as n² gets nowhere beyond.
    """

    name: str
    run: Run
    against: Run
    trains: bool = False
    longest: int = 2**20


def sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """PyTorch's operator; on a CPU that is a tiled one."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def plain(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The formula, with all its scores."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores.masked_fill_(future, -math.inf)
    return torch.softmax(scores, -1) @ v


def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, block_size: int) -> Tensor:
    """The output of ours."""
    return flash_attention_forward(q, k, v, block_size, causal)[0]


def there_and_back(attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> None:
    """Forward and backward."""
    torch.autograd.grad(attend(q, k, v).sum(), (q, k, v))


def contenders(block_size: int) -> list[Contender]:
    """What is measured. Another way to attend is one more line."""
    found = []
    for causal in (False, True):
        after = ", causal" if causal else ""
        theirs = partial(sdpa, causal=causal)
        ours = partial(forward, causal=causal, block_size=block_size)

        def applied(q: Tensor, k: Tensor, v: Tensor, causal: bool = causal) -> Tensor:
            output: Tensor = FlashAttention.apply(q, k, v, block_size, causal)
            return output

        found += [
            Contender(f"plain formula{after}", partial(plain, causal=causal), theirs, longest=4096),
            Contender(f"tiled forward{after}", ours, theirs),
            Contender(
                f"forward and backward{after}",
                partial(there_and_back, applied),
                partial(there_and_back, theirs),
                trains=True,
                longest=4096,
            ),
        ]
    theirs = partial(sdpa, causal=True)
    return [
        *found,
        Contender(f"causal window, {RADIUS}", partial(sliding_window_attention, radius=RADIUS, causal=True), theirs),
        Contender("linear, causal", partial(linear_attention, causal=True), theirs),
    ]


def inputs(n: int, trains: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values for one sentence."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, n, D, generator=generator).requires_grad_(trains) for _ in range(3))
    return q, k, v


def least_times(runs: tuple[Run, Run], given: tuple[Tensor, Tensor, Tensor], repeats: int) -> list[float]:
    """Seconds of CPU time: the two in turns, the least of ``repeats`` each. Noise only ever adds."""
    best = [math.inf, math.inf]
    for _ in range(repeats):
        for place, run in enumerate(runs):
            start = time.process_time()
            run(*given)
            best[place] = min(best[place], time.process_time() - start)
    return best


def peak_mib(run: Run, given: tuple[Tensor, Tensor, Tensor]) -> float:
    """MiB that are allocated at once during a run, inputs not counted."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run(*given)
    live = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most / 2**20


def main() -> None:
    """Prints a line for each contender and length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--block-size", type=int, default=128)
    parser.add_argument("--only", default="", help="the contenders whose names hold this")
    parser.add_argument("--profile", type=int, metavar="N", help="where our tiled forward spends its time at length N")
    options = parser.parse_args()

    torch.set_num_threads(1)
    if options.profile:
        q, k, v = inputs(options.profile, trains=False)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            forward(q, k, v, causal=True, block_size=options.block_size)
        print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))
        return
    print(f"torch {torch.__version__}, one thread, float32, {HEADS} heads of width {D}, blocks of {options.block_size}")
    print(f"{'':30}{'n':>7}{'ours':>11}{'SDPA':>11}{'ratio':>8}{'ours':>10}{'SDPA':>10}")
    for contender in contenders(options.block_size):
        for n in options.lengths:
            if options.only not in contender.name or n > contender.longest:
                continue
            given = inputs(n, contender.trains)
            runs = contender.run, contender.against
            with torch.set_grad_enabled(contender.trains):
                ours, theirs = least_times(runs, given, options.repeats)
                memory = [peak_mib(run, given) for run in runs]
            print(
                f"{contender.name:30}{n:7}{1e3 * ours:8.1f} ms{1e3 * theirs:8.1f} ms{ours / theirs:8.2f}"
                f"{memory[0]:6.1f} MiB{memory[1]:6.1f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
