"""The state that the phases of one tune share: the model, its servers, the outcome so far, and the event callback."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tailcut.engines.files import default_engine
from tailcut.errors import UsageError
from tailcut.lab.describe import labels_of_data
from tailcut.lab.fork_server import FAST_PATH, SERVER, prepare
from tailcut.lab.payload import Wire
from tailcut.machine.quota import usable_cpus
from tailcut.runtime.samples import kinds_of
from tailcut.runtime.settings import Settings
from tailcut.spec import ModelSpec
from tailcut.tuner.accuracy import Accuracy
from tailcut.tuner.budget import TimePlan
from tailcut.tuner.estimate import typical
from tailcut.tuner.events import CandidateDone, Event, Phase
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.gate import Gate
from tailcut.tuner.journal import Journal, Key
from tailcut.tuner.json_wire import for_clients_of, not_json
from tailcut.tuner.learning import MOST_REQUESTS, Arrays, Learned, learn, with_signature
from tailcut.tuner.objective import Objective
from tailcut.tuner.previous import over_limits
from tailcut.tuner.racing import LEAST_BLOCK_S, RaceLoad, Racing
from tailcut.tuner.records import Rejected, RungRecord, TuneOutcome, TuneRequest
from tailcut.tuner.result_records import Candidate, CandidateVerdict
from tailcut.tuner.servers import TrialServers, confined_to
from tailcut.tuner.space import BASELINE, RUNG_FIELDS, changed


@dataclass(slots=True)
class TuneSession:
    """One tune.

    Args:
        wanted: what the user asked for.
        tell: called with each event, on the same thread.
        plan: how the time is spent.
        learned: signature, rows, requests and accuracy gate.
        base: the baseline's settings, for clients that send JSON, or binary tensors if JSON cannot represent the data.
        servers: the running servers.
        journal: where measurements are stored.
        outcome: what is known so far.
        racing: runs heats for the objective.
        compared: what the verification measures in addition to the tuned settings, by name; the baseline first.
        rejected: settings that answered wrongly and would be accepted by a looser bound, one per engine and precision.
        refused: settings that answered wrongly, or could not be served.
    """

    wanted: TuneRequest
    tell: Callable[[Event], None]
    plan: TimePlan
    learned: Learned
    base: Settings
    servers: TrialServers
    journal: Journal
    outcome: TuneOutcome
    racing: Racing
    compared: dict[str, Settings]
    rejected: dict[tuple[str, str], Rejected] = field(default_factory=dict)
    refused: set[Settings] = field(default_factory=set)
    _whole_checks: dict[Settings, tuple[float, Accuracy]] = field(default_factory=dict)  # with the seconds each took

    @property
    def spec(self) -> ModelSpec:
        """The model's signature."""
        return self.learned.spec

    @property
    def requests(self) -> list[Arrays]:
        """What clients send."""
        return self.learned.requests

    @property
    def gate(self) -> Gate:
        """The accuracy gate."""
        return self.learned.gate

    def with_wire(self, wire: Wire) -> Settings:
        """The baseline for clients that send another encoding, which its server accepts as well."""
        return changed(self.base, io={"wire": wire})

    @property
    def plain_wire(self) -> Wire:
        """The encoding that works for every model: binary, unless clients send only JSON."""
        return "json" if self.wanted.wire == "json" else "binary"

    def describe(self, settings: Settings) -> str:
        """How settings differ from the baseline's."""
        return settings.describe(self.base) or "the baseline's settings"

    @property
    def racing_rung(self) -> str:
        """The rung under which the configurations that raced are listed."""
        names = [rung.name for rung in self.outcome.rungs]
        return "parallelism" if "parallelism" in names else names[0]

    def candidate(self, rung: str, entry: Candidate, *, kept: bool = False) -> None:
        """Record a candidate in a rung, and report it; the one that is kept is only reported."""
        if not kept:
            next(record for record in self.outcome.rungs if record.name == rung).candidates.append(entry)
        self.tell(CandidateDone(rung, entry))

    def reject(self, settings: Settings, reason: str, rung: str = "") -> None:
        """Record that settings answer wrongly or cannot be served, by default in the first rung."""
        self.refused.add(settings)
        entry = Candidate.of(self.describe(settings), CandidateVerdict.REJECTED, reason)
        self.candidate(rung or self.outcome.rungs[0].name, entry)

    def check(self, settings: Settings, seconds: float, *, whole: bool = False) -> Accuracy:
        """Check the answers of a server, with as many requests in flight as it can answer in the time.

        A check that sent every request and took longer than `seconds` is not repeated as a whole one: another one would
        send the same requests.

        Raises:
            ServeError: the server does not start.
        """
        took_s, known = self._whole_checks.get(settings, (0.0, None))
        target, together = self.servers.of(settings).target, self.in_flight(seconds)
        if whole and known is not None and took_s >= seconds:
            return known
        began = time.monotonic()
        accuracy = self.gate.check(target, settings, seconds, together, whole=whole)
        if whole or accuracy.whole:
            self._whole_checks[settings] = time.monotonic() - began, accuracy
        return accuracy

    def in_flight(self, seconds: float) -> int:
        """How many requests may be in flight during a check of this many seconds."""
        return max(4, int(2 * seconds * self.outcome.capacity)) if self.outcome.capacity else 16

    def finalists(self, count: int) -> int:
        """How many of this many finalists there is time to start."""
        return self.plan.finalists(time.monotonic(), self.servers.start_s, count)

    def allowed(self, predicted: Sequence[PredictedConfiguration]) -> list[PredictedConfiguration]:
        """The configurations that the user's limits allow; a profile to re-check is rejected if it exceeds them.

        Raises:
            UsageError: the limits allow no configuration.
        """
        constraints, previous = self.wanted.constraints, self.wanted.previous_settings
        over = "" if previous is None else over_limits(previous, constraints, predicted, usable_cpus())
        if previous is not None and over:
            self.outcome.previous_unserved = over
            self.reject(previous, over)
        allowed = constraints.allowed(predicted)
        if not allowed:
            least = min(prediction.memory_bytes for prediction in predicted) / 1e6
            raise UsageError(f"--memory: the smallest configuration needs about {least:,.0f} MB: allow more")
        return allowed


def plan_of(wanted: TuneRequest) -> TimePlan:
    """The plan of a tune that begins now, or began at `wanted.began`."""
    return TimePlan(time.monotonic() if wanted.began is None else wanted.began, wanted.budget_s)


def open_session(wanted: TuneRequest, tell: Callable[[Event], None]) -> TuneSession:
    """Open a model, and prepare its tune.

    Raises:
        TailcutError: the model cannot be opened, or rejects a request of the data.
    """
    plan = plan_of(wanted)
    prepare(SERVER + FAST_PATH)  # import what servers need while the model is opened
    wanted = with_signature(wanted.inherited())
    learned = learn(wanted, plan.answers_s, tell)
    spec, requests = learned.spec, learned.requests
    own = () if wanted.previous is None else wanted.previous.samples
    answered = [question.inputs for question in learned.gate.plain]
    samples = own if wanted.data is None else kinds_of(spec, requests, answered)
    batching = {"bind": False, "rows": wanted.rows}
    engine: dict[str, Any] = {
        "name": default_engine(wanted.model),
        "fixed_dims": wanted.fixed,
        "signature": wanted.declared,
    }
    confined = confined_to(wanted.constraints.cpus)
    if confined is not None:
        engine["threads"] = len(confined)  # the engine's own choice on these CPUs; kept in the profile
    servers = TrialServers(wanted.model, spec, requests, samples, cpus=confined, warm_up_s=plan.warm_up_s)
    beyond_json = not_json(servers.requests)
    wanted = for_clients_of(wanted, beyond_json)
    if beyond_json:
        tell(Phase(f"{beyond_json}: the baseline is sent binary tensors"))
    base = changed(BASELINE, engine=engine, batching=batching, io={"wire": "binary" if beyond_json else "json"})
    return new_session(
        wanted,
        tell,
        plan,
        learned,
        base=base,
        servers=servers,
        key=_key(wanted, typical(requests, batched=spec.batched), confined),
        rungs=tuple(RUNG_FIELDS),
        reference=not beyond_json,
    )


def _key(wanted: TuneRequest, requests: Sequence[Arrays], confined: tuple[int, ...] | None) -> Key | None:
    """The key of the journal's lines; servers confined to fewer CPUs count as another machine."""
    if wanted.journal is None:
        return None
    key = Key.of(wanted.model, requests, wanted.rows)
    return key if confined is None else replace(key, machine=f"{key.machine} cpus:{len(confined)}")


def new_session(  # noqa: PLR0913  the parts that differ between a model and a pipeline
    wanted: TuneRequest,
    tell: Callable[[Event], None],
    plan: TimePlan,
    learned: Learned,
    *,
    base: Settings,
    servers: TrialServers,
    key: Key | None,
    rungs: Sequence[str],
    reference: bool,
) -> TuneSession:
    """A session with nothing measured yet.

    Args:
        wanted, tell, plan, learned, base, servers: as in `TuneSession`.
        key: of the journal's lines; None to store nothing.
        rungs: their names, in order.
        reference: whether to verify the baseline with `plain_wire` as well; not if the baseline has that wire anyway.
    """
    wanted = replace(wanted, labels=_labels(wanted, learned.spec))
    objective = Objective(wanted.kind, wanted.slo_ms or float("inf"), wanted.rate or 0.0)
    records = [RungRecord(name) for name in rungs]
    kept = wanted.previous_settings or base
    outcome = TuneOutcome(learned.spec, kept, objective.rate, records, learned.rows, objective, base)
    outcome.random_outputs = learned.gate.random_outputs
    outcome.samples, outcome.previous = servers.samples, wanted.previous_settings
    warn = functools.cache(lambda words: tell(Phase(words)))  # once, for a file with the journals of several models
    journal = Journal(wanted.journal, key, fresh=wanted.fresh, warn=warn)
    racing = Racing(objective, RaceLoad((1, 16), LEAST_BLOCK_S), outcome.noise, journal)
    session = TuneSession(wanted, tell, plan, learned, base, servers, journal, outcome, racing, {"baseline": base})
    if reference:
        session.compared["reference"] = session.with_wire(session.plain_wire)
    return session


def _labels(wanted: TuneRequest, spec: ModelSpec) -> np.ndarray | None:
    """The labels of the requests: by default the data's array `labels`, unless the model has an input of that name."""
    if wanted.data is None:
        return wanted.labels
    labels = wanted.labels
    if labels is None and "labels" not in spec.input_names:
        labels = wanted.data.get("labels")
    return None if labels is None else labels_of_data(spec, wanted.data, labels, MOST_REQUESTS)
