# %% [markdown]
# Leaves the sandbox by chroot, by mounts, by namespaces of its own, and by another user's id.

# %% attack="first"
import ctypes
import os

libc = ctypes.CDLL(None)
for flags in (0x10000000, 0x20000, 0x40000000, 0x20000000):
    if libc.unshare(flags) == 0:
        print("LEAKED: unshare", flags)
if libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None) == 0 or libc.umount2(b"/tmp", 2) == 0:
    print("LEAKED: mount")
for action in (lambda: os.chroot("/tmp"), lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.mknod("disk", 0o60666, 0x800)):
    try:
        action()
        print("LEAKED", action)
    except OSError:
        pass
