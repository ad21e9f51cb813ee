#!/bin/bash
# Does compose.yaml do what README.md says? Builds, runs, breaks, measures, cleans up; about ten minutes.
#   deploy/check-compose.sh
# Uses the Docker engine that answers; where none does, starts one of its own (root), whose images are made of a base by
# debootstrap and of wheels of this machine's Python. BASE and PIP_ARGS of an engine with a network: as in compose.yaml.
# Exit codes: 0 all held; 1 something did not; 2 it cannot be tried here.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/compose/engine.sh

PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
LAB=$(mktemp -d "${TMPDIR:-/tmp}/pleat-compose.XXXXXX")
PROJECT=pleat-check-$$
BEGAN=$(date +%s)
export PLEAT_TAG=check-$$
LEAST_ACCURACY=0.93  # the demo's worst seed on this net scores 93.9 %

compose() { docker compose --ansi never --progress quiet -p "$PROJECT" -f deploy/compose.yaml "$@"; }
stressed() { compose -f deploy/compose/check.yaml "$@"; }
container() { compose ps -aq "$1"; }
within() { docker exec "$(container "$1")" sh -c "$2"; }
inspect() { docker inspect -f "$2" "$(container "$1")"; }
step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

holds() { # what, command ...
    local what=$1
    shift
    if "$@"; then echo "ok    $what"; else
        echo "FAIL  $what"
        compose logs --tail 40 2>&1 || true
        exit 1
    fi
}

logs() { docker logs "$(container "$1")" 2>&1; }

until_says() { # service, words, seconds
    for _ in $(seq "$3"); do
        logs "$1" | grep -- "$2" >/dev/null && return 0
        sleep 1
    done
    return 1
}

ends_well() { # seconds: the server's container ends by itself with exit code 0
    [ "$(timeout "$1" docker wait "$(container server)")" = 0 ]
}

judge() { # RUN, an expression over s (summary.json) and rounds (journal.jsonl)
    docker run --rm --network none -v "${PROJECT}_runs:/runs:ro" "pleat/server:$PLEAT_TAG" python3 -c '
import json, sys
folder = "/runs/" + sys.argv[1]
s = json.load(open(folder + "/summary.json"))
rounds = [json.loads(line) for line in open(folder + "/journal.jsonl")]
def of(name): return [d for r in rounds for d in r["devices"] if d["name"] == name]
sys.exit(0 if eval(sys.argv[2]) else 1)' "$@"
}

clean_up() {
    local code=$?
    set +e
    step "clean up"
    stressed down --volumes --remove-orphans --timeout 5 >/dev/null 2>&1
    docker rmi -f "pleat/server:$PLEAT_TAG" "pleat/client:$PLEAT_TAG" >/dev/null 2>&1
    engine_stop
    rm -rf "$LAB" ${WHEELS:+"$WHEELS"}
    [ -e "$LAB" ] && echo "left behind: $LAB"
    echo "exit code $code after $SECONDS s"
    exit $code
}
trap clean_up EXIT
trap 'exit 130' INT TERM

own_engine() { # engine, plug-ins, base image and wheels, none of which needs a network inside the engine
    engine_start
    plugins
    base_image pleat/base:bookworm
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
        echo "check-compose: the base image has Python 3.11, wheels are made by $PYTHON, which is another version;" \
            "name a Python 3.11: PYTHON=/path/to/python3.11 deploy/check-compose.sh" >&2
        exit 2
    }
    mkdir -p build
    WHEELS=$(mktemp -d build/wheels.XXXXXX)
    "$PYTHON" -m pip wheel -q --no-deps -w "$WHEELS" .
    # shellcheck disable=SC2086 # PIP_ARGS are words
    "$PYTHON" -m pip download -q --only-binary=:all: -d "$WHEELS" -c constraints.txt ${PIP_ARGS:-} hatchling \
        "pleat[server,client,demo] @ file://$(realpath "$WHEELS"/pleat-*.whl)" 2>&1 | grep -v '^WARNING' || true
    export PLEAT_BASE=pleat/base:bookworm PLEAT_PIP_ARGS="--no-index --find-links /context/$WHEELS"
}

sandboxed() { # service: user, capabilities, root file system
    holds "$1 runs as uid 10001 without capabilities" within "$1" \
        '[ "$(id -u)" = 10001 ] && grep -q "^CapEff:.0*$" /proc/1/status && grep -q "^NoNewPrivs:.1" /proc/1/status'
    holds "$1 cannot write to its root" within "$1" '! touch /opt/x 2>/dev/null && ! touch /etc/x 2>/dev/null'
}

BURN='
import os, time
child, until = os.fork(), time.time() + 4
while time.time() < until: pass
if child: os.wait(); print(sum(os.times()[:4]) / 4)'

limited() { # service, cpus, bytes
    local got
    got=$(within "$1" "python3 -S -c '$BURN'")
    holds "$1 burnt ${got:0:5} CPU seconds a second with two processes, of $2" \
        "$PYTHON" -c "import sys; sys.exit(not 0 < $got < 1.2 * $2)"
    got=$(within "$1" "python3 -c 'from pleat_client.probe import board, memory; print(memory.total_bytes(), board.cores(), board.threads())'")
    holds "$1 sees its limits (bytes, cores, threads of torch): $got" [ "$got" = "$3 $2 1" ]
}

out_of_memory() { # service: how often the engine saw the kernel kill in its group
    docker events --since "$BEGAN" --until 0s --filter event=oom --filter "container=$(container "$1")" | wc -l
}

step "engine"
docker info >/dev/null 2>&1 || own_engine
docker info --format 'engine {{.ServerVersion}}, cgroup v{{.CgroupVersion}}, {{.NCPU}} cores'
docker compose version --short

step "build"
compose build -q server workstation
docker images --filter "reference=pleat/*:$PLEAT_TAG" --format '{{.Repository}} {{.Size}}'
holds "the client's image has no Flower, compiler or pip" docker run --rm --network none "pleat/client:$PLEAT_TAG" sh -c \
    '! command -v gcc cc c++ pip && python3 -c "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, (\"flwr\", \"pip\", \"sklearn\"))))"'

step "the job: four classes of device; a device is killed, then the server"
compose up -d >/dev/null 2>&1
holds "round 3 is reached" until_says server '^round 3:' 180
within pi5 'kill -9 "$(cat /state/pi5/lock)"'
holds "the server notices that pi5 is gone" until_says server '^pi5 left' 60
holds "round 10 is reached" until_says server '^round 10:' 180
within server 'kill -9 $(cat /proc/1/task/1/children)'
holds "the server goes on where it was" until_says server '^resumed after round' 60
holds "the server ends by itself with exit code 0" ends_well 400
logs server | sed -n '/^rounds  /,$p'
judge elastic-cnn-1 'print("\n".join("%-14s sizes over the rounds: %s" % (d["name"], ", ".join("%s x %d" % (w, [e["size"] for e in of(d["name"])].count(w)) for w in sorted({e["size"] for e in of(d["name"])}, reverse=True))) for d in s["devices"])) or True'
holds "accuracy is at least $LEAST_ACCURACY" judge elastic-cnn-1 "s['accuracy'] >= $LEAST_ACCURACY"
holds "pi5 and the server were restarted once each" [ "$(inspect pi5 '{{.RestartCount}}') $(inspect server '{{.RestartCount}}')" = "1 1" ]
holds "pi5 took part again, to the last round" judge elastic-cnn-1 'of("pi5")[-1]["outcome"] == "done" and rounds[-1]["round"] == 30 and "pi5" in [d["name"] for d in rounds[-1]["devices"]]'
for device in workstation jetson pi5 pi4; do sandboxed $device; done
limited workstation 1.0 $((1024 << 20))
limited jetson 0.5 $((768 << 20))
limited pi5 0.25 $((512 << 20))
limited pi4 0.12 $((384 << 20))
for device in workstation jetson pi5 pi4; do holds "$device was never out of memory" [ "$(out_of_memory $device)" = 0 ]; done
compose down --volumes --timeout 5 >/dev/null 2>&1

step "memory: a net too large for 384 MiB, with the client's guard (pi4) and without (pi5)"
export PLEAT_MODEL=resnet18 PLEAT_ROUNDS=3 PLEAT_LEAST=2
stressed up -d server pi4 pi5 >/dev/null 2>&1
holds "the server ends by itself with exit code 0" ends_well 400
for device in pi4 pi5; do logs $device | grep 'done order' | cut -c 1-220; done
holds "pi4 was never out of memory" [ "$(out_of_memory pi4)" = 0 ]
holds "pi4 trained something smaller than the whole" judge elastic-resnet18-1 'any(d["outcome"] == "done" and float(d["size"]) < 1 for d in of("pi4"))'
holds "pi5 was out of memory: without the guard the limit kills ($(out_of_memory pi5) events)" [ "$(out_of_memory pi5)" -gt 0 ]
holds "pi5 reported it, and its next submodel was smaller" judge elastic-resnet18-1 \
    '(lambda o: any(a["outcome"] == "killed" and float(b["size"]) < float(a["size"]) for a, b in zip(o, o[1:])))(of("pi5"))'
holds "pi5's daemon lived on" [ "$(inspect pi5 '{{.RestartCount}} {{.State.Running}}')" = "0 true" ]
compose down --volumes --timeout 5 >/dev/null 2>&1

step "--scale client=8"
export PLEAT_MODEL=mlp PLEAT_ROUNDS=3 PLEAT_LEAST=8
scaled() { timeout 300 docker compose --ansi never -p "$PROJECT" -f deploy/compose.yaml \
    up --exit-code-from server --scale client=8 server client >"$LAB/scaled.log" 2>&1; }
holds "compose up ends with the server, exit code 0" scaled
holds "eight devices of eight names took part in every round" judge elastic-mlp-1 \
    'all(sorted(d["name"] for d in r["devices"]) == ["client-%d" % i for i in range(8)] for r in rounds) and len(rounds) == 3'
compose down --volumes --timeout 5 >/dev/null 2>&1

step "a volume without shards"
said=$(docker run --rm --network none "pleat/client:$PLEAT_TAG" 2>&1) && code=0 || code=$?
echo "$said"
holds "is one line and exit code 2" [ "$code $(wc -l <<<"$said")" = "2 1" ]
