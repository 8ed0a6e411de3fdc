# %% [markdown] harm="300 MB in the notebook"
# Prints three hundred megabytes.

# %% attack="first"
for _ in range(300):
    print("x" * 2**20)
