"""The exams of *multi_head*: split, attend, concatenate, project."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from autograder.answer.guard import ATTENTION
from autograder.engine.checks import Gradients, Habits, Properties, Values, counterexample
from autograder.engine.exam import Case, Draw, Exam, Nudge, as_is
from autograder.engine.packed_weights import packed
from autograder.engine.subject import Call
from autograder.exams.scaling import rounded_root
from autograder.exams.softmax import naive_softmax

TOPIC = "multi_head"
JSBAAN_4 = "https://github.com/jsbaan/transformer-from-scratch/issues/4"
FUXICTR_30 = "https://github.com/reczoo/FuxiCTR/issues/30"
HYUNWOONGKO_15 = "https://github.com/hyunwoongko/transformer/issues/15"
KERAS_36 = "https://github.com/lsdefine/attention-is-all-you-need-keras/issues/36"
GAZELLE_1 = "https://github.com/gazelle93/Transformer-Various-Positional-Encoding/issues/1"
FUNCTIONAL_8 = "https://github.com/awf/functional-transformer/issues/8"


def _columns_of_each_head(x: Tensor, n_heads: int, nudge: Nudge = as_is) -> Tensor:
    """The definition, head by head: head h is columns h · d_head to (h + 1) · d_head."""
    width = x.shape[-1] // n_heads
    return torch.stack([x[..., h * width : (h + 1) * width] for h in range(n_heads)], dim=-3)


def _split_cases(draw: Draw) -> Iterator[Case]:
    yield Case("a sentence, two heads", (draw.normal(3, 6), 2), gradients=True, tiny=True)
    yield Case("as many heads as tokens", (draw.normal(4, 8), 4), gradients=True)
    yield Case("a batch", (draw.normal(2, 5, 8), 4), gradients=True)
    yield Case("a batch as large as a sentence", (draw.normal(3, 3, 9), 3))
    yield Case("a batch of one", (draw.normal(1, 4, 6), 3), gradients=True)
    yield Case("two leading axes", (draw.normal(2, 3, 4, 8), 2), gradients=True)
    yield Case("n_heads by name", (draw.normal(2, 4, 6),), {"n_heads": 3})
    yield Case("tokens, heads and widths alike", (draw.normal(4, 4, 16), 4))
    x = draw.normal(2, 1, 3, 5, 6)
    yield Case("columns stored as rows, three axes in front", (x, 3), layout="transposed", gradients=True)
    yield Case("every second number of a row", (draw.normal(2, 5, 6), 2), layout="strided")
    yield Case("a wide model", (draw.normal(2, draw.integer(10, 20), 64), 8))
    edge = partial(Case, check="edge cases")
    yield edge("one head", (draw.normal(2, 3, 4), 1))
    yield edge("heads of width one", (draw.normal(2, 3, 4), 4))
    yield edge("one token", (draw.normal(2, 1, 6), 3))
    wrong = partial(Case, check="d_model % n_heads", raises=ValueError)
    yield wrong("50 columns among 7 heads: is d_model named?", (draw.normal(2, 3, 50), 7), says="50")
    yield wrong("50 columns among 7 heads: is n_heads named?", (draw.normal(2, 3, 50), 7), says="7")
    yield wrong("more heads than columns", (draw.normal(2, 3, 6), 12), says="12")
    yield wrong("tokens that would make up for it", (draw.normal(2, 8, 6), 4), says="4")


split_heads = Exam(
    TOPIC,
    "split_heads",
    lambda x, n_heads: x.unflatten(-1, (n_heads, -1)).movedim(-2, -3),
    _columns_of_each_head,
    _split_cases,
    (Values("values", 2), Values("edge cases", 0.5), Values("d_model % n_heads", 0.5), Habits(0.5), Gradients(0.5)),
)


@split_heads.variant
def cut_and_transposed(x, n_heads):
    if x.shape[-1] % n_heads:
        raise ValueError(f"d_model {x.shape[-1]} is not divisible by {n_heads} heads")
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(-3, -2)


@split_heads.variant
def stack_of_columns(x, n_heads):
    d_head, rest = divmod(x.shape[-1], n_heads)
    if rest:
        raise ValueError(f"{x.shape[-1]} % {n_heads} = {rest}")
    return torch.stack([x[..., h * d_head : (h + 1) * d_head] for h in range(n_heads)], dim=-3)


@split_heads.variant
def chunks_stacked(x, n_heads):
    if x.size(-1) % n_heads != 0:
        raise ValueError(f"d_model={x.size(-1)} must be a multiple of n_heads={n_heads}")
    return torch.stack(x.chunk(n_heads, dim=-1), dim=-3)


@split_heads.variant
def unflattened_and_moved(x, n_heads):
    d_model = x.shape[-1]
    if d_model != d_model // n_heads * n_heads:
        raise ValueError(f"cannot split {d_model} columns into {n_heads} heads")
    return x.unflatten(-1, (n_heads, d_model // n_heads)).movedim(-2, -3)


@split_heads.variant
def permuted_by_list(x, n_heads):
    *lead, n, d_model = x.shape
    if d_model % n_heads:
        raise ValueError(f"{d_model} columns, {n_heads} heads")
    axes = range(len(lead))
    split = x.contiguous().view(*lead, n, n_heads, d_model // n_heads)
    return split.permute(*axes, len(lead) + 1, len(lead), len(lead) + 2).contiguous()


@split_heads.variant
def gathered_by_index(x, n_heads):
    d_model = x.shape[-1]
    if d_model % n_heads:
        raise ValueError(f"d_model {d_model}, n_heads {n_heads}: the remainder is {d_model % n_heads}")
    columns = torch.arange(d_model, device=x.device).reshape(n_heads, 1, -1)
    rows = torch.arange(x.shape[-2], device=x.device).reshape(1, -1, 1)
    return x[..., rows, columns]


@split_heads.variant
def with_selectors(x, n_heads):
    d_model = x.shape[-1]
    if d_model % n_heads:
        raise ValueError(f"d_model = {d_model}, n_heads = {n_heads}")
    selectors = torch.eye(d_model, dtype=x.dtype, device=x.device).reshape(d_model, n_heads, -1)
    return torch.einsum("...nm,mhd->...hnd", x, selectors)


@split_heads.misconception(
    hint="You reshape straight to (heads, n, d_head): that fills head 0 with the first tokens' rows instead of every "
    "token's first columns. Cut the last axis only, then move the new one.",
    symptom="The shape is right, the tokens are scattered over the heads. It trains all the same.",
    seen=FUXICTR_30,
)
def split_by_reshape_alone(x, n_heads):
    *lead, n, d_model = x.shape
    if d_model % n_heads:
        raise ValueError(f"{d_model} % {n_heads} is not 0")
    return x.reshape(*lead, n_heads, n, d_model // n_heads)


@split_heads.misconception(
    hint="The heads still stand behind the tokens, (..., n, heads, d_head). Attention works on the last two axes: "
    "there must be tokens and width.",
    symptom="The scores compare a token's heads with one another, (heads, heads), and no token sees another one.",
    seen="https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/216",
)
def heads_behind_the_tokens(x, n_heads):
    if x.shape[-1] % n_heads:
        raise ValueError(f"{x.shape[-1]} % {n_heads} is not 0")
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads)


@split_heads.misconception(
    hint="You deal the columns out like cards: head h gets h, h + heads, … It is to get d_head columns in a row: which "
    "of the two new axes runs faster?",
    symptom="Every number is there, in another head. It trains as well, until somebody loads weights.",
)
def columns_dealt_like_cards(x, n_heads):
    if x.shape[-1] % n_heads:
        raise ValueError(f"{x.shape[-1]} % {n_heads} is not 0")
    return x.reshape(*x.shape[:-1], x.shape[-1] // n_heads, n_heads).movedim(-1, -3)


@split_heads.misconception(
    hint="n_heads and d_head have changed places: you make d_model / n_heads heads of width n_heads.",
    symptom="Right where both numbers are the same, as with 64 columns and 8 heads.",
)
def as_many_heads_as_columns_each(x, n_heads):
    if x.shape[-1] % n_heads:
        raise ValueError(f"{x.shape[-1]} % {n_heads} is not 0")
    return x.reshape(*x.shape[:-1], x.shape[-1] // n_heads, n_heads).transpose(-3, -2)


@split_heads.misconception(
    hint="The heads stand in front of the batch, (heads, batch, …). They belong behind it, next to the tokens.",
    symptom="Right without a batch. With one, everything that comes once for each sentence, such as a mask, meets the "
    "wrong sentence.",
    seen=KERAS_36,
)
def heads_before_the_batch(x, n_heads):
    if x.shape[-1] % n_heads:
        raise ValueError(f"{x.shape[-1]} % {n_heads} is not 0")
    return torch.stack(x.chunk(n_heads, dim=-1))


@split_heads.misconception(
    hint="You fold the heads into the batch. Keep an axis of their own: all products take any number of leading axes.",
    symptom="Three axes where four are asked for, and the order of batch and heads has to be remembered everywhere.",
)
def heads_folded_into_the_batch(x, n_heads):
    n, d_model = x.shape[-2:]
    if d_model % n_heads:
        raise ValueError(f"{d_model} % {n_heads} is not 0")
    return x.reshape(*x.shape[:-1], n_heads, -1).transpose(-3, -2).reshape(-1, n, d_model // n_heads)


@split_heads.misconception(
    hint="You take for granted that there is exactly one batch axis. Name the last axes and let `...` stand for the "
    "others, or count from behind.",
    symptom="Right on (batch, n, d_model); an error on one sentence, and on two leading axes.",
)
def always_one_batch_axis(x, n_heads):
    batch, n, d_model = x.shape
    if d_model % n_heads:
        raise ValueError(f"{d_model} % {n_heads} is not 0")
    return x.reshape(batch, n, n_heads, d_model // n_heads).transpose(1, 2)


@split_heads.misconception(
    hint="You take the first axis for the batch and let `-1` find the rest. On one sentence the first axis is the "
    "tokens, and two leading axes become one: keep `x.shape[:-1]` as it is.",
    symptom="Right on (batch, n, d_model); on one sentence every token becomes a sentence of its own.",
)
def first_axis_taken_for_the_batch(x, n_heads):
    if x.shape[-1] % n_heads:
        raise ValueError(f"{x.shape[-1]} % {n_heads} is not 0")
    return x.reshape(x.shape[0], -1, n_heads, x.shape[-1] // n_heads).transpose(1, 2)


@split_heads.misconception(
    hint="`transpose(1, 2)` counts axes from the front: it hits heads and tokens only behind exactly one batch axis. "
    "Count from behind.",
    symptom="Right with a batch; on one sentence it turns heads and width round.",
)
def second_and_third_axis_swapped(x, n_heads):
    if x.shape[-1] % n_heads:
        raise ValueError(f"{x.shape[-1]} % {n_heads} is not 0")
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(1, 2)


@split_heads.misconception(
    hint="You swap the last two axes, heads and width. Heads and tokens are to change places.",
    symptom="The result has shape (..., n, d_head, heads).",
)
def heads_and_width_swapped(x, n_heads):
    if x.shape[-1] % n_heads:
        raise ValueError(f"{x.shape[-1]} % {n_heads} is not 0")
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(-2, -1)


@split_heads.misconception(
    hint="You share out the tokens. Every head sees all tokens, and a part of their columns.",
    symptom="Heads that each see a stretch of the sentence; an error where the length can't be divided.",
)
def tokens_shared_out(x, n_heads):
    if x.shape[-1] % n_heads:
        raise ValueError(f"{x.shape[-1]} % {n_heads} is not 0")
    return x.reshape(*x.shape[:-2], n_heads, x.shape[-2] // n_heads, x.shape[-1])


@split_heads.misconception(
    hint="Every head gets all columns, d_model wide. It is to get its own d_head of them.",
    symptom="The work grows with the number of heads, and all heads see the same.",
)
def every_head_gets_everything(x, n_heads):
    if x.shape[-1] % n_heads:
        raise ValueError(f"{x.shape[-1]} % {n_heads} is not 0")
    return x.unsqueeze(-3).expand(*x.shape[:-2], n_heads, *x.shape[-2:])


@split_heads.misconception(
    hint="d_model // n_heads rounds down, and the last columns are lost without a word. Raise a `ValueError`.",
    symptom="50 columns among 7 heads: the last column never reaches any of them.",
)
def remainder_lost(x, n_heads):
    d_head = x.shape[-1] // n_heads
    return torch.stack([x[..., h * d_head : (h + 1) * d_head] for h in range(n_heads)], dim=-3)


@split_heads.misconception(
    hint="Nothing looks whether the heads fit. `reshape` stumbles over most misfits, but its message does not speak of "
    "heads: check d_model % n_heads and raise a `ValueError` with both numbers.",
    symptom="RuntimeError: shape is invalid for input of size 150.",
)
def misfit_left_to_reshape(x, n_heads):
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(-3, -2)


@split_heads.misconception(
    hint="An `assert` raises an AssertionError, and none at all under `python -O`. What a caller can get wrong is a "
    "`ValueError`.",
    symptom="An AssertionError, mostly an empty one.",
    seen="https://github.com/649453932/Chinese-Text-Classification-Pytorch/issues/53",
)
def misfit_asserted(x, n_heads):
    assert x.shape[-1] % n_heads == 0
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(-3, -2)


@split_heads.misconception(
    hint="An `assert` raises an AssertionError, whatever it says, and none at all under `python -O`. What a caller can "
    "get wrong is a `ValueError`.",
    symptom="An AssertionError with both numbers, which nobody catches who waits for a ValueError.",
)
def misfit_asserted_with_the_numbers(x, n_heads):
    assert x.shape[-1] % n_heads == 0, f"d_model {x.shape[-1]} must be divisible by n_heads {n_heads}"
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(-3, -2)


@split_heads.misconception(
    hint="Your error names d_model only. It takes two not to fit: put n_heads into the message as well.",
    symptom="“d_model = 50 can't be divided”, by nobody knows what.",
)
def misfit_names_d_model_only(x, n_heads):
    if x.shape[-1] % n_heads != 0:
        raise ValueError(f"d_model = {x.shape[-1]} must be divisible by n_heads")
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(-3, -2)


@split_heads.misconception(
    hint="Your error names n_heads only. It takes two not to fit: put d_model into the message as well.",
    symptom="“Must be divisible by 7”: what must?",
)
def misfit_names_n_heads_only(x, n_heads):
    if x.shape[-1] % n_heads != 0:
        raise ValueError(f"d_model must be divisible by n_heads = {n_heads}")
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(-3, -2)


@split_heads.misconception(
    hint="Your error does not say which numbers do not fit: put d_model and n_heads into the message.",
    symptom="“d_model must be divisible by n_heads”, and the search for the two begins.",
)
def misfit_without_the_numbers(x, n_heads):
    if x.shape[-1] % n_heads != 0:
        raise ValueError("d_model must be divisible by n_heads")
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(-3, -2)


@split_heads.misconception(
    hint="The remainder is the wrong way round: d_model must be a multiple of n_heads, not n_heads of d_model.",
    symptom="A ValueError for nearly every right input.",
)
def remainder_the_wrong_way_round(x, n_heads):
    if n_heads % x.shape[-1]:
        raise ValueError(f"d_model {x.shape[-1]} can't be divided by {n_heads}")
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(-3, -2)


@split_heads.misconception(
    hint="The heads are copies outside of the graph (`.data`, `detach`, `.numpy()`): nothing in front of them learns.",
    symptom="The numbers are right; w_q, w_k and w_v get no gradient.",
)
def split_outside_of_the_graph(x, n_heads):
    if x.shape[-1] % n_heads:
        raise ValueError(f"{x.shape[-1]} % {n_heads} is not 0")
    return x.data.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(-3, -2)


def _merge_naive(x: Tensor, nudge: Nudge = as_is) -> Tensor:
    """The definition: the heads side by side."""
    return torch.cat(x.unbind(-3), dim=-1)


def _merge_cases(draw: Draw) -> Iterator[Case]:
    yield Case("two heads", (draw.normal(2, 3, 4),), gradients=True, tiny=True)
    yield Case("as many heads as tokens", (draw.normal(4, 4, 2),), gradients=True)
    yield Case("a batch", (draw.normal(2, 4, 5, 3),), gradients=True)
    yield Case("as many sentences as heads", (draw.normal(3, 3, 5, 2),))
    yield Case("a batch of one", (draw.normal(1, 3, 4, 2),), gradients=True)
    yield Case("two leading axes", (draw.normal(2, 3, 2, 4, 5),), gradients=True)
    yield Case("all axes alike", (draw.normal(3, 3, 3, 3),))
    yield Case("as it comes out of a split", (draw.normal(2, 5, 3, 4).transpose(1, 2),), gradients=True)
    yield Case("columns stored as rows", (draw.normal(2, 3, 4, 5),), layout="transposed", gradients=True)
    yield Case("every second number of a row", (draw.normal(2, 3, 4, 5),), layout="strided")
    yield Case("many tokens", (draw.normal(2, 8, draw.integer(10, 20), 8),))
    edge = partial(Case, check="edge cases")
    yield edge("one head", (draw.normal(2, 1, 3, 4),))
    yield edge("heads of width one", (draw.normal(2, 4, 3, 1),))
    yield edge("one token", (draw.normal(2, 3, 1, 4),))


merge_heads = Exam(
    TOPIC,
    "merge_heads",
    lambda x: x.movedim(-3, -2).flatten(-2),
    _merge_naive,
    _merge_cases,
    (Values("values", 2), Values("edge cases", 0.5), Habits(0.5), Gradients(0.5)),
)


@merge_heads.variant
def transposed_and_flattened(x):
    return x.transpose(-3, -2).flatten(-2)


@merge_heads.variant
def heads_concatenated(x):
    return torch.cat([x[..., h, :, :] for h in range(x.shape[-3])], dim=-1)


@merge_heads.variant
def unbound_and_joined(x):
    return torch.cat(x.unbind(dim=-3), dim=-1)


@merge_heads.variant
def contiguous_and_viewed(x):
    *lead, heads, n, d_head = x.shape
    return x.transpose(-2, -3).contiguous().view(*lead, n, heads * d_head)


@merge_heads.variant
def moved_and_reshaped(x):
    return x.movedim(-3, -2).reshape(*x.shape[:-3], x.shape[-2], x.shape[-3] * x.shape[-1])


@merge_heads.variant
def token_by_token(x):
    return torch.stack([x[..., token, :].flatten(-2) for token in range(x.shape[-2])], dim=-2)


@merge_heads.variant
def merged_with_selectors(x):
    heads, d_head = x.shape[-3], x.shape[-1]
    selectors = torch.eye(heads * d_head, dtype=x.dtype, device=x.device).reshape(heads, d_head, -1)
    return torch.einsum("...hnd,hdm->...nm", x, selectors)


@merge_heads.misconception(
    hint="You reshape straight from (heads, n, d_head): a row then holds one head's results for several tokens. Bring "
    "heads and width side by side first.",
    symptom="The shape is right, and so is nothing else but the first d_head numbers. It trains all the same.",
    seen=JSBAAN_4,
)
def merge_by_reshape_alone(x):
    *lead, heads, n, d_head = x.shape
    return x.reshape(*lead, n, heads * d_head)


@merge_heads.misconception(
    hint="You swap the last two axes, tokens and width. Heads and tokens are to change places.",
    symptom="The shape is right, and every row mixes tokens.",
)
def tokens_and_width_swapped(x):
    *lead, heads, n, d_head = x.shape
    return x.transpose(-2, -1).reshape(*lead, n, heads * d_head)


@merge_heads.misconception(
    hint="You shuffle the heads' columns into one another, first of each head, second of each head, … Head 0's columns "
    "come first, all of them.",
    symptom="Every token has its own numbers, in another order than w_o expects.",
)
def columns_shuffled_like_cards(x):
    return x.movedim(-3, -1).flatten(-2)


@merge_heads.misconception(
    hint="You add the heads up. Side by side, each keeps its own columns; adding is left to w_o, which may weigh them.",
    symptom="The result is d_head wide, and what came from which head can't be told any more.",
    seen=FUNCTIONAL_8,
)
def heads_added_up(x):
    return x.sum(-3)


@merge_heads.misconception(
    hint="You average the heads: one average again, which several heads were to avoid. Put them side by side.",
    symptom="The result is d_head wide.",
)
def heads_averaged(x):
    return x.mean(-3)


@merge_heads.misconception(
    hint="You take the largest of the heads, number by number. Put them side by side instead.",
    symptom="The result is d_head wide, and most heads learn nothing.",
    seen="https://github.com/broadinstitute/CellCap/issues/40",
)
def largest_of_the_heads(x):
    return x.amax(-3)


@merge_heads.misconception(
    hint="You put the heads one below the other, along the tokens. Side by side means along the last axis.",
    symptom="The sentence becomes as many times longer as there are heads.",
)
def heads_below_one_another(x):
    return torch.cat(x.unbind(-3), dim=-2)


@merge_heads.misconception(
    hint="You take axis 0 for the heads. With a batch it is the batch: count from behind.",
    symptom="Right on one sentence; with a batch, different sentences are put side by side.",
    seen=GAZELLE_1,
)
def first_axis_taken_for_the_heads(x):
    return torch.cat(x.unbind(0), dim=-1)


@merge_heads.misconception(
    hint="`transpose(1, 2)` counts axes from the front: it hits heads and tokens only behind exactly one batch axis. "
    "Count from behind.",
    symptom="Right with a batch; on one sentence it swaps tokens and width.",
)
def merged_by_axis_numbers(x):
    return x.transpose(1, 2).flatten(-2)


@merge_heads.misconception(
    hint="You take for granted that there are exactly four axes. Let `...` stand for whatever is in front, or count "
    "from behind.",
    symptom="Right on (batch, heads, n, d_head); an error on one sentence.",
)
def always_four_axes(x):
    batch, heads, n, d_head = x.shape
    return x.permute(0, 2, 1, 3).reshape(batch, n, heads * d_head)


@merge_heads.misconception(
    hint="`permute(0, 2, 1, 3)` and a batch in front are right for exactly four axes. Count from behind, and keep "
    "whatever stands in front of the heads.",
    symptom="Right on (batch, heads, n, d_head); an error on one sentence, and on two leading axes.",
)
def permuted_as_four_axes(x):
    return x.permute(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


@merge_heads.misconception(
    hint="You take the first axis for the batch and let `-1` find the number of tokens. Without a batch the first axis "
    "is the heads: keep `x.shape[:-3]` as it is.",
    symptom="Right with one batch axis; on one sentence the heads stay apart, and two leading axes become one.",
)
def first_axis_kept_as_the_batch(x):
    return x.transpose(-3, -2).reshape(x.shape[0], -1, x.shape[-3] * x.shape[-1])


@merge_heads.misconception(
    hint="The leading axes are flattened into one batch. Give back as many as came.",
    symptom="One sentence comes back as a batch of one, and two leading axes as a single one.",
)
def leading_axes_flattened(x):
    heads, n, d_head = x.shape[-3:]
    return x.transpose(-3, -2).reshape(-1, n, heads * d_head)


@merge_heads.misconception(
    hint="After `transpose` the numbers do not lie in a row in memory, which `view` needs. `reshape` copies where it "
    "has to, `contiguous()` always.",
    symptom="RuntimeError: view size is not compatible with input tensor's size and stride.",
    seen="https://github.com/facebookresearch/fairseq/issues/2598",
)
def viewed_without_contiguous(x):
    *lead, heads, n, d_head = x.shape
    return x.transpose(-3, -2).view(*lead, n, heads * d_head)


@merge_heads.misconception(
    hint="The heads still have an axis of their own: heads and width are to become one axis.",
    symptom="A result of shape (..., n, heads, d_head), on which w_o raises an error.",
)
def never_flattened(x):
    return x.transpose(-3, -2)


@merge_heads.misconception(
    hint="The result leaves the graph (`.data`, `detach`, `.numpy()`): no head gets a gradient.",
    symptom="The numbers are right, and only w_o learns.",
)
def merged_outside_of_the_graph(x):
    return x.data.transpose(-3, -2).flatten(-2)


def concatenated(x: Tensor) -> Tensor:
    """As it stands in the notebook."""
    heads, _n, _d_head = x.shape
    return torch.cat([x[h] for h in range(heads)], dim=1)


def reshaped(x: Tensor) -> Tensor:
    """As it stands in the notebook."""
    heads, n, d_head = x.shape
    return x.reshape(n, heads * d_head)


def _why_they_agree(x: Tensor) -> str:
    heads, n, d_head = x.shape
    if 0 in (heads, n, d_head):
        return "There are no numbers in it that could change places."
    if heads == 1:
        return "With one head there is nothing to put side by side."
    if n == 1:
        return "With one token there is one row, and both write it from left to right."
    if bool((x == x.flatten()[0]).all()):
        return "Numbers do change places, but they are all the same."
    return "Numbers do change places, but with equal ones."


def _of_ranks(merge: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``merge`` on the numbers' ranks: two numbers differ by one at least, however near or far apart they are."""

    def merged(x: Tensor) -> Tensor:
        return merge(x.unique(return_inverse=True)[1].double())

    return merged


find_scrambled_merge = counterexample(
    TOPIC,
    "find_scrambled_merge",
    _of_ranks(concatenated),
    _of_ranks(reshaped),
    because=_why_they_agree,
    outputs=("x",),
    most=4,
)


@find_scrambled_merge.variant
def one_to_four():
    return torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])


@find_scrambled_merge.variant
def four_in_a_row():
    return torch.arange(4.0).reshape(2, 2, 1)


@find_scrambled_merge.variant
def a_single_one():
    x = torch.zeros(2, 2, 1)
    x[0, 1] = 1
    return x


@find_scrambled_merge.variant
def nearly_alike():
    return torch.tensor([[[1.0], [1.0 + 1e-6]], [[1.0], [1.0]]], dtype=torch.float64)


@find_scrambled_merge.variant
def negative_and_in_float64():
    return torch.linspace(-1, 1, 4, dtype=torch.float64).view(2, 2, 1)


@find_scrambled_merge.misconception(
    hint="With one head both write the same rows. What has to be there twice so that an order can be wrong?",
    symptom="One head passes every test of a merge.",
)
def a_single_head():
    return torch.randn(1, 2, 2)


@find_scrambled_merge.misconception(
    hint="With one token there is one row only. What has to be there twice so that an order can be wrong?",
    symptom="A test on a single token passes every merge.",
)
def a_single_token():
    return torch.randn(2, 1, 2)


@find_scrambled_merge.misconception(
    hint="Numbers change places, but they are all equal, so nobody sees it.",
    symptom="A test with `torch.ones` sees shapes and nothing else.",
)
def all_ones():
    return torch.ones(2, 2, 1)


@find_scrambled_merge.misconception(
    hint="The numbers that change places are equal. Which two are they? Write both results out.",
    symptom="A symmetric example, such as the identity, can hide a swap.",
)
def a_symmetric_one():
    return torch.eye(2).reshape(2, 2, 1)


@find_scrambled_merge.misconception(
    hint="They differ there. Now make it smaller: which of the three sizes may go down to 1?",
    symptom="A counterexample that shows that something is wrong, not yet what.",
)
def larger_than_needed():
    return torch.randn(2, 3, 4)


@find_scrambled_merge.misconception(
    hint="The input has three axes, heads, n and d_head. A batch in front does not fit the two functions.",
    symptom="ValueError: too many values to unpack.",
)
def with_a_batch():
    return torch.randn(1, 2, 2, 1)


@find_scrambled_merge.misconception(
    hint="That is a row for each token, not yet split. The input has three axes, heads, n and d_head.",
    symptom="ValueError: not enough values to unpack.",
)
def not_yet_split():
    return torch.randn(2, 2)


class _Skeleton(nn.Module):
    """``MultiHeadAttention`` as the notebook gives it."""

    def __init__(self, d_model: int, n_heads: int, bias: bool = True) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model = {d_model} can't be shared out evenly among {n_heads} heads")
        self.n_heads = n_heads
        self.w_q = nn.Linear(d_model, d_model, bias=bias)
        self.w_k = nn.Linear(d_model, d_model, bias=bias)
        self.w_v = nn.Linear(d_model, d_model, bias=bias)
        self.w_o = nn.Linear(d_model, d_model, bias=bias)


State = Mapping[str, Tensor]
Init = Mapping[str, Any]


def _multi_head_reference(
    query: Tensor, key: Tensor | None = None, value: Tensor | None = None, *, state: State, init: Init
) -> Tensor:
    """PyTorch's layer with the same weights, in train mode without dropout; it takes at most one leading axis."""
    key = query if key is None else key
    value = key if value is None else value
    layer = nn.MultiheadAttention(
        init["d_model"], init["n_heads"], bias=init.get("bias", True), batch_first=True, dtype=query.dtype
    )
    one_batch = [given.flatten(0, -3) if given.ndim > 3 else given for given in (query, key, value)]
    output: Tensor = functional_call(layer, packed(state), tuple(one_batch))[0]
    return output.reshape(query.shape)


def _multi_head_naive(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    *,
    state: State,
    init: Init,
    nudge: Nudge = as_is,
) -> Tensor:
    """The formula, on the columns of each head."""
    key = query if key is None else key
    value = key if value is None else value

    def project(x: Tensor, name: str) -> Tensor:
        return nudge(F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias")))

    q, k, v = (
        _columns_of_each_head(project(x, name), init["n_heads"])
        for x, name in ((query, "w_q"), (key, "w_k"), (value, "w_v"))
    )
    scores = nudge(q @ k.mT) / rounded_root(q.shape[-1])
    heads = nudge(naive_softmax(scores, nudge=nudge) @ v)
    return project(_merge_naive(heads), "w_o")


def _multi_head_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, inputs: tuple[Tensor, ...], n_heads: int, bias: bool | None = None, **more: Any) -> Case:
        d_model = inputs[0].shape[-1]
        init = {"d_model": d_model, "n_heads": n_heads} | ({} if bias is None else {"bias": bias})
        state = {}
        for part in ("w_q", "w_k", "w_v", "w_o"):
            # Wider than the usual initialisation: nearly uniform weights would hide which scores they came from.
            state[f"{part}.weight"] = draw.normal(d_model, d_model, scale=1.5 * d_model**-0.5)
            if bias is not False:
                state[f"{part}.bias"] = draw.normal(d_model)
        return Case(name, inputs, init=init, state=state, **more)

    def memory(*lead: int, keys: int, d_model: int) -> tuple[Tensor, Tensor]:
        return draw.normal(*lead, keys, d_model), draw.normal(*lead, keys, d_model)

    yield case("a sentence", (draw.normal(3, 4),), 2, gradients=True)
    yield case("two tokens", (draw.normal(2, 2),), 2, tiny=True)
    yield case("a batch", (draw.normal(2, 5, 8),), 2, gradients=True)
    yield case("no biases", (draw.normal(2, 4, 6),), 3, False, gradients=True)
    yield case("as many sentences as heads", (draw.normal(3, 3, 9),), 3, gradients=True)
    yield case("a batch of one", (draw.normal(1, 4, 6),), 2, True, gradients=True)
    yield case("two leading axes", (draw.normal(2, 3, 4, 6),), 3, gradients=True)
    yield case("a memory", (draw.normal(2, 3, 8), draw.normal(2, 5, 8)), 4, gradients=True)
    yield case("a memory for one sentence", (draw.normal(5, 6), draw.normal(3, 6)), 2)
    yield case("keys and values", (draw.normal(2, 3, 6), *memory(2, keys=5, d_model=6)), 2, gradients=True)
    yield case("keys and values as many as queries", (draw.normal(2, 2, 3, 4), *memory(2, 2, keys=3, d_model=4)), 2)
    yield case("values alone", (draw.normal(2, 4, 6),), 3, kwargs={"value": draw.normal(2, 4, 6)}, gradients=True)
    x = draw.normal(2, 4, 6)
    yield case("query, key and value are one tensor", (x, x, x), 2, gradients=True)
    yield case("eight heads of a wide model", (draw.normal(2, 6, 64),), 8, gradients=True)
    yield case("tokens, heads and widths alike", (draw.normal(4, 4, 16),), 4)
    yield case("columns stored as rows", (draw.normal(2, 2, 5, 6),), 3, layout="transposed", gradients=True)
    yield case("every second number of a row", (draw.normal(2, 5, 6),), 2, layout="strided")
    edge = partial(case, check="edge cases")
    yield edge("one head", (draw.normal(2, 4, 6),), 1)
    yield edge("heads of width one", (draw.normal(2, 4, 4),), 4)
    yield edge("one token asks one token", (draw.normal(2, 1, 6), draw.normal(2, 1, 6)), 3)
    yield edge("one query", (draw.normal(2, 1, 6), draw.normal(2, 5, 6)), 3)
    yield edge("one key", (draw.normal(2, 4, 6), draw.normal(2, 1, 6)), 2)
    yield edge("inputs of 30", (30 * draw.normal(2, 5, 6),), 2, coarse=False)
    wrong = partial(edge, raises=ValueError)
    yield wrong("10 columns among 4 heads: is d_model named?", (draw.normal(3, 10),), 4, says="10")
    yield wrong("10 columns among 4 heads: is n_heads named?", (draw.normal(3, 10),), 4, says="4")


def _tokens_turn_round(answer: Callable[..., Tensor], call: Call) -> str | None:
    query = call.args[0]
    memory = [given.flip(-2) for given in call.args[1:]]
    named = {name: given.flip(-2) for name, given in call.kwargs.items()}
    # Without a memory the tokens are keys and values too, and all turn round together.
    turned = answer(query.flip(-2), *memory, **named)
    gap = float((turned - answer(*call.args, **call.kwargs).flip(-2)).abs().max())
    return None if gap < 1e-4 else "turning all tokens round does not just turn the outputs round"


MultiHeadAttention = Exam(
    TOPIC,
    "MultiHeadAttention",
    _multi_head_reference,
    _multi_head_naive,
    _multi_head_cases,
    (
        Values("values", 2.5),
        Values("edge cases", 0.5),
        Properties(0.25, (_tokens_turn_round,)),
        Habits(0.5),
        Gradients(1.25),
    ),
    may_not_call=(ATTENTION,),
    skeleton=_Skeleton,
)


@MultiHeadAttention.variant
def split_attend_merge(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.variant
def loop_over_heads(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    d_head = q.shape[-1] // self.n_heads
    outputs = []
    for h in range(self.n_heads):
        own = slice(h * d_head, (h + 1) * d_head)
        weights = torch.softmax(q[..., own] @ k[..., own].mT / math.sqrt(d_head), dim=-1)
        outputs.append(weights @ v[..., own])
    return self.w_o(torch.cat(outputs, dim=-1))


@MultiHeadAttention.variant
def einsum_without_transpose(self, query, key=None, value=None):
    if key is None:
        key = query
    if value is None:
        value = key
    q, k, v = (
        layer(x).unflatten(-1, (self.n_heads, -1))
        for layer, x in ((self.w_q, query), (self.w_k, key), (self.w_v, value))
    )
    scores = torch.einsum("...qhd,...khd->...hqk", q, k) / q.shape[-1] ** 0.5
    return self.w_o(torch.einsum("...hqk,...khd->...qhd", F.softmax(scores, dim=-1), v).flatten(-2))


@MultiHeadAttention.variant
def sum_over_heads(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = (layer(x).chunk(self.n_heads, -1) for layer, x in ((self.w_q, query), (self.w_k, key), (self.w_v, value)))
    output = 0 if self.w_o.bias is None else self.w_o.bias
    for own_q, own_k, own_v, columns in zip(q, k, v, self.w_o.weight.chunk(self.n_heads, -1)):
        weights = torch.softmax(own_q @ own_k.mT * own_q.shape[-1] ** -0.5, -1)
        output = output + weights @ own_v @ columns.T
    return output


@MultiHeadAttention.variant
def folded_batch_first(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def fold(x):
        split = x.unflatten(-1, (self.n_heads, -1)).movedim(-2, -3)
        return split.reshape(-1, *split.shape[-2:])

    q, k, v = fold(self.w_q(query)), fold(self.w_k(key)), fold(self.w_v(value))
    weights = torch.baddbmm(torch.zeros((), dtype=q.dtype, device=q.device), q / math.sqrt(q.shape[-1]), k.mT)
    heads = torch.bmm(weights.softmax(-1), v)
    heads = heads.reshape(*query.shape[:-2], self.n_heads, *heads.shape[-2:])
    return self.w_o(heads.transpose(-3, -2).reshape(query.shape))


@MultiHeadAttention.variant
def query_scaled_first(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value
    d_head = query.shape[-1] // self.n_heads
    q, k, v = (
        torch.stack(layer(x).split(d_head, dim=-1), dim=-3)
        for layer, x in ((self.w_q, query), (self.w_k, key), (self.w_v, value))
    )
    scores = (q * d_head**-0.5) @ k.transpose(-1, -2)
    exponentials = torch.exp(scores - scores.amax(-1, keepdim=True))
    heads = (exponentials @ v) / exponentials.sum(-1, keepdim=True)
    return self.w_o(torch.cat(heads.unbind(-3), dim=-1))


@MultiHeadAttention.variant
def root_as_a_float32_tensor(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.view(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    root = torch.sqrt(torch.tensor(q.shape[-1])).to(q.device)
    heads = torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / root, dim=-1), v)
    return self.w_o(heads.transpose(-3, -2).reshape(query.shape))


@MultiHeadAttention.variant
class OwnMethods(nn.Module):
    def __init__(self, d_model, n_heads, bias=True):
        super().__init__()
        self.heads, (self.d_head, rest) = n_heads, divmod(d_model, n_heads)
        if rest:
            raise ValueError(f"{d_model} columns for {n_heads} heads")
        self.w_o, self.w_v, self.w_k, self.w_q = (nn.Linear(d_model, d_model, bias=bias) for _ in range(4))

    def split(self, x):
        return x.view(*x.shape[:-1], self.heads, self.d_head).transpose(-2, -3)

    def attend(self, q, k, v):
        return (q @ k.mT / self.d_head**0.5).softmax(-1) @ v

    def forward(self, query, key=None, value=None):
        key = query if key is None else key
        value = key if value is None else value
        heads = self.attend(self.split(self.w_q(query)), self.split(self.w_k(key)), self.split(self.w_v(value)))
        return self.w_o(heads.transpose(-2, -3).reshape(*query.shape))


@MultiHeadAttention.misconception(
    hint="The heads are merged by `reshape` alone, so that a row holds one head's results for several tokens. Bring "
    "heads and width side by side first.",
    symptom="It trains all the same. Turn the tokens round, or cut the sentence short, and the outputs go astray.",
    seen="https://github.com/jsbaan/transformer-from-scratch/pull/6",
)
def merged_without_transpose(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.reshape(query.shape))


@MultiHeadAttention.misconception(
    hint="You split by `reshape` alone, straight to (heads, n, d_head): head 0 then gets the first tokens instead of "
    "every token's first columns.",
    symptom="Each head attends among pieces of a few tokens. It trains all the same.",
    seen=HYUNWOONGKO_15,
)
def split_without_transpose(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        *lead, n, d_model = x.shape
        return x.reshape(*lead, self.n_heads, n, d_model // self.n_heads)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="Both ways, split and merge, are bare reshapes. They undo each other, but the heads in between hold stretches "
    "of the sentence instead of columns.",
    symptom="Each head sees a few tokens only, the first ones never meet the last. Training does not complain.",
    seen="https://github.com/649453932/Chinese-Text-Classification-Pytorch/issues/10",
)
def reshaped_both_ways(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        *lead, n, d_model = x.shape
        return x.reshape(*lead, self.n_heads, n, d_model // self.n_heads)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.reshape(query.shape))


@MultiHeadAttention.misconception(
    hint="Your scores compare a token's heads with one another: the heads stand where the tokens should, on the last "
    "axis but one.",
    symptom="No token ever sees another one, and shapes fit by themselves where queries and keys are as many.",
)
def attention_among_the_heads(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.flatten(-2))


@MultiHeadAttention.misconception(
    hint="You divide by √d_model. Each head's dot product has d_head terms: divide by √d_head.",
    symptom="Weights are too flat, by a factor of √n_heads in the scores; right with one head.",
    seen="https://github.com/karpathy/ng-video-lecture/pull/6",
)
def heads_scaled_by_root_d_model(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(query.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="The scores are not scaled: divide them by √d_head.",
    symptom="Weights are sharper than they should be, the more so the wider the heads.",
)
def heads_unscaled(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT, dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="You divide by √n_heads. How many terms does one head's dot product have?",
    symptom="Right where heads are as many as each is wide.",
)
def heads_scaled_by_their_number(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(self.n_heads), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="exp of a score of 100 is no number of float32 any more. `torch.softmax` takes the largest score away first.",
    symptom="Right for ordinary inputs; NaN for large ones.",
)
def heads_exponentiated_without_a_shift(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    exponentials = torch.exp(q @ k.mT / math.sqrt(q.shape[-1]))
    heads = exponentials / exponentials.sum(-1, keepdim=True) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="There is one head only: queries, keys and values are never split.",
    symptom="The shapes are right whatever n_heads says, and so is n_heads = 1.",
)
def never_split(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    return self.w_o(torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v)


@MultiHeadAttention.misconception(
    hint="The output projection is missing: w_o takes the heads side by side and mixes them.",
    symptom="The shapes are right, w_o never learns, and no output column depends on more than one head.",
    seen="https://github.com/Kyubyong/transformer/issues/117",
)
def without_w_o(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return heads.transpose(-3, -2).flatten(-2)


@MultiHeadAttention.misconception(
    hint="You split first and then send every head through one small Linear. All heads share it, and none sees more "
    "than its own columns of the input. Project from d_model to d_model first, then split.",
    symptom="The parameters are (d_head, d_head); weights trained elsewhere do not fit.",
    seen="https://github.com/aladdinpersson/Machine-Learning-Collection/issues/3",
)
class OneSmallLinearForAllHeads(nn.Module):
    def __init__(self, d_model, n_heads, bias=True):
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model = {d_model} can't be shared out evenly among {n_heads} heads")
        self.n_heads, d_head = n_heads, d_model // n_heads
        self.w_q = nn.Linear(d_head, d_head, bias=bias)
        self.w_k = nn.Linear(d_head, d_head, bias=bias)
        self.w_v = nn.Linear(d_head, d_head, bias=bias)
        self.w_o = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, query, key=None, value=None):
        key = query if key is None else key
        value = key if value is None else value

        def split(x):
            return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

        q, k, v = self.w_q(split(query)), self.w_k(split(key)), self.w_v(split(value))
        heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
        return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="The layer takes any d_model and n_heads. One that is no multiple of the other has to be a `ValueError` with "
    "both numbers, when the layer is made.",
    symptom="The layer is made without a word; its first call stops somewhere in a reshape.",
)
class AnyNumberOfHeads(nn.Module):
    def __init__(self, d_model, n_heads, bias=True):
        super().__init__()
        self.n_heads = n_heads
        self.w_q = nn.Linear(d_model, d_model, bias=bias)
        self.w_k = nn.Linear(d_model, d_model, bias=bias)
        self.w_v = nn.Linear(d_model, d_model, bias=bias)
        self.w_o = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, query, key=None, value=None):
        key = query if key is None else key
        value = key if value is None else value

        def split(x):
            return x.reshape(*x.shape[:-1], self.n_heads, x.shape[-1] // self.n_heads).transpose(-3, -2)

        q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
        heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
        return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="All heads use the rows of head 0: w_q, w_k and w_v hold a block of rows for each head.",
    symptom="All heads look at the same places, so that several of them are no more than one.",
)
def one_block_shared_by_the_heads(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value
    d_head = query.shape[-1] // self.n_heads
    q, k, v = self.w_q(query)[..., :d_head], self.w_k(key)[..., :d_head], self.w_v(value)[..., :d_head]
    head = torch.softmax(q @ k.mT / math.sqrt(d_head), dim=-1) @ v
    return self.w_o(torch.cat([head] * self.n_heads, dim=-1))


@MultiHeadAttention.misconception(
    hint="Heads and batch are folded into one axis in one order and unfolded in the other: (heads, batch) is not "
    "(batch, heads). Keep an axis for each.",
    symptom="Right on one sentence; with a batch the heads of different sentences are merged into one token.",
    seen=GAZELLE_1,
)
def folded_heads_first_unfolded_batch_first(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def fold(x):
        return torch.cat(x.flatten(0, -3).chunk(self.n_heads, dim=-1)) if x.ndim > 2 else split(x)

    def split(x):
        return torch.stack(x.chunk(self.n_heads, dim=-1))

    q, k, v = fold(self.w_q(query)), fold(self.w_k(key)), fold(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    heads = heads.reshape(*query.shape[:-2], self.n_heads, *heads.shape[-2:])
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="The columns are dealt out to the heads like cards, h, h + heads, … Head h has d_head columns in a row.",
    symptom="It trains just as well; with PyTorch's weights it computes something else.",
)
def heads_dealt_like_cards(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], -1, self.n_heads).movedim(-1, -3)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.movedim(-3, -1).flatten(-2))


@MultiHeadAttention.misconception(
    hint="You make d_model / n_heads heads of width n_heads: the two numbers have changed places.",
    symptom="Right where both are the same, as with 64 columns and 8 heads.",
)
def number_and_width_exchanged(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], -1, self.n_heads).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="Keys and values come from the queries' sequence whatever is given: `key` and `value` are never used.",
    symptom="Right in self-attention; with a memory the queries look at themselves.",
    seen="https://github.com/Khaliladib11/Transformer-from-scratch/issues/1",
)
def memory_ignored(self, query, key=None, value=None):
    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(query)), split(self.w_v(query))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="Without `value` you take the query. What the keys' tokens hand over is their own: value defaults to key.",
    symptom="Right in self-attention; with a memory as long as the queries' sequence silently wrong, else an error.",
)
def value_defaults_to_query(self, query, key=None, value=None):
    key = query if key is None else key
    value = query if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="`value` is never used: the values come from `key`, even if there are others.",
    symptom="Right wherever keys and values are one tensor.",
)
def values_taken_from_the_keys(self, query, key=None, value=None):
    key = query if key is None else key

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(key))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="Without `key` you stop looking at `value`, too. They default one by one.",
    symptom="Right unless only `value` is given.",
)
def value_forgotten_without_key(self, query, key=None, value=None):
    if key is None:
        key = value = query
    elif value is None:
        value = key

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="`key or query` asks a tensor whether it is true. Ask whether it is None: `if key is None`.",
    symptom="Right in self-attention; with a memory RuntimeError: Boolean value of Tensor is ambiguous.",
)
def tensors_asked_for_truth(self, query, key=None, value=None):
    key = key or query
    value = value or key

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="w_q projects queries, keys and values alike. Each role has its own projection.",
    symptom="Scores are symmetric in self-attention, and w_k and w_v never learn.",
)
def w_q_for_all_roles(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_q(key)), split(self.w_q(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="The keys go through w_q, as the queries do. They have a projection of their own.",
    symptom="Scores are symmetric in self-attention, and w_k never learns.",
)
def keys_through_w_q(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_q(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="The values go through w_k, as the keys do. They have a projection of their own.",
    symptom="It trains, a little worse, and w_v never learns.",
)
def values_through_w_k(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_k(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="The queries go through w_k and the keys through w_q.",
    symptom="It trains just as well; with PyTorch's weights it computes something else.",
)
def w_q_and_w_k_exchanged(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_k(query)), split(self.w_q(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="The biases are left out: use the module, `self.w_q(x)`, not its weight alone.",
    symptom="Right with `bias=False`.",
)
def biases_left_out(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = query @ self.w_q.weight.T, key @ self.w_k.weight.T, value @ self.w_v.weight.T
    q, k, v = split(q), split(k), split(v)
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return heads.transpose(-3, -2).flatten(-2) @ self.w_o.weight.T


@MultiHeadAttention.misconception(
    hint="`x @ self.w_q.weight` multiplies by the transpose: `nn.Linear` stores (d_out, d_in). Call the module.",
    symptom="The shapes fit, since all are square. It trains as well; with PyTorch's weights it is something else.",
)
def linear_weights_as_stored(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def project(x, layer):
        return x @ layer.weight + (0 if layer.bias is None else layer.bias)

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(project(query, self.w_q)), split(project(key, self.w_k)), split(project(value, self.w_v))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return project(heads.transpose(-3, -2).flatten(-2), self.w_o)


@MultiHeadAttention.misconception(
    hint="You add w_o's bias once for each head. The sum over heads is one product, and has one bias.",
    symptom="Right without biases; else every output is off by the same vector.",
)
def bias_of_w_o_for_each_head(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = (layer(x).chunk(self.n_heads, -1) for layer, x in ((self.w_q, query), (self.w_k, key), (self.w_v, value)))
    output = 0
    for own_q, own_k, own_v, columns in zip(q, k, v, self.w_o.weight.chunk(self.n_heads, -1)):
        weights = torch.softmax(own_q @ own_k.mT / math.sqrt(own_q.shape[-1]), -1)
        output = output + F.linear(weights @ own_v, columns, self.w_o.bias)
    return output


@MultiHeadAttention.misconception(
    hint="Your softmax runs over the heads (axis 1) or the queries. Each query's weights over the keys sum to one.",
    symptom="Right on one sentence. With a batch the heads compete with one another for every pair.",
    seen="https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/282",
)
def softmax_over_the_heads(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="The softmax runs over the queries, dim −2. Each query's weights over the keys sum to one.",
    symptom="Each key hands out one unit of attention, and a query may get next to nothing.",
)
def heads_softmax_over_the_queries(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-2) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="You take for granted that there is exactly one batch axis. Let `...` stand for whatever is in front.",
    symptom="Right on (batch, n, d_model); an error on one sentence, and on two leading axes.",
)
def needs_one_batch_axis(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value
    batch, n_queries, d_model = query.shape

    def split(x):
        return x.view(batch, -1, self.n_heads, d_model // self.n_heads).transpose(1, 2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(1, 2).reshape(batch, n_queries, d_model))


@MultiHeadAttention.misconception(
    hint="`transpose(1, 2)` counts axes from the front: it hits heads and tokens only behind exactly one batch axis. "
    "Count from behind.",
    symptom="Right with a batch; wrong or an error on one sentence, and on two leading axes.",
)
def axes_counted_from_the_front(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, x.shape[-1] // self.n_heads).transpose(1, 2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(1, 2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="You take the first axis for the batch and let `-1` find the rest. On one sentence the first axis is the "
    "tokens, and two leading axes become one: keep whatever stands in front.",
    symptom="Right on (batch, n, d_model); on one sentence every token sees itself alone.",
)
def batch_read_off_the_first_axis(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value
    batch, d_model = query.shape[0], query.shape[-1]

    def split(x):
        return x.reshape(batch, -1, self.n_heads, d_model // self.n_heads).transpose(1, 2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(1, 2).reshape(batch, -1, d_model))


@MultiHeadAttention.misconception(
    hint="You reshape keys and values with the number of queries. A memory has a length of its own.",
    symptom="Right in self-attention; an error as soon as queries and keys differ in number.",
    seen="https://github.com/harvard-edge/cs249r_book/pull/1875",
)
def keys_counted_as_queries(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value
    *lead, n, d_model = query.shape

    def split(x):
        return x.reshape(*lead, n, self.n_heads, d_model // self.n_heads).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).reshape(*lead, n, d_model))


@MultiHeadAttention.misconception(
    hint="You add the input to the output. The residual connection belongs to the block around this layer.",
    symptom="The output is off by exactly the query.",
)
def residual_included(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    heads = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
    return query + self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="You hide the tokens that come later. Nothing asks for a causal mask here.",
    symptom="The first token sees itself only.",
)
def heads_causal_unasked(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    heads = torch.softmax(scores.masked_fill(later, -math.inf), dim=-1) @ v
    return self.w_o(heads.transpose(-3, -2).flatten(-2))


@MultiHeadAttention.misconception(
    hint="Only the output is asked for. `nn.MultiheadAttention` gives the weights as well, this layer does not.",
    symptom="A tuple where a tensor is asked for: the next layer stops with an error.",
)
def output_and_weights(self, query, key=None, value=None):
    key = query if key is None else key
    value = key if value is None else value

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(-3, -2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2)), weights
