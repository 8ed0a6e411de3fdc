"""The exams of *generation*: which tokens may be drawn, how they are drawn, and the loop that writes.

Where logits tie at a filter's border public code does either, keep all that tie or as many as fit: no case has ties
there. Nor has one a sum of probabilities so near to p that rounding decides, in any of the tested dtypes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.answer.toys import build
from autograder.engine.checks import Habits, Properties, Values, counterexample
from autograder.engine.exam import Case, Draw, Exam, Model, Nudge, Seeded, as_is
from autograder.engine.subject import Call

TOPIC = "generation"
MESH_164 = "https://github.com/kingoflolz/mesh-transformer-jax/issues/164"
FISH_1171 = "https://github.com/fishaudio/fish-speech/pull/1171"
FISH_1326 = "https://github.com/fishaudio/fish-speech/pull/1326"
PALM_60 = "https://github.com/lucidrains/PaLM-rlhf-pytorch/issues/60"
LATTICE_312 = "https://github.com/ohdearquant/lattice/issues/312"

# The smallest step between two logits, of numbers below 8: bfloat16 still tells them apart.
APART = 0.15
# How far p is from every sum of probabilities at the border of a nucleus: several roundings in bfloat16.
MARGIN = 0.03


def _apart(draw: Draw, *shape: int) -> Tensor:
    """Logits of which no two in a row are closer than ``APART``, in random order."""
    vocab = shape[-1]
    steps = (torch.arange(vocab, dtype=torch.float64) - vocab / 2) * 1.6 * APART
    levels = steps + draw.uniform(0, 0.6 * APART, *shape)
    return levels.gather(-1, draw.normal(*shape).argsort(-1))


# Top-k, by definition: a token stays if fewer than k have a larger logit.


def _top_k_reference(logits: Tensor, k: int) -> Tensor:
    larger = (logits.unsqueeze(-2) > logits.unsqueeze(-1)).sum(-1)
    return torch.where(larger < k, logits, -math.inf)


def _top_k_naive(logits: Tensor, k: int, nudge: Nudge = as_is) -> Tensor:
    largest = logits.topk(min(k, logits.shape[-1])).values
    return torch.where(logits >= largest[..., -1:], nudge(logits), -math.inf)


def _top_k_cases(draw: Draw) -> Iterator[Case]:
    yield Case("one row", (_apart(draw, 7), 3))
    yield Case("a batch", (_apart(draw, 4, 6), 2))
    yield Case("a batch as large as the vocabulary", (_apart(draw, 5, 5), 3))
    yield Case("a batch of one", (_apart(draw, 1, 6), 4))
    yield Case("two leading axes", (_apart(draw, 2, 3, 5), 2))
    yield Case("k by name", (_apart(draw, 2, 6),), {"k": 5})
    # One row's tokens are all larger than another's: what is kept is each row's own affair.
    yield Case("rows of different height", (_apart(draw, 3, 6) + 4 * torch.arange(3).unsqueeze(-1), 2))
    yield Case("columns stored as rows", (_apart(draw, 3, 2, 7), 3), layout="transposed")
    yield Case("every second number of a row", (_apart(draw, 3, 8), 4), layout="strided")
    yield Case("all logits negative", (_apart(draw, 2, 6) - 5, 2))
    yield Case("a larger vocabulary", (_apart(draw, 2, draw.integer(25, 30)), 10))
    yield Case("logits of ±1e4", (2e3 * _apart(draw, 2, 8) / APART / 1.6, 3))
    edge = partial(Case, check="edge cases")
    yield edge("k = 1", (_apart(draw, 3, 5), 1))
    yield edge("all but one", (_apart(draw, 3, 5), 4))
    yield edge("as many as there are", (_apart(draw, 3, 5), 5))
    yield edge("more than there are", (_apart(draw, 3, 5), 50))
    yield edge("a vocabulary of one token", (_apart(draw, 2, 1), 1))
    yield edge("some tokens are out already", (_some_out(draw, 3, 6), 2))
    yield edge("fewer than k are left", (_some_out(draw, 3, 6), 5))
    wrong = partial(Case, check="k less than 1", raises=ValueError)
    yield wrong("no token at all", (_apart(draw, 2, 5), 0), says="0")
    yield wrong("a negative k", (_apart(draw, 2, 5), -7), says="-7")


def _some_out(draw: Draw, *shape: int) -> Tensor:
    """Logits of which two in each row are −inf already."""
    places = draw.normal(*shape).argsort(-1)[..., :2]
    return _apart(draw, *shape).scatter(-1, places, -math.inf)


top_k_filter = Exam(
    TOPIC,
    "top_k_filter",
    _top_k_reference,
    _top_k_naive,
    _top_k_cases,
    # No gradients, here and below: nothing is sent back through a draw.
    (Values("values", 2), Values("edge cases", 0.75), Values("k less than 1", 0.5), Habits(0.75)),
)


@top_k_filter.variant
def below_the_kth_hidden(logits, k):
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    largest = logits.topk(min(k, logits.shape[-1]), dim=-1).values
    return logits.masked_fill(logits < largest[..., -1:], -math.inf)


@top_k_filter.variant
def scattered_into_minus_infinity(logits, k):
    if k <= 0:
        raise ValueError(f"top-k needs k > 0, got {k}")
    values, places = torch.topk(logits, min(k, logits.size(-1)), dim=-1)
    return torch.full_like(logits, float("-inf")).scatter(-1, places, values)


@top_k_filter.variant
def rank_of_each_token(logits, k):
    if k < 1:
        raise ValueError(f"{k} tokens")
    rank = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
    return torch.where(rank < k, logits, -torch.inf)


@top_k_filter.variant
def kth_value_from_below(logits, k):
    if not k >= 1:
        raise ValueError(f"k = {k}")
    vocab = logits.shape[-1]
    if k >= vocab:
        return logits.clone()
    kth = logits.kthvalue(vocab - k + 1, dim=-1, keepdim=True).values
    return torch.where(logits >= kth, logits, torch.full_like(logits, -math.inf))


@top_k_filter.variant
def row_after_row(logits, k):
    if k < 1:
        raise ValueError(f"k={k}, but at least one token has to be left")
    rows = logits.reshape(-1, logits.shape[-1])
    kept = torch.full_like(rows, -math.inf)
    for row, out in zip(rows, kept):
        places = row.sort(descending=True).indices[:k]
        out[places] = row[places]
    return kept.reshape(logits.shape)


@top_k_filter.variant
def bias_of_minus_infinity(logits, k):
    if k < 1:
        raise ValueError(f"k is {k}")
    places = logits.topk(min(k, logits.shape[-1]), dim=-1).indices
    bias = torch.full_like(logits, -math.inf).scatter(-1, places, 0.0)
    return logits + bias


@top_k_filter.variant
def a_copy_written_into(logits, k):
    if k < 1:
        raise ValueError(f"top-k of {k}")
    kept = logits.clone()
    threshold = kept.sort(dim=-1).values[..., -min(k, kept.shape[-1])].unsqueeze(-1)
    kept[kept < threshold] = -math.inf
    return kept


@top_k_filter.misconception(
    hint="k + 1 tokens stay. Counted from 0, the k-th largest has the index k − 1.",
    symptom="With k = 1 there is still a choice between two tokens.",
    seen=MESH_164,
)
def one_token_too_many(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    rank = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
    return logits.masked_fill(rank > k, -math.inf)


@top_k_filter.misconception(
    hint="k − 1 tokens stay: the k-th largest itself is dropped. Is your comparison strict on the right side?",
    symptom="With k = 1 nothing is left, and softmax gives NaN.",
)
def kth_token_dropped(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    largest = logits.topk(min(k, logits.shape[-1])).values
    return logits.masked_fill(logits <= largest[..., -1:], -math.inf)


@top_k_filter.misconception(
    hint="The threshold is the row's largest logit, not its k-th: `topk` sorts in descending order. Which end is the "
    "k-th?",
    symptom="One token stays, whatever k is: sampling has become greedy.",
    seen="https://github.com/fluxions-ai/vui/pull/32",
)
def threshold_is_the_largest(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    largest = logits.topk(min(k, logits.shape[-1])).values
    return logits.masked_fill(logits < largest[..., :1], -math.inf)


@top_k_filter.misconception(
    hint="You keep the k smallest logits. A larger logit is a likelier token.",
    symptom="The text consists of what the model thinks least likely.",
)
def smallest_kept(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    smallest = logits.topk(min(k, logits.shape[-1]), largest=False).values
    return logits.masked_fill(logits > smallest[..., -1:], -math.inf)


@top_k_filter.misconception(
    hint="You give the k values alone. Where they stood is lost, and with it which tokens they are: keep all places.",
    symptom="The result has k columns, and whoever draws from it gets a rank, not a token.",
)
def values_without_places(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    return logits.topk(min(k, logits.shape[-1])).values


@top_k_filter.misconception(
    hint="You leave the logits sorted. Column i belongs to token i: each has to go back to its own place.",
    symptom="Token 0 always gets the largest logit.",
)
def left_in_sorted_order(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    ordered = logits.sort(dim=-1, descending=True).values
    return ordered.masked_fill(torch.arange(logits.shape[-1], device=logits.device) >= k, -math.inf)


@top_k_filter.misconception(
    hint="You set the dropped logits to 0. A logit of 0 has the exponential 1: that is no small probability.",
    symptom="Dropped tokens are drawn all the same, and where all logits are negative they win.",
)
def dropped_to_zero(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    largest = logits.topk(min(k, logits.shape[-1])).values
    return logits.masked_fill(logits < largest[..., -1:], 0.0)


@top_k_filter.misconception(
    hint="A large negative number is asked for nowhere: −inf is. It stays −inf whatever is divided, added or filtered "
    "next.",
    symptom="Mostly harmless; it stops being so where logits are as large, and in float16 it overflows.",
)
def dropped_to_minus_ten_thousand(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    largest = logits.topk(min(k, logits.shape[-1])).values
    return logits.masked_fill(logits < largest[..., -1:], -1e4)


@top_k_filter.misconception(
    hint="−1e9 is very small, but it is a number: asked for is −inf, which stays −inf whatever is divided, added or "
    "filtered next.",
    symptom="Mostly harmless. Where a later filter asks which tokens are out, none is, and in float16 it overflows.",
)
def dropped_to_minus_a_billion(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    largest = logits.topk(min(k, logits.shape[-1])).values
    return logits.masked_fill(logits < largest[..., -1:], -1e9)


@top_k_filter.misconception(
    hint="`torch.finfo(…).min` is the smallest number, but it is a number: asked for is −inf, which stays −inf "
    "whatever is divided, added or filtered next.",
    symptom="Right after softmax. Divided by a temperature below 1 some of it is −inf and some of it not.",
)
def dropped_to_the_smallest_number(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    largest = logits.topk(min(k, logits.shape[-1])).values
    return logits.masked_fill(logits < largest[..., -1:], torch.finfo(logits.dtype).min)


@top_k_filter.misconception(
    hint="You give probabilities. A filter takes logits and gives logits; softmax comes once, at the very end.",
    symptom="Whoever applies softmax to them, as everybody does, gets something nearly uniform.",
)
def probabilities_for_logits(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    largest = logits.topk(min(k, logits.shape[-1])).values
    return torch.softmax(logits.masked_fill(logits < largest[..., -1:], -math.inf), dim=-1)


@top_k_filter.misconception(
    hint="You take the k largest of the whole tensor. Each row is another text, with k tokens of its own.",
    symptom="Right for one row. In a batch some rows keep too many tokens, and others none.",
)
def largest_of_the_whole_batch(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    if k >= logits.shape[-1]:
        return logits.clone()
    return logits.masked_fill(logits < logits.flatten().topk(k).values[-1], -math.inf)


@top_k_filter.misconception(
    hint="All rows are measured by one row's k-th logit. Keep the axis, so that each row meets its own threshold.",
    symptom="Right for a batch of one; other rows keep too many tokens, or none.",
    seen="https://github.com/huggingface/transformers/pull/338",
)
def threshold_of_the_first_row(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    largest = logits.topk(min(k, logits.shape[-1])).values
    return logits.masked_fill(logits < largest.reshape(-1, largest.shape[-1])[0, -1], -math.inf)


@top_k_filter.misconception(
    hint="`values[-1]` is the last *row* of a batch, with its k values. The k-th value of each row is `[..., -1:]`.",
    symptom="Right for one row. In a batch an error, or columns measured by different thresholds.",
)
def last_row_for_last_column(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    largest = logits.topk(min(k, logits.shape[-1])).values
    return logits.masked_fill(logits < largest[-1], -math.inf)


@top_k_filter.misconception(
    hint="`[:, -1]` counts axes from the front: it needs exactly one batch axis. Count from behind, `[..., -1:]`.",
    symptom="Right on (batch, vocab). An error on one row, and the wrong axis with two leading ones.",
)
def top_k_of_one_batch_axis_only(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    largest = logits.topk(min(k, logits.shape[-1])).values
    return logits.masked_fill(logits < largest[:, -1].unsqueeze(1), -math.inf)


@top_k_filter.misconception(
    hint="`topk` refuses a k that is larger than the vocabulary. Then all tokens stay.",
    symptom="RuntimeError: selected index k out of range.",
    seen="https://github.com/TransformerLensOrg/TransformerLens/pull/1347",
)
def k_beyond_the_vocabulary(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    return logits.masked_fill(logits < logits.topk(k).values[..., -1:], -math.inf)


@top_k_filter.misconception(
    hint="Nothing stops k = 0, which leaves no token, or a negative one: raise a `ValueError` with the number.",
    symptom="−inf everywhere, NaN after softmax, and an error far away from its cause.",
    seen="https://github.com/google-deepmind/gemma/pull/789",
)
def any_k_taken(logits, k):
    rank = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
    return logits.masked_fill(rank >= k, -math.inf)


@top_k_filter.misconception(
    hint="You take k = 0, or a negative k, for *all tokens*. Libraries that do so have no None. Here it is a mistake: "
    "raise a `ValueError`.",
    symptom="A computed k that came out as 0 switches the filter off without a word.",
)
def zero_means_no_filter(logits, k):
    if k <= 0:
        return logits.clone()
    return logits.masked_fill(logits < logits.topk(min(k, logits.shape[-1])).values[..., -1:], -math.inf)


@top_k_filter.misconception(
    hint="You write −inf into the tensor that you were given. Work on a copy: `masked_fill` without the underscore.",
    symptom="The caller's logits are spoilt: a second filter, or the loss, meets −inf.",
    seen="https://github.com/vllm-project/vllm/pull/15478",
)
def callers_logits_overwritten(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    largest = logits.topk(min(k, logits.shape[-1])).values[..., -1:].clone()
    logits[logits < largest] = -math.inf
    return logits


@top_k_filter.misconception(
    hint="`torch.full(shape, −inf)` is float32 whatever the logits are. `torch.full_like`, or `new_full`, keeps the "
    "dtype.",
    symptom="float64 comes out as float32, with half its digits; half precision comes out wider.",
)
def top_k_in_float32(logits, k):
    if k < 1:
        raise ValueError(f"k = {k}")
    values, places = logits.topk(min(k, logits.shape[-1]))
    return torch.full(logits.shape, -math.inf, device=logits.device).scatter(-1, places, values.float())


# Top-p, by definition: a token stays if the more likely ones have less than p together.


def _top_p_reference(logits: Tensor, p: float) -> Tensor:
    probabilities = torch.softmax(logits, dim=-1)
    larger = logits.unsqueeze(-2) > logits.unsqueeze(-1)
    return torch.where((larger * probabilities.unsqueeze(-2)).sum(-1) < p, logits, -math.inf)


def _top_p_naive(logits: Tensor, p: float, nudge: Nudge = as_is) -> Tensor:
    kept = _top_p_reference(logits, p).isfinite()
    return torch.where(kept, nudge(logits), -math.inf)


def _nucleus(draw: Draw, p: float, *shape: int, scale: float = 1.5) -> Tensor:
    """Logits of random spread, redrawn until neither rounding nor a tie could move the border of a nucleus."""
    rows: list[Tensor] = []
    while len(rows) < math.prod(shape[:-1]):
        row = draw.normal(shape[-1], scale=scale * float(draw.uniform(0.5, 1.5, 1)))
        ordered = row.sort(descending=True).values
        sums = torch.softmax(ordered, dim=-1).cumsum(-1)
        last = int((sums < p).sum())  # the one that crosses p
        apart = last + 1 == len(row) or ordered[last] - ordered[last + 1] > APART
        if apart and bool(((sums - p).abs() > MARGIN).all()):
            rows.append(row)
    return torch.stack(rows).reshape(shape)


def _top_p_cases(draw: Draw) -> Iterator[Case]:
    yield Case("one row", (_nucleus(draw, 0.7, 6), 0.7))
    yield Case("a batch", (_nucleus(draw, 0.6, 4, 6), 0.6))
    yield Case("a batch as large as the vocabulary", (_nucleus(draw, 0.8, 5, 5), 0.8))
    yield Case("a batch of one", (_nucleus(draw, 0.75, 1, 6), 0.75))
    yield Case("two leading axes", (_nucleus(draw, 0.5, 2, 3, 5), 0.5))
    yield Case("p by name", (_nucleus(draw, 0.7, 2, 6),), {"p": 0.7})
    yield Case("three tokens of ten in every hundred", (_known(draw, 3, (0.4, 0.3, 0.2, 0.1)), 0.8))
    yield Case("columns stored as rows", (_nucleus(draw, 0.6, 3, 2, 6), 0.6), layout="transposed")
    yield Case("every second number of a row", (_nucleus(draw, 0.7, 3, 6), 0.7), layout="strided")
    yield Case("all logits far below zero", (_nucleus(draw, 0.7, 3, 6) - 1000, 0.7), coarse=False)
    yield Case("a larger vocabulary", (_nucleus(draw, 0.6, 2, draw.integer(25, 30), scale=2), 0.6))
    yield Case("logits of ±1e4", (2e3 * _apart(draw, 2, 8) / APART / 1.6, 0.9))
    edge = partial(Case, check="edge cases")
    yield edge("the first token alone reaches p", (_known(draw, 3, (0.6, 0.2, 0.15, 0.05)), 0.5))
    yield edge("p = 1e-6 keeps one token", (_known(draw, 3, (0.4, 0.3, 0.2, 0.1)), 1e-6))
    yield edge("p = 1 keeps every token", (_known(draw, 3, (0.4, 0.3, 0.2, 0.1)), 1.0))
    yield edge("p = 1, as a whole number", (_known(draw, 2, (0.5, 0.3, 0.2)), 1))
    yield edge("all but the last", (_known(draw, 2, (0.4, 0.3, 0.2, 0.1)), 0.85))
    yield edge("nearly everything", (_known(draw, 2, (0.6, 0.3, 0.07, 0.03)), 0.985), coarse=False)
    yield edge("a vocabulary of one token", (_apart(draw, 2, 1), 0.3))
    out = torch.full((3, 2), -math.inf, dtype=torch.float64)
    yield edge("some tokens are out already", (torch.cat([out, _known(draw, 3, (0.5, 0.3, 0.2))], -1), 0.7))
    wrong = partial(Case, check="p outside of (0, 1]", raises=ValueError)
    yield wrong("p = 0", (draw.normal(2, 5), 0.0), says="0")
    yield wrong("a negative p", (draw.normal(2, 5), -0.25), says="-0.25")
    yield wrong("a p in per cent", (draw.normal(2, 5), 95), says="95")


def _known(draw: Draw, rows: int, probabilities: tuple[float, ...]) -> Tensor:
    """Rows of these probabilities, each in another random order, moved up or down by another constant."""
    logits = torch.tensor(probabilities, dtype=torch.float64).log().expand(rows, -1)
    order = draw.normal(rows, len(probabilities)).argsort(-1)
    return logits.gather(-1, order) + draw.uniform(-2, 2, rows, 1)


top_p_filter = Exam(
    TOPIC,
    "top_p_filter",
    _top_p_reference,
    _top_p_naive,
    _top_p_cases,
    (Values("values", 2), Values("edge cases", 1), Values("p outside of (0, 1]", 0.5), Habits(0.5)),
)


@top_p_filter.variant
def less_than_p_before_it(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p} is not in (0, 1]")
    ordered, places = logits.sort(dim=-1, descending=True)
    probabilities = torch.softmax(ordered, dim=-1)
    ordered = ordered.masked_fill(probabilities.cumsum(-1) - probabilities >= p, -math.inf)
    return torch.empty_like(logits).scatter(-1, places, ordered)


@top_p_filter.variant
def mask_shifted_by_one(logits, p):
    if p <= 0 or p > 1:
        raise ValueError(f"top-p needs 0 < p <= 1, got {p}")
    ordered, places = torch.sort(logits, descending=True, dim=-1)
    beyond = torch.softmax(ordered, dim=-1).cumsum(dim=-1) > p
    remove = torch.zeros_like(beyond)
    remove[..., 1:] = beyond[..., :-1]
    return logits.masked_fill(torch.zeros_like(remove).scatter(-1, places, remove), float("-inf"))


@top_p_filter.variant
def tail_in_ascending_order(logits, p):
    if not 0.0 < p <= 1.0:
        raise ValueError(f"p={p}")
    if p == 1:
        return logits.clone()
    ordered, places = logits.sort(dim=-1)
    tail = torch.softmax(ordered.float(), dim=-1).cumsum(dim=-1) <= 1 - p
    tail[..., -1] = False
    return logits.masked_fill(tail.scatter(-1, places, tail), -math.inf)


@top_p_filter.variant
def order_undone_by_argsort(logits, p):
    if not (p > 0 and p <= 1):
        raise ValueError(f"a p of {p} can't be reached")
    places = logits.argsort(dim=-1, descending=True)
    probabilities = torch.softmax(logits, dim=-1).gather(-1, places)
    keep = (probabilities.cumsum(-1) - probabilities) < p
    keep = keep.gather(-1, places.argsort(dim=-1))
    return torch.where(keep, logits, torch.full_like(logits, -math.inf))


@top_p_filter.variant
def smallest_logit_of_the_nucleus(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"{p} is not in (0, 1]")
    ordered = logits.sort(dim=-1, descending=True).values
    sums = torch.softmax(ordered.double(), dim=-1).cumsum(-1)
    size = (sums < p).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    return logits.masked_fill(logits < ordered.gather(-1, size), -math.inf)


@top_p_filter.variant
def token_after_token(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p is {p}")
    rows = logits.reshape(-1, logits.shape[-1])
    kept = torch.full_like(rows, -math.inf)
    for row, out in zip(rows, kept):
        probabilities, reached = torch.softmax(row.double(), dim=-1), 0.0
        for token in probabilities.argsort(descending=True).tolist():
            out[token] = row[token]
            reached += probabilities[token].item()
            if reached >= p and p < 1:
                break
    return kept.reshape(logits.shape)


@top_p_filter.variant
def pairs_compared(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}: a probability above 0 is asked for")
    probabilities = torch.softmax(logits, dim=-1)
    larger = (logits[..., None, :] > logits[..., :, None]).to(logits.dtype)
    before = (larger @ probabilities.unsqueeze(-1)).squeeze(-1)
    return torch.where(before < p, logits, -math.inf)


@top_p_filter.misconception(
    hint="The token that crosses p is dropped: your tokens have less than p together. The nucleus is to *reach* p.",
    symptom="One token too few in nearly every row, and text that is tamer than p says.",
    seen=FISH_1171,
)
def crossing_token_dropped(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    drop = torch.softmax(ordered, dim=-1).cumsum(-1) > p
    drop[..., 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, places, drop), -math.inf)


@top_p_filter.misconception(
    hint="The token that crosses p is dropped, and where the first one crosses it at once, nothing is left at all.",
    symptom="Where the model is sure of itself all logits are −inf, and softmax gives NaN.",
)
def nothing_left_when_sure(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    drop = torch.softmax(ordered, dim=-1).cumsum(-1) > p
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, places, drop), -math.inf)


@top_p_filter.misconception(
    hint="One token too many: you keep the one after the token that crosses p. Has the mask been moved twice?",
    symptom="A tiny p still leaves a choice between two tokens.",
)
def one_beyond_the_nucleus(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    probabilities = torch.softmax(ordered, dim=-1)
    before = probabilities.cumsum(-1) - probabilities
    drop = torch.zeros_like(ordered, dtype=torch.bool)
    drop[..., 1:] = before[..., :-1] >= p
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, places, drop), -math.inf)


@top_p_filter.misconception(
    hint="The mask is made for sorted logits and laid on unsorted ones. Bring it back to the tokens' own places first.",
    symptom="As many tokens as there should be, but the wrong ones; right where logits happen to be sorted.",
    seen=PALM_60,
)
def sorted_mask_on_unsorted_logits(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    probabilities = torch.softmax(logits.sort(dim=-1, descending=True).values, dim=-1)
    return logits.masked_fill(probabilities.cumsum(-1) - probabilities >= p, -math.inf)


@top_p_filter.misconception(
    hint="Sorted logits are sent to their places by `scatter`. You use `gather`, which fetches *from* places.",
    symptom="Every logit is there, most of them at another token's place.",
)
def gathered_for_scattered(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    probabilities = torch.softmax(ordered, dim=-1)
    ordered = ordered.masked_fill(probabilities.cumsum(-1) - probabilities >= p, -math.inf)
    return ordered.gather(-1, places)


@top_p_filter.misconception(
    hint="`logits[places]` speaks of *rows* as soon as there is a batch. `scatter` writes along the last axis.",
    symptom="Right for one row. In a batch whole rows are lost, or an index is out of range.",
)
def places_taken_for_rows(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    probabilities, places = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True)
    kept = logits.clone()
    kept[places[probabilities.cumsum(-1) - probabilities >= p]] = -math.inf
    return kept


@top_p_filter.misconception(
    hint="You add the probabilities up in the order of the vocabulary. The most likely come first: sort.",
    symptom="Which tokens stay depends on the numbers that they happen to have.",
)
def summed_without_sorting(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    probabilities = torch.softmax(logits, dim=-1)
    return logits.masked_fill(probabilities.cumsum(-1) - probabilities >= p, -math.inf)


@top_p_filter.misconception(
    hint="You collect from the least likely token upwards. The nucleus begins with the most likely one: "
    "`descending=True`.",
    symptom="The tail stays, and the likeliest tokens are cut off.",
)
def least_likely_first(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1)
    probabilities = torch.softmax(ordered, dim=-1)
    ordered = ordered.masked_fill(probabilities.cumsum(-1) - probabilities >= p, -math.inf)
    return torch.empty_like(logits).scatter(-1, places, ordered)


@top_p_filter.misconception(
    hint="You compare each token's own probability with 1 − p. It is the sum, from the most likely on, that is to "
    "reach p.",
    symptom="Near to right in some rows. Where many tokens are equally likely, all of them go.",
)
def each_token_by_itself(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    return logits.masked_fill(torch.softmax(logits, dim=-1) < 1 - p, -math.inf)


@top_p_filter.misconception(
    hint="You keep what has at least p times the largest probability. That is a filter, too, called min-p; here it is "
    "the sum that counts.",
    symptom="With p = 0.9 hardly more than one token ever stays.",
)
def share_of_the_largest(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    probabilities = torch.softmax(logits, dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -math.inf)


@top_p_filter.misconception(
    hint="You add up logits. What is to reach p is a sum of probabilities: softmax comes first.",
    symptom="Moving all logits by a constant changes what stays.",
)
def logits_added_up(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= p, -math.inf)
    return torch.empty_like(logits).scatter(-1, places, ordered)


@top_p_filter.misconception(
    hint="`exp` without the shift overflows, or gives 0 everywhere. `torch.softmax` shifts by the row's maximum.",
    symptom="Right for small logits; large ones give NaN, no comparison with which is ever true.",
)
def exponentials_without_shift(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    exps = ordered.exp()
    probabilities = exps / exps.sum(-1, keepdim=True)
    ordered = ordered.masked_fill(~(probabilities.cumsum(-1) - probabilities < p), -math.inf)
    return torch.empty_like(logits).scatter(-1, places, ordered)


@top_p_filter.misconception(
    hint="`drop[0] = False` is meant for the first *token*. With a batch it is the first *row*: use `[..., 0]`.",
    symptom="Right for one row. In a batch the first row is not filtered at all, and in others nothing may be left.",
    seen=FISH_1326,
)
def first_row_for_first_token(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    sums = torch.softmax(ordered, dim=-1).cumsum(-1)
    drop = torch.zeros_like(ordered, dtype=torch.bool)
    drop[..., 1:] = sums[..., :-1] > p
    drop[0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, places, drop), -math.inf)


@top_p_filter.misconception(
    hint="All rows are put back by one row's order. Each row is sorted in its own way.",
    symptom="Right for a batch of one; in other rows the logits change places.",
    seen="https://github.com/Blaizzy/mlx-vlm/pull/1094",
)
def order_of_the_first_row(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    probabilities = torch.softmax(ordered, dim=-1)
    ordered = ordered.masked_fill(probabilities.cumsum(-1) - probabilities >= p, -math.inf)
    first = places.reshape(-1, places.shape[-1])[0].expand_as(places)
    return torch.empty_like(logits).scatter(-1, first, ordered)


@top_p_filter.misconception(
    hint="One size of nucleus for all rows: the largest. It is wide where the model is unsure and narrow where it is "
    "sure.",
    symptom="Right for one row. A batch with one unsure row filters like top-k.",
)
def one_size_for_all_rows(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered = logits.sort(dim=-1, descending=True).values
    size = int((torch.softmax(ordered, dim=-1).cumsum(-1) < p).sum(-1).max())
    size = min(size, logits.shape[-1] - 1)
    return logits.masked_fill(logits < ordered[..., size : size + 1], -math.inf)


@top_p_filter.misconception(
    hint="You set the dropped logits to 0. A logit of 0 has the exponential 1: that is no small probability.",
    symptom="The tail is drawn all the same, and where all logits are negative it wins.",
)
def tail_set_to_zero(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    probabilities = torch.softmax(ordered, dim=-1)
    ordered = ordered.masked_fill(probabilities.cumsum(-1) - probabilities >= p, 0.0)
    return torch.empty_like(logits).scatter(-1, places, ordered)


@top_p_filter.misconception(
    hint="−1e9 is very small, but it is a number: asked for is −inf, which stays −inf whatever is divided, added or "
    "filtered next.",
    symptom="Mostly harmless. Where a later filter asks which tokens are out, none is, and in float16 it overflows.",
)
def tail_set_to_minus_a_billion(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    shares = torch.softmax(ordered, dim=-1)
    ordered = ordered.masked_fill(shares.cumsum(-1) - shares >= p, -1e9)
    return torch.empty_like(logits).scatter(-1, places, ordered)


@top_p_filter.misconception(
    hint="`torch.finfo(…).min` is the smallest number, but it is a number: asked for is −inf, which stays −inf "
    "whatever is divided, added or filtered next.",
    symptom="Right after softmax. Divided by a temperature below 1 some of it is −inf and some of it not.",
)
def tail_set_to_the_smallest_number(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    shares = torch.softmax(ordered, dim=-1)
    ordered = ordered.masked_fill(shares.cumsum(-1) - shares >= p, torch.finfo(logits.dtype).min)
    return torch.empty_like(logits).scatter(-1, places, ordered)


@top_p_filter.misconception(
    hint="You give the nucleus's probabilities. A filter takes logits and gives logits; softmax comes once, at the "
    "end.",
    symptom="Whoever applies softmax to them, as everybody does, gets something nearly uniform.",
)
def nucleus_as_probabilities(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    probabilities = torch.softmax(ordered, dim=-1)
    ordered = ordered.masked_fill(probabilities.cumsum(-1) - probabilities >= p, -math.inf)
    return torch.softmax(torch.empty_like(logits).scatter(-1, places, ordered), dim=-1)


@top_p_filter.misconception(
    hint="You leave the logits sorted. Column i belongs to token i: each has to go back to its own place.",
    symptom="Token 0 always gets the largest logit.",
)
def nucleus_left_sorted(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered = logits.sort(dim=-1, descending=True).values
    probabilities = torch.softmax(ordered, dim=-1)
    return ordered.masked_fill(probabilities.cumsum(-1) - probabilities >= p, -math.inf)


@top_p_filter.misconception(
    hint="Any p is taken. 0 has no nucleus, and 95 is a percentage that keeps everything: raise a `ValueError`.",
    symptom="A p of 95, meant as 0.95, switches the filter off without a word.",
)
def any_p_taken(logits, p):
    ordered, places = logits.sort(dim=-1, descending=True)
    probabilities = torch.softmax(ordered, dim=-1)
    before = probabilities.cumsum(-1) - probabilities
    drop = before >= p
    drop[..., 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, places, drop), -math.inf)


@top_p_filter.misconception(
    hint="p = 1 is refused. It is a probability like any other, and keeps every token.",
    symptom="A ValueError for the default of most libraries.",
)
def one_is_refused(logits, p):
    if not 0 < p < 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    probabilities = torch.softmax(ordered, dim=-1)
    ordered = ordered.masked_fill(probabilities.cumsum(-1) - probabilities >= p, -math.inf)
    return torch.empty_like(logits).scatter(-1, places, ordered)


@top_p_filter.misconception(
    hint="You count axes from the front, dim=1. Tokens are on the last axis, dim=-1, whatever stands before it.",
    symptom="Right on (batch, vocab). An error on one row, and the wrong axis with two leading ones.",
)
def top_p_along_axis_one(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=1, descending=True)
    probabilities = torch.softmax(ordered, dim=1)
    ordered = ordered.masked_fill(probabilities.cumsum(1) - probabilities >= p, -math.inf)
    return torch.empty_like(logits).scatter(1, places, ordered)


@top_p_filter.misconception(
    hint="The mask is moved along axis 1, `[:, 1:]`, which are the tokens only behind exactly one batch axis. Count "
    "from behind, `[..., 1:]`.",
    symptom="Right on (batch, vocab). An error on one row, and the wrong axis with two leading ones.",
)
def mask_moved_along_axis_one(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    beyond = torch.softmax(ordered, dim=-1).cumsum(dim=-1) > p
    beyond[:, 1:] = beyond[:, :-1].clone()
    beyond[:, 0] = False
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, places, beyond), -math.inf)


@top_p_filter.misconception(
    hint="You write −inf into the tensor that you were given. Work on a copy: `masked_fill` without the underscore.",
    symptom="The caller's logits are spoilt: a second filter, or the loss, meets −inf.",
)
def callers_tail_overwritten(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.sort(dim=-1, descending=True)
    probabilities = torch.softmax(ordered, dim=-1)
    drop = probabilities.cumsum(-1) - probabilities >= p
    return logits.masked_fill_(torch.zeros_like(drop).scatter(-1, places, drop), -math.inf)


@top_p_filter.misconception(
    hint="A step of yours leaves float32 behind (`float()`, or a new tensor without dtype). Give the input's dtype "
    "back.",
    symptom="float64 comes out as float32, with half its digits; half precision comes out wider.",
)
def top_p_in_float32(logits, p):
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}")
    ordered, places = logits.float().sort(dim=-1, descending=True)
    probabilities = torch.softmax(ordered, dim=-1)
    ordered = ordered.masked_fill(probabilities.cumsum(-1) - probabilities >= p, -math.inf)
    return torch.empty_like(ordered).scatter(-1, places, ordered)


def temperature_first(logits: Tensor) -> Tensor:
    """Probabilities at temperature ½, of the nucleus for p = 0.8 that the divided logits have."""
    return torch.softmax(_top_p_reference(logits / 0.5, 0.8), dim=-1)


def temperature_last(logits: Tensor) -> Tensor:
    """Probabilities at temperature ½, of the nucleus for p = 0.8 that the logits had before."""
    return torch.softmax(_top_p_reference(logits, 0.8) / 0.5, dim=-1)


def _why_the_orders_agree(logits: Tensor) -> str:
    if logits.shape[-1] < 2:
        return "There is one token, which stays in any nucleus. What has to be there for a border to move?"
    if bool((logits == logits[..., :1]).all()):
        return "All logits are equal: divided by a temperature they are still equal."
    sizes = [_top_p_reference(each, 0.8).isfinite().sum(-1) for each in (logits, logits / 0.5)]
    if bool((sizes[0] == 1).all()):
        return "One token has 0.8 already, before any division, and the temperature gives it more yet."
    if bool((sizes[1] == logits.shape[-1]).all()):
        return "Every token stays, before the division and after: the logits are too close together."
    return "Both keep the same tokens: the sharper distribution reaches p with no token less."


find_order_that_matters = counterexample(
    TOPIC,
    "find_order_that_matters",
    temperature_first,
    temperature_last,
    because=_why_the_orders_agree,
    outputs=("logits",),
    most=2,
)


@find_order_that_matters.variant
def one_and_zero():
    return torch.tensor([1.0, 0.0])


@find_order_that_matters.variant
def three_to_one():
    return torch.log(torch.tensor([0.25, 0.75]))


@find_order_that_matters.variant
def whole_numbers_below_zero():
    return torch.tensor([-8, -7])


@find_order_that_matters.variant
def batch_of_one_row():
    return torch.tensor([[0.0, 1.2]], dtype=torch.float64)


@find_order_that_matters.misconception(
    hint="There is one token only. It stays in any nucleus: two are needed for a border to move between them.",
    symptom="A test with a vocabulary of one token passes any filter.",
)
def one_token_alone():
    return torch.tensor([1.0])


@find_order_that_matters.misconception(
    hint="Equal logits stay equal whatever they are divided by. One token has to be likelier than the other.",
    symptom="A test with zeros or ones sees shapes and nothing else.",
)
def equal_logits():
    return torch.zeros(2)


@find_order_that_matters.misconception(
    hint="One of the tokens reaches 0.8 without any division, so it is alone in both nuclei. Bring the logits closer.",
    symptom="Where the model is sure of itself, the order makes no difference.",
)
def sure_from_the_start():
    return torch.tensor([5.0, 0.0])


@find_order_that_matters.misconception(
    hint="The logits are so close that no token is dropped, before or after. Move them apart a little.",
    symptom="Where the model is quite unsure, the order makes no difference.",
)
def too_close_together():
    return torch.tensor([0.1, 0.0])


@find_order_that_matters.misconception(
    hint="They differ on it, but fewer tokens do. Can you leave one out, and still have a token to drop?",
    symptom="A counterexample that shows that something is wrong, not yet what.",
)
def more_tokens_than_needed():
    return torch.tensor([2.0, 1.0, 0.0])


@find_order_that_matters.misconception(
    hint="Those are whole tokens of a text. What is asked for are logits, and −inf or infinity is not needed for it.",
    symptom="Dropped tokens put in by hand: both functions leave them where they are.",
)
def already_filtered():
    return torch.tensor([1.0, -math.inf])


# The penalty, by definition: token by token.


def _penalty_reference(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    used = F.one_hot(tokens, logits.shape[-1]).bool().any(-2)
    factors = torch.where(logits > 0, 1 / penalty, penalty)
    return logits * torch.where(used, factors, 1.0)


def _penalty_naive(logits: Tensor, tokens: Tensor, penalty: float, nudge: Nudge = as_is) -> Tensor:
    used = F.one_hot(tokens, logits.shape[-1]).bool().any(-2)
    lowered = nudge(torch.where(logits > 0, logits / penalty, logits * penalty))
    return torch.where(used, lowered, logits)


def _text(draw: Draw, vocab: int, *shape: int) -> Tensor:
    return draw.uniform(0, vocab, *shape).long()


def _penalty_cases(draw: Draw) -> Iterator[Case]:
    yield Case("one row", (_apart(draw, 6), _text(draw, 6, 4), 1.5))
    yield Case("a batch", (_apart(draw, 4, 7), _text(draw, 7, 4, 3), 2.0))
    yield Case("a batch as large as the text", (_apart(draw, 3, 5), _text(draw, 5, 3, 3), 1.3))
    yield Case("a batch of one", (_apart(draw, 1, 6), _text(draw, 6, 1, 4), 1.2))
    yield Case("two leading axes", (_apart(draw, 2, 3, 8), _text(draw, 8, 2, 3, 4), 1.8))
    yield Case("penalty by name", (_apart(draw, 2, 6), _text(draw, 6, 2, 3)), {"penalty": 1.4})
    yield Case("one token again and again", (_apart(draw, 2, 5), torch.tensor([[3, 3, 3, 3], [0, 0, 1, 0]]), 2.0))
    # No token of one row occurs in the other, and each row has a token that its neighbour has not used.
    yield Case("each row another text", (_apart(draw, 2, 6), torch.tensor([[0, 2, 4], [5, 3, 1]]), 3.0))
    yield Case("a text longer than the vocabulary", (_apart(draw, 2, 4), _text(draw, 4, 2, 9), 1.6))
    yield Case("columns stored as rows", (_apart(draw, 2, 3, 6), _text(draw, 6, 2, 3, 4), 1.7), layout="transposed")
    yield Case("every second number of a row", (_apart(draw, 3, 6), _text(draw, 6, 3, 4), 1.7), layout="strided")
    yield Case("all logits positive", (_apart(draw, 2, 6) + 3, _text(draw, 6, 2, 3), 1.5))
    yield Case("all logits negative", (_apart(draw, 2, 6) - 5, _text(draw, 6, 2, 3), 1.5))
    yield Case("logits of ±1e4", (2e3 * _apart(draw, 2, 8) / APART / 1.6, _text(draw, 8, 2, 5), 1.5))
    edge = partial(Case, check="edge cases")
    yield edge("nothing written yet", (_apart(draw, 2, 5), torch.empty(2, 0, dtype=torch.long), 2.0))
    yield edge("one token written", (_apart(draw, 3, 5), _text(draw, 5, 3, 1), 2.0))
    yield edge("every token used", (_apart(draw, 2, 4), torch.tensor([[3, 1, 0, 2], [0, 1, 2, 3]]), 2.0))
    yield edge("a penalty of 1", (_apart(draw, 2, 5), _text(draw, 5, 2, 3), 1.0))
    yield edge("a penalty below 1, which rewards", (_apart(draw, 2, 5), _text(draw, 5, 2, 3), 0.5))
    yield edge("a whole number", (_apart(draw, 2, 5), _text(draw, 5, 2, 3), 2))
    yield edge("a token that is out already", (_some_out(draw, 2, 5), torch.tensor([[0, 1, 2, 3, 4]] * 2), 2.0))
    wrong = partial(Case, check="penalty not positive", raises=ValueError)
    yield wrong("a penalty of 0", (draw.normal(2, 5), _text(draw, 5, 2, 3), 0.0), says="0")
    yield wrong("a negative penalty", (draw.normal(2, 5), _text(draw, 5, 2, 3), -1.5), says="-1.5")


repetition_penalty = Exam(
    TOPIC,
    "repetition_penalty",
    _penalty_reference,
    _penalty_naive,
    _penalty_cases,
    (
        Values("values", 1.5),
        Values("edge cases", 0.5),
        Values("penalty not positive", 0.5),
        Habits(0.5),
    ),
)


@repetition_penalty.variant
def used_by_scatter(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    used = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, tokens, True)
    return torch.where(used, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


@repetition_penalty.variant
def gathered_and_scattered(logits, tokens, penalty):
    if not penalty > 0:
        raise ValueError(f"penalty has to be positive, not {penalty}")
    score = logits.gather(-1, tokens)
    score = torch.where(score < 0, score * penalty, score / penalty)
    return logits.scatter(-1, tokens, score)


@repetition_penalty.variant
def used_by_one_hot(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"a penalty of {penalty}")
    used = F.one_hot(tokens, num_classes=logits.shape[-1]).sum(dim=-2).clamp(max=1).bool()
    return torch.where(used & (logits > 0), logits / penalty, torch.where(used, logits * penalty, logits))


@repetition_penalty.variant
def positive_and_negative_part(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty={penalty}")
    lowered = logits.clamp(min=0) / penalty + logits.clamp(max=0) * penalty
    vocabulary = torch.arange(logits.shape[-1], device=logits.device)
    used = (tokens.unsqueeze(-1) == vocabulary).any(dim=-2)
    return lowered.where(used, logits)


@repetition_penalty.variant
def set_of_each_row(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty {penalty} is not positive")
    rows: list[Tensor] = []
    many = logits[..., 0].numel()
    for row, text in zip(logits.reshape(many, -1), tokens.reshape(many, tokens.shape[-1])):
        out = list(row.unbind())
        for token in set(text.tolist()):
            out[token] = out[token] / penalty if out[token] > 0 else out[token] * penalty
        rows.append(torch.stack(out))
    return torch.stack(rows).reshape(logits.shape)


@repetition_penalty.variant
def copy_written_where_used(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"{penalty} must be above zero")
    used = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    used.scatter_(-1, tokens, torch.ones_like(tokens, dtype=torch.bool))
    factor = torch.where(logits > 0, torch.full_like(logits, 1 / penalty), torch.full_like(logits, penalty))
    result = logits.clone()
    result[used] = logits[used] * factor[used]
    return result


@repetition_penalty.misconception(
    hint="You divide negative logits as well. −6 / 2 is −3, and that is *more* likely: a negative logit is multiplied.",
    symptom="The higher the penalty, the more the text repeats itself: “The dog dog dog dog”.",
    seen="https://github.com/huggingface/transformers/issues/2302",
)
def negative_logits_divided(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    return logits.scatter(-1, tokens, logits.gather(-1, tokens) / penalty)


@repetition_penalty.misconception(
    hint="A token that occurs three times is punished three times. Each used token counts once, however often.",
    symptom="Words like *the* become impossible in a long text.",
    seen=LATTICE_312,
)
def once_for_each_occurrence(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    times = torch.zeros_like(logits).scatter_add(-1, tokens, torch.ones_like(tokens, dtype=logits.dtype))
    return torch.where(logits > 0, logits / penalty**times, logits * penalty**times)


@repetition_penalty.misconception(
    hint="Every logit is changed. Only tokens that occur in the text pay.",
    symptom="It works like a temperature of sorts: the order of the tokens stays.",
)
def every_token_pays(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    return torch.where(logits > 0, logits / penalty, logits * penalty)


@repetition_penalty.misconception(
    hint="It is the tokens that do *not* occur which you change.",
    symptom="The text goes round in circles sooner than without.",
)
def unused_tokens_pay(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    used = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, tokens, True)
    return torch.where(used, logits, torch.where(logits > 0, logits / penalty, logits * penalty))


@repetition_penalty.misconception(
    hint="You multiply positive logits and divide negative ones: both become *more* likely.",
    symptom="The higher the penalty, the more the text repeats itself.",
)
def multiplied_and_divided_the_wrong_way(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    score = logits.gather(-1, tokens)
    return logits.scatter(-1, tokens, torch.where(score > 0, score * penalty, score / penalty))


@repetition_penalty.misconception(
    hint="You subtract the penalty. That is another rule, a *presence penalty*, whose neutral number is 0; here it is "
    "1.",
    symptom="A penalty of 1, which is to change nothing, makes repetition less likely.",
)
def subtracted(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    return logits.scatter(-1, tokens, logits.gather(-1, tokens) - penalty)


@repetition_penalty.misconception(
    hint="You subtract log(penalty), which divides the *odds* of a used token. A sound rule, but not the one asked "
    "for.",
    symptom="The effect of a penalty of 1.2 can hardly be seen.",
)
def logarithm_subtracted(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    return logits.scatter(-1, tokens, logits.gather(-1, tokens) - math.log(penalty))


@repetition_penalty.misconception(
    hint="The tokens of all rows are thrown together. A row pays for what it has written itself.",
    symptom="Right for a batch of one; in a batch the texts forbid each other their words.",
)
def all_rows_pay_for_all(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    used = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    used[tokens.flatten()] = True
    return torch.where(used, lowered, logits)


@repetition_penalty.misconception(
    hint="Only the last token pays. All tokens of the text so far do.",
    symptom="“the the” is gone, and “one two one two” goes on for ever.",
)
def last_token_only(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    last = tokens[..., -1:]
    score = logits.gather(-1, last)
    return logits.scatter(-1, last, torch.where(score > 0, score / penalty, score * penalty))


@repetition_penalty.misconception(
    hint="You normalise first: log-probabilities are all negative, so all are multiplied. The logits come as they are.",
    symptom="A sound rule of another strength; a penalty found elsewhere does not carry over.",
)
def applied_to_log_probabilities(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    scores = torch.log_softmax(logits, dim=-1)
    return scores.scatter(-1, tokens, scores.gather(-1, tokens) * penalty)


@repetition_penalty.misconception(
    hint="Used tokens are forbidden, −inf. They are to become less likely, by the factor that is given.",
    symptom="Every word once, and then nothing is left to say.",
)
def used_tokens_forbidden(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    if penalty == 1:
        return logits.clone()
    return logits.scatter(-1, tokens, -math.inf)


@repetition_penalty.misconception(
    hint="Any penalty is taken: 0 divides by zero, and a negative one turns the signs. Raise a `ValueError`.",
    symptom="Infinite logits, and NaN behind the softmax.",
)
def any_penalty_taken(logits, tokens, penalty):
    score = logits.gather(-1, tokens)
    return logits.scatter(-1, tokens, torch.where(score > 0, score / penalty, score * penalty))


@repetition_penalty.misconception(
    hint="A penalty below 1 is refused. It rewards repetition, which is unusual but well defined.",
    symptom="A ValueError for 0.5.",
)
def rewards_refused(logits, tokens, penalty):
    if penalty < 1:
        raise ValueError(f"penalty = {penalty}")
    score = logits.gather(-1, tokens)
    return logits.scatter(-1, tokens, torch.where(score > 0, score / penalty, score * penalty))


@repetition_penalty.misconception(
    hint="You write into the logits that you were given (`scatter_`). Work on a copy: without the underscore.",
    symptom="The caller's logits are spoilt, and penalised once more at the next call.",
)
def penalised_in_place(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    score = logits.gather(-1, tokens)
    return logits.scatter_(-1, tokens, torch.where(score > 0, score / penalty, score * penalty))


@repetition_penalty.misconception(
    hint="You index with the tokens row by row along the first axis, `range(batch)`: that needs exactly one batch "
    "axis.",
    symptom="Right on (batch, vocab). An error on one row, and on two leading axes.",
)
def penalty_needs_one_batch_axis(logits, tokens, penalty):
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty}")
    score = torch.gather(logits, 1, tokens)
    return torch.scatter(logits, 1, tokens, torch.where(score > 0, score / penalty, score * penalty))


# generate. What is not drawn is compared with the greedy text, what is drawn is known by its law: how often each token
# comes over many rows with one prompt, and how often each comes after each. A frequency over n rows strays from its
# probability q by more than 7 √(q (1 − q) / n) + 14 / n less than once in 10⁸ times (Bernstein's inequality). At q = ½
# that is 5 %; models are redrawn until every mistake that has a name would move some token by 10 %.
ROWS = 5000
FEWEST = 400
TOLD_APART = 0.1
VOCAB = 6


def _greedy(model: Callable[[Tensor], Tensor], tokens: Tensor, n_new: int) -> tuple[Tensor, float]:
    """The text of the most likely tokens, and by how much the nearest decision was won."""
    least = math.inf
    for _ in range(n_new):
        best = model(tokens)[:, -1].topk(2)
        least = min(least, float((best.values[:, 0] - best.values[:, 1]).min()))
        tokens = torch.cat([tokens, best.indices[:, :1]], dim=-1)
    return tokens, least


def _generate_reference(
    model: Callable[[Tensor], Tensor],
    tokens: Tensor,
    n_new: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    return _greedy(model, tokens, n_new)[0]


def _local(model: Model) -> Callable[[Tensor], Tensor]:
    """The model here, in float64."""
    weights = {name: weight.cpu().double() for name, weight in model.state.items()}
    return build(model.name, model.init, weights).requires_grad_(False)


def _decided(draw: Draw, batch: int, n: int, n_new: int, scale: float = 3.0) -> tuple[Model, Tensor, int]:
    """A model and prompts for which rounding decides nothing: no two tokens are nearly as likely on the greedy path."""
    while True:
        model = draw.toy("NextToken", scale=scale, vocab_size=VOCAB, d_model=8)
        tokens = _text(draw, VOCAB, batch, n)
        if _greedy(_local(model), tokens, n_new)[1] > 0.05:
            return model, tokens, n_new


def _remembering(draw: Draw) -> tuple[Model, Tensor, int]:
    """A model that never forgets how a text began, and prompts on which every cut to the last few tokens shows."""
    while True:
        model = draw.toy("NextToken", scale=1.5, vocab_size=VOCAB, d_model=8)
        # A state that is multiplied by 5 at each step keeps the sign of what it met first.
        model = replace(model, state={**model.state, "states.u": 5 * torch.eye(8, dtype=torch.float64)})
        tokens = _text(draw, VOCAB, 3, 80)
        text, least = _greedy(_local(model), tokens, 2)
        cut = (_greedy(_local(model), tokens[:, -n:], 2)[0] for n in (4, 8, 16, 32, 64))
        if least > 0.05 and not any(torch.equal(text[:, -2:], other[:, -2:]) for other in cut):
            return model, tokens, 2


def _law(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """The probabilities of the next token: temperature, then top-k, then top-p."""
    logits = logits / temperature
    logits = logits if top_k is None else _top_k_reference(logits, top_k)
    return torch.softmax(logits if top_p is None else _top_p_reference(logits, top_p), dim=-1)


Settings = dict[str, Any]


def _settings(call: Call) -> Settings:
    return {"temperature": 1.0, "top_k": None, "top_p": None} | {
        name: value for name, value in call.kwargs.items() if name != "generator"
    }


def _mistaken(model: Callable[[Tensor], Tensor], tokens: Tensor, settings: Settings) -> dict[str, Tensor]:
    """What known mistakes would make of the first new token: the probabilities, by the words for them."""
    logits, temperature, top_k, top_p = model(tokens)[:, -1], *settings.values()
    found = {
        "as the logits at the first place say, not those at the last": _law(model(tokens)[:, 0], *settings.values()),
        "as if the model had seen the last token alone": _law(model(tokens[:, -1:])[:, -1], *settings.values()),
        "as if softmax had been taken twice": torch.softmax(_law(logits, *settings.values()), dim=-1),
    }
    if temperature != 1:
        found["as if the temperature were 1"] = _law(logits, 1.0, top_k, top_p)
        found["as if logits were multiplied by the temperature"] = _law(logits, 1 / temperature, top_k, top_p)
    if top_k is not None:
        found["as if there were no top_k"] = _law(logits, temperature, None, top_p)
    if top_p is not None:
        # Where it leaves more than k tokens, a top_p that comes first is the same as none.
        too_early = "" if top_k is None else ", or as if it came before top_k"
        found[f"as if there were no top_p{too_early}"] = _law(logits, temperature, top_k, None)
    if top_k is not None or top_p is not None:
        found["as if all tokens that the filters leave were alike"] = F.normalize(
            (_law(logits, *settings.values()) > 0).double(), p=1, dim=-1
        )
    if temperature != 1 and top_p is not None:
        kept = logits if top_k is None else _top_k_reference(logits, top_k)
        found["as if the temperature came after the filters"] = _law(_top_p_reference(kept, top_p), temperature)
    if top_k is not None and top_p is not None:
        kept = _top_p_reference(logits / temperature, top_p)
        found["as if top_p came before top_k"] = _law(kept, 1.0, top_k)
    return found


def _telling(draw: Draw, **settings: Any) -> tuple[Model, Tensor, int]:
    """A model and two prompts with one last token, on which every known mistake shows."""
    full: Settings = {"temperature": 1.0, "top_k": None, "top_p": None} | settings
    while True:
        model = draw.toy("NextToken", scale=3.0, vocab_size=VOCAB, d_model=8)
        tokens = _text(draw, VOCAB, 2, 3)
        tokens[:, -1] = tokens[0, -1]
        right = _law(_local(model)(tokens)[:, -1], *full.values())
        if bool((right < 0.85).all()) and all(
            float((wrong - right).abs().max()) > TOLD_APART for wrong in _mistaken(_local(model), tokens, full).values()
        ):
            return model, tokens, 2


def _far(frequencies: Tensor, probabilities: Tensor, rows: int) -> bool:
    """Whether frequencies among so many rows can't come from these probabilities."""
    allowed = 7 * (probabilities * (1 - probabilities) / rows).sqrt() + 14 / rows
    return bool(((frequencies - probabilities).abs() > allowed).any())


def _frequencies(tokens: Tensor) -> Tensor:
    return tokens.bincount(minlength=VOCAB)[:VOCAB].double() / max(len(tokens), 1)


def _drawn_by_its_law(answer: Callable[..., Tensor], call: Call) -> str | None:
    given, tokens, n_new = call.args
    model, settings, prompts = _local(given), _settings(call), tokens.cpu()
    text = answer(given, tokens.repeat_interleave(ROWS, dim=0), n_new, **call.kwargs).cpu()
    if text.shape != (len(prompts) * ROWS, prompts.shape[1] + n_new):
        return "the result is not the prompt and n_new more tokens for each row"
    by_prompt = text.reshape(len(prompts), ROWS, -1)
    if not torch.equal(by_prompt[..., :-n_new], prompts.unsqueeze(1).expand(-1, ROWS, -1)):
        return "the result does not begin with the prompt"
    first, second = by_prompt[..., -n_new], by_prompt[..., -n_new + 1]
    right = _law(model(prompts)[:, -1], *settings.values())
    came = torch.stack([_frequencies(row) for row in first])
    if bool((came.amax(-1) == 1).all()):
        likeliest = torch.equal(came.argmax(-1), right.argmax(-1))
        return f"all rows of one prompt get one token{', the most likely one' if likeliest else ''}: nothing is drawn"
    if any(_far(one, law, ROWS) for one, law in zip(came, right, strict=True)):
        mistakes = _mistaken(model, prompts, settings)
        fits = (
            words
            for words, laws in mistakes.items()
            if not any(_far(one, law, ROWS) for one, law in zip(came, laws, strict=True))
        )
        return f"over many rows the first new token comes {next(fits, 'in other proportions than the logits say')}"
    for one, law in zip(first, right, strict=True):
        # Of two rows that know nothing of each other, the share that agree is the sum of the squared probabilities.
        agree, alike = (one[::2] == one[1::2]).double().mean(), (law**2).sum()
        if _far(agree, alike, ROWS // 2):
            return "over many rows each token comes as often as it should, but rows agree with their neighbours"
    return _second_by_its_law(model, prompts, settings, first, second)


def _second_by_its_law(
    model: Callable[[Tensor], Tensor], prompts: Tensor, settings: Settings, first: Tensor, second: Tensor
) -> str | None:
    told = "over many rows the first new token is right, the second one is not:"
    for prompt, one, two in zip(prompts, first, second, strict=True):
        for token in one.unique():
            after = two[one == token]
            if len(after) < FEWEST:
                continue
            longer = torch.cat([prompt, token.reshape(1)]).unsqueeze(0)
            if _far(_frequencies(after), _law(model(longer)[:, -1], *settings.values())[0], len(after)):
                unseen = _law(model(prompt.unsqueeze(0))[:, -1], *settings.values())[0]
                if not _far(_frequencies(two), unseen, len(two)):
                    return f"{told} it comes as if the model had not been shown the first"
                return f"{told} after a given first token it comes in other proportions than the logits say"
    return None


def _started(call: Call) -> torch.Generator:
    seeded = call.kwargs["generator"]
    return torch.Generator(seeded.device).manual_seed(seeded.seed)


def _defaults_change_nothing(answer: Callable[..., Tensor], call: Call) -> str | None:
    """Half of 120 tokens are three times as likely as the others: 8,000 rows miss one of them once in 10¹² times."""
    rows, sizes, one = 8000, {"vocab_size": 120, "d_model": 1}, torch.ones(1, 1)
    logits = torch.tensor([0.0, math.log(3)]).repeat(60)
    state = {"embedding": one.expand(120, 1), "states.w": one, "states.u": one, "out": logits / one.tanh()}
    model = build("NextToken", sizes, state).to(call.args[1].device)
    came = answer(model, call.args[1].new_zeros(rows, 1), 1, **call.kwargs)[:, -1].cpu()
    if len(came.unique()) < 120:
        return "with no top_k and no top_p given, some tokens never come"
    strays = _far((came % 2).double().mean(), torch.tensor(0.75), rows)
    return "with no temperature given, the logits are divided by one all the same" if strays else None


def _mode_is_kept(answer: Callable[..., Tensor], call: Call) -> str | None:
    """Habits hands over models in train mode; this one comes in eval mode."""
    given, tokens, _ = call.args
    model = build(given.name, given.init, given.state).to(tokens.device).eval()
    answer(model, tokens, 1, **call.kwargs)
    return "the model comes in eval mode, and is left in train mode" if model.training else None


def _as_many_tokens_as_asked(answer: Callable[..., Tensor], call: Call) -> str | None:
    _, tokens, n_new = call.args
    text = answer(*call.args, generator=_started(call))
    wanted = (len(tokens), tokens.shape[1] + n_new)
    return None if text.shape == wanted else "the result is not the prompt and n_new more tokens for each row"


def _one_seed_one_text(answer: Callable[..., Tensor], call: Call) -> str | None:
    one, other = (answer(*call.args, generator=_started(call)) for _ in range(2))
    return None if torch.equal(one, other) else "two generators of one seed give two texts"


def _generator_is_drawn_from(answer: Callable[..., Tensor], call: Call) -> str | None:
    generator = _started(call)
    one, other = (answer(*call.args, generator=generator) for _ in range(2))
    return "two calls with one generator give one text: it does not move on" if torch.equal(one, other) else None


def _new_text_without_generator(answer: Callable[..., Tensor], call: Call) -> str | None:
    with torch.random.fork_rng(devices=[]):
        one, other = (answer(*call.args) for _ in range(2))
    return "without a generator each call gives the same text" if torch.equal(one, other) else None


def _pytorchs_own_is_not_reseeded(answer: Callable[..., Tensor], call: Call) -> str | None:
    def without_after_with() -> Tensor:
        answer(*call.args, generator=_started(call))
        return answer(*call.args)

    with torch.random.fork_rng(devices=[]):
        one, other = without_after_with(), without_after_with()
    return (
        "a call without a generator repeats itself: PyTorch's own is seeded inside" if torch.equal(one, other) else None
    )


def _generate_cases(draw: Draw) -> Iterator[Case]:
    # Far apart, so that no two laws use the same seed.
    def seeded() -> Seeded:
        return Seeded(10_000 * draw.integer(0, 200_000))

    # The oracle's own rounding decides in bfloat16, where greedy texts part ways.
    greedy = partial(Case, coarse=False)
    yield greedy("greedy", _decided(draw, 3, 4, 5), {"temperature": 0})
    yield greedy("greedy, as a float", _decided(draw, 2, 3, 4), {"temperature": 0.0})
    yield greedy("greedy, a batch of one", _decided(draw, 1, 3, 6), {"temperature": 0})
    yield greedy("greedy, a prompt of one token", _decided(draw, 4, 1, 4), {"temperature": 0})
    yield greedy("greedy, one token more", _decided(draw, 3, 4, 1), {"temperature": 0})
    yield greedy("greedy, a long prompt", _remembering(draw), {"temperature": 0})
    yield greedy("greedy, by position", (*_decided(draw, 2, 3, 3), 0.0))
    yield greedy("greedy, with a generator", _decided(draw, 2, 3, 4), {"temperature": 0, "generator": seeded()})
    yield greedy("greedy, with filters", _decided(draw, 3, 3, 4), {"temperature": 0, "top_k": 3, "top_p": 0.9})
    yield greedy("no new token", _decided(draw, 3, 4, 0), {"temperature": 0})
    yield greedy("no new token, not greedy", _decided(draw, 3, 4, 0))
    yield greedy("a choice of one: top_k = 1", _decided(draw, 3, 3, 4), {"top_k": 1, "generator": seeded()})
    yield greedy("a choice of one: top_p = 1e-6", _decided(draw, 3, 3, 4), {"top_p": 1e-6, "generator": seeded()})
    cold = {"temperature": 1e-3, "generator": seeded()}
    yield greedy("nearly no temperature", _decided(draw, 3, 3, 4, scale=6), cold)
    for check, settings in (
        ("drawn as the logits say", {}),
        ("temperature", {"temperature": 0.5}),
        ("temperature", {"temperature": 2.0}),
        ("filters", {"top_k": 3}),
        ("filters", {"top_p": 0.6}),
        ("filters", {"temperature": 1.7, "top_k": 3, "top_p": 0.7}),
        ("filters", {"temperature": 2.0, "top_k": 3, "top_p": 0.6}),
    ):
        words = ", ".join(f"{name} = {value}" for name, value in settings.items()) or "temperature 1, no filter"
        yield Case(words, _telling(draw, **settings), {**settings, "generator": seeded()}, check=check)
    # One row, nearly at random: whoever stops at some token stops here.
    yield Case("a long text", (*_decided(draw, 1, 2, 0, scale=1)[:2], 40), {"generator": seeded()}, check="a long text")
    wrong = partial(Case, check="what is not allowed", raises=ValueError)
    asked, generator = (*_decided(draw, 2, 3, 0)[:2], 2), {"generator": seeded()}
    yield wrong("a negative temperature", asked, {"temperature": -0.5, **generator}, says="-0.5")
    yield wrong("top_k = 0", asked, {"top_k": 0, **generator}, says="0")
    yield wrong("top_p = 0", asked, {"top_p": 0.0, **generator}, says="0")
    yield wrong("top_p in per cent", asked, {"top_p": 90, **generator}, says="90")


def _generate_naive(
    model: Callable[[Tensor], Tensor],
    tokens: Tensor,
    n_new: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    nudge: Nudge = as_is,
) -> Tensor:
    raise AssertionError("tokens are right or wrong: no rounding is forgiven")


generate = Exam(
    TOPIC,
    "generate",
    _generate_reference,
    _generate_naive,
    _generate_cases,
    (
        Values("values", 1.5),
        Properties(
            1,
            (_drawn_by_its_law, _defaults_change_nothing),
            "drawn as the logits say",
            "drawn as the logits say",
            telling=True,
        ),
        Properties(0.75, (_drawn_by_its_law,), "temperature", "temperature", telling=True),
        Properties(1.25, (_drawn_by_its_law,), "filters", "filters, and their order", telling=True),
        Properties(
            0.5,
            (
                _as_many_tokens_as_asked,
                _one_seed_one_text,
                _generator_is_drawn_from,
                _new_text_without_generator,
                _pytorchs_own_is_not_reseeded,
            ),
            "a long text",
            "a long text and its generator",
            telling=True,
        ),
        Values("what is not allowed", 0.5),
        Properties(0.25, (_mode_is_kept,), "a long text", "mode kept", telling=True),
        Habits(0.25),
    ),
    outputs=("tokens",),
    dtype=torch.long,
)


@generate.variant
def filtered_by_hiding(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0:
        raise ValueError(f"temperature = {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k = {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p = {top_p}")
    for _ in range(n_new):
        with torch.no_grad():
            logits = model(tokens)[:, -1]
        if temperature == 0:
            chosen = logits.argmax(dim=-1, keepdim=True)
        else:
            logits = logits / temperature
            if top_k is not None:
                largest = logits.topk(min(top_k, logits.shape[-1])).values
                logits = logits.masked_fill(logits < largest[:, -1:], -math.inf)
            if top_p is not None:
                ordered, places = logits.sort(descending=True)
                shares = torch.softmax(ordered, dim=-1)
                ordered = ordered.masked_fill(shares.cumsum(-1) - shares >= top_p, -math.inf)
                logits = torch.empty_like(logits).scatter(-1, places, ordered)
            chosen = torch.multinomial(torch.softmax(logits, dim=-1), 1, generator=generator)
        tokens = torch.cat([tokens, chosen], dim=1)
    return tokens


@generate.variant
def drawn_among_the_sorted(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or top_k == 0 or (top_p is not None and (top_p <= 0 or top_p > 1)):
        raise ValueError(f"temperature {temperature}, top_k {top_k}, top_p {top_p}")
    with torch.inference_mode():
        for _ in range(n_new):
            ordered, places = model(tokens)[:, -1, :].sort(dim=-1, descending=True)
            rank = torch.zeros_like(places[:, :1])
            if temperature > 0:
                ordered = ordered[:, :top_k] / temperature
                shares = torch.softmax(ordered, dim=-1)
                if top_p is not None:
                    shares = shares.where(shares.cumsum(dim=-1) - shares < top_p, 0)
                # multinomial divides by the sum itself
                rank = shares.multinomial(1, generator=generator)
            tokens = torch.cat((tokens, places.gather(-1, rank)), dim=-1)
    return tokens.clone()


@generate.variant
def written_into_a_full_tensor(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0:
        raise ValueError(f"negative temperature: {temperature}")
    if (top_k is not None and top_k <= 0) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"top_k={top_k}, top_p={top_p}")
    batch, n = tokens.shape
    text = torch.empty(batch, n + n_new, dtype=tokens.dtype, device=tokens.device)
    text[:, :n] = tokens
    for place in range(n, n + n_new):
        with torch.no_grad():
            logits = model(text[:, :place])[:, -1]
        if not temperature:
            text[:, place] = logits.max(dim=-1).indices
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        if top_k is not None:
            ordered[:, top_k:] = -math.inf
        if top_p is not None:
            shares = torch.softmax(ordered, dim=-1)
            ordered = ordered.masked_fill(shares.cumsum(-1) - shares >= top_p, -math.inf)
        rank = torch.multinomial(torch.softmax(ordered, dim=-1), 1, generator=generator)
        text[:, place] = places.gather(-1, rank).squeeze(-1)
    return text


@generate.variant
def with_gumbel_noise(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0:
        raise ValueError(f"temperature = {temperature}")
    if (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature > 0:
            logits = logits / temperature
            if top_k is not None:
                logits = logits.masked_fill(logits.argsort(descending=True).argsort() >= top_k, -math.inf)
            if top_p is not None:
                shares = torch.softmax(logits, dim=-1)
                before = ((logits.unsqueeze(-2) > logits.unsqueeze(-1)) * shares.unsqueeze(-2)).sum(-1)
                logits = logits.masked_fill(before >= top_p, -math.inf)
            # The largest of logits and Gumbel noise comes with the softmax's probability.
            logits = logits - torch.empty_like(logits).exponential_(generator=generator).log()
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
    return tokens


@generate.variant
def along_the_cumulative_sum(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0:
        raise ValueError(f"temperature = {temperature}")
    if (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"top_k = {top_k}, top_p = {top_p}")
    text = list(tokens.unbind(dim=1))
    for _ in range(n_new):
        with torch.no_grad():
            logits = model(torch.stack(text, dim=1))[:, -1]
        if temperature == 0:
            text.append(logits.argmax(dim=1))
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        if top_k is not None:
            ordered[:, top_k:] = -math.inf
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares * (shares.cumsum(-1) - shares < top_p)
        sums = shares.cumsum(-1)
        point = torch.rand(len(sums), 1, generator=generator, dtype=sums.dtype, device=sums.device) * sums[:, -1:]
        rank = torch.searchsorted(sums, point, right=True).clamp(max=sums.shape[-1] - 1)
        text.append(places.gather(-1, rank)[:, 0])
    return torch.stack(text, dim=1)


@generate.variant
def one_token_then_the_rest(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    def following(tokens):
        logits = model(tokens)[:, -1]
        if temperature == 0:
            return logits.argmax(-1, keepdim=True)
        ordered, places = (logits / temperature).sort(descending=True)
        if top_k is not None:
            ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, -1)
        if top_p is not None:
            shares = torch.where(shares.cumsum(-1) - shares >= top_p, 0.0, shares)
        return places.gather(-1, torch.multinomial(shares, 1, generator=generator))

    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    with torch.no_grad():
        for _ in range(n_new):
            tokens = torch.cat([tokens, following(tokens)], dim=-1)
    return tokens


@generate.variant
def switched_to_eval_and_back(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    before = getattr(model, "training", None)
    if before:
        model.eval()
    for _ in range(n_new):
        with torch.no_grad():
            ordered, places = model(tokens)[:, -1].sort(descending=True)
        if temperature == 0:
            tokens = torch.cat([tokens, places[:, :1]], dim=-1)
            continue
        shares = torch.softmax(ordered[:, :top_k] / temperature, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    if before:
        model.train()
    return tokens


@generate.misconception(
    hint="You take the logits at the first place of the text: what follows the first token. What follows the last "
    "one stands at the last place.",
    symptom="Every new token is a likely *second* token of the text.",
)
def logits_of_the_first_place(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, 0].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="The model sees nothing but the last token: `tokens[:, -1:]`. Without a cache it needs the whole text.",
    symptom="Each word fits the one before it, and the text wanders: with a table of pairs it would be no worse.",
)
def last_token_alone_shown(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens[:, -1:])[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="The model is always shown the prompt, never what it has written since. Append each token before the next "
    "step.",
    symptom="Greedy text is one token for ever; drawn tokens know nothing of one another.",
)
def prompt_shown_again_and_again(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    prompt = tokens
    for _ in range(n_new):
        logits = model(prompt)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="You show the last few tokens only, a fixed block. Nothing here says that the model can't read more.",
    symptom="Right for short texts; later the beginning is forgotten.",
)
def context_cut_to_a_block(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens[:, -4:])[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="You multiply by the temperature. Divide: a high temperature is to bring the logits closer together.",
    symptom="2 makes the text tamer, ½ wilder.",
)
def temperature_multiplied(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits * temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="The temperature changes nothing. Is it used at all? Probabilities that are divided by it and then normalised "
    "are what they were: divide the logits.",
    symptom="The temperature does nothing at all.",
)
def probabilities_divided(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = logits.sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1) / temperature
        shares = shares / shares.sum(-1, keepdim=True)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="The temperature comes last. It is to come first, so that top_p sees the probabilities that are drawn from.",
    symptom="Some libraries do so; a top_p tuned for the other order keeps other tokens.",
    seen="https://github.com/huggingface/transformers/pull/8686",
)
def temperature_after_the_filters(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = logits.sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            ordered = ordered.masked_fill(shares.cumsum(-1) - shares >= top_p, -math.inf)
        shares = torch.softmax(ordered / temperature, dim=-1)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="top_p comes before top_k. After top_k the rest shares all the probability, so that p is reached sooner.",
    symptom="More tokens stay than in the order that is asked for.",
)
def top_p_before_top_k(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        shares = shares[:, :top_k]
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="Among the tokens that the filters leave you draw blindly. They keep their probabilities, relative to one "
    "another.",
    symptom="The text is as wild at temperature ½ as at 2.",
)
def kept_tokens_drawn_alike(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        shares = (shares > 0).to(shares.dtype)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="Softmax is taken of probabilities. They lie between 0 and 1, so that what comes out is nearly uniform.",
    symptom="Gibberish: each token is at most e times as likely as any other one.",
)
def softmax_taken_twice(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        shares = torch.softmax(torch.where(shares > 0, shares / shares.sum(-1, keepdim=True), -math.inf), dim=-1)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="The most likely token is taken, whatever the temperature: nothing is drawn. That is asked for at "
    "temperature 0 alone.",
    symptom="All runs give one text, and it soon goes round in circles.",
)
def always_the_most_likely(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
    return tokens


@generate.misconception(
    hint="You draw once, for the first row, and give the token to all. Each row draws for itself, from its own logits.",
    symptom="Right for a batch of one; in a batch all texts go on alike.",
)
def one_draw_for_all_rows(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)[:1].expand(len(tokens), 1)], dim=-1)
    return tokens


@generate.misconception(
    hint="`.item()` takes the token out as a number: that works for one row only. Keep the tokens in a tensor, one a "
    "row.",
    symptom="Right for a batch of one; else an error about a tensor with several elements.",
)
def batch_of_one_only(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            chosen = logits.argmax(-1).item()
        else:
            ordered, places = (logits / temperature).sort(descending=True)
            ordered = ordered[:, :top_k]
            shares = torch.softmax(ordered, dim=-1)
            if top_p is not None:
                shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
            chosen = places.gather(-1, torch.multinomial(shares, 1, generator=generator)).item()
        tokens = torch.cat([tokens, torch.tensor([[chosen]], device=tokens.device)], dim=-1)
    return tokens


@generate.misconception(
    hint="Temperature 0 divides by zero: infinities and NaN. Take the most likely token there instead.",
    symptom="RuntimeError: probability tensor contains either inf, nan or element < 0.",
    seen="https://github.com/suno-ai/bark/issues/270",
)
def divided_by_zero(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="A negative temperature turns the order round: the least likely token is drawn most. Raise a `ValueError`.",
    symptom="Gibberish of the rarest tokens, and no word about why.",
)
def negative_temperature_taken(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="`if top_k:` is false for 0 as well as for None, so that a 0 passes for *no filter*. Ask `is not None`.",
    symptom="A computed top_k or top_p that came out as 0 switches the filter off.",
)
def zero_taken_for_none(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k and top_k < 1) or (top_p and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, : top_k or None]
        shares = torch.softmax(ordered, dim=-1)
        if top_p:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="`generator` is never used: all numbers come from PyTorch's own. Hand it on to `torch.multinomial`.",
    symptom="No two runs agree, whatever the seed.",
)
def own_generator_ignored(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="You seed PyTorch's own generator with the seed of the one you were given. Draw from it: `generator=`.",
    symptom="Runs repeat, but the generator never moves on, and the rest of the program is reseeded.",
)
def seeded_from_the_generator(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    if generator is not None:
        torch.manual_seed(generator.initial_seed())
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="The generator starts anew at each step, so that every token is drawn with the same random numbers. Let it "
    "run on.",
    symptom="Each token by itself comes as often as it should; one after another they do not.",
)
def same_numbers_at_each_step(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        if generator is not None:
            generator.manual_seed(generator.initial_seed())
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="You fix a seed where no generator is given. Then nothing is random: leave PyTorch's generator alone.",
    symptom="Each call gives the same text, and everything drawn after it in the program repeats itself as well.",
)
def generation_always_seeded(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    if generator is None:
        torch.manual_seed(0)
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="You give the new tokens alone. The result begins with the prompt.",
    symptom="Right for an empty prompt; else the text lacks its beginning.",
)
def new_tokens_without_prompt(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens[:, -n_new:]


@generate.misconception(
    hint="The result has n_new tokens in all, or one too few: count the loop's steps, not the length of the text.",
    symptom="With a long prompt nothing is written at all.",
)
def one_token_too_few(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    while tokens.shape[1] < n_new:
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="One token too many. `range(n_new)` has n_new steps.",
    symptom="The text is one token longer than asked for.",
)
def one_step_too_many(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new + 1):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="`.tolist()` makes Python lists of it. Give the tensor.",
    symptom="Right when it is printed; an error for whoever calls a tensor's method on it.",
)
def list_of_lists(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens.tolist()


@generate.misconception(
    hint="You switch the model to eval mode and leave it there. Put it back in the mode that you found it in, or leave "
    "the mode to the caller.",
    symptom="After the first sample in the middle of training, dropout never comes back.",
    seen="https://github.com/rohitg00/ai-engineering-from-scratch/pull/206",
)
def model_left_in_eval_mode(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    if isinstance(model, torch.nn.Module):
        model.eval()
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="You switch the model's gradients off and leave them so. `torch.no_grad()` does it for the time of the call.",
    symptom="After the first sample training goes on without an error, and without learning.",
)
def weights_frozen_for_good(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    if isinstance(model, torch.nn.Module):
        model.requires_grad_(False)
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens


@generate.misconception(
    hint="At the end you switch the model to train mode, whatever mode it came in. Look at `model.training` first, or "
    "leave the mode to the caller.",
    symptom="Whoever has the model in eval mode and samples once has dropout in all that follows.",
)
def model_left_in_train_mode(model, tokens, n_new, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    if isinstance(model, torch.nn.Module):
        model.eval()
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    if isinstance(model, torch.nn.Module):
        model.train()
    return tokens


@generate.misconception(
    hint="Where neither `top_k` nor `top_p` is given, all tokens are there to be drawn. What are your defaults?",
    symptom="Right with a small vocabulary; with a large one most words are never written.",
)
def a_filter_by_default(model, tokens, n_new, temperature=1.0, top_k=50, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"temperature = {temperature}, top_k = {top_k}, top_p = {top_p}")
    for _ in range(n_new):
        logits = model(tokens)[:, -1].detach()
        if temperature == 0:
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=-1)
            continue
        ordered, places = (logits / temperature).sort(descending=True)
        ordered = ordered[:, :top_k]
        shares = torch.softmax(ordered, dim=-1)
        if top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= top_p, 0)
        rank = torch.multinomial(shares, 1, generator=generator)
        tokens = torch.cat([tokens, places.gather(-1, rank)], dim=-1)
    return tokens
