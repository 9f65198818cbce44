"""One run: a device process over a testbed, and the manifest of what it was."""

from __future__ import annotations

import os
import secrets
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from experiments import children
from experiments.preparation import PreparedModel
from experiments.testbed import Testbed
from splitbed.certificate import LinkCertificate
from splitbed.codec import FILE_MARK, PlannedCodec
from splitbed.errors import StorageFull
from splitbed.graph import Verification
from splitbed.host import host_facts, versions
from splitbed.limits import sweep
from splitbed.load import LoadPlan
from splitbed.record import RunManifest, config_id
from splitbed.run_folder import MANIFEST, RunFolder, write_manifest

_POLL_S: Final = 0.1


class RunPlan(msgspec.Struct, frozen=True):
    """Everything that one run is made of, decided before it starts."""

    model: PreparedModel
    cut: str
    planned: PlannedCodec
    """The codecs as the device gets them."""
    pictures: tuple[Path, ...]
    labels: dict[str, int]
    frames: int
    warmup: int
    load: LoadPlan
    reply: str
    provider: str
    threads: int
    timeout_s: float
    seed: int
    load_flags: dict[str, object]
    """Flags of the device for its load, beside --window and --frames."""
    device: dict[str, object]
    """Flags of the device for its limits and its rest."""
    connection: dict[str, object]
    """Flags of the device for its connection: the edge's CA, its token, the largest message."""
    settings: dict[str, Any]
    """What the person asked for, as it stands in the manifest."""
    identity: dict[str, Any]
    """What makes two runs the same configuration, however they were asked for."""
    answers: dict[str, dict[str, Any]]
    """The uncut model's answers, by picture."""
    reference: Path | None
    """The uncut model's output tensors, for tasks without a class as their answer."""
    verification: Verification | None
    notes: tuple[str, ...] = ()

    def new_run_id(self) -> str:
        """A name that no other run has, repeats of this one included."""
        return f"{config_id(self.identity)}-{secrets.token_hex(4)}"


def measure(
    testbed: Testbed,
    plan: RunPlan,
    run_id: str,
    stop: threading.Event,
    progress: Callable[[int], None],
) -> RunManifest:
    """Run the device to its end and leave a complete run folder.

    `progress` hears the number of rows so far. Whatever goes wrong ends up in the manifest's
    `outcome`; only a run folder that cannot be written raises.
    """
    folder = RunFolder(testbed.options.out / run_id)
    certificate = testbed.certificate()
    manifest = RunManifest(
        run_id=run_id,
        config_id=config_id(plan.identity),
        config=plan.settings,
        seed=plan.seed,
        started_utc=_now(),
        outcome="running",
        frames_wanted=plan.frames,
        versions=versions(),
        host=host_facts() | {"relay_priority": testbed.priority},
        models=(plan.model.digest,),
        certificate=certificate,
        link_settings=testbed.link_settings,
        verification=_plain(plan.verification),
        reference={"answers": plan.answers, "labels": _labels(plan)},
        notes=plan.notes,
    )
    write_manifest(folder.folder, manifest)
    testbed.begin_replay()
    device = _start_device(testbed, plan, run_id, folder)
    try:
        outcome = _wait(device, testbed, folder, stop, progress)
    finally:
        children.end(device)
        sweep()  # a device that was killed cannot remove its control group
    replay = testbed.end_replay()
    certificate = testbed.certified(certificate)
    if testbed.options.remote is not None:
        replay = testbed.options.remote.replayed
    learnt = folder.read_session()
    load: dict[str, Any] = learnt.get("load", {})
    manifest = msgspec.structs.replace(
        manifest,
        outcome=outcome,
        host=manifest.host | learnt.get("limits", {}),
        ended_utc=_now(),
        certificate=certificate,
        link_violations=tuple(certificate.violations()),
        replay=replay,
        model_digest=learnt.get("model_digest", ""),
        cut=learnt.get("cut"),
        codecs=learnt.get("codecs", []),
        codec=plan.planned.codec,
        head=learnt.get("head"),
        load=load or None,
        frames_wanted=load.get("frames", plan.frames) if outcome == "complete" else plan.frames,
        clock=learnt.get("clock"),
        notes=(*plan.notes, *learnt.get("notes", []), *_sharing(certificate)),
        # The session's own facts last: its provider is what the tail ran on.
        edge=testbed.edge_facts | learnt.get("edge", {}) | _sizes(learnt),
    )
    finish(folder, manifest)
    return manifest


def finish(folder: RunFolder, manifest: RunManifest) -> None:
    """Write a run's last manifest; StorageFull says which rows are kept without it."""
    try:
        write_manifest(folder.folder, manifest)
    except StorageFull as error:
        frames = folder.frames("device")
        rows = frames.read_bytes().count(b"\n") if frames.is_file() else 0
        raise StorageFull(
            f"no space left to finish {folder.folder / MANIFEST}, but {rows:,} rows are safe in "
            f"{frames}: free some space, or give another folder with --out"
        ) from error


def _start_device(
    testbed: Testbed, plan: RunPlan, run_id: str, folder: RunFolder
) -> subprocess.Popen[bytes]:
    listing = folder.folder / "pictures.txt"
    # Bytes, because a file name need not be text.
    listing.write_bytes(b"".join(os.fsencode(path) + b"\n" for path in plan.pictures))
    options: dict[str, object] = {
        "edge": testbed.link.address,
        "model": plan.model.name,
        "model-digest": plan.model.canonical.id.digest,
        "cut": plan.cut,
        "codec": f"{FILE_MARK}{_planned_file(plan, folder)}",
        "pictures": listing,
        "frames": plan.frames,
        "warmup": plan.warmup,
        "window": plan.load.window,
        "reply": plan.reply,
        "provider": plan.provider,
        "threads": plan.threads,
        "timeout-s": plan.timeout_s,
        "sample-s": testbed.options.sample_s,
        "out": testbed.options.out,
        "run-id": run_id,
        # A cache of its own: every run fetches its head over the link, and says what that took.
        "cache": folder.folder / "head",
        "link-delay-ms": ",".join(f"{ns / 1e6:.6f}" for ns in testbed.least_delays_ns),
        **plan.device,
        **plan.connection,
        **plan.load_flags,
    }
    if plan.reference is not None:
        options["reference"] = plan.reference
    arguments = ["-m", "device_node", "--orchestrated"]
    for name, value in options.items():
        arguments += [f"--{name}", str(value)]
    with folder.log("device").open("ab") as errors, testbed.on_device():
        return children.start_module(arguments, errors)


def _planned_file(plan: RunPlan, folder: RunFolder) -> Path:
    """The very file that the device reads, kept with the run."""
    path = folder.folder / "codec.json"
    path.write_bytes(msgspec.json.encode(plan.planned))
    return path


def _wait(
    device: subprocess.Popen[bytes],
    testbed: Testbed,
    folder: RunFolder,
    stop: threading.Event,
    progress: Callable[[int], None],
) -> str:
    """Until the device ends; the run's outcome."""
    rows, position, told = 0, 0, False
    path = folder.frames("device")
    while device.poll() is None:
        if stop.is_set() and not told:
            device.terminate()
            told = True
        time.sleep(_POLL_S)
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                new = file.read()
            position += len(new)
            rows += new.count(b"\n")
            progress(rows)
    if device.returncode == 0:
        return "complete"
    others = testbed.ended()
    words = children.last_words(folder.log("device")).removeprefix("device: ")
    if device.returncode < 0:
        words = f"the device {children.ending(device)}"
        if told:  # it had not begun, and ended at our word
            words = "stopped before the first frame"
    return f"{others}; {words}" if others else words


def _labels(plan: RunPlan) -> dict[str, int]:
    names = {path.name for path in plan.pictures}
    return {name: label for name, label in plan.labels.items() if name in names}


def _sizes(learnt: dict[str, Any]) -> dict[str, Any]:
    return {"tail_bytes": learnt["tail_bytes"]} if "tail_bytes" in learnt else {}


def _sharing(certificate: LinkCertificate) -> tuple[str, ...]:
    if certificate.users == 1:
        return ()
    return (
        f"{certificate.users} devices shared the link; arithmetic and transport excess know of one",
    )


def _plain(verification: Verification | None) -> dict[str, Any] | None:
    return None if verification is None else msgspec.to_builtins(verification)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
