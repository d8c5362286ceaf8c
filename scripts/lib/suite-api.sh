# The HTTP API against its own description: sourced by scripts/suite, whose folders and numbers it uses.
# shellcheck shell=bash disable=SC2154

suite_api() {
  local tools=$target/api address token=a-token-of-the-tests
  need python3=python3 curl=curl
  if [ ! -x "$tools/bin/schemathesis" ]; then
    python3 -m venv "$tools" || die "please install: python3-venv"
    "$tools/bin/pip" install -q openapi-spec-validator==0.9.0 schemathesis==4.32.5
  fi
  cargo build -q --release --bins
  (umask 077 && echo "$token" >"$work/token")
  # Without a token the address only looks.
  "$target/release/commitfs" mount --state-dir "$state" --admin 127.0.0.1:0 --admin-token-file "$work/token" -o retain=1h "$export" "$mnt"
  # Said a moment after the mount serves.
  until address=$("$target/release/commitfs" status --state-dir "$state" --json | sed -n 's/.*"admin":"\([^"]*\)".*/\1/p') \
    && [ -n "$address" ]; do
    mountpoint -q "$mnt" || die 'the mount has ended'
  done
  # Something of everything: pages of commits, folders, trash, a draft in quarantine, one that is pending.
  mkdir -p "$mnt/d/e" "$mnt"/many/{1..9}
  for n in $(seq 30); do echo "$n" >"$mnt/d/f$n"; done
  rm "$mnt"/d/f1*
  bash -c 'exec 3>"$1"; echo half >&3; kill -9 $$' bash "$mnt/killed" || true
  exec {open}>"$mnt/d/pending"
  echo half >&"$open"
  curl -sf -H "Authorization: Bearer $token" "http://$address/v1/openapi.json" >"$work/openapi.json"
  check 'the document is valid OpenAPI' "$tools/bin/openapi-spec-validator" "$work/openapi.json"
  # Streams do not end. Globs that are none, and cursors of another order, cannot be told by a schema.
  heading "requests made up from the document, ${COMMITFS_TEST_CASES:-100} of each kind"
  check 'what is asked at random is answered as the document says' \
    env -C "$work" "$tools/bin/schemathesis" run openapi.json --url "http://$address" --exclude-path /v1/events \
    --max-examples "${COMMITFS_TEST_CASES:-100}" --exclude-checks positive_data_acceptance --suppress-health-check all \
    --request-timeout 30 --no-color --header "Authorization: Bearer $token"
  check 'the daemon goes on answering' curl -sf -o /dev/null -H "Authorization: Bearer $token" "http://$address/v1/status"
  exec {open}>&-
  umount_it
  check 'nothing in it has panicked' bash -c '! grep -n "panicked at" "$1"' bash "$state/daemon.log"
}
