"""The exams of *self_attention*: the pieces together, forwards and backwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autograder.answer.guard import ATTENTION, AUTOGRAD
from autograder.engine.checks import Gradients, Habits, Properties, Values, examiner
from autograder.engine.exam import Case, Draw, Exam, Nudge, as_is
from autograder.engine.subject import Call
from autograder.exams.scaling import rounded_root
from autograder.exams.softmax import naive_softmax

TOPIC = "self_attention"


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v)


def _attention_naive(q: Tensor, k: Tensor, v: Tensor, nudge: Nudge = as_is) -> Tensor:
    scores = nudge(q @ k.mT) / rounded_root(q.shape[-1])
    return naive_softmax(scores, nudge=nudge) @ v


def _qkv(draw: Draw, lead: tuple[int, ...], n_queries: int, n_keys: int, d_k: int, d_v: int) -> tuple[Tensor, ...]:
    return (
        draw.normal(*lead, n_queries, d_k),
        draw.normal(*lead, n_keys, d_k),
        draw.normal(*lead, n_keys, d_v),
    )


def _far_apart(draw: Draw) -> tuple[Tensor, ...]:
    """Scores up to ±10⁴. The first query's are all far below zero: a maximum that starts at zero is none of them."""
    q, k, v = _qkv(draw, (2,), 4, 6, 4, 5)
    q[:, 0] = -q[:, 0].abs()
    return 100 * q, 100 * k.abs(), v


def _attention_cases(draw: Draw) -> Iterator[Case]:
    yield Case("a sentence", _qkv(draw, (), 3, 5, 4, 6), gradients=True, tiny=True)
    yield Case("as many queries as keys", _qkv(draw, (), 4, 4, 4, 4), gradients=True)
    yield Case("a batch", _qkv(draw, (2,), 5, 5, 4, 4), gradients=True)
    yield Case("a batch as large as a sentence", _qkv(draw, (3,), 3, 3, 3, 3))
    yield Case("a batch of one", _qkv(draw, (1,), 4, 6, 4, 5), gradients=True)
    yield Case("one sentence, one head", _qkv(draw, (1, 1), 3, 4, 4, 5))
    yield Case("batch and heads", _qkv(draw, (2, 3), 4, 6, 8, 5), gradients=True)
    yield Case("d_k = 16 and d_v = 4, three axes in front", _qkv(draw, (2, 1, 2), 5, 7, 16, 4))
    yield Case("d_k = 64", _qkv(draw, (2,), 6, 6, 64, 64), gradients=True)
    yield Case("d_k = 32, more queries than keys", _qkv(draw, (2,), 6, 4, 32, 8))
    yield Case("d_k = 128", _qkv(draw, (), 3, 5, 128, 8))
    yield Case("many keys", _qkv(draw, (), 3, draw.integer(150, 250), 8, 4))
    yield Case("columns stored as rows", _qkv(draw, (2, 3), 4, 6, 4, 6), layout="transposed", gradients=True)
    yield Case("every second number of a row", _qkv(draw, (2,), 4, 6, 4, 6), layout="strided")
    x = draw.normal(2, 5, 4)
    yield Case("queries, keys and values are one tensor", (x, x, x), gradients=True)
    edge = partial(Case, check="edge cases")
    yield edge("one query", _qkv(draw, (2,), 1, 6, 4, 5))
    yield edge("one key", _qkv(draw, (2,), 4, 1, 4, 5))
    yield edge("d_k = 1", _qkv(draw, (2,), 4, 5, 1, 3))
    q, k, v = _qkv(draw, (2,), 4, 6, 4, 5)
    yield edge("scores up to ±10⁴", _far_apart(draw), coarse=False)
    hot = torch.eye(4, dtype=torch.float64)
    yield edge("scores that are exactly zero", (hot, hot, draw.normal(4, 5)))
    yield edge("values of 10⁴", (q, k, 1e4 * v), coarse=False)


def _inside_the_hull(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k, v = call.args
    output = answer(q, k, v)
    low, high = v.amin(-2, keepdim=True) - 1e-4, v.amax(-2, keepdim=True) + 1e-4
    if bool(((output >= low) & (output <= high)).all()):
        return None
    return "an output lies outside the values' range, so it is no weighted average of them"


def _order_of_keys_is_free(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k, v = call.args
    gap = float((answer(q, k.flip(-2), v.flip(-2)) - answer(q, k, v)).abs().max())
    return None if gap < 1e-4 else f"turning keys and values round together changes the output by {gap:.3g}, not by 0"


def _each_query_alone(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k, v = call.args
    gap = float((answer(q[..., :1, :], k, v) - answer(q, k, v)[..., :1, :]).abs().max())
    return None if gap < 1e-4 else f"a query's output changes by {gap:.3g} when the other queries are left out"


attention = Exam(
    TOPIC,
    "attention",
    _sdpa,
    _attention_naive,
    _attention_cases,
    (
        Values("values", 2),
        Values("edge cases", 0.75),
        Properties(0.5, (_inside_the_hull, _order_of_keys_is_free, _each_query_alone)),
        Habits(0.5),
        Gradients(1.25),
    ),
    may_not_call=(ATTENTION,),
)


@attention.variant
def scores_softmax_average(q, k, v):
    return torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1) @ v


@attention.variant
def queries_scaled_first(q, k, v):
    return F.softmax((q * q.shape[-1] ** -0.5) @ k.mT, dim=-1) @ v


@attention.variant
def scale_shared_by_both(q, k, v):
    root = q.shape[-1] ** -0.25
    return ((q * root) @ (k * root).mT).softmax(-1).matmul(v)


@attention.variant
def with_einsum(q, k, v):
    scores = torch.einsum("...qd,...kd->...qk", q, k) / q.size(-1) ** 0.5
    return torch.einsum("...qk,...kv->...qv", scores.softmax(-1), v)


@attention.variant
def query_by_query(q, k, v):
    rows = []
    for i in range(q.shape[-2]):
        scores = (k * q[..., i : i + 1, :]).sum(-1) / math.sqrt(q.shape[-1])
        rows.append((torch.softmax(scores, -1).unsqueeze(-1) * v).sum(-2))
    return torch.stack(rows, dim=-2)


@attention.variant
def softmax_by_hand(q, k, v):
    scores = torch.matmul(q, k.transpose(-1, -2)) / torch.tensor(float(q.shape[-1])).sqrt().to(q)
    exponentials = torch.exp(scores - scores.amax(-1, keepdim=True))
    return exponentials / exponentials.sum(-1, keepdim=True) @ v


@attention.variant
def normalised_at_the_end(q, k, v):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    exponentials = torch.exp(scores - scores.amax(-1, keepdim=True).detach())
    return (exponentials @ v) / exponentials.sum(-1, keepdim=True)


@attention.variant
def all_pairs_broadcast(q, k, v):
    scores = (q.unsqueeze(-2) * k.unsqueeze(-3)).sum(-1) / math.sqrt(q.shape[-1])
    return (torch.softmax(scores, -1).unsqueeze(-1) * v.unsqueeze(-3)).sum(-2)


@attention.variant
def keys_upright(q, k, v):
    scores = (k @ q.mT / math.sqrt(k.shape[-1])).softmax(-2)
    return scores.mT @ v


@attention.misconception(
    hint="The scores are not scaled: divide q kᵀ by √d_k before the softmax.",
    symptom="Weights are sharper than they should be, the more so the larger d_k is.",
)
def unscaled(q, k, v):
    return torch.softmax(q @ k.mT, -1) @ v


@attention.misconception(
    hint="You divide by d_k; the standard deviation of a dot product is its root, √d_k.",
    symptom="Weights are nearly uniform for large d_k.",
)
def divided_by_d_k(q, k, v):
    return torch.softmax(q @ k.mT / q.shape[-1], -1) @ v


@attention.misconception(
    hint="You scale by √d_v, the width of the values. Scores grow with the width of queries and keys: √d_k.",
    symptom="Right while d_k = d_v, as in most examples.",
)
def scaled_by_root_d_v(q, k, v):
    return torch.softmax(q @ k.mT / math.sqrt(v.shape[-1]), -1) @ v


@attention.misconception(
    hint="You scale by the root of the length. The scores grow with d_k, the number of terms in each dot product.",
    symptom="Right only where there are as many keys as components; the same words weigh otherwise in a longer text.",
)
def scaled_by_root_n(q, k, v):
    return torch.softmax(q @ k.mT / math.sqrt(k.shape[-2]), -1) @ v


@attention.misconception(
    hint="A fixed 8 is √64: it is right for one width only. Take d_k from the queries.",
    symptom="Right for d_k = 64, wrong everywhere else.",
)
def scale_of_sixty_four(q, k, v):
    return torch.softmax(q @ k.mT / 8.0, -1) @ v


@attention.misconception(
    hint="You scale twice, the queries and then the weights: once is enough, before the softmax.",
    symptom="Outputs are √d_k times too small: the second root divides the weights, which no longer sum to one.",
)
def scaled_twice(q, k, v):
    q = q / math.sqrt(q.shape[-1])
    scores = torch.softmax(q @ k.mT, -1) / math.sqrt(q.shape[-1])
    return scores @ v


@attention.misconception(
    hint="You multiply by √d_k where you should divide.",
    symptom="Nearly one-hot weights and vanishing gradients.",
)
def multiplied_by_root_d_k(q, k, v):
    return torch.softmax(q @ k.mT * math.sqrt(q.shape[-1]), -1) @ v


@attention.misconception(
    hint="You scale the weights, after the softmax: they no longer sum to one. Scale the scores.",
    symptom="Every output is √d_k times too small.",
)
def scaled_after_the_softmax(q, k, v):
    return torch.softmax(q @ k.mT, -1) / math.sqrt(q.shape[-1]) @ v


@attention.misconception(
    hint="Your weights sum to one over the queries: softmax ran along dim −2. Each query's own must sum to one.",
    symptom="Columns of the weights sum to one; outputs leave the values' hull.",
)
def softmax_over_the_queries(q, k, v):
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -2) @ v


@attention.misconception(
    hint="Your softmax runs along axis 1. With a batch and heads that is the heads or the queries: use the last axis.",
    symptom="Right on one sentence; wrong as soon as there is a batch.",
    seen="https://github.com/aladdinpersson/Machine-Learning-Collection/issues/3",
)
def softmax_along_axis_one(q, k, v):
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), 1) @ v


@attention.misconception(
    hint="Your softmax runs along axis 0, the first: use the last axis, the keys.",
    symptom="`F.softmax` without `dim` picks an axis of its own; the items of a batch then compete.",
)
def softmax_along_axis_zero(q, k, v):
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), 0) @ v


@attention.misconception(
    hint="Scores are q kᵀ, queries against keys; yours compare the queries with themselves.",
    symptom="Right where queries and keys are one tensor, and an error where their numbers differ.",
)
def queries_against_queries(q, k, v):
    return torch.softmax(q @ q.mT / math.sqrt(q.shape[-1]), -1) @ v


@attention.misconception(
    hint="You average the keys. The weights come from the keys, what is averaged are the values.",
    symptom="The output has the width of the keys, and never depends on v.",
)
def averages_the_keys(q, k, v):
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ k


@attention.misconception(
    hint="The weights meet the values the wrong way round: weights (queries, keys) @ values (keys, d_v), no transpose.",
    symptom="An error where queries and keys differ in number; silently another output where they do not.",
)
def weights_transposed(q, k, v):
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1).mT @ v


@attention.misconception(
    hint="`k.T` turns all axes round, the batch's too. Swap the last two only: `k.mT` or `transpose(-2, -1)`.",
    symptom="Right on one sentence; with a batch an error, or sentences mixed with one another.",
)
def all_axes_reversed(q, k, v):
    turned = k.permute(*reversed(range(k.ndim)))
    return torch.softmax(q @ turned / math.sqrt(q.shape[-1]), -1) @ v


@attention.misconception(
    hint="You swap axes 1 and 2 by number. Count from behind: `k.transpose(-2, -1)`.",
    symptom="Right with exactly one axis in front; an error on one sentence, and heads mixed with words on four axes.",
)
def axes_by_number(q, k, v):
    return torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1) @ v


@attention.misconception(
    hint="A score of zero is no mask: it means neither like nor unlike. Here every query sees every key.",
    symptom="Right for random inputs; keys that are orthogonal to the query disappear.",
    testable=False,
)
def zero_taken_for_masked(q, k, v):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return torch.softmax(scores.masked_fill(scores == 0, -1e9), -1) @ v


@attention.misconception(
    hint="There is no softmax: raw scores are no weights. They are negative as well, and do not sum to one.",
    symptom="Outputs far outside the values, growing with the number of keys.",
)
def without_softmax(q, k, v):
    return (q @ k.mT / math.sqrt(q.shape[-1])) @ v


@attention.misconception(
    hint="You take the best key only. Attention averages; that is what makes it differentiable.",
    symptom="Outputs are copies of single values, and neither queries nor keys get a gradient.",
)
def best_key_only(q, k, v):
    best = (q @ k.mT).argmax(-1)
    return F.one_hot(best, k.shape[-2]).to(v.dtype) @ v


@attention.misconception(
    hint="Every key weighs the same: the scores never reach the output.",
    symptom="All outputs are the mean of the values.",
)
def plain_mean(q, k, v):
    return v.mean(-2, keepdim=True).expand(*q.shape[:-1], v.shape[-1])


@attention.misconception(
    hint="You hide the keys that come later. Nothing asks for a causal mask here: every query sees every key.",
    symptom="The first query sees one key only; the last one is right.",
)
def causal_unasked(q, k, v):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(later, -math.inf), -1) @ v


@attention.misconception(
    hint="exp of raw scores overflows. `torch.softmax` takes care of it, or shift each row by its maximum.",
    symptom="NaN once a score passes 88 in float32.",
)
def exp_without_shift(q, k, v):
    exponentials = torch.exp(q @ k.mT / math.sqrt(q.shape[-1]))
    return exponentials / exponentials.sum(-1, keepdim=True) @ v


@attention.misconception(
    hint="The scores leave the graph (`detach`, `.data`, `no_grad`): only the values can learn.",
    symptom="The output is right; queries and keys get no gradient.",
)
def scores_detached(q, k, v):
    return torch.softmax((q @ k.mT / math.sqrt(q.shape[-1])).detach(), -1) @ v


@attention.misconception(
    hint="`q /= …` scales the caller's queries. Make a new tensor.",
    symptom="The first call is right; the next one with the same q is not.",
)
def scales_its_input(q, k, v):
    with torch.no_grad():
        q /= math.sqrt(q.shape[-1])
    return torch.softmax(q @ k.mT, -1) @ v


@attention.misconception(
    hint="Only the output is asked for; you give the weights as well.",
    symptom="A tuple where a tensor is asked for: the next layer stops with an error.",
)
def weights_as_an_extra(q, k, v):
    weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
    return weights @ v, weights


def _attention_gradients(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> tuple[Tensor, ...]:
    """PyTorch's own, by autograd."""
    with torch.enable_grad():
        leaves = [value.detach().clone().requires_grad_() for value in (q, k, v)]
        return torch.autograd.grad(_sdpa(*leaves), leaves, grad_output)


def _backward_naive(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor, nudge: Nudge = as_is) -> tuple[Tensor, ...]:
    scale = 1 / rounded_root(q.shape[-1])
    weights = naive_softmax(scale * nudge(q @ k.mT), nudge=nudge)
    grad_weights = nudge(grad_output @ v.mT)
    # The rows' sums by way of the output, as FlashAttention takes them: as right as the other way, and less exact.
    grad_scores = weights * (grad_weights - (grad_output * nudge(weights @ v)).sum(-1, keepdim=True))
    return scale * grad_scores @ k, scale * grad_scores.mT @ q, weights.mT @ grad_output


def _backward_cases(draw: Draw) -> Iterator[Case]:
    def full(name: str, lead: tuple[int, ...], n_q: int, n_k: int, d_k: int, d_v: int, **more: Any) -> Case:
        inputs = (*_qkv(draw, lead, n_q, n_k, d_k, d_v), draw.normal(*lead, n_q, d_v))
        return Case(name, inputs, **more)

    yield full("a sentence", (), 3, 5, 4, 6)
    yield full("as many queries as keys", (), 4, 4, 4, 4)
    yield full("a batch", (2,), 5, 5, 4, 4)
    yield full("a batch of one", (1,), 4, 6, 4, 5)
    yield Case("a gradient of a thousand", (*_qkv(draw, (), 4, 5, 6, 3), 1000 * draw.normal(4, 3)))
    yield full("batch and heads, more queries than keys", (2, 3), 6, 4, 8, 5)
    yield full("d_k = 64", (2,), 6, 6, 64, 64)
    yield full("columns stored as rows, three axes in front", (2, 1, 3), 4, 6, 4, 6, layout="transposed")
    x = draw.normal(2, 5, 4)
    yield Case("queries, keys and values are one tensor", (x, x, x, draw.normal(2, 5, 4)))
    yield full("one query", (2,), 1, 6, 4, 5, check="edge cases")
    yield full("one key", (2,), 4, 1, 4, 5, check="edge cases")
    far = (*_far_apart(draw), draw.normal(2, 4, 5))
    yield Case("scores up to ±10⁴", far, check="edge cases", coarse=False)


attention_backward = Exam(
    TOPIC,
    "attention_backward",
    _attention_gradients,
    _backward_naive,
    _backward_cases,
    (Values("values", 3), Values("edge cases", 0.5), Habits(0.5)),
    outputs=("grad_q", "grad_k", "grad_v"),
    may_not_call=(ATTENTION, AUTOGRAD),
)


@attention_backward.variant
def by_the_chain_rule(q, k, v, grad_output):
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT * scale, -1)
    grad_weights = grad_output @ v.mT
    grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True)) * scale
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_output


@attention_backward.variant
def row_sums_from_the_output(q, k, v, grad_output):
    scale = q.shape[-1] ** -0.5
    weights = torch.softmax(q @ k.transpose(-2, -1) * scale, -1)
    delta = (grad_output * (weights @ v)).sum(-1, keepdim=True)
    grad_scores = weights * (grad_output @ v.transpose(-2, -1) - delta)
    return grad_scores @ k * scale, grad_scores.transpose(-2, -1) @ q * scale, weights.transpose(-2, -1) @ grad_output


@attention_backward.variant
def backward_with_einsum(q, k, v, grad_output):
    root = math.sqrt(q.shape[-1])
    weights = (torch.einsum("...qd,...kd->...qk", q, k) / root).softmax(-1)
    grad_v = torch.einsum("...qk,...qv->...kv", weights, grad_output)
    grad_weights = torch.einsum("...qv,...kv->...qk", grad_output, v)
    inner = torch.einsum("...qk,...qk->...q", weights, grad_weights)
    grad_scores = weights * (grad_weights - inner[..., None]) / root
    grad_q = torch.einsum("...qk,...kd->...qd", grad_scores, k)
    return grad_q, torch.einsum("...qk,...qd->...kd", grad_scores, q), grad_v


@attention_backward.variant
def backward_with_the_jacobian(q, k, v, grad_output):
    scale = q.shape[-1] ** -0.5
    weights = torch.softmax(q @ k.mT * scale, -1)
    jacobian = torch.diag_embed(weights) - weights.unsqueeze(-1) * weights.unsqueeze(-2)
    grad_scores = (jacobian @ (grad_output @ v.mT).unsqueeze(-1)).squeeze(-1)
    return [scale * (grad_scores @ k), scale * (grad_scores.mT @ q), weights.mT @ grad_output]


@attention_backward.variant
def backward_query_by_query(q, k, v, grad_output):
    scale = 1 / math.sqrt(q.shape[-1])
    grads, grad_k, grad_v = [], torch.zeros_like(k), torch.zeros_like(v)
    for i in range(q.shape[-2]):
        query, grad = q[..., i : i + 1, :], grad_output[..., i : i + 1, :]
        weights = torch.softmax(scale * query @ k.mT, -1)
        grad_weights = grad @ v.mT
        grad_scores = scale * weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
        grads.append(grad_scores @ k)
        grad_k, grad_v = grad_k + grad_scores.mT @ query, grad_v + weights.mT @ grad
    return torch.cat(grads, -2), grad_k, grad_v


@attention_backward.variant
def queries_scaled_before(q, k, v, grad_output):
    root = math.sqrt(q.shape[-1])
    scaled = q / root
    weights = torch.softmax(scaled @ k.mT, -1)
    product = weights * (grad_output @ v.mT)
    grad_scores = product - weights * product.sum(-1, keepdim=True)
    return (grad_scores @ k) / root, grad_scores.mT @ scaled, weights.mT @ grad_output


@attention_backward.misconception(
    hint="The scale belongs to the backward pass too: scores are q kᵀ/√d_k, so grad_q and grad_k carry 1/√d_k.",
    symptom="grad_v is right; grad_q and grad_k are √d_k times too large.",
)
def backward_without_the_scale(q, k, v, grad_output):
    weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
    grad_weights = grad_output @ v.mT
    grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_output


@attention_backward.misconception(
    hint="grad_q carries 1/√d_k and grad_k does not. Scale the scores' gradient once, before both products.",
    symptom="grad_q and grad_v are right; grad_k is √d_k times too large.",
)
def scale_missing_in_grad_k(q, k, v, grad_output):
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT * scale, -1)
    grad_weights = grad_output @ v.mT
    grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    return scale * grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_output


@attention_backward.misconception(
    hint="You scale the scores' gradient twice, in effect by 1/d_k.",
    symptom="grad_v is right; grad_q and grad_k are √d_k times too small.",
)
def backward_scaled_twice(q, k, v, grad_output):
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT * scale, -1)
    grad_weights = grad_output @ v.mT
    grad_scores = scale * weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    return scale * grad_scores @ k, scale * grad_scores.mT @ q, weights.mT @ grad_output


@attention_backward.misconception(
    hint="The forward pass that you differentiate is not scaled: its weights are softmax(q kᵀ).",
    symptom="All three gradients are off, grad_v too.",
)
def backward_of_unscaled_attention(q, k, v, grad_output):
    weights = torch.softmax(q @ k.mT, -1)
    grad_weights = grad_output @ v.mT
    grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_output


@attention_backward.misconception(
    hint="The softmax's backward pass lacks its second term: subtract the row's Σ w·g from the weights' gradient.",
    symptom="grad_v is right; a constant shift of a query's scores seems to matter.",
)
def backward_without_the_row_sum(q, k, v, grad_output):
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT * scale, -1)
    grad_scores = scale * weights * (grad_output @ v.mT)
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_output


@attention_backward.misconception(
    hint="You use the diagonal of the softmax's Jacobian only, w (1 − w). Each score moves all weights of its row.",
    symptom="grad_v is right; grad_q and grad_k point a little elsewhere.",
)
def backward_with_the_diagonal(q, k, v, grad_output):
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT * scale, -1)
    grad_scores = scale * weights * (1 - weights) * (grad_output @ v.mT)
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_output


@attention_backward.misconception(
    hint="The sum in the softmax's backward pass runs over the queries; the softmax ran over the keys.",
    symptom="grad_v is right, the others are not.",
)
def row_sum_over_the_queries(q, k, v, grad_output):
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT * scale, -1)
    grad_weights = grad_output @ v.mT
    grad_scores = scale * weights * (grad_weights - (weights * grad_weights).sum(-2, keepdim=True))
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_output


@attention_backward.misconception(
    hint="You skip the softmax: the scores' gradient is not the weights' gradient.",
    symptom="grad_v is right; the others are as large as if the weights were free.",
)
def softmax_left_out(q, k, v, grad_output):
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT * scale, -1)
    grad_scores = scale * (grad_output @ v.mT)
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_output


@attention_backward.misconception(
    hint="grad_v needs the weights transposed: a value hears from every query that looked at it.",
    symptom="An error where queries and keys differ in number, otherwise a wrong grad_v alone.",
)
def grad_v_not_transposed(q, k, v, grad_output):
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT * scale, -1)
    grad_weights = grad_output @ v.mT
    grad_scores = scale * weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    return grad_scores @ k, grad_scores.mT @ q, weights @ grad_output


@attention_backward.misconception(
    hint="grad_k needs the scores' gradient transposed: (keys, queries) @ (queries, d_k).",
    symptom="An error where queries and keys differ in number, otherwise a wrong grad_k alone.",
)
def grad_k_not_transposed(q, k, v, grad_output):
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT * scale, -1)
    grad_weights = grad_output @ v.mT
    grad_scores = scale * weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    return grad_scores @ k, grad_scores @ q, weights.mT @ grad_output


@attention_backward.misconception(
    hint="grad_q and grad_k are swapped: the keys carry the gradient to the queries, and the queries to the keys.",
    symptom="Shapes are exchanged where queries and keys differ in number.",
)
def grad_q_and_grad_k_swapped(q, k, v, grad_output):
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT * scale, -1)
    grad_weights = grad_output @ v.mT
    grad_scores = scale * weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    return grad_scores.mT @ q, grad_scores @ k, weights.mT @ grad_output


@attention_backward.misconception(
    hint="In grad_q stands the queries' own tensor; the derivative of q·k by q is k, and by k it is q.",
    symptom="Right where queries and keys are one tensor.",
)
def derivative_of_a_product_confused(q, k, v, grad_output):
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT * scale, -1)
    grad_weights = grad_output @ v.mT
    grad_scores = scale * weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    return grad_scores @ q, grad_scores.mT @ k, weights.mT @ grad_output


@attention_backward.misconception(
    hint="You propagate a gradient of ones: `grad_output` is what arrives from above, and has to be used.",
    symptom="Right only for the loss `output.sum()`, which most quick checks use.",
)
def ones_for_the_gradient(q, k, v, grad_output):
    grad_output = torch.ones_like(grad_output)
    scale = 1 / math.sqrt(q.shape[-1])
    weights = torch.softmax(q @ k.mT * scale, -1)
    grad_weights = grad_output @ v.mT
    grad_scores = scale * weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_output


class _Skeleton(nn.Module):
    """``SelfAttention`` as the notebook gives it."""

    def __init__(self, d_model: int, d_k: int, d_v: int) -> None:
        super().__init__()
        self.w_q = nn.Linear(d_model, d_k, bias=False)
        self.w_k = nn.Linear(d_model, d_k, bias=False)
        self.w_v = nn.Linear(d_model, d_v, bias=False)


def _module_reference(x: Tensor, state: dict[str, Tensor], init: dict[str, int]) -> Tensor:
    return _sdpa(*(F.linear(x, state[f"{name}.weight"]) for name in ("w_q", "w_k", "w_v")))


def _module_naive(x: Tensor, state: dict[str, Tensor], init: dict[str, int], nudge: Nudge = as_is) -> Tensor:
    q, k, v = (nudge(F.linear(x, state[f"{name}.weight"])) for name in ("w_q", "w_k", "w_v"))
    return _attention_naive(q, k, v, nudge)


def _module_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, x: Tensor, d_k: int, d_v: int, **more: Any) -> Case:
        d_model = x.shape[-1]
        widths = {"w_q.weight": d_k, "w_k.weight": d_k, "w_v.weight": d_v}
        state = {key: draw.normal(width, d_model, scale=d_model**-0.5) for key, width in widths.items()}
        return Case(name, (x,), init={"d_model": d_model, "d_k": d_k, "d_v": d_v}, state=state, **more)

    yield case("a sentence", draw.normal(3, 4, scale=2.0), 3, 5, gradients=True, tiny=True)
    yield case("all widths alike", draw.normal(2, 5, 8, scale=2.0), 8, 8, gradients=True)
    yield case("a batch", draw.normal(2, 5, 6, scale=2.0), 4, 7, gradients=True)
    yield case("a batch as large as a sentence", draw.normal(4, 4, 4, scale=2.0), 4, 4)
    yield case("a batch of one", draw.normal(1, 4, 6, scale=2.0), 4, 5, gradients=True)
    yield case("batch and heads", draw.normal(2, 3, 4, 6, scale=2.0), 8, 5)
    yield case("d_k = 2 of d_model = 32", draw.normal(2, 5, 32, scale=2.0), 2, 3, gradients=True)
    x = draw.normal(2, 1, 3, 4, 6, scale=2.0)
    yield case("columns stored as rows, three axes in front", x, 4, 6, layout="transposed")
    yield case("one word", draw.normal(2, 1, 6), 4, 5, check="edge cases")
    yield case("d_k = 1", draw.normal(2, 5, 6, scale=2.0), 1, 3, check="edge cases")
    yield case("equal words", draw.normal(2, 1, 6).expand(2, 4, 6), 4, 5, check="edge cases")
    yield case("inputs of 30", 30 * draw.normal(2, 5, 6), 4, 5, check="edge cases", coarse=False)


def _order_moves_along(answer: Callable[..., Tensor], call: Call) -> str | None:
    (x,) = call.args
    gap = float((answer(x.flip(-2)) - answer(x).flip(-2)).abs().max())
    return None if gap < 1e-4 else f"turning the words round does not just turn the outputs round: {gap:.3g} off"


SelfAttention = Exam(
    TOPIC,
    "SelfAttention",
    _module_reference,
    _module_naive,
    _module_cases,
    (
        Values("values", 1.5),
        Values("edge cases", 0.5),
        Properties(0.25, (_order_moves_along,)),
        Habits(0.25),
        Gradients(0.5),
    ),
    may_not_call=(ATTENTION,),
    skeleton=_Skeleton,
)


@SelfAttention.variant
def project_and_attend(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


@SelfAttention.variant
def module_with_einsum(self, x):
    scores = torch.einsum("...qd,...kd->...qk", self.w_q(x), self.w_k(x)) / self.w_k.out_features**0.5
    return torch.einsum("...qk,...kv->...qv", F.softmax(scores, dim=-1), self.w_v(x))


@SelfAttention.variant
def one_packed_product(self, x):
    weights = [self.w_q.weight, self.w_k.weight, self.w_v.weight]
    q, k, v = F.linear(x, torch.cat(weights)).split([w.shape[0] for w in weights], dim=-1)
    return (q @ k.transpose(-2, -1) * q.size(-1) ** -0.5).softmax(dim=-1) @ v


@SelfAttention.variant
def weights_by_hand(self, x):
    q, k, v = x @ self.w_q.weight.T, x @ self.w_k.weight.T, x @ self.w_v.weight.T
    scores = (q / math.sqrt(q.shape[-1])) @ k.mT
    exponentials = (scores - scores.amax(-1, keepdim=True)).exp()
    return (exponentials @ v) / exponentials.sum(-1, keepdim=True)


@SelfAttention.variant
def values_projected_last(self, x):
    q, k = self.w_q(x), self.w_k(x)
    return self.w_v(torch.softmax(q @ k.mT / math.sqrt(k.shape[-1]), dim=-1) @ x)


@SelfAttention.variant
def word_by_word(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    outputs = []
    for query in q.unbind(-2):
        weights = torch.softmax((k @ query.unsqueeze(-1)).squeeze(-1) / math.sqrt(k.shape[-1]), -1)
        outputs.append((weights.unsqueeze(-2) @ v).squeeze(-2))
    return torch.stack(outputs, -2)


@SelfAttention.variant
class OwnClass(nn.Module):
    def __init__(self, d_model, d_k, d_v):
        super().__init__()
        self.w_v = nn.Linear(d_model, d_v, bias=False)
        self.w_k = nn.Linear(d_model, d_k, bias=False)
        self.w_q = nn.Linear(d_model, d_k, bias=False)
        self.scale = d_k**-0.5

    def attend(self, q, k, v):
        return torch.softmax(self.scale * (q @ k.mT), -1) @ v

    def forward(self, x):
        return self.attend(self.w_q(x), self.w_k(x), self.w_v(x))


@SelfAttention.misconception(
    hint="You average the input itself. The values are a projection of it: v = w_v(x).",
    symptom="The output has the width of the input, and w_v never learns.",
)
def values_are_the_input(self, x):
    q, k = self.w_q(x), self.w_k(x)
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ x


@SelfAttention.misconception(
    hint="You average the keys: the values come from w_v.",
    symptom="The output has the width d_k, and w_v never learns.",
)
def values_are_the_keys(self, x):
    q, k = self.w_q(x), self.w_k(x)
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ k


@SelfAttention.misconception(
    hint="Queries and keys both come from w_q, so a word can only ask for what it offers. The keys come from w_k.",
    symptom="Scores are symmetric, most words look at themselves, and w_k never learns.",
)
def keys_from_w_q(self, x):
    q, v = self.w_q(x), self.w_v(x)
    return torch.softmax(q @ q.mT / math.sqrt(q.shape[-1]), -1) @ v


@SelfAttention.misconception(
    hint="Queries and keys have changed places: the scores are (w_q x)(w_k x)ᵀ, queries in the rows.",
    symptom="Who asks and who answers are exchanged. It trains just as well, until somebody loads weights.",
)
def queries_and_keys_swapped(self, x):
    q, k, v = self.w_k(x), self.w_q(x), self.w_v(x)
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


@SelfAttention.misconception(
    hint="You divide by √d_model, the width of the input. A score is a sum of d_k products: divide by √d_k.",
    symptom="Right while d_k = d_model.",
)
def scaled_by_root_d_model(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    return torch.softmax(q @ k.mT / math.sqrt(x.shape[-1]), -1) @ v


@SelfAttention.misconception(
    hint="You divide by √d_v, the width of the values. A score is a sum of d_k products: divide by √d_k.",
    symptom="Right while d_k = d_v.",
)
def module_scaled_by_root_d_v(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    return torch.softmax(q @ k.mT / math.sqrt(v.shape[-1]), -1) @ v


@SelfAttention.misconception(
    hint="You hide the words that come later. Nothing asks for a causal mask here: every word sees every word.",
    symptom="The first word sees itself only, and turning the words round is no longer harmless.",
)
def module_causal_unasked(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(later, -math.inf), -1) @ v


@SelfAttention.misconception(
    hint="You keep keys or values in `self` and use them again: the next input is answered from the last one.",
    symptom="The first call is right; the second one, with another sentence, looks at the first sentence's words.",
)
def keys_remembered(self, x):
    if getattr(self, "k", None) is None or self.k.shape[:-1] != x.shape[:-1]:
        self.k = self.w_k(x)
    q, v = self.w_q(x), self.w_v(x)
    return torch.softmax(q @ self.k.mT / math.sqrt(q.shape[-1]), -1) @ v


@SelfAttention.misconception(
    hint="You divide by the root of the sequence's length. A score is a sum of d_k products: divide by √d_k.",
    symptom="The same words weigh otherwise in a longer text.",
)
def module_scaled_by_root_n(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    return torch.softmax(q @ k.mT / math.sqrt(x.shape[-2]), -1) @ v


@SelfAttention.misconception(
    hint="The scores are not scaled: divide them by √d_k.",
    symptom="Weights are too sharp, the more so the larger d_k is.",
)
def module_unscaled(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    return torch.softmax(q @ k.mT, -1) @ v


@SelfAttention.misconception(
    hint="Your weights sum to one over the queries: softmax ran along dim −2, not along the keys.",
    symptom="Columns of the weights sum to one.",
)
def module_softmax_over_the_queries(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -2) @ v


@SelfAttention.misconception(
    hint="Your softmax runs along axis 1: with a batch that is the queries. Use the last axis.",
    symptom="Right on one sentence; wrong with a batch.",
    seen="https://github.com/aladdinpersson/Machine-Learning-Collection/issues/3",
)
def module_softmax_along_axis_one(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), 1) @ v


@SelfAttention.misconception(
    hint="`nn.Linear` keeps its weight as (d_out, d_in) and computes x Wᵀ. Call the module, or transpose the weight.",
    symptom="An error unless all widths are equal; then silently another function.",
)
def linear_weight_not_transposed(self, x):
    q, k, v = x @ self.w_q.weight, x @ self.w_k.weight, x @ self.w_v.weight
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


@SelfAttention.misconception(
    hint="Without projections a word attends to what resembles it. Use w_q, w_k and w_v.",
    symptom="The layer has parameters and uses none: its output has the width of the input.",
)
def without_projections(self, x):
    return torch.softmax(x @ x.mT / math.sqrt(x.shape[-1]), -1) @ x


@SelfAttention.misconception(
    hint="`k.T` turns all axes round, the batch's too: use `k.mT` or `transpose(-2, -1)`.",
    symptom="Right on one sentence; with a batch an error, or sentences mixed with one another.",
)
def module_all_axes_reversed(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    return torch.softmax(q @ k.permute(*reversed(range(k.ndim))) / math.sqrt(q.shape[-1]), -1) @ v


@SelfAttention.misconception(
    hint="The input is added to the output. The residual connection belongs to the block around attention.",
    symptom="An error unless d_v = d_model; then every output is too close to its own input.",
)
def residual_added(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    return x + torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


@SelfAttention.misconception(
    hint="You average over the words: every word keeps an output of its own.",
    symptom="One vector for the whole sequence.",
)
def one_output_for_all(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    return (torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v).mean(-2)


@SelfAttention.misconception(
    hint="The weights leave the graph (`detach`, `.data`, `no_grad`): w_q and w_k will never learn.",
    symptom="The output is right; w_q and w_k keep their initial values for ever.",
)
def module_scores_detached(self, x):
    q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
    return torch.softmax((q @ k.mT / math.sqrt(q.shape[-1])).detach(), -1) @ v


check_attention = examiner(
    TOPIC, "check_attention", attention, plain=lambda q, k, v: F.scaled_dot_product_attention(q, k, v)
)


@check_attention.variant
def compares_with_pytorch(fn):
    shapes = [((), 3, 5, 4, 6), ((), 4, 4, 4, 4), ((3,), 3, 3, 3, 3), ((2,), 5, 5, 16, 7), ((2, 3), 4, 6, 8, 5)]
    for lead, n_queries, n_keys, d_k, d_v in shapes:
        for size in (1.0, 100.0):
            q = size * torch.randn(*lead, n_queries, d_k, dtype=torch.float64)
            k = size * torch.randn(*lead, n_keys, d_k, dtype=torch.float64)
            v = torch.randn(*lead, n_keys, d_v, dtype=torch.float64)
            before = q.clone(), k.clone(), v.clone()
            output = fn(q, k, v)
            assert all(torch.equal(a, b) for a, b in zip(before, (q, k, v), strict=True))
            expected = F.scaled_dot_product_attention(q, k, v)
            torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-8)
    leaves = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    grads = torch.autograd.grad(fn(*leaves).square().sum(), leaves)
    expected = torch.autograd.grad(F.scaled_dot_product_attention(*leaves).square().sum(), leaves)
    for grad, right in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, right)


@check_attention.variant
def against_loops(fn):
    def slow(q, k, v):
        rows = [torch.softmax(k @ query / math.sqrt(k.shape[-1]), 0) @ v for query in q]
        return torch.stack(rows)

    for d_k, d_v, size in ((4, 4, 1), (9, 2, 1), (9, 2, 60)):
        q = (size * torch.randn(2, 3, 5, d_k, dtype=torch.float64)).requires_grad_()
        k = (size * torch.randn(2, 3, 5, d_k, dtype=torch.float64)).requires_grad_()
        v = torch.randn(2, 3, 5, d_v, dtype=torch.float64).requires_grad_()
        before = q.detach().clone()
        output = fn(q, k, v)
        if not isinstance(output, torch.Tensor) or not torch.equal(before, q.detach()):
            return False
        right = torch.stack([torch.stack([slow(*s) for s in zip(*b, strict=True)]) for b in zip(q, k, v, strict=True)])
        if output.shape != right.shape or not torch.allclose(output, right, rtol=1e-6, atol=1e-8):
            return False
        grads = torch.autograd.grad(output.square().sum(), (q, k, v), allow_unused=True)
        expected = torch.autograd.grad(right.square().sum(), (q, k, v))
        for grad, wanted in zip(grads, expected, strict=True):
            if grad is None or not torch.allclose(grad, wanted, rtol=1e-5, atol=1e-7):
                return False
    return True


@check_attention.misconception(
    hint="You look at the shape only. Most wrong answers have the right shape.",
    symptom="A plain mean of the values passes.",
)
def attention_only_the_shape(fn):
    assert fn(torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 6)).shape == (2, 3, 6)


@check_attention.misconception(
    hint="With d_k = d_v the two widths can be taken for one another. Let every axis have a length of its own.",
    symptom="A scale of √d_v passes, and so do transposed weights.",
)
def attention_all_axes_alike(fn):
    q, k, v = torch.randn(3, 4, 4, dtype=torch.float64).unbind()
    torch.testing.assert_close(fn(q, k, v), F.scaled_dot_product_attention(q, k, v))


@check_attention.misconception(
    hint="Equal keys get equal weights under every scale and every axis: the output is the mean whatever happens.",
    symptom="A missing scale and a plain mean pass.",
)
def attention_only_equal_keys(fn):
    q, k, v = torch.randn(2, 3, 4), torch.ones(2, 5, 4), torch.randn(2, 5, 6)
    assert torch.allclose(fn(q, k, v), v.mean(1, keepdim=True).expand(2, 3, 6), atol=1e-5)


@check_attention.misconception(
    hint="Outputs inside the range of the values are necessary, but every kind of average passes that test.",
    symptom="Unscaled, averaging uniformly, or picking one key: all pass.",
)
def attention_only_the_hull(fn):
    q, k, v = torch.randn(99, 3, 4), torch.randn(99, 5, 4), torch.randn(99, 5, 6)
    output = fn(q, k, v)
    assert (output <= v.amax(1, keepdim=True) + 1e-5).all()
    assert (output >= v.amin(1, keepdim=True) - 1e-5).all()


@check_attention.misconception(
    hint="One sentence has no batch to mix up: add leading axes.",
    symptom="`k.T` and a softmax along axis 1 pass.",
)
def attention_without_a_batch(fn):
    for size in (1.0, 100.0):
        q, k, v = (torch.randn(n, d, dtype=torch.float64) for n, d in ((3, 4), (5, 4), (5, 6)))
        torch.testing.assert_close(fn(size * q, size * k, v), F.scaled_dot_product_attention(size * q, size * k, v))


@check_attention.misconception(
    hint="Right answers are rejected. They differ in their last digits: compare with a tolerance, not with `==`.",
    symptom="PyTorch itself may pass, but no other right answer does.",
)
def attention_exact_equality(fn):
    q, k, v = torch.randn(2, 30, 33), torch.randn(2, 40, 33), torch.randn(2, 40, 21)
    assert torch.equal(fn(q, k, v), F.scaled_dot_product_attention(q, k, v))


@check_attention.misconception(
    hint="Small inputs make all weights nearly equal, and hide every error of the scores. Use components of size one.",
    symptom="Any scale passes, and a plain mean as well.",
)
def attention_only_tiny_inputs(fn):
    q, k, v = 1e-3 * torch.randn(2, 4, 4), 1e-3 * torch.randn(2, 4, 4), torch.randn(2, 4, 4)
    assert torch.allclose(fn(q, k, v), F.scaled_dot_product_attention(q, k, v), atol=1e-4)


@check_attention.misconception(
    hint="You check values, but neither gradients nor the inputs afterwards.",
    symptom="Detached scores and queries scaled in place pass.",
)
def attention_values_only(fn):
    for lead, n_queries, n_keys, d_k, d_v in (((), 3, 5, 4, 6), ((3,), 3, 3, 3, 3), ((2, 3), 4, 6, 8, 5)):
        for size in (1.0, 100.0):
            q = size * torch.randn(*lead, n_queries, d_k, dtype=torch.float64)
            k = size * torch.randn(*lead, n_keys, d_k, dtype=torch.float64)
            v = torch.randn(*lead, n_keys, d_v, dtype=torch.float64)
            expected = F.scaled_dot_product_attention(q, k, v)
            torch.testing.assert_close(fn(q, k, v), expected, rtol=1e-6, atol=1e-8)
