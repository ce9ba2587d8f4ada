//! Opens turns with tools, and decides the approvals that they ask for.

use std::{rc::Rc, time::Duration};

use futures_util::future::join;
use serde_json::{Value, json};

use crate::{
    client::post_until_acknowledged,
    model::{self, REPEAT},
    turns::{FollowOutcome, Turn, TurnRequest, follow},
    world::World,
};

/// What the next turn of a client can continue.
#[derive(Clone, Debug, Default)]
pub(crate) struct TurnContext {
    /// The last response outside of a conversation.
    pub(crate) previous_response: Option<String>,
    /// The client's own conversation, once it has one.
    conversation: Option<String>,
}

/// The functions that a turn may call: single ones, several, the same one twice, and one that needs an approval.
const FUNCTION_SETS: [&[&str]; 8] = [
    &["lookup"],
    &["charge", "also-charge", REPEAT],
    &["deploy", REPEAT],
    &["lookup", "charge", "deploy", "remember"],
    &["remember", "also-remember", REPEAT],
    &["guarded"],
    &["deploy", "guarded", "charge"],
    &["charge", "deploy", "remember", "lookup", REPEAT],
];

/// Runs a client that only opens turns with tools, one after the other.
pub(crate) async fn worker(world: Rc<World>, number: u64) {
    let (client, mut context) = (FIRST_WORKER + number, TurnContext::default());
    for request in 0..world.plan.requests {
        let pause = world.client_random.borrow_mut().range(0..2_000);
        world.executor.sleep(Duration::from_millis(pause)).await;
        run(&world, client, &format!("{client}-{request}"), &mut context).await;
    }
}

/// The number of the first worker, above those of the other clients.
const FIRST_WORKER: u64 = 100;

/// Opens a turn with tools, follows it to its end, and decides its approvals.
pub(crate) async fn run(world: &Rc<World>, client: u64, name: &str, context: &mut TurnContext) {
    let (functions, in_conversation, has_call_limit, continues) = {
        let mut choices = world.client_random.borrow_mut();
        (choices.pick(&FUNCTION_SETS, &[]), choices.chance(40), choices.chance(15), choices.chance(50))
    };
    if in_conversation && context.conversation.is_none() {
        let made =
            post_until_acknowledged(world, "/v1/conversations", &format!("own-{client}"), json!({})).await;
        context.conversation = made.and_then(|made| made.get("id")?.as_str().map(str::to_owned));
    }
    let conversation = context.conversation.clone().filter(|_| in_conversation);
    world.count(if conversation.is_some() {
        "turns with tools in conversations"
    } else {
        "turns with tools outside of conversations"
    });
    // A change of the metadata just before the turn: an entry that is no part of a turn.
    if let Some(id) = &conversation {
        let body = json!({"metadata": {"last": name}});
        post_until_acknowledged(world, &format!("/v1/conversations/{id}"), &format!("{name}-note"), body)
            .await;
    }
    let content = model::content(name, functions);
    let mut body = json!({"input": content});
    if has_call_limit && let Some(fields) = body.as_object_mut() {
        fields.insert("max_tool_calls".into(), 2.into());
    }
    let previous_response = context.previous_response.as_deref().filter(|_| continues);
    let turn_request = turn_request(world, name, content, body, conversation.as_deref(), previous_response);
    let FollowOutcome::Opened(turn) = follow(world, &turn_request).await else { return };
    // The ids of the approval requests are in the terminal event.
    if !turn.ended {
        return;
    }
    if conversation.is_none() {
        context.previous_response = Some(turn.id.clone());
    }
    for request in approval_requests(&turn) {
        decide(world, name, &request, &turn, conversation.as_deref(), context).await;
    }
}

/// Adds to `body` what each turn draws.
fn turn_request(
    world: &World,
    name: &str,
    content: String,
    mut body: Value,
    conversation: Option<&str>,
    previous_response: Option<&str>,
) -> TurnRequest {
    let mut choices = world.client_random.borrow_mut();
    let (in_background, is_cancelled) = (choices.chance(50), choices.chance(10));
    let fields = [
        ("model", choices.pick(&["all", "all", "faulty"], "all").into()),
        ("background", in_background.into()),
        ("stream", true.into()),
        ("conversation", conversation.into()),
        ("previous_response_id", previous_response.filter(|_| conversation.is_none()).into()),
        ("max_output_tokens", 200.into()),
    ];
    if let Some(body) = body.as_object_mut() {
        body.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    }
    TurnRequest { name: name.to_owned(), content, body, in_background, is_cancelled }
}

/// The ids of the approvals that a turn asks for.
fn approval_requests(turn: &Turn) -> Vec<String> {
    let last = turn.events.values().next_back().map(String::as_str).unwrap_or_default();
    let last: Value = serde_json::from_str(last).unwrap_or_default();
    let items = last.pointer("/response/output").and_then(Value::as_array).into_iter().flatten();
    let asks = items.filter(|item| item.get("type") == Some(&"mcp_approval_request".into()));
    asks.filter_map(|item| Some(item.get("id")?.as_str()?.to_owned())).collect()
}

/// Decides an approval request once, twice in a row, twice at once, or not at all.
async fn decide(
    world: &Rc<World>,
    subject: &str,
    request: &str,
    asked: &Turn,
    conversation: Option<&str>,
    context: &mut TurnContext,
) {
    let (pause, way, [first, second]) = {
        let mut choices = world.client_random.borrow_mut();
        (choices.range(0..8_000), choices.range(0..10), [choices.chance(65), choices.chance(65)])
    };
    if way == 0 {
        return;
    }
    let generation = world.generation();
    world.executor.sleep(Duration::from_millis(pause)).await;
    if world.generation() != generation {
        world.count("decisions sent after a crash");
    }
    let send_decision = |number: u32, approves: bool| {
        let name = format!("{subject}-word-{number}");
        let content = model::content(&name, &[]);
        let item =
            json!({"type": "mcp_approval_response", "approval_request_id": request, "approve": approves});
        let input = json!([item, {"type": "message", "role": "user", "content": content}]);
        let turn_request =
            turn_request(world, &name, content, json!({"input": input}), conversation, Some(&asked.id));
        // Recorded before it is sent, so that each of two decisions at once finds both.
        world.approvals.borrow_mut().decision_sent(request, subject, &name, approves);
        async move {
            let followed = follow(world, &turn_request).await;
            let accepted = match &followed {
                FollowOutcome::Opened(_) => true,
                FollowOutcome::Refused => false,
                FollowOutcome::Unknown => return None,
            };
            let answered = world.approvals.borrow_mut().decision_answered(request, &name, accepted);
            answered.unwrap_or_else(|why| world.violation(why));
            match followed {
                FollowOutcome::Opened(turn) if turn.ended => Some(turn.id),
                _ => None,
            }
        }
    };
    let last = match way {
        1..6 => send_decision(1, first).await,
        6..8 => {
            let one = send_decision(1, first).await;
            send_decision(2, second).await.or(one)
        }
        _ => {
            let (one, other) = join(send_decision(1, first), send_decision(2, second)).await;
            one.or(other)
        }
    };
    if conversation.is_none() && last.is_some() {
        context.previous_response = last;
    }
}
