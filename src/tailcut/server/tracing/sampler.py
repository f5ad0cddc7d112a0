"""Which of the requests that come are traced. Pure, but for its dice.

A request that is not must cost next to nothing. So no dice are thrown for each: a throw says how many requests come
until the next one that is traced (a geometric distribution), and requests are counted down.
"""

import math
import random
from collections.abc import Callable

from tailcut.server.tracing.settings import Sampling
from tailcut.wire.trace_context import TraceContext

_WORD = 1 << 64


class Sampler:
    """Decides for one event loop. `dice` gives numbers from 0 to below 1."""

    def __init__(self, sampling: Sampling, dice: Callable[[], float] = random.random) -> None:
        self._share = sampling.share
        self.follows_caller = sampling.follows_caller
        self.only_sampled = (
            self.follows_caller and not self._share
        )  # requests that their callers sampled, and no others
        self._dice = dice
        self._skipped = self._throw()  # requests without a context, until the next one that is traced

    def takes(self, context: TraceContext | None) -> bool:
        """Whether a request with this context is traced."""
        if context is None:
            return self.takes_root()
        if self.follows_caller:
            return context.sampled
        # As every sampler that goes by the ids of traces, so that all services keep the same traces.
        return int(context.trace_id[16:], 16) < self._share * _WORD

    def takes_root(self) -> bool:
        """Whether the next request without a context is traced."""
        if self._skipped >= 1:
            self._skipped -= 1
            return False
        self._skipped = self._throw()
        return True

    def skips(self, roots: int) -> bool:
        """Whether none of this many requests without a context is traced; where one is, `takes_root` says which."""
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
