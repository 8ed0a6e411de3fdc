# %% [markdown]
# Kills its own process, which a grader has to notice.

# %% attack="last"
import os
import signal

os.kill(os.getpid(), signal.SIGKILL)
