//! Holds the floors of the core: a module of `shared/src` imports only from modules on lower floors.
//!
//! ARCHITECTURE.md, section "Floors", lists the floors and the exceptions. The check reads imports (`imports.rs`) and
//! judges them; it does not look at test code, at `testing`, or at what `lib.rs` itself imports.

mod imports;
#[cfg(test)]
mod tests;

use crate::workspace::root;
use anyhow::{Context, Result, bail, ensure};
use imports::{Core, Import, top_module};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The files of the core, by their paths below `shared/src`.
type Files = BTreeMap<String, String>;

/// Checks the working tree, and prints how entangled the modules are if it passes.
pub(crate) fn check() -> Result<()> {
    let mut files = Files::new();
    read(&root().join("shared/src"), "", &mut files)?;
    let document =
        fs::read_to_string(root().join("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let report = inspect(&files, &document)?;
    if !report.violations.is_empty() {
        bail!("{} violations:\n{}", report.violations.len(), report.violations.join("\n"));
    }
    eprintln!(
        "check: floors: {} imports between modules, {} mutual pairs",
        report.imports, report.mutual_pairs
    );
    Ok(())
}

/// What an inspection finds.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    /// Errors of the list, then imports in the order of files and lines, then unused exceptions.
    violations: Vec<String>,
    /// How many lines import from another top module.
    imports: usize,
    /// How many pairs of top modules import from each other.
    mutual_pairs: usize,
}

/// Compares the imports of `files` with the floors in `document`.
///
/// # Errors
/// A block or a line of `document` that is malformed, and a file that is missing or is not Rust.
fn inspect(files: &Files, document: &str) -> Result<Report> {
    let core = Core::read(files)?;
    let exceptions = exceptions(document)?;
    let mut violations = Vec::new();

    // The root of the crate may import every module, and no module may import from it.
    let mut floor_of = BTreeMap::from([("lib", 0)]);
    for (module, floor) in floors(document)? {
        if !core.modules.contains(module) {
            violations.push(format!("{module} is on a floor, but is no module of shared/src/lib.rs"));
        }
        if floor_of.insert(module, floor).is_some() {
            violations.push(format!("{module} is on more than one floor"));
        }
    }
    let missing = core.modules.iter().filter(|module| !floor_of.contains_key(module.as_str()));
    violations.extend(missing.map(|module| format!("shared/src/{module}.rs is on no floor")));

    let mut edges = BTreeSet::new();
    let mut used = BTreeSet::new();
    for import in &core.imports {
        let (from, to) = (top_module(&import.from), top_module(&import.to));
        edges.insert((from, to));
        // A module on no floor is reported above, once.
        let (Some(own), Some(other)) = (floor_of.get(from), floor_of.get(to)) else { continue };
        let place = match other.cmp(own) {
            Ordering::Less => "above",
            Ordering::Equal => "beside",
            Ordering::Greater => continue,
        };
        match exceptions.iter().position(|exception| exception.covers(import)) {
            Some(index) => drop(used.insert(index)),
            None => violations.push(format!("{import}: {to} is {place} {from}")),
        }
    }

    let unused = exceptions.iter().enumerate().filter(|(index, _)| !used.contains(index));
    violations.extend(unused.map(|(_, Exception { from, to })| {
        format!("no import needs the exception `{from} -> {to}`: remove it")
    }));
    for violation in &mut violations {
        violation.push_str(" (ARCHITECTURE.md, Floors)");
    }
    let mutual_pairs = edges.iter().filter(|(from, to)| from < to && edges.contains(&(*to, *from))).count();
    Ok(Report { violations, imports: core.imports.len(), mutual_pairs })
}

/// An import that may go up or sideways. Each end is a file or a top module.
struct Exception<'a> {
    from: &'a str,
    to: &'a str,
}

impl Exception<'_> {
    fn covers(&self, import: &Import) -> bool {
        let is = |end: &str, file: &str| end == file || end == top_module(file);
        is(self.from, &import.from) && is(self.to, &import.to)
    }
}

/// The modules of the list with the numbers of their floors, from 1 at the top.
fn floors(document: &str) -> Result<Vec<(&str, usize)>> {
    let block =
        block(document, "floors").context("ARCHITECTURE.md has no block ```floors in a section Floors")?;
    let mut floors = Vec::new();
    for (line, floor) in block.lines().zip(1..) {
        let (modules, _role) = phrase(line)?;
        floors.extend(modules.split(" · ").map(|module| (module, floor)));
    }
    Ok(floors)
}

/// The lines of the block of exceptions, which is absent if there are none.
fn exceptions(document: &str) -> Result<Vec<Exception<'_>>> {
    let lines = block(document, "exceptions").unwrap_or_default().lines();
    lines
        .map(|line| {
            let (ends, _reason) = phrase(line)?;
            let (from, to) = ends
                .split_once(" -> ")
                .with_context(|| format!("ARCHITECTURE.md, Floors: `{line}` is not `FROM -> TO  reason`"))?;
            Ok(Exception { from, to })
        })
        .collect()
}

/// A line's code and its phrase, which two spaces or more separate.
fn phrase(line: &str) -> Result<(&str, &str)> {
    let (code, phrase) = line.split_once("  ").unwrap_or((line, ""));
    ensure!(
        !code.is_empty() && !phrase.trim().is_empty(),
        "ARCHITECTURE.md, Floors: `{line}` needs two spaces and a phrase behind them"
    );
    Ok((code, phrase.trim()))
}

/// The fenced block `name` in the section "Floors".
fn block<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, section) = document.split_once("\n## Floors\n")?;
    let section = section.split("\n## ").next()?;
    let (_, block) = section.split_once(&format!("\n```{name}\n"))?;
    Some(block.split_once("```")?.0)
}

/// Reads the Rust files of `directory` into `files`, by paths that begin with `prefix`.
fn read(directory: &Path, prefix: &str, files: &mut Files) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().display());
        if path.is_dir() {
            read(&path, &format!("{name}/"), files)?;
        } else if name.ends_with(".rs") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.insert(name, text);
        }
    }
    Ok(())
}
