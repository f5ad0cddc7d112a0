"""The race on the real server: which configurations run, which of them wins, and which small changes are kept.

A thin shell. Which configurations race is decided in `finalists`, which of them answer correctly in `entry`, which one
wins in `racing` and `heats`, and which of equals is chosen in `tie_break`. The best estimate wins: a lack of
significance does not favour the baseline.
"""

import time
from collections.abc import Sequence
from typing import Protocol

from tailcut.errors import TailcutError
from tailcut.runtime.settings import Settings
from tailcut.tuner.entry import FEWEST, Entry
from tailcut.tuner.events import Best, ExpectedTime, Phase
from tailcut.tuner.finalists import FINALISTS, PredictedConfiguration, finalists
from tailcut.tuner.heats import NEAR, Heats
from tailcut.tuner.race import NOISE
from tailcut.tuner.racing import FEWEST_HEATS, RaceEntrant, load_for, usage_s
from tailcut.tuner.records import Equal, TieBreak
from tailcut.tuner.refinements import least_gain
from tailcut.tuner.result_records import Candidate, CandidateVerdict
from tailcut.tuner.session import TuneSession
from tailcut.tuner.tie_break import choose

_EXHAUSTIVE = 96  # configurations at most
_MOST_REFILLS = 3  # how often the next best may replace those that answer wrongly
_ENDED = "its server exited under load"
_GROUP = 9  # servers at a time: eight finalists, and the settings of a profile to re-check


class Refining(Protocol):
    """The configurations to choose from, as far as the race needs them."""

    @property
    def anyway(self) -> Sequence[Settings]:
        """Settings that race whatever is expected of them."""

    def kinds(self, settings: Settings) -> list[tuple[object, int]]:
        """The groups of similar finalists that settings belong to, and how many of each may race."""

    def refinements(self, winner: Settings) -> Sequence[Settings]:
        """Small changes of a configuration that only the real server can evaluate."""

    def thrifty(self, winner: Settings) -> Sequence[Settings]:
        """Changes of a configuration that should need fewer resources and be as fast."""


class Selection:
    """The race of one tune."""

    def __init__(self, session: TuneSession, space: Refining) -> None:
        self._session = session
        self._space = space
        self._entry = Entry(session, space.kinds)
        self._costs = ""  # what the last change costs in start-up time and memory, for a message

    def chosen(self, predicted: Sequence[PredictedConfiguration]) -> list[Settings]:
        """The finalists, as many as there is time to start; with --exhaustive all of a small space."""
        session, objective = self._session, self._session.outcome.objective
        if session.wanted.exhaustive:
            chosen = sorted(predicted, key=objective.rank, reverse=True)[:_EXHAUSTIVE]
            self._announce(len(chosen), len(predicted))
        else:
            chosen = finalists(predicted, session.finalists(FINALISTS), objective.rank, self._space.kinds)
        self._entry.predicted = {prediction.settings: prediction for prediction in predicted}
        settings = [prediction.settings for prediction in chosen]
        previous = session.wanted.previous_settings
        in_use = [] if previous is None or previous in session.refused else [previous]
        # If there is no time for all, the last are left out.
        settings = list(dict.fromkeys([*settings[:1], *self._space.anyway, *settings[1:], *in_use]))
        load = session.racing.load = load_for(
            objective, self._best_rate(chosen), session.outcome.capacity, session.plan.block_s
        )
        if objective.kind == "throughput":
            session.outcome.clients = load.clients[-1]  # verify with the load of the race
        return settings

    def _announce(self, count: int, of: int) -> None:
        session, plan = self._session, self._session.plan
        cut = f" (of {of:,}, the best by simulation)" if count < of else ""
        takes_s = count * (session.servers.start_s + plan.check_s + 2 * plan.refinement_s)
        words = f"in groups of {_GROUP}: about {takes_s:,.0f} s, whatever --budget says"
        session.tell(Phase(f"racing {count} configurations{cut}, {words}"))
        session.tell(ExpectedTime(plan.budget_s + takes_s))

    def _best_rate(self, chosen: Sequence[PredictedConfiguration]) -> float:
        if self._session.outcome.objective.is_open:
            return self._session.outcome.capacity
        return max(map(self._session.outcome.objective.rank, chosen), default=0.0)

    def race(self, chosen: Sequence[Settings]) -> Settings:
        """The configuration with the best estimate on the real server, of those whose answers are right.

        If none of them is right, the next best race, a few times and while there is time; then the baseline is kept.
        """
        session = self._session
        why = "nor do the next best"
        for refills in range(_MOST_REFILLS + 1):
            winner = self._raced(chosen)
            if winner is not None:
                return winner
            chosen = self._entry.others(FEWEST)
            if not chosen or time.monotonic() > session.plan.race_until:
                why = f"and there {'is no time for' if chosen else 'are no'} others"
                break
            if refills < _MOST_REFILLS:
                session.tell(Phase("no finalist gives right answers: racing the next best"))
        session.tell(Phase(f"no finalist gives right answers, {why}: keeping the baseline"))
        return session.with_wire(session.plain_wire)

    def _raced(self, chosen: Sequence[Settings]) -> Settings | None:
        """The best of these; None if none of them answers correctly."""
        groups = [chosen[start : start + _GROUP] for start in range(0, len(chosen), _GROUP)]
        winners: list[Settings] = []
        for group in groups:
            winners += self._race_group(group, alone=len(groups) == 1)[: 2 if len(groups) > 1 else None]
        if len(groups) > 1 and winners:
            return self._raced(winners)
        for number, winner in enumerate(winners):
            if self._entry.is_right(winner):
                return winner
            self._lead_with(next(iter(winners[number + 1 :]), None))
        return None

    def _lead_with(self, settings: Settings | None) -> None:
        """Replace a rejected leader by the next one, which has answered some requests correctly, or by none."""
        session, outcome = self._session, self._session.outcome
        outcome.race_winner, outcome.tie_break = settings, None
        previous = session.wanted.previous_settings
        in_use = None if previous in session.refused else previous
        outcome.settings = settings or in_use or session.with_wire(session.plain_wire)

    def _race_group(self, group: Sequence[Settings], *, alone: bool) -> list[Settings]:
        """Race configurations whose servers all run at the same time.

        Args:
            group: configurations.
            alone: whether this is the only group; if not, its best has to beat the best of the groups before.

        Returns:
            Those that answer correctly, the best first.
        """
        session, outcome = self._session, self._session.outcome
        entrants = self._entry.enter(group)
        for _ in range(_MOST_REFILLS):
            missing = min(len(group), session.finalists(len(group))) - len(entrants)
            instead = self._entry.others(missing) if missing > 0 and self._entry.has_wrong else []
            if not instead or time.monotonic() > session.plan.race_until:
                break
            entrants += self._entry.enter(instead, len(entrants))
        if not entrants:
            return []
        previous = session.wanted.previous_settings
        if outcome.race_winner is None and (previous is None or previous in session.refused):
            outcome.settings = entrants[0].settings  # should the user stop: the best by simulation that is right
            session.tell(Best(session.describe(outcome.settings), "as expected"))
        outcome.contested = True
        until, fewest = session.plan.race_ends(time.monotonic()), FEWEST_HEATS
        if session.wanted.exhaustive:
            until = time.monotonic() + session.plan.refinement_s * len(entrants)
        else:
            entrants, fewest = self._in_time(entrants, until)
            if not fewest:
                return self._as_expected(entrants)
        session.tell(Phase(f"racing {len(entrants)} finalists on the real server"))
        heats = self._heats(entrants, until, fewest)
        tie_before = outcome.tie_break
        best = self._best(heats, entrants)
        if not self._recorded(heats, entrants, best):
            outcome.tie_break = tie_before
            if alone or outcome.race_winner is None or outcome.race_winner in session.refused:
                self._lead_with(None)
            return []
        order = heats.ranked(best)
        if alone or outcome.race_winner in group or self._leads(entrants[best].settings):
            outcome.settings = outcome.race_winner = entrants[best].settings
            score = outcome.objective.describe(heats.entrants[best].estimate)
            session.tell(Best(session.describe(outcome.settings), score))
        else:
            outcome.tie_break = tie_before
        session.servers.keep(session.base, *(entrants[number].settings for number in order[:2]))
        return [entrants[number].settings for number in order]

    def _leads(self, settings: Settings) -> bool:
        """Whether the best of a group beats the groups before; for settings in use, within 5 % of them suffices."""
        outcome, in_use = self._session.outcome, self._session.wanted.previous_settings
        if outcome.race_winner is None:
            return True
        score, best = outcome.raced[settings], outcome.raced[outcome.race_winner]
        if settings == in_use:
            return score >= (1 - NEAR) * best
        return (1 - NEAR if outcome.race_winner == in_use else 1) * score > best

    def _recorded(self, heats: Heats, entrants: Sequence[RaceEntrant], best: int) -> bool:
        """Record the entrants' scores, or that their servers exited; whether one is left."""
        session, outcome = self._session, self._session.outcome
        gone = [number for number, entrant in enumerate(entrants) if session.servers.has_ended(entrant.settings)]
        for number, entrant in enumerate(heats.entrants):
            settings = entrants[number].settings
            if number in gone:
                session.reject(settings, _ENDED)
                continue
            outcome.raced[settings] = entrant.estimate
            words = outcome.objective.describe(entrant.estimate)
            if number == best and outcome.tie_break is not None:
                words += f"; {outcome.tie_break.reason}"
            speed = None if outcome.objective.is_open else round(entrant.estimate, 2)
            entry = Candidate.of(session.describe(settings), CandidateVerdict.RACED, words, throughput=speed)
            session.candidate(session.racing_rung, entry, kept=number == best)
        return len(gone) < len(entrants)

    def _heats(self, entrants: Sequence[RaceEntrant], until: float, fewest: int = FEWEST_HEATS) -> Heats:
        """Race; entrants whose server has exited are eliminated, as if they had answered nothing."""
        heats = self._session.racing.heats(entrants, until, fewest)
        for number, entrant in enumerate(entrants):
            if self._session.servers.has_ended(entrant.settings):
                heats.fail(number)
        return heats

    def _in_time(self, entrants: list[RaceEntrant], until: float) -> tuple[list[RaceEntrant], int]:
        """The entrants that there is time to race, those with the settings in use included; and how many heats."""
        session = self._session
        # The rungs of a model this slow are not measured: the race may have their time.
        racing = max(FEWEST, len(entrants))  # one by itself needs no race
        count, fewest = session.racing.in_time(racing, until, max(until, session.plan.rungs_until))
        kept = entrants[:count]
        kept += [entrant for entrant in entrants[count:] if entrant.settings == session.wanted.previous_settings]
        if len(kept) < len(entrants):
            session.tell(Phase(f"{len(kept)} of {len(entrants)} finalists race: a heat of all of them takes too long"))
        return kept, fewest

    def _as_expected(self, entrants: Sequence[RaceEntrant]) -> list[Settings]:
        """Choose without a race: the settings in use, or else the best by simulation of those that answer correctly."""
        session, outcome = self._session, self._session.outcome
        in_use = session.wanted.previous_settings
        order = sorted((entrant.settings for entrant in entrants), key=lambda settings: settings != in_use)
        words = (
            f"a heat takes {session.racing.heat_s(max(FEWEST, len(entrants))):,.0f} s, more than is left of the budget"
        )
        kept = "keeping the settings in use" if order[0] == in_use else "taking the best by simulation"
        session.tell(Phase(f"no race: {words}: {kept}"))
        for settings in order[1:]:
            entry = Candidate.of(session.describe(settings), CandidateVerdict.SKIPPED, f"not raced: {words}")
            session.candidate(session.racing_rung, entry)
        outcome.settings = outcome.race_winner = order[0]
        session.tell(Best(session.describe(order[0]), "as expected"))
        return order

    def _best(self, heats: Heats, entrants: Sequence[RaceEntrant]) -> int:
        """The index of the leader, or if several are equal to it, of the one chosen by `tie_break`."""
        session = self._session
        near = heats.near(NEAR)
        session.outcome.tie_break = None
        for number, entrant in enumerate(entrants):  # settings in use are not replaced by equal ones
            if entrant.settings == session.wanted.previous_settings and heats.is_near(number, NEAR):
                return number
        # Compare as many as there is time for, the best first.
        best_first = sorted(near, key=lambda number: -heats.entrants[number].estimate)
        near = best_first[: max(2, int(session.plan.usage_s / usage_s(session.outcome.rate)))]
        if len(near) == 1:
            return near[0]
        usages = session.racing.usages([entrants[number] for number in near], session.outcome.rate)
        choice = choose(usages)
        pairs = zip(near, usages, strict=True)
        equals = tuple(Equal(entrants[number].settings, *usage.figures) for number, usage in pairs)
        best = near[choice.index]
        session.outcome.tie_break = TieBreak(entrants[best].settings, choice.reason, equals)
        words = session.describe(entrants[best].settings)
        session.tell(Phase(f"{len(near)} configurations are equal; chosen: {words}: {choice.reason}"))
        return best

    def refine(self, winner: Settings) -> Settings:
        """Try small changes of the winner, each against it on servers, and keep those that look better.

        Settings in use are not replaced by equal ones that need fewer resources.
        """
        in_use = winner == self._session.wanted.previous_settings
        return self._refined(winner if in_use else self._thrifty(winner))

    def _thrifty(self, winner: Settings) -> Settings:
        """The winner, or settings that are as fast and need clearly fewer resources."""
        for candidate in self._space.thrifty(winner):
            counting_s = 2 * usage_s(self._session.outcome.rate)
            if candidate in self._session.outcome.raced or not self._has_time(counting_s):
                continue
            if self._saves(candidate, winner):
                self._session.outcome.settings = winner = candidate
        return winner

    def _saves(self, candidate: Settings, winner: Settings) -> bool:
        """Whether a candidate is equal to the winner within the noise, and chosen of the two by `tie_break`."""
        session = self._session
        try:
            entrants = [RaceEntrant(settings, session.servers.arm(settings)) for settings in (winner, candidate)]
        except TailcutError:
            return False
        heats = self._heats(entrants, time.monotonic() + session.plan.refinement_s)
        words, saves = "no gain", False
        if len(heats.near(NEAR)) == 2:
            usages = session.racing.usages(entrants, session.outcome.rate)
            choice = choose(usages)
            saves = choice.index == 1 and self._answers_rightly(candidate)
            if saves:
                words = f"kept: {choice.reason}"
                pairs = zip(entrants, usages, strict=True)
                equals = tuple(Equal(entrant.settings, *usage.figures) for entrant, usage in pairs)
                session.outcome.tie_break = TieBreak(candidate, choice.reason, equals)
        session.tell(Phase(f"{candidate.describe(winner)}: {words}"))
        session.servers.keep(session.base, candidate if saves else winner)
        return saves

    def _answers_rightly(self, settings: Settings) -> bool:
        try:
            return self._session.check(settings, self._session.plan.check_s).right
        except TailcutError:  # its server has exited
            return False

    def _has_time(self, more_s: float = 0.0) -> bool:
        session, plan = self._session, self._session.plan
        takes_s = session.servers.start_s + max(plan.refinement_s, FEWEST_HEATS * session.racing.heat_s(2)) + more_s
        return time.monotonic() + takes_s <= plan.refine_until

    def _refined(self, winner: Settings) -> Settings:
        session = self._session
        for candidate in self._space.refinements(winner):
            if not self._has_time():
                break
            words = candidate.describe(winner)
            better = self.is_better(candidate, winner, least_gain(candidate, winner))
            session.tell(Phase(f"{words}: {'kept' if better else 'no gain'}{self._costs}"))
            if better:
                session.outcome.settings = candidate
                return self._refined(candidate)
        return winner

    def is_better(self, candidate: Settings, winner: Settings, least: float = 1.0) -> bool:
        """Whether a candidate beats the winner so far and answers correctly; the other one's server is stopped.

        To beat settings in use, a candidate has to be more than 5 % better.

        Args:
            candidate: the settings to try.
            winner: the settings to beat.
            least: the least ratio of the scores.
        """
        session, plan = self._session, self._session.plan
        if winner == session.wanted.previous_settings:
            least = max(least, 1 / (1 - NEAR))
        self._costs = ""
        if time.monotonic() + FEWEST_HEATS * session.racing.heat_s(2) > max(plan.refine_until, plan.rungs_until):
            return False  # a slow model: fewer or shorter heats would show nothing
        try:
            entrants = [RaceEntrant(settings, session.servers.arm(settings)) for settings in (winner, candidate)]
        except TailcutError:
            return False
        heats = self._heats(entrants, time.monotonic() + plan.refinement_s)
        better = heats.leader == 1
        if least != 1:
            interval = heats.ratio(1, 0)
            leads = better or least < 1
            better = leads and interval is not None and interval.point >= least and interval.low > 1 - NOISE
        self._costs = session.servers.compared(candidate, winner)
        better = better and self._answers_rightly(candidate)
        session.servers.keep(session.base, candidate if better else winner)
        return better
