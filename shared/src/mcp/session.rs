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

/// One conversation with a server, which begins at the first use and can be used for several things at a time.
pub struct McpSession<'a, P> {
    platform: &'a P,
    endpoint: Endpoint,
    ids: Cell<u64>,
    /// What was agreed on.
    terms: RefCell<Option<Protocol>>,
    /// Held by who agrees on it.
    opening: Mutex<()>,
}

/// Functions of one server: with every request a model reads all of them.
const MAX_FUNCTIONS: usize = 128;

/// Pages of one list: a server that gives fewer than 8 functions a page wastes everybody's time.
const MAX_PAGES: usize = 16;

/// How long it is waited for what a server says to the newest revision, and at most half of the whole time: enough for a
/// function to be started that slept.
const PROBE: Duration = Duration::from_secs(10);

/// How long a server has for what it is told at the end. Nothing depends on it.
const FAREWELL: Duration = Duration::from_secs(2);

/// Longer ids of sessions are refused: they come back with every request, and servers bound what headers may be.
const MAX_SESSION_BYTES: usize = 1024;

const NAME: HeaderName = HeaderName::from_static("mcp-name");
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl<'a, P: Platform> McpSession<'a, P> {
    /// A session with the server at `endpoint`. Nothing is sent yet.
    pub fn new(platform: &'a P, mut endpoint: Endpoint) -> Self {
        endpoint.headers.iter_mut().for_each(|(_, value)| value.set_sensitive(true));
        let (ids, terms, opening) = (Cell::default(), RefCell::default(), Mutex::default());
        Self { platform, endpoint, ids, terms, opening }
    }

    /// All functions that the server has, in its order; of several with one name the first. More than 128 are an error,
    /// since leaving some out would look as if they did not exist.
    ///
    /// Listing has no effect, so an error is never [`McpError::Unknown`].
    pub async fn list(&self) -> Result<Vec<McpFunction>, McpError> {
        let mut deadlines = Deadlines::new(self.platform, self.endpoint.timeouts.call);
        let mut functions: Vec<McpFunction> = Vec::new();
        let (mut entries, mut bytes, mut cursor) = (0, 0, None);
        for _ in 0..MAX_PAGES {
            let page = self.page(cursor.take(), &mut deadlines).await?;
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

    /// Calls `function`. The server is told `key`, in the header `idempotency-key` and as `outlive/key` in `_meta`: a
    /// server that keeps it can tell a repetition from another call.
    ///
    /// A call that is dropped may still run, as one may that ends with [`McpError::Unknown`].
    pub async fn call(
        &self,
        function: &str,
        arguments: &Map<String, Value>,
        key: &str,
    ) -> Result<ToolOutput, McpError> {
        let named = HeaderValue::from_str(function).ok().filter(|_| function::is_name(function));
        let named =
            named.ok_or_else(|| McpError::NotSent(format!("{function:?} is no name of a function")))?;
        let keyed = HeaderValue::from_str(key);
        let keyed = keyed.map_err(|_| McpError::NotSent("the call's key is no value of a header".into()))?;
        let mut deadlines = Deadlines::new(self.platform, self.endpoint.timeouts.call);
        let mut params = Map::new();
        params.insert("name".into(), function.into());
        params.insert("arguments".into(), Value::Object(arguments.clone()));
        params.insert("_meta".into(), json!({"outlive/key": key}));
        let headers = vec![(NAME, named), (KEY, keyed)];
        let result = self.ask("tools/call", params, headers, &mut deadlines).await?;
        let result = result.map_err(|fault| self.judge(fault))?.0;
        complete(&result)
            .and_then(|()| output::output(result))
            .map_err(|what| McpError::Unknown(self.says(&format!("sent {what}"))))
    }

    /// Ends the session, if the server keeps one. Whether it hears of it does not matter: it forgets sessions by itself.
    pub async fn close(self) {
        let terms = self.terms.take().filter(|terms| terms.session.is_some());
        if let Some(terms) = terms {
            let mut deadlines = Deadlines::new(self.platform, FAREWELL);
            let _ = self.exchange().end(&terms, &mut deadlines).await;
        }
    }

    async fn page(
        &self,
        cursor: Option<String>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<FunctionPage, McpError> {
        let params = cursor.map(|cursor| ("cursor".to_owned(), Value::String(cursor))).into_iter().collect();
        let result = self.ask("tools/list", params, Vec::new(), deadlines).await?;
        let (result, modern) = result.map_err(|fault| self.harmless(fault))?;
        complete(&result)
            .and_then(|()| function::page(result, modern))
            .map_err(|what| self.not_sent(&format!("sent {what}")))
    }

    /// Asks under what was agreed on, or is agreed on now. Gives the result, and whether the revision is one without
    /// sessions.
    async fn ask(
        &self,
        method: &str,
        mut params: Map<String, Value>,
        headers: Vec<(HeaderName, HeaderValue)>,
        deadlines: &mut CallDeadlines<'_, P>,
    ) -> Result<Result<(Map<String, Value>, bool), ExchangeError>, McpError> {
        let mut again = true;
        loop {
            let terms = self.open(deadlines).await?;
            let id = self.id();
            if terms.modern {
                introduce(&mut params);
            }
            let ask = RpcRequest { id, method, params: &params, headers: headers.clone() };
            let fault = match self.exchange().ask(Some(&terms), ask, deadlines).await {
                Ok((result, _)) => return Ok(Ok((result, terms.modern))),
                Err(fault) => fault,
            };
            let forgotten =
                matches!(fault, ExchangeError::Status(StatusCode::NOT_FOUND, _)) && terms.session.is_some();
            if forgotten && again {
                // The server has forgotten the session, and so has not looked at what it was asked.
                again = false;
                let mut agreed = self.terms.borrow_mut();
                if agreed.as_ref().is_some_and(|agreed| agreed.session == terms.session) {
                    *agreed = None;
                }
                continue;
            }
            if fault == ExchangeError::Late && !terms.modern {
                self.cancel(&terms, id).await;
            }
            return Ok(Err(fault));
        }
    }

    /// Tells the server that nobody waits any more.
    async fn cancel(&self, terms: &Protocol, id: u64) {
        let params = [("requestId".to_owned(), id.into()), ("reason".to_owned(), "no answer in time".into())];
        let message = message::notification("notifications/cancelled", &params.into_iter().collect());
        let mut deadlines = Deadlines::new(self.platform, FAREWELL);
        let _ = self.exchange().notify(terms, &message, &mut deadlines).await;
    }

    /// Agrees with the server on a revision, unless that was done. It has no effect, so every error is
    /// [`McpError::NotSent`].
    async fn open(&self, deadlines: &mut CallDeadlines<'_, P>) -> Result<Protocol, McpError> {
        let late = |_| self.harmless(ExchangeError::Late);
        let _opening = deadlines.within(self.opening.lock()).await.map_err(late)?;
        if let Some(terms) = self.terms.borrow().clone() {
            return Ok(terms);
        }
        let terms = match self.discover().await? {
            Some(terms) => terms,
            None => self.initialize(deadlines).await?,
        };
        *self.terms.borrow_mut() = Some(terms.clone());
        Ok(terms)
    }

    /// Asks in the way of the revision without sessions whether the server has that. `None` if it seems to be older.
    async fn discover(&self) -> Result<Option<Protocol>, McpError> {
        let mut deadlines = Deadlines::new(self.platform, PROBE.min(self.endpoint.timeouts.call / 2));
        let revision = HeaderValue::from_static(MODERN);
        let terms = Protocol { revision, modern: true, session: None };
        let mut params = Map::new();
        introduce(&mut params);
        let ask =
            RpcRequest { id: self.id(), method: "server/discover", params: &params, headers: Vec::new() };
        let answer = self.exchange().ask(Some(&terms), ask, &mut deadlines).await;
        let modern = match &answer {
            Ok((result, _)) => match result.get("supportedVersions") {
                Some(Value::Array(versions)) => choose(versions.iter().filter_map(Value::as_str)),
                // Some answer to everything.
                _ => Some(false),
            },
            Err(ExchangeError::Status(_, Some(refusal)) | ExchangeError::Refusal(refusal))
                if refusal.code == message::UNSUPPORTED_VERSION =>
            {
                choose(refusal.supported.iter().map(String::as_str))
            }
            Err(fault) if is_older(fault) => Some(false),
            Err(fault) => return Err(self.harmless(fault.clone())),
        };
        match modern {
            Some(modern) => Ok(modern.then_some(terms)),
            None => Err(self.no_revision()),
        }
    }

    /// Begins a session as it was done before the revision without them.
    async fn initialize(&self, deadlines: &mut CallDeadlines<'_, P>) -> Result<Protocol, McpError> {
        let [newest, ..] = WITH_SESSIONS;
        let params = [
            ("protocolVersion".to_owned(), newest.into()),
            ("capabilities".to_owned(), json!({})),
            ("clientInfo".to_owned(), client()),
        ];
        let params = params.into_iter().collect();
        let ask = RpcRequest { id: self.id(), method: "initialize", params: &params, headers: Vec::new() };
        let answer = self.exchange().ask(None, ask, deadlines).await;
        let (result, mut headers) = answer.map_err(|fault| self.harmless(fault))?;
        let version = result.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
        let version = WITH_SESSIONS.into_iter().find(|known| *known == version);
        let revision = HeaderValue::from_static(version.ok_or_else(|| self.no_revision())?);
        let mut session = headers.remove(SESSION);
        // Who knows it can speak in its place.
        session.iter_mut().for_each(|session| session.set_sensitive(true));
        if session.as_ref().is_some_and(|session| !is_session(session.as_bytes())) {
            return Err(self.not_sent("gave the session an id that the specification forbids"));
        }
        let terms = Protocol { revision, modern: false, session };
        let message = message::notification("notifications/initialized", &Map::new());
        let told = self.exchange().notify(&terms, &message, deadlines).await;
        told.map_err(|fault| self.harmless(fault))?;
        Ok(terms)
    }

    fn exchange(&self) -> Exchange<'_, P> {
        Exchange { platform: self.platform, endpoint: &self.endpoint }
    }

    fn id(&self) -> u64 {
        self.ids.set(self.ids.get() + 1);
        self.ids.get()
    }

    /// What a fault means for a call.
    fn judge(&self, fault: ExchangeError) -> McpError {
        let refused = |RpcError { code, message, .. }| McpError::Refused { code, message };
        match fault {
            ExchangeError::Unsent(_) => self.harmless(fault),
            ExchangeError::Refusal(refusal) if refusal.is_before_it_ran() => refused(refusal),
            ExchangeError::Status(status, refusal) if is_before_it_ran(status) => match refusal {
                Some(refusal) => refused(refusal),
                None => self.harmless(ExchangeError::Status(status, None)),
            },
            _ => McpError::Unknown(self.describe(fault)),
        }
    }

    /// What a fault means for something that has no effect.
    fn harmless(&self, fault: ExchangeError) -> McpError {
        match fault {
            ExchangeError::Refusal(RpcError { code, message, .. }) => McpError::Refused { code, message },
            _ => McpError::NotSent(self.describe(fault)),
        }
    }

    fn describe(&self, fault: ExchangeError) -> String {
        match fault {
            ExchangeError::Unsent(why) | ExchangeError::Lost(why) => {
                self.says(&format!("gave no answer: {why}"))
            }
            ExchangeError::Late => self.says("gave no answer in time"),
            ExchangeError::Status(status, None) => {
                self.says(&format!("answered with status {}", status.as_u16()))
            }
            ExchangeError::Status(status, Some(RpcError { code, .. })) => {
                self.says(&format!("answered with status {} and code {code}", status.as_u16()))
            }
            ExchangeError::Refusal(RpcError { code, .. }) => self.says(&format!("answered with code {code}")),
        }
    }

    fn no_revision(&self) -> McpError {
        self.not_sent(&format!("has no revision of {MODERN} and {}", WITH_SESSIONS.join(", ")))
    }

    fn not_sent(&self, what: &str) -> McpError {
        McpError::NotSent(self.says(what))
    }

    fn says(&self, what: &str) -> String {
        format!("the MCP server {:?} {what}", self.endpoint.label)
    }
}

/// Whether to go without sessions with a server of these revisions; `None` if none of them is known here.
fn choose<'v>(versions: impl Iterator<Item = &'v str>) -> Option<bool> {
    let versions: Vec<&str> = versions.collect();
    let older = || WITH_SESSIONS.iter().any(|known| versions.contains(known));
    if versions.contains(&MODERN) { Some(true) } else { older().then_some(false) }
}

/// Adds what requests of the revision without sessions say about the client.
fn introduce(params: &mut Map<String, Value>) {
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

/// Whether a fault is what a server says that is older than the revision without sessions. A server that is not let in,
/// is asked too much or is not there would say nothing else to an older request.
fn is_older(fault: &ExchangeError) -> bool {
    match fault {
        ExchangeError::Status(status, refusal) => {
            let shut = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
            let is_modern = refusal.as_ref().is_some_and(RpcError::is_modern);
            (status.is_client_error() || status.is_server_error()) && !shut.contains(status) && !is_modern
        }
        ExchangeError::Refusal(refusal) => !refusal.is_modern(),
        // The specification expects of some that they keep silent.
        ExchangeError::Late => true,
        ExchangeError::Unsent(_) | ExchangeError::Lost(_) => false,
    }
}

/// Whether a status says that a call was not carried out. A server may have begun before it says that the request came
/// too slowly, and a conflict may be one with the same call, which still runs.
fn is_before_it_ran(status: StatusCode) -> bool {
    let repeat = [StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT].contains(&status);
    let in_doubt = [StatusCode::REQUEST_TIMEOUT, StatusCode::CONFLICT].contains(&status);
    repeat || status.is_client_error() && !in_doubt
}

/// Visible ASCII only, says the specification.
fn is_session(id: &[u8]) -> bool {
    (1..=MAX_SESSION_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Checks that nothing more is wanted before the result is one.
fn complete(result: &Map<String, Value>) -> Result<(), &'static str> {
    match result.get("resultType") {
        None => Ok(()),
        Some(Value::String(kind)) if kind == "complete" => Ok(()),
        Some(_) => Err("a question instead of a result"),
    }
}
