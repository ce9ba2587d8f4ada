//! Names what is wrong with a request, and its field. The HTTP status is chosen in `api`.

use crate::{
    error::{ErrorClass, ProviderDetail, ProviderError},
    json::MAX_DEPTH,
};

/// Why a request cannot be read, and which field is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The body is not JSON.
    #[error("the body is not valid JSON: {0}")]
    NotJson(String),
    /// The body nests too deep.
    #[error("the body nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A field without a default is missing.
    #[error("missing required parameter: '{0}'")]
    Missing(String),
    /// A field has the wrong type.
    #[error("invalid type for '{param}': expected {expected}, but got {actual}")]
    Type {
        /// The field.
        param: String,
        /// The allowed type.
        expected: &'static str,
        /// The type of the value.
        actual: &'static str,
    },
    /// A field has the right type, but a value that is not allowed.
    #[error("invalid value for '{param}': {why}")]
    Value {
        /// The field.
        param: String,
        /// The value, and what is allowed.
        why: String,
    },
}

/// A request is translated only when a provider of another format is called, so some of its errors appear during an
/// attempt. A provider of the request's own format may accept what can't be translated, so they don't end the route.
impl From<RequestError> for ProviderError {
    fn from(error: RequestError) -> Self {
        let (code, param) = error.code_and_param();
        let detail =
            ProviderDetail { message: error.to_string(), kind: None, param, code: Some(code.into()) };
        Self {
            detail: Some(Box::new(detail)),
            ..Self::new(ErrorClass::Unsupported, "the request cannot be translated")
        }
    }
}

impl RequestError {
    /// The error's stable code, and the field that is wrong.
    pub(crate) fn code_and_param(&self) -> (&'static str, Option<String>) {
        match self {
            Self::NotJson(_) => ("invalid_json", None),
            Self::TooDeep => ("json_too_deep", None),
            Self::Missing(param) => ("missing_required_parameter", Some(param.clone())),
            Self::Type { param, .. } => ("invalid_type", Some(param.clone())),
            Self::Value { param, .. } => ("invalid_value", Some(param.clone())),
        }
    }
}
