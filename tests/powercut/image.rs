//! The bytes of a disk, in memory: a map of those blocks that are not all zeroes.
//!
//! Blocks are shared between copies until one of them is written to, so a copy of an image costs little.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

/// Octets of a block.
pub(crate) const BLOCK: usize = 4096;

/// A disk.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    bytes: u64,
    blocks: BTreeMap<u64, Arc<[u8; BLOCK]>>,
}

impl Image {
    /// The content of the file `path`.
    pub(crate) fn load(path: &Path) -> Self {
        let mut file = File::open(path).expect("an image file");
        let bytes = file.metadata().expect("an image file").len();
        let mut image = Self { bytes, blocks: BTreeMap::new() };
        let mut buffer = vec![0; 256 * BLOCK];
        let mut offset = 0;
        loop {
            match file.read(&mut buffer).expect("an image file that can be read") {
                0 => return image,
                count => image.write(offset, &buffer[..count]),
            }
            offset = image.position(&mut file);
        }
    }

    /// Writes it to the file `path`, which has no other content afterwards, and holes where there are zeroes.
    pub(crate) fn save(&self, path: &Path) {
        let file = File::options().create(true).write(true).truncate(true).open(path);
        let file = file.expect("an image file");
        file.set_len(self.bytes).expect("room for an image");
        let mut run = Vec::with_capacity(RUN_BLOCKS * BLOCK);
        let mut start = 0;
        for (&number, block) in &self.blocks {
            let next = start + run.len() as u64;
            if number * BLOCK as u64 != next || run.len() == RUN_BLOCKS * BLOCK {
                file.write_all_at(&run, start).expect("room for an image");
                run.clear();
                start = number * BLOCK as u64;
            }
            run.extend_from_slice(&block[..]);
        }
        file.write_all_at(&run, start).expect("room for an image");
    }

    /// How large the disk is, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads from `offset` on; what lies behind the end is zeroes.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) {
        for (number, inside, range) in pieces(offset, into.len()) {
            match self.blocks.get(&number) {
                Some(block) => {
                    let length = range.len();
                    into[range].copy_from_slice(&block[inside..inside + length]);
                }
                None => into[range].fill(0),
            }
        }
    }

    /// Writes `bytes` at `offset`.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (number, inside, range) in pieces(offset, bytes.len()) {
            let bytes = &bytes[range];
            if !self.blocks.contains_key(&number) && bytes.iter().all(|&byte| byte == 0) {
                continue;
            }
            let block = self.blocks.entry(number).or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(block)[inside..inside + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Makes a range read as zeroes.
    pub(crate) fn zero(&mut self, offset: u64, length: u64) {
        let length = usize::try_from(length).expect("a range of a small disk");
        for (number, inside, range) in pieces(offset, length) {
            if range.len() == BLOCK {
                self.blocks.remove(&number);
            } else if let Some(block) = self.blocks.get_mut(&number) {
                Arc::make_mut(block)[inside..inside + range.len()].fill(0);
            }
        }
    }

    fn position(&self, file: &mut File) -> u64 {
        std::io::Seek::stream_position(file).expect("an image file").min(self.bytes)
    }
}

/// The parts of a range by block: number, offset in the block, and range of the caller's bytes.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let inside = usize::try_from(at % BLOCK as u64).expect("less than a block");
        let start = done;
        done += (BLOCK - inside).min(length - done);
        Some((at / BLOCK as u64, inside, start..done))
    })
}

/// Blocks written at once: fewer calls for the same bytes.
const RUN_BLOCKS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_reads_as_it_was_written_and_zeroed() {
        let mut image = Image { bytes: 1 << 20, blocks: BTreeMap::new() };
        let mut plain = vec![0_u8; 1 << 20];
        let mut random = crate::random::Random::new(7);
        for _ in 0..500 {
            let offset = random.below(1 << 19);
            let length = random.below(3 * BLOCK);
            if random.percent(30) {
                image.zero(offset as u64, length as u64);
                plain[offset..offset + length].fill(0);
            } else {
                let fill = u8::try_from(random.below(256)).expect("a byte");
                image.write(offset as u64, &vec![fill; length]);
                plain[offset..offset + length].fill(fill);
            }
        }
        let mut all = vec![1; 1 << 20];
        image.read(0, &mut all);
        assert!(all == plain);

        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("image");
        image.save(&path);
        assert!(std::fs::read(&path).expect("the image") == plain);
        Image::load(&path).read(0, &mut all);
        assert!(all == plain);
    }
}
