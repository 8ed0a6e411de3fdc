# %% [markdown] softmax=0
# An answer that calls itself without end, in Python and in C.

# %% answer="softmax"
import sys

sys.setrecursionlimit(10**6)


def softmax(x, dim=-1):
    return softmax(x, dim)
