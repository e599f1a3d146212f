//! As much of RESP2 as it takes to ask a Redis how it is.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::Fallible;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Nil,
    Integer(i64),
    Text(String),
    Error(String),
    List(Vec<Value>),
}

impl Value {
    pub fn text(&self) -> &str {
        match self {
            Value::Text(text) | Value::Error(text) => text,
            _ => "",
        }
    }
}

/// A connection for one question after another.
pub struct Resp {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

const LIMIT: Duration = Duration::from_secs(3);

impl Resp {
    pub async fn connect(address: SocketAddr) -> Fallible<Resp> {
        let stream = tokio::time::timeout(LIMIT, TcpStream::connect(address)).await;
        let stream = stream.map_err(|_| format!("{address}: no connection"))?.map_err(|e| format!("{address}: {e}"))?;
        let (reader, writer) = stream.into_split();
        Ok(Resp { reader: BufReader::new(reader), writer })
    }

    /// An error of the server is a [`Value::Error`]; `Err` means that it cannot be spoken to.
    pub async fn ask(&mut self, words: &[&str]) -> Fallible<Value> {
        let mut out = format!("*{}\r\n", words.len());
        for word in words {
            out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        let work = async {
            self.writer.write_all(out.as_bytes()).await.map_err(|error| error.to_string())?;
            read(&mut self.reader).await
        };
        tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| Err(format!("no answer to {}", words.join(" "))))
    }
}

/// One question on a connection of its own.
pub async fn ask(address: SocketAddr, words: &[&str]) -> Fallible<Value> {
    Resp::connect(address).await?.ask(words).await
}

async fn read(reader: &mut BufReader<OwnedReadHalf>) -> Fallible<Value> {
    let mut line = String::new();
    let length = reader.read_line(&mut line).await.map_err(|error| error.to_string())?;
    let line = line.trim_end();
    if length == 0 || line.is_empty() {
        return Err("the connection ended".into());
    }
    let (kind, rest) = line.split_at(1);
    let number = || rest.parse::<i64>().map_err(|_| format!("no RESP: {line:?}"));
    Ok(match kind {
        "+" => Value::Text(rest.to_owned()),
        "-" => Value::Error(rest.to_owned()),
        ":" => Value::Integer(number()?),
        "$" => match usize::try_from(number()?) {
            Err(_) => Value::Nil,
            Ok(length) => {
                let mut bytes = vec![0; length + 2];
                reader.read_exact(&mut bytes).await.map_err(|error| error.to_string())?;
                bytes.truncate(length);
                Value::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
        },
        "*" => match usize::try_from(number()?) {
            Err(_) => Value::Nil,
            Ok(length) => {
                let mut list = Vec::with_capacity(length.min(1024));
                for _ in 0..length {
                    list.push(Box::pin(read(reader)).await?);
                }
                Value::List(list)
            }
        },
        _ => return Err(format!("no RESP: {line:?}")),
    })
}
