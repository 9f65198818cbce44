#!/bin/sh
# A sweep of the network: every point (a cut and its codec) on every link, one run each; then one
# table here, with all figures in FOLDER/sweep.csv, and one plot, FOLDER/sweep.svg.
#
#   experiments/network_sweep.sh [SWEEP.toml [FOLDER]]
#
# Without arguments: experiments/network_sweep.toml, which says how such a file is written, into
# runs/network-sweep. Start it at the root of the source tree, or wherever splitbed is installed.
# Ctrl-C stops it. The same sweep with the same folder goes on where it stopped, and tries again
# what failed and what was measured on a link outside its tolerance.
#
# Exit code: 0 all is measured, 7 some is not, 130 stopped; 2 to 4 a mistake, before anything ran.
set -eu
case ${1:-} in -*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit ;; esac
sweep=${1:-${0%.sh}.toml} folder=${2:-runs/network-sweep}
python=${PYTHON:-python3}
[ -n "${PYTHON:-}${VIRTUAL_ENV:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python

plan=$("$python" -m experiments.commands.network_sweep plan "$sweep" "$folder")
total=$(printf '%s' "$plan" | grep -c '' || :)
begun=$(date +%s) count=0 stopped=
trap 'stopped=yes' INT TERM
while [ -z "$stopped" ] && IFS= read -r options && [ -n "$options" ]; do
    left=
    if [ "$count" -gt 0 ]; then
        seconds=$(( ($(date +%s) - begun) * (total - count) / count ))
        left=", about $(( (seconds + 59) / 60 )) min left"
    fi
    count=$((count + 1))
    eval "set -- $options"  # --cut CUT --codec CODEC --link LINK ..., quoted by the plan
    echo "[$count of $total$left] $2 $4 over $6" >&2
    "$python" -m splitbed.cli run "$@" --json </dev/null >/dev/null || {
        code=$?
        [ "$code" -ne 130 ] || stopped=yes
        [ -n "$stopped" ] || echo "  noted (exit code $code); going on" >&2
    }
done <<END
$plan
END
if [ -n "$stopped" ]; then
    echo "stopped: what is measured stays in $folder; start it again to go on" >&2
    exit 130
fi
exec "$python" -m experiments.commands.network_sweep figures "$sweep" "$folder"
