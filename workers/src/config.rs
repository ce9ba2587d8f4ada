//! Parses the configuration that is bundled with the Worker, once for each isolate. What it may hold is in the core.

use std::cell::OnceCell;

use outlive::Config;
use wasm_bindgen::JsValue;
use worker::{
    Env, console_error, console_warn,
    js_sys::{self, Reflect},
};

use crate::error::ShellError;

/// The global variable in which `entry.mjs` puts the text of `agent.toml`.
const CONFIG_GLOBAL: &str = "OUTLIVE_CONFIG";

/// Parses the bundled configuration and reads the secrets that it names. Its mistakes are logged for the operator and
/// never shown to a client.
pub(crate) fn load(env: &Env) -> Result<Config, ShellError> {
    thread_local! {
        static CONFIG: OnceCell<Option<Config>> = const { OnceCell::new() };
    }
    CONFIG.with(|cell| cell.get_or_init(|| parse(env)).clone()).ok_or(ShellError::Misconfigured)
}

fn parse(env: &Env) -> Option<Config> {
    let Some(text) = string(&js_sys::global(), CONFIG_GLOBAL) else {
        console_error!("the bundle has no configuration: {CONFIG_GLOBAL} is not a string");
        return None;
    };
    match Config::parse(&text, "agent.toml", |name| string(env, name)) {
        Ok(config) => {
            for warning in &config.warnings {
                console_warn!("warning: {warning}");
            }
            Some(config)
        }
        Err(mistakes) => {
            console_error!("{mistakes}");
            None
        }
    }
}

/// A property that is a string. Variables and secrets are string properties of the environment.
fn string(object: &impl AsRef<JsValue>, name: &str) -> Option<String> {
    Reflect::get(object.as_ref(), &name.into()).ok()?.as_string()
}
