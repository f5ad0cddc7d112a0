"""What the live page shows beside its figures: the models, their settings, and the doctor's findings."""

import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from tailcut.live.records import MOST_MODELS, About, DoctorFinding, Findings, ModelAbout
from tailcut.machine.checks import examine_settings
from tailcut.machine.facts import collect
from tailcut.machine.quota import affinity_mask
from tailcut.runtime.settings import Settings
from tailcut.server import metadata
from tailcut.server.context import Context
from tailcut.server.served_model import ServedModel

_THREADS = Path("/proc/self/task")


def about(context: Context) -> About:
    """Describe the server and its models."""
    models = list(context.models)
    limit_ns = max((served.latency.limit_ns for served in models), default=0)
    return About(
        version=metadata.version(),
        pid=os.getpid(),
        slo_ms=limit_ns / 1e6 if limit_ns else None,
        queue_rows=max((served.entry.queue_rows for served in models), default=None),
        models=[_model(served) for served in islice(models, MOST_MODELS)],
        models_left_out=max(0, len(models) - MOST_MODELS),
    )


def findings() -> Findings:
    """The doctor's checks of how the machine is set up; reads files, so call it on another thread than the loop's."""
    checks = examine_settings(collect(mask=_mask()))
    return Findings(
        checks=[
            DoctorFinding(name=check.name, severity=check.severity.value, finding=check.finding, remedy=check.remedy)
            for check in checks
        ]
    )


def _mask() -> frozenset[int]:
    """The CPUs of all threads: the loop's thread may be pinned to one of its own."""
    if not _THREADS.exists():
        return affinity_mask()
    cpus: set[int] = set()
    for thread in _THREADS.iterdir():
        try:
            cpus |= os.sched_getaffinity(int(thread.name))
        except ProcessLookupError:  # it has ended
            continue
    return frozenset(cpus)


def _model(served: ServedModel) -> ModelAbout:
    settings, defaults = served.model.profile.settings, Settings()
    mine, usual = _flat(msgspec.to_builtins(settings)), _flat(msgspec.to_builtins(defaults))
    slab = served.entry.slab
    stages = served.entry.describe_stages()
    return ModelAbout(
        name=served.name,
        version=served.version,
        settings=mine,
        changed=[name for name, value in mine.items() if usual.get(name) != value],
        facts=metadata.facts(served) | ({"stages": stages} if stages else {}),
        rows=None if slab is None else len(slab.inputs[0]),
        memory_bytes=None if slab is None else sum(array.nbytes for array in (*slab.inputs, *slab.outputs)),
    )


def _flat(values: Mapping[str, Any], lead: str = "") -> dict[str, str]:
    """Nested settings under dotted names; a list is one value."""
    result: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{lead}{name}.")
        else:
            result[lead + name] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return result
