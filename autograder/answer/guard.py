"""Operators that would hand over the answer: seen when they run, and in the code, through the notebook's own helpers.

A teaching guard with a friendly message, not a security boundary: a thread, or an operator in disguise, gets past it.
"""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Where the operators live that a name in a student's code can stand for.
LIBRARIES = ("torch", "numpy", "scipy", "jax", "triton")


@dataclass(frozen=True)
class Operators:
    """A family of operators under all their last names: of ``torch.softmax``, ``aten::_softmax``, ``nn.Softmax``."""

    label: str
    patterns: tuple[str, ...]

    def match(self, name: str) -> bool:
        """Whether ``name``, an operator's last name, is one of them."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


SOFTMAX = Operators(
    "a ready-made softmax",
    (
        *("softmax", "*_softmax", "softmin", "Softmax*", "LogSoftmax", "Softmin", "cross_entropy*", "CrossEntropyLoss"),
        "*softmax_backward_data",
    ),
)
ATTENTION = Operators(
    "a ready-made attention",
    ("*scaled_dot_product*", "_safe_softmax", "*multi_head_attention*", "MultiheadAttention", "*flex_attention*"),
)
AUTOGRAD = Operators(
    "automatic differentiation",
    (
        *("grad", "grad_and_value", "backward", "vjp", "jvp", "hvp", "vhp", "jacobian", "hessian", "jacrev", "jacfwd"),
        *("linearize", "dual_level", "*make_dual", "*unpack_dual"),
    ),
)


class _Dispatched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class _Called(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        # x.grad and x.requires_grad reach here as the property's __get__: reading an attribute is no call.
        if name != "__get__":
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def forbidden_in_run(run: Callable[[], Any], operators: tuple[Operators, ...]) -> dict[str, str]:
    """The labels of the ``operators`` that are called during ``run()``, whatever it raises, each with a name."""
    # An operator that is made of others never reaches the dispatcher; one that is not a Python function, only there.
    with suppress(Exception, SystemExit), _Dispatched() as dispatched, _Called() as called:
        run()
    return _matches((*called.names, *dispatched.names), operators)


def forbidden_in_code(target: Callable[..., Any], operators: tuple[Operators, ...]) -> dict[str, str]:
    """The labels of the ``operators`` that the code of ``target``, or of a helper of its own, names."""
    foreign = (value for value in _named(target, set()) if not _own(value))
    return _matches([getattr(value, "__name__", "") for value in foreign], operators)


def _matches(names: Iterable[str], operators: tuple[Operators, ...]) -> dict[str, str]:
    """The first of the ``names`` for each family that has one."""
    each = list(dict.fromkeys(names))  # an answer may call the same one a thousand times
    return {family.label: name.strip("_") for family in operators for name in reversed(each) if family.match(name)}


def functions_used(target: Callable[..., Any]) -> set[str]:
    """The names of the notebook's own functions and classes that ``target`` uses, directly or through others."""
    return {
        value.__name__
        for value in _named(target, set())
        if callable(value) and _own(value) and hasattr(value, "__name__")
    }


def _own(value: Any) -> bool:
    """Whether ``value`` was made in the notebook, or at least by none of the libraries.

    PyTorch's built-in operators have no module; a function that has none was made by ``exec``.
    """
    module = getattr(value, "__module__", None)
    return isinstance(value, FunctionType) if module is None else not str(module).startswith(LIBRARIES)


def _named(target: Any, seen: set[int]) -> Iterator[Any]:
    """Every object that the code of ``target`` reaches by a global name, dotted or not, through helpers of its own."""
    if id(target) in seen:
        return
    seen.add(id(target))
    for function in _functions(target):
        for value in _globals_named(function.__code__, function):
            yield value
            if callable(value) and _own(value):
                yield from _named(value, seen)


def unwrapped(target: Any) -> Any:
    """What ``target`` wraps; itself, if that leads in a circle."""
    with suppress(ValueError):
        return inspect.unwrap(target)
    return target


def _functions(target: Any) -> list[FunctionType]:
    """The Python functions behind a function, a bound method or a class."""
    if isinstance(target, type):
        members = (getattr(value, "__func__", value) for value in vars(target).values())
        return [value for value in members if isinstance(value, FunctionType)]
    plain = unwrapped(target)
    if not isinstance(plain, (FunctionType, MethodType)):
        plain = type(plain).__call__ if callable(plain) else None
    plain = getattr(plain, "__func__", plain)
    return [plain] if isinstance(plain, FunctionType) else []


def _globals_named(code: CodeType, function: FunctionType) -> Iterator[Any]:
    """The objects behind the names in ``code``: ``F``, ``F.softmax``, what a closure holds, what it imports.

    Read from the bytecode: a function that was made by ``exec``, as a notebook's are, has no source file.
    """
    closure = inspect.getclosurevars(function).nonlocals if code is function.__code__ else {}
    value: Any = None
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"):
            value = closure.get(step.argval, function.__globals__.get(step.argval))
        elif step.opname == "IMPORT_NAME":
            value = sys.modules.get(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM") and value is not None:
            # Only modules are looked into: an attribute of a student's object could run code.
            value = getattr(value, step.argval, None) if inspect.ismodule(value) else None
        elif step.opname not in ("CACHE", "PRECALL", "EXTENDED_ARG", "STORE_FAST", "PUSH_NULL"):
            value = None
        if value is not None:
            yield value
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_named(constant, function)
