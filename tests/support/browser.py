"""A headless Chromium that a test drives as a person does: addresses, forms, keys; by its protocol over two pipes.

Every message of the console and every exception of a page is kept, so that a test can say that there was none.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chromium import BROWSER

_WITH_PIPES = """
import fcntl, os, sys
far = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]]
os.dup2(far[0], 3)
os.dup2(far[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""  # the protocol's pipes are the descriptors 3 and 4


class Browser:
    """One page. errors: what its console said that is an error or a warning, and its exceptions."""

    def __init__(self, sent: int, got: int) -> None:
        self._sent, self._got, self._rest, self._number = sent, got, b"", 0
        self.errors: list[str] = []
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol to the page: its result."""
        return self._call(method, params, self._session)

    def _call(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self._sent, json.dumps(message).encode() + b"\0")
        while True:
            got = self._read(60)
            if got.get("id") == self._number:
                assert "error" not in got, got
                return got["result"]

    def _read(self, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._got], [], [], max(0.0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._got, 1 << 20)
            assert data, "Chromium has ended"
            self._rest += data
        one, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(one)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url')}")
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str(params["args"]))

    def go(self, url: str) -> None:
        """Open an address, and wait until it is there."""
        self.ask("window.left = true")
        found = self.call("Page.navigate", url=url)
        assert "errorText" not in found, found
        self.until("!window.left && document.readyState === 'complete'")

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> Any:
        """Wait until an expression is true; its value."""
        until = time.monotonic() + seconds
        while not (value := self.ask(f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()")):
            assert time.monotonic() < until, (expression, self.ask("document.body.innerText"))
            time.sleep(0.05)
        return value

    def text(self, selector: str = "main") -> str:
        """The text of a part, as it is seen."""
        return self.until(f"document.querySelector({json.dumps(selector)}).innerText", 5)

    def type(self, selector: str, text: str) -> None:
        """Put the focus on a field and type."""
        self.ask(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def press(self, selector: str) -> None:
        """Press a button, and wait for the page that it leads to."""
        self.ask(f"window.left = true; document.querySelector({json.dumps(selector)}).click()")
        self.until("!window.left && document.readyState === 'complete'")

    def key(self, name: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """A window of that size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def picture(self, file: Path) -> None:
        """A PNG of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")["data"]
        file.write_bytes(base64.b64decode(data))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A Chromium with a profile in ``folder``; it ends with the block."""
    assert BROWSER is not None
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    line = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
        f"--user-data-dir={folder / 'profile'}", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", _WITH_PIPES, str(theirs_in), str(theirs_out), *line],
        pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_out, ours_in)
    finally:
        os.close(ours_out)
        os.close(ours_in)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
