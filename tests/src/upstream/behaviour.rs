//! Names the ways in which the upstream answers, by the model of the request. `answer.rs` writes the answers.

/// How a request is answered.
///
/// A model may have a tag after a colon, as in `limited:streamed`: the same behaviour, but another candidate for the
/// node, which keeps a breaker for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// An answer of text.
    Good,
    /// Two calls of tools, with interleaved fragments.
    Tools,
    /// A refusal, in its own field.
    Refusal,
    /// An answer that lasts for a minute.
    Slow,
    /// A good answer, a word every half second where it is streamed.
    Steady,
    /// 429 with `retry-after`.
    Limited,
    /// 429 with `retry-after-ms`.
    LimitedMs,
    /// 500 in HTML.
    Broken,
    /// 503 with `retry-after`.
    Overloaded,
    /// 529, which other vendors send when they are overloaded.
    Overloaded529,
    /// 402.
    Quota,
    /// 401.
    BadKey,
    /// 404: no such model.
    Gone,
    /// 400 that names a field.
    CallerError,
    /// 400: too long for the model.
    Context,
    /// 400: the content is refused by policy.
    Policy,
    /// 413 in HTML: the server before the API refuses it.
    TooLarge,
    /// Reset before the first token.
    Early,
    /// No byte for a minute.
    Silent,
    /// Half of the headers, then nothing.
    StallHeaders,
    /// All headers, then nothing.
    StallBody,
    /// Keep-alives without content.
    KeepaliveOnly,
    /// Keep-alives for some seconds, then a good answer.
    Thinks,
    /// Reset after two deltas.
    Halfway,
    /// No more bytes after two deltas.
    StallMiddle,
    /// Keep-alives without content after two deltas.
    KeepaliveMiddle,
    /// A clean end after two deltas, without a stop reason.
    EofMiddle,
    /// Half an event with the next one appended to it, after two deltas.
    TornMiddle,
    /// Two deltas, then megabytes without a line end.
    EndlessMiddle,
    /// Everything but the last event.
    NoDone,
    /// The last event, after which the connection stays open.
    DoneThenOpen,
    /// An error under status 200.
    ErrorFirst,
    /// An error after two deltas.
    ErrorMiddle,
    /// HTML under status 200.
    Html200,
    /// An empty body under status 200.
    Empty200,
    /// The first half of an answer, and a clean end.
    HalfJson,
    /// Megabytes without a line end.
    EndlessLine,
    /// One byte in each write, also within characters.
    Bytewise,
    /// Lines end in CR LF.
    Crlf,
    /// Lines end in CR.
    Cr,
    /// Comments between the events.
    Comments,
    /// 307 to another address.
    Redirect,
}

impl Behaviour {
    /// Every behaviour, with the model that asks for it.
    pub const ALL: [(&'static str, Self); 42] = [
        ("good", Self::Good),
        ("tools", Self::Tools),
        ("refusal", Self::Refusal),
        ("slow", Self::Slow),
        ("steady", Self::Steady),
        ("limited", Self::Limited),
        ("limited-ms", Self::LimitedMs),
        ("broken", Self::Broken),
        ("overloaded", Self::Overloaded),
        ("overloaded-529", Self::Overloaded529),
        ("quota", Self::Quota),
        ("bad-key", Self::BadKey),
        ("gone", Self::Gone),
        ("caller-error", Self::CallerError),
        ("context", Self::Context),
        ("policy", Self::Policy),
        ("too-large", Self::TooLarge),
        ("early", Self::Early),
        ("silent", Self::Silent),
        ("stall-headers", Self::StallHeaders),
        ("stall-body", Self::StallBody),
        ("keepalive-only", Self::KeepaliveOnly),
        ("thinks", Self::Thinks),
        ("halfway", Self::Halfway),
        ("stall-middle", Self::StallMiddle),
        ("keepalive-middle", Self::KeepaliveMiddle),
        ("eof-middle", Self::EofMiddle),
        ("torn-middle", Self::TornMiddle),
        ("endless-middle", Self::EndlessMiddle),
        ("no-done", Self::NoDone),
        ("done-then-open", Self::DoneThenOpen),
        ("error-first", Self::ErrorFirst),
        ("error-middle", Self::ErrorMiddle),
        ("html-200", Self::Html200),
        ("empty-200", Self::Empty200),
        ("half-json", Self::HalfJson),
        ("endless-line", Self::EndlessLine),
        ("bytewise", Self::Bytewise),
        ("crlf", Self::Crlf),
        ("cr", Self::Cr),
        ("comments", Self::Comments),
        ("redirect", Self::Redirect),
    ];

    /// The behaviour that `model` asks for; `None` if there is no such model.
    pub fn named(model: &str) -> Option<Self> {
        let name = model.split(':').next().unwrap_or_default();
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, behaviour)| *behaviour)
    }
}
