//! Makes the client of DynamoDB: region, credentials, time limits, no retries. Knows nothing of the table.

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_dynamodb::{Client, config::Builder};

/// Longest wait for DynamoDB: it answers in milliseconds, and the core retries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);

/// The region and the credentials of the environment.
pub async fn sdk_config() -> SdkConfig {
    // The one retry layer is the core's, so that it does here what it does in the simulator.
    aws_config::defaults(BehaviorVersion::latest()).retry_config(RetryConfig::disabled()).load().await
}

/// A client of DynamoDB, or of the DynamoDB Local at `endpoint`.
pub(crate) fn client(config: &SdkConfig, endpoint: Option<String>) -> Client {
    let timeouts = TimeoutConfig::builder()
        .operation_timeout(OPERATION_TIMEOUT)
        .connect_timeout(OPERATION_TIMEOUT / 2)
        .build();
    let config = Builder::from(config).timeout_config(timeouts);
    let config = match endpoint {
        Some(endpoint) => config.endpoint_url(endpoint),
        None => config,
    };
    Client::from_conf(config.build())
}
