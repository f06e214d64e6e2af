//! Which CPUs this process may use, staying on one of them, what it will read next, and instructions that not every
//! CPU has.

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

/// Does `work` by code that may use the widest vectors of this CPU, wherever the compiler makes vector code of it and calls
/// in it are inlined. The answer is the same.
pub fn with_wide_vectors<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has the instructions that the function is compiled for, as was asked just now. There is no
        // safe way to call it from code that is compiled for all CPUs.
        return unsafe { with_avx2(work) };
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// CRC-32C of a text. Faster than the crate's for some tens of octets, which it takes one by one up to an aligned word
/// and again at the end; what is long is left to it.
#[must_use]
pub fn checksum(octets: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if octets.len() <= SHORT_BYTES_MAX && std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the CPU has the instructions that the function is compiled for, as was asked just now. There is no
        // safe way to call it from code that is compiled for all CPUs.
        return unsafe { checksum_of_short(octets) };
    }
    crc32c::crc32c(octets)
}

/// From some hundreds of octets on, the crate is faster: it sums three pieces at a time.
#[cfg(target_arch = "x86_64")]
const SHORT_BYTES_MAX: usize = 256;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn checksum_of_short(octets: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u16, _mm_crc32_u32, _mm_crc32_u64};
    let (words, rest) = octets.as_chunks();
    let sum =
        words.iter().fold(u64::from(u32::MAX), |sum, word| _mm_crc32_u64(sum, u64::from_le_bytes(*word)));
    // The instruction leaves the upper half zero.
    let mut sum = (sum & 0xffff_ffff) as u32;
    let (fours, rest) = rest.as_chunks();
    if let [four] = fours {
        sum = _mm_crc32_u32(sum, u32::from_le_bytes(*four));
    }
    let (twos, rest) = rest.as_chunks();
    if let [two] = twos {
        sum = _mm_crc32_u16(sum, u16::from_le_bytes(*two));
    }
    if let [one] = rest {
        sum = _mm_crc32_u8(sum, *one);
    }
    !sum
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

    #[test]
    fn a_checksum_is_the_crates_whatever_the_length_and_the_place() {
        let octets: Vec<u8> = (0..600_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        for begin in 0..9 {
            for end in begin..octets.len() {
                let octets = &octets[begin..end];
                assert_eq!(checksum(octets), crc32c::crc32c(octets), "{begin}..{end}");
            }
        }
        // RFC 3720, appendix B.4.
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aa);
    }
}
