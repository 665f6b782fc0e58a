//! Where samples lie.

/// Nearest-rank quantiles of samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// How many samples there are.
    pub count: usize,
    /// A quarter lies below it.
    pub p25: f64,
    /// The median.
    pub p50: f64,
    /// A quarter lies above it.
    pub p75: f64,
    /// One in a hundred lies above it.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// `None` of no samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |part: f64| sorted[(last as f64 * part).round() as usize];
        Some(Self {
            count: sorted.len(),
            p25: at(0.25),
            p50: at(0.5),
            p75: at(0.75),
            p99: at(0.99),
            max: sorted[last],
        })
    }
}
