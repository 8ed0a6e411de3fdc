# %% [markdown]
# One operation in C that takes for ever: no signal handler of Python gets a turn.

# %% attack="last"
10 ** 10 ** 10
