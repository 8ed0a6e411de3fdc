"""Values as JSON and safetensors, never pickle.

Safetensors takes neither shared nor strided tensors, so what travels are storages, each once, and beside them how the
tensors lie in them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, TensorSpec, serialize
from safetensors.torch import load
from torch import Tensor, nn

from autograder.answer.words import Foreign, described, is_plain
from autograder.bridge.text import readable

Json: TypeAlias = Any

HEADER = struct.Struct(">II")
MOST_JSON, MOST_BLOB = 2**25, 2**28
MOST_AXES, MOST_TENSORS = 16, 4096
MOST_REPEATED = 2**20
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
DEVICES = ("cpu", "cuda", "mps")


# How one side speaks of an object that is no plain value, and how the other one takes it.
Refer: TypeAlias = Callable[[Any, Callable[[Any], Json]], Json | None]
Find: TypeAlias = Callable[[Json, Callable[[Json], Any]], Any]


class WireError(Exception):
    """A message that no honest side sends."""


@dataclass(frozen=True)
class Reference:
    """An object that stays where it is, by the number that its owner gave it."""

    number: int


@dataclass
class Writer:
    """Turns the values of one message into JSON and storages.

    ``refer`` says how to speak of any other object, given what turns its parts into JSON, and gives None for what does
    not travel at all.
    """

    refer: Refer
    tensors: list[Json] = field(default_factory=list)
    storages: dict[str, Tensor] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)

    def value(self, value: Any) -> Json:
        """``value`` as JSON, with the numbers of its tensors."""
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, np.generic):
            return self.value(value.item())
        if isinstance(value, (int, float)):
            return {"number": repr(float(value) if isinstance(value, float) else int(value))}
        if isinstance(value, (tuple, list)):
            return {type(value).__name__ if type(value) in (tuple, list) else "tuple": [self.value(v) for v in value]}
        if isinstance(value, dict):
            return {"dict": [[str(name), self.value(item)] for name, item in value.items()]}
        if isinstance(value, torch.device):
            return {"device": value.type}
        if isinstance(value, torch.Generator):
            return {"generator": value.device.type, "state": self.tensor(value.get_state())}
        if is_plain(value) and str(value.dtype).removeprefix("torch.") in DTYPES:
            return {"tensor": self.tensor(value)}
        reference = self.refer(value, self.value)
        return {"foreign": described(value)} if reference is None else reference

    def tensor(self, value: Tensor) -> int:
        """The number of ``value`` in the message; the same object has the same number."""
        if id(value) not in self.places:
            self.places[id(value)] = len(self.tensors)
            self.kept.append(value)
            self.tensors.append(self._layout(value))
        return self.places[id(value)]

    def _layout(self, value: Tensor) -> Json:
        plain = value.detach().resolve_neg()
        size = plain.untyped_storage().nbytes() // plain.element_size()
        if size > 4 * plain.numel() or plain.numel() > max(size, MOST_REPEATED):
            # A small piece of something large: what lies around it is not sent. An element repeated very often: it is
            # sent as often, so that a message is never far smaller than what it stands for.
            plain = plain.contiguous().clone()
            size = plain.numel()
        name = f"{plain.untyped_storage()._cdata}.{plain.dtype}" if size else ""
        if size and name not in self.storages:
            flat = torch.empty(0, dtype=plain.dtype, device=plain.device)
            self.storages[name] = flat.set_(plain.untyped_storage(), 0, (size,), (1,)).cpu()
            self.kept.append(plain)
        return {
            "storage": name,
            "dtype": str(plain.dtype).removeprefix("torch."),
            "shape": list(plain.shape),
            "stride": list(plain.stride()),
            "offset": plain.storage_offset(),
            "grad": value.requires_grad,
            "device": value.device.type,
        }

    def frame(self, message: Json) -> bytes:
        """The message with its storages, ready to be sent."""
        text = json.dumps({**message, "tensors": self.tensors}).encode()
        blob = _saved(self.storages) if self.storages else b""
        if len(text) > MOST_JSON or len(blob) > MOST_BLOB:
            raise ValueError(f"{len(text) + len(blob):,} bytes are too many to be handed over")
        return HEADER.pack(len(text), len(blob)) + text + blob


def _saved(storages: dict[str, Tensor]) -> bytes:
    """As ``safetensors.torch.save``, which asks what is known of these: flat, on the CPU, none a part of another."""
    specs = {
        name: TensorSpec(
            dtype=str(flat.dtype).removeprefix("torch."),
            shape=list(flat.shape),
            data_ptr=flat.data_ptr(),
            data_len=flat.nbytes,
        )
        for name, flat in storages.items()
    }
    return bytes(serialize(specs))


def lengths(header: bytes) -> tuple[int, int]:
    """How many bytes of JSON and of safetensors follow.

    Raises:
        WireError: more than anybody has to say.
    """
    text, blob = HEADER.unpack(header)
    if text > MOST_JSON or blob > MOST_BLOB:
        raise WireError(f"a message of {text + blob:,} bytes")
    return text, blob


def parsed(text: bytes) -> dict[str, Json]:
    """The JSON part of a message.

    Raises:
        WireError: it is not a JSON object.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise WireError("not a JSON object")
    return message


class Reader:
    """Makes the values of one message; everything is checked, nothing is taken on trust.

    ``find`` gives what any other object stands for here, given what makes values of its parts.
    """

    def __init__(self, tensors: Json, blob: bytes, find: Find) -> None:
        self.find = find
        if not isinstance(tensors, list) or len(tensors) > MOST_TENSORS:
            raise WireError("tensors that are no list")
        try:
            storages = {name: flat.clone() for name, flat in load(blob).items()} if blob else {}
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise WireError(f"not safetensors: {type(error).__name__}") from None
        self.tensors = [_laid_out(about, storages) for about in tensors]

    def value(self, data: Json, depth: int = 0) -> Any:
        """The value that ``Writer.value`` described.

        Raises:
            WireError: nothing describes a value like this.
        """
        if data is None or isinstance(data, (bool, str)):
            return data
        if not isinstance(data, dict) or not data or depth > MOST_AXES:
            raise WireError(f"no value: {_brief(data)}")
        kind, content = next(iter(data.items()))
        if kind == "number":
            return _number(content)
        if kind in ("tuple", "list") and isinstance(content, list):
            values = [self.value(item, depth + 1) for item in content]
            return tuple(values) if kind == "tuple" else values
        if kind == "dict" and isinstance(content, list):
            return {name: self.value(item, depth + 1) for name, item in map(_pair, content)}
        if kind == "device" and content in DEVICES:
            return torch.device(content)
        if kind == "tensor":
            return self.tensor(content)
        if kind == "generator" and content in DEVICES:
            return _generator(content, self.tensor(data.get("state")))
        if kind == "foreign" and isinstance(content, str):
            return Foreign(readable(content[:200]))
        return self.find(data, lambda part: self.value(part, depth + 1))

    def tensor(self, number: Json) -> Tensor:
        """The tensor with this number."""
        if type(number) is not int or not 0 <= number < len(self.tensors):
            raise WireError(f"no tensor {_brief(number)}")
        return self.tensors[number]


def _brief(data: Json) -> str:
    """A word on what came; anything that is not short text may be too deep or too long to be shown."""
    return repr(data[:60]) if isinstance(data, str) else type(data).__name__


def _number(content: Json) -> int | float:
    # As text: JSON has no NaN, and Python's own parser would read an integer of a million digits.
    if isinstance(content, str) and len(content) <= 64:
        for kind in (int, float):
            try:
                return kind(content)
            except ValueError:
                continue
    raise WireError(f"no number: {_brief(content)}")


def _pair(item: Json) -> tuple[str, Json]:
    if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str):
        raise WireError("a dict whose items are no pairs")
    return item[0], item[1]


def _generator(device: str, state: Tensor) -> torch.Generator:
    try:
        generator = torch.Generator(device)
        generator.set_state(state)
    except (RuntimeError, TypeError) as error:
        raise WireError(f"no state of a generator: {error}") from None
    return generator


def _laid_out(about: Json, storages: dict[str, Tensor]) -> Tensor:
    """A tensor as it lay in memory on the other side, never past the end of its storage."""
    try:
        dtype, device, grad = DTYPES[about["dtype"]], about["device"], about["grad"]
        shape, stride, offset = about["shape"], about["stride"], about["offset"]
        flat = storages[about["storage"]] if about["storage"] else torch.empty(0, dtype=dtype)
        whole = all(type(n) is int and 0 <= n < 2**31 for n in (*shape, *stride, offset))
    except (TypeError, KeyError) as error:
        raise WireError(f"no tensor: {type(error).__name__}") from None
    if not whole or len(shape) != len(stride) or len(shape) > MOST_AXES or device not in DEVICES:
        raise WireError("a tensor of no possible shape")
    numbers = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if numbers else 0
    if flat.dtype != dtype or flat.ndim != 1 or numbers * dtype.itemsize > MOST_BLOB:
        raise WireError("a tensor that is not of its storage")
    if numbers > max(flat.numel(), MOST_REPEATED):
        raise WireError("a tensor that is far larger than its storage")
    if numbers and last >= flat.numel():
        raise WireError("a tensor that reaches past its storage")
    if not numbers:
        return torch.empty(shape, dtype=dtype).requires_grad_(bool(grad) and dtype.is_floating_point)
    if device != "cpu":
        flat = _moved(about["storage"], device, storages)
    tensor = torch.empty(0, dtype=dtype, device=device).set_(flat.untyped_storage(), offset, shape, stride)
    return tensor.requires_grad_(bool(grad) and dtype.is_floating_point)


def _moved(name: str, device: str, storages: dict[str, Tensor]) -> Tensor:
    """A storage on ``device``, once for all the tensors that share it."""
    key = f"{name} on {device}"
    if key not in storages:
        try:
            storages[key] = storages[name].to(device)
        except (RuntimeError, AssertionError):
            raise WireError(f"a tensor on {device}, which this machine has not") from None
    return storages[key]


def parameter_like(value: Tensor) -> nn.Parameter:
    """``value`` as a parameter, for a module that stands in for one on the other side."""
    return nn.Parameter(value.detach(), requires_grad=value.is_floating_point())


def words_of(value: Any) -> str:
    """A short text that the other side gave.

    Raises:
        WireError: it gave something else.
    """
    if not isinstance(value, str):
        raise WireError("no words")
    return readable(value[:200])
