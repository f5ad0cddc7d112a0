"""The request for a tune and its outcome: the values that the parts of a tune exchange."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from tailcut.engines.base import U8Input
from tailcut.lab.records import SaturatedLoop
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
    slo_ms: float | None = None  # limit of p99
    budget_s: float = 120.0
    bound: float | None = 0.999  # None: exact
    metric: Metric | None = None  # replaces the built-in measures
    wire: Literal["json", "binary", "any"] = "any"
    seed: int = 0
    rows: RowsSetting = "auto"  # the setting `batching.rows` of every configuration
    objective: ObjectiveKind | None = None  # None: latency if only a rate is given, else goodput
    constraints: Constraints = field(default_factory=Constraints)
    journal: Path | None = None  # where estimates and trials are stored
    fresh: bool = False  # reuse nothing from the journal
    exhaustive: bool = False  # race the whole product of the space
    previous: Profile | None = None  # to re-check
    normalize: U8Input | None = None  # clients may send pixels, which are normalised like this
    outputs: tuple[str, ...] = ()  # that clients read; empty: all
    fixed: tuple[str, ...] = ()  # dimensions that always have the same size, as in `EngineOptions.fixed_dims`
    local: bool = False  # clients run on this machine
    device: Literal["cpu", "cuda"] = "cpu"
    declared: tuple[str, ...] = ()  # signature of a file that has none, as `EngineOptions.signature`
    max_batch_size: int | None = None  # a limit for all configurations
    began: float | None = None  # start of the budget on the monotonic clock; None: when the search begins

    def inherited(self) -> "TuneRequest":
        """The same, with options that the user did not give taken from the profile to re-check.

        Its clients keep sending pixels, or reading only some outputs, after this tune.
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
        """The settings of the profile to re-check."""
        return None if self.previous is None else self.previous.settings

    @property
    def kind(self) -> ObjectiveKind:
        """The objective, either given or derived from the other options."""
        if self.objective is not None:
            return self.objective
        return "latency" if self.rate is not None and self.slo_ms is None else "goodput"


@dataclass(slots=True)
class RungRecord:
    """The outcome of a rung: a note, the candidates tried, and the settings kept."""

    name: str
    note: str | None = None
    candidates: list[Candidate] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LabelledShares:
    """The share of rows that each arm labels correctly, by arm, and the number of requests sent."""

    shares: dict[str, float]
    requests: int


@dataclass(slots=True)
class Rejected:
    """Settings that were rejected for their accuracy alone.

    Args:
        settings: whose answers are too far off.
        accuracy: of the answers.
        bound: the `--accuracy` that would accept them.
        predicted: what the simulation expects of all configurations with this engine.
    """

    settings: Settings
    accuracy: Accuracy
    bound: float
    predicted: Sequence[PredictedConfiguration] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """Settings that a looser `--accuracy` would accept, and their expected gain.

    Args:
        settings, accuracy, bound: as in `Rejected`.
        p50_ratio: the expected median of a lone request relative to the tuned settings.
        rate_ratio: the expected rate within the limit, likewise.
    """

    settings: Settings
    accuracy: Accuracy
    bound: float
    p50_ratio: float
    rate_ratio: float


@dataclass(frozen=True, slots=True)
class Equal:
    """One of several settings that are equal by the objective, and the resources it uses.

    Args:
        settings: that raced.
        alone_ms: the median latency with one connection.
        cpu_us: CPU time per request at the rate of the verification; None if unknown.
        memory_bytes: the server's peak memory; None if unknown.
    """

    settings: Settings
    alone_ms: float
    cpu_us: float | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class TieBreak:
    """Which of several settings that are equal by the objective was chosen, and why."""

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
    rows: RowsDecision  # whether rows are independent, so that requests are batched, and why
    objective: Objective = field(default_factory=Objective)
    base: Settings = field(default_factory=Settings)  # of the baseline
    tie_break: TieBreak | None = None  # if several were equal by the objective
    offers: Sequence[Offer] = ()  # settings that a looser bound would accept
    estimated: Sequence[PredictedConfiguration] = ()
    contested: bool = False  # whether a race began
    raced: dict[Settings, float] = field(default_factory=dict)  # scores on the real server
    accuracies: dict[Settings, float] = field(default_factory=dict)  # of those that raced, measured by the gate
    race_winner: Settings | None = None  # before refinements
    reused: int = 0  # estimates taken from the journal
    capacity: float = 0.0  # of the baseline, requests per second
    own_limit: bool = True  # the limit is the baseline's own p99 at `rate`
    overloaded: frozenset[str] = frozenset()  # arms that cannot sustain the rate of the verification
    clients: int = 16  # in flight in the closed loops of the verification
    memory_peaks: dict[str, int] = field(default_factory=dict)  # bytes, of each arm's server
    cpus_used: float | None = None  # by the server of the kept settings at its highest load, if CPUs are limited
    noise: Noise = field(default_factory=Noise)
    previous: Settings | None = None  # of the re-checked profile
    previous_wrong: str = ""  # what they answer wrongly
    previous_unserved: str = ""  # why they could not be served or checked
    arms: dict[str, ArmRuns] = field(default_factory=dict)
    highest: HighestRate | None = None
    saturated: SaturatedLoop | None = None
    not_kept: NotKept | None = None  # the settings of `arms["tuned"]`, if others are kept instead
    accuracy: Accuracy | None = None
    labels: LabelledShares | None = None  # of the baseline and the tuned settings
    copy: Quantized | None = None  # of the model in static int8, if the settings use one
    copy_bytes: bytes = b""
    advice: str = ""  # what may help against wrong answers
    random_outputs: tuple[str, ...] = ()  # drawn at random by the model itself, and not compared
    samples: tuple[SampleRequest, ...] = ()  # kinds of requests in the data
    interrupted: bool = False
    took_s: float = 0.0

    def replace_settings(self, settings: Settings, note: str) -> None:
        """Keep other settings, and discard what is known of the former ones.

        Args:
            settings: to keep.
            note: for the rungs, whose effects were measured with the former settings.
        """
        self.settings = settings
        self.accuracy = self.labels = self.tie_break = None
        for rung in self.rungs:
            if rung.kept:
                rung.kept.clear()
                rung.note = note

    @property
    def unchanged(self) -> bool:
        """Whether nothing was gained: the settings are the baseline's, or those of the re-checked profile.

        The wire does not count: clients choose it, and every server accepts all encodings.
        """
        before = self.base if self.previous is None else self.previous
        return with_wire(self.settings, before.io.wire) == before

    @property
    def nothing_won(self) -> bool:
        """Whether the user stopped it before anything raced, or while a re-checked profile's settings are unchanged."""
        return self.interrupted and (not self.contested or (self.previous is not None and self.unchanged))

    @property
    def wrong(self) -> str:
        """What the verification found wrong, in one line with settings and request; empty if nothing is wrong."""
        if self.accuracy is None or self.accuracy.right:
            return ""
        settings = self.settings.describe() or "the default settings"
        return f"wrong answers with {settings}: {self.accuracy.reason}{self.advice}"


def with_wire(settings: Settings, wire: Literal["json", "binary", "raw", "shared"]) -> Settings:
    """The settings for clients that send another encoding."""
    return msgspec.structs.replace(settings, io=msgspec.structs.replace(settings.io, wire=wire))


def precision_of(settings: Settings) -> tuple[str, str]:
    """Engine and precision; for a pipeline, of its first model in a lower precision."""
    engines = [settings.engine]
    if settings.pipeline is not None:
        engines = [model.engine for model in settings.pipeline.models if model.engine is not None] or engines
    engine = next((engine for engine in engines if engine.precision != "f32"), engines[0])
    return engine.name, engine.precision
