//! Checks what a budget's log says of an instance: its debts, and what it returns.

use super::{
    bills::{Script, TestNode, node, send},
    *,
};
use crate::{
    ledger::BudgetOwner,
    money::NanoUsd,
    testing::{Fault, Faulty},
    time::Timestamp,
};

/// A dollar for a million tokens of input, and a hundred for a million tokens of output.
const PRICE: &str = "[[price]]\ncandidate = \"p/m\"\ninput = \"1\"\noutput = \"100\"\n";

/// A node with a budget of ten cents an hour, over the logs of an earlier one.
fn start(store: &MemoryStore, output: u64) -> TestNode {
    let answer = format!(
        "{{\"choices\":[{{\"message\":{{\"content\":\"hi\"}},\"finish_reason\":\"stop\"}}],\
          \"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":{output}}}}}"
    );
    let script = Script::new(Box::leak(answer.into_boxed_str()), End::Clean);
    let budget = format!("{PRICE}[budget]\nlimit_usd = \"0.1\"\nper = \"hour\"\n");
    node("compatible", "m", &budget, store.clone(), script)
}

fn ask(node: &TestNode) -> u16 {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let body = json!({"model": "default", "max_tokens": 100, "messages": messages});
    send(node, "/v1/chat/completions", &body, false)
}

fn pass(node: &TestNode, seconds: u64) {
    block_on(node.platform().sleep(Duration::from_secs(seconds)));
}

/// What the log says that instances hold or have spent, and what this one has spent.
fn granted(node: &TestNode) -> (u64, u64) {
    let ledger = node.ledger().borrow();
    let NanoUsd(spent) = ledger.allowance(&BudgetOwner::Node).spent();
    let now = node.platform().now().0;
    (ledger.granted(&BudgetOwner::Node, Timestamp(now - now % 3_600_000)).0, spent)
}

#[test]
fn an_overrun_is_owed_by_the_next_calls_and_by_the_next_start() {
    // At most 100 tokens were requested, and 1,500 are billed: 15 cents.
    let store = MemoryStore::default();
    let node = start(&store, 1_500);
    assert_eq!(ask(&node), 200);
    assert_eq!(ask(&node), 429, "the debt is not committed yet");
    pass(&node, 1);
    assert_eq!(granted(&node), (150_001_000, 150_001_000));
    assert_eq!(ask(&node), 429);
    let next = start(&store, 1);
    assert_eq!(ask(&next), 429, "the log grants nothing after the debt");
    pass(&next, 3_600);
    assert_eq!(ask(&next), 200, "the debt ends with the period");
}

#[test]
fn what_calls_no_longer_need_is_returned() {
    let store = MemoryStore::default();
    let node = start(&store, 1);
    assert_eq!(ask(&node), 200);
    let (granted_before, spent) = granted(&node);
    assert!(granted_before > 10_000_000, "the worst case: {granted_before}");
    pass(&node, 1);
    assert_eq!(granted(&node), (1_000_000 + spent, spent), "one slice is kept");
    block_on(node.return_grants());
    assert_eq!(granted(&node), (spent, spent));
}

#[test]
fn calls_at_once_do_not_take_from_each_other_what_two_budgets_grant() {
    const BEGINNING: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let text = format!(
        "{PRICE}[[provider]]\nname = \"p\"\nkind = \"compatible\"\nbase_url = \"https://p.test\"\n\
         budget = {{ limit_usd = \"100\", per = \"hour\" }}\n[budget]\nlimit_usd = \"100\"\nper = \"hour\"\n\
         [[model]]\nname = \"default\"\ncandidates = [\"p/m\"]\n"
    );
    let config = Config::parse(&text, "test", |_| None).unwrap();
    // Each call of the store takes a while, so that calls overlap.
    let store = Faulty::new(MemoryStore::default(), async |_| {
        let mut polls = 0;
        std::future::poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls < 4 { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        Fault::None
    });
    let node = Node::new(TestPlatform::with_http(store, Script::new(BEGINNING, End::Stall)), config);
    let ask = || {
        let messages = json!([{"role": "user", "content": "hi"}]);
        let body = json!({"model": "default", "max_tokens": 10_000, "stream": true, "messages": messages});
        let request = Request::post("/v1/chat/completions").header("host", "localhost");
        let request = request.body(Body::from(Bytes::from(body.to_string()))).unwrap();
        node.handle(request, Arrival { loopback: true, log: None })
    };
    // The answers go on, so that each call holds its money.
    let answers = block_on(futures_util::future::join_all((0..40).map(|_| ask())));
    assert_eq!(answers.iter().map(|answer| answer.status().as_u16()).collect::<Vec<_>>(), [200; 40]);
    let sent = node.platform().http().sent();
    assert!(sent.iter().all(|body| body["max_tokens"] == 10_000), "no call was given less");
}
