"""What every codec must do, whatever its stages are: one examination, of any written codec.

A codec comes back within its bound, in the tensor's own type and shape, in no more bytes than it
says; what it cannot code it refuses with a CodecError. Whatever a peer sends it is refused as
PayloadInvalid, or decodes to a tensor of the announced shape, in bounded memory and time.
"""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, get_args

import msgspec
import numpy as np

from splitbed.codec.codec import Codec, ForeignFault
from splitbed.codec.damage import damaged, hostile
from splitbed.codec.pipeline import build, written
from splitbed.codec.registry import stage
from splitbed.codec.text import parse
from splitbed.codec.trial import (
    Broken,
    attack,
    codec_of,
    hold,
    picture,
    planned,
    round_trip,
    same_bits,
    sample,
)
from splitbed.errors import CodecError, CodecUnknown
from splitbed.session import StageSpec, TensorCodec
from splitbed.tensor import FLOAT_DTYPES, Array, DType

SHAPES: Final = ((), (1,), (7,), (1, 3, 5, 7), (2, 0, 3), (0,), (1,) * 8, (1000,))
PICTURES: Final = ((16, 24, 3), (1, 1, 3), (17, 5, 3), (1, 300, 3))
LAYOUTS: Final[dict[str, Callable[[Any], Any]]] = {
    "transposed": lambda a: a.transpose(2, 1, 0),
    "every other": lambda a: a[::2, 1:, ::3] if a.shape[2] > 3 else a[::2, ::3],
    "backwards": lambda a: a[::-1, :, ::-1],
    "Fortran order": np.asfortranarray,
    "broadcast": lambda a: np.broadcast_to(a[:1], (4, *a.shape[1:])),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "unaligned": lambda a: np.frombuffer(b"?" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(
        a.shape
    ),
}  # fmt: skip
SPECIAL: Final = (np.nan, np.inf, -np.inf, -0.0, 0.0, 1.5)

_MOST_BYTES: Final = 32 << 20
"""That decoding any payload of a small tensor may take."""
_MOST_S: Final = 2.0
"""Of processor time for any one payload or configuration."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of the cases of one check."""

    check: str
    coded: int
    refused: int
    failures: tuple[str, ...]
    note: str = ""


class _Ledger:
    def __init__(self, check: str) -> None:
        self._check = check
        self._coded, self._refused = 0, 0
        self._failures: list[str] = []
        self.note = ""

    def case(self, what: str, run: Callable[[], object]) -> bool:
        """Whether `run` coded something; what it raises is counted as refused or as failed."""
        try:
            run()
        except (CodecError, CodecUnknown) as error:
            self._refused += 1
            if isinstance(error.__cause__, ForeignFault):
                self._failures.append(f"{what}: {error}")
            if "\n" in str(error) or not str(error).strip():
                self._failures.append(f"{what}: is refused without one sentence ({error!r})")
        except Broken as error:
            self._failures.append(f"{what}: {error}")
        except Exception as error:  # any of them is the finding
            self._failures.append(f"{what}: raised {type(error).__name__}: {error}")
        else:
            self._coded += 1
            return True
        return False

    def bounded(self, what: str, run: Callable[[], object]) -> None:
        """A case that must end within the memory and time that a small tensor takes."""
        tracemalloc.start()
        try:
            began = time.process_time()
            self.case(what, run)
            spent_s, peak_bytes = time.process_time() - began, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        if spent_s > _MOST_S:
            self.fails(f"{what}: took {spent_s:.1f} s")
        if peak_bytes > _MOST_BYTES:
            self.fails(f"{what}: took {peak_bytes >> 20} MiB")

    def fails(self, sentence: str) -> None:
        """Note what does not hold."""
        self._failures.append(sentence)

    def outcome(self) -> Outcome:
        return Outcome(self._check, self._coded, self._refused, tuple(self._failures), self.note)


def examine(text: str, mutations: int = 2000) -> Iterator[Outcome]:
    """Every check of one written codec, one after the other; CodecUnknown for a text that is none.

    `mutations` is how often payloads and configurations are damaged in the last two. Where the
    graph would quantise, numpy does it here: the bytes are the same.
    """
    parse(text)
    taken, types = _types(text)
    yield types
    if not taken:
        return
    yield _shapes(text, taken)
    yield _special_values(text, taken)
    yield _layouts(text, taken)
    first = taken[0]
    yield _other_tensors(text, first)
    yield _configuration(text, taken)
    yield _buffers(text, taken)
    yield _payloads(text, first, mutations)
    yield _configurations(text, first, mutations)


def _types(text: str) -> tuple[list[Array], Outcome]:
    """Every element type, and a picture; also a tensor of each that is taken."""
    ledger, taken = _Ledger("element types"), []
    arrays: list[Array] = [sample(dtype, (1, 3, 5, 7)) for dtype in get_args(DType)]
    for array in (*arrays, picture(PICTURES[0])):
        if ledger.case(f"{array.dtype} {array.shape}", partial(_there_and_back, text, array)):
            taken.append(array)
    if not taken:
        ledger.fails("it codes none of the tensors that it was tried on")
    else:
        codec = codec_of(text, taken[0])
        stated = "within the bound that it states"
        stated = stated if codec.bound(taken[0]) is not None else "lossy, and it states no bound"
        ledger.note = "lossless" if codec.lossless else stated
    return taken, ledger.outcome()


def _shapes(text: str, taken: list[Array]) -> Outcome:
    """No axis, none of any length, many of length one."""
    ledger = _Ledger("shapes, empty ones too")
    arrays: list[Array] = [picture(shape) for shape in (*PICTURES, (0, 5, 3), (5, 0, 3))]
    for one in taken:
        if one.ndim == 4:
            arrays += [sample(_dtype(one), shape) for shape in SHAPES]
    for array in arrays:
        ledger.case(f"{array.dtype} {array.shape}", partial(_there_and_back, text, array))
    return ledger.outcome()


def _special_values(text: str, taken: list[Array]) -> Outcome:
    """NaN, infinities, zeros of both signs, the largest and smallest, one alone and all alike."""
    ledger = _Ledger("NaN, infinities, extremes")
    for one in taken:
        codec, dtype = codec_of(text, one), one.dtype
        if dtype.name in FLOAT_DTYPES:
            info = np.finfo(dtype.name)
            values = [*SPECIAL, float(info.max), float(info.min), float(info.tiny)]
        elif dtype == np.bool_:
            values = [False, True]
        else:
            values = [np.iinfo(dtype.name).min, np.iinfo(dtype.name).max]
        for value in values:
            alone = one.copy()
            alone.reshape(-1)[one.size // 2] = value
            for what, array in (("one", alone), ("all", np.full(one.shape, value, dtype))):
                ledger.case(f"{dtype}, {what} {value}", partial(round_trip, codec, array))
    return ledger.outcome()


def _layouts(text: str, taken: list[Array]) -> Outcome:
    """The same elements in other orders of memory, which are other bytes in no payload."""
    ledger = _Ledger("layouts of memory")
    for one in taken:
        plain = sample(_dtype(one), (4, 5, 6)) if one.ndim == 4 else picture((20, 21, 3))
        for name, layout in LAYOUTS.items():
            array = layout(plain)
            whole = np.array(array, order="C", copy=True)

            def run(array: Array = array, whole: Array = whole) -> None:
                codec = codec_of(text, array)
                alike = same_bits(round_trip(codec, array), round_trip(codec, whole))
                hold(alike, "decodes to something else than the same tensor in a row")

            ledger.case(f"{one.dtype}, {name}", run)
        ledger.case(f"{one.dtype}, other byte order", partial(_other_order, text, one))
    return ledger.outcome()


def _other_order(text: str, array: Array) -> None:
    codec, other = codec_of(text, array), array.astype(array.dtype.newbyteorder(">"))
    same = bytes(codec.encode(other)) == bytes(codec.encode(array))
    hold(same, "other bytes for the same numbers")


def _other_tensors(text: str, first: Array) -> Outcome:
    """Tensors of another type or shape than the session's specification says."""
    ledger = _Ledger("other tensors than agreed")
    codec = codec_of(text, first)
    other = np.int16 if first.dtype != np.int16 else np.int32
    for array in (
        first.astype(other),
        np.zeros((*first.shape, 1), first.dtype),
        np.zeros(first.shape[::-1], first.dtype),
        np.zeros((), first.dtype),
    ):
        if ledger.case(f"{array.dtype} {array.shape}", partial(codec.encode, array)):
            ledger.fails(f"{array.dtype} {array.shape} is coded where {codec.spec} was agreed")
    return ledger.outcome()


def _configuration(text: str, taken: list[Array]) -> Outcome:
    """The specification as JSON makes the same codec; its written form can be read again."""
    ledger = _Ledger("configuration as JSON")
    for one in taken:

        def run(one: Array = one) -> None:
            codec, spec = planned(text, one)
            again = msgspec.json.decode(msgspec.json.encode(codec), type=TensorCodec)
            hold(again == codec, "the specification is another one after JSON")
            parse(written(codec))
            payload = bytes(build(codec, spec).encode(one))
            hold(bytes(build(again, spec).encode(one)) == payload, "JSON makes other bytes of it")
            twice = build(again, spec).decode(payload)
            hold(same_bits(twice, build(codec, spec).decode(payload)), "JSON decodes otherwise")
            hold(planned(text, one)[0] == codec, "the same calibration gives two specifications")

        ledger.case(str(one.dtype), run)
    for part in parse(text):
        if not (stage(part.id).__doc__ or "").strip():
            ledger.fails(f"the stage '{part.id}' has no docstring for `splitbed codec list`")
    return ledger.outcome()


def _buffers(text: str, taken: list[Array]) -> Outcome:
    """Payloads in any buffer, at odd addresses too."""
    ledger = _Ledger("payloads in other buffers")
    for one in taken:
        codec = codec_of(text, one)
        payload = bytes(codec.encode(one))
        wanted = codec.decode(payload)
        for buffer in (bytearray(payload), memoryview(b"???" + payload + b"?")[3:-1]):

            def run(codec: Codec = codec, buffer: Any = buffer, wanted: Array = wanted) -> None:
                decoded = codec.decode(buffer)
                hold(bool(decoded.flags.aligned), "decoded to memory that is not aligned")
                hold(same_bits(decoded, wanted), "decodes to something else than from bytes")

            ledger.case(f"{one.dtype} from {type(buffer).__name__}", run)
    return ledger.outcome()


def _payloads(text: str, first: Array, mutations: int) -> Outcome:
    """Truncated at every byte, damaged, random, and too long."""
    ledger, rng = _Ledger("payloads of a hostile peer"), random.Random(len(text))
    codec = codec_of(text, first)
    payload = bytes(codec.encode(first))
    other = bytes(codec.encode(first[::-1].copy()))
    for end in range(0, len(payload), 1 + len(payload) // 400):
        _attacked(ledger, f"the first {end} bytes", codec, payload[:end])
    for number in range(mutations):
        _attacked(ledger, f"damage {number}", codec, damaged(payload, rng, other))
    for size in (*range(20), *(rng.randrange(codec.max_bytes + 1) for _ in range(20))):
        _attacked(ledger, f"{size} random bytes", codec, rng.randbytes(size))
    if ledger.case("too long", lambda: codec.decode(bytes(codec.max_bytes + 1))):
        ledger.fails(f"{codec.max_bytes + 1} bytes are decoded, and {codec.max_bytes} are the most")
    return ledger.outcome()


def _attacked(ledger: _Ledger, what: str, codec: Codec, payload: bytes) -> None:
    ledger.bounded(what, partial(attack, codec, payload))


def _configurations(text: str, first: Array, mutations: int) -> Outcome:
    """Configurations that no `plan` made: a codec that decodes as above, or a refusal."""
    ledger, rng = _Ledger("hostile configurations"), random.Random(len(text))
    codec, spec = planned(text, first)
    payload = bytes(build(codec, spec).encode(first))
    stages = msgspec.to_builtins(codec.stages)
    for number in range(mutations // len(stages) // 4):
        for at, one in enumerate(codec.stages):
            for config in hostile(stages[at]["config"], rng, 1):
                changed = list(codec.stages)
                changed[at] = StageSpec(one.id, config, one.package)

                def run(changed: tuple[StageSpec, ...] = tuple(changed)) -> None:
                    attack(build(TensorCodec(spec.name, changed), spec), payload)

                ledger.bounded(f"{one.id} {str(config)[:200]} ({number})", run)
    return ledger.outcome()


def _there_and_back(text: str, array: Array) -> None:
    round_trip(codec_of(text, array), array)


def _dtype(array: Array) -> DType:
    found: DType = msgspec.convert(array.dtype.name, DType)
    return found
