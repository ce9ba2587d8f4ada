//! Translates errors of the SDK into errors of the port. Decides no retry.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use outlive::{entry::DecodeError, platform::StoreError};

/// A request that failed, or whose outcome is unknown.
pub(crate) fn unavailable<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> StoreError {
    StoreError::Unavailable(describe(error))
}

/// The error's code and message; the SDK's `Display` has neither.
pub(crate) fn describe<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> String {
    match (error.code(), error.message()) {
        (Some(code), message) => format!("DynamoDB: {code} {}", message.unwrap_or_default()),
        (None, _) => match error {
            SdkError::TimeoutError(_) => "DynamoDB: no answer in time".into(),
            SdkError::DispatchFailure(_) => "DynamoDB: no connection".into(),
            _ => "DynamoDB: an answer that can't be read".into(),
        },
    }
}

/// An entry whose bytes are not those of an entry.
pub(crate) fn corrupt(error: DecodeError) -> StoreError {
    StoreError::Corrupt(error.to_string())
}
