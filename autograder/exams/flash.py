"""The exams of *flash*: attention tile by tile, exact, in memory that grows with n and not with n²."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from autograder.answer.guard import ATTENTION, AUTOGRAD, SOFTMAX, Operators
from autograder.engine.checks import Gradients, Growth, Habits, Properties, Values, examiner
from autograder.engine.exam import Case, Draw, Exam, Nudge, as_is
from autograder.engine.subject import Call
from autograder.exams.masking import naive_masked_softmax
from autograder.exams.scaling import rounded_root

try:
    import triton
    import triton.language as tl
except ImportError:  # there is none for macOS and Windows: ``needs`` says so to whoever hands in a kernel there
    triton = tl = None

TOPIC = "flash"
QKV = tuple[Tensor, Tensor, Tensor]
# Statistics are kept in float32 and lse is float32 by contract, so float64 has nothing to add.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PRODUCTS = Operators("PyTorch's own matrix product", ("mm", "bmm", "matmul", "einsum", "addmm", "baddbmm", "linear"))


def _online_by_prefixes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each prefix by itself, from the start."""
    prefixes = [x[..., : i + 1] for i in range(x.shape[-1])]
    tops = [prefix.amax(-1, keepdim=True) for prefix in prefixes]
    sums = [torch.exp(prefix - top).sum(-1, keepdim=True) for prefix, top in zip(prefixes, tops, strict=True)]
    return torch.cat(tops, -1), torch.cat(sums, -1)


def _online_naive(x: Tensor, nudge: Nudge = as_is) -> tuple[Tensor, Tensor]:
    """exp(logsumexp − max): of the right formulas the one that rounds the most, for large numbers."""
    x = nudge(x)
    tops = torch.cummax(x, -1).values
    return tops, torch.exp(nudge(torch.logcumsumexp(x, -1)) - tops)


def _online_cases(draw: Draw) -> Iterator[Case]:
    yield Case("a row", (draw.normal(9),))
    yield Case("a batch", (draw.normal(3, 7, scale=2.0),))
    yield Case("a batch as large as a row is long", (draw.normal(5, 5),))
    yield Case("batch, heads and queries", (draw.normal(2, 3, 4, 6),))
    yield Case("ever larger", (draw.normal(2, 8).abs().cumsum(-1),))
    yield Case("ever smaller", (-draw.normal(2, 8).abs().cumsum(-1),))
    yield Case("all negative", (draw.normal(2, 8) - 6,))
    yield Case("many numbers", (draw.normal(2, draw.integer(150, 250)),), coarse=False)
    yield Case("columns stored as rows", (draw.normal(3, 4, 6),), layout="transposed")
    yield Case("every second number of a row", (draw.normal(3, 6),), layout="strided")
    edge = partial(Case, check="edge cases")
    yield edge("one number", (draw.normal(4, 1),))
    yield edge("equal numbers", (draw.normal(3, 1).expand(3, 6),))
    yield edge("many equal numbers", (draw.normal(2, 1).expand(2, 100),), coarse=False)
    yield edge("the same number once more", (torch.tensor([1.0, 3.0, 2.0, 3.0, 3.0, 0.0], dtype=torch.float64),))
    large = draw.normal(3, 8, scale=1e4)
    yield edge("numbers up to ±10⁴", (large,), coarse=False)
    yield edge("from −10⁴ up to 10⁴", (large.sort(-1).values,), coarse=False)
    yield edge("from 10⁴ down to −10⁴", (large.sort(-1, descending=True).values,), coarse=False)
    yield edge("around −10⁴", (draw.normal(2, 5) - 1e4,), coarse=False)


def _long_row(draw: Draw, n: int) -> Case:
    return Case("", (draw.normal(n),))


online_softmax = Exam(
    TOPIC,
    "online_softmax",
    _online_by_prefixes,
    _online_naive,
    _online_cases,
    (
        Values("values", 2),
        Values("edge cases", 1),
        Growth(
            0.5,
            "largest",
            1,
            _long_row,
            "Something holds a number for every pair of elements; two numbers are all that has to be carried along.",
            lengths=(16, 64),
            name="memory",
        ),
        Habits(0.5),
    ),
    outputs=("running_max", "running_sum"),
)


@online_softmax.variant
def carried_over_by_a_loop(x):
    top = torch.full(x.shape[:-1], -math.inf, dtype=x.dtype, device=x.device)
    total = torch.zeros_like(top)
    tops, totals = [], []
    for i in range(x.shape[-1]):
        new = torch.maximum(top, x[..., i])
        total = total * torch.exp(top - new) + torch.exp(x[..., i] - new)
        top = new
        tops.append(top)
        totals.append(total)
    return torch.stack(tops, -1), torch.stack(totals, -1)


@online_softmax.variant
def cumulative_operators(x):
    tops = torch.cummax(x, dim=-1).values
    return tops, torch.exp(torch.logcumsumexp(x, dim=-1) - tops)


@online_softmax.variant
def started_with_the_first(x):
    tops, totals = x.clone(), torch.ones_like(x)
    for i in range(1, x.shape[-1]):
        tops[..., i] = torch.maximum(tops[..., i - 1], x[..., i])
        old = totals[..., i - 1] * (tops[..., i - 1] - tops[..., i]).exp()
        totals[..., i] = old + (x[..., i] - tops[..., i]).exp()
    return tops, totals


@online_softmax.variant
def two_cases(x):
    top, total = x[..., 0], torch.ones_like(x[..., 0])
    tops, totals = [top], [total]
    for number in x.unbind(-1)[1:]:
        grown = total * torch.exp(torch.clamp(top - number, max=0)) + 1
        total = torch.where(number > top, grown, total + torch.exp(torch.clamp(number - top, max=0)))
        top = torch.where(number > top, number, top)
        tops.append(top)
        totals.append(total)
    return torch.stack(tops, -1), torch.stack(totals, -1)


@online_softmax.variant
def accumulated_pairs(x):
    def join(one, other):
        top = torch.maximum(one[0], other[0])
        return top, one[1] * torch.exp(one[0] - top) + other[1] * torch.exp(other[0] - top)

    singles = [(number, torch.ones_like(number)) for number in x.unbind(-1)]
    tops, totals = zip(*itertools.accumulate(singles, join))
    return torch.stack(tops, -1), torch.stack(totals, -1)


@online_softmax.variant
def every_prefix_again(x):
    tops = [x[..., : i + 1].max(-1).values for i in range(x.shape[-1])]
    totals = [torch.exp(x[..., : i + 1] - top.unsqueeze(-1)).sum(-1) for i, top in enumerate(tops)]
    return torch.stack(tops, -1), torch.stack(totals, -1)


@online_softmax.variant
def by_doubling(x):
    top, total, reach = x, torch.ones_like(x), 1
    while reach < x.shape[-1]:
        before_top = F.pad(top, (reach, 0), value=-math.inf)[..., : x.shape[-1]]
        before = F.pad(total, (reach, 0))[..., : x.shape[-1]]
        new = torch.maximum(top, before_top)
        total = total * torch.exp(top - new) + before * torch.exp(before_top - new)
        top, reach = new, 2 * reach
    return top, total


@online_softmax.misconception(
    hint="When the maximum grows, the old sum is still relative to the old one. Carry it over before you add.",
    symptom="Right as long as the first number is the largest; too large by exp(new maximum − old) ever after.",
)
def old_sum_not_rescaled(x):
    tops = torch.cummax(x, -1).values
    return tops, torch.exp(x - tops).cumsum(-1)


@online_softmax.misconception(
    hint="You carry the sum over with exp(new − old). It has to shrink when the maximum grows: the other way round.",
    symptom="Sums explode with every new maximum.",
)
def rescaled_the_wrong_way(x):
    top, total = x[..., 0], torch.ones_like(x[..., 0])
    tops, totals = [top], [total]
    for number in x.unbind(-1)[1:]:
        new = torch.maximum(top, number)
        total = total * torch.exp(new - top) + torch.exp(number - new)
        top = new
        tops.append(top)
        totals.append(total)
    return torch.stack(tops, -1), torch.stack(totals, -1)


@online_softmax.misconception(
    hint="All your sums are relative to the largest number of the whole row, which nobody knows before the end.",
    symptom="The last sum is right; those before it are too small wherever a larger number was still to come.",
)
def sums_relative_to_the_final_maximum(x):
    return torch.cummax(x, -1).values, torch.exp(x - x.amax(-1, keepdim=True)).cumsum(-1)


@online_softmax.misconception(
    hint="That is the maximum of the whole row at every place. After element i only x₀ … xᵢ are known.",
    symptom="The last maximum is right, and all others are the same.",
)
def final_maximum_everywhere(x):
    top = x.amax(-1, keepdim=True)
    return top.expand_as(x).clone(), torch.exp(x - top).cumsum(-1)


@online_softmax.misconception(
    hint="Your sum is of exp(xᵢ), relative to nothing: it overflows. Subtract the running maximum.",
    symptom="Too large by exp(maximum); infinite beyond 88 in float32.",
)
def bare_exponentials_summed(x):
    return torch.cummax(x, -1).values, torch.exp(x).cumsum(-1)


@online_softmax.misconception(
    hint="You sum exp(xᵢ) as it is, and divide by exp(max) afterwards: equal on paper, but both overflow, or vanish. "
    "Subtract the running maximum before exp.",
    symptom="Right for small numbers; NaN or infinity for large ones.",
)
def bare_exponentials_divided_afterwards(x):
    running_max = x.cummax(-1).values
    return running_max, torch.exp(x).cumsum(-1) / torch.exp(running_max)


@online_softmax.misconception(
    hint="The two come in the other order: the maximum first, then the sum.",
    symptom="Both results are there, under each other's name.",
)
def sum_before_the_maximum(x):
    running_max = x.cummax(-1).values
    return torch.exp(torch.logcumsumexp(x, -1) - running_max), running_max


@online_softmax.misconception(
    hint="Your maximum starts at 0, which is larger than any negative number. What is smaller than every number?",
    symptom="Right once a positive number came; before that the maximum is 0.",
)
def maximum_starts_at_zero(x):
    tops = torch.cummax(x, -1).values.clamp(min=0)
    return tops, torch.exp(torch.logcumsumexp(x, -1) - tops)


@online_softmax.misconception(
    hint="One maximum and one sum come back. What they were after every element is asked for.",
    symptom="The result has no axis of length n.",
)
def only_the_last_state(x):
    top = x.amax(-1)
    return top, torch.exp(x - top.unsqueeze(-1)).sum(-1)


@online_softmax.misconception(
    hint="The element itself is missing: after element i it belongs to the sum, and may be the maximum.",
    symptom="All sums come one place late, and the first is 0.",
)
def state_before_the_element(x):
    tops = torch.cummax(x, -1).values
    totals = torch.exp(torch.logcumsumexp(x, -1) - tops)
    return tops, F.pad(totals, (1, 0))[..., :-1]


@online_softmax.misconception(
    hint="`max()` without an axis is the maximum of all rows together. Every row has its own.",
    symptom="Right on one row; with a batch the rows follow the largest of them.",
)
def one_maximum_for_all_rows(x):
    top = torch.full((), -math.inf, dtype=x.dtype, device=x.device)
    total = torch.zeros_like(x[..., 0])
    tops, totals = [], []
    for number in x.unbind(-1):
        new = torch.maximum(top, number.max())
        total = total * torch.exp(top - new) + torch.exp(number - new)
        top = new
        tops.append(top.expand_as(number))
        totals.append(total)
    return torch.stack(tops, -1), torch.stack(totals, -1)


@online_softmax.misconception(
    hint="You walk along the first axis. The numbers of a row stand on the last one.",
    symptom="Right on one row; with a batch the rows are taken for the numbers.",
)
def along_the_first_axis(x):
    tops = torch.cummax(x, 0).values
    return tops, torch.exp(torch.logcumsumexp(x, 0) - tops)


@online_softmax.misconception(
    hint="The new exponential is taken relative to the old maximum first: far above that it overflows.",
    symptom="Right for ordinary numbers; NaN where a number lies 100 above all before it.",
)
def new_number_relative_to_the_old_maximum(x):
    top, total = x[..., 0], torch.ones_like(x[..., 0])
    tops, totals = [top], [total]
    for number in x.unbind(-1)[1:]:
        new = torch.maximum(top, number)
        total = (total + torch.exp(number - top)) * torch.exp(top - new)
        top = new
        tops.append(top)
        totals.append(total)
    return torch.stack(tops, -1), torch.stack(totals, -1)


@online_softmax.misconception(
    hint="A new maximum makes you start the sum anew. What was summed before still counts, only less.",
    symptom="The sum falls back to 1 at every new maximum.",
)
def started_anew_at_a_maximum(x):
    top, total = x[..., 0], torch.ones_like(x[..., 0])
    tops, totals = [top], [total]
    for number in x.unbind(-1)[1:]:
        new = torch.maximum(top, number)
        total = torch.where(number > top, torch.ones_like(total), total + torch.exp(number - new))
        top = new
        tops.append(top)
        totals.append(total)
    return torch.stack(tops, -1), torch.stack(totals, -1)


@online_softmax.misconception(
    hint="That is the logarithm of the sum, maximum included. The sum itself is asked for, relative to the maximum.",
    symptom="Second results are log Σ exp(x), which can be negative.",
)
def logarithm_for_the_sum(x):
    return torch.cummax(x, -1).values, torch.logcumsumexp(x, -1)


@online_softmax.misconception(
    hint="Right, but you lay the row out n times to look at all prefixes at once. Carry two numbers along.",
    symptom="The result is right, and the memory grows with n².",
)
def all_prefixes_side_by_side(x):
    n = x.shape[-1]
    seen = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
    rows = x.unsqueeze(-2).expand(*x.shape[:-1], n, n).masked_fill(~seen, -math.inf)
    tops = rows.amax(-1)
    return tops, torch.exp(rows - tops.unsqueeze(-1)).sum(-1)


@online_softmax.misconception(
    hint="You write the maxima into x itself. Make a tensor of your own.",
    symptom="Right the first time; the numbers are gone afterwards.",
)
def maxima_written_into_the_input(x):
    totals = torch.ones_like(x)
    for i in range(1, x.shape[-1]):
        number = x[..., i].clone()
        x[..., i] = torch.maximum(x[..., i - 1], number)
        old = totals[..., i - 1] * torch.exp(x[..., i - 1] - x[..., i])
        totals[..., i] = old + torch.exp(number - x[..., i])
    return x, totals


def _sees(n_queries: int, n_keys: int, causal: bool) -> Tensor | None:
    """True where a query may look, aligned at the bottom right; None for everywhere."""
    return torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries) if causal else None


def _lse(q: Tensor, k: Tensor, causal: bool, nudge: Nudge = as_is) -> Tensor:
    scores = nudge(q @ k.mT) / rounded_root(q.shape[-1])
    mask = _sees(q.shape[-2], k.shape[-2], causal)
    return torch.logsumexp(scores if mask is None else scores.masked_fill(~mask, -math.inf), -1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, _sees(q.shape[-2], k.shape[-2], causal))


def _naive(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, nudge: Nudge = as_is) -> Tensor:
    scores = nudge(q @ k.mT) / rounded_root(q.shape[-1])
    return naive_masked_softmax(scores, _sees(q.shape[-2], k.shape[-2], causal), nudge=nudge) @ v


def _forward(q: Tensor, k: Tensor, v: Tensor, block_size: int, causal: bool = False) -> tuple[Tensor, Tensor]:
    return _sdpa(q, k, v, causal), _lse(q, k, causal)


def _forward_naive(
    q: Tensor, k: Tensor, v: Tensor, block_size: int, causal: bool = False, nudge: Nudge = as_is
) -> tuple[Tensor, Tensor]:
    return _naive(q, k, v, causal, nudge), _lse(q, k, causal, nudge)


def _qkv(draw: Draw, lead: tuple[int, ...], n_queries: int, n_keys: int, d_k: int, d_v: int) -> QKV:
    return draw.normal(*lead, n_queries, d_k), draw.normal(*lead, n_keys, d_k), draw.normal(*lead, n_keys, d_v)


def _tiled_cases(
    draw: Draw, size: float = 100.0
) -> Iterator[tuple[str, str, tuple[Any, ...], dict[str, Any], dict[str, Any]]]:
    """Check, name, q to block size, causal or not, and what else a case says: for all exercises with tiles.

    Large scores are about ``size``².
    """

    def case(name: str, tensors: tuple[Tensor, ...], block: int, causal: bool | None = None, **more: Any) -> Any:
        check = more.pop("check", "values")
        return check, name, (*tensors, block), {} if causal is None else {"causal": causal}, more

    yield case("whole tiles", _qkv(draw, (), 6, 9, 4, 5), 3)
    yield case("one tile for all", _qkv(draw, (2,), 4, 5, 4, 3), 16)
    yield case("ragged last tiles", _qkv(draw, (2,), 5, 8, 4, 6), 3)
    yield case("batch and heads", _qkv(draw, (2, 3), 5, 7, 8, 4), 4)
    yield case("a batch of one", _qkv(draw, (1,), 5, 6, 4, 4), 4)
    yield case("one query and one key in a tile", _qkv(draw, (2,), 3, 4, 4, 4), 1)
    yield case("d_k = 64", _qkv(draw, (), 5, 6, 64, 16), 2)
    yield case("columns stored as rows", _qkv(draw, (2, 3), 5, 6, 4, 6), 4, layout="transposed")
    yield case("every second number of a row", _qkv(draw, (2,), 4, 6, 4, 6), 4, layout="strided")
    x = draw.normal(2, 6, 4)
    yield case("queries, keys and values are one tensor", (x, x, x), 4, causal=False)
    yield case("one query", _qkv(draw, (2,), 1, 7, 4, 5), 3)
    yield case("one key", _qkv(draw, (2,), 4, 1, 4, 5), 3)
    causal = partial(case, causal=True, check="causal")
    q, k, v = _qkv(draw, (2,), 8, 8, 4, 5)
    # A query of zeros: a score of zero is a score like any other.
    yield causal("as many queries as keys", (q * (torch.arange(8) != 4)[:, None], k, v), 3)
    yield causal("whole causal tiles", _qkv(draw, (2, 2), 6, 6, 4, 4), 3)
    yield causal("more keys than queries", _qkv(draw, (2,), 4, 9, 4, 5), 3)
    yield causal("one query, as in generation", _qkv(draw, (2,), 1, 7, 4, 5), 3)
    yield causal("one causal tile for all", _qkv(draw, (2,), 5, 7, 4, 5), 16)
    yield causal("causal tiles of one", _qkv(draw, (), 4, 5, 4, 5), 1)
    yield causal("more queries than keys", _qkv(draw, (2,), 8, 5, 4, 3), 4, check="rows without a key")
    yield causal("whole tiles of queries without a key", _qkv(draw, (), 9, 2, 4, 3), 3, check="rows without a key")
    large = partial(case, check="large scores", coarse=False)
    q, k, v = _qkv(draw, (2,), 4, 8, 4, 5)
    yield large("large scores of either sign", (size * q, size * k, v), 3)
    ramp = torch.zeros(2, 8, 4, dtype=torch.float64)
    ramp[..., 0] = draw.uniform(0.5, 1.5, 2, 8).cumsum(-1)
    q = q.abs() + 0.5
    yield large("scores that grow with every key", (q, 3 * ramp, v), 2)
    yield large("scores that fall with every key", (q, -3 * ramp, v), 2)
    yield large("scores far below 0 that grow with every tile", (q, 3 * size * (ramp - 12), v), 3, causal=True)
    yield large("scores far above 0 that fall with every tile", (q, 3 * size * (12 - ramp), v), 3, causal=True)


def _forward_cases(draw: Draw) -> Iterator[Case]:
    for check, name, args, kwargs, more in _tiled_cases(draw):
        yield Case(name, args, kwargs, check=check, **more)
    yield Case("400 keys, one by one", (), check="bfloat16")


def _sums_in_float32(answer: Callable[..., Tensor], call: Call) -> str | None:
    """A sum of ones stops at 256 in bfloat16: the first 256 of 400 equal keys would be all that count."""
    v = torch.arange(400).unsqueeze(-1) >= 300
    output = answer(torch.zeros(1, 4).bfloat16(), torch.zeros(400, 4).bfloat16(), v.bfloat16(), 1)
    if abs(float(output) - 0.25) < 0.02:
        return None
    return "the mean of 400 equal keys' values, one key a tile, is off by more than a tenth: sums need float32"


def _long(n: int, causal: bool) -> Callable[[Draw, int], Case]:
    def at(draw: Draw, length: int) -> Case:
        return Case("", (*_qkv(draw, (), length, length, 8, 8), n, causal))

    return at


_HELD = "Something is held in memory that has one number for each pair of a query and a key; a tile of them is enough."
_in_tiles = partial(Growth, power=1, claim=_HELD, lengths=(512, 1024))
# A byte for each pair outweighs a tile of 128 keys for all queries by 1.5 at 768, the fewest tiles with which it does.
_whole_mask_seen = partial(_in_tiles, measure="largest", lengths=(384, 768))


flash_attention_forward = Exam(
    TOPIC,
    "flash_attention_forward",
    _forward,
    _forward_naive,
    _forward_cases,
    (
        Values("values", 2),
        Values("causal", 1),
        Values("rows without a key", 0.5),
        Values("large scores", 0.75),
        Properties(0.5, (_sums_in_float32,), on="bfloat16", name="sums in bfloat16", telling=True),
        _in_tiles(1, "peak", at=_long(256, False), name="memory"),
        _in_tiles(0.75, "largest", at=_long(128, True), name="memory, causal"),
        Habits(0.5),
    ),
    outputs=("output", "lse"),
    may_not_call=(ATTENTION,),
    dtype=(None, torch.float32),
    dtypes=DTYPES,
)


@flash_attention_forward.variant
def keys_tile_by_tile(q, k, v, block_size, causal=False):
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    wide, keys, values = q.float() / math.sqrt(q.shape[-1]), k.float(), v.float()
    rows = torch.arange(n_queries, device=q.device).unsqueeze(-1) + n_keys - n_queries
    top = torch.full((*q.shape[:-1], 1), -math.inf, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, n_keys, block_size):
        scores = wide @ keys[..., start : start + block_size, :].mT
        if causal:
            columns = torch.arange(start, start + scores.shape[-1], device=q.device)
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        shift = torch.where(new == -math.inf, torch.zeros_like(new), new)
        weights, carried = torch.exp(scores - shift), torch.exp(top - shift)
        total = carried * total + weights.sum(-1, keepdim=True)
        sums = carried * sums + weights @ values[..., start : start + block_size, :]
        top = new
    output = torch.where(total == 0, 0.0, sums / total)
    return output.to(q.dtype), (top + torch.log(total)).squeeze(-1)


@flash_attention_forward.variant
def queries_and_keys_in_tiles(q, k, v, block_size, causal=False):
    offset = k.shape[-2] - q.shape[-2]
    outputs, lses = [], []
    for i, q_tile in zip(itertools.count(0, block_size), q.float().split(block_size, -2)):
        n = q_tile.shape[-2]
        m = torch.full((*q.shape[:-2], n), -torch.inf, device=q.device)
        s = torch.zeros_like(m)
        o = torch.zeros(*m.shape, v.shape[-1], device=q.device)
        tiles = zip(itertools.count(0, block_size), k.split(block_size, -2), v.split(block_size, -2))
        for j, k_tile, v_tile in tiles:
            if causal and j > i + n - 1 + offset:
                break
            scores = torch.einsum("...qd,...kd->...qk", q_tile, k_tile.float()) * q.shape[-1] ** -0.5
            if causal:
                seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(i + offset - j)
                scores = torch.where(seen, scores, -torch.inf)
            new = torch.maximum(m, scores.max(-1).values)
            safe = new.nan_to_num(neginf=0.0)
            p, c = torch.exp(scores - safe[..., None]), torch.exp(m - safe)
            s, o, m = s * c + p.sum(-1), o * c[..., None] + p @ v_tile.float(), new
        outputs.append((o / s.clamp(min=1e-30)[..., None]).to(q.dtype))
        lses.append(m + s.log())
    return torch.cat(outputs, -2), torch.cat(lses, -1)


@flash_attention_forward.variant
def normalised_after_every_tile(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    lse = torch.full((*q.shape[:-1], 1), -math.inf, device=q.device)
    output = torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        tile = slice(start, min(start + block_size, m))
        scores = (q.float() @ k[..., tile, :].float().mT) / math.sqrt(q.shape[-1])
        if causal:
            later = torch.ones(n, tile.stop - start, dtype=torch.bool, device=q.device).triu(m - n - start + 1)
            scores = scores.masked_fill(later, -math.inf)
        own = torch.logsumexp(scores, -1, keepdim=True)
        new = torch.logaddexp(lse, own)
        safe = new.masked_fill(new == -math.inf, 0.0)
        output = output * torch.exp(lse - safe) + torch.exp(scores - safe) @ v[..., tile, :].float()
        lse = new
    return output.to(q.dtype), lse.squeeze(-1)


@flash_attention_forward.variant
def powers_of_two(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    low = torch.finfo(torch.float32).min
    output, lse = torch.zeros_like(v[..., :1, :].expand(*q.shape[:-1], -1)), q.new_zeros(q.shape[:-1]).float()
    for i in range(0, n, block_size):
        rows = q[..., i : i + block_size, :].float() * (math.log2(math.e) * q.shape[-1] ** -0.5)
        top = torch.full((*rows.shape[:-1], 1), low, device=q.device)
        total, sums = torch.zeros_like(top), torch.zeros(*rows.shape[:-1], v.shape[-1], device=q.device)
        for j in range(0, m, block_size):
            scores = rows @ k[..., j : j + block_size, :].float().mT
            if causal:
                x = torch.arange(i, i + rows.shape[-2], device=q.device)[:, None]
                y = torch.arange(j, j + scores.shape[-1], device=q.device)[None, :]
                scores = scores.masked_fill(y - m > x - n, -math.inf)
            new = scores.amax(-1, keepdim=True).maximum(top)
            p, c = torch.exp2(scores - new), torch.exp2(top - new)
            total, sums, top = total * c + p.sum(-1, True), sums * c + p @ v[..., j : j + block_size, :].float(), new
        output[..., i : i + block_size, :] = (sums / total.clamp(min=1)).to(q.dtype)
        lse[..., i : i + block_size] = (top * math.log(2) + total.log()).squeeze(-1)
    return output, lse


@flash_attention_forward.variant
def partial_results_joined(q, k, v, block_size, causal=False):
    def attend(start, stop):
        scores = q.float() @ k[..., start:stop, :].float().mT / math.sqrt(q.shape[-1])
        if causal:
            shape = (q.shape[-2], stop - start)
            seen = torch.ones(shape, dtype=torch.bool, device=q.device).tril(k.shape[-2] - q.shape[-2] - start)
            scores = scores.masked_fill(~seen, -math.inf)
        lse = torch.logsumexp(scores, -1)
        return torch.nan_to_num(torch.softmax(scores, -1)) @ v[..., start:stop, :].float(), lse

    output, lse = attend(0, min(block_size, k.shape[-2]))
    for start in range(block_size, k.shape[-2], block_size):
        more, its = attend(start, min(start + block_size, k.shape[-2]))
        both = torch.logaddexp(lse, its)
        one, other = (torch.exp(each - both).nan_to_num(0.0).unsqueeze(-1) for each in (lse, its))
        output, lse = one * output + other * more, both
    return output.to(q.dtype), lse


@flash_attention_forward.variant
def padded_to_whole_tiles(q, k, v, block_size, causal=False):
    n, m, d = q.shape[-2], k.shape[-2], v.shape[-1]
    extra = -m % block_size
    keys, values = F.pad(k.float(), (0, 0, 0, extra)), F.pad(v.float(), (0, 0, 0, extra))
    top = torch.full((*q.shape[:-1], 1), -1e30, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], d, device=q.device)
    for start in range(0, m + extra, block_size):
        scores = q.float() @ keys[..., start : start + block_size, :].mT / math.sqrt(q.shape[-1])
        columns = torch.arange(start, start + block_size, device=q.device)
        last = torch.arange(n, device=q.device).unsqueeze(-1) + m - n if causal else m - 1
        hidden = (columns > last) | (columns >= m)
        scores = scores.masked_fill(hidden, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = (scores - new).exp(), (top - new).exp()
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ values[..., start : start + block_size, :]
        top = new
    return (sums / total.clamp(min=1.0)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="The sum is carried over to the new maximum, the output so far is not. Both are relative to the old one.",
    symptom="Right with one tile; after that the first keys weigh too much wherever the maximum grew.",
)
def accumulator_not_rescaled(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="The output so far is carried over to the new maximum, the sum that you divide by is not.",
    symptom="Right with one tile; after that outputs come out too small wherever the maximum grew, and lse too large.",
)
def sum_left_at_the_old_maximum(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="exp(new − old) makes the past larger when the maximum grows. It has to shrink: exp(old − new).",
    symptom="Right with one tile; after that infinite or far too close to the first keys.",
)
def carried_the_wrong_way(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp((new - top).masked_fill(total == 0, 0))
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="With lengths that differ you count queries and keys from the start. The last ones stand side by side.",
    symptom="Right with as many queries as keys; with a cache of earlier keys a new query sees only the oldest.",
    seen="https://github.com/Dao-AILab/flash-attention/issues/517",
)
def flash_corner_at_the_top_left(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1)
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "Your lse holds a maximum that is not scaled. It is the logarithm of Σ exp(score) with the scale in the scores."
    ),
    symptom="Outputs are right; the way back computes weights that do not sum to one.",
)
def lse_of_unscaled_scores(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide, scale = q.float(), 1 / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp((scores - new) * scale), torch.exp((top - new) * scale)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="Your lse counts in powers of two. A natural logarithm is asked for: multiply by ln 2.",
    symptom="Outputs are right; lse is too large in magnitude by 1.44.",
    seen="https://github.com/meta-pytorch/attention-gym/pull/200",
)
def lse_in_base_two(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() * (math.log2(math.e) / math.sqrt(q.shape[-1]))
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp2(scores - new), torch.exp2(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log2()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="log of the sum alone: that sum is relative to the maximum, which has to be added again.",
    symptom="Outputs are right; lse is too small by the largest score.",
    seen="https://github.com/Dao-AILab/flash-attention/issues/404",
)
def lse_without_the_maximum(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), total.log().squeeze(-1)


@flash_attention_forward.misconception(
    hint="You give back the running maximum. lse also holds the logarithm of the sum.",
    symptom="Outputs are right; lse is too small by log of the sum, which is 0 where one key takes all.",
)
def maximum_for_lse(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), top.masked_fill(total == 0, -math.inf).squeeze(-1)


@flash_attention_forward.misconception(
    hint="The scores are not divided by √d_k.",
    symptom="Weights are too sharp, the more so the larger d_k is.",
)
def flash_without_a_scale(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float()
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="You scale by √d_v, the width of the values. Scores are sums of d_k products.",
    symptom="Right where d_k = d_v, as in most examples.",
)
def flash_scaled_by_root_d_v(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(v.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="You go through whole tiles only. The keys that are left over at the end are never seen.",
    symptom="Right where the block size divides the number of keys.",
    seen="https://github.com/jax-ml/jax/issues/27224",
)
def ragged_tile_dropped(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m - m % block_size, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "You fill the last tile up with zeros, and a score of 0 counts: exp(0) is 1. What was filled up has to be "
        "masked."
    ),
    symptom="Right where the block size divides the number of keys; else the sum is too large.",
)
def zeros_of_the_padding_counted(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    extra = -m % block_size
    keys, values = F.pad(k, (0, 0, 0, extra)), F.pad(v, (0, 0, 0, extra))
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m + extra, block_size):
        scores = wide @ keys[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ values[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "Each tile is a softmax of its own, and you take the mean of the tiles. They hold different shares of the "
        "whole."
    ),
    symptom="Right with one tile; the best key of a poor tile weighs as much as that of a good one.",
)
def averaged_over_tiles(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
        weights = torch.exp(scores - new)
        own = weights.sum(-1, keepdim=True)
        total = total + 1.0 * (own > 0)
        sums = sums + weights / own.clamp(min=1) @ v[..., start : start + block_size, :].float()
        top = torch.logaddexp(top, new + own.log())
    return (sums / total.clamp(min=1)).to(q.dtype), top.masked_fill(total == 0, -math.inf).squeeze(-1)


@flash_attention_forward.misconception(
    hint="Nothing is subtracted before exp. Scores of 100 overflow, and sums of very small ones are zero.",
    symptom="Right for ordinary scores; infinite, NaN or zero for large ones.",
)
def flash_without_a_maximum(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores), 1.0
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1e-30)).to(q.dtype), total.log().squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "You carry over to the maximum of this tile, even if an earlier one was larger: exp(old − new) then overflows."
    ),
    symptom="Right for ordinary scores; NaN where the scores fall by 100 from one tile to the next.",
)
def maximum_of_the_last_tile(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
        weights, carried = torch.exp(scores - new), torch.exp((top - new).masked_fill(total == 0, -math.inf))
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1e-30)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "Sum and output are kept in the dtype of the inputs. bfloat16 has eight bits: from 256 on, adding 1 changes "
        "nothing."
    ),
    symptom="Right in float32; in bfloat16 long sequences are cut short.",
)
def sums_in_the_input_dtype(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), q.new_zeros(*q.shape[:-1], v.shape[-1])
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = (total * carried + weights.sum(-1, keepdim=True)).to(q.dtype)
        sums = (sums * carried + weights @ v[..., start : start + block_size, :].float()).to(q.dtype)
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.float().log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="A query that has seen no key has a maximum of −∞, and −∞ − (−∞) is NaN. Shift by something finite there.",
    symptom="Right where every query sees a key in its first tile; NaN in rows without a key.",
)
def nan_where_no_key_is_seen(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), -math.inf, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="Where no key is seen you put a maximum of 0 and a sum of 1, so that nothing becomes NaN. lse is then 0, as "
    "of a single score of 0; the logarithm of an empty sum is another number.",
    symptom="All outputs are right; on the way back weights appear in rows that had none.",
)
def lse_of_zero_where_no_key_is_seen(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), -math.inf, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        shift = new.masked_fill(new == -math.inf, 0.0)
        weights, carried = torch.exp(scores - shift), torch.exp(top - shift)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    dead = total == 0
    total, top = total.masked_fill(dead, 1.0), top.masked_fill(dead, 0.0)
    return (sums / total).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="One maximum for a whole tile of scores: `max()` without an axis. A query whose scores lie far below the "
    "others' has a sum of zero then. Every query has a maximum of its own.",
    symptom="Right for ordinary scores; zeros or NaN for some queries where scores are large.",
)
def one_maximum_for_the_whole_tile(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    outputs, lses = [], []
    for first in range(0, n, block_size):
        wide = q[..., first : first + block_size, :].float() / math.sqrt(q.shape[-1])
        rows = torch.arange(first, first + wide.shape[-2], device=q.device).unsqueeze(-1) + m - n
        top = torch.tensor(torch.finfo(torch.float32).min, device=q.device)
        total = torch.zeros(*wide.shape[:-1], 1, device=q.device)
        sums = torch.zeros(*wide.shape[:-1], v.shape[-1], device=q.device)
        for start in range(0, m, block_size):
            scores = wide @ k[..., start : start + block_size, :].float().mT
            columns = torch.arange(start, start + scores.shape[-1], device=q.device)
            if causal:
                scores = scores.masked_fill(columns > rows, -math.inf)
            new = torch.maximum(top, scores.max())
            weights, carried = torch.exp(scores - new), torch.exp(top - new)
            total = total * carried + weights.sum(-1, keepdim=True)
            sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
            top = new
        outputs.append((sums / total.masked_fill(total == 0, 1.0)).to(q.dtype))
        lses.append((top + total.log()).squeeze(-1))
    return torch.cat(outputs, -2), torch.cat(lses, -1)


@flash_attention_forward.misconception(
    hint="You hide with the lowest number: where all keys are hidden, they are all equal, and the row becomes a mean.",
    symptom="Right where every query sees a key; else the mean of values that were hidden.",
)
def mean_where_no_key_is_seen(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, torch.finfo(torch.float32).min)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="The query at a key's own position may see it. You hide it: > became ≥.",
    symptom="With causal=True every query misses one key, and the first has none.",
)
def last_key_hidden_from_itself(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns >= rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="`causal` is ignored: every query sees every key.",
    symptom="With causal=True the outputs are those without.",
)
def flash_sees_the_future(q, k, v, block_size, causal=False):
    m = k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "Tiles in the future are left out, but in the tile on the diagonal queries still see later keys: mask "
        "inside it."
    ),
    symptom="Right with tiles of one key; else a query sees up to block_size − 1 keys too many.",
)
def diagonal_tiles_left_open(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns // block_size * block_size > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "You mask each tile as if it stood on the diagonal, by places inside the tile. Positions count from the start."
    ),
    symptom="Right with one tile and equal lengths; else keys of the past are hidden.",
)
def every_tile_masked_alike(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(
                columns - start > torch.arange(n, device=q.device).unsqueeze(-1) % block_size, -math.inf
            )
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "The output is a sum of exponentials times values. At the end it has to be divided by the sum of exponentials."
    ),
    symptom="Outputs are far too large, by the sum; lse is right.",
)
def never_divided(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return sums.to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint="lse comes in the dtype of the inputs. In bfloat16 it has two digits, and the way back takes exp of it.",
    symptom="Right in float32.",
)
def lse_in_the_input_dtype(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1).to(q.dtype)


@flash_attention_forward.misconception(
    hint="You divide the queries by √d_k in place: the caller's tensor changes.",
    symptom="Right the first time, and too flat the second.",
)
def queries_scaled_in_place(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    q /= math.sqrt(q.shape[-1])
    wide = q.float()
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "`view` wants the numbers to lie in order. Heads that were split off do not: use `reshape`, or leave the "
        "axes alone."
    ),
    symptom="Right on contiguous tensors; RuntimeError: view size is not compatible.",
)
def heads_joined_by_view(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    lead = q.shape[:-2]
    q, k, v = (each.view(-1, *each.shape[-2:]) for each in (q, k, v))
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    output, lse = (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)
    return output.reshape(*lead, n, -1), lse.reshape(*lead, n)


@flash_attention_forward.misconception(
    hint="You take for granted that there are a batch and heads. Let `...` stand for whatever is in front.",
    symptom="Right on four axes; an error on three or two.",
)
def flash_needs_batch_and_heads(q, k, v, block_size, causal=False):
    batch, heads, n, _ = q.shape
    m = k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((batch, heads, n, 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(batch, heads, n, v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "The values are right, but the whole matrix of scores is made, and kept. Only one tile of it may exist at a "
        "time."
    ),
    symptom="Right everywhere; the memory grows with n².",
    testable=False,
)
def all_scores_at_once(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    scores = q.float() @ k.float().mT / math.sqrt(q.shape[-1])
    if causal:
        future = torch.ones(n, m, dtype=torch.bool, device=q.device).triu(1 + m - n)
        scores = scores.masked_fill(future, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return (weights @ v.float()).to(q.dtype), torch.logsumexp(scores, -1)


@flash_attention_forward.misconception(
    hint=(
        "The scores come in tiles, but you build the whole mask first, one number for each pair. Make each tile's own."
    ),
    symptom="Right everywhere; with causal=True the memory grows with n².",
    testable=False,
)
def whole_mask_built_first(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), torch.finfo(torch.float32).min, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    mask = torch.arange(m, device=q.device) > rows
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        if causal:
            scores = scores.masked_fill(mask[:, start : start + block_size], -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "You compute tile by tile and keep all tiles for the softmax at the end: together they are the whole matrix "
        "again."
    ),
    symptom="Right everywhere; the memory grows with n², in many small pieces.",
    testable=False,
)
def tiles_kept_in_a_list(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    tiles = []
    for start in range(0, m, block_size):
        scores = q.float() @ k[..., start : start + block_size, :].float().mT / math.sqrt(q.shape[-1])
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        tiles.append(scores.masked_fill(columns > rows, -math.inf) if causal else scores)
    top = torch.stack([tile.amax(-1) for tile in tiles]).amax(0).unsqueeze(-1)
    top = top.clamp(min=torch.finfo(torch.float32).min)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start, tile in zip(range(0, m, block_size), tiles):
        weights = torch.exp(tile - top)
        total = total + weights.sum(-1, keepdim=True)
        sums = sums + weights @ v[..., start : start + block_size, :].float()
    return (sums / total.clamp(min=1)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "Your maximum starts at 0. Where all scores lie far below that, every exponential underflows. Begin below "
        "all numbers."
    ),
    symptom="Right for ordinary scores; zeros, or NaN, where a row's scores are all below −100.",
)
def flash_maximum_starts_at_zero(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), 0.0, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in range(0, m, block_size):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1e-30)).to(q.dtype), (top + total.log()).squeeze(-1)


@flash_attention_forward.misconception(
    hint=(
        "Against −∞ − (−∞) you put 0 in place of a maximum of −∞, and then carry that 0 on: it is larger than all "
        "scores that are negative. Put it into the shift only."
    ),
    symptom="Zeros where a hidden tile comes before scores far below 0.",
    seen="https://github.com/Dao-AILab/flash-attention/issues/2082",
)
def zero_kept_for_a_maximum(q, k, v, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    wide = q.float() / math.sqrt(q.shape[-1])
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    top = torch.full((*q.shape[:-1], 1), -math.inf, device=q.device)
    total, sums = torch.zeros_like(top), torch.zeros(*q.shape[:-1], v.shape[-1], device=q.device)
    for start in reversed(range(0, m, block_size)):
        scores = wide @ k[..., start : start + block_size, :].float().mT
        columns = torch.arange(start, start + scores.shape[-1], device=q.device)
        if causal:
            scores = scores.masked_fill(columns > rows, -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        new = torch.where(new == -math.inf, torch.zeros_like(new), new)
        weights, carried = torch.exp(scores - new), torch.exp(top - new)
        total = total * carried + weights.sum(-1, keepdim=True)
        sums = sums * carried + weights @ v[..., start : start + block_size, :].float()
        top = new
    return (sums / total.clamp(min=1e-30)).to(q.dtype), (top + total.log()).squeeze(-1)


def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    output: Tensor,
    lse: Tensor,
    grad_output: Tensor,
    block_size: int,
    causal: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """PyTorch's own gradients of the plain formula; ``output`` and ``lse`` are not needed for them."""
    with torch.enable_grad():
        leaves: QKV = (q.detach().requires_grad_(), k.detach().requires_grad_(), v.detach().requires_grad_())
        grad_q, grad_k, grad_v = torch.autograd.grad(_naive(*leaves, causal=causal), leaves, grad_output)
    return grad_q, grad_k, grad_v


def _backward_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    output: Tensor,
    lse: Tensor,
    grad_output: Tensor,
    block_size: int,
    causal: bool = False,
    nudge: Nudge = as_is,
) -> tuple[Tensor, Tensor, Tensor]:
    root = rounded_root(q.shape[-1])
    scores = nudge(q @ k.mT) / root
    mask = _sees(q.shape[-2], k.shape[-2], causal)
    hidden = torch.zeros_like(scores, dtype=torch.bool) if mask is None else ~mask
    weights = torch.exp((scores - lse.unsqueeze(-1)).masked_fill(hidden, -math.inf))
    grad_weights = grad_output @ v.mT
    # Of the two ways to the mean the one that rounds more: the other is the output times its gradient.
    mean = (weights * grad_weights).sum(-1, keepdim=True)
    grad_scores = nudge(weights * (grad_weights - mean)) / root
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_output


def _backward_args(draw: Draw, qkv: QKV, block_size: int, causal: bool) -> tuple[Any, ...]:
    # A result of float32, as the forward pass hands it on: exact ones would be more than an answer gets.
    output, lse = (value.float().double() for value in _forward(*qkv, block_size, causal))
    return *qkv, output, lse, draw.normal(*output.shape), block_size


def _backward_cases(draw: Draw) -> Iterator[Case]:
    for check, name, (q, k, v, block_size), kwargs, more in _tiled_cases(draw, 10.0):
        args = _backward_args(draw, (q, k, v), block_size, kwargs.get("causal", False))
        # In bfloat16 lse would be rounded as well, which by contract it never is: a law looks at that.
        yield Case(name, args, kwargs, check=check, **(more | {"coarse": False}))
    yield Case("bfloat16 beside lse in float32", (), check="bfloat16")


def _gradients_in_bfloat16(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k, v, _, _, grad_output, block_size = _backward_args(Draw(1), _qkv(Draw(2), (2,), 5, 7, 4, 6), 3, False)
    q, k, v, grad_output = (value.bfloat16() for value in (q, k, v, grad_output))
    exact: QKV = (q.double(), k.double(), v.double())
    output, lse = _forward(*exact, block_size)
    right, _, _ = _backward(*exact, output, lse, grad_output.double(), block_size)
    grad_q = answer(q, k, v, output.bfloat16(), lse.float(), grad_output, block_size)
    if grad_q.dtype != torch.bfloat16:
        return "the gradients of bfloat16 inputs are to be bfloat16"
    return (
        None
        if bool(((grad_q - right).abs() < 0.05).all())
        else "gradients in bfloat16 are off by far more than it rounds"
    )


def _long_backward(n: int, causal: bool) -> Callable[[Draw, int], Case]:
    def at(draw: Draw, length: int) -> Case:
        return Case("", (*_backward_args(draw, _qkv(draw, (), length, length, 8, 8), n, causal), causal))

    return at


flash_attention_backward = Exam(
    TOPIC,
    "flash_attention_backward",
    _backward,
    _backward_naive,
    _backward_cases,
    (
        Values("values", 2),
        Values("causal", 1),
        Values("rows without a key", 0.5),
        Values("large scores", 0.5),
        Properties(0.5, (_gradients_in_bfloat16,), on="bfloat16", name="gradients in bfloat16", telling=True),
        _in_tiles(0.5, "peak", at=_long_backward(256, False), name="memory"),
        _whole_mask_seen(0.5, at=_long_backward(128, True), name="memory, causal"),
        Habits(0.25),
        # What hides an lse of −∞ is easily written into lse itself.
        Habits(0.25, on="rows without a key", name="inputs kept, rows without a key"),
    ),
    outputs=("grad_q", "grad_k", "grad_v"),
    may_not_call=(ATTENTION, AUTOGRAD),
    dtypes=DTYPES,
)


@flash_attention_backward.variant
def columns_then_rows(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        keys, values = k[..., j : j + block_size, :].float(), v[..., j : j + block_size, :].float()
        for i in range(0, n, block_size):
            queries, grads = q[..., i : i + block_size, :].float(), grad_output[..., i : i + block_size, :].float()
            weights = torch.exp(queries @ keys.mT * scale - lse[..., i : i + block_size, None])
            if causal:
                seen = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).tril(i + m - n - j)
                weights = torch.where(seen, weights, torch.zeros_like(weights))
            grad_scores = scale * weights * (grads @ values.mT - mean[..., i : i + block_size, :])
            grad_v[..., j : j + block_size, :] += weights.mT @ grads
            grad_q[..., i : i + block_size, :] += grad_scores @ keys
            grad_k[..., j : j + block_size, :] += grad_scores.mT @ queries
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.variant
def keys_in_tiles_queries_whole(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    queries, grads = q.float() / math.sqrt(q.shape[-1]), grad_output.float()
    delta = torch.einsum("...nd,...nd->...n", grads, output.float()).unsqueeze(-1)
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    grad_q, grads_k, grads_v = torch.zeros_like(queries), [], []
    for start in range(0, m, block_size):
        keys, values = k[..., start : start + block_size, :].float(), v[..., start : start + block_size, :].float()
        scores = queries @ keys.mT
        if causal:
            columns = torch.arange(start, start + keys.shape[-2], device=q.device)
            scores = scores.masked_fill(columns > rows, -math.inf)
        weights = torch.nan_to_num(torch.exp(scores - lse.unsqueeze(-1)), nan=0.0)
        grad_scores = weights * (grads @ values.mT - delta)
        grad_q = grad_q + grad_scores @ keys
        grads_k.append((grad_scores.mT @ queries).to(k.dtype))
        grads_v.append((weights.mT @ grads).to(v.dtype))
    return (grad_q / math.sqrt(q.shape[-1])).to(q.dtype), torch.cat(grads_k, -2), torch.cat(grads_v, -2)


@flash_attention_backward.variant
def queries_in_tiles_keys_whole(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, root = q.shape[-2], k.shape[-2], q.shape[-1] ** 0.5
    keys, values = k.float(), v.float()
    grads_q, grad_k, grad_v = [], torch.zeros_like(keys), torch.zeros_like(values)
    tiles = (x.split(block_size, -2) for x in (q, output, lse.unsqueeze(-1), grad_output))
    for first, (rows, outs, norm, grads) in zip(range(0, n, block_size), zip(*tiles)):
        rows, outs, grads = rows.float(), outs.float(), grads.float()
        scores = rows @ keys.mT / root
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(first + m - n + 1)
            scores = scores.masked_fill(later, -math.inf)
        weights = torch.exp(scores - norm.masked_fill(norm == -math.inf, 0.0))
        grad_scores = weights * (grads @ values.mT - (grads * outs).sum(-1, keepdim=True)) / root
        grads_q.append((grad_scores @ keys).to(q.dtype))
        grad_k += grad_scores.mT @ rows
        grad_v += weights.mT @ grads
    return torch.cat(grads_q, -2), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.variant
def two_passes(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], q.shape[-1] ** -0.5
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    floor = torch.finfo(torch.float32).min

    def tile(i, j):
        rows, keys = q[..., i : i + block_size, :].float(), k[..., j : j + block_size, :].float()
        grads, values = grad_output[..., i : i + block_size, :].float(), v[..., j : j + block_size, :].float()
        scores = scale * rows @ keys.mT
        if causal:
            x = torch.arange(i, i + rows.shape[-2], device=q.device)[:, None] + m - n
            y = torch.arange(j, j + keys.shape[-2], device=q.device)[None, :]
            scores = scores.masked_fill(y > x, -math.inf)
        weights = torch.exp(scores - lse[..., i : i + block_size, None].clamp(min=floor))
        return weights, scale * weights * (grads @ values.mT - mean[..., i : i + block_size, :]), rows, keys, grads

    grads_q, grads_k, grads_v = [], [], []
    for i in range(0, n, block_size):
        grads_q.append(sum(ds @ keys for _, ds, _, keys, _ in (tile(i, j) for j in range(0, m, block_size))))
    for j in range(0, m, block_size):
        to_k, to_v = 0, 0
        for i in range(0, n, block_size):
            weights, ds, rows, _, grads = tile(i, j)
            to_k, to_v = to_k + ds.mT @ rows, to_v + weights.mT @ grads
        grads_k.append(to_k)
        grads_v.append(to_v)
    return tuple(torch.cat(g, -2).to(x.dtype) for g, x in ((grads_q, q), (grads_k, k), (grads_v, v)))


@flash_attention_backward.variant
def mean_taken_afresh(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], q.shape[-1] ** -0.5
    grads = grad_output.float()
    rows = torch.arange(n, device=q.device).unsqueeze(-1) + m - n
    tiles = [slice(start, min(start + block_size, m)) for start in range(0, m, block_size)]

    def weigh(tile):
        scores = q.float() @ k[..., tile, :].float().mT * scale
        hidden = torch.arange(tile.start, tile.stop, device=q.device) > rows
        weights = torch.exp(scores - lse.unsqueeze(-1))
        return weights.masked_fill(hidden, 0.0) if causal else weights

    mean = sum((weigh(t) * (grads @ v[..., t, :].float().mT)).sum(-1, keepdim=True) for t in tiles)
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    for t in tiles:
        weights = weigh(t)
        grad_scores = weights * (grads @ v[..., t, :].float().mT - mean)
        grad_q += scale * grad_scores @ k[..., t, :].float()
        grad_k[..., t, :] = scale * grad_scores.mT @ q.float()
        grad_v[..., t, :] = weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.variant
def powers_of_two_backwards(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m = q.shape[-2], k.shape[-2]
    log2e, root = 1 / math.log(2), math.sqrt(q.shape[-1])
    lse2 = (lse * log2e).unsqueeze(-1).clamp(min=torch.finfo(torch.float32).min)
    mean = (output.float() * grad_output.float()).sum(-1, True)
    grad_q, grad_k, grad_v = (torch.zeros(x.shape, device=q.device) for x in (q, k, v))
    for i in range(0, n, block_size):
        a = slice(i, min(i + block_size, n))
        for j in range(0, min(m, a.stop + m - n) if causal else m, block_size):
            b = slice(j, min(j + block_size, m))
            scores = (q[..., a, :].float() @ k[..., b, :].float().mT) * (log2e / root)
            if causal:
                hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                scores = scores.masked_fill(hidden, -math.inf)
            weights = torch.exp2(scores - lse2[..., a, :])
            grads = grad_output[..., a, :].float()
            ds = weights * (grads @ v[..., b, :].float().mT - mean[..., a, :]) / root
            grad_q[..., a, :] += ds @ k[..., b, :].float()
            grad_k[..., b, :] += ds.mT @ q[..., a, :].float()
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint=(
        "A weight depends on all scores of its row: from its gradient the row's weighted mean is subtracted, which "
        "output and grad_output give."
    ),
    symptom="grad_v is right; grad_q and grad_k are not, and the gradients by a row's scores do not sum to zero.",
)
def softmax_taken_for_exp(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT)
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="The mean that is subtracted runs over the whole row of keys. You take that of one tile.",
    symptom="Right with one tile of keys; else grad_q and grad_k are wrong.",
)
def mean_of_one_tile_only(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_weights = grads @ values.mT
            grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="You make each tile's weights sum to one. The sum over the whole row is in lse: exp(score − lse).",
    symptom="Right with one tile of keys; else weights come out too large.",
)
def weights_normalised_in_each_tile(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.softmax(scale * queries @ keys.mT, -1)
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="You forgot 1/√d_k when you recompute the scores; lse was made of scaled ones.",
    symptom="Weights do not sum to one, and can be huge.",
)
def weights_of_unscaled_scores(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="The scores are q kᵀ/√d_k, so what arrives at q and k passes through 1/√d_k once more.",
    symptom="grad_v is right; grad_q and grad_k are √d_k times too large.",
)
def scores_chain_without_the_scale(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += grad_scores @ keys
            grad_k[..., b, :] += grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="The scale stands in front of the product: it reaches the gradients of q and of k.",
    symptom="grad_k is √d_k times too large; the others are right.",
)
def scale_for_the_queries_only(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="You scale twice, the gradient of the scores and then what it gives.",
    symptom="grad_q and grad_k are √d_k times too small.",
)
def scaled_twice_on_the_way_back(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = scale * weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="lse is a natural logarithm: its weights are exp(score − lse), not 2 to that power.",
    symptom="Weights are nearer to one than they should be.",
)
def lse_taken_for_powers_of_two(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp2(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="A query gets gradients from every tile of keys. You keep the last tile's only.",
    symptom="Right with one tile of keys; grad_k and grad_v are right anyway.",
)
def grad_q_overwritten(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] = scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="Keys and values hear from every tile of queries. You keep the last tile's only.",
    symptom="Right with one tile of queries; grad_q is right anyway.",
)
def grad_k_and_grad_v_overwritten(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] = scale * grad_scores.mT @ queries
            grad_v[..., b, :] = weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="You go through whole tiles only. What is left over at the ends gets no gradient and sends none.",
    symptom="Zeros for the last queries and keys where the block size does not divide the lengths.",
)
def ragged_tiles_dropped_backwards(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m - m % block_size, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n - n % block_size, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="Forwards the mask was aligned at the bottom right. Backwards you count from the start.",
    symptom="Right with as many queries as keys.",
    seen="https://github.com/Dao-AILab/flash-attention/issues/517",
)
def backward_corner_at_the_top_left(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="`causal` is ignored on the way back: keys that were hidden get gradients.",
    symptom="With causal=True exp(score − lse) is larger than one for hidden keys.",
)
def backward_without_the_mask(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="Inside a tile you hide by places counted from the tile's corner. Add where the tile itself stands.",
    symptom="Right with one tile and equal lengths; else the past is hidden and the future is not.",
)
def backward_masked_inside_tiles_only(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint=(
        "Where a query sees no key, lse is −∞, and hidden scores of −∞ minus that are NaN. What is hidden weighs 0, "
        "whatever lse is."
    ),
    symptom="NaN with more queries than keys; right else.",
)
def nan_from_rows_without_a_key(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            scores = scale * queries @ keys.mT
            if causal:
                hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                scores = scores.masked_fill(hidden, -math.inf)
            weights = torch.exp(scores - lse[..., a, None])
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="exp(score) is no weight yet, and overflows. The weight is exp(score − lse).",
    symptom="Gradients are too large by exp(lse); infinite for large scores.",
)
def bare_exponentials_backwards(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT)
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="exp(score) / exp(lse) is right on paper. Both overflow; the difference does not: take it before exp.",
    symptom="Right for ordinary scores; NaN or zero for large ones.",
)
def exponent_not_in_one_piece(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT) / torch.exp(lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="A value's gradient is what arrives at the outputs, weighted. You weight the outputs themselves.",
    symptom="grad_v does not depend on grad_output.",
)
def output_in_place_of_its_gradient(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ output[..., a, :].float()
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="Subtract the sum of output times gradient, row by row, not the plain mean of the gradients.",
    symptom="grad_v is right, grad_q and grad_k are not.",
)
def mean_of_the_gradients_alone(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = grad_output.float().mean(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint=(
        "lse is float32, so the weights are, and a matrix product takes two of one dtype. Bring the inputs to "
        "float32 first."
    ),
    symptom="Right in float32; in bfloat16 RuntimeError: expected m1 and m2 to have the same dtype.",
)
def float32_meets_bfloat16(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :], v[..., b, :]
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :], grad_output[..., a, :]
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="Sums in float32 are right; what goes back has the dtype of q, k and v.",
    symptom="Right in float32; gradients of bfloat16 inputs come in float32.",
)
def gradients_left_in_float32(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q, grad_k, grad_v


@flash_attention_backward.misconception(
    hint="You subtract in place from what was handed to you.",
    symptom="Right the first time; the caller's gradients are gone.",
)
def grad_output_changed_in_place(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = output.mul_(grad_output).float().sum(-1, keepdim=True)
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint="You write into lse itself to get rid of −∞: the tensor is the caller's, and so is what else reads it. "
    "`masked_fill` without an underscore gives you a copy.",
    symptom="Gradients are right; a second way back with the same lse is not.",
)
def lse_changed_in_place(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    lse[lse == -math.inf] = 0.0
    for j in range(0, m, block_size):
        b = slice(j, j + block_size)
        keys, values = k[..., b, :].float(), v[..., b, :].float()
        for i in range(0, n, block_size):
            a = slice(i, i + block_size)
            queries, grads = q[..., a, :].float(), grad_output[..., a, :].float()
            weights = torch.exp(scale * queries @ keys.mT - lse[..., a, None])
            if causal:
                hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).triu(i + m - n - j + 1)
                weights = weights.masked_fill(hidden, 0.0)
            grad_scores = weights * (grads @ values.mT - mean[..., a, :])
            grad_q[..., a, :] += scale * grad_scores @ keys
            grad_k[..., b, :] += scale * grad_scores.mT @ queries
            grad_v[..., b, :] += weights.mT @ grads
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


@flash_attention_backward.misconception(
    hint=(
        "The gradients are right, but the whole matrix of weights is made at once. Recompute a tile, use it, and "
        "let it go."
    ),
    symptom="Right everywhere; the memory grows with n².",
)
def all_weights_recomputed_at_once(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    weights = torch.exp(scale * q.float() @ k.float().mT - lse.unsqueeze(-1))
    if causal:
        weights = weights.masked_fill(torch.ones(n, m, dtype=torch.bool, device=q.device).triu(1 + m - n), 0.0)
    grads = grad_output.float()
    mean = (output.float() * grads).sum(-1, keepdim=True)
    grad_scores = scale * weights * (grads @ v.float().mT - mean)
    return (
        (grad_scores @ k.float()).to(q.dtype),
        (grad_scores.mT @ q.float()).to(k.dtype),
        (weights.mT @ grads).to(v.dtype),
    )


@flash_attention_backward.misconception(
    hint=(
        "The weights come in tiles, but you build the whole mask first, one number for each pair. Make each tile's own."
    ),
    symptom="Right everywhere; with causal=True the memory grows with n².",
)
def whole_mask_built_for_the_way_back(q, k, v, output, lse, grad_output, block_size, causal=False):
    n, m, scale = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    mean = (output.float() * grad_output.float()).sum(-1, keepdim=True)
    seen = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n) if causal else None
    for j in range(0, m, block_size):
        keys, values = k[..., j : j + block_size, :].float(), v[..., j : j + block_size, :].float()
        for i in range(0, n, block_size):
            queries, grads = q[..., i : i + block_size, :].float(), grad_output[..., i : i + block_size, :].float()
            weights = torch.exp(queries @ keys.mT * scale - lse[..., i : i + block_size, None])
            if seen is not None:
                weights = weights.masked_fill(~seen[i : i + block_size, j : j + block_size], 0.0)
            grad_scores = scale * weights * (grads @ values.mT - mean[..., i : i + block_size, :])
            grad_v[..., j : j + block_size, :] += weights.mT @ grads
            grad_q[..., i : i + block_size, :] += grad_scores @ keys
            grad_k[..., j : j + block_size, :] += grad_scores.mT @ queries
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


def _applied(q: Tensor, k: Tensor, v: Tensor, block_size: int, causal: bool) -> Tensor:
    return _sdpa(q, k, v, causal)


def _applied_naive(q: Tensor, k: Tensor, v: Tensor, block_size: int, causal: bool, nudge: Nudge = as_is) -> Tensor:
    return _naive(q, k, v, causal, nudge)


def _applied_cases(draw: Draw) -> Iterator[Case]:
    for check, name, args, kwargs, more in _tiled_cases(draw, 10.0):
        # Of the causal cases, those whose lengths or tiles are special; of the others those in whose axes one can err.
        yield Case(name, (*args, kwargs.get("causal", False)), check=check, **({"gradients": True} | more))
    yield Case("two calls, then back", (*_qkv(draw, (2,), 5, 6, 4, 3), 4, False), check="two calls")


def _first_of_two_calls(answer: Callable[..., Tensor], call: Call) -> str | None:
    """The gradients of a call must not depend on a later one, as in any model with two layers."""
    q, k, v, block_size, causal = call.args
    with torch.enable_grad():
        leaf = q.detach().requires_grad_()
        (alone,) = torch.autograd.grad(answer(leaf, k, v, block_size, causal).sum(), leaf)
        first = answer(leaf, k, v, block_size, causal)
        answer(2 * q, -k, v + 1, 2, not causal)
        (found,) = torch.autograd.grad(first.sum(), leaf)
    if torch.allclose(found, alone, rtol=1e-3, atol=1e-5):
        return None
    return "the gradients of a call change if there is another call before the way back: keep what they need in `ctx`"


FlashAttention = Exam(
    TOPIC,
    "FlashAttention",
    _applied,
    _applied_naive,
    _applied_cases,
    (
        Values("values", 1),
        Values("causal", 0.5),
        Values("rows without a key", 0.25),
        Values("large scores", 0.25),
        Gradients(2),
        Properties(0.5, (_first_of_two_calls,), on="two calls", name="two calls, then back", telling=True),
        _in_tiles(1, "peak", at=_long(256, False), name="memory, there and back", backward=True),
        _whole_mask_seen(0.75, at=_long(128, True), name="memory, causal, there and back", backward=True),
        Habits(0.5),
    ),
    may_not_call=(ATTENTION,),
    dtypes=DTYPES,
    use="apply",
)


@FlashAttention.variant
class SavedForBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = queries_and_keys_in_tiles(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, lse = ctx.saved_tensors
        grads = columns_then_rows(q, k, v, output, lse, grad_output, ctx.block_size, ctx.causal)
        return (*grads, None, None)


@FlashAttention.variant
class WithASetupOfItsOwn(torch.autograd.Function):
    @staticmethod
    def forward(q, k, v, block_size, causal):
        return keys_tile_by_tile(q, k, v, block_size, causal)[0]

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.settings = inputs[3:]
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v = ctx.saved_tensors
        output, lse = keys_tile_by_tile(q, k, v, *ctx.settings)
        return (*keys_in_tiles_queries_whole(q, k, v, output, lse, grad_output, *ctx.settings), None, None)


@FlashAttention.variant
class KeptAsAttributes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = powers_of_two(q, k, v, block_size, causal)
        ctx.q, ctx.k, ctx.v, ctx.output, ctx.lse = q, k, v, output.clone(), lse
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        given = (ctx.q, ctx.k, ctx.v, ctx.output, ctx.lse, grad_output, ctx.block_size, ctx.causal)
        return (*powers_of_two_backwards(*given), None, None)


@FlashAttention.variant
class LeadingAxesFolded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        lead = q.shape[:-2]
        flat = [x.reshape(-1, *x.shape[-2:]) for x in (q, k, v)]
        output, lse = partial_results_joined(*flat, block_size, causal)
        ctx.save_for_backward(*flat, output, lse)
        ctx.rest = block_size, causal, lead
        return output.reshape(*lead, *output.shape[-2:])

    @staticmethod
    def backward(ctx, grad_output):
        block_size, causal, lead = ctx.rest
        flat = grad_output.reshape(-1, *grad_output.shape[-2:])
        grads = queries_in_tiles_keys_whole(*ctx.saved_tensors, flat, block_size, causal)
        return (*(g.reshape(*lead, *g.shape[-2:]) for g in grads), None, None)


@FlashAttention.variant
class OnlyWhatIsNeeded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = padded_to_whole_tiles(q, k, v, block_size, causal)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q, k, v, output, lse)
            ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        grads = two_passes(*ctx.saved_tensors, grad_output.contiguous(), ctx.block_size, ctx.causal)
        return (*(g if wanted else None for g, wanted in zip(grads, ctx.needs_input_grad)), None, None)


@FlashAttention.variant
class TilesByAutograd(torch.autograd.Function):
    """Each tile's way back by autograd: allowed, for what is graded is the result and the memory."""

    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = normalised_after_every_tile(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, lse = (x.detach() for x in ctx.saved_tensors)
        grads = tuple(torch.zeros_like(x) for x in (q, k, v))
        n, m = q.shape[-2], k.shape[-2]
        mean = (grad_output * output).sum(-1, keepdim=True)
        for start in range(0, n, ctx.block_size):
            a = slice(start, min(start + ctx.block_size, n))
            with torch.enable_grad():
                rows, keys, values = (x.requires_grad_() for x in (q[..., a, :].clone(), k.clone(), v.clone()))
                scores = rows.float() @ keys.float().mT / math.sqrt(q.shape[-1])
                if ctx.causal:
                    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(start + m - n + 1)
                    scores = scores.masked_fill(later, -math.inf)
                weights = torch.nan_to_num(torch.exp(scores - lse[..., a, None]), nan=0.0).detach()
                grad_scores = weights * (grad_output[..., a, :] @ values.mT - mean[..., a, :]).detach()
                visible = scores.masked_fill(weights == 0, 0.0)
                loss = (visible * grad_scores).sum() + (weights @ values.float() * grad_output[..., a, :]).sum()
            to_rows, to_keys, to_values = torch.autograd.grad(loss, (rows, keys, values))
            grads[0][..., a, :] += to_rows
            grads[1].add_(to_keys)
            grads[2].add_(to_values)
        return (*grads, None, None)


@FlashAttention.misconception(
    hint="`backward` gives one value for each argument of `forward`: block_size and causal get None.",
    symptom="RuntimeError on the way back: an incorrect number of gradients.",
)
class nothing_for_the_settings(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, lse = ctx.saved_tensors
        return columns_then_rows(q, k, v, output, lse, grad_output, ctx.block_size, ctx.causal)


@FlashAttention.misconception(
    hint="You keep the matrix of weights for the way back. lse brings any tile of it back: that is the trade.",
    symptom="Right everywhere; between forward and backward n² numbers lie in memory.",
)
class weights_kept_for_the_way_back(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, _ = keys_tile_by_tile(q, k, v, block_size, causal)
        scores = q.float() @ k.float().mT / math.sqrt(q.shape[-1])
        if causal:
            n, m = scores.shape[-2:]
            scores = scores.masked_fill(torch.ones(n, m, dtype=torch.bool, device=q.device).triu(1 + m - n), -math.inf)
        ctx.save_for_backward(q, k, v, output, torch.softmax(scores, -1).nan_to_num(0.0))
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, weights = ctx.saved_tensors
        mean = (output * grad_output).sum(-1, keepdim=True).float()
        grad_scores = weights * (grad_output.float() @ v.float().mT - mean) / math.sqrt(q.shape[-1])
        grads = grad_scores @ k.float(), grad_scores.mT @ q.float(), weights.mT @ grad_output.float()
        return (*(grad.to(q.dtype) for grad in grads), None, None)


@FlashAttention.misconception(
    hint="`backward` does not know of `causal`: keep it in `ctx`, as the block size.",
    symptom="Outputs are right; with causal=True the gradients are not.",
)
class mask_forgotten_on_the_way_back(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.block_size = block_size
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, lse = ctx.saved_tensors
        grads = columns_then_rows(q, k, v, output, lse, grad_output, ctx.block_size)
        return (*grads, None, None)


@FlashAttention.misconception(
    hint="`apply` is to give the output alone. lse stays inside, in `ctx`.",
    symptom="A tuple where a tensor is asked for.",
)
class statistics_handed_out_too(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.block_size, ctx.causal = block_size, causal
        return output, lse

    @staticmethod
    def backward(ctx, grad_output, grad_lse):
        q, k, v, output, lse = ctx.saved_tensors
        grads = columns_then_rows(q, k, v, output, lse, grad_output, ctx.block_size, ctx.causal)
        return (*grads, None, None)


@FlashAttention.misconception(
    hint=(
        "The gradients stand in the order of `forward`'s arguments: q, k, v. Yours are in the order in which you "
        "computed them."
    ),
    symptom="Keys get the gradients of values, or an error where their widths differ.",
)
class gradients_in_another_order(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, lse = ctx.saved_tensors
        grads = columns_then_rows(q, k, v, output, lse, grad_output, ctx.block_size, ctx.causal)
        return grads[2], grads[1], grads[0], None, None


@FlashAttention.misconception(
    hint="You keep tensors on the class, where the next call overwrites them. Every call has a `ctx` of its own.",
    symptom="Right with one layer; with two, the first one's gradients come from the second one's tensors.",
)
class kept_on_the_class(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        kept_on_the_class.kept = q, k, v, output, lse, block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, lse, block_size, causal = kept_on_the_class.kept
        grads = columns_then_rows(q, k, v, output, lse, grad_output, block_size, causal)
        return (*grads, None, None)


@FlashAttention.misconception(
    hint="Forwards you go in tiles; backwards autograd runs through the whole matrix. Both ways have to be tiled.",
    symptom="Right everywhere; on the way back the memory grows with n².",
)
class all_at_once_on_the_way_back(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        with torch.enable_grad():
            q, k, v = leaves = [x.detach().requires_grad_() for x in ctx.saved_tensors[:3]]
            scores = q @ k.mT / math.sqrt(q.shape[-1])
            if ctx.causal:
                n, m = scores.shape[-2:]
                seen = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n)
                lowest = torch.finfo(scores.dtype).min
                weights = torch.softmax(scores.masked_fill(~seen, lowest), -1) * seen
            else:
                weights = torch.softmax(scores, -1)
            grads = torch.autograd.grad(weights @ v, leaves, grad_output)
        return (*grads, None, None)


@FlashAttention.misconception(
    hint="You keep the mask for the way back, a byte for each pair. Each tile's own is made anew in no time.",
    symptom="Right everywhere; with causal=True the memory grows with n².",
)
class mask_kept_for_the_way_back(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        n, m = q.shape[-2], k.shape[-2]
        seen = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n) if causal else None
        ctx.save_for_backward(q, k, v, output, lse, seen)
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, lse, _ = ctx.saved_tensors
        grads = columns_then_rows(q, k, v, output, lse, grad_output, ctx.block_size, ctx.causal)
        return (*grads, None, None)


@FlashAttention.misconception(
    hint="Keys get no gradient: `backward` gives None for them. They are as much an input as queries and values.",
    symptom="Outputs are right; the projection of the keys never learns.",
)
class keys_taken_for_constants(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, lse = ctx.saved_tensors
        grads = columns_then_rows(q, k, v, output, lse, grad_output, ctx.block_size, ctx.causal)
        return grads[0], None, grads[2], None, None


@FlashAttention.misconception(
    hint="What you keep as the output is the sum before it is divided; its product with the gradient is no mean then.",
    symptom="Outputs are right; gradients of q and k are not.",
)
class saved_before_the_division(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        top = (q.float() @ k.float().mT).amax(-1, keepdim=True) / math.sqrt(q.shape[-1])
        undivided = output * torch.exp(lse.unsqueeze(-1) - top).to(output.dtype)
        ctx.save_for_backward(q, k, v, undivided, lse)
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, lse = ctx.saved_tensors
        grads = columns_then_rows(q, k, v, output, lse, grad_output, ctx.block_size, ctx.causal)
        return (*grads, None, None)


@FlashAttention.misconception(
    hint="You go back with ones, whatever arrives. What arrives is the loss's gradient by the output.",
    symptom="Right if the loss is the sum of the outputs, as in many a test.",
)
class gradient_of_ones(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, lse = ctx.saved_tensors
        grads = columns_then_rows(q, k, v, output, lse, torch.ones_like(grad_output), ctx.block_size, ctx.causal)
        return (*grads, None, None)


@FlashAttention.misconception(
    hint="Your `backward` hands on what arrives. Attention is not the identity, though the shapes may fit.",
    symptom="A model trains, after a fashion: all three get the gradient of the output.",
)
class passed_straight_through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output, grad_output, grad_output, None, None


@FlashAttention.misconception(
    hint="lse is kept unscaled: the way back computes its weights with scaled scores.",
    symptom="Outputs are right; recomputed weights do not sum to one.",
)
class lse_kept_unscaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse * math.sqrt(q.shape[-1]))
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, lse = ctx.saved_tensors
        grads = columns_then_rows(q, k, v, output, lse, grad_output, ctx.block_size, ctx.causal)
        return (*grads, None, None)


@FlashAttention.misconception(
    hint="There is a `forward`, and `backward` gives nothing: no parameter in front of this operator learns.",
    symptom="Outputs are right, gradients are None.",
)
class without_a_way_back(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, block_size, causal):
        output, lse = keys_tile_by_tile(q, k, v, block_size, causal)
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.block_size, ctx.causal = block_size, causal
        return output

    @staticmethod
    def backward(ctx, grad_output):
        return None, None, None, None, None


def _plainly(q, k, v, causal):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(k.shape[-2] - q.shape[-2])
        scores = scores.masked_fill(~seen, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v, torch.logsumexp(scores, -1)


def _whole(q, k, v, block_size, causal=False):
    output, lse = _plainly(q.float(), k.float(), v.float(), causal)
    return output.to(q.dtype), lse


check_flash = examiner(TOPIC, "check_flash", flash_attention_forward, plain=_whole)


def _draws(lead, n_queries, n_keys, d_k, d_v, size=1.0):
    q, k, v = torch.randn(*lead, n_queries, d_k), torch.randn(*lead, n_keys, d_k), torch.randn(*lead, n_keys, d_v)
    return size * q, size * k, v


@check_flash.variant
def compared_with_the_plain_formula(fn):
    shapes = [((), 5, 7, 4, 6), ((2, 3), 6, 6, 4, 4), ((2,), 8, 3, 4, 2), ((2,), 1, 9, 16, 4), ((3,), 4, 11, 8, 8)]
    for lead, n, m, d_k, d_v in shapes:
        for block_size, causal, size in itertools.product((1, 3, 20), (False, True), (1.0, 40.0)):
            q, k, v = _draws(lead, n, m, d_k, d_v, size)
            before = q.clone(), k.clone(), v.clone()
            output, lse = fn(q, k, v, block_size, causal)
            right, right_lse = _plainly(q, k, v, causal)
            torch.testing.assert_close(output, right, rtol=1e-3, atol=2e-3)
            torch.testing.assert_close(lse, right_lse, rtol=1e-3, atol=2e-3)
            for now, then in zip((q, k, v), before):
                assert torch.equal(now, then)
    turned = [x.transpose(0, 1) for x in _draws((5, 2), 3, 4, 4, 4)]
    torch.testing.assert_close(fn(*turned, 2)[0], _plainly(*turned, False)[0], rtol=1e-3, atol=1e-4)
    many = [torch.zeros(1, 2), torch.zeros(700, 2), torch.arange(700).unsqueeze(-1) / 700]
    output, lse = fn(*(x.bfloat16() for x in many), 1)
    assert output.dtype == torch.bfloat16
    assert lse.dtype == torch.float32
    assert abs(output.float().item() - 0.5) < 0.01
    assert abs(lse.item() - math.log(700)) < 0.01


@check_flash.variant
def query_by_query_in_float64(fn):
    for lead, n, m, block_size in (((), 6, 6, 2), ((2,), 5, 8, 3), ((2, 2), 7, 4, 3), ((), 2, 5, 1), ((), 3, 3, 8)):
        for causal in (False, True):
            for size in (1.0, 25.0):
                q, k, v = _draws(lead, n, m, 9, 4, size)
                held = q.clone()
                output, lse = fn(q, k, v, block_size, causal=causal)
                if not torch.equal(q, held) or output.shape != (*lead, n, 4) or lse.shape != (*lead, n):
                    return False
                for i in range(n):
                    seen = max(0, min(m, i + 1 + m - n)) if causal else m
                    scores = (k[..., :seen, :].double() @ q[..., i, :, None].double()).squeeze(-1) / 3
                    right = (torch.softmax(scores, -1).unsqueeze(-1) * v[..., :seen, :]).sum(-2)
                    if not torch.allclose(output[..., i, :].double(), right, rtol=1e-3, atol=1e-3):
                        return False
                    found = lse[..., i].double()
                    if not torch.allclose(found, torch.logsumexp(scores, -1), rtol=1e-3, atol=1e-3):
                        return False
    fn(*(torch.randn(2, n, 3, 4).transpose(1, 2) for n in (5, 6, 6)), 2)
    v = (torch.arange(500) < 250).unsqueeze(-1).bfloat16()
    output, lse = fn(torch.zeros(2, 4).bfloat16(), torch.zeros(500, 4).bfloat16(), v, 1)
    return lse.dtype == torch.float32 and bool(((output.float() - 0.5).abs() < 0.01).all())


@check_flash.misconception(
    hint="With one tile there is nothing to carry over. Choose blocks that are smaller than the sequence.",
    symptom="No rescaling at all passes, and so does a mean over tiles.",
)
def flash_only_one_tile(fn):
    for size, causal in itertools.product((1.0, 40.0), (False, True)):
        q, k, v = _draws((2,), 5, 7, 8, 4, size)
        output, lse = fn(q, k, v, 64, causal)
        right, right_lse = _plainly(q, k, v, causal)
        torch.testing.assert_close(output, right, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(lse, right_lse, rtol=1e-3, atol=1e-3)


@check_flash.misconception(
    hint="You look at the output only. lse is the second result, and without it there is no way back.",
    symptom="Four wrong logarithms pass.",
)
def flash_only_the_output(fn):
    for lead, n, m in (((), 5, 7), ((2, 3), 6, 6), ((2,), 8, 3)):
        for block_size, causal, size in itertools.product((1, 3), (False, True), (1.0, 40.0)):
            q, k, v = _draws(lead, n, m, 8, 4, size)
            output, _ = fn(q, k, v, block_size, causal)
            torch.testing.assert_close(output, _plainly(q, k, v, causal)[0], rtol=1e-3, atol=1e-3)


@check_flash.misconception(
    hint="All your lengths are multiples of the block size. What happens to what is left over?",
    symptom="A last tile that is dropped, or filled up with zeros that count, passes.",
)
def flash_only_whole_tiles(fn):
    for lead, n, m in (((), 4, 8), ((2, 3), 6, 6), ((2,), 8, 4)):
        for causal, size in itertools.product((False, True), (1.0, 40.0)):
            q, k, v = _draws(lead, n, m, 8, 4, size)
            output, lse = fn(q, k, v, 2, causal)
            right, right_lse = _plainly(q, k, v, causal)
            torch.testing.assert_close(output, right, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(lse, right_lse, rtol=1e-3, atol=1e-3)


@check_flash.misconception(
    hint="You never set `causal=True`: the mask of a tile is where most goes wrong.",
    symptom="A mask aligned at the wrong corner passes, and none at all.",
)
def flash_never_causal(fn):
    for lead, n, m in (((), 5, 7), ((2, 3), 6, 6), ((2,), 8, 3)):
        for block_size, size in itertools.product((1, 3), (1.0, 40.0)):
            q, k, v = _draws(lead, n, m, 8, 4, size)
            output, lse = fn(q, k, v, block_size)
            right, right_lse = _plainly(q, k, v, False)
            torch.testing.assert_close(output, right, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(lse, right_lse, rtol=1e-3, atol=1e-3)


@check_flash.misconception(
    hint="You have as many queries as keys every time. Both corners are the same one then.",
    symptom="A mask aligned at the top left passes, and NaN for queries without a key.",
)
def flash_only_square(fn):
    for lead, n in (((), 7), ((2, 3), 6)):
        for block_size, causal, size in itertools.product((1, 3), (False, True), (1.0, 40.0)):
            q, k, v = _draws(lead, n, n, 8, 4, size)
            output, lse = fn(q, k, v, block_size, causal)
            right, right_lse = _plainly(q, k, v, causal)
            torch.testing.assert_close(output, right, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(lse, right_lse, rtol=1e-3, atol=1e-3)


@check_flash.misconception(
    hint="Scores of 1e-3 are all alike: every weight is 1/n, whatever is done to the maximum. Use numbers of size one.",
    symptom="Scores without a scale pass, and accumulators that are never rescaled.",
)
def flash_only_tiny_scores(fn):
    for block_size in (1, 3):
        q, k, v = _draws((2,), 5, 7, 8, 4, 1e-2)
        output, lse = fn(q, k, v, block_size)
        right, right_lse = _plainly(q, k, v, False)
        torch.testing.assert_close(output, right, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(lse, right_lse, rtol=1e-2, atol=1e-2)


@check_flash.misconception(
    hint="Right answers round in different orders. Compare with a tolerance, not with `torch.equal`.",
    symptom="All answers but one fail, right ones too.",
)
def flash_exact_equality(fn):
    q, k, v = _draws((2,), 50, 70, 33, 21)
    output, lse = fn(q, k, v, 16)
    right, right_lse = _plainly(q, k, v, False)
    assert torch.equal(output, right)
    assert torch.equal(lse, right_lse)


@check_flash.misconception(
    hint="Two block sizes that give the same can both be wrong in the same way. Compare with the plain formula.",
    symptom="Missing scales, ignored masks and wrong logarithms pass.",
)
def flash_agrees_with_itself(fn):
    for causal, size in itertools.product((False, True), (1.0, 40.0)):
        q, k, v = _draws((2,), 5, 7, 8, 4, size)
        (one, first), (other, second) = fn(q, k, v, 2, causal), fn(q, k, v, 64, causal)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


@check_flash.misconception(
    hint="Shapes and dtypes are right in nearly every wrong answer.",
    symptom="An output that is never divided passes.",
)
def flash_only_shapes(fn):
    output, lse = fn(*_draws((2, 3), 5, 7, 8, 4), 3)
    assert output.shape == (2, 3, 5, 4)
    assert lse.shape == (2, 3, 5)
    output, lse = fn(*(x.bfloat16() for x in _draws((2,), 5, 7, 8, 4)), 3)
    assert output.dtype == torch.bfloat16
    assert lse.dtype == torch.float32


LOG2E = math.log2(math.e)


def _kernel_formula(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    return _sdpa(q, k, v, causal)


def _kernel_naive(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, nudge: Nudge = as_is) -> Tensor:
    return _naive(q, k, v, causal, nudge)


def _kernel_cases(draw: Draw) -> Iterator[Case]:
    """Few, with two tiles of 64 at most each way: the interpreter takes milliseconds for each, whatever its size."""
    case = partial(Case, also=(torch.float16,))
    yield case("a batch of heads", _qkv(draw, (2, 2), 20, 40, 16, 16))
    yield case("two tiles of keys, the last one ragged", _qkv(draw, (), 30, 100, 32, 16))
    yield case("two tiles of queries, the last one ragged", _qkv(draw, (), 90, 64, 16, 32))
    yield case("widths that are no powers of two", _qkv(draw, (), 10, 30, 20, 9))
    yield case("d_k = 128", _qkv(draw, (), 7, 90, 128, 64), coarse=False, also=())
    causal = partial(case, kwargs={"causal": True}, check="causal")
    yield causal("as many queries as keys", _qkv(draw, (), 80, 80, 16, 16))
    yield causal("more keys than queries", _qkv(draw, (), 3, 100, 16, 16), coarse=False, also=())
    yield causal("more queries than keys", _qkv(draw, (), 70, 20, 16, 16), check="rows without a key")
    q, k, v = _qkv(draw, (), 10, 80, 16, 16)
    yield case("large scores", (30 * q, 30 * k, v), check="large scores", coarse=False, also=())
    yield case("columns stored as rows", _qkv(draw, (), 20, 30, 16, 16), check="in memory", layout="transposed")


flash_attention_triton = Exam(
    TOPIC,
    "flash_attention_triton",
    _kernel_formula,
    _kernel_naive,
    _kernel_cases,
    (
        Values("values", 2),
        Values("causal", 1),
        Values("rows without a key", 0.5),
        Values("large scores", 0.5),
        Values("in memory", 0.5),
        Habits(0.5, on="in memory"),
    ),
    may_not_call=(ATTENTION, SOFTMAX, PRODUCTS),
    # Without a GPU there is the interpreter, which is wrong in bfloat16 without a word.
    dtypes=DTYPES if torch.cuda.is_available() else (torch.float32, torch.float16),
    needs="triton",
)


def _launched(kernel, q, k, v, causal, scale, as_they_lie=False):
    """A program for each 64 queries of each head, in tiles 128 wide; the kernels take it that rows lie in a row."""
    if not as_they_lie:
        q, k, v = (x.contiguous() for x in (q, k, v))
    n, m, d, e = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    output = torch.empty(*q.shape[:-1], e, dtype=q.dtype, device=q.device)
    grid = triton.cdiv(n, 64), math.prod(q.shape[:-2])
    triton.jit(kernel)[grid](q, k, v, output, n, m, d, e, scale, int(causal), num_stages=1)
    return output


@flash_attention_triton.variant
def masked_in_every_tile(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.variant
def powers_of_e(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp(scores - new), tl.exp(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=1 / math.sqrt(q.shape[-1]))


@flash_attention_triton.variant
def accumulated_by_the_product(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = tl.dot(weights.to(tile.dtype), tile, sums * carried, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.variant
def queries_scaled_in_the_kernel(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0).to(tl.float32) * scale
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys).to(tl.float32), input_precision="ieee")
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.variant
def maximum_from_minus_infinity(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -float("inf"), tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            shift = tl.where(new == -float("inf"), 0.0, new)
            weights, carried = tl.exp2(scores - shift), tl.exp2(top - shift)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.variant
def future_left_out(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        end = m
        if causal:
            end = tl.minimum(m, tl.program_id(0) * 64 + 64 + m - n)
        for start in range(0, end, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.variant
def keys_loaded_upright(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            across, columns = tl.trans(wide), tl.trans(j)
            keys = tl.load(k + head * m * d + columns * d + across, (columns < m) & (across < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, keys, input_precision="ieee") * scale
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="The sum is carried over to the new maximum, the output so far is not.",
    symptom="Right up to 64 keys; then the first tile weighs too much wherever the maximum grew.",
)
def kernel_output_not_rescaled(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="The output so far is carried over to the new maximum, the sum that it is divided by is not.",
    symptom="Right up to 64 keys; then outputs are too small wherever the maximum grew.",
)
def kernel_sum_not_rescaled(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="Beyond the last key the tile is filled with zeros: their score is 0 and counts. Hide them with −∞.",
    symptom="Right where the tile divides the number of keys.",
    seen="https://github.com/66RING/tiny-flash-attention/issues/12",
)
def kernel_counts_what_it_filled_in(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns <= rows + m - n) | (causal == 0), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="The loop takes whole tiles only: the keys that are left over are never seen.",
    symptom="Right where the tile divides the number of keys; zeros with fewer keys than one tile.",
    seen="https://github.com/jax-ml/jax/issues/27224",
)
def kernel_drops_the_ragged_tile(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m // 64 * 64, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="Queries and keys are counted from the start. The last query stands at the last key's position.",
    symptom="Right with as many queries as keys.",
    seen="https://github.com/Dao-AILab/flash-attention/issues/351",
)
def kernel_corner_at_the_top_left(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="`causal` does nothing in your kernel.",
    symptom="With causal=True the outputs are those without.",
)
def kernel_sees_the_future(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="The scores are not divided by √d_k.",
    symptom="Weights are too sharp, the more so the larger d_k is.",
)
def kernel_unscaled(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E)


@flash_attention_triton.misconception(
    hint="exp2 is 2 to the power; for e the scale needs a factor log₂ e.",
    symptom="Weights are too flat, as at a temperature of 1.44.",
)
def kernel_without_log2e(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=1 / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="The scale is that of the tile's width, a power of two. Zeros add nothing to a dot product: take d_k.",
    symptom="Right where d_k is a power of two and at least 16.",
)
def kernel_scaled_by_the_padded_width(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(max(16, triton.next_power_of_2(q.shape[-1]))))


@flash_attention_triton.misconception(
    hint="A head's keys begin n_keys rows after the last head's, not n_queries.",
    symptom="Right with one head, or with as many queries as keys.",
)
def kernel_heads_as_far_apart_as_queries(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * n * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * n * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="All programs read the first head's keys and values: their pointers need the head's offset as well.",
    symptom="Right for the first head of the first sentence.",
)
def kernel_always_the_first_head(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="Nothing is subtracted before the exponential: scores of 100 overflow.",
    symptom="Right for ordinary scores; NaN for large ones.",
)
def kernel_without_a_maximum(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.zeros([64, 1], tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.zeros([64, 1], tl.float32)
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1e-30)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="A row that sees no key has a maximum of −∞, and −∞ − (−∞) is NaN.",
    symptom="NaN with more queries than keys; right else.",
)
def kernel_nan_without_a_key(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -float("inf"), tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / total
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="The output is still to be divided by the sum of exponentials.",
    symptom="Outputs are too large, by the sum.",
)
def kernel_never_divides(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint=(
        "Your addresses are right for rows that lie one after another. Make the tensors contiguous, or use their "
        "strides."
    ),
    symptom="Right on contiguous tensors; on heads that were split off other numbers are read.",
)
def kernel_takes_the_layout_for_granted(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns <= rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, as_they_lie=True, scale=LOG2E / math.sqrt(q.shape[-1]))


@flash_attention_triton.misconception(
    hint="The query at a key's own position may see it: < became ≤, or the other way round.",
    symptom="With causal=True every query misses one key.",
)
def kernel_hides_the_last_key(q, k, v, causal=False):
    def kernel(q, k, v, o, n, m, d, e, scale, causal):
        head, rows = tl.program_id(1), tl.program_id(0) * 64 + tl.arange(0, 64)[:, None]
        local, wide = tl.arange(0, 64)[:, None], tl.arange(0, 128)[None, :]
        queries = tl.load(q + head * n * d + rows * d + wide, (rows < n) & (wide < d), 0.0)
        top, total = tl.full([64, 1], -1e30, tl.float32), tl.zeros([64, 1], tl.float32)
        sums = tl.zeros([64, 128], tl.float32)
        for start in range(0, m, 64):
            j = start + local
            keys = tl.load(k + head * m * d + j * d + wide, (j < m) & (wide < d), 0.0)
            tile = tl.load(v + head * m * e + j * e + wide, (j < m) & (wide < e), 0.0)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            columns = tl.trans(j)
            scores = tl.where((columns < m) & ((columns < rows + m - n) | (causal == 0)), scores, -float("inf"))
            new = tl.maximum(top, tl.max(scores, 1, keep_dims=True))
            weights, carried = tl.exp2(scores - new), tl.exp2(top - new)
            total = total * carried + tl.sum(weights, 1, keep_dims=True)
            sums = sums * carried + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
            top = new
        output = sums / tl.maximum(total, 1.0)
        tl.store(o + head * n * e + rows * e + wide, output.to(o.dtype.element_ty), (rows < n) & (wide < e))

    return _launched(kernel, q, k, v, causal, scale=LOG2E / math.sqrt(q.shape[-1]))
