//! Users and groups by name, through the C library, so that whatever the site configured in
//! nsswitch.conf (LDAP, systemd-userdb) is asked, not only /etc/passwd.

use std::ffi::CString;
use std::io;

/// The number of the user `name`; `None` if there is no such user.
///
/// # Errors
/// The look-up itself failed: a directory service does not answer, out of memory.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else {
        return Ok(None);
    };
    with_growing_buffer(|buffer| {
        let mut found = std::ptr::null_mut();
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        // SAFETY: every pointer is to a live local, the buffer's length is its own, and the name ends
        // in NUL; getpwnam_r writes nothing else.
        let errno = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut found,
            )
        };
        // SAFETY: not null means that the entry was filled in, getpwnam(3).
        let id = (!found.is_null()).then(|| unsafe { (*found).pw_uid });
        (errno, id)
    })
}

/// The number of the group `name`; `None` if there is no such group.
///
/// # Errors
/// The look-up itself failed: a directory service does not answer, out of memory.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else {
        return Ok(None);
    };
    with_growing_buffer(|buffer| {
        let mut found = std::ptr::null_mut();
        let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
        // SAFETY: every pointer is to a live local, the buffer's length is its own, and the name ends
        // in NUL; getgrnam_r writes nothing else.
        let errno = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut found,
            )
        };
        // SAFETY: not null means that the entry was filled in, getgrnam(3).
        let id = (!found.is_null()).then(|| unsafe { (*found).gr_gid });
        (errno, id)
    })
}

/// Asks until the entry fits: a group's members may fill any buffer (ERANGE).
fn with_growing_buffer(mut ask: impl FnMut(&mut [u8]) -> (i32, Option<u32>)) -> io::Result<Option<u32>> {
    let mut buffer = vec![0; BUFFER_BYTES_FIRST];
    loop {
        match ask(&mut buffer) {
            (0, id) => return Ok(id),
            (libc::EINTR, _) => {}
            (libc::ERANGE, _) if buffer.len() < BUFFER_BYTES_MAX => {
                buffer.resize(buffer.len() * 4, 0);
            }
            // What different libraries say for "no such name", getpwnam(3), ERRORS.
            (libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, _) => return Ok(None),
            (errno, _) => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

const BUFFER_BYTES_FIRST: usize = 4 << 10;
const BUFFER_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_user_and_group_zero() {
        assert_eq!(user_id("root").unwrap(), Some(0));
        assert_eq!(group_id("root").unwrap(), Some(0));
    }

    #[test]
    fn an_unknown_name_is_no_error() {
        for name in ["", "no such name", "nul\0byte"] {
            assert_eq!(user_id(name).unwrap(), None, "{name:?}");
            assert_eq!(group_id(name).unwrap(), None, "{name:?}");
        }
    }

    #[test]
    fn a_buffer_that_is_too_small_grows() {
        let mut sizes = Vec::new();
        let found = with_growing_buffer(|buffer| {
            sizes.push(buffer.len());
            if sizes.len() < 3 { (libc::ERANGE, None) } else { (0, Some(7)) }
        });
        assert_eq!(found.unwrap(), Some(7));
        assert_eq!(sizes, [4 << 10, 16 << 10, 64 << 10]);
    }
}
