//! What keeps the agent running when the host is in trouble. Each measure needs a privilege; without it the agent runs
//! all the same, a little less well protected, and says so once.

/// The agent is what ends a server that must not write: the kernel should take anything else first, and never page it
/// out.
pub fn protect_process() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::info!(%error, "not protected from the out-of-memory killer: run the agent as root, or by its unit");
    }
    // Only what is really used: the threads' stacks are large, and most of each is never touched.
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    let flags = nix::sys::mman::MlockAllFlags::from_bits_retain(flags);
    if let Err(error) = nix::sys::mman::mlockall(flags) {
        tracing::info!(%error, "the agent's memory may be paged out: raise the limit on locked memory");
    }
}

/// Large blocks are asked of the system and given back as they are freed. By default the allocator of glibc keeps them, in
/// a heap for each thread, and the archive's WAL segments pass through many threads.
#[allow(unsafe_code)]
pub fn keep_no_large_blocks() {
    /// A WAL segment has sixteen times as much; what is smaller is not worth the calls.
    #[cfg(target_env = "gnu")]
    const LARGE: libc::c_int = 1 << 20;
    // SAFETY: the call sets a number of the allocator, whatever other threads do.
    #[cfg(target_env = "gnu")]
    if unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) } == 0 {
        tracing::info!("the allocator keeps large blocks: the agent takes more memory than it needs");
    }
}

/// Lets this thread run before any ordinary one as soon as it has something to do. For threads that do little, and must
/// do it in time.
#[allow(unsafe_code)]
pub fn run_this_thread_first() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the call reads one plain struct that lives on this stack; 0 names the calling thread.
    let outcome = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const priority,
        )
    };
    if outcome != 0 {
        let error = std::io::Error::last_os_error();
        tracing::info!(%error, "a thread of the lease runs without real-time priority");
    }
}
