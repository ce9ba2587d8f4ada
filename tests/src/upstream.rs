//! Serves a scripted provider over HTTP/1.1: three wire formats, with the bytes and the failures of real vendors.
//!
//! The model that a request names says how it is answered: see [`Behaviour`]. The model `agent`, and any
//! model of Claude's name, follows the script in the user's text: see `agent.rs`.

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

/// A running upstream, on a thread of its own until the process ends.
pub struct Upstream {
    address: SocketAddr,
    records: Records,
    redirect_hits: Arc<AtomicUsize>,
}

/// What every connection needs.
#[derive(Clone)]
struct Shared {
    records: Records,
    /// The target of the behaviour `redirect`.
    redirect_target: SocketAddr,
}

impl Upstream {
    /// Starts one on 127.0.0.1; port 0 picks a free one. Fails if the port is taken.
    pub fn start(port: u16) -> io::Result<Self> {
        let (send, receive) = mpsc::channel();
        let records = Records::default();
        let redirect_hits = Arc::new(AtomicUsize::new(0));
        let (shared_records, hits) = (records.clone(), Arc::clone(&redirect_hits));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result =
                runtime.and_then(|runtime| runtime.block_on(serve(port, shared_records, hits, &send)));
            if let Err(error) = result {
                // Before the start `start` receives this; afterwards the receiver is gone.
                drop(send.send(Err(error)));
            }
        });
        let address = receive.recv().map_err(io::Error::other)??;
        Ok(Self { address, records, redirect_hits })
    }

    /// The base URL for a client of OpenAI.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests so far.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Connections to the target of the redirect: a client that follows it sends its key to another host.
    pub fn redirect_hits(&self) -> usize {
        self.redirect_hits.load(Ordering::Relaxed)
    }
}

async fn serve(
    port: u16,
    records: Records,
    redirect_hits: Arc<AtomicUsize>,
    ready: &mpsc::Sender<io::Result<SocketAddr>>,
) -> io::Result<()> {
    let trap = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let shared = Shared { records, redirect_target: trap.local_addr()? };
    drop(ready.send(listener.local_addr()));
    tokio::spawn(async move {
        while trap.accept().await.is_ok() {
            redirect_hits.fetch_add(1, Ordering::Relaxed);
        }
    });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(connection::serve(stream, shared.clone()));
    }
}
