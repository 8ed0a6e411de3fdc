"""Linux's namespaces for one submission, from a process that already lives in bubblewrap's."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

from autograder.sandbox.inside.calls import filter_system_calls

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 2**30
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    0x4000,
    0x40000,
)
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 24, 38
LINUX_CAPABILITY_VERSION_3 = 0x20080522
NOBODY = 65534
PRIVATE = ("/tmp", "/dev/shm")  # a new, empty one for each submission


def fork_with_own_process_ids() -> int:
    """``os.fork``, but the child is the first process of a namespace: when it ends, the kernel ends all in it."""
    with open("/proc/self/ns/pid", encoding="ascii") as ours:
        _check(_libc().unshare(CLONE_NEWPID), "process ids of its own")
        child = os.fork()
        if child != 0:
            # Only from here can the next child get ids of its own, and this process start threads.
            _check(_libc().setns(ours.fileno(), CLONE_NEWPID), "the way back to the former process ids")
    return child


def own_world(file_bytes: int) -> None:
    """No network, no shared memory with anybody, an own ``/proc``, and empty folders of at most ``file_bytes``."""
    _check(_libc().unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS), "namespaces of its own")
    _mount("none", "/", None, MS_REC | MS_PRIVATE, None)
    # Python itself, and this package, may lie below a folder that is about to be covered.
    kept = [(path, os.open(path, os.O_PATH)) for path in _below_private()]
    for folder in PRIVATE:
        _mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, f"size={file_bytes},nr_inodes=20000,mode=1777")
    for path, place in kept:
        os.makedirs(path)
        _mount(f"/proc/self/fd/{place}", path, None, MS_BIND | MS_REC, None)
        _mount("none", path, None, MS_REMOUNT | MS_BIND | MS_RDONLY, None)
        os.close(place)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)


def _below_private() -> list[str]:
    """The outermost folders below ``PRIVATE`` that modules are imported from."""
    folders = {os.path.realpath(path) for path in (*sys.path, sys.prefix, sys.base_prefix) if os.path.isdir(path)}
    outer: list[str] = []
    for folder in sorted(folders):
        covered = any(folder.startswith(f"{private}/") for private in PRIVATE)
        if covered and not any(folder.startswith(f"{other}/") for other in outer):
            outer.append(folder)
    return outer


def first_to_go() -> None:
    """If the machine's memory runs out, it is this process that the kernel ends. To be called with all rights."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


def give_up_rights() -> None:
    """Nobody's user where there is one, no capability, and no way to get either back."""
    libc = _libc()
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    # In a user namespace of one user there is nobody else to become, and nothing to give up.
    with suppress(OSError):
        os.setgroups([])
    with suppress(OSError):
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    _check(libc.capset(header, (ctypes.c_uint32 * 6)()), "a process without capabilities")
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "a process that gains no rights")
    _check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "a process that cannot be read")
    filter_system_calls()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _check(_libc().mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]), f"{target} of its own")


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
