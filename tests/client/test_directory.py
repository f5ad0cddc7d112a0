"""From what a user writes to the servers that are asked."""

import pytest

from tailcut.client.directory import find_servers
from tailcut.client.requests import ServerAddress
from tailcut.errors import InvalidInputError


def test_one_server_is_named_by_its_address() -> None:
    """In messages and in the Host header."""
    result = find_servers("http://h:1")
    assert (result.addresses, result.host, result.name, result.tls) == ((ServerAddress("h", 1),), "h:1", "h:1", False)


def test_several_servers_get_the_same_bytes() -> None:
    """Each is listed once, and the Host header is the same for all."""
    result = find_servers(["http://h:1", "https://g:2", "h:1"])
    assert result.addresses == (ServerAddress("h", 1), ServerAddress("g", 2, tls=True))
    assert (result.host, result.name, result.tls) == ("tailcut", "h:1, g:2", True)


@pytest.mark.parametrize("wrong", [[], ["h:1", "ftp://x"], "ftp://x"])
def test_no_address(wrong: list[str] | str) -> None:
    """A list may not be empty either."""
    with pytest.raises(InvalidInputError):
        find_servers(wrong)
