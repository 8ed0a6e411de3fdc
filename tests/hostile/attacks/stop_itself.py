# %% [markdown]
# Stops its own process: it does not end, it does not answer.

# %% attack="last"
import os
import signal

os.kill(os.getpid(), signal.SIGSTOP)
