//! The ports: all that the core asks of the machine it runs on.

pub mod sql;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};

use crate::{
    body::Body,
    entry::{Batch, Bucket, Change, Cursor, Entry, Head, LogId, Origin, Seq},
    record::Record,
    time::Timestamp,
};

/// One machine, as the core sees it. A shell implements it once; the simulator implements it too.
///
/// To ensure correctness:
/// - all futures of one platform are polled on one thread;
/// - a future of a port may be dropped at any await point: then the call may or may not have taken effect, and the
///   port must stay usable.
pub trait Platform: 'static {
    /// Where logs are kept.
    type Store: Store;
    /// How providers are reached.
    type Http: Http;
    /// Who signs for the wallet and for this node.
    type Signer: Signer;

    /// The store of this node.
    fn store(&self) -> &Self::Store;

    /// The HTTP client of this node.
    fn http(&self) -> &Self::Http;

    /// The signer of this node.
    fn signer(&self) -> &Self::Signer;

    /// The wall clock.
    ///
    /// To ensure correctness: the core assumes neither that it moves between two calls (on Workers it stands still
    /// between I/O) nor that it never goes back.
    fn now(&self) -> Timestamp;

    /// Fills `out` with unpredictable bytes: ids are made of them, and an id that can be guessed can be stolen.
    fn random(&self, out: &mut [u8]);

    /// Keeps what became of a request, as a line of JSON at least, where the host keeps such lines.
    fn log(&self, record: &Record);

    /// Resolves after `duration`, never before. Afterwards [`Platform::now`] has moved by at least that much,
    /// unless the wall clock was set back.
    async fn sleep(&self, duration: Duration);

    /// Runs `work` beside everything else, whatever becomes of the request that began it.
    ///
    /// To ensure correctness: a host that is frozen or killed after its answers may drop it; what must not be lost is in
    /// a log that wants to be woken.
    fn spawn(&self, work: LocalBoxFuture<'static, ()>);

    /// Asks the host to call [`Node::wake`](crate::Node::wake) for `log` soon, in an activity of its own. `false` where
    /// there is no such thing and no need for it, since what is spawned lives on after the answer.
    async fn wake_elsewhere(&self, log: LogId) -> bool;

    /// Whether no other instance of this node works on the logs that this one works on: then what does not run here does
    /// not run at all.
    fn is_only_instance(&self) -> bool;
}

/// Append-only logs: one per session, each a set of hash chains, one chain per origin.
///
/// To ensure correctness:
/// - [`append`](Store::append) persists all entries of a batch or none, and only if the chain still ends where the
///   batch begins; of two concurrent appends to one chain exactly one succeeds;
/// - `Ok` means durable: the entries survive the loss of the process and of power;
/// - once an append has returned `Ok`, every later call on any handle of the store sees it;
/// - entries never change and are read back byte for byte; a store that finds them damaged answers
///   [`StoreError::Corrupt`] and never leaves one out;
/// - only [`erase`](Store::erase) takes a body away, and marks the entry as erased: a body that is gone without that mark
///   is damage. An entry that is appended erased, as a peer has it, is read back erased.
///
/// A body larger than [`INLINE_BYTES`] is kept out of line in chunks of at most that size. That is the store's own
/// affair: the hash of an entry covers its body's digest, not the place where the body lies.
///
/// Every implementation passes the suite in `testing/suite.rs`.
pub trait Store {
    /// Appends `batch` if its chain's head is what the batch was built on.
    ///
    /// After [`AppendError::Unavailable`] the outcome is unknown. Appending the same batch again is safe: should the
    /// first try have persisted, the second is a [`AppendError::Conflict`] and the entry read back has the same hash.
    async fn append(&self, batch: &Batch) -> Result<(), AppendError>;

    /// Entries of one chain from `from` on, in order, at most `limit.entries` of them. The bodies add up to at most
    /// `limit.bytes`, except that the first entry is always there. Empty only if the chain has no entry at `from`.
    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError>;

    /// The last entry's place and hash for each chain of a log, in the order of origins. Empty for an unknown log.
    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError>;

    /// Which chains of `bucket` have grown after `after`, oldest first, at most `limit`: what a peer has not yet got,
    /// at a cost that depends on the number of changes and not on the number of logs.
    ///
    /// To ensure correctness: cursors of one bucket rise in the order in which appends become visible, so a reader
    /// that goes on from the last cursor it saw misses nothing. A chain that grew several times may be reported once,
    /// with its newest head.
    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError>;

    /// Logs with a chain whose newest [`Wake`] is no later than `now`, at most `limit`, those that wait longest first.
    ///
    /// To ensure correctness: a wake is set in the same commit as the entries that it came with, so no crash leaves a
    /// log asleep that wanted to be woken.
    ///
    /// [`Wake`]: crate::entry::Wake
    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError>;

    /// Removes the bodies of the entries `from..=to` of one chain for good, wherever the store keeps them, except what
    /// another entry of the log, which is not erased, has too. Headers stay, so that the chain can still be verified.
    ///
    /// One call covers at most [`MOST_ERASED`] entries from `from` on; the rest of the range is for further calls.
    ///
    /// To ensure correctness:
    /// - the mark comes first or together with the removal, so that a crash leaves no entry that can't be read;
    /// - doing it again does no harm, and finishes what a crash or a failure left;
    /// - after `Ok` the bytes are in none of the store's files. Backups that the host makes are the host's.
    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError>;
}

/// Entries of one [`Store::erase`]: as many as an append writes at once, so that no call holds up others for long.
pub const MAX_ERASED_ENTRIES: u64 = 64;

/// Bodies above this are stored out of line, and chunks are at most this large: 256 KiB leaves room for the rest of
/// the item under DynamoDB's 400 KB, the smallest limit of all stores.
pub const INLINE_BYTES: usize = 256 * 1024;

/// How much one [`Store::read`] may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// The largest number of entries; at least 1.
    pub entries: usize,
    /// The largest sum of body sizes, in bytes.
    pub bytes: usize,
}

impl ReadLimit {
    /// One page: large enough to make round trips rare, small enough for an isolate's 128 MB.
    pub const PAGE: Self = Self { entries: 256, bytes: 4 * 1024 * 1024 };
}

/// Why an append did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another append came first: read on from `head`, decide again. Nothing was written by this call, which was made once:
    /// a store that is asked twice by itself must not say this of what the first try wrote.
    #[error("the chain has moved on to {}", .head.as_ref().map_or(0, |h| h.seq.0))]
    Conflict {
        /// Where the chain ends now; `None` while it is empty.
        head: Option<Head>,
    },
    /// The store did not answer, or not in time. **The batch may have been written.**
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The batch can never be stored; nothing was written.
    #[error("the batch is too large: {0}")]
    TooLarge(String),
    /// What is stored contradicts itself: see [`StoreError::Corrupt`].
    #[error("the log is damaged: {0}")]
    Corrupt(String),
}

/// Why a read did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer; the same call may succeed later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What is stored is not what was appended. Asking again does not help; nothing of it may be used.
    #[error("the log is damaged: {0}")]
    Corrupt(String),
}

impl From<StoreError> for AppendError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) => Self::Unavailable(why),
            StoreError::Corrupt(why) => Self::Corrupt(why),
        }
    }
}

/// One HTTP call at a time, bodies streamed both ways.
///
/// To ensure correctness:
/// - redirects are answers, never followed: a key goes only where the configuration sends it;
/// - dropping the future or the body ends the call;
/// - bytes are handed on as they arrive, decompressed if the transport compressed them, never held back;
/// - a body that ends early is an error, not an end.
pub trait Http {
    /// The body of an answer.
    type Body: http_body::Body<Data = Bytes, Error = HttpError> + Unpin + 'static;

    /// Sends `request` and resolves with the answer's head. `connect` bounds the time until a connection stands; a
    /// platform that can't see that moment ignores it. The caller bounds everything else.
    async fn send(
        &self,
        request: Request<Body>,
        connect: Duration,
    ) -> Result<Response<Self::Body>, HttpError>;
}

/// Why a call broke. Texts never hold a URL's query, a header or a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// No connection within the time allowed.
    #[error("no connection in time")]
    ConnectTimeout,
    /// The host is unknown, refuses, or its certificate is not accepted.
    #[error("no connection: {0}")]
    Connect(String),
    /// The connection broke, or what came over it is not HTTP.
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// Signs with keys that the node never holds.
///
/// To ensure correctness: the signer sees the exact bytes it signs, and the same bytes always give the same signature
/// (Ed25519, RFC 8032), so asking twice after a time-out is safe.
pub trait Signer {
    /// The Ed25519 signature over `message` by the key that the configuration calls `key`.
    async fn sign(&self, key: &str, message: &[u8]) -> Result<[u8; 64], SignError>;
}

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// No such key is configured on this node.
    #[error("no key named {0:?} is configured")]
    UnknownKey(String),
    /// The key service refuses to sign this; asking again does not help.
    #[error("the key service refused: {0}")]
    Refused(String),
    /// The key service did not answer. **It may have signed.**
    #[error("the key service is unavailable: {0}")]
    Unavailable(String),
}

/// The signer of a node without a wallet: it knows no key.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSigner;

impl Signer for NoSigner {
    async fn sign(&self, key: &str, _message: &[u8]) -> Result<[u8; 64], SignError> {
        Err(SignError::UnknownKey(key.to_owned()))
    }
}
