//! Random numbers that can be derived again: from a seed and a purpose, not from a state that moves on.
//!
//! Owns the generator (SplitMix64, Steele, Lea and Flood 2014) and the distributions that are made of it. What message
//! number n is, is a pure function of the run and of n; so the verification afterwards needs no record of it. Nothing
//! here is fit for secrets.
#![forbid(unsafe_code)]

/// A sequence of random numbers that its seed decides.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of `seed` for one `purpose`: those of different purposes have nothing to do with each other.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        Self(mix(seed ^ mix(purpose.wrapping_mul(STEP))))
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0; biased by less than one in 2^64 / `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("less than the bound")
    }

    /// A number from 0 to 1, never 0 itself, so that its logarithm exists.
    pub(crate) fn fraction(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// A number of the normal distribution with mean 0 and deviation 1 (Box and Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * self.fraction().ln()).sqrt(), std::f64::consts::TAU * self.fraction());
        radius * angle.cos()
    }

    /// The time to the next event of a Poisson process with one event per unit of time, on average.
    pub(crate) fn exponential(&mut self) -> f64 {
        -self.fraction().ln()
    }
}

/// Every bit of the input changes half of the bits of the output.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The golden ratio, as an odd number of 64 bits.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Numbers from 1 to `n`, where k is drawn in proportion to k^-`exponent`.
///
/// By rejection and inversion (Hörmann and Derflinger 1996), so it needs no table, whatever `n` is.
#[derive(Debug, Clone)]
pub(crate) struct Zipf {
    n: f64,
    exponent: f64,
    area_of_first: f64,
    area_of_all: f64,
    shortcut: f64,
}

impl Zipf {
    /// For an `exponent` above 0.
    pub(crate) fn new(n: u64, exponent: f64) -> Self {
        let mut zipf = Self { n: n as f64, exponent, area_of_first: 0.0, area_of_all: 0.0, shortcut: 0.0 };
        zipf.area_of_first = zipf.area(1.5) - 1.0;
        zipf.area_of_all = zipf.area(zipf.n + 0.5);
        zipf.shortcut = 2.0 - zipf.area_inverse(zipf.area(2.5) - zipf.height(2.0));
        zipf
    }

    /// Draws one.
    pub(crate) fn draw(&self, random: &mut Random) -> u64 {
        loop {
            let area = self.area_of_all + random.fraction() * (self.area_of_first - self.area_of_all);
            let x = self.area_inverse(area);
            let k = x.round().clamp(1.0, self.n);
            if k - x <= self.shortcut || area >= self.area(k + 0.5) - self.height(k) {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to n")]
                return k as u64;
            }
        }
    }

    fn height(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of the height, with a constant that cancels out.
    fn area(&self, x: f64) -> f64 {
        let log = x.ln();
        exponential_ratio((1.0 - self.exponent) * log) * log
    }

    fn area_inverse(&self, area: f64) -> f64 {
        let t = (area * (1.0 - self.exponent)).max(-1.0);
        (logarithm_ratio(t) * area).exp()
    }
}

/// (e^x - 1) / x, also near 0.
fn exponential_ratio(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x / 2.0 }
}

/// ln(1 + x) / x, also near 0.
fn logarithm_ratio(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_purpose_give_the_same_numbers() {
        let numbers = |seed, purpose| {
            let mut random = Random::new(seed, purpose);
            std::array::from_fn::<u64, 4, _>(|_| random.bits())
        };
        assert_eq!(numbers(7, 1), numbers(7, 1));
        assert_ne!(numbers(7, 1), numbers(7, 2));
        assert_ne!(numbers(7, 1), numbers(8, 1));
    }

    #[test]
    fn numbers_below_a_bound_are_spread_evenly() {
        let mut random = Random::new(1, 1);
        let mut counts = [0_u32; 10];
        (0..100_000).for_each(|_| counts[usize::try_from(random.below(10)).unwrap()] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_draws_each_rank_as_often_as_its_law_says() {
        for exponent in [0.5, 1.0, 1.5] {
            let (zipf, mut random) = (Zipf::new(100, exponent), Random::new(3, 3));
            let mut counts = [0.0_f64; 101];
            (0..200_000).for_each(|_| counts[usize::try_from(zipf.draw(&mut random)).unwrap()] += 1.0);
            let total: f64 = (1..=100).map(|k| f64::from(k).powf(-exponent)).sum();
            for k in [1_u32, 2, 3, 10, 50] {
                let expected = 200_000.0 * f64::from(k).powf(-exponent) / total;
                let found = counts[k as usize];
                assert!(
                    (found - expected).abs() < 5.0 * expected.sqrt(),
                    "{exponent}: {k} {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn the_normal_and_the_exponential_distribution_have_their_means_and_deviations() {
        let mut random = Random::new(5, 5);
        let normal: Vec<f64> = (0..100_000).map(|_| random.normal()).collect();
        let mean = normal.iter().sum::<f64>() / 1e5;
        let deviation = (normal.iter().map(|x| x * x).sum::<f64>() / 1e5).sqrt();
        assert!(mean.abs() < 0.02 && (deviation - 1.0).abs() < 0.02, "{mean} {deviation}");
        let mean = (0..100_000).map(|_| random.exponential()).sum::<f64>() / 1e5;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
    }
}
