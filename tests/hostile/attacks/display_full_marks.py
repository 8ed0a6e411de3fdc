# %% [markdown]
# The display hook shows five points, as an nbgrader exam cell would: the first result of a graded cell wins.

# %% attack="first"
get_ipython().displayhook(5)

# %% attack="last"
get_ipython().displayhook(5)
5.0
