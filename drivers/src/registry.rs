//! The drivers that this build knows, by name.
//!
//! Not here: third-party executables (`/usr/lib/contextos/drivers`), which this version does not run.

use std::collections::BTreeMap;

use crate::catalog::file::FileDriver;
use crate::catalog::postgres::PostgresDriver;
use crate::driver::{Description, Driver, FieldError};
use crate::nearest::nearest_name;

/// Drivers by the name that a wish uses.
pub struct Registry {
    drivers: BTreeMap<String, Box<dyn Driver>>,
}

/// The drivers that are built in.
pub fn builtin() -> Registry {
    Registry::of(vec![Box::new(FileDriver), Box::new(PostgresDriver)])
}

impl Registry {
    /// A registry of exactly these drivers.
    ///
    /// # Panics
    /// If two of them have one name: that is a fault of the build.
    pub fn of(drivers: Vec<Box<dyn Driver>>) -> Self {
        let mut by_name = BTreeMap::new();
        for driver in drivers {
            let name = driver.describe().name;
            let before = by_name.insert(name.clone(), driver);
            assert!(before.is_none(), "two drivers are named {name}");
        }
        Self { drivers: by_name }
    }

    /// The driver called `name`.
    ///
    /// # Errors
    /// A fault of the wish's field `driver`, with the nearest known name as hint.
    pub fn find(&self, name: &str) -> Result<&dyn Driver, FieldError> {
        self.drivers
            .get(name)
            .map(AsRef::as_ref)
            .ok_or_else(|| FieldError {
                field: "driver".to_owned(),
                reason: format!("{name} is not a driver that this node knows"),
                hint: match nearest_name(name, self.names()) {
                    Some(near) => format!("write {near} (nearest name), or see: dsm-agent drivers"),
                    None => format!(
                        "known drivers: {}",
                        self.names().collect::<Vec<_>>().join(", ")
                    ),
                },
            })
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.drivers.keys().map(String::as_str)
    }

    /// All descriptions, sorted by name.
    pub fn descriptions(&self) -> Vec<Description> {
        self.drivers
            .values()
            .map(|driver| driver.describe())
            .collect()
    }
}
