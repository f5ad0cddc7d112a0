"""Detects stages whose answer to a request depends on the other requests of its batch.

A function gets the rows of a whole batch. If it pads to the longest row, normalises over the rows or ranks them, it
answers a request differently in a batch than alone. So the first batches of several requests are checked before they
are answered: two of their requests are computed alone as well. If the results differ, and both are reproducible, the
stage gets one request at a time from then on, which is slower but correct.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from tailcut.engines.agreement import distance
from tailcut.errors import TailcutError

_log = logging.getLogger("tailcut")
_BATCHES = 3  # how many batches of several requests are checked
_MIXED = 0.01  # distance from which on two answers to the same rows differ by more than rounding
_WHAT = "its answer to a request depends on the requests beside it"
_ADVICE = "write @stage(whole_requests=True), or @stage(fill=...) and return lists where it pads to the longest"
Parts = Sequence[Sequence[np.ndarray]]
Call = Callable[[Parts], list[list[np.ndarray]]]


def is_mixing(call: Call, parts: Parts, beside: Parts, chosen: Sequence[int]) -> bool:
    """Whether a call with several requests answers them differently than alone; False for a function that is random.

    Args:
        call: calls the function; returns the outputs of each request.
        parts: the inputs of each request.
        beside: the outputs of a call with all of them.
        chosen: indices of the requests to compute alone.
    """

    def alone() -> list[list[np.ndarray]]:
        return [call([parts[index]])[0] for index in chosen]

    def of_chosen(outputs: Parts) -> Parts:
        return [outputs[index] for index in chosen]

    try:
        apart = alone()
        if _distance(apart, of_chosen(beside)) <= _MIXED:
            return False
        return _distance(apart, alone()) == 0 == _distance(of_chosen(beside), of_chosen(call(parts)))
    except TailcutError:
        return False  # it refuses a request alone, which says nothing about its rows


class BesideWatch:
    """Checks the first batches of one stage.

    Args:
        name: name of the stage, for the log.
        call: calls its function; returns the outputs of each request.
    """

    def __init__(self, name: str, call: Call) -> None:
        self._name = name
        self._call = call
        self._left = _BATCHES
        self.mixes = False  # whether the stage was seen to answer requests differently in a batch

    def answers(self, parts: Parts) -> list[list[np.ndarray]]:
        """The outputs of each request, computed together or, if their answers would mix, one by one.

        Raises:
            TailcutError: the call failed.
        """
        if self.mixes:
            return self._one_by_one(parts)
        results = self._call(parts)
        if len(parts) < 2 or self._left <= 0:
            return results
        self._left -= 1
        if not is_mixing(self._call, parts, results, (0, len(parts) - 1)):
            return results
        if not self.mixes:
            self.mixes = True
            _log.warning("stage %r: %s, so it gets one at a time from now on: %s", self._name, _WHAT, _ADVICE)
        return self._one_by_one(parts)

    def _one_by_one(self, parts: Parts) -> list[list[np.ndarray]]:
        return [self._call([arrays])[0] for arrays in parts]


def _distance(expected: Parts, result: Parts) -> float:
    return max(distance(_named(item), _named(other)) for item, other in zip(expected, result, strict=True))


def _named(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {str(index): array for index, array in enumerate(arrays)}
