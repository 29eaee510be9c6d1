"""A run as an object: its verbs as methods, which answer with types. Nothing starts, and nothing is read, before a verb."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from taft_ray import answers
from taft_ray.additive.settings import LEFT_OUT
from taft_ray.data.splits import with_split
from taft_ray.errors import IntegrityError, UsageError
from taft_ray.progress import Report, silent
from taft_ray.run.address import run_address

if TYPE_CHECKING:
    from taft_ray.composer.selection import Selection
    from taft_ray.plans.lane_resources import LaneResources
    from taft_ray.plans.sweep import Sweep
    from taft_ray.privacy import PublicKey, SigningKey
    from taft_ray.run.register import Recipient
    from taft_ray.serving.started import Serving

Deadline = str | float | datetime | timedelta
KeyFile: TypeAlias = "PublicKey | str | os.PathLike[str]"
T = TypeVar("T", str, int)


class Run:
    """A run at a path or URI, such as s3://bucket/pets: train on shards, evaluate, forget, show it.

    train, evaluate, audit, sweep, repair and a forget that fits again use Ray. The cluster is the one that this process has
    joined, that of RAY_ADDRESS, or one that ends with the verb (`ray_session` keeps it for several). All others start nothing.

    progress: called as progress(what, done, total) while a verb is at work.

    A Run holds its address alone, so that threads and processes may share it. Every verb may be repeated: what is
    committed is not done twice. Errors are those of `taft_ray.errors`; `StorageError` where there is no run. They name
    options as the commands do: --max-rejected is max_rejected.

    Examples:
        >>> run = tr.Run("runs/pets")
        >>> run.train(data="pets/train", shards=5).samples
        60
        >>> run.forget(ids=["cats/17.jpg"], mode="retrain").samples
        1
        >>> run.verify().ok
        True
    """

    def __init__(self, uri: str | os.PathLike[str], *, progress: Report = silent) -> None:
        self.uri = run_address(os.fspath(uri))
        self._progress = progress

    def __repr__(self) -> str:
        return f"Run({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.uri == other.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    # --- making it

    def train(
        self,
        data: str | os.PathLike[str] | None = None,
        *,
        split: str | None = None,
        add: str | os.PathLike[str] | None = None,
        add_shards: int | None = None,
        monolithic: bool = False,
        lanes: int | None = None,
        fit_timeout: float | None = None,
        gpus: int | None = None,
        per_lane: LaneResources | None = None,
        **spec: Any,
    ) -> answers.Trained:
        """Train every shard that has no delta yet, and compose.

        ``data``: a folder of class folders, Parquet or WebDataset, local or remote; the run's own where it exists already.
        ``split``: read this split of it, or of what is added.
        ``add``: more data for a run that exists; pictures that it knows or has forgotten stay as they are.
        ``add_shards``: how many shards it becomes, by default as many of the run's size.
        ``monolithic``: also train one model over everything, for comparison. ``lanes``: workers at once.
        ``fit_timeout``: seconds without a sign of life after which a fit is given up, and tried again by another worker.
        ``gpus``: how many GPUs an autoscaler may start; as its configuration says by default.
        ``per_lane``: what each worker takes of the cluster, such as LaneResources(gpus=0.5); the run keeps it for later calls.
        ``spec``: fields of `taft_ray.RunSpec`, such as model, weights, shards, solver, last_blocks, seed. They are fixed by the
        first call, and SpecMismatch names those that differ later.

        Examples:
            >>> tr.Run("runs/pets").train(data="pets/train", shards=5).samples  # with the embedded network
            60
        """
        from taft_ray.verbs.new_spec import continued, spec_of
        from taft_ray.verbs.train import train

        if add is not None:
            add, split = with_split(os.fspath(add), split), None
        if data is not None:
            spec["data"] = with_split(os.fspath(data), split)
        elif split is not None:
            raise UsageError(f"split={split!r} is a split of data; give data, too")
        made = spec_of(self.uri, spec, gpus=gpus) if "data" in spec else continued(self.uri, spec)
        return answers.Trained.from_json(
            train(
                self.uri,
                made,
                add=add,
                add_shards=add_shards,
                monolithic=monolithic,
                lanes=lanes,
                fit_timeout=fit_timeout,
                gpus=gpus,
                per_lane=per_lane,
                report=self._progress,
            )
        )

    def repair(self, data: str | os.PathLike[str] | None = None) -> answers.Repaired:
        """Make again what is damaged or missing. data: where the source lies now; where it was read from by default.

        Examples:
            >>> tr.Run("runs/pets").repair().ok
            True
        """
        from taft_ray.verbs.repair import repair

        source = None if data is None else os.fspath(data)
        return answers.Repaired.from_json(repair(self.uri, data=source, report=self._progress))

    def privacy(self, picture: str | os.PathLike[str] | None = None) -> answers.Spent:
        """The privacy that a private run has spent, by shard. picture: an SVG of it is written there.

        Examples:
            >>> told = tr.Run("runs/clinic").privacy()
            >>> round(told.epsilon, 3), round(told.left, 3)  # spent, and left of the budget
            (3.0, 2.0)
        """
        from taft_ray.verbs.privacy import draw, privacy

        told = privacy(self.uri)
        if picture is not None:
            draw(told, picture)
        return answers.Spent.from_json(told)

    def privacy_statement(
        self,
        file: str | os.PathLike[str] | None = None,
        *,
        to: str | None = None,
        contact: str | None = None,
        until: Deadline | None = None,
        register: bool = True,
    ) -> answers.PrivacyStatement:
        """The statement that may be published beside a private model; written to ``file``, as JSON, where one is given.

        A written one is registered as an export is: see `export`.

        Examples:
            >>> tr.Run("runs/clinic").privacy_statement("privacy.json", to="the press").epsilon
            3.0
        """
        from taft_ray.verbs.privacy import statement, write_statement

        recipient = _recipient(to, contact, until)
        if file is None:
            return answers.PrivacyStatement.from_json(statement(self.uri))
        told = write_statement(self.uri, file, recipient, register)
        return answers.PrivacyStatement.from_json({**told, "written": os.fspath(file)})

    def sweep(self, asked: Sweep | None = None, *, mlflow: str | None = None, **options: Any) -> answers.Swept:
        """Try settings on the cached tokens; the best becomes a spec. options: fields of `plans.sweep.Sweep`.

        Examples:
            >>> told = tr.Run("runs/ridge").sweep(trials=2, held_out=0.25)
            >>> len(told.trials), told.held_out, told.best["accuracy"] > 0.5
            (2, 16, True)
        """
        from taft_ray.plans.sweep import Sweep
        from taft_ray.verbs.sweep import sweep

        return answers.Swept.from_json(sweep(self.uri, asked or Sweep(**options), mlflow=mlflow, report=self._progress))

    def tune(
        self,
        *,
        sizes: Sequence[int] = (),
        weights: Sequence[float] | None = None,
        kappas: Sequence[float] = (),
        left_out: int = LEFT_OUT,
        reset: bool = False,
    ) -> answers.Tuned:
        """Choose settings of an additive run's model from its sums and rows; what is chosen stays level with what is left.

        sizes: of a row's first numbers. weights: those that a group of sites may have beside 1. kappas: factors of the logits.

        left_out: pictures at most that are left out one by one. reset: have no policy any more.

        Examples:
            >>> tr.Run("runs/pets").tune(sizes=[12, 24, 48], left_out=20).settings["size"]
            48
        """
        from taft_ray.verbs.tune import tune

        told = tune(self.uri, sizes=sizes, weights=weights, kappas=kappas, left_out=left_out, reset=reset)
        return answers.Tuned.from_json(told)

    # --- looking at it

    def status(self, metrics: str | os.PathLike[str] | None = None) -> answers.Status:
        """Where the run stands. metrics: a .prom file that gets its numbers for Prometheus' textfile collector.

        Examples:
            >>> told = tr.Run("runs/pets").status()
            >>> told.samples, len(told.shards), told.to_do
            (60, 5, ())
        """
        from taft_ray.verbs import metrics_file
        from taft_ray.verbs.status import status

        metrics_file.check_metrics_file(metrics)
        answer = status(self.uri)
        if metrics is not None:
            metrics_file.write_status(self.uri, metrics)
        return answers.Status.from_json(answer)

    def rejected(self) -> answers.RejectedRows:
        """The rows of the data that were not taken, each with its reason.

        Examples:
            >>> [(row.file, row.reason) for row in tr.Run("runs/pets").rejected().rejected_rows]
            [('dogs/torn.jpg', 'truncated picture')]
        """
        from taft_ray.verbs.status import rejected

        return answers.RejectedRows.from_json(rejected(self.uri))

    def samples(self, data: str | os.PathLike[str] | None = None) -> answers.Samples:
        """The samples in its shards, by the ids that `forget` takes. `Samples.to_pandas` makes a table.

        data: where the source lies now, for ids that only it has; where it was read from by default.

        Examples:
            >>> first = tr.Run("runs/pets").samples().samples[0]
            >>> first.id, first.label, first.shard
            ('cats/00.jpg', 'cats', 4)
        """
        from taft_ray.verbs.samples import samples

        return answers.Samples.from_json(samples(self.uri, data=None if data is None else os.fspath(data)))

    def evaluate(
        self,
        data: str | os.PathLike[str],
        *,
        split: str | None = None,
        predictions: str | os.PathLike[str] | None = None,
        against: str | os.PathLike[str] | Run | None = None,
        owners: Iterable[str] = (),
    ) -> answers.Evaluation:
        """Accuracy of the composed model on data of the same classes: in all, per class, and by confidence.

        split: read this split of it. predictions: a .parquet or .csv file for a line per picture.

        owners: of an additive run, the model of these owners' pictures alone.

        against: another run, evaluated on the same data, or such a file; the answer's ``against`` compares picture by picture.

        Examples:
            >>> told = tr.Run("runs/pets").evaluate("pets/test")
            >>> told.n, told.accuracy > 0.9
            (24, True)
        """
        from taft_ray.verbs.evaluate import evaluate

        source = with_split(os.fspath(data), split)
        file = None if predictions is None else os.fspath(predictions)
        other = against.uri if isinstance(against, Run) else None if against is None else os.fspath(against)
        return answers.Evaluation.from_json(
            evaluate(self.uri, source, predictions=file, against=other, owners=tuple(owners), report=self._progress)
        )

    def predict(
        self,
        pictures: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        why: bool = False,
        owners: Iterable[str] = (),
    ) -> answers.Predictions:
        """The class of each picture by the composed model, with the probability of every class.

        pictures: files, folders, Parquet or tars, local or remote; labels are not read. Pictures that cannot be read are in
        ``unreadable``, with the reason. `Predictions.to_pandas` makes a table.

        why: also tell which shards and owners weigh most in each answer, under ``why`` of each prediction.

        owners: those to show by name. Others are shown by a hash.

        Examples:
            >>> [one.label for one in tr.Run("runs/pets").predict("pets/new").predictions]
            ['rabbits', 'cats', 'dogs', 'rabbits']
        """
        from taft_ray.verbs.predict import predict

        places = [pictures] if isinstance(pictures, str | os.PathLike) else list(pictures)
        given = [os.fspath(place) for place in places]
        return answers.Predictions.from_json(
            predict(self.uri, given, why=why, owners=tuple(owners), report=self._progress)
        )

    def serve(
        self,
        *others: str | os.PathLike[str] | Run,
        compose: str | None = None,
        owners: Iterable[str] = (),
        host: str = "127.0.0.1",
        port: int = 8000,
        token_file: str | os.PathLike[str] | None = None,
        now: bool = False,
        **options: Any,
    ) -> AbstractContextManager[Serving]:
        """Answer requests with the composed model, over HTTP and here, until the block ends; needs taft_ray[serve].

        others: more runs in the same replicas. compose: the run's own by default.

        owners: of an additive run, the model of these owners' pictures alone.

        host: another than 127.0.0.1 needs ``token_file``, which has a token per line.

        now: although a run's release gate holds the model back.

        options: fields of `taft_ray.serving.options.ServingOptions`, such as replicas, lease, drain and max_bytes.

        Examples:
            >>> with tr.Run("runs/pets").serve(port=8400) as serving, open("pets/new/1.jpg", "rb") as picture:
            ...     answer = serving.predict(picture.read())
            >>> answer["predictions"][0]["label"]
            'cats'
        """
        from taft_ray.verbs.serve import serving

        runs = [self.uri, *(other.uri if isinstance(other, Run) else os.fspath(other) for other in others)]
        tokens = None if token_file is None else os.fspath(token_file)
        return serving(
            runs, compose=compose, owners=tuple(owners), host=host, port=port, token_file=tokens, now=now,
            report=self._progress, **options,
        )  # fmt: skip

    def report(self) -> answers.Reported:
        """Write the run's report: one HTML page, and report.json.

        Examples:
            >>> tr.Run("runs/pets").report().page
            '.../runs/pets/reports/report.html'
        """
        from taft_ray.verbs.report import report

        return answers.Reported.from_json(report(self.uri))

    def dossier(
        self,
        folder: str | os.PathLike[str],
        *,
        to: str | None = None,
        contact: str | None = None,
        until: Deadline | None = None,
        register: bool = True,
    ) -> answers.Dossier:
        """Write a folder about the run for a regulator or a customer; it must not exist. docs/how-to/dossier.md has what is in it.

        It is registered as a published statement is: see `export` for the options. ok: False where something is wrong.

        Examples:
            >>> files = tr.Run("runs/pets").dossier("dossier", to="the authority").files
            >>> "index.html" in files, "VERIFY.md" in files  # and a PDF where Chromium is
            (True, True)
        """
        from taft_ray.verbs.dossier import dossier

        return answers.Dossier.from_json(dossier(self.uri, os.fspath(folder), _recipient(to, contact, until), register))

    def export(
        self,
        output: str | os.PathLike[str],
        compose: str | None = None,
        *,
        owners: Iterable[str] = (),
        to: str | None = None,
        contact: str | None = None,
        until: Deadline | None = None,
        now: bool = False,
        register: bool = True,
    ) -> answers.Exported:
        """Write the composed model as one file that runs without taft_ray: .pt2 or .onnx.

        owners: of an additive run, the model of these owners' pictures alone.

        to, contact, until: where the file goes, whom a recall is told there, and when it is over; kept in the run's ledger.

        now: although the run's release gate holds the model back. register: False for a run whose ledger cannot be written.

        Examples:
            >>> tr.Run("runs/pets").export("model.pt2", to="the shelter", until="365d").classes
            ('cats', 'dogs', 'rabbits')
        """
        from taft_ray.verbs.export import export

        told = export(
            self.uri, os.fspath(output), compose, tuple(owners), recipient=_recipient(to, contact, until), now=now,
            register=register,
        )  # fmt: skip
        return answers.Exported.from_json(told)

    # --- what left the house

    def recalls(
        self,
        *,
        notify: str | None = None,
        sign: SigningKey | str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        write: str | os.PathLike[str] | None = None,
        releases: Iterable[str] = (),
        told: Iterable[str] = (),
        by: str | None = None,
    ) -> answers.Recalls:
        """The files that were exported and published, and which of them hold what was forgotten since.

        notify: a URL that gets a signed notice of every recalled release, once. sign: an Ed25519 private key, or its PEM file.

        timeout: seconds that an answer may take; 10 by default. ok: False where a notice was not taken.

        write: a folder that gets a signed notice per release that nobody was told of. releases: notify, or write, these alone.

        told: releases whose holders were told by other means; the ledger keeps that, and ``by``: who told it, and how.

        Examples:
            >>> certificate = tr.Run("runs/pets").forget(ids=["cats/17.jpg"])
            >>> [(one.to, one.status) for one in tr.Run("runs/pets").recalls().releases]
            [('the shelter', 'recalled')]
        """
        from taft_ray.verbs.recalls import notify as send
        from taft_ray.verbs.recalls import recalls
        from taft_ray.verbs.telling import told as note
        from taft_ray.verbs.telling import write as write_notices

        key = _signing_key(sign)
        only, whom = _listed("releases", releases, str), _listed("told", told, str)
        if sum((notify is not None, write is not None, bool(whom))) > 1:
            raise UsageError("--notify, --write and --told do different things; give one of them")
        if bool(whom) != (by is not None):
            raise UsageError("--told RELEASE needs --by TEXT, who told it and how, and --by is of --told; give both")
        if only and notify is None and write is None:
            raise UsageError("--release is of --notify and --write; give one of them, or leave it out")
        if whom:
            return answers.Recalls.from_json(note(self.uri, whom, by or ""))
        if notify is None and write is None:
            return answers.Recalls.from_json(recalls(self.uri))
        if key is None:
            what = "--notify sends" if write is None else "--write writes"
            raise UsageError(f"{what} signed notices; give an Ed25519 private key as --sign")
        if write is not None:
            return answers.Recalls.from_json(write_notices(self.uri, os.fspath(write), key, releases=only))
        assert notify is not None
        seconds = 10.0 if timeout is None else timeout
        return answers.Recalls.from_json(send(self.uri, notify, key, releases=only, timeout=seconds))

    def check(self, file: str | os.PathLike[str]) -> answers.Checked:
        """How an exported file stands: current, superseded, recalled, expired, changed or unknown.

        Examples:
            >>> tr.Run("runs/pets").check("pets.pt2").status
            'current'
        """
        from taft_ray.verbs.recalls import check

        return answers.Checked.from_json(check(self.uri, os.fspath(file)))

    def release(self, after: str | None = None) -> answers.Publication:
        """When a newer model may be published. after: sets the gate, to "10" (forgets), "30d", "epsilon=0.5" or "none".

        Examples:
            >>> tr.Run("runs/pets").release(after="10").gate
            '10 forgets'
        """
        from taft_ray.verbs.release import release

        return answers.Publication.from_json(release(self.uri, after))

    # --- forgetting

    def estimate(
        self,
        ids: Iterable[str] = (),
        *,
        owners: Iterable[str] = (),
        shards: Iterable[int] = (),
        with_identical: bool = False,
        mode: str | None = None,
        gpu_hour_price: float | None = None,
    ) -> answers.Estimate:
        """Tell what a forget would touch and take; nothing happens.

        Examples:
            >>> told = tr.Run("runs/pets").estimate(ids=["cats/17.jpg"])
            >>> told.mode, told.samples_to_forget, told.shards
            ('subtract', 1, (4,))
        """
        from taft_ray.verbs.forget import estimate

        _check_price(gpu_hour_price)
        asked = _selection(ids, owners, shards, with_identical)
        return answers.Estimate.from_json(estimate(self.uri, asked, mode, gpu_hour_price=gpu_hour_price))

    def forget(
        self,
        ids: Iterable[str] = (),
        *,
        mode: str | None = None,
        owners: Iterable[str] = (),
        shards: Iterable[int] = (),
        with_identical: bool = False,
        deadline: Deadline | None = None,
        gpu_hour_price: float | None = None,
        sign: SigningKey | str | os.PathLike[str] | None = None,
    ) -> answers.Certificate | answers.Promise:
        """Forget samples: drop at once, purge, fit again if asked; the certificate, or with a deadline the promise.

        mode: "drop" leaves their shards out of the model, "retrain" fits them again without the samples, "resolve" does so from
        where they were (ridge). "subtract" takes the samples alone out of an additive run. By default subtract where it can be,
        and retrain elsewhere. deadline: "30d", "12h", an ISO time, a datetime or timedelta; `forget_due` carries it out.
        UnknownSample where an id was never in the run. sign: an Ed25519 private key, or its PEM file.

        Examples:
            >>> run = tr.Run("runs/pets")
            >>> certificate = run.forget(ids=["cats/17.jpg"], mode="subtract")
            >>> certificate.samples, run.status().samples
            (1, 59)
        """
        from taft_ray.verbs.deadline import unix_deadline
        from taft_ray.verbs.forget import forget

        key = _signing_key(sign)  # a wrong one must not be noticed after a forget
        _check_price(gpu_hour_price)
        answer = forget(
            self.uri, _selection(ids, owners, shards, with_identical), mode=mode, deadline=unix_deadline(deadline),
            gpu_hour_price=gpu_hour_price, report=self._progress,
        )  # fmt: skip
        if answer.get("waiting"):
            return answers.Promise.from_json(answer)
        if key is not None:
            answer |= self._signed_all(answer, key)
        return answers.Certificate.from_json(answer)

    def forget_due(
        self, *, gpu_hour_price: float | None = None, sign: SigningKey | str | os.PathLike[str] | None = None
    ) -> answers.Due:
        """Carry out the requests whose time has come, and those that were interrupted. ok: False where a deadline had passed.

        Examples:
            >>> promise = tr.Run("runs/pets").forget(ids=["cats/17.jpg"], deadline="30d")
            >>> tr.Run("runs/pets").forget_due().certificates  # it is due on day 27
            ()
        """
        from taft_ray.verbs.forget import forget_due

        key = _signing_key(sign)
        _check_price(gpu_hour_price)
        answer = forget_due(self.uri, gpu_hour_price=gpu_hour_price, report=self._progress)
        if key is not None:
            signed = [one | self.sign(one["request"], key).to_json() for one in answer["certificates"]]
            answer = {**answer, "certificates": signed}
        return answers.Due.from_json(answer)

    def _signed_all(self, certificate: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
        """Sign a certificate, and those of the requests that were carried out with it; one that has another signature keeps it."""
        signed = self.sign(certificate["request"], key).to_json()
        others = certificate.get("carried_out_with", ())
        signed_too: list[str] = []
        for request in others:
            with suppress(UsageError):  # signed before, by another key
                self.sign(request, key)
                signed_too.append(request)
        return {**signed, "signed_too": signed_too} if others else signed

    def sign(self, request: str, key: SigningKey | str | os.PathLike[str]) -> answers.Certificate:
        """Sign the certificate of a finished request. key: an Ed25519 private key, or its PEM file.

        Examples:
            >>> request = tr.Run("runs/pets").forget(ids=["cats/17.jpg"]).request
            >>> tr.Run("runs/pets").sign(request, "key.pem").signature["algorithm"]
            'ed25519'
        """
        from taft_ray.proof.signature import sign_certificate

        signer = _signing_key(key)
        assert signer is not None
        return answers.Certificate.from_json(sign_certificate(self.uri, request, signer))

    # --- showing it

    def verify(
        self,
        *,
        head: str | None = None,
        retrain: bool = False,
        metrics: str | os.PathLike[str] | None = None,
        record: bool = False,
        public_key: KeyFile | Sequence[KeyFile] | None = None,
    ) -> answers.Verification:
        """Check the run from storage alone. head: a ledger entry of an earlier `verify`. retrain: fit forgotten shards again.

        public_key: every certificate must be signed by this Ed25519 key, or by one of several; a key or its PEM file.

        metrics: a .prom file that gets the outcome, for Prometheus' textfile collector.

        record: keep the outcome in the run, where `status`, the page and dossiers show it. Otherwise nothing is written.

        Examples:
            >>> told = tr.Run("runs/pets").verify()
            >>> told.ok, told.checks["deltas"]
            (True, 5)
        """
        from taft_ray.proof.verify_run import verify
        from taft_ray.verbs import metrics_file

        metrics_file.check_metrics_file(metrics)
        keys = _public_keys(public_key)
        try:
            told = verify(self.uri, head=head, public_keys=keys, retrain=retrain, record=record, report=self._progress)
            answer = answers.Verification.from_json(told)
        except IntegrityError:  # any other error has found nothing out
            if metrics is not None:
                metrics_file.write_verified(self.uri, False, metrics)
            raise
        if metrics is not None:
            metrics_file.write_verified(self.uri, answer.ok, metrics)
        return answer

    def audit(
        self,
        data: str | os.PathLike[str],
        never_seen: str | os.PathLike[str],
        *,
        ids: Sequence[str] | None = None,
        level: float = 0.01,
        record: bool = False,
    ) -> answers.Audit:
        """Attack what was forgotten: ``data`` has the forgotten samples, ``never_seen`` some of their kind that were never in.

        record: keep the outcome in the run, as `verify` does.

        Examples:
            >>> run = tr.Run("runs/pets")
            >>> certificate = run.forget(ids=[one.id for one in run.samples().samples[::3]])
            >>> run.audit("pets/train", "pets/test").ok
            True
        """
        from taft_ray.verbs.audit import audit

        return answers.Audit.from_json(
            audit(
                self.uri,
                os.fspath(data),
                os.fspath(never_seen),
                ids=ids,
                level=level,
                record=record,
                report=self._progress,
            )
        )

    def audit_privacy(
        self, *, level: float = 0.01, runs: int | None = None, canaries: int | None = None, record: bool = False
    ) -> answers.PrivacyAudit:
        """Lower bounds on the ε of a private run's fit, beside its claim, by fits on made-up canaries. It charges nothing.

        level: how likely a false conviction may be. runs: fits with a canary, and as many without. canaries: of one more fit.

        record: keep the outcome in the run, as `verify` does.

        Examples:
            >>> tr.Run("runs/clinic").audit_privacy(level=1e-6, runs=20, canaries=20).convicted_by
            ()
        """
        from taft_ray.verbs.audit import audit_privacy

        return answers.PrivacyAudit.from_json(
            audit_privacy(self.uri, level=level, runs=runs, canaries=canaries, record=record, report=self._progress)
        )

    def audit_reconstruction(
        self, never_seen: str | os.PathLike[str] | None = None, *, picks: int = 20, record: bool = False
    ) -> answers.Reconstruction:
        """Measure how near an attacker comes to a deleted sample by the models before and after. The run is unchanged.

        never_seen: pictures by which the attacker knows the data. None: only an attacker who knows the run's own is tried.

        picks: samples that are forgotten one by one, in memory. record: keep the outcome in the run, as `verify` does.

        Examples:
            >>> attack = tr.Run("runs/pets").audit_reconstruction(picks=3).attacks[0]
            >>> attack.way, attack.known, round(attack.cosine, 2)  # the sample is given away
            ('subtract', 'own sums', 1.0)
        """
        from taft_ray.verbs.audit import audit_reconstruction

        known = None if never_seen is None else os.fspath(never_seen)
        return answers.Reconstruction.from_json(
            audit_reconstruction(self.uri, never_seen=known, picks=picks, record=record, report=self._progress)
        )

    # --- ending it

    def gc(self) -> answers.Collected:
        """Remove what killed processes left and nothing refers to.

        Examples:
            >>> tr.Run("runs/pets").gc().removed
            ()
        """
        from taft_ray.verbs.gc import gc

        return answers.Collected.from_json(gc(self.uri))

    def destroy_key(self) -> answers.KeyDestroyed:
        """Destroy the key of the id hashes. It cannot be undone, and nothing can be read into the run afterwards.

        Examples:
            >>> tr.Run("runs/pets").destroy_key().destroyed
            'keys/id.key'
        """
        from taft_ray.verbs.destroy_key import destroy_key

        return answers.KeyDestroyed.from_json(destroy_key(self.uri))

    def retention(self, until: Deadline | None = None, *, clear: bool = False) -> answers.Retention:
        """Until when the key of the id hashes is kept. until: sets the date; clear: takes it away.

        A hash of an id is personal data while the key is there. `status` says when the date has passed; nothing is
        destroyed by itself.

        Examples:
            >>> tr.Run("runs/pets").retention("365d").passed
            False
        """
        from taft_ray.verbs.deadline import unix_deadline
        from taft_ray.verbs.retention import retention

        if clear and until is not None:
            raise UsageError("--until sets a date and --clear takes it away; give one of them")
        return answers.Retention.from_json(retention(self.uri, unix_deadline(until, "until"), clear=clear))

    def destroy(self) -> answers.Destroyed:
        """Remove the run, older versions too. It cannot be undone.

        Examples:
            >>> tr.Run("runs/pets").destroy().left  # files that are none of the run's
            ()
        """
        from taft_ray.verbs.destroy import destroy

        return answers.Destroyed.from_json(destroy(self.uri))


def ray_session() -> AbstractContextManager[None]:
    """Keeps one Ray for several verbs: that of this process, of RAY_ADDRESS, or one that ends with the block.

    Examples:
        >>> with tr.ray_session():
        ...     told = [tr.Run(one.run).evaluate("pets/test").n for one in tr.runs("runs")]
        >>> told
        [24, 24, 24]
    """
    from taft_ray.orchestration import session

    return session.connected()


def runs(uri: str | os.PathLike[str]) -> answers.Runs:
    """Every run at a place: that place itself, and the folders right under it.

    Examples:
        >>> [(one.samples, one.shards) for one in tr.runs("runs")]
        [(60, 2), (60, 5), (60, 4)]
    """
    from taft_ray.verbs.list import runs

    return answers.Runs.from_json(runs(os.fspath(uri)))


def doctor(run: str | os.PathLike[str] | None = None) -> answers.Diagnosis:
    """Obstacles to runs here: packages, disk, Ray's nodes, and the storage of a run, which need not exist yet.

    Examples:
        >>> [one.check for one in tr.doctor("runs/pets").findings]
        ['software', 'disk', 'ray', 'run', 'storage', 'commits', 'older versions']
    """
    from taft_ray.verbs.doctor import doctor

    return answers.Diagnosis.from_json(doctor(None if run is None else os.fspath(run)))


def tune(run: str | os.PathLike[str] | Run, **options: Any) -> answers.Tuned:
    """`Run.tune` of a run.

    Examples:
        >>> len(tr.tune("runs/pets", sizes=[24, 48], weights=[1.0]).candidates)
        2
    """
    return (run if isinstance(run, Run) else Run(run)).tune(**options)


def compare(*runs: str | os.PathLike[str] | Run) -> answers.Compared:
    """Several runs side by side: accuracy, forgets, cost. A page and its numbers are stored among the first run's reports.

    Examples:
        >>> [(one.name, one.samples) for one in tr.compare("runs/pets", "runs/ridge").runs]
        [('pets', 60), ('ridge', 60)]
    """
    from taft_ray.verbs.compare import compare

    where = [run.uri if isinstance(run, Run) else run_address(os.fspath(run)) for run in runs]
    return answers.Compared.from_json(compare(where))


def verify_certificate(
    file: str | os.PathLike[str], *, public_key: PublicKey | None = None, run: str | os.PathLike[str] | None = None
) -> answers.CertificateVerification:
    """Check a certificate's JSON by itself and against its run. public_key: it must be signed by this one.

    run: the run to compare it with, by default the one that it names, where that is there.

    Examples:
        >>> certificate = tr.Run("runs/pets").forget(ids=["cats/17.jpg"], sign="key.pem")
        >>> tr.verify_certificate(certificate.address, public_key=tr.read_public_key("public.pem")).ok
        True
    """
    from taft_ray.proof.verify_certificate import verify_certificate

    where = None if run is None else run_address(os.fspath(run))
    return answers.CertificateVerification.from_json(
        verify_certificate(os.fspath(file), public_key=public_key, run=where)
    )


def _selection(ids: Iterable[str], owners: Iterable[str], shards: Iterable[int], with_identical: bool) -> Selection:
    from taft_ray.composer.selection import Selection

    return Selection(
        ids=_listed("ids", ids, str),
        owners=_listed("owners", owners, str),
        shards=_listed("shards", shards, int),
        with_identical=with_identical,
    )


def _recipient(to: str | None, contact: str | None, until: Deadline | None) -> Recipient:
    from taft_ray.run.register import Recipient
    from taft_ray.verbs.deadline import unix_deadline

    return Recipient(to=to, contact=contact, until=unix_deadline(until, "until"))


def _listed(name: str, given: Iterable[T], kind: type[T]) -> tuple[T, ...]:
    """The values, each once; UsageError for one value in place of a list, and for values of another kind."""
    what = "texts" if kind is str else "whole numbers"
    if isinstance(given, str | bytes | int | os.PathLike) or not isinstance(given, Iterable):
        raise UsageError(f"{name}={given!r}: expected a list of {what}, such as [{kind(1)!r}]")
    values = tuple(dict.fromkeys(given))
    wrong = next((value for value in values if not isinstance(value, kind) or isinstance(value, bool)), None)
    if wrong is not None:
        raise UsageError(f"{name} has {wrong!r}: expected {what} alone; a path is given as its text, str(path)")
    return values


def _signing_key(given: SigningKey | str | os.PathLike[str] | None) -> SigningKey | None:
    """The key, read from its file where that is given."""
    from taft_ray.privacy import SigningKey, read_signing_key

    if given is None or isinstance(given, SigningKey):
        return given
    if isinstance(given, str | os.PathLike):
        return read_signing_key(os.fspath(given))
    raise UsageError(f"sign={given!r}: expected a PEM file, or what taft_ray.read_signing_key gives")


def _public_keys(given: KeyFile | Sequence[KeyFile] | None) -> list[PublicKey]:
    """The keys, each read from its file where that is given."""
    from taft_ray.privacy import PublicKey, read_public_key

    several = [] if given is None else [given] if isinstance(given, str | os.PathLike | PublicKey) else [*given]
    return [one if isinstance(one, PublicKey) else read_public_key(os.fspath(one)) for one in several]


def _check_price(price: float | None) -> None:
    if price is not None and (isinstance(price, bool) or not isinstance(price, int | float) or not price >= 0):
        raise UsageError(f"gpu_hour_price={price!r}: expected a number >= 0, or None")
