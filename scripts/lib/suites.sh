# The suites of scripts/suite: source it. Each one adds to $passed, $failed and $ignored.
# shellcheck shell=bash disable=SC2154

# --- pjdfstest

# run_pjdfstest FOLDER LOG: one line `CASE ok|FAILED|skipped` per case.
run_pjdfstest() {
  timeout -k 10 900 "$target/suites/bin/pjdfstest" -c "$work/pjdfstest.toml" -s "$second" -p "$1" >"$2.log" 2>&1 || true
  grep -q '^Summary:' "$2.log" || { tail -20 "$2.log"; die "pjdfstest did not come to its end"; }
  awk '$1 ~ /::/ && $NF ~ /^(ok|FAILED|skipped)$/ { print $1, $NF }' "$2.log" | sort -u >"$2"
}

suite_pjdfstest() {
  need which=debianutils setfacl=acl
  crate pjdfstest 0.2.2
  local second
  second=$(mktemp -d -p /dev/shm)
  cat >"$work/pjdfstest.toml" <<EOF
[features]
posix_fallocate = {}
utime_now = {}
utimensat = {}
rename_ctime = {}
[settings]
naptime = 0.02
[dummy_auth]
entries = [["nobody", "$(id -gn nobody)"], ["daemon", "$(id -gn daemon)"]]
EOF
  heading 'pjdfstest, bare folder'
  run_pjdfstest "$bare" "$work/on-bare"
  say "$(grep -c ' ok$' "$work/on-bare") of $(grep -c '' "$work/on-bare") cases pass"
  heading 'pjdfstest, mount'
  mount_it
  run_pjdfstest "$mnt" "$work/on-mount"
  umount_it
  rm -rf "$second"
  say "$(grep -c ' ok$' "$work/on-mount") of $(grep -c '' "$work/on-mount") cases pass"
  # What counts is each case that passes on the bare folder.
  awk '
    FILENAME == ARGV[1] { if ($1 !~ /^#/ && NF) listed[$1] = 1; next }
    FILENAME == ARGV[2] { mount[$1] = $2; next }
    $2 != "ok" { next }
    mount[$1] == "ok" && listed[$1] { print "failed", $1, "is listed and passes"; next }
    mount[$1] == "ok" { print "passed"; next }
    listed[$1] { print "ignored", $1; next }
    { print "failed", $1, (mount[$1] == "" ? "missing" : mount[$1]) }
  ' tests/known/pjdfstest "$work/on-mount" "$work/on-bare" >"$work/verdicts"
  passed=$((passed + $(grep -c '^passed' "$work/verdicts" || true)))
  failed=$((failed + $(grep -c '^failed' "$work/verdicts" || true)))
  ignored=$((ignored + $(grep -c '^ignored' "$work/verdicts" || true)))
  local case_name why
  while read -r _ case_name why; do
    say "$case_name: $why"
    grep -A 12 "^$case_name .*FAILED" "$work/on-mount.log" || true
  done < <(grep '^failed' "$work/verdicts" || true)
}

# --- fsx

# fsx forgets to unmap parts of what it maps and becomes slow for it: many short runs instead of a long one.
fsx_round=20000

suite_fsx() {
  crate fsx 0.3.2
  local how seed first=${COMMITFS_TEST_SEED:-1} cases=${COMMITFS_TEST_CASES:-200000} round bad
  mount_it
  for how in mapped plain reopened; do
    heading "fsx, $how, $cases operations, seeds from $first"
    round=$((cases < fsx_round ? cases : fsx_round)) bad=0
    # The backing must be able to do what is asked of the mount.
    run_fsx "$bare" "$how" 2000 "$first" || { tail -20 "$work/log"; die "fsx fails on the bare folder"; }
    for ((seed = first; seed < first + cases / round; seed++)); do
      run_fsx "$mnt" "$how" "$round" "$seed" && continue
      bad=1
      tail -40 "$work/log"
      say "again: COMMITFS_TEST_SEED=$seed COMMITFS_TEST_CASES=$round scripts/suite fsx"
    done
    passed=$((passed + 1 - bad)) failed=$((failed + bad))
  done
  umount_it
}

# run_fsx FOLDER CONFIGURATION OPERATIONS SEED
run_fsx() {
  timeout -k 10 1200 "$target/suites/bin/fsx" -q -f "tests/fsx/$2.toml" -N "$3" -S "$4" -P "$work" "$1/$2" >"$work/log" 2>&1
}

# --- stress-ng

# Stressors of the file system class that a FUSE mount can run at all, and which end by themselves in bounded time.
stressors=(access chdir chmod chown copy-file dentry dir dirdeep dirmany dup fallocate fcntl filename flock fpunch fsize
  fstat getdent handle hdd io iomix link locka lockf lockofd mknod open rename symlink sync-file touch utime xattr)

suite_stress() {
  need stress-ng=stress-ng
  mount_it
  local stressor status
  for stressor in "${stressors[@]}"; do
    heading "stress-ng, $stressor"
    status=0
    timeout -k 10 120 stress-ng --"$stressor" 2 --timeout "${COMMITFS_TEST_SECONDS:-5}" --temp-path "$mnt" --verify \
      --oomable >"$work/log" 2>&1 || status=$?
    # 3: not to be had here; 4: the machine is too small.
    case $status in
      0) passed=$((passed + 1)) ;;
      3 | 4)
        ignored=$((ignored + 1))
        grep -i skip "$work/log" || true
        ;;
      *)
        failed=$((failed + 1))
        say "status $status"
        cat "$work/log"
        ;;
    esac
  done
  umount_it
}
