# %% [markdown]
# Leaves processes that have cut all ties and sleep for an hour.

# %% attack="last"
import os

for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execlp("sleep", "sleep", "3601")
        os._exit(0)
