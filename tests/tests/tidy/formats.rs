//! The versions of the formats, and the fields that readers may count on: what the documents say is what the code has.
//!
//! Method: read the constants out of the source text, and compare them with the table of docs/FORMATS.md. Not here:
//! that old bytes are read (`vfsd/tests/earlier_builds.rs`).

use anyhow::{Context, Result, bail};
use system_tests::sources;

/// Row of the table, and what its last column says.
fn known() -> Result<Vec<(&'static str, String)>> {
    let data_dir = "vfsd/src/storage/data_dir.rs";
    let first = number(data_dir, "FORMAT_FIRST")?;
    let last = first + number("vfsd/src/limits.rs", "RULES_KNOWN")?;
    let sum = constant(data_dir, "FORMAT_KNOWN")?;
    if sum != "FORMAT_FIRST + RULES_KNOWN" {
        bail!("FORMAT_KNOWN is {sum}: this test has to follow");
    }
    let name = text(data_dir, "FORMAT")?;
    let snapshot = "vfsd/src/state_machine/snapshot.rs";
    let states = [
        "SNAPSHOT_VERSION_EARLIER",
        "SNAPSHOT_VERSION_LATER",
        "SNAPSHOT_VERSION",
    ];
    let states: Result<Vec<_>> = states.iter().map(|name| constant(snapshot, name)).collect();
    let single = |file, name| constant(file, name);
    Ok(vec![
        ("data directory", format!("`{name}{first}` to `{last}`")),
        (
            "log frame",
            format!("`{}`", text("vfsd/src/storage/frame.rs", "MAGIC")?),
        ),
        (
            "log records",
            single("vfsd/src/storage/record.rs", "RECORD_VERSION")?,
        ),
        (
            "entry payload",
            single("vfsd/src/state_machine/command.rs", "ENTRY_VERSION")?,
        ),
        (
            "snapshot file",
            format!(
                "`{}` and a newline",
                text("vfsd/src/consensus/raft/snapshot_store.rs", "MAGIC")?
                    .strip_suffix("\\n")
                    .context("the magic of a snapshot ends its line")?
            ),
        ),
        ("state in a snapshot", states?.join(", ")),
        (
            "frame between nodes",
            format!(
                "{} ([PROTOCOL.md](PROTOCOL.md))",
                single("vfsd/src/transport/frame.rs", "WIRE_VERSION")?
            ),
        ),
        (
            "join token",
            single("vfsd/src/transport/token.rs", "VERSION")?,
        ),
        (
            "agents' records",
            single("dsm-agent/src/engine/record.rs", "FORMAT")?,
        ),
    ])
}

fn lines_of(path: &str) -> Result<Vec<String>> {
    let files = sources::all()?;
    let file = files.into_iter().find(|file| file.path == path);
    let file = file.with_context(|| format!("{path} is not there"))?;
    Ok(file.lines.into_iter().map(|line| line.text).collect())
}

/// The value of the constant `name` in `path`, as it is written.
fn constant(path: &str, name: &str) -> Result<String> {
    let head = format!("const {name}: ");
    let lines = lines_of(path)?;
    let value = lines.iter().find_map(|line| {
        let (before, rest) = line.split_once(&head)?;
        let is_head = before.is_empty() || before.starts_with("pub");
        let (_, value) = rest.split_once(" = ").filter(|_| is_head)?;
        value.strip_suffix(';')
    });
    Ok(value
        .with_context(|| format!("{path} has no line with {head}"))?
        .to_owned())
}

fn number(path: &str, name: &str) -> Result<u32> {
    let value = constant(path, name)?;
    value
        .parse()
        .with_context(|| format!("{name} in {path} is {value}"))
}

/// A string or bytes, without the quotes.
fn text(path: &str, name: &str) -> Result<String> {
    let value = constant(path, name)?;
    let inner = value.trim_start_matches(['*', 'b']);
    let inner = inner
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    Ok(inner
        .with_context(|| format!("{name} in {path} is {value}"))?
        .to_owned())
}

#[test]
fn the_table_of_formats_names_the_versions_that_the_code_knows() -> Result<()> {
    let lines = lines_of("docs/FORMATS.md")?;
    let table: Vec<[&str; 3]> = lines
        .iter()
        .skip_while(|line| !line.starts_with("| Format |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            cells.try_into().ok()
        })
        .collect();
    let said: Vec<_> = table
        .iter()
        .map(|[format, _, known]| (*format, (*known).to_owned()))
        .collect();
    assert_eq!(said, known()?);
    Ok(())
}

/// Scripts read it: what is there may be relied upon, and what may be relied upon stands in the document.
#[test]
fn the_fields_of_the_status_file_stand_in_the_document() -> Result<()> {
    let lines = lines_of("docs/FORMATS.md")?;
    let section = lines
        .iter()
        .skip_while(|line| *line != "## What `/.vfs` shows")
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    let section: Vec<_> = section.map(String::as_str).collect();
    let section = section.join(" ");
    let (said, _) = section
        .split_once("`members.json`")
        .context("members follow the status")?;
    let mut fields = fields("vfsd/src/fs/proposer.rs", "pub struct NodeStatus {")?;
    fields.extend(self::fields(
        "vfsd/src/fs/virtual_tree/status.rs",
        "struct Status<'a> {",
    )?);
    let fields = fields.into_iter().filter(|field| field != "status");
    let missing: Vec<_> = fields
        .filter(|field| !said.contains(&format!("`{field}`")))
        .collect();
    assert_eq!(
        missing, [""; 0],
        "fields that docs/FORMATS.md does not name"
    );
    Ok(())
}

/// The names of the fields that are written of the structure that begins with the line `head`.
fn fields(path: &str, head: &str) -> Result<Vec<String>> {
    let lines = lines_of(path)?;
    let at = lines.iter().position(|line| line.trim() == head);
    let at = at.with_context(|| format!("{path} has no line {head}"))?;
    let body = lines[at + 1..].iter().map(|line| line.trim());
    let mut names = Vec::new();
    let mut is_skipped = false;
    for line in body.take_while(|line| *line != "}") {
        if line.starts_with("//") || line.starts_with('#') {
            is_skipped |= line == "#[serde(skip)]";
        } else if let Some((name, _)) = line.trim_start_matches("pub ").split_once(':')
            && !std::mem::take(&mut is_skipped)
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
