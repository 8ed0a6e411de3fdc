# %% [markdown]
# Sends arguments of every odd kind, to make what it is lent fail in the grader.

# %% answer="check_softmax"
def check_softmax(fn):
    for odd in (None, "x" * 10**6, [[]], {"a": 1}, 10**60, float("nan"), torch.device("cpu"), torch.Generator(), fn):
        for call in (lambda: fn(odd), lambda: fn(torch.zeros(2), dim=odd)):
            try:
                call()
            except Exception:
                pass
    x = torch.linspace(-3, 3, 12).reshape(3, 4)
    assert torch.allclose(fn(x).sum(-1), torch.ones(3))
