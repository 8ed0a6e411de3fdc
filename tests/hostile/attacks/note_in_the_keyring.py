# %% [markdown] twice=true
# Leaves a note in the kernel's keyring of the user: it belongs to the user, not to the process.

# %% attack="first"
import ctypes
import platform

add, request = (248, 249) if platform.machine() == "x86_64" else (217, 218)
libc = ctypes.CDLL(None)
if libc.syscall(request, b"user", b"hostile-mark", None, -4) > 0:
    print("LEAKED")
libc.syscall(add, b"user", b"hostile-mark", b"note", 4, -4)
