"""Take the pictures of the live page that the guide shows, from a real server under an even load.

    .venv/bin/python -m scripts.live_pictures [FOLDER]

Needs Debian's chromium, takes a minute and a half, and is for a machine that does nothing else: the page shows what
the server does. Writes live.png (light, the upper part), live-dark.png (the whole page) and live-narrow.png (a phone).
"""

import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
from tests.browser import CHROMIUM, browsing
from tests.servers import serving

from tailcut.lab.client import open_loop
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import infer_payload
from tailcut.models import digits_data, digits_model

PICTURES = Path(__file__).parent.parent / "docs/guide/images"
RATE, LOADED_S, SHOWN_S = 400.0, 85.0, 70.0


def main() -> None:
    """Serve, load, look."""
    if CHROMIUM is None:
        sys.exit("chromium is not installed: apt install chromium")
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(digits_data()) as data:
        images = np.array(data["image"])
    with (
        tempfile.TemporaryDirectory() as own,
        serving(Path(own), digits_model(), "--slo", "20ms") as server,
        browsing(Path(own)) as page,
    ):
        target = LoadTarget(server.host, server.port)
        payloads = [infer_payload(target, "digits", {"image": image[None]}, "binary") for image in images[:32]]
        load = partial(open_loop, target, payloads, rate=RATE, duration_s=LOADED_S)
        thread = threading.Thread(target=load)
        thread.start()
        page.size(1280, 1000)
        page.open(f"{server.url}/")
        time.sleep(SHOWN_S)
        page.prefer("light")
        page.picture(folder / "live.png", whole=False)
        page.prefer("dark")
        page.picture(folder / "live-dark.png")
        page.size(400, 900, mobile=True)
        page.picture(folder / "live-narrow.png", whole=False)
        thread.join()
        if page.problems:
            sys.exit("\n".join(page.problems))


if __name__ == "__main__":
    main()
