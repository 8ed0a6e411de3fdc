# %% [markdown]
# # Exercises: generation
#
# From logits to text: two filters that cut off the unlikely tokens, a pair of logits that shows why it matters when the
# temperature comes, a penalty for repetition, and the loop that writes. The lesson *Generation* has the formulas.
#
# **May use:** all of PyTorch (`torch.topk`, `torch.sort`, `torch.softmax`, `torch.multinomial`, …), and your own
# answers from the cells above.
#
# Logits are `(..., vocab)`: whatever stands in front, a batch, a length or nothing, must not matter. Results have the
# input's dtype and device, and inputs are never changed.
#
# Each answer has a cell of quick checks below it: they tell you when you are close. The marks come from the autograder.
# In a clone of the course, after `make course`: `.venv/bin/autograder check chapters/exercises/generation.ipynb`.

# %%
from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

# %% [markdown]
# ## `top_k_filter`
#
# Keep the `k` largest logits of each row as they are. All others become −inf, so that softmax gives them exactly 0.
# If there are no more than `k`, all stay.
#
# *Ties.* Where several logits share the k-th place, you may keep k of them or all that tie. Both are in use, and the
# exam has no ties.


# %% exercise="top_k_filter"
def top_k_filter(logits: Float[Tensor, "... vocab"], k: int) -> Float[Tensor, "... vocab"]:
    """The k largest logits of each row; −inf for the others (Fan et al. 2018, 5).

    Args:
        logits: one number a token.
        k: how many tokens stay.

    Returns:
        The filtered logits, in their old places.

    Raises:
        ValueError: ``k`` is less than 1; the message names it.
    """
    ### BEGIN SOLUTION
    if k < 1:
        raise ValueError(f"k = {k}: at least one token must stay")
    largest = logits.topk(min(k, logits.shape[-1]), dim=-1).values  # (..., k), in descending order
    return logits.masked_fill(logits < largest[..., -1:], -math.inf)  # (..., vocab)
    ### END SOLUTION


# %% visible="top_k_filter"
_logits = torch.tensor([[1.0, 4.0, 2.0, 3.0], [0.5, -1.0, -2.0, 0.0]])
_kept = torch.tensor([[-math.inf, 4.0, -math.inf, 3.0], [0.5, -math.inf, -math.inf, 0.0]])
assert torch.equal(top_k_filter(_logits, 2), _kept)
assert torch.equal(top_k_filter(_logits[0], 9), _logits[0])

# %% exam="top_k_filter" points=3

# %% [markdown]
# ## `top_p_filter`
#
# Keep the *nucleus*: the fewest tokens, the most likely first, whose probabilities together reach `p`. The token that
# crosses `p` belongs to it, so one token always stays. All others become −inf. With p = 1 every token stays.
#
# *Ties.* The exam has neither equal logits at the border nor a sum that is exactly `p`.


# %% exercise="top_p_filter"
def top_p_filter(logits: Float[Tensor, "... vocab"], p: float) -> Float[Tensor, "... vocab"]:
    """The nucleus of each row; −inf for the other tokens (Holtzman et al. 2020, eq. 2).

    Args:
        logits: one number a token.
        p: the probability that the tokens that stay must reach together, in (0, 1].

    Returns:
        The filtered logits, in their old places.

    Raises:
        ValueError: ``p`` is not in (0, 1]; the message names it.
    """
    ### BEGIN SOLUTION
    if not 0 < p <= 1:
        raise ValueError(f"p = {p} is no probability to be reached: it must lie in (0, 1]")
    ordered, places = logits.sort(dim=-1, descending=True)  # (..., vocab) each
    probabilities = torch.softmax(ordered, dim=-1)  # (..., vocab)
    # What the more likely tokens have together: 0 for the first, still less than p for the one that crosses it.
    before = probabilities.cumsum(dim=-1) - probabilities  # (..., vocab)
    nucleus = ordered.masked_fill(before >= p, -math.inf)  # (..., vocab)
    return torch.empty_like(logits).scatter(-1, places, nucleus)  # (..., vocab): each back in its place
    ### END SOLUTION


# %% visible="top_p_filter"
_logits = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3]))
assert top_p_filter(_logits, 0.65).isfinite().tolist() == [False, True, False, True]
assert top_p_filter(_logits, 0.75).isfinite().tolist() == [False, True, True, True]
assert top_p_filter(_logits, 1e-6).isfinite().tolist() == [False, True, False, False]
assert torch.equal(top_p_filter(_logits, 1.0), _logits)
_rows = top_p_filter(torch.stack([_logits, _logits.flip(0)]), 0.65)  # each row by its own order
assert _rows.isfinite().tolist() == [[False, True, False, True], [True, False, True, False]]

# %% exam="top_p_filter" points=4

# %% [markdown]
# ## Find the counterexample: `find_order_that_matters`
#
# Divide by the temperature, then take the nucleus; or take the nucleus, then divide. Both are in use. Which tokens are
# the k largest does not depend on it, which ones reach p does. Give logits for which the two orders lead to different
# probabilities, with as few numbers as there can be. (The two functions use your `top_p_filter`.)


# %%
def temperature_first(logits: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
    """Probabilities at temperature ½, of the nucleus for p = 0.8 that the divided logits have."""
    return torch.softmax(top_p_filter(logits / 0.5, 0.8), dim=-1)


def temperature_last(logits: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
    """Probabilities at temperature ½, of the nucleus for p = 0.8 that the logits had before."""
    return torch.softmax(top_p_filter(logits, 0.8) / 0.5, dim=-1)


# %% exercise="find_order_that_matters"
def find_order_that_matters() -> Float[Tensor, " vocab"]:
    """As few logits as possible for which ``temperature_first`` and ``temperature_last`` differ."""
    ### BEGIN SOLUTION
    # The larger of two gets e / (e + 1) = 0.73 before and e² / (e² + 1) = 0.88 after: it reaches 0.8 only then.
    return torch.tensor([1.0, 0.0])
    ### END SOLUTION


# %% visible="find_order_that_matters"
_found = find_order_that_matters()
assert not torch.allclose(temperature_first(_found), temperature_last(_found)), "on these logits the two agree"

# %% exam="find_order_that_matters" points=2

# %% [markdown]
# ## `repetition_penalty`
#
# Make the tokens that have been used less likely: divide their logits by `penalty` if they are positive, multiply them
# if they are negative. Each token once, however often it was used; each row by its own text.


# %% exercise="repetition_penalty"
def repetition_penalty(
    logits: Float[Tensor, "... vocab"], tokens: Int[Tensor, "... n"], penalty: float
) -> Float[Tensor, "... vocab"]:
    """Lower logits for the tokens used so far (Keskar et al. 2019, 4.1, mended for negative logits).

    Args:
        logits: one number a token.
        tokens: the text so far, of the same leading axes; n may be 0.
        penalty: 1 changes nothing, more makes repetition less likely.

    Returns:
        The logits, those of the tokens that occur in ``tokens`` changed.

    Raises:
        ValueError: ``penalty`` is not positive; the message names it.
    """
    ### BEGIN SOLUTION
    if penalty <= 0:
        raise ValueError(f"penalty = {penalty} must be positive")
    used = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, tokens, True)  # (..., vocab)
    # Dividing a negative number would bring it nearer to zero: a reward.
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)  # (..., vocab)
    return torch.where(used, lowered, logits)
    ### END SOLUTION


# %% visible="repetition_penalty"
_logits, _text = torch.tensor([[2.0, -1.0, 4.0], [2.0, -1.0, 4.0]]), torch.tensor([[1, 1, 0], [2, 2, 2]])
assert torch.equal(repetition_penalty(_logits, _text, 2.0), torch.tensor([[1.0, -2.0, 4.0], [2.0, -1.0, 2.0]]))
assert torch.equal(repetition_penalty(_logits, _text[:, :0], 2.0), _logits)

# %% exam="repetition_penalty" points=3

# %% [markdown]
# ## `generate`
#
# The loop: show the model *all* tokens so far, take the logits at the last place, choose a token, append it. Divide by
# the temperature first, then filter by `top_k`, then by `top_p`, then draw. Temperature 0 means greedy: the most likely
# token, no drawing.
#
# `model` is anything that takes tokens `(batch, n)` and gives logits `(batch, n, vocab)`. Its weights and its mode
# (`train` or `eval`) stay as they are: they are the caller's affair. All random numbers come from `generator`; with
# `None` they come from PyTorch's own.


# %% exercise="generate"
@torch.no_grad()
def generate(
    model: Callable[[Int[Tensor, "batch n"]], Float[Tensor, "batch n vocab"]],
    tokens: Int[Tensor, "batch n"],
    n_new: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch longer"]:
    """The prompt and ``n_new`` more tokens, each drawn given all before it (Holtzman et al. 2020, 3).

    Args:
        model: gives the logits of the next token at each place.
        tokens: the prompt, of at least one token.
        n_new: how many tokens to append to each row.
        temperature: what the logits are divided by; 0 takes the most likely token.
        top_k: how many tokens to choose from; all if None.
        top_p: how much probability to choose from; all if None.
        generator: where all random numbers come from; PyTorch's own if None.

    Raises:
        ValueError: ``temperature`` is negative, or the filters refuse ``top_k`` or ``top_p``; the message names it.
    """
    ### BEGIN SOLUTION
    if temperature < 0:
        raise ValueError(f"temperature = {temperature} must not be negative")
    for _ in range(n_new):
        logits = model(tokens)[:, -1]  # (batch, vocab): what follows the last token
        if temperature == 0:
            chosen = logits.argmax(dim=-1, keepdim=True)  # (batch, 1)
        else:
            logits = logits / temperature
            if top_k is not None:
                logits = top_k_filter(logits, top_k)
            if top_p is not None:
                logits = top_p_filter(logits, top_p)
            chosen = torch.multinomial(torch.softmax(logits, dim=-1), 1, generator=generator)  # (batch, 1)
        tokens = torch.cat([tokens, chosen], dim=-1)  # (batch, n + 1)
    return tokens
    ### END SOLUTION


# %% visible="generate"
def _add_up(tokens: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n 10"]:
    """A model of ten tokens that expects the last digit of the sum of all tokens so far."""
    return 9 * torch.nn.functional.one_hot(tokens.cumsum(dim=-1) % 10, 10).float()


_prompt = torch.tensor([[1, 2], [8, 9]])
_greedy = torch.tensor([[1, 2, 3, 6, 2], [8, 9, 7, 4, 8]])
assert torch.equal(generate(_add_up, _prompt, 3, temperature=0), _greedy)
assert torch.equal(generate(_add_up, _prompt, 3, top_k=1), _greedy)
_runs = [generate(_add_up, _prompt, 9, 9.0, top_p=0.9, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
assert _runs[0].shape == (2, 11)
assert torch.equal(_runs[0], _runs[1])
_likely = generate(_add_up, _prompt, 9, temperature=0)
assert not torch.equal(_runs[0], _likely), "after a temperature of 9 many tokens are in the nucleus, not one"

# %% exam="generate" points=6
