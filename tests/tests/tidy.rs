//! The rules of the repository that neither rustfmt nor clippy checks.
//!
//! Each rule is one test; a failure lists every place that breaks it. The arrows are those of docs/ARCHITECTURE.md: a
//! new one needs a decision page first, and then a line here.

#[path = "tidy/cycles.rs"]
mod cycles;
#[path = "tidy/formats.rs"]
mod formats;

use std::collections::BTreeSet;

use anyhow::Result;
use system_tests::sources::{self, Line, SourceFile};

const LINE_WIDTH_MAX: usize = 120;
const FUNCTION_LINES_MAX: usize = 70;

/// What may lie at the top of the repository, beside names that begin with a dot.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "docs",
    "drivers",
    "dsm-agent",
    "scripts",
    "target",
    "tests",
    "vfsd",
];

/// Package, module, and the modules it may import beside itself and `limits`. `*` is all of them. `a::b` allows only
/// that part of `a`. A module that stands not here is refused: add it with its arrows.
const ARROWS: &[(&str, &str, &[&str])] = &[
    ("vfsd", "main", &["*"]),
    ("vfsd", "lib", &["*"]),
    ("vfsd", "daemon", &["*"]),
    ("vfsd", "cli", &["*"]),
    ("vfsd", "clock", &["state_machine::log_time"]),
    ("vfsd", "config", &["state_machine::ids", "storage"]),
    ("vfsd", "inline_task", &[]),
    ("vfsd", "limits", &[]),
    ("vfsd", "telemetry", &["clock"]),
    ("vfsd", "state_machine", &[]),
    ("vfsd", "fs", &["state_machine", "clock"]),
    (
        "vfsd",
        "fuse",
        &["fs", "state_machine", "clock", "inline_task", "trouble"],
    ),
    (
        "vfsd",
        "consensus",
        &[
            "fs::feed",
            "fs::proposer",
            "state_machine",
            "storage",
            "transport",
            "clock",
            "inline_task",
            "trouble",
        ],
    ),
    ("vfsd", "trouble", &[]),
    ("vfsd", "transport", &["state_machine::ids", "clock"]),
    ("vfsd", "storage", &["clock"]),
    (
        "vfsd",
        "admin",
        &["fs", "consensus", "state_machine", "clock"],
    ),
    ("dsm-agent", "main", &["*"]),
    ("dsm-agent", "lib", &["*"]),
    ("dsm-agent", "agent", &["*"]),
    (
        "dsm-agent",
        "reconciler",
        &[
            "engine",
            "mount",
            "host",
            "clock",
            "status",
            "config",
            "failpoint",
        ],
    ),
    ("dsm-agent", "cli", &["*"]),
    ("dsm-agent", "clock", &[]),
    ("dsm-agent", "config", &["clock"]),
    ("dsm-agent", "limits", &[]),
    ("dsm-agent", "telemetry", &["clock"]),
    ("dsm-agent", "status", &["engine", "mount", "clock"]),
    ("dsm-agent", "engine", &[]),
    ("dsm-agent", "failpoint", &[]),
    (
        "dsm-agent",
        "mount",
        &["engine", "clock", "failpoint", "status"],
    ),
    (
        "dsm-agent",
        "host",
        &["engine", "mount", "clock", "failpoint"],
    ),
    ("drivers", "lib", &["*"]),
    ("drivers", "limits", &[]),
    ("drivers", "error", &[]),
    ("drivers", "nearest", &[]),
    ("drivers", "fence", &["error"]),
    ("drivers", "host", &["error", "fence"]),
    ("drivers", "driver", &["error", "fence", "host"]),
    ("drivers", "params", &["error", "driver", "nearest"]),
    ("drivers", "sls", &["error", "host", "driver"]),
    (
        "drivers",
        "catalog",
        &["error", "host", "driver", "nearest", "params", "sls"],
    ),
    (
        "drivers",
        "registry",
        &["catalog", "driver", "error", "nearest"],
    ),
    ("drivers", "plugin", &["driver", "error", "host", "params"]),
    (
        "drivers",
        "conformance",
        &[
            "catalog", "driver", "error", "fence", "host", "registry", "sls",
        ],
    ),
];

/// Modules that decide and touch nothing, and what they must not name.
const PURE: &[(&str, &str)] = &[("vfsd", "state_machine"), ("dsm-agent", "engine")];
const IMPURE: &[&str] = &[
    "Condvar",
    "HashMap",
    "HashSet",
    "Instant::",
    "Mutex",
    "RwLock",
    "SystemTime",
    "rand::",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::sync::atomic",
    "std::thread",
    "tokio",
];

/// What replicas must not compute with. The engine may read floats: a number of a wish is one.
const FLOATS: &[&str] = &["f32", "f64"];

/// Words that mark unfinished or hidden work. Written in halves, so that this file does not break its own rule.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!("),
    concat!("unimple", "mented!("),
    concat!("#[ign", "ore"),
    concat!("db", "g!("),
];

/// Paths of the machines that this was written on.
const BUILD_MACHINE: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/tmp/br", "ief"),
    concat!("/Us", "ers/"),
];

/// File names that say nothing.
const EMPTY_NAMES: &[&str] = &["utils.rs", "util.rs", "common.rs", "helpers.rs", "misc.rs"];

#[test]
fn modules_import_only_along_the_arrows() -> Result<()> {
    let mut found = Violations::default();
    for file in rust_files()? {
        let Some((package, module)) = file.module().filter(|(package, _)| *package != "tests")
        else {
            continue;
        };
        let arrow = ARROWS
            .iter()
            .find(|(known, name, _)| (*known, *name) == (package, module));
        let Some((_, _, allowed)) = arrow else {
            found.add(
                &file,
                0,
                &format!("module {module} of {package} has no arrows in tests/tidy.rs"),
            );
            continue;
        };
        for (number, line) in product_lines(&file) {
            for import in imports(line.code()) {
                if !is_allowed(module, allowed, &import) {
                    found.add(&file, number, &format!("{module} must not import {import}"));
                }
            }
        }
    }
    found.none()
}

/// The paths after each `crate::` of a line, at most two names each: `fs::proposer`. A group is looked into.
fn imports(code: &str) -> Vec<String> {
    let mut imports = Vec::new();
    for rest in code.split("crate::").skip(1) {
        if let Some(group) = rest.strip_prefix('{') {
            let names = group
                .split(['}', ','])
                .map(str::trim)
                .filter(|name| !name.is_empty());
            imports.extend(names.map(first_names).filter(|name| !name.is_empty()));
        } else {
            imports.push(first_names(rest));
        }
    }
    imports
}

fn first_names(path: &str) -> String {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let end = path.find(|c| !is_name(c)).unwrap_or(path.len());
    path[..end]
        .split("::")
        .filter(|name| !name.is_empty())
        .take(2)
        .collect::<Vec<_>>()
        .join("::")
}

fn is_allowed(module: &str, allowed: &[&str], import: &str) -> bool {
    let first = import.split("::").next().unwrap_or(import);
    // A type or a function at the top of a crate (`crate::Error`) belongs to no module.
    let is_module = first.starts_with(|c: char| c.is_ascii_lowercase());
    !is_module
        || first == module
        || first == "limits"
        || allowed
            .iter()
            .any(|allowed| *allowed == "*" || *allowed == first || *allowed == import)
}

#[test]
fn the_pure_core_touches_nothing() -> Result<()> {
    let mut found = Violations::default();
    for file in rust_files()? {
        if !file.module().is_some_and(|module| PURE.contains(&module)) {
            continue;
        }
        for (number, line) in product_lines(&file) {
            let floats = if file.path.starts_with("vfsd/") {
                FLOATS
            } else {
                &[]
            };
            for word in IMPURE
                .iter()
                .chain(floats)
                .filter(|word| names(line.code(), word))
            {
                found.add(&file, number, &format!("{word} in the pure core"));
            }
        }
    }
    found.none()
}

/// Whether `code` holds `word` as a whole name.
fn names(code: &str, word: &str) -> bool {
    let is_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !is_name(before) && (word.ends_with("::") || !is_name(after))
    })
}

#[test]
fn the_tree_is_the_only_interface_between_the_daemons() -> Result<()> {
    let mut found = Violations::default();
    let forbidden = [
        ("vfsd", "dsm-agent"),
        ("vfsd", "drivers"),
        ("dsm-agent", "vfsd"),
        ("drivers", "vfsd"),
        ("drivers", "dsm-agent"),
    ];
    for file in manifests()? {
        for (number, line) in file.lines.iter().enumerate() {
            let name = line.text.split(['=', '.', ' ']).next().unwrap_or_default();
            if forbidden.iter().any(|(package, other)| {
                file.path == format!("{package}/Cargo.toml") && name == *other
            }) {
                found.add(
                    &file,
                    number + 1,
                    &format!("{name} must not be linked here"),
                );
            }
        }
    }
    found.none()
}

#[test]
fn every_dependency_has_a_reason() -> Result<()> {
    let mut found = Violations::default();
    for file in manifests()? {
        let mut section = String::new();
        for (number, line) in file.lines.iter().enumerate() {
            let text = line.text.trim();
            if text.starts_with('[') {
                section = text.to_owned();
            }
            if !section.ends_with("dependencies]") || !text.contains('=') || text.starts_with('#') {
                continue;
            }
            let inherited = text.contains("workspace = true") || text.contains("path = ");
            // The fuzz targets are no part of the workspace: they need a nightly compiler.
            let is_fuzz = file.path.starts_with("tests/fuzz") && text.contains(" # ");
            let inherited = inherited || is_fuzz;
            if section == "[workspace.dependencies]" && !text.contains(" # ") {
                found.add(
                    &file,
                    number + 1,
                    "a dependency without its reason in a comment",
                );
            } else if section != "[workspace.dependencies]" && !inherited {
                found.add(
                    &file,
                    number + 1,
                    "a dependency that does not come from the workspace",
                );
            }
        }
    }
    found.none()
}

#[test]
fn every_file_says_what_it_is_for() -> Result<()> {
    let mut found = Violations::default();
    for file in rust_files()? {
        let head = file.lines.first().map_or("", |line| line.text.as_str());
        if !head.starts_with("//! ") || head.len() < 12 {
            found.add(&file, 1, "no //! head that says what the file is for");
        }
        let name = file.path.rsplit('/').next().unwrap_or_default();
        if EMPTY_NAMES.contains(&name) {
            found.add(&file, 1, "a name that says nothing");
        }
    }
    found.none()
}

#[test]
fn files_that_comments_and_documents_name_are_there() -> Result<()> {
    let mut found = Violations::default();
    let files = sources::all()?;
    let is_there = |name: &str| {
        let ending = format!("/{}", name.trim_start_matches("./"));
        files
            .iter()
            .any(|file| format!("/{}", file.path).ends_with(&ending))
    };
    for file in &files {
        let is_document = file.path.ends_with(".md") && !file.path.ends_with("CHANGELOG.md");
        for (number, line) in file.lines.iter().enumerate() {
            let text = match () {
                () if is_document => line.text.as_str(),
                () if file.is_rust() => &line.text[line.code().len()..],
                () => continue,
            };
            for name in rust_names(text).filter(|name| !is_there(name)) {
                found.add(file, number + 1, &format!("{name} is not there"));
            }
        }
    }
    found.none()
}

/// The names of Rust files in `text`. What stands in braces or stars is no name.
fn rust_names(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_alphanumeric() || "_-./{},*<>".contains(c);
    let words = text.split(move |c| !is_part(c));
    let words = words.map(|word| word.trim_end_matches(['.', ',']));
    let is_name = |word: &&str| {
        word.len() > 3 && word.ends_with(".rs") && !word.contains(['{', '*', '<', '>', ','])
    };
    words.filter(is_name)
}

#[test]
fn lines_are_narrow() -> Result<()> {
    let mut found = Violations::default();
    for file in sources::all()?
        .into_iter()
        .filter(|file| file.is_rust() || file.path.ends_with(".sh"))
    {
        for (number, line) in file.lines.iter().enumerate() {
            let width = line.text.chars().count();
            if width > LINE_WIDTH_MAX {
                found.add(
                    &file,
                    number + 1,
                    &format!("{width} columns, at most {LINE_WIDTH_MAX}"),
                );
            }
        }
    }
    found.none()
}

#[test]
fn functions_are_short() -> Result<()> {
    let mut found = Violations::default();
    for file in rust_files()? {
        let mut open: Vec<(usize, usize)> = Vec::new();
        for (number, line) in file.lines.iter().enumerate() {
            if opens_function(line) {
                open.push((line.indentation(), number));
            }
            let end = line.text.trim();
            let is_declaration = end.starts_with(')') && end.ends_with(';');
            open.pop_if(|(indentation, _)| is_declaration && *indentation == line.indentation());
            let closes = end.starts_with('}');
            if let Some((indentation, start)) = open
                .last()
                .copied()
                .filter(|(i, _)| closes && *i == line.indentation())
            {
                open.pop();
                let code = |line: &&Line| !line.code().trim().is_empty();
                let length = file.lines[start..=number]
                    .iter()
                    .filter(code)
                    .count()
                    .saturating_sub(2);
                if length > FUNCTION_LINES_MAX {
                    found.add(
                        &file,
                        start + 1,
                        &format!("a function of {length} lines at indentation {indentation}"),
                    );
                }
            }
        }
    }
    found.none()
}

/// Whether a function with a body starts here. One on a single line, or one without a body, does not.
fn opens_function(line: &Line) -> bool {
    let code = line.code().trim();
    let mut words = code.split_whitespace().skip_while(|word| {
        word.starts_with("pub")
            || [
                "const", "async", "unsafe", "extern", "\"C\"", "crate)", "super)",
            ]
            .contains(word)
    });
    words.next() == Some("fn") && !code.ends_with('}') && !code.ends_with(';')
}

#[test]
fn nothing_is_left_unfinished() -> Result<()> {
    let mut found = Violations::default();
    for file in sources::all()?
        .into_iter()
        .filter(|file| !file.path.starts_with("Cargo.lock"))
    {
        for (number, line) in file.lines.iter().enumerate() {
            for word in UNFINISHED.iter().filter(|word| line.text.contains(**word)) {
                found.add(&file, number + 1, &format!("{word} is unfinished work"));
            }
            for path in BUILD_MACHINE
                .iter()
                .filter(|path| names_folder(&line.text, path))
            {
                found.add(
                    &file,
                    number + 1,
                    &format!("{path} is a path of one machine"),
                );
            }
        }
    }
    found.none()
}

/// Whether `text` holds `path` from the root: with a name before it, it is another path.
fn names_folder(text: &str, path: &str) -> bool {
    text.match_indices(path).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"._-/}$".contains(c))
    })
}

#[test]
fn only_tests_unwrap() -> Result<()> {
    let mut found = Violations::default();
    for file in rust_files()? {
        for (number, line) in product_lines(&file) {
            if line.code().contains(".unwrap()") {
                found.add(
                    &file,
                    number,
                    "unwrap outside tests: use ? or expect with the reason",
                );
            }
        }
    }
    found.none()
}

#[test]
fn tests_wait_for_conditions_and_never_sleep() -> Result<()> {
    let mut found = Violations::default();
    for file in rust_files()? {
        let mut function = "";
        for (number, line) in file.lines.iter().enumerate() {
            if let Some((_, name)) = line.code().split_once("fn ") {
                function = name;
            }
            // A function that waits for a condition looks at it again and again.
            let may_sleep = !line.is_test || function.starts_with("wait");
            let call = concat!("sle", "ep(");
            let sleeps = ["thread::", "time::"]
                .iter()
                .any(|path| line.code().contains(&format!("{path}{call}")));
            if sleeps && !may_sleep {
                found.add(
                    &file,
                    number + 1,
                    "a test that sleeps: wait for a condition with a deadline",
                );
            }
        }
    }
    found.none()
}

#[test]
fn the_top_level_is_fixed() -> Result<()> {
    let mut unknown = BTreeSet::new();
    for entry in std::fs::read_dir(sources::repository()?)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()) {
            unknown.insert(name);
        }
    }
    assert!(unknown.is_empty(), "not part of the layout: {unknown:?}");
    Ok(())
}

#[test]
fn scripts_explain_themselves() -> Result<()> {
    let mut found = Violations::default();
    for file in sources::all()? {
        let is_script = file.path.starts_with("scripts/") && file.path.matches('/').count() == 1;
        if is_script && !file.lines.iter().any(|line| line.text.contains("--help")) {
            found.add(&file, 1, "a script without --help");
        }
    }
    found.none()
}

fn rust_files() -> Result<Vec<SourceFile>> {
    Ok(sources::all()?
        .into_iter()
        .filter(SourceFile::is_rust)
        .collect())
}

fn manifests() -> Result<Vec<SourceFile>> {
    Ok(sources::all()?
        .into_iter()
        .filter(|file| file.path.ends_with("Cargo.toml"))
        .collect())
}

/// Lines that are part of the product, with their numbers.
fn product_lines(file: &SourceFile) -> impl Iterator<Item = (usize, &Line)> {
    file.lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !line.is_test)
        .map(|(number, line)| (number + 1, line))
}

/// All places that break a rule.
#[derive(Default)]
struct Violations(Vec<String>);

impl Violations {
    fn add(&mut self, file: &SourceFile, line: usize, what: &str) {
        self.0.push(format!("{}:{line}: {what}", file.path));
    }

    fn none(self) -> Result<()> {
        assert!(
            self.0.is_empty(),
            "{} places:\n{}",
            self.0.len(),
            self.0.join("\n")
        );
        Ok(())
    }
}
