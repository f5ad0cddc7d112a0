"""Opens the steps of a pipeline: stages with their processes, and models."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tailcut.engines.file_hash import file_hash
from tailcut.errors import TailcutError, UsageError
from tailcut.pipelines.engine import StageEngine
from tailcut.pipelines.plan import PipelineStep
from tailcut.pipelines.process import StageSource
from tailcut.pipelines.stage import Stage
from tailcut.pipelines.tuned import step_profile
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model, measured_model
from tailcut.runtime.opening.defaults import ServingPlace
from tailcut.runtime.opening.measured import BUDGET_S, surroundings
from tailcut.runtime.opening.source import is_profile, open_profile
from tailcut.runtime.pipeline_settings import StepModelSettings
from tailcut.runtime.profile import ModelRef, Profile
from tailcut.runtime.request import Delivery
from tailcut.runtime.rows import RowDecision, read_signature
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.runtime.thread_budget import beside_others
from tailcut.spec import ModelSpec, RowEvidence, Rows

_log = logging.getLogger("tailcut")
_LENT_S = 40.0  # how long a call may wait for a process, on top of its own time


class FlowDelivery(Delivery, Protocol):
    """Passes a step's answers on."""

    def answer(self, flow: Any) -> None:
        """Have a request answered that the last step has computed: a `Flow`, which knows its steps."""


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How a pipeline's models are opened.

    Args:
        measures: whether settings of models without a profile are measured.
        around: the environment that they serve in; None: that of this process.
        budget_s: seconds that measuring one of them may take.
        accept_model_change: accept a model file whose content differs from its profile's.
        adapt: returns the profile to serve for a model's profile; None: that profile.
    """

    measures: bool = True
    around: ServingPlace | None = None
    budget_s: float = BUDGET_S
    accept_model_change: bool = False
    adapt: Callable[[Profile], Profile] | None = None

    def shared_by(self, files: Sequence[Path]) -> "StepOptions":
        """The options for one of these models, which share the time for measuring and the machine."""
        around = self.around or surroundings()
        bare = sum(not is_profile(file) for file in files)
        return replace(
            self, around=replace(around, alone=around.alone and len(files) == 1), budget_s=BUDGET_S / max(1, bare)
        )

    def open(self, file: Path, settings: StepModelSettings | None, limits: Limits) -> Model:
        """Open a model's file, or its profile.

        Raises:
            TailcutError: as `Model.open`.
        """
        tuned = step_profile(file, settings)
        profile = tuned or self._stored(file)
        if self.adapt is not None:
            profile = self.adapt(profile)
        if settings is not None and settings.signature:
            ref = msgspec.structs.replace(profile.model, signature=settings.signature)
            profile = msgspec.structs.replace(profile, model=ref)
        if self.measures and tuned is None and not is_profile(file):
            model = measured_model(profile, self.around or surroundings(), limits=limits, budget_s=self.budget_s)
            if model.choice is not None:
                _log.info("%s: %s", model.spec.name, model.choice.line())
        else:
            bare = tuned is None and not is_profile(file)
            model = Model.open(self._beside_others(profile) if bare else profile, limits=limits)
        profile.check_open(model)
        return model

    def _beside_others(self, profile: Profile) -> Profile:
        """The profile of a bare model; its threads do not spin where it shares the process with other models."""
        models = 1 if (self.around or surroundings()).alone else 2
        engine = beside_others(profile.settings.engine, models)
        return msgspec.structs.replace(profile, settings=msgspec.structs.replace(profile.settings, engine=engine))

    def _stored(self, file: Path) -> Profile:
        if not self.accept_model_change or not is_profile(file):
            return open_profile(file)
        profile, warning = Profile.load(file).accept_model(file.name)
        if warning:
            _log.warning("%s: %s", profile.model.name, warning)
        return profile


@dataclass(frozen=True, slots=True)
class OpenStep:
    """One step, ready for requests.

    Args:
        model: queues, batches and counts its requests.
        engine: the engine of a stage; None if the step is a model.
        whole_requests: whether a request counts as one row, because its rows are computed together.
        delivery: delivers its answers to the next step.
        outline: its tensors, by their names in the pipeline.
        input_names, output_names: names in the pipeline of the model's tensors, for those that are renamed.
        models: profiles of the models that its processes run, where it stands for all steps of a pipeline.
        any_rows: whether the arrays of a request may differ in their number of rows, or have none.
        inputs: each input's name in the model, and in the pipeline.
        outputs: each output's name in the pipeline.
    """

    model: Model
    engine: StageEngine | None
    whole_requests: bool
    delivery: FlowDelivery
    outline: PipelineStep
    input_names: Mapping[str, str] = field(default_factory=dict)
    output_names: Mapping[str, str] = field(default_factory=dict)
    models: tuple[Profile, ...] = ()
    any_rows: bool = False
    inputs: tuple[tuple[str, str], ...] = field(init=False)
    outputs: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Look up the names once instead of for each request."""
        spec = self.model.spec
        inputs = tuple((name, self.input_names.get(name, name)) for name in spec.input_names)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "outputs", tuple(self.output_names.get(name, name) for name in spec.output_names))

    @property
    def name(self) -> str:
        """Its name in statistics and metrics."""
        return self.outline.name

    @property
    def title(self) -> str:
        """How messages name it."""
        return self.outline.title

    def describe(self) -> str:
        """A short description, such as: tokenize (processes: 2, at most 32 rows)."""
        if self.engine is None:
            return f"{self.name} (model)"
        stage = self.engine.stage
        unit = "requests" if stage.whole_requests else "rows"
        kind = "threads" if stage.threads else "processes"
        return f"{self.name} ({kind}: {stage.workers}, at most {stage.max_batch_size} {unit})"


def open_stage(source: StageSource, limits: Limits) -> tuple[Model, StageEngine]:
    """Start a stage's processes.

    Raises:
        UsageError: a process cannot import it.
    """
    stage = source.stage
    engine = StageEngine(source)
    # A process is killed at its call's time limit; only threads are left to the watchdog.
    calls_s = stage.timeout_s * (stage.max_batch_size if stage.per_request else 1)
    patience_s = stage.timeout_s if stage.threads else max(limits.engine_timeout_s, calls_s + _LENT_S)
    batching = BatchingSettings(
        max_batch_size=stage.max_batch_size,
        max_queue_delay_us=stage.max_queue_delay_us,
        bind=False,
        rows="independent",
    )
    ref = ModelRef(path=str(source.path.file), sha256=file_hash(source.path.file), name=stage.name)
    profile = Profile(model=ref, settings=Settings(engine=engine.options, batching=batching))
    why = RowEvidence(Rows.INDEPENDENT, "a stage's rows are independent")
    decision = RowDecision(Rows.INDEPENDENT, why.reason, "independent", read_signature(engine.spec), why)
    own = replace(limits, engine_timeout_s=patience_s, engine_title=f"stage {stage.name!r}")
    try:
        return Model(profile, engine, own, decision, reopen=lambda: engine), engine
    except BaseException:
        engine.close()
        raise


def open_model(
    pipeline: str, file: Path, limits: Limits, options: StepOptions, settings: StepModelSettings | None = None
) -> Model:
    """Open a model of a pipeline, with the settings of the pipeline's profile if it has any.

    Raises:
        UsageError: the file is neither a profile nor an ONNX model.
        TailcutError: as `Model.open`; the message names the pipeline.
    """
    if file.suffix not in {".onnx", ".toml"}:
        raise UsageError(f"pipeline {pipeline!r}: {file.name} is neither a profile (.toml) nor a model (.onnx)")
    try:
        return options.open(file, settings, limits)
    except TailcutError as error:
        raise type(error)(f"pipeline {pipeline!r}: {error}") from None


def stage_outline(stage: Stage) -> PipelineStep:
    """A stage's tensors, for the plan."""
    return PipelineStep("stage", stage.name, stage.inputs, stage.outputs, not stage.together)


def model_outline(spec: ModelSpec) -> PipelineStep:
    """A model's tensors, for the plan."""
    return PipelineStep("model", spec.name, spec.inputs, spec.outputs, spec.batched)
