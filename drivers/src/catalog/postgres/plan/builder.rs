//! Gathers the steps of a plan and knows which of them can be done now.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::json;

use crate::catalog::postgres::ops::Op;
use crate::driver::{ChangeLine, Disruption, NodeName, Plan, PlanInput, Step, StepId};

/// When something that later steps rely on holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// After these steps; at once, if there are none.
    After(BTreeSet<StepId>),
    /// Not with this plan: its node, or one that it needs, is away.
    Deferred,
}

/// A plan in the making.
pub struct Builder<'a> {
    present: &'a BTreeSet<NodeName>,
    plan: Plan,
}

/// What a person is told of a step, and its lock.
pub struct Words<'a> {
    /// `create database shop`.
    pub title: &'a str,
    /// Why it is done.
    pub reason: &'a str,
    /// Lock to hold.
    pub lock: Option<&'a str>,
}

impl<'a> Words<'a> {
    /// Without a lock.
    pub fn new(title: &'a str, reason: &'a str) -> Self {
        Self {
            title,
            reason,
            lock: None,
        }
    }

    /// The same, under `lock`.
    pub fn locked(self, lock: &'a str) -> Self {
        Self {
            lock: Some(lock),
            ..self
        }
    }
}

impl<'a> Builder<'a> {
    /// An empty plan for `input`.
    pub fn new(input: &'a PlanInput) -> Self {
        Self {
            present: &input.present,
            plan: Plan::default(),
        }
    }

    /// Adds a step of `op` on `node`, called `node/name`, after all of `needs`; deferred if its node is away or any
    /// of `needs` is deferred.
    pub fn step(
        &mut self,
        node: &str,
        (op, name): (Op, &str),
        words: &Words<'_>,
        args: &impl Serialize,
        needs: &[&Link],
    ) -> Link {
        let Link::After(needs) = Link::all(needs) else {
            return Link::Deferred;
        };
        if !self.present.contains(node) {
            return Link::Deferred;
        }
        let id = format!("{node}/{name}");
        self.plan.steps.push(Step {
            id: id.clone(),
            node: node.to_owned(),
            op: op.name().to_owned(),
            title: words.title.to_owned(),
            reason: words.reason.to_owned(),
            args: json!(args),
            needs: needs.into_iter().collect(),
            lock: words.lock.map(str::to_owned),
            class: op.class(),
            disruption: op.disruption(),
            undo: op.undo(),
            timeout: op.timeout(),
        });
        Link::After(BTreeSet::from([id]))
    }

    /// Whether there is a step of this id.
    pub fn has(&self, id: &str) -> bool {
        self.plan.steps.iter().any(|step| step.id == id)
    }

    /// Adds a line for people.
    pub fn change(
        &mut self,
        sign: char,
        subject: &str,
        detail: &str,
        disruption: Disruption,
        reason: &str,
    ) {
        let line = ChangeLine {
            sign,
            subject: subject.to_owned(),
            detail: detail.to_owned(),
            disruption,
            reason: reason.to_owned(),
        };
        if !self.plan.changes.contains(&line) {
            self.plan.changes.push(line);
        }
    }

    /// Notes an exact version that the plan has chosen.
    pub fn version(&mut self, package: &str, version: &str) {
        self.plan
            .versions
            .insert(package.to_owned(), version.to_owned());
    }

    /// The plan. Lines for people are kept only if there is something to do.
    pub fn finish(mut self) -> Plan {
        if self.plan.steps.is_empty() {
            self.plan.changes.clear();
        }
        self.plan
    }
}

impl Link {
    /// It holds already.
    pub fn holds() -> Self {
        Self::After(BTreeSet::new())
    }

    /// When all of `links` hold.
    pub fn all(links: &[&Self]) -> Self {
        let mut ids = BTreeSet::new();
        for link in links {
            match link {
                Self::After(more) => ids.extend(more.iter().cloned()),
                Self::Deferred => return Self::Deferred,
            }
        }
        Self::After(ids)
    }

    /// The same, where a node that is away must not hold the others up.
    pub fn or_without(self) -> Self {
        if self == Self::Deferred {
            Self::holds()
        } else {
            self
        }
    }
}
