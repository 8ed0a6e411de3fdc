# %% [markdown]
# Reads memory, environment, working folder and open files of every process, the first one above all.

# %% attack="first"
import os

for process in filter(str.isdigit, os.listdir("/proc")):
    if int(process) == os.getpid():
        continue
    for what in ("environ", "mem", "maps"):
        try:
            with open(f"/proc/{process}/{what}", "rb") as file:
                print("LEAKED" if file.read(1) else "")
        except OSError:
            pass
    for what in ("cwd", "root", "exe", "fd/0"):
        try:
            print("LEAKED", os.listdir(f"/proc/{process}/{what}/"))
        except OSError:
            pass
