"""What a person can say to a node, and to a run that starts one: in the same words.

(`splitbed.load` has those of load.)
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from splitbed.session import ProviderChoice

BATCH_WAIT_MS: Final = 2.0
"""Unless it is told otherwise."""

Tails = Annotated[
    int, Meta(description="tails that run at once, 0: as many as cores allow", ge=0, le=256)
]
Batch = Annotated[
    int, Meta(description="frames of equal tails in one run, at most (1: one by one)", ge=1, le=64)
]
BatchWaitMs = Annotated[float, Meta(description="how long a batch waits to be full", ge=0, le=1000)]

Warmup = Annotated[int, Meta(description="frames before that, marked in the rows", ge=0)]
ReplyChoice = Annotated[
    Literal["auto", "full", "result"],
    Meta(description="what comes back; auto: the result, or full tensors of a raw task"),
]
Window = Annotated[int, Meta(description="frames in flight, at most", ge=1, le=256)]
TailProvider = Annotated[
    ProviderChoice,
    Meta(description="what the edge runs the tail on; auto: CUDA if it works, else the CPU"),
]
HeadThreads = Annotated[
    int, Meta(description="threads of the head, 0: as ONNX Runtime chooses", ge=0)
]
Cpus = Annotated[str, Meta(description="cores of the device, as in 0,2-3: a weaker device")]
CpuQuota = Annotated[
    Annotated[float, Meta(ge=0.01, le=1024)] | None,
    Meta(description="share of a core's time that the device may have, as in 0.5 (control groups)"),
]
RestSeconds = Annotated[
    float,
    Meta(
        description="seconds of rest before the first frame: without it no energy of a frame",
        ge=0,
        le=3600,
    ),
]
ReplySeconds = Annotated[float, Meta(description="longest wait for a reply", gt=0, le=86_400)]
SampleSeconds = Annotated[
    float, Meta(description="seconds between resource samples", ge=0.01, le=3600)
]
MessageMib = Annotated[int, Meta(description="largest message", ge=1, le=2000)]
