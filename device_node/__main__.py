"""`python -m device_node`: measure frames against an edge."""

from __future__ import annotations

import re
import secrets
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from device_node.clock import EdgeClock, least_delays
from device_node.frames import FrameLoop
from device_node.head import Head, find_planned, prepare_head, session_spec
from device_node.ledger import Ledger
from device_node.options import DeviceOptions
from device_node.reference import open_reference
from device_node.slowdown import limit_facts
from device_node.source import list_pictures
from device_node.watch import Watch
from splitbed import config, process
from splitbed.engine import distribution_conflict
from splitbed.errors import RecordError, RunIncomplete, SplitbedError, UsageError
from splitbed.host import host_facts, versions
from splitbed.limits import HeldLimits, Limits
from splitbed.load import LoadPlan, plan_load
from splitbed.progress import Progress
from splitbed.record import FrameRecord, ModelDigest, RunManifest, config_id
from splitbed.resources import rss_bytes
from splitbed.run_folder import RowWriter, RunFolder, read_rows, write_manifest
from splitbed.session import SAFE_NAME, SessionSpec
from splitbed.transport import Session, Transport
from splitbed.transport.grpc_client import GrpcTransport


def measure(argv: Sequence[str]) -> int:
    """Run the device with these arguments; an exit code."""
    options = config.from_command_line(
        DeviceOptions, argv, command="python -m device_node", table="device"
    )
    process.end_with_parent()
    stop = process.stop_event()
    conflict = distribution_conflict()
    if conflict:
        sys.stderr.write(f"device: {conflict}\n")
    pictures = list_pictures(options.images, options.pictures)
    limits = Limits(options.cpus, options.cpu_quota)
    with HeldLimits(limits) as held:
        return _measure(options, held, pictures, stop)


def _measure(
    options: DeviceOptions, held: HeldLimits, pictures: Sequence[Any], stop: threading.Event
) -> int:
    device = Device(options, held)
    transport = GrpcTransport(
        options.edge,
        tls_ca=options.tls_ca,
        token=config.read_token(options.token_file),
        connect_timeout_s=options.connect_s,
        message_bytes=options.message_mib * 1024 * 1024,
    )
    try:
        return device.run(transport, pictures, stop)
    finally:
        transport.close()


class Device:
    """One run of one device.

    UsageError where its folder cannot be this run's own, or its codec is to be fitted first.
    """

    def __init__(self, options: DeviceOptions, held: HeldLimits | None = None) -> None:
        self._options = options
        plan_load(options, options.frames or 1)  # a contradiction is told before anything is done
        self._delays = least_delays(options.link_delay_ms)
        self._held = held or HeldLimits(Limits())
        self._planned = find_planned(options)
        settings = msgspec.to_builtins(options, enc_hook=str)
        self._config_id = config_id(settings)
        self.run_id = options.run_id or f"{self._config_id}-{secrets.token_hex(4)}"
        self._folder = _own_folder(options, self.run_id)
        self._begun = False
        self._facts: dict[str, Any] = {}
        self._manifest = RunManifest(
            run_id=self.run_id,
            config_id=self._config_id,
            config=settings,
            seed=options.seed,
            started_utc=_now(),
            outcome="running",
            frames_wanted=0,
            versions=versions(),
            host=host_facts(),
        )

    def run(self, transport: Transport, pictures: Sequence[Any], stop: threading.Event) -> int:
        """Prepare, measure, summarise; raises what ended it early, after the rows are safe."""
        options = self._options
        plan = plan_load(options, options.frames or len(pictures))
        memory_bytes = {"before_engine": rss_bytes()}
        head = prepare_head(transport, options, self._planned)
        memory_bytes["after_engine"] = rss_bytes()
        self._facts["limits"] = limit_facts(self._held, head, say=not options.orchestrated)
        spec = session_spec(head, options, self.run_id)
        session = transport.open(spec)
        outcome = "failed unexpectedly"
        notes: tuple[str, ...] = ()
        try:
            with (
                RowWriter(self._folder.frames("device")) as rows,
                RowWriter(self._folder.clock()) as exchanges,
                Watch(options, self.run_id, self._folder, memory_bytes) as watch,
            ):
                clock = EdgeClock(
                    transport, exchanges, self._delays, options.clock_s, options.timeout_s
                )
                clock.burst()
                self._note_start(head, spec, session, clock, plan)
                loop = FrameLoop(
                    head,
                    spec,
                    session,
                    rows,
                    plan=plan,
                    timeout_s=options.timeout_s,
                    clock=clock,
                    reference=open_reference(options.reference),
                )
                progress = Progress(f"frames at {spec.cut.name}", options.warmup + plan.frames)

                def kept(count: int) -> None:
                    watch.kept(count)
                    progress.update(count)

                try:
                    watch.rest(stop)
                    loop.run(pictures, options.warmup, stop, kept)
                finally:
                    self._facts["load"] = loop.load_facts(options.warmup)
                    progress.close()
                    watch.stop()
                    notes = watch.notes
                clock.last_burst()
                self._note_clock(clock)
            ledger = loop.ledger
            outcome = "complete"
            if stop.is_set():
                outcome = "interrupted"
            elif ledger.failed:
                outcome = f"{len(ledger.failed)} frames failed: {ledger.failed[0]}"
        except SplitbedError as error:
            outcome = str(error)
            if isinstance(error, RecordError):
                notes = ()  # one disk, one sentence
            raise
        except Exception as error:
            outcome = f"failed unexpectedly ({type(error).__name__}: {error})"
            raise
        finally:
            try:
                session.close()
            finally:
                self._note_end(outcome, notes)
        self._say(ledger, plan)
        if ledger.failed:
            raise RunIncomplete(
                f"{len(ledger.failed)} of {ledger.kept} frames failed, the first because "
                f"{ledger.failed[0]}"
            )
        if stop.is_set():
            ended = ledger.ok + ledger.late + ledger.dropped
            raise RunIncomplete(f"stopped after {ended} of {plan.frames} frames")
        return 0

    def _note_start(
        self,
        head: Head,
        spec: SessionSpec,
        session: Session,
        clock: EdgeClock,
        plan: LoadPlan,
    ) -> None:
        fetched, engine, source = head.fetched, head.engine, head.answer.source
        agreed = msgspec.to_builtins(session.agreed)
        models: tuple[ModelDigest, ...] = ()
        if source is not None:
            models = (ModelDigest(source.name, source.file_bytes, source.md5, source.sha256),)
        facts = self._facts = self._facts | {
            "head": {
                "file_bytes": fetched.file_bytes if fetched else 0,
                "fetched_bytes": fetched.fetched_bytes if fetched else 0,
                "fetch_ns": fetched.fetch_ns if fetched else 0,
                "init_ns": engine.init_ns if engine else 0,
                "first_inference_ns": engine.first_inference_ns if engine else 0,
                "provider": engine.provider if engine else "",
            }
            | ({} if spec.pair is None else {"pair": msgspec.to_builtins(spec.pair)}),
            # What the edge says of itself lies beside the session's own facts, and under none.
            "edge": agreed.pop("node") | agreed,
            "models": msgspec.to_builtins(models),
            "cut": msgspec.to_builtins(spec.cut),
            "codecs": msgspec.to_builtins(spec.codecs),
            "model_digest": spec.model_digest,
            "task": head.answer.task_json,
            "clock": msgspec.to_builtins(clock.facts()),
            "tail_bytes": head.answer.second.file_bytes if head.answer.second else 0,
            "load": plan.facts(),
        }
        self._begun = True
        if self._options.orchestrated:
            self._folder.write_session(facts)
            return
        self._manifest = msgspec.structs.replace(
            self._manifest,
            frames_wanted=plan.frames,
            head=facts["head"],
            edge=facts["edge"] | {"tail_bytes": facts["tail_bytes"]},
            cut=facts["cut"],
            codecs=facts["codecs"],
            codec=head.codec,
            model_digest=spec.model_digest,
            models=models,
            clock=facts["clock"],
            host=self._manifest.host | facts["limits"],
        )
        write_manifest(self._folder.folder, self._manifest)

    def _note_clock(self, clock: EdgeClock) -> None:
        """The clock as it is known after the last frame."""
        self._facts["clock"] = msgspec.to_builtins(clock.facts())
        self._manifest = msgspec.structs.replace(self._manifest, clock=self._facts["clock"])
        if self._options.orchestrated:
            self._folder.write_session(self._facts)

    def _note_end(self, outcome: str, notes: tuple[str, ...]) -> None:
        for note in notes:
            sys.stderr.write(f"device: {note}\n")
        if not self._begun:
            return
        if self._options.orchestrated:
            self._folder.write_session(self._facts | ({"notes": notes} if notes else {}))
            return
        load = self._facts["load"]
        manifest = msgspec.structs.replace(
            self._manifest,
            outcome=outcome,
            ended_utc=_now(),
            notes=notes,
            load=load,
            frames_wanted=load["frames"] if outcome == "complete" else self._manifest.frames_wanted,
        )
        write_manifest(self._folder.folder, manifest)

    def _say(self, ledger: Ledger, plan: LoadPlan) -> None:
        """A few lines for whoever started a device by hand."""
        if self._options.orchestrated:
            return
        rows = [
            row
            for row in read_rows(self._folder.frames("device"), FrameRecord)
            if row.is_answered and not row.warmup
        ]
        lost = ""
        if plan.deadline_ns is not None:
            lost = f", {ledger.late} late, {ledger.dropped} dropped"
        if not rows:
            if ledger.dropped:
                sys.stdout.write(f"no frame was in time for its deadline{lost}\n")
            return
        p50, p95, p99 = np.percentile([row.total_ns / 1e6 for row in rows], [50, 95, 99])
        payload = int(np.median([row.payload_bytes for row in rows]))
        wanted = self._facts["load"]["frames"] if ledger.kept else plan.frames
        sys.stdout.write(
            f"{len(rows)} of {wanted} frames{lost}, end to end: p50 {p50:.2f}, p95 {p95:.2f}, "
            f"p99 {p99:.2f} ms\n{payload} bytes a frame up (median)\n"
            f"rows: {self._folder.folder}; `splitbed report` shows stages and intervals\n"
        )


def _own_folder(options: DeviceOptions, run_id: str) -> RunFolder:
    """The folder of this run, in which no other run has left rows."""
    if not re.match(SAFE_NAME, run_id):
        raise UsageError(
            f"--run-id '{run_id[:150]}' cannot name a folder: use up to 128 letters, digits, dots, "
            "dashes and underscores, and begin with a letter or a digit"
        )
    folder = RunFolder(options.out / run_id)
    try:
        used = folder.frames("device").stat().st_size > 0
    except OSError:
        used = False
    if used:
        raise UsageError(
            f"{folder.folder} holds the rows of another run: give another --run-id, or another "
            "--out"
        )
    return folder


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; an exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return process.guarded(lambda: measure(arguments), "device")


if __name__ == "__main__":
    sys.exit(main())
