"""The exams of *hashing*: buckets for near vectors, attention within them, and the same in chunks of a sorted row.

Bucket numbers are whole: two right answers that add in another order must not disagree. So no vector of these cases
lies near a border between two buckets.
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

from autograder.engine.checks import Gradients, Growth, Habits, Properties, Values, counterexample
from autograder.engine.exam import Case, Draw, Exam, Nudge, as_is
from autograder.engine.subject import Call

TOPIC = "hashing"
LUCIDRAINS = "https://github.com/lucidrains/reformer-pytorch"
HUGGING_FACE = "https://github.com/huggingface/transformers"


def _by_ends(x: Tensor, rotations: Tensor) -> Tensor:
    """One vector and one column after another: which axis is nearest, and which of its ends (Andoni et al. 2015)."""
    half = rotations.shape[-1]
    rounds = []
    for rotation in rotations:
        along = torch.stack([(x * column).sum(-1) for column in rotation.unbind(-1)], dim=-1)  # (..., n, half)
        axis = along.abs().argmax(-1, keepdim=True)
        rounds.append((axis + half * (along.gather(-1, axis) < 0)).squeeze(-1))
    return torch.stack(rounds)


def _lsh_naive(x: Tensor, rotations: Tensor, nudge: Nudge = as_is) -> Tensor:
    return _by_ends(x, rotations)


def _gap(x: Tensor, rotations: Tensor) -> Tensor:
    """How far each vector's largest number is ahead of the next, for its length, in the closest round: (..., n)."""
    along = torch.einsum("...id,rdh->r...ih", x, rotations)
    top, second = torch.cat([along, -along], -1).topk(2, dim=-1).values.unbind(-1)
    gap: Tensor = torch.amin(top - second, 0) / torch.linalg.vector_norm(x, dim=-1)
    return gap


def _clear(draw: Draw, *shape: int, rotations: Tensor, scale: float = 1.0) -> Tensor:
    """Normal vectors far from all borders: the farthest of 64 drawn for each."""
    candidates = draw.normal(64, *shape)
    best = _gap(candidates, rotations).argmax(0, keepdim=True)  # (1, ..., n)
    return scale * candidates.take_along_dim(best.unsqueeze(-1), 0).squeeze(0)


def _close(draw: Draw, n: int, d: int, rotations: Tensor) -> Tensor:
    """Vectors near a border, so near that bfloat16 may miss the side, and far enough for float32."""
    one, other = _clear(draw, n, d, rotations=rotations), draw.normal(n, d)
    low, high = torch.zeros(n, 1), torch.ones(n, 1)
    for _ in range(11):
        middle = (low + high) / 2
        stays = (_by_ends(one + middle * (other - one), rotations) == _by_ends(one, rotations)).all(0).unsqueeze(-1)
        low, high = torch.where(stays, middle, low), torch.where(stays, high, middle)
    near = one + low.double() * (other - one)
    return torch.where((_gap(near, rotations) > 1e-4).unsqueeze(-1), near, one)


def _lsh_cases(draw: Draw) -> Iterator[Case]:
    def at(name: str, *shape: int, rounds: int, half: int, scale: float = 1.0, **more: Any) -> Case:
        rotations = draw.normal(rounds, shape[-1], half)
        return Case(name, (_clear(draw, *shape, rotations=rotations, scale=scale), rotations), **more)

    yield at("one round", 6, 3, rounds=1, half=3)
    yield at("several rounds", 7, 5, rounds=3, half=4)
    yield at("a batch", 2, 5, 4, rounds=3, half=2)
    yield at("batch and heads", 2, 3, 5, 4, rounds=2, half=3)
    yield at("as many rounds as sentences", 3, 5, 4, rounds=3, half=3)
    yield at("all axes alike", 4, 4, 4, 4, rounds=4, half=4)
    yield at("more dimensions than buckets", 6, 16, rounds=4, half=2)
    edge = partial(Case, check="edge cases")
    yield at("two buckets", 6, 4, rounds=2, half=1, check="edge cases")
    yield at("one token", 1, 4, rounds=3, half=3, check="edge cases")
    yield at("a batch of one", 1, 5, 4, rounds=2, half=3, check="edge cases")
    turns = draw.normal(1, 6, 200)
    many = _clear(draw, 6, 6, rotations=turns)
    # All of them at negative ends: numbers from 200 to 399.
    many = many * (1 - 2 * (_by_ends(many, turns)[0] < 200).double()).unsqueeze(-1)
    yield edge("400 buckets", (many, turns), coarse=False)
    turns = draw.normal(1, 5, 4)
    yield edge("near a border", (_close(draw, 12, 5, turns), turns), coarse=False)
    yield at("long vectors", 4, 5, rounds=2, half=4, scale=100.0, check="edge cases")
    yield at("short vectors", 4, 5, rounds=2, half=4, scale=1e-4, check="edge cases")
    yield at("columns stored as rows", 2, 3, 5, 4, rounds=3, half=3, layout="transposed", check="edge cases")
    yield at("every second number of a row", 2, 6, 4, rounds=2, half=3, layout="strided", check="edge cases")
    yield at("laws of buckets", 2, 6, 5, rounds=4, half=3, check="laws")


def _opposite_vectors_in_opposite_buckets(answer: Callable[..., Tensor], call: Call) -> str | None:
    x, rotations = call.args
    half = rotations.shape[-1]
    if torch.equal(answer(-x, rotations), (answer(x, rotations) + half) % (2 * half)):
        return None
    return "x and −x are not in opposite buckets: half of the buckets are for the negative ends"


def _each_round_for_itself(answer: Callable[..., Tensor], call: Call) -> str | None:
    x, rotations = call.args
    together = answer(x, rotations)
    if all(torch.equal(answer(x, rotations[r : r + 1])[0], together[r]) for r in range(len(rotations))):
        return None
    return "a round gives other buckets beside other rounds than alone"


NEAR = 0.9
COLUMNS = 8
# How often one round puts two vectors with this cosine into one of 2 · 8 buckets, from 4 million draws.
ONE_ROUND = 0.600


def _recall_follows_the_rounds(answer: Callable[..., Tensor], call: Call) -> str | None:
    draw = Draw(int(call.args[0].double().abs().sum() * 1e6) % 2**31)
    x, other = (F.normalize(draw.normal(100, 16), dim=-1) for _ in range(2))
    apart = F.normalize(other - (other * x).sum(-1, keepdim=True) * x, dim=-1)
    pairs = torch.stack([x, NEAR * x + (1 - NEAR**2) ** 0.5 * apart]).to(call.args[0])  # (2, 100, 16)
    # 30 times eight rounds, all of them of their own: over 1,000 seeds no figure was off by more than 0.012.
    buckets = answer(pairs, draw.normal(240, 16, COLUMNS).to(pairs))  # (240, 2, 100)
    found = (buckets[:, 0] == buckets[:, 1]).cpu()  # (240, 100)
    for rounds in (1, 2, 4, 8):
        recall = float(found.unflatten(0, (-1, rounds)).any(1).double().mean())
        if abs(recall - (1 - (1 - ONE_ROUND) ** rounds)) > 0.035:
            return "of near pairs another share meets within so many rounds than 1 − (1 − p)^rounds"
    return None


lsh_buckets = Exam(
    TOPIC,
    "lsh_buckets",
    _by_ends,
    _lsh_naive,
    _lsh_cases,
    (
        Values("values", 2),
        Values("edge cases", 1),
        Properties(0.5, (_opposite_vectors_in_opposite_buckets, _each_round_for_itself), "laws", "laws"),
        Properties(0.5, (_recall_follows_the_rounds,), "laws", "recall of near vectors"),
        Habits(0.5),
    ),
    outputs=("buckets",),
    dtype=torch.int64,
)


@lsh_buckets.variant
def named_axes(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations)
    return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)


@lsh_buckets.variant
def rounds_one_by_one(x, rotations):
    rounds = []
    for rotation in rotations:
        rotated = x @ rotation
        rounds.append(torch.argmax(torch.cat((rotated, -rotated), -1), -1))
    return torch.stack(rounds, 0)


@lsh_buckets.variant
def rounds_moved_to_the_front(x, rotations):
    rounds, d, half = rotations.shape
    rotated = (x @ rotations.permute(1, 0, 2).reshape(d, rounds * half)).unflatten(-1, (rounds, half))
    rotated = rotated.movedim(-2, 0)
    return torch.cat([rotated, -rotated], -1).max(-1).indices


@lsh_buckets.variant
def axes_of_one_for_the_batch(x, rotations):
    rounds, d, half = rotations.shape
    rotated = x @ rotations.view(rounds, *[1] * (x.ndim - 2), d, half)
    return torch.cat([rotated, rotated.neg()], dim=-1).topk(1).indices.squeeze(-1)


@lsh_buckets.variant
def negated_columns_first(x, rotations):
    ends = torch.cat([rotations, -rotations], dim=-1)
    return torch.tensordot(x, ends, dims=([-1], [1])).movedim(-2, 0).argmax(-1)


@lsh_buckets.variant
def largest_against_smallest(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations)
    high, low = rotated.max(-1), rotated.min(-1)
    return torch.where(high.values >= -low.values, high.indices, low.indices + rotations.shape[-1])


@lsh_buckets.variant
def of_length_one_first(x, rotations):
    x = x / x.norm(dim=-1, keepdim=True)
    rotated = torch.stack([torch.matmul(x, rotation) for rotation in rotations.unbind()])
    return torch.sort(torch.cat([rotated, -rotated], -1), dim=-1).indices[..., -1]


@lsh_buckets.variant
def nearest_end_by_distance(x, rotations):
    ends = torch.cat([rotations, -rotations], -1).mT
    flat = x.reshape(-1, x.shape[-1])
    products = [(flat.unsqueeze(1) * of_round).sum(-1) for of_round in ends]
    return torch.stack(products).argmax(-1).reshape(len(rotations), *x.shape[:-1])


@lsh_buckets.misconception(
    hint="You look for the largest number of xR alone. A vector may lie nearest to the negative end of an axis: "
    "those are the other half of the buckets.",
    symptom="Only half of the bucket numbers ever come, and vectors that point away from all columns are thrown "
    "together.",
)
def negated_half_left_out(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations)
    return rotated.argmax(dim=-1)


@lsh_buckets.misconception(
    hint="You put −xR before xR, or look for the smallest number. The partition is the same, but the bucket "
    "numbers are those of the opposite vectors.",
    symptom="Every bucket number is off by half the number of buckets.",
)
def negated_half_first(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations)
    return torch.cat([-rotated, rotated], dim=-1).argmax(dim=-1)


@lsh_buckets.misconception(
    hint="You compare magnitudes, so x and −x fall into one bucket. They are as far apart as can be.",
    symptom="Opposite vectors share a bucket, and half of the buckets stay empty.",
)
def both_ends_in_one_bucket(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations)
    return rotated.abs().argmax(dim=-1)


@lsh_buckets.misconception(
    hint="You number the two ends of each axis one after the other: +0, −0, +1, −1. Asked for are all of xR first,"
    " then all of −xR.",
    symptom="The right partition under other names.",
)
def ends_of_an_axis_side_by_side(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations)
    return torch.stack([rotated, -rotated], dim=-1).flatten(-2).argmax(dim=-1)


@lsh_buckets.misconception(
    hint="All your rounds use the first rotation. Rounds that agree in everything find nothing new.",
    symptom="More rounds never raise the recall.",
)
def first_rotation_for_every_round(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations[:1].expand_as(rotations))
    return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)


@lsh_buckets.misconception(
    hint="Your rounds are the last axis. Asked for is (rounds, ..., n): the rounds in front.",
    symptom="Right numbers in a transposed tensor.",
)
def rounds_behind_everything(x, rotations):
    rotated = torch.einsum("...id,rdh->...irh", x, rotations)
    return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)


@lsh_buckets.misconception(
    hint="Your rounds stand right before the tokens, behind batch and heads. They belong in front of all.",
    symptom="Right for one sentence; with a batch, rounds and sentences are exchanged.",
)
def rounds_behind_the_batch(x, rotations):
    rotated = torch.einsum("...id,rdh->...rih", x, rotations)
    return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)


@lsh_buckets.misconception(
    hint="`x @ rotations` broadcasts: the last axis before the matrices, your batch or heads, is paired with the "
    "rounds. They are two axes.",
    symptom="Right for one sentence, an error for most batches, and one round for each sentence if there are as many.",
)
def rounds_paired_with_the_batch(x, rotations):
    rotated = x @ rotations
    return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)


@lsh_buckets.misconception(
    hint="You take one bit from each column, the side of a plane that x is on. That is another hash, with 2^half "
    "buckets; here the nearest end of an axis is asked for.",
    symptom="Far more buckets than two for each column, and numbers beyond the last one.",
    seen="https://outliip.org/2020/08/19/",
)
def signs_as_bits_of_a_number(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations)
    powers = 2 ** torch.arange(rotations.shape[-1], device=x.device)
    return ((rotated > 0) * powers.clamp(max=2**40)).sum(-1)


@lsh_buckets.misconception(
    hint="You add n_buckets for every round, so that no number comes twice. Here each round counts from 0; its "
    "axis says which round it is.",
    symptom="The first round is right, the numbers of the others lie too high.",
    seen=f"{LUCIDRAINS}/issues/91",
)
def numbers_that_go_on_from_round_to_round(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations)
    buckets = torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)
    offsets = 2 * rotations.shape[-1] * torch.arange(len(rotations), device=x.device)
    return buckets + offsets.view(-1, *[1] * (buckets.ndim - 1))


@lsh_buckets.misconception(
    hint="You return the largest number. Its place is the bucket.",
    symptom="Decimal numbers instead of bucket numbers.",
)
def largest_number_itself(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations)
    return torch.cat([rotated, -rotated], dim=-1).amax(dim=-1)


@lsh_buckets.misconception(
    hint="Your argmax runs along the tokens: which token is nearest to each end? Asked for is the nearest end for "
    "each token.",
    symptom="As many numbers as there are buckets, not as there are tokens.",
)
def nearest_token_for_each_end(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations)
    return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-2)


@lsh_buckets.misconception(
    hint="Your first bucket is 1. Places count from 0.",
    symptom="Every number is one too high.",
)
def buckets_counted_from_one(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, rotations)
    return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1) + 1


@lsh_buckets.misconception(
    hint="You subtract the mean of the tokens first. Then a vector's bucket depends on its neighbours, and cosines"
    " are no longer what decides.",
    symptom="The same vector gets other buckets in another sentence.",
)
def vectors_centred_before_hashing(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x - x.mean(-2, keepdim=True), rotations)
    return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)


@lsh_buckets.misconception(
    hint="You draw rotations of your own. Use those that are given: a layer needs the same in its backward pass.",
    symptom="Every call gives other buckets.",
    seen=LUCIDRAINS,
)
def rotations_drawn_inside(x, rotations):
    rotated = torch.einsum("...id,rdh->r...ih", x, torch.randn_like(rotations))
    return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)


@lsh_buckets.misconception(
    hint="The rotation is left out: you take the vector's own largest component. Without chance all rounds are "
    "alike, and any two vectors that one border parts are parted for ever.",
    symptom="An error where x has another width than R has columns; else all rounds agree.",
)
def components_sorted_not_hashed(x, rotations):
    buckets = torch.cat([x, -x], dim=-1).argmax(dim=-1)
    return buckets.expand(len(rotations), *buckets.shape)


# Those of the notebook.
ROTATIONS = torch.tensor(
    [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 3.0]]]
)


def _near_ones(x: Tensor) -> Tensor:
    if x.ndim != 2:
        raise ValueError("vectors have two axes: n, 3")
    directions = F.normalize(x, dim=-1)
    return (directions @ directions.mT > 0.999).sum(-1).to(x.dtype)


def _of_two_rounds(x: Tensor) -> Tensor:
    """Whether two vectors share a bucket in each round: (2, n, n)."""
    rotated = x @ ROTATIONS.to(x)
    buckets = torch.cat([rotated, -rotated], -1).argmax(-1)
    return buckets.unsqueeze(-1) == buckets.unsqueeze(-2)


def _near_ones_in_a_bucket(x: Tensor) -> Tensor:
    directions = F.normalize(x, dim=-1)
    near = directions @ directions.mT > 0.999
    return (near & _of_two_rounds(x).any(0)).sum(-1).to(x.dtype)


def _why_none_is_missed(x: Tensor) -> str:
    directions = F.normalize(x, dim=-1)
    near = (directions @ directions.mT > 0.999).triu(1)
    if not bool(near.any()):
        close = bool((directions @ directions.mT > 0.9).triu(1).any())
        return "Two come close, but not near enough." if close else "No two of the vectors come close."
    parts = [bool((near & ~together).any()) for together in _of_two_rounds(x)]
    if not any(parts):
        return "The near ones share a bucket in both rounds."
    if not all(parts):
        return "One round parts near ones, but the other brings them together."
    return "Each near pair shares a bucket in one of the rounds."


find_missed_neighbour = counterexample(
    TOPIC,
    "find_missed_neighbour",
    _near_ones,
    _near_ones_in_a_bucket,
    because=_why_none_is_missed,
    outputs=("x",),
    most=6,
)


@find_missed_neighbour.variant
def around_a_common_border():
    return torch.tensor([[3.01, 3.0, 1.99], [3.0, 3.01, 2.01]])


@find_missed_neighbour.variant
def border_found_as_a_cross_product():
    border = torch.linalg.cross(torch.tensor([1.0, -1.0, 0.0]), torch.tensor([1.0, 1.0, -3.0]))
    step = torch.tensor([0.01, -0.01, 0.01])
    step = step - torch.tensor([0.0, 0.0, 0.02])
    return torch.stack([border + step, border - step])


@find_missed_neighbour.variant
def searched_for_at_random():
    generator = torch.Generator().manual_seed(0)
    rotations = [torch.eye(3), torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 3.0]])]
    while True:
        x = torch.randn(3, generator=generator)
        pair = torch.stack([x, x + 0.02 * x.norm() * torch.randn(3, generator=generator)])
        near = torch.cosine_similarity(pair[0], pair[1], dim=0) > 0.9995
        parted = []
        for rotation in rotations:
            rotated = pair @ rotation
            buckets = torch.cat([rotated, -rotated], -1).argmax(-1)
            parted.append(bool(buckets[0] != buckets[1]))
        if near and all(parted):
            return pair


@find_missed_neighbour.variant
def at_a_negative_border():
    return -torch.tensor([[300.0, 301.0, 201.0], [301.0, 300.0, 199.0]], dtype=torch.float64)


@find_missed_neighbour.misconception(
    hint="Random vectors are seldom near one another, and near ones are seldom parted twice. Where do the borders "
    "of the two rounds meet?",
    symptom="The two functions agree, as on most inputs.",
)
def random_vectors_in_space():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@find_missed_neighbour.misconception(
    hint="The first round parts them, the second does not: that is what it is there for. Move them to a border of "
    "the second, without leaving the first one's.",
    symptom="The two agree: a neighbour missed once is found in the other round.",
)
def parted_by_one_round_only():
    return torch.tensor([[1.01, 1.0, 0.0], [1.0, 1.01, 0.0]])


@find_missed_neighbour.misconception(
    hint="They share no bucket, but their cosine is below 0.999: these are no neighbours. Move them towards one "
    "another, and both to the border.",
    symptom="Neither function counts the pair.",
)
def parted_but_not_near():
    return torch.tensor([[3.3, 3.0, 1.8], [3.0, 3.3, 2.2]])


@find_missed_neighbour.misconception(
    hint="Both point in the same direction. Length is no matter to a hash: they share all buckets.",
    symptom="The two agree, for any lengths.",
)
def one_direction_twice():
    return torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])


@find_missed_neighbour.misconception(
    hint="It shows a missed neighbour, among more vectors than it takes. How many does one pair need?",
    symptom="A counterexample that doesn't say which of its vectors matter.",
)
def more_neighbours_than_needed():
    return torch.tensor([[3.01, 3.0, 1.99], [3.0, 3.01, 2.01], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


@find_missed_neighbour.misconception(
    hint="These rounds rotate vectors of three components; x is (n, 3).",
    symptom="An error about shapes.",
)
def vectors_of_two_components():
    return torch.tensor([[1.01, 1.0], [1.0, 1.01]])


def _only_others(seen: Tensor) -> Tensor:
    """Nobody sees themselves, but who sees nobody else."""
    others = seen.clone()
    others.diagonal(dim1=-2, dim2=-1).fill_(False)
    alone = ~others.any(-1)
    others.diagonal(dim1=-2, dim2=-1).copy_(alone)
    return others


def _union(buckets: Tensor, causal: bool) -> Tensor:
    """Who sees whom in any round, read off round after round: (..., n, n)."""
    seen = torch.zeros(*buckets.shape[1:], buckets.shape[-1], dtype=torch.bool, device=buckets.device)
    for of_round in buckets:
        seen |= of_round.unsqueeze(-1) == of_round.unsqueeze(-2)
    return _only_others(seen.tril() if causal else seen)


def _shared(qk: Tensor, v: Tensor, seen: Tensor, nudge: Nudge) -> Tensor:
    """Softmax over those that are seen, of scores against keys of length one."""
    keys = nudge(qk / nudge(qk.square().sum(-1, keepdim=True)).sqrt())
    scores = nudge(qk @ keys.mT) / math.sqrt(qk.shape[-1])
    return nudge(torch.softmax(scores.masked_fill(~seen, -math.inf), dim=-1)) @ v


def _reformer_naive(qk: Tensor, v: Tensor, buckets: Tensor, causal: bool = False, nudge: Nudge = as_is) -> Tensor:
    return _shared(qk, v, _union(buckets, causal), nudge)


def _reformer_reference(qk: Tensor, v: Tensor, buckets: Tensor, causal: bool = False) -> Tensor:
    """PyTorch's attention under the mask of the union."""
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(qk, F.normalize(qk, dim=-1), v, attn_mask=_union(buckets, causal))


def _hashed(draw: Draw, *shape: int, kinds: int) -> Tensor:
    return torch.randint(kinds, shape, generator=draw.generator)


def _reformer_cases(draw: Draw) -> Iterator[Case]:
    def at(
        name: str, *lead: int, n: int, d_k: int, d_v: int, rounds: int, kinds: int, scale: float = 1.0, **more: Any
    ) -> Case:
        inputs = (scale * draw.normal(*lead, n, d_k), draw.normal(*lead, n, d_v))
        return Case(name, (*inputs, _hashed(draw, rounds, *lead, n, kinds=kinds)), **more)

    causal: dict[str, Any] = {"kwargs": {"causal": True}, "check": "causal"}
    edge: dict[str, Any] = {"check": "edge cases"}
    yield at("a sentence", n=5, d_k=3, d_v=2, rounds=2, kinds=3, gradients=True, tiny=True)
    yield at("one round", n=8, d_k=4, d_v=3, rounds=1, kinds=3, gradients=True)
    yield at("many rounds", n=9, d_k=4, d_v=5, rounds=4, kinds=6)
    yield at("a batch", 3, n=6, d_k=4, d_v=2, rounds=2, kinds=3, gradients=True)
    yield at("batch and heads", 2, 3, n=7, d_k=4, d_v=6, rounds=2, kinds=4, gradients=True)
    yield at("all axes alike", 4, 4, n=4, d_k=4, d_v=4, rounds=4, kinds=4, gradients=True)
    same = draw.normal(2, 6, 4)
    yield Case("qk and v the same tensor", (same, same, _hashed(draw, 2, 2, 6, kinds=3)), gradients=True)
    yield at("causal, a sentence", n=6, d_k=3, d_v=2, rounds=2, kinds=3, gradients=True, tiny=True, **causal)
    yield at("causal, batch and heads", 2, 3, n=7, d_k=4, d_v=3, rounds=2, kinds=3, gradients=True, **causal)
    yield at("causal, one bucket for all", n=5, d_k=4, d_v=4, rounds=1, kinds=1, **causal)
    yield at("causal, all axes alike", 4, 4, n=4, d_k=4, d_v=4, rounds=4, kinds=3, **causal)
    yield Case(
        "causal by position", (draw.normal(6, 4), draw.normal(6, 3), _hashed(draw, 2, 6, kinds=3), True), check="causal"
    )
    # Some sit with others in one round, alone in the next: the union has them together.
    alone = torch.tensor([[0, 1, 2, 3, 4, 4], [0, 1, 2, 3, 3, 5]])
    yield Case(
        "some alone in one round, some in all",
        (draw.normal(6, 3), draw.normal(6, 2), alone),
        check="alone",
        gradients=True,
    )
    yield Case(
        "everybody alone",
        (draw.normal(2, 4, 3), draw.normal(2, 4, 2), torch.arange(4).expand(3, 2, 4)),
        check="alone",
        gradients=True,
    )
    yield Case("one token", (draw.normal(1, 3), draw.normal(1, 2), torch.tensor([[5]])), check="alone")
    yield Case(
        "causal, everybody alone",
        (draw.normal(4, 3), draw.normal(4, 2), torch.arange(4).expand(2, 4)),
        {"causal": True},
        check="alone",
    )
    # Between the two halves of the tokens every score is zero, which hides nobody.
    halves = draw.normal(2, 6, 4) * (torch.arange(4) // 2 == (torch.arange(6) % 2)[:, None])
    yield Case(
        "one bucket for all, right angles",
        (halves, draw.normal(2, 6, 3), torch.zeros(2, 2, 6, dtype=torch.int64)),
        gradients=True,
        **edge,
    )
    names = _hashed(draw, 3, 7, kinds=3) * 1000 + torch.tensor([[-500], [0], [70]])
    yield Case("bucket numbers of any size", (draw.normal(7, 4), draw.normal(7, 3), names), **edge)
    twins = draw.normal(2, 3, 4)
    yield Case(
        "every vector twice",
        (torch.cat([twins, twins], -2), draw.normal(2, 6, 3), _hashed(draw, 2, 2, 6, kinds=2)),
        **edge,
    )
    yield at("long vectors, scores up to 10⁴", n=7, d_k=4, d_v=3, rounds=2, kinds=3, scale=1e4, coarse=False, **edge)
    yield at("short vectors", n=7, d_k=4, d_v=3, rounds=2, kinds=2, scale=1e-4, gradients=True, coarse=False, **edge)
    # Nobody else has a score above −10⁴, and yet all weight goes there.
    ahead = 1e4 * F.normalize(draw.normal(2, 4), dim=-1) * 2
    opposite = (torch.cat([ahead, -ahead]), draw.normal(4, 3), torch.tensor([[0, 1, 0, 1], [2, 3, 4, 5]]))
    yield Case("opposite vectors, scores of −10⁴", opposite, coarse=False, **edge)
    yield at("a batch of one", 1, n=6, d_k=3, d_v=4, rounds=2, kinds=3, **edge)
    yield at("vectors of width one", n=6, d_k=1, d_v=2, rounds=2, kinds=3, **edge)
    yield at("columns stored as rows", 2, 3, n=6, d_k=4, d_v=5, rounds=2, kinds=3, layout="transposed", **edge)
    yield at("every second number of a row", 2, n=6, d_k=4, d_v=5, rounds=2, kinds=3, layout="strided", **edge)


reformer_attention = Exam(
    TOPIC,
    "reformer_attention",
    _reformer_reference,
    _reformer_naive,
    _reformer_cases,
    (
        Values("values", 2),
        Values("causal", 1.5),
        Values("alone", 1),
        Values("edge cases", 0.75),
        Gradients(0.5),
        Habits(0.25),
    ),
)


@reformer_attention.variant
def ready_attention_under_the_union(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    return F.scaled_dot_product_attention(qk, F.normalize(qk, dim=-1), v, attn_mask=seen)


@reformer_attention.variant
def minus_infinity_where_no_bucket_is_shared(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.variant
def low_score_for_itself(qk, v, buckets, causal=False):
    n = qk.shape[-2]
    scores = torch.einsum("...id,...jd->...ij", qk, F.normalize(qk, dim=-1)) * qk.shape[-1] ** -0.5
    # Low enough to lose against anybody else, and finite, so that it wins against nobody.
    scores = scores.masked_fill(torch.eye(n, dtype=torch.bool, device=qk.device), -6e4)
    apart = (buckets[..., :, None] != buckets[..., None, :]).all(0)
    if causal:
        apart = apart | torch.ones(n, n, dtype=torch.bool, device=qk.device).triu(1)
    return torch.einsum("...ij,...je->...ie", scores.masked_fill(apart, -math.inf).softmax(-1), v)


@reformer_attention.variant
def round_after_round_joined(qk, v, buckets, causal=False):
    n = qk.shape[-2]
    allowed = torch.zeros(n, n, dtype=torch.bool, device=qk.device)
    for of_round in buckets:
        allowed = torch.logical_or(allowed, of_round[..., :, None] == of_round[..., None, :])
    place = torch.arange(n, device=qk.device)
    allowed = allowed & ((place[:, None] > place) if causal else (place[:, None] != place))
    alone = ~allowed.any(-1)
    allowed = allowed | torch.diag_embed(alone)
    keys = qk / qk.norm(dim=-1, keepdim=True)
    scores = (qk / qk.shape[-1] ** 0.5) @ keys.transpose(-2, -1)
    return torch.where(allowed, scores, float("-inf")).softmax(dim=-1) @ v


@reformer_attention.variant
def product_of_differences_is_zero(qk, v, buckets, causal=False):
    n = qk.shape[-2]
    different = (buckets.unsqueeze(-1) - buckets.unsqueeze(-2)).ne(0).to(qk.dtype).prod(0)
    weightless = different + torch.eye(n, dtype=qk.dtype, device=qk.device)
    if causal:
        weightless = weightless + torch.ones(n, n, dtype=qk.dtype, device=qk.device).triu(1)
    keys = F.normalize(qk, dim=-1)
    scores = (qk @ keys.mT / math.sqrt(qk.shape[-1])).masked_fill(weightless > 0, torch.finfo(qk.dtype).min)
    alone = (weightless > 0).all(-1, keepdim=True)
    return torch.where(alone, v, torch.softmax(scores, -1) @ v)


@reformer_attention.variant
def rounds_joined_by_their_sums(qk, v, buckets, causal=False):
    n = qk.shape[-2]
    same = buckets.unsqueeze(-1) == buckets.unsqueeze(-2)
    same = same & ~torch.eye(n, dtype=torch.bool, device=qk.device)
    if causal:
        same = same.tril()
    alone = ~same.any(0).any(-1, keepdim=True)
    counts = same.sum(0).clamp(min=1).to(qk.dtype)
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1]) - counts.log()
    scores = scores.masked_fill(~same, torch.finfo(qk.dtype).min)
    sums = torch.logsumexp(scores, -1, keepdim=True)
    outputs = torch.softmax(scores, -1) @ v
    return torch.where(alone, v, (torch.softmax(sums, 0) * outputs).sum(0))


@reformer_attention.variant
def sentence_after_sentence(qk, v, buckets, causal=False):
    if qk.ndim > 2:
        pairs = zip(qk, v, buckets.unbind(1), strict=True)
        return torch.stack([sentence_after_sentence(*pair, causal) for pair in pairs])
    rows = []
    for i in range(len(qk)):
        until = i if causal else len(qk)
        mates = [j for j in range(until) if j != i and bool((buckets[:, i] == buckets[:, j]).any())] or [i]
        keys = qk[mates] / torch.linalg.vector_norm(qk[mates], dim=-1, keepdim=True)
        rows.append(torch.softmax(keys @ qk[i] / math.sqrt(qk.shape[-1]), -1) @ v[mates])
    return torch.stack(rows)


@reformer_attention.variant
def zeros_and_minus_infinities_added(qk, v, buckets, causal=False):
    n = qk.shape[-2]
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).sum(0) > 0
    others = seen.tril(-1) if causal else seen.tril(-1) | seen.triu(1)
    lonely = others.sum(-1, keepdim=True) == 0
    seen = torch.where(lonely, torch.eye(n, dtype=torch.bool, device=qk.device), others)
    lengths = qk.square().sum(-1).sqrt().unsqueeze(-2)
    scores = qk @ qk.mT / (lengths * math.sqrt(qk.shape[-1]))
    return torch.softmax(scores + seen.to(qk.dtype).log(), dim=-1) @ v


@reformer_attention.misconception(
    hint="Only the first round of buckets is looked at. The others are there to find what it misses.",
    symptom="More rounds change nothing.",
)
def only_the_first_round_counts(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2))[0]
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="You ask for a common bucket in all rounds. Rounds are to find more neighbours: one common bucket is enough.",
    symptom="The more rounds, the fewer tokens are seen, until everybody is alone.",
)
def a_common_bucket_in_every_round(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).all(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="A pair that meets in three rounds counts three times. The union has it once: which of the rounds brought"
    " it does not matter.",
    symptom="Near tokens get several times their weight: the rounds change the softmax, not only what it sees.",
    seen=LUCIDRAINS,
)
def a_pair_counted_once_a_round(qk, v, buckets, causal=False):
    counts = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).sum(0)
    seen = counts > 0
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1]) + counts.clamp(min=1).to(qk.dtype).log()
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="You attend in each round for itself and average the outputs. A round in which a token sees one poor "
    "neighbour then counts as much as one in which it sees ten good ones.",
    symptom="A token that is alone in one round mixes its own value in.",
)
def outputs_of_the_rounds_averaged(qk, v, buckets, causal=False):
    seen = buckets.unsqueeze(-1) == buckets.unsqueeze(-2)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return (torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v).mean(0)


@reformer_attention.misconception(
    hint="Every token attends to itself. With one vector for query and key its own score is the largest of all, so"
    " it mostly copies its value.",
    symptom="Outputs close to the tokens' own values.",
    seen=f"{LUCIDRAINS}/issues/134",
)
def itself_always_seen(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="A token may not see itself even where it has nobody else. A softmax over nothing is NaN.",
    symptom="NaN for every token that sits alone, and for the first one if causal.",
)
def itself_never_seen(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="A token that sees nobody else gets zeros. It attends to itself then: its output is its own value.",
    symptom="Rows of zeros where a token sits alone.",
)
def nothing_for_the_lonely(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1).nan_to_num(0.0) @ v


@reformer_attention.misconception(
    hint="A token that is alone in one round sees itself, though another round gives it company. Ask of the union "
    "whether anybody else is there.",
    symptom="Tokens copy their own value the more, the more rounds there are.",
)
def itself_if_alone_in_any_round(qk, v, buckets, causal=False):
    same = buckets.unsqueeze(-1) == buckets.unsqueeze(-2)
    seen = same.any(0)
    if causal:
        seen, same = seen.tril(), same.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & (same.sum(-1, keepdim=True) == 1).any(0))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="You find out who is alone before the causal mask is applied. Behind it more tokens are: the first one "
    "always is.",
    symptom="NaN for the first token of each bucket.",
)
def alone_before_the_causal_mask(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    if causal:
        seen = seen.tril()
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="Your keys are as long as they come. Then long tokens get weight for their length, which the hash doesn't"
    " see.",
    symptom="Long tokens draw all weight in their bucket.",
)
def keys_of_any_length(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ qk.mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="You normalise the queries too. Only the keys have length one: a query's own length says how sharp its "
    "weights are.",
    symptom="Weights that are nearly even, for scores lie within ±1/√d_k.",
)
def queries_of_length_one_too(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = F.normalize(qk, dim=-1) @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="You normalise the queries, not the keys. It is the key's length that must not count.",
    symptom="Scores are transposed: long tokens draw all weight.",
)
def queries_of_length_one_instead(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = F.normalize(qk, dim=-1) @ qk.mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="You normalise each component over the tokens, not each token over its components.",
    symptom="A token's key depends on its neighbours.",
)
def normalised_along_the_tokens(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-2).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="`F.normalize` works along axis 1 unless told otherwise: right for one sentence, wrong with a batch.",
    symptom="Right without a batch; in a batch keys depend on their neighbours, or on the other heads.",
)
def normalised_along_axis_one(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="The scores are not divided by √d_k.",
    symptom="Weights that are too sharp.",
)
def reformer_without_scale(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="The argument `causal` changes nothing: tokens see what comes later.",
    symptom="Outputs depend on the future.",
)
def causal_argument_unused(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="You remove the later tokens' weights after the softmax. What is left no longer sums to one.",
    symptom="Early outputs are far too small.",
)
def causal_after_the_softmax(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    weights = torch.softmax(scores.masked_fill(~seen, -math.inf), -1)
    return (weights.tril() if causal else weights) @ v


@reformer_attention.misconception(
    hint="You remove the weights of other buckets after the softmax. What is left no longer sums to one.",
    symptom="Outputs shrink, the more buckets there are.",
)
def buckets_removed_after_the_softmax(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return (torch.softmax(scores, -1) * seen) @ v


@reformer_attention.misconception(
    hint="You multiply the scores by the mask. A score of zero is not a weight of zero: exp(0) is 1.",
    symptom="Tokens of other buckets get weight.",
)
def mask_multiplied_onto_the_scores(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores * seen, -1) @ v


@reformer_attention.misconception(
    hint="You hide every score that is zero. Two vectors at a right angle have that score too: ask the mask, not the "
    "scores.",
    symptom="Right on random numbers; tokens at a right angle never meet.",
)
def scores_of_zero_hidden(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1]) * seen
    return torch.softmax(scores.masked_fill(scores == 0, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="All sentences use the buckets of the first one. The axes behind the rounds are the batch and the heads.",
    symptom="Right for one sentence, random company in all others.",
)
def buckets_of_the_first_sentence(qk, v, buckets, causal=False):
    while buckets.ndim > 2:
        buckets = buckets[:, 0]
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="You compare a token's bucket in one round with another's in another round. Bucket 3 of the one has "
    "nothing to do with bucket 3 of the other.",
    symptom="Tokens meet that share no bucket.",
)
def rounds_compared_with_one_another(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(1).unsqueeze(-1) == buckets.unsqueeze(0).unsqueeze(-2)).flatten(0, 1).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="You leave out every token with the same vector. A word that stands in the text twice is two tokens: each"
    " may attend to the other.",
    symptom="Repeated words do not see one another.",
)
def equal_vectors_taken_for_itself(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = (qk.unsqueeze(-2) == qk.unsqueeze(-3)).all(-1)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="You hide others by a score of −100. Scores of real vectors may lie below that: then it is the hidden "
    "ones that win.",
    symptom="Right for short vectors; for long ones tokens of other buckets get all the weight.",
)
def hidden_at_minus_hundred(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -100.0), -1) @ v


@reformer_attention.misconception(
    hint="A token's own score is set to −100, so that it loses against all others. It does not if their scores are"
    " lower still.",
    symptom="Right for short vectors; long ones attend to themselves where the others point away.",
)
def itself_at_minus_hundred(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    scores = scores.masked_fill(itself, -100.0)
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="Your mask is the wrong way round: tokens see whom they share no bucket with.",
    symptom="The far tokens get all the weight.",
)
def other_buckets_only(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) != buckets.unsqueeze(-2)).all(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="Your softmax runs along the queries: the weights that a key gives away sum to one, not those that a "
    "query gets.",
    symptom="Rows that do not sum to one.",
)
def softmax_over_the_queries_of_a_key(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -2) @ v


@reformer_attention.misconception(
    hint="The keys are detached. Queries and keys are one tensor, and its gradient comes from both.",
    symptom="Values are right, the gradient of qk is half of it.",
)
def keys_cut_from_the_graph(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk.detach(), dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="The length that you divide by is detached. It depends on the vector, and is part of its gradient.",
    symptom="Values are right; the gradient of qk has a part along qk that it must not have.",
)
def lengths_cut_from_the_graph(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ (qk / qk.detach().norm(dim=-1, keepdim=True)).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@reformer_attention.misconception(
    hint="You add a small number before the root of the mean square. No vector is zero, and short ones get keys "
    "that are shorter than one.",
    symptom="Right but for short vectors.",
    seen=HUGGING_FACE,
)
def eps_in_the_length(qk, v, buckets, causal=False):
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)).any(0)
    if causal:
        seen = seen.tril()
    itself = torch.eye(qk.shape[-2], dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = (
        qk
        @ (qk * torch.rsqrt(qk.square().mean(-1, keepdim=True) + 1e-6) / math.sqrt(qk.shape[-1])).mT
        / math.sqrt(qk.shape[-1])
    )
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


def _of_chunks(buckets: Tensor, chunk_size: int, causal: bool) -> Tensor:
    """Who sees whom where the sorted row is cut into chunks, by each token's place in that row: (..., n, n)."""
    place = torch.arange(buckets.shape[-1], device=buckets.device)
    one, other = buckets.unsqueeze(-1), buckets.unsqueeze(-2)
    stands_before = (other < one) | ((other == one) & (place < place.unsqueeze(-1)))
    chunk = stands_before.sum(-1) // chunk_size  # (..., n)
    back = chunk.unsqueeze(-1) - chunk.unsqueeze(-2)
    seen = (one == other) & ((back == 0) | (back == 1))
    return _only_others(seen.tril() if causal else seen)


def _chunked_naive(
    qk: Tensor, v: Tensor, buckets: Tensor, chunk_size: int, causal: bool = False, nudge: Nudge = as_is
) -> Tensor:
    return _shared(qk, v, _of_chunks(buckets, chunk_size, causal), nudge)


def _chunked_reference(qk: Tensor, v: Tensor, buckets: Tensor, chunk_size: int, causal: bool = False) -> Tensor:
    """PyTorch's attention under the mask of the chunks."""
    with sdpa_kernel(SDPBackend.MATH):
        seen = _of_chunks(buckets, chunk_size, causal)
        return F.scaled_dot_product_attention(qk, F.normalize(qk, dim=-1), v, attn_mask=seen)


def _chunked_cases(draw: Draw) -> Iterator[Case]:
    def at(
        name: str, *lead: int, n: int, d_k: int, d_v: int, kinds: int, size: int, scale: float = 1.0, **more: Any
    ) -> Case:
        inputs = (scale * draw.normal(*lead, n, d_k), draw.normal(*lead, n, d_v))
        return Case(name, (*inputs, _hashed(draw, *lead, n, kinds=kinds), size), **more)

    causal: dict[str, Any] = {"kwargs": {"causal": True}, "check": "causal"}
    edge: dict[str, Any] = {"check": "edge cases"}
    yield at("a sentence", n=6, d_k=3, d_v=2, kinds=3, size=2, gradients=True, tiny=True)
    yield at("a last chunk that is shorter", n=11, d_k=4, d_v=3, kinds=3, size=3, gradients=True)
    yield at("a batch", 3, n=9, d_k=4, d_v=2, kinds=3, size=2, gradients=True)
    yield at("batch and heads", 2, 3, n=10, d_k=4, d_v=6, kinds=4, size=4, gradients=True)
    yield at("all axes alike", 4, 4, n=4, d_k=4, d_v=4, kinds=2, size=4)
    yield at("large buckets, small chunks", 2, n=14, d_k=4, d_v=3, kinds=2, size=2)
    same = draw.normal(2, 8, 4)
    yield Case("qk and v the same tensor", (same, same, _hashed(draw, 2, 8, kinds=3), 3), gradients=True)
    yield at("causal, a sentence", n=7, d_k=3, d_v=2, kinds=2, size=2, gradients=True, tiny=True, **causal)
    yield at("causal, batch and heads", 2, 3, n=9, d_k=4, d_v=3, kinds=3, size=3, gradients=True, **causal)
    yield at("causal, a long text", 2, n=70, d_k=4, d_v=3, kinds=9, size=8, **causal)
    yield at("causal, one bucket for all", n=9, d_k=4, d_v=4, kinds=1, size=2, **causal)
    yield Case(
        "causal by position", (draw.normal(6, 4), draw.normal(6, 3), _hashed(draw, 6, kinds=2), 2, True), check="causal"
    )
    halves = draw.normal(2, 8, 4) * (torch.arange(4) // 2 == (torch.arange(8) % 2)[:, None])
    yield Case(
        "one bucket for all, right angles",
        (halves, draw.normal(2, 8, 3), torch.zeros(2, 8, dtype=torch.int64), 2),
        gradients=True,
        **edge,
    )
    yield at("one bucket for all, a shorter last chunk", n=11, d_k=4, d_v=3, kinds=1, size=4, **edge)
    alone = torch.randperm(7, generator=draw.generator)
    yield Case(
        "everybody alone", (draw.normal(2, 7, 3), draw.normal(2, 7, 2), alone.expand(2, 7), 3), gradients=True, **edge
    )
    pairs = torch.tensor([7, 0, 7, 0, 3, 3, 9])
    yield Case("cut between two of a bucket", (draw.normal(7, 3), draw.normal(7, 2), pairs, 3), **edge)
    yield Case(
        "bucket numbers of any size",
        (draw.normal(9, 3), draw.normal(9, 2), _hashed(draw, 9, kinds=3) * 1000, 2),
        **edge,
    )
    yield at("a chunk longer than the text", 2, n=5, d_k=3, d_v=2, kinds=2, size=8, **edge)
    yield at("a chunk as long as the text", n=6, d_k=3, d_v=2, kinds=2, size=6, **edge)
    yield at("chunks of one token", n=7, d_k=3, d_v=2, kinds=2, size=1, **edge)
    yield at("one token", n=1, d_k=3, d_v=2, kinds=5, size=2, **edge)
    twins = draw.normal(4, 4)
    yield Case(
        "every vector twice", (torch.cat([twins, twins]), draw.normal(8, 3), _hashed(draw, 8, kinds=2), 3), **edge
    )
    yield at("long vectors, scores up to 10⁴", n=9, d_k=4, d_v=3, kinds=2, size=3, scale=1e4, coarse=False, **edge)
    yield at("short vectors", n=9, d_k=4, d_v=3, kinds=2, size=3, scale=1e-4, gradients=True, coarse=False, **edge)
    ahead = 1e4 * F.normalize(draw.normal(2, 4), dim=-1) * 2
    opposite = (torch.cat([ahead, -ahead]), draw.normal(4, 3), torch.tensor([0, 1, 0, 1]), 3)
    yield Case("opposite vectors, scores of −10⁴", opposite, coarse=False, **edge)
    yield at("a batch of one", 1, n=8, d_k=3, d_v=4, kinds=3, size=3, **edge)
    yield at("columns stored as rows", 2, 3, n=9, d_k=4, d_v=5, kinds=3, size=3, layout="transposed", **edge)
    yield at("every second number of a row", 2, n=9, d_k=4, d_v=5, kinds=3, size=3, layout="strided", **edge)


def _chunked_of_length(causal: bool, draw: Draw, n: int) -> Case:
    inputs = draw.normal(n, 4), draw.normal(n, 4), _hashed(draw, n, kinds=n // 16), 16
    return Case(f"{n} tokens", inputs, {"causal": causal})


# From one length to the other what is linear becomes 4-fold, a square 16-fold. At 1,024 tokens one byte for each pair
# outweighs all that is linear: with it the power is 1.2 to 1.4, without it at most 0.95. A length is counted once for
# operations and memory.
in_chunks = partial(Growth, power=1, slack=0.1, lengths=(256, 1024))
_both_ways, _past_only = (partial(_chunked_of_length, causal) for causal in (False, True))
in_memory = partial(
    in_chunks,
    measure="peak",
    claim="Scores and masks of (chunks, chunk_size, 2 · chunk_size) are enough: no (n, n) matrix is needed.",
)

chunked_reformer_attention = Exam(
    TOPIC,
    "chunked_reformer_attention",
    _chunked_reference,
    _chunked_naive,
    _chunked_cases,
    (
        Values("values", 1),
        Values("causal", 1),
        Values("edge cases", 1),
        Habits(0.25),
        Gradients(0.5),
        in_chunks(
            0.5,
            "flops",
            at=_both_ways,
            claim="A token is compared with two chunks at most: the work grows with the length, not with its square.",
            name="operations",
        ),
        in_memory(0.25, at=_both_ways, name="memory"),
        in_memory(0.5, at=_past_only, name="memory, causal"),
    ),
)


@chunked_reformer_attention.variant
def sorted_cut_and_looked_back(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.variant
def ready_attention_in_chunks(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    output = F.scaled_dot_product_attention(cut(qk), keys, look_back(cut(v)), attn_mask=seen)
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.variant
def chunk_after_chunk(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    buckets, order = torch.sort(buckets, dim=-1, stable=True)
    index = order.unsqueeze(-1)
    q, k, v = (x.gather(-2, index.expand(x.shape)) for x in (qk, qk / qk.norm(dim=-1, keepdim=True), v))
    outputs = []
    for start in range(0, n, chunk_size):
        here, there = slice(start, start + chunk_size), slice(max(start - chunk_size, 0), start + chunk_size)
        seen = buckets[..., here, None] == buckets[..., None, there]
        if causal:
            seen = seen & (order[..., here, None] >= order[..., None, there])
        itself = order[..., here, None] == order[..., None, there]
        others = seen & ~itself
        seen = others | (itself & ~others.any(-1, keepdim=True))
        scores = q[..., here, :] @ k[..., there, :].mT / qk.shape[-1] ** 0.5
        outputs.append(torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v[..., there, :])
    result = torch.cat(outputs, -2)
    return torch.zeros_like(result).scatter(-2, index.expand(result.shape), result)


@chunked_reformer_attention.variant
def one_number_for_bucket_and_place(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    short = -n % chunk_size
    number = buckets * n + torch.arange(n, device=qk.device)
    number, order = number.sort(-1)
    number = F.pad(number, (0, short), value=-n).unflatten(-1, (-1, chunk_size))

    def chunks(x):
        x = x.gather(-2, order.unsqueeze(-1).expand(*order.shape, x.shape[-1]))
        return F.pad(x, (0, 0, 0, short)).unflatten(-2, (-1, chunk_size))

    def two(x, axis):
        nothing = x.narrow(axis - 1, 0, 1) * 0 - (2 * n if axis == -1 else 0)
        return torch.cat([torch.cat([nothing, x.narrow(axis - 1, 0, x.shape[axis - 1] - 1)], axis - 1), x], axis)

    mine, theirs = number.unsqueeze(-1), two(number, -1).unsqueeze(-2)
    seen = torch.div(mine, n, rounding_mode="floor") == torch.div(theirs, n, rounding_mode="floor")
    if causal:
        seen = seen & (mine >= theirs)
    others = seen & (mine != theirs)
    seen = torch.where(others.any(-1, keepdim=True), others, mine == theirs)
    scores = torch.einsum("...qd,...kd->...qk", chunks(qk), two(F.normalize(chunks(qk), dim=-1), -2))
    weights = torch.where(seen, scores / math.sqrt(qk.shape[-1]), -math.inf).softmax(-1)
    output = (weights @ two(chunks(v), -2)).flatten(-3, -2)[..., :n, :]
    return output.gather(-2, order.argsort(-1).unsqueeze(-1).expand(output.shape))


@chunked_reformer_attention.variant
def windows_unfolded(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    short = -n % chunk_size
    order = torch.argsort(buckets, dim=-1, stable=True)
    place = F.pad(order, (chunk_size, short), value=-1)
    bucket = F.pad(buckets.gather(-1, order), (chunk_size, short), value=-1)
    sort = order.unsqueeze(-1)
    q, k, v = (F.pad(x.take_along_dim(sort, -2), (0, 0, chunk_size, short)) for x in (qk, F.normalize(qk, dim=-1), v))
    keys, values = (x.unfold(-2, 2 * chunk_size, chunk_size) for x in (k, v))
    q = q[..., chunk_size:, :].unflatten(-2, (-1, chunk_size))

    def pairs(x):
        mine = x[..., chunk_size:].unflatten(-1, (-1, chunk_size)).unsqueeze(-1)
        return mine, x.unfold(-1, 2 * chunk_size, chunk_size).unsqueeze(-2)

    (mine, theirs), (at, other) = pairs(bucket), pairs(place)
    others = (mine == theirs) & ((other < at) if causal else (other != at))
    seen = others | ((other == at) & ~others.any(-1, keepdim=True))
    weights = torch.softmax((q @ keys / qk.shape[-1] ** 0.5).masked_fill(~seen, -math.inf), -1)
    output = (weights @ values.mT).flatten(-3, -2)[..., :n, :]
    return output.take_along_dim(torch.argsort(sort, -2), -2)


@chunked_reformer_attention.variant
def two_products_beside_one_another(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = torch.argsort(buckets, dim=-1, stable=True)

    def cut(x):
        x = x.take_along_dim(order.unsqueeze(-1), -2)
        return F.pad(x, (0, 0, 0, -n % chunk_size)).unflatten(-2, (-1, chunk_size))

    def before(x):
        return x.roll(1, dims=-3)

    place = F.pad(order, (0, -n % chunk_size), value=-1).unflatten(-1, (-1, chunk_size)).unsqueeze(-1)
    bucket = F.pad(buckets.gather(-1, order), (0, -n % chunk_size), value=-1).unflatten(-1, (-1, chunk_size))
    bucket = bucket.unsqueeze(-1)
    first = (torch.arange(place.shape[-3], device=qk.device) == 0).view(-1, 1, 1)
    here, there = bucket == bucket.mT, (bucket == before(bucket).mT) & ~first
    if causal:
        here, there = here & (place.mT <= place), there & (before(place).mT <= place)
    itself = place == place.mT
    here = here & ~itself
    lonely = ~(here.any(-1, keepdim=True) | there.any(-1, keepdim=True))
    here = here | (itself & lonely)
    q, k, v = cut(qk) / math.sqrt(qk.shape[-1]), cut(F.normalize(qk, dim=-1)), cut(v)
    scores = torch.cat(
        [(q @ k.mT).masked_fill(~here, -math.inf), (q @ before(k).mT).masked_fill(~there, -math.inf)], -1
    )
    own, past = scores.softmax(-1).split(chunk_size, -1)
    output = (own @ v + past @ before(v)).flatten(-3, -2)[..., :n, :]
    return torch.empty_like(output).scatter(-2, order.unsqueeze(-1).expand(output.shape), output)


@chunked_reformer_attention.variant
def low_score_for_itself_in_chunks(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    scores = scores.masked_fill(itself, -6e4)
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="The outputs stand in the order of the buckets. Who asked is a token of the text: put them back.",
    symptom="Right rows in the wrong places.",
)
def not_put_back_into_the_text(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :]


@chunked_reformer_attention.misconception(
    hint="You undo the sorting by applying it once more. The way back is the inverse of a permutation, which is "
    "another one.",
    symptom="Right rows in the wrong places, unless the permutation happens to be its own inverse.",
)
def put_back_with_the_same_order(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(order, -2)


@chunked_reformer_attention.misconception(
    hint="A token sees all of its two chunks, tokens of other buckets too. A chunk is only a place to look in: "
    "compare the buckets there.",
    symptom="Tokens attend to whoever stands beside them in the sorted row.",
    seen=f"{LUCIDRAINS}/issues/101",
)
def all_of_the_chunk_seen(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = (bucket >= 0) == (look_back(bucket, -1).mT >= 0)
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="A token sees its own chunk only. Borders of chunks cut through buckets: the chunk before is looked at too.",
    symptom="Neighbours are lost wherever a bucket goes over a border.",
)
def own_chunk_only(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return x

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="You look into the chunk that comes after, not into the one before.",
    symptom="Other neighbours than asked for; with `causal` hardly any.",
)
def chunk_after_instead_of_before(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 0, 1), value=fill)[..., 1:, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="You look into the chunk after, too. Asked for is what the Reformer does: its own chunk and the one before.",
    symptom="More is seen than asked for, at half as much cost again.",
)
def chunks_on_both_sides(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        x = F.pad(x, (0, 0, 0, 0, 1, 1), value=fill)
        return torch.cat([x[..., :-2, :, :], x[..., 1:-1, :, :], x[..., 2:, :, :]], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="You roll the chunks, so the first one has the last one before it. It has none: there the row begins.",
    symptom="Right as long as the first and the last chunk hold different buckets.",
    seen="https://github.com/Rick-McCoy/Reformer-pytorch/issues/3",
)
def first_chunk_sees_the_last(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([x.roll(1, -3), x], -2) if x.shape[-3] > 1 else x

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="You cut the text as it stands. Tokens of one bucket then sit in different chunks and never meet.",
    symptom="A sliding window with some of its tokens missing.",
)
def text_cut_without_sorting(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = torch.arange(n, device=qk.device).expand(buckets.shape).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="Queries and keys are sorted, the values are not. A weight then falls on another token's value.",
    symptom="Plausible outputs that belong to nobody.",
)
def values_left_unsorted(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(
        F.pad(v, (0, 0, 0, -n % chunk_size)).unflatten(-2, (-1, chunk_size))
    )
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="All sentences are sorted in the order of the first one. Each has its own buckets, and so its own order.",
    symptom="Right for one sentence.",
)
def everything_sorted_as_the_first_sentence(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = (
        buckets.flatten(0, -2)[0].argsort(dim=-1, stable=True).expand(buckets.shape).unsqueeze(-1)
        if buckets.ndim > 1
        else buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    )
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="Tokens of one bucket stand in another order than in the text. Where a bucket is cut, others than asked "
    "for see one another: is your sort stable?",
    symptom="Right while buckets are smaller than chunks; beyond, the past is cut off instead of the distant past.",
)
def sorted_backwards_within_a_bucket(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = (n - 1 - buckets.flip(-1).argsort(dim=-1, stable=True)).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="You make n // chunk_size chunks, and what is left over gets zeros. The last chunk may be shorter.",
    symptom="Right where n is a multiple; else the tokens of the last buckets get nothing.",
)
def tail_left_out_of_the_chunks(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = x.take_along_dim(order, -2)[..., : n - n % chunk_size, :]
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    output = F.pad(output.flatten(-3, -2), (0, 0, 0, n % chunk_size))
    return output.take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="What fills up the last chunk has the bucket of the last token: it is seen like one, and its zeros are "
    "mixed in.",
    symptom="Right where n is a multiple of the chunk; else the tokens of the last bucket get outputs that are too "
    "small.",
)
def filling_seen_as_tokens(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    bucket = torch.where(place < 0, buckets.amax(-1).view(*buckets.shape[:-1], 1, 1, 1), bucket)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="The argument `causal` changes nothing: tokens see what comes later in the text.",
    symptom="Outputs depend on the future.",
)
def causal_forgotten_in_chunks(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="Your causal mask is a triangle over the columns of each chunk, as if the row began there. The chunk "
    "before lies in the past as a whole: compare the places in the text.",
    symptom="Tokens lose most of the chunk before.",
)
def causal_by_place_in_the_chunk(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen.tril()
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="You find out who is alone before the causal mask is applied. Behind it more tokens are: the first of "
    "every bucket is.",
    symptom="NaN for the first token of each bucket.",
)
def alone_before_causal_in_chunks(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="Every token attends to itself. It does so only if it sees nobody else.",
    symptom="Outputs close to the tokens' own values.",
)
def itself_always_seen_in_chunks(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    seen = seen | itself
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="A token may not see itself even where it has nobody else. A softmax over nothing is NaN.",
    symptom="NaN for every token that sits alone.",
)
def itself_never_seen_in_chunks(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="Your keys are as long as they come. They have length one.",
    symptom="Long tokens draw all weight in their bucket.",
)
def keys_of_any_length_in_chunks(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(qk))
    scores = cut(qk) @ keys.mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="The scores are not divided by √d_k.",
    symptom="Weights that are too sharp.",
)
def chunked_without_scale(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    order = buckets.argsort(dim=-1, stable=True).unsqueeze(-1)
    back = order.argsort(-2)

    def cut(x, fill=0):
        x = F.pad(x.take_along_dim(order, -2), (0, 0, 0, -n % chunk_size), value=fill)
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x, fill=0):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[..., :-1, :, :], x], -2)

    place = cut(torch.arange(n, device=qk.device).unsqueeze(-1).expand(order.shape), -1)
    bucket = cut(buckets.unsqueeze(-1), -1)
    seen = bucket == look_back(bucket, -1).mT
    if causal:
        seen = seen & (look_back(place, -1).mT <= place)
    itself = place == look_back(place, -1).mT
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    keys = look_back(cut(F.normalize(qk, dim=-1)))
    scores = cut(qk) @ keys.mT
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(back, -2)


@chunked_reformer_attention.misconception(
    hint="The numbers are right, but you build an (n, n) matrix: all that the sorting was to save.",
    symptom="Right, and as slow and as large as full attention.",
)
def whole_square_for_the_chunks(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    rank = buckets.argsort(dim=-1, stable=True).argsort(-1)
    chunk = rank // chunk_size
    back = chunk.unsqueeze(-1) - chunk.unsqueeze(-2)
    seen = (buckets.unsqueeze(-1) == buckets.unsqueeze(-2)) & (back >= 0) & (back <= 1)
    if causal:
        seen = seen.tril()
    itself = torch.eye(n, dtype=torch.bool, device=qk.device)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))
    scores = qk @ F.normalize(qk, dim=-1).mT / math.sqrt(qk.shape[-1])
    return torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v


@chunked_reformer_attention.misconception(
    hint="The scores are in chunks, but the mask is cut out of an (n, n) matrix of booleans. A byte for each pair "
    "still grows as n²: compare buckets and places within the chunks.",
    symptom="Right; memory grows as n², four times more slowly than the scores would.",
)
def square_of_booleans(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    short = -n % chunk_size
    order = buckets.argsort(dim=-1, stable=True)
    seen = buckets.unsqueeze(-1) == buckets.unsqueeze(-2)
    if causal:
        seen = seen.tril()
    seen = seen.take_along_dim(order.unsqueeze(-1), -2).take_along_dim(order.unsqueeze(-2), -1)
    rows = F.pad(seen, (chunk_size, short, 0, short)).unflatten(-2, (-1, chunk_size))
    starts = range(0, n + short, chunk_size)
    seen = torch.stack([rows[..., i, :, at : at + 2 * chunk_size] for i, at in enumerate(starts)], -3)
    itself = torch.eye(chunk_size, dtype=torch.bool, device=qk.device)
    itself = torch.cat([torch.zeros_like(itself), itself], -1)
    others = seen & ~itself
    seen = others | (itself & ~others.any(-1, keepdim=True))

    def cut(x):
        x = F.pad(x.take_along_dim(order.unsqueeze(-1), -2), (0, 0, 0, short))
        return x.unflatten(-2, (-1, chunk_size))

    def look_back(x):
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0))[..., :-1, :, :], x], -2)

    scores = cut(qk) @ look_back(cut(F.normalize(qk, dim=-1))).mT / math.sqrt(qk.shape[-1])
    output = torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ look_back(cut(v))
    return output.flatten(-3, -2)[..., :n, :].take_along_dim(order.argsort(-1).unsqueeze(-1), -2)


@chunked_reformer_attention.misconception(
    hint="Each chunk is compared with all tokens, and most of the scores are masked. Two chunks of keys are "
    "enough; so the work still grows as n².",
    symptom="Right and small in memory, but no faster than full attention.",
)
def every_chunk_against_the_whole_text(qk, v, buckets, chunk_size, causal=False):
    n = qk.shape[-2]
    buckets, order = torch.sort(buckets, dim=-1, stable=True)
    index = order.unsqueeze(-1)
    q, k, v = (x.take_along_dim(index, -2) for x in (qk, F.normalize(qk, dim=-1), v))
    chunk = torch.arange(n, device=qk.device) // chunk_size
    outputs = []
    for start in range(0, n, chunk_size):
        here = slice(start, start + chunk_size)
        back = chunk[here, None] - chunk
        seen = (buckets[..., here, None] == buckets[..., None, :]) & (back >= 0) & (back <= 1)
        if causal:
            seen = seen & (order[..., here, None] >= order[..., None, :])
        itself = order[..., here, None] == order[..., None, :]
        others = seen & ~itself
        seen = others | (itself & ~others.any(-1, keepdim=True))
        scores = q[..., here, :] @ k.mT / math.sqrt(qk.shape[-1])
        outputs.append(torch.softmax(scores.masked_fill(~seen, -math.inf), -1) @ v)
    return torch.cat(outputs, -2).take_along_dim(index.argsort(-2), -2)
