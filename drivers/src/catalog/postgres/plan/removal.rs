//! Taking the deployment off its nodes.

use super::builder::{Builder, Words};
use super::refusal;
use super::view::read_facts;
use crate::catalog::postgres::args::{Remove, RemovedData};
use crate::catalog::postgres::facts::Data;
use crate::catalog::postgres::layout::Place;
use crate::catalog::postgres::ops::Op;
use crate::catalog::postgres::params::{MAJOR, check};
use crate::driver::{Disruption, Plan, PlanInput, Refusal, Wish};

/// The steps that remove the deployment from every node that is there.
///
/// # Errors
/// An observation that cannot be read.
pub fn plan(input: &PlanInput, wish: &Wish, purge: bool) -> Result<Plan, Refusal> {
    let mut builder = Builder::new(input);
    for (node, facts) in read_facts(input)? {
        let place = match (&facts.note, check(wish)) {
            (Some(note), _) => Place {
                major: note.major,
                data_directory: note.data_directory.clone(),
                port: 0,
            },
            (None, Ok(checked)) => checked.place(&input.uid),
            (None, Err(_)) if !facts.has_anything() => continue,
            (None, Err(_)) => {
                let reason = format!(
                    "it is not known where the data of {} lies on {node}",
                    input.deployment
                );
                let hint = format!(
                    "look on {node} for contextos.json in data directories, and stop the unit by hand"
                );
                return Err(refusal(Some(&node), None, reason, hint));
            }
        };
        let has_data = matches!(facts.data, Data::Ours { .. });
        if !(facts.has_anything() || purge && has_data) {
            continue;
        }
        let directory = place.data_directory.display().to_string();
        let (data, title) = if purge {
            (
                RemovedData::Purge,
                format!("remove PostgreSQL and its data in {directory}"),
            )
        } else {
            (
                RemovedData::Retain,
                format!("remove PostgreSQL, keep its data in {directory}"),
            )
        };
        let detail = match (purge, has_data) {
            (true, true) => format!("removed, {directory} deleted"),
            (false, true) => format!("removed, data kept in {directory}"),
            (_, false) => "removed, there is no data".to_owned(),
        };
        builder.change('-', &node, &detail, Disruption::Stop, "the wish is gone");
        let args = Remove {
            place: Place {
                major: MAJOR,
                ..place
            },
            data,
        };
        builder.step(
            &node,
            (Op::Remove, "remove"),
            &Words::new(&title, "the wish is gone"),
            &args,
            &[],
        );
    }
    Ok(builder.finish())
}
