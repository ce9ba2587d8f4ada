//! The configuration of this isolate.

use std::cell::OnceCell;

use outlive::Config;
use wasm_bindgen::JsValue;
use worker::{
    Env, console_error,
    js_sys::{self, Reflect},
};

use crate::refusal::Refusal;

/// What `entry.mjs` calls the text of `agent.toml`.
const GLOBAL: &str = "OUTLIVE_CONFIG";

/// Reads the configuration that is bundled with this Worker, with the secrets that it names. Its mistakes are for the
/// operator, who reads the log, and for nobody else.
pub(crate) fn load(env: &Env) -> Result<Config, Refusal> {
    thread_local! {
        static CONFIG: OnceCell<Option<Config>> = const { OnceCell::new() };
    }
    CONFIG.with(|cell| cell.get_or_init(|| parse(env)).clone()).ok_or(Refusal::Misconfigured)
}

fn parse(env: &Env) -> Option<Config> {
    let Some(text) = text(&js_sys::global(), GLOBAL) else {
        console_error!("the bundle brings no configuration: {GLOBAL} is not a text");
        return None;
    };
    match Config::parse(&text, "agent.toml", |name| self::text(env, name)) {
        Ok(config) => Some(config),
        Err(mistakes) => {
            console_error!("{mistakes}");
            None
        }
    }
}

/// A variable and a secret are both a text property of the environment.
fn text(object: &impl AsRef<JsValue>, name: &str) -> Option<String> {
    Reflect::get(object.as_ref(), &name.into()).ok()?.as_string()
}
