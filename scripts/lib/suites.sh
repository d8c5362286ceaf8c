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
  # The build that all tests have, which scripts/test has made by then.
  commitfs=$target/debug/commitfs
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

# --- bounds

# check WHAT COMMAND...: counts one check.
check() {
  local what=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
    say "ok: $what"
  else
    failed=$((failed + 1))
    say "FAILED: $what"
  fi
}

suite_bounds() {
  need python3=python3
  local files=${COMMITFS_TEST_CASES:-1000000} pid visited peak
  heading "bounds: $files files in folders of 100,000"
  python3 - "$export" "$files" <<'EOF'
import os, sys
for i in range(int(sys.argv[2])):
    if i % 100000 == 0:
        folder = f"{sys.argv[1]}/d{i // 100000}"
        os.mkdir(folder)
        at = os.open(folder, os.O_RDONLY)
    os.mknod(f"file-{i}", dir_fd=at)
EOF
  mount_it
  pid=$("$commitfs" status --json --state-dir "$state" | sed -n 's/.*"pid":\([0-9]*\).*/\1/p')
  visited=$(find "$mnt" -type f -size -10 | wc -l)
  check "find visits $visited" [ "$visited" -eq "$files" ]
  peak=$(awk '/^VmHWM/ { print $2 }' "/proc/$pid/status")
  check "the daemon needed $peak kB at most" [ "$peak" -lt $((400 * 1024)) ]
  check 'few descriptors' [ "$(find "/proc/$pid/fd" -mindepth 1 | wc -l)" -lt 1000 ]
  echo 2 >/proc/sys/vm/drop_caches
  returned() { [ "$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status")" -lt $((peak / 2 + 20000)) ]; }
  for _ in $(seq 60); do
    if returned; then break; fi
    sleep 1
  done
  check 'memory returns when the kernel forgets' returned
  heading 'bounds: a listing of 100,000 names while they come and go'
  check 'each name that stayed is listed once' python3 - "$mnt/d0" <<'EOF'
import os, sys
os.chdir(sys.argv[1])
before, seen = set(os.listdir(".")), []
with os.scandir(".") as listing:
    for n, entry in enumerate(listing):
        seen.append(entry.name)
        if n % 100 == 0:
            os.unlink(entry.name)
            os.mknod(f"new-{n}")
assert len(seen) == len(set(seen)), "a name came twice"
assert not (before & set(os.listdir("."))) - set(seen), "a name was missed"
EOF
  heading 'bounds: 10,000 drafts at once'
  check 'each has its own content afterwards' python3 - "$mnt" <<'EOF'
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
os.mkdir(sys.argv[1] + "/drafts")
os.chdir(sys.argv[1] + "/drafts")
many = min(10000, hard - 100)
drafts = [os.open(f"f{i}", os.O_RDWR | os.O_CREAT) for i in range(many)]
for i, draft in enumerate(drafts):
    os.write(draft, b"%d" % i)
for draft in drafts:
    os.close(draft)
for i in range(many):
    with open(f"f{i}", "rb") as f:
        assert f.read() == b"%d" % i, i
EOF
  umount_it
}

# --- retention, faults, model

# at_full_size TEST...: the same tests as every day, at full size.
at_full_size() {
  local log=$work/log ok bad status=0 only=() test
  for test in "$@"; do only+=(--test "$test"); done
  cargo build -q --features failpoints --bins --examples
  COMMITFS_TEST_FULL=1 cargo test --no-fail-fast --features failpoints "${only[@]}" 2>&1 | tee "$log" ||
    status=${PIPESTATUS[0]}
  read -r ok bad < <(awk '/^test result: / { ok += $4; bad += $6 } END { print ok + 0, bad + 0 }' "$log")
  if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
  passed=$((passed + ok)) failed=$((failed + bad))
}

suite_retention() { at_full_size retention folders; }

suite_faults() { at_full_size faults; }

suite_shutdown() {
  need mkfs.xfs=xfsprogs mkfs.ext4=e2fsprogs
  at_full_size shutdown
}

suite_model() {
  export COMMITFS_TEST_SEED=${COMMITFS_TEST_SEED:-$RANDOM$RANDOM} COMMITFS_TEST_CASES=${COMMITFS_TEST_CASES:-1000}
  at_full_size model
}
