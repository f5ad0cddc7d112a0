"""The models of a repository, opened on request, and what has changed there since the last check."""

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
_EXPECTED = 16  # models that share the memory where a repository has as many, however few are loaded


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line says of all models.

    Args:
        limits: of each model.
        batching: instead of what the configurations say; None leaves it to them.
        measures: whether models without a profile have their settings measured.
        device: where models are computed, instead of where their profiles say; None leaves it to them.
        also_cpu: what the CPU computes beside a device.
        max_batch_size: no batch is larger, whatever the configurations allow.
        queue_rows: that may wait, whatever the configurations say; None leaves it to them.
    """

    limits: Limits
    batching: Batching | None = None
    measures: bool = True
    device: Literal["cpu", "cuda"] | None = None
    also_cpu: Literal["route", "fallback"] | None = None
    max_batch_size: int | None = None
    queue_rows: int | None = None

    def applied(self, profile: Profile) -> Profile:
        """The profile of a model with what is wished.

        Raises:
            UsageError: the CPU is to compute as well what is on the CPU.
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
    """A model that is open, under its name and version, with its configuration as the file has it.

    Args:
        alone: the engine's options when no other model is loaded, where they depend on that.
        reload: opens it once more, for this many models; None where nothing depends on their number.
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
        repository: the folder.
        wishes: what holds for all models.

    Raises:
        UsageError: it is not a folder.
    """

    def __init__(self, repository: Path, wishes: Wishes) -> None:
        self.repository = repository
        self._wishes = wishes
        self._slab_bytes = wishes.limits.slab_bytes  # the least that a model has got
        self._seen = {name: state_of(path) for name, path in model_folders(repository).items()}

    def names(self) -> list[str]:
        """All models that have a folder now."""
        return list(model_folders(self.repository))

    def versions(self, name: str) -> list[int]:
        """The versions of a model that are to be served; none where its folder cannot be read."""
        try:
            folder = ModelFolder.read(model_folders(self.repository)[name])
            return [_version_of_ensemble(folder)] if folder.is_ensemble else folder.versions()
        except Exception:  # noqa: BLE001  what is wrong with it is said where it is loaded
            return []

    def changes(self) -> dict[str, bool]:
        """The models whose files have changed since the last call, and ensembles of them; False where they are gone."""
        folders = model_folders(self.repository)
        now = {name: state_of(path) for name, path in folders.items()}
        before, self._seen = self._seen, now
        changed = {name: True for name, state in now.items() if before.get(name) != state}
        gone = {name: False for name in before if name not in now}
        others = {name: path for name, path in folders.items() if name not in changed} if changed else {}
        return changed | gone | {name: True for name, path in others.items() if _steps_of(path) & changed.keys()}

    def load(self, name: str, models: int) -> list[LoadedModel]:
        """Open all versions of a model that its policy has served, among this many models.

        Raises:
            NotFoundError: it has no folder.
            TailcutError: its configuration, or a version of it, cannot be used; nothing of it stays open.
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
        self._say(folder, folder.notes())
        loaded: list[LoadedModel] = []
        try:
            loaded += (self._open(folder, version, models * len(versions), self._wishes) for version in versions)
        except BaseException:
            for entry in loaded:
                entry.model.close()
            raise
        return loaded

    def _open_ensemble(self, folder: ModelFolder, models: int) -> LoadedModel:
        """The models of an ensemble's steps, one after the other, as one model; they are its own."""
        folders, config = model_folders(self.repository), cast("Any", folder.config)
        inner, seen = [], []
        with _named(folder.path / CONFIG_FILE):
            refuse(config)
            steps = read_steps(config)
            for step in steps:
                with _named(f"step {step.model!r}"):
                    inner.append(_inner(step, folders))
                    seen.append(_seen(*inner[-1]))
            plan = plan_steps(config, steps, seen)
        self._say(folder, notes_of_ensemble(config))
        wishes, largest = self._wishes, config.max_batch_size
        if largest:
            wishes = replace(wishes, max_batch_size=min(largest, wishes.max_batch_size or largest))
        opened: list[Model] = []
        try:
            for index in plan.order:
                with _named(f"{folder.path / CONFIG_FILE}: step {steps[index].model!r}"):
                    opened.append(self._open(*inner[index], models * len(steps), wishes).model)
            model = as_one(folder, [steps[index] for index in plan.order], opened, plan, one_batch=largest > 0)
        except BaseException:
            for step_model in opened:
                step_model.close()
            raise
        _log.info("%s: %s", folder.name, model.rows.describe())
        return LoadedModel(folder.name, str(_version_of_ensemble(folder)), cast("Model", model), as_dict(config))

    @staticmethod
    def _say(folder: ModelFolder, notes: Iterable[str]) -> None:
        for note in notes:
            _log.info("%s: %s: %s", folder.name, CONFIG_FILE, note)

    def _open(self, folder: ModelFolder, version: int, models: int, wishes: Wishes) -> LoadedModel:
        limits, tuned = self._limits(models), folder.profile(version)
        profile, reading = profile_of(folder, version)
        queue, notes = wishes.queue_rows, list(reading.notes)
        if queue is not None and reading.queue_rows is not None:
            notes = [note for note in notes if not note.startswith("max_queue_size ")]
            notes.append(f"max_queue_size is not used: --queue says that {queue} rows may wait")
        self._say(folder, notes)
        if tuned is not None:
            profile = self._tuned(tuned, profile, reading)
        profile = wishes.applied(profile)
        if queue is None and reading.queue_rows is not None:
            limits = replace(limits, queue_rows=reading.queue_rows, queue_setting=f"max_queue_size in {CONFIG_FILE}")
        alone = reload = None
        with _told_apart(folder, profile):
            if tuned is not None:
                model = Model.open(profile, limits=limits)
            elif reading.is_fixed or not wishes.measures:
                alone, reload = profile.settings.engine, partial(_open_beside, profile, limits)
                model = reload(models)
            else:
                sizes = [size for size in (reading.max_batch_size, wishes.max_batch_size) if size]
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
        """Those of a model among this many, which share the memory that this process may use.

        Where clients load models, some that are not there yet have a share as well.
        """
        known, limits = len(model_folders(self.repository)), self._wishes.limits
        shared = within_memory(limits, memory_limit(), max(models, min(known, _EXPECTED)))
        if shared.slab_bytes < min(limits.slab_bytes, self._slab_bytes):
            _log.warning("the memory limit leaves only %d MiB for the rows of each model", shared.slab_bytes >> 20)
            self._slab_bytes = shared.slab_bytes
        return shared

    def _tuned(self, path: Path, configured: Profile, reading: ConfigReading) -> Profile:
        """A profile that was tuned, for clients that see the model as its configuration says."""
        profile = Profile.load(path)
        profile.verify_model()
        _log.info("%s: serving %s: how it computes is as it was tuned", configured.model.name, path.name)
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
    """Open a model among this many, none of whose threads spin where there are several."""
    engine = beside_others(profile.settings.engine, models)
    settings = msgspec.structs.replace(profile.settings, engine=engine)
    return Model.open(msgspec.structs.replace(profile, settings=settings), limits=limits)


def _open_chosen(profile: Profile, limits: Limits, choice: DefaultChoice, models: int) -> Model:
    """Open a model among this many with settings that were measured before."""
    return chosen_model(profile, choice.among(models), limits)


def profile_of(folder: ModelFolder, version: int) -> tuple[Profile, ConfigReading]:
    """What a model's configuration says of a version, as a profile; what it says beside that.

    Raises:
        TailcutError: the file cannot be read, or the configuration does not fit it.
    """
    path = folder.file(version)
    config = parse_config("", "") if folder.config is None else folder.config
    engine = engine_of(config, ENGINES_OF[kind_of(path)])
    with _named(folder.path / CONFIG_FILE, UnsupportedError):
        declared = declared_signature(config) if kind_of(path) is FileKind.SCRIPT else ()
        reading = read_settings(config, signature(path, EngineOptions(signature=declared)), engine, declared)
    profile = Profile.of_model(path, reading.settings, folder.name)
    return msgspec.structs.replace(profile, samples=reading.samples), reading


@contextmanager
def _named(where: Path | str, kind: type[TailcutError] = TailcutError) -> Iterator[None]:
    """Have errors of a kind begin with the place where they arise."""
    try:
        yield
    except kind as error:
        raise type(error)(f"{where}: {error}") from None


def _read(path: Path) -> ModelFolder:
    """A model that may be served: its configuration can be read, and names no backend that is not here."""
    folder = ModelFolder.read(path)
    if folder.config is not None and not folder.is_ensemble:
        with _named(path / CONFIG_FILE):
            check_backend(folder.config)
    return folder


def _version_of_ensemble(folder: ModelFolder) -> int:
    """Its newest, which needs no folder."""
    return (folder.versions() or [1])[-1]


def _steps_of(path: Path) -> set[str]:
    """The models of an ensemble; none where it is not an ensemble, or cannot be read."""
    try:
        folder = ModelFolder.read(path)
        return {step.model for step in read_steps(folder.config)} if folder.is_ensemble else set()
    except TailcutError:
        return set()


def _inner(step: EnsembleStep, folders: Mapping[str, Path]) -> tuple[ModelFolder, int]:
    """The model of a step, and its version."""
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


def _seen(inner: ModelFolder, version: int) -> ModelSpec:
    """What clients see of a model."""
    profile, _ = profile_of(inner, version)
    return _as_configured(inner, profile)


def _as_configured(folder: ModelFolder, profile: Profile) -> ModelSpec:
    """What clients see of a model; where its configuration does not fit it, the error names that."""
    with _named(folder.path / CONFIG_FILE, UnsupportedError):
        return signature(Path(profile.model.path), profile.settings.engine)


@contextmanager
def _told_apart(folder: ModelFolder, profile: Profile) -> Iterator[None]:
    """Have an error name the configuration where that is at fault, and not the machine or the command line."""
    try:
        yield
    except UnsupportedError:
        _as_configured(folder, profile)
        raise


def newest_of(path: Path) -> tuple[Path, ConfigReading]:
    """The file of the newest version of a model's folder, and what its configuration says of it.

    Raises:
        TailcutError: there is none, or the configuration does not fit it.
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
    """The inputs and outputs of a model file with these options, read with an engine that computes nothing."""
    engine = open_engine(path, msgspec.structs.replace(options, name="none"))
    engine.close()
    return engine.spec
