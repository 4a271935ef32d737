"""Headless Chromium for tests of pages: opened from disk, offline, with whatever it logs and asks the network for.

A test module makes a fixture of it, one browser for all of its tests::

    @pytest.fixture(scope="module")
    def browser(request):
        with launched(request) as browser:
            yield browser

Where there is no Chromium, no chromedriver or no selenium, such tests are skipped with the reason; with the option
``--require-browser`` they fail.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # Chromium has none for root
    "--disable-dev-shm-usage",  # a container's /dev/shm is small
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # offline: no name of a host is known
)
SECONDS = 120
"""After how long a script in a page has failed."""


class Browser:
    """A browser with one page at a time.

    Arguments:
        driver: Selenium's driver of it.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a page from disk, after forgetting all that was logged before.

        Arguments:
            path: The page.
            fragment: What follows ``#`` in its address.
        """
        self.driver.get("about:blank")  # else another fragment alone would not load the page anew
        self.logged("browser"), self.logged("performance")
        self.driver.get(Path(path).absolute().as_uri() + (f"#{fragment}" if fragment else ""))

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns; ``arguments[0]`` and so on are what it was given.

        Arguments:
            script: The body of a function.
            *arguments: What it is given.
        """
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, *arguments: Any) -> Any:
        """The first thing that a script returns which is not null, false, 0 or empty, asked again until it does."""
        asked = (
            "const arrived = arguments[arguments.length - 1]; const given = [...arguments].slice(0, -1);"
            f"const ask = () => {{ const found = (function () {{ {script} }}).apply(null, given);"
            "if (found) arrived(found); else setTimeout(ask, 20); }; ask();"
        )
        return self.driver.execute_async_script(asked, *arguments)

    def resize(self, width: int, height: int) -> None:
        """Give the page so many pixels, also fewer than a window can have, as a telephone has."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str) -> None:
        """Let the user prefer a scheme of colours, ``light`` or ``dark``."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, path: Path) -> None:
        """Write what is seen as a PNG file."""
        self.driver.save_screenshot(str(path))

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last call, ``browser`` for the console, ``performance`` for the network."""
        return list(self.driver.get_log(kind))

    def errors(self) -> list[str]:
        """Errors and warnings of the page's console since it was opened, or since the last call."""
        return [entry["message"] for entry in self.logged("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was opened, refused ones too, itself left out."""
        messages = [json.loads(entry["message"])["message"] for entry in self.logged("performance")]
        sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        asked = [each["request"]["url"] for each in sent if each.get("type") != "Document"]
        return [url for url in asked if not url.startswith(("data:", "blob:", "about:"))]


@contextmanager
def launched(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """A browser for the time of a block; the test is skipped, or fails, where there is none.

    Arguments:
        request: The fixture's request, whose option ``--require-browser`` decides between the two.
    """
    if missing := _missing():
        if request.config.getoption("--require-browser", default=False):
            pytest.fail(f"--require-browser: {missing}")
        pytest.skip(reason=f"a page is tested in a browser: {missing}")
    driver = _driver()
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def _missing() -> str | None:
    """What is not installed of what a browser's test needs."""
    if _chromium() is None:
        return "no Chromium is installed"
    if shutil.which("chromedriver") is None:
        return "chromedriver is not installed"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    return None


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def _driver() -> Any:
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = _chromium() or ""
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))  # no other one is looked for
    driver.set_script_timeout(SECONDS)
    return driver
