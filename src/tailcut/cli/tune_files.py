"""The files that a tune reads and writes: whether they can be written is checked before any time is spent."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tailcut.cli.outputs import check_writable, refuse_overwriting
from tailcut.cli.tune_together import JointFiles, count


@dataclass(frozen=True, slots=True)
class TuneFiles:
    """The output files."""

    profile: Path
    report: Path
    journal: Path


def data_files(given: list[Path], models: int) -> list[Path | None]:
    """The data file of each model: none at all, or one each.

    Raises:
        UsageError: another number of files.
    """
    from tailcut.errors import UsageError

    if given and len(given) != models:
        raise UsageError(f"--data: {count(len(given), 'file')} for {count(models, 'model')}: give it once per model")
    return list(given) or [None] * models


def joint_files(
    models: list[Path], names: list[str], report: Path | None, read: Sequence[Path | None] = ()
) -> JointFiles:
    """A profile beside each model, and one report beside the first.

    Args:
        models: that are tuned.
        names: of them.
        report: that the user names.
        read: files of data and recorded arrivals.

    Raises:
        UsageError: one cannot be written, or is another one, or one that is read.
    """
    from tailcut.engines.files import profile_beside

    files = JointFiles(
        tuple(map(profile_beside, models)), report or models[0].with_name(f"{'+'.join(names)}.report.html")
    )
    check_writable(*files.profiles, files.report)
    written = {"--report": files.report} | {
        f"the profile of {name}:": path for name, path in zip(names, files.profiles, strict=True)
    }
    refuse_overwriting(written, [*(file for model in models for file in _files_of(model)), *read])
    return files


def tune_files(
    model: Path,
    output: Path | None,
    report: Path | None,
    *,
    retune: Path | None = None,
    read: Sequence[Path | None] = (),
) -> TuneFiles:
    """The profile, the report and the trials, beside the model where nothing else is said.

    Args:
        model: that is tuned.
        output: the profile that the user names.
        report: likewise.
        retune: a profile that is checked again, and replaced where no other one is named.
        read: files of data.

    Raises:
        UsageError: one cannot be written, or is another one, or one that is read; or no command reads such a profile.
    """
    from tailcut.engines.files import file_stem, profile_beside
    from tailcut.errors import UsageError
    from tailcut.runtime.profile import is_pipeline

    if output is not None and output.suffix != ".toml":
        raise UsageError(f"-o {output}: a profile's name ends in .toml, such as {output.name}.toml")
    files_read = [*_files_of(model), *read]
    output = output or retune
    if is_pipeline(str(model)):
        model = model.with_name(Path(model.name.rpartition(":")[0]).stem)
    stem = file_stem(model)
    profile = output or profile_beside(model)
    files = TuneFiles(
        profile, report or profile.with_name(f"{stem}.report.html"), profile.with_name(f"{stem}.trials.jsonl")
    )
    check_writable(files.profile, files.report, files.journal)
    if retune is not None and retune.resolve() != files.profile.resolve():
        files_read.append(retune)
    refuse_overwriting({"-o": files.profile, "--report": files.report, "the trials": files.journal}, files_read)
    return files


def _files_of(model: Path) -> list[Path]:
    """The file of a model or a pipeline, and those of its weights, as far as their names say it."""
    from tailcut.engines.files import kind_of, parts_of
    from tailcut.runtime.profile import is_pipeline

    if is_pipeline(str(model)):
        return [Path(str(model).rpartition(":")[0])]
    graph, weights = parts_of(model, kind_of(model))
    return [model, graph, *weights]
