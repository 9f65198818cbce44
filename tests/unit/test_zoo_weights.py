"""The numbers in the zoo's networks: drawn, folded, and given by trained arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from splitbed import zoo
from splitbed.engine import Engine
from splitbed.errors import UsageError
from splitbed.tensor import Array
from splitbed.zoo.registry import BatchNorm

Arrays = dict[str, Array]

SMALL = ("mobilenet_v2", "posenet_mobilenet_v1_100", "googlenet", "resnet18")


@cache
def built(name: str, batch_norm: BatchNorm = "folded") -> onnx.ModelProto:
    return zoo.build(name, batch_norm=batch_norm)


def picture(name: str) -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal(zoo.entry(name).input.shape, np.float32)


def run(model: onnx.ModelProto, name: str) -> list[Array]:
    engine = Engine(model.SerializeToString(), provider="cpu", threads=2)
    return engine.run({"input": picture(name)})


def arrays_of(model: onnx.ModelProto) -> Arrays:
    """A network's parameters with data, as a checkpoint would have them."""
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims and tensor.raw_data
    }


def assert_close(got: list[Array], wanted: list[Array]) -> None:
    """Equal to 1e-4 of the largest value."""
    for one, other in zip(got, wanted, strict=True):
        difference = np.abs(one.astype(np.float64) - other.astype(np.float64)).max()
        assert difference <= 1e-4 * np.abs(other).max()


def with_all_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every intermediate value among its outputs."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name not in outputs:
                seen.graph.output.add().name = name
    return seen


@pytest.mark.parametrize("name", [*SMALL, "googlenet_2014", "resnet152"])
def test_signals_neither_die_out_nor_blow_up(name: str) -> None:
    model = with_all_values(built(name))
    values = zip(model.graph.output, run(model, name), strict=True)
    for value, array in values:
        assert np.isfinite(array).all(), value.name
        magnitude = float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))
        assert magnitude > 1e-3, f"{value.name} dies out: {magnitude}"
        assert np.abs(array).max() < 1e3, f"{value.name} blows up: {magnitude}"


@pytest.mark.parametrize("name", SMALL)
def test_folding_changes_nothing(name: str) -> None:
    assert_close(run(built(name), name), run(built(name, "kept"), name))


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    content = zoo.build(name).SerializeToString(deterministic=True)
    assert zoo.build(name).SerializeToString(deterministic=True) == content
    other = zoo.build(name, seed=1).SerializeToString(deterministic=True)
    assert len(other) == len(content)
    assert other != content


def test_a_tensor_is_the_same_in_every_network_that_has_it() -> None:
    """Values depend on seed and name alone, not on what was drawn before."""
    small, large = (
        arrays_of(zoo.build(n, weights="hollow", batch_norm="kept"))
        for n in ("resnet18", "resnet50")
    )
    shared = [
        # Scales depend on where in a branch a batch norm is, and that is not the same here.
        name
        for name in small.keys() & large.keys()
        if small[name].shape == large[name].shape and not name.endswith(".weight")
    ]
    assert "layer4.1.bn1.running_var" in shared
    for name in shared:
        np.testing.assert_array_equal(small[name], large[name])


@pytest.mark.parametrize("name", SMALL)
def test_trained_arrays_make_the_same_network(name: str) -> None:
    given = arrays_of(built(name, "kept"))
    again = zoo.build(name, weights=given, batch_norm="kept")
    assert again.graph == built(name, "kept").graph
    assert zoo.build(name, weights=given).graph == built(name).graph


def test_arrays_that_are_folded_already_are_taken_as_they_are() -> None:
    name = "posenet_mobilenet_v1_100"
    given = arrays_of(built(name))
    assert zoo.build(name, weights=given).graph == built(name).graph
    with pytest.raises(UsageError, match="lack 'MobilenetV1/Conv2d_0/BatchNorm/gamma'"):
        zoo.build(name, weights=given, batch_norm="kept")


def without(name: str) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        del arrays[name]

    return spoil


def replaced(name: str, array: Array) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        arrays[name] = array

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("layer1.0.conv1.weight"), r"lack 'layer1\.0\.conv1\.weight' \(64x64x3x3\)"),
        (without("bn1.running_var"), r"lack 'bn1\.running_var' \(64\); near it are bn1\."),
        (replaced("fc.bias", np.zeros(10, np.float32)), r"'fc\.bias' is 10, .* needs 1000"),
        (replaced("fc.bias", np.zeros((), np.float32)), "a single number"),
        (replaced("fc.bias", np.zeros(1000, np.int64)), "elements of type int64"),
        (replaced("layer5.0.conv1.weight", np.zeros(1)), r"no place for .* layer5\.0\.conv1"),
    ],
)
def test_arrays_that_do_not_fit_are_named(spoil: Callable[[Arrays], None], message: str) -> None:
    given = arrays_of(built("resnet18", "kept"))
    spoil(given)
    with pytest.raises(UsageError, match=message):
        zoo.build("resnet18", weights=given)


@pytest.mark.parametrize(
    "name", ["bn1.num_batches_tracked", "aux1.conv.conv.weight", "AuxLogits.fc.bias"]
)
def test_what_only_training_needs_is_passed_over(name: str) -> None:
    given: Mapping[str, Array] = arrays_of(built("resnet18", "kept")) | {name: np.zeros(3)}
    assert zoo.build("resnet18", weights=given).graph == built("resnet18").graph


def test_half_precision_is_widened() -> None:
    given = arrays_of(built("resnet18", "kept"))
    given["fc.weight"] = given["fc.weight"].astype(np.float16)
    model = zoo.build("resnet18", weights=given)
    made = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.weight")
    assert made.data_type == onnx.TensorProto.FLOAT
