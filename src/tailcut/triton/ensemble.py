"""Orders the steps of an ensemble so that they can be computed, and checks that their tensors match. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tailcut.errors import UsageError
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.triton.names import type_of


@dataclass(frozen=True, slots=True)
class EnsembleStep:
    """A model of the repository, and the names of its inputs and outputs in the ensemble."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    version: int = -1  # the newest that is served


def read_steps(config: Any) -> tuple[EnsembleStep, ...]:
    """Read the steps, in the configuration's order.

    Raises:
        UsageError: there are none, one names no model, or a tensor of the ensemble has a reshape.
    """
    for tensor in (*config.input, *config.output):
        if tensor.HasField("reshape"):
            raise UsageError(
                f"{tensor.name!r} of the ensemble has a reshape, which is not served: "
                "write it into the model's own configuration"
            )
    steps = tuple(
        EnsembleStep(step.model_name, dict(step.input_map), dict(step.output_map), step.model_version)
        for step in config.ensemble_scheduling.step
    )
    if not steps or not all(step.model for step in steps):
        raise UsageError("an ensemble needs steps in ensemble_scheduling, each with a model_name")
    return steps


@dataclass(frozen=True, slots=True)
class EnsemblePlan:
    """Steps that fit together, and the inputs and outputs of the ensemble."""

    order: tuple[int, ...]  # indices into the configuration's steps, in the order in which they run
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def plan_steps(config: Any, steps: tuple[EnsembleStep, ...], specs: Sequence[ModelSpec]) -> EnsemblePlan:
    """Order the steps, and check that every tensor has exactly one source and the dtype and shape that its step needs.

    Args:
        config: the ensemble's message.
        steps: the ensemble's steps.
        specs: the signature of each step's model, as clients see it.

    Raises:
        UsageError: the steps do not fit together; the message names the step and the tensor.
    """
    first = () if config.max_batch_size == 0 else (None,)
    known = {tensor.name: _declared(tensor, first) for tensor in config.input}
    for step, spec in zip(steps, specs, strict=True):
        _match(step, "output", step.outputs, spec.outputs, known)
    for step, spec in zip(steps, specs, strict=True):
        missing = [tensor.name for tensor in spec.inputs if tensor.name not in step.inputs]
        if missing:
            raise UsageError(f"step {step.model!r}: input_map lacks input {missing[0]!r} of the model")
        for name, outer in step.inputs.items():
            wanted = _named(step, "input", name, spec.inputs)
            if outer not in known:
                raise UsageError(
                    f"step {step.model!r}: {outer!r} is neither an input of the ensemble nor an output of a step"
                )
            _fit(f"step {step.model!r}: input {name!r}", wanted, known[outer])
    for tensor in config.output:
        if tensor.name not in known:
            raise UsageError(f"output {tensor.name!r} of the ensemble comes from no step")
        _fit(f"output {tensor.name!r} of the ensemble", _declared(tensor, first), known[tensor.name])
    outputs = tuple(_declared(tensor, first) for tensor in config.output)
    taken = [
        (outer, tensor)
        for step, spec in zip(steps, specs, strict=True)
        for tensor in spec.inputs
        for name, outer in step.inputs.items()
        if name == tensor.name
    ]
    inputs = tuple(_narrowed(_declared(tensor, first), taken) for tensor in config.input)
    return EnsemblePlan(_in_order(config, steps), inputs, outputs)


def _narrowed(tensor: TensorSpec, taken: Sequence[tuple[str, TensorSpec]]) -> TensorSpec:
    """An input of the ensemble with the sizes that its models need, so that requests with others are refused early."""
    shape = list(tensor.shape)
    for wanted in (wanted for outer, wanted in taken if outer == tensor.name):
        shape = [size if dim is None else dim for dim, size in zip(shape, wanted.shape, strict=True)]
    return replace(tensor, shape=tuple(shape))


def _match(
    step: EnsembleStep,
    kind: str,
    names: Mapping[str, str],
    tensors: tuple[TensorSpec, ...],
    known: dict[str, TensorSpec],
) -> None:
    for name, outer in names.items():
        tensor = _named(step, kind, name, tensors)
        if outer in known:
            raise UsageError(f"step {step.model!r}: {outer!r} comes from two sources")
        known[outer] = tensor


def _named(step: EnsembleStep, kind: str, name: str, tensors: tuple[TensorSpec, ...]) -> TensorSpec:
    for tensor in tensors:
        if tensor.name == name:
            return tensor
    raise UsageError(f"step {step.model!r}: the model has no {kind} {name!r}")


def _fit(where: str, wanted: TensorSpec, given: TensorSpec) -> None:
    sizes = zip(wanted.shape, given.shape, strict=False)
    same = wanted.dtype is given.dtype and len(wanted.shape) == len(given.shape)
    if not same or not all(None in pair or pair[0] == pair[1] for pair in sizes):
        raise UsageError(f"{where}: expected {wanted.describe()}, got {given.describe()}")


def _in_order(config: Any, steps: tuple[EnsembleStep, ...]) -> tuple[int, ...]:
    """The indices of the steps, each after those whose outputs it needs."""
    there = {tensor.name for tensor in config.input}
    order: list[int] = []
    while len(order) < len(steps):
        left = [index for index in range(len(steps)) if index not in order]
        ready = [index for index in left if there.issuperset(steps[index].inputs.values())]
        if not ready:
            raise UsageError(f"steps {', '.join(steps[index].model for index in left)} wait for each other")
        there.update(name for index in ready for name in steps[index].outputs.values())
        order += ready
    return tuple(order)


def _declared(tensor: Any, first: tuple[None, ...]) -> TensorSpec:
    word = type_of(tensor).removeprefix("TYPE_")
    if word == "INVALID":
        raise UsageError(f"tensor {tensor.name!r} of the ensemble needs a data_type")
    dims = tuple(None if dim == -1 else dim for dim in tensor.dims)
    return TensorSpec(tensor.name, DType.BYTES if word == "STRING" else DType(word), (*first, *dims))
