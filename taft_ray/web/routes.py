"""The pages by their addresses: a request in, a response out. No socket, so that a test can ask."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from taft_ray.errors import ObjectMissing, TaftError
from taft_ray.log import logger_of
from taft_ray.pages import certificate_page
from taft_ray.pages.document import POLICY as OF_A_FILE
from taft_ray.pages.live.request_pages import Asked, error_page, forget_page, job_page, request_page, token_page
from taft_ray.pages.live.run_page import owners_page, run_page, runs_page
from taft_ray.plans.forget import MODES
from taft_ray.plans.state import RequestState
from taft_ray.proof.certificate import open_certificate
from taft_ray.proof.signature import with_signature
from taft_ray.storage import digest_bytes
from taft_ray.storage import rundir as names
from taft_ray.storage.ledger import entry_key
from taft_ray.web.access import Access
from taft_ray.web.document import document, owners
from taft_ray.web.forgetting import Forgets
from taft_ray.web.reading import UNREADABLE, Reading, Readings, told

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
ENTRIES = 500  # of the ledger in one answer
_REQUEST = re.compile(r"[0-9a-f]{8,64}")
_log = logger_of(__name__)


@dataclass(frozen=True)
class Request:
    """method, and the target with its query. headers: names in lower case. form: of a POST."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, int]:
        """The whole numbers of the query; anything else is left out."""
        pairs = parse_qs(urlsplit(self.target).query, max_num_fields=20)
        return {
            name: int(values[-1]) for name, values in pairs.items() if values[-1].isdecimal() and len(values[-1]) < 16
        }


@dataclass(frozen=True)
class Response:
    """A whole answer."""

    status: int
    body: bytes
    kind: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


def _html(page: str, status: int = 200, **headers: str) -> Response:
    return Response(status, page.encode(), headers=headers)


def _json(value: Any) -> Response:
    return Response(200, json.dumps(value).encode(), "application/json")


def _refused(status: int, heading: str, why: str) -> Response:
    return _html(error_page(heading, why), status)


def _missing(what: str) -> Response:
    return _refused(404, "Not here", what)


def _moved(where: str, **headers: str) -> Response:
    return Response(303, b"", headers={"Location": where, **headers})


@cache
def static(name: str) -> Response | None:
    """A file of the package; None where there is none of that name."""
    folder = files("taft_ray.pages") / "templates"
    known = {
        "page.css": (("style.css", "live.css"), "text/css; charset=utf-8"),
        "page.js": (("page.js",), "text/javascript; charset=utf-8"),
        "check.js": (("check.js",), "text/javascript; charset=utf-8"),
    }
    if name not in known:
        return None
    parts, kind = known[name]
    return Response(200, b"".join((folder / one).read_bytes() for one in parts), kind)


class _NotHere(Exception):
    """There is no such page, and why."""


class Site:
    """The pages of the runs below a place. forgets: None keeps it read-only."""

    def __init__(self, readings: Readings, access: Access, forgets: Forgets | None = None) -> None:
        self.readings, self.access, self.forgets = readings, access, forgets
        self._gets: list[tuple[re.Pattern[str], Callable[..., Response]]] = [
            (re.compile(pattern), action)
            for pattern, action in (
                (r"/", self._runs),
                (r"/runs\.json", self._runs_json),
                (r"/runs/([0-9a-f]{16})", self._run),
                (r"/runs/([0-9a-f]{16})\.json", self._run_json),
                (r"/runs/([0-9a-f]{16})/owners", self._owners),
                (r"/runs/([0-9a-f]{16})/ledger", self._ledger),
                (r"/runs/([0-9a-f]{16})/requests/([0-9a-f]{8,64})", self._request),
                (
                    r"/runs/([0-9a-f]{16})/certificates/([0-9a-f]{8,64})(\.json|\.signature\.json|\.html)",
                    self._certificate,
                ),
                (r"/runs/([0-9a-f]{16})/forget", self._form),
                (r"/runs/([0-9a-f]{16})/forget/([0-9a-f]{16})", self._job),
            )
        ]

    def answer(self, request: Request) -> Response:
        """The answer to a request; never an exception."""
        try:
            return self._answered(request)
        except _NotHere as error:
            return _missing(str(error))
        except UNREADABLE as error:
            return _refused(503, "Cannot be read", told(error))
        except Exception:  # a fault of this program: its words may name what nobody should see
            _log.exception("a page could not be made")
            return _refused(500, "A fault of this page", "the program's log has the reason")

    def allowed(self, request: Request) -> Response | None:
        """Why a request is refused whatever it asks for; None where it is not."""
        if not self.access.is_known_host(request.headers.get("host", "")):
            return _refused(
                421, "Another name", "this page answers to this machine's own names alone, such as localhost"
            )
        if not self.access.allows(request.headers):
            return _html(token_page(), 401, **{"WWW-Authenticate": 'Bearer realm="taft-ray page"'})
        return None

    def events_of(self, request: Request) -> Callable[[], str] | None:
        """A function whose text changes when the page behind an address of events does; None for any other address."""
        if request.path == "/events":
            return self._all_seen
        found = re.fullmatch(r"/runs/([0-9a-f]{16})/events", request.path)
        reading = self.readings.find(found[1]) if found else None
        return None if reading is None else lambda: self._seen(reading)

    def _all_seen(self) -> str:
        return digest_bytes("|".join(one.head() for one in self.readings.all()).encode("utf-8", "replace"))[:32]

    def _seen(self, reading: Reading) -> str:
        jobs = "" if self.forgets is None else self.forgets.version(reading.store.uri)
        return digest_bytes(f"{reading.head()}|{jobs}".encode("utf-8", "replace"))[:32]

    def _answered(self, request: Request) -> Response:
        name = request.path.removeprefix("/static/")
        if name != request.path and request.method == "GET":
            return static(name) or _missing("there is no such file")
        if (
            request.path == "/token"
            and request.method == "POST"
            and self.access.is_known_host(request.headers.get("host", ""))
        ):
            return self._token(request)
        refused = self.allowed(request)
        if refused is not None:
            return refused
        if request.method == "POST":
            return self._posted(request)
        if request.method != "GET":
            return _refused(405, "Not so", "this page knows GET and POST")
        for pattern, action in self._gets:
            if found := pattern.fullmatch(request.path):
                return action(request, *found.groups())
        return _missing("there is no such page")

    # --- pages

    def _runs_told(self) -> dict[str, Any]:
        return {"place": self.readings.place.uri, "runs": [one.summary() for one in self.readings.all()]}

    def _runs(self, request: Request) -> Response:
        seen = self._all_seen()
        return _html(runs_page(self._runs_told(), seen))

    def _runs_json(self, request: Request) -> Response:
        return _json(self._runs_told())

    def _found(self, name: str) -> Reading:
        reading = self.readings.find(name)
        if reading is None:
            raise _NotHere("there is no such run below this place")
        return reading

    def _run(self, request: Request, name: str) -> Response:
        reading = self._found(name)
        seen, may = self._seen(reading), self.forgets is not None
        return _html(run_page(document(reading), request.query, seen=seen, may_forget=may))

    def _run_json(self, request: Request, name: str) -> Response:
        return _json(document(self._found(name)))

    def _owners(self, request: Request, name: str) -> Response:
        reading = self._found(name)
        return _html(owners_page(document(reading), owners(reading), request.query))

    def _ledger(self, request: Request, name: str) -> Response:
        """Entries as they are stored, one per line; none behind the newest."""
        store, first = self._found(name).store, request.query.get("from", 0)
        lines: list[bytes] = []
        for number in range(first, first + ENTRIES):
            try:
                lines.append(store.read(entry_key(number)))
            except ObjectMissing:
                break
        return Response(200, b"\n".join(lines), "application/x-ndjson")

    def _request(self, request: Request, name: str, asked: str) -> Response:
        reading = self._found(name)
        seen, made = self._seen(reading), document(reading)
        every = made.get("requests", {}).get("all", [])
        at = next((n for n, one in enumerate(every) if one["request"] == asked), None)
        if at is None:
            return _missing("this run has no such request")
        certificate = None
        if every[at]["certificate"] is not None:
            try:
                key = every[at]["certificate"]["key"]
                certificate = open_certificate(reading.store.read(key), key)[0]
            except UNREADABLE:
                certificate = None  # the browser's check says what is wrong with it
        return _html(request_page(made, at, certificate, seen))

    def _certificate(self, request: Request, name: str, asked: str, form: str) -> Response:
        reading, known = self._found(name), None
        try:
            with reading.lock:
                known = reading.record().state.requests.get(asked)
            key = None if known is None else _key_of(known, form)
        except UNREADABLE:  # the stored bytes are shown all the same, and the browser's check says what does not hold
            if form == ".html":
                raise
            key = _listed(reading, asked, form)
        if key is None:
            raise _NotHere("this run has no such certificate")
        data = reading.store.read(key)
        if form != ".html":
            return Response(200, data, "application/json")
        assert known is not None
        made = with_signature(open_certificate(data, key)[0], known)
        policy = {"Content-Security-Policy": f"{OF_A_FILE}; frame-ancestors 'none'"}
        return Response(200, certificate_page(made, key).encode(), headers=policy)

    # --- forms

    def _token(self, request: Request) -> Response:
        secure = request.headers.get("x-forwarded-proto") == "https"
        cookie = self.access.begin(request.form.get("token", ""), secure=secure)
        if cookie is None:
            return _html(token_page("This is not the token."), 401)
        return _moved("/", **{"Set-Cookie": cookie})

    def _forgets(self) -> Forgets:
        if self.forgets is None:
            raise _NotHere("this page is read-only: taft-ray page --allow-forget --token-file FILE adds the form")
        return self.forgets

    def _csrf(self, request: Request) -> str:
        session = self.access.session(request.headers)
        return "" if session is None else self.access.csrf(session)

    def _form(self, request: Request, name: str) -> Response:
        self._forgets()
        return _html(forget_page(_named(self._found(name)), self._csrf(request), MODES, Asked()))

    def _job(self, request: Request, name: str, job: str) -> Response:
        reading = self._found(name)
        found = self._forgets().job(reading.store.uri, job)
        if found is None:
            return _missing("no such forget was begun on this page since it was started")
        seen, every = self._seen(reading), document(reading).get("requests", {}).get("all", [])
        known = next((one for one in every if one["request"] == found.request), None)
        if known is None and found.state == "running":  # the newest that is open is most likely this one's
            known = next((one for one in reversed(every) if one["certificate"] is None and not one["waiting"]), None)
        return _html(job_page(_named(reading), found.to_json(), known, seen))

    def _posted(self, request: Request) -> Response:
        found = re.fullmatch(r"/runs/([0-9a-f]{16})/forget(/confirm)?", request.path)
        if found is None:
            return _missing("nothing can be sent there")
        forgets, reading = self._forgets(), self._found(found[1])
        session = self.access.session(request.headers)
        if session is None or not self.access.is_own_form(session, request.form.get("csrf", ""), request.headers):
            return _refused(
                403, "Not from here", "a form counts where this page's own form in a session of yours sent it"
            )
        return self._confirmed(request, forgets, reading) if found[2] else self._estimated(request, forgets, reading)

    def _estimated(self, request: Request, forgets: Forgets, reading: Reading) -> Response:
        form = request.form
        asked = Asked(form.get("ids", ""), form.get("mode", ""), form.get("deadline", "").strip())
        run, csrf = _named(reading), self._csrf(request)
        try:
            name, plan = forgets.plan(reading.store.uri, asked)
        except TaftError as error:
            return _html(forget_page(run, csrf, MODES, asked, problem=str(error)), 400)
        return _html(
            forget_page(run, csrf, MODES, Asked(mode=asked.mode), estimate=plan.estimate, told=plan.told, plan=name)
        )

    def _confirmed(self, request: Request, forgets: Forgets, reading: Reading) -> Response:
        run, csrf, name = _named(reading), self._csrf(request), request.form.get("plan", "")
        try:
            job = forgets.begin(reading.store.uri, name, request.form.get("count", ""))
        except TaftError as error:
            try:
                plan = forgets.planned(reading.store.uri, name)
            except TaftError:
                return _html(forget_page(run, csrf, MODES, Asked(), problem=str(error)), 400)
            again = forget_page(
                run, csrf, MODES, Asked(), estimate=plan.estimate, told=plan.told, plan=name, problem=str(error)
            )
            return _html(again, 400)
        return _moved(f"/runs/{reading.name}/forget/{job.name}")


def _key_of(request: RequestState, form: str) -> str | None:
    if form == ".signature.json":
        return None if request.signed is None else request.signed.key
    return None if request.forgotten is None else request.forgotten.certificate.key


def _listed(reading: Reading, asked: str, form: str) -> str | None:
    """Where the certificate, or its signature, lies in a run whose ledger cannot be read."""
    beside = names.signature_key(asked)
    if form == ".signature.json":
        return beside if reading.store.exists(beside) else None
    found = (one.key for one in reading.store.list(f"{names.CERTIFICATES_FOLDER}/{asked}-"))
    return next((key for key in found if key != beside), None)


def _named(reading: Reading) -> dict[str, str]:
    return {"name": reading.name, "run": reading.store.uri}
