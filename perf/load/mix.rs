//! How large messages are: one size, a mix of distributions, or a corpus of real messages.
//!
//! Owns `--size`, the format of mix files (isp.mix explains it) and the draw, which is a pure function of the random
//! numbers that it is given. Never makes a message.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::arguments::parse_size;
use crate::random::Random;

/// What `--size` says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SizeSource {
    /// All messages have this many bytes.
    Fixed(u64),
    /// A file in the format of isp.mix, or the name of one that is shipped.
    Mix(PathBuf),
    /// A directory of messages.
    Corpus(PathBuf),
}

impl FromStr for SizeSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("mix", path)) if !path.is_empty() => Ok(Self::Mix(path.into())),
            Some(("corpus", path)) if !path.is_empty() => Ok(Self::Corpus(path.into())),
            Some(_) => Err("say a size as in 4KiB, mix:FILE, mix:isp, mix:fixed-4k or corpus:DIR".into()),
            None => parse_size(text).map(Self::Fixed),
        }
    }
}

/// A weighted choice of distributions; there is at least one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mix {
    parts: Vec<Part>,
    total: f64,
}

#[derive(Debug, Clone, PartialEq)]
struct Part {
    weight: f64,
    law: Law,
}

#[derive(Debug, Clone, PartialEq)]
enum Law {
    Fixed(u64),
    LogNormal { mu: f64, sigma: f64, min: u64, max: u64 },
}

impl Mix {
    /// The one size.
    pub(crate) fn fixed(size: u64) -> Self {
        Self { parts: vec![Part { weight: 1.0, law: Law::Fixed(size) }], total: 1.0 }
    }

    /// Reads a mix: one that is shipped, by its name, or a file.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        if let Some((_, text)) = SHIPPED.iter().find(|(name, _)| Path::new(name) == path) {
            return Self::parse(text);
        }
        let text = std::fs::read_to_string(path).map_err(|error| {
            format!("mix {}: {error}; \"mix:isp\" and \"mix:fixed-4k\" need no file", path.display())
        })?;
        Self::parse(&text).map_err(|why| format!("mix {}, {why}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                parts.push(Part::parse(line).map_err(|why| format!("line {}: {why}", number + 1))?);
            }
        }
        let total = parts.iter().map(|part| part.weight).sum();
        if parts.is_empty() {
            return Err("there is no part in it; a line as \"1 fixed size=4KiB\" is one".into());
        }
        Ok(Self { parts, total })
    }

    /// Draws the size of a message.
    pub(crate) fn draw(&self, random: &mut Random) -> u64 {
        if let [Part { law: Law::Fixed(size), .. }] = self.parts[..] {
            return size;
        }
        let mut at = random.fraction() * self.total;
        let part = self.parts.iter().find(|part| {
            at -= part.weight;
            at <= 0.0
        });
        part.or_else(|| self.parts.last()).expect("at least one").law.draw(random)
    }
}

impl Part {
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let weight = words.next().and_then(|word| word.parse::<f64>().ok());
        let weight = weight.filter(|weight| weight.is_finite() && *weight > 0.0);
        let weight = weight.ok_or("the weight, which comes first, is a number above 0")?;
        let kind = words.next().ok_or("after the weight comes fixed or lognormal")?;
        let fields: Vec<(&str, &str)> = words
            .map(|word| word.split_once('=').ok_or_else(|| format!("{word:?} is not of the form key=value")))
            .collect::<Result<_, _>>()?;
        let field = |key: &str| {
            let found = fields.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
            found.ok_or_else(|| format!("{kind} needs {key}="))
        };
        let keys: &[&str] = match kind {
            "fixed" => &["size"],
            "lognormal" => &["median", "sigma", "min", "max"],
            _ => return Err(format!("{kind:?} is neither fixed nor lognormal")),
        };
        if let Some((key, _)) = fields.iter().find(|(key, _)| !keys.contains(key)) {
            return Err(format!("{kind} has no {key}=, only {}", keys.join(", ")));
        }
        let law = if kind == "fixed" {
            Law::Fixed(parse_size(field("size")?)?)
        } else {
            Law::log_normal(field("median")?, field("sigma")?, field("min")?, field("max")?)?
        };
        Ok(Self { weight, law })
    }
}

impl Law {
    fn log_normal(median: &str, sigma: &str, min: &str, max: &str) -> Result<Self, String> {
        let (median, min, max) = (parse_size(median)?, parse_size(min)?, parse_size(max)?);
        let sigma = sigma.parse::<f64>().ok().filter(|sigma| *sigma > 0.0 && *sigma <= 5.0);
        let sigma = sigma.ok_or("sigma is a number above 0 and up to 5")?;
        // Else most draws would be thrown away.
        if !(min <= median && median <= max) {
            return Err("the median lies between min and max".into());
        }
        Ok(Self::LogNormal { mu: (median as f64).ln(), sigma, min, max })
    }

    fn draw(&self, random: &mut Random) -> u64 {
        match self {
            Self::Fixed(size) => *size,
            Self::LogNormal { mu, sigma, min, max } => loop {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "saturates, and is checked"
                )]
                let size = (mu + sigma * random.normal()).exp() as u64;
                if (*min..=*max).contains(&size) {
                    return size;
                }
            },
        }
    }
}

/// The mixes that come with the program.
const SHIPPED: [(&str, &str); 2] =
    [("fixed-4k", include_str!("mixes/fixed-4k.mix")), ("isp", include_str!("mixes/isp.mix"))];

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(mix: &Mix, count: u64) -> Vec<u64> {
        (0..count).map(|number| mix.draw(&mut Random::new(9, number))).collect()
    }

    #[test]
    fn the_shipped_mixes_can_be_read() {
        let fixed = Mix::load(Path::new("fixed-4k")).unwrap();
        assert_eq!(fixed, Mix::fixed(4096));
        assert!(sizes(&fixed, 10).iter().all(|size| *size == 4096));
        assert_eq!(Mix::load(Path::new("isp")).unwrap().parts.len(), 2);
    }

    #[test]
    fn the_isp_mix_has_the_shares_that_were_published() {
        let sizes = sizes(&Mix::load(Path::new("isp")).unwrap(), 100_000);
        for (kibibytes, share) in
            [(4, 0.4917), (8, 0.676), (16, 0.7958), (64, 0.9047), (256, 0.9574), (1024, 0.9849)]
        {
            let below = sizes.iter().filter(|size| **size < kibibytes * 1024).count() as f64 / 1e5;
            assert!((below - share).abs() < 0.01, "{kibibytes} KiB: {below}, published {share}");
        }
        assert!(sizes.iter().all(|size| (900..=4 << 20).contains(size)));
    }

    #[test]
    fn a_bad_line_is_named_with_what_is_wrong() {
        for (text, why) in [
            ("# nothing", "no part"),
            ("\nx fixed size=1", "line 2: the weight"),
            ("1 fixed", "fixed needs size="),
            ("1 normal size=1", "neither fixed nor lognormal"),
            ("1 fixed size=1 max=2", "has no max="),
            ("1 lognormal median=1KiB sigma=0 min=1 max=2KiB", "sigma is a number"),
            ("1 lognormal median=1 sigma=1 min=2 max=3", "between min and max"),
            ("1 fixed size=big", "big"),
        ] {
            let refusal = Mix::parse(text).unwrap_err();
            assert!(refusal.contains(why), "{text:?}: {refusal}");
        }
    }

    #[test]
    fn what_size_says_is_told_apart() {
        assert_eq!("4KiB".parse(), Ok(SizeSource::Fixed(4096)));
        assert_eq!("mix:isp".parse(), Ok(SizeSource::Mix("isp".into())));
        assert_eq!("corpus:/srv/mails".parse(), Ok(SizeSource::Corpus("/srv/mails".into())));
        assert!("mixture:isp".parse::<SizeSource>().is_err());
    }
}
