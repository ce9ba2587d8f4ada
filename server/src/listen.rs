//! Accepts connections, hands their requests to the node, ticks it every minute, and drains at shutdown. What a request
//! means is the core's; WebSockets continue in `socket.rs`.

use std::{cell::RefCell, convert::Infallible, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use futures_util::future::select_all;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use outlive::{Arrival, Node, body::Body, platform::Platform};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinSet, LocalSet, spawn_local},
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::io::InspectReader;

use crate::{
    log,
    socket::{self, ReadActivity},
};

/// Open connections; more wait in the kernel's queue. Each takes about 20 KB, a WebSocket more.
const MAX_CONNECTIONS: usize = 4096;

/// Longest wait for a request's head: a slower client would hold a connection for nothing (slow loris).
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest head of a request: a URL and some headers. hyper allows 100 headers.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Longest wait until a client reads more of its answer: a slower client would hold a provider's connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest wait for running requests after the signal to stop. Kubernetes kills a process after 30 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Interval of the node's scheduled work: every host ticks once a minute.
const TICK_INTERVAL: Duration = Duration::from_secs(60);

/// Serves `node` on `listeners` until `stop` resolves, then waits for the running requests, for 25 s at most.
pub async fn serve<P: Platform>(node: Node<P>, listeners: Vec<TcpListener>, stop: impl Future<Output = ()>) {
    let ticks = spawn_local(tick(node.clone()));
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (connections, shutdown) = (Rc::new(RefCell::new(JoinSet::new())), watch::Sender::new(()));
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            // The signal comes first, so that a full queue of new connections can't postpone the shutdown.
            biased;
            () = &mut stop => break,
            accepted = accept(&listeners, &permits) => accepted,
        };
        // A join set keeps the results of ended tasks until they are read.
        while connections.borrow_mut().try_join_next().is_some() {}
        let Some((stream, client_address, permit)) = accepted else { continue };
        let context = ConnectionContext {
            node: node.clone(),
            client_address,
            permit: Arc::new(permit),
            activity: ReadActivity::new(),
            connections: Rc::clone(&connections),
            shutdown: shutdown.subscribe(),
        };
        // Errors are ignored: a connection breaks when its client disconnects.
        connections.borrow_mut().spawn_local(async { drop(serve_connection(context, stream).await) });
    }
    // The listeners first, so that no request arrives at a node that shuts down.
    drop(listeners);
    node.drain();
    drop(shutdown);
    ticks.abort();
    let drained = async {
        // Checked again after each round, because a connection that becomes a WebSocket adds a task.
        while !connections.borrow().is_empty() {
            let mut connections = connections.take();
            while connections.join_next().await.is_some() {}
        }
    };
    tokio::select! {
        () = drained => {}
        () = tokio::time::sleep(DRAIN_TIMEOUT) => {
            log::say(format_args!("outlive: requests that still run after {DRAIN_TIMEOUT:?} are aborted"));
        }
    }
    // After the last request has settled its cost.
    node.return_grants().await;
}

/// What the requests of one connection share.
struct ConnectionContext<P> {
    node: Node<P>,
    client_address: SocketAddr,
    /// Counts the connection, and the WebSocket that it may become, against [`MAX_CONNECTIONS`].
    permit: Arc<OwnedSemaphorePermit>,
    activity: ReadActivity,
    /// All connections of the node, to which an upgrade adds its WebSocket.
    connections: Rc<RefCell<JoinSet<()>>>,
    /// Closed when the node shuts down; no value is ever sent.
    shutdown: watch::Receiver<()>,
}

/// Serves the requests of one connection until it is closed. At shutdown the running request is the last.
async fn serve_connection<P: Platform, S: AsyncRead + AsyncWrite + Send + 'static>(
    context: ConnectionContext<P>,
    stream: S,
) -> hyper::Result<()> {
    let mut shutdown = context.shutdown.clone();
    let activity = context.activity.clone();
    let mut stream = TimeoutWriter::new(InspectReader::new(stream, move |_| activity.record()));
    stream.set_timeout(Some(WRITE_TIMEOUT));
    let context = Rc::new(context);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            // Boxed, since hyper keeps the place of the future while an answer streams.
            service_fn(move |request| Box::pin(respond(Rc::clone(&context), request))),
        )
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        _ = shutdown.changed() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Runs `future` on this thread, with a runtime on which [`serve`] can spawn tasks that are not `Send`.
pub fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().on_thread_park(log::flush).build()?;
    let result = LocalSet::new().block_on(&runtime, future);
    log::flush();
    Ok(result)
}

/// Accepts the next connection as soon as a permit is free; `None` after an error, which may be temporary.
async fn accept(
    listeners: &[TcpListener],
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // Before `accept`: a connection without a permit stays in the kernel's queue, where it costs the node nothing.
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    let (accepted, ..) = select_all(listeners.iter().map(|listener| Box::pin(listener.accept()))).await;
    match accepted {
        Ok((stream, client_address)) => {
            // With Nagle's algorithm, a small event would wait for the acknowledgement of the one before.
            let _ = stream.set_nodelay(true);
            Some((stream, client_address, permit))
        }
        Err(error) => {
            // Most likely the process has no file descriptors left. Without the pause the loop would spin.
            log::say(format_args!("outlive: accept: {error}"));
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// Answers one request, or upgrades its connection to a WebSocket.
async fn respond<P: Platform>(
    context: Rc<ConnectionContext<P>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let arrival = Arrival { loopback: context.client_address.ip().to_canonical().is_loopback(), log: None };
    let (head, body) = request.into_parts();
    let (response, web_socket) = match context.node.socket(&head, arrival) {
        None => return Ok(context.node.handle(Request::from_parts(head, body), arrival).await),
        Some(Err(refusal)) => return Ok(refusal),
        Some(Ok(socket)) => socket::upgrade(&context.node, socket, head, arrival),
    };
    if let Some(web_socket) = web_socket {
        // A task of its own, because the connection only becomes a WebSocket once hyper has sent this response.
        let (mut shutdown, permit) = (context.shutdown.clone(), Arc::clone(&context.permit));
        let activity = context.activity.clone();
        context.connections.borrow_mut().spawn_local(async move {
            web_socket.run(&activity, async { drop(shutdown.changed().await) }).await;
            drop(permit);
        });
    }
    Ok(response)
}

async fn tick<P: Platform>(node: Node<P>) {
    let mut interval = tokio::time::interval(TICK_INTERVAL);
    // One tick does the work of all that were missed, for instance while the machine slept.
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if let Err(error) = node.tick().await {
            log::say(format_args!("outlive: tick: {error}"));
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
    use crate::socket::{CLOSE_TIMEOUT, IDLE_TIMEOUT};

    fn node() -> Node<Machine<MemoryStore>> {
        Node::new(Machine::new(MemoryStore::default()), Config::parse("", "test", |_| None).unwrap())
    }

    /// The context of a connection to a node that shuts down when `shutdown` is closed.
    async fn context(shutdown: watch::Receiver<()>) -> ConnectionContext<Machine<MemoryStore>> {
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let client_address = SocketAddr::from(([127, 0, 0, 1], 1));
        let (permit, activity) = (Arc::new(permit), ReadActivity::new());
        ConnectionContext {
            node: node(),
            client_address,
            permit,
            activity,
            connections: Rc::default(),
            shutdown,
        }
    }

    /// Sends `request` and returns how long the node takes to close the connection, and what it sends to a client that
    /// `reads`.
    async fn until_closed(request: impl AsRef<[u8]>, reads: bool) -> (Duration, String) {
        // 64 bytes are less than the head of a response, so a client that does not read blocks the node's first write.
        let (mut client, server) = tokio::io::duplex(if reads { 1024 } else { 64 });
        let start = Instant::now();
        let request = request.as_ref().to_vec();
        let client = async move {
            // The node may close the connection before it has read the whole request.
            let _ = client.write_all(&request).await;
            let mut received = Vec::new();
            if reads {
                client.read_to_end(&mut received).await.unwrap();
            } else {
                std::future::pending::<()>().await;
            }
            String::from_utf8_lossy(&received).into_owned()
        };
        LocalSet::new()
            .run_until(async {
                let client = spawn_local(client);
                let (_keep_running, shutdown) = watch::channel(());
                let context = context(shutdown).await;
                // Held until the client has read everything: it owns the task of an upgraded connection.
                let _connections = Rc::clone(&context.connections);
                let served = serve_connection(context, server).await;
                assert!(reads || served.is_err());
                (start.elapsed(), if reads { client.await.unwrap() } else { String::new() })
            })
            .await
    }

    const UPGRADE: &str = "GET /v1/responses HTTP/1.1\r\nhost: localhost\r\n\
                           connection: upgrade\r\nupgrade: websocket\r\n\
                           sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_disconnected() {
        let start = Instant::now();
        let received = until_closed(UPGRADE, true).await.1;
        assert!(received.starts_with("HTTP/1.1 101"), "{received}");
        assert_eq!(start.elapsed(), IDLE_TIMEOUT, "the client answered no ping");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_too_many_pings_is_disconnected() {
        const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];
        for (pings, expected) in [(100, IDLE_TIMEOUT), (101, CLOSE_TIMEOUT)] {
            let start = Instant::now();
            until_closed([UPGRADE.as_bytes(), &PING.repeat(pings)].concat(), true).await;
            assert_eq!(start.elapsed(), expected, "{pings} pings");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_is_announced_on_a_web_socket() {
        let (mut client, server) = tokio::io::duplex(64);
        LocalSet::new()
            .run_until(async {
                let (keep_running, shutdown) = watch::channel(());
                let context = context(shutdown).await;
                let connections = Rc::clone(&context.connections);
                let served = spawn_local(serve_connection(context, server));
                client.write_all(UPGRADE.as_bytes()).await.unwrap();
                let mut received = vec![0; 12];
                client.read_exact(&mut received).await.unwrap();
                assert_eq!(received, b"HTTP/1.1 101");
                let rest = spawn_local(async move {
                    client.read_to_end(&mut received).await.unwrap();
                    received
                });
                served.await.unwrap().unwrap();
                drop(keep_running);
                let received = rest.await.unwrap();
                let last = String::from_utf8_lossy(&received);
                assert!(last.contains("websocket_connection_limit_reached"), "{last}");
                assert!(last.ends_with("this node is about to stop"), "{last}");
                connections.take().join_all().await;
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_disconnected() {
        let request = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n";
        assert_eq!(
            until_closed(request, false).await.0,
            WRITE_TIMEOUT,
            "an answer that the client does not read"
        );
        assert_eq!(until_closed("GET / HTTP/1.1\r\nhost:", true).await.0, HEAD_TIMEOUT, "half a head");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_is_too_large_is_refused() {
        let request = |header: String| {
            format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{header}connection: close\r\n\r\n")
        };
        assert!(until_closed(request(String::new()), true).await.1.starts_with("HTTP/1.1 200"));
        let large = format!("x: {}\r\n", "x".repeat(MAX_HEAD_BYTES));
        assert!(until_closed(request(large), true).await.1.starts_with("HTTP/1.1 431"));
        let many: String = (0..101).map(|number| format!("x-{number}: x\r\n")).collect();
        assert!(until_closed(request(many), true).await.1.starts_with("HTTP/1.1 431"));
    }
}
