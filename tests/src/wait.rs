//! Waiting for a condition, with a deadline: the only place of the harness that sleeps.
//!
//! Invariant: a wait names what it waits for, so that a failure says it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::limits;

/// Looks at `condition` again and again until it gives a value.
///
/// # Errors
/// When `condition` errs, or gave nothing within `limit`; the message names `what`.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() >= limit {
            bail!("waited {:.1} s in vain for {what}", limit.as_secs_f64());
        }
        std::thread::sleep(limits::POLL_INTERVAL);
    }
}

/// Looks at `condition` again and again until it holds.
///
/// # Errors
/// When `condition` errs, or did not hold within `limit`; the message names `what`.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    wait_for(what, limit, || Ok(condition()?.then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_ends_gives_the_value() {
        let mut left = 3;
        let value = wait_for("the third look", Duration::from_secs(5), || {
            left -= 1;
            Ok((left == 0).then_some("there"))
        });
        assert_eq!(value.unwrap(), "there");
    }

    #[test]
    fn a_wait_in_vain_names_what_it_waited_for() {
        let error = wait_until("a leader", Duration::ZERO, || Ok(false)).unwrap_err();
        assert_eq!(error.to_string(), "waited 0.0 s in vain for a leader");
    }
}
