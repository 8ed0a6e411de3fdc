"""An answer in another process, met through the bridge: what crosses, what does not, and what lies are found out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autograder import Verdict
from autograder.answer.local import LocalAnswer
from autograder.answer.toys import build
from autograder.bridge.codec import Reader, WireError, Writer
from autograder.bridge.objects import Objects
from autograder.bridge.peer import Peer, RaisedThere
from autograder.bridge.proxies import RemoteClass, RemoteFunction
from autograder.bridge.remote import RemoteAnswer, Services, refer
from autograder.engine.examine import examine_answer
from autograder.exams import find_exam


class Wire:
    """A socket of this process."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    def send(self, data: bytes) -> None:
        self.end.sendall(data)

    def receive(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            part = self.end.recv(size - len(parts))
            if not part:
                raise EOFError
            parts += part
        return parts


def no_object(data: Any, decode: Callable[[Any], Any]) -> Any:
    raise WireError("no value")


@pytest.fixture
def across() -> Iterator[Callable[[Any], RemoteAnswer]]:
    """Puts an object on the other side, which is a thread here: the same code as between processes."""
    ours, theirs = socket.socketpair()
    services = Services(lambda: student)
    student = Peer(
        Wire(theirs),
        services.all(),
        forget=services.objects.forget,
        refer=lambda value, encode: None,
        find=services.found,
    )
    objects = Objects()
    lending: dict[str, Callable[..., Any]] = {
        "call": objects.call,
        "backward": objects.backward,
        "construct": objects.construct,
    }
    trusted = Peer(Wire(ours), lending, forget=objects.forget, refer=refer, find=no_object)
    thread = threading.Thread(target=student.serve, daemon=True)
    thread.start()
    yield lambda target: RemoteAnswer(trusted, objects, services.describe(target), lambda run: (run(), 0))
    ours.close()
    thread.join(timeout=5)
    theirs.close()


def test_strange_tensors_arrive_as_they_are() -> None:
    base = torch.randn(4, 6, dtype=torch.float64)
    values = {
        "transposed": base.mT,
        "every second": base[:, ::2],
        "a row of many": torch.randn(1000, 50)[7],
        "expanded": torch.ones(3, 1).expand(3, 5),
        "empty": torch.ones(0, 3),
        "a number": torch.tensor(2.5),
        "mask": torch.tensor([True, False]),
        "half": torch.randn(3).bfloat16(),
        "conjugate's imaginary part": torch.randn(3, dtype=torch.complex64).conj().imag,
        "none": None,
        "nested": [1, (2.5, float("inf")), {"a": "b"}, torch.device("cpu")],
    }
    writer = Writer(lambda value, encode: None)
    data = writer.value(values)
    frame = writer.frame({"value": data})
    text, blob = int.from_bytes(frame[:4]), frame[8 + int.from_bytes(frame[:4]) :]
    assert text < 10_000
    found = Reader(writer.tensors, blob, no_object).value(data)
    for name, value in values.items():
        if isinstance(value, Tensor):
            assert torch.equal(found[name], value)
            assert found[name].dtype == value.dtype
        else:
            assert found[name] == value
    assert found["transposed"].stride() == base.mT.stride()
    # What lies in one storage still does, and a row of a large table travels alone.
    found["transposed"][0, 0] = 7.0
    assert found["every second"][0, 0] == 7.0
    assert len(blob) < 2000


LIES = [
    {"tensors": "none"},
    {"tensors": [{"storage": "x"}]},
    {"tensors": [{"dtype": "float32", "device": "cpu", "grad": 0, "shape": [5], "stride": [1], "offset": 0}]},
    {"shape": [9], "stride": [1]},
    {"shape": [3], "stride": [-1]},
    {"shape": [3], "stride": [3]},
    {"shape": [2], "stride": [1], "offset": 3},
    {"shape": [2**30, 2**30], "stride": [0, 0]},
    {"shape": [2, 2], "stride": [1]},
    {"shape": [True], "stride": [1]},
    {"shape": [2], "stride": [1], "dtype": "float64"},
    {"shape": [2], "stride": [1], "dtype": "complex64"},
    {"shape": [2], "stride": [1], "device": "elsewhere"},
    {"shape": [1] * 40, "stride": [1] * 40},
    {"shape": ["2"], "stride": [1]},
]


@pytest.mark.parametrize("lie", LIES)
def test_tensors_that_lie_are_refused(lie: dict[str, Any]) -> None:
    writer = Writer(lambda value, encode: None)
    writer.value(torch.randn(4))
    frame = writer.frame({})
    blob = frame[8 + int.from_bytes(frame[:4]) :]
    tensors = lie.get("tensors", [{**writer.tensors[0], **lie}])
    with pytest.raises(WireError):
        Reader(tensors, blob, no_object)


@pytest.mark.parametrize(
    "data",
    [5, [1], {}, {"number": "a"}, {"number": "9" * 100}, {"tensor": 0}, {"tensor": True}, {"dict": [1]}, {"pickle": ""},
     {"device": "/dev/sda"}, {"function": 3}],
)  # fmt: skip
def test_values_that_are_none_are_refused(data: Any) -> None:
    with pytest.raises(WireError):
        Reader([], b"", no_object).value(data)


def test_a_deep_value_is_refused() -> None:
    data: Any = None
    for _ in range(2000):
        data = {"list": [data]}
    with pytest.raises(WireError):
        Reader([], b"", no_object).value(data)


def test_bytes_that_are_no_safetensors_are_refused() -> None:
    with pytest.raises(WireError):
        Reader([], b"\x00" * 64, no_object)


def test_gradients_and_gradcheck_cross(across: Callable[[Any], RemoteAnswer]) -> None:
    fn = across(lambda x, y: (x.sin() @ y, y.sum())).target
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fn, (x, y))
    first, second = fn(x, y)
    grads = torch.autograd.grad(first.sum() + 2 * second, (x, y))
    wanted = torch.autograd.grad((x.sin() @ y).sum() + 2 * y.sum(), (x, y))
    assert all(torch.allclose(a, b) for a, b in zip(grads, wanted, strict=True))


def test_a_severed_graph_stays_severed(across: Callable[[Any], RemoteAnswer]) -> None:
    x = torch.randn(3, requires_grad=True)
    assert not across(lambda x: x.detach() * 2).target(x).requires_grad
    some, other = across(lambda x, y: (x * 2, y.detach())).target(x, x)
    assert some.requires_grad
    assert not other.requires_grad
    y = torch.randn(3, requires_grad=True)
    (grad,) = torch.autograd.grad(across(lambda x, y: x * 2).target(x, y).sum(), y, allow_unused=True)
    assert grad is None


def test_one_tensor_given_twice_is_one_tensor_there(across: Callable[[Any], RemoteAnswer]) -> None:
    x = torch.randn(3, 3, requires_grad=True)
    same = across(lambda a, b: torch.tensor(float(a is b))).target
    assert same(x, x) == 1
    assert same(x, x.clone()) == 0
    (grad,) = torch.autograd.grad(across(lambda a, b: a @ b).target(x, x).sum(), x)
    assert torch.allclose(grad, torch.autograd.grad((x @ x).sum(), x)[0])


def test_changes_of_inputs_are_seen(across: Callable[[Any], RemoteAnswer]) -> None:
    x, y = torch.zeros(3), torch.ones(2)
    across(lambda x, y: x.add_(1)).target(x, y)
    assert torch.equal(x, torch.ones(3))
    across(lambda x: x.unsqueeze_(0).requires_grad_()).target(x)
    assert x.shape == (1, 3)
    assert x.requires_grad
    assert torch.equal(y, torch.ones(2))


def test_generators_move_on(across: Callable[[Any], RemoteAnswer]) -> None:
    ours, other = (torch.Generator().manual_seed(3) for _ in range(2))
    draw = across(lambda n, generator: torch.randn(n, generator=generator)).target
    for _ in range(2):
        assert torch.equal(draw(4, generator=ours), torch.randn(4, generator=other))


def test_the_global_generator_is_one_for_both_sides(across: Callable[[Any], RemoteAnswer]) -> None:
    answer = across(lambda n: torch.randn(n))
    with answer.session():
        torch.manual_seed(5)
        first, second = answer.target(3), answer.target(3)
        torch.manual_seed(5)
        assert torch.equal(answer.target(3), first)
        assert torch.equal(torch.randn(3), second)


def test_modules_take_the_parameters_that_they_are_given(across: Callable[[Any], RemoteAnswer]) -> None:
    class Two(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(width, 3), nn.Linear(3, 2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.first(x))

    module, twin = across(Two).target(width=4), Two(4)
    assert isinstance(module, nn.Module)
    assert {name: value.shape for name, value in module.named_parameters()} == {
        name: value.shape for name, value in twin.named_parameters()
    }
    module.load_state_dict(twin.state_dict())
    x = torch.randn(5, 4, requires_grad=True)
    assert torch.allclose(module(x), twin(x))
    for found, wanted in zip(
        torch.autograd.grad(module(x).sum(), [x, *module.parameters()]),
        torch.autograd.grad(twin(x).sum(), [x, *twin.parameters()]),
        strict=True,
    ):
        assert torch.allclose(found, wanted)


def test_modules_made_alike_are_described_once(across: Callable[[Any], RemoteAnswer]) -> None:
    sizes = [5]

    class Layer(nn.Linear):
        def __init__(self, width: int) -> None:
            super().__init__(width, sizes[0])

    answer = across(Layer)
    first, second = answer.target(3), answer.target(3)
    assert first.weight is not second.weight
    with torch.no_grad():
        first.weight.zero_()
    assert second(torch.ones(3)).shape == (5,)
    assert bool(answer.target(3).weight.any())
    assert answer.target(4).weight.shape == (5, 4)
    sizes[0] = 6
    with answer.rebound({}):
        assert answer.target(3).weight.shape == (6, 3)


def test_a_model_is_built_there_and_what_is_done_to_it_is_seen_here(across: Callable[[Any], RemoteAnswer]) -> None:
    toy = build("Recurrent", {"d_model": 3}, {"w": torch.randn(3, 3), "u": torch.randn(3, 3)})
    x = torch.randn(4, 3)

    def reach(model: nn.Module, x: Tensor) -> Tensor:
        given = x.detach().requires_grad_()
        return torch.autograd.grad(model(given).sum(), given)[0]

    assert torch.equal(across(reach).target(toy, x), reach(toy, x))
    assert all(weight.grad is None and weight.requires_grad for weight in toy.parameters())
    across(lambda model, x: model(x).sum().backward()).target(model=toy, x=x)
    assert all(weight.grad is not None for weight in toy.parameters())
    across(lambda model: model.requires_grad_(False) and None).target(toy)
    assert not any(weight.requires_grad for weight in toy.parameters())
    across(lambda model: model.eval() and None).target(toy)
    assert not toy.training
    across(lambda model: model.train(not model.training) and None).target(toy)
    assert toy.training, "it came there in the mode that it was in"
    # Ours go there; theirs are not taken, for anybody can describe a model of any size.
    assert across(lambda model: model).target(toy).text == "a Recurrent"
    with pytest.raises(WireError):
        Reader([], b"", no_object).value({"toy": {"dict": []}})


def test_objects_keep_their_state(across: Callable[[Any], RemoteAnswer]) -> None:
    class Cache:
        def __init__(self, most: int) -> None:
            self.keys, self.length = torch.zeros(most, 2), 0

        def update(self, k: Tensor) -> Tensor:
            self.keys[self.length : self.length + len(k)] = k
            self.length += len(k)
            return self.keys[: self.length]

    cache = across(Cache).target(most=8)
    assert cache.update(torch.ones(2, 2)).shape == (2, 2)
    assert torch.equal(cache.update(k=torch.zeros(1, 2)), torch.tensor([[1.0, 1], [1, 1], [0, 0]]))
    assert cache.length == 3
    with pytest.raises(AttributeError):
        _ = cache.nbytes


def test_an_answer_is_used_where_it_lives(across: Callable[[Any], RemoteAnswer]) -> None:
    answer = across(lambda n: 3 * n)
    assert answer.used("count")(2**40).item() == 3 * 2**40
    x = torch.ones(1)
    assert across(lambda x: len(x)).cost(across(lambda x: len(x @ x.mT)).used("count"), (x[None],), {}).flops == 2
    with pytest.raises(TypeError, match="a float; a whole number"):
        answer.used("count")(0.5)
    with pytest.raises(LookupError):
        answer.used("misuse")


def test_an_autograd_function_is_applied(across: Callable[[Any], RemoteAnswer]) -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 3 * grad

    answer = across(Double)
    assert answer.is_class
    x = torch.ones(2, requires_grad=True)
    assert torch.equal(torch.autograd.grad(answer.target.apply(x).sum(), x)[0], torch.full((2,), 3.0))


def test_errors_cross_as_text(across: Callable[[Any], RemoteAnswer]) -> None:
    class OddError(ValueError):
        pass

    def fails(x: Tensor) -> Tensor:
        raise OddError("three is odd")

    with pytest.raises(RaisedThere, match="three is odd") as caught:
        across(fails).target(torch.ones(1))
    assert caught.value.kinds[:2] == ("OddError", "ValueError")
    assert isinstance(caught.value, ValueError)
    with pytest.raises(RaisedThere) as left:
        across(lambda x: exit(3)).target(torch.ones(1))
    assert left.value.kinds[0] == "SystemExit"


def test_what_does_not_travel_is_described(across: Callable[[Any], RemoteAnswer]) -> None:
    for value, words in (
        (torch.ones(2).numpy(), "a ndarray"),
        (torch.eye(2).to_sparse(), "a sparse or nested tensor"),
        (nn.Linear(1, 1), "a Linear"),
        (torch.ones(1, dtype=torch.complex64), "a complex tensor"),
        (lambda: 0, "a function"),
    ):
        assert across(lambda value=value: value).target().text == words


def test_a_test_of_tests_calls_back(across: Callable[[Any], RemoteAnswer]) -> None:
    kept = []

    def check(fn: Callable[[Tensor], Tensor]) -> bool:
        kept.append(fn)
        x = torch.randn(3, requires_grad=True)
        (grad,) = torch.autograd.grad(fn(x).sum(), x)
        return torch.allclose(grad, 2 * x)

    answer = across(check)
    with answer.lent(lambda x: x**2) as right:
        assert answer.target(right) is True
    with answer.lent(lambda x: x**3) as wrong:
        assert answer.target(wrong) is False
    # What was lent can't be kept, and shows nothing of what it is.
    with pytest.raises(LookupError, match="no longer yours"):
        across(lambda: kept[0](torch.ones(1))).target()
    assert isinstance(kept[0], RemoteFunction)
    assert kept[0].__name__ == "fn"


def test_helpers_are_replaced_by_those_of_this_side(across: Callable[[Any], RemoteAnswer]) -> None:
    namespace: dict[str, Any] = {"torch": torch, "nn": nn}
    exec(
        "def helper(x):\n    return 0 * x\n"
        "class Layer(nn.Module):\n    pass\n"
        "def answer(x):\n    return helper(x) + Layer(3, bias=False)(x).sum() * 0\n",
        namespace,
    )
    answer = across(namespace["answer"])
    assert answer.helpers({"helper", "Layer", "torch"}) == {"helper", "Layer"}
    x = torch.ones(2, 3, requires_grad=True)

    class Layer(nn.Linear):
        def __init__(self, width: int, bias: bool) -> None:
            super().__init__(width, width, bias=bias)

    with answer.rebound({"helper": lambda x: 5 * x, "Layer": Layer}):
        assert torch.equal(torch.autograd.grad(answer.target(x).sum(), x)[0], torch.full((2, 3), 5.0))
    with pytest.raises(TypeError):
        answer.target(x)


def test_a_cost_that_is_not_counted_is_witnessed(across: Callable[[Any], RemoteAnswer]) -> None:
    answer = across(lambda x: x @ x.mT)
    x = torch.randn(64, 8)
    assert answer.cost(answer.target, (x,), {}).flops == 2 * 64 * 64 * 8
    assert answer.cost(answer.target, (x,), {}, backward=True).flops == 3 * 2 * 64 * 64 * 8
    assert 64 * 64 * 4 <= answer.cost(answer.target, (x,), {}).peak < 10**6
    answer.witness = lambda run: (run(), 10**9)
    assert answer.cost(answer.target, (x,), {}).peak > 9 * 10**8


def test_classes_stay_classes(across: Callable[[Any], RemoteAnswer]) -> None:
    assert isinstance(across(nn.Linear).target, RemoteClass)
    assert examine_answer("SelfAttention", across(nn.Linear(1, 1))).note.endswith("it is a Linear.")
    assert "no `softmax`" in examine_answer("softmax", across(None)).note


def brief(verdict: Verdict) -> Any:
    """All but the messages: an error's own words may differ where a tensor was changed on its way."""
    return verdict.points, verdict.diagnosis, verdict.note, [(found.name, found.points) for found in verdict.findings]


def test_an_exam_says_the_same_on_both_sides(across: Callable[[Any], RemoteAnswer], exercise: str, seed: int) -> None:
    """The same exam, the same seed: the verdict does not tell where the answer lives."""
    exam = find_exam(exercise)
    for answer in (exam.variants[0].implementation, exam.misconceptions[0].implementation):
        here = examine_answer(exercise, LocalAnswer(answer), seed=seed)
        there = examine_answer(exercise, across(answer), seed=seed)
        assert brief(there) == brief(here), answer.__name__
