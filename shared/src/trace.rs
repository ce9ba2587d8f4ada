//! Reads a client's W3C trace context (<https://www.w3.org/TR/trace-context/>) and writes it for upstream calls.
//! Records no spans itself.

use http::{HeaderMap, HeaderValue};

/// The client's trace that a request belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace id: 32 hexadecimal digits.
    pub id: String,
    /// The client's span id: 16 hexadecimal digits.
    pub parent: String,
    /// 2 hexadecimal digits; the lowest bit says whether the client samples the trace.
    flags: String,
}

impl Trace {
    /// The name of the header that carries a trace.
    pub(crate) const HEADER: &'static str = "traceparent";

    /// Reads the trace from a request's headers. Anything but a well-formed version 00 is ignored, so that a caller
    /// can't send arbitrary text to a provider.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(Self::HEADER)?.to_str().ok()?;
        let mut parts = text.split('-');
        let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_zero = |text: &str| text.bytes().all(|byte| byte == b'0');
        let valid = version == "00"
            && is_hex(id, 32)
            && !is_zero(id)
            && is_hex(parent, 16)
            && !is_zero(parent)
            && is_hex(flags, 2)
            && parts.next().is_none();
        valid.then(|| Self { id: id.to_owned(), parent: parent.to_owned(), flags: flags.to_owned() })
    }

    /// Whether the client samples the trace.
    pub fn is_sampled(&self) -> bool {
        u8::from_str_radix(&self.flags, 16).is_ok_and(|flags| flags & 1 == 1)
    }

    /// The header for an upstream call in this trace. `span` is the call's span id, 16 hexadecimal digits.
    pub(crate) fn header(&self, span: &str) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("00-{}-{span}-{}", self.id, self.flags)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_on_only_well_formed_traces() {
        let passed_on = |text: &str| {
            let headers = [(Trace::HEADER.parse().unwrap(), text.parse().unwrap())].into_iter().collect();
            Trace::of(&headers).and_then(|trace| trace.header("b7ad6b7169203331"))
        };
        let header = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
        assert_eq!(passed_on(header).unwrap(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        for malformed in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
            "00-0AF7651916CD43DD8448EB211C80319C-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-0",
        ] {
            assert_eq!(passed_on(malformed), None, "{malformed}");
        }
    }
}
