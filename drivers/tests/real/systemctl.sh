#!/bin/sh
# Stands in for systemctl in a node without systemd: one service, started from its unit file and known by its pid file.
# A unit file counts as read when it is first needed and at each daemon-reload.
set -eu
verb=$1; shift
while [ "${1:-}" != "" ] && [ "${1#-}" != "$1" ]; do shift; done
unit=${1:-}
file=/etc/systemd/system/$unit
read_copy=/run/units/$unit
mkdir -p /run/units
word() { sed -n "s/^$1=//p" "$read_copy" | head -1; }
data() { word ExecStart | sed 's/.* -D \([^ ]*\) .*/\1/'; }
pid() { head -1 "$(data)/postmaster.pid" 2>/dev/null || true; }
active() { [ -e "$read_copy" ] && p=$(pid) && [ -n "$p" ] && kill -0 "$p" 2>/dev/null; }
start() {
  [ -e "$read_copy" ] || cp "$file" "$read_copy" 2>/dev/null || { echo "Unit $unit not found." >&2; exit 5; }
  active && return 0
  dir=/run/$(word RuntimeDirectory)
  mkdir -p "$dir"; chown postgres: "$dir"
  # shellcheck disable=SC2046
  setsid setpriv --reuid=postgres --regid=postgres --init-groups $(word ExecStart) </dev/null >"/run/$unit.log" 2>&1 &
  server=$!
  while ! grep -q '^ready' "$(data)/postmaster.pid" 2>/dev/null; do
    kill -0 "$server" 2>/dev/null || { cat "/run/$unit.log" >&2; exit 1; }
    sleep 0.02
  done
}
stop() {
  active || return 0
  pid_file=$(data)/postmaster.pid
  kill -INT "$(pid)"
  # The process itself may stay as a zombie: nothing reaps in such a node.
  while [ -e "$pid_file" ]; do sleep 0.02; done
  rm -rf "/run/$(word RuntimeDirectory)"
}
case $verb in
  daemon-reload)
    for copy in /run/units/*; do
      name=${copy##*/}
      if [ -e "/etc/systemd/system/$name" ]; then cp "/etc/systemd/system/$name" "$copy"; else rm -f "$copy"; fi
    done ;;
  show)
    load=not-found; state=inactive; stale=no
    { [ -e "$file" ] || [ -e "$read_copy" ]; } && load=loaded
    active && state=active
    [ -e "$read_copy" ] && ! cmp -s "$file" "$read_copy" && stale=yes
    printf 'LoadState=%s\nActiveState=%s\nNeedDaemonReload=%s\n' $load $state $stale ;;
  reset-failed) ;;
  start) start ;;
  stop) stop ;;
  restart) stop; start ;;
  reload) active && kill -HUP "$(pid)" ;;
  *) echo "this stand-in does not know $verb" >&2; exit 1 ;;
esac
