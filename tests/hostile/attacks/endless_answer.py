# %% [markdown] softmax=0
# An answer that never ends.

# %% answer="softmax"
def softmax(x, dim=-1):
    while True:
        pass
