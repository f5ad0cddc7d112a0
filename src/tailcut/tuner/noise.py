"""How noisy the machine was during a tune: gaps in a short spinning probe, and the lateness of the load client.

The probe reads the clock in a loop for two milliseconds between blocks. Nothing else of the tune runs then, so a gap
between two readings is time taken by other work, the kernel or the hypervisor.
"""

import time
from dataclasses import dataclass, field

from tailcut.lab.load import LoadResult
from tailcut.lab.trial import ArmRuns
from tailcut.tuner.result_records import NoiseResult

_SPIN_NS = 2_000_000
_GAP_NS = 20_000  # a reading takes 60 ns, a timer interrupt a few microseconds


@dataclass(slots=True)
class Noise:
    """What the probes and the load client found; times in nanoseconds."""

    probes: int = 0
    spun_ns: int = 0
    lost_ns: int = 0  # of `spun_ns`, in gaps
    worst_gap_ns: int = 0
    late_blocks: int = 0  # blocks that count although the client was late, even when repeated
    repeated_blocks: int = 0
    lateness_ns: list[float] = field(default_factory=list)  # p99 of each open block

    def probe(self) -> None:
        """Spin once."""
        clock = time.perf_counter_ns
        gaps = []
        began = last = clock()
        while last - began < _SPIN_NS:
            now = clock()
            if now - last > _GAP_NS:
                gaps.append(now - last)
            last = now
        self.add(last - began, gaps)

    def add(self, spun_ns: int, gaps_ns: list[int]) -> None:
        """Count one probe: its length and its gaps, in nanoseconds."""
        self.probes += 1
        self.spun_ns += spun_ns
        self.lost_ns += sum(gaps_ns)
        self.worst_gap_ns = max([self.worst_gap_ns, *gaps_ns])

    def add_block(self, result: LoadResult, *, repeated: bool) -> None:
        """Count one open block of a race."""
        self.late_blocks += result.client_behind
        self.repeated_blocks += repeated
        self.lateness_ns.append(result.lateness_p99_ns)

    def add_runs(self, runs: ArmRuns) -> None:
        """Count all open blocks of one arm."""
        self.late_blocks += runs.behind
        self.repeated_blocks += runs.repeated
        self.lateness_ns += runs.lateness_ns

    def record(self) -> NoiseResult | None:
        """The key `noise` of a result; None where nothing was probed."""
        if not self.probes:
            return None
        late = max(self.lateness_ns, default=None)
        return NoiseResult(
            quiet_share=round(1 - self.lost_ns / self.spun_ns, 4),
            worst_gap_ms=round(self.worst_gap_ns / 1e6, 3),
            probes=self.probes,
            late_blocks=self.late_blocks,
            repeated_blocks=self.repeated_blocks,
            client_lateness_p99_ms=None if late is None else round(late / 1e6, 3),
        )
