//! Packages of the wish's version.

use super::Planner;
use crate::catalog::postgres::args::Install;
use crate::catalog::postgres::observe::package_name;
use crate::catalog::postgres::ops::Op;
use crate::catalog::postgres::params::{MAJOR, is_version};
use crate::catalog::postgres::plan::builder::{Link, Words};
use crate::catalog::postgres::plan::refusal;
use crate::driver::{Disruption, Refusal};

impl Planner<'_> {
    /// The package, in the version that the wish asks for.
    pub(super) fn install(&mut self, node: &str) -> Result<Link, Refusal> {
        let package = self.view.facts(node).package;
        let wanted = &self.view.checked.params.version;
        let matches = |version: &str| is_version(wanted, version);
        if package.installed.as_deref().is_some_and(matches) || !self.view.is_present(node) {
            return Ok(Link::holds());
        }
        let candidate = package.candidate.iter().find(|version| matches(version));
        let version = candidate
            .or_else(|| package.versions.iter().find(|version| matches(version)))
            .cloned();
        // Without package lists on the node the step fetches them and decides, or names what exists.
        let has_lists = package
            .versions
            .iter()
            .any(|version| Some(version) != package.installed.as_ref());
        if version.is_none()
            && (has_lists || !package.majors.is_empty() && !package.majors.contains(&MAJOR))
        {
            let known = if package.versions.is_empty() {
                package
                    .majors
                    .iter()
                    .map(u32::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            } else {
                package.versions.join(", ")
            };
            let reason = format!("no repository of {node} offers PostgreSQL {wanted}");
            return Err(refusal(
                Some(node),
                Some("params.version"),
                reason,
                format!("versions that exist: {known}"),
            ));
        }
        let name = package_name(MAJOR);
        let detail = match (&package.installed, &version) {
            (Some(old), Some(new)) => format!("{old} -> {new}"),
            (_, Some(new)) => new.clone(),
            (_, None) => "the repository's newest".to_owned(),
        };
        if let Some(version) = &version {
            self.builder.version(&name, version);
        }
        self.builder.change(
            '+',
            &format!("{node} {name}"),
            &detail,
            Disruption::None,
            "the wish's version",
        );
        let args = Install {
            major: MAJOR,
            version,
        };
        let words = Words::new("install PostgreSQL", "the wish's version is not installed");
        Ok(self
            .builder
            .step(node, (Op::Install, "install"), &words, &args, &[]))
    }

    pub(super) fn installed(&self, node: &str) -> Link {
        self.installed.get(node).cloned().unwrap_or(Link::holds())
    }
}
