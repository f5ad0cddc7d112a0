"""The SOURCEs of `tailcut serve`: the file, name and version of each, and its profile as served."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, chdir, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tailcut.cli.choices import AlsoCpuChoice, BatchingChoice, DeviceChoice

if TYPE_CHECKING:
    from tailcut.engines.base import EngineOptions
    from tailcut.pipelines.steps import StepOptions
    from tailcut.runtime.profile import Profile
    from tailcut.runtime.settings import Settings
    from tailcut.server.workers.process import WorkerProcess

_log = logging.getLogger("tailcut")


def working_folder() -> Path:
    """The current folder; an empty path if it was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path()


def working_in(folder: Path) -> AbstractContextManager[None]:
    """Make a folder the current one within this block."""
    return nullcontext() if working_folder() == folder else chdir(folder)


def from_folder(path: str, folder: Path) -> str:
    """A path relative to a folder, adapted to the current folder."""
    return path if working_folder() == folder else str(folder / path)


@dataclass(frozen=True, slots=True)
class Source:
    """One SOURCE.

    Args:
        text: a profile, a bare model, or a pipeline as `FILE.py:VARIABLE`.
        name: of the model; empty for the profile's.
        version: under which it is served.
        folder: to which its path is relative.
    """

    text: str
    name: str = ""
    version: str = "1"
    folder: Path = field(default_factory=working_folder, compare=False)

    @property
    def path(self) -> str:
        """Its file, with the variable of a pipeline; as given, for messages, unless the current folder has changed."""
        return from_folder(self.text, self.folder)

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Parse `FILE`, `NAME=FILE` or `NAME:VERSION=FILE`.

        Raises:
            UsageError: the text is none of these, the version is not a positive integer, or the name is invalid in a
            URL.
        """
        from tailcut.errors import UsageError
        from tailcut.runtime.opening.source import split_source
        from tailcut.spec import check_model_name

        label, path = split_source(text)
        name, colon, version = label.partition(":")
        check_model_name(name)
        if not colon:
            return cls(path, name)
        if not version.isdecimal() or not version.isascii() or int(version) < 1 or version != str(int(version)):
            raise UsageError(f"{version!r} is not a version: write NAME:VERSION=FILE with a positive whole number")
        return cls(path, name, version)

    @property
    def is_bare(self) -> bool:
        """Whether it is a model without a profile, whose settings the server chooses."""
        from tailcut.runtime.opening.source import is_bare

        return is_bare(self.path)

    @property
    def is_pipeline(self) -> bool:
        """Whether it is a Python file and a variable in it."""
        from tailcut.runtime.profile import is_pipeline

        return is_pipeline(self.path)

    def settings(self) -> "list[Settings]":
        """The settings in its file, if it is a profile; for a pipeline, its own and those in the profiles of its steps.

        Raises:
            ProfileError: a profile is missing or corrupt.
            TailcutError: the pipeline cannot be loaded.
        """
        from tailcut.pipelines.model import settings_of_all
        from tailcut.runtime.profile import Profile

        if self.is_pipeline:
            return settings_of_all(self.path)
        if self.is_bare:
            return []
        profile = Profile.load(Path(self.path))
        return settings_of_all(profile) if profile.is_of_pipeline else [profile.settings]


def files_of(sources: Sequence[Source]) -> list[Path] | None:
    """All files that SOURCEs are read from; None if unknown, because a pipeline may import anything."""
    from tailcut.engines.model_files import model_files
    from tailcut.errors import TailcutError
    from tailcut.runtime.opening.source import is_profile
    from tailcut.runtime.profile import Profile

    files: list[Path] = []
    try:
        for source in sources:
            path = Path(source.path)
            if source.is_pipeline:
                return None
            if is_profile(path):
                files.append(path)
                profile = Profile.load(path)
                if profile.is_of_pipeline:
                    return None
                model = profile.model
                copies = [] if model.quantized is None else [Path(model.quantized.path)]
                files += [file for path in (Path(model.path), *copies) for file in model_files(path)]
            else:
                files += model_files(path)
    except (TailcutError, OSError):  # a worker reports it
        return None
    return files


def need_sources(sources: Sequence[Source], repository: Path | None) -> None:
    """Check that either SOURCEs or a model repository are given.

    Raises:
        UsageError: neither or both are.
    """
    from tailcut.errors import UsageError

    if bool(sources) == (repository is not None):
        raise UsageError(
            "give either models and profiles (SOURCE...) or --model-repository DIR: see `tailcut serve --help`"
        )


def trust_programs(sources: Sequence[Source], repository: Path | None) -> None:
    """Allow loading the PyTorch files of SOURCEs and of a repository, even if they can execute code."""
    from tailcut.engines.trust import trust

    if repository is not None:
        trust(repository)
    for file in [file for source in sources for file in programs_of(source.path)]:
        trust(file)


def programs_of(source: str) -> list[Path]:
    """The model that a model file or a profile names, or those of a pipeline.

    Raises:
        TailcutError: the profile or the pipeline cannot be read.
    """
    from tailcut.pipelines.model import engine_files
    from tailcut.runtime.opening.source import is_profile
    from tailcut.runtime.profile import Profile, is_pipeline

    if is_pipeline(source):
        return engine_files(source)
    if not is_profile(Path(source)):
        return [Path(source)]
    profile = Profile.load(Path(source))
    return engine_files(profile) if profile.is_of_pipeline else [Path(profile.model.path)]


def distinct_names(profiles: "Sequence[Profile]", sources: Sequence[Source]) -> list[str]:
    """The models' names, with the version if it is not 1.

    Raises:
        UsageError: two are the same.
    """
    from tailcut.errors import UsageError

    names = [
        profile.model.name + (f":{source.version}" if source.version != "1" else "")
        for profile, source in zip(profiles, sources, strict=True)
    ]
    if len(set(names)) < len(names):
        raise UsageError(
            f"two models have the same name ({', '.join(names)}): rename one with NAME=FILE or NAME:VERSION=FILE"
        )
    return names


@dataclass(frozen=True, slots=True)
class SourceReader:
    """Reads the profile of a SOURCE and applies the command line to it.

    Args:
        worker: this process, if it is one of several workers; only the first of them logs.
        max_batch_size, batching, device: replace the profile's if they are not None.
        accept_model_change: accept a model file with different content than the profile's.
        also_cpu: which batches the CPU computes in addition to a device.
        cuda_devices: the visible CUDA devices, by the indices that profiles use; empty if they use their own indices.
    """

    worker: "WorkerProcess | None"
    max_batch_size: int | None
    batching: BatchingChoice | None
    device: DeviceChoice | None
    accept_model_change: bool
    also_cpu: AlsoCpuChoice | None = None
    cuda_devices: Sequence[int] = ()

    def read(self, source: Source) -> "Profile":
        """The profile of a SOURCE, as for serving it alone.

        Raises:
            ProfileError: the profile is corrupt, of a later schema, or for another model.
            ModelFileError: the model file is missing or empty.
            UsageError: the name of the profile or of the file is invalid in a URL.
        """
        import msgspec

        from tailcut.spec import check_model_name

        profile = self._stored(source)
        check_model_name(source.name or profile.model.name)
        if not profile.is_of_pipeline:  # the models of a pipeline are adapted one by one
            profile = self.adapt(profile)
        if source.name:
            profile = msgspec.structs.replace(profile, model=msgspec.structs.replace(profile.model, name=source.name))
        return profile

    def steps(self, *, measures: bool, alone: bool) -> "StepOptions":
        """How the models of pipelines are opened.

        Args:
            measures: whether to measure settings of bare models.
            alone: whether nothing else is served.
        """
        from tailcut.pipelines.steps import StepOptions
        from tailcut.runtime.opening.measured import surroundings

        cpus = None if self.worker is None else self.worker.cpus
        around = surroundings(cpus, alone=alone, max_batch_size=self.max_batch_size)
        return StepOptions(measures, around, accept_model_change=self.accept_model_change, adapt=self.adapt)

    def adapt(self, profile: "Profile") -> "Profile":
        """A model's profile with the command-line options applied, adapted to this machine."""
        import msgspec

        from tailcut.machine.fingerprint import fingerprint
        from tailcut.machine.quota import usable_cpus
        from tailcut.runtime.fit import fit_to_machine
        from tailcut.runtime.profile import with_batching
        from tailcut.runtime.second import with_cpu

        worker = self.worker
        if self.cuda_devices:
            profile = msgspec.structs.replace(profile, settings=profile.settings.among(self.cuda_devices))
        if self.device is not None:
            profile = _with_engine(profile, msgspec.structs.replace(profile.settings.engine, device=self.device.value))
        if self.also_cpu is not None:
            profile = with_cpu(profile, self.also_cpu.value)
        if worker is not None and not profile.settings.engine.threads:  # by default, an engine would use every CPU
            engine = profile.settings.engine
            threads = max(1, worker.cpus // engine.instances)
            if self._logs:
                _log.info("%s: engine threads: %d (this worker's CPUs)", profile.model.name, threads)
            profile = _with_engine(profile, msgspec.structs.replace(engine, threads=threads))
        profile, warnings = fit_to_machine(profile, fingerprint(), worker.cpus if worker else usable_cpus())
        for warning in warnings if self._logs else []:
            _log.warning("%s", warning)
        if self.max_batch_size is not None:
            sized = msgspec.structs.replace(profile.settings.batching, max_batch_size=self.max_batch_size)
            settings = msgspec.structs.replace(profile.settings, batching=sized)
            profile = msgspec.structs.replace(profile, settings=settings)
        if self.batching is not None:
            profile = with_batching(profile, self.batching.value)
        return profile

    @property
    def _logs(self) -> bool:
        return self.worker is None or self.worker.post == 0

    def _stored(self, source: Source) -> "Profile":
        """The profile of a pipeline, of a bare model, or of a file."""
        from tailcut.pipelines.model import pipeline_profile
        from tailcut.runtime.opening.source import open_profile
        from tailcut.runtime.profile import Profile

        path = Path(source.path)
        if source.is_pipeline:
            return pipeline_profile(source.path)
        if not self.accept_model_change or source.is_bare:
            return open_profile(path)
        profile, warning = Profile.load(path).accept_model(path.name)
        if warning and self._logs:
            _log.warning("%s: %s", source.name or profile.model.name, warning)
        return profile


def beside_others(profile: "Profile", source: Source, models: int) -> "Profile":
    """A profile adjusted to the number of models served; one that the user wrote or tuned is unchanged."""
    from tailcut.runtime.thread_budget import beside_others as engine_beside_others

    engine = profile.settings.engine
    return _with_engine(profile, engine_beside_others(engine, models)) if source.is_bare else profile


def _with_engine(profile: "Profile", engine: "EngineOptions") -> "Profile":
    import msgspec

    return msgspec.structs.replace(profile, settings=msgspec.structs.replace(profile.settings, engine=engine))
