#!/usr/bin/env bash
# Checks without writing: formatting, lints, documents, and the rules of the house.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

step() { printf '== %s\n' "$*"; }

step "format"
cargo fmt --all --check
step "lints"
cargo clippy --quiet --workspace --all-targets -- -D warnings
step "documents"
RUSTDOCFLAGS='-D warnings' cargo doc --quiet --workspace --no-deps --document-private-items
step "tidy"
cargo nextest run --cargo-quiet --no-fail-fast -p tests -E 'binary(tidy)' --status-level fail
