//! A keyed effect happens once and an exclusive one at most once, and what a call says of its effect is true.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::world::World;

/// What has happened at the remote server.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// What came of each key: whether it was done.
    keys: BTreeMap<String, bool>,
    /// How often each function has had its effect, for each business.
    happened: BTreeMap<(String, String), u64>,
    /// How the items of the calls say that they ended.
    told: BTreeMap<(String, String), Vec<String>>,
}

impl Effects {
    /// A function was called that knows keys: it does the same business once, and answers the same again. Says whether it
    /// was done, and whether this was the first time.
    pub(crate) fn keyed(&mut self, business: &str, key: &str, declines: bool) -> (bool, bool) {
        if let Some(done) = self.keys.get(key) {
            return (*done, false);
        }
        self.keys.insert(key.to_owned(), !declines);
        if !declines {
            self.happens("charge", business);
        }
        (!declines, true)
    }

    /// A function was called that does it each time.
    pub(crate) fn exclusive(&mut self, function: &str, business: &str) {
        self.happens(function, business);
    }

    fn happens(&mut self, function: &str, business: &str) {
        *self.happened.entry((function.to_owned(), business.to_owned())).or_default() += 1;
    }

    /// How often `function` has had its effect for `business`.
    pub(crate) fn count(&self, function: &str, business: &str) -> u64 {
        self.happened.get(&(function.to_owned(), business.to_owned())).copied().unwrap_or_default()
    }

    /// An item of a turn that has ended.
    pub(crate) fn tell(&mut self, item: &Value) {
        let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("type") != "mcp_call" || text("server_label") != "t" || text("name") == "lookup" {
            return;
        }
        let arguments: Value = serde_json::from_str(text("arguments")).unwrap_or_default();
        let business = arguments.get("order").or(arguments.get("target")).and_then(Value::as_str);
        let of = (text("name").to_owned(), business.unwrap_or_default().to_owned());
        self.told.entry(of).or_default().push(text("status").to_owned());
    }
}

/// Looks at all effects, once everything has happened.
pub(crate) fn effects(world: &World) {
    let effects = world.effects.borrow();
    for ((function, business), count) in &effects.happened {
        if *count > 1 {
            world.violation(format_args!("{function} of {business} happened {count} times"));
        }
    }
    for ((function, business), ends) in &effects.told {
        let count = effects.count(function, business);
        let bad = |why: &str| {
            world.violation(format_args!(
                "{function} of {business} {why}: it happened {count} times, {ends:?}"
            ));
        };
        let any = |status: &str| ends.iter().any(|end| end == status);
        match () {
            () if !ends.iter().all(|end| ["completed", "failed", "incomplete"].contains(&end.as_str())) => {
                bad("did not end");
            }
            () if any("completed") => {
                world.saw("effects that were told");
                if count == 0 {
                    bad("claims to have happened");
                }
            }
            () if any("incomplete") => {
                world.saw(match (function.as_str(), count) {
                    ("charge", _) => "keyed effects that nobody can tell of",
                    (_, 0) => "exclusive effects that nobody can tell of, and did not happen",
                    _ => "exclusive effects that nobody can tell of, and happened",
                });
            }
            () => {
                world.saw("calls that certainly failed");
                if count > 0 {
                    bad("claims to have failed");
                }
            }
        }
    }
}
