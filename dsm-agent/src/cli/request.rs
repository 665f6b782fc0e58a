//! `retry`, `pause`, `resume`, `abandon`, `approve`: requests as files, and what the planner noted on them.

use std::time::{Duration, Instant};

use clap::Args;

use super::{Complaint, Exit, Place, deployment, print_json};
use crate::clock;
use crate::engine::record::{FORMAT, Request, RequestKind, RequestNote};
use crate::mount::paths;
use crate::mount::performer::json_bytes;

/// Options of all requests.
#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    /// mid/NAME or ctx/NAME.
    name: String,
    /// Do not wait for the planner's answer.
    #[arg(long)]
    no_wait: bool,
}

/// How long the planner's answer is awaited: it answers within a second, a takeover takes a few.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// How often the answer is looked for.
const ANSWER_POLL: Duration = Duration::from_millis(50);

/// Writes a request and waits for the note on it.
pub(crate) fn request(
    place: &Place,
    kind: RequestKind,
    args: &RequestArgs,
) -> Result<Exit, Complaint> {
    let id = deployment(&args.name)?;
    if place.store.wish_record(&id)?.is_none() {
        return Err(Complaint::new(
            format!("{id} has no record yet"),
            format!("see: dsm-agent explain {id}"),
        ));
    }
    let user = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER"));
    let user = user.unwrap_or_else(|_| format!("uid {}", nix::unistd::getuid()));
    let request = Request {
        format: FORMAT,
        kind,
        by: format!("{user} on {}", place.node()?),
        at: clock::now(),
    };
    let uuid = uuid::Uuid::now_v7().to_string();
    let path = format!("{}/{uuid}.json", paths::requests(&id));
    place.store.tree().create(&path, &json_bytes(&request))?;
    if args.no_wait {
        anstream::println!("{uuid}");
        return Ok(Exit::Done);
    }
    let note_path = format!("{}/{uuid}.json", paths::request_notes(&id));
    let until = Instant::now() + ANSWER_WAIT;
    loop {
        if let Some(note) = place.store.json::<RequestNote>(&note_path)? {
            if place.json {
                print_json(&note)?;
            } else {
                anstream::println!("{id}: {}", note.outcome);
            }
            return Ok(Exit::Done);
        }
        if Instant::now() >= until {
            return Err(Complaint::new(
                format!("no planner has answered within {} s", ANSWER_WAIT.as_secs()),
                format!("the request stays and will be; see: dsm-agent explain {id}"),
            ));
        }
        std::thread::sleep(ANSWER_POLL);
    }
}
