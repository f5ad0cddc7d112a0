"""The settings of a pipeline's steps that a tune chooses from."""

import msgspec
import numpy as np

from tailcut.engines.base import EngineOptions
from tailcut.pipelines.stage import Stage, stage
from tailcut.runtime.pipeline_settings import PipelineSettings, StageSettings, StepModelSettings
from tailcut.runtime.settings import Settings
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.pipelines.estimating import StageCallTimes
from tailcut.tuner.pipelines.space import (
    PROCESSES,
    configurations,
    kinds_of,
    model_ways,
    refinements,
    stage_ways,
    thrifty,
    with_step_of,
)
from tailcut.tuner.pipelines.ways import Around

TIMES = StageCallTimes({1: 1e6, 2: 1.2e6, 4: 1.5e6, 8: 2e6}, {1: 1e6, 2: 1.2e6, 4: 1.5e6, 8: 2e6}, 40 << 20)
MODEL = StepModelSettings(file="m.onnx", sha256="0")
AROUND = Around(4.0, 1e5, 100.0, 0.0)


def written(name: str = "tokenize", **arguments: object) -> Stage:
    def function(x: np.ndarray) -> np.ndarray:
        return x

    make = stage(inputs={"x": "FP32"}, outputs={"x": "FP32"}, name=name, **arguments)  # type: ignore[arg-type]
    return make(function)


def estimate(**options: object) -> EngineEstimate:
    result = EngineEstimate(EngineOptions(**options), batched=True)  # type: ignore[arg-type]
    for size in (1, 2, 4):
        result.times_ns[size] = [np.full(9, 1e6 * size**0.5)]
        result.cpu_ns[size] = 1e6 * size**0.5
    return result


def test_a_stage_may_have_more_processes_and_other_batches() -> None:
    """Its own numbers are among them; nothing has more processes than there are CPUs, but what is written."""
    ways = stage_ways(written(workers=6, max_batch_size=32), TIMES, 4)
    assert {way.settings.workers for way in ways} == {1, 2, 4, 6}  # type: ignore[union-attr]
    assert {way.settings.max_batch_size for way in ways} == {1, 4, 8, 32}
    assert ways[0].settings == StageSettings(name="tokenize", workers=6)
    assert {way.memory_bytes for way in ways if way.calls == 2} == {80 << 20}


def test_a_bare_model_gets_engines_and_a_profile_stays() -> None:
    """Every engine that was measured, with every batch size; a step that is a profile runs as that says."""
    engines = [estimate(threads=1), estimate(threads=2), EngineEstimate(EngineOptions(), error="cannot load it")]
    ways = model_ways(MODEL, engines)
    assert {(way.settings.engine.threads, way.settings.max_batch_size) for way in ways} == {  # type: ignore[union-attr]
        (threads, size) for threads in (1, 2) for size in (1, 2, 4)
    }
    profile = StepModelSettings(file="m.profile.toml", sha256="0")
    assert [(way.settings, way.largest) for way in model_ways(profile, engines[:1], 16)] == [(profile, 16)]


def test_configurations_are_whole() -> None:
    """Settings of all steps in each, by what their name says what differs from the pipeline as it is written."""
    base = Settings(pipeline=PipelineSettings(stages=(StageSettings(name="tokenize"),), models=(MODEL,)))
    ways = {
        "tokenize": stage_ways(written(), TIMES, 2),
        "m.onnx": model_ways(MODEL, [estimate(threads=1)]),
    }
    result = list(configurations(base, ways, AROUND))
    assert len({item.settings for item in result}) == len(result) >= 2
    assert all(item.settings.pipeline and item.settings.pipeline.models[0].engine for item in result)
    best = max(result, key=lambda item: item.rate)
    assert "tokenize.workers=2" in best.settings.describe(base)
    assert "m.onnx.threads=1" in best.settings.describe(base)
    assert with_step_of(base, best.settings, "tokenize").describe(base) == " ".join(
        word for word in best.settings.describe(base).split() if word.startswith("tokenize.")
    )
    assert len({kinds_of(item.settings)[0] for item in result}) == 2  # one process, and two


def test_all_steps_may_run_in_processes() -> None:
    """The engines of each get its share of the CPUs at most; from there, other numbers are tried, and fewer of them."""
    model = msgspec.structs.replace(MODEL, engine=EngineOptions(threads=2, instances=2), max_batch_size=8)
    base = Settings(pipeline=PipelineSettings(stages=(StageSettings(name="tokenize"),), models=(model,)))
    one, four = refinements(base, {"tokenize": 1.0}, [written()], 0, 4)
    assert one.describe(base) == "processes=1 m.onnx.instances=1"
    assert four.describe(base) == "processes=4 m.onnx.threads=1 m.onnx.instances=1"
    others = refinements(one, {"tokenize": 1.0}, [written()], 0, 4)
    assert [item.describe(one) for item in others] == ["processes=4 m.onnx.threads=1", "processes=0"]
    assert [item.describe(four) for item in thrifty(four)] == ["processes=3"]
    assert with_step_of(base, four, PROCESSES).describe(base) == "processes=4"
    assert with_step_of(four, base, PROCESSES).pipeline.processes == 0  # type: ignore[union-attr]
    assert with_step_of(four, base, "tokenize") == four
    cuda = msgspec.structs.replace(model, engine=EngineOptions(name="torch", device="cuda"))
    there = Settings(pipeline=PipelineSettings(stages=(StageSettings(name="tokenize"),), models=(cuda,)))
    assert refinements(there, {"tokenize": 1.0}, [written()], 0, 4) == []
    alone = Settings(pipeline=PipelineSettings(stages=(StageSettings(name="tokenize"),)))
    assert refinements(alone, {"tokenize": 1.0}, [written()], 0, 4) == []


def test_small_changes_and_thrifty_ones() -> None:
    """A delay for a stage that batches, pinned processes where there is no quota, and one process less."""
    stages = (StageSettings(name="tokenize", workers=2),)
    winner = Settings(pipeline=PipelineSettings(stages=stages, models=(MODEL,)))
    words = [refinement.describe(winner) for refinement in refinements(winner, {"tokenize": 1000.0}, [written()], 4, 4)]
    one = "tokenize.workers=1"
    assert words == [f"processes=1 {one}", f"processes=4 {one}", "tokenize.max_queue_delay_us=500", "tokenize.cpus=3,2"]
    threads = refinements(winner, {"tokenize": 1.0}, [written(threads=True)], 4, 4)
    assert [thread.describe(winner) for thread in threads] == [
        f"processes=1 {one}",
        f"processes=4 {one}",
        "tokenize.workers=3",
    ]
    assert {way.settings.workers for way in stage_ways(written(threads=True), TIMES, 4)} == {1}  # type: ignore[union-attr]
    assert [item.describe(winner) for item in thrifty(winner)] == ["tokenize.workers=1"]
