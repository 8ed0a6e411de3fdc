# %% [markdown]
# A test that looks into what it is given: code, globals, closure, and the grader behind it.

# %% answer="check_softmax"
def check_softmax(fn):
    found = [name for name in ("__code__", "__globals__", "__closure__", "__wrapped__", "__defaults__") if hasattr(fn, name)]
    assert not found, found
    x = torch.linspace(-3, 3, 12).reshape(3, 4)
    assert torch.allclose(fn(x).sum(-1), torch.ones(3))
