"""Which configurations enter a race: their servers start, and answer rightly. A thin shell around the accuracy gate.

A server that is refused is stopped at once: where every answer is wrong, all of them would pile up.
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

FEWEST = 2  # that race, or are tried at least


class Entry:
    """Starts and checks what may race.

    Args:
        session: of the tune.
        kinds: which finalists are alike, and how many of them may race.
    """

    def __init__(self, session: TuneSession, kinds: Callable[[Settings], list[tuple[object, int]]]) -> None:
        self._session = session
        self._kinds = kinds
        self.predicted: dict[Settings, PredictedConfiguration] = {}
        self._entered: set[Settings] = set()
        self._wrong: set[tuple[str, str]] = set()

    @property
    def has_wrong(self) -> bool:
        """Whether the answers of an engine and precision were refused, so that others may take their place."""
        return bool(self._wrong)

    def others(self, count: int) -> list[Settings]:
        """The next best of the engines and precisions whose answers were not refused, at most this many."""
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
        """Start servers, each while the one before it is asked for its answers; leave out those that are wrong.

        Those that there is no time left to race are not started: of these the simulation expects less than of others.

        Args:
            group: of configurations.
            beside: how many race already.
        """
        session, began, left_out, tried = self._session, time.monotonic(), 0, 0
        entrants: list[RaceEntrant] = []
        for number, settings in enumerate(group):
            racing, each_s = beside + len(entrants), (time.monotonic() - began) / max(1, number)
            in_use = settings == session.wanted.previous_settings
            if not in_use and precision_of(settings) in self._wrong:
                continue  # those beside it answered wrongly for the same reason
            if not in_use and not self._can_race(racing, beside + tried, each_s):
                left_out += 1
                continue
            self._entered.add(settings)
            tried += 1
            if not in_use and len(entrants) >= FEWEST and not session.servers.room(1):
                session.tell(Phase(f"{session.describe(settings)} does not race: there is no memory for its server"))
                continue
            session.servers.launch(settings, *group[number + 1 : number + 2])
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
            session.tell(Phase(f"{left_out} of {len(group)} finalists are left out: there is no time to race them"))
            session.servers.keep(session.base, *(self._entered - session.refused))
        return entrants

    def is_right(self, winner: Settings) -> bool:
        """Whether a server answers every question rightly; some of them where the rungs' time is over.

        The verification asks all of them again.
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
        """Whether one more finalist has time to race beside this many, which took so long each to enter.

        The first are tried whatever time is left; where they answer wrongly, others only until the race should end.
        """
        session, now = self._session, time.monotonic()
        if tried < FEWEST or session.wanted.exhaustive:
            return True
        if racing < FEWEST:
            return now <= session.plan.race_until
        entered = now + each_s
        return entered + (racing + 1) * FEWEST_HEATS * session.racing.heat_s(1) <= session.plan.race_ends(entered)

    def _reject(self, settings: Settings, accuracy: Accuracy) -> None:
        """Record wrong answers; where a looser bound would accept them, what it would bring is told at the end."""
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
        """What a looser bound would bring, where one accepts the answers."""
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
        """Stop a refused server; what differs from it only in what clients send has the same one."""
        session = self._session
        session.servers.stop(settings, [session.base, *(self._entered - session.refused)])
