"""Where the tests' browser comes from: the system's, as Playwright's own would be a download of its own."""

from __future__ import annotations

import os
import shutil

from playwright.sync_api import Browser, Playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def start(playwright: Playwright) -> Browser | None:
    """None where no Chromium is installed."""
    if CHROMIUM is None:
        return None
    # As root, as in most containers, Chromium starts without its sandbox only.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
