//! `vfsd token create`.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;

use super::setup::check_name;
use super::{OutputArgs, ask};
use crate::admin::protocol::AdminRequest;
use crate::state_machine::command::Grant;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Makes a one-time join token; prints only the token.
    #[command(after_help = "Example:\n  vfsd token create --role agent --expires 30m")]
    Create {
        /// What the node may change: reader (nothing), agent (/run and /lk), writer (everything).
        #[arg(long, default_value = "writer", value_parser = parse_role)]
        role: Grant,
        /// How long it is valid: a number and s, m, h or d.
        #[arg(long, default_value = "1h", value_parser = parse_span)]
        expires: u64,
        /// Name that the joining node must have.
        #[arg(long)]
        node: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(super) fn run(command: TokenCommand) -> anyhow::Result<ExitCode> {
    let TokenCommand::Create {
        role,
        expires,
        node,
        output,
    } = command;
    let made = create(role, expires, node, &output)?;
    if output.json {
        anstream::println!("{made}");
    } else {
        anstream::println!("{}", made["token"].as_str().context("vfsd gave no token")?);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn create(
    role: Grant,
    expires_secs: u64,
    name: Option<String>,
    output: &OutputArgs,
) -> anyhow::Result<serde_json::Value> {
    if let Some(name) = &name {
        check_name("node", name)?;
    }
    ask(
        output,
        &AdminRequest::TokenCreate {
            role,
            expires_secs,
            name,
        },
    )
}

pub(super) fn parse_role(text: &str) -> anyhow::Result<Grant> {
    match text {
        "reader" => Ok(Grant::Reader),
        "agent" => Ok(Grant::Agent),
        "writer" => Ok(Grant::Writer),
        _ => bail!("roles are reader, agent and writer"),
    }
}

/// `90s`, `30m`, `1h`, `7d` in seconds.
pub(super) fn parse_span(text: &str) -> anyhow::Result<u64> {
    let expected = "use a number and s, m, h or d, for example 30m";
    let unit = text.chars().last().context(expected)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => bail!(expected),
    };
    let count: u64 = text[..text.len() - 1].parse().ok().context(expected)?;
    let span = count.checked_mul(seconds).context(expected)?;
    if span == 0 || span > 366 * 86_400 {
        bail!("a token is valid for between one second and a year");
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit_and_an_end() {
        assert_eq!(parse_span("30m").unwrap(), 1_800);
        assert_eq!(parse_span("7d").unwrap(), 604_800);
        for bad in [
            "",
            "h",
            "1",
            "0s",
            "-1h",
            "1é",
            "9999d",
            "99999999999999999999s",
        ] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }
}
