"""The exams of *scaling*: how large a dot product is, and what the scores are divided by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from autograder.answer.guard import Operators
from autograder.engine.checks import Gradients, Habits, Properties, Values, counterexample
from autograder.engine.devices import EXACT
from autograder.engine.exam import Case, Draw, Exam, Nudge, Seeded, as_is
from autograder.engine.randomness import OF_GENERATORS, seeded
from autograder.engine.subject import Call

TOPIC = "scaling"

COSINE = Operators(
    "a ready-made cosine similarity", ("cosine_similarity", "CosineSimilarity", "cosine_embedding_loss", "Cosine*Loss")
)
OF_D_MODEL = "https://github.com/karpathy/ng-video-lecture/pull/6"


# score_variance is known by its law. The variance of n products q·k has the mean d(1 − 1/n) and, as the kurtosis of a
# product of normal vectors is 3 + 6/d, the relative variance (2 + 6/d)/n: the mean of several draws has the relative
# standard error √((2 + 6/d)/(draws · n)). The laws allow six of these, which a right answer exceeds twice in 10⁹ times.
# A draw is small, for a common wrong answer needs n² scores; draws are few, for each may be a call of another process.
ERRORS = 6.0
SAMPLES = 1000  # pairs in one draw
# At d = 4 one error is √(3.5/10⁶) = 0.19 %, and six are 1.1 %: 2 % too much lie five errors beyond the limit.
PRECISE = 1000
# At d = 64 one error is 0.8 % and six are 5 %, at d = 1 1.6 % and 10 %: mistakes in the law of d are larger by far.
ROUGH = 30
FAR_MORE = "from seed to seed it varies far more than it should"


def _drawn(answer: Callable[..., Tensor], call: Call, draws: int) -> Tensor:
    """What the answer gives for ``draws`` seeds, one number each: (draws,). Its shape is another law's affair."""
    return torch.stack([answer(*call.args, generator=seeded(call, more)).double().mean() for more in range(draws)])


def _mean_is_d_k(answer: Callable[..., Tensor], call: Call, draws: int) -> str | None:
    d_k, n_samples = call.args
    mean = float(_drawn(answer, call, draws).mean())
    allowed = ERRORS * math.sqrt((2 + 6 / d_k) / (draws * n_samples))
    if abs(mean / (d_k * (1 - 1 / n_samples)) - 1) <= allowed:
        return None
    # The sentence names what a known mistake would give, and no figure that changes with the seed.
    known = {"√d_k": d_k**0.5, "d_k²": d_k**2, "2 d_k": 2 * d_k, "n_samples": n_samples, "1": 1, "1/d_k": 1 / d_k}
    near = [name for name, value in known.items() if abs(mean / value - 1) < 0.1 and abs(value / d_k - 1) > 0.2]
    came = f"about {near[0]}" if near else "too much" if mean > d_k else "too little"
    return f"averaged over many seeds it gives {came}, not d_k (times 1 − 1/n_samples)"


def _averages_to_d_k(answer: Callable[..., Tensor], call: Call) -> str | None:
    return _mean_is_d_k(answer, call, ROUGH)


def _averages_to_d_k_within_a_percent(answer: Callable[..., Tensor], call: Call) -> str | None:
    return _mean_is_d_k(answer, call, PRECISE)


def _is_one_number(answer: Callable[..., Tensor], call: Call) -> str | None:
    result = answer(*call.args, generator=seeded(call))
    if result.ndim:
        return "it gives a tensor that has axes; asked for is one number, without any"
    return None if result.dtype in EXACT else "it gives half precision, which is too coarse for a measurement"


def _spread(answer: Callable[..., Tensor], call: Call, draws: int) -> float:
    """How much the results vary from seed to seed, as a share of what theory says."""
    d_k, n_samples = call.args
    return float(_drawn(answer, call, draws).var() / (d_k**2 * (2 + 6 / d_k) / n_samples))


def _normal_components(answer: Callable[..., Tensor], call: Call) -> str | None:
    spread = _spread(answer, call, 500)
    # With d_k = 1, 500 results of 200 pairs tell it to 7 %, skewed upwards. Uniform components of variance 1 have 0.28
    # of it, all queries with all keys a half.
    if spread < 0.39:
        return "from seed to seed it varies less than with normal components"
    return FAR_MORE if spread > 2 else None


def _scores_vary_together(answer: Callable[..., Tensor], call: Call) -> str | None:
    # The variance of a sum has the covariances in it: 0 on average, and most of what differs from seed to seed. With
    # d_k = 64 the sum of the components' variances has 4/66 of the spread; 100 results tell it to 14 %, and a right
    # answer falls below 0.39 once in 10⁸ times.
    # One number for all components of a query has 4 times the spread, one key for all queries twice.
    spread = _spread(answer, call, 100)
    if spread < 0.39:
        return "from seed to seed it varies far less than the variance of scores does"
    return FAR_MORE if spread > 3 else None


def _one_pair_has_no_spread(answer: Callable[..., Tensor], call: Call) -> str | None:
    d_k, _ = call.args
    result = answer(d_k, 1, generator=seeded(call))
    if bool(result.isnan().any()):
        return "one pair has the population variance 0; it gives NaN"
    return "one pair has the population variance 0; it gives another number" if float(result.abs().max()) else None


def _two_pairs_have_half(answer: Callable[..., Tensor], call: Call) -> str | None:
    d_k, _ = call.args
    share = float(_drawn(answer, call, 1000).mean()) / d_k
    # Dividing by n gives d(1 − 1/2), by n − 1 it gives d; all queries with all keys give d(1 − 1/4). With d = 8 one
    # result has the relative error √2.4, and 1,000 have 5 %: five of these are 0.12 d.
    known = {"half of d_k": 0.5, "as much as d_k": 1.0, "three quarters of d_k": 0.75}
    near = [name for name, value in known.items() if abs(share - value) < 0.12]
    if near[:1] == ["half of d_k"]:
        return None
    return f"for two pairs its mean over many seeds is to be half of d_k; it is {near[0] if near else 'another number'}"


def _variance_cases(draw: Draw) -> Iterator[Case]:
    def at(check: str, d_k: int, n_samples: int) -> Case:
        # Far apart, so that no two laws use the same seed.
        generator = Seeded(10_000 * draw.integer(0, 200_000))
        return Case(f"d_k = {d_k}", (d_k, n_samples), {"generator": generator}, check=check)

    for d_k in (1, draw.integer(10, 20), 64):
        yield at("variance", d_k, SAMPLES)
    yield at("to a percent", 4, SAMPLES)
    yield at("normal", 1, 200)
    yield at("together", 64, 64)
    yield at("few pairs", 8, 2)
    yield at("generator", 3, 5)


def _no_formula(d_k: int, n_samples: int, generator: torch.Generator | None = None) -> Tensor:
    raise AssertionError("score_variance has a law, not a value")


score_variance = Exam(
    TOPIC,
    "score_variance",
    _no_formula,
    _no_formula,
    _variance_cases,
    (
        Properties(1, (_averages_to_d_k, _is_one_number), "variance", "the variance is d_k", telling=True),
        Properties(
            0.5,
            OF_GENERATORS,
            "generator",
            "generator",
            telling=True,
        ),
        Properties(0.5, (_one_pair_has_no_spread, _two_pairs_have_half), "few pairs", "few pairs", telling=True),
        Properties(0.25, (_normal_components,), "normal", "independent, normal components", telling=True),
        Properties(0.25, (_scores_vary_together,), "together", "one variance, of the scores", telling=True),
        # The dearest comes last: by then most misconceptions are out of the running.
        Properties(0.5, (_averages_to_d_k_within_a_percent,), "to a percent", "to a percent", telling=True),
    ),
)


@score_variance.variant
def products_summed(d_k, n_samples, generator=None):
    q, k = torch.randn(2, n_samples, d_k, generator=generator)
    return (q * k).sum(dim=-1).var(correction=0)


@score_variance.variant
def mean_of_squares_less_square_of_mean(d_k, n_samples, generator=None):
    q = torch.randn(n_samples, d_k, generator=generator, dtype=torch.float64)
    k = torch.randn(n_samples, d_k, generator=generator, dtype=torch.float64)
    scores = torch.einsum("sd,sd->s", q, k)
    return ((scores**2).mean() - scores.mean() ** 2).clamp_min(0)


@score_variance.variant
def squared_distances_from_the_mean(d_k, n_samples, generator=None):
    q = torch.empty(n_samples, d_k).normal_(generator=generator)
    k = torch.empty(n_samples, d_k).normal_(generator=generator)
    scores = torch.linalg.vecdot(q, k)
    return torch.mean((scores - scores.mean()) ** 2)


@score_variance.variant
def unbiased_false(d_k, n_samples, generator=None):
    q = torch.normal(0.0, 1.0, (n_samples, 1, d_k), generator=generator)
    k = torch.normal(0.0, 1.0, (n_samples, d_k, 1), generator=generator)
    return torch.var(torch.bmm(q, k).flatten(), unbiased=False)


@score_variance.variant
def standard_deviation_squared(d_k, n_samples, generator=None):
    vectors = torch.randn(n_samples, 2, d_k, generator=generator)
    return vectors.prod(dim=1).sum(dim=1).std(correction=0).square()


@score_variance.variant
def covariance_with_itself(d_k, n_samples, generator=None):
    generator = torch.default_generator if generator is None else generator
    q = torch.randn((d_k, n_samples), generator=generator)
    k = torch.randn((d_k, n_samples), generator=generator)
    return torch.cov((q * k).sum(0), correction=0)


@score_variance.variant
def summed_one_component_at_a_time(d_k, n_samples, generator=None):
    scores = torch.zeros(n_samples)
    for _ in range(d_k):
        scores = scores + torch.randn(n_samples, generator=generator) * torch.randn(n_samples, generator=generator)
    return scores.var(correction=0)


@score_variance.misconception(
    hint="You divide the scores by √d_k and measure 1. What is asked for is the variance of the unscaled dot product.",
    symptom="The result is near 1 for every d_k: it shows the cure, not the illness.",
)
def variance_of_the_scaled_scores(d_k, n_samples, generator=None):
    q, k = torch.randn(2, n_samples, d_k, generator=generator)
    return ((q * k).sum(-1) / math.sqrt(d_k)).var(correction=0)


@score_variance.misconception(
    hint="You give the standard deviation. The variance is its square; it is the variance that grows like d_k.",
    symptom="8 for d_k = 64. Right for d_k = 1 only.",
)
def deviation_for_variance(d_k, n_samples, generator=None):
    q, k = torch.randn(2, n_samples, d_k, generator=generator)
    return (q * k).sum(-1).std(correction=0)


@score_variance.misconception(
    hint="PyTorch's `var` divides by n − 1 by default. The population variance divides by n: look at `correction`.",
    symptom="Too large by n/(n − 1): not to be seen with many pairs, twice as much with two, NaN with one.",
    seen="https://github.com/pytorch/pytorch/issues/42803",
)
def divided_by_one_less(d_k, n_samples, generator=None):
    q, k = torch.randn(2, n_samples, d_k, generator=generator)
    return (q * k).sum(-1).var()


@score_variance.misconception(
    hint="That is the mean square. The variance is taken about the mean of the samples, which is not exactly 0.",
    symptom="Nearly right for many pairs. One pair alone, which has no spread at all, gets the square of its score.",
)
def mean_not_subtracted(d_k, n_samples, generator=None):
    q, k = torch.randn(2, n_samples, d_k, generator=generator)
    return (q * k).sum(-1).square().mean()


@score_variance.misconception(
    hint="`torch.rand` draws from [0, 1): its mean is not 0, its variance not 1. Components are to be N(0, 1).",
    symptom="The result is about 0.05 d_k: it grows like d_k, with a slope that is far too small.",
)
def uniform_components(d_k, n_samples, generator=None):
    q, k = torch.rand(2, n_samples, d_k, generator=generator)
    return (q * k).sum(-1).var(correction=0)


@score_variance.misconception(
    hint="The variance is right, the spread from seed to seed is not that of N(0, 1). What do you draw q and k from?",
    symptom="Right on average. With few components the results lie closer together than they should.",
)
def uniform_of_variance_one(d_k, n_samples, generator=None):
    q, k = (2 * torch.rand(2, n_samples, d_k, generator=generator) - 1) * math.sqrt(3)
    return (q * k).sum(-1).var(correction=0)


@score_variance.misconception(
    hint="However many pairs are asked for, you draw the same number of them: use n_samples.",
    symptom="Right for large samples. One pair alone has a spread, and small samples vary too little.",
)
def always_a_thousand_pairs(d_k, n_samples, generator=None):
    q, k = torch.randn(2, 1000, d_k, generator=generator)
    return (q * k).sum(-1).var(correction=0)


@score_variance.misconception(
    hint="Each query meets itself: q·q is a sum of squares, not of independent products. Draw the keys anew.",
    symptom="The variance is 2 d_k, and the mean d_k instead of 0.",
)
def query_is_its_own_key(d_k, n_samples, generator=None):
    x = torch.randn(n_samples, d_k, generator=generator)
    return (x * x).sum(-1).var(correction=0)


@score_variance.misconception(
    hint="All your queries meet one key. Its length then decides the result: draw a key for each query.",
    symptom="The variance is the squared length of that key: d_k on average, and another one for each seed.",
)
def one_key_for_all_queries(d_k, n_samples, generator=None):
    q = torch.randn(n_samples, d_k, generator=generator)
    k = torch.randn(d_k, generator=generator)
    return (q @ k).var(correction=0)


@score_variance.misconception(
    hint="`q @ k.T` pairs every query with every key. Asked for are n_samples pairs, each of vectors of its own.",
    symptom="Memory grows with the square of n_samples; the n² scores are not independent, and two pairs become four.",
)
def all_queries_with_all_keys(d_k, n_samples, generator=None):
    q, k = torch.randn(2, n_samples, d_k, generator=generator)
    return (q @ k.T).var(correction=0)


@score_variance.misconception(
    hint="You never add up: that is the variance of the single products. A score is the sum of d_k of them.",
    symptom="1 for every d_k, and one pair alone has a spread.",
)
def products_never_summed(d_k, n_samples, generator=None):
    q, k = torch.randn(2, n_samples, d_k, generator=generator)
    return (q * k).var(correction=0)


@score_variance.misconception(
    hint="You sum over the samples. A score is a sum over the components of one pair: the axis of length d_k.",
    symptom="The result grows with n_samples, and is 0 for d_k = 1.",
)
def summed_over_the_samples(d_k, n_samples, generator=None):
    q, k = torch.randn(2, n_samples, d_k, generator=generator)
    return (q * k).sum(0).var(correction=0)


@score_variance.misconception(
    hint="You give one variance a component. Sum over the components of each pair first, then take one variance.",
    symptom="A vector instead of one number, every entry of it near 1.",
)
def one_variance_a_component(d_k, n_samples, generator=None):
    q, k = torch.randn(2, n_samples, d_k, generator=generator)
    return (q * k).var(dim=0, correction=0)


@score_variance.misconception(
    hint="You add up the components' variances. That is right on average only: in a sample the products vary together "
    "by chance. Add up first, and take the variance of the scores.",
    symptom="Right on average, and closer to d_k than any measurement of as many scores can be.",
)
def variances_of_components_summed(d_k, n_samples, generator=None):
    q, k = torch.randn(2, n_samples, d_k, generator=generator)
    return (q * k).var(dim=0, correction=0).sum()


@score_variance.misconception(
    hint="You give the theory's answer. Measure it: draw, multiply, sum, and take the variance of what came.",
    symptom="Exactly d_k, from every seed: a measurement that can't surprise.",
)
def theory_for_measurement(d_k, n_samples, generator=None):
    return torch.tensor(float(d_k))


@score_variance.misconception(
    hint="Not all of your numbers come from the generator: hand it on to every call that draws.",
    symptom="No two runs agree, whatever the seed.",
)
def generator_not_handed_on(d_k, n_samples, generator=None):
    q = torch.randn(n_samples, d_k, generator=generator)
    k = torch.randn(n_samples, d_k)
    return (q * k).sum(-1).var(correction=0)


@score_variance.misconception(
    hint="You fix a seed where no generator is given. Then nothing is random: leave PyTorch's generator alone.",
    symptom="Each call gives the same number, and everything drawn after it in the program repeats itself as well.",
)
def seeded_inside(d_k, n_samples, generator=None):
    if generator is None:
        torch.manual_seed(0)
    q, k = torch.randn(2, n_samples, d_k, generator=generator)
    return (q * k).sum(-1).var(correction=0)


@score_variance.misconception(
    hint="You copy the generator's state into PyTorch's own generator. Draw from the one you were given: `generator=`.",
    symptom="Runs repeat, but the generator never moves on, and everything else in the program is reseeded.",
)
def state_taken_from_the_generator(d_k, n_samples, generator=None):
    if generator is not None:
        torch.set_rng_state(generator.get_state())
    q, k = torch.randn(2, n_samples, d_k)
    return (q * k).sum(-1).var(correction=0)


@score_variance.misconception(
    hint="`.item()` makes a Python number of it. Give the tensor without axes that `var` gives.",
    symptom="A float: right in value, and an error for whoever calls a tensor's method on it.",
)
def python_number(d_k, n_samples, generator=None):
    q, k = torch.randn(2, n_samples, d_k, generator=generator)
    return (q * k).sum(-1).var(correction=0).item()


def rounded_root(d_k: int) -> float:
    """√d_k as `torch.tensor(d_k).sqrt()` gives it, in float32: written so everywhere, and right enough."""
    return float(torch.tensor(float(d_k)).sqrt())


def _pair_by_pair(q: Tensor, k: Tensor) -> Tensor:
    """Each score as its own sum of products (Vaswani et al. 2017, 3.2.1)."""
    return (q.unsqueeze(-2) * k.unsqueeze(-3)).sum(-1) / math.sqrt(q.shape[-1])


def _scores_naive(q: Tensor, k: Tensor, nudge: Nudge = as_is) -> Tensor:
    return nudge(q @ k.mT) / rounded_root(q.shape[-1])


def _qk(draw: Draw, lead: tuple[int, ...], n_queries: int, n_keys: int, d_k: int) -> tuple[Tensor, Tensor]:
    return draw.normal(*lead, n_queries, d_k), draw.normal(*lead, n_keys, d_k)


def _pairs(draw: Draw) -> Iterator[Case]:
    """Queries and keys of every arrangement, of ordinary size."""
    yield Case("a sentence", _qk(draw, (), 3, 5, 7), gradients=True, tiny=True)
    yield Case("queries, keys and components of one number", _qk(draw, (), 4, 4, 4))
    yield Case("as many queries as keys", _qk(draw, (), 5, 5, 3), gradients=True)
    yield Case("more queries than keys", _qk(draw, (2,), 6, 2, 5), gradients=True)
    yield Case("a batch as large as a sentence", _qk(draw, (3,), 3, 3, 3))
    yield Case("a batch of one", _qk(draw, (1,), 4, 6, 6), gradients=True)
    yield Case("batch and heads", _qk(draw, (2, 3), 4, 6, 8), gradients=True)
    yield Case("four heads of d_k = 16", _qk(draw, (2, 4), 5, 7, 16))
    yield Case("three axes in front", _qk(draw, (2, 1, 3), 2, 4, 5))
    yield Case("d_k = 64", _qk(draw, (2,), 6, 5, 64), gradients=True)
    yield Case("d_k = 128", _qk(draw, (), 3, 5, 128))
    yield Case("many keys", _qk(draw, (), 3, draw.integer(150, 250), 8))
    yield Case("columns stored as rows", _qk(draw, (2, 3), 4, 6, 5), layout="transposed", gradients=True)
    yield Case("every second number of a row", _qk(draw, (2,), 4, 6, 5), layout="strided")
    x = draw.normal(2, 5, 6)
    yield Case("queries and keys are one tensor", (x, x), gradients=True)
    edge = partial(Case, check="edge cases")
    yield edge("one query", _qk(draw, (2,), 1, 6, 5))
    yield edge("one key", _qk(draw, (2,), 4, 1, 5))
    yield edge("d_k = 1", _qk(draw, (2,), 4, 5, 1))


def _scaled_cases(draw: Draw) -> Iterator[Case]:
    yield from _pairs(draw)
    edge = partial(Case, check="edge cases")
    q, k = _qk(draw, (2,), 4, 6, 5)
    yield edge("scores up to ±10⁶", (1e3 * q, 1e3 * k), coarse=False, gradients=True)
    yield edge("scores of a thousandth", (0.03 * q, 0.03 * k))
    yield edge("a query of zeros", (q * torch.tensor([[0.0], [1.0], [1.0], [1.0]]), k), gradients=True)
    yield edge("keys far from zero", (q + 3, k + 3))


def _each_pair_alone(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k = call.args
    gap = float((answer(q[..., :1, :], k[..., :1, :]) - answer(q, k)[..., :1, :1]).abs().max())
    return None if gap < 1e-4 else f"a pair's score changes by {gap:.3g} when the other queries and keys are left out"


def _twice_as_wide(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k = call.args
    wide = answer(torch.cat([q, q], -1), torch.cat([k, k], -1))
    gap = float((wide - math.sqrt(2) * answer(q, k)).abs().max())
    return None if gap < 1e-3 else f"with every component twice a score is to grow by √2; it is off by {gap:.3g}"


def _linear_in_the_queries(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k = call.args
    gap = float((answer(-3 * q, k) + 3 * answer(q, k)).abs().max())
    return None if gap < 1e-3 else f"a query times −3 is to have scores times −3; they are off by {gap:.3g}"


scaled_dot_product_scores = Exam(
    TOPIC,
    "scaled_dot_product_scores",
    _pair_by_pair,
    _scores_naive,
    _scaled_cases,
    (
        Values("values", 1.5),
        Values("edge cases", 0.5),
        Properties(0.25, (_each_pair_alone, _twice_as_wide, _linear_in_the_queries)),
        Habits(0.25),
        Gradients(0.5),
    ),
)


@scaled_dot_product_scores.variant
def product_over_root(q, k):
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


@scaled_dot_product_scores.variant
def queries_scaled_before_the_product(q, k):
    return (q * q.shape[-1] ** -0.5) @ k.mT


@scaled_dot_product_scores.variant
def fourth_root_on_both_sides(q, k):
    root = q.shape[-1] ** -0.25
    return (q * root) @ (k * root).mT


@scaled_dot_product_scores.variant
def einsum_over_root(q, k):
    return torch.einsum("...qd,...kd->...qk", q, k) / k.size(-1) ** 0.5


@scaled_dot_product_scores.variant
def root_as_a_tensor(q, k):
    root = torch.sqrt(torch.tensor(q.shape[-1], dtype=torch.float32)).to(q.device)
    return torch.matmul(q, k.transpose(-1, -2)) / root


@scaled_dot_product_scores.variant
def key_by_key(q, k):
    columns = [(q * key.unsqueeze(-2)).sum(-1) for key in k.unbind(-2)]
    return torch.stack(columns, dim=-1) / math.sqrt(q.shape[-1])


@scaled_dot_product_scores.variant
def product_of_keys_turned(q, k):
    return (k @ q.mT).mT * (1 / math.sqrt(k.shape[-1]))


@scaled_dot_product_scores.variant
def flattened_to_three_axes(q, k):
    flat = torch.bmm(q.reshape(-1, *q.shape[-2:]), k.reshape(-1, *k.shape[-2:]).transpose(1, 2))
    return (flat / math.sqrt(q.shape[-1])).reshape(*q.shape[:-1], k.shape[-2])


@scaled_dot_product_scores.misconception(
    hint="Nothing is divided: these are plain dot products, whose spread grows with the width of the vectors.",
    symptom="Weights sharpen as d_k grows, and the gradient through the softmax dies.",
)
def scores_left_unscaled(q, k):
    return q @ k.mT


@scaled_dot_product_scores.misconception(
    hint="All in all you divide by d_k: you scale twice, once q or k and then the scores, or you forget the root.",
    symptom="Weights nearly uniform for large d_k, where a layer scales q and the attention it calls scales again.",
    seen="https://github.com/huggingface/transformers/pull/38290",
)
def scores_scaled_twice(q, k):
    q = q / math.sqrt(q.shape[-1])
    return q @ k.mT / math.sqrt(q.shape[-1])


@scaled_dot_product_scores.misconception(
    hint="You take the root of d_model, heads times d_k. A dot product here has only d_k terms, those of one head.",
    symptom="Right with one head; with h heads all scores are √h times too small. It trains, which is why it stays.",
    seen=OF_D_MODEL,
)
def root_of_d_model(q, k):
    heads = q.shape[-3] if q.ndim > 3 else 1
    return q @ k.mT / math.sqrt(heads * q.shape[-1])


@scaled_dot_product_scores.misconception(
    hint="You take the root of the number of keys. A score is a sum over components: how many keys there are is no "
    "matter of its size.",
    symptom="Right while the keys are as many as their components; one more word in the text then changes every score.",
)
def root_of_the_number_of_keys(q, k):
    return q @ k.mT / math.sqrt(k.shape[-2])


@scaled_dot_product_scores.misconception(
    hint="You take the root of the number of queries. A score is a sum over components, and knows no other query.",
    symptom="A query's scores depend on how many others are asked in the same call.",
)
def root_of_the_number_of_queries(q, k):
    return q @ k.mT / math.sqrt(q.shape[-2])


@scaled_dot_product_scores.misconception(
    hint="`shape[1]` is the width of a single sentence only. Behind a batch it counts queries, behind heads the heads.",
    symptom="Right without a batch. With one the scores change with the length of the text.",
)
def root_of_axis_one(q, k):
    return q @ k.mT / math.sqrt(q.shape[1])


@scaled_dot_product_scores.misconception(
    hint="`** 1 / 2` is a first power, then a half: powers are taken before quotients. Write `** 0.5`, or `math.sqrt`.",
    symptom="Scores far too small: divided by 2 d_k, not by the root of d_k.",
)
def root_without_parentheses(q, k):
    return q @ k.mT / q.shape[-1] ** 1 / 2


@scaled_dot_product_scores.misconception(
    hint="You take the root of the number of heads. It is the width of a head, d_k, that the spread grows with.",
    symptom="Models with many narrow heads come out about right, others do not.",
    seen="https://github.com/tenstorrent/tt-metal/pull/56789",
)
def root_of_the_number_of_heads(q, k):
    return q @ k.mT / math.sqrt(q.shape[-3] if q.ndim > 2 else 1)


@scaled_dot_product_scores.misconception(
    hint="`transpose(1, 2)` counts axes from the front, where a batch and heads may stand or not. Count from behind.",
    symptom="Right with one axis of batch; an error without, and with heads, or heads in the place of keys.",
)
def axes_turned_by_number(q, k):
    return q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])


@scaled_dot_product_scores.misconception(
    hint="A fixed 8 is the root of 64, and right for that width only. Take the width from the queries.",
    symptom="Right for d_k = 64, the width in the paper and in most examples.",
    seen="https://github.com/lucidrains/muse-maskgit-pytorch/issues/40",
)
def always_divided_by_eight(q, k):
    return q @ k.mT / 8


@scaled_dot_product_scores.misconception(
    hint="You multiply by the root, or divide by its inverse. Wider vectors have larger products: make them smaller.",
    symptom="The spread is d_k instead of 1, worse than without any scale: weights are one-hot from the start.",
    seen="https://github.com/esceptico/perceiver-io/issues/9",
)
def divided_by_the_inverse_root(q, k):
    scale = q.shape[-1] ** -0.5
    return q @ k.mT / scale


@scaled_dot_product_scores.misconception(
    hint="`d ** 1/2` is `(d ** 1) / 2`: powers bind tighter than division.",
    symptom="Right for d_k = 4, where half and root are the same, and too small for everything wider.",
)
def half_for_root(q, k):
    return q @ k.mT / (q.shape[-1] ** 1 / 2)


@scaled_dot_product_scores.misconception(
    hint="You cut the root down to a whole number. Most widths have roots between.",
    symptom="Right for 4, 16 and 64; for other widths off by up to a third.",
)
def whole_root(q, k):
    return q @ k.mT / math.isqrt(q.shape[-1])


@scaled_dot_product_scores.misconception(
    hint="You divide by the fourth root on one side only: half of the scale has got lost.",
    symptom="Scores are too large by the fourth root of d_k, about 2.8 for d_k = 64.",
)
def half_of_the_scale(q, k):
    return (q * q.shape[-1] ** -0.25) @ k.mT


@scaled_dot_product_scores.misconception(
    hint="You divide by the spread that these scores happen to have. The scale is a constant that the width decides.",
    symptom="The spread is 1 whatever is learned, and each score depends on all the others.",
)
def divided_by_the_measured_spread(q, k):
    scores = q @ k.mT
    return scores / scores.std()


@scaled_dot_product_scores.misconception(
    hint="Vectors of length one first, then the root: that is a cosine, and scaled as well. Here lengths count.",
    symptom="Scores lie between −1/√d_k and 1/√d_k, and a longer query is no surer.",
)
def cosine_over_root(q, k):
    return F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT / math.sqrt(q.shape[-1])


@scaled_dot_product_scores.misconception(
    hint="You go on to the weights. The scores are asked for, before any softmax.",
    symptom="Numbers between 0 and 1, and rows that sum to one.",
)
def weights_for_scores(q, k):
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)


@scaled_dot_product_scores.misconception(
    hint="Yours has a row for each key. A row belongs to a query, its columns to the keys.",
    symptom="The transpose: silently wrong where there are as many queries as keys.",
)
def rows_are_keys(q, k):
    return k @ q.mT / math.sqrt(q.shape[-1])


@scaled_dot_product_scores.misconception(
    hint="You turn all axes of k round, the batch's too. Swap the last two only.",
    symptom="Right on one sentence; with a batch an error, or sentences that meet each other's keys.",
)
def batch_turned_as_well(q, k):
    return q @ k.permute(*reversed(range(k.ndim))) / math.sqrt(q.shape[-1])


@scaled_dot_product_scores.misconception(
    hint="You score position i against position i only. Each query meets every key: one number for each pair.",
    symptom="One score a position instead of a row of them, and an error where queries and keys differ in number.",
)
def same_position_only(q, k):
    return (q * k).sum(-1) / math.sqrt(q.shape[-1])


@scaled_dot_product_scores.misconception(
    hint="`/=` and operators that end in `_` write into the caller's queries. Make a new tensor.",
    symptom="Right once. Called again with the same queries, the scores have shrunk by √d_k.",
)
def scales_the_callers_queries(q, k):
    with torch.no_grad():
        q /= math.sqrt(q.shape[-1])
    return q @ k.mT


@scaled_dot_product_scores.misconception(
    hint="The scores leave the graph (`detach`, `.data`, `no_grad`): right values, but nothing learns from them.",
    symptom="Values learn, queries and keys never do, without an error.",
)
def scores_cut_from_the_graph(q, k):
    return (q.detach() @ k.detach().mT) / math.sqrt(q.shape[-1])


@scaled_dot_product_scores.misconception(
    hint="You compute in float32 whatever comes in. The result has the input's dtype, and float64 keeps its digits.",
    symptom="A float64 model meets a float32 tensor: an error at the next product.",
)
def scores_in_float32(q, k):
    return q.float() @ k.float().mT / math.sqrt(q.shape[-1])


@scaled_dot_product_scores.misconception(
    hint="You limit the scores to keep them from overflowing. Scaling changes their spread, and cuts none off.",
    symptom="Right for ordinary scores. All scores beyond the limit become equal, and get no gradient.",
)
def scores_cut_off(q, k):
    return (q @ k.mT / math.sqrt(q.shape[-1])).clamp(-50, 50)


def _cosine_of_pairs(q: Tensor, k: Tensor, scale: float = 1.0, eps: float = 1e-8) -> Tensor:
    """Each cosine as its own sum of products of unit vectors.

    F.cosine_similarity has the same values, but it clamps norms outside of the graph: for a vector shorter than eps its
    gradient is not that of its value, and gradcheck rejects it.
    """
    units = [x / x.norm(dim=-1, keepdim=True).clamp_min(eps) for x in (q, k)]
    cosines: Tensor = (units[0].unsqueeze(-2) * units[1].unsqueeze(-3)).sum(-1)
    return scale * cosines


def _cosine_naive(q: Tensor, k: Tensor, scale: float = 1.0, eps: float = 1e-8, nudge: Nudge = as_is) -> Tensor:
    lengths = [nudge(x.norm(dim=-1, keepdim=True)).clamp_min(eps) for x in (q, k)]
    return scale * nudge(nudge(q / lengths[0]) @ nudge(k / lengths[1]).mT)


def _cosine_cases(draw: Draw) -> Iterator[Case]:
    yield from _pairs(draw)
    q, k = _qk(draw, (2,), 4, 6, 5)
    yield Case("scale 10", (q, k), {"scale": 10.0}, gradients=True)
    yield Case("scale 0.25", (*_qk(draw, (2, 3), 4, 6, 8), 0.25))
    yield Case("long queries, short keys", (20 * q, 0.05 * k), {"scale": 3.0}, gradients=True)
    yield Case("keys far from zero", (q, k + 4), gradients=True)
    edge = partial(Case, check="edge cases")
    # In half precision an eps of 1e-8 is zero itself: no answer could keep what is asked.
    exactly = partial(edge, coarse=False, gradients=True)
    some = torch.tensor([[0.0], [1.0], [1.0], [0.0]], dtype=torch.float64)
    yield exactly("queries of zeros", (q * some, k), {"scale": 2.0})
    yield exactly("keys of zeros", (q[:, :3], k[:, :4] * some))
    yield exactly("zeros meet zeros", (q * some, k[:, :4] * some))
    yield edge("vectors of length 10⁴", (1e4 * q, 1e4 * k), coarse=False)
    # Norms either well above eps or well below it: at eps itself the gradient jumps.
    length = torch.tensor([[0.1], [3.0], [0.4], [5.0]], dtype=torch.float64)
    short, long = length * F.normalize(q, dim=-1), 4 * F.normalize(k, dim=-1)
    yield exactly("queries about as long as the eps of the default", (1e-8 * short, 1e-6 * k))
    yield exactly("queries shorter than eps", (short, long), {"eps": 1.0})
    yield exactly("keys shorter than eps", (long, short), {"eps": 1.0})
    yield exactly("both shorter than eps", (short, 0.3 * F.normalize(k, dim=-1)), {"scale": 4.0, "eps": 1.0})
    yield exactly("opposite and equal vectors", (q, torch.cat([3 * q, -q], -2)))
    yield edge("a scale below zero", (q, k), {"scale": -2.0}, gradients=True)
    yield edge("a scale of zero", (q, k), {"scale": 0.0})


def _lengths_play_no_role(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k = call.args[:2]
    rest, kwargs = call.args[2:], call.kwargs
    gap = float((answer(3 * q, k / 2, *rest, **kwargs) - answer(q, k, *rest, **kwargs)).abs().max())
    return None if gap < 1e-4 else f"longer queries and shorter keys change a score by {gap:.3g}; only angles may count"


def _between_minus_scale_and_scale(answer: Callable[..., Tensor], call: Call) -> str | None:
    scale = call.kwargs.get("scale", call.args[2] if len(call.args) > 2 else 1.0)
    most = float(answer(*call.args, **call.kwargs).abs().max())
    limit = abs(scale) * (1 + 1e-4)
    return None if most <= limit else f"a score is {most:.6g} in size; with scale {scale:g} none is larger"


def _each_vector_with_itself(answer: Callable[..., Tensor], call: Call) -> str | None:
    q = call.args[0]
    diagonal = answer(q, q).diagonal(dim1=-2, dim2=-1)
    gap = float((diagonal - 1).abs().max())
    return None if gap < 1e-4 else f"a vector has the cosine 1 with itself; yours is off by {gap:.3g}"


cosine_scores = Exam(
    TOPIC,
    "cosine_scores",
    _cosine_of_pairs,
    _cosine_naive,
    _cosine_cases,
    (
        Values("values", 1.25),
        Values("edge cases", 1),
        Properties(0.5, (_lengths_play_no_role, _between_minus_scale_and_scale, _each_vector_with_itself)),
        Habits(0.25),
        Gradients(1),
    ),
    may_not_call=(COSINE,),
)


@cosine_scores.variant
def by_normalize(q, k, scale=1.0, eps=1e-8):
    return scale * (F.normalize(q, dim=-1, eps=eps) @ F.normalize(k, dim=-1, eps=eps).mT)


@cosine_scores.variant
def norms_clamped(q, k, scale=1.0, eps=1e-8):
    q = q / torch.linalg.vector_norm(q, dim=-1, keepdim=True).clamp(min=eps)
    k = k / torch.linalg.vector_norm(k, dim=-1, keepdim=True).clamp(min=eps)
    return q @ k.transpose(-2, -1) * scale


@cosine_scores.variant
def product_divided_afterwards(q, k, scale=1.0, eps=1e-8):
    q_norm = q.norm(dim=-1, keepdim=True).clamp_min(eps)
    k_norm = k.norm(dim=-1, keepdim=True).clamp_min(eps)
    return scale * (q @ k.mT / q_norm / k_norm.mT)


@cosine_scores.variant
def divided_by_the_outer_product(q, k, scale=1.0, eps=1e-8):
    q_norm = q.norm(dim=-1).clamp_min(eps)
    k_norm = k.norm(dim=-1).clamp_min(eps)
    return scale * torch.einsum("...qd,...kd->...qk", q, k) / (q_norm[..., :, None] * k_norm[..., None, :])


@cosine_scores.variant
def clamped_under_the_root(q, k, scale=1.0, eps=1e-8):
    q = q * q.square().sum(-1, keepdim=True).clamp_min(eps**2).rsqrt()
    k = k * k.square().sum(-1, keepdim=True).clamp_min(eps**2).rsqrt()
    return (scale * q) @ k.mT


@cosine_scores.variant
def pair_by_pair_broadcast(q, k, scale=1.0, eps=1e-8):
    q_hat = q / torch.clamp(q.norm(dim=-1, keepdim=True), min=eps)
    k_hat = k / torch.clamp(k.norm(dim=-1, keepdim=True), min=eps)
    return (q_hat.unsqueeze(-2) * k_hat.unsqueeze(-3)).sum(-1) * scale


@cosine_scores.variant
def scale_on_the_keys(q, k, scale=1.0, eps=1e-8):
    def unit(x):
        length = x.norm(p=2, dim=-1, keepdim=True)
        return torch.where(length < eps, x / eps, x / length.clamp_min(eps))

    return unit(q) @ (unit(k) * scale).mT


@cosine_scores.misconception(
    hint="Cosines are scaled already, and you divide by √d_k as well. What is the spread of a cosine when d_k grows?",
    symptom="All scores lie between −1/√d_k and 1/√d_k: weights are uniform, whatever is learned.",
    seen="https://github.com/lucidrains/x-transformers/issues/190",
)
def cosine_scaled_twice(q, k, scale=1.0, eps=1e-8):
    cosines = F.normalize(q, dim=-1, eps=eps) @ F.normalize(k, dim=-1, eps=eps).mT
    return scale * cosines / math.sqrt(q.shape[-1])


@cosine_scores.misconception(
    hint="Only the queries have length one. The keys' lengths still count: both sides are divided.",
    symptom="A long key wins over a better aligned one.",
)
def keys_keep_their_length(q, k, scale=1.0, eps=1e-8):
    return scale * (F.normalize(q, dim=-1, eps=eps) @ k.mT)


@cosine_scores.misconception(
    hint="Only the keys have length one. The queries' lengths still count: both sides are divided.",
    symptom="A long query is surer than a short one, which is what cosines are to prevent.",
)
def queries_keep_their_length(q, k, scale=1.0, eps=1e-8):
    return scale * (q @ F.normalize(k, dim=-1, eps=eps).mT)


@cosine_scores.misconception(
    hint="Your norm runs along the positions, not along the components of one vector.",
    symptom="Columns have length one instead of rows, and a score depends on all the other words.",
)
def normalised_along_the_positions(q, k, scale=1.0, eps=1e-8):
    return scale * (F.normalize(q, dim=-2, eps=eps) @ F.normalize(k, dim=-2, eps=eps).mT)


@cosine_scores.misconception(
    hint="`F.normalize` runs along axis 1 unless told otherwise. On (batch, length, d_k) that is the positions.",
    symptom="Right on one matrix; with a batch the wrong axis has length one.",
)
def default_axis_of_normalize(q, k, scale=1.0, eps=1e-8):
    return scale * (F.normalize(q, eps=eps) @ F.normalize(k, eps=eps).mT)


@cosine_scores.misconception(
    hint="You divide by one norm for the whole tensor. Each vector has its own.",
    symptom="Scores are far below one, and shrink with every word that is added.",
)
def one_norm_for_all(q, k, scale=1.0, eps=1e-8):
    return scale * (q / q.norm().clamp_min(eps)) @ (k / k.norm().clamp_min(eps)).mT


@cosine_scores.misconception(
    hint="You divide by the sum of the magnitudes. The length of a vector is the root of the sum of its squares.",
    symptom="A vector's score with itself is below one, the more so the more components it has.",
)
def sum_of_magnitudes_for_length(q, k, scale=1.0, eps=1e-8):
    return scale * (F.normalize(q, p=1, dim=-1, eps=eps) @ F.normalize(k, p=1, dim=-1, eps=eps).mT)


@cosine_scores.misconception(
    hint="You divide by the squared lengths: the root is missing.",
    symptom="Long vectors get tiny scores, short ones huge scores: lengths count the wrong way round.",
)
def root_of_the_square_missing(q, k, scale=1.0, eps=1e-8):
    q = q / q.square().sum(-1, keepdim=True).clamp_min(eps)
    k = k / k.square().sum(-1, keepdim=True).clamp_min(eps)
    return scale * (q @ k.mT)


@cosine_scores.misconception(
    hint="You divide by the root of the mean square, as RMSNorm does: your vectors have length √d_k, not one.",
    symptom="Scores are d_k times too large: a vector scores d_k with itself.",
)
def root_mean_square_for_length(q, k, scale=1.0, eps=1e-8):
    q = q / (q.norm(dim=-1, keepdim=True).clamp_min(eps) / math.sqrt(q.shape[-1]))
    k = k / (k.norm(dim=-1, keepdim=True).clamp_min(eps) / math.sqrt(k.shape[-1]))
    return scale * (q @ k.mT)


@cosine_scores.misconception(
    hint="You subtract each vector's mean first. That gives a correlation; a cosine takes the vectors as they are.",
    symptom="Two vectors that point the same way along (1, 1, …) score nothing.",
)
def centred_first(q, k, scale=1.0, eps=1e-8):
    q = F.normalize(q - q.mean(-1, keepdim=True), dim=-1, eps=eps)
    k = F.normalize(k - k.mean(-1, keepdim=True), dim=-1, eps=eps)
    return scale * (q @ k.mT)


@cosine_scores.misconception(
    hint="A vector of zeros has the norm 0, and 0/0 is NaN. That is what `eps` is for.",
    symptom="One padded word of zeros, and its row, its column and soon the whole model are NaN.",
)
def zero_by_zero(q, k, scale=1.0, eps=1e-8):
    q = q / q.norm(dim=-1, keepdim=True)
    k = k / k.norm(dim=-1, keepdim=True)
    return scale * (q @ k.mT)


@cosine_scores.misconception(
    hint="`torch.where` hides the NaN from the score, not from the gradient, for 0 times NaN is NaN.",
    symptom="All scores are finite. The first zero vector turns the gradients to NaN, and the weights with them.",
)
def zero_hidden_by_where(q, k, scale=1.0, eps=1e-8):
    def unit(x):
        norm = x.norm(dim=-1, keepdim=True)
        return torch.where(norm > eps, x / norm, torch.zeros_like(x))

    return scale * unit(q) @ unit(k).mT


@cosine_scores.misconception(
    hint="The root has an infinite slope at 0, and 0 · ∞ is NaN: a clamp behind it saves the value, not the gradient.",
    symptom="Right values everywhere. One vector of zeros, and its gradient is NaN.",
    seen="https://github.com/keras-team/keras/issues/23075",
)
def clamped_behind_the_root(q, k, scale=1.0, eps=1e-8):
    q = q / q.square().sum(-1, keepdim=True).sqrt().clamp_min(eps)
    k = k / k.square().sum(-1, keepdim=True).sqrt().clamp_min(eps)
    return scale * (q @ k.mT)


@cosine_scores.misconception(
    hint="You add eps to every norm. It is a least value: a norm above it stays as it is.",
    symptom="No vector has quite the length one. Not to be seen for eps = 1e-8 and ordinary vectors.",
    seen="https://github.com/ReaLLMASIC/ReaLLM-Forge/pull/447",
)
def eps_added_to_the_norm(q, k, scale=1.0, eps=1e-8):
    q = q / (q.norm(dim=-1, keepdim=True) + eps)
    k = k / (k.norm(dim=-1, keepdim=True) + eps)
    return scale * (q @ k.mT)


@cosine_scores.misconception(
    hint="You add eps under the root, as layer normalisation does. Here it is a least value of the norm itself.",
    symptom="Vectors shorter than √eps = 10⁻⁴ lose their cosines, not only those below eps.",
)
def eps_added_under_the_root(q, k, scale=1.0, eps=1e-8):
    q = q / (q.square().sum(-1, keepdim=True) + eps).sqrt()
    k = k / (k.square().sum(-1, keepdim=True) + eps).sqrt()
    return scale * (q @ k.mT)


@cosine_scores.misconception(
    hint="You hold the squared norm above eps, which holds the norm above √eps. It is the norm that eps belongs to.",
    symptom="Right for eps = 1. With 1e-8 every vector shorter than 10⁻⁴ counts as shorter than it is.",
    seen="https://github.com/google-deepmind/optax/pull/1703",
)
def eps_for_the_squared_norm(q, k, scale=1.0, eps=1e-8):
    q = q / q.square().sum(-1, keepdim=True).clamp_min(eps).sqrt()
    k = k / k.square().sum(-1, keepdim=True).clamp_min(eps).sqrt()
    return scale * (q @ k.mT)


@cosine_scores.misconception(
    hint="You hold the product of the two norms above eps. Each norm has a least value of its own.",
    symptom="Right for vectors longer than eps. A short query gets a full cosine if the key is long enough.",
)
def eps_for_the_product(q, k, scale=1.0, eps=1e-8):
    norms = q.norm(dim=-1)[..., :, None] * k.norm(dim=-1)[..., None, :]
    return scale * (q @ k.mT / norms.clamp_min(eps))


@cosine_scores.misconception(
    hint="`eps` never reaches `F.normalize`, which then takes 1e-12. Hand it on.",
    symptom="Right for every vector that is not tiny.",
)
def eps_not_handed_on(q, k, scale=1.0, eps=1e-8):
    return scale * (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT)


@cosine_scores.misconception(
    hint="The scale goes onto the queries and onto the keys: their product has it squared.",
    symptom="Right for scale 1, a hundred instead of ten for scale 10.",
)
def scale_squared(q, k, scale=1.0, eps=1e-8):
    return (scale * F.normalize(q, dim=-1, eps=eps)) @ (scale * F.normalize(k, dim=-1, eps=eps)).mT


@cosine_scores.misconception(
    hint="You divide by the scale, as by a temperature. It multiplies.",
    symptom="Right for scale 1. A larger scale makes the weights softer instead of sharper.",
)
def scale_as_a_temperature(q, k, scale=1.0, eps=1e-8):
    return F.normalize(q, dim=-1, eps=eps) @ F.normalize(k, dim=-1, eps=eps).mT / scale


@cosine_scores.misconception(
    hint="`scale or 1.0` takes a scale of zero for none at all: zero counts as false. Use `scale` as it is.",
    symptom="Right for every scale but zero, where all scores are to be equal and are cosines.",
)
def zero_taken_for_no_scale(q, k, scale=1.0, eps=1e-8):
    return (scale or 1.0) * (F.normalize(q, dim=-1, eps=eps) @ F.normalize(k, dim=-1, eps=eps).mT)


@cosine_scores.misconception(
    hint="The scale is applied before the vectors are divided by their norms, which takes it out again.",
    symptom="The scale has no effect at all.",
)
def scale_normalised_away(q, k, scale=1.0, eps=1e-8):
    return F.normalize(scale * q, dim=-1, eps=eps) @ F.normalize(k, dim=-1, eps=eps).mT


@cosine_scores.misconception(
    hint="That is the distance, 1 − cos: it is smallest for the best match. Scores are largest there.",
    symptom="Every query prefers the keys that point away from it.",
)
def distance_for_similarity(q, k, scale=1.0, eps=1e-8):
    return scale * (1 - F.normalize(q, dim=-1, eps=eps) @ F.normalize(k, dim=-1, eps=eps).mT)


@cosine_scores.misconception(
    hint="The norms are taken out of the graph. They depend on q and k too, and a cosine's gradient knows it.",
    symptom="Right values. The gradient has a part along the vector itself, so that training makes vectors longer "
    "for nothing.",
)
def norms_without_gradient(q, k, scale=1.0, eps=1e-8):
    q = q / q.detach().norm(dim=-1, keepdim=True).clamp_min(eps)
    k = k / k.detach().norm(dim=-1, keepdim=True).clamp_min(eps)
    return scale * (q @ k.mT)


@cosine_scores.misconception(
    hint="The norm has lost an axis and broadcasts against the wrong one: keep it, with `keepdim=True`.",
    symptom="An error on most shapes; on a square matrix each component is divided by another vector's norm.",
)
def norm_without_keepdim(q, k, scale=1.0, eps=1e-8):
    q = q / q.norm(dim=-1).clamp_min(eps)
    k = k / k.norm(dim=-1).clamp_min(eps)
    return scale * (q @ k.mT)


@cosine_scores.misconception(
    hint="You divide in place (`/=`, `div_`): the caller's queries and keys now have length one. Make new tensors.",
    symptom="Right scores, and behind the caller's back all lengths are gone.",
)
def normalises_the_callers_vectors(q, k, scale=1.0, eps=1e-8):
    with torch.no_grad():
        q /= q.norm(dim=-1, keepdim=True).clamp_min(eps)
        k /= k.norm(dim=-1, keepdim=True).clamp_min(eps)
    return scale * (q @ k.mT)


@cosine_scores.misconception(
    hint="You score position i against position i only. Each query meets every key: one cosine for each pair.",
    symptom="One score a position, and an error where queries and keys differ in number.",
)
def cosine_of_the_same_position(q, k, scale=1.0, eps=1e-8):
    return scale * (F.normalize(q, dim=-1, eps=eps) * F.normalize(k, dim=-1, eps=eps)).sum(-1)


def _projected(x: Tensor, w_q: Tensor, w_k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, of tokens and weights that fit; a message of PyTorch's would not say what does not."""
    if 0 in (*x.shape, *w_q.shape, *w_k.shape):
        raise ValueError("every size is to be at least 1")
    if x.ndim < 2 or w_q.ndim != 2 or w_k.ndim != 2:
        raise ValueError("tokens are rows, (n, d_model), and weights are matrices, (d_model, d_k)")
    if not w_q.shape[0] == w_k.shape[0] == x.shape[-1]:
        raise ValueError("the weights are to have a row for each component of a token: (d_model, d_k)")
    if w_q.shape != w_k.shape:
        raise ValueError("queries and keys are to be of one width, d_k")
    return x @ w_q, x @ w_k


def _of_d_k(x: Tensor, w_q: Tensor, w_k: Tensor) -> Tensor:
    q, k = _projected(x, w_q, w_k)
    return q @ k.mT / math.sqrt(q.shape[-1])


def _of_d_model(x: Tensor, w_q: Tensor, w_k: Tensor) -> Tensor:
    q, k = _projected(x, w_q, w_k)
    return q @ k.mT / math.sqrt(x.shape[-1])


def _why_they_agree(x: Tensor, w_q: Tensor, w_k: Tensor) -> str:
    if w_q.shape[-1] != x.shape[-1]:
        return "All scores are zero, or so small that no root shows."
    same = "d_k and d_model are one number there, and so are their roots."
    if x.ndim > 2:
        return f"{same} How many sentences there are plays no part."
    return same if x.shape[-2] == x.shape[-1] else f"{same} How many tokens there are plays no part."


find_wrong_root = counterexample(
    TOPIC, "find_wrong_root", _of_d_k, _of_d_model, because=_why_they_agree, outputs=("x", "w_q", "w_k"), most=5
)


@find_wrong_root.variant
def five_ones():
    return torch.ones(1, 1), torch.ones(1, 2), torch.ones(1, 2)


@find_wrong_root.variant
def one_token_with_a_batch_axis():
    return torch.tensor([[[2.0]]]), torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, 0.5]])


@find_wrong_root.variant
def one_weight_is_zero():
    x = torch.tensor([[1.0]], dtype=torch.float64)
    w_q = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    return x, w_q, w_q.clone()


@find_wrong_root.variant
def random_weights():
    generator = torch.Generator().manual_seed(1)
    return torch.ones(1, 1), *(1 + torch.rand(2, 1, 2, generator=generator))


@find_wrong_root.misconception(
    hint="Tokens, width and head are all of one size: the two roots are then the same number. Which two must differ?",
    symptom="The example that everybody tries, and the reason why the bug lives so long.",
)
def everything_square():
    return torch.randn(4, 4), torch.randn(4, 4), torch.randn(4, 4)


@find_wrong_root.misconception(
    hint="You change the number of tokens, and neither root asks how many there are. Change a width.",
    symptom="Another shape, and still the same scores in both programs.",
)
def only_more_tokens():
    return torch.randn(7, 4), torch.randn(4, 4), torch.randn(4, 4)


@find_wrong_root.misconception(
    hint="A batch changes no width. Both roots stay what they were.",
    symptom="More numbers, and still the same scores.",
)
def only_a_batch():
    return torch.randn(2, 3, 4), torch.randn(4, 4), torch.randn(4, 4)


@find_wrong_root.misconception(
    hint="Your sizes would do, but every score is zero: zero divided by any root is zero.",
    symptom="Queries and keys without a common component, or a zero for the tokens.",
)
def scores_of_zero():
    return torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])


@find_wrong_root.misconception(
    hint="Your weights are the other way round, as `nn.Linear` stores them. Here they are (d_model, d_k), for `x @ w`.",
    symptom="The product of tokens and weights is an error.",
)
def weights_as_linear_stores_them():
    return torch.ones(1, 1), torch.ones(2, 1), torch.ones(2, 1)


@find_wrong_root.misconception(
    hint="Queries and keys of two widths have no dot product. Which two widths are free to differ?",
    symptom="An error in both programs, where a difference between them was asked for.",
)
def queries_and_keys_of_two_widths():
    return torch.ones(1, 2), torch.ones(2, 2), torch.ones(2, 3)


@find_wrong_root.misconception(
    hint="It differs. Count the numbers: which of the sizes is in most of the three tensors, and how small can it be?",
    symptom="Two thirds of the points: a counterexample, but not a smallest one.",
)
def larger_than_it_must_be():
    return torch.ones(3, 8), torch.ones(8, 4), torch.ones(8, 4)


@find_wrong_root.misconception(
    hint="You give queries and keys. The two layers begin one step earlier: with tokens and two matrices of weights.",
    symptom="Two tensors instead of three. From queries and keys alone nobody can tell what d_model was.",
)
def queries_and_keys_for_tokens_and_weights():
    return torch.ones(1, 2), torch.ones(1, 2)
