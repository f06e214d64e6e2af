//! Messages of many shapes, all with CRLF line ends, as they go over the wire before dot stuffing.

use std::fmt::Write as _;

/// Shapes that any mail system hands on unchanged.
///
/// None starts with a Received header: the tests take those away to find what was sent.
pub(crate) fn shapes() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("plain text", with_body("plain", b"Hello,\r\n\r\nthis is a plain message.\r\n")),
        ("an empty body", with_body("empty", b"")),
        ("a body of empty lines", with_body("blank", b"\r\n\r\n\r\n")),
        (
            "8-bit text",
            with_body(
                "eight",
                "Gr\u{fc}\u{df}e aus K\u{f6}ln, \u{3053}\u{3093}\u{306b}\u{3061}\u{306f}\r\n".as_bytes(),
            ),
        ),
        ("8-bit bytes that are no UTF-8", with_body("latin", b"caf\xe9 \xff\xfe\x80\r\n")),
        ("a line of exactly 998", with_body("long", &[&b"x".repeat(998)[..], b"\r\nend\r\n"].concat())),
        ("dots at line starts", with_body("dots", b".\r\n..\r\n...\r\n.a\r\n..b\r\na.\r\n\r\n.\r\n.\r\n")),
        ("dots right after the header", with_body("first", b".\r\n")),
        (
            "text that looks like mbox and SMTP",
            with_body("mbox", b"From me\r\n>From you\r\nQUIT\r\nDATA\r\n"),
        ),
        ("many lines", with_body("many", &numbered_lines(20_000))),
        ("10 MiB", with_body("big", &numbered_lines(10 * 1024 * 1024 / NUMBERED_LINE_BYTES))),
    ]
}

/// What a server has to keep, but some client or mail system in between would change.
pub(crate) fn odd_shapes() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("bare LF inside", with_body("lf", b"one\ntwo\nthree\r\n\n\nfour\r\n")),
        ("bare CR inside", with_body("cr", b"one\rtwo\r\rthree\r\n")),
        ("no header but one", b"Subject: bare\r\n\r\nbody\r\n".to_vec()),
        ("no body and no empty line", b"Subject: headers only\r\n".to_vec()),
        ("nothing but an empty line", b"\r\n".to_vec()),
        (
            "exactly one receive buffer and its neighbours",
            with_body("edge", &numbered_lines(4096 / NUMBERED_LINE_BYTES * 16)),
        ),
    ]
}

/// A message with the headers that keep Postfix from adding any but Received.
pub(crate) fn with_body(id: &str, body: &[u8]) -> Vec<u8> {
    let header = format!(
        "From: Sender <sender@example.org>\r\nTo: somebody@example.test\r\nSubject: {id}\r\n\
         Date: Mon, 5 Jan 2026 10:00:00 +0000\r\nMessage-ID: <{id}@example.org>\r\n\r\n"
    );
    [header.as_bytes(), body].concat()
}

/// The content of DATA: stuffed, and ended (RFC 5321 section 4.5.2). The content must end with CRLF.
pub(crate) fn dot_stuffed(content: &[u8]) -> Vec<u8> {
    assert!(content.ends_with(b"\r\n"), "a message ends with CRLF");
    let mut result = Vec::with_capacity(content.len() + 16);
    let mut line_start = 0;
    for end in memchr::memmem::find_iter(content, b"\r\n") {
        if content[line_start] == b'.' {
            result.push(b'.');
        }
        result.extend_from_slice(&content[line_start..end + 2]);
        line_start = end + 2;
    }
    result.extend_from_slice(b".\r\n");
    result
}

/// `count` lines of 64 bytes, each with its number.
pub(crate) fn numbered_lines(count: usize) -> Vec<u8> {
    let mut text = String::with_capacity(count * NUMBERED_LINE_BYTES);
    for number in 0..count {
        write!(text, "{number:08} {:.>53}\r\n", "a line of mail").expect("a string takes everything");
    }
    text.into_bytes()
}

/// Length of a line of [`numbered_lines`], with its CRLF.
pub(crate) const NUMBERED_LINE_BYTES: usize = 64;
