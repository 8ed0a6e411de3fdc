"""The exams of *positions*: waves, a table, buckets, slopes and rotations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autograder.engine.checks import Gradients, Habits, Properties, Values, examiner
from autograder.engine.exam import Case, Draw, Exam, Nudge, as_is
from autograder.engine.subject import Call
from autograder.exams.softmax import naive_softmax

TOPIC = "positions"
TUTORIALS_1547 = "https://github.com/pytorch/tutorials/issues/1547"
EVANS_25 = "https://github.com/SamLynnEvans/Transformer/issues/25"
JADORE_32 = "https://github.com/jadore801120/attention-is-all-you-need-pytorch/issues/32"
MLX_VLM_1983 = "https://github.com/Blaizzy/mlx-vlm/issues/1983"
LLAMA_25199 = "https://github.com/huggingface/transformers/issues/25199"
MLX_3071 = "https://github.com/ml-explore/mlx/pull/3071"
# Half a unit in the last place of 1 in float32.
SINGLE = 2.0**-24


def _moved(angles: Tensor, nudge: Nudge) -> Tensor:
    """``angles``, each moved by a unit of float32 if ``nudge`` moves them: in no dtype they need be any better."""
    return angles * (1 + SINGLE * torch.sign(nudge(angles) - angles))


def _waves(n: int, d_model: int, base: float = 10000.0) -> Tensor:
    """The definition, number by number (Vaswani et al. 2017, section 3.5)."""
    wave = (math.sin, math.cos)
    rows = [[wave[j % 2](p / base ** ((j - j % 2) / d_model)) for j in range(d_model)] for p in range(n)]
    return torch.tensor(rows, dtype=torch.float64).reshape(n, d_model)


def _waves_naive(n: int, d_model: int, base: float = 10000.0, nudge: Nudge = as_is) -> Tensor:
    positions = torch.arange(n, dtype=torch.float64)[:, None]
    frequencies = base ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    angles = _moved(positions * _moved(frequencies, nudge), nudge)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model].float()


def _waves_cases(draw: Draw) -> Iterator[Case]:
    yield Case("five positions, two pairs", (5, 4))
    yield Case("more positions than columns", (12, 6))
    yield Case("more columns than positions", (6, 16))
    yield Case("as many positions as columns", (8, 8))
    yield Case("any number of positions", (draw.integer(20, 40), 2 * draw.integer(5, 9)))
    yield Case("a thousand positions", (1000, 32))
    yield Case("a wide model", (10, 256))
    based = partial(Case, check="another base")
    yield based("base 100", (9, 6, 100.0))
    yield based("base by name", (7, 8), {"base": 500.0})
    yield based("a whole number for the base", (9, 6, 30))
    yield based("a base that is no whole number", (9, 6, 12.5))
    odd = partial(Case, check="an odd width")
    yield odd("seven columns", (6, 7))
    yield odd("three columns", (11, 3))
    yield odd("an odd width and another base", (5, 9, 40.0))
    edge = partial(Case, check="edge cases")
    yield edge("one position", (1, 6))
    yield edge("one pair", (9, 2))
    yield edge("one column, a sine", (5, 1))


sinusoidal_encoding = Exam(
    TOPIC,
    "sinusoidal_encoding",
    _waves,
    _waves_naive,
    _waves_cases,
    (
        Values("values", 1.75),
        Values("another base", 0.25),
        Values("an odd width", 0.5),
        Values("edge cases", 0.25),
        Habits(0.25),
    ),
    dtype=torch.float32,
)


@sinusoidal_encoding.variant
def pairs_side_by_side(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * base ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]


@sinusoidal_encoding.variant
def filled_in_by_exp_of_log(n, d_model, base=10000.0):
    encoding = torch.zeros(n, d_model)
    positions = torch.arange(n, dtype=torch.float).unsqueeze(1)
    div_term = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(base) / d_model))
    encoding[:, 0::2] = torch.sin(positions * div_term)
    encoding[:, 1::2] = torch.cos(positions * div_term)[:, : d_model // 2]
    return encoding


@sinusoidal_encoding.variant
def divided_by_a_power(n, d_model, base=10000.0):
    encoding = torch.empty(n, d_model)
    for i in range(0, d_model, 2):
        angles = torch.arange(n) / base ** (i / d_model)
        encoding[:, i] = angles.sin()
        if i + 1 < d_model:
            encoding[:, i + 1] = angles.cos()
    return encoding


@sinusoidal_encoding.variant
def number_by_number(n, d_model, base=10000.0):
    def wave(p, j):
        angle = p / base ** (2 * (j // 2) / d_model)
        return math.cos(angle) if j % 2 else math.sin(angle)

    return torch.tensor([[wave(p, j) for j in range(d_model)] for p in range(n)])


@sinusoidal_encoding.variant
def cosine_as_a_later_sine(n, d_model, base=10000.0):
    columns = torch.arange(d_model)
    angles = torch.arange(n)[:, None] / torch.pow(base, (columns - columns % 2) / d_model)
    return torch.where(columns % 2 == 0, torch.sin(angles), torch.cos(angles))


@sinusoidal_encoding.variant
def complex_numbers(n, d_model, base=10000.0):
    angles = torch.outer(torch.arange(n).double(), base ** (-torch.arange(0, d_model, 2).double() / d_model))
    points = torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(points).flip(-1).flatten(-2)[:, :d_model].float()


@sinusoidal_encoding.variant
def one_wider_and_cut(n, d_model, base=10000.0):
    encoding = torch.zeros(n, d_model + d_model % 2)
    angles = torch.einsum("p,i->pi", torch.arange(n).float(), 1 / base ** (torch.arange(0, d_model, 2) / d_model))
    encoding[:, ::2], encoding[:, 1::2] = angles.sin(), angles.cos()
    return encoding[:, :d_model].contiguous()


@sinusoidal_encoding.misconception(
    hint="All sines come first and all cosines after them. Here they take turns: sine in column 2i, cosine in 2i + 1.",
    symptom="The same numbers in another order of columns. A model of its own trains as well; with other weights it "
    "fails.",
    seen="https://github.com/tensorflow/tensorflow/issues/37191",
)
def sines_first_cosines_after(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * base ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :d_model]


@sinusoidal_encoding.misconception(
    hint="Your cosine has an angle of its own. Sine and cosine of a pair belong to one angle, that of the even column.",
    symptom="Right in the first column only. A shift is no rotation any more.",
    seen=EVANS_25,
)
def cosine_with_its_own_exponent(n, d_model, base=10000.0):
    columns = torch.arange(d_model)
    angles = torch.arange(n)[:, None] * base ** (-columns / d_model)
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos())


@sinusoidal_encoding.misconception(
    hint="The exponent is doubled twice: with i for the column it is i / d_model, with i for the pair 2i / d_model.",
    symptom="The waves slow down twice as fast, and the last columns hardly move.",
    seen=JADORE_32,
)
def exponent_doubled_twice(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * base ** (-2 * torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]


@sinusoidal_encoding.misconception(
    hint="You double the number of the column, and the cosine's column is the next one. What is i in 2i / d_model, and "
    "what do sine and cosine of a pair share?",
    symptom="The waves slow down twice as fast, and sine and cosine of a pair come apart.",
)
def every_column_doubled(n, d_model, base=10000.0):
    encoding = torch.zeros(n, d_model)
    for p in range(n):
        for i in range(0, d_model, 2):
            encoding[p, i] = math.sin(p / base ** (2 * i / d_model))
            if i + 1 < d_model:
                encoding[p, i + 1] = math.cos(p / base ** (2 * (i + 1) / d_model))
    return encoding


@sinusoidal_encoding.misconception(
    hint="You count pairs, 0, 1, 2, …, but divide by d_model. The exponent of pair i is 2i / d_model.",
    symptom="The slowest wave is much too fast: the waves reach only down to base to the power −1/2.",
)
def pairs_divided_by_the_width(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * base ** (-torch.arange((d_model + 1) // 2) / d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]


@sinusoidal_encoding.misconception(
    hint="You multiply by the power of the base. The angle is the position divided by it: waves get slower, not "
    "faster.",
    symptom="Neighbouring positions look unrelated in all but the first two columns.",
    seen="https://github.com/hkproj/pytorch-transformer/issues/2",
)
def multiplied_by_the_power(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * base ** (torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]


@sinusoidal_encoding.misconception(
    hint="The first position is 0, not 1.",
    symptom="The first row is not 0, 1, 0, 1, …; every row is that of the next position.",
)
def waves_counted_from_one(n, d_model, base=10000.0):
    angles = torch.arange(1, n + 1)[:, None] * base ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]


@sinusoidal_encoding.misconception(
    hint="Sine and cosine have changed places: the even columns are sines.",
    symptom="The first row begins with 1, 0 instead of 0, 1.",
)
def cosine_first(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * base ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angles.cos(), angles.sin()], -1).flatten(-2)[:, :d_model]


@sinusoidal_encoding.misconception(
    hint="`base` is never used: 10000 stands in your code as a number.",
    symptom="Right until somebody asks for another base.",
)
def base_of_waves_ignored(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * 10000 ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]


@sinusoidal_encoding.misconception(
    hint="With an odd width there is one cosine less than there are sines. Cut the cosines before you fill them in.",
    symptom="RuntimeError: the expanded size must match the existing size, for an odd d_model.",
    seen="https://github.com/codertimo/BERT-pytorch/issues/78",
)
def odd_widths_crash(n, d_model, base=10000.0):
    encoding = torch.zeros(n, d_model)
    angles = torch.arange(n)[:, None] * base ** (-torch.arange(0, d_model, 2) / d_model)
    encoding[:, 0::2] = angles.sin()
    encoding[:, 1::2] = angles.cos()
    return encoding


@sinusoidal_encoding.misconception(
    hint="With an odd width the last column stays zero. It is a sine: only its cosine is left out.",
    symptom="Right for even widths. In an odd one the slowest wave is missing.",
)
def last_sine_left_out_too(n, d_model, base=10000.0):
    encoding = torch.zeros(n, d_model)
    pairs = d_model // 2
    angles = torch.arange(n)[:, None] * base ** (-2 * torch.arange(pairs) / d_model)
    encoding[:, 0 : 2 * pairs : 2] = angles.sin()
    encoding[:, 1::2] = angles.cos()
    return encoding


@sinusoidal_encoding.misconception(
    hint="An odd width gets a column too many: the last cosine is to be left out.",
    symptom="The result can't be added to the tokens if d_model is odd.",
)
def last_cosine_kept(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * base ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


@sinusoidal_encoding.misconception(
    hint="With an odd width you divide by the width of the pairs, not by d_model.",
    symptom="Right for even widths. With odd ones all waves but the first are too slow or too fast.",
)
def divided_by_whole_pairs(n, d_model, base=10000.0):
    pairs = (d_model + 1) // 2
    angles = torch.arange(n)[:, None] * base ** (-torch.arange(pairs) / pairs)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]


@sinusoidal_encoding.misconception(
    hint="You divide by the number of pairs less one, so that the last wave is exactly as slow as the base. The "
    "paper's exponents stop short of 1: they are 2i / d_model.",
    symptom="Close in the first columns; every later wave is slower than asked for.",
)
def exponents_up_to_one(n, d_model, base=10000.0):
    pairs = (d_model + 1) // 2
    angles = torch.arange(n)[:, None] * base ** (-torch.arange(pairs) / max(1, pairs - 1))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]


@sinusoidal_encoding.misconception(
    hint="`//` rounds 2i / d_model down to 0. Use `/`.",
    symptom="Every pair of columns is the same.",
)
def exponent_rounded_down(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * base ** -(torch.arange(0, d_model, 2) // d_model).float()
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]


@sinusoidal_encoding.misconception(
    hint="`a / d // 2` is (a / d) // 2, rounded down. Put brackets where you mean them.",
    symptom="The exponent is −1 for every pair but the first: nearly all columns are constant.",
    seen="https://github.com/zju3dv/LoFTR/issues/41",
)
def divided_without_brackets(n, d_model, base=10000.0):
    rate = -math.log(base) / d_model // 2
    angles = torch.arange(n)[:, None] * torch.exp(2 * torch.arange(0, d_model, 2) * rate)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]


@sinusoidal_encoding.misconception(
    hint="Base and exponent have changed places: the base is the number that is raised to a power.",
    symptom="All waves have nearly the same speed.",
    seen="https://github.com/ivanvovk/WaveGrad/issues/12",
)
def exponent_to_the_base(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * (torch.arange(0, d_model, 2) / d_model) ** (1 / base)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]


@sinusoidal_encoding.misconception(
    hint="Even *positions* get sines and odd ones cosines. It is the columns that take turns.",
    symptom="Every second row is right in its even columns.",
)
def rows_take_turns(n, d_model, base=10000.0):
    columns, positions = torch.arange(d_model), torch.arange(n)[:, None]
    angles = positions * base ** (-(columns - columns % 2) / d_model)
    return torch.where(positions % 2 == 0, angles.sin(), angles.cos())


@sinusoidal_encoding.misconception(
    hint="A row is a position and a column a wave. Yours stand the other way round.",
    symptom="The shape is right only for as many positions as columns.",
)
def waves_in_the_rows(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * base ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model].T


@sinusoidal_encoding.misconception(
    hint="The shape asked for is (n, d_model). It broadcasts over a batch without an axis for it.",
    symptom="An axis of length one too many; one sentence without a batch gets one, too.",
)
def axis_for_the_batch(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * base ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[None, :, :d_model]


@sinusoidal_encoding.misconception(
    hint="The numbers are right, but float64. Added to float32 tokens they would make the whole model float64.",
    symptom="A dtype error in the next layer, or everything at half the speed.",
)
def waves_in_double(n, d_model, base=10000.0):
    angles = torch.arange(n)[:, None] * base ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]


class _Table(nn.Module):
    """``LearnedPositions`` as the notebook gives it."""

    def __init__(self, max_len: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(max_len, d_model))


def _looked_up(x: Tensor, state: dict[str, Tensor], init: dict[str, int]) -> Tensor:
    return x + F.embedding(torch.arange(x.shape[-2]), state["weight"])


def _looked_up_naive(x: Tensor, state: dict[str, Tensor], init: dict[str, int], nudge: Nudge = as_is) -> Tensor:
    return nudge(x + state["weight"][: x.shape[-2]])


def _table_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, x: Tensor, max_len: int, **more: Any) -> Case:
        init = {"max_len": max_len, "d_model": x.shape[-1]}
        return Case(name, (x,), init=init, state={"weight": draw.normal(max_len, x.shape[-1])}, **more)

    yield case("a sentence", draw.normal(3, 4), 5, gradients=True, tiny=True)
    yield case("a batch", draw.normal(2, 4, 6), 7, gradients=True)
    yield case("more sentences than words", draw.normal(5, 3, 4), 8, gradients=True)
    yield case("as many sentences as words", draw.normal(4, 4, 6), 9, gradients=True)
    yield case("as many words as columns", draw.normal(3, 5, 5), 8)
    yield case("a batch of one", draw.normal(1, 6, 4), 9, gradients=True)
    yield case("two leading axes", draw.normal(2, 3, 4, 6), 6)
    yield case("leading axes as long as the sentence", draw.normal(4, 4, 4, 4), 6)
    yield case("a long table", draw.normal(2, draw.integer(9, 15), 8), 64, gradients=True)
    yield case("columns stored as rows", draw.normal(2, 4, 6), 6, layout="transposed")
    edge = partial(case, check="edge cases")
    yield edge("a sentence as long as the table", draw.normal(2, 6, 4), 6)
    yield edge("one word", draw.normal(2, 1, 4), 6)
    yield edge("a table of one row", draw.normal(3, 1, 4), 1)
    wrong = partial(case, check="n > max_len", raises=ValueError)
    yield wrong("19 words, 17 positions: is n named?", draw.normal(2, 19, 4), 17, says="19")
    yield wrong("19 words, 17 positions: is max_len named?", draw.normal(2, 19, 4), 17, says="17")
    yield wrong("one word too many", draw.normal(7, 6), 6, says="7")


LearnedPositions = Exam(
    TOPIC,
    "LearnedPositions",
    _looked_up,
    _looked_up_naive,
    _table_cases,
    (
        Values("values", 1.5),
        Values("edge cases", 0.25),
        Values("n > max_len", 0.5),
        Habits(0.25),
        Gradients(0.5),
    ),
    skeleton=_Table,
)


@LearnedPositions.variant
def first_rows_added(self, x):
    n, max_len = x.shape[-2], self.weight.shape[0]
    if n > max_len:
        raise ValueError(f"{n} tokens, but only {max_len} positions")
    return x + self.weight[:n]


@LearnedPositions.variant
def looked_up_by_number(self, x):
    n = x.size(-2)
    if n > len(self.weight):
        raise ValueError(f"sequence of length {n} exceeds max_len={len(self.weight)}")
    return x + F.embedding(torch.arange(n, device=x.device), self.weight)


@LearnedPositions.variant
def rows_gathered(self, x):
    if x.shape[-2] > self.weight.shape[0]:
        raise ValueError(f"max_len is {self.weight.shape[0]}, got {x.shape[-2]} tokens")
    return torch.add(x, self.weight.index_select(0, torch.arange(x.shape[-2], device=x.device)))


@LearnedPositions.variant
def axes_for_the_batch_added(self, x):
    *lead, n, _ = x.shape
    if self.weight.size(0) < n:
        raise ValueError(f"can't place {n} tokens on {self.weight.size(0)} positions")
    return x + self.weight.narrow(0, 0, n).view(*(1 for _ in lead), n, -1)


@LearnedPositions.variant
def one_hot_product(self, x):
    n, max_len = x.shape[-2], self.weight.shape[0]
    if n > max_len:
        raise ValueError(f"n = {n} > max_len = {max_len}")
    return x + torch.eye(n, max_len, dtype=x.dtype, device=x.device) @ self.weight


@LearnedPositions.variant
def token_by_token(self, x):
    if x.shape[-2] > self.weight.shape[0]:
        raise ValueError(f"{x.shape[-2]} > {self.weight.shape[0]}")
    return torch.stack([token + row for token, row in zip(x.unbind(-2), self.weight, strict=False)], dim=-2)


@LearnedPositions.variant
class PositionsOfItsOwn(nn.Module):
    def __init__(self, max_len, d_model):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_len, d_model))
        nn.init.normal_(self.weight, std=0.02)
        self.register_buffer("positions", torch.arange(max_len), persistent=False)

    def forward(self, x):
        n = x.shape[-2]
        if n > self.positions.numel():
            raise ValueError(f"{n} tokens for {self.positions.numel()} positions")
        return x + self.weight[self.positions[:n].to(x.device)]


@LearnedPositions.misconception(
    hint="You add one row to each *sentence*: the table lies along the batch. It belongs along the tokens, axis −2.",
    symptom="All tokens of a sentence get the same vector, so their order is unknown as before. Training goes on.",
    seen=TUTORIALS_1547,
)
def table_along_the_batch(self, x):
    n, max_len = x.shape[-2], self.weight.shape[0]
    if n > max_len:
        raise ValueError(f"{n} tokens, but only {max_len} positions")
    if x.ndim < 3:
        return x + self.weight[:n]
    return x + self.weight[: x.shape[0]].view(-1, *(1 for _ in x.shape[1:-1]), x.shape[-1])


@LearnedPositions.misconception(
    hint="`x.shape[0]` is the number of sentences, not of tokens: count the tokens on axis −2.",
    symptom="Right on one sentence; with a batch an error, or nothing wrong if there are as many sentences as tokens.",
    seen="https://github.com/AkiRusProd/numpy-transformer/issues/1",
)
def sentences_counted_as_tokens(self, x):
    max_len = self.weight.shape[0]
    if x.shape[-2] > max_len:
        raise ValueError(f"{x.shape[-2]} tokens, but only {max_len} positions")
    return x + self.weight[: x.shape[0]]


@LearnedPositions.misconception(
    hint="You add the whole table. A sentence of n tokens gets the first n rows.",
    symptom="Right for sentences as long as the table; an error for all others.",
)
def whole_table_added(self, x):
    n, max_len = x.shape[-2], self.weight.shape[0]
    if n > max_len:
        raise ValueError(f"{n} tokens, but only {max_len} positions")
    return x + self.weight


@LearnedPositions.misconception(
    hint="You take one row, number n or n − 1, for all tokens. Each has a row of its own.",
    symptom="All tokens get the same vector, one that says how long the sentence is.",
)
def one_row_for_all(self, x):
    n, max_len = x.shape[-2], self.weight.shape[0]
    if n > max_len:
        raise ValueError(f"{n} tokens, but only {max_len} positions")
    return x + self.weight[n - 1]


@LearnedPositions.misconception(
    hint="You take the last rows of the table. The first token has row 0, however short the sentence is.",
    symptom="Right for sentences as long as the table. A word's vector depends on how many come after it.",
)
def last_rows_of_the_table(self, x):
    n, max_len = x.shape[-2], self.weight.shape[0]
    if n > max_len:
        raise ValueError(f"{n} tokens, but only {max_len} positions")
    return x + self.weight[max_len - n :]


@LearnedPositions.misconception(
    hint="Your first token gets row 1. Positions count from 0.",
    symptom="Row 0 is never used nor trained, and a sentence as long as the table fails.",
)
def rows_counted_from_one(self, x):
    n, max_len = x.shape[-2], self.weight.shape[0]
    if n > max_len:
        raise ValueError(f"{n} tokens, but only {max_len} positions")
    return x + self.weight[1 : n + 1]


@LearnedPositions.misconception(
    hint="`.data` and `.detach()` cut the table off from the loss. Use the parameter as it is.",
    symptom="The output is right, and the positions stay what they were at the start.",
    seen="https://github.com/d2l-ai/d2l-en/pull/2121",
)
def table_never_learns(self, x):
    n, max_len = x.shape[-2], self.weight.shape[0]
    if n > max_len:
        raise ValueError(f"{n} tokens, but only {max_len} positions")
    return x + self.weight.data[:n]


@LearnedPositions.misconception(
    hint="`x += …` writes into the caller's tensor. Make a new one: `x + …`.",
    symptom="The output is right; whoever uses the tokens afterwards finds positions in them.",
)
def added_in_place(self, x):
    n, max_len = x.shape[-2], self.weight.shape[0]
    if n > max_len:
        raise ValueError(f"{n} tokens, but only {max_len} positions")
    x += self.weight[:n]
    return x


@LearnedPositions.misconception(
    hint="You give the positions alone. They are to be added to the tokens.",
    symptom="The output does not depend on what the tokens say.",
)
def tokens_left_out(self, x):
    n, max_len = x.shape[-2], self.weight.shape[0]
    if n > max_len:
        raise ValueError(f"{n} tokens, but only {max_len} positions")
    return self.weight[:n].expand_as(x)


@LearnedPositions.misconception(
    hint="You take for granted that there is exactly one batch axis. Let whatever is in front be: count from behind.",
    symptom="Right on (batch, n, d_model); an error on one sentence, and on two leading axes.",
)
def table_needs_one_batch_axis(self, x):
    _batch, n, _d_model = x.shape
    if n > self.weight.shape[0]:
        raise ValueError(f"{n} tokens, but only {self.weight.shape[0]} positions")
    return x + self.weight[:n].unsqueeze(0)


@LearnedPositions.misconception(
    hint="`x.shape[1]` is the number of tokens only if there is exactly one batch axis. Count from behind: axis −2.",
    symptom="Right on (batch, n, d_model). On one sentence axis 1 is the width, on two leading axes it is a batch.",
)
def tokens_counted_on_axis_one(self, x):
    n, max_len = x.shape[1], self.weight.shape[0]
    if n > max_len:
        raise ValueError(f"{n} tokens, but only {max_len} positions")
    return x + self.weight[:n]


@LearnedPositions.misconception(
    hint="What is too long goes wrong somewhere else: nothing here raises a ValueError that names the two numbers.",
    symptom="RuntimeError: the size of tensor a must match the size of tensor b. On a GPU a lookup out of range kills "
    "the process, as with many published models.",
    seen="https://github.com/facebookresearch/esm/issues/49",
)
def length_unchecked(self, x):
    return x + self.weight[: x.shape[-2]]


@LearnedPositions.misconception(
    hint="Sentences that are too long are cut off silently. Say so instead: raise a ValueError with both numbers.",
    symptom="The end of a long text is missing from the output.",
)
def long_sentences_cut_off(self, x):
    max_len = self.weight.shape[0]
    x = x[..., :max_len, :]
    return x + self.weight[: x.shape[-2]]


@LearnedPositions.misconception(
    hint="Beyond the table you use its last row again. A position that was never learned is to raise a ValueError.",
    symptom="All tokens beyond max_len seem to stand at one place, and nobody is told.",
)
def last_row_for_the_rest(self, x):
    positions = torch.arange(x.shape[-2], device=x.device).clamp(max=self.weight.shape[0] - 1)
    return x + self.weight[positions]


@LearnedPositions.misconception(
    hint="A sentence exactly as long as the table is fine: the last position is max_len − 1.",
    symptom="A ValueError for a sentence that fits.",
)
def full_sentence_refused(self, x):
    n, max_len = x.shape[-2], self.weight.shape[0]
    if n >= max_len:
        raise ValueError(f"{n} tokens, but only {max_len} positions")
    return x + self.weight[:n]


@LearnedPositions.misconception(
    hint="Your ValueError does not say which numbers don't fit: name the sentence's length and the table's.",
    symptom="Whoever reads the error has to find out how long the sentence was.",
)
def error_without_the_numbers(self, x):
    if x.shape[-2] > self.weight.shape[0]:
        raise ValueError("the sequence is too long")
    return x + self.weight[: x.shape[-2]]


@LearnedPositions.misconception(
    hint="The tokens are scaled by √d_model. That belongs to the token embedding, not here.",
    symptom="The output is too large by a multiple of the input.",
)
def tokens_scaled_as_well(self, x):
    n, max_len = x.shape[-2], self.weight.shape[0]
    if n > max_len:
        raise ValueError(f"{n} tokens, but only {max_len} positions")
    return x * math.sqrt(x.shape[-1]) + self.weight[:n]


def _slopes(n_heads: int) -> list[float]:
    """The paper's rule for powers of two, and that of its code for the rest: every second one of twice as many."""
    power = max(2**exponent for exponent in range(n_heads) if 2**exponent <= n_heads)
    own, twice = ([2 ** (-8 * h / heads) for h in range(1, heads + 1)] for heads in (power, 2 * power))
    return own + twice[::2][: n_heads - power]


def _steps_taken_off(n_heads: int, n_queries: int, n_keys: int) -> Tensor:
    """The definition, number by number (Press et al. 2022, section 3)."""
    shift = n_keys - n_queries
    planes = [[[-m * abs(i + shift - j) for j in range(n_keys)] for i in range(n_queries)] for m in _slopes(n_heads)]
    return torch.tensor(planes, dtype=torch.float64)


def _steps_naive(n_heads: int, n_queries: int, n_keys: int, nudge: Nudge = as_is) -> Tensor:
    slopes = _moved(torch.tensor(_slopes(n_heads), dtype=torch.float64), nudge)
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    return (-slopes[:, None, None] * (queries - torch.arange(n_keys)).abs()).float()


def _slope_cases(draw: Draw) -> Iterator[Case]:
    yield Case("two heads, a square", (2, 4, 4))
    yield Case("eight heads", (8, 5, 5))
    yield Case("sixteen heads", (16, 6, 6))
    yield Case("as many heads as tokens", (4, 4, 4))
    yield Case("any length", (4, *(draw.integer(20, 40),) * 2))
    yield Case("sixty-four heads", (64, 3, 9))
    yield Case("a long text", (2, 150, 150))
    lengths = partial(Case, check="queries and keys differ")
    yield lengths("two queries at the end of seven", (4, 2, 7))
    yield lengths("one new query", (8, 1, 9))
    yield lengths("all but the first query", (2, 5, 6))
    yield lengths("the later half of the queries", (4, 3, 6))
    other = partial(Case, check="no power of two")
    for heads in (3, 5, 6, 7, 12, 20):
        yield other(f"{heads} heads", (heads, 4, 4))
    yield other("any other number", (draw.integer(9, 15), 3, 5))
    edge = partial(Case, check="edge cases")
    yield edge("one head", (1, 4, 4))
    yield edge("one token", (4, 1, 1))
    yield edge("by name", (), {"n_heads": 2, "n_queries": 3, "n_keys": 5})


alibi_bias = Exam(
    TOPIC,
    "alibi_bias",
    _steps_taken_off,
    _steps_naive,
    _slope_cases,
    (
        Values("values", 1.5),
        Values("queries and keys differ", 0.5),
        Values("no power of two", 0.5),
        Values("edge cases", 0.3),
        Habits(0.2),
    ),
    dtype=torch.float32,
)


@alibi_bias.variant
def lists_of_slopes(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    return -torch.tensor(slopes)[:, None, None] * (queries - torch.arange(n_keys)).abs()


@alibi_bias.variant
def slopes_by_recursion(n_heads, n_queries, n_keys):
    def slopes(n):
        if n & (n - 1) == 0:
            start = 2 ** (-8 / n)
            return [start ** (h + 1) for h in range(n)]
        power = 1 << (n.bit_length() - 1)
        return slopes(power) + slopes(2 * power)[0::2][: n - power]

    distance = (torch.arange(n_keys)[None, :] - torch.arange(n_queries)[:, None] - (n_keys - n_queries)).abs()
    return torch.tensor(slopes(n_heads)).view(-1, 1, 1) * -distance


@alibi_bias.variant
def next_power_dealt_out(n_heads, n_queries, n_keys):
    above = 2 ** math.ceil(math.log2(n_heads))
    slopes = 2.0 ** (-8 * torch.arange(1, above + 1) / above)
    if above != n_heads:
        slopes = torch.cat([slopes[1::2], slopes[::2]])[:n_heads]
    keys = torch.arange(n_keys)
    queries = torch.arange(n_queries) + n_keys - n_queries
    return -torch.einsum("h,qk->hqk", slopes, (queries.unsqueeze(1) - keys).abs().float())


@alibi_bias.variant
def bias_head_by_head(n_heads, n_queries, n_keys):
    power = 1
    while 2 * power <= n_heads:
        power *= 2
    bias = torch.zeros(n_heads, n_queries, n_keys)
    for head in range(n_heads):
        exponent = 8 * (head + 1) / power if head < power else 4 * (2 * (head - power) + 1) / power
        for i in range(n_queries):
            for j in range(n_keys):
                bias[head, i, j] = -abs(i + n_keys - n_queries - j) / 2**exponent
    return bias


@alibi_bias.variant
def products_of_powers(n_heads, n_queries, n_keys):
    power = 2 ** (n_heads.bit_length() - 1)
    first = torch.full((power,), 2.0 ** (-8 / power)).cumprod(0)
    rest = 2.0 ** (-4 / power) * torch.cat([torch.ones(1), first])[: n_heads - power]
    offsets = torch.arange(n_keys) - torch.arange(n_keys - n_queries, n_keys).unsqueeze(-1)
    return torch.cat([first, rest])[:, None, None] * -offsets.abs()


@alibi_bias.variant
def cut_from_a_square(n_heads, n_queries, n_keys):
    n = max(n_queries, n_keys)
    square = (torch.arange(n)[:, None] - torch.arange(n)).abs().float()[n - n_queries :, n - n_keys :]
    power = 2 ** math.floor(math.log2(n_heads))
    exponents = [8 * (h + 1) / power for h in range(power)]
    exponents += [4 * (2 * h + 1) / power for h in range(n_heads - power)]
    return torch.stack([square * -(0.5**exponent) for exponent in exponents])


@alibi_bias.variant
def last_rows_of_the_keys_square(n_heads, n_queries, n_keys):
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    square = -(torch.arange(n_keys)[:, None] - torch.arange(n_keys)).abs()
    return torch.tensor(slopes)[:, None, None] * square[-n_queries:]


@alibi_bias.misconception(
    hint="Your first query stands at position 0. The last query stands where the last key does.",
    symptom="Right for a square. With a cache of past keys the newest token seems to stand at the beginning.",
    seen="https://github.com/keras-team/keras-hub/issues/2861",
)
def queries_from_the_start(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    return -torch.tensor(slopes)[:, None, None] * (torch.arange(n_queries)[:, None] - torch.arange(n_keys)).abs()


@alibi_bias.misconception(
    hint="Distance is to be taken off the score. Yours is added.",
    symptom="Far keys get most of the attention.",
    seen="https://github.com/meta-pytorch/attention-gym/pull/86",
)
def distance_rewarded(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    return torch.tensor(slopes)[:, None, None] * (queries - torch.arange(n_keys)).abs()


@alibi_bias.misconception(
    hint="Without the absolute value keys after the query are rewarded for their distance. Every step costs, either "
    "way.",
    symptom="Right below the diagonal, positive above it. Under a causal mask nobody sees the difference.",
)
def distance_with_its_sign(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    return -torch.tensor(slopes)[:, None, None] * (queries - torch.arange(n_keys))


@alibi_bias.misconception(
    hint="All your rows are the same, the distance from the last key. A row is to hold the distances from its own "
    "query.",
    symptom="Right in the last row. Under a causal mask softmax takes it for the same; without one it is not.",
    seen="https://github.com/mosaicml/llm-foundry/issues/186",
)
def one_row_for_all_queries(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    row = torch.arange(1 - n_keys, 1)
    return (torch.tensor(slopes)[:, None, None] * row).expand(n_heads, n_queries, n_keys)


@alibi_bias.misconception(
    hint="You use 2^(−8h/n) whatever n is. With 12 heads the first eight have the slopes of eight; where do the other "
    "four get theirs?",
    symptom="Right for powers of two. Weights of a published model with 12 heads give something else.",
    seen=MLX_3071,
)
def one_formula_for_any_number(n_heads, n_queries, n_keys):
    slopes = 2.0 ** (-8 * torch.arange(1, n_heads + 1) / n_heads)
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    return -slopes[:, None, None] * (queries - torch.arange(n_keys)).abs()


@alibi_bias.misconception(
    hint="You count heads from 0, so that the first slope is 1. It is 2^(−8/n).",
    symptom="Every head has the slope of the one before it.",
    seen="https://github.com/paiml/aprender/pull/2143",
)
def slopes_counted_from_zero(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(power)]
    slopes += [2 ** (-4 * h / power) for h in range(0, 2 * (n_heads - power), 2)]
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    return -torch.tensor(slopes)[:, None, None] * (queries - torch.arange(n_keys)).abs()


@alibi_bias.misconception(
    hint="You take the slopes of the power of two *above* and cut them off. Start from the one below.",
    symptom="Right for powers of two; with other numbers of heads none reaches far.",
)
def slopes_of_the_power_above(n_heads, n_queries, n_keys):
    above = 2 ** math.ceil(math.log2(n_heads))
    slopes = [2 ** (-8 * h / above) for h in range(1, n_heads + 1)]
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    return -torch.tensor(slopes)[:, None, None] * (queries - torch.arange(n_keys)).abs()


@alibi_bias.misconception(
    hint="Of twice as many heads you take every second one from the second on: those are the slopes that you have "
    "already.",
    symptom="Right for powers of two; else some heads are doubles of others.",
)
def second_slopes_twice(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(2, 2 * (n_heads - power) + 1, 2)]
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    return -torch.tensor(slopes)[:, None, None] * (queries - torch.arange(n_keys)).abs()


@alibi_bias.misconception(
    hint="The heads that are left take every second slope of twice as many, not the first ones in a row.",
    symptom="Right for powers of two, and for one head more than that.",
)
def left_over_heads_in_a_row(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, n_heads - power + 1)]
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    return -torch.tensor(slopes)[:, None, None] * (queries - torch.arange(n_keys)).abs()


@alibi_bias.misconception(
    hint="You sort the slopes. The paper's code does not: the heads that are left stand at the end.",
    symptom="The same slopes for other heads. Right for powers of two.",
    seen="https://github.com/antofuller/CROMA/issues/12",
)
def slopes_sorted(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    ordered = torch.tensor(slopes).sort(descending=True).values
    return -ordered[:, None, None] * (queries - torch.arange(n_keys)).abs()


@alibi_bias.misconception(
    hint="1/2, 1/4, 1/8, … are the slopes of eight heads. With n heads the exponents go up to 8 in n equal steps.",
    symptom="Right for eight heads. With more, the last ones see no distance at all.",
)
def halved_for_each_head(n_heads, n_queries, n_keys):
    slopes = 2.0 ** -torch.arange(1, n_heads + 1)
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    return -slopes[:, None, None] * (queries - torch.arange(n_keys)).abs()


@alibi_bias.misconception(
    hint="Keys after the query get −∞. The bias is asked for unmasked; a mask can be added to it.",
    symptom="An encoder with it can't look to the right.",
)
def bias_and_mask_in_one(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    steps = torch.arange(n_keys - n_queries, n_keys)[:, None] - torch.arange(n_keys)
    return (-torch.tensor(slopes)[:, None, None] * steps.abs()).masked_fill(steps < 0, -math.inf)


@alibi_bias.misconception(
    hint="Keys after the query cost nothing in your bias. The distance counts in both directions.",
    symptom="Right on and below the diagonal, zero above it.",
)
def future_for_free(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    steps = torch.arange(n_keys - n_queries, n_keys)[:, None] - torch.arange(n_keys)
    return -torch.tensor(slopes)[:, None, None] * steps.clamp(min=0)


@alibi_bias.misconception(
    hint="Heads come first, (heads, queries, keys): then a batch of scores can be added to it as it is.",
    symptom="The heads stand on the last axis.",
)
def heads_on_the_last_axis(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    return -torch.tensor(slopes) * (queries - torch.arange(n_keys)).abs()[..., None]


@alibi_bias.misconception(
    hint="Rows are queries and columns are keys. Yours stand the other way round.",
    symptom="Right for a square, where the bias is symmetric; else the shape is wrong.",
)
def bias_with_keys_in_the_rows(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    queries = torch.arange(n_keys - n_queries, n_keys)
    return -torch.tensor(slopes)[:, None, None] * (queries - torch.arange(n_keys)[:, None]).abs()


@alibi_bias.misconception(
    hint="Each step costs the same: the distance itself, not its square.",
    symptom="Right for neighbours; beyond them the bias falls much too fast.",
)
def distance_squared(n_heads, n_queries, n_keys):
    power = 2 ** int(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    queries = torch.arange(n_keys - n_queries, n_keys)[:, None]
    return -torch.tensor(slopes)[:, None, None] * (queries - torch.arange(n_keys)) ** 2


def _turned(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """The definition: every pair is multiplied by its own matrix of rotation (Su et al. 2021, equations 13 to 15)."""
    d = x.shape[-1]
    exponents = torch.arange(0, d, 2, dtype=torch.float64, device=x.device) / d
    angles = positions[..., None].double() * torch.as_tensor(base, dtype=torch.float64) ** -exponents
    cos, sin = angles.cos(), angles.sin()
    rows = [torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)]
    matrices = torch.stack(rows, -2).to(x.dtype)  # (..., n, d / 2, 2, 2)
    return (matrices @ x.reshape(*x.shape[:-1], d // 2, 2, 1)).reshape(x.shape)


def _turned_naive(x: Tensor, positions: Tensor, base: float = 10000.0, nudge: Nudge = as_is) -> Tensor:
    precise = torch.promote_types(x.dtype, torch.float32)
    exponents = torch.arange(0, x.shape[-1], 2, dtype=precise) / x.shape[-1]
    angles = _moved(positions[..., None] * _moved(base**-exponents, nudge), nudge)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)


def _whole_numbers(draw: Draw, high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=draw.generator)


def _turn_cases(draw: Draw) -> Iterator[Case]:
    yield Case("a sentence", (draw.normal(4, 6), torch.arange(4)), gradients=True, tiny=True)
    yield Case("positions in no order", (draw.normal(5, 8), _whole_numbers(draw, 60, 5)), gradients=True)
    yield Case("a batch", (draw.normal(3, 5, 8), torch.arange(5)), gradients=True)
    yield Case("batch and heads", (draw.normal(2, 3, 4, 6), torch.arange(7, 11)), gradients=True)
    yield Case("as many heads as tokens", (draw.normal(2, 4, 4, 8), torch.arange(4)))
    yield Case("as many sentences, heads and tokens as columns", (draw.normal(4, 4, 4, 4), torch.arange(4) * 3))
    yield Case("tokens as wide as they are many", (draw.normal(2, 6, 6), torch.arange(6)), gradients=True)
    yield Case("far from the beginning", (draw.normal(2, 4, 8), torch.arange(1000, 1004)))
    yield Case("neighbours between 256 and 2048", (draw.normal(2, 40, 8), torch.arange(900, 940)))
    yield Case("six thousand tokens in", (draw.normal(2, 5, 8), torch.arange(6000, 6005)))
    yield Case("three leading axes", (draw.normal(2, 2, 3, 4, 6), torch.arange(4)))
    yield Case("columns stored as rows", (draw.normal(2, 5, 6), torch.arange(5)), layout="transposed")
    yield Case("every second number of a row", (draw.normal(2, 5, 6), torch.arange(5)), layout="strided")
    yield Case("wide heads", (draw.normal(2, 5, 64), torch.arange(3, 8)))
    step = partial(Case, check="positions of all kinds")
    yield step("a later step of generation", (draw.normal(2, 3, 1, 8), torch.tensor([17])), gradients=True)
    yield step("each sentence its own positions", (draw.normal(3, 4, 6), _whole_numbers(draw, 50, 3, 4)))
    yield step("sentences of several heads, each its own", (draw.normal(3, 2, 4, 6), _whole_numbers(draw, 50, 3, 1, 4)))
    yield step("sentences as many as heads", (draw.normal(3, 3, 5, 4), _whole_numbers(draw, 50, 3, 1, 5)))
    yield step("one position for all", (draw.normal(3, 4), torch.tensor(5)))
    yield step("one token, no axis for it", (draw.normal(6), torch.tensor(9)))
    yield step("positions before 0", (draw.normal(2, 4, 6), torch.arange(-2, 2)))
    yield step("positions in int32", (draw.normal(4, 6), torch.arange(4, 8, dtype=torch.int32)))
    yield step("everybody at position 0", (draw.normal(3, 6), torch.zeros(3, dtype=torch.int64)))
    based = partial(Case, check="another base")
    yield based("base 100", (draw.normal(4, 8), torch.arange(4), 100.0), gradients=True)
    yield based("base by name", (draw.normal(2, 4, 6), torch.arange(4)), {"base": 500000.0})
    yield based("a whole number for the base", (draw.normal(5, 8), torch.arange(5), 30))
    yield based("a base that is no whole number", (draw.normal(5, 8), torch.arange(5), 12.5))
    edge = partial(Case, check="edge cases")
    yield edge("one pair", (draw.normal(2, 5, 2), torch.arange(5)))
    yield edge("two pairs", (draw.normal(5, 4), torch.arange(5)))
    yield edge("a batch of one", (draw.normal(1, 4, 8), torch.arange(4)))
    yield edge("one token", (draw.normal(2, 1, 8), torch.tensor([0])))
    yield edge("numbers of a thousand", (1000 * draw.normal(2, 4, 8), torch.arange(4)))
    odd = partial(Case, check="odd d", raises=ValueError)
    yield odd("seven columns", (draw.normal(4, 7), torch.arange(4)), says="7")
    yield odd("fifteen columns, with a batch", (draw.normal(2, 4, 15), torch.arange(4)), says="15")
    yield odd("one column", (draw.normal(3, 1), torch.arange(3)), says="1")


def _scores_see_the_distance_alone(answer: Callable[..., Tensor], call: Call) -> str | None:
    x, positions, *rest = call.args
    if x.ndim < 2:
        return None
    near, far = (
        answer(x, moved, *rest, **call.kwargs) @ answer(x.flip(-1), moved, *rest, **call.kwargs).mT
        for moved in (positions, positions + 29)
    )
    if torch.allclose(near, far, rtol=1e-3, atol=1e-3 * float(x.abs().max()) ** 2):
        return None
    return "the scores change when queries and keys are moved by the same number of positions"


def _lengths_stay(answer: Callable[..., Tensor], call: Call) -> str | None:
    gap = (answer(*call.args, **call.kwargs).norm(dim=-1) - call.args[0].norm(dim=-1)).abs().max()
    if gap < 1e-4 * (1 + float(call.args[0].abs().max())):
        return None
    return "a rotation changes no vector's length, and yours does"


rotary = Exam(
    TOPIC,
    "rotary",
    _turned,
    _turned_naive,
    _turn_cases,
    (
        Values("values", 2),
        Values("positions of all kinds", 0.6),
        Values("another base", 0.4),
        Values("edge cases", 0.3),
        Values("odd d", 0.3),
        Properties(0.5, (_scores_see_the_distance_alone, _lengths_stay)),
        Habits(0.4),
        Gradients(0.5),
    ),
)


@rotary.variant
def pairs_turned_and_stacked(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    frequencies = base ** (-torch.arange(0, d, 2, dtype=torch.float32, device=x.device) / d)
    angles = positions[..., None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.variant
def product_of_complex_numbers(x, positions, base=10000.0):
    *lead, d = x.shape
    if d % 2 != 0:
        raise ValueError(f"the width must be even, not {d}")
    precise = torch.promote_types(x.dtype, torch.float32)
    frequencies = 1.0 / base ** (torch.arange(0, d, 2, device=x.device, dtype=precise) / d)
    angles = positions.unsqueeze(-1) * frequencies
    pairs = torch.view_as_complex(x.to(precise).reshape(*lead, d // 2, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2).to(x.dtype)


@rotary.variant
def every_two_swapped(x, positions, base=10000.0):
    d = x.size(-1)
    if d & 1:
        raise ValueError(f"expected an even d, got {d}")
    frequencies = torch.exp(-math.log(base) * torch.arange(0, d, 2, device=x.device).float() / d)
    angles = (positions[..., None].float() * frequencies).repeat_interleave(2, dim=-1)
    swapped = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).reshape(x.shape)
    return x * angles.cos().to(x.dtype) + swapped * angles.sin().to(x.dtype)


@rotary.variant
def filled_in_pair_by_pair(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2 == 1:
        raise ValueError(f"{d} columns make no pairs")
    turned = torch.zeros_like(x)
    for i in range(0, d, 2):
        angle = positions.double() / base ** (i / d)
        cos, sin = torch.cos(angle).to(x.dtype), torch.sin(angle).to(x.dtype)
        turned[..., i] = cos * x[..., i] - sin * x[..., i + 1]
        turned[..., i + 1] = sin * x[..., i] + cos * x[..., i + 1]
    return turned


@rotary.variant
def matrices_by_einsum(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d must be even: {d}")
    angles = positions[..., None] / base ** (torch.arange(0, d, 2, dtype=torch.float64, device=x.device) / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    matrices = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    return torch.einsum("...pij,...pj->...pi", matrices, x.unflatten(-1, (d // 2, 2))).flatten(-2)


@rotary.variant
def halves_between_two_permutations(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"odd width {d}")
    frequencies = base ** -(torch.arange(0, d, 2, device=x.device).float() / d)
    angles = positions[..., None] * torch.cat([frequencies, frequencies])
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    halves = torch.cat([x[..., ::2], x[..., 1::2]], dim=-1)
    other = torch.cat([-halves[..., d // 2 :], halves[..., : d // 2]], dim=-1)
    turned = halves * cos + other * sin
    return turned.unflatten(-1, (2, d // 2)).transpose(-1, -2).flatten(-2)


@rotary.variant
def computed_in_double(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"can't pair up {d} columns")
    exponents = torch.arange(d // 2, dtype=torch.float64, device=x.device) * 2 / d
    angles = positions.to(torch.float64)[..., None] * torch.pow(torch.tensor(float(base), device=x.device), -exponents)
    first, second = x.double().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).reshape(x.shape).to(x.dtype)


@rotary.misconception(
    hint="You pair column i with column i + d/2, as many code bases do. Here the pairs are neighbours, 2i and 2i + 1. "
    "The two differ by an order of columns, and weights made for one are wrong in the other.",
    symptom="Scores depend on the distance alone, as they should; loaded weights give nonsense. Right for d = 2.",
    seen=LLAMA_25199,
)
def halves_for_pairs(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., : d // 2], x[..., d // 2 :]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


@rotary.misconception(
    hint="`positions` is never used: you count tokens from 0. When text is generated, the newest token comes alone, "
    "and you put it at position 0 at every step.",
    symptom="Right for a whole sentence from its start. With a cache every new token seems to be the first.",
    seen=MLX_VLM_1983,
)
def position_zero_at_every_step(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    positions = torch.arange(x.shape[-2], device=x.device)
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="You turn clockwise: the signs of the two sines have changed places.",
    symptom="Scores still depend on the distance alone, but the distance has the other sign.",
    seen="https://github.com/karpathy/nanochat/pull/489",
)
def turned_clockwise(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos + second * sin, second * cos - first * sin], dim=-1).flatten(-2)


@rotary.misconception(
    hint="Both lines have a plus, or both a minus: that is no rotation. In one of the two the sine is subtracted.",
    symptom="Lengths change, and scores depend on where the pair stands, not only on its distance.",
)
def sine_with_one_sign(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos + second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="The first coordinate is overwritten before the second one has used it. Compute both, then store.",
    symptom="The even columns are right, the odd ones are not.",
)
def first_coordinate_overwritten(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    turned = x.clone()
    turned[..., ::2] = turned[..., ::2] * cos - turned[..., 1::2] * sin
    turned[..., 1::2] = turned[..., ::2] * sin + turned[..., 1::2] * cos
    return turned


@rotary.misconception(
    hint="You pair neighbours when you turn, but give them the angles of halves: `repeat` or `cat` where it has to be "
    "`repeat_interleave`. The two columns of a pair have one angle.",
    symptom="Lengths change, and scores depend on where the pair stands. Right for d = 2.",
    seen="https://github.com/xiangking/ark-nlp/issues/47",
)
def neighbours_with_angles_of_halves(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    frequencies = base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    angles = positions[..., None] * torch.cat([frequencies, frequencies])
    swapped = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * angles.cos().to(x.dtype) + swapped * angles.sin().to(x.dtype)


@rotary.misconception(
    hint="You swap halves when you turn, but give them the angles of neighbours. The two columns of a pair have one "
    "angle.",
    symptom="Lengths change, and scores depend on where the pair stands. Right for d = 2.",
    seen="https://github.com/huggingface/transformers/issues/40462",
)
def halves_with_angles_of_neighbours(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    frequencies = base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    angles = positions[..., None] * frequencies.repeat_interleave(2)
    swapped = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], dim=-1)
    return x * angles.cos().to(x.dtype) + swapped * angles.sin().to(x.dtype)


@rotary.misconception(
    hint="The turned pairs are put back in another order: all first coordinates, then all second ones. Interleave "
    "them.",
    symptom="Scores are right, for q and k are reordered alike; the result is not x turned. Right for d = 2.",
)
def pairs_put_back_as_halves(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


@rotary.misconception(
    hint="The exponent of pair i is 2i / d. You divide the number of the pair itself by d.",
    symptom="The last pairs turn much too fast. Right for d = 2.",
)
def pairs_counted_against_the_width(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(d // 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="The exponent is doubled twice: with i for the column it is i / d, with i for the pair 2i / d.",
    symptom="All pairs but the first turn too slowly, the last ones hardly at all. Right for d = 2.",
)
def turned_by_an_exponent_doubled_twice(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-2 * torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="You multiply by base^(2i/d) instead of dividing: later pairs are to turn more slowly.",
    symptom="Right in the first pair; the others spin so fast that neighbours look unrelated.",
    seen="https://github.com/xlite-dev/LeetCUDA/issues/289",
)
def later_pairs_faster(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="All your pairs turn at one speed. Pair i turns by position / base^(2i/d).",
    symptom="Right in the first pair. After 2π positions everything repeats.",
)
def one_speed_for_all_pairs(x, positions, base=10000.0):
    if x.shape[-1] % 2:
        raise ValueError(f"d = {x.shape[-1]} is odd")
    angles = positions[..., None].float()
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="`base` is never used: 10000 stands in your code as a number.",
    symptom="Right until a model with another base comes along; long-context models have one of 500,000.",
)
def base_of_rotation_ignored(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * 10000 ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="The second coordinate has a minus where it needs a plus: you mirror each pair instead of turning it.",
    symptom="Position 0 is changed, too: every second column has the other sign. Lengths stay.",
)
def mirrored_not_turned(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin - second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="You add one to each position. Position 0 is not turned at all.",
    symptom="Scores are right, since they see only distances; everything is turned one step too far.",
)
def turned_one_step_too_far(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = (positions[..., None] + 1) * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="You take positions for one row, the same for the whole batch. They broadcast to `x.shape[:-1]`, with any "
    "axes.",
    symptom="An error as soon as each sentence has positions of its own, as with padding on the left.",
)
def positions_need_one_axis(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = torch.outer(positions, base ** (-torch.arange(0, d, 2, device=x.device).float() / d))
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="`positions[:, None]` puts the new axis behind the first one, whatever comes after that. It belongs behind "
    "all axes that `positions` has.",
    symptom="Right for one row of positions. An error, or the wrong axis, as soon as each sentence has its own.",
)
def new_axis_behind_the_first(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[:, None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="The positions lie along the heads: an axis too many stands behind them. Tokens are on axis −2.",
    symptom="All tokens of a head are turned alike. An error, unless there are as many heads as tokens.",
    seen="https://github.com/mlfoundations/open_lm/issues/4",
)
def positions_along_the_heads(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    if x.ndim > 2 and positions.ndim:
        positions = positions[..., None]
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="You cast x itself to float32. From float64 that throws half of the digits away: the angles need float32 at "
    "least, and x stays as precise as it came.",
    symptom="Right in float32 and below. In float64 finite differences disagree with the gradients.",
    seen=LLAMA_25199,
    testable=False,
)
def x_cast_down_to_single(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles))
    return turned.flatten(-2).to(x.dtype)


@rotary.misconception(
    hint="Your angles have the dtype of x. bfloat16 has no whole numbers between 256 and 258: compute angles in "
    "float32, and round their sines and cosines.",
    symptom="Right in float32. In half precision distant tokens share a position, or stand in the wrong order.",
    seen="https://github.com/EleutherAI/gpt-neox/issues/1003",
)
def angles_in_the_dtype_of_x(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    frequencies = base ** (-torch.arange(0, d, 2, device=x.device, dtype=x.dtype) / d)
    angles = positions[..., None].to(x.dtype) * frequencies
    first, second = x[..., ::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="float32 angles make a float32 result. Cast sine and cosine, or the result, to the dtype of x.",
    symptom="Right in float32. In half precision queries and keys no longer match the values' dtype.",
)
def result_in_single(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    first, second = x[..., ::2].float(), x[..., 1::2].float()
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="The result is as precise as your angles, float32 or better. Cast sine and cosine, or the result, to the "
    "dtype of x.",
    symptom="Right in float32 and float64. In half precision queries and keys no longer match the values' dtype.",
)
def result_as_precise_as_the_angles(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    first, second = x[..., ::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="`view_as_complex` wants the two numbers of a pair side by side in memory. In a transposed x they are not: "
    "make a contiguous copy first.",
    symptom="RuntimeError: Tensor must have a last dimension with stride 1. Right until somebody hands over a view.",
    testable=False,
)
def pairs_not_side_by_side(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    precise = torch.promote_types(x.dtype, torch.float32)
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device, dtype=precise) / d)
    pairs = torch.view_as_complex(x.to(precise).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2).to(x.dtype)


@rotary.misconception(
    hint="An odd width is taken without a word: one column has no partner. Raise a ValueError that names d.",
    symptom="The last column stays as it is, and nobody is told.",
)
def odd_column_left_alone(x, positions, base=10000.0):
    d = x.shape[-1]
    even = d - d % 2
    angles = positions[..., None] * base ** (-torch.arange(0, even, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :even:2], x[..., 1:even:2]
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
    return torch.cat([turned, x[..., even:]], dim=-1)


@rotary.misconception(
    hint="With an odd width some operator fails further down. Check it first, and raise a ValueError that names d.",
    symptom="RuntimeError about sizes that do not match, from somewhere inside.",
)
def odd_width_unchecked(x, positions, base=10000.0):
    d = x.shape[-1]
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


@rotary.misconception(
    hint="Only the first half of the columns is turned. Some models do that on purpose; here all are.",
    symptom="The second half of the columns comes out as it went in.",
)
def half_of_the_columns_turned(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    pairs = max(1, d // 4)
    angles = positions[..., None] * base ** (-2 * torch.arange(pairs, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2]
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
    return torch.cat([turned, x[..., 2 * pairs :]], dim=-1)


@rotary.misconception(
    hint="You add sines and cosines to x, as a sinusoidal encoding does. Rotary positions turn it and add nothing.",
    symptom="Lengths change, and position 0 is no longer left as it is.",
)
def waves_added_instead(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    return x + torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2).to(x.dtype)


@rotary.misconception(
    hint="Slices are views: what you write into them is written into the caller's x.",
    symptom="The result is right; queries that are used again are turned twice.",
)
def turned_in_place(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., ::2].clone(), x[..., 1::2].clone()
    x.data[..., ::2] = first * cos - second * sin
    x.data[..., 1::2] = first * sin + second * cos
    return x


@rotary.misconception(
    hint="The gradient is cut off: `.data`, `.detach()`, NumPy or `torch.tensor(...)` in between.",
    symptom="The output is right; what made q and k never learns.",
)
def turned_and_detached(x, positions, base=10000.0):
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.detach()[..., ::2], x.detach()[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


def _standing(x: Tensor, last: int) -> Tensor:
    """Where the rows of ``x`` stand if the last one stands at ``last``."""
    return torch.arange(last + 1 - x.shape[-2], last + 1, device=x.device)


def _turned_attention(q: Tensor, k: Tensor, v: Tensor, base: float = 10000.0) -> Tensor:
    last = k.shape[-2] - 1
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(
            _turned(q, _standing(q, last), base), _turned(k, _standing(k, last), base), v
        )


def _turned_attention_naive(q: Tensor, k: Tensor, v: Tensor, base: float = 10000.0, nudge: Nudge = as_is) -> Tensor:
    last = k.shape[-2] - 1
    q, k = (nudge(_turned_naive(x, _standing(x, last), base, nudge)) for x in (q, k))
    scores = nudge(q @ k.mT / math.sqrt(q.shape[-1]))
    return naive_softmax(scores, -1, nudge) @ v


def _far_along(draw: Draw, n: int = 600) -> tuple[Tensor, Tensor, Tensor]:
    """One query and ``n`` tokens of one pair that are almost alike; the values are their distance's cosine and sine.

    Whoever rounds positions to bfloat16, which counts by fours here, moves the query by one: no average hides that.
    """
    distance = torch.arange(n - 1, -1, -1, dtype=torch.float64)
    k = 0.1 * draw.normal(n, 2) + torch.tensor([1.7, 0.0], dtype=torch.float64)
    return k[-1:].clone(), k, torch.stack([distance.cos(), distance.sin()], -1)


def _attention_cases(draw: Draw) -> Iterator[Case]:
    def qkv(lead: tuple[int, ...], queries: int, keys: int, d_k: int, d_v: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k = draw.normal(*lead, queries, d_k, scale=1.5), draw.normal(*lead, keys, d_k, scale=1.5)
        return q, k, draw.normal(*lead, keys, d_v)

    yield Case("a sentence", qkv((), 4, 4, 6, 6), gradients=True, tiny=True)
    yield Case("a batch", qkv((2,), 5, 5, 8, 8), gradients=True)
    yield Case("values of another width", qkv((2,), 5, 5, 4, 6), gradients=True)
    yield Case("batch and heads", qkv((2, 3), 4, 4, 6, 6))
    yield Case("as many heads as tokens", qkv((2, 4), 4, 4, 4, 4), gradients=True)
    x = draw.normal(2, 5, 6, scale=1.5)
    yield Case("one tensor for all three", (x, x, x), gradients=True)
    yield Case("columns stored as rows", qkv((2,), 4, 4, 6, 6), layout="transposed")
    lengths = partial(Case, check="queries and keys differ")
    yield lengths("one new query", qkv((2,), 1, 7, 6, 6), gradients=True)
    yield lengths("three queries at the end of eight", qkv((2, 2), 3, 8, 6, 4))
    yield lengths("all but the first query", qkv((2,), 5, 6, 6, 4))
    yield lengths("queries as many as heads", qkv((2, 3), 3, 6, 4, 4))
    yield lengths("the last of six hundred tokens", _far_along(draw))
    based = partial(Case, check="another base")
    yield based("base 20", (*qkv((2,), 6, 6, 8, 8), 20.0))
    yield based("base by name", qkv((2,), 2, 5, 6, 4), {"base": 50.0})
    edge = partial(Case, check="edge cases")
    yield edge("one key", qkv((2,), 1, 1, 4, 3))
    yield edge("one pair", qkv((2,), 4, 4, 2, 2))
    yield edge("values of odd width", qkv((2,), 4, 4, 6, 5))
    q, k, v = qkv((2,), 4, 4, 6, 6)
    yield edge("scores of some thousands", (60 * q, 60 * k, v), coarse=False)
    yield edge("seven columns", qkv((2,), 4, 4, 7, 6), raises=ValueError, says="7")


def _averages_of_the_values(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k, v, *rest = call.args
    ones = torch.ones_like(v)
    if (answer(q, k, ones, *rest, **call.kwargs) - 1).abs().max() < 1e-6:
        return None
    return "where all values are 1 an average is 1, and yours is not"


rotary_attention = Exam(
    TOPIC,
    "rotary_attention",
    _turned_attention,
    _turned_attention_naive,
    _attention_cases,
    (
        Values("values", 1),
        Values("queries and keys differ", 0.75),
        Values("another base", 0.25),
        Values("edge cases", 0.25),
        Properties(0.25, (_averages_of_the_values,)),
        Habits(0.25),
        Gradients(0.25),
    ),
)


@rotary_attention.variant
def turned_then_attended(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    n_queries, n_keys = q.shape[-2], k.shape[-2]
    positions = torch.arange(n_keys - n_queries, n_keys, device=q.device)
    q, k = turn(q, positions), turn(k, torch.arange(n_keys, device=k.device))
    return F.scaled_dot_product_attention(q, k, v)


@rotary_attention.variant
def last_of_the_keys_positions(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    positions = torch.arange(k.shape[-2], device=k.device)
    return F.scaled_dot_product_attention(turn(q, positions[-q.shape[-2] :]), turn(k, positions), v)


@rotary_attention.variant
def softmax_written_out(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    last = k.shape[-2] - 1
    q = turn(q, torch.arange(last + 1 - q.shape[-2], last + 1, device=q.device))
    k = turn(k, torch.arange(last + 1, device=k.device))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return torch.softmax(scores, dim=-1) @ v


@rotary_attention.variant
def last_query_at_zero(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    q = turn(q, torch.arange(1 - q.shape[-2], 1, device=q.device))
    k = turn(k, torch.arange(1 - k.shape[-2], 1, device=k.device))
    return torch.einsum(
        "...qk,...kd->...qd", (torch.einsum("...qd,...kd->...qk", q, k) / q.shape[-1] ** 0.5).softmax(-1), v
    )


@rotary_attention.variant
def only_distances_turned_into_scores(q, k, v, base=10000.0):
    d, n_queries, n_keys = q.shape[-1], q.shape[-2], k.shape[-2]
    if d % 2:
        raise ValueError(f"d_k is {d}, which is odd")
    distances = torch.arange(n_keys) - torch.arange(n_keys - n_queries, n_keys)[:, None]
    angles = distances[..., None] * base ** (-torch.arange(0, d, 2).float() / d)
    cos, sin = angles.cos().to(q), angles.sin().to(q)
    q, k = q.unflatten(-1, (-1, 2)), k.unflatten(-1, (-1, 2))
    along = torch.einsum("...qpc,...kpc,qkp->...qk", q, k, cos)
    across = torch.einsum("...qp,...kp,qkp->...qk", q[..., 1], k[..., 0], sin)
    back = torch.einsum("...qp,...kp,qkp->...qk", q[..., 0], k[..., 1], sin)
    return torch.softmax((along + across - back) / d**0.5, dim=-1) @ v


@rotary_attention.variant
def query_by_query(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    n_queries, n_keys = q.shape[-2], k.shape[-2]
    k = turn(k, torch.arange(n_keys, device=k.device))
    outputs = []
    for i in range(n_queries):
        query = turn(q[..., i : i + 1, :], torch.tensor([n_keys - n_queries + i], device=q.device))
        outputs.append(torch.softmax((query / math.sqrt(q.shape[-1])) @ k.mT, dim=-1) @ v)
    return torch.cat(outputs, dim=-2)


@rotary_attention.variant
def heads_made_explicit(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    *lead, n_queries, _ = q.shape
    n_keys = k.shape[-2]
    positions = torch.arange(n_keys, device=k.device)
    q = turn(q, (positions[-1] - n_queries + 1 + torch.arange(n_queries, device=q.device)).expand(*lead, n_queries))
    k = turn(k, positions.expand(*lead, n_keys))
    exponentials = torch.exp((s := q @ k.mT * q.shape[-1] ** -0.5) - s.amax(-1, keepdim=True))
    return exponentials @ v / exponentials.sum(-1, keepdim=True)


@rotary_attention.misconception(
    hint="The values are turned, too. Then the output depends on where the sentence begins: turn only what makes the "
    "scores.",
    symptom="Move all tokens by three positions, and the output changes. It trains; nothing is relative any more.",
    seen="https://github.com/lucidrains/x-transformers/issues/182",
)
def values_turned_as_well(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    n_queries, n_keys = q.shape[-2], k.shape[-2]
    positions = torch.arange(n_keys - n_queries, n_keys, device=q.device)
    keys = torch.arange(n_keys, device=k.device)
    values = turn(v, keys) if v.shape[-1] % 2 == 0 else v
    return F.scaled_dot_product_attention(turn(q, positions), turn(k, keys), values)


@rotary_attention.misconception(
    hint="Your first query stands at position 0. The last query stands where the last key does: with one query, that "
    "is n_keys − 1.",
    symptom="Right for as many queries as keys. With a cache the text falls apart after the first new token.",
    seen=MLX_VLM_1983,
)
def newest_query_at_position_zero(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    q = turn(q, torch.arange(q.shape[-2], device=q.device))
    k = turn(k, torch.arange(k.shape[-2], device=k.device))
    return F.scaled_dot_product_attention(q, k, v)


@rotary_attention.misconception(
    hint="Your angles have the dtype of q, and bfloat16 can't tell position 599 from 600. Compute angles in float32.",
    symptom="Right in float32. In half precision the newest token of a long text takes its neighbours for itself.",
)
def angles_in_the_dtype_of_the_queries(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        frequencies = base ** (-torch.arange(0, d, 2, device=x.device, dtype=x.dtype) / d)
        angles = positions[..., None].to(x.dtype) * frequencies
        cos, sin = angles.cos(), angles.sin()
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    keys = torch.arange(k.shape[-2], device=k.device)
    return F.scaled_dot_product_attention(turn(q, keys[-q.shape[-2] :]), turn(k, keys), v)


@rotary_attention.misconception(
    hint="Only the queries are turned. Scores see the distance only if the keys are turned as well.",
    symptom="Scores depend on where the query stands, whatever the distance.",
)
def keys_left_unturned(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    n_queries, n_keys = q.shape[-2], k.shape[-2]
    positions = torch.arange(n_keys - n_queries, n_keys, device=q.device)
    return F.scaled_dot_product_attention(turn(q, positions), k + 0 * turn(k, torch.zeros(1, device=k.device)), v)


@rotary_attention.misconception(
    hint="Only the keys are turned. Scores see the distance only if the queries are turned as well.",
    symptom="Scores depend on where the key stands, whatever the distance.",
)
def queries_left_unturned(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    k = turn(k, torch.arange(k.shape[-2], device=k.device))
    return F.scaled_dot_product_attention(q, k, v)


@rotary_attention.misconception(
    hint="The keys are turned twice, as happens when turned keys are kept in a cache and turned again. Turn them once.",
    symptom="Every key seems to stand at twice its position.",
)
def keys_turned_twice(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    n_queries, n_keys = q.shape[-2], k.shape[-2]
    positions = torch.arange(n_keys - n_queries, n_keys, device=q.device)
    keys = torch.arange(n_keys, device=k.device)
    return F.scaled_dot_product_attention(turn(q, positions), turn(turn(k, keys), keys), v)


@rotary_attention.misconception(
    hint="All queries are turned as if they stood at one place. Each stands one further than the one before.",
    symptom="Right with one query; with several new tokens at once all but one are wrong.",
    seen="https://github.com/jundot/omlx/pull/2363",
)
def all_queries_at_one_position(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    n_queries, n_keys = q.shape[-2], k.shape[-2]
    positions = torch.full((n_queries,), n_keys - 1, device=q.device)
    return F.scaled_dot_product_attention(turn(q, positions), turn(k, torch.arange(n_keys, device=k.device)), v)


@rotary_attention.misconception(
    hint="Your last query stands one beyond the last key. The newest token is a key, too: both stand at n_keys − 1.",
    symptom="Every distance is one too large.",
    seen="https://github.com/fla-org/flash-linear-attention/issues/766",
)
def queries_one_step_beyond(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    n_queries, n_keys = q.shape[-2], k.shape[-2]
    positions = torch.arange(n_keys - n_queries + 1, n_keys + 1, device=q.device)
    return F.scaled_dot_product_attention(turn(q, positions), turn(k, torch.arange(n_keys, device=k.device)), v)


@rotary_attention.misconception(
    hint="You pair column i with column i + d/2, as many code bases do. Here the pairs are neighbours, 2i and 2i + 1.",
    symptom="Scores still depend on the distance alone, and a model of its own trains. With other weights it fails.",
    seen=LLAMA_25199,
)
def scores_of_halves_for_pairs(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)

    positions = torch.arange(k.shape[-2], device=k.device)
    return F.scaled_dot_product_attention(turn(q, positions[-q.shape[-2] :]), turn(k, positions), v)


@rotary_attention.misconception(
    hint="You add sines and cosines to queries and keys, as a sinusoidal encoding does. Rotary positions turn them.",
    symptom="The scores depend on where the tokens stand, not on their distance alone.",
)
def waves_added_before_the_scores(q, k, v, base=10000.0):
    d = q.shape[-1]
    if d % 2:
        raise ValueError(f"d = {d} is odd")
    angles = torch.arange(k.shape[-2], device=k.device)[:, None] * base ** (
        -torch.arange(0, d, 2, device=k.device).float() / d
    )
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2).to(q.dtype)
    return F.scaled_dot_product_attention(q + waves[-q.shape[-2] :], k + waves, v)


@rotary_attention.misconception(
    hint="Positions are counted along another axis than the tokens', which are on axis −2.",
    symptom="Right on one sentence. With heads every token of a head is turned alike.",
    seen="https://github.com/facebookresearch/xformers/issues/841",
)
def heads_counted_as_tokens(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    def placed(x):
        if x.ndim < 3:
            return turn(x, torch.arange(k.shape[-2] - x.shape[-2], k.shape[-2], device=x.device))
        return turn(x, torch.arange(x.shape[-3], device=x.device)[:, None])

    return F.scaled_dot_product_attention(placed(q), placed(k), v)


@rotary_attention.misconception(
    hint="`base` is not handed on to the rotation.",
    symptom="Right for the default; a model with another base gets the wrong angles.",
)
def base_not_passed_on(q, k, v, base=10000.0):
    def turn(x, positions, base=10000.0):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    n_queries, n_keys = q.shape[-2], k.shape[-2]
    positions = torch.arange(n_keys - n_queries, n_keys, device=q.device)
    return F.scaled_dot_product_attention(turn(q, positions), turn(k, torch.arange(n_keys, device=k.device)), v)


@rotary_attention.misconception(
    hint="The scores are not divided by √d_k. Turning changes no length, so they are as large as ever.",
    symptom="Weights are too sharp.",
)
def turned_but_not_scaled(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    n_queries, n_keys = q.shape[-2], k.shape[-2]
    positions = torch.arange(n_keys - n_queries, n_keys, device=q.device)
    scores = turn(q, positions) @ turn(k, torch.arange(n_keys, device=k.device)).mT
    return torch.softmax(scores, dim=-1) @ v


@rotary_attention.misconception(
    hint="You hide the keys that come later. Here every query sees every key.",
    symptom="The first token sees itself only.",
)
def causal_without_being_asked(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    n_queries, n_keys = q.shape[-2], k.shape[-2]
    positions = torch.arange(n_keys - n_queries, n_keys, device=q.device)
    keys = torch.arange(n_keys, device=k.device)
    seen = keys <= positions[:, None]
    return F.scaled_dot_product_attention(turn(q, positions), turn(k, keys), v, seen)


@rotary_attention.misconception(
    hint="You add a score made of the positions alone. Rotary positions act on queries and keys, and add nothing.",
    symptom="Tokens prefer certain distances, whatever they say.",
)
def scores_of_positions_added(q, k, v, base=10000.0):
    def turn(x, positions):
        d = x.shape[-1]
        if d % 2:
            raise ValueError(f"d = {d} is odd")
        angles = positions[..., None] * base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)

    n_queries, n_keys = q.shape[-2], k.shape[-2]
    positions = torch.arange(n_keys - n_queries, n_keys, device=q.device)
    q, k = turn(q, positions), turn(k, torch.arange(n_keys, device=k.device))
    ones = torch.ones_like(k)
    bias = turn(torch.ones_like(q), positions) @ turn(ones, torch.arange(n_keys, device=k.device)).mT
    return torch.softmax((q @ k.mT + bias) / math.sqrt(q.shape[-1]), dim=-1) @ v


def _has_begun(distance: int, k: int, n_exact: int, growing: int, farthest: int) -> bool:
    """Whether bucket n_exact + k begins at ``distance`` or before: n_exact · (farthest / n_exact)^(k / growing).

    Both sides are raised to the power ``growing`` and compared as whole numbers, which no rounding can touch.
    """
    return bool(distance**growing * n_exact**k >= n_exact**growing * farthest**k)


def _bucket(relative: int, n_buckets: int, max_distance: int, bidirectional: bool) -> int:
    first, distance = 0, max(0, -relative)
    if bidirectional:
        n_buckets //= 2
        first, distance = (n_buckets if relative > 0 else 0), abs(relative)
    n_exact = n_buckets // 2
    if distance < n_exact:
        return first + distance
    growing = n_buckets - n_exact
    begun = [k for k in range(growing) if _has_begun(distance, k, n_exact, growing, max_distance)]
    return first + n_exact + max(begun)


def _buckets(
    relative_position: Tensor, n_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
) -> Tensor:
    """The definition, distance by distance: the last bucket that has begun (Raffel et al. 2020, section 2.1)."""
    numbers = [_bucket(one, n_buckets, max_distance, bidirectional) for one in relative_position.flatten().tolist()]
    return torch.tensor(numbers, dtype=torch.int64).reshape(relative_position.shape)


def _buckets_naive(
    relative_position: Tensor,
    n_buckets: int = 32,
    max_distance: int = 128,
    bidirectional: bool = True,
    nudge: Nudge = as_is,
) -> Tensor:
    return _buckets(relative_position, n_buckets, max_distance, bidirectional)


def _clear(distances: range, n_buckets: int, max_distance: int, bidirectional: bool) -> Tensor:
    """``distances`` without those at which a bucket begins exactly: the logarithm may be rounded down there."""
    n_exact = n_buckets // (4 if bidirectional else 2)
    begins = {
        distance
        for distance in range(n_exact + 1, max_distance)
        for k in range(1, n_exact)
        if distance**n_exact * n_exact**k == n_exact**n_exact * max_distance**k
    }
    return torch.tensor([distance for distance in distances if abs(distance) not in begins])


def _bucket_cases(draw: Draw) -> Iterator[Case]:
    def around(n_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True) -> Tensor:
        return _clear(range(-2 * max_distance, 2 * max_distance), n_buckets, max_distance, bidirectional)

    def some(tensor: Tensor, *shape: int) -> Tensor:
        count = math.prod(shape)
        return tensor[torch.randint(len(tensor), (count,), generator=draw.generator)].reshape(shape)

    yield Case("a line of distances", (around(),))
    yield Case("distances in no order", (some(around(), 20),))
    yield Case("queries by keys", (torch.arange(12) - torch.arange(7)[:, None],))
    yield Case("more queries than keys", (torch.arange(6) - torch.arange(11)[:, None],))
    yield Case("batch and heads", (some(around(), 2, 3, 4, 5),))
    yield Case("keys before the query alone", (torch.arange(-15, 1),))
    yield Case("keys after the query alone", (torch.arange(16),))
    yield Case("every second number of a row", (some(around(), 3, 8),), layout="strided")
    yield Case("a grid stored by columns", (some(around(), 5, 7),), layout="transposed")
    one_way = partial(Case, check="one direction")
    yield one_way("one direction, a line", (around(bidirectional=False),), {"bidirectional": False})
    yield one_way("one direction, queries by keys", (torch.arange(9) - torch.arange(9)[:, None], 32, 128, False))
    yield one_way("one direction, 8 buckets", (around(8, 50, False), 8, 50, False))
    other = partial(Case, check="other sizes")
    for n_buckets, max_distance in ((16, 100), (8, 20), (12, 60), (64, 500)):
        line = around(n_buckets, max_distance)
        yield other(f"{n_buckets} buckets up to {max_distance}", (line, n_buckets, max_distance))
    yield other("max_distance by name", (around(32, 90),), {"max_distance": 90})
    yield other("n_buckets by name", (around(24, 128),), {"n_buckets": 24})
    edge = partial(Case, check="edge cases")
    yield edge("one distance, no axis", (torch.tensor(-3),))
    yield edge("nothing but zero", (torch.zeros(2, 3, dtype=torch.int64),))
    yield edge("very far", (torch.tensor([-(10**6), -5000, 5000, 10**6]),))
    yield edge("very far in one direction", (torch.tensor([-(10**6), -5000, 5000]), 32, 128, False))
    yield edge("the fewest buckets", (around(4, 9), 4, 9))


relative_position_bucket = Exam(
    TOPIC,
    "relative_position_bucket",
    _buckets,
    _buckets_naive,
    _bucket_cases,
    (
        Values("values", 2),
        Values("one direction", 0.7),
        Values("other sizes", 0.6),
        Values("edge cases", 0.4),
        # They hold far distances of either sign, in two directions and in one: no branch may write into them.
        Habits(0.3, on="edge cases"),
    ),
    dtype=torch.int64,
)


@relative_position_bucket.variant
def logarithm_kept_from_zero(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.variant
def logarithm_of_zero_thrown_away(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    buckets = torch.zeros_like(relative_position)
    if bidirectional:
        n_buckets = n_buckets // 2
        buckets = buckets + (relative_position > 0).long() * n_buckets
        distance = torch.abs(relative_position)
    else:
        distance = -torch.minimum(relative_position, torch.zeros_like(relative_position))
    exact = n_buckets // 2
    scaled = torch.log(distance.double() / exact) / math.log(max_distance / exact) * (n_buckets - exact)
    far = torch.clamp(exact + scaled.to(torch.int64), max=n_buckets - 1)
    return buckets + torch.where(distance < exact, distance, far)


@relative_position_bucket.variant
def one_number_at_a_time(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    def bucket(relative):
        if not bidirectional:
            return of_distance(max(0, -relative), n_buckets)
        half = n_buckets // 2
        return (half if relative > 0 else 0) + of_distance(abs(relative), half)

    def of_distance(distance, n):
        exact = n // 2
        if distance < exact:
            return distance
        return min(n - 1, exact + int((n - exact) * math.log(distance / exact) / math.log(max_distance / exact)))

    numbers = [bucket(relative) for relative in relative_position.flatten().tolist()]
    return torch.tensor(numbers, device=relative_position.device).reshape(relative_position.shape)


@relative_position_bucket.variant
def edges_searched(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    n = n_buckets // 2 if bidirectional else n_buckets
    exact = n // 2
    steps = torch.arange(n - exact, dtype=torch.float64, device=relative_position.device) / (n - exact)
    edges = torch.cat([torch.arange(1, exact, device=steps.device), exact * (max_distance / exact) ** steps])
    distance = relative_position.abs() if bidirectional else (-relative_position).clamp(min=0)
    buckets = torch.bucketize(distance.double().contiguous(), edges - 1e-9, right=True)
    return buckets + n * (relative_position > 0) if bidirectional else buckets


@relative_position_bucket.variant
def edges_counted(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    n = n_buckets // (1 + bidirectional)
    exact = n // 2
    distance = relative_position.abs() if bidirectional else torch.relu(-relative_position)
    bucket = distance.clamp(max=exact)
    for k in range(1, n - exact):
        bucket = bucket + (distance + 1e-9 >= exact * (max_distance / exact) ** (k / (n - exact)))
    return torch.where(relative_position > 0, bucket + n, bucket) if bidirectional else bucket


@relative_position_bucket.variant
def looked_up_in_a_list(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    n = n_buckets // 2 if bidirectional else n_buckets
    exact = n // 2
    near = list(range(exact))
    far = [
        exact + int(math.log2(d / exact) / math.log2(max_distance / exact) * (n - exact))
        for d in range(exact, max_distance)
    ]
    table = torch.tensor([*near, *far, n - 1], device=relative_position.device)
    past = table[(-relative_position).clamp(0, max_distance)]
    future = n + table[relative_position.clamp(0, max_distance)] if bidirectional else torch.zeros_like(past)
    return torch.where(relative_position > 0, future, past)


@relative_position_bucket.misconception(
    hint="You take the distance for query minus key. It is key minus query: negative for keys before the query.",
    symptom="Past and future have changed places: every model that was trained the other way round breaks.",
    seen="https://github.com/dmlc/gluon-nlp/pull/1470",
)
def query_minus_key(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position < 0), relative_position.abs()
    else:
        first, distance = 0, relative_position.clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="The two halves of the buckets have changed places: the first is for keys at or before the query.",
    symptom="Right in one direction. In two the past has the numbers of the future.",
)
def halves_of_the_buckets_swapped(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position < 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="In one direction a key after the query goes to bucket 0. You treat it like one as far before it.",
    symptom="Right for keys before the query; in one direction the future has the past's buckets.",
)
def future_like_the_past(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    distance, first = relative_position.abs(), 0
    if bidirectional:
        n_buckets //= 2
        first = n_buckets * (relative_position > 0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="With two directions each has half of the buckets. You give all of them to both.",
    symptom="Numbers beyond n_buckets − 1: an index out of range as soon as the bias is looked up.",
)
def buckets_not_halved(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="The buckets are halved in one direction, too. There all of them belong to the past.",
    symptom="Right in two directions; in one, the upper half of the buckets is never used.",
)
def buckets_always_halved(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    n_buckets //= 2
    if bidirectional:
        first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="`bidirectional` is never looked at: keys after the query always have buckets of their own.",
    symptom="Right in two directions only.",
)
def always_two_directions(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    n_buckets //= 2
    first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="Your logarithm is divided by log(max_distance). The growing buckets begin at the first distance that has no "
    "bucket of its own, not at 1: what is the logarithm of the whole stretch?",
    symptom="The far buckets are filled too slowly, and the last ones begin far beyond max_distance.",
)
def stretch_counted_from_one(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="Beyond max_distance your numbers go on growing. All that is farther shares the last bucket.",
    symptom="Far pairs get numbers of the other direction, or an index out of range.",
)
def no_last_bucket(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    return first + torch.where(distance < exact, distance, exact + (share * (n_buckets - exact)).long())


@relative_position_bucket.misconception(
    hint="A direction with n buckets has the numbers 0 to n − 1. You let n through.",
    symptom="Far keys before the query share a bucket with keys after it, or the index is out of range.",
)
def one_bucket_too_many(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="A bucket lasts until the next one begins: round down, not to the nearest.",
    symptom="Every far bucket begins too early.",
)
def buckets_rounded_to_the_nearest(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + (share * (n_buckets - exact)).round().long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="The first of the growing buckets has the number e, for k = 0. Yours begin one too high.",
    symptom="Every far bucket begins too early, and one number is never used.",
)
def growing_buckets_one_too_high(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + 1 + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="Distance 0 stands with the keys before the query. `>= 0` puts it with those after.",
    symptom="The bias of a token with itself is wrong, and nothing else.",
)
def zero_with_the_future(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position >= 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="The far buckets are all of the same width. They are to grow by a constant factor: use a logarithm.",
    symptom="Right for near keys; keys at some distance are put too low.",
)
def far_buckets_of_one_width(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = (distance - exact) / (max_distance - exact)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="You clip the distance, as Shaw's relative positions do. T5's far buckets hold several distances each.",
    symptom="Right for the near half; everything beyond it falls into too high a bucket.",
)
def clipped_as_in_shaw(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if not bidirectional:
        return (-relative_position).clamp(0, n_buckets - 1)
    n_buckets //= 2
    return n_buckets * (relative_position > 0) + relative_position.abs().clamp(max=n_buckets - 1)


@relative_position_bucket.misconception(
    hint="The logarithm is used from distance 1 on. The first half of the buckets holds one distance each.",
    symptom="Neighbours at distances 1, 2 and 3 are not where they belong, or share a bucket.",
)
def logarithm_from_the_start(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    share = torch.log(distance + 1.0) / math.log(max_distance)
    return first + (share * n_buckets).long().clamp(max=n_buckets - 1)


@relative_position_bucket.misconception(
    hint="128 stands in your code as a number: `max_distance` is never used.",
    symptom="Right until somebody asks for another distance.",
)
def farthest_is_always_128(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(128 / exact)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="`abs_()` and `clamp_()` write into the caller's tensor. Use the names without the underscore.",
    symptom="The first call is right; the same distances asked again are all positive.",
)
def distances_overwritten(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first = n_buckets * (relative_position > 0)
        distance = relative_position.abs_()
    else:
        first, distance = 0, relative_position.neg_().clamp_(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + (share * (n_buckets - exact)).long()).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance, far)


@relative_position_bucket.misconception(
    hint="A bucket's number is an index: int64, not float.",
    symptom="The numbers are right, and the lookup of the bias stops with an error.",
)
def buckets_as_floats(relative_position, n_buckets=32, max_distance=128, bidirectional=True):
    if bidirectional:
        n_buckets //= 2
        first, distance = n_buckets * (relative_position > 0), relative_position.abs()
    else:
        first, distance = 0, (-relative_position).clamp(min=0)
    exact = n_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact)
    far = (exact + torch.floor(share * (n_buckets - exact))).clamp(max=n_buckets - 1)
    return first + torch.where(distance < exact, distance.float(), far)


check_rotary = examiner(TOPIC, "check_rotary", rotary, plain=pairs_turned_and_stacked)


@check_rotary.variant
def against_complex_numbers(fn):
    def right(x, positions, base=10000.0):
        angles = positions[..., None] / base ** (torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    own = torch.randint(0, 90, (3, 1, 5))
    for shape, positions in (
        ((5, 2), own[0, 0]),
        ((2, 5, 8), own[0, 0]),
        ((3, 2, 5, 6), own),
        ((4, 4, 4, 4), own[0, 0, :4]),
    ):
        for base in (10000.0, 30.0):
            x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
            before = x.detach().clone()
            result = fn(x, positions) if base == 10000.0 else fn(x, positions, base)
            torch.testing.assert_close(result, right(x, positions, base), rtol=0, atol=1e-3)
            assert torch.equal(x, before)
            (gradient,) = torch.autograd.grad(result.sum(), x)
            torch.testing.assert_close(gradient, right(torch.ones_like(before), -positions, base), rtol=0, atol=1e-3)
    x = torch.randn(64, 8).bfloat16()
    result = fn(x, torch.arange(900, 964))
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), right(x, torch.arange(900, 964)), rtol=0.05, atol=0.05)
    said = ""
    try:
        fn(torch.randn(4, 9), torch.arange(4))
    except ValueError as error:
        said = str(error)
    assert "9" in said


@check_rotary.variant
def against_matrices_in_loops(fn):
    def slow(x, positions, base):
        d = x.shape[-1]
        turned = torch.empty_like(x)
        for place in range(x.shape[-2]):
            for i in range(0, d, 2):
                angle = float(positions[..., place].flatten()[0]) / base ** (i / d)
                matrix = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
                turned[..., place, i : i + 2] = x[..., place, i : i + 2] @ x.new_tensor(matrix).T
        return turned

    for shape, base in (((4, 6), 10000.0), ((3, 4, 8), 70.0), ((2, 4, 4, 4), 10000.0), ((1, 3, 1, 8), 10000.0)):
        x = torch.randn(shape, dtype=torch.float64).requires_grad_()
        positions = torch.randint(1, 80, (shape[-2],))
        before = x.detach().clone()
        result = fn(x, positions, base=base)
        if not torch.equal(before, x.detach()) or not torch.allclose(result, slow(before, positions, base), atol=1e-3):
            return False
        grad = torch.autograd.grad(result.square().sum(), x, allow_unused=True)[0] if result.requires_grad else None
        if grad is None or not torch.allclose(grad, 2 * before, atol=1e-2):
            return False
        whole = fn(
            torch.stack([before] * 2),
            torch.stack([positions, positions + 5]).view(2, *(1 for _ in shape[:-2]), -1),
            base,
        )
        if not torch.allclose(whole[1], slow(before, positions + 5, base), atol=1e-3):
            return False
    x, positions = torch.randn(50, 8).bfloat16(), torch.arange(800, 850)
    half = fn(x, positions)
    if half.dtype != x.dtype or not torch.allclose(half.double(), slow(x.double(), positions, 10000.0), atol=0.06):
        return False
    try:
        fn(torch.randn(3, 5), torch.arange(3))
    except ValueError as error:
        return "5" in str(error)
    return False


@check_rotary.misconception(
    hint="You look at the shape only. Most wrong answers have the right shape.",
    symptom="An answer that turns nothing passes.",
)
def rotary_only_the_shape(fn):
    assert fn(torch.randn(2, 5, 8), torch.arange(5)).shape == (2, 5, 8)


@check_rotary.misconception(
    hint="Every rotation keeps lengths: clockwise, by the wrong angle, of the wrong pairs. Look at the numbers, too.",
    symptom="All answers pass that turn anything by any angle.",
)
def rotary_only_the_lengths(fn):
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(fn(x, torch.arange(5)).norm(dim=-1), x.norm(dim=-1), rtol=1e-4, atol=1e-4)


@check_rotary.misconception(
    hint="That scores depend on the distance alone is necessary. It also holds for halves instead of pairs, for the "
    "wrong direction and for other speeds.",
    symptom="Halves for pairs, clockwise turns and one speed for all pass.",
)
def rotary_only_the_distance(fn):
    q, k = torch.randn(2, 5, 8, dtype=torch.float64).unbind()
    near, far = (fn(q, torch.arange(5) + shift) @ fn(k, torch.arange(5) + shift).mT for shift in (0, 31))
    torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-3)


@check_rotary.misconception(
    hint="At position 0 nothing is turned, by any angle. Use other positions.",
    symptom="Nearly everything passes.",
)
def rotary_only_position_zero(fn):
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(fn(x, torch.zeros(5, dtype=torch.int64)), x)


@check_rotary.misconception(
    hint="With one pair of columns there is only one speed and one way to pair them. Use wider inputs as well.",
    symptom="Wrong pairs, wrong speeds and a base that is ignored pass.",
)
def rotary_only_one_pair(fn):
    x, positions = torch.randn(7, 2, dtype=torch.float64), torch.tensor([3, 1, 4, 1, 5, 9, 2])
    cos, sin = positions.cos()[:, None], positions.sin()[:, None]
    right = torch.cat([x[:, :1] * cos - x[:, 1:] * sin, x[:, :1] * sin + x[:, 1:] * cos], dim=1)
    torch.testing.assert_close(fn(x, positions), right, rtol=0, atol=1e-3)


@check_rotary.misconception(
    hint="Your positions are always 0, 1, 2, … Then nobody sees whether `positions` is used at all.",
    symptom="Counting the tokens instead passes.",
)
def rotary_only_from_the_start(fn):
    def right(x, positions, base=10000.0):
        angles = positions[..., None] / base ** (torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    for shape in ((5, 6), (2, 5, 8), (4, 4, 4, 4)):
        for base in (10000.0, 30.0):
            x = torch.randn(shape, dtype=torch.float64)
            positions = torch.arange(shape[-2])
            torch.testing.assert_close(fn(x, positions, base), right(x, positions, base), rtol=0, atol=1e-3)


@check_rotary.misconception(
    hint="You check float64 values alone: neither half precision, nor gradients, nor the input afterwards, nor an odd "
    "width.",
    symptom="Angles in bfloat16, detached results and silently accepted odd widths pass.",
)
def rotary_only_the_values(fn):
    def right(x, positions, base=10000.0):
        angles = positions[..., None] / base ** (torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    own = torch.randint(0, 90, (3, 1, 5))
    for shape, positions in (
        ((5, 2), own[0, 0]),
        ((2, 5, 8), own[0, 0]),
        ((3, 2, 5, 6), own),
        ((4, 4, 4, 4), own[0, 0, :4]),
    ):
        for base in (10000.0, 30.0):
            x = torch.randn(shape, dtype=torch.float64)
            torch.testing.assert_close(fn(x.clone(), positions, base), right(x, positions, base), rtol=0, atol=1e-3)


@check_rotary.misconception(
    hint="Right answers are rejected. They differ in their last digits: compare with a tolerance, not with `==`.",
    symptom="No right answer passes but your own.",
)
def rotary_exact_equality(fn):
    def right(x, positions, base=10000.0):
        angles = positions[..., None] / base ** (torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    x = torch.randn(2, 30, 32)
    assert torch.equal(fn(x, torch.arange(30)), right(x, torch.arange(30)).float())


@check_rotary.misconception(
    hint="You ask for twelve digits. Angles in float32 are right whatever the dtype of x: ask for some four digits.",
    symptom="Right answers with float32 angles are rejected.",
)
def rotary_too_many_digits(fn):
    def right(x, positions, base=10000.0):
        angles = positions[..., None] / base ** (torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    for shape in ((5, 6), (2, 5, 8)):
        x, positions = torch.randn(shape, dtype=torch.float64), torch.tensor([3, 50, 41, 7, 90])
        torch.testing.assert_close(fn(x, positions), right(x, positions), rtol=1e-12, atol=1e-12)
