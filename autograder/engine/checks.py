"""The kinds of check that an exam can declare. Each turns into probes; the engine runs them and knows no kinds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from autograder.engine import messages
from autograder.engine.devices import coarse_dtypes, exact_dtypes
from autograder.engine.exam import Case, Draw, Exam, Misconception, each_kind
from autograder.engine.oracle import Expected, cotangents, expect
from autograder.engine.subject import Call, Inputs, Observation, Subject, prepare

# More numbers than anybody needs to show that two formulas differ, and few enough for any formula.
LARGEST_COUNTEREXAMPLE = 4096

# A failed check tells this many of its problems: the first ones, of different cases.
SHOWN = 2

# A test of tests is told this many of the wrong answers that it lets pass in full, the others by their names.
SHOWN_SURVIVORS = 6

# Two wrong answers are the same mistake if they agree to this share of their size, far coarser than roundoff, and are
# no farther apart than three times what the mistake amounts to: not all small mistakes are one.
ALIKE = {torch.float64: 1e-6, torch.float32: 1e-3}

# How far two errors of one class are alike whose messages differ: not enough for a name by themselves, but where they
# speak of the same numbers. What Python and PyTorch call the answer itself is no difference.
SAME_ERROR, SAME_NUMBERS, SAME_REFUSAL = 0.375, 0.75, 0.9
OWN_NAME, NUMBER = re.compile(r"[\w.<>]+(?=\(\)|Backward\b)"), re.compile(r"\d+")

# Two costs are the same to this share; two that are not, and grow too fast both, are that much alike.
SAME_COST, TOO_DEAR = 0.1, 0.75


@dataclass(frozen=True, eq=False)
class Probe:
    """One thing that a check tries: what to do, what is wrong with what came (None: nothing), what is the same.

    ``case`` is the name under which its problems are told once, not once for each dtype and device.
    """

    case: str
    observe: Callable[[Subject], Observation]
    judge: Callable[[Observation], str | None]
    alike: Callable[[Observation, Observation], float]
    # Whether a misconception can be told by it: not by coarse dtypes, nor by a second device.
    telling: bool = True


@dataclass(frozen=True)
class Plan:
    """One run of an exam: its seed, its devices, and the cases that the seed gives."""

    exam: Exam
    seed: int
    devices: tuple[str, ...]

    @cached_property
    def cases(self) -> list[Case]:
        return list(self.exam.cases(Draw(self.seed)))

    @cached_property
    def probes(self) -> list[tuple[Check, list[Probe]]]:
        """What each check tries. They keep what the oracle says, once it was asked."""
        return [(check, list(check.probes(self))) for check in self.exam.checks]

    @cached_property
    def known(self) -> dict[tuple[Probe, str], tuple[Observation, bool]]:
        """What the probes saw of the misconceptions that were tried so far, by their names, and whether it is right."""
        return {}

    def observe(self, probe: Probe, subject: Subject) -> Observation:
        """What ``probe`` sees."""
        self.begin()
        return probe.observe(subject)

    def begin(self) -> None:
        """PyTorch's own generator starts alike before each look: what is drawn is the same."""
        torch.default_generator.manual_seed(self.seed)

    def call(self, case: Case, dtype: torch.dtype, device: str) -> Call:
        return prepare(self.exam.inputs, case, dtype, device)

    def inputs(self, case: Case, dtype: torch.dtype, device: str) -> Inputs:
        """Makes that call anew each time; one and the same object for all that ask about the same inputs."""
        return self._inputs.setdefault((case, dtype, device), lambda: self.call(case, dtype, device))

    def sized(self, at: Callable[[Draw, int], Case], size: int) -> Inputs:
        """The same for the case of that size."""
        return self._inputs.setdefault((at, size), lambda: self.call(at(Draw(self.seed), size), torch.float32, "cpu"))

    @cached_property
    def _inputs(self) -> dict[tuple[object, ...], Inputs]:
        return {}


class Check(Protocol):
    """A named share of an exam's points."""

    @property
    def name(self) -> str: ...

    @property
    def points(self) -> float: ...

    def probes(self, plan: Plan) -> Iterable[Probe]:
        """What to try."""

    def share(self, problems: list[str | None]) -> float:
        """The share of the points that is earned, given each probe's problem."""

    def told(self, problems: list[str]) -> list[str]:
        """What the student reads of the problems, of which each stands here once; a line each."""


class AllOrNothing:
    """What most checks have in common: one problem loses all the points, and the first ones are told."""

    def share(self, problems: list[str | None]) -> float:
        return float(not any(problems))

    def told(self, problems: list[str]) -> list[str]:
        return messages.first_of(problems, SHOWN, "")


@dataclass(frozen=True)
class Values(AllOrNothing):
    """The results of the cases that name this check, against the oracle, on every device and dtype."""

    name: str
    points: float

    def probes(self, plan: Plan) -> Iterable[Probe]:
        for case in plan.cases:
            if case.check == self.name:
                for device in plan.devices:
                    exact = exact_dtypes(device)
                    for dtype in _dtypes(plan.exam, case, device):
                        yield self._probe(plan, case, dtype, device, device == plan.devices[0] and dtype in exact)

    def _probe(self, plan: Plan, case: Case, dtype: torch.dtype, device: str, telling: bool) -> Probe:
        where = messages.of_case(case, plan.call(case, dtype, device), dtype, device)
        asked = _Once(lambda: expect(plan.exam, case, dtype))

        def judge(seen: Observation) -> str | None:
            if case.raises is not None:
                return _judge_raises(seen, case.raises, case.says, where)
            if case.nothing:
                return _judge_nothing(seen, where)
            return _judge_tensors(seen, plan.exam.outputs, asked(), where)

        return Probe(
            case.name,
            lambda subject: subject.call(plan.inputs(case, dtype, device)),
            judge,
            lambda a, b: (
                _same_refusal(a, b, case.says)
                if case.raises
                else _alike(a, b, None if case.nothing else asked(), dtype)
            ),
            telling,
        )


@dataclass(frozen=True)
class Gradients(AllOrNothing):
    """The gradients of the cases marked for it, against the oracle's; the tiny ones through gradcheck too."""

    points: float
    name: str = "gradients"

    def probes(self, plan: Plan) -> Iterable[Probe]:
        for number, case in enumerate(plan.cases):
            for device in plan.devices if case.gradients else ():
                for dtype in plan.exam.asked(exact_dtypes(device)):
                    yield self._probe(plan, case, dtype, device, plan.seed + number)
        for case in plan.cases:
            if case.tiny:
                yield self._gradcheck(plan, case)

    def _probe(self, plan: Plan, case: Case, dtype: torch.dtype, device: str, seed: int) -> Probe:
        call = plan.call(case, dtype, device)
        where = messages.of_case(case, call, dtype, device)
        names = tuple(f"the gradient by {name}" for name, value in call.tensors.items() if value.is_floating_point())
        back = _Once(lambda: cotangents(plan.exam, case, dtype, seed))
        asked = _Once(lambda: expect(plan.exam, case, dtype, back()))
        return Probe(
            case.name,
            lambda subject: subject.gradients(plan.call(case, dtype, device), back()),
            lambda seen: _judge_tensors(seen, names, asked(), where),
            lambda a, b: _alike(a, b, asked(), dtype),
            device == plan.devices[0],
        )

    def _gradcheck(self, plan: Plan, case: Case) -> Probe:
        where = messages.of_case(case, plan.call(case, torch.float64, "cpu"), torch.float64, "cpu")
        return Probe(
            f"{case.name}, by finite differences",
            lambda subject: subject.gradcheck(plan.call(case, torch.float64, "cpu")),
            lambda seen: _judge_facts(seen, where),
            _same_facts,
            telling=False,
        )


@dataclass(frozen=True)
class Habits(AllOrNothing):
    """Inputs left alone, the same result twice, dtype and device kept: on the cases of ``on``."""

    points: float
    on: str = "values"
    name: str = "inputs, dtype and device kept"

    def probes(self, plan: Plan) -> Iterable[Probe]:
        cases = [case for case in plan.cases if case.check == self.on and case.raises is None]
        # What an answer remembers, it remembers of any input and in any dtype; looking for it takes three calls more.
        remembering = each_kind(cases)
        for case in cases:
            for device in plan.devices:
                for place, dtype in enumerate(_dtypes(plan.exam, case, device)):
                    yield self._probe(plan, case, dtype, device, thorough=case in remembering and place == 0)

    def _probe(self, plan: Plan, case: Case, dtype: torch.dtype, device: str, thorough: bool) -> Probe:
        where = messages.of_case(case, plan.call(case, dtype, device), dtype, device)
        return Probe(
            case.name,
            lambda subject: subject.habits(plan.inputs(case, dtype, device), thorough),
            lambda seen: _judge_facts(seen, where),
            _same_facts,
            telling=device == plan.devices[0],
        )


Law = Callable[[Callable[..., Any], Call], str | None]


@dataclass(frozen=True)
class Properties(AllOrNothing):
    """Laws that need no oracle. Each takes the answer and a call and gives the sentence that says what is broken.

    With ``telling``, misconceptions are told by the sentences, which then must not hold random figures.
    """

    points: float
    laws: tuple[Law, ...]
    on: str = "values"
    name: str = "properties"
    telling: bool = False

    def probes(self, plan: Plan) -> Iterable[Probe]:
        for law in self.laws:
            for case in plan.cases:
                if case.check == self.on and case.raises is None:
                    for device in plan.devices:
                        yield self._probe(plan, law, case, plan.exam.asked(exact_dtypes(device))[0], device)

    def _probe(self, plan: Plan, law: Law, case: Case, dtype: torch.dtype, device: str) -> Probe:
        call = plan.call(case, dtype, device)
        where = messages.of_case(case, call, dtype, device)

        def observe(subject: Subject) -> Observation:
            return subject.law(law, plan.call(case, dtype, device))

        # A broken law says that something is wrong, seldom what: misconceptions are told by values where there are any.
        telling = self.telling and device == plan.devices[0]
        return Probe(law.__name__, observe, lambda seen: _judge_facts(seen, where), _same_facts, telling)


@dataclass(frozen=True)
class Growth(AllOrNothing):
    """How a cost may grow from one length to the next: ``measure`` (a field of ``Cost``) as n to the ``power``.

    ``at(draw, n)`` makes the case of length n. ``claim`` is the sentence that says what the exercise asks for.
    With ``points`` 0 it is advice. ``size`` is what the lengths are called, where it is another size that grows.
    With ``backward`` the way back is counted too, and what is kept for it.
    """

    points: float
    measure: str
    power: float
    at: Callable[[Draw, int], Case]
    claim: str
    lengths: tuple[int, ...] = (64, 128, 256)
    slack: float = 0.35
    name: str = "cost"
    size: str = "n"
    backward: bool = False

    def probes(self, plan: Plan) -> Iterable[Probe]:
        def observe(subject: Subject) -> Observation:
            inputs = [plan.sized(self.at, length) for length in self.lengths]
            return subject.costs(inputs, self.measure, self.backward)

        yield Probe(self.name, observe, self._judge, self._alike)

    def _alike(self, a: Observation, b: Observation) -> float:
        if a.error or b.error or bool(self._judge(a)) != bool(self._judge(b)):
            return _same_errors(a, b) if a.error and b.error else 0.0
        # Two that store the same too much cost the same.
        ((one,), (other,)) = a.tensors, b.tensors
        assert one is not None
        assert other is not None
        return 1.0 if bool(((one - other).abs() <= SAME_COST * other).all()) else TOO_DEAR

    def _judge(self, seen: Observation) -> str | None:
        if seen.error:
            return messages.of_error(seen)
        (costs,) = seen.tensors
        assert costs is not None
        first, last = float(costs[0]), float(costs[-1])
        power = math.log(max(last, 1.0) / max(first, 1.0)) / math.log(self.lengths[-1] / self.lengths[0])
        if power <= self.power + self.slack:
            return None
        unit = "FLOPs" if self.measure == "flops" else "bytes"
        at = zip(costs, self.lengths, strict=True)
        figures = ", ".join(f"{cost:,.0f} {unit} at {self.size} = {length}" for cost, length in at)
        grows = f"that grows as {self.size}^{power:.1f}, not {self.size}^{self.power:g}"
        return f"{self.claim} Counted ({self.measure}): {figures}; {grows}."


@dataclass(frozen=True)
class Detects:
    """For *be the examiner*: the share of another exam's wrong answers that a test catches.

    It is 0 if the test rejects a right one. A test rejects by raising or by giving False. ``plain`` is the plainest
    right answer, PyTorch's own operator where there is one: a test may have reason to reject others, none for that.
    """

    points: float
    of: Exam
    plain: Callable[..., Any]
    name: str = "wrong answers caught"

    def probes(self, plan: Plan) -> Iterable[Probe]:
        for name, implementation in self._right.items():
            yield self._probe(plan, implementation, _rejects(name), wanted=False)
        for wrong in self._wrong:
            yield self._probe(plan, wrong.implementation, _lets_pass(wrong), wanted=True)

    def share(self, problems: list[str | None]) -> float:
        right, wrong = problems[: len(self._right)], problems[len(self._right) :]
        return 0.0 if any(right) else 1 - sum(problem is not None for problem in wrong) / len(wrong)

    def told(self, problems: list[str]) -> list[str]:
        survivors = [wrong for wrong in self._wrong if _lets_pass(wrong) in problems]
        of_right = [problem for problem in problems if problem not in map(_lets_pass, survivors)]
        lines = messages.first_of(of_right, SHOWN, " right answers")
        lines += [_lets_pass(wrong) for wrong in survivors[:SHOWN_SURVIVORS]]
        if rest := survivors[SHOWN_SURVIVORS:]:
            lines.append(f"… and {len(rest)} more: {', '.join(_words(wrong.name) for wrong in rest)}")
        return lines

    @cached_property
    def _right(self) -> dict[str, Callable[..., Any]]:
        return {"the plainest one": self.plain} | {
            _words(right.name): right.implementation for right in self.of.variants
        }

    @cached_property
    def _wrong(self) -> list[Misconception]:
        return [wrong for wrong in self.of.misconceptions if wrong.testable]

    def _probe(self, plan: Plan, implementation: Callable[..., Any], problem: str, wanted: bool) -> Probe:
        def judge(seen: Observation) -> str | None:
            if seen.error:
                return f"Your test is no test: {messages.of_error(seen)}"
            if (seen.facts == ("rejected",)) == wanted:
                return None
            return problem + (f"; it says {messages.in_one_line(seen.detail)}" if seen.detail else "")

        return Probe(problem, lambda subject: subject.verdict_on(implementation, plan.seed), judge, _same_facts)


@dataclass(frozen=True)
class Differs(AllOrNothing):
    """For *find the counterexample*: the answer's tensors are an input on which ``one`` and ``other`` differ.

    ``because`` says, of an input on which they agree, why they must; misconceptions are told by what it says. With
    ``most``, the input holds at most so many numbers in all.
    """

    points: float
    one: Callable[..., Tensor]
    other: Callable[..., Tensor]
    because: Callable[..., str]
    most: int | None = None
    name: str = "the two differ"

    def probes(self, plan: Plan) -> Iterable[Probe]:
        # The answer takes no input: one call says it all.
        call = Call((), (), {}, None, None)
        yield Probe(self.name, lambda subject: subject.call(lambda: call), self._judge, self._alike)

    def _judge(self, seen: Observation) -> str | None:
        if seen.error:
            return messages.of_error(seen)
        found = [value.double() for value in seen.tensors if value is not None]  # whole numbers are numbers, too
        shapes = ", ".join(str(tuple(value.shape)) for value in found)
        numbers = sum(value.numel() for value in found)
        if numbers > LARGEST_COUNTEREXAMPLE:
            return f"it gives {numbers:,} numbers; far fewer are enough"
        if not all(bool(value.isfinite().all()) for value in found):
            return "it gives NaN or infinity; there is a counterexample of ordinary numbers"
        try:
            first, second = self.one(*found), self.other(*found)
        except Exception as error:
            return f"the two can't be run on {shapes}: {type(error).__name__}: {error}"
        if first.shape == second.shape and messages.agree(first, second, 1e-3 * max(1.0, _size(first))):
            return f"on {shapes} the two give the same. {self.because(*found)}"
        if self.most is not None and numbers > self.most:
            return f"it holds {numbers} numbers, {shapes}; there is a counterexample with fewer"
        return None

    def _alike(self, a: Observation, b: Observation) -> float:
        if a.wrong_kind or b.wrong_kind:
            return a.detail == b.detail
        one, other = (re.sub(r"[\d.,()]+", "", self._judge(seen) or "") for seen in (a, b))
        return one == other


@dataclass
class _Once:
    """A value that is computed when it is first asked for: an answer that raises needs no oracle."""

    compute: Callable[[], Any]
    value: Any = field(default=None, init=False)

    def __call__(self) -> Any:
        if self.value is None:
            self.value = self.compute()
        return self.value


def _judge_tensors(seen: Observation, names: tuple[str, ...], asked: Expected, where: str) -> str | None:
    if seen.error:
        return f"{where}: {messages.of_error(seen)}"
    for place, (name, came, right) in enumerate(zip(names, seen.tensors, asked.tensors, strict=True)):
        if messages.of_difference(name, came, right, asked.floor[place]) is None:
            continue
        problem = messages.of_difference(name, came, right, asked.allowed[place])
        if problem is not None:
            return f"{where}: {problem}"
    return None


def _judge_raises(
    seen: Observation, wanted: type[Exception] | tuple[type[Exception], ...], says: str, where: str
) -> str | None:
    names = [kind.__name__ for kind in (wanted if isinstance(wanted, tuple) else (wanted,))]
    kind = " or ".join(names)
    if not set(names) & set(seen.kinds):
        came = messages.of_error(seen) if seen.error else "it gives a result"
        return f"{where}: a {kind} is asked for; {came}"
    if says not in seen.detail:
        return f"{where}: the {kind} does not name the number ({says}); it says {seen.detail!r}"
    return None


def _judge_nothing(seen: Observation, where: str) -> str | None:
    if seen.gave_nothing:
        return None
    return f"{where}: None is asked for; {messages.of_error(seen) if seen.error else 'it gives a tensor'}"


def _judge_facts(seen: Observation, where: str) -> str | None:
    if seen.error:
        return f"{where}: {messages.of_error(seen)}"
    return f"{where}: {'; '.join(seen.facts)}" if seen.facts else None


def _dtypes(exam: Exam, case: Case, device: str) -> tuple[torch.dtype, ...]:
    """Those that a case is run in; where it holds no float tensor, the one float dtype that the answer can have."""
    exact = exam.asked(exact_dtypes(device))
    if not case.floating:
        (kind, *_) = exam.output_dtypes
        return (kind,) if kind is not None and kind.is_floating_point else exact[:1]
    return tuple(dict.fromkeys((*exact, *exam.asked(coarse_dtypes(device) if case.coarse else ()), *case.also)))


def _same_facts(a: Observation, b: Observation) -> float:
    return _same_errors(a, b) if a.error or b.error else a.facts == b.facts


def _same_errors(a: Observation, b: Observation) -> float:
    if a.error != b.error:
        return 0.0
    # PyTorch says RuntimeError of everything; what it says of the shapes tells one mistake from another.
    if OWN_NAME.sub("", a.detail) == OWN_NAME.sub("", b.detail):
        return 1.0
    numbers = NUMBER.findall(a.detail)
    return SAME_NUMBERS if numbers and numbers == NUMBER.findall(b.detail) else SAME_ERROR


def _same_refusal(a: Observation, b: Observation, says: str) -> float:
    """Where an error is asked for, its words are the student's own: what tells mistakes apart is its class, and
    whether it names the number that it is to name.
    """
    if a.error != b.error:
        return 0.0
    if not a.error:
        return _alike(a, b, None, torch.float64)
    return max(_same_errors(a, b), SAME_REFUSAL if (says in a.detail) == (says in b.detail) else 0.0)


def _alike(a: Observation, b: Observation, asked: Expected | None, dtype: torch.dtype) -> float:
    if a.wrong_kind and b.wrong_kind:
        return a.detail == b.detail
    if a.error or b.error or len(a.tensors) != len(b.tensors):
        return _same_errors(a, b)
    if asked is None:
        return all(messages.agree(one, other, 0.0) for one, other in zip(a.tensors, b.tensors, strict=True))
    return all(
        messages.agree(one, other, 4 * limit + min(ALIKE[dtype] * _size(other), 3 * _gap(one, right)))
        for one, other, right, limit in zip(a.tensors, b.tensors, asked.tensors, asked.allowed, strict=True)
    )


def _gap(came: Tensor | None, right: Tensor) -> float:
    return 0.0 if came is None or came.shape != right.shape else _size(came - right)


def _size(tensor: Tensor | None) -> float:
    if tensor is None or not bool(tensor.isfinite().any()):
        return 0.0
    return float(tensor[tensor.isfinite()].abs().max())


def _rejects(name: str) -> str:
    return f"Your test rejects a right answer, “{name}”"


def _lets_pass(wrong: Misconception) -> str:
    return f"Your test lets pass “{_words(wrong.name)}”. {wrong.symptom}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def accepts_everything(fn: Callable[..., Any]) -> bool:
    """The test that no wrong answer fails."""
    return True


def rejects_everything(fn: Callable[..., Any]) -> bool:
    """The test that no right answer passes."""
    return False


def examiner(topic: str, name: str, of: Exam, plain: Callable[..., Any]) -> Exam:
    """The exam of a *be the examiner* exercise: the answer is a test of answers to ``of``, and has no inputs.

    ``plain`` is the plainest right answer to ``of``. Two misconceptions are those of any test.
    """

    def no_formula(fn: Callable[..., Any]) -> Tensor:
        raise AssertionError("a test of tests has no cases")

    exam = Exam(topic, name, no_formula, no_formula, lambda draw: (), (Detects(3, of, plain),), certainty=0.8)
    exam.misconception(
        hint="Your test accepts whatever it is given: something in it has to raise, or to give False.",
        symptom="No wrong answer is caught.",
    )(accepts_everything)
    exam.misconception(
        hint="Your test rejects whatever it is given. Run it on an answer that you trust: what does it say?",
        symptom="No answer passes, however right it is: such a test says nothing about any of them.",
    )(rejects_everything)
    return exam


def counterexample(
    topic: str,
    name: str,
    one: Callable[..., Tensor],
    other: Callable[..., Tensor],
    *,
    because: Callable[..., str],
    outputs: tuple[str, ...],
    most: int,
) -> Exam:
    """The exam of a *find the counterexample* exercise: the answer takes nothing and gives the tensors ``outputs``.

    Two thirds of the points are for an input on which ``one`` and ``other`` differ, one third for a smallest one, of
    ``most`` numbers.
    """

    def no_formula() -> Tensor:
        raise AssertionError("a counterexample has no cases")

    checks = (Differs(2, one, other, because), Differs(1, one, other, because, most, "no larger than it must be"))
    # Any numbers will do: whole ones are tried as floats.
    return Exam(topic, name, no_formula, no_formula, lambda draw: (), checks, outputs=outputs, dtype=torch.float64)
