//! Sets up what `resume.rs` and `many.rs` measure: a directory of stored conversations, and nodes that start over it.
//! Takes no times itself.

use std::{
    fs,
    io::Result,
    path::{Path, PathBuf},
    time::Duration,
};

use outlive::entry::LogId;
use tokio::net::TcpStream;

use super::{embedded_node::EmbeddedNode, template::ConversationTemplate};
use crate::{connection::Connection, load, subject::Subject};

/// A directory for one node's configuration and data, and what it takes to fill it and to start nodes over it.
pub(crate) struct Fixture<'a> {
    /// The native node's program.
    pub(crate) program: &'a Path,
    /// Address of the upstream.
    pub(crate) upstream: &'a str,
    /// What the stored conversations are copies of.
    pub(crate) template: &'a ConversationTemplate,
    pub(crate) directory: PathBuf,
}

impl Fixture<'_> {
    /// The same fixture in a directory below this one's.
    pub(crate) fn subdirectory(&self, name: &str) -> Self {
        Self { directory: self.directory.join(name), ..*self }
    }

    /// Where the nodes keep their data.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Stores one conversation of `turns` turns.
    pub(crate) async fn write_long_conversation(&self, log: LogId, turns: usize) -> Result<()> {
        self.template.write_long_conversation(self.upstream, &self.data(), log, turns).await
    }

    /// Stores `count` conversations of one turn each.
    pub(crate) async fn write_short_conversations(&self, count: usize) -> Result<()> {
        self.template.write_short_conversations(&self.data(), count).await
    }

    /// Starts the native node and returns it with a connection, once `/readyz` has answered 200.
    pub(crate) async fn start_node(&self) -> Result<(Subject, Connection)> {
        let node = Subject::node(self.program, self.upstream, &self.directory)?;
        let mut connection = Connection::new(TcpStream::connect(&node.address).await?)?;
        connection.round_trip(&load::get(&node.address, "/readyz")).await?;
        Ok((node, connection))
    }

    /// Starts a node inside this process, to count its calls of the store.
    pub(crate) fn start_embedded_node(&self) -> Result<EmbeddedNode> {
        EmbeddedNode::start(&self.data(), self.upstream)
    }

    /// Removes the directory. Its nodes must have been dropped.
    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_dir_all(self.directory)
    }
}

/// A duration in milliseconds, as the tables show it.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
