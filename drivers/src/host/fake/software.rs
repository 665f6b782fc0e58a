//! What a fake machine has in packages and units; who changes it are the fake programs beside this file.

/// A package that the fake repository offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FakePackage {
    /// Version installed.
    pub installed: Option<String>,
    /// True after an interrupted installation: `dpkg --configure -a` is needed.
    pub half_configured: bool,
    /// Versions in the repository, best first.
    pub available: Vec<String>,
    /// Users, with a group each, that its installation makes, and their home.
    pub makes_users: Vec<(String, String)>,
}

/// A unit that the fake service manager knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// Text of its file when the service manager read it last.
    pub loaded: Vec<u8>,
    /// Whether it runs.
    pub active: bool,
    /// How often it was started.
    pub starts: u32,
    /// How often it was reloaded.
    pub reloads: u32,
}
