"""System calls that a submission may not make, as a filter that the kernel runs (seccomp).

Namespaces leave gaps. Keys in the kernel's keyrings belong to a user and outlive a process: a note for the next
submission. Sockets to a virtual machine's host pass no network namespace. Memory behind ``memfd_create``, ``shmget`` or
a file system mounted in a user namespace of one's own is not counted for any process. Nothing that a notebook is
written for needs one of them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

# Numbers as in the kernel's tables: x86-64, then the generic table, which 64-bit ARM has.
NUMBERS = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
CLONE, CLONE3, SOCKET, SOCKETPAIR = (56, 220), (435, 435), (41, 198), (53, 199)
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FAMILIES = (1, 2, 10, 16)  # of sockets: Unix, IPv4, IPv6, netlink
CLONE_NEWUSER = 0x10000000

# Of struct seccomp_data.
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = 1, 38
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def filter_system_calls() -> None:
    """From here on, for this process and all that it starts. It must have given up gaining rights before.

    Raises:
        OSError: the kernel takes no filter.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        return
    code = _instructions(ARCHITECTURES[machine], list(ARCHITECTURES).index(machine))
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "a filter of system calls: " + os.strerror(ctypes.get_errno()))


def _instructions(architecture: int, table: int) -> bytes:
    """The filter, as the kernel reads it: each instruction is a code, two jumps and a number."""
    steps = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        # Another table of numbers for the same architecture, x32.
        *_answered(AT_LEAST, 0x40000000, ERROR | ENOSYS),
        # Its flags lie in memory, where a filter can't look; the C library then takes clone.
        *_answered(EQUAL, CLONE3[table], ERROR | ENOSYS),
    ]
    for numbers in NUMBERS.values():
        steps += _answered(EQUAL, numbers[table], ERROR | EPERM)
    steps += [
        (EQUAL, 0, 4, CLONE[table]),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        *_answered(ANY_BIT, CLONE_NEWUSER, ERROR | EPERM),
        (RETURN, 0, 0, ALLOW),
        (EQUAL, 1, 0, SOCKET[table]),
        (EQUAL, 0, len(FAMILIES) + 2, SOCKETPAIR[table]),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        *((EQUAL, len(FAMILIES) - place, 0, family) for place, family in enumerate(FAMILIES)),
        (RETURN, 0, 0, ERROR | EPERM),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _answered(test: int, number: int, answer: int) -> list[tuple[int, int, int, int]]:
    """If what was loaded passes the ``test``, the call is answered; otherwise the next instruction follows."""
    return [(test, 0, 1, number), (RETURN, 0, 0, answer)]
