"""A tune from the model file to an outcome: estimate in process, simulate, race, explain by rungs, verify.

A thin shell. What may be turned stands in `space`, what a call costs in `estimate`, what a way in costs in `ways`, what
a whole configuration would do in `simulate`, which ones race in `finalists`, who wins in `heats`, what is right in
`gate`. It selects by the best estimate; what it claims comes from the verification alone.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.base import Engine
from tailcut.engines.edits import benefits_from_int8
from tailcut.engines.graph import load_graph
from tailcut.engines.samples import find_samples
from tailcut.errors import TailcutError, UsageError
from tailcut.lab.arrivals import poisson_times
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.describe import lengths_of, rows_of_data
from tailcut.lab.load import LoadResult
from tailcut.lab.payload import Wire, ask, infer_once, model_path
from tailcut.lab.trial import Arm
from tailcut.machine.fingerprint import isa_flags
from tailcut.machine.quota import quota, usable_cpus
from tailcut.runtime.limits import Limits
from tailcut.runtime.profile import Settings
from tailcut.runtime.row_proof import settle_rows
from tailcut.runtime.samples import kinds_of
from tailcut.spec import ModelSpec, Rows
from tailcut.stats import Sample, Verdict, percentile, samples_needed
from tailcut.tuner.accuracy import labelled
from tailcut.tuner.budget import Plan
from tailcut.tuner.calibrate import CalibrationError, Copy, Material, copies_for
from tailcut.tuner.estimate import EngineEstimate, estimate_engines
from tailcut.tuner.events import CandidateDone, Event, Phase, RungDone, RungStarted
from tailcut.tuner.finalists import NEAR, Predicted, finalists
from tailcut.tuner.gate import Gate
from tailcut.tuner.heats import Heats
from tailcut.tuner.questions import Questions
from tailcut.tuner.race import NOISE
from tailcut.tuner.records import Outcome, RungRecord, Wanted, entry_of
from tailcut.tuner.servers import Servers
from tailcut.tuner.simulate import Configuration, WayIn, highest_rate, simulate
from tailcut.tuner.space import (
    BASELINE,
    RUNG_FIELDS,
    Facts,
    changed,
    copy_engines,
    engine_choices,
    quickest_wire,
    refinements,
    serving_choices,
    up_to,
    without,
)
from tailcut.tuner.verification import Load, verify
from tailcut.tuner.waterfall import effect, waterfall
from tailcut.tuner.ways import Probe, probe, way_in

Arrays = dict[str, np.ndarray]
_MADE_UP = 64  # requests, where there are no data
_IN_FLIGHT_S = 10.0  # worth of requests are asked together at most, at the baseline's rate
_LOAD = 0.5  # of the baseline's capacity: the rate offered where the user names none
_CONCURRENCY = 16  # in flight when the baseline's capacity is measured
_MOST_CLIENTS = 128
_FILLED = 0.6  # of the limit: what those connections make of it
_LONE_FACTOR = 3.0  # of a lone request's median: the limit where the baseline's p99 takes too long to know
_SIMULATED = 3000  # requests of one simulation
_LEAST_BLOCK_S = 0.12
_BLOCK_REQUESTS = 3  # of each connection, in a block
_MOST_HEATS = 40
_REFINED = 1.01  # a refinement stays when it looks at least this much better
_FEWEST_HEATS = 3


class Search:
    """One tune.

    Args:
        wanted: what the user asked for.
        tell: called with each event, on the same thread.
    """

    def __init__(self, wanted: Wanted, tell: Callable[[Event], None]) -> None:
        self._wanted = wanted
        self._tell = tell
        self._plan = Plan(time.monotonic(), wanted.budget_s)
        self._rungs = {name: RungRecord(name) for name in RUNG_FIELDS}
        self._rows: dict[str, Any] = {}
        self._capacity = 0.0  # of the baseline, requests a second
        self._limit_ms = wanted.slo_ms or 0.0
        self._load = Load((1, _CONCURRENCY), self._limit_ms, _LEAST_BLOCK_S)
        self._spec, self._requests, self._gate = self._learn()
        samples = () if wanted.data is None else kinds_of(self._spec, self._requests)
        self._servers = Servers(wanted.model, self._spec, self._requests, samples)
        self._folder = tempfile.TemporaryDirectory(prefix="tailcut-")  # of the copies
        self._copies: dict[str, Copy] = {}
        self._facts = Facts(
            self._spec,
            usable_cpus(),
            os.cpu_count() or 1,
            isa_flags(),
            quota().cpus is not None,
            wanted.wire,
            lengths_of(self._spec, self._requests),
            quantizable=benefits_from_int8(load_graph(wanted.model)),
            lower_precision=wanted.data is not None and not self._gate.blind,
        )

    def run(self) -> Outcome:
        """Search, then verify; Ctrl-C at any time ends with the best so far, unverified.

        Raises:
            TailcutError: the baseline itself cannot be served.
        """
        outcome = Outcome(self._spec, self._baseline("json"), self._wanted.rate or 0.0, list(self._rungs.values()))
        outcome.rows, outcome.random_outputs = self._rows, self._gate.random_outputs
        outcome.samples = self._servers.samples
        try:
            outcome.rate = self._measure_baseline()
            self._calibrate()
            predicted = self._predict(self._estimate())
            outcome.estimated = predicted
            outcome.settings = self._refine(self._race(predicted))
            self._explain(outcome)
            outcome.rows = self._rows_of(outcome.settings)
            self._verify(outcome)
        except KeyboardInterrupt:
            outcome.interrupted = True
        finally:
            self._servers.keep()
            self._take_copy(outcome)
            self._folder.cleanup()
        outcome.took_s = self._plan.spent_s(time.monotonic())
        return outcome

    # The model and its right answers.

    def _learn(self) -> tuple[ModelSpec, list[Arrays], Gate]:
        wanted = self._wanted
        engine = open_engine(wanted.model, BASELINE.engine)
        try:
            decision = settle_rows(engine, wanted.rows, Limits())
            self._rows = decision.as_dict()
            if wanted.data is not None:
                requests = rows_of_data(engine.spec, wanted.data, 2048)
            else:
                samples = find_samples(engine, seed=wanted.seed)
                requests = [samples.make(samples.rows, wanted.seed + number) for number in range(_MADE_UP)]
            spec = engine.spec
        finally:
            engine.close()
        self._tell(Phase(decision.describe()))
        self._tell(Phase("computing the right answers"))
        questions = Questions(partial(_open_reference, wanted, spec), requests, self._plan.answers_s)
        gate = Gate(questions, wanted.bound, wanted.metric, wanted.seed)
        if gate.random_outputs:
            names = ", ".join(map(repr, gate.random_outputs))
            rest = "only speed is tuned" if gate.blind else "they are not compared"
            words = f"the model itself is random: asked the same twice, it answers {names} differently; {rest}"
            self._tell(Phase(words))
        return spec, requests, gate

    def _rows_of(self, settings: Settings) -> dict[str, Any]:
        """What was decided of the rows on the engine of these settings: that of another engine, by its own server."""
        if (settings.engine.name, settings.engine.precision) == (BASELINE.engine.name, BASELINE.engine.precision):
            return self._rows
        path = f"{model_path(self._spec.name)}/config"
        config = ask(self._servers.of(settings).target, "GET", path)
        rows, reason = (config["parameters"][name]["string_value"] for name in ("rows", "rows_reason"))
        decided = {"rows": rows, "batched": rows == Rows.INDEPENDENT, "reason": reason}
        return decided | {"setting": self._wanted.rows, "evidence": {}}

    def _baseline(self, wire: Wire) -> Settings:
        return changed(BASELINE, batching={"bind": False, "rows": self._wanted.rows}, io={"wire": wire})

    # The baseline: what it carries, and the limit that all others are held to.

    def _measure_baseline(self) -> float:
        self._tell(Phase("measuring what the baseline can carry"))
        arm = self._servers.arm(self._baseline("json"))
        length_s = self._plan.capacity_s
        found = closed_loop(
            arm.target, arm.payloads, concurrency=_CONCURRENCY, duration_s=length_s, warmup_s=length_s / 4
        )
        if not found.samples:
            raise UsageError(f"the baseline answers no request rightly: {found.errors}")
        self._capacity = found.rate_achieved
        rate = self._wanted.rate or float(f"{_LOAD * self._capacity:.3g}")
        if not self._limit_ms:
            needed_s = 1.2 * samples_needed(0.99) / rate
            opened = open_loop(
                arm.target, arm.payloads, rate=rate, duration_s=min(max(length_s, needed_s), 4 * length_s), seed=1
            )
            self._limit_ms = _limit_ms(opened)
        self._plan.needs_verification_s(3 * 1.15 * samples_needed(0.99) / rate)
        self._tell(
            Phase(
                f"the baseline carries {self._capacity:,.0f} req/s; the limit of p99 is {self._limit_ms:.3g} ms"
                f"{'' if self._wanted.slo_ms else f', its own at {rate:,.6g} req/s'}"
            )
        )
        return rate

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
        self._tell(Phase(f"measuring {len(choices)} engine configurations in process"))
        request = {name: array[:1] if self._spec.batched else array for name, array in self._requests[0].items()}
        return estimate_engines(
            self._wanted.model,
            choices,
            request,
            seconds=self._plan.estimate_s,
            batched=self._spec.batched,
            copies=self._servers.copies,
            tell=self._told,
        )

    def _told(self, estimate: EngineEstimate) -> None:
        settings = msgspec.structs.replace(BASELINE, engine=estimate.options)
        entry = entry_of(settings.describe() or "the engine's defaults")
        if estimate.error:
            entry |= {"verdict": "rejected", "reason": estimate.error}
        else:
            entry |= {
                "verdict": "estimated",
                "reason": f"{estimate.rows_per_s:,.0f} rows/s in process, {estimate.alone_ns / 1e3:,.0f} us for one "
                f"alone, {estimate.memory_bytes >> 20:,} MiB",
            }
        self._rungs["simd"].candidates.append(entry)
        self._tell(CandidateDone("simd", entry))

    def _ways(self) -> dict[str, WayIn]:
        """What the quickest wire costs with each dispatch, by two servers of the empty engine."""
        self._tell(Phase("measuring the way in, with an engine that computes nothing"))
        base = changed(
            BASELINE,
            engine={"name": "none"},
            batching={"bind": self._spec.fixed_rows, "max_batch": _MOST_CLIENTS},
            io={"wire": quickest_wire(self._facts)},
        )
        probed = {dispatch: changed(base, batching={"dispatch": dispatch}) for dispatch in ("inline", "worker")}
        self._servers.start(probed.values())
        probes: dict[str, Probe] = {}
        for dispatch, settings in probed.items():
            arm = self._servers.arm(settings)
            probes[dispatch] = probe(arm.target, arm.payloads, arm.pid, self._plan.way_s)
        self._servers.keep(self._baseline("json"))
        ways = {dispatch: way_in(found, probes["inline"]) for dispatch, found in probes.items()}
        return ways | {
            "adaptive": ways["worker"]
        }  # where many ask, a worker computes; the lone request's saving is known

    def _predict(self, estimates: Sequence[EngineEstimate]) -> list[Predicted]:
        known = [one for one in estimates if one.error is None and one.sizes]
        if not known:
            raise UsageError("no engine configuration could be measured")
        ways = self._ways()
        cpus = self._facts.usable_cpus
        cores = max(1.0, cpus - 1.0)  # the load client keeps one busy
        alone = replace(self._spec, rows=Rows.DEPENDENT)
        predicted = []
        for estimate in known:
            service = estimate.service_times(cpus)
            facts = self._facts if estimate.batched else replace(self._facts, spec=alone)
            for choice in serving_choices(facts, estimate.options, estimate.alone_ns / 1e3):
                settings = changed(choice, batching={"rows": self._wanted.rows})
                configuration = Configuration(
                    service,
                    ways[settings.batching.dispatch],
                    settings.batching.dispatch,
                    settings.batching.max_batch,
                    settings.batching.hold_us,
                    estimate.options.instances,
                    cores,
                )
                predicted.append(self._predicted(settings, configuration, estimate))
        self._tell(Phase(f"simulated {len(predicted):,} configurations"))
        return predicted

    def _predicted(self, settings: Settings, configuration: Configuration, estimate: EngineEstimate) -> Predicted:
        way = configuration.way_in
        alone_ns = estimate.alone_ns + way.receive_ns + way.answer_ns + way.batch_ns + way.outside_ns
        if configuration.dispatch == "worker":
            alone_ns += 2 * way.wake_ns
        if self._wanted.rate is not None and self._for_latency:
            times = poisson_times(self._wanted.rate, _SIMULATED / self._wanted.rate, 1)
            rate = 1e3 / simulate(configuration, times).percentile_ms(0.99)
        else:
            rate = highest_rate(configuration, self._limit_ms, _SIMULATED)
        cpu_us = (estimate.cpu_ns[1] + way.receive_ns + way.answer_ns + way.batch_ns) / 1e3
        return Predicted(settings, rate, alone_ns / 1e6, cpu_us, estimate.memory_bytes)

    # The race.

    def _race(self, predicted: Sequence[Predicted]) -> Settings:
        """The best estimate on the real server, of the finalists whose answers are right."""
        chosen = finalists(predicted, self._plan.finalists)
        load = self._load = self._load_for(chosen)
        arms, settings = [], []
        self._servers.start(one.settings for one in chosen)
        for one in chosen:
            words = one.settings.describe(self._baseline("json"))
            try:
                arm = self._servers.arm(one.settings)
                found = self._gate.check(arm.target, one.settings, self._plan.check_s, self._in_flight())
                reason = "" if found.right else f"wrong answers: {found.reason}"
            except TailcutError as error:
                reason = str(error)
            if reason:
                entry = entry_of(words) | {"verdict": "rejected", "reason": reason}
                self._rungs["algorithmic"].candidates.append(entry)
                self._tell(CandidateDone("algorithmic", entry))
                continue
            arms.append(arm)
            settings.append(one.settings)
        if not arms:
            self._tell(Phase("no finalist answers rightly: the baseline stays"))
            return self._baseline(self._wanted.wire if self._wanted.wire == "json" else "binary")
        self._tell(Phase(f"racing {len(arms)} finalists on the real server"))
        heats = self._heats(arms, self._plan.race_until)
        best = self._shortest_alone(heats.near(NEAR), arms)
        for number, lane in enumerate(heats.lanes):
            words = f"{lane.estimate:,.0f} answers/s within {load.limit_ms:.3g} ms"
            entry = entry_of(settings[number].describe(self._baseline("json")))
            entry |= {"verdict": "raced", "throughput": round(lane.estimate, 2), "reason": words}
            if number != best:
                self._rungs["parallelism"].candidates.append(entry)
            self._tell(CandidateDone("parallelism", entry))
        return settings[best]

    def _refine(self, winner: Settings) -> Settings:
        """Small changes of the winner, each judged beside it on servers; those that look better stay."""
        for candidate in refinements(self._facts, winner):
            if time.monotonic() > self._plan.refine_until:
                break
            words = candidate.describe(winner)
            better = self._is_refined(candidate, winner)
            self._tell(Phase(f"{words}: {'kept' if better else 'no gain'}"))
            if better:
                return self._refine(candidate)
        return winner

    def _is_refined(self, candidate: Settings, winner: Settings) -> bool:
        try:
            arms = [self._servers.arm(winner), self._servers.arm(candidate)]
        except TailcutError:
            return False
        heats = self._heats(arms, time.monotonic() + self._plan.refinement_s)
        found = heats.ratio(1, 0)
        better = found is not None and found.point >= _REFINED and found.low > 1 - NOISE
        better = better and self._gate.check(arms[1].target, candidate, self._plan.check_s, self._in_flight()).right
        self._servers.keep(self._baseline("json"), candidate if better else winner)
        return better

    def _heats(self, arms: Sequence[Arm], until: float) -> Heats:
        heats = Heats.of(len(arms))
        for number in range(_MOST_HEATS):
            began = time.monotonic()
            heats.add([self._score(arms[place], number) for place in heats.racing])
            took = time.monotonic() - began
            if len(heats.racing) == 1 or (number + 1 >= _FEWEST_HEATS and time.monotonic() + took > until):
                break
        return heats

    def _score(self, arm: Arm, number: int) -> float:
        """One block of one arm; more is better."""
        load = self._load
        if self._wanted.rate is not None and self._for_latency:
            length_s = max(load.block_s, 1.1 * samples_needed(0.95) / self._wanted.rate)
            opened = open_loop(arm.target, arm.payloads, rate=self._wanted.rate, duration_s=length_s, seed=number)
            return 0.0 if not opened.samples or opened.errors else 1e9 / float(np.quantile(opened.latencies_ns, 0.99))
        best = 0.0
        for clients in load.clients:
            found = closed_loop(
                arm.target, arm.payloads, concurrency=clients, duration_s=load.block_s, warmup_s=load.block_s / 5
            )
            within = int((found.latencies_ns <= load.limit_ms * 1e6).sum()) / found.duration_s
            best = max(best, within if within >= 0.99 * found.rate_achieved else 0.9 * within)
        return max(best, 1e-9)

    def _load_for(self, chosen: Sequence[Predicted]) -> Load:
        """Connections that bring the best to its limit, and an eighth of them."""
        rate = self._capacity if self._for_latency else max(one.rate for one in chosen)
        most = int(max(2, min(_MOST_CLIENTS, _FILLED * rate * self._limit_ms / 1e3)))
        block_s = max(_LEAST_BLOCK_S, _BLOCK_REQUESTS * most / max(rate, 1e-9))
        return Load(tuple(sorted({max(1, most // 8), most})), self._limit_ms, block_s)

    @property
    def _for_latency(self) -> bool:
        """Whether the shortest p99 at one rate is wanted, rather than the highest rate within a limit."""
        return self._wanted.rate is not None and self._wanted.slo_ms is None

    def _shortest_alone(self, near: Sequence[int], arms: Sequence[Arm]) -> int:
        """Of arms that are equal in rate, the one with the shortest median at one connection."""
        if len(near) == 1:
            return near[0]
        medians: dict[int, list[float]] = {number: [] for number in near}
        for _ in range(_FEWEST_HEATS):
            for number in near:
                found = closed_loop(
                    arms[number].target, arms[number].payloads, concurrency=1, duration_s=_LEAST_BLOCK_S, warmup_s=0.02
                )
                if found.samples:
                    medians[number].append(float(np.median(found.latencies_ns)))
        return min(near, key=lambda number: float(np.median(medians[number] or [np.inf])))

    def _in_flight(self) -> int:
        return max(4, int(_IN_FLIGHT_S * self._capacity)) if self._capacity else _CONCURRENCY

    # The rungs, and the verification.

    def _explain(self, outcome: Outcome) -> None:
        """Measure what each rung does on the way to the winner; one that makes things worse leaves it."""
        self._tell(Phase("measuring what each rung does on the way to the winner"))
        base = self._baseline("json")
        steps = [base, *(up_to(outcome.settings, rung, base) for rung in RUNG_FIELDS)]
        runs = waterfall(self._servers, steps, outcome.rate, self._load.block_s, self._plan)
        self._servers.keep(base, outcome.settings)
        for (rung, record), before, after in zip(self._rungs.items(), steps, steps[1:], strict=False):
            self._tell(RungStarted(rung, 1))
            if before == after:
                record.note = "the winner has nothing of this rung"
            else:
                entry = effect(before, after, runs)
                without_it = without(outcome.settings, rung, base)
                if entry["verdict"] == Verdict.WORSE.value and self._is_better(without_it, outcome.settings):
                    outcome.settings = without_it
                    entry["reason"] += "; taken out of the winner"
                else:
                    record.kept.append(entry["setting"])
                record.candidates.insert(0, entry)
                self._tell(CandidateDone(rung, entry))
            self._tell(RungDone(rung, " + ".join(record.kept) or None, record.note))

    def _is_better(self, candidate: Settings, winner: Settings) -> bool:
        """Whether a candidate leads over the winner so far, and answers rightly; the other server is stopped."""
        try:
            arms = [self._servers.arm(winner), self._servers.arm(candidate)]
        except TailcutError:
            return False
        heats = self._heats(arms, time.monotonic() + self._plan.refinement_s)
        better = heats.leader == 1
        if better:
            better = self._gate.check(arms[1].target, candidate, self._plan.check_s, self._in_flight()).right
        self._servers.keep(self._baseline("json"), candidate if better else winner)
        return better

    def _verify(self, outcome: Outcome) -> None:
        """What is claimed: from fresh samples of baseline, reference and tuned."""
        self._tell(Phase("verifying: baseline, reference and tuned in turns, on fresh samples"))
        settings = {
            "baseline": self._baseline("json"),
            "reference": self._baseline("json" if self._wanted.wire == "json" else "binary"),
            "tuned": outcome.settings,
        }
        self._servers.keep(*settings.values())
        arms = {name: self._servers.arm(one) for name, one in settings.items()}
        outcome.accuracy = self._gate.check(
            arms["tuned"].target, outcome.settings, self._plan.last_check_s, self._in_flight()
        )
        if outcome.wrong:
            return
        if self._wanted.labels is not None:
            outcome.labels_accuracy = self._labels(settings)
        verify(outcome, arms, self._load, self._limit_ms, self._plan, seed=self._wanted.seed)

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


def _open_reference(wanted: Wanted, spec: ModelSpec) -> Engine:
    engine = open_engine(wanted.model, EngineOptions())
    engine.spec = replace(engine.spec, rows=spec.rows, rows_reason=spec.rows_reason)
    return engine


def _limit_ms(found: LoadResult) -> float:
    """The p99 of the baseline's run; three medians where it has too few samples to tell."""
    latencies = Sample.of(found.latencies_ns / 1e6)
    if len(latencies) >= samples_needed(0.99):
        return float(f"{percentile(latencies, 0.99):.3g}")
    return float(f"{_LONE_FACTOR * percentile(latencies, 0.5):.3g}")
