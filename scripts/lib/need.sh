# Sourced: makes sure that what the scripts call is here, installs what it can, says clearly what is missing.

say() { printf '%s\n' "$*"; }
fail() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# need_package COMMAND PACKAGE: COMMAND from Debian's PACKAGE.
need_package() {
  command -v "$1" >/dev/null 2>&1 && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "installing $2 (for $1)"
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$2" >/dev/null 2>&1 ||
      { apt-get update >/dev/null 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$2" >/dev/null 2>&1; } ||
      fail "$1 is missing and apt-get could not install $2"
  else
    fail "$1 is missing: install the package $2 (apt-get install $2)"
  fi
}

# need_header HEADER PACKAGE: a file below /usr/include from Debian's PACKAGE.
need_header() {
  [ -e "/usr/include/$1" ] || need_package "the header $1" "$2"
}

need_rust() {
  PATH="$HOME/.cargo/bin:$PATH"
  command -v cargo >/dev/null 2>&1 ||
    fail "cargo is missing: install Rust 1.95 or later (https://rustup.rs, or your distribution's packages)"
  need_package cc gcc
}

need_nextest() {
  cargo nextest --version >/dev/null 2>&1 && return 0
  say "installing cargo-nextest"
  cargo install --quiet --locked cargo-nextest || fail "cargo-nextest is missing and cargo could not install it"
}
