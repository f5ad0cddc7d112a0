"""`tailcut ray`, as far as it needs no Ray; the rest is in tests/ray_serve."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from tests.schemas import validated

from tailcut.cli import main as cli
from tailcut.client.requests import ServerAddress
from tailcut.models import digits_model
from tailcut.ray.application import make_plan
from tailcut.ray.membership import ReplicaDirectory as Members
from tailcut.ray.plan import Replicas, read_plan, serve_config


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_lists_its_commands(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """As that of `tailcut` does, also without a command."""
    assert cli.main(["ray", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("Usage: tailcut ray [OPTIONS] COMMAND [ARGS]...\n\n  Ray Serve: the configuration of")
    assert out.count("\n  config ") == out.count("\n  haproxy ") == 1


def test_config_writes_the_plan_of_an_application(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To a file, or to stdout."""
    model = digits_model()
    options = ["--replicas", "1:3", "--cpus", "2", "--drain", "2s", "--host", "127.0.0.1", "--route", "/d"]
    assert cli.main(["ray", "config", str(model), *options, "-o", str(tmp_path / "serve.yaml")]) == 0
    assert "serve deploy" in capsys.readouterr().err
    content = yaml.safe_load((tmp_path / "serve.yaml").read_text())
    replicas = Replicas(least=1, most=3)
    plan = make_plan(model, replicas=replicas, models_per_replica=1, cpus=2.0, drain_s=2.0, host="127.0.0.1")
    assert content == serve_config(model.name.split(".")[0], "/d", plan)
    assert cli.main(["ray", "config", f"named={model}", "--name", "app"]) == 0
    (application,) = yaml.safe_load(capsys.readouterr().out)["applications"]
    assert application["name"] == "app"
    assert read_plan(application["args"]).sources == (f"named={model}",)


def test_config_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same content, and nothing else on stdout."""
    model, file = str(digits_model()), tmp_path / "serve.yaml"
    assert cli.main(["ray", "config", model, "--name", "app", "-o", str(file), "--json"]) == 0
    result = validated("ray config", capsys.readouterr().out)
    assert result == {"name": "app", "file": str(file), "config": yaml.safe_load(file.read_text())}
    assert cli.main(["ray", "config", model, "--name", "app", "--json"]) == 0
    assert validated("ray config", capsys.readouterr().out) == result | {"file": None}


def test_haproxy_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Which replicas the written file has."""

    class Listed:
        def follow(self, changed: Callable[[Sequence[ServerAddress]], None]) -> None:
            changed([ServerAddress("10.0.0.1", 1)])

        def close(self) -> None:
            pass

    monkeypatch.setattr(Members, "parse", lambda _: Listed())
    file = tmp_path / "haproxy.cfg"
    assert cli.main(["ray", "haproxy", "app", "--bind", "127.0.0.1:1", "-o", str(file), "--json"]) == 0
    result = validated("ray haproxy", capsys.readouterr().out)
    assert result == {"bind": "127.0.0.1:1", "file": str(file), "replicas": ["10.0.0.1:1"]}
    assert "server r-10.0.0.1-1 10.0.0.1:1" in file.read_text()


def test_config_of_models_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    """Each by its name; two of the same name cannot be distinguished."""
    model = str(digits_model())
    assert cli.main(["ray", "config", f"a={model}", f"b={model}", "--multiplex", "2"]) == 0
    (application,) = yaml.safe_load(capsys.readouterr().out)["applications"]
    plan = read_plan(application["args"])
    assert (application["name"], plan.multiplexed, plan.models_per_replica) == ("a", {"a": model, "b": model}, 2)
    assert cli.main(["ray", "config", model, model, "--multiplex", "2"]) == 2
    assert "two models have the same name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config", "none.onnx"], "none.onnx: no such model"),
        (["config", str(digits_model()), "--replicas", "many"], "'many' is neither a number nor a range"),
        (
            ["config", str(digits_model()), "--replicas", "3:1"],
            "at least 1 and at most MAX, not 3 to 1",
        ),
        (["config", str(digits_model()), "--replicas", "0:2"], "nothing would start the first one"),
        (["config", str(digits_model()), str(digits_model())], "two models have the same name, digits"),
        (["config", str(digits_model()), "--cpus", "inf"], "inf is not a finite number"),
        (["config", str(digits_model()), "--slo", "p99=1ms"], "needs the tuned profile of one model"),
        (["config", str(digits_model()), "--slo", "1ms"], "no percentile"),
        (["config", str(digits_model()), "--name", "a/b"], "cannot be named 'a/b': in ray://APP/DEPLOYMENT"),
        (["config", f"a/b={digits_model()}"], "cannot be named 'a/b'"),
        (["config", str(digits_model()), "--route", "app"], "--route must be / or begin with /"),
        (["config", str(digits_model()), "--route", "/app/"], "not end with it, without { and }, not '/app/'"),
        (["config", str(digits_model()), "--route", "/{app}"], "not '/{app}'"),
        (["config", str(digits_model()), "--route", "/a b"], "no spaces and no control characters, not '/a b'"),
        (["config", str(digits_model()), "--route", "/a\nb"], r"no spaces and no control characters, not '/a\nb'"),
        (["haproxy", "a/b/c"], "ray://APP"),
        (["unknown"], "No such command"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With exit code 2, as for every command."""
    assert cli.main(["ray", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
@pytest.mark.parametrize("arguments", [["replicas", "app"], ["haproxy", "app"]])
def test_without_ray(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line says how to install it."""
    assert cli.main(["ray", *arguments]) == 2
    assert "pip install 'tailcut[ray]'" in capsys.readouterr().err
