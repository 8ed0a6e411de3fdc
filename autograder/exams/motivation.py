"""The exams of *motivation*: a window with a fixed reach, a lookup that reaches all, and a measure of any reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autograder.answer.guard import ATTENTION, Operators
from autograder.answer.toys import build
from autograder.engine.checks import Gradients, Habits, Properties, Values
from autograder.engine.exam import Case, Draw, Exam, Nudge, as_is
from autograder.engine.messages import apart
from autograder.engine.subject import Call
from autograder.exams.softmax import naive_softmax

TOPIC = "motivation"
POOLING = Operators("a ready-made pooling", ("*avg_pool*", "*AvgPool*", "lp_pool*", "LPPool*"))


def _pooled(x: Tensor, radius: int) -> Tensor:
    """PyTorch's own pooling, which takes the tokens for the last axis and knows one axis of batch."""
    columns = x.mT.reshape(-1, 1, x.shape[-2])  # (... · d, 1, n)
    pooled = F.avg_pool1d(columns, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
    return pooled.reshape(x.mT.shape).mT


def _window_by_window(x: Tensor, radius: int, nudge: Nudge = as_is) -> Tensor:
    """The definition: for each position a sum over those that are near, by their number."""
    windows = [x[..., max(0, i - radius) : i + radius + 1, :] for i in range(x.shape[-2])]
    return torch.stack([nudge(window.sum(-2)) / window.shape[-2] for window in windows], dim=-2)


def _window_cases(draw: Draw) -> Iterator[Case]:
    yield Case("a sentence", (draw.normal(7, 3), 1), gradients=True, tiny=True)
    yield Case("radius 2", (draw.normal(8, 4), 2), gradients=True)
    yield Case("as wide as long", (draw.normal(5, 5), 1), gradients=True)
    yield Case("a batch", (draw.normal(2, 9, 4), 2), gradients=True)
    yield Case("a batch of one", (draw.normal(1, 6, 3), 2), gradients=True)
    yield Case("a batch as large as a sentence", (draw.normal(4, 4, 4), 1))
    yield Case("batch and heads", (draw.normal(2, 3, 6, 4), 1), gradients=True)
    yield Case("five axes", (draw.normal(2, 1, 3, 5, 2), 1))
    yield Case("radius by name", (draw.normal(2, 8, 3),), {"radius": 3})
    yield Case("columns stored as rows", (draw.normal(2, 3, 7, 4), 2), layout="transposed", gradients=True)
    yield Case("every second number of a row", (draw.normal(2, 7, 4), 1), layout="strided")
    yield Case("tokens around 3", (draw.normal(2, 8, 4) + 3, 2))
    yield Case("a long sequence", (draw.normal(2, draw.integer(60, 80), 4), 12))
    edge = partial(Case, check="edge cases")
    yield edge("radius 0", (draw.normal(2, 5, 3), 0), gradients=True)
    yield edge("one token", (draw.normal(2, 1, 3), 2))
    yield edge("one token, radius 0", (draw.normal(1, 3), 0))
    yield edge("two tokens, radius 1", (draw.normal(2, 3), 1))
    yield edge("fewer tokens than the window is wide", (draw.normal(2, 5, 3), 3))
    yield edge("one token fewer than the window is wide", (draw.normal(4, 3), 2))
    yield edge("the window is wider than the sequence on both sides", (draw.normal(2, 4, 3), 9))
    yield edge("the window just covers it from end to end", (draw.normal(5, 3), 4))
    # Padding is none of the neighbours, but a zero may be one: a count of what is not zero is no count of them.
    yield edge("width 1, some tokens are zero", (draw.normal(2, 6, 1).relu(), 2))
    yield edge("components of 10⁴", (draw.normal(2, 6, 3, scale=1e4), 2), coarse=False)


def _equal_tokens_stay(answer: Callable[..., Tensor], call: Call) -> str | None:
    x, *rest = call.args
    x = torch.ones_like(x)
    gap = apart(answer(x, *rest, **call.kwargs), x)
    return gap and f"if all tokens are the same, each average is that token; yours differs {gap}"


def _read_backwards(answer: Callable[..., Tensor], call: Call) -> str | None:
    x, *rest = call.args
    gap = apart(answer(x.flip(-2), *rest, **call.kwargs).flip(-2), answer(*call.args, **call.kwargs))
    return gap and f"read backwards, the averages must be the same backwards; yours differ {gap}"


window_average = Exam(
    TOPIC,
    "window_average",
    _pooled,
    _window_by_window,
    _window_cases,
    (
        Values("values", 2),
        Values("edge cases", 1),
        Properties(0.5, (_equal_tokens_stay, _read_backwards)),
        Habits(0.5),
        Gradients(0.5),
    ),
    may_not_call=(POOLING, ATTENTION),
)


@window_average.variant
def band_of_weights(x, radius):
    positions = torch.arange(x.shape[-2], device=x.device)
    near = (positions[:, None] - positions).abs() <= radius
    return (near.to(x.dtype) / near.sum(-1, keepdim=True)) @ x


@window_average.variant
def slices_one_by_one(x, radius):
    n = x.shape[-2]
    rows = [x[..., max(0, i - radius) : min(n, i + radius + 1), :].mean(dim=-2) for i in range(n)]
    return torch.stack(rows, dim=-2)


@window_average.variant
def shifted_and_counted(x, radius):
    n = x.shape[-2]
    total, count = torch.zeros_like(x), x.new_zeros(n, 1)
    for shift in range(-min(radius, n - 1), min(radius, n - 1) + 1):
        here, there = slice(max(0, -shift), n - max(0, shift)), slice(max(0, shift), n - max(0, -shift))
        total[..., here, :] = total[..., here, :] + x[..., there, :]
        count[here] += 1
    return total / count


@window_average.variant
def padded_and_unfolded(x, radius):
    ones = torch.ones_like(x[..., :1])
    padded = F.pad(torch.cat([x, ones], dim=-1), (0, 0, radius, radius))
    sums = padded.unfold(-2, 2 * radius + 1, 1).sum(-1)
    return sums[..., :-1] / sums[..., -1:]


@window_average.variant
def differences_of_running_sums(x, radius):
    n = x.shape[-2]
    sums = F.pad(x.double().cumsum(-2), (0, 0, 1, 0))
    ends = torch.arange(n, device=x.device)
    first, last = (ends - radius).clamp(min=0), (ends + radius + 1).clamp(max=n)
    means = (sums[..., last, :] - sums[..., first, :]) / (last - first)[:, None]
    return means.to(x.dtype)


@window_average.variant
def convolved_with_ones(x, radius):
    *lead, n, d = x.shape
    columns = x.mT.reshape(-1, 1, n)
    ones = torch.ones(1, 1, 2 * radius + 1, dtype=x.dtype, device=x.device)
    sums = F.conv1d(columns, ones, padding=radius)
    counts = F.conv1d(torch.ones_like(columns[:1]), ones, padding=radius)
    return (sums / counts).reshape(*lead, d, n).mT


@window_average.variant
def triangles_as_band(x, radius):
    n = x.shape[-2]
    band = torch.ones(n, n, dtype=x.dtype, device=x.device).triu(-radius).tril(radius)
    return torch.einsum("ij,...jd->...id", band, x) / band.sum(1, keepdim=True)


@window_average.variant
def neighbours_by_index(x, radius):
    n = x.shape[-2]
    rows = []
    for i in range(n):
        near = torch.tensor([j for j in range(n) if abs(i - j) <= radius], device=x.device)
        rows.append(x.index_select(-2, near).sum(-2) / len(near))
    return torch.stack(rows, dim=-2)


@window_average.misconception(
    hint="You always divide by 2r + 1. At the ends fewer positions exist: divide by the number that you summed.",
    symptom="Right in the middle. Towards both ends the averages shrink, as if the sequence were fringed with zeros.",
    seen="https://github.com/pytorch/glow/issues/4565",
)
def divides_by_the_full_window(x, radius):
    padded = F.pad(x, (0, 0, radius, radius))
    return padded.unfold(-2, 2 * radius + 1, 1).sum(-1) / (2 * radius + 1)


@window_average.misconception(
    hint="Only positions with a full window get an average: r are missing at each end. Every token needs one.",
    symptom="2r rows fewer come out than went in, and none at all if the sequence is shorter than the window.",
    seen="https://github.com/NOAA-PMEL/Ferret/issues/626",
)
def full_windows_only(x, radius):
    return x.unfold(-2, 2 * radius + 1, 1).mean(-1)


@window_average.misconception(
    hint="You refuse sequences shorter than the window. A window needs no fixed length: it takes what exists.",
    symptom="Right on long sequences; an error on one token.",
)
def window_needs_fixed_length(x, radius):
    n = x.shape[-2]
    if n < 2 * radius + 1:
        raise ValueError(f"{n} tokens do not fill a window of {2 * radius + 1}")
    return torch.stack([x[..., max(0, i - radius) : i + radius + 1, :].mean(-2) for i in range(n)], dim=-2)


@window_average.misconception(
    hint="At the ends you repeat the outermost token until the window is full. It then counts more than once.",
    symptom="Right in the middle; at the ends the outermost token weighs too much.",
)
def outermost_tokens_repeated(x, radius):
    front, end = (x[..., place, :].unsqueeze(-2).expand(*x.shape[:-2], radius, x.shape[-1]) for place in (0, -1))
    return torch.cat([front, x, end], dim=-2).unfold(-2, 2 * radius + 1, 1).mean(-1)


@window_average.misconception(
    hint="Your window runs over the end and goes on at the beginning. The last token is no neighbour of the first.",
    symptom="Right in the middle; the two ends mix.",
)
def ends_joined_to_a_ring(x, radius):
    shifted = [torch.roll(x, shift, dims=-2) for shift in range(-radius, radius + 1)]
    return torch.stack(shifted).mean(0)


@window_average.misconception(
    hint="A slice stops before its end: x[i − r : i + r] leaves the right-most neighbour out.",
    symptom="The window leans to the left, and with radius 0 there is nothing to average: NaN.",
)
def right_neighbour_left_out(x, radius):
    n = x.shape[-2]
    return torch.stack([x[..., max(0, i - radius) : i + radius, :].mean(-2) for i in range(n)], dim=-2)


@window_average.misconception(
    hint="A slice that starts at a negative number counts from the end. Near the beginning, start at 0.",
    symptom="The first r rows are NaN, or averages of tokens from the end.",
)
def slice_from_a_negative_start(x, radius):
    n = x.shape[-2]
    return torch.stack([x[..., i - radius : i + radius + 1, :].mean(-2) for i in range(n)], dim=-2)


@window_average.misconception(
    hint="Your window looks back only. It reaches `radius` positions to *either* side.",
    symptom="The first token never changes, and nobody sees a token to the right.",
)
def looks_back_only(x, radius):
    n = x.shape[-2]
    return torch.stack([x[..., max(0, i - radius) : i + 1, :].mean(-2) for i in range(n)], dim=-2)


@window_average.misconception(
    hint="The token itself is in its window too: its distance is 0.",
    symptom="With radius 0, or with one token, there is nothing left to average: NaN.",
)
def without_the_token_itself(x, radius):
    positions = torch.arange(x.shape[-2], device=x.device)
    distance = (positions[:, None] - positions).abs()
    near = (distance <= radius) & (distance > 0)
    return (near.to(x.dtype) / near.sum(-1, keepdim=True)) @ x


@window_average.misconception(
    hint="A radius counts to one side. You take it for the width of the whole window.",
    symptom="Too sharp everywhere; with radius 1 nothing changes at all.",
)
def radius_taken_for_the_width(x, radius):
    positions = torch.arange(x.shape[-2], device=x.device)
    near = (positions[:, None] - positions).abs() <= radius // 2
    return (near.to(x.dtype) / near.sum(-1, keepdim=True)) @ x


@window_average.misconception(
    hint="At distance *radius* a position still counts: ≤, not <.",
    symptom="Each window is one too short on both sides; with radius 1 nothing changes at all.",
    seen="https://github.com/OpenWaterAnalytics/epanet-rtx/issues/45",
)
def outermost_neighbours_excluded(x, radius):
    positions = torch.arange(x.shape[-2], device=x.device)
    near = (positions[:, None] - positions).abs() < max(radius, 1)
    return (near.to(x.dtype) / near.sum(-1, keepdim=True)) @ x


@window_average.misconception(
    hint="You add the neighbours up. A mean divides by how many there are.",
    symptom="Values grow with the radius.",
)
def sums_over_the_window(x, radius):
    n = x.shape[-2]
    return torch.stack([x[..., max(0, i - radius) : i + radius + 1, :].sum(-2) for i in range(n)], dim=-2)


@window_average.misconception(
    hint="Your window runs over the components of each token. Tokens lie along the last axis but one.",
    symptom="The shape is right. No token hears of another one.",
)
def window_over_the_components(x, radius):
    d = x.shape[-1]
    return torch.stack([x[..., max(0, i - radius) : i + radius + 1].mean(-1) for i in range(d)], dim=-1)


@window_average.misconception(
    hint="You take axis 1 for the tokens. Count from the end: whatever stands in front, they lie along axis −2.",
    symptom="Right on (batch, n, d). Without a batch it runs over the components, with heads it mixes the heads.",
)
def window_along_axis_one(x, radius):
    n = x.shape[1]
    windows = [range(max(0, i - radius), min(n, i + radius + 1)) for i in range(n)]
    return torch.stack([sum(x.select(1, j) for j in near) / len(near) for near in windows], dim=1)


@window_average.misconception(
    hint="You take the first axis for the tokens. That holds without a batch; counted from the end they lie along −2.",
    symptom="Right for one sequence. With a batch, sentences are averaged with one another.",
)
def window_along_the_first_axis(x, radius):
    return torch.stack([x[max(0, i - radius) : i + radius + 1].mean(0) for i in range(len(x))])


@window_average.misconception(
    hint="You average over averages: what you have written is read again. Leave x alone, and write elsewhere.",
    symptom="The first row is right, the others drag the past along, and the input is changed.",
)
def averages_of_averages(x, radius):
    n = x.shape[-2]
    result = x
    for i in range(n):
        result[..., i, :] = result[..., max(0, i - radius) : i + radius + 1, :].mean(-2)
    return result


@window_average.misconception(
    hint="r rounds of radius 1 reach as far as one of radius r, but weigh the middle more. Take one plain mean.",
    symptom="Right for radius 0 and 1. Beyond that near tokens count more than far ones.",
)
def small_windows_stacked(x, radius):
    positions = torch.arange(x.shape[-2], device=x.device)
    near = (positions[:, None] - positions).abs() <= 1
    for _ in range(radius):
        x = (near.to(x.dtype) / near.sum(-1, keepdim=True)) @ x
    return x


@window_average.misconception(
    hint="You take for granted that there is exactly one batch axis. Let `...` stand for whatever is in front.",
    symptom="Right on (batch, n, d); an error on one sentence, and on more axes.",
)
def window_needs_a_batch(x, radius):
    _batch, n, _d = x.shape
    return torch.stack([x[:, max(0, i - radius) : i + radius + 1].mean(1) for i in range(n)], dim=1)


@window_average.misconception(
    hint="The average leaves the graph (`detach`, `.data`, NumPy, `torch.tensor`): nothing can learn through it.",
    symptom="The values are right, and no gradient arrives.",
)
def average_detached(x, radius):
    n = x.shape[-2]
    return torch.stack([x[..., max(0, i - radius) : i + radius + 1, :].mean(-2) for i in range(n)], dim=-2).detach()


@window_average.misconception(
    hint="You compute in float32 whatever comes in: the digits of a float64 input are lost on the way.",
    symptom="Right dtype, and seven right digits of sixteen.",
)
def average_rounded(x, radius):
    n = x.shape[-2]
    means = [x[..., max(0, i - radius) : i + radius + 1, :].float().mean(-2) for i in range(n)]
    return torch.stack(means, dim=-2).to(x.dtype)


@window_average.misconception(
    hint="Your matrix of weights is float32, whatever x is. Make it in the dtype and on the device of x.",
    symptom="Right on float32. On anything else an error: the two factors of a product must have one dtype.",
)
def weights_in_float32(x, radius):
    positions = torch.arange(x.shape[-2], device=x.device)
    near = ((positions[:, None] - positions).abs() <= radius).float()
    return (near / near.sum(-1, keepdim=True)) @ x


def _looked_up(query: Tensor, keys: Tensor, values: Tensor, temperature: float = 1.0) -> Tensor:
    """PyTorch's own attention with one query; its scale takes the place of the temperature."""
    with sdpa_kernel(SDPBackend.MATH):
        found = F.scaled_dot_product_attention(query.unsqueeze(-2), keys, values, scale=1 / temperature)
    return found.squeeze(-2)


def _lookup_naive(
    query: Tensor, keys: Tensor, values: Tensor, temperature: float = 1.0, nudge: Nudge = as_is
) -> Tensor:
    scores = nudge((keys * query.unsqueeze(-2)).sum(-1))
    weights = naive_softmax(scores / temperature, -1, nudge)
    return (weights.unsqueeze(-1) * values).sum(-2)


def _dictionary(
    draw: Draw, lead: tuple[int, ...], n_keys: int, d_k: int, d_v: int, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """A query, and a dictionary for it."""
    return draw.normal(*lead, d_k, scale=scale), draw.normal(*lead, n_keys, d_k), draw.normal(*lead, n_keys, d_v)


def _far_apart(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """A dictionary whose scores go from −10⁴ to 10⁴ in equal steps: a near tie would leave open which key wins."""
    query, across, values = _dictionary(draw, (2,), 5, 4, 3, 100.0)
    along = query / query.norm(dim=-1, keepdim=True)
    across = across - (across @ along[..., None]) * along[:, None]  # adds nothing to the scores
    scores = torch.tensor([[5e3, -1e4, 1e4, 0.0, -5e3], [1e4, 0.0, -5e3, 5e3, -1e4]], dtype=torch.float64)
    return query, across + scores[..., None] * query[:, None] / query.square().sum(-1)[:, None, None], values


def _lookup_cases(draw: Draw) -> Iterator[Case]:
    yield Case("one dictionary", _dictionary(draw, (), 5, 3, 4), gradients=True, tiny=True)
    yield Case("as many keys as components", _dictionary(draw, (), 4, 4, 4), gradients=True)
    yield Case("as many keys as values are wide", _dictionary(draw, (2,), 5, 3, 5))
    yield Case("a batch", _dictionary(draw, (2,), 5, 4, 3), gradients=True)
    yield Case("a batch as large as everything else", _dictionary(draw, (4,), 4, 4, 4))
    yield Case("a batch of one", _dictionary(draw, (1,), 6, 4, 3), gradients=True)
    yield Case("batch and heads", _dictionary(draw, (2, 3), 5, 4, 6), gradients=True)
    yield Case("five axes", _dictionary(draw, (2, 1, 2), 3, 4, 2))
    yield Case("temperature 0.25", (*_dictionary(draw, (2,), 5, 4, 3), 0.25), gradients=True)
    yield Case("temperature 2.5, by name", _dictionary(draw, (2,), 5, 4, 3, 3.0), {"temperature": 2.5}, gradients=True)
    yield Case("a whole number for a temperature", _dictionary(draw, (), 5, 4, 3, 2.0), {"temperature": 2})
    yield Case("d_k = 64", _dictionary(draw, (2,), 6, 64, 8, 0.3), gradients=True)
    yield Case("many keys", _dictionary(draw, (), draw.integer(150, 250), 8, 3))
    yield Case("columns stored as rows", _dictionary(draw, (2, 3), 6, 5, 4), layout="transposed", gradients=True)
    yield Case("every second number of a row", _dictionary(draw, (2,), 6, 4, 5), layout="strided")
    query, keys, values = _dictionary(draw, (2,), 5, 4, 4)
    yield Case("keys and values are one tensor", (query, keys, keys), gradients=True)
    edge = partial(Case, check="edge cases")
    yield edge("one key", _dictionary(draw, (2,), 1, 4, 3))
    yield edge("d_k = 1", _dictionary(draw, (2,), 5, 1, 3))
    yield edge("d_v = 1", _dictionary(draw, (2,), 5, 4, 1))
    yield edge("a query of zeros", (torch.zeros_like(query), keys, values), gradients=True)
    yield edge("the same key twice", (query, torch.cat([keys[:, :2], keys[:, :2]], 1), values[:, :4]))
    far = _far_apart(draw)
    yield edge("scores up to ±10⁴", far, coarse=False)
    # Powers of two: `torch.tensor(temperature)` is as good as the number.
    yield edge("a temperature near zero", (query, keys, values, 2**-10), coarse=False)
    yield edge("tiny scores, as tiny a temperature", (2**-40 * query, keys, values, 2**-40), coarse=False)
    yield edge("a temperature of 10⁴", (query, keys, values, 1e4))
    near = keys[:, :1] + 1e-3 * keys
    yield edge("a temperature near zero, and keys that nearly agree", (query, near, values, 2**-10), coarse=False)
    yield edge("scores up to ±10⁴ at a temperature of 10⁴", (*far, 1e4), coarse=False)
    yield edge("values around 1000", (query, keys, values + 1000), coarse=False)
    wrong = partial(Case, check="temperature ≤ 0", raises=ValueError)
    one = (query[0], keys[0], values[0])
    yield wrong("temperature 0", (*one, 0.0), says="0")
    yield wrong("temperature −0.75", (*one, -0.75), says="-0.75")


def _order_means_nothing(answer: Callable[..., Tensor], call: Call) -> str | None:
    query, keys, values, *rest = call.args
    gap = apart(answer(query, keys.flip(-2), values.flip(-2), *rest, **call.kwargs), answer(*call.args, **call.kwargs))
    return gap and f"turning keys and values round together must change nothing; the result changes {gap}"


def _equal_values_come_through(answer: Callable[..., Tensor], call: Call) -> str | None:
    query, keys, values, *rest = call.args
    same = torch.ones_like(values)
    gap = apart(answer(query, keys, same, *rest, **call.kwargs), same[..., 0, :])
    return gap and f"if all values are the same, that is what is found; your result differs {gap}"


soft_lookup = Exam(
    TOPIC,
    "soft_lookup",
    _looked_up,
    _lookup_naive,
    _lookup_cases,
    (
        Values("values", 2),
        Values("edge cases", 0.75),
        Values("temperature ≤ 0", 0.5),
        Properties(0.5, (_order_means_nothing, _equal_values_come_through)),
        Habits(0.5),
        Gradients(0.75),
    ),
    may_not_call=(ATTENTION,),
)


@soft_lookup.variant
def matrix_products(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    scores = (keys @ query.unsqueeze(-1)).squeeze(-1)
    weights = torch.softmax(scores / temperature, dim=-1)
    return (weights.unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.variant
def lookup_by_einsum(query, keys, values, temperature=1.0):
    if not temperature > 0:
        raise ValueError(f"{temperature} is no temperature")
    weights = torch.einsum("...d,...kd->...k", query, keys).div(temperature).softmax(-1)
    return torch.einsum("...k,...kv->...v", weights, values)


@soft_lookup.variant
def products_summed(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError("temperature " + str(temperature))
    scores = (query.unsqueeze(-2) * keys).sum(-1)
    return (F.softmax(scores / temperature, dim=-1).unsqueeze(-1) * values).sum(-2)


@soft_lookup.variant
def query_cooled_first(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"got {temperature}")
    scores = (query / temperature).unsqueeze(-2) @ keys.mT
    return (torch.softmax(scores, dim=-1) @ values)[..., 0, :]


@soft_lookup.variant
def softmax_by_hand(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"{temperature} <= 0")
    scores = (keys @ query[..., None])[..., 0] / temperature
    exps = torch.exp(scores - scores.amax(-1, keepdim=True))
    return (exps[..., None] * values).sum(-2) / exps.sum(-1, keepdim=True)


@soft_lookup.variant
def key_by_key(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}")
    scores = torch.stack([(query * key).sum(-1) / temperature for key in keys.unbind(-2)], dim=-1)
    weights = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    result = 0
    for weight, value in zip(weights.unbind(-1), values.unbind(-2)):
        result = result + weight[..., None] * value
    return result


@soft_lookup.variant
def columns_throughout(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"positive, not {temperature}")
    weights = torch.softmax(torch.matmul(keys, query.unsqueeze(-1)) / temperature, dim=-2)
    return torch.matmul(values.transpose(-2, -1), weights).squeeze(-1)


@soft_lookup.misconception(
    hint="You hand over the value of the best key alone, as a dictionary does. A soft lookup mixes all values.",
    symptom="No gradient reaches the query or the keys: nothing can learn where to look.",
)
def best_key_takes_all(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    best = (keys @ query.unsqueeze(-1)).squeeze(-1).argmax(-1)
    index = best[..., None, None].expand(*best.shape, 1, values.shape[-1])
    return values.gather(-2, index).squeeze(-2)


@soft_lookup.misconception(
    hint="You multiply by the temperature. A high temperature makes the shares more alike: divide.",
    symptom="Right at temperature 1. Below it the lookup gets softer, above it sharper.",
    seen="https://github.com/bowang-lab/BLEEP/issues/5",
)
def multiplied_by_the_temperature(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    weights = torch.softmax((keys @ query.unsqueeze(-1)).squeeze(-1) * temperature, dim=-1)
    return (weights.unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="The temperature is never used.",
    symptom="Right at temperature 1, and the same at every other one.",
)
def temperature_never_used(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    weights = torch.softmax((keys @ query.unsqueeze(-1)).squeeze(-1), dim=-1)
    return (weights.unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="You divide by √d_k as well. That belongs to a later lesson; here the temperature is the only scale.",
    symptom="Too soft wherever d_k is larger than 1.",
)
def scaled_unasked(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    scores = (keys @ query.unsqueeze(-1)).squeeze(-1) / math.sqrt(query.shape[-1])
    return (torch.softmax(scores / temperature, dim=-1).unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="The shares of one query must sum to one over the keys. Your softmax runs along the first axis, the batch's.",
    symptom="Right for one dictionary. In a batch of one every key gets weight 1.",
    seen="https://github.com/PetrochukM/PyTorch-NLP/issues/2",
)
def softmax_along_the_batch(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    weights = torch.softmax((keys @ query.unsqueeze(-1)).squeeze(-1) / temperature, dim=0)
    return (weights.unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="You divide by one sum over the whole batch. Each query's shares sum to one: sum over its keys alone.",
    symptom="Right for one dictionary. The more of them a batch holds, the smaller is what they find.",
)
def one_sum_for_the_whole_batch(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    exps = torch.exp((keys @ query.unsqueeze(-1)).squeeze(-1) / temperature)
    return ((exps / exps.sum()).unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="Your softmax runs along an axis of length one: every key gets weight 1. The shares sum to one over *keys*.",
    symptom="The plain sum of all values, whatever the query is.",
    seen="https://github.com/DEEP-PolyU/KEQA_WSDM19/issues/2",
)
def softmax_over_one_number(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    weights = torch.softmax(keys @ query.unsqueeze(-1) / temperature, dim=-1)
    return (weights * values).sum(-2)


@soft_lookup.misconception(
    hint="You divide scores by their sum. Scores may be negative, and their sum may be near zero: exponentiate first.",
    symptom="Negative weights, and results far outside of the values.",
    seen="https://github.com/keras-team/keras-io/pull/320",
)
def scores_by_their_sum(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    scores = (keys @ query.unsqueeze(-1)).squeeze(-1) / temperature
    weights = scores / scores.sum(-1, keepdim=True)
    return (weights.unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="The scores weigh the values as they are. Shares are positive and sum to one: a softmax is missing.",
    symptom="The result grows with the query, and a bad match is subtracted.",
)
def values_weighed_by_bare_scores(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    scores = (keys @ query.unsqueeze(-1)).squeeze(-1) / temperature
    return (scores.unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="The exponentials are not divided by their sum: the shares don't sum to one.",
    symptom="With equal values more comes out than any of them.",
)
def exponentials_not_normalised(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    weights = torch.exp((keys @ query.unsqueeze(-1)).squeeze(-1) / temperature)
    return (weights.unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="exp overflows on large scores. `torch.softmax` takes care of that; or subtract the largest score first.",
    symptom="Right on ordinary scores; NaN or 0/0 on large ones and at low temperatures.",
)
def lookup_overflows(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    exps = torch.exp((keys @ query.unsqueeze(-1)).squeeze(-1) / temperature)
    return ((exps / exps.sum(-1, keepdim=True)).unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="You hand over the keys. They are what one searches by; what one takes home are the values.",
    symptom="The result has the width d_k, and the values are never used.",
)
def keys_handed_over(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    weights = torch.softmax((keys @ query.unsqueeze(-1)).squeeze(-1) / temperature, dim=-1)
    return (weights.unsqueeze(-2) @ keys).squeeze(-2)


@soft_lookup.misconception(
    hint="You score by distance, as Nadaraya and Watson did. It is the dot product only for keys of one length.",
    symptom="Long keys get too little: −‖q − k‖² / 2 is q · k less half of ‖k‖², and a term that all keys share.",
)
def scored_by_distance(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    scores = -(keys - query.unsqueeze(-2)).square().sum(-1) / 2
    return (torch.softmax(scores / temperature, dim=-1).unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="You compare directions, by the cosine. The bare dot product is asked for, lengths included.",
    symptom="Doubling the query changes nothing, and scores never leave [−1, 1].",
)
def scored_by_cosine(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    scores = F.cosine_similarity(query.unsqueeze(-2), keys, dim=-1)
    return (torch.softmax(scores / temperature, dim=-1).unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="Where a key stands is part of your score. Position does not come free: a lookup knows what keys hold.",
    symptom="Keys near the end win. Turned round, the same dictionary gives another answer.",
)
def position_comes_free(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    n_keys = keys.shape[-2]
    recency = torch.arange(n_keys, dtype=keys.dtype, device=keys.device) / n_keys
    scores = (keys @ query.unsqueeze(-1)).squeeze(-1) + recency
    return (torch.softmax(scores / temperature, dim=-1).unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="You divide the weights by the temperature, after the softmax: they no longer sum to one. Divide the scores.",
    symptom="Right at temperature 1. At 2 half of the result is missing.",
)
def weights_cooled_instead_of_scores(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    weights = torch.softmax((keys @ query.unsqueeze(-1)).squeeze(-1), dim=-1) / temperature
    return (weights.unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="A temperature of zero or below has no meaning. Raise a `ValueError` that names it.",
    symptom="0 gives NaN by 0/0, and a negative one silently prefers the worst key.",
)
def any_temperature_taken(query, keys, values, temperature=1.0):
    weights = torch.softmax((keys @ query.unsqueeze(-1)).squeeze(-1) / temperature, dim=-1)
    return (weights.unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="The error does not say which temperature came. The reader of a message should not have to search for it.",
    symptom="'temperature must be positive': and which one was it?",
)
def error_without_the_temperature(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError("temperature must be positive")
    weights = torch.softmax((keys @ query.unsqueeze(-1)).squeeze(-1) / temperature, dim=-1)
    return (weights.unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="A bad temperature is an error of its value: raise ValueError, not an assertion.",
    symptom="`python -O` removes the check, and a caller that expects ValueError crashes.",
)
def temperature_asserted(query, keys, values, temperature=1.0):
    assert temperature > 0, f"temperature must be positive, not {temperature}"
    weights = torch.softmax((keys @ query.unsqueeze(-1)).squeeze(-1) / temperature, dim=-1)
    return (weights.unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="You hold the temperature above a floor. What is compared with it are the differences of the scores, and "
    "those may be as small.",
    symptom="Right until it is really cold: below the floor every temperature gives the same result.",
)
def temperature_held_above_a_floor(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    scores = (keys @ query.unsqueeze(-1)).squeeze(-1) / max(temperature, 1e-6)
    return (torch.softmax(scores, dim=-1).unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="You put an axis of length one in and don't take it out: the result is (..., d_v).",
    symptom="The numbers are right, in a shape with one axis too many.",
)
def query_axis_kept(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    weights = torch.softmax(query.unsqueeze(-2) @ keys.mT / temperature, dim=-1)
    return weights @ values


@soft_lookup.misconception(
    hint="`squeeze()` without an axis drops every axis of length one, a batch of one too. Say which one you mean.",
    symptom="Right until something has the length one; then a shape with too few axes.",
)
def every_axis_of_one_dropped(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    weights = torch.softmax(query.unsqueeze(-2) @ keys.mT / temperature, dim=-1)
    return (weights @ values).squeeze()


@soft_lookup.misconception(
    hint="`keys @ query` takes the query for one vector, or for a matrix. Give it an axis of its own first.",
    symptom="Right for one dictionary; in a batch an error, or every query asks every dictionary.",
)
def query_without_an_axis(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    weights = torch.softmax(keys @ query / temperature, dim=-1)
    return weights @ values


@soft_lookup.misconception(
    hint="The weights leave the graph (`detach`, `no_grad`): nothing can learn where to look.",
    symptom="The result is right, and a gradient arrives at the values alone.",
)
def lookup_weights_detached(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    with torch.no_grad():
        weights = torch.softmax((keys @ query.unsqueeze(-1)).squeeze(-1) / temperature, dim=-1)
    return (weights.unsqueeze(-2) @ values).squeeze(-2)


@soft_lookup.misconception(
    hint="Only what is found is asked for, not the weights.",
    symptom="A tuple where a tensor is asked for.",
)
def value_and_weights(query, keys, values, temperature=1.0):
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}")
    weights = torch.softmax((keys @ query.unsqueeze(-1)).squeeze(-1) / temperature, dim=-1)
    return (weights.unsqueeze(-2) @ values).squeeze(-2), weights


def _jacobian_forwards(model: nn.Module, x: Tensor) -> Tensor:
    """∂ last output / ∂ x of one sequence by forward differentiation, which goes the other way than the answers do."""
    jacobian: Tensor = torch.func.jacfwd(lambda given: model(given)[-1])(x)  # (d_out, n, d_model)
    return jacobian


def _reach_forwards(model: nn.Module, x: Tensor) -> Tensor:
    """The definition, one sequence after another: the Frobenius norm of each token's block of the Jacobian."""
    with torch.enable_grad():
        blocks = [_jacobian_forwards(model, one).movedim(1, 0) for one in x.reshape(-1, *x.shape[-2:])]
    return torch.stack([torch.linalg.matrix_norm(block) for block in blocks]).reshape(x.shape[:-1])


def _reach_naive(model: nn.Module, x: Tensor, nudge: Nudge = as_is) -> Tensor:
    """A copy of the input for each component of the last output; one backward pass then gives all rows."""
    with torch.enable_grad():
        width = model(x).shape[-1]
        copies = x.detach().expand(width, *x.shape).clone().requires_grad_()
        own = nudge(model(copies))[..., -1, :].diagonal(dim1=0, dim2=-1)
        (jacobian,) = torch.autograd.grad(own.sum(), copies)
    return nudge(jacobian).square().sum(dim=(0, -1)).sqrt()


def _reach_cases(draw: Draw) -> Iterator[Case]:
    recurrent, mixer, window = partial(draw.toy, "Recurrent"), partial(draw.toy, "Mixer"), partial(draw.toy, "Window")
    yield Case("a recurrence", (recurrent(d_model=3), draw.normal(6, 3)))
    yield Case("as many tokens as components", (recurrent(d_model=4), draw.normal(4, 4)))
    yield Case("a mixer, narrower outputs", (mixer(d_model=4, d_out=2), draw.normal(5, 4)))
    yield Case("a mixer, wider outputs", (mixer(d_model=3, d_out=5), draw.normal(4, 3)))
    yield Case("a window", (window(d_model=3), draw.normal(6, 3)))
    yield Case("a batch", (recurrent(d_model=3), draw.normal(2, 5, 3)))
    yield Case("a batch of mixtures", (mixer(d_model=3, d_out=4), draw.normal(3, 5, 3)))
    yield Case("a batch as large as a sequence", (mixer(d_model=4, d_out=4), draw.normal(4, 4, 4)))
    yield Case("a batch of one", (recurrent(d_model=3), draw.normal(1, 6, 3)))
    yield Case("two leading axes", (mixer(d_model=3, d_out=2), draw.normal(2, 3, 4, 3)))
    yield Case("by name", (), {"model": recurrent(d_model=3), "x": draw.normal(2, 5, 3)})
    yield Case("columns stored as rows", (recurrent(d_model=3), draw.normal(2, 5, 3)), layout="transposed")
    yield Case("every second number of a row", (mixer(d_model=4, d_out=3), draw.normal(2, 5, 4)), layout="strided")
    edge = partial(Case, check="edge cases")
    yield edge("one token", (recurrent(d_model=3), draw.normal(2, 1, 3)))
    yield edge("outputs of width 1", (mixer(d_model=3, d_out=1), draw.normal(2, 4, 3)))
    yield edge("width 1", (recurrent(d_model=1), draw.normal(2, 5, 1)))
    yield edge("tokens out of reach", (window(d_model=2), draw.normal(2, draw.integer(6, 9), 2)))
    yield edge("weights that forget", (recurrent(d_model=3, scale=0.3), draw.normal(12, 3)))
    yield edge("weights that explode", (recurrent(d_model=4, scale=2.0), draw.normal(8, 4, scale=0.01)), coarse=False)
    yield edge("a token of zeros", (mixer(d_model=3, d_out=3), torch.cat([torch.zeros(1, 3), draw.normal(3, 3)])))


def _leaves_the_graph(answer: Callable[..., Tensor], call: Call) -> str | None:
    attached = answer(*call.args, **call.kwargs).requires_grad
    return "the result still hangs on the graph of the model: it needs a gradient itself" if attached else None


def _input_may_need_a_gradient(answer: Callable[..., Tensor], call: Call) -> str | None:
    """x may come from a graph; what is measured is the same, and x gets no gradient."""
    inputs = _inputs(call)
    x = inputs["x"].clone().requires_grad_()
    result = answer(inputs["model"], x)
    if result.requires_grad:
        return "if x needs a gradient, the result still hangs on the graph of x"
    if x.grad is not None:
        return "if x needs a gradient, one is left behind in x.grad"
    if not x.requires_grad:
        return "if x needs a gradient, it does so no longer afterwards"
    gap = apart(result, answer(inputs["model"], inputs["x"]))
    return gap and f"with and without x.requires_grad the results differ {gap}"


def _inputs(call: Call) -> dict[str, Any]:
    return {**dict(zip(call.names, call.args, strict=False)), **call.kwargs}


def _mode_is_kept(answer: Callable[..., Tensor], call: Call) -> str | None:
    """Habits hands over models in train mode; this one comes in eval mode."""
    given, x = _inputs(call).values()
    model = build(given.name, given.init, given.state, training=False).to(x)
    answer(model, x)
    return "the model comes in eval mode, and is left in train mode" if model.training else None


gradient_reach = Exam(
    TOPIC,
    "gradient_reach",
    _reach_forwards,
    _reach_naive,
    _reach_cases,
    (
        Values("values", 2),
        Values("edge cases", 0.75),
        Properties(0.75, (_leaves_the_graph, _input_may_need_a_gradient), name="leaves no graph behind", telling=True),
        Habits(0.75, name="leaves model and input as they were"),
        Properties(0.25, (_mode_is_kept,), "edge cases", "leaves the mode alone", telling=True),
    ),
)


@gradient_reach.variant
def component_after_component(model, x):
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    return torch.stack(rows).square().sum(dim=(0, -1)).sqrt()


@gradient_reach.variant
def ready_made_jacobian(model, x):
    lead = tuple(range(x.ndim - 2))

    def last_of_all(given):
        last = model(given)[..., -1, :]
        return last.sum(lead) if lead else last

    jacobian = torch.autograd.functional.jacobian(last_of_all, x)  # (d_out, ..., n, d)
    return jacobian.movedim(0, -1).flatten(-2).norm(dim=-1)


@gradient_reach.variant
def functional_and_reversed(model, x):
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def last_sum(given):
        return torch.func.functional_call(model, weights, (given,))[..., -1, :].reshape(-1, width).sum(0)

    width = model(x).shape[-1]
    jacobian = torch.func.jacrev(last_sum)(x.detach())
    return torch.linalg.vector_norm(jacobian, dim=(0, -1))


@gradient_reach.variant
def functional_and_forwards(model, x):
    rows = x.detach().reshape(-1, *x.shape[-2:])
    norms = [torch.func.jacfwd(lambda given: model(given)[-1])(row).pow(2).sum((0, 2)).sqrt() for row in rows]
    return torch.stack(norms).reshape(x.shape[:-1]).detach()


@gradient_reach.variant
def all_components_at_once(model, x):
    given = x.detach().clone().requires_grad_(True)
    last = model(given)[..., -1, :]
    eye = torch.eye(last.shape[-1], dtype=x.dtype, device=x.device)
    asked = eye.reshape(-1, *[1] * (x.ndim - 2), last.shape[-1]).expand(-1, *last.shape)
    (jacobian,) = torch.autograd.grad(last, given, asked, is_grads_batched=True)
    return jacobian.norm(dim=(0, -1))


@gradient_reach.variant
def one_copy_for_each_component(model, x):
    with torch.no_grad():
        width = model(x).shape[-1]
    copies = x.detach().expand(width, *x.shape).clone().requires_grad_()
    own = model(copies)[..., -1, :].diagonal(dim1=0, dim2=-1)
    (jacobian,) = torch.autograd.grad(own.sum(), copies)
    return torch.sqrt((jacobian**2).sum(-1).sum(0))


@gradient_reach.variant
def sequence_after_sequence(model, x):
    norms = []
    for sequence in x.reshape(-1, *x.shape[-2:]):
        given = sequence.detach().requires_grad_()
        squares = torch.zeros_like(given[:, 0])
        for component in model(given)[-1]:
            (gradient,) = torch.autograd.grad(component, given, retain_graph=True)
            squares = squares + gradient.detach().square().sum(-1)
        norms.append(squares.sqrt())
    return torch.stack(norms).detach().reshape(x.shape[:-1])


@gradient_reach.misconception(
    hint="You differentiate the *sum* of the last output's components: their gradients cancel. Take each by itself.",
    symptom="Too small, or too large, by a factor that differs from token to token; right if the output has width 1.",
    seen="https://github.com/sunnynevarekar/pytorch-saliency-maps/issues/1",
)
def gradient_of_the_sum(model, x):
    given = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(given)[..., -1, :].sum(), given)
    return gradient.norm(dim=-1)


@gradient_reach.misconception(
    hint="One gradient of the mean of the components is no norm of a Jacobian: each component has a row of its own.",
    symptom="Too small, the more so the wider the output is; right if the output has width 1.",
)
def gradient_of_the_mean(model, x):
    given = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(given)[..., -1, :].mean(), given)
    return gradient.norm(dim=-1)


@gradient_reach.misconception(
    hint="You ask for the gradients of all outputs. The question is what reaches the *last* one.",
    symptom="Too large wherever an earlier output sees the token as well.",
)
def every_output_counted(model, x):
    given = x.detach().requires_grad_()
    outputs = model(given).flatten(-2)
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in outputs.unbind(-1)]
    return torch.stack(rows).square().sum(dim=(0, -1)).sqrt()


@gradient_reach.misconception(
    hint="You look at the first output. The last one is asked for, position −1.",
    symptom="In a recurrence only the first token reaches it; right if there is one token.",
)
def first_output_taken(model, x):
    given = x.detach().requires_grad_()
    first = model(given)[..., 0, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in first.unbind(-1)]
    return torch.stack(rows).square().sum(dim=(0, -1)).sqrt()


@gradient_reach.misconception(
    hint="`y[-1]` is the last of a batch, not the last position. Count the axes from behind: `y[..., -1, :]`.",
    symptom="Right on one sequence. In a batch all but the last sequence get zeros.",
)
def last_of_the_batch(model, x):
    given = x.detach().requires_grad_()
    rows = [torch.autograd.grad(out, given, retain_graph=True)[0] for out in model(given)[-1].flatten()]
    return torch.stack(rows).square().sum(dim=(0, -1)).sqrt()


@gradient_reach.misconception(
    hint="`y[:, -1]` is the last position only behind one axis of batch. Count the axes from behind: `y[..., -1, :]`.",
    symptom="Right on a batch. On one sequence, and with two axes in front, something else is measured.",
)
def one_batch_axis_taken_for_granted(model, x):
    given = x.detach().requires_grad_()
    last = model(given)[:, -1]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    return torch.stack(rows).square().sum(dim=(0, -1)).sqrt()


@gradient_reach.misconception(
    hint="`backward()` adds to `.grad` of every weight on the way. `torch.autograd.grad` stores nothing.",
    symptom="The numbers are right, and the next training step is wrong: the weights' gradients are not empty.",
)
def gradients_left_in_the_model(model, x):
    given = x.detach().requires_grad_()
    squares = 0
    for out in model(given)[..., -1, :].unbind(-1):
        given.grad = None
        out.sum().backward(retain_graph=True)
        squares = squares + given.grad.square().sum(-1)
    return squares.sqrt()


@gradient_reach.misconception(
    hint="`x.requires_grad_()` changes the caller's tensor. Make a leaf of your own, by `detach()`.",
    symptom="The numbers are right. Afterwards everything that is made of x is recorded.",
    seen="https://github.com/meta-pytorch/captum/pull/8",
)
def input_made_a_leaf(model, x):
    x.requires_grad_()
    rows = [torch.autograd.grad(out.sum(), x, retain_graph=True)[0] for out in model(x)[..., -1, :].unbind(-1)]
    return torch.stack(rows).square().sum(dim=(0, -1)).sqrt()


@gradient_reach.misconception(
    hint="`.grad` is added to, never replaced: after several `backward()` you read a sum, of earlier calls too.",
    symptom="Larger with each call, and the rows of the Jacobian are summed before the norm is taken.",
    seen="https://github.com/jacobgil/pytorch-grad-cam/issues/44",
)
def gradients_pile_up_in_the_input(model, x):
    x.requires_grad_()
    for out in model(x)[..., -1, :].unbind(-1):
        out.sum().backward(retain_graph=True)
    return x.grad.norm(dim=-1)


@gradient_reach.misconception(
    hint="A norm ends with a root. You give its square.",
    symptom="Distant tokens look far too faint: an exponent of −4 where −2 is right.",
)
def root_left_out(model, x):
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    return torch.stack(rows).square().sum(dim=(0, -1))


@gradient_reach.misconception(
    hint="You take the norm of each row and add the norms up. Add the squares up, and take one root at the end.",
    symptom="Too large, the more so the wider the output is; right if it has width 1.",
)
def norms_of_the_rows_added(model, x):
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    return torch.stack(rows).norm(dim=-1).sum(0)


@gradient_reach.misconception(
    hint="You take the mean of the entries' sizes. The Frobenius norm is the root of the sum of their squares.",
    symptom="Smaller, the more so the wider the model is.",
)
def mean_of_the_entries(model, x):
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    return torch.stack(rows).abs().mean(dim=(0, -1))


@gradient_reach.misconception(
    hint="You give the largest entry. The Frobenius norm counts all of them.",
    symptom="A little too small everywhere; right where the Jacobian is a single number.",
)
def largest_entry_alone(model, x):
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    return torch.stack(rows).abs().amax(dim=(0, -1))


@gradient_reach.misconception(
    hint="That is the largest singular value (`ord=2`). The Frobenius norm sums the squares of all entries.",
    symptom="A little too small, and right where the output or the input has width 1.",
)
def spectral_norm(model, x):
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    blocks = torch.stack(rows, dim=-2).to(torch.promote_types(x.dtype, torch.float32))
    return torch.linalg.matrix_norm(blocks, ord=2).to(x.dtype)


@gradient_reach.misconception(
    hint="Your norm runs over the tokens. One number for each *token* is asked for, over the components.",
    symptom="The result has as many numbers as a token has components.",
)
def norm_over_the_tokens(model, x):
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    return torch.stack(rows).square().sum(dim=(0, -2)).sqrt()


@gradient_reach.misconception(
    hint="You give one number for the whole sequence. Each token has a block of the Jacobian, and a norm, of its own.",
    symptom="One axis is missing, and what one wanted to see, how the reach changes with distance, is gone.",
)
def one_norm_for_the_sequence(model, x):
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    return torch.stack(rows).square().sum(dim=(0, -1, -2)).sqrt()


@gradient_reach.misconception(
    hint="You multiply the gradient by the input. That is another measure; here x only marks the spot.",
    symptom="A token of zeros gets 0, however much depends on it.",
)
def gradient_times_input(model, x):
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] * x for out in last.unbind(-1)]
    return torch.stack(rows).square().sum(dim=(0, -1)).sqrt()


@gradient_reach.misconception(
    hint="You divide by the largest. The norms themselves are asked for, so that models can be compared.",
    symptom="The largest is always 1, and a model that has vanished altogether looks as lively as any.",
)
def largest_set_to_one(model, x):
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    reach = torch.stack(rows).square().sum(dim=(0, -1)).sqrt()
    return reach / reach.amax(dim=-1, keepdim=True)


@gradient_reach.misconception(
    hint="The result still hangs on the graph (`create_graph=True`, or no `detach()`), which stays in memory.",
    symptom="The numbers are right, `requires_grad` is True, and memory grows from call to call.",
    seen="https://github.com/meta-pytorch/captum/issues/793",
)
def reach_still_attached(model, x):
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, create_graph=True)[0] for out in last.unbind(-1)]
    return torch.stack(rows).square().sum(dim=(0, -1)).sqrt()


@gradient_reach.misconception(
    hint="You switch the weights' gradients off and leave them off: the model can't be trained any more.",
    symptom="The numbers are right. The next `loss.backward()` finds nothing to learn.",
)
def weights_left_frozen(model, x):
    for weight in model.parameters():
        weight.requires_grad_(False)
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    return torch.stack(rows).square().sum(dim=(0, -1)).sqrt()


@gradient_reach.misconception(
    hint="`model.eval()` stays after you are gone. No derivative needs it here; whoever does, puts the mode back.",
    symptom="The numbers are right. The model's owner trains on without dropout, and never learns why.",
)
def model_left_in_eval_mode(model, x):
    model.eval()
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    return torch.stack(rows).square().sum(dim=(0, -1)).sqrt()


@gradient_reach.misconception(
    hint="At the end you switch the model to train mode, whatever mode it came in. Look at `model.training` first.",
    symptom="The numbers are right. A model in eval mode has dropout in all that follows.",
)
def model_left_in_train_mode(model, x):
    model.eval()
    given = x.detach().requires_grad_()
    last = model(given)[..., -1, :]
    rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in last.unbind(-1)]
    model.train()
    return torch.stack(rows).square().sum(dim=(0, -1)).sqrt()


@gradient_reach.misconception(
    hint="A difference quotient is near the derivative, not equal to it. Let autograd do it.",
    symptom="Half of the digits are right in float64, few in float32, and none in bfloat16.",
)
def by_difference_quotients(model, x):
    step = 1e-4
    squares = torch.zeros_like(x[..., 0])
    with torch.no_grad():
        before = model(x)[..., -1, :]
        for t in range(x.shape[-2]):
            for i in range(x.shape[-1]):
                moved = x.clone()
                moved[..., t, i] += step
                squares[..., t] += ((model(moved)[..., -1, :] - before) / step).square().sum(-1)
    return squares.sqrt()


@gradient_reach.misconception(
    hint="You measure how each token reaches its *own* output. What reaches the last one is asked for.",
    symptom="Flat for every recurrence: nothing seems to vanish.",
)
def each_token_on_its_own_output(model, x):
    given = x.detach().requires_grad_()
    outputs = model(given)
    norms = []
    for t in range(x.shape[-2]):
        rows = [torch.autograd.grad(out.sum(), given, retain_graph=True)[0] for out in outputs[..., t, :].unbind(-1)]
        norms.append(torch.stack(rows)[..., t, :].square().sum(dim=(0, -1)).sqrt())
    return torch.stack(norms, dim=-1)
