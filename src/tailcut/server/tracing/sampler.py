"""Decides which requests are traced. Pure, except for the random numbers.

A request that is not traced must cost next to nothing. So no random number is drawn for each: one draw says how many
requests to skip until the next one that is traced (a geometric distribution), and requests are counted down.
"""

import math
import random
from collections.abc import Callable

from tailcut.server.tracing.settings import Sampling
from tailcut.wire.trace_context import TraceContext

_WORD = 1 << 64


class Sampler:
    """Decides for one event loop. `dice` returns random numbers, uniformly distributed from 0 to below 1."""

    def __init__(self, sampling: Sampling, dice: Callable[[], float] = random.random) -> None:
        self._share = sampling.share
        self.follows_caller = sampling.follows_caller
        self.only_sampled = self.follows_caller and not self._share  # only the requests that their callers sampled
        self._dice = dice
        self._skipped = self._throw()  # requests without a context before the next one that is traced

    def takes(self, context: TraceContext | None) -> bool:
        """Whether a request with this context is traced."""
        if context is None:
            return self.takes_root()
        if self.follows_caller:
            return context.sampled
        # The rule of every sampler that decides by trace ids, so that all services keep the same traces.
        return int(context.trace_id[16:], 16) < self._share * _WORD

    def takes_root(self) -> bool:
        """Whether the next request without a context is traced."""
        if self._skipped >= 1:
            self._skipped -= 1
            return False
        self._skipped = self._throw()
        return True

    def skips(self, roots: int) -> bool:
        """Whether none of `roots` requests without a context is traced; otherwise, ask `takes_root` for each."""
        if self._skipped < roots:
            return False
        self._skipped -= roots
        return True

    def _throw(self) -> float:
        if self._share >= 1:
            return 0
        if self._share <= 0:
            return math.inf
        return math.floor(math.log1p(-self._dice()) / math.log1p(-self._share))
