//! Asks the service to run the function once more, for a log that must be looked at after this answer.

use std::time::Duration;

use aws_sdk_lambda::{Client, config::timeout::TimeoutConfig, primitives::Blob, types::InvocationType};
use outlive::session::entry::LogId;
use outlive_dynamodb::SdkConfig;
use tokio::task::spawn_local;

/// Longest wait for the service to take an event: it answers in milliseconds, and the tick finds what it did not take.
const TAKE: Duration = Duration::from_secs(3);

/// Invokes the function `name` without waiting for what comes of it
/// (<https://docs.aws.amazon.com/lambda/latest/dg/invocation-async.html>). `false` if the service did not take the event.
#[derive(Clone, Debug)]
pub(crate) struct Summoner {
    client: Client,
    name: String,
    /// An emulator answers an event only when it is done with it, so that is not waited for.
    emulated: bool,
}

impl Summoner {
    /// For the function that this process is an instance of.
    pub(crate) fn new(config: &SdkConfig, endpoint: Option<String>, name: String) -> Self {
        let timeouts = TimeoutConfig::builder().operation_timeout(TAKE).connect_timeout(TAKE / 2).build();
        let config = aws_sdk_lambda::config::Builder::from(config).timeout_config(timeouts);
        let emulated = endpoint.is_some();
        let config = match endpoint {
            Some(endpoint) => config.endpoint_url(endpoint),
            None => config,
        };
        Self { client: Client::from_conf(config.build()), name, emulated }
    }

    /// Asks for `log` to be woken.
    pub(crate) async fn summon(self, log: LogId) -> bool {
        let event = format!("{{\"source\":\"outlive.wake\",\"log\":\"{log}\"}}");
        let request = self.client.invoke().function_name(&self.name);
        let request = request.invocation_type(InvocationType::Event).payload(Blob::new(event));
        if self.emulated {
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
