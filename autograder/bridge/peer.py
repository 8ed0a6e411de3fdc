"""One end of a boundary: asks the other side, and answers what that side asks in the meantime."""

from __future__ import annotations

import builtins
import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from autograder.bridge.codec import HEADER, Find, Json, Reader, Refer, WireError, Writer, lengths, parsed
from autograder.bridge.text import readable

# Errors that a student's own test may want to catch by their class.
FAMILIAR = (
    *("ArithmeticError", "AssertionError", "AttributeError", "ImportError", "IndexError", "KeyError", "LookupError"),
    *("MemoryError", "NameError", "NotImplementedError", "OverflowError", "RuntimeError", "TypeError", "ValueError"),
    *("ZeroDivisionError",),
)
MOST_WORDS = 2000
DEEPEST = 8


class Channel(Protocol):
    """Takes and gives bytes, in order."""

    def send(self, data: bytes) -> None:
        """Hands over all of ``data``."""

    def receive(self, size: int) -> bytes:
        """Exactly ``size`` bytes.

        Raises:
            EOFError: the other side is gone.
        """


class TimeLimit(BaseException):  # no error that an `except Exception` may take for its own
    """The other side stopped itself, as what was asked took too long."""


class Peer:
    """Calls across the boundary, one at a time; the other side may call back before it answers.

    Args:
        channel: what carries the messages.
        services: what the other side may ask, by name. A service gets values and gives one.
        forget: takes the numbers of objects that the other side needs no more.
        refer: how to speak of objects of this side, where they may be spoken of at all.
        find: what the other side's objects are here.
        within: entered while something is answered, with the seconds that it may take; None stands for no limit.
    """

    def __init__(
        self,
        channel: Channel,
        services: Mapping[str, Callable[..., Any]],
        *,
        forget: Callable[[list[Json]], None],
        refer: Refer,
        find: Find,
        within: Callable[[float | None], AbstractContextManager[None]] = lambda seconds: nullcontext(),
    ) -> None:
        self.channel, self.services, self.let_go = channel, services, forget
        self.refer, self.find, self.within = refer, find, within
        self.numbers = itertools.count(1)
        self.forgotten: list[int] = []
        self.depth = 0
        self.seconds_left: Callable[[], float | None] = lambda: None
        # The state of this side's global generator when the two sides last agreed on it; None while they need not.
        self.random: Any = None

    def ask(self, service: str, **what: Any) -> Any:
        """What the other side's ``service`` gives for ``what``.

        Raises:
            Exception: one whose class is looked up by name, if the service raised.
            TimeLimit: it took longer than ``seconds_left``.
            WireError: the other side does not keep to the rules.
        """
        number = next(self.numbers)
        writer = Writer(self.refer)
        content = writer.value(what)
        forget, self.forgotten = self.forgotten, []
        message = {"ask": number, "service": service, "what": content, "forget": forget, "seconds": self.seconds_left()}
        self.channel.send(writer.frame(message))
        while True:
            message, reader = self._receive()
            if "ask" in message:
                self._answer(message, reader)
            elif message.get("reply") != number:
                raise WireError("a reply to nothing that was asked")
            elif "raised" in message:
                raise _error(message["raised"])
            else:
                return reader.value(message.get("value"))

    def serve(self) -> None:
        """Answers until the other side is gone."""
        while True:
            try:
                message, reader = self._receive()
            except EOFError:
                return
            self._answer(message, reader)

    def forget(self, number: int) -> None:
        """Tells the other side, when something is next asked, that its object ``number`` is not needed any more."""
        self.forgotten.append(number)

    def _receive(self) -> tuple[dict[str, Json], Reader]:
        text_size, blob_size = lengths(self.channel.receive(HEADER.size))
        message = parsed(self.channel.receive(text_size))
        blob = self.channel.receive(blob_size) if blob_size else b""
        return message, Reader(message.get("tensors"), blob, self.find)

    def _answer(self, message: dict[str, Json], reader: Reader) -> None:
        name, forget = message.get("service"), message.get("forget")
        service = self.services.get(name) if isinstance(name, str) else None
        seconds, what = message.get("seconds"), reader.value(message.get("what"))
        if service is None or not isinstance(what, dict) or not isinstance(forget, list) or self.depth >= DEEPEST:
            raise WireError("asks for what there is not")
        if not isinstance(seconds, (int, float, type(None))):
            raise WireError("a time limit that is no number")
        writer = Writer(self.refer)
        self.let_go(forget)
        self.depth += 1
        try:
            with self.within(seconds):
                reply = {"value": writer.value(service(**what))}
            frame = writer.frame({"reply": message.get("ask"), **reply})
        except (Exception, SystemExit, TimeLimit) as error:
            if isinstance(error, (WireError, EOFError)):
                raise
            frame = Writer(self.refer).frame({"reply": message.get("ask"), "raised": _told(error)})
        finally:
            self.depth -= 1
        self.channel.send(frame)


class RaisedThere(Exception):  # noqa: N818  # it is whatever was raised, not an error of this module
    """What the other side raised: the names of its classes, the first its own, and its text."""

    def __init__(self, kinds: tuple[str, ...], text: str) -> None:
        super().__init__(text)
        self.kinds = kinds


def _told(error: BaseException) -> Json:
    kinds = getattr(error, "kinds", None) or [kind.__name__ for kind in type(error).__mro__]
    try:
        text = str(error)
    except Exception:
        text = "an error that cannot be printed"
    return {"kinds": [str(kind) for kind in kinds][:20], "text": text[:MOST_WORDS]}


def _error(told: Json) -> BaseException:
    """An error to be raised here for one that was raised there; familiar classes can be caught as such."""
    if not isinstance(told, dict) or not isinstance(told.get("kinds"), list) or not told["kinds"]:
        raise WireError("an error of no class")
    if not all(isinstance(word, str) for word in (*told["kinds"], told.get("text"))):
        raise WireError("an error without words")
    kinds, text = tuple(readable(kind[:200]) for kind in told["kinds"][:20]), readable(told["text"][:MOST_WORDS])
    if kinds[0] == TimeLimit.__name__:
        return TimeLimit(text)
    familiar = next((getattr(builtins, kind) for kind in kinds if kind in FAMILIAR), None)
    if familiar is None:
        return RaisedThere(kinds, text)
    error: BaseException = type(kinds[0], (RaisedThere, familiar), {})(kinds, text)
    return error
