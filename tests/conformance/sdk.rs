//! Runs the scripts of the official clients, of their types, of the AI SDK and of Open Responses, and adds the checks that they count.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    node::Host,
    suite::{FULL, INFERENCE, Suite},
};

pub(crate) fn run(suite: &Suite) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk");
    let python = env::var("OUTLIVE_PYTHON").unwrap_or_else(|_| "python3".into());
    let sockets = [
        ("openai for python, WebSocket", python.as_str(), "openai_socket_python.py"),
        ("openai for node, WebSocket", "node", "openai_socket_node.mjs"),
        ("open responses, WebSocket", "node", "openresponses_socket.mjs"),
    ];
    // A function's URL takes no WebSockets.
    let sockets = if suite.host == Host::Lambda { &[][..] } else { &sockets };
    let scripts = [
        ("openai for python", python.as_str(), "openai_python.py"),
        ("openai for node", "node", "openai_node.mjs"),
        ("anthropic for python", python.as_str(), "anthropic_python.py"),
        ("anthropic for node", "node", "anthropic_node.mjs"),
        ("ai sdk", "node", "ai_sdk.mjs"),
        ("openai's types", python.as_str(), "strict_openai.py"),
        ("open responses", "node", "openresponses.mjs"),
    ];
    for (name, program, script) in scripts.iter().chain(sockets) {
        let mut command = Command::new(program);
        command
            .arg(directory.join(script))
            .env("OPENAI_BASE_URL", format!("http://127.0.0.1:{}/v1", suite.node.port))
            .env("OPENAI_API_KEY", FULL)
            .env("ANTHROPIC_BASE_URL", format!("http://127.0.0.1:{}", suite.node.port))
            .env("ANTHROPIC_API_KEY", FULL)
            .env("OUTLIVE_INFERENCE_KEY", INFERENCE)
            .env("NO_PROXY", "127.0.0.1");
        run_script(suite, name, &mut command);
    }
}

/// Runs a program that counts its own checks, and adds its counts.
pub(crate) fn run_script(suite: &Suite, name: &str, command: &mut Command) {
    let printed = match command.stdin(Stdio::null()).stderr(Stdio::inherit()).output() {
        Ok(output) => output,
        Err(error) => {
            let program = command.get_program();
            suite.checks.that(&format!("{name}: {} starts", program.display()), false, "a process", error);
            return;
        }
    };
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    let (last, lines) = text
        .lines()
        .collect::<Vec<_>>()
        .split_last()
        .map_or(("", Vec::new()), |(last, lines)| (*last, lines.to_vec()));
    for line in lines {
        println!("{line}");
    }
    match count(last) {
        // Its last line is not printed: only the sum of all may be printed in this form.
        Some((passed, failed)) => {
            suite.checks.add(passed, failed);
            suite.checks.equal(&format!("{name}: exit code"), printed.status.success(), failed == 0);
        }
        None => suite.checks.that(&format!("{name}: the last line"), false, "N passed, M failed", last),
    }
}

/// Reads `N passed, M failed`.
fn count(line: &str) -> Option<(usize, usize)> {
    let (passed, failed) = line.split_once(", ")?;
    Some((passed.strip_suffix(" passed")?.parse().ok()?, failed.strip_suffix(" failed")?.parse().ok()?))
}
