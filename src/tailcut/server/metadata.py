"""What the server states about itself and its models, as the protocol's JSON objects, which HTTP sends as they are.

gRPC sends them, too: its messages have the same fields. Nothing here is estimated: what is not measured is 0, and
docs/reference/protocol.md lists it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import cache
from importlib.metadata import version as installed_version
from typing import Any

import orjson

from tailcut.engines import engine_threads
from tailcut.memory.shared import CudaRegion, SharedRegion
from tailcut.runtime.settings import Settings
from tailcut.runtime.thread_budget import spins
from tailcut.runtime.tracing.timeline import FIELDS, ProcessEvent, RecordSlice
from tailcut.server.metrics import Counted
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.spec import DType, TensorSpec
from tailcut.triton.answer import completed
from tailcut.wire.v2 import model_metadata, server_metadata


@cache
def version() -> str:
    """Tailcut's version; looked up once, because reading it from files takes 20 ms."""
    return installed_version("tailcut")


_KINDS = {"cpu": "KIND_CPU", "cuda": "KIND_GPU"}
_TIMELINE_MOST = 8192  # requests in one answer: a megabyte


def server() -> dict[str, Any]:
    """Name, version and extensions."""
    return server_metadata(version())


def timeline(
    served: ServedModel, piece: RecordSlice, events_since: Callable[[int], list[ProcessEvent]]
) -> dict[str, Any]:
    """The requests in a slice of the timeline, the cursor for the next slice, and the events since then."""
    records = piece.records[-_TIMELINE_MOST:]
    begun = int(records[:, 0].min()) if len(records) else time.monotonic_ns()
    return {
        "fields": FIELDS,
        "records": records.tolist(),
        "next": _cursor(piece.next),
        "missed": piece.missed + len(piece.records) - len(records),
        "events": [astuple(event) for event in events_since(begun)],
        "max_batch_size": served.entry.max_batch_size,
    }


def _cursor(ends: Sequence[int]) -> str:
    """The cursor as text, with a number for each process that has ever answered: the last part of a trace's path."""
    used = max([1, *(number + 1 for number, end in enumerate(ends) if end)])
    return ".".join(map(str, ends[:used]))


def metadata(repository: ModelRepository, served: ServedModel, *, classes: bool = True) -> dict[str, Any]:
    """A model's inputs, outputs and versions; with the `classes` of outputs, unless for gRPC, which has no field."""
    spec, config = served.model.spec, configuration(served)
    platform = config["platform"] or config["backend"]  # as in Triton
    answer = model_metadata(spec, platform, served.version) | {
        "name": served.name,
        "versions": repository.versions(served.name),
    }
    for entry, tensor in zip(answer["outputs"], spec.outputs, strict=True):
        if classes and tensor.classes:
            entry["parameters"] = {"classes": list(tensor.classes)}
    return answer


def configuration(served: ServedModel) -> dict[str, Any]:
    """The object of the model-configuration extension, with the fields that apply here."""
    model = served.model
    batched = model.spec.batched
    options = model.profile.settings.engine
    config: dict[str, Any] = {
        "name": served.name,
        "platform": "onnxruntime_onnx" if options.name == "onnxruntime" else "",
        "backend": options.name,
        "max_batch_size": served.entry.max_batch_size if batched else 0,
        "input": [_tensor(tensor, batched=batched) for tensor in model.spec.inputs],
        "output": [_tensor(tensor, batched=batched) for tensor in model.spec.outputs],
        "instance_group": _instance_groups(served.name, model.profile.settings),
        "model_transaction_policy": {"decoupled": False},
        "parameters": {name: {"string_value": value} for name, value in facts(served).items()},
    }
    stages = ",".join(model.entry.stages())
    if stages:
        config |= {"platform": "", "backend": "pipeline"}
        config["parameters"]["stages"] = {"string_value": stages}
    if batched and served.entry.max_batch_size > 1:
        max_queue_delay_us = model.profile.settings.batching.max_queue_delay_us
        config["dynamic_batching"] = {"max_queue_delay_microseconds": max_queue_delay_us}
    classes = {
        f"classes.{tensor.name}": {"string_value": orjson.dumps(tensor.classes).decode()}
        for tensor in model.spec.outputs
        if tensor.classes
    }
    config["parameters"] |= classes
    return config if served.config is None else completed(served.config, config)


def _instance_groups(name: str, settings: Settings) -> list[dict[str, Any]]:
    """An entry for each engine of a model."""
    second = settings.batching.second
    engines = [settings.engine, *([second.engine] if second is not None else [])]
    return [
        {"name": f"{name}_second" if number else name, "count": engine.instances, "kind": _KINDS[engine.device]}
        for number, engine in enumerate(engines)
    ]


def facts(served: ServedModel) -> dict[str, str]:
    """The `parameters` of a configuration: what has no field in it."""
    return rows(served) | defaults(served) | engine(served)


def engine(served: ServedModel) -> dict[str, str]:
    """The number of threads that compute a call, and whether they spin between calls.

    For a pipeline, `step_threads` lists the threads of each step that this process computes: two=2,four=1.
    """
    if served.entry.stages():
        steps = served.entry.step_engines()
        threads = {name: 1 if options is None else engine_threads(options).count for name, options in steps.items()}
        return {
            "step_threads": ",".join(f"{name}={count}" for name, count in threads.items()),
            "engine_spins": str(any(step is not None and spins(step) for step in steps.values())).lower(),
        }
    options = served.model.profile.settings.engine
    return {"engine_threads": str(engine_threads(options).count), "engine_spins": str(spins(options)).lower()}


def rows(served: ServedModel) -> dict[str, str]:
    """What was decided about the model's rows, and why."""
    return {"rows": served.model.rows.rows.value, "rows_reason": served.model.rows.reason}


def defaults(served: ServedModel) -> dict[str, str]:
    """The settings measured for a model without a profile, and why; empty where a profile or the user set them."""
    choice = served.model.choice
    return {} if choice is None else {"defaults": choice.describe(), "defaults_reason": choice.reason}


def readiness(served: ServedModel, *, ready: bool) -> dict[str, Any]:
    """Whether a model answers and is warmed up; with the reason where not, or not for all batch sizes."""
    warm_up = served.entry.warm_up
    known = {"name": served.name, "ready": ready, "warmed_up": warm_up.warmed_up}
    return known | ({"reason": warm_up.reason} if warm_up.reason else {})


def statistics(served: Counted) -> dict[str, Any]:
    """One model's entry of the statistics extension. Times are in nanoseconds, summed over requests."""
    counts = served.entry.statistics()
    requests = counts["requests"]
    batches = served.entry.stage_batches()
    stages = [_stage(name, counts, batches.get(name, {})) for name, counts in served.entry.stages().items()]
    return ({"stages": stages} if stages else {}) | {
        "name": served.name,
        "version": served.version,
        "last_inference": counts["last_ms"],
        "inference_count": counts["rows"],
        "execution_count": counts["batches"],
        "inference_stats": _durations(counts)
        | {
            "compute_input": _duration(requests, 0),
            "compute_output": _duration(requests, 0),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": _batch_stats(served.entry.batches_by_rows()),
    }


def _batch_stats(by_rows: Mapping[int, tuple[int, int]]) -> list[dict[str, Any]]:
    return [
        {
            "batch_size": rows,
            "compute_input": _duration(batches, 0),
            "compute_infer": _duration(batches, compute_ns),
            "compute_output": _duration(batches, 0),
        }
        for rows, (batches, compute_ns) in sorted(by_rows.items())
    ]


def _stage(name: str, counts: dict[str, int | float], by_rows: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
    """The counts of one step of a pipeline, for which gRPC's message has no field."""
    return {
        "name": name,
        "inference_count": counts["rows"],
        "execution_count": counts["batches"],
        "restarts": counts["restarts"],
        "inference_stats": _durations(counts),
        "batch_stats": _batch_stats(by_rows),
    }


def _durations(counts: Mapping[str, int | float]) -> dict[str, Any]:
    requests = counts["requests"]
    return {
        "success": _duration(requests, counts["queue_ns"] + counts["served_ns"]),
        "fail": _duration(counts["failed"] + counts["expired"], counts["failed_ns"]),
        "queue": _duration(requests, counts["queue_ns"]),
        "compute_infer": _duration(requests, counts["served_ns"]),
    }


def region(known: SharedRegion) -> dict[str, Any]:
    """One region's entry of the shared-memory extension."""
    return {"name": known.name, "key": known.key, "offset": known.offset, "byte_size": known.size}


def cuda_region(known: CudaRegion) -> dict[str, Any]:
    """One region's entry of the CUDA shared-memory extension."""
    return {"name": known.name, "device_id": known.device, "byte_size": known.size}


def _tensor(tensor: TensorSpec, *, batched: bool) -> dict[str, Any]:
    shape = tensor.row_shape if batched else tensor.shape
    kind = "STRING" if tensor.dtype is DType.BYTES else tensor.dtype.value
    dims = [-1 if dim is None else dim for dim in shape]
    return {"name": tensor.name, "data_type": f"TYPE_{kind}", "dims": dims}


def _duration(count: float, ns: float) -> dict[str, float]:
    return {"count": count, "ns": ns}
