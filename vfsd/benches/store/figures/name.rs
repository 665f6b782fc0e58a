//! What a row is called, and what its samples count.

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Millis,
    /// Calls in a second.
    PerSecond,
    /// Bytes.
    Bytes,
    /// 1,048,576 bytes.
    Mebibytes,
    /// Hundredths of one core.
    PercentOfACore,
    /// Entries of the log.
    Entries,
    /// One number by another.
    Times,
}

impl Unit {
    /// As people write it behind a number.
    pub fn text(self) -> &'static str {
        match self {
            Self::Millis => "ms",
            Self::PerSecond => "/s",
            Self::Bytes => "B",
            Self::Mebibytes => "MiB",
            Self::PercentOfACore => "%",
            Self::Entries => "",
            Self::Times => "x",
        }
    }

    /// A number with as many digits as mean something.
    pub fn number(self, value: f64) -> String {
        match self {
            Self::Millis if value.abs() >= 100.0 => format!("{value:.0}"),
            Self::Millis | Self::Times | Self::PercentOfACore => format!("{value:.2}"),
            Self::PerSecond | Self::Bytes | Self::Mebibytes | Self::Entries => {
                format!("{value:.0}")
            }
        }
    }
}

/// Which program a row tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// The one that is measured.
    This,
    /// The one that it is compared with.
    Other,
}

/// A row's name for machines and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// For machines.
    pub key: String,
    /// For people.
    pub label: String,
    /// What the samples count.
    pub unit: Unit,
}

impl Name {
    /// A name of something that is not one of the two builds, or of this one.
    pub fn new(key: &str, label: &str, unit: Unit) -> Self {
        Self {
            key: key.to_owned(),
            label: label.to_owned(),
            unit,
        }
    }

    /// The same row of `build`.
    pub fn of(self, build: Build) -> Self {
        match build {
            Build::This => self,
            Build::Other => Self {
                key: Self::other(&self.key),
                label: format!("{}, other build", self.label),
                unit: self.unit,
            },
        }
    }

    /// The key that the row `key` has for the other build.
    pub fn other(key: &str) -> String {
        format!("other_{key}")
    }
}
