"""Debian's chromium, driven headless: it sees what the pages do, log and ask for."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

PROGRAMS = ("chromium", "chromedriver")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1280,900"),
)


class Browser:
    """One window."""

    keys = Keys

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def open(self, page: Path, *, dark: bool = False, width: int = 1280) -> None:
        """Show a page anew."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.media("", dark=dark)
        self._driver.get("about:blank")
        self._driver.get(page.as_uri())

    def media(self, kind: str, *, dark: bool = False) -> None:
        """Pretend to be paper ("print") or a screen, in a light or a dark system."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", media=kind, features=[scheme])

    def command(self, name: str, **values: Any) -> Any:
        return self._driver.execute_cdp_cmd(name, values)

    def run(self, script: str, *values: Any) -> Any:
        return self._driver.execute_script(script, *values)

    def all(self, selector: str) -> list[Any]:
        return self._driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self._driver.find_element("css selector", selector)

    def style(self, selector: str, name: str) -> str:
        """The computed style of the first that there is."""
        script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        return str(self.run(script, selector, name))

    def press(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        for key in keys:
            self._driver.switch_to.active_element.send_keys(key)

    def press_tab(self) -> None:
        """Move the focus on, as the keyboard does."""
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab",
                         windowsVirtualKeyCode=9)  # fmt: skip

    def pdf(self) -> bytes:
        """The page on A4."""
        printed = self.command("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(printed["data"])

    def said(self) -> list[str]:
        """What the console said since the last call."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def asked_for(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        events = [json.loads(e["message"])["message"] for e in self._driver.get_log("performance")]
        return [
            e["params"]["request"]["url"] for e in events
            if e["method"] == "Network.requestWillBeSent"
        ]  # fmt: skip


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile in a folder."""
    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service(str(shutil.which("chromedriver")))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
