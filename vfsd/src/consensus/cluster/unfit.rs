//! What ends a member for good: it was found not to be what the cluster knows.
//!
//! Invariant: whoever is unfit stays so; the daemon writes the reason beside the data and does not start again. Not
//! here: how it is found (`lineage_watch.rs`, `pledge_keeper.rs`), what a person does then (`vfsd rejoin`).

use tokio::sync::watch;

/// See the module.
#[derive(Debug)]
pub struct Unfit {
    why: watch::Sender<Option<String>>,
}

impl Default for Unfit {
    fn default() -> Self {
        Self {
            why: watch::Sender::new(None),
        }
    }
}

impl Unfit {
    /// This member must not go on; `why` tells a person what was found and what to do. The first reason stays.
    pub fn declare(&self, why: String) {
        self.why.send_if_modified(|known| {
            if known.is_some() {
                return false;
            }
            tracing::error!("{why}");
            *known = Some(why);
            true
        });
    }

    /// Whether it was.
    pub fn is_declared(&self) -> bool {
        self.why.borrow().is_some()
    }

    /// Ends when it is, with the reason.
    pub async fn declared(&self) -> String {
        let mut why = self.why.subscribe();
        // The sender lives as long as this.
        let found = why.wait_for(Option::is_some).await;
        found.ok().and_then(|why| why.clone()).unwrap_or_default()
    }
}
