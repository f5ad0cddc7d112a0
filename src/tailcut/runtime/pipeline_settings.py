"""The settings of a pipeline's steps, which `tailcut tune` chooses and a profile holds."""

from typing import Any

import msgspec

from tailcut.engines.base import EngineOptions


class StageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one stage runs; all but the delay are also arguments of `@stage`.

    Args:
        name: of the stage.
        workers: the number of processes or threads, as the stage declares.
        max_batch_size: the most rows of one call; or the most requests, for a stage with a free dimension.
        max_queue_delay_us: how long a batch may wait for more requests while a worker is idle, in microseconds.
        cpus: the CPUs that processes are pinned to, one each; empty: they are not pinned.
    """

    name: str
    workers: int = 1
    max_batch_size: int = 32
    max_queue_delay_us: int = 0
    cpus: tuple[int, ...] = ()


class StepModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one model of a pipeline runs.

    Args:
        file: a model or a profile, as the pipeline names it; a profile is used as it is.
        sha256: of that file.
        engine: options for a model without a profile; None for a profile, and where the server measures them.
        max_batch_size: the largest batch; it has no meaning where `engine` is None.
        signature: as in `ModelRef`; another file must have the same to replace this one.
    """

    file: str
    sha256: str
    engine: EngineOptions | None = None
    max_batch_size: int = 1
    signature: tuple[str, ...] = ()


class PipelineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of all steps of a pipeline, in their order.

    Args:
        processes: all steps run in each of this many processes; 0: each step by itself, as its own settings say.
    """

    stages: tuple[StageSettings, ...] = ()
    models: tuple[StepModelSettings, ...] = ()
    processes: int = 0

    def stage(self, name: str) -> StageSettings | None:
        """The settings of a stage."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def model(self, file: str) -> StepModelSettings | None:
        """The settings of a model."""
        return next((model for model in self.models if model.file == file), None)

    def describe(self, base: "PipelineSettings | None" = None) -> str:
        """The settings that differ from `base` (None: from the defaults), as `tokenize.workers=2 m.onnx.threads=1`."""
        base = base or PipelineSettings()
        words = [f"processes={self.processes}"] if self.processes != base.processes else []
        for stage in self.stages:
            words += _differing(stage.name, stage, base.stage(stage.name) or StageSettings(name=stage.name))
        for model in self.models:
            other = base.model(model.file)
            if model.engine is not None:
                theirs = other.engine if other is not None and other.engine is not None else EngineOptions()
                words += _differing(model.file, model.engine, theirs)
                size = model.max_batch_size
                if other is None or other.engine is None or other.max_batch_size != size:
                    words.append(f"{model.file}.max_batch_size={size}")
        return " ".join(words)


def _differing(name: str, struct: msgspec.Struct, other: msgspec.Struct) -> list[str]:
    mine, theirs = msgspec.to_builtins(struct), msgspec.to_builtins(other)
    return [f"{name}.{key}={_brief(value)}" for key, value in mine.items() if value != theirs[key]]


def _brief(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value
