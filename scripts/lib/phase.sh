# Phases for the shell scripts: one line each, which ends with its time; the log is shown only when one fails.
# Sourced by the other scripts; needs LOG, the path of the log file.

# phase NAME COMMAND...: runs COMMAND with its output in the log.
phase() {
  local name=$1 start=$EPOCHREALTIME status=0
  shift
  [ -t 2 ] && printf '%s ...\r' "$name" >&2
  "$@" >>"$LOG" 2>&1 </dev/null || status=$?
  local time
  time=$(elapsed "$start")
  if [ "$status" = 0 ]; then
    printf '%-40s %s\n' "$name" "$time"
    return 0
  fi
  printf '%-40s %s   failed\n' "$name" "$time"
  {
    echo "log: $LOG"
    tail -n 10 "$LOG" | sed 's/^/  /'
  } >&2
  return "$status"
}

# elapsed START: the time since START as a person reads it.
elapsed() {
  awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN {
    s = b - a
    if (s < 60) printf "%.1f s", s; else printf "%d min %02d s", s / 60, s % 60 }'
}

# fail MESSAGE HINT
fail() {
  echo "error: $1" >&2
  echo "hint: $2" >&2
  exit 1
}
