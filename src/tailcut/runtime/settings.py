"""The settings of one model: everything that the tuner may change and the server reads, and the range of each."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Literal

import msgspec

from tailcut.engines.base import EngineOptions, parse_fixed_dim
from tailcut.errors import UnsupportedError
from tailcut.machine.allocator import Allocator
from tailcut.runtime.pipeline_settings import PipelineSettings
from tailcut.runtime.rows import RowsSetting

_MOST_BUCKETS = 64
_MOST_ROWS = 65536
_LARGEST_INT = 1 << 63


class PaddedInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input that is padded along its free dimensions, and the value that it is padded with."""

    name: str
    value: float = 0.0
    # For each of its free axes, which buckets apply, 1 or 2; empty: 1 for the first axis, 2 for the second.
    dims: tuple[int, ...] = ()


class PaddingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests of different lengths share a batch: each is padded to the smallest bucket that holds it."""

    buckets: tuple[int, ...]  # lengths, ascending
    inputs: tuple[PaddedInput, ...]
    second_buckets: tuple[int, ...] = ()  # of a second free dimension, where there is one

    @property
    def dimensions(self) -> tuple[tuple[int, ...], ...]:
        """The buckets of each padded dimension."""
        return (self.buckets, self.second_buckets) if self.second_buckets else (self.buckets,)


class SecondEngine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model loaded once more, with another engine or on another device.

    With `route`, each batch is computed where learned costs predict the earlier answer. With `fallback`, and also with
    `route`, the second engine computes batches for which the first one's device failed.
    """

    use: Literal["route", "fallback"] = "route"
    engine: EngineOptions = EngineOptions()


class BatchingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests share an engine call."""

    max_batch_size: int = 1
    max_queue_delay_us: int = 0  # how long a batch may wait for more requests while an engine is idle; 0: never
    bind: bool = True  # the engine computes on slab rows in place; false: it copies in and out
    # Where batches are computed: on a thread of their own; on the loop's; or on the loop's only while they are short.
    dispatch: Literal["worker", "inline", "adaptive"] = "worker"
    padding: PaddingSettings | None = None  # of free dimensions beside the batch
    rows: RowsSetting = "auto"  # whether requests may be merged and split; auto: by the evidence
    second: SecondEngine | None = None  # for batches that the first engine would finish later, or cannot compute


class MemorySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The memory of rows, the allocator, and garbage collection."""

    huge_pages: bool = False  # ask for transparent huge pages under the slab
    prefault: bool = False  # touch every page of the slab at start
    lock: bool = False  # keep the slab's pages from being swapped out
    allocator: Allocator = "system"  # of the whole process; `tailcut serve` loads it first
    keep_freed: bool = False  # the C library keeps freed memory instead of returning it to the kernel
    huge_heap: bool = False  # glibc asks for transparent huge pages for everything that it allocates
    gc_freeze: bool = False  # freeze objects after loading, and collect garbage only between batches


class IoSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sockets, the event loop and processes."""

    # What clients sent when it was measured. Everything is always served, except that tensors in shared memory need
    # `serve --shared-memory`.
    wire: Literal["json", "binary", "raw", "shared"] = "binary"
    direct_bytes: int = 65536  # bodies of at least this length are received directly into rows
    busy_poll_us: int = 0  # how long to poll the sockets after an answer, instead of sleeping
    fast_path: bool = True  # compiled code serves connections that repeat themselves, where the model allows it
    own_core: bool = False  # the event loop has a core of its own, and engines compute on the others
    socket: Literal["tcp", "unix"] = "tcp"  # how clients connected when it was measured; see `serve --uds`
    workers: int = 1  # processes that `tailcut serve` starts without --workers


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a model, which a rung of the ladder may change."""

    engine: EngineOptions = EngineOptions()
    batching: BatchingSettings = BatchingSettings()
    memory: MemorySettings = MemorySettings()
    io: IoSettings = IoSettings()
    pipeline: PipelineSettings | None = None  # of the steps of a tuned pipeline

    @property
    def devices(self) -> frozenset[int]:
        """The indices of the CUDA devices of both engines, and of a pipeline's models."""
        second = self.batching.second
        engines = [self.engine, *([second.engine] if second is not None else [])]
        if self.pipeline is not None:
            engines += [model.engine for model in self.pipeline.models if model.engine is not None]
        return frozenset(engine.cuda.index for engine in engines if engine.device == "cuda")

    def among(self, devices: Sequence[int]) -> "Settings":
        """The settings for a process that sees only these devices, whose indices there begin with 0.

        Args:
            devices: the indices of all devices in the settings.
        """

        def moved(engine: EngineOptions) -> EngineOptions:
            if engine.device != "cuda" or engine.cuda.index not in devices:
                return engine
            cuda = msgspec.structs.replace(engine.cuda, index=devices.index(engine.cuda.index))
            return msgspec.structs.replace(engine, cuda=cuda)

        second, pipeline = self.batching.second, self.pipeline
        if second is not None:
            second = msgspec.structs.replace(second, engine=moved(second.engine))
        if pipeline is not None:
            models = (
                model if model.engine is None else msgspec.structs.replace(model, engine=moved(model.engine))
                for model in pipeline.models
            )
            pipeline = msgspec.structs.replace(pipeline, models=tuple(models))
        batching = msgspec.structs.replace(self.batching, second=second)
        return msgspec.structs.replace(self, engine=moved(self.engine), batching=batching, pipeline=pipeline)

    def describe(self, base: "Settings | None" = None) -> str:
        """The settings that differ from `base` (None: from the defaults), as `engine.threads=2 io.workers=2`.

        A declared signature is left out, because it describes the file.
        """
        base = base or Settings()
        mine, theirs = msgspec.to_builtins(self), msgspec.to_builtins(base)
        words = [
            f"{section}.{key}={_brief(value)}"
            for section, values in mine.items()
            if section != "pipeline"
            for key, value in _differing(values, theirs[section])
            if key != "signature"
        ]
        steps = "" if self.pipeline is None else self.pipeline.describe(base.pipeline)
        return " ".join([*words, steps] if steps else words)


def check(settings: Settings) -> None:
    """Check that values are within their ranges and can be combined.

    Raises:
        ValueError: one is not; the message names it as `settings.section.key`.
    """
    second = settings.batching.second
    limits = {
        "engine.threads": (settings.engine.threads, 0, 1024),
        "engine.instances": (settings.engine.instances, 1, 256),
        "engine.cuda.index": (settings.engine.cuda.index, 0, 255),
        "engine.cuda.slots": (settings.engine.cuda.slots, 0, 257),
        "engine.cuda.memory_limit_mb": (settings.engine.cuda.memory_limit_mb, 0, 1 << 24),
        "batching.second.engine.threads": (second.engine.threads if second else 0, 0, 1024),
        "batching.second.engine.instances": (second.engine.instances if second else 1, 1, 256),
        "batching.max_batch_size": (settings.batching.max_batch_size, 1, _MOST_ROWS),
        "batching.max_queue_delay_us": (settings.batching.max_queue_delay_us, 0, 10_000_000),
        "engine.spin_us": (settings.engine.spin_us, 0, 1_000_000),
        "io.direct_bytes": (settings.io.direct_bytes, 0, 1 << 40),
        "io.busy_poll_us": (settings.io.busy_poll_us, 0, 10_000),
    }
    for text in settings.engine.fixed_dims:
        try:
            parse_fixed_dim(text)
        except UnsupportedError as error:
            raise ValueError(f"settings.engine.{error}") from None
    for stage in () if settings.pipeline is None else settings.pipeline.stages:
        limits[f"pipeline: {stage.name}: workers"] = (stage.workers, 1, 256)
        limits[f"pipeline: {stage.name}: max_batch_size"] = (stage.max_batch_size, 1, _MOST_ROWS)
        limits[f"pipeline: {stage.name}: max_queue_delay_us"] = (stage.max_queue_delay_us, 0, 10_000_000)
    _check_buckets(settings)
    padding = settings.batching.padding
    if padding is not None:
        right = all(map(_is_rising, padding.dimensions))
        if not (padding.inputs and right and prod(map(len, padding.dimensions)) <= _MOST_BUCKETS):
            raise ValueError(f"settings.batching.padding needs inputs, and 1 to {_MOST_BUCKETS} rising buckets")
    if settings.batching.max_queue_delay_us and settings.batching.dispatch == "inline":
        raise ValueError("settings.batching.max_queue_delay_us needs dispatch = 'worker': an inline loop cannot wait")
    _check_second(settings.batching)
    if settings.batching.dispatch == "adaptive" and settings.engine.instances != 1:
        raise ValueError("settings.batching.dispatch = 'adaptive' needs engine.instances = 1")
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            shown = (
                value if abs(value) < _LARGEST_INT else "far too large"
            )  # Python limits the digits of numbers as text
            raise ValueError(f"settings.{name} is {shown}, must be {low} to {high}")


def _check_buckets(settings: Settings) -> None:
    second = settings.batching.second
    for engine in (settings.engine, *([second.engine] if second else [])):
        sizes = engine.cuda.buckets
        if isinstance(sizes, tuple) and not (_is_rising(sizes) and sizes[-1] <= _MOST_ROWS):
            raise ValueError(f"settings.engine.cuda.buckets must rise from 1 to {_MOST_ROWS}, or be 'auto' or 'off'")


def _check_second(batching: BatchingSettings) -> None:
    second = batching.second
    if second is None:
        return
    routes = second.use == "route"
    if routes and (batching.dispatch != "worker" or batching.max_queue_delay_us):
        raise ValueError(
            "settings.batching.second with use = 'route' needs dispatch = 'worker' and max_queue_delay_us = 0"
        )
    if batching.padding is not None or second.engine.precision == "int8_static":
        raise ValueError("settings.batching.second cannot be combined with padding or precision int8_static")


def _is_rising(buckets: tuple[int, ...]) -> bool:
    return bool(buckets) and buckets[0] >= 1 and all(low < high for low, high in pairwise(buckets))


def _differing(mine: dict[str, Any], theirs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values of a section that differ; for nested settings of a device, each separately."""
    for key, value in mine.items():
        if key == "cuda":
            yield from ((f"cuda.{name}", item) for name, item in _differing(value, theirs[key]))
        elif value != theirs[key]:
            yield key, value


def _brief(value: Any) -> Any:
    """A value in one word: for padding its buckets, for pixels their scale, for outputs their names."""
    if isinstance(value, dict) and "use" in value:
        return f"{value['use']}:{value['engine']['name']}:{value['engine']['device']}"
    if isinstance(value, dict):
        several = [value.get("buckets") or value["scale"], value.get("second_buckets") or ()]
        return "x".join("/".join(f"{number:.6g}" for number in numbers) for numbers in several if numbers)
    if isinstance(value, list | tuple):
        return ",".join(item["name"] if isinstance(item, dict) else str(item) for item in value)
    return value
