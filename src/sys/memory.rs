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

/// Has all threads share a few arenas. By default there may be eight per processor, and each keeps what it ever needed at
/// once: with dozens of threads that take turns the process goes on growing for minutes under a load that does not. Large
/// buffers stay out of them: in an arena every page of a zeroed one is written to. To be called before there are threads.
pub fn share_arenas() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, 1 << 20)] {
        // SAFETY: the call takes two integers; no other thread allocates yet.
        if unsafe { libc::mallopt(option, value) } != 1 {
            tracing::debug!(option, value, "the C library has its own idea of memory");
        }
    }
}
