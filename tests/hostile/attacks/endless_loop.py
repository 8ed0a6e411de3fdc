# %% [markdown]
# A cell that never ends.

# %% attack="last"
while True:
    pass
