//! Checks the effects of tool calls in turns whose process crashes at any append.

use std::{cell::RefCell, collections::BTreeSet, pin::Pin, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use serde_json::{Value, json};

use super::{CONFIG, Crash, PENDING_POLLS, SlowBody, streamed, survive};
use crate::{
    body::Body,
    entry::Kind,
    platform::{Http, HttpError},
    testing::MemoryStore,
};

/// The state of the tool server and the provider, which outlives every process.
#[derive(Default)]
struct ServerState {
    /// Keys of calls whose repetition the server recognises.
    charges: BTreeSet<String>,
    /// Calls with an effect each time.
    deployments: usize,
    /// Calls without an effect.
    lookups: usize,
    /// Whether the answer to the first charge is lost, and the server is unreachable from then on.
    vanishes: bool,
    /// Whether the provider's answer ends within a call that needs an approval.
    breaks_off: bool,
    /// Prompts that no provider may be sent.
    wrong_prompts: Vec<String>,
}

/// A provider whose model calls tools, and the server that has them.
#[derive(Clone)]
struct ToolsHttp {
    state: Rc<RefCell<ServerState>>,
    /// The number of the process: each is sent other ids for the same calls.
    process: u32,
}

impl Http for ToolsHttp {
    type Body = SlowBody;

    async fn send(&self, mut request: Request<Body>, _: Duration) -> Result<Response<SlowBody>, HttpError> {
        let is_server = request.uri().host() == Some("mcp.test");
        let body = std::future::poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
        let body = body.and_then(|frame| frame.unwrap().into_data().ok()).unwrap_or_default();
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        let charge = is_server && request["params"]["name"] == "charge";
        if charge && self.state.borrow().vanishes {
            if !self.state.borrow().charges.is_empty() {
                return Err(HttpError::Connect("refused".into()));
            }
            self.serve(&request);
            return Err(HttpError::Broken("reset".into()));
        }
        Ok(if is_server { self.serve(&request) } else { self.complete(&request) })
    }
}

impl ToolsHttp {
    /// Answers as the provider.
    fn complete(&self, request: &Value) -> Response<SlowBody> {
        let mut state = self.state.borrow_mut();
        let messages = request["messages"].as_array().unwrap();
        let ids = |name: &str| -> Vec<&str> {
            let calls = messages.iter().flat_map(|m| m["tool_calls"].as_array().into_iter().flatten());
            match name {
                "call" => calls.map(|call| call["id"].as_str().unwrap()).collect(),
                _ => messages.iter().filter_map(|m| m["tool_call_id"].as_str()).collect(),
            }
        };
        if ids("call") != ids("result") {
            state.wrong_prompts.push(format!("open calls: {request}"));
        }
        if ids("call").is_empty() {
            let call = |index: usize, name: &str, arguments: Value| {
                let id = format!("call_{}_{index}", self.process);
                let function = json!({"name": name, "arguments": arguments.to_string()});
                json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
            };
            if state.breaks_off {
                let mut half = call(0, "t__deploy", Value::Null);
                half["tool_calls"][0]["function"]["arguments"] = "".into();
                let mut response = streamed([half].into_iter(), "tool_calls");
                response.body_mut().chunks.truncate(1);
                return response;
            }
            let calls = [
                json!({"content": "Let me see."}),
                call(0, "t__lookup", json!({"city": "Oslo"})),
                call(1, "t__charge", json!({"order": "7", "note": self.process})),
                call(2, "t__deploy", json!({"target": "prod"})),
                call(3, "outlive__remember", json!({"text": "Oslo is cold."})),
            ];
            return streamed(calls.into_iter(), "tool_calls");
        }
        streamed(["All ", "done."].into_iter().map(|word| json!({"content": word})), "stop")
    }

    /// Answers as the tool server.
    fn serve(&self, request: &Value) -> Response<SlowBody> {
        let mut state = self.state.borrow_mut();
        let text = |text: &str| json!({"content": [{"type": "text", "text": text}]});
        let result = match request["method"].as_str().unwrap_or_default() {
            "initialize" => json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                                   "serverInfo": {"name": "t", "version": "1"}}),
            "tools/list" => {
                let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
                let tools: Vec<Value> = ["lookup", "charge", "deploy"].into_iter().map(tool).collect();
                json!({ "tools": tools })
            }
            "tools/call" => match request["params"]["name"].as_str().unwrap() {
                "lookup" => {
                    state.lookups += 1;
                    text("12 degrees")
                }
                "charge" => {
                    let key = request["params"]["_meta"]["outlive/key"].as_str().unwrap();
                    state.charges.insert(key.to_owned());
                    text("charged")
                }
                _ => {
                    state.deployments += 1;
                    text("deployed")
                }
            },
            _ if request.get("id").is_none() => {
                return answer(202, String::new());
            }
            _ => {
                let error = json!({"code": -32601, "message": "there is no such method"});
                return answer(
                    200,
                    json!({"jsonrpc": "2.0", "id": request["id"], "error": error}).to_string(),
                );
            }
        };
        answer(200, json!({"jsonrpc": "2.0", "id": request["id"], "result": result}).to_string())
    }
}

fn answer(status: u16, body: String) -> Response<SlowBody> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    let chunks = Some(Bytes::from(body)).filter(|body| !body.is_empty()).into_iter().collect();
    response.body(SlowBody { chunks, polls: PENDING_POLLS }).unwrap()
}

fn config(more: &str) -> String {
    format!(
        "[agent]\nname = \"a\"\ntools = [\"outlive\", \"t\"]\n{CONFIG}\
         [[tool]]\nname = \"t\"\nurl = \"https://mcp.test/mcp\"\npure = [\"lookup\"]\nkeyed = [\"charge\"]\n\
         key = [\"order\"]\n{more}"
    )
}

fn items<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let output = events.last().unwrap()["response"]["output"].as_array().unwrap();
    output.iter().filter(|item| item["type"] == kind).collect()
}

#[test]
fn effects_happen_as_often_as_their_kind_allows() {
    let config = config("");
    let request = json!({"input": "Do it.", "stream": true});
    let run = |crash| {
        let (store, state) = (MemoryStore::default(), Rc::new(RefCell::default()));
        let http = [1, 2].map(|process| ToolsHttp { state: Rc::clone(&state), process });
        let (_, after, appends) = survive(&store, crash, &config, &request, http);
        let state: &ServerState = &state.borrow();
        assert_eq!(state.wrong_prompts, Vec::<String>::new(), "{crash:?}");
        assert_eq!(state.charges.len(), 1, "{crash:?}: a keyed effect happens once");
        assert!(state.deployments <= 1, "{crash:?}: an exclusive effect happens at most once");
        let calls = items(&after, "mcp_call");
        let names: Vec<&str> = calls.iter().map(|call| call["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["lookup", "charge", "deploy", "remember"], "{crash:?}");
        for call in calls {
            let unknown = call["status"] == "incomplete";
            assert!(unknown || call["status"] == "completed", "{crash:?}: {call}");
            assert!(
                !unknown || call["name"] == "deploy",
                "{crash:?}: only an exclusive call may end unknown"
            );
            assert!(unknown || call["name"] != "deploy" || state.deployments == 1, "{crash:?}");
        }
        let notes = store.entries().iter().filter(|entry| entry.header().kind == Kind::NOTED).count();
        assert_eq!(notes, 1, "{crash:?}");
        let texts: Vec<&Value> =
            items(&after, "message").iter().map(|item| &item["content"][0]["text"]).collect();
        assert_eq!(texts, ["Let me see.", "All done."], "{crash:?}");
        (appends, state.lookups)
    };
    let (appends, lookups) = run(Crash::Never);
    assert_eq!(lookups, 1);
    let mut repeated = 0;
    for at in 1..=appends {
        for crash in [Crash::Before(at), Crash::After(at)] {
            repeated += usize::from(run(crash).1 > 1);
        }
    }
    assert!(appends >= 9, "{appends} appends are too few to mean anything");
    assert!(repeated > 0, "no pure call was ever repeated");
}

#[test]
fn a_call_that_may_have_taken_effect_is_not_reported_as_failed() {
    let state = Rc::new(RefCell::new(ServerState { vanishes: true, ..ServerState::default() }));
    let http = [1, 2].map(|process| ToolsHttp { state: Rc::clone(&state), process });
    let request = json!({"input": "Do it.", "stream": true});
    let (_, after, _) = survive(&MemoryStore::default(), Crash::Never, &config(""), &request, http);
    let calls = items(&after, "mcp_call");
    let charge = calls.iter().find(|call| call["name"] == "charge").unwrap();
    assert_eq!((state.borrow().charges.len(), &charge["status"]), (1, &json!("incomplete")), "{charge}");
}

#[test]
fn a_call_that_needs_an_approval_waits_for_the_caller() {
    let config = config("approve = [\"deploy\"]\n");
    let (store, state) = (MemoryStore::default(), Rc::new(RefCell::default()));
    let http = || [1, 2].map(|process| ToolsHttp { state: Rc::clone(&state), process });
    let request = json!({"input": "Do it.", "stream": true});
    let (_, after, _) = survive(&store, Crash::Never, &config, &request, http());
    let [request] = items(&after, "mcp_approval_request")[..] else { panic!("{after:?}") };
    assert_eq!(
        (&request["name"], &request["arguments"]),
        (&json!("deploy"), &json!("{\"target\":\"prod\"}"))
    );
    assert_eq!(state.borrow().deployments, 0);
    let id = &after.last().unwrap()["response"]["id"];
    let answered = |approve: bool, request: &Value| {
        let approval =
            json!({"type": "mcp_approval_response", "approval_request_id": request, "approve": approve});
        json!({"previous_response_id": id, "input": [approval], "stream": true})
    };
    let approved = answered(true, &request["id"]);
    let appends = {
        // Counts the appends.
        let (store, state) = (store.copy(), Rc::new(RefCell::new(ServerState::default())));
        let http = [1, 2].map(|process| ToolsHttp { state: Rc::clone(&state), process });
        survive(&store, Crash::Never, &config, &approved, http).2
    };
    for at in 1..=appends {
        for crash in [Crash::Before(at), Crash::After(at)] {
            let (store, state) = (store.copy(), Rc::new(RefCell::new(ServerState::default())));
            let http = [1, 2].map(|process| ToolsHttp { state: Rc::clone(&state), process });
            let (_, after, _) = survive(&store, crash, &config, &approved, http);
            let [call] = items(&after, "mcp_call")[..] else { panic!("{crash:?}: {after:?}") };
            let (deployments, unknown) = (state.borrow().deployments, call["status"] == "incomplete");
            assert_eq!(call["approval_request_id"], request["id"]);
            assert!(deployments == 1 || unknown && deployments == 0, "{crash:?}: {deployments} {call}");
            assert_eq!(state.borrow().wrong_prompts, Vec::<String>::new(), "{crash:?}");
        }
    }
    let (_, after, _) = survive(&store, Crash::Never, &config, &answered(false, &request["id"]), http());
    assert!(items(&after, "mcp_call").is_empty());
    assert_eq!((state.borrow().deployments, state.borrow().wrong_prompts.clone()), (0, Vec::new()));
}

#[test]
fn a_call_that_broke_off_cannot_be_approved() {
    let config = config("approve = [\"deploy\"]\n");
    let state = Rc::new(RefCell::new(ServerState { breaks_off: true, ..ServerState::default() }));
    let (store, http) =
        (MemoryStore::default(), || [1, 2].map(|process| ToolsHttp { state: Rc::clone(&state), process }));
    let request = json!({"input": "Do it.", "stream": true});
    let (_, after, _) = survive(&store, Crash::Never, &config, &request, http());
    let last = after.last().unwrap();
    assert_eq!(last["type"], "response.failed", "{last}");
    let shown = after.iter().any(|event| event.to_string().contains("mcp_approval_request"));
    assert!(!shown, "{after:?}");
    // A client that guesses the id of the request can't approve it either.
    let id = last["response"]["id"].as_str().unwrap();
    let request = format!("mcpr_{}_0", id.trim_start_matches("resp_"));
    let approval = json!({"type": "mcp_approval_response", "approval_request_id": request, "approve": true});
    let approved = json!({"previous_response_id": id, "input": [approval], "stream": true});
    let (_, after, _) = survive(&store, Crash::Never, &config, &approved, http());
    assert_eq!(after.last().unwrap()["type"], "response.failed", "{after:?}");
    assert_eq!(state.borrow().deployments, 0);
}
