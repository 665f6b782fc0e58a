//! `vfsd member list|add|remove|promote`.

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use super::token::{create, parse_role, parse_span};
use super::{OutputArgs, ask, say};
use crate::admin::protocol::{AdminRequest, MemberReport};
use crate::state_machine::command::Grant;

#[derive(Debug, Subcommand)]
pub(super) enum MemberCommand {
    /// Lists the members.
    List(OutputArgs),
    /// Makes a token for one node and prints the command to run there.
    #[command(after_help = "Example:\n  vfsd member add n4 --role agent")]
    Add {
        /// Name of the new node.
        name: String,
        /// What it may change: reader, agent or writer.
        #[arg(long, default_value = "writer", value_parser = parse_role)]
        role: Grant,
        /// How long the token is valid: a number and s, m, h or d.
        #[arg(long, default_value = "1h", value_parser = parse_span)]
        expires: u64,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Removes a member for good: its certificate is refused from then on.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Makes a learner a voter.
    Promote {
        /// Its name.
        name: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(super) fn run(command: MemberCommand) -> anyhow::Result<ExitCode> {
    match command {
        MemberCommand::List(output) => list(&output),
        MemberCommand::Add {
            name,
            role,
            expires,
            output,
        } => add(name, role, expires, &output),
        MemberCommand::Remove { name, output } => {
            say(&ask(&output, &AdminRequest::Remove { name })?, &output)
        }
        MemberCommand::Promote { name, output } => {
            say(&ask(&output, &AdminRequest::Promote { name })?, &output)
        }
    }
}

fn list(output: &OutputArgs) -> anyhow::Result<ExitCode> {
    let members = ask(output, &AdminRequest::Members)?;
    if output.json {
        anstream::println!("{}", serde_json::json!({ "members": members }));
        return Ok(ExitCode::SUCCESS);
    }
    let members: Vec<MemberReport> = serde_json::from_value(members)?;
    anstream::println!("{}", super::status::member_table(&members, None));
    Ok(ExitCode::SUCCESS)
}

fn add(name: String, role: Grant, expires: u64, output: &OutputArgs) -> anyhow::Result<ExitCode> {
    let made = create(role, expires, Some(name.clone()), output)?;
    if output.json {
        anstream::println!("{made}");
        return Ok(ExitCode::SUCCESS);
    }
    let token = made["token"].as_str().context("vfsd gave no token")?;
    let members: Vec<MemberReport> = serde_json::from_value(ask(output, &AdminRequest::Members)?)?;
    let peer = members
        .first()
        .map_or("IP:PORT", |member| member.address.as_str());
    anstream::println!("run on {name}, with its own address:");
    anstream::println!("  vfsd join --node {name} --listen IP:PORT --peer {peer} --token {token}");
    Ok(ExitCode::SUCCESS)
}
