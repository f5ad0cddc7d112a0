"""Which configurations enter a race: those whose servers start and answer correctly. A thin shell around the gate.

A rejected server is stopped at once: if many configurations answer wrongly, their servers would pile up.
"""

import time
from collections.abc import Callable, Sequence

from tailcut.errors import TailcutError
from tailcut.runtime.settings import Settings
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.events import Phase
from tailcut.tuner.finalists import PredictedConfiguration, finalists
from tailcut.tuner.racing import FEWEST_HEATS, RaceEntrant
from tailcut.tuner.records import Rejected, precision_of
from tailcut.tuner.session import TuneSession

FEWEST = 2  # configurations that race, or are at least tried


class Entry:
    """Starts and checks the configurations that may race.

    Args:
        session: of the tune.
        kinds: the groups of similar finalists that settings belong to, and how many of each may race.
    """

    def __init__(self, session: TuneSession, kinds: Callable[[Settings], list[tuple[object, int]]]) -> None:
        self._session = session
        self._kinds = kinds
        self.predicted: dict[Settings, PredictedConfiguration] = {}
        self._entered: set[Settings] = set()
        self._wrong: set[tuple[str, str]] = set()

    @property
    def has_wrong(self) -> bool:
        """Whether the answers of some engine and precision were rejected, so that others may take their place."""
        return bool(self._wrong)

    def others(self, count: int) -> list[Settings]:
        """The next best configurations of engines and precisions that were not rejected, at most `count`."""
        session = self._session
        left = [
            prediction
            for settings, prediction in self.predicted.items()
            if settings not in self._entered and precision_of(settings) not in self._wrong
        ]
        if not left or session.wanted.exhaustive:
            return []
        return [finalist.settings for finalist in finalists(left, count, session.outcome.objective.rank, self._kinds)]

    def enter(self, group: Sequence[Settings], beside: int = 0) -> list[RaceEntrant]:
        """Start servers, each while the answers of the one before it are checked; leave out those that answer wrongly.

        Configurations that there is no time left to race are not started: the simulation expects less of them.

        Args:
            group: configurations, the best by simulation first.
            beside: how many race already.
        """
        session, began, left_out, tried = self._session, time.monotonic(), 0, 0
        entrants: list[RaceEntrant] = []
        for number, settings in enumerate(group):
            racing, each_s = beside + len(entrants), (time.monotonic() - began) / max(1, number)
            in_use = settings == session.wanted.previous_settings
            if not in_use and precision_of(settings) in self._wrong:
                continue  # others of this engine and precision answered wrongly
            if not in_use and not self._can_race(racing, beside + tried, each_s):
                left_out += 1
                continue
            self._entered.add(settings)
            tried += 1
            if not in_use and len(entrants) >= FEWEST and not session.servers.room(1):
                session.tell(Phase(f"{session.describe(settings)} does not race: not enough memory for its server"))
                continue
            following = group[number + 1 : number + 2] if self._has_time_for_heat(time.monotonic()) else []
            session.servers.launch(settings, *following)
            try:
                arm = session.servers.arm(settings)
                accuracy = session.check(settings, session.plan.check_s)
            except TailcutError as error:
                session.reject(settings, str(error))
                self._stop(settings)
                if in_use:
                    session.outcome.previous_unserved = str(error)
                continue
            if accuracy.right:
                entrants.append(RaceEntrant(settings, arm))
                if accuracy.figure is not None:
                    session.outcome.accuracies[settings] = accuracy.figure
            else:
                self._reject(settings, accuracy)
        if left_out:
            session.tell(Phase(f"{left_out} of {len(group)} finalists left out: no time to race them"))
            session.servers.keep(session.base, *(self._entered - session.refused))
        return entrants

    def is_right(self, winner: Settings) -> bool:
        """Whether a server answers every request correctly; only some are sent if the time for the rungs is over.

        The verification sends all of them again.
        """
        session = self._session
        whole = session.wanted.exhaustive or time.monotonic() <= session.plan.rungs_until
        try:
            accuracy = session.check(winner, session.plan.check_s, whole=whole)
        except TailcutError as error:
            session.reject(winner, str(error))
            self._stop(winner)
            return False
        if not accuracy.right:
            self._reject(winner, accuracy)
        return accuracy.right

    def _can_race(self, racing: int, tried: int, each_s: float) -> bool:
        """Whether there is time for one more finalist.

        The first few are tried whatever time is left; if they answer wrongly, others only until the race should end. If
        there is no time for a single heat of two, one that answers correctly is enough.

        Args:
            racing: number that race already.
            tried: number tried so far.
            each_s: seconds that each took to enter.
        """
        session, now = self._session, time.monotonic()
        if session.wanted.exhaustive:
            return True
        if racing and not self._has_time_for_heat(now):
            return False
        if tried < FEWEST:
            return True
        if racing < FEWEST:
            return now <= session.plan.race_until
        entered = now + each_s
        return entered + (racing + 1) * FEWEST_HEATS * session.racing.heat_s(1) <= session.plan.race_ends(entered)

    def _has_time_for_heat(self, now: float) -> bool:
        """Whether two configurations could race, once."""
        plan = self._session.plan
        until = plan.race_ends(now)
        return self._session.racing.in_time(FEWEST, until, max(until, plan.rungs_until))[1] > 0

    def _reject(self, settings: Settings, accuracy: Accuracy) -> None:
        """Record wrong answers; if a looser bound would accept them, the effect of that is reported at the end."""
        session = self._session
        reason = f"wrong answers: {accuracy.reason}"
        session.reject(settings, reason)
        if settings == session.wanted.previous_settings:
            session.outcome.previous_wrong = reason
        kind = precision_of(settings)
        is_exact = kind[1] == "f32" and (kind == precision_of(session.base) or settings.batching.padding is not None)
        if not is_exact:
            self._wrong.add(kind)
            if kind not in session.rejected:
                self._note_advice(settings)
        self._stop(settings)

    def _note_advice(self, settings: Settings) -> None:
        """Record the looser bound that would accept the answers, if there is one."""
        session = self._session
        try:
            target = session.servers.of(settings).target
            seconds = session.plan.check_s
            advice = session.gate.advise(target, settings, seconds, session.in_flight(seconds))
        except TailcutError:
            return
        if advice is not None:
            expected = [self.predicted[settings]] if settings in self.predicted else []
            session.rejected[precision_of(settings)] = Rejected(settings, advice.accuracy, advice.bound, expected)

    def _stop(self, settings: Settings) -> None:
        """Stop a rejected server, unless other settings use it, which differ only in what clients send."""
        session = self._session
        session.servers.stop(settings, [session.base, *(self._entered - session.refused)])
