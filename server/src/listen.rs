//! Takes connections in, and lets them end.

use std::{cell::RefCell, convert::Infallible, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use outlive::{Node, body::Body, node::Arrival, platform::Platform};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinSet, LocalSet, spawn_local},
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::io::InspectReader;

use crate::socket::{self, Pulse};

/// Connections at once; more wait in the kernel's queue. Each costs about 20 KB while it is open, a WebSocket more.
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
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (running, stopping) = (Rc::new(RefCell::new(JoinSet::new())), watch::Sender::new(()));
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&listener, &places) => accepted,
        };
        // Ended connections are forgotten as new ones come.
        while running.borrow_mut().try_join_next().is_some() {}
        let Some((stream, peer, place)) = accepted else { continue };
        let host = Host {
            node: node.clone(),
            peer,
            place: Arc::new(place),
            pulse: Pulse::new(),
            running: Rc::clone(&running),
            stopping: stopping.subscribe(),
        };
        // A broken connection is the client's affair.
        running.borrow_mut().spawn_local(async { drop(connection(host, stream).await) });
    }
    drop(listener);
    node.drain();
    drop(stopping);
    ticking.abort();
    let ended = async {
        // Until it has ended, a connection may become a WebSocket, which is another task.
        while !running.borrow().is_empty() {
            let mut running = running.take();
            while running.join_next().await.is_some() {}
        }
    };
    tokio::select! {
        () = ended => {}
        () = tokio::time::sleep(DRAIN) => eprintln!("outlive: requests that still run after {DRAIN:?} are cut off"),
    }
}

/// What a connection knows of where it is.
struct Host<P> {
    node: Node<P>,
    peer: SocketAddr,
    /// Held by the connection, and by the WebSocket that it becomes.
    place: Arc<OwnedSemaphorePermit>,
    pulse: Pulse,
    running: Rc<RefCell<JoinSet<()>>>,
    /// Closed when the node is about to stop.
    stopping: watch::Receiver<()>,
}

/// One connection and all its requests, or all that are running when the node is about to stop.
async fn connection<P: Platform, S: AsyncRead + AsyncWrite + Send + 'static>(
    host: Host<P>,
    stream: S,
) -> hyper::Result<()> {
    let mut stopping = host.stopping.clone();
    let pulse = host.pulse.clone();
    let mut stream = TimeoutWriter::new(InspectReader::new(stream, move |_| pulse.beat()));
    stream.set_timeout(Some(TAKE));
    let host = Rc::new(host);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            service_fn(move |request| answer(Rc::clone(&host), request)),
        )
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        // Nothing is ever sent: it is closed.
        _ = stopping.changed() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
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
    host: Rc<Host<P>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let arrival = Arrival { loopback: host.peer.ip().to_canonical().is_loopback(), log: None };
    let (head, body) = request.into_parts();
    let (answer, upgraded) = match host.node.socket(&head, arrival) {
        None => return Ok(host.node.handle(Request::from_parts(head, body), arrival).await),
        Some(Err(refusal)) => return Ok(refusal),
        Some(Ok(opened)) => socket::upgrade(&host.node, opened, head, arrival),
    };
    if let Some(upgraded) = upgraded {
        let (mut stopping, place) = (host.stopping.clone(), Arc::clone(&host.place));
        let pulse = host.pulse.clone();
        host.running.borrow_mut().spawn_local(async move {
            upgraded.talk(&pulse, async { drop(stopping.changed().await) }).await;
            drop(place);
        });
    }
    Ok(answer)
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
    use outlive_machine::Machine;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;
    use crate::socket::{GOODBYE, SILENCE};

    fn node() -> Node<Machine<MemoryStore>> {
        Node::new(Machine::new(MemoryStore::default()), Config::parse("", "test", |_| None).unwrap())
    }

    /// A host whose node stops when `stopping` is closed.
    async fn host(stopping: watch::Receiver<()>) -> Host<Machine<MemoryStore>> {
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let (place, pulse) = (Arc::new(place), Pulse::new());
        Host { node: node(), peer, place, pulse, running: Rc::default(), stopping }
    }

    /// Sends `request` over a connection that holds little, and says when the node gives it up, and what it said.
    async fn given_up(request: impl AsRef<[u8]>, reads: bool) -> (Duration, String) {
        // Less than an answer's head, and more than that of a WebSocket.
        let (mut client, server) = tokio::io::duplex(if reads { 1024 } else { 64 });
        let start = Instant::now();
        let request = request.as_ref().to_vec();
        let client = async move {
            // It may be refused before it is sent.
            let _ = client.write_all(&request).await;
            let mut said = Vec::new();
            if reads {
                client.read_to_end(&mut said).await.unwrap();
            } else {
                std::future::pending::<()>().await;
            }
            String::from_utf8_lossy(&said).into_owned()
        };
        LocalSet::new()
            .run_until(async {
                let client = spawn_local(client);
                let (_open, stopping) = watch::channel(());
                let host = host(stopping).await;
                let _running = Rc::clone(&host.running);
                let served = connection(host, server).await;
                assert!(reads || served.is_err());
                (start.elapsed(), if reads { client.await.unwrap() } else { String::new() })
            })
            .await
    }

    const SOCKET: &str = "GET /v1/responses HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                          sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn who_gives_no_sign_of_life_is_taken_for_gone() {
        let start = Instant::now();
        let said = given_up(SOCKET, true).await.1;
        assert!(said.starts_with("HTTP/1.1 101"), "{said}");
        assert_eq!(start.elapsed(), SILENCE, "it was asked before, and did not answer");
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_pings_is_given_up() {
        const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];
        for (pings, expected) in [(100, SILENCE), (101, GOODBYE)] {
            let start = Instant::now();
            given_up([SOCKET.as_bytes(), &PING.repeat(pings)].concat(), true).await;
            assert_eq!(start.elapsed(), expected, "{pings} pings");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stops_says_so() {
        let (mut client, server) = tokio::io::duplex(64);
        LocalSet::new()
            .run_until(async {
                let (open, stopping) = watch::channel(());
                let host = host(stopping).await;
                let running = Rc::clone(&host.running);
                let served = spawn_local(connection(host, server));
                client.write_all(SOCKET.as_bytes()).await.unwrap();
                let mut said = vec![0; 12];
                client.read_exact(&mut said).await.unwrap();
                assert_eq!(said, b"HTTP/1.1 101");
                let rest = spawn_local(async move {
                    client.read_to_end(&mut said).await.unwrap();
                    said
                });
                served.await.unwrap().unwrap();
                drop(open);
                let said = rest.await.unwrap();
                let last = String::from_utf8_lossy(&said);
                assert!(last.contains("websocket_connection_limit_reached"), "{last}");
                assert!(last.ends_with("this node is about to stop"), "{last}");
                running.take().join_all().await;
            })
            .await;
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
        assert!(given_up(ask(String::new()), true).await.1.starts_with("HTTP/1.1 200"));
        let large = format!("x: {}\r\n", "x".repeat(MAX_HEAD_BYTES));
        assert!(given_up(ask(large), true).await.1.starts_with("HTTP/1.1 431"));
        let many: String = (0..101).map(|number| format!("x-{number}: x\r\n")).collect();
        assert!(given_up(ask(many), true).await.1.starts_with("HTTP/1.1 431"));
    }
}
