"""`tailcut plan` on the command line."""

from pathlib import Path

import msgspec
import pytest
from tests.planning.test_measured import ENGINE, SERVICE, save
from tests.schemas import validated

from tailcut.cli import main as cli
from tailcut.engines.base import CudaOptions
from tailcut.models import digits_model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.space import changed

pytestmark = pytest.mark.usefixtures("short_simulations")


@pytest.fixture
def no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan without the curve of rate against replicas, which takes a third of a plan's time."""
    monkeypatch.setattr("tailcut.planning.plan.curve_points", lambda _: [])


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return save(tmp_path, evidence={"service": SERVICE})


@pytest.mark.usefixtures("no_curve")
def test_the_capacity_of_one_worker(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is what several are planned from; the object says which replica was measured."""
    asked = ["plan", str(profile), "--rate", "100", "--slo", "p99=50ms", "--workers", "2", "--capacity", "900"]
    asked.append("--json")
    assert cli.main([*asked, "--capacity-workers", "1"]) == 0
    one = validated("plan", capsys.readouterr().out)["assumptions"]
    assert cli.main(asked) == 0
    both = validated("plan", capsys.readouterr().out)["assumptions"]
    assert [(own["capacity"], own["capacity_workers"]) for own in (one, both)] == [(900.0, 1), (900.0, 2)]


def test_json(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object that the schema allows; progress goes to stderr."""
    arguments = ["plan", str(profile), "--rate", "3000", "--slo", "p99=5ms", "--failures", "1", "--json"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    result = validated("plan", printed.out)
    assert result["replicas"] == result["needed"] + 1
    assert result["predicted"]["p99_ms"] < 5
    assert result["assumptions"]["routing"] == "two-choices"
    assert result["models"][0]["measured_in"] == str(profile)
    assert "simulating" in printed.err


@pytest.mark.slow
def test_a_trace_with_a_report(profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The autoscaler's course is in the object, and the page is written."""
    (tmp_path / "day.txt").write_text("0 100\n60 900\n120 100\n")
    page = tmp_path / "plan.html"
    arguments = ["plan", str(profile), "--trace", str(tmp_path / "day.txt"), "--slo", "p99=5ms", "--report", str(page)]
    assert cli.main([*arguments, "--autoscale", "queue=2,start=10s,every=5s", "--json"]) == 0
    result = validated("plan", capsys.readouterr().out)
    assert result["autoscaling"]["metric"] == "queue"
    assert result["assumptions"]["arrivals"] == "trace"
    assert "Replicas over time" in page.read_text()


@pytest.mark.usefixtures("no_curve")
def test_durations_are_round(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Microseconds in milliseconds."""
    assert cli.main(["plan", str(profile), "--rate", "100", "--slo", "p99=5100us", "--hedge", "100us", "--json"]) == 0
    result = validated("plan", capsys.readouterr().out)
    assert (result["assumptions"]["hedge_ms"], result["models"][0]["limit_ms"]) == (0.1, 5.1)


def test_the_terminal(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table, and the defaults for options that are not given."""
    assert cli.main(["plan", str(profile), "--rate", "100", "--slo", "p99=5ms", "--arrivals", "constant"]) == 0
    assert "1 replica, 2 cores" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "0", "--slo", "p99=5ms"], "--rate: '0' is not a rate"),
        (["--rate", "1e-9", "--slo", "p99=5ms"], "--rate: '1e-9' is not a rate"),
        (["--rate", "5", "--slo", "q99=5ms"], "unknown percentile 'q99'"),
        (["--rate", "5", "--slo", "p99=90us"], "no number of replicas meets p99 within 0.09 ms: a lone request takes"),
        (["--slo", "p99=5ms"], "give the traffic: --rate, --trace, or both"),
        (["--rate", "5,6", "--slo", "p99=5ms"], "2 rates for 1 profile:"),
        (["--rate", "5", "--slo", "p99=5ms,p99=6ms"], "2 limits for 1 profile:"),
        (["--rate", "5", "--slo", "p99=5"], "--slo 5: 5ms or 5s?"),
        (["--rate", "5", "--slo", "p99=5ms", "--hedge", "20"], "--hedge 20: 20ms or 20s?"),
        (["--rate", "5", "--slo", "p99=5ms", "--arrivals", "x"], "--arrivals: 'x' is unknown"),
        (["--rate", "5", "--slo", "p99=5ms", "--trace", "none.txt"], "none.txt: no such trace"),
        (["--rate", "5", "--slo", "p99=5ms", "--autoscale", "queue=2"], "--autoscale needs --trace"),
        (["--rate", "5", "--slo", "p99=5ms", "--capacity", "inf"], "'--capacity': inf is not in the range"),
        (["--rate", "5", "--slo", "p99=5ms", "--capacity-workers", "1"], "--capacity-workers needs --capacity"),
        (["--rate", "5", "--slo", "p99=5ms", "--price", "inf"], "'--price': inf is not in the range"),
        (["--rate", "5", "--slo", "p99=5ms", "--price", "nan"], "'--price': nan is not a finite number"),
        (["--rate", "5", "--slo", "p99=5ms", "--price", "1e308"], "1e+308 is not in the range 0.0<=x<="),
        (["--rate", "5", "--slo", "p99=5ms", "--capacity", "1e12"], "1000000000000.0 is not in the range 0.001<=x<="),
        (["--rate", "5", "--slo", "p99=5ms", "--seed", str(2**70)], "is not in the range 0<=x<=4294967295"),
        (["--rate", "5", "--slo", "p99=5ms", "--hedge", "9999999999h"], "--hedge: 3.6e+13 s are longer than 1,000,000"),
        (["--rate", "5", "--slo", "p99=9999999999h"], "--slo: 3.6e+13 s are longer than 1,000,000 s"),
        (["--rate", "5", "--slo", "p99=5ms", "--arrivals", "bursty:5:9999999h"], "--arrivals: 3.6e+10 s are longer"),
        (["--rate", "5", "--slo", "p99=5ms", "--trace", "none.txt", "--autoscale", "every=9999h"], "--autoscale: 3.5"),
        (["--rate", "5,000", "--slo", "p99=5ms"], "'5,000' is several rates, one of each profile: write 5000"),
        (
            ["--rate", "5,200", "--slo", "p99=5ms"],
            "2 rates for 1 profile: separate one rate per profile with commas",
        ),
        (["--rate", "5", "--slo", "p99=5ms", "--headroom", "20"], "20 is 2,000 %, as 0.2 is 20 %: write 20%, or 2000%"),
        (
            ["--rate", "5", "--slo", "p99=5ms", "--headroom", "nan"],
            "'nan' is not a share of the rate: write 0.2 or 20%",
        ),
        (["--rate", "1e9", "--slo", "p99=5ms"], "1,000 replicas do not meet the limit"),
    ],
)
def test_mistakes(profile: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """One line that says what is wrong, and exit code 2."""
    assert cli.main(["plan", str(profile), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err.splitlines()[-1]


def test_several_profiles_have_one_routing(profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same model twice, or another routing than in turn, is refused."""
    assert cli.main(["plan", str(profile), str(profile), "--rate", "5,5", "--slo", "p99=5ms"]) == 2
    assert "two profiles are for models of the same name" in capsys.readouterr().err
    other = tmp_path / "other.profile.toml"
    other.write_text(profile.read_text().replace('name = "digits"', 'name = "other"'))
    both = ["plan", str(profile), str(other), "--rate", "5,5", "--slo", "p99=5ms"]
    assert cli.main([*both, "--routing", "random"]) == 2
    assert "leave out --routing" in capsys.readouterr().err
    assert cli.main([*both, "--hedge", "1ms"]) == 2
    assert "several profiles: --hedge needs a single one" in capsys.readouterr().err
    assert cli.main([*both, "--capacity", "100"]) == 2
    assert "--capacity needs a single one" in capsys.readouterr().err


def saved(folder: Path, name: str, **changes: dict[str, object]) -> str:
    """The path of a profile of the bundled model under another name, with other settings."""
    profile = Profile.of_model(digits_model(), changed(Settings(engine=ENGINE), **changes), name)
    path = folder / f"{name}.profile.toml"
    msgspec.structs.replace(profile, evidence={"service": SERVICE}).save(path)
    return str(path)


@pytest.mark.parametrize("order", [1, -1])
def test_a_profile_with_workers_is_planned_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], order: int
) -> None:
    """Beside another one it is refused by its name, first or second, and no option that was not given is named."""
    both = [saved(tmp_path, "a", io={"workers": 2}), saved(tmp_path, "b")][::order]
    assert cli.main(["plan", *both, "--rate", "5,5", "--slo", "p99=5ms"]) == 2
    message = capsys.readouterr().err
    assert "a.profile.toml: the profile has io.workers = 2" in message
    assert "--" not in message


@pytest.mark.usefixtures("no_curve")
def test_a_trace_for_replicas_of_several_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is planned for, without an autoscaler, which is refused where it was asked for."""
    several, trace = saved(tmp_path, "a", io={"workers": 2}), tmp_path / "day.txt"
    trace.write_text("0 100\n0.1 300\n0.2 100\n")
    asked = ["plan", several, "--trace", str(trace), "--slo", "p99=5ms", "--json"]
    assert cli.main(asked) == 0
    result = validated("plan", capsys.readouterr().out)
    assert (result["autoscaling"], result["workers"]) == (None, 2 * result["replicas"])
    assert "no autoscaler was simulated: its replicas have one worker each" in " ".join(result["assumptions"]["notes"])
    assert cli.main([*asked, "--autoscale", "queue=2"]) == 2
    assert "--autoscale: the simulated autoscaler's replicas have one worker each, not 2" in capsys.readouterr().err
    assert cli.main([*asked, "--workers", "1"]) == 0
    assert validated("plan", capsys.readouterr().out)["autoscaling"] is not None


@pytest.mark.usefixtures("no_curve")
def test_workers_do_not_share_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each would be simulated with the whole device; so would several models on one."""
    item, other, apart = (
        saved(tmp_path, name, engine={"device": "cuda", "cuda": CudaOptions(index=index)})
        for name, index in (("a", 1), ("b", 1), ("c", 0))
    )
    usual = ["--rate", "5", "--slo", "p99=50ms"]
    assert cli.main(["plan", item, *usual, "--workers", "2"]) == 2
    assert "2 workers would share the replica's CUDA device" in capsys.readouterr().err
    assert cli.main(["plan", item, other, "--rate", "5,5", "--slo", "p99=50ms"]) == 2
    assert "several profiles are on CUDA device 1" in capsys.readouterr().err
    assert cli.main(["plan", item, apart, "--rate", "5,5", "--slo", "p99=50ms"]) == 0
