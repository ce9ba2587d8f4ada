//! A scripted provider that speaks OpenAI's chat completions over HTTP/1.1, as wire-exact as real ones do and fail.
//!
//! The model that a request names says how it is answered: see [`Behaviour`]. The model `agent` does what it is told:
//! see `agent.rs`.

mod agent;
mod answer;
mod behaviour;
mod connection;
mod record;
mod request;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use tokio::net::TcpListener;

pub use answer::WORDS;
pub use behaviour::Behaviour;
pub use record::{Record, Records};

/// A running upstream. It lives on a thread of its own until the process ends.
pub struct Upstream {
    address: SocketAddr,
    records: Records,
    redirected: Arc<AtomicUsize>,
}

/// What every connection needs.
#[derive(Clone)]
struct Shared {
    records: Records,
    /// Where `redirect` points to.
    elsewhere: SocketAddr,
}

impl Upstream {
    /// Starts one on 127.0.0.1; port 0 picks a free one. Fails if the port can't be had.
    pub fn start(port: u16) -> io::Result<Self> {
        let (send, receive) = mpsc::channel();
        let records = Records::default();
        let redirected = Arc::new(AtomicUsize::new(0));
        let (seen, hits) = (records.clone(), Arc::clone(&redirected));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = runtime.and_then(|runtime| runtime.block_on(serve(port, seen, hits, &send)));
            if let Err(error) = result {
                // Before the start this is the answer; after it nobody listens any more.
                drop(send.send(Err(error)));
            }
        });
        let address = receive.recv().map_err(io::Error::other)??;
        Ok(Self { address, records, redirected })
    }

    /// What a client of OpenAI calls its base URL.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests so far.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// How many connections the target of the redirect has had: whoever follows it shows a key to a stranger.
    pub fn redirected(&self) -> usize {
        self.redirected.load(Ordering::Relaxed)
    }
}

async fn serve(
    port: u16,
    records: Records,
    redirected: Arc<AtomicUsize>,
    ready: &mpsc::Sender<io::Result<SocketAddr>>,
) -> io::Result<()> {
    let trap = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let shared = Shared { records, elsewhere: trap.local_addr()? };
    drop(ready.send(listener.local_addr()));
    tokio::spawn(async move {
        while trap.accept().await.is_ok() {
            redirected.fetch_add(1, Ordering::Relaxed);
        }
    });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(connection::serve(stream, shared.clone()));
    }
}
