"""What every student process finds imported. A fork after imports is safe; after any tensor operator it may hang."""

# ruff: noqa: F401  -- the imports are what this module is for

import IPython.core.interactiveshell
import matplotlib
import matplotlib.pyplot
import matplotlib_inline.backend_inline
import numpy.random
import torch

# PyTorch imports this by itself at the first use of autograd.gradcheck, and it takes over a second.
import torch._dynamo

matplotlib.use("Agg")
