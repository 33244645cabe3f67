#!/usr/bin/env bash
# The file system stressors of stress-ng, each of which verifies what it does, and dbench: many kinds of operations at
# once, by several processes.
#   stress.sh DIR [SECONDS] [STRESSOR...]
#     SECONDS   for each stressor (default 3)
#     STRESSOR  names of stress-ng, or dbench (default: all below)
# Environment: OUT a directory for logs (default: a new one), WORKERS processes of each stressor (default 2).
# A stressor fails when it says "fail:" (of something verified), ends with another status than success, or hangs; what
# this stress-ng does not have, or the file system cannot do, is skipped.
# The last line is "N passed, N failed, N skipped"; exit 0 if nothing failed.
set -u
dir=${1:?usage: $0 DIR [SECONDS] [STRESSOR...]} seconds=${2:-3}
shift $(($# < 2 ? $# : 2))
[ $# -gt 0 ] || set -- access chdir chmod chown copy-file dentry dir dirdeep dirmany dup fallocate fcntl fiemap \
  file-ioctl filename flock fpunch fstat getdent hdd io iomix lease link locka lockf lockofd mknod mmap mmapfixed \
  msync open readahead rename revio seek sendfile splice symlink sync-file touch utime xattr dbench
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"
work=$(mktemp -d "$dir/stress.XXXXXX") || exit 2
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT

passed=0 failed=0 skipped=0
# verdict NAME STATUS LINE-THAT-TELLS
verdict() {
  case $2 in
    0) passed=$((passed + 1)) ;;
    skip) skipped=$((skipped + 1)); echo "skipped: $1: ${3:-not supported}" ;;
    *) failed=$((failed + 1)); echo "FAILED: $1, status $2: $(cut -c1-160 <<<"$3")" ;;
  esac
}

stressor() {
  local log=$out/$1.log status
  # Each finishes its round and removes what it made, however long that takes: the loads are chosen to be small.
  timeout $((seconds * 4 + 60)) stress-ng --temp-path "$work" "--$1" "${WORKERS:-2}" --timeout "$seconds" --verify \
    --oomable --hdd-bytes 32m --fallocate-bytes 32m --dentries 512 > "$log" 2>&1
  status=$?
  if grep -q 'unrecognized option' "$log"; then
    verdict "$1" skip
  # A stressor that cannot run here says so with 3 (not supported) or 4.
  elif [ $status = 3 ] || [ $status = 4 ]; then
    verdict "$1" skip "$(grep -m1 skip "$log" | cut -c1-120)"
  elif grep -q 'fail:' "$log"; then
    verdict "$1" "$status (fail)" "$(grep -m1 'fail:' "$log")"
  else
    verdict "$1" $status "$(tail -1 "$log")"
  fi
}

dbench_() {
  local log=$out/dbench.log status
  timeout 120 dbench -D "$work" -t "$((seconds * 3))" 4 > "$log" 2>&1
  status=$?
  if [ $status = 0 ] && grep -qE '^\[[0-9]+\].*failed|ERROR' "$log"; then status=failed; fi
  verdict dbench $status "$(grep -m1 -iE 'error|failed' "$log")"
  grep Throughput "$log"
}

for name in "$@"; do
  if [ "$name" = dbench ]; then dbench_; else stressor "$name"; fi
done
echo "logs: $out"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
