//! Which CPUs this process may use, staying on one of them, and what it will read next.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs that the calling thread may run on, as taskset, cpusets and systemd's `CPUAffinity=` left
/// them, in rising order. Never empty: if the kernel does not tell, CPU 0.
#[must_use]
pub fn allowed() -> Vec<usize> {
    // A mask wider than CPU_SETSIZE (1024 CPUs) is refused with EINVAL; one worker is then still right.
    let Ok(set) = sched_getaffinity(None) else {
        return vec![0];
    };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Keeps the calling thread, and threads it starts from now on, on `cpu`.
///
/// # Errors
/// EINVAL when this process may not use `cpu`.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets the calling thread run on any of `cpus` again: threads inherit the one their parent is bound to.
///
/// # Errors
/// None of them may be used.
pub fn spread(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}

/// The set that holds `cpu` alone, as the C library has it. Empty for a CPU beyond its 1024.
#[must_use]
pub fn set_of(cpu: usize) -> libc::cpu_set_t {
    // SAFETY: a plain array of bits, for which all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu < CpuSet::MAX_CPU {
        // SAFETY: the set is initialised and the bit lies within it.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    set
}

/// Asks the CPU for the cache lines of `octets`, without waiting for them. Nothing but time depends on it.
pub fn prefetch(octets: &[u8]) {
    for line in octets.chunks(64) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction reads nothing that the program sees, and faults on no address; this one is of a
        // slice at that. There is no safe way to say it.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        std::hint::black_box(line.first());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_use_one_cpu() {
        let last = *allowed().last().unwrap();
        let seen = std::thread::spawn(move || pin(last).map(|()| allowed())).join().unwrap();
        assert_eq!(seen.unwrap(), [last]);
    }

    #[test]
    fn a_cpu_that_cannot_exist_is_refused() {
        assert!(pin(usize::MAX).is_err());
    }
}
