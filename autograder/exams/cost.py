"""The exams of *cost*: operations and bytes counted, a cache for keys and values, and attentions that keep it small."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from autograder.answer.guard import ATTENTION
from autograder.answer.toys import Record, build
from autograder.engine.checks import Gradients, Growth, Habits, Values, counterexample
from autograder.engine.exam import Case, Draw, Exam, Model, Nudge, as_is
from autograder.exams.masking import naive_masked_softmax
from autograder.exams.scaling import rounded_root

TOPIC = "cost"
# The contract names one error for each fault of a mask; which of the two comes is not worth a mark.
REFUSAL = (TypeError, ValueError)
FLASH_594 = "https://github.com/Dao-AILab/flash-attention/issues/594"
MAXTEXT_1972 = "https://github.com/AI-Hypercomputer/maxtext/issues/1972"
VERL_4959 = "https://github.com/verl-project/verl/pull/4959"
MLX_4019 = "https://github.com/ml-explore/mlx/pull/4019"
TORCHTUNE_398 = "https://github.com/meta-pytorch/torchtune/issues/398"
NANOCHAT_186 = "https://github.com/karpathy/nanochat/pull/186"
NANOCHAT_627 = "https://github.com/karpathy/nanochat/pull/627"
LITGPT_2215 = "https://github.com/Lightning-AI/litgpt/pull/2215"
TINYLLM_17 = "https://github.com/Mikyx-1/TinyLLM/issues/17"
HYPRSTREAM_1521 = "https://github.com/hyprstream/hyprstream/pull/1521"
TRANSFORMERS_15751 = "https://github.com/huggingface/transformers/pull/15751"
TINY_LLM_46 = "https://github.com/skyzh/tiny-llm/pull/46"
LLAMA_CPP_7859 = "https://github.com/ggml-org/llama.cpp/issues/7859"
ONNX_7274 = "https://github.com/onnx/onnx/pull/7274"
PRIME_RL_2681 = "https://github.com/PrimeIntellect-ai/prime-rl/pull/2681"
KERAS_23081 = "https://github.com/keras-team/keras/pull/23081"
OLLAMA_13893 = "https://github.com/ollama/ollama/pull/13893"
TRANSFORMERS_47761 = "https://github.com/huggingface/transformers/pull/47761"


# Counting. The definitions, product by product: a (rows × width) by (width × columns) product has one multiply-add for
# each of its rows · columns · width terms.


def _product_flops(rows: int, width: int, columns: int) -> int:
    return sum(2 * width * columns for _ in range(rows))


def _flops_by_definition(batch: int, n_heads: int, n_queries: int, n_keys: int, d_k: int, d_v: int) -> Tensor:
    one = _product_flops(n_queries, d_k, n_keys) + _product_flops(n_queries, n_keys, d_v)
    return torch.tensor(batch * n_heads * one)


def _flops_naive(
    batch: int, n_heads: int, n_queries: int, n_keys: int, d_k: int, d_v: int, nudge: Nudge = as_is
) -> Tensor:
    return _flops_by_definition(batch, n_heads, n_queries, n_keys, d_k, d_v)


def _sizes(draw: Draw) -> tuple[int, ...]:
    """Six sizes, all different, so that none can stand in for another."""
    return tuple(int(size) + 2 for size in draw.normal(12).argsort()[:6])


def _flops_cases(draw: Draw) -> Iterator[Case]:
    yield Case("all sizes different", _sizes(draw))
    yield Case("other sizes", _sizes(draw))
    yield Case("self-attention, d_k = d_v", (2, 8, 128, 128, 64, 64))
    yield Case("one new token", (4, 8, 1, 1000, 64, 64))
    yield Case("more queries than keys", (1, 3, 20, 7, 16, 16))
    yield Case("d_v twice d_k", (1, 1, 5, 5, 8, 16))
    names = ("batch", "n_heads", "n_queries", "n_keys", "d_k", "d_v")
    yield Case("by name", (), dict(zip(names, _sizes(draw), strict=True)))
    edge = partial(Case, check="edge cases")
    yield edge("one of everything", (1, 1, 1, 1, 1, 1))
    yield edge("no key", (2, 2, 3, 0, 4, 4))
    # Beyond 2⁵³ a float can't hold every whole number.
    yield edge("a count beyond 2⁵³", (1_023, 127, 10_007, 99_991, 127, 130))


attention_flops = Exam(
    TOPIC,
    "attention_flops",
    _flops_by_definition,
    _flops_naive,
    _flops_cases,
    (Values("values", 1.5), Values("edge cases", 0.5)),
    outputs=("the number of operations",),
    dtype=torch.int64,
    use="count",
)


@attention_flops.variant
def both_products_in_one(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return 2 * batch * n_heads * n_queries * n_keys * (d_k + d_v)


@attention_flops.variant
def one_product_after_the_other(batch, n_heads, n_queries, n_keys, d_k, d_v):
    scores = 2 * n_queries * d_k * n_keys
    output = 2 * n_queries * n_keys * d_v
    return batch * n_heads * (scores + output)


@attention_flops.variant
def product_of_a_list(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return 2 * math.prod((batch, n_heads, n_queries, n_keys, d_k + d_v))


@attention_flops.variant
def multiplications_and_additions(batch, n_heads, n_queries, n_keys, d_k, d_v):
    pairs = batch * n_heads * n_queries * n_keys
    multiplications = pairs * d_k + pairs * d_v
    additions = multiplications
    return multiplications + additions


@attention_flops.variant
def sum_over_the_heads(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return sum(2 * n_queries * n_keys * (d_k + d_v) for _ in range(batch * n_heads))


@attention_flops.variant
def work_of_one_pair(batch, n_heads, n_queries, n_keys, d_k, d_v):
    per_pair = 2 * d_k + 2 * d_v
    return per_pair * (n_queries * n_keys) * (batch * n_heads)


@attention_flops.misconception(
    hint="It is half of what is asked for. Do you count a multiplication and the addition that follows it as one? "
    "Here it is 2. Or have you taken half off for a causal mask? Nothing is to be taken off.",
    symptom="Half of what PyTorch's counter says, and half of what the maker of a chip means by FLOP.",
    seen=FLASH_594,
)
def multiply_add_as_one(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return batch * n_heads * n_queries * n_keys * (d_k + d_v)


@attention_flops.misconception(
    hint="You count the scores alone. There is a second product: the weights times the values.",
    symptom="Half of the work, where keys and values are equally wide.",
)
def scores_alone(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return 2 * batch * n_heads * n_queries * n_keys * d_k


@attention_flops.misconception(
    hint="You take d_k for both products. The second one has values in it, which are d_v wide.",
    symptom="Right as long as d_k and d_v are the same.",
    seen=VERL_4959,
)
def values_as_wide_as_keys_in_flops(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return 4 * batch * n_heads * n_queries * n_keys * d_k


@attention_flops.misconception(
    hint="You take d_v for both products. The first one has queries and keys in it, which are d_k wide.",
    symptom="Right as long as d_k and d_v are the same.",
)
def keys_as_wide_as_values_in_flops(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return 4 * batch * n_heads * n_queries * n_keys * d_v


@attention_flops.misconception(
    hint="You count the pairs that a causal mask lets through. No mask is given, and what is masked is computed "
    "before it is masked: take nothing off.",
    symptom="About half of the work in self-attention; for one new token there is no difference.",
    seen=MAXTEXT_1972,
)
def visible_pairs_alone(batch, n_heads, n_queries, n_keys, d_k, d_v):
    visible = sum(min(max(n_keys - back, 0), n_keys) for back in range(n_queries))
    return 2 * batch * n_heads * visible * (d_k + d_v)


@attention_flops.misconception(
    hint="You square the number of queries. A score belongs to a query and a key, and there may be more keys than "
    "queries.",
    symptom="Right in self-attention. In generation, with one query, 1 instead of n.",
)
def queries_squared(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return 2 * batch * n_heads * n_queries**2 * (d_k + d_v)


@attention_flops.misconception(
    hint="You square the number of keys. There is a row of scores for each query, and no more.",
    symptom="Right in self-attention. In generation, with one query, n² instead of n.",
)
def keys_squared(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return 2 * batch * n_heads * n_keys**2 * (d_k + d_v)


@attention_flops.misconception(
    hint="The batch is missing: each text has scores of its own.",
    symptom="Right for a batch of one.",
)
def one_text_counted(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return 2 * n_heads * n_queries * n_keys * (d_k + d_v)


@attention_flops.misconception(
    hint="The heads are missing: each head has scores of its own.",
    symptom="Right for one head.",
)
def one_head_counted(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return 2 * batch * n_queries * n_keys * (d_k + d_v)


@attention_flops.misconception(
    hint="You share d_k out among the heads. d_k is the width of one head already; what is shared out is d_model.",
    symptom="As if all heads together did the work of one.",
)
def width_shared_out_again(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return 2 * batch * n_heads * n_queries * n_keys * (d_k // n_heads + d_v // n_heads)


@attention_flops.misconception(
    hint="You add the softmax. What is asked for are the two products; an exponential is no multiply-add.",
    symptom="A few per cent more than PyTorch's counter says, more for narrow heads.",
)
def softmax_counted_as_well(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return batch * n_heads * n_queries * n_keys * (2 * (d_k + d_v) + 5)


@attention_flops.misconception(
    hint="You count training: forward once and backward twice. What is asked for is the way forward.",
    symptom="Three times the work.",
)
def backward_counted_as_well(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return 6 * batch * n_heads * n_queries * n_keys * (d_k + d_v)


@attention_flops.misconception(
    hint="You count a product of k numbers as 2k − 1 operations, for its first addition has nothing to add to. Here "
    "each multiplication comes with an addition: 2k.",
    symptom="A little less than PyTorch's counter says, less for narrow heads.",
)
def first_addition_left_out(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return batch * n_heads * (n_queries * n_keys * (2 * d_k - 1) + n_queries * d_v * max(2 * n_keys - 1, 0))


@attention_flops.misconception(
    hint="You give a float. A count is a whole number: `/` and `2.0 *` make floats, `//` and `2 *` don't.",
    symptom="6.2e+16, of which the last digits are lost.",
)
def count_as_a_float(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return 2.0 * batch * n_heads * n_queries * n_keys * (d_k + d_v)


@attention_flops.misconception(
    hint="Large counts are off in the last digits: a float is made on the way, and beyond 2⁵³ floats leave whole "
    "numbers out. Stay with integers to the end.",
    symptom="Right for everything that you try by hand.",
)
def rounded_on_the_way(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return int(4 * batch * n_heads * n_queries * n_keys * ((d_k + d_v) / 2))


@attention_flops.misconception(
    hint="You give a tensor. A count of Python integers is a Python integer.",
    symptom="An int64 that nobody can put into a JSON file; beyond 2⁶³ it would turn negative.",
)
def count_as_a_tensor(batch, n_heads, n_queries, n_keys, d_k, d_v):
    return torch.tensor([2, batch, n_heads, n_queries, n_keys, d_k + d_v]).prod()


def _bytes_by_definition(
    batch: int,
    n_heads: int,
    n_queries: int,
    n_keys: int,
    d_k: int,
    d_v: int,
    itemsize: int = 2,
    materialised: bool = True,
) -> Tensor:
    tensors = {"q": (n_queries, d_k), "k": (n_keys, d_k), "v": (n_keys, d_v), "output": (n_queries, d_v)}
    ways = dict.fromkeys(tensors, 1)
    if materialised:
        tensors |= {"scores": (n_queries, n_keys), "weights": (n_queries, n_keys)}
        ways |= {"scores": 2, "weights": 2}  # there and back
    numbers = sum(ways[name] * rows * columns for name, (rows, columns) in tensors.items())
    return torch.tensor(batch * n_heads * numbers * itemsize)


def _bytes_naive(
    batch: int,
    n_heads: int,
    n_queries: int,
    n_keys: int,
    d_k: int,
    d_v: int,
    itemsize: int = 2,
    materialised: bool = True,
    nudge: Nudge = as_is,
) -> Tensor:
    return _bytes_by_definition(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize, materialised)


def _bytes_cases(draw: Draw) -> Iterator[Case]:
    yield Case("all sizes different", _sizes(draw))
    yield Case("other sizes", _sizes(draw))
    yield Case("four bytes a number", (*_sizes(draw), 4))
    yield Case("eight bytes a number, by name", _sizes(draw), {"itemsize": 8})
    yield Case("nothing stored", _sizes(draw), {"materialised": False})
    yield Case("nothing stored, four bytes", (*_sizes(draw), 4, False))
    yield Case("self-attention, d_k = d_v", (2, 8, 128, 128, 64, 64))
    yield Case("one new token", (4, 8, 1, 1000, 64, 64, 2, False))
    yield Case("one new token, stored", (4, 8, 1, 1000, 64, 32))
    edge = partial(Case, check="edge cases")
    yield edge("one of everything", (1, 1, 1, 1, 1, 1, 1))
    yield edge("no key", (2, 2, 3, 0, 4, 5))
    yield edge("a count beyond 2⁵³", (1_023, 127, 100_007, 299_991, 127, 130, 1))


attention_bytes = Exam(
    TOPIC,
    "attention_bytes",
    _bytes_by_definition,
    _bytes_naive,
    _bytes_cases,
    (Values("values", 1.5), Values("edge cases", 0.5)),
    outputs=("the number of bytes",),
    dtype=torch.int64,
    use="count",
)


@attention_bytes.variant
def rows_then_pairs(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = (n_queries + n_keys) * (d_k + d_v)
    if materialised:
        numbers += 4 * n_queries * n_keys
    return batch * n_heads * numbers * itemsize


@attention_bytes.variant
def tensor_by_tensor(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    side_by_side = batch * n_heads * itemsize
    q, k = side_by_side * n_queries * d_k, side_by_side * n_keys * d_k
    v, o = side_by_side * n_keys * d_v, side_by_side * n_queries * d_v
    scores = side_by_side * n_queries * n_keys if materialised else 0
    weights = scores
    return q + k + v + o + 2 * scores + 2 * weights


@attention_bytes.variant
def shapes_multiplied_out(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    shapes = [(n_queries, d_k), (n_keys, d_k), (n_keys, d_v), (n_queries, d_v)]
    shapes += [(n_queries, n_keys)] * (4 if materialised else 0)
    return sum(itemsize * math.prod((batch, n_heads, *shape)) for shape in shapes)


@attention_bytes.variant
def bool_as_a_number(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    inputs = n_queries * d_k + n_keys * (d_k + d_v)
    output = n_queries * d_v
    stored = bool(materialised) * n_queries * n_keys * 4
    return itemsize * n_heads * batch * (inputs + output + stored)


@attention_bytes.variant
def reads_and_writes(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    pairs = n_queries * n_keys if materialised else 0
    read = n_queries * d_k + n_keys * d_k + n_keys * d_v + 2 * pairs
    written = n_queries * d_v + 2 * pairs
    return (read + written) * itemsize * batch * n_heads


@attention_bytes.variant
def less_what_is_not_stored(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    everything = (n_queries + n_keys) * (d_k + d_v) + 4 * n_queries * n_keys
    if not materialised:
        everything -= 4 * n_queries * n_keys
    return everything * batch * n_heads * itemsize


@attention_bytes.misconception(
    hint="You count one tensor of (queries, keys), written and read. There are two: scores, and the weights that "
    "softmax makes of them.",
    symptom="Half of the traffic that grows with n².",
)
def one_matrix_stored(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = (n_queries + n_keys) * (d_k + d_v) + 2 * n_queries * n_keys * materialised
    return batch * n_heads * numbers * itemsize


@attention_bytes.misconception(
    hint="Three ways of four: scores are written and read, and so are the weights. Who reads the weights?",
    symptom="A quarter of the traffic that grows with n² is missing.",
)
def weights_never_read(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = (n_queries + n_keys) * (d_k + d_v) + 3 * n_queries * n_keys * materialised
    return batch * n_heads * numbers * itemsize


@attention_bytes.misconception(
    hint="You count scores and weights, and not q, k, v and the output, which have to be moved in any case.",
    symptom="With `materialised=False` nothing is left: 0 bytes.",
)
def matrices_alone(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    return batch * n_heads * 4 * n_queries * n_keys * materialised * itemsize


@attention_bytes.misconception(
    hint="`materialised` is never used. Without it scores and weights stay in the processor, and only q, k, v and "
    "the output are moved.",
    symptom="No difference between plain attention and one that stores no matrix.",
)
def always_materialised(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = (n_queries + n_keys) * (d_k + d_v) + 4 * n_queries * n_keys
    return batch * n_heads * numbers * itemsize


@attention_bytes.misconception(
    hint="Scores and weights are missing. If they are materialised, each of the two is written once and read once.",
    symptom="As if attention in eight lines were as fast as the best kernel there is.",
)
def never_materialised(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    return itemsize * batch * n_heads * (n_queries + n_keys) * (d_k + d_v)


@attention_bytes.misconception(
    hint="`materialised` is the wrong way round: True means that the matrices are stored, and so moved.",
    symptom="Plain attention comes out as the cheap one.",
)
def materialised_the_wrong_way_round(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = (n_queries + n_keys) * (d_k + d_v) + (0 if materialised else 4 * n_queries * n_keys)
    return batch * n_heads * numbers * itemsize


@attention_bytes.misconception(
    hint="You count numbers. A number has `itemsize` bytes.",
    symptom="Half of the bytes in half precision.",
)
def numbers_for_bytes(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    return batch * n_heads * ((n_queries + n_keys) * (d_k + d_v) + 4 * n_queries * n_keys * materialised)


@attention_bytes.misconception(
    hint="Every number has two bytes in your count. How many it has is what `itemsize` says.",
    symptom="Right in half precision; half of the bytes in float32.",
)
def always_two_bytes(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = (n_queries + n_keys) * (d_k + d_v)
    if materialised:
        numbers += 4 * n_queries * n_keys
    return 2 * batch * n_heads * numbers


@attention_bytes.misconception(
    hint="You count bits. `itemsize` is in bytes already.",
    symptom="Eight times too many.",
)
def bits_for_bytes(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = (n_queries + n_keys) * (d_k + d_v) + 4 * n_queries * n_keys * materialised
    return batch * n_heads * numbers * itemsize * 8


@attention_bytes.misconception(
    hint="Without an `itemsize` a number has 2 bytes here: your default is another one.",
    symptom="Twice as much as in half precision, where nobody says how wide a number is.",
)
def float32_by_default(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=4, materialised=True):
    numbers = (n_queries + n_keys) * (d_k + d_v) + 4 * n_queries * n_keys * materialised
    return batch * n_heads * numbers * itemsize


@attention_bytes.misconception(
    hint="The output is missing. It is written once, d_v numbers for each query.",
    symptom="A little too few; a quarter too few where nothing is stored and all widths are the same.",
)
def output_never_written(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = n_queries * d_k + n_keys * (d_k + d_v) + 4 * n_queries * n_keys * materialised
    return batch * n_heads * numbers * itemsize


@attention_bytes.misconception(
    hint="You take all four to be d_k wide. Values and the output have d_v columns.",
    symptom="Right as long as d_k and d_v are the same.",
)
def everything_as_wide_as_keys(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = 2 * (n_queries + n_keys) * d_k + 4 * n_queries * n_keys * materialised
    return batch * n_heads * numbers * itemsize


@attention_bytes.misconception(
    hint="Your output has a row for each key. It has one for each query.",
    symptom="Right in self-attention. In generation the output of one token is as long as the whole text.",
)
def output_as_long_as_the_keys(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = n_queries * d_k + n_keys * (d_k + 2 * d_v) + 4 * n_queries * n_keys * materialised
    return batch * n_heads * numbers * itemsize


@attention_bytes.misconception(
    hint="You read the keys and values anew for each query. *At the least* they are read once.",
    symptom="Traffic that grows as the operations do, and an intensity that does not depend on n.",
)
def keys_read_for_each_query(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = n_queries * (d_k + d_v) + n_queries * n_keys * (d_k + d_v) + 4 * n_queries * n_keys * materialised
    return batch * n_heads * numbers * itemsize


@attention_bytes.misconception(
    hint="You share one matrix of scores among all heads. Each head has scores and weights of its own.",
    symptom="Right for one head.",
)
def one_matrix_for_all_heads(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    rows = n_heads * (n_queries + n_keys) * (d_k + d_v)
    return batch * (rows + 4 * n_queries * n_keys * materialised) * itemsize


@attention_bytes.misconception(
    hint="The batch is missing: each text has queries, keys and values of its own.",
    symptom="Right for a batch of one.",
)
def bytes_of_one_text(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = (n_queries + n_keys) * (d_k + d_v) + 4 * n_queries * n_keys * materialised
    return n_heads * numbers * itemsize


@attention_bytes.misconception(
    hint="The heads are missing: each head has queries, keys, values and scores of its own.",
    symptom="Right for one head.",
)
def bytes_of_one_head(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = (n_queries + n_keys) * (d_k + d_v)
    if materialised:
        numbers += 4 * n_queries * n_keys
    return itemsize * batch * numbers


@attention_bytes.misconception(
    hint="You square the number of queries. A score belongs to a query and a key, and there may be more keys than "
    "queries.",
    symptom="Right in self-attention. In generation, with one query, 1 instead of n.",
)
def bytes_of_queries_squared(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = (n_queries + n_keys) * (d_k + d_v)
    if materialised:
        numbers += 4 * n_queries**2
    return itemsize * batch * n_heads * numbers


@attention_bytes.misconception(
    hint="You give a float. A number of bytes is a whole number: stay with integers, and use `//` where you divide.",
    symptom="A number with .0 behind it, and beyond 2⁵³ a wrong one.",
)
def bytes_as_a_float(batch, n_heads, n_queries, n_keys, d_k, d_v, itemsize=2, materialised=True):
    numbers = (n_queries + n_keys) * (d_k + d_v) + 4 * n_queries * n_keys * materialised
    return batch * n_heads * numbers * itemsize * 8 / 8


# The cache, by definition: what has come so far, and what all that may come will take.


def _kept(
    keys: Tensor,
    values: Tensor,
    steps: tuple[int, ...],
    max_len: int,
    too_many: int = 0,
    plain: bool = False,
    every: bool = True,
    nudge: Nudge = as_is,
) -> tuple[Tensor, ...]:
    ends = list(itertools.accumulate(steps))
    came = (torch.cat([part[:, :, :end] for end in ends[0 if every else -1 :]], dim=-2) for part in (keys, values))
    size = keys.shape[0] * keys.shape[1] * max_len * (keys.shape[-1] + values.shape[-1])
    return (*came, *(torch.tensor(numbers, dtype=keys.dtype) for numbers in ([0, *ends], [size, size])))


def _to_keep(draw: Draw, batch: int, heads: int, n: int, d_k: int, d_v: int) -> tuple[Tensor, Tensor]:
    return draw.normal(batch, heads, n, d_k), draw.normal(batch, heads, n, d_v)


def _cache_cases(draw: Draw) -> Iterator[Case]:
    yield Case("a prompt, then one token after another", (*_to_keep(draw, 1, 2, 6, 4, 4), (3, 1, 1, 1), 9))
    yield Case("a batch, other values than keys", (*_to_keep(draw, 2, 3, 5, 4, 6), (2, 1, 2), 8))
    yield Case("several tokens at each step", (*_to_keep(draw, 2, 2, 9, 3, 5), (4, 2, 3), 12))
    yield Case("all sizes alike", (*_to_keep(draw, 4, 4, 4, 4, 4), (2, 1, 1), 4))
    yield Case("one head for all, narrow values", (*_to_keep(draw, 3, 1, 4, 8, 2), (1, 1, 1, 1), 7))
    n = draw.integer(20, 30)
    yield Case("a long prompt", (*_to_keep(draw, 1, 2, n + 2, 8, 8), (n, 1, 1), 2 * n))
    turned = _to_keep(draw, 2, 5, 3, 4, 6)
    yield Case("as it comes out of a projection", (*(part.transpose(1, 2) for part in turned), (3, 2), 6))
    yield Case("columns stored as rows", (*_to_keep(draw, 2, 3, 4, 5, 4), (2, 2), 6), layout="transposed")
    yield Case("every second number of a row", (*_to_keep(draw, 1, 2, 4, 4, 4), (1, 3), 5), layout="strided")
    edge = partial(Case, check="edge cases")
    yield edge("filled to the last place", (*_to_keep(draw, 2, 2, 5, 3, 3), (3, 1, 1), 5))
    yield edge("everything at once", (*_to_keep(draw, 2, 2, 5, 3, 4), (5,), 5))
    yield edge("room for one token", (*_to_keep(draw, 1, 1, 1, 2, 2), (1,), 1))
    yield edge("an update without tokens", (*_to_keep(draw, 1, 2, 3, 2, 2), (2, 0, 1), 4))
    # Whole numbers, which every dtype holds.
    whole = [torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 2, 2)] * 2
    yield edge("no dtype and no device given", (*whole, (1, 1), 5), {"plain": True})
    full = partial(Case, check="what does not fit")
    tokens = draw.integer(31, 39)
    for named in (40, tokens + 20):
        says = f"{tokens} and 20 tokens for 40 places: is {named} named?"
        parts = _to_keep(draw, 1, 2, tokens + 20, 2, 3)
        yield full(says, (*parts, (tokens, 20), 40), raises=ValueError, says=str(named))
    yield full("one token too many", (*_to_keep(draw, 2, 1, 6, 3, 3), (3, 2, 1), 5), raises=ValueError, says="5")
    yield full("too many at once", (*_to_keep(draw, 1, 1, 8, 3, 3), (8,), 7), raises=ValueError, says="7")
    refused = {"too_many": 4}
    yield full("goes on after 4 tokens were refused", (*_to_keep(draw, 2, 2, 5, 3, 4), (2, 2, 1), 6), refused)


def _cache_of(draw: Draw, n: int) -> Case:
    return Case("", (*_to_keep(draw, 1, 2, n, 8, 8), (1,) * n, n), {"every": False})


KVCache = Exam(
    TOPIC,
    "KVCache",
    _kept,
    _kept,
    _cache_cases,
    (
        Values("values", 1.75),
        Values("edge cases", 0.5),
        Values("what does not fit", 0.5),
        Habits(0.25),
        Growth(
            1,
            "made",
            1,
            _cache_of,
            "All the memory is to be there from the start, and what is stored is not to be copied. Here n updates "
            "came, of one token each.",
            (8, 16, 32),
            name="no reallocation",
        ),
    ),
    outputs=("what update gave of the keys", "what it gave of the values", "length", "nbytes / itemsize"),
    use="fill",
)


@KVCache.variant
class SlicesOfTwoTensors:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.max_len, self.length = max_len, 0
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)

    @property
    def nbytes(self):
        return self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.max_len:
            raise ValueError(f"{end} tokens, but room for {self.max_len}")
        self.k[:, :, self.length : end] = k
        self.v[:, :, self.length : end] = v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.variant
class OneTensorForBoth:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        self.widths = [d_k, d_k if d_v is None else d_v]
        self.memory = torch.empty(batch, n_kv_heads, max_len, sum(self.widths), dtype=dtype, device=device)
        self.nbytes = self.memory.numel() * self.memory.element_size()
        self.length = 0

    def update(self, k, v):
        n, most = k.size(-2), self.memory.size(-2)
        if self.length + n > most:
            raise ValueError(f"cache of {most} places is asked to hold {self.length} + {n} = {self.length + n} tokens")
        places = self.memory.narrow(-2, self.length, n)
        places[..., : self.widths[0]], places[..., self.widths[0] :] = k, v
        self.length += n
        return self.memory.narrow(-2, 0, self.length).split(self.widths, dim=-1)


@KVCache.variant
class TokensBeforeHeads:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        make = {"dtype": dtype, "device": device}
        self._k = torch.empty((batch, max_len, n_kv_heads, d_k), **make)
        self._v = torch.empty((batch, max_len, n_kv_heads, d_v or d_k), **make)
        self.length = 0

    @property
    def nbytes(self):
        return sum(part.untyped_storage().nbytes() for part in (self._k, self._v))

    def update(self, k, v):
        start, end = self.length, self.length + k.shape[-2]
        if end > self._k.shape[1]:
            raise ValueError(f"max_len is {self._k.shape[1]}, {end} tokens are too many")
        self._k[:, start:end].copy_(k.transpose(1, 2))
        self._v[:, start:end].copy_(v.transpose(1, 2))
        self.length = end
        return self._k[:, :end].transpose(1, 2), self._v[:, :end].transpose(1, 2)


@KVCache.variant
class WrittenByIndex:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        if d_v is None:
            d_v = d_k
        self.k = torch.full(
            (batch, n_kv_heads, max_len, d_k), 0, dtype=dtype or torch.get_default_dtype(), device=device
        )
        self.v = self.k.new_zeros(batch, n_kv_heads, max_len, d_v)
        self.length, self.max_len = 0, max_len
        self.nbytes = batch * n_kv_heads * max_len * (d_k + d_v) * self.k.element_size()

    def update(self, k, v):
        n = k.shape[-2]
        if self.length + n > self.max_len:
            raise ValueError(f"length {self.length + n} > max_len {self.max_len}")
        places = torch.arange(self.length, self.length + n, device=self.k.device)
        self.k.index_copy_(-2, places, k)
        self.v.index_copy_(-2, places, v)
        self.length += n
        return self.k[..., : self.length, :], self.v[..., : self.length, :]


@KVCache.variant
class TokenAfterToken:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        widths = (d_k, d_k if d_v is None else d_v)
        self.parts = [torch.empty(batch, n_kv_heads, max_len, d, dtype=dtype, device=device) for d in widths]
        self.length = 0

    @property
    def nbytes(self):
        return sum(part.nbytes for part in self.parts)

    def update(self, k, v):
        most = self.parts[0].shape[2]
        if k.shape[2] > most - self.length:
            raise ValueError(f"{k.shape[2]} more would make {self.length + k.shape[2]}; there is room for {most}")
        for new_k, new_v in zip(k.unbind(2), v.unbind(2)):
            self.parts[0].select(2, self.length).copy_(new_k)
            self.parts[1].select(2, self.length).copy_(new_v)
            self.length += 1
        return tuple(part.narrow(2, 0, self.length) for part in self.parts)


@KVCache.variant
class ModuleWithBuffers(torch.nn.Module):
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        super().__init__()
        d_v = d_k if d_v is None else d_v
        self.register_buffer("k", torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device))
        self.register_buffer("v", torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device))
        self.length = 0

    @property
    def nbytes(self):
        return sum(buffer.nbytes for buffer in self.buffers())

    @torch.no_grad()
    def update(self, k, v):
        stop = self.length + k.shape[-2]
        if stop > self.k.shape[-2]:
            raise ValueError(f"no room for {stop} tokens: max_len = {self.k.shape[-2]}")
        self.k[..., self.length : stop, :], self.v[..., self.length : stop, :] = k, v
        self.length = stop
        return self.k[..., :stop, :], self.v[..., :stop, :]


@KVCache.misconception(
    hint="Each update makes new tensors (`torch.cat`), as long as everything so far, and copies all of it. Take the "
    "memory for `max_len` tokens once, and write into it.",
    symptom="Right, and every step copies the whole past; memory is full of holes that are just too small.",
    seen=MLX_4019,
)
class GrownByConcatenation:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.empty(batch, n_kv_heads, 0, d_k, dtype=dtype, device=device)
        self.v = torch.empty(batch, n_kv_heads, 0, d_v, dtype=dtype, device=device)
        self.length, self.max_len = 0, max_len

    @property
    def nbytes(self):
        return self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        if self.length + k.shape[2] > self.max_len:
            raise ValueError(f"{self.length + k.shape[2]} tokens, but room for {self.max_len}")
        self.k, self.v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
        self.length = self.k.shape[2]
        return self.k, self.v


@KVCache.misconception(
    hint="You hand out copies (`clone`, `contiguous`, indexing with a tensor). A slice of what is stored costs "
    "nothing.",
    symptom="Right, and every step copies the whole past, as if there were no memory kept ready.",
)
class CopiesHandedOut:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end].clone(), self.v[:, :, :end].clone()


@KVCache.misconception(
    hint="You hand out all the memory, the places that are still empty included. Cut it off behind the last token.",
    symptom="Queries attend to keys that are not there: zeros, or what was in memory before.",
)
class EmptyPlacesHandedOut:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k, self.v


@KVCache.misconception(
    hint="You hand out the new keys and values alone. Whoever asks next needs all so far.",
    symptom="Each new token sees itself and nothing else.",
)
class NewTokensHandedOut:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        start, end = self.length, self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, start:end], self.v[:, :, start:end] = k, v
        self.length = end
        return self.k[:, :, start:end], self.v[:, :, start:end]


@KVCache.misconception(
    hint="You give back the very tensors that came in. Whoever asks needs all so far, out of the cache's memory.",
    symptom="Each new token sees itself and nothing else, and changes when the caller uses the buffer again.",
)
class NewTokensHandedBack:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return k, v


@KVCache.misconception(
    hint="You hand out what was there before, without the new tokens. A token attends to itself as well.",
    symptom="Nothing at all comes out of the first update, and no token sees itself.",
)
class HandedOutBeforeWriting:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        start, end = self.length, self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, start:end], self.v[:, :, start:end] = k, v
        self.length = end
        return self.k[:, :, :start], self.v[:, :, :start]


@KVCache.misconception(
    hint="Every update is written to the first places. The new tokens come behind those that are there.",
    symptom="The first step is right. Then the text's beginning is written over, and its end is empty.",
)
class WrittenToTheFrontAgain:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        n, end = k.shape[2], self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, :n], self.v[:, :, :n] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="You count updates. A prompt is one update with many tokens.",
    symptom="Right from token to token. Behind a prompt the next token is written into its middle.",
)
class UpdatesCounted:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length += 1
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="`nbytes` grows with the tokens. It is to say what the cache takes, and that is taken from the start.",
    symptom="Plans made with it fail: the memory is gone, and the figure says that there is plenty.",
)
class BytesOfWhatIsUsed:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length = 0

    @property
    def nbytes(self):
        return self.k[:, :, : self.length].nbytes + self.v[:, :, : self.length].nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="`nbytes` counts the keys alone. The values are kept as well.",
    symptom="Half of the memory, where keys and values are equally wide.",
)
class BytesOfTheKeysAlone:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="`nbytes` counts the keys twice. The values have a width of their own.",
    symptom="Right as long as keys and values are equally wide.",
)
class BytesOfTheKeysTwice:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, 2 * self.k.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="`nbytes` counts numbers (`numel`). A number has `element_size()` bytes.",
    symptom="A quarter of the memory in float32, half of it in bfloat16.",
)
class NumbersInsteadOfBytes:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.numel() + self.v.numel()

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="`nbytes` takes 4 bytes for a number, whatever the dtype. Ask the memory: `element_size()`, or `nbytes`.",
    symptom="Right in float32; twice the memory in bfloat16.",
)
class FourBytesForEachNumber:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, 4 * (self.k.numel() + self.v.numel())

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="`nbytes` is a method here. It is asked for without parentheses: make it an attribute, or a `@property`.",
    symptom="TypeError: unsupported operand type(s) for /: 'method' and 'int'.",
)
class BytesToBeCalled:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length = 0

    def nbytes(self):
        return self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="The memory for the values is d_k wide. Values have d_v columns, and d_k only if `d_v` is None.",
    symptom="Right as long as keys and values are equally wide; else an error of shapes.",
)
class ValuesAsWideAsKeys:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros_like(self.k)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="`dtype` is never used: the memory is float32 whatever comes in. Hand it on to what makes the tensors.",
    symptom="A model in bfloat16 meets keys in float32: an error, or twice the memory.",
    seen=TORCHTUNE_398,
)
class AlwaysInFloat32:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=torch.float32, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=torch.float32, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="Nothing looks whether the tokens fit. PyTorch's error speaks of shapes: raise a `ValueError` with both "
    "numbers before anything is written.",
    symptom="RuntimeError: The expanded size of the tensor (0) must match the existing size (1).",
    seen=NANOCHAT_627,
)
class MisfitLeftToPyTorch:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="When it is full your cache begins anew at the front, over the oldest tokens. Here that is an error.",
    symptom="The text forgets its beginning, and places and masks no longer fit what is stored.",
    seen=LITGPT_2215,
)
class OldestWrittenOver:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        max_len = self.k.shape[2]
        places = torch.arange(self.length, self.length + k.shape[2], device=k.device) % max_len
        self.k[:, :, places], self.v[:, :, places] = k, v
        self.length += k.shape[2]
        end = min(self.length, max_len)
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="What does not fit is dropped without a word. Raise a `ValueError` with both numbers.",
    symptom="The last tokens are missing, and the text goes on as if they had never been written.",
)
class OverflowDropped:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        n = min(k.shape[2], self.k.shape[2] - self.length)
        end = self.length + n
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k[:, :, :n], v[:, :, :n]
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="A cache that is just full is refused: `max_len` tokens do fit. > or ≥?",
    symptom="An error one token too early.",
)
class LastPlaceNeverUsed:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end >= self.k.shape[2]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="Your error does not say which numbers do not fit: put the length that it would be and `max_len` into the "
    "message.",
    symptom="“KV cache is full”, and the search for how full begins.",
)
class FullWithoutNumbers:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError("KV cache is full")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="The length is moved on before you look whether the tokens fit: after an update that was refused it counts "
    "tokens that were never stored.",
    symptom="Whoever catches the error and goes on gets keys that nobody has written.",
)
class RefusedTokensCounted:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, max_len, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, max_len, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        start = self.length
        self.length += k.shape[2]
        if self.length > self.k.shape[2]:
            raise ValueError(f"{self.length} tokens, but room for {self.k.shape[2]}")
        self.k[:, :, start : self.length], self.v[:, :, start : self.length] = k, v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]


@KVCache.misconception(
    hint="You keep the tensors that you are given, and join them when asked. The caller may write over them: copy "
    "the numbers into memory of your own.",
    symptom="Right until somebody uses the same buffer for the next token; and every step copies the whole past.",
)
class CallersTensorsKept:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        self.parts, self.length, self.max_len = [], 0, max_len
        size = torch.empty(0, dtype=dtype).element_size()
        self.nbytes = batch * n_kv_heads * max_len * (d_k + (d_k if d_v is None else d_v)) * size

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.max_len:
            raise ValueError(f"{end} tokens, but room for {self.max_len}")
        self.parts.append((k, v))
        self.length = end
        all_k, all_v = zip(*self.parts)
        return torch.cat(all_k, dim=2), torch.cat(all_v, dim=2)


@KVCache.misconception(
    hint="The memory is taken at the first update. Take it when the cache is made: then there is either room for "
    "all, or an error before any work is done.",
    symptom="`nbytes` is 0 at first, and memory runs out in the middle of a text.",
)
class MemoryTakenAtTheFirstUpdate:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        self.sizes = [(batch, n_kv_heads, max_len, d) for d in (d_k, d_k if d_v is None else d_v)]
        self.make = {"dtype": dtype, "device": device}
        self.length, self.nbytes = 0, 0

    def update(self, k, v):
        end, max_len = self.length + k.shape[2], self.sizes[0][2]
        if end > max_len:
            raise ValueError(f"{end} tokens, but room for {max_len}")
        if not self.length:
            self.k, self.v = (torch.zeros(size, **self.make) for size in self.sizes)
            self.nbytes = self.k.nbytes + self.v.nbytes
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


@KVCache.misconception(
    hint="Room at the end of the memory, as `resize_` makes it, is not room for each head: rows move to other "
    "heads. Take all the memory at once.",
    symptom="Right for one text and one head.",
    seen=NANOCHAT_186,
)
class GrownAtTheEndOfTheMemory:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, n_kv_heads, 0, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, n_kv_heads, 0, d_v, dtype=dtype, device=device)
        self.length, self.max_len = 0, max_len

    @property
    def nbytes(self):
        return self.k.nbytes + self.v.nbytes

    @staticmethod
    def longer(old, n):
        grown = old.new_zeros(*old.shape[:2], n, old.shape[3])
        grown.view(-1)[: old.numel()] = old.view(-1)
        return grown

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.max_len:
            raise ValueError(f"{end} tokens, but room for {self.max_len}")
        self.k, self.v = self.longer(self.k, end), self.longer(self.v, end)
        self.k[:, :, self.length :], self.v[:, :, self.length :] = k, v
        self.length = end
        return self.k, self.v


@KVCache.misconception(
    hint="Your memory has the tokens in front of the heads, and so has what you hand out. Give (batch, n_kv_heads, "
    "keys, width), as the new ones come.",
    symptom="The shape is right where there are as many tokens as heads.",
)
class TokensHandedOutBeforeHeads:
    def __init__(self, batch, n_kv_heads, max_len, d_k, d_v=None, dtype=None, device=None):
        d_v = d_k if d_v is None else d_v
        self.k = torch.zeros(batch, max_len, n_kv_heads, d_k, dtype=dtype, device=device)
        self.v = torch.zeros(batch, max_len, n_kv_heads, d_v, dtype=dtype, device=device)
        self.length, self.nbytes = 0, self.k.nbytes + self.v.nbytes

    def update(self, k, v):
        end = self.length + k.shape[2]
        if end > self.k.shape[1]:
            raise ValueError(f"{end} tokens, but room for {self.k.shape[1]}")
        self.k[:, self.length : end] = k.transpose(1, 2)
        self.v[:, self.length : end] = v.transpose(1, 2)
        self.length = end
        return self.k[:, :end], self.v[:, :end]


# Generation. What is right is known without any cache: all tokens so far through the model, at each step.


def _from_scratch(model: Any, tokens: Tensor) -> Tensor:
    """The logits behind the last of the tokens, with nothing kept from before."""
    batch, n = tokens.shape
    causal = torch.tensor([[key <= query for key in range(n)] for query in range(n)])
    records = [Record(batch, n) for _ in range(model.n_layers)]
    logits: Tensor = model(tokens, records, torch.arange(n), causal)
    return logits[:, -1]


def _greedily(model: Any, tokens: Tensor, n_new: int, cache_factory: Any = None, nudge: Nudge = as_is) -> Tensor:
    for _ in range(n_new):
        tokens = torch.cat([tokens, _from_scratch(model, tokens).argmax(-1, keepdim=True)], dim=-1)
    return tokens


def _decoder(draw: Draw, batch: int, n: int, n_new: int, **init: int) -> tuple[Model, Tensor, int, Model]:
    """A model, prompts and caches, with which no two tokens are nearly as likely on the greedy path."""
    sizes = {"vocab_size": 11, "d_model": 8, "n_heads": 2, "n_layers": 2, "max_len": 32} | init
    while True:
        model = draw.toy("Decoder", scale=3.0, **sizes)
        tokens = torch.stack([torch.tensor([draw.integer(0, 10) for _ in range(n)]) for _ in range(batch)])
        local = build("Decoder", sizes, model.state).requires_grad_(False)
        text = _greedily(local, tokens, n_new)
        best = [_from_scratch(local, text[:, :end]).topk(2).values for end in range(n, n + n_new)]
        if all(bool((values[:, 0] - values[:, 1] > 0.02 * values[:, 0].abs()).all()) for values in best):
            return model, tokens, n_new, draw.toy("CacheFactory")


def _generation_cases(draw: Draw) -> Iterator[Case]:
    case = partial(Case, coarse=False)
    yield case("one prompt, one layer", _decoder(draw, 1, 4, 6, n_layers=1))
    yield case("two layers", _decoder(draw, 1, 5, 5))
    yield case("three layers, a batch", _decoder(draw, 3, 4, 4, n_layers=3))
    yield case("as many prompts as tokens, one head", _decoder(draw, 4, 4, 4, n_heads=1))
    yield case("a longer prompt", _decoder(draw, 2, draw.integer(12, 16), 4))
    edge = partial(case, check="edge cases")
    model, tokens, n_new, factory = _decoder(draw, 2, 3, 3)
    yield edge("all by name", (), {"model": model, "tokens": tokens, "n_new": n_new, "cache_factory": factory})
    yield edge("a prompt of one token, stored in steps", _decoder(draw, 2, 1, 5), layout="strided")
    yield edge("one new token", _decoder(draw, 2, 5, 1))
    yield edge("no new token", _decoder(draw, 2, 5, 0))


def _generation_of(draw: Draw, n: int) -> Case:
    model = draw.toy("Decoder", vocab_size=8, d_model=32, n_heads=2, n_layers=1, max_len=40)
    return Case("", (model, torch.tensor([[1, 2]]), n, draw.toy("CacheFactory")))


def _prompt_of(draw: Draw, n: int) -> Case:
    model = draw.toy("Decoder", vocab_size=8, d_model=128, n_heads=1, n_layers=1, max_len=n + 1)
    return Case("", (model, torch.arange(n).remainder(8).unsqueeze(0), 1, draw.toy("CacheFactory")))


cached_generate = Exam(
    TOPIC,
    "cached_generate",
    _greedily,
    _greedily,
    _generation_cases,
    (
        Values("values", 2.75),
        Values("edge cases", 0.5),
        Habits(0.5, on="edge cases"),
        Growth(
            1,
            "flops",
            1,
            _generation_of,
            "Each token is to go through the model once. Here n tokens were generated behind a prompt of two.",
            (4, 8, 16),
        ),
        # These caches join what they are given: of n tokens, one by one, they make n² numbers.
        Growth(
            0.25,
            "made",
            1,
            _prompt_of,
            "The prompt is to go through the model as a whole, in one call. Here it had n tokens.",
            (16, 64),
            slack=0.45,
            name="the prompt as a whole",
        ),
    ),
    outputs=("tokens",),
    dtype=torch.int64,
)


@cached_generate.variant
@torch.no_grad()
def what_is_new_each_time(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        positions = torch.arange(seen, seen + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        new = model(new, caches, positions, mask)[:, -1].argmax(dim=-1, keepdim=True)
        seen += n
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.variant
def prompt_then_single_tokens(model, tokens, n_new, cache_factory):
    if n_new == 0:
        return tokens
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new - 1) for _ in range(model.n_layers)]
    with torch.no_grad():
        causal = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
        logits = model(tokens, caches, torch.arange(n, device=tokens.device), causal)
        text = [tokens, logits[:, -1].argmax(-1, keepdim=True)]
        for place in range(n, n + n_new - 1):
            logits = model(text[-1], caches, torch.tensor([place], device=tokens.device))
            text.append(logits[:, -1].argmax(-1, keepdim=True))
    return torch.cat(text, dim=1)


@cached_generate.variant
@torch.no_grad()
def each_token_read_as_it_is_written(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    places = torch.arange(n, device=tokens.device)
    logits = model(tokens, caches, places, places.unsqueeze(1) >= places)
    for place in range(n, n + n_new):
        new = logits[:, -1].argmax(-1).unsqueeze(1)
        tokens = torch.cat((tokens, new), dim=1)
        logits = model(new, caches, torch.tensor([place], device=tokens.device), None)
    return tokens


@cached_generate.variant
@torch.inference_mode()
def all_but_the_last_first(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    places = torch.arange(n + n_new, device=tokens.device)
    if n > 1:
        model(tokens[:, :-1], caches, places[: n - 1], places[: n - 1, None] >= places[: n - 1])
    for place in range(n - 1, n - 1 + n_new):
        visible = torch.ones(1, place + 1, dtype=torch.bool, device=tokens.device)
        logits = model(tokens[:, -1:], caches, places[place : place + 1], visible)
        tokens = torch.cat([tokens, logits.argmax(-1)], dim=1)
    return tokens.clone()


@cached_generate.variant
def written_into_one_tensor(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    text = torch.cat([tokens, tokens.new_zeros(batch, n_new)], dim=1)
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    start = 0
    for end in range(n, n + n_new):
        positions = torch.arange(start, end, device=text.device)
        mask = positions[:, None] >= torch.arange(end, device=text.device)
        text[:, end] = model(text[:, start:end], caches, positions, mask)[:, -1].detach().max(dim=-1).indices
        start = end
    return text


@cached_generate.variant
def length_asked_of_the_cache(model, tokens, n_new, cache_factory):
    device = tokens.device
    caches = [cache_factory(len(tokens), tokens.shape[1] + n_new + 1) for _ in range(model.n_layers)]
    new = tokens
    for _ in range(n_new):
        seen, n = caches[0].length, new.shape[1]
        rows, columns = torch.arange(n, device=device)[:, None], torch.arange(seen + n, device=device)
        with torch.no_grad():
            logits = model(new, caches, torch.arange(n, device=device) + seen, columns <= rows + seen)
        new = torch.argmax(logits[:, [-1]], dim=-1)
        tokens = torch.hstack([tokens, new])
    return tokens


@cached_generate.misconception(
    hint="The prompt goes through without a mask. One new token may see everything that is there; the tokens of a "
    "prompt must not see what follows them, cache or not.",
    symptom="Training is fine, each step is fine, and the text is not the one that the model would have written.",
    seen=TINYLLM_17,
)
def prefill_unmasked_with_a_cache(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        positions = torch.arange(seen, seen + new.shape[1], device=tokens.device)
        seen += new.shape[1]
        new = model(new, caches, positions, None)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="Your causal mask starts at the top-left corner: a new token sees as many keys as there are new tokens, the "
    "oldest. Align it at the bottom right: the last query is as recent as the last key.",
    symptom="The prompt is read correctly; from then on each token sees the first token of the text, and nothing else.",
    seen=HYPRSTREAM_1521,
)
def mask_from_the_top_left(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        positions = torch.arange(seen, seen + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril()
        seen += n
        new = model(new, caches, positions, mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="Each new token is said to stand at place 0. It stands behind all that the cache holds.",
    symptom="The first new token is right. Then the text loses its thread, for every token claims to be the first.",
    seen=TRANSFORMERS_15751,
)
def place_zero_at_every_step(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(new, caches, torch.arange(n, device=tokens.device), mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="The new token's place is one too far: places count from 0, so the token behind n others stands at place n, "
    "not n + 1.",
    symptom="The first new token is right, and the places have a gap behind the prompt.",
    seen=TINY_LLM_46,
)
def one_place_too_far(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        start = tokens.shape[1] if seen else 0
        positions = torch.arange(start, start + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(new, caches, positions, mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="The new token's place is one too small: it is that of the token before it. Behind n tokens, counted from 0, "
    "stands place n.",
    symptom="The first new token is right, and then two tokens stand at one place.",
)
def one_place_too_near(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        start = seen - 1 if seen else 0
        positions = torch.arange(start, start + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(new, caches, positions, mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="All new tokens are said to stand behind the prompt, at one and the same place. Each stands one further on.",
    symptom="The first two new tokens are right; then they no longer know their order.",
)
def all_at_one_place(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    positions, mask = torch.arange(n, device=tokens.device), torch.ones(n, n, dtype=torch.bool, device=tokens.device)
    new, mask = tokens, mask.tril()
    for _ in range(n_new):
        new = model(new, caches, positions, mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
        positions, mask = torch.tensor([n], device=tokens.device), None
    return tokens


@cached_generate.misconception(
    hint="All tokens go through the model again at each step, and the caches take them in once more. Only what they "
    "don't hold yet is new.",
    symptom="An error when the cache is full; with enough room a text in which every token stands many times.",
    seen=LLAMA_CPP_7859,
)
def everything_fed_again(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, (n + n_new) ** 2) for _ in range(model.n_layers)]
    seen = 0
    for _ in range(n_new):
        n = tokens.shape[1]
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(tokens, caches, torch.arange(n, device=tokens.device), mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="You make new caches at each step and compute everything again. Keep them, and show the model only what "
    "they don't hold.",
    symptom="The right text, as slowly as without a cache.",
)
def caches_thrown_away(model, tokens, n_new, cache_factory):
    for _ in range(n_new):
        batch, n = tokens.shape
        caches = [cache_factory(batch, n) for _ in range(model.n_layers)]
        mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
        logits = model(tokens, caches, torch.arange(n, device=tokens.device), mask)
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="Your prompt goes through the model token by token. All of it is known at the start: one call reads it, with "
    "a causal mask.",
    symptom="The right text, and a wait for its first token as if the prompt had to be generated, too.",
)
def prompt_token_by_token(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    for place in range(n + n_new - 1 if n_new else 0):
        logits = model(tokens[:, place : place + 1], caches, torch.tensor([place], device=tokens.device), None)
        if place >= n - 1:
            tokens = torch.cat([tokens, logits[:, 0].topk(1).indices], dim=1)
    return tokens


@cached_generate.misconception(
    hint="All layers share one cache (`[cache] * n`). Each layer has keys and values of its own, and needs its own "
    "cache: call the factory once for each.",
    symptom="Right with one layer. With two the cache is full at half the length, and a layer looks at another's keys.",
)
def one_cache_for_all_layers(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new)] * model.n_layers
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        positions = torch.arange(seen, seen + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(new, caches, positions, mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="You hand over one cache. The model has `n_layers` of them, and takes a list with one for each.",
    symptom="TypeError: the cache has no len(), or can't be gone through.",
)
def a_cache_instead_of_a_list(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    cache = cache_factory(batch, n + n_new)
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        positions = torch.arange(seen, seen + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(new, cache, positions, mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="The last token of the prompt goes through twice, once with the prompt and once as the first single token. "
    "After the prompt the model has already said what comes next.",
    symptom="The caches hold that token twice, and from there on all places are one too far.",
)
def last_prompt_token_twice(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new + 1) for _ in range(model.n_layers)]
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    model(tokens, caches, torch.arange(n, device=tokens.device), mask)
    for place in range(n, n + n_new):
        logits = model(tokens[:, -1:], caches, torch.tensor([place], device=tokens.device), None)
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="You take the logits behind the *first* of the new tokens. After a prompt it is the last one that speaks of "
    "what is not there yet.",
    symptom="Right for a prompt of one token; else the first new token answers the first one of the prompt.",
)
def logits_behind_the_first_token(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        positions = torch.arange(seen, seen + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(new, caches, positions, mask)[:, 0].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="Your caches have room for the new tokens alone. The prompt's keys and values are kept as well.",
    symptom="ValueError as soon as the prompt is longer than what is to be written.",
)
def no_room_for_the_prompt(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        positions = torch.arange(seen, seen + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(new, caches, positions, mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="Your caches are made for one text. Their batch is that of the tokens.",
    symptom="Right for one prompt, an error for two.",
)
def caches_for_one_text(model, tokens, n_new, cache_factory):
    n = tokens.shape[1]
    caches = [cache_factory(1, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        positions = torch.arange(seen, seen + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(new, caches, positions, mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="Your mask is the wrong way round: True means that a token may be seen.",
    symptom="Each new token sees the future, or nothing at all, which gives NaN.",
)
def true_hides_in_generation(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        positions = torch.arange(seen, seen + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).triu(seen + 1)
        seen += n
        new = model(new, caches, positions, mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="The token that the prompt already gives comes on top of the n_new that your loop writes. Count all that "
    "are appended.",
    symptom="The text is one token longer than asked for, and for n_new = 0 it is not the prompt.",
)
def prompt_gives_one_more(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new + 1) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new + 1):
        n = new.shape[1]
        positions = torch.arange(seen, seen + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(new, caches, positions, mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="For n_new = 0 one token is written all the same: what the prompt gives is appended before anybody asks how "
    "many are wanted.",
    symptom="Right for one new token and more.",
)
def at_least_one_new_token(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()
    logits = model(tokens, caches, torch.arange(n, device=tokens.device), mask)
    tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=-1)
    for place in range(n, n + n_new - 1):
        logits = model(tokens[:, -1:], caches, torch.tensor([place], device=tokens.device), None)
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="You give the new tokens alone. The result begins with the prompt.",
    symptom="The text lacks its beginning.",
)
def generated_without_the_prompt(model, tokens, n_new, cache_factory):
    (batch, n), text = tokens.shape, [tokens[:, :0]]
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        positions = torch.arange(seen, seen + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(new, caches, positions, mask)[:, -1].argmax(-1, keepdim=True)
        text.append(new)
    return torch.cat(text, dim=-1)


@cached_generate.misconception(
    hint="All rows get the first row's token. Each row of the batch is a text of its own.",
    symptom="Right for one prompt; all others go on like the first.",
)
def first_row_decides_for_all(model, tokens, n_new, cache_factory):
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        positions = torch.arange(seen, seen + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(new, caches, positions, mask)[0, -1].argmax().expand(batch, 1)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


@cached_generate.misconception(
    hint="You switch the model to eval mode and leave it there. Whether it trains is the caller's affair.",
    symptom="After the first sample in the middle of training, dropout never comes back.",
)
def decoder_left_in_eval_mode(model, tokens, n_new, cache_factory):
    model.eval()
    batch, n = tokens.shape
    caches = [cache_factory(batch, n + n_new) for _ in range(model.n_layers)]
    new, seen = tokens, 0
    for _ in range(n_new):
        n = new.shape[1]
        positions = torch.arange(seen, seen + n, device=tokens.device)
        mask = torch.ones(n, seen + n, dtype=torch.bool, device=tokens.device).tril(seen)
        seen += n
        new = model(new, caches, positions, mask)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=-1)
    return tokens


def in_groups(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As it stands in the notebook."""
    group = q.shape[0] // k.shape[0]
    return F.scaled_dot_product_attention(q, k.repeat_interleave(group, dim=0), v.repeat_interleave(group, dim=0))


def in_turn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As it stands in the notebook."""
    group = q.shape[0] // k.shape[0]
    return F.scaled_dot_product_attention(q, k.repeat(group, 1, 1), v.repeat(group, 1, 1))


def _why_groups_agree(q: Tensor, k: Tensor, v: Tensor) -> str:
    if 0 in (q.numel(), k.numel(), v.numel()):
        return "There is nothing in it that could be shared."
    if k.shape[0] == 1:
        return "All query heads share the one head of keys and values: there is no choice."
    if k.shape[0] == q.shape[0]:
        return "Each query head has keys and values of its own: nothing is repeated."
    return (
        "Heads do get each other's keys and values, but nothing comes out differently: are the heads' values the same?"
    )


find_wrong_groups = counterexample(
    TOPIC,
    "find_wrong_groups",
    in_groups,
    in_turn,
    because=_why_groups_agree,
    outputs=("q", "k", "v"),
    most=8,
)


@find_wrong_groups.variant
def four_heads_on_two():
    return torch.zeros(4, 1, 1), torch.zeros(2, 1, 1), torch.tensor([[[1.0]], [[2.0]]])


@find_wrong_groups.variant
def random_queries_and_keys():
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(4, 1, 1, generator=generator), torch.randn(2, 1, 1, generator=generator)
    return q, k, torch.tensor([-1.0, 1.0]).reshape(2, 1, 1)


@find_wrong_groups.variant
def values_in_float64():
    return tuple(torch.arange(1.0, n + 1, dtype=torch.float64).reshape(n, 1, 1) for n in (4, 2, 2))


@find_wrong_groups.variant
def a_list_of_three():
    return [torch.ones(4, 1, 1), torch.ones(2, 1, 1), torch.eye(2)[1].reshape(2, 1, 1)]


@find_wrong_groups.misconception(
    hint="With one head of keys and values all heads share it, in whatever order: that is multi-query attention.",
    symptom="A test with one key-value head passes every way to share.",
)
def multi_query_can_not_show_it():
    return torch.randn(4, 1, 1), torch.randn(1, 1, 1), torch.randn(1, 1, 1)


@find_wrong_groups.misconception(
    hint="With as many heads of keys and values as query heads nothing is repeated: that is multi-head attention.",
    symptom="A test against multi-head attention passes every way to share.",
)
def multi_head_can_not_show_it():
    return torch.randn(4, 1, 1), torch.randn(4, 1, 1), torch.randn(4, 1, 1)


@find_wrong_groups.misconception(
    hint="The heads get each other's keys and values, but the values are all the same. What has to differ from head "
    "to head?",
    symptom="A test with `torch.ones` sees shapes and nothing else.",
)
def the_same_values_in_all_heads():
    return torch.randn(4, 1, 1), torch.randn(2, 1, 1), torch.ones(2, 1, 1)


@find_wrong_groups.misconception(
    hint="They differ there. Now make it smaller: how many queries, keys and columns does it take? How many heads?",
    symptom="A counterexample that shows that something is wrong, not yet what.",
)
def groups_larger_than_needed():
    return torch.randn(6, 3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 4)


@find_wrong_groups.misconception(
    hint="The three have three axes each, heads first. There is no batch in front.",
    symptom="The two functions repeat the first axis, which is then the batch.",
)
def groups_with_a_batch():
    return torch.randn(1, 4, 1, 1), torch.randn(1, 2, 1, 1), torch.randn(1, 2, 1, 1)


@find_wrong_groups.misconception(
    hint="Three heads can't be shared out evenly among two. The query heads are a multiple of the others.",
    symptom="An error of shapes in both functions.",
)
def heads_that_can_not_be_shared_out():
    return torch.randn(3, 1, 1), torch.randn(2, 1, 1), torch.randn(2, 1, 1)


# Attention with shared keys and values, by PyTorch's own operator on keys that are repeated.


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """As it stands in the notebook."""
    if mask is None:
        return torch.softmax(scores, dim=-1)
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, not {mask.dtype}")
    try:
        mask = mask.expand_as(scores)
    except RuntimeError:
        raise ValueError(f"a mask of {tuple(mask.shape)} does not fit scores of {tuple(scores.shape)}") from None
    return torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1).masked_fill(~mask, 0.0)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    # Rows without a key come out as zeros, and send back zeros, as our masks want it.
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, None if mask is None else torch.atleast_2d(mask))


def _grouped_by_pytorch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    group = q.shape[-3] // k.shape[-3]
    return _sdpa(q, k.repeat_interleave(group, dim=-3), v.repeat_interleave(group, dim=-3), mask)


def _grouped_naive(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, nudge: Nudge = as_is) -> Tensor:
    group = q.shape[-3] // k.shape[-3]
    scores = nudge(q @ k.repeat_interleave(group, dim=-3).mT) / rounded_root(q.shape[-1])
    return naive_masked_softmax(scores, mask, nudge=nudge) @ v.repeat_interleave(group, dim=-3)


def _pattern(draw: Draw, *shape: int) -> Tensor:
    """A random mask in which every row keeps at least one key."""
    mask = draw.uniform(0, 1, *shape) > 0.5
    kept = torch.tensor([draw.integer(0, shape[-1] - 1) for _ in range(mask[..., 0].numel())])
    return mask.scatter(-1, kept.reshape(*shape[:-1], 1), True)


def _causal(n_queries: int, n_keys: int) -> Tensor:
    return torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)


def _grouped(
    draw: Draw, lead: tuple[int, ...], heads: int, kv_heads: int, lengths: tuple[int, int], d_k: int, d_v: int
) -> tuple[Tensor, Tensor, Tensor]:
    n_queries, n_keys = lengths
    q = draw.normal(*lead, heads, n_queries, d_k)
    return q, draw.normal(*lead, kv_heads, n_keys, d_k), draw.normal(*lead, kv_heads, n_keys, d_v)


def _padding(*lengths: int, n_keys: int) -> Tensor:
    return (torch.arange(n_keys) < torch.tensor(lengths)[:, None])[:, None, None]


def _grouped_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, mask: Tensor | None, *sizes: Any, **more: Any) -> Case:
        return Case(name, (*_grouped(draw, *sizes), mask), **more)

    yield Case("four heads on two", _grouped(draw, (), 4, 2, (3, 5), 4, 6), gradients=True, tiny=True)
    yield Case("a batch, six heads on two", _grouped(draw, (2,), 6, 2, (3, 5), 4, 5), gradients=True)
    yield Case("a batch, six heads on three", _grouped(draw, (2,), 6, 3, (4, 4), 4, 4), gradients=True)
    yield Case("as many groups as heads in each", _grouped(draw, (2,), 9, 3, (3, 4), 5, 4))
    yield Case("all sizes alike", _grouped(draw, (4,), 4, 2, (4, 4), 4, 4))
    yield Case("two leading axes", _grouped(draw, (2, 3), 4, 2, (3, 5), 4, 6), gradients=True)
    yield Case("one query, as in generation", _grouped(draw, (2,), 8, 2, (1, draw.integer(20, 30)), 16, 16))
    yield Case("a batch of one", _grouped(draw, (1,), 4, 2, (3, 5), 8, 3), gradients=True)
    turned = _grouped(draw, (2,), 6, 2, (4, 5), 8, 8)
    yield Case("as they come out of a projection", tuple(part.mT.contiguous().mT for part in turned), gradients=True)
    yield Case("columns stored as rows", _grouped(draw, (2,), 4, 2, (3, 5), 4, 6), layout="transposed", gradients=True)
    yield Case("every second number of a row", _grouped(draw, (2,), 4, 2, (3, 5), 4, 6), layout="strided")
    yield case("causal", _causal(4, 4), (2,), 6, 3, (4, 4), 4, 5, gradients=True)
    by_name = {"mask": _causal(3, 6)}
    yield Case("causal, more keys than queries, mask by name", _grouped(draw, (2,), 4, 2, (3, 6), 4, 4), by_name)
    yield case("padding", _padding(4, 2, n_keys=5), (2,), 6, 2, (3, 5), 4, 4, gradients=True)
    yield case("as many sentences as heads, padding", _padding(4, 2, 3, 5, n_keys=5), (4,), 4, 2, (3, 5), 4, 4)
    yield case("a mask for each head", _pattern(draw, 6, 3, 5), (2,), 6, 2, (3, 5), 4, 4, gradients=True)
    yield case("a mask for each sentence and head", _pattern(draw, 2, 4, 3, 5), (2,), 4, 2, (3, 5), 4, 4)
    yield case("one row of keys for all", _pattern(draw, 5), (2,), 4, 2, (3, 5), 4, 4)
    x = draw.normal(2, 4, 5, 4)
    yield Case("queries, keys and values are one tensor", (x, x, x), gradients=True)
    edge = partial(case, check="edge cases")
    yield edge("multi-head: as many of each", None, (2,), 4, 4, (3, 5), 4, 6, gradients=True)
    yield edge("multi-query: one for all", None, (2,), 4, 1, (3, 5), 4, 6, gradients=True)
    yield edge("multi-query, causal", _causal(4, 4), (2,), 3, 1, (4, 4), 4, 4)
    yield edge("one head", None, (2,), 1, 1, (3, 5), 4, 4)
    few = _pattern(draw, 4, 5)
    few[1] = few[2] = False
    yield edge("one key, hidden from two queries", few.any(1, keepdim=True), (2,), 4, 2, (4, 1), 4, 4)
    yield edge("one key for all", None, (2,), 4, 1, (3, 1), 4, 4)
    yield edge("two queries see nothing", few, (2,), 4, 2, (4, 5), 4, 3, gradients=True)
    yield edge("an empty sentence", _padding(3, 0, n_keys=4), (2,), 4, 2, (3, 4), 4, 4, gradients=True)
    q, k, v = _grouped(draw, (2,), 4, 2, (3, 5), 4, 4)
    yield Case("scores up to ±10⁴", (100 * q, 100 * k, v), check="edge cases", coarse=False)
    heads = partial(case, check="heads that can't be shared out", raises=ValueError)
    yield heads("nine heads on four: are nine named?", None, (2,), 9, 4, (3, 5), 4, 4, says="9")
    yield heads("nine heads on four: are four named?", None, (2,), 9, 4, (3, 5), 2, 2, says="4")
    yield heads("more of keys than of queries", None, (), 3, 6, (4, 4), 4, 4, says="6")
    refused = partial(case, check="masks refused", raises=REFUSAL)
    yield refused("a mask of numbers", _causal(3, 5).double(), (2,), 4, 2, (3, 5), 4, 4)
    yield refused("a mask for each group", _pattern(draw, 2, 3, 5), (2,), 4, 2, (3, 5), 4, 4)
    yield refused("a mask with a batch that the queries lack", _pattern(draw, 2, 1, 3, 5), (), 4, 2, (3, 5), 4, 4)


def _shared_by_many(draw: Draw, n: int) -> Case:
    return Case("", _grouped(draw, (), n, 2, (1, n), n, n))


grouped_query_attention = Exam(
    TOPIC,
    "grouped_query_attention",
    _grouped_by_pytorch,
    _grouped_naive,
    _grouped_cases,
    (
        Values("values", 2),
        Values("edge cases", 0.5),
        Values("heads that can't be shared out", 0.25),
        Values("masks refused", 0.25),
        Habits(0.25),
        Gradients(0.75),
        Growth(
            1,
            "largest",
            2,
            _shared_by_many,
            "Keys and values are to be in memory once, not once for each query head. Here n query heads share two of "
            "n keys that are n wide.",
            (16, 32, 64),
            name="no repeated keys",
        ),
    ),
    may_not_call=(ATTENTION,),
)


@grouped_query_attention.variant
def einsum_over_the_group(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    grouped = q.unflatten(-3, (kv_heads, heads // kv_heads))
    scores = torch.einsum("...gqd,...kd->...gqk", grouped, k) / math.sqrt(q.shape[-1])
    weights = masked_softmax(scores.flatten(-4, -3), mask).unflatten(-3, (kv_heads, -1))
    return torch.einsum("...gqk,...kd->...gqd", weights, v).flatten(-4, -3)


@grouped_query_attention.variant
def group_folded_into_the_queries(q, k, v, mask=None):
    *lead, heads, n, d_k = q.shape
    kv_heads, keys = k.shape[-3:-1]
    if heads % kv_heads != 0:
        raise ValueError(f"n_heads = {heads} is no multiple of n_kv_heads = {kv_heads}")
    rows = q.reshape(*lead, kv_heads, heads // kv_heads * n, d_k) * d_k**-0.5
    scores = (rows @ k.mT).reshape(*lead, heads, n, keys)
    weights = masked_softmax(scores, mask)
    return (weights.reshape(*lead, kv_heads, -1, keys) @ v).reshape(*lead, heads, n, v.shape[-1])


@grouped_query_attention.variant
def head_after_head(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"can't share {heads} heads out among {kv_heads}")
    group = heads // kv_heads
    root = math.sqrt(q.shape[-1])
    scores = torch.stack([q[..., h, :, :] @ k[..., h // group, :, :].mT / root for h in range(heads)], dim=-3)
    weights = masked_softmax(scores, mask)
    return torch.stack([weights[..., h, :, :] @ v[..., h // group, :, :] for h in range(heads)], dim=-3)


@grouped_query_attention.variant
def group_after_group(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} % {kv_heads} = {heads % kv_heads}")
    scores = []
    for queries, keys in zip(q.chunk(kv_heads, dim=-3), k.unbind(-3)):
        scores.append(torch.einsum("...gqd,...kd->...gqk", queries, keys / math.sqrt(q.shape[-1])))
    weights = masked_softmax(torch.cat(scores, dim=-3), mask)
    outputs = [
        torch.einsum("...gqk,...kd->...gqd", share, values)
        for share, values in zip(weights.chunk(kv_heads, dim=-3), v.unbind(-3))
    ]
    return torch.cat(outputs, dim=-3)


@grouped_query_attention.variant
def einsum_with_all_axes_named(q, k, v, mask=None):
    *lead, heads, n, d_k = q.shape
    kv_heads, keys, d_v = k.shape[-3], k.shape[-2], v.shape[-1]
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads, {kv_heads} key-value heads")
    q5 = q.reshape(-1, kv_heads, heads // kv_heads, n, d_k)
    k4, v4 = k.reshape(-1, kv_heads, keys, d_k), v.reshape(-1, kv_heads, keys, d_v)
    scores = torch.einsum("bhgqd,bhkd->bhgqk", q5, k4).div(d_k**0.5).reshape(*lead, heads, n, keys)
    weights = masked_softmax(scores, mask).reshape(-1, kv_heads, heads // kv_heads, n, keys)
    return torch.einsum("bhgqk,bhkd->bhgqd", weights, v4).reshape(*lead, heads, n, d_v)


@grouped_query_attention.variant
def mask_cleared_by_hand(q, k, v, mask=None):
    if q.shape[-3] % k.shape[-3]:
        raise ValueError(f"{q.shape[-3]} heads can't be shared out among {k.shape[-3]}")
    rows = q.unflatten(-3, (k.shape[-3], -1)).flatten(-3, -2)
    scores = (rows @ k.transpose(-2, -1)).unflatten(-2, (-1, q.shape[-2])).flatten(-4, -3) / q.shape[-1] ** 0.5
    if mask is not None:
        if mask.dtype is not torch.bool:
            raise TypeError("the mask is not boolean")
        if mask.ndim > scores.ndim or any(m not in (1, s) for m, s in zip(mask.shape[::-1], scores.shape[::-1])):
            raise ValueError("the mask does not fit")
        scores = scores + torch.zeros_like(scores).masked_fill(~mask, -math.inf)
        dead = ~mask.expand_as(scores).any(-1, keepdim=True)
        scores = scores.masked_fill(dead, 0.0)
        weights = scores.softmax(-1).masked_fill(dead, 0.0)
    else:
        weights = scores.softmax(-1)
    output = weights.unflatten(-3, (k.shape[-3], -1)).flatten(-3, -2) @ v
    return output.unflatten(-2, (-1, q.shape[-2])).flatten(-4, -3)


@grouped_query_attention.misconception(
    hint="`repeat` deals the keys out in turn: head 0 gets keys 0, head 1 keys 1, and then from the start. "
    "Neighbours are to share, as with `repeat_interleave`. And both make copies.",
    symptom="Right with one key-value head, and with as many as query heads. Pretrained weights talk nonsense.",
    seen=ONNX_7274,
)
def repeat_for_repeat_interleave(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    times = (*[1] * (k.ndim - 3), heads // kv_heads, 1, 1)
    k, v = k.repeat(times), v.repeat(times)
    return masked_softmax(q @ k.mT / math.sqrt(q.shape[-1]), mask) @ v


@grouped_query_attention.misconception(
    hint="Head h of q is to share with its neighbours. You unflatten q the other way, (group, kv_heads), which deals "
    "the heads out in turn.",
    symptom="Right with one key-value head, and with as many as query heads.",
)
def group_axis_in_front(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    grouped = q.unflatten(-3, (-1, kv_heads))
    scores = torch.einsum("...ghqd,...hkd->...ghqk", grouped, k) / math.sqrt(q.shape[-1])
    weights = masked_softmax(scores.flatten(-4, -3), mask).unflatten(-3, (-1, kv_heads))
    return torch.einsum("...ghqk,...hkd->...ghqd", weights, v).flatten(-4, -3)


@grouped_query_attention.misconception(
    hint="Keys and values are repeated for each query head: by `repeat_interleave`, by a `reshape` of what `expand` "
    "gave, or by `@` itself, which makes a tensor of broadcast axes before it multiplies. Let the queries of a group "
    "be more rows in front of the same keys.",
    symptom="The right output, and often no `repeat` in the code. What the small cache saved is spent again at every "
    "step.",
    seen="https://github.com/meta-llama/llama/issues/384",
)
def keys_repeated_in_memory(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    k, v = (part.repeat_interleave(heads // kv_heads, dim=-3) for part in (k, v))
    return masked_softmax(q @ k.mT / math.sqrt(q.shape[-1]), mask) @ v


@grouped_query_attention.misconception(
    hint="You repeat the tokens, not the heads: heads are the third axis from behind.",
    symptom="An error of shapes; or, with one key-value head, every key several times and no change at all.",
    seen=PRIME_RL_2681,
)
def tokens_repeated_instead_of_heads(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    k, v = (part.repeat_interleave(heads // kv_heads, dim=-2) for part in (k, v))
    return masked_softmax(q @ k.mT / math.sqrt(q.shape[-1]), mask) @ v


@grouped_query_attention.misconception(
    hint="You divide the head's number by the number of groups. A head's group is its number divided by how many "
    "heads a group *has*.",
    symptom="Right where there are as many groups as heads in each.",
)
def divided_by_the_number_of_groups(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    root = math.sqrt(q.shape[-1])
    scores = torch.stack([q[..., h, :, :] @ k[..., h // kv_heads, :, :].mT / root for h in range(heads)], dim=-3)
    weights = masked_softmax(scores, mask)
    return torch.stack([weights[..., h, :, :] @ v[..., h // kv_heads, :, :] for h in range(heads)], dim=-3)


@grouped_query_attention.misconception(
    hint="Keys go to groups of neighbours, values in turn: the two must be shared in the same way.",
    symptom="Each head weighs its own keys, and gets another head's values for it.",
)
def values_dealt_out_in_turn(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    scores = torch.einsum("...gqd,...kd->...gqk", q.unflatten(-3, (kv_heads, -1)), k) / math.sqrt(q.shape[-1])
    weights = masked_softmax(scores.flatten(-4, -3), mask).unflatten(-3, (-1, kv_heads))
    return torch.einsum("...ghqk,...hkd->...ghqd", weights, v).flatten(-4, -3)


@grouped_query_attention.misconception(
    hint="All heads get the first head of keys and values. That is right for one of them, and there are more.",
    symptom="Right for multi-query attention; else the other heads of keys and values are never used.",
)
def first_keys_for_all_heads(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    rows = q.flatten(-3, -2) @ k[..., 0, :, :].mT / math.sqrt(q.shape[-1])
    weights = masked_softmax(rows.unflatten(-2, (heads, -1)), mask)
    return (weights.flatten(-3, -2) @ v[..., 0, :, :]).unflatten(-2, (heads, -1))


@grouped_query_attention.misconception(
    hint="The heads come out in another order than they went in: the group's axis has to stand behind that of the "
    "key-value heads when you flatten the two.",
    symptom="All numbers are there, in other heads; w_o mixes them up.",
)
def heads_out_of_order(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    scores = torch.einsum("...gqd,...kd->...gqk", q.unflatten(-3, (kv_heads, -1)), k) / math.sqrt(q.shape[-1])
    weights = masked_softmax(scores.flatten(-4, -3), mask).unflatten(-3, (kv_heads, -1))
    return torch.einsum("...hgqk,...hkd->...ghqd", weights, v).flatten(-4, -3)


@grouped_query_attention.misconception(
    hint="The mask meets scores that have one axis more, (kv_heads, group, queries, keys). It is made for (heads, "
    "queries, keys): join the two axes first.",
    symptom="Right without a mask and with a causal one. A mask for each head, or sentence, meets the wrong axis.",
)
def mask_on_grouped_scores(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    scores = torch.einsum("...gqd,...kd->...gqk", q.unflatten(-3, (kv_heads, -1)), k) / math.sqrt(q.shape[-1])
    return torch.einsum("...gqk,...kd->...gqd", masked_softmax(scores, mask), v).flatten(-4, -3)


@grouped_query_attention.misconception(
    hint="You folded the group into the queries and stretched the mask to fit: its first row now serves the first "
    "queries of a head, not the first query of each head. Undo the fold before you mask.",
    symptom="Right without a mask, and for one query.",
)
def mask_rows_stretched(q, k, v, mask=None):
    *lead, heads, n, d_k = q.shape
    kv_heads, keys = k.shape[-3:-1]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    group = heads // kv_heads
    scores = q.reshape(*lead, kv_heads, group * n, d_k) @ k.mT / math.sqrt(d_k)
    if mask is not None and mask.ndim == 2 and mask.shape[0] == n:
        mask = mask.repeat_interleave(group, dim=0)
    elif mask is not None and mask.ndim > 2:
        mask = mask.expand(*lead, heads, n, keys).reshape(*lead, kv_heads, group * n, keys)
    return (masked_softmax(scores, mask) @ v).reshape(*lead, heads, n, v.shape[-1])


@grouped_query_attention.misconception(
    hint="The mask is never used.",
    symptom="Every token sees its future, and padding as well.",
)
def grouped_mask_forgotten(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    scores = torch.einsum("...gqd,...kd->...gqk", q.unflatten(-3, (kv_heads, -1)), k) / math.sqrt(q.shape[-1])
    return torch.einsum("...gqk,...kd->...gqd", torch.softmax(scores, dim=-1), v).flatten(-4, -3)


@grouped_query_attention.misconception(
    hint="A query that may attend to nothing gets NaN: −inf everywhere has no softmax. It is to get zeros, which the "
    "given `masked_softmax` sees to.",
    symptom="Right until the first empty row.",
)
def grouped_empty_rows_are_nan(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    scores = torch.einsum("...gqd,...kd->...gqk", q.unflatten(-3, (kv_heads, -1)), k) / math.sqrt(q.shape[-1])
    scores = scores.flatten(-4, -3)
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError("no boolean mask")
        if mask.ndim > scores.ndim or any(m not in (1, s) for m, s in zip(mask.shape[::-1], scores.shape[::-1])):
            raise ValueError("no mask for these scores")
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = torch.softmax(scores, dim=-1).unflatten(-3, (kv_heads, -1))
    return torch.einsum("...gqk,...kd->...gqd", weights, v).flatten(-4, -3)


@grouped_query_attention.misconception(
    hint="A query that may attend to nothing gets the mean of all values: with −1e9 everywhere softmax sees no "
    "difference. It is to get zeros, which the given `masked_softmax` sees to.",
    symptom="No NaN, and empty rows see everything, padding as well.",
)
def grouped_empty_rows_see_all(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    scores = torch.einsum("...gqd,...kd->...gqk", q.unflatten(-3, (kv_heads, -1)), k) / math.sqrt(q.shape[-1])
    scores = scores.flatten(-4, -3)
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError("no boolean mask")
        if mask.ndim > scores.ndim or any(m not in (1, s) for m, s in zip(mask.shape[::-1], scores.shape[::-1])):
            raise ValueError("no mask for these scores")
        scores = scores.masked_fill(~mask, -1e9)
    weights = torch.softmax(scores, dim=-1).unflatten(-3, (kv_heads, -1))
    return torch.einsum("...gqk,...kd->...gqd", weights, v).flatten(-4, -3)


@grouped_query_attention.misconception(
    hint="Your mask is the wrong way round: True means that a query may attend to a key.",
    symptom="Every token sees its future, and nothing else.",
)
def grouped_true_hides(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    scores = torch.einsum("...gqd,...kd->...gqk", q.unflatten(-3, (kv_heads, -1)), k) / math.sqrt(q.shape[-1])
    weights = masked_softmax(scores.flatten(-4, -3), None if mask is None else ~mask).unflatten(-3, (kv_heads, -1))
    return torch.einsum("...gqk,...kd->...gqd", weights, v).flatten(-4, -3)


@grouped_query_attention.misconception(
    hint="The scores are not scaled. They are dot products of d_k terms, groups or not.",
    symptom="Weights are too sharp, the more the wider the heads.",
)
def grouped_unscaled(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    scores = torch.einsum("...gqd,...kd->...gqk", q.unflatten(-3, (kv_heads, -1)), k)
    weights = masked_softmax(scores.flatten(-4, -3), mask).unflatten(-3, (kv_heads, -1))
    return torch.einsum("...gqk,...kd->...gqd", weights, v).flatten(-4, -3)


@grouped_query_attention.misconception(
    hint="You scale by the width of all heads together. A score is a dot product of d_k terms, those of one head.",
    symptom="Weights are too even, the more heads the more so.",
)
def grouped_scaled_by_all_heads(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    root = math.sqrt(heads * q.shape[-1])
    scores = torch.einsum("...gqd,...kd->...gqk", q.unflatten(-3, (kv_heads, -1)), k) / root
    weights = masked_softmax(scores.flatten(-4, -3), mask).unflatten(-3, (kv_heads, -1))
    return torch.einsum("...gqk,...kd->...gqd", weights, v).flatten(-4, -3)


@grouped_query_attention.misconception(
    hint="Nothing looks whether the heads can be shared out. PyTorch's error speaks of shapes: raise a `ValueError` "
    "with both numbers.",
    symptom="RuntimeError: unflatten: Provided sizes [4, -1] don't multiply up to the size of dim 1 (9).",
    seen=KERAS_23081,
)
def groups_left_to_pytorch(q, k, v, mask=None):
    kv_heads = k.shape[-3]
    scores = torch.einsum("...gqd,...kd->...gqk", q.unflatten(-3, (kv_heads, -1)), k) / math.sqrt(q.shape[-1])
    weights = masked_softmax(scores.flatten(-4, -3), mask).unflatten(-3, (kv_heads, -1))
    return torch.einsum("...gqk,...kd->...gqd", weights, v).flatten(-4, -3)


@grouped_query_attention.misconception(
    hint="You take for granted that there is exactly one batch axis. Count from behind, or let `...` stand for the "
    "rest.",
    symptom="Right on (batch, heads, n, d); an error on one sentence, and on two leading axes.",
)
def grouped_needs_one_batch_axis(q, k, v, mask=None):
    batch, heads, n, d_k = q.shape
    kv_heads = k.shape[1]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    grouped = q.reshape(batch, kv_heads, heads // kv_heads, n, d_k)
    scores = torch.einsum("bhgqd,bhkd->bhgqk", grouped, k) / math.sqrt(d_k)
    weights = masked_softmax(scores.flatten(1, 2), mask).unflatten(1, (kv_heads, -1))
    return torch.einsum("bhgqk,bhkd->bhgqd", weights, v).flatten(1, 2)


@grouped_query_attention.misconception(
    hint="Keys and values leave the graph (`detach`, `.data`): nothing that makes them can learn.",
    symptom="The output is right, and w_k and w_v get no gradient.",
)
def shared_keys_detached(q, k, v, mask=None):
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads on {kv_heads}")
    grouped = q.unflatten(-3, (kv_heads, -1))
    scores = torch.einsum("...gqd,...kd->...gqk", grouped, k.detach()) / math.sqrt(q.shape[-1])
    weights = masked_softmax(scores.flatten(-4, -3), mask).unflatten(-3, (kv_heads, -1))
    return torch.einsum("...gqk,...kd->...gqd", weights, v.detach()).flatten(-4, -3)


# Latents: by PyTorch's own operator on keys and values that are unpacked, against the absorbed formula.


def _unpacked_by_pytorch(q: Tensor, latent: Tensor, w_uk: Tensor, w_uv: Tensor, mask: Tensor | None = None) -> Tensor:
    return _sdpa(q, latent.unsqueeze(-3) @ w_uk, latent.unsqueeze(-3) @ w_uv, mask)


def _latent_naive(
    q: Tensor, latent: Tensor, w_uk: Tensor, w_uv: Tensor, mask: Tensor | None = None, nudge: Nudge = as_is
) -> Tensor:
    scores = nudge(nudge(q @ w_uk.mT) @ latent.unsqueeze(-3).mT) / rounded_root(q.shape[-1])
    weights = naive_masked_softmax(scores, mask, nudge=nudge)
    return nudge(weights @ latent.unsqueeze(-3)) @ w_uv


def _latents(
    draw: Draw, lead: tuple[int, ...], heads: int, lengths: tuple[int, int], d_latent: int, d_k: int, d_v: int
) -> tuple[Tensor, ...]:
    q, latent = draw.normal(*lead, heads, lengths[0], d_k), draw.normal(*lead, lengths[1], d_latent)
    w_uk, w_uv = (draw.normal(heads, d_latent, d, scale=d_latent**-0.5) for d in (d_k, d_v))
    return q, latent, w_uk, w_uv


def _latent_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, mask: Tensor | None, *sizes: Any, **more: Any) -> Case:
        return Case(name, (*_latents(draw, *sizes), mask), **more)

    yield Case("one sentence", _latents(draw, (), 3, (2, 5), 6, 4, 5), gradients=True, tiny=True)
    yield Case("a batch", _latents(draw, (2,), 3, (4, 5), 6, 4, 5), gradients=True)
    yield Case("a batch as large as the heads", _latents(draw, (3,), 3, (4, 5), 6, 4, 4), gradients=True)
    yield Case("a latent narrower than a key", _latents(draw, (2,), 2, (3, 5), 3, 8, 6))
    yield Case("everything as wide as the latent", _latents(draw, (2,), 3, (4, 5), 4, 4, 4), gradients=True)
    yield Case("all sizes alike", _latents(draw, (4,), 4, (4, 4), 4, 4, 4))
    yield Case("two leading axes", _latents(draw, (2, 3), 2, (3, 4), 6, 4, 5), gradients=True)
    yield Case("one query, as in generation", _latents(draw, (2,), 4, (1, draw.integer(20, 30)), 32, 8, 8))
    yield Case("a batch of one", _latents(draw, (1,), 3, (3, 5), 6, 4, 4))
    yield Case("columns stored as rows", _latents(draw, (2,), 3, (3, 5), 6, 4, 5), layout="transposed", gradients=True)
    yield Case("every second number of a row", _latents(draw, (2,), 3, (3, 5), 6, 4, 5), layout="strided")
    yield case("causal", _causal(4, 4), (2,), 3, (4, 4), 6, 4, 5, gradients=True)
    by_name = {"mask": _causal(3, 6)}
    yield Case("causal, more keys than queries, mask by name", _latents(draw, (2,), 2, (3, 6), 8, 4, 4), by_name)
    yield case("padding", _padding(4, 2, n_keys=5), (2,), 3, (3, 5), 6, 4, 4, gradients=True)
    yield case("a mask for each head", _pattern(draw, 3, 4, 5), (2,), 3, (4, 5), 6, 4, 4)
    yield case("one row of keys for all", _pattern(draw, 5), (2,), 3, (4, 5), 6, 4, 4)
    edge = partial(case, check="edge cases")
    yield edge("one head", None, (2,), 1, (3, 5), 6, 4, 4, gradients=True)
    yield edge("a latent of one number", None, (2,), 3, (2, 4), 1, 4, 4)
    few = _pattern(draw, 4, 5)
    few[1] = few[2] = False
    yield edge("one key, hidden from two queries", few.any(1, keepdim=True), (2,), 3, (4, 1), 6, 4, 4)
    yield edge("two queries see nothing", few, (2,), 2, (4, 5), 6, 4, 3, gradients=True)
    yield edge("an empty sentence", _padding(3, 0, n_keys=4), (2,), 2, (3, 4), 6, 4, 4, gradients=True)
    q, latent, w_uk, w_uv = _latents(draw, (2,), 3, (3, 5), 6, 4, 4)
    yield Case("scores up to ±10⁴", (100 * q, latent, 100 * w_uk, w_uv), check="edge cases", coarse=False)
    refused = partial(case, check="masks refused", raises=REFUSAL)
    yield refused("a mask of numbers", _causal(3, 5).double(), (2,), 2, (3, 5), 6, 4, 4)
    yield refused("a mask with a batch that the queries lack", _pattern(draw, 2, 1, 3, 5), (), 2, (3, 5), 6, 4, 4)


def _one_query_at_all(draw: Draw, n: int) -> Case:
    # Values twice as wide as keys, so that it can be told which of the two were made.
    return Case("", _latents(draw, (), 2, (1, n), n, n, 2 * n))


def _many_heads(draw: Draw, n: int) -> Case:
    return Case("", _latents(draw, (2,), n, (1, n), n, 4, 4))


latent_attention = Exam(
    TOPIC,
    "latent_attention",
    _unpacked_by_pytorch,
    _latent_naive,
    _latent_cases,
    (
        Values("values", 1.75),
        Values("edge cases", 0.5),
        Values("masks refused", 0.25),
        Habits(0.25),
        Gradients(0.75),
        Growth(
            1,
            "flops",
            2,
            _one_query_at_all,
            "Neither keys nor values are to be made of the latents. Here one query looked at n latents, n wide like "
            "the keys, and the values were 2n wide.",
            (16, 32, 64),
            name="absorbed",
        ),
        Growth(
            0.5,
            "largest",
            2,
            _many_heads,
            "The latents are to be in memory once, not once for each head. Here n heads looked at n latents that "
            "were n wide.",
            (16, 32, 64),
            name="no copies of the latents",
        ),
    ),
    may_not_call=(ATTENTION,),
)


@latent_attention.variant
def absorbed_by_einsum(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    mixed = torch.einsum("...hqk,...kl->...hql", masked_softmax(scores, mask), latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uv)


@latent_attention.variant
def heads_folded_into_the_queries(q, latent, w_uk, w_uv, mask=None):
    heads, n, d_k = q.shape[-3:]
    absorbed = (q / math.sqrt(d_k)) @ w_uk.mT
    scores = (absorbed.flatten(-3, -2) @ latent.mT).unflatten(-2, (heads, n))
    weights = masked_softmax(scores, mask)
    mixed = (weights.flatten(-3, -2) @ latent).unflatten(-2, (heads, n))
    return mixed @ w_uv


@latent_attention.variant
def absorbed_head_after_head(q, latent, w_uk, w_uv, mask=None):
    root = math.sqrt(q.shape[-1])
    scores = [(q[..., h, :, :] @ w.T) @ latent.transpose(-2, -1) / root for h, w in enumerate(w_uk)]
    weights = masked_softmax(torch.stack(scores, dim=-3), mask)
    outputs = [(weights[..., h, :, :] @ latent) @ w for h, w in enumerate(w_uv)]
    return torch.stack(outputs, dim=-3)


@latent_attention.variant
def scaled_last(q, latent, w_uk, w_uv, mask=None):
    queries = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", queries, latent).mul(q.size(-1) ** -0.5)
    weights = masked_softmax(scores, mask)
    return torch.einsum("...hql,hlv->...hqv", torch.einsum("...hqk,...kl->...hql", weights, latent), w_uv)


@latent_attention.variant
def root_in_the_matrix(q, latent, w_uk, w_uv, mask=None):
    w_uk = w_uk / math.sqrt(w_uk.shape[-1])
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    weights = masked_softmax(torch.einsum("...kl,...hql->...hqk", latent, absorbed), mask)
    return torch.einsum("hlv,...hql->...hqv", w_uv, torch.einsum("...kl,...hqk->...hql", latent, weights))


@latent_attention.variant
def batch_flattened_for_bmm(q, latent, w_uk, w_uv, mask=None):
    *lead, heads, n, d_k = q.shape
    keys, d_latent = latent.shape[-2:]
    by_head = q.reshape(-1, heads, n, d_k).transpose(0, 1).reshape(heads, -1, d_k)
    absorbed = torch.bmm(by_head, w_uk.mT).reshape(heads, -1, n, d_latent).transpose(0, 1)
    flat = latent.reshape(-1, keys, d_latent)
    scores = torch.bmm(absorbed.reshape(-1, heads * n, d_latent), flat.mT) / math.sqrt(d_k)
    weights = masked_softmax(scores.reshape(*lead, heads, n, keys), mask)
    mixed = torch.bmm(weights.reshape(-1, heads * n, keys), flat).reshape(-1, heads, n, d_latent)
    output = torch.bmm(mixed.transpose(0, 1).reshape(heads, -1, d_latent), w_uv)
    return output.reshape(heads, -1, n, w_uv.shape[-1]).transpose(0, 1).reshape(*lead, heads, n, w_uv.shape[-1])


@latent_attention.misconception(
    hint="You scale by √d_latent, the width of the absorbed query. Absorbing is only another order of brackets: a "
    "score is still the dot product of a query and a key, with d_k terms.",
    symptom="Right where the latent is as wide as a key. Elsewhere weights are flatter than those the model was "
    "trained with.",
    seen=OLLAMA_13893,
)
def scaled_by_the_latent(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(latent.shape[-1])
    mixed = torch.einsum("...hqk,...kl->...hql", masked_softmax(scores, mask), latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uv)


@latent_attention.misconception(
    hint="You unpack keys and values of all heads from the latents. That is right, and undoes what the latents save: "
    "move w_uk over to the queries, and w_uv behind the sum.",
    symptom="The right output, with the memory of multi-head attention and far more work for one query.",
    seen=TRANSFORMERS_47761,
)
def keys_unpacked(q, latent, w_uk, w_uv, mask=None):
    k = torch.einsum("...kl,hld->...hkd", latent, w_uk)
    v = torch.einsum("...kl,hld->...hkd", latent, w_uv)
    return masked_softmax(q @ k.mT / math.sqrt(q.shape[-1]), mask) @ v


@latent_attention.misconception(
    hint="The keys are absorbed, the values are not: you still unpack them for each head. Sum the latents first, "
    "then apply w_uv to the sum.",
    symptom="The right output; half of what latents save is lost.",
)
def values_unpacked(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    v = torch.einsum("...kl,hld->...hkd", latent, w_uv)
    return masked_softmax(scores, mask) @ v


@latent_attention.misconception(
    hint="The values are absorbed, the keys are not: you still unpack them for each head. Apply w_uk's transpose to "
    "the queries, which are few, and let them meet the latents.",
    symptom="Half of what the latents save.",
)
def keys_alone_unpacked(q, latent, w_uk, w_uv, mask=None):
    k = torch.einsum("...kl,hld->...hkd", latent, w_uk)
    weights = masked_softmax(q @ k.mT / math.sqrt(q.shape[-1]), mask)
    return torch.einsum("...hqk,...kl->...hql", weights, latent) @ w_uv


@latent_attention.misconception(
    hint="Your latents are (batch, 1, keys, d_latent) against (batch, heads, …): `@` makes a copy for each head "
    "before it multiplies. Name the axes in `einsum`, or let the heads be more rows.",
    symptom="The right output, and nothing in the code that looks like a copy.",
)
def latents_copied_by_broadcasting(q, latent, w_uk, w_uv, mask=None):
    shared = latent.unsqueeze(-3)
    scores = (q @ w_uk.mT) @ shared.mT / math.sqrt(q.shape[-1])
    return (masked_softmax(scores, mask) @ shared) @ w_uv


@latent_attention.misconception(
    hint="The scores are not scaled. They are dot products of d_k terms, absorbed or not.",
    symptom="Weights are too sharp, the more the wider the heads.",
)
def latent_unscaled(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent)
    mixed = torch.einsum("...hqk,...kl->...hql", masked_softmax(scores, mask), latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uv)


@latent_attention.misconception(
    hint="You scale twice, by √d_k and by √d_latent. Once is enough: the first.",
    symptom="Weights are nearly uniform.",
)
def scaled_by_both(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q / math.sqrt(q.shape[-1]), w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(latent.shape[-1])
    mixed = torch.einsum("...hqk,...kl->...hql", masked_softmax(scores, mask), latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uv)


@latent_attention.misconception(
    hint="All heads use the first head's matrices. Each has its own: that is what makes their keys differ.",
    symptom="Right for one head.",
)
def first_matrices_for_all_heads(q, latent, w_uk, w_uv, mask=None):
    scores = (q @ w_uk[0].T).flatten(-3, -2) @ latent.mT / math.sqrt(q.shape[-1])
    weights = masked_softmax(scores.unflatten(-2, q.shape[-3:-1]), mask)
    return (weights.flatten(-3, -2) @ latent).unflatten(-2, q.shape[-3:-1]) @ w_uv[0]


@latent_attention.misconception(
    hint="You give the weighted sum of the latents. The heads' values are made of them by w_uv: apply it to the sum.",
    symptom="The output is d_latent wide, and knows nothing of w_uv.",
)
def latents_handed_over(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    return torch.einsum("...hqk,...kl->...hql", masked_softmax(scores, mask), latent)


@latent_attention.misconception(
    hint="The values are made with w_uk, the keys' matrix. They have one of their own, w_uv.",
    symptom="An error of shapes where d_v is not d_k, and wrong values where it is.",
)
def keys_handed_over(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    mixed = torch.einsum("...hqk,...kl->...hql", masked_softmax(scores, mask), latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uk)


@latent_attention.misconception(
    hint="w_uk meets the queries untransposed. It makes a key of a latent; to make something of a latent's width of "
    "a query it has to be turned round.",
    symptom="An error of shapes, but where the latent is as wide as a key: there it is another score.",
)
def absorbed_without_transpose(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hdl->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    mixed = torch.einsum("...hqk,...kl->...hql", masked_softmax(scores, mask), latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uv)


@latent_attention.misconception(
    hint="The mask is never used.",
    symptom="Every token sees its future, and padding as well.",
)
def latent_mask_forgotten(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    mixed = torch.einsum("...hqk,...kl->...hql", torch.softmax(scores, dim=-1), latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uv)


@latent_attention.misconception(
    hint="A query that may attend to nothing gets NaN: −inf everywhere has no softmax. It is to get zeros, which the "
    "given `masked_softmax` sees to.",
    symptom="Right until the first empty row.",
)
def latent_empty_rows_are_nan(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError("no boolean mask")
        if mask.ndim > scores.ndim or any(m not in (1, s) for m, s in zip(mask.shape[::-1], scores.shape[::-1])):
            raise ValueError("no mask for these scores")
        scores = scores.masked_fill(~mask, -torch.inf)
    mixed = torch.einsum("...hqk,...kl->...hql", torch.softmax(scores, dim=-1), latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uv)


@latent_attention.misconception(
    hint="A query that may attend to nothing gets the mean of all latents: with −1e9 everywhere softmax sees no "
    "difference. It is to get zeros, which the given `masked_softmax` sees to.",
    symptom="No NaN, and empty rows see everything, padding as well.",
)
def latent_empty_rows_see_all(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError("no boolean mask")
        if mask.ndim > scores.ndim or any(m not in (1, s) for m, s in zip(mask.shape[::-1], scores.shape[::-1])):
            raise ValueError("no mask for these scores")
        scores = scores.masked_fill(~mask, -1e9)
    mixed = torch.einsum("...hqk,...kl->...hql", torch.softmax(scores, dim=-1), latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uv)


@latent_attention.misconception(
    hint="Your mask is the wrong way round: True means that a query may attend to a key.",
    symptom="Every token sees its future, and nothing else.",
)
def latent_true_hides(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    weights = masked_softmax(scores, None if mask is None else ~mask)
    mixed = torch.einsum("...hqk,...kl->...hql", weights, latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uv)


@latent_attention.misconception(
    hint="Softmax runs over the heads. Each head shares its weights out among the *keys*.",
    symptom="The weights of a head do not sum to one, and with one head all are 1.",
)
def latent_softmax_over_heads(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    if mask is not None:
        masked_softmax(scores, mask)
        scores = scores.masked_fill(~mask, -1e4)
    mixed = torch.einsum("...hqk,...kl->...hql", torch.softmax(scores, dim=-3), latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uv)


@latent_attention.misconception(
    hint="The heads are summed. Each keeps its own output, on its own axis; w_o adds them up later.",
    symptom="The heads' axis is gone.",
)
def latent_heads_summed(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk)
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    mixed = torch.einsum("...hqk,...kl->...hql", masked_softmax(scores, mask), latent)
    return torch.einsum("...hql,hld->...qd", mixed, w_uv)


@latent_attention.misconception(
    hint="You take for granted that there is exactly one batch axis. `...` in `einsum` stands for any number of them.",
    symptom="Right on (batch, heads, n, d); an error on one sentence, and on two leading axes.",
)
def latent_needs_one_batch_axis(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("bhqd,hld->bhql", q, w_uk)
    scores = torch.einsum("bhql,bkl->bhqk", absorbed, latent) / math.sqrt(q.shape[-1])
    mixed = torch.einsum("bhqk,bkl->bhql", masked_softmax(scores, mask), latent)
    return torch.einsum("bhql,hld->bhqd", mixed, w_uv)


@latent_attention.misconception(
    hint="The matrices leave the graph (`detach`, `.data`): the output is right, and w_uk and w_uv never learn.",
    symptom="Training goes on without an error, and keys and values stay what they were at the start.",
)
def matrices_detached(q, latent, w_uk, w_uv, mask=None):
    absorbed = torch.einsum("...hqd,hld->...hql", q, w_uk.detach())
    scores = torch.einsum("...hql,...kl->...hqk", absorbed, latent) / math.sqrt(q.shape[-1])
    mixed = torch.einsum("...hqk,...kl->...hql", masked_softmax(scores, mask), latent)
    return torch.einsum("...hql,hld->...hqd", mixed, w_uv.detach())
