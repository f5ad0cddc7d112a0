"""Which tensor of a pipeline goes where, and whether they fit: decided before any model is opened for traffic. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from tailcut.errors import UsageError
from tailcut.spec import ModelSpec, Rows, TensorSpec


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """A stage or a model, as far as its tensors are concerned; `kind` is the word for it in messages."""

    kind: str
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    independent: bool = True  # its rows are computed apart from each other

    @property
    def title(self) -> str:
        """As a message names it: stage 'tokenize'."""
        return f"{self.kind} {self.name!r}"


def plan_pipeline(name: str, steps: Sequence[PipelineStep]) -> ModelSpec:
    """What the pipeline takes and gives; its rows are independent where those of all its steps are.

    Raises:
        UsageError: a step's input comes from nowhere, or has another dtype or shape there than the step takes; the
            message names the step, the tensor, what was expected and what comes.
    """
    known = {tensor.name: (tensor, "the request") for tensor in steps[0].inputs}
    titles: set[str] = set()
    for step in steps:
        if step.name in titles:
            raise UsageError(f"pipeline {name!r}: two steps are called {step.name!r}: {_advice(step, steps)}")
        titles.add(step.name)
        for tensor in step.inputs:
            _check(name, step, tensor, known)
        known |= {tensor.name: (tensor, step.title) for tensor in step.outputs}
    whole = [step.title for step in steps if not step.independent]
    rows, reason = Rows.INDEPENDENT, "every step's rows are independent"
    if whole:
        rows, reason = Rows.DEPENDENT, f"the rows of {', '.join(whole)} are not independent"
    return ModelSpec(name, steps[0].inputs, steps[-1].outputs, rows, reason)


def _advice(step: PipelineStep, steps: Sequence[PipelineStep]) -> str:
    if any(other.kind == "stage" and other.name == step.name for other in steps):
        return "name one with @stage(name=...)"
    return f"a model is called as its file is, or as model.name in its profile: rename one, such as {step.name}-2.onnx"


def _check(name: str, step: PipelineStep, wanted: TensorSpec, known: dict[str, tuple[TensorSpec, str]]) -> None:
    where = f"pipeline {name!r}: {step.title}: input {wanted.name!r}"
    if wanted.name not in known:
        raise UsageError(f"{where} ({wanted.describe()}) comes from no step before it; there is {', '.join(known)}")
    given, source = known[wanted.name]
    fits = given.dtype is wanted.dtype and len(given.shape) == len(wanted.shape)
    if not fits or not all(a is None or b is None or a == b for a, b in zip(given.shape, wanted.shape, strict=True)):
        raise UsageError(
            f"{where}: expected {wanted.describe()}, got {given.describe()} from {source}{_hint(given, wanted)}"
        )


def _hint(given: TensorSpec, wanted: TensorSpec) -> str:
    """What to write where one of two shapes was declared with the batch in it."""
    shorter, longer = sorted((given.shape, wanted.shape), key=len)
    return ": a stage declares the shape of one row, without the batch" if longer == (None, *shorter) else ""
