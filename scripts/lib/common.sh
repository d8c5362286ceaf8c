# Shared by the scripts of this folder: source it; it only defines functions and $top, the repository's root.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin"

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# Headings stand out in a terminal and stay plain in a log.
heading() {
  if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi
}

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

# need COMMAND=PACKAGE[,PACKAGE...]...: installs the Debian packages of those commands that are missing.
need() {
  local pair packages missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null && continue
    IFS=, read -r -a packages <<<"${pair#*=}"
    missing+=("${packages[@]}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "please install: ${missing[*]}"
  say "installing ${missing[*]}"
  install_packages "${missing[@]}" && return 0
  as_root apt-get update -qq || true # a source that does not answer need not be the one that has them
  install_packages "${missing[@]}" || die "could not install ${missing[*]}"
}

install_packages() {
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null 2>&1
}

# download_packages FOLDER PACKAGE...: the packages and what this machine lacks of their dependencies, into FOLDER. Nothing is
# installed.
download_packages() {
  local folder=$1 said
  shift
  mkdir -p "$folder/partial"
  download_now() {
    apt-get install -y -qq --reinstall --no-install-recommends --download-only -o Debug::NoLocking=1 \
      -o APT::Sandbox::User=root -o Dir::Cache::Archives="$folder" "$@" </dev/null 2>&1
  }
  said=$(download_now "$@") && return 0
  as_root apt-get update -qq || true # as in need
  said=$(download_now "$@") || die "could not download $*: $said"
}

# need_unpacked FOLDER COMMAND=PACKAGE...: as need, for packages whose installation would start a service: those of
# commands that are missing are unpacked below FOLDER, where PATH then finds them.
need_unpacked() {
  local folder=$1 pair name package program libraries missing=()
  shift
  PATH="$folder/bin:$PATH"
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("$pair")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "please install: ${missing[*]#*=}"
  say "unpacking ${missing[*]#*=}"
  download_packages "$folder/debs" "${missing[@]#*=}"
  for package in "$folder"/debs/*.deb; do
    dpkg -x "$package" "$folder/root"
  done
  rm -rf "$folder/debs"
  mkdir -p "$folder/bin"
  libraries=$(find "$folder/root" -type d -name '*-linux-gnu*' -path '*/lib/*' -prune | paste -sd:)
  for pair in "${missing[@]}"; do
    name=${pair%%=*}
    program=$(find "$folder/root" -name "$name" \( -path '*/bin/*' -o -path '*/sbin/*' \) | sed -n 1p)
    [ -n "$program" ] || die "no program $name in ${pair#*=}"
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$libraries" "$program" >"$folder/bin/$name"
    chmod 755 "$folder/bin/$name"
  done
}

# The compiler and what it links with: SQLite is compiled from source.
need_rust() {
  need cc=gcc,libc6-dev
  command -v cargo >/dev/null || die "cargo is missing: install Rust (rust-version in Cargo.toml, or newer)"
}

need_fuse() {
  need fusermount3=fuse3
  [ -c /dev/fuse ] || as_root modprobe fuse 2>/dev/null || true
  [ -c /dev/fuse ] || die "/dev/fuse is missing: this kernel or container offers no FUSE"
}

# Cargo's target folder, wherever the environment or a configuration file has put it.
target_dir() {
  cargo metadata --no-deps --format-version 1 --manifest-path "$top/Cargo.toml" \
    | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

# The FUSE mounts at or below FOLDER, innermost first.
fuse_mounts_below() {
  awk -v folder="$1" '$3 ~ /^fuse/ && ($2 == folder || index($2, folder "/") == 1) { print $2 }' /proc/mounts | tac
}

# Ends every FUSE mount at or below FOLDER, lazily where it is still in use or its daemon is gone.
unmount_below() {
  local mounted
  fuse_mounts_below "$1" | while read -r mounted; do
    end_mount "$mounted"
  done
}

# Ends what tests have left mounted: they work in target/tmp/mPID-N, and those whose process lives have not left it.
unmount_left_by_tests() {
  local folder mounted pid
  folder=$(target_dir)/tmp
  fuse_mounts_below "$folder" | while read -r mounted; do
    pid=${mounted#"$folder"/m}
    [ -d "/proc/${pid%%-*}" ] || end_mount "$mounted"
  done
}

end_mount() {
  fusermount3 -u "$1" 2>/dev/null || as_root umount -l "$1" || true
}
