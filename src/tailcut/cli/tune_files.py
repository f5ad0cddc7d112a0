"""The files that a tune reads and writes: whether they can be written is checked before any time is spent."""

from dataclasses import dataclass
from pathlib import Path

from tailcut.cli.outputs import check_writable
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


def joint_files(models: list[Path], names: list[str], report: Path | None) -> JointFiles:
    """A profile beside each model, and one report beside the first.

    Raises:
        UsageError: one cannot be written.
    """
    from tailcut.engines.files import profile_beside

    files = JointFiles(
        tuple(map(profile_beside, models)), report or models[0].with_name(f"{'+'.join(names)}.report.html")
    )
    check_writable(*files.profiles, files.report)
    return files


def tune_files(model: Path, output: Path | None, report: Path | None) -> TuneFiles:
    """The profile, the report and the trials, beside the model where nothing else is said.

    Raises:
        UsageError: one cannot be written.
    """
    from tailcut.engines.files import file_stem, profile_beside
    from tailcut.runtime.profile import is_pipeline

    if is_pipeline(str(model)):
        model = model.with_name(Path(model.name.rpartition(":")[0]).stem)
    stem = file_stem(model)
    profile = output or profile_beside(model)
    files = TuneFiles(
        profile, report or profile.with_name(f"{stem}.report.html"), profile.with_name(f"{stem}.trials.jsonl")
    )
    check_writable(files.profile, files.report, files.journal)
    return files
