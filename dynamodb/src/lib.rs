//! The `Store` port over one DynamoDB table, for the shells that run on tokio.
//!
//! In scope: the item layout, the requests that read and write it, and the connection they go over.
//! Out of scope: what entries mean (the core), the table's billing, backups and permissions (`template.yaml`), and when a
//! log is woken (the shell).

mod connection;
mod layout;
mod store;

pub use aws_config::SdkConfig;
pub use connection::environment;
pub use store::DynamoStore;
