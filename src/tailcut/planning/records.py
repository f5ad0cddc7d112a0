"""What `tailcut plan` prints with --json, as structs: the source of its JSON schema.

A key that is None is null in the JSON: it was not asked for, or its value is unknown.
"""

from tailcut.record import Record


class PlannedFigures(Record, frozen=True):
    """What is expected at a rate."""

    rate: float  # requests per second
    p50_ms: float | None  # null where more requests are refused than the percentile allows
    p99_ms: float | None
    at_ms: float | None  # the limit's own percentile
    goodput: float  # answers within the limit, per second
    utilisation: float | None  # of the cores, 0 to 1; null for one model among several
    within: bool


class PlannedModel(Record, frozen=True):
    """One model, and what it is asked."""

    name: str
    profile: str
    rate: float
    percentile: str
    limit_ms: float
    lone_ms: float  # the percentile of requests that never meet each other
    threads: int  # of a batch
    max_batch_size: int
    measured_in: str  # the file with the service times
    exact: bool  # false: measured before the last changes of the engine's settings
    predicted: PlannedFigures


class CapacityPoint(Record, frozen=True):
    """The highest rate at which this many replicas meet the limit."""

    replicas: int
    cores: float
    rate: float


class Loss(Record, frozen=True):
    """What is left when replicas are lost, at the planned rate."""

    lost: int
    replicas: int
    in_flight: float  # mean number of requests that go with each lost replica
    predicted: PlannedFigures


class Price(Record, frozen=True):
    """What the replicas cost."""

    per_replica_hour: float
    per_hour: float
    per_month: float  # of 730 hours
    per_million: float | None  # answers within the limit, at the planned rate


class ScalingMoment(Record, frozen=True):
    """A part of the recording."""

    at_s: float
    rate: float
    replicas: float
    at_ms: float | None
    missed: float  # requests per second that were not answered within the limit


class Autoscaled(Record, frozen=True):
    """What an autoscaler made of the recording."""

    metric: str
    target: float
    saturated: float  # utilisation of a replica that always has more to do: a target above it is never reached
    every_s: float
    start_s: float
    down_s: float
    least: int
    most: int
    requests: int
    missed: int  # not answered within the limit
    missed_share: float
    at_ms: float | None
    replica_hours: float
    fixed_replica_hours: float  # of the planned number all the time
    highest: int
    changes: int
    course: list[ScalingMoment]


class Assumptions(Record, frozen=True):
    """What the figures rest on."""

    headroom: float
    failures: int
    routing: str
    hedge_ms: float | None
    hedged_share: float
    arrivals: str
    workers: int  # server processes of a replica
    cores_per_replica: float
    capacity: float | None  # requests per second that a replica was measured to answer at most
    capacity_workers: int | None  # that it had; null where none was measured
    simulated: bool  # more than one machine: no measurement of this machine covers it
    largest_simulation: int  # servers; more are taken to be no worse at the same load for each
    seed: int
    notes: list[str]


class PlanResult(Record, frozen=True):
    """`tailcut plan --json`."""

    models: list[PlannedModel]
    replicas: int
    needed: int  # without those that may be lost
    workers: int  # server processes of all replicas
    cores: float
    gpus: int
    predicted: PlannedFigures  # of all models together: latencies of the one nearest to its limit, or furthest over it
    stressed: PlannedFigures  # at the rate with headroom, with as many replicas lost as may be
    curve: list[CapacityPoint]
    losses: list[Loss]
    price: Price | None
    autoscaling: Autoscaled | None
    assumptions: Assumptions
    command: str
