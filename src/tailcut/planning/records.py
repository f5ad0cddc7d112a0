"""What `tailcut plan` prints with --json, as structs: the source of its JSON schema.

A field that is None is null in the JSON: it was not asked for, or its value is unknown.
"""

from tailcut.record import Record


class PlannedFigures(Record, frozen=True):
    """Expected figures at a rate."""

    rate: float  # requests per second
    p50_ms: float | None  # null if more requests are refused than the percentile allows
    p99_ms: float | None
    at_ms: float | None  # the limit's own percentile
    goodput: float  # answers within the limit, per second
    utilisation: float | None  # of the cores, 0 to 1; null for one model among several
    within: bool


class PlannedModel(Record, frozen=True):
    """One model and its load."""

    name: str
    profile: str
    rate: float
    percentile: str
    limit_ms: float
    lone_ms: float  # the percentile of requests that never overlap
    threads: int  # that compute a batch
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
    """Expected figures at the planned rate when replicas are lost."""

    lost: int
    replicas: int
    in_flight: float  # mean number of requests that are lost with each replica
    predicted: PlannedFigures


class Price(Record, frozen=True):
    """The cost of the replicas."""

    per_replica_hour: float
    per_hour: float
    per_month: float  # 730 hours
    per_million: float | None  # answers within the limit, at the planned rate


class ScalingMoment(Record, frozen=True):
    """A part of the recording with an autoscaler."""

    at_s: float
    rate: float
    replicas: float
    at_ms: float | None
    missed: float  # requests per second that were not answered within the limit


class Autoscaled(Record, frozen=True):
    """The result of an autoscaler that follows the recording."""

    metric: str
    target: float
    saturated: float  # utilisation of a replica with a queue at all times: a higher target is never reached
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
    fixed_replica_hours: float  # with the planned number at all times
    highest: int
    changes: int
    course: list[ScalingMoment]


class Assumptions(Record, frozen=True):
    """What the figures are based on."""

    headroom: float
    failures: int
    routing: str
    hedge_ms: float | None
    hedged_share: float
    arrivals: str
    workers: int  # server processes of a replica
    cores_per_replica: float
    capacity: float | None  # requests per second that a replica was measured to answer at most
    capacity_workers: int | None  # its number of server processes; null without a measured capacity
    simulated: bool  # it has more than one machine, which no measurement covers
    largest_simulation: int  # servers; more are assumed to be no worse at the same load per server
    seed: int
    notes: list[str]


class PlanResult(Record, frozen=True):
    """`tailcut plan --json`."""

    models: list[PlannedModel]
    replicas: int
    needed: int  # without the ones that may be lost
    workers: int  # server processes of all replicas
    cores: float
    gpus: int
    predicted: PlannedFigures  # of all models together; latencies: of the one nearest to its limit, or furthest over it
    stressed: PlannedFigures  # at the rate with headroom, with the allowed number of replicas lost
    curve: list[CapacityPoint]
    losses: list[Loss]
    price: Price | None
    autoscaling: Autoscaled | None
    assumptions: Assumptions
    command: str
