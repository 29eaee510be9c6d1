"""The meaning of a backend's error: the cause, the fix, whether to try again, and whether a commit may have happened.

Every backend (the operating system, fsspec, botocore) raises its own classes. Here they become
`taft_ray.errors.StorageError` with one message form: what was done to which URI, the cause, the fix.

Guarantees: no message contains a credential (the AWS environment, the store's options, a URI's user part).
"""

import asyncio
import errno
import os
import re
from collections.abc import Iterable, Iterator

from taft_ray.errors import ObjectMissing, StorageError

SECRET_ENVIRONMENT = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SECRET_OPTIONS = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)

_AGAIN = "then run the same command again"
_DISK_FULL = f"the disk is full; free space there, {_AGAIN}"
_QUOTA = f"the disk quota is used up; free space or raise the quota, {_AGAIN}"
_DENIED = f"permission denied; give this user read and write access there, {_AGAIN}"
_READ_ONLY = f"the file system is read-only; choose another folder or mount it writable, {_AGAIN}"
_NO_CREDENTIALS = (
    "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
    "or give the machine a role"
)
_REFUSED_CREDENTIALS = (
    "the credentials were refused; renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)"
)
_UNREACHABLE = f"the storage cannot be reached; check the network and AWS_ENDPOINT_URL, {_AGAIN}"
_TIMED_OUT = f"the storage did not answer in time; check that it is healthy, {_AGAIN}"
_BUSY = f"the storage is overloaded or failing; wait, {_AGAIN}"
_NO_BUCKET = f"the bucket does not exist; create it or correct the URI, {_AGAIN}"
_NOT_A_FOLDER = "a file stands where a folder is needed (or the other way round); choose another folder"
_NO_SUPPORT = "this kind of storage cannot do it; use a local folder, s3:// or memory://"

_BY_ERRNO = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _QUOTA,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _READ_ONLY,
    errno.ENOTDIR: _NOT_A_FOLDER,
    errno.EISDIR: _NOT_A_FOLDER,
}
_BY_CODE = {
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": _REFUSED_CREDENTIALS,
    "SignatureDoesNotMatch": _REFUSED_CREDENTIALS,
    "ExpiredToken": _REFUSED_CREDENTIALS,
    "InvalidToken": _REFUSED_CREDENTIALS,
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it (NTP)",
    "NoSuchBucket": _NO_BUCKET,
    "QuotaExceeded": _QUOTA,
    "InsufficientStorage": _DISK_FULL,
    "507": _DISK_FULL,
}
_TRANSIENT_CODES = frozenset(
    [
        "SlowDown",
        "ServiceUnavailable",
        "InternalError",
        "RequestTimeout",
        "ConditionalRequestConflict",
        "OperationAborted",
        "409",
        "500",
        "502",
        "503",
        "504",
    ]
)
# answers by which the server says that it did not do what was asked
_REFUSALS = frozenset(("SlowDown", "ConditionalRequestConflict", "OperationAborted", "409"))
_TRANSIENT_CLASSES = frozenset(
    (
        "HTTPClientError",
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ProxyConnectionError",
        "IncompleteRead",
        "FSTimeoutError",
        "ResponseParserError",
        "ClientPayloadError",
    )
)


def redact(text: str, options: object = None) -> str:
    """`text` without credentials: the AWS environment's, those among `options` (storage options), a URI's user part."""
    secrets = [os.environ.get(name, "") for name in SECRET_ENVIRONMENT] + list(secrets_in(options))
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"//[^/@\s]+@", "//***@", text)


def secrets_in(options: object) -> Iterator[str]:
    """The values among storage options whose names say that they are credentials."""
    if isinstance(options, dict):
        for name, value in options.items():
            if isinstance(value, str) and SECRET_OPTIONS.search(str(name)):
                yield value
            else:
                yield from secrets_in(value)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was made from, outermost first."""
    seen: set[int] = set()
    next_error: BaseException | None = error
    while next_error is not None and id(next_error) not in seen:
        seen.add(id(next_error))
        yield next_error
        next_error = next_error.__cause__


def _class_names(error: BaseException) -> Iterable[str]:
    # by name, so that botocore and aiohttp need not be imported to handle a local run
    return [cls.__name__ for cls in type(error).__mro__]


def server_code(error: BaseException) -> str:
    """The S3 error code of an answer from the server, or "" when no answer came."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            code = response.get("Error", {}).get("Code", "")
            return str(code or response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    return ""


def is_lost_race(error: BaseException) -> bool:
    """Whether a create-if-absent was answered: it is already there."""
    return isinstance(error, FileExistsError) or server_code(error) in ("PreconditionFailed", "412")


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later: overload, a timeout, a broken connection."""
    code = server_code(error)
    if code:
        return code in _TRANSIENT_CODES
    return any(
        isinstance(cause, (ConnectionError, TimeoutError, asyncio.TimeoutError))
        or not _TRANSIENT_CLASSES.isdisjoint(_class_names(cause))
        for cause in _causes(error)
    )


def is_passing(code: str) -> bool:
    """`is_transient` for a bare error code, as S3 gives one for each key of a request ("": no answer came)."""
    return not code or code in _TRANSIENT_CODES


def is_without_effect(error: BaseException) -> bool:
    """Whether a failed write certainly did not happen: refused by the server, or no connection was ever made."""
    code = server_code(error)
    if code:
        return code in _REFUSALS or code not in _TRANSIENT_CODES
    return not is_transient(error) or is_unconnected(error)


def is_unconnected(error: BaseException) -> bool:
    """Whether no connection to the server was ever made."""
    # aiobotocore's EndpointConnectionError also stands for a connection broken in the middle: look at what caused it
    for cause in _causes(error):
        inner = getattr(cause, "kwargs", {}).get("error") if isinstance(getattr(cause, "kwargs", None), dict) else None
        for candidate in (cause, inner):
            names = _class_names(candidate) if isinstance(candidate, BaseException) else ()
            if any(n in ("ConnectTimeoutError", "ClientConnectorError", "gaierror") for n in names):
                return True
    return False


def _cause(error: BaseException) -> str:
    names = {name for cause in _causes(error) for name in _class_names(cause)}
    code = server_code(error)
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code in _TRANSIENT_CODES:
        return _BUSY
    if names & {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError"}:
        return _NO_CREDENTIALS
    if names & {"ReadTimeoutError", "FSTimeoutError"}:
        return _TIMED_OUT
    if is_transient(error):
        return _UNREACHABLE
    if isinstance(error, NotImplementedError):
        return _NO_SUPPORT
    if isinstance(error, OSError) and error.errno in _BY_ERRNO:
        return _BY_ERRNO[error.errno]
    if isinstance(error, PermissionError):
        return _DENIED
    return "the storage refused"


def reason(error: BaseException) -> str:
    """The cause in a few words, with S3's code, without advice: for a sentence in a report."""
    code = server_code(error)
    return _cause(error).partition(";")[0] + (f", {code}" if code else "")


def storage_error(error: BaseException, doing: str, uri: str, options: object = None) -> StorageError:
    """The error to raise for a backend's `error`, met while `doing` (a verb and a key) in the store at `uri`.

    `ObjectMissing` when the object is not there (a missing bucket is a plain `StorageError`).
    """
    if isinstance(error, FileNotFoundError) and server_code(error) != "NoSuchBucket":
        return ObjectMissing(redact(f"cannot {doing} in {uri}: there is no such object", options))
    lines = str(error).strip().splitlines()
    got = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return StorageError(redact(f"cannot {doing} in {uri}: {_cause(error)} (got {got[:300]})", options))
