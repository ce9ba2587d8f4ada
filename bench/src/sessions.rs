//! What sessions cost: a turn, its durable writes, a long past, and very many of them.

mod inside;
mod many;
mod resume;
mod seed;
mod turns;
mod writes;

use std::{fmt::Write as _, io::Result, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::subject::Subject;

/// Everything that was measured.
pub(crate) struct Figures {
    turns: turns::Figures,
    writes: writes::Figures,
    resume: resume::Figures,
    many: many::Figures,
}

/// Where other hosts than the native one are found; without them only that is measured.
pub(crate) struct Hosts<'a> {
    /// The Lambda function's program.
    pub(crate) lambda: Option<&'a Path>,
    /// The endpoint of a DynamoDB Local.
    pub(crate) dynamodb: Option<&'a str>,
    /// The program of the project's chores, which serves the Worker.
    pub(crate) xtask: Option<&'a Path>,
}

/// Measures; `time` is how long the load runs altogether.
pub(crate) async fn measure(
    program: &Path,
    hosts: &Hosts<'_>,
    scratch: &Path,
    time: Duration,
) -> Result<Figures> {
    let upstream = Subject::upstream()?;
    let address = upstream.address.as_str();
    let template = seed::Template::record(address, &scratch.join("template")).await?;
    let turns = {
        let node = Subject::node(program, address, scratch)?;
        turns::measure(&upstream, &node, scratch, time).await?
    };
    let writes = writes::measure(hosts, address, scratch).await?;
    let resume = resume::measure(program, address, &template, scratch).await?;
    let many = many::measure(program, address, &template, scratch).await?;
    Ok(Figures { turns, writes, resume, many })
}

impl Figures {
    /// The tables.
    pub(crate) fn table(&self) -> String {
        let mut out = String::from("\n");
        self.turns.table(&mut out);
        self.writes.table(&mut out);
        self.resume.table(&mut out);
        self.many.table(&mut out);
        let _ = writeln!(out);
        out
    }

    /// For comparison between runs.
    pub(crate) fn figures(&self) -> Value {
        json!({
            "turn": self.turns.figures(),
            "writes": self.writes.figures(),
            "resume": self.resume.figures(),
            "many": self.many.figures(),
        })
    }
}
