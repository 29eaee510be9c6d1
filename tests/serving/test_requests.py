"""Requests over HTTP: who is let in, what is too much, and that a hostile picture costs a 4xx and nothing else."""

import asyncio
import copy
import hashlib
import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from plain import plain_train
from plain_gateway import InProcess, multipart, requested
from plain_replica import LEASE, PlainReplica, begin_serving
from tiny import CLASSES, picture

from taft_ray.errors import UsageError
from taft_ray.serving.options import ServingOptions, Source, sources_of
from taft_ray.serving.requests import Refused, check_access, pictures_in, read_body, token_digests

TOKEN = "a-token-of-more-than-sixteen-characters"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, parquet: Path, spec_of: Callable[..., Any]) -> Path:
    run = tmp_path_factory.mktemp("requests") / "pets"
    plain_train(run, spec_of(parquet, trainable="head"))
    begin_serving(run)
    return run


@pytest.fixture
def handle(run: Path) -> Iterator[InProcess]:
    replica = PlainReplica(str(run)).poll()
    yield InProcess(replica)
    replica.replica.close()


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 2^30 pixels."""
    header = struct.pack(">IIBBBBB", 32_768, 32_768, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    framed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def test_answer_names_its_model_in_the_body_and_in_the_headers(handle: InProcess) -> None:
    answer = requested(handle, "POST", "/predict", picture(1))
    assert answer.status == 200
    assert answer.headers["X-Taft-Composed"] == answer.json["composed"]
    assert answer.headers["X-Taft-Ledger"] == str(answer.json["ledger"])
    assert answer.json["classes"] == list(CLASSES)
    (one,) = answer.json["predictions"]
    assert one["probability"] == max(one["probabilities"])
    assert sum(one["probabilities"]) == pytest.approx(1)


def test_pictures_of_a_form_are_answered_in_their_order(handle: InProcess) -> None:
    pictures = [picture(number) for number in range(5)]
    alone = [requested(handle, "POST", "/predict", one).json["predictions"][0] for one in pictures]
    body, headers = multipart(*pictures)
    for chunk in (7, 1 << 20):
        together = requested(handle, "POST", "/predict", body, headers=headers, chunk=chunk)
        assert together.json["predictions"] == alone


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (picture(1)[:200], "truncated picture"),
        (b"GIF89a", "not a picture"),
        (b"<html>not a picture</html>", "a web page, not a picture"),
        (bomb(), "too many pixels"),
        (bytes(1000), "not a picture"),
    ],
    ids=["truncated", "cut to its head", "page", "bomb", "zeros"],
)
def test_hostile_picture_costs_a_422_and_no_replica(handle: InProcess, hostile: bytes, reason: str) -> None:
    answer = requested(handle, "POST", "/predict", hostile)
    assert answer.status == 422
    assert answer.json["unreadable"] == [{"picture": 0, "reason": reason}]
    body, headers = multipart(picture(1), hostile)
    among = requested(handle, "POST", "/predict", body, headers=headers)
    assert (among.status, among.json["unreadable"]) == (422, [{"picture": 1, "reason": reason}])
    assert requested(handle, "POST", "/predict", picture(1)).status == 200


def test_limits_are_told_and_kept(handle: InProcess) -> None:
    def status(body: bytes, **more: Any) -> int:
        return requested(handle, "POST", "/predict", body, max_bytes=4000, max_pictures=2, **more).status

    assert status(bytes(4001)) == 413
    assert status(bytes(4001), declared=10) == 413, "whatever it declares"
    assert status(b"x", declared=10**12) == 413
    body, headers = multipart(b"a", b"b", b"c")
    assert status(body, headers=headers) == 413
    assert status(b"") == 400
    big = io.BytesIO()
    Image.new("RGB", (200, 200)).save(big, "PNG")
    assert status(big.getvalue()) == 200
    handle.replicas[0].most = 10_000
    answer = requested(handle, "POST", "/predict", big.getvalue())
    assert answer.json["unreadable"][0]["reason"] == "too many pixels"


def test_refusal_travels_between_processes() -> None:
    there = copy.copy(Refused(503, "ask again later"))  # by the way that a pickle takes, too
    assert (there.status, there.why, str(there)) == (503, "ask again later", "ask again later")


def test_body_that_is_too_long_is_not_read_to_its_end() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield bytes(1000)

    with pytest.raises(Refused, match="may have 10,000 bytes"):
        asyncio.run(read_body(endless(), "", 10_000))
    assert read == 11


def test_callers_without_a_token_are_refused(handle: InProcess) -> None:
    def status(caller: str = "10.0.0.9", token: str | None = None, **options: Any) -> int:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return requested(handle, "GET", "/model", caller=caller, headers=headers, **options).status

    assert status() == 403
    assert status(caller="127.0.0.1") == 200
    with_tokens: dict[str, Any] = {"tokens": (DIGEST, hashlib.sha256(b"another").hexdigest())}
    assert status(**with_tokens) == 401
    assert status(caller="127.0.0.1", **with_tokens) == 401
    assert status(token=TOKEN[:-1], **with_tokens) == 401
    assert status(token=TOKEN, **with_tokens) == 200
    assert requested(handle, "GET", "/healthz", caller="10.0.0.9", **with_tokens).status == 200
    with pytest.raises(Refused):
        check_access(f"Basic {TOKEN}", "10.0.0.9", (DIGEST,))


def test_token_file_has_a_token_per_line_and_no_short_one(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{TOKEN}\n\n{TOKEN}-2\n")
    assert token_digests(str(file))[0] == DIGEST
    assert TOKEN not in str(ServingOptions(tokens=token_digests(str(file))).to_json())
    for text, match in (("", "is empty"), ("short\n", "16 or more characters")):
        file.write_text(text)
        with pytest.raises(UsageError, match=match):
            token_digests(str(file))
    with pytest.raises(UsageError, match="cannot be read"):
        token_digests(str(tmp_path / "none"))


def test_model_and_health_tell_how_it_stands(handle: InProcess) -> None:
    told = requested(handle, "GET", "/model").json
    assert told["confirmed"] is True
    assert told["models"] == ["pets"]
    assert told["requests_open"] == 0
    assert requested(handle, "GET", "/healthz").json == {"ok": True}
    handle.replicas[0].clock.pass_by(LEASE + 1)
    assert requested(handle, "GET", "/healthz").status == 503
    late = requested(handle, "POST", "/predict", picture(1), drain=0.2)
    assert late.status == 503
    assert late.headers["Retry-After"] == "1"
    assert "cannot be answered" in late.json["error"]


def test_wrong_paths_and_methods_are_told(handle: InProcess) -> None:
    assert requested(handle, "GET", "/predict").status == 405
    assert requested(handle, "POST", "/model").status == 405
    assert requested(handle, "GET", "/").status == 404
    assert requested(handle, "POST", "/predict/dogs", picture(1)).status == 404
    assert requested(handle, "POST", "/predict/pets", picture(1)).status == 200


def test_another_replica_is_asked_where_one_is_dead_or_has_no_lease(run: Path) -> None:
    first = PlainReplica(str(run), name="first").poll()
    second = PlainReplica(str(run), name="second").poll()
    handle = InProcess(first, second)
    first.clock.pass_by(LEASE + 1)
    assert [requested(handle, "POST", "/predict", picture(1)).status for _ in range(3)] == [200] * 3
    handle.dead = {0}
    assert [requested(handle, "POST", "/predict", picture(1)).status for _ in range(3)] == [200] * 3
    handle.dead = {0, 1}
    assert requested(handle, "POST", "/predict", picture(1), drain=0.3).status == 503


def test_sources_say_their_names_owners_and_compositions(tmp_path: Path) -> None:
    found = sources_of([str(tmp_path / "pets"), f"cats={tmp_path}/x?owners=a,b", "s3://b/runs/k?compose=mean"])
    assert found == (
        Source("pets", str(tmp_path / "pets")),
        Source("cats", f"{tmp_path}/x", None, ("a", "b")),
        Source("k", "s3://b/runs/k", "mean"),
    )
    for wrong, match in (
        (["a/x", "b/x"], "two models are named x"),
        (["a?owner=b"], "owner is not known"),
        (["a?compose=sum"], "expected one of"),
        (["a?compose=mean&owners=b"], "is the additive one"),
        ([], "no run to serve"),
    ):
        with pytest.raises(UsageError, match=match):
            sources_of(wrong)
    for values, match in (({"lease": 0}, "0 < lease"), ({"replicas": 0}, "replicas >= 1"), ({"leese": 1}, "leese")):
        with pytest.raises(UsageError, match=match):
            ServingOptions.of(values)


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_any_contents_come_out_of_a_form_as_they_went_in(contents: list[bytes]) -> None:
    body, headers = multipart(*contents, boundary="b0undary-that-is-in-no-content")
    assert pictures_in(body, headers["Content-Type"], 5) == contents


@settings(max_examples=300)
@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_body_is_parsed_or_refused(noise: bytes, cut: int) -> None:
    body, headers = multipart(b"one", noise)
    for hostile in (noise, body[:cut], noise + body[cut:], body[:cut] + noise):
        try:
            parts = len(pictures_in(hostile, headers["Content-Type"], 5))
            status = 200
        except Refused as error:
            parts, status = 0, error.status
        assert (status, parts) in [(200, n) for n in range(1, 6)] + [(400, 0), (413, 0)]
