"""All steps of a pipeline in one process: a batch crosses to it once, and not once for each step.

What each step computes is the same as if it ran by itself: a stage gets at most `max_batch_size` rows, and only
requests of the same shapes together; so does a model whose rows are independent, and any other whole requests.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tailcut.engines.base import Engine
from tailcut.errors import EngineError, InvalidInputError, TailcutError, UsageError
from tailcut.pipelines.beside import BesideWatch
from tailcut.pipelines.calling import Caller, end_forked, kept
from tailcut.pipelines.layout import Packed, Parts, TensorLayout, Unpacked, split_rows
from tailcut.pipelines.stage import Stage
from tailcut.runtime.inputs import Arrays, check_inputs
from tailcut.runtime.model import Model
from tailcut.spec import DType, ModelSpec

_MOST_KNOWN = 1024  # shapes of a step's inputs
Outputs = list[list[np.ndarray]]  # for each request, an array for each output
Called = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Group:
    """Requests whose tensors have the same shapes, except for the number of rows.

    Args:
        numbers: of the requests in the batch.
        counts: rows of each.
        tensors: by name: the rows of all of them, one request after the other; of a single request whose rows belong
            together, tensors may have any number of rows.
    """

    numbers: list[int]
    counts: list[int]
    tensors: Arrays

    def apart(self, names: Sequence[str]) -> Outputs:
        """These tensors of each request."""
        arrays = [self.tensors[name] for name in names]
        return [arrays] if len(self.numbers) == 1 else split_rows(arrays, self.counts)

    def with_tensors(self, names: Sequence[str], outputs: Outputs) -> "list[Group]":
        """The group with another step's outputs for each request; several groups if their shapes differ."""
        if len(outputs) == 1:
            return [Group(self.numbers, self.counts, self.tensors | dict(zip(names, outputs[0], strict=True)))]
        shapes: dict[object, list[int]] = {}
        for index, arrays in enumerate(outputs):
            shapes.setdefault(tuple([array.shape[1:] for array in arrays]), []).append(index)
        if len(shapes) == 1:
            return [Group(self.numbers, self.counts, self.tensors | _joined(names, outputs))]
        parts = self.apart([*self.tensors])
        return [
            Group(
                [self.numbers[index] for index in some],
                [self.counts[index] for index in some],
                _joined([*self.tensors], [parts[index] for index in some])
                | _joined(names, [outputs[index] for index in some]),
            )
            for some in shapes.values()
        ]


class ChainStep(Protocol):
    """A step that computes a group on the calling thread."""

    @property
    def spec(self) -> ModelSpec:
        """Its inputs and outputs."""

    @property
    def stage(self) -> Stage | None:
        """The stage, for messages; None for a model."""

    def run(self, group: Group, arrays: Arrays, called: Called) -> list[Group]:
        """The group with the step's outputs, which nothing overwrites before the next batch.

        Args:
            group: the requests.
            arrays: the step's inputs, checked: rows of all requests.
            called: called after each call of the function or the engine, which has its own time limit.

        Raises:
            Exception: whatever the function or the engine raises.
        """


class StageStep:
    """A stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.spec = stage.spec
        self._whole = stage.whole_requests
        self._most = 1 if stage.per_request else stage.max_batch_size
        self._caller = Caller(stage)
        self._pid = os.getpid()
        self._call = self._copied if stage.per_request else BesideWatch(stage.name, self._copied).answers

    def run(self, group: Group, arrays: Arrays, called: Called) -> list[Group]:
        """As `ChainStep.run`: calls of at most `max_batch_size` rows or whole requests."""
        inputs, names = list(arrays.values()), self.spec.output_names
        parts = [inputs] if len(group.numbers) == 1 else split_rows(inputs, group.counts)
        if len(parts) == 1 and (self._whole or len(inputs[0]) <= self._most):  # most often
            outputs = self._call(parts)
            called()
            return group.with_tensors(names, outputs)
        pieces: list[Outputs] = [[] for _ in parts]
        for indices, call in (_whole_calls if self._whole else _calls)(parts, self._most):
            for index, results in zip(indices, self._call(call), strict=True):
                pieces[index].append(results)
            called()
        outputs = [own[0] if len(own) == 1 else list(map(np.concatenate, zip(*own, strict=True))) for own in pieces]
        return group.with_tensors(names, outputs)

    def _copied(self, parts: Parts) -> Outputs:
        """Call the function with copies, which it may write to, and keep what it returns, which it may overwrite."""
        results = self._caller.run([[array.copy() for array in arrays] for arrays in parts])
        end_forked(self.stage, self._pid)  # before the next step
        return [kept(arrays) for arrays in results]


class ModelStep:
    """A model, whose engine is called on the calling thread; as `ArrayExecutor`, it pads nothing."""

    stage = None

    def __init__(self, engine: Engine, model: Model) -> None:
        self._engine = engine
        self._most = model.entry.max_batch_size
        self._joins = has_common_rows(model.spec)
        self.spec = model.spec

    def run(self, group: Group, arrays: Arrays, called: Called) -> list[Group]:
        """As `ChainStep.run`: calls of at most `max_batch_size` independent rows, or of a whole request."""
        names = self.spec.output_names
        if not self._joins:
            whole = [dict(zip(arrays, own, strict=True)) for own in group.apart([*arrays])]
            return group.with_tensors(names, [self._computed(own, called) for own in whole])
        pieces = []
        for at in range(0, sum(group.counts), self._most):
            piece = {name: array[at : at + self._most] for name, array in arrays.items()}
            pieces.append(self._computed(piece, called))
            rows = min(self._most, sum(group.counts) - at)
            if sum(group.counts) > 1 and any(array.shape[:1] != (rows,) for array in pieces[-1]):
                raise EngineError("the model did not return one output row for each input row")
        return [Group(group.numbers, group.counts, group.tensors | _joined(names, pieces))]

    def _computed(self, arrays: Arrays, called: Called) -> list[np.ndarray]:
        try:
            outputs = self._engine.run(arrays)
        except TailcutError:
            raise
        except Exception as error:
            raise EngineError(f"the engine failed: {error}") from error
        called()
        return [outputs[name] for name in self.spec.output_names]


class _StepInputs:
    """Takes a step's inputs from what there is, and checks them; shapes that were once right are not checked again."""

    def __init__(self, step: ChainStep) -> None:
        self._step = step
        self._names = step.spec.input_names
        self._fixed = all(tensor.dtype is not DType.BYTES for tensor in step.spec.inputs)
        self._known: set[tuple[tuple[int, ...], ...]] = set()

    def of(self, tensors: Arrays) -> Arrays:
        """The inputs of a group.

        Raises:
            EngineError: a free size does not fit, which is not the client's fault.
        """
        arrays = {name: tensors[name] for name in self._names}
        shapes = tuple([array.shape for array in arrays.values()])
        if shapes in self._known and all([array.flags.c_contiguous for array in arrays.values()]):  # noqa: C419  quick
            return arrays
        try:
            checked, _ = check_inputs(self._step.spec, arrays)
        except InvalidInputError as error:
            kind, name = "model" if self._step.stage is None else "stage", self._step.spec.name
            raise EngineError(f"{kind} {name!r} received input that it does not accept: {error}") from None
        if self._fixed and len(self._known) < _MOST_KNOWN:
            self._known.add(shapes)
        return checked


class Chain:
    """Runs the steps one after the other on the requests of a batch.

    Args:
        stage: stands for all of them, as `chain_stage` makes it.
        steps: in order.
        layout: of inputs and outputs.
    """

    def __init__(self, stage: Stage, steps: Sequence[ChainStep], layout: "ChainLayout") -> None:
        self._whole = stage
        self._steps = steps
        self._inputs = [_StepInputs(step) for step in steps]
        self._layout = layout
        self.stage = stage  # in messages: the one that ran last
        self.inputs = layout.inputs

    def answer(self, asked: Unpacked, called: Called) -> Packed:
        """The packed outputs of all requests.

        Args:
            asked: the unpacked inputs.
            called: as of `ChainStep.run`.

        Raises:
            Exception: as `ChainStep.run`; `stage` is the stage that raised.
        """
        groups = self._groups(asked)
        for step, inputs in zip(self._steps, self._inputs, strict=True):
            self.stage = step.stage or self._whole
            groups = [after for group in groups for after in step.run(group, inputs.of(group.tensors), called)]
        self.stage = self._whole
        names = [tensor.name for tensor in self._whole.outputs]
        if len(groups) == 1:
            return self._layout.pack_rows([groups[0].tensors[name] for name in names], groups[0].counts)
        outputs: dict[int, list[np.ndarray]] = {}
        for group in groups:
            outputs |= zip(group.numbers, group.apart(names), strict=True)
        return self._layout.outputs.pack([outputs[number] for number in range(len(asked.rows))])

    def _groups(self, asked: Unpacked) -> list[Group]:
        names = [tensor.name for tensor in self._whole.inputs]
        numbers = list(range(len(asked.rows)))
        if len(asked.parts) == 1:
            return [Group(numbers, asked.rows, dict(zip(names, asked.parts[0], strict=True)))]
        if not self._layout.independent:
            tensors = [dict(zip(names, arrays, strict=True)) for arrays in asked.parts]
            return [Group([number], [asked.rows[number]], own) for number, own in zip(numbers, tensors, strict=True)]
        return Group(numbers, asked.rows, {}).with_tensors(names, asked.parts)


class ChainLayout:
    """Packs and unpacks what the server and a process exchange; as `Caller` does for a stage.

    Args:
        spec: of the pipeline.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.inputs = TensorLayout(spec.inputs)
        self.outputs = TensorLayout(spec.outputs)
        self.independent = has_common_rows(spec)
        self._name = spec.name

    def pack(self, parts: Parts) -> Packed:
        """Pack the requests' inputs: all rows together if they are independent and of the same shapes."""
        return self.inputs.pack_together(parts) if self.independent else self.inputs.pack(parts)

    def pack_rows(self, arrays: Sequence[np.ndarray], counts: Sequence[int]) -> Packed:
        """Pack the outputs of requests with this many rows each."""
        return self.outputs.pack_together([arrays], counts)

    def unpack(self, region: np.ndarray, rows: Sequence[int]) -> Outputs:
        """The outputs of requests with this many rows: views of the region.

        Args:
            region: uint8 [size], the packed outputs.
            rows: the number of rows of each request.

        Raises:
            EngineError: the region is not such a layout, or has other numbers of rows.
        """
        parts = self.outputs.unpack(region).parts
        if len(parts) == len(rows):
            return parts
        if len(parts) != 1 or any(len(array) != sum(rows) for array in parts[0]):
            raise EngineError(f"pipeline {self._name!r}: its process returned outputs for other rows")
        return split_rows(parts[0], rows)


def has_common_rows(spec: ModelSpec) -> bool:
    """Whether rows of several requests may be joined: they are independent, and all inputs have as many."""
    return spec.batched and not spec.separate_axes


def chain_stage(
    spec: ModelSpec, steps: Sequence[Stage | ModelSpec], processes: int, *, most: int, timeout_s: float
) -> Stage:
    """The stage that stands for all steps of a pipeline.

    Args:
        spec: of the pipeline.
        steps: its stages, and the signatures of its models.
        processes: how many processes run it.
        most: the largest batch of its models.
        timeout_s: the time limit of a model's call.
    """
    stages = [step for step in steps if isinstance(step, Stage)]
    models = len(stages) < len(steps)
    return Stage(
        _unused,
        "+".join(step.name for step in steps),
        spec.inputs,
        spec.outputs,
        by_name=False,
        workers=processes,
        max_batch_size=min([stage.max_batch_size for stage in stages] or [most]),
        timeout_s=max([stage.timeout_s for stage in stages] + [timeout_s] * models),
        together=True,  # requests stay whole; each step divides their rows itself
    )


def signature_of(steps: Sequence[Stage | str]) -> str:
    """The steps as text, to check that a process has loaded the same."""
    return "\n".join(step.signature if isinstance(step, Stage) else step for step in steps)


def _joined(names: Sequence[str], outputs: Outputs) -> Arrays:
    """Arrays of several requests as one each, by name."""
    if len(outputs) == 1:
        return dict(zip(names, outputs[0], strict=True))
    return {name: np.concatenate(own) for name, own in zip(names, zip(*outputs, strict=True), strict=True)}


def _whole_calls(parts: Parts, most: int) -> Iterator[tuple[Sequence[int], Parts]]:
    """Divide requests into calls of at most `most` of them."""
    for at in range(0, len(parts), most):
        yield range(at, min(at + most, len(parts))), parts[at : at + most]


def _calls(parts: Parts, most: int) -> Iterator[tuple[Sequence[int], Parts]]:
    """Divide the rows of requests into calls of at most `most` rows; for each call, whose rows they are."""
    indices: list[int] = []
    call: list[Sequence[np.ndarray]] = []
    rows = 0
    for index, arrays in enumerate(parts):
        for at in range(0, len(arrays[0]), most):
            piece = [array[at : at + most] for array in arrays]
            if rows + len(piece[0]) > most:
                yield indices, call
                indices, call, rows = [], [], 0
            indices.append(index)
            call.append(piece)
            rows += len(piece[0])
    yield indices, call


def _unused(*_: np.ndarray) -> None:
    raise UsageError("the steps of this stage run in its processes")
