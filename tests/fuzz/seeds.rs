//! Writes the seeds of `laws::seeds` into the corpora.
#![forbid(unsafe_code)]

use std::path::Path;

fn main() -> std::io::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for seed in laws::seeds::all(&here.join("../dialogs")) {
        let corpus = here.join("corpus").join(seed.target);
        std::fs::create_dir_all(&corpus)?;
        std::fs::write(corpus.join(seed.name), seed.bytes)?;
    }
    Ok(())
}
