"""The Helm chart, rendered by Helm's own code: valid, the same as the plain manifests, and strict with its values."""

import copy
import json
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.certificates import make_pair, needs_openssl
from tests.engines.models import identity
from tests.kubernetes.manifests import DEPLOY, manifest, pod_of, running, seconds
from tests.kubernetes.schemas import validate
from tests.servers import TIMEOUT_S

from tailcut.spec import DType

CHART = DEPLOY / "helm" / "tailcut"
ALL = {
    "image": {"repository": "registry.example/tailcut", "tag": "1", "pullSecrets": [{"name": "secret"}]},
    "autoscaling": {"kind": "keda"},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "service": {"headless": True, "annotations": {"a": "b"}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "fraud"},
    "nodeSelector": {"pool": "static"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "online",
    "env": [{"name": "A", "value": "b"}],
    "gpus": 2,
    "extraArgs": ["--queue=64", "--access-log"],
    "models": {"volume": {"nfs": {"server": "files", "path": "/models", "readOnly": True}}},
}
SCRAPED = {"enabled": True}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "hpa": {"autoscaling": {"kind": "hpa"}},
    "repository, no gRPC": {
        "modelRepository": "/models",
        "grpc": {"enabled": False},
        "slo": "",
        "podDisruptionBudget": {"enabled": False},
    },
    "all": ALL,
    "TLS and a token": {"tls": {"secretName": "pair"}, "token": {"secretName": "token"}, "serviceMonitor": SCRAPED},
    "public certificate, token for changes": {
        "tls": {"secretName": "pair", "caKey": "", "serverName": "models.example"},
        "token": {"secretName": "token", "key": "admin", "required": False},
        "serviceMonitor": SCRAPED,
    },
}
DIGEST = f"sha256:{'0123456789abcdef' * 4}"
WRONG: dict[str, dict[str, Any]] = {
    "a part of a CPU": {"cpus": 1.5},
    "CPUs as text": {"cpus": "2"},
    "a part of a device": {"gpus": 0.5},
    "a digest without its kind": {"image": {"digest": "0123456789abcdef" * 4}},
    "a digest that is too short": {"image": {"digest": "sha256:0123"}},
    "a misspelt name": {"replica": 3},
    "a misspelt name inside": {"image": {"repo": "x"}},
    "no source": {"source": ""},
    "no time to drain": {"drainSeconds": 0},
    "a hook as text": {"preStopSeconds": "5s"},
    "an unknown autoscaler": {"autoscaling": {"kind": "vpa"}},
    "memory without a unit": {"memory": "2000"},
    "a second source": {"extraArgs": ["other.onnx"]},
    "a limit without a unit": {"slo": "20"},
    "a limit that is no number": {"slo": "1.2.3ms"},
    "a limit of a dot": {"slo": ".ms"},
    "a limit of 0": {"slo": "0ms"},
    "a limit of 0 with digits": {"slo": "00.00s"},
    "a headless service on ports of nodes": {"service": {"headless": True, "type": "NodePort"}},
    "a headless load balancer": {"service": {"headless": True, "type": "LoadBalancer"}},
    "a label of pods that selects": {"podLabels": {"app.kubernetes.io/name": "x"}},
    "a certificate as text": {"tls": {"certificate": "..."}},
    "a token as text": {"token": "secret"},
    "a token without a key": {"token": {"key": ""}},
    "a name that is none": {"fullnameOverride": "Ranker_1"},
    "a condition as text": {"enabled": "no"},
    "two volumes": {"models": {"volume": {"emptyDir": {}, "nfs": {}}}},
}


def texts(values: dict[str, Any], release: str, namespace: str) -> dict[str, str]:
    """What Helm makes of each template, by its path."""
    chart = pytest.importorskip("helm_python.chart", reason="not installed: pip install 'tailcut[kubernetes]'")
    with chart.Chart.load(CHART) as loaded:
        return dict(loaded.render(values, name=release, namespace=namespace))


def rendered(values: dict[str, Any], release: str = "tailcut", namespace: str = "default") -> dict[str, dict[str, Any]]:
    """The manifests of a release, by their kinds."""
    made = texts(values, release, namespace)
    parsed = [yaml.safe_load(text) for name, text in made.items() if name.endswith(".yaml")]
    return {item["kind"]: item for item in parsed if item is not None}


def test_helm_finds_nothing() -> None:
    """`helm lint --strict`, except for the icon that it recommends."""
    chart = pytest.importorskip("helm_python.chart", reason="not installed: pip install 'tailcut[kubernetes]'")
    report = chart.lint(CHART, strict=True)
    assert report["errors"] == []
    assert [item["error"] for item in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("case", CASES)
def test_what_it_renders_is_valid(case: str) -> None:
    """Every manifest, by the schema of its kind."""
    manifests = rendered(CASES[case], "churn", "models")
    assert {"Deployment", "Service"} <= set(manifests)
    for item in manifests.values():
        validate(item)


def test_it_renders_the_plain_manifests() -> None:
    """With the release `tailcut` in the namespace `default`: the same specifications as in deploy/kubernetes."""
    defaults = rendered({"serviceMonitor": {"enabled": True}})
    scaled = rendered({"autoscaling": {"kind": "keda"}}) | {
        "HorizontalPodAutoscaler": rendered(CASES["hpa"])["HorizontalPodAutoscaler"]
    }
    (container,) = pod_of(defaults["Deployment"])["containers"]
    assert container.pop("imagePullPolicy") == "IfNotPresent"
    assert defaults["Service"]["spec"].pop("type") == "ClusterIP"
    plain = {path.stem: manifest(f"kubernetes/{path.name}") for path in (DEPLOY / "kubernetes").iterdir()}
    del plain["tune-job"]  # a step before a release
    assert len(plain) == 6
    for item in plain.values():
        ours = (defaults | {kind: scaled[kind] for kind in ("ScaledObject", "HorizontalPodAutoscaler")})[item["kind"]]
        assert ours["metadata"]["name"] == item["metadata"]["name"]
        assert ours["spec"] == item["spec"]


def test_devices_and_the_image_by_its_digest() -> None:
    """A pod asks for devices where it is to have some; a digest goes before a tag."""
    plain = pod_of(rendered({})["Deployment"])["containers"][0]
    assert set(plain["resources"]["limits"]) == {"cpu", "memory"}
    assert plain["image"].startswith("tailcut:")
    image = {"repository": "registry.example/tailcut", "tag": "1", "digest": DIGEST}
    container = pod_of(rendered({"gpus": 2, "image": image})["Deployment"])["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["image"] == f"registry.example/tailcut@{DIGEST}"


def test_the_notes_ask_by_the_name_in_the_certificate() -> None:
    """Which 127.0.0.1 is not: with TLS, that name leads there, and a private authority's certificate is fetched."""

    def notes(values: dict[str, Any]) -> str:
        (text,) = [text for name, text in texts(values, "churn", "models").items() if name.endswith("NOTES.txt")]
        return text

    assert "tailcut bench http://127.0.0.1:8000\n" in notes({})
    assert "token" not in notes({})
    secured = notes(CASES["TLS and a token"])
    assert "127.0.0.1 churn-tailcut.models.svc'" in secured
    assert r"get secret pair -o jsonpath='{.data.ca\.crt}' | base64 -d > ca.crt" in secured
    assert "tailcut bench https://churn-tailcut.models.svc:8000 --ca ca.crt --token-file token\n" in secured
    assert "get secret token -o jsonpath='{.data.token}' | base64 -d > token && chmod 600 token\n" in secured
    dotted = notes({"token": {"secretName": "admin", "key": "token.txt"}})
    assert r"models get secret admin -o jsonpath='{.data.token\.txt}' | base64 -d > token" in dotted
    assert dotted.index("> token") < dotted.index("tailcut bench http://127.0.0.1:8000 --token-file token\n")
    public = notes(CASES["public certificate, token for changes"])
    assert "tailcut bench https://models.example:8000\n" in public
    assert "ca.crt" not in public
    assert "> token" not in public


def test_an_autoscaler_has_the_number_of_pods_to_itself() -> None:
    """With one, the Deployment names no number, which each upgrade would set back; there is never more than one."""
    for kind, scaler in (("none", None), ("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")):
        manifests = rendered({"autoscaling": {"kind": kind}})
        assert ("replicas" in manifests["Deployment"]["spec"]) == (scaler is None)
        assert {"HorizontalPodAutoscaler", "ScaledObject"} & set(manifests) == ({scaler} if scaler else set())


def test_the_grace_period_follows_the_drain() -> None:
    """The durations are in the hook and the command, and the grace period is longer than them together."""
    pod = pod_of(rendered({"preStopSeconds": 8, "drainSeconds": 20, "deadlineSeconds": 60})["Deployment"])
    assert pod["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 8}}}
    arguments = pod["containers"][0]["args"]
    assert (seconds(arguments, "--drain"), seconds(arguments, "--deadline")) == (20, 60)
    assert pod["terminationGracePeriodSeconds"] == 93
    without = pod_of(rendered({"preStopSeconds": 0})["Deployment"])
    assert "lifecycle" not in without["containers"][0]  # Kubernetes 1.30 refuses a sleep of no time
    assert without["terminationGracePeriodSeconds"] == 45


def test_secrets_are_mounted_and_used() -> None:
    """By the server, the probes, the service and its monitor; without them, none of it is there."""
    plain, secured = rendered({"serviceMonitor": SCRAPED}), rendered(CASES["TLS and a token"], "churn", "models")
    pod = pod_of(secured["Deployment"])
    (container,) = pod["containers"]
    assert container["args"][-5:-1] == [
        "--tls-cert=/etc/tailcut/tls/tls.crt",
        "--tls-key=/etc/tailcut/tls/tls.key",
        "--token-file=/etc/tailcut/token/token",
        "--require-token",
    ]
    secrets = {item["name"]: item["secret"] for item in pod["volumes"] if "secret" in item}
    assert secrets == {
        "tls": {"secretName": "pair", "defaultMode": 0o440},
        "token": {"secretName": "token", "defaultMode": 0o440},
    }
    mounts = {item["name"]: item for item in container["volumeMounts"]}
    for name in ("tls", "token"):
        assert mounts[name] == {"name": name, "mountPath": f"/etc/tailcut/{name}", "readOnly": True}
    probes = ("startupProbe", "readinessProbe", "livenessProbe")
    assert {container[name]["httpGet"]["scheme"] for name in probes} == {"HTTPS"}
    assert [port.get("appProtocol") for port in secured["Service"]["spec"]["ports"]] == ["https", None]
    (endpoint,) = secured["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"] == {
        "serverName": "churn-tailcut.models.svc",
        "ca": {"secret": {"name": "pair", "key": "ca.crt"}},
    }
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": {"name": "token", "key": "token"}}
    (other,) = rendered(CASES["public certificate, token for changes"])["ServiceMonitor"]["spec"]["endpoints"]
    assert (other["tlsConfig"], "authorization" in other) == ({"serverName": "models.example"}, False)
    text = json.dumps(plain)
    assert [word for word in ("tls", "token-file", "scheme", "authorization", "secret") if word in text] == []


@needs_openssl
def test_a_pod_with_secrets_is_ready(tmp_path: Path) -> None:
    """Its command as a process: the probes succeed over TLS without the token, and metrics need it."""
    values = CASES["TLS and a token"] | {"source": "/models/m.onnx", "grpc": {"enabled": False}}
    (container,) = pod_of(rendered(values)["Deployment"])["containers"]
    paths = [item["mountPath"] for item in container["volumeMounts"]]
    mounts = {path: tmp_path / path.replace("/", "-") for path in paths}
    for folder in mounts.values():
        folder.mkdir()
    identity(DType.FP32, (None, 4), mounts["/models"] / "m.onnx")
    pair = make_pair(tmp_path, "pair")
    shutil.copy(pair.cert, mounts["/etc/tailcut/tls"] / "tls.crt")
    shutil.copy(pair.key, mounts["/etc/tailcut/tls"] / "tls.key")
    (mounts["/etc/tailcut/token"] / "token").write_text("open-sesame")
    with running(container, mounts, tmp_path) as server:
        server.wait_until_started()
        assert [server.probe(kind) for kind in ("readinessProbe", "livenessProbe")] == [200, 200]
        url = f"https://localhost:{server.ports['http']}/metrics"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url, context=pair.client(), timeout=TIMEOUT_S)
        request = urllib.request.Request(url, headers={"Authorization": "Bearer open-sesame"})
        with urllib.request.urlopen(request, context=pair.client(), timeout=TIMEOUT_S) as answer:
            assert b"tailcut_connections" in answer.read()


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_bounds_of_an_autoscaler_in_the_wrong_order(kind: str) -> None:
    """Are refused when they are rendered; without an autoscaler, they mean nothing."""
    errors = pytest.importorskip("helm_python.errors")
    bounds = {"minReplicas": 12, "maxReplicas": 10}
    with pytest.raises(errors.HelmError, match=r"minReplicas is 12, and autoscaling\.maxReplicas is 10"):
        rendered({"autoscaling": {"kind": kind, **bounds}})
    rendered({"autoscaling": {"kind": "none", **bounds}})


def test_two_ports_of_a_service_differ() -> None:
    """Where both are there; the error names the values."""
    errors = pytest.importorskip("helm_python.errors")
    ports = {"service": {"httpPort": 80, "grpcPort": 80}}
    with pytest.raises(errors.HelmError, match=r"httpPort and service\.grpcPort are both 80: they must differ"):
        rendered(ports)
    (port,) = rendered({"grpc": {"enabled": False}} | ports)["Service"]["spec"]["ports"]
    assert port["port"] == 80


def test_a_monitor_without_labels_of_its_own() -> None:
    """As `labels: null` in a file of values has it: those of the release."""
    made = rendered({"serviceMonitor": {"enabled": True, "labels": None}})["ServiceMonitor"]
    assert made["metadata"]["labels"] == rendered({"serviceMonitor": SCRAPED})["ServiceMonitor"]["metadata"]["labels"]


@pytest.mark.parametrize("limit", ["", "20ms", "0.5ms", "05us", "1.0s", "100us", "10.25ms"])
def test_limits_that_the_schema_allows(limit: str) -> None:
    """None, or more than 0, with a unit."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate({"slo": limit}, schema)


def test_a_label_is_there_once() -> None:
    """A service monitor's own labels replace those of the release."""
    labels = {"app.kubernetes.io/instance": "prometheus", "release": "prometheus"}
    text = next(
        text
        for name, text in texts({"serviceMonitor": {"enabled": True, "labels": labels}}, "churn", "models").items()
        if name.endswith("servicemonitor.yaml")
    )
    metadata, _, selector = text.partition("spec:")
    assert metadata.count("app.kubernetes.io/instance") == 1
    assert labels.items() <= yaml.safe_load(text)["metadata"]["labels"].items()
    assert 'app.kubernetes.io/instance: "churn"' in selector


def test_names_that_look_like_other_values_are_texts() -> None:
    """Of secrets, claims, priorities and releases: numbers, and words that YAML takes for true."""
    values = {
        "tls": {"secretName": "1", "caKey": "2", "serverName": "3"},
        "token": {"secretName": "4e5", "key": "null"},
        "models": {"claimName": "0123"},
        "priorityClassName": "yes",
        "serviceMonitor": SCRAPED,
    }
    manifests = rendered(values, "7")
    for item in manifests.values():
        validate(item)
    pod = pod_of(manifests["Deployment"])
    volumes = {item["name"]: item for item in pod["volumes"]}
    assert [volumes[name]["secret"]["secretName"] for name in ("tls", "token")] == ["1", "4e5"]
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == "0123"
    assert pod["priorityClassName"] == "yes"
    (endpoint,) = manifests["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["tlsConfig"] == {"serverName": "3", "ca": {"secret": {"name": "1", "key": "2"}}}
    assert endpoint["authorization"]["credentials"] == {"name": "4e5", "key": "null"}
    assert manifests["Service"]["spec"]["selector"]["app.kubernetes.io/instance"] == "7"


def test_large_numbers_are_whole() -> None:
    """From a million on, Helm's own way to write the numbers of a file has an exponent."""
    long = {"startupSeconds": 1_000_000, "deadlineSeconds": 2_000_000, "drainSeconds": 3_000_000}
    pod = pod_of(rendered(json.loads(json.dumps(long)) | {"preStopSeconds": 4_000_000})["Deployment"])
    (container,) = pod["containers"]
    assert container["startupProbe"]["failureThreshold"] == 1_000_000
    assert (seconds(container["args"], "--deadline"), seconds(container["args"], "--drain")) == (2_000_000, 3_000_000)
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == 4_000_000
    assert pod["terminationGracePeriodSeconds"] == 9_000_005


def test_releases_have_names_of_their_own() -> None:
    """Two releases in a namespace share no name and no label that selects."""
    first, second = rendered(ALL, "churn"), rendered(ALL, "fraud")
    assert first["Deployment"]["metadata"]["name"] == "churn-tailcut"
    assert first["Service"]["spec"]["selector"] != second["Service"]["spec"]["selector"]
    assert 'job="fraud-tailcut"' in second["ScaledObject"]["spec"]["triggers"][0]["metadata"]["query"]


def test_names_can_be_given() -> None:
    """A part of the name, or all of it; what selects follows, so that two of them in a release are apart."""
    part, whole = rendered({"nameOverride": "ranker"}, "shop"), rendered({"fullnameOverride": "ranker"}, "shop")
    assert {item["metadata"]["name"] for item in part.values()} == {"shop-ranker"}
    assert {item["metadata"]["name"] for item in whole.values()} == {"ranker"}
    assert part["Service"]["spec"]["selector"] == {
        "app.kubernetes.io/name": "ranker",
        "app.kubernetes.io/instance": "shop",
    }
    query = rendered({"fullnameOverride": "ranker"} | ALL, "shop")["ScaledObject"]["spec"]["triggers"][0]["metadata"]
    assert 'job="ranker"' in query["query"]


def test_a_chart_may_have_it_twice(tmp_path: Path) -> None:
    """As a dependency under two aliases, each with a condition: two deployments that share no name and no selector."""
    chart = pytest.importorskip("helm_python.chart", reason="not installed: pip install 'tailcut[kubernetes]'")
    aliases = ("ranker", "churn", "fraud")
    dependencies = [
        {"name": "tailcut", "version": "0.2.0", "alias": name, "condition": f"{name}.enabled"} for name in aliases
    ]
    umbrella = {"apiVersion": "v2", "name": "shop", "version": "1.0.0", "dependencies": dependencies}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(umbrella))
    shutil.copytree(CHART, tmp_path / "charts" / "tailcut")
    values = {"global": {"region": "eu"}} | {name: {"enabled": name != "fraud"} for name in aliases}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    with chart.Chart.load(tmp_path) as loaded:
        made = dict(loaded.render({}, name="shop", namespace="models"))
    items = [yaml.safe_load(text) for name, text in made.items() if name.endswith(".yaml")]
    deployments = [item for item in items if item is not None and item["kind"] == "Deployment"]
    assert {item["metadata"]["name"] for item in deployments} == {"shop-ranker", "shop-churn"}
    selectors = [item["spec"]["selector"]["matchLabels"] for item in deployments]
    assert selectors[0] != selectors[1]


def test_the_schema_allows_what_a_chart_above_adds() -> None:
    """Helm hands a dependency its condition, and values that all charts share."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(values | {"enabled": True, "global": {"region": "eu"}}, schema)


@pytest.mark.parametrize("fault", WRONG)
def test_helm_refuses_wrong_values(fault: str) -> None:
    """Before anything is rendered."""
    chart = pytest.importorskip("helm_python.chart", reason="not installed: pip install 'tailcut[kubernetes]'")
    errors = pytest.importorskip("helm_python.errors")
    with chart.Chart.load(CHART) as loaded, pytest.raises(errors.HelmError):
        loaded.validate_schema(WRONG[fault])


@pytest.mark.parametrize("fault", [None, *WRONG])
def test_the_schema_allows_the_defaults_and_no_wrong_values(fault: str | None) -> None:
    """The same without Helm: the values as it joins them, against values.schema.json."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for key, value in copy.deepcopy(WRONG.get(fault or "", {})).items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(values))
    assert bool(errors) == (fault is not None)


def test_every_value_is_used() -> None:
    """Each name of values.yaml is in a template, and each name in a template is in values.yaml."""
    templates = "".join(path.read_text(encoding="utf-8") for path in (CHART / "templates").iterdir())
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    maps = {name for name, value in values.items() if isinstance(value, dict) and value}
    names = {f"{name}.{value}" for name in maps for value in values[name]} | (set(values) - maps)
    used = {item.removesuffix(".") for item in re.findall(r"\.Values\.([\w.]+)", templates)}
    assert used == names
