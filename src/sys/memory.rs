//! Memory of the process.
#![allow(unsafe_code)]

/// Returns what was freed to the system. Other C libraries than glibc do so by themselves, or cannot.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes an integer and may be made at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
