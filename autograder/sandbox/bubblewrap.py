"""The command that starts a process which sees the system read-only and of this project only what it needs."""

from __future__ import annotations

import glob
import os
import shutil
import site
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
SEEN = ("__init__.py", "answer", "bridge", "sandbox/__init__.py", "sandbox/inside")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/sys/devices/system/cpu")
SETTINGS = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "fonts", "alternatives", "nsswitch.conf")
GPUS = ("/dev/nvidia*", "/dev/nvidia-caps/*")


def command(arguments: list[str]) -> list[str]:
    """``python`` with ``arguments``, inside bubblewrap.

    Raises:
        FileNotFoundError: there is no bubblewrap here.
    """
    program = shutil.which("bwrap")
    if program is None or not sys.platform.startswith("linux"):
        raise FileNotFoundError("bubblewrap (bwrap) is not installed")
    folders, system = _interpreter(), _system()
    return [
        program,
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *("--die-with-parent", "--new-session", "--hostname", "sandbox", "--cap-add", "ALL"),
        # Nobody's user is the only other one, and only root can become that; all others stay who they are.
        *(() if os.geteuid() == 0 else ("--unshare-user", "--uid", "0", "--gid", "0")),
        # Its own, and before the ways: the course may lie in it.
        *("--tmpfs", "/tmp"),
        *_open_way_to([*folders, str(PACKAGE), *SYSTEM, "/etc/fonts"]),
        *system,
        *("--proc", "/proc", "--dev", "/dev"),  # its own
        *(item for pattern in GPUS for path in glob.glob(pattern) for item in ("--dev-bind", path, path)),
        *(item for path in folders for item in ("--ro-bind", path, path)),
        # Whatever of this package lay in a folder of the interpreter is covered first.
        *("--perms", "0755", "--tmpfs", str(PACKAGE)),
        *(item for name in SEEN for item in ("--ro-bind", str(PACKAGE / name), str(PACKAGE / name))),
        # What a submission could write to and the next one find: for one who is not root, /dev is its own.
        *("--remount-ro", str(PACKAGE), "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/", "--clearenv"),
        *(item for name, value in environment().items() for item in ("--setenv", name, value)),
        *(sys.executable, *arguments),
    ]


def environment() -> dict[str, str]:
    """All that a student process knows of its surroundings."""
    return {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin")),
        "PYTHONPATH": str(PACKAGE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONSAFEPATH": "1",
        "LANG": "C.UTF-8",
        "HOME": "/tmp",
        "USER": "student",
        "MPLBACKEND": "Agg",
        # Triton asks when it is imported, and answers must run as they would here.
        **{name: os.environ[name] for name in ("TRITON_INTERPRET",) if name in os.environ},
    }


def _system() -> list[str]:
    options: list[str] = []
    for path in SYSTEM:
        if os.path.islink(path):
            options += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            options += ["--ro-bind", path, path]
    for name in SETTINGS:
        options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return options


def _open_way_to(paths: list[str]) -> list[str]:
    """The folders above ``paths``, which bubblewrap would make for its own user alone."""
    above = sorted({str(parent) for path in paths for parent in Path(path).parents} - {"/"})
    return [item for folder in above for item in ("--perms", "0755", "--dir", folder)]


def _interpreter() -> list[str]:
    """The folders that Python and the installed packages lie in, outer ones first."""
    folders = {sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix), *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        folders.add(site.getusersitepackages())
    there = sorted(folder for folder in folders if os.path.isdir(folder))
    outer: list[str] = []
    for folder in there:
        if not any(folder.startswith(f"{seen}/") for seen in (*SYSTEM, *outer)):
            outer.append(folder)
    return outer
