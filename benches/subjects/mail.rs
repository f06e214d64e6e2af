//! Mail as it comes over the wire, made by a fixed generator.

/// Lines of 40 to 78 characters of text, one in `dot_every` with a dot at its start (doubled, as on the wire), and the
/// final dot.
pub(crate) fn mail(bytes: usize, dot_every: u64) -> Vec<u8> {
    const TEXT: &[u8] = b"etaoin shrdlu, cmfwyp vbgkqj xz. ETAOIN 0123456789 <a href=\"3D\">";
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut wire = Vec::with_capacity(bytes + 128);
    while wire.len() < bytes {
        let start = wire.len();
        if random(dot_every) == 0 {
            wire.push(b'.');
        }
        for _ in 0..40 + random(39) {
            let place = usize::try_from(random(TEXT.len() as u64)).expect("small");
            wire.push(TEXT[place]);
        }
        if wire[start] == b'.' {
            wire.insert(start, b'.');
        }
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}
