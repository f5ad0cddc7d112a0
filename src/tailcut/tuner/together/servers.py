"""The servers of a joint tune: one for each combination, with all models in it."""

import time
from collections.abc import Sequence

from tailcut.lab.arrivals import Arrivals
from tailcut.lab.load import LoadResult
from tailcut.lab.together import Stream, open_together
from tailcut.lab.trial import ServedProfile
from tailcut.tuner.servers import TrialServers, room_beside
from tailcut.tuner.together.selection import Combination


class JointServers:
    """Servers by combination, started on first use.

    Args:
        models: profiles and requests of each model.
        arrivals: of each model, in the same order.
        cpus: the CPUs that servers run on; None for all.
    """

    def __init__(
        self, models: Sequence[TrialServers], arrivals: Sequence[Arrivals], cpus: tuple[int, ...] | None = None
    ) -> None:
        self._cpus = cpus
        self._models = models
        self._arrivals = arrivals
        self._running: dict[Combination, ServedProfile] = {}
        self.start_s = 0.0  # how long the last start took
        self._forks = True

    def of(self, combination: Combination) -> ServedProfile:
        """A running server of this combination.

        Raises:
            ServeError: it does not start.
        """
        if combination not in self._running:
            first, *others = [
                model.profile(settings) for model, settings in zip(self._models, combination, strict=True)
            ]
            server = ServedProfile(first, neighbours=others, cpus=self._cpus, forked=self._forks)
            began = time.monotonic()
            server.start()
            self._running[combination], self.start_s = server, time.monotonic() - began
        return self._running[combination]

    def has_ended(self, combination: Combination) -> bool:
        """Whether a server has exited after it was ready, for example killed by the kernel for its memory."""
        return combination in self._running and self._running[combination].ended

    def room(self, most: int) -> int:
        """How many more servers there is memory for, at most this many."""
        return room_beside([server.pid for server in self._running.values()], most)

    def streams(self, combination: Combination) -> list[Stream]:
        """The requests for each model of a combination, and their arrivals."""
        target = self.of(combination).target
        return [
            Stream(model.payloads(target, settings), arrivals)
            for model, settings, arrivals in zip(self._models, combination, self._arrivals, strict=True)
        ]

    def loaded(self, combination: Combination, seconds: float, seed: int) -> list[LoadResult]:
        """Send the load of all models for this many seconds; the result of each model."""
        streams, target = self.streams(combination), self.of(combination).target
        return open_together(target, streams, duration_s=seconds, seed=seed, warmup_s=min(0.1, seconds / 5))

    def execute(self) -> None:
        """Start servers as new processes from now on, as a user's are, and stop those that run."""
        self._forks = False
        self.keep()

    def keep(self, *combinations: Combination) -> None:
        """Stop all servers except those of these combinations."""
        for combination in [running for running in self._running if running not in combinations]:
            self._running.pop(combination).stop()
