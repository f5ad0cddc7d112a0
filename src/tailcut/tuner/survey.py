"""The measurements of one model before it races together with others."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tailcut.runtime.settings import Settings
from tailcut.spec import ModelSpec
from tailcut.tuner.budget import TimePlan, estimating_s
from tailcut.tuner.claims import carry
from tailcut.tuner.events import Event
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.gate import Gate
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.result_records import RowsDecision
from tailcut.tuner.servers import TrialServers
from tailcut.tuner.session import open_session
from tailcut.tuner.simulate import Configuration


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of one model before anything races.

    Args:
        spec: its signature.
        rows: whether its rows are independent, and why.
        gate: the accuracy gate.
        servers: its profiles and requests.
        baseline: its settings, with the fastest encoding that clients may send.
        capacity: requests per second of the baseline, in a closed loop.
        limit_ms: of its p99: the user's, or the baseline's own.
        predicted: every allowed configuration, with what the simulation expects of it without the other models.
        configurations: the simulation's input, by settings.
    """

    spec: ModelSpec
    rows: RowsDecision
    gate: Gate
    servers: TrialServers
    baseline: Settings
    capacity: float
    limit_ms: float
    predicted: Sequence[PredictedConfiguration]
    configurations: Mapping[Settings, Configuration]


class Surveyor:
    """Measures one of several models by itself, before they race together."""

    def __init__(self, wanted: TuneRequest, tell: Callable[[Event], None]) -> None:
        """Open the model.

        Raises:
            TailcutError: it cannot be opened, or rejects a request of the data.
        """
        self._session = open_session(wanted, tell)
        self._space = ModelSpace(self._session)
        self._spent_s = 0.0  # of its budget, on measuring the baseline

    def carry(self) -> None:
        """Measure the baseline's capacity and limit.

        Raises:
            TailcutError: the baseline cannot be served.
        """
        session = self._session
        session.plan = TimePlan(
            time.monotonic(), session.wanted.budget_s
        )  # other models may have been measured since the start
        carry(session)
        self._spent_s = session.plan.spent_s(time.monotonic())
        session.servers.keep()

    @property
    def start_s(self) -> float:
        """How long the baseline's server took to start."""
        return self._session.servers.start_s

    @property
    def complete_s(self) -> float:
        """Seconds of a survey that leaves nothing out, after the baseline was measured."""
        return estimating_s(self._space.size, self.start_s, self._session.outcome.capacity)

    def survey(self) -> Survey:
        """Measure the engines, and simulate; call `close` when the servers are no longer needed."""
        session, space = self._session, self._space
        session.plan = TimePlan(time.monotonic() - self._spent_s, session.wanted.budget_s)
        predicted = space.predicted()
        return Survey(
            session.spec,
            session.learned.rows,
            session.gate,
            session.servers,
            space.wire,
            session.outcome.capacity,
            session.outcome.objective.limit_ms,
            predicted,
            space.configurations(),
        )

    def store(self, kind: str, settings: Settings, **values: Any) -> None:
        """Append a line to the model's journal, where it has one."""
        self._session.journal.add(kind, settings, **values)

    def close(self) -> None:
        """Stop all servers, and remove the copies of the model."""
        self._session.servers.keep()
        self._space.close()
