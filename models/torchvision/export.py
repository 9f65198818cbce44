"""Build one of the zoo's networks with torchvision's trained weights, and check it.

    python models/torchvision/export.py resnet50 -o resnet50.onnx

The graph is the zoo's own (splitbed/zoo), not a trace; torchvision gives the weights, and the
output that the graph is held against. Beside the model goes a TOML file that says how a picture
becomes its input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from splitbed import zoo  # noqa: E402  (the path above must come first)
from splitbed.errors import SplitbedError  # noqa: E402

NETWORKS = {
    "alexnet_torchvision": "alexnet",
    "vgg16": "vgg16",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "resnet152": "resnet152",
    "resnext50_32x4d": "resnext50_32x4d",
    "resnext101_32x8d": "resnext101_32x8d",
    "mobilenet_v2": "mobilenet_v2",
    "googlenet": "googlenet",
    "inception_v3": "inception_v3",
    "retinanet_resnet50_fpn": "retinanet_resnet50_fpn",
}
"""Each network of the zoo that torchvision has, and its name there."""

# torchvision's copies of Google's weights expect pixels in -1..1. Its networks are fed ImageNet's
# normalisation like all others and convert it first (`transform_input`). The zoo's graph leaves
# both out, since (p / 255 - mean) / std * std / 0.5 + (mean - 0.5) / 0.5 is p / 127.5 - 1.
CONVERTING = ("googlenet", "inception_v3")
DETECTOR = "retinanet_resnet50_fpn"

IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
PLUS_MINUS_ONE = ([127.5], [127.5])
TOLERANCE = 1e-4
"""Of the largest value of an output."""


def network(name: str, weights: str | None) -> Any:
    """The torchvision network in evaluation mode, giving its raw outputs.

    `weights` is the name of trained weights (fetched and kept by torchvision), or None for
    torchvision's initial ones.
    """
    import torch
    from torchvision import models

    make = models.detection if name == DETECTOR else models
    options: dict[str, Any] = {"weights": weights}
    if name == DETECTOR:
        options["weights_backbone"] = None
    elif name in CONVERTING:
        # Their own initialisation takes a minute.
        options |= {"transform_input": True, "init_weights": False}
    whole = getattr(make, NETWORKS[name])(**options).eval()
    if name != DETECTOR:
        return whole

    class Raw(torch.nn.Module):
        """Trunk, pyramid and heads, without what resizes pictures and decodes boxes."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = whole.backbone, whole.head

        def forward(self, pictures: Any) -> list[Any]:
            outputs = self.head(list(self.backbone(pictures).values()))
            return [outputs["cls_logits"], outputs["bbox_regression"]]

    for module in whole.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # As torchvision does with this network's trained weights, which are frozen.
            module.eps = 0.0
    return Raw().eval()


def arrays(module: Any) -> dict[str, NDArray[Any]]:
    """A module's parameters by name."""
    return {key: value.detach().numpy() for key, value in module.state_dict().items()}


def scale(name: str) -> tuple[list[float], list[float]]:
    """Mean and deviation that the zoo's graph wants its pixels (0..255) normalised with."""
    return PLUS_MINUS_ONE if name in CONVERTING else IMAGENET


def normalised(
    picture: NDArray[np.uint8], by: tuple[list[float], list[float]]
) -> NDArray[np.float32]:
    """A picture (height x width x 3) as 1 x 3 x height x width."""
    mean, std = (np.array(values) for values in by)
    return ((picture - mean) / std).astype(np.float32).transpose(2, 0, 1)[None]


def difference(name: str, module: Any, model: bytes) -> float:
    """How far the two are apart on a random picture, relative to each output's largest value."""
    import onnxruntime
    import torch

    height, width = zoo.entry(name).input.shape[2:]
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    with torch.inference_mode():
        outputs = module(torch.from_numpy(normalised(picture, IMAGENET)))
    expected = [outputs] if torch.is_tensor(outputs) else list(outputs)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    got = session.run(None, {"input": normalised(picture, scale(name))})
    return max(
        float(np.abs(one - other.numpy()).max() / np.abs(other.numpy()).max())
        for one, other in zip(got, expected, strict=True)
    )


def description(name: str, weights: str | None) -> str:
    """The TOML file beside the model: how torchvision prepares pictures for these weights."""
    from torchvision import models

    mean, std = scale(name)
    lines = [f"# torchvision's {NETWORKS[name]}, {weights or 'untrained'}", "[task]"]
    if name == DETECTOR:
        lines += ['resize = "squash"', 'output = "raw"']
    else:
        kind = models.get_model_weights(NETWORKS[name])
        preset = (kind[weights] if weights else kind.DEFAULT).transforms()
        lines += ['resize = "shorter"', f"shorter = {preset.resize_size[0]}"]
    return "\n".join([*lines, f"mean = {mean}", f"std = {std}", ""])


def export(name: str, out: Path, weights: str | None, batch_norm: str) -> None:
    module = network(name, weights)
    model = zoo.build(name, weights=arrays(module), batch_norm=batch_norm)  # type: ignore[arg-type]
    for key, value in (("source", "torchvision"), ("trained", weights or "no")):
        model.metadata_props.add(key=key, value=value)
    content = model.SerializeToString()
    apart = difference(name, module, content)
    print(f"ONNX Runtime and torchvision differ by {apart:.1e} of the largest output")
    if not apart < TOLERANCE:
        raise SystemExit(f"that is more than {TOLERANCE:.0e}: nothing was written")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
    out.with_suffix(".toml").write_text(description(name, weights), encoding="utf-8")
    print(f"{out} ({len(content) / 1e6:.1f} MB) and {out.with_suffix('.toml').name} are written")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument(
        "--weights",
        help="which of torchvision's trained weights; IMAGENET1K_V1 (COCO_V1) if left out",
    )
    parser.add_argument(
        "--untrained", action="store_true", help="torchvision's initial weights: nothing is fetched"
    )
    parser.add_argument("--batch-norm", choices=("folded", "kept"), default="folded")
    args = parser.parse_args(arguments)
    weights = args.weights or ("COCO_V1" if args.network == DETECTOR else "IMAGENET1K_V1")
    try:
        from torchvision import models
    except ImportError:
        raise SystemExit(
            "torchvision is not installed: install the extra with pip install '.[torchvision]'"
        ) from None
    known = list(models.get_model_weights(NETWORKS[args.network]).__members__)
    if weights not in known:
        raise SystemExit(f"torchvision has no weights {weights}; it has {', '.join(known)}")
    try:
        export(args.network, args.out, None if args.untrained else weights, args.batch_norm)
    except SplitbedError as error:
        raise SystemExit(str(error)) from error
    except OSError as error:
        raise SystemExit(
            f"the weights cannot be fetched or the file not written: {error}"
        ) from error


if __name__ == "__main__":
    main()
