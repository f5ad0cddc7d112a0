"""What a tune is asked for, and what it comes to: the values that its parts hand to one another."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from tailcut.engines.base import U8Input
from tailcut.lab.trial import ArmRuns
from tailcut.runtime.profile import Profile
from tailcut.runtime.rows import RowsSetting
from tailcut.runtime.samples import SampleRequest
from tailcut.runtime.settings import Settings
from tailcut.spec import ModelSpec
from tailcut.tuner.accuracy import Accuracy, Metric
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.noise import Noise
from tailcut.tuner.objective import Constraints, Objective, ObjectiveKind
from tailcut.tuner.result_records import Candidate, HighestRate, NotKept, Quantized, RowsDecision


@dataclass(frozen=True, slots=True)
class TuneRequest:
    """What the user asked for."""

    model: Path
    data: dict[str, np.ndarray] | None = None
    labels: np.ndarray | None = None  # None: the array `labels` of the data, where that is not an input
    rate: float | None = None
    slo_ms: float | None = None  # what p99 has to meet
    budget_s: float = 120.0
    bound: float | None = 0.999  # None: exact
    metric: Metric | None = None  # in place of the built-in measures
    wire: Literal["json", "binary", "any"] = "any"
    seed: int = 0
    rows: RowsSetting = "auto"  # of every profile that is tried
    objective: ObjectiveKind | None = None  # None: latency where only a rate is given, else goodput
    constraints: Constraints = field(default_factory=Constraints)
    journal: Path | None = None  # where estimates and trials are stored
    fresh: bool = False  # take nothing over from there
    exhaustive: bool = False  # race the whole product of the space
    previous: Profile | None = None  # that is to be checked again
    normalize: U8Input | None = None  # clients may send pixels, which the model wants so
    outputs: tuple[str, ...] = ()  # that clients want; empty: all
    fixed: tuple[str, ...] = ()  # dimensions that always have the same size, as in `EngineOptions.fixed_dims`
    local: bool = False  # clients run on this machine
    device: Literal["cpu", "cuda"] = "cpu"
    declared: tuple[str, ...] = ()  # inputs and outputs of a file that does not say them, as `EngineOptions.signature`
    max_batch_size: int | None = None  # that no batch exceeds, whatever is faster
    began: float | None = None  # on the monotonic clock; None: when the search begins

    def inherited(self) -> "TuneRequest":
        """The same, with what the user leaves open as a profile that is checked again has it.

        Its clients send pixels, or read some outputs, after this tune as well.
        """
        if self.previous is None:
            return self
        engine, rows = self.previous.settings.engine, self.previous.settings.batching.rows
        return replace(
            self,
            rows=rows if self.rows == "auto" else self.rows,
            normalize=self.normalize or engine.u8_input,
            outputs=self.outputs or engine.outputs,
            fixed=self.fixed or engine.fixed_dims,
            declared=self.declared or engine.signature,
        )

    @property
    def previous_settings(self) -> Settings | None:
        """Of the profile that is to be checked again."""
        return None if self.previous is None else self.previous.settings

    @property
    def kind(self) -> ObjectiveKind:
        """The objective, whether it was named or follows from what was."""
        if self.objective is not None:
            return self.objective
        return "latency" if self.rate is not None and self.slo_ms is None else "goodput"


@dataclass(slots=True)
class RungRecord:
    """What a rung came to."""

    name: str
    note: str | None = None
    candidates: list[Candidate] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LabelledShares:
    """The share of the requests that each arm labels rightly, and how many it was asked."""

    shares: dict[str, float]
    requests: int


@dataclass(slots=True)
class Rejected:
    """Settings that were rejected for their accuracy alone.

    Args:
        settings: that answer too far off.
        accuracy: how far.
        bound: the `--accuracy` that accepts them.
        predicted: what the simulation expects of them, served in one way or another.
    """

    settings: Settings
    accuracy: Accuracy
    bound: float
    predicted: Sequence[PredictedConfiguration] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """Settings that a looser `--accuracy` would accept, and what they would bring.

    Args:
        settings, accuracy, bound: as in `Rejected`.
        p50_ratio: the expected median of a lone request to that of the tuned settings.
        rate_ratio: the expected rate within the limit, likewise.
    """

    settings: Settings
    accuracy: Accuracy
    bound: float
    p50_ratio: float
    rate_ratio: float


@dataclass(frozen=True, slots=True)
class Equal:
    """One of several settings that are equal by the objective, and what it takes of the machine.

    Args:
        settings: that raced.
        alone_ms: the median at one connection.
        cpu_us: CPU time of a request at the rate of the verification; None where it is unknown.
        memory_bytes: the most that the server held; None where it is unknown.
    """

    settings: Settings
    alone_ms: float
    cpu_us: float | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class TieBreak:
    """Why one of several settings was chosen that are equal by the objective."""

    chosen: Settings
    reason: str
    equals: tuple[Equal, ...]


@dataclass(slots=True)
class TuneOutcome:
    """Everything a tune found, for the result and the profile."""

    spec: ModelSpec
    settings: Settings
    rate: float
    rungs: list[RungRecord]
    rows: RowsDecision  # whether requests are batched, and why
    objective: Objective = field(default_factory=Objective)
    base: Settings = field(default_factory=Settings)  # of the baseline
    tie_break: TieBreak | None = None  # where several were equal by the objective
    offers: Sequence[Offer] = ()  # what a looser bound would bring
    estimated: Sequence[PredictedConfiguration] = ()
    contested: bool = False  # whether a race began
    raced: dict[Settings, float] = field(default_factory=dict)  # scores on the real server
    accuracies: dict[Settings, float] = field(default_factory=dict)  # of what raced, as the gate compared its answers
    race_winner: Settings | None = None  # before refinements
    reused: int = 0  # estimates that an earlier tune left
    capacity: float = 0.0  # of the baseline, requests per second
    own_limit: bool = True  # the limit is the baseline's own p99 at `rate`
    overloaded: frozenset[str] = frozenset()  # arms that cannot carry the rate of the verification
    clients: int = 16  # in flight in the closed loops of the verification
    memory_peaks: dict[str, int] = field(default_factory=dict)  # bytes, of each arm's server
    cpus_used: float | None = None  # by the server of what is kept, at its highest load, where they are limited
    noise: Noise = field(default_factory=Noise)
    previous: Settings | None = None  # that were checked again
    previous_wrong: str = ""  # what they answer wrongly
    previous_unserved: str = ""  # why they could not be served, or asked
    arms: dict[str, ArmRuns] = field(default_factory=dict)
    highest: HighestRate | None = None
    not_kept: NotKept | None = None  # the settings that `arms["tuned"]` ran, where others were taken instead
    accuracy: Accuracy | None = None
    labels: LabelledShares | None = None  # of the baseline and the tuned settings
    copy: Quantized | None = None  # of the model, in static int8, where the settings run one
    copy_bytes: bytes = b""
    advice: str = ""  # what may help against wrong answers
    random_outputs: tuple[str, ...] = ()  # that the model itself draws at random, so that they were not compared
    samples: tuple[SampleRequest, ...] = ()  # kinds of requests in the data
    interrupted: bool = False
    took_s: float = 0.0

    def replace_settings(self, settings: Settings, note: str) -> None:
        """Take other settings, and leave out what was said of those before.

        Args:
            settings: to keep.
            note: of the rungs, whose effects were measured with the settings before.
        """
        self.settings = settings
        self.accuracy = self.labels = self.tie_break = None
        for rung in self.rungs:
            if rung.kept:
                rung.kept.clear()
                rung.note = note

    @property
    def unchanged(self) -> bool:
        """Whether nothing was kept: the server runs the baseline's settings, or those of the profile checked again.

        The wire does not count: it is what clients send, and every server answers all of them.
        """
        before = self.base if self.previous is None else self.previous
        return with_wire(self.settings, before.io.wire) == before

    @property
    def nothing_won(self) -> bool:
        """Whether the user stopped it before anything raced, or while the profile checked again has its settings."""
        return self.interrupted and (not self.contested or (self.previous is not None and self.unchanged))

    @property
    def wrong(self) -> str:
        """What the verification found wrong, in one line that names settings and request; empty where nothing is."""
        if self.accuracy is None or self.accuracy.right:
            return ""
        settings = self.settings.describe() or "the default settings"
        return f"wrong answers with {settings}: {self.accuracy.reason}{self.advice}"


def with_wire(settings: Settings, wire: Literal["json", "binary", "raw", "shared"]) -> Settings:
    """The settings for clients that send another encoding."""
    return msgspec.structs.replace(settings, io=msgspec.structs.replace(settings.io, wire=wire))


def precision_of(settings: Settings) -> tuple[str, str]:
    """Engine and precision; of a pipeline those of its first model in a lower precision."""
    engines = [settings.engine]
    if settings.pipeline is not None:
        engines = [model.engine for model in settings.pipeline.models if model.engine is not None] or engines
    engine = next((engine for engine in engines if engine.precision != "f32"), engines[0])
    return engine.name, engine.precision
