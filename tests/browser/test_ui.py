"""What a person sees: the demo in the Dagster UI and its files in a browser."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.support.process import running
from tests.support.s3 import free_port

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
SHOTS = Path(os.environ.get("GENBLAZE_SHOTS", ROOT / "tests" / ".shots"))
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Demo:
    """A finished demo and the environment in which Dagster shows it."""

    report: dict[str, object]
    env: dict[str, str]
    store: Path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    # A picture for the README is taken of a folder whose name means something to its readers.
    named = os.environ.get("GENBLAZE_SHOTS_DEMO")
    folder = Path(named) if named else tmp_path_factory.mktemp("demo")
    answer = subprocess.run(
        [Path(sys.executable).with_name("genblaze-dagster"), "demo", "--dir", folder, "--json"],
        capture_output=True,
        check=True,
        timeout=300,
        cwd=ROOT,
    )
    env = {
        "DAGSTER_HOME": str(folder / "dagster"),
        "GENBLAZE_STORE": (folder / "store").as_uri(),
        "GENBLAZE_LEDGER": f"sqlite:///{folder / 'ledger.db'}",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    return Demo(json.loads(answer.stdout), env, folder / "store")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program is not None, "install Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def webserver(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = tmp_path_factory.mktemp("webserver") / "log.txt"
    program = str(Path(sys.executable).with_name("dagster-webserver"))
    command = [program, "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    with running(command, env=demo.env, cwd=ROOT, log=log) as process:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(f"{url}/server_info", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        else:
            raise AssertionError(f"the webserver was not ready: {log.read_text()}")
        yield url


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1500, "height": 1250})
    yield opened
    opened.close()


def visit(page: Page, url: str) -> None:
    page.goto(url)
    skip = page.get_by_role("button", name="Skip")
    # Only the first visit of a profile greets with a dialog.
    with contextlib.suppress(PlaywrightTimeout):
        skip.wait_for(timeout=4000)
        skip.click()


def test_the_asset_page_shows_preview_hash_and_partitions(
    webserver: str, page: Page, demo: Demo
) -> None:
    """A picture's page has an inline preview, sha256, model, and every partition green."""
    visit(page, f"{webserver}/assets/demo/image?view=partitions&partition=aurora")
    row = next(
        a for a in demo.report["assets"] if (a["asset"], a["partition"]) == ("demo/image", "aurora")
    )
    expect(page.get_by_text(row["sha256"]).first).to_be_visible(timeout=60_000)
    expect(page.get_by_text("local-image").first).to_be_visible()
    preview = page.locator("img[src^='data:image/']").first
    expect(preview).to_be_visible()
    assert preview.evaluate("image => image.naturalWidth") > 0
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(1000)
    page.screenshot(path=SHOTS / "asset.png")


def test_the_lineage_shows_three_assets_of_the_demo(webserver: str, page: Page) -> None:
    """Image and audio lead to video in the asset graph."""
    visit(page, f"{webserver}/asset-groups/")
    for name in ("image", "audio", "video"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible(timeout=60_000)
    page.wait_for_timeout(1500)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "lineage.png")


def test_a_browser_plays_every_kind_of_file(page: Page, demo: Demo) -> None:
    """Chromium decodes the demo's PNG, audio and MP4 with the sizes and durations recorded."""
    files = {
        a["asset"].removeprefix("demo/"): Path(a["url"].removeprefix("file://"))
        for a in demo.report["assets"]
        if a["partition"] == "reef"
    }
    html = demo.store.parent / "check.html"
    html.write_text(
        f"<img id=i src='{files['image'].as_uri()}'>"
        f"<audio id=a preload=auto src='{files['audio'].as_uri()}'></audio>"
        f"<video id=v preload=auto muted src='{files['video'].as_uri()}'></video>"
    )
    page.goto(html.as_uri())
    page.wait_for_function(
        "['a', 'v'].every(id => document.getElementById(id).readyState >= 2)", timeout=20_000
    )
    assert page.evaluate("[i.naturalWidth, i.naturalHeight]") == [512, 512]
    assert page.evaluate("a.duration") == pytest.approx(3.0, abs=0.1)
    assert page.evaluate("v.duration") == pytest.approx(3.0, abs=0.1)
    assert page.evaluate("v.videoWidth") > 0
    page.evaluate("v.play()")
    page.wait_for_function("v.currentTime > 0.3", timeout=10_000)
    html.unlink()
