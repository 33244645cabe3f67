#!/usr/bin/env bash
# Random reads, writes, mappings, truncations, holes and clones of one file, compared with a copy in memory, by the
# published crate fsx.
#   fsx.sh DIR [SECONDS] [SEED] [PROFILE...]
#     PROFILE  base, mmap, big, holes, align (default: all); each runs SEED, SEED+1, … for its share of the time
# Environment: FSX the program (default: of PATH), OUT a directory for logs (default: a new one), AT_ONCE (default 2).
# The last line is "N passed, N failed"; exit 0 if nothing failed.
set -u
dir=${1:?usage: $0 DIR [SECONDS] [SEED] [PROFILE...]} seconds=${2:-60} seed=${3:-1}
shift $(($# < 3 ? $# : 3))
[ $# -gt 0 ] || set -- base mmap big holes align
program=${FSX:-fsx}
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"
work=$(mktemp -d "$dir/fsx.XXXXXX") || exit 2
trap 'rm -rf "$work"' EXIT

# profile NAME FILE-LENGTH LONGEST-OPERATION ALIGNMENT WEIGHT-OF-MAPPINGS WEIGHT-OF-FALLOCATE
profile() {
  cat > "$out/$1.toml" <<TOML
flen = $2
[opsize]
max = $3
min = $(($6 > 0))
align = $4
[weights]
close_open = 1
read = 10
write = 10
mapread = $5
mapwrite = $5
invalidate = 1
truncate = 3
fsync = 1
fdatasync = 1
posix_fallocate = $6
punch_hole = $6
sendfile = 2
posix_fadvise = 1
copy_file_range = 3
TOML
}
# fsx 0.3.2 would allocate lengths of 0 otherwise, which no file system takes.
profile base 262144 65536 1 0 1
profile mmap 262144 65536 1 10 1
profile big 67108864 4194304 1 5 1
profile holes 8388608 16384 1 5 8
profile align 1048576 131072 4096 5 0 # Lengths are aligned down, to 0 as well.

# one PROFILE SEED OPERATIONS
one() {
  timeout 120 "$program" -q -f "$out/$1.toml" -S "$2" -N "$3" -P "$out" "$work/$1.$2" > "$out/$1.$2.log" 2>&1
  local status=$?
  rm -f "$work/$1.$2"
  [ $status = 0 ] && rm -f "$out/$1.$2.log" && return 0
  echo "FAILED: profile $1, seed $2, status $status: $(grep -m1 -vE 'Using seed|LOG DUMP' "$out/$1.$2.log" | cut -c1-160)"
  return 1
}

passed=0 failed=0 share=$((seconds / $#))
[ $share -ge 2 ] || share=2
for name in "$@"; do
  [ "$name" = big ] && operations=300 || operations=2000
  began=$SECONDS next=$seed
  while [ $((SECONDS - began)) -lt $share ] && [ $failed -lt 10 ]; do
    pids=()
    for _ in $(seq "${AT_ONCE:-2}"); do
      one "$name" $next $operations &
      pids+=($!)
      next=$((next + 1))
    done
    for pid in "${pids[@]}"; do
      if wait "$pid"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    done
  done
  echo "$name: seeds $seed to $((next - 1)), $operations operations each"
done
echo "logs: $out"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
