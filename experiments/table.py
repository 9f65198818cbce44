"""Figures in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from experiments.clock_summary import clock_text, ways_text
from experiments.load_table import budget_note, budget_table, load_facts
from experiments.node_use import use_facts
from experiments.run_facts import CertifiedLink
from experiments.setting import held_text, told_apart
from experiments.statistics import PairedLoss, Share
from experiments.summary import STAGES, Summary
from experiments.terminal import hanging, printable, write_to
from splitbed.link import Replay
from splitbed.percentile import Percentile


def print_run(summary: Summary, console: Console) -> None:
    """One run: its stages, its bytes, its answers, its link."""
    title = Text.assemble(
        *((printable(summary.model), "bold"), " cut at ", (printable(summary.cut), "bold")),
        *(", coded ", (printable(summary.codec), "bold")),
        f", over {printable(summary.link)} ({summary.link_kind})",
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("ms a frame")
    for name in summary.total_ms:
        table.add_column(name, justify="right")
    table.add_column("of p50", justify="right")
    middle = summary.total_ms["p50"].value
    for stage in STAGES:
        values = summary.stages_ms[stage]
        if max(values.values()) == 0:
            continue
        part = f"{100 * values['p50'] / middle:.1f} %"
        table.add_row(stage, *(f"{value:.3f}" for value in values.values()), part)
    table.add_section()
    table.add_row(
        "[bold]end to end", *(f"[bold]{p.value:.3f}" for p in summary.total_ms.values()), ""
    )
    for name, ends in (
        ("  95 % from", (p.low for p in summary.total_ms.values())),
        ("  95 % to", (p.high for p in summary.total_ms.values())),
    ):
        table.add_row(name, *("-" if end is None else f"{end:.3f}" for end in ends), "")
    whole: list[RenderableType] = [title, table]
    whole += [hanging(name, text, console) for name, text in facts(summary)]
    budgets = budget_table(summary)
    if budgets is not None:
        whole += [budgets, budget_note(summary)]
    write_to(console, *whole)


def facts(summary: Summary) -> list[tuple[str, str]]:
    """What is said of a run beside its stages: name and text."""
    found = [
        (
            "frames",
            f"{summary.frames_answered:,} of {summary.frames_wanted:,} measured, "
            f"{summary.frames_failed} failed, {summary.warmup_frames} warm-up",
        ),
        *load_facts(summary),
        (
            "bytes a frame",
            f"up {summary.request_bytes:,.0f}, down {summary.reply_bytes:,.0f}; boundary "
            f"{summary.raw_bytes:,} raw, {summary.payload_bytes:,.0f} coded",
        ),
    ]
    if summary.accuracy is not None:
        text = share_text(summary.accuracy)
        if summary.anchor_accuracy is not None:
            text += f"; uncut {summary.anchor_accuracy.pct:.1f} %"
        found.append(("accuracy", text))
    if summary.loss is not None:
        loss = summary.loss
        found.append(
            (
                "loss to uncut",
                f"{loss.points:+.2f} points ({loss.low:+.2f} to {loss.high:+.2f}); "
                f"{loss.became_wrong} wrong, {loss.became_right} right",
            )
        )
    if summary.agreement is not None:
        found.append(("as uncut", share_text(summary.agreement)))
    if summary.max_difference is not None:
        text = f"largest difference from uncut {summary.max_difference:.3g}"
        if summary.rms_difference_pct is not None:
            text += f"; {summary.rms_difference_pct:.2g} % of them, root mean square"
        found.append(("outputs", text))
    if summary.transport_excess_ms is not None:
        text = f"transport excess {summary.transport_excess_ms:.2f} ms"
        if summary.arithmetic_ms is not None:
            off = 100 * (summary.total_ms["p50"].value / summary.arithmetic_ms - 1)
            text = f"{summary.arithmetic_ms:.2f} ms, measured {off:+.1f} %; {text}"
        found.append(("arithmetic", text))
    found.append(("bookkeeping rest", f"{summary.rest_pct:.2f} % of end to end"))
    if summary.session_bytes:
        text = f"{summary.session_bytes:,} bytes with its calibration, once a session"
        found.append(("codec", text))
    if summary.head_bytes:
        found.append(
            (
                "head file",
                f"{summary.head_bytes:,} bytes, fetched in {summary.head_fetch_ms:.0f} ms",
            )
        )
    for node, ready in summary.preparation.items():
        text = f"{ready.provider.removesuffix('ExecutionProvider')}, "
        if ready.init_ms:
            text += f"loaded in {ready.init_ms:.0f} ms, first inference "
            text += f"{ready.first_inference_ms:.1f} ms"
        else:
            text += "warm from an earlier run"
        found.append((f"{node} engine", text))
    if summary.setting.turns:
        found.append(("edge turns", summary.setting.turns))
    for node, use in summary.use.items():
        found += use_facts(node, use)
    if summary.slowdown is not None:
        found.append(("device limits", slowdown_text(summary)))
    if summary.clock is not None:
        found.append(("clocks", clock_text(summary.clock)))
        ways = ways_text(summary.clock)
        if ways:
            found.append(("one way", ways))
    verdict = "; ".join(summary.violations) or "certified before and after"
    if summary.link_kind == "direct" and not summary.violations and summary.certified is not None:
        found_link = summary.certified
        verdict = (
            f"nothing asked of it; measured {found_link.up_goodput_mbps:,.0f} Mbit/s up, "
            f"{found_link.rtt_ms:.2f} ms round trip"
        )
    if summary.link_attempts > 1:
        verdict += f" (before: at measurement {summary.link_attempts})"
    if summary.link_users > 1:
        verdict += f"; {summary.link_users} devices shared it"
    found.append(("link", verdict))
    if summary.replay is not None:
        found.append(("trace", replay_text(summary.replay)))
    if summary.certified is not None:
        found.append(("link measured", measured_text(summary.certified)))
    if not summary.complete:
        found.append(("INCOMPLETE", summary.outcome))
    return found


def slowdown_text(summary: Summary) -> str:
    """What the device was held to, and what that did to its head."""
    ratio, low, high = (float((summary.slowdown or {})[n]) for n in ("ratio", "low", "high"))
    text = f"the head takes {ratio:.2f} times as long ({low:.2f} to {high:.2f})"
    held = held_text(summary.setting.cpus, summary.setting.cpu_quota)
    return f"{held}: {text}"


def print_comparison(summaries: Sequence[Summary], console: Console) -> None:
    """Several runs, one line each, fastest first."""
    table = Table(box=None, pad_edge=False)
    table.add_column("cut and codec", overflow="fold")
    for heading in ("p50 ms", "p95", "link", "bytes up", "accuracy", "loss"):
        table.add_column(heading, justify="right", no_wrap=True)
    ordered = sorted(summaries, key=lambda s: s.total_ms["p50"].value)
    for summary, apart in zip(ordered, told_apart(ordered), strict=True):
        accuracy, loss = accuracy_and_loss(summary)
        table.add_row(
            Text(
                printable(summary.name) + mark(summary) + (f"\n  {printable(apart)}" * bool(apart))
            ),
            f"{summary.total_ms['p50'].value:.2f}",
            f"{summary.total_ms['p95'].value:.2f}",
            f"{summary.stages_ms['link']['p50']:.2f}",
            f"{summary.request_bytes:,.0f}",
            "" if accuracy is None else f"{accuracy.pct:.1f} %",
            "" if loss is None else f"{loss.points:+.1f}",
        )
    whole: list[RenderableType] = [table]
    pictures = {s.evaluation.pictures for s in summaries if s.evaluation is not None}
    if pictures:
        whole.append(f"accuracy and loss: of {max(pictures)} pictures, evaluated without the link")
    write_to(console, *whole)


def mark(summary: Summary) -> str:
    """What is to be known of a run beside its name, if anything."""
    found = "" if summary.complete else " (incomplete)"
    return f"{found} (beyond capacity)" if summary.flow.beyond_capacity else found


def accuracy_and_loss(summary: Summary) -> tuple[Share | None, PairedLoss | None]:
    """On the larger set of pictures: the evaluated one, where there is one."""
    if summary.evaluation is not None:
        return summary.evaluation.accuracy, summary.evaluation.loss
    return summary.accuracy, summary.loss


def interval(found: Percentile) -> str:
    """`low..high`; a dash where the sample is too small for that end, or for both."""
    if found.low is None and found.high is None:
        return "-"
    low = "-" if found.low is None else f"{found.low:.2f}"
    high = "-" if found.high is None else f"{found.high:.2f}"
    return f"{low}..{high}"


def replay_text(replay: Replay) -> str:
    """What became of a trace, in a line."""
    return (
        f"{replay.trace}: {replay.changes} changes in {replay.elapsed_ns / 1e9:.0f} s, late by "
        f"{replay.drift_p50_ns / 1e6:.2f} ms (p50), {replay.drift_max_ns / 1e6:.1f} at most"
    )


def measured_text(link: CertifiedLink) -> str:
    """What the certificate holds beside goodput: round trip, and what datagrams found."""
    text = f"round trip {link.rtt_ms:.2f} ms, deviation {link.jitter_ms:.2f}"
    if link.up_loss_pct is not None and link.down_loss_pct is not None:
        text += f"; lost {link.up_loss_pct:.2f} % up, {link.down_loss_pct:.2f} % down"
    for way, bps in (("up", link.up_udp_bps), ("down", link.down_udp_bps)):
        text += "" if bps is None else f"; UDP {way} {bps / 1e6:.4g} Mbit/s"
    return text


def share_text(found: Share) -> str:
    """`87.9 % (81.0 to 92.5, 109 of 124)`."""
    return (
        f"{found.pct:.1f} % ({found.low_pct:.1f} to {found.high_pct:.1f}, {found.successes} of "
        f"{found.count})"
    )
