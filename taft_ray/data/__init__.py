"""From any source to rows that are kept in a shard or rejected with a reason, and on to pixels. No torch, no ray.

Names are looked up when they are first used: a process that only asks for an option must not wait for what reads pictures.
"""

from typing import TYPE_CHECKING

from taft_ray.lazy import attributes

if TYPE_CHECKING:
    from taft_ray.data.classes import label_column, label_index, resolve_classes
    from taft_ray.data.decode import ORIENTATIONS, Undecodable, decode_image
    from taft_ray.data.keys import epoch_order, held_out, id_hash, owner_hash, sample_key, sample_keys, slice_of
    from taft_ray.data.manifest import (
        MANIFEST_SCHEMA,
        build_manifest,
        check_index,
        check_rejected,
        counts,
        place,
        reject,
    )
    from taft_ray.data.plan_reads import Stripe, read_stripe, stripes
    from taft_ray.data.sharding import GIVES_UP, METHODS, Method, assign
    from taft_ray.data.source_file import INDEX_SCHEMA, Source, SourceFile
    from taft_ray.data.sources import index_file, index_files, open_source, read_images
    from taft_ray.data.splits import place_of, with_split

__all__ = [
    "GIVES_UP",
    "INDEX_SCHEMA",
    "MANIFEST_SCHEMA",
    "METHODS",
    "ORIENTATIONS",
    "Method",
    "Source",
    "SourceFile",
    "Stripe",
    "Undecodable",
    "assign",
    "build_manifest",
    "check_index",
    "check_rejected",
    "counts",
    "decode_image",
    "epoch_order",
    "held_out",
    "id_hash",
    "index_file",
    "index_files",
    "label_column",
    "label_index",
    "open_source",
    "owner_hash",
    "place",
    "place_of",
    "read_images",
    "read_stripe",
    "reject",
    "resolve_classes",
    "sample_key",
    "sample_keys",
    "slice_of",
    "stripes",
    "with_split",
]

_WHERE = {
    "taft_ray.data.classes": (
        "label_column",
        "label_index",
        "resolve_classes",
    ),
    "taft_ray.data.decode": (
        "ORIENTATIONS",
        "Undecodable",
        "decode_image",
    ),
    "taft_ray.data.keys": (
        "epoch_order",
        "held_out",
        "id_hash",
        "owner_hash",
        "sample_key",
        "sample_keys",
        "slice_of",
    ),
    "taft_ray.data.manifest": (
        "MANIFEST_SCHEMA",
        "build_manifest",
        "check_index",
        "check_rejected",
        "counts",
        "place",
        "reject",
    ),
    "taft_ray.data.plan_reads": (
        "Stripe",
        "read_stripe",
        "stripes",
    ),
    "taft_ray.data.sharding": (
        "GIVES_UP",
        "METHODS",
        "Method",
        "assign",
    ),
    "taft_ray.data.source_file": (
        "INDEX_SCHEMA",
        "Source",
        "SourceFile",
    ),
    "taft_ray.data.sources": (
        "index_file",
        "index_files",
        "open_source",
        "read_images",
    ),
    "taft_ray.data.splits": (
        "place_of",
        "with_split",
    ),
}


__getattr__ = attributes(__name__, _WHERE)
