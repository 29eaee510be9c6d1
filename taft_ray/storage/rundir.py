"""The run folder: the key of everything in it, the immutable spec, and the secret of the sample ids."""

import re
import secrets
from collections.abc import Mapping
from typing import Any

from taft_ray.errors import CommitConflict, CommitUnknown, IntegrityError, ObjectMissing, SpecMismatch
from taft_ray.storage import ledger, manifest
from taft_ray.storage.digest import SIZE, canonical_json, digest_bytes, digest_json
from taft_ray.storage.json_text import MALFORMED, parse_json
from taft_ray.storage.objects import Store

SPEC_KEY = "run.json"
ID_KEY = "keys/id.key"
NOISE_FOLDER = "keys/noise"
BASE_FOLDER = "base"
WHITENING_KEY = f"{BASE_FOLDER}/whitening.safetensors"
MANIFEST_FOLDER = manifest.FOLDER
MANIFEST_ROWS = manifest.ROWS
CACHE_FOLDER = "cache"
DELTAS_FOLDER = "deltas"
MONOLITH_FOLDER = f"{DELTAS_FOLDER}/monolith"
CHECKPOINTS_FOLDER = "checkpoints"
LEDGER_FOLDER = ledger.FOLDER
COMPOSED_FOLDER = "composed"
EVAL_FOLDER = "eval"
CERTIFICATES_FOLDER = "certificates"
REPORTS_FOLDER = "reports"
SERVING_FOLDER = "serving"
OUTCOMES_FOLDER = "outcomes"
WAITING_FOLDER = f"{REPORTS_FOLDER}/waiting"
TURN_KEY = f"{REPORTS_FOLDER}/turn.json"
REJECTED_LISTS = f"{REPORTS_FOLDER}/rejected"
"""What the keys of lists of rejected rows start with."""

SECRET_BYTES = 32
_ATTEMPTS = 3


def shard_prefix(shard: int, generation: int = 1) -> str:
    """Where the cache parts of a shard lie: ``cache/shard=00017``; those that a purge rewrote, a folder a generation below."""
    return _of_generation(f"{CACHE_FOLDER}/shard={shard:05d}", generation)


def _of_generation(first: str, generation: int) -> str:
    return first if generation == 1 else f"{first}/generation={generation:06d}"


def part_generation(key: str) -> int:
    """The generation of the shard for which a cache part or a slice checkpoint was written."""
    found = re.search(r"/generation=(\d+)/", key)
    return int(found[1]) if found else 1


def part_of(key: str) -> tuple[int, int] | None:
    """The shard and the number of a cache part; None for what is not named like one."""
    found = re.fullmatch(rf"{CACHE_FOLDER}/shard=(\d+)/(?:generation=\d+/)?part-(\d+)-[0-9a-f]+\.arrow", key)
    return (int(found[1]), int(found[2])) if found else None


def shard_of(key: str) -> int | None:
    """The shard in whose folder an object lies; None for what lies in none."""
    found = re.search(r"/shard=(\d+)/", key)
    return int(found[1]) if found else None


def delta_generation(key: str) -> int:
    """The generation of a delta; 0 for what is not named like one."""
    found = re.match(r"(\d+)-", key.rpartition("/")[2])
    return int(found[1]) if found else 0


def manifest_version(key: str) -> int:
    """How many purges had rewritten the manifest of these rows."""
    return manifest.version_of(key) or 0


def delta_folder(shard: int) -> str:
    """Where the deltas of a shard lie: ``deltas/shard=00017``."""
    return f"{DELTAS_FOLDER}/shard={shard:05d}"


def checkpoint_folder(shard: int, generation: int = 1) -> str:
    """Where the slice checkpoints of a shard lie: ``checkpoints/shard=00017``; later generations' in folders below."""
    return _of_generation(f"{CHECKPOINTS_FOLDER}/shard={shard:05d}", generation)


def noise_folder(shard: int) -> str:
    """Where the keys of a private shard's noise lie: ``keys/noise/shard=00017``."""
    return f"{NOISE_FOLDER}/shard={shard:05d}"


def noise_generation(key: str) -> int:
    """The generation of a shard whose noise has this key; 0 for what is not named like one."""
    return delta_generation(key)


def new_noise_key(store: Store, shard: int, generation: int) -> tuple[str, bytes]:
    """Write 32 new random bytes for the noise of a shard's generation: where, and the bytes."""
    secret = secrets.token_bytes(SECRET_BYTES)
    at = f"{noise_folder(shard)}/{generation:06d}-{digest_bytes(secret)[:16]}.key"
    store.create(at, secret + bytes.fromhex(digest_bytes(secret)))
    return at, secret


def eval_prefix(data_name: str) -> str:
    """Where the cache parts of evaluation data lie; its name (a URI, say) is written only as a digest."""
    return f"{EVAL_FOLDER}/{digest_bytes(data_name.encode())[:16]}"


def composed_key(digest: str) -> str:
    """The key of a snapshot of a composed model."""
    return f"{COMPOSED_FOLDER}/{digest}.safetensors"


def certificate_key(request: str, digest: str) -> str:
    """The key of the certificate of a forget request: named by content, for two writers may each write one."""
    return f"{CERTIFICATES_FOLDER}/{request}-{digest[:16]}.json"


def signature_key(request: str) -> str:
    """The key of the signature beside a certificate."""
    return f"{CERTIFICATES_FOLDER}/{request}.signature.json"


def report_key(name: str) -> str:
    """The key of a report's file."""
    return f"{REPORTS_FOLDER}/{name}"


def outcome_key(verb: str, number: int, digest: str) -> str:
    """The key of a verb's outcome, of the ledger entry of this number and digest: ``outcomes/verify-000042-1f0c9a77.json``."""
    return f"{OUTCOMES_FOLDER}/{verb}-{number:06d}-{digest[:8]}.json"


def outcome_of(key: str) -> tuple[str, int, str] | None:
    """The verb, the entry's number and the beginning of its digest of an outcome; None for what is not named like one."""
    found = re.fullmatch(rf"{OUTCOMES_FOLDER}/([a-z]+(?:-[a-z]+)*)-(\d{{6,}})-([0-9a-f]{{8}})\.json", key)
    return (found[1], int(found[2]), found[3]) if found else None


def read_spec(store: Store) -> dict[str, Any] | None:
    """The run's spec, None when there is no run here; `IntegrityError` if a byte of it differs."""
    try:
        data = store.read(SPEC_KEY)
    except ObjectMissing:
        return None
    where = f"{SPEC_KEY} in {store.uri}"
    document = _open(data, where)
    return document["spec"]


def _open(data: bytes, where: str) -> dict[str, Any]:
    try:
        document = parse_json(data)
        intact = set(document) == {"spec", "digest"} and data == _spec_document(document["spec"])
    except MALFORMED as error:
        raise IntegrityError(f"{where} is damaged: not the JSON that was written; restore it from a copy") from error
    if not intact:
        raise IntegrityError(
            f"{where} is damaged: its spec does not have the digest recorded in it; restore it from a copy"
        )
    return document


def _spec_document(spec: Mapping[str, Any]) -> bytes:
    return canonical_json({"spec": spec, "digest": digest_json(spec)})


def write_spec(store: Store, spec: Mapping[str, Any]) -> None:
    """Make this folder a run of `spec` (JSON). The same spec again changes nothing; another raises `SpecMismatch`."""
    data = _spec_document(spec)
    if _created(store, SPEC_KEY, data):
        return
    there = read_spec(store)
    if there is None:
        raise CommitUnknown(f"{SPEC_KEY} in {store.uri} was there and is not any more; run it again")
    if _spec_document(there) != data:
        wanted = parse_json(data)["spec"]
        differ = sorted(n for n in {*there, *wanted} if there.get(n) != wanted.get(n) or (n in there) != (n in wanted))
        advice = "choose another folder"
        if not any(store.list(MANIFEST_FOLDER)):  # its reading-in was refused, was cut off, or goes on
            advice = "nothing was read in yet: remove the folder, or choose another"
            if any(store.list(CACHE_FOLDER)):
                advice = "run it again with the options it was begun with, or choose another folder"
        raise SpecMismatch(f"{store.uri} is a run with another spec. It differs in {differ}; {advice}")


def id_key(store: Store, create: bool) -> bytes:
    """The run's secret: 32 random bytes, kept with their digest; made once if `create`, whoever calls how often.

    Raises `ObjectMissing` when it is not there (never made, or destroyed), `IntegrityError` when it was changed.
    """
    try:
        return read_secret(store, ID_KEY)
    except ObjectMissing:
        if not create:
            raise
    secret = secrets.token_bytes(SECRET_BYTES)
    if _created(store, ID_KEY, secret + bytes.fromhex(digest_bytes(secret))):
        return secret
    return read_secret(store, ID_KEY)


def _created(store: Store, key: str, data: bytes) -> bool:
    """Put the object unless there is one; whether it was put by this call. When it returns, one is there.

    `CommitUnknown` when storage hides each time what became of it.
    """
    for attempt in range(_ATTEMPTS):
        try:
            store.create(key, data)
            return True
        except CommitConflict:
            return False
        except CommitUnknown:
            # a create repeated cannot replace what the first one, late, may still put
            if store.exists(key):
                return False
            if attempt + 1 == _ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def read_secret(store: Store, at: str) -> bytes:
    """The 32 bytes that are kept at this key; ObjectMissing where there are none, IntegrityError where they were changed."""
    data = store.read(at)
    secret, check = data[:SECRET_BYTES], data[SECRET_BYTES:]
    if len(check) != SIZE or digest_bytes(secret) != check.hex():
        raise IntegrityError(f"{at} in {store.uri} is damaged: it does not have its digest; restore it from a copy")
    return secret
