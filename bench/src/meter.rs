//! Forwards calls between the function and a DynamoDB Local, and adds up the capacity units that DynamoDB would bill.
//! Changes nothing in a call but its signature and `ReturnConsumedCapacity`.
//!
//! The units of a read are those that DynamoDB Local reports. The units of a write are computed from the items, since
//! DynamoDB Local bills transactions by rules of its own (4 units for one small item).
//!
//! Source: <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html>.

use std::{cell::RefCell, collections::BTreeMap, io::Result, rc::Rc};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::connection::Connection;

/// Calls of one operation, and the capacity that they consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Consumption {
    /// Number of calls.
    pub(crate) calls: u64,
    /// Read units or write units, by the operation.
    pub(crate) units: f64,
}

/// Consumption by operation.
pub(crate) type Totals = BTreeMap<String, Consumption>;

/// A running meter.
pub(crate) struct Meter {
    /// Its own endpoint, as `http://127.0.0.1:PORT`.
    pub(crate) endpoint: String,
    totals: Rc<RefCell<Totals>>,
    /// Serves the endpoint; dropping it stops the server.
    _serving: JoinSet<Result<()>>,
}

impl Meter {
    /// Starts a meter in front of the DynamoDB Local at `endpoint`.
    pub(crate) async fn start(endpoint: &str) -> Result<Self> {
        let local = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let totals = Rc::<RefCell<Totals>>::default();
        let mut serving = JoinSet::new();
        serving.spawn_local(serve(listener, local, Rc::clone(&totals)));
        Ok(Self { endpoint, totals, _serving: serving })
    }

    /// Returns the totals since the last call, and resets them.
    pub(crate) fn take_totals(&self) -> Totals {
        self.totals.take()
    }
}

async fn serve(listener: TcpListener, local: String, totals: Rc<RefCell<Totals>>) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        connections.spawn_local(handle_connection(stream, local.clone(), Rc::clone(&totals)));
    }
}

async fn handle_connection(stream: TcpStream, local: String, totals: Rc<RefCell<Totals>>) -> Result<()> {
    let (mut client, mut dynamo) =
        (Connection::new(stream)?, Connection::new(TcpStream::connect(&local).await?)?);
    while let Some(head) = client.read_head().await? {
        let body = client.read_body(&head).await?;
        let target = head.aws_target.unwrap_or_default();
        let mut input: Value = serde_json::from_slice(&body)?;
        // Operations on tables have no such field.
        if let Some(fields) = input.as_object_mut().filter(|_| !target.ends_with("Table")) {
            fields.insert("ReturnConsumedCapacity".into(), "TOTAL".into());
        }
        let text = input.to_string();
        // The body has changed, so the function's signature is void; DynamoDB Local checks only a signature's form.
        let request = format!(
            "POST / HTTP/1.1\r\nhost: {local}\r\ncontent-type: application/x-amz-json-1.0\r\nx-amz-target: {target}\r\n\
             x-amz-date: 20260101T000000Z\r\nauthorization: AWS4-HMAC-SHA256 \
             Credential=local/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0\r\n\
             content-length: {}\r\n\r\n{text}",
            text.len()
        );
        dynamo.stream.write_all(request.as_bytes()).await?;
        let Some(head) = dynamo.read_head().await? else { return Ok(()) };
        let output = dynamo.read_body(&head).await?;
        // The call is counted before the function sees its result, so that no read of the totals misses it.
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        {
            let mut totals = totals.borrow_mut();
            let consumption = totals.entry(operation).or_default();
            consumption.calls += 1;
            consumption.units += write_units(&input).unwrap_or_else(|| read_units(&output));
        }
        let first_line = head.first_line;
        let head = format!(
            "{first_line}\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n",
            output.len()
        );
        client.stream.write_all(&[head.as_bytes(), &output].concat()).await?;
    }
    Ok(())
}

/// Write units of an operation, by the size of its items rounded up to whole KiB: two for each KiB in a transaction,
/// else one. A delete counts as one KiB: the store deletes only smaller items. `None` if the operation does not
/// write.
fn write_units(input: &Value) -> Option<f64> {
    if let Some(actions) = input.get("TransactItems").and_then(Value::as_array) {
        return Some(actions.iter().map(|action| 2.0 * kib(action.pointer("/Put/Item"))).sum());
    }
    let writes = ["Item", "UpdateExpression"].iter().any(|field| input.get(field).is_some());
    writes.then(|| kib(input.get("Item")))
}

/// The size of an item in KiB, rounded up; at least one.
fn kib(item: Option<&Value>) -> f64 {
    let attributes = item.and_then(Value::as_object).into_iter().flatten();
    let bytes: usize = attributes.map(|(name, value)| name.len() + size(value)).sum();
    bytes.div_ceil(1024).max(1) as f64
}

/// The size of an attribute's value in bytes: a text's own, bytes after decoding base64, a number at two digits per
/// byte.
fn size(value: &Value) -> usize {
    let text = |kind| value.get(kind).and_then(Value::as_str).map(str::len);
    match (text("S"), text("B"), text("N")) {
        (Some(text), _, _) => text,
        (_, Some(base64), _) => base64 / 4 * 3,
        (_, _, Some(digits)) => digits / 2 + 1,
        _ => 1,
    }
}

/// Read units as DynamoDB Local reports them, but at least one: a read that finds nothing is billed one, and DynamoDB
/// Local reports none.
fn read_units(output: &[u8]) -> f64 {
    let output: Value = serde_json::from_slice(output).unwrap_or_default();
    let units = output.pointer("/ConsumedCapacity/CapacityUnits").and_then(Value::as_f64);
    units.unwrap_or_default().max(1.0)
}
