# The web page in a real Chromium: sourced by scripts/suite, whose folders and numbers it uses.
# shellcheck shell=bash disable=SC2154,SC2034

suite_web() {
  local log=$state/web.log
  need node=nodejs npm=npm chromium=chromium python3=python3
  [ -d "$target/web/node_modules/playwright-core" ] \
    || PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm install --silent --no-audit --no-fund --prefix "$target/web" playwright-core@1.55
  cargo build -q --release --bins
  COMMITFS=$target/release/commitfs MODULES=$target/web/node_modules \
    TEST_EXPORT=$export TEST_MNT=$mnt TEST_STATE=$state/web \
    timeout -k 10 600 node --test-reporter=spec --test tests/web/page.mjs 2>&1 | tee "$log" || true
  passed=$(awk '/^[^ ]+ pass [0-9]/ { n = $3 } END { print n + 0 }' "$log")
  failed=$(awk '/^[^ ]+ fail [0-9]/ { n = $3 } END { print n + 0 }' "$log")
  [ $((passed + failed)) -gt 0 ] || failed=1
}
