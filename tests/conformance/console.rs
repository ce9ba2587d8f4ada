//! Runs the checks of the console in a real browser. The script counts them.

use std::{path::Path, process::Command};

use crate::{
    node::Host,
    sdk::run_script,
    suite::{FULL, Suite},
};

pub(crate) fn run(suite: &Suite) {
    // An instance of a function serves one request at a time, so a stream would delay all other requests of the page.
    if suite.host == Host::Lambda {
        return;
    }
    let mut command = Command::new("node");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/console.mjs"))
        .env("BASE_URL", format!("http://127.0.0.1:{}", suite.node.port))
        .env("KEY", FULL);
    run_script(suite, "console", &mut command);
}
