# %% [markdown]
# Keeps every function that it is lent and calls the others later, when they are not its business.

# %% answer="check_softmax"
kept = []


def check_softmax(fn):
    for other in kept:
        try:
            other(torch.zeros(2))
        except LookupError:
            continue
        print("LEAKED")
    kept.append(fn)
    x = torch.linspace(-3, 3, 12).reshape(3, 4)
    assert torch.allclose(fn(x).sum(-1), torch.ones(3))
