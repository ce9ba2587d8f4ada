//! Selects the environment variables of a node: those that its configuration names, so that no other secret of this
//! machine reaches it. Reads nothing else of the configuration.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Variables that every program gets.
const BASE_VARIABLES: [&str; 10] = [
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

/// The variable with the node's name, which every configuration may read.
const NODE_VARIABLE: &str = "OUTLIVE_NODE";
/// The variables that a configuration without a provider reads.
const VENDOR_VARIABLES: [&str; 1] = ["OPENAI_API_KEY"];

/// The variables that a configuration names and that are set here.
pub(crate) struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// Takes the variable of each `{ env = "NAME" }` in a configuration file.
    pub(crate) fn from_config(config: &Path) -> Result<Self> {
        let text = fs::read_to_string(config).with_context(|| format!("cannot read {}", config.display()))?;
        let table: toml::Table = text.parse().with_context(|| format!("{} is not TOML", config.display()))?;
        let names = variable_names(&table).into_iter();
        let variables = names.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
        Ok(Self { variables: variables.collect() })
    }

    /// Sets a program's environment to these variables and the base variables, and nothing else.
    pub(crate) fn apply(&self, command: &mut Command) {
        isolate(command);
        command.envs(&self.variables);
    }

    /// The variables in the syntax of a `.dev.vars` file. It has no escapes, so a value is quoted with a quote that
    /// it does not contain.
    pub(crate) fn dev_vars(&self) -> Result<String> {
        let mut text = String::new();
        for (name, value) in &self.variables {
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

/// Sets a program's environment to the base variables only.
pub(crate) fn isolate(command: &mut Command) {
    command
        .env_clear()
        .envs(BASE_VARIABLES.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
}

/// The names of all variables that a node with this configuration may read.
fn variable_names(configuration: &toml::Table) -> Vec<&str> {
    let mut names = vec![NODE_VARIABLE];
    configuration.values().for_each(|value| collect_names(value, &mut names));
    if !configuration.contains_key("provider") {
        names.extend(VENDOR_VARIABLES);
    }
    names
}

/// Collects the names in all `{ env = "NAME" }` within a value.
fn collect_names<'a>(value: &'a toml::Value, names: &mut Vec<&'a str>) {
    match value {
        toml::Value::Table(table) => match table.get("env") {
            Some(toml::Value::String(name)) if table.len() == 1 => names.push(name),
            _ => table.values().for_each(|value| collect_names(value, names)),
        },
        toml::Value::Array(values) => values.iter().for_each(|value| collect_names(value, names)),
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
            let mut names = variable_names(&configuration);
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
    fn a_value_is_quoted_with_a_quote_that_it_does_not_contain() {
        let check = |value: &str, expected: Option<&str>| {
            let environment = Environment { variables: BTreeMap::from([("K".to_owned(), value.to_owned())]) };
            assert_eq!(environment.dev_vars().ok().as_deref(), expected);
        };
        check("plain $HOME", Some("K='plain $HOME'\n"));
        check("it's", Some("K=`it's`\n"));
        check("it's `so`", Some("K=\"it's `so`\"\n"));
        check("'`\"", None);
    }
}
