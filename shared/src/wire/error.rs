use crate::{
    error::{ErrorClass, ProviderDetail, ProviderError},
    json::MAX_DEPTH,
};

/// What is wrong with a request, and with which field of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The body is not JSON.
    #[error("the body is not valid JSON: {0}")]
    NotJson(String),
    /// The body nests too deep.
    #[error("the body nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A field is missing that has no default.
    #[error("missing required parameter: '{0}'")]
    Missing(String),
    /// A field has a wrong type.
    #[error("invalid type for '{param}': expected {expected}, but got {seen}")]
    Type {
        /// The field.
        param: String,
        /// What is allowed.
        expected: &'static str,
        /// What it is.
        seen: &'static str,
    },
    /// A field has the right type and an impossible value.
    #[error("invalid value for '{param}': {why}")]
    Value {
        /// The field.
        param: String,
        /// What it is and what is allowed.
        why: String,
    },
}

/// What is wrong with a request is found late, when a provider of another format is asked.
impl From<RequestError> for ProviderError {
    fn from(error: RequestError) -> Self {
        let (code, param) = error.code_and_param();
        let detail =
            ProviderDetail { message: error.to_string(), kind: None, param, code: Some(code.into()) };
        Self { detail: Some(Box::new(detail)), ..Self::new(ErrorClass::Caller, "the request can't be read") }
    }
}

impl RequestError {
    /// The stable code, and the field.
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
