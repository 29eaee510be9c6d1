"""Everything that is kept, and how it is checked: objects, ledger, activation cache, deltas, checkpoints, manifest, run folder."""

from taft_ray.storage.beside import strangers_beside
from taft_ray.storage.cache import CachePart, PartRef, read_part, read_several, rewrite_part, write_part
from taft_ray.storage.checkpoints import CheckpointRef, read_checkpoint, write_checkpoint
from taft_ray.storage.copies import sweep_copies
from taft_ray.storage.deltas import DeltaRef, read_delta, write_delta
from taft_ray.storage.digest import canonical_json, digest_bytes, digest_json, digest_tensors
from taft_ray.storage.json_text import MALFORMED, json_object, parse_json
from taft_ray.storage.kept_facts import KeptReleases, KeptReservations
from taft_ray.storage.ledger import Entry, Ledger, entry_key
from taft_ray.storage.manifest import (
    Manifest,
    extend_rows,
    filled,
    point_manifest,
    read_manifest,
    read_pointer,
    read_rows,
    rewrite_rows,
    write_again,
    write_manifest,
    write_rows,
)
from taft_ray.storage.objects import ObjectInfo, Store
from taft_ray.storage.rundir import id_key, read_spec, write_spec
from taft_ray.storage.tombstones import Tombstones
from taft_ray.storage.versions import Erasure

__all__ = [
    "MALFORMED",
    "CachePart",
    "CheckpointRef",
    "DeltaRef",
    "Entry",
    "Erasure",
    "KeptReleases",
    "KeptReservations",
    "Ledger",
    "Manifest",
    "ObjectInfo",
    "PartRef",
    "Store",
    "Tombstones",
    "canonical_json",
    "digest_bytes",
    "digest_json",
    "digest_tensors",
    "entry_key",
    "extend_rows",
    "filled",
    "id_key",
    "json_object",
    "parse_json",
    "point_manifest",
    "read_checkpoint",
    "read_delta",
    "read_manifest",
    "read_part",
    "read_pointer",
    "read_rows",
    "read_several",
    "read_spec",
    "rewrite_part",
    "rewrite_rows",
    "strangers_beside",
    "sweep_copies",
    "write_again",
    "write_checkpoint",
    "write_delta",
    "write_manifest",
    "write_part",
    "write_rows",
    "write_spec",
]
