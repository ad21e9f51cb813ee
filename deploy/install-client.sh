#!/bin/sh
# Installs pleat's client as a service on a 64-bit Debian, Raspberry Pi OS, Ubuntu or JetPack 6; --help tells the options.
#
# It promises: everything is built and tried in a folder beside the target before anything is put into place, and a failure
# at any point leaves the machine as it was. It may be run again at any time, to bring in a newer version.
set -eu

ROOT=${PLEAT_ROOT:-} # another root to look at and to write under: for tests
OPT=$ROOT/opt TARGET=$ROOT/opt/pleat COMMAND=$ROOT/usr/local/bin/pleat-client
ETC=$ROOT/etc/pleat STATE=$ROOT/var/lib/pleat UNIT=$ROOT/etc/systemd/system/pleat-client.service
CPU_INDEX=https://download.pytorch.org/whl/cpu
X86_TORCH=2.13.0 ARM_TORCH=2.9.1 # PyPI's last aarch64 wheel that is a CPU build and runs on ARMv8.0 (Pi 3, Pi 4, Zero 2)
SPACE_MB=1800     # while it installs; at most 1030 of them stay
HERE=$(cd "$(dirname "$0")" && pwd)
COMPLETE='' UNDO='' STAGE='' SAID=''

usage() {
  cat <<'END'
usage: sudo deploy/install-client.sh [options]

  --server HOST:PORT   the server; the next four fill /etc/pleat/client.toml when it is made, and never change it later
  --data FILE          this device's shard (.npz), where the service can read it: /var/lib/pleat/shard.npz, for one
  --name NAME          label of this device, unique in a run; without it the host's name
  --ca FILE            certificate authority of the server (PEM)
  --insecure           plaintext to a server on another machine
  --wheels DIR         install from this folder alone, made by deploy/fetch_wheels.py: for boards without internet
  --torch WHAT         a version, a wheel's file, or `system`: the torch that python3 has already
  --torch-index URL    package index to take torch from
  --python PROGRAM     a Python from 3.10 to 3.13; without it python3
  --dry-run            tell what would be done, and do nothing
  --uninstall          remove what this script and the service made: program, unit, user, settings, identity, unsent work
END
}

say() { printf '%s\n' "$*"; }
die() { # CODE WORDS: 2 = asked for what cannot be, 1 = it went wrong
  code=$1 SAID=yes; shift
  printf 'install-client: %s\n' "$*" >&2
  exit "$code"
}
finish() {
  code=$?
  trap '' INT TERM HUP
  if [ -z "$COMPLETE" ]; then undo_all; fi
  if [ "$code" -ne 0 ] && [ -z "$SAID$COMPLETE" ]; then
    printf 'install-client: it stopped (exit %s); the machine is as it was\n' "$code" >&2
  fi
  if [ -n "$STAGE" ]; then rm -rf "$STAGE"; fi
  exit "$code"
}

# shellcheck source-path=SCRIPTDIR source=install/look.sh
. "$HERE/install/look.sh"
# shellcheck source-path=SCRIPTDIR source=install/build.sh
. "$HERE/install/build.sh"
# shellcheck source-path=SCRIPTDIR source=install/place.sh
. "$HERE/install/place.sh"

# ---- what is asked

SERVER='' DATA='' NAME='' CA='' INSECURE='' WHEELS='' TORCH='' INDEX='' PYTHON='' DRY='' UNINSTALL=''
options() {
  while [ $# -gt 0 ]; do
    case $1 in
      --dry-run) DRY=yes; shift; continue ;;
      --uninstall) UNINSTALL=yes; shift; continue ;;
      --insecure) INSECURE=yes; shift; continue ;;
      -h | --help) usage; exit 0 ;;
    esac
    case $1 in
      --server | --data | --name | --ca | --wheels | --torch | --torch-index | --python) ;;
      *) die 2 "unknown option '$1'; type: $0 --help" ;;
    esac
    case ${2:-} in '' | --*) die 2 "$1 needs a value; type: $0 --help" ;; esac
    case $1 in
      --server) SERVER=$2 ;; --data) DATA=$2 ;; --name) NAME=$2 ;; --ca) CA=$2 ;; --wheels) WHEELS=$2 ;;
      --torch) TORCH=$2 ;; --torch-index) INDEX=$2 ;; --python) PYTHON=$2 ;;
    esac
    shift 2
  done
}

check_asked() {
  if [ -n "$SERVER" ]; then
    printf '%s\n' "$SERVER" | grep -Eq '^[][A-Za-z0-9.:_-]+:[0-9]{1,5}$' ||
      die 2 "--server '$SERVER' is no address; expected HOST:PORT, such as 192.168.1.10:8440"
  fi
  if [ -n "$NAME" ]; then
    printf '%s\n' "$NAME" | grep -Eq '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$' ||
      die 2 "--name '$NAME' is no device name; take letters, digits, dots, dashes and underscores, such as kitchen-pi"
  fi
  visible --data "$DATA" shard.npz
  visible --ca "$CA" ca.pem
  if [ -n "$WHEELS" ]; then
    [ -d "$WHEELS" ] || die 2 "--wheels: there is no folder $WHEELS; make it with: python3 deploy/fetch_wheels.py --help"
    WHEELS=$(cd "$WHEELS" && pwd)
    [ -z "$INDEX" ] || die 2 "--wheels and --torch-index exclude each other: $WHEELS is to hold torch"
  fi
}

visible() { # OPTION FILE NAME: the service sees neither homes nor /tmp
  [ -n "$2" ] || return 0
  [ -f "$2" ] || die 2 "$1: there is no file $2"
  path=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
  case $path in
    *[\"\\]*) die 2 "$1: '$path' holds a quote or a backslash; rename it" ;;
    /home/* | /root/* | /tmp/* | /var/tmp/* | /run/user/*)
      [ -n "$ROOT" ] || die 2 "$1: the service does not see $path; type: sudo install -D -m 644 $path /srv/pleat/$3 and give $1 /srv/pleat/$3" ;;
  esac
  case $1 in --data) DATA=$path ;; --ca) CA=$path ;; esac
}

alone() {
  [ "$(id -u)" -eq 0 ] || die 2 "this changes the system; type: sudo $0 ..."
  if [ ! -d "$OPT" ]; then undo no_opt; mkdir -p "$OPT"; fi
  exec 9<"$OPT"
  flock -n 9 || die 1 "another $0 is at work; wait for it"
}

main() {
  options "$@"
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  if [ -n "$UNINSTALL" ]; then
    if [ -z "$DRY" ]; then alone; fi
    uninstall
    COMPLETE=yes
    exit 0
  fi
  check_asked
  look
  choose_torch
  choose_pleat
  tell_plan
  if [ -n "$DRY" ]; then exit 0; fi
  alone
  left_over
  stage
  place
  COMPLETE=yes
  if [ -n "${OLD:-}" ]; then rm -rf "$OLD"; fi
  start
}

main "$@"
