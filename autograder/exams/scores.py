"""The exams of *scores*: three projections, and three ways to measure how relevant a key is to a query."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.answer.guard import ATTENTION, Operators
from autograder.engine.checks import Gradients, Habits, Properties, Values
from autograder.engine.exam import Case, Draw, Exam, Nudge, as_is
from autograder.engine.messages import apart
from autograder.engine.subject import Call

TOPIC = "scores"
BILINEAR = Operators("a ready-made bilinear form", ("bilinear", "Bilinear", "*_trilinear"))


def _linear(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> tuple[Tensor, ...]:
    """PyTorch's own linear layer, which keeps its weights the other way round."""
    return F.linear(x, w_q.mT), F.linear(x, w_k.mT), F.linear(x, w_v.mT)


def _projections_naive(
    x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, nudge: Nudge = as_is
) -> tuple[Tensor, Tensor, Tensor]:
    return nudge(x @ w_q), nudge(x @ w_k), nudge(x @ w_v)


def _projected(
    draw: Draw, lead: tuple[int, ...], n: int, d_model: int, d_k: int, d_v: int, scale: float = 1.0
) -> tuple[Tensor, ...]:
    """One sequence and its three weights."""
    x = draw.normal(*lead, n, d_model, scale=scale)
    return x, draw.normal(d_model, d_k), draw.normal(d_model, d_k), draw.normal(d_model, d_v)


def _projection_cases(draw: Draw) -> Iterator[Case]:
    yield Case("a sentence", _projected(draw, (), 5, 4, 3, 2), gradients=True, tiny=True)
    yield Case("every width the same", _projected(draw, (), 4, 4, 4, 4), gradients=True)
    yield Case("every width the same, a batch", _projected(draw, (2,), 5, 3, 3, 3), gradients=True)
    yield Case("d_k as wide as d_model", _projected(draw, (2,), 5, 4, 4, 6))
    yield Case("d_v as wide as d_model", _projected(draw, (2,), 5, 6, 4, 6))
    yield Case("a batch", _projected(draw, (2,), 5, 6, 4, 3), gradients=True)
    yield Case("a batch as large as a sentence", _projected(draw, (3,), 3, 3, 3, 3))
    yield Case("a batch of one", _projected(draw, (1,), 5, 4, 3, 6), gradients=True)
    yield Case("four axes", _projected(draw, (2, 3), 4, 6, 5, 7), gradients=True)
    yield Case("five axes", _projected(draw, (2, 1, 3), 2, 4, 3, 5))
    yield Case("wide", _projected(draw, (2,), draw.integer(8, 16), 80, 32, 48))
    yield Case("columns stored as rows", _projected(draw, (2, 3), 5, 6, 4, 3), layout="transposed", gradients=True)
    yield Case("every second number of a row", _projected(draw, (2,), 5, 6, 4, 3), layout="strided")
    x, w, _, _ = _projected(draw, (2,), 5, 4, 3, 3)
    yield Case("the three weights are one tensor", (x, w, w, w), gradients=True)
    edge = partial(Case, check="edge cases")
    yield edge("one token", _projected(draw, (2,), 1, 4, 3, 5))
    yield edge("d_model = 1", _projected(draw, (2,), 4, 1, 3, 5))
    yield edge("d_k = 1", _projected(draw, (), 4, 5, 1, 3))
    yield edge("d_v = 1", _projected(draw, (2,), 4, 5, 3, 1))
    yield edge("components of 10⁴", _projected(draw, (2,), 4, 5, 3, 2, scale=1e4), coarse=False)


def _each_token_alone(answer: Callable[..., Tensor], call: Call) -> str | None:
    x, *weights = call.args
    gap = apart(answer(x[..., :1, :], *weights), answer(x, *weights)[..., :1, :])
    return gap and f"a token's query with and without the other tokens differs {gap}"


project_qkv = Exam(
    TOPIC,
    "project_qkv",
    _linear,
    _projections_naive,
    _projection_cases,
    (Values("values", 2), Values("edge cases", 0.5), Properties(0.5, (_each_token_alone,)), Habits(0.5), Gradients(1)),
    outputs=("q", "k", "v"),
    may_not_call=(ATTENTION,),
)


@project_qkv.variant
def three_products(x, w_q, w_k, w_v):
    return x @ w_q, x @ w_k, x @ w_v


@project_qkv.variant
def linear_with_transposed_weights(x, w_q, w_k, w_v):
    return F.linear(x, w_q.T), F.linear(x, w_k.T), F.linear(x, w_v.T)


@project_qkv.variant
def one_product_then_split(x, w_q, w_k, w_v):
    together = x @ torch.cat([w_q, w_k, w_v], dim=1)
    return together.split([w_q.shape[1], w_k.shape[1], w_v.shape[1]], dim=-1)


@project_qkv.variant
def projections_by_einsum(x, w_q, w_k, w_v):
    return [torch.einsum("...ni,io->...no", x, w) for w in (w_q, w_k, w_v)]


@project_qkv.variant
def token_by_token(x, w_q, w_k, w_v):
    tokens = x.unbind(-2)
    q = torch.stack([token @ w_q for token in tokens], dim=-2)
    k = torch.stack([token @ w_k for token in tokens], dim=-2)
    v = torch.stack([token @ w_v for token in tokens], dim=-2)
    return q, k, v


@project_qkv.variant
def projections_by_tensordot(x, w_q, w_k, w_v):
    return tuple(torch.tensordot(x, w, dims=1) for w in (w_q, w_k, w_v))


@project_qkv.variant
def component_by_component(x, w_q, w_k, w_v):
    def project(w):
        return (x.unsqueeze(-1) * w).sum(-2)

    return project(w_q), project(w_k), project(w_v)


@project_qkv.variant
def flattened_and_restored(x, w_q, w_k, w_v):
    rows = x.reshape(-1, x.shape[-1])
    return tuple((rows @ w).view(*x.shape[:-1], w.shape[1]) for w in (w_q, w_k, w_v))


@project_qkv.misconception(
    hint="The weights are (d_in, d_out) and stand on the right as they are. You transpose them, as if they came from "
    "`nn.Linear`.",
    symptom="An error, unless d_model is also the width of the output; then silently another projection.",
    seen="https://github.com/mindspore-lab/mindone/pull/399",
)
def projection_weights_transposed(x, w_q, w_k, w_v):
    return x @ w_q.T, x @ w_k.T, x @ w_v.T


@project_qkv.misconception(
    hint="Queries and keys come from the same weights. Each role has a matrix of its own; w_k is never used.",
    symptom="q and k are one tensor: scores are symmetric, and most tokens look at themselves.",
    seen="https://github.com/stevinc/Transformer_Timeseries/issues/2",
)
def keys_projected_by_w_q(x, w_q, w_k, w_v):
    return x @ w_q, x @ w_q, x @ w_v


@project_qkv.misconception(
    hint="All three come from w_q. Each role has a matrix of its own.",
    symptom="q, k and v are one tensor, and w_k and w_v never learn.",
    seen="https://github.com/stevezheng23/reading_comprehension_tf/pull/284",
)
def one_projection_for_three_roles(x, w_q, w_k, w_v):
    return x @ w_q, x @ w_q, x @ w_q


@project_qkv.misconception(
    hint="The values come from w_k, like the keys: what is handed over is then what was searched by. Use w_v.",
    symptom="k and v are one tensor; w_v never learns, and d_v is ignored.",
)
def values_projected_by_w_k(x, w_q, w_k, w_v):
    return x @ w_q, x @ w_k, x @ w_k


@project_qkv.misconception(
    hint="The values are not projected: you hand over the token itself. Use w_v.",
    symptom="v has the width d_model, and w_v never learns.",
)
def values_left_as_the_input(x, w_q, w_k, w_v):
    return x @ w_q, x @ w_k, x


@project_qkv.misconception(
    hint="The queries are not projected. What a token asks for is learned too: use w_q.",
    symptom="q has the width d_model, and w_q never learns.",
)
def queries_left_as_the_input(x, w_q, w_k, w_v):
    return x, x @ w_k, x @ w_v


@project_qkv.misconception(
    hint="You project the projections: keys from queries, values from keys. All three come from x, side by side.",
    symptom="An error unless the widths fit one another; then q is right, k and v are not.",
)
def projections_in_a_chain(x, w_q, w_k, w_v):
    q = x @ w_q
    k = q @ w_k
    return q, k, k @ w_v


@project_qkv.misconception(
    hint="The order is (q, k, v); you give the keys first.",
    symptom="Who asks and who answers are exchanged. Both have the shape (..., n, d_k), so nothing complains.",
)
def keys_before_queries(x, w_q, w_k, w_v):
    return x @ w_k, x @ w_q, x @ w_v


@project_qkv.misconception(
    hint="The order is (q, k, v); you give the values before the keys.",
    symptom="Shapes are exchanged where d_k and d_v differ, and nothing complains where they do not.",
)
def values_before_keys(x, w_q, w_k, w_v):
    return x @ w_q, x @ w_v, x @ w_k


@project_qkv.misconception(
    hint="Three tensors are asked for. You give one, with the three side by side.",
    symptom="Whoever unpacks `q, k, v` gets rows of the batch, or an error.",
)
def three_in_one_tensor(x, w_q, w_k, w_v):
    return torch.cat([x @ w_q, x @ w_k, x @ w_v], dim=-1)


@project_qkv.misconception(
    hint="A projection is linear: nothing follows the product.",
    symptom="No component is negative, so no score can be: no key can speak against itself.",
)
def projected_through_relu(x, w_q, w_k, w_v):
    return torch.relu(x @ w_q), torch.relu(x @ w_k), torch.relu(x @ w_v)


@project_qkv.misconception(
    hint="You divide the queries by √d_k. The scale belongs to the scores, in the next lesson; here q is x w_q.",
    symptom="k and v are right, and q is √d_k times too small.",
)
def queries_scaled_already(x, w_q, w_k, w_v):
    return x @ w_q / math.sqrt(w_q.shape[1]), x @ w_k, x @ w_v


@project_qkv.misconception(
    hint="You subtract the mean and divide by the deviation first. Normalising is another layer's business.",
    symptom="q, k and v no longer grow with x; a token of one component gives NaN.",
)
def tokens_normalised_first(x, w_q, w_k, w_v):
    x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
    return x @ w_q, x @ w_k, x @ w_v


@project_qkv.misconception(
    hint="You put the weights on the left, as in books that write a token as a column. Here a token is a row.",
    symptom="The results are transposed: (..., d_k, n) instead of (..., n, d_k).",
)
def tokens_as_columns(x, w_q, w_k, w_v):
    return w_q.T @ x.mT, w_k.T @ x.mT, w_v.T @ x.mT


@project_qkv.misconception(
    hint="You flatten the leading axes and never restore them: the result has one long axis of tokens.",
    symptom="Right on one sentence. With a batch all sentences run together.",
)
def batch_flattened(x, w_q, w_k, w_v):
    rows = x.reshape(-1, x.shape[-1])
    return rows @ w_q, rows @ w_k, rows @ w_v


@project_qkv.misconception(
    hint="`torch.bmm` and letters such as `bni` want exactly one axis in front. Let `@` or `...` take what comes.",
    symptom="Right on a batch; an error on one sentence and on four axes.",
)
def projections_need_a_batch(x, w_q, w_k, w_v):
    return tuple(torch.einsum("bni,io->bno", x, w) for w in (w_q, w_k, w_v))


@project_qkv.misconception(
    hint="You cut one packed product into three equal parts. Values may be wider or narrower than queries and keys.",
    symptom="Right while d_v = d_k. Otherwise the borders between the three are in the wrong places.",
)
def cut_into_equal_parts(x, w_q, w_k, w_v):
    return (x @ torch.cat([w_q, w_k, w_v], dim=-1)).chunk(3, dim=-1)


@project_qkv.misconception(
    hint="You copy the weights into layers of your own. The copies learn; the weights that you were given do not.",
    symptom="The values are right, and so is the gradient by x. None arrives at the three weights.",
)
def copied_into_layers(x, w_q, w_k, w_v):
    projected = []
    for w in (w_q, w_k, w_v):
        layer = torch.nn.Linear(*w.shape, bias=False, dtype=w.dtype, device=w.device)
        layer.weight.data = w.detach().mT.clone()
        projected.append(layer(x))
    return tuple(projected)


@project_qkv.misconception(
    hint="The projections leave the graph (`detach`, `.data`, `no_grad`): the weights can't learn.",
    symptom="The values are right, and no gradient arrives anywhere.",
)
def projections_detached(x, w_q, w_k, w_v):
    x, w_q, w_k, w_v = x.detach(), w_q.detach(), w_k.detach(), w_v.detach()
    return x @ w_q, x @ w_k, x @ w_v


@project_qkv.misconception(
    hint="You compute in float32 whatever comes in: the digits of a float64 input are lost on the way.",
    symptom="Right dtype, and seven right digits of sixteen.",
)
def projections_rounded(x, w_q, w_k, w_v):
    return tuple((x.float() @ w.float()).to(x.dtype) for w in (w_q, w_k, w_v))


def _dot_products(q: Tensor, k: Tensor) -> Tensor:
    """The definition, pair by pair: Σ q_i k_i (Luong et al. 2015, eq. 8, *dot*)."""
    return (q.unsqueeze(-2) * k.unsqueeze(-3)).sum(-1)


def _dot_products_naive(q: Tensor, k: Tensor, nudge: Nudge = as_is) -> Tensor:
    return nudge(q @ k.mT)


def _pair(
    draw: Draw, lead: tuple[int, ...], n_queries: int, n_keys: int, d_q: int, d_k: int | None = None
) -> tuple[Tensor, Tensor]:
    """Queries and keys, of one width unless two are given."""
    return draw.normal(*lead, n_queries, d_q), draw.normal(*lead, n_keys, d_q if d_k is None else d_k)


def _dot_product_cases(draw: Draw) -> Iterator[Case]:
    yield Case("a sentence", _pair(draw, (), 3, 5, 4), gradients=True, tiny=True)
    yield Case("more queries than keys", _pair(draw, (), 6, 4, 3), gradients=True)
    yield Case("as many queries as keys", _pair(draw, (), 4, 4, 3), gradients=True)
    yield Case("as many as components", _pair(draw, (), 4, 4, 4), gradients=True)
    yield Case("a batch", _pair(draw, (2,), 5, 3, 4), gradients=True)
    yield Case("a batch, as many queries as keys", _pair(draw, (2,), 5, 5, 4), gradients=True)
    yield Case("a batch as large as a sentence", _pair(draw, (3,), 3, 3, 3))
    yield Case("a batch of one", _pair(draw, (1,), 4, 6, 5), gradients=True)
    yield Case("batch and heads", _pair(draw, (2, 3), 4, 6, 8), gradients=True)
    yield Case("batch and heads, all alike", _pair(draw, (2, 2), 2, 2, 2))
    yield Case("five axes", _pair(draw, (2, 1, 3), 2, 4, 3))
    yield Case("d_k = 64", _pair(draw, (2,), 6, 5, 64), gradients=True)
    yield Case("d_k = 80", _pair(draw, (2,), 3, 4, 80))
    yield Case("many keys", _pair(draw, (), 3, draw.integer(150, 250), 8))
    yield Case("columns stored as rows", _pair(draw, (2, 3), 4, 6, 5), layout="transposed", gradients=True)
    yield Case("every second number of a row", _pair(draw, (2,), 4, 6, 4), layout="strided")
    x = draw.normal(2, 5, 4)
    yield Case("queries and keys are one tensor", (x, x), gradients=True)
    edge = partial(Case, check="edge cases")
    yield edge("one query", _pair(draw, (2,), 1, 6, 4))
    yield edge("one key", _pair(draw, (2,), 4, 1, 4))
    yield edge("one query, one key", _pair(draw, (), 1, 1, 5))
    yield edge("one sentence, one head", _pair(draw, (1, 1), 3, 4, 5))
    yield edge("d_k = 1", _pair(draw, (2,), 4, 5, 1))
    q, k = _pair(draw, (2,), 4, 6, 4)
    yield edge("scores up to ±10⁴", (100 * q, 100 * k), coarse=False)
    # A dot product by way of squared distances, |q|² + |k|² − |q − k|², has no digits left here.
    yield edge("long queries, short keys", (1e3 * q, 1e-3 * k), coarse=False)
    yield edge("a query of zeros", (torch.cat([q[:, :2], torch.zeros_like(q[:, :1])], 1), k))


def _each_pair_alone(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k, *rest = call.args
    gap = apart(answer(q[..., -1:, :], k[..., -1:, :], *rest), answer(q, k, *rest)[..., -1:, -1:])
    return gap and f"a pair's score with and without the other queries and keys differs {gap}"


def _roles_exchanged(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k = call.args
    gap = apart(answer(k, q).mT, answer(q, k))
    return gap and f"exchanging q and k must only transpose the scores; then they differ {gap}"


def _linear_in_the_query(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k, *rest = call.args
    gap = apart(answer(-2 * q, k, *rest), -2 * answer(q, k, *rest))
    return gap and f"the scores of −2 q must be −2 times those of q; they differ {gap}"


dot_product_scores = Exam(
    TOPIC,
    "dot_product_scores",
    _dot_products,
    _dot_products_naive,
    _dot_product_cases,
    (
        Values("values", 2),
        Values("edge cases", 0.75),
        Properties(0.5, (_each_pair_alone, _roles_exchanged, _linear_in_the_query)),
        Habits(0.5),
        Gradients(0.75),
    ),
    may_not_call=(ATTENTION,),
)


@dot_product_scores.variant
def one_product(q, k):
    return q @ k.mT


@dot_product_scores.variant
def last_two_axes_swapped(q, k):
    return torch.matmul(q, k.transpose(-2, -1))


@dot_product_scores.variant
def dots_by_einsum(q, k):
    return torch.einsum("...qd,...kd->...qk", q, k)


@dot_product_scores.variant
def dots_query_by_query(q, k):
    return torch.stack([(k * query.unsqueeze(-2)).sum(-1) for query in q.unbind(-2)], dim=-2)


@dot_product_scores.variant
def dots_pair_by_pair(q, k):
    rows = []
    for i in range(q.shape[-2]):
        rows.append(torch.stack([(q[..., i, :] * k[..., j, :]).sum(-1) for j in range(k.shape[-2])], dim=-1))
    return torch.stack(rows, dim=-2)


@dot_product_scores.variant
def dots_broadcast(q, k):
    return (q.unsqueeze(-2) * k.unsqueeze(-3)).sum(-1)


@dot_product_scores.variant
def keys_first_then_turned(q, k):
    return (k @ q.mT).mT


@dot_product_scores.variant
def dots_in_one_long_batch(q, k):
    flat_q, flat_k = q.reshape(-1, *q.shape[-2:]), k.reshape(-1, *k.shape[-2:])
    return torch.bmm(flat_q, flat_k.permute(0, 2, 1)).reshape(*q.shape[:-1], k.shape[-2])


@dot_product_scores.variant
def sum_over_the_components(q, k):
    total = 0
    for c in range(q.shape[-1]):
        total = total + q[..., :, None, c] * k[..., None, :, c]
    return total


@dot_product_scores.misconception(
    hint="You compare the queries with themselves; the keys are never looked at.",
    symptom="Right where queries and keys are one tensor; elsewhere the scores are symmetric, or of the wrong shape.",
    seen="https://github.com/datawhalechina/learn-nlp-with-transformers/pull/40",
)
def scores_of_queries_alone(q, k):
    return q @ q.mT


@dot_product_scores.misconception(
    hint="You give one number for each key. A score belongs to a pair: every query has its own opinion of every key.",
    symptom="The queries' axis is gone: a word is said to be important, and nobody knows to whom.",
)
def importance_per_word(q, k):
    return (q @ k.mT).mean(-2)


@dot_product_scores.misconception(
    hint="Every query gets the same scores, those of the mean query. Each row must come from its own query.",
    symptom="The right shape, with all rows alike; right where there is one query.",
)
def every_query_alike(q, k):
    return (q.mean(-2, keepdim=True) @ k.mT).expand(*q.shape[:-1], k.shape[-2])


@dot_product_scores.misconception(
    hint="You compare query 1 with key 1, query 2 with key 2, and so on. Every query meets every key.",
    symptom="One number for each position, and an error where queries and keys differ in number.",
)
def pairs_lined_up(q, k):
    return (q * k).sum(-1)


@dot_product_scores.misconception(
    hint="The products of the components are still apart. Sum them: a pair has one score.",
    symptom="One axis too many, of length d_k.",
    seen="https://github.com/cvignac/DiGress/issues/47",
)
def products_not_summed(q, k):
    return q.unsqueeze(-2) * k.unsqueeze(-3)


@dot_product_scores.misconception(
    hint="Your rows are the keys. Queries come first: q stands on the left.",
    symptom="The transpose of what is asked. A softmax over its last axis would then share out queries, not keys.",
)
def keys_in_the_rows(q, k):
    return k @ q.mT


@dot_product_scores.misconception(
    hint="`k.T` turns all axes round, the batch's too. Swap the last two only.",
    symptom="Right on one sentence; with a batch an error, or sentences mixed with one another.",
    seen="https://github.com/HomericIntelligence/Odyssey/issues/5648",
)
def keys_with_all_axes_reversed(q, k):
    return q @ k.permute(*reversed(range(k.ndim)))


@dot_product_scores.misconception(
    hint="You swap axes 1 and 2 by number. Count from behind, so that any number of axes may stand in front.",
    symptom="Right with exactly one axis in front; an error on one sentence, and heads mixed with tokens on four axes.",
)
def keys_with_axes_by_number(q, k):
    return q @ k.transpose(1, 2)


@dot_product_scores.misconception(
    hint="`torch.bmm` and letters such as `bqd` want exactly one axis in front. Let `@` or `...` take what comes.",
    symptom="Right on a batch; an error on one sentence and on four axes.",
)
def scores_need_a_batch(q, k):
    return torch.bmm(q, k.mT)


@dot_product_scores.misconception(
    hint="`view` and `reshape` keep the numbers in their order and only cut it elsewhere. Swap the axes instead.",
    symptom="The right shape, with keys made of other keys' components.",
)
def keys_reshaped_not_transposed(q, k):
    return q @ k.reshape(*k.shape[:-2], k.shape[-1], k.shape[-2])


@dot_product_scores.misconception(
    hint="You multiply components with components, over the tokens. Sum over the components instead: q kᵀ, not qᵀ k.",
    symptom="A result of shape (d_k, d_k), or an error where queries and keys differ in number.",
)
def components_against_components(q, k):
    return q.mT @ k


@dot_product_scores.misconception(
    hint="Two different letters for one axis sum q and k each on its own. Give the components one letter in both.",
    symptom="The right shape, and every score is the sum of a query times the sum of a key.",
)
def two_letters_for_one_axis(q, k):
    return torch.einsum("...qd,...ke->...qk", q, k)


@dot_product_scores.misconception(
    hint="`inner` and `tensordot` pair every item of the batch with every other. Sentences must not meet.",
    symptom="Right on one sentence; with a batch the result has an axis for each batch, twice.",
)
def pairs_across_the_batch(q, k):
    return torch.inner(q, k)


@dot_product_scores.misconception(
    hint="You divide by √d_k already. That is the next lesson's function; here the scores stay as they are.",
    symptom="Every score is √d_k times too small.",
)
def scaled_too_soon(q, k):
    return q @ k.mT / math.sqrt(q.shape[-1])


@dot_product_scores.misconception(
    hint="That is the mean of the products. A dot product is their sum.",
    symptom="Every score is d_k times too small.",
)
def mean_of_the_products(q, k):
    return (q.unsqueeze(-2) * k.unsqueeze(-3)).mean(-1)


@dot_product_scores.misconception(
    hint="You divide by the lengths: that is the cosine. In a dot product a long key counts for more.",
    symptom="No score is above one, whatever the inputs; NaN for a query of zeros.",
)
def cosine_of_the_angle(q, k):
    return (q / q.norm(dim=-1, keepdim=True)) @ (k / k.norm(dim=-1, keepdim=True)).mT


@dot_product_scores.misconception(
    hint="That is a distance with its sign turned. A dot product is no distance: the nearest key need not win.",
    symptom="No score is above zero, and equal vectors score zero.",
)
def minus_the_distance(q, k):
    return -(q.unsqueeze(-2) - k.unsqueeze(-3)).square().sum(-1).sqrt()


@dot_product_scores.misconception(
    hint="You give weights. Scores come before: any real numbers, whose rows need not sum to one.",
    symptom="All numbers lie between 0 and 1.",
)
def weights_instead_of_scores(q, k):
    return torch.softmax(q @ k.mT, dim=-1)


@dot_product_scores.misconception(
    hint="You cut the negative scores off. A score says how much, and against as well as for.",
    symptom="Keys that point away from the query all score zero, and learn nothing from it.",
)
def negative_scores_cut(q, k):
    return torch.relu(q @ k.mT)


@dot_product_scores.misconception(
    hint="The scores leave the graph (`detach`, `.data`, `no_grad`): neither queries nor keys can learn.",
    symptom="The scores are right, and no gradient arrives.",
)
def dots_detached(q, k):
    return q.detach() @ k.detach().mT


@dot_product_scores.misconception(
    hint="The keys leave the graph (`detach`, `.data`): only the queries can learn.",
    symptom="The scores are right, and the keys get no gradient.",
)
def keys_detached(q, k):
    return q @ k.detach().mT


@dot_product_scores.misconception(
    hint="An operator that ends in `_`, or `*=`, writes into the caller's queries. Make a new tensor.",
    symptom="The first call is right; afterwards q is another tensor.",
)
def queries_changed_in_place(q, k):
    scores = q @ k.mT
    with torch.no_grad():
        q *= 0.5
    return scores


@dot_product_scores.misconception(
    hint="You compute in float32 whatever comes in: the digits of a float64 input are lost on the way.",
    symptom="Right dtype, and seven right digits of sixteen.",
)
def dots_rounded(q, k):
    return (q.float() @ k.float().mT).to(q.dtype)


def _bilinear(q: Tensor, k: Tensor, w: Tensor) -> Tensor:
    """PyTorch's own, on every pair: it compares the rows of two matrices one with one."""
    pairs = (*q.shape[:-1], k.shape[-2])
    every_q = q.unsqueeze(-2).expand(*pairs, -1).contiguous()
    every_k = k.unsqueeze(-3).expand(*pairs, -1).contiguous()
    return F.bilinear(every_q, every_k, w.unsqueeze(0)).squeeze(-1)


def _bilinear_naive(q: Tensor, k: Tensor, w: Tensor, nudge: Nudge = as_is) -> Tensor:
    return nudge(nudge(q @ w) @ k.mT)


def _bilinear_inputs(
    draw: Draw, lead: tuple[int, ...], n_queries: int, n_keys: int, d_q: int, d_k: int
) -> tuple[Tensor, ...]:
    return *_pair(draw, lead, n_queries, n_keys, d_q, d_k), draw.normal(d_q, d_k)


def _bilinear_cases(draw: Draw) -> Iterator[Case]:
    yield Case("a sentence", _bilinear_inputs(draw, (), 3, 5, 4, 2), gradients=True, tiny=True)
    yield Case("one width", _bilinear_inputs(draw, (), 3, 5, 4, 4), gradients=True)
    yield Case("one width, as many queries as keys", _bilinear_inputs(draw, (), 4, 4, 3, 3), gradients=True)
    yield Case("as many as components", _bilinear_inputs(draw, (), 4, 4, 4, 4), gradients=True)
    yield Case("a batch", _bilinear_inputs(draw, (2,), 5, 3, 4, 6), gradients=True)
    yield Case("a batch, one width", _bilinear_inputs(draw, (2,), 5, 3, 4, 4), gradients=True)
    yield Case("a batch as large as a sentence", _bilinear_inputs(draw, (3,), 3, 3, 3, 3))
    yield Case("a batch of one", _bilinear_inputs(draw, (1,), 4, 6, 5, 3), gradients=True)
    yield Case("batch and heads", _bilinear_inputs(draw, (2, 3), 4, 6, 5, 7), gradients=True)
    yield Case("batch and heads, one width", _bilinear_inputs(draw, (2, 3), 4, 6, 5, 5))
    yield Case("five axes", _bilinear_inputs(draw, (2, 1, 3), 2, 4, 3, 5))
    yield Case("wide", _bilinear_inputs(draw, (2,), 6, 5, 80, 72), gradients=True)
    yield Case("many keys", _bilinear_inputs(draw, (), 3, draw.integer(150, 250), 8, 6))
    yield Case(
        "columns stored as rows", _bilinear_inputs(draw, (2, 3), 4, 6, 5, 3), layout="transposed", gradients=True
    )
    yield Case("every second number of a row", _bilinear_inputs(draw, (2,), 4, 6, 4, 3), layout="strided")
    x, _, w = _bilinear_inputs(draw, (2,), 5, 5, 4, 4)
    yield Case("queries and keys are one tensor", (x, x, w), gradients=True)
    yield Case("the matrix is the identity", (*_pair(draw, (2,), 3, 5, 4), torch.eye(4)), gradients=True)
    edge = partial(Case, check="edge cases")
    yield edge("one query", _bilinear_inputs(draw, (2,), 1, 6, 4, 3))
    yield edge("one key", _bilinear_inputs(draw, (2,), 4, 1, 4, 3))
    yield edge("one sentence, one head", _bilinear_inputs(draw, (1, 1), 3, 4, 5, 2))
    yield edge("d_q = 1", _bilinear_inputs(draw, (2,), 4, 5, 1, 3))
    yield edge("d_k = 1", _bilinear_inputs(draw, (2,), 4, 5, 3, 1))
    yield edge("d_q = d_k = 1", _bilinear_inputs(draw, (2,), 4, 5, 1, 1))
    q, k, w = _bilinear_inputs(draw, (2,), 4, 6, 4, 4)
    yield edge("scores up to ±10⁴", (100 * q, 100 * k, w), coarse=False)
    yield edge(
        "a matrix that turns by a right angle", (q[..., :2], k[..., :2], torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    )


def _turned_with_its_matrix(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k, w = call.args
    gap = apart(answer(k, q, w.mT).mT, answer(q, k, w))
    return gap and f"exchanging q and k, with w transposed, must only transpose the scores; then they differ {gap}"


bilinear_scores = Exam(
    TOPIC,
    "bilinear_scores",
    _bilinear,
    _bilinear_naive,
    _bilinear_cases,
    (
        Values("values", 2),
        Values("edge cases", 0.75),
        Properties(0.5, (_each_pair_alone, _turned_with_its_matrix, _linear_in_the_query)),
        Habits(0.5),
        Gradients(0.75),
    ),
    may_not_call=(ATTENTION, BILINEAR),
)


@bilinear_scores.variant
def query_through_the_matrix(q, k, w):
    return q @ w @ k.mT


@bilinear_scores.variant
def key_through_the_matrix(q, k, w):
    return q @ (w @ k.transpose(-2, -1))


@bilinear_scores.variant
def key_through_the_transpose(q, k, w):
    return q @ (k @ w.T).mT


@bilinear_scores.variant
def bilinear_by_einsum(q, k, w):
    return torch.einsum("...qi,ij,...kj->...qk", q, w, k)


@bilinear_scores.variant
def bilinear_by_linear_layer(q, k, w):
    return torch.matmul(F.linear(q, w.T), k.transpose(-1, -2))


@bilinear_scores.variant
def bilinear_query_by_query(q, k, w):
    projected = q @ w
    return torch.stack([(k @ row.unsqueeze(-1)).squeeze(-1) for row in projected.unbind(-2)], dim=-2)


@bilinear_scores.variant
def bilinear_broadcast(q, k, w):
    return ((q @ w).unsqueeze(-2) * k.unsqueeze(-3)).sum(-1)


@bilinear_scores.variant
def bilinear_keys_first(q, k, w):
    return (k @ w.T @ q.mT).mT


@bilinear_scores.misconception(
    hint="w is used transposed. Its rows belong to the query's components, its columns to the key's.",
    symptom="An error where d_q and d_k differ; where they are equal, silently the score of another pair of roles.",
    seen="https://github.com/rohitg00/ai-engineering-from-scratch/pull/48",
)
def matrix_transposed(q, k, w):
    return q @ w.T @ k.mT


@bilinear_scores.misconception(
    hint="w never enters: that is the plain dot product.",
    symptom="An error where d_q and d_k differ, and w never learns.",
)
def matrix_forgotten(q, k, w):
    return q @ k.mT


@bilinear_scores.misconception(
    hint="w comes in twice, once for the queries and once for the keys. It stands between them, once.",
    symptom="An error unless w is square; then the scores are symmetric where q and k are one tensor.",
)
def matrix_on_both_sides(q, k, w):
    return (q @ w) @ (k @ w).mT


@bilinear_scores.misconception(
    hint="Where w is the identity you leave it out. The score is the same, but w has gone from the graph.",
    symptom="Right scores. A matrix that starts as the identity, a usual start, gets no gradient and stays one.",
)
def identity_skipped(q, k, w):
    if w.shape[0] == w.shape[1] and torch.equal(w, torch.eye(len(w), dtype=w.dtype, device=w.device)):
        return q @ k.mT
    return q @ w @ k.mT


@bilinear_scores.misconception(
    hint="w comes after the keys, where its rows meet the keys' numbers instead of components. It stands between.",
    symptom="An error unless there are as many keys as components; then scores that mix the keys of a sentence.",
)
def matrix_behind_the_keys(q, k, w):
    return q @ k.mT @ w


@bilinear_scores.misconception(
    hint="`inner` and `tensordot` pair every item of the batch with every other. Sentences must not meet.",
    symptom="Right on one sentence; with a batch the result has an axis for each batch, twice.",
)
def bilinear_across_the_batch(q, k, w):
    return torch.inner(q @ w, k)


@bilinear_scores.misconception(
    hint="You use the diagonal of w only: component i of a query may count with every component of a key.",
    symptom="Right for a diagonal w, such as the identity that one tests with.",
)
def only_the_diagonal(q, k, w):
    return (q * w.diagonal()) @ k.mT


@bilinear_scores.misconception(
    hint="You average w with its transpose. Relevance need not be mutual: w may be any matrix.",
    symptom="An error unless w is square; then token i scores j exactly as j scores i.",
)
def matrix_made_symmetric(q, k, w):
    return q @ ((w + w.T) / 2) @ k.mT


@bilinear_scores.misconception(
    hint="The queries are compared with the queries; the keys are never looked at.",
    symptom="Right where queries and keys are one tensor.",
)
def bilinear_of_queries_alone(q, k, w):
    return q @ w @ q.mT


@bilinear_scores.misconception(
    hint="Your rows are the keys. Queries come first: q stands on the left, w behind it.",
    symptom="The transpose of what is asked.",
)
def bilinear_keys_in_the_rows(q, k, w):
    return k @ w.T @ q.mT


@bilinear_scores.misconception(
    hint="q and k have changed places: w's rows belong to the query's components.",
    symptom="An error where d_q and d_k differ; else the scores that the keys would give the queries, transposed.",
)
def roles_exchanged(q, k, w):
    return k @ w @ q.mT


@bilinear_scores.misconception(
    hint="You compare query 1 with key 1, query 2 with key 2, as `F.bilinear` does. Every query meets every key.",
    symptom="One number for each position, and an error where queries and keys differ in number.",
)
def bilinear_pairs_lined_up(q, k, w):
    return (q @ w * k).sum(-1)


@bilinear_scores.misconception(
    hint="`k.T` turns all axes round, the batch's too. Swap the last two only.",
    symptom="Right on one sentence; with a batch an error, or sentences mixed with one another.",
)
def bilinear_all_axes_reversed(q, k, w):
    return q @ w @ k.permute(*reversed(range(k.ndim)))


@bilinear_scores.misconception(
    hint="You swap axes 1 and 2 by number. Count from behind, so that any number of axes may stand in front.",
    symptom="Right with exactly one axis in front; an error on one sentence.",
)
def bilinear_axes_by_number(q, k, w):
    return q @ w @ k.transpose(1, 2)


@bilinear_scores.misconception(
    hint="`torch.bmm` and letters such as `bqi` want exactly one axis in front. Let `@` or `...` take what comes.",
    symptom="Right on a batch; an error on one sentence and on four axes.",
)
def bilinear_needs_a_batch(q, k, w):
    return torch.einsum("bqi,ij,bkj->bqk", q, w, k)


@bilinear_scores.misconception(
    hint="You give one number for each key. A score belongs to a pair: keep the queries' axis.",
    symptom="The queries' axis is gone.",
)
def bilinear_importance_per_word(q, k, w):
    return (q @ w @ k.mT).mean(-2)


@bilinear_scores.misconception(
    hint="tanh belongs to the additive score. A bilinear form has no bounds.",
    symptom="No score is above one, and large ones are all alike.",
)
def squashed_by_tanh(q, k, w):
    return torch.tanh(q @ w @ k.mT)


@bilinear_scores.misconception(
    hint="You divide by √d_k. Nothing is scaled here.",
    symptom="Every score is √d_k times too small.",
)
def bilinear_scaled(q, k, w):
    return q @ w @ k.mT / math.sqrt(k.shape[-1])


@bilinear_scores.misconception(
    hint="You give weights. Scores come before: any real numbers, whose rows need not sum to one.",
    symptom="All numbers lie between 0 and 1.",
)
def bilinear_weights(q, k, w):
    return torch.softmax(q @ w @ k.mT, dim=-1)


@bilinear_scores.misconception(
    hint="w leaves the graph (`detach`, `.data`): what makes this score learnable does not learn.",
    symptom="The scores are right, queries and keys get gradients, and w keeps its first value for ever.",
)
def matrix_detached(q, k, w):
    return q @ w.detach() @ k.mT


@bilinear_scores.misconception(
    hint="You compute in float32 whatever comes in: the digits of a float64 input are lost on the way.",
    symptom="Right dtype, and seven right digits of sixteen.",
)
def bilinear_rounded(q, k, w):
    return (q.float() @ w.float() @ k.float().mT).to(q.dtype)


def _concatenated(q: Tensor, k: Tensor, w_q: Tensor, w_k: Tensor, v: Tensor) -> Tensor:
    """The same network on (query, key) side by side, pair by pair: v · tanh(W [q; k]) (Luong et al. 2015, *concat*)."""
    pairs = (*q.shape[:-1], k.shape[-2])
    both = torch.cat([q.unsqueeze(-2).expand(*pairs, -1), k.unsqueeze(-3).expand(*pairs, -1)], dim=-1)
    return F.linear(torch.tanh(F.linear(both, torch.cat([w_q, w_k]).mT)), v.unsqueeze(0)).squeeze(-1)


def _additive_naive(q: Tensor, k: Tensor, w_q: Tensor, w_k: Tensor, v: Tensor, nudge: Nudge = as_is) -> Tensor:
    summed = nudge(q @ w_q).unsqueeze(-2) + nudge(k @ w_k).unsqueeze(-3)
    return nudge(torch.tanh(nudge(summed)) @ v)


def _additive_inputs(
    draw: Draw, lead: tuple[int, ...], n_queries: int, n_keys: int, d_q: int, d_k: int, d_attention: int
) -> tuple[Tensor, ...]:
    # Hidden units of ordinary size: saturated ones would hide what happens before the tanh.
    w_q = draw.normal(d_q, d_attention, scale=d_q**-0.5)
    w_k = draw.normal(d_k, d_attention, scale=d_k**-0.5)
    return *_pair(draw, lead, n_queries, n_keys, d_q, d_k), w_q, w_k, draw.normal(d_attention)


def _additive_cases(draw: Draw) -> Iterator[Case]:
    yield Case("a sentence", _additive_inputs(draw, (), 3, 4, 2, 3, 5), gradients=True, tiny=True)
    yield Case("one width", _additive_inputs(draw, (), 3, 5, 4, 4, 6), gradients=True)
    yield Case("as many queries as keys", _additive_inputs(draw, (), 4, 4, 3, 5, 6), gradients=True)
    yield Case("all lengths alike", _additive_inputs(draw, (), 4, 4, 4, 4, 4), gradients=True)
    yield Case("a batch", _additive_inputs(draw, (2,), 5, 3, 4, 6, 7), gradients=True)
    yield Case("a batch, one width", _additive_inputs(draw, (2,), 5, 3, 4, 4, 6), gradients=True)
    yield Case("a batch as large as a sentence", _additive_inputs(draw, (3,), 3, 3, 3, 3, 3))
    yield Case("a batch of one", _additive_inputs(draw, (1,), 4, 6, 5, 3, 2), gradients=True)
    yield Case("batch and heads", _additive_inputs(draw, (2, 3), 4, 6, 5, 7, 8), gradients=True)
    yield Case("batch and heads, all alike", _additive_inputs(draw, (2, 2), 2, 2, 2, 2, 2))
    yield Case("five axes", _additive_inputs(draw, (2, 1, 3), 2, 4, 3, 5, 4))
    yield Case("a wide hidden layer", _additive_inputs(draw, (2,), 4, 5, 16, 24, 64), gradients=True)
    yield Case("many keys", _additive_inputs(draw, (), 3, draw.integer(100, 150), 4, 6, 5))
    yield Case(
        "columns stored as rows", _additive_inputs(draw, (2, 3), 4, 6, 5, 3, 7), layout="transposed", gradients=True
    )
    yield Case("every second number of a row", _additive_inputs(draw, (2,), 4, 6, 4, 3, 5), layout="strided")
    x, _, w_q, w_k, v = _additive_inputs(draw, (2,), 5, 5, 4, 4, 6)
    yield Case("queries and keys are one tensor", (x, x, w_q, w_k, v), gradients=True)
    edge = partial(Case, check="edge cases")
    yield edge("one query", _additive_inputs(draw, (2,), 1, 6, 4, 3, 5))
    yield edge("one key", _additive_inputs(draw, (2,), 4, 1, 4, 3, 5))
    yield edge("one query, one key", _additive_inputs(draw, (), 1, 1, 4, 3, 5))
    yield edge("one sentence, one head", _additive_inputs(draw, (1, 1), 3, 4, 5, 2, 6))
    yield edge("d_attention = 1", _additive_inputs(draw, (2,), 4, 5, 3, 4, 1))
    yield edge("d_q = 1", _additive_inputs(draw, (2,), 4, 5, 1, 3, 4))
    q, k, w_q, w_k, v = _additive_inputs(draw, (2,), 4, 6, 4, 3, 5)
    yield edge("hidden units at their limits", (1e4 * q, 1e4 * k, w_q, w_k, v), coarse=False)
    yield edge("scores up to ±10⁴", (q, k, w_q, w_k, 5e3 * v), coarse=False)
    # No hidden unit but is at ±1: only v has a gradient. With a few units in between, right answers would differ by as
    # much as those few are worth, as 1 − tanh² and 4σ(1 − σ) round otherwise.
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    far = [draw.uniform(500, 1000, 2, n, width) for n, width in ((4, 4), (6, 3))]
    weights = [signs * draw.uniform(0.5, 1, width, 5) for width in (4, 3)]
    yield edge("every hidden unit at its limit", (*far, *weights, v), coarse=False, gradients=True)


def _bounded_by_v(answer: Callable[..., Tensor], call: Call) -> str | None:
    *_, v = call.args
    limit, largest = float(v.abs().sum()), float(answer(*call.args).abs().max())
    return None if largest < limit * 1.001 + 1e-4 else f"a score of size {largest:.4g} is above Σ|v| = {limit:.4g}"


def _odd_in_the_pair(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k, *rest = call.args
    gap = apart(answer(-q, -k, *rest), -answer(q, k, *rest))
    return gap and f"the scores of (−q, −k) must be minus those of (q, k); they differ {gap}"


additive_scores = Exam(
    TOPIC,
    "additive_scores",
    _concatenated,
    _additive_naive,
    _additive_cases,
    (
        Values("values", 2),
        Values("edge cases", 0.75),
        Properties(0.5, (_each_pair_alone, _bounded_by_v, _odd_in_the_pair)),
        Habits(0.5),
        Gradients(1),
    ),
    may_not_call=(ATTENTION,),
)


@additive_scores.variant
def additive_broadcast(q, k, w_q, w_k, v):
    return torch.tanh((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)) @ v


@additive_scores.variant
def products_with_v_summed(q, k, w_q, w_k, v):
    hidden = torch.tanh((q @ w_q)[..., :, None, :] + (k @ w_k)[..., None, :, :])
    return (v * hidden).sum(dim=-1)


@additive_scores.variant
def v_as_a_column(q, k, w_q, w_k, v):
    summed = torch.matmul(q, w_q).unsqueeze(-2) + torch.matmul(k, w_k).unsqueeze(-3)
    return torch.matmul(summed.tanh(), v.unsqueeze(-1)).squeeze(-1)


@additive_scores.variant
def additive_by_einsum(q, k, w_q, w_k, v):
    asked = torch.einsum("...qi,ia->...qa", q, w_q)
    offered = torch.einsum("...ki,ia->...ka", k, w_k)
    return torch.einsum("...qka,a->...qk", torch.tanh(asked.unsqueeze(-2) + offered.unsqueeze(-3)), v)


@additive_scores.variant
def additive_query_by_query(q, k, w_q, w_k, v):
    offered = k @ w_k
    rows = [torch.tanh(asked.unsqueeze(-2) + offered) @ v for asked in (q @ w_q).unbind(-2)]
    return torch.stack(rows, dim=-2)


@additive_scores.variant
def additive_key_by_key(q, k, w_q, w_k, v):
    asked = q @ w_q
    columns = []
    for j in range(k.shape[-2]):
        columns.append(torch.tanh(asked + (k[..., j : j + 1, :] @ w_k)) @ v)
    return torch.stack(columns, dim=-1)


@additive_scores.variant
def unit_by_unit(q, k, w_q, w_k, v):
    asked, offered = q @ w_q, k @ w_k
    scores = 0
    for unit in range(len(v)):
        scores = scores + v[unit] * torch.tanh(asked[..., :, None, unit] + offered[..., None, :, unit])
    return scores


@additive_scores.variant
def pairs_side_by_side(q, k, w_q, w_k, v):
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    every_q = q.unsqueeze(-2).expand(*q.shape[:-1], n_keys, q.shape[-1])
    every_k = k.unsqueeze(-3).expand(*k.shape[:-2], n_queries, n_keys, k.shape[-1])
    return torch.tanh(torch.cat([every_q, every_k], -1) @ torch.cat([w_q, w_k])) @ v


@additive_scores.variant
def tanh_by_the_logistic_function(q, k, w_q, w_k, v):
    summed = (q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)
    return (2 * torch.sigmoid(2 * summed) - 1) @ v


@additive_scores.misconception(
    hint="There is no tanh. Without it the query adds the same number to all of its scores, which changes no ranking.",
    symptom="All rows differ by a constant only: every query ranks the keys alike.",
)
def without_tanh(q, k, w_q, w_k, v):
    return ((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)) @ v


@additive_scores.misconception(
    hint="tanh comes before v: it bends each hidden unit, not the finished score.",
    symptom="No score is above one, whatever v is, and every query ranks the keys alike.",
    seen="https://github.com/KrishnaDN/Attentive-Statistics-Pooling-for-Deep-Speaker-Embedding/issues/3",
)
def tanh_after_v(q, k, w_q, w_k, v):
    return torch.tanh(((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)) @ v)


@additive_scores.misconception(
    hint="You take tanh of the two parts, each on its own, and then add. Add first: only a sum inside makes a pair.",
    symptom="All rows differ by a constant only: every query ranks the keys alike.",
)
def tanh_before_the_sum(q, k, w_q, w_k, v):
    return (torch.tanh(q @ w_q).unsqueeze(-2) + torch.tanh(k @ w_k).unsqueeze(-3)) @ v


@additive_scores.misconception(
    hint="The hidden layer is a tanh, not a ReLU.",
    symptom="Scores are not bounded, and those of (−q, −k) are not minus those of (q, k).",
    seen="https://github.com/keon/seq2seq/issues/28",
)
def relu_for_tanh(q, k, w_q, w_k, v):
    return torch.relu((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)) @ v


@additive_scores.misconception(
    hint="The hidden layer is a tanh, between −1 and 1, not a sigmoid, between 0 and 1.",
    symptom="Scores are those of a tanh of half the size, halved and shifted by half the sum of v.",
)
def sigmoid_for_tanh(q, k, w_q, w_k, v):
    return torch.sigmoid((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)) @ v


@additive_scores.misconception(
    hint="You multiply the two projections. This score is called additive because it adds them.",
    symptom="A query or a key of zeros scores zero with everybody.",
)
def multiplied_not_added(q, k, w_q, w_k, v):
    return torch.tanh((q @ w_q).unsqueeze(-2) * (k @ w_k).unsqueeze(-3)) @ v


@additive_scores.misconception(
    hint="Queries go through w_q and keys through w_k; you have them the other way round.",
    symptom="An error where d_q and d_k differ, silently other scores where they do not.",
)
def weights_exchanged(q, k, w_q, w_k, v):
    return torch.tanh((q @ w_k).unsqueeze(-2) + (k @ w_q).unsqueeze(-3)) @ v


@additive_scores.misconception(
    hint="You put (key, query) side by side and meet the weights in the order (w_q, w_k): the cut lies elsewhere.",
    symptom="No error at any width, for the widths add up in either order; the numbers are wrong.",
)
def concatenated_in_the_other_order(q, k, w_q, w_k, v):
    pairs = (*q.shape[:-1], k.shape[-2])
    every_q = q.unsqueeze(-2).expand(*pairs, q.shape[-1])
    every_k = k.unsqueeze(-3).expand(*pairs, k.shape[-1])
    return torch.tanh(torch.cat([every_k, every_q], -1) @ torch.cat([w_q, w_k])) @ v


@additive_scores.misconception(
    hint="Queries and keys are added as they are. w_q and w_k bring them to the hidden layer's width first.",
    symptom="An error unless both have the width d_attention; w_q and w_k never learn.",
    seen="https://github.com/tensorflow/tensorflow/issues/39332",
)
def without_the_two_projections(q, k, w_q, w_k, v):
    return torch.tanh(q.unsqueeze(-2) + k.unsqueeze(-3)) @ v


@additive_scores.misconception(
    hint="The weights are (d_in, d_out) and stand on the right as they are; you transpose them.",
    symptom="An error unless the weights are square; then silently other scores.",
)
def additive_weights_transposed(q, k, w_q, w_k, v):
    return torch.tanh((q @ w_q.T).unsqueeze(-2) + (k @ w_k.T).unsqueeze(-3)) @ v


@additive_scores.misconception(
    hint="The hidden units are summed as if all weighed one: v is forgotten.",
    symptom="Scores up to ±d_attention, and v never learns.",
)
def v_forgotten(q, k, w_q, w_k, v):
    return torch.tanh((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)).sum(-1)


@additive_scores.misconception(
    hint="The hidden units are weighted by v, but not summed: a pair has one score.",
    symptom="One axis too many, of length d_attention.",
)
def units_not_summed(q, k, w_q, w_k, v):
    return v * torch.tanh((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3))


@additive_scores.misconception(
    hint="You divide v by its length. That is another method's normalisation; here v is taken as it is.",
    symptom="Every score is too small by one and the same factor, the length of v.",
)
def v_normalised(q, k, w_q, w_k, v):
    return torch.tanh((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)) @ (v / v.norm())


@additive_scores.misconception(
    hint="Your rows are the keys: the queries' projections must vary along the last axis but one of the scores.",
    symptom="The transpose of what is asked.",
)
def additive_keys_in_the_rows(q, k, w_q, w_k, v):
    return torch.tanh((q @ w_q).unsqueeze(-3) + (k @ w_k).unsqueeze(-2)) @ v


@additive_scores.misconception(
    hint="Query 1 meets key 1 only, query 2 key 2. Give queries and keys an axis each before you add.",
    symptom="An error where queries and keys differ in number, and otherwise one axis too few.",
    seen="https://github.com/sooftware/attentions/issues/2",
)
def additive_pairs_lined_up(q, k, w_q, w_k, v):
    return torch.tanh(q @ w_q + k @ w_k) @ v


@additive_scores.misconception(
    hint="`[:, None]` puts the new axis behind the first one, which is the batch if there is one: count from behind.",
    symptom="Right on one sentence; with a batch an error, or the queries of one sentence against the keys of another.",
)
def axis_behind_the_first(q, k, w_q, w_k, v):
    return torch.tanh((q @ w_q)[:, None] + k @ w_k) @ v


@additive_scores.misconception(
    hint="You insert axes by number. Count from behind, so that any number of axes may stand in front.",
    symptom="Right with exactly one axis in front; an error or other pairs with none or two.",
)
def axes_inserted_by_number(q, k, w_q, w_k, v):
    return torch.tanh((q @ w_q).unsqueeze(2) + (k @ w_k).unsqueeze(1)) @ v


@additive_scores.misconception(
    hint="A last axis of length one is left over from the product with v: a pair has a number, not a list of one.",
    symptom="Shape (..., queries, keys, 1); a softmax over that last axis would give ones everywhere.",
)
def an_axis_of_one_left(q, k, w_q, w_k, v):
    return torch.tanh((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)) @ v.unsqueeze(-1)


@additive_scores.misconception(
    hint="A bare `squeeze()` removes every axis of length one, a batch of one and a single query too. Say which axis.",
    symptom="Right until a batch, a query or a key is alone.",
    seen="https://github.com/NVIDIA/tacotron2/pull/303",
)
def squeezed_too_much(q, k, w_q, w_k, v):
    return (torch.tanh((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)) @ v.unsqueeze(-1)).squeeze()


@additive_scores.misconception(
    hint="Only the keys are scored, and every query gets the same: that is an importance per word. Where is q?",
    symptom="All rows are equal, and w_q never learns.",
)
def keys_scored_without_a_query(q, k, w_q, w_k, v):
    return (torch.tanh(k @ w_k) @ v).unsqueeze(-2).expand(*q.shape[:-1], k.shape[-2])


@additive_scores.misconception(
    hint="You average over the queries. A score belongs to a pair: keep the queries' axis.",
    symptom="The queries' axis is gone.",
)
def additive_importance_per_word(q, k, w_q, w_k, v):
    return (torch.tanh((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)) @ v).mean(-2)


@additive_scores.misconception(
    hint="exp overflows for large hidden units, and infinity over infinity is NaN. `torch.tanh` takes care of it.",
    symptom="Right for ordinary inputs, NaN once a hidden unit's input passes 88 in float32.",
)
def tanh_by_hand(q, k, w_q, w_k, v):
    summed = (q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)
    return ((torch.exp(summed) - torch.exp(-summed)) / (torch.exp(summed) + torch.exp(-summed))) @ v


@additive_scores.misconception(
    hint="exp overflows for large hidden units, and infinity over infinity is NaN. `torch.tanh` takes care of it.",
    symptom="Right for ordinary inputs and for very negative units, NaN once a unit's input passes 44 in float32.",
)
def tanh_by_exp_of_twice(q, k, w_q, w_k, v):
    twice = torch.exp(2 * ((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)))
    return ((twice - 1) / (twice + 1)) @ v


@additive_scores.misconception(
    hint="Your exp overflows for large hidden units. The value survives it, the gradient is 0 · ∞: NaN.",
    symptom="Right scores everywhere. One saturated hidden unit, and after the next step every weight is NaN.",
)
def tanh_with_nan_on_the_way_back(q, k, w_q, w_k, v):
    summed = (q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)
    return (1 - 2 / (torch.exp(2 * summed) + 1)) @ v


@additive_scores.misconception(
    hint="You give weights. Scores come before: any real numbers, whose rows need not sum to one.",
    symptom="All numbers lie between 0 and 1.",
)
def additive_weights(q, k, w_q, w_k, v):
    return torch.softmax(torch.tanh((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)) @ v, dim=-1)


@additive_scores.misconception(
    hint="You divide by √d_attention. Nothing is scaled here: v can learn any size.",
    symptom="Every score is √d_attention times too small.",
)
def additive_scaled(q, k, w_q, w_k, v):
    return torch.tanh((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)) @ v / math.sqrt(len(v))


@additive_scores.misconception(
    hint="The hidden layer leaves the graph (`detach`, `.data`): only v can learn.",
    symptom="The scores are right, and nothing before the hidden layer gets a gradient.",
)
def hidden_layer_detached(q, k, w_q, w_k, v):
    return torch.tanh((q @ w_q).unsqueeze(-2) + (k @ w_k).unsqueeze(-3)).detach() @ v


@additive_scores.misconception(
    hint="You compute in float32 whatever comes in: the digits of a float64 input are lost on the way.",
    symptom="Right dtype, and seven right digits of sixteen.",
)
def additive_rounded(q, k, w_q, w_k, v):
    hidden = torch.tanh((q @ w_q).float().unsqueeze(-2) + (k @ w_k).float().unsqueeze(-3))
    return (hidden @ v.float()).to(q.dtype)
