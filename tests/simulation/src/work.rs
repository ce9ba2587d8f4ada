//! Clients that have work done: they open turns with tools, and give their word where one is asked for.

use std::{rc::Rc, time::Duration};

use futures_util::future::join;
use serde_json::{Value, json};

use crate::{
    client::Conversation,
    model::{self, AGAIN},
    turns::{Ask, Followed, Turn, follow},
    world::World,
};

/// Where a client has its work done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// The last turn of its line.
    pub(crate) previous: Option<String>,
    /// The conversation that it has for itself.
    conversation: Option<String>,
}

/// What may be asked for: single functions, some of them twice, and such that need an approval.
const WORK: [&[&str]; 8] = [
    &["lookup"],
    &["charge", "also-charge", AGAIN],
    &["deploy", AGAIN],
    &["lookup", "charge", "deploy", "remember"],
    &["remember", "also-remember", AGAIN],
    &["guarded"],
    &["deploy", "guarded", "charge"],
    &["charge", "deploy", "remember", "lookup", AGAIN],
];

/// A client that has one thing done after the other.
pub(crate) async fn worker(world: Rc<World>, number: u64) {
    let (client, mut place) = (FIRST + number, Place::default());
    for request in 0..world.schedule.requests {
        let pause = world.choices.borrow_mut().range(0..2_000);
        world.executor.sleep(Duration::from_millis(pause)).await;
        run(&world, client, &format!("{client}-{request}"), &mut place).await;
    }
}

/// The number of the first worker, beyond those of other clients.
const FIRST: u64 = 100;

/// Opens a turn with tools and follows it to its end.
pub(crate) async fn run(world: &Rc<World>, client: u64, name: &str, place: &mut Place) {
    let (work, in_conversation, most, continues) = {
        let mut choices = world.choices.borrow_mut();
        (choices.pick(&WORK, &[]), choices.chance(40), choices.chance(15), choices.chance(50))
    };
    if in_conversation && place.conversation.is_none() {
        let made = Conversation::retry(world, "/v1/conversations", &format!("own-{client}"), json!({})).await;
        place.conversation = made.and_then(|made| made.get("id")?.as_str().map(str::to_owned));
    }
    let conversation = place.conversation.clone().filter(|_| in_conversation);
    world.saw(if conversation.is_some() {
        "turns with tools in conversations"
    } else {
        "turns with tools in lines"
    });
    if let Some(id) = &conversation {
        let body = json!({"metadata": {"last": name}});
        Conversation::retry(world, &format!("/v1/conversations/{id}"), &format!("{name}-note"), body).await;
    }
    let content = model::content(name, work);
    let mut body = json!({"input": content});
    if most && let Some(fields) = body.as_object_mut() {
        fields.insert("max_tool_calls".into(), 2.into());
    }
    let previous = place.previous.as_deref().filter(|_| continues);
    let ask = ask(world, name, content, body, conversation.as_deref(), previous);
    let Followed::Opened(turn) = follow(world, &ask).await else { return };
    if !turn.over {
        return;
    }
    if conversation.is_none() {
        place.previous = Some(turn.id.clone());
    }
    for request in requests(&turn) {
        words(world, name, &request, &turn, conversation.as_deref(), place).await;
    }
}

fn ask(
    world: &World,
    name: &str,
    content: String,
    mut body: Value,
    conversation: Option<&str>,
    previous: Option<&str>,
) -> Ask {
    let mut choices = world.choices.borrow_mut();
    let (background, cancels) = (choices.chance(50), choices.chance(10));
    let fields = [
        ("model", choices.pick(&["all", "all", "faulty"], "all").into()),
        ("background", background.into()),
        ("stream", true.into()),
        ("conversation", conversation.into()),
        ("previous_response_id", previous.filter(|_| conversation.is_none()).into()),
        ("max_output_tokens", 200.into()),
    ];
    if let Some(body) = body.as_object_mut() {
        body.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    }
    Ask { name: name.to_owned(), content, body, background, cancels }
}

/// The approvals that a turn asks for.
fn requests(turn: &Turn) -> Vec<String> {
    let last = turn.events.values().next_back().map(String::as_str).unwrap_or_default();
    let last: Value = serde_json::from_str(last).unwrap_or_default();
    let items = last.pointer("/response/output").and_then(Value::as_array).into_iter().flatten();
    let asks = items.filter(|item| item.get("type") == Some(&"mcp_approval_request".into()));
    asks.filter_map(|item| Some(item.get("id")?.as_str()?.to_owned())).collect()
}

/// Gives a word on a request, or two: one after the other or both at once; or none.
async fn words(
    world: &Rc<World>,
    business: &str,
    request: &str,
    asked: &Turn,
    conversation: Option<&str>,
    place: &mut Place,
) {
    let (pause, manner, [first, second]) = {
        let mut choices = world.choices.borrow_mut();
        (choices.range(0..8_000), choices.range(0..10), [choices.chance(65), choices.chance(65)])
    };
    if manner == 0 {
        return;
    }
    let generation = world.generation();
    world.executor.sleep(Duration::from_millis(pause)).await;
    if world.generation() != generation {
        world.saw("words that were given after a crash");
    }
    let word = |number: u32, yes: bool| {
        let name = format!("{business}-word-{number}");
        let content = model::content(&name, &[]);
        let item = json!({"type": "mcp_approval_response", "approval_request_id": request, "approve": yes});
        let input = json!([item, {"type": "message", "role": "user", "content": content}]);
        let ask = ask(world, &name, content, json!({"input": input}), conversation, Some(&asked.id));
        world.approvals.borrow_mut().say(request, business, &name, yes);
        async move {
            let followed = follow(world, &ask).await;
            let taken = match &followed {
                Followed::Opened(_) => true,
                Followed::Refused => false,
                Followed::Lost => return None,
            };
            let learned = world.approvals.borrow_mut().learn(request, &name, taken);
            learned.unwrap_or_else(|why| world.violation(why));
            match followed {
                Followed::Opened(turn) if turn.over => Some(turn.id),
                _ => None,
            }
        }
    };
    let last = match manner {
        1..6 => word(1, first).await,
        6..8 => {
            let one = word(1, first).await;
            word(2, second).await.or(one)
        }
        _ => {
            let (one, other) = join(word(1, first), word(2, second)).await;
            one.or(other)
        }
    };
    if conversation.is_none() && last.is_some() {
        place.previous = last;
    }
}
