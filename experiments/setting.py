"""How runs were made, in words: what tells them apart where several stand together."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.run_facts import Setting
from experiments.summary import Summary


def load_words(setting: Setting) -> str:
    """How frames came: `25 frames/s`; "" for one after the other."""
    if setting.load:
        return "all frames due at once" if setting.load == "offline" else setting.load
    return f"{setting.window} frames in flight" if (setting.window or 1) > 1 else ""


def held_text(cpus: str | None, cpu_quota: float | None) -> str:
    """What the device was held to: `core 0 and 0.5 of a core`; "" for nothing."""
    held = []
    if cpus:
        held.append(f"core {cpus}" if cpus.isdigit() else f"cores {cpus}")
    if cpu_quota is not None:
        held.append(f"{cpu_quota:g} of a core")
    return " and ".join(held)


def told_apart(summaries: Sequence[Summary]) -> list[str]:
    """Of each run, what it has and not all of the others have; "" where nothing is.

    A default is not told: of a run with 8 frames in flight and one without, the first is marked.
    """
    facets = [_facets(summary) for summary in summaries]
    told = _differing(facets)
    return [", ".join(_words(one, told)) for one in facets]


def places(summaries: Sequence[Summary]) -> list[str]:
    """The link of each run, and under which conditions: `lte for NET with 8 frames in flight`.

    The load and the device's limits always, all else where the runs differ in it.
    """
    facets = [_facets(summary) for summary in summaries]
    differing = _differing(facets)
    told = (differing | {"load", "limits"}) - {"link", "model"}
    found = []
    for one in facets:
        model = f" for {one['model']}" if "model" in differing else ""
        words = ", ".join(_words(one, told))
        found.append(one["link"] + model + (f" with {words}" if words else ""))
    return found


def _facets(summary: Summary) -> dict[str, str]:
    """In the order in which they are told."""
    setting = summary.setting
    held = held_text(setting.cpus, setting.cpu_quota)
    return {
        "model": summary.model,
        "link": summary.link,
        "load": load_words(setting),
        # Elsewhere the load's words are those of the window.
        "window": f"{setting.window or 1} in flight at most" if setting.load else "",
        "limits": held and f"the device on {held}",
        "head": _thread_words("head", setting.threads),
        "tail": _thread_words("tail", setting.edge_threads),
        "provider": setting.provider or "",
        "turns": setting.turns,
    }


def _differing(facets: Sequence[dict[str, str]]) -> set[str]:
    found = {name: {one[name] for one in facets} for name in next(iter(facets), {})}
    # A window in open loop is told beside another one, not beside a closed loop.
    return {
        name
        for name, values in found.items()
        if len(values - ({""} if name == "window" else set())) > 1
    }


def _words(facets: dict[str, str], told: set[str]) -> list[str]:
    return [words for name, words in facets.items() if name in told and words]


def _thread_words(part: str, count: int | None) -> str:
    if count is None:
        return ""
    text = {0: "ONNX Runtime's threads", 1: "1 thread"}.get(count, f"{count} threads")
    return f"{part} on {text}"
