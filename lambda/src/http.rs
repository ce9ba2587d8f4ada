//! The `Http` port: the native node's, since both run on tokio and hyper.

pub(crate) use outlive_server::http::HttpClient;
