"""Sizes that OpenVINO must not compute, because it would access memory outside of the tensors.

A request may have sizes that do not fit an operator of the graph, such as an image that has become smaller than the
window of a pooling layer. Compiled with free sizes, OpenVINO 2026.4.1 raises no error then: it returns the outputs of
the previous call, or none at all, or reads memory out of bounds, which may crash the process. Its own shape inference,
on a copy of the graph, finds what does not fit without computing anything.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov

from tailcut.engines.base import Arrays, Engine
from tailcut.engines.error_line import short
from tailcut.engines.hints import Hinted, InputHints
from tailcut.engines.openvino_ports import ports_in_order
from tailcut.engines.openvino_values import ValueCheck
from tailcut.errors import EngineError, InvalidInputError
from tailcut.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class SizeBounds:
    """The sizes that a file allows on the free axes of its inputs.

    Args:
        axes: those with a bound: the input's place and name, the axis, the least and the largest size; None where there
            is no largest.
    """

    axes: tuple[tuple[int, str, int, int, int | None], ...] = ()

    @classmethod
    def of(cls, model: Any, spec: ModelSpec) -> "SizeBounds":
        """Those of an `openvino.Model`, whose inputs are in the order of the spec."""
        return cls(
            tuple(
                (index, tensor.name, axis, size.get_min_length(), most if most >= 0 else None)
                for index, (tensor, port) in enumerate(zip(spec.inputs, model.inputs, strict=True))
                for axis, size in enumerate(port.partial_shape)
                if size.is_dynamic and ((most := size.get_max_length()) >= 0 or size.get_min_length())
            )
        )

    @property
    def least_rows(self) -> int:
        """The smallest first axis that all inputs allow."""
        return max((least for _, _, axis, least, _ in self.axes if axis == 0), default=0)

    @property
    def most_rows(self) -> int | None:
        """The largest first axis that all inputs allow; None where there is none."""
        return min((most for _, _, axis, _, most in self.axes if axis == 0 and most is not None), default=None)

    def check(self, shapes: Sequence[Sequence[int]]) -> None:
        """Check the shapes of a request, whose inputs have the right ranks.

        Raises:
            InvalidInputError: the model takes others; names the input and its axis.
        """
        for index, name, axis, least, most in self.axes:
            size = shapes[index][axis]
            if size < least or (most is not None and size > most):
                allowed = f"{least} or more" if most is None else f"{least} to {most}"
                raise InvalidInputError(f"input {name!r}: axis {axis} is {size}, but the model takes {allowed}")


class SizeInference:
    """The sizes of all tensors in a graph, from those of its inputs.

    Args:
        model: an `openvino.Model`, which stays as it is.
        spec: its signature, with its inputs in the model's order unless `by_name`.
        by_name: inputs are found by their names.
    """

    def __init__(self, model: Any, spec: ModelSpec, *, by_name: bool = False) -> None:
        self._model = model
        self._spec = spec
        self._by_name = by_name

    def infer(self, inputs: Arrays) -> None:
        """Check that the sizes of a request fit all operators.

        Raises:
            EngineError: they do not.
        """
        self._sized([inputs[tensor.name].shape for tensor in self._spec.inputs])

    def open_outputs(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """The indices of the outputs whose sizes also depend on values; all outputs if the sizes do not fit."""
        try:
            model = self._sized(shapes)
        except EngineError:
            return tuple(range(len(self._spec.outputs)))
        ports = ports_in_order(model.outputs, self._spec.outputs, by_place=not self._by_name)
        return tuple(index for index, port in enumerate(ports) if port.partial_shape.is_dynamic)

    def _sized(self, shapes: Sequence[Sequence[int]]) -> Any:
        """A copy of the graph whose inputs have these sizes."""
        copy = self._model.clone()
        ports = ports_in_order(copy.inputs, self._spec.inputs, by_place=not self._by_name)
        try:
            copy.reshape({port: ov.PartialShape(list(shape)) for port, shape in zip(ports, shapes, strict=True)})
        except RuntimeError as error:
            raise EngineError(f"openvino refuses these sizes: {short(error)}") from None
        return copy


class BoundSizes:
    """Whether bound outputs were filled, in models whose outputs may be shorter than their inputs.

    OpenVINO leaves the rest of a bound array unchanged then, with the answers to other requests. Nothing is checked for
    a model whose output sizes follow from its input sizes.

    Args:
        sizes: of the model.
        spec: its signature.
    """

    def __init__(self, sizes: SizeInference, spec: ModelSpec) -> None:
        self._sizes = sizes
        self._spec = spec
        self._open: tuple[int, ...] | None = None  # the same for all sizes that fit the graph: found once

    def check_of(self, shapes: Sequence[Sequence[int]], outputs: Sequence[Any]) -> Callable[[], None] | None:
        """A function to call after each call on bound arrays (as tensors); None if there is nothing to check.

        The check raises EngineError for an output that was not filled.
        """
        if self._open is None:
            self._open = self._sizes.open_outputs(shapes)
        if not self._open:
            return None
        checked = [  # with copies: a tensor's shape is a view of it
            (self._spec.outputs[index].name, outputs[index], ov.Shape(outputs[index].shape)) for index in self._open
        ]

        def check() -> None:
            for name, tensor, bound in checked:
                if tensor.shape != bound:
                    raise EngineError(
                        f"output {name!r} has sizes {list(tensor.shape)}, and not {list(bound)}: its rows are "
                        "not those of the inputs: use --batching off"
                    )

        return check


class SizedReference:
    """Another engine on the same model, which also refuses sizes that OpenVINO finds not to fit.

    Args:
        engine: that answers; it belongs to the reference.
        sizes: of the model as OpenVINO has it.
        values: what the model demands of the values of its inputs.
        advice: what the user can do if only OpenVINO refuses.
    """

    def __init__(self, engine: Engine, sizes: SizeInference, values: ValueCheck, advice: str) -> None:
        self.spec = engine.spec
        self.hints = engine.hints if isinstance(engine, Hinted) else InputHints()
        self._engine = engine
        self._sizes = sizes
        self._values = values
        self._advice = advice

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """All outputs, in fresh arrays.

        Raises:
            InvalidInputError: an operator does not allow the request's values.
            EngineError: the engine or OpenVINO refuses the request.
        """
        answer = self._engine.run(inputs)
        try:
            self._sizes.infer(inputs)
        except EngineError as error:
            raise EngineError(f"{error}: {self._advice}") from None
        self._values.check(inputs, tuple(inputs[tensor.name].shape for tensor in self.spec.inputs))
        return answer

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()
