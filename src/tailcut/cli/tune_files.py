"""The files that a tune reads and writes: checked for writability before any time is spent."""

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
        UsageError: the number of files is neither 0 nor the number of models.
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
        models: the models to tune.
        names: of the models.
        report: the report's path, if the user gave one.
        read: files of data and recorded arrivals.

    Raises:
        UsageError: a file cannot be written, or would overwrite another one.
    """
    from tailcut.engines.files import profile_beside

    files = JointFiles(
        tuple(map(profile_beside, models)), report or models[0].with_name(f"{'+'.join(names)}.report.html")
    )
    check_writable(*files.profiles, files.report)
    for profile in files.profiles:
        _refuse_that_of_a_pipeline(profile, "move it elsewhere")
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
    """The profile, the report and the trials, by default beside the model.

    Files of a pipeline are named after its file; if that name belongs to a step, or to another profile, also after its
    variable, and a line on stderr says so.

    Args:
        model: the model to tune.
        output: the profile's path, if the user gave one.
        report: the report's path, likewise.
        retune: the profile to re-check, which is replaced unless `output` is given.
        read: files of data.

    Raises:
        UsageError: a file cannot be written, or would overwrite another one; or the profile's name does not end in
        .toml.
    """
    from tailcut.engines.files import file_stem, profile_beside
    from tailcut.errors import UsageError
    from tailcut.runtime.profile import is_pipeline

    if output is not None and output.suffix != ".toml":
        raise UsageError(f"-o {output}: a profile's name ends in .toml, such as {output.name}.toml")
    files_read = [*_files_of(model), *read]
    output = output or retune
    if is_pipeline(str(model)):
        model = _named_after(model, files_read, say=output is None)
    elif output is None:
        _refuse_that_of_a_pipeline(profile_beside(model), "name another file with -o")
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


def _named_after(pipeline: Path, read: Sequence[Path | None], *, say: bool) -> Path:
    """The stem of a pipeline's files: FILE, or FILE.VARIABLE if FILE.profile.toml belongs to something else."""
    import sys

    from tailcut.engines.files import profile_beside

    file, _, variable = pipeline.name.rpartition(":")
    short = pipeline.with_name(Path(file).stem)
    long = pipeline.with_name(f"{short.name}.{variable}")
    profile, own = profile_beside(short), profile_beside(long)
    step = profile.resolve() in {path.resolve() for path in read if path is not None}
    others = "a step of the pipeline" if step else _source_of(profile)
    if own.is_file() or step or (others and Path(others).resolve() != pipeline.resolve()):
        if say:
            reason = f"{profile} is {'' if step else 'for '}{others}" if others else f"{own} exists"
            print(f"tailcut: the profile is {own}: {reason}", file=sys.stderr)
        return long
    return short


def _refuse_that_of_a_pipeline(profile: Path, advice: str) -> None:
    """Check that the default profile of a model would not replace that of a pipeline.

    Raises:
        UsageError: it would.
    """
    from tailcut.errors import UsageError
    from tailcut.runtime.profile import is_pipeline

    source = _source_of(profile)
    if is_pipeline(source):
        raise UsageError(f"{profile} is for the pipeline {source}: {advice}")


def _source_of(profile: Path) -> str:
    """The model or the pipeline that a profile is for; empty if there is no valid profile."""
    from tailcut.errors import TailcutError
    from tailcut.runtime.profile import Profile

    try:
        return Profile.load(profile).model.path
    except TailcutError:
        return ""


def _files_of(model: Path) -> list[Path]:
    """The files of a model and its weights, as far as names tell; for a pipeline, its file and those of its steps."""
    from tailcut.engines.files import kind_of, parts_of
    from tailcut.pipelines.loading import load_pipeline, parse_path
    from tailcut.pipelines.model import engine_files
    from tailcut.pipelines.tuned import model_files
    from tailcut.runtime.profile import is_pipeline

    if is_pipeline(str(model)):
        path = parse_path(str(model))
        return [path.file, *model_files(load_pipeline(path), path), *engine_files(str(model))]
    graph, weights = parts_of(model, kind_of(model))
    return [model, graph, *weights]
