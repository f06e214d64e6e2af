"""One session of Python's smtplib.LMTP: `HOST PORT`, where a HOST that starts with / is a Unix socket.

Delivers three messages to alice and bob and one to carol, and exits with an error if any reply is not as it should be.
smtplib reads one reply after the data; LMTP sends one per accepted recipient (RFC 2033 section 4.2), so the others are
read here.
"""

import smtplib
import sys

BODY = "From: sender@example.org\r\nSubject: {}\r\n\r\nA line.\r\n.\r\n..two dots\r\n"


def transaction(client, subject, accepted, unknown=()):
    code, _ = client.mail("sender@example.org")
    assert code == 250, code
    for recipient in accepted:
        code, text = client.rcpt(recipient)
        assert code == 250, (recipient, code, text)
    for recipient in unknown:
        code, text = client.rcpt(recipient)
        assert code == 550, (recipient, code, text)
        assert text == b"5.1.1 <%b> User doesn't exist: %b" % (recipient.encode(), recipient.encode()), text
    code, text = client.data(BODY.format(subject))
    assert code == 250, (code, text)
    for _ in accepted[1:]:
        code, text = client.getreply()
        assert code == 250, (code, text)


host, port = sys.argv[1], int(sys.argv[2])
with smtplib.LMTP(host, port) as client:
    client.lhlo("client.example.org") if hasattr(client, "lhlo") else client.ehlo("client.example.org")
    both = ["alice@example.test", "bob@example.test"]
    transaction(client, "two recipients", both)
    transaction(client, "an unknown one among them", both, ["mallory@example.test"])
    transaction(client, "three recipients", both + ["carol@example.test"])

    # Nobody accepted: DATA is refused, and the session goes on.
    client.mail("sender@example.org")
    assert client.rcpt("mallory@example.test")[0] == 550
    assert client.docmd("DATA")[0] == 503
    assert client.rset()[0] == 250

    # Taken back before its content: nothing may arrive.
    client.mail("sender@example.org")
    assert client.rcpt("carol@example.test")[0] == 250
    assert client.rset()[0] == 250
