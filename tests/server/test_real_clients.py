"""Clients as people have them, in their default settings: what they send of their own accord gets its answer."""

import http.client
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tests.servers import Server

pytestmark = pytest.mark.usefixtures("sound")

ROW = np.arange(1000, dtype=np.float32).tobytes()
JSON = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]})
CURL = shutil.which("curl")
JAVA = shutil.which("java") if shutil.which("javac") else None
JAVA_CLIENT = """
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;

class Ask {
    static HttpClient client = HttpClient.newHttpClient();
    static String url;

    static HttpRequest.Builder to(String path) { return HttpRequest.newBuilder(URI.create(url + path)); }

    static HttpResponse<byte[]> send(HttpRequest.Builder request) throws Exception {
        HttpResponse<byte[]> answer = client.send(request.build(), BodyHandlers.ofByteArray());
        System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body().length);
        return answer;
    }

    public static void main(String[] args) throws Exception {
        url = args[0];
        byte[] row = new byte[4000];
        send(to("/v2/health/ready"));
        for (int i = 0; i < 5; i++)
            send(to("/v2/models/echo/infer").header("Inference-Header-Content-Length", "0")
                .POST(BodyPublishers.ofByteArray(row)));
        send(to("/v2/models/mlp/infer").POST(BodyPublishers.ofString(args[1])));
        send(to("/v2/models/echo/infer").header("Inference-Header-Content-Length", "0")
            .POST(BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(row))));
        send(to("/v2/models/none"));
    }
}
"""


def test_http_client(server: Server) -> None:
    """Python's own, over one connection: a question, raw, JSON, an iterable body in chunks, and HEAD."""
    client = http.client.HTTPConnection(server.host, server.port, timeout=20)
    client.request("GET", "/v2")
    assert json.load(client.getresponse())["name"] == "tailcut"
    for body in (ROW, iter([ROW[:1000], ROW[1000:]])):
        client.request("POST", "/v2/models/echo/infer", body, {"Inference-Header-Content-Length": "0"})
        answer = client.getresponse()
        assert answer.status == 200
        assert answer.getheader("Date", "").endswith(" GMT")
        assert answer.read().endswith(ROW)
    client.request("POST", "/v2/models/mlp/infer", JSON)
    assert json.load(client.getresponse())["outputs"][0]["shape"] == [1, 3]
    client.request("HEAD", "/v2")
    assert client.getresponse().read() == b""
    client.close()


def test_urllib(server: Server) -> None:
    """It asks for `Connection: close` and names a form as its Content-Type; an error is one that it can read."""
    request = urllib.request.Request(
        f"{server.url}/v2/models/echo/infer", ROW, {"Inference-Header-Content-Length": "0"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.read().endswith(ROW)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.url}/v2/models/none", timeout=20)
    with caught.value as error:
        assert error.code == 404
        assert json.load(error)["error"].startswith("Request for unknown model: 'none' is not found")


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
def test_curl(server: Server, tmp_path: Path, version: str) -> None:
    """In each version, `--http2` offering an upgrade: a question, raw bodies, JSON, chunks, twice on one connection."""
    (tmp_path / "row").write_bytes(ROW)
    infer = f"{server.url}/v2/models/echo/infer"
    raw = ["-H", "Inference-Header-Content-Length: 0"]
    asked = [
        [f"{server.url}/v2", f"{server.url}/v2"],
        [infer, *raw, "--data-binary", f"@{tmp_path / 'row'}"],
        [f"{server.url}/v2/models/mlp/infer", "-d", JSON],
        [infer, *raw, "-H", "Expect: 100-continue", "--data-binary", f"@{tmp_path / 'row'}"],
    ]
    if version != "--http1.0":  # which has no chunks
        asked.append([infer, *raw, "-H", "Transfer-Encoding: chunked", "--data-binary", f"@{tmp_path / 'row'}"])
    for arguments in asked:
        message = ["--silent", "--max-time", "20", "--write-out", "[%{http_code} %{http_version}]"]
        done = subprocess.run([str(CURL), version, *message, *arguments], capture_output=True, check=True)
        assert b"[200 1.1]" in done.stdout, done
        assert done.stdout.count(b"[200 1.1]") == sum(argument.startswith("http:") for argument in arguments)
        if "--data-binary" in arguments:
            assert ROW in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(JAVA is None, reason="no Java development kit is installed")
def test_java(server: Server, tmp_path: Path) -> None:
    """Its default client offers h2c with every first request; bodies of known length and in chunks are answered."""
    (tmp_path / "Ask.java").write_text(JAVA_CLIENT)
    command = [str(JAVA), "-XX:TieredStopAtLevel=1", "-Xshare:auto", str(tmp_path / "Ask.java"), server.url, JSON]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [(status, version) for status, version, _ in lines] == [("200", "HTTP_1_1")] * 8 + [("404", "HTTP_1_1")]
    assert len({size for _, _, size in lines[1:6] + lines[7:8]}) == 1
