//! The functions that a turn's model may have the node run.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use http::{Uri, header::AUTHORIZATION};
use serde_json::{Map, Value, json};

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
        step::{CallIntent, Effect, ToolRoute, ToolsListed, UNKNOWN},
        turn::{ResponseId, TurnError, TurnOpened},
    },
    wire::responses::CallResult,
};

/// The servers that a turn may use.
pub(crate) struct Toolbox<'a, P> {
    node: &'a Node<P>,
    owner: String,
    id: ResponseId,
    servers: Vec<Server>,
    sessions: RefCell<BTreeMap<String, Rc<mcp::McpSession<'a, P>>>>,
}

/// A server, as far as a turn may use it.
#[derive(Clone, Debug)]
struct Server {
    name: String,
    /// `None`: what is built in.
    tool: Option<ToolServer>,
    /// What the request allows; all of it, if it does not say.
    allowed: Option<Vec<String>>,
    /// What is built in and needs an approval.
    approve: Vec<String>,
    approval: Approval,
}

/// What a request says of approvals, besides the configuration.
#[derive(Clone, Debug, Default)]
enum Approval {
    #[default]
    AsConfigured,
    Always,
    Never,
    Of {
        always: Vec<String>,
        never: Vec<String>,
    },
}

/// Servers in one request: each is asked for its functions before the model is.
const MAX_SERVERS: usize = 16;

/// Functions of a turn: more do not fit into a model's attention, nor into vendors' limits (OpenAI: 128).
const MAX_FUNCTIONS: usize = 128;

/// How long a connection to a server may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Times that a call is made whose end is not known, where a second one does no harm; and the pause after the first, which
/// doubles.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(250);

impl<'a, P: Platform> Toolbox<'a, P> {
    /// The servers that `opened` asks for, or else those of the agent.
    pub(crate) fn for_turn(
        node: &'a Node<P>,
        id: ResponseId,
        opened: &TurnOpened,
    ) -> Result<Self, TurnError> {
        let servers = servers(node.config(), opened.request.get("tools"))?;
        Ok(Self { node, owner: opened.owner.clone(), id, servers, sessions: RefCell::default() })
    }

    /// Whether there is any.
    pub(crate) fn has_servers(&self) -> bool {
        !self.servers.is_empty()
    }

    /// What the servers offer. Those that `known` lists have said so before.
    pub(crate) async fn list(&self, known: &[Value]) -> ToolsListed {
        let mut listed = ToolsListed::default();
        for (number, server) in self.servers.iter().enumerate() {
            let Some(tool) = &server.tool else {
                for (function, effect) in BUILT_IN_FUNCTIONS {
                    let approval = server.needs_approval(function);
                    self.route(server, function, effect, approval, Vec::new(), &mut listed);
                }
                continue;
            };
            // Of a server that only the request vouches for, nobody knows that it is the same one.
            let before =
                known.iter().rev().find(|list| is_list_of(list, &server.name) && !tool.is_from_request());
            let list = match before {
                Some(list) => list.clone(),
                None => {
                    let list = self.ask(server, number).await;
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

    /// Asks a server what it offers: the item that shows it.
    async fn ask(&self, server: &Server, number: usize) -> Value {
        let id = format!("{LIST}{}{}_{number}", self.id.log, hex(&self.id.turn));
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

    /// The functions of `listed` as a model is told them; `known` has what servers said before.
    pub(crate) fn functions(&self, listed: &ToolsListed, known: &[Value]) -> Vec<Value> {
        let lists: Vec<&Value> = listed.lists.iter().rev().chain(known.iter().rev()).collect();
        let described = listed.routes.iter().filter_map(|(alias, route)| {
            if route.server == BUILT_IN {
                return built_in::describe(&route.function)
                    .map(|(text, schema)| (alias, json!(text), schema));
            }
            let list = lists.iter().find(|list| is_list_of(list, &route.server))?;
            let tool = tools(list).find(|tool| tool.get("name") == Some(&route.function.as_str().into()))?;
            let part = |name: &str| tool.get(name).cloned().unwrap_or_default();
            Some((alias, part("description"), part("input_schema")))
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

    /// Makes a call, and says what came of it. One whose end is not known is made again, where that does no harm. `again` says
    /// that it may have been made before.
    pub(crate) async fn call(&self, call: &CallIntent, again: bool) -> CallResult {
        let arguments = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
        let Ok(arguments) = serde_json::from_str::<Map<String, Value>>(arguments) else {
            return CallResult::Failed("The arguments are not a JSON object.".into());
        };
        let ToolRoute { server, function, effect, place, .. } = &call.route;
        // A look that nobody saw the end of changed nothing.
        let lasts = *effect != Effect::Pure;
        let (mut pause, mut in_doubt) = (PAUSE, again && lasts);
        // It may have been asked for, or approved of, before the configuration or the request said otherwise.
        let server = self.servers.iter().find(|known| known.name == *server);
        let Some(server) = server.filter(|server| server.offers(function) && server.place() == *place) else {
            return failed("The function is not among those of this turn.".into(), in_doubt);
        };
        if server.needs_approval(function) && call.request.is_none() {
            return failed("The call needs an approval by now.".into(), in_doubt);
        }
        for left in (0..TRIES).rev() {
            let result = match self.session(server) {
                None => {
                    built_in::call(self.node, &self.owner, self.id, function, &arguments, &call.key).await
                }
                Some(session) => session.call(function, &arguments, &call.key).await,
            };
            match result {
                Ok(output) => return said(output),
                Err(McpError::Refused { code, message }) => {
                    let why = format!("The server refused with code {code}: {message}");
                    return failed(why, in_doubt);
                }
                Err(McpError::NotSent(_)) if left > 0 => {}
                Err(McpError::Unknown(_)) if left > 0 && *effect != Effect::Exclusive => in_doubt = lasts,
                Err(McpError::NotSent(why)) => return failed(why, in_doubt),
                Err(McpError::Unknown(why)) => return failed(why, lasts),
            }
            self.node.platform().sleep(pause).await;
            pause *= 2;
        }
        CallResult::Unknown(UNKNOWN.into())
    }

    /// The session with a server; `None` for what is built in.
    fn session(&self, server: &Server) -> Option<Rc<mcp::McpSession<'a, P>>> {
        let tool = server.tool.as_ref()?;
        let mut sessions = self.sessions.borrow_mut();
        let session = sessions.entry(server.name.clone()).or_insert_with(|| {
            let headers = tool.authorization.iter().map(|secret| (AUTHORIZATION, secret.bearer()));
            let timeouts = mcp::McpTimeouts { connect: CONNECT, call: tool.timeout };
            let (label, url, headers) = (tool.name.clone(), tool.url.clone(), headers.collect());
            Rc::new(mcp::McpSession::new(self.node.platform(), Endpoint { label, url, headers, timeouts }))
        });
        Some(Rc::clone(session))
    }

    /// Ends the sessions, as far as servers hear it.
    pub(crate) async fn close(self) {
        for session in self.sessions.into_inner().into_values() {
            if let Ok(session) = Rc::try_unwrap(session).map_err(drop) {
                session.close().await;
            }
        }
    }
}

impl Server {
    /// Its address, as a digest.
    fn place(&self) -> String {
        let digest = |tool: &ToolServer| hex(&derive("server", &[tool.url.to_string().as_bytes()]));
        self.tool.as_ref().map(digest).unwrap_or_default()
    }

    /// Whether the configuration and the request let `function` be called.
    fn offers(&self, function: &str) -> bool {
        let allowed = self.allowed.as_ref().is_none_or(|names| names.iter().any(|name| name == function));
        allowed && self.tool.as_ref().is_none_or(|tool| tool.allows(function))
    }

    fn needs_approval(&self, function: &str) -> bool {
        let listed = |names: &[String]| names.iter().any(|name| name == function);
        let configured = match &self.tool {
            Some(tool) => tool.needs_approval(function),
            None => self.approve.iter().any(|name| name == function),
        };
        // Of what only the request vouches for, only the request can say that nobody needs to approve.
        let stranger = self.tool.as_ref().is_some_and(ToolServer::is_from_request);
        match &self.approval {
            Approval::AsConfigured => configured,
            Approval::Always => true,
            Approval::Never => configured && !stranger,
            Approval::Of { always, never } => listed(always) || configured && !(stranger && listed(never)),
        }
    }
}

/// How the ids of lists begin that a server gave us: 64 hexadecimal digits follow, which no item of a client's has.
const LIST: &str = "mcpl_";

fn is_list_of(list: &Value, server: &str) -> bool {
    let id = list.get("id").and_then(Value::as_str).and_then(|id| id.strip_prefix(LIST));
    let ours = id.and_then(|id| id.split_once('_')).is_some_and(|(names, _)| names.len() == 64);
    ours && list.get("server_label") == Some(&server.into())
        && list.get("error").is_none_or(Value::is_null)
        && list.get("type") == Some(&"mcp_list_tools".into())
}

fn tools(list: &Value) -> impl Iterator<Item = &Value> {
    list.get("tools").and_then(Value::as_array).into_iter().flatten()
}

/// The end of a call that failed now, and may have taken effect before.
fn failed(why: String, in_doubt: bool) -> CallResult {
    if in_doubt { CallResult::Unknown(format!("{UNKNOWN} ({why})")) } else { CallResult::Failed(why) }
}

fn said(output: ToolOutput) -> CallResult {
    let cut = if output.truncated { "\n[The rest was cut off.]" } else { "" };
    let text = output.text + cut;
    if output.failed { CallResult::Failed(text) } else { CallResult::Output(text) }
}

/// The servers among a request's tools.
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

fn server(config: &Config, asked: &Value, path: &str) -> Result<Server, TurnError> {
    let wrong = |field: &str, why: String| TurnError::invalid(&format!("{path}.{field}"), why);
    let given = |field: &str| asked.get(field).filter(|value| !value.is_null());
    let text = |field: &str| match given(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(wrong(field, "it is not a string".into())),
    };
    for field in ["authorization", "headers", "connector_id"] {
        if given(field).is_some() {
            let why = "what a request brings is written into the log, and a secret must not be; allowed: a [[tool]] of the \
                       configuration, named by server_label";
            return Err(wrong(field, why.into()));
        }
    }
    let name = text("server_label")?.unwrap_or_default();
    if !is_name(name) {
        return Err(wrong("server_label", format!("{:?}; allowed: 1 to 64 of a-z A-Z 0-9 - _", short(name))));
    }
    let url = text("server_url")?;
    let tool = match (config.tool(name), url) {
        (Some(tool), Some(url)) if tool_url(url).ok().as_ref() != Some(&tool.url) => {
            return Err(wrong("server_url", "the configuration has another one for this label".into()));
        }
        (Some(tool), _) => Some(tool.clone()),
        (None, None) if name == BUILT_IN => None,
        (None, Some(url)) if name != BUILT_IN => {
            Some(stranger(config, name, url).map_err(|why| wrong("server_url", why))?)
        }
        (None, _) => {
            let names = config.tools.iter().map(|tool| tool.name.as_str()).chain([BUILT_IN]);
            let names = names.collect::<Vec<_>>().join(", ");
            return Err(wrong("server_label", format!("there is no server {name:?}; allowed: {names}")));
        }
    };
    Ok(Server {
        name: name.to_owned(),
        tool,
        approve: config.agent.approve.clone(),
        allowed: names(given("allowed_tools")).map_err(|why| wrong("allowed_tools", why))?,
        approval: approval(given("require_approval")).map_err(|why| wrong("require_approval", why))?,
    })
}

/// A server that the request names by its URL: only where the operator lets requests send the node.
fn stranger(config: &Config, name: &str, url: &str) -> Result<ToolServer, String> {
    let url: Uri = tool_url(url)?;
    let host = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
    if !config.agent.tool_hosts.iter().any(|known| known == host) {
        return Err("the configuration does not allow this host; allowed: those of agent.tool_hosts".into());
    }
    Ok(ToolServer::from_request(name, url))
}

fn names(value: Option<&Value>) -> Result<Option<Vec<String>>, String> {
    const ALLOWED: &str = "allowed: a list of names, or {\"tool_names\": […]}";
    let list = match value {
        None => return Ok(None),
        Some(Value::Array(names)) => names,
        Some(Value::Object(filter)) => match (filter.get("tool_names"), filter.get("read_only")) {
            // What a server says of itself is no reason to let it.
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

fn approval(value: Option<&Value>) -> Result<Approval, String> {
    const ALLOWED: &str =
        "allowed: \"always\", \"never\", or {\"always\": {\"tool_names\": […]}, \"never\": …}";
    let filter =
        |value: Option<&Value>| names(value.filter(|value| !value.is_null())).map(Option::unwrap_or_default);
    match value {
        None => Ok(Approval::AsConfigured),
        Some(Value::String(word)) if word == "always" => Ok(Approval::Always),
        Some(Value::String(word)) if word == "never" => Ok(Approval::Never),
        Some(Value::Object(filters)) => {
            Ok(Approval::Of { always: filter(filters.get("always"))?, never: filter(filters.get("never"))? })
        }
        Some(_) => Err(ALLOWED.into()),
    }
}

fn short(text: &str) -> String {
    text.chars().take(100).collect()
}
