"""Small changes of the race's winner, each of which then races against it on the real server. Pure.

Changes that can have no effect for the model, the machine or the winner are left out.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from tailcut.runtime.settings import Settings
from tailcut.tuner.devices import second_engines
from tailcut.tuner.space import BF16_FLAGS, SpaceFacts, batch_sizes, changed, paddings_of

_LEAST_PADDED = 8  # rows of the largest batch with padding
_BUSY_POLL_US = 100
_SPINS_US = (50, 500)  # spinning times of an engine's threads, by default about 40 ms
_HUGE_PAGE = 2 << 20
_SMALL_ROW = 4096  # bytes
_GAINING, _SPARING = 1.01, 0.99  # of the winner's score, which a change has to reach


def refinements(facts: SpaceFacts, winner: Settings) -> list[Settings]:
    """Small changes of a configuration that only the real server can evaluate."""
    changes = [
        *_of_batches(facts, winner),
        *_of_loop(facts, winner),
        *_of_engine(facts, winner),
        *_of_device(facts, winner),
        *_of_memory(facts, winner),
        *_smaller(facts, winner),
    ]
    return [settings for settings in dict.fromkeys(changes) if settings != winner]


def _of_batches(facts: SpaceFacts, winner: Settings) -> Iterator[Settings]:
    """Yield larger batches, and padding buckets or their removal: the simulation models neither fully."""
    larger = [size for size in batch_sizes(facts.spec) if size > winner.batching.max_batch_size]
    for size in dict.fromkeys([*larger[-1:], *larger[:1]]):
        yield changed(winner, batching={"max_batch_size": size})
    if winner.batching.padding is not None:
        yield changed(winner, batching={"padding": None}, engine={"static_buckets": False})
        return
    for padding in paddings_of(facts):
        size = facts.spec.within(max(_LEAST_PADDED, winner.batching.max_batch_size))
        yield changed(winner, batching={"padding": padding, "max_batch_size": size})


def _smaller(facts: SpaceFacts, winner: Settings) -> Iterator[Settings]:
    """Yield the next smaller batch, if there is one: the simulation chose the smallest of equals already."""
    smaller = [size for size in batch_sizes(facts.spec) if size < winner.batching.max_batch_size]
    for size in smaller[-1:]:
        yield changed(winner, batching={"max_batch_size": size})


def _of_loop(facts: SpaceFacts, winner: Settings) -> Iterator[Settings]:
    """Yield changes of the event loop's work, and of the number of worker processes."""
    cpus, engine, spec = facts.usable_cpus, winner.engine, facts.spec
    yield changed(winner, memory={"gc_freeze": True})
    if cpus > 1:
        yield changed(winner, io={"busy_poll_us": _BUSY_POLL_US})
        if winner.io.wire != "shared":  # a region is registered with a single process
            powers = [1 << power for power in range(1, max(2, (cpus // 2).bit_length()))]
            for workers in dict.fromkeys([2, facts.nodes, *powers] if facts.nodes > 1 else powers):
                yield changed(
                    winner, io={"workers": workers}, engine={"threads": max(1, cpus // workers), "instances": 1}
                )
    if min(facts.cores, cpus) > 1 and winner.batching.dispatch != "inline" and winner.io.workers == 1:
        threads = min(engine.threads or cpus, cpus - 1)
        yield changed(
            winner,
            io={"own_core": True},
            engine={"threads": threads, "instances": max(1, min(engine.instances, (cpus - 1) // threads))},
        )
    if winner.io.fast_path:
        yield changed(winner, io={"fast_path": False})
    row_bytes = sum(tensor.row_bytes or 0 for tensor in spec.inputs)
    rows = winner.batching.bind and spec.fixed_rows and len(spec.inputs) == 1 and row_bytes > _SMALL_ROW
    if rows and winner.io.wire in {"binary", "raw"}:
        limit = _SMALL_ROW if winner.io.direct_bytes > row_bytes else 1 << 30
        yield changed(winner, io={"direct_bytes": limit})


def _of_engine(facts: SpaceFacts, winner: Settings) -> Iterator[Settings]:
    """Yield changes of how the engine computes."""
    cpus, engine = facts.usable_cpus, winner.engine
    if winner.batching.padding is not None:
        quiet = engine.spinning and engine.threads == 1  # a pool per bucket: spinning ones disturb each other
        yield changed(winner, engine={"static_buckets": True, "spinning": quiet})
    if engine.name == "onnxruntime":
        if engine.threads > 1 and engine.spinning:
            for spin_us in _SPINS_US:
                yield changed(winner, engine={"spin_us": spin_us})
        yield changed(winner, engine={"arena": not engine.arena, "arena_growth": "power_of_two"})
        if engine.arena:
            yield changed(winner, engine={"arena_growth": "as_requested"})
        yield changed(winner, engine={"prepack": False})
        if facts.convolutions:
            yield changed(winner, engine={"layout": "plain"})
    if cpus > 1 and not facts.has_quota and engine.threads > 1 and engine.name != "torch":
        yield changed(winner, engine={"pinning": True})
    near = engine.device == "cuda" or engine.instances >= facts.nodes  # a device is on one node anyway
    if facts.nodes > 1 and near and winner.batching.dispatch == "worker":
        yield changed(winner, engine={"numa": True})


def _of_device(facts: SpaceFacts, winner: Settings) -> Iterator[Settings]:
    """Yield batches without padding to buckets, and CPU engines that share a device's batches."""
    batching, cuda = winner.batching, winner.engine.cuda
    if winner.engine.device == "cuda" and batching.max_batch_size > 1 and cuda.buckets != "off":
        yield changed(winner, engine={"cuda": replace(cuda, buckets="off")})
    if batching.dispatch != "worker" or batching.padding is not None or batching.second is not None:
        return
    bf16 = facts.lower_precision and bool(BF16_FLAGS & facts.isa)
    for second in second_engines(winner.engine, facts.engines, cpus=facts.usable_cpus, bf16=bf16):
        yield changed(winner, batching={"second": second, "max_queue_delay_us": 0})


def _of_memory(facts: SpaceFacts, winner: Settings) -> Iterator[Settings]:
    """Yield changes of how rows and all other memory are allocated."""
    spec, bound = facts.spec, facts.spec.fixed_rows and winner.batching.bind
    if bound:
        yield changed(winner, memory={"prefault": True})
        row_bytes = sum(tensor.row_bytes or 0 for tensor in spec.inputs)
        if row_bytes * winner.batching.max_batch_size >= _HUGE_PAGE:
            yield changed(winner, memory={"huge_pages": True})
    yield changed(winner, memory={"keep_freed": True})
    # openvino crashes with another allocator.
    for name in facts.allocators if winner.engine.name != "openvino" else ():
        yield changed(winner, memory={"allocator": name, "huge_heap": False})
    if facts.huge_heap and winner.memory.allocator == "system":
        yield changed(winner, memory={"huge_heap": True})
    if bound:
        yield changed(winner, memory={"lock": True})


def least_gain(candidate: Settings, winner: Settings) -> float:
    """The least score, relative to the winner's, to keep a change: one that only saves memory may cost a little."""
    return _SPARING if winner.io.fast_path and not candidate.io.fast_path else _GAINING


def holds_weights_again(settings: Settings) -> bool:
    """Whether the weights are in memory more than once, which no estimate takes into account."""
    on_nodes = settings.engine.numa and settings.engine.device == "cpu"
    return settings.io.workers > 1 or settings.engine.static_buckets or on_nodes or settings.batching.second is not None
