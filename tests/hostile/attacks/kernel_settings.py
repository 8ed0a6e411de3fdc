# %% [markdown]
# Writes to the kernel's settings: the program for crashes, the order in which memory is taken back, the host's name.

# %% attack="first"
import resource
import socket

for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/oom_score_adj", "/proc/1/oom_score_adj",
             "/proc/self/uid_map", "/sys/devices/system/cpu/cpu0/online"):
    try:
        with open(path, "w") as file:
            file.write("0")
        print("LEAKED", path)
    except OSError:
        pass
if open("/proc/self/oom_score_adj").read().strip() != "1000":
    print("LEAKED: it is not the first to go")
for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_NPROC):
    try:
        resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print("LEAKED", limit)
    except (OSError, ValueError):
        pass
try:
    socket.sethostname("hostile-mark")
    print("LEAKED")
except OSError:
    pass
