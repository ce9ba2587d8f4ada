//! Turns with tools, whenever their process dies.

use std::{cell::RefCell, collections::BTreeSet, pin::Pin, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use serde_json::{Value, json};

use super::{CONFIG, Death, HESITATION, Words, streamed, survive};
use crate::{
    body::Body,
    entry::Kind,
    platform::{Http, HttpError},
    testing::MemoryStore,
};

/// What is outside, and outlives every process.
#[derive(Default)]
struct Outside {
    /// Effects with a key, which the server knows again.
    charges: BTreeSet<String>,
    /// Effects that happen each time.
    deployments: usize,
    looks: usize,
    /// The answer to the first charge is lost, and then the server is gone.
    vanishes: bool,
    /// What no provider may ever be asked.
    wrong: Vec<String>,
}

/// A provider that wants tools, and a server that has them.
#[derive(Clone)]
struct World {
    outside: Rc<RefCell<Outside>>,
    /// Another process is given other names for the same calls.
    process: u32,
}

impl Http for World {
    type Body = Words;

    async fn send(&self, mut request: Request<Body>, _: Duration) -> Result<Response<Words>, HttpError> {
        let is_server = request.uri().host() == Some("mcp.test");
        let body = std::future::poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await;
        let body = body.and_then(|frame| frame.unwrap().into_data().ok()).unwrap_or_default();
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        let charge = is_server && asked["params"]["name"] == "charge";
        if charge && self.outside.borrow().vanishes {
            if !self.outside.borrow().charges.is_empty() {
                return Err(HttpError::Connect("refused".into()));
            }
            self.serve(&asked);
            return Err(HttpError::Broken("reset".into()));
        }
        Ok(if is_server { self.serve(&asked) } else { self.tell(&asked) })
    }
}

impl World {
    fn tell(&self, asked: &Value) -> Response<Words> {
        let mut outside = self.outside.borrow_mut();
        let messages = asked["messages"].as_array().unwrap();
        let ids = |name: &str| -> Vec<&str> {
            let calls = messages.iter().flat_map(|m| m["tool_calls"].as_array().into_iter().flatten());
            match name {
                "call" => calls.map(|call| call["id"].as_str().unwrap()).collect(),
                _ => messages.iter().filter_map(|m| m["tool_call_id"].as_str()).collect(),
            }
        };
        if ids("call") != ids("result") {
            outside.wrong.push(format!("open calls: {asked}"));
        }
        if ids("call").is_empty() {
            let call = |index: usize, name: &str, arguments: Value| {
                let id = format!("call_{}_{index}", self.process);
                let function = json!({"name": name, "arguments": arguments.to_string()});
                json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
            };
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

    fn serve(&self, asked: &Value) -> Response<Words> {
        let mut outside = self.outside.borrow_mut();
        let text = |text: &str| json!({"content": [{"type": "text", "text": text}]});
        let result = match asked["method"].as_str().unwrap_or_default() {
            "initialize" => json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                                   "serverInfo": {"name": "t", "version": "1"}}),
            "tools/list" => {
                let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
                let tools: Vec<Value> = ["lookup", "charge", "deploy"].into_iter().map(tool).collect();
                json!({ "tools": tools })
            }
            "tools/call" => match asked["params"]["name"].as_str().unwrap() {
                "lookup" => {
                    outside.looks += 1;
                    text("12 degrees")
                }
                "charge" => {
                    let key = asked["params"]["_meta"]["outlive/key"].as_str().unwrap();
                    outside.charges.insert(key.to_owned());
                    text("charged")
                }
                _ => {
                    outside.deployments += 1;
                    text("deployed")
                }
            },
            _ if asked.get("id").is_none() => {
                return answer(202, String::new());
            }
            _ => {
                let error = json!({"code": -32601, "message": "there is no such method"});
                return answer(200, json!({"jsonrpc": "2.0", "id": asked["id"], "error": error}).to_string());
            }
        };
        answer(200, json!({"jsonrpc": "2.0", "id": asked["id"], "result": result}).to_string())
    }
}

fn answer(status: u16, body: String) -> Response<Words> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    let chunks = Some(Bytes::from(body)).filter(|body| !body.is_empty()).into_iter().collect();
    response.body(Words { chunks, waits: HESITATION }).unwrap()
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
fn effects_happen_as_often_as_they_may() {
    let config = config("");
    let asked = json!({"input": "Do it.", "stream": true});
    let run = |death| {
        let (store, outside) = (MemoryStore::default(), Rc::new(RefCell::default()));
        let worlds = [1, 2].map(|process| World { outside: Rc::clone(&outside), process });
        let (_, after, appends) = survive(&store, death, &config, &asked, worlds);
        let outside: &Outside = &outside.borrow();
        assert_eq!(outside.wrong, Vec::<String>::new(), "{death:?}");
        assert_eq!(outside.charges.len(), 1, "{death:?}: a keyed effect happens once");
        assert!(outside.deployments <= 1, "{death:?}: an exclusive effect happens at most once");
        let calls = items(&after, "mcp_call");
        let names: Vec<&str> = calls.iter().map(|call| call["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["lookup", "charge", "deploy", "remember"], "{death:?}");
        for call in calls {
            let unknown = call["status"] == "incomplete";
            assert!(unknown || call["status"] == "completed", "{death:?}: {call}");
            assert!(!unknown || call["name"] == "deploy", "{death:?}: only that is left open");
            assert!(unknown || call["name"] != "deploy" || outside.deployments == 1, "{death:?}");
        }
        let notes = store.entries().iter().filter(|entry| entry.header().kind == Kind::NOTED).count();
        assert_eq!(notes, 1, "{death:?}");
        let said: Vec<&Value> =
            items(&after, "message").iter().map(|item| &item["content"][0]["text"]).collect();
        assert_eq!(said, ["Let me see.", "All done."], "{death:?}");
        (appends, outside.looks)
    };
    let (appends, looks) = run(Death::Never);
    assert_eq!(looks, 1);
    let mut unlucky = 0;
    for at in 1..=appends {
        for death in [Death::Before(at), Death::After(at)] {
            unlucky += usize::from(run(death).1 > 1);
        }
    }
    assert!(appends >= 9, "{appends} appends are too few to mean anything");
    assert!(unlucky > 0, "no pure call was ever repeated");
}

#[test]
fn what_may_have_happened_is_not_said_to_have_failed() {
    let outside = Rc::new(RefCell::new(Outside { vanishes: true, ..Outside::default() }));
    let worlds = [1, 2].map(|process| World { outside: Rc::clone(&outside), process });
    let asked = json!({"input": "Do it.", "stream": true});
    let (_, after, _) = survive(&MemoryStore::default(), Death::Never, &config(""), &asked, worlds);
    let calls = items(&after, "mcp_call");
    let charge = calls.iter().find(|call| call["name"] == "charge").unwrap();
    assert_eq!((outside.borrow().charges.len(), &charge["status"]), (1, &json!("incomplete")), "{charge}");
}

#[test]
fn what_needs_an_approval_waits_for_the_callers_word() {
    let config = config("approve = [\"deploy\"]\n");
    let (store, outside) = (MemoryStore::default(), Rc::new(RefCell::default()));
    let worlds = || [1, 2].map(|process| World { outside: Rc::clone(&outside), process });
    let asked = json!({"input": "Do it.", "stream": true});
    let (_, after, _) = survive(&store, Death::Never, &config, &asked, worlds());
    let [request] = items(&after, "mcp_approval_request")[..] else { panic!("{after:?}") };
    assert_eq!(
        (&request["name"], &request["arguments"]),
        (&json!("deploy"), &json!("{\"target\":\"prod\"}"))
    );
    assert_eq!(outside.borrow().deployments, 0);
    let id = &after.last().unwrap()["response"]["id"];
    let word = |approve: bool, request: &Value| {
        let word =
            json!({"type": "mcp_approval_response", "approval_request_id": request, "approve": approve});
        json!({"previous_response_id": id, "input": [word], "stream": true})
    };
    let approved = word(true, &request["id"]);
    let appends = {
        // Once to count.
        let (store, outside) = (store.copy(), Rc::new(RefCell::new(Outside::default())));
        let worlds = [1, 2].map(|process| World { outside: Rc::clone(&outside), process });
        survive(&store, Death::Never, &config, &approved, worlds).2
    };
    for at in 1..=appends {
        for death in [Death::Before(at), Death::After(at)] {
            let (store, outside) = (store.copy(), Rc::new(RefCell::new(Outside::default())));
            let worlds = [1, 2].map(|process| World { outside: Rc::clone(&outside), process });
            let (_, after, _) = survive(&store, death, &config, &approved, worlds);
            let [call] = items(&after, "mcp_call")[..] else { panic!("{death:?}: {after:?}") };
            let (deployments, unknown) = (outside.borrow().deployments, call["status"] == "incomplete");
            assert_eq!(call["approval_request_id"], request["id"]);
            assert!(deployments == 1 || unknown && deployments == 0, "{death:?}: {deployments} {call}");
            assert_eq!(outside.borrow().wrong, Vec::<String>::new(), "{death:?}");
        }
    }
    let (_, after, _) = survive(&store, Death::Never, &config, &word(false, &request["id"]), worlds());
    assert!(items(&after, "mcp_call").is_empty());
    assert_eq!((outside.borrow().deployments, outside.borrow().wrong.clone()), (0, Vec::new()));
}
