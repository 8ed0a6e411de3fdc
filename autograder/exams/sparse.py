"""The exams of *sparse*: windows, gaps, global tokens, random blocks, and the blocks that a mask keeps.

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
from torch.nn.attention import SDPBackend, sdpa_kernel

from autograder.answer.guard import Operators
from autograder.engine.checks import Gradients, Growth, Habits, Properties, Values, counterexample
from autograder.engine.exam import Case, Draw, Exam, Nudge, Seeded, as_is
from autograder.engine.randomness import OF_GENERATORS, seeded
from autograder.engine.subject import Call
from autograder.exams.masking import naive_masked_softmax
from autograder.exams.scaling import rounded_root

TOPIC = "sparse"
FLEX = Operators("FlexAttention", ("*flex_attention*",))
TRANSFORMERS = "https://github.com/huggingface/transformers"


def _bools(rows: list[list[bool]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def _band(n: int, radius: int, causal: bool = False) -> Tensor:
    """Who sees whom, read off one by one (Beltagy et al. 2020, 3.1): (n, n)."""
    return _bools([[-radius <= j - i <= (0 if causal else radius) for j in range(n)] for i in range(n)])


def _with_globals(n: int, radius: int, global_positions: Tensor) -> Tensor:
    """The band, and the rows and columns of the global tokens: (n, n)."""
    places = set(global_positions.tolist())
    return _bools([[abs(i - j) <= radius or i in places or j in places for j in range(n)] for i in range(n)])


def _of_blocks(n: int, block_mask: Tensor, block_size: int) -> Tensor:
    """The mask of blocks, token by token: (n, n)."""
    rows = block_mask.tolist()
    return _bools([[rows[i // block_size][j // block_size] for j in range(n)] for i in range(n)])


def _by_pytorch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    # Rows without a key come out as zeros, and send back zeros, as our masks want it.
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, mask.to(q.device))


def _by_formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, nudge: Nudge) -> Tensor:
    scores = nudge(q @ k.mT) / rounded_root(q.shape[-1])
    return naive_masked_softmax(scores, mask.to(q.device), nudge=nudge) @ v


def _qkv(draw: Draw, *lead: int, n: int, d_k: int, d_v: int) -> tuple[Tensor, Tensor, Tensor]:
    return (draw.normal(*lead, n, d_k), draw.normal(*lead, n, d_k), draw.normal(*lead, n, d_v))


# From one length to the other what is linear doubles, a square becomes 4-fold. Blocks of 128 that look at both
# neighbours become 2.5-fold; from 128 to 256 tokens they would be a square. A length is counted once for both checks.
work = partial(Growth, measure="flops", power=1, lengths=(256, 512), name="operations")
memory = partial(Growth, measure="peak", power=1, lengths=(256, 512), name="memory")


def _dilated(n: int, radius: int, dilation: int) -> Tensor:
    """The distances that are seen, listed (Beltagy et al. 2020, 3.1)."""
    seen = {step * dilation for step in range(radius + 1)}
    return _bools([[abs(i - j) in seen for j in range(n)] for i in range(n)])


def _dilated_naive(n: int, radius: int, dilation: int, nudge: Nudge = as_is) -> Tensor:
    return _dilated(n, radius, dilation)


def _dilated_cases(draw: Draw) -> Iterator[Case]:
    yield Case("a window with gaps", (9, 2, 3))
    yield Case("every second key", (12, 2, 2))
    yield Case("random sizes", (draw.integer(14, 20), 2, draw.integer(3, 4)))
    yield Case("a wide window", (draw.integer(30, 40), 4, 3))
    yield Case("more keys than gaps are wide", (20, 5, 2))
    yield Case("gaps wider than the window has keys", (26, 2, 7))
    yield Case("the window ends inside the text", (15, 1, 5))
    edge = partial(Case, check="edge cases")
    yield edge("no gaps", (8, 2, 1))
    yield edge("radius 0", (6, 0, 2))
    yield edge("radius 0, no gaps", (5, 0, 1))
    yield edge("gaps as wide as the text", (5, 1, 5))
    yield edge("the far end is just reached", (7, 2, 3))
    yield edge("more keys than there are", (6, 9, 2))
    yield edge("one token", (1, 2, 3))
    yield edge("a long text", (300, 3, 40))


dilated_window_mask = Exam(
    TOPIC,
    "dilated_window_mask",
    _dilated,
    _dilated_naive,
    _dilated_cases,
    (Values("values", 1.2), Values("edge cases", 0.5), Habits(0.3)),
    dtype=torch.bool,
)


@dilated_window_mask.variant
def distance_and_remainder(n, radius, dilation):
    i = torch.arange(n)
    distance = (i[:, None] - i[None, :]).abs()
    return (distance % dilation == 0) & (distance <= radius * dilation)


@dilated_window_mask.variant
def whole_steps_counted(n, radius, dilation):
    i = torch.arange(n)
    apart = i.unsqueeze(1) - i
    steps = torch.div(apart, dilation, rounding_mode="floor")
    return (steps * dilation == apart) & (steps.abs() <= radius)


@dilated_window_mask.variant
def diagonal_after_diagonal(n, radius, dilation):
    mask = torch.zeros(n, n, dtype=torch.bool)
    for step in range(-radius, radius + 1):
        if abs(step * dilation) < n:
            mask.diagonal(step * dilation).fill_(True)
    return mask


@dilated_window_mask.variant
def slice_after_slice(n, radius, dilation):
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        steps = min(radius, i // dilation)
        mask[i, i - steps * dilation : i + radius * dilation + 1 : dilation] = True
    return mask


@dilated_window_mask.variant
def ones_on_diagonals_added(n, radius, dilation):
    total = torch.eye(n)
    for step in range(1, radius + 1):
        if step * dilation >= n:
            break
        ones = torch.ones(n - step * dilation)
        total = total + torch.diag(ones, step * dilation) + torch.diag(ones, -step * dilation)
    return total > 0


@dilated_window_mask.variant
def looked_up_by_distance(n, radius, dilation):
    seen = torch.zeros(n, dtype=torch.bool)
    seen[: radius * dilation + 1 : dilation] = True
    i = torch.arange(n)
    return seen[(i[:, None] - i).abs()]


@dilated_window_mask.variant
def lists_of_distances(n, radius, dilation):
    rows = [[abs(i - j) % dilation == 0 and abs(i - j) // dilation <= radius for j in range(n)] for i in range(n)]
    return torch.tensor(rows, dtype=torch.bool)


@dilated_window_mask.misconception(
    hint="You let the window end at the distance `radius`. The radius counts keys, and with gaps between them the "
    "last one stands `dilation` times as far away.",
    symptom="The mask reaches no farther than without gaps, and sees less.",
)
def radius_counted_in_tokens(n, radius, dilation):
    i = torch.arange(n)
    distance = (i[:, None] - i).abs()
    return (distance % dilation == 0) & (distance <= radius)


@dilated_window_mask.misconception(
    hint="Your keys are `dilation` + 1 apart. A dilation of 1 has no gaps: it counts the step, not the keys left out.",
    symptom="Even with a dilation of 1 every second key is left out.",
)
def dilation_counts_the_gap(n, radius, dilation):
    i = torch.arange(n)
    distance = (i[:, None] - i).abs()
    return (distance % (dilation + 1) == 0) & (distance <= radius * (dilation + 1))


@dilated_window_mask.misconception(
    hint="You test whether the key's own position is a multiple of the dilation. It is the distance from the query"
    " that has to be one.",
    symptom="The columns have gaps, the same for all queries: most keys are never seen by anybody.",
)
def every_few_keys_of_the_text(n, radius, dilation):
    i = torch.arange(n)
    distance = (i[:, None] - i).abs()
    return (i % dilation == 0) & (distance <= radius * dilation)


@dilated_window_mask.misconception(
    hint="The gaps are there, but the window never ends. Each side has `radius` keys, however long the text is.",
    symptom="The number of keys grows with the text.",
)
def gaps_without_a_window(n, radius, dilation):
    i = torch.arange(n)
    return (i[:, None] - i).abs() % dilation == 0


@dilated_window_mask.misconception(
    hint="Your window is as wide as it should be, and has no gaps: the distance must be a multiple of the dilation.",
    symptom="Several times as many keys as asked for.",
)
def window_without_gaps(n, radius, dilation):
    i = torch.arange(n)
    return (i[:, None] - i).abs() <= radius * dilation


@dilated_window_mask.misconception(
    hint="The farthest key on each side is missing: the distance `radius` · `dilation` still belongs to the window.",
    symptom="One key too few on each side.",
)
def farthest_step_left_out(n, radius, dilation):
    i = torch.arange(n)
    distance = (i[:, None] - i).abs()
    return (distance % dilation == 0) & (distance < max(radius * dilation, 1))


@dilated_window_mask.misconception(
    hint="There is one key too many on each side. Count the steps: `radius` of them, not counting the query's own "
    "place.",
    symptom="Two more keys in each row than asked for.",
)
def one_step_too_many(n, radius, dilation):
    i = torch.arange(n)
    distance = (i[:, None] - i).abs()
    return (distance % dilation == 0) & (distance <= (radius + 1) * dilation)


@dilated_window_mask.misconception(
    hint="The query's own key is missing: the distance 0 is a multiple of the dilation too.",
    symptom="With radius 0 nobody sees anything.",
)
def own_place_left_out(n, radius, dilation):
    i = torch.arange(n)
    distance = (i[:, None] - i).abs()
    return (distance % dilation == 0) & (distance <= radius * dilation) & (distance > 0)


@dilated_window_mask.misconception(
    hint="Only the keys on the left are seen. This window has two sides; whoever wants to hide the future combines"
    " it with a causal mask.",
    symptom="The upper triangle is empty.",
)
def dilated_window_of_the_past(n, radius, dilation):
    i = torch.arange(n)
    past = i[:, None] - i
    return (past % dilation == 0) & (past <= radius * dilation) & (past >= 0)


@dilated_window_mask.misconception(
    hint="The window goes on at the other end of the text. There is nothing before the first token: the window is "
    "cut off there.",
    symptom="The corners of the mask are filled: the first token sees the last ones.",
)
def dilated_window_wraps_around(n, radius, dilation):
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for step in range(-radius, radius + 1):
            mask[i, (i + step * dilation) % n] = True
    return mask


@dilated_window_mask.misconception(
    hint="`dilation` is not used: that is the plain window. The keys on each side stand `dilation` apart.",
    symptom="The mask is the same for every dilation.",
)
def window_ignores_the_dilation(n, radius, dilation):
    i = torch.arange(n)
    return (i[:, None] - i).abs() <= radius


@dilated_window_mask.misconception(
    hint="On the right the last key is missing: a range leaves its end out, so it has to stop behind `radius` steps.",
    symptom="One key fewer on the right than on the left.",
)
def range_stops_before_the_last_step(n, radius, dilation):
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(i - radius * dilation, i + radius * dilation, dilation):
            if 0 <= j < n:
                mask[i, j] = True
    return mask


@dilated_window_mask.misconception(
    hint="You cut the window off at the first token and count the steps from there. They are counted from the query,"
    " wherever the window is cut off.",
    symptom="Right in the middle of the text; the first queries see the wrong keys, some not even their own.",
)
def steps_counted_from_the_first_token(n, radius, dilation):
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        mask[i, max(i - radius * dilation, 0) : i + radius * dilation + 1 : dilation] = True
    return mask


@dilated_window_mask.misconception(
    hint="You check the end of the text, not its beginning: Python counts a negative index from the end.",
    symptom="The first queries see keys at the end of the text.",
)
def negative_places_count_from_the_end(n, radius, dilation):
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for step in range(-radius, radius + 1):
            j = i + step * dilation
            if -n <= j < n:
                mask[i, j] = True
    return mask


@dilated_window_mask.misconception(
    hint="Steps that lead out of the text end at its first or last token, which is then seen by queries that are "
    "not a whole number of steps away. Beyond the ends there is nothing to see.",
    symptom="The first and the last column are filled near the corners.",
)
def steps_held_at_the_ends(n, radius, dilation):
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for step in range(-radius, radius + 1):
            mask[i, min(max(i + step * dilation, 0), n - 1)] = True
    return mask


@dilated_window_mask.misconception(
    hint="Only the keys on the right are seen. This window has two sides.",
    symptom="The lower triangle is empty.",
)
def dilated_window_of_the_future(n, radius, dilation):
    i = torch.arange(n)
    ahead = i - i[:, None]
    return (ahead % dilation == 0) & (ahead <= radius * dilation) & (ahead >= 0)


@dilated_window_mask.misconception(
    hint="The window ends on one side only: a difference of positions may be negative, and then it is smaller than "
    "any bound. Take its absolute value.",
    symptom="One triangle has the gaps, and no window.",
)
def sign_of_the_distance_kept(n, radius, dilation):
    i = torch.arange(n)
    distance = i - i[:, None]
    return (distance % dilation == 0) & (distance <= radius * dilation)


@dilated_window_mask.misconception(
    hint="You put gaps between the queries as well: most rows are empty. Every query has a window.",
    symptom="Rows without a key.",
)
def gaps_between_queries_too(n, radius, dilation):
    i = torch.arange(n)
    distance = (i[:, None] - i).abs()
    return (distance % dilation == 0) & (distance <= radius * dilation) & (i[:, None] % dilation == 0)


@dilated_window_mask.misconception(
    hint="You spread `radius` over both sides. It is the number of keys on *each* side.",
    symptom="Half as many keys as asked for.",
)
def dilated_radius_over_both_sides(n, radius, dilation):
    i = torch.arange(n)
    distance = (i[:, None] - i).abs()
    return (distance % dilation == 0) & (distance <= radius // 2 * dilation)


@dilated_window_mask.misconception(
    hint="True means *may attend* here; yours is True for what is hidden.",
    symptom="Every query sees just what it should not.",
)
def true_outside_of_the_window(n, radius, dilation):
    i = torch.arange(n)
    distance = (i[:, None] - i).abs()
    return ~((distance % dilation == 0) & (distance <= radius * dilation))


@dilated_window_mask.misconception(
    hint="Ones and zeros are no booleans: `~` and `masked_fill` need `dtype=torch.bool`.",
    symptom="The pattern is right, and the first operator that wants a mask stops with an error.",
)
def dilated_mask_of_numbers(n, radius, dilation):
    i = torch.arange(n)
    distance = (i[:, None] - i).abs()
    return ((distance % dilation == 0) & (distance <= radius * dilation)).float()


def _window(q: Tensor, k: Tensor, v: Tensor, radius: int, causal: bool = False) -> Tensor:
    return _by_pytorch(q, k, v, _band(q.shape[-2], radius, causal))


def _window_naive(q: Tensor, k: Tensor, v: Tensor, radius: int, causal: bool = False, nudge: Nudge = as_is) -> Tensor:
    return _by_formula(q, k, v, _band(q.shape[-2], radius, causal), nudge)


def _window_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, radius: int, *lead: int, n: int, d_k: int = 4, d_v: int = 3, **more: Any) -> Case:
        return Case(name, (*_qkv(draw, *lead, n=n, d_k=d_k, d_v=d_v), radius), **more)

    past = partial(case, kwargs={"causal": True}, check="causal")
    yield case("a sentence", 1, n=6, gradients=True, tiny=True)
    yield case("all axes alike", 1, 4, 4, n=4, d_v=4, gradients=True)
    yield case("batch and heads", 2, 2, 3, n=7, d_v=6, gradients=True)
    yield case("a batch of one, a long text", 5, 1, n=draw.integer(140, 160), d_k=8, d_v=5, gradients=True)
    yield case("whole blocks", 16, n=128)
    yield case("a radius wider than usual blocks", 90, 2, n=draw.integer(230, 250))
    yield case("d_k = 64", 3, 2, n=12, d_k=64, d_v=16)
    yield Case("causal by position", (*_qkv(draw, n=8, d_k=4, d_v=3), 2, False))
    yield past("causal, a sentence", 1, n=6, gradients=True, tiny=True)
    yield past("causal, all axes alike", 1, 4, 4, n=4, d_v=4, gradients=True)
    yield past("causal, batch and heads", 3, 2, 3, n=9, d_v=6)
    yield past("causal, a long text", 4, 1, 2, n=draw.integer(140, 160), gradients=True)
    yield past("causal, whole blocks", 16, n=128)
    yield past("causal, a radius wider than usual blocks", 90, n=draw.integer(230, 250))
    edge = partial(case, check="edge cases")
    same = draw.normal(2, 6, 4)
    yield Case("q, k and v the same tensor", (same, same, same, 1), check="edge cases", gradients=True)
    yield edge("radius 0", 0, 2, n=5)
    yield edge("radius 0, causal", 0, n=5, kwargs={"causal": True}, gradients=True)
    yield edge("the window is the whole text", 5, 2, n=6, gradients=True)
    # A score of zero is a score like any other: no mark of what was filled up.
    q, k, v = _qkv(draw, n=6, d_k=4, d_v=3)
    yield Case(
        "a query of zeros, one key out of reach", (q * (torch.arange(6) != 1)[:, None], k, v, 4), check="edge cases"
    )
    yield edge("a radius larger than the text", 50, 2, n=6)
    yield edge("a radius larger than the text, causal", 50, n=6, kwargs={"causal": True})
    yield edge("one token", 2, 2, n=1)
    yield edge("two tokens, causal", 1, n=2, d_k=1, d_v=1, kwargs={"causal": True})
    yield edge("one token more than a block", 3, n=129)
    yield edge("columns stored as rows", 2, 2, 3, n=7, d_v=4, layout="transposed")
    yield edge("every second number of a row", 1, 2, n=6, layout="strided")
    q, k, v = _qkv(draw, 2, n=8, d_k=4, d_v=3)
    large = partial(Case, check="large scores", coarse=False)
    yield large("scores up to ±10⁴", (100 * q, 100 * k, v, 2))
    # Every query asks for tokens 0 and 7, which most of them must not see.
    ask = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    ends = (torch.arange(8) % 7 == 0)[:, None]
    loud = 0.1 * k + torch.where(ends, 60.0, 0.0) * ask
    yield large("hidden scores 60 above the rest", (0.1 * q + 2 * ask, loud, v, 2), gradients=True)
    yield large("scores around −10⁴", (200 * ask + q, torch.where(ends, 0.0, -100.0) * ask + 0.1 * k, v, 2))
    # Nor may what stands for places beyond the ends be seen, where the window is cut off.
    yield large("scores around −10⁴ at the ends, too", (200 * ask + q, 0.1 * k - 100 * ask, v, 2))
    yield large("hidden values of 10⁴", (q, k, torch.where(ends, 1e4, 1.0) * v, 2, True))


def _window_of_length(causal: bool, draw: Draw, n: int) -> Case:
    return Case(f"{n} tokens", (*_qkv(draw, 1, 1, n=n, d_k=8, d_v=8), 8), {"causal": causal})


WINDOW_FLOPS = "A window takes work that grows with the length, not with its square: most pairs are never computed."
WINDOW_PEAK = "A window needs memory that grows with the length: no (n, n) tensor fits into that, not even a mask."
_both_sides, _past_only = (partial(_window_of_length, causal) for causal in (False, True))

sliding_window_attention = Exam(
    TOPIC,
    "sliding_window_attention",
    _window,
    _window_naive,
    _window_cases,
    (
        Values("values", 1),
        Values("causal", 1.25),
        Values("edge cases", 0.5),
        Values("large scores", 0.5),
        Habits(0.25),
        Gradients(0.5),
        work(0.5, at=_both_sides, claim=WINDOW_FLOPS),
        memory(0.5, at=_both_sides, claim=WINDOW_PEAK),
        work(0.5, at=_past_only, claim=WINDOW_FLOPS, name="operations, causal"),
        memory(0.5, at=_past_only, claim=WINDOW_PEAK, name="memory, causal"),
    ),
    may_not_call=(FLEX,),
)


@sliding_window_attention.variant
def blocks_with_their_slice_of_keys(q, k, v, radius, causal=False):
    n, size, outputs = q.shape[-2], max(radius, 128), []
    for start in range(0, n, size):
        stop = min(start + size, n)
        first, last = max(start - radius, 0), stop if causal else min(stop + radius, n)
        past = torch.arange(start, stop, device=q.device)[:, None] - torch.arange(first, last, device=q.device)
        mask = (past <= radius) & (past >= (0 if causal else -radius))
        part = F.scaled_dot_product_attention(
            q[..., start:stop, :], k[..., first:last, :], v[..., first:last, :], attn_mask=mask
        )
        outputs.append(part)
    return torch.cat(outputs, -2)


@sliding_window_attention.variant
def blocks_of_128_written_out(q, k, v, radius, causal=False):
    n, outputs = q.size(-2), []
    for block in torch.arange(n, device=q.device).split(128):
        first = max(int(block[0]) - radius, 0)
        keys = torch.arange(first, min(int(block[-1]) + 1 + (0 if causal else radius), n), device=q.device)
        hidden = (block[:, None] - keys).abs() > radius
        if causal:
            hidden = hidden | (keys > block[:, None])
        scores = q[..., block, :] @ k[..., keys, :].transpose(-2, -1) / math.sqrt(q.size(-1))
        outputs.append(torch.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1) @ v[..., keys, :])
    return torch.cat(outputs, dim=-2)


@sliding_window_attention.variant
def query_after_query(q, k, v, radius, causal=False):
    rows = []
    for i in range(q.shape[-2]):
        near = slice(max(i - radius, 0), i + 1 if causal else i + radius + 1)
        rows.append(F.scaled_dot_product_attention(q[..., i : i + 1, :], k[..., near, :], v[..., near, :]))
    return torch.cat(rows, -2)


@sliding_window_attention.variant
def windows_unfolded(q, k, v, radius, causal=False):
    n, ahead = q.shape[-2], 0 if causal else radius
    padding = (0, 0, radius, ahead)
    windows_k = F.pad(k, padding).unfold(-2, radius + 1 + ahead, 1)  # (..., n, d_k, window)
    windows_v = F.pad(v, padding).unfold(-2, radius + 1 + ahead, 1)
    exists = F.pad(torch.ones(n, dtype=torch.bool, device=q.device), padding[2:]).unfold(0, radius + 1 + ahead, 1)
    scores = torch.einsum("...qd,...qdw->...qw", q, windows_k) / math.sqrt(q.shape[-1])
    weights = torch.softmax(scores.masked_fill(~exists, -math.inf), -1)
    return torch.einsum("...qw,...qdw->...qd", weights, windows_v)


@sliding_window_attention.variant
def diagonal_by_diagonal(q, k, v, radius, causal=False):
    n = q.shape[-2]
    offsets = [offset for offset in range(-radius, 1 if causal else radius + 1) if abs(offset) < n]
    q = q / math.sqrt(q.shape[-1])
    columns = []
    for offset in offsets:
        low, high = max(-offset, 0), min(n - offset, n)
        products = (q[..., low:high, :] * k[..., low + offset : high + offset, :]).sum(-1)
        columns.append(F.pad(products, (low, n - high), value=-math.inf))
    weights = torch.softmax(torch.stack(columns, -1), -1)
    output = torch.zeros_like(v)
    for place, offset in enumerate(offsets):
        low, high = max(-offset, 0), min(n - offset, n)
        part = weights[..., low:high, place, None] * v[..., low + offset : high + offset, :]
        output = output + F.pad(part, (0, 0, low, n - high))
    return output


@sliding_window_attention.variant
def three_neighbouring_blocks_at_once(q, k, v, radius, causal=False):
    n, size = q.shape[-2], min(max(radius, 1), q.shape[-2])
    radius = min(radius, n)
    more = -n % size
    position = torch.arange(-size, n + more + size, device=q.device)
    blocks = F.pad(q, (0, 0, 0, more)).unflatten(-2, (-1, size))  # (..., blocks, size, d_k)
    around_k = F.pad(k, (0, 0, size, size + more)).unfold(-2, 3 * size, size)  # (..., blocks, d_k, 3 size)
    around_v = F.pad(v, (0, 0, size, size + more)).unfold(-2, 3 * size, size)
    of_keys = position.unfold(0, 3 * size, size).unsqueeze(-2)  # (blocks, 1, 3 size)
    past = torch.arange(n + more, device=q.device).unflatten(0, (-1, size)).unsqueeze(-1) - of_keys
    hidden = (past > radius) | (past < (0 if causal else -radius)) | (of_keys < 0) | (of_keys >= n)
    scores = (blocks @ around_k / q.shape[-1] ** 0.5).masked_fill(hidden, torch.finfo(q.dtype).min)
    return (torch.softmax(scores, -1) @ around_v.mT).flatten(-3, -2)[..., :n, :]


@sliding_window_attention.variant
def strides_of_a_padded_text(q, k, v, radius, causal=False):
    n, ahead = q.shape[-2], 0 if causal else radius

    def windows(x):
        x = F.pad(x, (0, 0, radius, ahead)).contiguous()
        *lead, _, d = x.shape
        *strides, row, column = x.stride()
        return x.as_strided((*lead, n, radius + 1 + ahead, d), (*strides, row, row, column))

    i = torch.arange(n, device=q.device)[:, None]
    j = i + torch.arange(-radius, ahead + 1, device=q.device)
    scores = (windows(k) @ (q / math.sqrt(q.shape[-1])).unsqueeze(-1)).squeeze(-1)
    weights = torch.softmax(scores.masked_fill((j < 0) | (j >= n), -math.inf), -1)
    return (weights.unsqueeze(-2) @ windows(v)).squeeze(-2)


@sliding_window_attention.misconception(
    hint="Your window is one key too narrow on each side: a key at the distance `radius` still belongs to it.",
    symptom="With radius 1 each token sees itself alone. Nothing fails, and a model trained with it works, a little "
    "worse.",
    seen=f"{TRANSFORMERS}/issues/29623",
)
def window_one_too_narrow(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past < max(radius, 1)) & (past > (-1 if causal else -max(radius, 1)))
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="Your window is one key too wide. `radius` keys on a side, and the query's own: count them for radius 0.",
    symptom="Outputs a little off everywhere, and with radius 0 neighbours are mixed in.",
    seen="https://github.com/ml-explore/mlx-lm/pull/390",
)
def window_one_too_wide(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius - 1, 0), min(start + 65 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= radius + 1) & (past >= (0 if causal else -radius - 1))
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="In the causal window your radius counts the query's own key. It is the number of keys *before* it; "
    "itself comes on top.",
    symptom="Right with two sides, one key too few when causal. Libraries differ in just this: ask which is meant.",
    seen=f"{TRANSFORMERS}/issues/39408",
)
def causal_window_counts_itself(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past < radius + (not causal) + (radius == 0)) & (past >= (0 if causal else -radius))
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="On the right your window ends one key earlier than on the left. The distance `radius` belongs to both sides.",
    symptom="One key too few, on the right only; causal windows are right.",
    seen=f"{TRANSFORMERS}/pull/47010",
)
def right_edge_left_out(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= radius) & (past > (-1 if causal else -max(radius, 1)))
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="You spread `radius` over both sides. It is the distance of the farthest key on *each* side; the width is"
    " twice that and one.",
    symptom="Half the window.",
)
def radius_taken_for_the_width(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= radius // 2) & (past >= (0 if causal else -(radius // 2)))
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="When causal, your window keeps its width and moves into the past. It only loses its right half.",
    symptom="The causal window reaches twice as far back as asked for.",
)
def whole_width_into_the_past(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - 2 * radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= (2 if causal else 1) * radius) & (past >= (0 if causal else -radius))
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="The numbers are right, but all pairs are computed, and most of them hidden. Cut the text into blocks of "
    "queries: which keys can a block see at all?",
    symptom="As slow as full attention, or slower: the mask is more work, not less.",
    seen="https://github.com/karpathy/nanochat/issues/825",
)
def band_mask_over_all_pairs(q, k, v, radius, causal=False):
    i = torch.arange(q.shape[-2], device=q.device)
    past = i[:, None] - i
    mask = (past <= radius) & (past >= (0 if causal else -radius))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@sliding_window_attention.misconception(
    hint="You compute near pairs only, but take their masks from an (n, n) one. A block's mask can be made from "
    "its own positions.",
    symptom="Fast, and out of memory for a long text all the same.",
    seen=f"{TRANSFORMERS}/issues/29777",
)
def blocks_of_a_whole_mask(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    whole = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(-radius).tril(0 if causal else radius)
    for start in range(0, n, 64):
        i, j = slice(start, start + 64), slice(max(start - radius, 0), start + 64 + radius)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], whole[i, j]))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="`causal` changes nothing: your queries see the keys on their right as well.",
    symptom="The loss of a language model falls to almost nothing: the next token is in the window.",
)
def window_ignores_causal(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= radius) & (past >= -radius)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="Your window never looks ahead. That is asked for with `causal=True` only.",
    symptom="Right when causal; else the right half of the window is missing.",
)
def window_always_causal(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= radius) & (past >= 0)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="Your causal window lies on the wrong side: it holds the keys that come after the query.",
    symptom="Each token sees its future and not its past.",
)
def causal_window_looks_ahead(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= (0 if causal else radius)) & (past >= -radius)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="Within a slice of keys you hide nothing. A block's first query may not see what its last query sees.",
    symptom="Queries see up to a block more than the window, how much depends on where they stand in it.",
    seen="https://github.com/allenai/longformer/issues/157",
)
def slices_without_a_mask(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = torch.ones_like(past, dtype=torch.bool) if not causal else past >= 0
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="Your blocks see nothing outside of themselves. The window of a query at a block's edge goes on in the "
    "next block.",
    symptom="Errors at regular places: neighbours on two sides of a cut know nothing of one another.",
    seen="https://github.com/maxjcohen/transformer/issues/12",
)
def blocks_cut_the_window(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = i
        past = i[:, None] - j
        mask = (past <= radius) & (past >= (0 if causal else -radius))
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="Your blocks see themselves and the next ones, however large `radius` is. A wide window needs more of them.",
    symptom="Right for small radii, cut off for large ones.",
)
def one_neighbouring_block_at_most(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - 64, 0), min(start + 128, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= radius) & (past >= (0 if causal else -radius))
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="The last block is dropped if it is not full: your loop runs over `n // size` blocks.",
    symptom="The output is shorter than the text, unless its length is a multiple.",
)
def end_of_the_text_dropped(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    size = 4
    for block in range(max(n // size, 1)):
        i = torch.arange(block * size, min((block + 1) * size, n), device=q.device)
        j = torch.arange(max(block * size - radius, 0), min((block + 1) * size + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= radius) & (past >= (0 if causal else -radius))
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="The zeros that you filled the ends with take part: a score of zero is a weight of e⁰. Places that don't "
    "exist have to be hidden.",
    symptom="Right in the middle of the text, drawn towards zero at its ends.",
)
def padding_takes_part(q, k, v, radius, causal=False):
    ahead = 0 if causal else radius
    windows_k = F.pad(k, (0, 0, radius, ahead)).unfold(-2, radius + 1 + ahead, 1)
    windows_v = F.pad(v, (0, 0, radius, ahead)).unfold(-2, radius + 1 + ahead, 1)
    scores = torch.einsum("...qd,...qdw->...qw", q, windows_k) / math.sqrt(q.shape[-1])
    return torch.einsum("...qw,...qdw->...qd", torch.softmax(scores, -1), windows_v)


@sliding_window_attention.misconception(
    hint="You take a score of zero for a place that does not exist. Two vectors at a right angle have that score too: "
    "ask the places, not the scores.",
    symptom="Right on random numbers; NaN for a query of zeros.",
)
def scores_of_zero_hidden(q, k, v, radius, causal=False):
    ahead = 0 if causal else radius
    windows_k = F.pad(k, (0, 0, radius, ahead)).unfold(-2, radius + 1 + ahead, 1)
    windows_v = F.pad(v, (0, 0, radius, ahead)).unfold(-2, radius + 1 + ahead, 1)
    scores = torch.einsum("...qd,...qdw->...qw", q, windows_k) / math.sqrt(q.shape[-1])
    weights = torch.softmax(scores.masked_fill(scores == 0, -math.inf), -1)
    return torch.einsum("...qw,...qdw->...qd", weights, windows_v)


@sliding_window_attention.misconception(
    hint="At the ends of the text your window moves inwards to keep its width. Here it is cut off: what lies "
    "farther away than `radius` is never seen.",
    symptom="Right in the middle of the text; the first and last tokens see too far.",
)
def window_pushed_inwards(q, k, v, radius, causal=False):
    n, width = q.shape[-2], min((1 if causal else 2) * radius + 1, q.shape[-2])
    i = torch.arange(n, device=q.device)
    first = (i - radius).clamp(0, n - width)
    j = first[:, None] + torch.arange(width, device=q.device)
    scores = torch.einsum("...qd,...qwd->...qw", q, k[..., j, :]) / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(j > i[:, None], -math.inf)
    return torch.einsum("...qw,...qwd->...qd", torch.softmax(scores, -1), v[..., j, :])


@sliding_window_attention.misconception(
    hint="Your window goes on at the other end of the text: `roll` and negative indices wrap around. There is "
    "nothing before the first token.",
    symptom="Right in the middle of the text; its first tokens see its last ones.",
)
def window_wraps_around(q, k, v, radius, causal=False):
    n = q.shape[-2]
    offsets = torch.arange(-radius, 1 if causal else radius + 1, device=q.device)
    j = (torch.arange(n, device=q.device)[:, None] + offsets) % n
    scores = torch.einsum("...qd,...qwd->...qw", q, k[..., j, :]) / math.sqrt(q.shape[-1])
    return torch.einsum("...qw,...qwd->...qd", torch.softmax(scores, -1), v[..., j, :])


@sliding_window_attention.misconception(
    hint="The query's own key is not in your window.",
    symptom="With radius 0 there is nothing to see.",
)
def own_key_not_in_the_window(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= radius) & (past >= (0 if causal else -radius)) & (past != 0)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="The scores are not divided by √d_k.",
    symptom="Weights that are too sharp, the more so the wider the heads are.",
)
def window_without_scale(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= radius) & (past >= (0 if causal else -radius))
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask, scale=1.0))
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="You take the softmax over the whole slice and clear the weights outside of the window afterwards: what "
    "is left does not sum to one.",
    symptom="Outputs too small, by a factor that depends on the place in the block.",
)
def window_cleared_after_the_softmax(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= radius) & (past >= (0 if causal else -radius))
        weights = torch.softmax(q[..., i, :] @ k[..., j, :].mT / math.sqrt(q.shape[-1]), -1)
        outputs.append((weights * mask) @ v[..., j, :])
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="Outside of the window you set the scores to zero. A score of zero is a weight of e⁰, not of nothing.",
    symptom="Every output is drawn towards the mean of its slice.",
)
def scores_outside_set_to_zero(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= radius) & (past >= (0 if causal else -radius))
        scores = q[..., i, :] @ k[..., j, :].mT / math.sqrt(q.shape[-1])
        outputs.append(torch.softmax(scores * mask, -1) @ v[..., j, :])
    return torch.cat(outputs, -2)


@sliding_window_attention.misconception(
    hint="You cut along the second axis from the left. With heads in front that is another one: count from the "
    "end, `dim=-2`.",
    symptom="Right for (batch, n, d), and an error or nonsense for every other number of axes.",
)
def window_along_axis_one(q, k, v, radius, causal=False):
    n, outputs = q.shape[1], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        past = i[:, None] - j
        mask = (past <= radius) & (past >= (0 if causal else -radius))
        outputs.append(F.scaled_dot_product_attention(q[:, i], k[:, j], v[:, j], mask))
    return torch.cat(outputs, 1)


@sliding_window_attention.misconception(
    hint="Keys and values of the past are cut from the graph, as in a cache. In training the gradient has to go "
    "back through them.",
    symptom="Outputs are right; keys and values get a gradient from their own block only.",
)
def past_of_a_block_detached(q, k, v, radius, causal=False):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 4):
        i = torch.arange(start, min(start + 4, n), device=q.device)
        j = torch.arange(start, min(start + 4 + radius, n), device=q.device)
        old = slice(max(start - radius, 0), start)
        past = i[:, None] - torch.cat([torch.arange(max(start - radius, 0), start, device=q.device), j])
        mask = (past <= radius) & (past >= (0 if causal else -radius))
        keys = torch.cat([k[..., old, :].detach(), k[..., j, :]], -2)
        values = torch.cat([v[..., old, :].detach(), v[..., j, :]], -2)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    return torch.cat(outputs, -2)


def window_of_two(x: Tensor) -> Tensor:
    """Each token attends to the tokens at a distance of at most 2."""
    position = torch.arange(len(x))
    near = (position[:, None] - position).abs() <= 2
    return torch.softmax((x @ x.mT).masked_fill(~near, -torch.inf), -1) @ x


def blocks_of_two(x: Tensor) -> Tensor:
    """Each token attends to its block of two tokens, and to the blocks beside it."""
    block = torch.arange(len(x)) // 2
    near = (block[:, None] - block).abs() <= 1
    return torch.softmax((x @ x.mT).masked_fill(~near, -torch.inf), -1) @ x


def _why_nothing_leaks(x: Tensor) -> str:
    n = len(x)
    if n == 1:
        return "A single token sees itself, whatever the window is."
    if n <= 3:
        return "In a text so short no two tokens are farther apart than 2."
    if bool((x == x[0]).all()):
        return "All tokens are alike: whatever is averaged, it is the same."
    scores = x @ x.mT
    ends = [(i, i + 3) for i in range(0, n - 3, 2)]  # the pairs that share neighbouring blocks, and not the window
    if all(float(scores[i, j]) < float(scores[i, i]) - 6 for i, j in ends):
        return "The tokens that only the blocks let through get next to no weight: their scores are far below the rest."
    return "What the blocks let through is like what is there already."


find_leaky_window = counterexample(
    TOPIC,
    "find_leaky_window",
    window_of_two,
    blocks_of_two,
    because=_why_nothing_leaks,
    outputs=("x",),
    most=4,
)


@find_leaky_window.variant
def only_the_last_token_speaks():
    return torch.tensor([[0.0], [0.0], [0.0], [1.0]])


@find_leaky_window.variant
def only_the_first_token_speaks():
    return torch.tensor([[2.0], [0.0], [0.0], [0.0]], dtype=torch.float64)


@find_leaky_window.variant
def four_rising_numbers():
    return torch.arange(4.0).unsqueeze(1) / 2


@find_leaky_window.variant
def alternating_signs():
    return torch.tensor([[0.5], [-0.5], [0.5], [-0.5]])


@find_leaky_window.misconception(
    hint="Three tokens are never farther apart than 2, so both see everything. How long must a text be for a block"
    " to show more than the window?",
    symptom="A test with a text shorter than the window passes any window.",
)
def no_longer_than_the_window():
    return torch.tensor([[0.0], [1.0], [2.0]])


@find_leaky_window.misconception(
    hint="All your tokens are alike. An average of equal values is the same, whichever of them are seen.",
    symptom="A test with equal values sees no mask at all.",
)
def all_tokens_alike():
    return torch.ones(4, 1)


@find_leaky_window.misconception(
    hint="The pair that should make the difference has opposite signs and large values, so a score far below the "
    "others: both give it no weight.",
    symptom="What is hidden would not have been looked at anyway.",
)
def ends_that_repel_one_another():
    return torch.tensor([[6.0], [1.0], [1.0], [-6.0]])


@find_leaky_window.misconception(
    hint="It shows the difference, but smaller ones do too: how many tokens does it take, and how many numbers for"
    " each?",
    symptom="A counterexample that shows that something is wrong, not yet where.",
)
def more_tokens_than_needed():
    return torch.arange(8.0).unsqueeze(1) / 4


@find_leaky_window.misconception(
    hint="That is one number for each token on a single axis. A text has two axes: n, and d.",
    symptom="An error where x is multiplied by its transpose, or one row only.",
)
def tokens_without_a_width():
    return torch.tensor([0.0, 0.0, 0.0, 1.0])


@find_leaky_window.misconception(
    hint="The text has the right length, lying on its side: this is one token of width 4. The first axis is that "
    "of the tokens.",
    symptom="A single token sees itself, in both.",
)
def one_token_of_width_four():
    return torch.tensor([[0.0, 0.0, 0.0, 1.0]])


def _longformer(q: Tensor, k: Tensor, v: Tensor, radius: int, global_positions: Tensor) -> Tensor:
    return _by_pytorch(q, k, v, _with_globals(q.shape[-2], radius, global_positions))


def _longformer_naive(
    q: Tensor, k: Tensor, v: Tensor, radius: int, global_positions: Tensor, nudge: Nudge = as_is
) -> Tensor:
    return _by_formula(q, k, v, _with_globals(q.shape[-2], radius, global_positions), nudge)


def _places(draw: Draw, n: int, many: int) -> Tensor:
    """``many`` distinct positions in any order."""
    return torch.randperm(n, generator=draw.generator)[:many]


def _longformer_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, radius: int, places: Any, *lead: int, n: int, d_k: int = 4, d_v: int = 3, **more: Any) -> Case:
        positions = torch.as_tensor(places, dtype=torch.int64)
        return Case(name, (*_qkv(draw, *lead, n=n, d_k=d_k, d_v=d_v), radius, positions), **more)

    yield case("a classification token", 1, [0], n=7, gradients=True, tiny=True)
    yield case("a global token in the middle", 1, [4], 2, n=9, gradients=True)
    yield case("two, the later one first", 1, [6, 2], 2, 3, n=9, d_v=6, gradients=True)
    yield case("three in any order", 2, _places(draw, 12, 3), 2, n=12, gradients=True)
    yield case("neighbours", 1, [3, 4, 5], n=10)
    yield case("as many as heads", 1, [7, 0, 3], 2, 3, n=10)
    long = draw.integer(140, 160)
    yield case("a long text", 4, _places(draw, long, 5), 1, n=long, d_k=8, d_v=5, gradients=True)
    yield case("a radius wider than usual blocks", 90, [200, 3], n=230)
    yield case("whole blocks", 16, _places(draw, 128, 3), n=128)
    yield case("all axes alike", 1, [3, 1, 0, 2], 4, 4, n=4, d_v=4)
    edge = partial(case, check="edge cases")
    same = draw.normal(2, 7, 4)
    yield Case("q, k and v the same tensor", (same, same, same, 1, torch.tensor([5, 1])), check="edge cases")
    yield edge("no global token", 1, [], 2, n=6, gradients=True)
    yield edge("the first and the last", 1, [8, 0], 2, n=9)
    yield edge("all are global", 1, [2, 0, 1, 4, 3], n=5)
    yield edge("all but one are global", 0, [3, 0, 1], n=4)
    yield edge("radius 0", 0, [2], 2, n=6, gradients=True)
    yield edge("the window is the whole text", 8, [3], n=6)
    yield edge("one token, global", 1, [0], n=1)
    yield edge("one token, not global", 1, [], n=1)
    yield edge("columns stored as rows", 1, [6, 2], 2, 3, n=8, layout="transposed")
    yield edge("every second number of a row", 1, [1], 2, n=6, layout="strided")
    q, k, v = _qkv(draw, 2, n=9, d_k=4, d_v=3)
    places = torch.tensor([5, 1])
    large = partial(Case, check="large scores", coarse=False)
    yield large("scores up to ±10⁴", (100 * q, 100 * k, v, 1, places))
    ask = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    loud = 0.1 * k + torch.where(torch.arange(9) == 8, 60.0, 0.0)[:, None] * ask
    yield large("hidden scores 60 above the rest", (0.1 * q + 2 * ask, loud, v, 1, places), gradients=True)
    yield large("scores around −10⁴", (200 * ask + q, 0.1 * k - 100 * ask, v, 1, places))


def _longformer_of_length(draw: Draw, n: int) -> Case:
    return Case(f"{n} tokens", (*_qkv(draw, 1, 1, n=n, d_k=8, d_v=8), 8, torch.tensor([n // 2, 0, n - 1])))


LONGFORMER_FLOPS = "A window and a few global tokens take work that grows with the length, not with its square."
LONGFORMER_PEAK = (
    "A window and a few global tokens need memory that grows with the length: no (n, n) tensor, not even a mask."
)

longformer_attention = Exam(
    TOPIC,
    "longformer_attention",
    _longformer,
    _longformer_naive,
    _longformer_cases,
    (
        Values("values", 2),
        Values("edge cases", 0.75),
        Values("large scores", 0.5),
        Habits(0.25),
        Gradients(0.5),
        work(0.5, at=_longformer_of_length, claim=LONGFORMER_FLOPS),
        memory(0.5, at=_longformer_of_length, claim=LONGFORMER_PEAK),
    ),
    may_not_call=(FLEX,),
)


@longformer_attention.variant
def global_keys_in_front(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = ((i[:, None] - j).abs() <= radius) & ~is_global[j]
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global)


@longformer_attention.variant
def keys_of_a_block_collected(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    for block in torch.arange(n, device=q.device).split(100):
        near = torch.arange(max(int(block[0]) - radius, 0), min(int(block[-1]) + radius + 1, n), device=q.device)
        j = torch.unique(torch.cat([near, global_positions]))
        mask = ((block[:, None] - j).abs() <= radius) | torch.isin(j, global_positions)
        outputs.append(F.scaled_dot_product_attention(q[..., block, :], k[..., j, :], v[..., j, :], attn_mask=mask))
    output = torch.cat(outputs, -2)
    for place in global_positions.tolist():
        row = F.scaled_dot_product_attention(q[..., place : place + 1, :], k, v)
        output = torch.cat([output[..., :place, :], row, output[..., place + 1 :, :]], -2)
    return output


@longformer_attention.variant
def global_rows_first_then_short_blocks(q, k, v, radius, global_positions):
    n = q.shape[-2]
    is_global = (torch.arange(n, device=q.device)[:, None] == global_positions).any(-1)
    output = torch.empty_like(q[..., :1]).expand(*q.shape[:-1], v.shape[-1]).clone()
    for start in range(0, n, 16):
        rows, keys = slice(start, min(start + 16, n)), slice(max(start - radius, 0), min(start + 16 + radius, n))
        i, j = (torch.arange(part.start, part.stop, device=q.device) for part in (rows, keys))
        near = (q[..., rows, :] @ k[..., keys, :].mT).masked_fill(
            ((i[:, None] - j).abs() > radius) | is_global[keys], -math.inf
        )
        scores = torch.cat([q[..., rows, :] @ k[..., global_positions, :].mT, near], -1) / q.shape[-1] ** 0.5
        values = torch.cat([v[..., global_positions, :], v[..., keys, :]], -2)
        output[..., rows, :] = scores.softmax(-1) @ values
    everywhere = (q[..., global_positions, :] @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    output[..., global_positions, :] = everywhere
    return output


@longformer_attention.variant
def diagonals_and_global_scores_in_one_softmax(q, k, v, radius, global_positions):
    n, d_k = q.shape[-2:]
    j = torch.arange(n, device=q.device)[:, None] + torch.arange(-radius, radius + 1, device=q.device)  # (n, window)
    hidden = (j < 0) | (j >= n) | torch.isin(j, global_positions)
    j = j.clamp(0, n - 1)
    near = torch.einsum("...qd,...qwd->...qw", q, k[..., j, :]).masked_fill(hidden, -math.inf)
    to_global = q @ k[..., global_positions, :].mT
    weights = torch.softmax(torch.cat([near, to_global], -1) / math.sqrt(d_k), -1)
    split = near.shape[-1]
    output = torch.einsum("...qw,...qwd->...qd", weights[..., :split], v[..., j, :])
    output = output + weights[..., split:] @ v[..., global_positions, :]
    of_global = torch.softmax(q[..., global_positions, :] @ k.mT / math.sqrt(d_k), -1) @ v
    output[..., global_positions, :] = of_global
    return output


@longformer_attention.variant
def two_sums_under_one_maximum(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    q = q * q.shape[-1] ** -0.5
    k_global, v_global = k.index_select(-2, global_positions), v.index_select(-2, global_positions)
    is_global = torch.isin(torch.arange(n, device=q.device), global_positions)
    for start in range(0, n, 32):
        rows = torch.arange(start, min(start + 32, n), device=q.device)
        keys = torch.arange(max(start - radius, 0), min(start + 32 + radius, n), device=q.device)
        near = q[..., rows, :] @ k[..., keys, :].mT
        hidden = ((rows[:, None] - keys).abs() > radius) | is_global[keys]
        near = near.masked_fill(hidden, -math.inf)
        far = q[..., rows, :] @ k_global.mT
        top = torch.cat([near, far], -1).amax(-1, keepdim=True).detach()
        near, far = torch.exp(near - top), torch.exp(far - top)
        total = near.sum(-1, keepdim=True) + far.sum(-1, keepdim=True)
        outputs.append((near @ v[..., keys, :] + far @ v_global) / total)
    everything = torch.softmax(q.index_select(-2, global_positions) @ k.mT, -1) @ v
    return torch.cat(outputs, -2).index_copy(-2, global_positions, everything)


@longformer_attention.variant
def joined_and_put_in_order(q, k, v, radius, global_positions):
    n = q.shape[-2]
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device)
    is_global[global_positions] = True
    places, others = is_global.nonzero().flatten(), (~is_global).nonzero().flatten()
    rows = [F.scaled_dot_product_attention(q[..., places, :], k, v)]
    for i in others.split(50) if len(others) else ():
        j = torch.arange(max(int(i[0]) - radius, 0), min(int(i[-1]) + radius + 1, n), device=q.device)
        keys = torch.cat([k[..., places, :], k[..., j, :]], -2)
        values = torch.cat([v[..., places, :], v[..., j, :]], -2)
        near = ((i[:, None] - j).abs() <= radius) & ~is_global[j]
        mask = torch.cat([torch.ones(len(i), len(places), dtype=torch.bool, device=q.device), near], -1)
        rows.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    return torch.cat(rows, -2)[..., torch.argsort(torch.cat([places, others])), :]


@longformer_attention.misconception(
    hint="A global key that stands in the window counts twice: once in front, once in its place. Each key has one "
    "weight.",
    symptom="Outputs near a global token lean towards it; far from it they are right.",
)
def global_keys_counted_twice(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = (i[:, None] - j).abs() <= radius
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="Your global tokens are seen by all, but see no more than their own window. The pattern is symmetric.",
    symptom="The classification token knows the first words only.",
)
def global_tokens_see_their_window_only(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = ((i[:, None] - j).abs() <= radius) & ~is_global[j]
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    return torch.cat(outputs, -2)


@longformer_attention.misconception(
    hint="Your global tokens see all, but nobody far away sees them. The pattern is symmetric.",
    symptom="What the global token has gathered never comes back to the text.",
)
def global_tokens_not_seen_by_the_others(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = (i[:, None] - j).abs() <= radius
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=False)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="The numbers are right, but all pairs are computed, and most of them hidden.",
    symptom="As slow as full attention, and out of memory for a long text.",
    seen="https://github.com/meta-pytorch/attention-gym/pull/215",
)
def longformer_mask_over_all_pairs(q, k, v, radius, global_positions):
    i = torch.arange(q.shape[-2], device=q.device)
    mask = (i[:, None] - i).abs() <= radius
    mask[global_positions] = True
    mask[:, global_positions] = True
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@longformer_attention.misconception(
    hint="For the global rows you compute full attention for all queries, and keep a few of them. Select the "
    "queries first.",
    symptom="Right, and quadratic after all.",
)
def full_attention_for_a_few_rows(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = ((i[:, None] - j).abs() <= radius) & ~is_global[j]
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q, k, v)[..., global_positions, :]
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="You average two attentions, one over the window and one over the global tokens. All keys of a query "
    "share one softmax.",
    symptom="Global tokens get half of every query's weight, however little they have to say.",
)
def two_softmaxes_averaged(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        mask = (i[:, None] - j).abs() <= radius
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    near = torch.cat(outputs, -2)
    far = F.scaled_dot_product_attention(q, k[..., global_positions, :], v[..., global_positions, :])
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return ((near + far) / 2).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="You add the attention over the global tokens to that over the window: together the weights sum to two.",
    symptom="Outputs outside of the values' range.",
)
def two_softmaxes_added(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        mask = ((i[:, None] - j).abs() <= radius) & ~is_global[j]
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :], mask))
    far = F.scaled_dot_product_attention(q, k[..., global_positions, :], v[..., global_positions, :])
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return (torch.cat(outputs, -2) + far).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="You take the *first* tokens as global, as many as there are positions. `global_positions` says which "
    "they are.",
    symptom="Right as long as only the first token is global.",
)
def first_tokens_taken_as_global(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    global_positions = torch.arange(len(global_positions), device=q.device)
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = ((i[:, None] - j).abs() <= radius) & ~is_global[j]
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="The global rows come back in another order than they went out: a boolean mask sorts, `global_positions` "
    "need not be sorted.",
    symptom="Right for sorted positions; else the global tokens swap their outputs.",
)
def global_rows_in_another_order(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = ((i[:, None] - j).abs() <= radius) & ~is_global[j]
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return torch.cat(outputs, -2).masked_scatter(is_global[:, None], of_global)


@longformer_attention.misconception(
    hint="Without a global token your code stops with an error. Then a plain window is left.",
    symptom="An error from an operator on an empty tensor.",
)
def no_global_token_not_expected(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    first_global = int(global_positions.min())
    is_global = (torch.arange(n, device=q.device)[:, None] == global_positions).any(-1) & (
        torch.arange(n, device=q.device) >= first_global
    )
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = ((i[:, None] - j).abs() <= radius) & ~is_global[j]
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="Your global tokens see one another, and no other token. They see all.",
    symptom="A few tokens that talk among themselves.",
)
def global_tokens_among_themselves(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = ((i[:, None] - j).abs() <= radius) & ~is_global[j]
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(*(x[..., global_positions, :] for x in (q, k, v)))
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="The window is one key too narrow on each side: the distance `radius` belongs to it.",
    symptom="With radius 1 no neighbour is seen.",
)
def longformer_window_too_narrow(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = ((i[:, None] - j).abs() < max(radius, 1)) & ~is_global[j]
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="You hide the keys on the right. Nothing here is causal: the window has two sides.",
    symptom="Half of each window is missing.",
)
def longformer_window_of_the_past(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = (i[:, None] - j <= radius) & (i[:, None] >= j) & ~is_global[j]
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="In the rows of the global tokens the scores are not divided by √d_k.",
    symptom="Global tokens look too sharply, all others are right.",
)
def global_rows_without_scale(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = ((i[:, None] - j).abs() <= radius) & ~is_global[j]
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v, scale=1.0)
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="Your queries see the global keys, and no longer their own window.",
    symptom="All the neighbours are gone.",
)
def window_lost_beside_the_global_keys(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = torch.zeros_like(i[:, None] - j, dtype=torch.bool)
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="In its own window a global key is hidden, and in front it is not seen by its neighbours either: they "
    "lose it altogether.",
    symptom="Only tokens far away from a global one see it.",
)
def global_keys_hidden_from_their_neighbours(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = ((i[:, None] - j).abs() <= radius) & (~is_global[j] | (i[:, None] == j))
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = torch.cat([(i[:, None] - global_positions).abs() > radius, near], -1)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global)


@longformer_attention.misconception(
    hint="What the global tokens gather is cut from the graph. Training needs its gradient.",
    symptom="Values are right; nothing goes back through the global rows.",
)
def global_rows_detached(q, k, v, radius, global_positions):
    n, outputs = q.shape[-2], []
    is_global = torch.zeros(n, dtype=torch.bool, device=q.device).index_fill(0, global_positions, True)
    for start in range(0, n, 64):
        i = torch.arange(start, min(start + 64, n), device=q.device)
        j = torch.arange(max(start - radius, 0), min(start + 64 + radius, n), device=q.device)
        near = ((i[:, None] - j).abs() <= radius) & ~is_global[j]
        keys = torch.cat([k[..., global_positions, :], k[..., j, :]], -2)
        values = torch.cat([v[..., global_positions, :], v[..., j, :]], -2)
        mask = F.pad(near, (len(global_positions), 0), value=True)
        outputs.append(F.scaled_dot_product_attention(q[..., i, :], keys, values, mask))
    of_global = F.scaled_dot_product_attention(q[..., global_positions, :], k, v)
    return torch.cat(outputs, -2).index_copy(-2, global_positions, of_global.detach())


def _certain_blocks(n_blocks: int, n_window: int, n_global: int) -> Tensor:
    """What no chance decides on: window, first rows and first columns (Zaheer et al. 2020, section 2)."""
    reach = (n_window - 1) // 2
    return _bools(
        [[abs(a - b) <= reach or a < n_global or b < n_global for b in range(n_blocks)] for a in range(n_blocks)]
    )


def _bigbird_if_certain(
    n_blocks: int, n_window: int, n_global: int, n_random: int, generator: torch.Generator | None = None
) -> Tensor:
    """For the cases without chance: nothing is drawn, or all that is left."""
    certain = _certain_blocks(n_blocks, n_window, n_global)
    return certain if n_random == 0 else torch.ones_like(certain)


def _bigbird_naive(
    n_blocks: int,
    n_window: int,
    n_global: int,
    n_random: int,
    generator: torch.Generator | None = None,
    nudge: Nudge = as_is,
) -> Tensor:
    return _bigbird_if_certain(n_blocks, n_window, n_global, n_random)


def _bigbird_cases(draw: Draw) -> Iterator[Case]:
    n = draw.integer(8, 12)
    yield Case("a window", (n, 3, 0, 0))
    yield Case("a wider window", (n, 5, 0, 0))
    yield Case("a window of one, a global block", (n, 1, 1, 0))
    yield Case("window and global blocks", (n, 3, 2, 0))
    yield Case("a wide window, global blocks", (n + 8, 7, 3, 0))
    edge = partial(Case, check="edge cases")
    yield edge("one block", (1, 3, 1, 0))
    yield edge("nothing but each block itself", (4, 1, 0, 0))
    yield edge("as many random blocks as are left", (6, 1, 0, 5))
    yield edge("more random blocks than are left", (7, 3, 1, 6))
    yield edge("more random blocks than there are", (5, 3, 1, 9))
    yield edge("all are global", (4, 1, 4, 2))
    yield edge("a window wider than the text", (4, 9, 0, 3))

    def drawn(check: str, *sizes: int) -> Case:
        # Far apart, so that no two laws use the same seed.
        return Case(str(sizes), sizes, {"generator": Seeded(10_000 * draw.integer(0, 200_000))}, check=check)

    for sizes in ((12, 3, 1, 2), (9, 3, 0, 3), (16, 5, 2, 1), (8, 3, 1, 3), (10, 1, 0, 4)):
        yield drawn("random blocks", *sizes)
    yield drawn("likelihood", 24, 3, 2, 3)
    yield drawn("rows", 40, 3, 1, 4)
    yield drawn("reach", 128, 3, 0, 3)
    yield drawn("generator", 120, 3, 1, 3)


def _others(answer: Callable[..., Tensor], call: Call, more: int = 0) -> Tensor:
    """What stands in the mask besides window and global blocks."""
    n_blocks, n_window, n_global, _ = call.args
    return answer(*call.args, generator=seeded(call, more)) & ~_certain_blocks(n_blocks, n_window, n_global)


def _a_mask_of_blocks(answer: Callable[..., Tensor], call: Call) -> str | None:
    mask = answer(*call.args, generator=seeded(call))
    if mask.dtype != torch.bool:
        return "it does not give booleans"
    n_blocks = call.args[0]
    return None if mask.shape == (n_blocks, n_blocks) else "its shape is not (n_blocks, n_blocks)"


def _window_and_globals_are_kept(answer: Callable[..., Tensor], call: Call) -> str | None:
    n_blocks, n_window, n_global, _ = call.args
    mask = answer(*call.args, generator=seeded(call))
    missing = _certain_blocks(n_blocks, n_window, n_global) & ~mask
    if bool(missing[:n_global].any()):
        return "the rows of the global blocks are not all True"
    if bool(missing[:, :n_global].any()):
        return "the columns of the global blocks are not all True"
    return "blocks of the window are missing" if bool(missing.any()) else None


def _so_many_others_in_each_row(answer: Callable[..., Tensor], call: Call) -> str | None:
    n_blocks, n_window, n_global, n_random = call.args
    left = (~_certain_blocks(n_blocks, n_window, n_global)).sum(-1)
    wanted = left.clamp(max=n_random)[n_global:]
    totals = [_others(answer, call, more).sum(-1)[n_global:] for more in range(8)]
    counts = torch.stack(totals) - wanted
    if bool((counts == 0).all()):
        return None
    if bool((_others(answer, call).sum(0)[n_global:] == wanted).all()):
        return "n_random blocks are drawn for each column; it is the rows that draw"
    if bool((counts <= 0).all()):
        rows = "all" if bool((counts == counts.min()).all()) else "some"
        return f"{rows} rows have fewer than n_random blocks besides window and global ones"
    if bool((counts >= 0).all()):
        rows = "all" if bool((counts > 0).all()) else "some"
        return f"{rows} rows have more than n_random blocks besides window and global ones"
    mean_right = abs(float(counts.double().mean())) < 0.5
    return (
        "n_random is right on average only: some rows have more blocks, others fewer"
        if mean_right
        else ("rows have other numbers of random blocks than n_random, some more, some fewer")
    )


# The laws of chance allow six standard errors, which a right answer exceeds twice in 10⁹ times; what the errors are
# stands beside each.
ERRORS = 6.0
MASKS = 120


def _every_other_block_is_equally_likely(answer: Callable[..., Tensor], call: Call) -> str | None:
    n_blocks, n_window, n_global, _ = call.args
    free = ~_certain_blocks(n_blocks, n_window, n_global)
    mean = torch.stack([_others(answer, call, more) for more in range(MASKS)]).double().mean(0)
    # How many a row draws is asked elsewhere: here its own number, shared out evenly.
    expected = free * (mean.sum(-1, keepdim=True) / free.sum(-1, keepdim=True).clamp(min=1))  # (blocks, blocks)
    # 24 blocks, 120 masks: a column's count is known to 0.15 of 3 or so, what stands at one distance likewise.
    away = mean - expected
    spread = expected * (1 - expected) / MASKS
    if bool((away.sum(0).abs() > ERRORS * spread.sum(0).sqrt() + 1e-9).any()):
        return "some blocks are drawn more often than others"
    for distance in range(1, n_blocks):
        for side in (-distance, distance):
            error = float(spread.diagonal(side).sum()) ** 0.5
            if abs(float(away.diagonal(side).sum())) > ERRORS * error + 1e-9:
                return "blocks at some distances are drawn more often than at others"
    return None


def _rows_are_drawn_apart(answer: Callable[..., Tensor], call: Call) -> str | None:
    _, _, n_global, n_random = call.args
    others = _others(answer, call)[n_global:].double()
    # Two rows that draw 4 of 36 blocks each have 0.44 in common on average, over the 741 pairs to 0.03.
    shared = others @ others.mT
    pairs = shared[torch.ones_like(shared).triu(1).bool()]
    if float(pairs.mean()) > n_random / 2:
        return "all rows draw the same blocks"
    # Over the 38 pairs of neighbours to 0.1.
    if float(shared.diagonal(1).mean()) > 1.2:
        return "neighbouring rows draw the same blocks"
    mutual = others[:, n_global:] * others[:, n_global:].mT
    # That b draws a when a has drawn b: for 4 of 36 one in nine.
    if float(mutual.sum()) > 0.5 * float(others[:, n_global:].sum()):
        return "whom a block draws, draws it too: rows are to be drawn each for itself"
    # Two of a row's four stand side by side in a third of the rows: 13 times in 39, known to 4.
    if float((others[:, 1:] * others[:, :-1]).sum()) > len(others):
        return "a row's random blocks stand side by side: each is to be drawn for itself"
    return None


def _layers_until_all_is_heard(mask: Tensor) -> int:
    heard, layers = torch.eye(len(mask)), 0
    while not bool(heard.all()) and layers < len(mask):
        heard, layers = (mask.float() @ heard > 0).float(), layers + 1
    return layers


def _reaches_all_in_few_layers(answer: Callable[..., Tensor], call: Call) -> str | None:
    n_blocks, n_window, _, n_random = call.args
    mask = answer(n_blocks, n_window, 1, n_random, generator=seeded(call))
    if _layers_until_all_is_heard(mask) != 2:
        return "with a global block two layers are to reach everything; yours do not"
    # The shortest ways in a random graph grow with log n (Zaheer et al. 2020, section 2). For 128 blocks, 3 of them
    # drawn: 5 to 7 layers in a thousand masks, where a window alone takes 127.
    if _layers_until_all_is_heard(answer(*call.args, generator=seeded(call))) > 14:
        return "random blocks do not shorten the way: it takes far more layers than log n to reach everything"
    return None


bigbird_mask = Exam(
    TOPIC,
    "bigbird_mask",
    _bigbird_if_certain,
    _bigbird_naive,
    _bigbird_cases,
    (
        Values("values", 0.5),
        Values("edge cases", 0.5),
        Properties(
            1,
            (_a_mask_of_blocks, _window_and_globals_are_kept, _so_many_others_in_each_row),
            "random blocks",
            "random blocks",
            telling=True,
        ),
        Properties(0.25, (_rows_are_drawn_apart,), "rows", "rows of their own", telling=True),
        Properties(0.25, (_every_other_block_is_equally_likely,), "likelihood", "equally likely", telling=True),
        Properties(0.25, (_reaches_all_in_few_layers,), "reach", "layers until all is reached", telling=True),
        Properties(0.25, OF_GENERATORS, "generator", "generator", telling=True),
    ),
    dtype=torch.bool,
)


@bigbird_mask.variant
def largest_lots_win(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.variant
def others_shuffled_row_by_row(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    for a in range(n_global, n_blocks):
        others = (~mask[a]).nonzero().flatten()
        order = torch.randperm(len(others), generator=generator)
        mask[a, others[order[:n_random]]] = True
    return mask


@bigbird_mask.variant
def multinomial_of_what_is_left(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    for row in mask:
        left = int((~row).sum())
        if min(n_random, left):
            row[torch.multinomial((~row).float(), min(n_random, left), generator=generator)] = True
    return mask


@bigbird_mask.variant
def sorted_twice(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator) + mask
    rank = lots.argsort(dim=-1).argsort(dim=-1)
    return mask | (rank < n_random)


@bigbird_mask.variant
def drawn_until_there_are_enough(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    for a in range(n_blocks):
        free = int((~mask[a]).sum())
        for _ in range(min(n_random, free)):
            b = int(torch.randint(n_blocks, (), generator=generator))
            while mask[a, b]:
                b = int(torch.randint(n_blocks, (), generator=generator))
            mask[a, b] = True
    return mask


@bigbird_mask.variant
def normal_lots_and_lists(n_blocks, n_window, n_global, n_random, generator=None):
    lots = torch.randn(n_blocks, n_blocks, generator=generator).tolist()
    rows = []
    for a in range(n_blocks):
        seen = {b for b in range(n_blocks) if abs(a - b) <= (n_window - 1) // 2 or a < n_global or b < n_global}
        others = sorted(set(range(n_blocks)) - seen, key=lambda b, a=a: lots[a][b])
        seen.update(others[:n_random])
        rows.append([b in seen for b in range(n_blocks)])
    return torch.tensor(rows, dtype=torch.bool)


@bigbird_mask.misconception(
    hint="Your random blocks may be some that the row sees anyway. They are to be *other* blocks: draw among those"
    " that are left.",
    symptom="Rows with fewer blocks than planned, how many fewer is chance.",
)
def random_blocks_already_seen(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="You leave out the row's own block and the global ones, and draw among all others: those beside it stand in"
    " the window already. Draw among those that the row does not see yet.",
    symptom="Some rows have fewer blocks than planned, all the more the wider the window is.",
)
def random_blocks_in_the_window(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    seen = (i[:, None] == i) | (i < n_global)
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(seen, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="You draw with replacement: the same block may come twice, and counts once.",
    symptom="Some rows have fewer random blocks than others.",
)
def random_blocks_with_replacement(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    for a in range(n_global, n_blocks):
        others = (~mask[a]).nonzero().flatten()
        if n_random >= len(others):
            mask[a] = True
        else:
            mask[a, others[torch.randint(len(others), (n_random,), generator=generator)]] = True
    return mask


@bigbird_mask.misconception(
    hint="All rows get the same random blocks, so these are global columns under another name. Draw for each row anew.",
    symptom="It takes as many layers as with a window alone to reach a block that was not drawn.",
)
def one_draw_for_all_rows(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, generator=generator).expand(n_blocks, -1).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="You take `n_window` for the reach on each side. It is the width of the whole window, with the block "
    "itself in the middle.",
    symptom="A window of three sees seven blocks.",
)
def window_width_on_each_side(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="Your window is one block too narrow on each side: a window of three has one neighbour on either side.",
    symptom="A window of three sees itself alone.",
)
def bigbird_window_too_narrow(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() < max(n_window // 2, 1)
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="Your window lies in front of the block and not around it.",
    symptom="Blocks see the past only.",
)
def bigbird_window_of_the_past(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i < n_window) & (i[:, None] >= i)
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="Your window goes on at the other end of the text. The first block has no neighbour on its left.",
    symptom="The first block sees the last one, in a window.",
)
def bigbird_window_wraps_around(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = ((i[:, None] - i + n_window // 2) % n_blocks) <= n_window // 2 * 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="The global blocks are seen by all, but don't see all: their rows are missing.",
    symptom="It takes many layers until anything gets into a global block.",
)
def global_columns_without_rows(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="The global blocks see all, but are not seen by all: their columns are missing.",
    symptom="What the global blocks gather comes back to their neighbours only.",
)
def global_rows_without_columns(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="You make global blocks of the first and the last ones, as some code does. Here they are the first "
    "`n_global`.",
    symptom="Twice as many global blocks as asked for.",
    seen=f"{TRANSFORMERS}/pull/10183",
)
def global_blocks_at_both_ends(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    for places in (slice(0, n_global), slice(n_blocks - n_global, n_blocks)):
        mask[places] = True
        mask[:, places] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="You mirror the random blocks to make the mask symmetric. Then rows have more than `n_random` of them.",
    symptom="About twice as many random blocks as asked for.",
)
def random_blocks_mirrored(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    mask = mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)
    return mask | mask.T


@bigbird_mask.misconception(
    hint="You draw `n_random` blocks for each column. It is the rows that choose whom they see.",
    symptom="Some rows have many random blocks, others none.",
)
def drawn_for_each_column(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(0, lots.topk(min(n_random, n_blocks), 0).indices, True)


@bigbird_mask.misconception(
    hint="You toss a coin for each block. The number of random blocks is then right on average, and in hardly any row.",
    symptom="Rows of different cost.",
)
def a_coin_for_each_block(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    left = (~mask).sum(-1, keepdim=True).clamp(min=1)
    return mask | (~mask & (torch.rand(n_blocks, n_blocks, generator=generator) < n_random / left))


@bigbird_mask.misconception(
    hint="You draw where a run of blocks begins, and take those that follow. Each random block is to be drawn for "
    "itself.",
    symptom="Random blocks that know the same neighbourhood: one of them would do.",
)
def a_run_of_random_blocks(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    for a in range(n_global, n_blocks):
        others = (~mask[a]).nonzero().flatten()
        if len(others):
            first = int(torch.randint(len(others), (), generator=generator))
            run = (first + torch.arange(min(n_random, len(others)))) % len(others)
            mask[a, others[run]] = True
    return mask


@bigbird_mask.misconception(
    hint="Only blocks near the beginning are ever drawn. All that are left have to be equally likely.",
    symptom="However long the text is, its later part is reached through windows alone.",
    seen=f"{TRANSFORMERS}/issues/16566",
)
def random_blocks_from_the_beginning(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    lots = torch.where(torch.arange(n_blocks) < n_blocks // 2, lots, lots.clamp(max=0.0) + lots * 1e-3)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="Your random blocks come before the row's own: the past only. All that are left have to be equally likely.",
    symptom="Early rows have fewer random blocks than asked for.",
)
def random_blocks_of_the_past(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    for a in range(n_global, n_blocks):
        past = (~mask[a, :a]).nonzero().flatten()
        mask[a, past[torch.randperm(len(past), generator=generator)[:n_random]]] = True
    return mask


@bigbird_mask.misconception(
    hint="If fewer blocks are left than are to be drawn, your code stops with an error. Then the row sees all of them.",
    symptom="An error for short texts only.",
)
def too_few_others_not_expected(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    for a in range(n_global, n_blocks):
        if n_random and not mask[a].all():
            mask[a, torch.multinomial((~mask[a]).float(), n_random, generator=generator)] = True
    return mask


@bigbird_mask.misconception(
    hint="`topk` can't find more than there are: with few blocks it stops with an error. A row that has fewer left "
    "than it is to draw sees all of them.",
    symptom="An error from `topk`, for the shortest texts only.",
)
def more_lots_than_blocks_not_expected(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(n_random, -1).indices, True)


@bigbird_mask.misconception(
    hint="The window of the first rows is gone: `mask[a, a - half : ...]` begins before the first block there, and "
    "Python counts a negative start from the end. Begin at `max(a - half, 0)`.",
    symptom="The first blocks do not see themselves.",
)
def bigbird_window_lost_at_the_start(n_blocks, n_window, n_global, n_random, generator=None):
    half = n_window // 2
    mask = torch.zeros(n_blocks, n_blocks, dtype=torch.bool)
    for a in range(n_blocks):
        mask[a, a - half : a + half + 1] = True
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask | mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="At the ends you push the window inwards until it is whole. It has the row's own block in the middle "
    "everywhere, and is cut off where the text ends.",
    symptom="The first and the last row see as many blocks as the others.",
)
def bigbird_window_pushed_inwards(n_blocks, n_window, n_global, n_random, generator=None):
    mask = torch.zeros(n_blocks, n_blocks, dtype=torch.bool)
    for a in range(n_blocks):
        start = max(min(a - n_window // 2, n_blocks - n_window), 0)
        mask[a, start : start + n_window] = True
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="The last block is never drawn. Where a range stops, its end is left out already: don't take one off again.",
    symptom="Nobody but its neighbours ever hears of the last block.",
)
def last_block_never_drawn(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    for a in range(n_global, n_blocks):
        others = (~mask[a, : n_blocks - 1]).nonzero().flatten()
        mask[a, others[torch.randperm(len(others), generator=generator)[:n_random]]] = True
    return mask


@bigbird_mask.misconception(
    hint="`generator` is not used: nobody can draw the same mask again.",
    symptom="Two runs with one seed differ.",
)
def bigbird_ignores_the_generator(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="A seed is fixed inside. Every layer then has the same random blocks, unless whoever calls it takes care.",
    symptom="Two calls without a generator give the same mask.",
)
def bigbird_with_a_seed_of_its_own(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="That is one mask for the window, one for the global blocks and one for chance, exclusive: where two meet"
    " you get False. Join them with *or*.",
    symptom="Holes where window and global blocks meet.",
)
def window_and_globals_exclude_one_another(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    seen = (i < n_global) | (i[:, None] < n_global)
    mask = ((i[:, None] - i).abs() <= n_window // 2) ^ seen
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True)


@bigbird_mask.misconception(
    hint="Ones and zeros are no booleans: `~` and `masked_fill` need `dtype=torch.bool`.",
    symptom="The pattern is right, and the first operator that wants a mask stops with an error.",
)
def bigbird_mask_of_numbers(n_blocks, n_window, n_global, n_random, generator=None):
    i = torch.arange(n_blocks)
    mask = (i[:, None] - i).abs() <= n_window // 2
    mask[:n_global] = True
    mask[:, :n_global] = True
    lots = torch.rand(n_blocks, n_blocks, generator=generator).masked_fill(mask, -1.0)
    return mask.scatter(-1, lots.topk(min(n_random, n_blocks), -1).indices, True).float()


def _blockwise(q: Tensor, k: Tensor, v: Tensor, block_mask: Tensor, block_size: int) -> Tensor:
    return _by_pytorch(q, k, v, _of_blocks(q.shape[-2], block_mask, block_size))


def _blockwise_naive(
    q: Tensor, k: Tensor, v: Tensor, block_mask: Tensor, block_size: int, nudge: Nudge = as_is
) -> Tensor:
    return _by_formula(q, k, v, _of_blocks(q.shape[-2], block_mask, block_size), nudge)


def _some_blocks(draw: Draw, n: int) -> Tensor:
    """A mask of blocks that is not symmetric, each row with a block that it keeps and, but for one block, without one.

    The last column is kept by the first row and by the last.
    """
    mask = draw.uniform(0, 1, n, n) > 0.5
    mask |= torch.eye(n, dtype=torch.bool)
    if n > 1:
        mask[torch.arange(n), torch.arange(n) - 1] = False
        mask[0, -1], mask[-1, 0] = True, False
    return mask


def _block_cases(draw: Draw) -> Iterator[Case]:
    def case(name: str, blocks: Any, size: int, *lead: int, n: int, d_k: int = 4, d_v: int = 3, **more: Any) -> Case:
        mask = blocks if isinstance(blocks, Tensor) else _some_blocks(draw, blocks)
        return Case(name, (*_qkv(draw, *lead, n=n, d_k=d_k, d_v=d_v), mask, size), **more)

    yield case("whole blocks", 3, 2, n=6, gradients=True, tiny=True)
    yield case("batch and heads", 3, 4, 2, 3, n=12, d_v=6, gradients=True)
    yield case("all axes alike", 4, 4, 4, 4, n=16, gradients=True)
    yield case("as many blocks as tokens in one", 4, 4, 2, n=16)
    yield case("blocks of one token", 6, 1, 2, n=6)
    yield case("a batch of one, a long text", 8, 16, 1, n=128, d_k=8, d_v=5, gradients=True)
    yield case(
        "one full row, one full column",
        _bools([[True] * 5, *([True] + [a == b for b in range(1, 5)] for a in range(1, 5))]),
        4,
        2,
        n=20,
    )
    ragged = partial(case, check="ragged last block")
    yield ragged("a last block of one token", 3, 4, n=9, gradients=True, tiny=True)
    yield ragged("a last block of two tokens", 4, 5, 2, 3, n=17, gradients=True)
    q, k, v = _qkv(draw, 2, n=11, d_k=4, d_v=3)
    # A score of zero is a score like any other: no mark of what was filled up.
    of_zeros = (q * (torch.arange(11) != 1)[:, None], k, v, _some_blocks(draw, 3), 4)
    yield Case("a query of zeros, a last block that lacks one", of_zeros, check="ragged last block", gradients=True)
    yield ragged("a long text", 9, 16, 1, n=128 + draw.integer(1, 15))
    yield ragged("one block, not full", torch.ones(1, 1, dtype=torch.bool), 8, 2, n=5)
    dead = partial(case, check="blocks that see nothing")
    rows = _bools([[True, False, True], [False] * 3, [False, True, False]])
    yield dead("a row without a block", rows, 3, 2, n=9, gradients=True)
    yield dead("the last row without a block", rows[[0, 2, 1]], 4, n=10, gradients=True)
    yield dead("nothing is kept", torch.zeros(2, 2, dtype=torch.bool), 3, n=6)
    edge = partial(case, check="edge cases")
    same = draw.normal(2, 7, 4)
    yield Case("q, k and v the same tensor", (same, same, same, _some_blocks(draw, 3), 3), check="edge cases")
    yield edge("all are kept", torch.ones(3, 3, dtype=torch.bool), 3, 2, n=8, gradients=True)
    yield edge("each block sees itself", torch.eye(4, dtype=torch.bool), 3, 2, n=11)
    yield edge("each block sees the next", torch.eye(4).roll(1, 1).bool(), 2, n=8)
    yield edge("one token", torch.ones(1, 1, dtype=torch.bool), 1, 2, n=1)
    yield edge("columns stored as rows", 3, 3, 2, 3, n=8, layout="transposed")
    yield edge("every second number of a row", 3, 2, 2, n=6, layout="strided")
    q, k, v = _qkv(draw, 2, n=10, d_k=4, d_v=3)
    large = partial(Case, check="edge cases", coarse=False)
    yield large("scores up to ±10⁴", (100 * q, 100 * k, v, _some_blocks(draw, 3), 4))
    ask = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    yield large("scores around −10⁴", (200 * ask + q, 0.1 * k - 100 * ask, v, _some_blocks(draw, 3), 4))


def _arrow_of_length(draw: Draw, n: int) -> Case:
    """The diagonal, one full row and one full column: 3 blocks a row on average, and one row of all."""
    blocks = n // 16
    mask = torch.eye(blocks, dtype=torch.bool)
    mask[0], mask[:, 0] = True, True
    return Case(f"{n} tokens", (*_qkv(draw, 1, 1, n=n, d_k=8, d_v=8), mask, 16))


BLOCK_FLOPS = "Work is to grow with the number of blocks kept, which here is three a row but for one full row."
BLOCK_PEAK = "Memory is to grow with the number of blocks kept, which here is three a row but for one full row."

block_sparse_attention = Exam(
    TOPIC,
    "block_sparse_attention",
    _blockwise,
    _blockwise_naive,
    _block_cases,
    (
        Values("values", 1),
        Values("ragged last block", 0.75),
        Values("blocks that see nothing", 0.5),
        Values("edge cases", 0.5),
        Habits(0.25),
        Gradients(0.5),
        work(0.5, at=_arrow_of_length, claim=BLOCK_FLOPS),
        memory(0.5, at=_arrow_of_length, claim=BLOCK_PEAK),
    ),
    may_not_call=(FLEX,),
)


@block_sparse_attention.variant
def kept_blocks_joined(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for q_block, row in zip(q.split(block_size, -2), block_mask.tolist(), strict=True):
        kept = [b for b, keep in enumerate(row) if keep]
        if not kept:
            outputs.append(v.new_zeros(*q_block.shape[:-1], v.shape[-1]))
            continue
        keys, values = (torch.cat([x[b] for b in kept], -2) for x in (k_blocks, v_blocks))
        outputs.append(torch.softmax(q_block @ keys.mT / math.sqrt(q.shape[-1]), -1) @ values)
    return torch.cat(outputs, -2)


@block_sparse_attention.variant
def tokens_of_the_kept_blocks(q, k, v, block_mask, block_size):
    block = torch.arange(q.shape[-2], device=q.device) // block_size
    outputs = []
    for a, queries in enumerate(q.split(block_size, -2)):
        seen = block_mask[a].to(q.device)[block].nonzero().flatten()
        outputs.append(F.scaled_dot_product_attention(queries, k[..., seen, :], v[..., seen, :]))
    return torch.cat(outputs, -2)


@block_sparse_attention.variant
def block_after_block_with_running_sums(q, k, v, block_mask, block_size):
    outputs = []
    for a, queries in enumerate(q.split(block_size, -2)):
        top = q.new_full((*queries.shape[:-1], 1), -math.inf)
        total, output = torch.zeros_like(top), v.new_zeros(*queries.shape[:-1], v.shape[-1])
        for b in block_mask[a].nonzero().flatten().tolist():
            keys = slice(b * block_size, (b + 1) * block_size)
            scores = queries @ k[..., keys, :].mT / math.sqrt(q.shape[-1])
            new_top = torch.maximum(top, scores.amax(-1, keepdim=True)).detach()
            old, new = torch.exp(top - new_top), torch.exp(scores - new_top)
            total, output, top = total * old + new.sum(-1, keepdim=True), output * old + new @ v[..., keys, :], new_top
        outputs.append(output / total if block_mask[a].any() else output)
    return torch.cat(outputs, -2)


@block_sparse_attention.variant
def all_kept_pairs_at_once(q, k, v, block_mask, block_size):
    n, blocks = q.shape[-2], block_mask.shape[0]
    more = blocks * block_size - n
    q_blocks, k_blocks, v_blocks = (F.pad(x, (0, 0, 0, more)).unflatten(-2, (blocks, block_size)) for x in (q, k, v))
    a, b = block_mask.to(q.device).nonzero().unbind(-1)  # (kept,) each
    exists = (torch.arange(blocks * block_size, device=q.device) < n).view(blocks, 1, block_size)
    scores = q_blocks[..., a, :, :] @ k_blocks[..., b, :, :].mT / q.shape[-1] ** 0.5  # (..., kept, size, size)
    scores = scores.masked_fill(~exists[b], -math.inf)
    top = scores.new_full((*scores.shape[:-3], blocks, block_size), -math.inf)
    at = a[:, None].expand(-1, block_size).expand(*scores.shape[:-1])
    top = top.scatter_reduce(-2, at, scores.amax(-1), "amax").detach()
    weights = torch.exp(scores - top[..., a, :].unsqueeze(-1))
    total = weights.new_zeros(top.shape).index_add(-2, a, weights.sum(-1))
    output = torch.zeros_like(v_blocks).index_add(-3, a, weights @ v_blocks[..., b, :, :])
    output = output / torch.where(total > 0, total, 1.0).unsqueeze(-1)
    return output.flatten(-3, -2)[..., :n, :]


@block_sparse_attention.variant
def filled_up_and_masked_at_the_end(q, k, v, block_mask, block_size):
    n = q.shape[-2]
    more = -n % block_size
    padded_k, padded_v = F.pad(k, (0, 0, 0, more)), F.pad(v, (0, 0, 0, more))
    rows = []
    for a in range(block_mask.shape[0]):
        queries = q[..., a * block_size : (a + 1) * block_size, :]
        kept = block_mask[a].nonzero().flatten()
        j = (kept[:, None] * block_size + torch.arange(block_size, device=kept.device)).flatten().to(q.device)
        scores = torch.einsum("...qd,...kd->...qk", queries, padded_k[..., j, :]) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(j >= n, torch.finfo(scores.dtype).min)
        rows.append(torch.einsum("...qk,...kd->...qd", torch.softmax(scores, -1), padded_v[..., j, :]))
    return torch.cat(rows, -2)


@block_sparse_attention.variant
def written_into_an_empty_output(q, k, v, block_mask, block_size):
    n = q.shape[-2]
    output = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=v.dtype, device=v.device)
    positions = torch.arange(n, device=q.device)
    for a in range(len(block_mask)):
        i = positions[a * block_size : (a + 1) * block_size]
        seen = [positions[b * block_size : (b + 1) * block_size] for b in range(len(block_mask)) if block_mask[a, b]]
        if seen:
            j = torch.cat(seen)
            output[..., i, :] = F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :])
    return output


@block_sparse_attention.misconception(
    hint="The last block is dropped if it is not full: `n // block_size` rounds down.",
    symptom="The end of the text is missing, unless its length is a multiple.",
)
def ragged_last_block_dropped(q, k, v, block_mask, block_size):
    outputs = []
    for a in range(max(q.shape[-2] // block_size, 1)):
        seen = [b for b in range(max(q.shape[-2] // block_size, 1)) if block_mask[a, b]]
        keys = torch.cat([k[..., :0, :], *(k[..., b * block_size : (b + 1) * block_size, :] for b in seen)], -2)
        values = torch.cat([v[..., :0, :], *(v[..., b * block_size : (b + 1) * block_size, :] for b in seen)], -2)
        queries = q[..., a * block_size : (a + 1) * block_size, :]
        outputs.append(F.scaled_dot_product_attention(queries, keys, values))
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="The rows of the last, shorter block are there, but nobody sees its keys: you count the blocks of keys "
    "rounded down.",
    symptom="The output has the right shape, and nothing of the text's end in it.",
)
def ragged_keys_seen_by_nobody(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=False):
        kept = [b for b in row.nonzero().flatten().tolist() if (b + 1) * block_size <= max(k.shape[-2], block_size)]
        keys = torch.cat([k[..., :0, :], *(k_blocks[b] for b in kept)], -2)
        values = torch.cat([v[..., :0, :], *(v_blocks[b] for b in kept)], -2)
        outputs.append(F.scaled_dot_product_attention(queries, keys, values))
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="You fill the last block up with zeros and let them take part: a score of zero is a weight of e⁰.",
    symptom="Right for whole blocks; else whoever sees the last one is drawn towards zero.",
    seen="https://github.com/flashinfer-ai/flashinfer/pull/5090",
)
def zeros_in_the_last_block_take_part(q, k, v, block_mask, block_size):
    n = q.shape[-2]
    q, k, v = (F.pad(x, (0, 0, 0, -n % block_size)) for x in (q, k, v))
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=True):
        kept = row.nonzero().flatten().tolist()
        keys = torch.cat([k[..., :0, :], *(k_blocks[b] for b in kept)], -2)
        values = torch.cat([v[..., :0, :], *(v_blocks[b] for b in kept)], -2)
        outputs.append(F.scaled_dot_product_attention(queries, keys, values))
    return torch.cat(outputs, -2)[..., :n, :]


@block_sparse_attention.misconception(
    hint="You move the last block back until it is full. Its first keys then count twice, and its queries are not "
    "its own.",
    symptom="Right for whole blocks; else the end of the text is wrong.",
)
def last_block_moved_back(q, k, v, block_mask, block_size):
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=False):
        kept = row.nonzero().flatten().tolist()
        keys = torch.cat(
            [
                k[..., :0, :],
                *(
                    k[..., max(min((b + 1) * block_size, k.shape[-2]) - block_size, 0) : (b + 1) * block_size, :]
                    for b in kept
                ),
            ],
            -2,
        )
        values = torch.cat(
            [
                v[..., :0, :],
                *(
                    v[..., max(min((b + 1) * block_size, k.shape[-2]) - block_size, 0) : (b + 1) * block_size, :]
                    for b in kept
                ),
            ],
            -2,
        )
        outputs.append(F.scaled_dot_product_attention(queries, keys, values))
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="The numbers are right, but you stretch the mask to (n, n) and compute all pairs: no block is saved.",
    symptom="As slow as full attention.",
    seen="https://github.com/google-research/bigbird/issues/35",
)
def mask_stretched_to_all_pairs(q, k, v, block_mask, block_size):
    block = torch.arange(q.shape[-2], device=q.device) // block_size
    mask = block_mask.to(q.device)[block][:, block]
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, torch.finfo(q.dtype).min)
    return torch.softmax(scores, -1).masked_fill(~mask, 0.0) @ v


@block_sparse_attention.misconception(
    hint="Every row takes as many blocks as the fullest row, most of them to be hidden. One global row then makes "
    "all rows dear.",
    symptom="Fine for a window, quadratic as soon as there is a global block.",
)
def all_rows_as_dear_as_the_fullest(q, k, v, block_mask, block_size):
    n, outputs = q.shape[-2], []
    most = max(int(block_mask.sum(-1).max()), 1)
    for a, queries in enumerate(q.split(block_size, -2)):
        order = torch.argsort(block_mask[a].int(), descending=True, stable=True)[:most].to(q.device)
        j = (order[:, None] * block_size + torch.arange(block_size, device=q.device)).flatten()
        seen = block_mask[a].to(q.device)[order].repeat_interleave(block_size)[j < n]
        j = j[j < n]
        outputs.append(
            F.scaled_dot_product_attention(queries, k[..., j, :], v[..., j, :], seen.expand(queries.shape[-2], -1))
        )
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="Your mask is read the wrong way round: rows are the blocks of queries, columns those of keys.",
    symptom="Right for symmetric masks only.",
)
def block_mask_transposed(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask.T, strict=False):
        kept = row.nonzero().flatten().tolist()
        keys = torch.cat([k[..., :0, :], *(k_blocks[b] for b in kept)], -2)
        values = torch.cat([v[..., :0, :], *(v_blocks[b] for b in kept)], -2)
        outputs.append(F.scaled_dot_product_attention(queries, keys, values))
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="True means *may attend*. You compute the blocks that are not kept.",
    symptom="Each query sees just what it should not.",
)
def kept_blocks_left_out(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), ~block_mask, strict=False):
        kept = row.nonzero().flatten().tolist()
        keys = torch.cat([k[..., :0, :], *(k_blocks[b] for b in kept)], -2)
        values = torch.cat([v[..., :0, :], *(v_blocks[b] for b in kept)], -2)
        outputs.append(F.scaled_dot_product_attention(queries, keys, values))
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="Each kept block has a softmax of its own, and you average the results. All keys of a query share one "
    "softmax.",
    symptom="Every block counts as much as any other, however little it has to say.",
)
def a_softmax_for_each_block(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=True):
        output = v.new_zeros(*queries.shape[:-1], v.shape[-1])
        kept = row.nonzero().flatten().tolist()
        for b in kept:
            output = output + F.scaled_dot_product_attention(queries, k_blocks[b], v_blocks[b]) / len(kept)
        outputs.append(output)
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="Each kept block has a softmax of its own, and you add the results: the weights sum to the number of blocks.",
    symptom="Outputs outside of the values' range.",
)
def softmaxes_of_blocks_added(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=True):
        output = v.new_zeros(*queries.shape[:-1], v.shape[-1])
        for b in row.nonzero().flatten().tolist():
            output = output + F.scaled_dot_product_attention(queries, k_blocks[b], v_blocks[b])
        outputs.append(output)
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="A row of blocks that keeps nothing stops your code with an error. It gives zeros.",
    symptom="An error from `torch.cat` on an empty list.",
)
def a_row_without_blocks_not_expected(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=True):
        kept = row.nonzero().flatten().tolist()
        keys = torch.cat([k_blocks[b] for b in kept], -2)
        values = torch.cat([v_blocks[b] for b in kept], -2)
        outputs.append(F.scaled_dot_product_attention(queries, keys, values))
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="A row of blocks that keeps nothing is left out of your output, and all that follows moves up. It gives "
    "zeros.",
    symptom="The output is shorter than the text, or the wrong rows are at its end.",
)
def rows_without_blocks_left_out(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=False):
        kept = row.nonzero().flatten().tolist()
        keys = torch.cat([k[..., :0, :], *(k_blocks[b] for b in kept)], -2)
        values = torch.cat([v[..., :0, :], *(v_blocks[b] for b in kept)], -2)
        outputs.append(F.scaled_dot_product_attention(queries, keys, values))
    return torch.cat(
        [part for part, row in zip(outputs, block_mask, strict=False) if row.any()] or [torch.zeros_like(v)], -2
    )


@block_sparse_attention.misconception(
    hint="A query that sees nothing gets the mean of all values in your answer. It gets zeros.",
    symptom="Rows that should be empty look quite ordinary.",
)
def mean_for_who_sees_nothing(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=False):
        kept = row.nonzero().flatten().tolist() or list(range(len(row)))
        keys = torch.cat([k[..., :0, :], *(k_blocks[b] for b in kept)], -2)
        values = torch.cat([v[..., :0, :], *(v_blocks[b] for b in kept)], -2)
        outputs.append(F.scaled_dot_product_attention(queries * row.any(), keys, values))
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="The scores are not divided by √d_k.",
    symptom="Weights that are too sharp.",
)
def blocks_without_scale(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=False):
        kept = row.nonzero().flatten().tolist()
        keys = torch.cat([k[..., :0, :], *(k_blocks[b] for b in kept)], -2)
        values = torch.cat([v[..., :0, :], *(v_blocks[b] for b in kept)], -2)
        outputs.append(F.scaled_dot_product_attention(queries, keys, values, scale=1.0))
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="Within a pair of blocks you hide the future. Nothing here is causal: in a kept pair all see all.",
    symptom="A triangle is missing from each block.",
)
def triangle_in_each_block(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=False):
        kept = row.nonzero().flatten().tolist()
        keys = torch.cat([k[..., :0, :], *(k_blocks[b] for b in kept)], -2)
        values = torch.cat([v[..., :0, :], *(v_blocks[b] for b in kept)], -2)
        outputs.append(
            F.scaled_dot_product_attention(
                queries,
                keys,
                values,
                torch.cat(
                    [
                        torch.ones(queries.shape[-2], 0, dtype=torch.bool, device=q.device),
                        *(
                            torch.ones(
                                queries.shape[-2], k_blocks[b].shape[-2], dtype=torch.bool, device=q.device
                            ).tril()
                            for b in kept
                        ),
                    ],
                    -1,
                ),
            )
        )
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="You take `block_size` for the number of blocks. It says how many tokens one has.",
    symptom="Right where the two numbers are the same.",
)
def block_size_taken_for_their_number(q, k, v, block_mask, block_size):
    block_size = -(-q.shape[-2] // block_size)
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=False):
        kept = [b for b in row.nonzero().flatten().tolist() if b < len(k_blocks)]
        keys = torch.cat([k[..., :0, :], *(k_blocks[b] for b in kept)], -2)
        values = torch.cat([v[..., :0, :], *(v_blocks[b] for b in kept)], -2)
        outputs.append(F.scaled_dot_product_attention(queries, keys, values))
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="Your tokens are dealt to the blocks like cards: token i to block i modulo the number of blocks. A block "
    "is a stretch of neighbouring tokens.",
    symptom="A pattern of stripes in place of blocks.",
)
def tokens_dealt_to_the_blocks(q, k, v, block_mask, block_size):
    n, blocks = q.shape[-2], block_mask.shape[0]
    place = torch.arange(n, device=q.device) % blocks
    output = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=v.dtype, device=v.device)
    for a in range(blocks):
        i = (place == a).nonzero().flatten()
        j = block_mask[a].to(q.device)[place].nonzero().flatten()
        output[..., i, :] = F.scaled_dot_product_attention(q[..., i, :], k[..., j, :], v[..., j, :])
    return output


@block_sparse_attention.misconception(
    hint="You take the keys of a kept block from one place and the values from another: keys and values of a pair "
    "belong together.",
    symptom="Weights are right, and mix the wrong values.",
)
def values_of_the_rows_own_block(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=False):
        kept = row.nonzero().flatten().tolist()
        keys = torch.cat([k[..., :0, :], *(k_blocks[b] for b in kept)], -2)
        values = torch.cat(
            [
                v[..., :0, :],
                *(
                    v_blocks[b - len(v_blocks) + 1]
                    if v_blocks[b].shape == v_blocks[b - len(v_blocks) + 1].shape
                    else v_blocks[b].flip(-2)
                    for b in kept
                ),
            ],
            -2,
        )
        outputs.append(F.scaled_dot_product_attention(queries, keys, values))
    return torch.cat(outputs, -2)


@block_sparse_attention.misconception(
    hint="Keys and values are cut from the graph when you collect them.",
    symptom="Outputs are right; only the queries learn.",
)
def collected_blocks_detached(q, k, v, block_mask, block_size):
    k_blocks, v_blocks = k.split(block_size, -2), v.split(block_size, -2)
    outputs = []
    for queries, row in zip(q.split(block_size, -2), block_mask, strict=False):
        kept = row.nonzero().flatten().tolist()
        keys = torch.cat([k[..., :0, :], *(k_blocks[b].detach() for b in kept)], -2)
        values = torch.cat([v[..., :0, :], *(v_blocks[b].detach() for b in kept)], -2)
        outputs.append(F.scaled_dot_product_attention(queries, keys, values))
    return torch.cat(outputs, -2)
