"""The climb itself: opens the model, starts servers, runs trials and asks the ladder what to make of them.

A thin shell: what is tried stands in `rungs`, what is kept in `ladder`, what is right in `accuracy`, what is shown in
whoever listens to the events.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tailcut.engines import open_engine
from tailcut.errors import TailcutError, UsageError
from tailcut.lab.client import closed_loop
from tailcut.lab.describe import lengths_of, made_up_inputs, rows_of_data
from tailcut.lab.payload import Wire, infer_once, infer_payload
from tailcut.lab.trial import Arm, ArmRuns, ServedProfile, ServeError, closed_block, open_block
from tailcut.machine.fingerprint import isa_flags
from tailcut.machine.quota import quota, usable_cpus
from tailcut.runtime.profile import Profile, Settings
from tailcut.spec import ModelSpec
from tailcut.stats import (
    Interval,
    Sample,
    Verdict,
    paired_ratio_interval,
    percentile,
    ratio_interval,
    samples_needed,
    verdict,
)
from tailcut.tuner.accuracy import Accuracy, Outputs, compare
from tailcut.tuner.events import CandidateDone, CandidateStarted, Event, Phase, RungDone, RungStarted
from tailcut.tuner.ladder import Ladder, judge
from tailcut.tuner.rungs import BASELINE, RUNGS, Candidate, Facts, Rung, changed, starting_settings

Arrays = dict[str, np.ndarray]
_PAYLOADS = 32  # distinct requests sent in turn
_CHECKED = 64  # requests whose answers are compared before a candidate is timed
_CHECK_S = 1.5  # and no longer than so
_CONCURRENCY = 16  # in flight when throughput is measured
_LOAD = 0.5  # of the baseline's capacity: the rate offered where the user names none
_VERIFY_SHARE = 0.35  # of the budget
_SCREEN_BLOCKS = 2
_BLOCKS = 10
_BLOCK_SAMPLES = 100  # in each, for a p99 of its own to mean something
_THROUGHPUT_BLOCKS = 5
_CANDIDATE_S = 5.0  # a fast model gains nothing from longer trials
_QUANTILES = (("p99", 0.99), ("p95", 0.95), ("p50", 0.5))


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
        self._spec, self._requests, self._reference = self._open_model()
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
        outcome = Outcome(self._spec, ladder.best, self._rate, self._records)
        try:
            self._measure_rate()
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
        self._tell(Phase("reading the model and its right answers"))
        engine = open_engine(wanted.model, BASELINE.engine)
        try:
            if wanted.data is not None:
                requests = rows_of_data(engine.spec, wanted.data, 2048)
            else:
                requests = [made_up_inputs(engine.spec, wanted.seed + number) for number in range(_CHECKED)]
            return engine.spec, requests, [engine.run(request) for request in requests[:_CHECKED]]
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
            server = ServedProfile(Profile.of_model(self._wanted.model, key, self._spec.name))
            server.start()
            self._servers[key] = server
        return server

    def _retire(self, *keep: Settings) -> None:
        keys = {changed(settings, io={"wire": "binary"}) for settings in keep}
        for key in [key for key in self._servers if key not in keys]:
            self._servers.pop(key).stop()

    def _arm(self, settings: Settings, wire: Wire | None = None) -> Arm:
        server = self._serve(settings)
        return Arm(server.target, self._payloads(wire or settings.io.wire))

    def _measure_rate(self) -> None:
        self._tell(Phase("measuring what the baseline can carry"))
        baseline = _baseline("json")
        arm = self._arm(baseline)
        found = closed_loop(arm.target, arm.payloads, concurrency=_CONCURRENCY, duration_s=2.0, warmup_s=0.5)
        if not found.samples:
            raise UsageError(f"the baseline answers no request rightly: {found.errors}")
        if not self._rate:
            self._rate = float(f"{_LOAD * found.rate_achieved:.3g}")
        self._verify_s = max(self._verify_s, 3 * 1.15 * samples_needed(0.99) / self._rate + 8)
        self._tell(Phase(f"the baseline carries {found.rate_achieved:,.0f} req/s; offering {self._rate:,.6g} to all"))

    # Rungs.

    def _climb(self, ladder: Ladder, number: int, rung: Rung) -> None:
        record = RungRecord(rung.name)
        self._records.append(record)
        offered = sum(len(group) for group in rung.offer(self._facts, ladder.best))
        self._tell(RungStarted(rung.name, offered))
        # A rung that overruns loses its own last candidates, never those of the rungs behind it.
        left_s = self._trial_end() - time.monotonic()
        rung_end = time.monotonic() + left_s * offered / max(1, offered + ladder.left(number))
        for candidate in ladder.candidates(rung):
            share = (rung_end - time.monotonic()) / max(1, offered - len(record.candidates))
            self._tell(CandidateStarted(rung.name, candidate.setting))
            entry, keep = self._try(ladder.best, candidate, share)
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
        return self._began + self._wanted.budget_s - min(self._verify_s, 0.7 * self._wanted.budget_s)

    def _try(self, best: Settings, candidate: Candidate, share_s: float) -> tuple[dict[str, Any], bool]:
        """Check, time and judge one candidate; returns its record and whether it stays."""
        entry: dict[str, Any] = {
            "setting": candidate.setting,
            **dict.fromkeys(("p50_ms", "p95_ms", "p99_ms", "throughput", "p99_ratio", "ratio_of")),
            "samples": 0,
        }
        if share_s < 1.0:
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
        left = max(0.6, min(_CANDIDATE_S, share_s - (time.monotonic() - began)))
        runs = self._trial(arms, left)
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
        """Blocks in turns: best, candidate, best, ...; stops early when the median is plainly worse."""
        runs = [ArmRuns(), ArmRuns()]
        throughput_s = min(0.3 * seconds, 2.0) / (2 * _THROUGHPUT_BLOCKS)
        block_s = max(0.1, (seconds / 2 - _THROUGHPUT_BLOCKS * throughput_s) / _BLOCKS)
        seed = self._wanted.seed * 1000
        for number in range(_BLOCKS):
            open_block(arms, runs, rate=self._rate, duration_s=block_s, seed=seed + number)
            if number + 1 == _SCREEN_BLOCKS and _plainly_worse(runs):
                return runs
        for _ in range(_THROUGHPUT_BLOCKS):
            closed_block(arms, runs, concurrency=_CONCURRENCY, duration_s=throughput_s)
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
        blocks = 8
        needed_s = 1.15 * samples_needed(0.99) / self._rate
        block_s = min(max((left - throughput_s) / 3, needed_s), max(needed_s, 12.0)) / blocks
        for number in range(blocks):
            seed = self._wanted.seed * 1000 + 500 + number
            open_block(arms, list(runs.values()), rate=self._rate, duration_s=block_s, seed=seed)
        for _ in range(_THROUGHPUT_BLOCKS):
            closed_block(
                arms,
                list(runs.values()),
                concurrency=_CONCURRENCY,
                duration_s=throughput_s / (3 * _THROUGHPUT_BLOCKS),
            )
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


def _plainly_worse(runs: Sequence[ArmRuns]) -> bool:
    with contextlib.suppress(TailcutError):
        old, new = ([Sample.of(block) for block in run.blocks] for run in runs)
        return verdict(ratio_interval(new, old, 0.5, resamples=300), 0.15) is Verdict.WORSE
    return False


def tail_ratio(new: ArmRuns, old: ArmRuns, seed: int, *, paired: bool = False) -> tuple[str, Interval] | None:
    """The ratio of the highest percentile that both samples can tell, and which one that is; None below 7 samples.

    Of all blocks together, by bootstrap; or `paired`: of each block's own percentile against its neighbour's, so that a
    stall of the machine in one block spoils that pair and not the whole comparison.
    """
    sizes = [len(run.latencies) for run in (new, old)]
    for name, q in _QUANTILES:
        if min(sizes) >= samples_needed(q):
            if paired and min(len(block) for run in (new, old) for block in run.blocks) >= _BLOCK_SAMPLES:
                own = [[percentile(Sample.of(block), q) for block in run.blocks] for run in (new, old)]
                return name, paired_ratio_interval(*own)
            with contextlib.suppress(TailcutError):
                blocks = [[Sample.of(block) for block in run.blocks] for run in (new, old)]
                return name, ratio_interval(blocks[0], blocks[1], q, seed=seed)
            joined = [[Sample.of(run.latencies)] for run in (new, old)]  # blocks of a single sample: one block instead
            return name, ratio_interval(joined[0], joined[1], q, seed=seed)
    return None


def throughput_ratio(new: ArmRuns, old: ArmRuns) -> Interval | None:
    """The ratio of requests a second, new to old, of paired closed-loop blocks; None where there are under three."""
    if min(len(run.throughputs) for run in (new, old)) < 3 or not all(new.throughputs + old.throughputs):
        return None
    return paired_ratio_interval(new.throughputs, old.throughputs)


def percentiles_ms(run: ArmRuns) -> dict[str, float | None]:
    """p50, p95 and p99 where the sample can tell them."""
    found: dict[str, float | None] = {}
    for name, q in reversed(_QUANTILES):
        known = len(run.latencies) >= samples_needed(q)
        found[f"{name}_ms"] = round(percentile(Sample.of(run.latencies), q), 4) if known else None
    return found


def _judged(entry: dict[str, Any], runs: Sequence[ArmRuns], seed: int) -> tuple[dict[str, Any], bool]:
    old, new = runs
    speed = throughput_ratio(new, old)
    entry = entry | percentiles_ms(new) | {"samples": len(new.latencies)}
    entry["throughput"] = round(float(np.mean(new.throughputs)), 2) if new.throughputs else None
    if new.errors:
        return entry | {"verdict": "rejected", "reason": f"{new.errors} requests failed under load"}, False
    tail = tail_ratio(new, old, seed, paired=len(new.blocks) >= _BLOCKS)
    if tail is None:
        return entry | {"verdict": "skipped", "reason": "too few samples at this rate: give more --budget"}, False
    of, ratio = tail
    found = judge(ratio, speed, of)
    entry |= {"p99_ratio": _record(ratio), "ratio_of": of, "verdict": found.verdict.value, "reason": found.reason}
    if new.behind > len(new.blocks) // 2:
        entry["reason"] += "; the load client itself was late in most blocks"
        return entry | {"verdict": Verdict.INDISTINCT.value}, False
    return entry, found.keep


def _record(interval: Interval) -> dict[str, float]:
    return {"point": round(interval.point, 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}
