"""A tune from the model file to an outcome: estimate in process, simulate, race, explain by rungs, verify.

This module has only the order of the phases. The configurations to choose from are in `model_space`, the choice of the
winner in `selection`, the effect of each rung in `waterfall`, and the claims in `claims`. A tune selects by the best
estimate; its claims come from the verification alone.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from tailcut.errors import TailcutError
from tailcut.runtime.settings import Settings
from tailcut.tuner.budget import SearchSize
from tailcut.tuner.claims import announce, carry, prove, within_reach
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.offers import offers_of
from tailcut.tuner.records import TuneOutcome, TuneRequest
from tailcut.tuner.result_records import RowsDecision
from tailcut.tuner.selection import Selection
from tailcut.tuner.session import TuneSession, open_session
from tailcut.tuner.waterfall import explain


class Space(Protocol):
    """The configurations to choose from."""

    @property
    def size(self) -> SearchSize:
        """How much of the space is worth measuring in process."""

    @property
    def anyway(self) -> Sequence[Settings]:
        """Settings that race whatever is expected of them."""

    def kinds(self, settings: Settings) -> list[tuple[object, int]]:
        """The groups of similar finalists that settings belong to, and how many of each may race."""

    def predicted(self) -> list[PredictedConfiguration]:
        """Every allowed configuration, with what is expected of it."""

    def refinements(self, winner: Settings) -> Sequence[Settings]:
        """Small changes of a configuration that only the real server can evaluate."""

    def thrifty(self, winner: Settings) -> Sequence[Settings]:
        """Changes of a configuration that should need fewer resources and be as fast."""

    def steps(self, winner: Settings) -> Sequence[Settings]:
        """The baseline with the winner's settings, one more rung of them in each step."""

    def without(self, winner: Settings, rung: str) -> Settings:
        """The winner with the baseline's settings of one rung."""

    def rows_of(self, settings: Settings) -> RowsDecision:
        """Whether rows are independent with these settings."""

    def take(self, outcome: TuneOutcome) -> None:
        """Keep the files that the outcome's settings need."""

    def close(self) -> None:
        """Remove all other files."""


class Search:
    """One tune.

    Args:
        session: the state that its phases share.
        space: the configurations to choose from.
    """

    def __init__(self, session: TuneSession, space: Space) -> None:
        self._session = session
        self._space = space
        self._selection = Selection(session, space)

    def run(self) -> TuneOutcome:
        """Search, then verify; Ctrl-C ends the tune with the best settings so far, unverified.

        Raises:
            UsageError: the rate is far more than any configuration is expected to sustain.
            TailcutError: the baseline cannot be served.
        """
        session, space, outcome, plan = self._session, self._space, self._session.outcome, self._session.plan
        try:
            announce(session, carry(session), space.size)
            plan.phase_ended("starting and measuring the baseline", time.monotonic(), plan.baseline_until)
            outcome.estimated = space.predicted()
            within_reach(session, outcome.estimated)
            plan.phase_ended("measuring in process and simulating", time.monotonic(), plan.estimate_until)
            winner = self._selection.race(self._selection.chosen(outcome.estimated))
            if session.wanted.exhaustive:
                plan.race_ended(time.monotonic())
            plan.phase_ended("the race", time.monotonic(), plan.race_until)
            outcome.settings = self._selection.refine(winner)
            plan.phase_ended("refining the winner", time.monotonic(), plan.refine_until)
            explain(session, space, self._selection.is_better)
            self._note_rows()
            plan.phase_ended("measuring the rungs", time.monotonic(), plan.rungs_until)
            prove(session)
            plan.phase_ended("the verification", time.monotonic(), plan.end)
            self._note_rows()  # the verification may have taken other settings
        except KeyboardInterrupt:
            outcome.interrupted = True
        finally:
            space.take(outcome)
            session.servers.keep()
            space.close()
        kept = outcome.settings if outcome.not_kept else outcome.race_winner
        chosen = next((prediction for prediction in outcome.estimated if prediction.settings == kept), None)
        outcome.offers = offers_of(session.rejected.values(), chosen, outcome.objective)
        outcome.took_s = plan.spent_s(time.monotonic())
        words = plan.late_words(time.monotonic())
        if words and not outcome.interrupted:
            session.tell(Phase(words))
        return outcome

    def _note_rows(self) -> None:
        with contextlib.suppress(TailcutError):  # the server exited: the verification tries it again
            self._session.outcome.rows = self._space.rows_of(self._session.outcome.settings)


def tune_model(wanted: TuneRequest, tell: Callable[[Event], None]) -> TuneOutcome:
    """Tune one model.

    Args:
        wanted: what the user asked for.
        tell: called with each event, on the same thread.

    Raises:
        TailcutError: the model cannot be opened, rejects a request of the data, or its baseline cannot be served.
    """
    session = open_session(wanted, tell)
    return Search(session, ModelSpace(session)).run()
