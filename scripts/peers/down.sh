#!/usr/bin/env bash
# down.sh DIR [--purge]: stop what up.sh DIR started (by recorded pid, after checking that the pid is
# still that program), unmount, remove the network namespace; with --purge also delete DIR.
set -u
DIR=${1:?usage: down.sh DIR [--purge]}; DIR=$(cd "$DIR" && pwd) || exit 1
[ -f "$DIR/pids" ] || { echo "$DIR was not made by up.sh" >&2; exit 1; }
um() { local n=0; while mountpoint -q "$1"; do umount "$1" 2>/dev/null && return; n=$((n+1)); [ $n -lt 50 ] || { umount -l "$1"; return; }; sleep 0.1; done; }
stop() { # stop NAME PID
  local n=0; [ "$(cat /proc/"$2"/comm 2>/dev/null)" = "$1" ] || return 0
  kill "$2"; while [ -e /proc/"$2" ]; do n=$((n+1)); [ $n -lt 300 ] || { kill -9 "$2"; return; }; sleep 0.1; done; }
um "$DIR/mnt-gluster"; um "$DIR/mnt-moosefs"
if grep -q '^glusterd ' "$DIR/pids"; then
  gluster --mode=script volume stop gv0 force >/dev/null 2>&1     # stops the bricks and the self-heal daemon
fi
while read -r what id; do case $what in netns) ;; *) stop "$what" "$id";; esac; done < <(tac "$DIR/pids")
while read -r what id; do case $what in netns) ip netns del "$id" 2>/dev/null;; esac; done < "$DIR/pids"
rm -f /var/log/glusterfs/bricks/*"$(echo "${DIR#/}" | tr / -)"*.log
left=$(for p in /proc/[0-9]*; do { tr '\0' ' ' < $p/cmdline; } 2>/dev/null | grep -qF "$DIR/" && echo "${p#/proc/}"; done | grep -vx $$)
for p in $left; do c=$(cat /proc/$p/comm 2>/dev/null); case $c in gluster*|mfs*) echo "still running: $p $c" >&2;; esac; done
: > "$DIR/pids.stopped"; mv "$DIR/pids" "$DIR/pids.stopped"
[ "${2:-}" = --purge ] && rm -rf --one-file-system "$DIR"
exit 0
