# %% [markdown]
# Reads and writes every descriptor that the process was born with but its own.

# %% attack="first"
import os
import stat

for number in range(3, 256):
    try:
        kind = os.fstat(number).st_mode
    except OSError:
        continue
    if stat.S_ISDIR(kind) or stat.S_ISFIFO(kind) or stat.S_ISREG(kind):
        print("LEAKED", number, os.readlink(f"/proc/self/fd/{number}"))
