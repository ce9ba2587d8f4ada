//! Copies bytes between a client and the upstream: the cost of any process in between, before it does work. Parses
//! nothing.

use std::io::Result;

use tokio::net::{TcpListener, TcpStream};

/// Serves until standard input closes.
pub(crate) async fn serve(upstream: String) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("ready http://{}", listener.local_addr()?);
    crate::exit_with_parent();
    loop {
        let (client, _) = listener.accept().await?;
        let upstream = upstream.clone();
        tokio::task::spawn_local(async move {
            // An error ends this connection only: the client has disconnected.
            let _ = copy(client, &upstream).await;
        });
    }
}

async fn copy(mut client: TcpStream, upstream: &str) -> Result<()> {
    let mut provider = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    provider.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut provider).await.map(drop)
}
