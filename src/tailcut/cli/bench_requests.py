"""The requests of `tailcut bench`: generated for a served model, or the user's own."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tailcut.lab.arrivals import Arrivals
    from tailcut.lab.load import LoadTarget
    from tailcut.lab.mix import MixEntry
    from tailcut.lab.records import Scenario
    from tailcut.lab.shared import SharedLoad
    from tailcut.lab.workload import Workload

_OK = 200
_FRAMING = {"content-length", "transfer-encoding"}
_ENCODING = {"content-type", "inference-header-content-length"}


class Wire(StrEnum):
    """How tensors are encoded."""

    BINARY = "binary"
    JSON = "json"
    RAW = "raw"


class ArrivalProcess(StrEnum):
    """The arrival process of an open loop."""

    POISSON = "poisson"
    CONSTANT = "constant"
    BURSTY = "bursty"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """The options that determine the requests, and the target's path."""

    url: str
    path: str
    body: Path | None
    data: "Sequence[str]"
    model: str | None
    wire: Wire
    shared_memory: str | None
    expect: int | None

    @property
    def own(self) -> bool:
        """Whether the request is the user's own."""
        return self.body is not None or bool(self.path)

    def form(self, scenario: "Scenario | None") -> str:
        """A description of the tensors' encoding.

        Raises:
            UsageError: options cannot be combined.
        """
        from tailcut.errors import UsageError
        from tailcut.lab.scenarios import samples_per_query

        if self.shared_memory is not None and (self.own or self.wire is not Wire.BINARY):
            raise UsageError("--shared-memory is for v2 tensors: leave out --wire, --body and URL paths")
        if not self.own:
            if self.expect is not None:
                raise UsageError("--expect is only for custom requests: add --body FILE or a path to the URL")
            return f"{self.wire} tensors" if self.shared_memory is None else "tensors in shared memory"
        if scenario and samples_per_query(scenario) > 1:
            raise UsageError(f"--scenario {scenario} sends several samples per request: leave out --body and URL paths")
        self._check_own()
        return "custom body"

    def own_workload(self, target: "LoadTarget") -> "Workload | None":
        """The user's own request; None if requests are generated for a model.

        Raises:
            UsageError: its file cannot be read, or the server is not an HTTP server.
        """
        from tailcut.lab.describe import raw_payload
        from tailcut.lab.workload import Workload

        if not self.own:
            return None
        return Workload([raw_payload(target, self.path, self.body, self.expect or _OK)])

    def check_headers(self, headers: "Mapping[str, str]") -> None:
        """Check that no header is determined by the body or the encoding of a request.

        Raises:
            UsageError: one is.
        """
        from tailcut.errors import UsageError

        for name in headers:
            if name.lower() in (_FRAMING if self.own else _FRAMING | _ENCODING):
                raise UsageError(f"--header {name} is set from the body of each request: leave it out")

    def _check_own(self) -> None:
        """Refuse options that a custom request would ignore.

        Raises:
            UsageError: an option would be ignored, or an inference request has no body.
        """
        from tailcut.errors import UsageError

        given = {"--data": self.data, "--model": self.model, "--wire": self.wire is not Wire.BINARY}
        unused = " and ".join(name for name, value in given.items() if value)
        address = self.url.removesuffix(self.path)
        parts = (["--body"] if self.body else []) + ([f"the path: {address}"] if self.path else [])
        if unused:
            raise UsageError(f"{unused} cannot be combined with a custom request: leave out {' and '.join(parts)}")
        if self.body is None and self.path.startswith("/v2/") and self.path.endswith("/infer"):
            raise UsageError(
                f"{self.path} needs a body: leave out the path ({address}) for generated requests, or add --body FILE"
            )


@dataclass(frozen=True, slots=True)
class RequestMaker:
    """Makes requests for served models."""

    target: "LoadTarget"
    wire: Wire
    seed: int
    rows: int
    shared: "SharedLoad | None"

    def of(self, model: str | None, data: "Sequence[str]") -> "Workload":
        """The requests for one model, from a data file or generated.

        Raises:
            UsageError: there are several files, or the data do not fit the model.
        """
        from tailcut.cli.options import load_data
        from tailcut.errors import UsageError
        from tailcut.lab.workload import served_workload

        if len(data) > 1:
            raise UsageError("--data can be given several times only with --mix, as NAME=FILE")
        arrays = load_data(data[0]) if data else None
        return served_workload(self.target, model, arrays, self.wire.value, self.seed, self.rows, self.shared)

    def of_mix(
        self,
        entries: "Sequence[MixEntry]",
        data: "Sequence[str]",
        make: "Callable[[str | None], Callable[[float], Arrivals]]",
    ) -> "dict[str, tuple[Workload, Arrivals]]":
        """The requests and arrivals of each model of a mix, by name.

        Raises:
            UsageError: a model is not served, or its data do not fit.
        """
        from tailcut.lab.describe import served_models
        from tailcut.lab.mix import check_served, data_by_model

        files = data_by_model(data, [entry.model for entry in entries])
        check_served(entries, served_models(self.target))
        return {
            entry.model: (
                self.of(entry.model, [files[entry.model]] if entry.model in files else []),
                make(entry.kind)(entry.rate),
            )
            for entry in entries
        }


def mix_entries(mix: str | None, model: str | None, clients: int | None, *, own: bool) -> "list[MixEntry]":
    """The models of --mix; none without it.

    Raises:
        UsageError: --mix cannot be parsed, or is combined with options that it excludes.
    """
    from tailcut.errors import UsageError
    from tailcut.lab.mix import parse_mix

    if mix is None:
        return []
    if own or model is not None:
        raise UsageError("--mix names the models itself: leave out --model, --body and URL paths")
    if clients != 1:
        raise UsageError("--mix sends each model's requests from a thread of its own: leave out --processes")
    return parse_mix(mix, [*ArrivalProcess])
