//! The `Store` port over one DynamoDB table, for the shells that run on tokio.
//!
//! In scope: the item layout, the requests that read and write it, and the connection they go over.
//! Out of scope: what entries mean (the core), when a node looks for due logs (the shells), and the table's
//! permissions, billing and backups (`template.yaml`).

mod append;
mod connection;
mod erase;
mod error;
mod layout;
mod query;
mod store;
mod table;
mod transaction;

pub use aws_config::SdkConfig;
pub use connection::sdk_config;
pub use store::DynamoStore;
