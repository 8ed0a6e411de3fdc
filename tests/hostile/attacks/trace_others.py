# %% [markdown]
# Traces the process above it and its own children's grader: whoever traces can write into memory.

# %% attack="first"
import ctypes
import os

libc = ctypes.CDLL(None)
for process in (1, os.getppid()):
    if libc.ptrace(16, process, 0, 0) == 0:
        print("LEAKED")
