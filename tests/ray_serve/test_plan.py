"""The plan of an application: its limits, the options of its deployment, and its file."""

import msgspec
import pytest

from tailcut.errors import UsageError
from tailcut.ray.plan import ApplicationPlan, CarriedLoad, Replicas, deployment_options, read_plan, serve_config


def test_a_plan_survives_its_file() -> None:
    """What is written as builtin types is read as the same plan."""
    plan = ApplicationPlan(
        sources=("/m.toml",), carried=CarriedLoad(rate=10.0), replicas=Replicas(least=1, most=3), options=("--x",)
    )
    assert read_plan(msgspec.to_builtins(plan)) == plan


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"sources": ["a"], "multiplexed": {"b": "b"}},
        {"sources": ["a"], "other": 1},
        {"sources": ["a"], "replicas": {"least": 3, "most": 2}},
        {"sources": ["a"], "replicas": {"least": 0, "most": 2}},
        {"sources": ["a"], "replicas": {"least": -1, "most": 2}},
        {"sources": ["a"], "replicas": {"window_s": 0.0}},
        {"sources": ["a"], "models_per_replica": 0},
        {"sources": ["a"], "drain_s": -1.0},
        {"sources": ["a"], "options": ["--deadline", "soon"]},
        {"sources": ["a"], "options": ["--deadline", "60"]},
        {"sources": ["a"], "cpus": -1.0},
        {"sources": ["a"], "gpus": -1.0},
        {"sources": ["a"], "memory_bytes": -1},
        {"sources": ["a"], "carried": {"most_ongoing": 0}},
        {"sources": ["a"], "carried": {"target_ongoing": 0.0}},
        {"sources": ["a"], "replicas": {"down_s": -1.0}},
    ],
)
def test_what_is_no_plan(values: dict) -> None:
    """Is refused in one line that says where it comes from."""
    with pytest.raises(UsageError, match=r"args of tailcut\.ray:build: .*tailcut ray config"):
        read_plan(values)


def test_a_fixed_number_of_replicas() -> None:
    """Needs no autoscaler; unknown memory is not asked for."""
    options = deployment_options(ApplicationPlan(sources=("a",), cpus=2.0, replicas=Replicas(least=2, most=2)))
    assert options["num_replicas"] == 2
    assert "autoscaling_config" not in options
    assert options["ray_actor_options"] == {"num_cpus": 2.0, "num_gpus": 0.0}
    assert "max_replicas_per_node" not in options


def test_a_range_of_replicas() -> None:
    """Is scaled by our policy on the target of the plan."""
    plan = ApplicationPlan(
        sources=("a",),
        memory_bytes=5,
        exclusive=True,
        carried=CarriedLoad(most_ongoing=9, target_ongoing=2.5),
        replicas=Replicas(least=2, most=4, up_s=1.0, down_s=2.0, window_s=3.0),
    )
    options = deployment_options(plan)
    assert "num_replicas" not in options
    assert options["autoscaling_config"] == {
        "min_replicas": 2,
        "max_replicas": 4,
        "target_ongoing_requests": 2.5,
        "upscale_delay_s": 1.0,
        "downscale_delay_s": 2.0,
        "look_back_period_s": 3.0,
        "metrics_interval_s": 1.5,
        "policy": {"policy_function": "tailcut.ray.policy:replicas"},
    }
    assert options["max_ongoing_requests"] == 9
    assert options["max_replicas_per_node"] == 1
    assert options["ray_actor_options"]["memory"] == 5


@pytest.mark.parametrize(
    ("options", "deadline_s"),
    [
        ((), 30),
        (("--deadline", "120s"), 120),
        (("--deadline=2m", "--x"), 120),
        (("--deadline", "9s", "--deadline=1.5s"), 1.5),
    ],
)
def test_a_replica_has_time_to_stop(options: tuple[str, ...], deadline_s: float) -> None:
    """For its drain and the deadline of what it accepts last; Serve waits longer, else it would kill the replica."""
    plan = ApplicationPlan(sources=("a",), drain_s=60.0, options=options)
    assert plan.stop_s > 60 + deadline_s
    assert deployment_options(plan)["graceful_shutdown_timeout_s"] > plan.stop_s + 1


def test_the_file_has_all_of_it() -> None:
    """The plan as arguments, and the options of the deployment where a user looks for them."""
    plan = ApplicationPlan(sources=("/m.toml",), revision="1")
    content = serve_config("m", "/m", plan)
    assert content["http_options"]["host"] == "127.0.0.1"
    (application,) = content["applications"]
    assert (application["name"], application["route_prefix"]) == ("m", "/m")
    assert application["import_path"] == "tailcut.ray:build"
    assert read_plan(application["args"]) == plan
    (deployment,) = application["deployments"]
    assert deployment == {"name": "tailcut", **deployment_options(plan)}
