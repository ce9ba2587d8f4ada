//! Takes connections in, and lets them end.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use outlive::{Node, body::Body, node::Arrival, platform::Platform};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinSet, LocalSet, spawn_local},
};

/// Connections at once; more wait in the kernel's queue. Each costs about 20 KB while it is open.
const MAX_CONNECTIONS: usize = 4096;

/// Longest wait for a request's head: whoever sends slower holds a connection for nothing (slow loris).
const HEAD: Duration = Duration::from_secs(10);

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
        let node = node.clone();
        let service = service_fn(move |request| answer(node.clone(), request, peer));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
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
