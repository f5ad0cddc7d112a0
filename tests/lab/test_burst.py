"""Requests sent together, and their whole answers."""

import numpy as np
from tests.lab.scripted import scripted
from tests.servers import Server

from tailcut.lab.burst import Burst
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import encode, infer_once, infer_payload


def test_each_request_gets_its_own_answer(target: LoadTarget) -> None:
    """Different requests at once, small and large, in three forms, and again on the same connections."""
    random = np.random.default_rng(0)
    requests = [{"x": random.standard_normal((rows, 4)).astype(np.float32)} for rows in (1, 3, 260, 1, 5, 200)]
    alone = [infer_once(target, "mlp", request)["y"] for request in requests]
    with Burst(target) as burst:
        for wire in ("binary", "json", "raw", "binary"):
            replies = burst.ask([infer_payload(target, "mlp", request, wire) for request in requests])
            for reply, expected in zip(replies, alone, strict=True):
                assert reply.status == 200
                np.testing.assert_allclose(reply.outputs["y"], expected, rtol=1e-5, atol=1e-6)


def test_what_arrives_together_is_computed_together(server: Server, target: LoadTarget) -> None:
    """The server makes fewer batches of one burst than it has requests."""
    random = np.random.default_rng(1)
    requests = [{"x": random.standard_normal((1, 4)).astype(np.float32)} for _ in range(32)]
    payloads = [infer_payload(target, "mlp", request, "binary") for request in requests]
    with Burst(target) as burst:
        burst.ask(payloads)
        before = server.metric("nv_inference_exec_count")
        for _ in range(8):
            burst.ask(payloads)
        assert server.metric("tailcut_batches_total") - before < 8 * 32


def test_a_refusal_is_the_servers_own_words(target: LoadTarget) -> None:
    """Beside good answers, which it does not cost anything."""
    good = infer_payload(target, "mlp", {"x": np.ones((1, 4), np.float32)}, "binary")
    wrong = infer_payload(target, "mlp", {"x": np.ones((1, 5), np.float32)}, "binary")
    with Burst(target) as burst:
        replies = burst.ask([good, wrong, good])
    assert [reply.status for reply in replies] == [200, 400, 200]
    assert "[1, 5]" in replies[1].message


def test_a_connection_that_breaks_is_opened_anew() -> None:
    """No answer is status 0 with the reason, and so is a port where nothing listens."""

    async def hang_up(number, writer) -> None:
        writer.close()

    with scripted(hang_up) as rude, Burst(rude) as burst:
        for _ in range(2):
            reply = burst.ask([encode(rude, "POST", "/")])[0]
            assert reply.status == 0
            assert reply.message
    with Burst(rude) as burst:
        assert burst.ask([encode(rude, "POST", "/")])[0].status == 0
