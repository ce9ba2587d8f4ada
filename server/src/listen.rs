//! Takes connections in, and lets them end.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulConnection, GracefulShutdown},
};
use outlive::{Node, body::Body, node::Arrival, platform::Platform};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinSet, LocalSet, spawn_local},
};
use tokio_io_timeout::TimeoutWriter;

/// Connections at once; more wait in the kernel's queue. Each costs about 20 KB while it is open.
const MAX_CONNECTIONS: usize = 4096;

/// Longest wait for a request's head: whoever sends slower holds a connection for nothing (slow loris).
const HEAD: Duration = Duration::from_secs(10);

/// Largest head of a request: a URL and some headers; hyper allows 100 of these.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Longest wait until a client takes more of its answer: whoever reads slower holds a provider's connection.
const TAKE: Duration = Duration::from_secs(60);

/// Time for running requests to end after the signal. Kubernetes kills after 30 s.
const DRAIN: Duration = Duration::from_secs(25);

/// How often the node ticks.
const TICK: Duration = Duration::from_secs(60);

/// Serves `node` on `listener` until `stop` resolves and the running requests have ended.
pub async fn serve<P: Platform>(node: Node<P>, listener: TcpListener, stop: impl Future<Output = ()>) {
    let ticking = spawn_local(tick(node.clone()));
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut running = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&listener, &places) => accepted,
        };
        // Ended connections are forgotten as new ones come.
        while running.try_join_next().is_some() {}
        let Some((stream, peer, place)) = accepted else { continue };
        let connection = connections.watch(connection(node.clone(), stream, peer));
        running.spawn_local(async move {
            // A broken connection is the client's affair.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    node.drain();
    ticking.abort();
    tokio::select! {
        () = connections.shutdown() => {}
        () = tokio::time::sleep(DRAIN) => eprintln!("outlive: requests that still run after {DRAIN:?} are cut off"),
    }
}

/// One connection and all its requests.
fn connection<P: Platform, S: AsyncRead + AsyncWrite + 'static>(
    node: Node<P>,
    stream: S,
    peer: SocketAddr,
) -> impl GracefulConnection<Error = hyper::Error> {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(TAKE));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            service_fn(move |request| answer(node.clone(), request, peer)),
        )
}

/// Runs `future` where [`serve`] can: the core on one thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(LocalSet::new().block_on(&runtime, future))
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Small writes must not wait for the acknowledgement of the last one.
            let _ = stream.set_nodelay(true);
            Some((stream, peer, place))
        }
        Err(error) => {
            // Out of file descriptors, most likely: others must end first.
            eprintln!("outlive: accept: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn answer<P: Platform>(
    node: Node<P>,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Result<Response<Body>, Infallible> {
    let arrival = Arrival { loopback: peer.ip().to_canonical().is_loopback(), log: None };
    Ok(node.handle(request, arrival).await)
}

async fn tick<P: Platform>(node: Node<P>) {
    let mut clock = tokio::time::interval(TICK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        if let Err(error) = node.tick().await {
            eprintln!("outlive: tick: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use outlive::{Config, testing::MemoryStore};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;
    use crate::platform::Machine;

    fn node() -> Node<Machine<MemoryStore>> {
        Node::new(Machine::new(MemoryStore::default()), Config::parse("", "test", |_| None).unwrap())
    }

    /// Sends `request` over a connection that holds 64 bytes, and says when the node gives it up, and what it said.
    async fn given_up(request: &str, reads: bool) -> (Duration, String) {
        let (mut client, server) = tokio::io::duplex(64);
        let start = Instant::now();
        let request = request.to_owned();
        let client = async move {
            // It may be refused before it is sent.
            let _ = client.write_all(request.as_bytes()).await;
            let mut said = Vec::new();
            if reads {
                client.read_to_end(&mut said).await.unwrap();
            } else {
                std::future::pending::<()>().await;
            }
            String::from_utf8(said).unwrap()
        };
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        LocalSet::new()
            .run_until(async {
                let client = spawn_local(client);
                let served = connection(node(), server, peer).await;
                assert!(reads || served.is_err());
                (start.elapsed(), if reads { client.await.unwrap() } else { String::new() })
            })
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_is_not_waited_for() {
        let ask = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n";
        assert_eq!(given_up(ask, false).await.0, TAKE, "an answer that nobody takes");
        assert_eq!(given_up("GET / HTTP/1.1\r\nhost:", true).await.0, HEAD, "half a head");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_is_too_large_is_refused() {
        let ask = |header: String| {
            format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{header}connection: close\r\n\r\n")
        };
        assert!(given_up(&ask(String::new()), true).await.1.starts_with("HTTP/1.1 200"));
        let large = format!("x: {}\r\n", "x".repeat(MAX_HEAD_BYTES));
        assert!(given_up(&ask(large), true).await.1.starts_with("HTTP/1.1 431"));
        let many: String = (0..101).map(|number| format!("x-{number}: x\r\n")).collect();
        assert!(given_up(&ask(many), true).await.1.starts_with("HTTP/1.1 431"));
    }
}
