//! Every bound and default that is not a configuration key, and how they relate.
//!
//! Sizes are in bytes unless the name says otherwise.
#![forbid(unsafe_code)]

/// Entries of a submission queue. A full queue costs one more call, nothing else.
pub const RING_SUBMISSIONS: u32 = 1024;

/// Entries of a completion queue. More completions than that wait inside the kernel
/// (`IORING_FEAT_NODROP`) and cost another call.
pub const RING_COMPLETIONS: u32 = 16 * RING_SUBMISSIONS;

/// One receive buffer. Holds a 4 KiB message with its commands, and four of the kernel's pages.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// Fewest receive buffers of a worker: below that a few slow clients could hold them all.
pub const BUFFERS_MIN: u16 = 64;

/// Most receive buffers of a worker: what a buffer ring can hold.
pub const BUFFERS_MAX: u16 = 32768;

/// Kernel threads that work on files for one ring. Measured: more of them slow each other down.
pub const FILE_WORKERS: u32 = 4;

/// Vectors of one write (IOV_MAX).
pub const WRITE_VECTORS_MAX: usize = 1024;

/// Owners whose credentials one ring keeps registered; ids are 16 bit numbers.
pub const IDENTITIES_MAX: usize = 16 * 1024;

/// Timers of ended tasks that are not worth a sweep.
pub const DEAD_TIMERS_MIN: usize = 1024;

const _: () = {
    // The length of a buffer travels in a u32, the pool's accounts in a u16.
    assert!(BUFFER_BYTES.is_multiple_of(4096));
    assert!(BUFFERS_MIN <= BUFFERS_MAX);
    // A personality id is never 0, and never runs out before the cache does.
    assert!(IDENTITIES_MAX < 65535);
    assert!(RING_COMPLETIONS >= 2 * RING_SUBMISSIONS);
};

/// A piece of a message below this is copied behind the piece before it, so that a client that sends
/// little at a time does not hold a buffer for each packet.
pub const SMALL_PIECE_BYTES: usize = BUFFER_BYTES / 4;

/// Ranges of one buffer that are kept as they are; a buffer of more (all dots) is gathered.
pub const RANGES_MAX: usize = 32;

/// The part of the free buffers that one message may hold before it is written to its file early. A
/// share of what is *left* never reaches zero, so however many clients stall in the middle of
/// a message, somebody can always receive.
pub const FREE_SHARE: usize = 8;

/// How long a round of syncs waits for those who are about to ask for one, at most: so many steps of such
/// length. Less than the sync itself takes on anything but a RAM disk.
pub const GATHER_STEPS: u32 = 6;

/// One of these steps.
pub const GATHER_STEP: std::time::Duration = std::time::Duration::from_micros(50);

/// The part of the buffers that is kept for those who read their replies: with fewer than one in so many
/// free, a client that sends commands but takes no replies, and so holds a buffer, is sent away.
pub const PRESSURE_SHARE: u16 = 4;

/// How long such a client may have before somebody looks.
pub const PRESSURE_LOOK: std::time::Duration = std::time::Duration::from_secs(1);

/// How long replies and the wait for what the client says to them are one operation. After that it is seen
/// which of the two takes so long: each has its own timeout.
pub const CONVERSE_LOOK: std::time::Duration = std::time::Duration::from_secs(1);

/// Deliveries of one message that run side by side: each has a few descriptors open.
pub const DELIVERIES_AT_ONCE: usize = 64;

/// Files of one message that may be opened while it arrives.
pub const EARLY_FILES: usize = 4;

/// Mailboxes that a replay of the journal works on side by side.
pub const RECOVERIES_AT_ONCE: usize = 64;

/// Segments that a worker's journal has: one to fill while the other is made free.
pub const JOURNAL_SEGMENTS: usize = 2;

/// Who began a transaction no longer ago than this, or up to twice as long, is waited for by a batch; so is who was
/// just answered, if it took no longer than this to begin the last one.
pub const APPROACH_SPAN: std::time::Duration = std::time::Duration::from_millis(2);

/// How long a batch waits for them, at most: about as long as a durable write takes.
pub const BATCH_PATIENCE: std::time::Duration = std::time::Duration::from_millis(1);

/// Most bytes of one write to the journal, in whole blocks: a larger one makes those wait who come next.
pub const BATCH_BYTES: u64 = 4 << 20;

/// How long the journal and the checkpoints leave a failing disk alone before they try again.
pub const JOURNAL_RETRY: std::time::Duration = std::time::Duration::from_secs(2);

/// How long a message may wait for room in the journal.
pub const JOURNAL_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Commands of one connection in a row before the others have their turn.
pub const COMMANDS_PER_TURN: u32 = 64;

/// Recipients whose look-ups are prepared when they come together with MAIL. More lines would push the first ones out of
/// the CPU's nearest cache again: each fetches nine lines.
pub const RECIPIENTS_WARMED_MAX: usize = 64;

/// Octets of a user table's heap from which on that is done. Measured with fifty recipients in a server that was busy
/// with something else before: up to 150 MB it gains as often as it loses, 2% at most; with 850 MB it gains 1%, with
/// 3.4 GB 3%. Where all is in the caches it is 30 ns for each recipient and nothing else.
pub const TABLE_WARMED_FROM: u64 = 512 << 20;

/// How long a message may arrive more slowly than `limits.data_rate_min` allows.
pub const DATA_RATE_GRACE: std::time::Duration = std::time::Duration::from_secs(10);

/// How long a client that is one too many may take to read that.
pub const REFUSAL_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// How long transactions may take to end when the server goes down; less than systemd's 90 seconds.
pub const DRAIN_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// How long accepting rests after the process has run out of descriptors or memory.
pub const ACCEPT_REST: std::time::Duration = std::time::Duration::from_millis(100);

// ---------------------------------------------------------------------------------------------
// The protocol: lines in, lines out.

/// Longest command verb: far more than any RFC defines, so that garbage is told from a command early.
pub const COMMAND_VERB_BYTES_MAX: usize = 32;

/// Longest parameter part of a command. RFC 5321 section 4.5.3.1.4 asks for 512 with the verb, each
/// extension adds to it; 4 KiB takes them all, and internationalised addresses.
pub const COMMAND_PARAMETERS_BYTES_MAX: usize = 4096;

/// Longest command line, without its line end: verb, one space, parameters.
pub const COMMAND_LINE_BYTES_MAX: usize = COMMAND_VERB_BYTES_MAX + 1 + COMMAND_PARAMETERS_BYTES_MAX;

/// Buffer of a partial line that a connection may keep while it waits for its next command. Larger ones
/// are given back, or twenty thousand idle connections would hold 80 MiB of nothing.
pub const COMMAND_LINE_KEPT_BYTES_MAX: usize = 512;

/// Digits of a SIZE value (RFC 1870 section 5: `size-value ::= 1*20DIGIT`) and of a chunk size.
pub const SIZE_DIGITS_MAX: usize = 20;

/// Longest reply line, with code and CRLF (RFC 5321 section 4.5.3.1.5).
pub const REPLY_LINE_BYTES_MAX: usize = 512;

/// Longest piece of a client's own text that a reply repeats. `550 5.1.1 <a> User doesn't exist: a`
/// repeats an address twice (and 5.1.2 its domain), and 230 is the most that lets both copies fit a line.
pub const REPLY_ECHO_BYTES_MAX: usize = 230;

/// Longest name a client may give in LHLO and still see it in the trace header (RFC 5321 section 4.5.3.1.2).
pub const CLIENT_NAME_BYTES_MAX: usize = 255;

const _: () = assert!(COMMAND_LINE_KEPT_BYTES_MAX < COMMAND_LINE_BYTES_MAX);
const _: () = assert!(
    "550 5.1.2 <> Domain doesn't exist: \r\n".len() + 2 * REPLY_ECHO_BYTES_MAX <= REPLY_LINE_BYTES_MAX
);

// ---------------------------------------------------------------------------------------------
// The look-ups of Postfix.

/// Longest request: the name of a map, a space, and a key as long as a command may be. smtpd(8) reads lines of 2 KiB,
/// which quoting can double.
pub const SOCKETMAP_REQUEST_BYTES_MAX: usize = 64 + COMMAND_PARAMETERS_BYTES_MAX;

/// Buffer of a partial request that a connection may keep.
pub const SOCKETMAP_KEPT_BYTES_MAX: usize = COMMAND_LINE_KEPT_BYTES_MAX;

/// Longest reply that Postfix reads (socketmap_table(5)).
pub const SOCKETMAP_REPLY_BYTES_MAX: usize = 100_000;

/// Bytes of replies that are gathered before they are sent: more than the replies to one buffer of requests, unless
/// they are large aliases.
pub const SOCKETMAP_REPLIES_GATHERED: usize = 4 * BUFFER_BYTES;
