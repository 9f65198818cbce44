"""One self-contained page about finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import msgspec

from experiments.frame_plot import cumulative, is_worth_drawing, timeline
from experiments.load_table import budget_note, rate_text, verdict_text
from experiments.plots import bytes_against_accuracy, latency_bars
from experiments.setting import held_text, load_words, told_apart
from experiments.summary import Summary, measured_rows, summarise
from experiments.table import accuracy_and_loss, facts, interval, mark, share_text
from experiments.verdict import Verdict, comparable, decide_by_link
from splitbed import __version__
from splitbed.certificate import LinkCertificate
from splitbed.errors import LinkUncertified, RecordError
from splitbed.record import ReadingSource, RunManifest
from splitbed.run_folder import RunFolder, read_manifest


class ReportedRun(msgspec.Struct, frozen=True):
    """One run as the page shows it."""

    summary: Summary
    apart: str
    """What it has and not all of the others have: its load, its device's limits."""
    conditions: str
    """Load and limits, whatever the others have."""
    throughput: str
    certificate: LinkCertificate | None
    interval: str
    accuracy: str
    loss: str
    agreement: str
    facts: list[tuple[str, str]]
    mark: str
    """What is to be known beside its name: incomplete, beyond capacity."""
    budgets: list[tuple[str, str, str]]
    """Applications; whether answers, and uploads, were in time for them."""
    budget_note: str
    timeline: str
    """Pictures of its frames; "" where they would show nothing."""
    cumulative: str
    command: str
    environment: str


class Gathered(msgspec.Struct, frozen=True):
    """Finished runs: those that may be compared, those refused for their link, and the rest."""

    shown: list[Summary]
    refused: list[Summary]
    empty: list[str]
    """A sentence for each run that nothing can be said of."""

    def check(self) -> None:
        """Raise LinkUncertified where a run was refused."""
        if not self.refused:
            return
        bad = self.refused[0]
        state = "" if bad.complete else f"; it is incomplete: {bad.outcome}"
        uncertified = bad.link_attempts == 0 or any("not measured" in v for v in bad.violations)
        way_out = (
            "certify a run by hand with `splitbed link certify --save RUN/link.json`"
            if uncertified
            else "repeat it on a quieter machine"
        )
        raise LinkUncertified(
            f"{len(self.refused)} of {len(self.refused) + len(self.shown)} runs are left out for "
            f"their link; {bad.name} in {bad.folder} ({bad.frames_answered} of {bad.frames_wanted} "
            f"frames): "
            f"{bad.violations[0]}{state}; {way_out}, or show it with --accept-uncertified"
        )


def gather(folders: Sequence[Path], accept_uncertified: bool) -> Gathered:
    """Summaries of run folders.

    Raises LinkUncertified or RecordError where there is no run at all that may be shown.
    """
    found = Gathered([], [], [])
    for folder in folders:
        try:
            summary = summarise(folder)
        except RecordError as error:
            found.empty.append(str(error))
            continue
        refused = summary.violations and not accept_uncertified
        (found.refused if refused else found.shown).append(summary)
    if not found.shown:
        found.check()
        raise RecordError("; ".join(found.empty[:3]) or "there is no run to report")
    return found


def write_report(summaries: Sequence[Summary], path: Path) -> list[Verdict]:
    """Write the page; its verdicts, one for each link."""
    verdicts = decide_by_link(summaries)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    ordered = sorted(summaries, key=lambda s: s.total_ms["p50"].value)
    apart = {s.folder: text for s, text in zip(ordered, told_apart(ordered), strict=True)}
    runs = [_reported(summary, apart[summary.folder]) for summary in ordered]
    queued = [s for s in ordered if s.load.kind == "offline" or s.flow.beyond_capacity]
    steady = [s for s in ordered if s not in queued]
    # A run without another to compare it with wins against nobody.
    compared = {s.run_id for group in comparable(ordered) if len(group) > 1 for s in group}
    certificates = [run.certificate for run in runs if run.certificate is not None]
    page = environment.get_template("report.html.j2").render(
        model=", ".join(dict.fromkeys(s.model for s in summaries)),
        links=list(dict.fromkeys(s.link for s in summaries)),
        sources=list(dict.fromkeys(c.profile.source for c in certificates if c.profile.source)),
        runs=runs,
        verdicts=verdicts,
        winners=compared & {verdict.winner for verdict in verdicts},
        bars=latency_bars(steady, apart) if steady else "",
        queued_bars=latency_bars(queued, apart) if queued else "",
        scatter=bytes_against_accuracy(ordered, apart),
        accuracy_note=_accuracy_note(summaries),
        rate=_rate,
        loss=_loss,
        udp=_udp,
        written=datetime.now(UTC).isoformat(timespec="minutes"),
        version=__version__,
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RecordError(f"cannot write the report {path}: {error.strerror}") from error
    return verdicts


def _reported(summary: Summary, apart: str) -> ReportedRun:
    manifest = read_manifest(Path(summary.folder))
    evaluation, answered = summary.evaluation, summary.flow.answered_fps
    accuracy, loss = accuracy_and_loss(summary)
    agreement = evaluation.agreement if evaluation else summary.agreement
    setting = summary.setting
    held = held_text(setting.cpus, setting.cpu_quota)
    details = facts(summary)
    rows = measured_rows(Path(summary.folder)) if is_worth_drawing(summary.load) else []
    if evaluation is not None:
        text = f"{share_text(evaluation.accuracy)}, uncut {evaluation.anchor_accuracy.pct:.1f} %"
        after = 1 + [name for name, _ in details].index("bytes a frame")
        details.insert(after, ("accuracy, all", text))
    return ReportedRun(
        summary=summary,
        apart=apart,
        conditions=", ".join(filter(None, (load_words(setting), held))),
        throughput=rate_text(answered.value) if answered else "",
        certificate=manifest.certificate or RunFolder(Path(summary.folder)).read_link(),
        interval=interval(summary.total_ms["p50"]),
        accuracy="" if accuracy is None else f"{accuracy.pct:.1f}",
        loss="" if loss is None else f"{loss.points:+.2f} ({loss.low:+.2f} to {loss.high:+.2f})",
        agreement="" if agreement is None else f"{agreement.pct:.1f}",
        facts=details,
        mark=mark(summary),
        budgets=[
            (budget.applications, verdict_text(budget.answered), verdict_text(budget.uploaded))
            for budget in summary.availability.budgets
        ],
        budget_note=budget_note(summary) if summary.availability.budgets else "",
        timeline=timeline(rows, summary.load) if rows else "",
        cumulative=cumulative(rows, summary.load) if rows else "",
        command=str(manifest.config.get("command", "")),
        environment=_environment(manifest, summary),
    )


def _environment(manifest: RunManifest, summary: Summary) -> str:
    facts = {
        "versions": manifest.versions,
        "host": manifest.host,
        "models": msgspec.to_builtins(manifest.models),
        "model_digest": manifest.model_digest,
        "verification": manifest.verification,
        "started": manifest.started_utc,
        "notes": manifest.notes,
        "resources": {
            node: [_sourced(source) for source in use.sources] for node, use in summary.use.items()
        },
    }
    return msgspec.json.format(msgspec.json.encode(facts), indent=2).decode()


def _sourced(source: ReadingSource) -> str:
    text = f"{source.name}: {source.how}, {source.source}"
    return f"{text}: {source.reason}" if source.reason else text


def _accuracy_note(summaries: Sequence[Summary]) -> str:
    evaluated = next((s.evaluation for s in summaries if s.evaluation), None)
    if evaluated is not None:
        return (
            f"Accuracy on {evaluated.pictures} labelled pictures through head, codec and tail "
            "without the link, which cannot change an answer; loss is paired picture by picture."
        )
    return "Accuracy on the measured frames; loss is paired picture by picture."


def _rate(bps: float | None) -> str:
    return "any" if bps is None else f"{bps / 1e6:.2f}"


def _udp(bps: float | None) -> str:
    return "" if bps is None else f" (UDP {bps / 1e6:.2f})"


def _loss(up_pct: float | None, down_pct: float | None) -> str:
    if up_pct is None or down_pct is None:
        return "not measured"
    return "none" if not up_pct and not down_pct else f"{up_pct:.2f} / {down_pct:.2f} %"
