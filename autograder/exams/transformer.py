"""The exams of *transformer*: normalise, think, join them with attention, and stack the blocks to a language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from autograder.answer.guard import Operators
from autograder.engine.checks import Gradients, Habits, Properties, Values
from autograder.engine.exam import Case, Draw, Exam, Nudge, as_is
from autograder.engine.packed_weights import packed
from autograder.engine.subject import Call
from autograder.exams.softmax import naive_softmax

TOPIC = "transformer"
State = Mapping[str, Tensor]
Init = Mapping[str, Any]
Step = Callable[[Tensor], Tensor]

NORMALISATION = Operators(
    "a ready-made normalisation",
    (
        *("*layer_norm*", "LayerNorm", "*rms_norm*", "RMSNorm", "*group_norm*", "GroupNorm"),
        *("*batch_norm*", "BatchNorm*", "*instance_norm*", "InstanceNorm*"),
    ),
)
BLOCKS = Operators(
    "a ready-made block", ("Transformer", "TransformerEncoder*", "TransformerDecoder*", "*transformer_encoder_layer*")
)

ANNOTATED = "https://github.com/harvardnlp/annotated-transformer/issues/122"
ANNOTATED_60 = "https://github.com/harvardnlp/annotated-transformer/issues/60"
CODERTIMO_30 = "https://github.com/codertimo/BERT-pytorch/issues/30"
HKPROJ_31 = "https://github.com/hkproj/pytorch-transformer/pull/31"
HKPROJ_7 = "https://github.com/hkproj/pytorch-transformer/issues/7"
HYUNWOONGKO_7 = "https://github.com/hyunwoongko/transformer/issues/7"
TPLINKER_37 = "https://github.com/131250208/TPlinker-joint-extraction/issues/37"
JADORE_17 = "https://github.com/jadore801120/attention-is-all-you-need-pytorch/pull/17"
GATR_8 = "https://github.com/Qualcomm-AI-research/geometric-algebra-transformer/pull/8"
PYTORCH_51102 = "https://github.com/pytorch/pytorch/issues/51102"
BURN_1992 = "https://github.com/tracel-ai/burn/issues/1992"
NILM_1 = "https://github.com/goruck/nilm/issues/1"
UNIVERSAL_13 = "https://github.com/andreamad8/Universal-Transformer-Pytorch/issues/13"
D2L_1564 = "https://github.com/d2l-ai/d2l-en/issues/1564"
HOWUHH_3 = "https://github.com/Howuhh/faster-trajectory-transformer/issues/3"
KURITA_1 = "https://github.com/keitakurita/Practical_NLP_in_PyTorch/issues/1"
STRUTIVE_14 = "https://github.com/strutive07/transformer-tensorflow2.0/issues/14"
FLAT_83 = "https://github.com/LeeSureman/Flat-Lattice-Transformer/issues/83"
SASREC_33 = "https://github.com/pmixer/SASRec.pytorch/issues/33"
KERAS_2144 = "https://github.com/keras-team/keras-io/pull/2144"
SAND_6 = "https://github.com/khirotaka/SAnD/issues/6"
COHEN_23 = "https://github.com/maxjcohen/transformer/issues/23"
SLP_26 = "https://github.com/georgepar/slp/pull/26"
CHOLLET_209 = "https://github.com/fchollet/deep-learning-with-python-notebooks/issues/209"
TUTORIALS_2478 = "https://github.com/pytorch/tutorials/issues/2478"
TRANSFORMERS_404 = "https://github.com/huggingface/transformers/pull/404"
ESPNET_1278 = "https://github.com/espnet/espnet/issues/1278"
ALBERT_41 = "https://github.com/brightmart/albert_zh/issues/41"
ESM_49 = "https://github.com/facebookresearch/esm/issues/49"


def _part(state: State, name: str) -> dict[str, Tensor]:
    """The parameters of one part, by their names in it."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


class _LayerNorm(nn.Module):
    """``LayerNorm`` as the notebook gives it."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))


def _norm_reference(x: Tensor, *, state: State, init: Init) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state["weight"], state["bias"], init.get("eps", 1e-5))


def _norm_naive(x: Tensor, *, state: State, init: Init, nudge: Nudge = as_is) -> Tensor:
    return _norm(x, state, nudge, init.get("eps", 1e-5))


def _norm(x: Tensor, part: State, nudge: Nudge, eps: float = 1e-5) -> Tensor:
    centred = nudge(x - nudge(x.mean(-1, keepdim=True)))
    variance = nudge(centred.square().mean(-1, keepdim=True))
    return nudge(centred / torch.sqrt(variance + eps)) * part["weight"] + part["bias"]


def _norm_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, x: Tensor, eps: float | None = None, **more: Any) -> Case:
        d_model = x.shape[-1]
        state = {"weight": draw.normal(d_model), "bias": draw.normal(d_model)}
        init = {"d_model": d_model} | ({} if eps is None else {"eps": eps})
        return Case(name, (x,), init=init, state=state, **more)

    yield case("one token", draw.normal(5), gradients=True)
    yield case("a sentence", draw.normal(3, 4), gradients=True, tiny=True)
    yield case("a batch", 3 * draw.normal(2, 5, 6) + 2, gradients=True)
    yield case("a batch of one", draw.normal(1, 4, 6), gradients=True)
    yield case("two leading axes", draw.normal(2, 3, 4, 5), gradients=True)
    yield case("tokens, sentences and widths alike", draw.normal(4, 4, 4), gradients=True)
    yield case("as many tokens as columns", draw.normal(2, 5, 5))
    yield case("another eps", 0.5 * draw.normal(2, 3, 6), 0.5, gradients=True)
    yield case("a very small eps", draw.normal(2, 3, 6), 1e-12)
    yield case("small numbers", draw.normal(2, 3, 6, scale=3e-3), gradients=True)
    yield case("a wide model", draw.normal(2, draw.integer(5, 9), 64))
    yield case("columns stored as rows", draw.normal(2, 3, 6), layout="transposed", gradients=True)
    yield case("every second number of a row", draw.normal(2, 3, 6), layout="strided")
    edge = partial(case, check="edge cases")
    yield edge("two columns", draw.normal(3, 2), gradients=True)
    yield edge("one column", draw.normal(3, 1), gradients=True)
    yield edge("numbers of 1e4", draw.normal(2, 3, 6, scale=1e4))
    # In bfloat16 these rows lose their spread before the answer sees them.
    yield edge("a mean of 1000 and a spread of 1", draw.normal(2, 4, 16) + 1000, coarse=False)
    same = draw.normal(2, 3, 1).expand(2, 3, 8).clone()
    yield edge("rows of equal numbers", same, coarse=False, gradients=True)
    padded = torch.cat([draw.normal(2, 6), torch.zeros(2, 6, dtype=torch.float64)])
    yield edge("rows of zeros", padded, gradients=True)


LayerNorm = Exam(
    TOPIC,
    "LayerNorm",
    _norm_reference,
    _norm_naive,
    _norm_cases,
    (Values("values", 1.5), Values("edge cases", 0.5), Habits(0.25), Gradients(0.75)),
    may_not_call=(NORMALISATION,),
    skeleton=_LayerNorm,
)


@LayerNorm.variant
def deviations_first(self, x):
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + self.eps) * self.weight + self.bias


@LayerNorm.variant
def biased_var(self, x):
    mean, variance = x.mean(dim=-1, keepdim=True), x.var(dim=-1, unbiased=False, keepdim=True)
    return self.weight * (x - mean) * torch.rsqrt(variance + self.eps) + self.bias


@LayerNorm.variant
def var_and_mean_at_once(self, x):
    variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    return torch.addcmul(self.bias, self.weight, (x - mean) / (variance + self.eps) ** 0.5)


@LayerNorm.variant
def with_a_centring_matrix(self, x):
    d = x.shape[-1]
    centring = torch.eye(d, dtype=x.dtype, device=x.device) - 1 / d
    # Taking a column away first costs nothing, and keeps large means out of the product.
    centred = (x - x[..., :1]) @ centring
    variance = torch.einsum("...d,...d->...", centred, centred) / d
    return centred / (variance + self.eps).sqrt()[..., None] * self.weight + self.bias


@LayerNorm.variant
def bessel_taken_back(self, x):
    d = x.shape[-1]
    if d == 1:
        return torch.zeros_like(x) * self.weight + self.bias + 0 * x
    variance = x.var(-1, keepdim=True) * (d - 1) / d
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(variance + self.eps) * self.weight + self.bias


@LayerNorm.variant
def all_sums_and_one_exponent(self, x):
    d = x.shape[-1]
    mean = x.sum(-1, keepdim=True) / d
    centred = x - mean
    scale = torch.exp(-0.5 * torch.log((centred * centred).sum(-1, keepdim=True) / d + self.eps))
    return (self.weight * scale) * centred + self.bias


@LayerNorm.variant
def tokens_one_after_another(self, x):
    rows = []
    for row in x.reshape(-1, x.shape[-1]):
        centred = row - row.mean()
        rows.append(centred / (centred.pow(2).mean() + self.eps).sqrt() * self.weight + self.bias)
    return torch.stack(rows).reshape(x.shape)


@LayerNorm.misconception(
    hint="Your variance divides by d − 1. That is the estimate for a sample; the row itself is all there is.",
    symptom="All outputs are too small by √((d − 1)/d): 13 % for 4 columns, a thousandth for 512.",
    seen=ANNOTATED,
)
def unbiased_variance(self, x):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="eps is added to the root instead of to the variance under it.",
    symptom="No difference on ordinary rows. On rows with hardly any spread the outputs are far too large.",
    seen=HKPROJ_31,
)
def eps_outside_the_root(self, x):
    mean, spread = x.mean(-1, keepdim=True), x.std(-1, keepdim=True, correction=0)
    return (x - mean) / (spread + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="`std` divides by d − 1, and eps stands beside it: two departures from the formula. What is under the root?",
    symptom="It trains as well as the real one; with weights from elsewhere it computes something else.",
    seen=CODERTIMO_30,
)
def std_plus_eps(self, x):
    return self.weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + self.eps) + self.bias


@LayerNorm.misconception(
    hint="The root is taken before eps is added. Its derivative at variance 0 is infinite, so such rows send back NaN.",
    symptom="Right values everywhere. Training on padded batches ends in NaN.",
    seen=BURN_1992,
)
def root_before_eps(self, x):
    centred = x - x.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True).sqrt()
    return centred / torch.sqrt(spread**2 + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="You take the root twice: a `std` is the root of a variance already.",
    symptom="The outputs keep a part of the input's size.",
    seen=HYUNWOONGKO_7,
)
def root_of_the_std(self, x):
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
    return centred / torch.sqrt(spread) * self.weight + self.bias


@LayerNorm.misconception(
    hint="You add the squared deviations up. The variance is their mean.",
    symptom="All outputs are too small by √d; every token has length 1 before it is stretched.",
)
def deviations_summed_not_averaged(self, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().sum(-1, keepdim=True) + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="You divide by the variance. To bring the spread to 1 divide by its root.",
    symptom="Rows twice as large come out half as large.",
)
def divided_by_the_variance(self, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="`** 2` squares what should lose its square. Which exponent is the root?",
    symptom="Outputs fall with the third power of the input's size.",
    seen=TPLINKER_37,
)
def squared_instead_of_rooted(self, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + self.eps) ** 2 * self.weight + self.bias


@LayerNorm.misconception(
    hint="Mean and variance run over the tokens, dim −2. Each token is normalised by itself, over its columns.",
    symptom="A token's output changes when another token changes: in a language model the future leaks in.",
    seen=JADORE_17,
)
def over_the_tokens(self, x):
    dim = -2 if x.ndim > 1 else -1
    centred = x - x.mean(dim, keepdim=True)
    variance = centred.square().mean(dim, keepdim=True)
    return centred / torch.sqrt(variance + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="Mean and variance run over tokens and columns together. Each token is normalised by itself.",
    symptom="Right for one token. In a language model the future leaks into the past.",
    seen=GATR_8,
)
def over_the_whole_sentence(self, x):
    dims = (-2, -1) if x.ndim > 1 else (-1,)
    centred = x - x.mean(dims, keepdim=True)
    variance = centred.square().mean(dims, keepdim=True)
    return centred / torch.sqrt(variance + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="`mean()` without an axis runs over everything, the batch as well. Each token is normalised by itself.",
    symptom="Right for one token. A sentence's output depends on the others in its batch, and on its own future.",
)
def over_everything(self, x):
    centred = x - x.mean()
    return centred / torch.sqrt(centred.square().mean() + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="Mean and variance run over the batch: that is batch normalisation. Each token is normalised by itself.",
    symptom="A sentence's output depends on the others in its batch; a batch of one gives the bias alone.",
)
def over_the_batch(self, x):
    if x.ndim == 1:
        return self.forward(x[None])[0]
    centred = x - x.mean(0, keepdim=True)
    variance = centred.square().mean(0, keepdim=True)
    return centred / torch.sqrt(variance + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="The mean is not subtracted: dividing by the root mean square is RMSNorm, a relative of this layer.",
    symptom="Right for rows of mean zero, and only for these.",
)
def root_mean_square(self, x):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="The variance is right, but you divide x itself by its root, not x minus its mean.",
    symptom="The output's variance is 1, its mean is anything.",
)
def mean_left_in(self, x):
    return x / torch.sqrt(x.var(-1, correction=0, keepdim=True) + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="`weight` and `bias` are never used.",
    symptom="Right at the start, where they are 1 and 0. They never learn, and a trained model is read wrongly.",
)
def weight_and_bias_unused(self, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + self.eps)


@LayerNorm.misconception(
    hint="The bias is left out.",
    symptom="Right at the start, where it is 0.",
)
def norm_without_its_bias(self, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + self.eps) * self.weight


@LayerNorm.misconception(
    hint="You stretch and shift first and normalise afterwards, which undoes most of it.",
    symptom="Right at the start. A weight that is twice as large everywhere changes next to nothing.",
)
def stretched_before(self, x):
    x = x * self.weight + self.bias
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + self.eps)


@LayerNorm.misconception(
    hint="You multiply by 1 + weight. The weight starts at 1, not at 0, and is the factor itself.",
    symptom="At the start every output is twice as large as it should be.",
)
def one_plus_weight(self, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight) + self.bias


@LayerNorm.misconception(
    hint="The mean of squares minus the squared mean loses the variance where the mean is large. Subtract first.",
    symptom="A few digits are missing, then all of them; the variance can even come out negative, and the root is NaN.",
    seen=PYTORCH_51102,
)
def variance_as_a_difference_of_squares(self, x):
    mean = x.mean(-1, keepdim=True)
    variance = (x * x).mean(-1, keepdim=True) - mean * mean
    return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="There is no eps: what happens to a row of equal numbers?",
    symptom="NaN for a padding token whose embedding is zero, and from there on everywhere.",
)
def no_eps(self, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True)) * self.weight + self.bias


@LayerNorm.misconception(
    hint="eps is written into the formula. Take the one that the module was built with.",
    symptom="Right with the default. Models that were trained with 1e-12 or 1e-6 come out slightly different.",
)
def eps_written_out(self, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * self.weight + self.bias


@LayerNorm.misconception(
    hint="Mean and variance leave the graph (`detach`, `no_grad`, `.data`). They depend on x; so must the gradient.",
    symptom="The values are right, the gradients are not: they push along directions that the layer takes out again.",
)
def statistics_detached(self, x):
    mean, variance = x.mean(-1, keepdim=True).detach(), x.var(-1, correction=0, keepdim=True).detach()
    return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="`x -= mean` writes into the tensor that you were handed, which the residual still needs.",
    symptom="The values are right, and the caller's x is another one afterwards.",
)
def subtracted_in_place(self, x):
    x -= x.mean(-1, keepdim=True)
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight + self.bias


@LayerNorm.misconception(
    hint="Without `keepdim=True` one mean for each token lines up with the columns, not with the tokens.",
    symptom="An error, or silently wrong where there are as many tokens as columns.",
)
def keepdim_forgotten(self, x):
    mean, variance = x.mean(-1), x.var(-1, correction=0)
    return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


class _FeedForward(nn.Module):
    """``FeedForward`` as the notebook gives it."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)


def _feed(x: Tensor, part: State, nudge: Nudge, relu: Step = F.relu) -> Tensor:
    hidden = relu(nudge(F.linear(x, part["linear1.weight"], part["linear1.bias"])))
    return nudge(F.linear(hidden, part["linear2.weight"], part["linear2.bias"]))


def _feed_naive(x: Tensor, *, state: State, init: Init, nudge: Nudge = as_is) -> Tensor:
    return _feed(x, state, nudge)


def _feed_reference(x: Tensor, *, state: State, init: Init) -> Tensor:
    """The three modules of PyTorch one after another; a sequence calls them by number."""
    layers = nn.Sequential(nn.Linear(init["d_model"], init["d_ff"]), nn.ReLU(), nn.Linear(init["d_ff"], x.shape[-1]))
    numbered = {name.replace("linear1", "0").replace("linear2", "2"): value for name, value in state.items()}
    output: Tensor = functional_call(layers, numbered, (x,))
    return output


def _feed_state(draw: Draw, d_model: int, d_ff: int) -> dict[str, Tensor]:
    return {
        "linear1.weight": draw.normal(d_ff, d_model, scale=d_model**-0.5),
        "linear1.bias": draw.normal(d_ff, scale=0.5),
        "linear2.weight": draw.normal(d_model, d_ff, scale=d_ff**-0.5),
        "linear2.bias": draw.normal(d_model, scale=0.5),
    }


def _away_from_kinks(state: Callable[[], State], run: Callable[[State, Step], Tensor]) -> State:
    """A ``state`` under which no ReLU stands within rounding of 0, where its gradient jumps and nobody is wrong."""

    def nearest(drawn: State) -> float:
        distances: list[float] = []

        def relu(hidden: Tensor) -> Tensor:
            distances.append(float(hidden.abs().min()))
            return F.relu(hidden)

        run(drawn, relu)
        return min(distances)

    drawn = state()
    while nearest(drawn) < 1e-4:
        drawn = state()
    return drawn


def _feed_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, x: Tensor, d_ff: int, **more: Any) -> Case:
        d_model = x.shape[-1]
        state = _away_from_kinks(
            lambda: _feed_state(draw, d_model, d_ff), lambda drawn, relu: _feed(x, drawn, as_is, relu)
        )
        return Case(name, (x,), init={"d_model": d_model, "d_ff": d_ff}, state=state, **more)

    yield case("one token", draw.normal(4), 7, gradients=True)
    yield case("a sentence", draw.normal(3, 4), 6, gradients=True, tiny=True)
    yield case("a batch", draw.normal(2, 5, 6), 24, gradients=True)
    yield case("a batch of one", draw.normal(1, 5, 6), 8, gradients=True)
    yield case("two leading axes", draw.normal(2, 3, 4, 5), 9, gradients=True)
    yield case("as wide inside as outside", draw.normal(2, 4, 6), 6, gradients=True)
    yield case("narrower inside", draw.normal(2, 4, 6), 3)
    yield case("one token in a sentence", draw.normal(2, 1, 6), 8)
    yield case("as many tokens as columns", draw.normal(4, 4, 4), 4)
    yield case("a wide model", draw.normal(2, draw.integer(3, 6), 32), 128)
    yield case("large numbers", draw.normal(2, 4, 6, scale=100.0), 12, gradients=True)
    yield case("columns stored as rows", draw.normal(2, 4, 6), 10, layout="transposed", gradients=True)
    yield case("every second number of a row", draw.normal(2, 4, 6), 10, layout="strided")


FeedForward = Exam(
    TOPIC,
    "FeedForward",
    _feed_reference,
    _feed_naive,
    _feed_cases,
    (Values("values", 1.25), Habits(0.25), Gradients(0.5)),
    skeleton=_FeedForward,
)


@FeedForward.variant
def wide_kink_back(self, x):
    return self.linear2(F.relu(self.linear1(x)))


@FeedForward.variant
def relu_as_a_method(self, x):
    hidden = self.linear1(x)
    return self.linear2(hidden.relu())


@FeedForward.variant
def clamped_at_zero(self, x):
    return F.linear(self.linear1(x).clamp(min=0), self.linear2.weight, self.linear2.bias)


@FeedForward.variant
def with_the_weights_themselves(self, x):
    hidden = torch.relu(x @ self.linear1.weight.T + self.linear1.bias)
    return hidden @ self.linear2.weight.T + self.linear2.bias


@FeedForward.variant
def gated_by_its_own_sign(self, x):
    hidden = self.linear1(x)
    return self.linear2(hidden * (hidden > 0))


@FeedForward.variant
def a_sum_over_neurons(self, x):
    hidden = self.linear1(x)
    output = self.linear2.bias
    for neuron in range(hidden.shape[-1]):
        output = output + torch.relu(hidden[..., neuron, None]) * self.linear2.weight[:, neuron]
    return output


@FeedForward.variant
def relu_in_place(self, x):
    # The hidden layer is nobody else's.
    return self.linear2(self.linear1(x).relu_())


@FeedForward.misconception(
    hint="There is no kink between the two linear layers. What do two linear maps in a row make?",
    symptom="It trains, but it is one linear map: the network has lost the only part in which tokens are thought over.",
    seen=D2L_1564,
)
def relu_forgotten(self, x):
    return self.linear2(self.linear1(x))


@FeedForward.misconception(
    hint="The ReLU stands behind the second layer. It belongs between the two.",
    symptom="No output is negative, so the residual stream can only grow.",
    seen=NILM_1,
)
def relu_at_the_end(self, x):
    return F.relu(self.linear2(self.linear1(x)))


@FeedForward.misconception(
    hint="There is a ReLU too many, behind the second layer.",
    symptom="No output is negative, so the residual stream can only grow.",
    seen=UNIVERSAL_13,
)
def relu_behind_both(self, x):
    return F.relu(self.linear2(F.relu(self.linear1(x))))


@FeedForward.misconception(
    hint="You cut off the input instead of the hidden layer.",
    symptom="Every negative number of a token is ignored, and inside nothing bends.",
)
def relu_of_the_input(self, x):
    return self.linear2(self.linear1(F.relu(x)))


@FeedForward.misconception(
    hint="You use GELU, as GPT-2 and BERT do. Here it is the ReLU of the original.",
    symptom="Close to right everywhere, a few hundredths off: the two differ most around −1.",
)
def gelu(self, x):
    return self.linear2(F.gelu(self.linear1(x)))


@FeedForward.misconception(
    hint="You use SiLU (x · sigmoid(x), or swish). Here it is the ReLU of the original.",
    symptom="Close to right for large numbers, off around zero.",
)
def silu(self, x):
    return self.linear2(F.silu(self.linear1(x)))


@FeedForward.misconception(
    hint="Your kink lets a little of the negative numbers pass: a leaky ReLU. Here it lets nothing pass.",
    symptom="Off by a hundredth of what should be cut off.",
)
def leaky_relu(self, x):
    return self.linear2(F.leaky_relu(self.linear1(x)))


@FeedForward.misconception(
    hint="You add the input to the output. The residual belongs to the block around this network.",
    symptom="The output is off by exactly the input; in a block x is added twice.",
)
def residual_inside(self, x):
    return x + self.linear2(F.relu(self.linear1(x)))


@FeedForward.misconception(
    hint="The biases are left out: call the modules, not their weights alone.",
    symptom="Tokens of zeros give zeros.",
)
def feed_forward_without_biases(self, x):
    return F.relu(x @ self.linear1.weight.T) @ self.linear2.weight.T


@FeedForward.misconception(
    hint="You go back with the first layer's weights transposed. The second layer has weights of its own.",
    symptom="The shapes fit, and `linear2.weight` never learns.",
)
def back_through_the_first_layer(self, x):
    return F.relu(self.linear1(x)) @ self.linear1.weight + self.linear2.bias


@FeedForward.misconception(
    hint="The ReLU is done in place on the tensor that you were handed.",
    symptom="The caller's x has lost its negative numbers, the residual's among them.",
)
def input_cut_in_place(self, x):
    return self.linear2(F.relu_(self.linear1(x.relu_())))


@FeedForward.misconception(
    hint="The hidden layer leaves the graph (`detach`, `.data`): the first layer gets no gradient.",
    symptom="The values are right, and `linear1` never learns.",
)
def hidden_layer_detached(self, x):
    return self.linear2(F.relu(self.linear1(x)).detach())


@FeedForward.misconception(
    hint="You take for granted that there is a batch and a sentence. Linear layers take any leading axes as they come.",
    symptom="Right on (batch, n, d_model), an error on one token or one sentence.",
)
def three_axes_taken_for_granted(self, x):
    batch, n, d_model = x.shape
    return self.linear2(F.relu(self.linear1(x.view(batch * n, d_model)))).view(batch, n, d_model)


class _Attention(nn.Module):
    """``MaskedMultiHeadAttention`` as the notebook gives it."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Linear(d_model, d_model) for _ in range(4))

    def forward(
        self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        key = query if key is None else key
        value = key if value is None else value
        if key.shape[-2] != value.shape[-2]:  # PyTorch's operator would read on behind the end
            raise ValueError(f"{key.shape[-2]} keys, but {value.shape[-2]} values")
        projected = (self.w_q(query), self.w_k(key), self.w_v(value))
        q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in projected)
        if mask is not None:
            mask = mask.expand(*q.shape[:-1], k.shape[-2])
        heads = F.scaled_dot_product_attention(q, k, v, mask)
        output: Tensor = self.w_o(heads.transpose(-3, -2).flatten(-2))
        return output


class _RightFeedForward(_FeedForward):
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear2(F.relu(self.linear1(x)))
        return output


class _EncoderBlock(nn.Module):
    """``EncoderBlock`` as the notebook gives it, with parts that are right."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int, norm_first: bool = True) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attention = _Attention(d_model, n_heads)
        self.feed_forward = _RightFeedForward(d_model, d_ff)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)


def _attend(query: Tensor, memory: Tensor, mask: Tensor | None, part: State, n_heads: int, nudge: Nudge) -> Tensor:
    def project(x: Tensor, name: str) -> Tensor:
        return nudge(F.linear(x, part[f"{name}.weight"], part[f"{name}.bias"]))

    q, k, v = (
        project(x, name).unflatten(-1, (n_heads, -1)).transpose(-3, -2)
        for x, name in ((query, "w_q"), (memory, "w_k"), (memory, "w_v"))
    )
    scores = nudge(q @ k.mT) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    heads = nudge(naive_softmax(scores, nudge=nudge) @ v)
    return project(heads.transpose(-3, -2).flatten(-2), "w_o")


def _block(x: Tensor, sublayers: tuple[Step, ...], state: State, norm_first: bool, nudge: Nudge) -> Tensor:
    """The formulas of both kinds of block, sublayer by sublayer."""
    for number, sublayer in enumerate(sublayers, start=1):
        norm = partial(_norm, part=_part(state, f"norm{number}"), nudge=nudge)
        x = nudge(x + sublayer(norm(x))) if norm_first else norm(nudge(x + sublayer(x)))
    return x


def _encode(
    x: Tensor, mask: Tensor | None, state: State, init: Init, nudge: Nudge = as_is, relu: Step = F.relu
) -> Tensor:
    attention, network = _part(state, "self_attention"), _part(state, "feed_forward")
    sublayers = (
        lambda h: _attend(h, h, mask, attention, init["n_heads"], nudge),
        lambda h: _feed(h, network, nudge, relu),
    )
    return _block(x, sublayers, state, init.get("norm_first", True), nudge)


def _encoder_naive(x: Tensor, mask: Tensor | None = None, *, state: State, init: Init, nudge: Nudge = as_is) -> Tensor:
    return _encode(x, mask, state, init, nudge)


def _hides(mask: Tensor | None, query: Tensor, keys: int, n_heads: int) -> Tensor | None:
    """The mask as PyTorch's layers want it: True hides, one matrix for each sentence and head."""
    if mask is None:
        return None
    *lead, n, _ = query.shape
    return ~mask.expand(*lead, n_heads, n, keys).reshape(-1, n, keys)


def _one_batch(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[-2:])


def _run_layer(kind: type[nn.Module], state: State, init: Init, given: tuple[Any, ...], like: Tensor) -> Tensor:
    """PyTorch's layer with the same weights, in train mode without dropout."""
    layer = kind(
        init["d_model"],
        init["n_heads"],
        init["d_ff"],
        dropout=0.0,
        batch_first=True,
        norm_first=init.get("norm_first", True),
        dtype=like.dtype,
    )
    with sdpa_kernel(SDPBackend.MATH):
        output: Tensor = functional_call(layer, packed(state), given)
    return output.reshape(like.shape)


def _encoder_reference(x: Tensor, mask: Tensor | None = None, *, state: State, init: Init) -> Tensor:
    hides = _hides(mask, x, x.shape[-2], init["n_heads"])
    return _run_layer(nn.TransformerEncoderLayer, state, init, (_one_batch(x), hides), x)


def _block_state(draw: Draw, d_model: int, d_ff: int, *attentions: str) -> dict[str, Tensor]:
    """Weights that differ from part to part, so that none can stand in for another."""
    state = {f"feed_forward.{name}": value for name, value in _feed_state(draw, d_model, d_ff).items()}
    for attention in attentions:
        for part in ("w_q", "w_k", "w_v", "w_o"):
            state[f"{attention}.{part}.weight"] = draw.normal(d_model, d_model, scale=1.2 * d_model**-0.5)
            state[f"{attention}.{part}.bias"] = draw.normal(d_model, scale=0.5)
    for number in range(1, len(attentions) + 2):
        state[f"norm{number}.weight"] = 1 + draw.normal(d_model, scale=0.5)
        state[f"norm{number}.bias"] = draw.normal(d_model, scale=0.5)
    return state


def _past(n: int) -> Tensor:
    return torch.tensor([[j <= i for j in range(n)] for i in range(n)])


def _some(draw: Draw, *shape: int) -> Tensor:
    """A random mask that leaves each query a key."""
    may = draw.uniform(0, 1, *shape) > 0.5
    queries, keys = shape[-2:]
    for i in range(queries):
        may[..., i, draw.integer(0, keys - 1)] = True
        # And hides one, unless there is none to spare.
        if keys > 1 and bool(may[..., i, :].all()):
            may[..., i, 0] = False
    return may


def _padding(lengths: tuple[int, ...], n_keys: int) -> Tensor:
    return torch.tensor([[[[j < length for j in range(n_keys)]]] for length in lengths])


def _encoder_cases(draw: Draw) -> Iterator[Case]:
    def case(
        name: str,
        x: Tensor,
        n_heads: int = 2,
        d_ff: int = 10,
        mask: Tensor | None = None,
        *,
        norm_first: bool | None = True,
        **more: Any,
    ) -> Case:
        check, d_model = "post-norm" if norm_first is False else "pre-norm", x.shape[-1]
        init = {"d_model": d_model, "n_heads": n_heads, "d_ff": d_ff}
        init |= {} if norm_first is None else {"norm_first": norm_first}
        state = _away_from_kinks(
            lambda: _block_state(draw, d_model, d_ff, "self_attention"),
            lambda drawn, relu: _encode(x, mask, drawn, init, relu=relu),
        )
        by_name = {} if mask is None else {"mask": mask}
        return Case(f"{name}, {check}", (x,), by_name, check, init=init, state=state, **more)

    x = partial(draw.normal, scale=1.5)
    yield case("two tokens", x(2, 3), 1, 2, gradients=True, tiny=True)
    yield case("a sentence", x(3, 4), d_ff=6, gradients=True)
    yield case("a batch", x(2, 5, 6), gradients=True)
    yield case("norm_first is not given", x(2, 4, 6), norm_first=None)
    yield case("a batch, causal", x(2, 5, 6), mask=_past(5), gradients=True)
    yield case("a batch, padding", x(3, 5, 8), 4, mask=_padding((5, 2, 3), 5), gradients=True)
    yield case("a sentence, causal", x(4, 6), 3, mask=_past(4))
    yield case("a mask for each head", x(2, 4, 6), 3, mask=_some(draw, 3, 4, 4))
    yield case("a mask for each sentence and head", x(2, 4, 6), 3, mask=_some(draw, 2, 3, 4, 4), gradients=True)
    yield case("as many sentences, heads and tokens", x(3, 3, 6), 3, 3, mask=_some(draw, 3, 3))
    yield case("a batch of one", x(1, 4, 6), mask=_past(4), gradients=True)
    yield case("two leading axes", x(2, 3, 4, 6), 3, mask=_some(draw, 2, 1, 1, 4, 4), gradients=True)
    yield case("one token", x(2, 1, 6), gradients=True)
    yield case("one head", x(2, 4, 5), 1, 7)
    yield case("a far offset", x(2, 4, 6) + 20, gradients=True)
    yield case("large numbers", x(2, 4, 6) * 30)
    yield case("a wide model", x(2, 6, 32), 4, 64, mask=_past(6))
    yield case("columns stored as rows", x(2, 5, 6), mask=_past(5), layout="transposed", gradients=True)
    yield case("every second number of a row", x(2, 5, 6), layout="strided")
    post = partial(case, norm_first=False)
    yield post("a sentence", x(3, 4), d_ff=6, gradients=True)
    yield post("a batch", x(2, 5, 6), gradients=True)
    yield post("a batch, causal", x(2, 5, 6), mask=_past(5), gradients=True)
    yield post("a batch, padding", x(3, 5, 8), 4, mask=_padding((5, 2, 3), 5))
    yield post("a mask for each sentence and head", x(2, 4, 6), 3, mask=_some(draw, 2, 3, 4, 4))
    yield post("two leading axes", x(2, 3, 4, 6), 3, mask=_some(draw, 2, 1, 1, 4, 4), gradients=True)
    yield post("one token", x(2, 1, 6), gradients=True)
    yield post("a far offset", x(2, 4, 6) + 3)
    yield post("columns stored as rows", x(2, 5, 6), mask=_past(5), layout="transposed")


EncoderBlock = Exam(
    TOPIC,
    "EncoderBlock",
    _encoder_reference,
    _encoder_naive,
    _encoder_cases,
    (Values("pre-norm", 1.25), Values("post-norm", 1.25), Habits(0.5, on="pre-norm"), Gradients(1)),
    may_not_call=(BLOCKS,),
    skeleton=_EncoderBlock,
)


@EncoderBlock.variant
def step_by_step(self, x, mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        return x + self.feed_forward(self.norm2(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm2(x + self.feed_forward(x))


@EncoderBlock.variant
def two_sublayers_in_a_loop(self, x, mask=None):
    sublayers = ((self.norm1, lambda h: self.self_attention(h, mask=mask)), (self.norm2, self.feed_forward))
    for norm, sublayer in sublayers:
        x = x + sublayer(norm(x)) if self.norm_first else norm(x + sublayer(x))
    return x


@EncoderBlock.variant
def key_and_value_spelled_out(self, x, mask=None):
    h = self.norm1(x) if self.norm_first else x
    x = x + self.self_attention(h, h, h, mask)
    if not self.norm_first:
        x = self.norm1(x)
    h = self.norm2(x) if self.norm_first else x
    x = x + self.feed_forward(h)
    return x if self.norm_first else self.norm2(x)


@EncoderBlock.variant
def with_no_op_norms(self, x, mask=None):
    before1, before2, after1, after2 = self.norm1, self.norm2, nn.Identity(), nn.Identity()
    if not self.norm_first:
        before1, before2, after1, after2 = after1, after2, before1, before2
    x = after1(self.self_attention(before1(x), mask=mask) + x)
    return after2(self.feed_forward(before2(x)) + x)


@EncoderBlock.variant
def functional_norms(self, x, mask=None):
    def norm(layer, h):
        return F.layer_norm(h, h.shape[-1:], layer.weight, layer.bias)

    if not self.norm_first:
        x = norm(self.norm1, x + self.self_attention(x, mask=mask))
        return norm(self.norm2, x + self.feed_forward(x))
    x = torch.add(x, self.self_attention(query=norm(self.norm1, x), mask=mask))
    return torch.add(x, self.feed_forward(norm(self.norm2, x)))


@EncoderBlock.variant
class WithMethodsOfItsOwn(nn.Module):
    def __init__(self, d_model, n_heads, d_ff, norm_first=True):
        super().__init__()
        self.first = norm_first
        self.norm2, self.norm1 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.feed_forward = nn.Module()
        self.feed_forward.linear1, self.feed_forward.linear2 = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)
        self.self_attention = nn.Module()
        for name in ("w_q", "w_k", "w_v", "w_o"):
            setattr(self.self_attention, name, nn.Linear(d_model, d_model))
        self.heads = n_heads

    def attend(self, x, mask):
        parts = self.self_attention
        q, k, v = (w(x).unflatten(-1, (self.heads, -1)).movedim(-2, -3) for w in (parts.w_q, parts.w_k, parts.w_v))
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return parts.w_o((scores.softmax(-1) @ v).movedim(-3, -2).flatten(-2))

    def think(self, x):
        return self.feed_forward.linear2(self.feed_forward.linear1(x).relu())

    def forward(self, x, mask=None):
        if self.first:
            x = x + self.attend(self.norm1(x), mask)
            return x + self.think(self.norm2(x))
        x = self.norm1(x + self.attend(x, mask))
        return self.norm2(x + self.think(x))


@EncoderBlock.variant
def copied_then_added_in_place(self, x, mask=None):
    if not self.norm_first:
        first = self.norm1(x + self.self_attention(x, mask=mask))
        return self.norm2(first + self.feed_forward(first))
    y = x.clone()
    y = y.add(self.self_attention(self.norm1(x), mask=mask))
    return y.add(self.feed_forward(self.norm2(y)))


@EncoderBlock.misconception(
    hint="In pre-norm you add the sublayer's result to the normalised x. What is added to is x as it came.",
    symptom="It trains, worse: each block puts a normalisation into the straight way through the network.",
    seen=HOWUHH_3,
)
def residual_from_the_normalised(self, x, mask=None):
    if self.norm_first:
        x = self.norm1(x)
        x = x + self.self_attention(x, mask=mask)
        x = self.norm2(x)
        return x + self.feed_forward(x)
    x = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm2(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="In post-norm you normalise the sublayer's result and then add. The sum is what is normalised.",
    symptom="The residual goes around the norm; the outputs' size grows from block to block.",
    seen=KURITA_1,
)
def residual_around_the_norm(self, x, mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        return x + self.feed_forward(self.norm2(x))
    x = x + self.norm1(self.self_attention(x, mask=mask))
    return x + self.norm2(self.feed_forward(x))


@EncoderBlock.misconception(
    hint="`norm_first` is never looked at: you always normalise first.",
    symptom="Right with the default. The weights of a post-norm model, such as BERT, come out as nonsense.",
)
def always_pre_norm(self, x, mask=None):
    x = x + self.self_attention(self.norm1(x), mask=mask)
    return x + self.feed_forward(self.norm2(x))


@EncoderBlock.misconception(
    hint="`norm_first` is never looked at: you always normalise the sum.",
    symptom="Right for the original paper; deep stacks then need a warm-up to train at all.",
)
def always_post_norm(self, x, mask=None):
    x = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm2(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="The two meanings of `norm_first` have changed places.",
    symptom="Everything has the right shape, and every number is another.",
)
def norm_first_turned_round(self, x, mask=None):
    if not self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        return x + self.feed_forward(self.norm2(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm2(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="Nothing is added to what went in: both residuals are missing.",
    symptom="A few blocks train; in a deep stack the gradient dies on its way down.",
    seen=FLAT_83,
)
def no_residuals(self, x, mask=None):
    if self.norm_first:
        x = self.self_attention(self.norm1(x), mask=mask)
        return self.feed_forward(self.norm2(x))
    x = self.norm1(self.self_attention(x, mask=mask))
    return self.norm2(self.feed_forward(x))


@EncoderBlock.misconception(
    hint="The second residual is missing: what goes into the feed-forward network is not added to what comes out.",
    symptom="What attention has found reaches the next block through a ReLU, or not at all.",
)
def no_residual_around_the_network(self, x, mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        return self.feed_forward(self.norm2(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm2(self.feed_forward(x))


@EncoderBlock.misconception(
    hint="The second residual starts from the block's input. It starts from what the first sublayer has made of it.",
    symptom="The attention's result is used once and then lost.",
    seen=STRUTIVE_14,
)
def second_residual_from_the_input(self, x, mask=None):
    if self.norm_first:
        h = x + self.self_attention(self.norm1(x), mask=mask)
        return x + self.feed_forward(self.norm2(h))
    h = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm2(x + self.feed_forward(h))


@EncoderBlock.misconception(
    hint="Both sublayers read the block's input, side by side. The second reads what the first has left.",
    symptom="That is another design, the parallel block of GPT-J. It trains; with PyTorch's weights it is wrong.",
)
def sublayers_side_by_side(self, x, mask=None):
    if self.norm_first:
        return x + self.self_attention(self.norm1(x), mask=mask) + self.feed_forward(self.norm2(x))
    return self.norm2(self.norm1(x + self.self_attention(x, mask=mask)) + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="In pre-norm the feed-forward network gets x as it is. `norm2` has nothing to do.",
    symptom="The network's input grows with the depth, and `norm2` gets no gradient.",
    seen=KERAS_2144,
)
def network_reads_the_raw_sum(self, x, mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        return x + self.feed_forward(x)
    x = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm2(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="In pre-norm only the queries are normalised. Keys and values come from the same normalised tokens.",
    symptom="Scores grow with the depth, for the keys keep their size.",
    seen=SASREC_33,
)
def only_the_queries_normalised(self, x, mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), x, x, mask)
        return x + self.feed_forward(self.norm2(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm2(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="`norm1` is used twice. Each sublayer has a normalisation of its own.",
    symptom="Right at the start, where all are alike; `norm2` never learns.",
)
def norm1_used_twice(self, x, mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        return x + self.feed_forward(self.norm1(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm1(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="`norm1` and `norm2` have changed places. The first belongs to the attention.",
    symptom="It trains just as well; with PyTorch's weights it computes something else.",
)
def norms_exchanged(self, x, mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm2(x), mask=mask)
        return x + self.feed_forward(self.norm1(x))
    x = self.norm2(x + self.self_attention(x, mask=mask))
    return self.norm1(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="In pre-norm you normalise again at the end. The block leaves x as it is; one last norm stands behind all.",
    symptom="A stack of such blocks has lost its straight way through.",
)
def normalised_before_and_after(self, x, mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        return self.norm2(x + self.feed_forward(self.norm2(x)))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm2(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="The feed-forward network comes first. The tokens look at each other before they think.",
    symptom="The outputs have the right shape; with PyTorch's weights they are something else.",
)
def network_before_attention(self, x, mask=None):
    if self.norm_first:
        x = x + self.feed_forward(self.norm1(x))
        return x + self.self_attention(self.norm2(x), mask=mask)
    x = self.norm1(x + self.feed_forward(x))
    return self.norm2(x + self.self_attention(x, mask=mask))


@EncoderBlock.misconception(
    hint="The mask is never handed on to the attention.",
    symptom="Padding is attended to, and a language model sees the word that it should predict.",
    seen=SAND_6,
)
def mask_not_handed_on(self, x, mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))
    x = self.norm1(x + self.self_attention(x))
    return self.norm2(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="The mask is turned round on its way. Here True means *may attend*, for the block and for its attention.",
    symptom="Only the padding is attended to, and only the future.",
)
def mask_turned_round(self, x, mask=None):
    hidden = None if mask is None else ~mask
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=hidden)
        return x + self.feed_forward(self.norm2(x))
    x = self.norm1(x + self.self_attention(x, mask=hidden))
    return self.norm2(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="The second place of the attention's arguments is the key's. Hand the mask over by its name.",
    symptom="Right without a mask; with one an error about dtypes or shapes.",
)
def mask_in_the_keys_place(self, x, mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask)
        return x + self.feed_forward(self.norm2(x))
    x = self.norm1(x + self.self_attention(x, mask))
    return self.norm2(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="Without a mask you hide the future. An encoder looks both ways unless it is told not to.",
    symptom="The first token sees itself only.",
)
def block_causal_unasked(self, x, mask=None):
    if mask is None:
        mask = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool, device=x.device).tril()
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        return x + self.feed_forward(self.norm2(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm2(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="`x += …` adds into the tensor that you were handed. `x = x + …` makes a new one.",
    symptom="The values are right, and the caller's x is another one afterwards; in training an error in `backward`.",
)
def added_in_place(self, x, mask=None):
    if self.norm_first:
        x += self.self_attention(self.norm1(x), mask=mask)
        x += self.feed_forward(self.norm2(x))
        return x
    x = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm2(x + self.feed_forward(x))


@EncoderBlock.misconception(
    hint="The normalised tokens leave the graph (`detach`): no gradient passes back through the sublayers.",
    symptom="The values are right; blocks below learn only through the residual.",
)
def normalised_tokens_detached(self, x, mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x).detach(), mask=mask)
        return x + self.feed_forward(self.norm2(x).detach())
    x = self.norm1(x + self.self_attention(x.detach(), mask=mask))
    return self.norm2(x + self.feed_forward(x.detach()))


class _DecoderBlock(nn.Module):
    """``DecoderBlock`` as the notebook gives it, with parts that are right."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int, norm_first: bool = True) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attention = _Attention(d_model, n_heads)
        self.cross_attention = _Attention(d_model, n_heads)
        self.feed_forward = _RightFeedForward(d_model, d_ff)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model) for _ in range(3))


def _decode(
    x: Tensor,
    memory: Tensor,
    mask: Tensor | None,
    memory_mask: Tensor | None,
    state: State,
    init: Init,
    nudge: Nudge = as_is,
    relu: Step = F.relu,
) -> Tensor:
    own, other, network = (_part(state, name) for name in ("self_attention", "cross_attention", "feed_forward"))
    sublayers = (
        lambda h: _attend(h, h, mask, own, init["n_heads"], nudge),
        lambda h: _attend(h, memory, memory_mask, other, init["n_heads"], nudge),
        lambda h: _feed(h, network, nudge, relu),
    )
    return _block(x, sublayers, state, init.get("norm_first", True), nudge)


def _decoder_naive(
    x: Tensor,
    memory: Tensor,
    mask: Tensor | None = None,
    memory_mask: Tensor | None = None,
    *,
    state: State,
    init: Init,
    nudge: Nudge = as_is,
) -> Tensor:
    return _decode(x, memory, mask, memory_mask, state, init, nudge)


def _decoder_reference(
    x: Tensor,
    memory: Tensor,
    mask: Tensor | None = None,
    memory_mask: Tensor | None = None,
    *,
    state: State,
    init: Init,
) -> Tensor:
    hides = _hides(mask, x, x.shape[-2], init["n_heads"])
    memory_hides = _hides(memory_mask, x, memory.shape[-2], init["n_heads"])
    given = (_one_batch(x), _one_batch(memory), hides, memory_hides)
    return _run_layer(nn.TransformerDecoderLayer, state, init, given, x)


def _decoder_cases(draw: Draw) -> Iterator[Case]:
    x = partial(draw.normal, scale=1.5)

    def case(
        name: str,
        inputs: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        *,
        n_heads: int = 2,
        d_ff: int = 10,
        norm_first: bool | None = True,
        **more: Any,
    ) -> Case:
        check, d_model = "post-norm" if norm_first is False else "pre-norm", inputs[0].shape[-1]
        init = {"d_model": d_model, "n_heads": n_heads, "d_ff": d_ff}
        init |= {} if norm_first is None else {"norm_first": norm_first}
        state = _away_from_kinks(
            lambda: _block_state(draw, d_model, d_ff, "self_attention", "cross_attention"),
            lambda drawn, relu: _decode(*inputs, mask, memory_mask, drawn, init, relu=relu),
        )
        masks = {"mask": mask, "memory_mask": memory_mask}
        given = {key: value for key, value in masks.items() if value is not None}
        return Case(f"{name}, {check}", inputs, given, check, init=init, state=state, **more)

    def several(*lead: int, n: int, keys: int, d_model: int = 6) -> tuple[Tensor, Tensor]:
        return x(*lead, n, d_model), x(*lead, keys, d_model)

    yield case("two tokens", several(n=2, keys=2, d_model=3), n_heads=1, d_ff=2, gradients=True, tiny=True)
    yield case("one sentence, norm_first is not given", several(n=2, keys=3, d_model=4), d_ff=6, norm_first=None)
    yield case("a batch", several(2, n=3, keys=5), gradients=True)
    yield case("a batch, causal", several(2, n=4, keys=5), _past(4), gradients=True)
    padding = _padding((5, 2), 5)
    yield case("a batch, padded memory", several(2, n=4, keys=5), None, padding, gradients=True)
    yield case("causal, padded memory", several(2, n=4, keys=5), _past(4), padding, n_heads=3, gradients=True)
    square = _some(draw, 4, 4)
    yield case("both masks, both lengths 4", several(2, n=4, keys=4), _past(4), square, gradients=True)
    yield case("a mask for tokens alone, both lengths 4", several(2, n=4, keys=4), square)
    yield case("masks for each head", several(2, n=3, keys=4), _some(draw, 2, 3, 3), _some(draw, 2, 2, 3, 4))
    yield case("as many of everything", several(3, n=3, keys=3), _past(3), _some(draw, 3, 3), n_heads=3)
    yield case("a batch of one", several(1, n=3, keys=4), _past(3), gradients=True)
    yield case("two leading axes", several(2, 3, n=3, keys=4), _past(3), _some(draw, 2, 1, 1, 3, 4), gradients=True)
    yield case("one token", several(2, n=1, keys=4), gradients=True)
    yield case("a memory of one", several(2, n=3, keys=1))
    yield case("a memory of its own size", (x(2, 3, 6), 4 * x(2, 5, 6) + 2), gradients=True)
    same = x(2, 4, 6)
    yield case("the tokens are their own memory", (same, same), _past(4), gradients=True)
    yield case("a wide model", several(2, n=4, keys=6, d_model=32), _past(4), n_heads=4, d_ff=48)
    yield case("columns stored as rows", several(2, n=3, keys=5), _past(3), layout="transposed", gradients=True)
    yield case("every second number of a row", several(2, n=3, keys=5), layout="strided")
    post = partial(case, norm_first=False)
    yield post("one sentence", several(n=2, keys=3, d_model=4), d_ff=6, gradients=True)
    yield post("a batch", several(2, n=3, keys=5), gradients=True)
    yield post("causal, padded memory", several(2, n=4, keys=5), _past(4), padding, n_heads=3, gradients=True)
    yield post("both masks, both lengths 4", several(2, n=4, keys=4), _past(4), square, gradients=True)
    yield post("masks for each head", several(2, n=3, keys=4), _some(draw, 2, 3, 3), _some(draw, 2, 2, 3, 4))
    hidden = _some(draw, 2, 1, 1, 3, 3)
    yield post(
        "two leading axes, the memory's mask alone, lengths 3", several(2, 3, n=3, keys=3), None, hidden, gradients=True
    )
    yield post("one token", several(2, n=1, keys=4))
    yield post("a memory of its own size", (x(2, 3, 6), 4 * x(2, 5, 6) + 2), gradients=True)


DecoderBlock = Exam(
    TOPIC,
    "DecoderBlock",
    _decoder_reference,
    _decoder_naive,
    _decoder_cases,
    (Values("pre-norm", 1.25), Values("post-norm", 1.25), Habits(0.5, on="pre-norm"), Gradients(1)),
    may_not_call=(BLOCKS,),
    skeleton=_DecoderBlock,
)


@DecoderBlock.variant
def three_steps(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.cross_attention(self.norm2(x), memory, mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, memory, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.variant
def three_sublayers_in_a_loop(self, x, memory, mask=None, memory_mask=None):
    sublayers = (
        (self.norm1, lambda h: self.self_attention(h, h, h, mask)),
        (self.norm2, lambda h: self.cross_attention(h, memory, memory, memory_mask)),
        (self.norm3, self.feed_forward),
    )
    for norm, sublayer in sublayers:
        x = x + sublayer(norm(x)) if self.norm_first else norm(x + sublayer(x))
    return x


@DecoderBlock.variant
def norms_before_or_after(self, x, memory, mask=None, memory_mask=None):
    def before(norm, h):
        return norm(h) if self.norm_first else h

    def after(norm, h):
        return h if self.norm_first else norm(h)

    x = after(self.norm1, x + self.self_attention(before(self.norm1, x), mask=mask))
    x = after(self.norm2, x + self.cross_attention(before(self.norm2, x), memory, mask=memory_mask))
    return after(self.norm3, x + self.feed_forward(before(self.norm3, x)))


@DecoderBlock.variant
def names_for_every_argument(self, x, memory, mask=None, memory_mask=None):
    h = self.norm1(x) if self.norm_first else x
    first = x + self.self_attention(query=h, key=h, value=h, mask=mask)
    first = first if self.norm_first else self.norm1(first)
    h = self.norm2(first) if self.norm_first else first
    second = first + self.cross_attention(query=h, key=memory, value=memory, mask=memory_mask)
    second = second if self.norm_first else self.norm2(second)
    h = self.norm3(second) if self.norm_first else second
    third = second + self.feed_forward(h)
    return third if self.norm_first else self.norm3(third)


@DecoderBlock.variant
def the_sum_of_what_was_added(self, x, memory, mask=None, memory_mask=None):
    if not self.norm_first:
        for number, sublayer in enumerate((self.self_attention, self.cross_attention, self.feed_forward), start=1):
            given = {1: {"mask": mask}, 2: {"key": memory, "mask": memory_mask}, 3: {}}[number]
            x = getattr(self, f"norm{number}")(sublayer(x, **given) + x)
        return x
    own = self.self_attention(self.norm1(x), mask=mask)
    other = self.cross_attention(self.norm2(x + own), memory, mask=memory_mask)
    return x + own + other + self.feed_forward(self.norm3(x + own + other))


@DecoderBlock.variant
def network_written_out(self, x, memory, mask=None, memory_mask=None):
    def think(h):
        return self.feed_forward.linear2(F.relu(self.feed_forward.linear1(h)))

    if self.norm_first:
        x = self.self_attention(self.norm1(x), mask=mask) + x
        x = self.cross_attention(self.norm2(x), memory, memory, memory_mask) + x
        return think(self.norm3(x)) + x
    x = self.norm1(self.self_attention(x, x, mask=mask) + x)
    x = self.norm2(self.cross_attention(x, memory, memory, memory_mask) + x)
    return self.norm3(think(x) + x)


@DecoderBlock.misconception(
    hint="In pre-norm you add each sublayer's result to the normalised x. What is added to is x as it came.",
    symptom="It trains, worse: three normalisations stand in the straight way through each block.",
    seen=HOWUHH_3,
)
def decoder_residual_from_the_normalised(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = self.norm1(x)
        x = self.norm2(x + self.self_attention(x, mask=mask))
        x = self.norm3(x + self.cross_attention(x, memory, mask=memory_mask))
        return x + self.feed_forward(x)
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, memory, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="In post-norm you normalise each sublayer's result and then add. The sum is what is normalised.",
    symptom="The residual goes around the norm; the outputs' size grows from block to block.",
    seen=KURITA_1,
)
def decoder_residual_around_the_norm(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.cross_attention(self.norm2(x), memory, mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = x + self.norm1(self.self_attention(x, mask=mask))
    x = x + self.norm2(self.cross_attention(x, memory, mask=memory_mask))
    return x + self.norm3(self.feed_forward(x))


@DecoderBlock.misconception(
    hint="`norm_first` is never looked at: you always normalise first.",
    symptom="Right with the default; the weights of a post-norm model come out as nonsense.",
)
def decoder_always_pre_norm(self, x, memory, mask=None, memory_mask=None):
    x = x + self.self_attention(self.norm1(x), mask=mask)
    x = x + self.cross_attention(self.norm2(x), memory, mask=memory_mask)
    return x + self.feed_forward(self.norm3(x))


@DecoderBlock.misconception(
    hint="`norm_first` is never looked at: you always normalise the sum.",
    symptom="Right for the original paper; deep stacks then need a warm-up to train at all.",
)
def decoder_always_post_norm(self, x, memory, mask=None, memory_mask=None):
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, memory, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="The second attention never looks at the memory: it asks the tokens themselves once more.",
    symptom="The translation is fluent, and has nothing to do with the source.",
    seen=KURITA_1,
)
def memory_never_read(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.cross_attention(self.norm2(x), mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="The memory asks and the tokens answer. In the decoder the tokens ask, and the memory has keys and values.",
    symptom="The result is as long as the memory, so it fits only where both are of one length.",
)
def memory_asks_the_tokens(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.cross_attention(memory, self.norm2(x), mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(memory, x, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="The memory gives the keys, and the tokens the values. What is handed over must come from the memory, too.",
    symptom="An error, or silently wrong where both are of one length.",
)
def keys_from_memory_values_from_tokens(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        h = self.norm2(x)
        x = x + self.cross_attention(h, memory, h, memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, memory, x, memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="You normalise the memory with `norm2`. It is the tokens' norm; the memory is taken as it comes.",
    symptom="Nearly right where the memory is normalised already, as behind an encoder.",
)
def memory_normalised_too(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.cross_attention(self.norm2(x), self.norm2(memory), mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, memory, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="`mask` and `memory_mask` have changed places.",
    symptom="The memory is read causally, and the tokens see their future; an error where the lengths differ.",
)
def masks_exchanged(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=memory_mask)
        x = x + self.cross_attention(self.norm2(x), memory, mask=mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=memory_mask))
    x = self.norm2(x + self.cross_attention(x, memory, mask=mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="The tokens' mask is used on the memory as well. The memory has a mask of its own.",
    symptom="An error where the lengths differ. Where they are alike, the first word sees the first source word only.",
    seen=CHOLLET_209,
)
def tokens_mask_on_the_memory(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.cross_attention(self.norm2(x), memory, mask=mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, memory, mask=mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="`memory_mask` is never handed on.",
    symptom="The padding of the source takes part, so a sentence's translation depends on its batch.",
)
def memory_mask_not_handed_on(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.cross_attention(self.norm2(x), memory)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, memory))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="`mask` is never handed on to the self-attention.",
    symptom="In training every word sees its successor, and the loss is wonderful; in use there is no successor.",
)
def decoder_mask_not_handed_on(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x))
        x = x + self.cross_attention(self.norm2(x), memory, mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x))
    x = self.norm2(x + self.cross_attention(x, memory, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="Without a mask you hide the future. This block is no more causal than the mask that it gets.",
    symptom="Right where a causal mask is given anyway.",
)
def decoder_causal_unasked(self, x, memory, mask=None, memory_mask=None):
    n = x.shape[-2]
    past = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
    mask = past if mask is None else mask & past
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.cross_attention(self.norm2(x), memory, mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, memory, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="`self_attention` does both jobs. `cross_attention` has weights of its own, and never learns.",
    symptom="It trains; half of the attention's parameters get no gradient.",
    seen=COHEN_23,
)
def one_attention_for_both(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.self_attention(self.norm2(x), memory, mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.self_attention(x, memory, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="The memory is asked first. Self-attention is the first sublayer, with `norm1`.",
    symptom="It trains just as well; with PyTorch's weights it computes something else.",
)
def memory_asked_first(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.cross_attention(self.norm2(x), memory, mask=memory_mask)
        x = x + self.self_attention(self.norm1(x), mask=mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm2(x + self.cross_attention(x, memory, mask=memory_mask))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="The memory is added where the tokens should be: the residual of the second sublayer is x.",
    symptom="An error, or, with sequences of one length, an output that has forgotten its own words.",
    seen=SLP_26,
)
def memory_as_the_residual(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = memory + self.cross_attention(self.norm2(x), memory, mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(memory + self.cross_attention(x, memory, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="Nothing is added around the second attention: its residual is missing.",
    symptom="What the tokens know of each other is lost where they read the memory.",
)
def no_residual_around_the_memory(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = self.cross_attention(self.norm2(x), memory, mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(self.cross_attention(x, memory, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="`norm2` is used for the feed-forward network as well; `norm3` has nothing to do.",
    symptom="Right at the start, where all are alike; `norm3` never learns.",
)
def norm3_unused(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.cross_attention(self.norm2(x), memory, mask=memory_mask)
        return x + self.feed_forward(self.norm2(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, memory, mask=memory_mask))
    return self.norm2(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="`norm2` and `norm3` have changed places. The second belongs to the memory's attention.",
    symptom="Right at the start, where both are alike; trained weights from elsewhere are read wrongly.",
)
def norm2_and_norm3_exchanged(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.cross_attention(self.norm3(x), memory, mask=memory_mask)
        return x + self.feed_forward(self.norm2(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm3(x + self.cross_attention(x, memory, mask=memory_mask))
    return self.norm2(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="In pre-norm the question to the memory is asked by x as it is. `norm2` has nothing to do.",
    symptom="The questions grow with the depth, and sharpen the weights on the memory.",
)
def question_not_normalised(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.cross_attention(x, memory, mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, memory, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="`x += …` adds into the tensor that you were handed. `x = x + …` makes a new one.",
    symptom="The values are right, and the caller's x is another one afterwards.",
)
def decoder_added_in_place(self, x, memory, mask=None, memory_mask=None):
    if self.norm_first:
        x += self.self_attention(self.norm1(x), mask=mask)
        x += self.cross_attention(self.norm2(x), memory, mask=memory_mask)
        x += self.feed_forward(self.norm3(x))
        return x
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, memory, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


@DecoderBlock.misconception(
    hint="The memory leaves the graph (`detach`, `no_grad`): the encoder behind it gets no gradient.",
    symptom="The values are right, and the encoder never learns.",
)
def memory_detached(self, x, memory, mask=None, memory_mask=None):
    memory = memory.detach()
    if self.norm_first:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        x = x + self.cross_attention(self.norm2(x), memory, mask=memory_mask)
        return x + self.feed_forward(self.norm3(x))
    x = self.norm1(x + self.self_attention(x, mask=mask))
    x = self.norm2(x + self.cross_attention(x, memory, mask=memory_mask))
    return self.norm3(x + self.feed_forward(x))


class _TransformerLM(nn.Module):
    """``TransformerLM`` as the notebook gives it, with blocks that are right."""

    def __init__(self, vocab_size: int, d_model: int, n_heads: int, n_layers: int, d_ff: int, max_len: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(_RightEncoderBlock(d_model, n_heads, d_ff) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)


class _RightEncoderBlock(_EncoderBlock):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.self_attention(self.norm1(x), mask=mask)
        output: Tensor = x + self.feed_forward(self.norm2(x))
        return output


def _model(tokens: Tensor, state: State, init: Init, nudge: Nudge = as_is, relu: Step = F.relu) -> Tensor:
    table, n = state["token_embedding.weight"], tokens.shape[-1]
    x = nudge(table[tokens] + state["position_embedding.weight"][:n])
    past = _past(n).to(tokens.device)
    for layer in range(init["n_layers"]):
        x = _encode(x, past, _part(state, f"blocks.{layer}"), {"n_heads": init["n_heads"]}, nudge, relu)
    return nudge(nudge(_norm(x, _part(state, "norm"), nudge)) @ table.mT)


def _model_naive(tokens: Tensor, *, state: State, init: Init, nudge: Nudge = as_is) -> Tensor:
    return _model(tokens, state, init, nudge)


def _model_reference(tokens: Tensor, *, state: State, init: Init) -> Tensor:
    """PyTorch's embedding, its stack of encoder layers under a causal mask with a last norm, its linear layer."""
    table, n = state["token_embedding.weight"], tokens.shape[-1]
    d_model, dtype = init["d_model"], table.dtype
    positions = torch.arange(n, device=tokens.device)
    x = F.embedding(tokens, table) + F.embedding(positions, state["position_embedding.weight"])
    layer = nn.TransformerEncoderLayer(
        d_model, init["n_heads"], init["d_ff"], dropout=0.0, batch_first=True, norm_first=True, dtype=dtype
    )
    norm = nn.LayerNorm(d_model, dtype=dtype)
    stack = nn.TransformerEncoder(layer, init["n_layers"], norm=norm, enable_nested_tensor=False)
    inner = {name: value for name, value in packed(state).items() if "embedding" not in name}
    with sdpa_kernel(SDPBackend.MATH):
        rows: Tensor = functional_call(stack, inner, (_one_batch(x), ~_past(n)))
    return F.linear(rows.reshape(x.shape), table)


def _model_cases(draw: Draw) -> Iterator[Case]:
    def case(
        name: str,
        *shape: int,
        vocab: int = 9,
        d_model: int = 6,
        n_heads: int = 2,
        n_layers: int = 2,
        d_ff: int = 10,
        max_len: int = 7,
        size: float = 1.0,
        **more: Any,
    ) -> Case:
        # No two neighbours are alike, and no sentence begins like the next.
        tokens = (draw.uniform(0, 1, *shape) * vocab).long()
        init = {"vocab_size": vocab, "d_model": d_model, "n_heads": n_heads, "n_layers": n_layers}
        init |= {"d_ff": d_ff, "max_len": max_len}

        def state() -> dict[str, Tensor]:
            drawn = {
                "token_embedding.weight": draw.normal(vocab, d_model, scale=size),
                "position_embedding.weight": draw.normal(max_len, d_model),
                "norm.weight": 1 + draw.normal(d_model, scale=0.5),
                "norm.bias": draw.normal(d_model, scale=0.5),
            }
            for layer in range(n_layers):
                block = _block_state(draw, d_model, d_ff, "self_attention")
                drawn |= {f"blocks.{layer}.{key}": value for key, value in block.items()}
            return drawn

        if more.get("raises"):
            return Case(name, (tokens,), init=init, state=state(), **more)
        chosen = _away_from_kinks(state, lambda drawn, relu: _model(tokens, drawn, init, relu=relu))
        return Case(name, (tokens,), init=init, state=chosen, **more)

    tiny = {"vocab": 3, "n_layers": 1, "n_heads": 1, "d_model": 3, "d_ff": 2, "max_len": 3}
    yield case("three tokens", 3, **tiny, gradients=True, tiny=True)
    yield case("a sentence", 5, gradients=True)
    yield case("a batch", 2, 5, gradients=True)
    yield case("three blocks", 2, 4, n_layers=3, gradients=True)
    yield case("a batch of one", 1, 5, gradients=True)
    yield case("two leading axes", 2, 3, 4, gradients=True)
    yield case("as many sentences as tokens", 5, 5, gradients=True)
    yield case("as many sentences as tokens and heads", 2, 2)
    yield case("as many words as columns", 2, 5, vocab=6)
    yield case("as many tokens as positions", 2, 7, gradients=True)
    yield case("one token", 3, 1, gradients=True)
    yield case("one word", 4, vocab=1)
    yield case("logits in the hundreds", 2, 5, size=50.0)
    yield case("one head", 2, 5, n_heads=1, d_model=5)
    yield case("a large vocabulary", 2, 6, vocab=200, d_model=16, n_heads=4, d_ff=32, max_len=16, gradients=True)
    yield case("columns stored as rows", 3, 5, layout="transposed", gradients=True)
    yield case("every second number of a row", 2, 5, layout="strided")
    wrong = partial(case, check="n > max_len", raises=ValueError)
    yield wrong("23 tokens for 19 positions: are the tokens counted?", 2, 23, max_len=19, says="23")
    yield wrong("23 tokens for 19 positions: are the positions named?", 2, 23, max_len=19, says="19")
    yield wrong("one token too many", 8, says="8")


def _the_future_changes_nothing(answer: Callable[..., Tensor], call: Call) -> str | None:
    (tokens,) = call.args
    assert call.init is not None
    changed = tokens.clone()
    changed[..., -1] = (changed[..., -1] + 1) % call.init["vocab_size"]
    gap = (answer(tokens) - answer(changed))[..., :-1, :].abs()
    return None if gap.numel() == 0 or float(gap.max()) < 1e-9 else "another last token changes the logits before it"


TransformerLM = Exam(
    TOPIC,
    "TransformerLM",
    _model_reference,
    _model_naive,
    _model_cases,
    (
        Values("values", 2.5),
        Values("n > max_len", 0.5),
        Properties(0.5, (_the_future_changes_nothing,), name="causality"),
        Habits(0.25),
        Gradients(1.25),
    ),
    outputs=("logits",),
    may_not_call=(BLOCKS,),
    skeleton=_TransformerLM,
)


@TransformerLM.variant
def embed_stack_score(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    past = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, past)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.variant
def linear_with_the_table(self, tokens):
    n = tokens.size(-1)
    if n > len(self.position_embedding.weight):
        raise ValueError(f"n = {n} > max_len = {len(self.position_embedding.weight)}")
    x = self.token_embedding(tokens) + self.position_embedding.weight[:n]
    steps = torch.arange(n, device=tokens.device)
    for block in self.blocks:
        x = block(x, mask=steps[:, None] >= steps)
    return F.linear(self.norm(x), self.token_embedding.weight)


@TransformerLM.variant
def mask_with_all_its_axes(self, tokens):
    *lead, n = tokens.shape
    if n > self.position_embedding.weight.shape[0]:
        raise ValueError(f"can't place {n} tokens on {self.position_embedding.weight.shape[0]} positions")
    positions = torch.arange(n, device=tokens.device).expand(*lead, n)
    x = self.position_embedding(positions) + self.token_embedding(tokens)
    mask = torch.tril(torch.ones(*(1 for _ in lead), 1, n, n, device=tokens.device)).bool()
    for block in self.blocks:
        x = block(x, mask)
    return torch.einsum("...td,vd->...tv", self.norm(x), self.token_embedding.weight)


@TransformerLM.variant
def flattened_to_one_batch(self, tokens):
    n, most = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > most:
        raise ValueError(f"at most {most} tokens, not {n}")
    x = self.token_embedding.weight[tokens.reshape(-1, n)] + self.position_embedding.weight[None, :n]
    for layer in range(len(self.blocks)):
        x = self.blocks[layer](x, ~torch.ones(n, n, dtype=torch.bool, device=x.device).triu(diagonal=1))
    logits = self.norm(x) @ self.token_embedding.weight.mT
    return logits.reshape(*tokens.shape, -1)


@TransformerLM.variant
def blocks_written_out(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} > {max_len}")
    x = F.embedding(tokens, self.token_embedding.weight) + self.position_embedding.weight.narrow(0, 0, n)
    past = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = x + block.self_attention(block.norm1(x), mask=past)
        x = x + block.feed_forward(block.norm2(x))
    return F.linear(self.norm(x), self.token_embedding.weight)


@TransformerLM.variant
class OutputLayerTied(nn.Module):
    def __init__(self, vocab_size, d_model, n_heads, n_layers, d_ff, max_len):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(_RightEncoderBlock(d_model, n_heads, d_ff) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        # A buffer of its own is no parameter, and may be kept.
        self.register_buffer("past", torch.ones(max_len, max_len, dtype=torch.bool).tril(), persistent=False)

    def forward(self, tokens):
        n = tokens.shape[-1]
        if n > len(self.past):
            raise ValueError(f"{n} tokens for a mask of {len(self.past)}")
        x = self.token_embedding(tokens) + self.position_embedding.weight[:n]
        for block in self.blocks:
            x = block(x, self.past[:n, :n].to(x.device))
        return self.norm(x) @ self.token_embedding.weight.transpose(0, 1)


@TransformerLM.misconception(
    hint="No mask: each token sees its successor, which is the very word that its logits are to predict.",
    symptom="The loss falls to nearly nothing within minutes, and what the model writes is nonsense.",
    seen=TUTORIALS_2478,
)
def sees_its_own_target(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    for block in self.blocks:
        x = block(x)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="The mask is the wrong way round: each token sees itself and the future, and not the past.",
    symptom="The loss falls to nearly nothing, for the target is in sight; the last token knows only itself.",
)
def future_instead_of_past(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).triu()
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="Your mask is True where a token is to be hidden: each sees only what comes. Here True means *may attend*.",
    symptom="The loss falls to nearly nothing, for the target is in sight; the last token sees nothing at all.",
)
def true_where_it_hides(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).triu(1)
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="Nobody sees itself: the mask leaves out the diagonal. A token may look at itself; only what comes is hidden.",
    symptom="The first token sees nothing at all.",
)
def blind_to_itself(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril(-1)
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="Your mask is off by one: each token sees the next one too. Which diagonal does `tril` or `triu` start from?",
    symptom="The loss falls to nearly nothing: the one word that is seen too much is the target.",
)
def one_step_ahead(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril(1)
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="Only the first block gets the mask. A look ahead in any block is a look ahead.",
    symptom="Right with one block; with two the loss falls to nearly nothing.",
)
def mask_for_the_first_block_alone(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x, mask = block(x, mask), None
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="You shift inside the model, so that logits i speak of token i. Here they speak of token i + 1, and whoever "
    "computes the loss does the shifting.",
    symptom="Shifted here and once more in the loss, the model learns to guess the word after the next.",
    seen="https://github.com/LLM360/amber-train/issues/6",
)
def shifted_inside(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = F.pad(self.token_embedding(tokens), (0, 0, 1, 0))[..., :-1, :]
    x = x + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="The positions are never added.",
    symptom="The model knows which words came before, and hardly in which order.",
)
def positions_forgotten(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens)
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="The positions are counted from 1. The table's first row is row 0.",
    symptom="It trains; the first row never learns, and a full context raises an IndexError.",
)
def positions_from_one(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(1, n + 1, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="Every sentence gets the position of its place in the batch. Positions run along the tokens.",
    symptom="All tokens of a sentence stand at one place; another order of the batch gives other results.",
    seen="https://github.com/pytorch/tutorials/issues/1547",
)
def positions_along_the_batch(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens)
    if tokens.ndim > 1:
        places = self.position_embedding.weight[: len(tokens)]
        x = x + places.reshape(-1, *[1] * (tokens.ndim - 1), x.shape[-1])
    else:
        x = x + self.position_embedding.weight[:n]
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="You look up positions by the tokens' numbers: each word gets the position of its place in the vocabulary.",
    symptom="The positions tell nothing that the word did not tell. A word beyond max_len raises an IndexError.",
)
def positions_by_the_word(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(tokens % max_len)
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="You multiply the embeddings by √d_model, as the first Transformer did. This model does not.",
    symptom="It trains; with another model's weights the positions are too faint.",
    seen=ANNOTATED_60,
)
def embeddings_times_root_d(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) * math.sqrt(self.token_embedding.embedding_dim)
    x = x + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="The last normalisation is missing. Pre-norm blocks leave their sum as large as it has become.",
    symptom="The logits grow with the depth and with training.",
    seen=ALBERT_41,
)
def last_norm_forgotten(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return x @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="The normalisation stands before the blocks. It is the last thing before the logits.",
    symptom="The logits grow with the depth and with training.",
)
def normalised_at_the_entrance(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.norm(self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device)))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return x @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="The first block is used again and again. Each block has weights of its own.",
    symptom="Right with one block; the other blocks never learn.",
    seen=ESPNET_1278,
)
def first_block_repeated(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for _ in self.blocks:
        x = self.blocks[0](x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="Every block gets the embeddings, and only the last result is used. Each reads what the one before left.",
    symptom="Right with one block; the other blocks never learn.",
)
def blocks_not_chained(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        output = block(x, mask)
    return self.norm(output) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="You give probabilities. Logits are asked for: the loss takes the softmax itself.",
    symptom="With cross-entropy, which takes a softmax too, the loss can't fall far below where it starts.",
)
def probabilities_for_logits(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return torch.softmax(self.norm(x) @ self.token_embedding.weight.T, dim=-1)


@TransformerLM.misconception(
    hint="You give log-probabilities. Logits are asked for: the product with the table, as it is.",
    symptom="Harmless in cross-entropy, where a second log-softmax changes nothing; not what a tied output gives.",
    seen=HKPROJ_7,
)
def log_probabilities_for_logits(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return torch.log_softmax(self.norm(x) @ self.token_embedding.weight.T, dim=-1)


@TransformerLM.misconception(
    hint="Only the last token's logits come back. Each token gets its own.",
    symptom="Enough to write with, n times too few to train on.",
)
def only_the_last_logits(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x[..., -1, :]) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="The table leaves the graph where it is the output layer (`.data`, `detach`): it learns from one of its jobs.",
    symptom="The values are right; words that are never an input are never learned.",
)
def tied_but_detached(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n > max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.data.T


@TransformerLM.misconception(
    hint="Too many tokens run into the table's end. Compare the two lengths first, and say both numbers.",
    symptom="IndexError: index out of range in self, without a word on what; on a GPU it takes the process with it.",
    seen=ESM_49,
)
def length_not_checked(self, tokens):
    n = tokens.shape[-1]
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="What does not fit is cut off silently. The caller must hear of it, with both numbers.",
    symptom="Fewer logits than tokens, and nobody knows which ones.",
)
def cut_off_silently(self, tokens):
    max_len = self.position_embedding.num_embeddings
    tokens = tokens[..., -max_len:]
    n = tokens.shape[-1]
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T


@TransformerLM.misconception(
    hint="The error comes one token too early or too late: exactly max_len tokens still have their places.",
    symptom="The last position is never used.",
)
def full_context_refused(self, tokens):
    n, max_len = tokens.shape[-1], self.position_embedding.num_embeddings
    if n >= max_len:
        raise ValueError(f"{n} tokens, {max_len} positions")
    x = self.token_embedding(tokens) + self.position_embedding(torch.arange(n, device=tokens.device))
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    for block in self.blocks:
        x = block(x, mask)
    return self.norm(x) @ self.token_embedding.weight.T
