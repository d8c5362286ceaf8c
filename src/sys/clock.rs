//! What time it is, as people have it: it may jump, so nothing is ordered by it.

use std::time::SystemTime;

/// Now. With the feature `failpoints`, `COMMITFS_CLOCK` sets it wrong by so many seconds.
pub fn now() -> SystemTime {
    #[cfg(feature = "failpoints")]
    if let Some(wrong) = std::env::var("COMMITFS_CLOCK").ok().and_then(|seconds| seconds.parse::<i64>().ok()) {
        let by = std::time::Duration::from_secs(wrong.unsigned_abs());
        return if wrong < 0 { SystemTime::now() - by } else { SystemTime::now() + by };
    }
    SystemTime::now()
}
