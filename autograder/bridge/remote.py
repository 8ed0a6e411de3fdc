"""An answer that lives on the other side, and the services of that side that make it one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch

from autograder.answer.cost import Cost
from autograder.answer.guard import Operators
from autograder.answer.local import LocalAnswer, nameless
from autograder.answer.settings import exam_settings, silence
from autograder.answer.toys import Toy, build, packed
from autograder.bridge.codec import Json, WireError, words_of
from autograder.bridge.objects import Objects
from autograder.bridge.peer import Peer
from autograder.bridge.proxies import RemoteClass, RemoteFunction, RemoteModule, number_of

# What a process may grow by during a call without having allocated a tensor.
UNCOUNTED_BYTES = 64 * 2**20

# Runs a call, and gives its result and the bytes by which the other process grew meanwhile, as seen from outside.
Witness = Callable[[Callable[[], Any]], tuple[Any, int]]


@dataclass(frozen=True)
class Lent:
    """An object of this side that the other one may call, for as long as its number is held."""

    number: int
    is_class: bool

    def reference(self) -> Json:
        """As a message speaks of it."""
        return {"class" if self.is_class else "function": self.number}


def refer(value: Any, encode: Callable[[Any], Json]) -> Json | None:
    """How the examining side speaks of its objects: only of those that were lent, and of models, which are rebuilt."""
    if isinstance(value, Toy):
        return {"toy": encode(packed(value))}
    return value.reference() if isinstance(value, Lent) else None


class RemoteAnswer:
    """``Answer`` for an object in another process; see there for what each method does."""

    def __init__(self, peer: Peer, objects: Objects, about: Any, witness: Witness) -> None:
        if not isinstance(about, dict) or not {"number", "class", "callable", "what"} <= set(about):
            raise WireError("an answer that is not described")
        self.peer, self.objects, self.witness = peer, objects, witness
        self.number = about["number"]
        self.is_class, self.is_callable = bool(about["class"]), bool(about["callable"])
        self.described = words_of(about["what"])
        self.target: Any = (RemoteClass if self.is_class else RemoteFunction)(peer, self.number)

    @contextmanager
    def session(self) -> Iterator[None]:
        # The misconceptions that a diagnosis tries run here, and are not to be heard either.
        with exam_settings(), silence(), torch.random.fork_rng(devices=[]):
            self.peer.random = torch.get_rng_state()
            self.peer.ask("begin", answer=self.number)
            yield
            self.peer.ask("end")

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        self.peer.ask("seed", seed=seed)
        yield

    def used(self, use: str) -> Callable[..., Any]:
        return RemoteFunction(self.peer, self.peer.ask("used", answer=self.number, use=use))

    def default_dtype(self) -> str:
        return words_of(self.peer.ask("default_dtype"))

    def named_in_code(self, operators: tuple[Operators, ...]) -> dict[str, str]:
        return _labels(self.peer.ask("named_in_code", answer=self.number, operators=_listed(operators)), operators)

    def named_in_run(
        self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], operators: tuple[Operators, ...]
    ) -> dict[str, str]:
        found = self.peer.ask("named_in_run", **self._call(function, args, kwargs), operators=_listed(operators))
        return _labels(found, operators)

    def cost(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], backward: bool = False) -> Cost:
        call = self._call(function, args, kwargs)
        counted, grown = self.witness(lambda: self.peer.ask("cost", **call, backward=backward))
        names = [field.name for field in fields(Cost)]
        if not isinstance(counted, dict) or any(type(counted.get(name)) is not int for name in names):
            raise WireError("a cost that is not counted")
        cost = Cost(*(counted[name] for name in names))
        # The counters are kept by the process that they count for; what it took from the system is not.
        return replace(cost, peak=max(cost.peak, grown - UNCOUNTED_BYTES))

    def helpers(self, names: set[str]) -> set[str]:
        used = self.peer.ask("helpers", answer=self.number, names=sorted(names))
        if not isinstance(used, list):
            raise WireError("helpers that are no list")
        return names & {name for name in used if isinstance(name, str)}

    @contextmanager
    def rebound(self, helpers: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
        with ExitStack() as lending:
            lent = {name: lending.enter_context(self._lent(helper)) for name, helper in helpers.items()}
            self.peer.ask("rebind", answer=self.number, helpers=lent)
            self._forget()
            yield
            self.peer.ask("restore")
            self._forget()

    def _forget(self) -> None:
        if self.is_class:
            self.target.forget()

    @contextmanager
    def lent(self, function: Callable[..., Any]) -> Iterator[Any]:
        with self._lent(nameless(function)) as lent:
            yield lent

    @contextmanager
    def _lent(self, value: Any) -> Iterator[Lent]:
        with self.objects.lent(value) as number:
            yield Lent(number, isinstance(value, type))

    def _call(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        parameters = dict(function.named_parameters()) if isinstance(function, RemoteModule) else None
        return {"target": number_of(function), "args": args, "kwargs": dict(kwargs), "parameters": parameters}


def _listed(operators: tuple[Operators, ...]) -> list[Any]:
    return [[family.label, list(family.patterns)] for family in operators]


def _labels(found: Any, operators: tuple[Operators, ...]) -> dict[str, str]:
    """The labels that there are, each with a name that is short enough to be shown."""
    if not isinstance(found, dict):
        raise WireError("labels that are none")
    return {family.label: words_of(found[family.label]) for family in operators if family.label in found}


class Services:
    """What the side that answers live on can be asked about them."""

    def __init__(self, peer: Callable[[], Peer]) -> None:
        self.objects = Objects()
        self.peer = peer
        self.answers: dict[int, LocalAnswer] = {}
        self.open = ExitStack()
        self.rebinding = ExitStack()

    def all(self) -> dict[str, Callable[..., Any]]:
        """Every service by its name."""
        return {
            **{name: getattr(self.objects, name) for name in ("call", "backward", "construct", "attribute")},
            **{name: getattr(self, name) for name in ("begin", "end", "seed", "default_dtype", "helpers", "cost")},
            **{name: getattr(self, name) for name in ("named_in_code", "named_in_run", "rebind", "restore", "used")},
        }

    def describe(self, target: Any) -> Any:
        """A number for an answer, and what it is."""
        number = self.objects.hold(target)
        answer = self.answers[number] = LocalAnswer(target)
        return {
            "number": number,
            "class": answer.is_class,
            "callable": answer.is_callable,
            "what": answer.described,
        }

    def found(self, data: Json, decode: Callable[[Json], Any]) -> Any:
        """What stands here for something that the other side lent or described."""
        if "toy" in data:
            return build(**decode(data["toy"]))
        if "function" in data:
            return RemoteFunction(self.peer(), data["function"])
        if "class" in data:
            return RemoteClass(self.peer(), data["class"])
        raise WireError("no value")

    def begin(self, answer: int) -> None:
        """The settings of an exam, until its ``end``."""
        # An exam that was broken off has not put anything back.
        self.restore()
        self.end()
        self.open.enter_context(self.answers[answer].session())

    def end(self) -> None:
        """Puts the settings back."""
        self.open.close()

    def seed(self, seed: int) -> None:
        """Starts the global generator."""
        torch.manual_seed(seed)

    def used(self, answer: int, use: str) -> int:
        """See ``Answer``."""
        return self.objects.hold(self.answers[answer].used(use))

    def default_dtype(self) -> str:
        """PyTorch's default dtype."""
        return str(torch.get_default_dtype())

    def named_in_code(self, answer: int, operators: list[Any]) -> dict[str, str]:
        """See ``Answer``."""
        return self.answers[answer].named_in_code(_families(operators))

    def named_in_run(self, target: int, args: Any, kwargs: Any, parameters: Any, operators: list[Any]) -> Any:
        """See ``Answer``."""
        function = self._function(target, parameters)
        return LocalAnswer(function).named_in_run(function, args, kwargs, _families(operators))

    def cost(self, target: int, args: Any, kwargs: Any, parameters: Any, backward: bool) -> Any:
        """See ``Answer``."""
        function = self._function(target, parameters)
        return asdict(LocalAnswer(function).cost(function, args, kwargs, backward))

    def helpers(self, answer: int, names: list[str]) -> list[str]:
        """See ``Answer``."""
        return sorted(self.answers[answer].helpers(set(names)))

    def rebind(self, answer: int, helpers: dict[str, Any]) -> None:
        """Replaces helpers until ``restore``."""
        self.rebinding.enter_context(self.answers[answer].rebound(helpers))

    def restore(self) -> None:
        """Puts the notebook's own helpers back."""
        self.rebinding.close()

    def _function(self, target: int, parameters: dict[str, torch.Tensor] | None) -> Callable[..., Any]:
        function = self.objects.find(target)
        if parameters is None:
            return function  # type: ignore[no-any-return]
        return lambda *args, **kwargs: torch.func.functional_call(function, parameters, args, kwargs)


def _families(operators: list[Any]) -> tuple[Operators, ...]:
    return tuple(Operators(label, tuple(patterns)) for label, patterns in operators)
