"""Which engines and precisions answer wrongly: asked in process, before servers are started for them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tailcut.engines import EngineOptions
from tailcut.errors import TailcutError
from tailcut.tuner.estimator import Tensor

Ask = Callable[[Sequence[list[Tensor]], float], Sequence[Mapping[str, np.ndarray]]]  # requests, and seconds for them
_ASKED_S = 0.5  # for the answers of an engine


class EstimateError(TailcutError):
    """A configuration that cannot be measured: the engine refuses the model, or its process ended."""


@dataclass(slots=True)
class Judging:
    """Which engines answer wrongly: the first configuration of each engine and precision is asked.

    Args:
        requests: that it is asked.
        judge: says of answers what is wrong with them, and whether the configuration is measured anyway; None where
            they are right.
        kinds: that are not asked: their answers are what others are compared with.
        wrong: what was found.
    """

    requests: Sequence[list[Tensor]] = ()
    judge: Callable[[EngineOptions, Sequence[Mapping[str, np.ndarray]]], "Wrong | None"] = lambda _, __: None
    kinds: set[tuple[str, str]] = field(default_factory=set)
    wrong: dict[tuple[str, str], str] = field(default_factory=dict)

    def check(self, options: EngineOptions, ask: Ask) -> None:
        """Ask a configuration that was loaded, where its kind is not known.

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
        """Why a configuration need not be loaded."""
        return self.wrong.get((str(options.name), str(options.precision)))


@dataclass(frozen=True, slots=True)
class Wrong:
    """Answers that are not right: why, and whether their engine is measured so that it can be offered."""

    reason: str
    measured: bool
