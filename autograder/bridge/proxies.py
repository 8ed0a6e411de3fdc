"""What stands here for an object of the other side: called as the object is, gradients included."""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from autograder.answer.toys import Toy, flat
from autograder.answer.words import Foreign
from autograder.bridge.codec import Json, WireError, parameter_like, words_of
from autograder.bridge.objects import inputs_of
from autograder.bridge.peer import Peer

# What the reply to a call holds (``Objects.call``).
REPLY = {"value", "graph", "changed", "generators", "training", "random"}


# A parameter's name: those of the modules above it, and its own.
NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


class _Held:
    """An object of the other side; it is told when nobody here needs it any more."""

    def __init__(self, peer: Peer, number: Json) -> None:
        if type(number) is not int:
            raise WireError("an object without a number")
        self.peer, self.number = peer, number
        weakref.finalize(self, peer.forget, number)


class RemoteFunction:
    """A function or a method of the other side."""

    def __init__(self, peer: Peer, number: Json) -> None:
        self._held = _Held(peer, number)
        self.__name__ = self.__qualname__ = "fn"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return invoke(self._held.peer, self._held.number, args, kwargs)


class RemoteObject(Foreign):
    """An object that keeps a state on the other side, such as a cache: its methods and its plain attributes."""

    def __init__(self, peer: Peer, number: Json, text: str) -> None:
        super().__init__(text)
        self._held = _Held(peer, number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _attribute(self._held.peer, self._held.number, name)


class RemoteClass:
    """A class of the other side. Called, it makes an object there and gives what stands for it here."""

    def __init__(self, peer: Peer, number: Json) -> None:
        self._held = _Held(peer, number)
        self._known: dict[str, Mapping[str, Tensor]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        peer = self._held.peer
        # A module made like an earlier one has parameters of the same names and shapes: they are sent once.
        alike = repr((args, kwargs))
        known = self._known.get(alike)
        made = peer.ask("construct", target=self._held.number, args=args, kwargs=kwargs, known=known is not None)
        if not isinstance(made, dict) or not isinstance(made.get("parameters"), dict):
            raise WireError("an object that is not described")
        if made.get("module"):
            parameters = made["parameters"] if known is None else known
            if all(isinstance(value, int) for value in (*args, *kwargs.values())):
                self._known[alike] = parameters
            return RemoteModule(peer, made.get("number"), parameters)
        return RemoteObject(peer, made.get("number"), words_of(made.get("what")))

    def forget(self) -> None:
        """Has parameters described anew: what the class makes may have changed."""
        self._known.clear()

    def __getattr__(self, name: str) -> Any:
        """A static method, as ``apply`` of an ``autograd.Function`` is."""
        if name.startswith("__"):
            raise AttributeError(name)
        return _attribute(self._held.peer, self._held.number, name)


class RemoteModule(nn.Module):
    """A module of the other side. Its parameters, copies of those given, are kept here and go along with each call."""

    def __init__(self, peer: Peer, number: Json, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._held = _Held(peer, number)
        modules: dict[str, nn.Module] = {"": self}
        for name, value in parameters.items():
            if not isinstance(value, Tensor) or not NAME.fullmatch(name):
                raise WireError("a module whose parameters are none")
            path, _, last = name.rpartition(".")
            _made(path, modules).register_parameter(last, parameter_like(value.clone()))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives there, with the parameters that it has here."""
        return invoke(self._held.peer, self._held.number, args, kwargs, dict(self.named_parameters()))


def _made(path: str, modules: dict[str, nn.Module]) -> nn.Module:
    """The module at ``path``; it and those on the way to it are added where they are not there yet."""
    if path not in modules:
        above, _, last = path.rpartition(".")
        modules[path] = nn.Module()
        _made(above, modules).add_module(last, modules[path])
    return modules[path]


def number_of(function: Any) -> int:
    """The number that the other side knows a proxy's object by."""
    return int(function._held.number)


def invoke(
    peer: Peer,
    target: int,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    parameters: Mapping[str, Tensor] | None = None,
) -> Any:
    """Calls an object of the other side, as if it were here: inputs that it changes change, results have a graph."""
    given = inputs_of(args, kwargs, parameters)
    recording = torch.is_grad_enabled()
    what = {"args": args, "kwargs": dict(kwargs), "parameters": parameters, "recording": recording}
    reply = peer.ask("call", target=target, **what, random=_random_if_changed(peer))
    if not isinstance(reply, dict) or REPLY - set(reply):
        raise WireError("a call without a result")
    _follow(peer, reply["random"])
    _apply(reply["changed"], given)
    _wind_on(reply["generators"], (*args, *kwargs.values()))
    _switch(reply["training"], (*args, *kwargs.values()))
    results = flat(reply["value"])
    marked = [result.requires_grad for result in results]
    plain = [result.detach() for result in results]
    if reply["graph"] is not None and any(marked) and any(value.requires_grad for value in given):
        plain = list(_Across.apply(_Held(peer, reply["graph"]), marked, plain, *given))
    return _with(reply["value"], iter(plain))


class _Across(torch.autograd.Function):
    """Joins the graph of a call on the other side to the one here."""

    @staticmethod
    def forward(ctx: Any, graph: _Held, marked: list[bool], results: list[Tensor], *given: Tensor) -> Any:
        ctx.graph, ctx.marked, ctx.shapes = graph, marked, [tuple(value.shape) for value in given]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(result for result, mark in zip(results, marked, strict=True) if not mark))
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        arriving = [gradient for gradient, mark in zip(gradients, ctx.marked, strict=True) if mark]
        found = ctx.graph.peer.ask("backward", graph=ctx.graph.number, gradients=arriving)
        if not isinstance(found, list) or len(found) != len(ctx.shapes):
            raise WireError("gradients that are none")
        for gradient, shape in zip(found, ctx.shapes, strict=True):
            if gradient is not None and (not isinstance(gradient, Tensor) or tuple(gradient.shape) != shape):
                raise WireError("a gradient of another shape than its input")
        return (None, None, None, *found)


def _attribute(peer: Peer, target: int, name: str) -> Any:
    found = peer.ask("attribute", target=target, name=name)
    if not isinstance(found, dict) or not {"function", "value"} & set(found):
        raise WireError("an attribute that is none")
    return RemoteFunction(peer, found["function"]) if "function" in found else found["value"]


def _apply(changed: Any, given: list[Tensor]) -> None:
    """Does to the inputs of a call what was done to them on the other side."""
    if not isinstance(changed, list):
        raise WireError("changes that are no list")
    for change in changed:
        if not isinstance(change, dict) or type(change.get("place")) is not int:
            raise WireError("a change of nothing")
        place, now = change["place"], change.get("now")
        if not 0 <= place < len(given) or not isinstance(now, Tensor) or now.dtype != given[place].dtype:
            raise WireError("a change of nothing")
        given[place].data = now.detach().to(given[place].device)
        if given[place].is_leaf and given[place].is_floating_point():
            given[place].requires_grad_(bool(change.get("grad")))
            given[place].grad = _gradient_like(given[place], change.get("left"))


def _switch(training: Any, given: tuple[Any, ...]) -> None:
    """Leaves the models among the arguments of a call in the modes that they were left in on the other side."""
    models = [item for item in given if isinstance(item, Toy)]
    if not isinstance(training, list) or [type(mode) for mode in training] != [bool] * len(models):
        raise WireError("modes that are none")
    for model, mode in zip(models, training, strict=True):
        model.train(mode)


def _gradient_like(value: Tensor, left: Any) -> Tensor | None:
    """The gradient that was left in ``value`` on the other side."""
    if left is None:
        return None
    if not isinstance(left, Tensor) or left.shape != value.shape or left.dtype != value.dtype:
        raise WireError("a gradient of another kind than its input")
    return left.detach().to(value.device)


def _random_if_changed(peer: Peer) -> Tensor | None:
    """The state of the global generator, for the other side to go on from, if it was set since the last call."""
    if peer.random is None or torch.equal(torch.get_rng_state(), peer.random):
        return None
    return torch.get_rng_state()


def _follow(peer: Peer, state: Any) -> None:
    """Brings the global generator to where the call on the other side left it."""
    if peer.random is None:
        return
    if state is not None:
        try:
            torch.set_rng_state(state)
        except (RuntimeError, TypeError) as error:
            raise WireError(f"no state of a generator: {error}") from None
    peer.random = torch.get_rng_state()


def _wind_on(states: Any, arguments: tuple[Any, ...]) -> None:
    """Brings the generators among the arguments to where the other side left theirs."""
    generators = [value for value in arguments if isinstance(value, torch.Generator)]
    if not isinstance(states, list) or len(states) != len(generators):
        raise WireError("states of other generators than there are")
    for generator, state in zip(generators, states, strict=True):
        try:
            generator.set_state(state)
        except (RuntimeError, TypeError) as error:
            raise WireError(f"no state of a generator: {error}") from None


def _with(value: Any, tensors: Any) -> Any:
    """``value`` with its tensors, from left to right, replaced by ``tensors``."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, (tuple, list)):
        return type(value)(_with(item, tensors) for item in value)
    if isinstance(value, dict):
        return {name: _with(item, tensors) for name, item in value.items()}
    return value
