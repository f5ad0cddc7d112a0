"""The plan of one Ray Serve application, and the deployment options that follow from it. Pure."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from tailcut.durations import parse_latency
from tailcut.errors import UsageError

DEPLOYMENT = "tailcut"  # the name of the deployment in its application
POLICY = "tailcut.ray.policy:replicas"
# How often Serve checks whether its own requests to a stopping replica are done; only then is the replica stopped.
_CHECK_S = 1.0
_DEADLINE_S = 30.0  # of `tailcut serve`, where the options give none
_END_S = 5.0  # for a server's process to exit, after its drain and the deadline of the last request that it accepted
_LEAVE_S = 5.0  # for the replica's own process to exit after that
_HEALTH_S, _HEALTH_LIMIT_S = 2.0, 10.0
_HTTP = {"host": "127.0.0.1", "port": 8000}  # of Serve's own proxies, which would otherwise be open to the network
_REPORTED_S = 10.0  # Serve's time between two reports of a replica, which has to be shorter than the window
_SURGE_PERCENT = 25  # replicas that a rolling update may start before it stops others, rounded up


def _check_at_least(name: str, value: float, least: int) -> None:
    if not least <= value < math.inf:
        raise ValueError(f"{name} must be at least {least}, not {value:g}")


def _check_above_0(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be greater than 0, not {value:g}")


class Replicas(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many replicas there are, and when replicas are added or removed."""

    least: int = 1  # not 0: clients send requests to replicas directly, so nothing would start the first one
    most: int = 1
    up_s: float = 10.0  # for how long more replicas must be needed before any is added
    down_s: float = 300.0  # for how long fewer must suffice before any is removed
    window_s: float = 30.0  # over which the requests in flight are averaged

    def __post_init__(self) -> None:
        """Check that the numbers and durations are valid."""
        if self.least == 0:
            raise ValueError(
                "replicas must be at least 1: clients send requests to replicas directly, so nothing would start the "
                "first one"
            )
        if not 1 <= self.least <= self.most:
            raise ValueError(f"replicas must be at least 1 and at most MAX, not {self.least} to {self.most}")
        for name, value in (("up_s", self.up_s), ("down_s", self.down_s)):
            _check_at_least(name, value, 0)
        _check_above_0("window_s", self.window_s)

    @property
    def fixed(self) -> bool:
        """Whether the number of replicas never changes."""
        return self.least == self.most


class CarriedLoad(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The load that one replica sustains."""

    most_ongoing: int = 64  # how many unanswered requests Serve sends to a replica at most
    target_ongoing: float = 16.0  # requests in flight per replica
    rate: float | None = None  # requests per second within the limit; None: not measured
    ongoing: float | None = None  # requests in flight at this rate, on average
    limit: str | None = None  # the latency limit that these figures hold for, as p99=10ms

    def __post_init__(self) -> None:
        """Check that the limits are positive."""
        _check_at_least("max_ongoing_requests", self.most_ongoing, 1)
        _check_above_0("target_ongoing_requests", self.target_ongoing)


class ApplicationPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An application of Ray Serve.

    Args:
        sources: profiles, models or pipelines, as `tailcut serve` takes them.
        multiplexed: the same by the id that requests name, for replicas that load them on demand.
        models_per_replica: how many of those a replica keeps loaded at most.
        revision: hash of the files; a change replaces all replicas.
        cpus, gpus, memory_bytes: what one replica needs; memory 0: unknown, so that none is reserved.
        exclusive: at most one replica on each node, because the settings bind threads to cores.
        carried: the load that a replica sustains.
        replicas: how many there are.
        host: address that servers listen on; None: the address of the node.
        drain_s: how many seconds a stopping server still accepts requests, so that clients learn that it is leaving.
        options: further options of `tailcut serve`.
        token_file: file with the token that every request needs; None: none is needed.
        devices: indices of the CUDA devices that the profiles name, ascending. Ray leaves a replica as many devices as
            it has GPUs, whose indices begin at 0.
    """

    sources: tuple[str, ...] = ()
    multiplexed: dict[str, str] = {}
    models_per_replica: int = 3
    revision: str = ""
    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0
    exclusive: bool = False
    carried: CarriedLoad = CarriedLoad()
    replicas: Replicas = Replicas()
    host: str | None = None
    drain_s: float = 5.0
    options: tuple[str, ...] = ()
    token_file: str | None = None
    devices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that there is something to serve, and that the numbers are valid."""
        if bool(self.sources) == bool(self.multiplexed):
            raise ValueError("an application has either sources or multiplexed models")
        _check_at_least("models_per_replica", self.models_per_replica, 1)
        _deadline_s(self.options)
        for name in ("cpus", "gpus", "memory_bytes", "drain_s"):
            _check_at_least(name, getattr(self, name), 0)

    @property
    def stop_s(self) -> float:
        """How long a server may take to stop: its drain, the deadline of the last request accepted, and its exit."""
        return self.drain_s + _deadline_s(self.options) + _END_S


def _deadline_s(options: Sequence[str]) -> float:
    """The time limit of requests that set none, by the options of `tailcut serve`.

    Raises:
        UsageError: it is not a duration.
    """
    text = ""
    for number, option in enumerate(options):
        name, equals, value = option.partition("=")
        if name == "--deadline":
            text = value if equals else "".join(options[number + 1 : number + 2])
    return parse_latency(text, "--deadline") if text else _DEADLINE_S


def parse_replicas(text: str, name: str) -> Replicas:
    """A number of replicas, or MIN:MAX.

    Args:
        text: what the user wrote.
        name: name of the option, for the message.

    Raises:
        UsageError: it is neither.
    """
    least, colon, most = text.partition(":")
    if not least.isdecimal() or (colon and not most.isdecimal()):
        raise UsageError(f"{name}: {text!r} is neither a number nor a range: write 2 or 1:4")
    try:
        return Replicas(least=int(least), most=int(most or least))
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def read_plan(values: dict[str, Any]) -> ApplicationPlan:
    """A plan from the `args` of an application in a YAML file.

    Raises:
        UsageError: they are not what `tailcut ray config` writes.
    """
    try:
        return msgspec.convert(values, ApplicationPlan)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"args of tailcut.ray:build: {error}: write them with tailcut ray config") from None


def deployment_options(plan: ApplicationPlan) -> dict[str, Any]:
    """The options of the deployment, as `serve.deployment` and a YAML file take them."""
    resources: dict[str, Any] = {"num_cpus": plan.cpus, "num_gpus": plan.gpus}
    if plan.memory_bytes:
        resources["memory"] = plan.memory_bytes
    options: dict[str, Any] = {
        "ray_actor_options": resources,
        "max_ongoing_requests": plan.carried.most_ongoing,
        "health_check_period_s": _HEALTH_S,
        "health_check_timeout_s": _HEALTH_LIMIT_S,
        "graceful_shutdown_wait_loop_s": _CHECK_S,
        "graceful_shutdown_timeout_s": math.ceil(_CHECK_S + plan.stop_s + _LEAVE_S),
        "max_surge_percent": _SURGE_PERCENT,
    }
    if plan.exclusive:
        options["max_replicas_per_node"] = 1
    replicas = plan.replicas
    if replicas.fixed:
        options["num_replicas"] = replicas.least
    else:
        options["autoscaling_config"] = scaling = {
            "min_replicas": replicas.least,
            "max_replicas": replicas.most,
            "target_ongoing_requests": plan.carried.target_ongoing,
            "upscale_delay_s": replicas.up_s,
            "downscale_delay_s": replicas.down_s,
            "look_back_period_s": replicas.window_s,
            "policy": {"policy_function": POLICY},
        }
        if replicas.window_s <= _REPORTED_S:
            scaling["metrics_interval_s"] = replicas.window_s / 2
    return options


def serve_config(name: str, route: str, plan: ApplicationPlan) -> dict[str, Any]:
    """The content of a file for `serve deploy`, with one application.

    Args:
        name: of the application.
        route: the path under which Serve's own proxy offers it.
        plan: of the application.

    Raises:
        UsageError: the name or the route cannot be used by Serve or by clients.
    """
    if "/" in name:
        raise UsageError(
            f"an application cannot be named {name!r}: in ray://APP/DEPLOYMENT, what follows the slash is a deployment"
        )
    if not route.startswith("/") or (route.endswith("/") and route != "/") or set(route) & set("{}"):
        raise UsageError(f"--route must be / or begin with / and not end with it, without {{ and }}, not {route!r}")
    if not route.isprintable() or " " in route:
        raise UsageError(f"--route must have no spaces and no control characters, not {route!r}")
    application = {
        "name": name,
        "route_prefix": route,
        "import_path": "tailcut.ray:build",
        "args": msgspec.json.decode(msgspec.json.encode(plan)),
        "deployments": [{"name": DEPLOYMENT, **deployment_options(plan)}],
    }
    return {"http_options": _HTTP.copy(), "applications": [application]}
