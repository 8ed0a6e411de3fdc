# %% [markdown]
# Reads address zero: a crash that no handler of Python sees.

# %% attack="last"
import ctypes

ctypes.string_at(0)
