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

from edge_node.metrics import Metrics
from edge_node.partitions import Partitions
from edge_node.service import EdgeService
from edge_node.store import ModelStore
from splitbed import __version__, codec
from splitbed.codec.registry import offered
from splitbed.errors import TransportError
from splitbed.session import SessionSpec, placement_name

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .6rem;
border-bottom: 1px solid #8884; }
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
        facts = [
            ("Serves devices at", f"<code>{html.escape(address)}</code>"),
            ("Running for", f"{time.monotonic() - started:.0f} s"),
            ("Frames so far", f"{metrics.frames}"),
            ("Warm partitions", f"{engines}"),
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
            + _sessions(service.sessions())
            + stages
            + f"<h2>Models</h2><ul>{models or '<li>none in the folder'}</ul>"
            "<p class=quiet>Numbers for machines: <a href=/metrics>/metrics</a>, "
            "<a href=/healthz>/healthz</a>. This page renews itself every 5 s."
        )

    return app


def _sessions(specs: list[SessionSpec]) -> str:
    if not specs:
        return "<p class=quiet>No device is connected."
    rows = []
    for spec in specs:
        cells = (
            spec.run_id,
            spec.model,
            spec.cut.name,
            placement_name(spec.placement),
            codec.written(spec.codecs[0]) if spec.codecs else "",
            spec.provider,
        )
        rows.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}" for cell in cells))
    return (
        "<table><tr><th>Run<th>Model<th>Cut<th>Placement<th>Codec<th>Provider"
        + "".join(rows)
        + "</table>"
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
