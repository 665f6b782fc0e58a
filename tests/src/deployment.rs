//! A deployment as its record in the tree tells it.
//!
//! Invariant: what is asked for is always a phase *of a generation*: a record that is still the one before a save says
//! `Active` too.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::Node;
use crate::wait::{wait_for, wait_until};

/// A deployment, by its name: `mid/shop-db`.
#[derive(Debug, Clone, Copy)]
pub struct Deployment<'a> {
    name: &'a str,
}

impl<'a> Deployment<'a> {
    /// The deployment `name`, which need not exist.
    pub const fn new(name: &'a str) -> Self {
        Self { name }
    }

    /// Path of its record, relative to the mount.
    pub fn record(&self) -> String {
        format!("/vfs/run/{}", self.name)
    }

    /// Saves its wish on `node` as a shell does.
    ///
    /// # Errors
    /// If the save is refused.
    pub fn wish(&self, node: &Node, wish: &Value) -> Result<()> {
        node.write(
            &format!("/vfs/{}.json", self.name),
            format!("{wish}\n").as_bytes(),
        )
    }

    /// Its status as `node` reads it, if there is a record.
    ///
    /// # Errors
    /// If the node does not run.
    pub fn status(&self, node: &Node) -> Result<Option<Value>> {
        let finished = node.run(&["cat", &format!("{}/status.json", self.record())])?;
        Ok(serde_json::from_slice(&finished.stdout).ok())
    }

    /// Its newest generation, 0 without a record.
    ///
    /// # Errors
    /// If the node does not run.
    pub fn generation(&self, node: &Node) -> Result<u64> {
        Ok(self
            .status(node)?
            .and_then(|status| status["generation"].as_u64())
            .unwrap_or(0))
    }

    /// Whether it is Active in generation `generation_min` or a later one, as `node` reads it.
    ///
    /// # Errors
    /// If the node does not run.
    pub fn is_active(&self, node: &Node, generation_min: u64) -> Result<bool> {
        let status = self.status(node)?.unwrap_or_default();
        let is_new = status["generation"].as_u64() >= Some(generation_min);
        Ok(is_new && status["phase"] == "Active")
    }

    /// Waits until it is in `phase` in generation `generation_min` or a later one.
    ///
    /// # Errors
    /// If that does not come within `limit`; the message holds what the record says instead.
    pub fn wait_for(
        &self,
        node: &Node,
        phase: &str,
        generation_min: u64,
        limit: Duration,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let what = format!("{} to be {phase} in generation {generation_min}", self.name);
        let result = wait_for(&what, limit, || {
            last = self.status(node)?.unwrap_or_default();
            let is_new = last["generation"].as_u64() >= Some(generation_min);
            Ok((is_new && last["phase"] == phase).then(|| last.clone()))
        });
        result.with_context(|| format!("the record on {} says {last}", node.name()))
    }

    /// Waits until a condition of its status names `words`.
    ///
    /// # Errors
    /// If that does not come within `limit`; the message holds what the record says instead.
    pub fn wait_for_words(&self, node: &Node, words: &[&str], limit: Duration) -> Result<()> {
        let mut last = String::new();
        let result = wait_until(&format!("{} to say {words:?}", self.name), limit, || {
            last = self.status(node)?.unwrap_or_default().to_string();
            Ok(words.iter().all(|word| last.contains(word)))
        });
        result.with_context(|| format!("the record on {} says {last}", node.name()))
    }
}
