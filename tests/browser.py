"""A page as a browser shows it: Debian's chromium, without a window."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from forcenet_md.evaluation.page import POLICY

CHROMIUM = shutil.which("chromium-headless-shell")  # the one with windows has none below 500 px
needed = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no browser: apt-get install --no-install-recommends chromium-headless-shell",
)
OPTIONS = "--no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars"
WIDTHS = 1000, 400  # px: on a desk, on a telephone
HEIGHT = 4000  # px
LOOK = """<script nonce="look">addEventListener("load", () => {
  let seen = document.createElement("pre");
  seen.id = "seen";
  seen.textContent = JSON.stringify({
    "images": Array.from(document.images, image => image.naturalWidth),
    "widest": document.documentElement.scrollWidth,
    "text": document.body.innerText,
  });
  document.body.append(seen);
})</script></body>"""


@dataclass(frozen=True)
class Seen:
    """images: px, their widths, 0 of one that is broken; widest: px, of what does not scroll by
    itself; text: as it is read; console: what the browser had to say, as of everything that the
    page's policy forbids, which is to fetch and to run anything; picture: [height, width] greys."""

    images: list[int]
    widest: int
    text: str
    console: list[str]
    picture: NDArray[np.float64]


def assert_whole(page: Path, folder: Path, images: int, words: str) -> None:
    """A page that asks for nothing and shows so many images, and words; at no width is its
    beginning blank, or anything out of sight."""
    for width in WIDTHS:
        seen = look(page, folder, width)
        assert seen.console == []
        assert len(seen.images) >= images
        assert min(seen.images) > 100
        assert words in seen.text
        assert seen.widest <= width  # what is wider scrolls in a place of its own
        assert seen.picture.shape == (HEIGHT, width)
        for part in seen.picture[:1200].reshape(4, 300, width):
            assert part.std() > 5.0


def look(page: Path, folder: Path, width: int) -> Seen:
    """A copy of the page, which tells of itself by the one script that it may run."""
    told = page.read_text()
    assert POLICY in told
    told = told.replace(POLICY, f"{POLICY}; script-src 'nonce-look'").replace("</body>", LOOK)
    copy, picture = folder / "copy.html", folder / f"{page.stem}-{width}.png"
    copy.write_text(told)
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS.split(), "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={folder / 'browser'}", f"--window-size={width},{HEIGHT}"]
    command += ["--enable-logging=stderr", f"--screenshot={picture}", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-1000:]
    return Seen(
        **json.loads(html.unescape(found[1])),
        console=[line for line in done.stderr.splitlines() if ":CONSOLE" in line],
        picture=np.asarray(Image.open(picture).convert("L"), float),
    )
