//! Waiting for a point in time, exactly, within the ring.
//!
//! Owns a timer of the kernel (timerfd_create(2)). Never knows what is waited for.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio_uring::fs::File;

/// A timer that is exact to microseconds; tokio's own counts in milliseconds, which would be lateness of ours.
pub(crate) struct Timer {
    setting: OwnedFd,
    /// The same timer, for the ring to wait on.
    reading: File,
}

impl Timer {
    /// One that waits for nothing yet.
    pub(crate) fn new() -> std::io::Result<Self> {
        let setting = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let reading = File::from_std(setting.try_clone()?.into());
        Ok(Self { setting, reading })
    }

    /// Waits until then; not at all if that was before now.
    pub(crate) async fn wait_until(&self, at: Instant) {
        let mut expirations = vec![0; 8];
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let value = Itimerspec {
                it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                it_value: Timespec::try_from(left).expect("some seconds"),
            };
            timerfd_settime(&self.setting, TimerfdTimerFlags::empty(), &value).expect("a time to come");
            // It says how often it expired; what counts is the clock.
            let (result, buffer) = self.reading.read_at(expirations, 0).await;
            result.expect("a timer that was set");
            expirations = buffer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_never_wakes_too_early_and_does_not_wait_for_the_past() {
        tokio_uring::start(async {
            let timer = Timer::new().unwrap();
            let start = Instant::now();
            for microseconds in [100, 250, 1500, 1400, 0] {
                let at = start + Duration::from_micros(microseconds);
                timer.wait_until(at).await;
                assert!(Instant::now() >= at);
            }
        });
    }
}
