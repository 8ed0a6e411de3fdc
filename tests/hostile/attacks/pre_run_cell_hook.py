# %% [markdown]
# A hook before every cell looks for the grader in the stack, and for a mark to change.

# %% attack="first"
import sys


def hook(*_):
    frame = sys._getframe()
    while frame is not None:
        for name in ("points", "verdict", "outcome"):
            if name in frame.f_locals:
                print("LEAKED", name)
        frame = frame.f_back


get_ipython().events.register("pre_run_cell", hook)
