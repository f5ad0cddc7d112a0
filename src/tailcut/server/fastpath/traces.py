"""Which requests of a pass on the fast path are sampled, and their records. Used only where requests are traced.

Of each request's trace context, the compiled pass has read only whether the request is sampled.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np

from tailcut.kernels.socket_tables import ROOTS, SAMPLED
from tailcut.runtime.request import Batch, Request
from tailcut.server.served_model import ServedModel
from tailcut.server.tracing.records import TracedRequest
from tailcut.server.tracing.tracer import Tracer

_ENCODED, _WRITTEN = 6, 8  # columns of a record of the timeline


def skips(tracer: Tracer, cells: memoryview, at: int, taken: int) -> bool:
    """Whether none of the `taken` requests of a target in this pass is sampled; its cells begin at `at`."""
    roots = cells[at + ROOTS]
    if cells[at + SAMPLED] or (roots != taken and not tracer.sampler.follows_caller):
        return False
    return tracer.sampler.skips(roots)


def find(tracer: Tracer, members: np.ndarray, head_of: Callable[[int], bytes]) -> dict[int, TracedRequest]:
    """The sampled requests of this pass, by their index; `head_of` returns the last head of a descriptor."""
    traced = {}
    for index, (fd, _, _, _, trace) in enumerate(members.tolist()):
        if trace < 0 and tracer.sampler.follows_caller:
            continue
        if not trace and not tracer.sampler.takes_root():
            continue
        head = head_of(fd)
        path = head.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")
        asked = tracer.of_head(head, path) if trace else tracer.of_root(path)
        if asked is not None:
            traced[index] = asked
    return traced


def refused(tracer: Tracer, served: ServedModel, members: np.ndarray, traced: Mapping[int, TracedRequest]) -> None:
    """Keep the records of the sampled requests among those that were answered 503."""
    for index, asked in traced.items():
        tracer.failed(asked, served, int(members[index, 2]), status=503, kind="QueueFullError")


def answered(  # noqa: PLR0913, PLR0917  a request and all that is known about it
    tracer: Tracer,
    served: ServedModel,
    computed: tuple[np.ndarray, Request, Batch],
    traced: Mapping[int, TracedRequest],
    moments: tuple[int, ...],
    written: int,
) -> None:
    """Keep the records of a request's sampled members, when their answers have been sent.

    Args:
        tracer: keeps them.
        served: the model.
        computed: the members of the group, the request that they wait as, and its batch.
        traced: the sampled members, by their index in the group.
        moments: of the timeline, from `ready` to `handed`.
        written: how many answers have just been sent; the last records of the timeline are theirs.
    """
    members, request, batch = computed
    table, end = served.timeline.table, served.timeline.stamp
    records = table[np.arange(end - written, end) & (len(table) - 1)]
    for index, asked in traced.items():
        if not 0 <= index - request.offset < request.count:
            continue
        _, _, arrival_ns, length, _ = members[index].tolist()
        own = records[records[:, 0] == arrival_ns, _ENCODED:_WRITTEN].tolist()
        sent = own[0] if own else [time.monotonic_ns()] * 2  # the transport is still sending the rest
        tracer.answered(asked, served, (arrival_ns, *moments, *sent), 1, (batch.rows, batch.requests), length)
