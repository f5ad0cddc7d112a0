"""Opens the models of a repository on request, and tells which have changed since the last check."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.files import ENGINES_OF, FileKind, kind_of
from tailcut.errors import MissingModelFileError, NotFoundError, TailcutError, UnsupportedError, UsageError
from tailcut.machine.fingerprint import fingerprint
from tailcut.machine.quota import memory_limit, usable_cpus
from tailcut.runtime.fit import fit_to_machine
from tailcut.runtime.limits import Limits, within_memory
from tailcut.runtime.model import Model, chosen_model, measured_model
from tailcut.runtime.opening.defaults import DefaultChoice
from tailcut.runtime.opening.measured import BUDGET_S, surroundings
from tailcut.runtime.profile import Profile, with_batching
from tailcut.runtime.rows import Batching
from tailcut.runtime.second import with_cpu
from tailcut.runtime.thread_budget import beside_others
from tailcut.spec import ModelSpec
from tailcut.triton.chain import as_one
from tailcut.triton.config import as_dict, parse_config
from tailcut.triton.ensemble import EnsembleStep, plan_steps, read_steps
from tailcut.triton.folder import ModelFolder, model_folders, state_of
from tailcut.triton.names import CONFIG_FILE
from tailcut.triton.notes import notes_of_ensemble
from tailcut.triton.settings import ConfigReading, check_backend, declared_signature, engine_of, read_settings, refuse

_log = logging.getLogger("tailcut")
_EXPECTED = 16  # memory is shared among up to this many of the repository's models, even if fewer are loaded


@dataclass(frozen=True, slots=True)
class Overrides:
    """Options of the command line that apply to all models.

    Args:
        limits: limits of each model.
        batching: whether to batch; None: as the configurations say.
        measures: whether settings of models without a profile are measured.
        device: the device that computes the models; None: as the profiles say.
        also_cpu: what the CPU computes in addition to a device; None: as the profiles say.
        max_batch_size: an upper bound on the batch sizes of the configurations; None: no bound.
        queue_rows: how many rows may queue; None: as the configurations say.
    """

    limits: Limits
    batching: Batching | None = None
    measures: bool = True
    device: Literal["cpu", "cuda"] | None = None
    also_cpu: Literal["route", "fallback"] | None = None
    max_batch_size: int | None = None
    queue_rows: int | None = None

    def applied(self, profile: Profile) -> Profile:
        """A model's profile with these options applied.

        Raises:
            UsageError: `also_cpu` is given for a model on the CPU.
        """
        engine, batching = profile.settings.engine, profile.settings.batching
        if self.device is not None:
            engine = msgspec.structs.replace(engine, device=self.device)
        if self.max_batch_size is not None:
            largest = min(batching.max_batch_size, self.max_batch_size)
            batching = msgspec.structs.replace(batching, max_batch_size=largest)
        settings = msgspec.structs.replace(profile.settings, engine=engine, batching=batching)
        profile = msgspec.structs.replace(profile, settings=settings)
        if self.also_cpu is not None:
            profile = with_cpu(profile, self.also_cpu)
        return profile if self.batching is None else with_batching(profile, self.batching)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """An open model with its name, its version, and the configuration of its file.

    Args:
        alone: the engine's options for when no other model is loaded; None if they do not depend on that.
        reload: opens the model again, for this many models in total; None if nothing depends on their number.
    """

    name: str
    version: str
    model: Model
    config: Mapping[str, Any]
    alone: EngineOptions | None = None
    reload: Callable[[int], Model] | None = None


class Library:
    """A model repository. Its methods may be called on any thread, one at a time.

    Args:
        repository: path of the folder.
        overrides: options that apply to all models.

    Raises:
        MissingFileError: there is no such folder.
        UsageError: the path is not a folder.
    """

    def __init__(self, repository: Path, overrides: Overrides) -> None:
        self.repository = repository
        self._overrides = overrides
        self._slab_bytes = overrides.limits.slab_bytes  # the smallest arena that a model was given
        self._states = {name: state_of(path) for name, path in model_folders(repository).items()}

    def names(self) -> list[str]:
        """The names of all models that have a folder now."""
        return list(model_folders(self.repository))

    def versions(self, name: str) -> list[int]:
        """The versions of a model that are to be served; empty if its folder cannot be read."""
        try:
            folder = ModelFolder.read(model_folders(self.repository)[name])
            return [_version_of_ensemble(folder)] if folder.is_ensemble else folder.versions()
        except Exception:  # noqa: BLE001  loading it reports what is wrong
            return []

    def changes(self) -> dict[str, bool]:
        """The models whose files have changed since the last call, and ensembles of them; False for deleted ones."""
        folders = model_folders(self.repository)
        now = {name: state_of(path) for name, path in folders.items()}
        before, self._states = self._states, now
        changed = {name: True for name, state in now.items() if before.get(name) != state}
        gone = {name: False for name in before if name not in now}
        others = {name: path for name, path in folders.items() if name not in changed} if changed else {}
        return changed | gone | {name: True for name, path in others.items() if _steps_of(path) & changed.keys()}

    def load(self, name: str, models: int) -> list[LoadedModel]:
        """Open all versions of a model that its version policy selects.

        Args:
            name: name of the model.
            models: number of models that share the machine, including this one.

        Raises:
            NotFoundError: it has no folder.
            TailcutError: its configuration, or a version, cannot be used; no version of it stays open.
        """
        path = model_folders(self.repository).get(name)
        if path is None:
            raise NotFoundError(f"the model repository has no folder {name!r}")
        folder = _read(path)
        if folder.is_ensemble:
            return [self._open_ensemble(folder, models)]
        versions = folder.versions()
        if not versions:
            raise folder.without_versions()
        self._log_notes(folder, folder.notes())
        loaded: list[LoadedModel] = []
        try:
            loaded += (self._open(folder, version, models * len(versions), self._overrides) for version in versions)
        except BaseException:
            for entry in loaded:
                entry.model.close()
            raise
        return loaded

    def _open_ensemble(self, folder: ModelFolder, models: int) -> LoadedModel:
        """Open the models of an ensemble's steps as one model, which owns them."""
        folders, config = model_folders(self.repository), cast("Any", folder.config)
        inner, seen = [], []
        with _prefixed(folder.path / CONFIG_FILE):
            refuse(config)
            steps = read_steps(config)
            for step in steps:
                with _prefixed(f"step {step.model!r}"):
                    inner.append(_model_of(step, folders))
                    seen.append(_spec_of(*inner[-1]))
            plan = plan_steps(config, steps, seen)
        self._log_notes(folder, notes_of_ensemble(config))
        overrides, largest = self._overrides, config.max_batch_size
        if largest:
            overrides = replace(overrides, max_batch_size=min(largest, overrides.max_batch_size or largest))
        opened: list[Model] = []
        try:
            for index in plan.order:
                with _prefixed(f"{folder.path / CONFIG_FILE}: step {steps[index].model!r}"):
                    opened.append(self._open(*inner[index], models * len(steps), overrides).model)
            model = as_one(folder, [steps[index] for index in plan.order], opened, plan, one_batch=largest > 0)
        except BaseException:
            for step_model in opened:
                step_model.close()
            raise
        _log.info("%s: %s", folder.name, model.rows.describe())
        return LoadedModel(folder.name, str(_version_of_ensemble(folder)), cast("Model", model), as_dict(config))

    @staticmethod
    def _log_notes(folder: ModelFolder, notes: Iterable[str]) -> None:
        for note in notes:
            _log.info("%s: %s: %s", folder.name, CONFIG_FILE, note)

    def _open(self, folder: ModelFolder, version: int, models: int, overrides: Overrides) -> LoadedModel:
        limits, tuned = self._limits(models), folder.profile(version)
        profile, reading = profile_of(folder, version)
        queue, notes = overrides.queue_rows, list(reading.notes)
        if queue is not None and reading.queue_rows is not None:
            notes = [note for note in notes if not note.startswith("max_queue_size ")]
            notes.append(f"max_queue_size is not used: --queue allows {queue} rows to wait")
        self._log_notes(folder, notes)
        if tuned is not None:
            profile = self._tuned(tuned, profile, reading)
        profile = overrides.applied(profile)
        if queue is None and reading.queue_rows is not None:
            limits = replace(limits, queue_rows=reading.queue_rows, queue_setting=f"max_queue_size in {CONFIG_FILE}")
        alone = reload = None
        with _blaming_configuration(folder, profile):
            if tuned is not None:
                model = Model.open(profile, limits=limits)
            elif reading.is_fixed or not overrides.measures:
                alone, reload = profile.settings.engine, partial(_open_beside, profile, limits)
                model = reload(models)
            else:
                sizes = [size for size in (reading.max_batch_size, overrides.max_batch_size) if size]
                around = surroundings(alone=models == 1, max_batch_size=min(sizes, default=None))
                model = measured_model(profile, around, limits=limits, budget_s=BUDGET_S / max(1, models))
                if model.choice is not None:
                    reload = partial(_open_chosen, profile, limits, model.choice)
                    _log.info("%s: %s", folder.name, model.choice.line())
        _log.info("%s: %s", folder.name, model.rows.describe())
        config = {} if folder.config is None else as_dict(folder.config)
        config["default_model_filename"] = config.get("default_model_filename") or folder.file(version).name
        return LoadedModel(folder.name, str(version), model, config, alone, reload)

    def _limits(self, models: int) -> Limits:
        """The limits of a model when this many share the memory that this process may use.

        Models that clients may still load have a share as well.
        """
        known, limits = len(model_folders(self.repository)), self._overrides.limits
        shared = within_memory(limits, memory_limit(), max(models, min(known, _EXPECTED)))
        if shared.slab_bytes < min(limits.slab_bytes, self._slab_bytes):
            _log.warning("the memory limit leaves only %d MiB for the rows of each model", shared.slab_bytes >> 20)
            self._slab_bytes = shared.slab_bytes
        return shared

    def _tuned(self, path: Path, configured: Profile, reading: ConfigReading) -> Profile:
        """The tuned profile at this path, with the tensors that clients see according to the model's configuration."""
        profile = Profile.load(path)
        profile.verify_model()
        _log.info("%s: serving %s: its engine settings are those of the tune", configured.model.name, path.name)
        theirs, own = configured.settings, profile.settings
        engine = msgspec.structs.replace(
            own.engine,
            outputs=theirs.engine.outputs,
            reshapes=theirs.engine.reshapes,
            fixed_dims=tuple(dict.fromkeys((*own.engine.fixed_dims, *theirs.engine.fixed_dims))),
        )
        largest = min(own.batching.max_batch_size, reading.max_batch_size or own.batching.max_batch_size)
        batching = msgspec.structs.replace(own.batching, max_batch_size=largest, rows=theirs.batching.rows)
        settings = msgspec.structs.replace(own, engine=engine, batching=batching)
        model = msgspec.structs.replace(profile.model, name=configured.model.name)
        profile = msgspec.structs.replace(profile, model=model, settings=settings)
        profile, warnings = fit_to_machine(profile, fingerprint(), usable_cpus())
        for warning in warnings:
            _log.warning("%s", warning)
        return profile


def _open_beside(profile: Profile, limits: Limits, models: int) -> Model:
    """Open a model as one of this many; with several, its threads do not spin."""
    engine = beside_others(profile.settings.engine, models)
    settings = msgspec.structs.replace(profile.settings, engine=engine)
    return Model.open(msgspec.structs.replace(profile, settings=settings), limits=limits)


def _open_chosen(profile: Profile, limits: Limits, choice: DefaultChoice, models: int) -> Model:
    """Open a model as one of this many, with settings that were measured before."""
    return chosen_model(profile, choice.among(models), limits)


def profile_of(folder: ModelFolder, version: int) -> tuple[Profile, ConfigReading]:
    """Translate a model's configuration for one version into a profile, and the reading of that configuration.

    Raises:
        TailcutError: the model file cannot be read, or the configuration does not match it.
    """
    path = folder.file(version)
    config = parse_config("", "") if folder.config is None else folder.config
    engine = engine_of(config, ENGINES_OF[kind_of(path)])
    with _prefixed(folder.path / CONFIG_FILE, UnsupportedError):
        declared = declared_signature(config) if kind_of(path) is FileKind.SCRIPT else ()
        reading = read_settings(config, signature(path, EngineOptions(signature=declared)), engine, declared)
    profile = Profile.of_model(path, reading.settings, folder.name)
    return msgspec.structs.replace(profile, samples=reading.samples), reading


@contextmanager
def _prefixed(where: Path | str, kind: type[TailcutError] = TailcutError) -> Iterator[None]:
    """Begin the messages of errors of this kind with where they arise."""
    try:
        yield
    except kind as error:
        raise type(error)(f"{where}: {error}") from None


def _read(path: Path) -> ModelFolder:
    """Read a model's folder, and check that its backend is one that is served."""
    folder = ModelFolder.read(path)
    if folder.config is not None and not folder.is_ensemble:
        with _prefixed(path / CONFIG_FILE):
            check_backend(folder.config)
    return folder


def _version_of_ensemble(folder: ModelFolder) -> int:
    """The version of an ensemble: its newest folder, or 1, since it needs no folder."""
    return (folder.versions() or [1])[-1]


def _steps_of(path: Path) -> set[str]:
    """The names of the models of an ensemble; empty if it is not an ensemble or cannot be read."""
    try:
        folder = ModelFolder.read(path)
        return {step.model for step in read_steps(folder.config)} if folder.is_ensemble else set()
    except TailcutError:
        return set()


def _model_of(step: EnsembleStep, folders: Mapping[str, Path]) -> tuple[ModelFolder, int]:
    """Find the model of a step, and its version."""
    if step.model not in folders:
        raise UsageError("the repository has no such model")
    inner = _read(folders[step.model])
    if inner.is_ensemble:
        raise UsageError("an ensemble cannot be a step of another one")
    versions = inner.versions()
    if not versions:
        raise inner.without_versions()
    if step.version > 0 and step.version not in versions:
        raise UsageError(
            f"model_version {step.version} is not among those that are served: {', '.join(map(str, versions))}"
        )
    return inner, step.version if step.version > 0 else versions[-1]


def _spec_of(inner: ModelFolder, version: int) -> ModelSpec:
    """The signature of a model as clients see it."""
    profile, _ = profile_of(inner, version)
    return _as_configured(inner, profile)


def _as_configured(folder: ModelFolder, profile: Profile) -> ModelSpec:
    """The signature of a model as clients see it; an error names the configuration if that does not match the file."""
    with _prefixed(folder.path / CONFIG_FILE, UnsupportedError):
        return signature(Path(profile.model.path), profile.settings.engine)


@contextmanager
def _blaming_configuration(folder: ModelFolder, profile: Profile) -> Iterator[None]:
    """Have an error name the configuration if that is the cause, rather than the machine or the command line."""
    try:
        yield
    except UnsupportedError:
        _as_configured(folder, profile)
        raise


def newest_of(path: Path) -> tuple[Path, ConfigReading]:
    """The model file of the newest version in a model's folder, and the reading of its configuration.

    Raises:
        TailcutError: there is none, or the configuration does not match it.
    """
    folder = _read(path)
    if folder.is_ensemble:
        raise MissingModelFileError(f"{path}: is an ensemble: name a model that has files")
    versions = folder.versions()
    if not versions:
        raise folder.without_versions()
    profile, reading = profile_of(folder, versions[-1])
    return Path(profile.model.path), reading


def signature(path: Path, options: EngineOptions = EngineOptions()) -> ModelSpec:  # noqa: B008  frozen
    """Read the signature of a model file with these options, using an engine that computes nothing."""
    engine = open_engine(path, msgspec.structs.replace(options, name="none"))
    engine.close()
    return engine.spec
