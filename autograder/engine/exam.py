"""What an exam is made of: data, no marking. The engine (``engine.py``) knows devices, dtypes, tolerances and words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from autograder.answer import toys

if TYPE_CHECKING:
    from autograder.answer.guard import Operators
    from autograder.engine.checks import Check

Implementation = TypeVar("Implementation", bound=Callable[..., Any])
# As many arguments as a case gives for one ``*name``.
MOST_OF_ONE_KIND = 8

Nudge = Callable[[Tensor], Tensor]
Layout = Literal["contiguous", "transposed", "strided"]


def as_is(values: Tensor) -> Tensor:
    """The ``Nudge`` that moves nothing."""
    return values


class Here:
    """Stands in a case for the device that the answer is examined on."""


@dataclass(frozen=True)
class Seeded:
    """Stands in a case for a ``torch.Generator`` on that device: a new one for each call, started with ``seed``."""

    seed: int
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Model:
    """Stands in a case for a small model, one of ``answer/toys.py``: a new one for each call, with these weights.

    They are given in float64 and rounded to the tested dtype, as tensors are.
    """

    name: str
    init: Mapping[str, int]
    state: Mapping[str, Tensor]

    def __repr__(self) -> str:
        return f"a small model ({self.name})"


class Draw:
    """Random inputs in float64 from one seeded generator, so that a seed replays an exam."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Components N(0, scale²)."""
        return scale * torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Components uniform in [low, high)."""
        return low + (high - low) * torch.rand(*shape, generator=self.generator, dtype=torch.float64)

    def toy(self, name: str, scale: float = 1.0, **init: int) -> Model:
        """A model with weights N(0, scale² / d), d the length of the vectors that they are applied to."""
        shapes = {path: tuple(value.shape) for path, value in toys.build(name, init).named_parameters()}
        weights = {path: self.normal(*shape, scale=scale * shape[0] ** -0.5) for path, shape in shapes.items()}
        return Model(name, init, weights)

    def integer(self, low: int, high: int) -> int:
        """One integer, both ends included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))


@dataclass(frozen=True, eq=False)
class Case:
    """One input to an answer.

    Float tensors are given in float64 and rounded to the tested dtype. ``check`` names the check that the case counts
    for. ``layout`` says how the tensors lie in memory. ``gradients`` and ``coarse`` (bfloat16, float16) say where else
    the case is used; a ``tiny`` one goes through gradcheck. ``also`` names coarse dtypes in which it is run besides,
    whatever the device's are. ``raises`` is the error that the answer must raise, or several of which any will do, and
    ``says`` what its message must hold; ``nothing`` says that it must give None. A module is built with ``init`` and
    loaded with ``state``. ``Here``, ``Seeded`` and ``Model`` may stand among the arguments for a device, a generator
    and a model.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    check: str = "values"
    layout: Layout = "contiguous"
    gradients: bool = False
    tiny: bool = False
    coarse: bool = True
    also: tuple[torch.dtype, ...] = ()
    raises: type[Exception] | tuple[type[Exception], ...] | None = None
    says: str = ""
    nothing: bool = False
    init: Mapping[str, Any] | None = None
    state: Mapping[str, Tensor] | None = None

    @property
    def floating(self) -> bool:
        """Whether it holds float tensors or a model, so that it differs from dtype to dtype."""
        values = (*self.args, *self.kwargs.values(), *(self.state or {}).values())
        return any(
            isinstance(value, Model) or (isinstance(value, Tensor) and value.is_floating_point()) for value in values
        )


def each_kind(cases: Iterable[Case]) -> list[Case]:
    """A case of each kind: what an answer calls or remembers depends on its arguments' kinds, not on their numbers."""
    kinds: dict[tuple[object, ...], Case] = {}
    for case in cases:
        if case.raises is None:
            named = sorted([*case.kwargs.items(), *(case.init or {}).items()], key=itemgetter(0))
            values = [*(("", value) for value in case.args), *named]
            kinds.setdefault(tuple((name, _kind(value)) for name, value in values), case)
    return list(kinds.values())


def _kind(value: Any) -> object:
    if isinstance(value, Tensor):
        return value.ndim
    return repr(value) if isinstance(value, (bool, str)) else type(value)


@dataclass(frozen=True, eq=False)
class Misconception:
    """A named wrong answer: real code, what one would see, and a hint that leads on without giving the answer away.

    ``testable`` is False where it would be unfair to expect that a student's own test finds it.
    """

    name: str
    hint: str
    symptom: str
    seen: str | None
    implementation: Callable[..., Any]
    testable: bool = True


@dataclass(frozen=True, eq=False)
class Variant:
    """Another right answer, which must get full marks."""

    name: str
    implementation: Callable[..., Any]


@dataclass(eq=False)
class Exam:
    """Everything about one exercise, declared once in ``autograder/exams/<topic>.py``.

    ``reference`` is the oracle (PyTorch's own operator, run in float64); ``naive`` is the plain formula, whose own
    rounding error sets what is forgiven. It applies ``nudge`` to its intermediate scores. Modules' ``reference`` and
    ``naive`` take the parameters as ``state`` and the constructor's arguments as ``init``. ``skeleton`` is the class
    as the notebook gives it, without ``forward``.
    A misconception is named if it explains more than the share ``certainty`` of what went wrong. The outputs have the
    inputs' float dtype, or the one that ``dtype`` names; a tuple has one for each, with None for the inputs'.

    ``dtypes`` are those that the exercise is asked for in, None for every one. An answer that is not simply called with
    a case's arguments, such as a class that keeps a state, is put to the ``use`` of that name in ``answer/uses.py``,
    which is. ``needs`` is a package that an answer is written with and that not every machine has; such an answer runs
    on the accelerator where there is one, and only there.
    """

    topic: str
    name: str
    reference: Callable[..., Any]
    naive: Callable[..., Any]
    cases: Callable[[Draw], Iterable[Case]]
    checks: tuple[Check, ...]
    outputs: tuple[str, ...] = ("output",)
    may_not_call: tuple[Operators, ...] = ()
    skeleton: type[torch.nn.Module] | None = None
    certainty: float = 0.5
    dtype: torch.dtype | tuple[torch.dtype | None, ...] | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    use: str | None = None
    needs: str | None = None
    misconceptions: list[Misconception] = field(default_factory=list)
    variants: list[Variant] = field(default_factory=list)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the answer's arguments."""
        names: list[str] = []
        for name, parameter in inspect.signature(self.naive).parameters.items():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                names += [f"{name}[{place}]" for place in range(MOST_OF_ONE_KIND)]
            elif name not in ("state", "init", "nudge"):
                names.append(name)
        return tuple(names)

    @property
    def output_dtypes(self) -> tuple[torch.dtype | None, ...]:
        """The dtype of each output; None for that of the inputs."""
        return self.dtype if isinstance(self.dtype, tuple) else (self.dtype,) * len(self.outputs)

    def asked(self, dtypes: tuple[torch.dtype, ...]) -> tuple[torch.dtype, ...]:
        """Those of ``dtypes`` that the exercise is asked for in."""
        return tuple(dtype for dtype in dtypes if self.dtypes is None or dtype in self.dtypes)

    @property
    def max_points(self) -> float:
        """The sum of the checks' weights; an exam cell's own points, where given, replace it."""
        return sum(check.points for check in self.checks)

    def misconception(
        self, *, hint: str, symptom: str, seen: str | None = None, testable: bool = True
    ) -> Callable[[Implementation], Implementation]:
        """Decorator: adds the function or class below it, by its name, to the wrong answers."""

        def add(implementation: Implementation) -> Implementation:
            name = implementation.__name__
            self.misconceptions.append(
                Misconception(name, hint, symptom, seen, self._complete(implementation), testable)
            )
            return implementation

        return add

    def variant(self, implementation: Implementation) -> Implementation:
        """Decorator: adds the function or class below it, by its name, to the right answers."""
        self.variants.append(Variant(implementation.__name__, self._complete(implementation)))
        return implementation

    def _complete(self, implementation: Callable[..., Any]) -> Callable[..., Any]:
        """A module's bare ``forward(self, ...)`` becomes a class, on the notebook's skeleton."""
        if self.skeleton is None or isinstance(implementation, type):
            return implementation
        return type(self.name, (self.skeleton,), {"forward": implementation})
