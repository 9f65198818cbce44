"""`python -m edge_node`: serve models to devices until SIGTERM."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_node.metrics import Metrics
from edge_node.partitions import Partitions
from edge_node.service import EdgeService
from edge_node.status import StatusServer, status_app
from edge_node.store import ModelStore
from edge_node.turns import Turns, tails_at_once
from splitbed import config, engine_probe, process
from splitbed.address import host_and_port
from splitbed.engine import Accelerator, distribution_conflict, working_provider
from splitbed.errors import UsageError
from splitbed.flags import BATCH_WAIT_MS, Batch, BatchWaitMs, SampleSeconds, Tails
from splitbed.host import host_facts, versions
from splitbed.session import ProviderChoice
from splitbed.task import models_folder
from splitbed.transport.grpc_server import GrpcServer


class EdgeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Serve models to devices: cut them on demand, run their tails, show a status page.

    Listens on loopback unless told otherwise; give --listen 0.0.0.0:50051 to be reached from
    other machines, and --tls-cert, --tls-key and --token-file where the network is not trusted.
    """

    models: Annotated[
        Path | None, Meta(description="folder of ONNX files, or one file (default: the embedded)")
    ] = None
    listen: Annotated[str, Meta(description="where devices connect")] = "127.0.0.1:50051"
    status: Annotated[str, Meta(description="where the status page is, '' for none")] = (
        "127.0.0.1:50080"
    )
    provider: Annotated[
        ProviderChoice, Meta(description="checked at start; auto: CUDA if it works")
    ] = "auto"
    gpu_memory_mib: Annotated[
        int,
        Meta(
            description="what runs of one partition may take of the GPU, 0: no bound",
            ge=0,
            le=1 << 20,
        ),
    ] = 0
    tensorrt_cache: Annotated[
        str, Meta(description="folder of TensorRT engines, '' to build them anew at each start")
    ] = "~/.cache/splitbed/tensorrt"
    threads: Annotated[
        int, Meta(description="threads of the tail, 0: as ONNX Runtime chooses", ge=0)
    ] = 0
    records: Annotated[
        str, Meta(description="folder for audit rows, one folder a run, '' for none")
    ] = "runs"
    sessions: Annotated[int, Meta(description="devices at once, at most", ge=1, le=1024)] = 64
    tails: Tails = 0
    batch: Batch = 1
    batch_wait_ms: BatchWaitMs = BATCH_WAIT_MS
    engines: Annotated[int, Meta(description="partitions kept warm, at most", ge=1)] = 16
    message_mib: Annotated[int, Meta(description="largest message, both ways", ge=1, le=2000)] = 128
    sample_s: SampleSeconds = 0.5
    tls_cert: Annotated[Path | None, Meta(description="certificate chain in PEM; turns TLS on")] = (
        None
    )
    tls_key: Annotated[Path | None, Meta(description="its private key in PEM")] = None
    token_file: Annotated[
        Path | None, Meta(description="file with a token every device must show")
    ] = None


def serve(argv: Sequence[str]) -> int:
    """Run an edge until SIGTERM or SIGINT."""
    options = config.from_command_line(
        EdgeOptions, argv, command="python -m edge_node", table="edge"
    )
    process.end_with_parent()
    stop = process.stop_event()
    conflict = distribution_conflict()
    if conflict:
        sys.stderr.write(f"edge: {conflict}\n")
    if (options.tls_cert is None) != (options.tls_key is None):
        raise UsageError("TLS needs both --tls-cert and --tls-key")
    message_bytes = options.message_mib * 1024 * 1024
    engine_probe.ensure_usable()
    provider = working_provider(options.provider)
    store = ModelStore(options.models or models_folder())
    metrics = Metrics()
    partitions = Partitions(
        store,
        provider=options.provider,
        threads=options.threads,
        engines=options.engines,
        accelerator=Accelerator(
            options.gpu_memory_mib << 20,
            Path(options.tensorrt_cache).expanduser() if options.tensorrt_cache else None,
        ),
    )
    turns = Turns(
        options.tails or tails_at_once(provider, options.threads),
        batch=options.batch,
        wait_ms=options.batch_wait_ms,
    )
    service = EdgeService(
        partitions,
        metrics,
        records=Path(options.records).expanduser() if options.records else None,
        sessions=options.sessions,
        message_bytes=message_bytes,
        sample_interval_s=options.sample_s,
        node={
            "versions": versions(),
            "host": host_facts(),
            "threads": options.threads,
            "tails": turns.at_once,
            "batch": turns.batch,
            "batch_wait_ms": options.batch_wait_ms,
        },
        turns=turns,
    )
    tls = None
    if options.tls_cert is not None and options.tls_key is not None:
        tls = (options.tls_cert, options.tls_key)
    server = GrpcServer(
        service,
        options.listen,
        tls=tls,
        token=config.read_token(options.token_file),
        streams=options.sessions,
        message_bytes=message_bytes,
    )
    status = None
    if options.status:
        app = status_app(service, store, partitions, metrics, server.address)
        status = StatusServer(app, host_and_port(options.status))
    process.announce(
        address=server.address,
        status=status.address if status else "",
        models=len(store.names()),
        provider=provider,
    )
    stop.wait()
    server.stop(grace_s=5)
    if status is not None:
        status.stop()
    service.close()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; an exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return process.guarded(lambda: serve(arguments), "edge")


if __name__ == "__main__":
    sys.exit(main())
