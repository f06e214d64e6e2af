//! Which run of the kernel this is.
#![forbid(unsafe_code)]

/// The random id of this boot (RFC 9562, from /proc/sys/kernel/random/boot_id); `None` where /proc does not show
/// it.
#[must_use]
pub fn id() -> Option<[u8; 16]> {
    parse(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?)
}

fn parse(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.trim_end().bytes().filter(|byte| *byte != b'-').collect();
    let text = std::str::from_utf8(&digits).ok()?;
    let number = u128::from_str_radix(text, 16).ok().filter(|_| digits.len() == 32)?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_linux_writes_it_and_no_other_way() {
        let id = parse("00112233-4455-6677-8899-aabbccddeeff\n").unwrap();
        assert_eq!(id[..4], [0x00, 0x11, 0x22, 0x33]);
        assert_eq!((parse(""), parse("00112233\n"), parse(&"g".repeat(32))), (None, None, None));
    }

    #[test]
    fn the_same_boot_has_the_same_id() {
        assert_eq!(id(), id());
    }
}
