# %% [markdown]
# Cells and answers that each take just less than they may.

# %% attack="first"
import time

time.sleep(2)

# %% attack="last"
import time

time.sleep(2)
