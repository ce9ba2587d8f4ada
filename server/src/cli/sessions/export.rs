use serde_json::Value;

use super::super::client::{Call, Client};

/// Largest request of an import: below the 6 MB of a Lambda function. One entry that is larger goes alone.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Most entries in one.
const MAX_ENTRIES: usize = 100;

/// A list, page by page.
pub(super) struct Pages {
    path: String,
    /// Where the next page begins; `None` after the last.
    next: Option<String>,
}

impl Pages {
    pub(super) fn new(path: String) -> Self {
        Self { next: Some(format!("{path}?limit=100")), path }
    }

    /// The next page. It may be empty, though more follows.
    pub(super) async fn next(&mut self, client: &Client) -> Result<Option<Vec<Value>>, String> {
        let Some(path) = self.next.take() else { return Ok(None) };
        let mut page = client.ask(&Call::get(path)).await.map_err(|error| error.to_string())?;
        let after = page.get("next").and_then(Value::as_str);
        self.next = after.map(|after| format!("{}?limit=100&after={after}", self.path));
        match page.get_mut("data").map(Value::take) {
            Some(Value::Array(data)) => Ok(Some(data)),
            _ => Err("the node's answer is no list".into()),
        }
    }
}

/// Sends lines, which are entries, to the session of each. Gives how many were new, and how many not.
pub(super) async fn import(
    client: &Client,
    lines: impl Iterator<Item = Result<String, String>>,
) -> Result<(u64, u64), String> {
    let mut import = Import { client, log: String::new(), lines: Vec::new(), bytes: 0, counts: (0, 0) };
    for line in lines {
        import.push(line?).await?;
    }
    import.flush().await?;
    Ok(import.counts)
}

struct Import<'a> {
    client: &'a Client,
    /// Whose entries the lines are.
    log: String,
    lines: Vec<String>,
    bytes: usize,
    counts: (u64, u64),
}

impl Import<'_> {
    async fn push(&mut self, line: String) -> Result<(), String> {
        let entry: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        let log = entry.get("log").and_then(Value::as_str).unwrap_or_default();
        let full = self.lines.len() >= MAX_ENTRIES || self.bytes + line.len() > MAX_BYTES;
        if full || log != self.log {
            self.flush().await?;
            log.clone_into(&mut self.log);
        }
        self.bytes += line.len();
        self.lines.push(line);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), String> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let body = format!("{{\"data\":[{}]}}", std::mem::take(&mut self.lines).join(","));
        self.bytes = 0;
        let call = Call::post(format!("/v1/sessions/sess_{}/entries", self.log), body);
        let done = self.client.ask(&call).await.map_err(|error| error.to_string())?;
        let count = |name: &str| done.get(name).and_then(Value::as_u64).unwrap_or_default();
        self.counts = (self.counts.0 + count("appended"), self.counts.1 + count("known"));
        Ok(())
    }
}
