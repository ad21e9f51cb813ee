#!/bin/bash
# Proves install-client.sh and the unit on this machine, in a clean Debian root: installed twice and removed again it leaves
# the same files; what cannot be installed leaves nothing; and booted, the service survives what a service must survive.
#
#   sudo deploy/check-install.sh [options of fetch_wheels.py]
#
# Needs root, debootstrap, systemd-container, a pleat with its server (PLEAT=.venv/bin/pleat) and 5 GB in TMPDIR; takes some
# ten minutes. SUITE: Debian's release (bookworm). CLEAN: a clean root that is there already, made as below.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
suite=${SUITE:-bookworm} pleat=${PLEAT:-$(dirname "$here")/.venv/bin/pleat}
lab=$(mktemp -d "${TMPDIR:-/tmp}/pleat-check.XXXXXX")
root=$lab/root stick=/media/stick server='' container=''

say() { printf '\n== %s\n' "$*"; }
ok() { printf 'ok    %s\n' "$*"; }
fail() { printf 'FAIL  %s\n' "$*" >&2; exit 1; }

release() { # mounts, innermost first
  for mount in "$root/opt" "$root$stick" "$root/dev" "$root/proc"; do
    if mountpoint -q "$mount"; then umount --recursive "$mount"; fi
  done
}
clean() {
  code=$?
  trap '' INT TERM
  if [ -n "$container" ] && kill -0 "$container" 2>/dev/null; then
    kill -TERM "$container"
    wait "$container" || true
  fi
  if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then kill -TERM "$server"; wait "$server" || true; fi
  release
  if [ "$code" -ne 0 ]; then tail -n 5 "$lab"/*.log >&2 || true; fi
  rm -rf --one-file-system "$lab"
  exit "$code"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

inside() { unshare --net chroot "$root" "$@"; } # a board without internet
files() { # every file with kind, mode, owner and target; accounts with their contents
  (
    cd "$root"
    find . \( -path ./media -o -path ./proc -o -path ./dev -o -path ./run -o -path ./tmp \) -prune -o -printf '%y %m %u %g %p %l\n' | LC_ALL=C sort
    cat etc/passwd etc/group etc/shadow etc/gshadow
  )
}
same() { # LIST LIST WHAT
  diff "$1" "$2" >"$lab/diff.log" || fail "$3: $(head -n 5 "$lab/diff.log")"
  ok "$3 ($(grep -c '^[a-z] [0-7]* ' "$1") files and folders)"
}
refused() { # CODE PATTERN WHAT COMMAND...: one line that says so, and nothing left behind
  code=$1 pattern=$2 what=$3 got=0
  shift 3
  "$@" >"$lab/refused.log" 2>"$lab/refused.err" || got=$?
  files >"$lab/after"
  [ "$got" -eq "$code" ] || fail "$what: exit $got, expected $code: $(cat "$lab/refused.err")"
  [ "$(wc -l <"$lab/refused.err")" -eq 1 ] || fail "$what: not one line: $(cat "$lab/refused.err")"
  grep -Eq "$pattern" "$lab/refused.err" || fail "$what: $(cat "$lab/refused.err")"
  printf '      %s\n' "$(cat "$lab/refused.err")"
  same "$lab/before" "$lab/after" "$what: exit $got, and the files are the same as before"
}

[ "$(id -u)" -eq 0 ] || fail "run it as root"
for tool in debootstrap systemd-nspawn; do command -v $tool >/dev/null || fail "$tool is missing: apt-get install debootstrap systemd-container"; done
$pleat --help >/dev/null || fail "no pleat at '$pleat'; name it: PLEAT=/path/to/pleat $0"

say "a clean root ($suite)"
if [ -n "${CLEAN:-}" ]; then
  cp -a --reflink=auto "$CLEAN" "$root"
else
  debootstrap --variant=minbase --include=python3,python3-venv,systemd,systemd-sysv,dbus "$suite" "$root" >"$lab/debootstrap.log"
fi
mkdir -p "$root$stick" "$root/srv/pleat"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev"
python=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ok "Python $python, systemd $(chroot "$root" systemctl --version | awk 'NR == 1 { print $2 }')"

say "the wheels, fetched by this machine"
mkdir "$lab/stick"
mount --bind "$lab/stick" "$root$stick"
cp -r "$here" "$lab/stick/deploy"
python3 "$here/fetch_wheels.py" --python "$python" --machine "$(uname -m)" "$@" "$lab/stick/wheels" 2>"$lab/fetch.log"
mkdir "$lab/stick/checkout"
(cd "$here/.." && cp -r common server client deploy pyproject.toml constraints.txt README.md LICENSE "$lab/stick/checkout/")
install() { inside sh "$stick/deploy/install-client.sh" "$@"; }

say "what cannot be installed leaves nothing"
files >"$lab/before"
refused 1 'package index cannot be reached.*--wheels DIR' "neither internet nor wheels" inside sh "$stick/checkout/deploy/install-client.sh"
mkdir "$lab/stick/lacking"
for wheel in "$lab"/stick/wheels/*.whl; do
  case $wheel in */sympy-*) ;; *) ln "$wheel" "$lab/stick/lacking/" ;; esac
done
refused 1 'sympy' "a folder that lacks a wheel" install --wheels "$stick/lacking"
mount -t tmpfs -o size=64m,mode=755 tmpfs "$root/opt"
refused 2 '/opt has [0-9]+ MB free, [0-9]+ are needed' "too small a disk" install --wheels "$stick/wheels"
mount -o remount,size=4g,nr_inodes=3000 "$root/opt"
refused 1 'no space left under /opt' "a disk that fills up on the way" install --wheels "$stick/wheels"
umount "$root/opt"
refused 2 'torch 2.10.0' "torch 2.10.0" install --wheels "$stick/wheels" --torch 2.10.0
refused 2 'there is no file /srv/pleat/none.npz' "no data" install --wheels "$stick/wheels" --data /srv/pleat/none.npz

say "installed twice and removed"
install --wheels "$stick/wheels" --name board >"$lab/first.log"
files >"$lab/once"
install --wheels "$stick/wheels" >"$lab/second.log"
files >"$lab/twice"
same "$lab/once" "$lab/twice" "installed a second time, the files are the same"
chroot "$root" pleat-client --help >/dev/null && ok "pleat-client runs; $(du -sm "$root/opt/pleat" | cut -f1) MB in /opt/pleat"
chroot "$root" systemd-analyze verify --man=no pleat-client.service && ok "systemd-analyze verify: nothing to say"
chroot "$root" systemd-analyze security --offline=true --threshold=30 pleat-client.service >"$lab/security.log" ||
  fail "exposed above 3.0: $(tail -n 1 "$lab/security.log")"
ok "systemd-analyze security --offline: $(sed -n 's/.*level for [^:]*: //p' "$lab/security.log")"
install --uninstall >/dev/null
files >"$lab/after"
same "$lab/before" "$lab/after" "removed, the files are the same as before the first time"

# ---- booted

now() { date +%s%N; }
until_true() { # SECONDS WHAT COMMAND...
  for _ in $(seq $(($1 * 10))); do
    if "${@:3}"; then return 0; fi
    sleep 0.1
  done
  fail "$2: not within $1 s"
}
there() { nsenter --target "$init" --all "$@"; }
shown() { there systemctl show --property "$1" --value pleat-client; }
says() { shown StatusText | grep -q "$1"; }
restarted() { [ "$(shown NRestarts)" -eq "$1" ] && [ "$(shown ActiveState)" = active ]; }
booted() {
  init=$(cut -d' ' -f1 "/proc/$container/task/$container/children" 2>/dev/null)
  [ -n "$init" ] && there systemctl is-system-running 2>/dev/null | grep -Eq 'running|degraded'
}
recorded() { grep -q "\"outcome\": *\"$1\"" "$lab/run/journal.jsonl" 2>/dev/null; }

say "a server with endless work on this machine"
$pleat shards digits --devices 1 --out "$root/srv/pleat" >/dev/null
chmod -R a+rX "$root/srv/pleat"
(cd "$lab" && exec $pleat serve --model mlp --policy fixed --least 1 --rounds 2 --listen 127.0.0.1:0 --folder run \
  --data "$root/srv/pleat/test.npz" --set training.epochs=1000000 --set server.deadline_s=3600) >"$lab/server.log" 2>&1 &
server=$!
until_true 60 "the server listens" grep -q 'listening on' "$lab/server.log"
address=$(sed -n 's/.*listening on \([0-9.:]*\).*/\1/p' "$lab/server.log" | head -n 1)
ok "it listens on $address"

say "booted with systemd-nspawn, installed there, with a watchdog of 6 s to save time"
umount --recursive "$root/proc" "$root/dev"
mkdir -p "$root/etc/systemd/system/pleat-client.service.d"
printf '[Service]\nWatchdogSec=6\n' >"$root/etc/systemd/system/pleat-client.service.d/check.conf"
systemd-nspawn --quiet --boot --directory "$root" --register=no --keep-unit --resolv-conf=off --timezone=off --link-journal=no \
  --bind="$lab/stick:$stick" </dev/null >"$lab/boot.log" 2>&1 &
container=$!
until_true 90 "the container boots" booted
there sh "$stick/deploy/install-client.sh" --wheels "$stick/wheels" --server "$address" --name board --data /srv/pleat/device-0.npz \
  >"$lab/third.log"
ok "$(tail -n 1 "$lab/third.log")"
until_true 120 "it trains" says 'training run/[1-9]'
ok "systemctl status says: $(shown StatusText)"
ok "as the user $(there stat -c %U "/proc/$(shown MainPID)"), watchdog $(shown WatchdogUSec)"

there systemctl kill --kill-who=main --signal=KILL pleat-client
until_true 60 "killed, it comes back" restarted 1
until_true 60 "killed, it trains again" says 'training run/[1-9]'
ok "kill -9: restarted, and the order is done afresh: $(shown StatusText)"
if recorded aborted; then fail "the death of the daemon was reported as an abort"; fi

there systemctl kill --kill-who=main --signal=STOP pleat-client
frozen=$(now)
until_true 60 "frozen, it comes back" restarted 2
ok "kill -STOP: restarted after $((($(now) - frozen) / 1000000000)) s: $(there journalctl -u pleat-client --no-pager -o cat | grep -i 'watchdog' | head -n 1)"
until_true 60 "after that it trains again" says 'training run/[1-9]'

began=$(now)
there systemctl stop pleat-client
took=$((($(now) - began) / 1000000))
[ "$took" -lt 2000 ] || fail "the stop took $took ms"
until_true 30 "the abort is recorded" recorded aborted
ok "stop in the middle of a training: $took ms, result $(shown Result); the server's journal says: $(grep -o '"outcome": *"aborted"' "$lab/run/journal.jsonl" | head -n 1)"
[ -z "$(find "$root/var/lib/pleat" -name '[0-9]*.staged')" ] || fail "something is left staged"

there sh "$stick/deploy/install-client.sh" --uninstall >"$lab/away.log"
for gone in opt/pleat etc/pleat var/lib/pleat usr/local/bin/pleat-client etc/systemd/system/pleat-client.service; do
  [ ! -e "$root/$gone" ] || fail "removed, /$gone is still there"
done
if grep -q '^pleat:' "$root/etc/passwd"; then fail "removed, the user is still there"; fi
ok "removed from the running system"
there systemctl poweroff
wait "$container" || true
container=''
say "all of it holds"
