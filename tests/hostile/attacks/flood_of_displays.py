# %% [markdown] harm="takes minutes"
# Shows a hundred thousand tiny things, each an output of its own that has to be checked.

# %% attack="first"
from IPython.display import display

for _ in range(100_000):
    display({"text/plain": ""}, raw=True)
