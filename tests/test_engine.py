"""The engine, on answers to the two topics: what it sees, what it says, what it leaves alone."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autograder import Verdict, examine, mark
from autograder.course import CourseError, topics
from autograder.engine.checks import Gradients, Growth, Habits, Properties, Values, counterexample
from autograder.engine.exam import Case, Exam, Here, Seeded
from autograder.exams import find_exam

Answer = Callable[..., Any]


def right_softmax(x: Tensor, dim: int = -1) -> Tensor:
    exponentials = torch.exp(x - x.amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


def right_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


def failed(verdict: Verdict) -> list[str]:
    return [finding.name for finding in verdict.findings if not finding.passed]


def test_points_are_the_cells_and_follow_the_weights() -> None:
    def detached(x: Tensor, dim: int = -1) -> Tensor:
        return right_softmax(x.detach(), dim)

    verdict = examine("softmax", detached, points=10)
    assert verdict.max_points == 10
    assert failed(verdict) == ["gradients"]
    assert verdict.points == pytest.approx(10 * 4 / 5)
    assert examine("softmax", right_softmax, points=0.7).points == 0.7


def test_mark_gives_a_plain_finite_float(capsys: pytest.CaptureFixture[str]) -> None:
    points = mark("softmax", {"softmax": right_softmax}, points=3)
    assert type(points) is float
    assert points == 3.0
    assert "softmax: 3 of 3 points" in capsys.readouterr().out
    assert mark("softmax", {}, points=3) == 0.0
    assert "no `softmax` in the notebook" in capsys.readouterr().out


def test_a_verdict_survives_json() -> None:
    verdict = examine("softmax", lambda x, dim=-1: torch.exp(x), seed=1)
    assert Verdict.from_dict(verdict.to_dict()) == verdict


@pytest.mark.parametrize(
    ("value", "words"),
    [(3, "an int"), ("softmax", "a str"), (torch.ones(2), "a Tensor"), ([right_softmax], "a list of 1")],
)
def test_what_is_not_callable_gets_nothing_and_a_sentence(value: Any, words: str) -> None:
    verdict = examine("softmax", value)
    assert verdict.points == 0
    assert f"it is {words}." in str(verdict)


def test_an_instance_is_not_taken_for_the_class() -> None:
    verdict = examine("SelfAttention", find_exam("SelfAttention").variants[0].implementation(4, 4, 4))
    assert verdict.points == 0
    assert "is to be a class" in str(verdict)


def test_unwritten_code_says_so() -> None:
    def unwritten(x: Tensor, dim: int = -1) -> Tensor:
        raise NotImplementedError

    text = str(examine("softmax", unwritten))
    assert "not written yet" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, dim=-1: None, "None (is a `return` missing?)"),
        (lambda x, dim=-1: right_softmax(x, dim).tolist(), "a list"),
        (lambda x, dim=-1: (right_softmax(x, dim), x), "a tuple of 2, not one tensor"),
        (lambda x, dim=-1: right_softmax(x, dim).numpy(), "a ndarray"),
        (lambda x, dim=-1: right_softmax(x, dim)[None], "not (5,)"),
        (lambda x: right_softmax(x), "unexpected keyword argument 'dim'"),
        (lambda x, dim=-1: 1 / 0, "it raises ZeroDivisionError"),
    ],
)
def test_messages_say_what_came(answer: Answer, words: str) -> None:
    verdict = examine("softmax", answer)
    assert verdict.points < verdict.max_points
    assert words in str(verdict)


def test_a_message_names_shapes_dtype_device_and_the_worst_element() -> None:
    def one_wrong(x: Tensor, dim: int = -1) -> Tensor:
        weights = right_softmax(x, dim)
        if weights.ndim == 4 and dim == -1:
            weights[1, 2, 3, 4] += 0.5
        return weights

    text = str(examine("softmax", one_wrong))
    for part in ("x (2, 3, 4, 5)", "float64 on cpu", "output[1, 2, 3, 4]", "1 of 120 values are wrong"):
        assert part in text
    assert "cuda: " in text


def test_prints_and_warnings_of_an_answer_stay_out(capsys: pytest.CaptureFixture[str]) -> None:
    def talkative(x: Tensor, dim: int = -1) -> Tensor:
        import warnings

        print("shape", x.shape)
        warnings.warn("careful", stacklevel=1)
        return right_softmax(x, dim)

    assert examine("softmax", talkative).points == 5
    assert capsys.readouterr() == ("", "")


def test_an_answer_that_writes_into_its_input_harms_only_itself() -> None:
    wrong = next(m for m in find_exam("softmax").misconceptions if m.name == "changes_its_input")
    verdict = examine("softmax", wrong.implementation)
    assert "inputs, dtype and device kept" in failed(verdict)
    assert "values" not in failed(verdict)


def test_an_answer_that_differs_on_the_second_call_is_seen() -> None:
    def dropout(x: Tensor, dim: int = -1) -> Tensor:
        return right_softmax(x, dim) * (1 + 1e-12 * torch.rand((), dtype=torch.float64))

    assert "another result when it is called again" in str(examine("softmax", dropout))


def test_strange_callables_are_fine() -> None:
    class Softmax:
        def __call__(self, x: Tensor, dim: int = -1) -> Tensor:
            return right_softmax(x, dim)

    assert examine("softmax", Softmax()).points == 5
    assert examine("softmax", functools.partial(right_softmax)).points == 5


DISGUISES: list[Answer] = [
    lambda x, dim=-1: torch.softmax(x, dim),
    lambda x, dim=-1: F.softmax(x, dim=dim),
    lambda x, dim=-1: x.softmax(dim),
    lambda x, dim=-1: nn.Softmax(dim)(x),
    lambda x, dim=-1: torch.special.softmax(x, dim),
    lambda x, dim=-1: torch.ops.aten.softmax.int(x, dim),
    lambda x, dim=-1: torch.ops.aten._softmax(x, dim, False),
    lambda x, dim=-1: torch.log_softmax(x, dim).exp(),
    lambda x, dim=-1: F.softmin(-x, dim=dim),
    lambda x, dim=-1: getattr(torch, "soft" + "max")(x, dim),
    lambda x, dim=-1: right_softmax(x, dim) if x.ndim < 9 else torch.softmax(x, dim),
]


def _through_a_helper(x: Tensor, dim: int = -1) -> Tensor:
    return _helper(x, dim)


def _helper(x: Tensor, dim: int) -> Tensor:
    from torch.nn.functional import softmax

    return softmax(x, dim=dim)


@pytest.mark.parametrize("answer", [*DISGUISES, _through_a_helper])
def test_an_operator_that_hands_the_answer_over_gives_zero(answer: Answer) -> None:
    verdict = examine("softmax", answer)
    assert verdict.points == 0
    assert "a ready-made softmax" in str(verdict)


def _with_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def _with_sdpa_from_ops(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.ops.aten.scaled_dot_product_attention(q, k, v)  # type: ignore[no-any-return]


@pytest.mark.parametrize("answer", [_with_sdpa, _with_sdpa_from_ops])
def test_ready_made_attention_gives_zero(answer: Answer) -> None:
    verdict = examine("attention", answer)
    assert verdict.points == 0
    assert "a ready-made attention" in str(verdict)


def test_autograd_does_not_pass_for_a_backward_pass() -> None:
    def by_autograd(weights: Tensor, grad_weights: Tensor, dim: int = -1) -> Tensor:
        with torch.enable_grad():
            scores = weights.log().requires_grad_()
            (grad,) = torch.autograd.grad(right_softmax(scores, dim), scores, grad_weights)
        return grad

    verdict = examine("softmax_backward", by_autograd)
    assert verdict.points == 0
    assert "automatic differentiation" in str(verdict)


def _notebook(source: str) -> dict[str, Any]:
    """The namespace that a notebook's cells leave behind: code without a source file."""
    namespace: dict[str, Any] = {"__name__": "__main__", "torch": torch, "math": math, "nn": nn}
    exec(compile(source, "<cell>", "exec"), namespace)
    return namespace


OWN_SOFTMAX = """
def softmax(x, dim=-1):
    e = torch.exp(x - x.amax(dim, keepdim=True))
    return e / e.sum(dim, keepdim=True)
"""


def test_ones_own_softmax_is_no_ready_made_one() -> None:
    cells = OWN_SOFTMAX + "def softmax_jacobian_norm(scores):\n    w = softmax(scores)\n"
    cells += "    return torch.linalg.matrix_norm(torch.diag_embed(w) - w[..., None] * w[..., None, :])\n"
    assert examine("softmax_jacobian_norm", _notebook(cells)["softmax_jacobian_norm"]).passed


def test_a_wrong_helper_is_named_and_not_charged_twice() -> None:
    cells = OWN_SOFTMAX.replace("x.amax(dim, keepdim=True)", "x.max()")
    cells += "def softmax_with_temperature(x, temperature, dim=-1):\n"
    cells += "    if temperature <= 0: raise ValueError(temperature)\n"
    cells += "    return softmax((x - x.amax(dim, keepdim=True)) / temperature * 1.0, dim)\n"
    cells += "def softmax_jacobian_norm(scores):\n    w = softmax(scores)\n"
    cells += "    return torch.linalg.matrix_norm(torch.diag_embed(w) - w[..., None] * w[..., None, :])\n"
    notebook = _notebook(cells)
    assert examine("softmax", notebook["softmax"]).diagnosis is not None
    verdict = examine("softmax_jacobian_norm", notebook["softmax_jacobian_norm"])
    assert verdict.points == verdict.max_points
    # Full marks need no explanation.
    assert verdict.note == ""
    # The notebook is as it was: its own softmax is back.
    assert notebook["softmax_jacobian_norm"].__globals__["softmax"] is notebook["softmax"]


def test_a_mistake_of_ones_own_is_charged_beside_a_wrong_helper() -> None:
    cells = OWN_SOFTMAX.replace("x.amax(dim, keepdim=True)", "x.max()")
    cells += "def softmax_jacobian_norm(scores):\n    w = softmax(scores)\n"
    cells += "    return (w * (1 - w)).square().sum(-1).sqrt()\n"
    verdict = examine("softmax_jacobian_norm", _notebook(cells)["softmax_jacobian_norm"])
    assert verdict.points < verdict.max_points
    assert verdict.diagnosis is not None
    assert verdict.diagnosis.name == "norm_of_the_diagonal"


def test_what_a_wrong_helper_would_have_cost_is_said_beside_a_mistake_of_ones_own() -> None:
    cells = OWN_SOFTMAX.replace("x.amax(dim, keepdim=True)", "x.max()")
    cells += "def softmax_jacobian_norm(scores):\n    w = softmax(scores)\n"
    cells += "    scores += 1\n"
    cells += "    return torch.linalg.matrix_norm(torch.diag_embed(w) - w[..., None] * w[..., None, :])\n"
    verdict = examine("softmax_jacobian_norm", _notebook(cells)["softmax_jacobian_norm"])
    assert failed(verdict) == ["inputs, dtype and device kept"]
    assert "`softmax`" in verdict.note


def test_two_mistakes_at_once_still_give_a_name() -> None:
    def detached_and_along_the_last_axis(x: Tensor, dim: int = -1) -> Tensor:
        return right_softmax(x.detach(), -1)

    verdict = examine("softmax", detached_and_along_the_last_axis)
    assert verdict.diagnosis is not None
    assert verdict.diagnosis.name in ("always_along_the_last_axis", "severed_gradient")


def test_an_unknown_mistake_is_not_given_a_name() -> None:
    verdict = examine("softmax", lambda x, dim=-1: right_softmax(x, dim).flip(dim))
    assert verdict.points < verdict.max_points
    assert verdict.diagnosis is None


def test_a_jacobian_is_right_and_gets_advice() -> None:
    def with_jacobian(weights: Tensor, grad_weights: Tensor, dim: int = -1) -> Tensor:
        w, g = weights.movedim(dim, -1), grad_weights.movedim(dim, -1)
        jacobian = torch.diag_embed(w) - w.unsqueeze(-1) * w.unsqueeze(-2)
        return (jacobian @ g.unsqueeze(-1)).squeeze(-1).movedim(-1, dim)

    verdict = examine("softmax_backward", with_jacobian)
    assert verdict.points == verdict.max_points
    assert verdict.passed
    assert "grows as n^2.0, not n^1" in str(verdict)


def test_wrong_parameters_of_a_module_are_named() -> None:
    class Biased(nn.Module):
        def __init__(self, d_model: int, d_k: int, d_v: int) -> None:
            super().__init__()
            self.w_q = nn.Linear(d_model, d_k)

    text = str(examine("SelfAttention", Biased))
    assert "w_q.bias" in text
    assert "w_v.weight" in text


def test_devices_that_are_not_there_are_named() -> None:
    verdict = examine("softmax", right_softmax)
    assert any(line.startswith("cuda: ") for line in verdict.devices)
    if not torch.cuda.is_available():
        assert "cuda: not present" in verdict.devices
        with pytest.raises(CourseError, match="no cuda device"):
            examine("softmax", right_softmax, devices=("cuda",))
    with pytest.raises(CourseError, match="no device called 'gpu'"):
        examine("softmax", right_softmax, devices=("gpu",))


@pytest.mark.parametrize(("name", "nearest"), [("sofmax", "softmax"), ("selfattention", "SelfAttention")])
def test_the_nearest_exercise_is_suggested(name: str, nearest: str) -> None:
    with pytest.raises(CourseError, match=f"Did you mean '{nearest}'"):
        examine(name, right_softmax)


def test_a_test_that_crashes_on_right_answers_gets_nothing() -> None:
    def check_softmax(fn: Answer) -> None:
        undefined_name  # type: ignore[name-defined] # noqa: B018, F821

    verdict = examine("check_softmax", check_softmax)
    assert verdict.points == 0
    assert "NameError" in str(verdict)


def test_a_test_earns_the_share_that_it_catches() -> None:
    def check_softmax(fn: Answer) -> bool:
        x = torch.randn(3, 5, dtype=torch.float64)
        return torch.allclose(fn(x), torch.softmax(x, -1))

    verdict = examine("check_softmax", check_softmax)
    assert 0 < verdict.points < verdict.max_points
    assert "lets pass" in str(verdict)


def test_every_wrong_answer_that_a_test_lets_pass_is_told() -> None:
    def check_softmax(fn: Answer) -> None:
        x = torch.randn(3, 5)
        assert fn(x).shape == x.shape

    (finding,) = examine("check_softmax", check_softmax).findings
    survivors = [wrong for wrong in find_exam("softmax").misconceptions if wrong.testable]
    told = [wrong for wrong in survivors if wrong.name.replace("_", " ") in finding.message]
    assert len(survivors) - len(told) <= 3  # those of another shape
    assert len(finding.message.splitlines()) < 8


@pytest.mark.parametrize(
    ("test", "name"),
    [
        (lambda fn: False, "rejects_everything"),
        (lambda fn: 1 / 0, "rejects_everything"),
        (lambda fn: None, "accepts_everything"),
    ],
)
def test_a_test_that_judges_nothing_is_named(test: Answer, name: str) -> None:
    verdict = examine("check_softmax", test)
    assert verdict.diagnosis is not None
    assert verdict.diagnosis.name == name


def test_gradients_of_another_shape_are_said_to_be_so() -> None:
    def transposed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return right_attention(q, k, v).mT

    verdict = examine("attention", transposed)
    (gradients,) = (finding for finding in verdict.findings if finding.name == "gradients")
    assert "output has shape (6, 3), not (3, 6): there are no gradients to compare" in gradients.message
    assert "RuntimeError" not in gradients.message


def test_a_guess_at_the_mistake_gives_way_to_its_name() -> None:
    verdict = examine("softmax", lambda x, dim=-1: right_softmax(x.float(), dim).to(x.dtype))
    assert verdict.diagnosis is not None
    assert "six digits" not in str(verdict)


def test_points_are_shown_with_two_decimals() -> None:
    verdict = examine("check_softmax", lambda fn: torch.allclose(fn(torch.eye(3)), torch.softmax(torch.eye(3), -1)))
    shown = str(verdict).split(" of ")[0].removeprefix("check_softmax: ")
    assert len(shown) <= 4
    assert abs(float(shown) - verdict.points) < 0.005


def _heavy(kind: str) -> Callable[[Tensor], Tensor]:
    def one_matrix(x: Tensor) -> Tensor:
        return (x[:, None] * x[None, :]).sum(0)

    def rows_in_a_list(x: Tensor) -> Tensor:
        return torch.stack([value * x for value in x]).sum(0)

    def numpy_detour(x: Tensor) -> Tensor:
        return torch.from_numpy(np.outer(x.numpy(), x.numpy()).sum(0))

    def light(x: Tensor) -> Tensor:
        return x * x.sum()

    answers = {"matrix": one_matrix, "list": rows_in_a_list, "numpy": numpy_detour, "light": light}
    return answers[kind]


@pytest.mark.parametrize(("kind", "quadratic"), [("matrix", True), ("list", True), ("numpy", True), ("light", False)])
def test_the_peak_of_live_bytes_sees_every_way_to_hold_a_matrix(kind: str, quadratic: bool) -> None:
    from autograder.answer.cost import count

    answer = _heavy(kind)
    peaks = [count(functools.partial(answer, torch.randn(n))).peak for n in (256, 512, 1024)]
    power = math.log(peaks[-1] / peaks[0]) / math.log(4)
    assert (power > 1.5) == quadratic, peaks


def test_what_pytorch_loads_to_count_is_not_counted() -> None:
    code = "import torch; from autograder.answer.cost import count; print(count(lambda: torch.ones(8) + 1).peak)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(run.stdout) < 2**20


def test_flops_of_a_product_are_counted() -> None:
    from autograder.answer.cost import count

    cost = count(lambda: torch.randn(3, 4) @ torch.randn(4, 5))
    assert cost.flops == 2 * 3 * 4 * 5


def test_what_gets_to_the_counter_whole_is_taken_apart() -> None:
    from autograder.answer.cost import count

    def product() -> None:
        with torch.inference_mode():
            F.linear(torch.ones(2, 3, 4), torch.ones(5, 4)) @ torch.ones(5, 6)

    assert count(product).flops == 2 * 2 * 3 * 4 * 5 + 2 * 2 * 3 * 5 * 6


def test_fused_attention_costs_what_its_two_products_cost() -> None:
    from autograder.answer.cost import count

    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 7)
    fused = count(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)).flops
    assert fused == count(lambda: torch.softmax(q @ k.mT, -1) @ v).flops > 0


def test_a_cost_says_which_size_it_grows_with() -> None:
    wrong = {it.name: it.implementation for it in find_exam("linear_attention").misconceptions}
    for name, size, grows in (
        ("a_state_for_every_token", "d = 16", "d^2.0, not d^1"),
        ("matrix_of_all_pairs_where_causal", "n = 256", "n^2.0, not n^1"),
    ):
        messages = [finding.message for finding in examine("linear_attention", wrong[name]).findings]
        assert any(f"at {size}" in message and grows in message for message in messages)


def test_solutions_import_without_jaxtyping_at_run_time() -> None:
    imports = "".join(f"; import solutions.{topic}" for topic in topics())
    blocked = f"import sys; sys.modules['jaxtyping'] = None{imports}"
    assert subprocess.run([sys.executable, "-c", blocked], check=False).returncode == 0


@pytest.mark.parametrize("keeps", [True, False])
def test_masks_that_are_drawn_are_compared_entry_by_entry(keeps: bool) -> None:
    from autograder.engine.randomness import OF_GENERATORS
    from autograder.engine.subject import Call

    def mask(n: int, generator: torch.Generator | Seeded | None = None) -> Tensor:
        """As many True in each draw: no mean tells one from another."""
        if isinstance(generator, Seeded):
            generator = torch.Generator().manual_seed(generator.seed)
        order = torch.randperm(n, generator=generator if keeps else torch.Generator().manual_seed(0))
        return order < n // 2

    broken = [law(mask, Call(("n",), (40,), {"generator": Seeded(5)}, None, None)) for law in OF_GENERATORS]
    assert not any(broken) if keeps else any(broken)


def test_a_test_may_answer_with_any_kind_of_boolean() -> None:
    """A comparison of tensors gives tensor(False), one of arrays np.bool_(False)."""

    def as_tensor(fn: Answer) -> Tensor:
        x = torch.randn(3, 5, dtype=torch.float64)
        agrees: Tensor = (fn(x, dim=0) - torch.softmax(x, 0)).abs().max().less(1e-9)
        return agrees

    def as_array(fn: Answer) -> np.bool_:
        return np.bool_(bool(as_tensor(fn)))

    def as_bool(fn: Answer) -> bool:
        return bool(as_tensor(fn))

    marks = {examine("check_softmax", check, seed=1).points for check in (as_tensor, as_array, as_bool)}
    assert len(marks) == 1
    assert marks.pop() > 0


def test_a_test_that_gives_a_word_is_told_so() -> None:
    assert "it gives a str; a test raises, or gives True or False" in str(examine("check_softmax", lambda fn: "no"))


def test_an_error_derived_from_the_one_that_is_asked_for_is_right() -> None:
    class TemperatureError(ValueError):
        pass

    def answer(x: Tensor, temperature: float, dim: int = -1) -> Tensor:
        if temperature <= 0:
            raise TemperatureError(f"{temperature} is too cold")
        return right_softmax((x - x.amax(dim, keepdim=True)) / temperature, dim)

    assert examine("softmax_with_temperature", answer).passed


def test_a_buffer_of_ones_own_is_allowed() -> None:
    class WithScale(nn.Module):
        scale: Tensor

        def __init__(self, d_model: int, d_k: int, d_v: int) -> None:
            super().__init__()
            self.w_q = nn.Linear(d_model, d_k, bias=False)
            self.w_k = nn.Linear(d_model, d_k, bias=False)
            self.w_v = nn.Linear(d_model, d_v, bias=False)
            self.register_buffer("scale", torch.tensor(d_k).sqrt())

        def forward(self, x: Tensor) -> Tensor:
            weights: Tensor = torch.softmax(self.w_q(x) @ self.w_k(x).mT / self.scale, -1)
            values: Tensor = self.w_v(x)
            return weights @ values

    assert examine("SelfAttention", WithScale).passed


def test_ones_own_softmax_in_any_wrapping_is_ones_own() -> None:
    cells = OWN_SOFTMAX + "class Maths:\n    def softmax(self, x):\n        return softmax_(x)\n"
    cells = cells.replace("def softmax(x", "def softmax_(x")
    cells += "softmax = Maths().softmax\n"
    cells += "def softmax_jacobian_norm(scores):\n    w = softmax(scores)\n"
    cells += "    return torch.linalg.matrix_norm(torch.diag_embed(w) - w[..., None] * w[..., None, :])\n"
    assert examine("softmax_jacobian_norm", _notebook(cells)["softmax_jacobian_norm"]).passed


def test_a_wrong_answer_with_its_helper_in_a_closure_is_marked() -> None:
    def softmax(x: Tensor) -> Tensor:
        return torch.exp(x)

    def softmax_jacobian_norm(scores: Tensor) -> Tensor:
        return softmax(scores).square().sum(-1)

    verdict = examine("softmax_jacobian_norm", softmax_jacobian_norm)
    assert verdict.points < verdict.max_points


def test_what_an_answer_leaves_behind_does_not_reach_the_next() -> None:
    def meddler(x: Tensor, dim: int = -1) -> Tensor:
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        return right_softmax(x, dim)

    assert "changes PyTorch's default dtype" in str(examine("softmax", meddler))
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert examine("softmax", right_softmax).passed


class _UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def _raises_unprintable(x: Tensor, dim: int = -1) -> Tensor:
    raise _UnprintableError


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, dim=-1: right_softmax(x, dim).to_sparse(), "a sparse or nested tensor"),
        (lambda x, dim=-1: right_softmax(x, dim).long(), "numbers of dtype int64"),
        (lambda x, dim=-1: right_softmax(x, dim).to(torch.complex128), "a complex tensor, not one tensor"),
        (_raises_unprintable, "an error that cannot be printed"),
        (lambda x, dim=-1: (right_softmax(x, dim) * 0.99999999).to(x.dtype), "right to some six digits"),
    ],
)
def test_strange_results_are_marked_and_said(answer: Answer, words: str) -> None:
    verdict = examine("softmax", answer)
    assert verdict.points < verdict.max_points
    assert words in str(verdict)


def test_forward_mode_is_automatic_differentiation_too() -> None:
    def by_dual_numbers(weights: Tensor, grad_weights: Tensor, dim: int = -1) -> Tensor:
        # The Jacobian is symmetric, so a forward derivative along the gradient is the backward one.
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(weights.log(), grad_weights)
            gradient: Tensor = torch.autograd.forward_ad.unpack_dual(right_softmax(dual, dim)).tangent
        return gradient

    verdict = examine("softmax_backward", by_dual_numbers)
    assert verdict.points == 0
    assert "automatic differentiation" in str(verdict)


def test_tests_cannot_tell_candidates_by_name() -> None:
    seen = []

    def check_softmax(fn: Answer) -> None:
        seen.append(fn.__name__ + fn.__qualname__ + fn.__code__.co_name)

    examine("check_softmax", check_softmax)
    assert set(seen) == {"fnfnfn"}


def lower(n: int, device: Any = None) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def lower_exam() -> Exam:
    cases = [Case("four", (4,), {"device": Here()}), Case("none at all", (0,), raises=ValueError, says="0")]
    checks = (Values("values", 1), Habits(1))
    return Exam(
        "softmax", "lower", lower, lambda n, device, nudge=None: lower(n), lambda draw: cases, checks, dtype=torch.bool
    )


def marked(exam: Exam, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> Verdict:
    monkeypatch.setattr("autograder.engine.examine.find_exam", lambda name: exam)
    monkeypatch.setattr("autograder.engine.examine.exams_of", lambda topic: ())
    return examine(exam.name, answer)


def test_masks_are_compared_as_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    def right(n: int, device: Any = None) -> Tensor:
        if n < 1:
            raise ValueError(f"n is {n}")
        return torch.arange(n, device=device)[:, None] >= torch.arange(n, device=device)

    assert marked(lower_exam(), right, monkeypatch).passed
    numbers = marked(lower_exam(), lambda n, device=None: right(n, device).long(), monkeypatch)
    assert failed(numbers) == ["inputs, dtype and device kept"]
    assert "gives int64, not bool" in str(numbers)
    upside_down = marked(lower_exam(), lambda n, device=None: right(n, device).mT, monkeypatch)
    assert "values" in failed(upside_down)
    assert "n=4, device=device(type='cpu'); on cpu" in str(upside_down)
    assert "off is right" not in str(upside_down)


def test_without_float_inputs_an_answer_is_held_to_the_float_dtype_that_the_exam_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def thirds(n: int, nudge: Any = None) -> torch.Tensor:
        return torch.arange(n) / 3

    exam = Exam(
        "softmax",
        "thirds",
        lambda n: torch.arange(n, dtype=torch.float64) / 3,
        thirds,
        lambda draw: [Case("five", (5,))],
        (Values("values", 1), Habits(1)),
        dtype=torch.float32,
    )
    assert marked(exam, thirds, monkeypatch).passed
    assert failed(marked(exam, lambda n: torch.arange(n).double() / 3, monkeypatch)) == [
        "inputs, dtype and device kept"
    ]
    assert "values" in failed(marked(exam, lambda n: torch.arange(n) * 0.33333, monkeypatch))


def test_any_of_several_errors_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(error: type[Exception]) -> Answer:
        def lower_or_not(n: int, device: Any = None) -> Tensor:
            if n < 1:
                raise error("0 is too few")
            return lower(n, device)

        return lower_or_not

    cases = [Case("none at all", (0,), raises=(TypeError, ValueError), says="0")]
    exam = Exam("softmax", "lower", lower, lower, lambda draw: cases, (Values("values", 1),), dtype=torch.bool)
    assert marked(exam, answer(TypeError), monkeypatch).passed
    assert marked(exam, answer(ValueError), monkeypatch).passed
    other = str(marked(exam, answer(RuntimeError), monkeypatch))
    assert "a TypeError or ValueError is asked for; it raises RuntimeError: 0 is too few" in other


def test_none_can_be_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(*masks: Tensor | None, nudge: Any = None) -> Tensor | None:
        return next((mask for mask in masks if mask is not None), None)

    cases = [Case("all None", (None, None), nothing=True), Case("the second", (None, torch.ones(2, dtype=torch.bool)))]
    exam = Exam("softmax", "first", first, first, lambda draw: cases, (Values("values", 1),), dtype=torch.bool)
    assert exam.inputs[:2] == ("masks[0]", "masks[1]")
    assert marked(exam, first, monkeypatch).passed
    verdict = marked(exam, lambda *masks: torch.ones(2, dtype=torch.bool), monkeypatch)
    assert "None is asked for; it gives a tensor" in str(verdict)
    assert "masks[1] (2,)" in str(marked(exam, lambda *masks: None, monkeypatch))


def test_a_generator_starts_anew_for_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def noise(n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, generator=generator)

    def is_standard(answer: Answer, call: Any) -> str | None:
        draws = answer(20_000, torch.Generator().manual_seed(1))
        return None if abs(float(draws.std()) - 1) < 0.05 else "the spread is not 1"

    cases = [Case("five", (5, Seeded(3)))]
    exam = Exam("softmax", "noise", noise, noise, lambda draw: cases, (Properties(1, (is_standard,)), Habits(1)))
    assert marked(exam, noise, monkeypatch).passed
    assert "the spread is not 1" in str(marked(exam, lambda n, generator: 2 * noise(n, generator), monkeypatch))
    assert "called again" in str(marked(exam, lambda n, generator: torch.randn(n), monkeypatch))


def test_counterexamples_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    exam = counterexample(
        "softmax",
        "find_it",
        lambda x: x.sum(-1),
        lambda x: x.sum(0),
        because=lambda x: "One axis is first and last.",
        outputs=("x",),
        most=4,
    )
    assert marked(exam, lambda: torch.tensor([[0.0, 1.0], [0.0, 0.0]]), monkeypatch).passed
    large = marked(exam, lambda: torch.eye(5).roll(1, 0) * torch.arange(5), monkeypatch)
    assert large.points == 2
    assert "25 numbers, (5, 5)" in str(large)
    same = marked(exam, lambda: torch.ones(3), monkeypatch)
    assert same.points == 0
    assert "One axis is first and last." in str(same)
    for strange in (lambda: None, lambda: torch.full((2, 2), torch.nan), lambda: torch.ones(()), lambda: 3):
        assert marked(exam, strange, monkeypatch).points == 0


def test_a_test_of_tests_gains_nothing_by_counting() -> None:
    right, calls = len(find_exam("softmax").variants), []

    def check(fn: Answer) -> bool:
        calls.append(fn)
        return len(calls) <= right

    assert examine("check_softmax", check).points == 0


def test_counterexamples_of_two_wrong_kinds_are_two_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    exam = counterexample(
        "softmax",
        "find_them",
        lambda x, y: x,
        lambda x, y: y,
        because=lambda x, y: "They are one.",
        outputs=("x", "y"),
        most=2,
    )

    @exam.misconception(hint="One is missing.", symptom="One tensor instead of two.")
    def only_one() -> Tensor:
        return torch.ones(1)

    named = marked(exam, only_one, monkeypatch).diagnosis
    assert named is not None
    assert named.name == "only_one"
    assert marked(exam, lambda: (1.0, 2.0), monkeypatch).diagnosis is None


def test_a_modules_oracle_knows_what_it_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    class Skeleton(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor
            self.weight = nn.Parameter(torch.ones(3))

    def oracle(x: Tensor, state: Any, init: Any, nudge: Any = None) -> Tensor:
        scaled: Tensor = init["factor"] * x * state["weight"]
        return scaled

    case = Case("one", (torch.ones(2, 3),), init={"factor": 5.0}, state={"weight": torch.arange(3.0)}, gradients=True)
    checks = (Values("values", 1), Gradients(1))
    exam = Exam("softmax", "Scaled", oracle, oracle, lambda draw: [case], checks, skeleton=Skeleton)
    assert exam.inputs == ("x",)
    right = type("Right", (Skeleton,), {"forward": lambda self, x: x * self.weight * self.factor})
    assert marked(exam, right, monkeypatch).passed
    wrong = type("Wrong", (Skeleton,), {"forward": lambda self, x: x * self.weight})
    assert failed(marked(exam, wrong, monkeypatch)) == ["values", "gradients"]


def saliency(model: nn.Module, x: Tensor) -> Tensor:
    given = x.detach().requires_grad_()
    found: Tensor = torch.autograd.grad(model(given).sum(), given)[0]
    return found


def of_a_model(model: nn.Module, x: Tensor, nudge: Any = None) -> Tensor:
    with torch.enable_grad():
        return saliency(model, x)


def saliency_exam() -> Exam:
    def cases(draw: Any) -> list[Case]:
        return [
            Case("recurrence", (draw.toy("Recurrent", d_model=3), draw.normal(4, 3))),
            Case("a mixer, in a batch", (draw.toy("Mixer", d_model=3, d_out=2), draw.normal(2, 4, 3))),
        ]

    return Exam("softmax", "saliency", of_a_model, of_a_model, cases, (Values("values", 1), Habits(1)))


def leaves_gradients(model: nn.Module, x: Tensor) -> Tensor:
    given = x.detach().requires_grad_()
    model(given).sum().backward()
    assert given.grad is not None
    return given.grad


def halves_the_weights(model: nn.Module, x: Tensor) -> Tensor:
    result = saliency(model, x)
    for weight in model.parameters():
        weight.data /= 2
    return result


def freezes_the_weights(model: nn.Module, x: Tensor) -> Tensor:
    return saliency(model.requires_grad_(False), x)


def leaves_eval_mode(model: nn.Module, x: Tensor) -> Tensor:
    return saliency(model.eval(), x)


def test_a_model_can_be_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert marked(saliency_exam(), saliency, monkeypatch).passed
    text = str(marked(saliency_exam(), lambda model, x: 2 * saliency(model, x), monkeypatch))
    assert "recurrence [model=a small model (Recurrent), x (4, 3)" in text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (leaves_gradients, "leaves gradients (.grad) in its model"),
        (halves_the_weights, "changes its model"),
        (freezes_the_weights, "changes its model"),
        (leaves_eval_mode, "leaves its model in eval mode"),
    ],
)
def test_a_model_is_left_as_it_was(answer: Answer, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = marked(saliency_exam(), answer, monkeypatch)
    assert failed(verdict) == ["inputs, dtype and device kept"]
    assert words in str(verdict)


def test_tied_weights_stay_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    class Skeleton(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight

    def oracle(x: Tensor, state: Any, init: Any, nudge: Any = None) -> Tensor:
        result: Tensor = x @ state["first.weight"].mT @ state["first.weight"].mT
        return result

    def cases(draw: Any) -> list[Case]:
        return [Case("one", (draw.normal(2, 3),), init={}, state={"first.weight": draw.normal(3, 3)}, gradients=True)]

    checks = (Values("values", 1), Gradients(1))
    exam = Exam("softmax", "Twice", oracle, oracle, cases, checks, skeleton=Skeleton)
    right = type("Right", (Skeleton,), {"forward": lambda self, x: self.second(self.first(x))})
    assert marked(exam, right, monkeypatch).passed


def test_without_a_graph_a_gradient_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(x: Tensor, nudge: Any = None) -> Tensor:
        return 0 * x

    def itself(x: Tensor, nudge: Any = None) -> Tensor:
        return x

    cases = [Case("three", (torch.zeros(3),), gradients=True)]
    for formula, wrong in ((nothing, []), (itself, ["gradients"])):
        exam = Exam("softmax", "f", formula, formula, lambda draw: cases, (Values("values", 1), Gradients(1)))
        assert failed(marked(exam, lambda x: torch.zeros_like(x), monkeypatch)) == wrong


def test_a_law_sees_what_a_module_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    class Summed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.total: Tensor = x + getattr(self, "total", x)
            return self.total

    def formula(x: Tensor, state: Any, init: Any, nudge: Any = None) -> Tensor:
        return 2 * x

    def forgets(answer: Answer, call: Any) -> str | None:
        return None if torch.equal(answer(*call.args), answer(*call.args)) else "it remembers"

    cases = [Case("three", (torch.ones(3),), init={})]
    checks = (Properties(1, (forgets,)),)
    exam = Exam("softmax", "Doubled", formula, formula, lambda draw: cases, checks, skeleton=nn.Module)
    assert marked(exam, Doubled, monkeypatch).passed
    assert "it remembers" in str(marked(exam, Summed, monkeypatch))


def test_a_case_may_ask_for_another_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    def lowest(x: Tensor, nudge: Any = None) -> Tensor:
        return x.masked_fill(x > 0, torch.finfo(x.dtype).min).relu()

    def minus_a_billion(x: Tensor) -> Tensor:
        return x.masked_fill(x > 0, -1e9).relu()

    x = torch.tensor([-1.0, 1.0])
    for also, right in (((), True), ((torch.float16,), False)):
        cases = [Case("two", (x,), also=also)]
        exam = Exam("softmax", "f", lowest, lowest, lambda draw, cases=cases: cases, (Values("values", 1),))  # type: ignore[misc]
        assert marked(exam, lowest, monkeypatch).passed
        assert marked(exam, minus_a_billion, monkeypatch).passed == right


def test_whole_numbers_are_compared_to_the_last_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(n: int, nudge: Any = None) -> Tensor:
        return torch.tensor(2 * n)

    large = 2**53 + 1
    checks = (Values("values", 1),)
    exam = Exam(
        "softmax", "f", twice, twice, lambda draw: [Case("large", (large,))], checks, dtype=torch.int64, use="count"
    )
    assert marked(exam, lambda n: 2 * n, monkeypatch).passed
    assert "is 18,014,398,509,481,984, not 18,014,398,509,481,986" in str(
        marked(exam, lambda n: int(2.0 * n), monkeypatch)
    )
    assert "it gives a float; a whole number" in str(marked(exam, lambda n: 2.0 * n, monkeypatch))
    assert "it gives a bool; a whole number" in str(marked(exam, lambda n: True, monkeypatch))
    assert "more than 18 digits" in str(marked(exam, lambda n: n**9, monkeypatch))


def test_bytes_made_one_after_another_add_up() -> None:
    from autograder.answer.cost import count

    def rebuilt() -> None:
        kept = torch.empty(0, 4)
        for _ in range(8):
            kept = torch.cat([kept, torch.ones(1, 4)])

    assert count(lambda: torch.zeros(8, 4).fill_(1.0)).made == 8 * 4 * 4
    assert count(rebuilt).made == (8 * 9 // 2 + 8) * 4 * 4


def test_of_two_that_cost_too_much_the_one_that_costs_the_same_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def product(x: Tensor, nudge: Any = None) -> Tensor:
        return x.sum()[None]

    def once(x: Tensor) -> Tensor:
        return (x[:, None] @ x[None]).sum()[None] * 0 + x.sum()

    def three_times(x: Tensor) -> Tensor:
        return (once(x) + once(x) + once(x)) / 3

    grown = Growth(1, "flops", 1, lambda draw, n: Case("", (draw.normal(n),)), "Too much.")
    exam = Exam("softmax", "f", product, product, lambda draw: [], (grown,))
    for wrong in (once, three_times):
        exam.misconception(hint="Too much.", symptom="It takes long.")(wrong)
    for wrong in (three_times, once):
        diagnosis = marked(exam, wrong, monkeypatch).diagnosis
        assert diagnosis is not None
        assert diagnosis.name == wrong.__name__


def _twice(x: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * x, x.float().sum(-1)


def _doubled(answer: Answer, **more: Any) -> Verdict:
    """The verdict of an exam with two outputs, the second of them always float32."""
    case = Case("a row", (torch.randn(3, dtype=torch.float64),))
    checks = (Values("values", 1), Habits(1))
    exam = Exam(
        "softmax",
        "twice",
        lambda x: (2 * x, x.sum(-1)),
        lambda x, nudge=None: (2 * x, x.sum(-1)),
        lambda draw: (case,),
        checks,
        outputs=("double", "sum"),
        dtype=(None, torch.float32),
        **more,
    )
    return _run_exam(exam, answer)


def _run_exam(exam: Exam, answer: Answer) -> Verdict:
    from autograder.answer.local import LocalAnswer
    from autograder.engine.checks import Plan
    from autograder.engine.examine import _examine
    from autograder.engine.subject import Subject

    return _examine(Plan(exam, 1, ("cpu",)), Subject(LocalAnswer(answer), exam), exam.max_points)


def test_each_output_can_have_a_dtype_of_its_own() -> None:
    only = {"dtypes": (torch.float32, torch.bfloat16)}
    assert _doubled(_twice, **only).points == 2
    verdict = _doubled(lambda x: (2 * x, x.sum(-1)), **only)
    assert failed(verdict) == ["inputs, dtype and device kept"]
    assert "gives sum in bfloat16, not float32" in str(verdict)
    assert "gives double in float32 for bfloat16" in str(_doubled(lambda x: (2 * x.float(), x.float().sum(-1)), **only))


def test_an_exam_runs_in_the_dtypes_that_it_asks_for() -> None:
    seen = set()

    def watched(x: Tensor) -> tuple[Tensor, Tensor]:
        seen.add(x.dtype)
        return _twice(x)

    verdict = _doubled(watched, dtypes=(torch.float32,))
    assert seen == {torch.float32}
    assert verdict.devices[0] == "cpu: float32"


def test_an_autograd_function_is_applied() -> None:
    exam = find_exam("FlashAttention")
    assert examine(exam.name, exam.variants[0].implementation).passed
    assert "it is a function; a class that is a torch.autograd.Function is asked for" in str(
        examine(exam.name, right_attention)
    )


def test_operators_are_found_in_static_methods() -> None:
    class Ready(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, block_size: int, causal: bool) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    verdict = examine("FlashAttention", Ready)
    assert verdict.points == 0
    assert "a ready-made attention" in str(verdict)


def test_an_answer_that_needs_a_package_is_not_marked_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autograder.engine.examine.find_spec", lambda name: None)
    verdict = examine("flash_attention_triton", right_attention)
    assert verdict.points == 0
    assert "needs the package triton" in str(verdict)


def test_a_cost_there_and_back_holds_what_is_kept() -> None:
    from autograder.answer.local import LocalAnswer

    x = torch.randn(64, 64)
    answer = LocalAnswer(lambda x: x.exp().exp().exp().sum())
    there, back = answer.cost(answer.target, (x,), {}), answer.cost(answer.target, (x,), {}, backward=True)
    assert there.peak < 3 * 64 * 64 * 4
    assert back.peak >= 4 * 64 * 64 * 4
    assert x.grad is None


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("mine() got an unexpected keyword argument 'eps'", True),
        ("3 is no width for 4 heads", True),
        ("no width for so many heads", False),
    ],
)
def test_errors_are_alike_by_their_numbers_and_not_by_their_names(
    words: str, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halved(x: Tensor, nudge: Any = None) -> Tensor:
        return x / 2

    def refusing(x: Tensor) -> Tensor:
        raise ValueError("theirs() got an unexpected keyword argument 'eps'" if "()" in words else "heads: 3, 4")

    def refusing_in_other_words(x: Tensor) -> Tensor:
        raise ValueError(words)

    case = Case("a row", (torch.ones(3, dtype=torch.float64),))
    exam = Exam("softmax", "f", halved, halved, lambda draw: (case,), (Values("values", 1),))
    exam.misconception(hint="It need not refuse.", symptom="It raises.")(refusing)
    assert bool(marked(exam, refusing_in_other_words, monkeypatch).diagnosis) == named
