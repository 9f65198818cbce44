"""Resource samples of one run of the device: at rest, warming up, on measured frames."""

from __future__ import annotations

import threading
from types import TracebackType

from device_node.options import DeviceOptions
from splitbed.record import Phase, ResourceSample
from splitbed.resources import ResourceSampler
from splitbed.run_folder import RowWriter, RunFolder


class Watch:
    """Samples this process while the context lasts; StorageFull or RecordError where its file
    cannot be opened. What goes wrong later ends the samples, never the frames: see `notes`.
    """

    def __init__(
        self,
        options: DeviceOptions,
        run_id: str,
        folder: RunFolder,
        memory_bytes: dict[str, int],
    ) -> None:
        self._idle_s, self._warmup = options.idle_s, options.warmup
        self._working: Phase = "warmup" if options.warmup else "frames"
        self._rows = RowWriter(folder.resources("device"))
        self._sampler = ResourceSampler(
            "device",
            run_id,
            self._keep,
            options.sample_s,
            about=lambda about: folder.write_sources("device", about),
            phase="idle" if options.idle_s else self._working,
            memory_bytes=memory_bytes,
        )

    def rest(self, stop: threading.Event) -> None:
        """Let the machine be idle for as long as was asked for, which is the baseline of energy."""
        if self._idle_s:
            stop.wait(self._idle_s)
        self._sampler.enter(self._working)

    def kept(self, frames: int) -> None:
        """So many frames have their row, warm-up included: once all of warm-up have, the samples
        are of measured frames, the work on the first of them included.
        """
        if frames >= 1:
            self._sampler.mark("after_first_frame")
        if frames >= self._warmup:
            self._sampler.enter("frames")

    @property
    def notes(self) -> tuple[str, ...]:
        """A note where the sampler lost its file, or a meter failed."""
        if self._sampler.error is None:
            return ()
        return (f"resource samples end early, frames do not: {self._sampler.error}",)

    def _keep(self, sample: ResourceSample) -> None:
        self._rows.write(sample)

    def stop(self) -> None:
        """Take the last sample."""
        self._sampler.stop()

    def __enter__(self) -> Watch:
        self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._rows.close()
