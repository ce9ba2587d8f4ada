//! Resolves the address of `--listen` and binds it. Accepts no connection; `listen.rs` does.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
};

use tokio::net::TcpListener;

/// The sockets of a node.
pub struct Bound {
    /// One for each address that could be bound, IPv4 first.
    pub listeners: Vec<TcpListener>,
    /// Why the other addresses of the same host could not be bound, as lines of text.
    pub failures: Vec<String>,
}

/// The addresses of `listen`, which is `HOST:PORT`, IPv4 first. The error says what is allowed.
pub fn resolve(listen: &str) -> Result<Vec<SocketAddr>, String> {
    const ALLOWED: &str =
        "allowed: HOST:PORT, such as 127.0.0.1:8080 or localhost:8080; port 0 takes a free one";
    let (_, port) =
        listen.rsplit_once(':').ok_or_else(|| format!("--listen {listen}: no port; {ALLOWED}"))?;
    if port.parse::<u16>().is_err() {
        return Err(format!("--listen {listen}: {port:?} is not a port; {ALLOWED}"));
    }
    let found = listen.to_socket_addrs();
    let found = found.map_err(|_| format!("--listen {listen}: this host has no address here; {ALLOWED}"))?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.dedup();
    Ok(addresses)
}

/// Binds each of `addresses`, which are those of one host, with one port. It is enough if one of them can be bound.
pub async fn bind(addresses: &[SocketAddr]) -> Result<Bound, String> {
    let mut bound = Bound { listeners: Vec::new(), failures: Vec::new() };
    let mut chosen_port = None;
    for address in addresses {
        let mut address = *address;
        // A free port that the system chose for the first address is that of the others, too.
        if let Some(port) = chosen_port.filter(|_| address.port() == 0) {
            address.set_port(port);
        }
        match TcpListener::bind(address).await {
            Ok(listener) => {
                chosen_port = listener.local_addr().ok().map(|address| address.port());
                bound.listeners.push(listener);
            }
            Err(error) => bound.failures.push(failure(address, &error)),
        }
    }
    if bound.listeners.is_empty() { Err(bound.failures.join("\n")) } else { Ok(bound) }
}

/// The base URL at which a client on this machine reaches `address`.
pub fn local_url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

fn failure(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    let advice = match error.kind() {
        ErrorKind::AddrInUse => format!(
            "another program, perhaps another node, listens on this port; stop it, or choose another port, such as \
             --listen {}",
            SocketAddr::new(address.ip(), port.checked_add(1).unwrap_or_default())
        ),
        ErrorKind::AddrNotAvailable => format!(
            "this machine does not have this address; allowed: one of its own, such as 127.0.0.1:{port}, or \
             0.0.0.0:{port} for all of them"
        ),
        ErrorKind::PermissionDenied => {
            format!("only root may use port {port}; allowed: a port from 1024, such as {}:8080", address.ip())
        }
        _ => error.to_string(),
    };
    format!("--listen {address}: {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_stands_for_all_of_its_addresses() {
        let addresses = resolve("localhost:8080").unwrap();
        assert_eq!(addresses[0], SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 8080));
        for wrong in ["localhost", "8080", "localhost:http", "127.0.0.1:70000", "no-such-host.invalid:1"] {
            let error = resolve(wrong).unwrap_err();
            assert!(error.contains("allowed: HOST:PORT"), "{error}");
        }
    }

    #[tokio::test]
    async fn one_address_that_can_be_bound_is_enough() {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (taken, free) = (other.local_addr().unwrap(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let bound = bind(&[taken, free]).await.unwrap();
        assert_eq!(bound.listeners.len(), 1);
        assert!(bound.failures[0].contains("choose another port"), "{:?}", bound.failures);
        assert!(bind(&[taken]).await.is_err());
    }

    #[test]
    fn the_url_is_one_that_this_machine_reaches() {
        assert_eq!(local_url(SocketAddr::from(([0, 0, 0, 0], 80))), "http://127.0.0.1:80");
        assert_eq!(local_url("[::]:80".parse().unwrap()), "http://[::1]:80");
    }
}
