"""A pipeline as a model: what `Model.open("embed.py:pipeline")` returns and a server serves."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from tailcut import forks
from tailcut.engines.base import EngineOptions
from tailcut.engines.file_hash import file_hash
from tailcut.engines.trust import trust as trust_file
from tailcut.pipelines.chain import has_common_rows
from tailcut.pipelines.chain_loading import chain_source
from tailcut.pipelines.engine import StageEngine
from tailcut.pipelines.entry import PipelineEntry
from tailcut.pipelines.flow import StepDelivery
from tailcut.pipelines.loading import PipelinePath, load_pipeline, parse_path, take_pipeline
from tailcut.pipelines.plan import PipelineStep, plan_pipeline
from tailcut.pipelines.process import StageSource
from tailcut.pipelines.stage import Pipeline, Stage
from tailcut.pipelines.steps import OpenStep, StepOptions, model_outline, open_model, open_stage, stage_outline
from tailcut.pipelines.tuned import model_files, process_settings, step_settings, with_settings
from tailcut.runtime.calls import LibraryCalls
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model, as_neighbour
from tailcut.runtime.opening.source import is_profile
from tailcut.runtime.pipeline_settings import PipelineSettings
from tailcut.runtime.profile import ModelRef, Profile, with_batching
from tailcut.runtime.rows import Batching, RowDecision, read_signature
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import ModelSpec, RowEvidence

OpenModel = Callable[[str | Path], Model]


class PipelineModel:
    """A sequence of stages and models that answers requests from any number of threads and event loops.

    Made by `tailcut.Model.open("FILE.py:VARIABLE")`. Its public names are those of a `Model`. Thread-safe, except that
    `close` must be the last call. It does not survive a fork: open it in the process that uses it.
    """

    choice = None

    def __init__(
        self, profile: Profile, steps: Sequence[OpenStep], spec: ModelSpec | None = None, *, one_batch: bool = False
    ) -> None:
        """Make a pipeline of open steps.

        Args:
            profile: the pipeline's profile.
            steps: the open steps, in order.
            spec: the pipeline's inputs and outputs; None: the inputs of the first step and the outputs of the last.
            one_batch: refuse a request whose inputs differ in their number of rows, whichever steps take them.

        Raises:
            UsageError: without `spec`, the tensors of the steps do not fit together.
        """
        self.spec = spec or plan_pipeline(profile.model.name, [step.outline for step in steps])
        self.entry = PipelineEntry(self.spec, steps, one_batch=one_batch)
        evidence = RowEvidence(self.spec.rows, self.spec.rows_reason)
        self.rows = RowDecision(self.spec.rows, self.spec.rows_reason, "auto", read_signature(self.spec), evidence)
        self.profile = profile
        self._calls = LibraryCalls(self.entry)
        forks.watch_by(self, PipelineModel._forked)

    @classmethod
    def open(
        cls,
        source: str | Profile,
        *,
        limits: Limits = Limits(),  # noqa: B008  frozen
        batching: Batching | None = None,
        auto: bool = True,
        trust: bool = False,
    ) -> "PipelineModel":
        """Load the file, check that its steps fit together, open its models and start its stages' processes.

        Args:
            source: `FILE.py:VARIABLE`, or the profile of a pipeline.
            limits: limits of each step.
            batching, auto, trust: for each of its models, as in `Model.open`.

        Raises:
            UsageError: the file raises, has no such pipeline, or its steps do not fit together; the message says where.
            MissingFileError: the file is missing.
            TailcutError: a model cannot be opened; as `Model.open`.
        """
        if isinstance(source, str):
            source = str(parse_path(source))  # absolute: the file may change the working directory
        for file in engine_files(source) if trust else []:
            trust_file(file)
        adapt = None if batching is None else partial(with_batching, batching=batching)
        profile = pipeline_profile(source) if isinstance(source, str) else source
        return open_tuned(profile, limits=limits, options=StepOptions(measures=auto, adapt=adapt))

    async def infer(
        self, inputs: Mapping[str, ArrayLike], *, timeout_s: float | None = None, priority: int = 0
    ) -> dict[str, np.ndarray]:
        """As `Model.infer`: the outputs of the last step, by name, for some rows.

        Raises:
            InvalidInputError: an input does not match the signature, or a stage refuses it.
            QueueFullError: the queue is full.
            DeadlineExceededError: `timeout_s` passed, or a stage exceeded its own time limit.
            EngineError: a stage or a model failed on these inputs.
            ReleasedError: the pipeline was closed, or opened before this process was forked.
        """
        return await self._calls.infer(inputs, timeout_s, priority)

    def infer_sync(
        self, inputs: Mapping[str, ArrayLike], *, timeout_s: float | None = None, priority: int = 0
    ) -> dict[str, np.ndarray]:
        """As `infer`, for a thread that may block."""
        return self._calls.infer_sync(inputs, timeout_s, priority)

    def close(self) -> None:
        """Fail queued requests, end the processes and close the models. Calling it again does nothing."""
        self.entry.gone = self.entry.gone or f"pipeline {self.spec.name!r} was closed"
        for step in self.entry.steps:
            step.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _forked(self) -> None:
        """Refuse requests in a forked child: the processes and threads belong to the parent."""
        message = "was opened before this process was forked: open it in the process that uses it"
        self.entry.gone = self.entry.gone or f"pipeline {self.spec.name!r} {message}"

    def statistics(self) -> dict[str, int | float]:
        """As `Model.statistics`, with the steps' own counters summed; each request is counted once."""
        return self.entry.statistics()

    def batches_by_rows(self) -> dict[int, tuple[int, int]]:
        """Empty: each step has its own batches."""
        return self.entry.batches_by_rows()

    def stages(self) -> dict[str, dict[str, int | float]]:
        """`statistics` of each step, by name, with the number of its restarted processes."""
        return self.entry.stages()

    @property
    def refusal(self) -> str:
        """Why the newest refused request was refused."""
        return self.entry.refusal


def open_tuned(
    profile: Profile,
    *,
    limits: Limits = Limits(),  # noqa: B008  frozen
    options: StepOptions = StepOptions(),  # noqa: B008  frozen
) -> PipelineModel:
    """As `PipelineModel.open`, with the settings of a profile that a tune wrote.

    Raises:
        ProfileError: the profile is for other stages or models.
        TailcutError: as `PipelineModel.open`.
    """
    path, settings = parse_path(profile.model.path), profile.settings.pipeline
    pipeline = take_pipeline(path)
    if settings is not None:
        pipeline = with_settings(pipeline, path, settings, accept_model_change=options.accept_model_change)
    models: list[Model] = []
    options = options.shared_by(model_files(pipeline, path))

    def open_step(step: str | Path) -> Model:
        own = None if settings is None else settings.model(str(step))
        return open_model(pipeline.name, path.file.parent / step, limits, options, own)

    try:
        opened = _open_chain if pipeline.processes else _open_steps
        return PipelineModel(profile, opened(pipeline, path, limits, models, open_step))
    except BaseException:
        for model in models:
            model.close()
        raise


def pipeline_profile(source: str) -> Profile:
    """What a server must know before it opens a pipeline: its name, and the process settings that its profiles ask for.

    Raises:
        UsageError: the file raises, or has no such pipeline.
        MissingFileError: the file is missing.
    """
    path = parse_path(source)
    return _profile(load_pipeline(path), path)


def settings_of_all(source: str | Profile) -> list[Settings]:
    """The settings of a pipeline, or of the profile of one, and those of its models that have profiles or were tuned.

    Raises:
        UsageError: the file raises, or has no such pipeline.
        MissingFileError: the file is missing.
        ProfileError: a step's profile is missing or corrupt.
    """
    if isinstance(source, str):
        path = parse_path(source)
        pipeline = load_pipeline(path)
        return [_profile(pipeline, path).settings, *step_settings(model_files(pipeline, path))]
    tuned = source.settings.pipeline or PipelineSettings()
    engines = [Settings(engine=model.engine) for model in tuned.models if model.engine is not None]
    folder = parse_path(source.model.path).file.parent
    return [source.settings, *engines, *step_settings([folder / model.file for model in tuned.models])]


def engine_files(source: str | Profile) -> list[Path]:
    """The model files that a pipeline, or the profile of one, uses, including those that its steps' profiles name.

    Raises:
        UsageError: the file raises, or has no such pipeline.
        MissingFileError: the file is missing.
        ProfileError: a step's profile is missing or corrupt.
    """
    path = parse_path(source if isinstance(source, str) else source.model.path)
    files = model_files(load_pipeline(path), path)
    return [Path(Profile.load(file).model.path) if is_profile(file) else file for file in files]


def _profile(pipeline: Pipeline, path: PipelinePath) -> Profile:
    memory, io = process_settings(step_settings(model_files(pipeline, path)))
    stages = [step.max_batch_size for step in pipeline.steps if isinstance(step, Stage)]
    batching = BatchingSettings(max_batch_size=min(stages, default=1), bind=False)
    ref = ModelRef(path=str(path), sha256=file_hash(path.file), name=pipeline.name)
    settings = Settings(engine=EngineOptions(name="none"), batching=batching, memory=memory, io=io)
    return Profile(model=ref, settings=settings)


def _open_chain(
    pipeline: Pipeline, path: PipelinePath, limits: Limits, models: list[Model], open_step: OpenModel
) -> list[OpenStep]:
    """As `_open_steps`, where all steps run together in processes: models are opened here to know them, and closed."""
    models.extend(
        open_step(step) for step in pipeline.steps if not isinstance(step, Stage)
    )  # those before an error, too
    source, spec = chain_source(pipeline, path, models, limits)
    profiles = tuple(map(as_neighbour, models))
    while models:
        models.pop().close()
    model, engine = open_stage(source, limits)
    models.append(model)
    outline = PipelineStep("stage", source.stage.name, spec.inputs, spec.outputs, spec.batched)
    delivery = StepDelivery(None)
    common = has_common_rows(spec)
    return [
        OpenStep(
            model,
            engine,
            whole_requests=True,
            delivery=delivery,
            outline=outline,
            models=profiles,
            any_rows=not common,
        )
    ]


def _open_steps(
    pipeline: Pipeline, path: PipelinePath, limits: Limits, models: list[Model], open_step: OpenModel
) -> list[OpenStep]:
    """Open the models, check that the steps fit together, then start processes; adds what it opens to `models`."""
    named: dict[int, Model] = {}
    for index, step in enumerate(pipeline.steps):
        if not isinstance(step, Stage):
            named[index] = open_step(step)
            models.append(named[index])
    outlines = [
        stage_outline(step) if isinstance(step, Stage) else model_outline(named[index].spec)
        for index, step in enumerate(pipeline.steps)
    ]
    plan_pipeline(pipeline.name, outlines)
    opened: list[tuple[Model, StageEngine | None, bool]] = []
    for index, step in enumerate(pipeline.steps):
        if isinstance(step, Stage):
            model, engine = open_stage(StageSource(step, path, index), limits)
            models.append(model)
            opened.append((model, engine, step.whole_requests))
        else:
            opened.append((named[index], None, False))
    deliveries = [*(StepDelivery(after[0].entry) for _, after in pairwise(opened)), StepDelivery(None)]
    return [
        OpenStep(model, engine, whole_requests, delivery, outline)
        for (model, engine, whole_requests), delivery, outline in zip(opened, deliveries, outlines, strict=True)
    ]
