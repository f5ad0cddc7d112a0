"""Which engines and precisions answer wrongly: checked in process, before servers are started for them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tailcut.engines import EngineOptions
from tailcut.errors import TailcutError
from tailcut.tuner.estimator import Tensor

Ask = Callable[[Sequence[list[Tensor]], float], Sequence[Mapping[str, np.ndarray]]]  # requests, and seconds for them
_ASKED_S = 0.5  # for the answers of an engine


class EstimateError(TailcutError):
    """A configuration cannot be measured: the engine rejects the model, or its process exited."""


@dataclass(slots=True)
class Judging:
    """Which engines answer wrongly: the first configuration of each engine and precision is checked.

    Args:
        requests: to send to it.
        judge: returns what is wrong with answers, and whether to measure the configuration anyway; None if they are
            right.
        kinds: engines and precisions that need no check, or have been checked.
        wrong: what was found wrong, by engine and precision.
    """

    requests: Sequence[list[Tensor]] = ()
    judge: Callable[[EngineOptions, Sequence[Mapping[str, np.ndarray]]], "Wrong | None"] = lambda _, __: None
    kinds: set[tuple[str, str]] = field(default_factory=set)
    wrong: dict[tuple[str, str], str] = field(default_factory=dict)

    def check(self, options: EngineOptions, ask: Ask) -> None:
        """Check the answers of a configuration that was loaded, unless its kind has been checked.

        Raises:
            EstimateError: it answers wrongly, or not at all, and need not be measured.
        """
        kind = (str(options.name), str(options.precision))
        if kind in self.wrong:
            raise EstimateError(self.wrong[kind])
        if not self.requests or kind in self.kinds:
            return
        self.kinds.add(kind)
        accuracy = self.judge(options, ask(self.requests, _ASKED_S))
        if accuracy is not None:
            self.wrong[kind] = accuracy.reason
            if not accuracy.measured:
                raise EstimateError(accuracy.reason)

    def reason(self, options: EngineOptions) -> str | None:
        """Why a configuration need not be loaded; None if it has to be."""
        return self.wrong.get((str(options.name), str(options.precision)))


@dataclass(frozen=True, slots=True)
class Wrong:
    """Wrong answers: the reason, and whether to measure the engine so that it can be offered."""

    reason: str
    measured: bool
