"""Train the gesture model on rendered pictures and write it as ONNX.

    python models/gesture/train.py --out models/gesture/gesture.onnx

Needs PyTorch, onnx and onnxruntime.  Pictures are rendered once and cached as one array file.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from evaluate import wilson  # noqa: E402  (the two paths above must come first)
from export import export, notes  # noqa: E402
from network import GestureNet  # noqa: E402

from experiments import gestures  # noqa: E402


def _render(job: tuple[int, int, int]) -> NDArray[np.uint8]:
    seed, first, count = job
    return np.stack([gestures.draw(seed, index)[0] for index in range(first, first + count)])


def rendered(cache: Path, seed: int, count: int, workers: int) -> NDArray[np.uint8]:
    """Pictures ``0`` to ``count - 1`` of a seed, uint8 NxHxWx3, from the cache if it has them."""
    # The checksum keeps a cache from before a change of the generator from being used.
    check = zlib.crc32(_render((seed, 0, 10)).tobytes())
    path = cache / f"gestures-{seed}-{count}-{check:08x}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        jobs = [(seed, i, min(250, count - i)) for i in range(0, count, 250)]
        started = time.monotonic()
        partial = path.with_suffix(".partial")
        shape = (count, gestures.SIZE, gestures.SIZE, 3)
        store = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for job, pictures in zip(jobs, pool.imap(_render, jobs), strict=True):
                store[job[1] : job[1] + job[2]] = pictures
        store.flush()
        del store
        os.replace(partial, path)
        print(f"rendered {count} pictures of seed {seed} in {time.monotonic() - started:.0f} s")
    pictures: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pictures


def to_input(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 NxHxWx3 to float32 Nx3xHxW in -1..1, in the memory order the convolutions prefer."""
    return (torch.from_numpy(pictures).float() - 127.5).div_(127.5).permute(0, 3, 1, 2)


def augment(batch: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror and shift a batch by up to 8 pixels, repeating the border."""
    if rng.random() < 0.5:
        batch = batch.flip(3)
    down, right = (int(v) for v in rng.integers(0, 17, 2))
    wide = nn.functional.pad(batch, (8, 8, 8, 8), mode="replicate")
    size = batch.shape[2]
    return wide[:, :, down : down + size, right : right + size]


@torch.inference_mode()
def predict(model: nn.Module, pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
    model.eval()
    parts = [
        model(to_input(np.array(pictures[i : i + 200]))).argmax(1)
        for i in range(0, len(pictures), 200)
    ]
    return torch.cat(parts).numpy()


def train(args: argparse.Namespace) -> GestureNet:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(args.seed)
    pictures = rendered(args.cache, gestures.TRAIN_SEED, args.train_count, args.threads)
    # Pictures just after the training set, so that the held-out set stays unseen until the end.
    watch = _render((gestures.TRAIN_SEED, args.train_count, 500))
    model = GestureNet().to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    optimiser = torch.optim.SGD(
        model.parameters(), lr=args.rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    count, steps = len(pictures), len(pictures) // args.batch
    total, warm = args.epochs * steps, max(1, args.epochs * steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda k: min(k / warm, 0.5 + 0.5 * math.cos(math.pi * max(0, k - warm) / (total - warm))),
    )
    started = time.monotonic()
    for epoch in range(args.epochs):
        model.train()
        order, loss_sum = rng.permutation(count), 0.0
        for step in range(steps):
            picks = np.sort(order[step * args.batch : (step + 1) * args.batch])
            batch = augment(to_input(pictures[picks]), rng)
            target = torch.from_numpy(picks % len(gestures.CLASSES))
            loss = nn.functional.cross_entropy(model(batch), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            loss_sum += loss.item()
        spent = time.monotonic() - started
        left = spent / (epoch + 1) * (args.epochs - epoch - 1)
        right = np.mean(predict(model, watch) == (np.arange(500) + args.train_count) % 10)
        print(
            f"epoch {epoch + 1:3}/{args.epochs}  loss {loss_sum / steps:.4f}  "
            f"watched {right:.3f}  {spent:5.0f} s, {left:5.0f} s left",
            flush=True,
        )
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="ONNX file to write")
    parser.add_argument("--cache", type=Path, default=Path("build/gesture-cache"))
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--train-count", type=int, default=26_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rate", type=float, default=0.1)
    args = parser.parse_args()
    started = time.monotonic()
    model = train(args)
    held_out = rendered(args.cache, gestures.HELD_OUT_SEED, gestures.HELD_OUT_COUNT, args.threads)
    labels = np.arange(len(held_out)) % len(gestures.CLASSES)
    guesses = predict(model, held_out)
    right = int((guesses == labels).sum())
    low, high = wilson(right, len(labels))
    print(
        f"held-out accuracy {right / len(labels):.4f} ({right} of {len(labels)}), "
        f"95 % interval {low:.4f} to {high:.4f}"
    )
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    saved = {"state": state, "seed": args.seed, "train_count": args.train_count}
    torch.save(saved, args.cache / "gesture.pt")
    facts = notes(args.seed, args.train_count)
    export(model, args.out, facts, np.array(held_out[:40]))
    print(
        f"wrote {args.out}, {args.out.stat().st_size} bytes, "
        f"{(time.monotonic() - started) / 60:.1f} min in total"
    )


if __name__ == "__main__":
    main()
