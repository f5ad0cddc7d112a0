"""What `tailcut tune MODEL MODEL... --json` prints, as structs: the source of its JSON schema."""

from typing import Literal

from tailcut.lab.records import IntervalRecord, MachineFacts
from tailcut.record import Record
from tailcut.runtime.settings import Settings
from tailcut.tuner.result_records import ArmFigures, NoiseResult, NotKept, RowsDecision, TailRatio, TuneOptions


class JointRequest(TuneOptions, frozen=True):
    """The options of a tune of several models."""

    slo_ms: list[float | None]
    data: list[str | None]
    rates: list[float]
    trace: str | None


class JointObjective(JointRequest, frozen=True):
    """The options, and how long the tune took."""

    percentile: Literal["p99"]
    took_s: float
    interrupted: bool


class JointArm(ArmFigures, frozen=True):
    """One arm of the measurement of a model among others."""

    within: bool | None


class JointVerification(Record, frozen=True):
    """The engine's defaults and the joint settings of one model, measured under the load of all models."""

    baseline: JointArm
    tuned: JointArm
    p99_ratio: IntervalRecord | None
    tail_ratio: TailRatio | None = None  # of the highest percentile with enough samples
    no_ratio_because: str | None = None  # why `tail_ratio` is null; null if there are too few samples

    @property
    def arms(self) -> dict[str, JointArm]:
        """The arms by name."""
        return {"baseline": self.baseline, "tuned": self.tuned}


class JointModel(Record, frozen=True):
    """One of several models tuned together."""

    name: str
    path: str
    sha256: str
    inputs: list[str]
    outputs: list[str]
    arrivals: str
    rate: float
    slo_ms: float | None
    limit_ms: float | None
    rows: RowsDecision
    setting: str
    settings: Settings
    unchanged: bool  # nothing was gained for this model
    right: bool | None
    wrong: str | None
    verification: JointVerification | None
    profile: str | None
    not_kept: str | None = None  # the settings of `verification.tuned`, if the profile holds the defaults


class Combination(Record, frozen=True):
    """Settings for each of several models; `score` is the simulation's, None for the defaults, which it leaves out."""

    setting: str
    p99_ms: list[float | None]
    score: float | None
    raced: float | None
    alone: bool  # each model as tuned on its own


class RejectedCombination(Record, frozen=True):
    """A combination that was ruled out, and why."""

    setting: str
    reason: str


class JointResult(Record, frozen=True):
    """`tailcut tune MODEL MODEL... --json`."""

    models: list[JointModel]
    machine: MachineFacts
    objective: JointObjective
    command: str
    simulated: int
    combinations: list[Combination]
    rejected: list[RejectedCombination]
    verified: bool
    cpu_cores: dict[str, float] | None
    noise: NoiseResult | None
    report: str | None
    not_kept: NotKept | None = None
