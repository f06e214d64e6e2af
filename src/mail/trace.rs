//! The trace headers that final delivery puts in front of a message (RFC 5321 section 4.4), in Dovecot's
//! order: Return-Path, Delivered-To, Received.
#![forbid(unsafe_code)]

use std::net::IpAddr;

/// What the headers of one file say.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// Envelope sender without brackets; empty for the null path.
    pub sender: &'a str,
    /// The recipient as the client gave it; `None` where several share the file.
    pub recipient: Option<&'a str>,
    /// What the client called itself in LHLO; `None` when it did not say, or not in a usable form.
    pub client: Option<&'a str>,
    /// Address of a TCP client.
    pub address: Option<IpAddr>,
    /// Our own name.
    pub host: &'a str,
    /// `LMTP`, or `UTF8LMTP` (RFC 6531 section 4.3).
    pub protocol: &'a str,
    /// The id that the reply and the log carry too.
    pub id: &'a str,
    /// Date and time, as RFC 5322 section 3.3 wants them.
    pub date: &'a str,
    /// `"\r\n"`, or `"\n"` where lines are stored that way.
    pub line_end: &'a str,
}

impl Trace<'_> {
    /// The headers, each line ended.
    #[must_use]
    pub fn headers(&self) -> Vec<u8> {
        let Self { sender, host, protocol, id, date, line_end: end, .. } = *self;
        let client = self.client.unwrap_or("unknown");
        let mut text = String::with_capacity(HEADERS_BYTES);
        push_all(&mut text, &["Return-Path: <", sender, ">", end]);
        if let Some(recipient) = self.recipient {
            push_all(&mut text, &["Delivered-To: ", recipient, end]);
        }
        push_all(&mut text, &["Received: from ", client]);
        match self.address {
            Some(IpAddr::V4(address)) => push_all(&mut text, &[" ([", &address.to_string(), "])"]),
            Some(IpAddr::V6(address)) => push_all(&mut text, &[" ([IPv6:", &address.to_string(), "])"]),
            None => {}
        }
        push_all(&mut text, &[end, "\tby ", host, " with ", protocol, end, "\tid ", id]);
        push_all(&mut text, &[end, "\t(envelope-from <", sender, ">)"]);
        if let Some(recipient) = self.recipient {
            push_all(&mut text, &[end, "\tfor <", recipient, ">"]);
        }
        push_all(&mut text, &["; ", date, end]);
        text.into_bytes()
    }
}

/// Appends the parts. `write!` would do the same in four times the instructions, once for each file.
fn push_all(text: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| text.push_str(part));
}

/// Enough for the headers of most messages.
const HEADERS_BYTES: usize = 384;

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: Trace<'_> = Trace {
        sender: "bob@example.org",
        recipient: Some("alice+list@example.net"),
        client: Some("mx.example.net"),
        address: None,
        host: "store.example.net",
        protocol: "LMTP",
        id: "0123abcd:T2",
        date: "Mon, 23 Nov 2026 12:00:00 +0100",
        line_end: "\r\n",
    };

    #[test]
    fn headers_come_in_the_order_return_path_delivered_to_received() {
        let text = String::from_utf8(TRACE.headers()).expect("made of text");
        assert_eq!(
            text,
            "Return-Path: <bob@example.org>\r\n\
             Delivered-To: alice+list@example.net\r\n\
             Received: from mx.example.net\r\n\
             \tby store.example.net with LMTP\r\n\
             \tid 0123abcd:T2\r\n\
             \t(envelope-from <bob@example.org>)\r\n\
             \tfor <alice+list@example.net>; Mon, 23 Nov 2026 12:00:00 +0100\r\n"
        );
    }

    #[test]
    fn a_shared_file_names_no_recipient() {
        let trace = Trace { recipient: None, sender: "", line_end: "\n", ..TRACE };
        let text = String::from_utf8(trace.headers()).expect("made of text");
        assert!(text.starts_with("Return-Path: <>\nReceived: from mx.example.net\n"), "{text}");
        assert!(!text.contains("alice") && !text.contains('\r'), "{text}");
        assert!(text.ends_with("\t(envelope-from <>); Mon, 23 Nov 2026 12:00:00 +0100\n"), "{text}");
    }

    #[test]
    fn an_ipv6_client_is_written_as_an_address_literal() {
        let trace = Trace { address: Some("2001:db8::1".parse().expect("valid")), ..TRACE };
        let text = String::from_utf8(trace.headers()).expect("made of text");
        assert!(text.contains("from mx.example.net ([IPv6:2001:db8::1])\r\n"), "{text}");
    }
}
