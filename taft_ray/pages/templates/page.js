"use strict";
// Keeps a page as it is on the server: after an event it fetches itself again, and exchanges the parts marked data-live.
(() => {
  const said = document.getElementById("live"), where = document.body.dataset.events;
  if (!where) return;
  let busy = false, again = false;

  function shown(text) { if (said.textContent !== text) said.textContent = text; }
  function hasFocus(part) {
    const at = document.activeElement;
    return part.contains(at) && at.matches("input, select, textarea");
  }
  function exchange(old, fresh) {
    if (old.innerHTML === fresh.innerHTML || hasFocus(old)) return;
    const open = [...old.querySelectorAll("details")].map((one) => one.open);
    const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    old.replaceChildren(...fresh.childNodes);
    [...old.querySelectorAll("details")].forEach((one, at) => { if (open[at]) one.open = true; });
    if (focused) [...old.querySelectorAll("a")].find((one) => one.getAttribute("href") === focused)?.focus();
  }
  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected || !answer.ok) { location.reload(); return; }
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const next = fresh.getElementById(part.id);
        if (next) exchange(part, document.importNode(next, true));
      }
      shown(`changed ${new Date().toLocaleTimeString()}`);
    } catch { shown("not reached: trying again"); }
    busy = false;
    if (again) { again = false; refresh(); }
  }
  const events = new EventSource(where);
  events.onopen = () => shown("live");
  events.onerror = () => shown("not reached: trying again");
  events.onmessage = refresh;
  addEventListener("pagehide", () => events.close());
})();
