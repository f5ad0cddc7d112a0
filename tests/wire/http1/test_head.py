"""HTTP heads and chunked bodies: what is read, and what is refused with which status. No socket."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import runs

from tailcut.wire.http1.chunked import ChunkedBody
from tailcut.wire.http1.grammar import ProtocolError
from tailcut.wire.http1.head import SIGNIFICANT, Head, check_partial, parse_head, significant


def message(*lines: str, start: str = "POST /v2/models/m/infer HTTP/1.1", host: str = "Host: x") -> bytes:
    return "\r\n".join([start, *([host] if host else []), *lines, "", ""]).encode("latin-1")


USUAL = message(
    "User-Agent: python-requests/2.31.0",
    "Accept: */*",
    "Connection: keep-alive",
    "Content-Type: application/octet-stream",
    "X-Request-Id: 7b2d6ce2",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "Content-Length: 1024",
)


def _means(data: bytes) -> Head | None:
    """What is read of a head, as far as it matters; None where it is refused."""
    try:
        head = parse_head(data)
    except ProtocolError:
        return None
    return replace(head, headers={name: head.headers[name] for name in SIGNIFICANT & head.headers.keys()})


def test_what_is_significant() -> None:
    """The request line and the fields that are read; ids, traces and what else clients and proxies add are not."""
    assert significant(USUAL) == message(
        "Connection: keep-alive", "Content-Type: application/octet-stream", "Content-Length: 1024"
    )
    other = USUAL.replace(b"7b2d6ce2", b"12345678-9").replace(
        b"Accept: */*\r\n", b"Via: 1.1 proxy\r\nForwarded: for=::1\r\n"
    )
    assert significant(other) == significant(USUAL)
    for name in SIGNIFICANT:
        assert b"%b: 1\r\n" % name.upper() in significant(message(f"{name.decode().upper()}: 1"))
    assert significant(message(*["a: b"] * 101)) == message(*["a: b"] * 101)


@pytest.mark.parametrize("change", ["replaced", "put in", "left out"])
def test_heads_with_one_significant_part_mean_the_same(change: str) -> None:
    """Each byte of a head changed in many ways: where the part is that of the good head, so is what is read of it."""
    known, meaning = significant(USUAL), _means(USUAL)
    pieces = [bytes([code]) for code in b'\0\t\n\r :;,"x0\x7f\x80\xff']
    if change == "put in":
        pieces += [b"\r\n", b"\r\n ", b"\r\nA: b", b"\r\nContent-Length: 3", b"\nHost: y\r\n", b"\r\nHost : y\r\n"]
    same = 0
    for at in range(len(USUAL) - 2):
        for byte in [b""] if change == "left out" else pieces:
            data = USUAL[:at] + byte + USUAL[at + (change != "put in") :]
            if significant(data) == known:
                same += 1
                assert _means(data) == meaning, data
    assert same > 50


def test_a_plain_head() -> None:
    """Method, path without its query, length and headers come out; names are lower case."""
    head = parse_head(message("Content-Length: 12", "X-A: b", start="POST /v2/m?x=1 HTTP/1.1"))
    assert (head.method, head.path, head.content_length, head.chunked) == (b"POST", "/v2/m", 12, False)
    assert head.keep_alive
    assert head.headers[b"x-a"] == b"b"


@pytest.mark.parametrize(
    ("start", "lines", "keep_alive"),
    [
        ("GET / HTTP/1.1", [], True),
        ("GET / HTTP/1.1", ["Connection: close"], False),
        ("GET / HTTP/1.1", ["Connection: Keep-Alive, Close"], False),
        ("GET / HTTP/1.0", [], False),
        ("GET / HTTP/1.0", ["Connection: keep-alive"], True),
    ],
)
def test_keep_alive(start: str, lines: list[str], keep_alive: bool) -> None:
    """Version and Connection decide together."""
    assert parse_head(message(*lines, start=start)).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("lines", "keep_alive", "length", "chunked"),
    [
        (["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"], True, None, False),
        (["Connection: Upgrade, close", "Upgrade: websocket", "Content-Length: 4"], False, 4, False),
        (["Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked"], True, None, True),
        (["Upgrade: h2c"], True, None, False),
    ],
)
def test_an_upgrade_is_ignored(lines: list[str], keep_alive: bool, length: int | None, chunked: bool) -> None:
    """The head is read as if the offer were absent; what stands beside it counts."""
    head = parse_head(message(*lines))
    assert (head.keep_alive, head.content_length, head.chunked) == (keep_alive, length, chunked)


def test_an_upgrade_over_http_1_0_is_ignored() -> None:
    """Keep-alive beside it counts there, too."""
    lines = ["Connection: Upgrade, Keep-Alive", "Upgrade: h2c"]
    assert parse_head(message(*lines, start="GET / HTTP/1.0")).keep_alive


@pytest.mark.parametrize("before", ["", " ", "\t", " \t  "])
@pytest.mark.parametrize("behind", ["", " ", "\t", "  \t "])
def test_white_space_around_a_value_is_no_part_of_it(before: str, behind: str) -> None:
    """Whatever the field means: a length, a coding, a host, an option, an expectation, or nothing to us."""
    values = {"Host": "x", "Connection": "close", "Expect": "100-continue", "X-A": "b \t c", "X-B": ""}
    for framing in ({"Content-Length": "12"}, {"Transfer-Encoding": "chunked"}):
        lines = [f"{name}:{before}{value}{behind}" for name, value in (values | framing).items()]
        head = parse_head(message(*lines, host=""))
        assert head.headers == {name.lower().encode(): value.encode() for name, value in (values | framing).items()}
        assert (head.content_length, head.chunked) == ((None, True) if "Transfer-Encoding" in framing else (12, False))
        assert head.expects_continue
        assert not head.keep_alive


def test_white_space_takes_no_longer_than_its_bytes() -> None:
    """32 KB of it are read once."""
    assert parse_head(message("A: b" + " " * 32_000 + "c")).headers[b"a"].endswith(b"c")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://x/v2", "/v2"),
        ("HTTP://y:80/v2?a=b", "/v2"),
        ("https://[::1]:8000/", "/"),
        ("http://x", "/"),
        ("http://x?a=/b", "/"),
    ],
)
def test_an_absolute_target(target: str, path: str) -> None:
    """Its authority goes before Host, and only its path means anything."""
    assert parse_head(message(start=f"GET {target} HTTP/1.1")).path == path


REFUSED = {
    "host missing": (message(host=""), 400),
    "host repeated": (message("Host: y"), 400),
    "host with a path": (message(host="Host: x/y"), 400),
    "host with userinfo": (message(host="Host: a@x"), 400),
    "host with a long port": (message(host="Host: x:123456"), 400),
    "length and coding": (message("Content-Length: 4", "Transfer-Encoding: chunked"), 400),
    "coding and length": (message("Transfer-Encoding: chunked", "Content-Length: 4"), 400),
    "two lengths": (message("Content-Length: 4", "Content-Length: 4"), 400),
    "length with a plus": (message("Content-Length: +4"), 400),
    "length list": (message("Content-Length: 4,4"), 400),
    "length 2^64": (message("Content-Length: 18446744073709551616"), 400),
    "length 2^63": (message("Content-Length: 9223372036854775808"), 400),
    "length negative": (message("Content-Length: -1"), 400),
    "length hexadecimal": (message("Content-Length: 0x4"), 400),
    "length empty": (message("Content-Length: "), 400),
    "coding gzip": (message("Transfer-Encoding: gzip"), 501),
    "coding gzip, chunked": (message("Transfer-Encoding: gzip, chunked"), 501),
    "coding twice": (message("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
    "chunked over 1.0": (message("Transfer-Encoding: chunked", start="POST / HTTP/1.0"), 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400),
    "bare CR": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400),
    "folded": (message("A: b\r\n c"), 400),
    "NUL": (message("A: b\0c"), 400),
    "space before colon": (message("A : b"), 400),
    "no colon": (message("A"), 400),
    "too many headers": (message(*[f"A{i}: b" for i in range(101)]), 431),
    "head too long": (message("A: " + "b" * 33_000), 431),
    "URL too long": (message(start="GET /" + "a" * 8200 + " HTTP/1.1"), 414),
    "unknown expectation": (message("Expect: 200-ok"), 417),
    "length 2^50": (message("Content-Length: 1125899906842624"), 413),
    "CONNECT": (message(start="CONNECT x:443 HTTP/1.1"), 400),
    "TLS hello": (bytes.fromhex("16030100f1010000ed0303") + b"\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/1.9": (message(start="GET / HTTP/1.9"), 505),
    "HTTP/1.2": (message(start="GET / HTTP/1.2"), 505),
    "HTTP/2.0": (message(start="GET / HTTP/2.0"), 505),
    "HTTP/2": (message(start="GET / HTTP/2"), 505),
    "HTTP/0.9": (message(start="GET / HTTP/0.9"), 505),
    "no version": (message(start="GET /"), 400),
    "white space behind the version": (message(start="GET / HTTP/1.1 "), 400),
    "userinfo in the URL": (message(start="GET http://u@x/ HTTP/1.1"), 400),
    "URL without a host": (message(start="GET http:///a HTTP/1.1"), 400),
    "absolute URL, host missing": (message(start="GET http://x/ HTTP/1.1", host=""), 400),
    "URL not ASCII": (message(start="GET /\xff HTTP/1.1"), 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    """Each bad head gets its status."""
    data, status = REFUSED[name]
    with pytest.raises(ProtocolError) as caught:
        parse_head(data)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x00\xf1", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET /" + b"a" * 9000, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 40_000, 431),
        (b"get / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/3.0\r\n", 505),
    ],
)
def test_a_hopeless_beginning_is_refused_at_once(data: bytes, status: int) -> None:
    """No more of it is buffered."""
    with pytest.raises(ProtocolError) as caught:
        check_partial(data)
    assert caught.value.status == status


def test_every_beginning_of_a_good_head_may_go_on() -> None:
    """A head that arrives byte by byte is never refused on the way; where a CR awaits its LF nothing is said yet."""
    whole = message("Content-Length: 3", "A: b")
    for size in range(1, len(whole)):
        check_partial(whole[:size])


CHUNKED = b"4;name=value\r\nWiki\r\n6\r\npedia \r\n0\r\nTrailer: x\r\n\r\n"


def test_a_chunked_body_split_at_every_position() -> None:
    """Pieces of any size give the same body, and what follows is returned."""
    whole = CHUNKED + b"GET /"
    for size in range(1, len(whole)):
        body, rest = ChunkedBody(100), b""
        for at in range(0, len(whole), size):
            piece = whole[at : at + size]
            rest += piece if body.done else body.feed(piece)
        assert body.done
        assert bytes(body.body) == b"Wikipedia "
        assert rest == b"GET /"


@settings(max_examples=runs(100), deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 20))
def test_chunked_round_trip(chunks: list[bytes], step: int) -> None:
    """Whatever was sent in chunks comes out joined."""
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    body = ChunkedBody(1000)
    for at in range(0, len(sent), step):
        body.feed(sent[at : at + step])
    assert body.done
    assert bytes(body.body) == b"".join(chunks)


def feed(body: ChunkedBody, data: bytes, step: int) -> None:
    for at in range(0, len(data), step):
        body.feed(data[at : at + step])


BAD_CHUNKS = {
    "size no number": (b"x\r\n", 400),
    "size negative": (b"-1\r\n", 400),
    "size with a plus": (b"+4\r\nWiki\r\n", 400),
    "size with 0x": (b"0x4\r\nWiki\r\n", 400),
    "size behind a space": (b" 4\r\nWiki\r\n", 400),
    "size before a space": (b"4 \r\nWiki\r\n", 400),
    "size in two": (b"4 4\r\nWiki\r\n", 400),
    "size with an underscore": (b"1_0\r\n", 400),
    "size of 64 bits": (b"ffffffffffffffff\r\n", 400),
    "size with many zeros": (b"0000000000004\r\nWiki\r\n", 400),
    "size empty": (b"\r\n", 400),
    "size missing": (b";a=b\r\nWiki\r\n", 400),
    "bare LF": (b"4\nWiki\r\n", 400),
    "bare LF behind the chunk": (b"4\r\nWiki\n0\r\n\r\n", 400),
    "bare CR": (b"4;a\rb\r\nWiki\r\n", 400),
    "CR twice": (b"4\r\r\nWiki\r\n", 400),
    "NUL": (b"4;a=\0\r\nWiki\r\n", 400),
    "longer than its size": (b"4\r\nWikiX\r\n", 400),
    "longer, and the client waits": (b"4\r\nWikiX", 400),
    "shorter than its size": (b"4\r\nWik\r\n0\r\n\r\n", 400),
    "over the limit": (b"65\r\n", 413),
    "long line": (b"4;" + b"a" * 5000, 400),
    "extension without a name": (b"4;\r\nWiki\r\n", 400),
    "extension without a value": (b"4;a=\r\nWiki\r\n", 400),
    "extension that is not ended": (b'4;a="b\r\nWiki\r\n', 400),
    "extension with a space in it": (b"4;a b\r\nWiki\r\n", 400),
    "extension folded": (b"4;a=b\r\n ;c=d\r\n", 400),
    "last chunk with a space": (b"0 \r\n\r\n", 400),
    "trailer without a colon": (b"0\r\nX\r\n\r\n", 400),
    "trailer without a name": (b"0\r\n: x\r\n\r\n", 400),
    "trailer with a space before its colon": (b"0\r\nX : y\r\n\r\n", 400),
    "trailer folded": (b"0\r\nX: y\r\n z\r\n\r\n", 400),
    "trailer with NUL": (b"0\r\nX: y\0\r\n\r\n", 400),
    "trailer with a bare CR": (b"0\r\nX: y\rZ: x\r\n\r\n", 400),
    "trailer with a bare LF": (b"0\r\nX: y\nZ: x\r\n\r\n", 400),
    "trailers ended by a bare LF": (b"0\r\nX: y\r\n\n", 400),
    "another request for trailers": (b"0\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "trailers too many": (b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    "trailers too long": (b"0\r\n" + (b"X: " + b"y" * 3000 + b"\r\n") * 11 + b"\r\n", 431),
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_chunks(name: str) -> None:
    """Broken framing is 400, a body over its limit of 100 bytes 413, endless trailers 431; also byte by byte."""
    data, status = BAD_CHUNKS[name]
    for step in (len(data), 1):
        with pytest.raises(ProtocolError) as caught:
            feed(ChunkedBody(100), data, step)
        assert caught.value.status == status


@pytest.mark.parametrize(
    "line",
    [
        b"4",
        b"004",
        b"4;a",
        b"4;a=b;c",
        b"4 ; a = b",
        b'4\t;\ta="b; \\"c\\\\"',
        b'4;a=""',
        b'4;sig="\xe4"',
    ],
)
def test_chunk_extensions_are_ignored(line: bytes) -> None:
    """With and without a value, quoted or not, and with the white space that the grammar allows."""
    body = ChunkedBody(100)
    assert body.feed(line + b"\r\nWiki\r\n0;last\r\nX: y\r\nZ:\r\n\r\nGET") == b"GET"
    assert bytes(body.body) == b"Wiki"


def test_a_hostile_extension_takes_no_longer_than_its_bytes() -> None:
    """A line of 4 KB that fails at its end is read once, whatever it is made of."""
    for part in (b";a", b' ;a="b"', b";a = b", b'\\"', b" "):
        line = b"4;x" + part * (4000 // len(part)) + b"\0\r\n"
        with pytest.raises(ProtocolError):
            ChunkedBody(100).feed(line)


def test_chunks_are_counted() -> None:
    """A thousand small ones are a body, a million are an attack: refused after 1,025, however they arrive."""
    small, large = b"1\r\nx\r\n", b"100\r\n" + bytes(256) + b"\r\n"
    body = ChunkedBody(1 << 30)
    assert body.feed(small * 1000 + large * 5000 + b"0\r\n\r\nnext") == b"next"
    assert len(body.body) == 1000 + 5000 * 256
    for size in (1, 5, 4096):
        body, data = ChunkedBody(1 << 30), small * 2000
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        with pytest.raises(ProtocolError) as caught:
            _ = [body.feed(piece) for piece in pieces]
        assert caught.value.status == 413
        assert 1000 < len(body.body) < 1100


def test_trailers_are_counted() -> None:
    """As the fields of a head are."""
    body = ChunkedBody(100)
    assert body.feed(b"0\r\n" + b"a: b\r\n" * 100 + b"\r\nnext") == b"next"
    with pytest.raises(ProtocolError) as caught:
        ChunkedBody(100).feed(b"0\r\n" + b"a: b\r\n" * 101 + b"\r\n")
    assert caught.value.status == 431
