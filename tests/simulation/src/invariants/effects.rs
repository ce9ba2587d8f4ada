//! Checks that a keyed effect happens once, an exclusive one at most once, and that the reported status is true.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::world::World;

/// The effects at the remote server, and the statuses that turns reported for them.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// For each key, whether its call succeeded.
    keys: BTreeMap<String, bool>,
    /// How often each function has had its effect for each subject: the order or target in its arguments.
    counts: BTreeMap<(String, String), u64>,
    /// The statuses in the items of the calls.
    reported: BTreeMap<(String, String), Vec<String>>,
}

impl Effects {
    /// A keyed function was called: a repeated key has no second effect and the same result. Returns whether the call
    /// succeeded, and whether its key is new.
    pub(crate) fn keyed(&mut self, subject: &str, key: &str, declines: bool) -> (bool, bool) {
        if let Some(succeeded) = self.keys.get(key) {
            return (*succeeded, false);
        }
        self.keys.insert(key.to_owned(), !declines);
        if !declines {
            self.add("charge", subject);
        }
        (!declines, true)
    }

    /// A function was called that has its effect each time.
    pub(crate) fn exclusive(&mut self, function: &str, subject: &str) {
        self.add(function, subject);
    }

    fn add(&mut self, function: &str, subject: &str) {
        *self.counts.entry((function.to_owned(), subject.to_owned())).or_default() += 1;
    }

    /// How often `function` has had its effect for `subject`.
    pub(crate) fn count(&self, function: &str, subject: &str) -> u64 {
        self.counts.get(&(function.to_owned(), subject.to_owned())).copied().unwrap_or_default()
    }

    /// Records the status of an item of a turn that has ended.
    pub(crate) fn report(&mut self, item: &Value) {
        let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("type") != "mcp_call" || text("server_label") != "t" || text("name") == "lookup" {
            return;
        }
        let arguments: Value = serde_json::from_str(text("arguments")).unwrap_or_default();
        let subject = arguments.get("order").or(arguments.get("target")).and_then(Value::as_str);
        let of = (text("name").to_owned(), subject.unwrap_or_default().to_owned());
        self.reported.entry(of).or_default().push(text("status").to_owned());
    }
}

/// Checks all effects at the end of the run.
pub(crate) fn effects(world: &World) {
    let effects = world.effects.borrow();
    for ((function, subject), count) in &effects.counts {
        if *count > 1 {
            world.violation(format_args!("{function} of {subject} had its effect {count} times"));
        }
    }
    for ((function, subject), statuses) in &effects.reported {
        let count = effects.count(function, subject);
        let bad = |why: &str| {
            world.violation(format_args!(
                "{function} of {subject} {why}: {count} effects, statuses {statuses:?}"
            ));
        };
        let any = |status: &str| statuses.iter().any(|end| end == status);
        // Equal calls share one effect, so one completed call means that it has happened.
        match () {
            () if !statuses
                .iter()
                .all(|end| ["completed", "failed", "incomplete"].contains(&end.as_str())) =>
            {
                bad("has a status that is no end");
            }
            () if any("completed") => {
                world.count("effects reported as completed");
                if count == 0 {
                    bad("is reported as completed and had no effect");
                }
            }
            () if any("incomplete") => {
                world.count(match (function.as_str(), count) {
                    ("charge", _) => "keyed calls of unknown outcome",
                    (_, 0) => "exclusive calls of unknown outcome, without an effect",
                    _ => "exclusive calls of unknown outcome, with an effect",
                });
            }
            () => {
                world.count("tool calls reported as failed");
                if count > 0 {
                    bad("is reported as failed and had an effect");
                }
            }
        }
    }
}
