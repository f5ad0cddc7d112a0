"""One session of `tailcut bench`: successive runs against one target, which are kept in their order."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tailcut.lab.arrivals import Arrivals, Poisson, plan
from tailcut.lab.client import gather_closed, gather_open
from tailcut.lab.load import DONE, LoadResult, LoadTarget, closed_result, open_result
from tailcut.lab.processes import share_closed, share_open
from tailcut.lab.record import run_record
from tailcut.lab.records import SearchPoint, SloResult
from tailcut.lab.saturation import Shown, judge, saturate
from tailcut.lab.surroundings import SurroundingsMonitor
from tailcut.lab.workload import Workload
from tailcut.machine.quota import usable_cpus
from tailcut.stats.serial import serial_percentile_interval

BUSY = 0.9  # of a core for each client process: beyond that, the client may be the limit
_PROBE_SAMPLES = 1500  # with fewer, the p99 of a busy server is uncertain
_LONGEST_PROBE_S = 30.0
_CAPACITY_CONCURRENCY = 32
_CAPACITY_S = 2.0


class LoadSession:
    """The runs of one load test.

    Args:
        target: the server.
        workload: its requests are sent in turn.
        duration_s, warmup_s: of each run, in seconds.
        seed: of arrivals; each probe of a search uses the next one.
        processes: the number of client processes; None: as many as needed.
        say: called with lines about the progress.
    """

    def __init__(  # noqa: PLR0913, PLR0917  parameters of a load test
        self,
        target: LoadTarget,
        workload: Workload,
        duration_s: float,
        warmup_s: float,
        seed: int = 0,
        processes: int | None = 1,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._target = target
        self._workload = workload
        self._payloads = workload.payloads
        self._duration_s = duration_s
        self._warmup_s = warmup_s
        self._seed = seed
        self._processes = processes or 1
        self._grows = processes is None
        self._say = say
        self._surroundings = SurroundingsMonitor(target, [workload.model] if workload.model else [])
        self.results: list[LoadResult] = []

    def open(self, arrivals: Arrivals, *, duration_s: float | None = None, seed: int | None = None) -> LoadResult:
        """Run an open loop."""
        length_s = duration_s or self._duration_s
        seed = self._seed if seed is None else seed
        kind = "" if arrivals.name == "poisson" else f", {arrivals.name} arrivals"
        self._say(f"open loop, {arrivals.rate:,.1f} requests/s{kind} for {length_s:g} s ...")
        times = plan(arrivals, self._warmup_s, length_s, seed)

        def run() -> LoadResult:
            if self._processes == 1:
                parts = [gather_open(self._target, self._payloads, times)]
            else:
                parts = share_open(self._target, self._payloads, times, processes=self._processes)
            return open_result(parts, arrivals, times, warmup_s=self._warmup_s, duration_s=length_s)

        return self._keep(run)

    def closed(self, concurrency: int, *, duration_s: float | None = None) -> LoadResult:
        """Run a closed loop."""
        length_s = duration_s or self._duration_s
        self._say(f"closed loop, {concurrency} in flight for {length_s:g} s ...")

        def run() -> LoadResult:
            whole_s = self._warmup_s + length_s
            if self._processes == 1:
                parts = [gather_closed(self._target, self._payloads, concurrency=concurrency, length_s=whole_s)]
            else:
                parts = share_closed(
                    self._target,
                    self._payloads,
                    concurrency=concurrency,
                    length_s=whole_s,
                    processes=self._processes,
                )
            return closed_result(parts, concurrency, warmup_s=self._warmup_s, duration_s=length_s)

        return self._keep(run)

    def at_once(self, count: int, connections: int, patience_s: float) -> LoadResult:
        """Send `count` requests, all due at the start, as fast as the connections allow."""
        self._say(f"{count:,} requests, all due at once, over {connections} connections ...")
        times = np.zeros(count, np.int64)

        def run() -> LoadResult:
            gathered = gather_open(self._target, self._payloads, times, connections=connections, patience_s=patience_s)
            last_ns = int(gathered.outcomes[:, DONE].max(initial=gathered.start_ns + 1))
            took_s = (last_ns - gathered.start_ns) / 1e9
            at_once = Poisson(count / took_s, name="at once")
            result = open_result([gathered], at_once, times, warmup_s=0.0, duration_s=took_s)
            return replace(result, rate_offered=None)

        result = self._costed(run)
        self.results.append(result)
        return result

    def meets(self, arrivals: Arrivals, slo_ms: float) -> SloResult:
        """Find out whether the p99 at one rate stays within a limit."""
        result = self.open(arrivals)
        shown = _shown(result, slo_ms)
        point = _curve_point(result, shown)
        met = shown is Shown.MEETS
        return SloResult(slo_ms, "p99", met, arrivals.rate if met else None, None if met else shown, [point])

    def saturate(self, make: Callable[[float], Arrivals], slo_ms: float) -> SloResult:
        """Find the highest rate whose p99 stays within a limit, with the latency at every rate that was tried."""
        capacity = self.closed(_CAPACITY_CONCURRENCY, duration_s=min(_CAPACITY_S, self._duration_s)).rate_achieved
        curve: list[SearchPoint] = []

        def probe(rate: float) -> Shown:
            needed_s = min(_LONGEST_PROBE_S, _PROBE_SAMPLES / rate)
            seed = self._seed + len(curve)
            result = self.open(make(rate), duration_s=round(max(self._duration_s, needed_s), 3), seed=seed)
            shown = _shown(result, slo_ms)
            self._say(f"  {shown.value}")
            curve.append(_curve_point(result, shown))
            return shown

        search = saturate(max(1.0, capacity / 2), probe)
        highest = round(search.low, 3) if search.confirmed and search.low else None
        curve.sort(key=lambda point: point.rate_offered)
        return SloResult(slo_ms, "p99", search.confirmed, highest, search.limited_by, curve)

    def _keep(self, run: Callable[[], LoadResult]) -> LoadResult:
        """Run, and repeat with twice the client processes while the client is the limit and there are enough cores."""
        result = self._costed(run)
        while self._grows and 2 * self._processes <= usable_cpus() and client_limits(result):
            self._processes *= 2
            self._say(f"the client was at its limit: repeating with {self._processes} client processes ...")
            result = self._costed(run)
        self.results.append(result)
        return result

    def _costed(self, run: Callable[[], LoadResult]) -> LoadResult:
        """Run, and add the server's cost, and why the client was late."""
        (result,) = self._surroundings.run(lambda: [run()])
        return self._workload.labelled(result)


def client_limits(result: LoadResult) -> bool:
    """Whether the client may have limited a run."""
    return result.client_behind or result.client_cpu > BUSY * result.processes


def _shown(result: LoadResult, slo_ms: float) -> Shown:
    p99 = serial_percentile_interval(result.latencies_ns / 1e6, 0.99)
    return judge(p99, slo_ms, errors=sum(result.errors.values()), client_behind=result.client_behind)


def _curve_point(result: LoadResult, shown: Shown) -> SearchPoint:
    run = run_record(result)  # `p99_at_most_ms` holds for the server even if the client was late
    figures = {name: getattr(run, name) for name in SearchPoint.__struct_fields__ if name != "shown"}
    return SearchPoint(**figures, shown=shown)
