"""The exams of *softmax*: from scores to weights, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.answer.guard import AUTOGRAD, SOFTMAX
from autograder.engine.checks import Gradients, Growth, Habits, Properties, Values, examiner
from autograder.engine.exam import Case, Draw, Exam, Nudge, as_is
from autograder.engine.subject import Call

TOPIC = "softmax"
LABML_146 = "https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/146"


def _rows(draw: Draw) -> Iterator[Case]:
    """Scores of ordinary size in every shape, dimension and layout."""
    yield Case("one row", (draw.normal(5),), tiny=True)
    yield Case("a matrix", (draw.normal(4, 5, scale=2.0),), gradients=True)
    yield Case("a square matrix", (draw.normal(4, 4, scale=2.0),), {"dim": -1})
    yield Case("down the columns", (draw.normal(4, 5, scale=2.0),), {"dim": 0}, gradients=True, tiny=True)
    yield Case("a square matrix, down the columns", (draw.normal(4, 4, scale=2.0),), {"dim": 0})
    yield Case("a cube, the middle axis", (draw.normal(3, 3, 3, scale=2.0),), {"dim": 1})
    yield Case("a batch of one", (draw.normal(1, 4, 5),), gradients=True)
    yield Case("batch, heads, queries, keys", (draw.normal(2, 3, 4, 5, scale=2.0),), gradients=True)
    yield Case("four axes, the second", (draw.normal(2, 3, 4, 5),), {"dim": 1})
    yield Case("three axes, the first from behind", (draw.normal(2, 3, 4),), {"dim": -3})
    yield Case("three axes, the last but one", (draw.normal(2, 3, 4),), {"dim": -2})
    yield Case("columns stored as rows", (draw.normal(2, 4, 6),), {"dim": -1}, layout="transposed", gradients=True)
    yield Case("every second number of a row", (draw.normal(4, 6),), {"dim": -1}, layout="strided")
    yield Case("rows of one score", (draw.normal(3, 1),))
    yield Case("a long row", (draw.normal(2, draw.integer(200, 300)),))


def _extremes(draw: Draw) -> Iterator[Case]:
    """Scores that a formula without care cannot take."""
    edge = partial(Case, check="edge cases", coarse=False)
    far = torch.tensor([[-1e4], [0.0], [1e4]], dtype=torch.float64)
    holes = draw.normal(3, 5)
    holes[0, 1] = holes[1, :3] = holes[2, 0] = -math.inf
    yield edge("scores up to ±10⁴", (draw.uniform(-1e4, 1e4, 4, 6),))
    yield edge("rows around −10⁴, 0 and 10⁴", (far + draw.normal(3, 5),), gradients=True)
    yield edge("scores around −1000", (draw.normal(3, 5) - 1000,), {"dim": 0})
    ties = torch.tensor([[0.0, 0.0, 0.0, -2e4], [0.0, 0.0, -1e3, -1e3]], dtype=torch.float64)
    yield edge("ties far above the rest", (ties,), gradients=True)
    yield edge("rows of two scores", (draw.uniform(-500, 500, 3, 2),))
    yield edge("some scores are −inf", (holes,))
    yield edge("every score of a row is −inf", (torch.stack([holes[0], torch.full((5,), -math.inf)]),))


def _softmax_cases(draw: Draw) -> Iterator[Case]:
    yield from _rows(draw)
    yield from _extremes(draw)


def _axis(call: Call) -> int:
    return int(call.kwargs.get("dim", -1))


def _sums_to_one(answer: Callable[..., Tensor], call: Call) -> str | None:
    sums = answer(*call.args, **call.kwargs).sum(_axis(call))
    worst = sums.flatten()[(sums - 1).abs().argmax()]
    return None if abs(float(worst) - 1) < 1e-4 else f"a row sums to {float(worst):.6g}, not to 1"


def _shift_changes_nothing(answer: Callable[..., Tensor], call: Call) -> str | None:
    x = call.args[0]
    gap = (answer(x + 3.0, *call.args[1:], **call.kwargs) - answer(*call.args, **call.kwargs)).abs().max()
    return None if gap < 1e-4 else f"adding 3 to every score changes a weight by {float(gap):.3g}; it must change none"


def _larger_scores_weigh_more(answer: Callable[..., Tensor], call: Call) -> str | None:
    x, dim = call.args[0], _axis(call)
    sorted_weights = answer(*call.args, **call.kwargs).gather(dim, x.argsort(dim))
    return None if bool((sorted_weights.diff(dim=dim) >= -1e-6).all()) else "a larger score gets a smaller weight"


def naive_softmax(x: Tensor, dim: int = -1, nudge: Nudge = as_is) -> Tensor:
    """exp(x − logsumexp(x)): of the right formulas the one that rounds the most, for large scores."""
    x = nudge(x)
    return torch.exp(x - nudge(torch.logsumexp(x, dim, keepdim=True)))


softmax = Exam(
    TOPIC,
    "softmax",
    lambda x, dim=-1: torch.softmax(x, dim),
    naive_softmax,
    _softmax_cases,
    (
        Values("values", 2),
        Values("edge cases", 1),
        Properties(0.5, (_sums_to_one, _shift_changes_nothing, _larger_scores_weigh_more)),
        Habits(0.5),
        Gradients(1),
    ),
    may_not_call=(SOFTMAX,),
)


@softmax.variant
def shifted_by_the_maximum(x, dim=-1):
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax.variant
def exp_of_difference_to_logsumexp(x, dim=-1):
    return torch.exp(x - torch.logsumexp(x, dim=dim, keepdim=True))


@softmax.variant
def constant_maximum(x, dim=-1):
    # The result does not depend on the shift, so its gradient may be left out.
    exponentials = (x - x.detach().max(dim=dim, keepdim=True).values).exp()
    return exponentials / exponentials.sum(dim=dim, keepdim=True)


@softmax.variant
def on_the_last_axis(x, dim=-1):
    moved = x.movedim(dim, -1)
    exponentials = torch.exp(moved - moved.amax(-1)[..., None])
    return (exponentials / exponentials.sum(-1)[..., None]).movedim(-1, dim)


@softmax.variant
def row_by_row(x, dim=-1):
    rows = []
    for row in x.movedim(dim, -1).reshape(-1, x.shape[dim]):
        exponentials = torch.exp(row - row.max())
        rows.append(exponentials / exponentials.sum())
    return torch.stack(rows).reshape(x.movedim(dim, -1).shape).movedim(-1, dim)


@softmax.variant
def by_l1_normalisation(x, dim=-1):
    return F.normalize(torch.exp(x - x.amax(dim, keepdim=True)), p=1, dim=dim)


@softmax.variant
def powers_of_two(x, dim=-1):
    powers = torch.exp2((x - x.amax(dim, keepdim=True)) * math.log2(math.e))
    return powers / powers.sum(dim, keepdim=True)


@softmax.variant
def online(x, dim=-1):
    # The lowest finite number instead of −inf, so that no step makes inf − inf.
    maximum = torch.full_like(x.detach().select(dim, 0), torch.finfo(x.dtype).min)
    total = torch.zeros_like(maximum)
    for column in x.unbind(dim):
        larger = torch.maximum(maximum, column.detach())
        total = total * torch.exp(maximum - larger) + torch.exp(column - larger)
        maximum = larger
    return torch.exp(x - maximum.unsqueeze(dim)) / total.unsqueeze(dim)


@softmax.misconception(
    hint="You always normalise along the last axis. `dim` says along which axis the weights sum to one.",
    symptom="With `dim=0` the columns do not sum to one; with the default all looks well.",
    seen=LABML_146,
)
def always_along_the_last_axis(x, dim=-1):
    exponentials = torch.exp(x - x.amax(-1, keepdim=True))
    return exponentials / exponentials.sum(-1, keepdim=True)


@softmax.misconception(
    hint="Your softmax runs along axis 1. On scores (batch, heads, queries, keys) that is the heads: use `dim`.",
    symptom="Right on a matrix. On four axes the weights of the heads sum to one instead of the weights of the keys.",
    seen="https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/282",
)
def always_along_axis_one(x, dim=-1):
    exponentials = torch.exp(x - x.amax(1, keepdim=True))
    return exponentials / exponentials.sum(1, keepdim=True)


@softmax.misconception(
    hint="exp overflows: subtract the row's largest score first. The weights stay the same.",
    symptom="NaN as soon as a score passes 88 in float32, and 0/0 where all scores are far below zero.",
)
def no_shift(x, dim=-1):
    exponentials = torch.exp(x)
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax.misconception(
    hint="You subtract the largest score of the whole tensor. Each row needs its own maximum, along `dim`.",
    symptom="Fine until two rows lie far apart: then every exponential of the lower one is zero, and the row is NaN.",
)
def global_maximum(x, dim=-1):
    exponentials = torch.exp(x - x.max())
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax.misconception(
    hint="Subtracting the mean still leaves positive exponents, which overflow. Subtract the maximum.",
    symptom="Right for small scores, NaN for a row with one score far above the others.",
)
def shifted_by_the_mean(x, dim=-1):
    exponentials = torch.exp(x - x.mean(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax.misconception(
    hint="You subtract the smallest score, which makes every exponent positive. Subtract the largest.",
    symptom="It overflows even sooner than the formula without a shift, wherever a row is wide.",
)
def shifted_by_the_minimum(x, dim=-1):
    exponentials = torch.exp(x - x.amin(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax.misconception(
    hint="You subtract the largest magnitude. Where that belongs to a negative score, every exponential vanishes.",
    symptom="Right while the largest score is also the largest in size; NaN on rows of large negative scores.",
)
def shifted_by_the_largest_magnitude(x, dim=-1):
    exponentials = torch.exp(x - x.abs().amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax.misconception(
    hint="Clamping the scores keeps exp finite, but makes all scores above the clamp equal. Shift them instead.",
    symptom="Large scores that differ get the same weight.",
)
def clamped_scores(x, dim=-1):
    exponentials = torch.exp(x.clamp(-50, 50))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax.misconception(
    hint="You divide by the sum of the whole tensor. Each row has a sum of its own, along `dim`.",
    symptom="The weights of all rows together sum to one; a single row is right.",
)
def one_sum_for_all_rows(x, dim=-1):
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return exponentials / exponentials.sum()


@softmax.misconception(
    hint="The sum has lost an axis and broadcasts against the wrong one: keep it, with `keepdim=True`.",
    symptom="An error on most shapes; on a square matrix silently each column is divided by another row's sum.",
)
def sum_without_keepdim(x, dim=-1):
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim)


@softmax.misconception(
    hint="The maximum has lost the axis `dim`, and you put one back at the end: put it back at `dim`, or keep it.",
    symptom="Right along the last axis. Along any other an error, or the maximum of other rows.",
)
def axis_put_back_at_the_end(x, dim=-1):
    exponentials = torch.exp(x - x.max(dim).values.unsqueeze(-1))
    return exponentials / exponentials.sum(dim).unsqueeze(-1)


@softmax.misconception(
    hint="The weights are still exponentials: divide them by their sum along `dim`.",
    symptom="The largest weight of each row is exactly one, and rows sum to more.",
)
def never_normalised(x, dim=-1):
    return torch.exp(x - x.amax(dim, keepdim=True))


@softmax.misconception(
    hint="Dividing scores by their sum is not softmax: negative scores give negative weights. Take exp first.",
    symptom="Rows sum to one, but weights are negative, and explode where the scores cancel.",
)
def scores_divided_by_their_sum(x, dim=-1):
    return x / x.sum(dim, keepdim=True)


@softmax.misconception(
    hint="That is argmax: it gives the winner everything, and no gradient. Softmax lets every score keep a share.",
    symptom="Every row is one-hot, and nothing can be learnt through it.",
)
def argmax_instead(x, dim=-1):
    return torch.zeros_like(x).scatter(dim, x.argmax(dim, keepdim=True), 1.0)


@softmax.misconception(
    hint="The base is e. With powers of two every row is softer than it should be.",
    symptom="Rows sum to one and the order is right, but the weights are those of scores that are 0.69 times as large.",
)
def base_two(x, dim=-1):
    powers = 2 ** (x - x.amax(dim, keepdim=True))
    return powers / powers.sum(dim, keepdim=True)


@softmax.misconception(
    hint="After the shift the sum is at least one and needs no epsilon; with one, no row sums to one.",
    symptom="Rows sum to 0.999999: unseen in float32, wrong in float64.",
)
def epsilon_in_the_denominator(x, dim=-1):
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return exponentials / (exponentials.sum(dim, keepdim=True) + 1e-6)


@softmax.misconception(
    hint="The answer leaves the graph (`detach`, `.data`, `.numpy()`, `no_grad`): right values, no gradients.",
    symptom="A model that trains everything after the attention and nothing before it, without an error.",
)
def severed_gradient(x, dim=-1):
    x = x.detach()
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax.misconception(
    hint="An operator that ends in `_`, or `-=`, writes into the caller's scores. Make a new tensor.",
    symptom="The weights are right; the scores have changed behind the caller's back.",
)
def changes_its_input(x, dim=-1):
    with torch.no_grad():
        x -= x.amax(dim, keepdim=True)
    exponentials = torch.exp(x)
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax.misconception(
    hint="You compute in float32 whatever comes in. Output dtype is the input's, and float64 must keep its digits.",
    symptom="A float64 model meets a float32 tensor: an error at the next product, or seven digits instead of sixteen.",
)
def always_float32(x, dim=-1):
    exponentials = torch.exp(x.float() - x.float().amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax.misconception(
    hint="You compute in float32 and convert back at the end: the digits of a float64 input are lost on the way.",
    symptom="Right dtype, and seven right digits of sixteen; `gradcheck` fails.",
)
def rounded_on_the_way(x, dim=-1):
    exponentials = torch.exp(x.float() - x.float().amax(dim, keepdim=True))
    return (exponentials / exponentials.sum(dim, keepdim=True)).to(x.dtype)


@softmax.misconception(
    hint="A row that is −inf everywhere has no weights: it gives NaN, as PyTorch's does.",
    symptom="A row without any possible key gets zeros, and the mistake upstream stays hidden.",
)
def zeros_for_an_empty_row(x, dim=-1):
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return (exponentials / exponentials.sum(dim, keepdim=True)).nan_to_num(0.0)


def _log_softmax_naive(x: Tensor, dim: int = -1, nudge: Nudge = as_is) -> Tensor:
    x = nudge(x)
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - torch.log(torch.exp(shifted).sum(dim, keepdim=True))


def _exponentials_sum_to_one(answer: Callable[..., Tensor], call: Call) -> str | None:
    sums = answer(*call.args, **call.kwargs).exp().sum(_axis(call))
    worst = sums.flatten()[(sums - 1).abs().argmax()]
    return None if abs(float(worst) - 1) < 1e-4 else f"exp of a row sums to {float(worst):.6g}, not to 1"


def _never_positive(answer: Callable[..., Tensor], call: Call) -> str | None:
    most = float(answer(*call.args, **call.kwargs).max())
    return None if most <= 1e-6 else f"a log-weight is {most:.6g}; the logarithm of a weight is never above zero"


log_softmax = Exam(
    TOPIC,
    "log_softmax",
    lambda x, dim=-1: torch.log_softmax(x, dim),
    _log_softmax_naive,
    _softmax_cases,
    (
        Values("values", 1.5),
        Values("edge cases", 1),
        Properties(0.5, (_exponentials_sum_to_one, _never_positive)),
        Habits(0.5),
        Gradients(0.5),
    ),
    may_not_call=(SOFTMAX,),
)


@log_softmax.variant
def minus_logsumexp(x, dim=-1):
    return x - torch.logsumexp(x, dim=dim, keepdim=True)


@log_softmax.variant
def shifted_then_minus_log_of_sum(x, dim=-1):
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


@log_softmax.variant
def maximum_added_back(x, dim=-1):
    maximum = x.amax(dim, keepdim=True)
    return x - (maximum + torch.log(torch.sum(torch.exp(x - maximum), dim, keepdim=True)))


@log_softmax.variant
def log_with_constant_maximum(x, dim=-1):
    shifted = x - x.detach().max(dim, keepdim=True)[0]
    return shifted - torch.logsumexp(shifted, dim, keepdim=True)


@log_softmax.variant
def log_on_the_last_axis(x, dim=-1):
    moved = x.movedim(dim, -1)
    return (moved - moved.logsumexp(-1)[..., None]).movedim(-1, dim)


@log_softmax.variant
def log_row_by_row(x, dim=-1):
    slices = x.movedim(dim, -1)
    rows = slices.reshape(-1, slices.shape[-1])
    logs = torch.stack([row - row.max() - torch.exp(row - row.max()).sum().log() for row in rows])
    return logs.reshape(slices.shape).movedim(-1, dim)


@log_softmax.variant
def folded_with_logaddexp(x, dim=-1):
    total = x.select(dim, 0)
    for column in x.unbind(dim)[1:]:
        total = torch.logaddexp(total, column)
    return x - total.unsqueeze(dim)


@log_softmax.misconception(
    hint="log(softmax(x)) loses what softmax rounded to zero: log 0 is −inf. Simplify the logarithm by hand.",
    symptom="−inf for every score far below the largest; the loss of a confident wrong answer is infinite.",
)
def log_of_softmax(x, dim=-1):
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return torch.log(exponentials / exponentials.sum(dim, keepdim=True))


@log_softmax.misconception(
    hint="An epsilon inside the log hides −inf by a floor: log-weights below log(eps) all become the same number.",
    symptom="No log-weight is ever below −18.4, and gradients vanish there.",
)
def log_with_epsilon(x, dim=-1):
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return torch.log(exponentials / exponentials.sum(dim, keepdim=True) + 1e-8)


@log_softmax.misconception(
    hint="exp overflows: take the largest score out of the sum before exp, and put it back after the log.",
    symptom="−inf as soon as a score passes 88 in float32; +inf where all are far below zero.",
)
def log_without_shift(x, dim=-1):
    return x - torch.log(torch.exp(x).sum(dim, keepdim=True))


@log_softmax.misconception(
    hint="You shifted the scores inside the sum only. The maximum must come off (or go back on) outside the log too.",
    symptom="exp of a row sums to e^max instead of 1; right only where the largest score is zero.",
)
def maximum_not_added_back(x, dim=-1):
    return x - torch.log(torch.exp(x - x.amax(dim, keepdim=True)).sum(dim, keepdim=True))


@log_softmax.misconception(
    hint="The logarithm turns the quotient into a difference of logarithms: the sum needs its own `log`.",
    symptom="exp of a row sums to far less than 1, and the more scores a row has, the less.",
)
def log_of_the_sum_forgotten(x, dim=-1):
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - torch.exp(shifted).sum(dim, keepdim=True)


@log_softmax.misconception(
    hint="The maximum has come off twice: once is enough, or add it back to the log-sum-exp.",
    symptom="exp of a row sums to e^−max instead of 1.",
)
def maximum_taken_twice(x, dim=-1):
    maximum = x.amax(dim, keepdim=True)
    return x - maximum - torch.logsumexp(x, dim, keepdim=True)


@log_softmax.misconception(
    hint="You shift by the largest score of the whole tensor; a row far below it sums to zero. Use the row's maximum.",
    symptom="+inf or NaN in rows that lie far below the largest score of the tensor.",
)
def log_with_global_maximum(x, dim=-1):
    shifted = x - x.max()
    return shifted - torch.log(torch.exp(shifted).sum(dim, keepdim=True))


@log_softmax.misconception(
    hint="You always work along the last axis. `dim` says which axis is normalised.",
    symptom="Right by default, wrong with `dim=0`.",
)
def log_always_along_the_last_axis(x, dim=-1):
    return x - torch.logsumexp(x, -1, keepdim=True)


@log_softmax.misconception(
    hint="Your normaliser runs along axis 1: on four axes that is the heads. Use `dim`.",
    symptom="Right on a matrix, wrong on (batch, heads, queries, keys).",
    seen=LABML_146,
)
def log_always_along_axis_one(x, dim=-1):
    return x - torch.logsumexp(x, 1, keepdim=True)


@log_softmax.misconception(
    hint="The log-sum-exp has lost an axis and broadcasts against the wrong one: use `keepdim=True`.",
    symptom="An error on most shapes; on a square matrix each column is shifted by another row's normaliser.",
)
def logsumexp_without_keepdim(x, dim=-1):
    return x - torch.logsumexp(x, dim)


@log_softmax.misconception(
    hint="The sign is turned: log-weights are x − logsumexp(x), never above zero. The loss is their negative.",
    symptom="All values are positive: this is the cross-entropy of each class.",
)
def negative_log_likelihood(x, dim=-1):
    return torch.logsumexp(x, dim, keepdim=True) - x


@log_softmax.misconception(
    hint="These are the weights, not their logarithms.",
    symptom="All values lie between 0 and 1.",
)
def softmax_without_log(x, dim=-1):
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


@log_softmax.misconception(
    hint="The logarithm belongs to exp: the natural one, not base two.",
    symptom="Every log-weight is 1.44 times too large, or the row is inconsistent with exp.",
)
def logarithm_base_two(x, dim=-1):
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - torch.log2(torch.exp(shifted).sum(dim, keepdim=True))


@log_softmax.misconception(
    hint="These are bits: the logarithm of the weights to base two. Asked for is the natural one, which undoes exp.",
    symptom="Every log-weight is 1.44 times too large, and a loss made of them too.",
)
def log_weights_in_bits(x, dim=-1):
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return torch.log2(exponentials / exponentials.sum(dim, keepdim=True))


@log_softmax.misconception(
    hint="The logarithm belongs to exp: the natural one, not base ten.",
    symptom="exp of a row does not sum to one: the log of the sum is 2.3 times too small.",
)
def logarithm_base_ten(x, dim=-1):
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - torch.log10(torch.exp(shifted).sum(dim, keepdim=True))


@log_softmax.misconception(
    hint="You patch log 0 with the shifted score, where the log of the sum is missing.",
    symptom="Small log-weights are off by log Σ, and their gradient is NaN: `where` cannot hide the branch it skips.",
)
def log_zero_patched(x, dim=-1):
    shifted = x - x.amax(dim, keepdim=True)
    weights = torch.exp(shifted) / torch.exp(shifted).sum(dim, keepdim=True)
    return torch.where(weights > 0, weights.log(), shifted)


@log_softmax.misconception(
    hint="The answer leaves the graph (`detach`, `.data`, `no_grad`): values are right, gradients are gone.",
    symptom="A classifier whose loss is printed and never falls.",
)
def log_severed_gradient(x, dim=-1):
    x = x.detach()
    return x - torch.logsumexp(x, dim, keepdim=True)


@log_softmax.misconception(
    hint="You cut only the normaliser from the graph. Its gradient is what pushes the other scores down.",
    symptom="Values are right; the gradient of every wrong class is zero.",
)
def normaliser_detached(x, dim=-1):
    return x - torch.logsumexp(x, dim, keepdim=True).detach()


@log_softmax.misconception(
    hint="An operator that ends in `_`, or `-=`, writes into the caller's scores. Make a new tensor.",
    symptom="The log-weights are right; the scores have changed behind the caller's back.",
)
def log_changes_its_input(x, dim=-1):
    with torch.no_grad():
        x -= x.amax(dim, keepdim=True)
    return x - torch.logsumexp(x, dim, keepdim=True)


def _temperature_cases(draw: Draw) -> Iterator[Case]:
    edge = partial(Case, check="edge cases", coarse=False)
    # Temperatures that float32 holds exactly: `torch.tensor(temperature)` is as good as the number.
    yield Case("one row", (draw.normal(5), 0.75), tiny=True)
    yield Case("a square matrix, cold", (draw.normal(4, 4), 0.25), gradients=True)
    yield Case("a square matrix, down the columns", (draw.normal(4, 4), 0.5), {"dim": 0})
    yield Case("three axes, the first from behind", (draw.normal(2, 3, 4), 1.5), {"dim": -3})
    yield Case("three axes, the last but one", (draw.normal(2, 3, 4), 1.5), {"dim": -2})
    yield Case("a batch of one", (draw.normal(1, 4, 5), 1.5))
    yield Case("a matrix, hot", (draw.normal(4, 5, scale=3.0), draw.integer(2, 5) + 0.5), gradients=True)
    yield Case("temperature one, by name", (draw.normal(3, 5),), {"temperature": 1.0})
    yield Case("down the columns", (draw.normal(4, 5), 2.0), {"dim": 0}, gradients=True)
    yield Case("batch, heads, queries, keys", (draw.normal(2, 3, 4, 5), 0.5))
    yield Case("four axes, the second", (draw.normal(2, 3, 4, 5), 1.75), {"dim": 1})
    yield Case("columns stored as rows", (draw.normal(2, 4, 6), 0.625), layout="transposed")
    yield Case("an integer temperature", (draw.normal(3, 5), 2))
    yield Case("rows of one score", (draw.normal(3, 1), 0.125))
    far = torch.tensor([[-1e4], [0.0], [1e4]], dtype=torch.float64)
    yield edge("scores up to ±10⁴", (draw.uniform(-1e4, 1e4, 4, 6), 3.0))
    yield edge("rows around −10⁴, 0 and 10⁴", (far + draw.normal(3, 5), 0.5))
    yield edge("scores up to ±10⁴, temperature one", (draw.uniform(-1e4, 1e4, 4, 6), 1.0))
    yield edge("nearly argmax", (draw.normal(4, 6), 2**-10))
    # Powers of two scale without rounding. What holds a temperature above a floor shows here, however low the floor.
    yield edge("tiny differences, as tiny a temperature", (2**-40 * draw.normal(4, 6), 2**-40))
    # Nearly all weights of these scores round to zero, unless they are warmed up before.
    yield edge("scores up to ±10⁴, as hot", (draw.uniform(-1e4, 1e4, 4, 6), 1e4))
    # x / T overflows in float32 although (x − max) / T is −inf or 0, and the weights are one-hot.
    yield edge("so cold that x / T overflows", (draw.normal(4, 6, scale=1e4), 1e-35))
    refused = partial(Case, check="errors", coarse=False, raises=ValueError)
    yield refused("temperature zero", (draw.normal(3, 5), 0.0), says="0")
    yield refused("a negative temperature", (draw.normal(3, 5), -1.25), says="-1.25")
    yield refused("zero as an integer", (draw.normal(3, 5), 0), says="0")
    yield refused("a negative integer", (draw.normal(3, 5), -2), says="-2")


def _temperature_naive(x: Tensor, temperature: float, dim: int = -1, nudge: Nudge = as_is) -> Tensor:
    x = nudge(x)
    return naive_softmax(nudge((x - x.amax(dim, keepdim=True)) / temperature), dim, nudge)


softmax_with_temperature = Exam(
    TOPIC,
    "softmax_with_temperature",
    lambda x, temperature, dim=-1: torch.softmax((x - x.amax(dim, keepdim=True)) / temperature, dim),
    _temperature_naive,
    _temperature_cases,
    (
        Values("values", 1.5),
        Values("edge cases", 0.5),
        Values("errors", 0.25),
        Properties(0.25, (_sums_to_one, _shift_changes_nothing, _larger_scores_weigh_more)),
        Habits(0.25),
        Gradients(0.25),
    ),
    may_not_call=(SOFTMAX,),
)


@softmax_with_temperature.variant
def shifted_then_divided(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    exponentials = torch.exp((x - x.amax(dim, keepdim=True)) / temperature)
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.variant
def logsumexp_after_the_division(x, temperature, dim=-1):
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} is not above 0")
    cooled = (x - x.max(dim, keepdim=True).values).div(temperature)
    return torch.exp(cooled - cooled.logsumexp(dim, keepdim=True))


@softmax_with_temperature.variant
def shifted_twice(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    cooled = (x - x.detach().amax(dim, keepdim=True)) / temperature
    exponentials = torch.exp(cooled - cooled.amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.variant
def cold_on_the_last_axis(x, temperature, dim=-1):
    if temperature <= 0.0:
        raise ValueError(f"{temperature} is no temperature")
    moved = x.movedim(dim, -1)
    exponentials = torch.exp((moved - moved.amax(-1, keepdim=True)) / temperature)
    return (exponentials / exponentials.sum(-1, keepdim=True)).movedim(-1, dim)


@softmax_with_temperature.variant
def cold_row_by_row(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}")
    slices = x.movedim(dim, -1)
    rows = [torch.exp((row - row.max()) / temperature) for row in slices.reshape(-1, slices.shape[-1])]
    return torch.stack([row / row.sum() for row in rows]).reshape(slices.shape).movedim(-1, dim)


@softmax_with_temperature.variant
def reciprocal_of_the_sum(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} must be positive")
    exponentials = ((x - torch.amax(x, dim, True)) / temperature).exp()
    return exponentials * exponentials.sum(dim, keepdim=True).reciprocal()


@softmax_with_temperature.misconception(
    hint="You divide before shifting, so x / T can overflow to inf and the shift makes inf − inf. Shift, then divide.",
    symptom="NaN at very low temperatures; right everywhere else.",
)
def divides_before_shifting(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    cooled = x / temperature
    exponentials = torch.exp(cooled - cooled.amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="You multiply by the temperature. Hot means soft: divide the scores by it.",
    symptom="A higher temperature makes the weights sharper instead of flatter.",
)
def multiplies_by_the_temperature(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    exponentials = torch.exp((x - x.amax(dim, keepdim=True)) * temperature)
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="The temperature never arrives: divide the scores by it, before exp.",
    symptom="Every temperature gives the same weights.",
)
def ignores_the_temperature(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="You divide the weights, not the scores: the rows then sum to 1 / T.",
    symptom="Rows sum to 1 / T; the shares among the keys are those of temperature one.",
)
def divides_the_weights(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True) / temperature


@softmax_with_temperature.misconception(
    hint="You divide the exponentials by T, which cancels in the quotient. The temperature belongs inside exp.",
    symptom="Numerator and denominator do not use the same exponentials: rows do not sum to one.",
)
def temperature_in_the_numerator_only(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    shifted = x - x.amax(dim, keepdim=True)
    return torch.exp(shifted / temperature) / torch.exp(shifted).sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="weights ** (1 / T) no longer sums to one: normalise again, or better divide the scores by T.",
    symptom="The order and the ratios are right, the rows' sums are not.",
)
def power_without_renormalising(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return (exponentials / exponentials.sum(dim, keepdim=True)) ** (1 / temperature)


@softmax_with_temperature.misconception(
    hint="You divide by √T. That is the scaling of dot products (√d_k); a temperature divides as it is.",
    symptom="Right at T = 1, too flat when cold, too sharp when hot.",
)
def divides_by_the_root(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    exponentials = torch.exp((x - x.amax(dim, keepdim=True)) / math.sqrt(temperature))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="You cool the exponent but shift after it: exp(x / T) overflows. Subtract the maximum first.",
    symptom="NaN when it is cold or the scores are large.",
)
def no_shift_when_cooled(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    exponentials = torch.exp(x / temperature)
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="You shift by one maximum for all rows. A row far below it has nothing left: take each row's own.",
    symptom="Right as long as all rows are alike; a row of much smaller scores gives 0/0.",
)
def cold_with_global_maximum(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    exponentials = torch.exp((x - x.max()) / temperature)
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="An operator that ends in `_`, or `-=`, writes into the caller's scores. Make a new tensor.",
    symptom="The weights are right; the scores have changed behind the caller's back.",
)
def cold_changes_its_input(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    with torch.no_grad():
        x -= x.amax(dim, keepdim=True)
        x /= temperature
    exponentials = torch.exp(x)
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="A temperature of zero or below has no softmax: raise a ValueError that names the number.",
    symptom="NaN at T = 0, and reversed weights below: the error shows up far away.",
)
def accepts_any_temperature(x, temperature, dim=-1):
    cooled = (x - x.amax(dim, keepdim=True)) / temperature
    return torch.exp(cooled - torch.logsumexp(cooled, dim, keepdim=True))


@softmax_with_temperature.misconception(
    hint="You treat T = 0 as argmax. Here zero is an error, like every temperature that is not positive.",
    symptom="A forgotten temperature of 0 passes for a choice.",
)
def argmax_at_zero(x, temperature, dim=-1):
    if temperature < 0:
        raise ValueError(f"temperature must not be negative: {temperature}")
    if temperature == 0:
        return torch.zeros_like(x).scatter(dim, x.argmax(dim, keepdim=True), 1.0)
    exponentials = torch.exp((x - x.amax(dim, keepdim=True)) / temperature)
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="You refuse zero but not what lies below it. Every temperature that is not positive is an error.",
    symptom="A negative temperature turns the order of the weights round, silently.",
)
def only_zero_is_refused(x, temperature, dim=-1):
    if temperature == 0:
        raise ValueError(f"temperature must not be {temperature}")
    exponentials = torch.exp((x - x.amax(dim, keepdim=True)) / temperature)
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="The error does not say which temperature came. A message with the number in it saves its reader a search.",
    symptom="'temperature must be positive': and which one was it, of the hundred that were tried?",
)
def error_without_the_number(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError("temperature must be positive")
    exponentials = torch.exp((x - x.amax(dim, keepdim=True)) / temperature)
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="You cool the logarithm of finished weights. A weight that has rounded to zero can't be warmed up again.",
    symptom="Right for ordinary scores. With large ones and a high temperature the winner still takes all.",
)
def finished_weights_cooled(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    cooled = torch.log(exponentials / exponentials.sum(dim, keepdim=True)) / temperature
    exponentials = torch.exp(cooled - cooled.amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="You replace a low temperature by a floor. Shifted scores need none.",
    symptom="Right until it is really cold: below the floor every temperature gives the same weights.",
)
def temperature_with_a_floor(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    exponentials = torch.exp((x - x.amax(dim, keepdim=True)) / max(temperature, 1e-2))
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="A bad temperature is an error of its value: raise ValueError, not an assertion.",
    symptom="`python -O` removes the check, and a caller that expects ValueError crashes.",
)
def asserts_the_temperature(x, temperature, dim=-1):
    assert temperature > 0
    exponentials = torch.exp((x - x.amax(dim, keepdim=True)) / temperature)
    return exponentials / exponentials.sum(dim, keepdim=True)


@softmax_with_temperature.misconception(
    hint="You always normalise along the last axis. `dim` says which axis.",
    symptom="Right by default, wrong with `dim=0`.",
)
def cold_always_along_the_last_axis(x, temperature, dim=-1):
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    exponentials = torch.exp((x - x.amax(-1, keepdim=True)) / temperature)
    return exponentials / exponentials.sum(-1, keepdim=True)


def _backward_cases(draw: Draw) -> Iterator[Case]:
    def pair(*shape: int, dim: int = -1) -> tuple[Tensor, Tensor]:
        return torch.softmax(draw.normal(*shape), dim), draw.normal(*shape)

    edge = partial(Case, check="edge cases")
    yield Case("one row", pair(5))
    yield Case("a matrix", pair(3, 5))
    yield Case("a square matrix", pair(4, 4))
    yield Case("down the columns", pair(4, 5, dim=0), {"dim": 0})
    yield Case("batch, heads, queries, keys", pair(2, 3, 4, 5))
    yield Case("four axes, the second", pair(2, 3, 4, 5, dim=1), {"dim": 1})
    yield Case("three axes, the first from behind", pair(2, 3, 4, dim=-3), {"dim": -3})
    yield Case("a cube, the last axis but one", pair(3, 3, 3, dim=-2), {"dim": -2})
    yield Case("a batch of one", pair(1, 4, 5))
    weights, grad = pair(3, 5)
    yield Case("by name", (), {"grad_weights": grad, "weights": weights})
    yield Case("a gradient of a thousand", (weights, 1000 * grad))
    yield Case("columns stored as rows", pair(2, 4, 6), layout="transposed")
    yield Case("every second number of a row", pair(4, 6), layout="strided")
    one_hot = F.one_hot(torch.arange(4), 6).double()
    yield edge("one-hot weights", (one_hot, draw.normal(4, 6)))
    yield edge("rows of one weight", (torch.ones(3, 1, dtype=torch.float64), draw.normal(3, 1)))
    yield edge("a constant gradient, which moves nothing", (pair(3, 5)[0], torch.full((3, 5), 2.5).double()))


def _backward_naive(weights: Tensor, grad_weights: Tensor, dim: int = -1, nudge: Nudge = as_is) -> Tensor:
    return weights * (grad_weights - nudge(weights * grad_weights).sum(dim, keepdim=True))


def _gradient_sums_to_zero(answer: Callable[..., Tensor], call: Call) -> str | None:
    most = float(answer(*call.args, **call.kwargs).sum(_axis(call)).abs().max())
    if most < 1e-4:
        return None
    return f"a row of the gradient sums to {most:.3g}, not to 0: adding a constant to the scores changes nothing"


def _long_rows(draw: Draw, n: int) -> Case:
    return Case("long rows", (torch.softmax(draw.normal(2, n), -1), draw.normal(2, n)))


softmax_backward = Exam(
    TOPIC,
    "softmax_backward",
    lambda weights, grad_weights, dim=-1: torch.ops.aten._softmax_backward_data(
        grad_weights, weights, dim, weights.dtype
    ),
    _backward_naive,
    _backward_cases,
    (
        Values("values", 2),
        Values("edge cases", 0.5),
        Properties(0.25, (_gradient_sums_to_zero,)),
        Habits(0.25),
        Growth(0, "largest", 1, _long_rows, "Right, but it builds the Jacobian; O(n) memory is enough."),
    ),
    may_not_call=(SOFTMAX, AUTOGRAD),
)


@softmax_backward.variant
def weights_times_difference(weights, grad_weights, dim=-1):
    return weights * (grad_weights - (weights * grad_weights).sum(dim, keepdim=True))


@softmax_backward.variant
def two_terms(weights, grad_weights, dim=-1):
    product = weights * grad_weights
    return product - weights * product.sum(dim, keepdim=True)


@softmax_backward.variant
def with_the_jacobian(weights, grad_weights, dim=-1):
    w, g = weights.movedim(dim, -1), grad_weights.movedim(dim, -1)
    jacobian = torch.diag_embed(w) - w.unsqueeze(-1) * w.unsqueeze(-2)
    return (jacobian @ g.unsqueeze(-1)).squeeze(-1).movedim(-1, dim)


@softmax_backward.variant
def with_einsum(weights, grad_weights, dim=-1):
    w, g = weights.movedim(dim, -1), grad_weights.movedim(dim, -1)
    inner = torch.einsum("...n,...n->...", w, g)
    return (w * (g - inner[..., None])).movedim(-1, dim)


@softmax_backward.variant
def backward_row_by_row(weights, grad_weights, dim=-1):
    w, g = weights.movedim(dim, -1), grad_weights.movedim(dim, -1)
    pairs = zip(w.reshape(-1, w.shape[-1]), g.reshape(-1, g.shape[-1]), strict=True)
    return torch.stack([a * (b - a @ b) for a, b in pairs]).reshape(w.shape).movedim(-1, dim)


@softmax_backward.variant
def expectation_by_matmul(weights, grad_weights, dim=-1):
    w, g = weights.movedim(dim, -1), grad_weights.movedim(dim, -1)
    mean = (w.unsqueeze(-2) @ g.unsqueeze(-1)).squeeze(-1)
    return (w * g - w * mean).movedim(-1, dim)


@softmax_backward.misconception(
    hint="You keep the diagonal of the Jacobian only. Each score moves every weight of its row: subtract w · Σ w g.",
    symptom="The gradient looks sensible, but its rows do not sum to zero.",
)
def diagonal_only(weights, grad_weights, dim=-1):
    return weights * (1 - weights) * grad_weights


@softmax_backward.misconception(
    hint="The second term is missing: raising one score lowers the other weights. Subtract w · Σ w g.",
    symptom="A constant gradient, which should move nothing, moves every score.",
)
def without_the_sum(weights, grad_weights, dim=-1):
    return weights * grad_weights


@softmax_backward.misconception(
    hint="What is subtracted is the mean of the gradient under the weights, Σ w g; you subtract the plain sum of g.",
    symptom="Far too large: the error grows with the length of the row.",
)
def plain_sum_of_the_gradient(weights, grad_weights, dim=-1):
    return weights * (grad_weights - grad_weights.sum(dim, keepdim=True))


@softmax_backward.misconception(
    hint="The mean that is subtracted is weighted by the weights, Σ w g; you take the plain average of g.",
    symptom="Right for uniform weights only.",
)
def plain_mean_of_the_gradient(weights, grad_weights, dim=-1):
    return weights * (grad_weights - grad_weights.mean(dim, keepdim=True))


@softmax_backward.misconception(
    hint="You average w g over the row; it must be summed: the weights are already the shares.",
    symptom="The correction is n times too small.",
)
def mean_instead_of_sum(weights, grad_weights, dim=-1):
    return weights * (grad_weights - (weights * grad_weights).mean(dim, keepdim=True))


@softmax_backward.misconception(
    hint="You sum w g along the last axis whatever `dim` is.",
    symptom="Right by default, wrong with `dim=0`.",
)
def backward_always_along_the_last_axis(weights, grad_weights, dim=-1):
    return weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))


@softmax_backward.misconception(
    hint="You sum w g over the whole tensor. Every row has its own sum, along `dim`.",
    symptom="Right for one row; with more, rows leak into each other.",
)
def backward_with_one_sum(weights, grad_weights, dim=-1):
    return weights * (grad_weights - (weights * grad_weights).sum())


@softmax_backward.misconception(
    hint="The sum has lost an axis and broadcasts against the wrong one: use `keepdim=True`.",
    symptom="An error on most shapes, a silent mix-up on square ones.",
)
def backward_without_keepdim(weights, grad_weights, dim=-1):
    return weights * (grad_weights - (weights * grad_weights).sum(dim))


@softmax_backward.misconception(
    hint="The sign is turned: it is diag(w) − w wᵀ, not w wᵀ − diag(w).",
    symptom="Training climbs.",
)
def backward_with_the_sign_turned(weights, grad_weights, dim=-1):
    return weights * ((weights * grad_weights).sum(dim, keepdim=True) - grad_weights)


@softmax_backward.misconception(
    hint="Off the diagonal the Jacobian is −w_i w_j: the two terms are subtracted, not added.",
    symptom="Rows of the gradient do not sum to zero.",
)
def terms_added(weights, grad_weights, dim=-1):
    return weights * (grad_weights + (weights * grad_weights).sum(dim, keepdim=True))


@softmax_backward.misconception(
    hint="Weights minus targets is the gradient of softmax *with* cross-entropy. Here any gradient may arrive.",
    symptom="A formula remembered from classification: right only if the gradient came from that loss.",
)
def cross_entropy_shortcut(weights, grad_weights, dim=-1):
    return weights - grad_weights


@softmax_backward.misconception(
    hint="The factor w in front is missing: this is the gradient by the logarithm of the weights, not by the scores.",
    symptom="Scores with weight zero still get a gradient.",
)
def without_the_outer_weights(weights, grad_weights, dim=-1):
    return grad_weights - (weights * grad_weights).sum(dim, keepdim=True)


@softmax_backward.misconception(
    hint="The outer weights stand before the whole difference, the mean included; you multiply the gradient alone.",
    symptom="Scores of weight zero get a gradient, and the rows of it do not sum to zero.",
)
def mean_not_weighed(weights, grad_weights, dim=-1):
    return weights * grad_weights - (weights * grad_weights).sum(dim, keepdim=True)


@softmax_backward.misconception(
    hint="g − w Σ g is the way back through *log*-softmax. Through softmax the gradient is weighed first.",
    symptom="Rows sum to zero, as they should, and are wrong all the same: scores of weight zero get a gradient.",
)
def backward_of_log_softmax(weights, grad_weights, dim=-1):
    return grad_weights - weights * grad_weights.sum(dim, keepdim=True)


@softmax_backward.misconception(
    hint="What comes in are the weights, softmax's result. You take them for scores and run softmax once more.",
    symptom="Rows sum to zero, but large and small weights get gradients of about one size.",
)
def softmax_taken_once_more(weights, grad_weights, dim=-1):
    exponentials = torch.exp(weights - weights.amax(dim, keepdim=True))
    weights = exponentials / exponentials.sum(dim, keepdim=True)
    return weights * (grad_weights - (weights * grad_weights).sum(dim, keepdim=True))


@softmax_backward.misconception(
    hint="An operator that ends in `_`, or `*=`, writes into the gradient that you were given. Make a new tensor.",
    symptom="The result is right; the caller's gradient is not what it was.",
)
def backward_changes_its_input(weights, grad_weights, dim=-1):
    grad_weights -= (weights * grad_weights).sum(dim, keepdim=True)
    return weights * grad_weights


def _jacobian_cases(draw: Draw) -> Iterator[Case]:
    edge = partial(Case, check="edge cases", coarse=False)
    yield Case("one row", (draw.normal(5),))
    yield Case("a matrix", (draw.normal(16, 5),))
    yield Case("a square matrix", (draw.normal(6, 6),))
    yield Case("batch, heads, queries, keys", (draw.normal(2, 3, 8, 5),))
    yield Case("columns stored as rows", (draw.normal(2, 4, 6),), layout="transposed")
    yield Case("a long row", (draw.normal(4, 40),))
    yield Case("a batch of one", (draw.normal(1, 5),))
    yield Case("heads of one query", (draw.normal(3, 1, 5),))
    yield edge("rows of one score", (draw.normal(3, 1),))
    yield edge("equal scores", (torch.zeros(3, 4, dtype=torch.float64),))
    far = torch.tensor([[-1e4], [0.0], [1e4]], dtype=torch.float64)
    yield edge("rows around −10⁴, 0 and 10⁴", (far + draw.uniform(-1, 1, 3, 5),))
    # One score leads by so much that every weight is exactly 0 or 1: nothing cancels.
    lead = 2e3 * F.one_hot(torch.arange(4), 6).double()
    yield edge("saturated rows", (lead + draw.normal(4, 6),))


def _jacobian_of_rows(scores: Tensor) -> Tensor:
    weights = torch.softmax(scores, -1)
    return torch.diag_embed(weights) - weights.unsqueeze(-1) * weights.unsqueeze(-2)


def _jacobian_norm_naive(scores: Tensor, nudge: Nudge = as_is) -> Tensor:
    weights = naive_softmax(scores, nudge=nudge)
    square = (weights**2).sum(-1)
    return (square - 2 * (weights**3).sum(-1) + square**2).clamp(min=0).sqrt()


def _steep_rows_have_a_norm(answer: Callable[..., Tensor], call: Call) -> str | None:
    (scores,) = call.args
    lead = torch.linspace(0, 60, 400, dtype=scores.dtype, device=scores.device)
    steep = torch.stack([lead, 0 * lead, 0 * lead], -1)
    if bool(answer(steep).isfinite().all()):
        return None
    return "rows such as [20, 0, 0] give NaN: rounding makes a sum of squares negative, whose root does not exist"


def _shift_changes_no_norm(answer: Callable[..., Tensor], call: Call) -> str | None:
    (scores,) = call.args
    gap = float((answer(scores + 3.0) - answer(scores)).abs().max())
    return None if gap < 1e-4 else f"adding 3 to every score changes a norm by {gap:.3g}; it must change none"


softmax_jacobian_norm = Exam(
    TOPIC,
    "softmax_jacobian_norm",
    lambda scores: torch.linalg.matrix_norm(_jacobian_of_rows(scores)),
    _jacobian_norm_naive,
    _jacobian_cases,
    (
        Values("values", 1.25),
        Values("edge cases", 0.25),
        Properties(0.25, (_shift_changes_no_norm, _steep_rows_have_a_norm)),
        Habits(0.25),
    ),
    may_not_call=(SOFTMAX,),
)


@softmax_jacobian_norm.variant
def closed_form(scores):
    exponentials = torch.exp(scores - scores.amax(-1, keepdim=True))
    w = exponentials / exponentials.sum(-1, keepdim=True)
    square = (w**2).sum(-1)
    return (square - 2 * (w**3).sum(-1) + square**2).clamp(min=0).sqrt()


@softmax_jacobian_norm.variant
def norm_of_the_jacobian(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    return torch.linalg.matrix_norm(torch.diag_embed(w) - w[..., :, None] * w[..., None, :])


@softmax_jacobian_norm.variant
def root_of_summed_squares(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    jacobian = torch.diag_embed(w) - torch.einsum("...i,...j->...ij", w, w)
    return jacobian.square().sum((-2, -1)).sqrt()


@softmax_jacobian_norm.variant
def diagonal_and_the_rest(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    square = w.square()
    others = square * (square.sum(-1, keepdim=True) - square)
    return ((w * (1 - w)).square() + others).sum(-1).clamp(min=0).sqrt()


@softmax_jacobian_norm.variant
def column_by_column(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    total = torch.zeros_like(w[..., 0])
    for j in range(w.shape[-1]):
        column = -w * w[..., j : j + 1]
        column[..., j] += w[..., j]
        total = total + (column * column).sum(-1)
    return torch.sqrt(total)


@softmax_jacobian_norm.variant
def eye_times_weights(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    eye = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    jacobian = w.unsqueeze(-1) * (eye - w.unsqueeze(-2))
    return jacobian.flatten(-2).norm(dim=-1)


@softmax_jacobian_norm.misconception(
    hint="You take the norm of the Jacobian's diagonal. The entries beside it, −w_i w_j, count as well.",
    symptom="Too small, most of all where two weights share the row.",
)
def norm_of_the_diagonal(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    return (w * (1 - w)).square().sum(-1).sqrt()


@softmax_jacobian_norm.misconception(
    hint="The root is missing: a Frobenius norm is the root of the sum of squares.",
    symptom="All values are the squares of what they should be.",
)
def without_the_root(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    return (torch.diag_embed(w) - w[..., :, None] * w[..., None, :]).square().sum((-2, -1))


@softmax_jacobian_norm.misconception(
    hint="You take one norm over all rows. Every row of scores has a Jacobian and a norm of its own.",
    symptom="One number where `scores.shape[:-1]` are asked for.",
)
def one_norm_for_all_rows(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    return torch.linalg.norm((torch.diag_embed(w) - w[..., :, None] * w[..., None, :]).flatten())


@softmax_jacobian_norm.misconception(
    hint="Off the diagonal the Jacobian is −w_i w_j: it is diag(w) − w wᵀ, not diag(w) + w wᵀ.",
    symptom="The norm grows where it should vanish: a saturated row gives 2, not 0.",
)
def outer_product_added(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    return torch.linalg.matrix_norm(torch.diag_embed(w) + w[..., :, None] * w[..., None, :])


@softmax_jacobian_norm.misconception(
    hint="The Jacobian is made of the weights, not of the scores: softmax first.",
    symptom="The norm grows with the scores instead of dying out.",
)
def scores_taken_for_weights(scores):
    return torch.linalg.matrix_norm(torch.diag_embed(scores) - scores[..., :, None] * scores[..., None, :])


@softmax_jacobian_norm.misconception(
    hint="That is the largest singular value (the spectral norm). Frobenius: the root of the sum of all squares.",
    symptom="A little too small on every row of more than two scores.",
)
def spectral_norm(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    return torch.linalg.matrix_norm(torch.diag_embed(w) - w[..., :, None] * w[..., None, :], ord=2)


@softmax_jacobian_norm.misconception(
    hint="The norm of the weights is not the norm of their Jacobian, diag(w) − w wᵀ.",
    symptom="One where the row is saturated, although nothing moves there any more.",
)
def norm_of_the_weights(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    return w.norm(dim=-1)


@softmax_jacobian_norm.misconception(
    hint="You forgot diag(w): the outer product alone is −w wᵀ.",
    symptom="One where the row is saturated, although nothing moves there any more.",
)
def outer_product_only(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    return torch.linalg.matrix_norm(-w[..., :, None] * w[..., None, :])


@softmax_jacobian_norm.misconception(
    hint="Summing absolute values gives another norm. Frobenius: the root of the sum of squares.",
    symptom="Too large on every row.",
)
def sum_of_absolute_values(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    return (torch.diag_embed(w) - w[..., :, None] * w[..., None, :]).abs().sum((-2, -1))


@softmax_jacobian_norm.misconception(
    hint="One number is left over as an axis of length one: the shape is `scores.shape[:-1]`.",
    symptom="Right values in the shape (..., 1).",
)
def last_axis_kept(scores):
    w = torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))
    return torch.linalg.matrix_norm(torch.diag_embed(w) - w[..., :, None] * w[..., None, :]).unsqueeze(-1)


@softmax_jacobian_norm.misconception(
    hint="`torch.diag` and `torch.outer` know a single row. With axes in front: `diag_embed`, and a product by `None`.",
    symptom="Right for one row. For a matrix `diag` does the opposite and takes a diagonal out, and `outer` raises.",
)
def one_row_taken_for_granted(scores):
    exponentials = torch.exp(scores - scores.amax(-1, keepdim=True))
    weights = exponentials / exponentials.sum(-1, keepdim=True)
    return (torch.diag(weights) - torch.outer(weights, weights)).norm()


@softmax_jacobian_norm.misconception(
    hint="Rounding can make Σw² − 2Σw³ + (Σw²)² slightly negative: clamp it at zero, or sum squares that cannot be.",
    symptom="NaN now and then, on rows where one weight is nearly one.",
)
def closed_form_without_a_clamp(scores):
    exponentials = torch.exp(scores - scores.amax(-1, keepdim=True))
    w = exponentials / exponentials.sum(-1, keepdim=True)
    square = (w**2).sum(-1)
    return (square - 2 * (w**3).sum(-1) + square**2).sqrt()


@softmax_jacobian_norm.misconception(
    hint="exp overflows on large scores: shift each row by its maximum before exp.",
    symptom="NaN on rows around 10⁴.",
)
def norm_without_shift(scores):
    exponentials = torch.exp(scores)
    w = exponentials / exponentials.sum(-1, keepdim=True)
    return torch.linalg.matrix_norm(torch.diag_embed(w) - w[..., :, None] * w[..., None, :])


def _relu_cases(draw: Draw) -> Iterator[Case]:
    def scores(*shape: int) -> Tensor:
        # Two scores of a row are well above zero: near a sum of zero no formula's gradient has digits to compare.
        drawn = draw.normal(*shape)
        return torch.cat([drawn[..., :2].abs() + 0.3, drawn[..., 2:]], -1).roll(1, -1)

    edge = partial(Case, check="edge cases")
    yield Case("one row", (scores(5),), tiny=True)
    yield Case("a matrix", (scores(4, 5),), gradients=True)
    yield Case("a square matrix", (scores(4, 4),))
    yield Case("a large eps", (scores(4, 5),), {"eps": 0.5}, gradients=True)
    yield Case("batch, heads, queries, keys", (scores(2, 3, 4, 5),), gradients=True)
    yield Case("columns stored as rows", (scores(2, 4, 6),), layout="transposed")
    yield Case("every second number of a row", (scores(4, 6),), layout="strided")
    yield Case("a batch of one", (scores(1, 4, 5),))
    yield edge("no score above zero", (-draw.uniform(0.1, 2.0, 3, 5),), gradients=True)
    yield edge("positive scores that are small beside eps", (draw.uniform(1e-8, 1e-7, 3, 5),))
    yield edge("scores up to ±10⁴", (draw.uniform(-1e4, 1e4, 4, 6),), coarse=False)
    yield edge("rows of one score", (draw.uniform(0.5, 2.0, 3, 1),))


def _relu_naive(scores: Tensor, eps: float = 1e-6, nudge: Nudge = as_is) -> Tensor:
    positive = nudge(scores).clamp(min=0)
    return positive / (positive.sum(-1, keepdim=True) + eps)


def _below_zero_is_nothing(answer: Callable[..., Tensor], call: Call) -> str | None:
    weights = answer(*call.args, **call.kwargs)
    wrong = weights[call.args[0] < 0]
    return None if bool((wrong == 0).all()) else f"a negative score gets weight {float(wrong[wrong != 0][0]):.3g}"


relu_attention_weights = Exam(
    TOPIC,
    "relu_attention_weights",
    lambda scores, eps=1e-6: F.relu(scores) / (F.relu(scores).sum(-1, keepdim=True) + eps),
    _relu_naive,
    _relu_cases,
    (
        Values("values", 1),
        Values("edge cases", 0.25),
        Properties(0.25, (_below_zero_is_nothing,)),
        Habits(0.25),
        Gradients(0.25),
    ),
    may_not_call=(SOFTMAX,),
)


@relu_attention_weights.variant
def relu_then_divide(scores, eps=1e-6):
    positive = torch.relu(scores)
    return positive / (positive.sum(-1, keepdim=True) + eps)


@relu_attention_weights.variant
def clamped_at_zero(scores, eps=1e-6):
    positive = scores.clamp(min=0)
    return positive / (positive.sum(dim=-1, keepdim=True) + eps)


@relu_attention_weights.variant
def chosen_with_where(scores, eps=1e-6):
    positive = torch.where(scores > 0, scores, torch.zeros_like(scores))
    return positive / positive.sum(-1, keepdim=True).add(eps)


@relu_attention_weights.variant
def maximum_with_zero(scores, eps=1e-6):
    positive = torch.maximum(scores, torch.zeros_like(scores))
    return positive / (positive.sum(-1) + eps).unsqueeze(-1)


@relu_attention_weights.variant
def multiplied_by_its_sign(scores, eps=1e-6):
    positive = scores * (scores > 0)
    return positive * (1 / (torch.sum(positive, -1, keepdim=True) + eps))


@relu_attention_weights.variant
def half_of_score_and_size(scores, eps=1e-6):
    positive = (scores + scores.abs()) / 2
    return positive / (positive.sum(-1, keepdim=True) + eps)


@relu_attention_weights.variant
def module_and_einsum(scores, eps=1e-6):
    positive = F.relu(scores)
    return positive / (torch.einsum("...n->...", positive)[..., None] + eps)


@relu_attention_weights.misconception(
    hint="Nothing keeps the denominator from zero: a row without a positive score gives 0/0. Add eps to the sum.",
    symptom="NaN in rows where no score is above zero.",
)
def relu_without_eps(scores, eps=1e-6):
    positive = torch.relu(scores)
    return positive / positive.sum(-1, keepdim=True)


@relu_attention_weights.misconception(
    hint="You treat empty rows as a special case and leave eps out of the others. The formula adds it to every sum.",
    symptom="Right to six digits, and wrong for every eps that a caller chooses.",
)
def empty_rows_patched(scores, eps=1e-6):
    positive = torch.relu(scores)
    total = positive.sum(-1, keepdim=True)
    return torch.where(total > 0, positive / total.clamp(min=1e-30), torch.zeros_like(positive))


@relu_attention_weights.misconception(
    hint="eps is added once, to the sum; you add it to every score, so that n · eps ends up below and eps above.",
    symptom="A row without a positive score gets uniform weights instead of none.",
)
def eps_on_every_score(scores, eps=1e-6):
    positive = torch.relu(scores) + eps
    return positive / positive.sum(-1, keepdim=True)


@relu_attention_weights.misconception(
    hint="`eps` is added inside of the sum, once for every key. It belongs beside the sum, once for a row.",
    symptom="Off by a millionth times the number of keys: seen in float64, or with a large `eps`.",
)
def eps_inside_of_the_sum(scores, eps=1e-6):
    positive = torch.relu(scores)
    return positive / (positive + eps).sum(-1, keepdim=True)


@relu_attention_weights.misconception(
    hint="The formula adds eps to the sum. Taking the larger of the two is another function where the sum is small.",
    symptom="As good as right on ordinary rows; where the sum is as small as eps the weights are twice too large.",
)
def larger_of_sum_and_eps(scores, eps=1e-6):
    positive = torch.relu(scores)
    return positive / positive.sum(-1, keepdim=True).clamp(min=eps)


@relu_attention_weights.misconception(
    hint="You divide by the sum of all scores, negative ones included. Apply ReLU first, then sum.",
    symptom="Weights above one, or negative, where scores cancel.",
)
def sum_of_raw_scores(scores, eps=1e-6):
    return torch.relu(scores) / (scores.sum(-1, keepdim=True) + eps)


@relu_attention_weights.misconception(
    hint="ReLU comes first: after dividing by a negative sum, it keeps exactly the wrong scores.",
    symptom="Where a row's sum is negative, negative scores get the weight.",
)
def relu_after_dividing(scores, eps=1e-6):
    return torch.relu(scores / (scores.sum(-1, keepdim=True) + eps))


@relu_attention_weights.misconception(
    hint="Absolute values turn a strong no into a strong yes. ReLU sets negative scores to zero.",
    symptom="The most negative score gets the largest weight.",
)
def absolute_values(scores, eps=1e-6):
    size = scores.abs()
    return size / (size.sum(-1, keepdim=True) + eps)


@relu_attention_weights.misconception(
    hint="You divide by the number of keys. Some papers do; here the sum of the positive scores is asked for.",
    symptom="Rows do not sum to one, and shrink with the length.",
    seen="https://arxiv.org/abs/2309.08586",
)
def divided_by_the_length(scores, eps=1e-6):
    return torch.relu(scores) / (scores.shape[-1] + eps)


@relu_attention_weights.misconception(
    hint="You normalise along axis 0 (or another), not over the keys: the sum runs along the last axis.",
    symptom="Columns sum to one, rows do not.",
)
def relu_over_the_queries(scores, eps=1e-6):
    positive = torch.relu(scores)
    return positive / (positive.sum(0, keepdim=True) + eps)


@relu_attention_weights.misconception(
    hint="You divide by one sum for the whole tensor. Every row has its own.",
    symptom="Right for one row; with more, all weights together sum to one.",
)
def relu_with_one_sum(scores, eps=1e-6):
    positive = torch.relu(scores)
    return positive / (positive.sum() + eps)


@relu_attention_weights.misconception(
    hint="The sum has lost an axis and broadcasts against the wrong one: use `keepdim=True`.",
    symptom="An error on most shapes, a silent mix-up on square ones.",
)
def relu_without_keepdim(scores, eps=1e-6):
    positive = torch.relu(scores)
    return positive / (positive.sum(-1) + eps)


@relu_attention_weights.misconception(
    hint="Your eps is fixed. Use the argument: a caller may choose another.",
    symptom="Every eps gives the same weights.",
)
def eps_hard_coded(scores, eps=1e-6):
    positive = torch.relu(scores)
    return positive / (positive.sum(-1, keepdim=True) + 1e-6)


@relu_attention_weights.misconception(
    hint="A leak lets negative scores through as negative weights. Plain ReLU sets them to zero.",
    symptom="Small negative weights.",
)
def leaky_relu(scores, eps=1e-6):
    positive = F.leaky_relu(scores)
    return positive / (positive.sum(-1, keepdim=True) + eps)


@relu_attention_weights.misconception(
    hint="This is softmax again. ReLU attention has no exponential: negative scores get exactly nothing.",
    symptom="Every key gets some weight.",
)
def softmax_instead_of_relu(scores, eps=1e-6):
    exponentials = torch.exp(scores - scores.amax(-1, keepdim=True))
    return exponentials / (exponentials.sum(-1, keepdim=True) + eps)


@relu_attention_weights.misconception(
    hint="`relu_`, `inplace=True` or `clamp_` write into the caller's scores. Make a new tensor.",
    symptom="The weights are right; negative scores have become zero behind the caller's back.",
)
def relu_in_place(scores, eps=1e-6):
    with torch.no_grad():
        scores.clamp_(min=0)
    return scores / (scores.sum(-1, keepdim=True) + eps)


@relu_attention_weights.misconception(
    hint="The sum is cut from the graph: its gradient is what makes one key's gain another's loss.",
    symptom="Values are right, gradients are not.",
)
def relu_sum_detached(scores, eps=1e-6):
    positive = torch.relu(scores)
    return positive / (positive.sum(-1, keepdim=True).detach() + eps)


check_softmax = examiner(TOPIC, "check_softmax", softmax, plain=lambda x, dim=-1: torch.softmax(x, dim))


@check_softmax.variant
def compares_with_pytorch_everywhere(fn):
    shapes = [((5,), -1), ((4, 4), -1), ((3, 5), 0), ((2, 3, 4, 5), -1), ((2, 3, 4, 5), 1), ((2, 3, 4, 5), -2)]
    for shape, dim in shapes:
        ordinary = torch.randn(shape, dtype=torch.float64)
        for x in (ordinary, 1e4 * ordinary - 2e4):
            before = x.clone()
            weights = fn(x, dim=dim)
            assert torch.equal(x, before)
            torch.testing.assert_close(weights, torch.softmax(x, dim), rtol=1e-7, atol=1e-9)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 4, dtype=torch.float64)
    (mine,) = torch.autograd.grad((fn(x) * g).sum(), x)
    (theirs,) = torch.autograd.grad((torch.softmax(x, -1) * g).sum(), x)
    torch.testing.assert_close(mine, theirs)
    rows = torch.tensor([[-1e4, -1e4 + 1], [1e4, 1e4 + 1]], dtype=torch.float64)
    torch.testing.assert_close(fn(rows), torch.softmax(rows, -1), rtol=1e-7, atol=1e-9)
    assert fn(torch.full((2, 3), -math.inf)).isnan().all()


@check_softmax.variant
def gives_a_boolean(fn):
    def same(x, dim):
        before, weights = x.clone(), fn(x, dim)
        right = torch.softmax(x, dim)
        return (
            torch.equal(before, x)
            and weights.dtype == x.dtype
            and weights.shape == x.shape
            and torch.allclose(weights, right, rtol=1e-8, atol=1e-10, equal_nan=True)
        )

    try:
        x = torch.randn(2, 2, 2, 2, dtype=torch.float64)
        far = x + torch.tensor([-1e4, 1e4], dtype=torch.float64).reshape(2, 1, 1, 1)
        steep = torch.tensor([[-2e4, 0.0, 60.0, 61.0], [-3e4, -2e4, -1e4, -9e3]], dtype=torch.float64)
        empty = torch.full((2, 3), -math.inf, dtype=torch.float64)
        values = all(same(y, dim) for y in (x, far) for dim in range(-4, 4))
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(fn(leaf, -1).square().sum(), leaf)
        (right,) = torch.autograd.grad(torch.softmax(leaf, -1).square().sum(), leaf)
        return values and same(steep, -1) and same(empty, -1) and torch.allclose(grad, right, rtol=1e-8, atol=1e-10)
    except Exception:
        return False


@check_softmax.misconception(
    hint="Rows that sum to one are not yet right: argmax, a wrong base and a uniform row do that too. Compare values.",
    symptom="Argmax and powers of two pass for softmax.",
)
def only_rows_sum_to_one(fn):
    weights = fn(torch.randn(99, 5))
    assert torch.allclose(weights.sum(-1), torch.ones(99))


@check_softmax.misconception(
    hint="On one small matrix every formula works: try large scores and more axes.",
    symptom="The formula without a shift passes, and fails on the first day of training.",
)
def only_one_small_matrix(fn):
    x = torch.randn(3, 5)
    assert torch.allclose(fn(x), torch.softmax(x, -1), atol=1e-6)


@check_softmax.misconception(
    hint="You look at the shape only. Nearly every wrong softmax has the right shape.",
    symptom="Every answer that gives a tensor of the right shape passes.",
)
def only_the_shape(fn):
    assert fn(torch.randn(2, 3, 4, 5), dim=1).shape == (2, 3, 4, 5)


@check_softmax.misconception(
    hint="Right answers are rejected. They differ in their last digits: compare with a tolerance, not with `==`.",
    symptom="PyTorch itself may pass, but no other right answer does.",
)
def exact_equality(fn):
    for scale in (1.0, 30.0):
        x = scale * torch.randn(64, 65)
        assert torch.equal(fn(x), torch.softmax(x, -1))


@check_softmax.misconception(
    hint="You never pass `dim`. An answer that ignores it looks right.",
    symptom="Answers that always normalise along the last axis pass.",
)
def only_the_default_dim(fn):
    for scale in (1.0, 1e4):
        x = scale * torch.randn(2, 3, 4, 5, dtype=torch.float64)
        torch.testing.assert_close(fn(x), torch.softmax(x, -1))


@check_softmax.misconception(
    hint="Equal scores have equal weights under every mistake. Use scores that differ.",
    symptom="Argmax is caught, but a wrong base, a clamp or a missing shift are not.",
)
def only_equal_scores(fn):
    assert torch.allclose(fn(torch.zeros(3, 4)), torch.full((3, 4), 0.25))


@check_softmax.misconception(
    hint="With a tolerance this wide a wrong answer passes: compare to about 1e-5, or to 1e-7 in float64.",
    symptom="Small errors, as of an epsilon in the denominator or of another base, are forgiven.",
)
def tolerance_of_a_tenth(fn):
    far = torch.tensor([-1e4, 0.0, 1e4], dtype=torch.float64).reshape(3, 1, 1, 1)
    for dim in (-1, 0, 1):
        for shift in (0, far, far.abs(), -far.abs()):
            x = torch.randn(3, 8, 7, 5, dtype=torch.float64) + shift
            assert torch.allclose(fn(x, dim), torch.softmax(x, dim), atol=0.1)


@check_softmax.misconception(
    hint="All your scores are of ordinary size. Where do exponentials overflow, and where do they all vanish?",
    symptom="No shift, the wrong shift and a clamp pass, along every axis.",
)
def only_ordinary_scores(fn):
    for dim in (-1, 0, 1, 2):
        x = torch.randn(3, 4, 5, 6)
        torch.testing.assert_close(fn(x, dim), torch.softmax(x, dim))


@check_softmax.misconception(
    hint="Scores that saturate make every weight 0 or 1, and hide most mistakes. Use ordinary ones too.",
    symptom="Argmax and a wrong base pass.",
)
def only_saturated_scores(fn):
    x = 1e4 * torch.randn(99, 5)
    assert torch.allclose(fn(x), torch.softmax(x, -1))


@check_softmax.misconception(
    hint="Values in every case, but neither gradients nor the inputs afterwards: two whole kinds of mistake pass.",
    symptom="An answer that cuts the graph, or that writes into its input, passes.",
)
def values_only(fn):
    for dim in (-1, 0, 1, 2):
        for scale in (1.0, 1e4):
            x = scale * torch.randn(3, 4, 5, 6, dtype=torch.float64) - scale
            expected = torch.softmax(x, dim)
            torch.testing.assert_close(fn(x.clone(), dim), expected, check_dtype=False)
