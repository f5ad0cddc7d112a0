"""Reads the settings of a pipeline, and applies those of a profile to it."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tailcut.engines.file_hash import file_hash, model_hash
from tailcut.errors import ProfileError
from tailcut.pipelines.loading import PipelinePath
from tailcut.pipelines.stage import Pipeline, Stage
from tailcut.runtime.opening.source import is_profile
from tailcut.runtime.pipeline_settings import PipelineSettings, StageSettings, StepModelSettings
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, IoSettings, MemorySettings, Settings

_log = logging.getLogger("tailcut")


def settings_of(pipeline: Pipeline, path: PipelinePath) -> PipelineSettings:
    """The settings of a pipeline without a profile: those of `@stage`, and none for its models.

    Raises:
        ModelFileError: a model's file is missing or unreadable.
    """
    stages = tuple(
        StageSettings(name=step.name, workers=step.workers, max_batch_size=step.max_batch_size, cpus=step.cpus)
        for step in pipeline.steps
        if isinstance(step, Stage)
    )
    files = dict.fromkeys(str(step) for step in pipeline.steps if not isinstance(step, Stage))
    models = tuple(_of_model(path.file.parent, file) for file in files)
    return PipelineSettings(stages=stages, models=models, processes=pipeline.processes)


def with_settings(
    pipeline: Pipeline, path: PipelinePath, settings: PipelineSettings, *, accept_model_change: bool = False
) -> Pipeline:
    """The pipeline with the stage settings of a profile.

    With `accept_model_change`, a changed model file only causes a warning if the profile contains the model's
    signature, against which the file is then checked once it is open.

    Raises:
        ProfileError: the profile is for other stages or models.
    """
    stages = [step.name for step in pipeline.steps if isinstance(step, Stage)]
    if stages != [stage.name for stage in settings.stages]:
        theirs = ", ".join(stage.name for stage in settings.stages)
        raise ProfileError(f"{path}: its stages are {', '.join(stages)}, the profile has {theirs}: tune it again")
    for model in settings.models:
        if step_hash(path.file.parent / model.file) == model.sha256:
            continue
        if not (accept_model_change and model.signature):
            advice = ", or serve it with --accept-model-change" if model.signature else ""
            raise ProfileError(f"{path}: {model.file} has another SHA-256 than in the profile: tune it again{advice}")
        unproven = "is not the file that the profile was measured on: its figures are not proven for it"
        _log.warning("%s: %s %s", pipeline.name, model.file, unproven)
    steps = [_stage(step, settings) if isinstance(step, Stage) else step for step in pipeline.steps]
    return replace(pipeline, steps=steps, processes=settings.processes)


def model_files(pipeline: Pipeline, path: PipelinePath) -> list[Path]:
    """The models and profiles that are steps of a pipeline, each once."""
    files = [path.file.parent / step for step in pipeline.steps if not isinstance(step, Stage)]
    return list(dict.fromkeys(files))


def step_settings(files: Sequence[Path]) -> list[Settings]:
    """The settings of those steps of a pipeline that are profiles.

    Raises:
        ProfileError: a profile is missing or corrupt.
    """
    return [Profile.load(file).settings for file in files if is_profile(file)]


def process_settings(steps: Sequence[Settings]) -> tuple[MemorySettings, IoSettings]:
    """The process-wide settings for the profiles of a pipeline's steps; the defaults if there are none.

    A setting is on if any of the profiles needs it. Those that describe the tune's clients are taken from the first.
    """
    if not steps:
        return MemorySettings(), IoSettings()
    memory, io = [item.memory for item in steps], [item.io for item in steps]
    return MemorySettings(
        allocator=next((item.allocator for item in memory if item.allocator != "system"), "system"),
        keep_freed=any(item.keep_freed for item in memory),
        huge_heap=any(item.huge_heap for item in memory),
        gc_freeze=any(item.gc_freeze for item in memory),
    ), IoSettings(
        wire=io[0].wire,
        socket=io[0].socket,
        direct_bytes=min(item.direct_bytes for item in io),
        busy_poll_us=max(item.busy_poll_us for item in io),
        fast_path=all(item.fast_path for item in io),
        own_core=any(item.own_core for item in io),
        workers=max(item.workers for item in io),
    )


def step_profile(file: Path, settings: StepModelSettings | None) -> Profile | None:
    """The profile of a model with its settings from a pipeline's profile; None if that has none for it.

    Raises:
        ModelFileError: the file is missing or unreadable.
    """
    if settings is None or settings.engine is None:
        return None
    batching = BatchingSettings(max_batch_size=settings.max_batch_size, bind=False)
    return Profile.of_model(file, Settings(engine=settings.engine, batching=batching))


def step_hash(file: Path) -> str:
    """SHA-256 of a model or profile that is a step of a pipeline.

    Raises:
        ModelFileError: the file is missing or unreadable.
    """
    return file_hash(file) if file.suffix == ".toml" else model_hash(file)


def _of_model(folder: Path, file: str) -> StepModelSettings:
    path = folder / file
    profile = Profile.load(path) if is_profile(path) else Profile.of_model(path).with_signature()
    return StepModelSettings(file=file, sha256=step_hash(path), signature=profile.model.signature)


def _stage(stage: Stage, settings: PipelineSettings) -> Stage:
    own = settings.stage(stage.name)
    if own is None:
        return stage
    return replace(
        stage,
        workers=own.workers,
        max_batch_size=own.max_batch_size,
        max_queue_delay_us=own.max_queue_delay_us,
        cpus=_usable(stage.name, own.cpus),
    )


def _usable(stage: str, cpus: tuple[int, ...]) -> tuple[int, ...]:
    """The CPUs to pin to; none if this process may not use all of them."""
    if not cpus or not hasattr(os, "sched_getaffinity") or set(cpus) <= os.sched_getaffinity(0):
        return cpus
    _log.warning("stage %r: not pinned: this process may not use the CPUs of the profile", stage)
    return ()
