"""The OpenAPI document of the server's paths, made from the route table, so that none is missing. Pure."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple


class RouteDescription(NamedTuple):
    """The description of a path: one line, the schema of its answer, and that of its body where it takes one."""

    summary: str
    answer: str | None = None
    body: str | None = None
    unready: bool = False  # 503 is an ordinary answer, with the same schema as 200


def document(
    routes: Iterable[tuple[str, str, RouteDescription, bool]], version: str, *, always: bool = False
) -> dict[str, Any]:
    """The OpenAPI 3.1 document, from (path, method, description, whether a token may be required) and a version.

    `always`: whether the server requires a token; otherwise, requests may need none.
    """
    security: list[dict[str, Any]] = [{"token": []}] if always else [{"token": []}, {}]
    paths: dict[str, dict[str, Any]] = {}
    for path, method, described, guarded in routes:
        paths.setdefault(path, {})[method.lower()] = _operation(path, described, security if guarded else None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tailcut: the Open Inference Protocol v2", "version": version},
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(path: str, described: RouteDescription, security: list[dict[str, Any]] | None) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done"}
    if described.answer is not None:
        kind = _KINDS.get(described.answer, "application/json")
        good["content"] = {kind: {"schema": _ref(described.answer)}}
    wrong = {"description": "An error, in one line", "content": {"application/json": {"schema": _ref("error")}}}
    responses = {"200": good, "4XX": wrong, "5XX": wrong}
    if described.answer == "page" and security is not None:
        responses["401"] = good | {"description": "The same page, which asks for the token"}
    if described.unready:
        responses["503"] = good | {"description": "Not ready"}
    operation: dict[str, Any] = {"summary": described.summary, "responses": responses}
    names = re.findall(r"{(\w+)}", path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if path.endswith("/infer"):
        good["content"]["application/octet-stream"] = {}
        size = "bytes of JSON before the binary data, where there are any"
        good["headers"] = {"Inference-Header-Content-Length": {"description": size, "schema": {"type": "integer"}}}
        operation["parameters"] += [
            {"name": name, "in": "header", "required": False, "description": words, "schema": {"type": "integer"}}
            for name, words in _HEADERS.items()
        ]
    if described.body is not None:
        content: dict[str, Any] = {"application/json": {"schema": _ref(described.body)}}
        if described.body == "request":
            content["application/octet-stream"] = {}
        operation["requestBody"] = {"required": described.body in _REQUIRED, "content": content}
    if security is not None:
        operation["security"] = security
    return operation


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    properties = required | (optional or {})
    return {"type": "object", "required": list(required), "properties": properties}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


_KINDS = {"text": "text/plain", "page": "text/html", "events": "text/event-stream"}  # of answers that are not JSON
_REQUIRED = {"request", "register", "cuda_register"}  # bodies
_HEADERS = {
    "Inference-Header-Content-Length": "bytes of JSON before the binary data; 0 for a raw body",
    "Tailcut-Timeout-Us": "microseconds that this request may take",
    "Tailcut-Priority": "1 is served first; 0, or no such header, is the default",
}
_TEXT, _NUMBER, _OBJECT = {"type": "string"}, {"type": "integer"}, {"type": "object"}
_DTYPES = {"enum": "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 BF16 FP32 FP64 BYTES".split()}  # noqa: SIM905
_SHAPE = _list(_NUMBER)
_YES = {"type": "boolean"}
_TENSOR = _object({"name": _TEXT, "datatype": _DTYPES, "shape": _SHAPE}, {"parameters": _OBJECT})
_DATA: dict[str, Any] = {
    "data": {"type": "array", "items": {}},
    "parameters": _OBJECT,
}  # of a tensor; without data, that is binary or in shared memory
_DURATION = _object({"count": _NUMBER, "ns": _NUMBER})
_CONFIG_TENSOR = _object({"name": _TEXT, "data_type": _TEXT, "dims": _SHAPE})
_STAGES = "success fail queue compute_input compute_infer compute_output cache_hit cache_miss".split()  # noqa: SIM905
_SCHEMAS: dict[str, Any] = {
    "error": _object({"error": _TEXT}),
    "object": _OBJECT,
    "text": _TEXT,
    "page": _TEXT,
    "events": _TEXT,
    "empty": _object({}),
    "live": _object({"live": _YES}),
    "server_ready": _object({"ready": _YES}),
    "ready": _object({}, {"ready": _YES}),
    "readiness": _object({"name": _TEXT, "ready": _YES, "warmed_up": _YES}, {"reason": _TEXT}),
    "register": _object({"key": _TEXT, "byte_size": _NUMBER}, {"offset": _NUMBER}),
    "cuda_register": _object(
        {"raw_handle": _object({"b64": _TEXT}), "device_id": _NUMBER, "byte_size": _NUMBER},
    ),
    "server": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
    "metadata": _object(
        {
            "name": _TEXT,
            "versions": _list(_TEXT),
            "platform": _TEXT,
            "inputs": _list(_TENSOR),
            "outputs": _list(_TENSOR),
        }
    ),
    "configuration": _object(
        {
            "name": _TEXT,
            "platform": _TEXT,
            "backend": _TEXT,
            "max_batch_size": _NUMBER,
            "input": _list(_CONFIG_TENSOR),
            "output": _list(_CONFIG_TENSOR),
            "instance_group": _list(_object({"name": _TEXT, "count": _NUMBER, "kind": _TEXT})),
        },
        {"dynamic_batching": _OBJECT, "model_transaction_policy": _OBJECT, "parameters": _OBJECT},
    ),
    "statistics": _object(
        {
            "model_stats": _list(
                _object(
                    {
                        "name": _TEXT,
                        "version": _TEXT,
                        "last_inference": _NUMBER,
                        "inference_count": _NUMBER,
                        "execution_count": _NUMBER,
                        "inference_stats": _object(dict.fromkeys(_STAGES, _DURATION)),
                        "batch_stats": _list(_object({"batch_size": _NUMBER, "compute_infer": _DURATION})),
                        "rows": _TEXT,
                        "rows_reason": _TEXT,
                    }
                )
            )
        }
    ),
    "index": _list(_object({"name": _TEXT}, {"version": _TEXT, "state": _TEXT, "reason": _TEXT})),
    "regions": _list(_object({"name": _TEXT, "key": _TEXT, "offset": _NUMBER, "byte_size": _NUMBER})),
    "cuda_regions": _list(_object({"name": _TEXT, "device_id": _NUMBER, "byte_size": _NUMBER})),
    "request": _object(
        {"inputs": _list(_object({"name": _TEXT, "datatype": _DTYPES, "shape": _SHAPE}, _DATA))},
        {"id": _TEXT, "parameters": _OBJECT, "outputs": _list(_object({"name": _TEXT}, {"parameters": _OBJECT}))},
    ),
    "answer": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "outputs": _list(_object({"name": _TEXT, "datatype": _DTYPES, "shape": _SHAPE}, _DATA)),
        },
        {"id": _TEXT, "parameters": _OBJECT},
    ),
}
