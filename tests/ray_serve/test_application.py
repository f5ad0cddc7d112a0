"""From models to a plan, which needs no Ray."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engines.models import identity

import tailcut.ray
from tailcut.engines import EngineOptions
from tailcut.engines.base import CudaOptions
from tailcut.errors import MissingFileError, ProfileError, UsageError
from tailcut.models import digits_model
from tailcut.ray.application import make_plan
from tailcut.ray.plan import CarriedLoad, Replicas
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import DType

SERVICE = {"sizes": [1], "quantiles_us": [[1000.0]], "threads": 1, "cores": 2.0, "way_in": {"wake_ns": 5}}


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A tuned profile of the bundled model, with figures that are made up."""
    settings = Settings(engine=EngineOptions(threads=1), batching=BatchingSettings(dispatch="inline"))
    made = Profile.of_model(digits_model(), settings)
    evidence = {"service": SERVICE, "limit_ms": 10.0, "tuned": {"memory_peak_bytes": 1 << 30}}
    path = tmp_path / "digits.profile.toml"
    msgspec.structs.replace(made, evidence=evidence, machine={"usable_cpus": 2}).save(path)
    return path


def test_a_tuned_profile_decides_everything(profile: Path) -> None:
    """CPUs, memory, and what a replica sustains within the limit of its tune."""
    plan = make_plan(profile, replicas=(1, 4))
    assert plan.sources == (str(profile),)
    assert (plan.cpus, plan.gpus, plan.exclusive) == (1.0, 0.0, False)
    assert plan.memory_bytes > 1 << 30
    assert plan.replicas == Replicas(least=1, most=4)
    assert plan.carried.limit == "p99=10ms"
    assert plan.carried.rate is not None


def test_a_user_decides_instead(profile: Path) -> None:
    """Each figure can be given."""
    plan = make_plan(
        profile,
        limit_ms=20.0,
        percentile="p95",
        cpus=0.5,
        memory_bytes=0,
        max_ongoing_requests=7,
        target_ongoing_requests=3.0,
    )
    assert (plan.cpus, plan.memory_bytes) == (0.5, 0)
    assert plan.carried.limit == "p95=20ms"
    assert (plan.carried.most_ongoing, plan.carried.target_ongoing) == (7, 3.0)


def test_a_bare_model_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It gets one CPU and a guess; its path becomes absolute, and its name stays."""
    (tmp_path / "m.onnx").write_bytes(digits_model().read_bytes())
    monkeypatch.chdir(tmp_path)
    plan = make_plan("digits=m.onnx")
    assert plan.sources == (f"digits={tmp_path.resolve()}/m.onnx",)
    assert plan.carried == CarriedLoad()
    assert (plan.cpus, plan.memory_bytes) == (1.0, 0)
    with pytest.raises(UsageError, match="needs the tuned profile of one model"):
        make_plan("m.onnx", limit_ms=5.0)


@pytest.mark.parametrize("given", ["./m.onnx", "lr=0.1/../m.onnx", "{}/lr=0.1/../m.onnx"])
def test_a_path_is_found_from_every_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str) -> None:
    """Relative ones, and those through a folder with an equals sign in its name."""
    (tmp_path / "lr=0.1").mkdir()
    (tmp_path / "m.onnx").write_bytes(digits_model().read_bytes())
    monkeypatch.chdir(tmp_path)
    assert make_plan(given.format(tmp_path)).sources == (f"{tmp_path.resolve()}/m.onnx",)


def test_another_model_than_was_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Is refused, with what to add for it to be deployed; then a warning says so, and its content is a revision."""
    model, profile = tmp_path / "m.onnx", tmp_path / "m.profile.toml"
    identity(DType.FP32, (None, 4), model)
    Profile.of_model(model).with_signature().save(profile)
    model.write_bytes(model.read_bytes() + b"\x32\x00")  # an empty field of its own: the same signature
    with pytest.raises(ProfileError, match=r"or deploy it with --accept-model-change \(in Python, options=\("):
        make_plan(profile)
    plan = make_plan(profile, options=("--accept-model-change",))
    assert plan.options == ("--accept-model-change",)
    assert "figures are not proven for it" in caplog.text
    model.write_bytes(model.read_bytes() + b"\x32\x00")
    assert make_plan(profile, options=("--accept-model-change",)).revision != plan.revision


@pytest.mark.parametrize(("replicas", "least", "most"), [(2, 2, 2), ("2", 2, 2), ("1:4", 1, 4), ((1, 4), 1, 4)])
def test_forms_of_a_number_of_replicas(replicas: Any, least: int, most: int) -> None:
    plan = make_plan(digits_model(), replicas=replicas)
    assert (plan.replicas.least, plan.replicas.most) == (least, most)


@pytest.mark.parametrize("replicas", ["many", "1:", "", (1,), (1, 2, 3), (1.0, 2), 2.0, True, None])
def test_no_number_of_replicas(replicas: Any) -> None:
    """One line shows the forms."""
    with pytest.raises(UsageError, match=r"replicas: .* is neither a number nor a range: write 2"):
        make_plan(digits_model(), replicas=replicas)


def test_models_by_an_id(profile: Path) -> None:
    """Are loaded on demand."""
    plan = make_plan({"a": profile, "b": digits_model()}, models_per_replica=2)
    assert plan.sources == ()
    assert plan.multiplexed == {"a": str(profile), "b": str(digits_model())}
    assert plan.models_per_replica == 2


def test_a_pipeline_keeps_its_variable(tmp_path: Path) -> None:
    """Its file is hashed, and not run."""
    (tmp_path / "p.py").write_text("raise SystemExit")
    assert make_plan(f"{tmp_path}/p.py:chain").sources == (f"{tmp_path}/p.py:chain",)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """Are named before anything is deployed."""
    with pytest.raises(MissingFileError, match=r"none\.onnx: no such model"):
        make_plan(tmp_path / "none.onnx")
    with pytest.raises(ProfileError, match=r"none\.toml"):
        make_plan(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="replicas must be"):
        make_plan(digits_model(), replicas=(3, 1))


@pytest.mark.parametrize("source", [[], {}])
def test_nothing_to_serve(source: list | dict) -> None:
    """The error is one line."""
    with pytest.raises(UsageError, match="an application needs at least one"):
        make_plan(source)


def test_two_models_of_one_name(profile: Path) -> None:
    """They cannot be distinguished; two versions of a model can."""
    with pytest.raises(UsageError, match="two models have the same name, digits: rename one with NAME=FILE"):
        make_plan([profile, digits_model()])
    with pytest.raises(UsageError, match="two models have the same name, a"):
        make_plan([f"a={profile}", f"a={digits_model()}"])
    assert len(make_plan([f"a:1={profile}", f"a:2={digits_model()}"]).sources) == 2


@pytest.mark.parametrize("percentile", ["99", "p100", "p0", "", "pp99"])
def test_no_percentile(profile: Path, percentile: str) -> None:
    """By the rule of every --slo."""
    with pytest.raises(UsageError, match="percentile: unknown percentile"):
        make_plan(profile, limit_ms=10.0, percentile=percentile)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit_ms", 0.0),
        ("limit_ms", float("nan")),
        ("models_per_replica", 0),
        ("drain_s", -1.0),
        ("cpus", -1.0),
        ("gpus", float("inf")),
        ("memory_bytes", -1),
        ("max_ongoing_requests", 0),
        ("target_ongoing_requests", 0.0),
        ("replicas", 0),
        ("replicas", (0, 4)),
    ],
)
def test_numbers_that_are_out_of_range(profile: Path, name: str, value: object) -> None:
    """Are named, before anything is deployed; only a limit needs a profile."""
    source = profile if name == "limit_ms" else digits_model()
    with pytest.raises(UsageError, match=f"{name} must be"):
        make_plan(source, **{name: value})


def test_devices(tmp_path: Path) -> None:
    """Those that the profiles of all models name: a replica has as many, and calls them by other indices."""
    places = [tmp_path / f"{index}.profile.toml" for index in (3, 1)]
    for place, index in zip(places, (3, 1), strict=True):
        engine = EngineOptions(device="cuda", cuda=CudaOptions(index=index))
        Profile.of_model(digits_model(), Settings(engine=engine)).save(place)
    plan = make_plan({"a": places[0], "b": places[1]})
    assert (plan.gpus, plan.devices) == (2.0, (1, 3))


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray() -> None:
    """One line says how to install it."""
    with pytest.raises(UsageError, match=r"pip install 'tailcut\[ray\]'"):
        tailcut.ray.deployment(digits_model())
