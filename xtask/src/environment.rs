//! The environment variables that a node gets: those that its configuration names, and no other of
//! this machine's secrets.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What any program needs to run at all.
const BASICS: [&str; 10] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "RUST_BACKTRACE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Says which node this is, to every configuration.
const NODE: &str = "OUTLIVE_NODE";
/// What a configuration without a provider looks for by itself.
const VENDOR_KEYS: [&str; 1] = ["OPENAI_API_KEY"];

/// The variables that a configuration names, as far as they are set.
pub(crate) struct Environment {
    named: BTreeMap<String, String>,
}

impl Environment {
    /// Reads the names from each `{ env = "NAME" }` of a configuration file.
    pub(crate) fn named_in(config: &Path) -> Result<Self> {
        let text = fs::read_to_string(config).with_context(|| format!("cannot read {}", config.display()))?;
        let table: toml::Table = text.parse().with_context(|| format!("{} is not TOML", config.display()))?;
        let named =
            names(&table).into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
        Ok(Self { named: named.collect() })
    }

    /// Gives a program these variables and the basics, and nothing else.
    pub(crate) fn apply(&self, command: &mut Command) {
        isolate(command);
        command.envs(&self.named);
    }

    /// The variables in the syntax of a `.dev.vars` file, which knows no escapes: a value stands in quotes that it lacks.
    pub(crate) fn dev_vars(&self) -> Result<String> {
        let mut text = String::new();
        for (name, value) in &self.named {
            let Some(quote) = ['\'', '`', '"'].into_iter().find(|quote| !value.contains(*quote)) else {
                bail!(
                    "the value of {name} contains all three kinds of quotes, which .dev.vars cannot express"
                );
            };
            text += &format!("{name}={quote}{value}{quote}\n");
        }
        Ok(text)
    }
}

/// Takes everything but the basics out of a program's environment.
pub(crate) fn isolate(command: &mut Command) {
    command.env_clear().envs(BASICS.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
}

/// The names of all variables that a node with this configuration may read.
fn names(configuration: &toml::Table) -> Vec<&str> {
    let mut names = vec![NODE];
    configuration.values().for_each(|value| collect(value, &mut names));
    if !configuration.contains_key("provider") {
        names.extend(VENDOR_KEYS);
    }
    names
}

/// The names in all `{ env = "NAME" }` within a value.
fn collect<'a>(value: &'a toml::Value, names: &mut Vec<&'a str>) {
    match value {
        toml::Value::Table(table) => match table.get("env") {
            Some(toml::Value::String(name)) if table.len() == 1 => names.push(name),
            _ => table.values().for_each(|value| collect(value, names)),
        },
        toml::Value::Array(values) => values.iter().for_each(|value| collect(value, names)),
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_at_every_depth() {
        let check = |text: &str, expected: &[&str]| {
            let configuration = text.parse().unwrap();
            let mut names = names(&configuration);
            names.sort_unstable();
            assert_eq!(names, expected);
        };
        let text = r#"
            secret = { env = "A" }
            [[provider]]
            api_key = { env = "B" }
            headers = [{ name = "x", value = { env = "C" } }]
            [other]
            env = "not a reference"
            more = 1
        "#;
        check(text, &["A", "B", "C", "OUTLIVE_NODE"]);
        check("[agent]", &["OPENAI_API_KEY", "OUTLIVE_NODE"]);
    }

    #[test]
    fn a_value_stands_in_quotes_that_it_lacks() {
        let check = |value: &str, expected: Option<&str>| {
            let environment = Environment { named: BTreeMap::from([("K".to_owned(), value.to_owned())]) };
            assert_eq!(environment.dev_vars().ok().as_deref(), expected);
        };
        check("plain $HOME", Some("K='plain $HOME'\n"));
        check("it's", Some("K=`it's`\n"));
        check("it's `so`", Some("K=\"it's `so`\"\n"));
        check("'`\"", None);
    }
}
