//! Reads lists of a node page by page, and sends exported entries to a node in batches. Verifies nothing.

use serde_json::Value;

use super::super::client::{ApiRequest, Client};

/// Largest request of an import: below the 6 MB of a Lambda function. A larger entry gets a request of its own.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// Most entries in a request of an import: the bound of the node.
const MAX_REQUEST_ENTRIES: usize = 100;

/// A list that a node returns in pages.
pub(super) struct PagedList {
    path: String,
    /// Path of the next page; `None` after the last.
    next_path: Option<String>,
}

impl PagedList {
    pub(super) fn new(path: String) -> Self {
        Self { next_path: Some(format!("{path}?limit=100")), path }
    }

    /// The next page, which may be empty before the end; `None` after the last page.
    pub(super) async fn next(&mut self, client: &Client) -> Result<Option<Vec<Value>>, String> {
        let Some(path) = self.next_path.take() else { return Ok(None) };
        let mut page =
            client.send_with_retries(&ApiRequest::get(path)).await.map_err(|error| error.to_string())?;
        let after = page.get("next").and_then(Value::as_str);
        self.next_path = after.map(|after| format!("{}?limit=100&after={after}", self.path));
        match page.get_mut("data").map(Value::take) {
            Some(Value::Array(data)) => Ok(Some(data)),
            _ => Err("the node's answer is not a list".into()),
        }
    }
}

/// How many entries an import has sent.
#[derive(Default)]
pub(super) struct ImportCounts {
    /// Entries that were new to the node.
    pub(super) imported: u64,
    /// Entries that the node already had.
    pub(super) known: u64,
}

/// Sends entries, one on each line, each to the session that it names.
pub(super) async fn import(
    client: &Client,
    lines: impl Iterator<Item = Result<String, String>>,
) -> Result<ImportCounts, String> {
    let mut import = Import {
        client,
        log_id: String::new(),
        lines: Vec::new(),
        bytes: 0,
        counts: ImportCounts::default(),
    };
    for line in lines {
        import.push(line?).await?;
    }
    import.flush().await?;
    Ok(import.counts)
}

/// Collects the entries of one log until a request is full.
struct Import<'a> {
    client: &'a Client,
    log_id: String,
    lines: Vec<String>,
    bytes: usize,
    counts: ImportCounts,
}

impl Import<'_> {
    async fn push(&mut self, line: String) -> Result<(), String> {
        let entry: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        let log_id = entry.get("log").and_then(Value::as_str).unwrap_or_default();
        let is_full = self.lines.len() >= MAX_REQUEST_ENTRIES || self.bytes + line.len() > MAX_REQUEST_BYTES;
        if is_full || log_id != self.log_id {
            self.flush().await?;
            log_id.clone_into(&mut self.log_id);
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
        let request = ApiRequest::post(format!("/v1/sessions/sess_{}/entries", self.log_id), body);
        // Retries are safe without a key: an entry that is already in the log is not appended again.
        let response = self.client.send_with_retries(&request).await.map_err(|error| error.to_string())?;
        let count = |name: &str| response.get(name).and_then(Value::as_u64).unwrap_or_default();
        self.counts.imported += count("appended");
        self.counts.known += count("known");
        Ok(())
    }
}
