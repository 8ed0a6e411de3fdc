"""What an exam does to an answer once: a call, its gradients, its habits, its cost. Nothing here says what is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autograder.answer import Answer, toys
from autograder.answer.cost import Cost
from autograder.answer.guard import Operators
from autograder.answer.words import described, is_plain, same
from autograder.engine.exam import Case, Exam, Here, Layout, Model, Seeded

# More than any result has; all those of an exam are kept, in float64, until the diagnosis.
MOST_NUMBERS = 2**20


@dataclass(frozen=True, eq=False)
class Call:
    """A case's inputs in one dtype, on one device, ready to be handed over."""

    names: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    init: Mapping[str, Any] | None
    state: Mapping[str, Tensor] | None

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every distinct tensor by the name of its argument or parameter."""
        named = dict(zip(self.names, self.args, strict=False)) | dict(self.kwargs)
        found: dict[int, tuple[str, Tensor]] = {}
        for name, value in (*named.items(), *(self.state or {}).items()):
            if isinstance(value, Tensor):
                found.setdefault(id(value), (name, value))
        return dict(found.values())

    def into(self, function: Callable[..., Any], **extra: Any) -> Any:
        """What ``function`` gives for the arguments; a generator starts anew each time, a model is a new one."""
        args, kwargs = self.given()
        return function(*args, **kwargs, **extra)

    def given(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, by position and by name, with generators just started and models just built."""
        return tuple(_started(value) for value in self.args), {
            name: _started(value) for name, value in self.kwargs.items()
        }

    @property
    def recording(self) -> torch.set_grad_enabled:
        """Gradients are recorded where there is a model, for the answer may ask for its own; else not, which is faster.

        To be entered.
        """
        return torch.set_grad_enabled(any(isinstance(value, Model) for value in (*self.args, *self.kwargs.values())))

    def map(self, change: Callable[[Tensor], Tensor]) -> Call:
        """The same call with ``change`` applied once to each distinct tensor; what was shared stays shared."""
        done: dict[int, Tensor] = {}

        def apply(value: Any) -> Any:
            if isinstance(value, Model):
                return replace(value, state={name: apply(weight) for name, weight in value.state.items()})
            if not isinstance(value, Tensor):
                return value
            if id(value) not in done:
                done[id(value)] = change(value)
            return done[id(value)]

        return replace(
            self,
            args=tuple(apply(value) for value in self.args),
            kwargs={name: apply(value) for name, value in self.kwargs.items()},
            state=None if self.state is None else {name: apply(value) for name, value in self.state.items()},
        )


# Makes the same call anew each time.
Inputs = Callable[[], Call]


def prepare(names: tuple[str, ...], case: Case, dtype: torch.dtype, device: str) -> Call:
    """``case`` with its float tensors rounded to ``dtype``, on ``device``, laid out in memory as it asks.

    ``names`` are the arguments', in order.
    """

    def place(tensor: Tensor) -> Tensor:
        # A copy always: an answer that writes into its inputs must not change the case for the next probe.
        rounded = tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        return _laid_out(rounded, case.layout)

    args = tuple(_filled(value, device) for value in case.args)
    kwargs = {name: _filled(value, device) for name, value in case.kwargs.items()}
    return Call(names, args, kwargs, case.init, case.state).map(place)


def _filled(value: Any, device: str) -> Any:
    """What a placeholder stands for on ``device``; any other value as it is."""
    if isinstance(value, Here):
        return torch.device(device)
    return replace(value, device=device) if isinstance(value, Seeded) else value


def _started(value: Any) -> Any:
    if isinstance(value, Model):
        return toys.build(value.name, value.init, value.state)
    return torch.Generator(value.device).manual_seed(value.seed) if isinstance(value, Seeded) else value


def _laid_out(tensor: Tensor, layout: Layout) -> Tensor:
    """The same values with other strides."""
    if layout == "transposed" and tensor.ndim >= 2:
        # All axes the other way round: heads that were split off and moved lie like this, and no view joins them.
        turned = tuple(reversed(range(tensor.ndim)))
        return tensor.permute(turned).contiguous().permute(turned)
    if layout == "strided" and tensor.ndim >= 1:
        return tensor.repeat_interleave(2, dim=-1)[..., ::2]
    return tensor


@dataclass(frozen=True, eq=False)
class Observation:
    """What a student's object did once: results on the CPU, facts that are either so or not, or an error."""

    tensors: tuple[Tensor | None, ...] = ()
    facts: tuple[str, ...] = ()
    error: str = ""
    detail: str = ""
    # The error's class and those that it derives from.
    kinds: tuple[str, ...] = ()

    @property
    def wrong_kind(self) -> bool:
        """Whether the answer gave back something else than was asked for; ``detail`` then says what, in our words."""
        return WrongKindError.__name__ in self.kinds

    @property
    def gave_nothing(self) -> bool:
        """Whether it gave back None."""
        return NothingError.__name__ in self.kinds

    @property
    def unfinished(self) -> bool:
        """Whether it is not written yet, or is nothing that could be examined."""
        return self.wrong_kind or self.error == "NotImplementedError"


@dataclass(frozen=True, eq=False)
class _First:
    """The first call of a new object as it went: what it was given, what it gave, what it did that it may not do."""

    call: Call
    function: Callable[..., Any]
    results: tuple[Tensor, ...]
    facts: tuple[str, ...]


class WrongKindError(Exception):
    """The answer gave back something other than the tensors that were asked for."""


class NothingError(WrongKindError):
    """The answer gave back None."""


class Subject:
    """An answer and what its exam asks of it: the outputs, their dtypes, how it is called."""

    def __init__(self, answer: Answer, exam: Exam) -> None:
        self.answer = answer
        self.outputs = exam.outputs
        self.dtypes = exam.output_dtypes
        self.use = exam.use
        self.default_dtype = answer.default_dtype()
        self.firsts: dict[Inputs, _First | Observation] = {}
        self.counted: dict[tuple[Inputs, bool], Cost] = {}

    def function(self, call: Call) -> Callable[..., Any]:
        """The callable that a call's arguments go to: the function, a use of it, or a new module with the state."""
        if self.use is not None:
            return self.answer.used(self.use)
        if call.init is None:
            return self.answer.target  # type: ignore[no-any-return]
        module = self.answer.target(**call.init)
        if not isinstance(module, nn.Module):
            raise WrongKindError(f"the class makes {described(module)}, not an nn.Module")
        state = call.state or {}
        parameters = dict(module.named_parameters())
        own = {name: tuple(value.shape) for name, value in parameters.items()}
        wanted = {name: tuple(value.shape) for name, value in state.items()}
        if own != wanted:
            raise WrongKindError(f"its parameters are {_listed(own)}; they are to be {_listed(wanted)}")
        for device in {value.device for value in state.values()} - {torch.device("cpu")}:
            module.to(device)
        for name, parameter in parameters.items():
            # Not copied into it: its dtype is then the state's. Nor replaced: what is tied to it stays tied.
            parameter.data = state[name].detach()
        return module

    def _checked(self, result: Any) -> tuple[Tensor, ...]:
        """The answer's output tensors.

        Raises:
            WrongKindError: it gave something else, or another number of them.
        """
        several = len(self.outputs) > 1
        results = tuple(result) if several and isinstance(result, (tuple, list)) else (result,)
        wanted = f"{len(self.outputs)} tensors ({', '.join(self.outputs)})" if several else "one tensor"
        if result is None:
            raise NothingError(f"it gives None (is a `return` missing?), not {wanted}")
        if len(results) != len(self.outputs):
            raise WrongKindError(f"it gives {described(result)}, not {wanted}")
        for value, dtype in zip(results, self.dtypes, strict=True):
            if not is_plain(value):
                raise WrongKindError(f"it gives {described(value if several else result)}, not {wanted}")
            if value.numel() > MOST_NUMBERS:
                raise WrongKindError(f"it gives {value.numel():,} numbers")
            if dtype is None and not value.is_floating_point():
                raise WrongKindError(f"it gives numbers of dtype {_dtype(value)}")
        return results

    def forget(self) -> None:
        """Looks at everything anew from here on: something of the answer has changed."""
        self.firsts.clear()
        self.counted.clear()

    def call(self, inputs: Inputs) -> Observation:
        """One call, its results in float64, or in int64."""
        first = self._first(inputs)
        return first if isinstance(first, Observation) else Observation(tuple(widest(value) for value in first.results))

    def habits(self, inputs: Inputs, thorough: bool = True) -> Observation:
        """Whether inputs are left alone, dtype and device kept; ``thorough``: and settings, and whether calls agree."""
        first = self._first(inputs)
        if isinstance(first, Observation):
            return first
        with _errors_observed() as caught, first.call.recording:
            facts = list(first.facts)
            if thorough and self.answer.default_dtype() != self.default_dtype:
                facts.append("changes PyTorch's default dtype")
            facts += self._memory(first) if thorough and not facts else []
            facts += self._kept(first.results, first.call)
            return Observation(facts=tuple(dict.fromkeys(facts)))
        return caught[0]

    def _first(self, inputs: Inputs) -> _First | Observation:
        """The first call, made once whatever is asked about it, or what went wrong in it."""
        if inputs not in self.firsts:
            call = inputs()
            with _errors_observed() as caught, call.recording:
                before = {name: value.clone() for name, value in call.tensors.items()}
                function = self.function(call)
                args, kwargs = call.given()
                # Copies: an answer may write into what it gave when it is called again.
                results = tuple(value.detach().clone() for value in self._checked(function(*args, **kwargs)))
                facts = [
                    f"changes its {name}"
                    for name, value in call.tensors.items()
                    if value.requires_grad or not same(before[name], value)
                ]
                facts += _done_to_models({**dict(zip(call.names, args, strict=False)), **kwargs}, call)
                self.firsts[inputs] = _First(call, function, results, tuple(facts))
            if caught:
                self.firsts[inputs] = caught[0]
        return self.firsts[inputs]

    def _kept(self, results: tuple[Tensor, ...], call: Call) -> list[str]:
        """Whether the results are of the dtype that the exam names, or else the input's, and on the input's device."""
        inputs = list(call.tensors.values())
        floats = [value for value in inputs if value.is_floating_point()]
        facts = []
        for name, value, dtype in zip(self.outputs, results, self.dtypes, strict=True):
            what = f"{name} in {_dtype(value)}" if len(results) > 1 else _dtype(value)
            if dtype is not None and value.dtype != dtype:
                facts.append(f"gives {what}, not {_dtype(dtype)}")
            if dtype is None and floats and value.dtype != floats[0].dtype:
                facts.append(f"gives {what} for {_dtype(floats[0])}")
        asked = [value for value in (*call.args, *call.kwargs.values()) if isinstance(value, torch.device)]
        for device in (asked or [value.device for value in floats or inputs])[:1]:
            facts += [f"moves the result to {value.device}" for value in results if value.device.type != device.type]
        return facts

    def _memory(self, first: _First) -> list[str]:
        """Whether a function, or a module that was called once, treats the next calls otherwise than a new one."""
        other = first.call.map(_another)
        elsewhere = self._checked(other.into(first.function))
        if not _all_same(first.results, self._checked(first.call.into(first.function))):
            return ["gives another result when it is called again"]
        if not _all_same(elsewhere, self._checked(other.into(self.function(first.call)))):
            return ["remembers its first input when it is called with another"]
        return []

    def gradients(self, call: Call, cotangents: tuple[Tensor, ...]) -> Observation:
        """The gradients of Σ output · cotangent by every float input and parameter, in float64; None where severed."""
        with _errors_observed() as caught, torch.enable_grad():
            leaves = call.map(leaf)
            function = self.function(leaves)
            results = self._checked(leaves.into(function))
            for name, result, grad in zip(self.outputs, results, cotangents, strict=True):
                if result.shape != grad.shape:
                    shapes = f"{tuple(result.shape)}, not {tuple(grad.shape)}"
                    raise WrongKindError(f"{name} has shape {shapes}: there are no gradients to compare")
            wanted = {name: value for name, value in leaves.tensors.items() if value.requires_grad}
            if isinstance(function, nn.Module):
                wanted.update({name: value for name, value in function.named_parameters() if name in wanted})
            if not any(result.requires_grad for result in results):
                return Observation(tuple(None for _ in wanted))
            found = torch.autograd.grad(
                [result for result in results if result.requires_grad],
                list(wanted.values()),
                [grad.to(result) for grad, result in zip(cotangents, results, strict=True) if result.requires_grad],
                allow_unused=True,
            )
            return Observation(tuple(None if grad is None else widest(grad) for grad in found))
        return caught[0]

    def gradcheck(self, call: Call) -> Observation:
        """Whether the analytic gradients agree with finite differences."""
        with _errors_observed() as caught, torch.enable_grad():
            function = self.function(call)
            parts = [value for value in call.tensors.values() if value.is_floating_point()]

            def of_all(numbers: Tensor) -> tuple[Tensor, ...]:
                pieces = numbers.split([part.numel() for part in parts])
                swap = {id(part): piece.view(part.shape) for part, piece in zip(parts, pieces, strict=True)}
                return self._functional(function, call.map(lambda value: swap.get(id(value), value)))

            # Along one random direction of all inputs together, not along each component of each: an answer may be
            # calls of processes away.
            numbers = leaf(torch.cat([part.flatten() for part in parts]))
            agrees = torch.autograd.gradcheck(of_all, numbers, raise_exception=False, fast_mode=True)
            return Observation(facts=() if agrees else ("gradients disagree with finite differences",))
        return caught[0]

    def _functional(self, function: Callable[..., Any], call: Call) -> tuple[Tensor, ...]:
        """``results`` as a function of the parameters too: a module's are swapped in, not copied."""
        if not isinstance(function, nn.Module):
            return self._checked(call.into(function))
        result = torch.func.functional_call(function, dict(call.state or {}), call.args, dict(call.kwargs))
        return self._checked(result)

    def law(self, law: Callable[[Callable[..., Any], Call], str | None], call: Call) -> Observation:
        """Whether the answer, or one module of it, keeps ``law``; the sentence that it gives otherwise is the fact."""
        with _errors_observed() as caught, call.recording:
            function = self.function(call)
            broken = law(
                lambda *args, **kwargs: self._checked(replace(call, args=args, kwargs=kwargs).into(function))[0], call
            )
            return Observation(facts=() if broken is None else (broken,))
        return caught[0]

    def costs(self, sizes: list[Inputs], measure: str, backward: bool = False) -> Observation:
        """One of the figures of ``Cost`` for each size, in one tensor; with ``backward`` there and back."""
        with _errors_observed() as caught, torch.no_grad():
            figures = [getattr(self._cost(inputs, backward), measure) for inputs in sizes]
            return Observation((torch.tensor(figures, dtype=torch.float64),))
        return caught[0]

    def _cost(self, inputs: Inputs, backward: bool) -> Cost:
        """Counted once, whichever figures are asked for."""
        if (inputs, backward) not in self.counted:
            call = inputs()
            self.counted[inputs, backward] = self.answer.cost(self.function(call), *call.given(), backward)
        return self.counted[inputs, backward]

    def verdict_on(self, candidate: Callable[..., Any], seed: int) -> Observation:
        """For an answer that is itself a test: whether it rejects ``candidate``, by raising or by giving False.

        ``seed`` replays the inputs that it draws.
        """
        with _errors_observed() as caught, torch.enable_grad(), self.answer.seeded(seed):
            with self.answer.lent(candidate) as function:
                said = self.answer.target(function)
            if said is None:
                return Observation(facts=("accepted",))
            # np.bool_(False) and tensor(False) are said as often as False.
            if not isinstance(said, (int, np.bool_, Tensor)) or np.ndim(said):
                raise WrongKindError(f"it gives {described(said)}; a test raises, or gives True or False")
            return Observation(facts=("accepted",) if said else ("rejected",))
        (seen,) = caught
        if seen.unfinished:
            return seen
        return Observation(facts=("rejected",), detail=f"{seen.error}: {seen.detail}".rstrip(": "))

    def forbidden(self, calls: list[Call], operators: tuple[Operators, ...]) -> list[str]:
        """Operators that the answer may not use and does: in its code, its own helpers' included, or when run."""
        found = self.answer.named_in_code(operators)
        for call in calls:
            with suppress(Exception, SystemExit):
                found |= self.answer.named_in_run(self.function(call), *call.given(), operators)
        return [f"{label} ({name})" for label, name in found.items()]


def _done_to_models(after: Mapping[str, Any], call: Call) -> list[str]:
    """What a call changed in the models among its arguments; ``after`` is how they were left."""
    before = {**dict(zip(call.names, call.args, strict=False)), **call.kwargs}
    facts = []
    for name, model in before.items():
        if isinstance(model, Model):
            weights = dict(after[name].named_parameters())
            if any(not weight.requires_grad or not same(model.state[path], weight) for path, weight in weights.items()):
                facts.append(f"changes its {name}")
            if any(weight.grad is not None for weight in weights.values()):
                facts.append(f"leaves gradients (.grad) in its {name}")
            if not after[name].training:
                facts.append(f"leaves its {name} in eval mode, where it was in train mode")
    return facts


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"


def _another(value: Tensor) -> Tensor:
    """Another tensor of the same kind: half of it, or the opposite mask. Counts stay as they are."""
    if value.dtype == torch.bool:
        return ~value
    return value / 2 if value.is_floating_point() else value


def leaf(value: Tensor) -> Tensor:
    """The same values as the start of a graph; integers and booleans as they are."""
    return value.detach().requires_grad_() if value.is_floating_point() else value


def _dtype(value: Tensor | torch.dtype) -> str:
    return str(value.dtype if isinstance(value, Tensor) else value).removeprefix("torch.")


def widest(value: Tensor) -> Tensor:
    """The same numbers on the CPU, in float64; whole ones in int64, for float64 rounds beyond 2⁵³."""
    whole = not value.is_floating_point() and value.dtype != torch.bool
    return value.detach().to("cpu", torch.int64 if whole else torch.float64)


def _all_same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(same(a, b) for a, b in zip(first, second, strict=True))


@contextmanager
def _errors_observed() -> Iterator[list[Observation]]:
    """Whatever the student's code raises becomes an observation, the list's only one."""
    caught: list[Observation] = []
    try:
        yield caught
    except (Exception, SystemExit) as error:
        kinds = getattr(error, "kinds", None) or tuple(kind.__name__ for kind in type(error).__mro__)
        caught.append(Observation(error=kinds[0], kinds=kinds, detail=_text(error)))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "an error that cannot be printed"
