"""The page at /, in Chromium, on real servers: what it shows under load, its form, its keys, its token, its proxies."""

import json
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.browser import Browser, browsing, needs_chromium
from tests.certificates import make_pair, needs_openssl
from tests.engines.models import identity, perceptron, two_in_two_out
from tests.pipelines import samples
from tests.servers import TIMEOUT_S, Server, raw_request, serving

from tailcut.spec import DType

pytestmark = needs_chromium
STATE = "document.getElementById('state').dataset.state"
NAME = "<b>it's</b>"
# The stream as if each view were of four seconds, in whole events.
SLOWER = r"""(() => {
    const real = window.fetch;
    window.fetch = async (path, options) => {
        const answer = await real(path, options);
        if (!path.endsWith("live")) return answer;
        let text = "";
        const slower = new TransformStream({ transform(chunk, out) {
            text += chunk;
            const end = text.lastIndexOf("\n\n") + 2;
            if (end < 2) return;
            const event = text.slice(0, end).replace(/"seconds":[0-9.]+/g, '"seconds":4.0');
            out.enqueue(event.replace(/"(window_s|throttled_ms)":[0-9.]+/g, '"$1":40.0'));
            text = text.slice(end);
        } });
        const body = answer.body.pipeThrough(new TextDecoderStream()).pipeThrough(slower);
        return new Response(body.pipeThrough(new TextEncoderStream()));
    };
})()"""
NGINX = """
pid {folder}/nginx.pid;
error_log {folder}/error.log;
daemon off;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        location /tailcut/ {{ proxy_pass http://127.0.0.1:{server}/; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model of several inputs, one of text, one whose name is markup, and a pipeline."""
    folder = tmp_path_factory.mktemp("page")
    perceptron([4, 8, 3], folder / "mlp.onnx")
    two_in_two_out(folder / "pair.onnx")
    identity(DType.BYTES, (None, 2), folder / "text.onnx")
    identity(DType.INT64, (None, 2), folder / "long.onnx")
    identity(DType.UINT64, (None, 2), folder / "unsigned.onnx")
    shutil.copy(samples.__file__, folder / "samples.py")
    samples.write_model(folder / "twice.onnx")
    sources = [
        folder / "mlp.onnx",
        folder / "pair.onnx",
        folder / "long.onnx",
        folder / "unsigned.onnx",
        f"{NAME}={folder / 'text.onnx'}",
        f"{folder}/samples.py:pipeline",
    ]
    with serving(folder, *sources, "--slo", "50ms") as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A page of its own."""
    chromium.renew()
    yield chromium
    assert chromium.problems == []


@contextmanager
def load(server: Server) -> Iterator[None]:
    """Requests all the time, on a connection of their own."""
    over = threading.Event()
    row = np.ones((1, 4), np.float32).tobytes()

    def ask() -> None:
        with server.connect() as wire:
            while not over.wait(0.002):
                assert wire.ask(raw_request("mlp", row)).status == 200

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(TIMEOUT_S)


def choose(browser: Browser, model: str) -> None:
    """Take a model from the table of models; its form is then there."""
    browser.until("document.querySelector('#models-table button')")
    chosen = f"[...document.querySelectorAll('#models-table button')].find((one) => one.textContent === {model!r})"
    browser.run(f"{chosen}.click()")
    browser.until(
        "document.querySelector('#try button[type=submit]') && "
        f"document.getElementById('try-path').textContent.includes(encodeURIComponent({model!r}))"
    )


def send(browser: Browser) -> str:
    """Send the form; what it says then."""
    browser.run("document.querySelector('#try button[type=submit]').click()")
    browser.until("document.querySelector('#try .answer').innerText || document.querySelector('#try .error').innerText")
    return browser.run(
        "['answer', 'error', 'outputs'].map((name) => document.querySelector(`#try .${name}`).innerText).join('')"
    )


@pytest.mark.slow
def test_under_load(server: Server, browser: Browser) -> None:
    """It shows rate, percentiles, the slowest requests with their stages, memory, settings, findings."""
    with load(server):
        browser.open(server.url)
        browser.until("document.querySelectorAll('#slow .strip-row').length >= 3")
        browser.until("Number(document.documentElement.dataset.views) >= 3")
        facts = browser.text("#facts")
        assert "requests in" in facts
        assert "MiB" in facts
        assert "of --slo" not in facts
        assert "Within 50 ms" in facts
        assert browser.run("document.querySelectorAll('#charts svg path.curve').length") >= 4
        assert browser.run("document.querySelector('#charts figure:nth-of-type(2) .legend b').textContent").endswith(
            "s"
        )
        assert "compute" in browser.run("document.getElementById('slow').textContent")
        assert browser.run(STATE) == "watching"
        browser.until("document.querySelectorAll('#findings li').length > 5")
        browser.until("document.getElementById('settings').textContent.includes('batching.max_batch_size')")
        assert browser.run("document.querySelectorAll('#models-table tbody tr').length") == 6
        assert browser.run("document.querySelector('#models-table').textContent").count(NAME) == 1


@pytest.mark.slow
def test_a_model_that_is_not_asked_has_no_figures(server: Server, browser: Browser) -> None:
    """It says so, instead of 0."""
    browser.open(server.url)
    choose(browser, "pair")
    browser.until("Number(document.documentElement.dataset.views) >= 2")
    assert "no requests" in browser.text("#facts")
    assert "No requests" in browser.text("#slow-words")


@pytest.mark.slow
def test_figures_of_several_seconds_say_so(server: Server, browser: Browser) -> None:
    """As a server with many models sends them: nothing is called that of the last second."""
    with load(server):
        browser.open(server.url)
        browser.until(f"{STATE} === 'watching'")
        browser.run("document.getElementById('pause').click()")
        browser.run(SLOWER)
        browser.run("document.getElementById('pause').click()")
        browser.until("document.getElementById('over-second').textContent.startsWith('4')")
        browser.until("document.querySelectorAll('#slow .strip-row').length >= 1")
        shown = browser.text("main").replace("\u00a0", " ")
        assert "last second" not in shown
        assert [browser.text(f"#over-{name}") for name in ("recent", "second")] == ["40\u00a0s", "4\u00a0s"]
        assert "failed, refused or expired, last 4 s" in shown
        assert "throttled the server for 40 ms of the last 4 s" in shown
        assert "Of the last 4 s, " in shown


@pytest.mark.slow
def test_the_form_of_several_inputs(server: Server, browser: Browser) -> None:
    """Each has its fields, filled with values that the model takes; what is wrong is answered in the server's words."""
    browser.open(server.url)
    choose(browser, "pair")
    assert browser.run("document.querySelectorAll('#try fieldset').length") == 2
    answer = send(browser)
    assert answer.startswith("200"), answer
    assert browser.run("document.querySelectorAll('#try .output').length") == 2
    browser.run(
        "(() => { const field = document.querySelector('#try textarea'); field.value = '1, 2, three'; "
        "field.dispatchEvent(new Event('input')); })()"
    )
    assert "are not a list" in send(browser)
    browser.run(
        "(() => { const field = document.querySelector('#try textarea'); field.value = '1'; "
        "field.dispatchEvent(new Event('input')); })()"
    )
    assert send(browser).startswith("400: ")
    assert all("400" in problem for problem in browser.problems)
    browser.problems.clear()


@pytest.mark.slow
def test_the_form_of_texts(server: Server, browser: Browser) -> None:
    """One a line or a JSON list; markup in them, or in the model's name, is text, also to the shell that runs curl."""
    browser.open(server.url)
    choose(browser, NAME)
    browser.run(
        "(() => { const field = document.querySelector('#try textarea'); "
        "field.value = 'first, <img src=x>\\nsecond'; field.dispatchEvent(new Event('input')); })()"
    )
    assert '"first, <img src=x>", "second"' in send(browser)
    program, url, _, body = shlex.split(browser.run("document.querySelector('#try details pre').textContent"))
    assert (program, url.startswith(f"{server.url}/v2/models/")) == ("curl", True)
    with urllib.request.urlopen(url, body.encode(), TIMEOUT_S) as answer:
        assert json.load(answer)["model_name"] == NAME
    assert browser.run("document.querySelectorAll('main img, main b > b').length") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("[MASK] is the capital\n[1, 2]", '"[MASK] is the capital", "[1, 2]"'),
        ('["one", "a\\nb"]', '"one", "a\\nb"'),
        ('[["one", "two"]]', '"one", "two"'),
    ],
)
def test_texts_that_begin_like_a_list(server: Server, browser: Browser, typed: str, shown: str) -> None:
    """A JSON list of texts is one; anything else is a text per line."""
    browser.open(server.url)
    choose(browser, NAME)
    browser.run(
        f"(() => {{ const field = document.querySelector('#try textarea'); field.value = {json.dumps(typed)}; "
        "field.dispatchEvent(new Event('input')); })()"
    )
    assert shown in send(browser)


@pytest.mark.slow
def test_a_form_that_could_not_be_made_is_made_again(server: Server, browser: Browser) -> None:
    """While the stream goes on: the metadata are asked for again."""
    browser.open(server.url)
    choose(browser, "mlp")
    browser.run(
        "(() => { const real = window.fetch; let failed = 0; window.fetch = (path, options) => "
        "path.includes('/pair/') && !failed++ ? Promise.reject(new TypeError('gone')) : real(path, options); })()"
    )
    pair = "[...document.querySelectorAll('#models-table button')].find((one) => one.textContent === 'pair')"
    browser.run(f"{pair}.click()")
    browser.until("document.getElementById('try').textContent.includes('The form could not be made: gone')")
    browser.until("document.querySelectorAll('#try fieldset').length === 2")
    assert send(browser).startswith("200")


@pytest.mark.slow
def test_at_a_path_of_slashes(server: Server, browser: Browser) -> None:
    """Its own requests stay at its own host."""
    browser.open(f"{server.url}//")
    browser.until(f"{STATE} === 'watching'")
    choose(browser, "pair")
    assert browser.text("#try-path") == "/v2/models/pair/versions/1/infer"
    assert send(browser).startswith("200")


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("long", "9007199254740993, -9223372036854775808"),
        pytest.param("unsigned", "18446744073709551615, 9007199254740993", marks=pytest.mark.slow),
    ],
)
def test_whole_numbers_are_exact(server: Server, browser: Browser, name: str, numbers: str) -> None:
    """Also those that a script's own numbers would round."""
    browser.open(server.url)
    choose(browser, name)
    browser.run(
        f"(() => {{ const field = document.querySelector('#try textarea'); field.value = '{numbers}'; "
        "field.dispatchEvent(new Event('input')); })()"
    )
    assert send(browser).startswith("200")
    assert browser.run("document.querySelector('#try .output pre').textContent") == numbers


@pytest.mark.slow
def test_the_steps_of_a_pipeline(server: Server, browser: Browser) -> None:
    """Each has a row with its own times."""
    browser.open(server.url)
    choose(browser, "texts")
    assert send(browser).startswith("200")
    browser.until("document.querySelectorAll('#steps-table tbody tr').length === 3")
    assert "tokenize" in browser.text("#steps-table")
    assert browser.run("document.querySelector('#charts figure:last-child').hidden") is True  # of batches


def test_by_keyboard_and_for_screen_readers(server: Server, browser: Browser) -> None:
    """The first stop skips to the figures, charts are read with arrow keys, each has a table, all fields have names."""
    with load(server):
        browser.open(server.url)
        browser.until("Number(document.documentElement.dataset.views) >= 2")
        browser.press("Tab")
        assert browser.run("document.activeElement.className") == "skip"
        browser.run("document.querySelector('#charts figure:nth-of-type(2)').focus()")
        browser.press("End")
        spoken = "document.querySelector('#charts figure:nth-of-type(2) [aria-live]').textContent"
        assert "p99 " in browser.run(spoken)
        last = browser.run(spoken)
        browser.press("ArrowLeft")
        browser.until(f"{spoken} !== {last!r}")
        browser.press("Escape")
        assert browser.run("document.querySelector('#charts figure:nth-of-type(2) .tip').hidden") is True
        browser.run("document.querySelector('#charts figure:nth-of-type(1) summary').click()")
        browser.until("document.querySelectorAll('#charts figure:nth-of-type(1) tbody tr').length >= 2")
        seen = browser.accessible()
        assert [role for role, name in seen if role in {"button", "textbox", "combobox", "radio"} and not name] == []
        assert ("heading", "The slowest requests") in seen
        assert "main" in {role for role, _ in seen}
        # Polite regions only: the state, the charts' values that a key has asked for, the form's answer.
        assert browser.run("document.querySelectorAll('[aria-live=assertive]').length") == 0


@pytest.mark.slow
def test_pause_ends_the_stream(server: Server, browser: Browser) -> None:
    """A page that is paused is no watcher; going on it is one again."""
    with load(server):
        browser.open(server.url)
        browser.until(f"{STATE} === 'watching'")
        browser.run("document.getElementById('pause').click()")
        assert browser.run(STATE) == "paused"
        seen = browser.run("document.documentElement.dataset.views")
        with server.connect() as wire:  # a second is over when another watcher has seen it
            wire.send(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
            while b"event: view" not in wire.pending():
                wire.more()
        assert browser.run("document.documentElement.dataset.views") == seen
        browser.run("document.getElementById('pause').click()")
        browser.until(f"{STATE} === 'watching' && document.documentElement.dataset.views !== {seen!r}")


@pytest.mark.slow
def test_light_and_dark_on_any_screen(server: Server, browser: Browser, tmp_path: Path) -> None:
    """Nothing is wider than a telephone's screen; the colours follow the user's wish, and the button changes them."""
    with load(server):
        browser.prefer("dark")
        browser.size(360, 780, mobile=True)
        browser.open(server.url)
        browser.until("document.querySelectorAll('#slow .strip-row').length >= 1")
        assert browser.run("document.documentElement.scrollWidth") <= 360
        dark = browser.run("getComputedStyle(document.body).backgroundColor")
        browser.run("document.getElementById('theme').click()")
        assert browser.run("getComputedStyle(document.body).backgroundColor") != dark
        browser.picture(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_token_is_asked_for_and_kept_in_the_tab(browser: Browser, tmp_path: Path) -> None:
    """In no address; a wrong one is refused, and the next load of the page has the right one."""
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o600)
    flags = ["--token-file", str(tmp_path / "token"), "--require-token", "--access-log"]
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), *flags) as server:
        browser.open(server.url)
        browser.until("!document.getElementById('token-form').hidden")
        for token in ("tok€n", "sec\u200bret", "wrong", "secret"):
            browser.run(f"document.getElementById('token').value = {token!r}")
            browser.run("document.querySelector('#token-form button').click()")
            if not token.isascii():  # what no header can carry
                browser.until("document.getElementById('token-error').textContent.includes('ASCII characters only')")
                assert browser.run("sessionStorage.length") == 0
            if token == "wrong":
                browser.until("document.getElementById('token-error').textContent.includes('did not accept')")
        browser.until(f"{STATE} === 'watching'")
        browser.until("document.querySelector('#try button[type=submit]')")
        assert send(browser).startswith("200")
        browser.open(server.url)
        browser.until(f"{STATE} === 'watching'")
        browser.run("sessionStorage.setItem('tailcut-token', 'tok€n')")  # of an earlier version
        browser.open(server.url)
        browser.until("!document.getElementById('token-form').hidden")
        assert browser.run("sessionStorage.length") == 0
        assert server.stop() == 0
        assert "secret" not in server.stderr.read_text()
    assert all("401" in problem or "ERR_CONNECTION" in problem for problem in browser.problems), browser.problems
    browser.problems.clear()


@pytest.mark.slow
def test_a_server_that_stops_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    """The page says so, tries again, and shows the seconds without figures as a gap."""
    perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    with serving(tmp_path, tmp_path / "mlp.onnx", "--drain", "0s") as server:
        browser.open(server.url)
        browser.until("Number(document.documentElement.dataset.views) >= 2")
        server.process.send_signal(signal.SIGTERM)
        browser.until(f"{STATE} === 'waiting'")
        assert server.process.wait(TIMEOUT_S) == 0
    browser.until("document.getElementById('state-text').textContent.includes('The server does not answer')")
    with serving(tmp_path, tmp_path / "mlp.onnx", port=server.port) as again:
        browser.until(f"{STATE} === 'watching'")
        browser.until("document.querySelector('#charts svg path.curve').getAttribute('d').split('M').length >= 3")
        assert again.stop() == 0
    assert all("ERR_CONNECTION" in problem or "ERR_INCOMPLETE" in problem for problem in browser.problems)
    browser.problems.clear()


@pytest.mark.slow
@needs_openssl
def test_over_tls(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), *make_pair(tmp_path).flags) as server:
        browser.open(f"https://localhost:{server.port}/")
        browser.until(f"{STATE} === 'watching'")
        browser.until("document.querySelector('#try button[type=submit]')")
        assert send(browser).startswith("200")
        assert server.stop() == 0
    browser.problems.clear()  # the stream ended


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_behind_a_proxy_under_a_path(server: Server, browser: Browser, tmp_path: Path) -> None:
    """nginx as it comes: each event arrives in its second, and the form finds the model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, port=port, server=server.port))
    command = ["nginx", "-p", str(tmp_path), "-e", str(tmp_path / "error.log"), "-c", str(tmp_path / "nginx.conf")]
    nginx = subprocess.Popen(command)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), TIMEOUT_S).close()
                break
            except ConnectionRefusedError:
                assert nginx.poll() is None
        browser.open(f"http://127.0.0.1:{port}/tailcut/")
        browser.until(f"{STATE} === 'watching' && Number(document.documentElement.dataset.views) >= 3")
        choose(browser, "pair")
        assert browser.text("#try-path") == "/tailcut/v2/models/pair/versions/1/infer"
        assert send(browser).startswith("200")
    finally:
        nginx.terminate()
        nginx.wait(TIMEOUT_S)
