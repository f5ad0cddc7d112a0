"""A tune from the model file to an outcome: estimate in process, simulate, race, explain by rungs, verify.

A thin shell. What may be turned stands in `space`, what a call costs in `estimate`, what a way in costs in `ways`, what
a whole configuration would do in `prediction` and `simulate`, what is optimised in `objective`, which configurations
race in `finalists`, who wins in `racing` and `heats`, what is right in `gate`. It selects by the best estimate; what it
claims comes from the verification alone.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from tailcut.engines.files import default_engine
from tailcut.errors import TailcutError, UsageError
from tailcut.lab.payload import Wire, ask, encoded, infer_once, model_path
from tailcut.machine.process import peak_bytes
from tailcut.machine.quota import usable_cpus
from tailcut.runtime.samples import kinds_of
from tailcut.runtime.settings import Settings
from tailcut.spec import ModelSpec, Rows
from tailcut.stats import Verdict
from tailcut.tuner.accuracy import Accuracy, labelled
from tailcut.tuner.baseline import Baseline, measure_baseline
from tailcut.tuner.budget import Plan
from tailcut.tuner.calibrate import CalibrationError, Copy, Material, copies_for
from tailcut.tuner.estimate import NO_TIME, EngineEstimate, estimate_engines, typical
from tailcut.tuner.events import Best, CandidateDone, Estimated, Event, Expected, Phase, RungDone, RungStarted
from tailcut.tuner.finalists import FINALISTS, NEAR, Predicted, finalists
from tailcut.tuner.gate import Gate
from tailcut.tuner.journal import Journal, Key
from tailcut.tuner.learning import facts_of, learn
from tailcut.tuner.objective import Objective
from tailcut.tuner.pixels import as_pixels
from tailcut.tuner.prediction import Parts, configurations, predict
from tailcut.tuner.race import NOISE
from tailcut.tuner.racing import LEAST_BLOCK_S, Entrant, Load, Racing, load_for
from tailcut.tuner.records import Outcome, RungRecord, Wanted, entry_of
from tailcut.tuner.refinements import holds_weights_again, least_gain, refinements
from tailcut.tuner.servers import Servers
from tailcut.tuner.simulate import Configuration, WayIn
from tailcut.tuner.space import (
    BASELINE,
    RUNG_FIELDS,
    changed,
    copy_engines,
    engine_choices,
    quickest_wire,
    up_to,
    wirings,
    without,
)
from tailcut.tuner.verification import told_within, verification_s, verify
from tailcut.tuner.waterfall import effect, waterfall
from tailcut.tuner.ways import PROBED, measure_ways, measured_wiring, way_settings, wiring_settings, with_adaptive

_EXHAUSTIVE = 96  # configurations at most
_GROUP = 9  # on servers at a time: eight finalists, and the settings of a profile that is checked again


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of one model before anything races.

    Args:
        spec: its signature, and `rows` what was decided of them.
        gate: that judges answers.
        servers: its profiles and requests; the baseline's server runs.
        baseline: its settings, on the quickest wire that clients may speak.
        capacity: requests per second of the baseline, in a closed loop.
        predicted: every configuration that is allowed, with what the simulation expects of it alone.
        configurations: what the simulation takes, by settings.
        copies: of the model, in static int8, by engine.
    """

    spec: ModelSpec
    rows: dict[str, Any]
    gate: Gate
    servers: Servers
    baseline: Settings
    capacity: float
    predicted: Sequence[Predicted]
    configurations: Mapping[Settings, Configuration]
    copies: Mapping[str, Copy]


class Search:
    """One tune.

    Args:
        wanted: what the user asked for.
        tell: called with each event, on the same thread.
    """

    def __init__(self, wanted: Wanted, tell: Callable[[Event], None]) -> None:
        self._wanted = wanted
        self._engine = default_engine(wanted.model)
        self._tell = tell
        self._plan = Plan(time.monotonic() if wanted.began is None else wanted.began, wanted.budget_s)
        self._rungs = {name: RungRecord(name) for name in RUNG_FIELDS}
        learned = learn(wanted, self._plan.answers_s, tell)
        self._spec, self._requests, self._gate, self._rows = (
            learned.spec,
            learned.requests,
            learned.gate,
            learned.rows,
        )
        key = (
            None
            if wanted.journal is None
            else Key.of(wanted.model, typical(self._requests, batched=self._spec.batched), wanted.rows)
        )
        self._journal = Journal(wanted.journal, key, fresh=wanted.fresh)
        samples = () if wanted.data is None else kinds_of(self._spec, self._requests)
        self._servers = Servers(wanted.model, self._spec, self._requests, samples)
        objective = Objective(wanted.kind, wanted.slo_ms or float("inf"), wanted.rate or 0.0)
        outcome = Outcome(
            self._spec, self._baseline("json"), objective.rate, list(self._rungs.values()), objective=objective
        )
        outcome.rows, outcome.random_outputs = self._rows, self._gate.random_outputs
        outcome.samples, outcome.previous = samples, wanted.previous
        self._outcome = outcome
        self._racing = Racing(objective, Load((1, 16), LEAST_BLOCK_S), outcome.noise, self._journal)
        self._folder = tempfile.TemporaryDirectory(prefix="tailcut-")  # of the copies
        self._copies: dict[str, Copy] = {}
        self._measured_ways: dict[str, WayIn] | None = None
        self._costs = ""  # of the change that was judged last, in words
        self._facts = facts_of(wanted, learned)

    def survey(self) -> Survey:
        """Measure the baseline and the engines, and simulate; call `close` when the servers are not needed any more.

        Raises:
            TailcutError: the baseline itself cannot be served.
        """
        self._plan = Plan(time.monotonic(), self._wanted.budget_s)  # others may have been surveyed since the start
        self._measure_baseline()
        self._calibrate()
        estimates = self._estimate()
        predicted = self._predict(estimates)
        known = {
            settings: configuration
            for settings, configuration, _ in configurations(
                [one for one in estimates if _is_known(one)], self._parts()
            )
        }
        return Survey(
            self._spec,
            self._rows,
            self._gate,
            self._servers,
            self._baseline(encoded(quickest_wire(self._facts))),
            self._outcome.capacity,
            predicted,
            known,
            self._copies,
        )

    def close(self) -> None:
        """Stop all servers, and remove the copies of the model."""
        self._servers.keep()
        self._folder.cleanup()

    def run(self) -> Outcome:
        """Search, then verify; Ctrl-C at any time ends with the best so far, unverified.

        Raises:
            TailcutError: the baseline itself cannot be served.
        """
        outcome = self._outcome
        try:
            self._plan_verification(self._measure_baseline())
            self._calibrate()
            outcome.estimated = self._predict(self._estimate())
            winner = self._race(self._chosen(outcome.estimated))
            if self._wanted.exhaustive:
                self._plan.race_ended(time.monotonic())
            outcome.settings = self._refine(winner)
            self._explain()
            outcome.rows = self._rows_of(outcome.settings)
            self._verify()
        except KeyboardInterrupt:
            outcome.interrupted = True
        finally:
            self._take_copy(outcome)
            self.close()
        outcome.took_s = self._plan.spent_s(time.monotonic())
        return outcome

    def _rows_of(self, settings: Settings) -> dict[str, Any]:
        """What was decided of the rows on the engine of these settings: that of another engine, by its own server."""
        if (settings.engine.name, settings.engine.precision) == (self._engine, BASELINE.engine.precision):
            return self._rows
        path = f"{model_path(self._spec.name)}/config"
        config = ask(self._servers.of(settings).target, "GET", path)
        rows, reason = (config["parameters"][name]["string_value"] for name in ("rows", "rows_reason"))
        return self._rows | {"rows": rows, "batched": rows == Rows.INDEPENDENT, "reason": reason}

    def _baseline(self, wire: Wire) -> Settings:
        batching = {"bind": False, "rows": self._wanted.rows}
        engine = {"name": self._engine, "fixed_dims": self._wanted.fixed_dims}
        return changed(BASELINE, engine=engine, batching=batching, io={"wire": wire})

    def _measure_baseline(self) -> Baseline:
        """What it carries, and the limit that all others are held to."""
        self._tell(Phase("measuring what the baseline can carry"))
        wanted, plan = self._wanted, self._plan
        arm = self._servers.arm(self._baseline("json"))
        found = measure_baseline(arm, plan.capacity_s, rate=wanted.rate, limit_ms=wanted.slo_ms)
        outcome = self._outcome
        outcome.capacity, outcome.rate, outcome.clients = found.capacity, found.rate, found.clients
        outcome.objective = replace(outcome.objective, limit_ms=found.limit_ms, rate=found.rate)
        self._racing.objective = outcome.objective
        capacity = f"{found.capacity:,.3g}" if found.capacity < 100 else f"{found.capacity:,.0f}"
        own = "" if wanted.slo_ms else f", its own at {found.rate:,.6g} req/s"
        self._tell(Phase(f"the baseline carries {capacity} req/s; the limit of p99 is {found.limit_ms:.3g} ms{own}"))
        return found

    def _plan_verification(self, found: Baseline) -> None:
        """Leave the verification the time that its p99 takes; say what the budget can tell where that is too little."""
        plan, arms = self._plan, len(self._arms_verified())
        needed_s = verification_s(found.rate, arms)
        plan.needs_verification_s(min(needed_s, plan.most_verify_s))
        if needed_s > plan.most_verify_s:
            told = told_within(plan.most_verify_s, found.rate, arms)
            budget_s = 10 * math.ceil(needed_s / plan.most_verify_s * plan.budget_s / 10)
            self._tell(
                Phase(
                    f"the p99 of a model this slow takes {needed_s:,.0f} s to verify: within {plan.budget_s:g} s the "
                    f"tune verifies its {told} (--budget {budget_s}s for the p99, or a higher --rate)"
                )
            )

    # Estimates.

    def _calibrate(self) -> None:
        """Have copies of the model in static int8 written, where they may pay, to be measured with the rest."""
        seconds, engines = self._plan.calibrate_s, copy_engines(self._facts)
        if not (seconds and engines) or self._wanted.bound is None:
            return
        self._tell(Phase("quantising the model to static int8 with the data"))
        try:
            material = Material.of(self._wanted.model, self._requests, self._gate)
        except CalibrationError as error:
            self._tell(Phase(f"static int8 is left out: {error}"))
            return
        folder = Path(self._folder.name)
        self._copies = copies_for(material, engines, folder, seconds, lambda words: self._tell(Phase(words)))
        self._servers.copies = {name: copy.path for name, copy in self._copies.items()}
        self._facts = replace(self._facts, copies=frozenset(copy.engine for copy in self._copies.values()))

    def _take_copy(self, outcome: Outcome) -> None:
        """The copy that the outcome's settings run, before its folder goes."""
        if outcome.settings.engine.precision == "int8_static":
            outcome.copy = self._copies[outcome.settings.engine.name]
            outcome.copy_bytes = outcome.copy.path.read_bytes()

    def _estimate(self) -> list[EngineEstimate]:
        choices = engine_choices(self._facts)[: self._plan.engines]
        # A copy in static int8 is quantised anew by each tune: what another one took says nothing of it.
        known = [one for one in self._journal.estimates(choices) if one.options.precision != "int8_static"]
        self._outcome.reused = len(known)
        if known:
            self._tell(Phase(f"taking over {len(known)} of {len(choices)} estimates from {self._journal.name}"))
            self._tell(Estimated(len(known)))
        missing = [options for options in choices if options not in [one.options for one in known]]
        if not missing:
            return known
        self._tell(Phase(f"measuring {len(missing)} engine configurations in process"))
        requests = typical(self._requests, batched=self._spec.batched)
        if self._wanted.normalize is not None:
            requests = [as_pixels(self._wanted.normalize, self._spec, one) for one in requests]
        return known + estimate_engines(
            self._wanted.model,
            missing,
            requests,
            seconds=self._plan.estimate_s * len(missing) / len(choices),
            batched=self._spec.batched,
            copies=self._servers.copies,
            tell=self._told,
        )

    def _told(self, estimate: EngineEstimate) -> None:
        if estimate.error != NO_TIME:
            self._journal.add_estimate(estimate)
        settings = msgspec.structs.replace(BASELINE, engine=estimate.options)
        entry = entry_of(settings.describe() or "the engine's defaults")
        if estimate.error:
            verdict = "skipped" if estimate.error == NO_TIME else "rejected"
            entry |= {"verdict": verdict, "reason": estimate.error}
        else:
            entry |= {
                "verdict": "estimated",
                "reason": f"{estimate.rows_per_s:,.0f} rows/s in process, {estimate.alone_ns / 1e3:,.0f} us for one "
                f"alone, {estimate.memory_bytes >> 20:,} MiB",
            }
        self._candidate("simd", entry)
        self._tell(Estimated(1))

    def _ways(self) -> dict[str, WayIn]:
        """What the quickest wire costs with each dispatch, by two servers of the empty engine."""
        self._find_wiring()
        settings = {name: way_settings(self._facts, name) for name in PROBED}
        known = {name: way for name, one in settings.items() if (way := self._journal.way(one)) is not None}
        if len(known) == len(settings):
            self._tell(Phase(f"taking over what the way in costs from {self._journal.name}"))
            return with_adaptive(known)
        self._tell(Phase("measuring the way in, with an engine that computes nothing"))
        ways = measure_ways(self._servers, settings, self._plan.way_s)
        self._servers.keep(self._baseline("json"))
        for name, way in ways.items():
            self._journal.add_way(settings[name], way)
        return with_adaptive(ways)

    def _find_wiring(self) -> None:
        """Measure which way requests travel the quickest, where there are several."""
        if len(wirings(self._facts)) == 1:
            return
        settings = wiring_settings(self._facts)
        wiring = self._journal.wiring(settings)
        if wiring is None:
            self._tell(Phase("measuring how requests travel: the wire, Unix sockets, shared memory"))
            wiring = measured_wiring(self._servers, self._facts, self._plan.way_s)
            self._servers.keep(self._baseline("json"))
            self._journal.add_wiring(settings, wiring)
        self._tell(Phase(f"requests travel the quickest as {wiring.wire} over {wiring.socket}"))
        self._facts = replace(self._facts, wiring=wiring)

    def _parts(self) -> Parts:
        if self._measured_ways is None:
            self._measured_ways = self._ways()
        return Parts(self._facts, self._measured_ways, float(usable_cpus()), self._wanted.rows)

    def _predict(self, estimates: Sequence[EngineEstimate]) -> list[Predicted]:
        known = [one for one in estimates if _is_known(one)]
        if not known:
            raise UsageError("no engine configuration could be measured")
        predicted = list(predict(known, self._parts(), self._outcome.objective))
        constraints = self._wanted.constraints
        allowed = constraints.allowed(predicted)
        if not allowed:
            least = min(one.memory_bytes for one in predicted) / 1e6
            raise UsageError(f"--memory: the smallest configuration needs about {least:,.0f} MB: allow more")
        left_out = len(predicted) - len(allowed)
        words = f", {left_out:,} left out: they need more memory than allowed" if left_out else ""
        self._tell(Phase(f"simulated {len(predicted):,} configurations{words}"))
        self._tell(Estimated(len(predicted)))
        return allowed

    # The race.

    def _chosen(self, predicted: Sequence[Predicted]) -> list[Settings]:
        """The finalists, as many as there is time to start; all of a small space where that is asked for."""
        rank = self._outcome.objective.rank
        if self._wanted.exhaustive:
            chosen = sorted(predicted, key=rank, reverse=True)[:_EXHAUSTIVE]
            cut = f" (the best by simulation of {len(predicted):,})" if len(chosen) < len(predicted) else ""
            takes_s = len(chosen) * (self._servers.start_s + self._plan.check_s + 2 * self._plan.refinement_s)
            words = f"in groups of {_GROUP}: about {takes_s:,.0f} s, whatever --budget says"
            self._tell(Phase(f"racing {len(chosen)} configurations{cut}, {words}"))
            self._tell(Expected(self._plan.budget_s + takes_s))
        else:
            count = self._plan.finalists(time.monotonic(), self._servers.start_s, FINALISTS)
            chosen = finalists(predicted, count, rank)
        settings = [one.settings for one in chosen]
        previous = self._wanted.previous
        if previous is not None and previous not in settings:
            settings.append(previous)
        load = self._racing.load = load_for(self._outcome.objective, self._best_rate(chosen))
        if self._outcome.objective.kind == "throughput":
            self._outcome.clients = load.clients[-1]  # what was raced is what is verified
        return settings

    def _best_rate(self, chosen: Sequence[Predicted]) -> float:
        if self._outcome.objective.is_open:
            return self._outcome.capacity
        return max((max(one.rate, one.capacity) for one in chosen), default=0.0)

    def _race(self, chosen: Sequence[Settings]) -> Settings:
        """The best estimate on the real server, of the configurations whose answers are right."""
        groups = [chosen[start : start + _GROUP] for start in range(0, len(chosen), _GROUP)]
        winners: list[Settings] = []
        for group in groups:
            winners += self._race_group(group)[: 2 if len(groups) > 1 else None]
        if len(groups) > 1 and winners:
            return self._race(winners)
        for winner in winners:
            found = self._check(winner, self._plan.check_s, whole=True)
            if found.right:
                return winner
            self._reject(winner, f"wrong answers: {found.reason}")
        self._tell(Phase("no finalist answers rightly: the baseline stays"))
        return self._baseline(self._wanted.wire if self._wanted.wire == "json" else "binary")

    def _race_group(self, group: Sequence[Settings]) -> list[Settings]:
        """Race configurations that all run at the same time; the best first, none of those that answer wrongly."""
        entrants = self._enter(group)
        if not entrants:
            return []
        self._tell(Phase(f"racing {len(entrants)} finalists on the real server"))
        until = self._plan.race_until
        if self._wanted.exhaustive:
            until = time.monotonic() + self._plan.refinement_s * len(entrants)
        heats = self._racing.heats(entrants, until)
        near = heats.near(NEAR)
        stays = [number for number in near if entrants[number].settings == self._wanted.previous]
        # Settings that are in use are not replaced by others that are equal.
        best = stays[0] if stays else self._racing.shortest_alone(near, entrants)
        for number, lane in enumerate(heats.lanes):
            settings = entrants[number].settings
            self._outcome.raced[settings] = lane.estimate
            words = self._outcome.objective.describe(lane.estimate)
            entry = entry_of(settings.describe(self._baseline("json"))) | {"verdict": "raced", "reason": words}
            entry["throughput"] = None if self._outcome.objective.is_open else round(lane.estimate, 2)
            self._candidate("parallelism", entry, kept=number == best)
        others = sorted(heats.racing, key=lambda number: -heats.lanes[number].estimate)
        order = [best, *(number for number in others if number != best)]
        self._outcome.settings = self._outcome.race_winner = entrants[best].settings
        score = self._outcome.objective.describe(heats.lanes[best].estimate)
        self._tell(Best(self._outcome.settings.describe(self._baseline("json")), score))
        self._servers.keep(self._baseline("json"), *(entrants[number].settings for number in order[:2]))
        return [entrants[number].settings for number in order]

    def _enter(self, group: Sequence[Settings]) -> list[Entrant]:
        """Start servers, each while the one before it is asked for its answers; leave out those that are wrong."""
        entrants = []
        for number, settings in enumerate(group):
            self._servers.launch(settings, *group[number + 1 : number + 2])
            reason = ""
            try:
                arm = self._servers.arm(settings)
                found = self._check(settings, self._plan.check_s)
                reason = "" if found.right else f"wrong answers: {found.reason}"
            except TailcutError as error:
                reason = str(error)
            if reason:
                self._reject(settings, reason)
                if settings == self._wanted.previous:
                    self._outcome.previous_wrong = reason
            else:
                entrants.append(Entrant(settings, arm))
        return entrants

    def _reject(self, settings: Settings, reason: str) -> None:
        entry = entry_of(settings.describe(self._baseline("json"))) | {"verdict": "rejected", "reason": reason}
        self._candidate("algorithmic", entry)

    def _check(self, settings: Settings, seconds: float, *, whole: bool = False) -> Accuracy:
        """Ask a running server questions, as many at a time as it answers in a moment."""
        in_flight = max(4, int(2 * seconds * self._outcome.capacity)) if self._outcome.capacity else 16
        return self._gate.check(self._servers.of(settings).target, settings, seconds, in_flight, whole=whole)

    def _candidate(self, rung: str, entry: dict[str, Any], *, kept: bool = False) -> None:
        if not kept:
            self._rungs[rung].candidates.append(entry)
        self._tell(CandidateDone(rung, entry))

    def _refine(self, winner: Settings) -> Settings:
        """Small changes of the winner, each judged beside it on servers; those that look better stay."""
        limited = self._wanted.constraints.memory_bytes is not None
        for candidate in refinements(self._facts, winner):
            if limited and holds_weights_again(candidate):
                continue
            if time.monotonic() + self._servers.start_s + self._plan.refinement_s > self._plan.refine_until:
                break
            words = candidate.describe(winner)
            better = self._is_better(candidate, winner, least_gain(candidate, winner))
            self._tell(Phase(f"{words}: {'kept' if better else 'no gain'}{self._costs}"))
            if better:
                self._outcome.settings = candidate
                return self._refine(candidate)
        return winner

    def _is_better(self, candidate: Settings, winner: Settings, least: float = 1.0) -> bool:
        """Whether a candidate leads over the winner so far, and answers rightly; the other server is stopped."""
        try:
            entrants = [Entrant(settings, self._servers.arm(settings)) for settings in (winner, candidate)]
        except TailcutError:
            self._costs = ""
            return False
        heats = self._racing.heats(entrants, time.monotonic() + self._plan.refinement_s)
        better = heats.leader == 1
        if least != 1:
            found = heats.ratio(1, 0)
            leads = better or least < 1
            better = leads and found is not None and found.point >= least and found.low > 1 - NOISE
        self._costs = self._servers.compared(candidate, winner)
        better = better and self._check(candidate, self._plan.check_s).right
        self._servers.keep(self._baseline("json"), candidate if better else winner)
        return better

    # The rungs, and the verification.

    def _explain(self) -> None:
        """Measure what each rung does on the way to the winner; one that makes things worse leaves it."""
        self._tell(Phase("measuring what each rung does on the way to the winner"))
        base, outcome = self._baseline("json"), self._outcome
        steps = [base, *(up_to(outcome.settings, rung, base) for rung in RUNG_FIELDS)]
        starting_s = self._servers.start_s * self._servers.count_new(steps)
        if time.monotonic() + starting_s > self._plan.rungs_until:
            words = f"not measured on its own: starting the servers takes {starting_s:.0f} s, and the budget has less"
            for rung, record in self._rungs.items():
                record.note = words
                self._tell(RungDone(rung, None, words))
            return
        runs = waterfall(self._servers, steps, outcome, self._racing.load.block_s, self._plan)
        self._servers.keep(base, outcome.settings)
        for (rung, record), before, after in zip(self._rungs.items(), steps, steps[1:], strict=False):
            self._tell(RungStarted(rung, 1))
            if before == after:
                record.note = "the winner has nothing of this rung"
            else:
                entry = effect(before, after, runs)
                self._journal.add("rung", after, rung=rung, verdict=entry["verdict"], reason=entry["reason"])
                without_it = without(outcome.settings, rung, base)
                if entry["verdict"] == Verdict.WORSE.value and self._is_better(without_it, outcome.settings):
                    outcome.settings = without_it
                    entry["reason"] += "; taken out of the winner"
                else:
                    record.kept.append(entry["setting"])
                record.candidates.insert(0, entry)
                self._tell(CandidateDone(rung, entry))
            self._tell(RungDone(rung, " + ".join(record.kept) or None, record.note))

    def _arms_verified(self) -> dict[str, Settings]:
        """What the verification measures: baseline, reference and tuned; and the previous settings, checked again."""
        arms = {
            "baseline": self._baseline("json"),
            "reference": self._baseline("json" if self._wanted.wire == "json" else "binary"),
            "tuned": self._outcome.settings,
        }
        previous = self._wanted.previous
        if previous is not None and not self._outcome.previous_wrong:
            arms["previous"] = previous
        return arms

    def _verify(self) -> None:
        """What is claimed: from fresh samples of baseline, reference and tuned."""
        settings, outcome = self._arms_verified(), self._outcome
        *names, last = settings
        self._tell(Phase(f"verifying: {', '.join(names)} and {last} in turns, on fresh samples"))
        self._servers.keep(*settings.values())
        self._servers.launch(*settings.values())
        arms = {name: self._servers.arm(one) for name, one in settings.items()}
        outcome.accuracy = self._check(outcome.settings, self._plan.last_check_s, whole=True)
        if outcome.wrong:
            return
        if self._wanted.labels is not None:
            outcome.labels_accuracy = self._labels(settings)
        verify(outcome, arms, self._racing.load, self._plan, seed=self._wanted.seed)
        for name, run in outcome.arms.items():
            outcome.noise.add_runs(run)
            pid = arms[name].pid
            peak = None if pid is None else peak_bytes(pid)
            if peak is not None:
                outcome.memory_peaks[name] = peak
            self._journal.add(
                "verified", settings[name], arm=name, samples=len(run.latencies), rate=outcome.rate, errors=run.errors
            )

    def _labels(self, settings: dict[str, Settings]) -> dict[str, float] | None:
        found: dict[str, float] = {}
        labels = self._wanted.labels
        for name in ("baseline", "tuned"):
            target = self._servers.of(settings[name]).target
            answers = [infer_once(target, self._spec.name, request) for request in self._requests]
            share = None if labels is None else labelled(answers, labels)
            if share is None:
                return None
            found[name] = share
        return found


def _is_known(estimate: EngineEstimate) -> bool:
    return estimate.error is None and bool(estimate.sizes)
