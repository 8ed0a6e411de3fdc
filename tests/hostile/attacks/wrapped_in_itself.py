# %% [markdown]
# A function that wraps itself: looking for what lies under its decorators never ends.

# %% answer="softmax"
def softmax(x, dim=-1):
    e = torch.exp(x)
    return e / e.sum(dim, keepdim=True)
softmax.__wrapped__ = softmax
