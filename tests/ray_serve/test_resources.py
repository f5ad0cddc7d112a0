"""The resources that a replica needs on its node."""

import msgspec
import pytest

from tailcut.engines import EngineOptions
from tailcut.models import digits_model
from tailcut.ray.resources import REPLICA_BYTES, Resources, resources_of, together
from tailcut.runtime.pipeline_settings import PipelineSettings, StageSettings, StepModelSettings
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, IoSettings, SecondEngine, Settings

GB = 1 << 30


def profile(settings: Settings, **more: object) -> Profile:
    return msgspec.structs.replace(Profile.of_model(digits_model(), settings), **more)


def settings(dispatch: str = "worker", workers: int = 1, own_core: bool = False, **engine: object) -> Settings:
    return Settings(
        engine=EngineOptions(**engine),
        batching=BatchingSettings(dispatch=dispatch),
        io=IoSettings(workers=workers, own_core=own_core),
    )


@pytest.mark.parametrize(
    ("given", "usable", "cpus"),
    [
        (settings("inline", threads=1), 8, 1),  # the engine computes on the event loop's thread
        (settings("worker", threads=1), 8, 2),
        (settings("worker", threads=2, instances=2), 8, 5),
        (settings("inline", workers=3, threads=1), 8, 3),
        (settings("worker", threads=4), 4, 4),  # as many as the tune had
        (settings("worker", threads=0), 6, 6),  # the engine took all of them
        (settings("worker", threads=0), None, 2),
        (settings("worker", threads=8, device="cuda"), 16, 2),  # a device computes
    ],
)
def test_cpus(given: Settings, usable: int | None, cpus: int) -> None:
    """Threads of the engines, and the event loop's."""
    machine = {} if usable is None else {"usable_cpus": usable}
    assert resources_of(profile(given, machine=machine)).cpus == cpus


def test_cpus_of_a_tuned_pipeline() -> None:
    """Its stages' processes, its models' threads, and the event loop."""
    models = (
        StepModelSettings(file="a.onnx", sha256="x", engine=EngineOptions(threads=2)),
        StepModelSettings(file="b.toml", sha256="x"),
    )
    pipeline = PipelineSettings(stages=(StageSettings(name="s", workers=3),), models=models)
    assert resources_of(profile(Settings(pipeline=pipeline))).cpus == 6


def test_devices() -> None:
    """One for each that an engine is on."""
    assert resources_of(profile(settings())).gpus == 0
    assert resources_of(profile(settings(device="cuda"))).gpus == 1
    second = Settings(batching=BatchingSettings(second=SecondEngine(engine=EngineOptions(device="cuda"))))
    assert resources_of(profile(second)).gpus == 1
    model = StepModelSettings(file="a.onnx", sha256="x", engine=EngineOptions(device="cuda"))
    assert resources_of(profile(Settings(pipeline=PipelineSettings(models=(model,))))).gpus == 1


def test_memory_is_what_the_tune_has_measured() -> None:
    """With Ray's own process; unknown where it was not measured."""
    result = resources_of(profile(settings(), evidence={"tuned": {"memory_peak_bytes": GB}}))
    assert result.memory_bytes == GB + REPLICA_BYTES
    assert resources_of(profile(settings())).memory_bytes == 0
    assert resources_of(profile(settings(), evidence={"tuned": {"memory_peak_bytes": "?"}})).memory_bytes == 0


@pytest.mark.parametrize(
    ("given", "exclusive"),
    [
        (settings(), False),
        (settings(pinning=True), True),
        (settings(own_core=True), True),
        (settings(workers=2), True),
    ],
)
def test_pinned_threads_need_a_node(given: Settings, exclusive: bool) -> None:
    """Two servers of one machine would pin their threads to the same cores."""
    assert resources_of(profile(given)).exclusive is exclusive


def test_models_of_one_server() -> None:
    """Share its CPUs, its devices, and Ray's process; their memory adds up, where that of all is known."""
    none, first = frozenset[int](), frozenset({0})
    item = Resources(2.0, none, GB + REPLICA_BYTES, exclusive=False)
    other = Resources(1.0, first, 2 * GB + REPLICA_BYTES, exclusive=True)
    assert together([item, other]) == Resources(2.0, first, 3 * GB + REPLICA_BYTES, exclusive=True)
    assert together([item, Resources(1.0, none, 0, exclusive=False)]).memory_bytes == 0
    assert together([other, Resources(1.0, frozenset({1}), 0, exclusive=False)]).gpus == 2
    assert together([other, other]).gpus == 1
