"""The exams of *linear*: attention by products of features, token by token, and by random features.

What is asked for has a cost. So a wrong formula stands here in the linear form: a mistake in the cost is another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.answer.guard import ATTENTION
from autograder.engine.checks import Gradients, Growth, Habits, Properties, Values, counterexample
from autograder.engine.exam import Case, Draw, Exam, Nudge, Seeded, as_is
from autograder.engine.randomness import OF_GENERATORS, seeded
from autograder.engine.subject import Call

TOPIC = "linear"
PERFORMER = "https://github.com/lucidrains/performer-pytorch/issues"
FLA = "https://github.com/fla-org/flash-linear-attention"


def _features(x: Tensor, nudge: Nudge = as_is) -> Tensor:
    """elu + 1, where elu is x above zero and e^x − 1 below (Clevert et al. 2016).

    Adding one back loses digits, as it does in right answers: at −5 two of float32's seven.
    """
    return nudge(torch.where(x > 0, x, x.clamp(max=0).exp() - 1)) + 1


def _seen(n_queries: int, n_keys: int, causal: bool) -> Tensor:
    """Who sees whom, aligned at the bottom right: (queries, keys)."""
    everything = torch.ones(n_queries, n_keys, dtype=torch.bool)
    return everything.tril(n_keys - n_queries) if causal else everything


def _by_all_pairs(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, nudge: Nudge = as_is) -> Tensor:
    """Every weight on its own, then the sums over the keys that are seen (Katharopoulos et al. 2020, eq. 4 and 8)."""
    seen = _seen(q.shape[-2], k.shape[-2], causal).to(q.device)
    weights = nudge(_features(q, nudge) @ _features(k, nudge).mT) * seen  # (..., queries, keys)
    # Where nothing is seen 0 / 1, and nothing goes back.
    total = torch.where(seen.any(-1, keepdim=True), nudge(weights.sum(-1, keepdim=True)), 1.0)
    return weights @ v / total


def _qkv(draw: Draw, *lead: int, queries: int, keys: int, d_k: int, d_v: int) -> tuple[Tensor, Tensor, Tensor]:
    return (draw.normal(*lead, queries, d_k), draw.normal(*lead, keys, d_k), draw.normal(*lead, keys, d_v))


def _linear_cases(draw: Draw) -> Iterator[Case]:
    yield Case("a sentence", _qkv(draw, queries=3, keys=3, d_k=4, d_v=2), gradients=True, tiny=True)
    yield Case("more keys than queries", _qkv(draw, queries=4, keys=6, d_k=3, d_v=5), gradients=True)
    yield Case("more queries than keys", _qkv(draw, queries=6, keys=4, d_k=3, d_v=2))
    yield Case("all axes alike", _qkv(draw, 4, 4, queries=4, keys=4, d_k=4, d_v=4), gradients=True)
    yield Case("batch and heads", _qkv(draw, 2, 3, queries=5, keys=5, d_k=4, d_v=6), gradients=True)
    yield Case("a batch of one, a long text", _qkv(draw, 1, queries=draw.integer(70, 90), keys=97, d_k=8, d_v=5))
    yield Case("causal by position", (*_qkv(draw, queries=4, keys=4, d_k=2, d_v=3), False))
    causal = partial(Case, kwargs={"causal": True}, check="causal")
    yield causal("causal, a sentence", _qkv(draw, queries=4, keys=4, d_k=3, d_v=2), gradients=True, tiny=True)
    yield causal("causal, all axes alike", _qkv(draw, 4, 4, queries=4, keys=4, d_k=4, d_v=4), gradients=True)
    yield causal("causal, batch and heads", _qkv(draw, 2, 3, queries=5, keys=5, d_k=4, d_v=6))
    long = draw.integer(260, 290)
    yield causal("causal, a long text", _qkv(draw, 1, 2, queries=long, keys=long, d_k=5, d_v=3), gradients=True)
    yield causal("causal, more keys than queries", _qkv(draw, 2, queries=3, keys=7, d_k=4, d_v=5), gradients=True)
    yield causal("causal, a long past", _qkv(draw, queries=70, keys=150, d_k=4, d_v=3))
    same = draw.normal(2, 5, 4)
    edge = partial(Case, check="edge cases")
    yield edge("q, k and v the same tensor", (same, same, same), {"causal": True}, gradients=True)
    yield edge("columns stored as rows", _qkv(draw, 2, 3, queries=5, keys=5, d_k=4, d_v=6), layout="transposed")
    yield edge("every second number of a row", _qkv(draw, 2, queries=4, keys=4, d_k=4, d_v=6), layout="strided")
    # Further down elu + 1 has no digits left: it is exactly 0 below −17 in float32.
    yield edge(
        "components up to ±5",
        (draw.uniform(-5, 5, 4, 3), draw.uniform(-5, 5, 6, 3), draw.normal(6, 2)),
        {"causal": True},
        coarse=False,
    )
    # Sums below 10⁻⁶, so small that a number added to them shows, or a bound that they must not go below.
    for causal_too in (True, False):
        low = (draw.uniform(-8, -7.7, 2, 3, 1) for _ in range(2))
        words = f"components near −8{', causal' if causal_too else ''}"
        yield edge(words, (*low, draw.normal(2, 3, 2)), {"causal": causal_too}, coarse=False)
    yield edge("one query beside the last key", _qkv(draw, 2, queries=1, keys=5, d_k=3, d_v=4), {"causal": True})
    yield edge("one token of width one", _qkv(draw, queries=1, keys=1, d_k=1, d_v=1), {"causal": True})
    blind = partial(Case, kwargs={"causal": True}, check="queries that see nothing")
    yield blind("causal, more queries than keys", _qkv(draw, 2, queries=6, keys=4, d_k=3, d_v=2), gradients=True)
    yield blind("causal, a long text of queries", _qkv(draw, queries=140, keys=70, d_k=3, d_v=2))


def _of_length(causal: bool, draw: Draw, n: int) -> Case:
    return Case(f"{n} tokens", _qkv(draw, queries=n, keys=n, d_k=8, d_v=8), {"causal": causal})


def _of_width(causal: bool, draw: Draw, d: int) -> Case:
    return Case(f"d = {d}", _qkv(draw, queries=128, keys=128, d_k=d, d_v=d), {"causal": causal})


# A chunk may be as long as the shorter text. From one to the other what is linear doubles, a square becomes 4-fold. A
# loop over the tokens is right, and dear to count: no more of them than it takes.
LENGTHS = (256, 512)
in_length = partial(Growth, power=1, lengths=LENGTHS, slack=0.45)
FLOPS_CLAIM = "Linear attention takes work that grows with the length, not with its square."
PEAK_CLAIM = "Linear attention needs memory that grows with the length: no (queries, keys) matrix fits into that."
# A state for every chunk of 16 tokens grows as d^1.4, one for every token as d².
in_width = partial(
    Growth,
    measure="peak",
    power=1,
    claim="One (d_k, d_v) matrix is enough, or one for each chunk: kept for every token, they outgrow q, k and v.",
    lengths=(16, 64),
    slack=0.7,
    size="d",
)

linear_attention = Exam(
    TOPIC,
    "linear_attention",
    _by_all_pairs,
    _by_all_pairs,
    _linear_cases,
    (
        Values("values", 1),
        Values("causal", 1.5),
        Values("edge cases", 0.5),
        Values("queries that see nothing", 0.25),
        Habits(0.25),
        Habits(0.25, on="queries that see nothing", name="inputs, dtype and device kept, causal"),
        Gradients(0.5),
        in_length(0.25, "flops", at=partial(_of_length, False), claim=FLOPS_CLAIM, name="operations"),
        in_length(0.25, "peak", at=partial(_of_length, False), claim=PEAK_CLAIM, name="memory"),
        in_length(0.5, "flops", at=partial(_of_length, True), claim=FLOPS_CLAIM, name="operations, causal"),
        in_length(0.25, "peak", at=partial(_of_length, True), claim=PEAK_CLAIM, name="memory, causal"),
        in_width(0.25, at=partial(_of_width, False), name="memory by width"),
        in_width(0.5, at=partial(_of_width, True), name="memory by width, causal"),
    ),
    may_not_call=(ATTENTION,),
)


@linear_attention.variant
def chunks_of_64(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.variant
def token_after_token(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    if not causal:
        return q @ (k.mT @ v) / (q @ k.sum(-2).unsqueeze(-1))
    past = k.shape[-2] - q.shape[-2]
    before = max(past, 0)
    state, total = k[..., :before, :].mT @ v[..., :before, :], k[..., :before, :].sum(-2, keepdim=True)
    rows = [torch.zeros_like(v[..., :1, :])] * max(-past, 0)
    for i in range(len(rows), q.shape[-2]):
        now = slice(i + past, i + past + 1)
        state = state + k[..., now, :].mT @ v[..., now, :]
        total = total + k[..., now, :]
        row = q[..., i : i + 1, :]
        rows.append(row @ state / (row * total).sum(-1, keepdim=True))
    return torch.cat(rows, -2)


@linear_attention.variant
def all_chunks_at_once(q, k, v, causal=False):
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    q, k = F.elu(q).add(1), F.elu(k).add(1)
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    if causal:
        past, blind = max(n_keys - n_queries, 0), max(n_queries - n_keys, 0)
        n = min(n_queries, n_keys)
        # Keys of zeros weigh nothing: filled up to whole chunks.
        q, k_new, v_new = (
            F.pad(x, (0, 0, 0, -n % 64)).unflatten(-2, (-1, 64))
            for x in (q[..., blind:, :], k[..., past:, :], v[..., past:, :])
        )
        states = k_new.mT @ v_new
        before = states.cumsum(-3) - states + (k[..., :past, :].mT @ v[..., :past, :]).unsqueeze(-3)
        sums = q @ before + (q @ k_new.mT).tril() @ v_new
        sums = sums.flatten(-3, -2)[..., :n, :]
    else:
        blind, sums = 0, q @ (k.mT @ v)
    return F.pad(sums[..., :-1] / sums[..., -1:], (0, 0, blind, 0))


@linear_attention.variant
def einsum_and_two_sums(q, k, v, causal=False):
    q, k = torch.nn.functional.elu(q) + 1.0, torch.nn.functional.elu(k) + 1.0
    if not causal:
        state, total = torch.einsum("...kd,...ke->...de", k, v), k.sum(dim=-2)
        return torch.einsum("...qd,...de->...qe", q, state) / torch.einsum("...qd,...d->...q", q, total)[..., None]
    n_queries, n_keys = q.size(-2), k.size(-2)
    skip, done = max(0, n_queries - n_keys), max(0, n_keys - n_queries)
    state, total = torch.einsum("...kd,...ke->...de", k[..., :done, :], v[..., :done, :]), k[..., :done, :].sum(-2)
    pieces = [torch.zeros_like(v[..., :0, :]).expand(*v.shape[:-2], 0, v.shape[-1])]
    if skip:
        pieces.append(q.new_zeros(*q.shape[:-2], skip, v.shape[-1]))
    for start in range(0, n_queries - skip, 128):
        one = q[..., skip + start : skip + start + 128, :]
        new_k, new_v = (x[..., done + start : done + start + 128, :] for x in (k, v))
        weights = torch.einsum("...qd,...kd->...qk", one, new_k)
        weights = weights * torch.ones_like(weights).tril()
        top = torch.einsum("...qd,...de->...qe", one, state) + torch.einsum("...qk,...ke->...qe", weights, new_v)
        pieces.append(top / (torch.einsum("...qd,...d->...q", one, total) + weights.sum(-1)).unsqueeze(-1))
        state, total = state + torch.einsum("...kd,...ke->...de", new_k, new_v), total + new_k.sum(-2)
    return torch.cat(pieces, dim=-2)


@linear_attention.variant
def where_and_short_chunks(q, k, v, causal=False):
    q, k = (torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0))) for x in (q, k))
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(16, -2), k[..., past:, :].split(16, -2), v[..., past:, :].split(16, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.variant
def halves_of_halves(q, k, v, causal=False):
    def sums_of(q, k, v):
        n = q.shape[-2]
        if n <= 32:
            return (q @ k.mT).tril() @ v
        half = n // 2
        early = sums_of(q[..., :half, :], k[..., :half, :], v[..., :half, :])
        late = sums_of(q[..., half:, :], k[..., half:, :], v[..., half:, :])
        return torch.cat([early, late + q[..., half:, :] @ (k[..., :half, :].mT @ v[..., :half, :])], -2)

    q, k = F.relu(q) + torch.exp(q.clamp(max=0)), F.relu(k) + torch.exp(k.clamp(max=0))
    v = F.pad(v, (0, 1), value=1.0)
    more = q.shape[-2] - k.shape[-2]
    if not causal:
        sums = q @ (k.mT @ v)
    elif more <= 0:
        sums = q @ (k[..., :-more, :].mT @ v[..., :-more, :]) + sums_of(q, k[..., -more:, :], v[..., -more:, :])
    else:
        sums = sums_of(q[..., more:, :], k, v)
    return F.pad(sums[..., :-1] / sums[..., -1:], (0, 0, max(more, 0) if causal else 0, 0))


@linear_attention.variant
def features_filled_up_in_front(q, k, v, causal=False):
    def phi(x):
        return torch.maximum(x, torch.zeros_like(x)) + torch.minimum(x, torch.zeros_like(x)).exp()

    d_v, n = v.shape[-1], q.shape[-2]
    v = torch.cat([torch.ones_like(v[..., :1]), v], -1)
    q, k = phi(q), phi(k)
    if not causal:
        top = q @ (k.transpose(-1, -2) @ v)
        return top[..., 1:] / top[..., :1]
    more_keys = k.shape[-2] - n
    q = F.pad(q, (0, 0, max(more_keys, 0), 0))
    k, v = (F.pad(x, (0, 0, max(-more_keys, 0), 0)) for x in (k, v))
    result, state = [], q.new_zeros(*q.shape[:-2], q.shape[-1], d_v + 1)
    for a, b, c in zip(q.split(100, -2), k.split(100, -2), v.split(100, -2), strict=True):
        top = a @ state + torch.tril(a @ b.transpose(-1, -2)) @ c
        seen = top[..., :1] > 0
        result.append(torch.where(seen, top[..., 1:] / torch.where(seen, top[..., :1], 1.0), 0.0))
        state = state + b.transpose(-1, -2) @ c
    return torch.cat(result, -2)[..., -n:, :]


@linear_attention.misconception(
    hint="The numerator stops at the query's own place, the denominator sums up all keys, the coming ones too. "
    "Both have to run over the same keys.",
    symptom="Early outputs are far too small, and every output changes when a later token does.",
)
def linear_denominator_not_causal(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / (a @ k.sum(-2).unsqueeze(-1)))
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="You never divide by the sum of the weights. Features are not probabilities: without it the output grows "
    "with the number of keys.",
    symptom="Outputs grow with the length, and constant values do not come out as they went in.",
    seen=f"{PERFORMER}/40",
)
def linear_denominator_left_out(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1

    if not causal:
        return q @ (k.mT @ v)
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        outputs.append(a @ state + (a @ b.mT).tril() @ c)
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="The causal branch hands out bare sums. It needs a denominator as the other one does: the weights of the "
    "keys that the query has seen.",
    symptom="Right without `causal`; with it, the outputs grow along the text.",
    seen=f"{PERFORMER}/40",
)
def causal_denominator_left_out(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        outputs.append((a @ state + (a @ b.mT).tril() @ c)[..., :-1])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="You add a small number to the denominator. The features are positive, so it can't be zero where a key is"
    " seen; with it the weights no longer sum to one.",
    symptom="Right to some six digits, and biased towards zero where the features are small.",
    seen="https://github.com/idiap/fast-transformers",
)
def eps_added_to_the_linear_denominator(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / (sums[..., -1:] + 1e-6)
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / (sums[..., -1:] + 1e-6))
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="The numbers are right, but you build the (queries, keys) matrix. Move the brackets: what can be summed "
    "up over the keys before any query is there?",
    symptom="Right, and as slow and as large as softmax attention.",
)
def matrix_of_all_pairs(q, k, v, causal=False):
    weights = (F.elu(q) + 1) @ (F.elu(k) + 1).mT
    if not causal:
        return weights / weights.sum(-1, keepdim=True) @ v
    n_queries, n_keys = weights.shape[-2:]
    weights = weights.tril(n_keys - n_queries)
    blind = max(n_queries - n_keys, 0)
    seen = weights[..., blind:, :]
    return F.pad(seen / seen.sum(-1, keepdim=True) @ v, (0, 0, blind, 0))


@linear_attention.misconception(
    hint="Without `causal` the cost is linear, with it you mask a (queries, keys) matrix. Walk along the text "
    "instead, and carry the sum over the keys that lie behind.",
    symptom="Right; the causal form is as slow and as large as softmax attention.",
)
def matrix_of_all_pairs_where_causal(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    if not causal:
        return q @ (k.mT @ v) / (q @ k.sum(-2).unsqueeze(-1))
    blind = max(q.shape[-2] - k.shape[-2], 0)
    weights = (q @ k.mT).tril(k.shape[-2] - q.shape[-2])[..., blind:, :]
    return F.pad(weights / weights.sum(-1, keepdim=True) @ v, (0, 0, blind, 0))


@linear_attention.misconception(
    hint="The numbers are right, but you keep the sum of k vᵀ for every token: n matrices of d × d. Only the last "
    "one is needed at any time.",
    symptom="Linear in the length, and d times as large as the queries: at d = 64 worse than the (queries, keys) "
    "matrix up to n = 4,096.",
    seen="https://github.com/lucidrains/linear-attention-transformer/issues/2",
)
def a_state_for_every_token(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    if not causal:
        return q @ (k.mT @ v) / (q @ k.sum(-2).unsqueeze(-1))
    n, blind = min(q.shape[-2], k.shape[-2]), max(q.shape[-2] - k.shape[-2], 0)
    states = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(-3)[..., -n:, :, :]
    totals = k.cumsum(-2)[..., -n:, :]
    q = q[..., blind:, :]
    outputs = (q.unsqueeze(-2) @ states).squeeze(-2) / (q * totals).sum(-1, keepdim=True)
    return F.pad(outputs, (0, 0, blind, 0))


@linear_attention.misconception(
    hint="For each query you sum up all keys before it once more, n times up to n products. One token adds one "
    "product to what you already have.",
    symptom="Right and small in memory, but the work grows with the square of the length.",
)
def prefixes_summed_anew(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    if not causal:
        return q @ (k.mT @ v) / (q @ k.sum(-2).unsqueeze(-1))
    past = k.shape[-2] - q.shape[-2]
    rows = [torch.zeros_like(v[..., :1, :])] * max(-past, 0)
    for i in range(len(rows), q.shape[-2]):
        row, seen = q[..., i : i + 1, :], slice(0, i + past + 1)
        rows.append(row @ (k[..., seen, :].mT @ v[..., seen, :]) / (row @ k[..., seen, :].sum(-2).unsqueeze(-1)))
    return torch.cat(rows, -2)


@linear_attention.misconception(
    hint="Your features are elu alone, which goes down to −1. Add one: weights have to be positive, and so have "
    "their sums.",
    symptom="Negative weights, and outputs that explode where the sum comes near zero.",
)
def elu_without_one(q, k, v, causal=False):
    q, k = F.elu(q), F.elu(k)
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="ReLU is zero on half of its inputs: a query whose features are all zero divides by zero. Asked for is "
    "elu + 1.",
    symptom="NaN now and then, and other numbers everywhere else.",
)
def relu_as_the_feature(q, k, v, causal=False):
    q, k = F.relu(q), F.relu(k)
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="You put a softmax on queries and keys apart, the one along the features, the other along the keys. That "
    "is another linear attention; here φ is elu + 1.",
    symptom="A plausible average of the values, with other weights.",
    seen="https://arxiv.org/abs/1812.01243",
)
def softmax_over_features_and_keys(q, k, v, causal=False):
    q, k = torch.softmax(q, -1), torch.softmax(k, -2)
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="You divide by √d_k. That scale keeps a softmax from saturating; here nothing is exponentiated, and none "
    "is asked for.",
    symptom="Weights that are too even.",
)
def scaled_before_the_features(q, k, v, causal=False):
    q, k = F.elu(q / math.sqrt(q.shape[-1])) + 1, F.elu(k / math.sqrt(k.shape[-1])) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="You divide the queries by √d_k. That scale keeps a softmax from saturating; here nothing is exponentiated, "
    "and none is asked for.",
    symptom="Plausible, and not what others compute by that name.",
)
def queries_scaled_before_the_features(q, k, v, causal=False):
    q, k = F.elu(q / math.sqrt(q.shape[-1])) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="The queries go in as they are. A weight is φ(q)·φ(k): the map is applied on both sides.",
    symptom="Negative weights for negative queries.",
)
def features_of_the_keys_alone(q, k, v, causal=False):
    k = F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="The keys go in as they are. A weight is φ(q)·φ(k): the map is applied on both sides.",
    symptom="Negative weights for negative keys.",
)
def features_of_the_queries_alone(q, k, v, causal=False):
    q = F.elu(q) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="The argument `causal` changes nothing: every query sees every key.",
    symptom="The first token's output depends on the last token.",
)
def causal_ignored(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return q @ (k.mT @ v) / (q @ k.sum(-2).unsqueeze(-1))


@linear_attention.misconception(
    hint="A query sees the keys before its own, but not its own. The state takes the new key in first, then the "
    "query asks.",
    symptom="NaN in the first row, which has no key left, and every output one token late.",
)
def own_key_not_seen(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril(-1) @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="You pair query i with key i. Where there are more keys than queries, it is the last of both that stand "
    "side by side.",
    symptom="Right where both are equally many; a new token's query sees the first key only.",
)
def linear_corner_at_the_top_left(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    state, outputs = 0.0 * (k.mT @ v), []
    for start in range(0, q.shape[-2], 64):
        a, b, c = (x[..., start : start + 64, :] for x in (q, k, v))
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return torch.cat(outputs, -2)


@linear_attention.misconception(
    hint="You count whole chunks, n // size, and the tokens that are left over get nothing. The last chunk may be "
    "shorter.",
    symptom="Right where the length is a multiple of the chunk, zeros at the end of every other text.",
)
def last_chunk_dropped(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    if not causal:
        return q @ (k.mT @ v) / (q @ k.sum(-2).unsqueeze(-1))
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state, total = k[..., :past, :].mT @ v[..., :past, :], k[..., :past, :].sum(-2)
    output = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=v.dtype, device=v.device)
    for chunk in range((q.shape[-2] - blind) // 64):
        rows = slice(blind + 64 * chunk, blind + 64 * chunk + 64)
        keys = slice(past + 64 * chunk, past + 64 * chunk + 64)
        a, b, c = q[..., rows, :], k[..., keys, :], v[..., keys, :]
        weights = (a @ b.mT).tril()
        top, below = a @ state + weights @ c, a @ total.unsqueeze(-1) + weights.sum(-1, keepdim=True)
        output = torch.cat([output[..., : rows.start, :], top / below, output[..., rows.stop :, :]], -2)
        state, total = state + b.mT @ c, total + b.sum(-2)
    return output


@linear_attention.misconception(
    hint="Between the chunks you look back only, but within a chunk every query sees all keys, the later ones too."
    " The square in the chunk needs its own causal mask.",
    symptom="The last row of a chunk is right, those before it know the future.",
)
def no_mask_within_the_chunk(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ (state + b.mT @ c)
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="Each chunk starts with what came before the first one. The state has to grow from chunk to chunk.",
    symptom="Right up to the length of a chunk; later tokens have forgotten the beginning.",
)
def state_lost_between_chunks(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="With more queries than keys the first queries see nothing, and 0 / 0 is NaN. They are to get zeros, and "
    "send back no gradient.",
    symptom="NaN in the first rows, and in every gradient.",
)
def blind_queries_divide_by_zero(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    more = k.shape[-2] - q.shape[-2]
    state = k[..., : max(more, 0), :].mT @ v[..., : max(more, 0), :]
    k, v = (F.pad(x[..., max(more, 0) :, :], (0, 0, max(-more, 0), 0)) for x in (k, v))
    outputs = []
    for a, b, c in zip(q.split(64, -2), k.split(64, -2), v.split(64, -2), strict=True):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return torch.cat(outputs, -2)


@linear_attention.misconception(
    hint="The zeros of the queries that see nothing are made without a dtype, and so are float32. Make them of what "
    "comes in: `new_zeros`, or `F.pad` of the result.",
    symptom="Half precision comes out wider than it went in, with `causal` only.",
)
def blind_rows_in_float32(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    nothing = torch.zeros(*q.shape[:-2], blind, v.shape[-1] - 1, device=v.device)
    return torch.cat([nothing, *outputs], -2)


@linear_attention.misconception(
    hint="The denominator is cut from the graph: keys and queries get half of their gradient.",
    symptom="Values are right, the gradients of q and k are not.",
    seen=f"{FLA}/pull/875",
)
def linear_denominator_detached(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:].detach()
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:].detach())
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="The state is cut from the graph between the chunks, so that early keys learn nothing from late queries.",
    symptom="Values are right, and so are the gradients of short texts.",
)
def state_detached_between_chunks(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        sums = q @ (k.mT @ v)
        return sums[..., :-1] / sums[..., -1:]
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = (state + b.mT @ c).detach()
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="The keys' features are summed along axis 1, which are the keys only behind one batch axis; behind two, "
    "they are the heads. Count from behind.",
    symptom="Right on (batch, n, d), a mix-up of the heads on (batch, heads, n, d), an error on one sentence.",
    seen=f"{FLA}/pull/594",
)
def keys_summed_over_axis_one(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    v = F.pad(v, (0, 1), value=1.0)
    if not causal:
        total = k.sum(1, keepdim=True)
        return (q @ (k.mT @ v))[..., :-1] / (q * total).sum(-1, keepdim=True)
    past, blind = max(k.shape[-2] - q.shape[-2], 0), max(q.shape[-2] - k.shape[-2], 0)
    state = k[..., :past, :].mT @ v[..., :past, :]
    outputs = []
    for a, b, c in zip(
        q[..., blind:, :].split(64, -2), k[..., past:, :].split(64, -2), v[..., past:, :].split(64, -2), strict=True
    ):
        sums = a @ state + (a @ b.mT).tril() @ c
        outputs.append(sums[..., :-1] / sums[..., -1:])
        state = state + b.mT @ c
    return F.pad(torch.cat(outputs, -2), (0, 0, blind, 0))


@linear_attention.misconception(
    hint="You divide the state by the summed features, one by one. The sum of the weights is q's product with "
    "them: a number for each query.",
    symptom="Right for a single feature of the query that is one, else a sum of averages.",
    seen=f"{PERFORMER}/21",
)
def state_divided_feature_by_feature(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    if not causal:
        return q @ (k.mT @ v / k.sum(-2).unsqueeze(-1))
    n, blind = min(q.shape[-2], k.shape[-2]), max(q.shape[-2] - k.shape[-2], 0)
    states = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(-3) / k.cumsum(-2).unsqueeze(-1)
    outputs = (q[..., blind:, :].unsqueeze(-2) @ states[..., -n:, :, :]).squeeze(-2)
    return F.pad(outputs, (0, 0, blind, 0))


@linear_attention.misconception(
    hint="You mask KᵀV. Its axes are features and columns of the values: there are no positions left in it that "
    "could be hidden. What has to stop at a query's place is the sum.",
    symptom="Half of the features never reach some of the columns, and the first token still depends on the last.",
)
def triangle_of_the_state(q, k, v, causal=False):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    state = k.mT @ v
    return q @ (state.tril() if causal else state) / (q @ k.sum(-2).unsqueeze(-1))


@linear_attention.misconception(
    hint="This is softmax attention. Exponentials of products can't be taken apart into features of q and of k, so"
    " no brackets can be moved.",
    symptom="Other weights, and n² of them.",
)
def softmax_attention_after_all(q, k, v, causal=False):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if not causal:
        return torch.softmax(scores, -1) @ v
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(k.shape[-2] - q.shape[-2] + 1)
    return torch.softmax(scores.masked_fill(hidden, -torch.inf), -1).nan_to_num(0.0) @ v


def _state_after(draw: Draw, *lead: int, tokens: int, d_k: int, d_v: int) -> Tensor:
    """The state that so many tokens have left behind."""
    k, v = draw.normal(*lead, tokens, d_k), draw.normal(*lead, tokens, d_v)
    return _features(k).mT @ torch.cat([v, torch.ones_like(v[..., :1])], -1)


def _step(state: Tensor | None, q: Tensor, k: Tensor, v: Tensor, nudge: Nudge = as_is) -> tuple[Tensor, Tensor]:
    """The sums by their definition, entry by entry (Katharopoulos et al. 2020, equations 18 to 20)."""
    features, asked = nudge(_features(k, nudge)), nudge(_features(q, nudge))
    values = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    new = features.transpose(-2, -1) * values  # (..., d_k, d_v + 1)
    state = new if state is None else state + new
    sums = (asked.transpose(-2, -1) * state).sum(-2, keepdim=True)  # (..., 1, d_v + 1)
    return state, sums[..., :-1] / nudge(sums[..., -1:])


def _step_cases(draw: Draw) -> Iterator[Case]:
    def at(name: str, *lead: int, tokens: int, d_k: int, d_v: int, **more: Any) -> Case:
        state = _state_after(draw, *lead, tokens=tokens, d_k=d_k, d_v=d_v) if tokens else None
        token = _qkv(draw, *lead, queries=1, keys=1, d_k=d_k, d_v=d_v)
        return Case(name, (state, *token), **more)

    yield at("after three tokens", tokens=3, d_k=4, d_v=2, gradients=True, tiny=True)
    yield at("a batch", 2, tokens=4, d_k=3, d_v=5, gradients=True)
    yield at("batch and heads", 2, 3, tokens=5, d_k=4, d_v=6, gradients=True)
    yield at("all axes alike", 4, 4, tokens=4, d_k=4, d_v=4)
    yield at("a state as high as wide", 3, tokens=3, d_k=4, d_v=3, gradients=True)
    yield at("a batch of one, a long past", 1, tokens=draw.integer(500, 900), d_k=8, d_v=5)
    yield at("columns stored as rows", 2, 3, tokens=4, d_k=4, d_v=6, layout="transposed")
    yield at("every second number of a row", 2, tokens=4, d_k=4, d_v=6, layout="strided")
    yield at("width one", 2, tokens=3, d_k=1, d_v=1)
    low = (draw.uniform(-8, -7.7, 2, tokens, 1) for tokens in (2, 1, 1))
    past, q, k = low
    yield Case(
        "components near −8",
        (_features(past).mT @ torch.ones(2, 2, 4).double(), q, k, draw.normal(2, 1, 3)),
        coarse=False,
    )
    first = partial(at, check="the first token", tokens=0)
    yield first("no state yet", d_k=4, d_v=3, gradients=True, tiny=True)
    yield first("no state yet, batch and heads", 2, 3, d_k=4, d_v=6, gradients=True)


linear_attention_step = Exam(
    TOPIC,
    "linear_attention_step",
    _step,
    _step,
    _step_cases,
    (
        Values("values", 2),
        Values("the first token", 0.5),
        Habits(0.25),
        Habits(0.25, on="the first token", name="dtype of the first state"),
        Gradients(0.5),
    ),
    outputs=("state", "output"),
    may_not_call=(ATTENTION,),
)


@linear_attention_step.variant
def a_column_of_ones(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update if state is None else state + update
    sums = q @ state
    return state, sums[..., :-1] / sums[..., -1:]


@linear_attention_step.variant
def two_parts_joined(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    s, z = k.transpose(-1, -2) * v, k.transpose(-1, -2)
    if state is not None:
        s, z = s + state[..., :-1], z + state[..., -1:]
    return torch.cat([s, z], dim=-1), (q @ s) / (q @ z)


@linear_attention_step.variant
def starts_from_zeros(state, q, k, v):
    if state is None:
        state = torch.zeros(*k.shape[:-2], k.shape[-1], v.shape[-1] + 1, dtype=k.dtype, device=k.device)
    q, k = (torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0))) for x in (q, k))
    state = state + k.mT * torch.cat([v, torch.ones_like(v[..., :1])], -1)
    top, below = (q @ state).split([v.shape[-1], 1], dim=-1)
    return state, top / below


@linear_attention_step.variant
def einsum_of_squeezed(state, q, k, v):
    q, k, v = F.elu(q.squeeze(-2)) + 1, F.elu(k.squeeze(-2)) + 1, v.squeeze(-2)
    values = torch.cat([v, v.new_ones(*v.shape[:-1], 1)], -1)
    new = torch.einsum("...d,...e->...de", k, values)
    state = new if state is None else new + state
    sums = torch.einsum("...d,...de->...e", q, state)
    return state, (sums[..., :-1] / sums[..., -1:]).unsqueeze(-2)


@linear_attention_step.variant
def gives_a_list(state, q, k, v):
    q, k = F.elu(q).add(1), F.elu(k).add(1)
    with_one = torch.cat((v, torch.ones_like(v.narrow(-1, 0, 1))), dim=-1)
    new = torch.matmul(k.transpose(-2, -1), with_one)
    state = torch.add(state, new) if state is not None else new
    sums = torch.matmul(q, state)
    return [state, sums.narrow(-1, 0, v.shape[-1]) / sums.narrow(-1, v.shape[-1], 1)]


@linear_attention_step.variant
def weighs_old_and_new(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    own = (q * k).sum(-1, keepdim=True)
    new = k.mT @ torch.cat([v, torch.ones_like(v[..., :1])], -1)
    if state is None:
        return new, v + 0.0 * (q + k).sum(-1, keepdim=True)
    before = q @ state
    return state + new, (before[..., :-1] + own * v) / (before[..., -1:] + own)


@linear_attention_step.misconception(
    hint="The query asks the old state, in which its own key is not yet. Take the new token in first, as the "
    "causal form does.",
    symptom="Every output is one token late, and there is none for the first.",
)
def query_asks_before_its_key_is_in(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    state = torch.zeros_like(k.mT @ F.pad(v, (0, 1))) if state is None else state
    sums = q @ state
    state = state + k.mT @ F.pad(v, (0, 1), value=1.0)
    return state, sums[..., :-1] / sums[..., -1:]


@linear_attention_step.misconception(
    hint="`+=` writes into the caller's state. Whoever goes on from it a second time, as beam search does, finds "
    "the first continuation's token in it.",
    symptom="Right in a simple loop; with several continuations each sees the tokens of the others.",
    seen="https://github.com/idiap/fast-transformers",
)
def state_changed_in_place(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    if state is None:
        state = update
    else:
        with torch.no_grad():
            state += update
    sums = q @ state
    return state, sums[..., :-1] / sums[..., -1:]


@linear_attention_step.misconception(
    hint="Before the first token the state is `None`, and `None` has nothing to add to.",
    symptom="TypeError at the first token.",
)
def no_state_not_expected(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = state + update
    sums = q @ state
    return state, sums[..., :-1] / sums[..., -1:]


@linear_attention_step.misconception(
    hint="The output is not divided by the sum of the weights, which the last column is there for.",
    symptom="Outputs grow from token to token.",
    seen=f"{PERFORMER}/40",
)
def step_without_the_denominator(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update if state is None else state + update
    return state, (q @ state)[..., :-1]


@linear_attention_step.misconception(
    hint="You divide by the weight of the new key. The denominator has the weights of all keys so far, as the last"
    " column of the state has their features.",
    symptom="Right for the first token, then larger and larger.",
    seen=f"{FLA}/pull/268",
)
def denominator_of_the_new_key_alone(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update if state is None else state + update
    return state, (q @ state)[..., :-1] / (q * k).sum(-1, keepdim=True)


@linear_attention_step.misconception(
    hint="You add a small number to the denominator. The features are positive and so is their sum: with it the "
    "step disagrees with the causal form.",
    symptom="Right to some six digits.",
)
def eps_in_the_step(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update if state is None else state + update
    sums = q @ state
    return state, sums[..., :-1] / (sums[..., -1:] + 1e-6)


@linear_attention_step.misconception(
    hint="Queries and keys go in as they are. Apply φ = elu + 1 to both before anything is summed.",
    symptom="Negative weights, and a denominator that may be zero.",
)
def step_without_features(state, q, k, v):
    q, k = q, k
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update if state is None else state + update
    sums = q @ state
    return state, sums[..., :-1] / sums[..., -1:]


@linear_attention_step.misconception(
    hint="φ is applied to the query alone. What goes into the state are the features of the key.",
    symptom="The state disagrees with the sum of φ(k) vᵀ.",
)
def key_features_forgotten_in_the_step(state, q, k, v):
    q = F.elu(q) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update if state is None else state + update
    sums = q @ state
    return state, sums[..., :-1] / sums[..., -1:]


@linear_attention_step.misconception(
    hint="The new token takes the place of all others. The state is a sum: add to it.",
    symptom="Every output is the token's own value.",
)
def state_replaced(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update
    sums = q @ state
    return state, sums[..., :-1] / sums[..., -1:]


@linear_attention_step.misconception(
    hint="You blend old and new, as in a moving average. The state is a plain sum in which no token fades.",
    symptom="Early tokens are forgotten step by step.",
)
def state_is_a_running_mean(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update if state is None else 0.9 * state + 0.1 * update
    sums = q @ state
    return state, sums[..., :-1] / sums[..., -1:]


@linear_attention_step.misconception(
    hint="You divide the state itself by its last column. What is stored stays a sum; only the output is divided.",
    symptom="Right for the first token, wrong from then on.",
)
def state_kept_normalised(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update if state is None else state + update
    sums = q @ state
    return state / state[..., -1:], sums[..., :-1] / sums[..., -1:]


@linear_attention_step.misconception(
    hint="Your state is (d_v + 1, d_k). Asked for is φ(k) vᵀ, one row a feature: (d_k, d_v + 1).",
    symptom="The outputs are right, and nobody else can go on from the state.",
)
def state_turned_round(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = F.pad(v, (0, 1), value=1.0).mT @ k
    state = update if state is None else state + update
    sums = q @ state.mT
    return state, sums[..., :-1] / sums[..., -1:]


@linear_attention_step.misconception(
    hint="Your column of ones stands in front. The notebook puts the sum of the features into the last column.",
    symptom="The output is right after `None`, and wrong on a state that somebody else began.",
)
def ones_in_the_first_column(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (1, 0), value=1.0)
    state = update if state is None else state + update
    sums = q @ state
    return state, sums[..., 1:] / sums[..., :1]


@linear_attention_step.misconception(
    hint="The two results are in the wrong order: first the state, then the output.",
    symptom="The caller carries an output on as its state.",
)
def output_before_state(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update if state is None else state + update
    sums = q @ state
    return sums[..., :-1] / sums[..., -1:], state


@linear_attention_step.misconception(
    hint="The state is cut from the graph. Then no key learns what its value was good for later on.",
    symptom="Values are right, the gradient by the state is not there.",
)
def state_detached_at_each_step(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update if state is None else state.detach() + update
    sums = q @ state
    return state, sums[..., :-1] / sums[..., -1:]


@linear_attention_step.misconception(
    hint="The output has lost its length axis. One token still has one: (..., 1, d_v).",
    symptom="Outputs can't be joined along the text.",
)
def length_axis_dropped(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update if state is None else state + update
    sums = q @ state
    return state, (sums[..., :-1] / sums[..., -1:]).squeeze(-2)


@linear_attention_step.misconception(
    hint="You divide the query by √d_k before φ. That scale keeps a softmax from saturating; here nothing is "
    "exponentiated, and none is asked for.",
    symptom="Plausible outputs that are not those of the causal form.",
)
def step_scaled_before_the_features(state, q, k, v):
    q, k = F.elu(q / math.sqrt(q.shape[-1])) + 1, F.elu(k) + 1
    update = k.mT @ F.pad(v, (0, 1), value=1.0)
    state = update if state is None else state + update
    sums = q @ state
    return state, sums[..., :-1] / sums[..., -1:]


@linear_attention_step.misconception(
    hint="The first state is made by `torch.zeros` without a dtype, and so is float32. Take the dtype and the device "
    "of what comes in.",
    symptom="RuntimeError in half precision: expected m1 and m2 to have the same dtype.",
)
def first_state_in_float32(state, q, k, v):
    if state is None:
        state = torch.zeros(*k.shape[:-2], k.shape[-1], v.shape[-1] + 1)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    state = state + k.mT @ F.pad(v, (0, 1), value=1.0)
    sums = q @ state
    return state, sums[..., :-1] / sums[..., -1:]


@linear_attention_step.misconception(
    hint="Your state is a pair. Asked for is one tensor: the sum of the features is its last column.",
    symptom="Right as long as nobody else looks at the state, or stores it.",
)
def state_of_two_tensors(state, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    kv, z = k.mT @ v, k.mT
    if state is not None:
        kv, z = kv + state[0], z + state[1]
    return (kv, z), q @ kv / (q @ z)


def _random_features_naive(x: Tensor, projection: Tensor, nudge: Nudge = as_is) -> Tensor:
    """One exponent for each pair of a vector and a row, by its definition (Choromanski et al. 2021, lemma 1)."""
    products = nudge((x.unsqueeze(-2) * projection).sum(-1))  # (..., n, m)
    return torch.exp(products - nudge((x * x).sum(-1, keepdim=True)) / 2) / math.sqrt(len(projection))


def _random_features_cases(draw: Draw) -> Iterator[Case]:
    def at(name: str, *shape: int, m: int, scale: float = 0.7, **more: Any) -> Case:
        return Case(name, (draw.normal(*shape, scale=scale), draw.normal(m, shape[-1])), **more)

    yield at("one vector", 1, 3, m=4, gradients=True, tiny=True)
    yield at("a sentence", 5, 4, m=8, gradients=True)
    yield at("fewer features than components", 3, 6, m=2)
    yield at("as many vectors as components and features", 4, 4, m=4, gradients=True)
    yield at("a batch", 2, 3, 4, m=7, gradients=True)
    yield at("batch and heads", 2, 3, 5, 4, m=6)
    yield at("all axes alike", 4, 4, 4, 4, m=4)
    yield at("a batch of one", 1, 3, 5, m=16)
    yield at("longer vectors", 4, 8, m=draw.integer(20, 40), scale=1.2)
    yield at("columns stored as rows", 2, 3, 5, m=6, layout="transposed")
    yield at("every second number of a row", 2, 3, 6, m=5, layout="strided")
    edge = partial(at, check="edge cases")
    yield edge("features far below one", 2, 8, m=5, scale=2.5, coarse=False)
    yield edge("one feature of width one", 3, 1, m=1)
    # e^(w·x) is 10^52 and e^(−‖x‖²/2) 10^−31: only what comes of both fits into float32.
    along = draw.normal(1, 6)
    along = along / along.norm()
    large = torch.cat([10 * along, draw.normal(2, 6)])
    yield Case("two exponents, too large and too small", (12 * along, large), check="edge cases", coarse=False)
    yield Case("a vector of zeros", (torch.zeros(2, 3), draw.normal(5, 3)), check="edge cases")


def _other_draws(call: Call) -> torch.Generator:
    """A generator for more vectors and rows: another for every exam, never the one that the case was drawn from."""
    return torch.Generator().manual_seed(int(call.args[1].double().abs().sum() * 1e6) % 2**31)


def _kernels(answer: Callable[..., Tensor], call: Call, m: int, repeats: int) -> Tensor:
    """Estimates of e^(x·y), divided by it, each from m features: (repeats,).

    Here x and y have the norm ½ d^¼ and are orthogonal, so that the variance of one feature's product is
    e^(‖x + y‖²) − 1 = 3.1 at d = 8.
    """
    d, generator = 8, _other_draws(call)
    x, y = torch.linalg.qr(torch.randn(d, 2, generator=generator, dtype=torch.float64)).Q.mT * d**0.25 / 2
    projection = torch.randn(repeats * m, d, generator=generator, dtype=torch.float64)
    features = answer(torch.stack([x, y]), projection)  # (2, repeats · m)
    return repeats * (features[0] * features[1]).reshape(repeats, m).sum(-1)


def _kernel_is_unbiased(answer: Callable[..., Tensor], call: Call) -> str | None:
    # 12,800 features: the mean has the standard error 1.6 %, and 10 % are more than six of them.
    mean = float(_kernels(answer, call, 64, 200).mean())
    if abs(mean - 1) <= 0.1:
        return None
    return f"φ(x)·φ(y) is to be e^(x·y) on average over projections; it is too {'large' if mean > 1 else 'small'}"


def _error_falls_as_one_over_root_m(answer: Callable[..., Tensor], call: Call) -> str | None:
    # 16 times the features, a quarter of the error. A mean of 200 errors is known to 6 % or so.
    few, many = (float((_kernels(answer, call, m, 200) - 1).abs().mean()) for m in (4, 64))
    return (
        None if 2.2 < few / many < 6.5 else "the error of φ(x)·φ(y) does not fall as 1/√m with the number of features"
    )


positive_random_features = Exam(
    TOPIC,
    "positive_random_features",
    lambda x, projection: (
        torch.exp(x @ projection.T - torch.linalg.vector_norm(x, dim=-1, keepdim=True) ** 2 / 2)
        / math.sqrt(projection.shape[0])
    ),
    _random_features_naive,
    _random_features_cases,
    (
        Values("values", 1.5),
        Values("edge cases", 0.25),
        Properties(0.5, (_kernel_is_unbiased, _error_falls_as_one_over_root_m), "edge cases", "the kernel's law"),
        Habits(0.25),
        Gradients(0.5),
    ),
    may_not_call=(ATTENTION,),
)


@positive_random_features.variant
def difference_of_exponents(x, projection):
    return torch.exp(x @ projection.mT - x.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(projection))


@positive_random_features.variant
def linear_and_half_a_product(x, projection):
    exponents = F.linear(x, projection) - 0.5 * (x * x).sum(dim=-1)[..., None]
    return exponents.exp() * projection.shape[0] ** -0.5


@positive_random_features.variant
def root_inside_the_exponential(x, projection):
    m = projection.size(0)
    products = torch.einsum("...d,md->...m", x, projection)
    return torch.exp(products - torch.einsum("...d,...d->...", x, x).unsqueeze(-1) / 2 - math.log(m) / 2)


@positive_random_features.variant
def completed_square(x, projection):
    m = len(projection)
    halves = projection.square().sum(-1) / 2
    distances = (x.unsqueeze(-2) - projection).square().sum(-1) / 2
    return torch.exp(halves - distances) / m**0.5


@positive_random_features.variant
def projection_on_the_left(x, projection):
    products = (projection @ x.mT).mT
    norms = torch.linalg.vecdot(x, x)[..., None] / 2
    return torch.exp(products - norms) / math.sqrt(projection.shape[0])


@positive_random_features.variant
def transposed_product(x, projection):
    products = torch.matmul(x, torch.transpose(projection, 0, 1))
    return (products - x.pow(2).sum(-1, keepdim=True).div(2)).exp().div(math.sqrt(projection.shape[0]))


@positive_random_features.misconception(
    hint="1/√m is missing. The product of two vectors of features is a sum over m of them, and is to be their mean.",
    symptom="Products grow with the number of features.",
)
def root_m_left_out(x, projection):
    return torch.exp(x @ projection.mT - x.square().sum(-1, keepdim=True) / 2)


@positive_random_features.misconception(
    hint="You divide by m on each side, so that the product is divided by m². Each side gets one root.",
    symptom="Products shrink with the number of features.",
)
def divided_by_m(x, projection):
    return torch.exp(x @ projection.mT - x.square().sum(-1, keepdim=True) / 2) / len(projection)


@positive_random_features.misconception(
    hint="−‖x‖²/2 is missing. e^(w·x) alone has the mean e^(‖x‖²/2), which has to be taken out.",
    symptom="Products are too large, the more so the longer the vectors.",
)
def norm_left_out(x, projection):
    return torch.exp(x @ projection.mT) / math.sqrt(len(projection))


@positive_random_features.misconception(
    hint="You subtract ‖x‖², not its half: the mean of e^(w·x) is e^(‖x‖²/2).",
    symptom="Products are too small, the more so the longer the vectors.",
)
def norm_not_halved(x, projection):
    return torch.exp(x @ projection.mT - x.square().sum(-1, keepdim=True)) / math.sqrt(len(projection))


@positive_random_features.misconception(
    hint="You subtract half of the norm. It is half of the squared norm.",
    symptom="Wrong for all but vectors of length 0 and 1.",
)
def norm_not_squared(x, projection):
    return torch.exp(x @ projection.mT - x.norm(dim=-1, keepdim=True) / 2) / math.sqrt(len(projection))


@positive_random_features.misconception(
    hint="You add ‖x‖²/2 where it is subtracted.",
    symptom="Products explode with the length of the vectors.",
)
def norm_with_the_wrong_sign(x, projection):
    return torch.exp(x @ projection.mT + x.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(projection))


@positive_random_features.misconception(
    hint="You subtract one norm, of all vectors together. Each vector has its own.",
    symptom="Right for a single vector.",
)
def norm_of_the_whole_tensor(x, projection):
    return torch.exp(x @ projection.mT - x.square().sum() / 2) / math.sqrt(len(projection))


@positive_random_features.misconception(
    hint="You subtract half the squared norm of the rows w. It is x whose length has to be taken out; w is what is"
    " averaged over.",
    symptom="Products that are biased even for vectors of zeros.",
)
def norm_of_the_projection(x, projection):
    return torch.exp(x @ projection.mT - projection.square().sum(-1) / 2) / math.sqrt(len(projection))


@positive_random_features.misconception(
    hint="You scale x by d^−¼ in here. That belongs to the attention that uses the features; these are for e^(x·y)"
    " as it is.",
    symptom="Products estimate e^(x·y/√d).",
    seen=f"{PERFORMER}/45",
)
def scaled_inside_the_features(x, projection):
    x = x * x.shape[-1] ** -0.25
    return torch.exp(x @ projection.mT - x.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(projection))


@positive_random_features.misconception(
    hint="You subtract each row's largest exponent. That changes the features, each vector's by another factor; "
    "products no longer estimate e^(x·y).",
    symptom="All features lie between 0 and 1, and long vectors count as much as short ones.",
    seen=f"{PERFORMER}/36",
)
def shifted_inside_the_features(x, projection):
    exponents = x @ projection.mT - x.square().sum(-1, keepdim=True) / 2
    return torch.exp(exponents - exponents.amax(-1, keepdim=True)) / math.sqrt(len(projection))


@positive_random_features.misconception(
    hint="You subtract the largest of all exponents. Then no exponential overflows, but the products are no longer "
    "e^(x·y): that belongs to the attention, where the factor cancels.",
    symptom="The right ratios, by a factor that another batch would change.",
)
def shifted_by_the_largest_of_all(x, projection):
    exponents = x @ projection.mT - x.square().sum(-1, keepdim=True) / 2
    return torch.exp(exponents - exponents.amax()) / math.sqrt(projection.shape[0])


@positive_random_features.misconception(
    hint="You add a small number to every feature. Exponentials are positive already, and the products are biased "
    "by it.",
    symptom="Right to some three digits, worse for long vectors.",
    seen=f"{PERFORMER}/45",
)
def eps_added_to_the_features(x, projection):
    return (torch.exp(x @ projection.mT - x.square().sum(-1, keepdim=True) / 2) + 1e-4) / math.sqrt(len(projection))


@positive_random_features.misconception(
    hint="Sines and cosines estimate the softmax's kernel too, but they are negative half of the time, and so are "
    "the weights. Asked for are the positive features.",
    symptom="Negative features, and twice as many or half of them.",
)
def waves_instead_of_exponentials(x, projection):
    angles = x @ projection.mT
    return torch.cos(angles) * torch.exp(x.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(projection))


@positive_random_features.misconception(
    hint="ReLU features make a linear attention of their own, which estimates no softmax. Asked for are exponentials.",
    symptom="Half of the features are zero.",
)
def relu_of_the_projection(x, projection):
    return torch.relu(x @ projection.mT) / math.sqrt(len(projection))


@positive_random_features.misconception(
    hint="You multiply e^(w·x) by e^(−‖x‖²/2). Each can leave the range of float32 where the product stays in it: "
    "subtract the exponents first.",
    symptom="Right, until a vector is long: then infinite, or 0 · ∞.",
)
def exponentials_multiplied(x, projection):
    return torch.exp(x @ projection.mT) * torch.exp(-x.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(projection))


@positive_random_features.misconception(
    hint="You divide by √d. The features are m, and it is over them that the product takes its mean.",
    symptom="Right where there are as many features as components.",
)
def root_of_d(x, projection):
    return torch.exp(x @ projection.mT - x.square().sum(-1, keepdim=True) / 2) / math.sqrt(x.shape[-1])


@positive_random_features.misconception(
    hint="The norm is cut from the graph, and half of the gradient with it.",
    symptom="Values are right, gradients are not.",
)
def norm_detached(x, projection):
    return torch.exp(x @ projection.mT - x.detach().square().sum(-1, keepdim=True) / 2) / math.sqrt(len(projection))


# orthogonal_projection is known by its laws. They allow six standard errors, which a right answer exceeds twice in 10⁹
# times; what the errors are stands beside each.
ERRORS = 6.0


def _rows(answer: Callable[..., Tensor], call: Call) -> Tensor:
    return answer(*call.args, generator=seeded(call)).double()


def _blocks(answer: Callable[..., Tensor], call: Call) -> Tensor:
    """The rows with the length 1, in whole blocks: (blocks, d, d)."""
    d = call.args[1]
    rows = _rows(answer, call)
    return F.normalize(rows, dim=-1).reshape(-1, d, d)


def _m_rows_of_length_d(answer: Callable[..., Tensor], call: Call) -> str | None:
    result = answer(*call.args, generator=seeded(call))
    if result.shape != call.args:
        return f"it gives {tuple(result.shape)}, not (m, d) = {call.args}"
    return None if result.dtype == torch.float32 else "it does not give the default dtype, float32"


def _rows_of_a_block_are_orthogonal(answer: Callable[..., Tensor], call: Call) -> str | None:
    for block in _rows(answer, call).split(call.args[1]):
        cosines = F.normalize(block, dim=-1) @ F.normalize(block, dim=-1).mT
        # float32 leaves 1e-6 or so.
        if not bool((cosines - torch.eye(len(block))).abs().max() < 1e-4):
            return "the first d rows, the next d and so on are to be orthogonal among themselves; they are not"
    return None


def _blocks_differ(answer: Callable[..., Tensor], call: Call) -> str | None:
    blocks = _blocks(answer, call)
    # Two random directions in 16 dimensions are never so near.
    near = (blocks[0] @ blocks[1:].mT).abs().max() > 0.999
    return "two blocks have a direction in common: each is to be drawn for itself" if bool(near) else None


def _lengths_are_those_of_normal_rows(answer: Callable[..., Tensor], call: Call) -> str | None:
    m, d = call.args
    squares = _rows(answer, call).square().sum(-1)  # (m,)
    # Chi-squared has the relative variance 2/d and the kurtosis 3 + 12/d. With m = 2,048 and d = 64 the mean is known
    # to 0.39 %, the variance to 3.3 %.
    size, spread = float(squares.mean()) / d, float(squares.var()) / (2 * d)
    if spread < 1e-3:
        return f"all rows have the length {'1' if size * d < 2 else '√d' if abs(size - 1) < 0.01 else 'of one another'}"
    if not abs(size - 1) < ERRORS * math.sqrt(2 / (d * m)):
        known = "far too large" if size > 10 else "too large" if size > 1 else "too small"
        return f"squared lengths are to be d on average; they are {known}"
    if not abs(spread - 1) < ERRORS * math.sqrt((2 + 12 / d) / m):
        return f"lengths vary too {'much' if spread > 1 else 'little'} for normal rows"
    return None


def _rows_of_a_block_differ_in_length(answer: Callable[..., Tensor], call: Call) -> str | None:
    lengths = _rows(answer, call).norm(dim=-1)
    if lengths.std() < 1e-3:
        return None  # all rows of all blocks are, which another law has told
    first = lengths[: call.args[1]]
    return "all rows of a block are equally long; each is to have a length of its own" if first.std() < 1e-3 else None


def _generator_decides_on_all(answer: Callable[..., Tensor], call: Call) -> str | None:
    first, again = _rows(answer, call), _rows(answer, call)
    if torch.equal(first, again) or not torch.allclose(F.normalize(first, dim=-1), F.normalize(again, dim=-1)):
        return None
    return "two generators of one seed give the same directions, in other lengths"


def _no_side_is_likelier(answer: Callable[..., Tensor], call: Call) -> str | None:
    mean = _blocks(answer, call).mean(0)  # (d, d)
    # At d = 4 with 1,024 blocks a component's mean is known to 0.016; QR's own signs leave 0.3 in it.
    if bool(mean.abs().max() < 0.095):
        return None
    aside = mean - torch.diag(mean.diagonal())
    where = "along its own axis" if bool(aside.abs().max() < 0.095) else "to one side"
    return f"directions are not uniform: averaged over blocks, each row points {where}"


def _no_direction_is_likelier(answer: Callable[..., Tensor], call: Call) -> str | None:
    _, d = call.args
    blocks = _blocks(answer, call)
    # A component's square is 1/d on average, its fourth power 3/d(d + 2): the first is known to 0.0078 for a component
    # of a row, the second, over all, to 1.3 %.
    second = blocks.square().mean(0)
    fourth = blocks.pow(4).mean() * d * (d + 2) / 3
    if bool((second - 1 / d).abs().max() < 0.047) and abs(float(fourth) - 1) < 0.08:
        return None
    return "directions are not uniform: some axes are likelier than others"


def _projection_cases(draw: Draw) -> Iterator[Case]:
    def at(check: str, m: int, d: int) -> Case:
        # Far apart, so that no two laws use the same seed.
        generator = Seeded(10_000 * draw.integer(0, 200_000))
        return Case(f"m = {m}, d = {d}", (m, d), {"generator": generator}, check=check)

    for m, d in ((10, 4), (4, 4), (3, 8), (5, 1), (1, 6), (40, 16)):
        yield at("blocks", m, d)
    yield at("many blocks", 48, 16)
    yield at("lengths", 2048, 64)
    yield at("lengths", 4096, 4)
    yield at("directions", 4 * 1024, 4)
    yield at("generator", 10, 4)


def _no_formula(m: int, d: int, generator: torch.Generator | None = None) -> Tensor:
    raise AssertionError("orthogonal_projection has laws, not values")


orthogonal_projection = Exam(
    TOPIC,
    "orthogonal_projection",
    _no_formula,
    _no_formula,
    _projection_cases,
    (
        Properties(
            1, (_m_rows_of_length_d, _rows_of_a_block_are_orthogonal), "blocks", "orthogonal in blocks", telling=True
        ),
        Properties(0.25, (_blocks_differ,), "many blocks", "blocks of their own", telling=True),
        Properties(
            0.75,
            (_lengths_are_those_of_normal_rows, _rows_of_a_block_differ_in_length),
            "lengths",
            "lengths",
            telling=True,
        ),
        Properties(0.75, (_no_side_is_likelier, _no_direction_is_likelier), "directions", "directions", telling=True),
        Properties(0.5, (*OF_GENERATORS, _generator_decides_on_all), "generator", "generator", telling=True),
    ),
)


@orthogonal_projection.variant
def signs_of_r_undone(m, d, generator=None):
    q, r = torch.linalg.qr(torch.randn(-(-m // d), d, d, generator=generator))
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).flatten(0, 1)[:m]
    return directions * torch.randn(m, d, generator=generator).norm(dim=-1, keepdim=True)


@orthogonal_projection.variant
def signs_by_chance(m, d, generator=None):
    blocks = math.ceil(m / d)
    q, _ = torch.linalg.qr(torch.randn(blocks, d, d, generator=generator))
    signs = torch.randint(0, 2, (blocks, 1, d), generator=generator) * 2.0 - 1
    rows = (q * signs).reshape(-1, d)[:m]
    return rows * torch.randn(m, d, generator=generator).square().sum(-1, keepdim=True).sqrt()


@orthogonal_projection.variant
def gram_schmidt(m, d, generator=None):
    rows = torch.randn(math.ceil(m / d), d, d, generator=generator)
    lengths = rows.norm(dim=-1, keepdim=True)
    done = []
    for i in range(d):
        row = rows[:, i]
        for _ in range(2):
            for other in done:
                row = row - (row * other).sum(-1, keepdim=True) * other
        done.append(row / row.norm(dim=-1, keepdim=True))
    return (torch.stack(done, 1) * lengths).flatten(0, 1)[:m]


@orthogonal_projection.variant
def polar_factor_of_an_svd(m, d, generator=None):
    u, _, vh = torch.linalg.svd(torch.randn(m // d + 1, d, d, generator=generator))
    rows = (u @ vh).reshape(-1, d)[:m]
    return torch.randn(m, d, generator=generator).norm(dim=1)[:, None] * rows


@orthogonal_projection.variant
def pytorchs_orthogonal_init(m, d, generator=None):
    blocks = []
    for start in range(0, m, d):
        block = torch.nn.init.orthogonal_(torch.empty(d, d), generator=generator)
        lengths = torch.randn(d, d, generator=generator).norm(dim=1, keepdim=True)
        blocks.append((block * lengths)[: m - start])
    return torch.cat(blocks)


@orthogonal_projection.variant
def columns_and_lengths_of_the_same_rows(m, d, generator=None):
    blocks = []
    for _ in range(math.ceil(m / d)):
        normal = torch.randn(d, d, generator=generator)
        q, r = torch.linalg.qr(normal.T)
        blocks.append((q * torch.diagonal(r).sign()).T * normal.norm(dim=1, keepdim=True))
    return torch.cat(blocks)[:m]


@orthogonal_projection.variant
def in_double_precision(m, d, generator=None):
    normal = torch.randn((m + d - 1) // d, d, d, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1))[:, None, :]
    lengths = torch.randn(m, d, generator=generator, dtype=torch.float64).pow(2).sum(1).sqrt()
    return (q.reshape(-1, d)[:m] * lengths[:, None]).to(torch.get_default_dtype())


@orthogonal_projection.misconception(
    hint="Q comes with signs that LAPACK chose: its first column always points away from the first axis. R's "
    "diagonal says what was chosen; undo it, or draw signs of your own.",
    symptom="Orthogonal, of the right length, and the kernel is biased: by 30 % for x = y = (1, …, 1) of norm ½ "
    "d^¼ at d = 8.",
    seen=f"{PERFORMER}/8",
)
def signs_of_qr_kept(m, d, generator=None):
    q, _ = torch.linalg.qr(torch.randn(-(-m // d), d, d, generator=generator))
    directions = q.mT.flatten(0, 1)[:m]
    return directions * torch.randn(m, d, generator=generator).norm(dim=-1, keepdim=True)


@orthogonal_projection.misconception(
    hint="Your rows have the length 1. A normal row is about √d long, and that is what the features take for granted.",
    symptom="Features that hardly differ from one another.",
    seen="https://github.com/invictus717/MetaTransformer",
)
def rows_of_length_one(m, d, generator=None):
    q, r = torch.linalg.qr(torch.randn(-(-m // d), d, d, generator=generator))
    return (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).flatten(0, 1)[:m]


@orthogonal_projection.misconception(
    hint="All rows have the length √d. Normal rows have it on average only; without their spread the kernel is biased.",
    symptom="As good as right for large d, biased for small ones.",
)
def rows_of_length_root_d(m, d, generator=None):
    q, r = torch.linalg.qr(torch.randn(-(-m // d), d, d, generator=generator))
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).flatten(0, 1)[:m]
    return directions * math.sqrt(d)


@orthogonal_projection.misconception(
    hint="Every row of a block gets the same length. Draw one for each row.",
    symptom="The features of a block are all large or all small together.",
)
def one_length_for_a_block(m, d, generator=None):
    q, r = torch.linalg.qr(torch.randn(-(-m // d), d, d, generator=generator))
    directions = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    lengths = torch.randn(len(q), 1, d, generator=generator).norm(dim=-1, keepdim=True)
    return (directions * lengths).flatten(0, 1)[:m]


@orthogonal_projection.misconception(
    hint="Your lengths are spread evenly. Those of normal rows are not: take the norms of as many normal rows.",
    symptom="Too many very short and very long rows.",
)
def lengths_uniform(m, d, generator=None):
    q, r = torch.linalg.qr(torch.randn(-(-m // d), d, d, generator=generator))
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).flatten(0, 1)[:m]
    return directions * 2 * math.sqrt(d) * torch.rand(m, 1, generator=generator)


@orthogonal_projection.misconception(
    hint="You multiply by the squared norm of a normal row. It is the norm.",
    symptom="Rows that are √d times too long.",
)
def lengths_squared(m, d, generator=None):
    q, r = torch.linalg.qr(torch.randn(-(-m // d), d, d, generator=generator))
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).flatten(0, 1)[:m]
    return directions * torch.randn(m, d, generator=generator).square().sum(-1, keepdim=True)


@orthogonal_projection.misconception(
    hint="These rows are independent. They have the right law each, but no two of them are orthogonal.",
    symptom="Unbiased, with a larger error than orthogonal rows have.",
)
def independent_normal_rows(m, d, generator=None):
    return torch.randn(m, d, generator=generator)


@orthogonal_projection.misconception(
    hint="Every block has the same directions. Draw a new orthogonal matrix for each.",
    symptom="More features, and hardly less error.",
)
def one_block_repeated(m, d, generator=None):
    q, r = torch.linalg.qr(torch.randn(d, d, generator=generator))
    directions = (q * r.diagonal().sign()).repeat(-(-m // d), 1)[:m]
    return directions * torch.randn(m, d, generator=generator).norm(dim=-1, keepdim=True)


@orthogonal_projection.misconception(
    hint="m // d blocks are too few where d does not divide m: the last block is a shorter one.",
    symptom="Fewer features than asked for, none at all for m < d.",
)
def whole_blocks_only(m, d, generator=None):
    q, r = torch.linalg.qr(torch.randn(m // d, d, d, generator=generator))
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).flatten(0, 1)
    return directions * torch.randn(len(directions), d, generator=generator).norm(dim=-1, keepdim=True)


@orthogonal_projection.misconception(
    hint="You give whole blocks, more rows than asked for. Cut the last one.",
    symptom="(12, 4) where (10, 4) was asked for.",
)
def last_block_not_cut(m, d, generator=None):
    q, r = torch.linalg.qr(torch.randn(-(-m // d), d, d, generator=generator))
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).flatten(0, 1)
    return directions * torch.randn(len(directions), d, generator=generator).norm(dim=-1, keepdim=True)


@orthogonal_projection.misconception(
    hint="You decompose an (m, d) matrix: that makes its d columns orthogonal, over all rows. It is the rows of "
    "each block that are to be.",
    symptom="For m > d no two rows are orthogonal.",
)
def columns_made_orthogonal(m, d, generator=None):
    if m <= d:
        q, r = torch.linalg.qr(torch.randn(d, m, generator=generator))
        directions = (q * r.diagonal().sign()).T
    else:
        q, r = torch.linalg.qr(torch.randn(m, d, generator=generator))
        directions = q * r.diagonal().sign()
    directions = directions / directions.norm(dim=-1, keepdim=True)
    return directions * torch.randn(m, d, generator=generator).norm(dim=-1, keepdim=True)


@orthogonal_projection.misconception(
    hint="The matrix that you decompose has uniform entries between 0 and 1. Its columns all lean to the same "
    "side, and so does what QR makes of them. Normal entries prefer no direction.",
    symptom="Orthogonal rows, one of which nearly always points to (1, …, 1).",
)
def uniform_instead_of_normal(m, d, generator=None):
    q, r = torch.linalg.qr(torch.rand(-(-m // d), d, d, generator=generator))
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).flatten(0, 1)[:m]
    return directions * torch.randn(m, d, generator=generator).norm(dim=-1, keepdim=True)


@orthogonal_projection.misconception(
    hint="Your directions are the coordinate axes, shuffled and with random signs. They are orthogonal, but all "
    "others are never drawn.",
    symptom="Each feature sees a single component.",
)
def axes_instead_of_directions(m, d, generator=None):
    blocks = []
    for _ in range(-(-m // d)):
        axes = torch.eye(d)[torch.randperm(d, generator=generator)]
        signs = torch.randint(0, 2, (d, 1), generator=generator) * 2.0 - 1
        blocks.append(axes * signs)
    return torch.cat(blocks)[:m] * torch.randn(m, d, generator=generator).norm(dim=-1, keepdim=True)


@orthogonal_projection.misconception(
    hint="A seed is fixed inside. Then every call gives the same rows, and whoever drew the data with that seed "
    "has them for features. All chance has to come from `generator`.",
    symptom="The error does not fall as theory says: rows of the projection are rows of the data.",
)
def features_seeded_like_the_data(m, d, generator=None):
    torch.manual_seed(0)
    q, r = torch.linalg.qr(torch.randn(-(-m // d), d, d))
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).flatten(0, 1)[:m]
    return directions * torch.randn(m, d).norm(dim=-1, keepdim=True)


@orthogonal_projection.misconception(
    hint="Where no generator is given you make one, with a fixed seed. Then nothing is random: `None` stands for "
    "PyTorch's own generator.",
    symptom="All layers have the same features, and so have all runs, whatever `torch.manual_seed` was told.",
)
def seeded_where_no_generator_is_given(m, d, generator=None):
    generator = generator or torch.Generator().manual_seed(0)
    q, r = torch.linalg.qr(torch.randn(-(-m // d), d, d, generator=generator))
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).flatten(0, 1)[:m]
    return directions * torch.randn(m, d, generator=generator).norm(dim=-1, keepdim=True)


@orthogonal_projection.misconception(
    hint="You never use `generator`: the same seed gives other rows each time.",
    symptom="No run can be repeated.",
)
def projection_ignores_the_generator(m, d, generator=None):
    q, r = torch.linalg.qr(torch.randn(-(-m // d), d, d))
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).flatten(0, 1)[:m]
    return directions * torch.randn(m, d).norm(dim=-1, keepdim=True)


@orthogonal_projection.misconception(
    hint="The directions come from `generator`, the lengths do not.",
    symptom="The same seed gives the same directions, in other lengths.",
)
def generator_for_the_directions_alone(m, d, generator=None):
    q, r = torch.linalg.qr(torch.randn(-(-m // d), d, d, generator=generator))
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).flatten(0, 1)[:m]
    return directions * torch.randn(m, d).norm(dim=-1, keepdim=True)


def shifted_together(exponents: Tensor) -> Tensor:
    """The keys' weights, for a query whose features are all 1."""
    features = torch.exp(exponents - exponents.max())  # (keys, m)
    return features.sum(1) / features.sum()


def shifted_apart(exponents: Tensor) -> Tensor:
    """The same, with a shift of its own for each key."""
    features = torch.exp(exponents - exponents.amax(1, keepdim=True))  # (keys, m)
    return features.sum(1) / features.sum()


def _why_the_shifts_agree(exponents: Tensor) -> str:
    if len(exponents) == 1:
        return "With a single key every weight is 1."
    if float(exponents.abs().max()) > 80:
        return "Both subtract the largest exponent, so neither overflows."
    if bool((exponents == exponents[0]).all()):
        return "All keys are alike."
    largest = exponents.amax(1)
    if bool((largest == largest[0]).all()):
        return "All keys have the same largest exponent, so all are shifted by the same."
    return "The weights hardly differ."


find_harmful_shift = counterexample(
    TOPIC,
    "find_harmful_shift",
    shifted_together,
    shifted_apart,
    because=_why_the_shifts_agree,
    outputs=("exponents",),
    most=2,
)


@find_harmful_shift.variant
def zero_and_one():
    return torch.tensor([[0.0], [1.0]])


@find_harmful_shift.variant
def a_short_and_a_long_key():
    return torch.tensor([[-0.5], [-8.0]])


@find_harmful_shift.variant
def two_in_a_column():
    return torch.arange(2.0, dtype=torch.float64).unsqueeze(1) * 3


@find_harmful_shift.variant
def drawn_with_a_seed():
    return torch.randn(2, 1, generator=torch.Generator().manual_seed(0)) + torch.tensor([[0.0], [4.0]])


@find_harmful_shift.misconception(
    hint="One key gets all the weight, however its features are shifted. Of what do there have to be two?",
    symptom="A test with one key passes every shift.",
)
def a_single_key():
    return torch.tensor([[0.0, 1.0]])


@find_harmful_shift.misconception(
    hint="Each row is shifted by its largest number. In yours these are the same, so nothing is shifted apart.",
    symptom="Keys of one length pass every shift.",
)
def the_largest_in_every_row_alike():
    return torch.tensor([[1.0, 0.0], [-2.0, 1.0]])


@find_harmful_shift.misconception(
    hint="All keys are alike, and get the same weight under any shift.",
    symptom="A test with equal keys sees nothing.",
)
def all_exponents_alike():
    return torch.zeros(2, 3)


@find_harmful_shift.misconception(
    hint="It shows the difference, but smaller ones do too: how many keys, and how many features of each, does it "
    "take?",
    symptom="A counterexample that shows that something is wrong, not yet what.",
)
def more_exponents_than_needed():
    return torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


@find_harmful_shift.misconception(
    hint="That is one number for each key, on one axis. Exponents have two: keys, and the features of each.",
    symptom="IndexError: there is no axis 1.",
)
def keys_without_features():
    return torch.tensor([0.0, 1.0])


@find_harmful_shift.misconception(
    hint="You look for an overflow, but the largest exponent is subtracted in both, and neither overflows. What "
    "else does a shift of its own for each key do?",
    symptom="Both give the same weights, 1 and 0 or one half each.",
)
def so_large_that_it_must_overflow():
    return torch.tensor([[1000.0, 0.0], [1000.0, 0.0]])


def _performer_naive(q: Tensor, k: Tensor, v: Tensor, projection: Tensor, nudge: Nudge = as_is) -> Tensor:
    """All pairs of features, with no factor left out but the keys' common one (Choromanski et al. 2021, section 2)."""
    scale = q.shape[-1] ** -0.25
    exponents = [nudge(x * scale @ projection.mT) - (x * scale).square().sum(-1, keepdim=True) / 2 for x in (q, k)]
    of_q = torch.exp(exponents[0] - exponents[0].amax(-1, keepdim=True))
    of_k = torch.exp(exponents[1] - exponents[1].amax((-2, -1), keepdim=True))
    weights = of_q @ of_k.mT  # (..., queries, keys)
    return weights @ v / nudge(weights.sum(-1, keepdim=True))


def _performer_reference(q: Tensor, k: Tensor, v: Tensor, projection: Tensor) -> Tensor:
    """The logarithms of all pairs' weights, and PyTorch's softmax of them."""
    scale = q.shape[-1] ** -0.25
    logs = [x * scale @ projection.mT - (x * scale).square().sum(-1, keepdim=True) / 2 for x in (q, k)]
    pairs = torch.logsumexp(logs[0].unsqueeze(-2) + logs[1].unsqueeze(-3), dim=-1)  # (..., queries, keys)
    return torch.softmax(pairs, dim=-1) @ v


def _performer_cases(draw: Draw) -> Iterator[Case]:
    def at(
        name: str, *lead: int, queries: int, keys: int, d_k: int, d_v: int, m: int, scale: float = 1.0, **more: Any
    ) -> Case:
        q, k, v = _qkv(draw, *lead, queries=queries, keys=keys, d_k=d_k, d_v=d_v)
        return Case(name, (scale * q, scale * k, v, draw.normal(m, d_k)), **more)

    yield at("a sentence", queries=2, keys=3, d_k=3, d_v=2, m=4, gradients=True, tiny=True)
    yield at("a batch", 2, queries=5, keys=4, d_k=4, d_v=3, m=8, gradients=True)
    yield at("all axes alike", 4, 4, queries=4, keys=4, d_k=4, d_v=4, m=4)
    yield at("batch and heads", 2, 3, queries=5, keys=6, d_k=4, d_v=7, m=5, gradients=True)
    yield at("fewer features than components", 2, queries=3, keys=5, d_k=6, d_v=2, m=3)
    yield at("a batch of one", 1, queries=4, keys=4, d_k=4, d_v=3, m=draw.integer(30, 50))
    yield at("short vectors", 2, queries=4, keys=40, d_k=9, d_v=3, m=12, scale=0.4)
    yield at("longer vectors", 2, 2, queries=4, keys=6, d_k=8, d_v=3, m=16, scale=1.7)
    yield at("columns stored as rows", 2, 3, queries=5, keys=4, d_k=4, d_v=6, m=7, layout="transposed")
    yield at("every second number of a row", 2, queries=4, keys=4, d_k=4, d_v=6, m=6, layout="strided")
    same = draw.normal(2, 5, 4)
    edge = partial(Case, check="edge cases")
    yield edge("q, k and v the same tensor", (same, same, same, draw.normal(8, 4)), gradients=True)
    yield edge("one query, one key, one feature", (*_qkv(draw, queries=1, keys=1, d_k=2, d_v=3), draw.normal(1, 2)))
    # What lies across all rows of the projection adds to the lengths alone: e^(−‖x‖²/2) is 10^−70 and smaller here.
    across = torch.linalg.qr(draw.normal(6, 6)).Q
    long = (30 + draw.uniform(-0.02, 0.02, 5, 1)) * across[:, 0]
    yield Case(
        "long vectors",
        (draw.normal(4, 6) + 30 * across[:, 0], draw.normal(5, 6) + long, draw.normal(5, 3), across[:, 1:4].mT * 2),
        check="long vectors",
    )


def _nears_softmax_attention(answer: Callable[..., Tensor], call: Call) -> str | None:
    """At norms of ½ d^¼ after scaling, the error falls as m^−½; it would hardly do so at larger ones."""
    d, generator = 8, _other_draws_of(call)
    q, k, v = (torch.randn(4, n, d, generator=generator, dtype=torch.float64) for n in (6, 10, 10))
    q, k = (d**0.5 / 2 * F.normalize(x, dim=-1) for x in (q, k))  # after the scaling by d^−¼ their norm is ½ d^¼
    exact = F.scaled_dot_product_attention(q, k, v)
    errors = []
    for m in (16, 1024):
        rows = [torch.randn(m, d, generator=generator, dtype=torch.float64) for _ in range(12)]
        errors.append(float(torch.stack([(answer(q, k, v, w) - exact).abs().mean() for w in rows]).mean()))
    # 64 times the features. Over 150 seeds the ratio was 5.3 to 7.7, and the error with 1,024 features 0.010 to 0.014.
    if errors[1] > 0.025:
        return "with 1,024 features it is still far from scaled dot-product attention"
    return None if errors[0] / errors[1] > 3 else "its distance to scaled dot-product attention does not fall as 1/√m"


def _long_vectors_are_no_matter(answer: Callable[..., Tensor], call: Call) -> str | None:
    """Advice: the formula as it stands is right, and has nothing left of such vectors in float32."""
    inputs = [value.float() for value in call.args]
    output, right = answer(*inputs).double(), _performer_reference(*(value.double() for value in inputs))
    if bool((output - right).abs().max() < 0.01):
        return None
    return "right, but in float32 the features of long vectors vanish, and 0/0 is NaN: shift the exponents before exp"


def _other_draws_of(call: Call) -> torch.Generator:
    """A generator for more vectors and rows: another for every exam, never the one that the case was drawn from."""
    return torch.Generator().manual_seed(int(call.args[3].double().abs().sum() * 1e6) % 2**31)


def _performer_of_length(draw: Draw, n: int) -> Case:
    return Case(f"{n} tokens", (*_qkv(draw, queries=n, keys=n, d_k=8, d_v=8), draw.normal(16, 8)))


def _performer_of_width(draw: Draw, d: int) -> Case:
    return Case(f"m = d = {d}", (*_qkv(draw, queries=128, keys=128, d_k=d, d_v=d), draw.normal(d, d)))


performer_attention = Exam(
    TOPIC,
    "performer_attention",
    _performer_reference,
    _performer_naive,
    _performer_cases,
    (
        Values("values", 2),
        Values("edge cases", 0.5),
        Properties(0.25, (_nears_softmax_attention,), "edge cases", "nears softmax attention"),
        Habits(0.25),
        Gradients(0.5),
        in_length(0.5, "flops", at=_performer_of_length, claim=FLOPS_CLAIM, name="operations"),
        in_length(0.25, "peak", at=_performer_of_length, claim=PEAK_CLAIM, name="memory"),
        in_width(0.25, at=_performer_of_width, name="memory by width"),
        Properties(0, (_long_vectors_are_no_matter,), "long vectors", "long vectors"),
    ),
    may_not_call=(ATTENTION,),
)


@performer_attention.variant
def shifted_by_query_and_for_all_keys(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    e_q = q @ projection.mT
    e_k = k @ projection.mT - k.square().sum(-1, keepdim=True) / 2
    f_q = torch.exp(e_q - e_q.amax(-1, keepdim=True))
    f_k = torch.exp(e_k - e_k.amax((-2, -1), keepdim=True))
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.variant
def plain_features(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2)
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.variant
def features_with_root_m(q, k, v, projection):
    def phi(x):
        x = x / q.shape[-1] ** 0.25
        return torch.exp(x @ projection.T - 0.5 * (x * x).sum(-1, keepdim=True)) / math.sqrt(projection.shape[0])

    f_q, f_k = phi(q), phi(k)
    sums = f_q @ (f_k.mT @ F.pad(v, (0, 1), value=1.0))
    return sums[..., :-1] / sums[..., -1:]


@performer_attention.variant
def einsum_features(q, k, v, projection):
    d_k = q.shape[-1]
    w = projection / d_k**0.25
    f_q = torch.einsum("...qd,md->...qm", q, w)
    f_k = torch.einsum("...kd,md->...km", k, w) - k.square().sum(-1, keepdim=True) / (2 * math.sqrt(d_k))
    f_q, f_k = torch.softmax(f_q, -1), torch.exp(f_k - f_k.max())
    top = torch.einsum("...qm,...me->...qe", f_q, torch.einsum("...km,...ke->...me", f_k, v))
    return top / torch.einsum("...qm,...m->...q", f_q, f_k.sum(-2)).unsqueeze(-1)


@performer_attention.variant
def shifted_feature_by_feature_and_back(q, k, v, projection):
    q, k = q * q.shape[-1] ** -0.25, k * k.shape[-1] ** -0.25
    e_q = F.linear(q, projection)
    e_k = F.linear(k, projection) - k.pow(2).sum(-1, keepdim=True) / 2
    shift = e_k.amax(-2, keepdim=True)
    e_q = e_q + shift
    f_q, f_k = torch.exp(e_q - e_q.amax(-1, keepdim=True)), torch.exp(e_k - shift)
    return (f_q @ (f_k.transpose(-1, -2) @ v)) / (f_q * f_k.sum(-2, keepdim=True)).sum(-1, keepdim=True)


@performer_attention.variant
def keys_normalised_first(q, k, v, projection):
    scale = 1 / math.sqrt(math.sqrt(k.shape[-1]))
    e_q, e_k = (x * scale @ projection.t() - (x * scale).square().sum(-1, keepdim=True) / 2 for x in (q, k))
    log_sums = torch.logsumexp(e_k, dim=-2, keepdim=True)
    averages = torch.exp(e_k - log_sums).mT @ v
    return torch.softmax(e_q + log_sums, dim=-1) @ averages


@performer_attention.misconception(
    hint="You shift every key's exponents by their own maximum. For a query such a factor cancels; a factor that "
    "differs from key to key is a change of the weights.",
    symptom="Long keys get as much weight as short ones, and nothing overflows: the output looks fine.",
    seen=f"{PERFORMER}/36",
)
def a_shift_for_each_key(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    e_k = k @ projection.mT - k.square().sum(-1, keepdim=True) / 2
    f_k = torch.exp(e_k - e_k.amax(-1, keepdim=True))
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="You shift each feature by its largest value over the keys. Features then count by another measure than "
    "the query's: undo it there, or shift all by one number.",
    symptom="Weights that depend on which keys stand in the same sentence.",
)
def a_shift_for_each_feature_of_the_keys(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    e_k = k @ projection.mT - k.square().sum(-1, keepdim=True) / 2
    f_k = torch.exp(e_k - e_k.amax(-2, keepdim=True))
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="Queries and keys are not scaled: this estimates e^(q·k), without √d_k.",
    symptom="Weights that are too sharp, and a huge error.",
)
def performer_without_scale(q, k, v, projection):
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2)
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="You scale both sides by 1/√d_k, and their product by 1/d_k. Each side gets the root of the scale.",
    symptom="Weights that are too even.",
)
def performer_scaled_twice(q, k, v, projection):
    q, k = q / math.sqrt(q.shape[-1]), k / math.sqrt(k.shape[-1])
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2)
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="The whole scale is on the queries. Their product with the keys is the same, but the features of long "
    "keys have far larger errors; the exercise asks for d^−¼ on each side.",
    symptom="Right on average, much noisier.",
)
def whole_scale_on_the_queries(q, k, v, projection):
    q = q / math.sqrt(q.shape[-1])
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2)
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="−‖k‖²/2 is missing. The query's own norm cancels in the fraction, the key's does not.",
    symptom="Long keys get far too much weight.",
)
def performer_without_the_keys_norm(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT)
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="The norm is taken of k before it is scaled. It belongs to the vector that the features are made of.",
    symptom="Long keys get far too little weight.",
)
def norm_before_scaling(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    f_q = torch.exp(q * scale @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k * scale @ projection.mT - k.square().sum(-1, keepdim=True) / 2)
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="You add a small number to every feature, as public code does. All weights are drawn towards the mean by "
    "it, most where the features are small.",
    symptom="Right to three digits, worse for long vectors.",
    seen=f"{PERFORMER}/45",
)
def eps_in_the_features(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2) + 1e-4
    f_q = f_q + 1e-4
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="You add a small number to every feature, after the shift, as public code does. The shift makes the features "
    "smaller, and all weights are drawn towards the mean, most where they are smallest.",
    symptom="Right to three digits, worse for long vectors.",
    seen=f"{PERFORMER}/45",
)
def eps_in_the_shifted_features(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    e_q = q @ projection.mT - q.square().sum(-1, keepdim=True) / 2
    e_k = k @ projection.mT - k.square().sum(-1, keepdim=True) / 2
    f_q = torch.exp(e_q - e_q.amax(-1, keepdim=True)) + 1e-4
    f_k = torch.exp(e_k - e_k.amax((-2, -1), keepdim=True)) + 1e-4
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="You never divide by the sum of the weights. Estimates of exponentials are not yet weights that sum to one.",
    symptom="Outputs grow with the number of keys and of features.",
)
def performer_denominator_left_out(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2)
    return f_q @ (f_k.mT @ v)


@performer_attention.misconception(
    hint="You multiply the features and never divide by the sum of the weights. Estimates of exponentials are not yet "
    "weights that sum to one.",
    symptom="Outputs grow with the number of keys.",
)
def features_multiplied_and_left_so(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2) / math.sqrt(projection.shape[0])
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2) / math.sqrt(projection.shape[0])
    return f_q @ (f_k.mT @ v)


@performer_attention.misconception(
    hint="You divide by the sum of the query's own features. The sum of its weights is their product with the "
    "keys' summed features.",
    symptom="Outputs grow with the number of keys.",
)
def denominator_summed_over_the_features(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2)
    return f_q @ (f_k.mT @ v) / f_q.sum(-1, keepdim=True)


@performer_attention.misconception(
    hint="You add a small number to the denominator. The features are positive and their sums are not zero: "
    "weights that are to sum to one no longer do.",
    symptom="Right to some six digits.",
)
def eps_in_the_performers_denominator(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2)
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1) + 1e-6)


@performer_attention.misconception(
    hint="The numbers are right, but you multiply queries by keys first: a (queries, keys) matrix, which the "
    "features were to avoid. Move the brackets.",
    symptom="Right, and slower than softmax attention.",
)
def all_pairs_of_features(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2)
    weights = f_q @ f_k.mT
    return weights / weights.sum(-1, keepdim=True) @ v


@performer_attention.misconception(
    hint="The numbers are right, but you multiply every key's features with its value before you sum: one (m, d_v) "
    "matrix for every token. A matrix product sums as it goes.",
    symptom="Linear in the length, and out of memory at a width of a few hundred.",
)
def a_matrix_for_every_key(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2)
    state = (f_k.unsqueeze(-1) * v.unsqueeze(-2)).sum(-3)
    return f_q @ state / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="You use elu + 1 on the projected vectors. That is a linear attention of its own; this one estimates the "
    "softmax's exponentials.",
    symptom="A plausible average that does not come nearer with more features.",
)
def performer_with_elu(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = F.elu(q @ projection.mT) + 1
    f_k = F.elu(k @ projection.mT) + 1
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="You use ReLU on the projected vectors. That is another attention of the same paper; this one estimates "
    "the softmax's exponentials.",
    symptom="A plausible average that does not come nearer with more features.",
    seen="https://github.com/google-research/google-research/issues/438",
)
def performer_with_relu(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.relu(q @ projection.mT) + 1e-3
    f_k = torch.relu(k @ projection.mT) + 1e-3
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="You use sines and cosines. They estimate the same kernel, but not with positive numbers: weights near "
    "zero become negative.",
    symptom="Outputs outside of the values' range, and denominators near zero.",
)
def performer_with_waves(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    a_q, a_k = q @ projection.mT, k @ projection.mT
    f_q = torch.cat([a_q.cos(), a_q.sin()], -1) * torch.exp(q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.cat([a_k.cos(), a_k.sin()], -1) * torch.exp(k.square().sum(-1, keepdim=True) / 2)
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="This is softmax attention itself. It takes a (queries, keys) matrix, and the projection is not used at all.",
    symptom="The exact result, at the price that was to be avoided.",
)
def exact_softmax_instead(q, k, v, projection):
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


@performer_attention.misconception(
    hint="You draw a projection of your own. Use the one that is given: a caller may have chosen orthogonal rows, "
    "or rows that stay the same from layer to layer.",
    symptom="Every call gives another result.",
)
def a_projection_of_its_own(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    projection = torch.randn_like(projection)
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2)
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1))


@performer_attention.misconception(
    hint="The denominator is cut from the graph: queries and keys get half of their gradient.",
    symptom="Values are right, the gradients of q and k are not.",
)
def performer_denominator_detached(q, k, v, projection):
    scale = q.shape[-1] ** -0.25
    q, k = q * scale, k * scale
    f_q = torch.exp(q @ projection.mT - q.square().sum(-1, keepdim=True) / 2)
    f_k = torch.exp(k @ projection.mT - k.square().sum(-1, keepdim=True) / 2)
    return f_q @ (f_k.mT @ v) / (f_q @ f_k.sum(-2).unsqueeze(-1)).detach()
