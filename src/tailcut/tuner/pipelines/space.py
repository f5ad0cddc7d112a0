"""Which settings the steps of a pipeline may have, and which changes of a configuration are worth trying. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import msgspec

from tailcut.pipelines.stage import Stage
from tailcut.runtime.pipeline_settings import PipelineSettings, StageSettings, StepModelSettings
from tailcut.runtime.settings import Settings
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.pipelines.estimating import StageCallTimes
from tailcut.tuner.pipelines.ways import Around, Way, expect, shortlist

_SIZES = (1, 4, 8, 16, 32, 64, 128)
_COMBINED = 4000  # configurations, at most
_FEWEST_WAYS = 2
_DELAY = 0.5  # of what a call of one row takes
_LEAST_DELAY_US = 20
_SAME_STEPS, _SAME_ENGINES = 2, 4  # finalists with the same processes and engines; with the same engines
PROCESSES = "processes"  # the rung of how many processes run all steps


def stage_ways(stage: Stage, times: StageCallTimes, cpus: int) -> list[Way]:
    """Every number of processes with every batch size, those of the stage as written first.

    Threads share the interpreter, so the effect of more threads is left to the real server.

    Args:
        stage: as written.
        times: of its calls.
        cpus: number of CPUs.
    """
    own = StageSettings(name=stage.name, workers=stage.workers, max_batch_size=stage.max_batch_size, cpus=stage.cpus)
    counts = dict.fromkeys([stage.workers] if stage.threads else [stage.workers, 1, max(1, cpus // 2), cpus])
    sizes = dict.fromkeys([stage.max_batch_size, *(size for size in _SIZES if size in times.times_ns)])
    return [
        Way(
            msgspec.structs.replace(own, workers=count, max_batch_size=size),
            times.times_ns,
            times.cpu_ns,
            size,
            count,
            count * times.memory_bytes,
        )
        for count, size in product(counts, sizes)
    ]


def model_ways(model: StepModelSettings, estimates: Sequence[EngineEstimate], fixed: int = 0) -> list[Way]:
    """Every measured engine configuration with every batch size; for a profile, only its own settings.

    Args:
        model: settings of the step, with its file.
        estimates: of its engines.
        fixed: the largest batch of the step's profile; 0 if it has none.
    """
    ways = []
    for estimate in estimates:
        if estimate.error is not None or not estimate.sizes:
            continue
        options, times = estimate.options, {size: estimate.median_ns(size) for size in estimate.sizes}
        times[min(times)] = min(times[min(times)], estimate.alone_ns)
        for size in (fixed,) if fixed else estimate.sizes if estimate.batched else (1,):
            settings = model if fixed else msgspec.structs.replace(model, engine=options, max_batch_size=size)
            ways.append(Way(settings, times, estimate.cpu_ns, size, options.instances, estimate.memory_bytes))
    return ways


def configurations(
    base: Settings, ways: Mapping[str, Sequence[Way]], around: Around
) -> Iterator[PredictedConfiguration]:
    """Yield whole configurations with what is expected of them.

    Args:
        base: the settings of the pipeline as written, for the encoding that clients send.
        ways: the ways to run each step, by its name, in order.
        around: what is common to all configurations.
    """
    most = max(_FEWEST_WAYS, int(_COMBINED ** (1 / max(1, len(ways)))))
    for combined in product(*(shortlist(each, most) for each in ways.values())):
        settings = with_steps(base, [way.settings for way in combined])
        expected = expect(combined, around)
        yield PredictedConfiguration(
            settings,
            expected.rate,
            expected.alone_ms,
            expected.cpu_us,
            expected.memory_bytes,
            expected.p99_ms,
            expected.capacity,
        )


def with_steps(base: Settings, steps: Sequence[StageSettings | StepModelSettings]) -> Settings:
    """The settings of a pipeline with those of all its steps."""
    stages = tuple(step for step in steps if isinstance(step, StageSettings))
    models = tuple(dict.fromkeys(step for step in steps if isinstance(step, StepModelSettings)))
    own = base.pipeline or PipelineSettings()
    return msgspec.structs.replace(base, pipeline=msgspec.structs.replace(own, stages=stages, models=models))


def steps_of(settings: Settings) -> list[StageSettings | StepModelSettings]:
    """The settings of all steps, the stages first."""
    pipeline = settings.pipeline or PipelineSettings()
    return [*pipeline.stages, *pipeline.models]


def name_of(step: StageSettings | StepModelSettings) -> str:
    """The name of a step in settings."""
    return step.name if isinstance(step, StageSettings) else step.file


def with_step_of(settings: Settings, other: Settings, name: str) -> Settings:
    """The settings, with one step's settings from another configuration, or its number of processes for all steps."""
    if name == PROCESSES:
        return with_processes(settings, (other.pipeline or PipelineSettings()).processes)
    theirs = {name_of(step): step for step in steps_of(other)}
    return with_steps(settings, [theirs[name] if name_of(step) == name else step for step in steps_of(settings)])


def with_processes(settings: Settings, processes: int) -> Settings:
    """The settings with all steps in each of this many processes; 0: each step by itself."""
    own = settings.pipeline or PipelineSettings()
    return msgspec.structs.replace(settings, pipeline=msgspec.structs.replace(own, processes=processes))


def together(winner: Settings, cpus: int) -> Iterator[Settings]:
    """Yield all steps in one process, and in one for each CPU, whose engines get its share of the CPUs at most.

    The number of processes of each stage, their CPUs and its delay have no effect there.
    """
    own = winner.pipeline or PipelineSettings()
    if any(model.engine is not None and model.engine.device != "cpu" for model in own.models):
        return
    stages = tuple(msgspec.structs.replace(stage, workers=1, cpus=(), max_queue_delay_us=0) for stage in own.stages)
    for count in dict.fromkeys([1, cpus]):
        models = tuple(_within(model, max(1, cpus // count)) for model in own.models)
        pipeline = msgspec.structs.replace(own, stages=stages, models=models, processes=count)
        yield msgspec.structs.replace(winner, pipeline=pipeline)


def _within(model: StepModelSettings, cpus: int) -> StepModelSettings:
    if model.engine is None:
        return model
    engine = msgspec.structs.replace(model.engine, threads=min(model.engine.threads or cpus, cpus), instances=1)
    return msgspec.structs.replace(model, engine=engine)


def kinds_of(settings: Settings) -> list[tuple[object, int]]:
    """The groups of similar finalists that settings belong to, and how many of each may race."""
    pipeline = settings.pipeline or PipelineSettings()
    engines = tuple((model.file, model.engine) for model in pipeline.models)
    return [((tuple(stage.workers for stage in pipeline.stages), engines), _SAME_STEPS), (engines, _SAME_ENGINES)]


def refinements(
    winner: Settings, alone_us: Mapping[str, float], stages: Sequence[Stage], cpus: int, usable: int
) -> list[Settings]:
    """Small changes that only the real server can evaluate: all steps in one process, a delay, pinning, more threads.

    Args:
        winner: the configuration.
        alone_us: the time of a call of one row, by stage.
        stages: as written.
        cpus: number of CPUs that processes may be pinned to; 0 for no pinning.
        usable: number of usable CPUs.
    """
    pipeline = winner.pipeline or PipelineSettings()
    if pipeline.processes:
        others = [*together(winner, usable), with_processes(winner, 0)]
        return [item for item in others if item.pipeline and item.pipeline.processes != pipeline.processes]
    result = list(together(winner, usable)) if len(steps_of(winner)) > 1 else []
    for own, stage in zip(pipeline.stages, stages, strict=True):
        delay_us = round(_DELAY * alone_us[own.name])
        if own.max_batch_size > 1 and delay_us >= _LEAST_DELAY_US and not own.max_queue_delay_us:
            result.append(_with_stage(winner, msgspec.structs.replace(own, max_queue_delay_us=delay_us)))
        if not stage.threads and cpus > 1 and not own.cpus:
            pinned = tuple(cpus - 1 - number for number in range(min(own.workers, cpus)))
            result.append(_with_stage(winner, msgspec.structs.replace(own, cpus=pinned)))
        if stage.threads and own.workers < usable:
            result.append(_with_stage(winner, msgspec.structs.replace(own, workers=own.workers + 1)))
    return result


def thrifty(winner: Settings) -> list[Settings]:
    """The winner with one process fewer in a stage, or with a model whose threads do not spin, one change in each."""
    pipeline = winner.pipeline or PipelineSettings()
    if pipeline.processes > 1:
        return [with_processes(winner, pipeline.processes - 1)]
    result = [
        _with_stage(winner, msgspec.structs.replace(own, workers=own.workers - 1))
        for own in pipeline.stages
        if own.workers > 1
    ]
    for model in pipeline.models:
        engine = model.engine
        if engine is not None and engine.name == "onnxruntime" and engine.spinning and engine.threads != 1:
            quiet = msgspec.structs.replace(model, engine=msgspec.structs.replace(engine, spinning=False))
            steps = [quiet if step == model else step for step in steps_of(winner)]
            result.append(with_steps(winner, steps))
    return result


def _with_stage(settings: Settings, stage: StageSettings) -> Settings:
    return with_steps(settings, [stage if name_of(step) == stage.name else step for step in steps_of(settings)])
