"""The exams of *masking*: who may attend to whom, and what a query gets that may attend to nobody."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from autograder.answer.guard import ATTENTION, Operators
from autograder.engine.checks import Gradients, Habits, Properties, Values, counterexample, examiner
from autograder.engine.exam import Case, Draw, Exam, Here, Nudge, as_is
from autograder.engine.packed_weights import packed
from autograder.engine.subject import Call
from autograder.exams.scaling import rounded_root
from autograder.exams.softmax import naive_softmax

TOPIC = "masking"
MASKED_SOFTMAX = Operators("a ready-made masked softmax", ("*masked_softmax", "_safe_softmax"))
# The contract names one error for each fault of a mask; which of the two comes is not worth a mark.
REFUSAL = (TypeError, ValueError)
# Where a popular fill, −10⁹, is no number. CPUs are slow at it, so only a few cases are run in it there.
HALF = (torch.float16,)


def _bools(rows: list[list[bool]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def _causal_by_hand(n_queries: int, n_keys: int, device: Any = None) -> Tensor:
    """FlashAttention's rule, read off one by one: counted from the end, a query sees no key that comes after it."""
    return _bools([[n_keys - key >= n_queries - query for key in range(n_keys)] for query in range(n_queries)])


def _causal_naive(n_queries: int, n_keys: int, device: Any = None, nudge: Nudge = as_is) -> Tensor:
    return _causal_by_hand(n_queries, n_keys)


def _causal_cases(draw: Draw) -> Iterator[Case]:
    n, more = draw.integer(4, 9), draw.integer(2, 5)
    here = {"device": Here()}
    yield Case("as many queries as keys", (n, n), here)
    yield Case("more keys than queries", (n, n + more), here)
    yield Case("one key more than queries", (n, n + 1), here)
    yield Case("twice as many keys as queries", (n, 2 * n), here)
    yield Case("long sequences", (90, 130), here)
    yield Case("no device given", (n, n + more))
    edge = partial(Case, check="edge cases")
    yield edge("one query, as in generation", (1, n), here)
    yield edge("one query, one key", (1, 1), here)
    yield edge("more queries than keys", (n + more, n), here)
    yield edge("one query more than keys", (n + 1, n), here)
    yield edge("one key", (n, 1), here)
    yield edge("more than 256 keys", (6, 300), here)
    yield edge("more than 256 queries", (300, 3), here)


def _made_where_it_is_asked_for(answer: Callable[..., Tensor], call: Call) -> str | None:
    """Every machine has the meta device; what is not made there, when it is named, comes from another one."""
    answer(*call.args, **call.kwargs)
    try:
        made = answer(*call.args, device="meta").device.type
    except Exception:
        # Nothing can be read on the meta device, and no tensor from there reaches another process.
        return None
    return None if made == "meta" else f"with another device asked for, the mask is made on {made} all the same"


causal_mask = Exam(
    TOPIC,
    "causal_mask",
    _causal_by_hand,
    _causal_naive,
    _causal_cases,
    (
        Values("values", 1),
        Values("edge cases", 0.6),
        Habits(0.2),
        Properties(0.2, (_made_where_it_is_asked_for,), name="the device that is asked for", telling=True),
    ),
    dtype=torch.bool,
)


@causal_mask.variant
def lower_triangle(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


@causal_mask.variant
def positions_compared(n_queries, n_keys, device=None):
    queries = torch.arange(n_keys - n_queries, n_keys, device=device)
    return queries[:, None] >= torch.arange(n_keys, device=device)


@causal_mask.variant
def not_the_upper_triangle(n_queries, n_keys, device=None):
    future = torch.triu(torch.ones(n_queries, n_keys, device=device), diagonal=n_keys - n_queries + 1)
    return future == 0


@causal_mask.variant
def future_filled_in(n_queries, n_keys, device=None):
    mask = torch.full((n_queries, n_keys), True, device=device)
    rows, columns = torch.triu_indices(n_queries, n_keys, offset=n_keys - n_queries + 1, device=device)
    mask[rows, columns] = False
    return mask


@causal_mask.variant
def row_after_row(n_queries, n_keys, device=None):
    mask = torch.zeros(n_queries, n_keys, dtype=torch.bool, device=device)
    for i in range(n_queries):
        mask[i, : max(0, n_keys - n_queries + i + 1)] = True
    return mask


@causal_mask.variant
def nested_lists(n_queries, n_keys, device=None):
    shift = n_keys - n_queries
    rows = [[key <= query + shift for key in range(n_keys)] for query in range(n_queries)]
    return torch.tensor(rows, dtype=torch.bool, device=device)


@causal_mask.variant
def corner_of_a_large_square(n_queries, n_keys, device=None):
    n = max(n_queries, n_keys)
    return torch.ones(n, n, device=device).tril().bool()[n - n_queries :, n - n_keys :]


@causal_mask.variant
def turned_round_twice(n_queries, n_keys, device=None):
    square = torch.ones(n_queries, n_keys, dtype=torch.int64, device=device)
    return square.triu().flip(0, 1).bool()


@causal_mask.misconception(
    hint="Your mask starts at the top left: the first query sees one key. It is the last query that sees all keys.",
    symptom="Right for a square. With a cache of past keys the newest token sees the oldest one and nothing else.",
    seen="https://github.com/pytorch/pytorch/issues/108108",
)
def aligned_at_the_top_left(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril()


@causal_mask.misconception(
    hint="True means *may attend* here. `nn.MultiheadAttention` means the opposite by it; yours is its mask.",
    symptom="Every query sees the future and nothing else.",
    seen="https://github.com/rasbt/LLMs-from-scratch/issues/1061",
)
def true_for_the_future(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).triu(n_keys - n_queries + 1)


@causal_mask.misconception(
    hint="A query may see the key at its own position. Your diagonal is off by one.",
    symptom="The first query sees nothing, and every other one misses the newest key.",
    seen="https://github.com/pbloem/former/issues/10",
)
def cannot_see_itself(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries - 1)


@causal_mask.misconception(
    hint="Your diagonal is off by one the other way: each query sees the key that comes right after it.",
    symptom="The loss of a language model falls to almost nothing: the next token is in plain sight.",
    seen="https://github.com/RVC-Boss/GPT-SoVITS/issues/965",
)
def sees_one_step_ahead(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries + 1)


@causal_mask.misconception(
    hint="You keep the upper triangle: the keys from a query's own position on. The past is on the other side.",
    symptom="The first query sees everything, the last one only itself.",
)
def upper_triangle_kept(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).triu(n_keys - n_queries)


@causal_mask.misconception(
    hint="The corner moves the wrong way: where keys are more than queries, a query must see more, not less.",
    symptom="Right for a square. With more keys than queries whole rows see nothing.",
)
def offset_with_the_wrong_sign(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_queries - n_keys)


@causal_mask.misconception(
    hint="Rows are queries and columns are keys. Yours stand the other way round.",
    symptom="The shape is right for a square only, and there the past and the future are exchanged.",
)
def mask_with_keys_in_the_rows(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries).T


@causal_mask.misconception(
    hint="Your mask has as many rows as keys. It needs one row for each query, which may be fewer.",
    symptom="An error as soon as the numbers of queries and keys differ.",
)
def always_a_square(n_queries, n_keys, device=None):
    return torch.ones(n_keys, n_keys, dtype=torch.bool, device=device).tril()


@causal_mask.misconception(
    hint="The last rows of a square are right while there are enough of them. What if the queries outnumber the keys?",
    symptom="Too few rows with more queries than keys.",
    seen="https://github.com/pytorch/pytorch/issues/144858",
)
def last_rows_of_a_square(n_queries, n_keys, device=None):
    return torch.ones(n_keys, n_keys, dtype=torch.bool, device=device).tril()[-n_queries:]


@causal_mask.misconception(
    hint="With more queries than keys you fall back to the top left. The rule stays: the first queries see nothing.",
    symptom="No row is ever empty, and with more queries than keys the first ones see keys from their future.",
    seen="https://github.com/ml-explore/mlx/pull/2967",
)
def never_a_row_without_a_key(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(max(0, n_keys - n_queries))


@causal_mask.misconception(
    hint="Ones and zeros are no booleans: `~` and `masked_fill` need `dtype=torch.bool`.",
    symptom="The pattern is right, and the first operator that wants a mask stops with an error.",
)
def ones_and_zeros(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, device=device).tril(n_keys - n_queries)


@causal_mask.misconception(
    hint="That is a mask to add to the scores, zero and −inf. Here a mask says True or False.",
    symptom="A float tensor where a boolean one is asked for.",
)
def minus_infinity_to_add(n_queries, n_keys, device=None):
    return torch.full((n_queries, n_keys), -math.inf, device=device).triu(n_keys - n_queries + 1)


@causal_mask.misconception(
    hint="Ones and zeros are no booleans, whole numbers or not: `~` and `masked_fill` need `dtype=torch.bool`.",
    symptom="The pattern is right, and `~` of it is −1 and −2 instead of True and False.",
)
def whole_ones_and_zeros(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, dtype=torch.int64, device=device).tril(n_keys - n_queries)


@causal_mask.misconception(
    hint="`device` is never used. The mask has to be made where it is asked for, next to the scores.",
    symptom="“Expected all tensors to be on the same device”, as soon as the model moves to a GPU.",
)
def device_never_used(n_queries, n_keys, device=None):
    return torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)


@causal_mask.misconception(
    hint="The shape asked for is (queries, keys). It broadcasts to batch and heads without further axes.",
    symptom="Two leading axes of length one, which an unbatched input does not have.",
)
def two_axes_too_many(n_queries, n_keys, device=None):
    return torch.ones(1, 1, n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


def _padding_by_hand(lengths: Tensor, n_keys: int) -> Tensor:
    rows = [[key < length for key in range(n_keys)] for length in lengths.tolist()]
    return _bools(rows).reshape(len(rows), 1, 1, n_keys)


def _padding_naive(lengths: Tensor, n_keys: int, nudge: Nudge = as_is) -> Tensor:
    return _padding_by_hand(lengths, n_keys)


def _lengths(draw: Draw, batch: int, low: int, high: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor([draw.integer(low, high) for _ in range(batch)], dtype=dtype)


def _padding_cases(draw: Draw) -> Iterator[Case]:
    yield Case("three sentences", (torch.tensor([4, 2, 5]), 6))
    yield Case("random lengths", (_lengths(draw, 5, 1, 9), 10))
    yield Case("the longest sentence fills the row", (torch.tensor([7, 3, 1]), 7))
    yield Case("as many sentences as keys", (torch.tensor([3, 1, 4, 2]), 4))
    yield Case("no sentence fills the row", (torch.tensor([2, 3]), 9))
    yield Case("lengths in int32", (_lengths(draw, 4, 1, 6, torch.int32), 6))
    yield Case("lengths above 256", (torch.tensor([300, 257, 5]), 301))
    yield Case("every second number of a longer tensor", (_lengths(draw, 4, 1, 6), 6), layout="strided")
    edge = partial(Case, check="edge cases")
    yield edge("a batch of one", (torch.tensor([3]), 5))
    yield edge("an empty sentence among others", (torch.tensor([2, 0, 4]), 4))
    yield edge("nothing is padding", (torch.tensor([5, 5]), 5))
    yield edge("one key", (torch.tensor([1, 0]), 1))


padding_mask = Exam(
    TOPIC,
    "padding_mask",
    _padding_by_hand,
    _padding_naive,
    _padding_cases,
    (Values("values", 1), Values("edge cases", 0.6), Habits(0.4)),
    dtype=torch.bool,
)


@padding_mask.variant
def positions_below_the_length(lengths, n_keys):
    return (torch.arange(n_keys, device=lengths.device) < lengths[:, None])[:, None, None]


@padding_mask.variant
def lengths_given_three_axes(lengths, n_keys):
    return torch.arange(n_keys, device=lengths.device) < lengths.view(-1, 1, 1, 1)


@padding_mask.variant
def sentence_by_sentence(lengths, n_keys):
    mask = torch.zeros(len(lengths), 1, 1, n_keys, dtype=torch.bool, device=lengths.device)
    for sentence, length in zip(mask, lengths.tolist(), strict=True):
        sentence[..., :length] = True
    return mask


@padding_mask.variant
def ones_counted_up(lengths, n_keys):
    counted = torch.ones(len(lengths), 1, 1, n_keys, device=lengths.device).cumsum(-1)
    return counted <= lengths.reshape(-1, 1, 1, 1)


@padding_mask.variant
def rows_of_a_triangle(lengths, n_keys):
    triangle = torch.ones(n_keys + 1, n_keys, dtype=torch.bool, device=lengths.device).tril(-1)
    return triangle[lengths.long()].unsqueeze(1).unsqueeze(1)


@padding_mask.variant
def lists_of_booleans(lengths, n_keys):
    rows = [[[[key < length for key in range(n_keys)]]] for length in lengths.tolist()]
    return torch.tensor(rows, dtype=torch.bool, device=lengths.device)


@padding_mask.variant
def padding_negated(lengths, n_keys):
    padding = torch.arange(n_keys, device=lengths.device).expand(len(lengths), n_keys) >= lengths.unsqueeze(-1)
    return torch.logical_not(padding).unsqueeze(-2).unsqueeze(-2)


@padding_mask.misconception(
    hint="True means *may attend* here. Yours is True for the padding, as `key_padding_mask` of PyTorch's modules is.",
    symptom="The model reads the padding and ignores the words.",
    seen="https://github.com/pytorch/pytorch/issues/120488",
)
def true_for_padding(lengths, n_keys):
    return (torch.arange(n_keys, device=lengths.device) >= lengths[:, None])[:, None, None]


@padding_mask.misconception(
    hint="Positions count from 0: the last of three keys stands at position 2. You let one more through.",
    symptom="The first padding of each sentence is read as a word.",
    seen="https://github.com/ajhalthor/Transformer-Neural-Network/issues/15",
)
def one_padding_let_through(lengths, n_keys):
    return (torch.arange(n_keys, device=lengths.device) <= lengths[:, None])[:, None, None]


@padding_mask.misconception(
    hint="The last word of every sentence is hidden: a length of three allows positions 0, 1 and 2.",
    symptom="Every sentence loses its last word, often the full stop.",
)
def last_word_hidden(lengths, n_keys):
    return (torch.arange(n_keys, device=lengths.device) < lengths[:, None] - 1)[:, None, None]


@padding_mask.misconception(
    hint="Two axes are missing, for heads and queries. (batch, keys) would meet (queries, keys) in the scores.",
    symptom="An error, or, with as many sentences as queries, the mask of a sentence on one query of all.",
)
def without_heads_and_queries(lengths, n_keys):
    return torch.arange(n_keys, device=lengths.device) < lengths[:, None]


@padding_mask.misconception(
    hint="One axis is missing, for the heads. Against (batch, heads, queries, keys) your batch meets the heads.",
    symptom="An error, or, with as many sentences as heads, one head for each sentence's mask.",
)
def without_an_axis_for_heads(lengths, n_keys):
    return (torch.arange(n_keys, device=lengths.device) < lengths[:, None])[:, None]


@padding_mask.misconception(
    hint="The keys stand on the third axis, where the queries are: you hide what asks, not what is asked.",
    symptom="Every word still reads the padding; the padding's own rows see nothing.",
    seen="https://github.com/hyunwoongko/transformer/pull/40",
)
def queries_hidden_instead_of_keys(lengths, n_keys):
    return (torch.arange(n_keys, device=lengths.device) < lengths[:, None])[:, None, :, None]


@padding_mask.misconception(
    hint="You hide the rows of padding queries as well. Their outputs are thrown away; only keys need to be hidden.",
    symptom="A mask of (batch, 1, keys, keys), wrong wherever queries and keys differ in number.",
    seen="https://github.com/ajhalthor/Transformer-Neural-Network/issues/15",
)
def queries_hidden_as_well(lengths, n_keys):
    real = torch.arange(n_keys, device=lengths.device) < lengths[:, None]
    return (real[:, :, None] & real[:, None, :])[:, None]


@padding_mask.misconception(
    hint="The batch stands on the axis of the heads. The first axis belongs to it.",
    symptom="A mask of (1, batch, 1, keys): each head gets the mask of one sentence.",
)
def batch_in_place_of_heads(lengths, n_keys):
    return (torch.arange(n_keys, device=lengths.device) < lengths[:, None])[None, :, None]


@padding_mask.misconception(
    hint="The mask is as wide as the longest sentence. The tensor may be wider: `n_keys` says how wide.",
    symptom="An error where every sentence is shorter than the tensor.",
)
def as_wide_as_the_longest(lengths, n_keys):
    return (torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None])[:, None, None]


@padding_mask.misconception(
    hint="You hide the first keys and keep the last. Here the real keys come first, and padding fills up the end.",
    symptom="Words are hidden and padding is read, as if the sentences were padded on the left.",
)
def padded_on_the_left(lengths, n_keys):
    return (torch.arange(n_keys, device=lengths.device) >= n_keys - lengths[:, None])[:, None, None]


@padding_mask.misconception(
    hint="One mask for the whole batch cuts every sentence to the shortest. Each needs a row of its own.",
    symptom="Only the shortest sentence is right.",
)
def shortest_for_all(lengths, n_keys):
    shortest = torch.arange(n_keys, device=lengths.device) < lengths.min()
    return shortest.expand(len(lengths), 1, 1, n_keys)


@padding_mask.misconception(
    hint="Ones and zeros are no booleans: leave the comparison as it is, without `.float()` or `.int()`.",
    symptom="The pattern is right, and the first operator that wants a mask stops with an error.",
)
def padding_as_numbers(lengths, n_keys):
    return (torch.arange(n_keys, device=lengths.device) < lengths[:, None])[:, None, None].float()


@padding_mask.misconception(
    hint="Whole numbers are no booleans either: leave the comparison as it is, without `.int()` or `.long()`.",
    symptom="The pattern is right, and `~` of it is −1 and −2 instead of True and False.",
)
def padding_as_whole_numbers(lengths, n_keys):
    return (torch.arange(n_keys, device=lengths.device) < lengths[:, None])[:, None, None].long()


@padding_mask.misconception(
    hint="That is something to add to the scores, zero and −inf. Here a mask says True or False.",
    symptom="A float tensor where a boolean one is asked for.",
)
def padding_as_minus_infinity(lengths, n_keys):
    padding = (torch.arange(n_keys, device=lengths.device) >= lengths[:, None])[:, None, None]
    return torch.zeros(padding.shape, device=lengths.device).masked_fill(padding, -math.inf)


def _joint_by_hand(*masks: Tensor | None) -> Tensor | None:
    given = [mask for mask in masks if mask is not None]
    return torch.stack(torch.broadcast_tensors(*given)).all(0) if given else None


def _joint_naive(*masks: Tensor | None, nudge: Nudge = as_is) -> Tensor | None:
    return _joint_by_hand(*masks)


def _pattern(draw: Draw, *shape: int) -> Tensor:
    """A random mask in which every row keeps at least one key."""
    mask = draw.uniform(0, 1, *shape) > 0.5
    kept = torch.tensor([draw.integer(0, shape[-1] - 1) for _ in range(mask[..., 0].numel())])
    return mask.scatter(-1, kept.reshape(*shape[:-1], 1), True)


def _combine_cases(draw: Draw) -> Iterator[Case]:
    past, padding = _causal_by_hand(4, 6), _padding_by_hand(torch.tensor([5, 2, 6]), 6)
    yield Case("two of one shape", (_pattern(draw, 4, 5), _pattern(draw, 4, 5)))
    yield Case("causal and padding", (past, padding))
    yield Case("padding and causal", (padding, past))
    yield Case("three", (_pattern(draw, 2, 1, 4, 6), past, _pattern(draw, 1, 3, 1, 6)))
    yield Case("three of one shape", tuple(draw.uniform(0, 1, 5, 5) > 0.2 for _ in range(3)))
    yield Case("five", tuple(draw.uniform(0, 1, 4, 6) > 0.1 for _ in range(5)))
    yield Case("keys alone, and queries with keys", (_pattern(draw, 6), past))
    yield Case("a mask that allows nothing", (past, torch.zeros(4, 6, dtype=torch.bool)))
    yield Case("one mask", (_pattern(draw, 4, 5),))
    yield Case("columns stored as rows", (_pattern(draw, 4, 5), _pattern(draw, 4, 5)), layout="transposed")
    yield Case("two that leave a query without a key", (past, torch.tensor([False, False, False, True, True, True])))
    everything, nothing = torch.ones(4, 6, dtype=torch.bool), torch.zeros(4, 6, dtype=torch.bool)
    yield Case("one allows everything", (everything, past))
    yield Case("everything and nothing", (everything, nothing))
    yield Case("nothing twice", (nothing, nothing))
    yield Case("one, two and four axes", (_pattern(draw, 6), past, padding))
    yield Case("one without axes", (past, torch.tensor(True)))
    yield Case("two rows of keys", (_pattern(draw, 6), _pattern(draw, 6)))
    edge = partial(Case, check="None")
    yield edge("a mask, then None", (_pattern(draw, 4, 5), None))
    yield edge("None between two masks", (past, None, padding))
    yield edge("None first", (None, padding, past))
    yield edge("None twice", (None, None), nothing=True)
    yield edge("no argument", (), nothing=True)


combine_masks = Exam(
    TOPIC,
    "combine_masks",
    _joint_by_hand,
    _joint_naive,
    _combine_cases,
    (Values("values", 1), Values("None", 0.6), Habits(0.4)),
    dtype=torch.bool,
)


@combine_masks.variant
def one_after_the_other(*masks):
    joint = None
    for mask in masks:
        if mask is not None:
            joint = mask if joint is None else joint & mask
    return joint


@combine_masks.variant
def reduced(*masks):
    from functools import reduce

    given = [mask for mask in masks if mask is not None]
    return reduce(torch.logical_and, given) if given else None


@combine_masks.variant
def multiplied(*masks):
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    joint = given[0].clone()
    for mask in given[1:]:
        joint = joint * mask
    return joint


@combine_masks.variant
def stacked(*masks):
    given = [mask for mask in masks if mask is not None]
    return torch.stack(torch.broadcast_tensors(*given)).all(dim=0) if given else None


@combine_masks.variant
def nothing_hides_it(*masks):
    hidden = None
    for mask in masks:
        if mask is not None:
            hidden = ~mask if hidden is None else hidden | ~mask
    return None if hidden is None else ~hidden


@combine_masks.variant
def two_at_a_time(*masks):
    def both(first, second):
        if first is None or second is None:
            return second if first is None else first
        return torch.bitwise_and(first, second)

    joint = None
    for mask in masks:
        joint = both(joint, mask)
    return joint


@combine_masks.variant
def all_of_them_counted(*masks):
    given = [mask.long() for mask in masks if mask is not None]
    return sum(given[1:], given[0]) == len(given) if given else None


@combine_masks.misconception(
    hint="A key may be seen if *all* masks allow it. You let through what any one of them allows.",
    symptom="The future is back wherever there is no padding, and padding wherever it lies in the past.",
    seen="https://github.com/lucidrains/local-attention/issues/5",
)
def any_mask_allows(*masks):
    from functools import reduce

    given = [mask for mask in masks if mask is not None]
    return reduce(torch.logical_or, given) if given else None


@combine_masks.misconception(
    hint="Only the first mask counts; the others are never looked at.",
    symptom="Right with one mask; with two, the second hides nothing.",
)
def only_the_first(*masks):
    return next((mask for mask in masks if mask is not None), None)


@combine_masks.misconception(
    hint="Only the last mask counts: your loop overwrites what it had.",
    symptom="Right with one mask; with two, the first hides nothing.",
)
def only_the_last(*masks):
    joint = None
    for mask in masks:
        joint = mask if mask is not None else joint
    return joint


@combine_masks.misconception(
    hint="You join the first two and leave the others out. There may be any number of masks.",
    symptom="Right with two masks; a third one hides nothing.",
)
def only_two_of_them(*masks):
    from functools import reduce

    given = [mask for mask in masks if mask is not None][:2]
    return reduce(torch.logical_and, given) if given else None


@combine_masks.misconception(
    hint="A mask that is None hides nothing. Leave it out before you join the others.",
    symptom="An error as soon as one of the masks is optional.",
)
def none_is_an_error(*masks):
    from functools import reduce

    return reduce(torch.logical_and, masks)


@combine_masks.misconception(
    hint="`reduce` of no masks at all is an error. Without any mask the answer is None.",
    symptom="Right with a mask; TypeError: reduce() of empty iterable with no initial value, without one.",
)
def reduced_without_a_mask(*masks):
    from functools import reduce

    return reduce(torch.logical_and, [mask for mask in masks if mask is not None])


@combine_masks.misconception(
    hint="One None among the masks makes you drop all the others. It stands for a mask that hides nothing.",
    symptom="A decoder without padding loses its causal mask, too.",
)
def one_none_drops_all(*masks):
    from functools import reduce

    return None if any(mask is None for mask in masks) or not masks else reduce(torch.logical_and, masks)


@combine_masks.misconception(
    hint="Without any mask the answer is None. A mask of True is no longer None to whoever asks for it.",
    symptom="Attention without masks takes the slower way, through a mask that hides nothing.",
)
def true_for_no_mask(*masks):
    from functools import reduce

    return reduce(torch.logical_and, [mask for mask in masks if mask is not None], torch.tensor(True))


@combine_masks.misconception(
    hint="Your masks must have one shape. They are meant to broadcast: (queries, keys) with (batch, 1, 1, keys).",
    symptom="Causal and padding masks, the most common pair, can't be joined.",
)
def one_shape_only(*masks):
    given = [mask for mask in masks if mask is not None]
    return torch.stack(given).all(0) if given else None


@combine_masks.misconception(
    hint="You allow what no mask allows: that is the rule of the other convention, in which True means hidden.",
    symptom="Nothing that may be seen is seen.",
)
def what_none_of_them_allows(*masks):
    from functools import reduce

    given = [mask for mask in masks if mask is not None]
    return ~reduce(torch.logical_or, given) if len(given) > 1 else (given[0] if given else None)


@combine_masks.misconception(
    hint="You allow what the masks agree on, also where both say no.",
    symptom="Positions that are padding and future at once can be seen.",
)
def where_they_agree(*masks):
    from functools import reduce

    given = [mask for mask in masks if mask is not None]
    return reduce(torch.eq, given) if given else None


@combine_masks.misconception(
    hint="`&=` and everything that ends in `_` write into the caller's mask. Make a new one.",
    symptom="The causal mask that is kept for all batches holds the first batch's padding from then on.",
)
def writes_into_the_first(*masks):
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    joint = given[0]
    for mask in given[1:]:
        fits = torch.broadcast_shapes(joint.shape, mask.shape) == joint.shape
        joint = joint.logical_and_(mask) if fits else joint & mask
    return joint


@combine_masks.misconception(
    hint="`&=` writes into the caller's mask, and where the joint mask is larger than that it fails. Make a new one.",
    symptom="An error for (queries, keys) with (batch, 1, 1, keys); without one, a causal mask that keeps the padding.",
)
def and_assigned(*masks):
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    joint = given[0]
    for mask in given[1:]:
        joint &= mask
    return joint


@combine_masks.misconception(
    hint="The copy saves the caller's mask, but keeps its own shape: `&=` can't make it larger. `&` makes a new one.",
    symptom="An error for (queries, keys) with (batch, 1, 1, keys): the first mask is smaller than the joint one.",
)
def and_assigned_to_a_copy(*masks):
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    joint = given[0].clone()
    for mask in given[1:]:
        joint &= mask
    return joint


@combine_masks.misconception(
    hint="You start from 1 and multiply, or turn the masks into floats: the joint mask has to be boolean.",
    symptom="The pattern is right, and the first operator that wants a mask stops with an error.",
)
def floats_come_out(*masks):
    from functools import reduce

    given = [mask.float() for mask in masks if mask is not None]
    return reduce(torch.mul, given) if given else None


@combine_masks.misconception(
    hint="The joint mask is made of numbers. Booleans go in, and a boolean mask has to come out.",
    symptom="The pattern is right, and `~` of the result is −1 and −2 instead of True and False.",
)
def numbers_come_out(*masks):
    from functools import reduce

    given = [mask.int() for mask in masks if mask is not None]
    return reduce(torch.mul, given) if given else None


def _visible_rows(scores: Tensor, mask: Tensor | None, dim: int = -1) -> Tensor:
    """Row by row the softmax of the scores that count and nothing else: what is hidden is not even looked at."""
    if mask is None:
        return torch.softmax(scores, dim)
    rows = scores.movedim(dim, -1)
    counts = mask.expand(scores.shape).movedim(dim, -1)
    done = []
    for row, count in zip(rows.reshape(-1, rows.shape[-1]), counts.reshape(-1, rows.shape[-1]), strict=True):
        weights = torch.zeros_like(row)
        weights[count] = torch.softmax(row[count], 0)
        done.append(weights)
    return torch.stack(done).reshape(rows.shape).movedim(-1, dim)


def _refuse_numbers(mask: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, not {mask.dtype}")


def _refuse_larger(mask: Tensor, shape: Sequence[int]) -> None:
    try:
        mask.expand(tuple(shape))
    except RuntimeError:
        raise ValueError(f"a mask {tuple(mask.shape)} does not broadcast to scores {tuple(shape)}") from None


def _refuse(mask: Tensor, shape: Sequence[int]) -> None:
    """The contract's two refusals. Right and wrong answers share them: a test can tell them by the mistake alone."""
    _refuse_numbers(mask)
    _refuse_larger(mask, shape)


def naive_masked_softmax(scores: Tensor, mask: Tensor | None, dim: int = -1, nudge: Nudge = as_is) -> Tensor:
    """exp(x − logsumexp(x)) with −inf for what is hidden; a row of nothing else is cleared, its NaN never made."""
    if mask is None:
        return naive_softmax(scores, dim, nudge)
    hidden = (~mask).expand(scores.shape)
    empty = hidden.all(dim, keepdim=True)
    weights = naive_softmax(scores.masked_fill(hidden & ~empty, -math.inf), dim, nudge)
    return weights.masked_fill(empty, 0.0)


def _masked_softmax_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, shape: tuple[int, ...], mask: Tensor | None, dim: int | None = None, **more: Any) -> Case:
        return Case(name, (draw.normal(*shape, scale=2.0), mask), {} if dim is None else {"dim": dim}, **more)

    past = _causal_by_hand(4, 6)
    padding = _padding_by_hand(torch.tensor([5, 2]), 6)
    yield case("a mask of the scores' shape", (4, 5), _pattern(draw, 4, 5), gradients=True, tiny=True, also=HALF)
    yield case("a square matrix, causal", (5, 5), _causal_by_hand(5, 5), gradients=True)
    yield case("causal, more keys than queries", (2, 4, 6), past)
    yield case("one mask for the whole batch", (2, 3, 4, 6), past, gradients=True)
    yield case("padding, batch and heads", (2, 3, 4, 6), padding, gradients=True)
    yield case("as many sentences as queries", (4, 2, 4, 5), _padding_by_hand(torch.tensor([5, 2, 3, 1]), 5))
    yield case("a mask for each head", (2, 3, 4, 6), _pattern(draw, 3, 4, 6))
    yield case("a mask for each sentence", (3, 2, 4, 5), _pattern(draw, 3, 1, 4, 5))
    yield case("one row of keys for all", (3, 4, 5), torch.tensor([True, False, True, True, False]))
    yield case("a batch of one", (1, 4, 6), past, gradients=True)
    yield case("one row", (6,), _pattern(draw, 6))
    yield case("one key", (3, 1), torch.ones(3, 1, dtype=torch.bool))
    yield case("down the columns", (5, 4), _pattern(draw, 4, 5).mT, 0, gradients=True)
    yield case("a square matrix, down the columns", (4, 4), _causal_by_hand(4, 4).mT, 0)
    yield case("four axes, the second", (2, 3, 4, 5), _pattern(draw, 4, 5, 3).movedim(-1, 0), 1)
    yield case("three axes, the last but one", (2, 3, 4), _pattern(draw, 2, 4, 3).mT, -2)
    yield case("columns stored as rows", (4, 6), past, layout="transposed", gradients=True)
    yield case("every second number of a row", (4, 6), past, layout="strided")
    yield case("nothing is hidden", (4, 5), torch.ones(4, 5, dtype=torch.bool))
    yield case("no mask", (2, 4, 5), None, gradients=True)
    yield case("no mask, down the columns", (4, 5), None, 0)
    yield from _rows_without_a_key(draw)
    yield from _hidden_extremes(draw)
    refused = partial(Case, check="masks refused", raises=REFUSAL)
    yield refused("a mask of numbers", (draw.normal(4, 6), past.double()))
    yield refused("a mask of ones and zeros", (draw.normal(4, 6), past.long()))
    yield refused("a mask of bytes", (draw.normal(4, 6), past.to(torch.uint8)))
    yield refused("a padding mask for heads that are not there", (draw.normal(2, 4, 6), padding))
    yield refused("a mask with a batch that the scores lack", (draw.normal(4, 6), _pattern(draw, 2, 4, 6)))
    yield refused("a mask with more queries than the scores", (draw.normal(2, 1, 6), past))
    yield refused("a mask with an axis too many", (draw.normal(4, 6), past[None]))
    yield refused("a mask that is too wide", (draw.normal(4, 6), _causal_by_hand(4, 8)))


def _rows_without_a_key(draw: Draw) -> Iterator[Case]:
    edge = partial(Case, check="rows without a key")
    mixed = _pattern(draw, 4, 5)
    mixed[1] = mixed[2] = False
    yield edge("two rows of four see nothing", (draw.normal(4, 5, scale=2.0), mixed), gradients=True, also=HALF)
    yield edge("more queries than keys, causal", (draw.normal(2, 5, 3), _causal_by_hand(5, 3)), gradients=True)
    empty = _padding_by_hand(torch.tensor([3, 0]), 4)
    yield edge("an empty sentence", (draw.normal(2, 2, 3, 4), empty), gradients=True)
    yield edge("nobody sees anything", (draw.normal(3, 4), torch.zeros(3, 4, dtype=torch.bool)), gradients=True)
    columns = _pattern(draw, 5, 4).mT
    columns[:, 1] = columns[:, 3] = False
    yield edge("two columns of five see nothing", (draw.normal(4, 5), columns), {"dim": 0}, gradients=True)
    yield edge("two columns of five, one mask for all", (draw.normal(2, 4, 5), columns), {"dim": 1}, gradients=True)
    yield edge("one key, hidden from two queries", (draw.normal(4, 1), mixed.any(1, keepdim=True)))
    yield edge("a mask of one column", (draw.normal(2, 4, 5), mixed.any(1, keepdim=True)), gradients=True)
    yield edge("a mask without axes", (draw.normal(3, 4), torch.tensor(False)), gradients=True)
    # One key leads: nearly equal weights would be lost in the rounding of scores as large as these.
    far = torch.tensor([[-1e4], [0.0], [1e4], [0.0]], dtype=torch.float64) + draw.normal(4, 5)
    far[:, 0] += 4
    mixed = mixed.clone()
    mixed[0, 0] = mixed[3, 0] = True
    yield edge("rows around −10⁴, 0 and 10⁴", (far, mixed), coarse=False)


def _hidden_extremes(draw: Draw) -> Iterator[Case]:
    edge = partial(Case, check="large scores", coarse=False)
    mask = _pattern(draw, 4, 6)
    mask[:, 0], mask[:, 1] = True, False
    yield edge("scores up to ±10⁴", (draw.uniform(-1e4, 1e4, 4, 6), mask))
    high = draw.normal(4, 6).masked_fill(~mask, 1e4)
    yield edge("hidden scores of 10⁴", (high, mask), gradients=True)
    low = torch.where(mask, draw.normal(4, 6) - 1e4, draw.normal(4, 6))
    low[:, 0] += 4
    yield edge("scores around −10⁴, hidden ones around 0", (low, mask))
    yield edge("hidden scores 30 above the rest", (draw.normal(4, 6) + 30 * ~mask, mask))
    yield edge("hidden scores of −10⁴", (draw.normal(4, 6).masked_fill(~mask, -1e4), mask))


def _sums_to_one_or_zero(answer: Callable[..., Tensor], call: Call) -> str | None:
    scores, mask = call.args
    dim = int(call.kwargs.get("dim", -1))
    sums = answer(scores, mask, dim=dim).sum(dim)
    seen = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand(scores.shape)
    right = bool(((sums - seen.any(dim).to(sums)).abs() < 1e-4).all())
    return None if right else "a row of weights does not sum to one, or, where nothing may be seen, to zero"


def _hidden_scores_do_not_matter(answer: Callable[..., Tensor], call: Call) -> str | None:
    scores, mask = call.args
    if mask is None:
        return None
    gap = (answer(scores + 3 * ~mask, mask, **call.kwargs) - answer(scores, mask, **call.kwargs)).abs().max()
    return None if gap < 1e-6 else "the weights change with scores that are hidden"


masked_softmax = Exam(
    TOPIC,
    "masked_softmax",
    _visible_rows,
    naive_masked_softmax,
    _masked_softmax_cases,
    (
        Values("values", 1.5),
        Values("rows without a key", 0.75),
        Values("large scores", 0.5),
        Values("masks refused", 0.25),
        Properties(0.25, (_sums_to_one_or_zero, _hidden_scores_do_not_matter)),
        Habits(0.25),
        Gradients(0.5),
    ),
    may_not_call=(MASKED_SOFTMAX, ATTENTION),
)


@masked_softmax.variant
def lowest_number_then_cleared(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, not {mask.dtype}")
    try:
        together = torch.broadcast_shapes(mask.shape, scores.shape)
    except RuntimeError:
        together = None
    if together != scores.shape:
        raise ValueError(f"a mask {tuple(mask.shape)} for scores {tuple(scores.shape)}")
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim)
    return weights.masked_fill(~mask, 0.0)


@masked_softmax.variant
def minus_infinity_then_no_nan(scores, mask, dim=-1):
    if mask is None:
        return scores.softmax(dim)
    if mask.dtype is not torch.bool:
        raise TypeError("a mask is boolean")
    try:
        mask = mask.expand(scores.shape)
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    return torch.nan_to_num(scores.masked_fill(mask.logical_not(), -math.inf).softmax(dim), nan=0.0)


@masked_softmax.variant
def minus_a_billion_then_times_the_mask(scores, mask, dim=-1):
    if mask is None:
        return F.softmax(scores, dim=dim)
    if mask.dtype != torch.bool:
        raise TypeError(mask.dtype)
    if mask.ndim > scores.ndim or any(m not in (1, s) for m, s in zip(mask.shape[::-1], scores.shape[::-1])):
        raise ValueError(mask.shape)
    # In float16 the number becomes −inf, and the row without a key is NaN for a while.
    hidden = torch.tensor(-1e9).to(scores)
    return torch.where(mask, F.softmax(torch.where(mask, scores, hidden), dim=dim), 0.0)


@masked_softmax.variant
def lowest_number_added(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    bias = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device)
    bias = bias.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores + bias, dim) * mask


@masked_softmax.variant
def exponentials_by_hand(scores, mask, dim=-1):
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    _refuse(mask, scores.shape)
    lowest = torch.finfo(scores.dtype).min
    top = scores.detach().masked_fill(~mask, lowest).amax(dim, keepdim=True)
    # Hidden scores may lie far above the top: they are taken out before exp, not after it.
    exponentials = torch.exp((scores - top).masked_fill(~mask, -math.inf))
    total = exponentials.sum(dim, keepdim=True)
    return exponentials / torch.where(total == 0, 1.0, total)


@masked_softmax.variant
def only_rows_with_a_key(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    mask = mask.expand(scores.shape)
    dead = ~mask.any(dim, keepdim=True)
    weights = torch.softmax(scores.masked_fill(~mask & ~dead, -math.inf), dim)
    return torch.where(dead, torch.zeros_like(weights), weights)


@masked_softmax.variant
def masked_row_by_row(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    rows, seen = scores.movedim(dim, -1), mask.expand(scores.shape).movedim(dim, -1)
    weights = torch.zeros_like(rows).reshape(-1, rows.shape[-1])
    for i, (row, may) in enumerate(zip(rows.reshape(weights.shape), seen.reshape(weights.shape), strict=True)):
        if may.any():
            weights[i, may] = torch.softmax(row[may], 0)
    return weights.reshape(rows.shape).movedim(-1, dim)


@masked_softmax.variant
def difference_to_logsumexp(scores, mask, dim=-1):
    if mask is None:
        return torch.exp(scores - torch.logsumexp(scores, dim, keepdim=True))
    _refuse(mask, scores.shape)
    hidden = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.exp(hidden - torch.logsumexp(hidden, dim, keepdim=True)).masked_fill(~mask, 0.0)


@masked_softmax.variant
def filled_with_what_float16_holds(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask, -3e4), dim).masked_fill(~mask, 0.0)


@masked_softmax.misconception(
    hint="A hidden score of zero is a score like any other: exp(0) is 1. What is to be hidden needs −∞.",
    symptom="Hidden keys get weights, larger ones than visible keys with negative scores.",
    seen="https://github.com/georg-wolflein/good-features/pull/1",
)
def multiplied_before_the_softmax(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores * mask, dim)


@masked_softmax.misconception(
    hint="The hidden keys have taken their share before you throw it away. Hide them before the softmax.",
    symptom="Hidden weights are zero, but rows sum to less than one.",
    seen="https://github.com/huggingface/pytorch-image-models/pull/2236",
)
def multiplied_after_the_softmax(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores, dim) * mask


@masked_softmax.misconception(
    hint="Dividing by what remains is right on paper. If a hidden score lies far above, it has underflowed to zero.",
    symptom="Right for ordinary scores; zeros where a hidden score is large.",
    seen="https://github.com/abisee/pointer-generator/issues/88",
)
def renormalised_afterwards(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    weights = torch.softmax(scores, dim) * mask
    total = weights.sum(dim, keepdim=True)
    return weights / torch.where(total == 0, torch.ones_like(total), total)


@masked_softmax.misconception(
    hint="You divide by what remains after the softmax. Where nothing remains that is 0/0: NaN.",
    symptom="Right for ordinary scores; NaN in rows without a key, and where a hidden score is large.",
    seen="https://github.com/abisee/pointer-generator/issues/88",
)
def renormalised_by_zero(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    weights = torch.softmax(scores, dim) * mask
    return weights / weights.sum(dim, keepdim=True)


@masked_softmax.misconception(
    hint="True means *may attend*. You hide what may be seen, as the masks of `nn.MultiheadAttention` ask for.",
    symptom="Exactly the wrong keys get the weights.",
    seen="https://github.com/rasbt/LLMs-from-scratch/issues/1061",
)
def hides_where_the_mask_is_true(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(mask, -math.inf), dim).nan_to_num(0.0)


@masked_softmax.misconception(
    hint="True means *may attend*, and you fill −∞ in where it is True. So a row that sees all its keys is NaN.",
    symptom="NaN where everything may be seen, and the wrong keys everywhere else.",
    seen="https://github.com/rasbt/LLMs-from-scratch/issues/1061",
)
def hides_where_the_mask_is_true_with_nan(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(mask, -math.inf), dim)


@masked_softmax.misconception(
    hint="You add the mask as ones and zeros: visible keys gain one point of score, and no key is hidden.",
    symptom="Visible keys weigh e times as much as they should against hidden ones; none is zero.",
)
def mask_added_as_one(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores + mask, dim)


@masked_softmax.misconception(
    hint="Twenty points is a factor of half a billion, until a hidden score is thirty above the others.",
    symptom="Right for small scores; a hidden key with a large score wins all the same.",
)
def twenty_subtracted(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    weights = torch.softmax(scores - 20 * (~mask).to(scores.dtype), dim)
    return weights.masked_fill(~mask.any(dim, keepdim=True).expand(scores.shape), 0.0) if mask.ndim else weights


@masked_softmax.misconception(
    hint="A fill of −10⁴ is lower than any score you have met, not than any score there is. Take the lowest number.",
    symptom="Right until visible scores come near −10⁴; then hidden keys get weights.",
    seen="https://github.com/NVIDIA/apex/issues/1052",
)
def filled_with_minus_ten_thousand(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    weights = torch.softmax(scores.masked_fill(~mask, -1e4), dim)
    return torch.where(mask.expand(scores.shape).any(dim, keepdim=True), weights, 0.0)


@masked_softmax.misconception(
    hint="You take what is hidden out again after the softmax. By then it has had its share: with a score of zero, "
    "exp(0) = 1. Before the softmax it needs a score that is as good as −∞.",
    symptom="Hidden weights are zero, but rows sum to less than one.",
)
def multiplied_before_and_after(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores * mask, dim) * mask


@masked_softmax.misconception(
    hint="The small number in the denominator keeps 0/0 away, and makes every row sum to a little less than one. Where "
    "a hidden score is large it is all that remains there. Hide before the softmax.",
    symptom="Right in float32, nearly; zeros where a hidden score is large.",
)
def renormalised_with_a_small_number(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    weights = torch.softmax(scores, dim) * mask
    return weights / (weights.sum(dim, keepdim=True) + 1e-9)


@masked_softmax.misconception(
    hint="`nan_to_num` turns 0/0 into zero, also in rows that do have keys, and on the way back NaN is there again. "
    "Hide before the softmax, and nothing has to be divided.",
    symptom="Zeros where a hidden score is large, and NaN in the gradient of rows without a key.",
)
def renormalised_then_no_nan(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    weights = torch.softmax(scores, dim) * mask
    return torch.nan_to_num(weights / weights.sum(dim, keepdim=True))


@masked_softmax.misconception(
    hint="exp of a score of 100 is no number of float32 any more. Softmax subtracts the largest score first: which is "
    "the largest here, if some are hidden?",
    symptom="Right for small scores; NaN or zeros for large ones, of either sign.",
)
def exponentials_without_a_shift(scores, mask, dim=-1):
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    _refuse(mask, scores.shape)
    exponentials = torch.exp(scores) * mask
    total = exponentials.sum(dim, keepdim=True)
    return exponentials / torch.where(total == 0, torch.ones_like(total), total)


@masked_softmax.misconception(
    hint="Hidden weights are cleared, but the number that you fill in is not lower than every score: what it took in "
    "the softmax is lost. Take the lowest number that there is.",
    symptom="Right until visible scores are as low as the fill; then rows sum to less than one.",
    seen="https://github.com/NVIDIA/apex/issues/1052",
)
def filled_too_high_then_cleared(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask, -1e4), dim).masked_fill(~mask, 0.0)


@masked_softmax.misconception(
    hint="−10⁹ is no number of float16, which ends at −65,504. Take one that is low in every dtype, or −∞.",
    symptom="An error, “cannot be converted without overflow”, as soon as the model is trained in half precision.",
    seen="https://github.com/NVIDIA/apex/issues/1052",
)
def filled_with_minus_a_billion(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask, -1e9), dim).masked_fill(~mask, 0.0)


@masked_softmax.misconception(
    hint="Minus minus infinity is plus infinity: the hidden keys get everything, and ∞ − ∞ is NaN.",
    symptom="NaN in every row that has something to hide.",
    seen="https://github.com/lucidrains/memory-compressed-attention/issues/2",
)
def filled_with_plus_infinity(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask, -float("-inf")), dim)


@masked_softmax.misconception(
    hint="Zero times −∞ is NaN, not zero: that is what visible keys get added. Do not multiply: fill, or select.",
    symptom="NaN wherever something may be seen.",
)
def zero_times_infinity(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores + (~mask).to(scores.dtype) * -math.inf, dim)


@masked_softmax.misconception(
    hint="A row in which everything is −∞ has no softmax, it is NaN. The answer asked for is a row of zeros.",
    symptom="NaN for a query without keys; after one more layer everything is NaN.",
    seen="https://github.com/pytorch/pytorch/issues/24816",
)
def nan_in_rows_without_a_key(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask, -math.inf), dim)


@masked_softmax.misconception(
    hint="Where every score is the same low number, softmax shares evenly among hidden keys. Zeros are asked for.",
    symptom="A query that may see nothing sees everything, each key a little.",
    seen="https://github.com/NVIDIA/apex/issues/1390",
)
def uniform_in_rows_without_a_key(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim)


@masked_softmax.misconception(
    hint="A query without keys is shown all of them again. It is to get nothing: zeros.",
    symptom="NaN is gone, and the rows that may see nothing see everything.",
    seen="https://github.com/facebookresearch/Mask2Former/issues/77",
)
def rows_without_a_key_see_everything(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    mask = mask.expand(scores.shape)
    mask = mask | ~mask.any(dim, keepdim=True)
    return torch.softmax(scores.masked_fill(~mask, -math.inf), dim)


@masked_softmax.misconception(
    hint="The output is clean, the gradient is not: −∞ was *added*, and NaN times zero is NaN on the way back.",
    symptom="Right weights; after the first backward pass every parameter is NaN.",
    seen="https://github.com/pytorch/pytorch/issues/41508",
)
def nan_on_the_way_back(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    bias = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill(~mask, -math.inf)
    return torch.softmax(scores + bias, dim).nan_to_num(0.0)


@masked_softmax.misconception(
    hint="exp of a hidden score is ∞ before `where` takes it away. On the way back ∞ · 0 is NaN: hide before exp.",
    symptom="Right weights; NaN in the gradient as soon as a hidden score lies far above the visible ones.",
    seen="https://github.com/pytorch/pytorch/issues/68425",
)
def infinity_behind_where(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    top = scores.detach().masked_fill(~mask, -1e30).amax(dim, keepdim=True).clamp(min=-1e29)
    exponentials = torch.where(mask, torch.exp(scores - top), torch.zeros_like(scores))
    total = exponentials.sum(dim, keepdim=True)
    return exponentials / torch.where(total == 0, torch.ones_like(total), total)


@masked_softmax.misconception(
    hint="Your softmax runs along the last axis whatever `dim` says.",
    symptom="Right by default; with another `dim` the wrong sums are one.",
)
def masked_along_the_last_axis(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, -1)
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask, -math.inf), -1).nan_to_num(0.0)


@masked_softmax.misconception(
    hint="The mask is used only if it has as many axes as the scores. It is meant to broadcast.",
    symptom="Right on one matrix. With a batch a causal mask hides nothing, and the loss is too good to be true.",
)
def ignored_unless_the_axes_agree(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    if mask.ndim != scores.ndim:
        return torch.softmax(scores, dim)
    return torch.softmax(scores.masked_fill(~mask, -math.inf), dim).nan_to_num(0.0)


@masked_softmax.misconception(
    hint="`mask=None` hides nothing. You ask it for its dtype or negate it before you have looked whether it is there.",
    symptom="An error wherever the mask is optional.",
)
def no_mask_is_an_error(scores, mask, dim=-1):
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask, -math.inf), dim).nan_to_num(0.0)


@masked_softmax.misconception(
    hint="A mask with more axes than the scores blows them up in silence. What shape do the two broadcast to?",
    symptom="A padding mask on scores without heads gives a result with an axis too many: batch by batch.",
)
def enlarging_masks_accepted(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse_numbers(mask)
    return torch.softmax(scores.masked_fill(~mask, -math.inf), dim).nan_to_num(0.0)


@masked_softmax.misconception(
    hint="A mask that fits nowhere stops you with PyTorch's own RuntimeError. It is a ValueError that is asked for.",
    symptom="A caller who catches the error that the docstring promises does not catch this one.",
)
def runtime_error_where_nothing_fits(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse_numbers(mask)
    if torch.broadcast_shapes(mask.shape, scores.shape) != scores.shape:
        raise ValueError("the mask is larger than the scores")
    return torch.softmax(scores.masked_fill(~mask, -math.inf), dim).nan_to_num(0.0)


@masked_softmax.misconception(
    hint="An `assert` raises an AssertionError, and none at all under `python -O`. A wrong mask is a caller's mistake: "
    "which two errors are asked for?",
    symptom="AssertionError where a TypeError or a ValueError is promised.",
)
def masks_asserted(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    assert mask.dtype == torch.bool
    assert mask.ndim <= scores.ndim
    assert all(m in (1, s) for m, s in zip(mask.shape[::-1], scores.shape[::-1]))
    return torch.softmax(scores.masked_fill(~mask, -math.inf), dim).nan_to_num(0.0)


@masked_softmax.misconception(
    hint="`expand` does refuse a mask that does not fit, with PyTorch's own RuntimeError. A ValueError is asked for.",
    symptom="A caller who catches the error that the docstring promises does not catch this one.",
)
def refused_by_expand(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse_numbers(mask)
    mask = mask.expand(scores.shape)
    return torch.softmax(scores.masked_fill(~mask, -math.inf), dim).nan_to_num(0.0)


@masked_softmax.misconception(
    hint="The weights leave the graph (`detach`, `.data`, `no_grad`): the scores get no gradient.",
    symptom="The weights are right, and nothing in front of them learns.",
)
def softmax_outside_of_the_graph(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim).detach()
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask, -math.inf), dim).nan_to_num(0.0).detach()


@masked_softmax.misconception(
    hint="A mask of numbers is accepted: 0 and −∞, meant to be added, would be taken for False and True.",
    symptom="Somebody's additive mask is read as a boolean one, and hides exactly what may be seen.",
)
def numbers_taken_for_booleans(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse_larger(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask.bool(), -math.inf), dim).nan_to_num(0.0)


@masked_softmax.misconception(
    hint="`masked_fill_` writes −∞ into the caller's scores. Without the `_` it makes new ones.",
    symptom="The weights are right; the scores have changed behind the caller's back.",
)
def fills_the_scores_in_place(scores, mask, dim=-1):
    if mask is None:
        return torch.softmax(scores, dim)
    _refuse(mask, scores.shape)
    with torch.no_grad():
        scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim).masked_fill(~mask, 0.0)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    # Rows without a key come out as zeros, and send back zeros, as our masks want it.
    with sdpa_kernel(SDPBackend.MATH):
        # One row for all queries is a matrix to it.
        return F.scaled_dot_product_attention(q, k, v, None if mask is None else torch.atleast_2d(mask))


def _attention_naive(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, nudge: Nudge = as_is) -> Tensor:
    scores = nudge(q @ k.mT) / rounded_root(q.shape[-1])
    return naive_masked_softmax(scores, mask, nudge=nudge) @ v


def _qkv(draw: Draw, lead: tuple[int, ...], n_queries: int, n_keys: int, d_k: int, d_v: int) -> tuple[Tensor, ...]:
    return draw.normal(*lead, n_queries, d_k), draw.normal(*lead, n_keys, d_k), draw.normal(*lead, n_keys, d_v)


def _attention_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, mask: Tensor | None, *sizes: Any, **more: Any) -> Case:
        return Case(name, (*_qkv(draw, *sizes), mask), **more)

    past, padding = _causal_by_hand(4, 6), _padding_by_hand(torch.tensor([5, 2]), 6)
    yield case("one sentence, a random mask", _pattern(draw, 3, 5), (), 3, 5, 4, 6, gradients=True, tiny=True)
    yield case("one sentence, causal", _causal_by_hand(5, 5), (), 5, 5, 4, 4, gradients=True)
    yield case("a batch, causal", _causal_by_hand(5, 5), (2,), 5, 5, 4, 4, gradients=True, also=HALF)
    yield case("a batch, more keys than queries", past, (2,), 4, 6, 4, 5)
    yield case("a batch without heads, padding", padding[:, 0], (2,), 4, 6, 4, 5, gradients=True)
    yield case("batch and heads, padding", padding, (2, 3), 4, 6, 8, 5, gradients=True)
    yield case("batch and heads, padding and causal", padding & past, (2, 3), 4, 6, 8, 5, gradients=True)
    yield case("as many sentences as heads", _padding_by_hand(torch.tensor([4, 2, 3]), 4), (3, 3), 4, 4, 4, 4)
    yield case("as many sentences as queries", _padding_by_hand(torch.tensor([5, 2, 3, 1]), 5), (4, 2), 4, 5, 4, 4)
    yield case("a mask for each head", _pattern(draw, 3, 4, 6), (2, 3), 4, 6, 4, 5)
    yield case("a mask for each sentence and head", _pattern(draw, 2, 3, 4, 6), (2, 3), 4, 6, 4, 5)
    yield case("one row of keys for all", _pattern(draw, 6), (2, 3), 4, 6, 4, 5)
    yield case("a batch of one", _pattern(draw, 1, 1, 4, 6), (1, 2), 4, 6, 4, 5, gradients=True)
    yield case("d_k = 64", _causal_by_hand(6, 6), (2,), 6, 6, 64, 64, gradients=True)
    yield case("d_k = 16 and d_v = 3, three axes in front", _pattern(draw, 5, 7), (2, 1, 2), 5, 7, 16, 3)
    many = draw.integer(100, 150)
    yield case("many keys", _pattern(draw, 3, many), (), 3, many, 8, 4)
    yield case("columns stored as rows", past, (2, 3), 4, 6, 4, 6, layout="transposed", gradients=True)
    yield case("every second number of a row", past, (2,), 4, 6, 4, 6, layout="strided")
    yield case("nothing is hidden", torch.ones(4, 6, dtype=torch.bool), (2,), 4, 6, 4, 5)
    yield Case("no mask", _qkv(draw, (2, 3), 4, 6, 8, 5), gradients=True)
    yield Case("the mask by name", _qkv(draw, (), 4, 4, 4, 4), {"mask": _causal_by_hand(4, 4)})
    yield case("mask=None, more queries than keys", None, (2,), 5, 3, 4, 4)
    x = draw.normal(2, 5, 4)
    yield Case("no mask, queries, keys and values are one tensor", (x, x, x))
    yield Case("queries, keys and values are one tensor", (x, x, x, _causal_by_hand(5, 5)), gradients=True)
    edge = partial(case, check="rows without a key")
    mixed = _pattern(draw, 4, 5)
    mixed[1] = mixed[2] = False
    yield edge("two queries of four see nothing", mixed, (2,), 4, 5, 4, 3, gradients=True, also=HALF)
    yield edge("more queries than keys, causal", _causal_by_hand(5, 3), (2,), 5, 3, 4, 4, gradients=True)
    yield edge("an empty sentence", _padding_by_hand(torch.tensor([3, 0]), 4), (2, 2), 4, 4, 4, 4, gradients=True)
    yield edge("nobody sees anything", torch.zeros(3, 4, dtype=torch.bool), (), 3, 4, 4, 2, gradients=True)
    yield edge("one key, hidden from two queries", mixed.any(1, keepdim=True), (2,), 4, 1, 4, 3)
    yield edge("a mask of one column", mixed.any(1, keepdim=True), (2,), 4, 5, 4, 3, gradients=True)
    yield edge("a mask without axes", torch.tensor(False), (2,), 3, 4, 4, 2)
    yield from _attention_extremes(draw)
    for shape in ((4, 4), (3, 6), (6, 3)):
        mask = _causal_by_hand(*shape)
        yield case("causal, for the Jacobian", mask, (2, 2), *shape, 4, 3, check="causality")
    short = _padding_by_hand(torch.tensor([4, 2]), 5)
    yield case("padding, for the Jacobian", short, (2, 2), 3, 5, 4, 3, check="causality")
    refused = partial(case, check="masks refused", raises=REFUSAL)
    yield refused("a mask of numbers", past.double(), (2,), 4, 6, 4, 5)
    yield refused("a mask for each sentence, no axis for heads", _pattern(draw, 2, 4, 6), (2, 3), 4, 6, 4, 5)
    yield refused("a mask of bytes", past.to(torch.uint8), (2,), 4, 6, 4, 5)
    yield refused("a padding mask for heads that are not there", padding, (2,), 4, 6, 4, 5)
    yield refused("a mask with a batch that the queries lack", _pattern(draw, 2, 4, 6), (), 4, 6, 4, 5)
    yield refused("a mask with more queries than there are", past, (2,), 1, 6, 4, 5)
    yield refused("a mask with an axis too many", past[None], (), 4, 6, 4, 5)
    yield refused("a mask that is too wide", _causal_by_hand(4, 8), (2,), 4, 6, 4, 5)


def _attention_extremes(draw: Draw) -> Iterator[Case]:
    edge = partial(Case, check="large scores", coarse=False)
    mask = _pattern(draw, 4, 6)
    mask[:, 0], mask[:, 1] = True, False
    q, k, v = _qkv(draw, (2,), 4, 6, 4, 5)
    yield edge("scores up to ±10⁴", (50 * q, 50 * k, v, mask))
    # Every query asks for the second key, which is hidden from it.
    ask = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    loud = torch.where(torch.arange(6)[:, None] == 1, 60.0, 0.0) * ask
    yield edge("a hidden score 60 above the rest", (2 * ask + 0.1 * q, loud + 0.1 * k, v, mask), gradients=True)
    low = torch.where(torch.arange(6)[:, None] == 1, 0.0, -100.0) * ask
    yield edge("scores around −10⁴, a hidden one around 0", (200 * ask + q, low + 0.1 * k, v, mask))
    hidden = torch.where(torch.arange(6)[:, None] == 1, 1e4, 1.0) * v
    yield edge("hidden values of 10⁴", (q, k, hidden, _bools([[True, False] + [True] * 4])))


def _no_gradient_from_what_is_hidden(answer: Callable[..., Tensor], call: Call) -> str | None:
    """The Jacobian of each output by keys and values has to be zero wherever the mask is False."""
    q, k, v, mask = call.args
    may = mask.expand(*q.shape[:-1], k.shape[-2])  # (..., queries, keys)
    with torch.enable_grad():
        k, v = k.detach().requires_grad_(), v.detach().requires_grad_()
        output = answer(q, k, v, mask)
        if not output.requires_grad:
            return None
        for i in range(q.shape[-2]):
            by = torch.autograd.grad(output[..., i, :].sum(), (k, v), retain_graph=True, allow_unused=True)
            if any(grad is not None and bool((grad[~may[..., i, :]] != 0).any()) for grad in by):
                return "a query's output has a gradient by a key or value that is hidden from it"
    return None


def _ones_stay_ones(answer: Callable[..., Tensor], call: Call) -> str | None:
    q, k, v, mask = call.args
    sums = answer(q, k, torch.ones_like(v), mask)
    sees = mask.expand(*q.shape[:-1], k.shape[-2]).any(-1, keepdim=True).to(sums)
    right = bool(((sums - sees).abs() < 1e-4).all())
    return None if right else "weights do not sum to one, or, for a query that sees nothing, to zero"


masked_attention = Exam(
    TOPIC,
    "masked_attention",
    _sdpa,
    _attention_naive,
    _attention_cases,
    (
        Values("values", 1.75),
        Values("rows without a key", 0.75),
        Values("large scores", 0.5),
        Values("masks refused", 0.25),
        Properties(0.5, (_no_gradient_from_what_is_hidden, _ones_stay_ones), on="causality", name="causality"),
        Habits(0.25),
        Gradients(1),
    ),
    may_not_call=(MASKED_SOFTMAX, ATTENTION),
)


@masked_attention.variant
def scores_mask_average(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return torch.softmax(scores, -1) @ v
    _refuse(mask, scores.shape)
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), -1)
    return weights.masked_fill(~mask, 0.0) @ v


@masked_attention.variant
def filled_with_minus_infinity(q, k, v, mask=None):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(mask == 0, float("-inf"))
    return torch.nan_to_num(F.softmax(scores, dim=-1), nan=0.0) @ v


@masked_attention.variant
def minus_a_billion_and_dead_rows_cleared(q, k, v, mask=None):
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.mT)
    if mask is None:
        return scores.softmax(-1) @ v
    _refuse(mask, scores.shape)
    # In float16 the number becomes −inf; where(…) then keeps the NaN of an empty row out.
    scores = torch.where(mask, scores, torch.tensor(-1e9).to(scores))
    return torch.where(mask.any(-1, keepdim=True), scores.softmax(-1), 0.0) @ v


@masked_attention.variant
def output_cleared_where_nothing_is_seen(q, k, v, mask=None):
    scores = torch.einsum("...qd,...kd->...qk", q, k) / math.sqrt(q.shape[-1])
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
    _refuse(mask, scores.shape)
    mask = mask.expand(scores.shape)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    output = torch.einsum("...qk,...kv->...qv", torch.softmax(scores, -1), v)
    return output.masked_fill(~mask.any(-1, keepdim=True), 0.0)


@masked_attention.variant
def masked_exponentials_by_hand(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    _refuse(mask, scores.shape)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    exponentials = torch.exp(scores - scores.detach().amax(-1, keepdim=True)).masked_fill(~mask, 0.0)
    total = exponentials.sum(-1, keepdim=True)
    return (exponentials @ v) / torch.where(total == 0, 1.0, total)


@masked_attention.variant
def masked_query_by_query(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    _refuse(mask, scores.shape)
    mask = mask.expand(scores.shape)
    rows = []
    for row, may in zip(scores.unbind(-2), mask.unbind(-2), strict=True):
        weights = torch.softmax(row.masked_fill(~may, -math.inf), -1).masked_fill(~may, 0.0)
        rows.append((weights.unsqueeze(-2) @ v).squeeze(-2))
    return torch.stack(rows, -2)


@masked_attention.variant
def with_an_additive_mask(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return torch.softmax(scores, -1) @ v
    _refuse(mask, scores.shape)
    bias = (~mask).to(scores.dtype) * torch.finfo(scores.dtype).min
    return (torch.softmax(scores + bias, -1) * mask) @ v


@masked_attention.misconception(
    hint="True means *may attend*. You hide what may be seen, as the masks of `nn.MultiheadAttention` ask for.",
    symptom="Under a causal mask every query sees the future and nothing else.",
    seen="https://github.com/rasbt/LLMs-from-scratch/issues/1061",
)
def attention_to_what_is_hidden(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@masked_attention.misconception(
    hint="True means *may attend*, and you fill −∞ in where it is True. So a query that sees everything is NaN.",
    symptom="NaN without anything being hidden, and the wrong keys everywhere else.",
    seen="https://github.com/rasbt/LLMs-from-scratch/issues/1061",
)
def attention_to_what_is_hidden_with_nan(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(mask, -math.inf)
    return torch.softmax(scores, -1) @ v


@masked_attention.misconception(
    hint="The mask is never used: every query sees every key.",
    symptom="Right without a mask. With one, padding is read, and the future too.",
)
def mask_never_used(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1) @ v


@masked_attention.misconception(
    hint="The mask is used only on one sentence: as soon as a batch stands in front, everything is seen.",
    symptom="Right on matrices; with a batch the mask hides nothing.",
)
def mask_ignored_with_a_batch(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        if mask.shape == scores.shape:
            scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@masked_attention.misconception(
    hint="Scores times a mask of ones and zeros: hidden keys keep a score of zero, and exp(0) is 1. They need −∞.",
    symptom="Hidden keys are averaged in, with more weight than visible keys with negative scores.",
    seen="https://github.com/georg-wolflein/good-features/pull/1",
)
def scores_times_the_mask(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores * mask
    return torch.softmax(scores, -1) @ v


@masked_attention.misconception(
    hint="You throw hidden weights away after the softmax. The rest no longer sums to one: hide before it.",
    symptom="Outputs are too short, the more so the more is hidden.",
    seen="https://github.com/huggingface/pytorch-image-models/pull/2236",
)
def weights_times_the_mask(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    weights = torch.softmax(scores, -1)
    if mask is not None:
        _refuse(mask, scores.shape)
        weights = weights * mask
    return weights @ v


@masked_attention.misconception(
    hint="You divide the weights by what the mask leaves of them. If that has underflowed, or is nothing, it is 0/0.",
    symptom="Right for ordinary scores; NaN for a query without keys, and where a hidden key would have won.",
    seen="https://github.com/abisee/pointer-generator/issues/88",
)
def weights_divided_by_what_remains(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    weights = torch.softmax(scores, -1)
    if mask is not None:
        _refuse(mask, scores.shape)
        weights = weights * mask
        weights = weights / weights.sum(-1, keepdim=True)
    return weights @ v


@masked_attention.misconception(
    hint="Hidden keys take part in the softmax, and dividing by the rest comes too late: it may have underflowed.",
    symptom="Right for ordinary scores; nothing at all where a hidden key would have won.",
    seen="https://github.com/abisee/pointer-generator/issues/88",
)
def weights_shared_out_again(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    weights = torch.softmax(scores, -1)
    if mask is not None:
        _refuse(mask, scores.shape)
        weights = weights * mask
        total = weights.sum(-1, keepdim=True)
        weights = weights / torch.where(total == 0, torch.ones_like(total), total)
    return weights @ v


@masked_attention.misconception(
    hint="You add the mask as ones and zeros: that favours visible keys by a factor of e, and hides none.",
    symptom="A little less attention to hidden keys, never none.",
)
def scores_plus_the_mask(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores + mask
    return torch.softmax(scores, -1) @ v


@masked_attention.misconception(
    hint="Subtracting twenty hides a key only as long as its score is no twenty above the others.",
    symptom="Right for small scores; a hidden key that fits well is seen all the same.",
)
def twenty_points_less(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return torch.softmax(scores, -1) @ v
    _refuse(mask, scores.shape)
    weights = torch.softmax(scores - 20.0 * (~mask).to(scores.dtype), -1)
    return torch.where(mask.any(-1, keepdim=True), weights @ v, 0.0)


@masked_attention.misconception(
    hint="−10⁴ is lower than any score you have met, not than any there is. Take −∞, or the dtype's lowest number.",
    symptom="Right until visible scores come near −10⁴; then hidden keys are seen.",
    seen="https://github.com/NVIDIA/apex/issues/1052",
)
def scores_of_minus_ten_thousand(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return torch.softmax(scores, -1) @ v
    _refuse(mask, scores.shape)
    weights = torch.softmax(scores.masked_fill(~mask, -1e4), -1)
    return torch.where(mask.any(-1, keepdim=True), weights @ v, 0.0)


@masked_attention.misconception(
    hint="−10⁹ is no number of float16, which ends at −65,504. Take one that is low in every dtype, or −∞.",
    symptom="An error, “cannot be converted without overflow”, as soon as the model is trained in half precision.",
    seen="https://github.com/NVIDIA/apex/issues/1052",
    testable=False,
)
def scores_of_minus_a_billion(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return torch.softmax(scores, -1) @ v
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask, -1e9), -1).masked_fill(~mask, 0.0) @ v


@masked_attention.misconception(
    hint="You hide rows, the queries. What is to be hidden are keys: the columns of the scores.",
    symptom="Padding asks nothing any more, and is read by everybody.",
    seen="https://github.com/hyunwoongko/transformer/pull/40",
)
def rows_hidden_instead_of_columns(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~torch.atleast_2d(mask).mT, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@masked_attention.misconception(
    hint="A query without keys has scores of −∞ only, and their softmax is NaN. Its output is to be zero.",
    symptom="NaN for the queries that may see nothing; one more layer, and everything is NaN.",
    seen="https://github.com/pytorch/pytorch/issues/24816",
)
def nan_for_a_query_without_keys(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1) @ v


@masked_attention.misconception(
    hint="With one low number everywhere, a query without keys averages all of them evenly. Its output is to be zero.",
    symptom="A query that may see nothing gets the mean of all values, hidden ones.",
    seen="https://github.com/NVIDIA/apex/issues/1390",
)
def mean_for_a_query_without_keys(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, -1) @ v


@masked_attention.misconception(
    hint="A query without keys is shown all of them again, to keep NaN away. Its output is to be zero.",
    symptom="A query that may see nothing attends to everything, as if there were no mask.",
    seen="https://github.com/facebookresearch/Mask2Former/issues/77",
)
def everything_for_a_query_without_keys(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask & mask.any(-1, keepdim=True), -math.inf)
    return torch.softmax(scores, -1) @ v


@masked_attention.misconception(
    hint="The weights are right, their gradient is not: −∞ was *added*, and on the way back zero times NaN is NaN.",
    symptom="Right outputs; after the first step every parameter is NaN.",
    seen="https://github.com/pytorch/pytorch/issues/41508",
)
def nan_in_the_gradient_of_queries(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        bias = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill(~mask, -math.inf)
        scores = scores + bias
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@masked_attention.misconception(
    hint="You clean NaN from the output. The weights still hold it, and pass it on to every value's gradient.",
    symptom="Right outputs; on the way back zero times NaN is NaN, and the values' gradient is lost for all queries.",
    seen="https://github.com/pytorch/pytorch/pull/42323",
)
def nan_in_the_gradient_of_values(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    return (torch.softmax(scores, -1) @ v).nan_to_num(0.0)


@masked_attention.misconception(
    hint="The mask of the first sentence is used for the whole batch.",
    symptom="Right where all sentences are equally long; else padding of the longer ones is read, or words are lost.",
)
def first_sentence_for_all(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~(mask[0] if mask.ndim == scores.ndim > 2 else mask), -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@masked_attention.misconception(
    hint="You put an axis of your own into masks of three axes. They already broadcast to the scores as they come.",
    symptom="Right for (queries, keys). A mask of each sentence, or of each head, meets the wrong axis.",
)
def another_axis_for_heads(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@masked_attention.misconception(
    hint="`mask.unsqueeze(1)` puts an axis into every mask. It already broadcasts to the scores as it comes.",
    symptom="An error under most masks: (queries, keys) becomes (queries, 1, keys), and no longer fits.",
)
def unsqueezed_masks(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        mask = mask.unsqueeze(1) if mask.ndim else mask
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@masked_attention.misconception(
    hint="A mask that is larger than the scores blows them up in silence. What shape do the two broadcast to?",
    symptom="A padding mask for heads on inputs without heads: (batch, batch, queries, d_v), and no error.",
)
def larger_masks_accepted(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse_numbers(mask)
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@masked_attention.misconception(
    hint="A mask of numbers is accepted. Zeros and −∞, meant to be added, would mean the opposite: refuse them.",
    symptom="Somebody's additive mask hides exactly what may be seen.",
)
def masks_of_numbers_accepted(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse_larger(mask, scores.shape)
        scores = scores.masked_fill(mask == 0, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@masked_attention.misconception(
    hint="The scores are not scaled: divide q kᵀ by √d_k before you mask.",
    symptom="The mask is right and the weights are too sharp.",
)
def masked_and_unscaled(q, k, v, mask=None):
    scores = q @ k.mT
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


@masked_attention.misconception(
    hint="Without a mask nothing is hidden: look whether it is None before you use it.",
    symptom="An error without a mask.",
)
def mask_is_required(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask, -math.inf), -1).nan_to_num(0.0) @ v


@masked_attention.misconception(
    hint="Without a mask you make a causal one. `None` hides nothing; who wants to hide the future says so.",
    symptom="Right under every mask; without one the first queries see almost nothing.",
)
def causal_without_a_mask(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(k.shape[-2] - q.shape[-2])
    _refuse(mask, scores.shape)
    return torch.softmax(scores.masked_fill(~mask, -math.inf), -1).nan_to_num(0.0) @ v


@masked_attention.misconception(
    hint="The weights leave the graph (`detach`, `.data`, `no_grad`): only the values can learn.",
    symptom="The output is right; queries and keys get no gradient.",
)
def masked_weights_detached(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0.0).detach() @ v


class _Skeleton(nn.Module):
    """``MaskedMultiHeadAttention`` as the notebook gives it."""

    def __init__(self, d_model: int, n_heads: int, bias: bool = True) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model = {d_model} is not a multiple of n_heads = {n_heads}")
        self.n_heads = n_heads
        self.w_q = nn.Linear(d_model, d_model, bias=bias)
        self.w_k = nn.Linear(d_model, d_model, bias=bias)
        self.w_v = nn.Linear(d_model, d_model, bias=bias)
        self.w_o = nn.Linear(d_model, d_model, bias=bias)


def _module_reference(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    state: dict[str, Tensor],
    init: dict[str, Any],
) -> Tensor:
    """``nn.MultiheadAttention`` with the mask turned to its convention: True hides, one matrix for each head."""
    key = query if key is None else key
    value = key if value is None else value
    lead, n_heads = query.shape[:-2], init["n_heads"]
    hides = None
    if mask is not None:
        hides = ~mask.expand(*lead, n_heads, query.shape[-2], key.shape[-2])
        hides = hides.reshape(-1, *hides.shape[-2:])
    bias = init.get("bias", True)
    layer = nn.MultiheadAttention(init["d_model"], n_heads, bias=bias, batch_first=True, dtype=query.dtype)
    flat = tuple(x.reshape(-1, *x.shape[-2:]) for x in (query, key, value))
    # In training mode and without weights: the other ways give NaN to a query that sees nothing.
    with sdpa_kernel(SDPBackend.MATH):
        output: Tensor = functional_call(layer, packed(state), flat, {"attn_mask": hides, "need_weights": False})[0]
    return output.reshape(query.shape)


def _module_naive(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    state: dict[str, Tensor],
    init: dict[str, Any],
    nudge: Nudge = as_is,
) -> Tensor:
    def project(x: Tensor, name: str) -> Tensor:
        return nudge(F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias")))

    key = query if key is None else key
    value = key if value is None else value
    q, k, v = (
        project(x, name).unflatten(-1, (init["n_heads"], -1)).transpose(-3, -2)
        for x, name in ((query, "w_q"), (key, "w_k"), (value, "w_v"))
    )
    joined = _attention_naive(q, k, v, mask, nudge).transpose(-3, -2).flatten(-2)
    return project(nudge(joined), "w_o")


def _module_cases(draw: Draw) -> Iterator[Case]:
    def case(
        name: str,
        n_heads: int,
        inputs: tuple[Tensor, ...],
        mask: Tensor | None,
        value: Tensor | None = None,
        bias: bool | None = None,
        **more: Any,
    ) -> Case:
        d_model = inputs[0].shape[-1]
        init = {"d_model": d_model, "n_heads": n_heads} | ({} if bias is None else {"bias": bias})
        state = {}
        for part in ("w_q", "w_k", "w_v", "w_o"):
            state[f"{part}.weight"] = draw.normal(d_model, d_model, scale=d_model**-0.5)
            if bias is not False:
                state[f"{part}.bias"] = draw.normal(d_model)
        named = {key: given for key, given in (("mask", mask), ("value", value)) if given is not None}
        return Case(name, inputs, named, init=init, state=state, **more)

    def x(*shape: int) -> Tensor:
        return draw.normal(*shape, scale=1.5)

    past, padding = _causal_by_hand(4, 6), _padding_by_hand(torch.tensor([5, 2]), 6)
    square = _causal_by_hand(5, 5)
    yield case("a batch, causal", 2, (x(2, 5, 6),), square, gradients=True, also=HALF)
    yield case("one sentence, causal", 2, (x(4, 4),), _causal_by_hand(4, 4), gradients=True, tiny=True)
    yield case("a batch, padding", 2, (x(2, 6, 8),), padding, gradients=True)
    yield case("padding and causal", 4, (x(2, 6, 8),), padding & _causal_by_hand(6, 6), gradients=True)
    yield case("another sequence, padded", 3, (x(2, 4, 6), x(2, 6, 6)), padding, gradients=True)
    yield case("another sequence, causal", 2, (x(2, 4, 6), x(2, 6, 6)), past)
    yield case("another sequence of the same length", 2, (x(2, 5, 6), x(2, 5, 6)), square)
    yield case("query, key and value differ", 2, (x(2, 4, 6), x(2, 6, 6), x(2, 6, 6)), padding, gradients=True)
    yield case("a mask for each head", 3, (x(2, 5, 6),), _pattern(draw, 3, 5, 5), gradients=True)
    yield case("a mask for each sentence and head", 2, (x(3, 4, 6),), _pattern(draw, 3, 2, 4, 4))
    yield case("as many sentences as heads", 3, (x(3, 4, 6),), _padding_by_hand(torch.tensor([4, 2, 3]), 4))
    yield case("as many heads as words", 4, (x(2, 4, 8),), _pattern(draw, 2, 1, 4, 4))
    yield case("one head", 1, (x(2, 5, 4),), square)
    yield case("heads of width one", 4, (x(2, 5, 4),), square)
    yield case("without biases", 2, (x(2, 5, 6),), square, bias=False, gradients=True)
    yield case("a batch of one", 2, (x(1, 5, 6),), _padding_by_hand(torch.tensor([3]), 5))
    yield case("two leading axes", 2, (x(2, 3, 4, 6),), _pattern(draw, 2, 1, 1, 4, 4))
    yield case("wide heads, values alone", 2, (x(2, 5, 32),), square, value=x(2, 5, 32))
    yield case("columns stored as rows", 2, (x(2, 5, 6),), square, layout="transposed")
    yield case("no mask", 2, (x(2, 5, 6),), None, gradients=True)
    yield case("no mask, another sequence", 2, (x(2, 4, 6), x(2, 6, 6)), None)
    yield case("no mask, a shorter sequence", 2, (x(2, 5, 6), x(2, 3, 6)), None)
    edge = partial(case, check="rows without a key")
    yield edge("an empty sentence", 2, (x(2, 4, 6),), _padding_by_hand(torch.tensor([3, 0]), 4), gradients=True)
    yield edge("more queries than keys, causal", 2, (x(2, 5, 6), x(2, 3, 6)), _causal_by_hand(5, 3), gradients=True)
    alone = _pattern(draw, 3, 4, 4)
    alone[1, 2] = False
    yield edge("one head of one query sees nothing", 3, (x(2, 4, 6),), alone, gradients=True)
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    yield edge("nobody sees anything", 2, (x(2, 4, 6),), nothing, gradients=True)
    yield edge("nobody sees anything, no biases", 2, (x(2, 4, 6),), nothing, bias=False)
    some = torch.tensor([[True], [False], [True], [False]])
    yield edge("one key, hidden from two queries", 2, (x(2, 4, 6), x(2, 1, 6)), some)
    yield edge("a mask of one column", 2, (x(2, 4, 6),), some, also=HALF)
    yield edge("a mask without axes", 2, (x(2, 4, 6),), torch.tensor(False))
    yield case("causal, for the Jacobian", 2, (x(2, 5, 6),), square, check="causality")
    yield case("padding, for the Jacobian", 2, (x(2, 6, 6),), padding, check="causality")
    refused = partial(case, check="masks refused", raises=REFUSAL)
    yield refused("a mask of numbers", 2, (x(2, 5, 6),), square.double())
    yield refused("a mask with a batch that the input lacks", 2, (x(5, 6),), _pattern(draw, 2, 1, 5, 5))
    yield refused("a mask for each sentence, no axis for heads", 2, (x(3, 5, 6),), _pattern(draw, 3, 5, 5))
    yield refused("a mask that is too wide", 2, (x(2, 5, 6),), _causal_by_hand(5, 7))


def _no_gradient_from_the_hidden(answer: Callable[..., Tensor], call: Call) -> str | None:
    """The Jacobian of each output by the keys' words has to be zero wherever no head may see them."""
    (query,), mask = call.args, call.kwargs["mask"]
    n = query.shape[-2]
    may = mask.expand(*query.shape[:-2], 1, n, n)[..., 0, :, :]  # (..., queries, keys)
    with torch.enable_grad():
        words = query.detach().requires_grad_()
        output = answer(query, words, words, mask)
        if not output.requires_grad:
            return None
        for i in range(n):
            (grad,) = torch.autograd.grad(output[..., i, :].sum(), words, retain_graph=True)
            if bool((grad[~may[..., i, :]] != 0).any()):
                return "a word's output has a gradient by a word that is hidden from it"
    return None


def _forgets_its_mask(answer: Callable[..., Tensor], call: Call) -> str | None:
    (query,), mask = call.args, call.kwargs["mask"]
    before = answer(query)
    answer(query, mask=mask)
    return None if torch.equal(before, answer(query)) else "called without a mask, it uses the one of the call before"


MaskedMultiHeadAttention = Exam(
    TOPIC,
    "MaskedMultiHeadAttention",
    _module_reference,
    _module_naive,
    _module_cases,
    (
        Values("values", 1.5),
        Values("rows without a key", 0.75),
        Values("masks refused", 0.25),
        Properties(0.25, (_no_gradient_from_the_hidden,), on="causality", name="causality"),
        Properties(0.25, (_forgets_its_mask,), on="causality", name="masks forgotten", telling=True),
        Habits(0.25),
        Gradients(0.75),
    ),
    may_not_call=(MASKED_SOFTMAX, ATTENTION),
    skeleton=_Skeleton,
)


@MaskedMultiHeadAttention.variant
def heads_attend_side_by_side(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    _refuse(mask, scores.shape)
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), -1).masked_fill(~mask, 0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.variant
def head_after_head(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    d_head = query.shape[-1] // self.n_heads
    q, k, v = (x.split(d_head, dim=-1) for x in (self.w_q(query), self.w_k(key), self.w_v(value)))
    scores = torch.stack([q[h] @ k[h].mT / math.sqrt(d_head) for h in range(self.n_heads)], dim=-3)
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o(torch.cat([weights[..., h, :, :] @ v[h] for h in range(self.n_heads)], dim=-1))


@MaskedMultiHeadAttention.variant
def with_views_and_permutes(self, query, key=None, value=None, mask=None):
    key = key if key is not None else query
    value = value if value is not None else key

    def split(x):
        return x.reshape(*x.shape[:-1], self.n_heads, x.shape[-1] // self.n_heads).movedim(-2, -3)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError("a mask is boolean")
        try:
            mask = mask.expand(scores.shape)
        except RuntimeError as error:
            raise ValueError("the mask is larger than the scores") from error
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    weights = F.softmax(scores, dim=-1)
    if mask is not None:
        weights = weights * mask
    output = (weights @ v).movedim(-3, -2)
    return self.w_o(output.reshape(*output.shape[:-2], -1))


@MaskedMultiHeadAttention.variant
def with_einsum_by_head(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)) for x in (self.w_q(query), self.w_k(key), self.w_v(value)))
    scores = torch.einsum("...qhd,...khd->...hqk", q, k) / math.sqrt(q.shape[-1])
    dead = None
    if mask is not None:
        _refuse(mask, scores.shape)
        dead = ~mask.any(-1, keepdim=True)
        scores = scores.masked_fill(~mask & ~dead, -math.inf)
    weights = scores.softmax(-1)
    if dead is not None:
        weights = weights.masked_fill(dead, 0.0)
    return self.w_o(torch.einsum("...hqk,...khd->...qhd", weights, v).flatten(-2))


@MaskedMultiHeadAttention.variant
def heads_in_the_batch(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    lead, d_head = query.shape[:-2], query.shape[-1] // self.n_heads

    def fold(x):
        return x.unflatten(-1, (self.n_heads, d_head)).transpose(-3, -2).reshape(-1, x.shape[-2], d_head)

    q, k, v = fold(self.w_q(query)), fold(self.w_k(key)), fold(self.w_v(value))
    scores = torch.bmm(q, k.mT) / d_head**0.5
    if mask is not None:
        whole = (*lead, self.n_heads, query.shape[-2], key.shape[-2])
        _refuse(mask, whole)
        scores = scores.masked_fill(~mask.expand(whole).reshape(scores.shape), -math.inf)
    output = torch.bmm(torch.softmax(scores, -1).nan_to_num(0.0), v)
    output = output.reshape(*lead, self.n_heads, -1, d_head).transpose(-3, -2)
    return self.w_o(output.reshape(query.shape))


@MaskedMultiHeadAttention.variant
def projected_head_by_head(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    d_head = query.shape[-1] // self.n_heads
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    whole = (*query.shape[:-2], self.n_heads, query.shape[-2], key.shape[-2])
    if mask is None:
        mask = torch.ones(whole, dtype=torch.bool, device=query.device)
    _refuse(mask, whole)
    mask = mask.expand(whole)
    result = 0
    for head in range(self.n_heads):
        part, may = slice(head * d_head, (head + 1) * d_head), mask[..., head, :, :]
        scores = q[..., part] @ k[..., part].mT / math.sqrt(d_head)
        weights = torch.softmax(scores.masked_fill(~may, torch.finfo(scores.dtype).min), -1) * may
        result = result + F.linear(weights @ v[..., part], self.w_o.weight[:, part])
    return result if self.w_o.bias is None else result + self.w_o.bias


@MaskedMultiHeadAttention.misconception(
    hint="True means *may attend*: you hide what may be seen, as `nn.MultiheadAttention` would with this mask.",
    symptom="Under a causal mask every word sees the future and nothing else.",
    seen="https://github.com/pytorch/pytorch/pull/114083",
)
def layer_with_the_inverse_convention(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="The mask never reaches the scores. Pass it on to the attention of the heads.",
    symptom="The layer takes a mask and hides nothing.",
    seen="https://github.com/facebookresearch/xformers/issues/103",
)
def mask_not_passed_on(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
    return self.w_o((torch.softmax(scores, -1) @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="Heads that see nothing give zeros *before* `w_o`; its bias comes after. You clear the layer's own output.",
    symptom="Zero instead of the bias, for a word that may see nothing.",
)
def cleared_after_the_projection(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return self.w_o((torch.softmax(scores, -1) @ v).transpose(-3, -2).flatten(-2))
    _refuse(mask, scores.shape)
    weights = torch.softmax(scores.masked_fill(~mask, -math.inf), -1).nan_to_num(0.0)
    sees = mask.expand(scores.shape).any(-1).any(-2).unsqueeze(-1)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2)).masked_fill(~sees, 0.0)


@MaskedMultiHeadAttention.misconception(
    hint="A word that may see nothing is NaN here. Every head is to give it zeros, and the layer the bias of `w_o`.",
    symptom="NaN for empty sentences; one more layer, and everything is NaN.",
    seen="https://github.com/pytorch/pytorch/issues/24816",
)
def layer_with_nan(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    return self.w_o((torch.softmax(scores, -1) @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="A word that may see nothing averages all words evenly. Every head is to give it zeros.",
    symptom="The mean of all values where the bias of `w_o` alone is asked for.",
    seen="https://github.com/NVIDIA/apex/issues/1390",
)
def layer_with_a_mean(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return self.w_o((torch.softmax(scores, -1) @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="NaN is cleaned from the output, but it was there: on the way back it reaches every parameter.",
    symptom="Right outputs; after the first step every weight is NaN.",
    seen="https://github.com/pytorch/pytorch/issues/41508",
)
def layer_with_nan_on_the_way_back(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    output = (torch.softmax(scores, -1) @ v).nan_to_num(0.0)
    return self.w_o(output.transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="With batch and heads in one axis, a sentence's heads stand together. `repeat` lays the masks out otherwise.",
    symptom="Right with a batch of one, and where all sentences are equally long; else heads use another one's mask.",
    seen="https://github.com/line/lighthouse/pull/77",
)
def mask_repeated_in_the_wrong_order(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    lead, heads = query.shape[:-2], self.n_heads
    d_head = query.shape[-1] // heads
    q, k, v = (
        x.unflatten(-1, (heads, d_head)).transpose(-3, -2).reshape(-1, x.shape[-2], d_head)
        for x in (self.w_q(query), self.w_k(key), self.w_v(value))
    )
    scores = q @ k.mT / math.sqrt(d_head)
    if mask is not None:
        whole = (*lead, heads, query.shape[-2], key.shape[-2])
        _refuse(mask, whole)
        mask = mask.expand(whole)
        one_each = mask[..., 0, :, :].reshape(-1, *whole[-2:]).repeat(heads, 1, 1)
        scores = scores.masked_fill(~one_each, -math.inf)
    output = torch.softmax(scores, -1).nan_to_num(0.0) @ v
    return self.w_o(output.reshape(*lead, heads, -1, d_head).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="Only the first head is masked; the others see everything.",
    symptom="Every output is a mixture of what may be seen and what may not.",
)
def only_the_first_head_masked(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        first = torch.arange(self.n_heads, device=query.device)[:, None, None] == 0
        scores = scores.masked_fill(~mask & first, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="You hide the queries' rows, not the keys' columns: padding asks nothing any more, and everybody reads it.",
    symptom="Outputs of real words still change with the padding.",
    seen="https://github.com/hyunwoongko/transformer/pull/40",
)
def layer_that_hides_rows(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~torch.atleast_2d(mask).mT, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="A mask of three axes has its heads' axis already. The one that you put in makes room for it twice.",
    symptom="Right for (queries, keys) and for padding; a mask of each head meets the batch.",
)
def one_more_axis_for_heads(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="`mask.unsqueeze(1)` puts an axis for heads into every mask. It already broadcasts to them as it comes.",
    symptom="An error under most masks: (queries, keys) becomes (queries, 1, keys), and no longer fits.",
)
def axis_for_heads_in_every_mask(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        mask = mask.unsqueeze(1) if mask.ndim else mask
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="Without a mask you make a causal one. `None` hides nothing; who wants to hide the future says so.",
    symptom="Right under every mask; without one the first words see almost nothing.",
)
def layer_causal_without_a_mask(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(k.shape[-2] - q.shape[-2])
    _refuse(mask, scores.shape)
    weights = torch.softmax(scores.masked_fill(~mask, -math.inf), -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="The layer keeps the mask of one call for the next. Each call brings its own, or none.",
    symptom="Right at first; a batch without a mask is then hidden as the batch before it was.",
)
def mask_kept_for_the_next_call(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        mask = getattr(self, "mask", None)
    if mask is not None:
        _refuse(mask, scores.shape)
        self.mask = mask
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="The heads are merged without going back: transpose to (…, queries, heads, d_head) before you flatten.",
    symptom="Words and heads are mixed, and with them what was hidden; it trains all the same.",
    seen="https://github.com/jsbaan/transformer-from-scratch/issues/4",
)
def masked_heads_merged_without_transpose(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    output = torch.softmax(scores, -1).nan_to_num(0.0) @ v
    return self.w_o(output.reshape(query.shape))


@MaskedMultiHeadAttention.misconception(
    hint="Each head's scores are sums of d_head products. You divide by √d_model.",
    symptom="The mask is right; weights are too flat, the more so the more heads there are.",
)
def masked_heads_scaled_by_root_d_model(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(query.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="The heads are joined and never projected: `w_o` mixes them, and adds its bias.",
    symptom="`w_o` never learns; a word that may see nothing gets zero instead of the bias.",
)
def masked_without_output_projection(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return (weights @ v).transpose(-3, -2).flatten(-2)


@MaskedMultiHeadAttention.misconception(
    hint="Without a `value` the keys' sequence is averaged, not the queries': `value` is `key` unless given.",
    symptom="Right in self-attention; with another sequence an error, or its values are never read.",
)
def values_from_the_query(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = query if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="Without `key` you stop looking at `value`, too. They default one by one.",
    symptom="Right unless only `value` is given.",
)
def value_dropped_without_a_key(self, query, key=None, value=None, mask=None):
    if key is None:
        key = value = query
    elif value is None:
        value = key
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="`value` is never used: the values come from `key`, even if there are others.",
    symptom="Right wherever keys and values are one tensor.",
)
def value_never_used(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(key)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="No mask is refused here: numbers are taken for booleans, and a mask that is larger blows the scores up.",
    symptom="Somebody's additive mask hides exactly what may be seen, or a result with an axis too many.",
)
def layer_takes_any_mask(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="−10⁹ is no number of float16, which ends at −65,504. Take one that is low in every dtype, or −∞.",
    symptom="An error, “cannot be converted without overflow”, as soon as the model is trained in half precision.",
    seen="https://github.com/NVIDIA/apex/issues/1052",
)
def layer_filled_with_minus_a_billion(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        weights = torch.softmax(scores, -1)
    else:
        _refuse(mask, scores.shape)
        weights = torch.softmax(scores.masked_fill(~mask, -1e9), -1).masked_fill(~mask, 0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="The scores are not scaled: divide them by √d_head before you mask.",
    symptom="The mask is right, and the weights are too sharp.",
)
def masked_heads_unscaled(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.mT
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


@MaskedMultiHeadAttention.misconception(
    hint="You take for granted that there is exactly one batch axis. Let `...` stand for whatever is in front.",
    symptom="Right on (batch, n, d_model); an error on one sentence, and on two leading axes.",
)
def layer_needs_one_batch_axis(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    batch, n_queries, d_model = query.shape

    def split(x):
        return x.reshape(batch, -1, self.n_heads, d_model // self.n_heads).transpose(1, 2)

    q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        _refuse(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return self.w_o((weights @ v).transpose(1, 2).reshape(batch, n_queries, d_model))


@MaskedMultiHeadAttention.misconception(
    hint="You mask the input, not the scores: words set to zero still have keys, their bias, and a score.",
    symptom="Padding gets weight all the same; only what it hands over has changed.",
)
def words_set_to_zero(self, query, key=None, value=None, mask=None):
    key = query if key is None else key
    value = key if value is None else value
    if mask is not None:
        whole = (*query.shape[:-2], self.n_heads, query.shape[-2], key.shape[-2])
        _refuse(mask, whole)
        seen = mask.expand(whole).any(-2).any(-2).unsqueeze(-1)
        key, value = key * seen, value * seen
    q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
    q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for x in (q, k, v))
    weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
    return self.w_o((weights @ v).transpose(-3, -2).flatten(-2))


def _by_subtracting(scores: Tensor) -> Tensor:
    return torch.softmax(scores - 20 * (torch.arange(scores.shape[-1]) > 0), -1)


def _by_replacing(scores: Tensor) -> Tensor:
    return torch.softmax(scores.masked_fill(torch.arange(scores.shape[-1]) > 0, -math.inf), -1)


def _why_nothing_leaks(scores: Tensor) -> str:
    if scores.numel() == 0:
        return "There is no score in it."
    if scores.shape[-1] == 1:
        return "The only key of each row is the first, which is never hidden: with one key nothing is masked."
    lead = (scores[..., 1:] - scores[..., :1]).max()
    if lead == 0 and bool((scores == scores[..., :1]).all()):
        return "All scores of a row are equal. Raising all of them together changes nothing: only differences count."
    if lead <= 0:
        return "No hidden score lies above the visible one. Which of them has to be large for something to leak?"
    return (
        f"A hidden score lies {float(lead):.3g} above the visible one; with 20 subtracted it is still far below. "
        "How far above must it lie, to get a thousandth of the weight?"
    )


find_masking_leak = counterexample(
    TOPIC,
    "find_masking_leak",
    _by_subtracting,
    _by_replacing,
    because=_why_nothing_leaks,
    outputs=("scores",),
    most=2,
)


@find_masking_leak.variant
def thirty_above():
    return torch.tensor([0.0, 30.0])


@find_masking_leak.variant
def far_below_and_less_far():
    return torch.tensor([[-100.0, -80.0]], dtype=torch.float64)


@find_masking_leak.variant
def fourteen_is_enough():
    return torch.tensor([1.0, 15.0])


@find_masking_leak.misconception(
    hint="Random scores of ordinary size lie a few points apart. To get through, a hidden score must be far ahead.",
    symptom="The two agree to eight digits, as they do in every test with random inputs.",
)
def random_scores():
    return torch.tensor([[0.3, 1.2, -0.7], [-1.1, 0.4, 0.9]])


@find_masking_leak.misconception(
    hint="You make the *visible* score large: then the hidden ones are hidden twice. Turn it round.",
    symptom="Both give everything to the first key.",
)
def large_where_it_is_visible():
    return torch.tensor([100.0, 0.0])


@find_masking_leak.misconception(
    hint="All scores are large, but equally so. Softmax sees differences only.",
    symptom="Both give the same, as if the scores were zero.",
)
def large_everywhere():
    return torch.tensor([1e4, 1e4])


@find_masking_leak.misconception(
    hint="With a single key there is nothing to hide: the first one is visible.",
    symptom="Both give that key a weight of one.",
)
def a_single_key():
    return torch.tensor([30.0])


@find_masking_leak.misconception(
    hint="An infinite score is no score that a dot product gives. A finite one is enough, and not a very large one.",
    symptom="NaN, or a comparison of infinities.",
)
def an_infinite_score():
    return torch.tensor([0.0, math.inf])


@find_masking_leak.misconception(
    hint="It leaks, and one row would do: how many keys does it need, if one is visible and one is hidden?",
    symptom="More rows and keys than the counterexample needs.",
)
def more_keys_than_needed():
    return torch.tensor([[0.0, 0.0, 30.0, 0.0], [0.0, 40.0, 0.0, 0.0]])


def _masked_by_pytorch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """PyTorch's own function, which takes masks of other kinds as well."""
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    pairs = (*q.shape[:-1], k.shape[-2])
    _refuse(mask, pairs)
    return F.scaled_dot_product_attention(q, k, v, torch.atleast_2d(mask))


check_masked_attention = examiner(TOPIC, "check_masked_attention", masked_attention, plain=_masked_by_pytorch)


@check_masked_attention.variant
def masked_against_pytorch(fn):
    past = torch.ones(4, 4, dtype=torch.bool).tril()
    padding = (torch.arange(4) < torch.tensor([[3], [1]]))[:, None, None]
    masks = [None, past, padding, past & padding, past.tril(-1), torch.rand(2, 3, 4, 4) > 0.5]
    for mask in [*masks, torch.zeros(4, 4, dtype=torch.bool)]:
        for size in (1.0, 300.0):
            q, k, v = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64).unbind()
            leaves = [(size * q).requires_grad_(), (size * k).requires_grad_(), v.requires_grad_()]
            output, expected = fn(*leaves, mask), F.scaled_dot_product_attention(*leaves, mask)
            torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-8)
            grads = torch.autograd.grad(output.square().sum(), leaves)
            wanted = torch.autograd.grad(expected.square().sum(), leaves)
            torch.testing.assert_close(grads, wanted, rtol=1e-5, atol=1e-6)
    q, k, v = torch.randn(2, 3, 5), torch.randn(2, 4, 5), torch.randn(2, 4, 6)
    mask = torch.rand(2, 3, 4) > 0.3
    torch.testing.assert_close(fn(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask), rtol=1e-4, atol=1e-5)
    for bad, error in ((mask.float(), TypeError), (mask[:, None], ValueError)):
        try:
            fn(q, k, v, bad)
        except error:
            continue
        except Exception as other:
            raise AssertionError(f"{type(other).__name__} instead of {error.__name__}") from other
        raise AssertionError("a mask that has to be refused is taken")


@check_masked_attention.variant
def masked_by_slices(fn):
    def agrees(one, other):
        return torch.allclose(one, other, rtol=1e-6, atol=1e-8)

    for scale in (1, 300):
        q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(3))
        q, k, v = (scale * q).requires_grad_(), (scale * k).requires_grad_(), v.requires_grad_()
        lengths = [3, 0]
        mask = torch.stack([torch.arange(5) < n for n in lengths])[:, None, None]
        output = fn(q, k, v, mask)
        whole = fn(q, k, v)
        if whole.shape != v.shape or output.shape != v.shape:
            return False
        for b, n in enumerate(lengths):
            # Attention to a shorter sequence is what attention under a padding mask has to be.
            scores = q[b] @ k[b, :, :n].mT / 2
            if not agrees(output[b], torch.softmax(scores, -1) @ v[b, :, :n]):
                return False
        if not agrees(whole, torch.softmax(q @ k.mT / 2, -1) @ v):
            return False
        grads = torch.autograd.grad(output.square().sum(), (q, k, v), allow_unused=True)
        sliced = torch.softmax(q[0] @ k[0, :, :3].mT / 2, -1) @ v[0, :, :3]
        wanted = torch.autograd.grad(sliced.square().sum(), (q, k, v))
        for grad, right in zip(grads, wanted, strict=True):
            if grad is None or not torch.allclose(grad, right, rtol=1e-5, atol=1e-6):
                return False
        causal = torch.ones(5, 5, dtype=torch.bool).tril()
        for mask in (causal, causal.expand(3, 5, 5), causal.tril(-1).expand(2, 1, 5, 5)):
            output = fn(q, k, v, mask)
            for i in range(5):
                seen = int(mask[..., i, :].sum(-1).flatten()[0])
                row = torch.softmax(q[..., i : i + 1, :] @ k[..., :seen, :].mT / 2, -1) @ v[..., :seen, :]
                if not agrees(output[..., i : i + 1, :], row):
                    return False
    q, k, v = torch.randn(2, 3, 16), torch.randn(2, 4, 16), torch.randn(2, 4, 6)
    if not torch.allclose(fn(q, k, v), torch.softmax(q @ k.mT / 4, -1) @ v, atol=1e-5):
        return False
    for bad in (torch.ones(3, 4), torch.ones(2, 1, 1, 4, dtype=torch.bool)):
        try:
            fn(q, k, v, bad)
            return False
        except (TypeError, ValueError):
            pass
    return True


@check_masked_attention.misconception(
    hint="You try one causal mask on one matrix. Think of the masks that have a batch and heads.",
    symptom="Masks ignored or mixed up in a batch pass, and padding is never tried.",
)
def masked_only_one_causal_matrix(fn):
    q, k, v = torch.randn(3, 5, 4, dtype=torch.float64).unbind()
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(fn(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask), rtol=1e-6, atol=1e-8)


@check_masked_attention.misconception(
    hint="You look at the shape only. A mask does not change it.",
    symptom="An answer that never uses its mask passes.",
)
def masked_only_the_shape(fn):
    mask = torch.ones(3, 5, dtype=torch.bool).tril(2)
    assert fn(torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 6), mask).shape == (2, 3, 6)


@check_masked_attention.misconception(
    hint="Your scores are small. A hidden key shows what the fill is worth only when its score is large.",
    symptom="Twenty subtracted and −10⁴ filled in pass.",
)
def masked_only_small_scores(fn):
    past = torch.ones(4, 4, dtype=torch.bool).tril()
    padding = (torch.arange(4) < torch.tensor([[3], [1]]))[:, None, None]
    for mask in (None, past, padding, past & padding, past.tril(-1), torch.rand(2, 3, 4, 4) > 0.5):
        leaves = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64).requires_grad_().unbind()
        output, expected = fn(*leaves, mask), F.scaled_dot_product_attention(*leaves, mask)
        torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)
        grads = torch.autograd.grad(output.square().sum(), leaves)
        wanted = torch.autograd.grad(expected.square().sum(), leaves)
        torch.testing.assert_close(grads, wanted, rtol=1e-5, atol=1e-5)


@check_masked_attention.misconception(
    hint="In your masks every query sees something. What does one get that may see nothing?",
    symptom="NaN, a mean of everything, and NaN on the way back pass.",
)
def masked_without_an_empty_row(fn):
    past = torch.ones(4, 4, dtype=torch.bool).tril()
    padding = (torch.arange(4) < torch.tensor([[3], [1]]))[:, None, None]
    for mask in (None, past, padding, past & padding):
        for size in (1.0, 300.0):
            q, k, v = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64).unbind()
            q, k = size * q, size * k
            expected = F.scaled_dot_product_attention(q, k, v, mask)
            torch.testing.assert_close(fn(q, k, v, mask), expected, rtol=1e-6, atol=1e-8)


@check_masked_attention.misconception(
    hint="You compare outputs only. NaN hides in gradients that nobody looked at, and so do severed ones.",
    symptom="Clean outputs with NaN on the way back pass.",
)
def masked_without_gradients(fn):
    past = torch.ones(4, 4, dtype=torch.bool).tril()
    padding = (torch.arange(4) < torch.tensor([[3], [1]]))[:, None, None]
    for mask in (None, past, padding, past & padding, past.tril(-1), torch.rand(2, 3, 4, 4) > 0.5):
        for size in (1.0, 300.0):
            q, k, v = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64).unbind()
            q, k = size * q, size * k
            expected = F.scaled_dot_product_attention(q, k, v, mask)
            torch.testing.assert_close(fn(q, k, v, mask), expected, rtol=1e-6, atol=1e-8)


@check_masked_attention.misconception(
    hint="You never call `fn` without a mask, and never with one that it has to refuse.",
    symptom="A mask that is required, a causal one that nobody asked for, and larger ones pass.",
)
def masked_only_with_good_masks(fn):
    past = torch.ones(4, 4, dtype=torch.bool).tril()
    padding = (torch.arange(4) < torch.tensor([[3], [1]]))[:, None, None]
    for mask in (past, padding, past & padding, past.tril(-1), torch.rand(2, 3, 4, 4) > 0.5):
        for size in (1.0, 300.0):
            q, k, v = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64).unbind()
            leaves = [(size * q).requires_grad_(), (size * k).requires_grad_(), v.requires_grad_()]
            output, expected = fn(*leaves, mask), F.scaled_dot_product_attention(*leaves, mask)
            torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-8)
            grads = torch.autograd.grad(output.square().sum(), leaves)
            wanted = torch.autograd.grad(expected.square().sum(), leaves)
            torch.testing.assert_close(grads, wanted, rtol=1e-5, atol=1e-6)


@check_masked_attention.misconception(
    hint="Right answers are rejected. Some fill with −∞, some with a low number: they differ in their last digits.",
    symptom="PyTorch itself may pass, but no other right answer does.",
)
def masked_exact_equality(fn):
    q, k, v = torch.randn(2, 30, 33), torch.randn(2, 40, 33), torch.randn(2, 40, 21)
    mask = torch.rand(30, 40) > 0.5
    assert torch.equal(fn(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask))


@check_masked_attention.misconception(
    hint="A query without keys has to give zeros here, not NaN: you reject right answers.",
    symptom="Every answer that keeps to the contract of masks is turned down.",
)
def masked_asks_for_nan(fn):
    q, k, v = torch.randn(3, 5, 4, dtype=torch.float64).unbind()
    mask = torch.ones(5, 5, dtype=torch.bool).tril(-1)
    weights = torch.softmax((q @ k.mT / 2).masked_fill(~mask, -math.inf), -1)
    torch.testing.assert_close(fn(q, k, v, mask), weights @ v, equal_nan=True)


@check_masked_attention.misconception(
    hint="You check that later words change nothing. An answer that sees too little, or nothing, passes that, too.",
    symptom="Wrong scales, lost sentences and outputs that are too short pass.",
)
def masked_only_causality(fn):
    q, k, v = torch.randn(3, 2, 5, 4, dtype=torch.float64).unbind()
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    changed = v.clone()
    changed[:, 3:] += 1
    assert torch.allclose(fn(q, k, v, mask)[:, :3], fn(q, k, changed, mask)[:, :3])
