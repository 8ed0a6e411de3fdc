# %% [markdown] harm="takes all memory"
# Takes memory until there is none.

# %% attack="last"
hoard = []
while True:
    hoard.append(bytearray(b"x") * 2**26)
