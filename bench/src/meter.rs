//! What DynamoDB takes for each call. It stands between the function and a DynamoDB Local.
//!
//! What reading takes, DynamoDB Local says when it is asked for the consumed capacity. What it says of transactions is not
//! what DynamoDB does (4 units for one small item), so that is computed from what is written.
//!
//! Source: <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html>.

use std::{cell::RefCell, collections::BTreeMap, io::Result, rc::Rc};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::wire::Wire;

/// What calls of one kind took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Taken {
    /// Calls.
    pub(crate) calls: u64,
    /// Capacity units, of reading or of writing as the call does.
    pub(crate) units: f64,
}

/// What was taken, by operation.
pub(crate) type Totals = BTreeMap<String, Taken>;

/// A meter that listens.
pub(crate) struct Meter {
    /// As `http://127.0.0.1:PORT`.
    pub(crate) endpoint: String,
    totals: Rc<RefCell<Totals>>,
    /// Ends with this.
    _serving: JoinSet<Result<()>>,
}

impl Meter {
    /// Stands before the DynamoDB Local at `endpoint`.
    pub(crate) async fn before(endpoint: &str) -> Result<Self> {
        let local = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let totals = Rc::<RefCell<Totals>>::default();
        let mut serving = JoinSet::new();
        serving.spawn_local(serve(listener, local, Rc::clone(&totals)));
        Ok(Self { endpoint, totals, _serving: serving })
    }

    /// What was taken since this was last asked.
    pub(crate) fn read(&self) -> Totals {
        self.totals.take()
    }
}

async fn serve(listener: TcpListener, local: String, totals: Rc<RefCell<Totals>>) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        connections.spawn_local(connection(stream, local.clone(), Rc::clone(&totals)));
    }
}

async fn connection(stream: TcpStream, local: String, totals: Rc<RefCell<Totals>>) -> Result<()> {
    let (mut client, mut dynamo) = (Wire::new(stream)?, Wire::new(TcpStream::connect(&local).await?)?);
    while let Some(head) = client.head().await? {
        let body = client.whole(&head).await?;
        let target = head.target.unwrap_or_default();
        let mut asked: Value = serde_json::from_slice(&body)?;
        if let Some(asked) = asked.as_object_mut().filter(|_| !target.ends_with("Table")) {
            asked.insert("ReturnConsumedCapacity".into(), "TOTAL".into());
        }
        let text = asked.to_string();
        // DynamoDB Local looks at the form of a signature only.
        let request = format!(
            "POST / HTTP/1.1\r\nhost: {local}\r\ncontent-type: application/x-amz-json-1.0\r\nx-amz-target: {target}\r\n\
             x-amz-date: 20260101T000000Z\r\nauthorization: AWS4-HMAC-SHA256 \
             Credential=local/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0\r\n\
             content-length: {}\r\n\r\n{text}",
            text.len()
        );
        dynamo.stream.write_all(request.as_bytes()).await?;
        let Some(head) = dynamo.head().await? else { return Ok(()) };
        let answer = dynamo.whole(&head).await?;
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        {
            let mut totals = totals.borrow_mut();
            let taken = totals.entry(operation).or_default();
            taken.calls += 1;
            taken.units += writing(&asked).unwrap_or_else(|| reading(&answer));
        }
        let first_line = head.first_line;
        let head = format!(
            "{first_line}\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        client.stream.write_all(&[head.as_bytes(), &answer].concat()).await?;
    }
    Ok(())
}

/// A transaction takes two units for each KiB of each item that has begun, any other write one. What is deleted here is
/// always smaller than that. `None` if nothing is written.
fn writing(asked: &Value) -> Option<f64> {
    if let Some(actions) = asked.get("TransactItems").and_then(Value::as_array) {
        return Some(actions.iter().map(|action| 2.0 * kib(action.pointer("/Put/Item"))).sum());
    }
    let writes = ["Item", "UpdateExpression"].iter().any(|field| asked.get(field).is_some());
    writes.then(|| kib(asked.get("Item")))
}

/// How many KiB of an item have begun.
fn kib(item: Option<&Value>) -> f64 {
    let attributes = item.and_then(Value::as_object).into_iter().flatten();
    let bytes: usize = attributes.map(|(name, value)| name.len() + size(value)).sum();
    bytes.div_ceil(1024).max(1) as f64
}

/// The size of a value in bytes: of text as it is, of bytes as what their base64 stands for, of a number half its digits.
fn size(value: &Value) -> usize {
    let text = |kind| value.get(kind).and_then(Value::as_str).map(str::len);
    match (text("S"), text("B"), text("N")) {
        (Some(text), _, _) => text,
        (_, Some(base64), _) => base64 / 4 * 3,
        (_, _, Some(digits)) => digits / 2 + 1,
        _ => 1,
    }
}

/// A call that finds nothing takes one unit too, which DynamoDB Local does not say.
fn reading(answer: &[u8]) -> f64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let said = answer.pointer("/ConsumedCapacity/CapacityUnits").and_then(Value::as_f64);
    said.unwrap_or_default().max(1.0)
}
