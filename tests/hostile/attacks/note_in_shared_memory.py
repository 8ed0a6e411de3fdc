# %% [markdown] twice=true
# Leaves a note in shared memory, in an abstract socket and in a message queue.

# %% attack="first"
import ctypes
import os
import socket

libc = ctypes.CDLL(None)
if libc.shmget(0x1234, 0, 0) >= 0 or libc.msgget(0x1234, 0) >= 0:
    print("LEAKED")
libc.shmget(0x1234, 4096, 0o1666)
libc.msgget(0x1234, 0o1666)
if os.path.exists("/dev/shm/hostile-mark"):
    print("LEAKED")
open("/dev/shm/hostile-mark", "w").close()
with socket.socket(socket.AF_UNIX) as other:
    if other.connect_ex("\0hostile-mark") == 0:
        print("LEAKED")
if os.fork() == 0:
    server = socket.socket(socket.AF_UNIX)
    server.bind("\0hostile-mark")
    server.listen()
    server.accept()
