"""What a process that runs all steps of a pipeline gets from the server, and how it opens them."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from tailcut.errors import UsageError
from tailcut.pipelines.chain import Chain, ChainLayout, ModelStep, StageStep, chain_stage, signature_of
from tailcut.pipelines.loading import PipelinePath, load_pipeline
from tailcut.pipelines.plan import plan_pipeline
from tailcut.pipelines.process import StageSource
from tailcut.pipelines.stage import Pipeline, Stage
from tailcut.pipelines.steps import model_outline, stage_outline
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.spec import ModelSpec


class ChainSettings(msgspec.Struct, frozen=True):
    """Settings that the server has and the pipeline's file does not.

    Args:
        models: the profile of each model, in the order of the steps.
        max_batch_sizes: of each stage, likewise.
        limits: of each step.
    """

    models: tuple[Profile, ...]
    max_batch_sizes: tuple[int, ...]
    limits: Limits


def chain_source(
    pipeline: Pipeline, path: PipelinePath, models: Sequence[Model], limits: Limits
) -> tuple[StageSource, ModelSpec]:
    """A stage that stands for all steps of a pipeline, and the pipeline's signature.

    Args:
        pipeline: with the settings of its stages.
        path: of the pipeline.
        models: the open models, in the order of the steps.
        limits: of each step.

    Raises:
        UsageError: the steps do not fit together, or a model needs a device.
    """
    for model in models:
        if model.profile.settings.engine.device != "cpu":
            raise UsageError(
                f"pipeline {pipeline.name!r}: processes={pipeline.processes}, but model {model.spec.name!r} runs on a "
                "device, which processes do not share: leave out processes"
            )
    profiles = tuple(_on_one_thread(model.profile) for model in models)
    sizes = tuple(step.max_batch_size for step in pipeline.steps if isinstance(step, Stage))
    settings = ChainSettings(profiles, sizes, limits)
    whole, spec = _whole(pipeline, [model.spec for model in models], settings)
    signature, encoded = signature_of(_named(pipeline)), msgspec.json.encode(settings)
    return StageSource(whole, path, -1, signature, encoded, ChainLayout(spec)), spec


def open_chain(path: PipelinePath, signature: str, encoded: bytes) -> Chain:
    """Open all steps in this process.

    Args:
        path: of the pipeline.
        signature: of its steps, as the server loaded them.
        encoded: the `ChainSettings`.

    Raises:
        UsageError: the file has changed.
        TailcutError: a model cannot be opened.
    """
    pipeline = load_pipeline(path)
    if signature_of(_named(pipeline)) != signature:
        raise UsageError(f"{path}: its steps have changed since it was loaded: reload it")
    settings = msgspec.json.decode(encoded, type=ChainSettings)
    sizes, profiles = iter(settings.max_batch_sizes), iter(settings.models)
    steps: list[StageStep | ModelStep] = [
        StageStep(replace(step, max_batch_size=next(sizes)))
        if isinstance(step, Stage)
        else _opened(next(profiles), settings.limits)
        for step in pipeline.steps
    ]
    whole, spec = _whole(pipeline, [step.spec for step in steps if step.stage is None], settings)
    return Chain(whole, steps, ChainLayout(spec))


def _opened(profile: Profile, limits: Limits) -> ModelStep:
    model = Model.open(profile, limits=limits)
    engine = model.entry.engine
    assert engine is not None  # noqa: S101  only a pipeline's entry has none
    return ModelStep(engine, model)


def _whole(pipeline: Pipeline, models: Sequence[ModelSpec], settings: ChainSettings) -> tuple[Stage, ModelSpec]:
    rest = iter(models)
    steps = [step if isinstance(step, Stage) else next(rest) for step in pipeline.steps]
    spec = plan_pipeline(
        pipeline.name, [stage_outline(step) if isinstance(step, Stage) else model_outline(step) for step in steps]
    )
    most = min((profile.settings.batching.max_batch_size for profile in settings.models), default=1)
    timeout_s = settings.limits.engine_timeout_s
    return chain_stage(spec, steps, max(1, pipeline.processes), most=most, timeout_s=timeout_s), spec


def _named(pipeline: Pipeline) -> list[Stage | str]:
    return [step if isinstance(step, Stage) else str(step) for step in pipeline.steps]


def _on_one_thread(profile: Profile) -> Profile:
    """The profile for the one thread of a process that calls the engine, which keeps its own threads."""
    replaced, own = msgspec.structs.replace, profile.settings
    batching = replaced(own.batching, bind=False, dispatch="inline", max_queue_delay_us=0, second=None)
    settings = replaced(own, batching=batching, engine=replaced(own.engine, instances=1, numa=False))
    return replaced(profile, settings=settings, evidence={}, machine={}, together=None)
