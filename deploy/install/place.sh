# shellcheck shell=sh
# Puts what was built into place, each step with its undoing; and takes it away again. Sourced by install-client.sh.

undo() { UNDO="$1 $UNDO"; }
undo_all() { for step in $UNDO; do "$step" || true; done; }
start_again() { systemctl start --no-block pleat-client; }
no_user() { userdel pleat; }
no_opt() { rmdir "$OPT"; }
no_state() { rmdir "$STATE"; }
no_etc() { rmdir "$ETC"; }
no_settings() { rm -f "$ETC/client.toml" "$ETC/.client.toml.new"; }
no_program() { rm -rf "$TARGET"; }
no_command() { rm -f "$COMMAND"; }
old_program() {
  if [ -d "$OLD/pleat" ]; then mv "$OLD/pleat" "$TARGET"; fi
  rm -rf "$OLD"
}
old_unit() {
  rm -f "$UNIT.new"
  if [ -n "$BEFORE" ]; then
    printf %s "${BEFORE%.}" >"$UNIT"
  else
    systemctl --quiet disable pleat-client 2>/dev/null || true
    rm -f "$UNIT"
  fi
  if running; then systemctl daemon-reload; fi
}

running() { [ -n "$ROOT" ] || [ -d /run/systemd/system ]; } # not so in a chroot or an image being built

place() {
  if running && systemctl --quiet is-active pleat-client; then
    undo start_again
    systemctl stop pleat-client
  fi
  place_user
  if [ ! -d "$STATE" ]; then undo no_state; mkdir -p "$STATE"; fi
  chown pleat:pleat "$STATE"
  chmod 750 "$STATE"
  place_settings
  if [ -d "$TARGET" ]; then
    OLD=$(mktemp -d "$OPT/.pleat-old.XXXXXX")
    undo old_program
    mv "$TARGET" "$OLD/pleat"
  fi
  undo no_program
  mv "$STAGE" "$TARGET"
  STAGE=''
  place_command
  place_unit
}

place_user() {
  if ! getent passwd pleat >/dev/null; then
    undo no_user
    useradd --system --user-group --home-dir /var/lib/pleat --no-create-home --shell /usr/sbin/nologin pleat
  fi
  case $KIND in pi | jetson)
    for group in video render i2c; do # firmware word of a Pi; GPU and power sensors of a Jetson
      if getent group "$group" >/dev/null; then usermod --append --groups "$group" pleat; fi
    done ;;
  esac
}

place_settings() {
  [ ! -e "$ETC/client.toml" ] || return 0
  if [ ! -d "$ETC" ]; then undo no_etc; mkdir -p "$ETC"; fi
  undo no_settings
  {
    say '# Settings of this device: the same names as the options of `pleat-client run --help`.'
    line server "$SERVER" 192.168.1.10:8440
    line data "$DATA" /var/lib/pleat/shard.npz
    line name "$NAME" kitchen-pi
    line ca "$CA" /etc/pleat/ca.pem
    if [ -n "$INSECURE" ]; then say 'insecure = true'; else say '# insecure = true  # plaintext: whoever listens, reads'; fi
    say '# memory = "300MiB"  # budgets: no limit where nothing is said'
    say '# seconds = 20'
    say '# upload = "2MB"'
    say '# download = "8MB"'
  } >"$ETC/.client.toml.new"
  chmod 644 "$ETC/.client.toml.new"
  mv "$ETC/.client.toml.new" "$ETC/client.toml"
}

line() { if [ -n "$2" ]; then say "$1 = \"$2\""; else say "# $1 = \"$3\""; fi; }

place_command() {
  if [ -e "$COMMAND" ] && [ "$(readlink "$COMMAND")" != /opt/pleat/bin/pleat-client ]; then
    say "left $COMMAND alone: it is another program's"
    return 0
  fi
  [ -L "$COMMAND" ] || undo no_command
  mkdir -p "$(dirname "$COMMAND")"
  ln -sfn /opt/pleat/bin/pleat-client "$COMMAND"
}

place_unit() {
  BEFORE=''
  if [ -f "$UNIT" ]; then BEFORE=$(cat "$UNIT" && echo .); fi # the dot keeps the last line's end
  undo old_unit
  cp "$HERE/systemd/pleat-client.service" "$UNIT.new"
  chmod 644 "$UNIT.new"
  mv "$UNIT.new" "$UNIT"
  if running; then systemctl daemon-reload; fi
  systemctl --quiet enable pleat-client
}

start() {
  if ! grep -q '^server' "$ETC/client.toml" || ! grep -q '^data' "$ETC/client.toml"; then
    say "installed; put server and data into $ETC/client.toml, then type: sudo systemctl start pleat-client"
  elif ! running; then
    say "installed; it starts with the system"
  elif systemctl start pleat-client; then
    say "installed, and it runs; see: systemctl status pleat-client, journalctl -fu pleat-client"
  else
    die 1 "installed, but the service does not start; see why: journalctl -u pleat-client -n 5, then: sudo systemctl start pleat-client"
  fi
}

uninstall() {
  if [ -n "$DRY" ]; then
    say "would remove $TARGET $COMMAND $UNIT, $ETC/client.toml, what the service keeps in $STATE, and the user pleat"
    return 0
  fi
  if [ -f "$UNIT" ]; then
    if running; then systemctl --quiet disable --now pleat-client; else systemctl --quiet disable pleat-client; fi
    rm -f "$UNIT"
    if running; then systemctl daemon-reload; fi
  fi
  if [ "$(readlink "$COMMAND" 2>/dev/null)" = /opt/pleat/bin/pleat-client ]; then rm -f "$COMMAND"; fi
  rm -rf "$TARGET" "$OPT"/.pleat-new.* "$OPT"/.pleat-old.*
  rm -f "$ETC/client.toml"
  for part in identity lock status.json .status.json.new runs .cache .nv; do rm -rf "${STATE:?}/$part"; done
  for folder in "$ETC" "$STATE"; do
    if [ -d "$folder" ] && ! rmdir "$folder" 2>/dev/null; then say "kept $folder: it holds $(cd "$folder" && echo *)"; fi
  done
  if getent passwd pleat >/dev/null; then userdel pleat; fi
  say "removed"
}

left_over() { # a power cut in the middle of an earlier run
  for old in "$OPT"/.pleat-old.*/pleat; do
    if [ -d "$old" ] && [ ! -d "$TARGET" ]; then mv "$old" "$TARGET"; fi
  done
  rm -rf "$OPT"/.pleat-old.* "$OPT"/.pleat-new.*
}
