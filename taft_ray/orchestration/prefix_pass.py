"""The prefix pass through Ray Data: index tasks, reading tasks, decoders beside GPUs, and a pool of actors that write parts.

files → index (tasks) → manifest (driver) → stripes → read (tasks) → decode (tasks; on CPUs the next actor)
    → prefix (actor pool) → parts in storage
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError

from taft_ray.data import SourceFile, Stripe, index_files
from taft_ray.orchestration.calls import own_error
from taft_ray.orchestration.metrics import count
from taft_ray.orchestration.places import has_room
from taft_ray.orchestration.pulse import beating, looked_after, new_group, with_pulse
from taft_ray.orchestration.waiting import told_while
from taft_ray.plans.lane_resources import ANYWHERE, LaneResources
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.part_writer import PartWriter
from taft_ray.prefix.passes import Passes
from taft_ray.prefix.pictures import Decode, index_chunk, read_parts
from taft_ray.run.model import load_for

PARTS_A_CALL = 6  # parts whose pictures share forward passes, so that little is padded
FILES_A_TASK = 256
# A pass must never wait for what waits for it. Its actors hold their cores while reading tasks come and go. So the actors of any
# number of runs must leave room for reading. PREFIX_SHARE, more than a third, lets 3 c - 1 of them on c cores, and leaves 0.33.
# Lanes that start beside the pass (LANE_SHARE each) idle until it ends, so that the shares of one core add up to less than 1.
# Reading's and decoding's differ, for Ray Data makes one task of two that want the same: a stripe would have one decoder.
READ_SHARE = 0.1
DECODE_SHARE = 0.5  # of decoders for a GPU: some of these processes always wait for a part
CALLS_AT_ONCE = 2  # of an actor: one decodes and has the prefix while the other hashes and writes


def _own_words() -> ray.data.DataContext:
    """Ray Data's context, told to be silent and patient: neither progress nor a plan, and our own errors as they are.

    Its log would tell an error before it is raised, with a traceback. Importing ray.data sets the level of that log, so that it
    cannot be set once for all.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = -1  # a place may come after hours; a stopped worker is ended (`pulse`)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return context


@dataclass(frozen=True)
class _Beating:
    """A function of a task, which gives signs of life meanwhile."""

    work: Callable[[Any], Any]
    group: str

    def __call__(self, batch: Any) -> Iterator[pa.Table]:
        with beating(self.group):
            answer = self.work(batch)
            yield from answer if isinstance(answer, Iterator) else (answer,)


@dataclass(frozen=True)
class RayPasses:
    """`prefix.passes.Passes`, through Ray Data. per_lane: what each worker with a network takes."""

    per_lane: LaneResources = ANYWHERE

    def index(self, files: Sequence[SourceFile]) -> pa.Table:
        """Indexed by tasks, many files each."""
        chunks = [list(files[at : at + FILES_A_TASK]) for at in range(0, len(files), FILES_A_TASK)]
        if len(chunks) == 1:
            return index_files(chunks[0])
        _own_words()
        group = new_group("pass")
        indexed = ray.data.from_items(
            [{"files": chunk} for chunk in chunks], override_num_blocks=len(chunks)
        ).map_batches(_Beating(index_chunk, group), batch_size=1, zero_copy_batch=True)
        with looked_after("the index", group, closes=True):
            tables = list(indexed.iter_batches(batch_size=None, batch_format="pyarrow"))
        return pa.concat_tables(tables).cast(index_files(chunks[0][:1]).schema)

    def parts(
        self, pieces: Sequence[Stripe], run: str, spec: RunSpec, classes: int, folders: str, workers: int
    ) -> Iterator[dict[str, Any]]:
        size = load_for(spec).preprocess.size
        on_gpu, taken = spec.device == "cuda", self.per_lane.for_pass(spec)
        calls = -(-sum(len(piece.parts) for piece in pieces) // PARTS_A_CALL)
        workers = min(workers, calls)  # an actor that gets no call would still be started, and waited for
        context, group = _own_words(), new_group("pass")
        # a part is a block: larger ones would pass through one decoder and one actor, however many there are
        context.target_max_block_size = 1
        dataset = ray.data.from_items(
            [{"stripe": piece} for piece in pieces], override_num_blocks=len(pieces)
        ).map_batches(_Beating(read_parts, group), batch_size=1, num_cpus=READ_SHARE)
        # beside a GPU cores have little else to do; beside forward passes on the same cores the actor decodes for itself
        if on_gpu:
            dataset = dataset.map_batches(
                _Beating(Decode(size, spec.exif_orientation), group),
                batch_size=1,
                batch_format="pyarrow",
                zero_copy_batch=True,
                num_cpus=DECODE_SHARE,
            )
        dataset = dataset.map_batches(
            with_pulse(PartWriter, group),
            fn_constructor_args=(run, classes, folders),
            batch_size=PARTS_A_CALL,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(
                min_size=1 if on_gpu else workers,  # the pass begins with the first GPU
                max_size=workers,
                max_concurrent_calls_per_actor=CALLS_AT_ONCE,
                enable_true_multi_threading=True,
            ),
            **taken,
        )
        came = False

        def waits() -> bool:
            return not came and not has_room(taken, self.per_lane)

        try:
            what = self.per_lane.said(spec.device, spec.threads)
            with (
                told_while(run, "the prefix pass", what, waits),
                looked_after("the prefix pass", group, run=run, closes=True),
            ):
                for batch in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                    came = True
                    for text in batch["answer"]:
                        answer = json.loads(text)
                        count("taft_pictures_read", run, len(answer["keys"]))
                        yield answer
        except RayError as error:
            own = own_error(error)
            if own is None:
                raise
            own.args = (str(own).partition("\n")[0],)  # Ray Data adds hints to the message, on lines of their own
            raise own from None


def passes(per_lane: LaneResources = ANYWHERE) -> Passes:
    """Passes on this cluster."""
    return RayPasses(per_lane)
