"""Names of applications, and addresses from what Serve's controller tells; a real Serve is asked in test_cluster."""

from dataclasses import dataclass, field
from importlib.util import find_spec

import pytest

import tailcut
from tailcut.client.requests import Address
from tailcut.errors import InvalidInputError, UsageError
from tailcut.ray.membership import PUBLISHED, Name, addresses_of


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
    expected = (Address("127.0.0.1", 1), Address("10.0.0.2", 2, tls=True))
    assert addresses_of([first, *strangers, second]) == expected
    assert addresses_of([second, first]) == expected


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray() -> None:
    """One line says how to install it."""
    with pytest.raises(UsageError, match=r"Ray Serve is not installed: pip install 'tailcut\[ray\]'"):
        tailcut.Client("ray://app")
