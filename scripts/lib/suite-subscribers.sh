# What subscribers of events cost: sourced by scripts/suite, whose folders and numbers it uses.
# shellcheck shell=bash disable=SC2154

suite_subscribers() {
  need python3=python3
  heading 'subscribers: time of a commit without any, and with 1,000'
  mount_it
  check 'less than 50 MiB for 1,000 subscribers' python3 tests/load/subscribers.py "$mnt" "$state" 1000
  umount_it
}
