#!/bin/sh
# Makes what the fleet needs, then goes on with a run that was interrupted (no summary.json yet), else begins one with the arguments given.
set -eu
pleat-prepare
for made in runs/*/run.json; do
    run=${made%/run.json}
    if [ -f "$made" ] && [ ! -f "$run/summary.json" ]; then
        echo "going on with $run, which was interrupted; to begin anew, remove it"
        exec pleat resume "$run"
    fi
done
exec pleat serve "$@"
