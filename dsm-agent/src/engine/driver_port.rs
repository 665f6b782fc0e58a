//! The port through which the engine asks drivers for pure answers.
//!
//! Invariants: every call is deterministic and touches nothing; calls that touch the machine go through actions.

use drivers::driver::{
    Claim, Description, FieldError, Health, Plan, PlanInput, Refusal, RetryPolicy, Wish,
};

/// The pure half of the drivers that this agent knows.
pub trait DriverPort: Send + Sync {
    /// What a driver says of itself.
    ///
    /// # Errors
    /// A fault of the wish's field `driver`, with the nearest known name as hint.
    fn describe(&self, driver: &str) -> Result<Description, FieldError>;

    /// Checks the parameters of a wish.
    ///
    /// # Errors
    /// All faults found.
    fn check(&self, driver: &str, wish: &Wish) -> Result<(), Vec<FieldError>>;

    /// The steps from observed to desired.
    ///
    /// # Errors
    /// Why no plan can be made.
    fn plan(&self, driver: &str, input: &PlanInput) -> Result<Plan, Refusal>;

    /// What people see of the deployment.
    fn health(&self, driver: &str, input: &PlanInput) -> Health;

    /// What the deployment takes for itself on each node.
    fn claims(&self, driver: &str, wish: &Wish, uid: &str) -> Vec<Claim>;

    /// How often a step of `op` is tried.
    fn retry_policy(&self, driver: &str, op: &str) -> RetryPolicy {
        self.describe(driver)
            .ok()
            .and_then(|description| {
                description
                    .ops
                    .into_iter()
                    .find(|known| known.op == op)
                    .map(|known| known.retry)
            })
            .unwrap_or_default()
    }
}

impl DriverPort for drivers::registry::Registry {
    fn describe(&self, driver: &str) -> Result<Description, FieldError> {
        self.find(driver).map(|found| found.describe())
    }

    fn check(&self, driver: &str, wish: &Wish) -> Result<(), Vec<FieldError>> {
        self.find(driver)
            .map_err(|fault| vec![fault])
            .and_then(|found| found.check(wish))
    }

    fn plan(&self, driver: &str, input: &PlanInput) -> Result<Plan, Refusal> {
        match self.find(driver) {
            Ok(found) => found.plan(input),
            Err(fault) => Err(Refusal {
                field: Some(fault.field),
                node: None,
                reason: fault.reason,
                hint: fault.hint,
                waits: false,
            }),
        }
    }

    fn health(&self, driver: &str, input: &PlanInput) -> Health {
        self.find(driver)
            .map(|found| found.health(input))
            .unwrap_or_default()
    }

    fn claims(&self, driver: &str, wish: &Wish, uid: &str) -> Vec<Claim> {
        self.find(driver)
            .map(|found| found.claims(wish, uid))
            .unwrap_or_default()
    }
}
