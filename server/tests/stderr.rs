//! Checks that the node serves on when its standard error is a full pipe.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// More log lines than a pipe holds: Linux keeps 64 KiB, and a line has about 350 bytes.
const REQUESTS: usize = 320;

const THREADS: usize = 16;

struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_node_serves_on_when_nobody_reads_its_log() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("agent.toml");
    std::fs::write(&config, "").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlive"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log", "json", "--config"]).arg(&config);
    command.arg("--data").arg(data.path().join("data")).env_clear();
    let node = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut node = Node(node);
    let mut ready = String::new();
    BufReader::new(node.0.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let address = ready.trim().strip_prefix("ready http://").unwrap().to_owned();
    let body = r#"{"model":"default","messages":[{"role":"user","content":"hi"}]}"#;
    let threads = [(); THREADS].map(|()| {
        let address = address.clone();
        thread::spawn(move || {
            for _ in 0..REQUESTS / THREADS {
                let mut stream = TcpStream::connect(&address).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let length = body.len();
                let head = format!(
                    "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
                     content-length: {length}\r\n\r\n"
                );
                stream.write_all((head + body).as_bytes()).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
        })
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
