"""Credentials stay where they are: in no message, traceback, repr, log, pickle or stored object."""

import logging
import pickle  # noqa: TID251 - it is what Ray does with a store
import traceback
from collections.abc import Callable

import pytest
from s3_server import ACCESS_KEY, READER_KEY, READER_SECRET, SECRET_KEY

from taft_ray.errors import StorageError, TaftError, UsageError
from taft_ray.storage import Ledger, Store, write_spec

WRONG = "wrong-secret+of-this-test"
SECRETS = (ACCESS_KEY, SECRET_KEY, READER_KEY, READER_SECRET, WRONG)


def said(call: Callable[[], object]) -> str:
    """All that an error of `call` can tell: message, repr, the traceback with every cause; "" when there is none."""
    try:
        call()
    except TaftError as error:
        return "".join([str(error), repr(error), *traceback.format_exception(error)])
    return ""


def stores(s3_uri: str) -> dict[str, Store]:
    return {
        "right": Store(s3_uri),
        "wrong secret": Store(s3_uri, key=ACCESS_KEY, secret=WRONG),
        "wrong key": Store(s3_uri, key=WRONG, secret=SECRET_KEY),
        "may only read": Store(s3_uri, key=READER_KEY, secret=READER_SECRET),
        "nested": Store(s3_uri, client_kwargs={"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": WRONG}),
    }


def calls(store: Store) -> list[Callable[[], object]]:
    return [
        lambda: store.write("x", b"1"),
        lambda: store.create("y", b"1"),
        lambda: store.read("x"),
        lambda: store.read("nothing"),
        lambda: store.exists("x"),
        lambda: store.list(),
        lambda: store.fetch("x"),
        lambda: store.remaining(["x"]),
        lambda: store.traces(),
        lambda: store.erase(["x"]),
        lambda: write_spec(store, {"shards": 3}),
        lambda: Ledger(store).append("kind", {"a": 1}, op="op"),
    ]


def test_no_credential_in_what_a_store_says(s3_uri: str, caplog: pytest.LogCaptureFixture, capfd) -> None:
    caplog.set_level(logging.INFO)
    failed = set()
    for name, store in stores(s3_uri).items():
        texts = [said(call) for call in calls(store)]
        if name != "right":
            failed.add(name)
            assert sum(map(bool, texts)) >= (3 if name == "may only read" else len(texts) - 1), name
        texts += [repr(store), str(store), store.uri]
        for secret in SECRETS:
            assert not any(secret in text for text in texts), name
    out, err = capfd.readouterr()
    for secret in SECRETS:
        assert secret not in out + err + caplog.text
    direct = Store(s3_uri)
    kept = [direct.read(info.key) for info in direct.list()]
    assert len(kept) >= 3
    assert not any(secret.encode() in data for secret in SECRETS for data in kept)


def test_erasures_name_no_credential(s3_uri: str) -> None:
    reader = Store(s3_uri, key=READER_KEY, secret=READER_SECRET)
    Store(s3_uri).write("x", b"1")
    with pytest.raises(StorageError) as caught:
        reader.erase(["x"])
    assert READER_KEY not in str(caught.value)


def test_a_store_with_credentials_is_not_pickled(s3_uri: str) -> None:
    for store in (
        Store(s3_uri, key=ACCESS_KEY, secret=SECRET_KEY),
        Store(s3_uri, client_kwargs={"aws_session_token": WRONG}),
        Store(f"ftp://user:{WRONG}@host/run"),
    ):
        with pytest.raises(UsageError, match="environment") as caught:
            pickle.dumps(store)
        assert not any(secret in str(caught.value) for secret in SECRETS)


def test_a_pickled_store_has_no_credential_and_uses_those_of_its_process(s3_uri: str) -> None:
    store = Store(s3_uri, config_kwargs={"max_pool_connections": 4})
    store.write("x", b"1")
    pickled = pickle.dumps(store)
    assert not any(secret.encode() in pickled for secret in SECRETS)
    assert pickle.loads(pickled).read("x") == b"1"


def test_a_refused_uri_is_named_without_its_user() -> None:
    assert WRONG not in said(lambda: Store(f"simplecache::ftp://user:{WRONG}@host/run"))
    assert "***@host" in said(lambda: Store("simplecache::ftp://user:pass@host/run"))
