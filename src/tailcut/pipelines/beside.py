"""Whether a stage's answer to a request depends on the requests that came beside it, which only its author knows.

A function gets the rows of a whole batch. One that pads to the longest of them, normalises over them or ranks them
answers a request in another way in company than alone. So the first batches of several requests are compared with two
of their requests alone, before anything is answered. Where they differ, and each repeats itself, the stage gets one
request at a time from then on: slower, and right.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from tailcut.engines.agreement import distance
from tailcut.errors import TailcutError

_log = logging.getLogger("tailcut")
_BATCHES = 3  # of several requests, that are compared
_MIXED = 0.01  # as far apart, answers to the same rows differ by more than rounding
_WHAT = "its answer to a request depends on the requests beside it"
_ADVICE = "write @stage(whole_requests=True), or @stage(fill=...) and return lists where it pads to the longest"
Parts = Sequence[Sequence[np.ndarray]]
Call = Callable[[Parts], list[list[np.ndarray]]]


def is_mixing(call: Call, parts: Parts, beside: Parts, chosen: Sequence[int]) -> bool:
    """Whether answers to requests in one call differ from those to each alone; not of a function that is random.

    Args:
        call: the function: the outputs of each request.
        parts: the inputs of each request.
        beside: the outputs of a call with all of them.
        chosen: the places of those to ask alone.
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
        return False  # it refuses what it is asked alone: that says nothing of the rows


class BesideWatch:
    """Compares the first batches of one stage.

    Args:
        name: of the stage, for the log.
        call: its function: the outputs of each request.
    """

    def __init__(self, name: str, call: Call) -> None:
        self._name = name
        self._call = call
        self._left = _BATCHES
        self.mixes = False  # whether the stage was seen to answer in another way in company

    def answers(self, parts: Parts) -> list[list[np.ndarray]]:
        """The outputs of each request: together, or one by one where they have to be.

        Raises:
            TailcutError: as the call.
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
