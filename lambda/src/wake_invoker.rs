//! Invokes the function once more, so that another instance wakes a log. When a log needs that, the core decides.

use std::time::Duration;

use aws_sdk_lambda::{Client, config::timeout::TimeoutConfig, primitives::Blob, types::InvocationType};
use outlive::entry::LogId;
use outlive_dynamodb::SdkConfig;
use tokio::task::spawn_local;

/// Longest wait for the service to accept an event: it answers in milliseconds, and the next tick wakes what it did not
/// accept.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(3);

/// Invokes the function `name` without waiting for it to end
/// (<https://docs.aws.amazon.com/lambda/latest/dg/invocation-async.html>).
#[derive(Clone, Debug)]
pub(crate) struct WakeInvoker {
    client: Client,
    name: String,
    /// An emulator answers only when the invocation has ended, so its answer is not awaited.
    is_emulated: bool,
}

impl WakeInvoker {
    /// For the function `name`, of which this process is an instance; `endpoint` is an emulator's.
    pub(crate) fn new(config: &SdkConfig, endpoint: Option<String>, name: String) -> Self {
        let timeouts =
            TimeoutConfig::builder().operation_timeout(ACCEPT_TIMEOUT).connect_timeout(ACCEPT_TIMEOUT / 2);
        let config = aws_sdk_lambda::config::Builder::from(config).timeout_config(timeouts.build());
        let is_emulated = endpoint.is_some();
        let config = match endpoint {
            Some(endpoint) => config.endpoint_url(endpoint),
            None => config,
        };
        Self { client: Client::from_conf(config.build()), name, is_emulated }
    }

    /// Invokes the function for `log`. `false` if the service did not accept the event.
    pub(crate) async fn wake_elsewhere(self, log: LogId) -> bool {
        let event = format!("{{\"source\":\"outlive.wake\",\"log\":\"{log}\"}}");
        let request = self.client.invoke().function_name(&self.name);
        let request = request.invocation_type(InvocationType::Event).payload(Blob::new(event));
        if self.is_emulated {
            spawn_local(request.send());
            return true;
        }
        match request.send().await {
            Ok(_) => true,
            Err(error) => {
                eprintln!("outlive: the wake of {log} waits for the tick: {error}");
                false
            }
        }
    }
}
