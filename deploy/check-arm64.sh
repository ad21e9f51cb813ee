#!/bin/bash
# Proves that a device runs on 64-bit Arm, on a machine that is not: emulated, so its seconds say nothing about speed.
#
#   deploy/check-arm64.sh            all of it: 15 minutes the first time, half of that when the root is there already
#   deploy/check-arm64.sh wheels     the device's wheels exist on aarch64 for Python 3.10, 3.11 and 3.13
#   deploy/check-arm64.sh train      under the CPU model of a Pi 4 a daemon joins a server here and trains a round
#   deploy/check-arm64.sh doctor     there, the doctor turns the crash of torch 2.10.0 into its advice
#   deploy/check-arm64.sh clean      remove what the above keeps under $LAB
#
# Needs root, and: apt-get install qemu-user-static debootstrap
# LAB     where the arm64 root and the wheels are kept (/tmp/pleat-arm64)
# PYTHON  a Python that has pleat's server (.venv/bin/python)
# CPU     cortex-a72 is a Pi 4, which lacks LSE; cortex-a76 a Pi 5, where torch 2.10.0 runs: `doctor` must fail there
set -euo pipefail

REPO=$(cd "$(dirname "$0")/.." && pwd)
LAB=${LAB:-${TMPDIR:-/tmp}/pleat-arm64}
PYTHON=${PYTHON:-$REPO/.venv/bin/python}
case "$PYTHON" in /*) ;; *) PYTHON=$PWD/$PYTHON ;; esac
CPU=${CPU:-cortex-a72}
SUITE=bookworm PY=3.11
ROOT=$LAB/root SITE=$LAB/site CRASHING=$LAB/site-2.10.0
BINFMT=/proc/sys/fs/binfmt_misc
WHAT=${1:-all}
server='' device='' registered=''

die() { echo "check-arm64: $*" >&2; exit 2; }
say() { echo "== $*"; }

# Mounts live in a mount namespace of this script alone and go with it, however it ends.
if [ "$WHAT" != clean ] && [ -z "${PLEAT_OWN_MOUNTS:-}" ]; then
    [ "$(id -u)" = 0 ] || die "needs root to mount and chroot; type: sudo $0 $WHAT"
    PLEAT_OWN_MOUNTS=1 exec unshare --mount --propagation private "$0" "$@"
fi

tidy() {
    for pid in $device $server; do kill "$pid" 2>/dev/null || true; done
    for pid in $device $server; do wait "$pid" 2>/dev/null || true; done
    [ -z "$registered" ] || echo -1 > $BINFMT/qemu-aarch64
}
trap tidy EXIT

wheel_tool() {
    [ -x "$LAB/pip/bin/python" ] || python3 -m venv "$LAB/pip"
    "$LAB/pip/bin/python" "$REPO/deploy/arm64_wheels.py" "$@"
}

# Install a device's packages into a folder, whole or not at all.
site() {
    [ -d "$1" ] && return
    rm -rf "$1.part"
    wheel_tool $PY --into "$1.part" "${@:2}"
    mv "$1.part" "$1"
}

wheels() {
    say "wheels for aarch64"
    wheel_tool 3.10 3.11 3.13
}

# The kernel must know the emulator before debootstrap runs the first Arm program.
emulator() {
    command -v qemu-aarch64-static debootstrap > "$LAB/found" || die "type: apt-get install qemu-user-static debootstrap"
    [ -e $BINFMT/register ] || mount -t binfmt_misc binfmt_misc $BINFMT
    [ -e $BINFMT/qemu-aarch64 ] && return
    cat /usr/lib/binfmt.d/qemu-aarch64.conf > $BINFMT/register
    registered=1
}

arm_root() {
    [ -x "$ROOT/usr/bin/python3" ] && [ -e "$LAB/root.whole" ] || {
        say "debootstrap $SUITE for arm64"
        rm -rf --one-file-system "$ROOT"
        debootstrap --arch=arm64 --variant=minbase --include=python3,ca-certificates $SUITE "$ROOT" > "$LAB/debootstrap.log" ||
            die "debootstrap failed; see $LAB/debootstrap.log"
        touch "$LAB/root.whole"
    }
    site "$SITE"
    mkdir -p "$ROOT/opt/site" "$ROOT/opt/crashing" "$ROOT/opt/pleat/common" "$ROOT/opt/pleat/client" "$ROOT/opt/lab"
    mount --bind -o ro "$SITE" "$ROOT/opt/site"
    mount --bind -o ro "$REPO/common" "$ROOT/opt/pleat/common"
    mount --bind -o ro "$REPO/client" "$ROOT/opt/pleat/client"
    mount --bind "$LAB/run" "$ROOT/opt/lab"
    mount -t proc proc "$ROOT/proc"
    mount --rbind /dev "$ROOT/dev"
}

# A program in the root; $FIRST: a folder whose packages hide those of the tested set.
arm() {
    exec env -i QEMU_CPU="$CPU" PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/opt/lab LANG=C.UTF-8 OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 \
        PYTHONPATH="${FIRST:+$FIRST:}/opt/pleat/common:/opt/pleat/client:/opt/site" chroot "$ROOT" "$@"
}

train() {
    say "one round of the smallest net on an emulated $CPU"
    cd "$LAB/run"
    "$PYTHON" -m pleat_server.cli shards digits --devices 1 --out shards > shards.log
    "$PYTHON" -m pleat_server.cli serve --model mlp --rounds 1 --least 1 --listen 127.0.0.1:0 --data shards/test.npz \
        --folder round > server.log 2>&1 &
    server=$!
    address=''
    for _ in $(seq 300); do
        address=$(sed -n 's/.*listening on \([0-9.:]*[0-9]\).*/\1/p' server.log | head -1)
        [ -z "$address" ] && kill -0 $server 2>/dev/null || break
        sleep 0.1
    done
    [ -n "$address" ] || { cat server.log >&2; die "the server does not listen"; }
    (arm /usr/bin/python3 -m pleat_client.cli run --server "$address" --data /opt/lab/shards/device-0.npz --name pi-4 \
        --state /opt/lab/state --threads 1) > device.log 2>&1 &
    device=$!
    began=$SECONDS
    while kill -0 $server 2>/dev/null; do
        kill -0 $device 2>/dev/null || { cat device.log >&2; die "the daemon ended"; }
        [ $((SECONDS - began)) -lt 900 ] || { cat device.log server.log >&2; die "no round within 900 s"; }
        sleep 1
    done
    wait $server || { cat server.log >&2; die "the server failed"; }
    server=''
    (arm /usr/bin/python3 -m pleat_client.cli status --state /opt/lab/state) || die "the device has no status"
    kill -TERM $device
    code=0; wait $device || code=$?
    device=''
    [ $code = 0 ] || die "the daemon ended with exit code $code after SIGTERM"
    "$PYTHON" - round/summary.json <<'PY'
import json, sys
s = json.load(open(sys.argv[1]))
[device] = s["devices"]
assert s["rounds"] == 1 and device["rounds"] == 1, s
print(f"round 1 in {s['wall_s']:.1f} s, {device['train_s']:.1f} s of them training; accuracy {s['accuracy']:.3f}; "
      f"peak {(device['peak_bytes'] or 0) / 2**20:.0f} MiB; {s['bytes_up']} bytes up, {s['bytes_down']} down")
PY
}

doctor() {
    say "the doctor on an emulated $CPU, tested torch"
    code=0
    (arm /usr/bin/python3 -m pleat_client.cli doctor --state /opt/lab/state) > "$LAB/run/doctor.txt" || code=$?
    cat "$LAB/run/doctor.txt"
    grep -q '^ok  *torch  *torch 2.9.1' "$LAB/run/doctor.txt" || die "the doctor does not call torch 2.9.1 well"
    say "the doctor on an emulated $CPU, torch 2.10.0"
    site "$CRASHING" --torch 2.10.0
    mount --bind -o ro "$CRASHING" "$ROOT/opt/crashing"
    code=0
    (FIRST=/opt/crashing arm /usr/bin/python3 -m pleat_client.cli doctor --state /opt/lab/state) > "$LAB/run/crash.txt" || code=$?
    cat "$LAB/run/crash.txt"
    [ $code = 1 ] || die "exit code $code, expected 1"
    grep -q '^fail  *torch  *torch 2.10.0 dies of an illegal instruction' "$LAB/run/crash.txt" &&
        grep -q "torch==2.9.1" "$LAB/run/crash.txt" || die "the doctor does not say what to do"
}

clean() {
    case "$LAB" in /?*/?*) ;; *) die "LAB=$LAB is no folder of ours" ;; esac
    rm -rf --one-file-system "$ROOT" "$SITE" "$CRASHING" "$SITE.part" "$CRASHING.part" "$LAB/pip" "$LAB/run" "$LAB/root.whole" "$LAB/found" "$LAB/debootstrap.log"
    rmdir "$LAB" 2>/dev/null || true
}

case "$WHAT" in
    clean) clean; exit 0 ;;
    all | wheels | train | doctor) ;;
    *) die "'$WHAT' is none of wheels, train, doctor, clean" ;;
esac
[ "$WHAT" = wheels ] || "$PYTHON" -c 'import pleat_server' 2>/dev/null || die "$PYTHON has no pleat server; type: make test, or say PYTHON=..."
mkdir -p "$LAB"
[ "$WHAT" = train ] || [ "$WHAT" = doctor ] || wheels
[ "$WHAT" = wheels ] && exit 0
rm -rf "$LAB/run"; mkdir -p "$LAB/run"
emulator
arm_root
[ "$WHAT" = doctor ] || train
[ "$WHAT" = train ] || doctor
say "all well"
