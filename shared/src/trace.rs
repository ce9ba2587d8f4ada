//! W3C trace context (<https://www.w3.org/TR/trace-context/>), passed on to providers.

use http::{HeaderMap, HeaderValue};

/// The trace that a request belongs to, if its client has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// 32 hexadecimal digits.
    pub id: String,
    /// The client's own id within it: 16 hexadecimal digits.
    pub parent: String,
    flags: String,
}

impl Trace {
    /// The header's name.
    pub(crate) const HEADER: &'static str = "traceparent";

    /// Reads a request's header. What is not of version 00, letter by letter, is no trace, so nothing else of a caller's can
    /// reach a provider through it.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(Self::HEADER)?.to_str().ok()?;
        let mut parts = text.split('-');
        let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
        let valid = version == "00"
            && hex(id, 32)
            && !zero(id)
            && hex(parent, 16)
            && !zero(parent)
            && hex(flags, 2)
            && parts.next().is_none();
        valid.then(|| Self { id: id.to_owned(), parent: parent.to_owned(), flags: flags.to_owned() })
    }

    /// Whether its client keeps it.
    pub fn is_sampled(&self) -> bool {
        u8::from_str_radix(&self.flags, 16).is_ok_and(|flags| flags & 1 == 1)
    }

    /// The header for a call in this trace. `span` is the call's own id, of 16 hexadecimal digits.
    pub(crate) fn header(&self, span: &str) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("00-{}-{span}-{}", self.id, self.flags)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_trace_is_passed_on() {
        let read = |text: &str| {
            let headers = [(Trace::HEADER.parse().unwrap(), text.parse().unwrap())].into_iter().collect();
            Trace::of(&headers).and_then(|trace| trace.header("b7ad6b7169203331"))
        };
        let given = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
        assert_eq!(read(given).unwrap(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        for bad in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
            "00-0AF7651916CD43DD8448EB211C80319C-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-0",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
