"""Tests mirror the source tree, so that the test of a module is found by its name.

`src/tailcut/a/b.py` is tested in `tests/a/test_b.py`, and so is the package `src/tailcut/a/b/`. What does not fit is in
one of two tables: GROUPS for a file that tests several modules at once, CROSS_CUTTING, with the reason, for a file that
tests no module but the whole.
"""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "tailcut"
FOLDERS = {"engines/pytorch": "engines/torch", "ray_serve": "ray"}  # named so, they would be taken for the libraries
# Packages and modules that decide without I/O: each of their modules has its own test, or is in a group.
PURE = (
    "batching",
    "live",
    "memory",
    "planning",
    "ray/forwarding",
    "ray/haproxy",
    "ray/plan",
    "ray/policy",
    "ray/resources",
    "ray/scaling",
    "runtime/admission",
    "runtime/capacity",
    "runtime/cuts",
    "runtime/delivery",
    "runtime/fit",
    "runtime/in_flight",
    "runtime/neighbours",
    "runtime/profile",
    "runtime/profile_file",
    "runtime/request",
    "runtime/rows",
    "runtime/scheduler",
    "runtime/settings",
    "runtime/thread_budget",
    "runtime/tracing",
    "server/tracing/sampler",
    "server/tracing/settings",
    "stats",
    "tuner/accuracy",
    "tuner/budget",
    "tuner/objective",
    "tuner/race",
    "tuner/space",
    "wire",
)
GROUPS: dict[str, tuple[str, ...]] = {
    "cli/test_bench_report": ("cli/bench", "report/bench_page"),
    "cli/test_bench_several": ("cli/bench", "lab/mix", "lab/data"),
    "cli/test_top": ("cli/top", "lab/live", "report/live"),
    "cli/test_served_settings": ("cli/serve", "runtime/settings"),
    "client/test_clients": ("client/sync", "client/aio", "client/pool"),
    "client/test_forked_clients": ("client/sync", "client/aio"),
    "client/test_several": ("client/members", "client/pool", "client/sync", "client/aio"),
    "client/test_messages": ("client/requests", "client/answers"),
    "engines/test_engines": ("engines/onnxruntime", "engines/openvino", "engines/binding"),
    "engines/test_extensions": ("engines/onnxruntime",),
    "engines/test_options": ("engines/base", "engines/onnxruntime", "engines/openvino"),
    "engines/test_threads": ("engines/__init__",),
    "engines/rows/test_soundness": ("engines/rows/analysis", "engines/rows/values", "engines/rows/operation"),
    "kernels/test_kernels": ("kernels/rows", "kernels/images", "kernels/reference", "kernels/jit", "kernels/precision"),
    "lab/test_truth": ("lab/client", "lab/arrivals"),
    "live/test_history": ("live/history", "live/counts"),
    "memory/test_region": ("memory/anonymous",),
    "pipelines/test_serving": ("pipelines/model", "pipelines/process", "pipelines/pool"),
    "planning/test_cluster": ("kernels/cluster", "kernels/balancing"),
    "planning/test_plan": ("planning/records",),
    "report/test_pages": ("report/bench_page", "report/explain_page", "report/microbench_page", "report/markdown"),
    "runtime/test_dependent": ("runtime/model", "runtime/rows"),
    "runtime/test_forked_models": ("runtime/model",),
    "runtime/test_other_files": ("runtime/model", "runtime/profile"),
    "runtime/test_profile_file": ("runtime/profile_schema",),
    "runtime/tracing/test_attribution": ("runtime/tracing/records",),
    "server/test_tracing": ("server/tracing/tracer", "server/tracing/spans", "server/tracing/export"),
    "server/fastpath/test_json": ("server/fastpath/fastpath", "server/fastpath/tables", "kernels/sockets"),
    "stats/test_resampling": ("stats/bootstrap", "stats/regression", "stats/outliers", "stats/trend"),
    "stats/test_stats": ("stats/sample", "stats/rank", "stats/verdict"),
    "triton/test_torch_models": ("triton/library", "triton/settings"),
    "tuner/test_accuracy": (
        "tuner/accuracy/finding",
        "tuner/accuracy/floats",
        "tuner/accuracy/labels",
        "tuner/accuracy/metric",
        "tuner/accuracy/spread",
        "tuner/accuracy/ties",
        "tuner/accuracy/verdict",
    ),
    "wire/grpc/test_codec": ("wire/grpc/messages",),
    "wire/http1/test_head": ("wire/http1/grammar",),
    "wire/http2/test_connection": ("wire/http2/fields", "wire/http2/send", "wire/http2/streams"),
}
CROSS_CUTTING = {
    "engines/cuda/test_dispatch_benchmark": "benchmarks/gpu_dispatch.py",
    "engines/cuda/test_collected": "which tests need a card",
    "ray_serve/test_cluster": "applications on a real Ray, on two nodes of one machine",
    "ray_serve/test_deploy": "the commands of docs/guide/ray.md on a cluster that `ray start` began",
    "fuzz/test_targets": "every parser, with what the fuzzer starts from",
    "kubernetes/test_chart": "the Helm chart in deploy/helm",
    "kubernetes/test_dashboard": "what Grafana and the autoscalers ask Prometheus",
    "kubernetes/test_manifests": "the manifests in deploy/kubernetes and deploy/kserve",
    "kubernetes/test_processes": "what these promise of a server's start, stop and rights",
    "soak/test_soak": "a whole server under mixed traffic",
    "test_deploy": "the files in deploy/",
    "test_docs": "what the documentation says of options and figures",
    "test_examples": "the programs in examples/",
    "test_guides": "the commands in docs/guide/",
    "test_image": "scripts/image.py",
    "test_layout": "this rule",
    "test_model_names": "names that a client may send, through all layers",
    "test_promises": "docs/reference/promises.md",
    "test_tailcut": "what `import tailcut` offers",
    "tuner/test_keepable": "every configuration that a tune may keep",
    "tuner/test_tuned_cases": "profiles of real tunes",
    "tuner/test_tuned_rows": "tunes of models whose rows depend on each other",
    # A real server, seen by its clients: named by what they see.
    "server/test_classes": "class names of a classifier",
    "server/test_clients_guide": "the programs of docs/guide/client.md",
    "server/test_crowd": "more clients than there is room for",
    "server/test_dependent_rows": "models whose rows depend on each other",
    "server/test_engine_hang": "an engine that hangs",
    "server/test_explain": "causes of a slow tail, found by name",
    "server/test_grpc_bounds": "limits for gRPC clients",
    "server/test_half_close": "clients that end their side of a connection",
    "server/test_host": "memory and disk that run out",
    "server/test_inference": "right and wrong inference requests",
    "server/test_lifecycle": "from start to stop",
    "server/test_lost_device": "a device that computes nothing more in the process",
    "server/test_live_page": "the page at /, in a browser",
    "server/test_loop_time": "no client holds up the others",
    "server/test_model_repository": "Triton's layout, with NVIDIA's clients",
    "server/test_overload": "more requests than can be computed",
    "server/test_patience": "slow and silent clients",
    "server/test_perf_analyzer": "NVIDIA's load generator",
    "server/test_prometheus": "metrics, with Prometheus's own parser",
    "server/test_real_clients": "curl, requests, httpx and others",
    "server/test_receive": "where the kernel writes a body",
    "server/test_shared_cores": "several models on the same cores",
    "server/test_signals": "SIGHUP, SIGUSR1, the address, the token",
    "server/test_single_rows": "a model with a fixed batch of 1",
    "server/test_splits": "every message, cut at every position",
    "server/test_tokens": "what needs the token",
    "server/test_tritonclient": "NVIDIA's Python client",
    "server/test_unload": "models that are unloaded",
    "server/test_uploads": "bodies that stop half-way",
}


def modules() -> set[str]:
    """Each module and package, by its path below `src/tailcut` without the suffix."""
    files = {str(path.relative_to(SOURCE).with_suffix("")) for path in SOURCE.rglob("*.py")}
    packages = {name.removesuffix("/__init__") for name in files if name.endswith("/__init__")}
    return files | packages


def files_of_tests() -> set[str]:
    """Each file of tests, by its path below `tests` without the suffix."""
    return {str(path.relative_to(TESTS).with_suffix("")) for path in TESTS.rglob("test_*.py")}


def mirrored(test: str) -> str:
    """The module that a file of tests mirrors, whether there is one or not."""
    folder, _, name = test.rpartition("/")
    return f"{FOLDERS.get(folder, folder)}/{name.removeprefix('test_')}".lstrip("/")


@pytest.mark.parametrize("test", sorted(files_of_tests()))
def test_a_file_of_tests_mirrors_a_module(test: str) -> None:
    """Or it is a group of several, or it cuts across them for a reason."""
    assert mirrored(test) in modules() or test in GROUPS or test in CROSS_CUTTING, (
        f"tests/{test}.py mirrors no module: name it after the one it tests, or enter it in {Path(__file__).name}"
    )


def test_the_tables_name_what_there_is() -> None:
    """No file that is gone, no module that is gone, and no file in both tables."""
    assert sorted({*GROUPS, *CROSS_CUTTING} - files_of_tests()) == []
    assert sorted({name for names in GROUPS.values() for name in names} - modules()) == []
    assert sorted(GROUPS.keys() & CROSS_CUTTING.keys()) == []
    assert sorted(set(PURE) - modules()) == []


def test_every_module_that_decides_purely_has_its_test() -> None:
    """By its own name, or in a group."""
    tested = {mirrored(test) for test in files_of_tests()} | {name for names in GROUPS.values() for name in names}
    pure = {
        name
        for name in modules()
        if any(name == part or name.startswith(f"{part}/") for part in PURE) and (SOURCE / f"{name}.py").is_file()
    }
    assert sorted(name for name in pure - tested if not name.endswith("__init__")) == []
