# What scripts/bench is made of: source it after common.sh. Uses $top, $target, $folder, $tools, $commitfs and $program.
# shellcheck shell=bash disable=SC2034,SC2154

# make_sources small|whole: the sources of one, or of a few, of this program's own libraries, as cargo has them: a tar archive and a git repository of it.
# libfuse's example, where its package offers it.
make_sources() {
  mkdir -p "$tools"
  tree_tar=$tools/$1.tar tree_git=$tools/$1.git passthrough=''
  case $1 in
    small) set -- small regex-syntax ;;
    *) set -- "$1" rustix tokio libc regex-syntax ;;
  esac
  if [ ! -s "$tree_tar" ] || [ ! -d "$tree_git" ]; then
    local tree=$tools/$1 name version source
    shift
    rm -rf "$tree" "$tree_git" "$tree_tar"
    mkdir "$tree"
    for name in "$@"; do
      version=$(awk -v name="\"$name\"" '$1 == "name" { found = $3 == name } found && $1 == "version" { gsub(/"/, "", $3); print $3; exit }' "$top/Cargo.lock")
      for source in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$name-$version"; do
        [ ! -d "$source" ] || cp -r "$source" "$tree/$name"
      done
    done
    [ -n "$(ls "$tree")" ] || die "cargo has no sources to unpack"
    git -C "$tree" -c init.defaultBranch=main init -q
    git -C "$tree" add -A
    git -C "$tree" -c user.name=bench -c user.email=bench@localhost commit -q -m tree
    git clone -q --bare "$tree" "$tree_git"
    rm -rf "$tree/.git"
    tar -cf "$tree_tar.new" -C "$tools" "$(basename "$tree")"
    mv "$tree_tar.new" "$tree_tar"
    rm -rf "$tree"
  fi
  make_passthrough
}

# libfuse's passthrough_ll, compiled from the examples of Debian's libfuse3-dev.
make_passthrough() {
  local source=/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c
  if [ ! -x "$tools/passthrough_ll" ]; then
    need pkg-config=pkg-config
    [ -e "$source" ] || install_packages libfuse3-dev || true
    if [ -e "$source" ]; then
      # shellcheck disable=SC2046 # words
      cc -O2 $(pkg-config --cflags fuse3) "$source" -o "$tools/passthrough_ll" $(pkg-config --libs fuse3) || true
    fi
  fi
  if [ -x "$tools/passthrough_ll" ]; then
    passthrough=$tools/passthrough_ll
  else
    say "without libfuse's passthrough example: its package has no source of it" >&2
  fi
}

# make_image ext4|xfs: a file system in a file, mounted at $folder/image. The loop device bypasses the cache of the file
# below, so that cold reads are cold.
make_image() {
  [ "$(id -u)" -eq 0 ] || die "only root mounts a loop device"
  case $1 in
    ext4) need mkfs.ext4=e2fsprogs ;;
    xfs) need mkfs.xfs=xfsprogs ;;
  esac
  drop_image
  mkdir -p "$folder/image"
  truncate -s "${BENCH_IMAGE_SIZE:-7G}" "$folder/image.img"
  loop=$(losetup --find --show --direct-io=on "$folder/image.img")
  case $1 in
    ext4) mkfs.ext4 -q -F -m 0 -N 1500000 -E lazy_itable_init=0,lazy_journal_init=0 "$loop" ;;
    xfs) mkfs.xfs -q -f -m reflink=1 "$loop" ;;
  esac
  mount "$loop" "$folder/image"
}

drop_image() {
  if mountpoint -q "$folder/image" 2>/dev/null; then umount "$folder/image" || umount -l "$folder/image"; fi
  [ -z "${loop:-}" ] || losetup -d "$loop" 2>/dev/null || true
  loop=''
  rm -f "$folder/image.img"
}

# on_nfs ARGUMENTS...: the bench in the NFS laboratory, its folders on client A. The other mounts' programs are this machine's.
on_nfs() {
  local extra=()
  [ -z "$passthrough" ] || extra=(--passthrough "$passthrough")
  # shellcheck disable=SC2016 # expanded in the guest
  "$top/scripts/nfs-lab" -s "${BENCH_IMAGE_SIZE:-900M}" -m 3072 -t 1700 shell bash -c \
    'mkdir /run/bench && exec "$@" --folder "$LAB_A/bench" --mounts /run/bench --state "$LAB_LOCAL"' bench \
    "$program" --commitfs "$commitfs" "${extra[@]}" --backing 'NFS 4.2, user-mode guest' "$@"
}

# count_calls: system calls of the daemon and of the discipline by hand, per publish.
count_calls() {
  need strace=strace
  local times=200 state pid
  mkdir -p "$folder/calls/export" "$folder/calls/mount" "$folder/calls/bare"
  state=$folder/calls/state
  heading "by hand, per publish"
  strace -f -c -o "$folder/calls/hand" "$program" store --careful --times $times "$folder/calls/bare"
  per_publish "$folder/calls/hand" $times
  "$commitfs" mount --state-dir "$state" "$folder/calls/export" "$folder/calls/mount"
  "$program" store --times 50 "$folder/calls/mount"
  pid=$("$commitfs" status --json --state-dir "$state" | sed -n 's/.*"pid":\([0-9]*\).*/\1/p')
  strace -f -c -o "$folder/calls/daemon" -p "$pid" &
  local tracer=$!
  until grep -q "TracerPid:[[:space:]]*$tracer" "/proc/$pid/status"; do sleep 0.1; done
  sleep 1
  "$program" store --times $times --first 1000 "$folder/calls/mount"
  sleep 1 # what follows a commit
  kill -INT $tracer
  wait $tracer || true
  heading "the daemon, per publish"
  per_publish "$folder/calls/daemon" $times
  "$commitfs" umount "$folder/calls/mount"
  rm -rf "$folder/calls"
}

# per_publish FILE TIMES: strace's summary, divided.
per_publish() {
  awk -v times="$2" '$4 ~ /^[0-9]+$/ && $NF != "total" { printf "%8.2f  %s\n", $4 / times, $NF }' "$1" | sort -rn | awk '$1 >= 0.02'
}

# count_rpcs: in the NFS laboratory.
count_rpcs() {
  "$top/scripts/nfs-lab" -t 300 shell "$top/scripts/lib/bench-rpcs" "$program" "$commitfs"
}
