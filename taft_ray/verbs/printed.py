"""A page printed as PDF by Chromium, where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_MOST_S = 120.0


def print_pdf(page: Path, file: Path) -> str | None:
    """Print ``page``, an HTML file, as ``file``; None when it was, else why it was not."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        return "Chromium is not installed here"
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={profile}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # root has none; the page has no script and asks for nothing
            f"--print-to-pdf={file.resolve()}", page.resolve().as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_MOST_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{Path(browser).name} did not print it ({type(error).__name__})"
    if done.returncode or not file.is_file() or not file.stat().st_size:
        file.unlink(missing_ok=True)
        return f"{Path(browser).name} ended with status {done.returncode} and printed nothing"
    return None
