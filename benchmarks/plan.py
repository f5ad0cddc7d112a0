"""`tailcut plan` against real servers: predicted and measured capacity of throttled workers and replicas.

    python benchmarks/plan.py [--model ranker] [--budget 60] [--share 0.28] [--seconds 4] [--warmup 2.5] [--rounds 5]

The model is tuned for one CPU, as a user would. Then servers run in control groups with a CPU quota, so that a machine
has room for several: one and two workers, reached directly, and one to four replicas behind haproxy where that is
installed. The period of the quota is 100 ms, as in Kubernetes. The client and haproxy run outside the groups, and need
what four replicas leave of two CPUs. A closed loop finds the capacity, with twice as many connections for each server
as its largest batch has rows: while one half is computed the other half waits, so batches are as large as in an
overload. What is answered in the first seconds, while connections are opened, does not count. Set-ups take turns; each
figure is the median of the rounds.

What is judged is the plan's own figure, the highest Poisson rate whose p99 is within a second, in the curve of `tailcut
plan`: one worker that is reached directly by the tune alone, two with `--capacity` of the one, and replicas behind
haproxy with `--capacity` of one of them; both are measured in the same turns. That one replica is its own measurement
and not judged. Limit: 10 %. Beside it stands what the closed loop of the client would get by the simulation.

Needs a writable cgroup hierarchy (version 1 or 2) with the cpu controller. Takes about eight minutes.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from reference_models import make
from serving import BUILD, first_line, running

from tailcut.lab.arrivals import Poisson
from tailcut.lab.client import closed_loop
from tailcut.lab.describe import parse_target, served_samples, served_spec
from tailcut.lab.payload import infer_payload
from tailcut.machine.fingerprint import fingerprint
from tailcut.machine.open_files import raise_open_files
from tailcut.planning.demand import Limit
from tailcut.planning.measured import MeasuredProfile, read_measured
from tailcut.planning.plan import make_plan
from tailcut.planning.request import PlanRequest
from tailcut.runtime.profile import Profile
from tailcut.tuner.simulate import simulate_closed, slowed

LIMIT = 0.10
LOOSE = Limit("p99", 1000.0)
PERIOD_US = 100_000
V1 = Path("/sys/fs/cgroup/cpu")  # where version 1 has the controller
ANSWERS = 100_000  # that are simulated: at a third of a core, batches differ much
MOST_REPLICAS = 4


@dataclass
class SetUp:
    """Servers in one arrangement, what is predicted of them, and what each round measured."""

    name: str
    workers: int
    replicas: int
    proxied: bool
    tuned: float = 0.0  # in the closed loop, from the tune alone
    predicted: float = 0.0  # likewise, with one server's capacity
    planned: float = 0.0  # by the curve of a plan
    measured: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.measured)

    @property
    def error(self) -> float:
        """Of the plan."""
        return self.planned / self.median - 1

    @property
    def is_judged(self) -> bool:
        """Whether the plan was made without this very measurement."""
        return not self.proxied or self.replicas > 1


@contextmanager
def control_group(name: str) -> Iterator[Path]:
    """A group of processes without a quota."""
    group = (V1 if V1.is_dir() else Path("/sys/fs/cgroup")) / f"tailcut-plan-{os.getpid()}-{name}"
    try:
        group.mkdir()
    except OSError as error:
        raise SystemExit(f"no control group can be made here: {error.strerror}") from None
    try:
        yield group
    finally:
        for _ in range(50):  # the last process of the group is just ending
            try:
                group.rmdir()
            except OSError:
                time.sleep(0.1)
            else:
                break


def throttle(group: Path, cores: float) -> None:
    """Give a group a quota of so many cores."""
    quota_us = round(cores * PERIOD_US)
    if V1.is_dir():
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))
    else:
        (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")


@contextmanager
def server(profile: Path, name: str, cores: float, workers: int) -> Iterator[int]:
    """The port of a server that is throttled once it is ready."""
    serve = [sys.executable, "-m", "tailcut", "serve", str(profile), "--port", "0", "--workers", str(workers), "--json"]
    with control_group(name) as group:
        enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
        with running([*enter, *serve]) as child:
            port = json.loads(first_line(child))["port"]
            throttle(group, cores)
            yield port


@contextmanager
def haproxy(ports: list[int]) -> Iterator[int]:
    """The port of a balancer that sends each request to the server with the fewest in flight."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    backends = "\n".join(f"    server s{number} 127.0.0.1:{item}" for number, item in enumerate(ports))
    text = f"""
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
listen in
    bind 127.0.0.1:{port}
    balance leastconn
    http-reuse always
{backends}
"""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "haproxy.cfg"
        config.write_text(text)
        with running(["haproxy", "-db", "-f", str(config)]):
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            else:
                raise SystemExit("haproxy does not listen")
            yield port


def connections(profile: Profile) -> int:
    """For each server."""
    return 2 * profile.settings.batching.max_batch_size


def capacity(url: str, profile: Profile, servers: int, seconds: float, warmup: float) -> float:
    """Requests per second that a closed loop gets, in the encoding that the profile was tuned for."""
    name, wire = profile.model.name, profile.settings.io.wire
    target = parse_target(url)
    samples = served_samples(target, served_spec(target, name))
    payloads = [infer_payload(target, name, samples.make(samples.rows, seed), wire) for seed in range(8)]
    clients = connections(profile) * servers
    result = closed_loop(target, payloads, concurrency=clients, duration_s=seconds, warmup_s=warmup)
    return result.rate_achieved


def measure(setup: SetUp, measured: MeasuredProfile, args: argparse.Namespace) -> None:
    """One round."""
    with ExitStack() as stack:
        cores = args.share * setup.workers
        ports = [
            stack.enter_context(server(measured.path, f"{number}", cores, setup.workers))
            for number in range(setup.replicas)
        ]
        port = stack.enter_context(haproxy(ports)) if setup.proxied else ports[0]
        servers = setup.workers * setup.replicas
        url = f"http://127.0.0.1:{port}"
        setup.measured.append(capacity(url, measured.profile, servers, args.seconds, args.warmup))


def predict(measured: MeasuredProfile, setups: list[SetUp], share: float) -> None:
    """The capacities by a plan, and by the simulation with as many requests in flight as the client keeps.

    Args:
        measured: the profile.
        setups: to be predicted.
        share: cores of each server process.
    """
    clients = connections(measured.profile)
    single = replace(measured.configuration(share), client_apart=True)
    for setup in setups:
        item = replace(measured.configuration(share * setup.workers, setup.workers), client_apart=True)
        known = given(setup, setups)
        servers = setup.workers * setup.replicas
        setup.tuned = setup.predicted = simulate_closed(item, clients, ANSWERS).rate * servers
        if known is not None:
            factor = simulate_closed(single, clients, ANSWERS).rate / known
            setup.predicted = simulate_closed(slowed(item, factor), clients, ANSWERS).rate * servers
        setup.planned = planned(measured, setup, known, share)


def given(setup: SetUp, setups: list[SetUp]) -> float | None:
    """What one server was measured to answer over the same path; None for the one that is planned by the tune alone."""
    if setup.workers == 1 and not setup.proxied:
        return None
    return next(other.median for other in setups if other.proxied == setup.proxied)


def planned(measured: MeasuredProfile, setup: SetUp, item: float | None, share: float) -> float:
    """What `tailcut plan` has so many replicas carry: from the tune, or from what one server was measured to answer."""
    wanted = PlanRequest(
        [measured],
        [0.9 * setup.predicted],
        [LOOSE],
        Poisson,
        headroom=0.0,
        routing="least-loaded",
        workers=setup.workers,
        cores=share * setup.workers,
        capacity=item,
        capacity_workers=None if item is None else 1,
    )
    curve = make_plan(wanted, lambda _: None).curve
    return next(point.rate for point in curve if point.replicas == setup.replicas)


def tuned(model: Path, budget_s: float) -> Path:
    """A profile of the model for one CPU."""
    profile = BUILD / f"{model.stem}.plan.profile.toml"
    command = ["tune", str(model), "--budget", f"{budget_s:g}s", "--cpus", "1", "-o", str(profile), "--fresh"]
    subprocess.run([sys.executable, "-m", "tailcut", *command], check=True, stdout=subprocess.DEVNULL)
    return profile


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ranker")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of the tune")
    parser.add_argument("--share", type=float, default=0.28, help="cores of each server process")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warmup", type=float, default=2.5, help="seconds before those, which do not count")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    raise_open_files()
    with control_group("probe") as group:  # before any time is spent
        throttle(group, args.share)
    measured = read_measured(tuned(make(args.model, BUILD / "models"), args.budget))
    setups = [SetUp(f"{workers} workers", workers, 1, proxied=False) for workers in (1, 2)]
    if shutil.which("haproxy"):
        setups += [SetUp(f"{count} replicas", 1, count, proxied=True) for count in range(1, MOST_REPLICAS + 1)]
    else:
        print("haproxy is not installed: replicas are left out")
    for _ in range(args.rounds):
        for setup in setups:
            measure(setup, measured, args)
    predict(measured, setups, args.share)
    facts = fingerprint()
    print(f"{facts['cpu']}, {facts['usable_cpus']} CPUs; {args.share:g} of a core for each server process")
    print(f"profile: {measured.profile.settings.describe()}")
    print(f"the tune scales CPU times by {measured.scale:.2f}")
    print(
        f"{'set-up':<12} {'planned/s':>12} {'measured/s':>12} {'error':>8} "
        f"{'by the tune':>12} {'error':>8} {'closed loop':>12} {'error':>8}   rounds"
    )
    for setup in setups:
        rounds = " ".join(f"{rate:,.0f}" for rate in setup.measured)
        error = f"{setup.error:>+8.1%}" if setup.is_judged else f"{'given':>8}"
        others = "".join(f" {rate:>12,.0f} {rate / setup.median - 1:>+8.1%}" for rate in (setup.tuned, setup.predicted))
        print(f"{setup.name:<12} {setup.planned:>12,.0f} {setup.median:>12,.0f} {error}{others}   {rounds}")
    return 0 if all(abs(setup.error) <= LIMIT for setup in setups if setup.is_judged) else 1


if __name__ == "__main__":
    sys.exit(main())
