#!/usr/bin/env bash
# POSIX conformance of a directory, by the published crate pjdfstest. Needs root: it switches users.
#   pjdfstest.sh DIR [OTHER]
#     DIR    on the file system under test
#     OTHER  a directory on any other file system, for what must not work across two; without it those cases do not pass
# Environment: PJDFSTEST the program (default: of PATH), OUT a directory for the log (default: a new one).
# Names what did not pass; the last line is "N passed, N failed, N skipped". Exit 0 if every case passed but those of
# pjdfstest.skipped.
set -u
dir=${1:?usage: $0 DIR [OTHER]} other=${2-}
program=${PJDFSTEST:-pjdfstest}
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"
id tests >/dev/null 2>&1 || useradd -U -M -s /usr/sbin/nologin tests
work=$(mktemp -d "$dir/pjd.XXXXXX") || exit 2
chmod 755 "$work"
second=
arguments=()
if [ -n "$other" ]; then
  second=$(mktemp -d "$other/pjd.XXXXXX")
  arguments=(-s "$second")
fi
trap 'rm -rf "$work" ${second:+"$second"}' EXIT
cat > "$out/pjdfstest.toml" <<TOML
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [ ["nobody", "$(id -gn nobody)"], ["tests", "tests"] ]
TOML
timeout "${LIMIT:-240}" "$program" -c "$out/pjdfstest.toml" -p "$work" "${arguments[@]+"${arguments[@]}"}" \
  > "$out/pjdfstest.log" 2>&1
status=$?
if ! grep -q '^Summary' "$out/pjdfstest.log"; then
  tail -5 "$out/pjdfstest.log"
  echo "pjdfstest died (status $status); its log is $out/pjdfstest.log"
  exit 1
fi
echo "log: $out/pjdfstest.log"
"$(dirname "$0")/pjdfstest-judge.sh" "$out/pjdfstest.log"
