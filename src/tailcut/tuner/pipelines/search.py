"""A tune of a pipeline: its steps estimated one by one, then the race, the rungs and the verification of any tune."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from tailcut.engines.base import EngineOptions
from tailcut.engines.edits import benefits_from_int8
from tailcut.engines.files import ENGINES_OF, FileKind, kind_of
from tailcut.engines.graph import load_graph
from tailcut.errors import UsageError
from tailcut.lab.payload import encoded
from tailcut.machine.fingerprint import isa_flags
from tailcut.machine.quota import cpu_quota, usable_cpus
from tailcut.pipelines.engine import StageEngine
from tailcut.pipelines.loading import load_pipeline, parse_path
from tailcut.pipelines.stage import Stage
from tailcut.pipelines.steps import OpenStep
from tailcut.runtime.pipeline_settings import StepModelSettings
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.budget import SearchSize
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.estimate import estimate_engines, typical
from tailcut.tuner.events import Estimated, Event, Phase
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.journal import Journal, Key
from tailcut.tuner.json_wire import for_clients_of, not_json
from tailcut.tuner.learning import Arrays
from tailcut.tuner.model_space import estimate_entry
from tailcut.tuner.pipelines.estimating import StageCallTimes, alike, time_stage
from tailcut.tuner.pipelines.learning import OpenPipeline, learn_pipeline, untuned_profile
from tailcut.tuner.pipelines.space import (
    PROCESSES,
    configurations,
    kinds_of,
    model_ways,
    refinements,
    stage_ways,
    steps_of,
    thrifty,
    together,
    with_step_of,
)
from tailcut.tuner.pipelines.ways import Around, Way
from tailcut.tuner.records import TuneOutcome, TuneRequest
from tailcut.tuner.result_records import Candidate, CandidateVerdict, RowsDecision
from tailcut.tuner.search import Search
from tailcut.tuner.servers import TrialServers, confined_to
from tailcut.tuner.session import TuneSession, new_session, plan_of
from tailcut.tuner.space import SpaceFacts, changed, engine_choices

_LONE_CALLS = 12  # of the whole pipeline, to measure the time between its steps
_STAGES = 0.4  # of a step's share of the time for estimates, if it is a stage; all of it for the engines of a model
_ENGINES = 12  # engine configurations of each model, at most


@dataclass(frozen=True, slots=True)
class _Step:
    """A step with its inputs: either a stage or a model."""

    name: str
    opened: OpenStep
    inputs: Sequence[Arrays]
    stage: Stage | None
    model: StepModelSettings | None


class PipelineSpace:
    """The configurations of one pipeline."""

    def __init__(self, session: TuneSession, known: OpenPipeline) -> None:
        self._session = session
        self._known: OpenPipeline | None = known
        self._path = parse_path(str(session.wanted.model))
        pipeline = session.base.pipeline
        written = load_pipeline(self._path).steps
        self._steps = [
            _Step(
                step.name if isinstance(step, Stage) else str(step),
                opened,
                inputs,
                step if isinstance(step, Stage) else None,
                None if isinstance(step, Stage) or pipeline is None else pipeline.model(str(step)),
            )
            for step, opened, inputs in zip(written, known.model.entry.steps, known.inputs, strict=True)
        ]
        self._cpus = session.wanted.constraints.cpus_of(usable_cpus())
        self._alone_us: dict[str, float] = {}
        self._best: Settings | None = None  # by estimate

    @property
    def size(self) -> SearchSize:
        """How much of the space is worth measuring in process: each stage, and the engines of each model."""
        models = sum(step.model is not None for step in self._steps)
        return SearchSize(len(self._steps) - models + models * _ENGINES)

    def kinds(self, settings: Settings) -> list[tuple[object, int]]:
        """The groups of similar finalists that settings belong to, and how many of each may race."""
        return kinds_of(settings)

    @property
    def anyway(self) -> list[Settings]:
        """The pipeline as written, and all steps in one process: no estimate is a reason to drop them."""
        written = self._session.with_wire(self._session.plain_wire)
        return [written, *list(together(self._best or written, self._cpus))[:1]] if len(self._steps) > 1 else [written]

    def predicted(self) -> list[PredictedConfiguration]:
        """Every allowed configuration, with what is expected of it.

        Raises:
            UsageError: nothing is allowed, or no engine of a model could be measured.
            TailcutError: a stage fails on a request.
        """
        session = self._session
        session.tell(Phase(f"measuring {len(self._steps)} steps in process"))
        ways = {step.name: self._ways(step) for step in self._steps}
        hand_over_ns = self._hand_over_ns(ways)
        self.close()
        objective = session.outcome.objective
        around = Around(float(self._cpus), hand_over_ns, objective.limit_ms, objective.rate)
        predicted = list(configurations(session.with_wire(session.plain_wire), ways, around))
        self._best = max(predicted, key=objective.rank).settings if predicted else None
        session.tell(Phase(f"estimated {len(predicted):,} configurations"))
        session.tell(Estimated(len(predicted)))
        return session.allowed(predicted)

    def refinements(self, winner: Settings) -> list[Settings]:
        """Small changes of a configuration that only the real server can evaluate."""
        stages = [step.stage for step in self._steps if step.stage is not None]
        pinnable = 0 if cpu_quota() is not None or self._cpus != os.cpu_count() else self._cpus
        return refinements(winner, self._alone_us, stages, pinnable, self._cpus)

    def thrifty(self, winner: Settings) -> list[Settings]:
        """The winner with one process fewer in a stage, or with a model whose threads do not spin."""
        return thrifty(winner)

    def steps(self, winner: Settings) -> list[Settings]:
        """The pipeline as written with the winner's settings of its steps, of one more step in each."""
        climb = [self._session.with_wire(encoded(winner.io.wire))]
        for rung in self._session.outcome.rungs:
            climb.append(with_step_of(climb[-1], winner, rung.name))
        return climb[1:]

    def without(self, winner: Settings, rung: str) -> Settings:
        """The winner with one step as written."""
        return with_step_of(winner, self._session.base, rung)

    def rows_of(self, settings: Settings) -> RowsDecision:
        """Whether rows are independent: as decided for the untuned pipeline."""
        return self._session.learned.rows

    def take(self, outcome: TuneOutcome) -> None:
        """Do nothing: a pipeline has no copies of models."""

    def close(self) -> None:
        """Stop the processes of the untuned pipeline; servers have their own."""
        known, self._known = self._known, None
        if known is not None:
            known.model.close()

    # Estimates.

    def _ways(self, step: _Step) -> list[Way]:
        seconds = self._session.plan.estimate_s / len(self._steps)
        if step.stage is not None and step.opened.engine is not None:
            times = self._stage_times(step.opened.engine, step.inputs, _STAGES * seconds)
            self._alone_us[step.name] = times.times_ns[1] / 1e3
            self._report(step.name, times)
            return stage_ways(step.stage, times, self._cpus)
        assert step.model is not None  # noqa: S101  a step is one or the other
        estimates = self._engines(step, step.model, seconds)
        fixed = 0
        if step.model.file.endswith(".toml"):
            fixed = step.opened.model.profile.settings.batching.max_batch_size
        ways = model_ways(step.model, estimates, fixed)
        if not ways:
            raise UsageError(f"{step.model.file}: no engine configuration could be measured")
        return ways

    def _stage_times(self, engine: StageEngine, inputs: Sequence[Arrays], seconds: float) -> StageCallTimes:
        journal, name = self._session.journal, engine.stage.name
        stored = journal.stage(name)
        if stored is not None:
            self._session.outcome.reused += 1
            return StageCallTimes(*stored)
        times = time_stage(engine, alike(inputs), seconds)
        journal.add_stage(name, times.times_ns, times.cpu_ns, times.memory_bytes)
        return times

    def _report(self, name: str, times: StageCallTimes) -> None:
        size = min(times.times_ns, key=lambda rows: times.times_ns[rows] / rows)
        words = (
            f"{size / times.times_ns[size] * 1e9:,.0f} rows/s in one process, "
            f"{times.times_ns[1] / 1e3:,.0f} us for a lone row"
        )
        entry = Candidate.of(name, CandidateVerdict.ESTIMATED, f"{words}, {times.memory_bytes >> 20:,} MiB")
        self._session.candidate(name, entry)
        self._session.tell(Estimated(1))

    def _engines(self, step: _Step, model: StepModelSettings, seconds: float) -> list[EngineEstimate]:
        """Estimates of a model's engines, or of its profile's engine, measured with the inputs of this step."""
        session, file = self._session, self._path.file.parent / model.file
        if file.suffix == ".toml":
            profile = Profile.load(file)
            source, choices = profile.engine_file, [profile.settings.engine]
        else:
            source, choices = file, self._choices(step, file)
        batched = step.opened.model.spec.batched
        requests = typical(step.inputs, batched=batched)
        key = Key.of(source, requests, "auto") if session.wanted.journal else None
        journal = Journal(session.wanted.journal, key, fresh=session.wanted.fresh, warn=session.journal.warn)
        known = journal.estimates(choices)
        session.outcome.reused += len(known)
        missing = [choice for choice in choices if choice not in [each.options for each in known]]

        def store(estimate: EngineEstimate) -> None:
            journal.add_estimate(estimate)
            entry = estimate_entry(estimate, f"{model.file}: ")
            self._session.candidate(step.name, entry)
            session.tell(Estimated(1))

        if not missing:
            return known
        return known + estimate_engines(source, missing, requests, seconds=seconds, batched=batched, tell=store)

    def _choices(self, step: _Step, file: Path) -> list[EngineOptions]:
        kind = kind_of(file)
        facts = SpaceFacts(
            step.opened.model.spec,
            self._cpus,
            os.cpu_count() or 1,
            isa_flags(),
            cpu_quota() is not None,
            quantizable=kind is FileKind.ONNX and benefits_from_int8(load_graph(file)),
            lower_precision=self._session.wanted.data is not None and not self._session.gate.blind,
            engines=ENGINES_OF[kind],
        )
        return engine_choices(facts)[: min(_ENGINES, self._session.plan.engines)]

    def _hand_over_ns(self, ways: dict[str, list[Way]]) -> float:
        """What a lone request takes between steps: the pipeline's median minus the shortest lone call of each step."""
        known = self._known
        assert known is not None  # noqa: S101  it is closed after this
        taken = []
        for number in range(_LONE_CALLS):
            request = known.learned.requests[number % len(known.learned.requests)]
            began = time.perf_counter_ns()
            known.model.infer_sync(request)
            taken.append(time.perf_counter_ns() - began)
        steps_ns = sum(min(way.alone_ns for way in each) for each in ways.values())
        return max(0.0, float(np.median(taken)) - steps_ns)


def tune_pipeline(wanted: TuneRequest, tell: Callable[[Event], None]) -> TuneOutcome:
    """Tune a pipeline, FILE.py:VARIABLE.

    Args:
        wanted: what the user asked for.
        tell: called with each event, on the same thread.

    Raises:
        UsageError: there are no data, and a stage does not accept generated requests.
        TailcutError: the pipeline cannot be opened, rejects a request of the data, or cannot be served.
    """
    session, known = open_pipeline(wanted, tell)
    return Search(session, PipelineSpace(session, known)).run()


def open_pipeline(wanted: TuneRequest, tell: Callable[[Event], None]) -> tuple[TuneSession, OpenPipeline]:
    """Open a pipeline, and prepare its tune.

    Raises:
        TailcutError: as `tune_pipeline`.
    """
    plan = plan_of(wanted)
    known = learn_pipeline(wanted, plan.answers_s, tell)
    profile = untuned_profile(str(wanted.model))
    base = changed(profile.settings, io={"wire": "json" if wanted.wire == "json" else "binary"})
    learned = known.learned
    cpus = confined_to(wanted.constraints.cpus)
    servers = TrialServers(
        wanted.model, learned.spec, learned.requests, base=profile, cpus=cpus, warm_up_s=plan.warm_up_s
    )
    try:
        wanted = for_clients_of(wanted, not_json(servers.requests))
    except UsageError:
        known.model.close()
        raise
    ref = profile.model
    hashes = " ".join(step.sha256 for step in steps_of(base) if isinstance(step, StepModelSettings))
    session = new_session(
        wanted,
        tell,
        plan,
        learned,
        base=base,
        servers=servers,
        key=Key.of_ref(msgspec.structs.replace(ref, weights=hashes or None), learned.requests[:1], "auto")
        if wanted.journal
        else None,
        rungs=_rungs(str(wanted.model)),
        reference=False,
    )
    session.outcome.advice = known.advice
    return session, known


def _rungs(source: str) -> tuple[str, ...]:
    written = load_pipeline(parse_path(source)).steps
    names = [step.name if isinstance(step, Stage) else str(step) for step in written]
    return (*names, PROCESSES) if len(names) > 1 else tuple(names)
