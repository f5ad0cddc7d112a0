"""The --json output of commands that have no record in another package."""

from typing import Any

from tailcut.lab.records import Bounds, MachineFacts
from tailcut.machine.finding import Check
from tailcut.record import Record
from tailcut.tuner.catalogue import CatalogueSetting
from tailcut.tuner.result_records import TuneResult


class Applied(Record, frozen=True):
    """The environment file that `tailcut doctor --apply` wrote."""

    file: str
    variables: dict[str, str]


class DoctorResult(Record, frozen=True):
    """`tailcut doctor --json`."""

    checks: list[Check]
    applied: Applied | None
    machine: MachineFacts


class LadderRung(Record, frozen=True):
    """The settings of one rung."""

    name: str
    settings: list[CatalogueSetting]


class LadderResult(Record, frozen=True):
    """`tailcut ladder --json`."""

    rungs: list[LadderRung]


class ReadyModel(Record, frozen=True):
    """A model that is served."""

    name: str
    version: str


class ServeReady(Record, frozen=True):
    """`tailcut serve --json`: printed once, when the server is ready."""

    host: str
    port: int
    uds: str | None
    grpc_port: int | None
    tls: bool
    reuse_port: bool
    models: list[ReadyModel]


class MissingCount(Record, frozen=True):
    """Why a counter is unknown, and how to make it available."""

    reason: str
    remedy: str


class StatResult(Record, frozen=True):
    """`tailcut stat --json`."""

    command: list[str]
    exit_code: int  # negative: the number of the signal that ended the command
    counts: dict[str, float | None]  # by name; null if not counted
    user_ns: int
    system_ns: int
    user_only: bool  # hardware counts exclude the kernel
    missing: dict[str, MissingCount]


class ConvertResult(Record, frozen=True):
    """`tailcut convert --json`."""

    source: str
    target: str | None  # null if the outputs differ too much, and nothing was written
    what: str
    distance: float  # between the outputs of both models
    limit: float
    rows: int
    compared: list[str]  # the kinds of rows that were compared


class DemoAccuracy(Record, frozen=True):
    """The share of held-out samples classified correctly."""

    baseline: float
    tuned: float


class DemoArm(Record, frozen=True):
    """The load test of one server."""

    rate_offered: float
    samples: int
    errors: int
    client_behind: bool
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p99_interval_ms: Bounds | None
    throughput: float


class DemoLoad(Record, frozen=True):
    """The load test of both servers."""

    baseline: DemoArm
    tuned: DemoArm


class DemoResult(Record, frozen=True):
    """`tailcut demo --json`."""

    accuracy: DemoAccuracy
    load: DemoLoad
    tune: TuneResult
    profile: str
    report: str


class RayConfigResult(Record, frozen=True):
    """`tailcut ray config --json`."""

    name: str  # of the application
    file: str | None  # the file written, if any
    config: dict[str, Any]  # its content, in Serve's schema


class RayReplicasResult(Record, frozen=True):
    """`tailcut ray replicas --json`."""

    replicas: list[str]  # URLs of those that are ready


class RayHaproxyResult(Record, frozen=True):
    """`tailcut ray haproxy --json`: printed once, when haproxy runs, or with --output when the file is written."""

    bind: str
    file: str | None
    replicas: list[str]  # HOST:PORT of those that are ready then
