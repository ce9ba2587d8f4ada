//! Agrees with one server on a revision of MCP, lists its functions, calls them, and says whether a failed call may
//! have run. Leaves connections and messages to `exchange.rs` and `message.rs`.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use futures_util::lock::Mutex;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    Endpoint, MAX_ANSWER_BYTES, MODERN, McpError, McpFunction, ToolOutput, WITH_SESSIONS,
    exchange::{CallDeadlines, Exchange, ExchangeError, Protocol, RpcRequest, SESSION},
    function::{self, FunctionPage},
    message::{self, RpcError},
    output,
};
use crate::{deadlines::Deadlines, platform::Platform};

/// A session with one server. It opens at its first use and serves concurrent calls.
pub struct McpSession<'a, P> {
    platform: &'a P,
    endpoint: Endpoint,
    last_id: Cell<u64>,
    /// The revision and session that both sides agreed on; `None` until then, and after the server forgot the session.
    protocol: RefCell<Option<Protocol>>,
    /// Held during the negotiation, so that concurrent calls share one session.
    negotiating: Mutex<()>,
}

/// Most functions of one server: a model reads all of them with every request.
const MAX_FUNCTIONS: usize = 128;

/// Most pages of one list: with 128 functions that is 8 a page.
const MAX_PAGES: usize = 16;

/// How long a server may take to answer in the newest revision, and at most half of the call's time: enough for a cold
/// start.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a cancellation or the end of a session may take. Nothing depends on the answer.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest session id that is accepted: the client sends it with every request, and servers bound the size of headers.
const MAX_SESSION_BYTES: usize = 1024;

const FUNCTION_NAME: HeaderName = HeaderName::from_static("mcp-name");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl<'a, P: Platform> McpSession<'a, P> {
    /// A session with the server at `endpoint`. Nothing is sent yet.
    pub fn new(platform: &'a P, mut endpoint: Endpoint) -> Self {
        endpoint.headers.iter_mut().for_each(|(_, value)| value.set_sensitive(true));
        let (last_id, protocol, negotiating) = (Cell::default(), RefCell::default(), Mutex::default());
        Self { platform, endpoint, last_id, protocol, negotiating }
    }

    /// Lists all functions of the server in its order; of functions with equal names only the first. More than 128 are
    /// an error, since a function that is left out would seem not to exist.
    ///
    /// Listing has no side effect, so an error is never [`McpError::Unknown`].
    pub async fn list(&self) -> Result<Vec<McpFunction>, McpError> {
        let mut deadlines = Deadlines::new(self.platform, self.endpoint.timeouts.call);
        let mut functions: Vec<McpFunction> = Vec::new();
        let (mut entries, mut bytes, mut cursor) = (0, 0, None);
        for _ in 0..MAX_PAGES {
            let page = self.page(cursor.take(), &mut deadlines).await?;
            // Unusable functions count as well: otherwise a server could keep the client reading page after page.
            entries += page.entries;
            bytes += page.functions.iter().map(McpFunction::bytes).sum::<usize>();
            if bytes > MAX_ANSWER_BYTES {
                return Err(
                    self.not_sent(&format!("describes its functions in more than {MAX_ANSWER_BYTES} bytes"))
                );
            }
            if entries > MAX_FUNCTIONS {
                return Err(self.not_sent(&format!("has more than {MAX_FUNCTIONS} functions")));
            }
            for function in page.functions {
                if functions.iter().all(|known| known.name != function.name) {
                    functions.push(function);
                }
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(functions),
            }
        }
        Err(self.not_sent(&format!("lists its functions on more than {MAX_PAGES} pages")))
    }

    /// Calls `function`. The request carries `key` in the header `idempotency-key` and as `outlive/key` in `_meta`, by
    /// which a server can recognise a retry.
    ///
    /// A call whose future is dropped may still run, and so may one that ends with [`McpError::Unknown`].
    pub async fn call(
        &self,
        function: &str,
        arguments: &Map<String, Value>,
        key: &str,
    ) -> Result<ToolOutput, McpError> {
        let function_name = HeaderValue::from_str(function).ok().filter(|_| function::is_name(function));
        let function_name = function_name.ok_or_else(|| {
            McpError::NotSent(format!(
                "{function:?} is not a function name; allowed: 1 to 128 of a-z A-Z 0-9 _ - ."
            ))
        })?;
        let idempotency_key = HeaderValue::from_str(key).map_err(|_| {
            McpError::NotSent("the call's key holds characters that a header can't carry".into())
        })?;
        let mut deadlines = Deadlines::new(self.platform, self.endpoint.timeouts.call);
        let mut params = Map::new();
        params.insert("name".into(), function.into());
        params.insert("arguments".into(), Value::Object(arguments.clone()));
        params.insert("_meta".into(), json!({"outlive/key": key}));
        let headers = vec![(FUNCTION_NAME, function_name), (IDEMPOTENCY_KEY, idempotency_key)];
        let result = self.request("tools/call", params, headers, &mut deadlines).await?;
        let result = result.map_err(|fault| self.call_error(fault))?.0;
        check_complete(&result)
            .and_then(|()| output::output(result))
            // The function has run: an output that can't be read does not undo its effects.
            .map_err(|what| McpError::Unknown(self.sentence(&format!("sent {what}"))))
    }

    /// Ends the session on the server, if it has one. Errors are ignored: servers expire sessions themselves.
    pub async fn close(self) {
        let protocol = self.protocol.take().filter(|protocol| protocol.session.is_some());
        if let Some(protocol) = protocol {
            let mut deadlines = Deadlines::new(self.platform, CLOSING_TIMEOUT);
            let _ = self.exchange().end(&protocol, &mut deadlines).await;
        }
    }

    async fn page(
        &self,
        cursor: Option<String>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<FunctionPage, McpError> {
        let params = cursor.map(|cursor| ("cursor".to_owned(), Value::String(cursor))).into_iter().collect();
        let result = self.request("tools/list", params, Vec::new(), deadlines).await?;
        let (result, modern) = result.map_err(|fault| self.read_error(fault))?;
        check_complete(&result)
            .and_then(|()| function::page(result, modern))
            .map_err(|what| self.not_sent(&format!("sent {what}")))
    }

    /// Sends one request, after a negotiation if none has succeeded yet. Returns the result, and whether the revision
    /// is the one without sessions.
    ///
    /// The outer error is one of the negotiation, so the request was not sent. The inner one is of the request itself;
    /// callers decide what it means, since only a `tools/call` has side effects.
    async fn request(
        &self,
        method: &str,
        mut params: Map<String, Value>,
        headers: Vec<(HeaderName, HeaderValue)>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<Result<(Map<String, Value>, bool), ExchangeError>, McpError> {
        let mut may_renew = true;
        loop {
            let protocol = self.negotiate(deadlines).await?;
            let id = self.next_id();
            if protocol.modern {
                add_client_info(&mut params);
            }
            let rpc = RpcRequest { id, method, params: &params, headers: headers.clone() };
            let fault = match self.exchange().round_trip(Some(&protocol), rpc, deadlines).await {
                Ok((result, _)) => return Ok(Ok((result, protocol.modern))),
                Err(fault) => fault,
            };
            let session_is_gone = matches!(fault, ExchangeError::Status(StatusCode::NOT_FOUND, _))
                && protocol.session.is_some();
            if session_is_gone && may_renew {
                // The server has forgotten the session and so has not executed the request: a retry is safe.
                may_renew = false;
                let mut current = self.protocol.borrow_mut();
                // A concurrent call may have opened a new session meanwhile; that one stays.
                if current.as_ref().is_some_and(|current| current.session == protocol.session) {
                    *current = None;
                }
                continue;
            }
            if fault == ExchangeError::Timeout && !protocol.modern {
                // In the revision without sessions the closed connection is the cancellation.
                self.cancel(&protocol, id).await;
            }
            return Ok(Err(fault));
        }
    }

    /// Tells the server that the client no longer waits for the request `id`. Errors are ignored.
    async fn cancel(&self, protocol: &Protocol, id: u64) {
        let params = [("requestId".to_owned(), id.into()), ("reason".to_owned(), "no answer in time".into())];
        let message = message::notification("notifications/cancelled", &params.into_iter().collect());
        let mut deadlines = Deadlines::new(self.platform, CLOSING_TIMEOUT);
        let _ = self.exchange().notify(protocol, &message, &mut deadlines).await;
    }

    /// Returns the revision and session in use, after a negotiation if there is none yet. A negotiation has no side
    /// effect, so an error is never [`McpError::Unknown`].
    async fn negotiate(&self, deadlines: &mut CallDeadlines<'_, P>) -> Result<Protocol, McpError> {
        let timed_out = |_| self.read_error(ExchangeError::Timeout);
        let _negotiating = deadlines.within(self.negotiating.lock()).await.map_err(timed_out)?;
        if let Some(protocol) = self.protocol.borrow().clone() {
            return Ok(protocol);
        }
        let protocol = match self.discover().await? {
            Some(protocol) => protocol,
            None => self.initialize(deadlines).await?,
        };
        *self.protocol.borrow_mut() = Some(protocol.clone());
        Ok(protocol)
    }

    /// Sends `server/discover` to learn whether the server has the revision without sessions. `None` if it seems older.
    async fn discover(&self) -> Result<Option<Protocol>, McpError> {
        let mut deadlines =
            Deadlines::new(self.platform, DISCOVERY_TIMEOUT.min(self.endpoint.timeouts.call / 2));
        let revision = HeaderValue::from_static(MODERN);
        let protocol = Protocol { revision, modern: true, session: None };
        let mut params = Map::new();
        add_client_info(&mut params);
        let rpc = RpcRequest {
            id: self.next_id(),
            method: "server/discover",
            params: &params,
            headers: Vec::new(),
        };
        let answer = self.exchange().round_trip(Some(&protocol), rpc, &mut deadlines).await;
        let modern = match &answer {
            Ok((result, _)) => match result.get("supportedVersions") {
                Some(Value::Array(versions)) => select_modern(versions.iter().filter_map(Value::as_str)),
                // Some older servers answer any request with a result.
                _ => Some(false),
            },
            Err(ExchangeError::Status(_, Some(refusal)) | ExchangeError::Refused(refusal))
                if refusal.code == message::UNSUPPORTED_VERSION =>
            {
                select_modern(refusal.supported.iter().map(String::as_str))
            }
            Err(fault) if is_older(fault) => Some(false),
            Err(fault) => return Err(self.read_error(fault.clone())),
        };
        match modern {
            Some(modern) => Ok(modern.then_some(protocol)),
            None => Err(self.no_revision()),
        }
    }

    /// Opens a session with `initialize`, as the older revisions do.
    async fn initialize(&self, deadlines: &mut CallDeadlines<'_, P>) -> Result<Protocol, McpError> {
        let [newest, ..] = WITH_SESSIONS;
        let params = [
            ("protocolVersion".to_owned(), newest.into()),
            ("capabilities".to_owned(), json!({})),
            ("clientInfo".to_owned(), client()),
        ];
        let params = params.into_iter().collect();
        let rpc =
            RpcRequest { id: self.next_id(), method: "initialize", params: &params, headers: Vec::new() };
        let answer = self.exchange().round_trip(None, rpc, deadlines).await;
        let (result, mut headers) = answer.map_err(|fault| self.read_error(fault))?;
        let version = result.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
        let version = WITH_SESSIONS.into_iter().find(|known| *known == version);
        let revision = HeaderValue::from_static(version.ok_or_else(|| self.no_revision())?);
        let mut session = headers.remove(SESSION);
        // The id alone authorizes requests in some servers, so it is treated as a secret.
        session.iter_mut().for_each(|session| session.set_sensitive(true));
        if session.as_ref().is_some_and(|session| !is_session_id(session.as_bytes())) {
            return Err(self.not_sent(&format!(
                "sent a session id that is not 1 to {MAX_SESSION_BYTES} visible ASCII characters"
            )));
        }
        let protocol = Protocol { revision, modern: false, session };
        let message = message::notification("notifications/initialized", &Map::new());
        let notified = self.exchange().notify(&protocol, &message, deadlines).await;
        notified.map_err(|fault| self.read_error(fault))?;
        Ok(protocol)
    }

    fn exchange(&self) -> Exchange<'_, P> {
        Exchange { platform: self.platform, endpoint: &self.endpoint }
    }

    fn next_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }

    /// The error for a failed `tools/call`: unknown, unless the fault proves that the function did not run.
    fn call_error(&self, fault: ExchangeError) -> McpError {
        let refused = |RpcError { code, message, .. }| McpError::Refused { code, message };
        match fault {
            ExchangeError::Unsent(_) => self.read_error(fault),
            ExchangeError::Refused(refusal) if refusal.rules_out_execution() => refused(refusal),
            ExchangeError::Status(status, refusal) if rules_out_execution(status) => match refusal {
                Some(refusal) => refused(refusal),
                None => self.read_error(ExchangeError::Status(status, None)),
            },
            _ => McpError::Unknown(self.describe(fault)),
        }
    }

    /// The error for a failed request without side effects.
    fn read_error(&self, fault: ExchangeError) -> McpError {
        match fault {
            ExchangeError::Refused(RpcError { code, message, .. }) => McpError::Refused { code, message },
            _ => McpError::NotSent(self.describe(fault)),
        }
    }

    fn describe(&self, fault: ExchangeError) -> String {
        match fault {
            ExchangeError::Unsent(why) | ExchangeError::NoAnswer(why) => {
                self.sentence(&format!("gave no answer: {why}"))
            }
            ExchangeError::Timeout => self.sentence("gave no answer in time"),
            ExchangeError::Status(status, None) => {
                self.sentence(&format!("answered with status {}", status.as_u16()))
            }
            ExchangeError::Status(status, Some(RpcError { code, .. })) => {
                self.sentence(&format!("answered with status {} and code {code}", status.as_u16()))
            }
            ExchangeError::Refused(RpcError { code, .. }) => {
                self.sentence(&format!("answered with code {code}"))
            }
        }
    }

    fn no_revision(&self) -> McpError {
        self.not_sent(&format!("supports none of the revisions {MODERN}, {}", WITH_SESSIONS.join(", ")))
    }

    fn not_sent(&self, what: &str) -> McpError {
        McpError::NotSent(self.sentence(what))
    }

    fn sentence(&self, what: &str) -> String {
        format!("the MCP server {:?} {what}", self.endpoint.label)
    }
}

/// Whether to use the revision without sessions with a server that supports `versions`; `None` if the client supports
/// none of them.
fn select_modern<'v>(versions: impl Iterator<Item = &'v str>) -> Option<bool> {
    let versions: Vec<&str> = versions.collect();
    let older = || WITH_SESSIONS.iter().any(|known| versions.contains(known));
    if versions.contains(&MODERN) { Some(true) } else { older().then_some(false) }
}

/// Adds the fields about the client that each request of the revision without sessions carries.
fn add_client_info(params: &mut Map<String, Value>) {
    let meta = params.entry("_meta").or_insert_with(|| json!({}));
    if let Value::Object(meta) = meta {
        meta.insert("io.modelcontextprotocol/protocolVersion".into(), MODERN.into());
        meta.insert("io.modelcontextprotocol/clientInfo".into(), client());
        meta.insert("io.modelcontextprotocol/clientCapabilities".into(), json!({}));
    }
}

fn client() -> Value {
    json!({"name": "outlive", "version": env!("CARGO_PKG_VERSION")})
}

/// Whether a fault suggests that the server is older than the revision without sessions. A 401, 403, 429 or a lost
/// connection does not: the server would answer an `initialize` in the same way.
fn is_older(fault: &ExchangeError) -> bool {
    match fault {
        ExchangeError::Status(status, refusal) => {
            let unrelated = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
            let is_modern = refusal.as_ref().is_some_and(RpcError::is_modern);
            (status.is_client_error() || status.is_server_error())
                && !unrelated.contains(status)
                && !is_modern
        }
        ExchangeError::Refused(refusal) => !refusal.is_modern(),
        // Some older servers never answer an unknown request, as the specification warns.
        ExchangeError::Timeout => true,
        ExchangeError::Unsent(_) | ExchangeError::NoAnswer(_) => false,
    }
}

/// Whether a status proves that the function did not run. 408 and 409 do not: the server may have started the call
/// before the request timed out, and the conflict may be with the same call, which still runs.
fn rules_out_execution(status: StatusCode) -> bool {
    let is_redirect = [StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT].contains(&status);
    let may_have_run = [StatusCode::REQUEST_TIMEOUT, StatusCode::CONFLICT].contains(&status);
    is_redirect || status.is_client_error() && !may_have_run
}

/// The specification allows visible ASCII only.
fn is_session_id(id: &[u8]) -> bool {
    (1..=MAX_SESSION_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Checks that the result is final and not a request for the user's input.
fn check_complete(result: &Map<String, Value>) -> Result<(), &'static str> {
    match result.get("resultType") {
        None => Ok(()),
        Some(Value::String(kind)) if kind == "complete" => Ok(()),
        Some(_) => Err("a question instead of a result"),
    }
}
