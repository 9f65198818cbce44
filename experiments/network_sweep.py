"""A sweep of the network: what it measures, and what of that is there."""

from __future__ import annotations

import contextlib
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from experiments.codec_planning import calibration_pictures, check_written
from experiments.embedded import Apart, is_embedded
from experiments.flow import load_from
from experiments.load_table import load_text
from experiments.run_facts import turns_text
from experiments.run_options import RunOptions
from experiments.setting import held_text
from experiments.summary import Summary, summarise
from netem.profiles import find_profile
from splitbed import config
from splitbed.errors import RecordError, UsageError
from splitbed.load import plan_load
from splitbed.record import config_id
from splitbed.run_folder import MANIFEST, read_manifest

_SWEPT: Final = ("cut", "codec", "link", "out")
_NO_FIGURE_CHANGES: Final = ("command", "out", "json", "accept_uncertified", "auto_cache")


class SweepOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every point on every link: rates x delays x losses, and whole links beside them."""

    points: Annotated[tuple[str, ...], Meta(description="a cut and its codec")] = ()
    rates: Annotated[tuple[str, ...], Meta(description="both ways, as in 10mbit")] = ()
    delays: Annotated[tuple[str, ...], Meta(description="one way, as in 25ms")] = ("0ms",)
    losses: Annotated[tuple[str, ...], Meta(description="of packets, each way, as in 1%")] = ("0%",)
    links: Annotated[tuple[str, ...], Meta(description="profiles, or links written out")] = ()


class SweptLink(msgspec.Struct, frozen=True):
    """One link of a sweep. Rate, delay and loss as they were written; "" for 0, or given whole."""

    text: str
    """As `splitbed run --link` takes it."""
    rate: str = ""
    delay: str = ""
    loss: str = ""

    @property
    def label(self) -> str:
        """In short, for a table."""
        return " ".join(filter(None, (self.rate, self.delay, self.loss))) or self.text


class Configuration(NamedTuple):
    """What one run of a sweep measures."""

    cut: str
    codec: str
    link: str


class Sweep(msgspec.Struct, frozen=True):
    """A sweep as it was read from its file."""

    options: RunOptions
    """Those of its first run; the others differ by cut, codec and link."""
    arguments: tuple[str, ...]
    """What every `splitbed run` is told besides these three."""
    points: tuple[tuple[str, str], ...]
    """Cut and codec."""
    links: tuple[SweptLink, ...]
    rendered: Apart | None = None
    """Where its pictures are rendered; None where they were given."""

    @property
    def configurations(self) -> list[Configuration]:
        """In the order in which they are measured: all points of a link, then the next link."""
        return [Configuration(*point, link.text) for link in self.links for point in self.points]

    @property
    def calibrated_from(self) -> int:
        """Pictures to calibrate from that one of its points needs."""
        wanted = self.options.calibration_count
        return max(calibration_pictures(coding, wanted) for _, coding in self.points)

    @property
    def conditions(self) -> str:
        """What all of its runs have in common beside the model: load, device, and edge."""
        options = self.options
        load = load_from(plan_load(options, options.frames or 1).facts())
        parts = [load_text(load)]
        if load.is_open:
            parts.append(f"{load.window} in flight at most")
        threads = {0: "as many threads as ONNX Runtime takes", 1: "1 thread"}
        parts.append(f"head on {threads.get(options.threads, f'{options.threads} threads')}")
        held = held_text(options.cpus, options.cpu_quota)
        parts += [f"device held to {held}"] * bool(held)
        turns = turns_text(msgspec.structs.asdict(options), {})
        parts += [f"at the edge {turns}"] * bool(turns)
        return "; ".join(parts)

    def measured(self) -> tuple[dict[Configuration, Summary], dict[Configuration, str]]:
        """What the output folder holds of it: finished runs, and why there is none of the rest.

        A run counts where all that it was asked for is what this sweep asks for, where it is
        complete, and where its link was certified, by the report's rule. The newest one counts. An
        edge that runs already may have been started anew, with other turns of tails, while the
        sweep was interrupted: only runs of the newest one's setting count.
        """
        wanted = {_identity(self._asked(one)): one for one in self.configurations}
        found: dict[Configuration, Summary] = {}
        newest: Summary | None = None
        why_not = dict.fromkeys(self.configurations, "no run of it was begun")
        places = self.options.out.glob(f"*/{MANIFEST}")
        for folder in (path.parent for path in sorted(places, key=lambda p: p.stat().st_mtime)):
            with contextlib.suppress(RecordError):  # of another version
                one = wanted.get(_identity(read_manifest(folder).config))
                if one is not None:
                    why_not[one] = "no frame was measured"
                    summary = summarise(folder)
                    why_not[one] = self._flaw(summary)
                    if not why_not[one]:
                        found[one] = newest = summary
        for one, run in list(found.items()):
            if newest is not None and run.setting != newest.setting:
                why_not[one] = (
                    f"measured with {run.setting.turns or 'other turns of tails'} at the edge, now "
                    f"{newest.setting.turns or 'with others'}"
                )
                del found[one]
        return found, {one: why for one, why in why_not.items() if one not in found}

    def _flaw(self, summary: Summary) -> str:
        """Why a run does not count; "" where it does."""
        if not summary.complete:
            return summary.outcome
        if summary.violations and not self.options.accept_uncertified:
            return f"left out for its link: {summary.violations[0]}"
        return ""

    def _asked(self, one: Configuration) -> dict[str, Any]:
        options = msgspec.structs.replace(self.options, **one._asdict())
        settings: dict[str, Any] = msgspec.to_builtins(options, enc_hook=str)
        return settings


def read_sweep(file: Path, out: Path) -> Sweep:
    """The sweep that a TOML file asks for, its runs to lie in `out`.

    Raises UsageError for a key, a figure or a codec that is not known, with its place.
    """
    table = "network_sweep"
    asked = config.from_command_line(
        SweepOptions, ["--config", str(file)], command=table, table=table
    )
    where, given = f"[{table}] of {file}", config.load_toml(file).get("run", {})
    for name in (name for name in _SWEPT if name in given):
        raise UsageError(f"'{name}' in [run] of {file} is what a sweep gives each run: take it out")
    links = _links(asked, where)
    if not asked.points or not links:
        raise UsageError(f"{where} asks for nothing: it needs points, and rates or links")
    points = tuple(dict.fromkeys(_point(text, where) for text in asked.points))
    arguments = ["--out", str(out.absolute())]
    rendered: Apart | None = None
    if "images" not in given and is_embedded(Path(str(given.get("model", "")))):
        pictures = out.absolute() / "pictures"
        rendered = Apart(pictures / "measured", pictures / "calibration")
        arguments += ["--images", str(rendered.measured)]
        arguments += ["--calibration-images", str(rendered.calibration)]
    arguments += ["--config", str(file)]
    first = ["--cut", points[0][0], "--codec", points[0][1], "--link", links[0].text]
    options = config.from_command_line(
        RunOptions, [*first, *arguments], command="splitbed run", table="run"
    )
    if options.images is None:
        raise UsageError(
            f"{options.model.name} needs pictures: say `images = FOLDER` in [run] of {file}"
        )
    return Sweep(options, tuple(arguments), points, links, rendered)


def _links(asked: SweepOptions, where: str) -> tuple[SweptLink, ...]:
    figures: dict[str, list[str]] = {}
    for key, name in (("delays", "delay"), ("losses", "loss"), ("rates", "rate")):
        figures[name] = []
        for text in getattr(asked, key):
            if "," in text:
                raise UsageError(f"{key} in {where}: '{text}' says more than one: use links for it")
            # What changes nothing need not be said.
            is_shaped = _is_shaped(f"{name}={text}", f"{key} in {where}")
            figures[name].append(text if is_shaped else "")
    found: dict[str, SweptLink] = {}
    for delay, loss, rate in product(*figures.values()):
        items = (("rate", rate), ("delay", delay), ("loss", loss))
        text = ",".join(f"{name}={figure}" for name, figure in items if figure)
        found.setdefault(text, SweptLink(text, rate, delay, loss))
    for text in asked.links:
        _is_shaped(text, f"links in {where}")
        found.setdefault(text, SweptLink(text))
    return tuple(found.values())


def _is_shaped(link: str, where: str) -> bool:
    try:
        return find_profile(link).is_shaped
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _point(text: str, where: str) -> tuple[str, str]:
    cut, _, coding = text.strip().rpartition(" ")
    if not cut:
        raise UsageError(
            f"points in {where}: '{text}' is not a cut and a codec, as in '@picture jpeg:90'"
        )
    try:
        check_written(coding)
    except UsageError as error:
        raise UsageError(f"points in {where}: '{text}': {error}") from error
    return cut.strip(), coding


def _identity(settings: dict[str, Any]) -> str:
    """What is not asked for does not count: an older run was not asked for it either."""
    asked = {
        k: v for k, v in settings.items() if v not in (None, "") and k not in _NO_FIGURE_CHANGES
    }
    return config_id({k: v for k, v in asked.items() if (k, v) != ("idle_s", 0)})
