//! Each rule of the floors, broken once in a tree of a few lines.

use super::*;

const LIB: &str = r#"
    mod agent;
    mod api;
    mod mcp;
    #[cfg(any(test, feature = "testing"))]
    pub mod testing;
    mod wire;
    pub use api::limits::Limits;
"#;
const FLOORS: &str = "api  requests\nagent · mcp  turns · tools\nwire   formats\n";

/// A core in which `agent/run.rs` says `run`.
fn core(run: &str) -> Files {
    let files = [
        ("lib.rs", LIB),
        ("agent.rs", "mod run; #[cfg(test)] mod tests;"),
        ("agent/run.rs", run),
        ("agent/tests.rs", "use crate::api::Limits;"),
        ("api.rs", "mod limits; use crate::agent::run;"),
        ("api/limits.rs", ""),
        ("mcp.rs", ""),
        ("wire.rs", ""),
    ];
    files.map(|(file, text)| (file.to_owned(), text.to_owned())).into()
}

fn document(floors: &str, exceptions: &str) -> String {
    format!(
        "# A\n\n## Floors\n\n```floors\n{floors}```\n\n```exceptions\n{exceptions}```\n\n## Z\n\n```floors\n```\n"
    )
}

/// Inspects `agent/run.rs`; `expected` are its lines, the imported files, and how these lie.
fn check(run: &str, expected: &[(usize, &str, &str)]) {
    let report = inspect(&core(run), &document(FLOORS, "")).unwrap();
    let expected = expected.iter().map(|(line, to, place)| {
        format!(
            "shared/src/agent/run.rs:{line} imports shared/src/{to}: {place} agent (ARCHITECTURE.md, Floors)"
        )
    });
    assert_eq!(report.violations, expected.collect::<Vec<_>>(), "{run}");
}

#[test]
fn uses() {
    check("use crate::wire::Format; use super::Turn; use std::fmt; use api::X;", &[]);
    check("use crate::api::limits::Limits;", &[(1, "api/limits.rs", "api is above")]);
    check("\npub use crate::mcp::Server as Remote;", &[(2, "mcp.rs", "mcp is beside")]);
    check(
        "use crate::{\n    wire::{self, Format},\n    api::{self, limits::{self, *}},\n    mcp as tools,\n};",
        &[
            (3, "api.rs", "api is above"),
            (3, "api/limits.rs", "api is above"),
            (4, "mcp.rs", "mcp is beside"),
        ],
    );
    check("use super::super::api::Route;", &[(1, "api.rs", "api is above")]);
    check("mod inner { use super::super::super::api::*; }", &[(1, "api.rs", "api is above")]);
    check("use self::super::super::mcp;", &[(1, "mcp.rs", "mcp is beside")]);
}

#[test]
fn names_of_the_root_are_above_all() {
    check("use crate::Limits;", &[(1, "lib.rs", "lib is above")]);
    check("use super::super::*;", &[(1, "lib.rs", "lib is above")]);
}

#[test]
fn paths() {
    check("pub(crate) fn f(x: u8) -> u8 { crate::wire::g(self::h(x)) }", &[]);
    check("fn f() {\n    crate::api::limits::check()\n}", &[(2, "api/limits.rs", "api is above")]);
    check("fn f(x: Option<super::super::mcp::X>) {}", &[(1, "mcp.rs", "mcp is beside")]);
    check("impl From<<crate::api::X as Y>::Z> for W {}", &[(1, "api.rs", "api is above")]);
    check("struct S { pub(in crate::agent) x: crate::api::X }", &[(1, "api.rs", "api is above")]);
    check("/// Like [`crate::api::X`].\nfn f() {}", &[]);
}

#[test]
fn tokens() {
    check("fn f() { m!(crate::wire::X, pub(crate) x: u8, a::crate_::api); }", &[]);
    check("fn f() {\n m!(x,\n { y: crate::api::X });\n}", &[(3, "api.rs", "api is above")]);
    check(
        "macro_rules! m { () => { $crate::mcp::f(super::super::api::g) } }",
        &[(1, "api.rs", "api is above"), (1, "mcp.rs", "mcp is beside")],
    );
    check("#[derive(crate::api::X)] struct S;", &[(1, "api.rs", "api is above")]);
}

#[test]
fn test_code_is_free() {
    check("#[cfg(test)] use crate::api::X; #[cfg(test)] mod tests { use crate::api::X; }", &[]);
    check(r#"impl S { #[cfg(any(test, feature = "testing"))] fn f(x: crate::api::X) {} }"#, &[]);
    check("#[cfg(not(test))] use crate::api::X;", &[(1, "api.rs", "api is above")]);
}

/// Inspects a core whose only import upwards is of `api/limits.rs` by `agent/run.rs`.
fn check_list(floors: &str, exceptions: &str, expected: &[&str]) {
    let report = inspect(&core("use crate::api::limits;"), &document(floors, exceptions));
    let found = report.map_or_else(|error| vec![error.to_string()], |report| report.violations);
    let found = found.iter().map(|line| line.trim_end_matches(" (ARCHITECTURE.md, Floors)"));
    assert_eq!(found.collect::<Vec<_>>(), expected, "{floors}{exceptions}");
}

#[test]
fn exceptions_are_used_and_have_a_reason() {
    let import = "shared/src/agent/run.rs:1 imports shared/src/api/limits.rs: api is above agent";
    for exception in ["agent/run.rs -> api/limits.rs", "agent -> api", "agent -> api/limits.rs"] {
        check_list(FLOORS, &format!("{exception}  limits move down\n"), &[]);
    }
    for exception in ["agent.rs -> api", "agent -> api.rs", "api -> agent", "agent/run.rs -> limits"] {
        let unused = format!("no import needs the exception `{exception}`: remove it");
        check_list(FLOORS, &format!("{exception}  limits move down\n"), &[import, &unused]);
    }
    let malformed = "ARCHITECTURE.md, Floors: `agent -> api` needs two spaces and a phrase behind them";
    check_list(FLOORS, "agent -> api\n", &[malformed]);
    let malformed = "ARCHITECTURE.md, Floors: `agent api  x` is not `FROM -> TO  reason`";
    check_list(FLOORS, "agent api  x\n", &[malformed]);
}

#[test]
fn each_module_is_on_one_floor() {
    let excepted = "agent -> api  limits move down\n";
    let floors = |floor: &str| format!("api  requests\nagent · mcp  turns\n{floor}\n");
    check_list(&floors("wire  formats"), excepted, &[]);
    check_list(
        &floors("wire · log  formats"),
        excepted,
        &["log is on a floor, but is no module of shared/src/lib.rs"],
    );
    check_list(&floors("wire · mcp  formats"), excepted, &["mcp is on more than one floor"]);
    check_list("api  requests\nagent · wire  turns\n", excepted, &["shared/src/mcp.rs is on no floor"]);
    let malformed = "ARCHITECTURE.md, Floors: `wire formats` needs two spaces and a phrase behind them";
    check_list(&floors("wire formats"), excepted, &[malformed]);
}

#[test]
fn a_report_counts_imports_and_mutual_pairs() {
    let exceptions = "agent -> api  limits move down\n";
    let run = "use crate::{api::limits, wire::{A, B}};\nuse crate::wire::C;";
    assert_eq!(
        inspect(&core(run), &document(FLOORS, exceptions)).unwrap(),
        Report { violations: Vec::new(), imports: 4, mutual_pairs: 1 }
    );
}

#[test]
fn the_list_is_in_its_section() {
    let elsewhere = document(FLOORS, "").replace("## Floors\n", "## Floors\n\n## Limits\n");
    let error = inspect(&core(""), &elsewhere).unwrap_err();
    assert_eq!(error.to_string(), "ARCHITECTURE.md has no block ```floors in a section Floors");
}

#[test]
fn a_module_without_a_file_is_an_error() {
    let mut files = core("");
    files.remove("wire.rs");
    assert_eq!(
        inspect(&files, &document(FLOORS, "")).unwrap_err().to_string(),
        "there is no shared/src/wire.rs"
    );
}
