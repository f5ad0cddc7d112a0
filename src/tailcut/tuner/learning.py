"""What a tune or a comparison knows of the model before it measures: signature, rows, requests, and right answers."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.base import Engine
from tailcut.engines.compilers import missing_compiler
from tailcut.engines.edits import benefits_from_int8
from tailcut.engines.files import ENGINES_OF, FileKind, default_engine, kind_of
from tailcut.engines.graph import load_graph
from tailcut.engines.installed import how_to_install, is_installed, require
from tailcut.engines.samples import Samples, find_samples
from tailcut.errors import UnsupportedError, UsageError
from tailcut.lab.describe import rows_of_data
from tailcut.machine.allocator import can_huge_heap, installed
from tailcut.machine.fingerprint import isa_flags
from tailcut.machine.nodes import usable_nodes
from tailcut.machine.quota import affinity_mask, cpu_quota, usable_cpus
from tailcut.machine.topology import cores_of, topology
from tailcut.runtime.opening.row_proof import settle_rows
from tailcut.runtime.rows import RowDecision
from tailcut.spec import ModelSpec, Rows
from tailcut.tuner.dimensions import data_lengths, learned_places
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.gate import Gate
from tailcut.tuner.pixels import as_floats, check_channels, is_pixels, snapped
from tailcut.tuner.questions import ReferenceQuestions
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.result_records import RowsDecision
from tailcut.tuner.space import SpaceFacts

Arrays = dict[str, np.ndarray]
_MADE_UP, _FEWEST_MADE_UP = 64, 8  # generated requests, if there are no data: the fewer, the larger they are
_MADE_UP_BYTES = 64 << 20
MOST_REQUESTS = 2048  # of the data
_SLOW_S = 2.0


@dataclass(frozen=True, slots=True)
class Learned:
    """The signature, whether rows are independent, the requests to send, and the accuracy gate."""

    spec: ModelSpec
    rows: RowsDecision
    requests: list[Arrays]
    gate: Gate


def learn(wanted: TuneRequest, answers_s: float, tell: Callable[[Event], None]) -> Learned:
    """Open the bare model, decide whether its rows are independent, and compute the right answers.

    Args:
        wanted: what the user asked for.
        answers_s: seconds for computing the reference answers.
        tell: called with each phase.

    Raises:
        TailcutError: the model cannot be opened, or rejects a request of the data.
    """
    if wanted.normalize is not None and kind_of(wanted.model) not in {FileKind.ONNX, FileKind.PROGRAM}:
        raise UsageError(
            "--normalize edits ONNX graphs and PyTorch programs: leave it out, or convert the model to ONNX"
        )
    with _reported_if_slow("opening the model and running it once; this is taking a while", tell):
        spec, decision, requests = _opened(wanted, tell)
    tell(Phase(decision.describe()))
    if wanted.data is not None and len(requests) == 1 and not spec.batched:
        _tell_of_rows(spec, requests[0], tell)
    tell(Phase("computing the reference outputs"))
    questions = ReferenceQuestions(partial(_open_reference, wanted, spec), requests, answers_s)
    gate = Gate(questions, wanted.bound, wanted.metric, wanted.seed)
    if gate.random_outputs:
        names = ", ".join(map(repr, gate.random_outputs))
        rest = "only speed is tuned" if gate.blind else "they are not compared"
        words = f"the model itself is random: two identical requests gave different {names}; {rest}"
        tell(Phase(words))
    return Learned(spec, RowsDecision.of(decision), requests, gate)


@contextmanager
def _reported_if_slow(words: str, tell: Callable[[Event], None]) -> Iterator[None]:
    """Report what takes long, while it does; an error that is found quickly remains the only line."""
    timer = threading.Timer(_SLOW_S, tell, [Phase(words)])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _opened(wanted: TuneRequest, tell: Callable[[Event], None]) -> tuple[ModelSpec, RowDecision, list[Arrays]]:
    """The model's signature, whether its rows are independent, and the requests."""
    try:
        engine = _open(wanted)
    except UnsupportedError as error:
        if not wanted.fixed:
            raise
        raise UsageError(str(error).replace("fixed_dims:", "--fix:", 1)) from None
    for name in ENGINES_OF[kind_of(wanted.model)]:
        if not is_installed(name):
            tell(Phase(f"{name} left out: not installed ({how_to_install(name)})"))
    try:
        decision = settle_rows(engine, wanted.rows)
        requests = _requests(engine, wanted)
        return engine.spec, decision, requests
    finally:
        engine.close()


def _tell_of_rows(spec: ModelSpec, request: Arrays, tell: Callable[[Event], None]) -> None:
    """Report that all data are one request of several rows, as they may have been meant as several requests."""
    rows = max((len(request[tensor.name]) for tensor in spec.inputs if tensor.shape[:1] == (None,)), default=1)
    if rows > 1:
        on = ", or use --batching on if rows are independent" if spec.rows is Rows.UNKNOWN else ""
        tell(Phase(f"the data are one request of {rows:,} rows; for several requests, add an axis to the arrays{on}"))


def _requests(engine: Engine, wanted: TuneRequest) -> list[Arrays]:
    """The data's requests, or generated ones; where clients may send pixels, with values that pixels can represent."""
    spec, fold = engine.spec, wanted.normalize
    if fold is not None and not any(map(is_pixels, spec.inputs)):
        raise UsageError("--normalize: the model has no float input that could be sent as pixels")
    if fold is not None:
        check_channels(fold, spec)
    for name in wanted.outputs:
        if name not in spec.output_names:
            raise UsageError(f"--outputs: the model has no output {name!r}: it has {', '.join(spec.output_names)}")
    if wanted.data is None:
        samples = find_samples(engine, seed=wanted.seed)
        requests = made_up(samples, wanted.seed)
    else:
        data = wanted.data if fold is None else as_floats(fold, spec, wanted.data)
        requests = rows_of_data(spec, data, MOST_REQUESTS)
    if fold is None:
        return requests
    return [snapped(fold, spec, request, exactly=wanted.data is not None) for request in requests]


def made_up(samples: Samples, seed: int) -> list[Arrays]:
    """Distinct generated requests of one row, or of as few rows as the model accepts."""
    first = samples.make(samples.rows, seed)
    size_bytes = sum(array.nbytes for array in first.values())
    count = max(_FEWEST_MADE_UP, min(_MADE_UP, _MADE_UP_BYTES // max(1, size_bytes)))
    return [first, *(samples.make(samples.rows, seed + number) for number in range(1, count))]


def facts_of(wanted: TuneRequest, learned: Learned) -> SpaceFacts:
    """What decides which settings make sense for this model on this machine."""
    kind = kind_of(wanted.model)
    places = learned_places(learned.spec, learned.requests)
    machine, mask, limited = topology(), affinity_mask(), cpu_quota() is not None
    spec = learned.spec
    if wanted.max_batch_size is not None:
        spec = replace(spec, most_rows=spec.within(wanted.max_batch_size))
    return SpaceFacts(
        spec,
        wanted.constraints.cpus_of(usable_cpus()),
        os.cpu_count() or 1,
        isa_flags(),
        limited,
        wanted.wire,
        places,
        data_lengths(places, learned.requests),
        quantizable=kind is FileKind.ONNX and benefits_from_int8(load_graph(wanted.model)),
        lower_precision=wanted.data is not None and not learned.gate.blind and kind is not FileKind.SCRIPT,
        u8_input=wanted.normalize,
        outputs=wanted.outputs,
        fixed_dims=wanted.fixed,
        local=wanted.local,
        allocators=tuple(installed()),
        huge_heap=can_huge_heap(),
        cores=1 if limited else cores_of(machine, mask),
        nodes=1 if limited else max(1, len(usable_nodes(machine, mask, usable_cpus()))),
        engines=tuple(filter(is_installed, ENGINES_OF[kind])),
        device=wanted.device,
        compiler=kind is not FileKind.SCRIPT and not missing_compiler(wanted.device),
        rows=wanted.rows,
        signature=wanted.declared,
    )


def _open_reference(wanted: TuneRequest, spec: ModelSpec) -> Engine:
    engine = _open(wanted)
    engine.spec = replace(engine.spec, rows=spec.rows, rows_reason=spec.rows_reason)
    return engine


def _open(wanted: TuneRequest) -> Engine:
    """The model on the reference engine, whose float32 answers count as right."""
    name: Any = default_engine(wanted.model)
    options = EngineOptions(name=name, fixed_dims=wanted.fixed, signature=wanted.declared)
    return open_engine(wanted.model, options)


def with_signature(wanted: TuneRequest) -> TuneRequest:
    """The request for a tune, with the signature of a file that has none, as found by calling it with the data.

    Raises:
        UsageError: the arrays of the data do not match the module's inputs.
        TailcutError: the file is not trusted, cannot be loaded, or fails on the data.
    """
    if kind_of(wanted.model) is not FileKind.SCRIPT or wanted.declared or wanted.data is None:
        return wanted
    require("torch")
    from tailcut.engines.torch.script import seen_signature  # noqa: PLC0415  imports torch: 2 s, for TorchScript only

    return replace(wanted, declared=seen_signature(wanted.model, wanted.data))
