# shellcheck shell=sh disable=SC2034 # variables of install-client.sh, which sources this
# What this machine is, and from that which torch and which pleat go onto it. Changes nothing.

field() { sed -n "s/^$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" "$ROOT/etc/os-release" 2>/dev/null | head -n 1; }

look() {
  MACHINE=$(uname -m) SYSTEM=$(field PRETTY_NAME) MODEL='' KIND=other OLD_ARM=''
  [ "$(uname -s)" = Linux ] || die 2 "this is $(uname -s); the client runs on 64-bit Linux alone"
  if [ "$(getconf LONG_BIT)" != 64 ]; then
    die 2 "this system is 32-bit (the kernel says $MACHINE), for which neither torch nor grpc is made; write the 64-bit image of Raspberry Pi OS to the card"
  fi
  case $MACHINE in aarch64 | x86_64) ;; *) die 2 "no torch is made for $MACHINE; expected aarch64 or x86_64" ;; esac
  command -v systemctl >/dev/null || die 2 "there is no systemd here; install by hand as deploy/README.md shows, and run: pleat-client run"
  if [ -r "$ROOT/proc/device-tree/model" ]; then MODEL=$(tr -d '\0' <"$ROOT/proc/device-tree/model"); fi
  case $MODEL in *"Raspberry Pi"*) KIND=pi ;; *Jetson* | *NVIDIA*) KIND=jetson ;; esac
  if [ -e "$ROOT/etc/nv_tegra_release" ]; then KIND=jetson; fi
  if [ "$MACHINE" = aarch64 ] && ! grep -qw atomics "$ROOT/proc/cpuinfo"; then OLD_ARM=yes; fi
  case "$(field ID) $(field VERSION_ID)" in
    'debian 12' | 'debian 13' | 'ubuntu 22.04' | 'ubuntu 24.04') NOTE='' ;;
    *) NOTE=' (not among those it was tried on: Debian 12 and 13, Ubuntu 22.04 and 24.04)' ;;
  esac
  look_python
  look_space
}

good_python() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

look_python() {
  asked=$PYTHON
  for one in ${asked:-python3 python3.13 python3.12 python3.11 python3.10}; do
    if command -v "$one" >/dev/null && good_python "$one"; then PYTHON=$(command -v "$one"); break; fi
    PYTHON=''
  done
  if [ -z "$PYTHON" ]; then
    found=$("${asked:-python3}" -V 2>/dev/null || echo 'none')
    more='sudo apt-get install python3 python3-venv, or name another with --python PROGRAM'
    if [ "$KIND" = jetson ]; then more='JetPack 5 and older have too old a Python: install JetPack 6'; fi
    die 2 "Python from 3.10 to 3.13 is needed, found: $found; $more"
  fi
  VERSION=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || die 2 "$PYTHON cannot make virtual environments; type: sudo apt-get install python$VERSION-venv"
}

look_space() {
  FREE_MB=$(($(df -Pk "$(if [ -d "$OPT" ]; then echo "$OPT"; else echo "$ROOT/"; fi)" | awk 'NR == 2 { print $4 }') / 1024))
  if [ "$FREE_MB" -lt "$SPACE_MB" ]; then
    die 2 "/opt has $FREE_MB MB free, $SPACE_MB are needed; make room (sudo apt-get clean) and run this again"
  fi
}

# ---- which torch, and which pleat

choose_torch() { # FROM: words for people; TORCH_ARGS: words for pip; SITE: for venv
  FROM='' TORCH_ARGS='' SITE=''
  if [ -n "$WHEELS" ] && [ -z "$TORCH" ]; then
    TORCH=$(find "$WHEELS" -maxdepth 1 -name 'torch-*.whl' | sort | tail -n 1)
    if [ -z "$TORCH" ] && [ "$KIND" != jetson ]; then
      die 2 "--wheels: $WHEELS holds no torch-*.whl; make it with: python3 deploy/fetch_wheels.py --python $VERSION --machine $MACHINE $WHEELS"
    fi
  fi
  case ${TORCH##*/} in
    2.10 | 2.10.0* | torch-2.10.0*)
      die 2 "torch 2.10.0 is not used: it dies with an illegal instruction on ARMv8.0${OLD_ARM:+, which this board is}; leave --torch out for $ARM_TORCH" ;;
    torch-*.whl) [ -f "$TORCH" ] || die 2 "--torch: there is no file $TORCH"; FROM=$TORCH TORCH_ARGS=$TORCH; return ;;
  esac
  if [ "$TORCH" = system ] || { [ "$KIND" = jetson ] && [ -z "$TORCH$INDEX" ]; }; then choose_system; return; fi
  case $TORCH in '' | [0-9]*.[0-9]*) ;; *) die 2 "--torch '$TORCH' is no version, no wheel and not 'system'" ;; esac
  if [ -n "$WHEELS" ]; then
    FROM="$TORCH from $WHEELS"
  elif [ -n "$INDEX" ]; then
    FROM="${TORCH:-the newest} from $INDEX"
  elif [ "$MACHINE" = x86_64 ]; then
    INDEX=$CPU_INDEX TORCH=${TORCH:-$X86_TORCH} FROM="${TORCH:-$X86_TORCH} from $CPU_INDEX"
  else
    minor=$(printf '%s' "${TORCH:-$ARM_TORCH}" | cut -d. -f2)
    if [ "${TORCH%%.*}" = 2 ] && [ "$minor" -gt 10 ]; then
      die 2 "PyPI's torch $TORCH for aarch64 is a CUDA build of 3 GB; leave --torch out for $ARM_TORCH, or give --torch-index $CPU_INDEX"
    fi
    TORCH=${TORCH:-$ARM_TORCH} FROM="$TORCH from PyPI, a CPU build"
  fi
  if [ -n "$TORCH" ]; then TORCH_ARGS="torch==$TORCH"; else TORCH_ARGS='torch>=2.4,<3,!=2.10.0'; fi
  TORCH_ARGS="$TORCH_ARGS${INDEX:+ --index-url $INDEX}"
}

choose_system() {
  found=$("$PYTHON" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null) || found=''
  case $found in
    '') die 2 "$PYTHON has no torch; give NVIDIA's wheel for this JetPack with --torch FILE or its index with --torch-index URL (deploy/jetson.md)" ;;
    2.10.0*) die 2 "$PYTHON has torch 2.10.0, which pleat does not use; give another with --torch FILE" ;;
  esac
  FROM="$found, which $PYTHON has" SITE=--system-site-packages
}

choose_pleat() { # from the folder of wheels, else from the checkout this script lies in; never from a registry
  if [ -n "$WHEELS" ]; then
    PLEAT=$(find "$WHEELS" -maxdepth 1 -name 'pleat-*.whl' | sort | tail -n 1)
    [ -n "$PLEAT" ] || die 2 "--wheels: $WHEELS holds no pleat-*.whl; make it with: python3 deploy/fetch_wheels.py --python $VERSION --machine $MACHINE $WHEELS"
  else
    PLEAT=$(dirname "$HERE")
    grep -qs '^name = "pleat"' "$PLEAT/pyproject.toml" || die 2 "$HERE is not in a checkout of pleat; copy the whole checkout to this board, or give --wheels DIR"
  fi
  [ -f "$HERE/systemd/pleat-client.service" ] || die 2 "$HERE/systemd/pleat-client.service is missing; copy the whole folder deploy/"
}

tell_plan() {
  say "board    ${MODEL:-unnamed} ($MACHINE${OLD_ARM:+, ARMv8.0})"
  say "system   ${SYSTEM:-unknown}$NOTE"
  say "python   $PYTHON ($VERSION)"
  say "torch    $FROM"
  say "pleat    $PLEAT"
  say "writes   $TARGET $COMMAND $UNIT $STATE and the user pleat"
  if [ -e "$ETC/client.toml" ]; then
    say "keeps    $ETC/client.toml, as it is${SERVER:+; --server is not written}${DATA:+; --data is not written}${NAME:+; --name is not written}"
  else
    say "makes    $ETC/client.toml: server ${SERVER:-not given}, data ${DATA:-not given}, name ${NAME:-the name of the host}"
  fi
}
