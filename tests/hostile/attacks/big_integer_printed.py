# %% [markdown]
# Shows an integer of a million digits.

# %% attack="first"
import sys

sys.set_int_max_str_digits(0)
2 ** 10**6
