"""Payloads that no encoder of ours made: each is refused with PayloadInvalid, or it decodes to a
tensor of exactly the announced type and shape; never in more memory or time than that tensor asks.
"""

from __future__ import annotations

import functools
import io
import random
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import zstandard
from PIL import Image

from splitbed.codec import Codec, build, needs_calibration, plan
from splitbed.codec.damage import damaged
from splitbed.codec.entropy.coder import CHOICE
from splitbed.codec.registry import ARRAY_STAGES, BYTE_STAGES, SYMBOL_STAGES
from splitbed.errors import PayloadInvalid
from splitbed.session import TensorCodec
from splitbed.tensor import Array, TensorSpec
from tests.unit.calibrations import calibration_of

FLOATS: Final = TensorSpec("x", "float32", (3, 5, 7))
MAPS: Final = TensorSpec("x", "float32", (1, 8, 6, 7))
PICTURE: Final = TensorSpec("p", "uint8", (16, 24, 3))
RANGE: Final = "low=-2,high=2"
CODECS: Final[dict[str, TensorSpec]] = {
    "raw": FLOATS,
    "raw+zstd": FLOATS,
    "cast": FLOATS,
    "cast+zstd:19": FLOATS,
    f"quantize:bits=3,{RANGE}": FLOATS,
    f"quantize:bits=4,{RANGE}+zstd": FLOATS,
    f"quantize:bits=5,{RANGE},packing=bytes": FLOATS,
    f"quantize:bits=5,{RANGE}+zstd:1+zstd:3": FLOATS,
    f"quantize:bits=8,{RANGE}": FLOATS,
    "cast:bfloat16+shuffle": FLOATS,
    "raw+shuffle:bits+zstd": FLOATS,
    "quantize:4,per=channel": MAPS,
    "quantize:3,per=channel,symmetric=yes,packing=bytes+zstd": FLOATS,
    "uniform:0.3": FLOATS,
    "uniform:0.3+ans": FLOATS,
    "uniform:0.3,diffuse=0.5+ans": MAPS,
    "uniform:0.1+ans:channel": MAPS,
    "shaped:0.3": FLOATS,
    "shaped:0.3,rate=0.1+ans": MAPS,
    f"quantize:bits=3,{RANGE}+ans+zstd": MAPS,
    "uniform:0.3+layers": FLOATS,
    "uniform:0.1+layers": MAPS,
    f"quantize:bits=5,{RANGE}+layers:1": MAPS,
    f"quantize:bits=4,{RANGE}+layers:3,budget_bytes=220": MAPS,
    "quantize:4,per=channel,symmetric=yes+ans:channel": MAPS,
    "png": PICTURE,
    "png+zstd": PICTURE,
    "jpeg:80": PICTURE,
    "jpeg:80+zstd": PICTURE,
}
MUTATIONS: Final = 5000
IN_NUMPY: Final = 600
"""Mutations for the entropy coder in numpy, which takes longer."""
MIB: Final = 1 << 20

Outcomes = Counter[str]


@functools.cache
def codec_for(text: str, spec: TensorSpec, entropy: str = "") -> Codec:
    """With the entropy coder in C where it was built, or in `numpy`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CHOICE, entropy)
        return build(specification(text, spec), spec)


@functools.cache
def specification(text: str, spec: TensorSpec) -> TensorCodec:
    rng = np.random.default_rng(4)
    calibration = None
    if needs_calibration(text):
        frames = [rng.normal(0, 1, spec.shape).astype(spec.dtype) for _ in range(4)]
        calibration = calibration_of(spec, *frames)
    return plan(text, [spec], calibration)[0]


def sample(spec: TensorSpec) -> Array:
    if spec.is_float:
        return np.random.default_rng(5).normal(0, 1, spec.shape).astype(spec.dtype)
    y, x, c = np.indices(spec.shape)
    return np.asarray((9 * y + 7 * x + 60 * c) % 256).astype(spec.dtype)


def attack(codec: Codec, payload: bytes) -> str:
    """What came of a payload; any other exception than PayloadInvalid fails the test."""
    try:
        decoded = codec.decode(payload)
    except PayloadInvalid:
        return "refused"
    assert decoded.shape == codec.spec.shape
    assert decoded.dtype == np.dtype(codec.spec.dtype)
    assert len(decoded.tobytes()) == codec.spec.nbytes  # every element can be read
    return "decoded"


def test_every_stage_is_attacked() -> None:
    stages = {part.partition(":")[0] for text in CODECS for part in text.split("+")}
    assert stages == {*ARRAY_STAGES, *SYMBOL_STAGES, *BYTE_STAGES}


# Damage of all kinds.


def with_right_checksums(payload: bytes) -> bytes:
    """A PNG whose chunks have the checksums that they should: the damage is only found later."""
    fixed, at = payload[:8], 8
    while at + 12 <= len(payload):
        size = int.from_bytes(payload[at : at + 4], "big")
        body = payload[at + 4 : at + 8 + size]
        fixed += payload[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + size
    return fixed


# Pillow's warnings have a test of their own below.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("text", "entropy"),
    [*((text, "") for text in CODECS), *((text, "numpy") for text in CODECS if "ans" in text)],
)
def test_damaged_payloads(text: str, entropy: str) -> None:
    spec = CODECS[text]
    codec = codec_for(text, spec, entropy)
    good = bytes(codec.encode(sample(spec)))
    other = bytes(codec.encode(sample(spec)[::-1].copy()))
    byte_stages = codec._byte_stages
    # What the first byte stage is given: damage to it passes the checks of the outer layers.
    core = "+".join(part for part in text.split("+") if part.partition(":")[0] not in BYTE_STAGES)
    inner = bytes(codec_for(core, spec).encode(sample(spec)))
    rng = random.Random(len(text))
    outcomes: Outcomes = Counter()
    mutations = IN_NUMPY if entropy else MUTATIONS

    def attack_often() -> None:
        for number in range(mutations):
            if number % 2:
                payload = damaged(good, rng, other)
            else:
                payload = damaged(inner, rng, other)
                if text.startswith("png"):
                    payload = with_right_checksums(payload)
                for stage in byte_stages:
                    payload = bytes(stage.encode(payload))
            outcomes[attack(codec, payload)] += 1

    started = time.process_time()
    assert peak_growth_bytes(attack_often) < 32 * MIB
    # Of processor time, which other work on the machine stretches; numpy takes longer.
    assert time.process_time() - started < mutations * (0.03 if entropy else 0.01)
    assert outcomes["refused"] > mutations // 50, outcomes
    # Damage to an entropy-coded payload is noticed in all but a few cases: its states do not end
    # where they began.
    assert "ans" in text or outcomes["decoded"] > mutations // 50, outcomes


def test_there_are_a_hundred_thousand_of_them() -> None:
    assert MUTATIONS * len(CODECS) >= 100_000


@pytest.mark.parametrize("text", CODECS)
def test_every_beginning_of_a_payload(text: str) -> None:
    codec = codec_for(text, CODECS[text])
    good = bytes(codec.encode(sample(CODECS[text])))
    outcomes = [attack(codec, good[:end]) for end in range(len(good))]
    if codec.progressive:
        assert set(outcomes) == {"decoded"}
        return
    # Only what follows a picture's last pixel (checksums, the end mark) can go unmissed.
    assert outcomes.count("decoded") <= (24 if CODECS[text] == PICTURE else 0)
    assert outcomes[0] == "refused"


@pytest.mark.parametrize("text", CODECS)
def test_random_bytes(text: str) -> None:
    codec = codec_for(text, CODECS[text])
    rng = np.random.default_rng(6)
    for size in [*range(20), *rng.integers(20, codec.max_bytes + 2, 60)]:
        attack(codec, rng.bytes(int(size)))
    for magic in (b"\x28\xb5\x2f\xfd", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xc0"):
        for size in range(60):
            attack(codec, magic + rng.bytes(size))


@pytest.mark.parametrize("text", CODECS)
def test_more_bytes_than_any_encoder_makes(text: str) -> None:
    codec = codec_for(text, CODECS[text])
    with pytest.raises(PayloadInvalid, match=f"takes at most {codec.max_bytes} coded bytes"):
        codec.decode(bytes(codec.max_bytes + 1))


# Bombs: memory is measured as the peak of the process, so foreign allocators count as well.


STATUS: Final = Path("/proc/self/status")
RESET: Final = Path("/proc/self/clear_refs")


def resident_bytes(key: str) -> int:
    (line,) = (x for x in STATUS.read_text().splitlines() if x.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def peak_growth_bytes(action: Callable[[], object]) -> int:
    """How far the resident memory rises above what it is now while `action` runs; 0 where the
    system does not tell.
    """
    try:
        RESET.write_text("5")
        before = resident_bytes("VmRSS")
    except OSError:
        action()
        return 0
    action()
    return resident_bytes("VmHWM") - before


@pytest.mark.skipif(not RESET.exists(), reason="only Linux lets a process reset its peak of memory")
def test_the_measure_of_memory_sees_what_foreign_code_takes() -> None:
    bomb = zlib.compress(bytes(64 * MIB))
    assert peak_growth_bytes(lambda: zlib.decompress(bomb)) > 60 * MIB


def zstd_frame(content: list[tuple[int, int]], announced: int | None, *, window: int = 0) -> bytes:
    """A frame of RLE blocks (byte, how often), which announces what it likes (RFC 8878, 3.1.1)."""
    frame = b"\x28\xb5\x2f\xfd"
    if announced is None:
        frame += bytes([0x00, window or 0x58])
    elif window:
        frame += bytes([0xC0, window]) + struct.pack("<Q", announced)
    else:
        frame += b"\xe0" + struct.pack("<Q", announced)  # one segment, eight bytes of size
    for index, (byte, count) in enumerate(content):
        last = index == len(content) - 1
        frame += (last | 1 << 1 | count << 3).to_bytes(3, "little") + bytes([byte])
    return frame


BLOCK: Final = 128 << 10
BYTES: Final = TensorSpec("x", "uint8", (100,))


def test_the_crafted_frame_is_one_that_can_be_decoded() -> None:
    frame = zstd_frame([(7, 60), (9, 40)], 100)
    assert codec_for("zstd", BYTES).decode(frame).tolist() == [7] * 60 + [9] * 40


HOSTILE_FRAMES: Final = {
    "announces a gigabyte": zstd_frame([(0, BLOCK)] * 8192, 1 << 30),
    "announces 2**60": zstd_frame([(0, 100)], 1 << 60),
    "announces 2**63": zstd_frame([(0, 100)], 1 << 63),
    "announces the unknown": zstd_frame([(0, 100)], (1 << 64) - 1),
    "announces the error code": zstd_frame([(0, 100)], (1 << 64) - 2),
    "one byte more than it can be": zstd_frame([(0, 101)], 101),
    "one byte less than it must be": zstd_frame([(0, 99)], 99),
    "gives more than it announces": zstd_frame([(0, 100)], 100)[:-4] + zstd_frame(
        [(0, BLOCK)] * 4000, None)[6:],
    "gives less than it announces": zstd_frame([(0, 50)], 100),
    "announces nothing": zstd_frame([(0, 100)], None),
    "announces nothing and gives a lot": zstd_frame([(0, BLOCK)] * 4000, None),
    "wide window": zstd_frame([(0, 100)], 100, window=0xFF),
    "no block": zstd_frame([], 100),
    "two frames": zstd_frame([(0, 50)], 50) * 2,
    "something behind it": zstd_frame([(0, 100)], 100) + b"x",
    "a skippable frame before it": b"\x50\x2a\x4d\x18\x01\x00\x00\x00x"
    + zstd_frame([(0, 100)], 100),
    "only a skippable frame": b"\x50\x2a\x4d\x18\x64\x00\x00\x00" + bytes(100),
    "a skippable frame of 4 GiB": b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
    "another magic number": b"\x27\xb5\x2f\xfd" + zstd_frame([(0, 100)], 100)[4:],
}  # fmt: skip


@pytest.mark.parametrize("frame", HOSTILE_FRAMES.values(), ids=HOSTILE_FRAMES.keys())
def test_hostile_zstd_frames(frame: bytes) -> None:
    # The stage alone, so that the limit on a payload's length does not hide what it does.
    (stage,) = codec_for("zstd", BYTES)._byte_stages
    raw = codec_for("raw", BYTES)

    def decode() -> None:
        with pytest.raises(PayloadInvalid):
            raw.decode(stage.decode(frame, BYTES.nbytes))

    started = time.perf_counter()
    assert peak_growth_bytes(decode) < 16 * MIB
    assert time.perf_counter() - started < 2


def test_a_bomb_within_a_bomb() -> None:
    inner = zstd_frame([(0, BLOCK)] * 8192, 1 << 30)
    codec = codec_for("raw+zstd+zstd", BYTES)
    payload = zstandard.ZstdCompressor().compress(inner)
    assert len(payload) <= codec.max_bytes
    assert peak_growth_bytes(lambda: attack(codec, payload)) < 16 * MIB
    assert attack(codec, payload) == "refused"


# Pictures.

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def png(*extra: bytes, width: int = 24, height: int = 16, data: bytes | None = None) -> bytes:
    if data is None:
        data = zlib.compress(bytes(16 * (1 + 3 * 24)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        [SIGNATURE, chunk(b"IHDR", header), *extra, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def jpeg(*extra: bytes, width: int = 24, height: int = 16) -> bytes:
    """A whole JPEG of 24x16 that says of itself that it is another size."""
    good = bytes(codec_for("jpeg:80", PICTURE).encode(sample(PICTURE)))
    at = good.index(b"\xff\xc0") + 5
    size = struct.pack(">HH", height, width)
    return good[:2] + b"".join(extra) + good[2:at] + size + good[at + 4 :]


def test_the_crafted_pictures_are_such_as_can_be_decoded() -> None:
    assert attack(codec_for("png", PICTURE), png()) == "decoded"
    assert attack(codec_for("jpeg:80", PICTURE), jpeg()) == "decoded"


BOMB: Final = zlib.compress(bytes(60 * MIB), 9)
HOSTILE_PICTURES: Final[dict[str, tuple[str, bytes]]] = {
    "PNG with a text bomb": ("png", png(chunk(b"zTXt", b"a\0\0" + BOMB))),
    "PNG with an international text bomb": ("png", png(chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB))),
    "PNG with a colour profile bomb": ("png", png(chunk(b"iCCP", b"a\0\0" + BOMB))),
    "PNG of 2**31 x 2**31": ("png", png(width=2**31 - 1, height=2**31 - 1)),
    "PNG of 2**32-1 x 1": ("png", png(width=2**32 - 1, height=1)),
    "PNG of 20000 x 20000": ("png", png(width=20_000, height=20_000, data=BOMB)),
    "PNG of 0 x 0": ("png", png(width=0, height=0)),
    "PNG turned": ("png", png(width=16, height=24)),
    "PNG with a chunk of 4 GiB": ("png", png()[:33] + b"\xff\xff\xff\xffIDAT" + bytes(99)),
    "PNG with too few pixels": ("png", png(data=zlib.compress(bytes(100)))),
    "JPEG of 65500 x 65500": ("jpeg:80", jpeg(width=65_500, height=65_500)),
    "JPEG turned": ("jpeg:80", jpeg(width=16, height=24)),
    "JPEG of 24 x 0": ("jpeg:80", jpeg(height=0)),
    "JPEG with a segment of 64 KiB": ("jpeg:80", jpeg()[:2] + b"\xff\xe1\xff\xff" + bytes(99)),
    "JPEG without data": ("jpeg:80", jpeg()[:2] + b"\xff\xd9"),
    "JPEG as PNG": ("png", jpeg()),
    "PNG as JPEG": ("jpeg:80", png()),
}


@pytest.mark.parametrize(
    ("text", "payload"), HOSTILE_PICTURES.values(), ids=HOSTILE_PICTURES.keys()
)
def test_hostile_pictures(text: str, payload: bytes) -> None:
    codec = codec_for(text, PICTURE)
    started = time.perf_counter()
    assert peak_growth_bytes(lambda: attack(codec, payload)) < 24 * MIB
    assert time.perf_counter() - started < 2
    assert attack(codec, payload) == "refused"


def test_what_lies_behind_the_last_pixel_is_not_unpacked() -> None:
    codec, payload = codec_for("png", PICTURE), png(data=BOMB)
    assert peak_growth_bytes(lambda: attack(codec, payload)) < 24 * MIB
    assert attack(codec, payload) == "decoded"


@pytest.mark.parametrize("form", ["BMP", "GIF", "TIFF", "WEBP", "PPM", "ICO", "TGA", "JPEG2000"])
def test_other_picture_formats_are_refused(form: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(sample(PICTURE), np.uint8)).save(buffer, form)
    for text in ("png", "jpeg:80"):
        assert attack(codec_for(text, PICTURE), buffer.getvalue()) == "refused"


@pytest.mark.parametrize(
    ("form", "mode"),
    [*(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")),
     *(("JPEG", mode) for mode in ("1", "L", "CMYK", "YCbCr"))],
)  # fmt: skip
def test_pictures_of_other_modes_become_what_was_announced(form: str, mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (24, 16)).save(buffer, form)
    text = {"PNG": "png", "JPEG": "jpeg:80"}[form]
    assert attack(codec_for(text, PICTURE), buffer.getvalue()) == "decoded"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("marker", [0xC4, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE])
def test_jpeg_segments_of_odd_content(marker: int) -> None:
    codec = codec_for("jpeg:80", PICTURE)
    for content in (b"", b"\0", b"JFIF\0", b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0\1\2", b"Adobe",
                    b"Photoshop 3.0\0008BIM\xff", b"http://ns.adobe.com/xap/1.0/\0<"):  # fmt: skip
        attack(codec, jpeg(jpeg_segment(marker, content)))


# What was wrong once.


@pytest.mark.parametrize("text", ["raw", "raw+zstd"])
def test_a_truth_value_is_zero_or_one(text: str) -> None:
    codec = codec_for(text, TensorSpec("mask", "bool", (3,)))
    payload = b"\x00\x01\x02"
    if text.endswith("zstd"):
        payload = zstandard.ZstdCompressor().compress(payload)
    try:
        decoded: Any = codec.decode(payload)
    except PayloadInvalid:
        return
    assert decoded.view(np.uint8).max() == 1


def test_a_huge_shape_with_a_zero_in_it() -> None:
    attack(codec_for("raw", TensorSpec("x", "float32", (0, 1 << 39, 1 << 39))), b"")


@pytest.mark.parametrize(
    ("text", "payload"),
    [
        ("png", png(width=10_000, height=10_000)),
        ("jpeg:80", jpeg(width=10_000, height=10_000)),
        ("png", png(chunk(b"acTL", struct.pack(">II", 0, 0)))),
        ("jpeg:80", jpeg(jpeg_segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x01\1\x12"))),
        ("jpeg:80", jpeg(jpeg_segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\0"))),
    ],
    ids=["large PNG", "large JPEG", "animated PNG", "EXIF", "MPF"],
)
def test_a_hostile_picture_makes_no_warning(text: str, payload: bytes) -> None:
    attack(codec_for(text, PICTURE), payload)


def many_scans(spec: TensorSpec, scans: int) -> bytes:
    """A progressive JPEG whose every scan says, in two bytes, nothing about all blocks."""
    height, width, _ = spec.shape
    blocks = -(-height // 8) * -(-width // 8)
    length = min(14, blocks.bit_length() - 1)  # of the run of empty blocks, in bits
    bits = "0" + format(blocks - (1 << length), f"0{length}b")
    bits += "1" * (-len(bits) % 8)
    run = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    size = struct.pack(">HH", height, width)
    return b"".join(
        [
            b"\xff\xd8",
            jpeg_segment(0xDB, b"\0" + b"\1" * 64),
            jpeg_segment(0xC2, b"\x08" + size + b"\x01\x01\x11\x00"),
            jpeg_segment(0xC4, b"\x10\x01" + bytes(15) + bytes([length << 4])),
            (jpeg_segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + run) * scans,
            b"\xff\xd9",
        ]
    )


def test_a_few_scans_are_a_picture() -> None:
    assert attack(codec_for("jpeg:80", PICTURE), many_scans(PICTURE, 10)) == "decoded"


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    spec = TensorSpec("p", "uint8", (256, 256, 3))
    codec = codec_for("jpeg:80", spec)
    payload = many_scans(spec, 20_000)
    assert len(payload) < codec.max_bytes
    assert attack(codec, payload) == "refused"
