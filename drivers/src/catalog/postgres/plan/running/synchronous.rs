//! Which standbys a commit waits for.
//!
//! Invariant: a name is added only when a standby streams, else every commit would hang; it goes before its node does.

use super::Planner;
use crate::catalog::postgres::conf::synchronous_names;
use crate::catalog::postgres::facts::Facts;
use crate::catalog::postgres::plan::builder::Link;
use crate::driver::Disruption;

/// With this many members an acknowledged row is on two of them, unless the wish says `async`.
const SYNCHRONOUS_MEMBERS_MIN: usize = 3;

impl Planner<'_> {
    /// The synchronous standbys that the primary may name before any step of this plan has made a new one stream.
    pub(super) fn interim_synchronous(&self, primary: &Facts) -> String {
        let now = primary
            .settings
            .as_ref()
            .and_then(|settings| settings.get("synchronous_standby_names"));
        let now = now.cloned().unwrap_or_default();
        if now.is_empty() || self.synchronous_members().is_empty() {
            return String::new();
        }
        let is_named = |node: &&str| now.contains(&format!("\"{node}\""));
        synchronous_names(self.synchronous_members().into_iter().filter(is_named))
    }

    /// Whether commits should wait for `node` and do not yet: it has to be seen streaming first.
    pub(super) fn is_to_be_named(&self, node: &str) -> bool {
        let names = self.interim_synchronous(&self.view.primary_facts());
        self.synchronous_members().contains(&node) && !names.contains(&format!("\"{node}\""))
    }

    pub(super) fn synchronous_members(&self) -> Vec<&str> {
        if self.view.checked.params.is_async || self.view.wish.nodes.len() < SYNCHRONOUS_MEMBERS_MIN
        {
            return Vec::new();
        }
        self.view.standbys().map(String::as_str).collect()
    }

    /// Names all standbys as synchronous, once one streams.
    pub(super) fn synchronous(
        &mut self,
        primary: &str,
        interim: &str,
        ready: &Link,
        awaited: &[Link],
    ) -> Link {
        let streaming = self
            .view
            .primary_facts()
            .server
            .unwrap_or_default()
            .streaming;
        let awaited: Vec<Link> = awaited
            .iter()
            .filter(|link| **link != Link::Deferred)
            .cloned()
            .collect();
        let names = self.synchronous_members();
        let one_streams = !awaited.is_empty() || names.iter().any(|name| streaming.contains(*name));
        let members = synchronous_names(names);
        let mut needs: Vec<&Link> = awaited.iter().collect();
        needs.push(ready);
        if members == interim || !one_streams {
            return Link::all(&needs);
        }
        let settings = self.view.primary_settings(&members);
        let reason = "an acknowledged row is on two members";
        self.builder.change(
            '~',
            "synchronous_standby_names",
            &members,
            Disruption::Reload,
            reason,
        );
        self.configure_after(primary, "synchronous", &settings, &needs)
    }
}
