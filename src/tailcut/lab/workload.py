"""The requests that are sent to a model in turn: from a data file, or generated from the model's metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tailcut.errors import UsageError
from tailcut.lab.describe import is_grouped, rows_of_data, served_samples, served_spec
from tailcut.lab.lengths import LengthMeasure, measure_of
from tailcut.lab.load import LoadResult, LoadTarget, Payload
from tailcut.lab.payload import Wire, infer_payload
from tailcut.lab.shared import SharedLoad

_PAYLOADS = 64  # different requests of one length, or in shared memory
_MIXED_PAYLOADS = 4096  # for several lengths: enough for rare ones to have their share
_MIXED_BYTES = 256 << 20
_MADE_UP = 8


@dataclass(frozen=True, slots=True)
class Workload:
    """Payloads that are sent in turn; `model` is None for requests in a form of the user's own."""

    payloads: Sequence[Payload]
    model: str | None = None
    measure: LengthMeasure | None = None

    def labelled(self, result: LoadResult, *, mixed: bool = False) -> LoadResult:
        """A result with the model and lengths; `mixed` if other models had load at the same time."""
        return replace(result, model=self.model, measure=self.measure, mixed=mixed)


def served_workload(  # noqa: PLR0913, PLR0917  the parts of a request
    target: LoadTarget,
    model: str | None,
    data: Mapping[str, np.ndarray] | None,
    wire: Wire,
    seed: int,
    rows: int,
    shared: SharedLoad | None,
) -> Workload:
    """The workload for a served model.

    Args:
        target: its server.
        model: its name; None: the server's only model.
        data: arrays of a data file; None: inputs are generated.
        wire: the wire format, which is not used with shared memory.
        seed: of generated inputs.
        rows: the number of rows in a request.
        shared: regions for passing tensors in shared memory; None: they are in the body.

    Raises:
        UsageError: there is no such model, or data or wire format do not fit it.
    """
    spec = served_spec(target, model)
    if rows > 1 and not spec.batched:
        raise UsageError(f"the server does not batch {spec.name}, so a request cannot have {rows} samples")
    if data is None:
        samples = served_samples(target, spec)
        inputs = [samples.make(max(rows, samples.rows), seed + number) for number in range(_MADE_UP)]
    elif is_grouped(spec, data) and shared is None:
        inputs = rows_of_data(spec, data, _MIXED_PAYLOADS, rows=rows)
        size = sum(array.nbytes for request in inputs for array in request.values())
        if size > _MIXED_BYTES:
            inputs = rows_of_data(spec, data, max(1, len(inputs) * _MIXED_BYTES // size), rows=rows)
    elif is_grouped(spec, data):
        inputs = rows_of_data(spec, data, _PAYLOADS, rows=rows)
    else:
        inputs = rows_of_data(spec, data, _PAYLOADS * rows, rows=rows)
    measure = measure_of(spec)
    if shared is not None:
        payloads = shared.payloads(spec.name, inputs)
    else:
        payloads = [infer_payload(target, spec.name, request, wire) for request in inputs]
    if measure is not None:
        payloads = [
            replace(payload, length=measure.of(request)) for payload, request in zip(payloads, inputs, strict=True)
        ]
    return Workload(payloads, spec.name, measure)
