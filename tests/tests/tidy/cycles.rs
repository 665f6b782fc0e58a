//! No file knows, through others, a file that knows it: whoever reads one of a cycle has to read all.
//!
//! A folder's own file and what lies in the folder are one thing that was divided: imports between them do not count.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::{product_lines, rust_files};
use system_tests::sources::SourceFile;

/// A crate and the path of a module in it.
type Module = (String, Vec<String>);

#[test]
fn no_file_knows_itself_through_others() -> Result<()> {
    let files = rust_files()?;
    let modules: BTreeMap<Module, &SourceFile> = files
        .iter()
        .filter_map(|file| Some((module(&file.path)?, file)))
        .collect();
    let arrows: BTreeMap<&Module, BTreeSet<&Module>> = modules
        .iter()
        .map(|(module, file)| (module, known_by(module, file, &modules)))
        .collect();
    let cycles: BTreeSet<Vec<&str>> = cycles(&arrows)
        .iter()
        .map(|cycle| {
            cycle
                .iter()
                .map(|module| modules[module].path.as_str())
                .collect()
        })
        .collect();
    assert!(cycles.is_empty(), "files that know each other: {cycles:#?}");
    Ok(())
}

/// The module that a file of the product is.
fn module(path: &str) -> Option<Module> {
    let (package, rest) = path.split_once("/src/")?;
    // Each program is a crate of its own.
    let (package, rest) = match rest
        .strip_prefix("bin/")
        .and_then(|rest| rest.split_once('/'))
    {
        Some((program, rest)) => (format!("{package}/src/bin/{program}"), rest),
        None => (package.to_owned(), rest),
    };
    let mut names: Vec<String> = rest
        .strip_suffix(".rs")?
        .split('/')
        .map(str::to_owned)
        .collect();
    let is_folder = |name: &mut String| ["mod", "lib", "main"].contains(&name.as_str());
    names.pop_if(is_folder);
    let is_test = names
        .last()
        .is_some_and(|name| name == "tests" || name.ends_with("_test"));
    (!is_test).then_some((package, names))
}

/// The modules that `file` names, but for those that it is one thing with.
fn known_by<'a>(
    own: &Module,
    file: &SourceFile,
    modules: &'a BTreeMap<Module, &SourceFile>,
) -> BTreeSet<&'a Module> {
    let code: String = product_lines(file)
        .map(|(_, line)| line.code().to_owned() + "\n")
        .collect();
    let resolve = |path: Vec<String>| {
        let mut path = (own.0.clone(), absolute(&own.1, path)?);
        // The longest part that is a file; what follows is a name in it.
        while !modules.contains_key(&path) {
            path.1.pop()?;
        }
        modules.get_key_value(&path).map(|(module, _)| module)
    };
    let is_one_thing = |other: &Module| own.1.starts_with(&other.1) || other.1.starts_with(&own.1);
    paths(&code)
        .into_iter()
        .filter_map(resolve)
        .filter(|other| !is_one_thing(other))
        .collect()
}

/// `path`, which begins with `crate`, `super` or `self`, from the top of the crate.
fn absolute(own: &[String], path: Vec<String>) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for (at, name) in path.into_iter().enumerate() {
        match name.as_str() {
            "crate" => {}
            "self" if at == 0 => names = own.to_vec(),
            "super" => {
                if at == 0 {
                    names = own.to_vec();
                }
                names.pop()?;
            }
            "self" => {}
            _ => names.push(name),
        }
    }
    Some(names)
}

/// All paths in `code` that begin with `crate::`, `super::` or `self::`; a group is every path in it.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            tree(&code[at..], &[], &mut found);
        }
    }
    found
}

/// Reads the path or the group at the start of `code`, below `above`, and gives what follows it.
fn tree<'a>(code: &'a str, above: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let mut path = above.to_vec();
    let mut rest = code.trim_start();
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            rest = group.trim_start();
            while !rest.starts_with('}') && !rest.is_empty() {
                let next = tree(rest, &path, found).trim_start();
                let next = next.strip_prefix(',').unwrap_or(next).trim_start();
                // Something that is no path: not a group of names.
                if next.len() == rest.len() {
                    return next;
                }
                rest = next;
            }
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        if end > 0 {
            path.push(rest[..end].to_owned());
        }
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(next) => rest = next,
            None => break,
        }
    }
    found.push(path);
    // `as another_name`
    let Some(renamed) = rest.strip_prefix(" as ") else {
        return rest;
    };
    renamed.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
}

/// Groups of modules that all know each other, through however many.
fn cycles<'a>(arrows: &BTreeMap<&'a Module, BTreeSet<&'a Module>>) -> Vec<BTreeSet<&'a Module>> {
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = arrows
        .keys()
        .map(|module| (*module, reach(module, arrows)))
        .collect();
    let mut found: Vec<BTreeSet<&Module>> = Vec::new();
    for (module, reached_by_it) in &reached {
        let others = reached_by_it
            .iter()
            .filter(|other| reached[*other].contains(module));
        let cycle: BTreeSet<&Module> = others.copied().collect();
        if !cycle.is_empty() && !found.contains(&cycle) {
            found.push(cycle);
        }
    }
    found
}

/// What `start` knows, through however many; itself, if it is in a cycle.
fn reach<'a>(
    start: &'a Module,
    arrows: &BTreeMap<&'a Module, BTreeSet<&'a Module>>,
) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&Module> = vec![start];
    while let Some(next) = open.pop() {
        let known = arrows.get(next).into_iter().flatten();
        open.extend(known.filter(|module| reached.insert(**module)));
    }
    reached
}

#[test]
fn paths_are_read_as_rust_reads_them() {
    let code = "use crate::a::{b::C, d::{self, E as F}, g};\nlet x = super::h::i(self::j::K); my_crate::l::m()";
    let own = ["o".to_owned(), "p".to_owned()];
    let read: Vec<String> = paths(code)
        .into_iter()
        .filter_map(|path| Some(absolute(&own, path)?.join("::")))
        .collect();
    assert_eq!(
        read,
        [
            "a::b::C",
            "a::d",
            "a::d::E",
            "a::g",
            "o::h::i",
            "o::p::j::K"
        ]
    );
}

#[test]
fn a_cycle_of_three_is_found_and_a_chain_is_not() {
    let module = |name: &str| ("x".to_owned(), vec![name.to_owned()]);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(module);
    let arrows = BTreeMap::from([
        (&a, BTreeSet::from([&b])),
        (&b, BTreeSet::from([&c, &d])),
        (&c, BTreeSet::from([&a])),
        (&d, BTreeSet::new()),
    ]);
    assert_eq!(cycles(&arrows), [BTreeSet::from([&a, &b, &c])]);
}
