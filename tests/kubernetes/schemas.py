"""Validates manifests: core kinds with kubernetes-validate, custom ones with the schemas of their projects."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

SHARED = Path(__file__).parents[2].parent / "shared" / "schemas"
VERSIONS = ("1.30", "1.37")  # of Kubernetes: the oldest that the guide names, and the newest that the validator knows
# Of custom kinds: the commits that their schemas are of, by the groups of their API.
COMMITS = {
    "serving.kserve.io": "KServe aaac4e294, 2026-08-21",
    "keda.sh": "KEDA 8b4f083ca, 2026-08-20",
    "monitoring.coreos.com": "Prometheus operator 6adcebc50, 2026-08-08",
}


def versions_of(api_version: str) -> str:
    """By what manifests of a version of an API are validated."""
    return COMMITS.get(api_version.partition("/")[0], f"Kubernetes {' and '.join(VERSIONS)}")


def validate(manifest: dict[str, Any]) -> None:
    """Fail if a manifest is invalid for its kind; skip if this machine has no schema for it."""
    group = manifest["apiVersion"].partition("/")[0]
    if group in COMMITS:
        errors = [f"{error.json_path}: {error.message}" for error in _custom(manifest).iter_errors(manifest)]
        assert errors == []
        return
    core = pytest.importorskip("kubernetes_validate", reason="not installed: pip install 'tailcut[kubernetes]'")
    for version in VERSIONS:
        core.validate(manifest, version, strict=True)


def _custom(manifest: dict[str, Any]) -> Draft202012Validator:
    """The validator of a custom kind."""
    name = f"{manifest['kind'].lower()}.{manifest['apiVersion'].partition('/')[2]}.json"
    if not (SHARED / name).is_file():
        pytest.skip(f"no ../shared/schemas/{name}: the schemas of custom resources are not here")
    document = json.loads((SHARED / name).read_text(encoding="utf-8"))
    assert (document["kind"], f"{document['group']}/{document['version']}") == (
        manifest["kind"],
        manifest["apiVersion"],
    )
    return Draft202012Validator(closed(document["schema"]))


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema that rejects unknown fields, as a server with strict validation does.

    The metadata of the root is any object there, because every kind has the same.
    """
    result = copy.deepcopy(schema)
    _close(result)
    return result


def _close(schema: dict[str, Any]) -> None:
    properties = schema.get("properties")
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    if properties is not None and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for item in (properties or {}).values():
        _close(item)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            _close(schema[key])
