# %% [markdown]
# Shows JSON that is nested seven hundred times: whoever copies it by recursion fails.

# %% attack="first"
from IPython.display import display

deep = []
for _ in range(700):
    deep = [deep]
display({"application/json": deep}, raw=True)
