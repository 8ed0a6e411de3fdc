# %% [markdown] softmax=0
# Prints text that no file can hold, and raises it: a grader that writes a notebook fails.

# %% attack="first"
print("\ud800")
from IPython.display import display

display({"text/plain": "\udfff", "\ud800": "x"}, raw=True)
raise ValueError("\ud800")

# %% answer="softmax"
def softmax(x, dim=-1):
    raise ValueError("\ud800\x1b[31m")
