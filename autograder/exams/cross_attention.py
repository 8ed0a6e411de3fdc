"""The exams of *cross-attention*: queries from one sequence, keys and values from another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autograder.answer.guard import Operators
from autograder.engine.checks import Gradients, Habits, Properties, Values
from autograder.engine.exam import Case, Draw, Exam, Nudge, as_is
from autograder.engine.subject import Call
from autograder.exams.masking import REFUSAL, naive_masked_softmax

TOPIC = "cross_attention"
LAYERS = Operators(
    "a ready-made attention layer", ("*multi_head_attention*", "MultiheadAttention", "Transformer*", "*flex_attention*")
)


def _sdpa(
    x: Tensor, memory: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, memory_mask: Tensor | None = None
) -> Tensor:
    # A memory of which nothing may be read comes out as zeros, and sends back zeros, as our masks want it.
    mask = None if memory_mask is None else memory_mask.unsqueeze(-2)
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(x @ w_q, memory @ w_k, memory @ w_v, mask)


def _cross_naive(
    x: Tensor,
    memory: Tensor,
    w_q: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    memory_mask: Tensor | None = None,
    nudge: Nudge = as_is,
) -> Tensor:
    q, k, v = nudge(x @ w_q), nudge(memory @ w_k), nudge(memory @ w_v)
    # √d_k in float32, as `torch.tensor(d_k).sqrt()` gives it: written so everywhere, and right enough.
    scores = nudge(q @ k.mT) / float(torch.tensor(float(q.shape[-1])).sqrt())
    mask = None if memory_mask is None else memory_mask.unsqueeze(-2)
    return naive_masked_softmax(scores, mask, nudge=nudge) @ v


def _readable(draw: Draw, *shape: int) -> Tensor:
    """A random mask of the memory with something to read, and something that is hidden, in every row."""
    mask = draw.uniform(0.0, 1.0, *shape) < 0.6
    first = draw.uniform(0.0, 1.0, *shape[:-1], 1)[..., 0] < 0.5
    mask[..., 0], mask[..., -1] = first, ~first
    return mask


def _padded(*lengths: int, n_keys: int) -> Tensor:
    return torch.arange(n_keys) < torch.tensor(lengths)[:, None]


def _cross_inputs(
    draw: Draw, lead: tuple[int, ...], n_queries: int, n_keys: int, widths: tuple[int, int, int, int]
) -> tuple[Tensor, ...]:
    """x, memory and the three projections; ``widths`` are d_model, d_memory, d_k and d_v."""
    d_model, d_memory, d_k, d_v = widths
    x, memory = draw.normal(*lead, n_queries, d_model), draw.normal(*lead, n_keys, d_memory)
    # Scores of ordinary size, so that no weight is lost in another's shadow.
    w_q, w_k = draw.normal(d_model, d_k, scale=1.3 * d_model**-0.5), draw.normal(d_memory, d_k, scale=d_memory**-0.5)
    return x, memory, w_q, w_k, draw.normal(d_memory, d_v, scale=d_memory**-0.5)


ALL_DIFFER, ALL_ALIKE, ONE_MODEL = (4, 6, 3, 5), (4, 4, 4, 4), (6, 6, 3, 4)


def _cross_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, mask: Tensor | None, *sizes: Any, **more: Any) -> Case:
        kwargs = {} if mask is None else {"memory_mask": mask}
        return Case(name, _cross_inputs(draw, *sizes), kwargs, **more)

    yield case("one sentence", None, (), 3, 5, ALL_DIFFER, gradients=True, tiny=True)
    yield case("a batch", None, (2,), 3, 5, ALL_DIFFER, gradients=True)
    yield case("a batch, one width", None, (2,), 4, 6, ALL_ALIKE, gradients=True)
    yield case("as many queries as keys", None, (2,), 5, 5, ALL_DIFFER)
    yield case("as many queries as keys, one width", None, (2,), 4, 4, ALL_ALIKE, gradients=True)
    yield case("more queries than keys", None, (2,), 6, 3, ONE_MODEL, gradients=True)
    yield case("x and memory of one width", None, (2,), 3, 5, ONE_MODEL)
    yield case("batch and heads", None, (2, 3), 4, 6, (4, 6, 8, 5), gradients=True)
    yield case("a batch of one", None, (1,), 4, 6, ALL_DIFFER)
    yield case("d_k = 64", None, (2,), 4, 6, (8, 12, 64, 3), gradients=True)
    yield case("many keys", None, (), 3, draw.integer(100, 150), ALL_DIFFER)
    yield case("columns stored as rows", None, (2, 3), 4, 6, ALL_DIFFER, layout="transposed", gradients=True)
    yield case("every second number of a row", None, (2,), 4, 6, ALL_DIFFER, layout="strided")
    _, *same = _cross_inputs(draw, (2,), 5, 5, ALL_ALIKE)
    yield Case("the memory is x itself", (same[0], *same), {"memory_mask": None}, gradients=True)
    x, memory, w_q, w_k, _ = _cross_inputs(draw, (2,), 3, 5, ALL_ALIKE)
    yield Case("one projection for keys and values", (x, memory, w_q, w_k, w_k), gradients=True)
    x, _, *weights = _cross_inputs(draw, (3,), 3, 5, ALL_DIFFER)
    yield Case("one memory for the whole batch", (x, draw.normal(5, 6), *weights), gradients=True)
    yield case("one query, one key", None, (), 1, 1, ALL_DIFFER)
    yield case("one key", None, (2,), 4, 1, ALL_DIFFER)
    yield case("d_k = 1 and d_v = 1", None, (2,), 3, 5, (4, 6, 1, 1))
    yield from _padded_cases(draw, partial(case, check="padding"))
    edge = partial(case, check="nothing to read")
    yield edge("one memory of three is empty", _padded(3, 0, 5, n_keys=5), (3,), 4, 5, ALL_DIFFER, gradients=True)
    yield edge("one sentence, all hidden", torch.zeros(5, dtype=torch.bool), (), 3, 5, ALL_DIFFER, gradients=True)
    yield edge("all memories are empty", _padded(0, 0, n_keys=4), (2,), 4, 4, ALL_ALIKE, gradients=True)
    heads = _readable(draw, 2, 3, 4)
    heads[1, 2] = False
    yield edge("one head of one sentence sees nothing", heads, (2, 3), 3, 4, ALL_ALIKE, gradients=True)
    yield from _cross_extremes(draw)
    refused = partial(case, check="masks refused", raises=REFUSAL)
    past = torch.ones(4, 5, dtype=torch.bool).tril()
    yield refused("a mask of numbers", _padded(4, 2, n_keys=5).double(), (2,), 3, 5, ALL_DIFFER)
    yield refused("a mask of ones and zeros", _padded(4, 2, n_keys=5).long(), (2,), 3, 5, ALL_DIFFER)
    yield refused("a row for each query", past, (), 4, 5, ALL_DIFFER)
    yield refused("a row for each query, and a batch", past.expand(4, 4, 5), (4,), 4, 5, ALL_DIFFER)
    yield refused("a mask with a batch that x lacks", _padded(4, 2, n_keys=5), (), 3, 5, ALL_DIFFER)
    yield refused("a mask with axes for heads and queries", past[None, None, :1], (2,), 3, 5, ALL_DIFFER)


def _padded_cases(draw: Draw, case: Callable[..., Case]) -> Iterator[Case]:
    yield case("one sentence, its end hidden", _readable(draw, 5), (), 3, 5, ALL_DIFFER, gradients=True, tiny=True)
    yield case("a batch, padded", _padded(5, 2, n_keys=5), (2,), 3, 5, ALL_DIFFER, gradients=True)
    yield case("a batch, padded on the left", ~_padded(2, 0, 4, n_keys=5), (3,), 4, 5, ALL_DIFFER)
    yield case("as many sentences as queries", _padded(5, 2, 3, n_keys=5), (3,), 3, 5, ALL_DIFFER, gradients=True)
    yield case("as many sentences as keys", _readable(draw, 4, 4), (4,), 3, 4, ALL_DIFFER, gradients=True)
    yield case("as many sentences as queries and keys", _readable(draw, 4, 4), (4,), 4, 4, ALL_ALIKE, gradients=True)
    yield case("as many queries as keys", _readable(draw, 2, 5), (2,), 5, 5, ALL_ALIKE, gradients=True)
    yield case("more queries than keys", _readable(draw, 2, 3), (2,), 6, 3, ONE_MODEL, gradients=True)
    yield case("one mask for the whole batch", _readable(draw, 5), (2,), 3, 5, ALL_DIFFER)
    yield case("batch and heads, a mask for each sentence", _readable(draw, 2, 1, 6), (2, 3), 4, 6, ALL_DIFFER)
    yield case("batch and heads, a mask for each head", _readable(draw, 2, 3, 6), (2, 3), 4, 6, ALL_DIFFER)
    yield case("as many sentences as heads", _readable(draw, 3, 1, 4), (3, 3), 4, 4, ALL_ALIKE)
    yield case("a batch of one", _readable(draw, 1, 5), (1,), 3, 5, ALL_DIFFER, gradients=True)
    yield case("one query, as in generation", _readable(draw, 2, 5), (2,), 1, 5, ALL_DIFFER)
    yield case("nothing is hidden", _padded(5, 5, n_keys=5), (2,), 3, 5, ALL_DIFFER)
    yield case("columns stored as rows", _readable(draw, 2, 3, 6), (2, 3), 4, 6, ALL_DIFFER, layout="transposed")
    yield case("every second number of a row", _readable(draw, 2, 6), (2,), 4, 6, ALL_DIFFER, layout="strided")
    x, memory, *weights = _cross_inputs(draw, (2, 3), 2, 5, ALL_DIFFER)
    args = (x, memory[:, :1].clone(), *weights)
    yield Case(
        "three beams read one memory", args, {"memory_mask": _readable(draw, 2, 1, 5)}, check="padding", gradients=True
    )


def _cross_extremes(draw: Draw) -> Iterator[Case]:
    def edge(name: str, x: Tensor, memory: Tensor, **more: Any) -> Case:
        identity = torch.eye(4, dtype=torch.float64)
        kwargs = {"memory_mask": mask}
        return Case(name, (x, memory, identity, identity, identity), kwargs, check="large scores", coarse=False, **more)

    mask = _readable(draw, 2, 6)
    mask[:, 0], mask[:, 1] = True, False
    x, memory = draw.normal(2, 3, 4), draw.normal(2, 6, 4)
    yield edge("scores up to ±10⁴", 100 * x, 100 * memory)
    # Every query asks for the second row, which is hidden.
    ask = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    second = (torch.arange(6) == 1)[:, None]
    loud = torch.where(second, 60.0, 0.0) * ask
    yield edge("a hidden score 60 above the rest", 2 * ask + 0.1 * x, loud + 0.1 * memory, gradients=True)
    low = torch.where(second, 0.0, -100.0) * ask
    yield edge("scores around −10⁴, a hidden one around 0", 200 * ask + x, low + 0.1 * memory)


def _apart(one: Tensor, other: Tensor) -> bool:
    return one.shape != other.shape or not bool(((one - other).abs() <= 1e-6 * (1 + other.abs())).all())


def _each_query_alone(answer: Callable[..., Tensor], call: Call) -> str | None:
    x, *rest = call.args
    backwards = answer(x.flip(-2), *rest, **call.kwargs).flip(-2)
    wrong = _apart(backwards, answer(x, *rest, **call.kwargs))
    return "queries in another order must give the outputs in that order" if wrong else None


def _memory_is_a_set(answer: Callable[..., Tensor], call: Call) -> str | None:
    x, memory, *rest = call.args
    mask = call.kwargs.get("memory_mask")
    turned = None if mask is None else mask.flip(-1)
    wrong = _apart(answer(x, memory.flip(-2), *rest, memory_mask=turned), answer(x, memory, *rest, memory_mask=mask))
    return "the memory in another order, mask and all, must give the same outputs" if wrong else None


def _hidden_rows_do_not_matter(answer: Callable[..., Tensor], call: Call) -> str | None:
    x, memory, *rest = call.args
    mask = call.kwargs.get("memory_mask")
    if mask is None or mask.shape[:-1] != memory.shape[:-2]:
        return None
    other = torch.where(mask.unsqueeze(-1), memory, 3 - memory)
    wrong = _apart(answer(x, other, *rest, memory_mask=mask), answer(x, memory, *rest, memory_mask=mask))
    return "the output changes with rows of the memory that are hidden" if wrong else None


cross_attention = Exam(
    TOPIC,
    "cross_attention",
    _sdpa,
    _cross_naive,
    _cross_cases,
    (
        Values("values", 1.25),
        Values("padding", 1),
        Values("nothing to read", 0.5),
        Values("large scores", 0.25),
        Values("masks refused", 0.25),
        Properties(0.5, (_each_query_alone, _memory_is_a_set, _hidden_rows_do_not_matter), on="padding"),
        # Whoever writes into a mask does it at the latest where a row of it is empty.
        Habits(0.25, on="nothing to read"),
        Gradients(1),
    ),
    may_not_call=(LAYERS,),
)


@cross_attention.variant
def projected_scored_masked(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is None:
        return torch.softmax(scores, dim=-1) @ v
    mask = memory_mask.unsqueeze(-2)
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, not {mask.dtype}")
    if torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
        raise ValueError(f"a mask {tuple(memory_mask.shape)} for scores {tuple(scores.shape)}")
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1)
    return weights.masked_fill(~mask, 0.0) @ v


@cross_attention.variant
def handed_to_sdpa(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    mask = None
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        try:
            mask = memory_mask[..., None, :].expand(*q.shape[:-1], k.shape[-2])
        except RuntimeError as error:
            raise ValueError("the mask does not fit the scores") from error
    return F.scaled_dot_product_attention(q, k, v, mask)


@cross_attention.variant
def minus_infinity_and_no_nan(x, memory, w_q, w_k, w_v, memory_mask=None):
    q = x @ w_q * w_q.shape[-1] ** -0.5
    scores = q @ (memory @ w_k).transpose(-2, -1)
    if memory_mask is not None:
        mask = memory_mask[..., None, :]
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ (memory @ w_v)


@cross_attention.variant
def queries_meet_the_memory_itself(x, memory, w_q, w_k, w_v, memory_mask=None):
    # Brackets the other way round: keys and values are never made.
    scores = (x @ w_q @ w_k.mT) @ memory.mT / math.sqrt(w_k.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("the mask is larger than the scores")
        empty = ~mask.any(-1, keepdim=True)
        weights = torch.softmax(scores.masked_fill(~mask & ~empty, -math.inf), -1).masked_fill(empty, 0.0)
    else:
        weights = torch.softmax(scores, -1)
    return weights @ memory @ w_v


@cross_attention.variant
def one_query_after_another(x, memory, w_q, w_k, w_v, memory_mask=None):
    k, v = memory @ w_k, memory @ w_v
    outputs = []
    for i in range(x.shape[-2]):
        q = x[..., i, :] @ w_q
        scores = (k @ q.unsqueeze(-1)).squeeze(-1) / math.sqrt(q.shape[-1])
        if memory_mask is not None:
            if memory_mask.dtype != torch.bool:
                raise TypeError("a mask is boolean")
            if torch.broadcast_shapes(memory_mask.shape, scores.shape) != scores.shape:
                raise ValueError("the mask is larger than the scores")
            scores = scores.masked_fill(~memory_mask, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, -1)
        if memory_mask is not None:
            weights = weights * memory_mask
        outputs.append((weights.unsqueeze(-2) @ v).squeeze(-2))
    return torch.stack(outputs, dim=-2)


@cross_attention.variant
def in_einsums(x, memory, w_q, w_k, w_v, memory_mask=None):
    q = torch.einsum("...qm,mk->...qk", x, w_q)
    k = torch.einsum("...nm,mk->...nk", memory, w_k)
    v = torch.einsum("...nm,mv->...nv", memory, w_v)
    scores = torch.einsum("...qk,...nk->...qn", q, k) / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        mask = memory_mask.unsqueeze(-2)
        if torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("the mask is larger than the scores")
        scores = torch.where(mask, scores, -math.inf)
        top = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min).detach()
        exps = torch.exp(scores - top)
        weights = exps / exps.sum(-1, keepdim=True).clamp(min=1e-30)
    else:
        weights = torch.softmax(scores, -1)
    return torch.einsum("...qn,...nv->...qv", weights, v)


@cross_attention.misconception(
    hint="You hide the later rows of the memory from the earlier queries. The source has been read to its end; what a "
    "decoder must not see is its own future.",
    symptom="The first word of a translation sees only the source's first word; a reversed order can't be learned.",
    seen="https://github.com/onlybooks/llm/issues/4",
)
def causal_mask_on_the_memory(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).tril()
    if memory_mask is not None:
        rows = memory_mask.unsqueeze(-2)
        if rows.dtype != torch.bool or torch.broadcast_shapes(rows.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        mask = mask & rows
    return torch.softmax(scores.masked_fill(~mask, -math.inf), -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="You lay the mask along the queries, as if it were the target's. It says which rows of the *memory* count: "
    "its axis is that of the keys.",
    symptom="An error, or, with as many queries as keys, outputs that vanish while the padding is read.",
    seen="https://github.com/keras-team/keras-io/pull/1046",
)
def targets_mask_on_the_memory(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-1)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask that does not enlarge the scores is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="The mask lacks an axis for the queries. (batch, keys) meets (queries, keys) from the right: your batch "
    "stands where the queries are.",
    symptom="An error; with as many sentences as queries, the mask of a sentence on one query of all.",
)
def batch_of_masks_meets_the_queries(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, scores.shape) != scores.shape:
            raise ValueError("the mask is larger than the scores")
        scores = scores.masked_fill(~memory_mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="`mask[:, None]` counts from the front: it fits exactly one leading axis. Count from behind.",
    symptom="Right on a batch. Without one, or with heads, the mask is refused or lies along the wrong axis.",
)
def mask_of_exactly_one_leading_axis(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask[:, None]
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="`mask[:, None, :]` takes for granted that the mask is (batch, keys). Count from behind: it may be (keys,).",
    symptom="Right on a batch. One sentence is an error, and with heads the sentences' masks meet the heads.",
)
def mask_of_exactly_two_axes(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask[:, None, :]
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="Your keys and values come from `x`: that is self-attention. Where does the memory come in?",
    symptom="The decoder trains, and says the same whatever the source is.",
    seen="https://github.com/keitakurita/Practical_NLP_in_PyTorch/issues/1",
)
def memory_never_read(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, x @ w_k, x @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="Your queries come from the memory, and `x` is asked. There must be one output for each row of `x`.",
    symptom="As many outputs as the memory has rows; right shapes only where the lengths agree.",
    seen="https://github.com/humza909/LLM_Survey/issues/2",
)
def sides_exchanged(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = memory @ w_q, x @ w_k, x @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="The keys are the memory's, the values are not: a weight on a row of the memory must fetch that row.",
    symptom="An error unless both sequences are equally long; then the decoder averages its own words.",
)
def values_from_x(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, x @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="You average the rows of the memory as they are. What is averaged are values, and `w_v` makes them.",
    symptom="The output is as wide as the memory, and `w_v` gets no gradient.",
)
def memory_for_values(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k = x @ w_q, memory @ w_k
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ memory


@cross_attention.misconception(
    hint="You average the keys. They are there to be found by; what is handed over has a projection of its own.",
    symptom="The output is as wide as a key, and `w_v` gets no gradient.",
)
def keys_for_values(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k = x @ w_q, memory @ w_k
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ k


@cross_attention.misconception(
    hint="The scores are not scaled. What is the spread of a sum of d_k products?",
    symptom="The weights are too sharp, the more so the wider the keys are.",
)
def cross_scores_unscaled(x, memory, w_q, w_k, w_v, memory_mask=None):
    scores = x @ w_q @ (memory @ w_k).mT
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ (memory @ w_v)


@cross_attention.misconception(
    hint="You divide by the root of the input's width. The dot product has as many terms as a query has numbers.",
    symptom="Right where d_model and d_k agree, too flat or too sharp elsewhere.",
)
def scaled_by_the_inputs_width(x, memory, w_q, w_k, w_v, memory_mask=None):
    scores = x @ w_q @ (memory @ w_k).mT / math.sqrt(x.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ (memory @ w_v)


@cross_attention.misconception(
    hint="You divide by the root of the memory's width. A score is a sum of products of *projected* numbers: how many?",
    symptom="The weights are too flat wherever the memory is wider than a key.",
)
def scaled_by_the_memorys_width(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(memory.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="`F.scaled_dot_product_attention` scales by itself. You have scaled already.",
    symptom="The weights are too flat, the more so the wider the keys are.",
)
def scaled_before_sdpa_scales(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q / math.sqrt(w_q.shape[-1]), memory @ w_k, memory @ w_v
    mask = None
    if memory_mask is not None:
        mask, asked = memory_mask.unsqueeze(-2), torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        asked = (*asked, q.shape[-2], k.shape[-2])
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, asked) != asked:
            raise ValueError("a boolean mask of the memory is asked for")
    return F.scaled_dot_product_attention(q, k, v, mask)


@cross_attention.misconception(
    hint="You apply the projections as `nn.Linear` does, transposed. Here they are (in, out): `x @ w_q`.",
    symptom="An error unless a projection is square; then other numbers, and nothing that tells.",
)
def projections_transposed(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = F.linear(x, w_q), F.linear(memory, w_k), F.linear(memory, w_v)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="`k.T` turns all axes round, the batch's too. Swap the last two only.",
    symptom="Right on one sentence; on a batch the sentences meet each other, or an error.",
)
def keys_turned_round(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.permute(*range(k.ndim - 1, -1, -1)) / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="You swap axes 1 and 2 by number. Count from behind, so that any number of axes may stand in front.",
    symptom="Right with exactly one axis in front; an error on one sentence, and heads mixed with tokens on four axes.",
)
def memory_axes_by_number(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="`torch.bmm` and letters such as `bqd` want exactly one axis in front. Let `@` or `...` take what comes.",
    symptom="Right on a batch; an error on one sentence, on four axes, and with one memory for all.",
)
def attention_needs_a_batch(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = torch.bmm(q, k.mT) / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.bmm(torch.softmax(scores, -1).nan_to_num(0.0), v)


@cross_attention.misconception(
    hint="The softmax runs over the queries: they compete for each row of the memory. It is the rows of the memory "
    "that compete for a query.",
    symptom="A query's weights don't sum to one, and its output changes with the other queries.",
)
def queries_compete(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -2).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="`softmax(dim=1)` is the keys' axis only on two axes. On a batch it runs over the queries: count from behind.",
    symptom="Right on one sentence. On a batch the weights of a query don't sum to one.",
)
def softmax_along_axis_one(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, 1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="True means *may be read* here. You hide what is True, as `memory_key_padding_mask` of PyTorch's layers does.",
    symptom="The decoder reads the padding and nothing else.",
)
def reads_what_is_hidden(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="`memory_mask` is never used.",
    symptom="Right until a memory is padded; then a sentence's translation depends on how long its neighbours are.",
    seen="https://github.com/pytorch/tutorials/issues/593",
)
def padding_is_read(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


@cross_attention.misconception(
    hint="Hidden rows take their share in the softmax before you remove them. What is left no longer sums to one.",
    symptom="Outputs are too small, the more so the more padding there is.",
)
def hidden_rows_take_their_share(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, weights.shape) != weights.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        weights = weights * mask
    return weights @ v


@cross_attention.misconception(
    hint="You blank the hidden rows of the memory. A key of zeros has a score of 0, which is a score like any other.",
    symptom="Padding still takes part of the attention, and hands over nothing: outputs are too small.",
)
def memory_times_the_mask(x, memory, w_q, w_k, w_v, memory_mask=None):
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if len(memory_mask.shape) >= len(memory.shape):
            raise ValueError("the mask is larger than the memory")
        memory = memory * memory_mask.unsqueeze(-1)
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


@cross_attention.misconception(
    hint="You multiply the scores by the mask. A score of zero is a score, and may well be the largest.",
    symptom="Hidden rows keep a weight, and where nothing may be read the mean of all rows comes out.",
)
def scores_times_the_mask(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores * mask
    return torch.softmax(scores, -1) @ v


@cross_attention.misconception(
    hint="Where nothing may be read all scores are −∞, and softmax gives NaN. The output has to be zero there.",
    symptom="One empty memory in the batch, and the loss is NaN.",
)
def nan_for_an_empty_memory(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1) @ v


@cross_attention.misconception(
    hint="Where nothing may be read all scores are equally low, so each hidden row gets an equal share. It is to be "
    "none.",
    symptom="An empty source hands over the mean of its padding.",
)
def mean_of_an_empty_memory(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, -1) @ v


@cross_attention.misconception(
    hint="The NaN is cleaned from the output, after the product with the values. On the way back it is still there.",
    symptom="Outputs are right. After one empty memory the gradients of the projections are NaN.",
)
def nan_left_in_the_gradient(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores + torch.zeros_like(scores).masked_fill(~mask, -math.inf)
    output = torch.softmax(scores, -1) @ v
    return torch.where(output.isnan(), torch.zeros_like(output), output)


@cross_attention.misconception(
    hint="To spare the softmax an empty row you open it, and you do so in the caller's own mask. Open it in a copy.",
    symptom="The first call is right. In the next layer, which gets the same mask, the empty memory is read.",
)
def empty_rows_opened_in_the_callers_mask(x, memory, w_q, w_k, w_v, memory_mask=None):
    scores = (x @ w_q) @ (memory @ w_k).mT / math.sqrt(w_q.shape[-1])
    if memory_mask is None:
        return torch.softmax(scores, dim=-1) @ (memory @ w_v)
    mask = memory_mask.unsqueeze(-2)
    if mask.dtype != torch.bool:
        raise TypeError("a mask is boolean")
    if torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
        raise ValueError("the mask is larger than the scores")
    empty = ~mask.any(-1, keepdim=True)
    mask |= empty
    weights = torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1)
    return weights.masked_fill(empty, 0.0) @ (memory @ w_v)


@cross_attention.misconception(
    hint="All sentences get the first one's mask. Each memory has its own.",
    symptom="Right for a batch of one.",
)
def first_memorys_mask_for_all(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        while mask.ndim > 2:
            mask = mask[0]
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="The memory leaves the graph (`detach`, `no_grad`): the encoder that made it can't learn.",
    symptom="Outputs are right, the encoder's gradient is missing, and its weights stay as they were drawn.",
)
def encoder_gets_no_gradient(x, memory, w_q, w_k, w_v, memory_mask=None):
    memory = memory.detach()
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="Look at the mask before you use it: a mask of numbers and one that enlarges the scores are to be refused.",
    symptom="A mask with a batch of its own, and one output becomes a batch of them.",
)
def any_memory_mask_accepted(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        scores = scores.masked_fill(memory_mask.unsqueeze(-2) == 0, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="You take the mask as it comes. Operators broadcast without a word, and what they refuse they call otherwise.",
    symptom="Right for every good mask. One with a batch of its own makes a batch of one output.",
)
def memory_mask_never_looked_at(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        scores = scores.masked_fill(~memory_mask.unsqueeze(-2), -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="You look at the mask's dtype, not at its shape. One that would enlarge the scores is to be refused as well.",
    symptom="A mask with a batch of its own, and one output becomes a batch of them.",
)
def memory_mask_may_enlarge_the_scores(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        scores = scores.masked_fill(~memory_mask.unsqueeze(-2), -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="PyTorch's attention adds a mask of numbers to the scores, and lets a mask enlarge them. Look at the mask "
    "before you hand it on.",
    symptom="Right for every good mask. A bad one gives a result, or an error that speaks of something else.",
)
def memory_mask_handed_on_unseen(x, memory, w_q, w_k, w_v, memory_mask=None):
    mask = None if memory_mask is None else memory_mask.unsqueeze(-2)
    return F.scaled_dot_product_attention(x @ w_q, memory @ w_k, memory @ w_v, mask)


@cross_attention.misconception(
    hint="Without a mask all of the memory may be read: look whether it is None before you use it.",
    symptom="An error without a mask.",
)
def memory_mask_is_required(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    mask = memory_mask.unsqueeze(-2)
    if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
        raise ValueError("a boolean mask of the memory is asked for")
    return torch.softmax(scores.masked_fill(~mask, -math.inf), -1).nan_to_num(0.0) @ v


@cross_attention.misconception(
    hint="You add `x` to the output. That is the residual connection of a block; here only what was read is asked for.",
    symptom="An error where the widths differ, and outputs that are off by `x` where they agree.",
)
def x_added_to_what_was_read(x, memory, w_q, w_k, w_v, memory_mask=None):
    q, k, v = x @ w_q, memory @ w_k, memory @ w_v
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if memory_mask is not None:
        mask = memory_mask.unsqueeze(-2)
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
            raise ValueError("a boolean mask of the memory is asked for")
        scores = scores.masked_fill(~mask, -math.inf)
    return x + torch.softmax(scores, -1).nan_to_num(0.0) @ v


def _window_by_hand(center: Tensor, n_keys: int, radius: float) -> Tensor:
    """Luong et al. 2015, equation 10, number by number; their positions are counted from 0 here."""
    rows = []
    for p in center.reshape(-1):
        seen = [abs(j - p.item()) <= radius for j in range(n_keys)]
        row = [torch.exp(-((j - p) ** 2) / (2 * (radius / 2) ** 2)) if seen[j] else 0 * p for j in range(n_keys)]
        rows.append(torch.stack(row))
    return torch.stack(rows).reshape(*center.shape, n_keys)


def _window_naive(center: Tensor, n_keys: int, radius: float, nudge: Nudge = as_is) -> Tensor:
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    # Which positions are seen does not change with the rounding that is tried: no case puts one on the edge by chance.
    seen = distance.detach().abs() <= radius * (1 + 1e-6)
    bell = torch.exp(nudge(-2 * nudge(nudge(distance) / radius) ** 2))
    return torch.where(seen, bell, torch.zeros_like(bell))


def _centers(draw: Draw, low: int, high: int, *shape: int) -> Tensor:
    """Places between ``low`` and ``high`` whose distances to whole and half numbers are at least a tenth.

    So no position lies at the edge of a window with a whole or half radius, where rounding would decide.
    """
    size = math.prod(shape)
    whole = torch.floor(draw.uniform(low, high, size))
    half = torch.where(draw.uniform(0, 1, size) < 0.5, 0.0, 0.5)
    return (whole + half + draw.uniform(0.1, 0.4, size)).reshape(shape)


def _window_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, center: Tensor, n_keys: int, radius: float, **more: Any) -> Case:
        return Case(name, (center, n_keys, radius), **more)

    yield case("one center", _centers(draw, 2, 6), 9, 2, gradients=True, tiny=True)
    yield case("a center for each query", _centers(draw, 1, 8, 4), 10, 3, gradients=True)
    yield case("a batch of centers", _centers(draw, 1, 6, 2, 3), 8, 2, gradients=True)
    yield case("as many centers as keys", _centers(draw, 0, 6, 6), 6, 2, gradients=True)
    yield case("batch, heads and queries", _centers(draw, 0, 6, 2, 3, 4), 7, 2, gradients=True)
    yield case("a batch of one", _centers(draw, 2, 6, 1), 9, 2, gradients=True)
    yield case("radius 1", _centers(draw, 1, 6, 3), 7, 1, gradients=True)
    yield case("radius 4", _centers(draw, 3, 9, 3), 13, 4, gradients=True)
    yield case("radius 10, as in the paper", _centers(draw, 10, 30, 3), 40, 10, gradients=True)
    yield case("radius 2.5", _centers(draw, 2, 6, 3), 9, 2.5, gradients=True)
    yield case("radius 0.5", _centers(draw, 1, 6, 4), 8, 0.5)
    yield case("a radius that reaches everything", _centers(draw, 1, 5, 3), 6, 50, gradients=True)
    yield case("many keys", _centers(draw, 20, 80, 2), draw.integer(100, 150), 6)
    yield case("columns stored as rows", _centers(draw, 1, 6, 3, 4), 8, 2, layout="transposed", gradients=True)
    yield case("every second number of a row", _centers(draw, 1, 6, 2, 3), 8, 2, layout="strided")
    edge = partial(case, check="edge cases")
    on_the_spot = torch.tensor([2.0, 5.0, 3.0], dtype=torch.float64)
    yield edge("a center on a position: those at the radius are seen", on_the_spot, 9, 2, gradients=True)
    yield edge("a center halfway between two", on_the_spot + 0.5, 9, 2, gradients=True)
    yield edge("a center near the ends", torch.tensor([0.2, 7.7], dtype=torch.float64), 9, 2, gradients=True)
    yield edge("a center before the first position", torch.tensor([-0.8], dtype=torch.float64), 6, 2, gradients=True)
    yield edge("a center behind the last position", torch.tensor([6.3], dtype=torch.float64), 6, 2, gradients=True)
    yield edge("no position in reach", torch.tensor([-9.3, 22.3], dtype=torch.float64), 6, 2, gradients=True)
    yield edge("a center close to a position", torch.tensor([3.03, 4.98], dtype=torch.float64), 9, 2.5, gradients=True)
    by_name = {"n_keys": 1, "radius": 1}
    yield Case("one key, by name", (torch.tensor([0.3, 1.7], dtype=torch.float64),), by_name, check="edge cases")
    yield edge("one center, one key", torch.tensor(0.4, dtype=torch.float64), 1, 2)


def _moves_with_its_center(answer: Callable[..., Tensor], call: Call) -> str | None:
    center, n_keys, radius = call.args
    wrong = _apart(answer(center + 1, n_keys + 1, radius)[..., 1:], answer(center, n_keys, radius))
    return "a center one further on must give the same window one further on" if wrong else None


def _same_on_both_sides(answer: Callable[..., Tensor], call: Call) -> str | None:
    center, n_keys, radius = call.args
    wrong = _apart(answer(n_keys - 1 - center, n_keys, radius).flip(-1), answer(center, n_keys, radius))
    return "a center as far from the other end must give the window's mirror image" if wrong else None


local_window = Exam(
    TOPIC,
    "local_window",
    _window_by_hand,
    _window_naive,
    _window_cases,
    (
        Values("values", 1.25),
        Values("edge cases", 0.75),
        Properties(0.25, (_moves_with_its_center, _same_on_both_sides)),
        Habits(0.25),
        Gradients(0.75),
    ),
)


@local_window.variant
def bell_cut_off(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))
    return bell.masked_fill(distance.abs() > radius, 0.0)


@local_window.variant
def in_units_of_the_radius(center, n_keys, radius):
    away = (torch.arange(n_keys, device=center.device) - center[..., None]) / radius
    return torch.where(away.abs() <= 1, torch.exp(-2 * away.square()), 0.0)


@local_window.variant
def bell_times_the_seen(center, n_keys, radius):
    j = torch.arange(n_keys, device=center.device).to(center.dtype)
    distance = (j - center.unsqueeze(-1)).abs()
    seen = (distance <= radius).to(center.dtype)
    return seen * torch.exp(-0.5 * (distance * 2 / radius).pow(2))


@local_window.variant
def minus_infinity_beyond_the_radius(center, n_keys, radius):
    positions = torch.arange(n_keys, dtype=center.dtype, device=center.device)
    exponent = -((positions - center.unsqueeze(-1)) ** 2) * 2 / radius**2
    return exponent.masked_fill(exponent < -2, -math.inf).exp()


@local_window.variant
def position_after_position(center, n_keys, radius):
    columns = []
    for j in range(n_keys):
        distance = j - center
        bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))
        columns.append(torch.where(distance.abs() <= radius, bell, torch.zeros_like(bell)))
    return torch.stack(columns, dim=-1)


@local_window.variant
def selected_and_filled_in(center, n_keys, radius):
    grid = torch.arange(n_keys, device=center.device).expand(*center.shape, n_keys)
    distance = grid - center.unsqueeze(-1)
    seen = distance.abs() <= radius
    window = torch.zeros_like(distance)
    window[seen] = torch.exp(-2 * distance[seen] ** 2 / radius**2)
    return window


@local_window.misconception(
    hint="Your bell is twice as wide: the radius is the reach of the window, σ is half of it.",
    symptom="At the edge the window still weighs 0.61 instead of 0.14.",
)
def radius_for_sigma(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * radius**2))
    return bell.masked_fill(distance.abs() > radius, 0.0)


@local_window.misconception(
    hint="A factor is missing in the exponent: a Gaussian divides by *twice* the variance.",
    symptom="The bell is too narrow, by a factor of √2.",
)
def exponent_without_the_two(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (radius / 2) ** 2)
    return bell.masked_fill(distance.abs() > radius, 0.0)


@local_window.misconception(
    hint="σ is not squared in your exponent. With a radius of 2 that makes no difference: try one of 4.",
    symptom="Right for a radius of 2, where σ = σ².",
)
def sigma_for_variance(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * (radius / 2)))
    return bell.masked_fill(distance.abs() > radius, 0.0)


@local_window.misconception(
    hint="Your bell has tails that never end. Farther away than the radius nothing is seen.",
    symptom="Every position keeps a small weight, and nothing is saved by looking locally.",
)
def bell_without_an_edge(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    return torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))


@local_window.misconception(
    hint="Within the radius all positions count alike in your window. Then the center has no gradient: nothing tells "
    "it where to go.",
    symptom="Ones and zeros; the predicted place never learns.",
)
def window_of_ones(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    return (distance.abs() <= radius).to(center.dtype)


@local_window.misconception(
    hint="A position exactly at the radius is still seen.",
    symptom="Wrong only where the center is a whole number: two positions are missing.",
)
def edge_excluded(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))
    return bell.masked_fill(distance.abs() >= radius, 0.0)


@local_window.misconception(
    hint="Your radius is the whole width: half of it on either side. It is to reach that far on *both* sides.",
    symptom="Half of the positions are missing.",
)
def radius_for_the_whole_width(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))
    return bell.masked_fill(distance.abs() > radius / 2, 0.0)


@local_window.misconception(
    hint="The center is rounded to a position. A step function has no slope, so the prediction can't learn.",
    symptom="The window jumps from position to position, and its center has no gradient.",
)
def center_rounded(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.round().unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))
    return bell.masked_fill(distance.abs() > radius, 0.0)


@local_window.misconception(
    hint="The bell stands in the right place, but its edges are laid around a *rounded* center.",
    symptom="On one side a position too much, on the other one too few, unless the center is a whole number.",
    seen="https://github.com/OpenNMT/OpenNMT/blob/master/onmt/modules/CenteredWindow.lua",
)
def edges_around_the_rounded_center(center, n_keys, radius):
    positions = torch.arange(n_keys, dtype=center.dtype, device=center.device)
    bell = torch.exp(-((positions - center.unsqueeze(-1)) ** 2) / (2 * (radius / 2) ** 2))
    return bell.masked_fill((positions - center.floor().unsqueeze(-1)).abs() > radius, 0.0)


@local_window.misconception(
    hint="The bell stands in the right place, but you count what is seen from the *nearest* position, not the center.",
    symptom="A position just outside is seen, or one just inside is not, unless the center is a whole number.",
)
def edges_around_the_nearest_position(center, n_keys, radius):
    positions = torch.arange(n_keys, dtype=center.dtype, device=center.device)
    bell = torch.exp(-((positions - center.unsqueeze(-1)) ** 2) / (2 * (radius / 2) ** 2))
    return bell.masked_fill((positions - center.round().unsqueeze(-1)).abs() > radius, 0.0)


@local_window.misconception(
    hint="The center leaves the graph (`detach`, `item`, `data`): the place can't be learned.",
    symptom="The window is right, and the prediction of the place stays as it was drawn.",
)
def center_detached(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.detach().unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))
    return bell.masked_fill(distance.abs() > radius, 0.0)


@local_window.misconception(
    hint="The window is divided by its sum. It is laid over weights that sum to one already, and is not renormalised.",
    symptom="Every window sums to one: too low in the middle of the memory, too high where the end cuts it off.",
)
def window_sums_to_one(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2)).masked_fill(distance.abs() > radius, 0.0)
    return bell / bell.sum(-1, keepdim=True).clamp(min=1e-9)


@local_window.misconception(
    hint="The window is divided by its largest value. It is 1 at the center; a position that is not there has less.",
    symptom="Some position always gets exactly 1, even if the center lies between two, or outside.",
)
def nearest_position_made_one(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2)).masked_fill(distance.abs() > radius, 0.0)
    return bell / bell.amax(-1, keepdim=True).clamp(min=1e-9)


@local_window.misconception(
    hint="The factor 1/(σ√2π) makes a density of it. The window is 1 at its center.",
    symptom="The shape is right and the height is not.",
)
def density_of_a_normal(center, n_keys, radius):
    sigma = radius / 2
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    return bell.masked_fill(distance.abs() > radius, 0.0)


@local_window.misconception(
    hint="Your positions begin with 1, as the paper's do. Here the first is 0.",
    symptom="Every window stands one position too early.",
)
def positions_from_one(center, n_keys, radius):
    distance = torch.arange(1, n_keys + 1, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))
    return bell.masked_fill(distance.abs() > radius, 0.0)


@local_window.misconception(
    hint="Your window falls with the distance, not with its square: it has a peak where a bell is round.",
    symptom="Too low near the center and too high farther out.",
)
def distance_not_squared(center, n_keys, radius):
    distance = (torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)).abs()
    return torch.exp(-distance / (2 * (radius / 2) ** 2)).masked_fill(distance > radius, 0.0)


@local_window.misconception(
    hint="The centers meet the positions number by number. Each center needs an axis of its own for the positions.",
    symptom="An error; with as many centers as keys, one number for each instead of a window.",
)
def centers_meet_positions_one_by_one(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center
    bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))
    return bell.masked_fill(distance.abs() > radius, 0.0)


@local_window.misconception(
    hint="`center[:, None]` takes for granted that there is exactly one axis of centers. Count from behind.",
    symptom="Right on a list of centers. A single one is an error, and with a batch the axes get mixed up.",
)
def exactly_one_axis_of_centers(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center[:, None]
    bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))
    return bell.masked_fill(distance.abs() > radius, 0.0)


@local_window.misconception(
    hint="You move centers that lie outside to the first or the last position. They may lie there, and see little.",
    symptom="Wrong near the ends only, and a center outside has no gradient that would bring it back.",
)
def center_kept_inside(center, n_keys, radius):
    center = center.clamp(0, n_keys - 1)
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))
    return bell.masked_fill(distance.abs() > radius, 0.0)


@local_window.misconception(
    hint="You give the exponent, to be added to scores. Asked for is the window, by which weights are multiplied.",
    symptom="Zero at the center, negative around it, −∞ beyond.",
)
def logarithm_of_the_window(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    exponent = -(distance**2) / (2 * (radius / 2) ** 2)
    return exponent.masked_fill(distance.abs() > radius, -math.inf)


@local_window.misconception(
    hint="You write zeros into the bell, and autograd still needs what stood there. Choose with `torch.where`, or "
    "multiply.",
    symptom="The window is right. The way back stops with an error about an in-place operation.",
)
def zeros_written_into_the_bell(center, n_keys, radius):
    away = torch.arange(n_keys, dtype=center.dtype, device=center.device) - center.unsqueeze(-1)
    window = torch.exp(-2 * (away / radius) ** 2)
    window[away.abs() > radius] = 0.0
    return window


@local_window.misconception(
    hint="Your positions are float32 whatever the center is, and so is the window. Take the center's dtype.",
    symptom="float32 for a center in bfloat16: the next product with the weights stops with an error.",
)
def window_in_float32(center, n_keys, radius):
    distance = torch.arange(n_keys, dtype=torch.float32, device=center.device) - center.float().unsqueeze(-1)
    bell = torch.exp(-(distance**2) / (2 * (radius / 2) ** 2))
    return bell.masked_fill(distance.abs() > radius, 0.0)


class _Skeleton(nn.Module):
    """``BahdanauDecoderStep`` as the notebook gives it."""

    def __init__(self, d_hidden: int, d_memory: int, d_attention: int) -> None:
        super().__init__()
        self.w_s = nn.Linear(d_hidden, d_attention, bias=False)
        self.w_h = nn.Linear(d_memory, d_attention, bias=False)
        self.v = nn.Linear(d_attention, 1, bias=False)
        self.gru = nn.GRUCell(d_memory, d_hidden)


def _step_by_row(
    previous_state: Tensor,
    memory: Tensor,
    memory_mask: Tensor | None = None,
    *,
    state: dict[str, Tensor],
    init: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    """Bahdanau et al. 2015, A.1.2, memory by memory: what is hidden is not looked at. The cell is PyTorch's."""
    n_keys, d_memory = memory.shape[-2:]
    if memory_mask is None:
        memory_mask = torch.ones(memory.shape[:-1], dtype=torch.bool)
    may = memory_mask.expand(memory.shape[:-1]).reshape(-1, n_keys)
    states, memories = previous_state.reshape(-1, init["d_hidden"]), memory.reshape(-1, n_keys, d_memory)
    contexts, rows = [], []
    for s, h, seen in zip(states, memories, may, strict=True):
        energies = torch.tanh(state["w_s.weight"] @ s + h @ state["w_h.weight"].T) @ state["v.weight"][0]
        weights = torch.zeros_like(energies)
        weights[seen] = torch.softmax(energies[seen], 0)
        rows.append(weights)
        contexts.append(weights @ h)
    context = torch.stack(contexts)
    new_state = torch.gru_cell(context, states, *(state[f"gru.{name}"] for name in GRU))
    lead = previous_state.shape[:-1]
    return new_state.reshape(previous_state.shape), context.reshape(*lead, -1), torch.stack(rows).reshape(*lead, -1)


GRU = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _step_naive(
    previous_state: Tensor,
    memory: Tensor,
    memory_mask: Tensor | None = None,
    *,
    state: dict[str, Tensor],
    init: dict[str, Any],
    nudge: Nudge = as_is,
) -> tuple[Tensor, Tensor, Tensor]:
    asked = nudge(previous_state @ state["w_s.weight"].T).unsqueeze(-2)
    hidden = nudge(torch.tanh(nudge(asked + nudge(memory @ state["w_h.weight"].T))))
    weights = naive_masked_softmax(hidden @ state["v.weight"][0], memory_mask, nudge=nudge)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    w_in, w_state, b_in, b_state = (state[f"gru.{name}"] for name in GRU)
    reset_in, update_in, new_in = nudge(F.linear(nudge(context), w_in, b_in)).chunk(3, -1)
    reset_state, update_state, new_from_state = nudge(F.linear(previous_state, w_state, b_state)).chunk(3, -1)
    reset, update = torch.sigmoid(reset_in + reset_state), torch.sigmoid(update_in + update_state)
    candidate = torch.tanh(new_in + nudge(reset) * new_from_state)
    return nudge((1 - update) * candidate) + nudge(update * previous_state), context, weights


def _step_cases(draw: Draw) -> Iterator[Case]:
    def case(
        name: str, mask: Tensor | None, lead: tuple[int, ...], n_keys: int, widths: tuple[int, int, int], **more: Any
    ) -> Case:
        d_hidden, d_memory, d_attention = widths
        state = {
            "w_s.weight": draw.normal(d_attention, d_hidden, scale=d_hidden**-0.5),
            "w_h.weight": draw.normal(d_attention, d_memory, scale=d_memory**-0.5),
            # Energies that differ, so that the weights do.
            "v.weight": draw.normal(1, d_attention, scale=2 * d_attention**-0.5),
            "gru.weight_ih": draw.normal(3 * d_hidden, d_memory, scale=d_memory**-0.5),
            "gru.weight_hh": draw.normal(3 * d_hidden, d_hidden, scale=d_hidden**-0.5),
            "gru.bias_ih": draw.normal(3 * d_hidden, scale=0.5),
            "gru.bias_hh": draw.normal(3 * d_hidden, scale=0.5),
        }
        size = more.pop("size", 1.0)
        args = (draw.normal(*lead, d_hidden), size * draw.normal(*lead, n_keys, d_memory))
        kwargs = {} if mask is None else {"memory_mask": mask}
        init = {"d_hidden": d_hidden, "d_memory": d_memory, "d_attention": d_attention}
        return Case(name, args, kwargs, init=init, state=state, **more)

    yield case("a batch", None, (2,), 5, (4, 6, 3), gradients=True)
    yield case("one sentence", None, (), 5, (4, 6, 3), gradients=True, tiny=True)
    yield case("one width", None, (2,), 5, (4, 4, 4), gradients=True)
    yield case("one sentence, one width", None, (), 4, (4, 4, 4))
    yield case("as many sentences as keys", None, (4,), 4, (5, 3, 6))
    yield case("all lengths alike", None, (4,), 4, (4, 4, 4), gradients=True)
    yield case("the state is wider than the memory", None, (2,), 5, (8, 3, 5))
    yield case("d_attention = 1", None, (3,), 5, (4, 6, 1))
    yield case("a wide layer", None, (2,), 5, (16, 24, 64), gradients=True)
    yield case("many keys", None, (2,), draw.integer(60, 90), (4, 6, 5))
    yield case("columns stored as rows", None, (2,), 5, (4, 6, 3), layout="transposed", gradients=True)
    yield case("every second number of a row", None, (2,), 5, (4, 6, 3), layout="strided")
    padded = partial(case, check="padding")
    yield padded("a batch, padded", _padded(5, 2, n_keys=5), (2,), 5, (4, 6, 3), gradients=True)
    yield padded("one sentence, some of it hidden", _readable(draw, 5), (), 5, (4, 6, 3), gradients=True, tiny=True)
    yield padded("a batch, one width, padded on the left", ~_padded(2, 0, n_keys=5), (2,), 5, (4, 4, 4), gradients=True)
    yield padded("as many sentences as keys", _readable(draw, 4, 4), (4,), 4, (5, 3, 6), gradients=True)
    yield padded("one mask for the whole batch", _readable(draw, 5), (3,), 5, (4, 6, 3))
    yield padded("nothing is hidden", _padded(5, 5, n_keys=5), (2,), 5, (4, 6, 3))
    yield padded("columns stored as rows", _readable(draw, 3, 5), (3,), 5, (4, 6, 3), layout="transposed")
    edge = partial(case, check="edge cases")
    yield edge("a batch of one", _readable(draw, 1, 5), (1,), 5, (4, 6, 3), gradients=True)
    yield edge("one key", None, (2,), 1, (4, 6, 3), gradients=True)
    yield edge("a batch of one, one key", None, (1,), 1, (4, 6, 3))
    yield edge("a state of width one", None, (2,), 5, (1, 6, 3))
    yield edge("two leading axes, sentences and beams", _readable(draw, 2, 3, 5), (2, 3), 5, (4, 6, 3), gradients=True)
    yield edge("two leading axes, one width", None, (2, 4), 4, (4, 4, 4))
    yield edge("energies at their limits", _readable(draw, 2, 5), (2,), 5, (4, 6, 3), size=30.0, coarse=False)
    empty = partial(case, check="nothing to read")
    yield empty("one memory of three is empty", _padded(3, 0, 5, n_keys=5), (3,), 5, (4, 6, 3), gradients=True)
    yield empty("one sentence, all hidden", torch.zeros(5, dtype=torch.bool), (), 5, (4, 6, 3), gradients=True)
    yield empty("all memories are empty", _padded(0, 0, n_keys=4), (2,), 4, (4, 4, 4), gradients=True)
    refused = partial(case, check="masks refused", raises=REFUSAL)
    yield refused("a mask of numbers", _padded(4, 2, n_keys=5).double(), (2,), 5, (4, 6, 3))
    yield refused("a mask of ones and zeros", _padded(4, 2, n_keys=5).long(), (2,), 5, (4, 6, 3))
    yield refused("a mask with an axis for queries", _padded(4, 2, n_keys=5)[:, None], (2,), 5, (4, 6, 3))
    yield refused("a mask with a batch that the state lacks", _padded(4, 2, n_keys=5), (), 5, (4, 6, 3))


BahdanauDecoderStep = Exam(
    TOPIC,
    "BahdanauDecoderStep",
    _step_by_row,
    _step_naive,
    _step_cases,
    (
        Values("values", 1.5),
        Values("padding", 0.75),
        Values("edge cases", 0.75),
        Values("nothing to read", 0.5),
        Values("masks refused", 0.25),
        Habits(0.25, on="nothing to read"),
        Gradients(1),
    ),
    outputs=("new_state", "context", "weights"),
    may_not_call=(LAYERS,),
    skeleton=_Skeleton,
)


@BahdanauDecoderStep.variant
def scored_read_moved(self, state, memory, memory_mask=None):
    hidden = torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))
    energies = self.v(hidden).squeeze(-1)
    if memory_mask is None:
        weights = torch.softmax(energies, dim=-1)
    else:
        if memory_mask.dtype != torch.bool:
            raise TypeError(f"a mask is boolean, not {memory_mask.dtype}")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError(f"a mask {tuple(memory_mask.shape)} for energies {tuple(energies.shape)}")
        energies = energies.masked_fill(~memory_mask, torch.finfo(energies.dtype).min)
        weights = torch.softmax(energies, dim=-1).masked_fill(~memory_mask, 0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.flatten(0, -2), state.flatten(0, -2)) if state.ndim > 1 else self.gru(context, state)
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.variant
def minus_infinity_and_einsum(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_h(memory) + self.w_s(state)[..., None, :]))[..., 0]
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = torch.einsum("...n,...nm->...m", weights, memory)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.view_as(state), context, weights


@BahdanauDecoderStep.variant
def state_repeated_for_each_key(self, state, memory, memory_mask=None):
    repeated = state.unsqueeze(-2).expand(*memory.shape[:-1], state.shape[-1])
    energies = torch.matmul(torch.tanh(self.w_s(repeated) + self.w_h(memory)), self.v.weight[0])
    exps = torch.exp(energies - energies.amax(-1, keepdim=True).detach())
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        try:
            mask = memory_mask.expand(energies.shape)
        except RuntimeError as error:
            raise ValueError("the mask is larger than the energies") from error
        exps = exps * mask
    total = exps.sum(-1, keepdim=True)
    weights = exps / total.masked_fill(total == 0, 1.0)
    context = (weights.unsqueeze(-1) * memory).sum(-2)
    flat = self.gru(context.reshape(-1, memory.shape[-1]), state.reshape(-1, state.shape[-1]))
    return flat.reshape(state.shape), context, weights


@BahdanauDecoderStep.variant
def concatenated_as_the_paper_has_it(self, state, memory, memory_mask=None):
    # One matrix for [s, h] instead of two.
    together = torch.cat([self.w_s.weight, self.w_h.weight], dim=1)
    pairs = torch.cat([state.unsqueeze(-2).expand(*memory.shape[:-1], -1), memory], dim=-1)
    energies = (torch.tanh(pairs @ together.T) @ self.v.weight.T).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        empty = ~memory_mask.any(-1, keepdim=True)
        energies = torch.where(memory_mask | empty, energies, -math.inf)
        weights = torch.softmax(energies, -1) * ~empty
    else:
        weights = energies.softmax(-1)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    lead = state.shape[:-1]
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(*lead, -1), context, weights


@BahdanauDecoderStep.variant
def cell_written_out(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, torch.finfo(energies.dtype).min)
    weights = torch.softmax(energies, -1)
    if memory_mask is not None:
        weights = weights * memory_mask
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    from_context = F.linear(context, self.gru.weight_ih, self.gru.bias_ih).chunk(3, -1)
    from_state = F.linear(state, self.gru.weight_hh, self.gru.bias_hh).chunk(3, -1)
    reset = torch.sigmoid(from_context[0] + from_state[0])
    update = torch.sigmoid(from_context[1] + from_state[1])
    candidate = torch.tanh(from_context[2] + reset * from_state[2])
    return candidate + update * (state - candidate), context, weights


@BahdanauDecoderStep.variant
def memory_by_memory(self, state, memory, memory_mask=None):
    lead, n_keys = state.shape[:-1], memory.shape[-2]
    if memory_mask is None:
        memory_mask = torch.ones(*lead, n_keys, dtype=torch.bool, device=memory.device)
    if memory_mask.dtype != torch.bool:
        raise TypeError("a mask is boolean")
    if torch.broadcast_shapes(memory_mask.shape, (*lead, n_keys)) != (*lead, n_keys):
        raise ValueError("the mask is larger than the memory")
    masks = memory_mask.expand(*lead, n_keys).reshape(-1, n_keys)
    results = []
    states, memories = state.reshape(-1, state.shape[-1]), memory.reshape(-1, *memory.shape[-2:])
    for s, h, may in zip(states, memories, masks, strict=True):
        energies = self.v(torch.tanh(self.w_s(s) + self.w_h(h))).squeeze(-1)
        weights = torch.softmax(energies.masked_fill(~may, -math.inf), -1).nan_to_num(0.0)
        context = weights @ h
        results.append((self.gru(context, s), context, weights))
    return tuple(torch.stack(values).reshape(*lead, -1) for values in zip(*results, strict=True))


@BahdanauDecoderStep.misconception(
    hint="You score with the *new* state. Bahdanau's decoder looks first and moves then: what it reads decides where "
    "it goes. Luong's decoder does it the other way round.",
    symptom="The state is right; weights and context are those of the next step.",
)
def current_for_previous_state(self, state, memory, memory_mask=None):
    def read(s):
        energies = self.v(torch.tanh(self.w_s(s).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
        if memory_mask is not None:
            if memory_mask.dtype != torch.bool:
                raise TypeError("a mask is boolean")
            if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
                raise ValueError("the mask is larger than the energies")
            energies = energies.masked_fill(~memory_mask, -math.inf)
        weights = torch.softmax(energies, -1).nan_to_num(0.0)
        return weights, (weights.unsqueeze(-2) @ memory).squeeze(-2)

    _, context = read(state)
    moved = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    new_state = moved.reshape(state.shape)
    weights, context = read(new_state)
    return new_state, context, weights


@BahdanauDecoderStep.misconception(
    hint="The cell moves before anything was read, on an input of zeros. What goes into it is the context.",
    symptom="The state never learns what the memory holds.",
)
def moves_before_it_reads(self, state, memory, memory_mask=None):
    nothing = memory.new_zeros(*state.shape[:-1], memory.shape[-1])
    moved = self.gru(nothing.reshape(-1, nothing.shape[-1]), state.reshape(-1, state.shape[-1]))
    new_state = moved.reshape(state.shape)
    energies = self.v(torch.tanh(self.w_s(new_state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    return new_state, (weights.unsqueeze(-2) @ memory).squeeze(-2), weights


@BahdanauDecoderStep.misconception(
    hint="Your cell gets the context only. Without the state before the step it starts from zero each time.",
    symptom="The decoder has no memory of its own: every step knows what it reads, and not what came before.",
    seen="https://github.com/tensorflow/tensorflow/issues/38248",
)
def cell_starts_from_zero(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    return self.gru(context.reshape(-1, context.shape[-1])).reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="Input and state of the cell are exchanged: `GRUCell` takes the input first, then the state.",
    symptom="An error unless both have one width; then the state is forgotten and the context carried on.",
)
def input_and_state_exchanged(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(state.reshape(-1, state.shape[-1]), context.reshape(-1, context.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="Without the tanh the state's part is the same number for every row of the memory, and softmax drops it.",
    symptom="The weights are the same at every step, whatever the state is.",
)
def energies_without_tanh(self, state, memory, memory_mask=None):
    energies = self.v(self.w_s(state).unsqueeze(-2) + self.w_h(memory)).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="Your tanh stands outside: it squeezes the energy. It belongs around the hidden layer, before `v`.",
    symptom="Energies between −1 and 1, so the weights can never be sharp, and the state hardly changes them.",
)
def tanh_around_the_energy(self, state, memory, memory_mask=None):
    energies = torch.tanh(self.v(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="The softmax runs along the first axis, where the batch is: sentences compete. It is a sentence's rows that "
    "compete.",
    symptom="Right for one sentence without a batch; with a batch of one every weight is 1.",
    seen="https://github.com/keon/seq2seq/pull/6",
)
def sentences_compete(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, 0).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="Your energies come from the state alone. An energy belongs to a pair: the state, and one row of the memory.",
    symptom="All rows get the same weight: the context is the mean of the memory at every step.",
    seen="https://github.com/pytorch/tutorials/issues/130",
)
def energies_without_the_memory(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state))).expand(memory.shape[:-1])
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="The state has no say in your weights: it is not in the energies, or it adds the same to all of them, and "
    "softmax drops that. What has to stand inside the tanh?",
    symptom="The weights are the same at every step: one look for the whole sentence.",
)
def energies_without_the_state(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="You repeat the states one after the other, and the rows of the memory lie sentence by sentence: states meet "
    "the rows of other sentences.",
    symptom="Right for a batch of one. With more, a sentence's weights change with its neighbours.",
    seen="https://github.com/j-min/MoChA-pytorch/issues/3",
)
def states_meet_other_sentences(self, state, memory, memory_mask=None):
    n_keys, states = memory.shape[-2], state.reshape(-1, state.shape[-1])
    rows = memory.reshape(-1, memory.shape[-1])
    hidden = torch.tanh(self.w_h(rows) + self.w_s(states).repeat(n_keys, 1))
    energies = self.v(hidden).reshape(memory.shape[:-1])
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), states)
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="`memory_mask` is never used.",
    symptom="The padding is read; the weights of a short sentence look washed out.",
    seen="https://github.com/IBM/pytorch-seq2seq/issues/141",
)
def decoder_reads_padding(self, state, memory, memory_mask=None):
    weights = torch.softmax(self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1), -1)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="True means *may be read* here. You hide what is True.",
    symptom="The weights lie on the padding.",
)
def decoder_reads_what_is_hidden(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="You multiply the energies by the mask. An energy of zero is an energy, and may well be the largest.",
    symptom="Hidden rows keep a weight.",
)
def energies_times_the_mask(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies * memory_mask
    weights = torch.softmax(energies, -1)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="Hidden rows take their share in the softmax before you remove them. What is left no longer sums to one.",
    symptom="The weights of a padded memory sum to less than one, and its context is too small.",
)
def hidden_rows_removed_after_the_softmax(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    weights = torch.softmax(energies, -1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        weights = weights * memory_mask
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="You blank the hidden rows of the memory. A row of zeros has an energy like any other, and gets a weight.",
    symptom="The weights lie on padding as well, and the context is too small.",
)
def hidden_rows_blanked(self, state, memory, memory_mask=None):
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, memory.shape[:-1]) != memory.shape[:-1]:
            raise ValueError("the mask is larger than the memory")
        memory = memory * memory_mask.unsqueeze(-1)
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    weights = torch.softmax(energies, -1)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="An empty memory makes all energies −∞, and softmax gives NaN. Weights and context have to be zero there.",
    symptom="One empty source, and its state is NaN from then on.",
)
def nan_state_from_an_empty_memory(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="In an empty memory all energies are equally low, and softmax shares the weight out evenly. It is to be none.",
    symptom="From an empty source the decoder reads the mean of the padding.",
)
def mean_from_an_empty_memory(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, torch.finfo(energies.dtype).min)
    weights = torch.softmax(energies, -1)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="You read `w_h(memory)`, which is made for scoring. What is averaged is the memory itself.",
    symptom="The context is as wide as the layer that scores, and the cell refuses it or reads something else.",
)
def projected_keys_read(self, state, memory, memory_mask=None):
    keys = self.w_h(memory)
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + keys)).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ keys).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="You read only the row with the largest weight. A choice has no slope: the layers that score can't learn.",
    symptom="One row comes through unmixed, and `w_s`, `w_h` and `v` get no gradient from the context.",
)
def only_the_best_row_read(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    best = F.one_hot(weights.argmax(-1), memory.shape[-2]).to(memory.dtype)
    context = (best.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="The energies are scaled like dot products. This score has no root: tanh bounds it, and `v` learns its size.",
    symptom="The weights are too flat, the more so the wider the layer that scores.",
)
def energies_scaled_like_dot_products(self, state, memory, memory_mask=None):
    hidden = torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))
    energies = self.v(hidden).squeeze(-1) / math.sqrt(hidden.shape[-1])
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="The third result is to be the weights, after the softmax. You give the energies.",
    symptom="Numbers that don't sum to one, some of them negative; state and context are right.",
)
def energies_given_for_weights(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    context = (torch.softmax(energies, -1).nan_to_num(0.0).unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, energies


@BahdanauDecoderStep.misconception(
    hint="The order of the three results is another: first the new state, then the context, then the weights.",
    symptom="Right numbers in wrong places; where state and memory have one width no shape tells.",
)
def context_given_first(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return context, new_state.reshape(state.shape), weights


@BahdanauDecoderStep.misconception(
    hint="The axis that the weights got for the product is still there. Asked for is one weight a row: (..., keys).",
    symptom="State and context are right, and the weights have the shape (..., 1, keys).",
)
def weights_keep_the_products_axis(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0).unsqueeze(-2)
    context = (weights @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="The state leaves the graph (`detach`, `no_grad`) before it scores: no step learns where the next one looks.",
    symptom="Results are right; the gradient by the state lacks a part, and `w_s` still learns.",
)
def state_detached_before_scoring(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state.detach()).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="`squeeze()` without an axis drops every axis of length one: the batch of one too, and the single key.",
    symptom="Right until a batch holds one sentence, or a memory one row.",
)
def every_axis_of_one_dropped(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze()
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="`unsqueeze(1)`, or `[:, None]`, counts from the front: it needs exactly one leading axis. Count from behind.",
    symptom="Right on a batch. An error without one, and wrong or an error with sentences and beams.",
)
def exactly_one_leading_axis(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state)[:, None] + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    return self.gru(context, state), context, weights


@BahdanauDecoderStep.misconception(
    hint="`torch.bmm`, and letters such as `bn`, want exactly one axis in front. Let `@` or `...` take what comes.",
    symptom="Right on a batch; an error on one sentence, and on sentences and beams.",
)
def context_needs_a_batch(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
    return self.gru(context, state), context, weights


@BahdanauDecoderStep.misconception(
    hint="`GRUCell` takes one leading axis at most. In front of the width there may be two, sentences and beams.",
    symptom="An error as soon as there are two leading axes.",
)
def one_leading_axis_at_most(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        if memory_mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        if torch.broadcast_shapes(memory_mask.shape, energies.shape) != energies.shape:
            raise ValueError("the mask is larger than the energies")
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    return self.gru(context, state), context, weights


@BahdanauDecoderStep.misconception(
    hint="Look at the mask before you use it: a mask of numbers and one that enlarges the energies are to be refused.",
    symptom="A mask (batch, 1, keys) gives weights (batch, batch, keys) without a word.",
)
def decoder_accepts_any_mask(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        energies = energies.masked_fill(memory_mask == 0, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights


@BahdanauDecoderStep.misconception(
    hint="You take the mask as it comes. Operators broadcast without a word, and what they refuse they call otherwise.",
    symptom="Right for every good mask. One with an axis too many gives as many weights again as there are sentences.",
)
def decoder_never_looks_at_the_mask(self, state, memory, memory_mask=None):
    energies = self.v(torch.tanh(self.w_s(state).unsqueeze(-2) + self.w_h(memory))).squeeze(-1)
    if memory_mask is not None:
        energies = energies.masked_fill(~memory_mask, -math.inf)
    weights = torch.softmax(energies, -1).nan_to_num(0.0)
    context = (weights.unsqueeze(-2) @ memory).squeeze(-2)
    new_state = self.gru(context.reshape(-1, context.shape[-1]), state.reshape(-1, state.shape[-1]))
    return new_state.reshape(state.shape), context, weights
