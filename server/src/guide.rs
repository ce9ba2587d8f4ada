//! Writes what an operator can do next, for the terminal on which a node was started. Prints nothing itself.

use outlive::Config;
use serde_json::json;

/// Where the console of the node at `url` is, and a first request that works as it stands.
pub fn first_steps(config: &Config, url: &str) -> String {
    let body = json!({
        "model": config.agent.model,
        "stream": true,
        "messages": [{"role": "user", "content": "Are you there?"}],
    });
    let (key, note) = match config.keys.as_slice() {
        [] => ("", ""),
        _ => (
            " \\\n    -H \"authorization: Bearer $OUTLIVE_KEY\"",
            " (with a key of a [[key]] in OUTLIVE_KEY)",
        ),
    };
    let chat = if url == DEFAULT_URL { String::new() } else { format!(" --url {url}") };
    format!(
        "console  {url}/console\n\
         chat     outlive chat{chat}{note}\n\
         request  curl -N {url}/v1/chat/completions -H 'content-type: application/json'{key} \\\n    -d {}",
        quoted(&body.to_string())
    )
}

/// The node to which the client commands send by default.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// `text` as one word of a shell. A model's name may hold a quote.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_carries_a_key_only_where_one_is_needed() {
        let steps = |text: &str| first_steps(&Config::parse(text, "f", |_| None).unwrap(), DEFAULT_URL);
        let open = steps("");
        assert!(open.contains("http://127.0.0.1:8080/console\n"), "{open}");
        assert!(
            open.contains(r#"-d '{"model":"default","stream":true,"#) && !open.contains("OUTLIVE_KEY"),
            "{open}"
        );
        let key =
            format!("[[key]]\nname = \"me\"\nscopes = [\"inference\"]\nsha256 = \"{}\"", "0".repeat(64));
        assert!(steps(&key).contains(r#"-H "authorization: Bearer $OUTLIVE_KEY""#));
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
