"""What can take the fast path: models, connections, and processes that can load compiled code."""

import logging
from typing import TYPE_CHECKING

from tailcut.server.fastpath.connections import FastConnection
from tailcut.server.http.plan import RequestPlan
from tailcut.spec import DType
from tailcut.wire.v2 import lists

if TYPE_CHECKING:
    from tailcut.server.served_model import ServedModel
    from tailcut.server.state import ServerState

_log = logging.getLogger("tailcut.http")


def suits(served: "ServedModel") -> bool:
    """Whether compiled code can help a model's clients: raw rows of one input, or JSON lists of floats."""
    slab, inputs = served.entry.slab, served.model.spec.inputs
    rows = slab is not None and len(inputs) == 1 and inputs[0].dtype is not DType.BOOL
    return rows or any(tensor.dtype in lists.COMPILED for tensor in inputs)


def loads() -> bool:
    """Load the compiled code, on any thread; where that fails, one line says that the standard path serves."""
    try:
        from tailcut.kernels import answers, sockets  # noqa: F401, PLC0415  numba, which takes a quarter of a second
        from tailcut.server.fastpath import tables  # noqa: F401, PLC0415  it loads it, too

        lists.load()
    except ModuleNotFoundError as error:
        _log.warning("serving on the standard path: the fast path needs %s, which is not installed", error.name)
        return False
    except Exception as error:  # noqa: BLE001  numba may fail in as many ways as there are machines
        _log.warning("fast path disabled; serving on the standard path: %s", error)
        return False
    return True


def may_join(connection: FastConnection, plan: RequestPlan, state: "ServerState") -> bool:
    """Whether nothing about a connection, or the head of its request, keeps it on the standard path."""
    if not plan.head.keep_alive or plan.head.content_length is None or state.draining:
        return False
    return connection.transport.get_extra_info("ssl_object") is None  # else what its socket brings is encrypted
