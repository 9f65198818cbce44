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
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .6rem;
border-bottom: 1px solid #8884; white-space: nowrap; }
.wide { overflow-x: auto; } .number { text-align: right; font-variant-numeric: tabular-nums; }
code { font-family: ui-monospace, monospace; } .quiet { opacity: .7; }
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
            ("Running for", f"{time.monotonic() - started:.0f} s"),
            ("Frames so far", f"{metrics.frames}"),
            ("Warm partitions", f"{engines}"),
            ("Tails at once", f"{turns.at_once}, {turns.waiting()} waiting"),
            ("Frames in one run", f"{turns.batch} at most" if turns.batch > 1 else "1"),
            ("Parts ready to be fetched", str(parts)),
        ]
        models = "".join(f"<li><code>{html.escape(name)}</code></li>" for name in store.names())
        stages = "".join(
            f"<li><code>{html.escape(one.id)}</code> of {html.escape(one.origin)}"
            for one in offered()
        )
        stages = stages and f"<h2>Codec stages of other packages</h2><ul>{stages}</ul>"
        return (
            "<!doctype html><html lang=en><meta charset=utf-8><title>splitbed edge</title>"
            "<meta name=viewport content='width=device-width'><meta http-equiv=refresh content=5>"
            f"<style>{_STYLE}</style><h1>splitbed edge</h1><table>"
            + "".join(f"<tr><th>{name}<td>{value}" for name, value in facts)
            + "</table><h2>Sessions</h2>"
            + _sessions(service.balances())
            + stages
            + f"<h2>Models</h2><ul>{models or '<li>none in the folder'}</ul>"
            "<p class=quiet>Numbers for machines: <a href=/metrics>/metrics</a>, "
            "<a href=/healthz>/healthz</a>. This page renews itself every 5 s."
        )

    return app


_COLUMNS = (
    *("Run", "Model", "Cut", "Placement", "Codec", "Provider", "Open s", "Frames", "Failed"),
    *("MB up", "MB down", "Tail ms", "Queue ms", "Batch"),
)


def _sessions(balances: list[Balance]) -> str:
    if not balances:
        return "<p class=quiet>No device is connected."
    rows = []
    for one in balances:
        spec, frames = one.spec, max(1, one.frames)
        cells = (
            spec.run_id,
            spec.model,
            spec.cut.name,
            placement_name(spec.placement),
            codec.written(spec.codecs[0]) if spec.codecs else "",
            one.provider.removesuffix("ExecutionProvider") or "none",
        )
        numbers = (
            f"{one.open_s:,.0f}",
            f"{one.frames:,}",
            f"{one.failed:,}",
            f"{one.up_bytes / 1e6:,.2f}",
            f"{one.down_bytes / 1e6:,.2f}",
            f"{one.tail_ns / frames / 1e6:,.2f}",
            f"{one.queue_ns / frames / 1e6:,.2f}",
            f"{one.batch_sum / frames:.1f}, at most {one.batch_most}" if one.frames else "",
        )
        rows.append(
            "<tr>"
            + "".join(f"<td>{html.escape(str(cell))}" for cell in cells)
            + "".join(f"<td class=number>{number}" for number in numbers)
        )
    reasons = sorted(
        {f"{o.spec.model} at {o.spec.cut.name}: {o.why_single}" for o in balances if o.why_single}
    )
    return (
        "<div class=wide><table><tr>"
        + "".join(f"<th>{column}" for column in _COLUMNS)
        + "".join(rows)
        + "</table></div><p class=quiet>Tail and queue: mean of a frame. Frames that shared a run "
        "of the tail have a share of its time each."
        + "".join(f"<p>Not batched: {html.escape(reason)}" for reason in reasons)
    )


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
