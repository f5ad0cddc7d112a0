"""Joins the open models of an ensemble to one model: a pipeline whose tensors have the ensemble's names."""

from collections.abc import Sequence
from dataclasses import replace

from tailcut.engines.file_hash import file_hash
from tailcut.pipelines.flow import StepDelivery
from tailcut.pipelines.model import PipelineModel
from tailcut.pipelines.plan import PipelineStep
from tailcut.pipelines.steps import OpenStep
from tailcut.runtime.model import Model
from tailcut.runtime.profile import ModelRef, Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import ModelSpec, Rows
from tailcut.triton.ensemble import EnsemblePlan, EnsembleStep
from tailcut.triton.folder import ModelFolder
from tailcut.triton.names import CONFIG_FILE


def as_one(
    folder: ModelFolder, steps: Sequence[EnsembleStep], models: Sequence[Model], plan: EnsemblePlan, *, one_batch: bool
) -> PipelineModel:
    """Make a pipeline of open models whose tensors have the ensemble's names; `one_batch` as for `PipelineModel`."""
    opened = []
    for index, (step, model, name) in enumerate(zip(steps, models, _names_of(steps), strict=True)):
        kept = [tensor for tensor in model.spec.outputs if tensor.name in step.outputs]
        inputs = tuple(replace(tensor, name=step.inputs[tensor.name]) for tensor in model.spec.inputs)
        outputs = tuple(replace(tensor, name=step.outputs[tensor.name]) for tensor in kept)
        unused = {tensor.name: f"{name}.{tensor.name}" for tensor in model.spec.outputs if tensor not in kept}
        delivery = StepDelivery(models[index + 1].entry if index + 1 < len(models) else None)
        outline = PipelineStep("model", name, inputs, outputs, model.spec.batched)
        opened.append(
            OpenStep(
                model,
                None,
                whole_requests=False,
                delivery=delivery,
                outline=outline,
                input_names=step.inputs,
                output_names={**step.outputs, **unused},
            )
        )
    whole = [model.name for model in opened if not model.outline.independent]
    rows = Rows.DEPENDENT if whole else Rows.INDEPENDENT
    reason = f"the rows of {', '.join(whole)} are not" if whole else "every step's rows are independent"
    spec = ModelSpec(folder.name, plan.inputs, plan.outputs, rows, reason)
    path = folder.path / CONFIG_FILE
    largest = min(model.entry.max_batch_size for model in models)
    settings = Settings(batching=BatchingSettings(max_batch_size=largest, bind=False))
    ref = ModelRef(path=str(path.resolve()), sha256=file_hash(path), name=folder.name)
    return PipelineModel(Profile(model=ref, settings=settings), opened, spec, one_batch=one_batch)


def _names_of(steps: Sequence[EnsembleStep]) -> list[str]:
    """The models' names, numbered if a model is used more than once."""
    names: list[str] = []
    for step in steps:
        times = sum(other.model == step.model for other in steps[: len(names)])
        names.append(f"{step.model}_{times + 1}" if times else step.model)
    return names
