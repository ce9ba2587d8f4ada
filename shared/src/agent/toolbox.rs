//! Knows the functions of a turn's tool servers: lists them, describes them to the model, and makes one call. Which
//! calls are made is decided in `calls`; the protocol is in [`mcp`].

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use http::{Uri, header::AUTHORIZATION};
use serde_json::{Value, json};

use super::built_in;
use crate::{
    config::{
        Config, ToolServer, is_name,
        tool::{BUILT_IN, BUILT_IN_FUNCTIONS},
        tool_url,
    },
    entry::derive,
    hex::hex,
    mcp::{self, Endpoint, McpError, ToolOutput},
    node::Node,
    platform::Platform,
    session::{
        step::{CallIntent, Effect, ToolRoute, ToolsListed, UNKNOWN_OUTCOME},
        turn::{ResponseId, TurnError, TurnOpened},
    },
    wire::responses::CallResult,
};

/// The tool servers that a turn may use, and the open sessions with them.
pub(crate) struct Toolbox<'a, P> {
    node: &'a Node<P>,
    owner: String,
    id: ResponseId,
    servers: Vec<Server>,
    sessions: RefCell<BTreeMap<String, Rc<mcp::McpSession<'a, P>>>>,
}

/// A tool server, with what the configuration and the request allow of it.
#[derive(Clone, Debug)]
struct Server {
    name: String,
    /// `None` for the built-in functions.
    tool: Option<ToolServer>,
    /// Functions that the request allows; `None` if it allows all.
    allowed: Option<Vec<String>>,
    /// Built-in functions that need an approval.
    approve: Vec<String>,
    approval: Approval,
}

/// Which approvals the request demands or waives, beside those of the configuration.
#[derive(Clone, Debug, Default)]
enum Approval {
    #[default]
    AsConfigured,
    Always,
    Never,
    ByFunction {
        always: Vec<String>,
        never: Vec<String>,
    },
}

/// Servers in one request: every one is queried for its functions before the model is called.
const MAX_SERVERS: usize = 16;

/// Functions of a turn. Vendors take no more (OpenAI: 128), and models choose badly among so many.
const MAX_FUNCTIONS: usize = 128;

/// Timeout of a connection to a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts of a call without a result, if its effect allows a retry.
const MAX_ATTEMPTS: u32 = 3;

/// The pause before the first retry; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

impl<'a, P: Platform> Toolbox<'a, P> {
    /// The servers that `opened` names, or, if it has no `tools`, those of the agent. Fails if the request names a
    /// server or demands something that is not allowed.
    pub(crate) fn for_turn(
        node: &'a Node<P>,
        id: ResponseId,
        opened: &TurnOpened,
    ) -> Result<Self, TurnError> {
        let servers = servers(node.config(), opened.request.get("tools"))?;
        Ok(Self { node, owner: opened.owner.clone(), id, servers, sessions: RefCell::default() })
    }

    /// Whether the turn has any server.
    pub(crate) fn has_servers(&self) -> bool {
        !self.servers.is_empty()
    }

    /// The functions of all servers. A server whose list is among the `history` items is not queried again.
    pub(crate) async fn list(&self, history: &[Value]) -> ToolsListed {
        let mut listed = ToolsListed::default();
        for (number, server) in self.servers.iter().enumerate() {
            let Some(tool) = &server.tool else {
                for (function, effect) in BUILT_IN_FUNCTIONS {
                    let approval = server.needs_approval(function);
                    self.route(server, function, effect, approval, Vec::new(), &mut listed);
                }
                continue;
            };
            // A server whose address the request gives is always queried: the same name may be another server's by now.
            let earlier =
                history.iter().rev().find(|list| is_list_of(list, &server.name) && !tool.is_from_request());
            let list = match earlier {
                Some(list) => list.clone(),
                None => {
                    let list = self.query(server, number).await;
                    listed.lists.push(list.clone());
                    list
                }
            };
            for function in tools(&list).filter_map(|tool| tool.get("name")?.as_str()) {
                let approval = server.needs_approval(function);
                self.route(
                    server,
                    function,
                    tool.effect_of(function),
                    approval,
                    tool.key.clone(),
                    &mut listed,
                );
            }
        }
        listed
    }

    /// Adds the route of a function to `listed`, if the turn may call it and has not too many already.
    fn route(
        &self,
        server: &Server,
        function: &str,
        effect: Effect,
        approval: bool,
        business: Vec<String>,
        listed: &mut ToolsListed,
    ) {
        if server.offers(function) && listed.routes.len() < MAX_FUNCTIONS {
            let (place, server, function) = (server.place(), server.name.clone(), function.to_owned());
            let alias = ToolRoute::alias(&server, &function);
            let route = ToolRoute { server, function, effect, approval, place, business };
            listed.routes.entry(alias).or_insert(route);
        }
    }

    /// Queries a server for its functions. Returns the item that shows them, or the error, to the client.
    async fn query(&self, server: &Server, number: usize) -> Value {
        let id = format!("{LIST_PREFIX}{}{}_{number}", self.id.log, hex(&self.id.turn));
        let (tools, error) = match self.session(server) {
            Some(session) => match session.list().await {
                Ok(functions) => (functions, None),
                Err(error) => (Vec::new(), Some(error.to_string())),
            },
            None => (Vec::new(), None),
        };
        let tools = tools.into_iter().map(|function| {
            json!({
                "name": function.name, "description": function.description,
                "input_schema": function.input_schema, "annotations": function.annotations,
            })
        });
        json!({
            "type": "mcp_list_tools", "id": id, "server_label": server.name,
            "tools": tools.collect::<Vec<_>>(), "error": error,
        })
    }

    /// The functions of `listed` as the model is sent them. Their descriptions are in the lists of `listed` or, for a
    /// server that was queried in an earlier turn, among the `history` items.
    pub(crate) fn functions(&self, listed: &ToolsListed, history: &[Value]) -> Vec<Value> {
        let lists: Vec<&Value> = listed.lists.iter().rev().chain(history.iter().rev()).collect();
        let described = listed.routes.iter().filter_map(|(alias, route)| {
            if route.server == BUILT_IN {
                return built_in::describe(&route.function)
                    .map(|(text, schema)| (alias, json!(text), schema));
            }
            let list = lists.iter().find(|list| is_list_of(list, &route.server))?;
            let tool = tools(list).find(|tool| tool.get("name") == Some(&route.function.as_str().into()))?;
            let field = |name: &str| tool.get(name).cloned().unwrap_or_default();
            Some((alias, field("description"), field("input_schema")))
        });
        let function = |(alias, description, parameters): (&String, Value, Value)| {
            let mut function =
                json!({"type": "function", "name": alias, "parameters": parameters, "strict": false});
            if let (Some(fields), true) = (function.as_object_mut(), description.is_string()) {
                fields.insert("description".into(), description);
            }
            function
        };
        described.map(function).collect()
    }

    /// Makes a call and returns its result. A call without a result is retried if its effect allows that. `maybe_made`
    /// says that a run that died may have made the call; then a failure now does not prove that it had no effect.
    pub(crate) async fn call(&self, call: &CallIntent, maybe_made: bool) -> CallResult {
        let arguments = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
        let Some(Value::Object(arguments)) = crate::json::inner_value(arguments) else {
            return CallResult::Failed("The arguments are not a JSON object.".into());
        };
        let ToolRoute { server, function, effect, place, .. } = &call.route;
        // A pure call changes nothing, so it is never in doubt whether it took effect.
        let has_effect = *effect != Effect::Pure;
        let (mut pause, mut in_doubt) = (FIRST_PAUSE, maybe_made && has_effect);
        // Checked again here: the call may have been requested or approved before the configuration changed.
        let server = self.servers.iter().find(|known| known.name == *server);
        let Some(server) = server.filter(|server| server.offers(function) && server.place() == *place) else {
            return failed("The function is not among those of this turn.".into(), in_doubt);
        };
        if server.needs_approval(function) && call.request.is_none() {
            return failed("The call needs an approval by now.".into(), in_doubt);
        }
        for attempts_left in (0..MAX_ATTEMPTS).rev() {
            let result = match self.session(server) {
                None => {
                    built_in::call(self.node, &self.owner, self.id, function, &arguments, &call.key).await
                }
                Some(session) => session.call(function, &arguments, &call.key).await,
            };
            match result {
                Ok(output) => return finished(output),
                Err(McpError::Refused { code, message }) => {
                    let why = format!("The server refused with code {code}: {message}");
                    return failed(why, in_doubt);
                }
                // Nothing reached the function, so even an exclusive call may be retried.
                Err(McpError::NotSent(_)) if attempts_left > 0 => {}
                Err(McpError::Unknown(_)) if attempts_left > 0 && *effect != Effect::Exclusive => {
                    in_doubt = has_effect;
                }
                Err(McpError::NotSent(why)) => return failed(why, in_doubt),
                Err(McpError::Unknown(why)) => return failed(why, has_effect),
            }
            self.node.platform().sleep(pause).await;
            pause *= 2;
        }
        CallResult::Unknown(UNKNOWN_OUTCOME.into())
    }

    /// The session with a server, opened at its first use; `None` for the built-in functions.
    fn session(&self, server: &Server) -> Option<Rc<mcp::McpSession<'a, P>>> {
        let tool = server.tool.as_ref()?;
        let mut sessions = self.sessions.borrow_mut();
        let session = sessions.entry(server.name.clone()).or_insert_with(|| {
            let headers = tool.authorization.iter().map(|secret| (AUTHORIZATION, secret.bearer()));
            let timeouts = mcp::McpTimeouts { connect: CONNECT_TIMEOUT, call: tool.timeout };
            let (label, url, headers) = (tool.name.clone(), tool.url.clone(), headers.collect());
            Rc::new(mcp::McpSession::new(self.node.platform(), Endpoint { label, url, headers, timeouts }))
        });
        Some(Rc::clone(session))
    }

    /// Ends the sessions. Errors are ignored: nothing depends on a session's end.
    pub(crate) async fn close(self) {
        for session in self.sessions.into_inner().into_values() {
            if let Ok(session) = Rc::try_unwrap(session).map_err(drop) {
                session.close().await;
            }
        }
    }
}

impl Server {
    /// The digest of its address: a call is only made at the address for which it was requested. Empty for the built-in
    /// functions.
    fn place(&self) -> String {
        let digest = |tool: &ToolServer| hex(&derive("server", &[tool.url.to_string().as_bytes()]));
        self.tool.as_ref().map(digest).unwrap_or_default()
    }

    /// Whether the configuration and the request allow `function`.
    fn offers(&self, function: &str) -> bool {
        let allowed = self.allowed.as_ref().is_none_or(|names| names.iter().any(|name| name == function));
        allowed && self.tool.as_ref().is_none_or(|tool| tool.allows(function))
    }

    /// Whether a call of `function` waits for the caller's approval.
    fn needs_approval(&self, function: &str) -> bool {
        let listed = |names: &[String]| names.iter().any(|name| name == function);
        let configured = match &self.tool {
            Some(tool) => tool.needs_approval(function),
            None => self.approve.iter().any(|name| name == function),
        };
        // The request can waive approvals only for a server whose address it gave itself, never the operator's own
        // rules.
        let from_request = self.tool.as_ref().is_some_and(ToolServer::is_from_request);
        match &self.approval {
            Approval::AsConfigured => configured,
            Approval::Always => true,
            Approval::Never => configured && !from_request,
            Approval::ByFunction { always, never } => {
                listed(always) || configured && !(from_request && listed(never))
            }
        }
    }
}

/// Prefix of the ids of lists that a server sent. 64 hexadecimal digits follow, which no item sent by a client has.
const LIST_PREFIX: &str = "mcpl_";

/// Whether `list` is a list of functions that `server` itself sent, without an error.
fn is_list_of(list: &Value, server: &str) -> bool {
    let id = list.get("id").and_then(Value::as_str).and_then(|id| id.strip_prefix(LIST_PREFIX));
    let ours = id.and_then(|id| id.split_once('_')).is_some_and(|(names, _)| names.len() == 64);
    ours && list.get("server_label") == Some(&server.into())
        && list.get("error").is_none_or(Value::is_null)
        && list.get("type") == Some(&"mcp_list_tools".into())
}

fn tools(list: &Value) -> impl Iterator<Item = &Value> {
    list.get("tools").and_then(Value::as_array).into_iter().flatten()
}

/// The result of a failed call: unknown if an earlier attempt may have taken effect (`in_doubt`).
fn failed(why: String, in_doubt: bool) -> CallResult {
    if in_doubt { CallResult::Unknown(format!("{UNKNOWN_OUTCOME} ({why})")) } else { CallResult::Failed(why) }
}

/// The result of a call that the function answered.
fn finished(output: ToolOutput) -> CallResult {
    let cut = if output.truncated { "\n[The rest was cut off.]" } else { "" };
    let text = output.text + cut;
    if output.failed { CallResult::Failed(text) } else { CallResult::Output(text) }
}

/// The servers of a request's `tools`; those of the agent if the request has none.
fn servers(config: &Config, tools: Option<&Value>) -> Result<Vec<Server>, TurnError> {
    let Some(tools) = tools.filter(|tools| !tools.is_null()) else {
        let own = config.agent.tools.iter().map(|name| Server {
            name: name.clone(),
            tool: config.tool(name).cloned(),
            allowed: None,
            approve: config.agent.approve.clone(),
            approval: Approval::AsConfigured,
        });
        return Ok(own.collect());
    };
    let mut servers: Vec<Server> = Vec::new();
    for (at, tool) in tools.as_array().into_iter().flatten().enumerate() {
        if tool.get("type").and_then(Value::as_str) != Some("mcp") {
            continue;
        }
        let server = server(config, tool, &format!("tools[{at}]"))?;
        if servers.iter().any(|known| known.name == server.name) || servers.len() >= MAX_SERVERS {
            let why = format!("{:?}; allowed: at most {MAX_SERVERS} servers, each once", server.name);
            return Err(TurnError::invalid(&format!("tools[{at}].server_label"), why));
        }
        servers.push(server);
    }
    Ok(servers)
}

/// Reads the tool at `path` of a request. It must name a server of the configuration, the built-in functions, or the
/// URL of a host that the configuration allows.
fn server(config: &Config, requested: &Value, path: &str) -> Result<Server, TurnError> {
    let invalid = |field: &str, why: String| TurnError::invalid(&format!("{path}.{field}"), why);
    let given = |field: &str| requested.get(field).filter(|value| !value.is_null());
    let text = |field: &str| match given(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(invalid(field, "it is not a string".into())),
    };
    for field in ["authorization", "headers", "connector_id"] {
        if given(field).is_some() {
            let why = "the request is stored in the log, which must not hold secrets; \
                       allowed: the server_label of a [[tool]] of the configuration, which has the secret";
            return Err(invalid(field, why.into()));
        }
    }
    let name = text("server_label")?.unwrap_or_default();
    if !is_name(name) {
        return Err(invalid(
            "server_label",
            format!("{:?}; allowed: 1 to 64 of a-z A-Z 0-9 - _", short(name)),
        ));
    }
    let url = text("server_url")?;
    // A label of the configuration always means the operator's server, so a request can't redirect it to another URL.
    // The built-in functions have no URL.
    let tool = match (config.tool(name), url) {
        (Some(tool), Some(url)) if tool_url(url).ok().as_ref() != Some(&tool.url) => {
            let why = "the configuration has another URL for this server_label; allowed: that one, or none";
            return Err(invalid("server_url", why.into()));
        }
        (Some(tool), _) => Some(tool.clone()),
        (None, None) if name == BUILT_IN => None,
        (None, Some(url)) if name != BUILT_IN => {
            Some(server_from_request(config, name, url).map_err(|why| invalid("server_url", why))?)
        }
        (None, _) => {
            let names = config.tools.iter().map(|tool| tool.name.as_str()).chain([BUILT_IN]);
            let names = names.collect::<Vec<_>>().join(", ");
            return Err(invalid("server_label", format!("there is no server {name:?}; allowed: {names}")));
        }
    };
    Ok(Server {
        name: name.to_owned(),
        tool,
        approve: config.agent.approve.clone(),
        allowed: names(given("allowed_tools")).map_err(|why| invalid("allowed_tools", why))?,
        approval: approval(given("require_approval")).map_err(|why| invalid("require_approval", why))?,
    })
}

/// A server that the request names by its URL. Its host must be among `agent.tool_hosts`.
fn server_from_request(config: &Config, name: &str, url: &str) -> Result<ToolServer, String> {
    let url: Uri = tool_url(url)?;
    let host = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
    if !config.agent.tool_hosts.iter().any(|known| known == host) {
        // The host is not repeated: a URL may hold a password.
        return Err(
            "the configuration does not allow its host; allowed: the hosts of agent.tool_hosts".into()
        );
    }
    Ok(ToolServer::from_request(name, url))
}

/// Reads a list of function names; `None` if the field is absent.
fn names(value: Option<&Value>) -> Result<Option<Vec<String>>, String> {
    const ALLOWED: &str = "allowed: a list of names, or {\"tool_names\": […]}";
    let list = match value {
        None => return Ok(None),
        Some(Value::Array(names)) => names,
        Some(Value::Object(filter)) => match (filter.get("tool_names"), filter.get("read_only")) {
            // `read_only` is refused: it would allow functions because their server calls them harmless.
            (Some(Value::Array(names)), None | Some(Value::Null)) => names,
            _ => return Err(ALLOWED.into()),
        },
        Some(_) => return Err(ALLOWED.into()),
    };
    list.iter()
        .map(|name| name.as_str().map(str::to_owned).ok_or_else(|| ALLOWED.into()))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// Reads `require_approval`.
fn approval(value: Option<&Value>) -> Result<Approval, String> {
    const ALLOWED: &str =
        "allowed: \"always\", \"never\", or {\"always\": {\"tool_names\": […]}, \"never\": …}";
    let filter =
        |value: Option<&Value>| names(value.filter(|value| !value.is_null())).map(Option::unwrap_or_default);
    match value {
        None => Ok(Approval::AsConfigured),
        Some(Value::String(text)) if text == "always" => Ok(Approval::Always),
        Some(Value::String(text)) if text == "never" => Ok(Approval::Never),
        Some(Value::Object(filters)) => Ok(Approval::ByFunction {
            always: filter(filters.get("always"))?,
            never: filter(filters.get("never"))?,
        }),
        Some(_) => Err(ALLOWED.into()),
    }
}

/// The beginning of `text`, for an error message.
fn short(text: &str) -> String {
    text.chars().take(100).collect()
}
