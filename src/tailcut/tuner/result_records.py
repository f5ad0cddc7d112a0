"""What `tailcut tune` prints with --json, as structs: the source of its JSON schema.

This module has the structs for one model and for a comparison of profiles; those for several models are in
`together/result_records.py`. None is null in the JSON: the value is unknown. A key that is UNSET is left out: the user
did not ask for it.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal, Self

from msgspec import UNSET, UnsetType

from tailcut.lab.records import Bounds, Cost, IntervalRecord, MachineFacts, SaturatedLoop
from tailcut.record import Record
from tailcut.runtime.rows import RowDecision, RowsSetting
from tailcut.runtime.settings import Settings
from tailcut.spec import ModelSpec, Rows, TensorSpec
from tailcut.stats import Verdict

Percentile = Literal["p50", "p95", "p99"]
ArmName = Literal["baseline", "reference", "previous"]  # of a verification, other than the tuned one


class TunedModel(Record, frozen=True):
    """The model and its signature."""

    name: str
    path: str
    sha256: str
    inputs: list[str]
    outputs: list[str]

    @classmethod
    def of(cls, spec: ModelSpec, name: str, path: str, sha256: str) -> Self:
        """The record of a model with this signature."""
        return cls(name, path, sha256, described(spec.inputs), described(spec.outputs))


def described(tensors: Sequence[TensorSpec]) -> list[str]:
    """Each tensor in a line: name, dtype and shape."""
    return [f"{tensor.name} {tensor.describe()}" for tensor in tensors]


class TuneOptions(Record, frozen=True):
    """The command-line options that all kinds of tune have."""

    memory_bytes: int | None
    cpus: int | None
    accuracy: str
    metric: str | None
    wire: Literal["json", "binary", "any"]
    normalize: str | None
    outputs: str | None
    fix: str | None
    local: bool
    device: Literal["cpu", "cuda"]
    budget_s: float
    seed: int


class ModelRequest(TuneOptions, frozen=True):
    """The options of a tune of one model."""

    slo_ms: float | None
    data: str | None


class TuneObjective(ModelRequest, frozen=True):
    """The options, and what the tune derived from them."""

    percentile: Literal["p99"]
    kind: Literal["goodput", "latency", "throughput", "cost"]
    limit_ms: float | None
    rate: float
    took_s: float
    interrupted: bool


class RowsEvidence(Record, frozen=True):
    """What one source shows about whether rows are independent."""

    rows: Rows
    reason: str


class RowsDecision(Record, frozen=True):
    """Whether requests are batched, and why."""

    rows: Rows
    batched: bool
    reason: str
    setting: RowsSetting
    evidence: dict[str, RowsEvidence]

    @classmethod
    def of(cls, decision: RowDecision) -> Self:
        """The record of a decision, with the sources that were consulted."""
        sources = {"signature": decision.signature, "graph": decision.graph, "proof": decision.proof}
        evidence = {
            name: RowsEvidence(source.rows, source.reason) for name, source in sources.items() if source is not None
        }
        return cls(decision.rows, decision.batched, decision.reason, decision.user, evidence)


class CandidateVerdict(StrEnum):
    """What became of a configuration: the verdict of a comparison, or why there was none."""

    BETTER = "better"
    WORSE = "worse"
    INDISTINCT = "indistinct"
    ESTIMATED = "estimated"
    RACED = "raced"
    REJECTED = "rejected"
    SKIPPED = "skipped"


class Candidate(Record, frozen=True):
    """One configuration of a rung; null where it was not measured."""

    setting: str
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    throughput: float | None
    p99_ratio: IntervalRecord | None
    throughput_ratio: IntervalRecord | None
    tail_ratio: IntervalRecord | None
    ratio_of: Percentile | None
    samples: int
    cost: Cost | None
    verdict: CandidateVerdict
    reason: str

    @classmethod
    def of(cls, setting: str, verdict: str, reason: str, **measured: Any) -> Self:
        """A configuration of which only the given values are known; all others are None."""
        known: dict[str, Any] = dict.fromkeys(cls.__struct_fields__)
        known |= {"setting": setting, "samples": 0, "verdict": CandidateVerdict(verdict), "reason": reason}
        return cls(**known | measured)


class Rung(Record, frozen=True):
    """One rung of the ladder."""

    name: str
    note: str | None
    candidates: list[Candidate]
    kept: str | None


class EstimateRecord(Record, frozen=True):
    """One simulated configuration."""

    setting: str
    rate: float
    alone_ms: float
    cpu_us: float
    memory_bytes: int
    front: bool  # on the Pareto front: no other configuration is better in every respect
    raced: float | None  # its score on the real server
    accuracy: float | None = None  # of its answers: the metric, or the worst cosine; None if it did not race


class NoiseResult(Record, frozen=True):
    """How noisy the machine was."""

    quiet_share: float
    worst_gap_ms: float
    probes: int
    late_blocks: int
    repeated_blocks: int
    client_lateness_p99_ms: float | None


class ArmFigures(Record, frozen=True):
    """The figures of one arm of a measurement."""

    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p99_interval_ms: Bounds | None
    samples: int
    throughput: float | None
    rate_offered: float
    rate_achieved: float | None
    errors: int
    cost: Cost | None
    client_behind_blocks: int
    client_cpu: float | None  # cores that the load client kept busy in open blocks
    client_cpu_closed: float | None  # and in closed ones
    curve: list[tuple[float, float]]  # quantile, milliseconds


class VerifiedArm(ArmFigures, frozen=True):
    """One arm of a verification, with the memory of its server."""

    memory_peak_bytes: int | None


class TailRatio(IntervalRecord, frozen=True):
    """The ratio of the highest percentile that is known of both arms."""

    of: Percentile


class HighestRate(Record, frozen=True):
    """A rate that the tuned server sustains within the limit, and one that the baseline does not."""

    limit_ms: float
    baseline: float | None
    tuned: float
    p99_interval_ms: Bounds
    samples: int
    within: bool
    p99_ratio: IntervalRecord | None = (
        None  # to the baseline's p99 at the rate of the verification, if that is the limit
    )


class Verification(Record, frozen=True, kw_only=True):
    """Baseline, reference and tuned settings measured on fresh samples."""

    baseline: VerifiedArm
    baseline_wire: Literal["json", "binary"] = "json"  # encoding that its clients send
    reference: VerifiedArm | UnsetType = UNSET  # left out for a pipeline, and for a binary baseline
    tuned: VerifiedArm
    previous: VerifiedArm | UnsetType = UNSET
    reference_p99_ratio: IntervalRecord | None
    p99_ratio: IntervalRecord | None
    previous_p99_ratio: IntervalRecord | UnsetType | None = UNSET
    tail_ratio: TailRatio | None
    no_ratio_because: str | None = None  # why `tail_ratio` is null; null if there are too few samples
    clients: int
    cpu_ratio: IntervalRecord | None
    memory_within: bool | UnsetType = UNSET
    cpus_used: float | UnsetType = UNSET
    cpus_within: bool | UnsetType = UNSET
    throughput_ratio: IntervalRecord | None
    highest_rate: HighestRate | None
    saturated: SaturatedLoop | None = None
    slo_met: bool | UnsetType | None = UNSET

    @property
    def arms(self) -> dict[str, VerifiedArm]:
        """The arms that were measured, by name."""
        arms = {"baseline": self.baseline, "reference": self.reference, "tuned": self.tuned, "previous": self.previous}
        return {name: arm for name, arm in arms.items() if arm}


class Retune(Record, frozen=True):
    """What a repeated tune changed in a profile."""

    before: str
    after: str
    changed: dict[str, tuple[Any, Any]]  # the value before and after
    wrong: str | None  # what the settings of the profile answer wrongly
    unserved: str | None = None  # why the settings of the profile could not be served


class NotKept(Record, frozen=True):
    """Settings that were found and verified, but proven worse than those that the profile holds instead."""

    setting: str
    reason: str
    kept: ArmName  # the arm of the verification that ran the profile's settings


class EqualConfiguration(Record, frozen=True):
    """One of several configurations that are equal by the objective."""

    setting: str
    alone_ms: float | None
    cpu_us: float | None
    memory_bytes: int | None


class TieBreakResult(Record, frozen=True):
    """Which of several equal configurations was chosen, and why."""

    chosen: str
    reason: str
    equals: list[EqualConfiguration]


class OfferResult(Record, frozen=True):
    """Settings that a looser `--accuracy` would accept; ratios are expected values relative to the tuned settings."""

    setting: str
    engine: str
    precision: str
    p50_ratio: float
    rate_ratio: float
    accuracy: float  # the `--accuracy` that would accept them
    worst: float | None
    top1: float | None
    spread: float | None
    differing: float | None
    value: float | None


class WorstRow(Record, frozen=True):
    """One of the rows whose outputs differ most from the reference."""

    request: int
    row: int
    asked: str
    output: str
    measure: str
    found: str
    expected: str
    got: str


class AccuracyResult(Record, frozen=True):
    """How close the outputs are to the reference; a measure is null if it applies to no output."""

    metric: str
    right: bool
    reason: str
    requests: int
    worst: float | None
    top1: float | None
    spread: float | None
    differing: float | None
    value: float | None
    labels_accuracy: dict[str, float] | None
    random_outputs: list[str]
    worst_rows: list[WorstRow]
    labels_requests: int | None = None  # number of requests whose labels were compared


class Quantized(Record, frozen=True):
    """The quantised copy of the model."""

    engine: str
    method: str
    requests: int
    operators: int
    in_float: list[str]
    worst: float | None


class TuneResult(Record, frozen=True):
    """`tailcut tune MODEL --json`."""

    model: TunedModel
    machine: MachineFacts
    objective: TuneObjective
    command: str
    rows: RowsDecision
    rungs: list[Rung]
    estimated: list[EstimateRecord]
    winner: str | None
    reused_estimates: int
    noise: NoiseResult | None
    verification: Verification | None
    unchanged: bool  # nothing was gained: the settings are those of before
    tie_break: TieBreakResult | None
    offers: list[OfferResult]
    retune: Retune | None
    accuracy: AccuracyResult | None
    quantized: Quantized | None
    settings: Settings
    profile: str | None
    report: str | None
    trials: str | None
    not_kept: NotKept | None = None


class ComparedProfile(ArmFigures, frozen=True):
    """One profile of a comparison; ratios are to the first profile."""

    profile: str
    setting: str
    settings: Settings
    right: bool | None
    wrong: str | None
    unchanged: bool  # the same settings as the first profile
    ratios: dict[str, IntervalRecord]
    throughput_ratio: IntervalRecord | None
    verdict: Verdict | None
    reason: str
    slo_met: bool | UnsetType | None = UNSET


class ComparisonResult(Record, frozen=True):
    """`tailcut tune --compare --json`."""

    model: str
    machine: MachineFacts
    objective: ModelRequest
    command: str
    rate: float
    clients: int
    took_s: float
    noise: NoiseResult | None
    worse: bool
    profiles: list[ComparedProfile]
