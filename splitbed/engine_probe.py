"""Whether ONNX Runtime runs on this processor at all, tried where a crash hurts nobody.

Some builds of ONNX Runtime hold instructions that some ARM processors lack (1.21.0 ended every
process on a Raspberry Pi 4 that imported it), and the library that looks at the processor has
trouble with unusual systems. Neither raises an error: the system ends the process. So on ARM a
child tries it first, once for each machine and build; what went well is remembered in a folder, and
later starts read one small file.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from splitbed.errors import EngineError, UsageError
from splitbed.processor import Processor, processor

WHEN: Final = "SPLITBED_ENGINE_PROBE"
"""Environment variable: auto (on ARM, once), always, or never."""

CACHE: Final = Path("~/.cache/splitbed")
"""Where it is remembered, unless a node's options name another folder."""

_TRIAL_MODEL: Final = base64.b85decode(
    "2nZ4YI_m=pDG~u;A_zloZgX^DZgeUd3I%pyY;|QS4hRGg2RZ~05Ca230%3EY0R##$3ISmf0e2z~LvL<#bYX6E"
    "Pi9kSVQ^(C7zzb;VQh6}Dhvn#5CI|t3fCh%LI9uv1PUSw0eA`lcM<_&A_PNkZgwgW3IuRrWOG0PKmkAjKmniu"
    "2MP}g0b&vXWFiMsX=iP3X=Dl~5&>l*2t#jfb97;DbSfAM1$JR<b!93H2m%lXIsy<NLIP!TpaBF5F$w`?5&>o+"
    "4?}Nmb97;DbWdheXkl<=Di{g{c42IFWhx8^0T2Nq1Pa$9JVF4V0R##W3ISva0cH{bXCekoVRTJ(Yzhww0cR2c"
    "X(9(xZ)S9DVR#B73IS;n0csKfYZ3u$A{9h=ZeeX{V^MWsZggpSWlU*qWnpp(ClUc|A_zloZgX^DZgeUb3I%py"
    "Y;|QS3<v@c2RZ^E5JCcNbD#kP3N8u(Z4v=)A`e4vZgX^DZgfv(Q)ppuWhxa41$JR<b!93E2mufSDggmP0H6T`"
    "3L6RmY6<~v3IS{q0eK<~O<{CRb!<s)bY*8{auNY_S{n)hcoG&06bJzl5DEea0SW>L5DEea5DEea5Mmn&0eKP@"
    "3KR$i5)cXk2muNL2oMSa2oMSa2oOR93IGrd"
)
"""An ONNX model of what has kernels of its own for each processor: a convolution, a sigmoid, a
product of float matrices, a softmax and a product of integer matrices, on x float32[1, 16, 16, 16].
Its weights are filled in by ConstantOfShape, so that they are constants as a real model's are."""

_CHILD: Final = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash here is no news to anybody
except (ImportError, OSError, ValueError):
    pass
import onnxruntime
print("imported", flush=True)
import numpy
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 4
model = sys.stdin.buffer.read()
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
session.run(None, {"x": numpy.zeros((1, 16, 16, 16), numpy.float32)})
"""
_PATIENCE_S: Final = 120

_CRASHES: Final = {
    "SIGILL": "illegal instruction",
    "SIGSEGV": "segmentation fault",
    "SIGBUS": "bus error",
    "SIGABRT": "abort",
    "SIGFPE": "arithmetic exception",
}


def ensure_usable(cache: Path = CACHE) -> None:
    """Raise EngineError where importing or running ONNX Runtime would end this process.

    Does nothing on x86, and nothing where a child came through before on the same processor and
    kernel with the same build. What raises an error by itself, a missing library say, is left to
    the engine, which has a sentence for it. A cache that cannot be written costs a second a start.
    """
    when = os.environ.get(WHEN, "auto")
    if when not in ("auto", "always", "never"):
        raise UsageError(f"{WHEN} is '{when[:50]}': it can be auto, always or never")
    if when == "never" or (when == "auto" and not _worth_it()):
        return
    build = _build()
    if build is None:
        return
    chip = processor()
    kernel = platform.release()
    marks = (build, sys.version, platform.machine(), kernel, chip.name, chip.features)
    key = hashlib.sha256("\n".join(marks).encode()).hexdigest()
    kept = cache.expanduser() / "engine-probe" / key
    if when == "auto" and kept.exists():
        return
    if _came_through(chip):
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(f"works on {chip.name}: {build}\n", encoding="utf-8")
        except OSError:
            pass


def _worth_it() -> bool:
    """Whether this is a machine of the kind on which builds have been seen to crash."""
    machine = platform.machine().lower()
    return sys.platform in ("linux", "android") and machine.startswith(("aarch64", "arm"))


def _build() -> str | None:
    """The installed onnxruntime: version, place and age, found without importing it."""
    try:
        found = importlib.util.find_spec("onnxruntime")
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None:
        return None
    try:
        changed_ns = os.stat(found.origin).st_mtime_ns
    except OSError:
        changed_ns = 0
    return f"onnxruntime {_version()} {found.origin} {changed_ns}"


def _version() -> str:
    """Of the installed onnxruntime, empty where no distribution tells it."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _came_through(chip: Processor) -> bool:
    """Whether a child ran the trial model; EngineError where a signal of a crash ended it."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=_TRIAL_MODEL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False  # nothing is known, so nothing is refused
    if done.returncode >= 0:
        return done.returncode == 0
    try:
        name = signal.Signals(-done.returncode).name
    except ValueError:
        return False
    if name not in _CRASHES:
        return False
    raise EngineError(_sentence(name, done.stdout.startswith(b"imported"), chip))


def _sentence(name: str, imported: bool, chip: Processor) -> str:
    doing = "runs a model" if imported else "is imported"
    version, where = _version(), chip.name or platform.machine()
    if chip.features:
        where += f", with the features {chip.features[:300].rstrip()}"
    other = f"install another version (pip install 'onnxruntime!={version}')" if version else ""
    todo = f"{other or 'install another version'}, build it for this board, or take another board"
    if name == "SIGILL":
        todo = f"it was built for a newer processor; {todo}"
    else:
        todo += (
            "; in a container or an emulator, see that /proc/cpuinfo and /sys/devices/system/cpu "
            "are the board's own"
        )
    return (
        f"onnxruntime {version} ends with {name} ({_CRASHES[name]}) when it {doing}, on {where}: "
        f"{todo}"
    ).replace("  ", " ")
