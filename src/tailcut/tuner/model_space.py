"""The configurations that one model may be served with: engines and request overhead measured, and all of it simulated.

A thin shell. The settings to try are in `space`, the cost of a call in `estimate`, that of receiving and answering a
request in `ways`, and the prediction for a whole configuration in `prediction`.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from tailcut.engines import EngineOptions
from tailcut.engines.base import Form
from tailcut.engines.edits import benefits_from_int8
from tailcut.engines.files import ENGINES_OF, FileKind, kind_of
from tailcut.engines.graph import load_graph
from tailcut.engines.installed import is_installed
from tailcut.errors import TailcutError, UsageError
from tailcut.lab.payload import ask, encoded
from tailcut.machine.quota import usable_cpus
from tailcut.runtime.settings import Settings
from tailcut.spec import Rows
from tailcut.tuner.budget import SearchSize, ways_s
from tailcut.tuner.calibrate import CalibrationError, Copies, Copy, Material, copies_for
from tailcut.tuner.converted import onnx_copy
from tailcut.tuner.engine_estimate import NO_TIME, EngineEstimate
from tailcut.tuner.estimate import estimate_engines, typical
from tailcut.tuner.estimator import pack
from tailcut.tuner.events import Estimated, Phase
from tailcut.tuner.finalists import PredictedConfiguration, kinds_of
from tailcut.tuner.judging import Judging, Wrong
from tailcut.tuner.learning import facts_of
from tailcut.tuner.model_ways import SLOW_CALL_NS, ways_of, with_wiring
from tailcut.tuner.pixels import as_pixels
from tailcut.tuner.prediction import PredictionParts, configurations, predict
from tailcut.tuner.records import Rejected, TuneOutcome, precision_of
from tailcut.tuner.refinements import holds_weights_again, refinements
from tailcut.tuner.result_records import Candidate, CandidateVerdict, Quantized, RowsDecision
from tailcut.tuner.session import TuneSession
from tailcut.tuner.shapes import mix_of
from tailcut.tuner.simulate import Configuration, Ways
from tailcut.tuner.space import (
    BASELINE,
    INT8_FLAGS,
    RUNG_FIELDS,
    changed,
    copy_engines,
    engine_choices,
    quickest_wire,
    up_to,
    without,
)
from tailcut.wire.v2.call import model_path

_STATIC = "int8_static"
_SLOW = 10.0  # requests per second of the baseline
_ASKED = 48  # requests to check an engine with before it is measured: an error in one of ten is hardly missed


class ModelSpace:
    """The configurations of one model; `close` removes its copies.

    Args:
        session: of the tune; the baseline's server is running.
    """

    def __init__(self, session: TuneSession) -> None:
        self._session = session
        self._folder = tempfile.TemporaryDirectory(prefix="tailcut-")  # of the copies
        self.copies: dict[str, Copy] = {}
        self._ways: Ways | None = None
        self._counted: set[EngineOptions] = set()  # configurations counted in the progress so far
        self.facts = facts_of(session.wanted, session.learned)
        self._convert()
        self._take_previous_copy()
        self.estimates: list[EngineEstimate] = []

    @property
    def folder(self) -> Path:
        """The folder of the copies."""
        return Path(self._folder.name)

    @property
    def size(self) -> SearchSize:
        """How much of the space is worth measuring in process."""
        session = self._session
        copies = session.wanted.bound is not None and bool(self._unquantised)
        prepared_s = ways_s(session.servers.start_s) + (session.plan.calibrate_s if copies else 0.0)
        return SearchSize(len(engine_choices(self.facts)), prepared_s)

    @property
    def anyway(self) -> list[Settings]:
        """Nothing: the baseline is far from the best in all but the smallest spaces."""
        return []

    def kinds(self, settings: Settings) -> list[tuple[object, int]]:
        """The groups of similar finalists that settings belong to, and how many of each may race.

        Where a call takes long, where it is dispatched makes no difference.
        """
        quickest_ns = min((estimate.alone_ns for estimate in self.estimates if _is_known(estimate)), default=0.0)
        return kinds_of(settings, by_dispatch=quickest_ns < SLOW_CALL_NS)

    def predicted(self) -> list[PredictedConfiguration]:
        """Every allowed configuration, with what the simulation expects of it.

        Raises:
            UsageError: nothing could be measured, or nothing is allowed.
        """
        session, first = self._session, self._copies_first
        if first:
            self.calibrate()
        self.estimates = self._estimate(engine_choices(self.facts))
        if not first and self._unquantised and session.wanted.bound is not None:
            if session.plan.has_time_for_copies(time.monotonic(), session.servers.start_s):
                self.calibrate()
                copies = [options for options in engine_choices(self.facts) if options.precision == _STATIC]
                self.estimates += self._estimate(copies)
            else:
                session.tell(Phase("static int8 left out: the budget has no time for it after more promising settings"))
        return self._predict(self.estimates)

    @property
    def _copies_first(self) -> bool:
        """Whether static int8 is likely to win: for convolutions, on a processor that multiplies int8 fast."""
        return self._session.wanted.exhaustive or (self.facts.convolutions and bool(INT8_FLAGS & self.facts.isa))

    def refinements(self, winner: Settings) -> list[Settings]:
        """Small changes of a configuration that only the real server can evaluate."""
        limited = self._session.wanted.constraints.memory_bytes is not None
        return [
            refinement
            for refinement in refinements(self.facts, winner)
            if not (limited and holds_weights_again(refinement))
        ]

    def thrifty(self, winner: Settings) -> list[Settings]:
        """The winner without spinning threads: these occupy whole cores, often without a measurable gain."""
        engine = winner.engine
        spins = engine.name == "onnxruntime" and engine.spinning and engine.threads != 1
        return [changed(winner, engine={"spinning": False, "spin_us": 0})] if spins else []

    def steps(self, winner: Settings) -> list[Settings]:
        """The baseline with the winner's settings, one more rung of them in each step."""
        return [up_to(winner, rung, self._session.base) for rung in RUNG_FIELDS]

    def without(self, winner: Settings, rung: str) -> Settings:
        """The winner with the baseline's settings of one rung."""
        return without(winner, rung, self._session.base)

    def rows_of(self, settings: Settings) -> RowsDecision:
        """Whether rows are independent with these settings; unless the engine is the baseline's, as the server says."""
        session, base = self._session, self._session.base
        if (settings.engine.name, settings.engine.precision) == (base.engine.name, base.engine.precision):
            return session.learned.rows
        config = ask(session.servers.of(settings).target, "GET", f"{model_path(session.spec.name)}/config")
        rows, reason = (config["parameters"][name]["string_value"] for name in ("rows", "rows_reason"))
        batched = rows == Rows.INDEPENDENT
        return msgspec.structs.replace(session.learned.rows, rows=Rows(rows), batched=batched, reason=reason)

    def take(self, outcome: TuneOutcome) -> None:
        """Read the copy of the model that the outcome's settings use, before its folder is removed."""
        copy = self._session.servers.copy_of(outcome.settings.engine)
        if copy is not None:
            outcome.copy_bytes = copy.read_bytes()
        engine = outcome.settings.engine
        if engine.precision == _STATIC:
            made = self.copies.get(engine.name)
            outcome.copy = self._previous_record() if made is None else made.record()

    def close(self) -> None:
        """Remove the copies of the model."""
        self._folder.cleanup()

    def configurations(self) -> Mapping[Settings, Configuration]:
        """The input of the simulation, by settings."""
        known = [estimate for estimate in self.estimates if _is_known(estimate)]
        return {settings: result for settings, result, _ in configurations(known, self._parts())}

    def calibrate(self) -> None:
        """Make copies of the model in static int8 where they may pay, to be measured like other engines."""
        session = self._session
        seconds, engines = session.plan.calibrate_s, self._unquantised
        if not (seconds and engines) or session.wanted.bound is None:
            return
        session.tell(Phase("quantising the model to static int8 with the data"))
        try:
            model = session.servers.converted or session.wanted.model
            material = Material.of(model, session.requests, session.gate)
        except CalibrationError as error:
            session.tell(Phase(f"static int8 left out: {error}"))
            return
        copies = copies_for(material, engines, self.folder, seconds, lambda words: session.tell(Phase(words)))
        self.copies = copies.right
        self._note_wrong(copies, material)
        made = {name: copy.path for name, copy in (copies.wrong | copies.right).items()}
        session.servers.copies = {**session.servers.copies, **made}
        right = frozenset(copy.engine for copy in copies.right.values())
        self.facts = replace(self.facts, copies=self.facts.copies | right)

    @property
    def _unquantised(self) -> list[Form]:
        """The engines for which a copy in static int8 may pay, and that have none yet."""
        return [engine for engine in copy_engines(self.facts) if engine not in self._session.servers.copies]

    def _take_previous_copy(self) -> None:
        """Use the copy of the profile to re-check: a new copy would be another model."""
        previous, name = self._session.wanted.previous, self._previous_engine
        if previous is None or previous.model.quantized is None or name is None:
            return
        self._session.servers.copies = {name: Path(previous.model.quantized.path)}
        if name in copy_engines(self.facts):
            self.facts = replace(self.facts, copies=frozenset({name}))

    @property
    def _previous_engine(self) -> Form | None:
        """The engine of the profile to re-check, if it uses a copy in static int8."""
        settings = self._session.wanted.previous_settings
        if settings is None or settings.engine.precision != _STATIC:
            return None
        return "openvino" if settings.engine.name == "openvino" else "onnxruntime"

    def _previous_record(self) -> Quantized | None:
        """The record of its copy in the profile to re-check."""
        previous = self._session.wanted.previous
        evidence = {} if previous is None else previous.evidence
        try:
            return msgspec.convert({"worst": None} | evidence.get("quantized", {}), Quantized)
        except (msgspec.ValidationError, TypeError):
            return None

    def _convert(self) -> None:
        """Convert a PyTorch program to ONNX, so that the engines of ONNX models compete with PyTorch."""
        session = self._session
        if self.facts.device != "cpu" or kind_of(session.wanted.model) is not FileKind.PROGRAM:
            return
        others = [name for name in ENGINES_OF[FileKind.ONNX] if is_installed(name)]
        previous = session.wanted.previous
        own = None if previous is None else previous.model.converted
        try:
            path = (
                Path(own.path)
                if own is not None
                else onnx_copy(session.wanted.model, self.folder, session.wanted.fixed)
            )
        except TailcutError as error:
            session.tell(Phase(f"onnxruntime and openvino left out: {error}"))
            return
        session.servers.converted = path
        gains = benefits_from_int8(load_graph(path))
        self.facts = replace(self.facts, engines=(*self.facts.engines, *others), quantizable=gains)
        session.tell(Phase(f"converted the program to ONNX, for {' and '.join(others)}"))

    def _note_wrong(self, copies: Copies, material: Material) -> None:
        """Have copies that answer wrongly timed in process, so that they can be offered."""
        for copy in copies.wrong.values():
            bound = material.accepting(copy.answers)
            if bound is not None:
                facts = replace(self.facts, copies=frozenset({copy.engine}))
                options = next(choice for choice in engine_choices(facts) if choice.precision == _STATIC)
                settings = msgspec.structs.replace(self._session.base, engine=options)
                self._session.rejected[copy.engine, _STATIC] = Rejected(settings, copy.accuracy, bound)

    def _estimate(self, choices: list[EngineOptions]) -> list[EngineEstimate]:
        session, whole = self._session, self._session.wanted.exhaustive
        longer = max(1.0, len(choices) / session.plan.engines) if whole else 1.0
        if session.outcome.capacity < _SLOW:  # there may be time for few of them: those that answer soonest first
            choices = sorted(choices, key=lambda options: -(options.threads or usable_cpus()))
        choices = choices if whole else choices[: session.plan.engines]
        measured = [estimate.options for estimate in self.estimates]
        offered = [rejection.settings.engine for rejection in session.rejected.values()]
        choices = choices + [options for options in offered if options not in measured]
        # Each tune quantises its own static int8 copy, so earlier measurements do not apply to it.
        known = [estimate for estimate in session.journal.estimates(choices) if estimate.options.precision != _STATIC]
        session.outcome.reused += len(known)
        if known:
            session.tell(Phase(f"reusing {len(known)} of {len(choices)} estimates from {session.journal.name}"))
            session.tell(Estimated(len(known)))
        missing = [options for options in choices if options not in [estimate.options for estimate in known]]
        if not missing:
            return known
        session.tell(Phase(f"measuring {len(missing)} engine configurations in process"))
        seconds = session.plan.estimating_s(
            time.monotonic(), session.servers.start_s, len(missing), session.outcome.capacity
        )
        requests = typical(session.requests, batched=session.spec.batched)
        if session.wanted.normalize is not None:
            requests = [as_pixels(session.wanted.normalize, session.spec, request) for request in requests]
        return known + estimate_engines(
            session.wanted.model,
            missing,
            requests,
            seconds=min(longer * seconds, longer * session.plan.estimate_s * len(missing) / len(choices)),
            batched=session.spec.batched,
            independent=session.wanted.rows == "independent",
            whole=whole,
            copy_of=session.servers.copy_of,
            tell=self._report,
            store=self._store,
            judging=self._judging(),
        )

    def _judging(self) -> Judging:
        """What checks the answers of one configuration of each engine and precision before more time is spent on it."""
        session = self._session
        if session.gate.blind:
            return Judging()
        questions = session.gate.sample(_ASKED)
        inputs = [question.inputs for question in questions]
        if session.wanted.normalize is not None:
            inputs = [as_pixels(session.wanted.normalize, session.spec, request) for request in inputs]

        def judge(options: EngineOptions, answers: Sequence[Mapping[str, np.ndarray]]) -> Wrong | None:
            outputs = [dict(answer) for answer in answers]
            accuracy = session.gate.judge_engine(questions, outputs, options.outputs)
            if accuracy.right:
                return None
            reason = f"wrong answers: {accuracy.reason}"
            bound = session.gate.accepting(questions, outputs, options.outputs)
            settings = changed(session.base, engine=msgspec.structs.asdict(options))
            if bound is None:
                session.refused.add(settings)  # recorded by `_report` as an estimate that failed
            else:
                session.reject(settings, reason, "simd")
                session.rejected[precision_of(settings)] = Rejected(settings, accuracy, bound)
            return Wrong(reason, measured=bound is not None)

        known = {precision_of(session.base), *session.rejected}
        return Judging([pack(dict(request)) for request in inputs], judge, known)

    def _store(self, estimate: EngineEstimate) -> None:
        first = estimate.options not in self._counted
        if self._is_right(estimate):  # wrong answers are checked again by the next tune
            self._session.journal.add_estimate(estimate, whole=not first)
        if first:
            self._counted.add(estimate.options)
            self._session.tell(Estimated(1))

    def _report(self, estimate: EngineEstimate) -> None:
        if estimate.error != NO_TIME and self._is_right(estimate):
            self._session.journal.add_estimate(estimate)
        self._session.candidate("simd", estimate_entry(estimate))
        if estimate.options not in self._counted:
            self._session.tell(Estimated(1))

    def _is_right(self, estimate: EngineEstimate) -> bool:
        kind = (str(estimate.options.name), str(estimate.options.precision))
        return kind not in self._session.rejected or kind[1] == _STATIC

    def _parts(self) -> PredictionParts:
        if self._ways is None:
            self.facts = with_wiring(self._session, self.facts)
            self._ways = ways_of(self._session, self.facts, [each for each in self.estimates if _is_known(each)])
        session = self._session
        mix = mix_of(session.requests, batched=session.spec.batched)
        return PredictionParts(self.facts, self._ways, float(usable_cpus()), session.wanted.rows, mix)

    def _predict(self, estimates: Sequence[EngineEstimate]) -> list[PredictedConfiguration]:
        session = self._session
        known = [estimate for estimate in estimates if _is_known(estimate)]
        if not known:
            raise UsageError("no engine configuration could be measured")
        predictions = list(predict(known, self._parts(), session.outcome.objective))
        for rejection in session.rejected.values():
            rejection.predicted = [each for each in predictions if each.settings.engine == rejection.settings.engine]
        predicted = [each for each in predictions if precision_of(each.settings) not in session.rejected]
        allowed = session.allowed(predicted)
        left_out = len(predicted) - len(allowed)
        words = f", {left_out:,} left out for needing more memory than allowed" if left_out else ""
        session.tell(Phase(f"simulated {len(predicted):,} configurations{words}"))
        session.tell(Estimated(len(predicted)))
        return allowed

    @property
    def wire(self) -> Settings:
        """The baseline with the fastest encoding that clients may send."""
        return self._session.with_wire(encoded(quickest_wire(self.facts)))


def estimate_entry(estimate: EngineEstimate, prefix: str = "") -> Candidate:
    """The record of a configuration measured in process; `prefix` precedes its settings."""
    settings = msgspec.structs.replace(BASELINE, engine=estimate.options)
    setting = prefix + (settings.describe() or "the engine's defaults")
    if estimate.error:
        no_time = estimate.error == NO_TIME
        verdict = CandidateVerdict.SKIPPED if no_time else CandidateVerdict.REJECTED
        return Candidate.of(setting, verdict, estimate.error)
    words = f"{estimate.rows_per_s:,.0f} rows/s in process, {estimate.alone_ns / 1e3:,.0f} us for a lone row"
    return Candidate.of(setting, CandidateVerdict.ESTIMATED, f"{words}, {estimate.memory_bytes >> 20:,} MiB")


def _is_known(estimate: EngineEstimate) -> bool:
    return estimate.error is None and bool(estimate.sizes)
