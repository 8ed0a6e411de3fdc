# %% [markdown]
# Replaces torch.softmax by the wrong formula: a reference in the same process would agree with the answer.

# %% attack="first"
import torch

def wrong(x, dim=-1, **_):
    e = torch.exp(x)
    return e / e.sum(dim, keepdim=True)

torch.softmax = torch.nn.functional.softmax = torch.Tensor.softmax = wrong
