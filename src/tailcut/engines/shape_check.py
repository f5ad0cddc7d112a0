"""Checks OpenVINO's answer for each new shape of a model with free sizes, before any request of that shape is answered.

OpenVINO adapts the graph to each new size of its inputs, and version 2026.4.1 does so wrongly in two known cases: if
the very first request has one key to attend to, attention over more than about 30 keys is wrong from then on; and after
a request that failed in the middle of the graph, the following ones are wrong or fail
(docs/decisions/023-openvino-first-shapes.md). The check does not depend on these cases:

- A request with new sizes goes to the reference first: onnxruntime, or for a file that only OpenVINO reads, OpenVINO
  compiled in another way (`openvino_reference.py`). What the reference refuses never reaches the model.
- OpenVINO's answer is compared with the reference's, with a loose tolerance, because precision and order of summation
  differ. Then the canary, the first request that the model has answered, is computed again and compared with its own
  answer, with a close tolerance.
- On a difference, the model is recompiled, and the request is computed again, first after the canary, and then as the
  very first request. If two fresh models agree with each other, OpenVINO simply computes differently: the answer is
  accepted with a warning, unless it is off by its own magnitude, or all integers differ. Otherwise, the sizes are
  refused with an error.

For known sizes, the check costs one lookup in a set.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np

from tailcut.engines.agreement import distance
from tailcut.engines.base import Arrays, Precision
from tailcut.engines.openvino_instance import Instance, Shapes
from tailcut.engines.samples import Answering, find_samples
from tailcut.errors import EngineError, UnsupportedError

_log = logging.getLogger("tailcut")
# Distances as `agreement.distance` computes them. The wrong answers seen so far were off by 0.45 to 80.
_FROM_REFERENCE = {"f32": 0.02, "bf16": 0.1, "f16": 0.05, "int8": 0.25, "int8_static": 0.25}
_FROM_ITSELF = {"f32": 1e-3, "bf16": 0.03, "f16": 0.01, "int8": 0.03, "int8_static": 0.03}
# From this distance on, an answer is wrong even if two fresh models agree on it: zeros are off by 1. A TopK that chose
# differently among equal scores was off by 0.58.
_WRONG = 0.99
# For integers: up to this share of differing ones, and up to this distance as numbers, an answer may still be right.
_OTHERS = 0.5
_TELLING = 8  # from this many elements on, all of them do not differ by chance
_MOST_REFUSED = 4096


class ReferenceEngine(Answering, Protocol):
    """An engine whose answers are taken as right."""

    def close(self) -> None: ...  # noqa: D102  said in `Engine`


@dataclass(frozen=True, slots=True)
class Reference:
    """The engine to compare answers with, its name in messages, and advice for a model whose answers differ."""

    engine: ReferenceEngine
    name: str
    advice: str


class ShapeCheck:
    """The checks of one model, shared by its instances; each instance is used by one thread at a time.

    Args:
        name: the model's name, for messages.
        reference: what answers are compared with; the check owns and closes its engine.
        recompile: compiles the model anew.
        precision: the precision that the model is compiled for.
    """

    def __init__(self, name: str, reference: Reference, recompile: Callable[[], Any], precision: Precision) -> None:
        self._name = name
        self._reference = reference.engine
        self._compared_with = reference.name
        self._advice = reference.advice
        self._recompile = recompile
        self._tolerance = _FROM_REFERENCE[precision]
        self._same = _FROM_ITSELF[precision]
        self._incomparable: set[str] = set()  # accepted outputs for which distances say nothing
        self._refused: dict[Shapes, str] = {}
        self._canary: tuple[Arrays, Arrays] | None = None  # a request and its answer
        self._first = self._made_up()
        self._random = self._first is not None and self._answers_differ(self._first)

    def admit(self, instance: Instance) -> None:
        """Compute a generated request before all others, as the canary.

        Raises:
            UnsupportedError: the answer is wrong.
        """
        if self._first is None:
            return
        try:
            self.prove(instance, self._first, shapes_of(self._first))
        except EngineError as error:
            raise UnsupportedError(str(error)) from None

    def prove(self, instance: Instance, inputs: Arrays, shapes: Shapes) -> None:
        """Compute a request of new sizes and check the answer; the instance then remembers these sizes as right.

        Raises:
            EngineError: the reference refuses the request, or openvino's answer is wrong.
        """
        if shapes in self._refused:
            raise EngineError(self._refused[shapes])
        expected = self._reference.run(inputs)
        result = _answer(instance, inputs)
        if not self._random and not self._is_right(instance, expected, result):
            result = self._compiled_anew(instance, inputs, shapes, expected, result)
        if self._canary is None and result is not None:
            self._canary = {name: np.array(array) for name, array in inputs.items()}, result
        instance.learn(shapes)

    def recover(self, instance: Instance) -> None:
        """Recompile after a failed call, because what openvino has cached for its sizes may be wrong."""
        self._renew(instance, None)

    def close(self) -> None:
        """Free the reference."""
        self._reference.close()

    def _compiled_anew(
        self, instance: Instance, inputs: Arrays, shapes: Shapes, expected: Arrays, wrong: Arrays | None
    ) -> Arrays:
        """The answer of a recompiled model to a request that the instance's model answered wrongly."""
        sizes = ", ".join(f"{name} {list(shape)}" for name, shape in zip(inputs, shapes, strict=True))
        fresh: list[Arrays] = []
        for first in (None, inputs):
            self._renew(instance, first)
            result = _answer(instance, inputs)
            if result is not None and self._is_right(instance, expected, result):
                text = "%s: openvino %s gave wrong outputs for requests of %s until it was recompiled: %s"
                _log.warning(text, self._name, version("openvino"), sizes, self._off(expected, wrong))
                return result
            fresh += [] if result is None else [result]
        agree = len(fresh) == 2 and distance(*fresh) <= self._same and self._canary_holds(instance)
        if agree and self._accept(expected, fresh[0]):
            text = "%s: openvino's answers differ from those of %s (%s for %s): see what data says with `tailcut tune`"
            _log.warning(text, self._name, self._compared_with, self._off(expected, fresh[0]), sizes)
            return fresh[1]
        reason = (
            f"{self._name}: openvino {version('openvino')} gives wrong outputs for requests of {sizes}, even when "
            f"recompiled ({self._off(expected, fresh[0] if fresh else None)}): {self._advice}"
        )
        if len(self._refused) < _MOST_REFUSED:
            self._refused[shapes] = reason
        self._renew(instance, None)
        raise EngineError(reason)

    def _accept(self, expected: Arrays, result: Arrays) -> bool:
        """Whether to accept a difference on which fresh models agree; later ones may then be up to twice as large."""
        defined = {name: _defined(array, result[name]) for name, array in expected.items()}
        apart = {name: distance({name: array}, defined) for name, array in expected.items()}
        far = {name for name, off in apart.items() if off >= _WRONG}
        another = {name for name in far if _is_another_way(expected[name], result[name])}
        if any(expected[name].dtype.kind in "fcV" or expected[name].size >= _TELLING for name in far - another):
            return False
        self._incomparable |= another
        near = max((off for name, off in apart.items() if name not in far), default=0.0)
        self._tolerance = max(self._tolerance, min(2 * near, _WRONG))
        return True

    def _is_right(self, instance: Instance, expected: Arrays, result: Arrays | None) -> bool:
        compared = {name: array for name, array in expected.items() if name not in self._incomparable}
        return result is not None and distance(compared, result) <= self._tolerance and self._canary_holds(instance)

    def _canary_holds(self, instance: Instance) -> bool:
        if self._canary is None:
            return True
        inputs, answer = self._canary
        result = _answer(instance, inputs)
        return result is not None and distance(answer, result) <= self._same

    def _renew(self, instance: Instance, first: Arrays | None) -> None:
        """Give the instance a recompiled model; it computes `first`, if given, before the canary."""
        instance.take_over(self._recompile())
        if first is not None:
            _answer(instance, first)
        if self._canary is not None and self._canary_holds(instance):
            instance.learn(shapes_of(self._canary[0]))

    def _off(self, expected: Arrays, result: Arrays | None) -> str:
        if result is None:
            return f"it failed, and {self._compared_with} did not"
        for name, array in expected.items():
            reason = _beyond_compare(array, result[name])
            if reason:
                return f"output {name!r} has {reason} {self._compared_with}"
        return f"off by {distance(expected, result):.1%} from {self._compared_with}"

    def _made_up(self) -> Arrays | None:
        try:
            samples = find_samples(self._reference)
        except UnsupportedError:
            return None
        return samples.make(samples.rows, seed=0)

    def _answers_differ(self, inputs: Arrays) -> bool:
        """Whether the model itself is random, so that its answers cannot be compared."""
        return distance(self._reference.run(inputs), self._reference.run(inputs)) > self._same


def shapes_of(inputs: Arrays) -> Shapes:
    """The shapes of a request's inputs, in their order."""
    return tuple(array.shape for array in inputs.values())


def _defined(expected: np.ndarray, result: np.ndarray) -> np.ndarray:
    """The result, but the expected value where that is not finite: attention over no keys may return anything."""
    if expected.dtype.kind not in "fc" or expected.shape != result.shape:
        return result
    return np.where(np.isfinite(expected), result, expected)


def _is_another_way(expected: np.ndarray, result: np.ndarray) -> bool:
    """Whether two outputs without a common element may both be right.

    They may differ in the number of elements that were found, hold the same integers in another order because scores
    are equal, or hold integers close to each other, such as counts.
    """
    if expected.shape != result.shape:
        return True
    if expected.dtype.kind not in "iu" or expected.dtype != result.dtype:
        return False
    ordered = np.sort(expected, axis=None), np.sort(result, axis=None)
    wide = {"y": expected.astype(np.float64)}, {"y": result.astype(np.float64)}
    return bool(np.mean(ordered[0] != ordered[1]) < _OTHERS or distance(*wide) < _OTHERS)


def _beyond_compare(expected: np.ndarray, result: np.ndarray) -> str:
    """Why no distance between two outputs can be computed, to be followed by the other's name; "" if it can."""
    if expected.shape != result.shape:
        return f"shape {list(result.shape)}, and {list(expected.shape)} with"
    if expected.dtype != result.dtype:
        return f"type {result.dtype}, and {expected.dtype} with"
    if np.isinf(distance({"y": expected}, {"y": result})):
        return "NaN or infinity in other places than"
    return ""


def _answer(instance: Instance, inputs: Arrays) -> Arrays | None:
    try:
        return instance.run(inputs)
    except EngineError:
        return None
