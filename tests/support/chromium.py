"""A page looked at in headless Chromium: what lies outside the window, what is cut off, and what lies on what.

The page is shown in a frame, whose width is the page's window: a window itself cannot be as narrow as a phone.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")

_LOOK = """
<script>
function hidden(node) {  // for the eye: a table's head on a phone
  const head = node.closest("thead");
  return head !== null && getComputedStyle(head).clipPath !== "none";
}
function seen(node) {
  const box = node.getBoundingClientRect();
  return box.width > 1 && box.height > 1 && !hidden(node);
}
function named(node) { return node.tagName.toLowerCase() + ": " + node.textContent.trim().slice(0, 40); }
function turned(node) {  // its box is larger than its letters
  const by = /rotate\\((-?[\\d.]+)/.exec((node.closest("[transform]") || node).getAttribute("transform") || "");
  return by !== null && Number(by[1]) !== 0;
}
function texts(page) {
  const found = [], walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.data.trim() || ["STYLE", "TITLE"].includes(node.parentElement.tagName)) continue;
    if (hidden(node.parentElement)) continue;
    const range = page.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects())
      if (box.width > 1 && box.height > 1) found.push({box, name: node.data.trim().slice(0, 40), rotated: turned(node.parentElement)});
  }
  return found;
}
function look(frame) {
  const page = frame.contentDocument, width = frame.clientWidth, outside = [], cut = [], over = [];
  for (const one of page.querySelectorAll("details")) one.open = true;
  for (const node of page.querySelectorAll("main *")) {
    if (!seen(node)) continue;
    const box = node.getBoundingClientRect();
    if (box.right > width + 1 || box.left < -1) outside.push(named(node));
    if (node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).overflowX !== "visible") cut.push(named(node));
  }
  const all = texts(page).sort((a, b) => a.box.top - b.box.top);
  for (let i = 0; i < all.length; i++)
    for (let j = i + 1; j < all.length && all[j].box.top < all[i].box.bottom - 4; j++) {
      const a = all[i].box, b = all[j].box;
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left), down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 2 && down > 4 && !all[i].rotated && !all[j].rotated) over.push(all[i].name + " | " + all[j].name);
    }
  return {width, page: page.documentElement.scrollWidth, outside, cut, over, height: page.documentElement.scrollHeight};
}
window.onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(look);
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script>
"""


def looked_at(page: str, folder: Path, widths: tuple[int, ...] = (400, 1200, 1600)) -> list[dict[str, Any]]:
    """For each width: {"width", "page", "outside", "cut", "over", "height"}; every part that is folded away is opened."""
    frames = "\n".join(_frame(page, width, 2000) for width in widths)
    file = folder / "looked.html"
    file.write_text(f'<!doctype html><meta charset="utf-8"><body>{frames}<pre id="found"></pre>{_LOOK}')
    dom = _run(file.resolve().as_uri(), folder, "--dump-dom")
    answer = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert answer is not None
    assert answer.group(1), "Chromium did not come to an end"
    return json.loads(html.unescape(answer.group(1)))


def screenshot(page: str, picture: Path, width: int, height: int) -> None:
    """A PNG of the page in a window of that size."""
    file = picture.with_suffix(".frame.html")
    file.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin:0">{_frame(page, width, height)}')
    address, size = file.resolve().as_uri(), f"--window-size={max(width, 500)},{height}"
    _run(address, file.parent, f"--screenshot={picture}", size)
    file.unlink()


def shown(file: Path, query: str, folder: Path) -> str:
    """The DOM of a page that is opened as a file with a query, once its scripts have run; the profile goes into the folder."""
    return _run(f"{file.resolve().as_uri()}?{query}", folder, "--dump-dom")


def _frame(page: str, width: int, height: int) -> str:
    return f'<iframe style="border:0;width:{width}px;height:{height}px" srcdoc="{html.escape(page)}"></iframe>'


def _run(address: str, folder: Path, *options: str) -> str:
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-prefers-reduced-motion",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", *options, address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
