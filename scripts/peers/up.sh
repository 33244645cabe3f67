#!/usr/bin/env bash
# up.sh [DIR] - bring up GlusterFS (replica 3) and MooseFS (goal 3) on loopback only, under DIR
# (default: a fresh mktemp -d).  Debian/Ubuntu packages, root, /dev/fuse.  No systemd needed.
# Env:  PEERS="gluster moosefs"   which ones to bring up
#       MFS_SAFE=1                MooseFS with HDD_FSYNC_BEFORE_CLOSE=1 + CHANGELOG_SAVE_MODE=2 (not the default)
#       MFS_TRASH=0               MooseFS trash time in seconds (package default is 86400; 0 so that deletes delete)
#       GLUSTER_GROUP=            e.g. metadata-cache: `gluster volume set VOL group X` (default: none, stock options)
#       NICE=-19                  start glusterd (and so the bricks) at this nice level: MooseFS programs set themselves to
#                                 -19, gluster stays at 0 by default; on a busy machine that alone decides the contest
#       SKIP_APT=1                do not touch apt
# Writes DIR/peers.env (mount points, remount commands), DIR/pids (what down.sh stops),
#        DIR/setup.log (every setup step with its seconds).
set -euo pipefail
DIR=${1:-$(mktemp -d)}; mkdir -p "$DIR"; DIR=$(cd "$DIR" && pwd)
PEERS=${PEERS:-gluster moosefs}
MFS_TRASH=${MFS_TRASH:-0}
GPORT=${GPORT:-24007}; GHOST=${GHOST:-127.0.0.2}; GBASE=${GBASE:-49152}
# MooseFS chunkservers refuse any 127/8 address ("localhost can't be used for connecting with master"), so MooseFS
# runs in a private network namespace whose only interface is lo, with one extra address on that lo: nothing outside
# this machine (nor outside the namespace) can reach it.  Mounts are made in the normal mount namespace.
MMASTER_IP=${MMASTER_IP:-10.99.77.1}; MPORT=${MPORT:-9419}
[ "$(id -u)" = 0 ] || { echo "must be root" >&2; exit 1; }
[ -e /dev/fuse ]  || { echo "no /dev/fuse" >&2; exit 1; }
: > "$DIR/setup.log"; touch "$DIR/pids"; : > "$DIR/peers.env"
say()  { echo "[$(date +%T)] $*" >&2; }
step() { # step PEER CMD...: run, log the seconds it took (one line per user-visible command)
  local peer=$1; shift; local t0 t1; t0=$(date +%s.%N)
  "$@"; local rc=$?; t1=$(date +%s.%N)
  printf '%s\t%.2f\t%s\n' "$peer" "$(echo "$t1 - $t0" | bc -l 2>/dev/null || python3 -c "print($t1-$t0)")" "$*" >> "$DIR/setup.log"
  return $rc; }
waitfor() { # waitfor SECONDS CMD...
  local n=$(( $1 * 10 )); shift; while ! "$@" >/dev/null 2>&1; do n=$((n-1)); [ $n -gt 0 ] || return 1; sleep 0.1; done; }
aptget() { # install without starting services (a temporary policy-rc.d if there is none)
  local made=; [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; made=1; }
  local rc=0; DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >>"$DIR/apt.log" 2>&1 || rc=$?
  [ -z "$made" ] || rm -f /usr/sbin/policy-rc.d; return $rc; }
pkgs_missing() { local p; for p in "$@"; do dpkg-query -W -f='${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || echo "$p"; done; }

up_gluster() {
  [ ! -S /var/run/glusterd.socket ] || ! gluster --mode=script volume list >/dev/null 2>&1 || { say "a glusterd already runs here"; exit 1; }
  local B=$DIR/gluster M=$DIR/mnt-gluster
  mkdir -p "$B"/{wd,run,log,b1,b2,b3} "$M"
  if [ -z "${SKIP_APT:-}" ]; then local m; m=$(pkgs_missing glusterfs-server glusterfs-client fio); [ -z "$m" ] || step gluster aptget $m; fi
  cp -rn /var/lib/glusterd/{groups,hooks} "$B/wd/" 2>/dev/null || true; rm -rf "$B/wd/hooks"   # hooks edit samba/nfs configs; not wanted
  cat > "$B/glusterd.vol" <<X
volume management
    type mgmt/glusterd
    option working-directory $B/wd
    option run-directory $B/run
    option transport-type socket
    option transport.socket.keepalive-time 10
    option transport.socket.keepalive-interval 2
    option transport.socket.read-fail-log off
    option transport.socket.listen-port $GPORT
    option transport.socket.bind-address $GHOST
    option transport.address-family inet
    option ping-timeout 0
    option event-threads 1
    option base-port $GBASE
    option max-port  60999
end-volume
X
  step gluster ${NICE:+nice -n $NICE} glusterd -f "$B/glusterd.vol" -p "$B/glusterd.pid" -l "$B/log/glusterd.log" -L INFO
  waitfor 20 test -s "$B/glusterd.pid"; waitfor 20 gluster --mode=script volume list || waitfor 20 gluster --mode=script volume info
  echo "glusterd $(cat "$B/glusterd.pid")" >> "$DIR/pids"
  step gluster gluster --mode=script volume create gv0 replica 3 "$GHOST:$B/b1" "$GHOST:$B/b2" "$GHOST:$B/b3" force >&2
  [ -z "${GLUSTER_GROUP:-}" ] || step gluster gluster --mode=script volume set gv0 group "$GLUSTER_GROUP" >&2
  step gluster gluster --mode=script volume start gv0 >&2
  cat > "$B/remount.sh" <<X
#!/bin/sh
# unmount + mount the gluster volume again
M=$M
if mountpoint -q \$M; then n=0; until umount \$M; do n=\$((n+1)); [ \$n -lt 50 ] || exit 1; sleep 0.1; done; fi
${NICE:+nice -n $NICE }mount -t glusterfs -o log-file=$B/log/client.log $GHOST:/gv0 \$M || exit 1
n=0; until mountpoint -q \$M && stat -f \$M >/dev/null 2>&1; do n=\$((n+1)); [ \$n -lt 100 ] || exit 1; sleep 0.05; done
X
  chmod +x "$B/remount.sh"
  step gluster "$B/remount.sh"
  { echo "GLUSTER_MNT=$M"; echo "GLUSTER_REMOUNT=$B/remount.sh"; echo "GLUSTER_PROCS='gluster.*($B|gv0|glustershd)'"; } >> "$DIR/peers.env"
}

up_moosefs() {
  local B=$DIR/moosefs M=$DIR/mnt-moosefs i NS=mfs-$(basename "$DIR" | tr -c 'A-Za-z0-9\n' -) 
  local IN="nsenter --net=/run/netns/$NS"
  mkdir -p "$B"/master "$M"; chmod 755 "$DIR" "$B"
  if [ -z "${SKIP_APT:-}" ]; then local m; m=$(pkgs_missing moosefs-master moosefs-chunkserver moosefs-client moosefs-cli fio); [ -z "$m" ] || step moosefs aptget $m; fi
  step moosefs ip netns add "$NS"; echo "netns $NS" >> "$DIR/pids"
  $IN ip link set lo up; $IN ip addr add "$MMASTER_IP/32" dev lo
  [ -e "$B/master/metadata.mfs" ] || cp /var/lib/mfs/metadata.mfs.empty "$B/master/metadata.mfs"
  echo '* / rw,alldirs,admin,maproot=0:0' > "$B/mfsexports.cfg"
  cat > "$B/mfsmaster.cfg" <<X
WORKING_USER = mfs
DATA_PATH = $B/master
EXPORTS_FILENAME = $B/mfsexports.cfg
MATOML_LISTEN_HOST = $MMASTER_IP
MATOML_LISTEN_PORT = $MPORT
MATOCS_LISTEN_HOST = $MMASTER_IP
MATOCS_LISTEN_PORT = $((MPORT+1))
MATOCL_LISTEN_HOST = $MMASTER_IP
MATOCL_LISTEN_PORT = $((MPORT+2))
${MFS_SAFE:+CHANGELOG_SAVE_MODE = 2}
X
  chown -R mfs "$B/master"
  step moosefs $IN mfsmaster -c "$B/mfsmaster.cfg" start >>"$B/start.log" 2>&1
  echo "mfsmaster $(cat "$B/master/.mfsmaster.lock")" >> "$DIR/pids"
  for i in 1 2 3; do
    mkdir -p "$B/cs$i" "$B/hdd$i"; echo "$B/hdd$i" > "$B/mfshdd$i.cfg"; chown mfs "$B/cs$i" "$B/hdd$i"
    cat > "$B/cs$i.cfg" <<X
WORKING_USER = mfs
SYSLOG_IDENT = mfscs$i
DATA_PATH = $B/cs$i
HDD_CONF_FILENAME = $B/mfshdd$i.cfg
MASTER_HOST = $MMASTER_IP
MASTER_PORT = $((MPORT+1))
BIND_HOST = $MMASTER_IP
CSSERV_LISTEN_HOST = $MMASTER_IP
CSSERV_LISTEN_PORT = $((MPORT+10+i))
${MFS_SAFE:+HDD_FSYNC_BEFORE_CLOSE = 1}
X
    step moosefs $IN mfschunkserver -c "$B/cs$i.cfg" start >>"$B/start.log" 2>&1
    echo "mfschunkserver $(cat "$B/cs$i/.mfschunkserver.lock")" >> "$DIR/pids"
  done
  # three chunkservers must have registered before the first write
  waitfor 60 sh -c "[ \$($IN mfscli -H $MMASTER_IP -P $((MPORT+2)) -SCS -s'|' -p 2>/dev/null | grep -cE '\\|($((MPORT+11))|$((MPORT+12))|$((MPORT+13)))\\|') -ge 3 ]" || say "warning: could not see 3 chunkservers with mfscli"
  cat > "$B/remount.sh" <<X
#!/bin/sh
# unmount + mount moosefs again; waits until the old mfsmount is gone and the new mount answers
M=$M
if mountpoint -q \$M; then n=0; until umount \$M; do n=\$((n+1)); [ \$n -lt 50 ] || exit 1; sleep 0.1; done; fi
$IN mfsmount \$M -H $MMASTER_IP -P $((MPORT+2)) >/dev/null 2>>$B/mount.log || exit 1
n=0; until mountpoint -q \$M && stat -f \$M >/dev/null 2>&1; do n=\$((n+1)); [ \$n -lt 100 ] || exit 1; sleep 0.05; done
X
  chmod +x "$B/remount.sh"
  step moosefs "$B/remount.sh"
  step moosefs $IN mfssetgoal -r 3 "$M" >&2
  step moosefs $IN mfssettrashtime -r "$MFS_TRASH" "$M" >&2
  { echo "MOOSEFS_MNT=$M"; echo "MOOSEFS_REMOUNT=$B/remount.sh"; echo "MOOSEFS_IN='$IN'"; echo "MOOSEFS_PROCS='^mfsmaster|^mfschunkserver .*$B|^mfsmount.*$M'"; } >> "$DIR/peers.env"
}

T0=$(date +%s.%N)
for p in $PEERS; do say "up $p"; up_$p; done
say "listening sockets of ours:"; ss -ltnpH | grep -E 'gluster|mfs' >&2 || true
for n in $(awk '$1=="netns"{print $2}' "$DIR/pids"); do nsenter --net=/run/netns/$n ss -ltnpH >&2 || true; done
echo "$DIR"
