"""Turns models into a Ray Serve application: a plan from the profiles' figures, and the deployment of that plan."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tailcut.engines.files import model_name
from tailcut.errors import MissingFileError, ProfileError, TailcutError, UsageError
from tailcut.ray.installed import need_ray
from tailcut.ray.plan import (
    DEPLOYMENT,
    ApplicationPlan,
    CarriedLoad,
    Replicas,
    deployment_options,
    parse_replicas,
    read_plan,
)
from tailcut.ray.resources import Resources, resources_of, together
from tailcut.ray.revision import file_of, revision_of
from tailcut.ray.token import read_token
from tailcut.runtime.opening.source import is_profile, split_source
from tailcut.runtime.profile import Profile

Source = str | Path
ACCEPT_CHANGE = "--accept-model-change"  # of `tailcut serve`
_BARE = Resources(cpus=1.0, devices=frozenset(), memory_bytes=0, exclusive=False)
_log = logging.getLogger("tailcut")


def deployment(  # noqa: PLR0913  the options of a deployment, all but the first by name
    source: Source | Sequence[Source] | Mapping[str, Source],
    *,
    limit_ms: float | None = None,
    percentile: str = "p99",
    replicas: int | str | tuple[int, int] | Replicas = 1,
    cpus: float | None = None,
    gpus: float | None = None,
    memory_bytes: int | None = None,
    max_ongoing_requests: int | None = None,
    target_ongoing_requests: float | None = None,
    models_per_replica: int = 3,
    host: str | None = None,
    drain_s: float = 5.0,
    options: Sequence[str] = (),
    token_file: Source | None = None,
    revision: str = "",
) -> Any:
    """Make an application for `serve.run`, or to be bound to other deployments.

    Args:
        source: a profile, model or pipeline, or NAME=FILE as for `tailcut serve`; a sequence of these, all of which
            each replica serves; or a mapping from model ids to these, which replicas load on demand
            (`serve.multiplexed`). The files must exist on every node.
        limit_ms: latency limit that replicas are to meet, in milliseconds; None: the limit of the profile's tune.
        percentile: the percentile that has to meet it, such as "p99".
        replicas: a fixed number; or (MIN, MAX), "MIN:MAX" or a `Replicas` to scale with the requests in flight.
        cpus, gpus, memory_bytes: what Ray reserves for each replica; None: according to the profile, or 1 CPU
            without one.
        max_ongoing_requests: how many requests Serve sends to a replica at a time; None: as many as it answers within
            the limit.
        target_ongoing_requests: requests in flight per replica; None: 70 % of what a replica sustains within the limit.
        models_per_replica: with a mapping of models, how many of them a replica keeps loaded at most.
        host: address that servers listen on; None: the address of the node.
        drain_s: how many seconds a stopping replica still accepts requests, so that clients learn that it is leaving.
        options: further options of `tailcut serve`, such as ("--max-body", "256").
        token_file: a file with a token, which every request then needs.
        revision: any text; changing it replaces all replicas, as changing the content of the files does.

    Raises:
        UsageError: Ray is not installed, or an option is invalid or contradicts another.
        ProfileError: a profile is missing or corrupt.
        ModelFileError: a model is missing.
    """
    plan = make_plan(
        source,
        limit_ms=limit_ms,
        percentile=percentile,
        replicas=replicas,
        cpus=cpus,
        gpus=gpus,
        memory_bytes=memory_bytes,
        max_ongoing_requests=max_ongoing_requests,
        target_ongoing_requests=target_ongoing_requests,
        models_per_replica=models_per_replica,
        host=host,
        drain_s=drain_s,
        options=options,
        token_file=token_file,
        revision=revision,
    )
    return build(msgspec.to_builtins(plan))


def build(args: dict[str, Any]) -> Any:
    """Make the application of a plan: the `import_path` in the files that `tailcut ray config` writes.

    Args:
        args: the `args` of that file.

    Raises:
        UsageError: Ray is not installed, or the arguments are invalid.
    """
    plan = read_plan(args)
    need_ray()
    from ray import serve  # noqa: PLC0415  an extra

    from tailcut.ray.replica import replica_class  # noqa: PLC0415

    wrap = serve.deployment(name=DEPLOYMENT, **deployment_options(plan))
    return wrap(replica_class(plan)).bind(msgspec.to_builtins(plan))


def make_plan(  # noqa: PLR0913  as `deployment`
    source: Source | Sequence[Source] | Mapping[str, Source],
    *,
    limit_ms: float | None = None,
    percentile: str = "p99",
    replicas: int | str | tuple[int, int] | Replicas = 1,
    cpus: float | None = None,
    gpus: float | None = None,
    memory_bytes: int | None = None,
    max_ongoing_requests: int | None = None,
    target_ongoing_requests: float | None = None,
    models_per_replica: int = 3,
    host: str | None = None,
    drain_s: float = 5.0,
    options: Sequence[str] = (),
    token_file: Source | None = None,
    revision: str = "",
) -> ApplicationPlan:
    """Plan an application. Arguments and errors are those of `deployment`; Ray need not be installed."""
    named = {name: _absolute(value) for name, value in source.items()} if isinstance(source, Mapping) else {}
    listed = [source] if isinstance(source, str | Path) else [] if named else list(source)
    sources = tuple(map(_absolute, listed)) or tuple(named.values())
    if not sources:
        raise UsageError("name a profile, a model or a pipeline: an application needs at least one")
    accept = ACCEPT_CHANGE in options
    profiles = [_profile(_path(source), accept=accept) for source in sources]
    if token_file is not None and Path(token_file).exists():  # it may exist on the nodes only
        read_token(Path(token_file))
    if not named:
        _check_names(list(map(_name, sources, profiles)))
    needs = together([_BARE if profile is None else resources_of(profile) for profile in profiles])
    carried = _sustained_load(sources, profiles, limit_ms, percentile, cpus)
    changes: dict[str, Any] = {}
    if max_ongoing_requests is not None:
        changes["most_ongoing"] = max_ongoing_requests
    if target_ongoing_requests is not None:
        changes["target_ongoing"] = target_ongoing_requests
    try:
        return ApplicationPlan(
            sources=() if named else sources,
            multiplexed=named,
            models_per_replica=models_per_replica,
            revision=revision_of(list(map(_path, sources)), profiles, revision),
            cpus=needs.cpus if cpus is None else cpus,
            gpus=needs.gpus if gpus is None else gpus,
            memory_bytes=needs.memory_bytes if memory_bytes is None else memory_bytes,
            exclusive=needs.exclusive,
            carried=msgspec.structs.replace(carried, **changes),
            replicas=_replicas(replicas),
            host=host,
            drain_s=drain_s,
            options=tuple(options),
            token_file=None if token_file is None else str(Path(token_file).resolve()),
            devices=tuple(sorted(needs.devices)),
        )
    except ValueError as error:
        if isinstance(error, TailcutError):
            raise
        raise UsageError(str(error)) from None


def _replicas(replicas: object) -> Replicas:
    """Convert what the caller gave as the number of replicas.

    Raises:
        UsageError: the value is neither a number nor a range.
    """
    if isinstance(replicas, Replicas):
        return replicas
    if isinstance(replicas, str):
        return parse_replicas(replicas, "replicas")
    match replicas:
        case bool():
            pass
        case int() | (int(), int()):
            least, most = (replicas, replicas) if isinstance(replicas, int) else replicas
            return Replicas(least=least, most=most)
    raise UsageError(f"replicas: {replicas!r} is neither a number nor a range: write 2, (1, 4) or '1:4'")


def _name(source: str, profile: Profile | None) -> str:
    """The name that a source is served under, with its version if it has one."""
    label, path = split_source(source)
    return label or (model_name(file_of(path)) if profile is None else profile.model.name)


def _check_names(names: Sequence[str]) -> None:
    """Check that no two models have the same name.

    Raises:
        UsageError: two have.
    """
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"two models have the same name, {twice[0]}: rename one with NAME=FILE")


def _absolute(source: Source) -> str:
    """A source with an absolute path, because replicas run in other folders."""
    label, path = split_source(str(source))
    file = file_of(path)
    return f"{label}{'=' if label else ''}{file.parent.resolve() / file.name}{str(Path(path)).removeprefix(str(file))}"


def _path(source: str) -> str:
    """The path of a source, without the name that it is served under."""
    return split_source(source)[1]


def _profile(source: str, *, accept: bool) -> Profile | None:
    """The profile of a source; None for a bare model or pipeline.

    Args:
        source: its path.
        accept: whether the model's file may differ from the one that was measured.

    Raises:
        MissingFileError: there is no such file.
        ProfileError: the profile cannot be used, or is for another model.
    """
    if not is_profile(Path(source)):
        if not file_of(source).exists():
            raise MissingFileError(f"{source}: no such model or pipeline")
        return None
    profile, name = Profile.load(Path(source)), Path(source).name
    if accept and not profile.is_of_pipeline:
        profile, warning = profile.accept_model(name)
        if warning:
            _log.warning("%s", warning)
        return profile
    try:
        profile.verify_model(name)
    except ProfileError as error:
        here = f'deploy it with {ACCEPT_CHANGE} (in Python, options=("{ACCEPT_CHANGE}",))'
        raise ProfileError(str(error).replace(f"serve it with {ACCEPT_CHANGE}", here)) from None
    return profile


def _sustained_load(
    sources: Sequence[str],
    profiles: Sequence[Profile | None],
    limit_ms: float | None,
    percentile: str,
    cpus: float | None,
) -> CarriedLoad:
    """The load that a replica with this many CPUs sustains: from the measurements of one tuned model, else defaults.

    Raises:
        UsageError: a limit is given without measurements, or cannot be met; or the limit or percentile is invalid.
    """
    from tailcut.planning.demand import Limit, check_percentile  # noqa: PLC0415

    check_percentile(percentile, "percentile")
    if limit_ms is not None and not 0 < limit_ms < math.inf:
        raise UsageError(f"limit_ms must be greater than 0, not {limit_ms:g}")
    profile = profiles[0] if len(profiles) == 1 else None
    if profile is None or profile.is_of_pipeline or (limit_ms is None and "service" not in profile.evidence):
        if limit_ms is not None:
            raise UsageError(
                "a limit (limit_ms, or --slo) needs the tuned profile of one model, whose figures say what meets it"
            )
        return CarriedLoad()
    # Imported here because it loads numba, which a replica does not need.
    from tailcut.planning.measured import read_measured  # noqa: PLC0415
    from tailcut.ray.scaling import carried_by, tuned_limit  # noqa: PLC0415

    measured = read_measured(Path(_path(sources[0])))
    limit = tuned_limit(measured) if limit_ms is None else Limit(percentile, limit_ms)
    return CarriedLoad() if limit is None else carried_by(measured, limit, cpus)
