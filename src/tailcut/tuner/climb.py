"""The climb itself: opens the model, starts servers, runs trials and asks the ladder what to make of them.

A thin shell: what is tried stands in `rungs`, what is kept in `ladder`, what is right in `accuracy`, what is shown in
whoever listens to the events.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from tailcut.engines import open_engine
from tailcut.engines.samples import find_samples
from tailcut.errors import TailcutError, UsageError
from tailcut.lab.client import closed_loop
from tailcut.lab.describe import lengths_of, rows_of_data
from tailcut.lab.payload import Wire, infer_once, infer_payload
from tailcut.lab.record import interval_record
from tailcut.lab.trial import Arm, ArmRuns, ServedProfile, ServeError, closed_block, open_block
from tailcut.machine.fingerprint import isa_flags
from tailcut.machine.quota import quota, usable_cpus
from tailcut.runtime.profile import Profile, Settings
from tailcut.runtime.samples import SampleRequest, kinds_of
from tailcut.spec import ModelSpec
from tailcut.stats import Verdict, samples_needed
from tailcut.tuner.accuracy import Accuracy, Outputs, compare
from tailcut.tuner.events import CandidateDone, CandidateStarted, Event, Phase, RungDone, RungStarted
from tailcut.tuner.holding import Sharing, measure
from tailcut.tuner.ladder import Ladder, judge
from tailcut.tuner.race import Standing, percentiles_ms, ratios, standing
from tailcut.tuner.rungs import BASELINE, RUNGS, Candidate, Facts, Rung, changed, starting_settings

Arrays = dict[str, np.ndarray]
_PAYLOADS = 32  # distinct requests sent in turn
_CHECKED = 64  # requests whose answers are compared before a candidate is timed
_CHECK_S = 1.5  # and no longer than so
_CONCURRENCY = 16  # in flight when throughput is measured
_CAPACITY_S, _CAPACITY_SHARE = 2.0, 0.1  # how long the baseline's is measured, and no more of the budget
_LOAD = 0.5  # of the baseline's capacity: the rate offered where the user names none
_VERIFY_SHARE = 0.35  # of the budget
_VERIFY_MOST = 0.45  # likewise; a slow model's p99 takes longer, and then the tune does
_BESIDE_P99_S, _BESIDE_P99_LEAST_S, _BESIDE_P99_SHARE = 8.0, 4.0, 0.2  # throughput and answers; the share of the budget
_SLOW, _SLOW_CONCURRENCY = 200, 4  # a model of fewer requests a second is loaded with fewer in a trial
_SLOW_ROUNDS, _SLOW_SAMPLES = 3, 4  # of every candidate that is tried at all, whatever the budget; samples in a block
_FEWEST_ROUNDS, _MOST_ROUNDS = 10, 24
_STARTED_S = 1.0  # of a rung's time, without which no other candidate is begun
_OPEN_S, _CLOSED_S = 0.12, 0.08  # of one arm's block in a trial
_BLOCK_SAMPLES = 150  # Poisson: hardly ever under the 100 that a block's own p99 takes
_CANDIDATE_S = 10.0  # a fast model gains nothing from longer trials
_VERIFY_S, _VERIFY_ROUNDS = 12.0, 20
_MEASURED = (
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "throughput",
    "p99_ratio",
    "throughput_ratio",
    "tail_ratio",
    "ratio_of",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for."""

    model: Path
    data: Arrays | None = None
    labels: np.ndarray | None = None
    rate: float | None = None
    budget_s: float = 120.0
    bound: float | None = 0.999  # None: exact
    wire: Literal["json", "binary", "any"] = "any"
    seed: int = 0


@dataclass(slots=True)
class RungRecord:
    """What a rung came to."""

    name: str
    note: str | None = None
    candidates: list[dict[str, Any]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    """Everything a tune found, for the result and the profile."""

    spec: ModelSpec
    settings: Settings
    rate: float
    rungs: list[RungRecord]
    arms: dict[str, ArmRuns] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    labels_accuracy: dict[str, float] | None = None
    interrupted: bool = False
    took_s: float = 0.0
    samples: tuple[SampleRequest, ...] = ()  # kinds of requests in the data


class Climb:
    """One tune, from the model file to an outcome.

    Args:
        wanted: what the user asked for.
        tell: called with each event, on the same thread.
    """

    def __init__(self, wanted: Wanted, tell: Callable[[Event], None]) -> None:
        self._wanted = wanted
        self._tell = tell
        self._began = time.monotonic()
        self._sharing = Sharing()
        self._spec, self._requests, self._reference = self._open_model()
        self._samples = () if wanted.data is None else kinds_of(self._spec, self._requests)
        self._facts = Facts(
            self._spec,
            usable_cpus(),
            os.cpu_count() or 1,
            isa_flags(),
            quota().cpus is not None,
            wanted.wire,
            lengths_of(self._spec, self._requests),
        )
        self._rate = wanted.rate or 0.0
        self._capacity = 0.0  # of the baseline, requests a second
        self._records: list[RungRecord] = []
        self._verify_s = _VERIFY_SHARE * wanted.budget_s
        self._servers: dict[Settings, ServedProfile] = {}
        self._payload_cache: dict[Wire, list[Any]] = {}

    def run(self) -> Outcome:
        """Climb, then verify; Ctrl-C at any time ends with the best so far, unverified.

        Raises:
            TailcutError: the baseline itself cannot be served.
        """
        ladder = Ladder(self._facts, starting_settings(), RUNGS)
        outcome = Outcome(self._spec, ladder.best, self._rate, self._records, samples=self._samples)
        try:
            self._measure_rate()
            ladder.facts = replace(self._facts, waits_us=self._sharing.waits_us(self._rate))
            outcome.rate = self._rate
            for number, rung in enumerate(RUNGS):
                self._climb(ladder, number, rung)
            outcome.settings = ladder.best
            self._verify(outcome)
        except KeyboardInterrupt:
            outcome.interrupted = True
            outcome.settings = ladder.best
        finally:
            for server in self._servers.values():
                server.stop()
        outcome.took_s = time.monotonic() - self._began
        return outcome

    # The model and its right answers.

    def _open_model(self) -> tuple[ModelSpec, list[Arrays], list[Outputs]]:
        wanted = self._wanted
        engine = open_engine(wanted.model, BASELINE.engine)
        try:
            if wanted.data is not None:
                requests = rows_of_data(engine.spec, wanted.data, 2048)
            else:
                samples = find_samples(engine, seed=wanted.seed)
                requests = [samples.make(samples.rows, wanted.seed + number) for number in range(_CHECKED)]
            self._tell(Phase(f"computing the right answers to {min(_CHECKED, len(requests))} requests"))
            answers: list[Outputs] = [engine.run(request) for request in requests[:_CHECKED]]
            if engine.spec.batched:
                self._sharing = measure(engine, requests[0])
            return engine.spec, requests, answers
        finally:
            engine.close()

    def _payloads(self, wire: Wire) -> list[Any]:
        if wire not in self._payload_cache:
            target = next(iter(self._servers.values())).target
            self._payload_cache[wire] = [
                infer_payload(target, self._spec.name, request, wire) for request in self._requests[:_PAYLOADS]
            ]
        return self._payload_cache[wire]

    def _serve(self, settings: Settings) -> ServedProfile:
        """A running server of these settings; those that differ only in what clients send share one."""
        key = changed(settings, io={"wire": "binary"})
        server = self._servers.get(key)
        if server is None:
            profile = Profile.of_model(self._wanted.model, key, self._spec.name)
            server = ServedProfile(msgspec.structs.replace(profile, samples=self._samples))
            server.start()
            self._servers[key] = server
        return server

    def _retire(self, *keep: Settings) -> None:
        keys = {changed(settings, io={"wire": "binary"}) for settings in keep}
        for key in [key for key in self._servers if key not in keys]:
            self._servers.pop(key).stop()

    def _arm(self, settings: Settings, wire: Wire | None = None) -> Arm:
        server = self._serve(settings)
        return Arm(server.target, self._payloads(wire or settings.io.wire), server.pid)

    def _measure_rate(self) -> None:
        self._tell(Phase("measuring what the baseline can carry"))
        baseline = _baseline("json")
        arm = self._arm(baseline)
        length_s = min(_CAPACITY_S, _CAPACITY_SHARE * self._wanted.budget_s)
        found = closed_loop(
            arm.target, arm.payloads, concurrency=_CONCURRENCY, duration_s=length_s, warmup_s=length_s / 4
        )
        if not found.samples:
            raise UsageError(f"the baseline answers no request rightly: {found.errors}")
        self._capacity = found.rate_achieved
        if not self._rate:
            self._rate = float(f"{_LOAD * found.rate_achieved:.3g}")
        beside_s = min(_BESIDE_P99_S, max(_BESIDE_P99_LEAST_S, _BESIDE_P99_SHARE * self._wanted.budget_s))
        self._verify_s = max(self._verify_s, 3 * 1.15 * samples_needed(0.99) / self._rate + beside_s)
        self._tell(Phase(f"the baseline carries {found.rate_achieved:,.0f} req/s; offering {self._rate:,.6g} to all"))

    # Rungs.

    def _climb(self, ladder: Ladder, number: int, rung: Rung) -> None:
        record = RungRecord(rung.name)
        self._records.append(record)
        offered = sum(len(group) for group in rung.offer(ladder.facts, ladder.best))
        self._tell(RungStarted(rung.name, offered))
        # A rung that overruns loses its own last candidates, never those of the rungs behind it.
        left_s = self._trial_end() - time.monotonic()
        rung_end = time.monotonic() + left_s * offered / max(1, offered + ladder.left(number))
        for candidate in ladder.candidates(rung):
            left_s = rung_end - time.monotonic()
            share_s = left_s / max(1, offered - len(record.candidates)) if left_s > _STARTED_S else 0.0
            self._tell(CandidateStarted(rung.name, candidate.setting))
            entry, keep = self._try(ladder.best, candidate, share_s)
            record.candidates.append(entry)
            if keep:
                ladder.keep(rung, candidate)
                record.kept.append(candidate.setting)
            self._retire(ladder.best)
            self._tell(CandidateDone(rung.name, entry))
        if not record.candidates:
            record.note = rung.nothing
        elif not record.kept:
            record.note = "nothing here was proven better on this model and machine"
        self._tell(RungDone(rung.name, " + ".join(record.kept) or None, record.note))

    def _trial_end(self) -> float:
        return self._began + self._wanted.budget_s - min(self._verify_s, _VERIFY_MOST * self._wanted.budget_s)

    def _try(self, best: Settings, candidate: Candidate, share_s: float) -> tuple[dict[str, Any], bool]:
        """Check, time and judge one candidate; returns its record and whether it stays."""
        entry: dict[str, Any] = {
            "setting": candidate.setting,
            **dict.fromkeys(_MEASURED),
            "samples": 0,
            "cost": None,
        }
        if not share_s:
            return entry | {"verdict": "skipped", "reason": "the budget was spent: give more with --budget"}, False
        began = time.monotonic()
        try:
            wires = [best.io.wire, candidate.settings.io.wire]
            if self._wanted.wire != "json" and wires[0] == wires[1]:
                wires = ["binary", "binary"]  # see starting_settings
            arms = [self._arm(one, wire) for one, wire in zip((best, candidate.settings), wires, strict=True)]
            found = self._check(candidate.settings)
        except (ServeError, TailcutError) as error:
            return entry | {"verdict": "rejected", "reason": str(error)}, False
        if not found.right:
            return entry | {"verdict": "rejected", "reason": f"wrong answers: {found.reason}"}, False
        runs = self._trial(arms, min(_CANDIDATE_S, share_s - (time.monotonic() - began)))
        entry, keep = _judged(entry, runs, self._wanted.seed)
        if keep and candidate.changes_precision and self._wanted.data is None:
            reason = (
                f"{entry['reason']}; not kept: it changes precision, and only --data can show that answers stay right"
            )
            return entry | {"reason": reason}, False
        return entry, keep

    def _check(self, settings: Settings, limit: int = _CHECKED, seconds: float = _CHECK_S) -> Accuracy:
        """Ask the candidate's own server the reference requests, as a client would."""
        server = self._serve(settings)
        end = time.monotonic() + seconds
        answers: list[Outputs] = []
        for request in self._requests[: min(limit, len(self._reference))]:
            answers.append(infer_once(server.target, self._spec.name, request))
            if time.monotonic() > end and len(answers) >= 8:
                break
        return compare(self._reference[: len(answers)], answers, self._wanted.bound)

    def _trial(self, arms: Sequence[Arm], seconds: float) -> list[ArmRuns]:
        """Rounds of best, candidate, best, candidate, until the race is decided or the time is spent."""
        runs = [ArmRuns(), ArmRuns()]
        shortest_s = max(_OPEN_S, _SLOW_SAMPLES / self._rate)
        open_s = max(shortest_s, min(_BLOCK_SAMPLES / self._rate, seconds / (2 * _FEWEST_ROUNDS)))
        in_flight = _CONCURRENCY if self._capacity > _SLOW else _SLOW_CONCURRENCY
        closed_s = max(_CLOSED_S, 2 * in_flight / self._capacity)
        end = time.monotonic() + seconds
        for number in range(_MOST_ROUNDS):
            began = time.monotonic()
            open_block(arms, runs, rate=self._rate, duration_s=open_s, seed=self._wanted.seed * 1000 + number)
            closed_block(arms, runs, concurrency=in_flight, duration_s=closed_s)
            spent = 2 * time.monotonic() - began > end and number + 1 >= _SLOW_ROUNDS
            if spent or standing(runs) is not Standing.OPEN:
                break
        return runs

    # Verification.

    def _verify(self, outcome: Outcome) -> None:
        """Baseline, reference and tuned once more, on fresh arrival times, all at the same rate, in turns."""
        self._tell(Phase("verifying: baseline, reference and tuned in turns, on fresh samples"))
        reference_wire: Wire = "json" if self._wanted.wire == "json" else "binary"
        settings = {"baseline": _baseline("json"), "reference": _baseline(reference_wire), "tuned": outcome.settings}
        self._retire(*settings.values())
        arms = [self._arm(one) for one in settings.values()]
        outcome.accuracy = self._check(outcome.settings, seconds=10.0)
        if self._wanted.labels is not None:
            outcome.labels_accuracy = self._labels(settings)
        runs = {name: ArmRuns() for name in settings}
        left = max(self._began + self._wanted.budget_s - time.monotonic(), self._verify_s)
        throughput_s = min(6.0, 0.2 * left)
        needed_s = 1.15 * samples_needed(0.99) / self._rate
        open_s = min(max((left - throughput_s) / 3, needed_s), max(needed_s, _VERIFY_S)) / _VERIFY_ROUNDS
        every = 1 if self._capacity > _SLOW else 4  # a slow model takes long to empty after each block
        closed_s = every * throughput_s / (3 * _VERIFY_ROUNDS)
        for number in range(_VERIFY_ROUNDS):
            seed = self._wanted.seed * 1000 + 500 + number
            open_block(arms, list(runs.values()), rate=self._rate, duration_s=open_s, seed=seed)
            if number % every == 0:
                closed_block(arms, list(runs.values()), concurrency=_CONCURRENCY, duration_s=closed_s)
        outcome.arms = runs

    def _labels(self, settings: dict[str, Settings]) -> dict[str, float] | None:
        from tailcut.tuner.accuracy import labelled  # noqa: PLC0415  only tunes with labels want it

        found: dict[str, float] = {}
        labels = self._wanted.labels
        for name in ("baseline", "tuned"):
            target = self._serve(settings[name]).target
            answers = [infer_once(target, self._spec.name, request) for request in self._requests]
            share = None if labels is None else labelled(answers, labels)
            if share is None:
                return None
            found[name] = share
        return found


def _baseline(wire: Wire) -> Settings:
    return changed(BASELINE, batching={"bind": False}, io={"wire": wire})


def _judged(entry: dict[str, Any], runs: Sequence[ArmRuns], seed: int) -> tuple[dict[str, Any], bool]:
    old, new = runs
    entry = entry | percentiles_ms(new) | {"samples": len(new.latencies), "cost": new.spent.per_request()}
    entry["throughput"] = round(float(np.mean(new.throughputs)), 2) if new.throughputs else None
    if new.errors:
        return entry | {"verdict": "rejected", "reason": f"{new.errors} requests failed under load"}, False
    found = ratios(new, old, seed)
    if found.tail is None:
        return entry | {"verdict": "skipped", "reason": "too few samples at this rate: give more --budget"}, False
    said = judge(found)
    of, tail = found.tail
    entry |= {"tail_ratio": interval_record(tail), "ratio_of": of, "verdict": said.verdict.value, "reason": said.reason}
    entry["p99_ratio"] = entry["tail_ratio"] if of == "p99" else None
    entry["throughput_ratio"] = None if found.throughput is None else interval_record(found.throughput)
    if new.behind > len(new.blocks) // 2:
        entry["reason"] += "; the load client itself was late in most blocks"
        return entry | {"verdict": Verdict.INDISTINCT.value}, False
    return entry, said.keep
