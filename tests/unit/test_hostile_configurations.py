"""Codec specifications that no `plan` made, as an edge may be sent: each is refused with a short
sentence, or makes a codec whose payloads are bounded and refused or decoded as ever.
"""

from __future__ import annotations

import base64
import random
import time
from collections import Counter
from typing import Any, Final

import msgspec
import pytest
import zstandard

from splitbed.codec import build, written
from splitbed.codec.damage import damaged, hostile
from splitbed.codec.entropy.coder import CHOICE
from splitbed.codec.registry import ARRAY_STAGES, BYTE_STAGES, SYMBOL_STAGES
from splitbed.errors import CodecError, CodecUnknown
from splitbed.session import StageSpec, TensorCodec
from splitbed.tensor import TensorSpec
from tests.unit.test_hostile_payloads import (
    CODECS,
    MAPS,
    MIB,
    attack,
    codec_for,
    peak_growth_bytes,
    sample,
    specification,
)

MUTATIONS: Final = 1200
"""For each stage of each codec."""
MOST_BYTES: Final = 16 * MIB
"""That any codec may say the payload of a tensor of some hundred elements takes."""


def tried(stages: tuple[StageSpec, ...], spec: TensorSpec, payloads: list[bytes]) -> str:
    """What became of a specification; any other exception fails the test."""
    specified = TensorCodec(spec.name, stages)
    written(specified)  # the edge's page shows it
    try:
        codec = build(specified, spec)
    except (CodecUnknown, CodecError) as error:
        sentence = str(error)
    else:
        sentence = ""
    if sentence:
        # It goes back to the peer in a header, and those are bounded.
        assert len(sentence) < 1000
        return "refused"
    assert 0 <= codec.max_bytes <= MOST_BYTES
    for payload in payloads:
        attack(codec, payload)
    return "built"


def often(changes: list[tuple[StageSpec, ...]], spec: TensorSpec, text: str) -> Counter[str]:
    """All of them, in bounded memory and time."""
    rng = random.Random(len(text))
    good = bytes(codec_for(text, spec).encode(sample(spec)))
    outcomes: Counter[str] = Counter()
    slowest = 0.0

    def run() -> None:
        nonlocal slowest
        for stages in changes:
            began = time.process_time()
            outcomes[tried(stages, spec, [good, damaged(good, rng)])] += 1
            slowest = max(slowest, time.process_time() - began)

    assert peak_growth_bytes(run) < 48 * MIB
    assert slowest < 1
    return outcomes


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("text", CODECS)
def test_mutated_configurations(text: str) -> None:
    spec, rng = CODECS[text], random.Random(len(text))
    stages = specification(text, spec).stages
    changes = [
        (*stages[:at], msgspec.structs.replace(stage, config=config), *stages[at + 1 :])
        for at, stage in enumerate(stages)
        for config in hostile(stage.config, rng, MUTATIONS)
    ]
    outcomes = often(changes, spec, text)
    assert outcomes["refused"] > MUTATIONS // 10
    assert text in ("raw", "png") or outcomes["built"] > MUTATIONS // 50, outcomes


@pytest.mark.parametrize("entropy", ["", "numpy"])
@pytest.mark.parametrize("text", [text for text in CODECS if "ans" in text])
def test_mutated_models_of_the_entropy_coder(
    text: str, entropy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the check of the compressed frame in which a model travels."""
    monkeypatch.setenv(CHOICE, entropy)
    spec, rng = CODECS[text], random.Random(1)
    stages = specification(text, spec).stages
    (at,) = (index for index, stage in enumerate(stages) if stage.id == "ans")
    config = stages[at].config
    model = zstandard.ZstdDecompressor().decompress(base64.b64decode(config["data"]))
    changes = []
    for _ in range(300 if entropy else 1000):
        changed = zstandard.ZstdCompressor(level=1).compress(damaged(model, rng, model[::-1]))
        one = StageSpec("ans", config | {"data": base64.b64encode(changed).decode()})
        changes.append((*stages[:at], one, *stages[at + 1 :]))
    assert often(changes, spec, text)["refused"] > len(changes) // 3


def test_stages_in_any_order() -> None:
    """Of every codec, with ids that are none and packages that nobody has."""
    rng = random.Random(7)
    every = [stage for text, spec in CODECS.items() for stage in specification(text, spec).stages]
    every += [
        StageSpec("x" * 10_000),
        StageSpec(""),
        StageSpec("symbols", {"bits": 4, "packing": "bits", "highest": 15}),
        StageSpec("zstd", {}, "a-package 1.0"),
        StageSpec("h264", {}, "p" * 10_000),
        StageSpec("raw\n", {}),
    ]
    changes = [tuple(rng.choices(every, k=rng.randrange(10))) for _ in range(4000)]
    text = "uniform:0.3,diffuse=0.5+ans"
    outcomes = often(changes, MAPS, text)
    assert outcomes["refused"] > 3000
    assert outcomes["built"] > 20


@pytest.mark.parametrize(
    "config",
    [
        {"data": base64.b64encode(zstandard.ZstdCompressor().compress(bytes(200 * MIB))).decode()},
        {"data": "x" * 1_000_000},
        {"lanes": 1 << 60},
        {"lanes": 3},
    ],
    ids=["bomb", "long", "lanes", "no power of two"],
)
def test_models_that_would_take_much(config: dict[str, Any]) -> None:
    text = "uniform:0.1+ans:channel"
    first, ans = specification(text, MAPS).stages
    changed = (first, StageSpec("ans", ans.config | config))
    assert often([changed], MAPS, text)["refused"] == 1


@pytest.mark.parametrize("shape", [(1 << 20, 1 << 20), (1, 64, 1 << 15, 1 << 15), (0, 1 << 40)])
def test_a_codec_for_a_tensor_of_terabytes_takes_no_memory(shape: tuple[int, ...]) -> None:
    """Opening a session comes before any payload: only those take memory."""
    spec = TensorSpec("x", "float32", shape)

    def run() -> None:
        for text in ("raw+zstd", "cast+shuffle:bits", "quantize:4,low=0,high=1"):
            stages = specification(text, TensorSpec("x", "float32", (2, 2))).stages
            codec = build(TensorCodec("x", stages), spec)
            assert codec.max_bytes >= 0

    assert peak_growth_bytes(run) < 16 * MIB


def test_every_stage_is_configured_badly() -> None:
    stages = {
        stage.id for text, spec in CODECS.items() for stage in specification(text, spec).stages
    }
    assert stages == {*ARRAY_STAGES, *SYMBOL_STAGES, *BYTE_STAGES}
