"""A page of a report, opened in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


class Seen:
    """A page, with what it said and asked for."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.page = browser.new_page(**settings)
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def strangers(self) -> list[str]:
        """Requests for anything but the file and the pictures in it."""
        return [url for url in self.requests if not url.startswith(("file:", "data:image/png"))]

    def grave_faults(self) -> list[str]:
        """Rules of accessibility that axe finds seriously broken."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
        found = axe.Axe().run(self.page).response["violations"]
        return [one["id"] for one in found if one["impact"] in ("serious", "critical")]
