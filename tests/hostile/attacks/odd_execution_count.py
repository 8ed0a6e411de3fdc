# %% [markdown]
# Says that its cell is number minus fifty, which no notebook file may hold.

# %% attack="first"
get_ipython().execution_count = -50
