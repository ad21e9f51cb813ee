# shellcheck shell=sh
# Builds the whole program in a folder beside the target, and tries it there. Sourced by install-client.sh.

pip_install() { # WHAT ARGUMENTS
  what=$1; shift
  if [ -n "$WHEELS" ]; then set -- --no-index --find-links "$WHEELS" "$@"; fi
  "$STAGE/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --retries 3 "$@" >"$STAGE/tmp/log" 2>&1 || explain "$what"
}

explain() { # WHAT: one line from what pip said
  log=$STAGE/tmp/log
  if grep -qi 'no space left' "$log"; then
    die 1 "$1: no space left under /opt; make room (sudo apt-get clean; df -h) and run this again; nothing was changed"
  elif grep -Eqi 'name resolution|name or service not known|failed to establish a new connection|network is unreachable|timed out|max retries' "$log"; then
    die 1 "$1: the package index cannot be reached; on a machine with internet run: python3 deploy/fetch_wheels.py --python $VERSION --machine $MACHINE wheels, copy the folder here and give --wheels DIR; nothing was changed"
  fi
  die 1 "$1: $(grep -i -A 1 'error' "$log" | head -n 2 | tr '\n' ' ' | cut -c 1-300); nothing was changed"
}

stage() {
  say "installing torch and pleat beside the target; this takes minutes on a board"
  STAGE=$(mktemp -d "$OPT/.pleat-new.XXXXXX") || die 1 "cannot write into $OPT"
  chmod 755 "$STAGE"
  mkdir "$STAGE/tmp" # pip's own: /tmp may be a small one in memory
  TMPDIR=$STAGE/tmp HOME=$STAGE/tmp PYTHONDONTWRITEBYTECODE=1 PIP_ROOT_USER_ACTION=ignore
  export TMPDIR HOME PYTHONDONTWRITEBYTECODE PIP_ROOT_USER_ACTION
  # shellcheck disable=SC2086 # none or one word
  "$PYTHON" -m venv $SITE "$STAGE" >"$STAGE/tmp/log" 2>&1 || explain "$PYTHON -m venv"
  # shellcheck disable=SC2086 # words of ours; a wheel's path is one of them only where it holds no blank
  if [ -f "$TORCH_ARGS" ]; then pip_install torch --no-deps "$TORCH_ARGS"; elif [ -n "$TORCH_ARGS" ]; then pip_install torch --no-deps $TORCH_ARGS; fi
  constraints
  pip_install pleat -c "$STAGE/tmp/constraints" "pleat[client] @ file://$(printf '%s' "$PLEAT" | sed 's/ /%20/g')"
  try
  rm -rf "$STAGE/tmp"
  # A virtual environment runs from wherever it lies, but for the first lines of its scripts.
  grep -lIF -- "$STAGE" "$STAGE"/bin/* "$STAGE/pyvenv.cfg" | while read -r file; do
    if [ ! -L "$file" ]; then sed -i "s#$STAGE#/opt/pleat#g" "$file"; fi
  done
}

constraints() { # the versions that pleat is tested with; torch stays what was installed
  "$STAGE/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >"$STAGE/tmp/constraints" 2>"$STAGE/tmp/log" || explain torch
  tested=${WHEELS:-$PLEAT}/constraints.txt
  if [ -f "$tested" ]; then grep -v '^torch' "$tested" >>"$STAGE/tmp/constraints"; fi
}

try() { # does it run on this processor?
  code=0
  "$STAGE/bin/python" - >"$STAGE/tmp/log" 2>&1 <<'END' || code=$?
import numpy, torch
import pleat_client.cli, pleat_client.app, pleat_client.worker
torch.nn.functional.conv2d(torch.from_numpy(numpy.ones((1, 1, 8, 8), "f4")), torch.ones(4, 1, 3, 3))
END
  [ "$code" -ne 132 ] || die 1 "this torch dies with an illegal instruction on this processor; leave --torch out for $ARM_TORCH, or give another with --torch-index; nothing was changed"
  if [ "$code" -ne 0 ] && grep -qi 'numpy is not available' "$STAGE/tmp/log"; then
    die 1 "this torch was built for numpy 1, pleat needs one built for numpy 2 (NVIDIA's from 2.6 on); give it with --torch or --torch-index; nothing was changed"
  fi
  [ "$code" -eq 0 ] || die 1 "what was installed does not run: $(tail -n 1 "$STAGE/tmp/log" | cut -c 1-300); nothing was changed"
}
