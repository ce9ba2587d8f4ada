//! Runs `outlive key`: makes keys for callers. Stores nothing; the operator pastes the table into `agent.toml`.

use clap::{Args, Subcommand};
use outlive::{
    config::{Key, NAME_RULE, is_name},
    hex::hex,
};

/// Make keys for callers.
#[derive(Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a random key. Shows it once on stderr; stdout gets the [[key]] table for agent.toml.
    New {
        /// The caller's name, which is also the owner of what the caller creates.
        #[arg(long, default_value = "me", value_parser = parse_name)]
        name: String,
    },
}

/// Begins every key: secret scanners look for it, and some clients of OpenAI refuse a key without `sk-`.
const PREFIX: &str = "sk-outlive-";

impl Keys {
    pub(crate) fn run(self) -> Result<(), String> {
        let Command::New { name } = self.command;
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| format!("no random numbers: {error}"))?;
        let key = format!("{PREFIX}{}", hex(&bytes));
        eprintln!(
            "The key of {name}, which is shown only now. Clients send it as 'authorization: Bearer KEY':\n"
        );
        eprintln!("  export OUTLIVE_KEY={key}\n");
        eprintln!("This table belongs into agent.toml; start the node again after that:\n");
        // After an empty line, since the file it is appended to may lack a last line break.
        print!("\n{}", table(&name, &key));
        Ok(())
    }
}

/// The `[[key]]` table of a key. It holds the digest only.
fn table(name: &str, key: &str) -> String {
    format!(
        "[[key]]\nname = \"{name}\"\nsha256 = \"{}\"\n\
         scopes = [\"inference\", \"admin\"]  # without \"admin\": no sessions of others, no status, no metrics\n",
        hex(&Key::digest(key))
    )
}

fn parse_name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.to_owned()) } else { Err(format!("allowed: {NAME_RULE}")) }
}

#[cfg(test)]
mod tests {
    use outlive::{Config, config::Scope};

    use super::*;

    #[test]
    fn the_table_is_read_as_the_key_that_was_shown() {
        let text = table("me", "sk-outlive-1");
        assert!(!text.contains("sk-outlive-1"));
        let config = Config::parse(&text, "agent.toml", |_| None).unwrap();
        assert_eq!(config.keys[0].sha256, Key::digest("sk-outlive-1"));
        assert_eq!(config.keys[0].scopes, [Scope::Inference, Scope::Admin]);
        assert!(parse_name("a b").is_err());
    }
}
