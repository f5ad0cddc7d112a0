"""A joint tune: survey each model, simulate combinations on shared cores, race a few on real servers, verify one.

A thin shell. Each model is surveyed by its own `Surveyor`; which combinations race is decided in `selection`, and their
expected performance in `simulation`. Claims come from the verification: baseline and tuned, each with all models in one
server, under the load of all models at once.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tailcut.engines.files import model_name
from tailcut.errors import TailcutError
from tailcut.lab.load import LoadResult, NotListeningError
from tailcut.machine.quota import usable_cpus
from tailcut.stats import samples_needed
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.budget import TimePlan, joint_race_s
from tailcut.tuner.claims import best_capacity, complete_search
from tailcut.tuner.events import Best, CandidateDone, Estimated, Event, Phase
from tailcut.tuner.objective import Objective
from tailcut.tuner.race import QUANTILES, known_within
from tailcut.tuner.racing import FEWEST_HEATS, run_heats
from tailcut.tuner.result_records import Candidate, described
from tailcut.tuner.servers import confined_to
from tailcut.tuner.survey import Survey, Surveyor
from tailcut.tuner.together.limits import limit_of, take_back, within_reach
from tailcut.tuner.together.ranking import believed
from tailcut.tuner.together.records import JointOutcome, JointSide, JointWanted
from tailcut.tuner.together.selection import (
    Combination,
    ExpectedCombination,
    expected,
    list_length,
    racing,
    score,
    shortlist,
)
from tailcut.tuner.together.servers import JointServers
from tailcut.tuner.together.verification import LEAST_BLOCK_S, SPARE, VerificationPlan, measure_arms
from tailcut.tuner.together.words import LEAST_SCORE, NamedEvents, describe, fits
from tailcut.tuner.verification import good_s

_SURVEYS = 0.8  # of the budget, shared among the models' surveys, each of which uses less than half of its part
_FINALISTS = 6  # with the engines' defaults
_FEWEST = 2  # combinations that race even if memory is short
_SIMULATED, _FEWEST_SIMULATED, _MOST_SIMULATED = 3000, 300, 9000  # requests: all, of the lowest rate, at most
_FEWEST_IN_BLOCK = 10  # requests of the model with the lowest rate
_LIMIT_S = 2.0
_ARMS = 2  # of the verification
_ENDED = "its server exited under load"


class JointSearch:
    """One tune of several models.

    Args:
        wanted: what the user asked for.
        tell: called with each event, on the same thread.
    """

    def __init__(self, wanted: JointWanted, tell: Callable[[Event], None]) -> None:
        self._wanted = wanted
        self._tell = tell
        self._plan = TimePlan(time.monotonic() if wanted.began is None else wanted.began, wanted.budget_s)
        self._rarest = min(arrival.rate for arrival in wanted.arrivals)
        self._surveyors: list[Surveyor] = []
        self._surveys: list[Survey] = []
        self._servers = JointServers((), ())
        self._outcome = JointOutcome([])
        self._best: Combination = ()
        self._verification = VerificationPlan(self._plan, samples_needed(0.99), self._rarest, wanted.seed)
        self._order: list[Combination] = []  # those that raced, the best estimate first

    def run(self) -> JointOutcome:
        """Search, then verify; Ctrl-C after the surveys ends the tune with the best combination so far, unverified.

        Raises:
            TailcutError: a model cannot be served with the engine's defaults.
            KeyboardInterrupt: the user stopped it before the surveys were complete.
        """
        try:
            plan = self._plan
            self._plan_verification()
            self._survey()
            plan.phase_ended("the surveys of the models", time.monotonic(), plan.estimate_until)
            self._measure_limits()
            self._race(self._simulate())
            plan.phase_ended("the race", time.monotonic(), plan.explain_until)
            self._verify()
            plan.phase_ended("the verification", time.monotonic(), plan.end)
            self._take_back()
        except KeyboardInterrupt:
            if not self._outcome.sides:
                raise
            self._outcome.interrupted = True
        finally:
            self._servers.keep()
            self._take_profiles()
            for surveyor in self._surveyors:
                surveyor.close()
        self._outcome.took_s = self._plan.spent_s(time.monotonic())
        words = self._plan.late_words(time.monotonic())
        if words and not self._outcome.interrupted:
            self._tell(Phase(words))
        return self._outcome

    def _plan_verification(self) -> None:
        """Reserve the time that verifying the p99 takes, or choose the percentile that there is time for."""
        plan, sample_s = self._plan, _ARMS * SPARE / self._rarest
        p99_s = sample_s * samples_needed(0.99)
        tail = known_within(plan.most_verify_s, sample_s)
        self._verification = replace(self._verification, enough=samples_needed(QUANTILES[tail]))
        plan.needs_verification_s(min(p99_s, plan.most_verify_s))
        if tail != "p99":
            budget_s = 10 * math.ceil(p99_s / plan.most_verify_s * plan.budget_s / 10)
            self._tell(
                Phase(
                    f"the p99 at {self._rarest:,.6g} req/s takes {p99_s:,.0f} s to verify: within {plan.budget_s:g} s "
                    f"the tune verifies its {tail} (--budget {budget_s}s for the p99)"
                )
            )

    def _survey(self) -> None:
        """Survey each model on its own, one after the other, so that they do not disturb one another.

        All are opened first, so that an error in one of them is not found only after minutes.
        """
        budget_s = _SURVEYS * self._wanted.budget_s / len(self._wanted.models)
        for model, arrivals in zip(self._wanted.models, self._wanted.arrivals, strict=True):
            own = replace(model, rate=arrivals.rate, objective="latency", budget_s=budget_s, began=None)
            self._surveyors.append(Surveyor(own, NamedEvents(model_name(model.model), self._tell)))
        for surveyor in self._surveyors:
            surveyor.carry()
        self._tell(complete_search(self._complete_s(), self._plan.budget_s))
        for surveyor in self._surveyors:
            survey = surveyor.survey()
            survey.servers.keep()
            self._surveys.append(survey)
        for survey, arrivals in zip(self._surveys, self._wanted.arrivals, strict=True):
            within_reach(survey.spec.name, arrivals.rate, best_capacity(survey.capacity, survey.predicted))
            if arrivals.rate > survey.capacity:
                words = (
                    f"the engine's defaults sustain {survey.capacity:,.3g} of {arrivals.rate:,.6g} req/s, even alone"
                )
                self._tell(Phase(f"{survey.spec.name}: {words}"))
        cpus = confined_to(self._wanted.models[0].constraints.cpus)
        self._servers = JointServers([survey.servers for survey in self._surveys], self._wanted.arrivals, cpus)
        self._best = self._baseline
        self._outcome.sides = [
            JointSide(
                survey.spec.name,
                arrivals,
                model.slo_ms or float("inf"),
                model.slo_ms,
                described(survey.spec.inputs),
                described(survey.spec.outputs),
                survey.rows,
                survey.baseline,
                survey.servers.profile(survey.baseline),
            )
            for survey, model, arrivals in zip(self._surveys, self._wanted.models, self._wanted.arrivals, strict=True)
        ]

    def _complete_s(self) -> float:
        """Seconds of this tune if nothing is left out: those spent so far, and those for the rest."""
        models = self._surveyors
        limits_s = 0.0 if all(model.slo_ms for model in self._wanted.models) else self._limit_block_s
        race_s = joint_race_s(_FINALISTS, len(models), sum(model.start_s for model in models), self._race_block_s)
        surveys_s = sum(model.complete_s for model in models)
        verify_s = max(self._plan.needed_s, good_s(_ARMS))
        return self._plan.spent_s(time.monotonic()) + surveys_s + limits_s + race_s + verify_s

    @property
    def _limit_block_s(self) -> float:
        needed_s = SPARE * samples_needed(0.99) / self._rarest
        return needed_s if needed_s <= 4 * _LIMIT_S else _LIMIT_S

    @property
    def _race_block_s(self) -> float:
        return max(LEAST_BLOCK_S, samples_needed(0.95) / self._rarest)

    @property
    def _baseline(self) -> Combination:
        return tuple(survey.baseline for survey in self._surveys)

    @property
    def _limits_ms(self) -> list[float]:
        return [side.limit_ms for side in self._outcome.sides]

    def _measure_limits(self) -> None:
        """Measure the limits that were not given: a model's p99 with the engine's defaults, under the load of all."""
        if all(side.slo_ms for side in self._outcome.sides):
            return
        self._tell(Phase("measuring all models together with the engine's defaults"))
        results = self._servers.loaded(self._baseline, self._limit_block_s, 1)
        for side, result, survey in zip(self._outcome.sides, results, self._surveys, strict=True):
            side.limit_ms = side.slo_ms or limit_of(result, side.name, survey.limit_ms)
        words = ", ".join(f"{side.name} {side.limit_ms:.3g} ms" for side in self._outcome.sides)
        self._tell(Phase(f"the p99 limits are {words}"))

    def _simulate(self) -> list[ExpectedCombination]:
        """Simulate every combination of the models' short lists on shared cores."""
        rate = sum(arrival.rate for arrival in self._wanted.arrivals)
        length_s = min(max(_FEWEST_SIMULATED / self._rarest, _SIMULATED / rate), _MOST_SIMULATED / rate)
        arrivals = [arrival.times(length_s, 100 + number) for number, arrival in enumerate(self._wanted.arrivals)]
        count = list_length(len(self._surveys))
        lists = [
            shortlist(survey.predicted, count, Objective("latency", rate=own.rate).rank)
            for survey, own in zip(self._surveys, self._wanted.arrivals, strict=True)
        ]
        known = [survey.configurations for survey in self._surveys]
        cores = min(model.constraints.cpus_of(usable_cpus()) for model in self._wanted.models)
        simulated = expected(lists, known, arrivals, self._limits_ms, float(cores))
        self._outcome.simulated, self._outcome.alone = simulated, tuple(choices[0] for choices in lists)
        self._tell(Phase(f"simulated {len(simulated):,} combinations on {cores} shared cores"))
        self._tell(Estimated(len(simulated)))
        return simulated

    # On real servers.

    def _race(self, simulated: Sequence[ExpectedCombination]) -> None:
        """Find the best combination on the real server, of those whose answers are right."""
        block_s = self._race_block_s
        least_s = max(LEAST_BLOCK_S, _FEWEST_IN_BLOCK / self._rarest)
        left_s = max(0.0, self._plan.explain_until - time.monotonic())
        # Before the first joint server has started, the sum of the models' own.
        start_s = self._servers.start_s or sum(surveyor.start_s for surveyor in self._surveyors)
        count = self._plan.finalists(time.monotonic(), start_s, _FINALISTS)
        count = min(count, max(_FEWEST, int(left_s / (FEWEST_HEATS * least_s))))
        defaults = [self._baseline] if count > _FEWEST else []
        chosen = racing(simulated, count - len(defaults), self._outcome.alone)
        entrants = self._enter(list(dict.fromkeys([*chosen, *defaults])))
        if not entrants:
            self._tell(Phase("no combination gives right answers: keeping the engine's defaults"))
            self._best = self._baseline
            return
        self._outcome.contested = True
        self._tell(Phase(f"racing {len(entrants)} combinations on the real server"))
        left_s = max(0.0, self._plan.explain_until - time.monotonic())
        fewest = max(1, min(FEWEST_HEATS, int(left_s / (len(entrants) * least_s))))
        # Without time for enough requests of the model with the lowest rate, blocks are shorter, and score the others.
        least_s = max(LEAST_BLOCK_S, min(least_s, left_s / len(entrants)))

        def heat(index: int, number: int, most_s: float) -> float:
            combination = entrants[index]
            try:
                block = self._servers.loaded(combination, max(least_s, min(block_s, most_s)), 2000 + number)
                value = self._score(block)
            except NotListeningError:
                value = LEAST_SCORE
            self._store("joint_heat", combination, [{"score": value}] * len(combination))
            return value

        heats = run_heats(len(entrants), heat, self._outcome.noise, self._plan.explain_until, fewest)
        for number, combination in enumerate(entrants):
            if self._servers.has_ended(combination):
                heats.fail(number)
                self._reject(combination, _ENDED)
            else:
                self._outcome.raced[combination] = heats.entrants[number].estimate
                self._candidate(combination, "raced", fits(self._outcome.raced[combination]))
        expected_scores = {item.settings: item.score for item in simulated}
        order = believed([own.scores for own in heats.entrants], [expected_scores.get(item) for item in entrants])
        raced = self._outcome.raced
        self._order = sorted(raced, key=lambda combination: -order[entrants.index(combination)])
        self._best = next(iter(self._order), self._baseline)
        if self._order:
            self._tell(Best(self._words(self._best), fits(raced[self._best])))

    def _enter(self, chosen: Sequence[Combination]) -> list[Combination]:
        """Start a server for each combination; leave out those that do not start, or answer wrongly."""
        entrants: list[Combination] = []
        for combination in chosen:
            if len(entrants) >= _FEWEST and not self._servers.room(1):
                self._tell(Phase(f"{self._words(combination)} does not race: not enough memory for its server"))
                continue
            try:
                self._servers.of(combination)
                accuracies = [
                    self._check(combination, number, self._plan.check_s) for number in range(len(combination))
                ]
                reason = next(
                    (f"wrong answers: {accuracy.reason}" for accuracy in accuracies if not accuracy.right), ""
                )
            except TailcutError as error:
                reason = str(error)
            if reason:
                self._reject(combination, reason)
                continue
            entrants.append(combination)
            self._best = entrants[0]  # in case the user stops: the best by simulation that answers correctly
        return entrants

    def _reject(self, combination: Combination, reason: str) -> None:
        self._outcome.rejected.append((combination, reason))
        self._candidate(combination, "rejected", reason)

    def _check(self, combination: Combination, number: int, seconds: float, *, whole: bool = False) -> Accuracy:
        survey, target = self._surveys[number], self._servers.of(combination).target
        in_flight = max(4, int(2 * seconds * survey.capacity))
        return survey.gate.check(target, combination[number], seconds, in_flight, whole=whole)

    def _settle(self) -> None:
        """Take the best combination that answers every request correctly, or else the engine's defaults."""
        sides, seconds = self._outcome.sides, self._plan.last_check_s / len(self._outcome.sides)
        for combination in dict.fromkeys([*self._order, self._baseline]):
            self._best = combination
            for number, (side, survey) in enumerate(zip(sides, self._surveys, strict=True)):
                side.profile = survey.servers.profile(combination[number])
                side.accuracy = self._check(combination, number, seconds, whole=True)
            if not self._outcome.wrong:
                return
            if combination != self._baseline:
                self._reject(combination, self._outcome.wrong)
                self._order.remove(combination)

    def _verify(self) -> None:
        """Verify: all models under load together, baseline and tuned interleaved, on fresh samples.

        If the tuned server exits meanwhile, the next best combination takes its place.
        """
        self._tell(Phase("verifying baseline and tuned, interleaved, all models together, on fresh samples"))
        self._servers.execute()
        while True:
            try:
                self._settle()
                if not self._outcome.wrong:
                    self._measure_arms()
                if self._best == self._baseline or not self._servers.has_ended(self._best):
                    return
                reason = _ENDED
            except TailcutError as error:
                if self._best == self._baseline or self._servers.has_ended(self._baseline):
                    raise
                reason = _ENDED if self._servers.has_ended(self._best) else str(error)
            self._reject(self._best, reason)
            self._order.remove(self._best)

    def _take_back(self) -> None:
        """Replace a combination that is proven worse by the engines' defaults."""
        words = self._words(self._best)
        if self._best != self._baseline and (reason := take_back(self._outcome, words, self._wanted.seed)):
            self._tell(Phase(f"{words} is not kept: {reason}; the profiles hold the engines' defaults"))
            self._best = self._baseline

    def _measure_arms(self) -> None:
        arms = {"baseline": self._baseline, "tuned": self._best}
        measure_arms(self._servers, arms, self._outcome, self._verification)
        for name, combination in arms.items():
            runs = [side.runs[name] for side in self._outcome.sides]
            values = [{"arm": name, "samples": len(run.latencies), "errors": run.errors} for run in runs]
            self._store("joint_verified", combination, values)

    def _score(self, results: Sequence[LoadResult]) -> float:
        figures = [
            (float(np.quantile(result.latencies_ns, 0.99)) / 1e6, limit_ms)
            for result, limit_ms in zip(results, self._limits_ms, strict=True)
            if result.samples  # blocks may have no request of a model with a low rate
        ]
        if not figures or any(result.errors for result in results):
            return LEAST_SCORE
        return score([p99_ms for p99_ms, _ in figures], [limit_ms for _, limit_ms in figures])

    # Reports and records.

    def _store(self, kind: str, combination: Combination, values: Sequence[dict[str, Any]]) -> None:
        """Append a line to each model's journal: its own settings and figures, and the names of all models."""
        names = [side.name for side in self._outcome.sides]
        for surveyor, settings, own in zip(self._surveyors, combination, values, strict=True):
            surveyor.store(kind, settings, models=names, **own)

    def _candidate(self, combination: Combination, verdict: str, reason: str) -> None:
        self._tell(CandidateDone("parallelism", Candidate.of(self._words(combination), verdict, reason)))

    def _words(self, combination: Combination) -> str:
        return describe([side.name for side in self._outcome.sides], combination)

    def _take_profiles(self) -> None:
        """Take the profiles with the best settings, and read their copies before the folders are removed."""
        if not self._outcome.sides:
            return
        for side, survey, settings in zip(self._outcome.sides, self._surveys, self._best, strict=True):
            side.profile = survey.servers.profile(settings).with_signature()
            copy = survey.servers.copy_of(settings.engine)
            if copy is not None:
                side.copy_bytes = copy.read_bytes()
