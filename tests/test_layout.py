"""Tests mirror the source tree, so that the test of a module is found by its name.

`src/tailcut/a/b.py` is tested in `tests/a/test_b.py`, and so is the package `src/tailcut/a/b/`. What does not fit is in
one of two tables: GROUPS for a file that tests several modules at once, CROSS_CUTTING, with the reason, for a file that
tests the whole. A module without a test of its name is in GROUPS, beside a file that imports it or starts the command
that does; a package there stands for all its modules. Modules without any function are left out: they hold data, or
hand on names.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "tailcut"
FOLDERS = {"engines/pytorch": "engines/torch", "ray_serve": "ray"}  # named so, they would be taken for the libraries
GROUPS: dict[str, tuple[str, ...]] = {
    "cli/serving/test_bare_models": ("cli/serving/models",),
    "cli/test_bench": ("lab/scenarios",),
    "cli/test_bench_report": ("cli/bench", "cli/bench_result", "report/bench_page"),
    "cli/test_bench_several": ("cli/bench", "lab/mix", "lab/data"),
    "cli/test_ladder": ("report/ladder",),
    "cli/test_served_settings": ("cli/serve", "runtime/settings"),
    "cli/test_stat": ("lab/command",),
    "cli/test_top": ("cli/top", "lab/live", "report/live"),
    "cli/test_tune": (
        "cli/tune_compare",
        "cli/tune_files",
        "cli/tune_sources",
        "cli/tune_wanted",
        "tuner/compare",
        "tuner/search",
        "tuner/waterfall",
    ),
    "client/test_clients": ("client/sync", "client/aio", "client/pool"),
    "client/test_forked_clients": ("client/sync", "client/aio"),
    "client/test_messages": ("client/requests", "client/answers"),
    "client/test_several": ("client/members", "client/pool", "client/sync", "client/aio"),
    "converters/test_conversion": ("cli/convert",),
    "engines/cuda/test_engine": ("engines/cuda/device",),
    "engines/cuda/test_onnx": ("engines/cuda/provider",),
    "engines/pytorch/test_engine": ("engines/torch/compiling", "engines/torch/package", "engines/torch/program"),
    "engines/pytorch/test_rows": ("engines/torch/rows",),
    "engines/rows/test_soundness": (
        "engines/rows/analysis",
        "engines/rows/arithmetic",
        "engines/rows/constants",
        "engines/rows/operation",
        "engines/rows/signature",
        "engines/rows/values",
    ),
    "engines/test_engines": (
        "engines/binding",
        "engines/onnxruntime",
        "engines/openvino",
        "engines/openvino_reference",
    ),
    "engines/openvino_values/test_check": ("engines/openvino_values/demands",),
    "engines/test_extensions": ("engines/onnxruntime",),
    "engines/test_graph": ("engines/traits",),
    "engines/test_options": ("engines/base", "engines/onnxruntime", "engines/openvino"),
    "engines/test_samples": ("engines/graph_hints", "engines/guesses"),
    "engines/test_shape_check": ("engines/openvino_instance",),
    "engines/test_threads": ("engines/__init__",),
    "kernels/test_kernels": ("kernels/rows", "kernels/images", "kernels/reference", "kernels/jit", "kernels/precision"),
    "kernels/test_load": ("lab/connection",),
    "kernels/test_sockets": ("kernels/heads",),
    "kernels/test_vectorization": ("kernels/advice",),
    "lab/test_client": ("lab/compiled",),
    "lab/test_burst": ("lab/blocking",),
    "lab/test_instructions": ("lab/counted",),
    "lab/test_lengths": ("lab/records",),
    "lab/test_surroundings": ("lab/served_engine", "lab/session", "lab/workload"),
    "lab/test_tls": ("tls",),
    "lab/test_truth": ("lab/client", "lab/arrivals"),
    "live/test_history": ("live/history", "live/counts"),
    "machine/test_checks": ("machine/settings",),
    "machine/test_gpu": ("machine/gpu_checks",),
    "memory/test_region": ("memory/anonymous",),
    "pipelines/test_faults": ("pipelines/forwarding",),
    "pipelines/test_serving": (
        "pipelines/calling",
        "pipelines/engine",
        "pipelines/model",
        "pipelines/pool",
        "pipelines/process",
        "pipelines/steps",
    ),
    "planning/test_cluster": ("kernels/balancing", "kernels/cluster", "kernels/queueing"),
    "planning/test_plan": ("planning/notes", "planning/records", "planning/request"),
    "ray_serve/test_local": ("ray/installed", "ray/tracing"),
    "report/test_charts": ("report/strips", "report/words"),
    "report/test_names": ("report/bench", "report/console", "report/explain", "report/markdown"),
    "report/test_pages": (
        "report/bench_page",
        "report/bench_words",
        "report/explain",
        "report/explain_page",
        "report/markdown",
        "report/microbench",
        "report/microbench_page",
        "report/tune_page",
        "report/tune_words",
    ),
    "report/test_together_page": ("tuner/together/result_records",),
    "runtime/test_dependent": ("runtime/model", "runtime/rows"),
    "runtime/test_forked_models": ("runtime/model",),
    "runtime/test_model": ("runtime/executors", "runtime/opening/source"),
    "runtime/test_other_files": ("runtime/model", "runtime/profile"),
    "runtime/test_profile_file": ("runtime/profile_schema",),
    "runtime/tracing/test_attribution": ("runtime/tracing/records",),
    "server/fastpath/test_json": (
        "kernels/sockets",
        "server/fastpath/fastpath",
        "server/fastpath/groups",
        "server/fastpath/replies",
        "server/fastpath/tables",
    ),
    "server/test_broadcast": ("server/about", "server/context"),
    "server/test_crowd": ("server/listener", "server/state"),
    "server/test_explain": ("lab/explain",),
    "server/test_grpc": ("cli/logs", "server/grpc"),
    "server/test_http": ("server/http", "server/metadata"),
    "server/test_inference": ("server/exchange",),
    "server/test_lifecycle": ("cli/serving/process", "server/app"),
    "server/test_loop_time": ("server/event_monitor",),
    "server/test_repository": ("cli/serving/model_repository", "server/load_failures"),
    "server/test_signals": ("cli/serving/messages", "cli/serving/needs"),
    "server/test_tracing": ("server/tracing/tracer", "server/tracing/spans"),
    "server/test_unload": ("server/served_model",),
    "server/workers/test_supervisor": ("server/workers/process",),
    "stats/test_resampling": ("stats/bootstrap", "stats/regression", "stats/outliers", "stats/trend"),
    "stats/test_stats": ("stats/sample", "stats/rank", "stats/verdict"),
    "test_models": ("spec",),
    "triton/test_config": ("triton/answer", "triton/names"),
    "triton/test_ensemble": ("triton/chain",),
    "triton/test_library": ("cli/serving/model_repository",),
    "triton/test_torch_models": ("triton/library", "triton/settings"),
    "tuner/pipelines/test_search": ("tuner/pipelines/learning",),
    "tuner/pipelines/test_space": ("tuner/pipelines/estimating",),
    "tuner/test_accuracy": (
        "tuner/accuracy/finding",
        "tuner/accuracy/floats",
        "tuner/accuracy/labels",
        "tuner/accuracy/metric",
        "tuner/accuracy/spread",
        "tuner/accuracy/ties",
        "tuner/accuracy/verdict",
    ),
    "tuner/test_calibrate": ("tuner/calibrator", "tuner/model_space"),
    "tuner/test_claims": ("tuner/records", "tuner/session", "tuner/verification"),
    "tuner/test_estimate": ("tuner/engine_estimate", "tuner/estimator"),
    "tuner/test_selection": ("tuner/result",),
    "tuner/test_traffic": ("tuner/baseline",),
    "tuner/test_ways": ("tuner/learning",),
    "tuner/together/test_search": (
        "tuner/survey",
        "tuner/together/records",
        "tuner/together/result",
        "tuner/together/servers",
        "tuner/together/words",
    ),
    "tuner/together/test_simulation": ("kernels/sharing",),
    "wire/grpc/test_codec": ("wire/grpc/messages",),
    "wire/http1/test_connection": ("wire/http1/events",),
    "wire/http1/test_head": ("wire/http1/grammar",),
    "wire/http2/test_connection": ("wire/http2/fields", "wire/http2/send", "wire/http2/streams"),
}
CROSS_CUTTING = {
    "engines/cuda/test_dispatch_benchmark": "benchmarks/gpu_dispatch.py",
    "engines/cuda/test_collected": "which tests need a card",
    "engines/pytorch/test_libraries": "programs in processes that have registered no operators yet",
    "ray_serve/test_cluster": "applications on a real Ray, on two nodes of one machine",
    "ray_serve/test_deploy": "the commands of docs/guide/ray.md on a cluster that `ray start` began",
    "fuzz/test_targets": "every parser, with what the fuzzer starts from",
    "kubernetes/test_chart": "the Helm chart in deploy/helm",
    "kubernetes/test_dashboard": "what Grafana and the autoscalers ask Prometheus",
    "kubernetes/test_manifests": "the manifests in deploy/kubernetes and deploy/kserve",
    "kubernetes/test_processes": "what these promise of a server's start, stop and rights",
    "pipelines/test_files": "what a pipeline's file does to the server that executes it",
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
    "test_workers_benchmark": "benchmarks/workers.py",
    "tuner/test_confined": "`--cpus`, from the option to the servers and the result",
    "tuner/test_faults": "what goes wrong in the middle of a tune",
    "tuner/test_labels": "labels of the data, from the file to the result",
    "tuner/test_retune": "`--retune`, from the profile to the result",
    "tuner/test_keepable": "every configuration that a tune may keep",
    "tuner/test_tuned_cases": "profiles of real tunes",
    "tuner/test_tuned_rows": "tunes of models whose rows depend on each other",
    # A real server, seen by its clients: named by what they see.
    "server/test_classes": "class names of a classifier",
    "server/test_clients_guide": "the programs of docs/guide/client.md",
    "server/test_dependent_rows": "models whose rows depend on each other",
    "server/test_engine_hang": "an engine that hangs",
    "server/test_grpc_bounds": "limits for gRPC clients",
    "server/test_half_close": "clients that end their side of a connection",
    "server/test_host": "memory and disk that run out",
    "server/test_lost_device": "a device that computes nothing more in the process",
    "server/test_live_page": "the page at /, in a browser",
    "server/test_model_repository": "Triton's layout, with NVIDIA's clients",
    "server/test_overload": "more requests than can be computed",
    "server/test_patience": "slow and silent clients",
    "server/test_perf_analyzer": "NVIDIA's load generator",
    "server/test_prometheus": "metrics, with Prometheus's own parser",
    "server/test_real_clients": "curl, requests, httpx and others",
    "server/test_receive": "where the kernel writes a body",
    "server/test_shared_cores": "several models on the same cores",
    "server/test_single_rows": "a model with a fixed batch of 1",
    "server/test_splits": "every message, cut at every position",
    "server/test_tokens": "what needs the token",
    "server/test_tritonclient": "NVIDIA's Python client",
    "server/test_uploads": "bodies that stop half-way",
}


FUNCTION = re.compile(r"^ *(?:async )?def \w+[(\[]", re.MULTILINE)


# What a package imports of a higher one by its name, so that import-linter does not see it: a user's words decide which
# package is needed. `tailcut.Model.open` and `tailcut.Client` open several kinds of models and of servers; a
# registration would have the higher package imported before it is known to be needed.
UPWARD = {
    ("runtime/model", "tailcut.pipelines.model"): "a path that ends in .py:NAME is a pipeline's",
    ("client/directory", "tailcut.ray.membership"): "an address that begins with ray:// is an application's",
}


@functools.cache
def modules() -> set[str]:
    """Each module and package, by its path below `src/tailcut` without the suffix."""
    files = {str(path.relative_to(SOURCE).with_suffix("")) for path in SOURCE.rglob("*.py")}
    packages = {name.removesuffix("/__init__") for name in files if name.endswith("/__init__")}
    return files | packages


@functools.cache
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


def test_every_module_has_its_test() -> None:
    """By its own name, or in a group."""
    tested = {mirrored(test) for test in files_of_tests()} | grouped()
    assert sorted(name for name in modules() if computes(name) and name not in tested) == []


@pytest.mark.slow
@pytest.mark.parametrize("test", sorted(GROUPS))
def test_a_group_tests_what_it_names(test: str) -> None:
    """Its file, or what that imports, imports each module; or it starts a command, and the command does."""
    reached = reached_from(test)
    assert sorted(name for name in spread(GROUPS[test]) if name not in reached) == []


def spread(names: tuple[str, ...]) -> set[str]:
    """These modules, and those of the packages among them."""
    computing = {name for name in modules() if computes(name)}
    return {item for item in computing if any(item == name or item.startswith(f"{name}/") for name in names)}


def grouped() -> set[str]:
    return {item for names in GROUPS.values() for item in spread(names)}


@functools.cache
def computes(name: str) -> bool:
    """Whether a module has a function; a package by itself has none."""
    file = SOURCE / f"{name}.py"
    if not file.is_file() or file.name == "__init__.py":
        return False
    return FUNCTION.search(file.read_text(encoding="utf-8")) is not None


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def reached_from(test: str) -> set[str]:
    """The modules that a file of tests imports, directly or not, those of its folder's fixtures included."""
    left = [TESTS / f"{test}.py", (TESTS / test).parent / "conftest.py"]
    seen: set[Path] = set()
    while left:
        file = left.pop()
        if file not in seen and file.is_file():
            seen.add(file)
            left += imported_by(file)
    return {str(file.relative_to(SOURCE).with_suffix("")) for file in seen if file.is_relative_to(SOURCE)}


@functools.cache
def imported_by(file: Path) -> tuple[Path, ...]:
    """The files of `tailcut` and `tests` that a file imports anywhere, and those of the commands that it starts."""
    result = {path for name in names_in(tree_of(file)) for path in files_of(name)}
    if file == SOURCE / "cli" / "main.py" or '"tailcut"' in file.read_text(encoding="utf-8"):
        result |= {path for path in (SOURCE / "cli").glob("*.py") if path.name != "__init__.py"}
    return tuple(result)


def names_in(tree: ast.Module) -> Iterator[str]:
    """The dotted names that a file imports or starts; some are names inside a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("tailcut."):
            yield node.value  # of a process of its own, or imported late


def files_of(name: str) -> list[Path]:
    """Where a dotted name is a module or a package, its file."""
    lead, _, rest = name.partition(".")
    base = {"tailcut": SOURCE, "tests": TESTS}.get(lead)
    if base is None:
        return []
    place = base.joinpath(*rest.split(".")) if rest else base
    return [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]


def test_modules_of_ours_are_imported_by_name_only_where_there_is_a_reason() -> None:
    """Apart from tables that load a package's own public names, or a command's."""
    result = {
        (str(path.relative_to(SOURCE).with_suffix("")), name)
        for path in SOURCE.rglob("*.py")
        for name in re.findall(r"""import_module\(\s*f?["'](tailcut\.[\w.]+)""", path.read_text(encoding="utf-8"))
    }
    upward = {(module, name) for module, name in result if module.split("/")[0] != name.split(".")[1]}
    assert upward == set(UPWARD)


@pytest.mark.slow
def test_the_files_that_docstrings_name_exist() -> None:
    """In the folder of the docstring's own file, or in one above it."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    wrong = []
    for file in sorted(SOURCE.rglob("*.py")):
        folders = [folder for folder in file.parents if folder.is_relative_to(TESTS.parent)]
        for node in ast.walk(tree_of(file)):
            text = ast.get_docstring(node) or "" if isinstance(node, kinds) else ""
            names = re.findall(r"`([\w./]+\.py)`", text)
            gone = [name for name in names if not any((folder / name).is_file() for folder in folders)]
            wrong += [f"{file.relative_to(SOURCE)}: {name}" for name in gone]
    assert wrong == []
