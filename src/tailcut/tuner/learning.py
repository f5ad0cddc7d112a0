"""What a tune or a comparison knows of the model before it measures: signature, rows, requests, and right answers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.base import Engine
from tailcut.engines.samples import find_samples
from tailcut.lab.describe import rows_of_data
from tailcut.runtime.limits import Limits
from tailcut.runtime.row_proof import settle_rows
from tailcut.spec import ModelSpec
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.gate import Gate
from tailcut.tuner.questions import Questions
from tailcut.tuner.records import Wanted
from tailcut.tuner.space import BASELINE

Arrays = dict[str, np.ndarray]
_MADE_UP = 64  # requests, where there are no data
_MOST_REQUESTS = 2048  # of the data


@dataclass(frozen=True, slots=True)
class Learned:
    """The signature, what was decided of the rows, the requests that are sent, and the accuracy gate."""

    spec: ModelSpec
    rows: dict[str, Any]
    requests: list[Arrays]
    gate: Gate


def learn(wanted: Wanted, answers_s: float, tell: Callable[[Event], None]) -> Learned:
    """Open the bare model, decide whether its rows are independent, and compute the right answers.

    Args:
        wanted: what the user asked for.
        answers_s: seconds for the right answers.
        tell: called with each phase.

    Raises:
        TailcutError: the model cannot be opened, or refuses a request of the data.
    """
    engine = open_engine(wanted.model, BASELINE.engine)
    try:
        decision = settle_rows(engine, wanted.rows, Limits())
        if wanted.data is not None:
            requests = rows_of_data(engine.spec, wanted.data, _MOST_REQUESTS)
        else:
            samples = find_samples(engine, seed=wanted.seed)
            requests = [samples.make(samples.rows, wanted.seed + number) for number in range(_MADE_UP)]
        spec = engine.spec
    finally:
        engine.close()
    tell(Phase(decision.describe()))
    tell(Phase("computing the right answers"))
    questions = Questions(partial(_open_reference, wanted, spec), requests, answers_s)
    gate = Gate(questions, wanted.bound, wanted.metric, wanted.seed)
    if gate.random_outputs:
        names = ", ".join(map(repr, gate.random_outputs))
        rest = "only speed is tuned" if gate.blind else "they are not compared"
        words = f"the model itself is random: asked the same twice, it answers {names} differently; {rest}"
        tell(Phase(words))
    return Learned(spec, decision.as_dict(), requests, gate)


def _open_reference(wanted: Wanted, spec: ModelSpec) -> Engine:
    engine = open_engine(wanted.model, EngineOptions())
    engine.spec = replace(engine.spec, rows=spec.rows, rows_reason=spec.rows_reason)
    return engine
