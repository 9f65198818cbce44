"""How a network's nodes and parameters are called, by the framework that it comes from.

A builder speaks of modules by their path; a scheme turns the path into the name of a parameter (as
a checkpoint of that framework has it) and of a node (as an exporter writes it).
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

Role = Literal["weight", "depthwise", "bias", "scale", "shift", "mean", "variance"]
"""What a parameter does: in a convolution or linear layer, or (the last four) in a batch norm."""


class Naming(Protocol):
    """One framework's scheme."""

    def parameter(self, path: str, role: Role) -> str:
        """The name of a module's parameter, as in a checkpoint."""

    def node(self, path: str, op: str, call: int) -> str:
        """The name of a node that calls the module for the `call`-th time, counted from 0."""

    def function(self, path: str, op: str, use: int) -> str:
        """The name of a node that no module of its own makes, `use`-th of its kind in `path`."""


class PyTorchNaming:
    """Names of `state_dict()`, and of `torch.onnx.export` with the TorchScript exporter.

    That exporter writes one scope for each module on the way, where the children of an
    `nn.Sequential` carry its name with their number: `layer1.0.conv1` becomes
    `/layer1/layer1.0/conv1/Conv`. A module that is called again gets `_1`, `_2` and so on
    (`relu_2`); so does a repeated operation without a module (`Concat_1`).
    """

    _LISTS: Final = ("inner_blocks", "layer_blocks", "additional_blocks", "loc", "conf")
    """Each an `nn.ModuleList`, which is never called: the exporter writes no scope for it."""

    _SUFFIXES: Final[dict[Role, str]] = {
        "weight": "weight",
        "depthwise": "weight",
        "bias": "bias",
        "scale": "weight",
        "shift": "bias",
        "mean": "running_mean",
        "variance": "running_var",
    }

    def parameter(self, path: str, role: Role) -> str:
        """`layer1.0.bn1` and `mean` give `layer1.0.bn1.running_mean`."""
        return f"{path}.{self._SUFFIXES[role]}"

    def node(self, path: str, op: str, call: int) -> str:
        """`layer1.0.relu`, `Relu` and 2 give `/layer1/layer1.0/relu_2/Relu`."""
        return f"{self._scope(path)}{f'_{call}' if call else ''}/{self._op(op)}"

    def function(self, path: str, op: str, use: int) -> str:
        """`layer1.0`, `Add` and 1 give `/layer1/layer1.0/Add_1`."""
        return f"{self._scope(path)}/{self._op(op)}{f'_{use}' if use else ''}"

    def _scope(self, path: str) -> str:
        scopes: list[str] = []
        for part in path.split(".") if path else []:
            if part.isdigit() and scopes:
                inner = f"{scopes[-1]}.{part}"
                if scopes[-1] in self._LISTS:
                    scopes.pop()
                scopes.append(inner)
            else:
                scopes.append(part)
        return "".join(f"/{scope}" for scope in scopes)

    def _op(self, op: str) -> str:
        return "Conv" if op == "Depthwise" else op


class SlimNaming:
    """Names of TensorFlow slim: `MobilenetV1/Conv2d_0/weights`, `MobilenetV1/Conv2d_0/Relu6`.

    Its paths have slashes already. The arrays themselves are in ONNX's layout, not TensorFlow's.
    """

    _SUFFIXES: Final[dict[Role, str]] = {
        "weight": "weights",
        "depthwise": "depthwise_weights",
        "bias": "biases",
        "scale": "gamma",
        "shift": "beta",
        "mean": "moving_mean",
        "variance": "moving_variance",
    }
    _OPS: Final = {
        "Conv": "Conv2D",
        "Depthwise": "depthwise",
        "BatchNormalization": "FusedBatchNorm",
        "Clip": "Relu6",
        "GlobalAveragePool": "AvgPool",
        "Flatten": "SpatialSqueeze",
    }

    def parameter(self, path: str, role: Role) -> str:
        """`MobilenetV1/Conv2d_0` and `bias` give `MobilenetV1/Conv2d_0/biases`."""
        return f"{path}/{self._SUFFIXES[role]}"

    def node(self, path: str, op: str, call: int) -> str:
        """`MobilenetV1/Conv2d_0` and `Clip` give `MobilenetV1/Conv2d_0/Relu6`."""
        return f"{path}{f'_{call}' if call else ''}/{self._OPS.get(op, op)}"

    def function(self, path: str, op: str, use: int) -> str:
        """`MobilenetV1/Logits` and `Flatten` give `MobilenetV1/Logits/SpatialSqueeze`."""
        return f"{path}/{self._OPS.get(op, op)}{f'_{use}' if use else ''}"
