"""A tune from the model file to an outcome: estimate in process, simulate, race, explain by rungs, verify.

The order of the phases, and nothing else. What there is to choose from stands in `model_space`, which configuration
wins in `selection`, what each rung does in `waterfall`, what is claimed in `claims`. A tune selects by the best
estimate; what it claims comes from the verification alone.
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
    """What there is to choose from."""

    @property
    def size(self) -> SearchSize:
        """How much of it is worth measuring in process."""

    @property
    def anyway(self) -> Sequence[Settings]:
        """What races whatever is expected of it."""

    def kinds(self, settings: Settings) -> list[tuple[object, int]]:
        """Which finalists are alike, and how many of them may race."""

    def predicted(self) -> list[PredictedConfiguration]:
        """Everything that is allowed, with what is expected of it."""

    def refinements(self, winner: Settings) -> Sequence[Settings]:
        """Small changes of a configuration that only the real server can judge."""

    def thrifty(self, winner: Settings) -> Sequence[Settings]:
        """Changes of a configuration that should take less of the machine, and be as quick."""

    def steps(self, winner: Settings) -> Sequence[Settings]:
        """The baseline with the winner's settings of the rungs, one rung more in each."""

    def without(self, winner: Settings, rung: str) -> Settings:
        """The winner with the baseline's settings of one rung."""

    def rows_of(self, settings: Settings) -> RowsDecision:
        """What was decided of the rows with these settings."""

    def take(self, outcome: TuneOutcome) -> None:
        """Keep the files that the outcome's settings need."""

    def close(self) -> None:
        """Remove all other files."""


class Search:
    """One tune.

    Args:
        session: what its phases share.
        space: what there is to choose from.
    """

    def __init__(self, session: TuneSession, space: Space) -> None:
        self._session = session
        self._space = space
        self._selection = Selection(session, space)

    def run(self) -> TuneOutcome:
        """Search, then verify; Ctrl-C at any time ends with the best so far, unverified.

        Raises:
            UsageError: the rate is far more than any configuration carries.
            TailcutError: the baseline itself cannot be served.
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
            self._note_rows()  # of other settings, where the server of these did not start again
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
        with contextlib.suppress(TailcutError):  # a server that ended: the verification tries it again
            self._session.outcome.rows = self._space.rows_of(self._session.outcome.settings)


def tune_model(wanted: TuneRequest, tell: Callable[[Event], None]) -> TuneOutcome:
    """Tune one model.

    Args:
        wanted: what the user asked for.
        tell: called with each event, on the same thread.

    Raises:
        TailcutError: the model cannot be opened, refuses a request of the data, or its baseline cannot be served.
    """
    session = open_session(wanted, tell)
    return Search(session, ModelSpace(session)).run()
