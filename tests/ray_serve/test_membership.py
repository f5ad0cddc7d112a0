"""Names of applications, and addresses from the controller's descriptions; test_cluster uses a real Serve."""

import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

import tailcut
from tailcut.client.requests import ServerAddress
from tailcut.errors import InvalidInputError, UnreachableError, UsageError
from tailcut.ray.membership import PUBLISHED, Name, addresses_of, connect

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray Serve is not installed: make test-ray")


@dataclass
class Replica:
    """What the controller tells of one, as far as it is read."""

    replica_metadata: dict = field(default_factory=dict)


def test_names() -> None:
    """An application, and a deployment of it; names may have any characters."""
    assert Name.parse("ray://app") == Name("app")
    assert Name.parse("ray://app/part") == Name("app", "part")
    assert Name.parse("ray://a%20b") == Name("a b")
    assert str(Name("app", "part")) == "ray://app/part"


@pytest.mark.parametrize("url", ["ray://", "ray:///x", "ray://a/b/c", "http://a"])
def test_no_names(url: str) -> None:
    """Said with the two forms there are."""
    with pytest.raises(InvalidInputError, match="ray://APP or ray://APP/DEPLOYMENT"):
        Name.parse(url)


def test_addresses_in_an_order_of_their_own() -> None:
    """However the controller orders replicas, and whatever other deployments publish."""
    first = Replica({PUBLISHED: {"url": "http://127.0.0.1:1", "models": ["m"]}})
    second = Replica({PUBLISHED: {"url": "https://10.0.0.2:2"}})
    strangers = [Replica(), Replica({"other": 1}), Replica({PUBLISHED: "x"})]
    expected = (ServerAddress("127.0.0.1", 1), ServerAddress("10.0.0.2", 2, tls=True))
    assert addresses_of([first, *strangers, second]) == expected
    assert addresses_of([second, first]) == expected


@needs_ray
@pytest.mark.parametrize("error", ["GetTimeoutError", "RpcError", "RaySystemError"])
def test_a_cluster_that_does_not_answer(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is unreachable, and not an error of Ray's own."""
    import ray

    def get_actor(*_: object, **__: object) -> None:
        raise getattr(ray.exceptions, error)("the control store is away")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_actor", get_actor)
    with pytest.raises(UnreachableError, match=r"the Ray cluster does not answer: .*is away"):
        connect()


class Controller:
    """Serve's, which is away at first.

    Args:
        answer: what it tells then.
        away: how often it cannot be asked.
    """

    def __init__(self, answer: object, away: int = 0) -> None:
        self.listen_for_change = self
        self._answer, self._away = answer, away

    def remote(self, *_: object) -> "Controller":
        if self._away:
            import ray

            self._away -= 1
            raise ray.exceptions.RaySystemError("away")
        return self

    def future(self) -> Future:
        answer: Future = Future()
        answer.set_result(self._answer)
        return answer


@needs_ray
def test_following_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the cluster is away, and when it is back."""
    import ray

    from tailcut.ray import membership

    replica = Replica({PUBLISHED: {"url": "http://10.0.0.1:1"}})
    update = SimpleNamespace(snapshot_id=1, object_snapshot=SimpleNamespace(running_replicas=[replica]))
    away, stopped, message = [1, 1], threading.Event(), []

    def again(*_: object, **__: object) -> Controller:
        if away:
            away.pop()
            raise ray.exceptions.GetTimeoutError("away")
        return Controller({"key": update})

    def changed(addresses: object) -> None:
        message.append(addresses)
        stopped.set()

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_actor", again)
    monkeypatch.setattr(membership, "_session", lambda: "1")
    monkeypatch.setattr(membership, "_AGAIN_S", 0.0)
    watch = object.__new__(membership._Watch)
    watch._changed, watch._stopped, watch._key, watch._snapshot = changed, stopped, "key", 0
    watch._controller, watch._session = Controller(None, away=9), "1"
    watch.run()
    assert message == [(ServerAddress("10.0.0.1", 1),)]


class Silent(Controller):
    """One of a cluster that this process has left: its answer never comes."""

    def future(self) -> Future:
        return Future()


def test_following_goes_on_in_another_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `ray.shutdown()` and `ray.init()`; this process joins no cluster by itself, and polls no old one."""
    from tailcut.ray import membership

    replica = Replica({PUBLISHED: {"url": "http://10.0.0.1:1"}})
    update = SimpleNamespace(snapshot_id=1, object_snapshot=SimpleNamespace(running_replicas=[replica]))
    stopped, message, sessions = threading.Event(), [], iter(["1", None, None, None, None, "2"])
    state = {"session": "1"}

    def session() -> str | None:
        state["session"] = next(sessions, "2")
        return state["session"]

    def again() -> Controller:
        assert state["session"] == "2"
        return Controller({"key": update})

    def changed(addresses: object) -> None:
        message.append(addresses)
        stopped.set()

    monkeypatch.setitem(sys.modules, "ray", sys.modules.get("ray") or stand_in())
    monkeypatch.setattr(membership, "connect", again)
    monkeypatch.setattr(membership, "_session", session)
    monkeypatch.setattr(membership, "_AGAIN_S", 0.0)
    monkeypatch.setattr(membership, "_CHECK_S", 0.01)
    watch = object.__new__(membership._Watch)
    watch._changed, watch._stopped, watch._key, watch._snapshot = changed, stopped, "key", 7
    watch._controller, watch._session = Silent(None), "1"
    watch.run()
    assert message == [(ServerAddress("10.0.0.1", 1),)]
    assert (watch._snapshot, watch._session) == (1, "2")


def stand_in() -> Any:
    """As much of Ray as following needs."""
    return SimpleNamespace(exceptions=SimpleNamespace(RayError=OSError))


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray() -> None:
    """One line says how to install it."""
    with pytest.raises(UsageError, match=r"Ray Serve is not installed: pip install 'tailcut\[ray\]'"):
        tailcut.Client("ray://app")
