"""The pytest plugin: the fixture `tailcut_benchmark`, saved baselines, and tests that fail where a function got slower.

pytest loads this module in every run where Tailcut is installed, so it imports nothing heavy until a test asks.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from tailcut.lab.microbench import Benchmark, Function
    from tailcut.lab.records import (
        EarlierMicrobench,
        FunctionChange,
        FunctionComparison,
        FunctionResult,
        MicrobenchResult,
    )

_NOISE = 0.05
_SECONDS = 0.5
_ATTRIBUTE = "tailcut_benchmarks"  # of a test's report: JSON
_PAGES = {".html", ".htm"}
_FOLDER = ".tailcut"  # of baselines that have a name and no path


class Baselines:
    """One test session's benchmarks: what was measured, and what it is compared with."""

    def __init__(self, config: pytest.Config) -> None:
        self.save = _saved_run(config, "--tailcut-save")
        self.compare = _saved_run(config, "--tailcut-compare")
        self.report = _page(config, "--tailcut-report")
        self.noise: float = config.getoption("tailcut_noise")
        self.seconds: float = config.getoption("tailcut_seconds")
        self.functions: list[FunctionResult] = []
        self.comparisons: list[FunctionComparison] = []
        self.against: list[FunctionChange] = []
        self.workers: set[str] = set()  # of pytest-xdist that measured something
        self.written: list[str] = []  # a line for each file that was written, or could not be
        self.failed = False  # a file could not be written
        self._last: MicrobenchResult | None = None
        self._earlier: EarlierMicrobench | None = None
        if self.compare is not None:
            from tailcut.errors import UsageError  # noqa: PLC0415  only runs that compare need it
            from tailcut.lab.microbench_record import read_microbench  # noqa: PLC0415

            try:
                self._earlier = read_microbench(self.compare, "--tailcut-save=NAME")
            except UsageError as error:
                raise pytest.UsageError(f"--tailcut-compare: {error}") from None

    def measured(self, test: str, result: "Benchmark", used: Counter[str]) -> "MicrobenchResult":
        """The record of what a test measured, for its report, with the changes since the baseline.

        Args:
            test: the name of the test.
            result: of its benchmark.
            used: how often the test has used each name; further results under one name are numbered.
        """
        from msgspec.structs import replace  # noqa: PLC0415

        from tailcut.lab.microbench_record import changes, microbench_record  # noqa: PLC0415

        record = microbench_record(result, machine={}, command="pytest")
        names: dict[str, str] = {}
        for function in record.functions:
            name = test if len(record.functions) == 1 else f"{test} {function.name}"
            used[name] += 1
            names[function.name] = name if used[name] == 1 else f"{name} #{used[name]}"
        record = replace(
            record,
            functions=[replace(function, name=names[function.name]) for function in record.functions],
            comparisons=[
                replace(comparison, name=names[comparison.name], to=names[comparison.to])
                for comparison in record.comparisons
            ],
        )
        return replace(record, against=changes(record, self._earlier, self.noise)) if self._earlier else record

    def judge(self, record: "MicrobenchResult") -> None:
        """Fail the test where a function is slower than its baseline."""
        slower = [self._slower(entry) for entry in record.against or () if entry.verdict == "worse"]
        if slower:
            pytest.fail("\n".join(slower), pytrace=False)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what the tests measured, in this process and in pytest-xdist's workers, whose reports arrive here."""
        text = getattr(report, _ATTRIBUTE, None)
        if text is None:
            return
        import msgspec  # noqa: PLC0415  only tests that measured something need it

        from tailcut.lab.records import MicrobenchResult  # noqa: PLC0415

        for record in msgspec.json.decode(text, type=list[MicrobenchResult]):
            self.against += record.against or []
            self._last = record
            self.functions += record.functions
            self.comparisons += record.comparisons
            self.workers |= {report.node.gateway.id} if hasattr(report, "node") else set()

    def record(self, last: "MicrobenchResult") -> "MicrobenchResult":
        """Everything measured in the session, in the form of `tailcut microbench --json`."""
        from msgspec import UNSET  # noqa: PLC0415
        from msgspec.structs import replace  # noqa: PLC0415

        from tailcut.machine.fingerprint import fingerprint  # noqa: PLC0415

        return replace(
            last,
            functions=self.functions,
            comparisons=self.comparisons,
            machine=fingerprint(),
            against=UNSET if self._earlier is None else self.against,
        )

    def finish(self) -> None:
        """Write the files that the options ask for."""
        if self._last is None:
            return
        record = self.record(self._last)
        if self.save is not None:
            from tailcut.lab.records import to_json  # noqa: PLC0415

            self._write(self.save, to_json(record, indented=True), "saved to", "--tailcut-save")
        if self.report is not None:
            from tailcut.report.html import render_microbench_html  # noqa: PLC0415

            self._write(self.report, render_microbench_html(record), "report:", "--tailcut-report")

    def _write(self, path: Path, content: str | bytes, done: str, option: str) -> None:
        from tailcut.atomic import write_atomically  # noqa: PLC0415

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            self.failed = True
            self.written.append(f"{option}: {os.path.relpath(path)} was not written: {error.strerror}")
        else:
            self.written.append(f"{done} {os.path.relpath(path)}")

    def _slower(self, entry: "FunctionChange") -> str:
        from tailcut.report.words import nanoseconds, ratio  # noqa: PLC0415

        where = os.path.relpath(self.compare or "")
        return (
            f"{entry.name} got slower: {ratio(entry.ratio)} of {nanoseconds(entry.before_ns)} in "
            f"{where} (99 % interval beyond the noise threshold of {self.noise:.0%})"
        )


_BASELINES = pytest.StashKey[Baselines]()
_MEASURED = pytest.StashKey[list["MicrobenchResult"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, all under one prefix."""
    group = parser.getgroup("tailcut", "micro-benchmarks by Tailcut")
    where = f"a path ending in .json, or a name: then {_FOLDER}/NAME.json below the root folder"
    group.addoption("--tailcut-save", metavar="NAME", help=f"save what the benchmarks measure: {where}")
    group.addoption("--tailcut-compare", metavar="NAME", help=f"fail tests slower than this saved run: {where}")
    group.addoption("--tailcut-report", metavar="FILE.html", help="write an HTML report of the benchmarks")
    group.addoption(
        "--tailcut-noise",
        type=float,
        default=_NOISE,
        metavar="SHARE",
        help="smaller changes count as noise (%(default)s)",
    )
    group.addoption(
        "--tailcut-seconds", type=float, default=_SECONDS, metavar="S", help="for each function (%(default)s)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Read the baseline before any test runs: a wrong path is reported at once."""
    baselines = config.stash[_BASELINES] = Baselines(config)
    config.pluginmanager.register(baselines, "tailcut-baselines")


@pytest.fixture
def tailcut_benchmark(request: pytest.FixtureRequest) -> "Callable[..., Benchmark]":
    """Measures a function, or several by name, and returns a `tailcut.lab.microbench.Benchmark`."""
    baselines = request.config.stash[_BASELINES]
    used: Counter[str] = Counter()

    def measure(
        candidates: "Function | Sequence[Function] | Mapping[str, Function]", *, seconds: float | None = None
    ) -> "Benchmark":
        from tailcut.lab import benchmark  # noqa: PLC0415  sessions without benchmarks load no numpy for this

        result = benchmark(candidates, seconds=baselines.seconds if seconds is None else seconds)
        record = baselines.measured(request.node.nodeid, result, used)
        request.node.stash.setdefault(_MEASURED, []).append(record)
        baselines.judge(record)
        return result

    return measure


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> "Generator[None, pytest.TestReport, pytest.TestReport]":
    """Attach what the test measured to its report: only reports reach the process that saves."""
    report = yield
    records = item.stash.get(_MEASURED, [])
    if records:
        import msgspec  # noqa: PLC0415  as above

        setattr(report, _ATTRIBUTE, msgspec.json.encode(records).decode())  # pytest-xdist passes plain values only
        item.stash[_MEASURED] = []
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Save the results and write the report, in the process that has all of them."""
    if hasattr(session.config, "workerinput"):
        return
    baselines = session.config.stash[_BASELINES]
    baselines.finish()
    if baselines.failed and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """A line for each function that was measured, and where the files are."""
    baselines = config.stash[_BASELINES]
    if not baselines.functions:
        return
    from tailcut.report.words import bounds, nanoseconds, ratio  # noqa: PLC0415

    changed = {entry.name: entry for entry in baselines.against}
    terminalreporter.section("tailcut benchmarks: median of a call, 99 % interval")
    for function in baselines.functions:
        line = f"{function.name}  {nanoseconds(function.median_ns.point)} ({bounds(function.median_ns)})"
        entry = changed.get(function.name)
        if entry is not None:
            line += f"  {ratio(entry.ratio)} of before: {entry.verdict}"
        elif baselines.compare is not None:
            line += "  not in the baseline"
        terminalreporter.write_line(line)
    if len(baselines.workers) > 1:
        terminalreporter.write_line(
            f"{len(baselines.workers)} workers measured at the same time and disturbed each other: "
            "run benchmarks separately (-n 0)"
        )
    for line in baselines.written:
        terminalreporter.write_line(line)


def _saved_run(config: pytest.Config, option: str) -> Path | None:
    given = config.getoption(option)
    if not given:
        return None
    path = Path(given)
    if path.suffix in _PAGES:
        raise pytest.UsageError(f"{option}: {given}: a saved run is JSON (--tailcut-report writes HTML)")
    return path if path.suffix == ".json" else config.rootpath / _FOLDER / f"{given}.json"


def _page(config: pytest.Config, option: str) -> Path | None:
    given = config.getoption(option)
    if given and Path(given).suffix not in _PAGES:
        raise pytest.UsageError(f"{option}: {given}: a report is HTML: give a path ending in .html")
    return Path(given) if given else None
