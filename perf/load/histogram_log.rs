//! The HdrHistogram log: `--hgrm`.
//!
//! Owns the file. Its format (version 1.3 of HistogramLogWriter, compressed histograms of version 2) is read by
//! HistogramLogProcessor, HistogramLogAnalyzer and others. Values are nanoseconds, maxima are printed in milliseconds;
//! the tag is the target.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::measure::Latency;
use crate::target::Target;

/// A log that is being written.
pub(crate) struct HistogramLog {
    path: PathBuf,
    file: BufWriter<File>,
    serializer: V2DeflateSerializer,
    base: SystemTime,
}

impl HistogramLog {
    /// Makes the file, or empties it.
    pub(crate) fn create(path: &Path) -> Result<Self, String> {
        let fail = |error| format!("--hgrm {}: {error}", path.display());
        let file = File::create(path).map_err(fail)?;
        let base = SystemTime::now();
        let mut log = Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
            serializer: V2DeflateSerializer::new(),
            base,
        };
        writeln!(log.file, "#[Histogram log format version 1.3]").map_err(fail)?;
        let mut header = IntervalLogWriterBuilder::new();
        header.add_comment("[posthaste-load: whole transactions, nanoseconds; Interval_Max in milliseconds]");
        header.with_start_time(base).with_base_time(base);
        header.begin_log_with(&mut log.file, &mut log.serializer).map_err(fail)?;
        writeln!(log.file, "{LEGEND}").map_err(fail)?;
        Ok(log)
    }

    /// Writes what one target did in one interval.
    pub(crate) fn write(
        &mut self,
        target: &Target,
        from: SystemTime,
        lasted: Duration,
        transaction: &Latency,
    ) -> Result<(), String> {
        // The header is written already.
        let mut line = IntervalLogWriterBuilder::new();
        line.with_max_value_divisor(NANOSECONDS_IN_MS);
        let mut bytes = Vec::new();
        let mut writer = line.begin_log_with(&mut bytes, &mut self.serializer).expect("memory");
        let tag = target.to_string().replace([',', '\r', '\n', ' '], "_");
        let from = from.duration_since(self.base).unwrap_or_default();
        writer
            .write_histogram(&transaction.0, from, lasted, Tag::new(&tag))
            .map_err(|error| format!("--hgrm {}: {error}", self.path.display()))?;
        // A line for the divisor stands before that of the histogram.
        let start = bytes
            .iter()
            .rposition(|byte| *byte == b'#')
            .map_or(0, |at| at + bytes[at..].iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        self.file
            .write_all(&bytes[start..])
            .map_err(|error| format!("--hgrm {}: {error}", self.path.display()))
    }

    /// Everything written is in the file.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        self.file.flush().map_err(|error| format!("--hgrm {}: {error}", self.path.display()))
    }
}

const LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"";
const NANOSECONDS_IN_MS: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn what_was_written_can_be_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.hgrm");
        let mut log = HistogramLog::create(&path).unwrap();
        let mut latency = Latency::new();
        latency.record(Duration::from_millis(7));
        let target: Target = "unix:/tmp/a b,c".parse().unwrap();
        for _ in 0..2 {
            log.write(&target, SystemTime::now(), Duration::from_millis(200), &latency).unwrap();
        }
        log.finish().unwrap();
        let text = std::fs::read(&path).unwrap();
        let mut histograms = 0;
        for entry in IntervalLogIterator::new(&text) {
            if let LogEntry::Interval(interval) = entry.unwrap() {
                assert_eq!(interval.tag().unwrap().as_str(), "unix:/tmp/a_b_c");
                assert_eq!(interval.max(), 7.0);
                let bytes = base64(interval.encoded_histogram());
                let histogram: hdrhistogram::Histogram<u64> =
                    Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
                assert!(histogram.equivalent(histogram.max(), 7_000_000));
                histograms += 1;
            }
        }
        assert_eq!(histograms, 2, "{}", String::from_utf8_lossy(&text));
    }

    fn base64(text: &str) -> Vec<u8> {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let bits = text.bytes().filter_map(|byte| LETTERS.iter().position(|letter| *letter == byte));
        let (mut out, mut sum, mut count) = (Vec::new(), 0_usize, 0);
        for six in bits {
            (sum, count) = (sum << 6 | six, count + 6);
            if count >= 8 {
                count -= 8;
                out.push((sum >> count).to_le_bytes()[0]);
            }
        }
        out
    }
}
