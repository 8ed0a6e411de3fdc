# %% [markdown]
# Forges a megabyte of output for each cell, through the shell itself.

# %% attack="first"
def fill(*_):
    get_ipython().outputs.write("stdout", "x" * 10**6)


get_ipython().events.register("pre_run_cell", fill)
