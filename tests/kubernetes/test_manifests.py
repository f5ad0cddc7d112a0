"""The manifests: valid by the schemas of their kinds, and in agreement with each other, the image and the server."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.kubernetes.manifests import (
    DEPLOY,
    documents,
    environment_of_the_image,
    hook_seconds,
    manifest,
    pod_of,
    seconds,
)
from tests.kubernetes.schemas import COMMITS, SHARED, validate, versions_of

NAMES = [
    str(path.relative_to(DEPLOY))
    for folder in ("kubernetes", "kserve")
    for path in sorted((DEPLOY / folder).iterdir())  # all that `kubectl apply -f FOLDER` reads
]
MANIFESTS = [
    pytest.param(document, id=f"{name}:{document['metadata']['name']}")
    for name in NAMES
    for document in documents(DEPLOY / name)
]
SPECS = {
    "kubernetes": lambda: pod_of(manifest("kubernetes/deployment.yaml"))["containers"][0],
    "kserve": lambda: manifest("kserve/servingruntime.yaml")["spec"]["containers"][0],
}
SERVICES = documents(DEPLOY / "kserve" / "inferenceservice.yaml")


@pytest.mark.parametrize("item", MANIFESTS)
def test_a_manifest_is_valid(item: dict[str, Any]) -> None:
    """By the schema of its kind, with no field that the kind does not have."""
    validate(item)


def test_the_guide_lists_what_is_validated() -> None:
    """Each file with its kinds and the versions of their schemas, and no other."""
    guide = (DEPLOY.parent / "docs" / "guide" / "kubernetes.md").read_text(encoding="utf-8")
    table = guide.partition("| file | kind | API | schemas of |")[2].partition("\n\n")[0].splitlines()[2:]
    result = [tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")) for line in table]
    plain = [
        (name, document["kind"], document["apiVersion"]) for name in NAMES for document in documents(DEPLOY / name)
    ]
    chart = []
    for path in sorted((DEPLOY / "helm" / "tailcut" / "templates").glob("*.yaml")):
        api, kind = re.findall(r"^(?:apiVersion|kind): (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        chart.append((f"helm/tailcut/templates/{path.name}", kind, api))
    assert result == [(*fromkey, versions_of(fromkey[2])) for fromkey in dict.fromkeys([*plain, *chart])]


def test_the_commits_are_those_of_the_schemas() -> None:
    """As the folder of schemas has them."""
    if not (SHARED / "README.md").is_file():
        pytest.skip("no ../shared/schemas: the schemas of custom resources are not here")
    listed = (SHARED / "README.md").read_text(encoding="utf-8")
    assert [item for item in COMMITS.values() if " ".join(item.split()[-2:]) not in listed] == []


@pytest.mark.parametrize("fault", ["unknown field", "wrong type"])
@pytest.mark.parametrize(
    "name", ["kubernetes/deployment.yaml", "kubernetes/scaledobject.yaml", "kserve/servingruntime.yaml"]
)
def test_the_validation_finds_faults(name: str, fault: str) -> None:
    """A field that is misspelt, and a text where a list belongs."""
    item = manifest(name)
    if fault == "unknown field":
        item["spec"]["replica"] = 2
    else:
        item["spec"]["triggers" if "scaled" in name else "containers" if "kserve" in name else "selector"] = "text"
    with pytest.raises((AssertionError, jsonschema.ValidationError)):
        validate(item)


def test_the_guide_names_the_registry_in_every_file(tmp_path: Path) -> None:
    """The command of the guide leaves no image that only the machine which built it has."""
    guide = (DEPLOY.parent / "docs" / "guide" / "kubernetes.md").read_text(encoding="utf-8")
    command = next(line.strip() for line in guide.splitlines() if line.startswith("    sed -i"))
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    images = [
        image
        for name in NAMES
        for image in re.findall(r"image: (\S+)", (tmp_path / "deploy" / name).read_text(encoding="utf-8"))
    ]
    assert images
    assert all(image.startswith("registry.example/tailcut:") for image in images)


@pytest.mark.parametrize("kind", SPECS)
def test_the_process_cannot_do_more_than_it_needs(kind: str) -> None:
    """Not root, no capability, a root file system that is not written; folders that the image writes are volumes."""
    spec = SPECS[kind]()
    context = spec["securityContext"] | (
        pod_of(manifest("kubernetes/deployment.yaml"))["securityContext"] if kind == "kubernetes" else {}
    )
    assert context["runAsNonRoot"] is True
    user = re.search(r"^USER (\d+)$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert user
    assert context["runAsUser"] == int(user[1])
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    mounts = {item["mountPath"] for item in spec["volumeMounts"]}
    assert {value for name, value in environment_of_the_image().items() if value.startswith("/")} <= mounts


@pytest.mark.parametrize("kind", SPECS)
def test_the_kubelet_gives_cpus_of_their_own(kind: str) -> None:
    """Whole CPUs, and limits equal to requests in everything: the class Guaranteed, which the static policy needs."""
    resources = SPECS[kind]()["resources"]
    assert resources["requests"] == resources["limits"]
    assert set(resources["limits"]) == {"cpu", "memory"}
    assert re.fullmatch(r"[1-9]\d*", resources["limits"]["cpu"])


@pytest.mark.parametrize("kind", SPECS)
def test_the_grace_period_is_longer_than_the_drain(kind: str) -> None:
    """With the hook before it and the deadline after it; the drain is longer than readiness takes to be seen."""
    spec = SPECS[kind]()
    periods = (
        [pod_of(manifest("kubernetes/deployment.yaml"))["terminationGracePeriodSeconds"]]
        if kind == "kubernetes"
        else [item["spec"]["predictor"]["terminationGracePeriodSeconds"] for item in SERVICES]
    )
    hook_s = hook_seconds(spec)
    drain_s, deadline_s = seconds(spec["args"], "--drain"), seconds(spec["args"], "--deadline")
    assert hook_s >= 5
    assert [period for period in periods if period < hook_s + drain_s + deadline_s + 2] == []
    probe = spec["readinessProbe"]
    assert drain_s >= 2 * probe["periodSeconds"] * probe["failureThreshold"]


@pytest.mark.parametrize("kind", SPECS)
def test_ports_and_probes_are_those_of_the_command(kind: str) -> None:
    """Each port that the command opens is declared, and probes ask for live and ready at the port of HTTP."""
    spec = SPECS[kind]()
    opened = {int(item.partition("=")[2]) for item in spec["args"] if re.match(r"--(grpc-)?port=", item)}
    ports = {port["name"]: port["containerPort"] for port in spec["ports"]}
    assert set(ports.values()) == opened
    (http,) = [int(item.partition("=")[2]) for item in spec["args"] if item.startswith("--port=")]
    asked = {name: spec[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {ports.get(get["port"], get["port"]) for get in asked.values()} == {http}
    assert [get["path"] for get in asked.values()] == ["/v2/health/ready", "/v2/health/ready", "/v2/health/live"]


def test_a_tune_has_the_limits_that_serve() -> None:
    """The Job's pod differs from the Deployment's in its command, and in that it may write to the volume of models."""
    tuning, serving = pod_of(manifest("kubernetes/tune-job.yaml")), pod_of(manifest("kubernetes/deployment.yaml"))
    (tune,), (serve,) = tuning["containers"], serving["containers"]
    for field in ("image", "resources", "securityContext"):
        assert tune[field] == serve[field]
    assert tuning["securityContext"] == serving["securityContext"]
    profiles = [item.partition("=")[2] for item in tune["args"] if item.startswith("--output=")]
    assert profiles == [item for item in serve["args"] if item.endswith(".toml")]
    paths = [item["mountPath"] for item in tune["volumeMounts"]]
    assert paths == [item["mountPath"] for item in serve["volumeMounts"]]
    assert not any(item.get("readOnly") for item in tune["volumeMounts"])


def test_selectors_find_the_pods() -> None:
    """Service, budget, monitor and both autoscalers mean the Deployment."""
    deployment = manifest("kubernetes/deployment.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    service = manifest("kubernetes/service.yaml")
    monitor = manifest("kubernetes/servicemonitor.yaml")["spec"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert manifest("kubernetes/poddisruptionbudget.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    names = {port["name"] for port in SPECS["kubernetes"]()["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    for scaler in ("horizontalpodautoscaler", "scaledobject"):
        target = manifest(f"kubernetes/{scaler}.yaml")["spec"]["scaleTargetRef"]
        assert target["name"] == deployment["metadata"]["name"]


def test_both_autoscalers_want_the_same() -> None:
    """Equal limits, behaviour and thresholds."""
    pods = manifest("kubernetes/horizontalpodautoscaler.yaml")["spec"]
    keda = manifest("kubernetes/scaledobject.yaml")["spec"]
    assert (pods["minReplicas"], pods["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])
    assert pods["behavior"] == keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    wanted = [pod["pods"]["target"]["averageValue"] for pod in pods["metrics"]]
    assert wanted == [item["metadata"]["threshold"] for item in keda["triggers"]]


@pytest.mark.parametrize("service", SERVICES, ids=lambda item: item["metadata"]["name"])
def test_an_inference_service_fits_the_runtime(service: dict[str, Any]) -> None:
    """It names the runtime, a format and a protocol of it; the source is in the place where KServe puts the files."""
    runtime = manifest("kserve/servingruntime.yaml")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {item["name"] for item in runtime["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    name, _, path = model["args"][-1].rpartition("=")
    assert name in {service["metadata"]["name"], "--model-repository"}
    assert Path(path).is_relative_to("/mnt/models")


def test_files_are_in_one_style() -> None:
    """Two spaces, no tabs, no line over 120 characters, and no key twice."""
    for path in [*sorted(DEPLOY.glob("kubernetes/*.yaml")), *sorted(DEPLOY.glob("kserve/*.yaml"))]:
        text = path.read_text(encoding="utf-8")
        assert [line for line in text.splitlines() if "\t" in line or len(line) > 120 or line != line.rstrip()] == []
        list(yaml.load_all(text, Loader=_NoRepeats))


class _NoRepeats(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, of which the last one would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"{keys} at {node.start_mark}"
        return super().construct_mapping(node, deep=deep)
