//! Servers that only a request names, servers that lie, and what the node says to each.

use serde_json::{Value, json};

use super::{does, of_type, output, outputs, param, script, server, unique, why};
use crate::{
    mcp::{TOKEN, WRONG_ANSWERS},
    responses::{create, text, with},
    suite::Suite,
};

/// Servers that only the request names.
pub(super) fn strangers(suite: &Suite) {
    let checks = &suite.checks;
    let port = suite.mcp.shop.port;
    let guest =
        json!({"type": "mcp", "server_label": "guest", "server_url": format!("http://127.0.0.1:{port}/mcp")});
    let target = unique(suite, "guest");
    let deploy = format!("call guest__deploy {{\"target\": \"{target}\"}}");
    let last_prompt = does(suite, &deploy, std::slice::from_ref(&guest));
    checks.equal(
        "a stranger asks for approval",
        (of_type(&last_prompt, "mcp_approval_request").len(), suite.mcp.shop.effects(&target).len()),
        (1, 0),
    );
    let trusted = with(guest.clone(), "require_approval", json!("never"));
    let made = does(suite, &deploy, &[trusted]);
    checks.equal("unless the request says no", outputs(&made), [format!("deployed to {target}")]);
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
        let case = format!("a stranger, {field} {change}");
        let answer = create(suite, &script("hello", &[with(guest.clone(), field, change)]));
        let expected =
            if param_of.is_empty() { (200, None) } else { (400, Some(format!("tools[0].{param_of}"))) };
        let saw = if answer.status == 200 { (200, None) } else { param(&answer) };
        checks.equal(&case, saw, expected);
    }
    let unknown = create(suite, &script("hello", &[server("nowhere")]));
    checks.equal("an unknown label", param(&unknown), (400, Some("tools[0].server_label".into())));
    let twice = create(suite, &script("hello", &[server("shop"), server("shop")]));
    checks.equal("a label twice", param(&twice), (400, Some("tools[1].server_label".into())));
    let nobody = does(suite, "hello", &[server("nobody")]);
    let list = of_type(&nobody, "mcp_list_tools").first().map(|list| list["error"].is_string());
    checks.equal("a server that is away", (&nobody["status"], list), (&json!("completed"), Some(true)));
}

/// Whatever a server does, the turn ends, and says what came of the call.
pub(super) fn lies(suite: &Suite) {
    suite.each(&WRONG_ANSWERS, |lie| {
        let made = does(suite, &format!("call liar-{lie}__charge"), &[server(&format!("liar-{lie}"))]);
        let call = of_type(&made, "mcp_call").first().map(|call| (*call).clone()).unwrap_or_default();
        let shown = why(&call);
        let expected = match *lie {
            "sampling" => output(&call).contains("-32601"),
            "redirect" => call["status"] == "failed" && shown.contains("307"),
            _ => call["status"] != "completed" && shown.contains("not known"),
        };
        suite.checks.that(
            &format!("the lie {lie}"),
            made["status"] == "completed" && expected,
            "a call that failed, in a turn that ended",
            &made["output"],
        );
        let told = text(&made);
        suite.checks.that(
            &format!("the lie {lie}, told"),
            !told.is_empty() && (*lie == "sampling" || told.starts_with("Error: ")),
            "what came of it",
            &told,
        );
    });
    let called = suite.mcp.faulty_server.get("/calls");
    let followed = called.as_array().into_iter().flatten().any(|path| path.to_string().contains("elsewhere"));
    suite.checks.that("no redirect is followed", !followed, "no call elsewhere", &called);
    let exclusive = called.as_array().into_iter().flatten().filter(|path| *path == "/stall").count();
    suite.checks.equal("what may have had an effect is not called again", exclusive, 1);
}

pub(super) fn large(suite: &Suite) {
    let made = does(suite, "call shop__big {\"bytes\": 1000000}", &[server("shop")]);
    let shown = outputs(&made).first().copied().unwrap_or_default().to_owned();
    let end = shown.get(shown.len().saturating_sub(30)..).unwrap_or_default();
    suite.checks.that(
        "a megabyte is cut",
        (60_000..70_000).contains(&shown.len()) && end.ends_with("[The rest was cut off.]"),
        "64 KiB, and a word on it",
        (shown.len(), end),
    );
    suite.checks.that(
        "a megabyte, told",
        text(&made).ends_with("[The rest was cut off.]"),
        "the word on it",
        (),
    );
}

/// What the node says to a server of tools, nobody else hears.
pub(super) fn secret(suite: &Suite) {
    let checks = &suite.checks;
    let heard = suite.mcp.shop.get("/authorizations");
    checks.equal("who says what it is", heard, json!(["", format!("Bearer {TOKEN}")]));
    checks.equal("who is told nothing", suite.mcp.faulty_server.get("/authorizations"), json!([""]));
    checks.equal("the provider does not hear it", suite.upstream.records().mentioning(TOKEN).len(), 0);
}
