"""The edge's status page: `/healthz`, `/metrics`, and a page for people at `/`."""

from __future__ import annotations

import html
import socket
import threading
import time
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from edge_node.account import Balance
from edge_node.metrics import Metrics
from edge_node.partitions import Partitions
from edge_node.service import EdgeService
from edge_node.store import ModelStore
from splitbed import __version__, codec
from splitbed.codec.registry import offered
from splitbed.errors import TransportError
from splitbed.session import placement_name

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .3rem .6rem; }
td, li, tbody th { overflow-wrap: anywhere; }
.facts th { width: 11rem; } .facts tr, .numbers td { border-bottom: 1px solid #8884; }
.numbers { width: 100%; } .numbers tr > * { text-align: right; vertical-align: bottom; }
.numbers td { font-variant-numeric: tabular-nums; white-space: nowrap; }
.numbers tbody th { text-align: left; padding: .6rem .6rem 0; font-weight: 400; }
.wide { overflow-x: auto; } code { font-family: ui-monospace, monospace; } .quiet { opacity: .7; }
@media (max-width: 40rem) { .facts th { width: 8rem; } .numbers { font-size: .7rem; }
th, td { padding: .25rem .12rem; } .numbers tbody th { padding: .5rem .12rem 0; } }
"""


def status_app(
    service: EdgeService, store: ModelStore, partitions: Partitions, metrics: Metrics, address: str
) -> FastAPI:
    """The three pages, read-only."""
    app = FastAPI(title="splitbed edge", version=__version__, docs_url=None, redoc_url=None)
    started = time.monotonic()

    @app.get("/healthz", response_class=PlainTextResponse)
    def healthz() -> str:
        return "ok\n"

    @app.get("/metrics")
    def metrics_text() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        engines, parts = partitions.sizes()
        turns = service.turns
        facts = [
            ("Serves devices at", f"<code>{html.escape(address)}</code>"),
            ("Running for", duration_text(time.monotonic() - started)),
            ("Frames so far", f"{metrics.frames:,}"),
            ("Sessions refused", f"{metrics.refusals:,}"),
            ("Tails loaded", f"{engines}"),
            ("Tails at once", f"{turns.at_once}, {turns.waiting():,} waiting"),
            ("Frames in one run", f"{turns.batch} at most" if turns.batch > 1 else "1"),
            ("Heads and tails cut", str(parts)),
        ]
        if metrics.lost_rows:
            lost = f"{metrics.lost_rows:,}, for the reason in the edge's log"
            facts.append(("Audit rows lost", lost))
        models = "".join(f"<li><code>{html.escape(name)}</code></li>" for name in store.names())
        stages = "".join(
            f"<li><code>{html.escape(one.id)}</code> of {html.escape(one.origin)}"
            for one in offered()
        )
        stages = stages and f"<h2>Codec stages of other packages</h2><ul>{stages}</ul>"
        return (
            "<!doctype html><html lang=en><meta charset=utf-8><title>splitbed edge</title>"
            "<meta name=viewport content='width=device-width'><meta http-equiv=refresh content=5>"
            f"<style>{_STYLE}</style><h1>splitbed edge</h1><table class=facts>"
            + "".join(f"<tr><th>{name}<td>{value}" for name, value in facts)
            + "</table><h2>Sessions</h2>"
            + _sessions(service.balances())
            + stages
            + f"<h2>Models</h2><ul>{models or '<li>none in the folder'}</ul>"
            "<p class=quiet>Numbers for machines: <a href=/metrics>/metrics</a>, "
            f"<a href=/healthz>/healthz</a>. splitbed {__version__}; this page renews itself every "
            "5 s."
        )

    return app


_COLUMNS = (
    *("Open", "Frames", "Failed", "MB up", "MB down", "Tail ms", "Queue ms"),
    *("Batch", "Most"),
)


def _sessions(balances: list[Balance]) -> str:
    """Who it is stands above the numbers of each, so that those fit on a phone."""
    if not balances:
        return "<p class=quiet>No device is connected."
    bodies = []
    for one in balances:
        spec, frames = one.spec, max(1, one.frames)
        provider = one.provider.removesuffix("ExecutionProvider")
        about = [
            f"{spec.model} at {spec.cut.name}",
            f"coded {codec.written(spec.codecs[0])}" if spec.codecs else "",
            placement_name(spec.placement),
            f"tail on {provider}" if provider else "no tail here",
            f"{spec.window} in flight at most" if spec.window > 1 else "",
        ]
        numbers = (
            duration_text(one.open_s),
            f"{one.frames:,}",
            f"{one.failed:,}",
            f"{one.up_bytes / 1e6:,.2f}",
            f"{one.down_bytes / 1e6:,.2f}",
            f"{one.tail_ns / frames / 1e6:,.2f}",
            f"{one.queue_ns / frames / 1e6:,.2f}",
            f"{one.batch_sum / frames:.1f}" if one.frames else "",
            str(one.batch_most) if one.frames else "",
        )
        bodies.append(
            f"<tbody><tr><th colspan={len(_COLUMNS)}><strong>{html.escape(spec.run_id)}</strong> "
            f"{html.escape(', '.join(filter(None, about)))}<tr>"
            + "".join(f"<td>{number}" for number in numbers)
        )
    reasons = sorted(
        {f"{o.spec.model} at {o.spec.cut.name}: {o.why_single}" for o in balances if o.why_single}
    )
    return (
        "<div class=wide><table class=numbers><thead><tr>"
        + "".join(f"<th>{column}" for column in _COLUMNS)
        + "".join(bodies)
        + "</table></div><p class=quiet>Tail and queue: mean of a frame. Batch: how many frames "
        "shared a run of the tail, on average and at most; each has a share of its time."
        + "".join(f"<p>Not batched: {html.escape(reason)}" for reason in reasons)
    )


def duration_text(seconds: float) -> str:
    """In the two units that matter: `23 s`, `4 min 5 s`, `2 d 3 h`."""
    whole = int(seconds)
    parts = ((whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"))
    counts = [*parts, (whole % 60, "s")]
    first = next((n for n, (count, _) in enumerate(counts) if count), len(counts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in counts[first : first + 2])


class StatusServer:
    """Serves the app on a thread of its own."""

    def __init__(self, app: Any, listen: tuple[str, int]) -> None:
        try:
            family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
            self._socket = socket.create_server(listen, family=family)
        except OSError as error:
            raise TransportError(
                f"the status page cannot listen on {listen[0]}:{listen[1]}: {error.strerror}; give "
                "another address with --status"
            ) from error
        host, port = self._socket.getsockname()[:2]
        self.address = f"{host}:{port}"
        """Where it listens, with the real port."""
        settings = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="status", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(timeout=5)
        self._socket.close()
