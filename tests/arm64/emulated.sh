#!/bin/sh
# emulated.sh COMMAND...: run COMMAND, an arm64 program under qemu-user, with an ARM /proc/cpuinfo.
#
# An emulator of programs shows the machine's own /proc/cpuinfo. ONNX Runtime reads it as an ARM
# board's when it is imported, and on some machines ends there with SIGSEGV. Needs root, in the
# arm64 root; the other processes go on seeing what they saw. On a board it changes nothing.
set -eu
if [ "${1-}" = --inside ]; then
    shift
    mount --bind "$1" /proc/cpuinfo
    rm -f "$1"
    shift
    exec "$@"
fi
if grep -q '^CPU implementer' /proc/cpuinfo; then
    exec "$@"
fi
file=$(mktemp)
number=0
while [ "$number" -lt "$(nproc --all)" ]; do
    # A Cortex-A72 without any extension that the emulator would have to know.
    printf 'processor\t: %d\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n' "$number"
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n'
    printf 'CPU part\t: 0xd08\nCPU revision\t: 3\n\n'
    number=$((number + 1))
done >"$file"
exec unshare --mount --propagation unchanged sh "$0" --inside "$file" "$@"
