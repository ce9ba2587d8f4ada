//! Checks servers that only a request names, servers that answer wrongly, large outputs, and the tokens of servers.

use serde_json::{Value, json};

use super::{error_text, of_type, output, outputs, param, run_agent, script, server, unique};
use crate::{
    mcp::{TOKEN, WRONG_ANSWERS},
    responses::{create, text, with},
    suite::Suite,
};

/// Servers that only the request names: calls need an approval, and the URL must be an allowed host.
pub(super) fn request_servers(suite: &Suite) {
    let checks = &suite.checks;
    let port = suite.mcp.shop.port;
    let guest =
        json!({"type": "mcp", "server_label": "guest", "server_url": format!("http://127.0.0.1:{port}/mcp")});
    let target = unique(suite, "guest");
    let deploy = format!("call guest__deploy {{\"target\": \"{target}\"}}");
    let asking = run_agent(suite, &deploy, std::slice::from_ref(&guest));
    checks.equal(
        "server of the request: approval requests and effects",
        (of_type(&asking, "mcp_approval_request").len(), suite.mcp.shop.effects(&target).len()),
        (1, 0),
    );
    let trusted = with(guest.clone(), "require_approval", json!("never"));
    let made = run_agent(suite, &deploy, &[trusted]);
    checks.equal(
        "server of the request without approvals: outputs",
        outputs(&made),
        [format!("deployed to {target}")],
    );
    for (field, change, param_of) in [
        ("server_url", json!("https://example.com/mcp"), "server_url"),
        ("server_url", json!(format!("http://127.0.0.1:{}/mcp", suite.mcp.faulty_server.port)), "server_url"),
        ("server_url", json!(format!("http://127.0.0.1:{port}@example.com/mcp")), "server_url"),
        ("server_url", json!(format!("http://example.com@127.0.0.1:{port}/mcp")), "server_url"),
        ("server_url", json!("http://169.254.169.254/latest/meta-data"), "server_url"),
        ("server_url", json!("file:///etc/passwd"), "server_url"),
        ("server_url", json!(7), "server_url"),
        ("server_url", Value::Null, "server_label"),
        ("server_label", json!("shop"), ""),
        ("server_label", json!("old"), "server_url"),
        ("server_label", json!("outlive"), "server_label"),
        ("server_label", json!("a b"), "server_label"),
        ("authorization", json!("Bearer secret-of-a-client"), "authorization"),
        ("headers", json!({"authorization": "secret-of-a-client"}), "headers"),
        ("connector_id", json!("connector_dropbox"), "connector_id"),
        ("allowed_tools", json!({"read_only": true}), "allowed_tools"),
    ] {
        let case = format!("server of the request, {field} {change}: error");
        let answer = create(suite, &script("hello", &[with(guest.clone(), field, change)]));
        let expected =
            if param_of.is_empty() { (200, None) } else { (400, Some(format!("tools[0].{param_of}"))) };
        let actual = if answer.status == 200 { (200, None) } else { param(&answer) };
        checks.equal(&case, actual, expected);
    }
    let unknown = create(suite, &script("hello", &[server("nowhere")]));
    checks.equal("unknown label: error", param(&unknown), (400, Some("tools[0].server_label".into())));
    let twice = create(suite, &script("hello", &[server("shop"), server("shop")]));
    checks.equal("label used twice: error", param(&twice), (400, Some("tools[1].server_label".into())));
    let unreachable = run_agent(suite, "hello", &[server("nobody")]);
    let list = of_type(&unreachable, "mcp_list_tools").first().map(|list| list["error"].is_string());
    checks.equal(
        "unreachable server: status of the turn and error of its list",
        (&unreachable["status"], list),
        (&json!("completed"), Some(true)),
    );
}

/// Whatever a server answers, the turn ends and the call has the status that fits.
pub(super) fn wrong_answers(suite: &Suite) {
    suite.each(&WRONG_ANSWERS, |wrong_answer| {
        let made = run_agent(
            suite,
            &format!("call liar-{wrong_answer}__charge"),
            &[server(&format!("liar-{wrong_answer}"))],
        );
        let call = of_type(&made, "mcp_call").first().map(|call| (*call).clone()).unwrap_or_default();
        let shown = error_text(&call);
        let expected = match *wrong_answer {
            "sampling" => output(&call).contains("-32601"),
            "redirect" => call["status"] == "failed" && shown.contains("307"),
            _ => call["status"] != "completed" && shown.contains("not known"),
        };
        suite.checks.that(
            &format!("wrong answer {wrong_answer}: status of the turn and the call"),
            made["status"] == "completed" && expected,
            "a call that failed, in a turn that ended",
            &made["output"],
        );
        let answer_text = text(&made);
        suite.checks.that(
            &format!("wrong answer {wrong_answer}: result in the prompt"),
            !answer_text.is_empty() && (*wrong_answer == "sampling" || answer_text.starts_with("Error: ")),
            "the error or output of the call",
            &answer_text,
        );
    });
    let called = suite.mcp.faulty_server.get("/calls");
    let followed = called.as_array().into_iter().flatten().any(|path| path.to_string().contains("elsewhere"));
    suite.checks.that(
        "redirect of a server: it is not followed",
        !followed,
        "no call of the redirect's target",
        &called,
    );
    let exclusive = called.as_array().into_iter().flatten().filter(|path| *path == "/stall").count();
    suite.checks.equal("exclusive call without an answer: number of calls", exclusive, 1);
}

pub(super) fn large_output(suite: &Suite) {
    let made = run_agent(suite, "call shop__big {\"bytes\": 1000000}", &[server("shop")]);
    let shown = outputs(&made).first().copied().unwrap_or_default().to_owned();
    let end = shown.get(shown.len().saturating_sub(30)..).unwrap_or_default();
    suite.checks.that(
        "large output: truncated, with a notice",
        (60_000..70_000).contains(&shown.len()) && end.ends_with("[The rest was cut off.]"),
        "about 64 KiB, with the notice at the end",
        (shown.len(), end),
    );
    suite.checks.that(
        "large output: the notice is in the prompt",
        text(&made).ends_with("[The rest was cut off.]"),
        "the notice at the end",
        (),
    );
}

/// Each server gets its own token only, and the provider none.
pub(super) fn tokens(suite: &Suite) {
    let checks = &suite.checks;
    let authorizations = suite.mcp.shop.get("/authorizations");
    checks.equal(
        "tokens that the official server got",
        authorizations,
        json!(["", format!("Bearer {TOKEN}")]),
    );
    checks.equal(
        "tokens that the faulty server got",
        suite.mcp.faulty_server.get("/authorizations"),
        json!([""]),
    );
    checks.equal(
        "requests to the provider with a server's token",
        suite.upstream.records().mentioning(TOKEN).len(),
        0,
    );
}
