//! A process that copies bytes from one connection to another and back: what the machine takes for having anything at
//! all between a client and its provider.

use std::io::Result;

use tokio::net::{TcpListener, TcpStream};

/// Serves until standard input closes.
pub(crate) async fn serve(upstream: String) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("ready http://{}", listener.local_addr()?);
    crate::end_with_parent();
    loop {
        let (client, _) = listener.accept().await?;
        let upstream = upstream.clone();
        tokio::task::spawn_local(async move {
            // A client that goes away ends its own connection only.
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
