"""The plan of a run, made before anything is started."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from experiments.codec_planning import CodecPlan, plan_codec
from experiments.learned import verify_pair
from experiments.measurement import RunPlan
from experiments.pictures import PictureSet, digests, hold_out, read_pictures
from experiments.preparation import (
    PreparedModel,
    prepare_cut,
    reference,
    verify_cut,
    write_reference,
)
from experiments.quantising import verify_quantising
from experiments.run_facts import turns_text
from experiments.run_options import RunOptions
from netem.profiles import find_profile
from netem.traces import find_trace
from splitbed import config
from splitbed.errors import UsageError
from splitbed.graph import list_cuts
from splitbed.limits import check_quota, usable_cpus
from splitbed.load import (
    plan_load,
)

_LOAD = ("load", "deadline_ms", "late", "min_s", "until", "max_frames", "max_s")
_IDENTIFYING = (
    *("cut", "warmup", "window", "reply", "provider", "threads", "edge_threads"),
    *("edge", "backend", "seed"),
)
_LIMITING = ("cpus", "cpu_quota")
_REFERENCE_BYTES = 1 << 30
"""Outputs of the uncut model are kept for comparison up to this size."""


def plan_run(
    model: PreparedModel, options: RunOptions, pictures: PictureSet, scratch: Path, say: Console
) -> RunPlan:
    """Cut, verify, calibrate, and ask the uncut model, before anything is started."""
    held = usable_cpus(options.cpus) if options.cpus else None
    if options.cpu_quota is not None:
        check_quota(options.cpu_quota, held)
    plain = prepare_cut(model, options.cut)
    profile = find_profile(options.link)
    notes: list[str] = []
    coding = plan_codec(
        model,
        plain,
        options.codec,
        lambda: _for_calibration(model, options, pictures),
        calibration=options.calibration,
        threads=options.threads,
        seed=options.seed,
        cached=options.auto_cache,
    )
    prepared, planned = coding.cut, coding.planned
    if coding.choice is not None:
        notes.append(coding.choice.sentence)
        say.print(notes[-1], highlight=False, markup=False)
    if planned.digests:
        seen = [path for path, sha in digests(pictures.paths).items() if sha in planned.digests]
        measurable = pictures.without(seen)
        if seen:
            notes.append(f"{len(seen)} of the pictures served for calibration")
            say.print(f"{notes[-1]}; {len(measurable.paths)} are measured", highlight=False)
        pictures = measurable
        if not pictures.paths:
            raise UsageError(
                "every picture served for calibration and none is left to be measured: calibrate "
                "from others with --calibration-images"
            )
    listed = next(
        (c for c in list_cuts(model.canonical).cuts if c.point.name == prepared.cut.name), None
    )
    if listed is not None and listed.marks.breaks:
        notes.append(
            f"the cut separates {listed.marks.breaks}, which a runtime fuses; at "
            f"'{listed.marks.moved_to}' the same bytes cross"
        )
        say.print(notes[-1], highlight=False)
    check_labels(model, pictures)
    frames = options.frames or len(pictures.paths)
    measured = pictures.spread(frames)
    verification = verify_cut(model, plain, measured, options.threads)
    verify_pair(model, plain, prepared, measured, options.threads)
    verify_quantising(model, prepared, planned.codecs, measured, options.threads)
    keep = model.task.output != "argmax" or options.reply == "full"
    output_bytes = sum(spec.nbytes for spec in model.canonical.outputs) * len(measured)
    uncut = reference(model, measured, 0, keep and output_bytes <= _REFERENCE_BYTES)
    path: Path | None = None
    if uncut.outputs:
        path = scratch / "reference.npz"
        write_reference(path, uncut.outputs)
    settings: dict[str, Any] = msgspec.to_builtins(options, enc_hook=str)
    settings["command"] = config.command_line(options, "splitbed run")
    load = plan_load(options, frames)
    contents = hashlib.sha256("".join(digests(measured).values()).encode())
    return RunPlan(
        model=model,
        cut=options.cut if options.cut.startswith("@") else prepared.cut.name,
        planned=planned,
        pictures=measured,
        labels=pictures.labels,
        frames=frames,
        warmup=options.warmup,
        load=load,
        reply=options.reply,
        provider=options.provider,
        threads=options.threads,
        timeout_s=options.timeout_s,
        seed=options.seed,
        load_flags={
            name.replace("_", "-"): settings[name]
            for name in ("seed", *_LOAD)
            if settings[name] not in (None, "")
        },
        device={
            name: value
            for name, value in (
                ("cpus", options.cpus),
                ("cpu-quota", options.cpu_quota),
                ("idle-s", options.idle_s),
            )
            if value
        },
        connection={
            name: value
            for name, value in (
                ("tls-ca", options.tls_ca),
                ("token-file", options.token_file),
                ("message-mib", options.message_mib),
            )
            if value is not None
        },
        settings=settings,
        identity={
            "model": model.canonical.id.digest,
            "codec": planned.codec,
            "calibration": _fitted(coding),
            "link": msgspec.to_builtins(profile),
            "trace": find_trace(options.trace, profile).digest if options.trace else None,
            "pictures": contents.hexdigest(),
            "frames": frames,
            # Left out where nothing is asked for, so that older runs keep their identity.
            **({} if load.is_plain else {"load": load.facts()}),
            **{name: settings[name] for name in _LIMITING if settings[name]},
            **({"turns": turns} if (turns := turns_text(settings, {})) else {}),
            **({} if planned.pair is None else {"pair": planned.pair.digest}),
            **{name: settings[name] for name in _IDENTIFYING},
        },
        answers=uncut.answers,
        reference=path,
        verification=verification,
        notes=tuple(notes),
    )


def _fitted(coding: CodecPlan) -> object:
    """What else than its text makes a codec what it is."""
    if coding.calibration is not None:
        return msgspec.to_builtins(coding.calibration.tensors)
    return msgspec.to_builtins(coding.planned.codecs) if coding.planned.digests else None


def _for_calibration(model: PreparedModel, options: RunOptions, pictures: PictureSet) -> PictureSet:
    if options.calibration_images is None:
        paths, labels = hold_out(pictures, options.calibrated_from, options.seed), pictures.labels
    else:
        given = read_pictures(options.calibration_images, None)
        paths, labels = given.spread(options.calibrated_from), given.labels
    found = PictureSet(paths, labels)
    check_labels(model, found)
    return found


def check_labels(model: PreparedModel, pictures: PictureSet) -> None:
    """A label that the model cannot answer is a mistake in the labels, not a wrong answer."""
    if model.task.output != "argmax":
        return
    outputs = model.canonical.outputs
    scores = next((o for o in outputs if o.name == model.task.scores), outputs[0])
    low, high = -model.task.label_offset, math.prod(scores.shape) - model.task.label_offset
    for path in pictures.paths:
        label = pictures.labels.get(path.name)
        if label is not None and not low <= label < high:
            raise UsageError(
                f"the label of {path.name} is class {label}, and {model.name} knows classes "
                f"{max(0, low)} to {high - 1}: is it the right label file for this model?"
            )
