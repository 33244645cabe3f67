#!/usr/bin/env bash
# What a run of pjdfstest came to.
#   pjdfstest-judge.sh LOG
# Names each case that did not pass and does not stand in pjdfstest.skipped, and says if cases are missing. The last line
# is "N passed, N failed, N skipped"; exit 0 if every case passed that is not on that list.
set -euo pipefail
log=${1:?usage: $0 LOG}
skipped=$(dirname "$0")/pjdfstest.skipped
# Cases that the suite has: one that was never run did not pass either.
cases=398
awk -v cases=$cases '
  NR == FNR { if ($0 !~ /^#/ && NF) allowed[$1]; next }
  /^Summary/ { summary = 1 }
  summary || $0 !~ /^[a-z0-9_]+(::[a-z0-9_]+)+ +[^ ]/ { next }
  {
    seen++
    if ($2 == "ok" && NF == 2) { passed++; next }
    if ($2 == "skipped") counted_skipped++; else failed++
    # On the list it may be skipped, and nothing else.
    if ($2 != "skipped" || !($1 in allowed)) { print; bad++ }
  }
  END {
    if (!summary) { print "the log has no summary: it broke off"; bad++ }
    if (seen != cases) { printf "%d cases were run of %d\n", seen, cases; bad++ }
    printf "%d passed, %d failed, %d skipped\n", passed, failed, counted_skipped
    exit bad > 0
  }' "$skipped" "$log"
