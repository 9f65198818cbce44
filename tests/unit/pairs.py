"""Learned codecs for tests: untrained pairs for any model and cut, and the folders they lie in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from splitbed.graph import canonicalise, cut_points, find_cut, load
from splitbed.tensor import TensorSpec
from tests.models import info, model, node, weights

Networks = tuple[onnx.ModelProto, onnx.ModelProto, tuple[TensorSpec, ...]]
"""Encoder, decoder, and the code between them."""


def projections(
    boundary: Sequence[TensorSpec], channels: int, seed: int = 0, *, opset: int = 17
) -> Networks:
    """For each N x C x H x W a 1x1 convolution to `channels` in 0..1, and one back, all random.

    The values inside are called alike in every such pair.
    """
    rng = np.random.default_rng(seed)
    code = [
        TensorSpec(f"code{at}" if at else "code", "float32", (s.shape[0], channels, *s.shape[2:]))
        for at, s in enumerate(boundary)
    ]
    halves = []
    for reads, makes in ((boundary, code), (code, boundary)):
        nodes, held = [], {}
        for at, (given, made) in enumerate(zip(reads, makes, strict=True)):
            width, wide = given.shape[1], made.shape[1]
            held[f"w{at}"] = rng.normal(0, width**-0.5, (wide, width, 1, 1))
            held[f"b{at}"] = rng.normal(0, 0.1, wide)
            nodes += [
                node("Conv", [given.name, f"w{at}", f"b{at}"], [f"inside{at}"]),
                node("Sigmoid" if makes is code else "Relu", [f"inside{at}"], [made.name]),
            ]
        halves.append(_network(nodes, reads, makes, held, opset))
    return halves[0], halves[1], tuple(code)


def negations(
    boundary: Sequence[TensorSpec], names: Sequence[str] = ("inside",), *, opset: int = 17
) -> Networks:
    """The code is the boundary with its sign changed, so nothing is lost. `names` are inside."""
    code = [TensorSpec(f"minus {s.name}", s.dtype, s.shape) for s in boundary]
    halves = []
    for reads, makes in ((boundary, code), (code, boundary)):
        nodes = []
        for at, (given, made) in enumerate(zip(reads, makes, strict=True)):
            value = given.name
            for name in names:
                own = f"{name}" if at == 0 else f"{name} {at}"
                nodes.append(node("Neg", [value], [own]))
                value = own
            if len(names) % 2:
                nodes += [node("Neg", [value], [f"even {at}"])]
                value = f"even {at}"
            nodes.append(node("Neg", [value], [made.name]))
        halves.append(_network(nodes, reads, makes, {}, opset))
    return halves[0], halves[1], tuple(code)


def _network(
    nodes: Sequence[onnx.NodeProto],
    reads: Sequence[TensorSpec],
    makes: Sequence[TensorSpec],
    held: dict[str, Any],
    opset: int,
) -> onnx.ModelProto:
    return model(
        nodes,
        [info(s.name, s.shape, s.dtype) for s in reads],
        [info(s.name, s.shape, s.dtype) for s in makes],
        weights(**held),
        opset=opset,
    )


def described(
    folder: Path,
    file: Path,
    cut: str,
    boundary: Sequence[TensorSpec],
    networks: Networks,
    ends: tuple[float, float] | None = (0.0, 1.0),
) -> dict[str, Any]:
    """Write both networks into the folder; the description that belongs to them."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder, decoder, code = networks
    limits = {} if ends is None else {"low": ends[0], "high": ends[1]}
    found: dict[str, Any] = {
        "model": {"sha256": load(file).sha256, "cut": cut},
        "boundary": [msgspec.to_builtins(s) for s in boundary],
        "code": [msgspec.to_builtins(s) | limits for s in code],
    }
    for name, network in (("encoder", encoder), ("decoder", decoder)):
        content = network.SerializeToString()
        (folder / f"{name}.onnx").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        found[name] = {"file": f"{name}.onnx", "sha256": digest}
    return found


def write_description(folder: Path, found: dict[str, Any]) -> None:
    """As `bottleneck.toml`."""
    (folder / "bottleneck.toml").write_text("\n".join(_toml(found)), encoding="utf-8")


def _toml(table: dict[str, Any]) -> list[str]:
    """Tables and arrays of tables, one deep."""
    lines = [f"{k} = {_value(v)}" for k, v in table.items() if not _is_table(v)]
    for name, value in table.items():
        if isinstance(value, dict):
            lines += [f"[{name}]", *(f"{k} = {_value(v)}" for k, v in value.items())]
        elif _is_table(value):
            for one in value:
                lines += [f"[[{name}]]", *(f"{k} = {_value(v)}" for k, v in one.items())]
    return lines


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def _value(value: object) -> str:
    return msgspec.json.encode(value).decode()


def untrained_pair(
    folder: Path, file: Path, cut: str, channels: int, seed: int = 0, *, opset: int = 17
) -> dict[str, Any]:
    """A random pair for a model file's cut in `folder`; what was written about it."""
    cleaned = canonicalise(load(file))
    point = find_cut(cleaned, cut_points(cleaned), cut)
    assert point.cut is not None
    boundary = point.cut.boundary
    networks = projections(boundary, channels, seed, opset=opset)
    found = described(folder, file, point.name, boundary, networks)
    write_description(folder, found)
    return found
