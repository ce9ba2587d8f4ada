//! Measures what sessions cost: a turn, its writes, a long conversation, and very many sessions. Runs the
//! measurements one after the other; each has a file of its own.

mod embedded_node;
mod fixture;
mod many;
mod resume;
mod template;
mod turns;
mod writes;

use std::{fmt::Write as _, io::Result, path::Path, time::Duration};

use serde_json::{Value, json};

use self::{
    fixture::Fixture, many::ManySessionsFigures, resume::ResumeFigures, template::ConversationTemplate,
    turns::TurnFigures, writes::StoreFigures,
};
use crate::subject::Subject;

/// All results for sessions.
pub(crate) struct SessionFigures {
    turns: TurnFigures,
    writes: StoreFigures,
    resume: ResumeFigures,
    many: ManySessionsFigures,
}

/// The hosts besides the native one; a missing host is not measured.
pub(crate) struct Hosts<'a> {
    /// The Lambda function's program.
    pub(crate) lambda: Option<&'a Path>,
    /// The endpoint of a DynamoDB Local.
    pub(crate) dynamodb: Option<&'a str>,
    /// The xtask program, which serves the Worker.
    pub(crate) xtask: Option<&'a Path>,
}

/// Runs every measurement. `time` is the duration of the load on turns; the others take as long as they take.
pub(crate) async fn measure(
    program: &Path,
    hosts: &Hosts<'_>,
    scratch: &Path,
    time: Duration,
) -> Result<SessionFigures> {
    let upstream = Subject::upstream()?;
    let address = upstream.address.as_str();
    let template = ConversationTemplate::record(address, &scratch.join("template")).await?;
    // In a block: the node must have ended before other measurements use the machine.
    let turns = {
        let node = Subject::node(program, address, scratch)?;
        turns::measure(&upstream, &node, scratch, time).await?
    };
    let writes = writes::measure(hosts, address, scratch).await?;
    let fixture = Fixture { program, upstream: address, template: &template, directory: scratch.to_owned() };
    let resume = resume::measure(&fixture).await?;
    let many = many::measure(&fixture).await?;
    Ok(SessionFigures { turns, writes, resume, many })
}

impl SessionFigures {
    /// The tables for people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::from("\n");
        self.turns.table(&mut out);
        self.writes.table(&mut out);
        self.resume.table(&mut out);
        self.many.table(&mut out);
        let _ = writeln!(out);
        out
    }

    /// The figures for comparison.
    pub(crate) fn figures(&self) -> Value {
        json!({
            "turn": self.turns.figures(),
            "writes": self.writes.figures(),
            "resume": self.resume.figures(),
            "many": self.many.figures(),
        })
    }
}
