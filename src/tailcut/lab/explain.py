"""Polls a running server for the traces of its requests, and explains the slowest at the end."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from tailcut.errors import UsageError
from tailcut.lab.describe import served_models
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import ask
from tailcut.lab.records import ExplainResult
from tailcut.runtime.tracing.attribution import explain
from tailcut.runtime.tracing.records import DevicePhase, StepTimes
from tailcut.runtime.tracing.timeline import FIELDS, MARKS, STAGES, ProcessEvent
from tailcut.wire.v2.call import model_path

_POLL_S = 0.25
_MOST = 400_000  # requests kept; beyond that, the oldest are dropped


def only_model(target: LoadTarget, model: str | None) -> str:
    """The named model, or the server's only one.

    Raises:
        UsageError: the server has several models and none is named, or no such model.
    """
    names = served_models(target)
    if model is None and len(names) == 1:
        return names[0]
    if model not in names:
        reason = f"no model {model!r}" if model else f"{len(names)} models"
        raise UsageError(f"the server has {reason}: name one of {', '.join(names)} with --model")
    return model


def watch(target: LoadTarget, model: str, duration_s: float) -> ExplainResult:
    """Collect the traces of all requests within `duration_s` seconds, then explain the slowest.

    Raises:
        UsageError: the server does not answer, or keeps no traces.
    """
    records: list[np.ndarray] = []
    events: dict[ProcessEvent, None] = {}
    first = _poll(target, model, "-1")
    cursor, missed = first["next"], 0
    end = time.monotonic() + duration_s
    while (left := end - time.monotonic()) > 0:
        threading.Event().wait(min(_POLL_S, left))
        piece = _poll(target, model, cursor)
        cursor, missed = piece["next"], missed + piece["missed"]
        records.append(np.array(piece["records"], np.int64).reshape(-1, len(FIELDS)))
        events |= dict.fromkeys(ProcessEvent(*event) for event in piece["events"])
    joined = np.concatenate(records)[-_MOST:] if records else np.empty((0, len(FIELDS)), np.int64)
    result = explain(joined, list(events), max_batch_size=first["max_batch_size"])
    inside = _inside(target, model)
    return ExplainResult(
        **msgspec.structs.asdict(result),
        target=target.uds or target.authority,
        model=model,
        duration_s=duration_s,
        missed=missed,
        steps=inside.steps,
        device=inside.device,
    )


def while_doing(work: Callable[[], object], look: Callable[[], ExplainResult]) -> ExplainResult:
    """Run `work` on another thread while `look` runs; returns the result of `look`, or raises an error of `work`.

    Where `look` is interrupted, `work` is not waited for.
    """
    load: Future[None] = Future()

    def guarded() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  raised below, on the caller's thread
            load.set_exception(error)
        else:
            load.set_result(None)

    threading.Thread(target=guarded, name="load", daemon=True).start()
    try:
        result = look()
    except Exception:
        load.result()  # an error of the load is more specific
        raise
    load.result()
    return result


def trace_events(result: ExplainResult) -> dict[str, Any]:
    """The slowest requests, by process, as trace-event JSON for Perfetto and Chrome's tracing page."""
    worst = result.worst or []
    traced = [_name("process_name", pid, 0, f"process {pid}") for pid in sorted({entry.process for entry in worst})]
    for number, entry in enumerate(worst, 1):
        start, pid = entry.start_ns / 1e3, entry.process
        moments = [entry.marks_us[name] for name in MARKS]
        traced.append(_name("thread_name", pid, number, f"request {number}"))
        for stage, begin, end in zip(STAGES, moments, moments[1:], strict=False):
            details = {"rows": entry.rows, "batch_rows": entry.batch_rows, "coincided": entry.coincided}
            traced.append(
                {
                    "ph": "X",
                    "name": stage,
                    "pid": pid,
                    "tid": number,
                    "ts": start + begin,
                    "dur": end - begin,
                    "args": details,
                }
            )
    return {"displayTimeUnit": "ms", "traceEvents": traced}


def _name(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


class _Inside(msgspec.Struct, frozen=True):
    """The time in each step of a pipeline, and in each phase of calls to a device; UNSET where there is none."""

    steps: list[StepTimes] | UnsetType = UNSET
    device: list[DevicePhase] | UnsetType = UNSET


def _inside(target: LoadTarget, model: str) -> _Inside:
    with suppress(msgspec.ValidationError):
        return msgspec.convert(ask(target, "GET", f"{model_path(model)}/tail"), _Inside)
    return _Inside()


def _poll(target: LoadTarget, model: str, cursor: str) -> dict[str, Any]:
    with suppress(KeyError, TypeError):
        piece: dict[str, Any] = ask(target, "GET", f"{model_path(model)}/trace/{cursor}")
        if piece["fields"] == list(FIELDS):
            return piece
    raise UsageError(
        f"the server at {target.uds or target.authority} keeps no traces that this version of Tailcut can read"
    )
