"""Train the learned pair at `layer2` of the embedded model and write it as two ONNX files.

    python models/gesture/bottleneck/train.py --out models/gesture/bottleneck

Needs PyTorch, onnx and onnxruntime.  Head and tail stay as they are: the pair learns to give the
tail what it would have had.  What the head makes of the pictures is computed once and cached.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE)]

from compare import BITS, MODEL, Ladder, boundaries, runner  # noqa: E402  (the paths above must come first)
from graphs import CODE_NAME, PARTS, write_pair  # noqa: E402
from pair import BOUNDARY, CODE, Decoder, Encoder, Tail, rounded  # noqa: E402

from experiments import gestures  # noqa: E402
from experiments.preparation import prepare_cut, prepare_model  # noqa: E402

CUT = "layer2"

FIRST = 26_500
"""Pictures of the training seed from here on were neither trained on nor watched by the network."""

WATCHED = 1000
"""Pictures after those trained on, to look at meanwhile."""

ROUNDED_TO = (2, 3, 4, 6)
"""Bits that the code is rounded to in training, drawn for each picture."""

WEIGHTS = (0.3, 3.0, 1.0)
"""Of the squared errors at the cut and at `layer3`, as shares of the variance there, and of the
divergence of the classes' probabilities."""

Half = NDArray[np.float16]


def features(cache: Path, first: int, count: int) -> Half:
    """What crosses for pictures of the training seed, Nx32x16x16, from the cache if it has them."""
    path = cache / f"{CUT}-{first}-{count}-v{gestures.GENERATOR_VERSION}-{digest(MODEL)[:12]}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        model = prepare_model(MODEL)
        head = prepare_cut(model, CUT).parts.first.file.opened(runner)
        parts = []
        for begin in range(first, first + count, 500):
            size = min(500, first + count - begin)
            made = boundaries(model, head, gestures.TRAIN_SEED, begin, size)
            parts.append(made.astype(np.float16))
        partial = path.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(parts))
        partial.replace(path)
        print(f"{count} pictures in {time.monotonic() - started:.0f} s", flush=True)
    found: Half = np.load(path)
    return found


def digest(file: Path) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


@torch.inference_mode()
def teacher(tail: Tail, data: Half) -> tuple[Tensor, Tensor]:
    """What the tail makes of uncoded data: `layer3` in half precision, and the logits."""
    parts = [tail(part.float()) for part in torch.from_numpy(data).split(250)]
    return torch.cat([middle.half() for middle, _ in parts]), torch.cat([out for _, out in parts])


@torch.inference_mode()
def agreement(encoder: Encoder, decoder: Decoder, tail: Tail, data: Half, logits: Tensor) -> str:
    """At each depth, the share of pictures on which the tail answers as it does without coding."""
    encoder.eval()
    decoder.eval()
    codes = [encoder(part.float()) for part in torch.from_numpy(data).split(250)]
    shown = []
    for bits in BITS:
        depths = torch.full((250,), float(bits))
        outs = [tail(decoder(rounded(code, depths[: len(code)])))[1] for code in codes]
        same = float((torch.cat(outs).argmax(1) == logits.argmax(1)).float().mean())
        shown.append(f"{bits}: {100 * same:.1f}")
    encoder.train()
    decoder.train()
    return ", ".join(shown)


def train(args: argparse.Namespace) -> tuple[Encoder, Decoder]:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(args.seed)
    tail, encoder, decoder = Tail(MODEL), Encoder(), Decoder()
    data = features(args.cache, FIRST, args.count)
    watched = features(args.cache, FIRST + args.count, WATCHED)
    middles, logits = teacher(tail, data)
    _, expected = teacher(tail, watched)
    spreads = float(data[:2000].astype(np.float32).var()), float(middles[:2000].float().var())
    parameters = [*encoder.parameters(), *decoder.parameters()]
    print(f"{sum(p.numel() for p in parameters)} parameters")
    optimiser = torch.optim.Adam(parameters, lr=args.rate)
    steps = len(data) // args.batch
    total, warm = args.epochs * steps, 200
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: min((k + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * k / total))
    )
    started = time.monotonic()
    for epoch in range(args.epochs):
        order, sums = rng.permutation(len(data)), np.zeros(3)
        for step in range(steps):
            picks = np.sort(order[step * args.batch : (step + 1) * args.batch])
            boundary = torch.from_numpy(data[picks]).float()
            depths = torch.from_numpy(rng.choice(ROUNDED_TO, len(picks))).float()
            decoded = decoder(rounded(encoder(boundary), depths))
            middle, out = tail(decoded)
            divergence = functional.kl_div(
                out.log_softmax(1), logits[picks].log_softmax(1), reduction="none", log_target=True
            )
            errors = (
                functional.mse_loss(decoded, boundary) / spreads[0],
                functional.mse_loss(middle, middles[picks].float()) / spreads[1],
                divergence.sum(1).mean(),
            )
            loss = sum(weight * error for weight, error in zip(WEIGHTS, errors, strict=True))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            sums += [error.item() for error in errors]
        print(
            f"epoch {epoch + 1:3}/{args.epochs}  errors {(sums / steps).round(4)}  "
            f"% as uncut at bits {agreement(encoder, decoder, tail, watched, expected)}  "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
    return encoder.eval(), decoder.eval()


def description(folder: Path, args: argparse.Namespace) -> str:
    """What the pair is, as TOML; how well it does is added once it was measured."""
    files = "".join(
        f'[{part}]\nfile = "{part}.onnx"\nsha256 = "{digest(folder / f"{part}.onnx")}"\n\n'
        for part in PARTS
    )
    return f"""\
# A learned codec for one cut of one model: the encoder turns the boundary into a code, the decoder
# turns the code back. What crosses the cut is the code, coded as any tensor is.
licence = "BSD-3-Clause"

[model]
file = "{MODEL.name}"
sha256 = "{digest(MODEL)}"
cut = "{CUT}"

[boundary]
name = "{CUT}"
dtype = "float32"
shape = {[1, *BOUNDARY]}

[code]
name = "{CODE_NAME}"
dtype = "float32"
shape = {[1, *CODE]}
low = 0.0     # no element lies outside
high = 1.0

{files}[training]
script = "train.py"
seed = {gestures.TRAIN_SEED}
first_picture = {FIRST}
pictures = {args.count}
epochs = {args.epochs}
rounded_to_bits = {list(ROUNDED_TO)}
run_seed = {args.seed}
"""


def measured(folder: Path) -> str:
    """Accuracy on held-out pictures at each depth, as TOML."""
    ladder = Ladder(folder, gestures.HELD_OUT_COUNT)
    uncut = ladder.uncut()
    text = f"""
# Percent with 95 % intervals; loss in points against the uncut model, picture by picture.
[held_out]
seed = {gestures.HELD_OUT_SEED}
pictures = {gestures.HELD_OUT_COUNT}
uncut_accuracy_pct = {uncut.accuracy.pct:.2f}
"""
    for bits in BITS:
        row = ladder.learned(f"quantize:{bits}+zstd")
        right, loss, same = row.accuracy, row.loss, row.agreement
        text += f"""
[[held_out.depth]]
bits = {bits}
median_bytes = {row.payload_bytes:.0f}
accuracy_pct = [{right.pct:.2f}, {right.low_pct:.2f}, {right.high_pct:.2f}]
loss_points = [{loss.points:.2f}, {loss.low:.2f}, {loss.high:.2f}]
agreement_pct = [{same.pct:.2f}, {same.low_pct:.2f}, {same.high_pct:.2f}]
"""
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write the pair into")
    parser.add_argument("--cache", type=Path, default=Path("build/bottleneck-cache"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--count", type=int, default=40_000, help="pictures to train on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    args = parser.parse_args()
    started = time.monotonic()
    encoder, decoder = train(args)
    args.out.mkdir(parents=True, exist_ok=True)
    examples = features(args.cache, FIRST + args.count, WATCHED)[:40]
    write_pair(encoder, decoder, args.out, CUT, examples)
    text = description(args.out, args)
    file = args.out / "bottleneck.toml"
    file.write_text(text, encoding="utf-8", newline="\n")
    file.write_text(text + measured(args.out), encoding="utf-8", newline="\n")
    sizes = [(args.out / f"{part}.onnx").stat().st_size for part in PARTS]
    print(f"wrote {sizes} bytes, {(time.monotonic() - started) / 60:.1f} min in total")


if __name__ == "__main__":
    main()
