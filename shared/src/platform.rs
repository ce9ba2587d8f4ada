//! Defines the ports: the traits through which the core uses the host it runs on. The shells implement them; what can
//! be shared between two implementations of [`Store`] is in [`sql`].

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

/// One host, as the core sees it. Each shell implements it once, and so does the simulator.
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
    /// How the wallet and this node get signatures.
    type Signer: Signer;

    /// The store of this node.
    fn store(&self) -> &Self::Store;

    /// The HTTP client of this node.
    fn http(&self) -> &Self::Http;

    /// The signer of this node.
    fn signer(&self) -> &Self::Signer;

    /// The wall clock.
    ///
    /// The core assumes neither that it advances between two calls (on Workers it stands still between I/O) nor that it
    /// never goes back.
    fn now(&self) -> Timestamp;

    /// Fills `out` with unpredictable bytes: ids are made of them, and a guessed id gives access.
    fn random(&self, out: &mut [u8]);

    /// Writes a record of one request or event to the host's log, at least as a line of JSON.
    fn log(&self, record: &Record);

    /// Resolves after `duration`, never before. Afterwards [`Platform::now`] has advanced by at least that much,
    /// unless the wall clock was set back. If `duration` is zero, whatever else is ready runs first, arrived I/O included.
    async fn sleep(&self, duration: Duration);

    /// Runs `work` concurrently, independent of the request that spawned it.
    ///
    /// To ensure correctness: a host that freezes or stops after an answer may drop `work`, so whatever must not be
    /// lost is in a log with a wake.
    fn spawn(&self, work: LocalBoxFuture<'static, ()>);

    /// Asks the host to call [`Node::wake`](crate::Node::wake) for `log` soon, in an invocation of its own. `false` on
    /// hosts that do not need it, because spawned work outlives the answer there.
    async fn wake_elsewhere(&self, log: LogId) -> bool;

    /// Whether no other instance of this node works on the same logs: then a turn that does not run here does not run
    /// anywhere.
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
/// - only [`erase`](Store::erase) removes a body, and it marks the entry as erased: a missing body without that mark is
///   damage. An entry that is appended erased, because the peer erased it, is read back erased.
///
/// A body larger than [`INLINE_BYTES`] is stored out of line in chunks of at most that size. Callers do not notice: the
/// hash of an entry covers its body's digest, not where the body is stored.
///
/// Every implementation passes the suite in `testing/suite.rs`.
pub trait Store {
    /// Appends `batch` if its chain's head is what the batch was built on.
    ///
    /// After [`AppendError::Unavailable`] the outcome is unknown. Appending the same batch again is safe: if the first
    /// attempt persisted, the second fails with [`AppendError::Conflict`] and the entry read back has the same hash.
    async fn append(&self, batch: &Batch) -> Result<(), AppendError>;

    /// Entries of one chain from `from` on, in order, at most `limit.entries` of them. Their bodies add up to at most
    /// `limit.bytes`, except that the first entry is always included. Empty only if the chain has no entry at `from`.
    async fn read(
        &self,
        log: LogId,
        origin: &Origin,
        from: Seq,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, StoreError>;

    /// The seq and hash of the last entry of each chain of a log, in the order of origins. Empty for an unknown log.
    async fn heads(&self, log: LogId) -> Result<Vec<Head>, StoreError>;

    /// Chains of `bucket` that have grown after `after`, oldest change first, at most `limit`: what a peer still lacks,
    /// at a cost that depends on the number of changes and not on the number of logs.
    ///
    /// To ensure correctness: cursors of one bucket rise in the order in which appends become visible, so a reader that
    /// continues from its last cursor misses nothing. A chain that grew several times may be reported once, with its
    /// newest head.
    async fn changes(&self, bucket: Bucket, after: Cursor, limit: usize) -> Result<Vec<Change>, StoreError>;

    /// Logs with a chain whose newest [`Wake`] is no later than `now`, at most `limit`, longest overdue first.
    ///
    /// To ensure correctness: a wake is set in the same commit as the entries of its batch, so no crash leaves a log
    /// without the wake that it needs.
    ///
    /// [`Wake`]: crate::entry::Wake
    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LogId>, StoreError>;

    /// Removes the bodies of the entries `from..=to` of one chain for good, wherever the store keeps them, except a
    /// body that is shared with an entry of the log that is not erased. Headers stay, so that the chain can still be
    /// verified.
    ///
    /// One call covers at most [`MAX_ERASED_ENTRIES`] entries from `from` on; the rest of the range is for further
    /// calls.
    ///
    /// To ensure correctness:
    /// - the mark is written before or together with the removal, so that a crash leaves no unreadable entry;
    /// - repeating a call is harmless, and completes one that a crash or a failure interrupted;
    /// - after `Ok` the bytes are in none of the store's files. Backups that the host makes are not covered.
    async fn erase(&self, log: LogId, origin: &Origin, from: Seq, to: Seq) -> Result<(), StoreError>;
}

/// Most entries of one [`Store::erase`]: as many as an append writes at once, so that no call blocks others for long.
pub const MAX_ERASED_ENTRIES: u64 = 64;

/// Bodies above this are stored out of line, and chunks are at most this large: 256 KiB leaves room for the rest of
/// the item under DynamoDB's 400 KB, the smallest limit of all stores.
pub const INLINE_BYTES: usize = 256 * 1024;

/// The most that one [`Store::read`] may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// The largest number of entries; at least 1.
    pub entries: usize,
    /// The largest sum of body sizes, in bytes.
    pub bytes: usize,
}

impl ReadLimit {
    /// One page: large enough that round trips are rare, small enough for an isolate's 128 MB.
    pub const PAGE: Self = Self { entries: 256, bytes: 4 * 1024 * 1024 };
}

/// Why an append did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another append came first, and this call wrote nothing: read on from `head` and decide again. A store that
    /// retries internally must not report its own first attempt as a conflict.
    #[error("another append came first; the chain now ends at entry {}", .head.as_ref().map_or(0, |h| h.seq.0))]
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
    /// The stored log is damaged: see [`StoreError::Corrupt`].
    #[error("the log is damaged: {0}")]
    Corrupt(String),
}

/// Why a read did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer; the same call may succeed later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The stored bytes are not what was appended. A retry does not help, and none of them may be used.
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

/// Makes HTTP calls, with bodies streamed in both directions.
///
/// To ensure correctness:
/// - redirects are returned as answers, never followed: a key goes only where the configuration sends it;
/// - dropping the future or the body ends the call;
/// - bytes are passed on as they arrive, never buffered, and decompressed if the transport compressed them;
/// - a truncated body is an error, never an ordinary end.
pub trait Http {
    /// The body of an answer.
    type Body: http_body::Body<Data = Bytes, Error = HttpError> + Unpin + 'static;

    /// Sends `request` and resolves with the answer's head. `connect` limits the time until the connection is made; a
    /// platform that does not observe that moment ignores it. All other deadlines are the caller's.
    async fn send(
        &self,
        request: Request<Body>,
        connect: Duration,
    ) -> Result<Response<Self::Body>, HttpError>;
}

/// Why an HTTP call failed. Texts never contain a URL's query, a header or a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The connection was not made within its deadline.
    #[error("no connection before the deadline")]
    ConnectTimeout,
    /// The host is unknown, refuses the connection, or its certificate is not accepted. The text says which in a few
    /// words of the shell's own, since callers see it: `connection refused`, `no such host`.
    #[error("no connection: {0}")]
    Connect(String),
    /// The connection was lost, or the bytes received are not HTTP.
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// Signs with keys that the node never has in its memory.
///
/// To ensure correctness: the signer sees the exact bytes it signs, and the same bytes always give the same signature
/// (Ed25519, RFC 8032), so a retry after a timeout is safe.
pub trait Signer {
    /// The Ed25519 signature of `message` by the key that the configuration names `key`.
    async fn sign(&self, key: &str, message: &[u8]) -> Result<[u8; 64], SignError>;
}

/// Why a signature was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// No such key is configured on this node.
    #[error("no key named {0:?} is configured")]
    UnknownKey(String),
    /// The key service refuses to sign this message; a retry does not help.
    #[error("the key service refused: {0}")]
    Refused(String),
    /// The key service did not answer. **It may have signed.**
    #[error("the key service is unavailable: {0}")]
    Unavailable(String),
}

/// The signer of a node without a wallet: every key is unknown to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSigner;

impl Signer for NoSigner {
    async fn sign(&self, key: &str, _message: &[u8]) -> Result<[u8; 64], SignError> {
        Err(SignError::UnknownKey(key.to_owned()))
    }
}
