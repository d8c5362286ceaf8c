# What the NFS laboratory is made of: sourced by scripts/nfs-lab, after common.sh.
# shellcheck shell=bash disable=SC2154
#
# Everything is a Debian package, downloaded and unpacked below $lab, nothing is installed and no service starts:
#   $lab/debs    the packages
#   $lab/tools   those this machine lacks of $lab_packages and their dependencies: a layer over / inside the guest
#   $lab/uml     a kernel that runs as an ordinary process (user-mode-linux), its modules and its C library

lab_suite=forky # the first suite whose user-mode-linux starts on today's processors
lab_packages=(nfs-kernel-server nfs-common rpcbind e2fsprogs xfsprogs iproute2 kmod busybox-static util-linux patchelf quota)

lab_setup() {
  local stamp="$lab/ready-$lab_suite" made_of="$lab ${lab_packages[*]}"
  # The kernel names its C library by absolute path: a folder that was moved is built again.
  [ "$(cat "$stamp" 2>/dev/null)" != "$made_of" ] || return 0
  rm -rf "$lab"
  mkdir -p "$lab/debs/partial" "$lab/tools/usr" "$lab/uml" "$lab/lists/partial"
  say "NFS laboratory: fetching a kernel and the NFS tools (once)"
  unpack_tools
  unpack_kernel
  rm -rf "$lab/debs" "$lab/lists"
  say "$made_of" >"$stamp"
}

# apt-get with our own list of one suite: the system's lists stay as they are.
apt_suite() {
  apt-get -qq -o Dir::Etc::SourceList="$lab/suite.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State::Lists="$lab/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
    -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
    -o APT::Sandbox::User=root "$@"
}

# The archive this machine already installs from.
debian_archive() {
  # shellcheck disable=SC2016 # apt-get fills it in
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sed -n 1p
}

download_tools() {
  apt-get install -y -qq --no-install-recommends --download-only -o Debug::NoLocking=1 -o APT::Sandbox::User=root \
    -o Dir::Cache::Archives="$lab/debs" "${lab_packages[@]}" </dev/null
}

unpack_tools() {
  local package folder link to
  if ! download_tools >"$lab/apt.log" 2>&1; then
    as_root apt-get update -qq || true
    download_tools >"$lab/apt.log" 2>&1 || die "cannot download the NFS tools: $(cat "$lab/apt.log")"
  fi
  for package in "$lab"/debs/*.deb; do
    [ ! -e "$package" ] || dpkg -x "$package" "$lab/tools"
  done
  # As a layer over a root with merged /usr, a folder named /sbin would hide the link of that name.
  for folder in bin sbin lib lib64; do
    [ ! -d "$lab/tools/$folder" ] || { cp -a "$lab/tools/$folder" "$lab/tools/usr/" && rm -r "$lab/tools/$folder"; }
  done
  # Before the guest has its root, a link to /bin/kmod leads to this machine's, which may have none.
  for link in "$lab"/tools/usr/sbin/*; do
    to=$(readlink "$link") || continue
    case $to in /bin/*) [ ! -e "$lab/tools/usr$to" ] || ln -sfn "..$to" "$link" ;; esac
  done
  rm -f "$lab"/debs/*.deb
}

unpack_kernel() {
  local archive libc patchelf
  archive=$(debian_archive)
  [ -n "$archive" ] || die "no Debian archive among this machine's package sources"
  say "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $lab_suite main" >"$lab/suite.list"
  apt_suite update
  (cd "$lab/debs" && apt_suite download user-mode-linux libc6)
  dpkg -x "$lab"/debs/user-mode-linux_*.deb "$lab/uml"
  dpkg -x "$lab"/debs/libc6_*.deb "$lab/uml/libc"
  # Its C library is newer than this machine's: it brings its own.
  libc=$(dirname "$(find "$lab/uml/libc" -name 'ld-linux-x86-64.so.2' -type f)")
  patchelf=$(PATH="$lab/tools/usr/bin:$PATH" command -v patchelf)
  mv "$lab/uml/usr/bin/linux.uml" "$lab/uml/linux"
  "$patchelf" --set-interpreter "$libc/ld-linux-x86-64.so.2" --set-rpath "$libc" "$lab/uml/linux"
  mkdir -p "$lab/uml/lib" && ln -s ../usr/lib/uml/modules "$lab/uml/lib/modules"
}
