"""The page at `/`, in a real browser, of real gateways and replicas."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_samples import GatewayThread, model, routes
from real_server import SMALL, RealServer
from serving_samples import encoded, pixels, write_classifier

PATIENCE = 30.0
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
CLASSES = [f"kind <{number}>" for number in range(10)]
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], "image.png", { type: "image/png" }));
document.getElementById("drop").dispatchEvent(
  new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
"""
BARS = """
return document.getElementById("answer").hidden ? [] : [...document.querySelectorAll("#bars li")].map((row) => [
  Number(row.dataset.index), Number(row.dataset.score), row.querySelector(".name").textContent,
  row.querySelector(".bar").style.width]);
"""


class Browser:
    """Headless Chromium by the WebDriver protocol (w3.org/TR/webdriver2)."""

    def __init__(self, folder: Path) -> None:
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0", "--allowed-ips="],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
        )
        assert self._driver.stdout is not None
        port = next(
            found[1] for line in self._driver.stdout if (found := re.search(r"successfully on port (\d+)", line))
        )
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=2 * PATIENCE)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session = ""
        try:
            self._session = self._call("post", "/session", {"capabilities": {"alwaysMatch": options}})["sessionId"]
        except BaseException:
            self.close()
            raise

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        where = f"/session/{self._session}{path}" if self._session else path
        answer = self._client.request(method.upper(), where, json=body).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def open(self, url: str) -> None:
        self._call("post", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        return self._call("post", "/execute/sync", {"script": script, "args": list(arguments)})

    def type(self, selector: str, text: str) -> None:
        found = self._call("post", "/element", {"using": "css selector", "value": selector})
        self._call("post", f"/element/{found[ELEMENT]}/value", {"text": text})

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def wait_for(self, look: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if found := look():
                return found
        raise AssertionError(f"it never came true; the page says {self.text('body')!r}")

    def complaints(self) -> list[str]:
        """What went to the console as an error: violations of the policy among it."""
        entries = self._call("post", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def close(self) -> None:
        if self._session:
            self._call("delete", "")
        self._client.close()
        self._driver.terminate()
        self._driver.wait()
        assert self._driver.stdout is not None
        self._driver.stdout.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if shutil.which("chromedriver") is None or shutil.which("chromium") is None:
        pytest.skip("Chromium and chromedriver (Debian: chromium-driver) are not installed")
    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("served")
    write_classifier(folder / "package", classes=CLASSES)
    made = RealServer(folder)
    made.repository.publish("fashion", folder / "package")
    made.server.deploy("fashion", replicas=1, resources=SMALL)
    yield made
    made.close()


def test_an_image_that_is_dropped_or_chosen_becomes_bars(browser: Browser, served: RealServer, tmp_path: Path) -> None:
    browser.open(served.url)
    browser.wait_for(lambda: "ready" in browser.text("#models"))
    shown = browser.text("#models")
    assert "fashion" in shown
    assert "AVAILABLE" in shown
    images = [encoded(image) for image in pixels(2)]
    answers = []
    for number, image in enumerate(images):
        body = {"instances": [{"image_bytes": {"b64": b64encode(image).decode()}}]}
        answers.append(httpx.post(f"{served.url}/v1/models/fashion:predict", json=body).json()["predictions"][0])
        if number == 0:
            browser.run(DROP, b64encode(image).decode())
        else:
            (tmp_path / "image.png").write_bytes(image)
            browser.type("#file", str(tmp_path / "image.png"))
        best = max(answers[-1])
        bars = browser.wait_for(lambda best=best: [bar for bar in browser.run(BARS) if browser.run(BARS)[0][1] == best])
        assert {index: score for index, score, _name, _width in bars} == dict(enumerate(answers[-1]))
        assert [name for _index, _score, name, _width in bars] == [CLASSES[index] for index, *_rest in bars]
        assert [score for _index, score, *_rest in bars] == sorted(answers[-1], reverse=True)
        for _index, score, _name, width in bars:
            assert float(width.rstrip("%")) == pytest.approx(100 * score, abs=0.01)
    browser.wait_for(lambda: re.search(r"[1-9]\d*\.\d requests/s|0\.[1-9] requests/s", browser.text("#models")))
    assert browser.complaints() == []


def test_what_is_no_image_is_said_to_be_none(browser: Browser, served: RealServer) -> None:
    browser.open(served.url)
    browser.wait_for(lambda: browser.run("return document.getElementById('model').options.length"))
    browser.run(DROP, b64encode(b"nonsense").decode())
    said = browser.wait_for(lambda: [text for text in [browser.text("#said")] if "Instance" in text])
    assert "8 bytes given that are not a complete PNG" in said[0]
    assert browser.run(BARS) == []


def test_what_a_person_reads_next_is_linked(browser: Browser, served: RealServer) -> None:
    browser.open(served.url)
    browser.wait_for(lambda: "ready" in browser.text("#models"))
    links = browser.run("return [...document.querySelectorAll('a')].map((link) => link.href)")
    assert sorted(link.removeprefix(served.url) for link in links) == [
        "/metrics",
        "/openapi.json",
        "/v1/models/fashion/metadata",
    ]
    assert [httpx.get(link).status_code for link in links] == [200] * 3


def test_a_service_that_went_away_is_not_shown_as_if_it_were_there(browser: Browser) -> None:
    gateway = GatewayThread()
    gateway.apply(routes(model("gone", [], state="AVAILABLE")))
    try:
        browser.open(f"http://127.0.0.1:{gateway.port}/")
        browser.wait_for(lambda: "AVAILABLE; requests wait for a replica" in browser.text("#models"))
        assert browser.text("#trouble") == ""
    finally:
        gateway.close()
    said = browser.wait_for(lambda: browser.text("#trouble"))
    assert re.search(r"does not answer .*What is shown is of \d", said)
    assert "gone" in browser.text("#models")
    assert float(browser.run("return getComputedStyle(document.getElementById('models')).opacity")) < 1
    browser.complaints()  # that nobody answered is among them, and is taken away


def test_a_person_sees_what_loads_what_failed_and_what_an_ensemble_is_made_of(browser: Browser) -> None:
    gateway = GatewayThread()
    ended = model("bad", [], state="END", error="'shop:Bad' could not load: ValueError: empty")
    try:
        browser.open(f"http://127.0.0.1:{gateway.port}/")
        browser.wait_for(lambda: browser.text("#models") == "No model is served yet.")
        gateway.apply(routes(ended, model("slow", [], state="LOADING")))
        browser.wait_for(lambda: "slow loading" in browser.text("#models"))
        assert "bad failed" in browser.text("#models")
        assert "END: 'shop:Bad' could not load: ValueError: empty" in browser.text("#models")
        assert "no requests lately" in browser.text("#models")
    finally:
        gateway.close()
    browser.complaints()


def test_the_page_runs_and_loads_nothing_but_its_own(gateway: GatewayThread) -> None:
    answer = httpx.get(f"http://127.0.0.1:{gateway.port}/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"].startswith("'sha256-")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not re.search(r"""(src|<link[^>]*href)=["'](?!data:)|url\(|https?://|@import""", answer.text)
    head = httpx.head(f"http://127.0.0.1:{gateway.port}/")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.content))
    assert len(answer.content) < 16_000
    assert httpx.post(f"http://127.0.0.1:{gateway.port}/").status_code == 405


def test_the_status_counts_requests_and_names_every_version(gateway: GatewayThread) -> None:
    gateway.apply(routes(model("m", [], state="LOADING", timeout=0.05)))
    url = f"http://127.0.0.1:{gateway.port}"
    assert httpx.post(f"{url}/v1/models/m:predict", json={"instances": [[1, 2]]}).status_code == 503
    (found,) = httpx.get(f"{url}/ganglion/status").json()["models"]
    assert found["requests"] == {"503": 1}
    assert sum(found["seconds"]["counts"]) == 1
    assert found["ready"] is False
    assert [version["state"] for version in found["versions"]] == ["LOADING"]
