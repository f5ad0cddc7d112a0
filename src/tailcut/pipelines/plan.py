"""Checks that the tensors of a pipeline's steps fit together, before it serves requests. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from tailcut.errors import UsageError
from tailcut.spec import ModelSpec, Rows, TensorSpec


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """The tensors of a stage or model; `kind` is the word for it in messages."""

    kind: str
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    independent: bool = True  # whether its rows are computed independently

    @property
    def title(self) -> str:
        """How messages name it, such as: stage 'tokenize'."""
        return f"{self.kind} {self.name!r}"


def plan_pipeline(name: str, steps: Sequence[PipelineStep]) -> ModelSpec:
    """The signature of a pipeline; its rows are independent if those of all its steps are.

    Raises:
        UsageError: two steps have the same name; or no earlier step produces a step's input, or with another dtype or
            shape; the message names the step, the tensor, and what was expected and given.
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
    return f"a model has the name of its file, or model.name of its profile: rename one, such as {step.name}-2.onnx"


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
    """A hint for shapes that differ because one was declared with the batch dimension."""
    shorter, longer = sorted((given.shape, wanted.shape), key=len)
    return ": a stage declares the shape of one row, without the batch" if longer == (None, *shorter) else ""
