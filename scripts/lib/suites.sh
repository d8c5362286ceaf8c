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

suite_fsx() {
  crate fsx 0.3.2
  local how seed=${COMMITFS_TEST_SEED:-1} cases=${COMMITFS_TEST_CASES:-200000} fsx=$target/suites/bin/fsx
  mount_it
  for how in mapped plain reopened; do
    heading "fsx, $how, $cases operations, seed $seed"
    # The backing must be able to do what is asked of the mount.
    "$fsx" -q -f "tests/fsx/$how.toml" -N 2000 -S "$seed" -P "$work" "$bare/$how" >"$work/log" 2>&1 \
      || { tail -20 "$work/log"; die "fsx fails on the bare folder"; }
    if timeout -k 10 3000 "$fsx" -q -f "tests/fsx/$how.toml" -N "$cases" -S "$seed" -P "$work" "$mnt/$how" >"$work/log" 2>&1; then
      passed=$((passed + 1))
    else
      failed=$((failed + 1))
      tail -40 "$work/log"
      say "again: COMMITFS_TEST_SEED=$seed scripts/suite fsx"
    fi
  done
  umount_it
}
