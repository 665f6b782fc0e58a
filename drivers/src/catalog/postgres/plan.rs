//! From what is observed to what is wished: the driver's plan.
//!
//! Invariants: pure and deterministic; each step is there because an observation differs from the wish, so when all
//! holds the plan is empty; no plan makes a second primary: data is initialised only when every member is present and
//! none has any. What a node that is away would need is left out; its return makes a new plan.
//! Not in this version: switchover, failover, major upgrades, a change of port or data directory.

mod builder;
mod removal;
mod running;
mod view;

pub use view::View;

use crate::driver::{Desired, Plan, PlanInput, Refusal};

/// The plan, or why there is none.
///
/// # Errors
/// See [`Refusal`].
pub fn plan(input: &PlanInput) -> Result<Plan, Refusal> {
    match &input.desired {
        Desired::Running(wish) => {
            let view = View::new(input, wish)?;
            view::refuse(&view)?;
            running::plan(&view)
        }
        Desired::Removed { wish, purge } => removal::plan(input, wish, *purge),
    }
}

/// A refusal that a person has to act on.
pub fn refusal(node: Option<&str>, field: Option<&str>, reason: String, hint: String) -> Refusal {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Refusal {
        field: owned(field),
        node: owned(node),
        reason,
        hint,
        waits: false,
    }
}

#[cfg(test)]
#[path = "plan/plan_test.rs"]
mod tests;
