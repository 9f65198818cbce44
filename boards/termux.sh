#!/bin/sh
# Makes an Android phone a device of splitbed, in Termux (https://termux.dev). From the checkout:
#
#     sh boards/termux.sh            install what is missing
#     sh boards/termux.sh --check    only say what is missing
#
# Android's C library is its own, so no wheel of linux/arm64 fits. What is large comes as Termux's
# packages, the rest from PyPI: protobuf as it is, msgspec and zstandard compiled on the phone, a
# few minutes. Run it again whenever you like: what is there stays. Ends with 0 where the device
# runs, 1 where something is missing, 2 where this is not Termux.
set -u

say() { echo "termux.sh: $*"; }
die() { say "$1" >&2; exit "${2:-1}"; }

check=no
case "${1-}" in
    "") ;;
    --check) check=yes ;;
    *) die "unknown argument '$1': there is only --check" 2 ;;
esac
cd "$(dirname "$0")/.." || exit 2
[ -f pyproject.toml ] || die "splitbed's pyproject.toml is not beside boards/: run it in a whole checkout" 2
{ command -v pkg >/dev/null && [ -n "${PREFIX-}" ]; } ||
    die "this is not Termux; elsewhere 'pip install .[device]' does it" 2

missing=0
lacks() { missing=$((missing + 1)); say "$*" >&2; }
imports() { (cd / && python -c "import $1") >/dev/null 2>&1; }

# package MODULE: Termux's package, and what Python imports of it ('' for a program).
package() {
    if [ -n "$2" ]; then imports "$2" && return 0; else command -v "$3" >/dev/null && return 0; fi
    if [ $check = yes ]; then
        lacks "$1 is missing: pkg install $1"
        return 1
    fi
    say "pkg install $1"
    pkg install -y "$1" || {
        lacks "pkg could not install $1: try 'pkg update', 'pkg upgrade', and this again"
        return 1
    }
    [ -z "$2" ] || imports "$2" || {
        lacks "$1 is installed and '$2' cannot be imported: 'pkg upgrade' brings it in step with python"
        return 1
    }
}

# The requirement as pyproject.toml has it, with its versions.
requirement() { sed -n "s/^ *\"\($1[<>=][^\"]*\)\",*\$/\1/p" pyproject.toml | head -n 1; }

# from_pypi DISTRIBUTION MODULE NEEDS: without its dependencies, which Termux has.
from_pypi() {
    imports "$2" && return 0
    if [ $check = yes ]; then
        lacks "$1 is missing: pip install --no-deps '$(requirement "$1")'"
        return 1
    fi
    say "pip install --no-deps $(requirement "$1")"
    python -m pip install --no-deps "$(requirement "$1")" && imports "$2" && return 0
    lacks "pip could not install $1${3:+ ($3)}: the lines above say why"
    return 1
}

package python "" python ||
    die "without Python nothing else can be checked: pkg install python, then this again"
python -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "splitbed needs Python 3.11 or newer: pkg upgrade python, then this again"
package python-pip pip
package python-numpy numpy
package python-onnxruntime onnxruntime ||
    say "without onnxruntime this phone can only send pictures: --cut @picture" >&2
package python-grpcio grpc
package python-pillow PIL
package python-psutil psutil  # PyPI's 7.2.2 and older do not know Android
imports msgspec && imports zstandard || package clang "" clang
from_pypi protobuf google.protobuf ""
from_pypi msgspec msgspec "it is compiled here and needs clang"
from_pypi zstandard zstandard "it is compiled here and needs clang"

if [ $check = yes ]; then
    imports device_node || lacks "splitbed is missing: pip install --no-deps ."
else
    # Every time: the checkout may be another.
    say "pip install --no-deps ."
    python -m pip install --no-deps . || lacks "pip could not install splitbed: the lines above say why"
fi

[ $missing = 0 ] || die "$missing missing: no device yet"
(cd / && python -m device_node --help) >/dev/null || die "the device does not start: the lines above say why"
say "ready: python -m device_node --edge EDGE:50051 --model MODEL --cut NAME --images PICTURES"
