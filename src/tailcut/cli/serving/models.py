"""The models of a `tailcut serve` given as SOURCEs: loaded and warmed up at the start, and again on request."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from tailcut.cli.serving.sources import Source, beside_others

if TYPE_CHECKING:
    from tailcut.cli.serving.bare_models import BareModels
    from tailcut.pipelines.steps import StepOptions
    from tailcut.runtime.limits import Limits
    from tailcut.runtime.model import Model
    from tailcut.runtime.profile import Profile
    from tailcut.server.served_model import ServedModel

_log = logging.getLogger("tailcut")


@dataclass(frozen=True, slots=True)
class ModelLoader:
    """Loads the models of SOURCEs.

    Args:
        read: reads the current profile of a SOURCE.
        measured: the bare models whose settings are measured.
        limits: of each model.
        models: number of SOURCEs.
        steps: how the models of pipelines are opened; None for the defaults.
        cpus: the CPUs to reload models on; None for those of the calling thread.
    """

    read: "Callable[[Source], Profile]"
    measured: "BareModels"
    limits: "Limits"
    models: int
    steps: "StepOptions | None" = None
    cpus: tuple[int, ...] | None = None

    @classmethod
    def within_memory(
        cls, read: "Callable[[Source], Profile]", measured: "BareModels", limits: "Limits", models: int
    ) -> "ModelLoader":
        """A loader whose models share the memory that this process may use."""
        from tailcut.machine.quota import memory_limit
        from tailcut.runtime.limits import within_memory

        shared = within_memory(limits, memory_limit(), models)
        if shared.slab_bytes < limits.slab_bytes:
            _log.warning("the memory limit leaves only %d MiB for the rows of each model", shared.slab_bytes >> 20)
        return cls(read, measured, shared, models)

    def load_all(self, sources: "Sequence[Source]", profiles: "Sequence[Profile]") -> "list[ServedModel]":
        """Load and warm up all models; `profiles` are those of the SOURCEs, as for serving each one alone.

        Raises:
            ModelFileError: a model is missing, empty or corrupt.
            ProfileError: a model does not have the inputs and outputs of its profile.
            UnsupportedError: a model does not support a setting.
        """
        return [
            replace(self._load(source, profile), source=source.path)
            for source, profile in zip(sources, profiles, strict=True)
        ]

    def _load(self, source: Source, profile: "Profile") -> "ServedModel":
        """One model, with a function that reloads it for another number of models."""
        from tailcut.machine.affinity import pinned
        from tailcut.server.served_model import ServedModel

        if profile.is_of_pipeline:
            return self._load_pipeline(source, profile)

        def reload(models: int) -> "Model":
            with nullcontext() if self.cpus is None else pinned(self.cpus):
                return self._open(source, self.read(source), models)

        model = self._open(source, profile, self.models)
        # Measured settings include the choice for a model that is served alone.
        alone = profile.settings.engine if source.is_bare and not self.measured.has(source) else None
        return ServedModel(model, profile.model.name, source.version, reload, alone)

    def _load_pipeline(self, source: Source, profile: "Profile") -> "ServedModel":
        from tailcut.pipelines.loading import forget, parse_path
        from tailcut.pipelines.model import open_tuned
        from tailcut.pipelines.steps import StepOptions
        from tailcut.server.served_model import ServedModel

        def open_pipeline(profile: "Profile") -> "Model":
            pipeline = open_tuned(profile, limits=self.limits, options=self.steps or StepOptions())
            profile.check_open(pipeline)
            # A pipeline has all that the server uses of a model, except rows of a slab, and it declares that it has
            # none.
            return cast("Model", pipeline)

        def reload(_: int) -> "Model":
            try:
                return open_pipeline(self.read(source))
            except BaseException:
                forget(path)  # the files that it reads while it is imported may differ the next time
                raise

        model = open_pipeline(profile)
        path = parse_path(profile.model.path)
        return ServedModel(model, profile.model.name, source.version, reload, sources=path.file.parent)

    def _open(self, source: Source, profile: "Profile", models: int) -> "Model":
        from tailcut.runtime.model import Model

        profile = beside_others(profile, source, models)
        if self.measured.has(source):
            model = self.measured.open(profile, self.limits, models)
        else:
            model = Model.open(profile, limits=self.limits)
        profile.check_open(model)
        return model
