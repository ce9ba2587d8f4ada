//! Turns the errors of all attempts into one error for the caller. Writing it in the client's format is left to `api`.

use std::time::Duration;

use http::StatusCode;

use crate::{
    error::{ErrorClass, ProviderDetail, ProviderError},
    model::Candidate,
};

/// Most causes in a message for people; the list of attempts has all of them.
const MAX_CAUSES: usize = 4;

/// Why no candidate answered.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The failed attempts, in order. Empty if no candidate could be called.
    pub(crate) attempts: Vec<(Candidate, ProviderError)>,
    /// How long until a retry may succeed, if waiting helps.
    pub(crate) retry_after: Option<Duration>,
}

/// The error that the caller gets.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) status: StatusCode,
    /// Stable code for programs.
    pub(crate) code: String,
    /// Text for people.
    pub(crate) message: String,
    /// OpenAI's `type`, where the provider sent one.
    pub(crate) kind: Option<String>,
    /// The field of the request that is at fault.
    pub(crate) param: Option<String>,
    /// How long until a retry may succeed.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    /// Whether no candidate supports the request, so that none was called.
    pub(crate) fn is_unsupported(&self) -> bool {
        self.attempts.iter().all(|(_, error)| error.class == ErrorClass::Unsupported)
    }

    /// Decides whose fault the failure is. An error that the caller caused keeps the provider's own message; any other
    /// says only whether a retry can help.
    ///
    /// A candidate that does not suit the request makes it the caller's fault only if no other one could take it: if that
    /// one is limited or down for a while, the same request works later.
    pub(crate) fn verdict(&self) -> Verdict {
        let errors: Vec<&ProviderError> = self.attempts.iter().map(|(_, error)| error).collect();
        let all = |class: ErrorClass, among: &[&ProviderError]| {
            !among.is_empty() && among.iter().all(|error| error.class == class)
        };
        let none_called = errors.iter().all(|error| error.class.is_local());
        // A budget is the reason only if it alone prevented every call.
        let budget = errors.iter().find(|error| error.class == ErrorClass::Budget && none_called);
        let failed: Vec<&ProviderError> = errors
            .iter()
            .copied()
            .filter(|error| !error.class.is_unfit() && !error.class.is_local())
            .collect();
        let mut retry_after = self.retry_after;
        let mut verdict = if let Some(error) = budget.filter(|error| error.status.is_some()) {
            // The budget is not used up: its log can't be reached.
            retry_after = retry_after.or(Some(OVERLOAD_PAUSE));
            Verdict::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", error.message.clone())
        } else if let Some(error) = budget {
            // A smaller request may still be within the budget, so the message is the budget's own.
            Verdict::new(StatusCode::TOO_MANY_REQUESTS, "budget_exceeded", error.message.clone())
        } else if let Some(error) = self.caused(&failed) {
            Verdict::of_caller(error)
        } else if all(ErrorClass::RateLimited, &failed) {
            let message = self.with_causes("every candidate is rate limited");
            Verdict::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
        } else if all(ErrorClass::Timeout, &failed) {
            let message = self.with_causes("every candidate took too long");
            Verdict::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message)
        } else if all(ErrorClass::Overloaded, &failed) {
            retry_after = retry_after.or(Some(OVERLOAD_PAUSE));
            let message = self.with_causes("every candidate is overloaded");
            Verdict::new(StatusCode::SERVICE_UNAVAILABLE, OVERLOADED, message)
        } else if self.retry_after.is_some() {
            let message = self.with_causes("no candidate is available now");
            Verdict::new(StatusCode::SERVICE_UNAVAILABLE, "all_candidates_unavailable", message)
        } else {
            let message = self.with_causes("every candidate failed");
            Verdict::new(StatusCode::BAD_GATEWAY, "upstream_error", message)
        };
        let retry_helps = verdict.status.is_server_error() || verdict.status == StatusCode::TOO_MANY_REQUESTS;
        verdict.retry_after = retry_after.filter(|_| retry_helps);
        verdict
    }

    /// The error that the caller caused, if there is one. `failed` are the errors of candidates that suit the request.
    fn caused(&self, failed: &[&ProviderError]) -> Option<&ProviderError> {
        let last = |is: &dyn Fn(&ProviderError) -> bool| {
            // The last one: after thoughts were refused, later attempts left them out.
            self.attempts.iter().rev().map(|(_, error)| error).find(|error| is(error))
        };
        let refused = last(&|error| !error.class.fails_over());
        // A client that shortens its request is served by the smaller model, so it learns of the limit unless the larger
        // one is back soon.
        let too_long = || {
            let is_back_soon = failed.iter().any(|error| error.class.is_passing());
            last(&|error| error.class == ErrorClass::ContextLength).filter(|_| !is_back_soon)
        };
        let unfit = || {
            let named = last(&|error| error.class.is_unfit() && error.detail.is_some());
            named.or_else(|| last(&|error| error.class.is_unfit())).filter(|_| failed.is_empty())
        };
        refused.or_else(too_long).or_else(unfit)
    }
}

/// How long an overload is expected to last if no provider says so: their clients try again after about a second.
const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);

/// The code if every candidate is overloaded, for which Anthropic has a status of its own.
pub(crate) const OVERLOADED: &str = "upstream_overloaded";

impl Failure {
    /// `message` with the cause of each failed attempt: it is all that a chat or the console shows of them.
    fn with_causes(&self, message: &str) -> String {
        let mut causes: Vec<String> = Vec::new();
        for (candidate, error) in &self.attempts {
            let cause = format!("{candidate} ({})", error.cause());
            if !causes.contains(&cause) {
                causes.push(cause);
            }
        }
        let more = causes.len().saturating_sub(MAX_CAUSES);
        causes.truncate(MAX_CAUSES);
        if more > 0 {
            causes.push(format!("and {more} more"));
        }
        if causes.is_empty() { message.to_owned() } else { format!("{message}: {}", causes.join(", ")) }
    }
}

impl Verdict {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            kind: None,
            param: None,
            retry_after: None,
        }
    }

    /// The error for a request that is at fault itself.
    fn of_caller(error: &ProviderError) -> Self {
        let ProviderDetail { message, kind, param, mut code } =
            error.detail.as_deref().cloned().unwrap_or_default();
        let status = match error.status.filter(StatusCode::is_client_error) {
            // The request alone is larger than the limit of a minute, so a retry is useless.
            Some(StatusCode::TOO_MANY_REQUESTS) => {
                code = None;
                StatusCode::PAYLOAD_TOO_LARGE
            }
            // Moderation answers 403, which clients take for a problem of their key.
            Some(_) if error.class == ErrorClass::ContentPolicy => StatusCode::BAD_REQUEST,
            status => status.unwrap_or(StatusCode::BAD_REQUEST),
        };
        let code = code.unwrap_or_else(|| match error.class {
            _ if status == StatusCode::PAYLOAD_TOO_LARGE => "request_too_large".into(),
            ErrorClass::ContextLength => "context_length_exceeded".into(),
            ErrorClass::ContentPolicy => "content_filter".into(),
            ErrorClass::Unsupported | ErrorClass::Incapable => "unsupported_parameter".into(),
            _ => "invalid_request".into(),
        });
        let message = match error.class {
            _ if !message.is_empty() => message,
            ErrorClass::Unsupported => format!("no candidate supports the request: {}", error.message),
            _ => "the provider refused the request".into(),
        };
        Self { kind, param, ..Self::new(status, &code, message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::RequestError;

    /// Checks the status and the code after attempts with these errors, of which each may be retried after 7 s.
    fn check(errors: &[ProviderError], expected: (u16, &str)) -> Verdict {
        let candidate = || Candidate { provider: "p".into(), model: "m".into() };
        let attempts = errors.iter().map(|error| (candidate(), error.clone())).collect();
        let verdict = Failure { attempts, retry_after: Some(Duration::from_secs(7)) }.verdict();
        assert_eq!((verdict.status.as_u16(), verdict.code.as_str()), expected, "{errors:?}");
        assert_eq!(verdict.retry_after.is_some(), expected.0 == 429 || expected.0 >= 500, "{errors:?}");
        verdict
    }

    #[test]
    fn an_unfit_candidate_hides_no_failure_that_passes() {
        use ErrorClass::*;
        let of = |classes: &[ErrorClass]| {
            classes.iter().map(|class| ProviderError::new(*class, "")).collect::<Vec<_>>()
        };
        check(&of(&[RateLimited, RateLimited]), (429, "rate_limit_exceeded"));
        check(&of(&[Unsupported, RateLimited]), (429, "rate_limit_exceeded"));
        check(&of(&[RateLimited, Unsupported]), (429, "rate_limit_exceeded"));
        check(&of(&[ContextLength, RateLimited]), (429, "rate_limit_exceeded"));
        check(&of(&[ContextLength, Auth]), (400, "context_length_exceeded"));
        check(&of(&[Unsupported, Overloaded]), (503, OVERLOADED));
        check(&of(&[Unsupported, Timeout]), (504, "upstream_timeout"));
        check(&of(&[Unsupported, Server]), (503, "all_candidates_unavailable"));
        check(&of(&[Unsupported, Auth]), (503, "all_candidates_unavailable"));
        check(&of(&[Overloaded, RateLimited]), (503, "all_candidates_unavailable"));
        check(&of(&[Unsupported, Budget]), (429, "budget_exceeded"));
        check(&of(&[Budget, RateLimited]), (429, "rate_limit_exceeded"));
        check(&of(&[RateLimited, Caller]), (400, "invalid_request"));
        check(&of(&[RateLimited, ContentPolicy]), (400, "content_filter"));
        check(&of(&[Unsupported, Unsupported]), (400, "unsupported_parameter"));
        check(&of(&[BoundThoughts, ContextLength]), (400, "context_length_exceeded"));
    }

    #[test]
    fn an_untranslatable_request_names_its_field_if_all_refuse_it() {
        let unreadable = RequestError::Missing("messages".into()).into();
        let unsupported = ProviderError::new(ErrorClass::Unsupported, "its API has no embeddings");
        let verdict = check(&[unreadable, unsupported], (400, "missing_required_parameter"));
        assert_eq!(verdict.param.as_deref(), Some("messages"));
    }

    #[test]
    fn a_request_larger_than_a_minute_is_not_told_to_wait() {
        let status = Some(StatusCode::TOO_MANY_REQUESTS);
        check(
            &[ProviderError { status, ..ProviderError::new(ErrorClass::ContextLength, "") }],
            (413, "request_too_large"),
        );
        let status = Some(StatusCode::FORBIDDEN);
        check(
            &[ProviderError { status, ..ProviderError::new(ErrorClass::ContentPolicy, "") }],
            (400, "content_filter"),
        );
    }

    #[test]
    fn the_message_names_the_cause_of_each_candidate_once() {
        let failed = |model: &str, class, message: &str| {
            let candidate = Candidate { provider: "p".into(), model: model.into() };
            (
                candidate,
                ProviderError { text: Some("sk-secret".into()), ..ProviderError::new(class, message) },
            )
        };
        let dead = || failed("a", ErrorClass::Server, "the provider can't be reached: connection refused");
        let mut attempts = vec![dead(), dead(), failed("b", ErrorClass::Auth, "the provider answered 401")];
        let message = |attempts: &[(Candidate, ProviderError)]| {
            Failure { attempts: attempts.to_vec(), retry_after: None }.verdict().message
        };
        let causes = "every candidate failed: p/a (the provider can't be reached: connection refused), \
                      p/b (the key is rejected: the provider answered 401)";
        assert_eq!(message(&attempts), causes);
        attempts.extend(["c", "d", "e"].map(|model| failed(model, ErrorClass::Truncated, "cut")));
        assert_eq!(message(&attempts), format!("{causes}, p/c (cut), p/d (cut), and 1 more"));
        assert_eq!(message(&[]), "every candidate failed");
    }
}
